"""What training holds in memory, by accounts that must not be taken for one another, beside its time.

account        the tensors of a training step
with_prefix    the same and the kept output of the frozen layers below
rss, reserved  what the process held above its start: on a CPU resident memory, on a GPU the allocator's
"""

from math import nan

import pandas as pd

from ..algorithms.arms import label
from ..experiments.study import NOT_CACHED
from .order import PLACE, network_name
from .runs import Ours
from .tables.text import span

ARM_AND_PREFIX = [*PLACE, "prefix"]
HELD = ("account", "with_prefix", "rss", "allocated", "reserved", "nvml")


def bytes_against_bp(table: pd.DataFrame) -> pd.DataFrame:
    """Mean bytes of each arm as a ratio to backpropagation's on the same network; n: processes of each.

    table: as `figures/measure/memory.py` writes it, of one machine. Index: `ARM_AND_PREFIX`.
    """
    means = table.pivot_table(index=ARM_AND_PREFIX, columns="quantity", values="value", sort=False)
    means = means[[quantity for quantity in HELD if quantity in means]]
    ratios = means / _of_bp(means, means.index)
    return ratios.assign(n=table.groupby(ARM_AND_PREFIX)["repeat"].nunique())


def _of_bp(table: pd.DataFrame | pd.Series, index: pd.MultiIndex) -> pd.DataFrame | pd.Series:
    """For every arm of the index backpropagation's row on the same network."""
    return table.reindex([(*place[:2], "bp", "kept") for place in index]).set_axis(index)


def beside_time(
    table: pd.DataFrame, costs: pd.DataFrame, runs: pd.DataFrame | Ours, device: str = "rss"
) -> pd.DataFrame:
    """`bytes_against_bp` and, as ratios to backpropagation, the time of a pass, of the passes and of both.

    Args:
        table: as `figures/measure/memory.py` writes it.
        costs: as `figures/measure/pass_cost.py` writes it: a pass, measured once.
        runs: as `bpfree.records` gives it: the passes under protocol "convergence", paired as all outcomes
            are (`Ours.pair`): of a seed that ran on several devices its mean. Raises InvalidInput where a
            seed ran twice on a machine.
        device: the quantity that is what the process held.

    Columns beside those of `bytes_against_bp`: pass; passes, low, high: geometric mean of the pairs and its
    interval; pairs: how many; time_low, time_high: that interval times pass, an estimate of the whole;
    held_low, held_high: what its process with least held over backpropagation's with most, and the other way
    round; held_on, timed_on: the processor; augmented: those runs have augmented images, of which no prefix
    can be kept, so that this row has no passes. Arms of which neither a pass nor the passes are known are
    left out.
    """
    found = bytes_against_bp(table).drop("bp", level="algorithm")
    of_pass = costs[costs["metric"] == "train"].set_index(ARM_AND_PREFIX)["value"]
    ours, rows = Ours.of(runs), []
    for place in found.index:
        pair = ours.pair(place[:3], ("convergence",), ("tuned", ""))
        [passes] = ours.comparison("epochs", "ratio", *pair)
        rows.append((passes.n, passes.mean, passes.low, passes.high))
    time = pd.DataFrame(rows, found.index, ["pairs", "passes", "low", "high"])
    augmented = [p[0] in NOT_CACHED and p[3] == "kept" and _both_ways(p, found) for p in found.index]
    time.loc[augmented] = 0, nan, nan, nan
    time["augmented"] = augmented
    time.insert(0, "pass", of_pass.reindex(found.index) / _of_bp(of_pass, found.index))
    time["time_low"], time["time_high"] = time["pass"] * time["low"], time["pass"] * time["high"]
    processes = table[table["quantity"] == device].groupby(ARM_AND_PREFIX)["value"]
    least, most = processes.min(), processes.max()
    time["held_low"] = least.reindex(found.index) / _of_bp(most, found.index)
    time["held_high"] = most.reindex(found.index) / _of_bp(least, found.index)
    time["held_on"], time["timed_on"] = (t["machine"].iloc[0].partition(",")[0] for t in (table, costs))
    return found.join(time).dropna(subset=["pass", "passes"], how="all")


def memory_or_time(beside: pd.DataFrame, device: str = "rss") -> pd.DataFrame:
    """`beside_time` as a table to read: a row per arm, its process's memory and its time as ratios to BP's.

    device: the column that is what the process held. The time is a pass, measured once, times the 95 %
    interval of the passes: an estimate, and none where the pass or three pairs of runs are missing.
    """
    rows = []
    for place, row in beside.iterrows():
        known = row["pairs"] >= 3 and row["pass"] > 0
        time = f"{row['time_low']:.2f} to {row['time_high']:.2f}" if known else "not known"
        passes = f"{row['passes']:.2f} (n = {row['pairs']:.0f})" if row["pairs"] else "not known"
        if row["augmented"]:
            passes = time = "not possible: images are augmented"
        memory = f"{row[device]:.2f} (n = {row['n']:.0f})"
        a_pass = f"{row['pass']:.2f}" if row["pass"] > 0 else "not measured"
        ratios = memory, a_pass, passes, time
        rows.append((network_name(*place[:2]), _arm(place, beside), *ratios))
    of = [f"{what} (× BP)" for what in ("memory", "a pass", "passes", "both multiplied")]
    return pd.DataFrame(rows, columns=["network", "algorithm", *of])


def less_of_both(beside: pd.DataFrame, device: str = "rss") -> str:
    """Markdown: what MF takes and holds either way, and which arms have less of both than BP.

    A prefix that cannot be kept, because images are augmented, is left out.
    """
    said, possible = [], beside[~beside["augmented"]]
    for way, doing in {"kept": "kept", "recomputed": "computed again"}.items():
        rows = possible[[place[2:] == ("mf", way) for place in possible.index]]
        if rows.empty:
            continue
        said.append(
            f"**{span(rows[[device]])} times** backpropagation's memory and **"
            f"{span(rows[['time_low', 'time_high']])} times** its time with the layers below {doing}"
        )
    less = possible[(possible["held_high"] < 1) & (possible["time_high"] < 1)]
    which = [f"{_arm(place, beside)} on {network_name(*place[:2])}" for place in less.index]
    both = possible.dropna(subset=["pass", "passes"])
    mf = both.xs("mf", level="algorithm")
    return (
        f"On a CPU Mono-Forward takes {', or '.join(said)}. Less of both at once: "
        f"**{', '.join(which) or 'none'}** of the {len(both)} of which both are known (memory: "
        f"{beside['held_on'].iloc[0]}, n = {span(beside[['n']], 0)} processes; time: an estimate, from one "
        f"pass measured on {beside['timed_on'].iloc[0]} and, for Mono-Forward, {span(mf[['pairs']], 0)} "
        f"pairs of runs)."
    )


def _arm(place: tuple[str, str, str, str], beside: pd.DataFrame) -> str:
    """The algorithm, and how its prefix was served where both ways were measured."""
    return f"{label(place[2])}, prefix {place[3]}" if _both_ways(place, beside) else label(place[2])


def _both_ways(place: tuple[str, str, str, str], beside: pd.DataFrame) -> bool:
    """Whether the arm was measured with its prefix kept and with it recomputed."""
    return len(beside.xs(place[:3])) > 1
