"""What training holds in memory, by accounts that must not be taken for one another, beside its time.

account        the tensors of a training step
with_prefix    the same and the kept output of the frozen layers below
rss, reserved  what the process held above its start: on a CPU resident memory, on a GPU the allocator's
"""

import numpy as np
import pandas as pd

from ..algorithms.arms import label
from ..data import dataset
from . import stats

ARM_AND_PREFIX = ["data", "architecture", "algorithm", "prefix"]
HELD = ("account", "with_prefix", "rss", "allocated", "reserved", "nvml")


def bytes_against_bp(table: pd.DataFrame) -> pd.DataFrame:
    """Mean bytes of each arm as a ratio to backpropagation's on the same network; n: processes of each.

    table: as `figures/measure/memory.py` writes it, of one machine. Index: `ARM_AND_PREFIX`.
    """
    means = table.pivot_table(index=ARM_AND_PREFIX, columns="quantity", values="value", sort=False)
    means = means[[quantity for quantity in HELD if quantity in means]]
    bp = means.xs(("bp", "kept"), level=["algorithm", "prefix"])
    ratios = means / bp.reindex(means.index.droplevel(["algorithm", "prefix"])).to_numpy()
    return ratios.assign(n=table.groupby(ARM_AND_PREFIX)["repeat"].nunique())


def beside_time(
    table: pd.DataFrame, costs: pd.DataFrame, runs: pd.DataFrame, device: str = "rss"
) -> pd.DataFrame:
    """`bytes_against_bp` and, as ratios to backpropagation, the time of a pass, of the passes and of both.

    Args:
        table: as `figures/measure/memory.py` writes it.
        costs: as `figures/measure/pass_cost.py` writes it: a pass, measured once.
        runs: as `bpfree.records` gives it: the passes under protocol "convergence", paired by seed, of the
            preset that has most pairs. Raises InvalidInput where a seed ran twice on a device.
        device: the quantity that is what the process held.

    Columns beside those of `bytes_against_bp`: pass; passes, low, high: geometric mean of the pairs and its
    interval; pairs: how many; time_low, time_high: that interval times pass, an estimate of the whole;
    held_low, held_high: what its process with least held over backpropagation's with most, and the other way
    round.
    """
    found = bytes_against_bp(table).drop("bp", level="algorithm")
    of_pass = costs[costs["metric"] == "train"].set_index(ARM_AND_PREFIX)["value"]
    rows = []
    for data, network, name, way in found.index:
        here = {"data": data, "architecture": network, "protocol": "convergence", "metric": "samples"}
        pairs = _pairs(runs[(runs[list(here)] == pd.Series(here)).all(axis=1)], name)
        bp = of_pass.get((data, network, "bp", "kept"), np.nan)
        row = {"pass": of_pass.get((data, network, name, way), np.nan) / bp, "pairs": len(pairs)}
        if len(pairs):
            said = stats.describe(pairs)
            row |= dict(zip(("passes", "low", "high"), np.exp([said.mean, said.low, said.high]), strict=True))
        rows.append(row)
    time = pd.DataFrame(rows, index=found.index)
    time["time_low"], time["time_high"] = time["pass"] * time["low"], time["pass"] * time["high"]
    measured = (
        table[table["quantity"] == device].groupby(ARM_AND_PREFIX, sort=False)["value"].agg(["min", "max"])
    )
    bp = measured.xs(("bp", "kept"), level=["algorithm", "prefix"])
    of_bp = bp.reindex(found.index.droplevel(["algorithm", "prefix"]))
    time["held_low"] = measured["min"].reindex(found.index) / of_bp["max"].to_numpy()
    time["held_high"] = measured["max"].reindex(found.index) / of_bp["min"].to_numpy()
    return found.join(time).dropna(subset=["pass", "passes"])


def _pairs(samples: pd.DataFrame, name: str) -> pd.Series:
    """Logarithms of the ratios of passes by seed, of one preset; a seed on several devices counts once."""
    found = []
    for _, rows in samples.groupby("preset", dropna=False):
        arms = [rows[rows["algorithm"] == arm].set_index(["seed", "device"])["value"] for arm in (name, "bp")]
        effects = stats.paired(*map(np.log, arms))
        found.append(effects.groupby("seed").mean())
    return max(found, key=len, default=pd.Series(dtype=float))


def memory_or_time(beside: pd.DataFrame, device: str) -> str:
    """Markdown: of each row of `beside_time` a sentence on what it holds and what it takes.

    device: the column that is what the process held.
    """
    said, both = [], []
    for (data, network, name, way), row in beside.iterrows():
        served = f", prefix {way}" if len(beside.xs((data, network, name))) > 1 else ""
        arm = f"{label(name)} on {dataset(data)} {network}{served}"
        held = "less" if row["held_high"] < 1 else "more" if row["held_low"] > 1 else "about as much"
        both += [arm] if held == "less" and row["time_high"] < 1 else []
        time = "takes less time" if row["time_high"] < 1 else "takes longer" if row["time_low"] > 1 else ""
        interval = f"[{row['low']:.2f}, {row['high']:.2f}] " if row["low"] > 0 else ""
        whole = f"×{row['time_low']:.2f} to ×{row['time_high']:.2f}" if interval else "no interval"
        said.append(
            f"- **{arm}**: its process holds {held}, ×{row[device]:.2f} (account "
            f"×{row['account']:.2f}, with the prefix ×{row['with_prefix']:.2f}; n = {row['n']:.0f}), and it "
            f"{time or 'may take less time or more'}: a pass, ×{row['pass']:.2f} (n = 1), times the passes, "
            f"×{row['passes']:.2f} {interval}(n = {row['pairs']:.0f}), gives {whole} (estimated)."
        )
    return "\n".join(
        [*said, "", f"Less memory and less time at once: **{'; '.join(both) or 'none of these'}**."]
    )
