"""How long each algorithm may train, and with which settings."""

import csv
from dataclasses import asdict
from importlib import resources

import pytest

from bpfree.errors import InvalidInput, UnknownName
from bpfree.experiments import tuned
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.protocols import PROTOCOLS, Protocol, Rule, add_protocol, rule
from bpfree.training import Stopping


def lines(**where) -> dict[str, str]:
    """Parameter and value of one published arm, as text, straight from the file."""
    with (resources.files("bpfree.experiments.published") / "hyperparameters.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if all(r[k] == v for k, v in where.items())]
    return {row["parameter"]: row["value"] for row in rows}


ARMS = [
    ("mf", "fashion_mnist", "2x1000"),
    ("mf", "cifar10", "3x2000"),
    ("bp", "cifar10", "3x2000"),
    ("bp", "cifar100", "cnn"),
]


@pytest.mark.parametrize("arm", ARMS)
def test_published_is_what_the_file_says_of_the_arm(arm):
    algorithm, data, architecture = arm
    expected = lines(source="thesis", algorithm=algorithm, data=data, architecture=architecture)
    found = rule("published", *arm)
    assert (found.source, found.preset, found.max_epochs) == ("thesis", "thesis", None)
    settings = {**found.hyperparameters, **{f"stopping.{k}": v for k, v in asdict(found.stopping).items()}}
    assert settings.keys() == expected.keys()
    for name, text in expected.items():
        assert settings[name] == (text if isinstance(settings[name], str) else float(text))


def test_published_mono_forward_ends_at_the_papers_cap_and_keeps_its_last_weights():
    """Fashion-MNIST: twelve epochs a stage at most, patience ten, by loss (its own logs: 23 of 24)."""
    found = rule("published", "mf", "fashion_mnist", "2x1000")
    assert found.stopping == Stopping("val_loss", 10, 1e-4, "last")
    assert found.hyperparameters["epochs"] == 12
    assert rule("published", "mf", "cifar100", "3x2000").hyperparameters["epochs"] == 8


@pytest.mark.parametrize("arm", [*ARMS, ("mf", "digits", "2x256"), ("bp_ds", "cifar10", "3x2000")])
def test_convergence_is_one_rule_for_all(arm):
    found = rule("convergence", *arm)
    assert found.stopping == Stopping("val_accuracy", 20, 0.0, "best")
    assert (found.max_epochs, found.preset) == (100, None)
    assert not any(name in found.hyperparameters for name in ("epochs", "block_epochs"))


def test_convergence_takes_published_rates_where_there_are_some():
    for source in ("thesis", "2026"):
        expected = lines(source=source, algorithm="mf", data="fashion_mnist", architecture="2x1000")
        found = rule("convergence", "mf", "fashion_mnist", "2x1000", None if source == "thesis" else source)
        assert found.hyperparameters["lr"] == float(expected["lr"])
        assert found.source == source
    digits = rule("convergence", "mf", "digits", "2x256")
    assert (digits.hyperparameters, digits.source) == ({}, "defaults")


def test_an_arm_of_which_the_camera_ready_gives_no_settings_takes_the_thesis_s():
    bp, mf = (rule("convergence_loss", name, "cifar10", "3x2000") for name in ("bp", "mf"))
    assert (bp.source, mf.source) == ("thesis", "2026")
    assert bp.hyperparameters == rule("convergence", "bp", "cifar10", "3x2000").hyperparameters
    assert rule("convergence_loss", "mf_interleaved", "cifar10", "3x2000").source == "defaults"
    with pytest.raises(InvalidInput, match="no stopping rule for bp_ds"):
        rule("published", "bp_ds", "cifar10", "3x2000")


def test_a_preset_says_whose_settings_and_whose_choices():
    found = rule("convergence", "mf_joint", "fashion_mnist", "2x1000", "2026")
    assert (found.preset, found.source) == ("2026", "2026")
    assert found.hyperparameters["aux_weight"] == pytest.approx(0.07, abs=1e-4)  # section 4 of the report


@pytest.mark.parametrize(
    ("algorithm", "data", "architecture", "metric"),
    [
        ("mf", "fashion_mnist", "2x1000", "val_loss"),
        ("bp", "mnist", "3x1000", "val_loss"),
        ("cafo_dfa", "cifar10", "cnn", "val_loss"),
        ("ff", "mnist", "3x1000", "val_accuracy"),
        ("ff_sgd", "mnist", "3x1000", "val_accuracy"),
    ],
)
def test_the_camera_readys_rule_is_by_loss_but_for_forward_forward(algorithm, data, architecture, metric):
    found = rule("convergence_loss", algorithm, data, architecture)
    assert found.stopping == Stopping(metric, 20, 0.0, "best")
    assert (found.max_epochs, found.preset, found.budget) == (100, "2026", None)
    assert rule("convergence_loss", algorithm, data, architecture, "thesis").preset == "thesis"


@pytest.mark.parametrize(("protocol", "budget"), [("matched", "passes"), ("equal_energy", "energy")])
def test_a_budget_replaces_stopping_and_nothing_else(protocol, budget):
    found, plain = (rule(p, "mf", "fashion_mnist", "2x1000") for p in (protocol, "convergence"))
    assert found.stopping == Stopping("val_accuracy", None)
    assert (found.max_epochs, found.budget) == (None, budget)
    assert (found.hyperparameters, found.preset) == (plain.hyperparameters, plain.preset)


def test_tuned_settings_come_from_tuning_with_this_packages_choices(monkeypatch):
    monkeypatch.setattr(tuned, "settings", lambda **_: {"lr": 0.25, "epochs": 3})
    found = rule("convergence", "mf", "digits", "2x256", "tuned")
    assert (found.preset, found.source) == ("tuned", "tuned")
    assert found.hyperparameters == {"lr": 0.25}  # how long is the protocol's to say
    monkeypatch.setattr(tuned, "settings", lambda **_: {})
    with pytest.raises(InvalidInput, match=r"mf on digits 2x256 has not been tuned: run bpfree\.tuning"):
        rule("convergence", "mf", "digits", "2x256", "tuned")


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        (
            ("mf", "digits", "2x256"),
            ("mf on digits 2x256", "'thesis'", "fashion_mnist 2x1000", "cifar10 3x2000"),
        ),
        (("mf_interleaved", "cifar10", "3x2000"), ("nothing of this algorithm was published there",)),
        (("mf", "fashion_mnist", "2x1000", "2026"), ("'2026'",)),
    ],
)
def test_an_arm_that_was_not_published_says_which_were(arm, says):
    with pytest.raises(InvalidInput) as raised:
        rule("published", *arm)
    assert all(word in str(raised.value) for word in (*says, "use protocol='convergence'"))
    assert "\n" not in str(raised.value)


def test_an_unknown_protocol_suggests_the_nearest():
    with pytest.raises(UnknownName, match="unknown protocol 'convergance': did you mean 'convergence'"):
        rule("convergance", "mf", "digits", "2x256")


def test_a_rule_of_ones_own_need_not_know_of_budgets():
    class Short(Protocol):
        def rule(self, algorithm, data, architecture, preset=None):
            return Rule(Stopping(patience=None, restore="last"), 4, None, {"lr": 0.5}, budget="own")

    add_protocol("short", Short(budget="own"))
    try:
        assert Experiment("bp", "digits", protocol="short", max_epochs=2).rule().hyperparameters["lr"] == 0.5
    finally:
        del PROTOCOLS["short"]
