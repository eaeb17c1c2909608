"""The forest of contrasts: how far each algorithm is from BP, and whether that is a difference."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...algorithms.arms import label, look
from ..order import NETWORK, arranged
from . import style

ROW = 0.21  # inches of a contrast
#: A verdict's colour; a word that decides nothing is grey.
VERDICT_COLOURS = {"equivalent": "#007A5A", "higher": "#B04A00", "lower": "#B04A00"}
#: How far an axis may reach, in points: few lengths, so that panels can be compared. What goes on ends in an
#: arrow.
REACHES = (1, 3, 10, 30, 120)
BEYOND = 1.2  # it is this much longer than what it must show


@style.styled
def forest(contrasts: pd.DataFrame, margin: float = 0.25) -> Figure:
    """Differences of test accuracy to the baseline with their intervals, n and the verdict in words.

    Args:
        contrasts: as `bpfree.evidence.stats.contrasts` gives it. A panel per data set, network, protocol and
            preset with a row for each algorithm; of a single algorithm, a panel per network with a row for
            each protocol. Each has a linear axis, the shortest of `REACHES`.
        margin: the equivalence margin that its verdicts were made with, in points; the shaded band.
    """
    style.require(contrasts, "contrasts")
    row = "algorithm" if contrasts["algorithm"].nunique() > 1 else "protocol"
    panel = [*NETWORK, "protocol", "preset"] if row == "algorithm" else NETWORK
    panel = [c for c in panel if c in contrasts]
    groups = style.parts_of(arranged(contrasts, row), *panel)
    heights = [len(part) + 1.4 for part in groups]
    figure, axes = style.new_figure(
        rows=len(groups), height=0.8 + 1.25 * ROW * sum(heights), height_ratios=heights
    )
    for ax, part in zip(axes.flat, groups, strict=True):
        _draw_group(ax, part, row, margin)
    axes[-1, 0].set_xlabel("difference of test accuracy (points)")
    baselines = " and ".join(map(label, contrasts["baseline"].unique()))
    style.caption(
        figure,
        f"against {baselines}, paired by seed",
        "mark and bar: mean difference and its 95 % interval, none of one run; at an arrow it goes on",
        f"shaded: the margin of ±{margin:g} points",
        f"an axis reaches to {', '.join(map(str, REACHES[:3]))} or {REACHES[3]} points",
        "the words are those of the tables, from the same tests",
    )
    style.fix_layout(figure)
    return figure


def _draw_group(ax, part: pd.DataFrame, named: str, margin: float) -> None:
    ax.axvspan(-margin, margin, color=style.SKY, alpha=0.25, lw=0)
    ax.axvline(0.0, color="black", lw=0.8)
    reach = next(r for r in REACHES if r >= BEYOND * max(margin, part["difference"].abs().max()))
    ax.set_xlim(-reach, reach)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    for place, row in enumerate(part.itertuples()):
        colour = look(row.algorithm).colour
        if np.isfinite(row.low) and np.isfinite(row.high):
            ax.plot([row.low, row.high], [place] * 2, color=colour, lw=1.5)
            for end, arrow in zip(sorted((row.low, row.high)), "<>", strict=True):
                if abs(end) > reach:
                    ax.plot(np.clip(end, -0.97 * reach, 0.97 * reach), place, arrow, color=colour, ms=4)
        style.marks(ax, row.algorithm, [row.difference], [place], ms=6, mec="white", mew=0.4)
        # The verdict, and the n that it is of; runs that ended at the cap are marked.
        text = row.verdict + ("" if row.n == 1 else f", n = {row.n}")
        cap = getattr(row, "at_cap", "")
        text += f"; at the cap: {cap}" if cap else ""
        how = {"size": style.SMALL, "color": VERDICT_COLOURS.get(row.verdict, "#666666")}
        style.beside(ax, place, text, 1.03, **how)
    ax.set_ylim(-0.6, len(part) - 0.4)
    style.rows_named(ax, part[named] if named == "protocol" else part[named].map(label), fontsize=8)
    title = style.network_of(part) if named == "protocol" else style.title_of(part)
    style.name_panel(ax, textwrap.fill(title, 80))
