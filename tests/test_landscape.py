"""The landscape against dense Hessians, the networks' own losses, and what must not move it."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from helpers import arm, same, toy, weights
from torch.nn.functional import cross_entropy

import bpfree
from bpfree.algorithms import Backprop
from bpfree.algorithms.networks import CaFoCNN
from bpfree.diagnostics import landscape
from bpfree.diagnostics.landscape import largest_eigenvalue
from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import gallery
from bpfree.evidence.landscape import (
    MEASURES,
    SURVEY_COLUMNS,
    compared,
    favourable,
    lowest_in_words,
    lowest_losses,
    per_run,
    survey,
    verdict,
)
from bpfree.experiments import experiment, store

DATA = toy()
SUM = {"predict_by": "sum"}
ARMS = [("bp", {}), ("bp_ds", {}), *((m, o) for m in ("mf", "mf_interleaved", "mf_joint") for o in ({}, SUM))]


def trained(name: str, data=DATA, epochs: int = 4, **options):
    algorithm = arm(name, **options)
    bpfree.train(algorithm, data, seed=0, max_epochs=epochs, progress=False)
    return algorithm


@pytest.fixture(scope="module")
def bp():
    return trained("bp")


@pytest.fixture(scope="module")
def mf():
    return trained("mf")


def own(algorithm, split: str = "val", data=DATA) -> tuple[float, float]:
    """Loss and accuracy of what the algorithm itself predicts."""
    y = getattr(data, f"y_{split}")
    scores = algorithm.predict(getattr(data, f"x_{split}"))
    return cross_entropy(scores, y).item(), 100.0 * (scores.argmax(1) == y).float().mean().item()


def dense_hessian(algorithm, split: str) -> torch.Tensor:
    """∂²/∂θ² of the loss of a float64 MLP written out by hand, θ = (W_1, b_1, ..., W_L, b_L, M_L)."""
    x = getattr(DATA, f"x_{split}").double().flatten(1)
    y = getattr(DATA, f"y_{split}")
    head = algorithm.heads[str(len(algorithm.model.blocks))]
    theta = [p for block in algorithm.model.blocks for p in block.parameters()] + [head.weight]
    shapes = [p.shape for p in theta]

    def loss(flat):
        *layers, out = [
            p.view(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)
        ]
        a = x
        for w, b in zip(layers[::2], layers[1::2], strict=True):
            a = torch.relu(a @ w.T + b)
        return cross_entropy(a @ out.T, y)

    flat = torch.cat([p.detach().flatten() for p in theta])
    return torch.autograd.functional.hessian(loss, flat)


# -- the network as it predicts


@pytest.mark.parametrize(("name", "options"), ARMS)
def test_the_trained_point_has_the_algorithms_own_loss(name, options):
    algorithm = trained(name, **options)
    loss, accuracy = own(algorithm)
    draw = landscape.direction(algorithm, DATA)
    found = landscape.along(algorithm, DATA, draw, [-0.5, 0.0, 0.5]).set_index("x")
    assert found.loc[0.0, "loss"] == pytest.approx(loss, rel=1e-6)
    assert found.loc[0.0, "accuracy"] == pytest.approx(accuracy)
    assert (found.loc[[-0.5, 0.5], "loss"] != loss).all()
    gap = landscape.gap(algorithm, DATA).set_index("split")
    assert gap.loc["train", "loss"] == pytest.approx(own(algorithm, "train")[0], rel=1e-6)
    assert gap.loc["val", "loss"] == pytest.approx(loss, rel=1e-6)
    assert gap["samples"].tolist() == [70, 30]


def test_only_what_the_prediction_uses_is_looked_at(bp, mf):
    hidden = [f"model.blocks.{i}.linear.{kind}" for i in range(3) for kind in ("weight", "bias")]
    for algorithm in (bp, mf, trained("bp_ds", input_head=True)):
        assert sorted(landscape.surface(algorithm, DATA).point) == sorted([*hidden, "head.weight"])
    summed = landscape.surface(trained("mf", **SUM), DATA).point
    assert sorted(set(summed) - set(hidden)) == [f"heads.{i}.weight" for i in (1, 2, 3)]


def test_batches_do_not_change_the_loss(bp):
    """Of images that are there many times over, as many as take several batches."""
    many = replace(DATA, x_val=DATA.x_val.repeat(40, 1, 1, 1), y_val=DATA.y_val.repeat(40))
    one, several = (landscape.gap(bp, data).set_index("split").loc["val"] for data in (DATA, many))
    assert (one["samples"], several["samples"]) == (30, 1200)
    assert several["loss"] == pytest.approx(one["loss"], rel=1e-6)
    sharp = [landscape.sharpness(bp, data, "val", None)["eigenvalue"][0] for data in (DATA, many)]
    assert sharp[1] == pytest.approx(sharp[0], rel=1e-3)


@pytest.mark.parametrize("name", ["bp", "mf"])
def test_the_algorithm_is_left_as_it_was(name):
    algorithm, other = trained(name), trained("mf_joint")
    algorithm.train()
    before, state = weights(algorithm), torch.get_rng_state()
    draws = [landscape.direction(algorithm, DATA, k) for k in range(2)]
    landscape.along(algorithm, DATA, draws[0], [0.0, 1.0])
    landscape.plane(algorithm, DATA, draws, [0.0, 1.0])
    landscape.between(algorithm, other, DATA, [0.0, 0.5])
    landscape.sharpness(algorithm, DATA)
    landscape.rescaled(algorithm, 2.0)
    assert same(before, weights(algorithm))
    assert torch.equal(state, torch.get_rng_state())
    assert algorithm.training
    assert all(p.grad is None and p.requires_grad for p in algorithm.parameters())


def test_what_cannot_be_looked_at_says_why(bp):
    with pytest.raises(UnknownName, match="split 'test'"):
        landscape.surface(bp, DATA, "test")
    with pytest.raises(InvalidInput, match="has not been trained"):
        landscape.direction(arm("bp"), DATA)


# -- directions


@pytest.mark.parametrize("name", ["bp", "mf"])
def test_directions_have_the_length_of_every_neurons_weights(name, request):
    algorithm = request.getfixturevalue(name)
    draw = landscape.direction(algorithm, DATA, 3)
    for role, weight in landscape.surface(algorithm, DATA).point.items():
        if role.endswith("bias"):
            assert not draw[role].any()
        else:
            assert torch.allclose(draw[role].norm(dim=1), weight.norm(dim=1))
    assert same(draw, landscape.direction(algorithm, DATA, 3))
    assert not same(draw, landscape.direction(algorithm, DATA, 4))


def test_filters_of_a_convolution_are_normalised_one_by_one():
    data = toy(shape=(2, 8, 8))
    algorithm = Backprop(CaFoCNN(data.shape, classes=3, channels=(3, 4)), batch_size=16)
    bpfree.train(algorithm, data, max_epochs=1, progress=False)
    draw = landscape.direction(algorithm, data)
    conv = algorithm.model.blocks[1].conv.weight
    norms = draw["model.blocks.1.conv.weight"].flatten(1).norm(dim=1)
    assert torch.allclose(norms, conv.flatten(1).norm(dim=1))
    assert not draw["model.blocks.1.norm.weight"].any()
    here = landscape.along(algorithm, data, draw, [0.0])["loss"][0]
    assert here == pytest.approx(own(algorithm, data=data)[0], rel=1e-6)
    assert landscape.sharpness(algorithm, data, max_iterations=3)["eigenvalue"][0] > 0


def test_the_same_draw_for_algorithms_of_the_same_network(bp, mf):
    draws = [landscape.direction(algorithm, DATA) for algorithm in (bp, mf)]
    assert draws[0].keys() == draws[1].keys()
    for role in draws[0]:
        if role.endswith("weight"):
            a, b = (torch.nn.functional.normalize(d[role], dim=1) for d in draws)
            assert torch.allclose(a, b, atol=1e-6)


def test_plane_holds_the_slices(mf):
    draws = [landscape.direction(mf, DATA, k) for k in range(2)]
    steps = [-1.0, 0.0, 0.5]
    found = landscape.plane(mf, DATA, draws, steps)
    assert len(found) == 9
    for axis, draw in zip("xy", draws, strict=True):
        (other,) = {"x", "y"} - {axis}
        edge = found[found[other] == 0].sort_values(axis)
        assert edge["loss"].tolist() == pytest.approx(
            landscape.along(mf, DATA, draw, steps)["loss"].tolist(), rel=1e-6
        )


# -- the line


def test_the_ends_of_the_line_are_both_solutions(bp, mf):
    found = landscape.between(bp, mf, DATA, [0.0, 0.3, 1.0])
    assert found["loss"].iloc[0] == pytest.approx(own(bp)[0], rel=1e-6)
    assert found["loss"].iloc[2] == pytest.approx(own(mf)[0], rel=1e-6)
    mean = arm("bp")
    mean.load_state_dict(bp.state_dict())
    with torch.no_grad():
        for name, p in mean.named_parameters():
            p.copy_(0.7 * p + 0.3 * mf.get_parameter(name))
    assert found["loss"].iloc[1] == pytest.approx(own(mean)[0], rel=1e-5)
    assert found["accuracy"].iloc[1] == pytest.approx(own(mean)[1])
    assert landscape.between(trained("bp_ds"), mf, DATA)["loss"].iloc[-1] == pytest.approx(own(mf)[0])


def test_a_line_needs_the_same_network(bp, mf):
    for other, what in (
        (trained("bp", head_bias=True), "head.bias"),
        (trained("bp", widths=(12, 8, 7, 5)), "head.weight, model.blocks.2"),
        (trained("mf", **SUM), "heads.1.weight"),
    ):
        with pytest.raises(InvalidInput, match=what):
            landscape.between(other, mf, DATA)
    cnns = []
    for seed in (0, 1):
        data = toy(shape=(2, 8, 8))
        cnns.append(Backprop(CaFoCNN(data.shape, classes=3, channels=(3,)), batch_size=16))
        bpfree.train(cnns[-1], data, seed=seed, max_epochs=1, progress=False)
    with pytest.raises(InvalidInput, match="running statistics"):
        landscape.between(*cnns, data)


def test_barrier_is_the_rise_above_the_chord():
    line = pd.DataFrame({"x": [1.0, 0.0, 0.5, 0.25], "loss": [0.4, 0.2, 0.9, 0.3]})
    assert landscape.barrier(line) == pytest.approx(0.6)
    assert landscape.barrier(pd.DataFrame({"x": [0.0, 0.5, 1.0], "loss": [1.0, 0.1, 1.0]})) == 0.0


# -- sharpness


@pytest.mark.parametrize("name", ["bp", "mf"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_eigenvalue_and_products_are_those_of_the_dense_hessian(name, split):
    algorithm = trained(name, widths=(12, 6, 5), epochs=30, lr=0.01).double()
    dense = dense_hessian(algorithm, split)
    here = landscape.surface(algorithm, DATA, split)
    v = torch.randn(len(dense), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(here.hessian_times(v), dense @ v, rtol=1e-9, atol=1e-12)
    found = landscape.sharpness(algorithm, DATA, split, None, tolerance=1e-6, max_iterations=2000).iloc[0]
    assert found["eigenvalue"] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-8)
    assert found["residual"] <= 1e-6
    assert found["samples"] == len(getattr(DATA, f"y_{split}"))


@pytest.mark.parametrize(
    "spectrum",
    [
        (5.0, 3.0, -1.0),
        (2.0, 1.0, -7.0),  # the largest in magnitude is negative
        (4.0, 1.0, -4.0),  # two of the largest magnitude
        (-1.0, -2.0, -6.0),  # no positive one
        (1.0, 0.999, 0.0),  # nearly twice the same
    ],
)
def test_the_largest_eigenvalue_is_the_largest_and_not_the_largest_in_magnitude(spectrum):
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    matrix = q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ q.T
    start = torch.randn(3, generator=generator, dtype=torch.float64)
    found = largest_eigenvalue(lambda v: matrix @ v, start, 1e-5, 500)
    assert found["eigenvalue"] == pytest.approx(max(spectrum), rel=1e-3)


def test_no_curvature_at_all():
    assert largest_eigenvalue(torch.zeros_like, torch.ones(4))["eigenvalue"] == 0.0


def test_sharpness_is_the_same_every_time(mf):
    pd.testing.assert_frame_equal(landscape.sharpness(mf, DATA), landscape.sharpness(mf, DATA))


# -- what sharpness depends on, and slices do not


@pytest.mark.parametrize("name", ["bp", "mf"])
def test_rescaling_moves_the_eigenvalue_but_no_prediction_and_no_slice(name, request):
    algorithm = request.getfixturevalue(name)
    twin = landscape.rescaled(algorithm, 8.0)  # a power of two, which loses no bit
    assert not same(weights(algorithm), weights(twin))
    for key, scores in algorithm.predict_all(DATA.x_val).items():
        assert torch.equal(scores, twin.predict_all(DATA.x_val)[key])
    slices = [landscape.along(a, DATA, landscape.direction(a, DATA)) for a in (algorithm, twin)]
    pd.testing.assert_frame_equal(*slices)
    before, after = (landscape.sharpness(a, DATA)["eigenvalue"][0] for a in (algorithm, twin))
    assert after > 2 * before


@pytest.mark.parametrize(("layer", "factor"), [(0, 2.0), (3, 2.0), (1, 0.0), (1, math.inf)])
def test_what_cannot_be_rescaled_says_why(bp, layer, factor):
    with pytest.raises(InvalidInput, match=f"layer={layer}"):
        landscape.rescaled(bp, factor, layer)


# -- of stored runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    kept = store.Store(tmp_path_factory.mktemp("store"))
    settings = {"architecture": "2x16", "max_epochs": 2, "device": "cpu"}
    return [
        bpfree.run(bpfree.Experiment(name, seed=seed, **settings), kept, progress=False)
        for name in ("mf", "bp")
        for seed in (0, 1)
    ]


def test_evidence_is_what_the_functions_say(runs):
    found = survey(runs, directions=2, alphas=(-1.0, 0.0), grid=(0.0, 1.0), samples=50)
    assert tuple(found.columns) == SURVEY_COLUMNS
    kinds = found.groupby(["kind", "algorithm", "seed"]).size()
    assert kinds["gap"].tolist() == [2] * 4
    assert kinds["slice"].tolist() == [2 * 2] * 4
    assert kinds["sharpness"].tolist() == [2] * 4
    assert kinds["plane"].to_dict() == {("bp", 0): 4, ("mf", 0): 4}
    assert kinds["line"].to_dict() == {("bp-mf", 0): 21, ("bp-mf", 1): 21}
    assert (found["samples"] == 50).all()
    data = bpfree.load("digits", seed=1)
    mf, bp = (experiment.trained(runs[k], data) for k in (1, 3))
    mine = found[found["seed"] == 1]
    line = mine[mine["kind"] == "line"]
    assert line["loss"].tolist() == landscape.between(bp, mf, data, samples=50)["loss"].tolist()
    curved = mine[(mine["kind"] == "sharpness") & (mine["algorithm"] == "bp") & (mine["split"] == "val")]
    assert curved["eigenvalue"].item() == landscape.sharpness(bp, data, "val", 50)["eigenvalue"][0]


def test_overview_says_what_the_evidence_says(runs):
    found = survey(runs, directions=2, samples=50)
    over = per_run(found)
    assert list(zip(over["algorithm"], over["seed"], strict=True)) == [
        ("mf", 0),
        ("bp", 0),
        ("mf", 1),
        ("bp", 1),
    ]
    data = bpfree.load("digits", seed=0)
    algorithm, row = experiment.trained(runs[0], data), over.iloc[0]
    train, val = landscape.gap(algorithm, data, 50).to_dict("records")
    assert (row["loss"], row["accuracy"]) == (val["loss"], val["accuracy"])
    assert row["loss_gap"] == val["loss"] - train["loss"]
    assert row["error_gap"] == train["accuracy"] - val["accuracy"]
    for split, name in (("train", "eigenvalue"), ("val", "eigenvalue_val")):
        assert row[name] == landscape.sharpness(algorithm, data, split, 50)["eigenvalue"][0]
    draws = [landscape.direction(algorithm, data, k) for k in range(2)]
    ends = [landscape.along(algorithm, data, draw, (-1.0, 1.0), samples=50)["loss"].mean() for draw in draws]
    assert row["rise"] == pytest.approx(sum(ends) / 2 - val["loss"])


LOSSES = (("bp", 0, 2.0), ("bp", 1, 4.0), ("mf", 0, 1.0), ("mf", 1, 3.0), ("mf", 2, 99.0))


def test_a_minimum_is_more_favourable_by_what_is_smaller_over_the_seeds_of_both():
    runs = pd.DataFrame(
        [
            {
                "algorithm": name,
                "seed": seed,
                **dict.fromkeys(MEASURES, 1.0),
                "loss": loss,
                "rise": 9.0 - loss,
            }
            for name, seed, loss in LOSSES
        ]
    )
    found = favourable(runs)
    assert found.loc["loss"].tolist() == [3.0, 2.0, 2, "more"]
    assert found.loc["rise", "favourable"] == "less"
    assert set(found.drop(["loss", "rise"])["favourable"]) == {"as much"}


def runs_of(losses) -> pd.DataFrame:
    """As `per_run` gives them, with all measures but the loss the same."""
    where = {"data": "mnist", "architecture": "2x8", **dict.fromkeys(MEASURES, 1.0)}
    return pd.DataFrame({**where, "algorithm": a, "seed": s, "loss": loss} for a, s, loss in losses)


def test_measures_are_compared_by_seed_with_an_interval_if_there_are_several():
    seeds = ((0, 1.0, 2.0), (1, 1.5, 2.25), (2, 1.0, 2.5))  # seed, BP's loss, MF's
    table = compared(runs_of([x for s, bp, mf in seeds for x in (("bp", s, bp), ("mf", s, mf))]))
    assert table["measure"].tolist() == list(MEASURES.values())
    assert table.loc[0, ["BP", "MF"]].tolist() == [1.167, 2.25]
    differences = [mf - bp for _, bp, mf in seeds]
    half = scipy.stats.sem(differences) * scipy.stats.t.ppf(0.975, 2)
    mean = sum(differences) / 3
    assert table.loc[0, "MF − BP"] == f"{mean:+.3g} [{mean - half:+.3g}, {mean + half:+.3g}]"
    one = compared(runs_of([("bp", 0, 1.0), ("mf", 0, 2.0)]))
    assert one.loc[0, "MF − BP"] == "+1"
    assert set(one["p"]) == {""}


def curves_of(losses: dict[str, tuple], shifts: dict[int, float], device="cpu") -> pd.DataFrame:
    """Of every algorithm and seed a first stage that nobody asks for and a last one with these losses; of MF
    they are lower by the seed's shift."""
    return pd.DataFrame(
        {"data": "mnist", "architecture": "2x8", "seed": seed, "algorithm": name, "device": device}
        | {"stage": stage, "epoch": epoch, "val_loss": value - shift * (name == "mf") - 9 * (stage == 1)}
        for name, values in losses.items()
        for seed, shift in shifts.items()
        for stage in (1, 2)
        for epoch, value in enumerate(values)
    )


