"""Several experiments tuned under one budget: the same trials, the same cap."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from optuna.storages import BaseStorage
from optuna.study import Study

from ..algorithms.arms import Range
from ..data import StrPath
from ..errors import InvalidInput
from ..experiments import tuned
from ..experiments.experiment import Experiment, least_passes
from ..experiments.machine import git_revision
from . import results
from .results import best, best_trial
from .search import identity_of, study_name, tune
from .spaces import FALLING, quasi_random, space
from .storage import finished

log = logging.getLogger("bpfree")


def equal_budget(
    experiments: Sequence[Experiment],
    trials: int,
    storage: StrPath | BaseStorage | None = None,
    *,
    max_epochs: int | None = None,
    path: str | os.PathLike | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Tunes each experiment with `trials` trials, and keeps the best hyperparameters with their provenance.

    They are written as soon as a study is complete, and `Experiment(..., preset="tuned")` finds them. Returns
    the trials of all studies, as `results.trials` has them. Called again, studies go on where they were.

    Args:
        experiments: of different algorithms, data or networks, under one protocol.
        trials, storage, progress: of every study; see `tune`.
        max_epochs: cap on every stage of every trial, in place of the experiments' own, which must agree.
        path: of the file of tuned settings; default: `tuned.csv` in the store.

    Raises InvalidInput: budgets that are not equal, two experiments on one arm, contested options (tuned
    settings are kept for this package's own definitions); and what `tune` raises.
    """
    if max_epochs is not None:
        experiments = [replace(e, max_epochs=max_epochs) for e in experiments]
    return results.trials(tune_all(experiments, trials, storage, path, progress=progress))


def tune_budgets(
    experiments: Sequence[Experiment],
    trials: Mapping[int, int],
    storage: StrPath | BaseStorage | None = None,
    *,
    known: pd.DataFrame | None = None,
    path: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Study]:
    """Tunes each experiment for each of several budgets that are fixed in advance, the small ones first.

    At an experiment's smallest budget the first points of a Sobol sequence are tried, with the same rates and
    decays for all arms; at each further one the best of those that were tried before it. What comes through
    suits short trainings, and a long one may want a lower rate. So at the largest budget the search does not
    end at an edge: while the best rate is the lowest or the highest that was tried there, the next point
    beyond is tried, too. An arm with more stages than a budget has passes is left out there. The best
    settings are kept, each for its budget, where `preset="tuned"` finds them.

    Args:
        experiments: of different algorithms, data or networks, under the protocol "frontier".
        trials: {passes: trials}, those beyond an edge not counted; no more for a larger budget than for a
            smaller one.
        known: trials of earlier searches, as `results.trials` has them. A budget of which all are there is
            not searched again, nor is anything kept of it; the next goes on from them.
        storage, path, progress: as of `equal_budget`.

    Returns the studies of the budgets that were searched. Raises InvalidInput: trials that grow with the
    budget; and what `equal_budget` raises.
    """
    budgets = sorted(trials)
    if [trials[b] for b in budgets] != sorted(trials.values(), reverse=True):
        raise InvalidInput(f"trials={dict(trials)!r}: a larger budget may not have more than a smaller one")
    studies = []
    for experiment in experiments:
        refuse_unequal([experiment])
        least = least_passes(*experiment.place)
        points = first_points(space(experiment), trials[budgets[0]])
        for passes in [passes for passes in budgets if passes >= least]:
            at, found = replace(experiment, max_epochs=passes), None
            past = done(known[known["study"] == study_name(at)]) if known is not None else ()
            order = points[: trials[passes]]
            while order:
                if len(past) < len(order):
                    found = tune(at, len(order), storage, points=order, progress=progress)
                    past = done(results.trials(found))
                further = beyond_the_edge(points, past) if passes == budgets[-1] else None
                order = [*tried(points, past), further] if further else []
            if found is not None:
                studies.append(found)
                if past["value"].notna().any():
                    keep(found, path)
                else:
                    log.warning("%s: every trial diverged: nothing is kept", study_name(at))
            points = best_first(points, past)
    return studies


def done(trials: pd.DataFrame) -> pd.DataFrame:
    """Those that ended: lost ones are made again."""
    return trials[trials["state"].isin(results.DONE)]


