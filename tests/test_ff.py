"""Forward-Forward: its inputs, where its gradients stop, both ways to predict, what it keeps in memory."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import arm, central_differences, chance, losses_of, same, toy, weights
from scipy.ndimage import correlate1d
from scipy.stats import chisquare
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from bpfree.algorithms import ForwardForward
from bpfree.algorithms.negatives import BLURS, hard_wrong, hybrids, masks, uniform_wrong
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.data import load
from bpfree.diagnostics import saved_bytes
from bpfree.errors import InvalidInput
from bpfree.training import Stopping, train
from bpfree.training.chance import Chance, stream
from bpfree.training.stage import make_optimiser, step

LAST = Stopping(patience=None, restore="last")
WIDTHS = (12, 8, 7, 6)
HYBRID = {"negatives": "hybrid", "predict_by": "softmax"}


def initialised(widths=WIDTHS, classes=3, **options) -> ForwardForward:
    options = {"passes": 1, **options}  # a layer's loss in one piece, unless a test asks for two
    algorithm = arm("ff", widths, classes, **options)
    algorithm.initialise(0)
    return algorithm


def layer(algorithm, i: int) -> dict[str, torch.Tensor]:
    """W_i and b_i."""
    return {n: p for n, p in algorithm.named_parameters() if n.startswith(f"model.blocks.{i - 1}.")}


def receiving(algorithm) -> set[str]:
    return {n for n, p in algorithm.named_parameters() if p.grad is not None and p.grad.any()}


def by_hand(algorithm, z) -> list[torch.Tensor]:
    """a_1, ..., a_L from the definition, in one graph without detaching."""
    out = []
    for block in algorithm.model.blocks:
        x = z / ((z**2).mean(1, keepdim=True).sqrt() + 1e-8)
        z = (x @ block.linear.weight.T + block.linear.bias).clamp(min=0)
        out.append(z)
    return out


def accuracy(scores, labels) -> float:
    return 100.0 * (scores.argmax(1) == labels).double().mean().item()


# ---------------------------------------------------------------- the label in the image


def test_a_label_is_written_into_the_first_inputs_and_nowhere_else():
    data, algorithm = toy(), initialised()
    z = algorithm.embed(data.x_train, data.y_train)
    assert torch.equal(z[:, :3], one_hot(data.y_train, 3).float())
    assert torch.equal(z[:, 3:], data.x_train.flatten(1)[:, 3:])
    twice = algorithm.embed(data.x_train, torch.cat([data.y_train, data.y_train]))
    assert torch.equal(twice, torch.cat([z, z]))


@pytest.mark.parametrize(
    ("shape", "mean", "std"), [((1, 3, 4), (0.2,), (0.3,)), ((2, 1, 2), (0.2, 0.4), (0.3, 0.7))]
)
def test_embedding_before_normalisation_is_writing_into_the_raw_image(shape, mean, std):
    raw = torch.rand(5, *shape)
    labels = torch.tensor([0, 1, 2, 0, 1])
    m, s = (torch.tensor(c).view(-1, 1, 1) for c in (mean, std))
    data = toy(shape=shape, mean=mean, std=std)
    algorithm = initialised((raw[0].numel(), 5))
    algorithm.prepare(data)
    for written, given in (
        (one_hot(labels, 3).float(), labels),
        (torch.full((5, 3), 1 / 3), torch.full((5,), 3)),
    ):
        image = raw.flatten(1).clone()
        image[:, :3] = written
        expected = (image.view_as(raw) - m) / s
        torch.testing.assert_close(algorithm.embed((raw - m) / s, given), expected.flatten(1))


def test_embedding_after_normalisation_writes_plain_zeros_and_ones():
    data = toy(mean=(0.2,), std=(0.3,))
    algorithm = initialised(embed="after")
    algorithm.prepare(data)
    assert set(algorithm.embed(data.x_train, data.y_train)[:, :3].unique().tolist()) == {0.0, 1.0}


def test_training_takes_the_normalisation_from_the_data_and_keeps_it_with_the_weights():
    data = toy(mean=(0.2,), std=(0.5,))
    algorithm = arm("ff")
    train(algorithm, data, max_epochs=1, progress=False)
    copy = arm("ff")
    copy.load_state_dict(algorithm.state_dict())
    assert copy.embed(data.x_test, data.y_test)[:, :3].unique().tolist() == pytest.approx([-0.4, 1.6])
    assert torch.equal(copy.predict(data.x_test), algorithm.predict(data.x_test))


def test_the_neutral_label_does_not_depend_on_the_class():
    """What the softmax head sees of an image is the same whatever its label, in training and in use."""
    data, algorithm = toy(), initialised(predict_by="softmax")
    first, second = (
        next(iter(losses_of(algorithm.stages()[0], data.x_train, y)))
        for y in (data.y_train, 2 - data.y_train)
    )
    with torch.no_grad():
        algorithm.heads["softmax"].weight.normal_(generator=torch.Generator().manual_seed(0))
    logits = algorithm.softmax_readout(data.x_train)
    neutral = data.x_train.flatten(1).clone()
    neutral[:, :3] = 1 / 3
    a = by_hand(algorithm, neutral)[1:]
    features = torch.cat([x / ((x**2).mean(1, keepdim=True).sqrt() + 1e-8) for x in a], dim=1)
    torch.testing.assert_close(logits, features @ algorithm.heads["softmax"].weight.T)
    assert first.item() == pytest.approx(math.log(3)) == second.item()  # the head starts at zero


# ---------------------------------------------------------------- negative data


def test_wrong_labels_are_never_true_and_uniform_over_the_others():
    labels = torch.arange(10).repeat(9000)
    wrong = uniform_wrong(labels, 10, chance(0))
    counts = torch.zeros(10, 10, dtype=torch.long).index_put_(
        (labels, wrong), torch.tensor(1), accumulate=True
    )
    assert not counts.diagonal().any()
    for c in range(10):
        assert chisquare(torch.cat([counts[c, :c], counts[c, c + 1 :]])).pvalue > 1e-4


def test_hard_labels_are_never_true_and_follow_the_softmax_over_the_wrong_ones():
    logits = torch.tensor([[4.0, 1.0, 0.0, -1.0]], dtype=torch.float64).expand(40_000, 4)
    labels = torch.arange(4).repeat(10_000)
    wrong = hard_wrong(labels, logits, chance(0))
    for c in range(4):
        others = [k for k in range(4) if k != c]
        expected = 10_000 * logits[0, others].softmax(0)
        counts = wrong[labels == c].bincount(minlength=4)
        assert counts[c] == 0
        assert chisquare(counts[others], expected).pvalue > 1e-4


def test_hard_negatives_come_from_the_networks_own_mistakes():
    data, algorithm = toy(n=3000), initialised((12, 30, 30), negatives="hard")
    with torch.no_grad():  # a head that answers 2 to everything
        algorithm.heads["softmax"].weight[2] = 50.0
    z = algorithm.contrast(data.x_train, data.y_train, chance(0))
    assert torch.equal(z[:3000], algorithm.embed(data.x_train, data.y_train))
    wrong = z[3000:, :3].argmax(1)
    assert (wrong[data.y_train != 2] == 2).all()
    assert (wrong[data.y_train == 2] != 2).all()


def test_the_rows_of_a_batch_are_the_images_with_true_and_with_wrong_labels():
    data, algorithm = toy(), initialised()
    positive, negative = algorithm.contrast(data.x_train, data.y_train, chance(3)).chunk(2)
    wrong = uniform_wrong(data.y_train, 3, chance(3))
    assert torch.equal(positive, algorithm.embed(data.x_train, data.y_train))
    assert torch.equal(negative, algorithm.embed(data.x_train, wrong))


def test_every_pixel_of_a_hybrid_is_one_of_two_images_pixels():
    images = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 1, 28, 28)
    mixed = hybrids(images, chance(0))
    assert mixed.shape == images.shape
    seen = [set(image.unique().tolist()) for image in mixed]
    partners = [(values - {float(n)}).pop() for n, values in enumerate(seen)]
    assert all(
        values == {float(n), partner} for n, (values, partner) in enumerate(zip(seen, partners, strict=True))
    )
    assert sorted(partners) == [float(n) for n in range(50)]  # each image is the partner of one other
    flat = torch.rand(20, 30)
    assert hybrids(flat, chance(0)).shape == flat.shape


def test_masks_are_bits_blurred_and_thresholded():
    mask = masks(200, 28, 20, chance(0))
    blurred = torch.rand(200, 1, 28, 20, generator=torch.Generator().manual_seed(0)).round().numpy()
    for _ in range(BLURS):
        for axis in (2, 3):
            blurred = correlate1d(blurred, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    assert (mask.numpy() == (blurred > 0.5)).mean() > 0.9999  # but for ties
    assert mask.float().mean() == pytest.approx(0.5, abs=0.05)
    assert (mask[..., 1:] == mask[..., :-1]).float().mean() > 0.8  # blobs: neighbours agree


# ---------------------------------------------------------------- normalisation, goodness, initialisation


@pytest.mark.parametrize("norm", ["rms", "l2"])
def test_a_layer_sees_the_direction_of_its_input_only(norm):
    algorithm, x = initialised(norm=norm), torch.randn(9, 12)
    for a, b in zip(algorithm.goodness(x), algorithm.goodness(1000.0 * x), strict=True):
        torch.testing.assert_close(a, b)
    length = algorithm.normalise(x).pow(2)
    length = length.mean(1) if norm == "rms" else length.sum(1)
    torch.testing.assert_close(length, torch.ones(9))
    assert torch.equal(algorithm.normalise(torch.zeros(2, 12)), torch.zeros(2, 12))


def test_goodness_starts_at_half_the_width_below():
    algorithm = initialised((784, 600, 500))
    first, second = algorithm.goodness(torch.randn(400, 784))
    assert first.mean().item() == pytest.approx(784 / 2, rel=0.05)
    assert second.mean().item() == pytest.approx(600 / 2, rel=0.05)
    mean = initialised((784, 600, 500), squares="mean")
    torch.testing.assert_close(
        mean.goodness(torch.ones(4, 784))[0] * 600, algorithm.goodness(torch.ones(4, 784))[0]
    )


def test_weights_start_normal_with_the_layers_own_width_and_heads_at_zero():
    algorithm = initialised((784, 600, 500), predict_by="softmax")
    for i, width in ((1, 600), (2, 500)):
        w, b = layer(algorithm, i).values()
        assert w.std().item() == pytest.approx(width**-0.5, rel=0.01)
        assert w.abs().max() > 4 * width**-0.5  # normal, not uniform
        assert not b.any()
    assert not algorithm.heads["softmax"].weight.any()
    assert algorithm.heads["softmax"].bias is None


def test_thresholds_follow_the_width_or_are_given():
    assert initialised().thresholds == [8.0, 7.0, 6.0]
    assert initialised(squares="mean").thresholds == [1.0, 1.0, 1.0]
    assert initialised(threshold=2.0).thresholds == [2.0, 2.0, 2.0]


def test_goodness_at_the_threshold_costs_log_two():
    algorithm = initialised(peer_weight=0.0)
    for i, d in enumerate(WIDTHS[1:]):
        a = torch.ones(10, d)  # the sum of squares is the width
        assert algorithm.layer_loss(i, a, 5).item() == pytest.approx(math.log(2))
        assert (
            algorithm.layer_loss(i, 2 * a, 10).item()
            < 1e-6
            < 3 * d - 1
            < algorithm.layer_loss(i, 2 * a, 0).item()
        )


def test_rows_that_are_right_by_far_have_no_gradient_instead_of_a_denormal_one():
    """A CPU multiplies denormal numbers many times more slowly."""
    algorithm = initialised(peer_weight=0.0, threshold=80.0)
    far = torch.full((1, 4), 5.5, requires_grad=True)  # goodness 121: right by 41
    algorithm.layer_loss(0, far, 1).backward()
    assert not far.grad.any()
    near = torch.full((1, 4), 5.2, dtype=torch.float64, requires_grad=True)  # goodness 108.16: right by 28.16
    algorithm.layer_loss(0, near, 1).backward()
    torch.testing.assert_close(near.grad, -2 * 5.2 * near.new_tensor(-28.16).sigmoid().expand(1, 4))


@pytest.mark.parametrize("squares", ["sum", "mean"])
def test_the_gradient_is_the_analytic_one(squares):
    """∂L/∂W_i = 1/2B Σ_n (σ(g_n − θ) − t_n) ∂g_n/∂a_n x̂_nᵀ with ∂g/∂a = 2a, or 2a/d for the mean."""
    algorithm = initialised(squares=squares, peer_weight=0.0, threshold=3.0).double()
    data = toy()
    x = data.x_train.double()
    for loss in losses_of(algorithm.stages()[0], x, data.y_train):
        loss.backward()
    z = algorithm.contrast(x, data.y_train, chance(0))
    t = (torch.arange(140) < 70).double()
    for i, a in enumerate(by_hand(algorithm, z), start=1):
        w, b = layer(algorithm, i).values()
        share = 1.0 if squares == "sum" else 1.0 / a.shape[1]
        g = share * (a**2).sum(1)
        delta = (((g - 3.0).sigmoid() - t) / 140)[:, None] * share * 2 * a
        x_hat = z / ((z**2).mean(1, keepdim=True).sqrt() + 1e-8)
        torch.testing.assert_close(w.grad, (delta.T @ x_hat).detach(), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(b.grad, delta.sum(0).detach(), rtol=1e-6, atol=1e-12)
        z = a


def test_the_losses_are_those_of_the_definition():
    """Binary cross-entropy of g − θ over the 2B rows, and peer normalisation."""
    algorithm, data = initialised(), toy()
    z = algorithm.contrast(data.x_train, data.y_train, chance(0))
    t = (torch.arange(140) < 70).float()
    losses = losses_of(algorithm.stages()[0], data.x_train, data.y_train)
    for a, loss, d in zip(by_hand(algorithm, z), losses, WIDTHS[1:], strict=True):
        r = 0.9 * 0.5 + 0.1 * a[:70].mean(0)
        expected = (
            binary_cross_entropy_with_logits((a**2).sum(1) - d, t) + 0.03 * ((r.mean() - r) ** 2).mean()
        )
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"norm": "l2", "squares": "mean", "threshold": 0.1}, {"passes": 2}, HYBRID]
)
def test_gradients_match_finite_differences_of_each_local_loss(options):
    algorithm = initialised((12, 4, 3), peer_weight=0.5, **options).double().eval()  # eval: r stands still
    data = toy(n=10)
    x, stage = data.x_train.double(), algorithm.stages()[0]
    shares = options.get("passes", 1)
    for i in (1, 2):

        def loss(i=i):
            each = losses_of(stage, x, data.y_train)
            return sum(each[(i - 1) * shares : i * shares])

        algorithm.zero_grad(set_to_none=True)
        loss().backward()
        for parameter in layer(algorithm, i).values():
            numeric = central_differences(lambda loss=loss: loss().item(), parameter)
            torch.testing.assert_close(parameter.grad, numeric, rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------- isolation


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("relu_gradient", ["true", "full"])
def test_the_gradient_of_a_local_loss_reaches_its_own_layer_only(passes, relu_gradient):
    algorithm, data = initialised(passes=passes, predict_by="softmax", relu_gradient=relu_gradient), toy()
    losses = algorithm.stages()[0].losses(data.x_train, data.y_train, chance())
    expected = [
        {"heads.softmax.weight"},
        *(set(layer(algorithm, i)) for i in (1, 2, 3) for _ in range(passes)),
    ]
    for loss, names in zip(losses, expected, strict=True):
        algorithm.zero_grad(set_to_none=True)
        loss.backward()
        assert receiving(algorithm) == names


@pytest.mark.parametrize("k", [1, 2])
def test_what_lies_above_a_layer_does_not_move_it(k):
    data = toy()
    moved = []
    for fill in (None, 0.3, float("nan")):
        algorithm = initialised(optimiser="sgd", lr=0.1)
        with torch.no_grad():
            for i in range(k + 1, 4):
                for parameter in layer(algorithm, i).values():
                    parameter.mul_(1.0) if fill is None else parameter.fill_(fill)
        (stage,) = algorithm.stages()
        step(stage, make_optimiser(stage), data.x_train, data.y_train, chance(0))
        moved.append({n: p for i in range(1, k + 1) for n, p in layer(algorithm, i).items()})
        assert all(p.isfinite().all() for p in moved[-1].values())
        assert not fill or not same(layer(algorithm, k + 1), layer(initialised(), k + 1))
    assert same(moved[0], moved[1])
    assert same(moved[0], moved[2])
    assert not same(moved[0], {n: p for i in range(1, k + 1) for n, p in layer(initialised(), i).items()})


def test_the_softmax_head_does_not_change_the_layers():
    data = toy()
    plain, headed = arm("ff"), arm("ff", predict_by="softmax")
    for algorithm in (plain, headed):
        train(algorithm, data, max_epochs=2, stopping=LAST, progress=False)
    assert "softmax" not in plain.heads
    assert headed.heads["softmax"].weight.any()
    assert same(layer(plain, 1) | layer(plain, 3), layer(headed, 1) | layer(headed, 3))


def test_two_passes_train_as_one_does():
    data, ends = toy(), []
    for passes in (1, 2):
        algorithm = initialised(passes=passes, optimiser="sgd", lr=0.1)
        (stage,) = algorithm.stages()
        step(stage, make_optimiser(stage), data.x_train, data.y_train, chance(0))
        ends.append(weights(algorithm))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- peer normalisation


def with_dead_units(**options) -> ForwardForward:
    algorithm = initialised(threshold=5.0, **options)
    with torch.no_grad():
        algorithm.model.blocks[0].linear.bias[:3] = -100.0
    return algorithm


@pytest.mark.parametrize(("peer_weight", "equal"), [(0.0, True), (0.5, False)])
def test_the_full_relu_gradient_changes_the_peer_term_of_silent_units_only(peer_weight, equal):
    data, gradients = toy(), []
    for kind in ("true", "full"):
        algorithm = with_dead_units(relu_gradient=kind, peer_weight=peer_weight)
        first = losses_of(algorithm.stages()[0], data.x_train, data.y_train)[0]
        first.backward()
        gradients.append((first.item(), layer(algorithm, 1)["model.blocks.0.linear.weight"].grad))
    (value, true), (same_value, full) = gradients
    assert value == same_value
    assert torch.allclose(true, full, rtol=1e-5, atol=1e-8) == equal
    assert not true[:3].any()
    assert bool(full[:3].any()) != equal


def test_the_running_mean_is_that_of_the_positive_activities():
    algorithm, data = initialised(peer_momentum=0.75), toy()
    a = by_hand(algorithm, algorithm.embed(data.x_train, data.y_train))
    (stage,) = algorithm.stages()
    losses_of(stage, data.x_train, data.y_train)
    expected = torch.cat([0.75 * 0.5 + 0.25 * x.mean(0) for x in a])
    torch.testing.assert_close(algorithm.peers, expected.detach())
    before = algorithm.peers.clone()
    losses_of(stage, data.x_train, data.y_train)
    torch.testing.assert_close(
        algorithm.peers - expected.detach(), 0.75 * (before - 0.5), rtol=1e-4, atol=1e-6
    )
    algorithm.eval()
    before = algorithm.peers.clone()
    losses_of(stage, data.x_train, data.y_train)
    assert torch.equal(algorithm.peers, before)
    algorithm.initialise(0)
    assert (algorithm.peers == 0.5).all()


def test_training_resumes_from_its_state_to_the_last_bit():
    data = toy()

    def steps(algorithm, numbers):
        (stage,) = algorithm.stages()
        optimiser = make_optimiser(stage)  # SGD without momentum: it has no state of its own
        for n in numbers:
            step(stage, optimiser, data.x_train, data.y_train, Chance(stream("resume", n)))

    options = {"optimiser": "sgd", "momentum": 0.0, "lr": 0.05, "peer_weight": 1.0}
    whole, part, resumed = (initialised(**options) for _ in range(3))
    steps(whole, range(6))
    steps(part, range(3))
    state = weights(part)
    resumed.load_state_dict(state)
    steps(resumed, range(3, 6))
    assert same(weights(whole), weights(resumed))
    forgetful = initialised(**options)
    forgetful.load_state_dict(state)
    forgetful.peers.fill_(0.5)
    steps(forgetful, range(3, 6))
    assert not same(layer(whole, 1), layer(forgetful, 1))  # so the running mean mattered


def test_the_best_epochs_running_mean_is_restored_with_its_weights():
    data = toy()
    algorithm = arm("ff", lr=0.05)
    history = train(algorithm, data, max_epochs=6, progress=False)
    best = history.stages[0].restored
    assert 0 < best < 6
    again = arm("ff", lr=0.05)
    train(again, data, max_epochs=best, stopping=LAST, progress=False)
    assert same(weights(algorithm), weights(again))


# ---------------------------------------------------------------- prediction


@pytest.mark.parametrize(("read", "first"), [("upper", 1), ("all", 0)])
def test_the_batched_passes_are_one_pass_per_label(read, first):
    data, algorithm = toy(), initialised(read=read)
    scores = algorithm.goodness_readout(data.x_test)
    assert scores.shape == (20, 3)
    for c in range(3):
        a = by_hand(algorithm, algorithm.embed(data.x_test, torch.full((20,), c)))
        expected = sum((x**2).sum(1) for x in a[first:])
        torch.testing.assert_close(scores[:, c], expected.detach())


def test_every_readout_by_its_name_and_first_the_one_that_predicts():
    data = toy()
    for predict_by, other in (("goodness", "softmax"), ("softmax", "goodness")):
        algorithm = arm("ff", negatives="hard", predict_by=predict_by)
        with pytest.raises(InvalidInput, match=r"bpfree\.train"):
            algorithm.predict(data.x_test)
        train(algorithm, data, max_epochs=2, stopping=LAST, progress=False)
        scores = algorithm.predict_all(data.x_test)
        assert list(scores) == [predict_by, other, "layer 1", "layer 2", "layer 3"]
        assert torch.equal(algorithm.predict(data.x_test), scores[predict_by])
        torch.testing.assert_close(scores["goodness"], scores["layer 2"] + scores["layer 3"])
        for c in range(3):
            each = algorithm.goodness(data.x_test, torch.full((20,), c))
            for i, g in enumerate(each, start=1):
                torch.testing.assert_close(scores[f"layer {i}"][:, c], g)
    assert list(trained(data).predict_all(data.x_test)) == ["goodness", "layer 1", "layer 2", "layer 3"]


def trained(data, epochs=2, **options) -> ForwardForward:
    algorithm = arm("ff", **options)
    train(algorithm, data, max_epochs=epochs, stopping=LAST, progress=False)
    return algorithm


def test_a_network_of_one_layer_reads_that_layer():
    data = toy()
    algorithm = arm("ff", (12, 8), predict_by="softmax")
    train(algorithm, data, max_epochs=1, progress=False)
    scores = algorithm.predict_all(data.x_test)
    assert torch.equal(scores["goodness"], scores["layer 1"])
    assert algorithm.heads["softmax"].in_features == 8


@pytest.mark.parametrize("predict_by", ["goodness", "softmax"])
def test_validation_judges_the_readout_that_predicts(predict_by):
    data = toy()
    algorithm = arm("ff", predict_by=predict_by)
    history = train(algorithm, data, max_epochs=3, stopping=LAST, progress=False)
    scores = algorithm.predict(data.x_val)
    row = history.stages[0].rows[-1]
    assert row["val_accuracy"] == pytest.approx(accuracy(scores, data.y_val))
    assert row["val_loss"] == pytest.approx(cross_entropy(scores.double(), data.y_val).item(), rel=1e-5)


def test_the_head_has_its_own_rate_and_decay():
    (stage,) = initialised(predict_by="softmax", head_lr=0.5, head_weight_decay=0.25, lr=0.1).stages()
    layers, head = stage.groups
    assert (layers.lr, layers.weight_decay, len(layers.parameters)) == (0.1, 0.0, 6)
    assert (head.lr, head.weight_decay, len(head.parameters)) == (0.5, 0.25, 1)


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def on_digits(digits):
    algorithm = ForwardForward(
        MLP([64, 100, 100, 100], classes=10), lr=3e-3, batch_size=32, negatives="hard", predict_by="softmax"
    )
    train(algorithm, digits, max_epochs=15, progress=False)
    return algorithm


def test_digits_are_learned_by_both_readouts(digits, on_digits):
    scores = on_digits.predict_all(digits.x_test)
    for name in ("softmax", "goodness", "layer 1", "layer 2", "layer 3"):
        assert accuracy(scores[name], digits.y_test) > 80.0
        assert accuracy(on_digits.predict_all(digits.x_val)[name], digits.y_val) > 90.0


def test_positive_data_are_better_than_negative_data_in_every_layer(digits, on_digits):
    wrong = uniform_wrong(digits.y_val, 10, chance(0))
    pairs = zip(
        on_digits.goodness(digits.x_val, digits.y_val), on_digits.goodness(digits.x_val, wrong), strict=True
    )
    for (positive, negative), theta in zip(pairs, on_digits.thresholds, strict=True):
        assert positive.shape == (len(digits.y_val),)
        assert positive.mean() > theta > negative.mean()
        assert (positive > negative).float().mean() > 0.95


def test_nothing_leaks_from_the_test_labels(digits, on_digits):
    """Against shuffled labels both read-outs are at chance."""
    shuffled = digits.y_test[torch.randperm(360, generator=torch.Generator().manual_seed(0))]
    scores = on_digits.predict_all(digits.x_test)
    for name in ("softmax", "goodness"):
        assert accuracy(scores[name], shuffled) < 15.0


def test_a_head_trained_on_positive_activities_would_read_the_label_off_its_input(digits, on_digits):
    """The positive control: so the thesis' code trains it. Almost perfect where no honest read-out can be."""
    with torch.no_grad():
        a = on_digits.features(on_digits.embed(digits.x_train, digits.y_train))
        head = torch.linalg.lstsq(
            a.T @ a + torch.eye(200), a.T @ one_hot(digits.y_train, 10).float()
        ).solution
        positive = on_digits.features(on_digits.embed(digits.x_test, digits.y_test))
        shuffled = digits.y_test[torch.randperm(360, generator=torch.Generator().manual_seed(0))]
        wrong = on_digits.features(on_digits.embed(digits.x_test, shuffled))
    assert accuracy(positive @ head, digits.y_test) > 99.0
    assert accuracy(on_digits.predict(digits.x_test), digits.y_test) < 95.0
    assert accuracy(wrong @ head, shuffled) > 40.0  # labels that have nothing to do with the images


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "sgd", "lr": 3e-3, "lr_schedule": "cooldown"},
        {"squares": "mean"},
        {"norm": "l2", "threshold": 1.0, "lr": 0.01, "peer_weight": 0.0, "read": "all"},
        {"relu_gradient": "full", "embed": "after"},
        {"passes": 1, "read": "all"},
    ],
)
def test_every_variant_learns(digits, options):
    model = MLP([64, 80, 80], classes=10)
    algorithm = ForwardForward(model, **{"lr": 3e-3, "batch_size": 64, **options})
    history = train(algorithm, digits, max_epochs=15, progress=False)
    assert max(row["val_accuracy"] for row in history.stages[0].rows) > 80.0


