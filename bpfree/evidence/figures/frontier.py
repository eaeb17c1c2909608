"""What a budget buys: accuracy against cost, with the front that nothing beats, and what a target costs."""

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...algorithms.arms import label, look
from ...errors import choose
from .. import frontier
from ..order import NETWORK
from ..tables.text import span
from . import style

MOST = 4  # panels
FRONT = {"color": style.GREY, "lw": 4, "alpha": 0.6}


@style.styled
def accuracy_against_cost(points: pd.DataFrame, cost: str = "flop") -> Figure:
    """Test accuracy against what a budget costs: a line per arm, its seeds' spread, and the Pareto front.

    Args:
        points: as `evidence.frontier.points` gives it; a panel per network, four at most.
        cost: "flop", "s", "measured_j" or "estimated_j". A budget is drawn at what it costs a run that has
            its machine to itself (`evidence.frontier.bill`); its accuracy is of all seeds.
    """
    style.require(points, "runs on a budget")
    paid, unit, size, obtained = frontier.COSTS[choose("cost", cost, frontier.COSTS)]
    axis = f"{paid} of training ({unit})"
    means, runs = frontier.means(points, cost), frontier.bill(points, cost, "count")
    if means.empty:
        return style.blank(f"no run has a cost of its own in {axis}")
    panels = [part for _, part in means.groupby(NETWORK, sort=False)][:MOST]
    figure, axes = style.panel_grid(len(panels), margin=1.0, row=2.7)
    for ax, part in zip(axes.flat, panels, strict=False):
        shown = own if len(own := frontier.with_budget(part)) else part
        low, high = (shown["mean"] - shown["sd"]).min(), (part["mean"] + part["sd"]).max()
        room = 0.06 * (high - low) or 1.0
        floor = low - 1.5 * room
        ax.set_ylim(floor, high + room)  # what is solved may lie far below
        front = part[part["front"]].sort_values("cost")
        ax.step(front["cost"] / size, front["mean"], where="post", zorder=1, **FRONT)
        for name, arm in part.groupby("algorithm", sort=False):
            arm = arm.sort_values("cost")
            x, y, colour = arm["cost"] / size, arm["mean"], look(name).colour
            ax.fill_between(x, y - arm["sd"], y + arm["sd"], color=colour, alpha=0.15, lw=0)
            drawn = {"marker": look(name).marker, "ms": 4.5, "mec": "white", "mew": 0.4}
            if y.max() < floor:  # at the edge, and says its number
                style.annotate(ax, (x.iloc[-1], floor), f"↓ {y.max():.1f} %", (4, 3), color=colour)
                y, drawn["clip_on"] = [floor] * len(arm), False
            style.curve(ax, name, x, y, lw=1.3, **drawn)
        ax.set_xscale("log")
        style.plain_log(ax.xaxis, *ax.get_xlim())
        ax.set(xlabel=axis, ylabel="test accuracy (%)")
        counts = part.groupby("algorithm", sort=False)["n"].agg(lambda n: span(n, 0))
        counts = "n\u00a0=\u00a0" + counts  # which no line breaks
        said = "; ".join(f"{look(name).label}: {n}" for name, n in counts.items())
        if len(counts) > 1 and counts.nunique() == 1:
            said = f"{counts.iloc[0]} each"
        if cost != "flop":
            priced = part.merge(runs.rename("priced").reset_index())["priced"]
            said += f"; of {paid}, n\u00a0=\u00a0{span(priced, 0)}"
        counted = textwrap.fill(said, 105 // axes.shape[1])
        style.name_panel(ax, style.network_of(part, " "), counted)
    front = Line2D([], [], label="front: nothing cheaper is better", **FRONT)
    style.legend(figure, means["algorithm"], extra=[front])
    style.caption(
        figure,
        "a mark is a budget of passes that was fixed in advance, the rate falling to zero; of what is "
        "solved, one pass for each layer; ↓: far below; mean over n seeds",
        "band: sample standard deviation",
        f"{obtained}; {frontier.WHAT_IS_COUNTED}",
    )
    return figure


@style.styled
def cost_of_targets(points: pd.DataFrame, cost: str = "flop") -> Figure:
    """What each target costs every arm, as a ratio to the cheapest backpropagation, with its interval.

    points, cost: as of `accuracy_against_cost`. A panel per network and target.
    """
    style.require(points, "runs on a budget")
    obtained = frontier.COSTS[choose("cost", cost, frontier.COSTS)].obtained
    table = frontier.to_target(points, cost)
    groups = [part for _, part in table.groupby([*NETWORK, "target"], sort=False)][: 2 * MOST]
    figure, axes = style.panel_grid(len(groups), margin=0.9, row=0.75 + 0.24 * max(map(len, groups)))
    figure.get_layout_engine().set(wspace=0.12)
    known = table[["ratio", "high"]].to_numpy()
    end = 1.1 * min(3.0, known[np.isfinite(known)].max(initial=1.0))
    for ax, part in zip(axes.flat, groups, strict=False):
        for place, row in enumerate(part.itertuples()):
            text = f"n = {row.n}" + (f", {row.misses} never" if row.misses else "")
            if math.isfinite(row.ratio):
                ax.barh(place, row.ratio, height=0.6, **style.bar(row.algorithm))
                if math.isfinite(row.low) and row.high > row.low:
                    ax.plot([row.low, min(row.high, 1e3)], [place] * 2, color="black", lw=1.0)
                text = f"{style.ratio(row.ratio)}, {text}"
            elif not math.isnan(row.ratio):
                text = f"not reached, {text}"
            style.beside(ax, place, text, size=7)
        ax.axvline(1.0, color="black", lw=0.8)
        ax.set_xlim(0, end)
        ax.set_ylim(-0.6, len(part) - 0.4)
        style.rows_named(ax, part["algorithm"].map(label), fontsize=8)
        accuracy, target = part[["accuracy", "target"]].iloc[0]
        style.name_panel(ax, style.network_of(part, " "), f"{target}: {accuracy:.2f} %")
    for ax in axes.flat[: len(groups)][-axes.shape[1] :]:
        ax.set_xlabel("cost (× cheapest backpropagation)")
    style.caption(
        figure,
        "bar: cost of the smallest budget that reaches the target on validation data, median over n seeds, "
        "as a ratio to the cheapest arm of backpropagation",
        "line: its 95 % interval, by a bootstrap over seeds; none of fewer than "
        f"{frontier.ENOUGH}, nor where resampled medians of both are infinite; "
        "too short to be seen where all resamples have the same ratio",
        f"{obtained}; {frontier.WHAT_IS_COUNTED}",
    )
    return figure
