"""Figures of chapter 06: bytes, operations, the roofline, and resources over time."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.optimize import nnls

from ...algorithms.arms import look, ordered
from . import _figure, caption, dataset, require, styled

MIB = 2**20
PARTS = {  # Okabe and Ito's colours again, here for what is held
    "parameters": "#0072B2",
    "buffers": "#56B4E9",
    "gradients": "#D55E00",
    "state": "#E69F00",
    "graph": "#009E73",
}
PART_LABELS = {"state": "optimiser state", "graph": "kept for backward"}
GROUP_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#BBBBBB")
METRICS = {
    "step_s": ("ms to update every layer once", 1e3),
    "saved_bytes": ("MiB kept for backward", 1 / MIB),
    "flops": ("MFLOP per sample", 1e-6),
}
SWEEPS = {"depth": "hidden layers", "width": "units a layer", "batch": "batch size"}
#: The powers of x in each sweep's law: a layer more costs a layer's work; weights grow as width squared.
LAWS = {"depth": (0, 1), "width": (0, 1, 2), "batch": (0, 1)}
SENSORS = {"counter": "#0072B2", "instant": "#E69F00", "average": "#BBBBBB"}
SENSOR_LABELS = {
    "counter": "energy counter",
    "instant": "instantaneous power, integrated",
    "average": "averaged power, integrated",
}
QUANTITIES = {  # of a trace, in the order of the panels: (label, factor)
    "utilisation": ("utilisation (%)", 1.0),
    "sm_clock": ("clock (MHz)", 1.0),
    "temperature": ("temperature (°C)", 1.0),
    "memory": ("memory in use (MiB)", 1 / MIB),
    "rss": ("resident memory (MiB)", 1 / MIB),
    "power": ("power (W)", 1.0),
}


@styled
def memory(accounts: pd.DataFrame) -> Figure:
    """What every stage holds: stacked parts, with a mark at the most that is ever held at one time.

    accounts: `hardware.account` of several algorithms, with the columns algorithm and stage.
    """
    require(accounts, "accounts")
    rows = accounts.assign(order=accounts["algorithm"].map(lambda name: look(name).place)).sort_values(
        "order", kind="stable"
    )
    figure, ((ax,),) = _figure(height=1.0 + 0.3 * len(rows))
    left = np.zeros(len(rows))
    for part, colour in PARTS.items():
        width = rows[part].to_numpy() / MIB
        if width.max() > 0.002 * rows["peak"].max() / MIB:
            ax.barh(
                range(len(rows)),
                width,
                left=left,
                color=colour,
                label=PART_LABELS.get(part, part),
                height=0.65,
            )
        left += width
    ax.plot(rows["peak"] / MIB, range(len(rows)), "|", color="black", ms=14, mew=2, label="peak")
    ax.set_yticks(range(len(rows)), [_stage(row) for _, row in rows.iterrows()])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("MiB")
    ax.legend(ncols=3, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def operations(table: pd.DataFrame) -> Figure:
    """Operations per training sample: as the papers count them, and exactly. Above a bar, its ratio to BP's.

    table: columns algorithm, paper (FLOPs), forward and backward (FLOPs, all stages once).
    """
    require(table, "operations")
    figure, (axes,) = _figure(columns=2, height=2.6, sharey=True)
    exact = table["forward"] + table["backward"]
    is_base = (table["algorithm"] == "bp").to_numpy()
    x = range(len(table))
    axes[0].bar(x, table["paper"] / 1e6, color="#BBBBBB", width=0.65)
    axes[1].bar(x, table["forward"] / 1e6, color="#0072B2", width=0.65, label="forward")
    axes[1].bar(
        x,
        table["backward"] / 1e6,
        bottom=table["forward"] / 1e6,
        color="#D55E00",
        width=0.65,
        label="backward",
    )
    for ax, values, title in zip(
        axes, (table["paper"], exact), ("the papers' convention", "counted"), strict=True
    ):
        for i, value in enumerate(values if is_base.any() else ()):
            text = f"{value / values[is_base].iloc[0]:.2f}"
            ax.annotate(text, (i, value / 1e6), ha="center", va="bottom", fontsize=8)
        ax.set_xticks(x, [look(name).label for name in table["algorithm"]], rotation=30, ha="right")
        ax.grid(visible=False, axis="x")
        ax.set_title(title, fontsize=9)
    axes[0].set_ylabel("MFLOP per sample")
    axes[1].legend(fontsize=8, frameon=False)
    return figure


@styled
def scaling(frame: pd.DataFrame) -> Figure:
    """Points and fitted laws: a row of panels per metric, a column per sweep.

    frame: columns sweep ("depth", "width" or "batch"), these three, algorithm, metric (see `METRICS`), value;
        as tests/benchmarks/scaling.py writes it. The laws are polynomials with coefficients of 0 or more,
        fitted to the relative error (`law`).
    """
    require(frame, "points")
    sweeps = [s for s in SWEEPS if s in set(frame["sweep"])]
    metrics = [m for m in METRICS if m in set(frame["metric"])]
    figure, axes = _figure(columns=len(sweeps), rows=len(metrics), height=0.4 + 2.1 * len(metrics))
    present = ordered(frame["algorithm"])
    for row, metric in zip(axes, metrics, strict=True):
        title, factor = METRICS[metric]
        for ax, sweep in zip(row, sweeps, strict=True):
            for name in present:
                mine = (frame["sweep"] == sweep) & (frame["metric"] == metric) & (frame["algorithm"] == name)
                points = frame[mine].sort_values(sweep)
                x, y = points[sweep].to_numpy(float), factor * points["value"].to_numpy(float)
                smooth = np.geomspace(x.min(), x.max(), 60)
                ax.plot(smooth, law(x, y, LAWS[sweep])(smooth), color=look(name).colour, lw=1)
                ax.plot(x, y, look(name).marker, color=look(name).colour, ms=4.5, mfc="none")
            logarithmic(ax)
            ax.set_xticks(sorted(set(frame.loc[frame["sweep"] == sweep, sweep])))
            ax.set_xlabel(SWEEPS[sweep])
        row[0].set_ylabel(title)
    handles = [
        Line2D([], [], color=look(n).colour, marker=look(n).marker, mfc="none", lw=1, label=look(n).label)
        for n in present
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def logarithmic(ax) -> None:
    """Both axes, labelled at 1, 2 and 5 of every decade, so that a short one has labels, too."""
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def law(x: np.ndarray, y: np.ndarray, powers: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """The polynomial in these powers, with coefficients of 0 or more, of least squared relative error."""
    basis = np.stack([x**p for p in powers], axis=1)
    coefficients, _ = nnls(basis / y[:, None], np.ones(len(y)))
    return lambda at: np.stack([at**p for p in powers], axis=-1) @ coefficients


@styled
def roofline(roof, placed: pd.DataFrame) -> Figure:
    """Every stage's step under the roof of this machine: achieved rate against operations per byte.

    roof: as `hardware.roofline` gives it; placed: `hardware.place` of several algorithms, with the column
        algorithm.
    """
    require(placed, "steps")
    figure, ((ax,),) = _figure(height=3.0)
    ridge = roof.flops_per_s / roof.bytes_per_s
    x = np.geomspace(
        min(placed["intensity"].min(), ridge) / 3, max(placed["intensity"].max(), ridge) * 3, 100
    )
    ax.plot(x, [roof.limit(i) / 1e9 for i in x], color="#555555", lw=1.5)
    for name, stages in placed.groupby("algorithm", sort=False):
        ax.plot(
            stages["intensity"],
            stages["rate"] / 1e9,
            look(name).marker,
            color=look(name).colour,
            ms=6,
            label=look(name).label,
        )
    ax.annotate(
        "memory", (x[0], roof.limit(x[0]) / 1e9), xytext=(4, 10), textcoords="offset points", fontsize=8
    )
    ax.annotate(
        "multiplication",
        (x[-1], roof.flops_per_s / 1e9),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    logarithmic(ax)
    ax.set(xlabel="operations per byte moved", ylabel="GFLOP per second")
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    threads = f"{roof.threads} thread{'s' if roof.threads > 1 else ''}"
    ax.set_title(f"float32 on {roof.device}" + (f", {threads}" if roof.device == "cpu" else ""), fontsize=9)
    return figure


@styled
def step(profiles: pd.DataFrame) -> Figure:
    """Where the milliseconds of one step go, a bar per stage.

    profiles: `hardware.profile_step` of several algorithms, with the column algorithm.
    """
    require(profiles, "steps")
    bars = profiles.pivot_table(index=["algorithm", "stage"], columns="group", values="ms", sort=False)
    figure, ((ax,),) = _figure(height=1.1 + 0.3 * len(bars))
    left = np.zeros(len(bars))
    for group, colour in zip(profiles["group"].drop_duplicates(), GROUP_COLOURS, strict=False):
        ax.barh(range(len(bars)), bars[group].fillna(0.0), left=left, color=colour, label=group, height=0.65)
        left += bars[group].fillna(0.0).to_numpy()
    ax.set_yticks(range(len(bars)), [_stage({"algorithm": a, "stage": s}) for a, s in bars.index])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("ms of a step")
    ax.legend(ncols=3, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def _stage(row) -> str:
    label = look(row["algorithm"]).label
    return label if row["stage"] == "network" else f"{label}, {row['stage']}"


@styled
def pass_cost(table: pd.DataFrame) -> Figure:
    """What a pass over the data costs: microseconds an image, training and validating; a row per network.

    table: as `tests/benchmarks/pass_cost.py` writes it. Beside each bar is its ratio to backpropagation's, if
        that is there.
    """
    require(table, "costs of a pass")
    networks = [part for _, part in table.groupby(["data", "architecture"], sort=False)]
    heights = [len(part.drop_duplicates(["algorithm", "prefix"])) + 1.2 for part in networks]
    titles = {"train": "training a stage (µs an image)", "val": "validating it (µs an image)"}
    figure, axes = _figure(
        columns=2, rows=len(networks), height=0.4 + 0.3 * sum(heights), height_ratios=heights, sharey="row"
    )
    for line, part in zip(axes, networks, strict=True):
        wide = part.pivot(index=["algorithm", "prefix"], columns="metric", values="value")
        wide = wide.loc[sorted(wide.index, key=lambda arm: (look(arm[0]).place, arm[1] == "recomputed"))]
        for ax, (metric, title) in zip(line, titles.items(), strict=True):
            _ratio_bars(ax, wide[metric], wide[metric].get(("bp", "kept")))
            ax.set_xlabel(title)
        ways = [f"{look(n).label}, recomputed" if w == "recomputed" else look(n).label for n, w in wide.index]
        line[0].set_yticks(range(len(wide)), ways, fontsize=8)
        line[0].invert_yaxis()
        data, network = part[["data", "architecture"]].iloc[0]
        line[0].set_title(f"images as of {dataset(data)}, {network}", loc="left", fontsize=9)
    threads = table["threads"].iloc[0]
    caption(
        figure,
        "hatched: the frozen layers below are computed again for every batch; elsewhere they are kept",
        f"{table['machine'].iloc[0]}, {threads} thread{'s' if threads > 1 else ''}",
    )
    return figure


@styled
def subnormals(table: pd.DataFrame) -> Figure:
    """Seconds of every pass, with subnormal numbers taken for zero and without.

    table: as `tests/benchmarks/subnormals.py` writes it. A sequential algorithm's stages follow each other.
    """
    require(table, "passes")
    figure, ((ax,),) = _figure(height=3.0)
    for (name, way), run in table.groupby(["algorithm", "subnormal"], sort=False):
        style = "-" if way == "zero" else ":"
        for number, (_, stage) in enumerate(run.groupby("stage", sort=False)):
            label = f"{look(name).label}, taken for zero" if way == "zero" else f"{look(name).label}, kept"
            label = label if number == 0 else None
            dot = "." if len(stage) == 1 else "none"
            ax.plot(
                stage["pass"], stage["value"], style, color=look(name).colour, lw=1.5, label=label, marker=dot
            )
    ax.set(xlabel="passes over the data", ylabel="seconds of a training pass", ylim=(0, None))
    figure.legend(
        title="subnormal numbers", loc="outside upper center", ncols=4, fontsize=8, title_fontsize=8
    )
    data, network = table[["data", "architecture"]].iloc[0]
    ax.set_title(f"{dataset(data)}, {network}", loc="left", fontsize=9)
    threads = table["threads"].iloc[0]
    caption(figure, f"{table['machine'].iloc[0]}, {threads} thread{'s' if threads > 1 else ''}")
    return figure


@styled
def sensors(table: pd.DataFrame) -> Figure:
    """Mean power by each of a GPU's sensors while it does one thing after the other.

    table: as `tests/benchmarks/sensors.py` writes it. Beside the bars is their share of the counter's energy.
    """
    require(table, "sensors")
    wide = table.pivot(index="phase", columns="sensor", values="joules").loc[table["phase"].unique()]
    wide = wide.reindex(columns=list(SENSORS))  # a card may lack one
    seconds = table.drop_duplicates("phase").set_index("phase")["seconds"]
    figure, ((ax,),) = _figure(height=0.9 + 0.62 * len(wide))
    for offset, (sensor, colour) in zip((-0.27, 0.0, 0.27), SENSORS.items(), strict=True):
        watts = wide[sensor] / seconds
        places = np.arange(len(wide)) + offset
        ax.barh(places, watts, height=0.25, color=colour, ec="black", lw=0.4, label=SENSOR_LABELS[sensor])
        for place, power, share in zip(places, watts, wide[sensor] / wide["counter"], strict=True):
            if np.isnan(power):
                continue
            known = sensor != "counter" and np.isfinite(share)
            text = f"{power:.0f} W" + (f", {100 * share:.0f} %" if known else "")
            beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(text, (power, place), fontsize=7, **beside)
    ax.set_yticks(range(len(wide)), wide.index)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.2 * (wide.max(axis=1) / seconds).max())
    ax.set_xlabel("mean power (W); of the counter's energy (%)")
    ax.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    card, driver = table[["card", "driver"]].iloc[0]
    period = table.loc[table["sensor"] == "counter", "update_ms"].median()
    fresh = f"the counter has a new value every {period:.0f} ms" if np.isfinite(period) else ""
    caption(figure, f"{card}, driver {driver}", fresh)
    return figure


def _ratio_bars(ax, values: pd.Series, base: float | None) -> None:
    for place, ((name, way), value) in enumerate(values.items()):
        hatch = "////" if way == "recomputed" else None
        ax.barh(
            place, value, height=0.6, color=look(name).colour, alpha=0.55, hatch=hatch, ec=look(name).colour
        )
        if base is None:
            continue
        ratio = value / base
        ax.annotate(
            f"×{ratio:.2f}" if ratio >= 0.1 else f"×{ratio:.2g}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    ax.set_xlim(0, 1.18 * values.max())
    ax.grid(visible=False, axis="y")
