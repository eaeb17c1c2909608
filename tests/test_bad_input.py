"""Whatever is wrong with it, bad input ends in one line of one of our errors, which names what was wrong.

The cases are one table: what is tried and the value that must be named; and, of two kinds of input a group,
what is allowed and what to do as well. What may be wrong with the arrays of a file is in test_data.py, with a
record in test_damage.py; that nothing in such input is executed is test_nothing_unasked.py's.
"""

import contextlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bpfree
import run_all
from bpfree import MLP, CaFoCNN, Experiment, MonoForward
from bpfree.energy import EnergyMeter
from bpfree.energy.__main__ import main as energy
from bpfree.errors import BpfreeError
from bpfree.evidence.book import Chapter
from bpfree.evidence.gallery import recorded
from bpfree.experiments import study, tuned
from bpfree.experiments.published import hyperparameters, results
from bpfree.training.loop import pick_device
from bpfree.training.stopping import Budget, Stopping
from bpfree.tuning import open_storage
from bpfree.tuning.__main__ import main as tuning

ROOT = Path(run_all.__file__).parent
SMALL = {"architecture": "1x4", "max_epochs": 1, "device": "cpu"}
NPZ = "x_train, y_train, x_test, y_test"


def call(function: Callable) -> Callable:
    """What a call says: an error of bpfree's, and one line."""

    def attempt(bench) -> str:
        with pytest.raises(BpfreeError) as raised:
            function(bench)
        return str(raised.value)

    return attempt


def meter(**settings) -> Callable:
    """What the meter says, which may be used without the rest and raises Python's own."""

    def attempt(bench) -> str:
        with pytest.raises(ValueError, match=r"give|choose") as raised:
            EnergyMeter(**settings)
        return str(raised.value)

    return attempt


def command(main: Callable, line: str = "", *more: str, before: Callable = lambda bench: None) -> Callable:
    """What a command line says: exit status 2, nothing on stdout, no traceback."""

    def attempt(bench) -> str:
        before(bench)
        out, err, argv = io.StringIO(), io.StringIO(), [*line.split(), *more]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(argv)
            except SystemExit as left:
                status = left.code
        assert status == 2
        assert out.getvalue() == ""
        assert "Traceback" not in err.getvalue()
        assert err.getvalue().endswith("\n")
        return err.getvalue()[:-1]

    return attempt


class Bench:
    """A folder to spoil things in."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def path(self, name: str, content: bytes = b"") -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def npz(self, **changes) -> Path:
        """A small data set of which some arrays are replaced, or left out (None)."""
        rng = np.random.default_rng(0)
        arrays = {}
        for split, n in (("train", 40), ("test", 9)):
            arrays[f"x_{split}"] = rng.integers(0, 256, (n, 6, 5), dtype=np.uint8)
            arrays[f"y_{split}"] = np.arange(n) % 3
        arrays |= changes
        np.savez(self.folder / "own.npz", **{k: v for k, v in arrays.items() if v is not None})
        return self.folder / "own.npz"

    def load(self, **changes):
        return bpfree.load(self.npz(**changes))

    def tuned(self, row: str, header: str = ",".join(tuned.TUNED_COLUMNS)):
        """An experiment by tuned settings that are this row."""
        self.monkeypatch.setenv("BPFREE_STORE", str(self.folder))
        self.path("tuned.csv", f"{header}\n{row}\n".encode())
        return Experiment("bp", preset="tuned", **SMALL)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def digits():
    return bpfree.load("digits")


def huge_header() -> bytes:
    """An .npy that claims more numbers than any memory holds."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 6, 5)}
    )
    return buffer.getvalue()


def with_member(bench, name: str, content: bytes) -> Path:
    path = bench.npz(**{name.removesuffix(".npy"): None})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    return path


def of(algorithm: str, **hyperparameters) -> Callable:
    return call(lambda _: Experiment(algorithm, **SMALL, hyperparameters=hyperparameters))


def experiment(algorithm: str = "mf", **fields) -> Callable:
    return call(lambda _: Experiment(algorithm, **{**SMALL, **fields}))


def train(**how) -> Callable:
    def attempt(_):
        algorithm = MonoForward(MLP(how.pop("widths", [64, 4]), classes=how.pop("classes", 10)))
        data = how.pop("data", None) or bpfree.load("digits")
        bpfree.train(how.pop("algorithm", algorithm), data, progress=False, max_epochs=1, **how)

    return call(attempt)


def parse(text: str, kind: str = "int") -> Callable:
    chapter = Chapter(Path("04_tuning.ipynb"), "", "", {"trials": {"inferred_type_name": kind}})
    return call(lambda _: chapter.parse("trials", text))


