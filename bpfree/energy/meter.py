"""The meter: it finds the sources, takes snapshots at the edges of windows, and runs one sampling thread."""

from __future__ import annotations

import difflib
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from . import carbon, cuda, estimate, nvml, rapl
from .accumulator import NS, Mark
from .channel import Found
from .crosscheck import Tracker
from .reading import Reading, billed, unavailable
from .source import Source, open_source
from .watch import Contention, GpuUse, Watch, contended

if TYPE_CHECKING:
    import pandas

# In order of trust: of two sources that measure one channel the first is billed, the second is a cross-check.
SOURCES = (nvml.COUNTER, nvml.POWER, rapl.RAPL, estimate.ESTIMATE)
MAX_HZ = 100.0
FIRST_VISIT_S = 0.02  # the sampler's first visit waits until start() is long over
SETTLE_S = 0.3  # how long the end of a meter waits for the sensors' next update


class Snapshot(NamedTuple):
    """All accumulators at one edge. ``in_ns`` and ``out_ns`` enclose the time the meter took for it."""

    in_ns: int
    out_ns: int
    marks: tuple[Mark, ...]
    contention: Contention
    overhead_ns: int


class Window:
    """A named stretch of a meter's time; a context manager. Windows may nest and overlap."""

    def __init__(self, meter: EnergyMeter, name: str) -> None:
        self._meter = meter
        self.name = name
        self._start: Snapshot | None = None
        self._stop: Snapshot | None = None
        self._reading: Reading | None = None

    def __enter__(self) -> Window:
        self._start = self._meter._snapshot(synchronise=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop = self._meter._snapshot(synchronise=True, failing=kind is not None)

    @property
    def reading(self) -> Reading:
        """The window's energy: final once ``settled``; while open, so far and without waiting for CUDA."""
        start = self._entered()
        if self._reading is not None:
            return self._reading
        final = self.settled
        stop = self._stop or self._meter._snapshot(synchronise=False)
        reading = self._meter._read(self.name, start, stop)
        if final:
            self._reading = reading
        return reading

    @property
    def settled(self) -> bool:
        """Is the window closed, and did every sensor show an update after it? Then its reading is final."""
        if self._stop is None or self._meter._ended:
            return self._stop is not None
        return all(mark.settled for edge in (self._start, self._stop) for mark in edge.marks)

    def settle(self) -> Reading:
        """The closed window's final reading: waits for the sensors' next update, ``SETTLE_S`` at most."""
        if self._stop is not None:
            self._meter._settle(self._entered(), self._stop)
        return self.reading

    @property
    def trace(self) -> pandas.DataFrame:
        """The meter's samples inside this window, with times from its beginning.

        Tidy: time_s, channel, quantity, value, unit. Raises RuntimeError if the meter records no trace.
        """
        return self._meter._watch.frame(self._entered().out_ns, self._stop and self._stop.in_ns)

    def _entered(self) -> Snapshot:
        if self._start is None:
            whole = self is self._meter
            what = "This meter was not started" if whole else f"Window {self.name!r} was not entered"
            raise RuntimeError(f"{what}: use it in a with statement")
        return self._start


class EnergyMeter(Window):
    """Measures energy per source over windows, of which it is itself the outermost: the whole run.

        with EnergyMeter(country="POL") as meter:
            with meter.window("epoch 1") as epoch:
                ...
        print(meter.reading, epoch.reading.provenance)

    Args:
        country: ISO 3166-1 alpha-3 code of the grid, for gCO2e; None for no carbon.
        sources: which of ``SOURCES`` to use, and sources of your own (see :class:`Source`); None for all of
            ``SOURCES``. One that is missing is reported as unavailable.
        gpus: NVML indices (nvidia-smi's) or UUIDs; None for the visible GPUs that this process uses, and
            "visible" for all of them, used or not.
        idle_w: idle baseline for net energy: watts of the measured total, watts per channel, or a Reading
            taken while idle (see :func:`measure_idle`).
        watts_per_core: for ``estimate``: one number or (low, central, high); None for the documented default.
        hz: samples per second, 0 for none (then sampled power is known at window edges only). Sensors that
            update no more than ten times a second are read twice an update in any case.
        crosscheck: "codecarbon" runs its offline tracker over the same window (see ``crosscheck``).
        trace: record power, utilisation, clock, temperature and memory at every sample.
        name: of the meter's own window.
        sysfs: root of the system's file system, below which RAPL's files lie.

    Raises ValueError for an unknown country, source, GPU, rate or wattage, and ModuleNotFoundError for a
    country without CodeCarbon. A meter is used once.
    """

    def __init__(
        self,
        *,
        country: str | None = None,
        sources: Sequence[str | Source] | None = None,
        gpus: Sequence[int | str] | Literal["visible"] | None = None,
        idle_w: float | Mapping[str, float] | Reading | None = None,
        watts_per_core: float | Sequence[float] | None = None,
        hz: float = 5.0,
        trace: bool = False,
        crosscheck: str | None = None,
        name: str = "",
        sysfs: str | Path = rapl.SYSFS,
        _clock: Callable[[], int] = time.perf_counter_ns,
        _sleep: Callable[[float], object] = time.sleep,
        _at_rest: bool = False,
    ) -> None:
        if isinstance(hz, bool) or not isinstance(hz, Real) or not 0 <= hz <= MAX_HZ:
            raise ValueError(f"hz={hz!r}: give samples per second from 0 (none) to {MAX_HZ:g}")
        if trace and not hz:
            raise ValueError("trace=True with hz=0: a trace needs samples, give hz above 0")
        if country is not None:
            carbon.grid(country)  # a typo should fail before the run, not after it
        self._tracker = None if crosscheck is None else Tracker(crosscheck, country)
        super().__init__(self, name)
        self.country = country
        self.hz = hz
        own, known = _sorted_out(sources)
        self._clock, self._sleep = _clock, _sleep
        self._idle_w, self._idle = _baseline(idle_w)  # of the measured total, and by channel
        self._lock = threading.Lock()
        self._overhead_ns = 0
        power = estimate.watts(watts_per_core)  # whatever can be wrong is judged before anything is opened
        found = Found([open_source(source, hz) for source in own])
        self.sources = (*(channel.source for channel in found.channels), *known)  # in order of trust
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources={', '.join(self.sources)}: give each a name of its own")
        wanted = [s for s in (nvml.COUNTER, nvml.POWER) if s in known]
        if gpus is not None and not wanted:
            raise ValueError(f"gpus={gpus!r} without an NVML source: add one of {nvml.COUNTER}, {nvml.POWER}")
        self._times = estimate.ProcessTimes()
        session, devices = nvml.open_gpus(found, wanted, gpus, hz) if wanted else (None, [])
        if rapl.RAPL in known:
            rapl.open_zones(found, Path(sysfs))
        if estimate.ESTIMATE in known:
            found.channels.append(estimate.EstimateChannel(power, self._times))
        self._channels, self._missing = found.channels, found.missing
        self.ignored = found.ignored  # counters left out on purpose, and why
        self._use = GpuUse(session, devices, gpus is not None)
        self._watch = Watch(self._times, self._use, self._channels, trace, _at_rest)
        self._polled = [c for c in self._channels if c.poll_hz > hz]
        self._poll_hz = max([hz, *(c.poll_hz for c in self._polled)])
        self._ended = False
        self._stuck: dict[int, int] = {}  # by channel: how often it had moved when it was waited for in vain
        self._end = threading.Event()
        self._sampler_died_ns: int | None = None
        self._thread: threading.Thread | None = None
        self._close = weakref.finalize(self, _close_all, self._channels, session)

    # ---------------------------------------------------------------- life

    def start(self) -> EnergyMeter:
        """Begin. Raises RuntimeError if the meter was started before."""
        return self.__enter__()

    def stop(self) -> Reading:
        """End, release the sensors, and return the reading. A second call returns the same."""
        self.__exit__(None)
        return self.reading

    def __enter__(self) -> EnergyMeter:
        if self._start is not None:
            raise RuntimeError("This meter was already started: make a new EnergyMeter for another one")
        if self._tracker is not None:
            self._tracker.start()
        self._times.refresh()
        super().__enter__()
        if self.hz:
            self._thread = threading.Thread(target=self._run, name="energy-sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        start = self._entered()
        if self._stop is not None:
            return
        if self._thread is not None and self._watch.tracing and not self._watch.rows:
            self._end.set()  # over before the sampler's first visit: a trace has one sample at least
            self._thread.join()
            if not self._watch.rows:
                with suppress(Exception):  # as in the sampler: what is metered goes on
                    self._sample()
        try:
            super().__exit__(kind)
        finally:  # if CUDA fails at the edge, the sensors are released all the same
            if self._stop is None:
                super().__exit__(RuntimeError)
            self._settle(start, self._stop)
            self._ended = True
            if self._tracker is not None:
                self._tracker.stop()
            self._end.set()
            if self._thread is not None:
                self._thread.join()
            # A thread that is freed runs a callback. In a garbage collection that is where a Ctrl-C would be
            # raised, and lost.
            self._thread = None
            self._close()

    # ---------------------------------------------------------------- results

    def window(self, name: str = "") -> Window:
        """A window of this meter, for a with statement. One still open when the meter stops ends there.

        Raises RuntimeError unless the meter runs.
        """
        if self._start is None or self._stop is not None:
            state = "was not started" if self._stop is None else "has stopped"
            raise RuntimeError(f"This meter {state}: open window {name!r} between start and stop")
        return Window(self, name)

    @property
    def crosscheck(self) -> pandas.DataFrame | None:
        """Another tracker's bill of the whole run beside this one's; None until the meter has stopped.

        Raises RuntimeError if the meter was made without ``crosscheck=``, or if the tracker failed.
        """
        if self._tracker is None:
            raise RuntimeError("Nothing was cross-checked: make the meter with crosscheck='codecarbon'")
        return self._tracker.against(self.reading)

    def gauges(self) -> dict[str, tuple[float, float]]:
        """Temperature (°C) and SM clock (MHz) now of every GPU that is measured; NaN where unsupported."""
        ours = [device for device in self._use.devices if self._use.exclusion(device.channel) is None]
        shown = {device.channel: device.gauges() for device in ours}
        return {channel: (celsius, clock) for channel, (_, clock, celsius, _) in shown.items()}

    @property
    def selftest(self) -> dict[str, dict]:
        """What the sensors did so far, by source and channel: "nvml-counter gpu:0".

        ``assumed_s`` between two updates and ``period_s`` as seen, None where reads were too few to tell;
        ``watts`` on average; ``faults``; ``agreement``: a counter's watts over those that the same device's
        power shows, where it does. JSON-serialisable.
        """
        sensors = [channel for channel in self._channels if channel.source != estimate.ESTIMATE]
        tests = {f"{channel.source} {channel.name}": channel.selftest() for channel in sensors}
        for channel, test in zip(sensors, tests.values(), strict=True):
            power = tests.get(f"{nvml.POWER} {channel.name}", {})
            if channel.source == nvml.COUNTER and power.get("watts") and test["watts"] is not None:
                test["agreement"] = round(test["watts"] / power["watts"], 4)
        return tests

    # ---------------------------------------------------------------- edges and samples

    def _snapshot(self, synchronise: bool, failing: bool = False) -> Snapshot:
        if self._stop is not None:
            return self._stop
        begun = self._clock()
        if synchronise:
            # The wait for queued kernels belongs to the window that queued them, and is no overhead of the
            # meter.
            with suppress(Exception) if failing else nullcontext():
                cuda.synchronise()
            begun = self._clock()
        with self._lock:
            self._advance(self._channels)
            contention = self._watch.contention()
            with suppress(Exception):  # torch's or NVML's; what it would have shown is then not known
                self._use.look()
            ended = self._clock()
            self._overhead_ns += ended - begun
            marks = tuple(channel.accumulator.mark(ended) for channel in self._channels)
            return Snapshot(begun, ended, marks, contention, self._overhead_ns)

    def _advance(self, channels: Sequence, tick: bool = False) -> None:
        for channel in channels:
            now = self._clock()
            channel.accumulator.advance(now, self._clock)
            if tick:
                channel.accumulator.tick(now)

    def _sample(self, visit: bool = True) -> None:
        """One visit of the sampler; or between two, a read of the sensors that must be read more often."""
        began = time.thread_time_ns()
        with self._lock:
            self._advance(self._channels if visit else self._polled, tick=visit)
        if visit:
            self._watch.visit(self._clock())
        with self._lock:
            self._overhead_ns += time.thread_time_ns() - began

    def _settle(self, *edges: Snapshot) -> None:
        """Read on until every sensor has shown an update after these edges, or ``SETTLE_S`` has passed.

        A sensor that was waited for in vain is not waited for again before it has moved, nor is one that has
        never moved for longer than ten of its periods.
        """
        until, pause_s = self._clock() + SETTLE_S * NS, 1e-3

        def awaited() -> dict[int, int]:
            late = [i for i in range(len(self._channels)) if not all(edge.marks[i].settled for edge in edges)]
            sensors = [(i, self._channels[i].accumulator, self._channels[i].period_s) for i in late]
            moved = [(i, s.changes) for i, s, period_s in sensors if s.count or s.age_s < 10 * period_s]
            return {i: changes for i, changes in moved if self._stuck.get(i) != changes}

        while (late := awaited()) and not self._ended:
            if self._clock() >= until:
                self._stuck |= late
                return
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, 0.016)
            with self._lock:
                self._advance(self._channels)

    def _follow(self, seconds: float) -> None:
        """For so long, read all sensors a thousand times a second."""
        until = self._clock() + seconds * NS
        while self._clock() < until:
            with self._lock:
                self._advance(self._channels)
            self._sleep(1e-3)

    def _run(self) -> None:
        period = 1 / self._poll_hz
        visit = due = time.monotonic() + min(1 / self.hz, FIRST_VISIT_S)
        while not self._end.wait(due - time.monotonic()):
            try:
                visiting = time.monotonic() >= visit
                self._sample(visiting)
                if visiting:
                    visit = max(visit + 1 / self.hz, time.monotonic())
            except Exception:  # the run being metered goes on; its readings say that sampling ended
                self._sampler_died_ns = self._clock()
                return
            due = max(due + period, time.monotonic())  # after a stall: go on, do not catch up

    def _read(self, name: str, a: Snapshot, b: Snapshot) -> Reading:
        elapsed_ns = b.in_ns - a.out_ns
        seconds = max(elapsed_ns, 0) / NS
        values = list(self._missing)
        for channel, begun, ended in zip(self._channels, a.marks, b.marks, strict=True):
            value = channel.value(begun, ended, a.out_ns, b.in_ns)
            flags = list(value.flags)
            if channel.kind.startswith("gpu:") and not channel.own:
                excluded = self._use.exclusion(channel.kind)
                if excluded is not None:
                    values.append(unavailable(channel.source, channel.name, excluded))
                    continue
                flags += self._use.flags(channel.kind)
            if contended(channel.kind, a.contention, b.contention, elapsed_ns):
                flags.append("contention")
            if self._sampler_died_ns is not None and b.in_ns > self._sampler_died_ns:
                flags.append("sampler-stopped")
            net = None
            if value.status == "measured" and channel.name in self._idle:
                net = value.joules - self._idle[channel.name] * seconds
            values.append(replace(value, flags=tuple(flags), net_joules=net))
        overhead_s = (b.overhead_ns - a.overhead_ns) / NS
        return Reading(name, seconds, billed(values, self.sources), self.country, overhead_s, self._idle_w)


def _close_all(channels: Sequence, session: nvml.Nvml | None) -> None:
    for channel in channels:
        with suppress(Exception):  # the others are closed all the same
            channel.close()
    if session is not None:
        session.close()


def _sorted_out(sources: Sequence[str | Source] | None) -> tuple[list[Source], tuple[str, ...]]:
    """The user's own sources, and which of ``SOURCES`` are to be used, in their order."""
    given = list(SOURCES) if sources is None else [sources] if isinstance(sources, str) else list(sources)
    if not given:
        raise ValueError(f"sources={sources!r} names none: choose from {', '.join(SOURCES)}")
    for source in given:
        if isinstance(source, str) and source not in SOURCES:
            near = difflib.get_close_matches(source, SOURCES, 1, 0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown energy source {source!r}: choose from {', '.join(SOURCES)}{hint}")
    return [s for s in given if not isinstance(s, str)], tuple(s for s in SOURCES if s in given)


def _baseline(idle: float | Mapping[str, float] | Reading | None) -> tuple[float | None, dict[str, float]]:
    if idle is None or isinstance(idle, Reading):
        return None, dict(idle.watts) if idle is not None else {}
    by_channel = dict(idle) if isinstance(idle, Mapping) else {}
    for watts in by_channel.values() if isinstance(idle, Mapping) else [idle]:
        if isinstance(watts, bool) or not isinstance(watts, Real) or not 0 <= watts < math.inf:
            raise ValueError(
                f"idle_w={idle!r}: give watts from 0 upwards, a mapping of channel to watts, or a Reading"
            )
    return None if isinstance(idle, Mapping) else idle, by_channel
