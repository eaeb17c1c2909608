"""An experiment is a value: what is to be trained, on what, and how long it may take."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor
from torch.nn.functional import cross_entropy

from ..algorithms import Algorithm
from ..algorithms.architectures import (
    STAND_IN,
    build_model,
    default_architecture,
    own_network,
    parse_architecture,
)
from ..algorithms.arms import arm
from ..data import PUBLISHED, check_name, load, short, stand_in
from ..errors import InvalidInput, check_positive, check_seed, choose, named
from ..errors.disk import one_spelling
from ..training.batches import Data
from ..training.history import History
from ..training.loop import PRECISIONS, pick_device, train
from ..training.numerics import pinned
from ..training.stopping import Budget, stop_rule
from .protocols import LENGTHS, OWN, REFERENCE, TUNED, Rule, rule
from .resolved import Resolved
from .store import Record

#: Raised by hand whenever a change alters what training computes: records of another version are not reused.
#: (Since chance is drawn on the CPU for every device, Forward-Forward's wrong labels on CUDA are others than
#: in older records of version 1, and a rate is rounded to float32 there; nothing else differs.)
TRAINING_VERSION = 1


@dataclass(frozen=True)
class Experiment:
    """What is to be trained, on what, and how long it may take.

    Attributes:
        algorithm: a name in `bpfree.ARMS`, or "module:object" of your own: an `Algorithm` or an `Arm`.
        data: as `bpfree.load` takes it; of a .npz the record has the absolute path.
        seed: of the weights, the batches and the validation split.
        architecture: "2x1000" (hidden layers x width), "1000-500" (widths), "cnn" (the three CaFo
            blocks), "cnn-16-32-64" (with these channels), "conv-64-128-256-512" (the blocks of Mono-Forward's
            authors with these channels, `ConvNet`), "rms-64-128-256-512" (`RMSNet`), or "module:Class" of
            your own `Blocks`; None: the paper's for this algorithm and data.
        protocol: a name in `bpfree.experiments.protocols.PROTOCOLS`, or "module:object" of your own
            `Protocol`: how long it may train.
        preset: the source whose contested choices and hyperparameters are taken ("thesis", "2026",
            "reference"); None: the protocol's.
        options, hyperparameters: keyword options of the algorithm, those that choose between definitions and
            those that are tuned (lr, weight_decay, ...).
        max_epochs: cap on every stage, below the protocol's; None: the protocol's. Under a protocol with a
            budget, of the run that sets it; under "frontier" the budget itself, in passes, of all stages.
        precision: "fp32" or "bf16".
        device: "auto", "cpu", "cuda" or "mps".
        cache: of frozen prefixes, as in `bpfree.train`.
        stopping: "module:object" of your own `StopRule`; None: the protocol's.

    Raises UnknownName or InvalidInput for a name that does not exist or a value out of range, at once and not
    when the experiment runs.
    """

    algorithm: str
    data: str = "digits"
    seed: int = 0
    architecture: str | None = None
    protocol: str = "convergence"
    preset: str | None = None
    options: Mapping = field(default_factory=dict, hash=False)
    hyperparameters: Mapping = field(default_factory=dict, hash=False)
    max_epochs: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    cache: bool | str = "auto"
    stopping: str | None = None

    def __post_init__(self):
        known = arm(self.algorithm)
        cls = known.algorithm
        object.__setattr__(self, "data", str(self.data))
        check_name(self.data)
        choose("precision", self.precision, PRECISIONS)
        if str(self.device).partition(":")[1]:
            raise InvalidInput(
                f"device={str(self.device)!r}: use 'auto', 'cpu', 'cuda' or 'mps'; the variable "
                "CUDA_VISIBLE_DEVICES says which GPU is meant"
            )
        if not isinstance(self.cache, bool) and self.cache != "auto":
            raise InvalidInput(f"cache={self.cache!r}: use 'auto', True or False")
        if self.stopping is not None and not isinstance(self.stopping, str):
            raise InvalidInput(f'stopping={self.stopping!r}: name your own rule, as "module:object"')
        check_positive("max_epochs", self.max_epochs)
        check_seed(self.seed)
        for name in ("options", "hyperparameters"):
            if not isinstance(given := getattr(self, name), Mapping):
                raise InvalidInput(f"{name}={given!r}: use a dictionary, such as {{'lr': 0.001}}")
        network = self.resolved_architecture
        own = own_network(network)
        family = "" if own else parse_architecture(network)[0]
        if self.preset is not None:
            choose(f"preset of {self.algorithm}", self.preset, [*cls.presets, TUNED])
        chosen = self.rule()
        stop_rule(chosen.stopping)
        options, known_options = self.resolved_options(chosen), cls.options()
        for name in options:
            choose(f"option of {self.algorithm}", name, known_options)
        given = {**self.options, **self.hyperparameters}
        for name, value in known.options.items():
            if given.get(name, value) != value:
                raise InvalidInput(
                    f"{name}={given[name]!r} contradicts {self.algorithm!r}, which is {name}={value!r}: "
                    "leave it out, or choose another algorithm"
                )
        if chosen.budget == OWN and (capped := [name for name in LENGTHS if given.get(name) is not None]):
            raise InvalidInput(
                f"{capped[0]}={given[capped[0]]!r} would leave a part of the budget of protocol "
                f"{self.protocol!r} unspent: leave it out, and give all passes as max_epochs"
            )
        if not own:  # whose values are tried when it is built, from the data
            known.make(STAND_IN[family](), **options)  # refuses values out of their range

    @property
    def resolved_architecture(self) -> str:
        """The architecture, the paper's if none was given."""
        own = self.architecture
        return own if own is not None else default_architecture(self.algorithm, self.data)

    @property
    def place(self) -> tuple[str, str, str]:
        """(algorithm, data, architecture): what settings are published, tuned and kept for."""
        return self.algorithm, self.data, self.resolved_architecture

    @property
    def label(self) -> str:
        """What a bar calls it."""
        return f"{self.algorithm} {short(self.data)} {self.resolved_architecture} seed {self.seed}"

    def against(self, algorithm: str = "bp") -> "Experiment":
        """Another algorithm on the same network, data, seed and protocol, with the settings both have."""
        cls = arm(algorithm).algorithm
        shared = {k: v for k, v in self.hyperparameters.items() if k in cls.options()}
        preset = self.preset if self.preset in (*cls.presets, TUNED) else None
        own = {"architecture": self.resolved_architecture, "preset": preset, "hyperparameters": shared}
        return replace(self, algorithm=algorithm, options={}, **own)

    def reference(self) -> "Experiment | None":
        """The run whose cost is this one's budget, if it has one: the same seed's BP under `convergence`."""
        if self.rule().budget in (None, OWN):
            return None
        return replace(self.against(REFERENCE), protocol="convergence")

    def rule(self) -> Rule:
        """What the protocol says of this arm, with this experiment's own stop rule if it has one."""
        found = rule(self.protocol, *self.place, self.preset, self.max_epochs)
        return replace(found, stopping=self.stopping or found.stopping)

    def resolved_options(self, chosen: Rule) -> dict:
        """The algorithm's keyword options under a protocol's rule, the later source before the earlier."""
        known = arm(self.algorithm)
        preset = known.algorithm.presets.get(chosen.preset, {})
        if chosen.budget == OWN:  # all of which is spent, however many epochs the preset's source has
            preset = {name: value for name, value in preset.items() if name not in LENGTHS}
        return {
            **known.algorithm.options(),
            **preset,
            **known.options,
            **chosen.hyperparameters,
            **self.options,
            **self.hyperparameters,
        }

    def resolve(self, data: Data, budget: Budget | None = None) -> Resolved:
        """Everything that decides the outcome: presets filled in, the data by their hash.

        budget: what `reference()` left to spend, under a protocol that has one.
        """
        chosen = self.rule()
        if chosen.budget == OWN:
            budget = Budget("passes", self.max_epochs or chosen.max_epochs, exact=True)
        elif (chosen.budget is None) != (budget is None):
            raise InvalidInput(
                f"protocol {self.protocol!r} trains on a budget that another run sets: use bpfree.run"
            )
        caps = [cap for cap in (self.max_epochs, chosen.max_epochs) if cap is not None and budget is None]
        network = self.resolved_architecture
        parts = {
            "algorithm": arm(self.algorithm).algorithm,
            "network": own_network(network),
            "stopping": named(chosen.stopping, "stop rule") if isinstance(chosen.stopping, str) else None,
        }
        return Resolved(
            **{name: getattr(self, name) for name in ("algorithm", "seed", "protocol", "precision", "cache")},
            data=one_spelling(self.data),
            data_sha256=data.sha256,
            architecture=network,
            preset=chosen.preset,
            hyperparameters_from=chosen.source,
            options=self.resolved_options(chosen),
            stopping=chosen.stopping,
            max_epochs=budget.amount if chosen.budget == OWN else min(caps, default=None),
            budget=budget,
            device=pick_device(self.device).type,
            training_version=TRAINING_VERSION,
            **{f"{name}_version": getattr(part, "version", None) for name, part in parts.items()},
        )


