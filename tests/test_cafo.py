"""Cascaded-Forward: its gradients, its solved stages and its predictions against independent references."""

import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from bpfree.algorithms import Backprop, CascadedForward
from bpfree.algorithms.networks import MLP, Blocks, CaFoCNN
from bpfree.algorithms.solved import ChannelMoments, NormalEquations
from bpfree.algorithms.sparsemax import sparsemax, sparsemax_loss
from bpfree.data import load
from bpfree.diagnostics import saved_bytes
from bpfree.diagnostics.alignment import alignment
from bpfree.errors import InvalidInput
from bpfree.training import Stopping, train
from bpfree.training.batches import Augmentation

EVERY_EPOCH = Stopping(patience=None, restore="last")


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return replace(data, x_train=data.x_train[:500], y_train=data.y_train[:500])


def cnn(channels=(4, 8, 8)):
    return CaFoCNN((1, 8, 8), classes=10, channels=channels)


def run(data, model=None, epochs=2, cache="auto", precision="fp32", seed=0, **options):
    cafo = CascadedForward(model or cnn(), batch_size=64, **options)
    history = train(
        cafo,
        data,
        seed=seed,
        max_epochs=epochs,
        stopping=EVERY_EPOCH,
        cache=cache,
        precision=precision,
        progress=False,
    )
    return cafo, history


def one_loss(stage, x, y):
    (loss,) = stage.losses(x, y, torch.Generator())
    return loss


# -- the network


@pytest.mark.parametrize(
    ("shape", "features"), [((3, 32, 32), [8192, 8192, 8192]), ((1, 28, 28), [6272, 6272, 4608])]
)
def test_the_network_has_the_papers_feature_dimensions(shape, features):
    model = CaFoCNN(shape, classes=10)
    assert model.features == features
    assert [[type(layer) for layer in block] for block in model.blocks] == [
        [nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.BatchNorm2d]
    ] * 3
    x = torch.randn(2, *shape)
    for block, width in zip(model.blocks, features, strict=True):
        x = block(x)
        assert x.flatten(1).shape == (2, width)


# -- direct feedback alignment


def linear_network(widths, classes, dtype=torch.float64):
    """Linear blocks, each with a BatchNorm: in eval mode every block is an affine map."""
    blocks = [nn.Sequential(nn.Flatten(), nn.Linear(a, b), nn.BatchNorm1d(b)) for a, b in pairwise(widths)]
    for block in blocks:
        norm = block[2]
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    return Blocks(blocks, widths[1:], widths[0], classes).to(dtype)


def gradients(loss, parameters):
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def dfa(model, **options):
    torch.manual_seed(0)
    return CascadedForward(model, blocks="dfa", **options).to(torch.float64)


def batch(features, n=7, classes=3):
    torch.manual_seed(1)
    return torch.randn(n, features, dtype=torch.float64), torch.randint(0, classes, (n,))


def test_with_the_true_feedback_a_linear_network_gets_backpropagations_gradient():
    cafo = dfa(linear_network([5, 6, 4, 8], classes=3)).eval()
    product = cafo.heads["output"].weight.detach()  # V W_L ... W_{i+1}, BatchNorm's factors included
    for i in (2, 1):
        block = cafo.model.blocks[i]
        scale = block[2].weight / (block[2].running_var + block[2].eps).sqrt()
        product = (product * scale) @ block[1].weight
        cafo.feedback(i).copy_(product.detach())
    x, y = batch(5)
    moving = [p for g in cafo.block_stage().groups for p in g.parameters]
    ours = gradients(one_loss(cafo.block_stage(), x, y), moving)
    true = gradients(cross_entropy(cafo.output(x), y), moving)
    assert len(ours) == 13
    for a, b in zip(ours, true, strict=True):
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("error", ["mean", "sum"])
def test_every_block_gets_its_feedback_through_its_own_jacobian(error):
    cafo = dfa(MLP([5, 6, 4, 8], classes=3), error=error)
    for i in (1, 2):
        cafo.feedback(i).normal_()
    x, y = batch(5)
    stage = cafo.block_stage()
    outputs, h = [], x
    for block in cafo.model.blocks:
        h = block(h.detach())
        outputs.append(h)
    scores = cafo.heads["output"](h)
    e = scores.detach().softmax(1) - one_hot(y, 3)
    if error == "mean":
        e = e / 7
    for i in (1, 2):
        own = list(cafo.model.blocks[i - 1].parameters())
        true = torch.autograd.grad(outputs[i - 1], own, grad_outputs=e @ cafo.feedback(i))
        ours = gradients(one_loss(stage, x, y), own)
        for a, b in zip(ours, true, strict=True):
            assert b.abs().max() > 1e-4
            torch.testing.assert_close(a, b)


