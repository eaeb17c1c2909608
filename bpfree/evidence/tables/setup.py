"""What was trained with, and on."""

from collections.abc import Iterable, Mapping

import pandas as pd

from ...experiments import published
from ..order import PLACE, named

#: The hyperparameters that the papers' tuning searched, in the order of the table.
SEARCHED = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "momentum": "momentum",
    "head_lr": "learning rate, read-out",
    "head_weight_decay": "weight decay, read-out",
    "block_lr": "learning rate, blocks",
    "block_weight_decay": "weight decay, blocks",
    "block_epochs": "epochs, blocks",
    "aux_weight": "λ",
}


def best_hyperparameters(*, tuned: pd.DataFrame | None = None) -> pd.DataFrame:
    """The hyperparameters that were searched, as published and as tuned here.

    tuned: as `bpfree.experiments.tuned.usual()` gives it.
    Returns: a row per network, algorithm and parameter, with a column per source, and "tuned".
    """
    printed = published.hyperparameters()
    sources = list(dict.fromkeys(printed["source"]))
    columns = [*PLACE, "parameter", "value", "whose"]
    rows = [printed.rename(columns={"source": "whose"})]
    rows += [] if tuned is None else [tuned.assign(whose="tuned")]
    table = pd.concat([part[columns].astype(object) for part in rows if len(part)], ignore_index=True)
    table = table[table["parameter"].isin(list(SEARCHED))]
    table["value"] = [
        "none" if v is None else f"{v:.3g}" if isinstance(v, int | float) else str(v) for v in table["value"]
    ]
    wide = table.groupby([*PLACE, "parameter", "whose"])["value"].agg(lambda v: "; ".join(dict.fromkeys(v)))
    wide = wide.unstack("whose").reindex(columns=[*sources, "tuned"])
    wide = wide.reindex(list(SEARCHED), level="parameter").astype(object).fillna("").reset_index()
    return named(wide.assign(parameter=wide["parameter"].map(SEARCHED)))


def environment(machines: Iterable[Mapping]) -> pd.DataFrame:
    """Hardware and versions, a column per machine: `record.machine` of the runs, each machine once.

    Where runs of one machine come from several revisions of this package, all are listed.
    """
    found: dict[str, dict[str, list]] = {}
    for machine in machines:
        values = found.setdefault(machine["id"], {})
        for name, value in machine.items():
            if name != "id" and value not in values.setdefault(name, []):
                values[name].append(value)
    table = pd.DataFrame(
        {id_: {k: "; ".join("none" if pd.isna(v) else str(v) for v in vs) for k, vs in values.items()}
         for id_, values in found.items()}
    )  # fmt: skip
    names = {"memory_gib": "memory (GiB)", "git": "revision"}
    return table.fillna("").rename(index=names).rename_axis(index="machine").reset_index()
