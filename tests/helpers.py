"""What several test modules share: small data, the arms by name, and comparisons to the last bit."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import psutil
import torch

from bpfree.algorithms import ARMS, Algorithm
from bpfree.algorithms.networks import MLP
from bpfree.experiments.resolved import Resolved
from bpfree.training.batches import Data
from bpfree.training.chance import Chance
from bpfree.training.checkpoint import Checkpoint
from bpfree.training.history import OUTCOME, History
from bpfree.training.stopping import Budget, Stopping

LADDER = ("bp", "bp_ds", "mf", "mf_interleaved", "mf_joint", "mf_sequential_joint")


def toy(n=70, val=30, test=20, shape=(1, 3, 4), classes=3, seed=0, **changes) -> Data:
    """Overlapping Gaussian clouds, one a class: learnable, but not separable."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, *shape, generator=generator)
    parts = {}
    for split, count in (("train", n), ("val", val), ("test", test)):
        y = torch.arange(count) % classes
        parts[f"x_{split}"] = centres[y] + 1.5 * torch.randn(count, *shape, generator=generator)
        parts[f"y_{split}"] = y
    channels = shape[0]
    constants = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "sha256": "0" * 64}
    return Data(**{"name": "toy", "classes": classes, **parts, **constants, **changes})


def arm(name: str, widths=(12, 8, 7, 6), classes=3, **options) -> Algorithm:
    """An arm of the study on a small MLP."""
    return ARMS[name].make(MLP(list(widths), classes=classes), **{"batch_size": 16, **options})


def for_epochs(algorithm: Algorithm, epochs: int) -> dict:
    """What tells training to take so many epochs a stage at most; exactly, where its length must be fixed."""
    stages = algorithm.stages()
    if any(stage.continues for stage in stages):
        return {"budget": Budget("passes", epochs * len(stages), exact=True)}
    return {"max_epochs": epochs}


def resolved(**changes) -> Resolved:
    """A resolved experiment: two epochs a stage of Mono-Forward on the digits, but for the changes."""
    common = {"algorithm": "mf", "data": "digits", "data_sha256": "0" * 64, "seed": 0, "architecture": "2x8"}
    labels = {"protocol": "convergence", "preset": None, "hyperparameters_from": "defaults"}
    length = {"stopping": Stopping(), "max_epochs": 2, "budget": None, "training_version": 1}
    how = {"options": {"lr": 0.1}, "precision": "fp32", "device": "cpu", "cache": "auto"}
    return Resolved(**{**common, **labels, **length, **how, **changes})


def weights(algorithm: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers as they are now."""
    return {name: value.detach().clone() for name, value in algorithm.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """Whether two sets of weights agree in names and in every bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def outcome(history: History, *without: str) -> list[dict]:
    """What was computed, epoch by epoch, without what it cost."""
    return [
        {key: row[key] for key in OUTCOME if key not in without} for s in history.stages for row in s.rows
    ]


def no_memory(monkeypatch) -> None:
    """From now on the machine says that no memory is free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))


class Eager(Checkpoint):
    """Writes whenever it may, and dies after the n-th time."""

    every_s, share = 0.0, math.inf

    def __init__(self, path, run="a run", dies_after=None):
        super().__init__(path, run)
        self.left, self.writes = dies_after, 0

    def save(self, *state, **how):
        super().save(*state, **how)
        self.writes += 1
        if self.writes == self.left:
            raise KeyboardInterrupt


@contextmanager
def in_background(command: list[str], ready: Callable[[], bool], **environment: str):
    """A program and the processes that it has started, as soon as it is `ready`; they end with the block."""
    process = subprocess.Popen(
        command,
        # As users have it: a file that is being imported when a signal comes is no leak of ours.
        env={**os.environ, "PYTHONWARNINGS": "", **environment},
        # A shell's background job ignores Ctrl-C, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = []
    try:
        while not ready():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        children += psutil.Process(process.pid).children(recursive=True)
        yield process, children
    finally:
        process.kill()
        process.communicate()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class ScriptedMeter:
    """A meter whose windows report one reading after the other, from a list or for ever the same."""

    def __init__(self, *readings: tuple[float | None, float | None]):
        self.readings = list(readings)
        self.names: list[str] = []

    @contextmanager
    def window(self, name: str):
        self.names.append(name)
        opened = SimpleNamespace()
        yield opened
        measured, estimated = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        opened.reading = SimpleNamespace(measured_j=measured, estimated_j=estimated, provenance="scripted")


def chance(seed: int = 0) -> Chance:
    """What the losses of a stage draw from."""
    return Chance(torch.Generator().manual_seed(seed))


def losses_of(stage, x, y, seed=0) -> list[torch.Tensor]:
    """The losses of a stage, all alive at once, which the training loop never has them."""
    return list(stage.losses(x, y, chance(seed)))


def central_differences(loss, parameter: torch.Tensor, h: float = 1e-6) -> torch.Tensor:
    """∂loss/∂parameter, entry by entry: (loss(θ + h) − loss(θ − h)) / 2h; the parameter must be float64."""
    gradient = torch.empty_like(parameter)
    flat, out = parameter.data.view(-1), gradient.view(-1)
    for k in range(len(flat)):
        value = flat[k].item()
        sides = []
        for shifted in (value + h, value - h):
            flat[k] = shifted
            with torch.no_grad():
                sides.append(loss())
        flat[k] = value
        out[k] = (sides[0] - sides[1]) / (2 * h)
    return gradient
