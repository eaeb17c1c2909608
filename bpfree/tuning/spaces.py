"""What is searched: one table of ranges per algorithm, and the check of a user's own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from ..algorithms import ALGORITHMS
from ..algorithms.arms import LABELS
from ..errors import InvalidInput, choose
from ..experiments.experiment import Experiment

SCALES = ("log", "linear", "int", "log int")


class Range(NamedTuple):
    """From low to high, both included; `scale` is one of `SCALES`, those with "int" for whole numbers."""

    low: float
    high: float
    scale: str

    @property
    def decades(self) -> float:
        return round(math.log10(self.high / self.low), 2) if self.low > 0 else math.inf

    @property
    def distribution(self) -> BaseDistribution:
        kind = IntDistribution if self.scale.endswith("int") else FloatDistribution
        return kind(self.low, self.high, log=self.scale.startswith("log"))


# One range for every rate and one for every decay, four and five decades wide, so that no algorithm is given
# a kinder one; the published searches had as little as a factor of 10 for some and 1000 for others.
RATE = Range(1e-5, 1e-1, "log")
DECAY = Range(1e-7, 1e-2, "log")
WEIGHT = Range(1e-2, 1e1, "log")  # λ
LAYERS = {"lr": RATE, "weight_decay": DECAY}

#: algorithm -> parameter -> range. Of Forward-Forward's head and DFA's blocks the rates are their own.
SPACES: dict[str, dict[str, Range]] = {
    "bp": LAYERS,
    "bp_ds": {**LAYERS, "aux_weight": WEIGHT},
    "mf_joint": {**LAYERS, "aux_weight": WEIGHT},
    "mf_interleaved": LAYERS,
    "mf_sequential_joint": LAYERS,
    "mf": LAYERS,
    "ff": {**LAYERS, "head_lr": RATE, "head_weight_decay": DECAY},
    "ff_sgd": {**LAYERS, "head_lr": RATE, "head_weight_decay": DECAY},
    "cafo_rand": LAYERS,
    "cafo_rand_mse": {"ridge": Range(1e-6, 1e1, "log")},
    "cafo_dfa": {**LAYERS, "block_lr": RATE, "block_weight_decay": DECAY},
}

#: How long a stage trains is the protocol's to say, and then it is not searched: patience and cap are the
#: same for all. Only under `published`, where every arm has a length of its own, it is, as the authors did.
LENGTHS: dict[str, dict[str, Range]] = {
    "mf": {"epochs": Range(5, 30, "int")},
    "cafo_rand": {"epochs": Range(3, 1500, "log int")},
    "cafo_dfa": {"epochs": Range(3, 1500, "log int"), "block_epochs": Range(3, 250, "log int")},
}

MEANING = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "head_lr": "learning rate of the softmax head",
    "head_weight_decay": "weight decay of the softmax head",
    "block_lr": "learning rate of the blocks",
    "block_weight_decay": "weight decay of the blocks",
    "aux_weight": "λ, weight of the auxiliary losses",
    "ridge": "ridge of the closed-form predictors",
    "epochs": "epochs per stage",
    "block_epochs": "epochs of the blocks",
}


def space(experiment: Experiment, own: Mapping[str, Sequence] | None = None) -> dict[str, Range]:
    """What a study of this experiment searches: {parameter: range}.

    Without `own`, the table's ranges, less what does nothing under the experiment's options
    (Forward-Forward's head exists only if it is used) and less what its hyperparameters fix.

    Args:
        own: ranges in place of the table's: {parameter: (low, high, scale)}, scale one of `SCALES`
            (default "linear").

    Raises:
        UnknownName: a parameter that the algorithm does not have, or another scale.
        InvalidInput: a range that is empty or goes beyond what the algorithm takes; a parameter that is fixed
            or does nothing; nothing left to search.
    """
    arm = experiment.algorithm
    options = experiment.resolved_options(experiment.rule())
    fixed = {**experiment.options, **experiment.hyperparameters}
    if own is None:
        known = SPACES[arm] | (LENGTHS.get(arm, {}) if experiment.protocol == "published" else {})
        found = {n: r for n, r in known.items() if n not in fixed and not idle(n, options)}
        if not found:
            raise InvalidInput(f"the experiment fixes {', '.join(known)}: nothing of {arm} is left to search")
        return found
    if not own:
        raise InvalidInput(f"an empty space: name a parameter of {arm}, or leave the space out")
    found = {}
    for name, given in own.items():
        choose(f"parameter in the space of {arm}", name, ALGORITHMS[arm][0].options())
        found[name] = _range(name, given)
        if name in fixed:
            raise InvalidInput(
                f"{name} is in the space and fixed at {fixed[name]!r} by the experiment: leave one out"
            )
        if why := idle(name, options):
            raise InvalidInput(f"{name} in the space does nothing: {why}; leave it out")
        for end in found[name][:2]:  # the algorithm knows best what it takes
            replace(experiment, hyperparameters={**experiment.hyperparameters, name: end})
    return found


def idle(name: str, options: Mapping[str, object]) -> str:
    """Why a parameter does nothing under these options of an algorithm; "" if it does something."""
    if name.startswith("head_") and "negatives" in options:
        without = options["predict_by"] != "softmax" and options["negatives"] != "hard"
        return "there is no softmax head under predict_by='goodness'" if without else ""
    if name == "momentum" and options["optimiser"] != "sgd":
        return f"optimiser={options['optimiser']!r} has no momentum"
    if name == "ridge" and options["loss"] != "mse":
        return f"predictors with loss={options['loss']!r} are descended and have no ridge"
    return ""


def _range(name: str, given: Sequence) -> Range:
    """A user's range, checked for itself."""
    form = f"give (low, high) or (low, high, scale) with scale one of {', '.join(SCALES)}"
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) not in (2, 3):
        raise InvalidInput(f"the range {given!r} of {name}: {form}")
    low, high, scale = *given[:2], given[2] if len(given) == 3 else "linear"
    choose(f"scale of {name}", scale, SCALES)
    whole = scale.endswith("int")
    for end in (low, high):
        number = isinstance(end, int if whole else (int, float)) and not isinstance(end, bool)
        if not number or not math.isfinite(end):
            kind = "whole numbers" if whole else "finite numbers"
            raise InvalidInput(f"the range ({low!r}, {high!r}) of {name}: {scale} takes {kind}")
    if not low < high:
        raise InvalidInput(f"the range ({low!r}, {high!r}) of {name} is empty: give low < high")
    if scale.startswith("log") and low <= 0:
        raise InvalidInput(f"the range ({low!r}, {high!r}) of {name}: {scale} takes numbers greater than 0")
    return Range(low, high, scale)


def table(*experiments: Experiment) -> pd.DataFrame:
    """The spaces of experiments, a row per parameter.

    Columns: algorithm, parameter, what it is, low and high (as text), scale and decades (log10).
    """
    rows = [
        (LABELS[e.algorithm], name, MEANING[name], f"{r.low:g}", f"{r.high:g}", r.scale, r.decades)
        for e in experiments
        for name, r in space(e).items()
    ]
    columns = ["algorithm", "parameter", "what it is", "low", "high", "scale", "decades"]
    return pd.DataFrame(rows, columns=columns)