def fit(
    experiment: Experiment, data: Data, *, progress: bool = True, on_epoch=None
) -> tuple[Algorithm, History]:
    """Train as the experiment says, on `data`, and store nothing. Test data are not read.

    Raises as `bpfree.train` does, and InvalidInput if the protocol needs a budget.
    """
    return train_resolved(experiment.resolve(data), data, progress=progress, on_epoch=on_epoch)


@functools.cache
def least_passes(algorithm: str, data: str, architecture: str) -> int:
    """The smallest budget that an arm can be given: a pass for each of its stages.

    Raises MissingData where a user's own data are not there; of published data only the sizes count.
    """
    images = stand_in(data) if data in PUBLISHED else load(data)
    return len(build(Experiment(algorithm, data, architecture=architecture).resolve(images), images).stages())


def validated(algorithm: Algorithm, history: History, data: Data) -> dict[str, float]:
    """val_accuracy (%) and val_loss of the trained algorithm, by the read-out that it predicts with.

    They are in the history, as those of the last stage's kept epoch, unless that was validated by another
    read-out, as a single one of CaFo's predictors is, or by none.
    """
    kept = [stage.rows[stage.restored - 1] for stage in history.stages]
    kept = [row for row in kept if not math.isnan(row.get("val_accuracy", math.nan))]
    if kept and algorithm.predicts_as_validated:
        return {f"val_{name}": kept[-1][f"val_{name}"] for name in ("accuracy", "loss")}
    accuracy, loss = score(algorithm.predict(data.x_val), data.y_val)
    return {"val_accuracy": accuracy, "val_loss": loss}


