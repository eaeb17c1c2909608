"""Parameters that live through some of a run's stages: layers that freeze, and layers that overlap.

Every reference is a loop in plain torch that is written out here: one optimiser for the whole run, a group of
it for every layer, the rates set by their formula at every step.
"""

import math
from itertools import accumulate, pairwise

import pytest
import torch
from helpers import Eager, outcome, same, toy, weights
from torch.nn.functional import cross_entropy

import bpfree
from bpfree import diagnostics
from bpfree.algorithms import ARMS, MLP, CaFoCNN
from bpfree.errors import InvalidInput
from bpfree.experiments.experiment import fit
from bpfree.training.chance import stream
from bpfree.training.loop import train
from bpfree.training.stopping import Budget, Stopping

DATA = toy(shape=(1, 8, 8))
SEED, BATCH, LR, DECAY = 5, 16, 0.02, 0.1
STEPS = len(DATA.x_train) // BATCH
NEVER = Stopping(patience=None, restore="last")
NETWORKS = {
    "mlp": lambda: MLP([64, 12, 8, 6], classes=3),
    "cnn": lambda: CaFoCNN((1, 8, 8), classes=3, channels=(3, 4, 5)),
}
FACTORS = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}
OPTIMISERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.0, weight_decay=DECAY, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0, weight_decay=DECAY, momentum=0.9, fused=True),
}


def made(name, network="mlp", **options):
    own = {"batch_size": BATCH, "lr": LR, "weight_decay": DECAY, "lr_schedule": "linear", **options}
    return ARMS[name].make(NETWORKS[network](), **own)


def trained(algorithm, passes, **how):
    """Its history, on a budget of so many passes."""
    how = {"stopping": NEVER, "budget": Budget("passes", passes, exact=True), "progress": False, **how}
    return train(algorithm, DATA, seed=SEED, **how)


def by_hand(algorithm, layers, lives, rates, losses, *, optimiser="adamw", schedule="linear"):
    """The algorithm's weights after training its modules `layers`, each in the epochs of its life (begin,
    end), from a rate of its own down to zero; losses(x, y, alive) are those of a batch."""
    algorithm.initialise(SEED)
    torch_s = OPTIMISERS[optimiser]([{"params": list(layer.parameters())} for layer in layers])
    for epoch in range(max(end for _, end in lives)):
        alive = [begin <= epoch < end for begin, end in lives]
        for layer, (_, end), moves in zip(layers, lives, alive, strict=True):
            layer.requires_grad_(moves).train(epoch < end)
        batches = DATA.epoch(BATCH, stream(SEED, "layer 3", epoch + 1, "order"))
        for step, (x, y) in enumerate(batches):
            for group, (begin, end), rate in zip(torch_s.param_groups, lives, rates, strict=True):
                progress = (epoch + step / STEPS - begin) / (end - begin)
                group["lr"] = rate * FACTORS[schedule](progress) if 0 <= progress < 1 else math.nan
            torch_s.zero_grad()
            for loss in losses(x, y, alive):
                loss.backward()
            torch_s.step()
    return weights(algorithm)


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if name != "stages_finished":
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


# ---------------------------------------------------------------- freezing

#: (freeze_from, power) -> (passes, t_i of the three blocks and the head, these in whole passes)
TIMES = {
    (0.5, 1.0): (6, [1 / 2, 2 / 3, 5 / 6, 1], [3, 4, 5, 6]),
    (0.5, 3.0): (24, [1 / 8, 8 / 27, 125 / 216, 1], [3, 7, 14, 24]),
    (0.8, 3.0): (16, [0.512, (13 / 15) ** 3, (14 / 15) ** 3, 1], [8, 10, 13, 16]),
}


