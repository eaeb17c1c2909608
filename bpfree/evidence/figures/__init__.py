"""Tidy records in, figures out. Nothing here trains or reads files.

One look for all: a colour and a marker per algorithm (`arms.look`), units on every axis, and the provenance
of every joule printed in the picture. That look and the figures of single runs are here; the others are in
the modules of this package, which `figures.curves` and the like import when they are first used.
"""

import functools
import importlib
import io
import itertools
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ... import data as data_sets
from ...algorithms.arms import look, ordered
from ...errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

MODULES = ("comparison", "curves", "forest", "hardware", "landscape", "resources", "tuning")

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

#: A panel shows one of these at a time: costs of different machines are not pooled, nor are protocols.
FACET = ("data", "architecture", "protocol", "preset", "precision", "machine")


class Picture(Figure):
    """A figure that shows itself in a notebook; pyplot is not involved, so nothing is left open.

    It is drawn in the look that it was made in: matplotlib makes ticks and finds fonts only then.
    """

    def draw(self, renderer) -> None:
        with mpl.rc_context(LOOK):
            super().draw(renderer)

    def savefig(self, *args, **options) -> None:
        with mpl.rc_context(LOOK):
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def _figure(columns: int = 1, height: float = 2.8, rows: int = 1, **options) -> tuple[Figure, np.ndarray]:
    with mpl.rc_context(LOOK):
        figure = Picture(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The one look, whether a notebook or the gallery draws."""

    @functools.wraps(draw)
    def drawn(*args, **options) -> Figure:
        with mpl.rc_context(LOOK):
            return draw(*args, **options)

    return drawn


def require(frame: pd.DataFrame, what: str) -> None:
    """Raises InvalidInput if there is nothing to draw."""
    if frame.empty:
        raise InvalidInput(f"no {what} to draw: run the experiments first, and pass their records")


def facets(frame: pd.DataFrame, by: Sequence[str] = FACET) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of every arm that needs a panel of its own, data sets in their usual order.

    by: what a panel has one of. Columns that the frame lacks are taken as one value.
    """
    keys = [c for c in by if c in frame]
    parts = [part for _, part in frame.groupby(keys, sort=False, dropna=False)]
    parts.sort(key=lambda part: _place(part, keys))
    titles = [_title(part) for part in parts]
    if "machine" in keys:  # the last resort to tell two panels apart, however many seeds each has
        arms = [title.rpartition(";")[0] for title in titles]
        where = [(arm, part["device"].iloc[0]) for arm, part in zip(arms, parts, strict=True)]
        for i, (arm, device) in enumerate(where):
            if arms.count(arm) > 1:
                machine = f"machine {parts[i]['machine'].iloc[0]}"
                titles[i] += f", {device if where.count((arm, device)) == 1 else machine}"
    return list(zip(titles, parts, strict=True))


def caption(figure: Figure, *sentences: str) -> None:
    """What a reader must know, below the figure in small print, in lines of about the same length."""
    text = "; ".join(filter(None, sentences))
    lines = -(-len(text) // 125)
    figure.supxlabel(textwrap.fill(text, len(text) // max(lines, 1) + 10), fontsize=SMALL, color="#444444")


def say(ax, text: str) -> None:
    """In the middle of a panel that has nothing to show, why."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=8, color="#555555")


def blank(text: str) -> Figure:
    """A figure of nothing but the reason."""
    figure, ((ax,),) = _figure(height=0.8)
    ax.axis("off")
    say(ax, text)
    return figure


def trail(name: str, points: pd.DataFrame) -> dict:
    """How an algorithm's line looks: a single point, of which no line can be drawn, is a dot."""
    return {"ls": look(name).line, "marker": "." if len(points) == 1 else "none"}


def loss_scale(ax, losses: pd.Series) -> None:
    """A logarithmic axis; below the smallest loss it is linear if some are 0, which it could not show."""
    positive = losses[losses > 0]
    if len(positive) and (losses <= 0).any():
        ax.set_yscale("symlog", linthresh=positive.min())
    elif len(positive):
        ax.set_yscale("log")


def key(figure: Figure, names: Iterable[str], *, line: bool = True, marker: bool = True, extra=()) -> None:
    """The legend above the panels: how each algorithm looks."""
    handles = [
        Line2D(
            [],
            [],
            color=look(name).colour,
            ls=look(name).line if line else "none",
            marker=look(name).marker if marker else "none",
            ms=5,
            lw=1.3,
            label=look(name).label,
        )
        for name in names
    ]
    handles += extra
    columns = _columns([handle.get_label() for handle in handles])
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        fontsize=8,
        handlelength=2.6,
        columnspacing=1.5,
    )


def joules(records: pd.DataFrame) -> tuple[str, str]:
    """("measured" or "estimated", how they were obtained), of the energies of some runs.

    Measured only if all of them were: a model's joules and a sensor's are never put on one axis. Runs without
    any are not asked.
    """
    total = records[records["metric"].isin(["total_measured_j", "total_estimated_j"])]
    runs = total["key"].nunique()
    measured = total.loc[total["metric"] == "total_measured_j", "key"].nunique() == runs > 0
    kind = "measured" if measured else "estimated"
    how = total.loc[total["metric"] == f"total_{kind}_j", "provenance"].dropna().unique()
    return kind, ", ".join(sorted(how))


@styled
def images(x: "Tensor", labels: "Tensor", *, per_class: int = 5) -> Figure:
    """The first images of the first ten classes, a class per column. x: (N, C, H, W); labels: (N,)."""
    import torch

    classes = sorted(set(labels.tolist()))[:10]
    first = [x[labels == c][:per_class] for c in classes]
    most = max(map(len, first))  # a class with fewer ends in white
    white = x.max().expand(1, *x.shape[1:])
    first = [torch.cat([own, *[white] * (most - len(own))]) for own in first]
    return pictures([("", row) for row in torch.stack(first, dim=1)], titles=classes)


@styled
def pictures(rows: "Sequence[tuple[str, Tensor]]", titles: Sequence[object] = ()) -> Figure:
    """Rows of images on one scale: (name of the row, images (n, C, H, W)); a title per column.

    Three channels are red, green and blue; of any other number the mean is shown. Vectors, (n, 1, 1, F), are
    drawn as lines.
    """
    columns = max(len(x) for _, x in rows)
    figure, axes = _figure(columns=columns, rows=len(rows), height=WIDTH * len(rows) / columns + 0.25)
    low, high = min(x.min().item() for _, x in rows), max(x.max().item() for _, x in rows)
    for line, (name, x) in zip(axes, rows, strict=True):
        line[0].text(-0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
        for ax in line:
            ax.axis("off")
        for ax, image in zip(line, x, strict=False):
            shown = ((image - low) / ((high - low) or 1.0)).permute(1, 2, 0).cpu().numpy()
            if shown.shape[0] == 1:
                ax.plot(shown[0].mean(axis=1), color="black", lw=0.8, marker=".", ms=2)
                ax.set_ylim(-0.1, 1.1)
            else:
                colour = shown.shape[2] == 3
                ax.imshow(shown if colour else shown.mean(axis=2), cmap="gray", vmin=0.0, vmax=1.0)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(str(title), fontsize=9)
    return figure


@styled
def learning_curves(epochs: pd.DataFrame, metric: str = "val_loss") -> Figure:
    """Validation loss (or accuracy) against passes over the data and against seconds, by algorithm.

    epochs: as `store.epochs` gives it, of one data set. A line per run; the marker is the epoch whose
    weights a stage kept. A sequential algorithm's line starts anew with every stage, because each stage has
    a read-out of its own.
    """
    require(epochs, "epochs")
    figure, (axes,) = _figure(columns=2, sharey=True)
    title = {"val_loss": "validation cross-entropy (nats)", "val_accuracy": "validation accuracy (%)"}[metric]
    for ax, x, label in zip(axes, ("pass", "elapsed_s"), ("passes over the data", "seconds"), strict=True):
        for name in ordered(epochs["algorithm"]):
            runs = epochs[epochs["algorithm"] == name]
            for _, part in runs.groupby(["seed", "stage"], sort=False):
                ax.plot(part[x], part[metric], color=look(name).colour, lw=1, alpha=0.6, **trail(name, part))
            kept = runs[runs["kept"]]
            ax.plot(
                kept[x],
                kept[metric],
                look(name).marker,
                color=look(name).colour,
                ms=5,
                label=look(name).label,
            )
        ax.set_xlabel(label)
    axes[0].set_ylabel(title)
    axes[0].legend()
    if metric == "val_loss":
        loss_scale(axes[0], epochs[metric])
    figure.suptitle(_title(epochs), fontsize=9)
    return figure


@styled
def bill(records: pd.DataFrame) -> Figure:
    """What each algorithm reached and what it cost: test accuracy, seconds, joules; one point per run.

    records: as `bpfree.records` gives it, of one data set and one machine.
    """
    finished = records[records["status"] == "finished"]
    require(finished, "finished runs")
    kind, provenance = joules(finished)
    energy = f"total_{kind}_j"
    panels = {"test_accuracy": "test accuracy (%)", "total_s": "time (s)", energy: f"energy (J, {kind})"}
    figure, (axes,) = _figure(columns=3, height=2.4)
    present = ordered(finished["algorithm"])
    for ax, (metric, label) in zip(axes, panels.items(), strict=True):
        for position, name in enumerate(present):
            values = finished.loc[(finished["metric"] == metric) & (finished["algorithm"] == name), "value"]
            ax.bar(position, values.mean(), color=look(name).colour, alpha=0.35, width=0.6)
            ax.plot([position] * len(values), values, look(name).marker, color=look(name).colour, ms=5)
        if not finished.loc[finished["metric"] == metric, "value"].notna().any():
            say(ax, "not recorded")
        ax.set_xticks(range(len(present)), [look(name).label for name in present])
        ax.grid(visible=False, axis="x")
        ax.set_title(label, fontsize=9)
        if metric == "test_accuracy":  # differences of a point matter, and a bar from 0 would hide them
            values = finished.loc[finished["metric"] == metric, "value"]
            margin = max(values.max() - values.min(), 1.0)
            ax.set_ylim(values.min() - margin, values.max() + margin)
    caption(figure, f"energy {provenance or 'not recorded'}")
    figure.suptitle(_title(finished), fontsize=9)
    return figure


@styled
def goodness(frame: pd.DataFrame) -> Figure:
    """Histograms of goodness over its threshold, positive against negative, per layer and moment.

    frame: columns layer, moment ("before", "after"), kind ("positive", "negative") and goodness, which is
    g/θ: a layer that has learned puts positive data above 1 and negative data below.
    """
    import seaborn as sns

    require(frame, "goodness")
    layers, moments = frame["layer"].unique(), frame["moment"].unique()
    figure, axes = _figure(columns=len(layers), rows=len(moments), height=1.7 * len(moments))
    palette = {"positive": "#0072B2", "negative": "#D55E00"}
    for line, moment in zip(axes, moments, strict=True):
        for ax, layer in zip(line, layers, strict=True):
            part = frame[(frame["layer"] == layer) & (frame["moment"] == moment)]
            sns.histplot(
                part,
                x="goodness",
                hue="kind",
                palette=palette,
                bins=40,
                element="step",
                ax=ax,
                legend=ax is axes[0, 0],
            )
            ax.axvline(1.0, color="black", lw=0.8, ls="--")
            ax.set_title(f"layer {layer}, {moment} training", fontsize=9)
            ax.set_xlabel("goodness / threshold")
            ax.set_ylabel("images")
    return figure


@styled
def readouts(records: pd.DataFrame) -> Figure:
    """Test accuracy of every read-out of every algorithm; one point per run.

    records: as `bpfree.records` gives it, of one data set.
    """
    pattern = r"test_accuracy\[(.+)\]"
    rows = records[records["metric"].str.fullmatch(pattern)]
    rows = rows.assign(readout=rows["metric"].str.extract(pattern, expand=False))
    require(rows, "read-outs")
    names = list(rows["readout"].unique())
    present = ordered(rows["algorithm"])
    figure, ((ax,),) = _figure(height=2.6)
    for k, name in enumerate(present):
        part = rows[rows["algorithm"] == name]
        x = [names.index(r) + 0.7 * ((k + 0.5) / len(present) - 0.5) for r in part["readout"]]
        ax.plot(
            x,
            part["value"],
            look(name).marker,
            color=look(name).colour,
            ms=5,
            alpha=0.8,
            label=look(name).label,
        )
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel("test accuracy (%)")
    ax.legend(fontsize=8)
    ax.set_title(_title(records), fontsize=9)
    return figure


@styled
def alignment(frame: pd.DataFrame) -> Figure:
    """The angle between DFA's signal and the true gradient, per block, over the epochs of training.

    frame: columns epoch, block, degrees; none for the last block, whose signal is the gradient. The dashed
        line is chance.
    """
    figure, ((ax,),) = _figure(height=2.4)
    blocks = frame.groupby("block") if len(frame) else ()
    for marker, (block, part) in zip(itertools.cycle("osv^"), blocks, strict=False):
        ax.plot(part["epoch"], part["degrees"], f"-{marker}", ms=4, lw=1, label=block)
    ax.axhline(90.0, color="black", lw=0.8, ls="--")
    ax.set_xlabel("epochs of training the blocks")
    ax.set_ylabel("angle (degrees)")
    if len(frame):
        ax.legend()
    else:
        say(ax, "no epoch of a block below the last")
    return figure


@styled
def reach(table: pd.DataFrame, title: str) -> Figure:
    """Which loss reaches which parameter: filled where the gradient is not zero.

    table: as `bpfree.gradient_reach` gives it.
    """
    figure, ((ax,),) = _figure(height=0.9 + 0.32 * len(table))
    for i, (_, row) in enumerate(table.iterrows()):
        for j, norm in enumerate(row):
            colour = "#0072B2" if norm > 0 else "white"
            ax.add_patch(
                Rectangle((j - 0.45, i - 0.4), 0.9, 0.8, facecolor=colour, edgecolor="#888888", lw=0.6)
            )
    short = [_symbol(name) for name in table.columns]
    ax.set_xticks(range(len(short)), short)
    ax.set_yticks(range(len(table)), table.index)
    ax.set_xlim(-0.6, len(short) - 0.4)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=9)
    return figure


def _columns(labels: Sequence[str]) -> int:
    """The most columns, filled one after the other, in which a legend in 8 points fits into the text."""
    for columns in range(min(len(labels), 6), 1, -1):
        rows = -(-len(labels) // columns)
        widest = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
        if sum(5.0 * letters + 42 for letters in widest) < 72 * WIDTH:  # points: text, then line and gap
            return columns
    return 1


def _symbol(parameter: str) -> str:
    """A parameter's name in the notation of the chapters: model.blocks.0.linear.weight is W_1."""
    letter = "b" if parameter.endswith("bias") else "M" if parameter.startswith("heads") else "W"
    place = parameter.split(".")[1] if letter == "M" else str(int(parameter.split(".")[2]) + 1)
    return f"${letter}_{{{place}}}$" if place.isdigit() else place


def dataset(name: str) -> str:
    """A data set's name, in which dollars are dollars: between two of them matplotlib reads a formula."""
    return data_sets.dataset(name).replace("$", r"\$")


def _place(frame: pd.DataFrame, keys: Sequence[str]) -> tuple:
    """Where a facet stands among the others."""
    first = frame.iloc[0]
    rest = [str(first[c]) for c in keys if c != "data"]
    return data_sets.rank(first["data"]), *rest


def _title(frame: pd.DataFrame) -> str:
    """Data, networks, protocol and seeds; preset and precision where they are not the usual ones."""
    names = []
    for (data, protocol), arms in frame.groupby(["data", "protocol"], sort=False):
        networks = ", ".join(arms["architecture"].drop_duplicates())
        names.append(f"{dataset(data)} {networks}, protocol {protocol}")
    title = "; ".join(names)
    for column, usual in (("preset", None), ("precision", "fp32")):
        found = sorted(set(frame[column].dropna().astype(str)) - {usual}) if column in frame else []
        title += f", {column} {' and '.join(found)}" if found else ""
    seeds = frame["seed"].nunique()
    return f"{title}; {seeds} seed{'s' if seeds > 1 else ''}"


def __getattr__(name: str):
    if name in MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
