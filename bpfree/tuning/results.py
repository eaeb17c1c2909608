"""What studies found and what they cost, as tidy tables."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..errors import InvalidInput
from .search import identity_of
from .storage import is_finished, quiet

RUN = ["study", "algorithm", "data", "architecture", "protocol", "seed", "trial", "state", "value"]
COST_COLUMNS = ["seconds", "joules", "energy", "provenance", "machine"]
SO_FAR = ["total_seconds", "total_joules", "best"]


def trials(studies: Study | Iterable[Study]) -> pd.DataFrame:
    """A row per trial.

    Columns: study, algorithm, data, architecture, protocol, seed, trial (its number), state ("complete",
    "pruned", "diverged", "lost" with its worker, or "running"), value (validation accuracy, %), a column per
    parameter, then what it took: seconds, joules, energy ("measured" or "estimated"), provenance and machine;
    and of the study until then, in the order of numbers: total_seconds, total_joules and best. Joules are
    measured only where those of all trials of a study are. Totals are of the trials whose cost was recorded:
    not of running or lost ones. As soon as one of these has no joules, total_joules is NaN.
    """
    studies = [studies] if isinstance(studies, Study) else list(studies)
    frame = pd.concat([_trials(study) for study in studies], ignore_index=True)
    parameters = [column for column in frame if column not in (*RUN, *COST_COLUMNS, *SO_FAR)]
    return frame[[*RUN, *parameters, *COST_COLUMNS, *SO_FAR]]


def _trials(study: Study) -> pd.DataFrame:
    own = identity_of(study)
    recorded = study.get_trials(deepcopy=False)
    costs = {t.number: t.user_attrs.get("cost", {}) for t in recorded}
    spent = [cost for cost in costs.values() if cost]
    measured = bool(spent) and all(cost["measured_j"] is not None for cost in spent)
    joules = "measured_j" if measured else "estimated_j"
    rows = [
        {
            "study": study.study_name,
            **{key: own[key] for key in ("algorithm", "architecture", "protocol", "seed")},
            "data": own["experiment"]["data"],
            "trial": t.number,
            "state": state(t),
            "value": t.value if t.state == TrialState.COMPLETE else None,
            **t.params,
            **{name: costs[t.number].get(name) for name in ("seconds", "provenance", "machine")},
            "joules": costs[t.number].get(joules),
            "energy": "measured" if measured else "estimated",
        }
        for t in recorded
    ]
    frame = pd.DataFrame(rows, columns=[*RUN, *own["space"], *COST_COLUMNS])
    frame = frame.astype({c: float for c in ("value", "seconds", "joules")})
    unknown = frame["joules"].isna() & frame["seconds"].notna()
    return frame.assign(
        total_seconds=frame["seconds"].fillna(0.0).cumsum(),
        total_joules=frame["joules"].fillna(0.0).cumsum().mask(unknown.cummax()),
        best=frame["value"].cummax().ffill(),
    )


#: The states of trials that count as tried; the others were lost, or are not over.
DONE = ("complete", "pruned", "diverged")


def state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:
        return "diverged" if is_finished(trial) else "lost"
    return trial.state.name.lower()


def cost(studies: Study | Iterable[Study]) -> pd.DataFrame:
    """The bill of searching, a row per study.

    Columns: study, algorithm, data, architecture, trials (finished), diverged, pruned, lost (of which nobody
    recorded the cost: it is in no sum), best (validation accuracy, %), seconds, joules (NaN if those of a
    trial are not known), energy ("measured" or "estimated") and provenance. Seconds are those of the trials,
    one after the other, however many workers there were.
    """
    frame = trials(studies)
    rows = []
    for key, part in frame.groupby(RUN[:4], sort=False):
        ended = {name: int((part["state"] == name).sum()) for name in ("diverged", "pruned", "lost")}
        rows.append(
            {
                **dict(zip(RUN[:4], key, strict=True)),
                "trials": int(part["state"].isin(DONE).sum()),
                **ended,
                "best": part["value"].max(),
                "seconds": part["seconds"].sum(),
                "joules": part["total_joules"].iloc[-1] if part["seconds"].notna().any() else math.nan,
                "energy": part["energy"].iloc[0],
                "provenance": "; ".join(part["provenance"].dropna().unique()),
            }
        )
    return pd.DataFrame(rows)


def importances(studies: Study | Iterable[Study]) -> pd.DataFrame:
    """How much of the spread of accuracy over the space each parameter accounts for.

    A row per study and parameter; the importances of a study add up to 1. Optuna's fANOVA (Hutter et al.,
    2014): the variance that a forest fitted to the trials owes to the parameter alone. From a dozen trials it
    is a hint. A study whose trials all reached the same has no rows.
    """
    # Here, because scikit-learn's forests take a second to import.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    rows = []
    for study in [studies] if isinstance(studies, Study) else studies:
        if len({t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}) < 2:
            continue
        with quiet():
            found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=32, seed=0))
        algorithm = identity_of(study)["algorithm"]
        rows += [(study.study_name, algorithm, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["study", "algorithm", "parameter", "importance"])


def tolerance(trials: pd.DataFrame, points: float = 2.0) -> pd.DataFrame:
    """How far the learning rate may be from its best value before the accuracy falls by so many points.

    trials: of sweeps over `lr`, as `trials` gives them. A row per algorithm: best (validation
    accuracy, %), at (the value there), low and high (where accuracy falls below best - points on either side,
    interpolated along the logarithm between two trials; where it never does, the end of the sweep), decades
    between these, and points. A trial that diverged has reached nothing.
    """
    rows = []
    for algorithm, part in trials.groupby("algorithm", sort=False):
        curve = part.set_index("lr")["value"].fillna(0.0).sort_index()
        x, y = np.log10(curve.index.to_numpy()), curve.to_numpy()
        k, least = int(y.argmax()), y.max() - points
        low, high = (_crossing(x[side], y[side], least) for side in (slice(k, None, -1), slice(k, None)))
        rows.append((algorithm, y[k], 10 ** x[k], 10**low, 10**high, high - low, points))
    return pd.DataFrame(rows, columns=["algorithm", "best", "at", "low", "high", "decades", "points"])


def _crossing(x: np.ndarray, y: np.ndarray, least: float) -> float:
    """Where y, walked from its first value, first falls below `least`."""
    below = np.flatnonzero(y < least)
    if not len(below):
        return x[-1]
    k = below[0]
    return x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - least) / (y[k - 1] - y[k])


def best(study: Study) -> dict:
    """The recipe of the best trial: its parameters, and the settings that the study had fixed.

    Raises InvalidInput if no trial was completed.
    """
    return {**identity_of(study)["fixed"], **best_trial(study).params}


def best_trial(study: Study) -> FrozenTrial:
    """The earliest best trial. Raises InvalidInput if none was completed."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise InvalidInput(
            f"study {study.study_name!r} has no trial that ended with a finite loss: narrow its space, or "
            "run more trials"
        )
    return max(complete, key=lambda t: (t.value, -t.number))
