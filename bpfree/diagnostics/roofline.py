"""The roofline: how fast this machine multiplies and copies, and how near each algorithm's step comes.

A step of F operations that moves Q bytes cannot be faster than the machine's rate of multiplication, nor than
its memory serves it: its rate is at most min(P, Q̇ · F/Q), with F/Q its arithmetic intensity (Williams,
Waterman and Patterson, Communications of the ACM 52, 2009).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import nn

from ..training.batches import Data
from ..training.loop import pick_device
from ..training.numerics import pinned
from .flops import count
from .kernels import Kernels
from .one_step import batch_of, prepared_stages
from .timing import median_seconds, timed

# (m, k, n): a batch of 128 through the layers of the paper's MLPs
SHAPES = ((128, 784, 1000), (128, 1000, 1000), (128, 3072, 2000), (128, 2000, 2000))
COPIED = 2**26  # bytes: beyond the caches of most machines


@dataclass(frozen=True)
class Roofline:
    """What a machine can do at most, measured.

    Attributes:
        device, threads: where.
        rates: a row per shape (m, k, n): operations per second of a float32 product m×k by k×n.
        bytes_per_s: of a large copy, bytes read and bytes written added.
    """

    device: str
    threads: int
    rates: pd.DataFrame
    bytes_per_s: float

    @property
    def flops_per_s(self) -> float:
        """P, the best of the shapes."""
        return float(self.rates["flops_per_s"].max())

    def limit(self, intensity: float) -> float:
        """Operations per second that a step of so many operations per byte can reach."""
        return min(self.flops_per_s, self.bytes_per_s * intensity)


@pinned(flush=True)
def roofline(
    device: str | torch.device | None = None,
    shapes: Iterable[tuple[int, int, int]] = SHAPES,
    *,
    seconds: float = 0.1,
) -> Roofline:
    """Measures the machine: medians over at least `seconds` for each shape and for the copy.

    device: default CUDA, else MPS, else CPU. shapes: (m, k, n) of the matrix products in use.
    """
    device = pick_device(device)
    rows = []
    for m, k, n in shapes:
        a, b, c = (torch.ones(shape, device=device) for shape in ((m, k), (k, n), (m, n)))
        took = median_seconds(partial(torch.mm, a, b, out=c), device, seconds)
        rows.append((m, k, n, 2 * m * k * n / took))
    source = torch.zeros(COPIED // 4, device=device)
    took = median_seconds(partial(torch.empty_like(source).copy_, source), device, seconds)
    rates = pd.DataFrame(rows, columns=["m", "k", "n", "flops_per_s"])
    return Roofline(device.type, torch.get_num_threads(), rates, 2 * COPIED / took)


@pinned(flush=True)
def place(algorithm: nn.Module, data: Data, roof: Roofline, *, seconds: float = 0.05) -> pd.DataFrame:
    """Each descended stage's step against the roofline.

    A row per stage: flops (matrix products, counted) and bytes (every kernel reads its inputs and writes its
    outputs once) of a step, intensity (flops per byte), seconds (median), rate (flops per second), limit
    (what the roofline allows), share (rate / limit; above 1 only where caches serve what was counted as
    memory traffic).
    """
    rows = []
    for ready in prepared_stages(algorithm, *batch_of(algorithm, data)):
        if ready.stage.losses is None:
            continue
        optimiser = ready.step()  # the first step also makes the optimiser's state, which is not timed either
        with Kernels() as watch:
            operations = count(ready.step, optimiser)
        moved, took = sum(watch.traffic.values()), timed(ready, seconds)
        intensity, rate = operations / moved, operations / took
        limit = roof.limit(intensity)
        rows.append((ready.stage.name, operations, moved, intensity, took, rate, limit, rate / limit))
    columns = ["stage", "flops", "bytes", "intensity", "seconds", "rate", "limit", "share"]
    return pd.DataFrame(rows, columns=columns)
