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

import importlib
import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook Optuna's import asks for ipywidgets, for a bar that is never shown.
    warnings.simplefilter("ignore", TqdmWarning)
    import optuna  # noqa: F401

# The others import torch, which must first be told how many cores are ours: `python -m bpfree.tuning`.
_HOMES = {
    "PLANS": "plans",
    "beside_published": "plans",
    "best": "results",
    "cost": "results",
    "distribution": "spaces",
    "equal_budget": "budget",
    "finished": "storage",
    "importances": "results",
    "keep": "budget",
    "load_study": "search",
    "open_storage": "storage",
    "plan": "plans",
    "published_effort": "plans",
    "resume": "search",
    "space": "spaces",
    "study_name": "search",
    "study_names": "storage",
    "sweep": "search",
    "table": "spaces",
    "tolerance": "results",
    "trials": "results",
    "tune": "search",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'bpfree.tuning' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
