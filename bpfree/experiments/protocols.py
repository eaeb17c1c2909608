"""How long each algorithm may train, and with which settings.

An efficiency claim means nothing without its protocol:

    published         each arm's own patience, caps and settings, as the paper ran them
    convergence       one rule for all: validation accuracy of the stage's read-out, patience 20, cap 100
                      epochs per stage, best weights restored
    convergence_loss  the camera-ready's rule (CP025, 2026): the same by validation loss, but Forward-Forward,
                      whose read-out by goodness is no likelihood, by accuracy
    matched           the passes over the data that the same seed's BP took under `convergence`, its patience
                      included, in equal shares to the stages; no early stopping
    equal_energy      likewise the joules (without sensors: the seconds) that it spent on this machine
"""

import functools
from dataclasses import dataclass, field

from ..algorithms import arms
from ..errors import InvalidInput, choose
from ..training.stopping import Stopping
from . import published, tuned

REFERENCE = "bp"  # whose cost is the budget of the protocols that have one
BUDGETS = {"matched": "passes", "equal_energy": "energy"}
PROTOCOLS = ("published", "convergence", "convergence_loss", *BUDGETS)
CONVERGENCE_CAP = 100
LENGTHS = ("epochs", "block_epochs")  # settings that are the protocol's to give
TUNED = "tuned"  # the preset that takes hyperparameters from `bpfree.experiments.tuned`


@dataclass(frozen=True)
class Rule:
    """What a protocol says of one arm.

    Attributes:
        stopping: the stopping rule of every stage.
        max_epochs: cap of every stage; None: the algorithm's own.
        preset: whose contested choices to take; None, and for "tuned", this package's.
        hyperparameters: published settings that are options of the algorithm.
        source: where these come from: "thesis" (also where "2026" has none), "2026", "tuned", or "defaults"
            where there are none.
        budget: what of the reference run is shared out, "passes" or "energy"; None: nothing.
    """

    stopping: Stopping
    max_epochs: int | None
    preset: str | None
    hyperparameters: dict = field(default_factory=dict)
    source: str = "defaults"
    budget: str | None = None


def rule(protocol: str, algorithm: str, data: str, architecture: str, preset: str | None = None) -> Rule:
    """The protocol's rule for one arm.

    Raises:
        UnknownName: no such protocol.
        InvalidInput: "published" for an arm that was not published, or "tuned" for one that was not tuned.
    """
    choose("protocol", protocol, PROTOCOLS)
    arm = {"algorithm": algorithm, "data": data, "architecture": architecture}
    if protocol == "convergence_loss":
        preset = preset or "2026"
    if preset == TUNED:
        settings, source = tuned.settings(**arm), TUNED
        if not settings:
            raise InvalidInput(_not_tuned(**arm))
    else:
        source = preset or "thesis"
        settings = _settings(source, **arm)
        if not settings and source == "2026" and protocol != "published":
            # Of BP on Mono-Forward's networks the camera-ready gives nothing; the thesis, of the same
            # authors, does, and without it BP would stand untuned beside a tuned rival.
            source = "thesis"
            settings = _settings(source, **arm)
    stopping = {k.removeprefix("stopping."): v for k, v in settings.items() if k.startswith("stopping.")}
    if protocol == "published":
        if not stopping:
            raise InvalidInput(_not_published(source, **arm))
        options = {k: v for k, v in settings.items() if not k.startswith("stopping.")}
        return Rule(Stopping(**stopping), None, source, options, source)
    options = {k: v for k, v in settings.items() if not k.startswith("stopping.") and k not in LENGTHS}
    source = source if options else "defaults"
    if protocol in BUDGETS:
        return Rule(Stopping(patience=None), None, preset, options, source, BUDGETS[protocol])
    by_loss = protocol == "convergence_loss" and arms.arm(algorithm).family != "ff"
    rule_for_all = Stopping("val_loss" if by_loss else "val_accuracy")
    return Rule(rule_for_all, CONVERGENCE_CAP, preset, options, source)


@functools.cache  # a search makes thousands of experiments
def _settings(source: str, **arm: str) -> dict:
    table = published.hyperparameters(source=source, **arm)
    return dict(zip(table["parameter"], table["value"], strict=True))


def _not_published(source: str, algorithm: str, data: str, architecture: str) -> str:
    table = published.hyperparameters(source=source)
    table = table[table["parameter"].str.startswith("stopping.")]
    arms = sorted(
        {f"{d} {a}" for d, a in table.loc[table["algorithm"] == algorithm, ["data", "architecture"]].values}
    )
    known = f"published are {', '.join(arms)}" if arms else "nothing of this algorithm was published there"
    return (
        f"protocol 'published' has no stopping rule for {algorithm} on {data} {architecture} in source "
        f"{source!r}: {known}; use protocol='convergence'"
    )


def _not_tuned(algorithm: str, data: str, architecture: str) -> str:
    return (
        f"preset 'tuned': {algorithm} on {data} {architecture} has not been tuned: run "
        "bpfree.tuning.equal_budget, or take another preset"
    )


def is_published(algorithm: str, data: str, architecture: str, source: str = "thesis") -> bool:
    """Whether protocol "published" knows this arm."""
    settings = _settings(source, algorithm=algorithm, data=data, architecture=architecture)
    return any(name.startswith("stopping.") for name in settings)
