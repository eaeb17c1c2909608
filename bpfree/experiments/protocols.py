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
    frontier          a budget of passes that the experiment fixes in advance, its `max_epochs`: divided over
                      the arm's stages, the rate falling linearly to zero over each, last weights kept; where
                      no preset is named, all arms have this package's defaults, AdamW (FF (SGD) apart), since
                      what was published is of other lengths of training, and of unlike optimisers

A protocol of your own is a `Protocol` that an experiment names as "module:object".
"""

import functools
import inspect
from dataclasses import dataclass, field, replace

from ..algorithms import arms
from ..errors import InvalidInput, choose, named
from ..training.stopping import Stopping
from . import published, tuned
from .resolved import Resolved

REFERENCE = "bp"  # whose cost is the budget of the protocols that have one
CONVERGENCE_CAP = 100
LENGTHS = ("epochs", "block_epochs")  # settings that are the protocol's to give
HYPERPARAMETERS = ("lr", "weight_decay", "head_lr", "head_weight_decay", "block_lr", "block_weight_decay")
OWN = "own"  # the budget that an experiment fixes itself
TUNED = "tuned"  # the preset that takes hyperparameters from `bpfree.experiments.tuned`


@dataclass(frozen=True)
class Rule:
    """What a protocol says of one arm.

    Attributes:
        stopping: the stop rule of every stage: a `Stopping`, or the "module:object" of one of your own.
        max_epochs: cap of every stage; None: the algorithm's own.
        preset: whose contested choices to take; None, and for "tuned", this package's.
        hyperparameters: published or tuned settings that are options of the algorithm.
        source: where these come from: "thesis" (also where "2026" has none), "2026", "tuned" or "defaults".
        budget: what of the reference run is shared out, "passes" or "energy"; "own": the experiment's
            `max_epochs` passes, by default the rule's; None: nothing.
    """

    stopping: Stopping | str
    max_epochs: int | None
    preset: str | None
    hyperparameters: dict = field(default_factory=dict)
    source: str = "defaults"
    budget: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How long every arm may train: one rule for all, unless a subclass overrides `rule`.

    For instance `patient = Protocol(Stopping(patience=50), max_epochs=500)` in your module `mine` is the
    protocol "mine:patient". What it says of an arm is part of a run's key; its name is not.

    Attributes: as of `Rule`; `preset` is the one that is taken where an experiment names none, `lr_schedule`
    the schedule of every stage that an experiment does not choose itself (None: the arm's own).
    """

    stopping: Stopping | str = field(default_factory=Stopping)
    max_epochs: int | None = CONVERGENCE_CAP
    preset: str | None = None
    budget: str | None = None
    lr_schedule: str | None = None

    def rule(
        self,
        algorithm: str,
        data: str,
        architecture: str,
        preset: str | None = None,
        passes: int | None = None,
    ) -> Rule:
        """What it says of one arm: stopping, cap and budget are its own, settings the preset's source's.

        passes: the experiment's budget, where it fixes one.
        """
        preset = preset or self.preset
        settings, source = {}, "defaults"
        if preset or self.budget != OWN:
            settings, source = settings_of(preset, algorithm, data, architecture, passes)
        options = {k: v for k, v in settings.items() if k not in LENGTHS}
        source = source if options else "defaults"
        if self.lr_schedule:
            options["lr_schedule"] = self.lr_schedule
        return Rule(self.stopping, self.max_epochs, preset, options, source, self.budget)


class Published(Protocol):
    """Each arm's own."""

    def rule(self, algorithm: str, data: str, architecture: str, preset: str | None = None) -> Rule:
        source = preset or "thesis"
        stopping, options = published_settings(source, algorithm, data, architecture)
        if not stopping:
            table = published.hyperparameters(source=source, algorithm=algorithm)
            table = table[table["parameter"].str.startswith("stopping.")]
            networks = ", ".join(sorted(set(table["data"] + " " + table["architecture"])))
            known = f"published are {networks}" if networks else ""
            raise InvalidInput(
                f"protocol 'published' has no stopping rule for {algorithm} on {data} {architecture} in "
                f"source {source!r}: {known or 'nothing of this algorithm was published there'}; "
                "use protocol='convergence'"
            )
        return Rule(Stopping(**stopping), None, source, {**options}, source)


class ByLoss(Protocol):
    """One rule for all but Forward-Forward."""

    def rule(self, algorithm: str, data: str, architecture: str, preset: str | None = None) -> Rule:
        found = super().rule(algorithm, data, architecture, preset)
        return replace(found, stopping=Stopping()) if arms.arm(algorithm).family == "ff" else found


