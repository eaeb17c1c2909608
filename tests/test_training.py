"""The one loop: stopping and restoring, random streams, schedules, divergence, interruption, history."""

import io
import math
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import LADDER, ScriptedMeter, arm, chance, for_epochs, outcome, same, toy, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from tqdm import tqdm

from bpfree.algorithms import ARMS, Algorithm, MonoForward
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.errors import InvalidInput, TrainingDiverged, UnknownName
from bpfree.training import Stopping, train
from bpfree.training.batches import Augmentation
from bpfree.training.chance import stream
from bpfree.training.history import COST, OUTCOME
from bpfree.training.prefix import VALIDATION_BATCH
from bpfree.training.stage import SCHEDULES, Group, Stage, make_optimiser, step

NEVER = Stopping(patience=None, restore="last")
VALIDATION = 40


class Scripted(Algorithm):
    """One stage whose read-out follows a script: after epoch e, `right[e]` of the validation samples are
    classified correctly, at a mean cross-entropy of `loss[e]`. Its one weight and its buffer count epochs.
    """

    def __init__(self, right, loss=None, **common):
        super().__init__(
            MLP([12, 2], classes=2), batch_size=16, optimiser="sgd", momentum=0.0, lr=1.0, **common
        )
        self.right, self.loss = right, loss or [1.0] * len(right)
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.epoch = 0

    def stages(self):
        return [self.stage("scripted", [self.weight], self.losses, self.readout, layer=1)]

    def initialise_parameter(self, name, value, generator):
        value.zero_()

    def losses(self, x, labels, chance):
        self.count += 1
        yield -self.weight.sum()  # a step adds 1

    def readout(self, x):
        right, loss = self.right[self.epoch], self.loss[self.epoch]
        self.epoch += 1
        # The right ones by a hair (cross-entropy log 2); the wrong ones by the margin that gives the mean.
        wrong = VALIDATION - right
        per_wrong = (VALIDATION * loss - right * math.log(2)) / wrong
        margin = torch.full((VALIDATION,), -math.log(math.expm1(per_wrong)))
        margin[:right] = 1e-6
        labels = torch.arange(VALIDATION) % 2
        return torch.where(labels[:, None] == torch.arange(2), margin[:, None], 0.0)


def scripted(right, loss=None, stopping=None, max_epochs=None, **common):
    """Run a script; returns the stage's history, the weight and the buffer that are left."""
    data = toy(n=16, val=VALIDATION, classes=2)
    algorithm = Scripted(right, loss, **common)
    history = train(algorithm, data, stopping=stopping, max_epochs=max_epochs, progress=False)
    return history.stages[0], algorithm.weight.item(), algorithm.count.item()


# ---------------------------------------------------------------- stopping and restoring


def test_the_script_is_what_the_loop_records():
    stage, _, _ = scripted([10, 30, 20], [0.9, 1.5, 0.8], max_epochs=3)
    assert [row["val_accuracy"] for row in stage.rows] == [25.0, 75.0, 50.0]
    assert [row["val_loss"] for row in stage.rows] == pytest.approx([0.9, 1.5, 0.8], rel=1e-5)


@given(
    right=st.lists(st.integers(0, VALIDATION - 1), min_size=1, max_size=14),
    hundredths=st.lists(st.integers(75, 99), min_size=14, max_size=14),
    metric=st.sampled_from(["val_accuracy", "val_loss"]),
    restore=st.sampled_from(["best", "last", "val_accuracy", "val_loss"]),
    patience=st.integers(1, 6),
    min_delta=st.sampled_from([0.0, 0.031, 4.0]),
)
@settings(max_examples=60)
def test_any_curve_stops_and_restores_as_the_rule_says(
    right, hundredths, metric, restore, patience, min_delta
):
    loss = [h / 100 for h in hundredths[: len(right)]]
    rule = Stopping(metric, patience, min_delta, restore)
    stage, weight, count = scripted(right, loss, rule, max_epochs=len(right))
    assert [r["val_accuracy"] for r in stage.rows] == [100 * r / VALIDATION for r in right[: len(stage.rows)]]
    assert [r["val_loss"] for r in stage.rows] == pytest.approx(loss[: len(stage.rows)], rel=1e-5)
    # The rule again, over the curves as they were recorded: larger is better.
    accuracy, losses = (np.array([r[name] for r in stage.rows]) for name in ("val_accuracy", "val_loss"))
    curves = {"val_accuracy": accuracy, "val_loss": -losses}
    reference, since, fired = -np.inf, 0, []
    for epoch, value in enumerate(curves[metric], start=1):
        if value > reference + min_delta:
            reference, since = value, epoch
        fired.append(epoch - since >= patience)
    assert not any(fired[:-1])
    assert fired[-1] == (stage.ended == "patience")
    assert fired[-1] or len(stage.rows) == len(right)
    by = metric if restore == "best" else restore
    best = len(stage.rows) if restore == "last" else int(np.argmax(curves[by])) + 1  # argmax: the earliest
    assert (stage.restored, weight, count) == (best, best, best)


