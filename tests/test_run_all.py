"""run_all.py on tiny notebooks: what is executed, what is left behind, what is refused beforehand."""

import base64
import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import bpfree.evidence.answers
import run_all
from bpfree import data
from bpfree.errors import disk
from bpfree.evidence import gallery
from bpfree.evidence.book import find_chapters
from bpfree.evidence.pages import Pages

ROOT = Path(run_all.__file__).parent
PNG = base64.b64encode(b"\x89PNG not really").decode()
PARAMETERS = 'profile: str = "quick"  # quick, laptop or paper\nseeds: list = []  # empty: the profile\'s own'
FIGURE = f'from IPython.display import display\ndisplay({{"image/png": "{PNG}"}}, raw=True)'
LOG = 'import os\nwith open(os.environ["BATCH_LOG"], "a") as log:\n    _ = log.write({!r})'
REPORT = """import json, os, sys
report = {"profile": profile, "seeds": seeds, "scale": scale, "python": sys.executable}
report |= {"cwd": os.getcwd(), "tqdm": os.environ["TQDM_DISABLE"], "backend": os.environ["MPLBACKEND"]}
print(json.dumps(report))"""


def write(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A chapter; a cell that begins with # and a space is Markdown."""
    title = f"# {name}\n\nDoes **{name}** run?\n\nMore of it."
    nb = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "x"}, "language_info": {"name": "python"}}
    )
    nb.cells = [new_markdown_cell(title), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    nb.cells += [new_markdown_cell(c) if c.startswith("# ") else new_code_cell(c) for c in cells]
    path = folder / f"{name}.ipynb"
    nbformat.write(nb, path)
    return path


def run(*argv, notebooks: Path) -> SimpleNamespace:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_all.main([str(a) for a in argv], notebooks)
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def read(path: Path):
    return nbformat.read(path, as_version=4)


def printed(notebook) -> str:
    return "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream")


