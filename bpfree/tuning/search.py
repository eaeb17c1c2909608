"""One study: a resumable search for the hyperparameters of one experiment."""

import hashlib
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import optuna
import torch
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState
from tqdm import tqdm

from ..algorithms.arms import arm
from ..data import StrPath, load, short
from ..energy import EnergyMeter
from ..errors import InvalidInput, TrainingDiverged, check_positive, choose
from ..experiments.experiment import Experiment, fit, validated
from ..experiments.machine import machine
from ..experiments.protocols import LENGTHS, OWN
from ..experiments.resolved import LATER
from ..experiments.runner import POLL_S
from ..training.batches import Data
from ..training.loop import pick_device
from ..training.progress import shown
from .spaces import draw
from .spaces import space as search_space
from .storage import (
    DIVERGED,
    Place,
    Slots,
    finished,
    open_storage,
    opening,
    study_lock,
    study_names,
    using,
)

IDENTITY = "bpfree"  # the user attribute of a study that says what it is of
#: Of what it holds, what two calls that share a study are first compared by.
FIRST = ("algorithm", "data_sha256", "architecture", "protocol", "seed", "space")
LEFT_OUT = ("device", "cache", "data", "hyperparameters_from")


def tune(
    experiment: Experiment,
    trials: int,
    storage: StrPath | BaseStorage | None = None,
    *,
    name: str | None = None,
    space: Mapping[str, Sequence] | None = None,
    points: Sequence[Mapping[str, float]] = (),
    pruner: BasePruner | None = None,
    wait: bool = True,
    progress: bool = True,
) -> Study:
    """Searches the hyperparameters of an experiment by Optuna's TPE until its study has `trials` trials.

    A study goes on where it was, and any number of processes may call this at once on one storage. Trials
    train on the experiment's seed and split. What is maximised is the validation accuracy of the epoch that
    the protocol keeps, of the last stage that is validated; test data are taken away before the first trial.
    A trial whose loss diverges is a failed one and counts; one whose worker was killed is made up for.

    Args:
        experiment: its `max_epochs` caps every stage of every trial; what its hyperparameters fix is not
            searched.
        trials: finished trials that the study should have in all.
        storage: see `open_storage`; default: a journal file in `studies/` of the store.
        name: of the study; default: `study_name`.
        space: ranges in place of those of the arm: {parameter: (low, high, scale)}.
        points: parameters that the first trials take, in place of what TPE draws.
        pruner: an Optuna pruner, which is told the validation accuracy of every epoch of the last stage; so
            of an algorithm in several stages only the last can be cut short. None: no trial is.
        wait: whether to wait for trials that other workers run, and to run those again that they lose; if
            not, return as soon as none is left to begin.
        progress: show a bar over trials (off with the variable TQDM_DISABLE=1).

    Raises InvalidInput: a space that cannot be searched, a storage that cannot be opened, a study of this
    name of something else, a protocol that trains on another run's budget.
    """
    ranges = search_space(experiment, space)
    check_positive("trials", trials)
    if experiment.preset == "tuned":
        raise InvalidInput("preset 'tuned' is what tuning makes: leave it out of an experiment to be tuned")
    if experiment.rule().budget not in (None, OWN):
        raise InvalidInput(
            f"protocol {experiment.protocol!r} trains on the budget of another run: tune under "
            "'convergence', and run with preset='tuned'"
        )
    data = load(experiment.data, seed=experiment.seed)
    data = replace(data, x_test=data.x_test[:0], y_test=data.y_test[:0])  # a search cannot look at them
    name = name or study_name(experiment)
    place = open_storage(storage, name)
    study = open_study(place, name, identity(experiment, ranges, data, pruner), pruner)
    slots = Slots(study, trials, place, points)
    objective = partial(train_trial, experiment=experiment, data=data, place=place)
    with tqdm(total=trials, desc=name, unit="trial", **shown(progress)) as bar:
        while show(bar, study, place) < trials:
            if not slots.run_next(partial(draw, ranges=ranges), objective):
                if not wait:
                    break
                time.sleep(POLL_S)
    return study