def test_the_error_is_the_gradient_of_the_cross_entropy_at_the_scores():
    cafo = dfa(MLP([5, 4, 4], classes=3))
    scores = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    (true,) = gradients(cross_entropy(scores, y), [scores])
    torch.testing.assert_close(cafo.error(scores, y).double(), true, atol=1e-7, rtol=1e-6)


def test_without_feedback_only_the_last_block_and_the_output_learn():
    cafo = dfa(MLP([5, 6, 4, 8], classes=3))  # B_i are zeros until initialised
    x, y = batch(5)
    blocks, stage = cafo.model.blocks, cafo.block_stage()
    for block in blocks[:2]:
        assert all(g.abs().max() == 0 for g in gradients(one_loss(stage, x, y), list(block.parameters())))
    last = [*blocks[2].parameters(), *cafo.heads["output"].parameters()]
    ours = gradients(one_loss(stage, x, y), last)
    frozen = blocks[1](blocks[0](x)).detach()
    true = gradients(cross_entropy(cafo.heads["output"](blocks[2](frozen)), y), last)
    for a, b in zip(ours, true, strict=True):
        assert b.abs().max() > 1e-4
        torch.testing.assert_close(a, b)


def test_the_gradient_of_a_block_agrees_with_finite_differences():
    """Of ⟨h_1(W_1), e B_1⟩ with e held fixed, in float64, for the convolution."""
    cafo = dfa(cnn()).eval()
    cafo.feedback(1).normal_()
    torch.manual_seed(2)
    x, y = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 4, 9])
    weight = cafo.model.blocks[0].conv.weight
    with torch.no_grad():
        delta = (cafo.error(cafo.output(x), y).double() @ cafo.feedback(1)).view(3, 4, 4, 4)
    (ours,) = gradients(one_loss(cafo.block_stage(), x, y), [weight])
    step = 1e-6
    for index in np.ndindex(*weight.shape):
        with torch.no_grad():
            weight[index] += step
            above = (cafo.model.blocks[0](x) * delta).sum()
            weight[index] -= 2 * step
            below = (cafo.model.blocks[0](x) * delta).sum()
            weight[index] += step
        assert ours[index].item() == pytest.approx((above - below).item() / (2 * step), abs=1e-7)


def test_the_reported_loss_is_the_cross_entropy():
    cafo = dfa(MLP([5, 6, 4], classes=3))
    cafo.feedback(1).normal_()
    x, y = batch(5)
    torch.testing.assert_close(one_loss(cafo.block_stage(), x, y), cross_entropy(cafo.output(x), y))


def test_one_step_updates_the_running_statistics_once():
    cafo = CascadedForward(cnn(), blocks="dfa")
    cafo.initialise(0)
    cafo.train()
    one_loss(cafo.block_stage(), torch.randn(4, 1, 8, 8), torch.arange(4))
    assert [block.norm.num_batches_tracked.item() for block in cafo.model.blocks] == [1, 1, 1]


def signal_angles(cafo, x, y) -> dict[str, float]:
    """Between DFA's signal and the true gradient, at the output of each block."""
    return alignment(cafo, x, y, of="outputs")


def test_random_feedback_aligns_during_training(digits):
    model = MLP([64, 64, 64, 64], classes=10)
    cafo = CascadedForward(model, blocks="dfa", lr=3e-3, block_epochs=6, batch_size=64)
    cafo.initialise(0)
    before = signal_angles(cafo, digits.x_train, digits.y_train)
    train(cafo, digits, max_epochs=6, stopping=EVERY_EPOCH, progress=False)
    after = signal_angles(cafo, digits.x_train, digits.y_train)
    assert list(before) == list(after) == ["block 1", "block 2", "block 3"]
    assert all(84 < before[block] < 96 and after[block] < 78 for block in ("block 1", "block 2"))
    assert before["block 3"] == after["block 3"] == 0  # whose signal is the gradient


