"""An algorithm and a network of somebody's own, in one file: named, they work like ours, and nothing of the
package is touched."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bpfree
import run_all
from bpfree import Experiment, tuning
from bpfree.algorithms.arms import add, look
from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import figures, stats, tables
from bpfree.experiments import jobs, study
from bpfree.experiments.experiment import build, trained
from bpfree.experiments.forecast import forecast
from bpfree.experiments.store import Store, epochs, key_of

OWN = '''
import math
from torch import nn
from torch.nn.functional import cross_entropy

from bpfree import Algorithm, Arm, Blocks, Range


class Reservoir(Algorithm):
    """Only the read-out learns; the blocks stay as they were initialised."""

    presets = {"thesis": {"optimiser": "sgd"}}

    def __init__(self, model, *, sharpness=1.0, **common):
        super().__init__(model, **common)
        self.sharpness = sharpness
        self.heads["output"] = self.head(len(model.blocks))

    def stages(self):
        depth = len(self.model.blocks)
        moving = self.heads.parameters()
        return [self.stage("read-out", moving, self.losses, self.readout, self.model.blocks, layer=depth)]

    def readout(self, a):
        return self.sharpness * self.heads["output"](a)

    def losses(self, a, labels, generator):
        yield cross_entropy(self.readout(a), labels)


sharp = Arm(
    "sharp",
    Reservoir,
    {"sharpness": 2.0},
    label="Sharp reservoir",
    space={"lr": Range(1e-3, 1e-1, "log"), "batch_size": Range(32, 128, "int")},
    colour="#123456",
)


class Pooled(Blocks):
    """Two convolutions, whose channels are averaged over the image before a head reads them."""

    def __init__(self, shape, *, classes):
        layers = [nn.Conv2d(shape[0], 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)]
        blocks = [nn.Sequential(layer, nn.ReLU()) for layer in layers]
        super().__init__(blocks, [4, 6], inputs=math.prod(shape), classes=classes, read="mean")

    def initialise_parameter(self, name, value, generator):
        if name.endswith("bias"):
            value.fill_(0.25)
            return True
        return False


class Squared(Pooled):
    """The same, read by a function."""

    version = 2

    def __init__(self, shape, *, classes):
        super().__init__(shape, classes=classes)
        self.read = lambda a: a.square().amax((2, 3))


sharp_too = Arm("mine", Reservoir)
number = 3
'''
HOW = {"max_epochs": 2, "device": "cpu", "hyperparameters": {"lr": 0.01}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the file in it, from which everything is run."""
    (tmp_path / "own_parts.py").write_text(OWN)
    (tmp_path / "broken_parts.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    yield tmp_path
    for name in ("own_parts", "broken_parts"):
        sys.modules.pop(name, None)


def runs(seeds=(0, 1), algorithms=("bp", "own_parts:Reservoir", "own_parts:sharp")):
    experiments = [
        Experiment(a, seed=seed, architecture="own_parts:Pooled", **HOW) for a in algorithms for seed in seeds
    ]
    return bpfree.run_many(experiments, progress=False)


# ---------------------------------------------------------------- trained and kept


def test_an_algorithm_on_a_network_is_trained_stored_and_read_again():
    [record] = runs((0,), ("own_parts:Reservoir",))
    assert record.experiment["algorithm"] == "own_parts:Reservoir"
    assert record.experiment["architecture"] == "own_parts:Pooled"
    [again] = runs((0,), ("own_parts:Reservoir",))
    assert (again.key, again.cost["total_s"]) == (
        record.key,
        record.cost["total_s"],
    )  # read, not trained again
    data = bpfree.load("digits")
    scores = trained(record, data).predict(data.x_test)
    accuracy = 100.0 * (scores.argmax(1) == data.y_test).double().mean().item()
    assert accuracy == pytest.approx(record.metrics["test_accuracy"])
    assert list(record.history["stage"].unique()) == ["read-out"]


def test_an_arm_brings_its_options_and_keeps_them():
    experiment = Experiment("own_parts:sharp", architecture="2x8", **HOW)
    data = bpfree.load("digits")
    algorithm = build(experiment.resolve(data), data)
    assert (algorithm.sharpness, algorithm.name) == (2.0, "own_parts:sharp")
    with pytest.raises(InvalidInput, match=r"sharpness=1.0 contradicts 'own_parts:sharp'"):
        Experiment("own_parts:sharp", options={"sharpness": 1.0})
    with pytest.raises(UnknownName, match="unknown preset of own_parts:sharp 'thesys'"):
        Experiment("own_parts:sharp", preset="thesys")
    assert experiment.against("bp").hyperparameters == {"lr": 0.01}


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("mf", "Pooled"),
        ("cafo_dfa", "Pooled"),
        ("bp_ds", "Squared"),
        ("mf_interleaved", "Squared"),
        ("cafo_rand_mse", "Squared"),
    ],
)
def test_our_algorithms_read_a_network_as_it_says(name, network):
    experiment = Experiment(name, architecture=f"own_parts:{network}", max_epochs=1, device="cpu")
    record = bpfree.run(experiment, progress=False)
    data = bpfree.load("digits")
    algorithm = trained(record, data)
    assert {algorithm.heads[name].in_features for name in algorithm.heads} == {4, 6}
    assert algorithm.predict(data.x_test).shape == (360, 10)


