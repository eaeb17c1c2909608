"""Exact costs: operations and bytes equal their formulas, and their sum what real training computes."""

from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import arm, for_epochs, same, toy, weights
from torch.utils._python_dispatch import TorchDispatchMode

from bpfree import diagnostics
from bpfree.algorithms import ARMS
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.data import stand_in
from bpfree.diagnostics.flops import optimiser_flops
from bpfree.diagnostics.kernels import Kernels, counter
from bpfree.diagnostics.memory import Ledger
from bpfree.diagnostics.one_step import batch_of, prepared_stages
from bpfree.energy import EnergyMeter
from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import figures
from bpfree.evidence.figures.hardware import law
from bpfree.training.loop import train
from bpfree.training.stage import Group, Stage, make_optimiser

WIDTHS, CLASSES, BATCH = (64, 12, 10, 8), 3, 16
IMAGE, CHANNELS = (1, 8, 8), (4, 6, 8)
DATA = toy(n=70, val=30, shape=IMAGE, classes=CLASSES)


def network(name: str, **options):
    """An arm of the study on the network it is made for."""
    if not name.startswith("cafo"):
        return arm(name, WIDTHS, classes=CLASSES, **options)
    model = CaFoCNN(IMAGE, classes=CLASSES, channels=CHANNELS)
    algorithm = ARMS[name].make(model, **{"batch_size": BATCH, **options})
    algorithm.initialise(0)
    return algorithm


# ---------------------------------------------------------------- operations: formulas