def test_alignment_is_zero_for_the_true_feedback_and_changes_nothing():
    cafo = CascadedForward(cnn(), blocks="dfa")
    cafo.initialise(0)
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    before = {name: tensor.clone() for name, tensor in cafo.state_dict().items()}
    signal_angles(cafo, x, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in cafo.state_dict().items())
    assert all(p.grad is None for p in cafo.parameters())
    angles = signal_angles(cafo, x, y)
    cafo.model.blocks[1].norm.running_var.fill_(9.0)  # as in training, the batch's own statistics count
    assert signal_angles(cafo, x, y) == angles

    linear = Blocks([nn.Linear(5, 6, bias=False), nn.Linear(6, 4, bias=False)], [6, 4], 5, 3)
    cafo = dfa(linear)
    cafo.feedback(1).copy_((cafo.heads["output"].weight @ linear.blocks[1].weight).detach())
    assert signal_angles(cafo, *batch(5))["block 1"] == pytest.approx(0, abs=1e-3)
    cafo.feedback(1).neg_()
    assert signal_angles(cafo, *batch(5))["block 1"] == pytest.approx(180, abs=1e-3)


def test_feedback_rows_have_the_scales_length_and_belong_to_the_seed():
    cafo = CascadedForward(cnn(), blocks="dfa", feedback_scale=0.5)
    cafo.initialise(0)
    first = cafo.feedback(1).clone()
    assert first.shape == (10, 4 * 4 * 4)
    for i in (1, 2):
        torch.testing.assert_close(cafo.feedback(i).norm(dim=1), torch.full((10,), 0.5))
    twin = CascadedForward(cnn(), blocks="dfa", feedback_scale=0.5)
    twin.load_state_dict(cafo.state_dict())
    assert torch.equal(twin.feedback(1), first)
    cafo.initialise(1)
    assert not torch.equal(cafo.feedback(1), first)
    cafo.initialise(0)
    assert torch.equal(cafo.feedback(1), first)


def test_blocks_start_as_backpropagations_do_and_see_the_same_batches():
    cafo, bp = CascadedForward(cnn(), blocks="dfa"), Backprop(cnn())
    cafo.initialise(3)
    bp.initialise(3)
    ours = cafo.state_dict()
    for name, value in bp.state_dict().items():
        assert torch.equal(ours[name], value), name  # head 3 too, which is predictor 3
    assert cafo.stages()[0].stream == bp.stages()[0].stream


def test_blocks_have_their_own_rate_decay_and_epochs(digits):
    own = {"block_lr": 2e-3, "block_weight_decay": 1e-4, "block_epochs": 1}
    cafo, history = run(digits, blocks="dfa", lr=5e-4, weight_decay=1e-6, epochs=2, **own)
    blocks, *predictors = cafo.stages()
    assert [(g.lr, g.weight_decay) for g in blocks.groups] == [(2e-3, 1e-4)]
    assert all((g.lr, g.weight_decay) == (5e-4, 1e-6) for stage in predictors for g in stage.groups)
    assert [(stage.name, len(stage.rows)) for stage in history.stages] == [
        ("blocks", 1),
        ("predictor 1", 2),
        ("predictor 2", 2),
        ("predictor 3", 2),
    ]


# -- predictors


@pytest.mark.parametrize("blocks", ["random", "dfa"])
@pytest.mark.parametrize("loss", ["ce", "sparsemax"])
def test_a_predictor_moves_alone_and_by_its_own_features_only(digits, blocks, loss):
    cafo, _ = run(digits, blocks=blocks, loss=loss, epochs=1)
    stage = next(s for s in cafo.stages() if s.name == "predictor 2")
    x, y = digits.x_train[:8], digits.y_train[:8]

    def gradient():
        cafo.zero_grad(set_to_none=True)
        h = x
        for module in stage.prefix:
            h = module.eval()(h)
        one_loss(stage, h.detach(), y).backward()
        return {name for name, p in cafo.named_parameters() if p.grad is not None}, cafo.heads[
            "2"
        ].weight.grad

    touched, ours = gradient()
    assert touched == {"heads.2.weight"}
    assert ours.abs().max() > 0
    with torch.no_grad():  # whatever comes later may even be broken
        for module in (cafo.model.blocks[2], cafo.heads["3"]):
            for p in module.parameters():
                p.fill_(float("nan"))
    assert torch.equal(gradient()[1], ours)


