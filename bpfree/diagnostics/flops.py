"""Floating-point operations of one training pass, by stage, of one prediction, and of a whole run.

Matrix products and convolutions, the bulk, are counted by torch's own counter while one real step runs
(a multiplication and an addition are two operations). What that counter does not see is added by formula
and listed apart: the optimiser, elementwise work, and the solver of a solved stage.
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from ..training.batches import Data
from ..training.history import History
from ..training.numerics import pinned
from ..training.prefix import VALIDATION_BATCH, apply
from ..training.stage import Stage
from .kernels import Kernels, counter
from .memory import account
from .one_step import PreparedStage, batch_of, in_windows, prepared_stages

# Operations per parameter and step; a square root or a division counts as one.
# Adam: m ← β₁m + (1−β₁)g is 3, v ← β₂v + (1−β₂)g² is 4, θ ← θ − η m/(√v/c + ε) is 6.
# Decay: g + λθ is 2 (Adam, SGD); AdamW scales θ by 1 − ηλ, which is 1.
UPDATE_OPERATIONS = {"adam": 13, "adamw": 13, "sgd": 2}
DECAY_OPERATIONS = {"adam": 2, "adamw": 1, "sgd": 2}
#: Whose losses reach below their own layer.
GLOBAL = ("bp", "bp_ds", "bp_freeze", "mf_joint", "mf_sequential_joint")
REGION = {"validation": "val", "prefix, cached": "prefix", "prefix, recomputed": "prefix"}  # others: "train"


@pinned()
def flops(algorithm: nn.Module, data: Data) -> pd.DataFrame:
    """Operations of one pass over the training data, by stage and part, and of one prediction.

    A row per stage and part; raises InvalidInput for data that do not fit the network. Columns:
        stage.
        part: "forward" and "backward" (the losses), "optimiser", "elementwise"; of a solved stage "forward"
            (the sums) and "solve"; "prefix, recomputed" and "prefix, cached" (one or the other; augmented
            data cannot be cached); "validation" (the read-out, without prefix); "prediction" last.
        obtained: "counted" (matrix products and convolutions) or "formula".
        when: "pass" (every epoch again), "once" (per stage), or "prediction".
        samples: images that it is done for; per_sample: operations for one of them (of the optimiser, which
            works once a step, its share); flops: for all.
    """
    x, labels = batch_of(algorithm, data)
    size, rows = len(x), []
    for ready in prepared_stages(algorithm, x, labels):
        work = solved_work if ready.stage.losses is None else descended_work
        parts = [*work(ready, len(data.x_train)), *shared_work(ready, data)]
        rows += [(ready.stage.name, *part) for part in parts]
    twin = ready.algorithm
    twin.stages_finished.fill_(len(twin.stages()))
    rows.append(("all", "prediction", "counted", "prediction", 1, count(twin.predict, x) / size))
    frame = pd.DataFrame(rows, columns=["stage", "part", "obtained", "when", "samples", "per_sample"])
    return frame.assign(flops=frame["samples"] * frame["per_sample"])


def descended_work(ready: PreparedStage, images: int) -> Iterator[tuple]:
    """A step's forward and backward passes, elementwise work and optimiser; without the last short batch."""
    size = len(ready.labels)
    images -= images % size
    forward = count(ready.forward)
    with Kernels() as watch:
        both = count(ready.step)
    yield "forward", "counted", "pass", images, forward / size
    yield "backward", "counted", "pass", images, (both - forward) / size
    yield "elementwise", "formula", "pass", images, watch.elementwise / size
    yield "optimiser", "formula", "pass", images, optimiser_flops(ready.stage) / size


def solved_work(ready: PreparedStage, images: int) -> Iterator[tuple]:
    """The sums over all images, and the solution."""
    size = len(ready.labels)
    with Kernels() as watch:
        sums = count(ready.accumulate)
    yield "forward", "formula", "pass", images, sums / size
    yield "elementwise", "formula", "pass", images, watch.elementwise / size
    yield "solve", "formula", "once", 1, count(ready.solve)


