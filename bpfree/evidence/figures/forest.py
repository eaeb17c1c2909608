"""The forest of contrasts: how far each algorithm is from BP, and whether that is a difference."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...algorithms.arms import look
from ..order import arranged
from . import style

ROW = 0.27  # inches of a contrast
VERDICT_COLOURS = {"EQUIVALENT": "#007A5A", "DIFFERENT": "#B04A00", "INCONCLUSIVE": "#666666"}


@style.styled
def forest(contrasts: pd.DataFrame, margin: float = 0.25) -> Figure:
    """Differences of test accuracy to the baseline with their intervals, and the verdict in words.

    Args:
        contrasts: as `bpfree.evidence.stats.contrasts` gives it. A panel per data set, network and protocol.
        margin: the equivalence margin that its verdicts were made with, in points; the shaded band.

    The axis is linear within twice the margin and logarithmic beyond it where a difference is much larger.
    """
    style.require(contrasts, "contrasts")
    panel = ["data", "architecture", "protocol"]
    rows = arranged(contrasts, *panel, "algorithm")
    groups = [part for _, part in rows.groupby(panel, sort=False)]
    columns = 1 if len(groups) < 3 else 2
    lines = [groups[i : i + columns] for i in range(0, len(groups), columns)]
    heights = [max(map(len, line)) + 1.4 for line in lines]
    figure, axes = style.new_figure(
        columns=columns, rows=len(lines), height=0.6 + ROW * sum(heights), sharex=True, height_ratios=heights
    )
    for k, part in enumerate(groups):
        _draw_group(axes.flat[k], part, margin, lines=max(map(len, lines[k // columns])))
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    ends = contrasts[["difference", "low", "high"]].to_numpy(float)
    low, high = min(np.nanmin(ends), -2 * margin), max(np.nanmax(ends), 2 * margin)
    far = max(-low, high)
    if far > 40 * margin:
        axes[0, 0].set_xscale("symlog", linthresh=2 * margin)
        decades = [10.0**k for k in range(-1, 3) if 2 * margin <= 10.0**k < far]
        axes[0, 0].set_xticks([*(-d for d in reversed(decades)), 0.0, *decades])
        axes[0, 0].xaxis.set_major_formatter("{x:g}")
    # On the logarithmic part a mark's width is a factor.
    beyond, room = (2.0, 0.0) if far > 40 * margin else (1.1, 0.05 * (high - low))
    axes[0, 0].set_xlim(beyond * low - room, beyond * high + room)
    for ax in axes.flat[max(0, len(groups) - columns) : len(groups)]:  # the lowest of each column
        ax.set_xlabel("difference of test accuracy (points)")
        ax.tick_params(labelbottom=True)
    baselines = " and ".join(look(name).label for name in contrasts["baseline"].unique())
    n = sorted({contrasts["n"].min(), contrasts["n"].max()})
    style.caption(
        figure,
        f"against {baselines}, paired by seed, n = {' to '.join(map(str, n))}",
        "mark and bar: mean difference and its 95 % bootstrap interval",
        f"shaded: the margin of ±{margin:g} points",
        "DIFFERENT by paired t-test (Holm), EQUIVALENT by two one-sided t-tests, INCONCLUSIVE by neither",
    )
    return figure


def _draw_group(ax, part: pd.DataFrame, margin: float, lines: int) -> None:
    ax.axvspan(-margin, margin, color=style.SKY, alpha=0.25, lw=0)
    ax.axvline(0.0, color="black", lw=0.8)
    for place, row in enumerate(part.itertuples()):
        name = row.algorithm
        if np.isfinite(row.low) and np.isfinite(row.high):
            ax.plot([row.low, row.high], [place] * 2, color=look(name).colour, lw=1.5)
        style.marks(ax, name, [row.difference], [place], ms=6, mec="white", mew=0.4)
        how = {"color": VERDICT_COLOURS.get(row.verdict, "black"), "fontsize": style.SMALL, "va": "center"}
        ax.annotate(row.verdict, (1.02, place), xycoords=("axes fraction", "data"), **how)
    names = [textwrap.fill(look(name).label, 18) for name in part["algorithm"]]
    ax.set_yticks(range(len(part)), names, fontsize=8, linespacing=0.9)
    ax.set_ylim(lines - 0.4, -0.6)  # as tall as its neighbour's
    ax.grid(visible=False, axis="y")
    first = part.iloc[0]
    title = f"{style.dataset(first['data'])} {first['architecture']}, {first['protocol']}"
    ax.set_title(title, loc="left", fontsize=9)
