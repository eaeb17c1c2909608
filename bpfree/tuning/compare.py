"""Tuned settings beside the published ones, and the searches that both came from."""

import math

import pandas as pd

from ..algorithms.arms import arm, look
from ..data import dataset
from ..experiments import published, tuned


def beside_published() -> pd.DataFrame:
    """A row per tuned arm and searched parameter, for those arms that were published, too.

    Columns: algorithm, data, network, parameter; thesis and 2026 (the published values; NaN if there is
    none), theirs (the range that the thesis searched, as text) and their trials; ours (this package's), our
    range and trials; and val accuracy (%), of our best trial.
    """
    values = published.hyperparameters().set_index(["source", *tuned.ARM, "parameter"])["value"]
    ranges = published.searches().set_index([*tuned.ARM, "parameter"])
    rows = []
    for row in tuned.table().itertuples():
        place, space = (row.algorithm, row.data, row.architecture), arm(row.algorithm).space
        known = {source: values.get((source, *place, row.parameter)) for source in ("thesis", "2026")}
        if row.parameter not in space or all(value is None for value in known.values()):
            continue
        theirs = ranges.loc[(*place, row.parameter)] if (*place, row.parameter) in ranges.index else None
        ours = space[row.parameter]
        rows.append(
            {
                "algorithm": look(row.algorithm).label,
                "data": dataset(row.data),
                "network": row.architecture,
                "parameter": row.parameter,
                **known,
                "theirs": "" if theirs is None else f"{theirs['low']:g} to {theirs['high']:g}",
                "their trials": None if theirs is None else theirs["trials"],
                "ours": row.value,
                "our range": f"{ours.low:g} to {ours.high:g}",
                "our trials": row.trials,
                "val accuracy": row.val_accuracy,
            }
        )
    columns = ["algorithm", "data", "network", "parameter", "thesis", "2026", "theirs", "their trials"]
    return pd.DataFrame(rows, columns=[*columns, "ours", "our range", "our trials", "val accuracy"])


def published_effort() -> pd.DataFrame:
    """How hard the thesis searched for each algorithm: a row per algorithm, over its data and networks.

    Columns: algorithm, trials (all that occur, as text), pruner, and the decades (log10) of its learning
    rate's range.
    """
    rows = published.searches(source="thesis", parameter="lr")
    table = []
    for name, part in rows.groupby("algorithm", sort=False):
        decades = {
            round(math.log10(high / low), 1) for low, high in zip(part["low"], part["high"], strict=True)
        }
        counts = part.groupby("trials").size()
        table.append(
            {
                "algorithm": look(name).label,
                "trials": ", ".join(f"{n} ({k} ×)" for n, k in counts.items()),
                "pruner": ", ".join(part["pruner"].unique()),
                "decades searched for lr": ", ".join(f"{d:g}" for d in sorted(decades)),
            }
        )
    return pd.DataFrame(table)