@pytest.mark.parametrize(("own", "asked", "epochs"), [(3, 5, 3), (5, 3, 3), (4, None, 4), (None, 6, 6)])
def test_the_smaller_cap_counts(own, asked, epochs):
    stage, _, _ = scripted(list(range(10)), max_epochs=asked, epochs=own)
    assert (len(stage.rows), stage.ended) == (epochs, "cap")


def test_where_nobody_says_otherwise_a_stage_has_a_hundred_epochs_and_patience_twenty():
    assert len(scripted([0, 1] * 60, stopping=Stopping(patience=None))[0].rows) == 100
    assert len(scripted([5] + 99 * [4])[0].rows) == 21


@pytest.mark.parametrize("schedule", ["cooldown", "cooldown_thesis"])
def test_a_cooldown_is_not_cut_short(schedule):
    curve = [30] + 9 * [10]
    stage, weight, _ = scripted(curve, stopping=Stopping(patience=2), max_epochs=10, lr_schedule=schedule)
    assert (len(stage.rows), stage.ended, stage.restored, weight) == (10, "cap", 1, 1.0)


def test_a_stage_without_a_readout_runs_to_its_cap_and_keeps_its_last_weights():
    algorithm = Scripted([])
    (stage,) = algorithm.stages()
    algorithm.stages = lambda: [replace(stage, readout=None)]
    data = toy(n=16, val=VALIDATION, classes=2)
    history = train(algorithm, data, stopping=Stopping(patience=2), max_epochs=6, progress=False)
    (log,) = history.stages
    assert (len(log.rows), log.ended, log.restored, algorithm.weight.item()) == (6, "cap", 6, 6.0)
    assert not {"val_loss", "val_accuracy", "val_s"} & set(log.rows[0])
    assert history.frame()["val_accuracy"].isna().all()


def test_batch_normalisations_statistics_are_restored_with_the_weights():
    data = toy(n=64, shape=(1, 8, 8))
    model = CaFoCNN((1, 8, 8), classes=3, channels=(4, 4))
    algorithm = MonoForward(model, batch_size=16, lr=0.03)
    history = train(algorithm, data, max_epochs=6, progress=False)
    batches = {i: model.blocks[i].norm.num_batches_tracked.item() for i in range(2)}
    # Four batches an epoch; a prefix is in eval mode, so that the first block's stop with its stage.
    assert batches == {i: 4 * history.stages[i].restored for i in range(2)}
    assert any(stage.restored < len(stage.rows) for stage in history.stages)


# ---------------------------------------------------------------- schedules and optimisers


def test_the_schedules_are_those_of_the_papers_codes():
    def factors(name, cap):
        return [SCHEDULES[name](epoch, cap) for epoch in range(1, cap + 1)]

    assert factors("constant", 30) == 30 * [1.0]
    step = factors("step", 60)  # StepLR(20, 0.1)
    assert step == pytest.approx(20 * [1.0] + 20 * [0.1] + 20 * [0.01])
    # Loewe, counted from 0: lr · 2(1 + E − e)/E for e > E//2.
    loewe = factors("cooldown", 100)
    assert loewe[:51] == 51 * [1.0]
    assert loewe[51:] == pytest.approx([2 * (1 + 100 - e) / 100 for e in range(51, 100)])
    assert loewe[-1] == pytest.approx(0.04)
    # Loshchilov and Hutter, and FreezeOut: ½(1 + cos(πt/T)), from 1 to 0, step by step.
    assert factors("cosine", 90)[::30] == pytest.approx([1.0, 0.75, 0.25])
    assert SCHEDULES["cosine"](91, 90) == 0.0
    # Spyra counts from 1: begins an epoch earlier and ends at half of it.
    thesis = factors("cooldown_thesis", 100)
    assert thesis[:50] == 50 * [1.0]
    assert thesis[50:99] == pytest.approx(loewe[51:])
    assert thesis[-1] == pytest.approx(0.02)


class TwoRates(Scripted):
    def stages(self):
        self.other = nn.Parameter(torch.zeros(1))
        (stage,) = super().stages()
        return [replace(stage, groups=[Group([self.weight], 1.0), Group([self.other], 0.25)])]

    def losses(self, x, labels, chance):
        self.count += 1
        yield -self.weight.sum() - self.other.sum()


def test_a_schedule_scales_the_rate_of_every_group():
    algorithm = TwoRates([1] * 10, lr_schedule="cooldown")
    data = toy(n=16, val=VALIDATION, classes=2)
    history = train(algorithm, data, max_epochs=10, stopping=NEVER, progress=False)
    rates = [1, 1, 1, 1, 1, 1, 1.0, 0.8, 0.6, 0.4]  # 2(1 + 10 − e)/10 from e = 6, counted from 0
    assert [row["lr"] for row in history.stages[0].rows] == pytest.approx(rates)
    assert algorithm.weight.item() == pytest.approx(sum(rates))
    assert algorithm.other.item() == pytest.approx(sum(rates) / 4)


