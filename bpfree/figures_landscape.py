"""Figures of chapter 08: slices through the loss, the line between two solutions, sharpness and gap.

All take the tidy table of `bpfree.landscape.evidence`, of one data set and network, and draw their own kind
of rows.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .figures import _figure, _present, _title
from .labels import COLOURS, LABELS, MARKERS
from .landscape import overview

LOSS = "validation cross-entropy (nats)"
STEP = "step (1: as long as the weights)"


def slices(evidence: pd.DataFrame) -> Figure:
    """Validation loss along random directions, and how far it rises above the trained weights' loss.

    A thin line per seed and direction; a thick one for their mean.
    """
    rows = evidence[evidence["kind"] == "slice"]
    figure, (axes,) = _figure(columns=2)
    for name in _present(rows):
        mine = rows[rows["algorithm"] == name].pivot_table(
            index="x", columns=["seed", "direction"], values="loss"
        )
        for ax, values in zip(axes, (mine, mine - mine.loc[0.0]), strict=True):
            ax.plot(mine.index, values, color=COLOURS[name], lw=0.6, alpha=0.3)
            ax.plot(mine.index, values.mean(axis=1), color=COLOURS[name], lw=1.8, label=LABELS[name])
    for ax, label in zip(axes, (LOSS, "its rise above step 0 (nats)"), strict=True):
        ax.set(xlabel=STEP, ylabel=label)
    axes[0].legend(frameon=False)
    figure.suptitle(_title(rows), fontsize=9)
    return figure


def line(evidence: pd.DataFrame) -> Figure:
    """Validation loss and accuracy on the line between two algorithms' solutions, a line per seed."""
    rows = evidence[evidence["kind"] == "line"]
    figure, (axes,) = _figure(columns=2)
    ends = dict(zip((0.0, 1.0), rows["algorithm"].iloc[0].split("-"), strict=True))
    for ax, metric, label in zip(axes, ("loss", "accuracy"), (LOSS, "validation accuracy (%)"), strict=True):
        for _, run in rows.groupby("seed"):
            ax.plot(run["x"], run[metric], color="#888888", lw=1)
        for x, name in ends.items():
            found = rows.loc[rows["x"] == x, metric]
            ax.plot([x] * len(found), found, MARKERS[name], color=COLOURS[name], ms=6, label=LABELS[name])
        ax.set(ylabel=label, xlabel=f"weights: from {LABELS[ends[0.0]]} (0) to {LABELS[ends[1.0]]} (1)")
    axes[0].legend(frameon=False)
    figure.suptitle(_title(rows), fontsize=9)
    return figure


def plane(evidence: pd.DataFrame) -> Figure:
    """Contours of the validation loss in the plane of two random directions, on one scale for all."""
    rows = evidence[evidence["kind"] == "plane"]
    names = _present(rows)
    figure, (axes,) = _figure(columns=len(names), height=3.5, sharex=True, sharey=True)
    levels = np.geomspace(rows["loss"].min(), rows["loss"].max() * 1.001, 13)
    for ax, name in zip(axes, names, strict=True):
        grid = rows[rows["algorithm"] == name].pivot_table(index="y", columns="x", values="loss")
        filled = ax.contourf(
            grid.columns, grid.index, grid, levels=levels, norm="log", cmap="viridis_r", extend="both"
        )
        ax.contour(grid.columns, grid.index, grid, levels=levels, colors="white", linewidths=0.4)
        ax.plot(0, 0, MARKERS[name], color=COLOURS[name], mec="white", ms=7)
        ax.set(title=LABELS[name], xlabel=STEP, aspect="equal")
        ax.grid(visible=False)
    axes[0].set_ylabel(STEP)
    bar = figure.colorbar(filled, ax=axes, ticks=levels[::3], format="%.2g")
    bar.ax.minorticks_off()
    bar.set_label(LOSS)
    figure.suptitle(_title(rows), fontsize=9)
    return figure


def sharpness(evidence: pd.DataFrame) -> Figure:
    """The Hessian's largest eigenvalue, and validation minus training loss and error; a point per run.

    A grey line joins the runs of one seed.
    """
    runs = overview(evidence)
    names = _present(runs)
    figure, (axes,) = _figure(columns=3, height=2.6)
    panels = {
        "eigenvalue": "largest Hessian eigenvalue",
        "loss_gap": "validation − training loss (nats)",
        "error_gap": "validation − training error (pp)",
    }
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        wide = runs.pivot(index="seed", columns="algorithm", values=column)[names]
        ax.plot(range(len(names)), wide.T, color="#BBBBBB", lw=0.8, zorder=1)
        for position, name in enumerate(names):
            ax.plot([position] * len(wide), wide[name], MARKERS[name], color=COLOURS[name], ms=6)
        ax.set_xticks(range(len(names)), [LABELS[name] for name in names])
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.margins(y=0.1)
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.set_title(title, fontsize=9)
        ax.grid(visible=False, axis="x")
    figure.suptitle(_title(runs), fontsize=9)
    return figure