def sweep(
    experiment: Experiment,
    parameter: str,
    values: Sequence[float],
    storage: StrPath | BaseStorage | None = None,
    *,
    progress: bool = True,
) -> Study:
    """Trains an experiment at each of these values of one hyperparameter, all else as it says.

    A study like those of `tune`, which takes in further values between the smallest and the largest. Its name
    is the experiment's with the parameter behind it. Raises as `tune` does.
    """
    values = sorted(set(values))
    ends = (*values[:1], *values[-1:])
    how = {
        "name": f"{study_name(experiment)}-{parameter}",
        "space": {parameter: (*ends, "log") if values[0] > 0 else ends},
        "points": [{parameter: value} for value in values],
    }
    return tune(experiment, len(values), storage, **how, progress=progress)


def load_study(name: str, storage: StrPath | BaseStorage | None = None) -> Study:
    """A study that exists, to look at. Raises InvalidInput if there is none of this name."""
    choose("study", name, study_names(storage))
    place = open_storage(storage, name)
    with opening(place.name):
        study = optuna.load_study(study_name=name, storage=place.storage)
        study.get_trials()  # what cannot be read is said now
        return study


def resume(
    name: str,
    trials: int,
    storage: StrPath | BaseStorage | None = None,
    *,
    wait: bool = True,
    progress: bool = True,
) -> Study:
    """`tune` for a study that exists: everything but the number of trials is taken from it.

    Raises InvalidInput if there is none, or if it has a pruner, whose settings a study does not hold.
    """
    own = identity_of(load_study(name, storage))
    if own["pruner"]:
        raise InvalidInput(
            f"study {name!r} has a {own['pruner']}: go on with tune(..., pruner=...) in Python"
        )
    how = {"name": name, "space": own["space"], "wait": wait, "progress": progress}
    try:
        experiment = Experiment(**own["experiment"])
    except TypeError as error:
        raise InvalidInput(
            f"study {name!r} is of another version of bpfree ({error}): begin another"
        ) from None
    return tune(experiment, trials, storage, **how)


def study_name(experiment: Experiment) -> str:
    """The name of an experiment's study where none is given: what may not be in a name becomes _."""
    parts = [
        *(experiment.algorithm, short(experiment.data), experiment.resolved_architecture),
        *(experiment.protocol, experiment.preset),
        experiment.max_epochs and f"cap{experiment.max_epochs}",
        f"seed{experiment.seed}",
    ]
    return "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts if part)


# ---------------------------------------------------------------- the study and what it is of


def identity(experiment: Experiment, ranges: Mapping, data: Data, pruner: BasePruner | None) -> dict:
    """What two calls must agree on to share a study, as plain values; the device is not part of it.

    `experiment` is there to make it again; `fixed` are the settings that differ from the algorithm's defaults
    and were not searched: with the best trial's they are the whole recipe.
    """
    resolved, known = experiment.resolve(data), arm(experiment.algorithm)
    defaults, presets = known.algorithm.options(), known.algorithm.presets
    chosen = {*known.options, *experiment.options, *presets.get(resolved.preset, {}), *ranges, *LENGTHS}
    own = {
        "experiment": {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(experiment).items()},
        **{k: v for k, v in resolved.plain().items() if k not in LEFT_OUT},
        # An option that came later is left out at its usual value, as in a key: older studies go on.
        "options": {
            k: v for k, v in resolved.options.items() if k not in ranges and (k, v) not in LATER.items()
        },
        "fixed": {k: v for k, v in resolved.options.items() if k not in chosen and v != defaults[k]},
        "space": {parameter: list(r) for parameter, r in ranges.items()},
        "pruner": type(pruner).__name__ if pruner is not None else None,
    }
    return json.loads(json.dumps(own))  # as it comes out of a storage


def open_study(place: Place, name: str, own: dict, pruner: BasePruner | None) -> Study:
    """The study of this name, new or as it was. Raises InvalidInput if it is of something else."""
    with opening(place.name), study_lock(place, name):
        study = optuna.create_study(
            storage=place.storage,
            study_name=name,
            direction="maximize",
            sampler=TrialSeeded(),
            pruner=pruner or NopPruner(),
            load_if_exists=True,
        )
        if study.get_trials(deepcopy=False) or IDENTITY in study.user_attrs:
            refuse_other(name, place, identity_of(study), own)
        else:
            study.set_user_attr(IDENTITY, own)
    return study


