"""Figures show what the records say: the drawn points are the table's, and joules carry their provenance."""

import math
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import bpfree
from bpfree.algorithms.arms import look
from bpfree.errors import InvalidInput
from bpfree.evidence import figures
from bpfree.evidence.memory import beside_time, less_of_both, memory_or_time
from bpfree.experiments import store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    kept = store.Store(tmp_path_factory.mktemp("store"))
    settings = {"architecture": "2x16", "max_epochs": 3, "device": "cpu"}
    names = ("bp", "mf")
    return [bpfree.run(bpfree.Experiment(n, **settings), kept, progress=False) for n in names]


ARM = {"data": "mnist", "architecture": "2x8", "protocol": "convergence", "preset": None, "max_epochs": None}
WHERE = {**ARM, "precision": "fp32", "device": "cpu", "machine": "m"}


def tidy(*runs: dict) -> pd.DataFrame:
    """Records as `store.tidy` gives them; a run: algorithm, seed, metrics, fields that are not WHERE's."""
    rows = []
    for run in runs:
        fields = {**WHERE, **{k: v for k, v in run.items() if k in ("algorithm", "seed", *WHERE)}}
        how = run.get("how", "estimated: a model")
        for metric, value in run.items():
            if metric in fields or metric == "how":
                continue
            row = {**fields, "status": "finished", "metric": metric, "value": float(value)}
            is_cost = metric.endswith(("_s", "_j"))
            row |= {"provenance": how if is_cost else None, "machine": fields["machine"] if is_cost else None}
            rows.append({**row, "key": repr(sorted(map(str, fields.items())))})
    return pd.DataFrame(rows)


def curve(algorithm: str, seed: int, stages: dict[str, list[float]], seconds: float = 1.0, **where) -> list:
    """Epochs as `store.epochs` gives them: validation losses per stage, `seconds` an epoch."""
    rows = []
    for stage, losses in stages.items():
        for epoch, loss in enumerate(losses, start=1):
            row = {**WHERE, "algorithm": algorithm, "seed": seed, "stage": stage, "epoch": epoch, **where}
            row |= {"val_loss": loss, "val_accuracy": 90.0, "train_loss": loss, "kept": epoch == len(losses)}
            rows.append({**row, "pass": len(rows) + 1, "elapsed_s": seconds * (len(rows) + 1)})
    return rows


def samples(algorithm: str, channel: str, quantity: str, values, stages=None, **where) -> pd.DataFrame:
    """A trace as `store.traces` gives it: one sample a second."""
    fields = {**WHERE, "algorithm": algorithm, "seed": 0, "channel": channel, "quantity": quantity, **where}
    stages = stages or ["network"] * len(values)
    return pd.DataFrame({"time_s": range(len(values)), "value": values, "stage": stages, "unit": "?"}).assign(
        **fields
    )


