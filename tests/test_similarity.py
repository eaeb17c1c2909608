"""Similarity matching in Mono-Forward's layers, against formulas written again in numpy."""

import numpy as np
import pytest
import torch
from helpers import arm, central_differences, chance, losses_of, resolved, same, toy, weights
from torch import nn

import bpfree
from bpfree import diagnostics
from bpfree.algorithms import MonoForward
from bpfree.algorithms.networks import MLP, Blocks, CaFoCNN
from bpfree.algorithms.similarity import similarities, similarity_loss
from bpfree.errors import InvalidInput
from bpfree.training import Stopping, train
from bpfree.training.stage import freeze_all_but, make_optimiser, step

WIDTHS = (12, 8, 7, 6)
DETACHED = ["mf", "mf_interleaved"]
LAST = Stopping(patience=None, restore="last")


def initialised(name="mf", widths=WIDTHS, sim_weight=0.9, **options):
    algorithm = arm(name, widths, sim_weight=sim_weight, **options)
    algorithm.initialise(0)
    return algorithm


def layer(algorithm, i: int) -> dict[str, torch.Tensor]:
    """W_i, b_i, M_i and S_i."""
    prefixes = (f"model.blocks.{i - 1}.", f"heads.{i}.", f"maps.{i}.")
    return {n: p for n, p in algorithm.named_parameters() if n.startswith(prefixes)}


def correlations(h) -> np.ndarray:
    """R in float64, row by row."""
    h = np.float64(h)
    if h.ndim == 4 and h.shape[1] > 3 and h.shape[2] > 1:
        h = h.reshape(*h.shape[:2], -1).std(2, ddof=1)
    rows = h.reshape(len(h), -1)
    found = np.empty((len(rows), len(rows)))
    for b, x in enumerate(rows):
        for c, z in enumerate(rows):
            x0, z0 = x - x.mean(), z - z.mean()
            found[b, c] = x0 @ z0 / ((1e-8 + np.sqrt(x0 @ x0)) * (1e-8 + np.sqrt(z0 @ z0)))
    return found.clip(-1, 1)


def similarity(h, labels, classes) -> float:
    return ((correlations(h) - correlations(np.eye(classes)[labels])) ** 2).mean()


# ---------------------------------------------------------------- the matrix and its loss

SHAPES = [(9, 5), (9, 3, 4, 4), (9, 4, 3, 2), (9, 5, 1, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_matrix_are_those_of_the_formula(shape):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 0, 0, 3])
    r = similarities(h)
    np.testing.assert_allclose(r, correlations(h), atol=1e-12)
    torch.testing.assert_close(r, r.T, atol=1e-14, rtol=0)
    np.testing.assert_allclose(r.diagonal(), 1, atol=1e-6)
    assert similarity_loss(h, labels, 4).item() == pytest.approx(similarity(h, labels, 4), rel=1e-7)
    assert similarity_loss(h.float(), labels, 4).item() == pytest.approx(similarity(h, labels, 4), rel=1e-4)


def test_a_row_has_neither_scale_nor_offset():
    h = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scales = torch.tensor([0.1, 1, 2, 3, 40, 5]).double()[:, None]
    torch.testing.assert_close(similarities(scales * h - 7 * scales), similarities(h), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(4, 6), (4, 4, 3, 3)])
def test_a_silent_sample_is_like_no_other_and_no_nan(shape):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    h[2] = 0.0
    h.requires_grad_()
    r = similarities(h)
    assert (r[2] == 0).all()
    assert (r[:, 2] == 0).all()
    loss = similarity_loss(h, torch.tensor([0, 1, 1, 0]), 2)
    loss.backward()
    assert loss.isfinite()
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_one_hot_features_are_what_is_wanted(classes):
    labels = torch.arange(2 * classes) % classes
    one_hot = nn.functional.one_hot(labels, classes).double()
    wanted = torch.where(labels[:, None] == labels, 1.0, -1.0 / (classes - 1)).double()
    torch.testing.assert_close(similarities(one_hot), wanted, atol=1e-6, rtol=0)
    assert similarity_loss(one_hot, labels, classes) < 1e-12


