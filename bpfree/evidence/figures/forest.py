"""The forest of contrasts: how far each algorithm is from BP, and whether that is a difference."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...algorithms.arms import look
from ..order import arranged
from . import style

ROW = 0.27  # inches of a contrast
#: A verdict's colour by its first word; a word that decides nothing is grey.
WORDS = {"equivalent": "#007A5A", "higher": "#B04A00", "lower": "#B04A00"}
BEYOND = 1.6  # a panel is this much wider than its differences and margin; what goes on ends in an arrow


@style.styled
def forest(contrasts: pd.DataFrame, margin: float = 0.25) -> Figure:
    """Differences of test accuracy to the baseline with their intervals, n and the verdict in words.

    Args:
        contrasts: as `bpfree.evidence.stats.contrasts` gives it. A panel per data set, network, protocol and
            preset, each with a linear axis of its own.
        margin: the equivalence margin that its verdicts were made with, in points; the shaded band.
    """
    style.require(contrasts, "contrasts")
    panel = [c for c in ("data", "architecture", "protocol", "preset") if c in contrasts]
    rows = arranged(contrasts, *panel, "algorithm")
    groups = [part for _, part in rows.groupby(panel, sort=False, dropna=False)]
    columns = 1 if len(groups) < 3 else 2
    lines = [groups[i : i + columns] for i in range(0, len(groups), columns)]
    heights = [max(map(len, line)) + 1.4 for line in lines]
    figure, axes = style.new_figure(
        columns=columns, rows=len(lines), height=0.6 + 1.25 * ROW * sum(heights), height_ratios=heights
    )
    for k, part in enumerate(groups):
        _draw_group(axes.flat[k], part, margin, lines=max(map(len, lines[k // columns])))
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    for ax in axes.flat[max(0, len(groups) - columns) : len(groups)]:  # the lowest of each column
        ax.set_xlabel("difference of test accuracy (points)")
    baselines = " and ".join(look(name).label for name in contrasts["baseline"].unique())
    style.caption(
        figure,
        f"against {baselines}, paired by seed",
        "mark and bar: mean difference and its 95 % interval, none of one seed; at an arrow it goes on",
        f"shaded: the margin of ±{margin:g} points",
        "each panel has an axis of its own",
        "the words are those of the tables, from the same tests",
    )
    style.settle(figure)
    return figure


def _draw_group(ax, part: pd.DataFrame, margin: float, lines: int) -> None:
    ax.axvspan(-margin, margin, color=style.SKY, alpha=0.25, lw=0)
    ax.axvline(0.0, color="black", lw=0.8)
    reach = BEYOND * max(margin, part["difference"].abs().max())
    ax.set_xlim(-reach, reach)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    for place, row in enumerate(part.itertuples()):
        name = row.algorithm
        if np.isfinite(row.low) and np.isfinite(row.high):
            ax.plot([row.low, row.high], [place] * 2, color=look(name).colour, lw=1.5)
            for end, arrow in ((min(row.low, row.high), "<"), (max(row.low, row.high), ">")):
                if abs(end) > reach:
                    ax.plot(
                        np.clip(end, -0.97 * reach, 0.97 * reach), place, arrow, color=look(name).colour, ms=4
                    )
        style.marks(ax, name, [row.difference], [place], ms=6, mec="white", mew=0.4)
        colour = WORDS.get(row.verdict.partition(",")[0], "#666666")
        how = {"color": colour, "fontsize": style.SMALL, "va": "center"}
        ax.annotate(_said(row), (1.02, place), xycoords=("axes fraction", "data"), **how)
    names = [textwrap.fill(look(name).label, 18) for name in part["algorithm"]]
    ax.set_yticks(range(len(part)), names, fontsize=8, linespacing=0.9)
    ax.set_ylim(lines - 0.4, -0.6)  # as tall as its neighbour's
    ax.grid(visible=False, axis="y")
    first = part.iloc[0]
    title = f"{style.data_title(first['data'])} {first['architecture']}, {first['protocol']}"
    preset = first.get("preset")
    style.name_panel(ax, textwrap.fill(title if pd.isna(preset) else f"{title}, {preset}", 30))


def _said(row) -> str:
    """The verdict, and the n that it is of; runs that ended at the cap are marked."""
    n = "" if "n =" in row.verdict or row.n == 1 else f", n = {row.n}"
    cap = getattr(row, "at_cap", "")
    return row.verdict + n + (f"\nat the cap: {cap}" if cap else "")