def env(name: str, content: str) -> Callable:
    """Sets a variable to a path in the folder."""
    return lambda bench: bench.monkeypatch.setenv(name, str(bench.path(content)))


ARCHITECTURES = "'cnn-16-32-64'"

GROUPS: dict[str, dict[str, tuple[Callable, str | tuple[str, ...]]]] = {
    "data file": {
        "missing": (call(lambda b: bpfree.load(b.folder / "no.npz")), ("no.npz", NPZ, "give the path")),
        "no memory": (call(lambda b: bpfree.load(with_member(b, "x_train.npy", huge_header()))), "x_train"),
        "complex images": (call(lambda b: b.load(x_train=np.zeros((40, 6, 5), complex))), "complex128"),
        "five dimensions": (
            call(lambda b: b.load(x_train=np.zeros((2, 2, 2, 2, 2), np.uint8))),
            ("(2, 2, 2, 2, 2)", "(N, H, W)", "allowed"),
        ),
        "not that data set": (
            call(lambda b: bpfree.load("mnist", b.npz().rename(b.folder / "mnist.npz").parent)),
            "(40, 6, 5)",
        ),
    },
    "name": {
        "data": (experiment(data="digit"), ("'digit'", "fashion_mnist", "did you mean 'digits'")),
        "data of another type": (call(lambda _: bpfree.load(None)), "None"),
        "algorithm": (
            experiment("mf_interleavd"),
            ("'mf_interleavd'", "did you mean 'mf_interleaved'", "bp, bp_ds"),
        ),
        "protocol": (experiment(protocol="matchd"), ("'matchd'", "did you mean 'matched'")),
        "preset": (experiment(preset="thesiss"), ("preset of mf 'thesiss'", "2026, reference")),
        "untuned": (experiment(preset="tuned"), "mf on digits 1x4"),
        "unpublished": (
            experiment(protocol="published"),
            ("mf on digits 1x4", "mnist 2x1000", "use protocol="),
        ),
        "option": (of("mf", learning_rate=1), ("option of mf 'learning_rate'", "lr, weight_decay")),
        "profile": (call(lambda _: study.profile("laptpo")), "'laptpo'"),
        "chapter": (call(lambda _: study.PROFILES["quick"].chapter("42")), "'42'"),
        "figure": (call(lambda _: recorded("nope")), "'nope'"),
        "published column": (call(lambda _: results(nope=1)), "'nope'"),
        "settings' column": (call(lambda _: hyperparameters(nope=1)), "'nope'"),
    },
    "hyperparameter": {
        "negative": (of("mf", lr=-1.0), ("lr=-1.0", "greater than 0", "use")),
        "NaN": (of("mf", lr=float("nan")), "lr=nan"),
        "infinite": (of("mf", weight_decay=float("inf")), "weight_decay=inf"),
        "no float": (of("mf", lr=10**400), "lr=1000"),
        "a word": (of("mf", lr="0.1"), "lr='0.1'"),
        "a bool": (of("mf", lr=True), "lr=True"),
        "a tensor": (of("mf", lr=torch.tensor(0.1)), "lr=tensor"),
        "momentum": (of("ff_sgd", momentum=1.0), "momentum=1.0"),
        "batch size 0": (of("mf", batch_size=0), "batch_size=0"),
        "batch size": (of("mf", batch_size=2.5), ("batch_size=2.5", "positive integer", "use")),
        "epochs": (of("mf", epochs=0), "epochs=0"),
        "threshold": (of("ff", threshold=0), "threshold=0"),
        "passes": (of("ff", passes=3), "passes=3"),
        "ridge": (of("cafo_rand_mse", ridge=-1), "ridge=-1"),
        "blocks at random": (of("cafo_rand", block_lr=0.1, **{}), "block_lr=0.1"),
        "optimiser": (of("mf", optimiser="sdg"), "'sdg'"),
        "a word for a bool": (of("bp", head_bias="no"), "head_bias='no'"),
        "another arm's": (of("mf", schedule="simultaneous"), "'simultaneous'"),
        "no dictionary": (experiment(hyperparameters=["lr"]), "['lr']"),
    },
    "architecture": {
        "zero": (experiment(architecture="2x0"), ("'2x0'", ARCHITECTURES, "use layers x width")),
        "empty": (experiment(architecture=""), "''"),
        "half a name": (experiment(architecture="cnn-"), "'cnn-'"),
        "a number": (experiment(architecture=12), "12"),
        "other digits": (experiment(architecture="2x1٠"), "2x1"),
        "no memory": (
            call(lambda _: bpfree.experiments.experiment.build_model("2x99999999", bpfree.load("digits"))),
            "'2x99999999'",
        ),
        "too deep": (
            call(lambda _: bpfree.experiments.experiment.build_model("cnn-1-1-1-1", bpfree.load("digits"))),
            "8x8",
        ),
        "not this algorithm's": (experiment("ff", architecture="cnn"), "CaFoCNN"),
        "one width": (call(lambda _: MLP([5], classes=2)), ("[5]", "one positive integer per", "give")),
        "width": (call(lambda _: MLP([5, -1], classes=2)), "[5, -1]"),
        "no list": (call(lambda _: MLP(5, classes=2)), "widths 5"),
        "channels": (call(lambda _: CaFoCNN((1, 8, 8), classes=2, channels=(0,))), "(0,)"),
        "image": (call(lambda _: CaFoCNN((8, 8), classes=2)), "(8, 8)"),
        "classes": (call(lambda _: MLP([5, 5], classes=1)), "classes=1"),
        "classes of the data": (train(classes=5), "5 classes"),
        "inputs of the data": (train(widths=[65, 4]), "65 inputs"),
    },
    "seed, length, budget": {
        "negative seed": (experiment(seed=-1), ("seed=-1", "0 or more", "use an integer")),
        "float seed": (experiment(seed=0.5), "seed=0.5"),
        "huge seed": (experiment(seed=2**70), str(2**70)),
        "seed of data": (call(lambda _: bpfree.load("digits", seed="0")), "'0'"),
        "seed of training": (train(seed=None), "seed=None"),
        "seeds of a profile": (call(lambda _: study.profile("quick", seeds=[True])), "True"),
        "no epochs": (experiment(max_epochs=0), "max_epochs=0"),
        "half an epoch": (experiment(max_epochs=1.5), ("max_epochs=1.5", "positive integer", "use")),
        "patience": (call(lambda _: Stopping(patience=0)), "patience=0"),
        "min_delta": (call(lambda _: Stopping(min_delta=float("nan"))), "min_delta=nan"),
        "metric": (call(lambda _: Stopping("test_accuracy")), "'test_accuracy'"),
        "no budget": (call(lambda _: Budget("s", 0)), "0 s"),
        "budget as a word": (call(lambda _: Budget("s", "5")), "'5'"),
        "unit of a budget": (call(lambda _: Budget("hours", 5)), "'hours'"),
        "unmeasured joules": (train(budget=Budget("measured_j", 5.0)), "joules"),
    },
    "device, precision, cache": {
        "a GPU that is not there": (call(lambda _: pick_device("cuda:77")), ("'cuda:77'", "'cpu'", "use")),
        "of an experiment": (
            call(
                lambda b: bpfree.run(
                    Experiment("bp", **{**SMALL, "device": "cuda:77"}), b.folder, progress=False
                )
            ),
            "'cuda:77'",
        ),
        "a GPU by its number": (experiment(device="cuda:0"), "'cuda:0'"),
        "no device": (call(lambda _: pick_device("gpu")), "'gpu'"),
        "nothing computed": (call(lambda _: pick_device("meta")), "'meta'"),
        "a list": (call(lambda _: pick_device([])), "'[]'"),
        "precision": (experiment(precision="fp16"), ("'fp16'", "fp32, bf16", "did you mean 'bf16'")),
        "cache": (experiment(cache="yes"), "'yes'"),
        "cache of training": (train(cache=2), "cache=2"),
        "a name for an experiment": (call(lambda b: bpfree.run("mf", b.folder)), "'mf'"),
        "a name for data": (train(data="digits"), "'digits'"),
        "a name for an algorithm": (train(algorithm="mf"), "'mf'"),
        "a number for a budget": (train(budget=3), "budget=3"),
        "no meter": (train(meter=True), "meter=True"),
        "a number for on_epoch": (train(on_epoch=3), "on_epoch=3"),
        "a module for an algorithm": (train(algorithm=torch.nn.Linear(3, 3)), "algorithm=Linear"),
        "a class for data": (call(lambda _: bpfree.load("bpfree:Blocks")), "'bpfree:Blocks'"),
        "a path for a checkpoint": (train(checkpoint="run.ckpt"), "checkpoint='run.ckpt'"),
        "a name for a network": (call(lambda _: MonoForward("2x4")), "model='2x4'"),
        "data of a function with arguments": (call(lambda _: bpfree.load("os.path:join")), "'os.path:join'"),
        "data of a built-in class": (call(lambda _: bpfree.load("builtins:dict")), "'builtins:dict'"),
        "untrained": (
            call(lambda _: MonoForward(MLP([4, 4], classes=2)).predict(torch.zeros(1, 1, 2, 2))),
            "mf has not been trained",
        ),
    },
    "notebook parameter": {
        "a word": (parse("many"), ("'many'", "type int", "04_tuning")),
        "half": (parse("1.5"), "'1.5'"),
        "negative": (parse("-3"), "'-3'"),
        "negative float": (parse("-1e-3", "float"), "'-1e-3'"),
        "NaN": (parse(".nan", "float"), ("'.nan'", "0 or more", "takes")),
        "no YAML": (parse("[1", "list"), "'[1'"),
        "unknown": (command(run_all.main, "-p max_epoch 3"), "'max_epoch'"),
        "not this chapter's": (command(run_all.main, "--only 03 -p trials 3"), "'trials'"),
        "with an option of its own": (command(run_all.main, "-p seeds [1]"), "-p seeds"),
    },
    "run_all.py": {
        "profile": (
            command(run_all.main, "--profile huge"),
            ("'huge'", "quick, laptop, paper", "allowed are"),
        ),
        "chapter": (command(run_all.main, "--only 42"), "'42'"),
        "data": (command(run_all.main, "--datasets minst"), "'minst'"),
        "missing data": (command(run_all.main, "--datasets mnist"), "no mnist"),
        "missing file": (command(run_all.main, "--datasets no.npz"), "no.npz"),
        "seed": (command(run_all.main, "--seeds 1e3"), "'1e3'"),
        "huge seed": (command(run_all.main, f"--seeds {2**70}"), str(2**70)),
        "unknown option": (command(run_all.main, "--resum"), "--resum"),
        "no value": (command(run_all.main, "--only"), "--only"),
        "contradiction": (
            command(run_all.main, "--list --download"),
            ("--download", "cannot be combined", "leave one out"),
        ),
        "output": (command(run_all.main, "--output file", before=lambda b: b.path("file")), "file"),
        "jobs": (command(run_all.main, "--jobs pbs"), "'pbs'"),
        "no cluster": (
            command(run_all.main, "--jobs slurm", before=lambda b: b.monkeypatch.setenv("PATH", "")),
            "'slurm'",
        ),
        "workers": (command(run_all.main, "--jobs local --workers 0"), "'0'"),
        "workers of none": (command(run_all.main, "--workers 2"), "--workers"),
        "slurm of none": (command(run_all.main, "--slurm time=3"), "--slurm"),
        "half a setting": (command(run_all.main, "--jobs slurm --slurm gpu"), "'gpu'"),
        "setting": (command(run_all.main, "--jobs slurm --slurm partion=x"), "'partion'"),
        "setting's value": (command(run_all.main, "--jobs slurm --slurm mem_gb=-4"), "mem_gb=-4"),
    },
    "python -m bpfree.energy": {
        "nothing to do": (command(energy), ("--check", "a command after --", "give")),
        "too much to do": (command(energy, "--check -- ls"), "--check"),
        "rate": (command(energy, "--check --hz fast"), "'fast'"),
        "rates": (command(energy, "--check --hz 1000"), "1000.0"),
        "no rate": (command(energy, "--check --hz nan"), "nan"),
        "country": (command(energy, "--check --country PL"), "'PL'"),
        "source": (command(energy, "--check --sources wall"), ("'wall'", "rapl, estimate", "choose from")),
        "GPU": (command(energy, "--check --gpus 99"), "99"),
        "watts": (command(energy, "--check --watts-per-core -1"), "-1.0"),
        "option": (command(energy, "--chek"), "--chek"),
        "of the meter": (meter(hz=float("nan")), "nan"),
        "source of the meter": (meter(sources=["watt"]), "'watt'"),
        "idle watts": (meter(idle_w=-3), "-3"),
    },
    "python -m bpfree.tuning": {
        "nothing": (command(tuning), ("WHAT", "required", "--help")),
        "algorithm": (command(tuning, "backprop"), "'backprop'"),
        "trials": (command(tuning, "bp --trials 0"), "'0'"),
        "half a trial": (command(tuning, "bp --trials 1.5"), "'1.5'"),
        "workers": (command(tuning, "bp --workers none"), "'none'"),
        "seed": (command(tuning, "bp --seed -1"), "seed=-1"),
        "data": (command(tuning, "bp --data no.npz --trials 1"), ("no.npz", NPZ, "give the path")),
        "architecture": (command(tuning, "bp --architecture big"), "'big'"),
        "protocol": (command(tuning, "bp --protocol fair"), "'fair'"),
        "value": (command(tuning, "bp --fix lr high"), "lr='high'"),
        "parameter": (command(tuning, "bp --fix rate 1"), "'rate'"),
        "cap": (command(tuning, "bp --max-epochs 0"), "'0'"),
    },
    "storage": {
        "scheme": (call(lambda _: open_storage("ftp://host/x", "s")), ("ftp://host", "postgresql", "give")),
        "driver": (call(lambda _: open_storage("mssql://u:secret@h/x", "s")), "u:***@h"),
        "no URL": (call(lambda _: open_storage("sqlite:/x://", "s")), "cannot be opened"),
        "in a file": (call(lambda b: open_storage(b.path("f") / "x.log", "s")), "f/x.log"),
        "no journal": (
            call(lambda b: open_storage(b.path("f", b"x\n"), "s")),
            ("no journal", "a .db file", "give"),
        ),
        "no SQLite": (call(lambda b: open_storage(b.path("f.db", b"x" * 999), "s")), "not a database"),
        "study": (call(lambda _: open_storage(None, "../x")), "'../x'"),
        "of the command": (command(tuning, "bp --storage ftp://h/x --trials 1"), "ftp://h"),
    },
    "environment": {
        "BPFREE_STORE a file": (
            call(lambda b: (env("BPFREE_STORE", "f")(b), bpfree.records())),
            ("is a file", "a folder", "BPFREE_STORE"),
        ),
        "of run_all.py": (command(run_all.main, before=env("BPFREE_STORE", "f")), "is a file"),
        "of the tuner": (command(tuning, "bp --trials 1", before=env("BPFREE_STORE", "f")), "is a file"),
        "BPFREE_STORE in a file": (
            call(lambda b: bpfree.run(Experiment("bp", **SMALL), b.path("f") / "x", progress=False)),
            ("f/x", "Not a directory", "BPFREE_STORE"),
        ),
        "BPFREE_DATA nowhere": (call(lambda _: bpfree.load("cifar10")), "nowhere"),
        "BPFREE_DATA a file": (
            call(lambda b: (env("BPFREE_DATA", "f")(b), bpfree.load("cifar10"))),
            "no cifar10 in",
        ),
    },
    "tuned.csv": {
        "no columns": (call(lambda b: b.tuned("", "a,b")), "has no column"),
        "no text": (
            call(lambda b: b.tuned("", "\udcff".encode("utf-8", "replace").decode() + '"')),
            "tuned.csv",
        ),
        "value": (call(lambda b: b.tuned("bp,digits,1x4,none,lr,-3,s,1,1,0,convergence,9,r,m")), "lr=-3"),
        "parameter": (
            call(lambda b: b.tuned("bp,digits,1x4,none,rate,3,s,1,1,0,convergence,9,r,m")),
            "'rate'",
        ),
        "accuracy": (
            call(lambda b: b.tuned("bp,digits,1x4,none,lr,0.1,s,1,1,0,convergence,high,r,m")),
            "'high'",
        ),
    },
}
CASES = {f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_line_that_names_it(case, bench):
    attempt, said = CASES[case]
    line = attempt(bench)
    assert "\n" not in line
    assert "\r" not in line
    for words in (said,) if isinstance(said, str) else said:
        assert words in line


@pytest.mark.parametrize(
    ("main", "line", "error"),
    [
        (run_all.main, "--debug --profile huge", BpfreeError),
        (tuning, "bp --debug --data nope", BpfreeError),
        (energy, "--debug --check --hz 1000", ValueError),
    ],
)
def test_debug_shows_the_traceback(main, line, error):
    with pytest.raises(error):
        main(line.split())


@pytest.mark.parametrize(
    "words",
    [
        ("run_all.py", "--profile", "huge"),
        ("run_all.py", "--seeds", "x"),
        ("-m", "bpfree.energy", "--check", "--sources", "wall"),
        pytest.param(("-m", "bpfree.tuning", "bp", "--data", "nope"), marks=pytest.mark.slow),
    ],
)
def test_a_real_process_says_it_as_well(words):
    process = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.slow
def test_variables_of_other_libraries_may_hold_anything():
    environment = {**os.environ, "OMP_NUM_THREADS": "many", "TQDM_DISABLE": "perhaps"}
    code = "import bpfree; bpfree.run(bpfree.Experiment('bp', architecture='1x4', max_epochs=1)); print('ok')"
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.stdout == "ok\n"
    assert "Traceback" not in process.stderr
