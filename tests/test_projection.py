"""Forward Projection against a float64 program of its own, and what its targets and solutions are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import same, toy, weights
from sklearn.linear_model import Ridge

import bpfree
from bpfree.algorithms import ForwardProjection
from bpfree.algorithms.networks import MLP, Blocks
from bpfree.algorithms.solved import NormalEquations
from bpfree.errors import InvalidInput
from bpfree.training import train

WIDTHS = (64, 30, 20)


@pytest.fixture(scope="module")
def digits():
    return bpfree.load("digits")


def trained(data, widths=WIDTHS, seed=0, make=ForwardProjection, **options):
    algorithm = make(MLP(list(widths), classes=data.classes), **options)
    history = train(algorithm, data, seed=seed, progress=False)
    return algorithm, history


# ---------------------------------------------------------------- the equations


def regression(n=200, d=12, k=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) + 0.5, rng.normal(size=(n, k))


@pytest.mark.parametrize("penalise_bias", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_both_penalties_of_the_bias_are_what_other_solvers_find(penalise_bias, per_sample):
    h, z = regression()
    ridge = 0.05 if per_sample else 10.0
    equations = NormalEquations(bias=True, ridge=ridge, per_sample=per_sample, penalise_bias=penalise_bias)
    layer = torch.nn.Linear(12, 5).double()
    for rows in np.array_split(np.arange(len(h)), 7):  # streaming is whole
        equations.add(torch.from_numpy(h[rows]), torch.from_numpy(z[rows]))
    equations.solve(layer)
    penalty = ridge * len(h) if per_sample else ridge
    if penalise_bias:  # an ordinary regression with √λ I below the features
        ones = np.column_stack([h, np.ones(len(h))])
        below = np.sqrt(penalty) * np.eye(13)
        w = np.linalg.lstsq(np.vstack([ones, below]), np.vstack([z, np.zeros((13, 5))]), rcond=None)[0]
        expected = w[:-1].T, w[-1]
        np.testing.assert_allclose(ones.T @ (ones @ w - z) + penalty * w, 0, atol=1e-9)
    else:
        found = Ridge(alpha=penalty).fit(h, z)
        expected = found.coef_, found.intercept_
    np.testing.assert_allclose(layer.weight.detach(), expected[0], atol=1e-12)
    np.testing.assert_allclose(layer.bias.detach(), expected[1], atol=1e-12)


def by_hand(algorithm, x, y, penalise_bias=True, ridge=10.0, output_ridge=1.0):
    """Section "Forward Projection" in float64, from the same Q and U: [W_1, ..., W_L, V], each with its bias
    in the last row."""
    a, labels, found = np.float64(x.flatten(1)), np.eye(10)[y], []
    layers = len(algorithm.model.blocks)
    buffers = {name: np.float64(value) for name, value in algorithm.named_buffers()}

    def solve(a, z, penalty):
        weight = np.full(a.shape[1], penalty)
        weight[-1] *= penalise_bias
        return np.linalg.solve(a.T @ a + np.diag(weight), a.T @ z)

    for i in range(1, layers + 1):
        a = np.column_stack([a, np.ones(len(a))])
        z = np.sign(a @ buffers[f"feature_projection_{i}"]) + np.sign(
            labels @ buffers[f"label_projection_{i}"]
        )
        found.append(solve(a, z, ridge))
        a = np.maximum(a @ found[-1], 0)
    found.append(solve(np.column_stack([a, np.ones(len(a))]), 2 * labels - 1, output_ridge))
    return found


@pytest.mark.parametrize("options", [{}, {"penalise_bias": False}, {"ridge": 100.0, "output_ridge": 30.0}])
def test_it_is_the_papers_program_on_digits(digits, options):
    algorithm, history = trained(digits, **options)
    assert [(s.name, s.ended, len(s.rows)) for s in history.stages] == [
        (name, "solved", 1) for name in ("layer 1", "layer 2", "output")
    ]
    expected = by_hand(algorithm, digits.x_train, digits.y_train, **options)
    layers = [*(block.linear for block in algorithm.model.blocks), algorithm.heads["output"]]
    for layer, w in zip(layers, expected, strict=True):
        np.testing.assert_allclose(layer.weight.detach(), w[:-1].T, atol=2e-4)
        np.testing.assert_allclose(layer.bias.detach(), w[-1], atol=2e-4)
    a = np.float64(digits.x_test.flatten(1))
    for w in expected[:-1]:
        a = np.maximum(a @ w[:-1] + w[-1], 0)
    scores = a @ expected[-1][:-1] + expected[-1][-1]
    np.testing.assert_allclose(algorithm.predict(digits.x_test), scores, atol=2e-3)
    accuracy = (algorithm.predict(digits.x_val).argmax(1) == digits.y_val).float().mean()
    assert history.stages[-1].rows[0]["val_accuracy"] == pytest.approx(100 * accuracy.item())


def test_targets_are_two_signs_of_which_the_labels_make_one():
    data = toy(n=200)
    algorithm = ForwardProjection(MLP([12, 40], classes=3))
    algorithm.initialise(0)
    z = algorithm.targets(1, data.x_train.flatten(1), data.y_train)
    assert set(z.unique().tolist()) == {-2.0, 0.0, 2.0}
    others = algorithm.targets(1, data.x_train.flatten(1), (data.y_train + 1) % 3)
    u = algorithm.label_projection_1.sign()
    torch.testing.assert_close(others - z, u[(data.y_train + 1) % 3] - u[data.y_train])


class Renamed(ForwardProjection):
    """Whose classes have other numbers."""

    order = (2, 0, 1)

    def initialise(self, seed):
        super().initialise(seed)
        for i in (1, 2):
            projection = self.get_buffer(f"label_projection_{i}")
            projection.copy_(projection.clone()[list(self.order)])


def test_renaming_the_classes_leaves_every_hidden_layer():
    data = toy()
    names = torch.tensor(Renamed.order).argsort()
    other = replace(data, y_train=names[data.y_train], y_val=names[data.y_val], y_test=names[data.y_test])
    plain, renamed = trained(data, (12, 8, 7))[0], trained(other, (12, 8, 7), make=Renamed)[0]
    assert same(plain.model.state_dict(), renamed.model.state_dict())
    torch.testing.assert_close(
        plain.predict(data.x_test), renamed.predict(data.x_test)[:, names], atol=1e-5, rtol=0
    )


def test_a_large_penalty_leaves_nothing(digits):
    algorithm, _ = trained(digits, ridge=1e12)
    assert all(p.abs().max() < 1e-6 for p in algorithm.model.parameters())


def test_the_batch_size_matters_to_the_rounding_only(digits):
    one, other = (trained(digits, batch_size=size)[0] for size in (128, 1000))
    torch.testing.assert_close(one.predict(digits.x_test), other.predict(digits.x_test), atol=2e-3, rtol=0)


def test_same_seed_same_bits_and_another_seed_another_network(digits):
    first, again, other = (weights(trained(digits, seed=seed)[0]) for seed in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first["model.blocks.0.linear.weight"], other["model.blocks.0.linear.weight"])


def test_a_prefix_recomputed_gives_the_same_bits(digits):
    algorithm, _ = trained(digits)
    recomputed = ForwardProjection(MLP(list(WIDTHS), classes=10))
    train(recomputed, digits, cache=False, progress=False)
    assert same(weights(algorithm), weights(recomputed))


class RandomLayers(ForwardProjection):
    """The paper's control: only the read-out is solved."""

    def stages(self):
        return super().stages()[-1:]


