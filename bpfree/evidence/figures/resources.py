"""Figures of what the machine did meanwhile: memory, clock, utilisation and temperature over time."""

from collections.abc import Sequence
from functools import partial
from itertools import permutations

import pandas as pd
from matplotlib.figure import Figure

from ...algorithms.arms import label, look, ordered
from ..runs import MIB
from . import style

QUANTITIES = {  # of a trace: (label, factor)
    "utilisation": ("utilisation (%)", 1.0),
    "sm_clock": ("clock (MHz)", 1.0),
    "temperature": ("temperature (°C)", 1.0),
    "memory": ("memory in use (MiB)", 1 / MIB),
    "rss": ("resident memory (MiB)", 1 / MIB),
    "power": ("power (W)", 1.0),
}

PROCESS = "cpu:process"
#: What a GPU's sensor would say -> what the process's own account says in its place; None: nothing does.
STAND_INS = {
    "memory": ("rss", "resident memory of the process, Python and its libraries included"),
    "utilisation": ("utilisation", "processor time of the process, 100 % a core"),
    "sm_clock": ("utilisation", "processor time of the process, 100 % a core, for the clock"),
    "temperature": (None, "nothing for the temperature"),
    "power": (None, "nothing for the power"),
}
FEW = 40  # samples of a run: fewer are drawn one by one, so that a line does not pretend to more


@style.styled
def over_time(traces: pd.DataFrame, quantities: Sequence[str], *, stages: bool = False) -> Figure:
    """Quantities over a run, algorithms on top of each other: a row per data set and network, a column each.

    Args:
        traces: as `bpfree.experiments.store.traces` gives it. Of several seeds the lowest is drawn.
        quantities: names in `STAND_INS`. Where no GPU was sampled, the process's own account stands in and
            the caption says so; what has no stand-in has no panel.
        stages: mark where the stages of a sequential algorithm begin.

    A run that was over before the sampler came a second time has a mark and no line, or nothing at all of a
    quantity that is a share of the time between two samples; the caption names it. Samples of a GPU from
    before it worked without a pause are of warming up and are left out. The caption also names runs whose
    memory begins where another's ends (`inherited`).
    """
    style.require(traces, "traces")
    arms = traces.groupby(["algorithm", "data", "architecture", "protocol"])
    traces = traces[traces["seed"] == arms["seed"].transform("min")]
    parts = style.facets(traces)
    columns = [[_samples_of(part, quantity) for _, part in parts] for quantity in quantities]
    missing = dict.fromkeys(what for column in columns for _, _, what in column if what)
    without = [part for i, (_, part) in enumerate(parts) if any(column[i][2] for column in columns)]
    columns = [column for column in columns if any(len(rows) for rows, _, _ in column)]
    if not columns:
        return style.blank(f"nothing of {', '.join(quantities)} was sampled, nor what stands in for it")
    short = []
    names = style.told_apart((style.network_of(part) for _, part in parts), (title for title, _ in parts))
    figure, axes = style.new_figure(columns=len(columns), rows=len(parts), height=0.75 + 2.1 * len(parts))
    for (_, part), name, panels, *series in zip(parts, names, axes, *columns, strict=True):
        for ax, (rows, quantity, _) in zip(panels, series, strict=True):
            if rows.empty:
                ax.axis("off")
                style.say(ax, "no sample")
                continue
            for arm in ordered(part["algorithm"]):
                run = rows[rows["algorithm"] == arm]
                short += [label(arm)] if run.groupby("channel").size().max() < 2 or run.empty else []
                _draw_run(ax, arm, run, stages)
            ax.set(xlabel="seconds since the run began", ylabel=quantity)
            ax.set_xlim(left=0)
            if quantity.endswith("(%)"):
                ax.set_ylim(bottom=0)
            ax.margins(y=0.2 if stages else 0.05)  # room for the stages' names
        seeds = " and ".join(f"{seed:g}" for seed in part["seed"].unique())
        style.name_panel(panels[0], f"{name}; one run each, seed {seeds}")
    style.legend(figure, traces["algorithm"], marker=False)
    where = "in panels without a GPU" if len(without) < len(parts) else "no GPU, in its place"
    style.caption(
        figure,
        f"{where}: {', '.join(missing)}" if missing else "",
        f"over before a second sample: {', '.join(dict.fromkeys(short))}" if short else "",
        "dotted: a stage begins" if stages else "",
        "the GPU's warm-up is left out" if (traces["device"] == "cuda").any() else "",
        *(after_another(traces) if "memory" in quantities else ()),
    )
    return figure


