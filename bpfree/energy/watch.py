"""What the sampler looks at besides energy: who else is working, which GPUs are ours, and the traces."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil

from . import cuda
from .accumulator import NS
from .nvml import GPU_QUANTITIES

if TYPE_CHECKING:
    import pandas

    from .channel import SensorChannel
    from .estimate import ProcessTimes
    from .nvml import Device, Nvml

FOREIGN_CORES = 0.5  # foreign CPU load counts as heavy from half a core ...
FOREIGN_SHARE = 0.1  # ... and a tenth of the machine
PROCESS_LIST_NS = NS  # how often to ask NVML for process lists


Contention = tuple[int, dict[str, int], dict[str, bool]]  # visits so far; others' ns by device; used now?


def contended(kind: str, a: Contention, b: Contention, elapsed_ns: int) -> bool:
    """Did others use ``kind`` for a tenth of the window? Between two visits the last one decides."""
    if a[0] == b[0]:
        return b[2].get(kind, False)
    return b[1].get(kind, 0) - a[1].get(kind, 0) >= 0.1 * elapsed_ns > 0


class GpuUse:
    """Which of the visible GPUs this process or its children use.

    Evidence is memory that torch holds there, or one of our process ids in NVML's list. A device once seen
    in use stays so. Where there is no evidence at all and torch is not in this process, every visible
    device counts and says that its use is unverified (in containers NVML often hides process ids).
    """

    def __init__(self, nvml: Nvml | None, devices: Sequence[Device], named: bool) -> None:
        self._nvml = nvml
        self.devices = list(devices)
        self.named = named  # the user named the devices: no evidence needed
        self.known: set[str] = set()

    def look(self) -> None:
        """The cheap look, at window edges: what does torch hold?"""
        if self._nvml is not None and len(self.known) < len(self.devices):
            used = [self._nvml.resolve(uuid) for uuid in cuda.used_uuids()]
            self.known |= {device.channel for device in used if device is not None}

    def ask(self, ours: set[int]) -> dict[str, bool]:
        """The expensive look, once a second: NVML's process lists. Returns which devices others use."""
        foreign = {}
        for device in self.devices:
            pids = device.processes()
            if pids is None:
                continue
            seen = ours & set(pids)
            self.known |= {device.channel} if seen else set()
            # In a container our own process shows under a foreign id: then one of the others is us.
            hidden = device.channel in self.known and not seen
            foreign[device.channel] = len(set(pids) - ours) > hidden
        return foreign

    def exclusion(self, channel: str) -> str | None:
        """Why the device does not belong into a reading, or None if it does."""
        if self.named or channel in self.known:
            return None
        if self.known:
            return "not in use by this process"
        if cuda.torch_loaded():
            return "not in use: torch holds no memory on it (name it with gpus=... to count it all the same)"
        return None

    def flags(self, channel: str) -> tuple[str, ...]:
        return () if self.named or channel in self.known else ("use-unverified",)


class Watch:
    """The sampler's eyes.

    at_rest: whether nobody is to work, this process included: any load is then somebody else's, half a core
        or a tenth of a GPU's time.
    """

    def __init__(
        self,
        times: ProcessTimes,
        use: GpuUse,
        channels: Sequence[SensorChannel],
        trace: bool,
        at_rest: bool = False,
    ) -> None:
        self.use = use
        self._times = times
        self._visits = 0
        self._contended: dict[str, bool] = {}  # by "cpu" or a GPU's channel: do others use it now?
        self._contended_ns: dict[str, int] = defaultdict(int)  # for how long did they so far?
        self._last: tuple[int, float, int] | None = None  # (ns, busy CPU seconds of the machine, our CPU ns)
        self._asked_ns = -math.inf
        self._foreign_gpu: dict[str, bool] = {}
        self._at_rest = at_rest
        self.tracing = trace
        self.rows: list[tuple[float, ...]] = []
        self._powers = [c for c in channels if c.own or c.source in ("nvml-power", "rapl")]
        names = [f"{c.name} ({c.source})" if c.own else c.name for c in self._powers]
        self.columns = [(name, "power", "W") for name in names]
        self.columns += [(d.channel, q, u) for d in use.devices for q, u in GPU_QUANTITIES]
        self.columns += [("cpu:process", "utilisation", "%"), ("cpu:process", "rss", "B")]

    def contention(self) -> Contention:
        """How long others used each device, added up over the visits."""
        return self._visits, dict(self._contended_ns), dict(self._contended)

    def visit(self, now_ns: int) -> None:
        """One look, after the channels were advanced at ``now_ns``."""
        self._times.refresh()
        cpu = psutil.cpu_times()
        busy_s = sum(getattr(cpu, kind, 0) for kind in ("user", "system", "nice", "irq", "softirq"))
        own_ns = self._times.read()
        own_cores = math.nan  # of the first visit: a share of no time
        if self._last is not None and now_ns > self._last[0]:
            elapsed_ns = now_ns - self._last[0]
            own_cores = (own_ns - self._last[2]) / elapsed_ns
            busy = (busy_s - self._last[1]) * NS / elapsed_ns
            allowed = max(FOREIGN_CORES, FOREIGN_SHARE * (psutil.cpu_count() or 1))
            heavy = busy > FOREIGN_CORES if self._at_rest else busy - own_cores > allowed
            now = {"cpu": heavy}
            for device in self.use.devices:
                used = self._foreign_gpu.get(device.channel, False)
                busy_gpu = self._at_rest and device.gauges()[0] > 100 * FOREIGN_SHARE
                now[device.channel] = used or busy_gpu
            for kind, others in now.items():
                self._contended_ns[kind] += elapsed_ns * others
            self._contended = now
        self._last = (now_ns, busy_s, own_ns)
        if now_ns - self._asked_ns >= PROCESS_LIST_NS:
            self._asked_ns = now_ns
            self._foreign_gpu = self.use.ask(self._times.pids)
            self._contended = self._contended | self._foreign_gpu
        self._visits += 1
        if self.tracing:
            self._record(now_ns, own_cores)

    def _record(self, now_ns: int, own_cores: float) -> None:
        powers = [c.accumulator.power_w for c in self._powers]
        row = [math.nan if p is None else p for p in powers]
        for device in self.use.devices:
            row += device.gauges()
        try:
            rss = psutil.Process().memory_info().rss
        except psutil.Error:
            rss = math.nan
        self.rows.append((now_ns, *row, 100 * own_cores, rss))

    def frame(self, start_ns: int, stop_ns: int | None = None) -> pandas.DataFrame:
        """The samples between two instants, tidy; ``time_s`` counts from ``start_ns``."""
        if not self.tracing:
            raise RuntimeError("Nothing was traced: make the meter with EnergyMeter(trace=True)")
        import pandas

        rows = [r for r in list(self.rows) if start_ns <= r[0] and (stop_ns is None or r[0] <= stop_ns)]
        tidy = [
            ((row[0] - start_ns) / NS, channel, quantity, value, unit)
            for row in rows
            for (channel, quantity, unit), value in zip(self.columns, row[1:], strict=True)
        ]
        return pandas.DataFrame(tidy, columns=["time_s", "channel", "quantity", "value", "unit"])
