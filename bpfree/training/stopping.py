"""When a stage ends, and which epoch's weights it keeps: functions of the rows that its epochs left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..errors import InvalidInput, choose, named
from .history import REGIONS, StageHistory, amounts

if TYPE_CHECKING:
    from .stage import Group, Stage

DEFAULT_CAP = 100  # epochs per stage where nobody says otherwise
VALIDATION_METRICS = ("val_accuracy", "val_loss")
BUDGET_UNITS = ("passes", "s", "measured_j")


@runtime_checkable
class StopRule(Protocol):
    """Two pure functions of a stage's rows, one per epoch so far, with the columns of `History.frame`.

    `Stopping` is the built-in rule; any object with these two methods is one, too.
    """

    def stop(self, rows: Sequence[dict]) -> bool:
        """Whether the stage ends with the last of these epochs, of which there is one at least."""

    def best(self, rows: Sequence[dict]) -> int:
        """The epoch, counted from 1, whose weights are to be kept.

        Either the last of these, or the one that was best without it: no other weights are there any more.
        """


@dataclass(frozen=True)
class Stopping:
    """A stage stops `patience` epochs after the last one that improved `metric` by more than
    `min_delta`; None never stops early. Kept are the weights and buffers of the earliest best epoch by
    `restore` ("best": by `metric` itself) or those of the "last". Where a stage is not validated, every epoch
    counts as an improvement.
    """

    metric: str = "val_accuracy"
    patience: int | None = 20
    min_delta: float = 0.0
    restore: str = "best"

    def __post_init__(self):
        choose("stopping metric", self.metric, VALIDATION_METRICS)
        choose("restore rule", self.restore, ("best", "last", *VALIDATION_METRICS))
        if self.patience is not None and (type(self.patience) is not int or self.patience < 1):
            raise InvalidInput(
                f"patience={self.patience!r}: use a positive integer, or None to never stop early"
            )
        if not isinstance(self.min_delta, int | float) or not 0 <= self.min_delta < math.inf:
            raise InvalidInput(f"min_delta={self.min_delta!r}: use a number of 0 or more")

    def stop(self, rows: Sequence[dict]) -> bool:
        """Whether the last `patience` of these epochs brought no improvement."""
        if self.patience is None:
            return False
        return len(rows) - last_improvement(rows, self.metric, self.min_delta) >= self.patience

    def best(self, rows: Sequence[dict]) -> int:
        """The earliest best of these epochs, or the last of them."""
        if self.restore == "last":
            return len(rows)
        return last_improvement(rows, self.metric if self.restore == "best" else self.restore)


def last_improvement(rows: Sequence[dict], metric: str, min_delta: float = 0.0) -> int:
    """The last epoch that improved the metric by more than `min_delta` over the improvement before it.

    The first epoch is; with min_delta=0 it is the earliest best.
    """
    sign = 1.0 if metric == "val_accuracy" else -1.0
    value, epoch = -math.inf, 0
    for row in rows:
        if metric not in row:  # not validated
            epoch = row["epoch"]
        elif sign * row[metric] > value + min_delta:
            value, epoch = sign * row[metric], row["epoch"]
    return epoch


def stop_rule(given: StopRule | str | None) -> StopRule:
    """The rule that was given, itself or as "module:object"; `Stopping()` where none was.

    Raises InvalidInput if it is none, UnknownName if there is none of that name.
    """
    rule = Stopping() if given is None else named(given, "stop rule") if isinstance(given, str) else given
    if isinstance(rule, type) or not isinstance(rule, StopRule):
        raise InvalidInput(
            f"stopping={given!r}: use a bpfree.Stopping, or an object that has stop(rows) and best(rows)"
        )
    return rule


@dataclass(frozen=True)
class Budget:
    """What all stages of a run may spend together, in "passes", "s" or "measured_j".

    Every descended stage has an equal share: of passes, rounded up, after each solved stage has taken its
    one; of seconds or joules, those of training, validation and prefix work. Of these a stage inherits what
    the stages before it left or owes what they overdrew; it trains for one epoch at least, and ends with the
    epoch whose end lies nearest to its limit.

    exact: of passes: none more than these are spent, and the stages have their `Stage.share` of them; see
        `lengths`.
    """

    unit: str
    amount: float
    exact: bool = False

    def __post_init__(self):
        choose("unit of a budget", self.unit, BUDGET_UNITS)
        if type(self.amount) not in (int, float) or not 0 < self.amount < math.inf:
            raise InvalidInput(f"a budget of {self.amount!r} {self.unit}: use a number greater than 0")
        if self.exact and (self.unit != "passes" or type(self.amount) is not int):
            raise InvalidInput(
                f"an exact budget of {self.amount!r} {self.unit}: use a whole number of passes"
            )

    def plain(self) -> dict:
        """As values that JSON knows: with `exact` only where it is."""
        return {"unit": self.unit, "amount": self.amount} | ({"exact": True} if self.exact else {})

    def lengths(self, stages: Sequence["Stage"]) -> list[int]:
        """The passes of every stage under an exact budget, which add up to it.

        A stage that is solved has one. Of what is left, each of the others in turn has its share, rounded to
        the nearest (a half up): one pass at least, and never those that the stages behind it need.

        Raises InvalidInput if there are fewer passes than stages.
        """
        if self.amount < len(stages):
            raise InvalidInput(
                f"a budget of {self.amount} passes for {len(stages)} stages: every stage needs one at least, "
                f"so give {len(stages)} or more"
            )
        left, found = self.amount, []
        for i, stage in enumerate(stages):
            behind = stages[i + 1 :]
            passes = 1
            if stage.losses is not None:
                descended = [s.share for s in behind if s.losses is not None]
                own = left - (len(behind) - len(descended))
                passes = math.floor(own * stage.share / (stage.share + sum(descended)) + 0.5)
                passes = min(max(1, passes), left - len(behind))
            found.append(passes)
            left -= passes
        return found

    def share(self, stages: Sequence["Stage"], done: Sequence[StageHistory]) -> float:
        """What the next stage, a descended one, may spend after those that are `done`."""
        if self.exact:
            return self.lengths(stages)[len(done)]
        descended = sum(stage.losses is not None for stage in stages)
        if self.unit == "passes":
            return max(1, math.ceil((self.amount - (len(stages) - descended)) / descended))
        spent = sum(cost_of(row, self.unit) for stage in done for row in stage.rows)
        begun = 1 + sum(stage.ended != "solved" for stage in done)
        return self.amount * begun / descended - spent


@dataclass(frozen=True)
class Length:
    """How many epochs a stage may take: `own` is the cap that holds whatever the budget; of that, if there is
    one, the stage may spend `left`, in `unit`.

    begun: the epochs of the stages that it continues; around: of the life of each of its groups, the epochs
        in the stages before this one, and in those after it.
    """

    own: float
    unit: str = "passes"
    left: float = math.inf
    begun: int = 0
    around: Sequence[tuple[int, int]] = ()

    @classmethod
    def of(cls, stages: Sequence["Stage"], done: Sequence[StageHistory], max_epochs, budget) -> "Length":
        """The length of the next stage after those `done`: by its own cap, `max_epochs` and its share."""
        place = len(done)
        lengths = []  # of all stages, which are known where one continues another
        if budget is not None and budget.exact:
            caps = (own_cap(stage, max_epochs) for stage in stages)
            lengths = [min(passes, cap) for passes, cap in zip(budget.lengths(stages), caps, strict=True)]
        lives = [life(stages, place, group) for group in stages[place].groups]
        return cls(
            own_cap(stages[place], max_epochs, DEFAULT_CAP if budget is None else math.inf),
            *(("passes", math.inf) if budget is None else (budget.unit, budget.share(stages, done))),
            begun=sum(lengths[life(stages, place).start : place]),
            around=[(sum(lengths[own.start : place]), sum(lengths[place + 1 : own.stop])) for own in lives],
        )

    def cap(self, rows: Sequence[dict]) -> int:
        """How many epochs the stage will have in all, as foreseen after those in `rows`.

        Where seconds or joules are shared out, that changes with what an epoch turns out to take.
        """
        if self.unit == "passes":
            return int(min(self.own, self.left))
        further = DEFAULT_CAP  # where an epoch's cost is not known, or too little for the sensor or the clock
        if epochs := sum(cost_of(row, self.unit, ("train", "val")) for row in rows):
            spent = sum(cost_of(row, self.unit) for row in rows)
            further = max(0, round((self.left - spent) / (epochs / len(rows))))
        return int(min(self.own, len(rows) + further))

    def lives(self, cap: int) -> list[tuple[int, int]]:
        """Of each group, the epochs of its life before this stage and in all, if the stage has `cap`."""
        return [(before, before + cap + after) for before, after in self.around]

    def ended_by(self, epochs: int) -> str:
        """Which limit ended a stage that took all of its epochs: "cap" or "budget"."""
        return "cap" if epochs >= self.own else "budget"


def own_cap(stage: "Stage", max_epochs: int | None, otherwise: float = math.inf) -> float:
    return min((cap for cap in (stage.epochs, max_epochs) if cap is not None), default=otherwise)


def life(stages: Sequence["Stage"], place: int, group: "Group | None" = None) -> range:
    """The places, counted from 0, of the stages around this one of which each continues the one before; of a
    group, of those that hold it."""

    def begins(k: int) -> bool:
        """Whether the stage at k does not continue the one before, or not with the group."""
        if k in (0, len(stages)) or not stages[k].continues:
            return True
        return group is not None and not all(group in stage.groups for stage in stages[k - 1 : k + 1])

    first = next(k for k in range(place, -1, -1) if begins(k))
    return range(first, next(k for k in range(place + 1, len(stages) + 1) if begins(k)))


def check_lengths(name: str, stages: Sequence["Stage"], budget: Budget | None) -> None:
    """Raises InvalidInput for an exact budget that is too small, and for stages of the algorithm `name` that
    continue each other under any other, share a name, or are none."""
    if not stages:
        raise InvalidInput(f"{name} has no stages: let stages() give a list of at least one")
    names = [stage.name for stage in stages]
    if twice := [own for own in names if names.count(own) > 1]:
        raise InvalidInput(f"{name} has two stages {twice[0]!r}: give each a name of its own")
    if budget is not None and budget.exact:
        budget.lengths(stages)
    elif any(stage.continues for stage in stages):
        raise InvalidInput(
            f"{name} moves its layers in parts of a length that must be fixed in advance: use "
            "protocol='frontier' in an Experiment, or budget=Budget('passes', n, exact=True)"
        )


def cost_of(row: dict, unit: str, regions: tuple[str, ...] = REGIONS) -> float:
    """The seconds ("s") or joules of an epoch. Raises InvalidInput if not all joules were measured."""
    found = amounts(row, unit, regions)
    if None in found:
        lost = any(amount is not None for amount in amounts(row, unit))
        why = "a sensor was lost while they were measured" if lost else "nothing measures them here"
        raise InvalidInput(
            f"a budget in joules, but {why}: give a meter that has a sensor, or a budget in seconds"
        )
    return sum(found)
