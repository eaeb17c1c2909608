"""What is searched: the ranges of the experiment's arm, or a user's own, which are checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from optuna.trial import Trial

from ..algorithms.arms import Range, arm, look
from ..errors import InvalidInput, choose
from ..experiments.experiment import Experiment
from ..experiments.protocols import OWN

#: What is searched of these where a budget is fixed in advance, the same of every arm: rates that fall to
#: zero, and decays that can be felt in so few passes (AdamW multiplies them by the rate).
FALLING = {"lr": Range(3e-5, 1e-2, "log"), "weight_decay": Range(1e-3, 1.0, "log")}
SCALES = ("log", "linear", "int", "log int")
DESCRIPTIONS = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "head_lr": "learning rate of the softmax head",
    "head_weight_decay": "weight decay of the softmax head",
    "block_lr": "learning rate of the blocks",
    "block_weight_decay": "weight decay of the blocks",
    "aux_weight": "λ, weight of the auxiliary losses",
    "stage_ratio": "passes of a stage for one of the stage before",
    "freeze_from": "t_0, which says when the first layer freezes",
    "ridge": "ridge of what is solved in closed form",
    "output_ridge": "ridge of the solved read-out",
    "epochs": "epochs per stage",
    "block_epochs": "epochs of the blocks",
}


def space(experiment: Experiment, own: Mapping[str, Sequence] | None = None) -> dict[str, Range]:
    """What a study of this experiment searches: {parameter: range}.

    own: ranges {parameter: (low, high, scale)}, scale one of `SCALES` (default "linear"). Without them the
        arm's, less what does nothing under the experiment's options and less what it fixes.

    Raises UnknownName for a parameter that the algorithm does not have, or another scale; InvalidInput for a
    range that is empty or beyond what the algorithm takes, for a parameter that is fixed or does nothing, and
    where nothing is left to search.
    """
    algorithm, known = experiment.algorithm, arm(experiment.algorithm)
    chosen = experiment.rule()
    options = experiment.resolved_options(chosen)
    fixed = {**experiment.options, **experiment.hyperparameters}
    if own is None:
        ranges = {**known.space, **(known.lengths if experiment.protocol == "published" else {})}
        if chosen.budget == OWN:
            ranges |= {n: r for n, r in FALLING.items() if n in ranges} | known.division
        found = {n: r for n, r in ranges.items() if n not in fixed and not idle(n, options)}
        if not found:
            raise InvalidInput(
                f"the experiment fixes {', '.join(ranges)}: nothing of {algorithm} is left to search"
            )
        return found
    if not own:
        raise InvalidInput(f"an empty space: name a parameter of {algorithm}, or leave the space out")
    found = {}
    for name, given in own.items():
        choose(f"parameter in the space of {algorithm}", name, known.algorithm.options())
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
    if name == "ridge" and options.get("loss", "mse") != "mse":
        return f"predictors with loss={options['loss']!r} are descended and have no ridge"
    return ""


def draw(trial: Trial, ranges: Mapping[str, Range]) -> None:
    """The parameters of a trial, each from its range."""
    for name, tried in ranges.items():
        suggest = trial.suggest_int if tried.scale.endswith("int") else trial.suggest_float
        suggest(name, tried.low, tried.high, log=tried.scale.startswith("log"))


def quasi_random(ranges: Mapping[str, Range], n: int, seed: int = 0) -> list[dict[str, float]]:
    """The first n points of a scrambled Sobol sequence over these ranges: even in every parameter, and the
    first k of them are nearly as even as k points can be."""
    if not ranges:
        return [{}] * n
    engine = torch.quasirandom.SobolEngine(len(ranges), scramble=True, seed=seed)
    points = []
    for row in engine.draw(n, dtype=torch.float64).tolist():
        point = {}
        for u, (name, (low, high, scale)) in zip(row, ranges.items(), strict=True):
            log, whole = scale.startswith("log"), scale.endswith("int")
            top = high + 1 if whole else high  # so that the last whole number has its share
            value = low * (top / low) ** u if log else low + (top - low) * u
            point[name] = min(int(value), high) if whole else value
        points.append(point)
    return points


def _range(name: str, given: Sequence) -> Range:
    """A user's range, checked."""
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


def search_spaces(*experiments: Experiment) -> pd.DataFrame:
    """What the studies of these experiments search, a row per parameter.

    Columns: algorithm, parameter, what it is, low and high (as text), scale and decades (log10).
    """
    searched = [(look(e.algorithm).label, name, r) for e in experiments for name, r in space(e).items()]
    rows = [
        (label, name, DESCRIPTIONS.get(name, name), f"{r.low:g}", f"{r.high:g}", r.scale, r.decades)
        for label, name, r in searched
    ]
    columns = ["algorithm", "parameter", "what it is", "low", "high", "scale", "decades"]
    return pd.DataFrame(rows, columns=columns)
