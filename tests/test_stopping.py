"""When a stage ends: stop rules as functions of its rows, and budgets shared out over stages."""

import copy
import math

import pytest
import torch
from helpers import Eager, ScriptedMeter, arm, outcome, toy, weights
from hypothesis import given
from hypothesis import strategies as st

from bpfree.errors import InvalidInput, UnknownName
from bpfree.training.clock import Clock
from bpfree.training.loop import train
from bpfree.training.stopping import Budget, Length, Stopping, StopRule

# ---------------------------------------------------------------- stop rules


def rows_of(accuracies, losses) -> list[dict]:
    curves = zip(accuracies, losses, strict=True)
    return [{"epoch": e, "val_accuracy": a, "val_loss": b} for e, (a, b) in enumerate(curves, start=1)]


def improvements(values: list[float], min_delta: float) -> list[int]:
    """By the definition: the epochs that are better by more than min_delta than every improvement before."""
    found: list[int] = []
    for epoch, value in enumerate(values, start=1):
        if all(value > values[before - 1] + min_delta for before in found):
            found.append(epoch)
    return found


@given(
    curve=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12),
    metric=st.sampled_from(["val_accuracy", "val_loss"]),
    patience=st.none() | st.integers(1, 5),
    min_delta=st.sampled_from([0.0, 1.0, 2.5]),
    restore=st.sampled_from(["best", "last", "val_accuracy", "val_loss"]),
)
def test_stopping_is_what_its_definition_says_of_every_curve(curve, metric, patience, min_delta, restore):
    rule = Stopping(metric, patience, min_delta, restore)
    accuracies, losses = (list(values) for values in zip(*curve, strict=True))
    larger_is_better = {"val_accuracy": accuracies, "val_loss": [-loss for loss in losses]}
    rows = rows_of(accuracies, losses)
    before = copy.deepcopy(rows)
    last = improvements(larger_is_better[metric], min_delta)[-1]
    assert rule.stop(rows) == (patience is not None and len(rows) - last >= patience)
    kept = larger_is_better[metric if restore == "best" else "val_accuracy" if restore == "last" else restore]
    assert rule.best(rows) == (len(rows) if restore == "last" else kept.index(max(kept)) + 1)
    # The best is always one whose weights can have been kept: the last, or the best of those before.
    assert len(rows) == 1 or rule.best(rows) in (len(rows), rule.best(rows[:-1]))
    # Functions of the rows and of nothing else: they change none, and say the same whenever they are asked.
    answers = [(rule.stop(rows[:n]), rule.best(rows[:n])) for n in range(1, len(rows) + 1)]
    assert [(rule.stop(rows[:n]), rule.best(rows[:n])) for n in range(len(rows), 0, -1)] == answers[::-1]
    assert rows == before


@given(st.integers(1, 9), st.none() | st.integers(1, 3))
def test_every_epoch_that_is_not_validated_counts_as_the_best(epochs, patience):
    rows, rule = [{"epoch": e, "train_loss": 1.0} for e in range(1, epochs + 1)], Stopping(patience=patience)
    assert not rule.stop(rows)
    assert rule.best(rows) == epochs


class Plateau:
    """One's own: a stage ends once two losses in a row differ by less than `by`, or after `most` epochs."""

    def __init__(self, by=0.0, most=4):
        self.by, self.most = by, most

    def stop(self, rows):
        losses = [row["train_loss"] for row in rows]
        return len(rows) == self.most or (len(rows) > 1 and abs(losses[-1] - losses[-2]) < self.by)

    def best(self, rows):
        """The latest epoch of the highest accuracy, where `Stopping` takes the earliest."""
        highest = max(row["val_accuracy"] for row in rows)
        return max(row["epoch"] for row in rows if row["val_accuracy"] == highest)


plateau = Plateau()  # what the tests name as "test_stopping:plateau"


@pytest.mark.parametrize("rule", [plateau, "test_stopping:plateau"], ids=["itself", "by its name"])
def test_an_own_rule_ends_stages_and_keeps_epochs(rule):
    assert isinstance(plateau, StopRule)
    algorithm, seen = arm("mf", lr=0.05), {}
    history = train(
        algorithm,
        toy(),
        stopping=rule,
        on_epoch=lambda a, stage, row: seen.update({(stage.name, row["epoch"]): weights(a)}),
        progress=False,
    )
    assert [(len(s.rows), s.ended) for s in history.stages] == [(4, "patience")] * 3
    assert [s.restored for s in history.stages] == [plateau.best(s.rows) for s in history.stages]
    last = history.stages[-1]
    found, kept = weights(algorithm), seen[last.name, last.restored]
    assert all(torch.equal(found[name], kept[name]) for name in kept if name != "stages_finished")


def test_an_own_rule_is_resumed_and_another_one_is_not(tmp_path):
    def run(rule, checkpoint=None):
        return train(arm("bp", lr=0.05), toy(), stopping=rule, checkpoint=checkpoint, progress=False)

    def resumed(rule):
        """A run that was killed under `Plateau`, and resumed under this rule: its checkpoint and outcome."""
        path = tmp_path / type(rule).__name__
        with pytest.raises(KeyboardInterrupt):
            run(plateau, Eager(path, dies_after=3))
        checkpoint = Eager(path)
        return checkpoint, outcome(run(rule, checkpoint))

    class Worst(Plateau):
        def best(self, rows):
            accuracies = [row["val_accuracy"] for row in rows]
            return accuracies.index(min(accuracies)) + 1

    same, found = resumed(Plateau())
    assert (same.resumed, found) == (1, outcome(run(plateau)))
    another, _ = resumed(Worst())
    assert another.resumed == 0  # the best weights by that rule are not in the file


@pytest.mark.parametrize(
    ("rule", "error", "says"),
    [
        ("val_loss", UnknownName, ("'val_loss'", "module:object")),
        ("test_stopping:plato", UnknownName, ("plato'", "did you mean 'test_stopping:plateau'")),
        ("test_stopping:rows_of", InvalidInput, ("test_stopping:rows_of", "stop(rows)", "best(rows)")),
        (Plateau, InvalidInput, ("Plateau", "stop(rows)", "best(rows)")),
        (3, InvalidInput, ("stopping=3", "bpfree.Stopping")),
    ],
)
def test_what_is_no_rule_is_refused_in_one_line(rule, error, says):
    with pytest.raises(error) as raised:
        train(arm("bp"), toy(), stopping=rule, progress=False)
    assert all(word in str(raised.value) for word in says)
    assert "\n" not in str(raised.value)


def test_a_rule_cannot_go_back_to_weights_that_are_gone():
    class Back(Plateau):
        def best(self, rows):
            return len(rows) if len(rows) < 3 else 1

    with pytest.raises(InvalidInput, match="after epoch 3 the stop rule calls 1 the best") as raised:
        train(arm("bp"), toy(), stopping=Back(), progress=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("epoch", [0, None, 99])
def test_a_rule_cannot_call_an_epoch_the_best_that_has_not_been(epoch):
    class Beside(Plateau):
        def best(self, rows):
            return epoch

    with pytest.raises(InvalidInput, match=r"after epoch 1 .* let best\(rows\) name the last epoch, 1$"):
        train(arm("bp"), toy(), stopping=Beside(), progress=False)


# ---------------------------------------------------------------- budgets


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