def test_same_seed_same_bits():
    data = toy()
    first, second, other = (arm("ff", negatives="hard") for _ in range(3))
    for algorithm, seed in ((first, 0), (second, 0), (other, 1)):
        train(algorithm, data, seed=seed, max_epochs=2, progress=False)
    assert same(weights(first), weights(second))
    assert not same(layer(first, 1), layer(other, 1))


def test_half_precision_trains_and_sums_its_squares_in_full():
    data = toy()
    algorithm = arm("ff")
    history = train(algorithm, data, max_epochs=3, precision="bf16", progress=False)
    assert all(math.isfinite(row["train_loss"]) for row in history.stages[0].rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert {g.dtype for g in algorithm.goodness(data.x_test)} == {torch.float32}


# ---------------------------------------------------------------- without labels


def test_hybrids_need_no_labels_until_the_readout(digits):
    shuffled = replace(digits, y_train=digits.y_train.roll(1))
    options = {"lr": 3e-3, "batch_size": 64, **HYBRID}
    ends = []
    for data in (digits, shuffled):
        algorithm = ForwardForward(MLP([64, 80, 80], classes=10), **options)
        history = train(algorithm, data, max_epochs=8, progress=False)
        ends.append(weights(algorithm))
        assert [s.name for s in history.stages] == ["layers", "read-out"]
        assert [s.prefix for s in history.stages] == ["images", "cached in memory"]
        assert "val_accuracy" not in history.stages[0].rows[0]
        assert (history.stages[0].ended, history.stages[0].restored) == ("cap", 8)
        if data is digits:
            assert list(algorithm.predict_all(data.x_test)) == ["softmax"]
            assert accuracy(algorithm.predict(data.x_test), data.y_test) > 75.0
    names = [n for n in ends[0] if n.startswith("model.") or n == "peers"]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in names)
    assert not torch.equal(ends[0]["heads.softmax.weight"], ends[1]["heads.softmax.weight"])


