"""The one loop that trains every algorithm: an ordered list of stages, each a sequence of epochs.

A stage says which parameters may move, which losses move them, which read-out validates it, and which frozen
prefix of the network feeds it. `train` goes through the stages in order. It freezes all parameters but the
stage's, computes the prefix, takes the rows of its epochs from `Epochs` one by one, and puts the best weights
back. A row is all that is known of an epoch; the best weights, the bars, `on_epoch`, the stop rule and the
checkpoint are readers of the rows. All this is shared: no algorithm has a fast path that another has not.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import NoneType

import torch
from torch import nn

from ..errors import (
    InvalidInput,
    TrainingDiverged,
    check_flag,
    check_made,
    check_positive,
    check_seed,
    choose,
)
from .batches import Data
from .checkpoint import BestWeights, Checkpoint
from .clock import Clock, Meter
from .divergence import DivergenceWatch
from .executor import EXECUTORS, Called, make_executor
from .history import History
from .numerics import pinned
from .prefix import PrefixCache
from .progress import Progress
from .stage import MADE_FOR_THE_CAP, Stage, freeze_all_but, make_optimiser, rates_of
from .stopping import Budget, Length, StopRule, check_lengths, stop_rule

PRECISIONS = ("fp32", "bf16")
DEVICES = ("cpu", "cuda", "mps")


@pinned(flush=True)
def train(
    algorithm: nn.Module,
    data: Data,
    *,
    seed: int = 0,
    max_epochs: int | None = None,
    stopping: StopRule | str | None = None,
    budget: Budget | None = None,
    cache: bool | str = "auto",
    precision: str = "fp32",
    executor: str = "auto",
    meter: Meter | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    on_epoch: Callable[[nn.Module, Stage, dict], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train `algorithm` on `data`, stage by stage, from freshly initialised parameters.

    What the process has set (autocast, dtypes, devices, flags) has no say; see `bpfree.training.numerics`.

    Args:
        algorithm: a `bpfree.algorithms` object; it is moved to `device` and trained in place.
        data: from `bpfree.load`; only its training and validation parts are read.
        seed: every parameter starts from (seed, its name); every epoch is shuffled by
            (seed, stage, epoch). Same seed, machine, versions and threads: bit-identical results.
        max_epochs: cap on the epochs of every stage (default: the stage's own, or 100).
        stopping: the rule for every stage: a `Stopping`, a `StopRule` of your own, or what "module:object"
            names. Default: `Stopping()`. With a budget, and under a schedule that is made for the whole cap,
            no stage stops early.
        budget: what all stages may spend together. Default: none.
        cache: "auto" computes a frozen prefix once per stage and keeps its output in memory, or on
            disk beyond half of the free memory, and recomputes it for augmented inputs; True insists
            on caching; False recomputes for every batch. Cached and recomputed are bit-identical.
        precision: "fp32", or "bf16" for autocast.
        executor: how the steps of a stage are carried out: "eager" calls every operation, "graph" captures a
            step once and replays it; "auto" is "graph" on CUDA, else "eager". Both give the same bits.
        meter: a running `bpfree.EnergyMeter`; each stage's and epoch's joules are recorded from it.
        progress: show a bar over stages and one over batches (off with the variable TQDM_DISABLE=1).
        device: default the variable BPFREE_DEVICE, else CUDA, else MPS, else CPU.
        on_epoch: called as on_epoch(algorithm, stage, row) after every epoch of a descended stage, outside
            the timed regions; row is the epoch's in the history.
        checkpoint: the file that an interrupted run resumes from, to the bit, and that this one is kept in.
            The history has what its epochs took and every computation of a cached prefix, not lost epochs.

    Returns:
        History: one row per stage and epoch, with losses, accuracies, seconds and joules.

    Raises:
        InvalidInput: data that do not fit the network, an unknown precision, cache, executor or device; a
            budget in joules where the meter measures none; stages that continue each other without an exact
            budget; a stage without the schedule that its algorithm was given; executor="graph", and a stage
            that cannot be captured.
        TrainingDiverged: a loss, a weight or a running statistic became NaN or infinite, or a stage has no
            finite solution; says stage, epoch and learning rate. Its `history` has what was trained.
        StorageFailed: no room for a prefix cached on disk, or for the checkpoint.
    """
    check_seed(seed)
    choose("precision", precision, PRECISIONS)
    choose("executor", executor, EXECUTORS)
    check_positive("max_epochs", max_epochs)
    check_flag("progress", progress)
    check_made("budget", budget, (Budget, NoneType), "bpfree.Budget('passes', 10)")
    check_made("meter", meter, (Meter, NoneType), "bpfree.EnergyMeter()")
    if not (on_epoch is None or callable(on_epoch)):
        raise InvalidInput(f"on_epoch={on_epoch!r}: give a function of the algorithm, the stage and the row")
    check_made("checkpoint", checkpoint, (Checkpoint, NoneType), "bpfree.Checkpoint('run.ckpt')")
    rule = stop_rule(stopping)
    device = pick_device(device)
    check_fit(algorithm, data)
    algorithm.to(device, torch.float32)
    algorithm.initialise(seed)
    algorithm.prepare(data)
    data, stages = data.to(device), algorithm.stages()
    check_lengths(algorithm.name, stages, budget)
    check_schedules(algorithm, stages)
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    history, clock = History(algorithm.name, seed), Clock(device, meter)
    checkpoint = checkpoint or Checkpoint()
    with (
        left_usable(algorithm, history, clock),
        PrefixCache(data, algorithm.batch_size, device, cache, autocast) as prefixes,
        Progress(algorithm.name, len(stages), enabled=progress) as bars,
    ):
        given = {"data": data.sha256, "max_epochs": max_epochs, "budget": budget and budget.plain()}
        checkpoint.load(algorithm, history, rule, precision=precision, **given)
        epochs = Epochs(algorithm, seed, clock, DivergenceWatch(algorithm), bars)
        state = {}  # of the optimiser, of parameters that live on from one stage to the next
        for number, stage in enumerate(stages, start=1):
            if number <= algorithm.stages_finished:  # before it was resumed
                bars.stage_done()
                continue
            after = stages[number] if number < len(stages) else None
            freeze_all_but(algorithm, stage)
            log = history.log(number, stage.name)
            spent = log.rows[-1] if log.rows else {}  # computed again, a prefix is paid with the last epoch
            with clock.region(spent, "prefix"):
                source = prefixes.source(stage, clock)
            log.prefix = source.kind
            bars.stage(stage.name, source.note)
            if stage.losses is None:
                epochs.solve(Called(algorithm, stage, source, None, autocast), log.rows, spent)
                log.ended, log.restored, state = "solved", 1, {}
            else:
                length = Length.of(stages, history.stages[:-1], max_epochs, budget)
                stops_early = budget is None and stage.schedule not in MADE_FOR_THE_CAP
                optimiser, keep = make_optimiser(stage, state), BestWeights(algorithm, stage)
                checkpoint.resume(optimiser, keep)
                how = make_executor(executor, spent, algorithm, stage, source, optimiser, autocast)
                log.executor = how.name
                for row in epochs.descend(how, length, log.rows, spent):
                    keep.offer(rule.best(log.rows), row["epoch"])
                    bars.epoch(row)
                    if on_epoch is not None:
                        on_epoch(algorithm, stage, row)
                    if stops_early and rule.stop(log.rows):
                        log.ended = "patience"
                        break
                    history.provenance = clock.provenance
                    checkpoint.save(stage, optimiser.state, keep, first=clock.settle)
                log.ended = log.ended or length.ended_by(len(log.rows))
                log.restored = len(log.rows) if after and after.continues else keep.restore()
                state = handed_on(stage, after, optimiser)
                del how, optimiser, keep  # their memory goes before the next stage's comes
            algorithm.zero_grad()  # a finished stage keeps no gradients
            algorithm.conclude(number, log)
            history.provenance = clock.provenance
            checkpoint.save(after, state, first=clock.settle)
            bars.stage_done()
    return history


