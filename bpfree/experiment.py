"""An experiment is a value; running it gives a record, and running it again reads that record."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from torch import nn

from .algorithms import ALGORITHMS, Algorithm
from .data import NAMES, Data, load
from .energy import EnergyMeter
from .errors import InvalidInput, TrainingDiverged, choose
from .history import COST, OUTCOME, REGIONS, History
from .machine import machine
from .models import MLP, Blocks, CaFoCNN
from .protocols import Rule, rule
from .store import Record, Store
from .training import PRECISIONS, check_positive, pick_device, train

#: Raised by hand whenever a change alters what training computes: records of another version are not reused.
TRAINING_VERSION = 1

#: The paper's networks, by family of algorithms: for Forward-Forward, for Cascaded-Forward, and for the rest.
ARCHITECTURES = {
    "digits": {"ff": "2x256", "cafo": "cnn-16-32-64", "": "2x256"},
    "mnist": {"ff": "3x1000", "cafo": "cnn", "": "2x1000"},
    "fashion_mnist": {"ff": "4x2000", "cafo": "cnn", "": "2x1000"},
    "cifar10": {"ff": "3x2000", "cafo": "cnn", "": "3x2000"},
    "cifar100": {"ff": "3x2000", "cafo": "cnn", "": "3x2000"},
}
OWN_DATA = {"ff": "2x1000", "cafo": "cnn", "": "2x1000"}

#: The smallest networks, on which an experiment's options are tried before anything is loaded.
STAND_IN = {
    "mlp": lambda: MLP([100, 1, 1], classes=2),
    "cnn": lambda: CaFoCNN((1, 8, 8), classes=2, channels=(1, 1, 1)),
}


@dataclass(frozen=True)
class Experiment:
    """What is to be trained, on what, and how long it may take.

    Attributes:
        algorithm: a name in `bpfree.ALGORITHMS`.
        data: a data set name, or the path of a .npz.
        seed: of the weights, the batches and the validation split.
        architecture: "2x1000" (hidden layers x width), "1000-500" (widths), "cnn" (the three CaFo
            blocks) or "cnn-16-32-64" (with these channels); None: the paper's for this algorithm and data.
        protocol: a name in `bpfree.protocols.PROTOCOLS`: how long it may train.
        preset: the source whose contested choices and hyperparameters are taken ("thesis", "2026",
            "reference"); None: the protocol's.
        options: keyword options of the algorithm that choose between definitions.
        hyperparameters: keyword options of the algorithm that are tuned (lr, weight_decay, ...).
        max_epochs: cap on every stage, below the protocol's; None: the protocol's.
        precision: "fp32" or "bf16".
        device: "auto", "cpu", "cuda" or "mps".
        cache: of frozen prefixes, as in `bpfree.train`.

    Raises:
        UnknownName: a name that does not exist, at once and not when the experiment runs.
        InvalidInput: a value out of range.
    """

    algorithm: str
    data: str = "digits"
    seed: int = 0
    architecture: str | None = None
    protocol: str = "convergence"
    preset: str | None = None
    options: Mapping = field(default_factory=dict)
    hyperparameters: Mapping = field(default_factory=dict)
    max_epochs: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    cache: bool | str = "auto"

    def __post_init__(self):
        cls, arm = ALGORITHMS[choose("algorithm", self.algorithm, ALGORITHMS)]
        object.__setattr__(self, "data", str(self.data))
        if not self.data.endswith(".npz"):
            choose("data set (or path of an .npz file)", self.data, NAMES)
        choose("precision", self.precision, PRECISIONS)
        if self.cache not in ("auto", True, False):
            raise InvalidInput(f"cache={self.cache!r}: use 'auto', True or False")
        check_positive("max_epochs", self.max_epochs)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise InvalidInput(f"seed={self.seed!r}: use an integer of 0 or more")
        for name in [*self.options, *self.hyperparameters]:
            choose(f"option of {self.algorithm}", name, cls.options())
        if self.preset is not None:
            choose(f"preset of {self.algorithm}", self.preset, cls.presets)
        chosen = rule(self.protocol, self.algorithm, self.data, self.resolved_architecture, self.preset)
        options = self.resolved_options(chosen)
        for name, value in arm.items():
            if options[name] != value:
                raise InvalidInput(
                    f"{name}={options[name]!r} contradicts {self.algorithm!r}, which is {name}={value!r}: "
                    "leave it out, or choose another algorithm"
                )
        family, _ = parse_architecture(self.resolved_architecture)
        cls(STAND_IN[family](), **options)  # refuses values out of their range

    def __hash__(self):
        return hash(
            json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, sort_keys=True, default=dict)
        )

    @property
    def resolved_architecture(self) -> str:
        """The architecture, the paper's if none was given."""
        if self.architecture is not None:
            return self.architecture
        networks = ARCHITECTURES.get(self.data, OWN_DATA)
        family = self.algorithm.partition("_")[0]
        return networks.get(family, networks[""])

    def against(self, algorithm: str = "bp") -> "Experiment":
        """Another algorithm on the same network, data, seed and protocol, with the settings both have."""
        known = ALGORITHMS[choose("algorithm", algorithm, ALGORITHMS)][0].options()
        shared = {k: v for k, v in self.hyperparameters.items() if k in known}
        return replace(
            self,
            algorithm=algorithm,
            architecture=self.resolved_architecture,
            options={},
            hyperparameters=shared,
        )

    def resolved_options(self, chosen: Rule) -> dict:
        """The algorithm's keyword options under a protocol's rule."""
        cls, arm = ALGORITHMS[self.algorithm]
        return {
            **cls.options(),
            **(cls.presets.get(chosen.preset, {}) if chosen.preset else {}),
            **arm,
            **chosen.hyperparameters,
            **self.options,
            **self.hyperparameters,
        }

    def resolve(self, data: Data) -> dict:
        """Everything that decides the outcome, as plain values: presets filled in, the data by their hash.

        The order of precedence: the algorithm's defaults, the preset's contested choices, what makes the
        arm what it is, published hyperparameters, this experiment's own.
        """
        chosen = rule(self.protocol, self.algorithm, self.data, self.resolved_architecture, self.preset)
        options = self.resolved_options(chosen)
        caps = [cap for cap in (self.max_epochs, chosen.max_epochs) if cap is not None]
        return {
            "algorithm": self.algorithm,
            "data": self.data,
            "data_sha256": data.sha256,
            "seed": self.seed,
            "architecture": self.resolved_architecture,
            "protocol": self.protocol,
            "preset": chosen.preset,
            "hyperparameters_from": chosen.source,
            "options": options,
            "stopping": asdict(chosen.stopping),
            "max_epochs": min(caps, default=None),
            "precision": self.precision,
            "device": pick_device(self.device).type,
            "cache": self.cache,
            "training_version": TRAINING_VERSION,
        }