def inherited(traces: pd.DataFrame) -> pd.DataFrame:
    """Runs whose memory on the GPU begins at exactly what another run's ended at, on the same network.

    They ran in one process, one after the other: the later one has what the earlier one's allocator had
    taken, so that the two lines cannot be compared. Columns: data, algorithm, after, memory (bytes).
    """
    memory = traces[(traces["device"] == "cuda") & (traces["quantity"] == "memory")].dropna(subset="value")
    rows = []
    for data, part in memory.sort_values("time_s").groupby("data", sort=False):
        ends = part.groupby("algorithm", sort=False)["value"].agg(["first", "last"])
        for name, after in permutations(ends.index, 2):
            if ends.loc[name, "first"] == ends.loc[after, "last"] > ends.loc[after, "first"]:
                rows.append((data, name, after, ends.loc[name, "first"]))
    return pd.DataFrame(rows, columns=["data", "algorithm", "after", "memory"])


def after_another(traces: pd.DataFrame) -> list[str]:
    """A sentence for each pair of algorithms in `inherited`."""
    said = []
    for (name, after), pairs in inherited(traces).groupby(["algorithm", "after"], sort=False):
        where = [f"{row.memory / MIB:.0f} MiB on {style.data_name(row.data)}" for row in pairs.itertuples()]
        said.append(
            f"{label(name)}'s memory begins where {label(after)}'s ends ({', '.join(where)}): it "
            "ran after it in the same process, so that the lines do not compare the two"
        )
    return said


def warmed(traces: pd.DataFrame) -> pd.DataFrame:
    """Without each run's samples from before its GPU was busy at two samples in a row; others as they are."""
    run = [c for c in ("algorithm", "data", "architecture", "protocol", "seed", "machine") if c in traces]
    on_gpu = traces["channel"].str.startswith("gpu")
    busy = traces[on_gpu & (traces["quantity"] == "utilisation")].sort_values("time_s")
    works = busy.assign(works=(busy["value"] > 0).astype(int))
    twice = works["works"] + works.groupby(run, dropna=False)["works"].shift(-1) == 2
    begins = busy[twice].groupby(run, dropna=False)["time_s"].min().rename("begins")
    since = traces[run].merge(begins.reset_index(), on=run, how="left")["begins"].fillna(0.0)
    return traces[(traces["time_s"].to_numpy() >= since.to_numpy()) | ~on_gpu.to_numpy()]


# The panels of the paper's figures.
memory_and_clock = partial(over_time, quantities=("memory", "sm_clock"))
utilisation_and_temperature = partial(over_time, quantities=("utilisation", "temperature"))
memory_steps = partial(over_time, quantities=("memory",), stages=True)


def _samples_of(part: pd.DataFrame, quantity: str) -> tuple[pd.DataFrame, str, str]:
    """(rows of the quantity or of its stand-in, in the axis's unit; the axis's label; what to say of it)."""
    on_gpu = part["device"] == "cuda"  # a run on the processor says nothing about a GPU beside it
    gpu = on_gpu & part["channel"].str.startswith("gpu")
    what = ""
    if (gpu & (part["quantity"] == quantity)).any():
        rows = warmed(part[gpu])
        rows, where = rows[rows["quantity"] == quantity].dropna(subset="value"), "GPU"
    else:
        (quantity, what), where = STAND_INS[quantity], "process"
        if quantity is None:
            return part.iloc[:0], "", what
        rows = part[(part["channel"] == PROCESS) & (part["quantity"] == quantity)].dropna(subset="value")
        if quantity == "utilisation":  # the first sample has no time before it to be a share of
            runs = rows.groupby("algorithm")["value"]
            rows = rows[(runs.cumcount() > 0) | (runs.transform("size") == 1)]
    words, factor = QUANTITIES[quantity]
    return rows.assign(value=factor * rows["value"]), f"{where}:\n{words}", what


def _draw_run(ax, name: str, run: pd.DataFrame, stages: bool) -> None:
    for _, part in run.groupby("channel", sort=False):
        few = {"marker": look(name).marker, "ms": 3.5} if len(part) < FEW else {"marker": "none"}
        style.curve(ax, name, part["time_s"], part["value"], lw=1.2, **few)
    begins = run.groupby("stage", sort=False)["time_s"].min().sort_values()
    if not stages or len(begins) < 2:
        return
    for stage, begin in begins.items():
        ax.axvline(begin, color=look(name).colour, lw=0.7, ls=":")
        style.name_stage(ax, stage, begin, look(name).colour)