# ---------------------------------------------------------------- a batch in which two chapters fail


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Four chapters; a kernelspec of the user's, which does not work, is in the way."""
    tmp = tmp_path_factory.mktemp("batch")
    folder = tmp / "chapters"
    folder.mkdir()
    scale = PARAMETERS + "\nscale: float = 1.0"
    write(
        folder, "00_good", LOG.format("0"), REPORT, FIGURE, FIGURE, "print('this machine')", parameters=scale
    )
    write(
        folder,
        "01_raises",
        LOG.format("1"),
        "# ## Where it breaks",
        "print(1)\nraise ValueError('long\\nstory')",
        "print('beyond')",
    )
    write(folder, "02_dies", LOG.format("2"), "os._exit(1)")
    write(folder, "03_plain", LOG.format("3"), parameters="depth: int = 2")
    spec = tmp / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps({"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp / "jupyter"))
        patch.setenv("BATCH_LOG", str(tmp / "log"))
        patch.setenv("MPLBACKEND", "agg")
        argv = ("--seeds", 0, 2, 2, "-p", "scale", "1e-3", "--output", tmp / "out")
        result = run(*argv, notebooks=folder)
    return SimpleNamespace(**vars(result), tmp=tmp, folder=folder, results=tmp / "out/quick")


def test_chapters_run_in_order(batch):
    assert (batch.tmp / "log").read_text() == "0123"
    assert [line.split(",")[0] for line in batch.out.splitlines()[:4]] == [
        "00_good: ok",
        "01_raises: failed",
        "02_dies: failed",
        "03_plain: ok",
    ]


def test_parameters_and_environment_reach_the_kernel(batch):
    lines = printed(read(batch.results / "notebooks/00_good.ipynb")).splitlines()
    report = json.loads(lines[0])
    assert report.pop("backend").startswith("module://")  # figures appear in the page
    assert report == {
        "profile": "quick",
        "seeds": [0, 2],
        "scale": 0.001,
        "python": sys.executable,
        "cwd": str(ROOT),
        "tqdm": "1",
    }


def test_chapter_without_the_common_parameters_runs_unchanged(batch):
    cells = read(batch.results / "notebooks/03_plain.ipynb").cells
    assert "injected-parameters" not in [tag for cell in cells for tag in cell.metadata.tags]


def test_failure_is_named_and_the_rest_is_kept(batch):
    assert batch.status == 1
    raises, dies, both = batch.err.splitlines()
    assert raises == "run_all.py: 01_raises failed in cell [4] `print(1)`: ValueError: story"
    assert dies.startswith("run_all.py: 02_dies failed in cell [4] `os._exit(1)`: ")
    assert "died" in dies
    assert both == "run_all.py: failed: 01_raises, 02_dies; their pages show where"
    assert printed(read(batch.results / "notebooks/01_raises.ipynb")) == "1\n"
    assert "Where it breaks" in (batch.results / "01_raises.html").read_text(encoding="utf-8")


def test_figures_are_extracted(batch):
    figures = sorted((batch.results / "figures").iterdir())
    assert [f.name for f in figures] == ["00_good_1.png", "00_good_2.png"]
    assert figures[0].read_bytes() == base64.b64decode(PNG)


def test_index_has_what_a_reader_looks_for(batch):
    index = (batch.results / "index.html").read_text(encoding="utf-8")
    good, raises, dies, plain = index.split("<article")[1:]
    assert "2 of 4 chapters" in index
    assert "this machine" in index
    assert 'href="00_good.html"' in good
    assert "Does <strong>00_good</strong> run?" in good
    assert "More of it" not in good
    assert 'src="figures/00_good_1.png"' in good
    assert "ValueError: story" in raises
    assert [">ok<" in a for a in (good, raises, dies, plain)] == [True, False, False, True]
    assert [">failed<" in a for a in (good, raises, dies, plain)] == [False, True, True, False]
    assert batch.out.splitlines()[-2] == f"index: {batch.results / 'index.html'}"


def test_a_failed_chapter_says_so_on_its_page_and_hides_no_other(batch):
    pages = {
        name: (batch.results / f"{name}.html").read_text(encoding="utf-8")
        for name in ("00_good", "01_raises", "02_dies", "03_plain")
    }
    failed = {name: "This chapter failed" in page for name, page in pages.items()}
    assert failed == {"00_good": False, "01_raises": True, "02_dies": True, "03_plain": False}
    assert "cell [4] `print(1)`: ValueError: story" in pages["01_raises"]
    assert "cell [4] `os._exit(1)`: " in pages["02_dies"]
    assert PNG in pages["00_good"]


def test_only_leaves_the_other_entries(batch, monkeypatch):
    monkeypatch.setenv("BATCH_LOG", os.devnull)
    (batch.folder / "01_raises.ipynb").rename(batch.tmp / "kept")
    write(batch.folder, "01_raises", "print('mended')")
    try:
        result = run("--only", "1", "--output", batch.tmp / "out", notebooks=batch.folder)
    finally:
        (batch.tmp / "kept").rename(batch.folder / "01_raises.ipynb")
    good, raises, dies, plain = (
        (batch.results / "index.html").read_text(encoding="utf-8").split("<article")[1:]
    )
    assert result.status == 0
    assert ">ok<" in raises
    assert ">failed<" in dies
    assert "figures/00_good_1.png" in good
    assert ">ok<" in plain


def test_debug_shows_where_a_chapter_failed(tmp_path):
    write(tmp_path, "00_raises", "1 / 0")
    write(tmp_path, "01_not_asked_for", "print(1)")
    result = run("--only", "0", "--output", tmp_path, "--debug", notebooks=tmp_path)
    assert result.status == 1
    assert "Traceback" in result.err
    assert "01_not" not in result.out
    assert ">not run<" in (tmp_path / "quick/index.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- what else is in the output folder


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "null", "3", '"00_a"', "{", "\0\0", "[" * 100_000, '{"00_a": null, "01_b": []}'),
        '{"01_b": {"status": "ok", "seconds": "long", "error": "", "when": "", "figure": "", "machine": ""}}',
        '{"01_b": {"status": ["ok"]}}',
    ],
)
def test_an_index_that_is_none_is_begun_anew(content, tmp_path):
    for name in ("00_a", "01_b"):
        write(tmp_path, name, "print(1)")
    chapters = find_chapters(tmp_path)
    pages = Pages(tmp_path / "out", "quick", chapters)
    (tmp_path / "out/index.json").write_text(content)
    (tmp_path / "out/01_b.html").touch()  # or the index would not show its entry
    pages.begin(chapters[0])
    pages.end(chapters[0], None, "failed", 1.0, "why")
    assert list(json.loads((tmp_path / "out/index.json").read_text())) == ["00_a"]
    assert ">not run<" in pages.index.read_text(encoding="utf-8")


