"""The memory account: what training holds, by stage, exactly on any machine; and what the machine says."""

import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..training.batches import Data
from ..training.numerics import pinned
from ..training.prefix import VALIDATION_BATCH
from .kernels import tensors
from .one_step import PreparedStage, batch_of, in_windows, prepared_stages


@pinned()
def saved_bytes(algorithm: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, int]:
    """The most that autograd keeps for the backward pass at any one time, in bytes, by stage.

    Counted on one real step through saved-tensor hooks, which also see when a tensor is let go of: so of
    losses that come one by one only the living graph counts. A storage that several tensors share counts
    once; parameters and buffers, which are there anyway, do not. The batch itself does, where it is kept.

    batch: images (B, C, H, W) and classes (B,).
    """
    return {ready.stage.name: ledger_of(ready).graph_peak for ready in prepared_stages(algorithm, *batch)}


@pinned()
def account(algorithm: nn.Module, data: Data) -> pd.DataFrame:
    """What the training of each stage holds, in bytes, on a batch of the algorithm's size: a row per stage.

    Columns:
        parameters, buffers: of the whole network, which are there in every stage.
        gradients: when all of the stage's have come.
        state: the optimiser's, or the sums of a solved stage.
        graph: as `saved_bytes`.
        peak: the most there ever is of these together. It is below their sum, because the graph goes while
            the gradients come.
        cache, best: not in the peak: the prefix's output on training and validation images (0 where the data
            are augmented and it is recomputed), and the copy of the best weights so far.
        recomputed: in place of the cache, where the prefix is recomputed: its output on all the validation
            images at once, which a captured validation holds.

    Not counted: the gradients of activations and the workspace of kernels, which come and go within a kernel
    or two, and the data set.
    """
    rows = {}
    for ready in prepared_stages(algorithm, *batch_of(algorithm, data)):
        stage, twin = ready.stage, ready.algorithm
        ledger = ledger_of(ready)
        permanent = {"parameters": size_of(twin.parameters()), "buffers": size_of(twin.buffers())}
        cached = stage.prefix and data.augment is None
        images = len(data.x_train) + len(data.x_val)
        validated = in_windows(len(data.x_val), VALIDATION_BATCH)
        features = size_of([ready.inputs]) // len(ready.inputs) if stage.prefix else 0
        moving = [p for p in twin.parameters() if p.requires_grad]
        rows[stage.name] = {
            **permanent,
            "gradients": ledger.gradients_peak,
            "state": ledger.state,
            "graph": ledger.graph_peak,
            "peak": sum(permanent.values()) + ledger.state + ledger.peak,
            "cache": features * images if cached else 0,
            "recomputed": features * validated if stage.readout is not None else 0,
            "best": size_of(moving) + size_of(twin.buffers()) if moving else 0,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("stage")


class Ledger:
    """Bytes of graph and gradients that are alive during a step, and the most there ever were.

    permanent: tensors that are there anyway and do not count.
    """

    def __init__(self, permanent: Iterable[Tensor]):
        self.permanent = {pointer(t) for t in permanent}
        self.held: Counter[int] = Counter()  # storage -> how many saved tensors lie in it
        self.arrived: set[int] = set()  # parameters that have their gradient
        self.graph = self.gradients = self.state = 0
        self.graph_peak = self.gradients_peak = self.peak = 0

    def pack(self, tensor: Tensor) -> "Tensor | Held":
        """Called when autograd saves a tensor; the returned object lives as long as autograd needs it."""
        key, size = pointer(tensor), tensor.untyped_storage().nbytes()
        if key in self.permanent:
            return tensor
        if not self.held[key]:
            self.graph += size
        self.held[key] += 1
        held = Held(tensor)
        weakref.finalize(held, self.release, key, size)
        self.enter()
        return held

    def release(self, key: int, size: int) -> None:
        self.held[key] -= 1
        if not self.held[key]:
            self.graph -= size

    @staticmethod
    def unpack(held: "Tensor | Held") -> Tensor:
        return held.tensor if isinstance(held, Held) else held

    def gradient(self, parameter: Tensor) -> None:
        """Called when a gradient is made or added to."""
        if id(parameter) not in self.arrived:
            self.arrived.add(id(parameter))
            self.gradients += size_of([parameter.grad])
        self.enter()

    def enter(self) -> None:
        self.graph_peak = max(self.graph_peak, self.graph)
        self.gradients_peak = max(self.gradients_peak, self.gradients)
        self.peak = max(self.peak, self.graph + self.gradients)

    @contextmanager
    def watching(self, algorithm: nn.Module):
        self.gradients = size_of(p.grad for p in algorithm.parameters() if p.grad is not None)
        with ExitStack() as hooks:
            for p in algorithm.parameters():
                if p.requires_grad:
                    hooks.enter_context(p.register_post_accumulate_grad_hook(self.gradient))
            hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack))
            yield


@dataclass(eq=False)
class Held:
    """A tensor that autograd keeps."""

    tensor: Tensor


def ledger_of(ready: PreparedStage) -> Ledger:
    """The ledger of one step of a stage."""
    ledger = Ledger([*ready.algorithm.parameters(), *ready.algorithm.buffers()])
    if ready.stage.losses is None:
        with Survivors() as sums:
            ready.accumulate()
        batch = {pointer(ready.inputs), pointer(ready.labels)}
        ledger.state = sums.bytes(apart_from=ledger.permanent | batch)
    else:
        with ledger.watching(ready.algorithm):
            optimiser = ready.step()
        ledger.state = size_of(tensors(optimiser.state_dict()["state"]))
    ledger.enter()
    return ledger


class Survivors(TorchDispatchMode):
    """Notes every tensor that is made without keeping it alive: those that remain were meant to stay."""

    def __init__(self):
        super().__init__()
        self.made: list[weakref.ref] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(t) for t in tensors(out)]
        return out

    def bytes(self, apart_from: set[int]) -> int:
        alive = [t for t in (ref() for ref in self.made) if t is not None]
        sizes = {pointer(t): t.untyped_storage().nbytes() for t in alive}
        return sum(size for storage, size in sizes.items() if storage not in apart_from)


def pointer(tensor: Tensor) -> int:
    """Which storage a tensor lies in."""
    return tensor.untyped_storage().data_ptr()


def size_of(some: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in some)
