"""Figures of what happens inside a run: images, goodness, read-outs, gradients."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..order import NETWORK
from . import style

if TYPE_CHECKING:
    from torch import Tensor


@style.styled
def images(x: "Tensor", labels: "Tensor") -> Figure:
    """The first five images of the first ten classes, a class per column. x: (N, C, H, W); labels: (N,)."""
    from torch.nn.utils.rnn import pad_sequence

    classes = labels.unique()[:10].tolist()
    white = x.max().item()  # in which a class with fewer ends
    rows = pad_sequence([x[labels == c][:5] for c in classes], padding_value=white)
    return pictures([("", row) for row in rows], titles=classes)


@style.styled
def pictures(rows: "Sequence[tuple[str, Tensor]]", titles: Sequence[object] = ()) -> Figure:
    """Rows of images on one scale: (name of the row, images (n, C, H, W)); a title per column.

    Three channels are red, green and blue; of any other number the mean is shown. Vectors, (n, 1, 1, F), are
    drawn as lines.
    """
    columns = max(len(x) for _, x in rows)
    height = style.WIDTH * len(rows) / columns + 0.25
    figure, axes = style.new_figure(columns=columns, rows=len(rows), height=height)
    low, high = min(x.min().item() for _, x in rows), max(x.max().item() for _, x in rows)
    for row, (name, x) in zip(axes, rows, strict=True):
        row[0].text(-0.1, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
        for ax in row:
            ax.axis("off")
        for ax, image in zip(row, x, strict=False):
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


@style.styled
def goodness(frame: pd.DataFrame) -> Figure:
    """Histograms of goodness over its threshold, positive against negative, per layer and moment.

    frame: columns layer, moment ("before", "after"), kind ("positive", "negative") and goodness, which is
    g/θ: a layer that has learned puts positive data above 1 and negative data below.
    """
    import seaborn as sns

    style.require(frame, "goodness")
    layers, moments = frame["layer"].unique(), frame["moment"].unique()
    panels = {"columns": len(layers), "rows": len(moments), "height": 1.7 * len(moments)}
    figure, axes = style.new_figure(**panels, sharex="col")
    how = {"palette": {"positive": style.BLUE, "negative": style.RED}, "bins": 40, "element": "step"}
    for row, moment in zip(axes, moments, strict=True):
        for ax, layer in zip(row, layers, strict=True):
            part = frame[(frame["layer"] == layer) & (frame["moment"] == moment)]
            sns.histplot(part, x="goodness", hue="kind", ax=ax, legend=ax is axes[0, 0], **how)
            ax.axvline(1.0, color="black", lw=0.8, ls="--")
            ax.set_title(f"layer {layer}, {moment} training", fontsize=9)
            ax.set(xlabel="goodness / threshold", ylabel="images")
    return figure


@style.styled
def readout_points(records: pd.DataFrame) -> Figure:
    """Test accuracy of every read-out of every algorithm: a point per seed, and a panel per network.

    records: as `bpfree.records` gives it. Read-outs stand in the order of the rows; of a seed that ran on
        several devices it is the mean.
    """
    names = records["metric"].str.extract(r"^test_accuracy\[(.+)\]$", expand=False)
    rows = records.assign(readout=names).dropna(subset="readout")
    style.require(rows, "read-outs")
    parts = style.parts_of(rows, *NETWORK)
    figure, axes = style.panel_grid(len(parts), row=2.6)
    for ax, part in zip(axes.flat, parts, strict=False):
        place = {name: i for i, name in enumerate(part["readout"].unique())}
        arms = list(style.by_algorithm(part))
        for k, (name, arm) in enumerate(arms):
            own = arm.groupby(["readout", "seed"])["value"].mean()
            x = own.index.get_level_values("readout").map(place) + 0.7 * ((k + 0.5) / len(arms) - 0.5)
            style.marks(ax, name, x, own, ms=5, alpha=0.8)
        ax.set_xticks(range(len(place)), list(place), fontsize=8)
        ax.set_ylabel("test accuracy (%)")
        seeds = part.drop(columns="key", errors="ignore")  # which n counts, on however many devices
        counts = style.counted(seeds, width=110 // axes.shape[1])
        style.name_panel(ax, style.network_of(part, " "), counts)
    style.legend(figure, rows["algorithm"], line=False)
    return figure


@style.styled
def alignment(frame: pd.DataFrame) -> Figure:
    """The angle between a block's own gradient and the true one, over the epochs of training.

    frame: columns epoch, block, degrees, of `bpfree.alignment` from epoch to epoch. The dashed line is
        chance.
    """
    figure, ((ax,),) = style.new_figure(height=2.4)
    blocks = frame.groupby("block") if len(frame) else ()
    for marker, (block, part) in zip(itertools.cycle("osv^"), blocks, strict=False):
        ax.plot(part["epoch"], part["degrees"], f"-{marker}", ms=4, lw=1, label=block)
    ax.axhline(90.0, color="black", lw=0.8, ls="--")
    ax.set(xlabel="epochs of training the blocks", ylabel="angle (degrees)", ylim=(0, 120))
    if len(frame):
        ax.legend()
    else:
        style.say(ax, "no epoch of a block below the last")
    return figure


@style.styled
def reach(table: pd.DataFrame, title: str) -> Figure:
    """Which loss reaches which parameter: filled where the gradient is not zero.

    table: as `bpfree.gradient_reach` gives it.
    """
    figure, ((ax,),) = style.new_figure(height=0.9 + 0.32 * len(table))
    for (i, j), norm in np.ndenumerate(table):
        how = {"facecolor": style.BLUE if norm > 0 else "white", "edgecolor": "#888888", "lw": 0.6}
        ax.add_patch(Rectangle((j - 0.45, i - 0.4), 0.9, 0.8, **how))
    ax.set_xticks(range(len(table.columns)), [_symbol(name) for name in table.columns])
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlim=(-0.6, len(table.columns) - 0.4), ylim=(len(table) - 0.5, -0.5))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=9)
    return figure


def _symbol(parameter: str) -> str:
    """A parameter's name in the notation of the chapters: model.blocks.0.linear.weight is W_1."""
    letter = "b" if parameter.endswith("bias") else "M" if parameter.startswith("heads") else "W"
    place = parameter.split(".")[1] if letter == "M" else str(int(parameter.split(".")[2]) + 1)
    return f"${letter}_{{{place}}}$" if place.isdigit() else place
