"""Imitated hardware: a stub NVML library compiled here, powercap trees, and a meter driven by hand."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpfree.energy import EnergyMeter
from bpfree.energy.accumulator import Accumulator, Mark

SHAPES = {"constant": 0, "ramp": 1, "square": 2, "sine": 3, "spike": 4}
NO_COUNTER, NO_POWER, NO_INSTANT, NO_GAUGES, LOST, NO_PROCESSES = 1, 2, 4, 8, 16, 32


@pytest.fixture(scope="session")
def stub_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stub, named as the driver's library is."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the stub of NVML cannot be built")
    if sys.platform != "linux":
        pytest.skip("the stub of NVML is a Linux shared object")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "stub" / "nvml.c"
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", library, source, "-lm"], check=True)
    return library


class Stub:
    """The stub's controls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.seconds = 0.0

    def reset(self, devices: int = 1) -> None:
        self._library.stub_reset(devices)
        self.at(10.0)

    def at(self, seconds: float) -> None:
        """Set the clock of the sensors and of the meter."""
        self.seconds = seconds
        self._library.stub_time(ctypes.c_double(seconds))

    def clock(self) -> int:
        return round(self.seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        self.at(self.seconds + seconds)

    def script(self, device: int, shape: str, base: float, amplitude=0.0, period=1.0, phase=0.0) -> None:
        numbers = [ctypes.c_double(x) for x in (base, amplitude, period, phase)]
        self._library.stub_script(device, SHAPES[shape], *numbers)

    def sensor(self, device: int, update: float = 0.1, phase: float = 0.0, missing: int = 0) -> None:
        self._library.stub_sensor(device, ctypes.c_double(update), ctypes.c_double(phase), missing)

    def identity(
        self, device: int, uuid: str, name="Stub GPU", architecture=7, capability=(8, 6), mig=0
    ) -> None:
        name = name if isinstance(name, bytes) else name.encode()
        self._library.stub_identity(device, uuid.encode(), name, architecture, *capability, mig)

    def limit(self, device: int, watts: int) -> None:
        """The highest power limit that the device can be set to."""
        self._library.stub_limit(device, watts)

    def offset(self, device: int, millijoules: int) -> None:
        self._library.stub_offset(device, ctypes.c_int64(millijoules))

    def processes(self, device: int, *pids: int) -> None:
        self._library.stub_processes(device, len(pids), (ctypes.c_int * 4)(*pids))

    @property
    def sessions(self) -> int:
        return self._library.stub_sessions()


@pytest.fixture
def stub(stub_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """One stub GPU behind the real pynvml; any torch in this process is hidden from the meter."""
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(stub_path)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    control = Stub(pynvml.nvmlLib)
    control.reset()
    before = control.sessions
    yield control
    assert control.sessions == before, "a test left an NVML session open"


class HandMeter(EnergyMeter):
    """A meter whose sampler is the test, and which waits at its end only if given a clock to wait by."""

    def _run(self) -> None:
        return

    def _settle(self, *edges: object) -> None:
        if self._sleep is not time.sleep:
            super()._settle(*edges)


def advanced(accumulator: Accumulator, ns: int) -> Mark:
    """The mark of a read at this instant."""
    accumulator.advance(ns)
    return accumulator.mark(ns)


@pytest.fixture
def metered(stub: Stub) -> Callable:
    """Run a meter over stub time: ``metered(start, stop, hz=5)`` samples every 1/hz and gives the meter."""

    def run(
        start: float, stop: float, hz: float = 5.0, visit: Callable | None = None, **options
    ) -> EnergyMeter:
        stub.at(start)
        options.setdefault("sources", ["nvml-counter", "nvml-power"])
        meter = HandMeter(hz=hz, _clock=stub.clock, _sleep=stub.sleep, **options)
        with meter:
            steps = int((stop - start) * hz)
            for step in range(1, steps + 1):
                if start + step / hz >= stop:
                    break
                stub.at(start + step / hz)
                if visit is not None:
                    visit(meter, stub.seconds)
                meter._sample()
            stub.at(stop)
        return meter

    return run


class Powercap:
    """A powercap tree, nested as sysfs nests it."""

    def __init__(self, sysfs: Path) -> None:
        self.sysfs = sysfs
        self.root = root = sysfs / "class" / "powercap"
        root.mkdir(parents=True, exist_ok=True)

    def path(self, zone: str) -> Path:
        """``intel-rapl:0:1`` lies in ``intel-rapl/intel-rapl:0/intel-rapl:0:1``."""
        control, *numbers = zone.split(":")
        path = self.root / control
        for depth in range(1, len(numbers) + 1):
            path /= ":".join([control, *numbers[:depth]])
        return path

    def zone(
        self, zone: str, name: str, energy_uj: int = 1_000_000, range_uj: int | None = 262_143_328_850
    ) -> None:
        path = self.path(zone)
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(name + "\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        if range_uj is not None:
            (path / "max_energy_range_uj").write_text(f"{range_uj}\n")

    def set(self, **microjoules: int) -> None:
        """``rapl_0_1=5`` writes the counter of ``intel-rapl:0:1``, ``mmio_0=5`` of ``intel-rapl-mmio:0``."""
        for key, value in microjoules.items():
            control, *numbers = key.split("_")
            control = {"rapl": "intel-rapl", "mmio": "intel-rapl-mmio"}[control]
            with (self.path(":".join([control, *numbers])) / "energy_uj").open("r+") as counter:
                counter.write(f"{value:<16}\n")  # over the old one in one write: never seen half written


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path / "sys")


class Clock:
    """A clock in seconds for a meter, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> int:
        return round(self.seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def python() -> Callable:
    """Run the command line of the meter in a fresh interpreter."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=60,
        )

    return run


def files_held(make) -> int:
    """How many files a meter holds open while it runs; asserts that it leaves none, run or never started."""
    gc.collect()
    before = os.listdir("/proc/self/fd")
    with make():
        held = len(os.listdir("/proc/self/fd")) - len(before)
    assert os.listdir("/proc/self/fd") == before
    make()  # never started, and forgotten
    gc.collect()
    assert os.listdir("/proc/self/fd") == before
    return held
