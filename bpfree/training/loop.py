"""Stages, and the one loop that trains them all.

A training algorithm is an ordered list of stages. A stage says which parameters may move, which
losses move them, which read-out validates it, and which frozen prefix of the network feeds it.
Everything else is here and is shared: batches, optimiser, stopping, restoring the best weights,
the prefix cache, timing and metering, progress. So no algorithm has a fast path that another
could not have had.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, TrainingDiverged, check_seed, choose
from .batches import Data
from .checkpoint import Checkpoint
from .clock import Clock
from .history import History, StageHistory
from .numerics import pinned
from .prefix import PrefixCache, Source
from .progress import Progress
from .stage import MADE_FOR_THE_CAP, SCHEDULES, Stage, make_optimiser, step, stream
from .stopping import Best, Budget, Length, Lengths, Snapshot, Stopping

PRECISIONS = ("fp32", "bf16")
DEVICES = ("cpu", "cuda", "mps")


@pinned(flush=True)
def train(
    algorithm,
    data: Data,
    *,
    seed: int = 0,
    max_epochs: int | None = None,
    stopping: Stopping | None = None,
    budget: Budget | None = None,
    cache: bool | str = "auto",
    precision: str = "fp32",
    meter=None,
    progress: bool = True,
    device: str | torch.device | None = None,
    on_epoch: Callable[[nn.Module, Stage, dict], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train `algorithm` on `data`, stage by stage, from freshly initialised parameters.

    What the process has set (autocast, default dtype and device, gradient mode, TF32 and determinism flags)
    has no say while it lasts, and is as it was afterwards; see `bpfree.training.numerics`.

    Args:
        algorithm: a `bpfree.algorithms` object; it is moved to `device` and trained in place.
        data: from `bpfree.load`; only its training and validation parts are read.
        seed: every parameter starts from (seed, its name); every epoch is shuffled by
            (seed, stage, epoch). Same seed, machine, versions and threads: bit-identical results.
        max_epochs: cap on the epochs of every stage (default: the stage's own, or 100).
        stopping: the rule for every stage; default: validation accuracy, patience 20, best restored.
        budget: what all stages may spend together; with one, no stage stops early. Default: none.
        cache: "auto" computes a frozen prefix once per stage and keeps its output in memory, or on
            disk beyond half of the free memory, and recomputes it for augmented inputs; True insists
            on caching; False recomputes for every batch. Cached and recomputed are bit-identical.
        precision: "fp32", or "bf16" for autocast.
        meter: a running `bpfree.EnergyMeter`; each stage's and epoch's joules are recorded from it.
        progress: show a bar over stages and one over batches (off with the variable TQDM_DISABLE=1).
        device: default the variable BPFREE_DEVICE, else CUDA, else MPS, else CPU.
        on_epoch: called as on_epoch(algorithm, stage, row) after every epoch of a descended stage, outside
            the timed regions; row is the epoch's in the history.
        checkpoint: where to go on from, if it holds this run, and to keep how far it has come. What is
            trained is the same to the bit. The history has what its epochs took, and every computation of a
            cached prefix, which is computed again after a resumption; epochs that were lost are not in it.

    Returns:
        History: one row per stage and epoch, with losses, accuracies, seconds and joules.

    Raises:
        InvalidInput: data that do not fit the network, an unknown precision, cache or device; a budget in
            joules where the meter measures none.
        TrainingDiverged: a loss, a weight or a running statistic became NaN or infinite, or a stage has no
            finite solution; says stage, epoch and learning rate. Its `history` has what was trained.
        StorageFailed: no room for a prefix cached on disk, or for the checkpoint.
    """
    check_seed(seed)
    choose("precision", precision, PRECISIONS)
    check_positive("max_epochs", max_epochs)
    device = pick_device(device)
    check_fit(algorithm, data)
    algorithm.to(device, torch.float32)
    algorithm.initialise(seed)
    algorithm.prepare(data)
    run = _Run(
        algorithm=algorithm,
        data=data.to(device),
        device=device,
        max_epochs=max_epochs,
        stopping=stopping or Stopping(),
        budget=budget,
        autocast=torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext(),
        clock=Clock(device, meter),
        history=History(algorithm.name, seed),
        on_epoch=on_epoch or (lambda algorithm, stage, row: None),
        checkpoint=checkpoint or Checkpoint(),
    )
    try:
        run.stages(cache, progress)
    except TrainingDiverged as error:
        error.history = run.history  # what was trained until then is not lost
        raise
    finally:
        run.history.provenance = run.clock.provenance or run.history.provenance
        algorithm.eval()
        for parameter in algorithm.parameters():
            parameter.requires_grad_(True)
    return run.history


