"""Two ratios of Cascaded-Forward's cost. Run by hand: ``python tests/benchmarks/cafo_epoch.py``.

1. An epoch of every predictor on cached features against the same epochs with the frozen blocks recomputed:
   at least 10 times as fast. (The first predictor alone gains less: it has one cheap convolution to save.)
2. An epoch of DFA's blocks against an epoch of backpropagation on the same CNN: at most 1.05 times as long.

The timed region is one epoch of training steps (batch, forward, backward, optimiser), with no validation and
no filling of the cache. Both contestants of a ratio run in turns in one process; the ratio is that of the
medians. The quartiles of the turns' own ratios say how far it can be trusted on a busy machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch

from bpfree.algorithms import Backprop, CascadedForward
from bpfree.algorithms.networks import CaFoCNN
from bpfree.data import load
from bpfree.training.batches import Data
from bpfree.training.chance import stream
from bpfree.training.clock import Clock
from bpfree.training.loop import pick_device
from bpfree.training.prefix import PrefixCache
from bpfree.training.stage import Stage, make_optimiser, step

BATCH = 128


def epoch_of(stage: Stage, source, device: torch.device) -> Callable[[], None]:
    """A call that trains one epoch of the stage and waits for the device."""
    optimiser = make_optimiser(stage)
    chance = stream(0, "losses", device=device)

    def epoch() -> None:
        for inputs, labels in source.shuffled(stream(0, "order")):
            step(stage, optimiser, inputs, labels, chance)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return epoch


def in_turns(
    first: Callable[[], None], second: Callable[[], None], repeats: int, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Seconds of both, `repeats` times, after one turn of warming up; who begins alternates."""
    turns = []
    for turn in range(repeats + 1):
        seconds = [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):
            begun = clock()
            (first, second)[which]()
            seconds[which] = clock() - begun
        turns.append(tuple(seconds))
    return turns[1:]


def report(label: str, turns: list[tuple[float, float]]) -> None:
    first, second = (statistics.median(column) for column in zip(*turns, strict=True))
    low, _, high = statistics.quantiles((a / b for a, b in turns), n=4)
    print(
        f"{label:<42} {first:8.3f} s / {second:8.3f} s = {first / second:7.3f} times "
        f"(quartiles of {len(turns)}: {low:.3f} to {high:.3f})"
    )


def predictors(data: Data, device: torch.device, *turns) -> None:
    cafo = CascadedForward(CaFoCNN(data.shape, classes=data.classes), batch_size=BATCH).to(device)
    cafo.initialise(0)
    cafo.eval()
    clock, everything = Clock(device), []
    for stage in cafo.stages():
        if stage.losses is None:
            continue  # a calibration: it changes the features, not their cost
        caches = (PrefixCache(data, BATCH, device, mode, nullcontext()) for mode in (False, True))
        recomputed, cached = (epoch_of(stage, cache.source(stage, clock), device) for cache in caches)
        everything.append(in_turns(recomputed, cached, *turns))
        report(f"{stage.name}: recomputed / cached", everything[-1])
    together = [tuple(map(sum, zip(*same_turn, strict=True))) for same_turn in zip(*everything, strict=True)]
    report("all predictors: recomputed / cached", together)


def blocks(data: Data, device: torch.device, *turns) -> None:
    epochs = []
    for algorithm in (
        CascadedForward(CaFoCNN(data.shape, classes=data.classes), blocks="dfa", batch_size=BATCH),
        Backprop(CaFoCNN(data.shape, classes=data.classes), batch_size=BATCH),
    ):
        algorithm.to(device)
        algorithm.initialise(0)
        algorithm.train()
        stage = algorithm.stages()[0]
        source = PrefixCache(data, BATCH, device, "auto", nullcontext()).source(stage, Clock(device))
        epochs.append(epoch_of(stage, source, device))
    report("blocks: DFA / backpropagation", in_turns(*epochs, *turns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist", help="data set, as in bpfree.load")
    parser.add_argument("--images", type=int, default=2000, help="training images of an epoch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of this process; for a busy machine, 1 thread"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    data = load(options.data).to(device)
    data = replace(
        data, x_train=data.x_train[: options.images], y_train=data.y_train[: options.images], augment=None
    )
    print(f"torch {torch.__version__}, {device}, {options.threads} threads, {data!r}, batches of {BATCH}")
    clock = time.process_time if options.cpu_time else time.perf_counter
    predictors(data, device, options.repeats, clock)
    blocks(data, device, options.repeats, clock)


if __name__ == "__main__":
    main()