def test_dfa_s_signal_goes_backwards_through_the_reading():
    """δ = e B_i, where the head reads; at the block's output its pull-back: for a mean, an equal share."""
    network = own("Pooled")((1, 4, 4), classes=3)
    dfa = bpfree.CascadedForward(network, blocks="dfa")
    dfa.initialise(0)
    a, e = torch.randn(5, 4, 4, 4), torch.randn(5, 3)
    share = (e @ dfa.feedback(1)) / 16
    assert torch.allclose(dfa.signal(1, a, e), share[:, :, None, None].expand(a.shape))
    flat = bpfree.CascadedForward(bpfree.CaFoCNN((1, 8, 8), classes=3, channels=(4, 6)), blocks="dfa")
    flat.initialise(0)
    assert torch.equal(flat.signal(1, a, e), (e @ flat.feedback(1)).view(a.shape))


def own(name):
    return bpfree.errors.named(f"own_parts:{name}", "network")


def test_a_network_keeps_its_own_start_and_leaves_the_rest_to_the_algorithm():
    algorithm = bpfree.MonoForward(own("Pooled")((1, 8, 8), classes=3))
    algorithm.initialise(0)
    twin = bpfree.MonoForward(own("Squared")((1, 8, 8), classes=3))
    twin.initialise(0)
    for name, value in algorithm.named_parameters():
        assert torch.equal(value, twin.get_parameter(name))
        if name.endswith("bias"):
            assert torch.equal(value, torch.full_like(value, 0.25))
        else:
            bound = value[0].numel() ** -0.5
            assert value.abs().max() <= bound
            assert value.std() > 0.4 * bound


# ---------------------------------------------------------------- keys


def test_a_version_is_in_the_key_and_nothing_else_is_new():
    data = bpfree.load("digits")
    plain = Experiment("bp", architecture="own_parts:Pooled", device="cpu").resolve(data)
    versioned = Experiment("bp", architecture="own_parts:Squared", device="cpu").resolve(data)
    ours = Experiment("bp", device="cpu").resolve(data)
    assert plain.keys() == ours.keys()
    assert versioned == {**plain, "architecture": "own_parts:Squared", "network_version": 2}
    own("Squared").version = 3
    again = Experiment("bp", architecture="own_parts:Squared", device="cpu").resolve(data)
    assert key_of(again) != key_of(versioned)


# ---------------------------------------------------------------- searched, planned


def test_an_arm_is_searched_in_its_own_space():
    experiment = Experiment("own_parts:Reservoir", architecture="1x8", max_epochs=1, device="cpu")
    assert list(tuning.space(experiment)) == ["lr", "weight_decay"]
    sharp = Experiment("own_parts:sharp", architecture="own_parts:Pooled", max_epochs=1, device="cpu")
    assert tuning.space(sharp) == {"lr": (1e-3, 1e-1, "log"), "batch_size": (32, 128, "int")}
    assert list(tuning.search_spaces(sharp)["algorithm"]) == ["Sharp reservoir"] * 2
    found = tuning.tune(experiment, 2, progress=False)
    assert set(tuning.best(found)) == {"lr", "weight_decay"}
    tuning.equal_budget([experiment], 2, progress=False)
    tuned = Experiment("own_parts:Reservoir", architecture="1x8", preset="tuned", max_epochs=1, device="cpu")
    assert tuned.rule().hyperparameters["lr"] == tuning.best(found)["lr"]


def test_an_arm_runs_over_a_profile_and_is_forecast():
    chosen = study.profile("quick")
    experiments = chosen.arms("mf", "bp", "own_parts:sharp")
    assert [e.algorithm for e in experiments] == ["bp"] * 3 + ["own_parts:sharp"] * 3
    assert {e.resolved_architecture for e in experiments} == {"2x256"}
    table = forecast(experiments, progress=False)
    assert list(table["algorithm"]) == ["bp", "own_parts:sharp"]
    assert (table["epochs"] > 0).all()


# ---------------------------------------------------------------- tables and figures


def test_it_stands_last_in_tables_and_figures():
    records = runs()
    frame = bpfree.records()
    labels = ["BP", "Reservoir", "Sharp reservoir"]
    assert list(tables.summary(frame)["algorithm"]) == labels
    assert list(tables.mf_performance(frame)["algorithm"].unique()) == labels
    contrasts = stats.contrasts(frame)
    assert list(contrasts["algorithm"]) == ["own_parts:Reservoir", "own_parts:sharp"]
    for figure in (
        figures.bill(frame),
        figures.comparison.accuracy_against_energy(frame),
        figures.comparison.decomposition(frame),
        figures.forest.forest(contrasts),
        figures.learning_curves(epochs(records)),
        figures.curves.against_seconds(epochs(records)),
    ):
        figure.draw_without_rendering()
        texts = [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]
        assert list(dict.fromkeys(t for t in texts if t in labels[1:])) == labels[1:]
    assert look("own_parts:sharp").colour == "#123456"


