"""ASGE-like: its goodness, its fixed heads, where its gradients end, and its three predictions."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import Eager, central_differences, losses_of, outcome, same, toy, weights
from torch import nn
from torch.nn.functional import cross_entropy

import bpfree
from bpfree import diagnostics
from bpfree.algorithms import ARMS, MLP, ASGELike, Blocks, CaFoCNN, ConvNet, MonoForward, RMSNet
from bpfree.algorithms.architectures import build_model
from bpfree.data import stand_in
from bpfree.errors import InvalidInput
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.runner import run
from bpfree.training import train

CHANNELS, IMAGE, CLASSES, BATCH = (4, 6, 8), (2, 12, 10), 3, 16
SIDES = ((6, 5), (3, 2), (1, 1))  # of the maps that the blocks put out
DATA = toy(n=70, val=30, shape=IMAGE, classes=CLASSES)
SCHEDULES = ("sequential", "simultaneous")
NETWORKS = (ConvNet, RMSNet)


def network(kind=ConvNet, channels=CHANNELS, **options) -> ASGELike:
    """On a small network of a kind, initialised."""
    model = kind(IMAGE, classes=CLASSES, channels=channels)
    algorithm = ARMS["asge_like"].make(model, **{"batch_size": BATCH, **options})
    algorithm.initialise(0)
    return algorithm


def activations(algorithm, x) -> list[torch.Tensor]:
    """a_1, ..., a_L."""
    found = []
    for block in algorithm.model.blocks:
        x = block(x)
        found.append(x)
    return found


def width(algorithm) -> list[int]:
    return [head.weight.shape[1] for head in algorithm.heads.values()]


# ---------------------------------------------------------------- goodness


def goodness_by_hand(a: np.ndarray, patches: int, pooled: str) -> np.ndarray:
    """Pixel by pixel in float64: patches as large as so many of them need to be, from the first corner on."""
    n, channels, *sides = a.shape
    size = [-(-side // patches) for side in sides]
    count = [-(-side // k) for side, k in zip(sides, size, strict=True)]
    total, pixels = np.zeros((n, channels, *count)), np.zeros(count)
    for u in range(sides[0]):
        for v in range(sides[1]):
            total[:, :, u // size[0], v // size[1]] += a[:, :, u, v] ** 2
            pixels[u // size[0], v // size[1]] += 1
    assert pixels.sum() == np.prod(sides)
    return (total / pixels if pooled == "mean" else total).reshape(n, -1)


@pytest.mark.parametrize("pooled", ["mean", "sum"])
@pytest.mark.parametrize(
    ("patches", "alpha", "counts"),
    [("floor", 1.0, (2, 1, 1)), ("floor", 2.0, (4, 2, 2)), ("const_dim", 4.0, (4, 2, 1))],
)
def test_scores_are_the_fixed_head_of_the_energy_in_each_patch(pooled, patches, alpha, counts):
    algorithm = network(pooled=pooled, patches=patches, alpha=alpha).double()
    x = DATA.x_train.double()
    for i, a in enumerate(activations(algorithm, x), start=1):
        head = algorithm.heads[str(i)]
        g = goodness_by_hand(a.detach().numpy(), counts[i - 1], pooled)
        expected = g @ head.weight.numpy().T + head.bias.numpy()
        np.testing.assert_allclose(head(a).detach(), expected, rtol=1e-12, atol=1e-12)


def test_patch_sums_add_up_to_the_energy_of_the_map_however_it_is_cut():
    for alpha in (0.0, 0.5, 1.0, 1.5, 3.0):
        algorithm = network(pooled="sum", alpha=alpha).double()
        for i, a in enumerate(activations(algorithm, DATA.x_train.double()), start=1):
            g = algorithm.heads[str(i)].read(a)
            torch.testing.assert_close(g.sum(1), a.square().sum((1, 2, 3)))


def test_pixels_may_change_places_within_a_patch_only():
    algorithm = network()  # the first map, of 6×5, in patches of 3×3 and 3×2
    read = algorithm.heads["1"].read
    a = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    within, across = a.clone(), a.clone()
    within[:, :, 0:3, 0:3] = a[:, :, 0:3, 0:3].flip(2, 3)
    across[:, :, 2:4] = a[:, :, 2:4].flip(2)
    torch.testing.assert_close(read(within), read(a))
    assert not torch.allclose(read(across), read(a))


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({}, (8, 4, 2, 1)),
        ({"alpha": 0.5}, (4, 2, 1, 1)),
        ({"alpha": 0.0}, (1, 1, 1, 1)),
        ({"patches": "const_dim"}, (3, 2, 1, 1)),
        ({"patches": "const_dim", "alpha": 0.0}, (1, 1, 1, 1)),
    ],
)
def test_a_block_with_fewer_channels_has_more_patches(options, sides):
    model = build_model("conv-64-128-256-512", stand_in("cifar10"))  # maps of 16, 8, 4 and 2 pixels a side
    found = width(ASGELike(model, **options))
    assert found == [c * p**2 for c, p in zip((64, 128, 256, 512), sides, strict=True)]


def test_no_map_has_more_patches_than_pixels():
    model = build_model("conv-64-128-256-512", stand_in("mnist"))  # 14, 7, 3, 1, for 8, 4, 2, 1 patches
    assert width(ASGELike(model)) == [64 * 7**2, 128 * 4**2, 256 * 2**2, 512]
    assert width(network(alpha=100.0)) == [c * h * w for c, (h, w) in zip(CHANNELS, SIDES, strict=True)]


def test_of_vectors_every_number_is_squared():
    algorithm = ASGELike(MLP([5, 4, 3], classes=3))
    a = torch.randn(7, 4)
    assert torch.equal(algorithm.heads["1"].read(a), a.square())
    own = Blocks([nn.Conv2d(1, 2, 3, padding=1)], [2], 16, 3, read="mean")  # which says no shapes
    a = torch.randn(7, 2, 4, 4)
    torch.testing.assert_close(ASGELike(own).heads["1"].read(a), a.square().mean((2, 3)))


def test_in_half_precision_squares_are_summed_in_single():
    read = network(pooled="sum", alpha=0.0).heads["1"].read
    a = torch.full((1, 4, 6, 5), 1.0078125).bfloat16()  # the next number after 1
    assert read(a).tolist() == [4 * [30 * 1.0078125**2]]


# ---------------------------------------------------------------- its network


def test_its_pool_is_the_root_mean_square_and_keeps_the_energy():
    pool = network(RMSNet).model.blocks[1].pool
    for c in (3.0, -0.25, 1e-3):
        torch.testing.assert_close(pool(torch.full((2, 3, 4, 6), c)), torch.full((2, 3, 2, 3), abs(c)))
    a = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(4 * pool(a).square().sum(), a.square().sum())
    assert torch.autograd.gradcheck(pool, (a,))
    silent = torch.zeros(1, 1, 2, 2, requires_grad=True)
    pool(silent).sum().backward()
    assert not silent.grad.any()
    assert pool(torch.rand(1, 1, 7, 5)).shape == (1, 1, 3, 2)


def test_its_network_is_the_description_with_the_normalisation_behind_the_pool():
    """Conv, ReLU, RMS-pool; then LayerNorm over the channels, which the next block's input has."""
    algorithm = network(RMSNet)
    x = a = DATA.x_train
    for i, (own, block) in enumerate(zip(activations(algorithm, x), algorithm.model.blocks, strict=True)):
        if i:
            norm = nn.LayerNorm(a.shape[1], elementwise_affine=False)
            a = norm(a.movedim(1, 3)).movedim(3, 1)
        a = nn.functional.conv2d(a, block.conv.weight, block.conv.bias, padding=1).relu()
        high, wide = (side // 2 * 2 for side in a.shape[2:])
        window = [a[:, :, u:high:2, v:wide:2] for u in (0, 1) for v in (0, 1)]
        a = torch.stack(window).square().mean(0).sqrt()
        torch.testing.assert_close(own, a, rtol=1e-4, atol=1e-5)
    assert isinstance(build_model("rms-4-6-8", DATA), RMSNet)
    names = [name for name, _ in algorithm.model.blocks[0].named_children()]
    assert names == ["conv", "relu", "pool"]


def test_every_network_says_the_shapes_that_its_blocks_put_out():
    cnns = [kind(IMAGE, classes=3, channels=CHANNELS) for kind in (*NETWORKS, CaFoCNN)]
    for model in (*cnns, MLP([240, 9, 8], classes=3)):
        a = DATA.x_train
        for block, shape in zip(model.blocks, model.shapes, strict=True):
            a = block(a)
            assert tuple(a.shape[1:]) == tuple(shape)


@pytest.mark.parametrize("name", ["bp", "mf_joint", "mf"])
def test_others_learn_on_its_network_too(name):
    data = toy(n=240, val=60, test=60, shape=IMAGE)
    algorithm = ARMS[name].make(RMSNet(IMAGE, classes=3, channels=CHANNELS), batch_size=16, lr=1e-2)
    train(algorithm, data, max_epochs=6, progress=False)
    assert (algorithm.predict(data.x_test).argmax(1) == data.y_test).float().mean() > 0.6


# ---------------------------------------------------------------- heads that never move


@pytest.mark.parametrize(
    ("data", "kind", "parameters"),
    [
        ("cifar10", "conv", 27 * 64 + 9 * (64 * 128 + 128 * 256 + 256 * 512) + 2 * 960),
        ("mnist", "conv", 9 * 64 + 9 * (64 * 128 + 128 * 256 + 256 * 512) + 2 * 960),
        ("cifar10", "rms", 27 * 64 + 9 * (64 * 128 + 128 * 256 + 256 * 512) + 960),
    ],
)
def test_nothing_learns_but_the_blocks_however_many_classes_there_are(data, kind, parameters):
    algorithm = ASGELike(build_model(f"{kind}-64-128-256-512", stand_in(data)))
    assert sum(p.numel() for p in algorithm.parameters()) == parameters
    moving = [p for stage in algorithm.stages() for group in stage.groups for p in group.parameters]
    assert {*map(id, moving)} == {*map(id, algorithm.model.parameters())}
    assert len(moving) == len({*map(id, moving)})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_heads_are_the_same_bits_after_training(schedule):
    algorithm = network(schedule=schedule)
    before = weights(algorithm.heads)
    blocks = weights(algorithm.model)
    train(algorithm, DATA, max_epochs=2, progress=False)
    assert same(before, weights(algorithm.heads))
    assert all(value.any() for value in before.values())
    after = weights(algorithm.model)
    moved = [not torch.equal(blocks[name], after[name]) for name in blocks if name.endswith("conv.weight")]
    assert moved == [True] * 3


def test_heads_are_drawn_by_the_seed_and_are_as_large_as_torchs_own():
    algorithm = network(channels=(40, 50, 60), alpha=0.0)
    first = weights(algorithm.heads)
    for i, d in enumerate((40, 50, 60), start=1):
        for part in ("weight", "bias"):
            value = first[f"{i}.{part}"]
            assert value.abs().max() <= d**-0.5
        assert first[f"{i}.weight"].std() == pytest.approx((3 * d) ** -0.5, rel=0.15)
    algorithm.initialise(1)
    assert not any(torch.equal(first[name], value) for name, value in weights(algorithm.heads).items())
    algorithm.initialise(0)
    assert same(first, weights(algorithm.heads))


def test_it_starts_with_mono_forwards_weights():
    algorithm, mf = network(alpha=0.0), ARMS["mf"].make(ConvNet(IMAGE, classes=CLASSES, channels=CHANNELS))
    mf.initialise(0)
    assert same(weights(algorithm.model), weights(mf.model))
    assert all(torch.equal(algorithm.heads[i].weight, mf.heads[i].weight) for i in "123")


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_loss_reaches_its_own_block_only(kind, schedule):
    algorithm = network(kind, schedule=schedule)
    stages = algorithm.stages()
    for i in range(3):
        algorithm.zero_grad(set_to_none=True)
        if schedule == "sequential":
            a = DATA.x_train if i == 0 else activations(algorithm, DATA.x_train)[i - 1]  # not detached
            (loss,) = losses_of(stages[i], a, DATA.y_train)
        else:
            loss = losses_of(stages[0], DATA.x_train, DATA.y_train)[i]
        loss.backward()
        receiving = {name for name, p in algorithm.named_parameters() if p.grad is not None and p.grad.any()}
        assert receiving == {n for n, _ in algorithm.named_parameters() if n.startswith(f"model.blocks.{i}.")}


@pytest.mark.parametrize("kind", NETWORKS)
def test_its_gradient_is_that_of_finite_differences(kind):
    algorithm = network(kind, channels=(2, 3), schedule="simultaneous", alpha=2.0).double()
    algorithm.to(memory_format=torch.contiguous_format)
    x, y = DATA.x_train[:5].double(), DATA.y_train[:5]
    stage = algorithm.stages()[0]
    for i in (0, 1):
        algorithm.zero_grad(set_to_none=True)
        losses_of(stage, x, y)[i].backward()
        for parameter in algorithm.model.blocks[i].parameters():
            expected = central_differences(lambda i=i: losses_of(stage, x, y)[i].item(), parameter)
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-8)


