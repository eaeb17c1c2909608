"""When a stage ends, and which epoch's weights it keeps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, choose
from .history import REGIONS, History, amounts
from .stage import Stage

DEFAULT_CAP = 100  # epochs per stage where nobody says otherwise
METRICS = ("val_accuracy", "val_loss")
UNITS = ("passes", "s", "measured_j")


@dataclass(frozen=True)
class Stopping:
    """When a stage ends and which epoch's weights it keeps.

    Training stops `patience` epochs after the last epoch that improved `metric` by more than
    `min_delta`; None never stops early. Kept are the weights and buffers of the earliest best
    epoch by `restore` ("best": by `metric` itself) or those of the "last".
    """

    metric: str = "val_accuracy"
    patience: int | None = 20
    min_delta: float = 0.0
    restore: str = "best"

    def __post_init__(self):
        choose("stopping metric", self.metric, METRICS)
        choose("restore rule", self.restore, ("best", "last", *METRICS))
        if self.patience is not None and (type(self.patience) is not int or self.patience < 1):
            raise InvalidInput(
                f"patience={self.patience!r}: use a positive integer, or None to never stop early"
            )
        if not isinstance(self.min_delta, int | float) or not 0 <= self.min_delta < math.inf:
            raise InvalidInput(f"min_delta={self.min_delta!r}: use a number of 0 or more")


@dataclass(frozen=True)
class Budget:
    """What all stages of a run may spend together.

    Every descended stage has an equal share: of "passes", rounded up, after each solved stage has taken its
    one; of seconds or joules, those of training, validation and prefix work. Of these a stage inherits what
    the stages before it left or owes what they overdrew; it trains for one epoch at least, and ends with the
    epoch whose end lies nearest to its limit.

    Attributes:
        unit: "passes", "s" or "measured_j".
        amount: how much of it.
    """

    unit: str
    amount: float

    def __post_init__(self):
        choose("unit of a budget", self.unit, UNITS)
        if type(self.amount) not in (int, float) or not 0 < self.amount < math.inf:
            raise InvalidInput(f"a budget of {self.amount!r} {self.unit}: use a number greater than 0")


class Lengths:
    """How long each descended stage of a run may take, in turn.

    Args:
        stages: all of them, in order.
        max_epochs: cap on every stage; None: its own.
        budget: of the whole run; None: no other limit than the caps.
    """

    def __init__(self, stages: Sequence[Stage], max_epochs: int | None, budget: Budget | None):
        self.max_epochs, self.budget = max_epochs, budget
        self.descended = sum(stage.losses is not None for stage in stages)
        self.solved = len(stages) - self.descended

    def next(self, stage: Stage, history: History) -> "Length":
        """The length of the stage that is about to begin, after those that `history` holds."""
        caps = [cap for cap in (stage.epochs, self.max_epochs) if cap is not None]
        if self.budget is None:
            return Length(min(caps, default=DEFAULT_CAP))
        own = min(caps, default=math.inf)
        if self.budget.unit == "passes":
            return Length(own, max(1, math.ceil((self.budget.amount - self.solved) / self.descended)))
        spent = sum(cost(row, self.budget.unit) for stage in history.stages for row in stage.rows)
        begun = 1 + sum(stage.ended != "solved" for stage in history.stages)
        share = self.budget.amount * begun / self.descended - spent
        return Length(own, unit=self.budget.unit, left=share)


@dataclass(frozen=True)
class Length:
    """How many epochs a stage may take.

    Attributes:
        own: the cap that holds whatever the budget.
        share: of a budget of passes.
        unit, left: of a budget of seconds or joules: what the stage may spend of it.
    """

    own: float
    share: float = math.inf
    unit: str = ""
    left: float = math.inf

    def cap(self, rows: Sequence[dict]) -> int:
        """The epochs of the stage in all, as foreseen after those in `rows`.

        Where seconds or joules are shared out, that changes with what an epoch turns out to take.
        """
        if not self.unit:
            return int(min(self.own, self.share))
        if not rows:
            return int(min(self.own, DEFAULT_CAP))  # what an epoch takes is not known yet
        spent = sum(cost(row, self.unit) for row in rows)
        epoch = sum(cost(row, self.unit, ("train", "val")) for row in rows) / len(rows)
        if not epoch:  # too short for the sensor or the clock: still not known
            return int(min(self.own, len(rows) + DEFAULT_CAP))
        return int(min(self.own, len(rows) + max(0, round((self.left - spent) / epoch))))

    def ended_by(self, epochs: int) -> str:
        """Which limit ended a stage that took all the epochs it might."""
        return "cap" if epochs >= self.own else "budget"


def cost(row: dict, unit: str, regions: tuple[str, ...] = REGIONS) -> float:
    """What an epoch took: seconds ("s") or joules. Raises InvalidInput if not all joules were measured."""
    found = amounts(row, unit, regions)
    if None in found:
        lost = any(amount is not None for amount in amounts(row, unit))
        why = "a sensor was lost while they were measured" if lost else "nothing measures them here"
        raise InvalidInput(
            f"a budget in joules, but {why}: give a meter that has a sensor, or a budget in seconds"
        )
    return sum(found)


class Best:
    """The earliest best epoch so far by one metric."""

    def __init__(self, metric: str, min_delta: float = 0.0):
        self.metric, self.min_delta = metric, min_delta
        self.sign = 1.0 if metric == "val_accuracy" else -1.0
        self.value, self.epoch = -math.inf, 0

    def improved(self, row: dict) -> bool:
        if self.metric not in row:  # an unvalidated stage: its latest epoch counts as its best
            self.epoch = row["epoch"]
            return True
        value = self.sign * row[self.metric]
        if value <= self.value + self.min_delta:
            return False
        self.value, self.epoch = value, row["epoch"]
        return True


class Snapshot:
    """The weights and buffers of the earliest best epoch, to be put back when the stage ends."""

    def __init__(self, algorithm: nn.Module, stage: Stage, stopping: Stopping):
        self.best = Best(stopping.metric if stopping.restore == "best" else stopping.restore)
        self.live = [p for group in stage.groups for p in group.parameters] + list(algorithm.buffers())
        self.kept: list[Tensor] = []
        self.enabled = stopping.restore != "last"

    @torch.no_grad()
    def offer(self, row: dict) -> None:
        """Keeps the current weights if this epoch is the best so far."""
        if not (self.enabled and self.best.improved(row)):
            return
        if not self.kept:
            self.kept = [tensor.clone() for tensor in self.live]
        else:
            torch._foreach_copy_(self.kept, self.live)

    @torch.no_grad()
    def restore(self, last: int) -> int:
        """Puts the best weights back (or leaves the last ones); returns the epoch they come from."""
        if not self.enabled:
            return last
        torch._foreach_copy_(self.live, self.kept)
        return self.best.epoch
