"""Nothing in data, records, weights, settings or parameters is executed; nothing is fetched unasked."""

import ast
import contextlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bpfree
import run_all
from bpfree import MLP, Experiment, MonoForward
from bpfree.errors import InvalidInput, MissingData
from bpfree.evidence.book import Chapter
from bpfree.experiments import tuned
from bpfree.experiments.store import Store
from bpfree.training.checkpoint import Checkpoint
from bpfree.training.history import History

ROOT = Path(run_all.__file__).parent


# ---------------------------------------------------------------- nothing is executed


class Bomb:
    """Leaves a file behind when its pickle is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    return Bomb(tmp_path / "executed")


def test_pickles_in_data_are_never_loaded(tmp_path, bomb):
    path, plain = tmp_path / "own.npz", tmp_path / "plain.npz"
    images = np.empty(40, object)
    images[:] = bomb
    np.savez(path, x_train=images, y_train=np.arange(40), x_test=np.zeros((9, 6, 5)), y_test=np.arange(9))
    plain.write_bytes(pickle.dumps(bomb))
    with pytest.raises(InvalidInput, match="pickled objects, which are refused"):
        bpfree.load(path)
    with pytest.raises(InvalidInput, match="truncated or no npz file"):
        bpfree.load(plain)
    assert not bomb.path.exists()
    np.load(path, allow_pickle=True)["x_train"]
    assert bomb.path.exists()  # it would have gone off


def test_pickles_in_place_of_weights_and_checkpoints_are_never_loaded(tmp_path, bomb, caplog):
    small = Experiment("bp", architecture="1x4", max_epochs=1, device="cpu")
    record = bpfree.run(small, Store(tmp_path / "store"), progress=False)
    path = record.folder / "weights.safetensors"
    torch.save(bomb, path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        record.weights()
    checkpoint = Checkpoint(path, "run")
    checkpoint.load(MonoForward(MLP([4, 4], classes=2)), History("mf", 0))
    assert checkpoint.resumed == 0
    assert "cannot be read" in caplog.text
    assert not bomb.path.exists()
    torch.load(path.rename(tmp_path / "bomb.pt"), weights_only=False)
    assert bomb.path.exists()


def test_code_in_parameters_and_settings_is_text(tmp_path, monkeypatch, bomb):
    python = f"__import__('pathlib').Path({str(bomb.path)!r}).touch()"
    chapter = Chapter(Path("x.ipynb"), "", "", {"flags": {"inferred_type_name": "list"}})
    with pytest.raises(InvalidInput, match="takes a value of type list"):
        chapter.parse("flags", f"!!python/object/apply:os.mkdir [{str(bomb.path)!r}]")
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path))
    row = f'bp,digits,1x4,none,lr,"{python}",s,1,1,0,convergence,9,r,m'
    (tmp_path / "tuned.csv").write_text(",".join(tuned.TUNED_COLUMNS) + f"\n{row}\n")
    with pytest.raises(InvalidInput, match="use a number"):
        Experiment("bp", preset="tuned", architecture="1x4")
    assert not bomb.path.exists()
    exec(python)
    assert bomb.path.exists()


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *(
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "torch.load",
        "pd.read_pickle",
        "pandas.read_pickle",
    ),
}


def executing(source: str) -> list[str]:
    """What in a program could execute what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").partition(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in FORBIDDEN_CALLS or options.get("shell", "False") != "False":
                found.append(name)
            if options.get("allow_pickle", "False") != "False" or (
                name.endswith("np.load") and "allow_pickle" not in options
            ):
                found.append(f"{name} with pickles")
    return found


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from joblib import load", "eval('1')", "yaml.load(x)", "torch.load(x)"),
        *("np.load(x)", "np.load(x, allow_pickle=True)", "run(x, shell=True)", "pd.read_pickle(x)"),
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert executing(source)


def _python(cell: str) -> str:
    """The Python of a cell, of one that writes a file the file's."""
    first, _, rest = cell.partition("\n")
    return rest if first.startswith("%%writefile") else cell


def test_no_program_executes_what_it_reads():
    files = [ROOT / "run_all.py", *(ROOT / "bpfree").rglob("*.py")]
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        sources[path] = "\n".join(map(_python, code))
    assert len(sources) > 60
    assert {path.name: found for path, source in sources.items() if (found := executing(source))} == {}


# ---------------------------------------------------------------- nothing is fetched unasked


def test_missing_data_open_no_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path / "nowhere"))

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        with pytest.raises(MissingData, match=f"no {name} in .*download=True"):
            bpfree.load(name)
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert run_all.main(["--datasets", "mnist"]) == 2
    assert "no mnist" in err.getvalue()
    assert not (tmp_path / "nowhere").exists()


SPY = """
import os, sys

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["SPY"], "a") as log:
            print(event, arguments[1:], file=log)

sys.addaudithook(hook)
"""


@pytest.mark.slow
@pytest.mark.parametrize("download", [False, True])
def test_a_batch_reaches_for_the_network_only_if_told_to(tmp_path, download):
    (tmp_path / "sitecustomize.py").write_text(SPY)
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    log = tmp_path / "log"
    process = subprocess.run(
        [sys.executable, "run_all.py", "--datasets", "mnist", *(["--download"] if download else [])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "SPY": str(log), "BPFREE_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert ("cannot download mnist" if download else "no mnist in") in process.stderr
    assert log.exists() == download