def test_the_lowest_loss_is_that_of_the_last_stage_paired_by_seed():
    losses = {"bp": (0.5, 0.3, 0.4), "mf": (0.1, 0.2, 0.6)}
    curves = curves_of(losses, {0: 0.0, 1: 0.02})
    alone = curves_of({"bp": losses["bp"]}, {2: 0.0})  # a seed that only one side has
    again = curves_of({"mf": (0.3, 0.5)}, {0: 0.0}, device="cuda")  # a seed on another device, too
    found = lowest_losses(pd.concat([curves, alone, again]))
    assert found["bp"].tolist() == pytest.approx([0.3, 0.3])
    assert found["mf"].tolist() == pytest.approx([(0.1 + 0.3) / 2, 0.08])
    difference = np.array([-0.2, -0.22])
    half = scipy.stats.sem(difference) * scipy.stats.t.ppf(0.975, 1)
    ends = f"{difference.mean() - half:+.3f} to {difference.mean() + half:+.3f}"
    assert lowest_in_words(curves) == f"lower on MNIST 2x8 (-0.210 nats, n = 2; {ends})"
    higher = curves_of({"bp": losses["mf"], "mf": losses["bp"]}, {0: 0.0, 1: 0.01})
    assert lowest_in_words(higher).startswith("higher on MNIST 2x8 (+0.195 nats")
    assert lowest_in_words(curves_of({"bp": losses["bp"]}, {0: 0.0})) == ""


