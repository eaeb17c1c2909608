"""The estimate of last resort: CPU seconds times watts per core.

    E = (CPU seconds of this process and its children) x (watts per busy core)

It is a power model and not a measurement. It adds nothing beyond CPU time: no idle power, no GPU, no constant
for RAM. The default watts are the mean full-load draw of one hardware thread over the server CPUs that
Cloud Carbon Footprint took from SPECpower_ssj2008 (methodology, "Average Max Watts", AWS: 3.5 W); the
bounds are the most and the least frugal CPU generation in its table of coefficients (EPYC 2nd generation
1.69 W, EPYC 5th generation 8.96 W). Laptops and desktops may lie outside: state your own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

from .accumulator import NS, Accumulator, Mark
from .reading import EnergyValue, unavailable

ESTIMATE = "estimate"
CHANNEL = "cpu:process"


class Watts(NamedTuple):
    """Watts per busy core: central value, bounds, and where they come from."""

    low: float
    central: float
    high: float
    origin: str


DEFAULT_WATTS = Watts(1.69, 3.5, 8.96, "Cloud Carbon Footprint's mean of SPECpower servers at full load")


def watts(stated: float | Sequence[float] | None) -> Watts:
    """The watts to use: the default, one stated number, or (low, central, high).

    A single number keeps the relative bounds of the default, because what one core draws depends as much on
    its load and clock as on its make. Raises ValueError for anything that is not positive and in order.
    """
    if stated is None:
        return DEFAULT_WATTS
    if isinstance(stated, int | float):
        bounds = [stated * w / DEFAULT_WATTS.central for w in DEFAULT_WATTS[:3]]
        bounds[1] = float(stated)
    else:
        bounds = [float(w) for w in stated]
    if len(bounds) != 3 or not 0 < bounds[0] <= bounds[1] <= bounds[2] < float("inf"):
        raise ValueError(
            f"watts_per_core={stated!r}: give positive watts, one number or (low, central, high) in order"
        )
    return Watts(*bounds, "stated by the user")


def _linux_stat(pid: int) -> tuple[int, int] | None:
    """When a process started, and CPU ticks of it and of the children it has already waited for.

    Source: proc(5), /proc/pid/stat.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[19]), sum(map(int, fields[11:15]))  # starttime; utime stime cutime cstime
    except (OSError, ValueError, IndexError):
        return None


def _linux_children(pid: int) -> list[int]:
    """Direct children, from the kernel's own lists (one per thread): no scan of all processes."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except (OSError, ValueError):  # the thread ended
            continue
    return found


class ProcessTimes:
    """CPU nanoseconds of this process and its descendants, living and dead, counted once each.

    Dead children are counted by the kernel (RUSAGE_CHILDREN) when they are waited for, living ones by reading
    their own times. ``refresh`` looks for new children; it is the sampler's work, not an edge's.
    """

    SCAN_NS = 5 * NS  # how often to scan for children where the kernel keeps no list of them
    LOST_NS = NS  # a child's time that is neither living nor waited for after this long is lost

    def __init__(self) -> None:
        self._tick_ns = NS // os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0
        self._lists = os.path.exists("/proc/self/task") and os.path.exists(
            f"/proc/self/task/{os.getpid()}/children"
        )
        self._alive: dict[int, int] = {}  # pid -> start time, so that a reused pid is not mistaken
        self._scanned_ns: int | None = None
        self._unlisted: Exception | None = None  # why the descendants could not be listed
        self._lost = self._high = 0
        self._missing_since: int | None = None
        self._lock = threading.Lock()  # the sampler reads too

    @property
    def pids(self) -> set[int]:
        """This process and the descendants found by the last ``refresh``."""
        return {os.getpid(), *self._alive}

    def refresh(self) -> None:
        """Look for descendants. If that fails, `read` will say so: what they burn is then not known."""
        try:
            self._look()
            self._unlisted = None
        except Exception as error:  # the system or psutil may refuse in ways of their own
            self._unlisted = error

    def _look(self) -> None:
        if self._lists:
            pids, queue = {}, [os.getpid()]
            while queue:
                for pid in _linux_children(queue.pop()):
                    if pid not in pids and (stat := _linux_stat(pid)):
                        pids[pid] = stat[0]
                        queue.append(pid)
            self._alive = pids
            return
        now = time.monotonic_ns()
        if self._scanned_ns is None or now - self._scanned_ns >= self.SCAN_NS:
            self._scanned_ns = now
            alive = {}
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                    alive[child.pid] = int(child.create_time())
            self._alive = alive

    def _living_ns(self) -> int:
        total = 0
        for pid, start in self._alive.items():
            if self._lists:
                stat = _linux_stat(pid)
                if stat is not None and stat[0] == start:
                    total += stat[1] * self._tick_ns
                continue
            try:
                total += int(sum(psutil.Process(pid).cpu_times()[:4]) * NS)
            except psutil.Error:
                continue
        return total

    def read(self) -> int:
        """CPU nanoseconds so far; never decreases. Raises RuntimeError if the descendants are not known."""
        if self._unlisted is not None:
            raise RuntimeError(f"the child processes cannot be listed: {self._unlisted}")
        with self._lock:
            # In this order a child that dies between the two is missed for a moment, and never counted twice.
            descendants = _waited_ns() + self._living_ns() + self._lost
            if descendants >= self._high:
                self._high, self._missing_since = descendants, None
            else:
                now = time.monotonic_ns()
                self._missing_since = self._missing_since or now
                if now - self._missing_since > self.LOST_NS:
                    self._lost += self._high - descendants
                    self._missing_since = None
            return time.process_time_ns() + self._high


def _waited_ns() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * NS)


class EstimateChannel:
    """CPU seconds times watts; status "estimated" always."""

    source, name, kind, own, poll_hz = ESTIMATE, CHANNEL, "cpu", False, 0.0

    def __init__(self, power: Watts, times: ProcessTimes) -> None:
        self.watts = power
        self.accumulator = Accumulator(times.read, power.central / NS)
        self.basis = f"CPU seconds x {power.central:.3g} W/core"
        self.detail = (
            f"{self.basis} ({power.low:.3g} to {power.high:.3g}; {power.origin}); nothing beyond CPU time"
        )

    def close(self) -> None:
        """Nothing is held open."""

    def value(self, a: Mark, b: Mark, start_ns: int, stop_ns: int) -> EnergyValue:
        """CPU seconds between the marks, times the watts and their bounds."""
        if b.faults > a.faults:
            return unavailable(ESTIMATE, CHANNEL, self.accumulator.fault, ("counter-fault",))
        cpu_s = (b.count - a.count) / NS
        low, central, high = (cpu_s * w for w in self.watts[:3])
        return EnergyValue(
            ESTIMATE, CHANNEL, "estimated", central, low, high, basis=self.basis, reason=self.detail
        )