def with_passes(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with the budget of their study, which its name has, in a column `passes`."""
    return trials.assign(passes=trials["study"].str.extract(r"-cap(\d+)-", expand=False).astype(int))


def trials_of(point: dict[str, float], trials: pd.DataFrame) -> pd.DataFrame:
    """Those with a point's parameters: a table that was read has these to six figures only."""
    return trials[np.isclose(trials[[*point]], [*point.values()], rtol=1e-5, atol=0).all(axis=1)]


def tried(points: list[dict[str, float]], trials: pd.DataFrame) -> list[dict[str, float]]:
    """The points that were tried, in the order of their trials."""
    first = {i: trials_of(point, trials)["trial"].min() for i, point in enumerate(points)}
    return [points[i] for i in sorted(first, key=first.get) if not math.isnan(first[i])]


def best_first(points: list[dict[str, float]], trials: pd.DataFrame) -> list[dict[str, float]]:
    """The points in the order of their trials' values; what diverged, or was not tried, comes last."""

    def worth(point: dict[str, float]) -> float:
        value = trials_of(point, trials)["value"].max()
        return -math.inf if math.isnan(value) else value

    return sorted(points, key=worth, reverse=True)  # of equals the first stays the first


def beyond_the_edge(points: list[dict[str, float]], trials: pd.DataFrame) -> dict[str, float] | None:
    """The point whose rate is next to the best one, if that is the lowest or the highest that was tried.

    None if it is neither, if no point lies beyond it, if no trial has a value, or if no rate is searched.
    """
    if "lr" not in points[0] or not trials["value"].notna().any():
        return None
    best, rates = best_first(points, trials)[0], [point["lr"] for point in tried(points, trials)]
    lower = [point for point in points if point["lr"] < min(rates)]
    higher = [point for point in points if point["lr"] > max(rates)]
    if best["lr"] == min(rates) and lower:
        return max(lower, key=lambda point: point["lr"])
    if best["lr"] == max(rates) and higher:
        return min(higher, key=lambda point: point["lr"])
    return None


def open_edges(trials: pd.DataFrame) -> pd.DataFrame:
    """Where searches of several budgets have ended at an edge, as those did that were cut short or are old.

    These are the arms whose best rate at their largest budget is the lowest or the highest that was tried
    there, although one beyond it was tried at a smaller budget.

    trials: as `results.trials` gives those of `tune_budgets`. Columns: data, architecture, algorithm; passes
    (that budget), lr (the best rate there) and beyond (the next one).
    """
    rows, arm = [], ["data", "architecture", "algorithm"]
    ended = with_passes(done(trials))
    for place, own in ended.groupby(arm, sort=False):
        largest = own[own["passes"] == own["passes"].max()]
        points = [{"lr": rate} for rate in own["lr"].unique()]
        beyond = beyond_the_edge(points, largest)
        if beyond is not None:
            best = largest.loc[largest["value"].idxmax()]
            rows.append((*place, best["passes"], best["lr"], beyond["lr"]))
    return pd.DataFrame(rows, columns=[*arm, "passes", "lr", "beyond"])


def first_points(ranges: Mapping[str, Range], n: int) -> list[dict[str, float]]:
    """Settings to try: rates and decays the same for every arm, what it has beside them even over both.

    Two sequences' coordinates of one number would go up and down together; so those of an arm's own come from
    a sequence that has coordinates for the rates and decays, too, in which its own are the last.
    """
    shared = {name: r for name, r in ranges.items() if name in FALLING}
    whole = {**shared, **ranges}
    return [
        beside | common
        for common, beside in zip(quasi_random(shared, n), quasi_random(whole, n, seed=1), strict=True)
    ]


def tune_all(experiments, trials, storage, path=None, **how) -> list[Study]:
    """The studies of `equal_budget`."""
    refuse_unequal(experiments)
    studies = []
    for experiment in experiments:
        studies.append(tune(experiment, trials, storage, **how))
        if finished(studies[-1]) >= trials:
            keep(studies[-1], path)
    return studies


def refuse_unequal(experiments: Sequence[Experiment]) -> None:
    if not experiments:
        raise InvalidInput("no experiments to tune: give at least one")
    for what, field in (("protocols", "protocol"), ("caps on epochs", "max_epochs")):
        values = dict.fromkeys(getattr(e, field) for e in experiments)
        if len(values) > 1:
            named = ", ".join(map(str, values))
            raise InvalidInput(f"an equal budget needs equal {what}, and these have {named}: choose one")
    seen = set()
    for e in experiments:
        if e.place in seen:
            raise InvalidInput(f"{' '.join(e.place)} is there twice: an arm has one study and one best")
        seen.add(e.place)
        if e.options or e.rule().preset is not None:
            given = ", ".join(e.options) or f"preset {e.rule().preset!r}"
            raise InvalidInput(
                f"{e.algorithm} with {given}: tuned settings are kept for this package's own definitions; "
                "leave it out, or use bpfree.tuning.tune"
            )


def keep(study: Study, path: str | os.PathLike | None = None) -> Path:
    """Writes a study's best hyperparameters and their provenance into `path` (default: the store's file)."""
    own, winner = identity_of(study), best_trial(study)
    arm = own["algorithm"], own["experiment"]["data"], own["architecture"]
    return tuned.write_settings(
        *(*arm, best(study), path, own["budget"] and own["budget"]["amount"]),
        **{"study": study.study_name, "trials": finished(study), "epochs": own["max_epochs"]},
        **{"seed": own["seed"], "protocol": own["protocol"], "val_accuracy": winner.value},
        **{"revision": git_revision(), "machine": winner.user_attrs["cost"]["machine"]},
    )
