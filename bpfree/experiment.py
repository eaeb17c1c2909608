"""An experiment is a value; running it gives a record, and running it again reads that record."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from torch import nn

from . import hardware
from .algorithms import ALGORITHMS, Algorithm
from .architectures import STAND_IN, build_model, default_architecture, parse_architecture
from .data import NAMES, Data, load
from .energy import EnergyMeter
from .errors import InvalidInput, TrainingDiverged, choose
from .history import COST, OUTCOME, REGIONS, History
from .machine import machine
from .protocols import REFERENCE, TUNED, Rule, rule
from .stopping import Budget, Stopping
from .store import Record, Store
from .training import PRECISIONS, check_positive, pick_device, train

#: Raised by hand whenever a change alters what training computes: records of another version are not reused.
TRAINING_VERSION = 1


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
            choose(f"preset of {self.algorithm}", self.preset, [*cls.presets, TUNED])
        options = self.resolved_options(self.rule())
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
        return default_architecture(self.algorithm, self.data)

    def against(self, algorithm: str = "bp") -> "Experiment":
        """Another algorithm on the same network, data, seed and protocol, with the settings both have."""
        cls, _ = ALGORITHMS[choose("algorithm", algorithm, ALGORITHMS)]
        known = cls.options()
        shared = {k: v for k, v in self.hyperparameters.items() if k in known}
        return replace(
            self,
            algorithm=algorithm,
            architecture=self.resolved_architecture,
            preset=self.preset if self.preset in (*cls.presets, TUNED) else None,
            options={},
            hyperparameters=shared,
        )

    def reference(self) -> "Experiment | None":
        """The run whose cost is this one's budget, if it has one: the same seed's BP under `convergence`."""
        if self.rule().budget is None:
            return None
        return replace(self.against(REFERENCE), protocol="convergence")

    def rule(self) -> Rule:
        """What the protocol says of this arm."""
        return rule(self.protocol, self.algorithm, self.data, self.resolved_architecture, self.preset)

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

    def resolve(self, data: Data, budget: Budget | None = None) -> dict:
        """Everything that decides the outcome, as plain values: presets filled in, the data by their hash.

        The order of precedence: the algorithm's defaults, the preset's contested choices, what makes the
        arm what it is, published or tuned hyperparameters, this experiment's own.

        budget: what `reference()` left to spend, under a protocol that has one.
        """
        chosen = self.rule()
        if (chosen.budget is None) != (budget is None):
            raise InvalidInput(
                f"protocol {self.protocol!r} trains on a budget that another run sets: use bpfree.run"
            )
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
            "budget": asdict(budget) if budget else None,
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
    reference = experiment.reference()
    budget = None
    if reference is not None:
        budget = spent(run(reference, store, progress=progress), experiment.rule().budget)
    data = _load(experiment.data, experiment.seed)
    resolved = experiment.resolve(data, budget)
    key = key_of(resolved)
    if key in store:
        record = store.read(key)
    else:
        algorithm, record = _train(resolved, key, data, progress)
        record = store.write(record, algorithm.state_dict() if keep_weights and not record.error else None)
    if record.status == "failed":
        raise TrainingDiverged(**record.error)
    return record


def spent(record: Record, kind: str) -> Budget:
    """What a run took, as a budget: "passes", or "energy": joules, or seconds if none were measured."""
    if kind == "passes":
        return Budget("passes", record.metrics["epochs"])
    unit = "measured_j" if "total_measured_j" in record.cost else "s"
    return Budget(unit, record.cost[f"total_{unit}"])


def fit(
    experiment: Experiment, data: Data, *, progress: bool = True, meter=None, on_epoch=None
) -> tuple[Algorithm, History]:
    """Train as the experiment says, on `data`, and store nothing. Test data are not read.

    Raises:
        TrainingDiverged: as from `bpfree.train`; its attribute `history` holds what was trained until then.
        InvalidInput: the data do not fit, or the protocol needs a budget.
    """
    return _fit(experiment.resolve(data), data, progress=progress, meter=meter, on_epoch=on_epoch)


def _fit(resolved: dict, data: Data, **how) -> tuple[Algorithm, History]:
    algorithm = build(resolved, data)
    history = train(
        algorithm,
        data,
        seed=resolved["seed"],
        max_epochs=resolved["max_epochs"],
        stopping=Stopping(**resolved["stopping"]),
        budget=Budget(**resolved["budget"]) if resolved["budget"] else None,
        cache=resolved["cache"],
        precision=resolved["precision"],
        device=resolved["device"],
        **how,
    )
    return algorithm, history


def _train(resolved: dict, key: str, data: Data, progress: bool) -> tuple[Algorithm | None, Record]:
    """Train as resolved, under a tracing meter; divergence is an outcome, too."""
    algorithm = error = None
    with EnergyMeter(trace=True) as meter:
        try:
            algorithm, history = _fit(resolved, data, meter=meter, progress=progress)
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
        cost={**totals(history), **({} if error else hardware.bill(algorithm, data, history))},
        epoch_cost=frame[["stage", "epoch", *COST]],
        trace=history.staged(meter.trace, meter.reading.seconds),
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


def key_of(resolved: dict) -> str:
    """SHA-256 of a resolved experiment, in hexadecimal."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=2)
def _load(name: str, seed: int) -> Data:
    return load(name, seed=seed)