def test_the_readout_of_hybrids_trains_on_cached_features_as_on_recomputed_ones():
    data, ends, rows = toy(), [], []
    for cache in (True, False):
        algorithm = arm("ff", **HYBRID)
        history = train(algorithm, data, max_epochs=3, cache=cache, progress=False)
        rows.append([(row["train_loss"], row.get("val_loss")) for s in history.stages for row in s.rows])
        ends.append(weights(algorithm))
    assert same(*ends)
    assert rows[0] == rows[1]


# ---------------------------------------------------------------- schedule


def test_the_cooldown_is_loewes():
    algorithm = arm("ff", optimiser="sgd", lr=0.01, lr_schedule="cooldown", predict_by="softmax", head_lr=0.1)
    history = train(algorithm, toy(), max_epochs=10, stopping=Stopping(patience=1), progress=False)
    rates = [row["lr"] for row in history.stages[0].rows]  # all ten: patience does not cut a cooldown short
    assert rates == pytest.approx([0.01 * (2 * (11 - e) / 10 if e > 5 else 1.0) for e in range(10)])


# ---------------------------------------------------------------- memory and arithmetic


def saved_floats(name: str, widths, batch=16, **options) -> int:
    """Floats that autograd holds for backward at the peak of a step; test_hardware.py proves the count."""
    data = toy(n=batch, shape=(1, 1, widths[0]))
    (saved,) = saved_bytes(arm(name, widths, **options), (data.x_train, data.y_train)).values()
    return saved // 4