def test_random_blocks_stay_as_they_were_initialised(digits):
    cafo, _ = run(digits)
    fresh = CascadedForward(cnn())
    fresh.initialise(0)
    for (name, trained), start in zip(cafo.model.named_parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(trained, start), name
    assert not torch.equal(cafo.heads["1"].weight, fresh.heads["1"].weight)


@pytest.mark.parametrize("loss", ["ce", "sparsemax"])
def test_predictor_gradients_agree_with_finite_differences(loss):
    cafo = CascadedForward(MLP([5, 4], classes=3), loss=loss, head_bias=True).double()
    stage, (h, y) = cafo.predictor_stage(1, []), batch(4)

    def local_loss(weight, bias):
        cafo.heads["1"].weight, cafo.heads["1"].bias = None, None
        del cafo.heads["1"].weight, cafo.heads["1"].bias
        cafo.heads["1"].weight, cafo.heads["1"].bias = weight, bias
        return one_loss(stage, h, y)

    start = [p.detach().clone().requires_grad_(True) for p in cafo.heads["1"].parameters()]
    assert torch.autograd.gradcheck(local_loss, start)


def test_the_memory_of_a_predictor_does_not_grow_with_depth(digits):
    batch = digits.x_train[:32], digits.y_train[:32]
    two, four = (saved_bytes(CascadedForward(MLP([64, *[32] * n], classes=10)), batch) for n in (2, 4))
    assert {*two.values()} == {*four.values()}
    assert (len(two), len(four), min(two.values()) > 0) == (2, 4, True)


@pytest.mark.parametrize("options", [{}, {"loss": "mse"}, {"blocks": "dfa"}, {"precision": "bf16"}])
def test_cached_and_recomputed_features_train_bit_identical_predictors(digits, options):
    cached, with_cache = run(digits, cache=True, **options)
    recomputed, without = run(digits, cache=False, **options)
    assert {s.prefix for s in with_cache.stages} <= {"images", "cached in memory"}
    assert "recomputed" in {s.prefix for s in without.stages}
    for name, tensor in cached.state_dict().items():
        assert torch.equal(tensor, recomputed.state_dict()[name]), name
    fresh = CascadedForward(cnn())
    fresh.initialise(0)
    assert not torch.equal(cached.heads["3"].weight, fresh.heads["3"].weight)


def test_augmented_images_recompute_the_blocks_and_say_so(digits, caplog):
    augmented = replace(digits, augment=Augmentation(pad=1))
    with caplog.at_level(logging.INFO, logger="bpfree"):
        _, history = run(augmented, epochs=1)
    assert [s.prefix for s in history.stages if "predictor" in s.name] == ["recomputed"] * 3
    assert "predictor 1: prefix recomputed" in caplog.text
    with pytest.raises(InvalidInput, match="augmented"):
        run(augmented, cache=True)


# -- calibration


def test_calibration_is_batch_statistics_of_the_whole_training_set(digits):
    """Zhao's code has the whole data set as one batch in train mode; so must these features be."""
    cafo, history = run(digits)
    assert [s.name for s in history.stages] == [
        f"{what} {i}" for i in (1, 2, 3) for what in ("calibrate", "predictor")
    ]
    assert [s.ended for s in history.stages[::2]] == ["solved"] * 3
    with torch.no_grad():
        h = digits.x_train.double()
        for block in cafo.model.double().blocks:
            z = block[:-1](h)
            torch.testing.assert_close(block.norm.running_mean, z.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(
                block.norm.running_var, z.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-7
            )
            whole = nn.functional.batch_norm(
                z, None, None, block.norm.weight, block.norm.bias, training=True, eps=block.norm.eps
            )
            h = block.eval()(h)
            torch.testing.assert_close(h, whole, rtol=1e-4, atol=1e-5)


def test_moments_are_summed_in_float64():
    """At a mean of 1000 and a deviation of 0.01, float32 sums of squares leave nothing of the variance."""
    x = 1000 + 0.01 * torch.randn(64, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    moments, norm = ChannelMoments(), nn.BatchNorm2d(2)
    for part in x.split(20):
        moments.add(part)
    moments.solve(norm)
    reference = x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(norm.running_var.double(), reference, rtol=1e-3, atol=0)


def test_without_calibration_the_running_statistics_stay(digits):
    cafo, history = run(digits, calibrate=False, epochs=1)
    assert [s.name for s in history.stages] == ["predictor 1", "predictor 2", "predictor 3"]
    for block in cafo.model.blocks:
        assert block.norm.running_mean.abs().max() == 0
        assert (block.norm.running_var == 1).all()


# -- closed form


def solved(h, y, *, bias, ridge, classes=4, size=16):
    equations = NormalEquations(bias=bias, ridge=ridge)
    equations.tile = 5  # so that these few features take several
    head = nn.Linear(h.shape[1], classes, bias=bias).double()
    for part, labels in zip(h.split(size), y.split(size), strict=True):
        equations.add(part, one_hot(labels, classes))
    equations.solve(head)
    return head


@pytest.fixture
def regression():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(90, 12, generator=generator, dtype=torch.float64) + 0.5
    return h, torch.randint(0, 4, (90,), generator=generator)


def test_least_squares_equals_lstsq_and_its_residual_is_orthogonal(regression):
    h, y = regression
    targets = one_hot(y, 4).double()
    p = solved(h, y, bias=False, ridge=0.0).weight.detach().T
    np.testing.assert_allclose(p, np.linalg.lstsq(h.numpy(), targets.numpy(), rcond=None)[0], atol=1e-12)
    torch.testing.assert_close(h.T @ (h @ p - targets), torch.zeros_like(p), atol=1e-10, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_ridge_equals_sklearns(regression, bias):
    h, y = regression
    head = solved(h, y, bias=bias, ridge=0.3)
    reference = Ridge(alpha=0.3 * len(h), fit_intercept=bias).fit(h.numpy(), one_hot(y, 4).numpy())
    np.testing.assert_allclose(head.weight.detach(), reference.coef_, atol=1e-12)
    if bias:
        np.testing.assert_allclose(head.bias.detach(), reference.intercept_, atol=1e-12)


def test_gradient_descent_converges_to_the_closed_form(regression):
    h, y = regression
    targets, p = one_hot(y, 4).double(), torch.zeros(12, 4, dtype=torch.float64, requires_grad=True)
    for _ in range(3000):
        loss = (h @ p - targets).square().sum() / len(h) + 0.05 * p.square().sum()
        (gradient,) = torch.autograd.grad(loss, p)
        p = (p - 0.05 * gradient).detach().requires_grad_(True)
    torch.testing.assert_close(solved(h, y, bias=False, ridge=0.05).weight.T, p, atol=1e-9, rtol=0)


def test_dependent_features_without_ridge_are_refused_and_with_ridge_solved(regression):
    h, y = regression
    h = torch.cat([h, torch.zeros(len(h), 1)], dim=1)  # a dead unit
    with pytest.raises(InvalidInput, match="use a larger ridge"):
        solved(h, y, bias=False, ridge=0.0)
    assert solved(h, y, bias=False, ridge=1e-6).weight.isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("blocks", ["random", "dfa"])
def test_training_with_mse_solves_every_predictor_on_its_frozen_features(digits, precision, blocks):
    cafo, history = run(digits, loss="mse", ridge=0.01, blocks=blocks, precision=precision)
    assert [len(s.rows) for s in history.stages if "predictor" in s.name] == [1, 1, 1]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    h = digits.x_train
    for i, block in enumerate(cafo.model.blocks, start=1):
        with torch.no_grad(), autocast:
            h = torch.cat([block(part) for part in h.split(50)])
        features = h.flatten(1).double().numpy()
        reference = Ridge(alpha=0.01 * len(h), fit_intercept=False)
        reference.fit(features, one_hot(digits.y_train, 10).numpy())
        np.testing.assert_allclose(cafo.heads[str(i)].weight.detach(), reference.coef_, atol=2e-5)


# -- sparsemax


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    return 1.5 * torch.randn(40, 6, generator=generator, dtype=torch.float64)


def test_sparsemax_projects_onto_the_simplex(scores):
    p = sparsemax(scores)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(1), torch.ones(40, dtype=torch.float64))
    assert (p == 0).any()
    assert ((p > 0).sum(1) > 1).any()
    for s, ours in zip(scores.numpy(), p.numpy(), strict=True):
        tau = brentq(lambda t, s=s: np.maximum(s - t, 0).sum() - 1, s.min() - 1, s.max())
        np.testing.assert_allclose(ours, np.maximum(s - tau, 0), atol=1e-10)
    torch.testing.assert_close(sparsemax(scores + 100.0), p)


def test_sparsemax_shares_ties_and_keeps_precision_of_large_scores():
    torch.testing.assert_close(sparsemax(torch.full((1, 4), 3.0)), torch.full((1, 4), 0.25))
    torch.testing.assert_close(sparsemax(torch.tensor([[2.0, 2.0, -5.0]])), torch.tensor([[0.5, 0.5, 0.0]]))
    near = torch.tensor([[0.2, 0.0, -0.3]])
    torch.testing.assert_close(
        sparsemax_loss(near + 512, torch.tensor([1])), torch.tensor(0.36333), atol=1e-4, rtol=0
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert sparsemax(near.bfloat16()).dtype == torch.float32


def test_sparsemax_loss_is_the_conjugate_of_a_quadratic_programme(scores):
    """L = max_{p in the simplex} (s·p − ½‖p‖²) + ½ − s_y (Blondel et al., Fenchel-Young losses)."""
    simplex = {"type": "eq", "fun": lambda p: p.sum() - 1}
    for row, s in enumerate(scores[:8].numpy()):
        best = minimize(
            lambda p, s=s: 0.5 * p @ p - s @ p, np.full(6, 1 / 6), bounds=[(0, 1)] * 6, constraints=simplex
        )
        y = row % 6
        ours = sparsemax_loss(scores[row : row + 1], torch.tensor([y])).item()
        assert ours == pytest.approx(-best.fun + 0.5 - s[y], abs=1e-6)


def test_sparsemax_loss_has_gradient_p_minus_y(scores):
    y = torch.arange(40) % 6
    leaf = scores.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(sparsemax_loss(leaf, y), leaf)
    torch.testing.assert_close(ours, (sparsemax(scores) - one_hot(y, 6)) / 40)
    assert torch.autograd.gradcheck(lambda s: sparsemax_loss(s, y), [leaf])


def test_sparsemax_loss_is_zero_from_a_margin_of_one_on(scores):
    per_row = torch.stack([sparsemax_loss(s[None], torch.tensor([2])) for s in scores])
    assert (per_row >= -1e-12).all()
    lead = torch.tensor([[0.3, 1.3, -2.0]])
    assert sparsemax_loss(lead, torch.tensor([1])).item() == pytest.approx(0, abs=1e-6)
    assert sparsemax_loss(lead, torch.tensor([0])).item() > 0.5
    lead[0, 1] -= 0.2
    assert sparsemax_loss(lead, torch.tensor([1])).item() > 1e-3


# -- prediction


def test_summed_logits_and_summed_probabilities_may_disagree():
    cafo = CascadedForward(MLP([5, 4, 4], classes=3))
    shout = torch.tensor([[0.0, 30.0, -30.0]])  # one predictor is very sure of class 1
    whisper = torch.tensor([[4.0, -8.0, 0.0]])  # two are fairly sure of class 0
    ways = cafo.combine([shout, whisper, whisper])
    assert list(ways) == ["logits", "probabilities", "last"]
    assert ways["logits"].argmax(1).item() == 1
    assert ways["probabilities"].argmax(1).item() == 0
    torch.testing.assert_close(ways["probabilities"], shout.softmax(1) + 2 * whisper.softmax(1))
    assert torch.equal(ways["last"], whisper)


def test_probabilities_follow_the_loss():
    s = torch.tensor([[0.2, 1.1, -0.4]])
    for loss, expected in {"ce": s.softmax(1), "sparsemax": sparsemax(s), "mse": s}.items():
        cafo = CascadedForward(MLP([5, 4], classes=3), loss=loss)
        torch.testing.assert_close(cafo.probabilities(s), expected)


@pytest.mark.parametrize("predict_by", ["logits", "probabilities", "last"])
def test_predict_aggregates_all_finished_predictors(digits, predict_by):
    cafo, _ = run(digits, blocks="dfa", predict_by=predict_by)
    x = digits.x_test[:50]
    ways = cafo.predict_all(x)
    assert set(ways) == {"logits", "probabilities", "last", "block 1", "block 2", "block 3", "head"}
    assert next(iter(ways)) == predict_by
    assert torch.equal(cafo.predict(x), ways[predict_by])
    with torch.no_grad():
        h1 = cafo.model.blocks[0](x)
        h2 = cafo.model.blocks[1](h1)
        h3 = cafo.model.blocks[2](h2)
        by_hand = [cafo.heads[str(i)](h) for i, h in enumerate((h1, h2, h3), start=1)]
        torch.testing.assert_close(ways["head"], cafo.heads["output"](h3))
    torch.testing.assert_close(ways["logits"], sum(by_hand))
    torch.testing.assert_close(ways["probabilities"], sum(s.softmax(1) for s in by_hand))
    torch.testing.assert_close(ways["last"], by_hand[2])

    cafo.stages_finished.fill_(3)  # blocks and two predictors
    torch.testing.assert_close(cafo.predict_all(x)["logits"], sum(by_hand[:2]))
    cafo.stages_finished.fill_(1)
    assert list(cafo.predict_all(x)) == ["head"]


def test_a_stage_is_validated_by_its_own_predictor(digits):
    cafo, history = run(digits, blocks="dfa", epochs=1)
    ways = cafo.predict_all(digits.x_val)
    for stage, way in zip(history.stages, ("head", "block 1", "block 2", "block 3"), strict=True):
        accuracy = 100.0 * (ways[way].argmax(1) == digits.y_val).float().mean().item()
        assert stage.rows[-1]["val_accuracy"] == pytest.approx(accuracy)


def test_predicting_before_a_predictor_is_trained_is_refused():
    cafo = CascadedForward(cnn())
    with pytest.raises(InvalidInput, match="has not been trained"):
        cafo.predict(torch.zeros(1, 1, 8, 8))
    cafo.stages_finished.fill_(1)  # only a calibration
    with pytest.raises(InvalidInput, match="no trained predictor"):
        cafo.predict(torch.zeros(1, 1, 8, 8))


# -- learning, options


@pytest.mark.parametrize("options", [{}, {"loss": "mse"}, {"loss": "sparsemax"}, {"blocks": "dfa"}])
def test_it_learns_the_digits(options):
    data = load("digits")
    cafo, _ = run(data, cnn((16, 32)), epochs=15, lr=3e-3, **options)
    accuracy = 100.0 * (cafo.predict(data.x_test).argmax(1) == data.y_test).float().mean().item()
    assert accuracy > 85


def test_bfloat16_predicts_like_float32(digits):
    full, _ = run(digits, cnn((8, 16)), loss="mse")
    half, _ = run(digits, cnn((8, 16)), loss="mse", precision="bf16")
    same = full.predict(digits.x_test).argmax(1) == half.predict(digits.x_test).argmax(1)
    assert same.float().mean() > 0.97


def test_predictors_may_start_from_ones():
    cafo = CascadedForward(cnn(), blocks="dfa", head_init="ones")
    cafo.initialise(0)
    assert all((cafo.heads[str(i)].weight == 1).all() for i in (1, 2, 3))
    assert cafo.heads["output"].weight.std() > 0.1


@pytest.mark.parametrize("preset", ["thesis", "2026", "reference"])
@pytest.mark.parametrize("blocks", ["random", "dfa"])
def test_presets_build(preset, blocks):
    assert CascadedForward.from_preset(cnn(), preset, blocks=blocks).stages()


def test_calibration_needs_a_last_norm():
    early = Blocks([nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))], [3], 4, 2)
    with pytest.raises(InvalidInput, match="last layer"):
        CascadedForward(early).stages()