@dataclass
class _Run:
    """One call of `train`: what its stages share."""

    algorithm: nn.Module
    data: Data
    device: torch.device
    max_epochs: int | None
    stopping: Stopping
    budget: Budget | None
    autocast: AbstractContextManager
    clock: Clock
    history: History
    on_epoch: Callable[[nn.Module, Stage, dict], None]
    checkpoint: Checkpoint

    def stages(self, cache: bool | str, progress: bool) -> None:
        algorithm, stages = self.algorithm, self.algorithm.stages()
        lengths = Lengths(stages, self.max_epochs, self.budget)
        self.checkpoint.load(algorithm, self.history, self.stopping)
        with (
            PrefixCache(self.data, algorithm.batch_size, self.device, cache, self.autocast) as prefixes,
            Progress(algorithm.name, len(stages), enabled=progress) as bars,
        ):
            self.sound = finite((*algorithm.parameters(), *algorithm.buffers()))
            for number, stage in enumerate(stages, start=1):
                if number <= algorithm.stages_finished:  # by the checkpoint
                    bars.stage_done()
                    continue
                freeze_all_but(algorithm, stage)
                begun = len(self.history.stages) == number  # by the checkpoint
                log = self.history.stages.pop() if begun else StageHistory(stage.name)
                length = lengths.next(stage, self.history)
                self.history.stages.append(log)
                first = log.rows[-1] if log.rows else {"stage": stage.name, "epoch": 1}
                bars.stage(stage.name)
                with self.clock.region(first, "prefix"):
                    source = prefixes.source(stage, self.clock)
                log.prefix = source.kind
                bars.note(source.note)
                if stage.losses is None:
                    self.solve(stage, source, log, first)
                else:
                    self.descend(stage, source, log, first, bars, length)
                for parameter in algorithm.parameters():
                    parameter.grad = None  # a finished stage keeps no gradients
                algorithm.stages_finished.fill_(number)
                self.save()
                bars.stage_done()

    def descend(
        self, stage: Stage, source: Source, log: StageHistory, first: dict, bars: Progress, length: Length
    ) -> None:
        """Epochs of gradient steps until the rule says stop; then the best weights are put back."""
        patience = None if self.budget or stage.schedule in MADE_FOR_THE_CAP else self.stopping.patience
        optimiser = make_optimiser(stage)
        watch = Best(self.stopping.metric, self.stopping.min_delta)
        keep = Snapshot(self.algorithm, stage, self.stopping)
        self.checkpoint.resume(optimiser, watch, keep)
        epoch = len(log.rows)
        while epoch < (cap := length.cap(log.rows)):
            epoch += 1
            for group, settings in zip(optimiser.param_groups, stage.groups, strict=True):
                group["lr"] = settings.lr * SCHEDULES[stage.schedule](epoch, cap)
            row = first if epoch == 1 else {"stage": stage.name, "epoch": epoch}
            row["lr"] = optimiser.param_groups[0]["lr"]
            self.epoch(stage, source, optimiser, row, bars, cap)
            if stage.readout is not None:
                self.validate(stage, source, row)
            log.rows.append(row)
            self.check(stage, row)
            keep.offer(row)
            bars.epoch(row)
            self.on_epoch(self.algorithm, stage, row)
            watch.improved(row)
            if patience is not None and epoch - watch.epoch >= patience:
                log.ended = "patience"
                break
            self.save(optimiser, watch, keep)
        log.ended = log.ended or length.ended_by(epoch)
        log.restored = keep.restore(last=epoch)

    def check(self, stage: Stage, row: dict, *, solved: bool = True) -> None:
        """Raises TrainingDiverged unless the losses of an epoch, and the network after it, are finite.

        A loss does not tell of everything: the last step comes after it, and ReLU makes 0 of −∞.
        """
        losses = (row[name] for name in ("train_loss", "val_loss") if name in row)
        if not (solved and all(map(math.isfinite, losses)) and self.is_sound()):
            raise TrainingDiverged(stage.name, row["epoch"], row.get("lr"))

    def is_sound(self) -> bool:
        """Whether all parameters and buffers are finite that were so at the beginning."""
        return len(finite(self.sound)) == len(self.sound)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """What is inside ends where an operation refuses numbers that are not finite; then `check` raises."""
        try:
            yield
        except (ArithmeticError, LookupError, RuntimeError, ValueError):
            if self.is_sound():
                raise

    def save(self, *state) -> None:
        """Into the checkpoint: how far the run has come, and the state of the stage that goes on."""
        self.history.provenance = self.clock.provenance
        self.checkpoint.save(*state)

    def epoch(self, stage, source, optimiser, row: dict, bars: Progress, cap: int) -> None:
        """One shuffled pass over the training data; order and chance are this stage's and epoch's own."""
        key = (self.history.seed, stage.stream or stage.name, row["epoch"])
        order, chance = stream(*key, "order"), stream(*key, "losses", device=self.device)
        self.algorithm.train()
        for module in stage.prefix:
            module.eval()
        row |= {"train_loss": math.nan, "samples": 0}
        with self.clock.region(row, "train"), self.refusing():
            total = torch.zeros((), device=self.device)
            for inputs, labels in source.shuffled(order):
                total += step(stage, optimiser, inputs, labels, chance, self.autocast)
                row["samples"] += len(labels)
                bars.batch(row["epoch"], cap, source.batches)
            row["train_loss"] = total.item() / source.batches

    def solve(self, stage: Stage, source: Source, log: StageHistory, row: dict) -> None:
        """A stage without descent: one pass in order, then the solution; metered like an epoch."""
        self.algorithm.eval()
        row["samples"] = source.size
        solved = False
        with self.clock.region(row, "train"), torch.no_grad():
            for inputs, labels in source.in_order():
                with self.autocast:
                    stage.accumulate(inputs, labels)
            with suppress(InvalidInput, torch.linalg.LinAlgError):
                stage.solve()
                solved = True
        if solved and stage.readout is not None:
            self.validate(stage, source, row)
        log.rows.append(row)
        self.check(stage, row, solved=solved)
        log.ended, log.restored = "solved", 1

    @torch.no_grad()
    def validate(self, stage: Stage, source: Source, row: dict) -> None:
        """Cross-entropy and accuracy (%) of the stage's read-out on the validation data."""
        self.algorithm.eval()
        row |= {"val_loss": math.nan, "val_accuracy": math.nan}
        with self.clock.region(row, "val"), self.refusing():
            loss = correct = 0.0
            for inputs, labels in source.validation():
                with self.autocast:
                    scores = stage.readout(inputs)
                loss += nn.functional.cross_entropy(scores.float(), labels, reduction="sum")
                correct += (scores.argmax(1) == labels).sum()
            row["val_loss"] = loss.item() / source.val_size
            row["val_accuracy"] = 100.0 * correct.item() / source.val_size


