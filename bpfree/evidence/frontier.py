"""What a budget that was fixed in advance bought: a row per run under the protocol "frontier".

`figures/data/frontier.csv` has these rows of the committed runs, `frontier_trials.csv` those of the search.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..experiments.store import Record
from .evidence import FOLDER, read_table, write_table
from .order import arranged

WHO = ["data", "architecture", "algorithm", "passes", "seed"]
SETTINGS = ["lr", "weight_decay", "aux_weight", "stage_ratio"]
SCORES = ["val_accuracy", "test_accuracy", "test_accuracy[sum]"]
COSTS = ["flop", "s", "measured_j", "estimated_j"]
COLUMNS = [*WHO, *SETTINGS, *SCORES, *COSTS, "device", "machine", "run"]


def points(records: Iterable[Record]) -> pd.DataFrame:
    """A row per finished run on a budget of its own: who, with which settings, what it reached and cost.

    Columns: data, architecture, algorithm, passes (the budget), seed; lr, weight_decay and what else was
    searched; val_accuracy, test_accuracy (%) and that by the sum of the layers where there is one; then the
    cost of training, its prefixes included and validation left out: flop (operations), s, measured_j and
    estimated_j, of which a run that shared its machine has operations alone; device, machine, and the first
    digits of the run's key.
    """
    rows = []
    for r in records:
        e = r.experiment
        if r.status != "finished" or e.budget is None or not e.budget.exact:
            continue
        own = {name: e.options.get(name, math.nan) for name in SETTINGS}
        for unit in COSTS:
            parts = [r.cost.get(f"{region}_{unit}") for region in ("train", "prefix")]
            told = parts[0] is not None and (unit == "flop" or not r.contended)
            own[unit] = parts[0] + (parts[1] or 0.0) if told else math.nan
        own |= {name: r.metrics.get(name, math.nan) for name in SCORES}
        who = {"algorithm": e.algorithm, "data": e.data, "architecture": e.architecture, "seed": e.seed}
        whose = {"device": e.device, "machine": r.machine["id"], "run": r.key[:12]}
        rows.append({**who, "passes": e.budget.amount, **own, **whose})
    return arranged(pd.DataFrame(rows, columns=COLUMNS), *WHO).reset_index(drop=True)


def keep(records: Iterable[Record], folder: Path = FOLDER) -> Path:
    """Writes the points of these runs beside those in `folder`/data; of the same run the later."""
    return _keep(points(records), folder / "data" / "frontier.csv", ["run"])


def keep_trials(trials: pd.DataFrame, folder: Path = FOLDER) -> Path:
    """Writes the trials of a search, as `tuning.trials` gives them, beside those that are there."""
    columns = ["study", "algorithm", "data", "architecture", "trial", "state", "value", *SETTINGS, "seconds"]
    return _keep(trials.reindex(columns=columns), folder / "data" / "frontier_trials.csv", ["study", "trial"])


def _keep(table: pd.DataFrame, path: Path, by: list[str]) -> Path:
    old = [read_table(path)] if path.exists() else []
    both = pd.concat([*old, table], ignore_index=True).drop_duplicates(by, keep="last")
    order = [c for c in (*WHO, "study", "trial") if c in both]
    return write_table(arranged(both, *order), path)
