"""The angle between a block's own gradient and the true one, against autograd on graphs built by hand."""

import numpy as np
import pytest
import torch
from helpers import arm, same, toy, weights
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import bpfree
from bpfree import alignment
from bpfree.algorithms import ARMS
from bpfree.errors import InvalidInput, UnknownName
from bpfree.training import train

DATA = toy()
BATCH = DATA.x_train, DATA.y_train
BLOCKS = ["block 1", "block 2", "block 3"]


def initialised(name, **options):
    algorithm = arm(name, **options)
    algorithm.initialise(0)
    return algorithm


def degrees(a, b) -> float:
    """By the definition of the scalar product, in float64."""
    a, b = (np.concatenate([t.detach().double().numpy().ravel() for t in some]) for some in (a, b))
    return np.degrees(np.arccos(a @ b / np.sqrt((a @ a) * (b @ b))))


def gradients(loss, algorithm) -> list[list[torch.Tensor]]:
    """∂loss/∂(W_i, b_i) for every layer i."""
    layers = [list(block.parameters()) for block in algorithm.model.blocks]
    flat = iter(torch.autograd.grad(loss, [p for layer in layers for p in layer], retain_graph=True))
    return [[next(flat) for _ in layer] for layer in layers]


def forward(algorithm, x, detach=False) -> list[torch.Tensor]:
    """a_1, ..., a_L, written again."""
    outputs, a = [], x.flatten(1)
    for block in algorithm.model.blocks:
        a = torch.relu((a.detach() if detach else a) @ block.linear.weight.T + block.linear.bias)
        outputs.append(a)
    return outputs


@pytest.mark.parametrize("of", ["weights", "outputs"])
def test_backpropagation_is_aligned_with_itself(of):
    assert alignment(initialised("bp"), *BATCH, of=of) == dict.fromkeys(BLOCKS, 0.0)
    cnn = ARMS["bp"].make(bpfree.CaFoCNN((1, 8, 8), classes=3, channels=(3, 4)))
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert alignment(cnn, x, DATA.y_train[:16], of=of) == dict.fromkeys(BLOCKS[:2], 0.0)


@pytest.mark.parametrize("name", ["mf", "mf_interleaved"])
def test_of_mono_forward_it_is_that_of_the_layers_losses_and_the_last(name):
    algorithm, (x, y) = initialised(name), BATCH
    heads = [algorithm.heads[str(i)].weight for i in (1, 2, 3)]
    own = [cross_entropy(a @ m.T, y) for a, m in zip(forward(algorithm, x, detach=True), heads, strict=True)]
    true = cross_entropy(forward(algorithm, x)[-1] @ heads[-1].T, y)
    expected = map(degrees, gradients(sum(own), algorithm), gradients(true, algorithm))
    found = alignment(algorithm, *BATCH)
    assert list(found) == BLOCKS
    np.testing.assert_allclose(list(found.values()), list(expected), atol=2e-2)
    assert 5 < found["block 1"] < 175
    assert found["block 3"] == 0  # its own loss is the global one


def test_at_the_outputs_it_is_that_of_the_gradients_there():
    algorithm, (x, y) = initialised("mf_interleaved"), BATCH
    outputs = forward(algorithm, x)
    true = torch.autograd.grad(cross_entropy(outputs[-1] @ algorithm.heads["3"].weight.T, y), outputs)
    found = alignment(algorithm, *BATCH, of="outputs")
    for i, (a, t) in enumerate(zip(outputs, true, strict=True), start=1):
        p = (a @ algorithm.heads[str(i)].weight.T).softmax(1)
        local = (p - nn.functional.one_hot(y, 3)) @ algorithm.heads[str(i)].weight / len(y)
        assert found[f"block {i}"] == pytest.approx(degrees([local], [t]), abs=2e-2)


