"""Whatever the user's surroundings are, figures are the same and the chapters run."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import nbformat
import pandas as pd
import pytest
from cycler import cycler
from IPython.core.pylabtools import print_figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import run_all
from bpfree.evidence import figures, gallery

ROOT = Path(run_all.__file__).parent
MAIN = "import sys, pathlib, run_all; sys.exit(run_all.main(sys.argv[2:], pathlib.Path(sys.argv[1])))"


def python(
    code: str, *argv: str, folder: Path = ROOT, **environment: str | None
) -> subprocess.CompletedProcess:
    """A process of its own; a variable that is None is unset."""
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=folder,
        env={k: v for k, v in {**os.environ, **environment}.items() if v is not None},
        capture_output=True,
        encoding="utf-8",
    )


# ---------------------------------------------------------------- matplotlib's settings

SETTINGS = {
    "font.family": "serif",
    "axes.grid": True,
    "axes.prop_cycle": cycler("color", ["r", "g", "b"]),
    "axes.facecolor": "black",
    "figure.facecolor": "black",
    "savefig.facecolor": "black",
    "savefig.dpi": 50,
    "savefig.bbox": "tight",
    "lines.linewidth": 4,
    "xtick.minor.visible": True,
    "xtick.direction": "in",
    "axes.formatter.use_mathtext": True,
    "svg.fonttype": "path",
    "svg.hashsalt": None,
}


@pytest.fixture(params=[SETTINGS, {"text.usetex": True}], ids=["a look", "LaTeX, which is not there"])
def theirs(request):
    """The settings of a matplotlibrc, a style sheet or a notebook."""
    return request.param


def drawn(folder: Path) -> dict[str, bytes]:
    """One figure of every module."""
    names = ("ff_resources", "ladder_matched", "forest", "pass_cost", "tuning", "landscape_slices")
    (folder / "data").symlink_to(ROOT / "figures" / "data")
    return {path.name: path.read_bytes() for path in gallery.draw_gallery(folder, names)}


@pytest.fixture(scope="module")
def as_ever(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("figures"))


def test_the_gallery_is_drawn_as_ever(theirs, as_ever, tmp_path):
    with mpl.rc_context(theirs):
        assert drawn(tmp_path) == as_ever
    assert len(as_ever) == 6


IMPORTANCE = {"study": "s", "algorithm": "bp", "parameter": "lr", "importance": 1.0}


def shown() -> list[bytes]:
    """Figures as a notebook shows them, some by seaborn: by their own method, and, where pyplot is in use, by
    IPython, which asks the canvas."""
    goodness = pd.DataFrame({"goodness": [0.2, 0.9, 1.1, 2.0], "kind": ["negative"] * 2 + ["positive"] * 2})
    pictures = []
    for figure in (
        figures.reach(pd.DataFrame({"model.blocks.0.linear.weight": [1.0]}, index=["loss"]), "a title"),
        figures.goodness(goodness.assign(layer=1, moment="before")),
        figures.tuning.importance_bars(pd.DataFrame([IMPORTANCE])),
    ):
        pictures += [figure._repr_png_(), print_figure(figure)]
    return pictures


def test_figures_in_notebooks_look_as_ever(theirs):
    expected = shown()
    with mpl.rc_context(theirs):
        assert shown() == expected


def test_a_back_end_that_is_none_is_not_asked_for():
    command = "import sys, run_all; run_all.draw_figures = lambda: bool(__import__('matplotlib')) - 1"
    done = python(f"{command}; sys.exit(run_all.main(['--figures-only']))", MPLBACKEND="nonsense")
    assert done.returncode == 0, done.stderr


BARS = f"""import pandas
from bpfree.evidence import figures
figures.tuning.importance_bars(pandas.DataFrame([{IMPORTANCE}]))._repr_png_()"""


def test_a_back_end_that_needs_a_display_is_not_asked_for():
    done = python(BARS, MPLBACKEND="TkAgg", DISPLAY=None)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- paths, home and locale


def write(folder: Path, name: str, *cells: str) -> None:
    notebook = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "x"}, "language_info": {"name": "python"}}
    )
    notebook.cells = [new_markdown_cell(f"# {name} é\n\nDoes **{name}** run?")]
    notebook.cells += [new_code_cell('profile: str = "quick"  # é', metadata={"tags": ["parameters"]})]
    notebook.cells += [new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, folder / f"{name}.ipynb")


def batch(
    folder: Path, *argv: str, before: str = "", **environment: str | None
) -> subprocess.CompletedProcess:
    """The chapters in folder/notebooks, executed into folder/out; a variable that is None is unset."""
    return python(before + MAIN, "notebooks", "--output", "out", *argv, folder=folder, **environment)


def outputs(folder: Path, name: str = "00_a") -> list:
    notebook = nbformat.read(folder / f"out/quick/notebooks/{name}.ipynb", as_version=4)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


TELL = """import os, pathlib
from bpfree import data
from bpfree.experiments import store
print(store.Store().root, data.data_root(), pathlib.Path("~").expanduser(), sep="\\n")"""


def test_relative_folders_are_the_same_in_the_chapters_as_here(tmp_path):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks", "00_a", TELL)
    result = batch(tmp_path, BPFREE_STORE="my store", BPFREE_DATA="~/data", HOME=str(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    assert outputs(tmp_path)[0].text.splitlines() == [
        *(str(tmp_path / "my store"), str(tmp_path / "home/data"), str(tmp_path / "home")),
    ]
    assert result.stdout.splitlines()[-2] == "index: out/quick/index.html"


def test_a_module_of_the_folder_is_found_in_the_chapters(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "of_this_folder.py").write_text("print('found')")
    write(tmp_path / "notebooks", "00_a", "import bpfree, of_this_folder")
    result = batch(tmp_path)
    assert result.returncode == 0, result.stderr
    assert outputs(tmp_path)[0].text == "found\n"


@pytest.mark.parametrize(
    "name", ['a b?c/p%20q/it\'s "quoted"/{x} [y]*/Ελλάς', os.fsdecode(b"caf\xe9")], ids=["odd", "not UTF-8"]
)
def test_any_path_will_do(name, tmp_path):
    folder = tmp_path / name
    try:
        (folder / "notebooks").mkdir(parents=True)
    except OSError:
        pytest.skip("no such names here")
    write(folder / "notebooks", "00_a", TELL + f"\nos.environ['PLACE'] == {str(folder)!r}")
    result = batch(folder, BPFREE_STORE=str(folder / "store"), PLACE=str(folder))
    assert result.returncode == 0, result.stderr
    _, same = outputs(folder)
    assert same["data"]["text/plain"] == "True"
    assert json.loads((folder / "out/quick/index.json").read_text())["00_a"]["status"] == "ok"
    assert "Does <strong>00_a</strong> run?" in (folder / "out/quick/index.html").read_text(encoding="utf-8")


NOBODY = """import pwd
def getpwuid(uid): raise KeyError(uid)
pwd.getpwuid = getpwuid
"""


@pytest.mark.parametrize("home", [f"{os.devnull}/home", None], ids=["not to be written", "none at all"])
def test_no_home_is_needed(home, tmp_path):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks", "00_a", "import matplotlib.font_manager, bpfree", TELL)
    unset = dict.fromkeys(("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"))
    result = batch(tmp_path, before="" if home else NOBODY, HOME=home, BPFREE_STORE=None, **unset)
    assert result.returncode == 0, result.stderr
    assert not [output for output in outputs(tmp_path) if output.get("name") == "stderr"]
    assert "cannot be made: records are kept in" in result.stderr
    assert outputs(tmp_path)[0].text.splitlines()[0] == str(tmp_path / "out/store")


def test_tuning_keeps_its_records_where_it_can(tmp_path):
    unset = dict.fromkeys(("BPFREE_STORE", "XDG_DATA_HOME"))
    code = "import sys; from bpfree.tuning.__main__ import main; sys.exit(main(sys.argv[1:]))"
    argv = ["bp", "--trials", "1", "--max-epochs", "1", "--architecture", "1x4"]
    done = python(code, *argv, folder=tmp_path, HOME=f"{os.devnull}/home", **unset)
    assert done.returncode == 0, done.stderr
    assert f"records are kept in {tmp_path / 'results/store'}" in done.stderr
    assert list(tmp_path.glob("results/store/tuned.csv"))


@pytest.mark.skipif(os.name == "nt", reason="the current folder cannot be removed there")
def test_a_current_folder_that_was_removed_is_what_is_blamed(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys, run_all; os.rmdir(os.getcwd()); sys.exit(run_all.main(['--list']))"
    done = python(code, folder=gone)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "the current folder was removed" in done.stderr
    assert "change to one that is there" in done.stderr


def test_the_users_ipython_is_for_the_users_notebooks(tmp_path):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks", "00_a", "print(1)", "print(2)")
    startup = tmp_path / "ipython/profile_default/startup/00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("def print(x): raise ValueError('theirs')")
    python = tmp_path / "startup.py"
    python.write_text("raise ValueError('theirs')")
    result = batch(tmp_path, IPYTHONDIR=str(tmp_path / "ipython"), PYTHONSTARTUP=str(python))
    assert result.returncode == 0, result.stderr
    assert [output.text for output in outputs(tmp_path)] == ["1\n", "2\n"]


def test_rows_without_names_are_shown_without_numbers_for_names(tmp_path):
    (tmp_path / "notebooks").mkdir()
    shown = "import pandas as pd; pd.DataFrame({'long': ['x' * 300]}, index="
    write(tmp_path / "notebooks", "00_a", f"{shown}None)", f"{shown}['named'])")
    assert batch(tmp_path).returncode == 0
    unnamed, named = (output.data["text/html"] for output in outputs(tmp_path))
    assert "<th>0</th>" not in unnamed
    assert "<th>named</th>" in named
    assert all("x" * 300 in html for html in (unnamed, named))  # and nothing is cut


def test_an_output_that_cannot_say_everything_says_the_rest(tmp_path):
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks", "00_a", "print('é')")
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for variables in (plain, {"PYTHONIOENCODING": "ascii"}, {**plain, "PYTHONIOENCODING": "ascii"}):
        listed = subprocess.run(
            [sys.executable, "-c", MAIN, "notebooks", "--list"],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
        )
        assert listed.returncode == 0, listed.stderr
        assert listed.stdout.startswith(b"00_a: 00_a ")
    assert batch(tmp_path, **plain).returncode == 0
    assert outputs(tmp_path)[0].text == "é\n"


TEXTUAL = ("open", "read_text", "write_text", "run", "Popen", "check_output")


def test_every_text_has_an_encoding_of_its_own():
    """Else it would be the locale's. A subprocess may be read as bytes."""
    without = []
    for path in (ROOT / "run_all.py", *(ROOT / "bpfree").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = (
                getattr(call.func, "attr", getattr(call.func, "id", "")) if isinstance(call, ast.Call) else ""
            )
            if name not in TEXTUAL or not (call.args or name == "read_text"):
                continue
            words = {k.arg: ast.unparse(k.value) for k in call.keywords}
            given = [ast.unparse(a) for a in call.args]
            binary = name == "open" and (
                ast.unparse(call.func).startswith(("os.", "tarfile.")) or any("b" in g for g in given[1:])
            )
            process = name in ("run", "Popen", "check_output") and "text" not in words
            if not (binary or process or "encoding" in words or given[:1] == ["'utf-8'"]):
                without.append(f"{path.name}:{call.lineno}")
    assert without == []
