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

import lazy_loader
from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook Optuna's import asks for ipywidgets, for a bar that is never shown.
    warnings.simplefilter("ignore", TqdmWarning)
    import optuna  # noqa: F401

# The names stand in __init__.pyi. Each is imported when first used, because torch comes with them, which must
# first be told how many cores are ours: `python -m bpfree.tuning`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