class OwnSchedule(Scripted):
    """Makes its stage by itself, with a schedule of its own."""

    own = "constant"

    def stages(self):
        return [replace(stage, schedule=self.own) for stage in super().stages()]


def test_a_stage_may_not_pass_over_the_schedule_that_is_asked_for():
    """As of protocol "frontier", under which all rates fall to zero."""
    data, how = toy(n=16, val=VALIDATION, classes=2), {"max_epochs": 4, "progress": False}
    with pytest.raises(InvalidInput, match=r"lr_schedule='linear', but stage .*'constant'") as refused:
        train(OwnSchedule([1] * 4, lr_schedule="linear"), data, **how)
    assert "\n" not in str(refused.value)
    obeying, free = OwnSchedule([1] * 4, lr_schedule="linear"), OwnSchedule([1] * 4)
    obeying.own = free.own = "linear"  # where none is asked for, a stage may have its own
    for algorithm in (obeying, free):
        assert train(algorithm, data, **how).stages[0].rows[-1]["lr"] < 1


class NoStages(OwnSchedule):
    def stages(self):
        return []


class Wrong(Scripted):
    """With losses and scores of one's own."""

    def __init__(self, losses=None, scores=None):
        super().__init__([1] * 4)
        self.own, self.scores = losses, scores

    def losses(self, x, labels, chance):
        return self.own(self.weight, x) if self.own else super().losses(x, labels, chance)

    def readout(self, x):
        return self.scores(x) if self.scores else super().readout(x)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"losses": lambda weight, x: weight.sum()}, "the losses of stage 'scripted' are no generator"),
        ({"losses": lambda weight, x: [weight.sum()]}, "the losses of stage 'scripted' are no generator"),
        ({"losses": lambda weight, x: iter(())}, "stage 'scripted' yields no loss"),
        ({"losses": lambda weight, x: iter([weight * x.new_ones(3)])}, r"has shape \(3,\): yield its mean"),
        ({"scores": lambda x: torch.zeros(len(x), 3)}, r"gives \(40, 3\): .* all classes, \(40, 2\)"),
        ({"scores": lambda x: torch.zeros(len(x))}, r"gives \(40,\): .* all classes, \(40, 2\)"),
    ],
)
def test_losses_and_scores_that_are_none_are_refused_in_one_line(wrong, says):
    data = toy(n=16, val=VALIDATION, classes=2)
    with pytest.raises(InvalidInput, match=says) as refused:
        train(Wrong(**wrong), data, max_epochs=1, progress=False)
    assert "\n" not in str(refused.value)


def test_an_algorithm_without_stages_is_refused():
    data = toy(n=16, val=VALIDATION, classes=2)
    with pytest.raises(InvalidInput, match="has no stages"):
        train(NoStages([1] * 4), data, max_epochs=1, progress=False)
    with pytest.raises(InvalidInput, match="Algorithm says no stages"):
        Algorithm(MLP([4, 4], classes=2)).stages()


@pytest.mark.parametrize(
    "images",
    [
        lambda x: x.numpy(),
        lambda x: x.double(),
        lambda x: x.to(torch.uint8),
        lambda x: x[..., :-1],
        lambda x: x[0, 0, 0],
    ],
)
def test_what_are_no_images_of_the_network_s_is_refused_in_one_line(images):
    data, algorithm = toy(n=16, val=VALIDATION, classes=2), arm("mf", [12, 4], classes=2)
    train(algorithm, data, max_epochs=1, progress=False)
    with pytest.raises(InvalidInput, match="predicts from normalised images") as refused:
        algorithm.predict(images(data.x_test))
    assert "\n" not in str(refused.value)


class TwoOfOneName(OwnSchedule):
    def stages(self):
        return [replace(stage, name="layer") for stage in [*super().stages()] * 2]


def test_two_stages_of_one_name_are_refused():
    data = toy(n=16, val=VALIDATION, classes=2)
    with pytest.raises(InvalidInput, match=r"two stages 'layer': give each a name of its own"):
        train(TwoOfOneName([1] * 4), data, max_epochs=1, progress=False)