def test_entries_that_are_whole_stay(tmp_path):
    for name in ("00_a", "01_b"):
        write(tmp_path, name, "print(1)")
    a, b = find_chapters(tmp_path)
    pages = Pages(tmp_path / "out", "quick", [a, b])
    pages.end(a, None, "failed", 1.0, "why")
    state = tmp_path / "out/index.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "01_b": 3, "02_c": {}}))
    pages.begin(b)
    entries = json.loads(state.read_text())
    assert list(entries) == ["00_a", "01_b"]
    assert entries["00_a"]["error"] == "why"


MANY = """import pathlib, sys
from bpfree.evidence.book import Chapter
from bpfree.evidence.pages import Pages
folder, mine, n = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chapters = [Chapter(pathlib.Path(f"{k:02d}_a.ipynb"), "title", "question", {}) for k in range(2 * n)]
pages = Pages(folder, "quick", chapters)
print(flush=True)
sys.stdin.readline()
for k in range(n):
    pages.begin(chapters[2 * k + mine])"""


def test_two_batches_at_once_lose_nothing_of_each_other(tmp_path):
    n = 20
    two = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, tmp_path, str(mine), str(n)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine in (0, 1)
    ]
    for process in two:
        process.stdout.readline()  # it is ready
    for process in two:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in two:
        process.communicate()
    assert [process.returncode for process in two] == [0, 0]
    assert len(json.loads((tmp_path / "index.json").read_text())) == 2 * n
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count(">unfinished<") == 2 * n
    assert not list(tmp_path.rglob("*.writing"))


# ---------------------------------------------------------------- a disk that refuses


@pytest.fixture
def refusing(monkeypatch):
    """Makes the disk refuse, after so many files, what has the name."""

    def refuse(code: int, name: str = "", after: int = 0) -> None:
        original, written = disk.write, []

        def write(path, content):
            if name in str(path):
                written.append(path)
                if len(written) > after:
                    raise OSError(code, os.strerror(code))
            original(path, content)

        monkeypatch.setattr(disk, "write", write)

    return refuse


def test_where_the_users_data_folder_may_not_be_looked_into_records_are_kept_with_the_results(
    tmp_path, monkeypatch
):
    """As with the home folder of another user."""
    write(tmp_path, "00_a", "import os; print(os.environ['BPFREE_STORE'])")
    theirs, look = tmp_path / "theirs", os.stat

    def refuse(path, *args, **kwargs):
        if str(path).startswith(f"{theirs}{os.sep}"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path, *args, **kwargs)

    theirs.mkdir()
    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs)
    monkeypatch.setattr("platformdirs.user_data_dir", lambda _: str(theirs / "share/bpfree"))
    monkeypatch.setenv("BPFREE_STORE", "")
    result = run("--output", tmp_path / "out", notebooks=tmp_path)
    assert result.status == 0
    assert "cannot be made: records are kept in" in result.err
    assert os.environ["BPFREE_STORE"] == str(tmp_path / "out/store")


