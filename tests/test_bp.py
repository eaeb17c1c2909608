"""Backpropagation and deep supervision: gradients, arithmetic, initialisation, presets."""

import pytest
import torch
from helpers import arm, central_differences, chance, losses_of, outcome, toy, weights
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bpfree.algorithms import Backprop, DeepSupervision
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.errors import UnknownName
from bpfree.training.chance import stream
from bpfree.training.loop import train
from bpfree.training.stage import make_optimiser, step

WIDTHS = (12, 5, 4)


def by_hand(algorithm, x, y, aux_weight=None, input_head=False):
    """CE of the output, plus λ times the CE of every auxiliary head; written from the definition."""
    activations = [x.flatten(1)]
    for block in algorithm.model.blocks:
        activations.append((activations[-1] @ block.linear.weight.T + block.linear.bias).clamp(min=0))
    head = algorithm.heads[algorithm.output]
    scores = activations[-1] @ head.weight.T
    loss = cross_entropy(scores if head.bias is None else scores + head.bias, y)
    if aux_weight is not None:
        for i, a in enumerate(activations):
            if i > 0 or input_head:
                loss = loss + aux_weight * cross_entropy(a @ algorithm.heads[str(i)].weight.T, y)
    return loss


@pytest.mark.parametrize(
    ("name", "options", "definition"),
    [
        ("bp", {}, {}),
        ("bp", {"head_bias": True}, {}),
        ("bp_ds", {"aux_weight": 0.3}, {"aux_weight": 0.3}),
        ("bp_ds", {"input_head": True}, {"aux_weight": 1.0, "input_head": True}),
    ],
)
def test_loss_and_gradients_are_those_of_the_definition(name, options, definition):
    data, algorithm = toy(n=9), arm(name, WIDTHS, **options)
    algorithm.initialise(0)
    algorithm.double()
    x, y = data.x_train.double(), data.y_train
    (loss,) = losses_of(algorithm.stages()[0], x, y)
    assert loss.item() == pytest.approx(by_hand(algorithm, x, y, **definition).item(), rel=1e-12)
    loss.backward()
    for parameter in algorithm.parameters():
        numeric = central_differences(lambda: by_hand(algorithm, x, y, **definition), parameter)
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-6, atol=1e-9)


def test_deep_supervision_without_weight_is_backpropagation():
    """The output heads have other names, hence other streams; from equal starts they stay equal."""
    data, bp, supervised = toy(), arm("bp"), arm("bp_ds", aux_weight=0.0)
    for algorithm in (bp, supervised):
        algorithm.initialise(0)
    with torch.no_grad():
        supervised.heads["output"].weight.copy_(bp.heads["3"].weight)
    for algorithm in (bp, supervised):
        (stage,) = algorithm.stages()
        optimiser = make_optimiser(stage)
        for x, y in data.epoch(16, stream(0)):
            step(stage, optimiser, x, y, chance())
    for name, value in bp.model.state_dict().items():
        assert torch.equal(value, supervised.model.state_dict()[name])
    assert torch.equal(bp.heads["3"].weight, supervised.heads["output"].weight)


def test_deep_supervision_predicts_by_the_output_head():
    data, algorithm = toy(), arm("bp_ds")
    train(algorithm, data, max_epochs=1, progress=False)
    with torch.no_grad():
        expected = algorithm.heads["output"](algorithm.model(data.x_test))
    torch.testing.assert_close(algorithm.predict(data.x_test), expected)


def test_the_multiply_adds_of_a_step_are_those_of_the_formula():
    """Every matrix: forward, its own gradient and its input's, which the pixels do not need."""
    data, widths = toy(n=16), (12, 8, 7, 6)
    expected = {"bp": 0, "bp_ds": 3 * 3 * sum(widths[1:])}  # the auxiliary heads, M_L's included
    for name, heads in expected.items():
        algorithm = arm(name, widths)
        algorithm.initialise(0)
        (stage,) = algorithm.stages()
        optimiser = make_optimiser(stage)
        with FlopCounterMode(display=False) as counter:
            step(stage, optimiser, data.x_train, data.y_train, chance())
        layers = 2 * 12 * 8 + 3 * 8 * 7 + 3 * 7 * 6 + 3 * 6 * 3
        assert counter.get_total_flops() == 2 * 16 * (layers + heads)


def test_it_learns_the_toy_data_with_both_kinds_of_network():
    data = toy(n=240, shape=(1, 8, 8))
    for model in (MLP([64, 16], classes=3), CaFoCNN((1, 8, 8), classes=3, channels=(4, 8))):
        algorithm = Backprop(model, batch_size=16, lr=3e-3)
        history = train(algorithm, data, max_epochs=8, progress=False)
        rows = outcome(history)
        assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
        assert history.stages[0].rows[history.stages[0].restored - 1]["val_accuracy"] > 80


@pytest.mark.parametrize("preset", ["thesis", "2026"])
def test_the_papers_head_is_normal_with_a_bias(preset):
    algorithm = Backprop.from_preset(MLP([12, 4000], classes=10), preset)
    algorithm.initialise(0)
    head = algorithm.heads["1"]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()
    assert head.weight.abs().max() > 4000**-0.5 * 1.5  # beyond the bound of the uniform one


def test_the_camera_readys_deep_supervision_also_heads_the_pixels():
    widths, report = [12, 5, 4], DeepSupervision.from_preset(MLP([12, 5, 4], classes=3), "2026")
    assert set(report.heads) == {"0", "1", "2", "output"}
    assert report.heads["0"].in_features == 12
    assert set(DeepSupervision(MLP(widths, classes=3)).heads) == {"1", "2", "output"}


def test_weights_start_uniform_by_their_fan_in_and_biases_at_zero():
    algorithm = arm("bp", (400, 300), classes=10)
    algorithm.initialise(0)
    for weight in (algorithm.model.blocks[0].linear.weight, algorithm.heads["1"].weight):
        bound = weight.shape[1] ** -0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)  # of U(−b, b)
        assert abs(weight.mean().item()) < 0.05 * bound
    assert not algorithm.model.blocks[0].linear.bias.any()
    assert algorithm.heads["1"].bias is None


def test_arms_that_share_a_layer_start_from_the_same_weights():
    starts = {}
    for name in ("bp", "bp_ds", "mf", "mf_joint", "mf_interleaved", "mf_sequential_joint"):
        algorithm = arm(name)
        algorithm.initialise(7)
        for parameter, value in weights(algorithm).items():
            starts.setdefault(parameter, []).append(value)
    shared = {name: values for name, values in starts.items() if len(values) > 1}
    assert {"model.blocks.2.linear.weight", "heads.3.weight", "heads.1.weight"} <= set(shared)
    for values in shared.values():
        assert all(torch.equal(values[0], value) for value in values)
    assert not torch.equal(starts["heads.3.weight"][0], starts["heads.output.weight"][0])
    again = arm("bp")
    again.initialise(8)
    assert not torch.equal(again.heads["3"].weight, starts["heads.3.weight"][0])


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(UnknownName, match="unknown preset of Backprop 'thesys': did you mean 'thesis'"):
        Backprop.from_preset(MLP(WIDTHS, classes=3), "thesys")
