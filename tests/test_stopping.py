"""Budgets: how passes, seconds and joules are shared out over stages."""

import math

import pytest
import torch
from helpers import ScriptedMeter, arm, outcome, toy, weights
from hypothesis import given
from hypothesis import strategies as st

from bpfree.errors import InvalidInput
from bpfree.training.clock import Clock
from bpfree.training.loop import train
from bpfree.training.stopping import Budget, Length, Stopping


def lengths(name: str, budget: Budget, **options) -> dict[str, int]:
    """Epochs by stage of an arm that was trained on a budget."""
    how = {"max_epochs": options.pop("max_epochs", None), "meter": options.pop("meter", None)}
    history = train(arm(name, **options), toy(), budget=budget, progress=False, **how)
    return {stage.name: len(stage.rows) for stage in history.stages}


@pytest.fixture
def seconds(monkeypatch):
    """Training takes the seconds that a test says, a number an epoch; nothing else takes any."""
    script: list[float] = []
    plain = Clock.region

    def region(self, row, name):
        context = plain(self, {}, name)
        row[f"{name}_s"] = row.get(f"{name}_s", 0.0) + (script.pop(0) if name == "train" else 0.0)
        return context

    monkeypatch.setattr(Clock, "region", region)
    return script


@pytest.mark.parametrize(
    ("name", "passes", "expected"),
    [
        ("mf", 12, [4, 4, 4]),
        ("mf", 13, [5, 5, 5]),  # rounded up
        ("mf", 1, [1, 1, 1]),  # a stage trains for an epoch at least
        ("mf_joint", 7, [7]),
        ("ff", 7, [7]),  # an epoch of Forward-Forward is one pass
    ],
)
def test_passes_are_shared_out_equally_and_rounded_up(name, passes, expected):
    assert list(lengths(name, Budget("passes", passes)).values()) == expected


def test_patience_does_not_cut_a_budget_short():
    # A rate that moves nothing: no epoch is better than the first.
    history = train(
        arm("bp", lr=1e-30), toy(), budget=Budget("passes", 9), stopping=Stopping(patience=1), progress=False
    )
    (stage,) = history.stages
    assert len(stage.rows) == 9
    assert (stage.ended, stage.restored) == ("budget", 1)


def test_a_cap_below_the_share_counts_and_says_so():
    history = train(arm("mf"), toy(), budget=Budget("passes", 30), max_epochs=4, progress=False)
    assert [(len(s.rows), s.ended) for s in history.stages] == [(4, "cap")] * 3


def test_the_passes_of_a_budget_are_epochs_like_any_others():
    """A budget only says how long: the same epochs give the same bits."""
    one, two = arm("mf"), arm("mf")
    rows = train(one, toy(), budget=Budget("passes", 9), progress=False)
    never = Stopping(patience=None)
    assert outcome(rows) == outcome(train(two, toy(), max_epochs=3, stopping=never, progress=False))
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))


def test_solved_stages_take_one_pass_each():
    from bpfree.algorithms import CascadedForward
    from bpfree.algorithms.networks import CaFoCNN

    cafo = CascadedForward(CaFoCNN((1, 8, 8), classes=3, channels=(2, 2, 2)), batch_size=16)
    data = toy(shape=(1, 8, 8))
    history = train(cafo, data, budget=Budget("passes", 15), progress=False)  # (15 − 3) / 3
    assert [len(s.rows) for s in history.stages] == [1, 4, 1, 4, 1, 4]
    assert history.epochs == 15


@pytest.mark.parametrize(
    ("script", "amount", "expected"),
    [
        # three stages of even epochs: 10 s each
        ([1.0] * 30, 30.0, [10, 10, 10]),
        # the end that lies nearest: 9 s of 10 after 3 epochs of 3 s; 21 of 20 after 4 more; 30 after 3
        ([3.0] * 10, 30.0, [3, 4, 3]),
        # an epoch that overdraws the whole budget: the others still train for one each
        ([50.0, 1.0, 1.0], 30.0, [1, 1, 1]),
        # a first epoch that was slow does not decide: the mean comes down as the others come in
        ([4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0] + [5.0] * 4, 30.0, [7, 2, 2]),
    ],
)
def test_seconds_are_kept_to_stage_by_stage(seconds, script, amount, expected):
    seconds.extend(script)
    assert list(lengths("mf", Budget("s", amount)).values()) == expected
    assert not seconds


@given(
    st.floats(1.0, 100.0),
    st.lists(st.floats(0.5, 2.0), min_size=250, max_size=250),
)
def test_a_stage_ends_within_an_epoch_of_its_limit(left, costs):
    """Whatever epochs take, within a factor of four of each other."""
    length, rows = Length(math.inf, unit="s", left=left), []
    while len(rows) < length.cap(rows):
        rows.append({"train_s": costs[len(rows)]})
    assert abs(sum(row["train_s"] for row in rows) - left) <= max(costs)


def test_joules_are_the_meters():
    meter = ScriptedMeter((2.0, 7.0))  # every window: two measured joules, seven estimated
    # an epoch is training and validation: four joules; each stage's first one also has an (empty) prefix: two
    assert list(lengths("mf", Budget("measured_j", 54.0), meter=meter).values()) == [4, 4, 4]


def test_joules_that_nobody_measures_are_no_budget():
    for meter in (None, ScriptedMeter((None, 1.0))):
        with pytest.raises(InvalidInput, match="nothing measures them here") as raised:
            lengths("bp", Budget("measured_j", 1.0), meter=meter)
        assert "\n" not in str(raised.value)


def test_joules_of_which_a_part_is_lost_are_no_budget():
    meter = ScriptedMeter((2.0, 1.0), (2.0, 1.0), (None, 1.0))  # the first epoch's validation is lost
    with pytest.raises(InvalidInput, match="a sensor was lost") as raised:
        lengths("bp", Budget("measured_j", 50.0), meter=meter)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("amount", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_is_a_number_above_zero(amount):
    with pytest.raises(InvalidInput, match="greater than 0"):
        Budget("s", amount)


def test_a_cooldown_follows_what_the_budget_turns_out_to_allow(seconds):
    seconds.extend([1.0] * 10)
    history = train(arm("bp", lr_schedule="cooldown"), toy(), budget=Budget("s", 10.0), progress=False)
    rates = [row["lr"] / 1e-3 for row in history.stages[0].rows]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 1.0, 0.8, 0.6, 0.4])  # as with a cap of 10