@pytest.mark.parametrize("name", ["index.json", "index.html", "00_a.ipynb", "00_a.html", "00_a_1.png"])
@pytest.mark.parametrize("after", [0, 1])
def test_results_that_cannot_be_written_are_one_line(name, after, tmp_path, refusing):
    write(tmp_path, "00_a", FIGURE, "print(1)")
    write(tmp_path, "01_b", FIGURE)
    refusing(errno.ENOSPC, name, after)
    result = run("--output", tmp_path / "out", notebooks=tmp_path)
    if after and name == "00_a_1.png":  # which is written once
        assert result.status == 0
        return
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    for words in (str(tmp_path / "out/quick"), name, "No space left", "choose another --output"):
        assert words in result.err
    assert not list(tmp_path.rglob("*.writing"))


def test_an_index_in_whose_place_is_a_folder_is_one_line(tmp_path):
    write(tmp_path, "00_a")
    (tmp_path / "out/quick/index.json").mkdir(parents=True)
    result = run("--output", tmp_path / "out", notebooks=tmp_path)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert "index.json cannot be written (Is a directory)" in result.err


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["--figures-only"], ".svg"),
        (["--figures-only"], "README.md"),
        (["--update-notebooks", "--output", "out"], "00_a.ipynb"),
    ],
)
def test_a_checkout_that_may_only_be_read_is_one_line(argv, name, tmp_path, refusing, monkeypatch):
    write(tmp_path, "00_a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gallery, "GALLERY", {"sensors": gallery.GALLERY["sensors"]})
    monkeypatch.setattr(bpfree.evidence.answers, "findings", lambda folder, notebooks: "")
    before = (tmp_path / "00_a.ipynb").read_bytes()
    # Of the notebook the executed one is written first, at each of its cells and at its end.
    refusing(errno.EROFS, name, after=2 if name.startswith("00") else 0)
    result = run(*argv, notebooks=tmp_path)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    for words in (name, "Read-only file system", "use a checkout of your own"):
        assert words in result.err
    assert (tmp_path / "00_a.ipynb").read_bytes() == before


def test_a_readme_without_a_place_for_the_table_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "GALLERY", {})
    monkeypatch.setattr(run_all, "README", tmp_path / "README.md")
    for content in (None, b"# bpfree", b"\xff"):
        if content:
            run_all.README.write_bytes(content)
        result = run("--figures-only", notebooks=tmp_path)
        assert result.status == 2
        assert len(result.err.splitlines()) == 1
        assert "restore it" in result.err


# ---------------------------------------------------------------- the committed notebooks


def test_update_notebooks_changes_outputs_alone(tmp_path):
    path = write(
        tmp_path, "00_a", "print(profile)", "print(1)\nimport sys; sys.stdout.flush(); print(2)", "6 * 7"
    )
    before = read(path)
    before.metadata["title"] = "not what a kernel says"
    before.cells[1].metadata["note"] = "kept"
    nbformat.write(before, path)
    assert run("--update-notebooks", "--output", tmp_path, notebooks=tmp_path).status == 0
    after = read(path)
    assert [(c.source, c.id, c.metadata) for c in after.cells] == [
        (c.source, c.id, c.metadata) for c in before.cells
    ]
    assert [c.execution_count for c in after.cells[1:]] == [1, 2, 3, 4]
    assert [len(c.outputs) for c in after.cells[1:]] == [0, 1, 1, 1]
    assert printed(after) == "quick\n1\n2\n"
    assert set(after.metadata) == {"kernelspec", "language_info"}
    assert after.metadata.language_info == {"name": "python"}


def test_update_notebooks_leaves_a_failed_chapter_alone(tmp_path):
    path = write(tmp_path, "00_a", "1 / 0")
    before = path.read_bytes()
    assert run("--update-notebooks", "--output", tmp_path, notebooks=tmp_path).status == 1
    assert path.read_bytes() == before


