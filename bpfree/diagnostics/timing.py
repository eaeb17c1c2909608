"""Where the time goes: seconds of a step and of an epoch, and resources over a whole run."""

import math
import statistics
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import nn

from ..training.batches import Data
from ..training.clock import Clock
from ..training.loop import train
from ..training.numerics import pinned
from ..training.prefix import apply
from .one_step import PreparedStage, batch_of, prepared_stages

NO_SAMPLE = ("cpu:process", "rss", math.nan, "B")


@pinned(flush=True)
def step_seconds(algorithm: nn.Module, data: Data, *, seconds: float = 0.2) -> dict[str, float]:
    """Median seconds of one step of every stage, by stage: the training loop's own step, batch at hand.

    Takes about `seconds` a stage, at the present number of threads. A solved stage's "step" is its sums over
    one batch and its solution.
    """
    return {t.stage.name: timed(t, seconds) for t in prepared_stages(algorithm, *batch_of(algorithm, data))}


@pinned(flush=True)
def epoch_seconds(algorithm: nn.Module, data: Data, *, seconds: float = 0.05) -> dict[str, float]:
    """What an epoch of every stage will take, by stage, from a few steps: an estimate, not a measurement.

    Training steps and validation, and the prefix where it is recomputed, as many as an epoch has batches;
    drawing the batches is left out, and so is filling the cache. Of a solved stage, its one pass. Each part
    of a stage is tried for about `seconds`.
    """

    def tried(call: Callable, *arguments) -> float:
        return median_seconds(torch.no_grad()(partial(call, *arguments)), ready.images.device, seconds, 3)

    took = {}
    for ready in prepared_stages(algorithm, *batch_of(algorithm, data)):
        stage, size = ready.stage, len(ready.labels)
        step = tried(ready.accumulate) if stage.losses is None else timed(ready, seconds, blocks=3)
        read = tried(stage.readout, ready.inputs) if stage.readout is not None else 0.0
        again = stage.prefix and data.augment is not None  # recomputed for every batch
        prefix = tried(apply, stage.prefix, ready.images) if again else 0.0
        batches = len(data.x_train) // size
        took[stage.name] = batches * (step + prefix) + len(data.x_val) / size * (read + prefix)
    return took


def timed(ready: PreparedStage, seconds: float, blocks: int = 5) -> float:
    optimiser = ready.step()  # makes the optimiser's state
    return median_seconds(lambda: ready.step(optimiser), ready.images.device, seconds, blocks)


def median_seconds(call: Callable, device: torch.device, seconds: float = 0.2, blocks: int = 5) -> float:
    """Median over blocks of calls, about `seconds` in all; the device is synchronised around a block."""
    clock = Clock(device)

    def block(calls: int) -> float:
        row = {}
        with clock.region(row, "block"):
            for _ in range(calls):
                call()
        return row["block_s"] / calls

    block(1)  # warms up
    calls = max(1, int(seconds / blocks / block(1)))
    return statistics.median(block(calls) for _ in range(blocks))


def resources(algorithm: nn.Module, data: Data, meter, **options) -> pd.DataFrame:
    """Train under a tracing meter: what the machine did meanwhile, as a tidy frame.

    The samples of `meter.trace` inside this run, times from its beginning (time_s, channel, quantity, value,
    unit), with the algorithm's name and the stage (by its share of the run's time, which leaves out what the
    loop does between stages). Of a run that was over before the sampler came, a row without a value.

    meter: a running `EnergyMeter(trace=True)`; options: of `bpfree.train`.
    """
    with meter.window(algorithm.name) as window:
        history = train(algorithm, data, meter=meter, **options)
    trace = window.trace
    if trace.empty:
        trace = pd.DataFrame([(0.0, *NO_SAMPLE)], columns=["time_s", "channel", "quantity", "value", "unit"])
    return history.staged(trace, window.reading.seconds).assign(algorithm=algorithm.name)
