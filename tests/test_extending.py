"""An algorithm, a network, a protocol and a stop rule of somebody's own, in one file: named, they work like
ours, and nothing of the package is touched."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bpfree
import run_all
from bpfree import Experiment, Stopping, tuning
from bpfree.algorithms.arms import add_arm, look
from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import evidence, figures, stats, tables
from bpfree.experiments import jobs, protocols, study
from bpfree.experiments.experiment import build, trained
from bpfree.experiments.forecast import forecast
from bpfree.experiments.store import Store, epochs

OWN = '''
import math
from torch import nn
from torch.nn.functional import cross_entropy

from bpfree import Algorithm, Arm, Blocks, Protocol, Range, Rule, Stopping


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

    def losses(self, a, labels, chance):
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


brief = Protocol(Stopping("val_loss", patience=1), max_epochs=3)


class ByDepth(Protocol):
    """As many epochs as the network has layers, for Forward-Forward twice as many."""

    def rule(self, algorithm, data, architecture, preset=None):
        layers = int(architecture.partition("x")[0])
        cap = layers * (2 if algorithm.startswith("ff") else 1)
        return Rule(Stopping(patience=None), cap, preset, {"lr": 0.02}, "my own")


shared = Protocol(Stopping(patience=None), None, budget="passes")


class Ruleless(Protocol):
    def rule(self, *arm):
        return 3


class After:
    """Stops after so many epochs, and keeps the weights of the last."""

    version = 1

    def __init__(self, epochs):
        self.epochs = epochs

    def stop(self, rows):
        return len(rows) >= self.epochs

    def best(self, rows):
        return len(rows)


two, three = After(2), After(3)
unnamed = Protocol(After(2))
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
    assert record.experiment.algorithm == "own_parts:Reservoir"
    assert record.experiment.architecture == "own_parts:Pooled"
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
    assert plain.plain().keys() == ours.plain().keys()
    assert versioned == replace(plain, architecture="own_parts:Squared", network_version=2)
    own("Squared").version = 3
    again = Experiment("bp", architecture="own_parts:Squared", device="cpu").resolve(data)
    assert again.key != versioned.key


# ---------------------------------------------------------------- protocols and stop rules


def plain(**changes) -> Experiment:
    return Experiment(**{"algorithm": "bp", "architecture": "2x8", "device": "cpu", **changes})


def test_a_protocol_is_one_rule_for_all_or_what_it_says_of_each_arm():
    rule = plain(protocol="own_parts:brief").rule()
    assert (rule.stopping, rule.max_epochs, rule.source) == (Stopping("val_loss", 1), 3, "defaults")
    paper = plain(data="mnist", architecture="2x1000")
    mnist = replace(paper, protocol="own_parts:brief").rule()
    assert (mnist.source, mnist.hyperparameters) == ("thesis", paper.rule().hyperparameters)
    assert plain(protocol="own_parts:ByDepth").rule().max_epochs == 2
    assert plain(protocol="own_parts:ByDepth", algorithm="ff").rule().max_epochs == 4
    record = bpfree.run(plain(protocol="own_parts:ByDepth"), progress=False)
    assert (record.metrics["epochs"], record.stages[0]["ended"]) == (2, "cap")
    assert record.experiment.options["lr"] == 0.02
    assert (record.experiment.protocol, record.experiment.hyperparameters_from) == (
        "own_parts:ByDepth",
        "my own",
    )


def test_what_a_protocol_says_and_not_its_name_decides_which_run_it_is():
    ours = plain(max_epochs=2, hyperparameters={"lr": 0.02})
    theirs = replace(ours, protocol="own_parts:brief")
    data = bpfree.load("digits")
    assert ours.resolve(data).key != theirs.resolve(data).key  # it stops by the loss, after one epoch
    own("brief").__dict__.update(stopping=Stopping())
    assert ours.resolve(data).key == theirs.resolve(data).key
    pair = bpfree.run_many([ours, theirs], progress=False)
    assert pair[0].cost == pair[1].cost
    assert list(bpfree.records().groupby("protocol")["key"].nunique()) == [1, 1]


def test_a_protocol_that_shares_out_what_bp_took():
    record = bpfree.run(plain(protocol="own_parts:shared", algorithm="mf", max_epochs=4), progress=False)
    assert record.experiment.budget == bpfree.Budget("passes", 4)
    assert record.metrics["epochs"] == 4


def test_a_protocol_that_is_added_is_known_by_its_name():
    mine = protocols.add_protocol("mine", own("shared"))
    try:
        assert protocols.add_protocol("mine", mine) is mine
        assert list(protocols.PROTOCOLS)[-1] == "mine"
        assert protocols.BUDGETS["mine"] == "passes"
        assert plain(protocol="mine").rule() == plain(protocol="own_parts:shared").rule()
        with pytest.raises(InvalidInput, match="a protocol 'mine' is there already"):
            protocols.add_protocol("mine", own("brief"))
    finally:
        del protocols.PROTOCOLS["mine"], protocols.BUDGETS["mine"]


def test_a_stop_rule_stands_in_the_place_of_the_protocols():
    (two, three, usual) = (
        bpfree.run(plain(stopping=name, max_epochs=4), progress=False)
        for name in ("own_parts:two", "own_parts:three", None)
    )
    assert [r.metrics["epochs"] for r in (two, three, usual)] == [2, 3, 4]
    assert (two.stages[0]["ended"], two.stages[0]["restored"]) == ("patience", 2)
    assert len({r.key for r in (two, three, usual)}) == 3
    assert (two.experiment.stopping, two.experiment.stopping_version) == ("own_parts:two", 1)
    again = bpfree.run(plain(stopping="own_parts:two", max_epochs=4), progress=False)
    assert again.cost == two.cost  # read, not trained again
    own("After").version = 2
    assert plain(stopping="own_parts:two", max_epochs=4).resolve(bpfree.load("digits")).key != two.key


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
        figures.comparison.accuracy_against_energy(frame),
        figures.comparison.decomposition(frame),
        figures.forest.forest(contrasts),
        figures.learning_curves(epochs(records)),
        figures.curves.against_seconds(epochs(records)),
    ):
        figure.draw_without_rendering()
        said = "; ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))
        places = [said.index(label) for label in labels[1:]]
        assert places == sorted(places)
    assert look("own_parts:sharp").colour == "#123456"


def test_runs_under_a_protocol_of_ones_own_are_shown_beside_the_others(tmp_path):
    experiments = [
        plain(algorithm=algorithm, protocol=protocol, seed=seed, max_epochs=2)
        for protocol in ("own_parts:shared", "convergence")
        for algorithm in ("bp", "mf")
        for seed in (0, 1)
    ]
    found = bpfree.run_many(experiments, progress=False)
    frame = bpfree.records()
    assert set(tables.summary(frame)["protocol"]) == {"convergence", "own_parts:shared"}
    assert set(stats.contrasts(frame, baseline_protocol="convergence")["protocol"]) == {
        "convergence",
        "own_parts:shared",
    }
    for figure in (
        figures.comparison.accuracy_against_energy(frame),
        figures.learning_curves(epochs(found)),
    ):
        figure.draw_without_rendering()
    kept = evidence.narrow(evidence.wide(evidence.recorded_runs(Store())(experiments)))
    assert len(kept) == len(experiments)
    assert forecast(experiments[:1], progress=False)["protocol"].tolist() == ["own_parts:shared"]


def test_records_are_drawn_where_the_module_is_not():
    """As on the machine of somebody who was sent them."""
    runs()
    frame = bpfree.records()
    there = frame.assign(algorithm=frame["algorithm"].str.replace("own_parts", "never_imported"))
    assert list(tables.summary(there)["algorithm"]) == ["BP", "Reservoir", "sharp"]
    figures.comparison.accuracy_against_energy(there).draw_without_rendering()
    assert "never_imported" not in sys.modules


# ---------------------------------------------------------------- in other processes


def test_a_job_in_another_process_finds_it(here):
    experiment = Experiment("own_parts:sharp", architecture="own_parts:Pooled", **HOW)
    theirs = plain(protocol="own_parts:ByDepth", stopping="own_parts:two", architecture="4x8")
    assert jobs.submit([experiment, theirs], "local", progress=False) == []
    assert {record.experiment.algorithm for record in Store().records()} == {"own_parts:sharp", "bp"}
    [other] = (record for record in Store().records() if record.experiment.algorithm == "bp")
    assert (other.experiment.stopping, other.metrics["epochs"]) == ("own_parts:two", 2)
    assert other.experiment.protocol == "own_parts:ByDepth"


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
from bpfree.algorithms import add_arm
from own_parts import sharp
add_arm(replace(sharp, name="mine", label="My own"))
"""


