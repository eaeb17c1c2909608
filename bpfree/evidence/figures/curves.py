"""Figures of learning: accuracy and loss against seconds, and Mono-Forward, stage after stage."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...algorithms.arms import look
from . import style

LEARNING_METRICS = {
    "val_accuracy": "validation accuracy (%)",
    "val_loss": "validation\ncross-entropy (nats)",
    "train_loss": "training loss (nats)",
}
CLOCKS = {"pass": "passes over the data", "elapsed_s": "seconds"}
POINTS = 100  # of the common grid of seconds
SHARED = "; a run that shared its machine has none and is not drawn against them"


@style.styled
def learning_curves(epochs: pd.DataFrame) -> Figure:
    """Validation loss against passes over the data and against seconds, by algorithm.

    epochs: as `store.epochs` gives it, of one data set. A line per run; the marker is the epoch whose
    weights a stage kept. A sequential algorithm's line starts anew with every stage, because each stage has
    a read-out of its own.
    """
    style.require(epochs, "epochs")
    figure, (axes,) = style.new_figure(columns=2, sharey=True)
    capped = style.capped_runs(epochs)
    for ax, (clock, label) in zip(axes, CLOCKS.items(), strict=True):
        for name, runs in style.by_algorithm(epochs):
            n = style.n_of(runs["seed"].nunique(), capped=capped.get(name, 0))
            mark = {"ms": 5, "label": f"{look(name).label} ({n})"}
            _draw_runs(ax, name, runs, clock, "val_loss", mark, lw=1, alpha=0.6)
        ax.set_xlabel(label)
    axes[0].set_ylabel("validation cross-entropy (nats)")
    axes[0].legend()
    style.loss_scale(axes[0], epochs["val_loss"])
    figure.suptitle(style.title_of(epochs), fontsize=9)
    return figure


@style.styled
def against_seconds(epochs: pd.DataFrame, metrics: Sequence[str] = ("val_accuracy", "train_loss")) -> Figure:
    """What was reached by when: a row of panels per data set and network, a column per metric.

    epochs: as `store.epochs` gives it. A line per run and stage; the marker is the epoch whose weights
    the stage kept. A stage without epochs (a solved read-out) is a marker alone. Runs without seconds, which
    shared their machine, are left out; where all did, the panel is against passes.
    """
    style.require(epochs, "epochs")
    rows, clocks = style.facets(epochs), set()
    figure, axes = style.new_figure(columns=len(metrics), rows=len(rows), height=0.75 + 2.1 * len(rows))
    for panels, (title, part) in zip(axes, rows, strict=True):
        clock = "elapsed_s" if part["elapsed_s"].notna().any() else "pass"
        clocks.add(clock)
        recorded, part = part, part.dropna(subset=clock)
        for ax, metric in zip(panels, metrics, strict=True):
            for name, runs in style.by_algorithm(part.dropna(subset=metric)):
                mark = {"ms": 6, "mec": "white", "mew": 0.4, "zorder": 2 + (name != "bp")}
                _draw_runs(ax, name, runs, clock, metric, mark, lw=1, alpha=0.75, zorder=mark["zorder"])
            ax.set_ylabel(LEARNING_METRICS[metric])
            ax.set_xlabel(CLOCKS[clock])
            if metric.endswith("loss"):
                style.loss_scale(ax, part[metric])
            if part[metric].isna().all():
                style.say(ax, "not recorded")
        style.name_panel(panels[0], title, style.counted(part, recorded, epochs["algorithm"], width=125))
    style.legend(figure, epochs["algorithm"])
    own = "training loss: each algorithm's own, Forward-Forward's summed over its layers: not one scale"
    style.caption(
        figure,
        "a line per seed and stage, a marker where a stage's weights were kept",
        f"seconds of training, validation and prefix work{SHARED}" if "elapsed_s" in clocks else "",
        own if "train_loss" in metrics and epochs["algorithm"].nunique() > 1 else "",
        _clock(epochs) if "elapsed_s" in clocks else "",
    )
    return figure


@style.styled
def mean_loss(epochs: pd.DataFrame) -> Figure:
    """Mean validation loss over seeds, ± one sample standard deviation, against passes and against seconds.

    epochs: as `store.epochs` gives it. Stages follow one another, each with its own read-out. Within
    a stage the runs are aligned on its start, which is drawn at the mean of their starts; the mean is drawn
    as far as every seed still trains, so that no point of it is of other seeds than the next. Behind it,
    thin, is every run as it was.
    """
    style.require(epochs, "epochs")
    rows = style.facets(epochs)
    figure, axes = style.new_figure(columns=2, rows=len(rows), height=0.75 + 2.3 * len(rows), sharey="row")
    for panels, (title, part) in zip(axes, rows, strict=True):
        for ax, clock in zip(panels, CLOCKS, strict=True):
            for name, runs in style.by_algorithm(part.dropna(subset=clock)):
                _draw_runs(ax, name, runs, clock, "val_loss", ls="-", lw=0.5, alpha=0.35)
                _draw_mean(ax, name, aligned(runs, clock))
            if part[clock].isna().all():
                style.say(ax, "no run was alone\non its machine")
            ax.set_xlabel(CLOCKS[clock])
            style.loss_scale(ax, part["val_loss"])
        panels[0].set_ylabel(LEARNING_METRICS["val_loss"])
        style.name_panel(panels[0], title, style.counted(part, arms=epochs["algorithm"], width=60))
        alone = part.dropna(subset="elapsed_s")
        style.name_panel(panels[1], "", style.counted(alone, part, width=60))
    style.legend(figure, epochs["algorithm"])
    style.caption(
        figure,
        "thick: mean over seeds as far as all of them train, each stage from the mean of its starts",
        "band: ± sample standard deviation; n = 1 has none",
        "thin: the runs",
        f"dotted: a stage begins{SHARED}",
        _clock(epochs),
    )
    return figure


@dataclass(frozen=True)
class Mean:
    """A stage's mean over seeds: its name, where it begins, and at `x` the mean and sample SD of n seeds."""

    stage: str
    begin: float
    x: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    n: int