def finite(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that hold floating-point numbers and neither NaN nor infinity."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    if not floating:
        return []
    whole = torch.stack([tensor.isfinite().all() for tensor in floating]).tolist()  # waits for a device once
    return [tensor for tensor, is_whole in zip(floating, whole, strict=True) if is_whole]


def freeze_all_but(algorithm: nn.Module, stage: Stage) -> None:
    """Only the stage's groups may receive gradients; checks that its prefix is not among them."""
    moving = {id(p) for g in stage.groups for p in g.parameters}
    frozen = {id(p) for module in stage.prefix for p in module.parameters()}
    if moving & frozen:
        raise InvalidInput(
            f"stage {stage.name!r} moves parameters of its own frozen prefix: take them from one"
        )
    for parameter in algorithm.parameters():
        parameter.requires_grad_(id(parameter) in moving)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else that of the variable BPFREE_DEVICE, else CUDA, MPS, CPU in that order.

    Raises InvalidInput if it is not there.
    """
    if device is None or (isinstance(device, str) and device == "auto"):
        wanted = os.environ.get("BPFREE_DEVICE", "auto")
        if wanted not in ("", "auto"):
            return pick_device(wanted)
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        found = torch.device(device)
        if found.type not in DEVICES:
            raise RuntimeError("nothing was tested there")
        torch.empty(0, device=found)
    except Exception as error:  # each back end has its own way to say that it is not there
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"device {str(device)!r} cannot be used ({reason}): use 'auto', 'cpu', 'cuda' or 'mps'"
        ) from None
    return found


def check_fit(algorithm, data: Data) -> None:
    if not isinstance(data, Data):
        raise InvalidInput(f"data={data!r}: load them first, as in bpfree.load('digits')")
    if not isinstance(algorithm, nn.Module):
        raise InvalidInput(f"algorithm={algorithm!r}: make one first, as in bpfree.MonoForward(model)")
    model = algorithm.model
    if model.inputs != data.features:
        raise InvalidInput(
            f"the network takes {model.inputs} inputs but an image of {data.name!r} has {data.features} "
            f"numbers: build it with an input of {data.features}"
        )
    if model.classes != data.classes:
        raise InvalidInput(
            f"the network has {model.classes} classes but {data.name!r} has {data.classes}: "
            f"build it with classes={data.classes}"
        )


def check_positive(name: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InvalidInput(f"{name}={value!r}: use a positive integer")
