"""What the README tells its readers to type works as it stands: snippets are run in order, commands as far as
they neither train for hours nor need a network or a cluster."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bpfree
import run_all
from bpfree import data
from bpfree.energy.__main__ import main as energy
from bpfree.tuning import __main__ as tuning

README = Path(run_all.__file__).parent / "README.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
SNIPPETS = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(part, comments=True)
    for language, code in BLOCKS
    if language != "python"
    for line in code.splitlines()
    for part in line.split(" && ")
    if part.strip()
]
#: Executables that install, test or submit; what they are given to run is among the others.
INSTALLS = ("python3", ".venv/bin/pip", ".venv/bin/pytest", "sbatch")


def of(*program: str) -> list[list[str]]:
    """The arguments of the README's commands that run this program, by itself or by way of sbatch."""
    wrapped = [
        shlex.split(command[command.index("--wrap") + 1]) for command in COMMANDS if "--wrap" in command
    ]
    return [c[len(program) :] for c in (*COMMANDS, *wrapped) if c[: len(program)] == list(program)]


RUN_ALL = of(".venv/bin/python", "run_all.py")
TUNING = of(".venv/bin/python", "-m", "bpfree.tuning")
ENERGY = of("python", "-m", "bpfree.energy")
LISTED = [c for c in RUN_ALL if not {"--download", "--jobs"} & set(c)]


def test_every_command_is_tested():
    installing = [c for c in COMMANDS if c[0] in INSTALLS]
    wrapped = sum(c[0] == "sbatch" for c in COMMANDS)
    assert len(COMMANDS) == len(installing) + len(RUN_ALL) + len(TUNING) - wrapped + len(ENERGY)
    assert len(SNIPPETS) == 2
    assert min(len(RUN_ALL), len(TUNING), len(ENERGY), len(LISTED)) >= 2


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Fashion-MNIST, but for its content and the number of its images."""
    known = replace(data.PUBLISHED["fashion_mnist"], train=90, test=20)
    monkeypatch.setitem(data.PUBLISHED, "fashion_mnist", known)
    chance = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", known.train), ("test", known.test)):
        arrays[f"y_{split}"] = np.arange(n) % known.classes
        arrays[f"x_{split}"] = chance.integers(0, 256, (n, *known.image), dtype=np.uint8)
    np.savez(tmp_path / "fashion_mnist.npz", **arrays)
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path))
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))


@pytest.mark.usefixtures("fashion")
def test_snippets_run_in_order(capsys):
    # As after the main command, which leaves several runs of an arm and a seed in the store.
    for name, rate in (("bp", 0.1), ("bp", 0.01), ("mf", 0.01)):
        arm = bpfree.Experiment(name, architecture="1x4", max_epochs=1, hyperparameters={"lr": rate})
        bpfree.run(arm, progress=False)
    names = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(README), "exec"), names)
    assert [run.experiment.algorithm for run in names["runs"]] == ["bp", "mf"]
    [contrast] = names["stats"].contrasts(names["ours"]).to_dict("records")
    assert (contrast["algorithm"], contrast["n"]) == ("mf", 1)
    assert len(names["compare"].beside(names["ours"], source="thesis"))
    assert names["epoch"].reading.provenance
    assert "gCO2e" in capsys.readouterr().out


@pytest.mark.parametrize("words", RUN_ALL, ids=" ".join)
def test_run_all_takes_these_options(words, monkeypatch):
    taken = []
    monkeypatch.setattr(run_all, "run_batch", lambda args, notebooks: taken.append(args) or 0)
    assert run_all.main(words) == 0
    assert taken[0].profile in ("quick", "laptop", "paper", "evidence")


@pytest.mark.slow
@pytest.mark.parametrize("words", LISTED, ids=" ".join)
def test_run_all_lists_what_it_would_run(words, capsys):
    assert run_all.main([*words, *([] if "--list" in words else ["--list"])]) == 0
    assert " runs, timed by a few steps" in capsys.readouterr().out


@pytest.mark.slow
def test_the_main_command_twice_at_once(tmp_path):
    """From another folder, with results elsewhere; the two share store, results and machine."""
    command = [sys.executable, str(README.parent / "run_all.py"), "--output", "results"]
    environment = {**os.environ, "BPFREE_STORE": "store"}
    two = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], "\n".join(said)
    index = (tmp_path / "results/quick/index.html").read_text(encoding="utf-8")
    chapters = len(list((README.parent / "notebooks").glob("*.ipynb")))
    assert f"{chapters} of {chapters} chapters finished" in index


@pytest.mark.parametrize("words", TUNING, ids=" ".join)
def test_the_search_takes_these_options(words, monkeypatch):
    taken = []
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or the command sets it, for good
    monkeypatch.setattr(tuning, "finish_studies", lambda args, argv: taken.append(args) or 0)
    assert tuning.main([word.replace("$STORAGE", "s.log") for word in words]) == 0
    assert taken[0].data == "fashion_mnist"


@pytest.mark.parametrize("words", ENERGY, ids=" ".join)
def test_the_meter_runs_these_commands(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "train.py").write_text("raise SystemExit(3)")
    assert energy(words) == (3 if "train.py" in words else 0)


# ---------------------------------------------------------------- what it says of the committed data


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """A row per run of the study on real data, under the one stopping rule."""
    rows = pd.read_csv(README.parent / "figures/data/runs.csv", dtype={"preset": str})
    rows = rows[(rows["data"] != "digits") & (rows["protocol"] == "convergence")]
    return rows[rows["chapters"].str.contains("05")]


def ratios(runs: pd.DataFrame, column: str, algorithm: str) -> pd.Series:
    """Of means, to BP's on the same network."""
    means = runs.groupby(["data", "architecture", "algorithm"])[column].mean().unstack()
    return (means[algorithm] / means["bp"]).dropna()