HAND_MADE = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=0.1, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0, weight_decay=0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("optimiser", HAND_MADE)
def test_a_linear_rate_falls_to_zero_over_each_stage_step_by_step(optimiser):
    """A loop by hand takes every step t of a stage's T at (1 - t/T) of the rate, and keeps the same epoch."""
    options = {"optimiser": optimiser, "lr": 0.05, "weight_decay": 0.1, "lr_schedule": "linear"}
    data, ours, theirs = toy(), arm("mf", **options), arm("mf", **options)
    history = train(ours, data, seed=2, max_epochs=3, stopping=Stopping(patience=1), progress=False)
    theirs.initialise(2)
    for stage, found in zip(theirs.stages(), history.stages, strict=True):
        parameters = [p for group in stage.groups for p in group.parameters]
        by_hand, t, steps = HAND_MADE[optimiser](parameters), 0, 3 * (len(data.x_train) // 16)
        for epoch, row in enumerate(found.rows, start=1):
            assert row["lr"] == pytest.approx(0.05 * (1 - t / steps))
            for x, y in data.epoch(16, stream(2, stage.stream, epoch, "order")):
                by_hand.param_groups[0]["lr"] = 0.05 * (1 - t / steps)
                with torch.no_grad():
                    for block in stage.prefix:
                        x = block(x)
                by_hand.zero_grad()
                nn.functional.cross_entropy(stage.readout(x), y).backward()
                by_hand.step()
                t += 1
            if epoch == found.restored:
                kept = [p.detach().clone() for p in parameters]
        assert t == steps  # early stopping does not cut it short
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    assert same(dict(ours.named_parameters()), dict(theirs.named_parameters()))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2, momentum=0.7)),
    ],
)
def test_a_step_is_one_of_torchs_optimiser_on_the_sum_of_the_losses(name, reference):
    start = torch.linspace(-1, 1, 5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())

    def losses(x, y, chance):
        yield (x * ours).sum()
        yield ours.pow(2).sum()

    stage = Stage("s", losses, [Group([ours], 0.1, 0.2)], optimiser=name, momentum=0.7)
    mine, plain = make_optimiser(stage), reference([theirs])
    for k in range(4):
        x = torch.arange(5.0) - k
        expected = (x * theirs).sum() + theirs.pow(2).sum()
        plain.zero_grad()
        expected.backward()
        plain.step()
        total = step(stage, mine, x, None, chance())
        assert total.item() == pytest.approx(expected.item(), rel=1e-6)
        assert not total.requires_grad
        torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------- chance


@pytest.mark.parametrize("name", LADDER)
def test_the_same_seed_gives_the_same_bits_and_another_one_others(name):
    data, algorithm = toy(), arm(name)
    first = train(algorithm, data, seed=0, max_epochs=3, progress=False)
    trained = weights(algorithm)
    other = train(algorithm, data, seed=1, max_epochs=3, progress=False)
    assert not same(trained, weights(algorithm))
    assert outcome(first) != outcome(other)
    torch.manual_seed(123)  # has no say
    for again in (algorithm, arm(name)):  # neither has what the object did before
        assert outcome(train(again, data, seed=0, max_epochs=3, progress=False)) == outcome(first)
        assert same(trained, weights(again))


def subnormals_left() -> int:
    """How many come out of a product and of a fused optimiser, which torch shares out among its threads."""
    parameter = nn.Parameter(torch.zeros(1 << 20))
    parameter.grad = torch.full_like(parameter, 1e-21)
    optimiser = torch.optim.AdamW([parameter], fused=True)
    optimiser.step()
    product = torch.full((256, 256), 1e-25) @ torch.full((256, 256), 1e-15)
    return sum(t.count_nonzero().item() for t in (optimiser.state[parameter]["exp_avg_sq"], product))


@pytest.mark.skipif(sys.platform != "linux", reason="on the calling thread alone there")
def test_subnormal_numbers_are_zero_on_every_thread_while_training_and_then_no_longer():
    everywhere = subnormals_left()  # which also starts the threads
    assert everywhere == (1 << 20) + 256 * 256
    seen = []
    train(
        MonoForward(MLP([12, 8], classes=2)),
        toy(n=16, val=VALIDATION, classes=2),
        max_epochs=1,
        progress=False,
        on_epoch=lambda *_: seen.append(subnormals_left()),
    )
    assert seen
    assert not any(seen)
    assert subnormals_left() == everywhere


def test_training_leaves_the_global_generators_alone():
    algorithm, data = arm("mf"), toy(augment=Augmentation(pad=1))
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(algorithm, data, max_epochs=1, progress=False)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


class Recorder(Algorithm):
    """Stages that note what they are given, and train a head on the images."""

    def __init__(self, streams=("", ""), prefix=0, **common):
        super().__init__(MLP([12, 12], classes=3), **{"batch_size": 16, **common})
        self.streams, self.prefix = streams, prefix
        self.heads["1"] = nn.Linear(12, 3)
        self.seen, self.chance, self.start = [], [], None

    def stages(self):
        stages = []
        for number, name in enumerate(self.streams):
            made = self.stage(
                f"s{number}", self.heads.parameters(), self.note(number), self.heads["1"], layer=1
            )
            stages.append(replace(made, stream=name, readout=lambda x: self.heads["1"](x.flatten(1))))
        return stages

    def note(self, number):
        def losses(x, labels, chance):
            self.seen.append((number, x.clone(), labels.clone()))
            self.chance.append(chance.uniform(1).item())
            self.start = self.start or weights(self)
            yield nn.functional.cross_entropy(self.heads["1"](x.flatten(1)), labels)

        return losses

    def order(self, data, stage, epoch, batches):
        """Which rows of the training data were seen, in order."""
        mine = [x for number, x, _ in self.seen if number == stage][batches * (epoch - 1) : batches * epoch]
        found = (torch.cat(mine)[:, None] == data.x_train).flatten(2).all(2)
        assert (found.sum(1) == 1).all()
        return found.int().argmax(1).tolist()