def test_of_forward_forward_the_true_gradient_passes_the_layers_that_it_detaches():
    """Two classes, so that the wrong label is no matter of chance; without peer normalisation."""
    data = toy(classes=2)
    algorithm, x, y = initialised("ff", classes=2, peer_weight=0.0), data.x_train, data.y_train
    with torch.no_grad():
        for p in algorithm.model.parameters():
            p.mul_(0.3)  # goodness of a few units, so that the softmax over labels is not settled

    def goodness(labels, detach):
        z, found = x.flatten(1).clone(), []
        z[:, :2] = nn.functional.one_hot(labels, 2)
        for block in algorithm.model.blocks:
            z = z.detach() if detach else z
            z = z / (z.square().mean(1, keepdim=True).sqrt() + 1e-8)
            z = torch.relu(z @ block.linear.weight.T + block.linear.bias)
            found.append(z.square().sum(1))
        return found

    scores = torch.stack([sum(goodness(torch.full_like(y, c), detach=False)[1:]) for c in (0, 1)], dim=1)
    true = gradients(cross_entropy(scores, y), algorithm)
    pairs = zip(goodness(y, detach=True), goodness(1 - y, detach=True), algorithm.model.features, strict=True)
    own = gradients(sum(softplus(d - g).mean() + softplus(h - d).mean() for g, h, d in pairs), algorithm)
    found = alignment(algorithm, x, y)
    np.testing.assert_allclose(list(found.values()), list(map(degrees, own, true)), atol=2e-2)
    assert all(1 < a < 179 for a in found.values())


@pytest.mark.parametrize("name", ["bp_ds", "mf", "mf_predsim", "mf_joint", "mf_sequential_joint", "ff"])
def test_it_leaves_the_algorithm_as_it_is_and_repeats_itself(name):
    algorithm = initialised(name)
    before, draws = weights(algorithm), torch.get_rng_state()
    found = alignment(algorithm, *BATCH)
    assert list(found) == BLOCKS
    assert same(weights(algorithm), before)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(p.grad is None and p.requires_grad for p in algorithm.parameters())
    assert alignment(algorithm, *BATCH) == found
    assert torch.is_grad_enabled()


def test_it_can_be_watched_from_epoch_to_epoch_and_changes_no_bit():
    plain, watched, seen = arm("mf_interleaved"), arm("mf_interleaved"), []
    train(plain, DATA, max_epochs=3, progress=False)

    def watch(algorithm, stage, row):
        seen.append({"epoch": row["epoch"], **alignment(algorithm, *BATCH)})

    train(watched, DATA, max_epochs=3, progress=False, on_epoch=watch)
    assert same(weights(plain), weights(watched))
    assert [row["epoch"] for row in seen] == [1, 2, 3]
    assert len({row["block 1"] for row in seen}) == 3


def test_a_frozen_prefix_normalises_by_its_running_statistics():
    algorithm = ARMS["mf"].make(bpfree.CaFoCNN((1, 8, 8), classes=3, channels=(3, 4)))
    algorithm.initialise(0)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = DATA.y_train[:16]
    first = alignment(algorithm, x, y)
    algorithm.model.blocks[1].norm.running_var.fill_(9.0)  # of the last block nobody asks for them
    assert alignment(algorithm, x, y) == first
    algorithm.model.blocks[0].norm.running_mean.fill_(1.0)
    found = alignment(algorithm, x, y)
    assert found["block 1"] == first["block 1"]  # which is trained on its batch's own
    assert found["block 2"] == 0  # both gradients see the same prefix


def test_what_cannot_be_aligned_is_refused():
    for name in ("fp", "cafo_rand"):
        model = bpfree.MLP([12, 8, 7], classes=3)
        with pytest.raises(InvalidInput, match=f"{name} moves no block by a gradient"):
            alignment(ARMS[name].make(model), *BATCH)
    with pytest.raises(InvalidInput, match="ff learns from other outputs of block 1"):
        alignment(initialised("ff"), *BATCH, of="outputs")
    with pytest.raises(UnknownName, match="allowed are weights, outputs"):
        alignment(initialised("bp"), *BATCH, of="signals")


def test_a_zero_gradient_has_no_direction():
    found = alignment(initialised("ff", predict_by="softmax"), *BATCH)  # whose head starts at 0
    assert all(np.isnan(angle) for angle in found.values())