def run(
    experiment: Experiment,
    store: Store | str | None = None,
    *,
    progress: bool = True,
    keep_weights: bool = True,
) -> Record:
    """The experiment's record: read from the store, or trained, measured and stored.

    Test data are read once, after training has ended.

    Raises:
        TrainingDiverged: training failed (now or when it was stored); the record says so and is kept.
        MissingData, InvalidInput: the data are not there, or do not fit.
    """
    store = store if isinstance(store, Store) else Store(store)
    data = _load(experiment.data, experiment.seed)
    resolved = experiment.resolve(data)
    key = key_of(resolved)
    if key in store:
        record = store.read(key)
    else:
        algorithm, record = _train(resolved, key, data, progress)
        record = store.write(record, algorithm.state_dict() if keep_weights and not record.error else None)
    if record.status == "failed":
        raise TrainingDiverged(**record.error)
    return record


def _train(resolved: dict, key: str, data: Data, progress: bool) -> tuple[Algorithm, Record]:
    """Train as resolved; divergence is an outcome, too."""
    from .training import Stopping

    algorithm = build(resolved, data)
    error = None
    with EnergyMeter() as meter:
        try:
            history = train(
                algorithm,
                data,
                seed=resolved["seed"],
                max_epochs=resolved["max_epochs"],
                stopping=Stopping(**resolved["stopping"]),
                cache=resolved["cache"],
                precision=resolved["precision"],
                meter=meter,
                progress=progress,
                device=resolved["device"],
            )
        except TrainingDiverged as diverged:
            history = diverged.history
            error = {"stage": diverged.stage, "epoch": diverged.epoch, "lr": diverged.lr}
    frame = history.frame()
    return algorithm, Record(
        key=key,
        experiment=resolved,
        status="failed" if error else "finished",
        metrics={} if error else outcome(algorithm, history, data),
        history=frame[list(OUTCOME)],
        cost=totals(history),
        epoch_cost=frame[["stage", "epoch", *COST]],
        stages=[
            {"name": s.name, "prefix": s.prefix, "ended": s.ended, "restored": s.restored}
            for s in history.stages
        ],
        machine=machine(resolved["device"]),
        provenance=history.provenance,
        error=error,
    )