def score(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy (%) and mean cross-entropy of class scores (N, classes)."""
    labels = labels.to(scores.device)
    accuracy = 100.0 * (scores.argmax(1) == labels).sum().item() / len(labels)
    return accuracy, cross_entropy(scores.float(), labels).item()


def train_resolved(resolved: Resolved, data: Data, **how) -> tuple[Algorithm, History]:
    """`fit` of a resolved experiment; `how` are further arguments of `bpfree.train`."""
    algorithm = build(resolved, data)
    names = ("seed", "max_epochs", "stopping", "budget", "cache", "precision", "device")
    own = {name: getattr(resolved, name) for name in names}
    if resolved.budget is not None:  # which is all that there is to spend
        own["max_epochs"] = None
    return algorithm, train(algorithm, data, **own, **how)


def build(resolved: Resolved, data: Data) -> Algorithm:
    """The untrained algorithm and network of a resolved experiment."""
    return arm(resolved.algorithm).make(build_model(resolved.architecture, data), **resolved.options)


@pinned()
def trained(record: Record, data: Data) -> Algorithm:
    """The trained algorithm of a record, from its stored weights.

    Raises InvalidInput if it was trained on other data, or if its weights are not there or not its own.
    """
    if record.experiment.data_sha256 != data.sha256:
        raise InvalidInput(
            f"record {record.key[:12]} was trained on {record.experiment.data} when that held other data: "
            "run its experiment again"
        )
    algorithm = build(record.experiment, data)
    try:
        algorithm.load_state_dict(record.weights())
    except RuntimeError as error:
        raise InvalidInput(
            f"the weights in {record.folder} are of another network ({error}): remove it and run again"
        ) from None
    return algorithm.eval()
