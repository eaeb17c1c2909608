"""Mono-Forward: where its gradients stop, and what it is equal to."""

from dataclasses import replace

import pytest
import torch
from helpers import arm, central_differences, chance, losses_of, outcome, same, toy, weights
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch.nn.functional import cross_entropy

from bpfree.algorithms import MonoForward
from bpfree.algorithms.networks import MLP
from bpfree.errors import InvalidInput, TrainingDiverged
from bpfree.training import Stopping, train
from bpfree.training.chance import stream
from bpfree.training.stage import Group, freeze_all_but, make_optimiser, step

LAST = Stopping(patience=None, restore="last")
WIDTHS = (12, 8, 7, 6)


def initialised(name="mf", widths=WIDTHS, **options):
    algorithm = arm(name, widths, **options)
    algorithm.initialise(0)
    return algorithm


def layer(algorithm, i: int) -> dict[str, torch.Tensor]:
    """W_i, b_i and M_i; M_0 alone for i = 0."""
    prefixes = (f"model.blocks.{i - 1}.", f"heads.{i}.")
    return {n: p for n, p in algorithm.named_parameters() if n.startswith(prefixes)}


def features(algorithm, data, i: int, split="train"):
    """a_i of the data, and their labels."""
    with torch.no_grad():
        a = getattr(data, f"x_{split}").flatten(1)
        for block in list(algorithm.model.blocks)[:i]:
            a = block(a)
    return a, getattr(data, f"y_{split}")


def receiving(algorithm) -> set[str]:
    """Names of the parameters that have received a gradient that is not zero."""
    return {n for n, p in algorithm.named_parameters() if p.grad is not None and p.grad.any()}


# ---------------------------------------------------------------- isolation


def test_the_gradient_of_a_local_loss_reaches_its_own_layer_only():
    algorithm, data = initialised("mf_interleaved"), toy()
    (stage,) = algorithm.stages()
    losses = stage.losses(data.x_train, data.y_train, torch.Generator())
    for i, loss in enumerate(losses, start=1):
        algorithm.zero_grad(set_to_none=True)
        loss.backward()
        assert receiving(algorithm) == set(layer(algorithm, i))
    assert i == 3


@pytest.mark.parametrize("i", [0, 1, 2, 3])
def test_a_sequential_stage_moves_its_own_layer_only(i):
    algorithm, data = initialised(input_projection=True), toy()
    stage = algorithm.stages()[i]
    freeze_all_but(algorithm, stage)
    assert {n for n, p in algorithm.named_parameters() if p.requires_grad} == set(layer(algorithm, i))
    a, y = features(algorithm, data, max(i - 1, 0))
    for loss in losses_of(stage, a, y):
        loss.backward()
    assert receiving(algorithm) == set(layer(algorithm, i))
    assert torch.equal(
        a, features(algorithm, data, max(i - 1, 0))[0]
    )  # the ReLU in place left the input alone


@pytest.mark.parametrize("name", ["mf_joint", "mf_sequential_joint"])
def test_without_detaching_the_last_loss_reaches_the_first_layer(name):
    """The positive control of the two tests above."""
    algorithm, data = initialised(name), toy()
    stage = algorithm.stages()[-1]
    freeze_all_but(algorithm, stage)
    for head in ("1", "2"):
        algorithm.heads[head].requires_grad_(False)
    losses_of(stage, data.x_train, data.y_train)[-1].backward()
    assert set(layer(algorithm, 1)) - {"heads.1.weight"} <= receiving(algorithm)


def test_undetached_sequential_stages_train_everything_below_on_their_own_loss():
    algorithm, data = initialised("mf_sequential_joint"), toy()
    for i, stage in enumerate(algorithm.stages(), start=1):
        below = {n for j in range(1, i + 1) for n in layer(algorithm, j) if n.startswith("model")}
        freeze_all_but(algorithm, stage)
        moving = {n for n, p in algorithm.named_parameters() if p.requires_grad}
        assert moving == below | {f"heads.{i}.weight"}
        (loss,) = losses_of(stage, data.x_train, data.y_train)
        a, y = features(algorithm, data, i)
        assert loss.item() == pytest.approx(cross_entropy(algorithm.heads[str(i)](a), y).item())