def recorded(streams=("", ""), seed=0, data=None, **common):
    data = data or toy()
    algorithm = Recorder(streams, **common)
    history = train(algorithm, data, seed=seed, max_epochs=2, stopping=NEVER, progress=False)
    return algorithm, history, data


def test_an_epoch_is_a_fresh_order_without_repeats_and_without_the_short_last_batch():
    algorithm, _, data = recorded()
    orders = [algorithm.order(data, stage, epoch, 4) for stage in (0, 1) for epoch in (1, 2)]
    assert all(len(order) == len(set(order)) == 64 for order in orders)  # of 70, in batches of 16
    assert len({tuple(order) for order in orders}) == 4
    labels = torch.cat([y for number, _, y in algorithm.seen if number == 0][:4])
    assert torch.equal(labels, data.y_train[torch.tensor(orders[0])])


def test_the_order_depends_on_seed_stream_and_epoch_and_on_nothing_else():
    one, _, data = recorded(("layer 1",))
    two, _, _ = recorded(("other", "layer 1"))
    for epoch in (1, 2):
        assert one.order(data, 0, epoch, 4) == two.order(data, 1, epoch, 4)
        assert one.order(data, 0, epoch, 4) != two.order(data, 0, epoch, 4)
    assert one.chance == two.chance[8:]  # what the losses draw, too
    assert one.chance != two.chance[:8]
    assert len(set(one.chance)) == 8
    another, _, _ = recorded(("layer 1",), seed=1)
    assert another.order(data, 0, 1, 4) != one.order(data, 0, 1, 4)
    assert not set(another.chance) & set(one.chance)


def test_the_weights_start_from_the_seed_and_not_from_what_was_trained_before():
    starts = [recorded(seed=seed)[0].start for seed in (0, 0, 1)]
    again = recorded(seed=1)[0]
    train(again, toy(), seed=0, max_epochs=1, progress=False)
    assert same(starts[0], starts[1])
    assert not torch.equal(starts[0]["heads.1.weight"], starts[2]["heads.1.weight"])
    again.start = None
    train(again, toy(), seed=0, max_epochs=1, progress=False)
    assert same(again.start, starts[0])


def test_the_samples_seen_are_the_samples_accounted_for():
    for name in LADDER:
        algorithm, count = arm(name), [0]

        def counted(stages, count=count):
            def wrap(losses):
                def spy(x, labels, chance):
                    count[0] += len(x)
                    assert len(x) == len(labels)
                    yield from losses(x, labels, chance)

                return spy

            return [replace(s, losses=wrap(s.losses)) for s in stages]

        stages = algorithm.stages()
        algorithm.stages = lambda stages=stages, counted=counted: counted(stages)
        history = train(algorithm, toy(), max_epochs=3, stopping=NEVER, progress=False)
        budget = len(stages) * 3 * 64  # stages · epochs · samples an epoch
        assert count[0] == history.frame()["samples"].sum() == budget
        assert history.epochs == 3 * len(stages)


def test_a_data_set_smaller_than_a_batch_is_one_batch():
    _, history, _ = recorded(("s",), data=toy(n=10))
    assert [row["samples"] for row in history.stages[0].rows] == [10, 10]


# ---------------------------------------------------------------- what is recorded, what is touched


@pytest.mark.parametrize("name", LADDER)
def test_validated_metrics_are_those_of_an_independent_computation(name):
    data, algorithm = toy(), arm(name, lr=0.01)
    history = train(algorithm, data, max_epochs=6, progress=False)
    scores = algorithm.predict(data.x_val)
    assert scores.shape == (30, 3)
    assert not scores.requires_grad
    stage = history.stages[-1]
    row = stage.rows[stage.restored - 1]
    assert row["val_accuracy"] == pytest.approx(100 * accuracy_score(data.y_val, scores.argmax(1)), rel=1e-12)
    assert row["val_loss"] == pytest.approx(log_loss(data.y_val, scores.double().softmax(1)), rel=1e-5)
    assert row["val_accuracy"] == max(r["val_accuracy"] for r in stage.rows)