def test_with_one_patch_it_is_mono_forward_that_reads_squares_and_whose_heads_are_fixed():
    """Mono-Forward's own code, of a network whose heads read the mean square of each channel."""
    ours = network(alpha=0.0, schedule="simultaneous")
    model = ConvNet(IMAGE, classes=CLASSES, channels=CHANNELS)
    plain = model.read
    model.read = lambda a: plain(a.square())
    mf = MonoForward(model, schedule="simultaneous", projection_bias=True)
    mf.initialise(0)
    with torch.no_grad():
        for i in "123":
            mf.heads[i].bias.copy_(ours.heads[i].bias)
    pairs = [losses_of(a.stages()[0], DATA.x_train, DATA.y_train) for a in (ours, mf)]
    for own, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(own, theirs)
        own.backward()
        theirs.backward()
    for p, q in zip(ours.model.parameters(), mf.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- prediction


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_three_predictions_of_the_layers_scores(schedule):
    data = toy(n=240, val=60, test=60, shape=IMAGE)
    algorithm = network(schedule=schedule, lr=1e-2)
    history = train(algorithm, data, max_epochs=6, progress=False)
    with torch.no_grad():
        layers = []
        for a, head in zip(activations(algorithm, data.x_test), algorithm.heads.values(), strict=True):
            layers.append(head(a))
    found = algorithm.predict_all(data.x_test)
    torch.testing.assert_close(found["last"], layers[-1])
    torch.testing.assert_close(
        found["fusion"].exp(), torch.stack([s.softmax(1) for s in layers]).prod(0), rtol=1e-4, atol=1e-6
    )
    for i, s in enumerate(layers, start=1):
        torch.testing.assert_close(found[f"layer {i}"], s)
    accuracy = {way: (s.argmax(1) == data.y_test).float().mean().item() for way, s in found.items()}
    assert accuracy["last"] > 0.6  # chance is a third
    if schedule == "simultaneous":
        assert "best" not in found
        assert len(history.stages) == 1
        return
    right = {
        i: (algorithm.predict_all(data.x_val)[f"layer {i}"].argmax(1) == data.y_val).sum().item()
        for i in (1, 2, 3)
    }
    best = max(right, key=right.get)  # the lowest of equals
    assert torch.equal(found["best"], found[f"layer {best}"])
    stages = [s.rows[s.restored - 1]["val_accuracy"] for s in history.stages]
    assert stages == pytest.approx([100 * n / 60 for n in right.values()])
    assert algorithm.validated.tolist() == pytest.approx(stages)


@pytest.mark.parametrize("way", ["last", "fusion", "best"])
def test_predict_is_by_the_way_that_is_asked_for(way):
    algorithm = network(predict_by=way)
    train(algorithm, DATA, max_epochs=1, progress=False)
    scores = algorithm.predict_all(DATA.x_test)
    assert next(iter(scores)) == way
    assert torch.equal(algorithm.predict(DATA.x_test), scores[way])


@pytest.mark.parametrize(("accuracies", "best"), [((50, 70, 60), 2), ((70, 50, 70), 1), ((0, 0, 0), 1)])
def test_the_best_layer_is_the_lowest_of_those_that_were_best_validated(accuracies, best):
    algorithm = network()
    train(algorithm, DATA, max_epochs=1, progress=False)
    algorithm.validated.copy_(torch.tensor(accuracies))
    scores = algorithm.predict_all(DATA.x_test)
    assert torch.equal(scores["best"], scores[f"layer {best}"])


class Stopped(Exception):
    pass


def test_half_trained_it_predicts_by_the_layers_that_there_are():
    algorithm = network()

    def stop(trained, stage, row):
        if stage.name == "layer 3":
            raise Stopped

    with pytest.raises(Stopped):
        train(algorithm, DATA, max_epochs=1, on_epoch=stop, progress=False)
    scores = algorithm.predict_all(DATA.x_test)
    assert list(scores) == ["last", "fusion", "best", "layer 1", "layer 2"]
    assert torch.equal(scores["last"], scores["layer 2"])
    with pytest.raises(InvalidInput, match="has not been trained"):
        network().predict(DATA.x_test)


def test_what_validation_said_does_not_outlive_a_training():
    algorithm = network()
    train(algorithm, DATA, max_epochs=1, progress=False)
    assert algorithm.validated.all()
    algorithm.initialise(0)
    assert not algorithm.validated.any()


@pytest.mark.parametrize("way", ["last", "fusion"])
def test_all_blocks_at_once_are_validated_by_what_predicts(way):
    algorithm = network(schedule="simultaneous", predict_by=way)
    history = train(algorithm, DATA, max_epochs=2, progress=False)
    stage = history.stages[0]
    right = (algorithm.predict(DATA.x_val).argmax(1) == DATA.y_val).float().mean().item()
    assert stage.rows[stage.restored - 1]["val_accuracy"] == pytest.approx(100 * right)


# ---------------------------------------------------------------- CwComp's goodness


def test_groups_of_channels_are_cwcomps_goodness():
    """The mean square of a class's group of channels, and its cross-entropy (CwC_CE)."""
    model = CaFoCNN((2, 8, 8), classes=3, channels=(6, 9))
    algorithm = ASGELike(model, head="groups", schedule="simultaneous", batch_size=BATCH, lr=1e-2)
    algorithm.initialise(0)
    data = toy(shape=(2, 8, 8))
    losses, a = losses_of(algorithm.stages()[0], data.x_train, data.y_train), data.x_train
    algorithm.initialise(0)  # running statistics, too
    for block, loss, channels in zip(model.blocks, losses, (6, 9), strict=True):
        a = block(a)
        groups = a.view(len(a), 3, channels // 3, *a.shape[2:])
        g = groups.square().mean((2, 3, 4))
        torch.testing.assert_close(loss, cross_entropy(g, data.y_train))
    data = toy(n=240, test=60, shape=(2, 8, 8))
    train(algorithm, data, max_epochs=8, progress=False)
    for head, of in zip(algorithm.heads.values(), (2, 3), strict=True):
        expected = [[1 / of if k // of == c else 0.0 for k in range(3 * of)] for c in range(3)]
        torch.testing.assert_close(head.weight, torch.tensor(expected))
    accuracy = (algorithm.predict(data.x_test).argmax(1) == data.y_test).float().mean()
    assert accuracy > 0.6


# ---------------------------------------------------------------- prefixes, executors, interruptions, records


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cached_prefix_gives_the_bits_of_a_recomputed_one(kind, precision):
    results = []
    for cache in (True, False):
        algorithm = network(kind)
        how = {"cache": cache, "precision": precision, "max_epochs": 2, "progress": False}
        history = train(algorithm, DATA, **how)
        served = "cached in memory" if cache else "recomputed"
        assert [s.prefix for s in history.stages] == ["images", served, served]
        results.append((weights(algorithm), outcome(history)))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_replayed_steps_learn_what_called_ones_learn(kind, schedule):
    results = []
    for executor in ("eager", "graph"):
        algorithm = network(kind, schedule=schedule, predict_by="fusion")
        how = {"executor": executor, "max_epochs": 3, "device": "cpu", "progress": False}
        history = train(algorithm, DATA, **how)
        assert {s.executor for s in history.stages} == {executor}
        results.append((weights(algorithm), outcome(history)))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_interrupted_run_resumes_to_the_same_bits(schedule, tmp_path):
    whole = network(schedule=schedule)
    train(whole, DATA, max_epochs=2, progress=False)
    for moment in (1, 2):
        path = tmp_path / f"{moment}"
        with pytest.raises(KeyboardInterrupt):
            train(
                network(schedule=schedule),
                DATA,
                max_epochs=2,
                progress=False,
                checkpoint=Eager(path, dies_after=moment),
            )
        again = network(schedule=schedule)
        train(again, DATA, max_epochs=2, progress=False, checkpoint=Eager(path))
        assert same(weights(whole), weights(again))  # what validation said of the layers among them


def test_a_record_has_every_prediction_and_its_weights_predict_the_same(tmp_path):
    how = {"architecture": "rms-4-8", "max_epochs": 2, "device": "cpu", "options": {"predict_by": "best"}}
    record = run(Experiment("asge_like", "digits", **how), tmp_path, progress=False, keep_weights=True)
    ways = ("last", "fusion", "best", "layer 1", "layer 2")
    assert {f"test_accuracy[{way}]" for way in ways} <= record.metrics.keys()
    assert record.metrics["test_accuracy"] == record.metrics["test_accuracy[best]"]
    data = bpfree.load("digits")
    again = ARMS["asge_like"].make(build_model("rms-4-8", data), predict_by="best")
    again.load_state_dict(record.weights())
    right = (again.predict(data.x_test).argmax(1) == data.y_test).float().mean().item()
    assert 100 * right == pytest.approx(record.metrics["test_accuracy"])


# ---------------------------------------------------------------- costs

# Of one sample: c_i = 2 · 9 · in · out · H · W for convolution i, h_i = 2 C d_i for the head of its goodness.
C = [
    2 * 9 * a * b * h * w
    for (a, b), (h, w) in zip(pairwise((IMAGE[0], *CHANNELS)), (IMAGE[1:], *SIDES), strict=False)
]
WIDTHS = (4 * 4, 6, 8)  # of the first map, which is cut into 2 × 2 patches
H = [2 * CLASSES * d for d in WIDTHS]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_operations_are_those_counted_by_hand(schedule):
    """Nothing is computed for a head but its scores, and the gradient at what it reads."""
    algorithm = network(schedule=schedule)
    assert tuple(width(algorithm)) == WIDTHS
    table = diagnostics.flops(algorithm, DATA)
    steps = table[table["part"].isin(["forward", "backward"])]
    found = steps.pivot(index="stage", columns="part", values="per_sample")
    counted = {s: (row["forward"], row["backward"]) for s, row in found.iterrows()}
    if schedule == "simultaneous":
        assert counted == {"network": (sum(C) + sum(H), sum(C) + sum(H))}
    else:
        assert counted == {f"layer {i + 1}": (C[i] + H[i], C[i] + H[i]) for i in range(3)}
        assert table[table["part"] == "prefix, cached"]["per_sample"].tolist() == C[:2]


def test_bytes_are_those_counted_by_hand():
    """Of each block of `ConvNet` as for any algorithm; of its head the activation, its squares, the loss."""
    pixels = [BATCH * c * h * w for c, (h, w) in zip(CHANNELS, (IMAGE[1:], *SIDES[:2]), strict=True)]
    out = [BATCH * c * h * w for c, (h, w) in zip(CHANNELS, SIDES, strict=True)]
    inputs = [BATCH * int(np.prod(IMAGE)), *out[:-1]]
    block = [
        4 * a + 2 * 4 * z + 8 * o + 2 * 4 * c
        for a, z, o, c in zip(inputs, pixels, out, CHANNELS, strict=True)
    ]
    head = [2 * 4 * o + 4 * BATCH * CLASSES + 8 * BATCH + 4 for o in out]
    account = diagnostics.account(network(schedule="simultaneous"), DATA).loc["network"]
    assert account["graph"] == max(b + h for b, h in zip(block, head, strict=True))
    fixed = sum((d + 1) * CLASSES for d in WIDTHS)
    statistics = 4 * 2 * sum(CHANNELS) + 8 * len(CHANNELS)
    assert account["buffers"] == 4 * fixed + statistics + 4 * 3 + 8  # the validated layers; finished stages
    moving = 9 * sum(a * b for a, b in pairwise((IMAGE[0], *CHANNELS))) + 2 * sum(CHANNELS)
    assert account["parameters"] == account["gradients"] == 4 * moving