class Disturbed(MonoForward):
    """Other weights above `keep`, or none at all (NaN)."""

    keep, fill = 1, float("nan")

    def initialise_parameter(self, name, value, generator):
        super().initialise_parameter(name, value, generator)
        if name in {n for i in range(self.keep + 1, 4) for n in layer(self, i)}:
            value.fill_(self.fill)


@pytest.mark.parametrize("schedule", ["sequential", "simultaneous"])
@pytest.mark.parametrize("keep", [1, 2])
def test_what_lies_above_a_layer_does_not_move_it(schedule, keep):
    data = toy()
    options = {"schedule": schedule, "batch_size": 16}
    plain = MonoForward(MLP(WIDTHS, classes=3), **options)
    train(plain, data, max_epochs=1, stopping=LAST, progress=False)
    for fill in (0.3, float("nan")):
        disturbed = Disturbed(MLP(WIDTHS, classes=3), **options)
        disturbed.keep, disturbed.fill = keep, fill
        if fill == fill:
            train(disturbed, data, max_epochs=1, stopping=LAST, progress=False)
        else:
            with pytest.raises(TrainingDiverged):  # the poisoned layer, and it alone
                train(disturbed, data, max_epochs=1, stopping=LAST, progress=False)
        for i in range(1, keep + 1):
            assert same(layer(plain, i), layer(disturbed, i))
        assert not same(layer(plain, 3), layer(disturbed, 3))


def test_a_deeper_network_has_the_same_lower_layers():
    data = toy()
    shallow, deep = arm("mf", (12, 8, 7)), arm("mf", (12, 8, 7, 6, 5))
    for algorithm in (shallow, deep):
        train(algorithm, data, max_epochs=2, progress=False)
    for i in (1, 2):
        assert same(layer(shallow, i), layer(deep, i))


def test_detaching_changes_no_loss_value_only_gradients():
    data = toy()
    detached, joint = initialised("mf_interleaved"), initialised("mf_joint")
    separate = losses_of(detached.stages()[0], data.x_train, data.y_train)
    (total,) = losses_of(joint.stages()[0], data.x_train, data.y_train)
    assert len(separate) == 3
    assert torch.equal(sum(separate), total)
    sum(separate).backward()
    total.backward()
    first = "model.blocks.0.linear.weight"
    gradients = [dict(a.named_parameters())[first].grad for a in (detached, joint)]
    assert not torch.allclose(*gradients)


# ---------------------------------------------------------------- gradients against finite differences


@pytest.mark.parametrize("i", [0, 1, 2, 3])
def test_local_gradients_are_those_of_finite_differences(i):
    """Of L_i with the layer's input held fixed, in float64; by stages and by interleaved losses."""
    data = toy(n=9)
    sequential = initialised("mf", (12, 5, 4, 4), input_projection=True).double()
    interleaved = initialised("mf_interleaved", (12, 5, 4, 4), input_projection=True).double()
    x, y = data.x_train.double(), data.y_train
    a = x.flatten(1)
    with torch.no_grad():
        for block in list(sequential.model.blocks)[: max(i - 1, 0)]:
            a = block(a)
    losses_of(sequential.stages()[i], a, y)[0].backward()
    losses_of(interleaved.stages()[0], x, y)[i].backward()

    def local_loss():  # written again from the definition, not read from the algorithm
        h = a
        if i > 0:
            linear = sequential.model.blocks[i - 1].linear
            h = (h @ linear.weight.T + linear.bias).clamp(min=0)
        scores = h @ sequential.heads[str(i)].weight.T
        return (scores.exp().sum(1).log() - scores[torch.arange(len(y)), y]).mean()

    for name, parameter in layer(sequential, i).items():
        numeric = central_differences(local_loss, parameter)
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(layer(interleaved, i)[name].grad, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_joint_gradients_are_those_of_the_weighted_sum(weight):
    data = toy(n=9)
    algorithm = initialised("mf_joint", (12, 5, 4, 4), aux_weight=weight).double()
    x, y = data.x_train.double(), data.y_train
    losses_of(algorithm.stages()[0], x, y)[0].backward()

    def total():
        losses, a = [], x.flatten(1)
        for i in (1, 2, 3):
            linear = algorithm.model.blocks[i - 1].linear
            a = (a @ linear.weight.T + linear.bias).clamp(min=0)
            losses.append(cross_entropy(a @ algorithm.heads[str(i)].weight.T, y))
        return losses[2] + weight * (losses[0] + losses[1])

    for parameter in algorithm.parameters():
        numeric = central_differences(total, parameter)
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- equivalences


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["mf", "mf_interleaved", "mf_joint", "mf_sequential_joint"])
def test_with_one_hidden_layer_it_is_backpropagation_to_the_bit(name, precision):
    data, results = toy(), []
    for algorithm in (arm(name, (12, 8)), arm("bp", (12, 8))):
        history = train(algorithm, data, seed=3, max_epochs=6, precision=precision, progress=False)
        results.append((weights(algorithm), outcome(history, "stage")))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][1][5]["val_loss"] < results[0][1][0]["val_loss"]  # something was learnt