@pytest.mark.slow
def test_a_batch_has_what_a_module_adds_in_its_chapters_and_its_jobs(here):
    """From the folder of the module, which is not the one in which kernels work."""
    (here / "own_table.py").write_text(TABLE)
    command = [sys.executable, Path(run_all.__file__), "--with", "own_table", "--only", "03"]
    done = subprocess.run(
        [*command, "--seeds", "0", "--jobs", "local", "--output", "out"],
        capture_output=True,
        text=True,
        cwd=here,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "local: 4 of 4 runs are in the store" in done.stdout
    planned = [e for key in Store() if (e := Store().read(key).experiment).architecture != "4x64"]
    assert sorted(e.algorithm for e in planned) == [
        "bp",
        "mf",
        "mf_interleaved",
        "mine",
    ]
    page = (here / "out/quick/03_mono_forward.html").read_text(encoding="utf-8")
    assert re.search(r"<td[^>]*>My own</td>", page)


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
    mine = add_arm(replace(own("sharp"), name="mine"))
    try:
        assert add_arm(mine) is mine
        assert bpfree.arm("mine") is mine
        assert list(bpfree.ARMS)[-1] == "mine"
        assert Experiment("mine", architecture="1x4").resolved_options is not None
        assert mine.make(bpfree.MLP([4, 3], classes=2)).name == "mine"
        assert own("Reservoir")(bpfree.MLP([4, 3], classes=2)).name == "Reservoir"
        with pytest.raises(InvalidInput, match="an arm 'mine' is there already"):
            add_arm(own("sharp_too"))
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


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"protocol": "own_parts:number"}, InvalidInput, "it names no bpfree.Protocol"),
        ({"protocol": "own_parts:breef"}, UnknownName, "did you mean 'own_parts:brief'?"),
        ({"protocol": "own_parts:Ruleless"}, InvalidInput, "gave 3 for bp: let it give a bpfree.Rule"),
        ({"protocol": "own_parts:unnamed"}, InvalidInput, 'name your own as "module:object"'),
        ({"stopping": "own_parts:number"}, InvalidInput, "an object that has stop(rows) and best(rows)"),
        ({"stopping": "own_parts:After"}, InvalidInput, "an object that has stop(rows) and best(rows)"),
        ({"stopping": "own_parts:tow"}, UnknownName, "did you mean 'own_parts:two'?"),
        ({"stopping": "two"}, UnknownName, 'write "module:object"'),
        ({"stopping": Stopping()}, InvalidInput, 'name your own rule, as "module:object"'),
    ],
)
def test_a_protocol_or_a_stop_rule_that_cannot_be_is_one_line(changes, error, says):
    with pytest.raises(error) as raised:
        plain(**changes)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["own_parts:Reservoir", "own_parts:number"])
def test_a_network_that_cannot_be_is_one_line(text):
    with pytest.raises(InvalidInput, match=f"architecture '{text}': it names no subclass of bpfree.Blocks"):
        Experiment("bp", architecture=text)
    with pytest.raises(UnknownName, match="unknown read 'men': did you mean 'mean'"):
        bpfree.Blocks([torch.nn.Identity()], [1], 1, 2, read="men")
    for blocks, features in (([], []), ([torch.nn.Identity()], [1, 1])):
        with pytest.raises(InvalidInput, match="give at least one block, and for each"):
            bpfree.Blocks(blocks, features, 1, 2)
