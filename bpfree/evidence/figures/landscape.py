"""Figures of chapter 08: slices through the loss, the line between two solutions, sharpness and gap.

All take the tidy table of `landscape.survey` and draw their own kind of its rows, with a row of
panels for each data set, network and protocol.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...algorithms.arms import look, ordered
from ..landscape import per_run
from . import style

LOSS = "validation cross-entropy (nats)"
STEP = "step (1: as long as the weights)"


@style.styled
def slice_lines(evidence: pd.DataFrame) -> Figure:
    """Validation loss along random directions, and how far it rises above the trained weights' loss.

    A thin line per seed and direction; a thick one for their mean. What the steps add to the loss is 0 at 0.
    """
    rows = evidence[evidence["kind"] == "slice"]
    style.require(rows, "slices")
    figure, panels = _rows_of_panels(rows, 2)
    for axes, arm in panels:
        for name, own in style.by_algorithm(arm):
            mine = own.pivot_table(index="x", columns=["seed", "direction"], values="loss")
            seeds, directions = (mine.columns.unique(level).size for level in ("seed", "direction"))
            counts = f"{style.n_of(seeds)}; {directions} direction{'s' if directions > 1 else ''} each"
            for ax, values in zip(axes, (mine, mine - mine.loc[0.0]), strict=True):
                ax.plot(mine.index, values, color=look(name).colour, lw=0.6, alpha=0.3)
                label = f"{look(name).label} ({counts})"
                style.curve(ax, name, mine.index, values.mean(axis=1), ls="-", lw=1.8, label=label)
        axes[0].set(xlabel=STEP, ylabel=LOSS)
        axes[1].set(xlabel=STEP, ylabel="its rise above step 0 (nats)")
        axes[0].legend(fontsize=8)
    return figure


@style.styled
def line(evidence: pd.DataFrame) -> Figure:
    """Validation loss and accuracy on the line between two algorithms' solutions, a line per seed."""
    rows = evidence[evidence["kind"] == "line"]
    if rows.empty:
        return style.blank("no two solutions of the same parameters to lead a line between")
    ends = dict(zip((0.0, 1.0), rows["algorithm"].iloc[0].split("-"), strict=True))
    figure, panels = _rows_of_panels(rows, 2)
    metrics = {"loss": LOSS, "accuracy": "validation accuracy (%)"}
    for axes, arm in panels:
        for ax, (metric, quantity) in zip(axes, metrics.items(), strict=True):
            for _, run in arm.groupby("seed"):
                ax.plot(run["x"], run[metric], color="#888888", lw=1)
            for x, name in ends.items():
                found = arm.loc[arm["x"] == x, metric]
                label = f"{look(name).label} ({style.n_of(len(found))})"
                style.marks(ax, name, [x] * len(found), found, label=label)
            way = f"from {look(ends[0.0]).label} (0) to {look(ends[1.0]).label} (1)"
            ax.set(ylabel=quantity, xlabel=f"weights: {way}")
        axes[0].legend(fontsize=8)
    return figure


@style.styled
def plane_contours(evidence: pd.DataFrame) -> Figure:
    """Contours of the validation loss in the plane of two random directions, on one scale in each row."""
    rows = evidence[evidence["kind"] == "plane"]
    if rows.empty:
        return style.blank("a plane takes two directions: there are fewer")
    names = ordered(rows["algorithm"])
    figure, panels = _rows_of_panels(rows, len(names), height=3.5, sharex=True, sharey=True)
    for axes, arm in panels:
        losses = arm["loss"].clip(lower=1e-12)  # a loss of 0 has no place on a logarithmic scale of colours
        levels = np.geomspace(losses.min(), losses.max() * 1.001, 13)
        for ax, name in zip(axes, names, strict=True):
            mine = arm.assign(loss=losses)[arm["algorithm"] == name]
            if mine.empty:
                style.say(ax, "no run")
                continue
            grid = mine.pivot_table(index="y", columns="x", values="loss")
            filled = ax.contourf(
                grid.columns, grid.index, grid, levels=levels, norm="log", cmap="viridis_r", extend="both"
            )
            ax.contour(grid.columns, grid.index, grid, levels=levels, colors="white", linewidths=0.4)
            style.marks(ax, name, 0, 0, mec="white", ms=7)
            seeds = " and ".join(f"{seed:g}" for seed in mine["seed"].unique())
            ax.set(xlabel=f"{look(name).label}, seed {seeds}: step", aspect="equal")
            ax.grid(visible=False)
        axes[0].set_ylabel(STEP)
        bar = figure.colorbar(filled, ax=list(axes), ticks=levels[::3], format="%.2g", shrink=0.8)
        bar.ax.minorticks_off()
        bar.set_label(LOSS)
    return figure


@style.styled
def sharpness_points(evidence: pd.DataFrame) -> Figure:
    """The Hessian's largest eigenvalues, and validation minus training loss and error; a point per run.

    A grey line joins the runs of one seed.
    """
    runs = per_run(evidence)
    style.require(runs, "runs")
    columns = {
        "eigenvalue": "largest Hessian eigenvalue,\ntraining images",
        "eigenvalue_val": "largest Hessian eigenvalue,\nvalidation images",
        "loss_gap": "validation − training\nloss (nats)",
        "error_gap": "validation − training\nerror (points)",
    }
    figure, panels = _rows_of_panels(runs, len(columns), height=2.6)
    for axes, arm in panels:
        names = ordered(arm["algorithm"])
        for ax, (column, label) in zip(axes, columns.items(), strict=True):
            wide = arm.pivot(index="seed", columns="algorithm", values=column)[names]
            ax.plot(range(len(names)), wide.T, color=style.GREY, lw=0.8, zorder=1)
            for position, name in enumerate(names):
                style.marks(ax, name, [position] * len(wide), wide[name], ms=6)
            counts = [f"{look(name).label}\n{style.n_of(wide[name].notna().sum())}" for name in names]
            ax.set_xticks(range(len(names)), counts, fontsize=8)
            ax.set_xlim(-0.5, len(names) - 0.5)
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            ax.set_ylim(top=ax.get_ylim()[1] + 0.06 * np.ptp(ax.get_ylim()))  # room for a marker
            ax.set_ylabel(label)
            ax.grid(visible=False, axis="x")
    return figure


def _rows_of_panels(
    rows: pd.DataFrame, columns: int, height: float = 2.8, **options
) -> tuple[Figure, Iterator[tuple[list[Axes], pd.DataFrame]]]:
    """A figure with a titled row of panels for each arm, and each of these with the arm's rows."""
    arms = [arm for _, arm in rows.groupby(["data", "architecture", "protocol"], sort=False)]
    figure, grid = style.new_figure(columns=columns, rows=len(arms), height=height * len(arms), **options)
    names = style.told_apart(map(style.network_of, arms), map(style.title_of, arms))
    for ax, name in zip(grid[:, 0], names, strict=True):
        style.name_panel(ax, name)
    return figure, zip(grid, arms, strict=True)