def test_joint_training_without_auxiliary_weight_is_backpropagation():
    data = toy()
    joint, bp = arm("mf_joint", aux_weight=0.0), arm("bp")
    histories = [train(algorithm, data, max_epochs=5, progress=False) for algorithm in (joint, bp)]
    assert outcome(histories[0]) == outcome(histories[1])
    trained, start = weights(joint), weights(initialised("mf_joint"))
    assert same({n: trained[n] for n in weights(bp)}, weights(bp))
    for head in ("heads.1.weight", "heads.2.weight"):
        assert torch.equal(trained[head], start[head])


@pytest.mark.parametrize("optimisers", ["one", "one per layer"])
def test_joint_training_with_detaching_is_interleaved_training(optimisers):
    """λ = 1: summed first and descended by one Adam, or by one Adam a layer."""
    data = toy()
    ours, theirs = initialised("mf_interleaved", optimiser="adam"), initialised("mf_joint", optimiser="adam")
    (stage,) = ours.stages()
    adam = make_optimiser(stage)
    split = (
        [[*theirs.parameters()]] if optimisers == "one" else [[*layer(theirs, i).values()] for i in (1, 2, 3)]
    )
    adams = [torch.optim.Adam(parameters, lr=theirs.lr, fused=True) for parameters in split]
    draws = chance()
    for x, y in data.epoch(16, stream(1)):
        step(stage, adam, x, y, draws)
        a, total = x, 0.0
        for i, block in enumerate(theirs.model.blocks, start=1):
            a = block(a.detach())
            total = total + cross_entropy(theirs.heads[str(i)](a), y)
        for optimiser in adams:
            optimiser.zero_grad()
        total.backward()
        for optimiser in adams:
            optimiser.step()
    assert same(weights(ours), weights(theirs))
    assert not same(weights(ours), weights(initialised("mf_interleaved")))


def optimum(h, y) -> tuple[LogisticRegression, float]:
    """Softmax regression without intercept and (all but) without penalty, and its mean loss."""
    reference = LogisticRegression(C=1e10, fit_intercept=False, tol=1e-9, max_iter=20_000).fit(h, y)
    return reference, log_loss(y, reference.predict_proba(h))


FULL_BATCH = {"batch_size": 90, "optimiser": "sgd", "lr": 1.0}


def test_the_input_projection_is_multinomial_logistic_regression():
    data = toy(n=90, shape=(1, 2, 2))
    algorithm = arm("mf", (4, 3), input_projection=True, **FULL_BATCH)
    history = train(algorithm, data, max_epochs=300, stopping=LAST, progress=False)
    reference, best = optimum(data.x_train.flatten(1), data.y_train)
    assert history.stages[0].rows[-1]["train_loss"] == pytest.approx(best, abs=1e-6)
    scores = algorithm.heads["0"](data.x_test)
    p = torch.from_numpy(reference.predict_proba(data.x_test.flatten(1))).float()
    torch.testing.assert_close(scores.softmax(1), p, rtol=0, atol=1e-3)


