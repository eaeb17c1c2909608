"""How much of a search a machine runs, the budgets of the profiles; and how much the papers searched."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from ..algorithms.architectures import default_architecture
from ..algorithms.arms import arm, look
from ..data import dataset
from ..errors import choose
from ..experiments import published, tuned
from ..experiments.experiment import Experiment
from ..experiments.study import FLAT, PROFILES, Profile, fitting_network

#: One algorithm of each family. Of Forward-Forward and the MLPs it is compared with, the network is the same.
USUAL_ARMS = ("bp", "ff", "cafo_rand", "mf")


@dataclass(frozen=True)
class Plan:
    """The budget of a search, the same for all: `trials` of each study, a cap on the epochs of every stage.

    Attributes:
        rates: at which the learning rate is swept.
        networks: algorithm -> architecture, "" for the others; without an entry the paper's.
        fixed: hyperparameters that are not searched.
    """

    trials: int
    max_epochs: int | None
    rates: tuple[float, ...]
    networks: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping = field(default_factory=dict)

    def experiments(self, chosen: Profile, *algorithms: str) -> list[Experiment]:
        """What is tuned: these algorithms (default: `USUAL_ARMS`) on the profile's first data set and seed.

        All with AdamW, whatever the papers took: an optimiser is part of the effort, too. Without algorithms
        that cannot be trained on a user's own data.
        """
        data, seed = chosen.datasets[0], chosen.seeds[0]
        usual, found = self.networks.get(""), []
        own = {"hyperparameters": {"optimiser": "adamw", **self.fixed}, "max_epochs": self.max_epochs}
        for algorithm in dict.fromkeys(algorithms or USUAL_ARMS):
            wanted = self.networks.get(algorithm, usual) or default_architecture(algorithm, data)
            if network := fitting_network(algorithm, data, wanted, seed, usual or FLAT):
                found.append(Experiment(algorithm, data, seed, network, **own))
        return found


def half_decades(low: float, high: float) -> tuple[float, ...]:
    """10**low, 10**(low + 1/2), ..., 10**high."""
    return tuple(10 ** (low + k / 2) for k in range(round(2 * (high - low)) + 1))


PLANS = {
    # seconds, on small networks
    "quick": Plan(8, 4, half_decades(-3, -0.5), {"": "2x64", "cafo_rand": "cnn-8-16"}, {"batch_size": 64}),
    # some hours on a CPU: one network for all MLPs, and a smaller CNN than the paper's
    "laptop": Plan(20, 8, half_decades(-5, -1), {"": "2x1000", "cafo_rand": "cnn-16-32-64"}),
    "evidence": Plan(20, 8, half_decades(-5, -1), {"": "2x1000"}),
    # the paper's networks, and as many trials for all as it gave to the local algorithms
    "paper": Plan(50, None, half_decades(-5, -1)),
}


def plan_of(profile: str, trials: int = 0, max_epochs: int = 0) -> Plan:
    """The plan of a profile, with other trials or another cap. Raises UnknownName for no such profile."""
    own = PLANS[choose("profile", profile, PROFILES)]
    return replace(own, trials=trials or own.trials, max_epochs=max_epochs or own.max_epochs)


# ---------------------------------------------------------------- beside what was published


def beside_published() -> pd.DataFrame:
    """A row per tuned arm and searched parameter, for those arms that were published, too.

    Columns: algorithm, data, network, parameter; thesis and 2026 (the published values; NaN if there is
    none), theirs (the range that the thesis searched, as text) and their trials; ours (this package's), our
    range and trials; and val accuracy (%), of our best trial.
    """
    values = published.hyperparameters().set_index(["source", *tuned.ARM_KEYS, "parameter"])["value"]
    ranges = published.searches().set_index([*tuned.ARM_KEYS, "parameter"])
    rows = []
    for row in tuned.usual().itertuples():
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
    return pd.DataFrame(rows)


def published_effort() -> pd.DataFrame:
    """How hard the thesis searched for each algorithm: a row per algorithm, over its data and networks.

    Columns: algorithm, trials (all that occur, as text), pruner, and the decades (log10) of its learning
    rate's range.
    """
    rows = published.searches(source="thesis", parameter="lr")
    rows["decades"] = [round(math.log10(row.high / row.low), 1) for row in rows.itertuples()]
    table = [
        {
            "algorithm": look(name).label,
            "trials": ", ".join(f"{n} ({k} ×)" for n, k in part.groupby("trials").size().items()),
            "pruner": ", ".join(part["pruner"].unique()),
            "decades searched for lr": ", ".join(f"{d:g}" for d in sorted(part["decades"].unique())),
        }
        for name, part in rows.groupby("algorithm", sort=False)
    ]
    return pd.DataFrame(table)