# Of one sample: p_i = 2 d_{i-1} d_i for layer i, h_i = 2 C d_i for its head, c_i for convolution i.
P = [2 * a * b for a, b in pairwise(WIDTHS)]
H = [2 * CLASSES * d for d in WIDTHS[1:]]
SIDES = (8, 4, 2)
C = [2 * 9 * a * b * s * s for (a, b), s in zip(pairwise((IMAGE[0], *CHANNELS)), SIDES, strict=True)]
CNN_H = [2 * CLASSES * c * (s // 2) ** 2 for c, s in zip(CHANNELS, SIDES, strict=True)]


def through(layers: list[int], heads: int) -> tuple[int, int]:
    """(forward, backward) of layers trained by one loss: no gradient is taken at the images."""
    return sum(layers) + heads, 2 * sum(layers) - layers[0] + 2 * heads


def local(layers: list[int], heads: list[int]) -> tuple[int, int]:
    """(forward, backward) of layers of which each is trained by a loss of its own."""
    return sum(layers) + sum(heads), sum(layers) + 2 * sum(heads)


ANALYTIC = {
    "bp": {"network": through(P, H[-1])},
    "bp_ds": {"network": through(P, sum(H) + H[-1])},
    "bp_freeze": {
        "network": through(P, H[-1]),
        **{f"above layer {i}": through(P[i:], H[-1]) for i in (1, 2)},
        "above layer 3": (H[-1], H[-1]),  # no gradient is taken at what is frozen
    },
    "mf_joint": {"network": through(P, sum(H))},
    "mf_interleaved": {"network": local(P, H)},
    "mf": {f"layer {i}": (p + h, p + 2 * h) for i, (p, h) in enumerate(zip(P, H, strict=True), start=1)},
    "mf_overlapped": {
        "layer 1": (P[0] + H[0], P[0] + 2 * H[0]),
        **{f"layers {i}-{i + 1}": local(P[i - 1 : i + 1], H[i - 1 : i + 1]) for i in (1, 2)},
        "layer 3": (P[2] + H[2], P[2] + 2 * H[2]),
    },
    "mf_sequential_joint": {f"layer {i}": through(P[:i], H[i - 1]) for i in (1, 2, 3)},
    "ff": {"network": (2 * sum(P), 2 * sum(P))},  # two streams; every layer's ∂W, nobody's ∂x
    "cafo_rand": {f"predictor {i}": (h, h) for i, h in enumerate(CNN_H, start=1)},
    "cafo_dfa": {
        # the signals e B_i come with the losses; the head's own backward pass is exact
        "blocks": (sum(C) + CNN_H[-1] + sum(CNN_H[:-1]), sum(C) + 2 * CNN_H[-1]),
        **{f"predictor {i}": (h, h) for i, h in enumerate(CNN_H, start=1)},
    },
}
ANALYTIC["ff_sgd"] = ANALYTIC["ff"]
DIMENSIONS = [h // (2 * CLASSES) for h in CNN_H]
ANALYTIC["cafo_rand_mse"] = {  # HᵀH and HᵀY of every sample; nothing goes backward
    f"predictor {i}": (2 * d * d + 2 * d * CLASSES, 0) for i, d in enumerate(DIMENSIONS, start=1)
}
D = WIDTHS[1:]  # S_i a_i and the correlation of every two samples, whose backward pass is twice as much each
SIMILARITY = [2 * d * d + 2 * BATCH * d for d in D]
ANALYTIC["mf_predsim"] = {
    stage: (forward + s, backward + 2 * s)
    for (stage, (forward, backward)), s in zip(ANALYTIC["mf"].items(), SIMILARITY, strict=True)
}
ANALYTIC["asge_like"] = {  # of a head that never moves only the gradient at its input is taken
    f"layer {i}": (p + h, p + h) for i, (p, h) in enumerate(zip(P, H, strict=True), start=1)
}
ANALYTIC["fp"] = {  # ãᵀã and ãᵀZ, with Z's ã Q; of the read-out ãᵀã and ãᵀY
    **{
        f"layer {i}": (2 * (a + 1) ** 2 + 2 * (a + 1) * b + 2 * a * b, 0)
        for i, (a, b) in enumerate(pairwise(WIDTHS), start=1)
    },
    "output": (2 * (D[-1] + 1) ** 2 + 2 * (D[-1] + 1) * CLASSES, 0),
}
PREDICTION = {
    "fp": sum(P) + H[-1],
    "bp": sum(P) + H[-1],
    "bp_ds": sum(P) + H[-1],
    "bp_freeze": sum(P) + H[-1],
    "ff": CLASSES * sum(P),  # every label is tried
    "ff_sgd": CLASSES * sum(P),
    "cafo_rand": sum(C) + sum(CNN_H),
    "cafo_rand_mse": sum(C) + sum(CNN_H),
    "cafo_dfa": sum(C) + sum(CNN_H) + CNN_H[-1],
}


@pytest.mark.parametrize("name", ARMS)
def test_matrix_products_counted_are_those_of_the_formula(name):
    table = diagnostics.flops(network(name), DATA)
    steps = table[table["part"].isin(["forward", "backward"]) & ~table["stage"].str.startswith("calibrate")]
    counted = steps.pivot(index="stage", columns="part", values="per_sample")
    counted = counted.reindex(columns=["forward", "backward"], fill_value=0)
    found = {stage: (row["forward"], row["backward"]) for stage, row in counted.iterrows()}
    assert found == ANALYTIC[name]
    prediction = table.loc[table["part"] == "prediction", "per_sample"].item()
    assert prediction == PREDICTION.get(name, sum(P) + sum(H))


@pytest.mark.parametrize("name", ["mf", "cafo_rand", "cafo_dfa"])
def test_prefix_costs_its_layers_for_every_batch_or_its_newest_layer_once(name):
    table = diagnostics.flops(network(name), DATA)
    layers = P if name == "mf" else C
    whole = table[table["part"] == "prefix, recomputed"].set_index("stage")["per_sample"]
    for stage, operations in whole.items():
        number = int(stage.split()[-1])
        assert operations == sum(layers[: number - 1 if name == "mf" else number])
    once = table[table["part"] == "prefix, cached"]["per_sample"]
    assert sum(once) == sum(P[:-1] if name == "mf" else C)


VARIANTS = [(name, {}) for name in ARMS] + [
    ("mf", {"input_projection": True}),
    ("ff", {"negatives": "hybrid", "predict_by": "softmax"}),
]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_parts_add_up_to_what_an_epoch_of_real_training_computes(name, options, cache):
    algorithm = network(name, **options)
    table = diagnostics.flops(algorithm, DATA)
    with counter() as counted:
        train(algorithm, DATA, cache=cache, progress=False, **for_epochs(algorithm, 1))
    outside = ["elementwise", "optimiser", "prediction", "prefix, recomputed" if cache else "prefix, cached"]
    assert counted.get_total_flops() == round(table.loc[~table["part"].isin(outside), "flops"].sum())


def test_augmented_data_cannot_be_cached():
    table = diagnostics.flops(arm("mf", (3072, 8, 8), classes=10, batch_size=8), stand_in("cifar10"))
    assert "prefix, recomputed" in set(table["part"])
    assert "prefix, cached" not in set(table["part"])


def test_elementwise_work_of_backpropagation_is_that_of_the_rule():
    """A unit: bias, ReLU, and both backward. A class: log-softmax and its loss, and both backward."""
    table = diagnostics.flops(network("bp"), DATA).set_index("part")
    assert table.loc["elementwise", "per_sample"] == 4 * sum(WIDTHS[1:]) + 4 * CLASSES


class Weighted(TorchDispatchMode):
    """Operations per element of torch's unfused optimisers, kernel by kernel."""

    COST = {"lerp_": 3, "addcmul_": 3, "addcdiv_": 3, "detach": 0, "clone": 0}  # of all others 1

    def __init__(self, n: int):
        super().__init__()
        self.n, self.operations = n, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if isinstance(out, torch.Tensor) and out.numel() == self.n:  # not the scalar step counter
            each = self.COST.get(func.overloadpacket.__name__, 1) + (kwargs.get("alpha", 1) != 1)
            self.operations += self.n * each
        return out


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "momentum"), [("adam", 0.9), ("adamw", 0.9), ("sgd", 0.9), ("sgd", 0.0)])
def test_optimiser_operations_are_those_of_torchs_unfused_kernels(kind, momentum, decay):
    n = 7
    weight = torch.nn.Parameter(torch.ones(n))
    stage = Stage("s", groups=[Group([weight], 0.01, decay)], optimiser=kind, momentum=momentum)
    optimiser = make_optimiser(stage)
    optimiser.param_groups[0].update(fused=False, foreach=False)
    optimiser.defaults.update(fused=False, foreach=False)
    for _ in range(2):  # the first step makes the state
        weight.grad = torch.ones(n)
        with Weighted(n) as watch:
            optimiser.step()
    assert watch.operations == optimiser_flops(stage)


def test_a_solver_factorises_once_and_solves_for_every_class():
    table = diagnostics.flops(network("cafo_rand_mse"), DATA)
    found = table[table["part"] == "solve"].set_index("stage")["flops"]
    for i, d in enumerate(DIMENSIONS, start=1):
        assert found[f"predictor {i}"] == d**3 // 3 + 2 * d * d * CLASSES  # Cholesky, two triangular solves


# GFLOPs of one sample as the thesis's tables print them: (arm, data, architecture) -> value
PRINTED = {
    ("mf", "mnist", "2x1000"): 0.00359,
    ("bp", "mnist", "2x1000"): 0.01077,
    ("mf", "cifar10", "3x2000"): 0.02833,
    ("bp", "cifar10", "3x2000"): 0.08499,
    ("mf", "cifar100", "3x2000"): 0.02869,
    ("bp", "cifar100", "3x2000"): 0.08607,
    ("ff", "fashion_mnist", "4x2000"): 0.027,
    ("cafo_rand", "mnist", "cnn"): 0.07271,
    ("cafo_dfa", "cifar10", "cnn"): 0.09614,
    ("bp", "cifar10", "cnn"): 0.28893,
    ("bp", "cifar100", "cnn"): 0.29334,
}


@pytest.mark.parametrize(("name", "data", "architecture"), PRINTED)
def test_the_papers_convention_gives_the_papers_numbers(name, data, architecture):
    sizes = stand_in(data)
    if architecture == "cnn":
        model = CaFoCNN(sizes.shape, classes=sizes.classes)
    else:
        depth, width = map(int, architecture.split("x"))
        model = MLP([sizes.features, *[width] * depth], classes=sizes.classes)
    printed = PRINTED[name, data, architecture]
    last_digit = 10.0 ** -len(str(printed).partition(".")[2])
    # Backpropagation's is three times a forward pass that was rounded first.
    found = diagnostics.paper_flops(ARMS[name].make(model), sizes) / 1e9
    assert found == pytest.approx(printed, abs=1.51 * last_digit)


# ---------------------------------------------------------------- bytes

FLOAT, LABEL = 4, 8
LOSS = FLOAT * BATCH * CLASSES + FLOAT  # log-softmax, and the loss's total weight


def kept(*widths: int) -> int:
    """Activations of these widths, and the labels."""
    return FLOAT * BATCH * sum(widths) + LABEL * BATCH


BYTES = {
    "bp": {"network": kept(*WIDTHS) + LOSS},
    "bp_ds": {"network": kept(*WIDTHS) + 4 * LOSS},
    "bp_freeze": {
        "network": kept(*WIDTHS) + LOSS,
        **{f"above layer {i}": kept(*WIDTHS[i:]) + LOSS for i in (1, 2, 3)},
    },
    "mf_joint": {"network": kept(*WIDTHS) + 3 * LOSS},
    "mf_interleaved": {"network": kept(*WIDTHS[:2]) + LOSS},  # its largest layer's
    "mf": {f"layer {i}": kept(*WIDTHS[i - 1 : i + 1]) + LOSS for i in (1, 2, 3)},
    "mf_overlapped": {  # of two layers the larger one's
        **{name: kept(*WIDTHS[:2]) + LOSS for name in ("layer 1", "layers 1-2")},
        "layers 2-3": kept(*WIDTHS[1:3]) + LOSS,
        "layer 3": kept(*WIDTHS[2:]) + LOSS,
    },
    "mf_sequential_joint": {f"layer {i}": kept(*WIDTHS[: i + 1]) + LOSS for i in (1, 2, 3)},
}


def batch(size: int = BATCH):
    return DATA.x_train[:size], DATA.y_train[:size]


@pytest.mark.parametrize("name", BYTES)
def test_bytes_saved_are_activations_and_what_each_loss_needs(name):
    assert diagnostics.saved_bytes(network(name), batch()) == BYTES[name]


def deep(name: str, depth: int, width: int = 16):
    return arm(name, (64, *[width] * depth), classes=CLASSES)


@pytest.mark.parametrize("name", ["mf", "mf_interleaved", "ff"])
def test_a_local_method_keeps_as_much_at_32_layers_as_at_2(name):
    shallow, *deeper = (max(diagnostics.saved_bytes(deep(name, n), batch()).values()) for n in (2, 8, 32))
    assert deeper == pytest.approx([shallow] * 2, rel=0.01)


@pytest.mark.parametrize("name", ["bp", "bp_ds", "mf_joint", "mf_sequential_joint"])
def test_a_global_loss_keeps_one_more_activation_for_every_layer(name):
    most = [max(diagnostics.saved_bytes(deep(name, n), batch()).values()) for n in (2, 8, 32)]
    per_layer = FLOAT * BATCH * 16 + (LOSS if name in ("bp_ds", "mf_joint") else 0)
    assert [b - a for a, b in pairwise(most)] == [6 * per_layer, 24 * per_layer]


def test_a_batch_that_is_a_slice_does_not_count_as_the_whole_data_set():
    algorithm = network("bp")
    alone = tuple(t.clone() for t in batch())
    assert diagnostics.saved_bytes(algorithm, batch()) == diagnostics.saved_bytes(algorithm, alone)


def test_the_ledger_sees_what_is_let_go_of_and_when_gradients_come():
    n = 100
    w, v = (torch.nn.Parameter(torch.ones(n)) for _ in range(2))
    holder = torch.nn.ParameterList([w, v])
    ledger = Ledger([w, v])
    with ledger.watching(holder):
        (w * torch.ones(n)).square().sum().backward()  # keeps the ones and the product
        assert ledger.graph == 0
        assert ledger.graph_peak == 2 * FLOAT * n
        assert ledger.gradients == FLOAT * n
        first = (v * torch.ones(n)).sum()
        second = (v * torch.ones(n)).sum()
        assert ledger.graph == 2 * FLOAT * n
        first.backward()
        second.backward()
    assert (ledger.graph, ledger.gradients) == (0, 2 * FLOAT * n)  # w's stayed; v's came twice into one place
    assert ledger.peak == 3 * FLOAT * n  # w's gradient and both graphs; then both gradients and one graph
    assert ledger.graph_peak == 2 * FLOAT * n


@pytest.mark.parametrize("name", ["bp", "bp_freeze", "mf", "mf_overlapped", "ff"])
def test_the_account_lists_parameters_gradients_and_state_to_the_byte(name):
    algorithm = network(name)
    table = diagnostics.account(algorithm, DATA)
    total = sum(p.numel() for p in algorithm.parameters())
    for stage in algorithm.stages():
        moving = [p for group in stage.groups for p in group.parameters]
        moved = sum(p.numel() for p in moving)
        row = table.loc[stage.name]
        assert row["parameters"] == FLOAT * total
        assert row["gradients"] == FLOAT * moved
        assert row["state"] == 2 * FLOAT * moved + FLOAT * len(moving)  # m, v, and each tensor's step
        assert row["best"] == FLOAT * moved + sum(b.numel() * b.element_size() for b in algorithm.buffers())
        parts = row[["parameters", "buffers", "gradients", "state", "graph"]]
        assert parts.sum() - min(row["graph"], row["gradients"]) <= row["peak"] <= parts.sum()


def test_the_account_of_the_cache_is_what_training_caches():
    table = diagnostics.account(network("mf"), DATA)
    assert table["cache"].tolist() == [0, FLOAT * 100 * WIDTHS[1], FLOAT * 100 * WIDTHS[2]]


def test_sums_of_a_solved_stage_are_its_state():
    table = diagnostics.account(network("cafo_rand_mse"), DATA)
    d = CHANNELS[0] * 16
    assert table.loc["predictor 1", "state"] == 8 * (d * d + d * CLASSES)
    assert table.loc["calibrate 1", "state"] == 8 * 2 * CHANNELS[0]


def paper_account(name: str) -> pd.DataFrame:
    data = stand_in("mnist")
    return diagnostics.account(ARMS[name].make(MLP([784, 1000, 1000], classes=10)), data)


def test_mono_forwards_account_of_the_papers_network_is_below_backpropagations():
    bp, mf = paper_account("bp"), paper_account("mf")
    for column in ("gradients", "state", "graph", "peak"):
        assert mf[column].max() < bp[column].max()
    assert mf["parameters"].max() - bp["parameters"].max() == FLOAT * 10 * 1000  # M_1


# ---------------------------------------------------------------- time


def test_a_kernel_reads_its_inputs_and_writes_its_outputs_once():
    m, k, n = 3, 5, 7
    a, b = torch.ones(m, k), torch.ones(k, n)
    with Kernels() as watch:
        a @ b
    assert watch.traffic == {"matrix products": FLOAT * (m * k + k * n + m * n)}
    with Kernels() as watch:
        a.relu_()
        a.t()[:2].detach()
    assert watch.traffic == {"elementwise": 2 * FLOAT * m * k}  # and a view moves nothing


def test_the_roofline_is_the_lower_of_two_limits():
    roof = diagnostics.roofline("cpu", [(16, 64, 12), (16, 12, 3)], seconds=0.002)
    assert len(roof.rates) == 2
    assert roof.flops_per_s == roof.rates["flops_per_s"].max() > 0
    ridge = roof.flops_per_s / roof.bytes_per_s
    assert roof.limit(ridge / 2) == pytest.approx(roof.flops_per_s / 2)
    assert roof.limit(2 * ridge) == roof.flops_per_s


@pytest.mark.parametrize("name", ["bp", "mf", "cafo_rand"])
def test_a_placed_step_does_what_was_counted(name):
    algorithm = network(name)
    roof = diagnostics.roofline("cpu", [(16, 64, 12)], seconds=0.002)
    placed = diagnostics.place(algorithm, DATA, roof, seconds=0.002).set_index("stage")
    for stage, (forward, backward) in ANALYTIC[name].items():
        row = placed.loc[stage]
        assert row["flops"] == BATCH * (forward + backward)
        assert row["rate"] == pytest.approx(row["flops"] / row["seconds"])
        assert row["share"] == pytest.approx(row["rate"] / roof.limit(row["flops"] / row["bytes"]))
    for ready in prepared_stages(algorithm, *batch_of(algorithm, DATA)):
        if ready.stage.losses is not None:
            optimiser = ready.step(ready.step())
            with Kernels() as watch:
                ready.step(optimiser)  # the third, which makes nothing that the first has made
            assert placed.loc[ready.stage.name, "bytes"] == sum(watch.traffic.values())
    figure = figures.hardware.roofline_points(roof, placed.reset_index().assign(algorithm=name))
    *_, marks = figure.axes[0].get_lines()
    assert marks.get_ydata().tolist() == pytest.approx((placed["rate"] / 1e9).tolist())
    assert set(diagnostics.step_seconds(algorithm, DATA, seconds=0.002)) == {
        s.name for s in algorithm.stages()
    }


def test_resources_are_the_meters_samples_with_the_stages_in_order():
    algorithm = network("mf")
    with EnergyMeter(trace=True, hz=100, sources=["estimate"]) as meter:
        trace = diagnostics.resources(algorithm, DATA, meter, max_epochs=40, progress=False)
    assert list(trace.columns) == ["time_s", "channel", "quantity", "value", "unit", "stage", "algorithm"]
    assert {"utilisation", "rss"} <= set(trace["quantity"])
    assert set(trace["algorithm"]) == {"mf"}
    order = trace.sort_values("time_s")["stage"].drop_duplicates().to_list()
    assert order == sorted(order)
    assert order[-1] == "layer 3"


# ---------------------------------------------------------------- figures


def test_a_fitted_law_is_the_polynomial_that_made_the_points():
    x = np.array([250.0, 500.0, 1000.0, 4000.0])
    fitted = law(x, 3.0 + 0.02 * x + 1e-5 * x**2, (0, 1, 2))
    assert fitted(np.array([2000.0])) == pytest.approx([3.0 + 40.0 + 40.0])
    falling = law(x, 1.0 / x, (0, 1))  # a cost that falls is no law of this kind: the slope stays at 0
    assert falling(x) == pytest.approx(falling(x)[0])


def test_the_scaling_figure_has_a_panel_for_every_metric_and_sweep():
    rows = [
        {
            "sweep": sweep,
            "depth": 3,
            "width": 9,
            "batch": 4,
            sweep: x,
            "algorithm": name,
            "metric": m,
            "value": x,
        }
        for sweep in ("depth", "batch")
        for x in (2, 4, 8)
        for name in ("bp", "mf")
        for m in ("step_s", "saved_bytes", "flops")
    ]
    figure = figures.hardware.scaling(pd.DataFrame(rows))
    assert len(figure.axes) == 6
    assert all(len(ax.lines) == 4 for ax in figure.axes)  # points and a law for each of two algorithms


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["mf", "ff", "cafo_dfa"])
def test_the_algorithm_is_left_as_it_was(name):
    algorithm = network(name)
    algorithm.initialise(0)
    before, rng = weights(algorithm), torch.get_rng_state()
    diagnostics.flops(algorithm, DATA)
    diagnostics.account(algorithm, DATA)
    diagnostics.step_seconds(algorithm, DATA, seconds=0.001)
    diagnostics.place(algorithm, DATA, diagnostics.roofline("cpu", [(2, 2, 2)], seconds=0.001), seconds=0.001)
    assert same(before, weights(algorithm))
    assert all(p.requires_grad and p.grad is None for p in algorithm.parameters())
    assert torch.equal(rng, torch.get_rng_state())


