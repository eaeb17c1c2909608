"""One trial: an experiment trained with drawn hyperparameters, its outcome and its cost."""

import math
from dataclasses import replace

import optuna
import torch
from optuna.pruners import NopPruner
from optuna.trial import Trial, TrialState

from ..energy import EnergyMeter
from ..errors import TrainingDiverged
from ..experiments.experiment import Experiment, fit
from ..experiments.machine import machine
from ..training.batches import Data
from ..training.history import History
from ..training.loop import pick_device
from .slots import DIVERGED, Slots
from .storage import Place, using


def run_trial(slots: Slots, trial: Trial, experiment: Experiment, data: Data) -> None:
    """Trains with the trial's parameters, and tells the study the outcome and the cost."""
    candidate = replace(experiment, hyperparameters={**experiment.hyperparameters, **trial.params})
    value, state, reason = None, TrialState.FAIL, "interrupted"
    try:
        # torch imports its compiler with a process's first optimiser, for seconds that are no trial's.
        torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        report = Reporter(trial, slots.place)
        with EnergyMeter() as meter:
            try:
                _, history = fit(candidate, data, progress=False, on_epoch=report)
                value, state, reason = kept_accuracy(history), TrialState.COMPLETE, None
            except TrainingDiverged:
                reason = DIVERGED
            except optuna.TrialPruned:
                state, reason = TrialState.PRUNED, None
        with using(slots.place):
            note_cost(trial, meter, experiment, report.epochs)
    except Exception as error:  # a fault of program or machine: the user sees it, and it counts for nothing
        reason = f"{type(error).__name__}: {error}"
        value, state = None, TrialState.FAIL
        raise
    finally:
        slots.give(trial, value, state=state, reason=reason)


def kept_accuracy(history: History) -> float:
    """Validation accuracy (%) of the kept epoch of the last stage that was validated."""
    kept = [stage.rows[stage.restored - 1].get("val_accuracy", math.nan) for stage in history.stages]
    return [value for value in kept if not math.isnan(value)][-1]


class Reporter:
    """Counts epochs; tells a pruner the validation accuracy of the last stage's, and ends what it prunes."""

    def __init__(self, trial: Trial, place: Place):
        self.trial, self.place, self.last, self.epochs = trial, place, None, 0
        self.enabled = not isinstance(trial.study.pruner, NopPruner)

    def __call__(self, algorithm, stage, row: dict) -> None:
        self.epochs += 1
        if not self.enabled:
            return
        self.last = self.last or algorithm.stages()[-1].name
        if stage.name == self.last and "val_accuracy" in row:
            with using(self.place):
                self.trial.report(row["val_accuracy"], row["epoch"])
                if self.trial.should_prune():
                    raise optuna.TrialPruned


def note_cost(trial: Trial, meter: EnergyMeter, experiment: Experiment, epochs: int) -> None:
    """What the trial took: training, validation and everything between."""
    reading = meter.reading
    spent = {name: getattr(reading, name) for name in ("seconds", "measured_j", "estimated_j", "provenance")}
    # One attribute, because a storage writes each to the disk by itself.
    trial.set_user_attr(
        "cost", {**spent, "epochs": epochs, "machine": machine(pick_device(experiment.device))["id"]}
    )
