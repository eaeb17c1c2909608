"""How long each algorithm may train, and with which published settings.

An efficiency claim means nothing without its protocol:

    published     each arm's own patience, caps and settings, as the paper ran them
    convergence   one rule for all: validation accuracy of the stage's read-out, patience 20, cap 100
                  epochs per stage, best weights restored
"""

from dataclasses import dataclass, field

from . import published
from .errors import InvalidInput, choose
from .training import Stopping

PROTOCOLS = ("published", "convergence")
CONVERGENCE_CAP = 100
LENGTHS = ("epochs", "block_epochs")  # settings that are the protocol's to give


@dataclass(frozen=True)
class Rule:
    """What a protocol says of one arm.

    Attributes:
        stopping: the stopping rule of every stage.
        max_epochs: cap of every stage; None: the algorithm's own.
        preset: whose contested choices to take; None: this package's.
        hyperparameters: published settings that are options of the algorithm.
        source: where these come from: "thesis", "2026", or "defaults" where nothing was published.
    """

    stopping: Stopping
    max_epochs: int | None
    preset: str | None
    hyperparameters: dict = field(default_factory=dict)
    source: str = "defaults"


def rule(protocol: str, algorithm: str, data: str, architecture: str, preset: str | None = None) -> Rule:
    """The protocol's rule for one arm.

    Raises:
        UnknownName: no such protocol.
        InvalidInput: "published" for an arm that was not published.
    """
    choose("protocol", protocol, PROTOCOLS)
    arm = {"algorithm": algorithm, "data": data, "architecture": architecture}
    source = preset or "thesis"
    settings = _settings(source, **arm)
    if protocol == "published":
        if not any(name.startswith("stopping.") for name in settings):
            raise InvalidInput(_not_published(source, **arm))
        stopping = {k.removeprefix("stopping."): v for k, v in settings.items() if k.startswith("stopping.")}
        options = {k: v for k, v in settings.items() if not k.startswith("stopping.")}
        return Rule(Stopping(**stopping), None, source, options, source)
    options = {k: v for k, v in settings.items() if not k.startswith("stopping.") and k not in LENGTHS}
    return Rule(Stopping(), CONVERGENCE_CAP, preset, options, source if options else "defaults")


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