# ---------------------------------------------------------------- Ctrl-C, and the signal of kill


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_leaves_a_usable_index_and_no_kernel(tmp_path, number, status, said):
    pid = tmp_path / "pid"
    write(tmp_path, "00_good", "print(1)")
    leave_pid = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))"
    # In a cell of its own, what was printed has reached the other process before the signal does.
    write(tmp_path, "01_long", "print('so far')", f"{leave_pid}\ntime.sleep(600)")
    write(tmp_path, "02_never", "print(1)")
    code = "import sys, pathlib, run_all; sys.exit(run_all.main(sys.argv[2:], pathlib.Path(sys.argv[1])))"
    batch = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, "--output", tmp_path],
        cwd=ROOT,
        # A shell's background job ignores Ctrl-C, and would hand that down to the batch.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: pid.exists() and pid.read_text(), 90)
    batch.send_signal(number)
    out, err = batch.communicate(timeout=60)
    assert batch.returncode == status
    assert err.startswith(f"run_all.py: {said}; in 01_long, finished: 00_good; the same command goes on")
    assert err.count("\n") == 1, err  # and nothing else: no traceback, ours or another's
    assert "index: " in out
    good, long, never = (tmp_path / "quick/index.html").read_text(encoding="utf-8").split("<article")[1:]
    assert ">ok<" in good
    assert ">unfinished<" in long
    assert ">not run<" in never
    assert printed(read(tmp_path / "quick/notebooks/01_long.ipynb")) == "so far\n"
    wait_for(lambda: not alive(int(pid.read_text())), 30)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---------------------------------------------------------------- what is refused before anything runs


@pytest.fixture(scope="module")
def chapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chapters")
    whole = PARAMETERS + "\ndatasets: list = []\nmax_epochs: int = 0  # 0: the profile's own\nlr: float = 0.1"
    write(folder, "00_start", parameters=whole)
    write(folder, "03_mono_forward", parameters=PARAMETERS + "\nflags: list = []\nfast: bool = False")
    return folder


@pytest.fixture
def nothing_runs(monkeypatch):
    from bpfree.evidence import book

    def execute(*_):
        raise AssertionError("a chapter was executed")

    monkeypatch.setattr(book, "execute", execute)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--profile laptpo", ["'laptpo'", "did you mean 'laptop'?", "quick, laptop, paper"]),
        ("--only 03_mono_foward", ["'03_mono_foward'", "did you mean '03_mono_forward'?", "00_start"]),
        ("--only 7", ["'7'", "00_start, 03_mono_forward"]),
        ("--datasets digit", ["'digit'", "did you mean 'digits'?", "fashion_mnist"]),
        ("--datasets mnist", ["no mnist in", "mnist.npz", "BPFREE_DATA", "--download"]),
        ("--datasets nowhere.npz", ["nowhere.npz", "x_train"]),
        ("--datasets truncated.npz", ["truncated.npz", "truncated or no npz"]),
        ("--profile laptop", ["no mnist in"]),
        ("--only 03 --datasets digits", ["--datasets", "03_mono_forward"]),
        ("--seeds -1", ["'-1'", "whole number of 0 or more"]),
        ("--seeds 0 x", ["'x'", "whole number of 0 or more"]),
        ("--seeds 0.5", ["'0.5'"]),
        ("-p max_epoch 3", ["'max_epoch'", "did you mean 'max_epochs'?"]),
        ("--only 03 -p max_epochs 3", ["'max_epochs'", "fast"]),
        ("-p max_epochs many", ["max_epochs", "int", "'many'"]),
        ("-p max_epochs 1.5", ["max_epochs", "int", "'1.5'"]),
        ("-p max_epochs true", ["max_epochs", "int", "'true'"]),
        ("-p lr high", ["lr", "float", "'high'"]),
        ("-p flags [1", ["flags", "list", "'[1'"]),
        ("-p seeds [1]", ["-p seeds", "--seeds"]),
        ("--figures-only --seeds 1", ["--figures-only", "--seeds"]),
        ("--add", ["--add", "--collect"]),
        ("--keep-going", ["--keep-going", "--jobs"]),
        ("--update-notebooks --profile paper", ["--update-notebooks", "--profile"]),
        ("--list --output x", ["--list", "--output"]),
        ("--resum", ["--resum", "--help"]),
        ("--only", ["--only"]),
        ("--output truncated.npz", ["truncated.npz", "--output"]),
    ],
)
def test_wrong_command_is_one_line(argv, said, chapters, tmp_path, monkeypatch):
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truncated.npz").write_bytes(b"PK\x03\x04 and then nothing")
    result = run(*argv.split(), notebooks=chapters)
    assert result.status == 2
    assert result.out == ""
    assert len(result.err.splitlines()) == 1
    for words in said:
        assert words in result.err


