"""Pictures of searches: what was found when and at what cost, and how much the parameters matter."""

import itertools
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from ...algorithms.arms import label, look, ordered
from . import style

if TYPE_CHECKING:
    from optuna.study import Study

#: Parameters have colours of their own, none of an algorithm's.
SHADES = ("#4477AA", "#CCBB44", "#66CCEE", style.GREY)


@style.styled
def best_so_far(trials: pd.DataFrame) -> Figure:
    """The best validation accuracy so far against trials and joules, by algorithm; a row per data set.

    trials: as `tuning.trials` gives them. A line is a study, a marker on the left a trial.
    """
    style.require(trials, "trials")
    parts = [part for _, part in trials.groupby("data", sort=False)]
    figure, rows = style.new_figure(columns=2, rows=len(parts), sharey="row", height=0.6 + 2.4 * len(parts))
    for axes, part in zip(rows, parts, strict=True):
        for name, searches in style.by_algorithm(part):
            for _, study in searches.groupby("study"):
                how = {"lw": 1.5, "drawstyle": "steps-post", "marker": "none"}
                number = range(1, len(study) + 1)
                style.marks(axes[0], name, number, study["value"], ms=3.5, alpha=0.35)
                style.curve(axes[0], name, number, study["best"], **how)
                style.curve(axes[1], name, study["total_joules"], study["best"], **how)
        axes[1].set_xlim(left=0)
        axes[0].set_xlabel("trials")
        axes[1].set_xlabel(f"joules of the search so far ({' and '.join(part['energy'].unique())})")
        axes[0].set_ylabel("best validation\naccuracy so far (%)")
        if part["best"].notna().any():
            axes[0].set_ylim(*_upper_part(part))
        else:
            style.say(axes[0], "no trial ended with a finite loss")
        style.name_panel(axes[0], style.data_name(part["data"].iloc[0]), _searches(part))
    style.legend(figure, trials["algorithm"], marker=False)
    below = sum(int((part["value"] < _upper_part(part)[0]).sum()) for part in parts)
    cut = f"{below} of {len(trials)} trials lie below" if below else ""
    style.caption(figure, _where(trials), *trials["provenance"].dropna().unique(), cut)
    return figure


def _searches(part: pd.DataFrame) -> str:
    """How many searches of how many trials each algorithm had; once, if all had the same."""
    said = {}
    for name, own in style.by_algorithm(part):
        sizes = own["study"].value_counts()
        lengths = " and ".join(map(str, sorted(set(sizes))))
        said[label(name)] = f"{len(sizes)} search{'es' if len(sizes) > 1 else ''} of {lengths} trials"
    if len(set(said.values())) == 1:
        return f"{next(iter(said.values()))} for each algorithm"
    return "; ".join(f"{name}: {searches}" for name, searches in said.items())


def _upper_part(trials: pd.DataFrame) -> tuple[float, float]:
    """Limits in which the final bests can be told apart."""
    final = trials.groupby("study")["best"].max()
    span = max(final.max() - final.min(), 4.0)
    return final.min() - span / 2, final.max() + span / 10