def aligned(runs: pd.DataFrame, clock: str) -> Iterator[Mean]:
    """The stages of several seeds of one algorithm, each aligned on its start, on a common grid.

    clock: "pass", where the grid is the epochs that all seeds trained, or "elapsed_s", where it is the
    seconds that all seeds trained, and values between the ends of epochs are interpolated. SD is NaN for
    one seed.
    """
    seeds = [run.sort_values("pass") for _, run in runs.groupby("seed")]
    for name in seeds[0]["stage"].drop_duplicates() if seeds else ():
        begins, times, values = [], [], []
        for run in seeds:
            stage = run[run["stage"] == name].dropna(subset="val_loss")
            if stage.empty:
                continue
            begins.append(max(run.loc[run["pass"] < stage["pass"].iloc[0], clock], default=0.0))
            times.append(stage[clock].to_numpy(float) - begins[-1])
            values.append(stage["val_loss"].to_numpy(float))
        if not begins:
            continue  # a stage that nobody validates
        first, last = max(t[0] for t in times), min(t[-1] for t in times)
        if first > last:
            continue  # one seed was done before another's first epoch: no time at which all trained
        grid = np.arange(first, last + 1) if clock == "pass" else np.linspace(first, last, POINTS)
        table = np.stack([np.interp(grid, t, v) for t, v in zip(times, values, strict=True)])
        sd = table.std(axis=0, ddof=1) if len(table) > 1 else np.full(len(grid), np.nan)
        begin = float(np.mean(begins))
        yield Mean(name, begin, begin + grid, table.mean(axis=0), sd, len(table))


def _draw_runs(ax, name: str, runs, clock: str, metric: str, mark: dict | None = None, **line) -> None:
    """A line per run and stage; and, if it is said how, a mark where the weights of a stage were kept."""
    for _, stage in runs.groupby(["seed", "stage"], sort=False):
        style.curve(ax, name, stage[clock], stage[metric], **line)
    if mark:
        kept = runs[runs["kept"]]
        style.marks(ax, name, kept[clock], kept[metric], **mark)


def _draw_mean(ax, name: str, stages: Iterable[Mean]) -> None:
    for number, stage in enumerate(stages):
        style.curve(ax, name, stage.x, stage.mean, lw=1.8, marker="none")
        style.marks(ax, name, stage.x[-1:], stage.mean[-1:], ms=5)
        # A logarithmic axis has no place for a band that reaches 0: there it ends a little above.
        low = np.maximum(stage.mean - stage.sd, 0.2 * stage.mean)
        ax.fill_between(stage.x, low, stage.mean + stage.sd, color=look(name).colour, alpha=0.2, lw=0)
        if number:
            ax.axvline(stage.begin, color="#888888", lw=0.7, ls=":")
            style.name_stage(ax, stage.stage, stage.begin, "#555555")


def _clock(epochs: pd.DataFrame) -> str:
    devices = sorted(set(epochs["device"])) if "device" in epochs else []
    return f"wall clock on {' and '.join(devices)}" if devices else "wall clock"