@torch.no_grad()
def shared_work(ready: PreparedStage, data: Data) -> Iterator[tuple]:
    """The frozen prefix, either way, and the read-out on the validation images."""
    stage, size = ready.stage, len(ready.labels)
    images, val = len(data.x_train), len(data.x_val)
    if stage.prefix:
        filled, validated = in_windows(images, size), in_windows(val, VALIDATION_BATCH)
        training = filled if stage.losses is None else images - images % size
        recomputed = training + (validated if stage.readout is not None else 0)
        whole = count(apply, stage.prefix, ready.images)
        yield "prefix, recomputed", "counted", "pass", recomputed, whole / size
        if data.augment is None:
            new = count(apply, ready.fresh, ready.below)
            yield "prefix, cached", "counted", "once", filled + validated, new / size
    if stage.readout is not None:
        yield "validation", "counted", "pass", val, count(stage.readout, ready.inputs) / size


def count(function: Callable, *arguments) -> int:
    """Operations of the matrix products and convolutions inside."""
    with counter() as counted:
        function(*arguments)
    return counted.get_total_flops()


def optimiser_flops(stage: Stage) -> int:
    """Of one step, by the formulas above."""
    per_parameter = UPDATE_OPERATIONS[stage.optimiser]
    if stage.optimiser == "sgd" and stage.momentum:
        per_parameter += 2  # v ← μv + g
    return sum(
        (per_parameter + (DECAY_OPERATIONS[stage.optimiser] if group.weight_decay else 0))
        * sum(p.numel() for p in group.parameters)
        for group in stage.groups
    )


@pinned()
@torch.no_grad()
def paper_flops(algorithm: nn.Module, data: Data) -> int:
    """Operations per sample as the papers count them (arXiv 2509.19063 and 2511.01061).

    One forward pass of one sample, for training; three where one loss reaches every layer (the papers say so
    of backpropagation; undetached Mono-Forward counts likewise here). Mono-Forward is counted with an output
    head that it does not use and without its projection matrices; Forward-Forward with one pass, of the two
    or more that it makes; Cascaded-Forward without its predictors.
    """
    model = algorithm.model
    image = data.x_train[:1].to(algorithm.stages_finished.device)
    forward = count(copy.deepcopy(model).eval(), image)
    if not algorithm.name.startswith(("ff", "cafo")):
        forward += 2 * model.features[-1] * model.classes
    return forward * (3 if algorithm.name in GLOBAL else 1)


class Counts(NamedTuple):
    """What an epoch costs, the same for every seed of an arm: the tables of `flops` and of `account`."""

    flops: pd.DataFrame
    account: pd.DataFrame


def counts(algorithm: nn.Module, data: Data) -> Counts:
    """The operations and bytes of one real step of every stage; the algorithm is left as it is."""
    return Counts(flops(algorithm, data), account(algorithm, data))


def run_counts(counted: Counts, history: History) -> dict[str, float]:
    """Operations of the whole run by region, as the history has seconds, and the most bytes of any stage.

    `prefix_flop`, `train_flop`, `val_flop` and `total_flop`: every epoch as it was trained, the prefix as it
    was served. `memory_bytes` and `graph_bytes`: the largest `peak` and `graph` of `account`'s stages.
    counted: of the algorithm that the history is of, on its data.
    """
    epochs = {stage.name: len(stage.rows) for stage in history.stages}
    served = {s.name: "prefix, " + s.prefix.partition(" ")[0] for s in history.stages}  # "cached in memory"
    spent = dict.fromkeys(("prefix_flop", "train_flop", "val_flop"), 0.0)
    for row in counted.flops.itertuples():
        if row.when == "prediction" or (row.part.startswith("prefix") and row.part != served[row.stage]):
            continue
        times = epochs[row.stage] if row.when == "pass" else 1
        spent[REGION.get(row.part, "train") + "_flop"] += times * row.flops
    return {
        **spent,
        "total_flop": sum(spent.values()),
        "memory_bytes": float(counted.account["peak"].max()),
        "graph_bytes": float(counted.account["graph"].max()),
    }