def test_records_are_drawn_where_the_module_is_not():
    """As on the machine of somebody who was sent them."""
    runs()
    frame = bpfree.records()
    there = frame.assign(algorithm=frame["algorithm"].str.replace("own_parts", "never_imported"))
    assert list(tables.summary(there)["algorithm"]) == ["BP", "Reservoir", "sharp"]
    figures.bill(there).draw_without_rendering()
    assert "never_imported" not in sys.modules


# ---------------------------------------------------------------- in other processes


def test_a_job_in_another_process_finds_it(here):
    experiment = Experiment("own_parts:sharp", architecture="own_parts:Pooled", **HOW)
    assert jobs.submit([experiment], "local", progress=False) == []
    [key] = Store()
    assert Store().read(key).experiment["algorithm"] == "own_parts:sharp"


def test_the_command_that_tunes_finds_it(here):
    command = [sys.executable, "-m", "bpfree.tuning", "own_parts:sharp", "--trials", "1", "--max-epochs", "1"]
    done = subprocess.run(
        [*command, "--architecture", "own_parts:Pooled"], capture_output=True, text=True, cwd=here
    )
    assert done.returncode == 0, done.stderr
    assert "own_parts_sharp" in done.stdout


# ---------------------------------------------------------------- by a name without a module

TABLE = """
from dataclasses import replace
from bpfree.algorithms import add
from own_parts import sharp
add(replace(sharp, name="mine", label="My own"))
"""


@pytest.mark.slow
def test_a_batch_has_what_a_module_adds_in_its_chapters_and_its_jobs(here):
    """From the folder of the module, which is not the one in which kernels work."""
    (here / "own_table.py").write_text(TABLE)
    command = [sys.executable, Path(run_all.__file__), "--with", "own_table", "--only", "03"]
    done = subprocess.run(
        [*command, "--seeds", "0", "--executor", "local", "--output", "out"],
        capture_output=True,
        text=True,
        cwd=here,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "local: 4 of 4 runs are in the store" in done.stdout
    assert sorted(Store().read(key).experiment["algorithm"] for key in Store()) == [
        "bp",
        "mf",
        "mf_interleaved",
        "mine",
    ]
    page = (here / "out/quick/03_mono_forward.html").read_text(encoding="utf-8")
    assert "<td>My own</td>" in page


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("no_such_module", "unknown module 'no_such_module' of --with: there is no module 'no_such_module'"),
        ("broken_parts", "module 'broken_parts' of --with: importing broken_parts failed"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(module, says, capsys):
    assert run_all.main(["--with", module, "--list"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_an_arm_that_is_added_is_known_by_its_name():
    mine = add(replace(own("sharp"), name="mine"))
    try:
        assert add(mine) is mine
        assert bpfree.arm("mine") is mine
        assert list(bpfree.ARMS)[-1] == "mine"
        assert Experiment("mine", architecture="1x4").resolved_options is not None
        assert mine.make(bpfree.MLP([4, 3], classes=2)).name == "mine"
        assert own("Reservoir")(bpfree.MLP([4, 3], classes=2)).name == "Reservoir"
        with pytest.raises(InvalidInput, match="an arm 'mine' is there already"):
            add(own("sharp_too"))
    finally:
        del bpfree.ARMS["mine"]


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("no_such_module:Mine", UnknownName, "there is no module 'no_such_module' in the current folder"),
        ("own_parts:Resevoir", UnknownName, "did you mean 'own_parts:Reservoir'?"),
        ("own_parts:", UnknownName, 'write "module:object"'),
        (":Reservoir", UnknownName, 'write "module:object"'),
        ("own_parts:number", InvalidInput, "it names neither a bpfree.Algorithm nor a bpfree.Arm"),
        ("own_parts:Pooled", InvalidInput, "it names neither a bpfree.Algorithm nor a bpfree.Arm"),
        ("broken_parts:Mine", InvalidInput, "importing broken_parts failed"),
    ],
)
def test_an_algorithm_that_cannot_be_is_one_line(text, error, says):
    with pytest.raises(error) as raised:
        Experiment(text)
    assert says in str(raised.value)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["own_parts:Reservoir", "own_parts:number"])
def test_a_network_that_cannot_be_is_one_line(text):
    with pytest.raises(InvalidInput, match=f"architecture '{text}': it names no subclass of bpfree.Blocks"):
        Experiment("bp", architecture=text)
    with pytest.raises(UnknownName, match="unknown read 'men': did you mean 'mean'"):
        bpfree.Blocks([], [], 1, 2, read="men")
