"""The look that all figures share: fonts and colours, panels, legends, captions, and how an arm is drawn.

Every axis has its unit, an algorithm has one colour and one marker (`arms.look`), and the provenance of every
joule is printed in the picture.
"""

import functools
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullFormatter
from pandas.api.typing import DataFrameGroupBy

from ... import data as data_sets
from ...algorithms.arms import look, ordered
from ...errors import InvalidInput
from ..order import arranged
from ..runs import TOTALS

STYLE = {
    "figure.dpi": 110,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "bpfree",  # the same figure is the same bytes
    "svg.fonttype": "none",
}
#: All that decides how a figure looks: matplotlib's own defaults and, over them, ours. A matplotlibrc, a
#: style sheet and a notebook's settings are for the user's own figures.
LOOK = {k: v for k, v in mpl.rcParamsDefault.items() if k not in ("backend", "interactive")} | STYLE
WIDTH = 7.2  # inches: a text column
SMALL = 7  # points: the smallest print in any figure
BLUE, ORANGE, GREEN, RED, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#BBBBBB"

#: A panel shows one of these at a time: costs of different machines are not pooled, nor are protocols.
USUAL = "convergence"  # the protocol of a figure that names none
FACET = ("data", "architecture", "protocol", "preset", "precision", "machine")

# ---------------------------------------------------------------- figures


def styled(draw: Callable) -> Callable:
    """The one look, whether a notebook or the gallery draws."""

    @functools.wraps(draw)
    def drawn(*args, **options):
        with mpl.rc_context(LOOK):
            return draw(*args, **options)

    return drawn


class Picture(Figure):
    """A figure that shows itself in a notebook; pyplot is not involved, so nothing is left open.

    It is drawn in the look that it was made in: matplotlib makes ticks and finds fonts only then.
    """

    draw, savefig = styled(Figure.draw), styled(Figure.savefig)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