@style.styled
def sensitivity(trials: pd.DataFrame, tolerance: pd.DataFrame) -> Figure:
    """Validation accuracy against the learning rate, by algorithm; below, how far it may be off.

    trials: of sweeps, as `tuning.trials` gives them; a cross at the bottom is a trial that diverged.
    tolerance: as `tuning.tolerance` gives it of the same trials.
    """
    style.require(trials, "trials")
    names = ordered(trials["algorithm"])
    ratios = [5, 0.4 + 0.3 * len(names)]
    figure, rows = style.new_figure(rows=2, height=3.7, sharex=True, height_ratios=ratios)
    curve, bars = rows[:, 0]
    for place, (name, part) in enumerate(style.by_algorithm(trials.sort_values("lr"))):
        good, bad = part[part["state"] == "complete"], part[part["state"] == "diverged"]
        style.curve(curve, name, good["lr"], good["value"], marker=look(name).marker, ms=4, lw=1.3)
        curve.plot(bad["lr"], [0.0] * len(bad), "x", color=look(name).colour, ms=6)
        row = tolerance[tolerance["algorithm"] == name].iloc[0]
        ends = [row["low"], row["high"]]
        bars.plot(ends, [place] * 2, color=look(name).colour, lw=6, solid_capstyle="butt")
        bars.plot(row["at"], place, "o", color="white", mec=look(name).colour, ms=5)
    curve.set_xscale("log")
    curve.set_ylabel("validation accuracy (%)")
    bars.set_ylim(-0.6, len(names) - 0.4)
    style.rows_named(bars, list(map(label, names)), fontsize=8)
    bars.set_xlabel("learning rate")
    style.legend(figure, names)
    style.caption(
        figure, _where(trials), f"bars: within {tolerance['points'].iloc[0]:g} points of the best, the circle"
    )
    return figure


@style.styled
def importance_bars(frame: pd.DataFrame) -> Figure:
    """The share of each parameter in the spread of accuracy, by algorithm; a bar is a study and adds up to 1.

    frame: as `tuning.importances` gives it.
    """
    if frame.empty:
        return style.blank("all trials reached the same: no parameter mattered")
    names = ordered(frame["algorithm"])
    totals = frame.groupby("parameter")["importance"].sum()
    parameters = totals.sort_values(ascending=False, kind="stable").index
    means = frame.pivot_table(index="algorithm", columns="parameter", values="importance")
    figure, ((ax,),) = style.new_figure(height=1.0 + 0.32 * len(names))
    left = pd.Series(0.0, index=names)
    for parameter, shade in zip(parameters, itertools.cycle(SHADES), strict=False):
        part = means.loc[names, parameter].dropna()  # which not all algorithms have
        places = [names.index(name) for name in part.index]
        ax.barh(places, part, left=left[part.index], color=shade, height=0.6, label=parameter)
        left[part.index] += part
    style.rows_named(ax, list(map(label, names)))
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the variance over the space")
    figure.legend(loc="outside upper center", ncols=len(parameters), fontsize=8)
    return figure


@style.styled
def slice_points(study: "Study") -> Figure:
    """Every trial's accuracy against each of its parameters, later trials darker: Optuna's slice plot.

    Drawn here, because Optuna's own asks pyplot for a window and sets a style for the whole process.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(states=(TrialState.COMPLETE,))
    searched = {name: d for trial in trials for name, d in trial.distributions.items()}
    figure, (axes,) = style.new_figure(columns=max(len(searched), 1), height=2.6, sharey=True)
    for ax, name in zip(axes, sorted(searched), strict=False):
        having = [trial for trial in trials if name in trial.params]
        values = [trial.params[name] for trial in having]
        if getattr(searched[name], "log", False):
            ax.set_xscale("log")
            style.plain_log(ax.xaxis, min(values), max(values))
        # Numbers lie on an axis of numbers, and choices among words each have a place of their own.
        points = ax.scatter(
            [v if isinstance(v, int | float) and not isinstance(v, bool) else str(v) for v in values],
            [trial.value for trial in having],
            c=[trial.number for trial in having],
            vmin=0,
            vmax=max(1, *(trial.number for trial in trials)),
            cmap="Blues",
            edgecolors="grey",
            s=25,
        )
        ax.set_xlabel(name)
    if searched:
        figure.colorbar(points, ax=axes, label="trial").ax.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("validation accuracy (%)")
    figure.suptitle(f"{label(study.user_attrs['bpfree']['algorithm'])}: where the search looked", fontsize=9)
    return figure


def _where(trials: pd.DataFrame) -> str:
    networks = ", ".join(dict.fromkeys(trials["architecture"]))
    data = ", ".join(style.data_name(d) for d in dict.fromkeys(trials["data"]))
    return f"{data}; {networks}; validation images, one seed"