def outcome(algorithm: Algorithm, history: History, data: Data) -> dict[str, float]:
    """Test accuracy (%) and loss by every read-out, and how much was trained. Reads the test data."""
    metrics = {}
    for number, (name, scores) in enumerate(algorithm.predict_all(data.x_test).items()):
        labels = data.y_test.to(scores.device)
        suffixes = ["", f"[{name}]"] if number == 0 else [f"[{name}]"]
        for suffix in suffixes:
            metrics[f"test_accuracy{suffix}"] = (
                100.0 * (scores.argmax(1) == labels).sum().item() / len(labels)
            )
            metrics[f"test_loss{suffix}"] = nn.functional.cross_entropy(scores.float(), labels).item()
    restored = [s.rows[s.restored - 1] for s in history.stages]
    validated = [row for row in restored if not math.isnan(row.get("val_accuracy", math.nan))]
    metrics["val_accuracy"] = validated[-1]["val_accuracy"]
    metrics["epochs"] = history.epochs
    metrics["samples"] = sum(row["samples"] for s in history.stages for row in s.rows)
    return metrics


def totals(history: History) -> dict[str, float]:
    """Seconds and joules by region and in all; only what was recorded."""
    amounts = {}
    for unit in ("s", "measured_j", "estimated_j"):
        for name, regions in {**{r: (r,) for r in REGIONS}, "total": REGIONS}.items():
            amount = history.total(unit, regions)
            if amount is not None:
                amounts[f"{name}_{unit}"] = amount
    return amounts


def build(resolved: dict, data: Data) -> Algorithm:
    """The untrained algorithm and network of a resolved experiment."""
    cls, _ = ALGORITHMS[resolved["algorithm"]]
    return cls(build_model(resolved["architecture"], data), **resolved["options"])


def trained(record: Record, data: Data) -> Algorithm:
    """The trained algorithm of a record, from its stored weights."""
    algorithm = build(record.experiment, data)
    algorithm.load_state_dict(record.weights())
    return algorithm.eval()


def build_model(architecture: str, data: Data) -> Blocks:
    """The network named by `architecture`, sized for the data. Raises InvalidInput for no such name."""
    family, numbers = parse_architecture(architecture)
    if family == "cnn":
        return CaFoCNN(data.shape, classes=data.classes, **({"channels": numbers} if numbers else {}))
    return MLP([data.features, *numbers], classes=data.classes)


def parse_architecture(architecture: str) -> tuple[str, list[int]]:
    """("mlp", hidden widths) or ("cnn", channels; none for CaFo's own). Raises InvalidInput for neither."""
    name = str(architecture)
    if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name):
        return "mlp", [int(match[2])] * int(match[1])
    if match := re.fullmatch(r"(cnn(?=-|$)-?)?([1-9]\d*(?:-[1-9]\d*)*)?", name):
        numbers = [int(n) for n in (match[2] or "").split("-") if n]
        if match[1]:
            return "cnn", numbers
        if numbers:
            return "mlp", numbers
    raise InvalidInput(
        f"architecture {architecture!r}: use layers x width as in '2x1000', widths as in '1000-500', "
        "'cnn', or a cnn's channels as in 'cnn-16-32-64'"
    )


def key_of(resolved: dict) -> str:
    """SHA-256 of a resolved experiment, in hexadecimal."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=2)
def _load(name: str, seed: int) -> Data:
    return load(name, seed=seed)