@styled
def new_figure(columns: int = 1, height: float = 2.8, rows: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """A figure as wide as the text and its axes, (rows, columns)."""
    figure = Picture(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panel_grid(panels: int, most: int = 2, *, row: float, margin: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure of so many panels, `most` in a row, and its axes, (rows, columns), the left over ones hidden.

    row, margin: inches of a row, and of what stands above and below them.
    """
    columns = min(most, panels)
    rows = -(-panels // columns)
    figure, axes = new_figure(columns, margin + row * rows, rows)
    for ax in axes.flat[panels:]:
        ax.set_visible(False)
    return figure, axes


def fix_layout(figure: Figure) -> None:
    """Lays a figure out now and rounds where its axes are.

    The solver's last bits depend on where its variables lie in memory; of a figure of many unlike axes the
    same table would give other bytes.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position([round(x, 6) for x in ax.get_position().bounds])


def require(frame: pd.DataFrame, what: str) -> None:
    """Raises InvalidInput if there is nothing to draw."""
    if frame.empty:
        raise InvalidInput(f"no {what} to draw: run the experiments first, and pass their records")


def say(ax: Axes, text: str) -> None:
    """In the middle of a panel that has nothing to show, why."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=8, color="#555555")


def blank(text: str) -> Figure:
    """A figure of nothing but the reason."""
    figure, ((ax,),) = new_figure(height=0.8)
    ax.axis("off")
    say(ax, text)
    return figure


def caption(figure: Figure, *sentences: str) -> None:
    """What a reader must know, once, below the figure in small print, in lines of about the same length."""
    text = "; ".join(dict.fromkeys(filter(None, sentences)))
    lines = -(-len(text) // 125)
    figure.supxlabel(textwrap.fill(text, len(text) // max(lines, 1) + 10), fontsize=SMALL, color="#444444")


def legend(figure: Figure, names: Iterable[str], *, line: bool = True, marker: bool = True, extra=()) -> None:
    """The legend above the panels: how each of these algorithms looks, in the order of tables."""
    handles = []
    for name in ordered(names):
        how = {"ls": look(name).line if line else "none", "marker": look(name).marker if marker else "none"}
        handles.append(Line2D([], [], color=look(name).colour, ms=5, lw=1.3, label=look(name).label, **how))
    handles += extra
    columns = _columns([handle.get_label() for handle in handles])
    where = {"loc": "outside upper center", "ncols": columns}
    figure.legend(handles=handles, **where, fontsize=8, handlelength=2.6, columnspacing=1.5)


def _columns(labels: Sequence[str]) -> int:
    """The most columns, filled one after the other, in which a legend in 8 points fits into the text."""
    for columns in range(min(len(labels), 6), 1, -1):
        rows, taller = divmod(len(labels), columns)  # the first so many have a row more
        ends = list(accumulate(rows + (column < taller) for column in range(columns)))
        widest = [max(map(len, labels[i:j])) for i, j in pairwise([0, *ends])]
        if sum(5.0 * letters + 42 for letters in widest) < 72 * WIDTH:  # points: text, then line and gap
            return columns
    return 1


# ---------------------------------------------------------------- panels


def parts_of(frame: pd.DataFrame, *by: str) -> list[pd.DataFrame]:
    """The rows that agree in these columns, part by part in the order of tables."""
    return [part for _, part in arranged(frame, *by).groupby(list(by), sort=False, dropna=False)]


def by_algorithm(frame: pd.DataFrame) -> DataFrameGroupBy:
    """(name, its rows) of every algorithm, in the order of tables."""
    return arranged(frame, "algorithm").groupby("algorithm", sort=False)


def facets(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of every arm that needs a panel of its own, in the order of tables.

    Columns of `FACET` that the frame lacks are taken as one value.
    """
    keys = [c for c in FACET if c in frame]
    parts = parts_of(frame, *keys)
    titles = [[title_of(part) for part in parts]]
    if "machine" in keys:  # the last resort to tell two panels apart
        devices = [f"{t}, {part['device'].iloc[0]}" for t, part in zip(titles[0], parts, strict=True)]
        numbers = [devices[: place + 1].count(name) for place, name in enumerate(devices)]
        titles += [devices, [f"{at}, machine {n}" for at, n in zip(devices, numbers, strict=True)]]
    return list(zip(told_apart(*titles), parts, strict=True))


def numbered(titles: Iterable[str]) -> str:
    """For the caption, what the number of a machine in a title of `facets` means; "" where none has one."""
    if not any(", machine " in title for title in titles):
        return ""
    return "machines of one kind are numbered, and one whose runs have no energy of their own has no panel"


def told_apart(*names: Iterable[str]) -> list[str]:
    """Of every panel the first of its names that no other panel has, too, or else the last.

    names: all panels' shortest names, then longer ones.
    """
    best, *longer = map(list, names)
    for other in longer:
        best = [new if best.count(name) > 1 else name for name, new in zip(best, other, strict=True)]
    return best


def title_of(frame: pd.DataFrame) -> str:
    """Data and networks; protocol, whose settings and precision where they are not the usual ones.

    It counts nothing: each series of a panel has an n of its own (`counted`).
    """
    names = []
    for (data, protocol), arms in frame.groupby(["data", "protocol"], sort=False):
        networks = ", ".join(arms["architecture"].drop_duplicates())
        names.append(f"{data_name(data)} {networks}{'' if protocol == USUAL else f', protocol {protocol}'}")
    title = "; ".join(names)
    for column, word, usual in (("preset", "settings", None), ("precision", "precision", "fp32")):
        found = sorted(set(frame[column].dropna().astype(str)) - {usual}) if column in frame else []
        title += f", {word} {' and '.join(found)}" if found else ""
    return title


def network_of(frame: pd.DataFrame, between: str = ", ") -> str:
    """Of the rows of one network: its data and its architecture."""
    return f"{data_name(frame['data'].iloc[0])}{between}{frame['architecture'].iloc[0]}"


def n_of(n: int, of: int | None = None, capped: int = 0) -> str:
    """How many runs a line, a bar or a point is of: "n = 2 of 3, 1 at the cap"."""
    text = f"n = {n}" if of in (None, n) else f"n = {n} of {of}"
    return f"{text}, {capped} at the cap" if capped else text


def runs_of(frame: pd.DataFrame) -> dict[str, int]:
    """algorithm -> how many runs of it there are, in the order of tables."""
    return by_algorithm(frame)["key" if "key" in frame else "seed"].nunique().to_dict()


def capped_runs(frame: pd.DataFrame) -> dict[str, int]:
    """algorithm -> how many of its runs have a stage that ended at the cap on epochs, and might have gone on.

    frame: epochs, or records, where the metric `stages_at_cap` says it; see `store.stages_at_cap`.
    """
    if {"stage", "epoch", "max_epochs"} <= set(frame):
        last = frame["epoch"] >= pd.to_numeric(frame["max_epochs"])
        return runs_of(frame[last & (frame["ended"] != "patience" if "ended" in frame else True)])
    if "metric" in frame:
        return runs_of(frame[(frame["metric"] == "stages_at_cap") & (frame["value"] > 0)])
    return {}


def counted(
    shown: pd.DataFrame, recorded: pd.DataFrame | None = None, arms: Iterable[str] = (), width: int = 110
) -> str:
    """The n of every series of a panel, a line or two to stand below its title.

    shown: the rows that are drawn; recorded: all there are, of which some may have nothing to be drawn.
    arms: algorithms that the reader looks for here; of those without a run it says so.
    """
    own, every = runs_of(shown), runs_of(shown if recorded is None else recorded)
    capped = capped_runs(shown)
    n = {name: n_of(own.get(name, 0), every[name], capped.get(name, 0)) for name in every}
    said = [f"{look(name).label}: {n.get(name, 'none')}" for name in ordered([*every, *arms])]
    return textwrap.fill("; ".join(said), width)


def name_panel(ax: Axes, title: str, counts: str = "", **how) -> None:
    """A panel's title, and below it in small print the n of each of its series."""
    lines = counts.count("\n") + 1 if counts else 0
    ax.set_title(title, loc="left", fontsize=9, pad=4 + 9 * lines, **how)
    if counts:
        at = {"xycoords": ("axes fraction", "axes fraction"), "color": "#444444", "va": "bottom"}
        words = annotate(ax, (how.get("x", 0.0), 1.0), counts, (0, 3), linespacing=1.1, **at)
        words.set_in_layout(False)  # a line longer than its panel goes on over the next one's blank


def data_name(name: str) -> str:
    """A data set's name, in which dollars are dollars: between two of them matplotlib reads a formula."""
    return data_sets.dataset(name).replace("$", r"\$")


# ---------------------------------------------------------------- axes and what is on them


def loss_scale(ax: Axes, losses: pd.Series) -> None:
    """A logarithmic axis; below the smallest loss it is linear if some are 0, which it could not show."""
    positive = losses[losses > 0]
    if len(positive) and (losses <= 0).any():
        ax.set_yscale("symlog", linthresh=positive.min())
    elif len(positive):
        ax.set_yscale("log")
        plain_log(ax.yaxis, positive.min(), positive.max())


def plain_log(axis, low: float, high: float) -> None:
    """Labels of a logarithmic axis from low to high as plain numbers, some of them however short it is."""
    few = (1, 2, 5) if high < 20 * low else (1, 3) if high < 200 * low else (1,)
    label_plainly(axis, MaxNLocator(3) if high < 8 * low else LogLocator(subs=few))


def label_plainly(axis, locator: Locator | None = None) -> None:
    """Plain numbers, at 1, 2 and 5 of every decade unless a locator says where: a short axis has some too."""
    axis.set_major_locator(locator or LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def logarithmic(ax: Axes) -> None:
    """Both axes logarithmic."""
    ax.set(xscale="log", yscale="log")
    label_plainly(ax.xaxis)
    label_plainly(ax.yaxis)


def rows_named(ax: Axes, labels: Sequence[str], **font) -> None:
    """Names of horizontal bars or other rows, the first on top."""
    ax.set_yticks(range(len(labels)), labels, **font)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")


def ratio(value: float) -> str:
    """A ratio with two decimals, or two figures if it is small."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def bar(name: str, *, filled: bool = True) -> dict:
    """How an algorithm's bar looks; an open one says that something is different about it."""
    colour = look(name).colour
    return {"fc": (colour, 0.45) if filled else "white", "ec": colour, "lw": 0.8 if filled else 1.4}


def annotate(
    ax: Axes, point: tuple, text: str, offset: tuple = (4, 0), size: float = SMALL, **how
) -> Annotation:
    """Words some points of print away from a point."""
    return ax.annotate(text, point, xytext=offset, textcoords="offset points", fontsize=size, **how)


def beside(ax: Axes, row: int, text: str, x: float = 1.01, size: float = 8, **how) -> None:
    """Words to the right of a panel, at the height of one of its rows."""
    ax.annotate(text, (x, row), xycoords=("axes fraction", "data"), fontsize=size, va="center", **how)


def name_stage(ax: Axes, stage: str, begin: float, colour: str) -> None:
    """A stage's name at the top of the panel, where it begins."""
    annotate(ax, (begin, 1.0), stage, (3, -2), color=colour, va="top", xycoords=("data", "axes fraction"))


def marks(ax: Axes, name: str, x, y, **style) -> None:
    """An algorithm's points."""
    ax.plot(x, y, look(name).marker, color=look(name).colour, **style)


def curve(ax: Axes, name: str, x, y, **style) -> None:
    """An algorithm's line; of a single point, of which no line can be drawn, a dot."""
    dot = {} if "marker" in style else {"marker": "." if len(x) == 1 else "none"}
    ax.plot(x, y, color=look(name).colour, **{"ls": look(name).line, **dot, **style})


def energy_of(records: pd.DataFrame) -> tuple[str, str]:
    """("measured" or "estimated", how they were obtained), of the energies of some runs.

    Measured only if all of them were: a model's joules and a sensor's are never put on one axis. Runs without
    any are not asked.
    """
    total = {kind: records[records["metric"] == metric] for kind, metric in TOTALS.items()}
    measured = set(total["measured"]["key"])
    kind = "measured" if measured and measured.issuperset(total["estimated"]["key"]) else "estimated"
    said = [part for text in total[kind]["provenance"].dropna().unique() for part in text.split("; ")]
    own = [part for part in said if part.startswith(kind)]  # of a bill beside which stands a model's
    return kind, ", ".join(sorted(set(own or said)))
