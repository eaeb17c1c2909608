"""How parameters are drawn: TPE, seeded for each trial; or from a list."""

import hashlib
from collections.abc import Sequence

from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from .slots import is_finished


class TrialSeeded(BaseSampler):
    """TPE with a generator of its own for every trial, seeded by (study name, trial number).

    So parallel workers do not repeat each other's start-up trials, as copies of one seeded sampler would; two
    studies do not share theirs; and a study that is resumed goes on as it would have gone.
    """

    def __init__(self):
        self.tpe = TPESampler()

    def before_trial(self, study, trial):
        digest = hashlib.sha256(f"{study.study_name} {trial.number}".encode()).digest()
        self.tpe = TPESampler(seed=int.from_bytes(digest[:4], "little"))
        self.tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study, trial):
        return self.tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self.tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self.tpe.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study, trial, state, values):
        self.tpe.after_trial(study, trial, state, values)


class Listed(BaseSampler):
    """Each trial gets the first of the listed values of the one parameter that no other has or had."""

    def __init__(self, values: Sequence[float]):
        self.values = list(values)

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        had = {t.params[param_name] for t in others if is_finished(t) or t.state == TrialState.RUNNING}
        return next(value for value in self.values if value not in had)