@pytest.mark.parametrize("passes", [1, 2])
def test_autograd_memory_is_that_of_one_layer_at_any_depth(passes):
    """A layer keeps its normalised input and its activities for 2B rows, or for B of them at a time."""
    batch, width = 16, 40
    peaks = [saved_floats("ff", (width,) * (depth + 1), batch, passes=passes) for depth in (2, 4, 8, 16)]
    assert len(set(peaks)) == 1
    rows = 2 * batch // passes
    assert 2 * rows * width <= peaks[0] <= 2 * rows * width + 6 * max(rows, width)  # and a few vectors


def test_autograd_memory_falls_below_backpropagations():
    """One pass holds 4dB floats, two hold 2dB, backpropagation (d_0 + Ld) B."""
    for depth, passes in ((4, 1), (8, 1), (2, 2), (3, 2)):
        widths = (80,) + depth * (100,)
        assert saved_floats("ff", widths, passes=passes) < saved_floats("bp", widths)
    assert saved_floats("bp", (80, *8 * (100,))) - saved_floats("bp", (80, *4 * (100,))) == 4 * 16 * 100


# ---------------------------------------------------------------- options


def test_the_presets_are_the_sources_contested_choices():
    thesis, report, reference = (
        ForwardForward.from_preset(MLP(WIDTHS, classes=3), name) for name in ("thesis", "2026", "reference")
    )
    assert [a.embed_at for a in (thesis, report, reference)] == ["after", "after", "before"]
    assert [a.relu_gradient for a in (thesis, report, reference)] == 3 * ["full"]
    assert [a.lr_schedule for a in (thesis, reference)] == ["cooldown_thesis", "cooldown"]
    assert (reference.optimiser, reference.predict_by, reference.epochs) == ("sgd", "softmax", 100)
    of_layers = (reference.lr, reference.momentum, reference.weight_decay, reference.batch_size)
    assert of_layers == (1e-3, 0.9, 3e-4, 100)
    [stage] = reference.stages()
    assert [(group.lr, group.weight_decay) for group in stage.groups] == [(1e-3, 3e-4), (1e-2, 3e-3)]
    assert "softmax" not in thesis.heads


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match="CaFoCNN"):
        ForwardForward(CaFoCNN((1, 8, 8), classes=10))
    with pytest.raises(InvalidInput, match="3 classes do not fit into 2 inputs"):
        ForwardForward(MLP([2, 5], classes=3))