def handed_on(
    stage: Stage, after: Stage | None, optimiser: torch.optim.Optimizer
) -> dict[nn.Parameter, dict]:
    """The optimiser's state of those parameters of a stage that live on in the one after it."""
    groups = stage.groups if after is not None and after.continues else ()
    return {p: optimiser.state[p] for group in groups if group in after.groups for p in group.parameters}


@contextmanager
def left_usable(algorithm: nn.Module, history: History, clock: Clock) -> Iterator[None]:
    """However training ends, the algorithm can predict and be trained again, and its history is kept."""
    try:
        yield
    except TrainingDiverged as error:
        error.history = history
        raise
    finally:
        with suppress(Exception):  # of the meter; training may just have failed
            clock.settle()
        history.provenance = clock.provenance or history.provenance
        algorithm.eval()
        algorithm.requires_grad_(True)


@dataclass
class Epochs:
    """Computes the epochs of a run and the row of each: its outcome and its cost.

    A row joins `rows` before it is checked: the history has an epoch that diverged, too. `spent` is what the
    stage has taken before its first epoch. Raises TrainingDiverged.
    """

    algorithm: nn.Module
    seed: int
    clock: Clock
    watch: DivergenceWatch
    bars: Progress

    def descend(self, executor: Called, length: Length, rows: list[dict], spent: dict) -> Iterator[dict]:
        """Trains and validates the epochs of a descended stage after those in `rows`, one by one."""
        stage, cost = executor.stage, {} if rows else spent
        while (epoch := len(rows) + 1) <= (cap := length.cap(rows)):
            rates = rates_of(stage, epoch, length.lives(cap), executor.source.batches)
            row = {"stage": stage.name, "epoch": epoch, "lr": rates[0][0]}
            row |= self.train(executor, (length.begun + epoch, length.begun + cap), rates, cost)
            row |= self.validate(executor, cost)
            cost |= row
            rows.append(cost)  # the dict itself, because the clock may correct its joules
            if length.unit == "measured_j":
                self.clock.settle()
            self.watch.check(rows[-1], lr=max(rates[0]))
            yield rows[-1]
            cost = {}

    def solve(self, executor: Called, rows: list[dict], spent: dict) -> None:
        """Trains a stage that is solved: one pass in order, then the solution, metered like an epoch."""
        self.algorithm.eval()
        stage, source = executor.stage, executor.source
        row, solved = {"stage": stage.name, "epoch": 1, "samples": source.size}, False
        with self.clock.region(spent, "train"), torch.no_grad():
            for inputs, labels in source.in_order():
                with executor.autocast:
                    stage.accumulate(inputs, labels)
            with suppress(InvalidInput, torch.linalg.LinAlgError):
                stage.solve()
                solved = True
        if solved:
            row |= self.validate(executor, spent)
        spent |= row
        rows.append(spent)
        self.watch.check(rows[-1], solved=solved)

    def train(
        self, executor: Called, place: tuple[int, int], rates: Sequence[Sequence[float]], cost: dict
    ) -> dict:
        """The mean loss of one shuffled pass, whose order and chance are this stage's and epoch's own.

        place: (k, n) of the k-th of n epochs, counted from the first of those that this stage continues.
        """
        stage, source = executor.stage, executor.source
        found = {"train_loss": math.nan, "samples": 0}
        with self.clock.region(cost, "train"), self.watch.refusing():
            executor.begin((self.seed, stage.stream or stage.name, place[0]), rates)
            for _ in range(source.batches):
                executor.step()
                found["samples"] += source.batch_size
                self.bars.batch(*place, source.batches)
            found["train_loss"] = executor.total.item() / source.batches
        return found

    def validate(self, executor: Called, cost: dict) -> dict:
        """Cross-entropy and accuracy (%) of the stage's read-out on the validation data, if it has one."""
        if executor.stage.readout is None:
            return {}
        found = {"val_loss": math.nan, "val_accuracy": math.nan}
        with self.clock.region(cost, "val"), self.watch.refusing():
            loss, correct = executor.validate()
            found["val_loss"] = loss.item() / executor.source.val_size
            found["val_accuracy"] = 100.0 * correct.item() / executor.source.val_size
        return found


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else that of the variable BPFREE_DEVICE, else CUDA, MPS, CPU in that order.

    Raises InvalidInput if it is not there.
    """
    if device in (None, "auto"):
        device = os.environ.get("BPFREE_DEVICE") or "auto"
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        if str(device).partition(":")[0] not in DEVICES:
            raise RuntimeError("nothing was tested there")
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # each back end has its own way to say that it is not there
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"device {str(device)!r} cannot be used ({reason}): use 'auto', 'cpu', 'cuda' or 'mps'"
        ) from None
    return found


def check_fit(algorithm, data: Data) -> None:
    check_made("data", data, Data, "bpfree.load('digits')")
    trainable = (
        isinstance(algorithm, nn.Module) and hasattr(algorithm, "model") and hasattr(algorithm, "stages")
    )
    if not trainable:
        raise InvalidInput(f"algorithm={algorithm!r}: make one first, as in bpfree.MonoForward(model)")
    model, n = algorithm.model, data.features
    if model.inputs != n:
        what = f"the network takes {model.inputs} inputs but an image of {data.name!r} has {n} numbers"
        raise InvalidInput(f"{what}: build it with an input of {n}")
    if model.classes != data.classes:
        what = f"the network has {model.classes} classes but {data.name!r} has {data.classes}"
        raise InvalidInput(f"{what}: build it with classes={data.classes}")


def check_schedules(algorithm, stages: Sequence[Stage]) -> None:
    """Raises InvalidInput for a stage that passes over the schedule which its algorithm was given.

    Else the algorithm would be compared with others whose rates fall while its own does not. Where it was
    given none, "constant", a stage may have whichever it likes.
    """
    given = getattr(algorithm, "lr_schedule", "constant")
    for stage in stages:
        if stage.losses is not None and given not in ("constant", stage.schedule):
            raise InvalidInput(
                f"lr_schedule={given!r}, but stage {stage.name!r} of {algorithm.name} has schedule="
                f"{stage.schedule!r}: make it by self.stage(...), or with schedule=self.lr_schedule"
            )
