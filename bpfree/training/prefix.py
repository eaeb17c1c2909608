"""A frozen prefix needs computing only once.

Where a stage is fed by frozen blocks, their output on all images is computed once and kept; with augmented
images, or on request, it is recomputed batch by batch. Both give the same bits, because a prefix is always
applied to batches of the same size that begin at an aligned address: the rounding of a matrix product may
depend on both. It does not depend on the order of the rows, unless several threads share out a few of them
unevenly: those are left to one thread. (One exception was seen, on a CPU: layers of ten outputs or fewer
whose number of inputs four does not divide. Of such layers the two agree but for rounding.)
"""

import errno
import logging
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..errors.disk import refusals
from .batches import Data, batch_plan, pick
from .clock import Clock
from .limits import free_memory

log = logging.getLogger("bpfree")
FEW_ROWS = 16  # rows; with 5 to 11 of them, a row's place in the batch was seen to matter on two threads
VALIDATION_BATCH = 1024
SHARE_OF_FREE_MEMORY = 0.5


class PrefixCache:
    """Outputs of the frozen prefix, extended from stage to stage as the prefix grows.

    mode: "auto", True or False, as in `bpfree.train`; autocast: the context that forward passes run in;
    budget: bytes that may be held in memory, by default half of what is free.
    Raises InvalidInput for an unknown mode, or True with augmented inputs.
    """

    def __init__(
        self, data: Data, batch_size: int, device, mode: bool | str, autocast, budget: int | None = None
    ):
        if mode not in ("auto", True, False):
            raise InvalidInput(f"cache={mode!r}: use 'auto', True or False")
        if mode is True and data.augment is not None:
            raise InvalidInput(
                f"cache=True, but the images of {data.name!r} are augmented, so their features change every "
                "epoch: use cache='auto' or cache=False, or data without augmentation"
            )
        self.data, self.device, self.autocast, self.budget = data, device, autocast, budget
        self.batch_size = min(batch_size, len(data.x_train))
        self.enabled = mode is not False and data.augment is None
        self._clear()

    def __enter__(self) -> "PrefixCache":
        return self

    def __exit__(self, *_) -> None:
        self._clear()

    def _clear(self) -> None:
        self.modules: tuple[nn.Module, ...] = ()
        self.train, self.val, self.kind = self.data.x_train, self.data.x_val, "images"

    def source(self, stage, clock: Clock) -> "BatchSource":
        """What `stage` reads its batches from; fills the cache if that is how its prefix is served."""
        prefix, images = tuple(stage.prefix), (self.data.x_train, self.data.x_val)
        for module in prefix:
            module.eval()
        moving = {id(p) for p in stage.moving}
        if any(id(p) in moving for module in self.modules for p in module.parameters()):
            self._clear()  # a later stage moves what was frozen: its old output is stale
        if not prefix:
            return BatchSource(self, *images, (), clock, "images")
        if not self.enabled:
            note = "prefix recomputed: " + ("inputs are augmented" if self.data.augment else "cache=False")
            log.info("stage %s: %s", stage.name, note)
            return BatchSource(self, *images, prefix, clock, "recomputed", note)
        if prefix[: len(self.modules)] != self.modules:
            self._clear()
        if new := prefix[len(self.modules) :]:  # since the last stage
            self.kind = "cached in memory"  # unless a part of it exceeds the budget
            self.train = self._fill(self.train, new, self.batch_size)
            self.val = self._fill(self.val, new, VALIDATION_BATCH)
            self.modules = prefix
        return BatchSource(self, self.train, self.val, (), clock, self.kind)

    @torch.no_grad()
    def _fill(self, x: Tensor, modules: Sequence[nn.Module], batch_size: int) -> Tensor:
        out = None
        for rows, fresh in windows(len(x), batch_size):
            with self.autocast:
                h = apply(modules, part(x, rows).to(self.device))
            if out is None:
                out = self._allocate(len(x), h)
            out[rows.start + fresh : rows.stop] = h[fresh:]
        return out

    def _allocate(self, rows: int, like: Tensor) -> Tensor:
        """Room for so many rows, in memory as in `like`: a kernel may round otherwise on another layout."""
        channels_last = like.ndim == 4 and like.stride(1) == 1 and like.shape[1] < like[0].numel()
        order = (0, 2, 3, 1) if channels_last else tuple(range(like.ndim))
        shape = torch.Size([rows, *(like.shape[axis] for axis in order[1:])])
        size = shape.numel() * like.dtype.itemsize
        budget = SHARE_OF_FREE_MEMORY * free_memory(self.device) if self.budget is None else self.budget
        if size <= budget:
            room = torch.empty(shape, dtype=like.dtype, device=self.device)
        else:
            self.kind = "cached on disk"
            log.info("prefix of %d bytes exceeds the memory budget of %d: cached on disk", size, budget)
            room = mapped(size, like.dtype).view(shape)
        return room.permute([order.index(axis) for axis in range(like.ndim)])


