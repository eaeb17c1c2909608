"""Where the time goes: seconds of a step, milliseconds by kind of kernel, and resources over a whole run."""

import math
import os
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ..training.batches import Data
from ..training.chance import stream
from ..training.clock import Clock
from ..training.loop import train
from ..training.numerics import pinned
from ..training.prefix import PrefixCache, apply
from .kernels import Kernels, group_of
from .one_step import PreparedStage, batch_of, prepared_stages

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes to stderr, past Python

REST = "Python, autograd, waiting"
NO_SAMPLE = ("cpu:process", "rss", math.nan, "B")
GROUPS = ("matrix products", "optimiser", "elementwise", "copies and fills", "batches", REST)


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


@pinned(flush=True)
def profile_step(algorithm: nn.Module, data: Data, *, steps: int = 10) -> pd.DataFrame:
    """Where the milliseconds of one training step go, by stage and group of kernels.

    A row per descended stage and group: `ms` of a step and its `share` of the whole. Kernels are timed by
    torch's profiler. "batches" is drawing and augmenting a batch and, where the prefix cannot be cached,
    computing it. The last group is what remains of the step's wall clock, taken without the profiler: the
    interpreter, autograd's own work, launching and waiting.
    """
    on_gpu = algorithm.stages_finished.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    drawing = batch_seconds(algorithm, data, steps)
    rows = []
    for ready in prepared_stages(algorithm, *batch_of(algorithm, data)):
        if ready.stage.losses is None:
            continue
        with Kernels() as watch:
            optimiser = ready.step()
        wall = timed(ready, steps * 0.01)
        with profile(activities=activities) as run:
            for _ in range(steps):
                ready.step(optimiser)
        ms = kernel_ms(run, watch.names, steps, on_gpu)
        ms[REST] = max(0.0, 1e3 * wall - sum(ms.values()))
        ms["batches"] = 1e3 * drawing[ready.stage.name]
        rows += [(ready.stage.name, group, t, t / sum(ms.values())) for group, t in ms.items()]
    return pd.DataFrame(rows, columns=["stage", "group", "ms", "share"])


def kernel_ms(run: profile, kernels: set[str], steps: int, on_gpu: bool) -> dict[str, float]:
    """Milliseconds of every group in a step: medians over the profiled steps, which are all alike."""
    found = [(e.time_range.start, e, topmost(e, kernels)) for e in run.events()]
    found = sorted((entry for entry in found if entry[2] is not None), key=lambda entry: entry[0])
    spent = {group: [0.0] * steps for group in GROUPS}
    for number, (_, event, kernel) in enumerate(found):
        microseconds = event.device_time_total if on_gpu else event.cpu_time_total
        spent[group_of(kernel)][number * steps // len(found)] += microseconds / 1e3
    return {group: statistics.median(values) for group, values in spent.items()}


def topmost(event, kernels: set[str]) -> str | None:
    """The kernel that an event is, unless it runs inside another one, whose time includes it."""
    name = event.name.partition("::")[2]
    if name not in kernels:
        return None
    while (event := event.cpu_parent) is not None:
        if event.name.partition("::")[2] in kernels:
            return None
    return name


def batch_seconds(algorithm: nn.Module, data: Data, batches: int) -> dict[str, float]:
    """Seconds of drawing one batch, by stage, from the training loop's own source."""
    size, device = batch_of(algorithm, data)[0].shape[0], algorithm.stages_finished.device
    names, seconds = ("x_train", "y_train", "x_val", "y_val"), {}
    few = {name: getattr(data, name)[: batches * size].to(device, copy=True) for name in names}
    with PrefixCache(replace(data, **few), size, device, "auto", nullcontext()) as cache:
        for stage in algorithm.stages():
            source, row = cache.source(stage, Clock(device)), {}
            with Clock(device).region(row, "draw"):
                for _ in source.shuffled(stream("batches")):
                    pass
            seconds[stage.name] = row["draw_s"] / source.batches
    return seconds


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