@pytest.mark.parametrize("times", TIMES)
def test_blocks_freeze_at_the_times_of_the_definition(times):
    passes, expected, whole = TIMES[times]
    algorithm = made("bp_freeze", freeze_from=times[0], power=times[1])
    stages = algorithm.stages()
    ends = list(accumulate(stage.share for stage in stages))
    assert ends == pytest.approx(expected)
    assert ends == sorted(ends)
    assert list(accumulate(len(s.rows) for s in trained(algorithm, passes).stages)) == whole
    for stage in stages:
        assert [g.lr for g in stage.groups] == pytest.approx([LR / t for t in expected][-len(stage.groups) :])
    for stage in made("bp_freeze", freeze_from=times[0], power=times[1], scaled=False).stages():
        assert {g.lr for g in stage.groups} == {LR}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(
    ("times", "schedule", "scaled"),
    [((0.5, 1.0), "cosine", True), ((0.5, 1.0), "linear", False), ((0.8, 3.0), "linear", True)],
)
def test_freezing_is_a_loop_that_stops_training_layers_from_below(
    times, schedule, scaled, optimiser, network
):
    passes, t, whole = TIMES[times]
    how = {"optimiser": optimiser, "lr_schedule": schedule, "freeze_from": times[0], "power": times[1]}
    ours, theirs = (made("bp_freeze", network, scaled=scaled, **how) for _ in range(2))
    trained(ours, passes)
    layers = [*theirs.model.blocks, theirs.heads["3"]]

    def losses(x, y, alive):
        for layer in layers:
            x = layer(x)
        yield cross_entropy(x, y)

    lives, rates = [(0, end) for end in whole], [LR / end if scaled else LR for end in t]
    close(
        weights(ours), by_hand(theirs, layers, lives, rates, losses, optimiser=optimiser, schedule=schedule)
    )


def test_what_is_frozen_stays_to_the_bit_with_its_running_statistics():
    algorithm, seen = made("bp_freeze", "cnn", freeze_from=0.5, power=1.0), []
    algorithm.initialise(SEED)
    start = weights(algorithm)
    trained(algorithm, 6, on_epoch=lambda algorithm, *_: seen.append(weights(algorithm)))
    for i, end in enumerate([3, 4, 5]):
        for name in (n for n in start if n.startswith(f"model.blocks.{i}.")):
            values = [start[name], *(epoch[name] for epoch in seen)]
            changed = [not torch.equal(a, b) for a, b in pairwise(values)]
            assert changed == [True] * end + [False] * (6 - end), name
    assert not torch.equal(seen[-1]["heads.3.weight"], seen[-2]["heads.3.weight"])


@pytest.mark.parametrize("network", NETWORKS)
def test_where_nothing_freezes_it_is_backpropagation_to_the_bit(network):
    for how in ({"budget": None, "max_epochs": 3, "stopping": None}, {}):
        bp, freezing = made("bp", network), made("bp_freeze", network, freeze_from=1.0)
        histories = [trained(algorithm, 5, **how) for algorithm in (bp, freezing)]
        assert same(weights(bp), weights(freezing))
        assert outcome(histories[0]) == outcome(histories[1])


def test_it_predicts_by_the_head_through_the_whole_network():
    algorithm = made("bp_freeze")
    trained(algorithm, 8)
    with torch.no_grad():
        expected = algorithm.heads["3"](algorithm.model(DATA.x_test))
    assert list(algorithm.predict_all(DATA.x_test)) == ["last"]
    assert torch.equal(algorithm.predict(DATA.x_test), expected)


# ---------------------------------------------------------------- overlapping

#: schedule -> (passes, the epochs in which each layer lives)
LIVES = {
    0.5: (8, [(0, 4), (2, 6), (4, 8)]),
    0.25: (12, [(0, 8), (2, 10), (4, 12)]),
    1 / 3: (5, [(0, 3), (1, 4), (2, 5)]),
    0.75: (10, [(0, 4), (3, 7), (6, 10)]),
}