def test_validation_covers_more_samples_than_fit_into_its_batch():
    data, algorithm = toy(val=2 * VALIDATION_BATCH + 7), arm("mf")
    history = train(algorithm, data, max_epochs=3, cache=False, progress=False)
    stage = history.stages[-1]
    loss = log_loss(data.y_val, algorithm.predict(data.x_val).double().softmax(1))
    assert stage.rows[stage.restored - 1]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_training_loss_is_the_mean_over_batches_of_the_sum_over_losses():
    algorithm, data = arm("mf_interleaved", (12, 8, 7)), toy(n=32)
    recorded = []
    (stage,) = algorithm.stages()

    def spy(*args):
        for loss in stage.losses(*args):
            recorded.append(loss.item())
            yield loss

    algorithm.stages = lambda: [replace(stage, losses=spy)]
    history = train(algorithm, data, max_epochs=1, progress=False)
    assert len(recorded) == 2 * 2
    assert history.stages[0].rows[0]["train_loss"] == pytest.approx(sum(recorded) / 2, rel=1e-6)


def test_the_frame_has_a_row_per_stage_and_epoch_and_all_columns():
    history = train(arm("mf"), toy(), seed=5, max_epochs=2, stopping=NEVER, progress=False)
    frame = history.frame()
    assert frame.columns.tolist() == [*OUTCOME, *COST]
    assert frame["stage"].tolist() == ["layer 1"] * 2 + ["layer 2"] * 2 + ["layer 3"] * 2
    assert frame["epoch"].tolist() == 3 * [1, 2]
    assert (history.algorithm, history.seed, history.epochs) == ("mf", 5, 6)
    assert [s.prefix for s in history.stages] == ["images", "cached in memory", "cached in memory"]


@pytest.mark.parametrize("name", LADDER)
def test_only_the_stages_own_parameters_are_free_while_it_lasts_and_no_gradient_stays(name):
    algorithm, observed = arm(name), {}
    stages = algorithm.stages()
    groups = {s.name: {id(p) for group in s.groups for p in group.parameters} for s in stages}

    def watch(stage):
        def losses(x, labels, chance):
            free = {id(p) for p in algorithm.parameters() if p.requires_grad}
            holding = {id(p) for p in algorithm.parameters() if p.grad is not None}
            observed.setdefault(stage.name, []).append((free, holding))
            yield from stage.losses(x, labels, chance)

        return replace(stage, losses=losses)

    algorithm.stages = lambda: [watch(stage) for stage in stages]
    train(algorithm, toy(), max_epochs=1, progress=False)
    assert set(observed) == set(groups)
    for name, steps in observed.items():
        for free, holding in steps:
            assert free == groups[name]
            assert not holding  # of a finished stage or of the step before
    assert all(p.grad is None and p.requires_grad for p in algorithm.parameters())
    assert not algorithm.training


@pytest.mark.parametrize("name", ARMS)
def test_test_data_have_no_say(name):
    """For every algorithm: weights, history and the restored epochs are the same on poisoned test data."""
    convolutional = name.startswith("cafo")
    data, results = toy(shape=(1, 8, 8) if convolutional else (1, 3, 4)), []
    poison = torch.full_like(data.x_test, math.nan), torch.full_like(data.y_test, -1)
    for used in (data, replace(data, x_test=poison[0], y_test=poison[1])):
        algorithm = arm(name)
        if convolutional:
            network = CaFoCNN((1, 8, 8), classes=3, channels=(3, 4))
            algorithm = ARMS[name].make(network, batch_size=16)
        how = {"stopping": Stopping(patience=2), **for_epochs(algorithm, 3)}
        history = train(algorithm, used, progress=False, **how)
        results.append((weights(algorithm), history))
    (trained, history), (other, poisoned) = results
    assert same(trained, other)
    assert all(torch.isfinite(w).all() for w in trained.values())
    assert history.frame()[list(OUTCOME)].equals(poisoned.frame()[list(OUTCOME)])
    kept = [[(s.ended, s.restored) for s in h.stages] for h in (history, poisoned)]
    assert kept[0] == kept[1]
    assert any(history.frame()["val_accuracy"] > 0)


def test_a_callback_sees_every_epoch_of_every_stage_as_it_was():
    seen, algorithm = [], arm("mf", (12, 8, 7))

    def note(trained, stage, row):
        assert trained is algorithm
        seen.append((stage.name, dict(row), trained.stages_finished.item(), trained.training))

    history = train(algorithm, toy(), max_epochs=2, on_epoch=note, progress=False)
    assert [(name, row) for name, row, *_ in seen] == [
        (s.name, row) for s in history.stages for row in s.rows
    ]
    assert [finished for *_, finished, _ in seen] == [0, 0, 1, 1]
    assert not any(training for *_, training in seen)


class Greedy(Algorithm):
    """Two stages with nothing but what the base class gives them."""

    def __init__(self):
        super().__init__(MLP([12, 8, 7], classes=3), batch_size=16)
        self.heads["1"], self.heads["2"] = nn.Linear(8, 3), nn.Linear(7, 3)

    def stages(self):
        stages, blocks = [], list(self.model.blocks)
        for i in (1, 2):
            network = nn.Sequential(blocks[i - 1], self.heads[str(i)])

            def losses(x, labels, chance, network=network):
                yield nn.functional.cross_entropy(network(x), labels)

            stages.append(
                self.stage(f"s{i}", network.parameters(), losses, network, blocks[: i - 1], layer=i)
            )
        return stages