def identity_of(study: Study) -> dict:
    """What a study searches. Raises InvalidInput for a study that was not made by `tune`."""
    own = study.user_attrs.get(IDENTITY)
    needed = {"experiment", "max_epochs", "pruner", *FIRST}
    if not (isinstance(own, dict) and own.keys() >= needed and isinstance(own["experiment"], dict)):
        raise InvalidInput(f"study {study.study_name!r} was not made by bpfree.tuning: give another name")
    return own


def refuse_other(name: str, place: Place, theirs: dict, ours: dict) -> None:
    """Raises InvalidInput, with the first difference, if a study searches something else."""
    for key in [*FIRST, *(k for k in ours if k not in ("experiment", "fixed", *FIRST))]:
        a, b = theirs.get(key), ours[key]
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            part = next(k for k in [*a, *b] if a.get(k, ()) != b.get(k, ()))
            key, a, b = f"{key} {part}", a.get(part, "none"), b.get(part, "none")
        if key == "data_sha256":
            key, a, b = "data", theirs["experiment"]["data"], ours["experiment"]["data"]
            b = f"{b} with another content" if a == b else b
        raise InvalidInput(
            f"study {name!r} in {place.name} is of {key} {a!r}, and this of {b!r}: give this one another "
            "name or another storage"
        )


def show(bar: tqdm, study: Study, place: Place) -> int:
    """Updates the bar to the number of trials that all workers have finished, and returns that number."""
    with using(place):
        done = finished(study)
        complete = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if complete:
        bar.set_postfix_str(f"best {max(complete):.2f} %", refresh=False)
    bar.update(done - bar.n)
    bar.refresh()
    return done


# ---------------------------------------------------------------- one trial


def train_trial(trial: Trial, experiment: Experiment, data: Data, place: Place) -> float:
    """Trains with the trial's parameters, and tells the study what that took.

    Returns the validation accuracy (%), NaN if training diverged. Raises TrialPruned.
    """
    candidate = replace(experiment, hyperparameters={**experiment.hyperparameters, **trial.params})
    # torch imports its compiler with a process's first optimiser, for seconds that are no trial's.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    epochs, early, value = 0, None, math.nan

    def report(algorithm, stage, row: dict) -> None:
        """Counts epochs; tells a pruner the accuracy of the last stage's, and ends what it prunes."""
        nonlocal epochs
        epochs += 1
        last = stage.name == algorithm.stages()[-1].name and "val_accuracy" in row
        if last and not isinstance(trial.study.pruner, NopPruner):
            with using(place):
                trial.report(row["val_accuracy"], row["epoch"])
                if trial.should_prune():
                    raise optuna.TrialPruned

    with EnergyMeter() as meter:
        try:
            trained = fit(candidate, data, progress=False, on_epoch=report)
            value = validated(*trained, data)["val_accuracy"]
        except (TrainingDiverged, optuna.TrialPruned) as error:
            early = error
    spent = ("seconds", "measured_j", "estimated_j", "provenance")
    cost = {**{name: getattr(meter.reading, name) for name in spent}, "epochs": epochs}
    cost["machine"] = machine(pick_device(experiment.device))["id"]
    with using(place):
        trial.set_user_attr("cost", cost)  # one attribute: a storage writes each to the disk by itself
        if isinstance(early, TrainingDiverged):
            trial.set_user_attr("reason", DIVERGED)
    if isinstance(early, optuna.TrialPruned):
        raise early
    return value


# ---------------------------------------------------------------- how parameters are drawn


#: Written out, because versions of Optuna differ in their defaults. (Under Optuna 4 the same seed proposes
#: other trials all the same: its estimator has other bandwidths. So 5 is the oldest that is taken.)
TPE = {"n_startup_trials": 10, "n_ei_candidates": 24}
TPE |= {"multivariate": True, "group": False, "constant_liar": True}


class TrialSeeded(BaseSampler):
    """TPE with a generator of its own for every trial, seeded by (study name, trial number).

    So parallel workers do not repeat each other's start-up trials, as copies of one seeded sampler would; two
    studies do not share theirs; and a study that is resumed goes on as it would have gone.
    """

    def before_trial(self, study, trial):
        digest = hashlib.sha256(f"{study.study_name} {trial.number}".encode()).digest()
        self.tpe = TPESampler(seed=int.from_bytes(digest[:4], "little"), **TPE)

    def infer_relative_search_space(self, study, trial):
        return self.tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self.tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.tpe.sample_independent(study, trial, param_name, param_distribution)