class BatchSource:
    """The batches of one stage, whether cached or computed as they come.

    size, val_size: samples to train on and to validate on; batches: of a shuffled epoch, without a short last
    one (who wants fewer may say so before training); kind: as `StageHistory.prefix`; note: why a prefix is
    recomputed, for the progress bar.
    """

    def __init__(self, cache: PrefixCache, train, val, prefix, clock: Clock, kind: str, note: str = ""):
        self.cache, self.train, self.val, self.prefix, self.clock = cache, train, val, prefix, clock
        self.kind, self.note = kind, note
        self.labels = cache.data.y_train.to(train.device)  # the cache may lie on another device
        self.size, self.val_size = len(train), len(val)
        self.batch_size = cache.batch_size
        self.batches = self.size // self.batch_size
        self.augment = cache.data.augment

    def plan(self, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The rows of each batch of an epoch, and if augmented their views, where the images lie."""
        rows, views = batch_plan(self.size, self.batch_size, generator, self.augment)
        rows, device = rows[: self.batches], self.train.device
        return rows.to(device), None if views is None else views[: self.batches].to(device)

    def fetch(self, rows: Tensor, views: Tensor | None) -> tuple[Tensor, Tensor]:
        """A batch, inputs (B, ...) and labels (B,), of rows (B,) and views (B,)."""
        labels = self.labels.index_select(0, rows).to(self.cache.device)
        return self._features(pick(self.train, rows, self.augment, views)), labels

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in an order drawn from `generator`, which also draws their augmentation."""
        order, views = self.plan(generator)
        for k, rows in enumerate(order):
            yield self.fetch(rows, None if views is None else views[k])

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every training sample once, unaugmented."""
        for rows, fresh in windows(self.size, self.batch_size):
            inputs = self._features(part(self.train, rows))
            yield inputs[fresh:], self.cache.data.y_train[rows][fresh:]

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, fresh in windows(self.val_size, VALIDATION_BATCH):
            yield self._features(part(self.val, rows))[fresh:], self.cache.data.y_val[rows][fresh:]

    def _features(self, x: Tensor) -> Tensor:
        x = x.to(self.cache.device)
        if not self.prefix:
            return x
        with self.clock.prefix_work(), torch.no_grad(), self.cache.autocast:
            return apply(self.prefix, x)


def windows(n: int, size: int) -> Iterator[tuple[slice, int]]:
    """Slices of equal length that cover 0..n-1 in order, and how many rows of each came before: the last one
    reaches back into its neighbour instead of being short."""
    size = min(size, n)
    for start in range(0, n, size):
        begin = min(start, n - size)
        yield slice(begin, begin + size), start - begin


def part(x: Tensor, rows: slice) -> Tensor:
    """A copy of these rows, because the rounding of a product may depend on where its operand begins."""
    return x[rows].clone()


def apply(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    with one_thread() if len(x) < FEW_ROWS and x.device.type == "cpu" else nullcontext():
        for module in modules:
            x = module(x)
    return x


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mapped(size: int, dtype: torch.dtype) -> Tensor:
    """A flat tensor of `size` bytes in a temporary file without a name. Raises StorageFailed without room."""
    folder = Path(tempfile.gettempdir())
    elsewhere = "set TMPDIR to a folder on another disk, or use cache=False, which recomputes the prefix"
    with refusals(folder / "bpfree's prefix cache", elsewhere), tempfile.TemporaryFile(dir=folder) as file:
        reserve(file, size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype)


def reserve(file: BinaryIO, size: int) -> None:
    """Makes an empty file `size` bytes long, with room on the disk for all of them. Raises OSError.

    Into a file of holes one could write until the disk is full, and then be killed for it.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, size)
        return
    except AttributeError:  # not every system has it,
        pass
    except OSError as error:  # nor every file system
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    zeros = bytes(1 << 20)
    for begin in range(0, size, len(zeros)):
        file.write(zeros[: size - begin])
    file.flush()
