"""Figures of chapter 06: bytes, operations, the roofline, and resources over time."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...algorithms.arms import label, look, ordered
from ..memory import ARM_AND_PREFIX, bytes_against_bp
from ..order import NETWORK, arranged
from ..runs import MIB
from . import style

PARTS = {  # what is held -> its name and colour
    "parameters": ("parameters", style.BLUE),
    "buffers": ("buffers", style.SKY),
    "gradients": ("gradients", style.RED),
    "state": ("optimiser state", style.ORANGE),
    "graph": ("kept for backward", style.GREEN),
}
SCALED_METRICS = {
    "step_s": ("ms to update every layer once", 1e3),
    "saved_bytes": ("MiB kept for backward", 1 / MIB),
    "flops": ("MFLOP per sample", 1e-6),
}
#: Axis, and powers of x in the law: a layer more costs a layer's work; weights grow as width squared.
SWEEPS = {
    "depth": ("hidden layers", (0, 1)),
    "width": ("units a layer", (0, 1, 2)),
    "batch": ("batch size", (0, 1)),
}
HELD_LOOKS = {  # in memory, by account -> its label, colour and marker
    "account": ("account of a step's tensors", style.BLUE, "o"),
    "with_prefix": ("account with the kept prefix", style.ORANGE, "s"),
    "rss": ("resident memory of the process above its start", "black", "D"),
    "allocated": ("PyTorch's tensors on the GPU", style.GREEN, "^"),
    "reserved": ("PyTorch's allocator on the GPU", "black", "D"),
    "nvml": ("in use on the GPU (NVML) above its start", style.GREY, "v"),
}
SENSORS = {  # in the order of the bars
    "counter": ("energy counter", style.BLUE),
    "instant": ("instantaneous power, integrated", style.ORANGE),
    "average": ("averaged power, integrated", style.GREY),
}


@style.styled
def memory(accounts: pd.DataFrame) -> Figure:
    """What every stage holds: stacked parts, with a mark at the most that is ever held at one time.

    accounts: `hardware.account` of several algorithms, with the columns algorithm and stage.
    """
    style.require(accounts, "accounts")
    rows = arranged(accounts, "algorithm")
    held, places = rows[[*PARTS, "peak"]] / MIB, range(len(rows))
    figure, ((ax,),) = style.new_figure(height=1.0 + 0.3 * len(rows))
    left = np.zeros(len(rows))
    for part, (name, colour) in PARTS.items():
        if held[part].max() > 0.002 * held["peak"].max():  # less could not be seen
            ax.barh(places, held[part], left=left, color=colour, label=name, height=0.65)
            left += held[part].to_numpy()
    ax.plot(held["peak"], places, "|", color="black", ms=14, mew=2, label="peak")
    stages = zip(rows["algorithm"].map(label), rows["stage"], strict=True)
    style.rows_named(ax, [name if stage == "network" else f"{name}, {stage}" for name, stage in stages])
    ax.set_xlabel("MiB")
    ax.legend(ncols=3, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


@style.styled
def memory_lines(table: pd.DataFrame) -> Figure:
    """What training holds by several accounts, side by side: a panel per network, a line per arm.

    table: as `figures/measure/memory.py` writes it. A mark is a process of its own; beside the marks are the
        means' ratios to backpropagation's, in the legend's order.
    """
    style.require(table, "bytes")
    ratios = bytes_against_bp(table)
    networks = style.parts_of(arranged(table, "algorithm", "prefix"), *NETWORK)  # "kept" before "recomputed"
    heights = [len(part.drop_duplicates(["algorithm", "prefix"])) + 0.9 for part in networks]
    figure, axes = style.new_figure(
        rows=len(networks), height=0.9 + 0.29 * sum(heights), height_ratios=heights, sharex=True
    )
    held = [quantity for quantity in HELD_LOOKS if quantity in set(table["quantity"])]
    for ax, part in zip(axes[:, 0], networks, strict=True):
        arms = list(part.groupby(ARM_AND_PREFIX, sort=False))
        for place, (arm, rows) in enumerate(arms):
            for offset, quantity in zip(np.linspace(-0.2, 0.2, len(held)), held, strict=True):
                _, colour, marker = HELD_LOOKS[quantity]
                values = rows.loc[rows["quantity"] == quantity, "value"] / MIB
                ax.plot(values, [place + offset] * len(values), marker, color=colour, ms=4, mfc="none")
            text = "   ".join(f"×{style.ratio(ratios.loc[arm, quantity])}" for quantity in held)
            style.beside(ax, place, text)
        both = set(part.loc[part["prefix"] == "recomputed", "algorithm"])
        names = [
            f"{label(name)}{f', prefix {way}' if name in both else ''} "
            f"({style.n_of(int(ratios.loc[(*network, name, way), 'n']))})"
            for (*network, name, way), _ in arms
        ]
        style.rows_named(ax, names, fontsize=8)
        ax.grid(visible=True, axis="x")
        style.name_panel(ax, style.network_of(part))
        ax.set_xscale("log")
    style.plain_log(axes[0, 0].xaxis, table["value"].min(), table["value"].max())
    axes[-1, 0].set_xlabel("MiB (logarithmic)")
    open_mark = {"mfc": "none", "ls": "none", "ms": 5}
    marks = [Line2D([], [], color=c, marker=m, label=t, **open_mark) for t, c, m in map(HELD_LOOKS.get, held)]
    figure.legend(handles=marks, loc="outside upper center", ncols=min(3, len(held)), fontsize=8)
    style.caption(
        figure,
        "n: processes, each of one run, in random order, measured from after its data were loaded",
        "right: means as ratios to backpropagation's, in the legend's order",
        _machine(table),
    )
    return figure


@style.styled
def operations(table: pd.DataFrame) -> Figure:
    """Operations per training sample: as the papers count them, and exactly. Above a bar, its ratio to BP's.

    table: columns algorithm, paper (FLOPs), forward and backward (FLOPs, all stages once).
    """
    style.require(table, "operations")
    figure, (axes,) = style.new_figure(columns=2, height=2.6, sharey=True)
    x = range(len(table))
    paper, forward, backward = (table[column] / 1e6 for column in ("paper", "forward", "backward"))
    ends = [axes[0].bar(x, paper, color=style.GREY, width=0.65)]
    axes[1].bar(x, forward, color=style.BLUE, width=0.65, label="forward")
    ends.append(axes[1].bar(x, backward, bottom=forward, color=style.RED, width=0.65, label="backward"))
    panels = {"the papers' convention": paper, "counted": forward + backward}
    for ax, bars, (title, values) in zip(axes, ends, panels.items(), strict=True):
        for base in values[table["algorithm"] == "bp"][:1]:  # or there is none
            ax.bar_label(bars, [f"{ratio:.2f}" for ratio in values / base], fontsize=8)
        ax.set_xticks(x, table["algorithm"].map(label), rotation=30, ha="right")
        ax.grid(visible=False, axis="x")
        ax.set_title(title, fontsize=9)
    axes[0].set_ylabel("MFLOP per sample")
    axes[1].legend(fontsize=8)
    return figure


@style.styled
def scaling(frame: pd.DataFrame) -> Figure:
    """Points and fitted laws: a row of panels per metric, a column per sweep.

    frame: as figures/measure/scaling.py writes it: columns sweep ("depth", "width" or "batch"), these three,
        algorithm, metric (see `SCALED_METRICS`) and value. The lines are those of `law`.
    """
    style.require(frame, "points")
    sweeps = [s for s in SWEEPS if s in set(frame["sweep"])]
    metrics = [m for m in SCALED_METRICS if m in set(frame["metric"])]
    figure, axes = style.new_figure(columns=len(sweeps), rows=len(metrics), height=0.4 + 2.1 * len(metrics))
    present = ordered(frame["algorithm"])
    for row, metric in zip(axes, metrics, strict=True):
        title, factor = SCALED_METRICS[metric]
        for ax, sweep in zip(row, sweeps, strict=True):
            axis, powers = SWEEPS[sweep]
            swept = frame[frame["sweep"] == sweep].sort_values(sweep, kind="stable")
            for name, points in style.by_algorithm(swept[swept["metric"] == metric]):
                x, y = points[sweep].to_numpy(float), factor * points["value"].to_numpy(float)
                smooth = np.geomspace(x.min(), x.max(), 60)
                ax.plot(smooth, law(x, y, powers)(smooth), color=look(name).colour, lw=1)
                style.marks(ax, name, x, y, ms=4.5, mfc="none")
            style.logarithmic(ax)
            ax.set_xticks(swept[sweep].unique())
            ax.set_xlabel(axis)
        row[0].set_ylabel(title)
    handles = [
        Line2D([], [], color=look(n).colour, marker=look(n).marker, mfc="none", lw=1, label=label(n))
        for n in present
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)
    return figure


def law(x: np.ndarray, y: np.ndarray, powers: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """The polynomial in these powers, with coefficients of 0 or more, of least squared relative error."""
    from scipy.optimize import nnls

    basis = np.stack([x**p for p in powers], axis=1)
    coefficients, _ = nnls(basis / y[:, None], np.ones(len(y)))
    return lambda at: np.stack([at**p for p in powers], axis=-1) @ coefficients


@style.styled
def roofline_points(roof, placed: pd.DataFrame) -> Figure:
    """Every stage's step under the roof of this machine: achieved rate against operations per byte.

    roof: as `hardware.roofline` gives it; placed: `hardware.place` of several algorithms, with the column
        algorithm.
    """
    style.require(placed, "steps")
    figure, ((ax,),) = style.new_figure(height=3.0)
    ridge = roof.flops_per_s / roof.bytes_per_s
    intensity = [*placed["intensity"], ridge]
    x = np.geomspace(min(intensity) / 3, max(intensity) * 3, 100)
    ax.plot(x, [roof.limit(i) / 1e9 for i in x], color="#555555", lw=1.5)
    for name, stages in placed.groupby("algorithm", sort=False):
        style.marks(ax, name, stages["intensity"], stages["rate"] / 1e9, ms=6, label=label(name))
        for stage in stages.itertuples() if len(stages) > 1 else ():
            style.annotate(ax, (stage.intensity, stage.rate / 1e9), stage.stage, (6, -3))
    style.annotate(ax, (x[0], roof.limit(x[0]) / 1e9), "memory", (4, 10), 8)
    style.annotate(ax, (x[-1], roof.flops_per_s / 1e9), "multiplication", (-4, 4), 8, ha="right")
    style.logarithmic(ax)
    ax.set(xlabel="operations per byte moved", ylabel="GFLOP per second")
    ax.legend(fontsize=8, loc="lower right")
    threads = f", {_threads(roof.threads)}" if roof.device == "cpu" else ""
    ax.set_title(f"float32 on {roof.device}{threads}", fontsize=9)
    return figure


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"


def _machine(table: pd.DataFrame) -> str:
    return f"{table['machine'].iloc[0]}, {_threads(table['threads'].iloc[0])}"


@style.styled
def pass_cost(table: pd.DataFrame) -> Figure:
    """What a pass over the data costs: microseconds an image, training and validating; a row per network.

    table: as `figures/measure/pass_cost.py` writes it, or wrote it before it counted windows (column n).
        Beside each bar is its ratio to backpropagation's, if that is there.
    """
    style.require(table, "costs of a pass")
    networks = [part for _, part in table.groupby(NETWORK, sort=False)]
    heights = [len(part.drop_duplicates(["algorithm", "prefix"])) + 1.2 for part in networks]
    titles = {"train": "training a stage (µs an image)", "val": "validating it (µs an image)"}
    figure, axes = style.new_figure(
        columns=2, rows=len(networks), height=0.4 + 0.3 * sum(heights), height_ratios=heights, sharey="row"
    )
    for panels, part in zip(axes, networks, strict=True):
        part = arranged(part, "algorithm", "prefix")  # "kept" before "recomputed"
        wide = part.pivot_table(index=["algorithm", "prefix"], columns="metric", values="value", sort=False)
        for ax, (metric, title) in zip(panels, titles.items(), strict=True):
            base = wide[metric].get(("bp", "kept"))
            for place, ((name, way), value) in enumerate(wide[metric].items()):
                ax.barh(place, value, height=0.6, **style.bar(name, filled=way != "recomputed"))
                if base is not None:
                    style.annotate(ax, (value, place), f"×{style.ratio(value / base)}", va="center")
            ax.set_xlim(0, 1.18 * wide[metric].max())
            ax.grid(visible=False, axis="y")
            ax.set_xlabel(title)
        ways = [label(name) + (f", {way}" if way == "recomputed" else "") for name, way in wide.index]
        style.rows_named(panels[0], ways, fontsize=8)
        panels[0].set_title(f"images as of {style.network_of(part)}", loc="left", fontsize=9)
    in_turns = "training: means of windows, in turns with backpropagation's,"
    style.caption(
        figure,
        "open bars: the frozen layers below are computed again for every batch; elsewhere they are kept",
        f"{in_turns if 'n' in table else 'each measured once'} on {_machine(table)}",
    )
    return figure


@style.styled
def subnormals(table: pd.DataFrame) -> Figure:
    """Seconds of every pass, with subnormal numbers taken for zero and without.

    table: as `figures/measure/subnormals.py` writes it. A sequential algorithm's stages follow each other.
    """
    style.require(table, "passes")
    figure, ((ax,),) = style.new_figure(height=3.0)
    for (name, way), run in table.groupby(["algorithm", "subnormal"], sort=False):
        for number, (_, stage) in enumerate(run.groupby("stage", sort=False)):
            words = f"{label(name)}, {'taken for zero' if way == 'zero' else 'kept'}"
            how = {"ls": "-" if way == "zero" else ":", "label": None if number else words}
            style.curve(ax, name, stage["pass"], stage["value"], lw=1.5, **how)
    ax.set(xlabel="passes over the data", ylabel="seconds of a training pass", ylim=(0, None))
    small = {"fontsize": 8, "title_fontsize": 8}
    figure.legend(title="subnormal numbers", loc="outside upper center", ncols=4, **small)
    ax.set_title(style.network_of(table), loc="left", fontsize=9)
    style.caption(figure, "one run of each", _machine(table))
    return figure


@style.styled
def sensors(table: pd.DataFrame) -> Figure:
    """Mean power by each of a GPU's sensors while it does one thing after the other.

    table: as `figures/measure/sensors.py` writes it. Beside the bars is their share of the counter's energy.
    """
    style.require(table, "sensors")
    wide = table.pivot(index="phase", columns="sensor", values="joules").loc[table["phase"].unique()]
    wide = wide.reindex(columns=list(SENSORS))  # a card may lack one
    seconds = table.drop_duplicates("phase").set_index("phase")["seconds"]
    figure, ((ax,),) = style.new_figure(height=0.9 + 0.62 * len(wide))
    for offset, (sensor, (name, colour)) in zip((-0.27, 0.0, 0.27), SENSORS.items(), strict=True):
        watts, shares = wide[sensor] / seconds, 100 * wide[sensor] / wide["counter"]
        how = {"height": 0.25, "color": colour, "ec": "black", "lw": 0.4, "label": name}
        bars = ax.barh(np.arange(len(wide)) + offset, watts, **how)
        texts = watts.map("{:.0f} W".format)
        if sensor != "counter":
            texts += shares.map(lambda share: f", {share:.0f} %" if np.isfinite(share) else "")
        ax.bar_label(bars, texts, padding=4, fontsize=style.SMALL)
    style.rows_named(ax, wide.index)
    ax.set_xlim(0, 1.2 * (wide.max(axis=1) / seconds).max())
    ax.set_xlabel("mean power (W)")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    card, driver = table[["card", "driver"]].iloc[0]
    period = table.loc[table["sensor"] == "counter", "update_ms"].median()
    fresh = f"the counter has a new value every {period:.0f} ms" if np.isfinite(period) else ""
    once = f"one window of {seconds.min():.0f} to {seconds.max():.0f} s of each kind of work, none repeated"
    style.caption(figure, "%: of the energy by the counter", once, f"{card}, driver {driver}", fresh)
    return figure