@pytest.mark.parametrize("schedule", LIVES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_overlapping_is_a_loop_in_which_each_layer_has_its_own_time(schedule, network, optimiser):
    passes, lives = LIVES[schedule]
    ours, theirs = (
        bpfree.MonoForward(
            NETWORKS[network](), schedule=schedule, batch_size=BATCH, optimiser=optimiser,
            lr=LR, weight_decay=DECAY, lr_schedule="linear",
        )
        for _ in range(2)
    )  # fmt: skip
    history = trained(ours, passes)
    layers = [torch.nn.ModuleList([b, theirs.heads[str(i + 1)]]) for i, b in enumerate(theirs.model.blocks)]

    def losses(x, y, alive):
        for (block, project), moves in zip(layers, alive, strict=True):
            if not (moves or not block.training):  # above those that have begun
                return
            x = block(x.detach())
            if moves:
                yield cross_entropy(project(x), y)

    close(weights(ours), by_hand(theirs, layers, lives, [LR] * 3, losses, optimiser=optimiser))
    assert history.epochs == passes


def test_it_predicts_by_the_layers_that_have_begun():
    algorithm = made("mf_overlapped", predict_by="sum")
    trained(algorithm, 8)
    a, goodness = DATA.x_test, []
    with torch.no_grad():
        for i, block in enumerate(algorithm.model.blocks, start=1):
            a = block(a)
            goodness.append(algorithm.heads[str(i)](a))
    expected = {"sum": sum(goodness), "last": goodness[2]}
    expected |= {f"layer {i}": g for i, g in enumerate(goodness, start=1)}
    found = algorithm.predict_all(DATA.x_test)
    assert list(found) == ["sum", "last", "layer 1", "layer 2", "layer 3"]
    for name, scores in found.items():
        torch.testing.assert_close(scores, expected[name], rtol=0, atol=1e-6)
    for stages, layers in ((1, 1), (2, 2), (3, 3)):
        algorithm.stages_finished.fill_(stages)
        assert [n for n in algorithm.predict_all(DATA.x_test) if n.startswith("layer")][
            -1
        ] == f"layer {layers}"


def test_a_stage_is_validated_by_the_highest_layer_that_has_begun():
    algorithm = made("mf_overlapped")
    rows, scores = [], []

    def look(algorithm, stage, row):
        high = int(stage.name[-1])
        a = DATA.x_val
        with torch.no_grad():
            for block in algorithm.eval().model.blocks[:high]:
                a = block(a)
            scores.append(cross_entropy(algorithm.heads[str(high)](a), DATA.y_val).item())
        rows.append(row["val_loss"])

    history = trained(algorithm, 8, on_epoch=look)
    assert rows == pytest.approx(scores, rel=1e-5)
    assert [s.name for s in history.stages] == ["layer 1", "layers 1-2", "layers 2-3", "layer 3"]


# ---------------------------------------------------------------- both

BOTH = [("bp_freeze", "mlp"), ("bp_freeze", "cnn"), ("mf_overlapped", "mlp"), ("mf_overlapped", "cnn")]


@pytest.mark.parametrize(("name", "network"), BOTH)
def test_a_cached_prefix_gives_the_bits_of_a_recomputed_one(name, network):
    found = []
    for cache in (True, False):
        algorithm = made(name, network)
        kinds = {s.prefix for s in trained(algorithm, 8, cache=cache).stages}
        assert kinds == {"images", "cached in memory" if cache else "recomputed"}
        found.append(weights(algorithm))
    assert same(*found)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(("name", "network"), BOTH)
def test_wherever_it_dies_it_goes_on_to_the_same_bits(name, network, optimiser, tmp_path):
    def run(checkpoint=None):
        algorithm = made(name, network, optimiser=optimiser)
        return outcome(trained(algorithm, 8, checkpoint=checkpoint)), weights(algorithm)

    rows, through = run()
    moments = 8 + 4  # the end of every epoch, and of every stage
    for moment in range(1, moments + 1):
        with pytest.raises(KeyboardInterrupt):
            run(Eager(tmp_path / f"{moment}", dies_after=moment))
        again = Eager(tmp_path / f"{moment}")
        found = run(again)
        assert found[0] == rows
        assert same(found[1], through)
        assert (again.resumed, again.writes) == (1, moments - moment)


@pytest.mark.parametrize("name", ["bp_freeze", "mf_overlapped"])
def test_a_stage_that_is_continued_ends_with_its_last_weights(name):
    """Whatever the stop rule calls the best of it; only the last one restores."""
    algorithm, plain = made(name), made(name)
    history = trained(algorithm, 12, stopping=Stopping())
    *before, last = history.stages
    assert [s.restored for s in before] == [len(s.rows) for s in before]
    assert any(max(s.rows, key=lambda row: row["val_accuracy"]) is not s.rows[-1] for s in before)
    rows = outcome(trained(plain, 12))
    assert outcome(history) == rows
    best = max(range(len(last.rows)), key=lambda k: last.rows[k]["val_accuracy"])  # the earliest
    assert last.restored == best + 1


def test_rates_fall_over_the_lengths_that_stages_really_have():
    """Of a budget of 16 passes a cap leaves two a stage: two, four, six and eight are the lives."""
    rows = outcome(trained(made("bp_freeze", scaled=False), 16, max_epochs=2))
    assert [row["epoch"] for row in rows] == [1, 2] * 4
    lives = [2, 2, 4, 4, 6, 6, 8, 8]  # of the lowest block that moves
    assert [row["lr"] for row in rows] == pytest.approx([LR * (1 - t / n) for t, n in enumerate(lives)])


@pytest.mark.parametrize("name", ["bp_freeze", "mf_overlapped"])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"budget": None, "max_epochs": 8}, "fixed in advance: use protocol='frontier'"),
        ({"budget": Budget("passes", 8)}, "exact=True"),
        ({"budget": Budget("s", 8.0)}, "exact=True"),
        ({"budget": Budget("passes", 3, exact=True)}, "for 4 stages: .* give 4 or more"),
    ],
)
def test_no_length_or_too_small_a_one_is_refused_in_one_line(name, how, says):
    with pytest.raises(InvalidInput, match=says) as raised:
        trained(made(name), 8, **how)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["bp_freeze", "mf_overlapped"])