class FrozenLayer(MonoForward):
    """One-layer Mono-Forward whose W_1 stays as it was drawn."""

    def stages(self):
        (stage,) = super().stages()
        return [replace(stage, groups=[Group([self.heads["1"].weight], self.lr)])]


def test_with_its_layer_frozen_it_is_softmax_regression_on_fixed_features():
    data = toy(n=90, shape=(1, 2, 2))
    algorithm = FrozenLayer(MLP([4, 3], classes=3), **{**FULL_BATCH, "lr": 4.0})
    history = train(algorithm, data, max_epochs=300, stopping=LAST, progress=False)
    start = initialised("mf", (4, 3)).model.state_dict()
    assert same(algorithm.model.state_dict(), start)
    _, best = optimum(*features(algorithm, data, 1))
    assert history.stages[0].rows[-1]["train_loss"] == pytest.approx(best, abs=1e-6)


def test_removing_the_input_projection_leaves_every_other_bit():
    data = toy()
    without, with_m0 = arm("mf"), arm("mf", input_projection=True)
    histories = [train(algorithm, data, max_epochs=4, progress=False) for algorithm in (without, with_m0)]
    assert [s.name for s in histories[1].stages] == ["layer 0", "layer 1", "layer 2", "layer 3"]
    assert outcome(histories[0]) == [row for row in outcome(histories[1]) if row["stage"] != "layer 0"]
    for i in (1, 2, 3):
        assert same(layer(without, i), layer(with_m0, i))


# ---------------------------------------------------------------- prediction


def test_the_readouts_are_the_goodnesses_and_their_sum():
    data = toy()
    for name in ("mf", "mf_interleaved", "mf_joint"):
        algorithm = arm(name, input_projection=True)
        train(algorithm, data, max_epochs=1, progress=False)
        scores = algorithm.predict_all(data.x_test)
        with torch.no_grad():
            goodness = [algorithm.heads[str(i)](features(algorithm, data, i, "test")[0]) for i in range(4)]
        for i in range(4):
            torch.testing.assert_close(scores[f"layer {i}"], goodness[i])
        torch.testing.assert_close(scores["sum"], goodness[1] + goodness[2] + goodness[3])  # not M_0's
        torch.testing.assert_close(algorithm.predict(data.x_test), goodness[3])
        assert next(iter(scores)) == "last"
        algorithm.predict_by = "sum"
        assert torch.equal(algorithm.predict(data.x_test), scores["sum"])


def test_a_network_trained_in_part_predicts_by_its_deepest_finished_layer():
    data, algorithm = toy(), initialised("mf", input_projection=True)
    with pytest.raises(InvalidInput, match=r"bpfree\.train"):
        algorithm.predict(data.x_test)
    for finished, deepest in ((1, 0), (2, 1), (3, 2)):
        algorithm.stages_finished.fill_(finished)
        scores = algorithm.predict_all(data.x_test)
        assert torch.equal(scores["last"], scores[f"layer {deepest}"])
        assert set(scores) == {"last", "sum", *(f"layer {i}" for i in range(finished))}


def test_predicting_by_the_sum_validates_a_simultaneous_network_by_the_sum():
    data = toy()
    algorithm = arm("mf_interleaved", predict_by="sum", input_projection=True)  # M_0 has no say
    history = train(algorithm, data, max_epochs=3, stopping=LAST, progress=False)
    loss = log_loss(data.y_val, algorithm.predict_all(data.x_val)["sum"].double().softmax(1))
    assert history.stages[0].rows[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)


# ---------------------------------------------------------------- options


def test_the_presets_are_the_sources_contested_choices():
    thesis, report, reference = (
        MonoForward.from_preset(MLP(WIDTHS, classes=3), name) for name in ("thesis", "2026", "reference")
    )
    assert ["0" in a.heads for a in (thesis, report, reference)] == [False, True, False]
    assert [a.name for a in (thesis, report, reference)] == ["mf", "mf", "mf_interleaved"]
    assert [a.optimiser for a in (thesis, report, reference)] == 3 * ["adam"]
    assert (reference.predict_by, reference.lr_schedule, reference.epochs) == ("sum", "step", 200)
    assert MonoForward.from_preset(MLP(WIDTHS, classes=3), "reference", epochs=3).epochs == 3