def texts(figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def lines_of(ax, algorithm: str) -> list:
    """The lines of more than one point in an algorithm's colour."""
    return [n for n in ax.get_lines() if n.get_color() == look(algorithm).colour and len(n.get_xdata()) > 1]


def test_every_algorithm_looks_like_itself_only():
    looks = [look(name) for name in bpfree.ARMS]
    assert [each.place for each in looks] == list(range(len(looks)))
    for part in ("colour", "label", "marker"):
        assert len({getattr(each, part) for each in looks}) == len(looks)


def test_arms_that_are_not_ours_have_a_look_too():
    looks = [look(name) for name in ("somebody:Elses", "another", *bpfree.ARMS, "another")]
    assert (looks[0].label, looks[1].label) == ("Elses", "another")
    assert min(looks[0].place, looks[1].place) > look(list(bpfree.ARMS)[-1]).place
    assert looks[1] == looks[-1]
    assert len({each.colour for each in looks}) == len(bpfree.ARMS) + 2


def test_learning_curves_draw_every_stage_and_mark_what_was_kept(runs):
    frame = store.epochs(runs)
    figure = figures.learning_curves(frame)
    lines = figure.axes[0].get_lines()
    assert len(lines) == 3 + 2  # bp and the two stages of mf, and a set of markers for each algorithm
    mf = frame[frame["algorithm"] == "mf"]
    assert lines[2].get_ydata().tolist() == mf.loc[mf["stage"] == "layer 1", "val_loss"].tolist()
    assert lines[-1].get_xdata().tolist() == mf.loc[mf["kept"], "pass"].tolist()
    assert len(lines[-1].get_xdata()) == 2
    assert "seconds" in texts(figure)


def test_reach_fills_what_the_gradient_reaches():
    table = pd.DataFrame([[1.0, 0.0]], ["layer 1"], ["model.blocks.0.linear.weight", "heads.2.weight"])
    figure = figures.reach(table, "title")
    filled, empty = (patch.get_facecolor() for patch in figure.axes[0].patches)
    assert filled != empty
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["$W_{1}$", "$M_{2}$"]


def test_pictures_are_on_one_scale():
    x = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    figure = figures.pictures([("a", x), ("b", 0.5 * x)], titles=[0, 1])
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert [float(image.max()) for image in shown] == [0.0, 1.0, 0.0, 0.5]


def test_a_picture_shows_itself(runs):
    assert figures.learning_curves(store.epochs(runs))._repr_png_().startswith(b"\x89PNG")


# Machado et al. 2009: what dichromats see, as matrices on linear RGB
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def lab(colour: str, deficiency: str) -> np.ndarray:
    """CIE L*a*b* (D65) as seen with a deficiency."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(DEFICIENCIES[deficiency] @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


FAMILIES = [("bp", "ff", "ff_sgd"), ("bp", *[n for n in bpfree.ARMS if n.startswith("cafo")])]
FAMILIES += [tuple(figures.comparison.RUNGS)]


@pytest.mark.parametrize("names", FAMILIES)
def test_curves_of_one_picture_differ_for_colour_blind_readers_and_in_greyscale(names):
    assert len({str(look(name).line) for name in names}) == len(names)  # dashes survive any printer
    for deficiency in DEFICIENCIES:
        seen = {name: lab(look(name).colour, deficiency) for name in names}
        for a in names:
            assert seen[a][0] < 80  # a thin line of a paler colour is lost on white
            for b in names:
                assert a == b or np.linalg.norm(seen[a] - seen[b]) > 12, (a, b, deficiency)


def test_curves_against_seconds_draw_the_epochs_of_every_panel():
    rows = curve("bp", 0, {"network": [2.0, 1.0]}) + curve("ff", 0, {"all": [3.0, 2.0, 1.5]}, seconds=4.0)
    frame = pd.DataFrame(rows + curve("bp", 0, {"network": [0.5, 0.4]}, data="digits"))
    figure = figures.curves.against_seconds(frame)
    assert [ax.get_title(loc="left").split()[0] for ax in figure.axes[::2]] == ["digits", "MNIST"]
    (line,) = lines_of(figure.axes[3], "ff")
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([4.0, 8.0, 12.0], [3.0, 2.0, 1.5])
    (line,) = lines_of(figure.axes[1], "bp")
    assert line.get_ydata().tolist() == [0.5, 0.4]
    assert "(%)" in figure.axes[0].get_ylabel()
    assert "nats" in figure.axes[1].get_ylabel()
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"BP", "FF (AdamW)"}


def test_the_mean_is_of_all_seeds_or_it_is_not_drawn():
    stages = [
        {"layer 1": [4.0, 2.0, 1.0], "layer 2": [3.0, 1.0]},
        {"layer 1": [6.0, 4.0], "layer 2": [5.0, 3.0]},
    ]
    frame = pd.DataFrame([row for seed in (0, 1) for row in curve("mf", seed, stages[seed])])
    first, second = figures.curves.aligned(frame, "pass")
    assert (first.mean.tolist(), first.x.tolist(), first.n) == ([5.0, 3.0], [1.0, 2.0], 2)
    assert second.begin == 2.5  # the mean of the starts, 3 and 2
    assert (second.mean.tolist(), second.x.tolist()) == ([4.0, 2.0], [3.5, 4.5])
    assert first.sd == pytest.approx([math.sqrt(2), math.sqrt(2)])  # the sample's: n - 1
    figure = figures.curves.mean_loss(frame)
    thick = [n for n in lines_of(figure.axes[0], "mf") if n.get_linewidth() > 1]
    assert [n.get_ydata().tolist() for n in thick] == [[5.0, 3.0], [4.0, 2.0]]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(5 + math.sqrt(2))


def test_seconds_of_seeds_of_different_speed_are_interpolated_where_both_train():
    rows = curve("bp", 0, {"network": [4.0, 3.0, 2.0]}, seconds=1.0)
    rows += curve("bp", 1, {"network": [4.0, 2.0]}, seconds=2.0)
    (stage,) = figures.curves.aligned(pd.DataFrame(rows), "elapsed_s")
    assert (stage.x[0], stage.x[-1]) == (
        2.0,
        3.0,
    )  # from the slower one's first epoch to the faster one's last
    assert stage.mean[[0, -1]].tolist() == [(3.0 + 4.0) / 2, (2.0 + 3.0) / 2]


def test_one_seed_has_no_band():
    figure = figures.curves.mean_loss(pd.DataFrame(curve("bp", 0, {"network": [2.0, 1.0]})))
    assert not figure.axes[0].collections[0].get_paths()


def test_without_a_gpu_the_process_stands_in_and_the_caption_says_so():
    memory = samples("bp", "cpu:process", "rss", [2**20, 3 * 2**20])
    busy = samples("bp", "cpu:process", "utilisation", [0.0, 99.0, 101.0])
    figure = figures.resources.memory_and_clock(pd.concat([memory, busy]))
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [1.0, 3.0]
    assert "resident memory (MiB)" in figure.axes[0].get_ylabel()
    assert figure.axes[1].get_lines()[0].get_ydata().tolist() == [99.0, 101.0]  # 0: before there was a share
    assert "no GPU" in texts(figure)
    assert "resident memory of the process" in texts(figure)
    warm = figures.resources.utilisation_and_temperature(pd.concat([memory, busy]))
    assert len(warm.axes) == 1
    assert "nothing for the temperature" in texts(warm).replace("\n", " ")


def test_a_gpu_that_ran_it_is_shown_and_one_that_did_not_is_not():
    parts = [samples("bp", "gpu:0", "memory", [2**20, 2**21]), samples("bp", "cpu:process", "rss", [1, 1])]
    used = figures.resources.memory_steps(pd.concat(parts).assign(device="cuda"))
    assert used.axes[0].get_lines()[0].get_ydata().tolist() == [1.0, 2.0]
    assert used.axes[0].get_ylabel().startswith("GPU")
    assert "no GPU" not in texts(used)
    assert "no GPU" in texts(figures.resources.memory_steps(pd.concat(parts)))
    both = pd.concat([pd.concat(parts).assign(device=d, machine=d) for d in ("cuda", "cpu")])
    said = texts(figures.resources.memory_steps(both)).replace("\n", " ")
    assert "in panels without a GPU: resident memory" in said


def test_memory_that_begins_where_another_run_ended_is_said_and_warming_up_is_left_out():
    """MF ran after BP in one process: its first value is BP's last. Of a third run nothing is said."""
    on = {"device": "cuda", "channel": "gpu:0"}
    runs = {
        "bp": ([6, 7, 7, 8, 9], [0, 20, 0, 30, 30]),
        "mf": ([9, 9, 9, 9], [5, 5, 5, 5]),
        "ff": ([7, 8, 8, 8], [0, 5, 5, 5]),
    }
    parts = [
        samples(
            name, quantity=quantity, values=[2**20 * v if quantity == "memory" else v for v in values], **on
        )
        for name, both in runs.items()
        for quantity, values in zip(("memory", "utilisation"), both, strict=True)
    ]
    trace = pd.concat(parts)
    assert figures.resources.inherited(trace).to_numpy().tolist() == [["mnist", "mf", "bp", 9 * 2**20]]
    figure = figures.resources.memory_steps(trace)
    said = texts(figure).replace("\n", " ")
    assert "MF's memory begins where BP's ends (9 MiB on MNIST): it ran after it in the same process" in said
    assert "FF (AdamW)'s memory" not in said
    (line,) = lines_of(figure.axes[0], "ff")
    assert line.get_xdata().tolist() == [1, 2, 3]  # the first sample is of warming up
    (line,) = lines_of(figure.axes[0], "bp")
    assert line.get_xdata().tolist() == [3, 4]  # and one busy moment is not yet training


def test_memory_is_marked_where_stages_begin():
    trace = samples("mf", "cpu:process", "rss", [1, 1, 1, 1], stages=["layer 1"] * 2 + ["layer 2"] * 2)
    figure = figures.resources.memory_steps(trace)
    marks = [n.get_xdata()[0] for n in figure.axes[0].get_lines() if n.get_linestyle() == ":"]
    assert marks == [0, 2]
    assert "layer 2" in texts(figure)


RUNS = tidy(
    *(
        {"algorithm": "bp", "seed": s, "test_accuracy": 90 + s, "total_estimated_j": 10, "total_s": 1}
        for s in (0, 1)
    ),
    {"algorithm": "bp_ds", "seed": 0, "test_accuracy": 91, "total_estimated_j": 15, "total_s": 2},
    {"algorithm": "mf_joint", "seed": 0, "test_accuracy": 92, "total_estimated_j": 20, "total_s": 2},
    {
        "algorithm": "mf_sequential_joint",
        "seed": 0,
        "test_accuracy": 93,
        "total_estimated_j": 50,
        "total_s": 2,
    },
    {"algorithm": "mf_interleaved", "seed": 0, "test_accuracy": 94, "total_estimated_j": 5, "total_s": 2},
)


def test_accuracy_stands_over_energy_and_printed_numbers_are_open_and_named():
    from bpfree.experiments import published

    printed = published.results(source="thesis", protocol="published")
    runs = RUNS.assign(architecture="2x1000")
    modelled = figures.comparison.accuracy_against_energy(runs, printed)
    assert "(J, estimated)" in modelled.axes[0].get_xlabel()
    assert "estimated: a model" in texts(modelled)
    assert "printed" not in texts(modelled)  # those joules were measured
    assert {n.get_fillstyle() for n in modelled.axes[0].get_lines()} == {"full"}
    runs["metric"] = runs["metric"].replace("total_estimated_j", "total_measured_j")
    figure = figures.comparison.accuracy_against_energy(runs, printed)
    points = {(n.get_xdata()[0], n.get_ydata()[0]): n for n in figure.axes[0].get_lines()}
    assert points[10.0, 90.5].get_fillstyle() == "full"
    assert points[10.0, 90.5].get_color() == look("bp").colour
    mnist = printed[(printed["data"] == "mnist") & (printed["algorithm"].isin(["mf", "ff"]))]
    thesis = mnist[mnist["algorithm"] == "mf"].set_index("metric")["mean"]
    assert points[thesis["total_j"], thesis["test_accuracy"]].get_fillstyle() == "none"
    assert figure.axes[0].get_xscale() == "log"
    assert "(J, measured)" in figure.axes[0].get_xlabel()
    assert "printed: thesis" in texts(figure)
    of_another_network = mnist[(mnist["algorithm"] == "ff") & (mnist["metric"] == "total_j")]["mean"]
    assert not {x for x, _ in points} & set(of_another_network)
    assert "printed" not in texts(figures.comparison.accuracy_against_energy(RUNS))
    both = pd.concat([runs, runs.assign(architecture="3x1000", key=runs["key"] + "w")])
    titles = [ax.get_title(loc="left") for ax in figures.comparison.accuracy_against_energy(both).axes]
    assert ["3x1000" in title for title in titles] == [False, True]  # a panel for each network


def test_measured_joules_are_drawn_only_if_all_runs_have_them():
    both = {"test_accuracy": 90, "total_estimated_j": 10, "total_s": 1}
    one = {"algorithm": "bp", "seed": 0, **both, "total_measured_j": 7, "how": "measured: a sensor"}
    all_have = tidy(one, {**one, "algorithm": "mf", "total_measured_j": 8})
    assert figures.energy_of(all_have) == ("measured", "measured: a sensor")
    with_a_model = all_have.assign(provenance="measured: a sensor; estimated: a model")
    assert figures.energy_of(with_a_model) == ("measured", "measured: a sensor")
    assert figures.energy_of(tidy(one, {"algorithm": "mf", "seed": 0, **both}))[0] == "estimated"


def test_rungs_lead_from_one_to_the_next_and_the_corner_stands_beside():
    figure = figures.comparison.ladder(RUNS)
    energy = figure.axes[1]
    bars = [(p.get_x(), p.get_x() + p.get_width()) for p in energy.patches]
    assert bars == [(0, 10), (10, 15), (15, 20), (20, 50), (20, 5)]  # interleaved from joint, not the corner
    assert [p.get_facecolor()[:3] == (1, 1, 1) for p in energy.patches] == [False, False, False, True, False]
    ratios = ["×1.50\nn = 1", "×1.33\nn = 1", "×2.50\nn = 1", "×0.25\nn = 1"]
    assert [t.get_text() for t in energy.texts] == ["n = 2", *ratios]
    assert "BP (n = 2)" in figure.axes[0].get_yticklabels()[0].get_text()
    seeds = [n for n in figure.axes[0].get_lines() if n.get_marker() == look("bp").marker]
    assert seeds[0].get_xdata().tolist() == [90.0, 91.0]
    assert energy.get_xlabel() == "energy (J, estimated)"


def test_a_shared_out_budget_borrows_the_run_that_set_it():
    matched = RUNS[RUNS["algorithm"] != "bp"].assign(protocol="matched", machine="m")
    frame = pd.concat([RUNS[RUNS["algorithm"] == "bp"], matched])
    lent = figures.comparison.with_baseline(frame)
    assert set(lent.loc[lent["protocol"] == "matched", "algorithm"]) == set(RUNS["algorithm"])
    assert len(figures.comparison.with_baseline(RUNS)) == len(RUNS)
    assert "protocol matched" in figures.comparison.ladder(frame).axes[0].get_title(loc="left")


def test_lengths_add_up_where_factors_multiply():
    cost = {"val_estimated_j": 99, "total_estimated_j": 1}
    runs = tidy(
        {"algorithm": "bp", "seed": 0, "samples": 100, "train_estimated_j": 10, **cost},
        {
            "algorithm": "mf",
            "seed": 0,
            "samples": 300,
            "train_estimated_j": 8,
            "prefix_estimated_j": 1,
            **cost,
        },
        {"algorithm": "bp", "seed": 1, "samples": 900, "train_estimated_j": 90},  # shared its machine
        {
            "algorithm": "mf",
            "seed": 1,
            "samples": 100,
            "train_estimated_j": 70,
            **cost,
        },  # has no partner then
    )
    table = figures.comparison.factors(runs)
    row = table.loc["mf"].to_dict()
    assert [row[c] for c in ("passes", "per_pass", "energy", "n")] == pytest.approx([3.0, 0.3, 0.9, 1])
    assert np.isnan([row["low"], row["high"]]).all()
    ax = figures.comparison.decomposition(runs).axes[0]
    first, second = ax.patches
    assert (first.get_x(), first.get_x() + first.get_width()) == pytest.approx((1, 3))
    assert (second.get_x(), second.get_x() + second.get_width()) == pytest.approx((3, 0.9))
    assert ax.get_xscale() == "log"
    assert "3.00 × 0.300 = 0.900, n = 1" in texts(ax.figure)


def test_the_energy_of_a_decomposition_is_that_of_its_own_pairs():
    joules = {"bp": (10.0, 12.0, 8.0), "mf": (5.0, 9.0, 9.0)}
    samples = {"bp": (100, 150, 80), "mf": (300, 200, 320)}
    runs = tidy(
        *(
            {
                "algorithm": name,
                "seed": seed,
                "samples": samples[name][seed],
                "train_estimated_j": joules[name][seed],
                "total_estimated_j": 1,
            }
            for name in joules
            for seed in range(3)
        )
    )
    row = figures.comparison.factors(runs).loc["mf"]
    direct = scipy.stats.gmean(np.divide(joules["mf"], joules["bp"]))
    assert row["passes"] * row["per_pass"] == pytest.approx(row["energy"]) == pytest.approx(direct)
    assert row["n"] == 3
    assert row["low"] < direct < row["high"]


def test_runs_without_seconds_and_joules_count_for_accuracy_and_for_nothing_else():
    cost = {"samples": 100, "train_estimated_j": 10, "total_estimated_j": 10, "total_s": 5}
    shared = {"algorithm": "mf", "seed": 1, "test_accuracy": 94, "samples": 900, "total_flop": 1}
    runs = tidy(
        {"algorithm": "bp", "seed": 0, "test_accuracy": 90, **cost},
        {"algorithm": "mf", "seed": 0, "test_accuracy": 92, **cost, "samples": 300},
        shared,
        {**shared, "algorithm": "mf_interleaved"},
    )
    runs["machine"] = "m"
    ax = figures.comparison.accuracy_against_energy(runs).axes[0]
    points = {(n.get_xdata()[0], n.get_ydata()[0]) for n in ax.get_lines() if len(n.get_xdata()) == 1}
    # Accuracy and energy are of the same runs, and the panel says of how many.
    assert {(10.0, 90.0), (10.0, 92.0)} <= points
    assert not any(y > 92.0 for _, y in points)
    said = "BP: n = 1; MF interleaved: n = 0 of 1; MF: n = 1 of 2"
    assert said in texts(ax.figure).replace("\n", " ")
    row = figures.comparison.factors(runs).loc["mf"]
    assert [row[c] for c in ("passes", "per_pass", "energy", "n")] == pytest.approx([3.0, 1 / 3, 1.0, 1])
    unpaired = runs.assign(seed=runs["seed"].where(runs["algorithm"] == "bp", runs["seed"] + 5))
    assert figures.comparison.factors(unpaired).empty  # no seed in common
    energy = figures.comparison.ladder(runs).axes[1]
    assert [p.get_width() for p in energy.patches] == [10, 0]  # and no bar for interleaved MF
    assert [t.get_text() for t in energy.texts] == ["n = 1", "×1.00\nn = 1"]
    costless = runs[runs["metric"].isin(["test_accuracy", "samples"])]
    assert "cost of its own" in figures.comparison.ladder(costless).axes[2].texts[0].get_text()
    unknown = figures.comparison.accuracy_against_energy(runs[runs["key"] == runs["key"].iloc[-1]])
    assert "energy is known" in texts(unknown)
    assert not unknown.axes[0].get_lines()


def test_curves_of_runs_without_seconds_are_left_out_or_against_passes():
    alone = curve("bp", 0, {"network": [2.0, 1.0]})
    shared = [{**row, "elapsed_s": math.nan, "seed": 1} for row in curve("bp", 0, {"network": [9.0, 8.0]})]
    ax = figures.curves.against_seconds(pd.DataFrame(alone + shared), ("val_loss",)).axes[0]
    (line,) = lines_of(ax, "bp")
    assert (line.get_xdata().tolist(), ax.get_xlabel()) == ([1.0, 2.0], "seconds")
    ax = figures.curves.against_seconds(pd.DataFrame(shared), ("val_loss",)).axes[0]
    (line,) = lines_of(ax, "bp")
    assert (line.get_ydata().tolist(), ax.get_xlabel()) == ([9.0, 8.0], "passes over the data")
    said = texts(ax.figure)
    assert "seconds" not in said
    assert "wall clock" not in said
    left, right = figures.curves.mean_loss(pd.DataFrame(shared)).axes
    assert lines_of(left, "bp")
    assert not right.get_lines()
    assert "no run was alone" in right.texts[0].get_text()


def contrast(name: str, difference: float, half: float, verdict: str, n: int, **more) -> dict:
    """A row as `stats.contrasts` gives it."""
    row = {"data": "mnist", "architecture": "2x8", "protocol": "convergence", "algorithm": name}
    row |= {"baseline": "bp", "difference": difference, "low": difference - half, "high": difference + half}
    return row | {"verdict": verdict, "n": n, **more}


def test_the_forest_shows_differences_intervals_margin_words_and_n_on_a_linear_axis():
    rows = [
        contrast("mf", 0.02, 0.1, "equivalent", 5),
        contrast("ff", -5.0, 90.0, "undecided", 2, at_cap="2 of 4"),
        contrast("bp_ds", -19.6, math.nan, "one run", 1),
    ]
    figure = drawn(figures.forest.forest(pd.DataFrame(rows).assign(at_cap=["", "2 of 4", ""]), margin=0.25))
    ax = figure.axes[0]
    assert ax.get_xscale() == "linear"
    said = {"mf": "equivalent, n = 5", "ff": "undecided, n = 2; at the cap: 2 of 4", "bp_ds": "one run"}
    for row in rows:
        found = [n for n in ax.get_lines() if n.get_color() == look(row["algorithm"]).colour]
        if not math.isnan(row["low"]):
            assert found[0].get_xdata().tolist() == [row["low"], row["high"]]
        assert found[-1].get_xdata().tolist() == [row["difference"]]
        place = found[-1].get_ydata()[0]
        assert [t.get_text() for t in ax.texts if t.xy[1] == place] == [said[row["algorithm"]]]
    # Ninety points would hide all else: where an interval leaves the panel there is an arrow.
    assert max(map(abs, ax.get_xlim())) < 40
    assert [n.get_marker() for n in ax.get_lines() if n.get_marker() in "<>"] == ["<", ">"]
    band = ax.patches[0]
    assert (band.get_x(), band.get_width()) == (-0.25, 0.5)
    assert "0.25 points" in texts(figure).replace("\n", " ")


def test_the_forest_s_axes_have_few_lengths_and_hide_no_mark():
    rows = [contrast("mf", d, 0.05, "higher", 5, data="mnist", architecture=f"{k}x8")
            for k, d in enumerate((0.1, -0.6, 1.1, 7.0, 9.9, -40.0), 1)]  # fmt: skip
    limits = [ax.get_xlim() for ax in figures.forest.forest(pd.DataFrame(rows)).axes]
    assert limits == [(-r, r) for r in (1, 1, 3, 10, 30, 120)]


def test_the_forest_of_one_algorithm_has_a_row_for_each_protocol():
    rows = [
        contrast("mf", k, 0.1, "higher", 5, protocol=protocol, data=data)
        for data in ("mnist", "cifar10")
        for k, protocol in enumerate(("matched", "convergence"))
    ]
    first, second = drawn(figures.forest.forest(pd.DataFrame(rows))).axes
    for ax in (first, second):
        assert [t.get_text() for t in ax.get_yticklabels()] == ["convergence", "matched"]
        assert [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 1][:2] == [1, 0]
    assert "MNIST" in first.get_title(loc="left")
    assert "CIFAR-10" in second.get_title(loc="left")


def test_every_series_has_the_n_of_its_own_runs_and_no_title_counts():
    """BP has two runs with seconds, one of them ended at its cap; MF one of two; of FF there is none here."""
    capped = {"max_epochs": 3}
    rows = [r for s in (0, 1) for r in curve("bp", s, {"network": [2.0, 1.5, 1.0][: 3 - s]}, **capped)]
    rows += [r for s in (0, 1) for r in curve("mf", s, {"layer 1": [2.0, 1.0]}, **capped)]
    elsewhere = curve("ff", 0, {"all": [2.0, 1.0]}, data="fashion_mnist", **capped)
    frame = pd.DataFrame(rows + elsewhere)
    frame["elapsed_s"] = frame["elapsed_s"].where((frame["algorithm"] != "mf") | (frame["seed"] == 0))
    figure = figures.curves.against_seconds(frame, ("val_loss",))
    here = figure.axes[0]
    said = "BP: n = 2, 1 at the cap; MF: n = 1 of 2; FF (AdamW): none"
    assert said in [t.get_text() for t in here.texts]
    both = figures.curves.mean_loss(frame[frame["data"] == "mnist"]).axes
    assert ["MF: n = 2" in t.get_text() for t in both[0].texts].count(True) == 1
    assert ["MF: n = 1 of 2" in t.get_text() for t in both[1].texts].count(True) == 1
    labels = [t.get_text() for t in figures.learning_curves(frame).axes[0].get_legend().get_texts()]
    assert labels == ["BP (n = 2, 1 at the cap)", "MF (n = 2)", "FF (AdamW) (n = 1)"]
    assert "seed" not in figures.style.title_of(frame)
    patient = frame.assign(ended=["patience" if name == "bp" else "cap" for name in frame["algorithm"]])
    labels = [t.get_text() for t in figures.learning_curves(patient).axes[0].get_legend().get_texts()]
    assert labels[0] == "BP (n = 2)"  # it would not have gone on


@pytest.mark.parametrize(
    "draw",
    [
        figures.curves.against_seconds,
        figures.curves.mean_loss,
        figures.resources.memory_and_clock,
        figures.comparison.accuracy_against_energy,
        figures.comparison.ladder,
        figures.comparison.decomposition,
        figures.forest.forest,
    ],
)
def test_nothing_to_draw_is_said_in_one_line(draw):
    columns = [*WHERE, "algorithm", "seed", "status", "metric", "value", "key", "provenance", "channel"]
    with pytest.raises(InvalidInput, match="to draw") as error:
        draw(pd.DataFrame(columns=[*columns, "quantity", "stage", "baseline", "n"]))
    assert "\n" not in str(error.value)


def test_machines_and_presets_are_not_pooled():
    frame = pd.concat([RUNS, RUNS.assign(machine="other", key="other " + RUNS["key"])])
    titles = [title for title, _ in figures.style.facets(frame.assign(machine=frame["machine"].fillna("m")))]
    assert len(set(titles)) == len(titles) == 2
    assert "numbered" in figures.style.numbered(titles)
    gpu = RUNS[RUNS["seed"] == 0].assign(machine="other", device="cuda", key="other " + RUNS["key"])
    titles = [title for title, _ in figures.style.facets(pd.concat([RUNS.assign(machine="m"), gpu]))]
    assert ["cuda" in title for title in titles].count(True) == 1  # other seeds do not make it another arm
    assert figures.style.numbered(titles) == ""
    tuned = RUNS.assign(preset="tuned", machine="m")
    titles = [title for title, _ in figures.style.facets(pd.concat([RUNS.assign(machine="m"), tuned]))]
    assert ["tuned" in title for title in titles] == [False, True]


def test_nothing_is_printed_smaller_than_seven_points(runs):
    records, epochs = store.tidy(runs), store.epochs(runs)
    drawn = [
        figures.curves.mean_loss(epochs),
        figures.curves.against_seconds(epochs),
        figures.comparison.ladder(RUNS),
    ]
    drawn += [figures.comparison.decomposition(records), figures.comparison.accuracy_against_energy(records)]
    for figure in drawn:
        assert figure.get_figwidth() == figures.style.WIDTH
        sizes = [t.get_fontsize() for t in figure.findobj(mpl.text.Text) if t.get_text().strip()]
        assert min(sizes) >= 7


# ---------------------------------------------------------------- short, odd and missing


def drawn(figure) -> object:
    """The figure, once it has been laid out and drawn, which is when most of what is wrong raises."""
    figure.canvas.draw()
    return figure


def test_what_was_over_before_a_second_sample_has_a_mark_and_is_named():
    whole = samples("bp", "cpu:process", "rss", [2**20, 3 * 2**20])
    one = samples("mf", "cpu:process", "rss", [2**20])
    figure = drawn(figures.resources.memory_and_clock(pd.concat([whole, one])))
    marks = [n for n in figure.axes[0].get_lines() if n.get_color() == look("mf").colour]
    assert marks[0].get_ydata().tolist() == [1.0]
    assert marks[0].get_marker() == look("mf").marker
    assert "over before a second sample: MF" in texts(figure)


def test_a_quantity_that_nothing_sampled_is_a_figure_that_says_so():
    short = samples("bp", "cpu:process", "rss", [2**20])
    no_share_yet = samples("bp", "cpu:process", "utilisation", [math.nan])
    figure = drawn(figures.resources.utilisation_and_temperature(pd.concat([short, no_share_yet])))
    assert "nothing of utilisation, temperature was sampled" in texts(figure)
    nothing = samples("bp", "cpu:process", "rss", [math.nan])
    assert "was sampled" in texts(drawn(figures.resources.memory_steps(nothing)))


def test_a_run_without_any_sample_is_named_beside_one_that_has_them():
    whole = samples("bp", "cpu:process", "rss", [2**20, 3 * 2**20])
    none = samples("mf", "cpu:process", "rss", [math.nan])
    figure = drawn(figures.resources.memory_steps(pd.concat([whole, none])))
    assert "over before a second sample: MF" in texts(figure)


@pytest.mark.parametrize("draw", [figures.learning_curves, figures.curves.against_seconds])
def test_one_epoch_is_a_dot_and_a_loss_of_zero_has_a_place(draw):
    rows = curve("bp", 0, {"network": [0.0]}) + curve("mf", 0, {"layer 1": [0.5], "layer 2": [0.25]})
    frame = pd.DataFrame(rows).assign(kept=False)  # as of a run that diverged after it
    figure = drawn(draw(frame))
    dots = [n for ax in figure.axes for n in ax.get_lines() if n.get_marker() == "."]
    assert {tuple(n.get_ydata()) for n in dots} >= {(0.0,), (0.5,), (0.25,)}
    assert "symlog" in {ax.get_yscale() for ax in figure.axes}
    drawn(figures.curves.mean_loss(frame))
    drawn(draw(frame.assign(val_loss=0.0, train_loss=0.0)))


@pytest.mark.parametrize("draw", [figures.comparison.ladder, figures.comparison.decomposition])
def test_runs_without_costs_are_drawn_without_them(draw):
    costless = tidy(*({"algorithm": a, "seed": 0, "test_accuracy": 90, "samples": 5} for a in ("bp", "mf")))
    failed = costless.assign(status="failed", metric="failed", key="f" + costless["key"])
    figure = drawn(draw(pd.concat([costless, failed]).assign(machine="m")))
    assert re.search("not recorded|no run|is known", texts(figure))


def test_a_name_with_dollars_is_no_formula_and_has_no_folder():
    name = r"/some where/ä $\frac$ b.npz"
    figure = drawn(figures.comparison.ladder(RUNS.assign(data=name)))
    title = figure.axes[0].get_title(loc="left")
    assert title.replace("\\$", "$").startswith(r"ä $\frac$ b.npz 2x8")


def test_images_of_few_classes_many_channels_and_no_shape_are_shown():
    y = torch.tensor([0, 2, 2, 2, 2, 2])  # one of its first class, none of the second
    for channels in (1, 2, 3, 4):
        x = torch.linspace(0, 1, 6 * channels * 16).view(6, channels, 4, 4)
        figure = drawn(figures.images(x, y))
        assert len(figure.axes) == 10
        shape = figure.axes[0].images[0].get_array().shape
        assert shape == ((4, 4, 3) if channels == 3 else (4, 4))
    vectors = torch.arange(30.0).view(6, 1, 1, 5)
    (line,) = drawn(figures.images(vectors, y)).axes[0].get_lines()
    assert line.get_ydata().tolist() == pytest.approx([i / 29 for i in range(5)])
    drawn(figures.images(torch.zeros(6, 1, 4, 4), y))  # all the same


def test_more_classes_than_ten_show_the_first_ten():
    figure = drawn(figures.images(torch.rand(100, 1, 4, 4), torch.arange(100)))
    assert [ax.get_title() for ax in figure.axes[:10]] == [str(c) for c in range(10)]


@pytest.mark.parametrize(
    ("searches", "said"),
    [
        ({"a": ("bp", 3), "b": ("mf", 3)}, "1 search of 3 trials for each algorithm"),
        (
            {"a": ("bp", 3), "b": ("bp", 2), "c": ("mf", 4)},
            "BP: 2 searches of 2 and 3 trials; MF: 1 search of",
        ),
    ],
)
def test_how_many_searches_of_how_many_trials(searches, said):
    rows = [
        {"study": study, "algorithm": name, "value": 90.0 + k, "best": 90.0 + k, "total_joules": k}
        for study, (name, trials) in searches.items()
        for k in range(trials)
    ]
    trials = pd.DataFrame(rows).assign(data="mnist", architecture="2x8", energy="estimated", provenance=None)
    assert said in texts(drawn(figures.tuning.best_so_far(trials)))


def test_an_angle_of_no_block_and_of_many():
    figure = drawn(figures.alignment(pd.DataFrame(columns=["epoch", "block", "degrees"])))
    assert "no epoch" in texts(figure)
    rows = [{"epoch": 1, "block": f"block {i}", "degrees": 80.0 + i} for i in range(6)]
    lines = drawn(figures.alignment(pd.DataFrame(rows))).axes[0].get_lines()
    assert [n.get_ydata()[0] for n in lines if len(n.get_xdata()) == 1] == [80.0 + i for i in range(6)]


def test_a_search_in_which_nothing_mattered_or_ended_is_said():
    empty = pd.DataFrame(columns=["study", "algorithm", "parameter", "importance"])
    assert "no parameter mattered" in texts(drawn(figures.tuning.importance_bars(empty)))
    trials = pd.DataFrame({"study": ["s"], "algorithm": ["bp"], "data": ["own.npz"], "value": [math.nan]})
    trials = trials.assign(best=math.nan, total_joules=1.0, energy="estimated", provenance=None)
    trials = trials.assign(architecture="2x8", protocol="convergence")
    assert "no trial ended" in texts(drawn(figures.tuning.best_so_far(trials)))


def test_hardware_without_backpropagation_or_a_sensor_is_drawn_without_ratios():
    one = {"data": "own.npz", "architecture": "2x8", "algorithm": "mf", "prefix": "kept", "threads": 1}
    costs = [{**one, "machine": "m", "metric": m, "value": 1.0} for m in ("train", "val")]
    assert "×" not in texts(drawn(figures.hardware.pass_cost(pd.DataFrame(costs))))
    operations = pd.DataFrame([{"algorithm": "mf", "paper": 1e6, "forward": 1e6, "backward": 1e6}])
    assert not drawn(figures.hardware.operations(operations)).axes[0].texts
    sensor = {"phase": "idle", "sensor": "instant", "joules": 10.0, "seconds": 1.0, "update_ms": 100.0}
    figure = drawn(figures.hardware.sensors(pd.DataFrame([{**sensor, "card": "c", "driver": "1"}])))
    assert "10 W" in texts(figure)
    assert "%" not in "".join(t.get_text() for t in figure.axes[0].texts)
    point = {"sweep": "depth", "depth": 2, "algorithm": "mf", "metric": "saved_bytes", "value": 1e6}
    drawn(figures.hardware.scaling(pd.DataFrame([point])))


def test_a_recomputed_prefix_is_an_open_bar_and_beside_it_stands_the_ratio():
    row = {"data": "mnist", "architecture": "2x8", "threads": 1, "machine": "m", "unit": "µs"}
    ways = {("bp", "kept"): 10.0, ("mf", "kept"): 4.0, ("mf", "recomputed"): 5.0}
    rows = [
        {**row, "algorithm": a, "prefix": w, "metric": m, "value": v}
        for (a, w), v in ways.items()
        for m in ("train", "val")
    ]
    figure = drawn(figures.hardware.pass_cost(pd.DataFrame(rows)))
    assert [p.get_facecolor()[:3] == (1, 1, 1) for p in figure.axes[0].patches] == [False, False, True]
    assert [t.get_text() for t in figure.axes[0].texts] == ["×1.00", "×0.40", "×0.50"]
    assert "open bars" in texts(figure)
    assert "measured once" in texts(figure).replace("\n", " ")


def test_passes_that_were_compared_in_turns_are_drawn_by_their_means_and_said_to_be():
    row = {"data": "mnist", "architecture": "2x8", "prefix": "kept", "threads": 1, "machine": "m", "n": 6}
    row |= {"executor": "graph", "low": math.nan, "high": math.nan}
    costs = {("bp", "train"): 10.0, ("bp", "val"): 2.0, ("mf", "train"): 4.0, ("mf", "val"): 1.0}
    costs |= {
        ("mf", "train ratio"): 0.41,
        ("mf", "joules"): 900.0,
        ("mf", "floor"): 0.1,
    }  # of the table alone
    rows = [{**row, "algorithm": a, "metric": m, "value": v} for (a, m), v in costs.items()]
    figure = drawn(figures.hardware.pass_cost(pd.DataFrame(rows)))
    assert [[t.get_text() for t in ax.texts] for ax in figure.axes] == [
        ["×1.00", "×0.40"],
        ["×1.00", "×0.50"],
    ]
    assert "means of windows" in texts(figure).replace("\n", " ")
    assert "once" not in texts(figure)


HELD = {  # algorithm, prefix -> bytes by each account, of two processes
    ("bp", "kept"): {"account": (20, 20), "with_prefix": (20, 20), "rss": (30, 50)},
    ("mf", "kept"): {"account": (10, 10), "with_prefix": (200, 200), "rss": (220, 180)},
    ("mf", "recomputed"): {"account": (10, 10), "with_prefix": (10, 10), "rss": (20, 20)},
}


def held() -> pd.DataFrame:
    """Bytes as figures/measure/memory.py writes them."""
    where = {"data": "mnist", "architecture": "2x8", "threads": 1, "machine": "m", "unit": "B"}
    return pd.DataFrame(
        {**where, "algorithm": name, "prefix": way, "quantity": quantity, "repeat": k, "value": 2**20 * value}
        for (name, way), by in HELD.items()
        for quantity, values in by.items()
        for k, value in enumerate(values)
    )


def test_three_accounts_of_memory_stand_side_by_side_with_their_names_and_n():
    figure = drawn(figures.hardware.memory_lines(held()))
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "BP (n = 2)",
        "MF, prefix kept (n = 2)",
        "MF, prefix recomputed (n = 2)",
    ]
    points = [n.get_xdata().tolist() for n in ax.get_lines()]
    assert points == [[float(v) for v in values] for by in HELD.values() for values in by.values()]
    ratios = [t.get_text() for t in ax.texts]
    assert ratios == ["×1.00   ×1.00   ×1.00", "×0.50   ×10.00   ×5.00", "×0.50   ×0.50   ×0.50"]
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert [name.split()[0] for name in names] == ["account", "account", "resident"]


