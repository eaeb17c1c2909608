"""A resolved experiment: what decides a run's outcome and cost, of which its key is made, and its labels."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property

from ..training.stopping import Budget, Stopping

#: How a run was asked for: what decides nothing beside what it resolves to.
LABELS = ("data", "protocol", "preset", "hyperparameters_from")
#: The optional `version` of the user's own parts.
VERSIONS = ("algorithm_version", "network_version", "stopping_version")
#: Options that this package got later than its first records: at this value they change nothing, and a key
#: leaves them out, so that a run from before is found.
LATER = {"stage_ratio": 1.0, "projection_bias": False, "sim_weight": 0.0}


@dataclass(frozen=True)
class Resolved:
    """An experiment with presets filled in and the data by their content, as `Experiment.resolve` gives it.

    Two of them with the same `key` are one run, whatever their labels: data (the data set's name, or the
    absolute path of the .npz), protocol, preset and hyperparameters_from (`Rule.source`).

    Attributes:
        options: every keyword option of the algorithm.
        max_epochs: the cap of every stage; the budget of all, where the experiment fixes one.
        stopping: the stop rule of every stage, or the "module:object" of the user's own.
        budget: what the stages may spend together, if anything is said of that.
        device: its type, such as "cuda".
        training_version: this package's when it was trained; `VERSIONS`: of the user's own parts, if any.
    """

    algorithm: str
    data: str
    data_sha256: str
    seed: int
    architecture: str
    protocol: str
    preset: str | None
    hyperparameters_from: str
    options: Mapping
    stopping: Stopping | str
    max_epochs: int | None
    budget: Budget | None
    precision: str
    device: str
    cache: bool | str
    training_version: int
    algorithm_version: object = None
    network_version: object = None
    stopping_version: object = None

    @classmethod
    def of(cls, plain: Mapping) -> "Resolved":
        """The inverse of `plain`. Raises KeyError, TypeError or ValueError for anything else."""
        known = {f.name: plain[f.name] for f in fields(cls) if f.name in plain or f.name not in VERSIONS}
        if not isinstance(known["stopping"], str):
            known["stopping"] = Stopping(**known["stopping"])
        if known["budget"] is not None:
            known["budget"] = Budget(**known["budget"])
        return cls(**known)

    @classmethod
    def named(cls, plain: Mapping, name: str) -> "Resolved":
        """As `of`, for what is kept under a key: today's, or that of format 2, the hash of all plain values.

        Raises ValueError if it is neither.
        """
        found = cls.of(plain)
        if name not in (found.key, hash_of(plain)):
            raise ValueError(f"the experiment under the key {name} is of another run")
        return found

    def plain(self) -> dict:
        """All of it as values that JSON knows; without the versions that there are not."""
        found = {k: v for k, v in asdict(self).items() if v is not None or k not in VERSIONS}
        return found | {"budget": self.budget and self.budget.plain()}

    @cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of all but the labels.

        Of the data counts the content, and a published set's name, too, because its split, normalisation and
        augmentation go by that.
        """
        own = self.data.endswith(".npz") or ":" in self.data
        decisive = {k: v for k, v in self.plain().items() if k not in LABELS}
        options = {k: v for k, v in self.options.items() if k not in LATER or v != LATER[k]}
        decisive |= {"options": options}
        return hash_of(_canonical({**decisive, "published": None if own else self.data}))

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def labels(self) -> dict[str, str | None]:
        return {name: getattr(self, name) for name in LABELS}


def hash_of(plain: Mapping) -> str:
    """Of plain values, in hexadecimal."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _canonical(value: object) -> object:
    """With every number in one spelling: a rate of 1 is a rate of 1.0."""
    if isinstance(value, Mapping):
        return {name: _canonical(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
