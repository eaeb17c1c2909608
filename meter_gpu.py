"""The meter on a GPU: self-test, idle power, and one BP pass against one MF pass, in a minute.

    PYTHONPATH=<checkout> BPFREE_DATA=<data> python meter_gpu.py          bounded to 60 s in all
    PYTHONPATH=<checkout> BPFREE_DATA=<data> python meter_gpu.py --full   the whole protocol, some minutes

In the short form windows are under ten updates of the counter, so a flag says "short-window"; rounds are as few as
may be. Either side of a comparison trains as many passes as MF has stages, so the ratio is that of a mean pass.
"""

import signal
import sys
import time

from bpfree.energy import compare, measure_idle  # no torch yet: the first idle power is without a context
from bpfree.energy.__main__ import main as energy

BEGUN = time.monotonic()
FULL = "--full" in sys.argv
IMAGES = 12_800
SHORT = {} if FULL else {"window_s": 0.6, "most_rounds": 3, "most_warmups": 2}


def say(text: object) -> None:
    print(f"[{time.monotonic() - BEGUN:5.1f} s] {text}", flush=True)


def over(*_: object) -> None:
    raise TimeoutError("the minute is over")


def noise(n: int):
    """As tests/benchmarks/pass_cost.py: images of CIFAR's size."""
    import torch

    from bpfree.training.batches import Data

    generator, parts = torch.Generator().manual_seed(0), {}
    for split, count in (("train", n), ("val", n // 10), ("test", 10)):
        parts[f"x_{split}"] = torch.randn(count, 3, 32, 32, generator=generator)
        parts[f"y_{split}"] = torch.arange(count) % 10
    return Data("cifar10", 10, **parts, mean=(0.0,) * 3, std=(1.0,) * 3, sha256="")


def shorter(data, n: int):
    from dataclasses import replace

    part = {"x_train": data.x_train[:n], "y_train": data.y_train[:n]}
    return replace(data, **part, x_val=data.x_val[: n // 10], y_val=data.y_val[: n // 10])


def versus(data, architecture: str, idle_w: dict[str, float]) -> None:
    import bpfree
    from bpfree.algorithms.architectures import build_model
    from bpfree.training.loop import pick_device

    data = data.to(pick_device())
    bp, mf = (bpfree.arm(name).make(build_model(architecture, data)) for name in ("bp", "mf"))
    passes = len(mf.stages())

    def trained(algorithm, epochs: int):
        return lambda: bpfree.train(algorithm, data, max_epochs=epochs, progress=False)

    names = f"BP x {passes}", f"MF x {passes}"
    result = compare(trained(bp, passes), trained(mf, 1), names=names, idle_w=idle_w or None, **SHORT)
    say(f"{data.name} {architecture}, {len(data.x_train)} images, {passes} passes of either\n{result}")
    for what in ("measured_j", "net_measured_j", "seconds"):
        ratio = result.ratio(what)
        print(f"  {what}, BP/MF: {ratio}; MF/BP: " + (f"{1 / ratio.value:.4g} ({1 / ratio.high:.4g} to {1 / ratio.low:.4g})" if ratio else "-"))


if __name__ == "__main__":
    if not FULL:
        signal.signal(signal.SIGALRM, over)
        signal.alarm(58)
    try:
        say(f"idle, no context: {measure_idle(1.5, gpus='visible').watts}")
        import torch

        say(f"torch {torch.__version__}, {torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}")
        energy(["--check", "--load"])
        say("checked")
        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")
        idle = measure_idle(1.5, gpus="visible").watts
        say(f"idle, with a context: {idle}")
        import bpfree

        versus(shorter(bpfree.load("fashion_mnist"), IMAGES), "2x1000", idle)
        versus(noise(IMAGES), "3x2000", idle)
    except TimeoutError as error:
        say(error)
        sys.exit(1)