def test_solved_layers_predict_better_than_random_ones(digits):
    def accuracy(make):
        algorithm, _ = trained(digits, (64, 60, 60, 60), make=make)
        return 100 * (algorithm.predict(digits.x_test).argmax(1) == digits.y_test).float().mean().item()

    assert accuracy(ForwardProjection) > accuracy(RandomLayers) + 2
    assert accuracy(ForwardProjection) > 88


# ---------------------------------------------------------------- what it refuses


def test_without_a_penalty_dead_pixels_have_no_solution(digits):
    with pytest.raises(bpfree.TrainingDiverged, match="layer 1"):
        trained(digits, ridge=0.0)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(InvalidInput, match="Forward Projection solves an MLP"):
        ForwardProjection(Blocks([torch.nn.Linear(4, 3)], [3], 4, 2))
    for option in ("ridge", "output_ridge"):
        with pytest.raises(InvalidInput, match=f"{option}=-1"):
            ForwardProjection(MLP([4, 3], classes=2), **{option: -1})
    with pytest.raises(InvalidInput, match="penalise_bias=1: use True or False"):
        ForwardProjection(MLP([4, 3], classes=2), penalise_bias=1)
    algorithm = ForwardProjection(MLP([12, 3], classes=3))
    with pytest.raises(InvalidInput, match="has not been trained"):
        algorithm.predict(toy().x_test)
    algorithm.stages_finished.fill_(1)
    with pytest.raises(InvalidInput, match="no solved read-out yet"):
        algorithm.predict(toy().x_test)


def test_it_has_no_parameter_beside_the_network_and_its_read_out():
    algorithm = ForwardProjection(MLP([784, 1000, 1000], classes=10))
    parameters = sum(p.numel() for p in algorithm.parameters())
    assert parameters == 785 * 1000 + 1001 * 1000 + 1001 * 10
    buffers = sum(b.numel() for name, b in algorithm.named_buffers() if name != "stages_finished")
    assert buffers == 785 * 1000 + 1001 * 1000 + 2 * 10 * 1000