def test_the_protocol_frontier_gives_it_its_length(name):
    data = bpfree.load("digits")
    experiment = bpfree.Experiment(name, architecture="2x8", protocol="frontier", max_epochs=6, device="cpu")
    _, history = fit(experiment, data, progress=False)
    assert history.epochs == 6
    assert len(history.stages) == 3
    with pytest.raises(InvalidInput, match="protocol='frontier'"):
        fit(bpfree.Experiment(name, architecture="2x8", device="cpu"), data, progress=False)


def test_the_operations_of_a_run_are_those_of_its_stages():
    """Matrix products by hand: p_i of layer i and h of a head, for a sample, forward; then the optimiser and
    what is done element by element."""
    widths, images, val = [64, 12, 8, 6], STEPS * BATCH, len(DATA.x_val)
    p = [2 * a * b for a, b in pairwise(widths)]
    h = [2 * 3 * d for d in widths[1:]]
    parameters = [a * b + b for a, b in pairwise(widths)]
    units, update = widths[1:], 14  # AdamW's operations for a parameter, with decay
    filled = 5 * BATCH + val  # the last window of 16 of the 70 images reaches back

    freezing, overlapping = {"prefix": 0, "train": 0, "val": 0}, {"prefix": 0, "train": 0, "val": 0}
    for frozen, passes in enumerate([8, 2, 3, 3]):
        moving, head = p[frozen:], h[2]
        products = 3 * sum(moving) - (moving[0] if moving else head) + 3 * head
        elements = 4 * sum(units[frozen:]) + 4 * 3
        updates = update * (sum(parameters[frozen:]) + 3 * units[2])
        freezing["train"] += passes * (images * (products + elements) + STEPS * updates)
        freezing["val"] += passes * val * (sum(moving) + head)
        freezing["prefix"] += filled * p[frozen - 1] if frozen else 0
    for alive in ([0], [0, 1], [1, 2], [2]):
        for i in alive:
            products, elements = 2 * p[i] + 3 * h[i], 4 * units[i] + 4 * 3
            updates = update * (parameters[i] + 3 * units[i])
            overlapping["train"] += 4 * (images * (products + elements) + STEPS * updates)
        overlapping["train"] += 4 * STEPS * (len(alive) - 1)  # the losses of a step are added up
        overlapping["val"] += 4 * val * (sum(p[i] for i in alive) + h[alive[-1]])
    overlapping["prefix"] = filled * (p[0] + p[1])

    for name, expected in (("bp_freeze", freezing), ("mf_overlapped", overlapping)):
        algorithm = made(name)
        history = trained(algorithm, 16)
        found = diagnostics.run_counts(diagnostics.counts(algorithm, DATA), history)
        assert {region: found[f"{region}_flop"] for region in expected} == pytest.approx(expected), name


def test_a_loss_reaches_what_moves_on_it_and_nothing_else():
    x, y = DATA.x_train[:BATCH], DATA.y_train[:BATCH]
    for name in ("bp_freeze", "mf_overlapped"):
        algorithm = made(name)
        algorithm.initialise(0)
        reach = bpfree.gradient_reach(algorithm, x, y)
        for stage in algorithm.stages():
            moving = {id(q) for group in stage.groups for q in group.parameters}
            own = {n for n, q in algorithm.named_parameters() if id(q) in moving}
            rows = reach[reach.index.str.split(",").str[0] == stage.name]
            assert set(reach.columns[(rows > 0).any()]) == own, stage.name


@pytest.mark.parametrize("name", ["bp_freeze", "mf_overlapped"])
def test_its_time_and_its_papers_operations_can_be_told(name):
    algorithm = made(name)
    names = [stage.name for stage in algorithm.stages()]
    assert list(diagnostics.epoch_seconds(algorithm, DATA, seconds=0.001)) == names
    like = made({"bp_freeze": "bp", "mf_overlapped": "mf"}[name])
    assert diagnostics.paper_flops(algorithm, DATA) == diagnostics.paper_flops(like, DATA)
