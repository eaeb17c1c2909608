"""A GPU of known energy behind an imitated pynvml, on a clock of its own.

Six waveforms whose integral is known in closed form; sensors that update with a period and a jitter; calls
that take up to 200 ms and show what was true when they began or when they ended; a counter that stands still
or steps back. A meter is driven over it as its sampler would, in virtual time.
"""

from __future__ import annotations

import bisect
import math
import os
import random
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field

from bpfree.energy import EnergyMeter

NS = 1_000_000_000
Energy = Callable[[float], float]


def periodic(period: float, phase: float, within: Energy) -> Energy:
    """Repeats the energy of one period, ``within(t)`` for 0 ≤ t ≤ period."""
    whole = within(period)

    def energy(t: float) -> float:
        turns, rest = divmod(t + phase, period)
        return turns * whole + within(rest)

    return energy


def waveform(shape: str, rng: random.Random) -> Energy:
    """∫ P dt of a random power of this shape, in joules; idle 60 to 140 W, at most 640 W."""
    base, high = rng.uniform(60, 140), rng.uniform(100, 500)
    period = math.exp(rng.uniform(math.log(0.05), math.log(20)))
    phase = rng.uniform(0, period)
    if shape == "square":
        on = rng.uniform(0.1, 0.9) * period
        extra = periodic(period, phase, lambda t: high * min(t, on))
    elif shape == "ramp":  # up, and down again
        period = 4 * period
        half = period / 2
        slope = high / half

        def up_and_down(t: float) -> float:
            rest = max(0.0, t - half)
            return slope * min(t, half) ** 2 / 2 + high * rest - slope * rest**2 / 2

        extra = periodic(period, phase, up_and_down)
    elif shape == "sawtooth":
        extra = periodic(period, phase, lambda t: high * t * t / (2 * period))
    elif shape == "decay":
        tau = rng.uniform(0.05, 1.0) * period
        extra = periodic(period, phase, lambda t: high * tau * -math.expm1(-t / tau))
    elif shape == "burst":  # of 0.2 s, seldom
        period = rng.uniform(1, 6)
        extra = periodic(period, rng.uniform(0, period), lambda t: high * min(t, 0.2))
    elif shape == "spike":  # of 5 to 100 ms
        period, width = rng.uniform(2, 20), rng.uniform(0.005, 0.1)
        extra = periodic(period, rng.uniform(0, period), lambda t: high * min(t, width))
    else:
        raise ValueError(shape)
    return lambda t: base * t + extra(t)


SHAPES = ("square", "ramp", "spike", "decay", "sawtooth", "burst")