@pytest.mark.parametrize("algorithm", ["mf", "cafo_rand"])
def test_local_learning_makes_more_passes_and_each_costs_less(runs, algorithm):
    assert (ratios(runs, "outcome epochs", algorithm) > 1).all()
    measured = runs.assign(joules=runs["cost total_measured_j"] / runs["outcome epochs"])
    measured = measured[measured["device"] == "cuda"]
    pairs = measured.pivot_table("joules", ["data", "architecture", "seed"], "algorithm")[["bp", algorithm]]
    pairs = pairs.dropna()
    assert (pairs[algorithm] < pairs["bp"]).all()
    assert (pairs.groupby(["data", "architecture"]).size() == 1).all()  # "one pair a network"
    assert len(pairs)


def test_most_of_what_a_pass_saves_is_saved_without_keeping_anything():
    table = pd.read_csv(README.parent / "figures/data/pass_cost.csv")
    table = table[table["metric"] == "train"].set_index(["data", "architecture", "algorithm", "prefix"])
    train = table["value"].unstack(["algorithm", "prefix"]).dropna(subset=[("mf", "recomputed")])
    assert len(train) >= 2
    saved = train["bp", "kept"] - train["mf", "kept"]
    assert ((train["bp", "kept"] - train["mf", "recomputed"]) / saved).between(0.5, 1).all()


def test_late_passes_with_subnormal_numbers_take_more_than_twice_as_long():
    table = pd.read_csv(README.parent / "figures/data/subnormals.csv").query("algorithm == 'mf'")
    late = table.groupby("subnormal")["value"].apply(lambda passes: passes.tail(5).mean())
    assert late["kept"] > 2 * late["zero"]


def test_what_each_power_sensor_has_of_the_energy():
    table = pd.read_csv(README.parent / "figures/data/sensors.csv")
    joules = table.pivot(index="phase", columns="sensor", values="joules")
    share = joules[["instant", "average"]].div(joules["counter"], axis=0)
    steady = share.loc[~share.index.str.contains("bursts")]
    [bursts] = share.loc[share.index.str.contains("bursts")].to_dict("records")
    assert steady["instant"].between(0.99, 1.01).all()
    assert (steady["average"] < 1).all()
    assert bursts["instant"] < 0.9
    assert bursts["average"] > 1


def test_what_the_first_run_shows_of_the_digits():
    rows = pd.read_csv(README.parent / "figures/data/runs.csv", dtype={"preset": str})
    shown = rows[
        (rows["data"] == "digits") & rows["chapters"].str.contains("03") & (rows["protocol"] == "convergence")
    ]
    means = shown.groupby("algorithm")["outcome test_accuracy"].mean().round()
    assert (means["bp"], means["mf"]) == (89, 90)


def test_what_accuracies_the_other_commands_should_reach(runs):
    text = " ".join(README.read_text(encoding="utf-8").split())
    means = runs.groupby(["data", "architecture", "algorithm"])["outcome test_accuracy"].mean()
    assert (runs[(runs["data"] == "cifar10") & (runs["architecture"] == "3x2000")]["max_epochs"] == 100).all()
    told = re.search(r"with up to 100 epochs a stage: BP ([\d.]+) %, MF ([\d.]+) %", text).groups()
    assert told == tuple(f"{means['cifar10', '3x2000', name]:.1f}" for name in ("bp", "mf"))
    told = re.search(r"about (\d+) % on MNIST and (\d+) % on Fashion-MNIST, BP as well as MF", text).groups()
    for name, percent in zip(("mnist", "fashion_mnist"), map(int, told), strict=True):
        assert all(abs(means[name, "2x1000", arm] - percent) < 1 for arm in ("bp", "mf"))
    trials = pd.read_csv(README.parent / "figures/data/tuning.csv").query("data == 'fashion_mnist'")
    best = trials.groupby("algorithm")["value"].max()
    told = re.search(r"should be near ([\d.]+) % for `bp` and ([\d.]+) % for `mf`", text).groups()
    assert told == (f"{best['bp']:.1f}", f"{best['mf']:.1f}")
    [minutes] = re.findall(r"On two cores the first takes about (\d+) minutes", text)
    assert int(minutes) == round(trials["seconds"].sum() / 60 / 2, -1)  # two workers


def test_what_was_measured_apart_has_a_command_that_says_what_it_writes():
    for command in (README.parent / "figures/measure").glob("*.py"):
        first = command.read_text(encoding="utf-8").partition("\n")[0]
        assert f"Writes figures/data/{command.stem}.csv." in first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["launches", "pass_cost", "scaling"])
def test_what_was_measured_apart_can_be_measured_again(name, tmp_path):
    command = [
        sys.executable,
        str(README.parent / f"figures/measure/{name}.py"),
        "--quick",
        "--out",
        "table.csv",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "table.csv")
    assert {"metric", "value", "unit", "machine"} <= set(table)
    assert (table["value"] > 0).any()
