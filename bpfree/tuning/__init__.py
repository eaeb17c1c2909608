"""Tuning: the same effort for every algorithm, by Optuna studies that survive and share.

    from bpfree import Experiment, tuning

    study = tuning.tune(Experiment("mf", "fashion_mnist", max_epochs=8), trials=20)
    tuning.trials(study)     # a row per trial: parameters, validation accuracy, seconds, joules
    tuning.cost(study)       # the bill of searching
    tuning.best(study)       # the recipe

    tuning.equal_budget([Experiment(a, "fashion_mnist", max_epochs=8) for a in ("bp", "mf")], 20)
    bpfree.run(Experiment("mf", "fashion_mnist", preset="tuned"))

`python -m bpfree.tuning` is the same from a shell, for many workers.
"""

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook Optuna's import asks for ipywidgets, for a bar that is never shown.
    warnings.simplefilter("ignore", TqdmWarning)
    import optuna  # noqa: F401

from .account import best, cost, importances, tolerance, trials
from .budget import equal_budget, keep
from .compare import beside_published, published_effort
from .plans import PLANS, plan
from .search import load_study, resume, study_name, sweep, tune
from .slots import finished
from .spaces import SPACES, Range, space, table
from .storage import open_storage, study_names

__all__ = [
    "PLANS",
    "SPACES",
    "Range",
    "beside_published",
    "best",
    "cost",
    "equal_budget",
    "finished",
    "importances",
    "keep",
    "load_study",
    "open_storage",
    "plan",
    "published_effort",
    "resume",
    "space",
    "study_name",
    "study_names",
    "sweep",
    "table",
    "tolerance",
    "trials",
    "tune",
]