@dataclass
class Gpu:
    """Its sensors, as pynvml's functions; ``clock()`` in nanoseconds."""

    energy: Energy
    rng: random.Random
    period: float = 0.1
    jitter: float = 0.2  # of the period
    call: Callable[[random.Random], float] = lambda rng: 30e-6
    still: tuple[float, float] = (math.inf, math.inf)  # when the counter stands still
    back: tuple[float, float] = (math.inf, 0.0)  # when it steps back, and by how many joules
    celsius: Callable[[], float] = lambda: 50.0
    mhz: Callable[[], float] = lambda: 1500.0
    now: float = 0.0
    updates: list[float] = field(default_factory=lambda: [-1.0])

    def clock(self) -> int:
        return round(self.now * NS)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _updated(self, t: float) -> float:
        while self.updates[-1] <= t:
            wait = self.period * (1 + self.rng.uniform(-self.jitter, self.jitter))
            self.updates.append(self.updates[-1] + wait)
        return self.updates[bisect.bisect_right(self.updates, t) - 1]

    def _called(self) -> float:
        """When the value that a call shows was true: at its begin or its end."""
        took, begun = self.call(self.rng), self.now
        self.now += took
        return self._updated(self.rng.choice([begun, self.now]))

    def counter(self, _handle: object) -> int:
        t = self._called()
        begun, ended = self.still
        stood = self.energy(t) if t < begun else self.energy(begun)
        joules = stood + (self.energy(t) - self.energy(ended) if t > ended else 0.0)
        return int(1e3 * (1000 + joules - (self.back[1] if t >= self.back[0] else 0.0)))

    def power(self, _handle: object, _fields: object) -> list:
        t, d = self._called(), 1e-6
        watts = (self.energy(t) - self.energy(t - d)) / d
        value = types.SimpleNamespace(uiVal=round(1e3 * watts))
        return [types.SimpleNamespace(nvmlReturn=0, value=value)]

    def module(self) -> types.ModuleType:
        module = types.ModuleType("pynvml")
        vars(module).update(
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetUUID=lambda handle: "GPU-trial",
            nvmlDeviceGetName=lambda handle: "Trial GPU",
            nvmlDeviceGetTotalEnergyConsumption=self.counter,
            nvmlDeviceGetFieldValues=self.power,
            nvmlDeviceGetPowerManagementLimitConstraints=lambda handle: (100_000, 700_000),
            nvmlDeviceGetComputeRunningProcesses=lambda handle: [types.SimpleNamespace(pid=os.getpid())],
            nvmlDeviceGetTemperature=lambda handle, sensor: self.celsius(),
            nvmlDeviceGetClockInfo=lambda handle, kind: self.mhz(),
            NVML_CLOCK_SM=1,
            NVML_TEMPERATURE_GPU=0,
            NVML_FI_DEV_POWER_INSTANT=186,
            NVML_SUCCESS=0,
        )
        return module


class VirtualMeter(EnergyMeter):
    """Its sampler is `pass_time`."""

    def __init__(self, gpu: Gpu, **options: object) -> None:
        before = {name: sys.modules.get(name) for name in ("pynvml", "torch")}
        sys.modules["pynvml"] = gpu.module()
        sys.modules.pop("torch", None)
        try:
            options.setdefault("sources", ["nvml-counter", "nvml-power"])
            gpus = [0] if any("nvml" in source for source in options["sources"]) else None
            super().__init__(gpus=gpus, _clock=gpu.clock, _sleep=gpu.sleep, **options)
        finally:
            sys.modules.pop("pynvml")
            sys.modules.update({name: module for name, module in before.items() if module})
        self.gpu = gpu
        self._due = gpu.now

    def _run(self) -> None:
        return

    def pass_time(self, seconds: float) -> None:
        """The sampler's work while the program goes on for so long; slow calls do not stop the program."""
        gpu, until = self.gpu, self.gpu.now + seconds
        period = 1 / self._poll_hz
        while self._due < until:
            gpu.now = max(gpu.now, self._due)
            with self._lock:
                self._advance(self._channels)
            self._due = max(self._due + period, gpu.now)
        gpu.now = max(gpu.now, until)


@dataclass
class Outcome:
    """One value of one window, beside the truth."""

    source: str
    seconds: float
    truth: float
    value: object

    @property
    def covered(self) -> bool:
        return self.value.low <= self.truth <= self.value.high


def windows(shape: str, seed: object, lengths: list[float], **gpu: object) -> tuple[list[Outcome], dict]:
    """Windows of these lengths, one after the other, and what they are of the whole.

    The whole, and the sum of its windows and of the time between them, by source.
    """
    rng = random.Random(f"{shape} {seed}")
    device = Gpu(waveform(shape, rng), rng, now=rng.uniform(5, 6), **gpu)
    device.updates = [rng.uniform(0, 0.1)]
    energy = device.energy
    with VirtualMeter(device) as meter:
        meter.pass_time(rng.uniform(0, 2))
        edges = []
        for length in lengths:
            with meter.window() as window:
                meter.pass_time(length)
            edges.append(window)
        meter.pass_time(rng.uniform(0, 2))
    found = []
    for window in edges:
        start, stop = window._start.out_ns / NS, window._stop.in_ns / NS
        truth = energy(stop) - energy(start)
        for value in window.reading.values:
            found.append(Outcome(value.source, stop - start, truth, value))
    return found, {"meter": meter, "windows": edges}