def test_prediction_is_the_readout_of_the_deepest_finished_stage_behind_its_prefix():
    algorithm, data = Greedy(), toy()
    train(algorithm, data, max_epochs=1, progress=False)
    first, second = algorithm.model.blocks
    with torch.no_grad():
        expected = {
            1: algorithm.heads["1"](first(data.x_test)),
            2: algorithm.heads["2"](second(first(data.x_test))),
        }
    for finished, scores in expected.items():
        algorithm.stages_finished.fill_(finished)
        torch.testing.assert_close(algorithm.predict(data.x_test), scores)


class Mean(Algorithm):
    """A stage that is solved: it averages the images."""

    def __init__(self):
        super().__init__(MLP([12, 12], classes=3), batch_size=16)
        self.register_buffer("mean", torch.zeros(1, 3, 4))
        self.seen, self.sum, self.grad = [], 0.0, []

    def accumulate(self, x, labels):
        self.grad.append(torch.is_grad_enabled())
        self.seen.append((x, labels))
        self.sum = self.sum + x.sum(0)

    def solve(self):
        self.mean.copy_(self.sum / sum(len(x) for x, _ in self.seen))

    def stages(self):
        return [Stage("mean", accumulate=self.accumulate, solve=self.solve)]


def test_a_solved_stage_sees_every_sample_once_in_order_and_unaugmented():
    data, algorithm = toy(augment=Augmentation(pad=1)), Mean()
    meter = ScriptedMeter((1.0, 2.0))
    history = train(algorithm, data, meter=meter, progress=False)
    assert torch.equal(torch.cat([x for x, _ in algorithm.seen]), data.x_train)
    assert torch.equal(torch.cat([y for _, y in algorithm.seen]), data.y_train)
    torch.testing.assert_close(algorithm.mean, data.x_train.mean(0))
    (stage,) = history.stages
    assert (stage.ended, stage.restored, len(stage.rows)) == ("solved", 1, 1)
    assert stage.rows[0]["samples"] == 70
    assert meter.names == ["prefix", "train"]  # metered like an epoch; not validated, having no read-out
    assert not any(algorithm.grad)
    assert math.isnan(history.frame()["val_loss"][0])


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("name", LADDER)
def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(name):
    data, dtypes = toy(), set()
    plain, half = arm(name), arm(name)
    half.model.blocks[0].linear.register_forward_hook(lambda m, x, y: dtypes.add(y.dtype))
    full = train(plain, data, max_epochs=4, progress=False)
    history = train(half, data, max_epochs=4, precision="bf16", progress=False)
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    losses = [[row["val_loss"] for row in outcome(h)] for h in (full, history)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    assert half.predict(data.x_test).dtype == torch.float32


# ---------------------------------------------------------------- divergence and interruption


def test_a_loss_that_is_no_longer_finite_says_where_and_loses_nothing():
    algorithm, data = arm("mf", optimiser="sgd"), toy()
    stages = algorithm.stages()
    stages[1] = replace(stages[1], groups=[Group(stages[1].groups[0].parameters, 1e30)])
    algorithm.stages = lambda: stages
    with pytest.raises(TrainingDiverged) as raised:
        train(algorithm, data, max_epochs=3, meter=ScriptedMeter((1.0, 2.0)), progress=False)
    error = raised.value
    assert (error.stage, error.epoch, error.lr) == ("layer 2", 1, 1e30)
    for said in ("'layer 2'", "epoch 1", "1e+30", "lower the learning rate"):
        assert said in str(error)
    assert "\n" not in str(error)
    assert [len(stage.rows) for stage in error.history.stages] == [3, 1]
    assert error.history.provenance == "scripted"
    assert not math.isfinite(error.history.stages[1].rows[0]["train_loss"])
    assert algorithm.stages_finished == 1  # what was finished before still predicts
    assert algorithm.predict(data.x_test).isfinite().all()
    assert all(p.requires_grad for p in algorithm.parameters())
    again = pickle.loads(pickle.dumps(error))
    assert (again.stage, again.epoch, again.lr, str(again)) == ("layer 2", 1, 1e30, str(error))


def test_a_validation_loss_that_is_no_longer_finite_is_divergence_too():
    algorithm = Scripted([10, 10, 10], [0.9, math.inf, 0.9])
    with pytest.raises(TrainingDiverged, match="epoch 2"):
        train(algorithm, toy(n=16, val=VALIDATION, classes=2), progress=False)


@pytest.mark.parametrize("validated", [True, False])
def test_a_training_loss_that_is_no_longer_finite_is_divergence_whatever_validation_says(validated):
    algorithm = Scripted([10, 10])
    (stage,) = algorithm.stages()

    def losses(*_):
        yield -algorithm.weight.sum() + math.inf

    algorithm.stages = lambda: [replace(stage, losses=losses, readout=stage.readout if validated else None)]
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        train(algorithm, toy(n=16, val=VALIDATION, classes=2), max_epochs=2, progress=False)


class InterruptedMeter(ScriptedMeter):
    """Ctrl-C in the n-th window."""

    def window(self, name):
        if len(self.names) == 6:
            raise KeyboardInterrupt
        return super().window(name)


@pytest.fixture
def bars(monkeypatch):
    """Every bar that training shows, written to a string whatever TQDM_DISABLE says."""
    shown = []

    class Bar(tqdm):
        def __init__(self, *args, **settings):
            super().__init__(*args, file=io.StringIO(), mininterval=0, **{"disable": False, **settings})
            shown.append(self)

    monkeypatch.setattr("bpfree.training.progress.tqdm", Bar)
    return shown


@pytest.mark.parametrize("where", ["meter", "loss"])
def test_an_interruption_leaves_everything_usable(where, bars):
    data, algorithm = toy(), arm("mf")
    options = {}
    if where == "meter":
        options["meter"] = InterruptedMeter((1.0, 2.0))  # in the second stage: after 1 + 2 · 2 windows
    else:
        stages = algorithm.stages()

        def losses(*_):
            raise KeyboardInterrupt
            yield

        algorithm.stages = lambda: [stages[0], replace(stages[1], losses=losses), stages[2]]
    with pytest.raises(KeyboardInterrupt):
        train(algorithm, data, max_epochs=2, **options)
    assert bars
    assert all(bar.disable for bar in bars)  # what tqdm sets when it closes one
    assert all(p.requires_grad for p in algorithm.parameters())
    assert not algorithm.training
    assert algorithm.stages_finished == 1
    assert algorithm.predict(data.x_test).isfinite().all()
    algorithm.__dict__.pop("stages", None)
    fresh = arm("mf")
    histories = [train(a, data, max_epochs=2, progress=False) for a in (algorithm, fresh)]
    assert outcome(histories[0]) == outcome(histories[1])
    assert same(weights(algorithm), weights(fresh))


# ---------------------------------------------------------------- bars


def test_bars_count_stages_and_batches_and_show_loss_and_accuracy(bars):
    history = train(arm("mf"), toy(), max_epochs=2, stopping=NEVER)
    stages, *inner = bars
    assert (stages.n, stages.total) == (3, 3)
    assert [(bar.n, bar.total) for bar in inner] == 3 * [(8, 8)]  # 2 epochs of 4 batches
    text = inner[-1].fp.getvalue()
    row = history.stages[-1].rows[-1]
    assert (
        f"loss {row['train_loss']:.3f}, validation {row['val_loss']:.3f} {row['val_accuracy']:.1f} %" in text
    )
    assert "layer 3, epoch 2/2" in text


def test_one_stage_has_one_bar_and_a_quiet_run_none(bars):
    train(arm("bp"), toy(), max_epochs=1)
    assert [bar.total for bar in bars] == [4]
    bars.clear()
    train(arm("mf"), toy(), max_epochs=1, progress=False)
    assert "".join(bar.fp.getvalue() for bar in bars if hasattr(bar, "fp")) == ""


# ---------------------------------------------------------------- what is refused


class OwnPrefix(Algorithm):
    def stages(self):
        block = self.model.blocks[0]
        return [self.stage("greedy", self.model.parameters(), None, None, [block], layer=1)]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: train(arm("bp"), toy(), precision="fp16"), ("'fp16'", "fp32, bf16")),
        (lambda: train(OwnPrefix(MLP([12, 3], classes=3)), toy()), ("'greedy'", "its own frozen prefix")),
        (lambda: Stopping(restore="first"), ("'first'", "best, last, val_accuracy, val_loss")),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(call, says):
    with pytest.raises((InvalidInput, UnknownName)) as raised:
        call()
    assert all(word in str(raised.value) for word in says)
    assert "\n" not in str(raised.value)


def test_the_variable_names_the_device_where_nobody_else_does(monkeypatch):
    from bpfree.training.loop import pick_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # which would be taken
    for wanted, found in (("cpu", "cpu"), ("", "cuda"), ("auto", "cuda")):
        monkeypatch.setenv("BPFREE_DEVICE", wanted)
        assert pick_device().type == pick_device("auto").type == found
    monkeypatch.setenv("BPFREE_DEVICE", "abacus")
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(InvalidInput, match="abacus"):
        pick_device()


def test_the_rooms_door_leads_to_what_it_names_and_rules_and_histories_need_no_torch():
    import bpfree.training as room

    assert all(getattr(room, name).__name__ == name for name in room.__all__)
    code = "import sys; from bpfree.training import Budget, History, StopRule; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
