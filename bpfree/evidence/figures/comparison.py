"""Figures that compare algorithms: accuracy against energy, the ladder, energy as passes × joules a pass."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...algorithms.arms import ARMS, label, look, ordered
from ...experiments.protocols import BUDGETS, REFERENCE
from .. import stats
from ..order import NETWORK
from ..runs import TOTALS
from ..tables.text import span
from . import style

#: The rungs from BP to MF, and what each changes against the rung before (the corner: against MF-Joint).
RUNGS = {
    "bp": "one loss, at the output",
    "bp_ds": "+ a head and a loss at every layer",
    "mf_joint": "no output layer, read out by the last head",
    "mf_sequential_joint": "MF-Joint, one stage after the other",
    "mf_interleaved": "MF-Joint, detached between layers",
    "mf": "detached, one stage after the other",
}
CORNER = "mf_sequential_joint"  # beside the ladder: it and `mf_interleaved` each change one thing of MF-Joint
#: Where the arms stand in `square`, and its sides: the corners that differ in detachment alone.
PLACES = {"bp": 0, "bp_ds": 1, "mf_joint": 2, "mf_sequential_joint": 2, "mf_interleaved": 3, "mf": 3}
SIDES = {
    ("mf_joint", "mf_interleaved"): ("-", "every layer with every batch"),
    ("mf_sequential_joint", "mf"): ("--", "one layer after the other"),
}
OPEN = {"color": "#555555", "ls": "none", "marker": "o", "ms": 6, "fillstyle": "none"}
FILLS = ("none", "left", "top")  # of the marks of published sources, in their order


def finished_runs(records: pd.DataFrame) -> pd.DataFrame:
    """The runs that finished, every row with its run's machine. Raises InvalidInput if there are none."""
    rows = records[records["status"] == "finished"]
    style.require(rows, "finished runs")
    machines = rows.dropna(subset="machine").drop_duplicates("key").set_index("key")["machine"]
    return rows.assign(machine=rows["key"].map(machines))


def with_baseline(records: pd.DataFrame) -> pd.DataFrame:
    """With BP's runs under "convergence" where a protocol shares out their budget and has none of its own."""
    baselines = records[(records["algorithm"] == REFERENCE) & (records["protocol"] == "convergence")]
    parts, networks_of = [records], lambda rows: pd.MultiIndex.from_frame(rows[NETWORK])
    for protocol in BUDGETS:
        budgeted = records[records["protocol"] == protocol]
        own = budgeted[budgeted["algorithm"] == REFERENCE]
        lacking = networks_of(budgeted).difference(networks_of(own))
        parts.append(baselines[networks_of(baselines).isin(lacking)].assign(protocol=protocol))
    return pd.concat(parts, ignore_index=True)


def metrics_per_run(records: pd.DataFrame) -> pd.DataFrame:
    """A row per run: algorithm, seed, and its metrics as columns.

    NaN where a run has none: those that shared their machine have no seconds and joules.
    """
    index = ["algorithm", "architecture", "seed", "key"]
    table = records.pivot(index=index, columns="metric", values="value")
    return table.reindex(columns=[*table, *(c for c in ("total_s", *TOTALS.values()) if c not in table)])