def test_a_batch_of_one_class_has_a_finite_loss():
    h = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(5, dtype=torch.long)
    assert similarity_loss(h, zeros, 3).item() == pytest.approx(similarity(h, zeros, 3), rel=1e-4)


def test_autocast_does_not_reach_into_it():
    h = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        found = similarity_loss(h, labels, 3)
    assert found.dtype == torch.float32
    assert torch.equal(found, similarity_loss(h.float(), labels, 3))


# ---------------------------------------------------------------- as a layer's loss


@pytest.mark.parametrize("i", [1, 2, 3])
@pytest.mark.parametrize("weight", [0.3, 0.99, 1.0])
def test_gradients_are_those_of_finite_differences(weight, i):
    data = toy(n=9)
    sequential, interleaved = (initialised(n, (12, 5, 4, 4), weight).double() for n in DETACHED)
    x, y = data.x_train.double(), data.y_train
    a = x.flatten(1)
    with torch.no_grad():
        for block in list(sequential.model.blocks)[: i - 1]:
            a = block(a)
    (loss,) = losses_of(sequential.stages()[i - 1], a, y)  # one scalar, as both terms share the graph
    loss.backward()
    losses_of(interleaved.stages()[0], x, y)[i - 1].backward()

    def local_loss():
        linear = sequential.model.blocks[i - 1].linear
        h = (a @ linear.weight.T + linear.bias).clamp(min=0)
        scores = h @ sequential.heads[str(i)].weight.T
        ce = (scores.exp().sum(1).log() - scores[torch.arange(len(y)), y]).mean()
        mapped = h @ sequential.maps[str(i)].weight.T
        return (1 - weight) * ce + weight * similarity(mapped.detach(), y, 3)

    assert loss.item() == pytest.approx(local_loss().item(), rel=1e-6)
    for name, parameter in layer(sequential, i).items():
        numeric = central_differences(local_loss, parameter)
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(layer(interleaved, i)[name].grad, numeric, rtol=1e-5, atol=1e-7)
    if weight == 1:
        assert not sequential.heads[str(i)].weight.grad.any()


@pytest.mark.parametrize("name", DETACHED)
def test_it_reaches_its_own_layer_only(name):
    algorithm, data = initialised(name, input_projection=True), toy()
    for stage in algorithm.stages():
        a = data.x_train
        with torch.no_grad():
            for module in stage.prefix:
                a = module(a)
        freeze_all_but(algorithm, stage)
        for number, loss in enumerate(losses_of(stage, a, data.y_train)):
            algorithm.zero_grad(set_to_none=True)
            loss.backward()
            i = number if name == "mf_interleaved" else int(stage.name.split()[1])
            received = {n for n, p in algorithm.named_parameters() if p.grad is not None and p.grad.any()}
            assert received == set(layer(algorithm, i))
            assert (f"maps.{i}.weight" in received) == (i > 0)  # M_0 has no layer to match


@pytest.mark.parametrize("name", DETACHED)
def test_batch_norm_and_the_map_move_once_a_batch(name):
    model = CaFoCNN((1, 8, 8), classes=3, channels=(4, 6))
    algorithm = bpfree.arm(name).make(model, sim_weight=0.99)
    algorithm.initialise(0)
    x, y = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    stage = algorithm.stages()[0]
    before = weights(algorithm)
    algorithm.train()
    step(stage, make_optimiser(stage), x, y, chance())
    count = [block.norm.num_batches_tracked.item() for block in model.blocks]
    assert count == ([1, 0] if name == "mf" else [1, 1])
    after = weights(algorithm)
    moved = {f"maps.{i}.weight" for i in (1, 2) if not torch.equal(after[k := f"maps.{i}.weight"], before[k])}
    assert moved == ({"maps.1.weight"} if name == "mf" else {"maps.1.weight", "maps.2.weight"})


