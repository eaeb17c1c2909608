"""Epochs of Forward-Forward beside backpropagation's. By hand: ``python tests/benchmarks/ff_epoch.py``.

The same MLP at the same batch size: at most 2.0 times as long. Forward-Forward moves twice the rows but no
gradient between layers; of multiply-adds it needs 1.47 times as many on 784-1000-1000-1000. The timed region
is one epoch of training steps (batch, forward, backward, optimiser), without validation. Both run in turns in
one process; the ratio is that of the medians, and the quartiles of the turns' own ratios say how far it can
be trusted on a busy machine. With --cpu-time the process' CPU time is taken in place of the clock, which
tells more beside other work; use one thread then.
"""

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from cafo_epoch import epoch_of, in_turns, report

from bpfree.algorithms import Backprop, ForwardForward
from bpfree.algorithms.networks import MLP
from bpfree.data import load
from bpfree.training.clock import Clock
from bpfree.training.loop import pick_device
from bpfree.training.prefix import PrefixCache
from bpfree.training.stage import freeze_all_but


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="data set, as in bpfree.load")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--images", type=int, default=10_000, help="training images of an epoch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default=None)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    device = pick_device(options.device)
    data = load(options.data).to(device)
    data = replace(
        data, x_train=data.x_train[: options.images], y_train=data.y_train[: options.images], augment=None
    )
    print(f"torch {torch.__version__}, {device}, {options.threads} threads, {data!r}, batch {options.batch}")

    def epoch(cls, **choices):
        model = MLP([data.features, *options.layers * [options.width]], classes=data.classes)
        algorithm = cls(model, batch_size=options.batch, **choices).to(device)
        algorithm.initialise(0)
        algorithm.prepare(data)
        (stage,) = algorithm.stages()
        freeze_all_but(algorithm, stage)
        cache = PrefixCache(data, options.batch, device, "auto", nullcontext())
        return epoch_of(stage, cache.source(stage, Clock(device)), device)

    for optimiser in ("adamw", "sgd"):
        for label, choices in (
            ("", {}),
            (", one pass", {"passes": 1}),
            (", head", {"predict_by": "softmax"}),
        ):
            turns = in_turns(
                epoch(ForwardForward, optimiser=optimiser, **choices),
                epoch(Backprop, optimiser=optimiser),
                options.repeats,
                clock,
            )
            report(f"{optimiser}{label}: FF / BP", turns)


if __name__ == "__main__":
    main()