@style.styled
def accuracy_against_energy(records: pd.DataFrame, published: pd.DataFrame | None = None) -> Figure:
    """Everything in one picture: test accuracy against the energy of the whole run, a panel per network.

    Args:
        records: as `bpfree.records` gives it. A filled mark is an arm's mean over seeds, its bars the sample
            standard deviations; both are of the runs that have an energy of their own.
        published: as `experiments.published.results` gives it: open and half-filled marks, a filling per
            source and protocol. Those joules are of the authors' machines. They were measured, so that they
            stand beside measured ones alone.
    """
    runs = finished_runs(records)
    panels = [(t, p) for t, p in style.facets(runs) if p["metric"].isin(TOTALS.values()).any()]
    if not panels:
        return style.blank("no run's energy is known: there is nothing to set its accuracy against")
    figure, axes = style.panel_grid(len(panels), margin=0.9, row=2.6)
    columns = axes.shape[1]
    notes, sources = [], {}
    for ax, (title, part) in zip(axes.flat, panels, strict=False):
        kind, obtained = style.energy_of(part)
        notes.append(obtained)
        energy = f"total_{kind}_j"
        table = metrics_per_run(part[part["metric"].isin(["test_accuracy", energy])]).dropna(subset=energy)
        for name, arm in table.groupby(level="algorithm", sort=False):
            _mark(ax, name, arm[energy], arm["test_accuracy"])
        if published is not None and kind == "measured":
            here = (published[NETWORK] == part[NETWORK].iloc[0]).all(axis=1)
            _draw_published(ax, published[here], sources)
        ax.set_xscale("log")
        style.plain_log(ax.xaxis, *ax.get_xlim())
        ax.set(xlabel=f"energy of training (J, {kind})", ylabel="test accuracy (%)")
        alone = part[part["key"].isin(table.index.get_level_values("key"))]
        counts = style.counted(alone, part, width=105 // columns)
        style.name_panel(ax, textwrap.fill(title, 84 // columns), counts)
    extra = [Line2D([], [], label=f"printed: {s}", **{**OPEN, "fillstyle": f}) for s, f in sources.items()]
    style.legend(figure, pd.concat([part["algorithm"] for _, part in panels]), line=False, extra=extra)
    style.caption(
        figure,
        f"{'filled marks: ' if sources else ''}energy {' and '.join(dict.fromkeys(notes))}",
        "means and sample standard deviations over the n runs of each that had their machine to themselves, "
        "not in pairs",
        style.numbered(title for title, _ in panels),
        "printed numbers: of the authors' machines, as they measured" if sources else "",
    )
    return figure


def _mark(ax, name: str, x: pd.Series, y: pd.Series) -> None:
    """An arm's mean, with its sample standard deviations if it has several seeds."""
    bars = {f"{axis}err": v.std(ddof=1) for axis, v in (("x", x), ("y", y)) if len(v) > 1}
    how = {"color": look(name).colour, "ms": 6.5, "mec": "white", "mew": 0.4, "elinewidth": 0.8}
    ax.errorbar(x.mean(), y.mean(), fmt=look(name).marker, **bars, **how)


def _draw_published(ax, rows: pd.DataFrame, sources: dict[str, str]) -> None:
    """Marks where a source printed both numbers of an arm; `sources` gives each source its filling."""
    arms = ["source", "protocol", "architecture", "algorithm", "variant"]
    table = rows[rows["algorithm"].isin(list(ARMS))].pivot_table(index=arms, columns="metric", values="mean")
    table = table.reindex(columns=["test_accuracy", "total_j"])
    for (source, protocol, _, name, _), arm in table.dropna().iterrows():
        fill = sources.setdefault(f"{source}, {protocol}", FILLS[len(sources) % len(FILLS)])
        how = {"fillstyle": fill, "mew": 0.9, "ms": 6, "alpha": 0.9, "zorder": 1.5}
        style.marks(ax, name, arm["total_j"], arm["test_accuracy"], **how)


@style.styled
def ladder(records: pd.DataFrame) -> Figure:
    """From BP to Mono-Forward, one change a rung: accuracy, and what each change costs or saves.

    records: as `bpfree.records` gives it, of the algorithms in `RUNGS`. Left: a point per seed, a line at
        their mean. Right: a bar from the cost of the rung before to this rung's (means over runs), with the
        factor and how many runs the bar is of; points are runs. MF sequential without detaching stands beside
        the ladder (an open bar), and both it and MF interleaved start from MF-Joint.
    """
    runs = with_baseline(finished_runs(records[records["algorithm"].isin(RUNGS)]))
    parts = [(t, p) for t, p in style.facets(runs) if p["algorithm"].nunique() > 1]
    style.require(runs if parts else runs.iloc[:0], "rungs of one ladder")
    figure, axes = style.new_figure(
        columns=3, rows=len(parts), height=0.55 + 2.75 * len(parts), width_ratios=(1, 1, 1), sharey="row"
    )
    notes = []
    for line, (title, part) in zip(axes, parts, strict=True):
        kind, obtained = style.energy_of(part)
        notes += [f"energy {obtained}"] if obtained else []
        table = metrics_per_run(part)
        rungs = [name for name in RUNGS if name in set(part["algorithm"])]
        for place, name in enumerate(rungs):
            seeds, ends = table["test_accuracy"][name].to_numpy(), [place - 0.3, place + 0.3]
            line[0].plot([seeds.mean()] * 2, ends, color=look(name).colour, lw=2, alpha=0.5)
            style.marks(line[0], name, seeds, [place] * len(seeds), ms=5, alpha=0.8)
        _waterfall(line[1], table[f"total_{kind}_j"], rungs)
        _waterfall(line[2], table["total_s"], rungs)
        line[0].set_xlabel("test accuracy (%)")
        line[1].set_xlabel(f"energy (J, {kind})" if obtained else "energy (J)")
        line[2].set_xlabel("time (s)")
        runs_of, capped = style.runs_of(part), style.capped_runs(part)
        labels = [
            f"{look(name).label} ({style.n_of(runs_of[name], capped=capped.get(name, 0))})\n{RUNGS[name]}"
            for name in rungs
        ]
        style.rows_named(line[0], labels, fontsize=style.SMALL)
        style.name_panel(line[0], title, x=-0.9)
        for ax in line[1:]:
            ax.grid(visible=False, axis="y")
    style.caption(
        figure,
        "a point is a run, bars lead from rung to rung by the means of n runs, with their ratio",
        f"open bar: {look(CORNER).label}, beside the ladder" if CORNER in set(runs["algorithm"]) else "",
        *notes,
        "training, validation and prefix work; wall clock",
    )
    return figure


@style.styled
def square(records: pd.DataFrame) -> Figure:
    """Detachment and schedule, each alone and both together, by test accuracy; BP and BP-DS on the left.

    records: as `bpfree.records` gives it, of the ladder under one protocol; a panel per network. A mark is a
        run. A line leads from mean to mean, from not detached to detached under one schedule; did the two
        changes not depend on each other, the lines would be parallel.
    """
    runs = finished_runs(records[records["algorithm"].isin(PLACES)])
    runs = runs[runs["metric"] == "test_accuracy"]
    parts = style.parts_of(runs, *NETWORK)
    figure, axes = style.panel_grid(len(parts), 3, margin=0.6, row=2.6)
    for ax, part in zip(axes.flat, parts, strict=False):
        seeds = {name: own["value"] for name, own in style.by_algorithm(part)}
        for name, values in seeds.items():
            aside = 0.12 * (name in ("mf_sequential_joint", "mf"))
            style.marks(ax, name, [PLACES[name] + aside] * len(values), values, ms=5, alpha=0.8)
        for ends, (line, _) in SIDES.items():
            if set(ends) <= set(seeds):
                ax.plot([2, 3], [seeds[name].mean() for name in ends], ls=line, color="#555555", lw=1.2)
        if "bp_ds" in seeds:
            ax.axhline(seeds["bp_ds"].mean(), color=look("bp_ds").colour, lw=0.9, ls=":")
        ax.set_xticks(range(4), ["BP", "BP-DS", "not\ndetached", "detached"], fontsize=8)
        ax.set_xlim(-0.4, 3.5)
        n = span(pd.Series(style.runs_of(part)), 0)
        style.name_panel(ax, style.network_of(part, " "), f"n = {n} of each")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy (%)")
    lines = [Line2D([], [], color="#555555", ls=line, lw=1.2, label=text) for line, text in SIDES.values()]
    style.legend(figure, runs["algorithm"], line=False, extra=lines)
    words = "a mark is a run; lines join means; dotted: the mean of BP-DS; each panel has an axis of its own"
    style.caption(figure, words)
    return figure


def _waterfall(ax, values: pd.Series, rungs: list[str]) -> None:
    """A bar from the mean of the rung before to this rung's, and its runs; nothing where none has a cost."""
    values = values.dropna()
    if values.empty:
        style.say(ax, "no run has a\ncost of its own")
        ax.set_xticks([])
        return
    known = set(values.index.get_level_values("algorithm"))
    before, start = None, 0.0  # the place that a bar leads from, and its mean
    for place, name in enumerate(rungs):
        if name not in known:
            continue
        own, mean, text = values[name], values[name].mean(), style.n_of(len(values[name]))
        ax.barh(place, mean - start, left=start, height=0.55, **style.bar(name, filled=name != CORNER))
        style.marks(ax, name, own, [place] * len(own), ms=3.5, alpha=0.8)
        if before is not None:
            ax.plot([start] * 2, [before + 0.3, place + 0.3], color="#888888", lw=0.6, ls=":")
            text = f"×{mean / start:.2f}\n{text}"
        style.annotate(ax, (max(start, own.max()), place), text, (5, 0), va="center", linespacing=0.95)
        if name != CORNER or before is None:
            before, start = place, mean
    ax.set_xlim(0, 1.35 * values.max())


@style.styled
def decomposition(records: pd.DataFrame) -> Figure:
    """Energy as passes over the data × joules of a pass, as ratios to BP's, on a logarithmic axis.

    records: as `bpfree.records` gives it. All three are of the same pairs of runs (see `factors`), so that
        their product is the energy that was found; without validation. On this axis lengths add up: the upper
        bar is the ratio of passes, the lower one goes on from its end by the ratio of joules per pass, and
        where that ends, at the mark, is the ratio of energies, with its interval.
    """
    runs = with_baseline(finished_runs(records))
    parts = [(t, p, table) for t, p in style.facets(runs) if len(table := factors(p))]
    if not parts:
        return style.blank("no algorithm whose energy is known beside BP's on the same network")
    heights = [len(table) + 0.6 for *_, table in parts]
    figure, axes = style.new_figure(
        rows=len(parts), height=1.1 + 0.36 * sum(heights), sharex=True, height_ratios=heights
    )
    notes = []
    for ax, (title, part, table) in zip(axes[:, 0], parts, strict=True):
        notes.append(f"energy {style.energy_of(part)[1]}")
        for place, (name, row) in enumerate(table.iterrows()):
            how = {"height": 0.3, "ec": "black", "lw": 0.5}
            passes, energy = row["passes"], row["energy"]
            ax.barh(place - 0.17, passes - 1, left=1, color=style.BLUE, **how)
            ax.barh(place + 0.17, energy - passes, left=passes, color=style.ORANGE, **how)
            ax.plot([row["low"], row["high"]], [place] * 2, color=look(name).colour, lw=1.5, zorder=2.5)
            style.marks(ax, name, [energy], [place], ms=7, mec="white", mew=0.5, zorder=3)
            text = f"{_three(passes)} × {_three(row['per_pass'])} = {_three(energy)}, n = {row['n']:.0f}"
            style.beside(ax, place, text)
        ax.set_ylim(-0.6, len(table) - 0.4)
        style.rows_named(ax, list(map(label, table.index)), fontsize=8)
        ax.axvline(1.0, color="black", lw=0.8)
        style.name_panel(ax, title)
        ax.set_xscale("log")
        style.label_plainly(ax.xaxis)
    ends = np.concatenate([table[["passes", "energy"]].to_numpy().ravel() for *_, table in parts])
    axes[-1, 0].set_xlim(0.8 * min(1.0, ends.min()), 1.25 * max(1.0, ends.max()))
    axes[-1, 0].set_xlabel("cost (× BP)")
    handles = [
        Patch(fc=style.BLUE, ec="black", lw=0.5, label="passes over the data"),
        Patch(fc=style.ORANGE, ec="black", lw=0.5, label="joules of a pass"),
        Line2D([], [], label="energy: their product (an algorithm's own mark)", **OPEN),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    style.caption(
        figure,
        "geometric means over n pairs of runs of one seed that had their machine to themselves, against BP",
        "line: 95 % interval of the energy (Student's), none of one pair",
        "training and prefix work, without other validation",
        style.numbered(title for title, *_ in parts),
        *notes,
    )
    return figure


def _three(ratio: float) -> str:
    """Three figures, the last zeros included."""
    return f"{ratio:#.3g}".rstrip(".")


def factors(runs: pd.DataFrame) -> pd.DataFrame:
    """By algorithm: passes, per_pass and energy as ratios to BP's, of one facet.

    Geometric means over the n seeds of which both have a run with joules of its own, so that the first two
    multiply to the third; low, high: the interval of the energy. Arms without such a pair are left out.
    """
    kind, _ = style.energy_of(runs)
    table = metrics_per_run(runs).reindex(
        columns=["samples", f"train_{kind}_j", f"prefix_{kind}_j", f"total_{kind}_j"]
    )
    table = table.dropna(subset=f"total_{kind}_j").droplevel(["architecture", "key"])
    energy = table[[f"train_{kind}_j", f"prefix_{kind}_j"]].fillna(0.0).sum(axis=1)
    logs = np.log(pd.DataFrame({"passes": table["samples"], "energy": energy}))
    present = set(logs.index.get_level_values("algorithm"))
    rows = {}
    for name in ordered(present - {REFERENCE}) if REFERENCE in present else ():
        pairs = {c: stats.paired(logs.loc[name, c], logs.loc[REFERENCE, c]) for c in logs}
        if not len(pairs["energy"]):
            continue
        passes, found = np.exp(pairs["passes"].mean()), stats.describe(pairs["energy"])
        mean, low, high = np.exp([found.mean, found.low, found.high])
        rows[name] = {"passes": passes, "per_pass": mean / passes, "energy": mean}
        rows[name] |= {"low": low, "high": high, "n": found.n}
    return pd.DataFrame.from_dict(rows, orient="index")