def test_memory_stands_beside_the_time_of_a_pass_and_of_all_passes_with_their_interval():
    cost = {"data": "mnist", "architecture": "2x8", "metric": "train"}
    costs = [("bp", "kept", 10.0), ("mf", "kept", 4.0), ("mf", "recomputed", 6.0)]
    costs = pd.DataFrame([{**cost, "algorithm": a, "prefix": w, "value": v} for a, w, v in costs])
    costs["machine"] = "another, 2 cores"
    passes_of = {"bp": (100, 100, 100), "mf": (150, 180, 140)}
    made = [
        {"algorithm": name, "seed": seed, "epochs": passes_of[name][seed]}
        for name in passes_of
        for seed in range(3)
    ]
    runs = tidy(*made)
    found = beside_time(held(), costs, runs)
    assert found.index.get_level_values("prefix").tolist() == ["kept", "recomputed"]
    kept = found.iloc[0]
    ratios = np.divide(passes_of["mf"], passes_of["bp"])
    assert kept["passes"] == pytest.approx(scipy.stats.gmean(ratios))
    assert (kept["pairs"], kept["n"], kept["rss"], kept["pass"]) == (3, 2, 5.0, 0.4)
    assert kept["time_high"] == pytest.approx(0.4 * kept["high"])
    table = memory_or_time(found)
    assert table["algorithm"].tolist() == ["MF, prefix kept", "MF, prefix recomputed"]
    assert table.iloc[0, 2:4].tolist() == ["5.00 (n = 2)", "0.40"]
    assert table["both multiplied (× BP)"].iloc[0] == f"{0.4 * kept['low']:.2f} to {0.4 * kept['high']:.2f}"
    few = beside_time(held(), costs, runs[runs["seed"] > 0])
    assert set(memory_or_time(few)["both multiplied (× BP)"]) == {"not known"}
    assert "both at once: **none** of the 2 of which both" in less_of_both(found)
    assert "(memory: m, n = 2 processes; time: an estimate, from one pass measured on another and," in (
        less_of_both(found)
    )
    assert "**5.00 times** backpropagation's memory and **0." in less_of_both(found)
    cheap = found.assign(time_high=0.9)  # only the recomputed one holds less
    assert "at once: **MF, prefix recomputed on MNIST 2x8** of" in less_of_both(cheap)
    overlapping = held().replace({"value": {20 * 2**20: 35 * 2**20}})  # the second process of BP held 30
    overlapping = beside_time(overlapping, costs, runs).assign(time_high=0.9)
    assert "**none**" in less_of_both(overlapping)
    untimed = beside_time(held(), costs[costs["prefix"] == "kept"], runs)  # the recomputed pass is not known
    assert memory_or_time(untimed).iloc[1, 2:].tolist() == [
        *("0.50 (n = 2)", "not measured"),
        *(f"{scipy.stats.gmean(ratios):.2f} (n = 3)", "not known"),
    ]
    assert "**0.50 times** backpropagation's memory" in less_of_both(untimed)
    assert "**none** of the 1 of which both" in less_of_both(untimed)
    elsewhere = tidy(*made, {**made[0], "epochs": 120, "total_s": 1, "device": "cuda", "machine": "a GPU"})
    averaged = beside_time(held(), costs, elsewhere).iloc[0]  # seeds are averaged over devices, then paired
    assert averaged["pairs"] == 3
    assert averaged["passes"] == pytest.approx(scipy.stats.gmean(ratios / [1.1, 1.0, 1.0]))
    with pytest.raises(InvalidInput, match="two runs of mf"):
        beside_time(held(), costs, pd.concat([runs, runs.assign(key=runs["key"] + "again")]))