def test_the_verdict_counts_measures_and_names_networks():
    rows = gallery.recorded("landscape")
    losses = pd.DataFrame(
        [("mnist", "2x8", -2.0, -1.0, 5), ("cifar10", "2x8", -1.0, 1.0, 3)],
        columns=["data", "architecture", "low", "high", "n"],
    )
    curves = curves_of({"bp": (0.5, 0.3, 0.4), "mf": (0.1, 0.2, 0.6)}, {0: 0.0, 1: 0.001, 2: 0.0})
    said = verdict(rows, losses, curves)
    assert "at its lowest in the last stage it is lower on MNIST 2x8 (-0.200 nats, n = 3; -0.20" in said
    assert "**lower on MNIST 2x8 (n = 5), higher on no network**" in said
    assert said.startswith("On some data it is lower.")
    assert verdict(rows, losses[losses["high"] > 0], curves).startswith("Not shown. ")
    assert "undecided on CIFAR-10 2x8 (n = 3)" in said
    gap = rows[rows["kind"] == "gap"].set_index(["algorithm", "split"])["loss"]
    assert gap["mf", "val"] > gap["bp", "val"]
    assert "less favourable by 5 of 6 measures" in said


def test_no_evidence_without_records():
    with pytest.raises(InvalidInput, match="no records"):
        survey([])
