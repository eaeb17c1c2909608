"""What a training run cost in operations and bytes: counted, so the same on any machine."""

from typing import NamedTuple

import pandas as pd
from torch import nn

from ..training.batches import Data
from ..training.history import History
from .flops import flops
from .memory import account

REGION = {"validation": "val", "prefix, cached": "prefix", "prefix, recomputed": "prefix"}  # others: "train"


class Counts(NamedTuple):
    """What an epoch costs: the tables of `flops` and of `account`. The same for every seed of an arm."""

    flops: pd.DataFrame
    account: pd.DataFrame


def counts(algorithm: nn.Module, data: Data) -> Counts:
    """Counted on one real step of every stage; the algorithm is left as it is."""
    return Counts(flops(algorithm, data), account(algorithm, data))


def bill(counted: Counts, history: History) -> dict[str, float]:
    """Operations of the whole run by region, as the history has seconds, and the most bytes of any stage.

    Args:
        counted: of the algorithm that the history is of, on its data.

    Returns:
        `prefix_flop`, `train_flop`, `val_flop` and `total_flop`: every epoch as it was trained, the prefix as
        it was served. `memory_bytes` and `graph_bytes`: the largest `peak` and `graph` of `account`'s stages.
    """
    epochs = {stage.name: len(stage.rows) for stage in history.stages}
    served = {s.name: "prefix, " + s.prefix.partition(" ")[0] for s in history.stages}  # "cached in memory"
    spent = dict.fromkeys(("prefix_flop", "train_flop", "val_flop"), 0.0)
    for row in counted.flops.itertuples():
        if row.when == "prediction" or (row.part.startswith("prefix") and row.part != served[row.stage]):
            continue
        times = epochs[row.stage] if row.when == "pass" else 1
        spent[REGION.get(row.part, "train") + "_flop"] += times * row.flops
    return {
        **spent,
        "total_flop": sum(spent.values()),
        "memory_bytes": float(counted.account["peak"].max()),
        "graph_bytes": float(counted.account["graph"].max()),
    }