def test_a_prefix_of_augmented_images_has_no_passes_beside_the_memory_that_it_takes():
    table, costs = (t.assign(data="cifar10") for t in (held(), held().query("quantity == 'account'")))
    costs = costs.assign(metric="train").drop_duplicates(["algorithm", "prefix"])
    made = [
        {"algorithm": a, "seed": s, "epochs": 9 + s, "data": "cifar10"}
        for a in ("bp", "mf")
        for s in (0, 1, 2)
    ]
    found = beside_time(table, costs, tidy(*made))
    kept, recomputed = memory_or_time(found).to_numpy()
    assert kept[1:3].tolist() == ["MF, prefix kept", "5.00 (n = 2)"]
    assert set(kept[4:]) == {"not possible: images are augmented"}
    assert recomputed[4] == "1.00 (n = 3)"
    text = less_of_both(found)
    assert "5.00" not in text
    assert "of the 1 of which both" in text


@pytest.mark.parametrize(
    "name",
    ["memory", "memory_lines", "operations", "scaling", "pass_cost", "subnormals", "sensors"],
)
def test_no_hardware_to_draw_is_one_line(name):
    with pytest.raises(InvalidInput, match="to draw"):
        getattr(figures.hardware, name)(pd.DataFrame())


def test_a_title_names_the_protocol_and_the_settings_only_where_they_are_not_the_usual_ones():
    frame = pd.DataFrame({"data": ["mnist"], "architecture": ["2x8"], "protocol": ["convergence"]})
    assert figures.style.title_of(frame) == "MNIST 2x8"
    unusual = frame.assign(protocol="matched", preset="tuned", precision="bf16")
    assert figures.style.title_of(unusual) == "MNIST 2x8, protocol matched, settings tuned, precision bf16"


def test_read_outs_have_a_panel_for_each_network_and_a_point_for_each_seed():
    fixed = {"algorithm": "mf", "data": "mnist", "device": "cpu"}
    read = {"test_accuracy[layer 1]": [90.0, 92.0], "test_accuracy[sum]": [94.0, 95.0]}
    rows = [
        {**fixed, "architecture": net, "metric": metric, "seed": seed, "value": value}
        for net in ("1x8", "2x8")
        for metric, values in read.items()
        for seed, value in enumerate(values)
    ]
    again = {**rows[0], "device": "cuda", "value": 91.0}  # a seed on two devices
    panels = drawn(figures.readout_points(pd.DataFrame([*rows, again]))).axes
    assert [ax.get_title(loc="left") for ax in panels] == ["MNIST 1x8", "MNIST 2x8"]
    for ax, first in zip(panels, (90.5, 90.0), strict=True):
        assert [t.get_text() for t in ax.get_xticklabels()] == ["layer 1", "sum"]
        assert ax.lines[0].get_ydata().tolist() == [first, 92.0, 94.0, 95.0]
        assert [t.get_text() for t in ax.texts] == ["MF: n = 2"]