def test_debug_raises(chapters):
    with pytest.raises(ValueError, match="laptpo"):
        run_all.main(["--profile", "laptpo", "--debug"], chapters)


def test_no_or_broken_chapters(tmp_path):
    assert "no chapters" in run("--list", notebooks=tmp_path).err
    (tmp_path / "00_a.ipynb").write_text("{")
    result = run("--list", notebooks=tmp_path)
    assert result.status == 2
    assert "00_a.ipynb is no readable notebook" in result.err


@pytest.mark.usefixtures("nothing_runs")
def test_list_shows_the_values_that_would_be_used(chapters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = "--list --profile laptop --seeds 3 --datasets own.npz digits -p lr 1e-2 -p fast yes -p flags [a,1]"
    result = run(*argv.split(), notebooks=chapters)
    assert result.status == 0
    chapters_listed, _, runs_listed = result.out.partition("\n\n")
    assert chapters_listed.splitlines() == [
        "00_start: 00_start",
        "    profile = 'laptop'  # quick, laptop or paper",
        "    seeds = [3]  # empty: the profile's own",
        f"    datasets = [{str(tmp_path / 'own.npz')!r}, 'digits']",
        "    max_epochs = 0  # 0: the profile's own",
        "    lr = 0.01",
        "03_mono_forward: 03_mono_forward",
        "    profile = 'laptop'  # quick, laptop or paper",
        "    seeds = [3]  # empty: the profile's own",
        "    flags = ['a', 1]",
        "    fast = True",
    ]
    arms = [line.split() for line in runs_listed.splitlines() if "convergence" in line]
    assert ["mf", "digits", "2x256", "convergence", "3", "1"] in [arm[:6] for arm in arms]
    assert arms[0][1].endswith("own.npz")
    assert "?" in arms[0]  # it is not here: nobody knows how long
    *_, total, _, last = runs_listed.splitlines()
    assert "at most ?" in total
    assert last.endswith("own.npz, which is not here.")


def test_only_keeps_the_order_of_the_book(chapters):
    out = run("--list", "--only", "03", "0", notebooks=chapters).out
    assert out.index("00_start") < out.index("03_mono_forward")


def test_download_is_asked_for_before_anything_runs(chapters, monkeypatch):
    asked = []

    def load(name, *, download):
        asked.append((name, download))
        raise data.MissingData("stop here")

    monkeypatch.setattr(data, "load", load)
    assert run("--download", "--datasets", "digits", "mnist", notebooks=chapters).status == 2
    assert asked == [("mnist", True)]


def test_figures_only_draws_the_gallery_and_what_the_readme_has_of_it(monkeypatch, chapters, tmp_path):
    drawn = []
    gallery = SimpleNamespace(
        draw_gallery=lambda folder: drawn.append(folder) or [folder / "a.svg"],
        results_table=lambda folder: "| new |",
        write_index=lambda folder: folder / "index",
    )
    answers = SimpleNamespace(findings=lambda folder, notebooks: f"seen in {notebooks}")
    text = "above\n<!-- findings -->\n{}\n<!-- end of findings -->\nbetween\n"
    text += "<!-- results -->\n{}\n<!-- end of results -->\nbelow\n"
    readme = tmp_path / "README.md"
    readme.write_text(text.format("old", "| old |"))
    monkeypatch.setattr(run_all, "README", readme)
    for name, module in (("gallery", gallery), ("answers", answers)):
        monkeypatch.setattr(bpfree.evidence, name, module)
    result = run("--figures-only", notebooks=chapters)
    assert result.status == 0
    assert drawn == [ROOT / "figures"]
    assert readme.read_text() == text.format("seen in notebooks/", "| new |")
    assert "a.svg" in result.out