@pytest.mark.parametrize("name", DETACHED)
def test_at_weight_zero_it_is_mono_forward_to_the_bit(name):
    data, results = toy(), []
    for options in ({}, {"sim_weight": 0.0}, {"sim_weight": 0.5}):
        algorithm = arm(name, **options)
        train(algorithm, data, max_epochs=2, stopping=LAST, progress=False)
        results.append(weights(algorithm))
    assert same(results[0], results[1])
    shared = {n: results[2][n] for n in results[0]}
    assert set(results[2]) - set(shared) == {f"maps.{i}.weight" for i in (1, 2, 3)}
    assert not same(results[0], shared)
    with_it, without = initialised(name), initialised(name, sim_weight=0.0)
    assert same({n: p for n, p in weights(with_it).items() if "maps" not in n}, weights(without))


def test_a_record_from_before_the_option_is_found():
    keys = [resolved(options={"lr": 0.1, **o}).key for o in ({}, {"sim_weight": 0.0}, {"sim_weight": 0.99})]
    assert keys[0] == keys[1] != keys[2]


def test_the_maps_have_no_part_in_prediction():
    data, algorithm = toy(), arm("mf_predsim")
    train(algorithm, data, max_epochs=1, progress=False)
    before = algorithm.predict_all(data.x_test)
    for parameter in algorithm.maps.parameters():
        nn.init.constant_(parameter, float("nan"))
    after = algorithm.predict_all(data.x_test)
    assert all(torch.equal(before[way], after[way]) for way in before)


# ---------------------------------------------------------------- what it costs


class VGG8b(Blocks):
    """The paper's, without its output layer, BatchNorm and dropout."""

    def __init__(self):
        channels, blocks = [3, 128, 256, 256, 512, 512, 512], []
        pooled = (2, 4, 5, 6)
        for k in range(1, 7):
            conv = nn.Conv2d(channels[k - 1], channels[k], 3, padding=1)
            blocks.append(nn.Sequential(conv, nn.ReLU(), *([nn.MaxPool2d(2)] if k in pooled else [])))
        blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(2048, 1024), nn.ReLU()))
        super().__init__(blocks, [*channels[1:], 1024], 3 * 32 * 32, 10, read="mean")


def test_parameters_are_those_of_the_paper():
    with torch.device("meta"):
        algorithm = MonoForward(VGG8b(), sim_weight=0.99)
    assert sum(p.numel() for p in algorithm.maps.parameters()) == 9_453_568
    assert not any(name.endswith("bias") for name, _ in algorithm.maps.named_parameters())


@pytest.mark.parametrize("name", DETACHED)
def test_the_account_has_its_parameters_gradients_and_state(name):
    data, d = toy(), WIDTHS[1:]
    with_it, without = (
        diagnostics.account(initialised(name, optimiser="adam", sim_weight=w), data) for w in (0.9, 0.0)
    )
    assert set(with_it["parameters"] - without["parameters"]) == {4 * sum(n * n for n in d)}
    own = [n * n for n in d] if name == "mf" else [sum(n * n for n in d)]
    counters = 4 * len(d) // len(own)  # of steps, one a tensor; beside Adam's m and v
    assert list(with_it["state"] - without["state"]) == [8 * n + counters for n in own]
    assert list(with_it["best"] - without["best"]) == [4 * n for n in own]
    assert (with_it["gradients"] > without["gradients"]).all()
    assert (with_it["graph"] > without["graph"]).all()
    prediction = [
        f.loc[f["part"] == "prediction", "flops"].item()
        for f in (diagnostics.flops(initialised(name, sim_weight=w), data) for w in (0.9, 0.0))
    ]
    assert prediction[0] == prediction[1]


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), True, "0.5"])
def test_a_weight_beyond_its_range_is_refused(weight):
    with pytest.raises(InvalidInput, match=r"sim_weight=.*use a number 0 or more and at most 1"):
        MonoForward(MLP([4, 3], classes=2), sim_weight=weight)


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
def test_undetached_layers_are_refused(schedule):
    with pytest.raises(InvalidInput, match=r"does not detach its layers; use detach=True or sim_weight=0"):
        MonoForward(MLP([4, 3], classes=2), schedule=schedule, detach=False, sim_weight=0.5)