#: The protocols by name, in the order of tables.
PROTOCOLS: dict[str, Protocol] = {
    "published": Published(),
    "convergence": Protocol(),
    "convergence_loss": ByLoss(Stopping("val_loss"), preset="2026"),
    "matched": Protocol(Stopping(patience=None), None, budget="passes"),
    "equal_energy": Protocol(Stopping(patience=None), None, budget="energy"),
    "frontier": Protocol(Stopping(patience=None, restore="last"), 16, budget=OWN, lr_schedule="linear"),
}
#: Those that share out what another run took, and what of it.
BUDGETS = {name: p.budget for name, p in PROTOCOLS.items() if p.budget not in (None, OWN)}


def protocol(name: str) -> Protocol:
    """The protocol of this name in `PROTOCOLS`, or the one that "module:object" names.

    Raises UnknownName or InvalidInput, in one line, if there is none.
    """
    if name in PROTOCOLS or ":" not in str(name):
        return PROTOCOLS[choose("protocol", name, [*PROTOCOLS, "module:object"])]
    found = named(name, "protocol")
    if isinstance(found, type) and issubclass(found, Protocol):
        found = found()
    if not isinstance(found, Protocol):
        raise InvalidInput(f"protocol {name!r}: it names no bpfree.Protocol")
    return found


def add_protocol(name: str, own: Protocol) -> Protocol:
    """Puts a protocol last in `PROTOCOLS`, for this process. Raises InvalidInput if its name is taken."""
    if PROTOCOLS.setdefault(name, own) is not own:
        raise InvalidInput(f"a protocol {name!r} is there already: give yours another name")
    if own.budget not in (None, OWN):
        BUDGETS[name] = own.budget
    return own


def rule(
    name: str,
    algorithm: str,
    data: str,
    architecture: str,
    preset: str | None = None,
    passes: int | None = None,
) -> Rule:
    """The protocol's rule for one arm; passes: the experiment's own budget, which only some protocols read.

    Raises UnknownName for no such protocol; InvalidInput for "published" or "tuned" where an arm was neither,
    and for a protocol of the user's own that gives no rule.
    """
    known = protocol(name)
    # A rule of the user's own need not know of budgets.
    reads = "passes" in inspect.signature(known.rule).parameters
    own = {"passes": passes or known.max_epochs} if known.budget == OWN and reads else {}
    found = known.rule(algorithm, data, architecture, preset, **own)
    if not isinstance(found, Rule):
        raise InvalidInput(f"protocol {name!r} gave {found!r} for {algorithm}: let it give a bpfree.Rule")
    if not isinstance(found.stopping, Stopping | str):
        raise InvalidInput(
            f"protocol {name!r} has the stop rule {found.stopping!r}: use a bpfree.Stopping, or name your "
            'own as "module:object", by which a job in another process finds it'
        )
    return found


def settings_of(
    preset: str | None, algorithm: str, data: str, architecture: str, passes: int | None = None
) -> tuple[dict, str]:
    """The published or tuned options of an arm by preset, and where they come from.

    passes: the budget that the experiment fixes, for which settings are tuned apart.
    """
    arm = {"algorithm": algorithm, "data": data, "architecture": architecture}
    if preset == TUNED:
        settings = tuned.settings(**arm, passes=passes)
        if not settings:
            budget = f" for a budget of {passes} passes" if passes else ""
            raise InvalidInput(
                f"preset 'tuned': {algorithm} on {data} {architecture} has not been tuned{budget}: run "
                "bpfree.tuning.equal_budget, or take another preset"
            )
        return settings, TUNED
    source = preset or "thesis"
    if source == "2026" and not any(published_settings(source, **arm)):
        # Of BP on Mono-Forward's networks the camera-ready gives nothing; the thesis, of the same authors,
        # does, and without it BP would stand untuned beside a tuned rival.
        source = "thesis"
    return published_settings(source, **arm)[1], source


def origin(experiment: Resolved) -> str:
    """Where a run's settings come from: as `Rule.source` says, or "given" where it had its own."""
    source, name = experiment.hyperparameters_from, experiment.algorithm
    if source == TUNED or name not in arms.ARMS:
        return source
    arm = arms.arm(name)
    usual = arm.algorithm.options() | arm.algorithm.presets.get(experiment.preset, {}) | arm.options
    usual |= published_settings(source, name, experiment.data, experiment.architecture)[1]
    given = {k: v for k, v in experiment.options.items() if k in HYPERPARAMETERS}
    return source if all(v == usual.get(k) for k, v in given.items()) else "given"


@functools.cache  # a search makes thousands of experiments
def published_settings(source: str, algorithm: str, data: str, architecture: str) -> tuple[dict, dict]:
    """What a source has of one arm: the fields of its `Stopping`, and the options of the algorithm."""
    arm = {"algorithm": algorithm, "data": data, "architecture": architecture}
    stopping, options = {}, {}
    for row in published.hyperparameters(source=source, **arm).itertuples():
        of, _, name = row.parameter.rpartition(".")
        (stopping if of == "stopping" else options)[name] = row.value
    return stopping, options


def is_published(algorithm: str, data: str, architecture: str) -> bool:
    """Whether protocol "published" knows this arm."""
    return bool(published_settings("thesis", algorithm, data, architecture)[0])