def test_images_of_another_size_are_refused():
    with pytest.raises(InvalidInput, match=r"64 numbers, but the network takes 12"):
        diagnostics.saved_bytes(arm("bp"), batch())


def test_stand_ins_have_the_sizes_of_the_published_sets_and_no_weight():
    data = stand_in("mnist")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (50_000, 10_000, 10_000)
    assert stand_in("cifar100").shape == (3, 32, 32)
    assert stand_in("cifar10").augment is not None
    assert stand_in("cifar10", augmented=False).augment is None
    assert data.x_train.untyped_storage().nbytes() == FLOAT * 28 * 28
    with pytest.raises(UnknownName, match="did you mean 'mnist'"):
        stand_in("mnits")


def test_counting_does_not_depend_on_the_batch():
    one, other = (
        diagnostics.flops(network("mf", batch_size=b), DATA).set_index(["stage", "part"]) for b in (4, 16)
    )
    parts = one["obtained"] == "counted"
    assert one.loc[parts, "per_sample"].to_dict() == other.loc[parts, "per_sample"].to_dict()


class Unsampled:
    """A meter whose sampler never comes: what it traces has no rows."""

    @contextmanager
    def window(self, name: str):
        opened = SimpleNamespace(
            trace=pd.DataFrame(columns=["time_s", "channel", "quantity", "value", "unit"])
        )
        yield opened
        opened.reading = SimpleNamespace(measured_j=None, estimated_j=None, provenance="", seconds=0.01)


def test_a_run_that_nothing_sampled_is_in_the_trace_and_in_its_figure():
    traces = []
    for name in ("bp", "mf"):
        trace = diagnostics.resources(arm(name), toy(), Unsampled(), seed=0, max_epochs=1, progress=False)
        assert trace["algorithm"].tolist() == [name]
        assert trace["value"].isna().all()
        own = {"data": "own.npz", "architecture": "8-7-6", "protocol": "convergence", "device": "cpu"}
        traces.append(trace.assign(seed=0, **own))
    for draw in (figures.resources.memory_and_clock, figures.resources.utilisation_and_temperature):
        said = [t.get_text() for t in draw(pd.concat(traces)).axes[0].texts]
        assert "was sampled" in said[0]
