"""One accumulator per channel; a window is the difference of two of its marks.

Accumulators count in integers (µJ, mJ, ns, half-picojoules), so E[a,b] + E[b,c] = E[a,c] exactly, and
windows may nest and overlap at no cost. Every read, at a window's edge or by the sampler, advances the same
accumulator: a counter that wrapped is unwrapped by whoever reads it next, so no poll can come too late.

A sensor shows what it knew at its last update, and an edge of a window lies between two updates. What the
sensor held at the edge is therefore known only when the next update has been seen: until then a mark is
open, and reads that come later complete it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

NS = 1_000_000_000
WRAP_SLACK_NS = NS  # late kernel updates and scheduling may squeeze up to a second of energy into one read
PROMPT_NS = 2_000_000  # a read that takes no longer says when its value was true
LATE = 1.25  # after so many periods an update is late, and a counter that stands still is flagged ...
STOPPED, STOPPED_NS = 10, NS  # ... and has stopped after so many, if that is a second at least


class Point(NamedTuple):
    """An update of a counter: what it showed from then on, and about when that was."""

    ns: int
    count: int


@dataclass(slots=True)
class Mark:
    """The state of an accumulator at one instant; two of them make a window.

    ``count`` integrates energy in the channel's unit; ``spread`` bounds what sampling may have missed, in the
    same unit; ``faults`` counts what the window cannot account for; ``late_ns`` is the time between samples,
    or between two steps of a counter, that came late; ``power_w`` is the most power seen around the mark, or
    None if unknown. ``begun_ns`` and ``ended_ns`` enclose the read. ``settled`` says that later reads add
    nothing to it. ``slope`` is the sampled power, in counts a nanosecond.
    """

    count: int
    spread: int = 0
    faults: int = 0
    late_ns: int = 0
    power_w: float | None = None
    begun_ns: int = 0
    ended_ns: int = 0
    settled: bool = True
    slope: int = 0

    def at(self, ns: int) -> int:
        """The count at an instant close to the mark."""
        return self.count + self.slope * (ns - (self.begun_ns + self.ended_ns) // 2)


@dataclass(slots=True)
class CounterMark(Mark):
    """``edge_ns`` is when the work of the window begins, which is when all sensors have been read.

    ``shown`` is what the read before this one showed, and when it ended; ``points`` are the updates around
    the mark. Energy never falls, so at the edge it was not less than what a read before it showed
    (``least``), and not more than what the next update showed after it (``ceiling``), nor than what the
    device can draw in one update period and a half (``most``). While no update has been seen after the mark,
    ``drawn`` is believed to be all that came since its count.
    """

    edge_ns: int = 0
    shown: Point | None = None
    points: list[Point] = field(default_factory=list)
    ceiling: int | None = None
    hold_ns: int = 0
    stood: bool = False  # it fell into a time for which the counter stood still longer than it should
    full: float = 0.0  # counts in a nanosecond at the highest power that can be

    def least(self, ns: int) -> int:
        if ns >= self.ended_ns:
            return self.count
        least = self.count - int(self.full * (self.ended_ns - ns)) - 1
        return least if self.shown is None or ns < self.shown.ns else max(least, self.shown.count)

    def most(self, ns: int, drawn: int) -> int:
        if not self.settled:
            return self.count + drawn
        most = self.count + int(self.full * (max(ns - self.begun_ns, 0) + 1.5 * self.hold_ns)) + 1
        return most if self.ceiling is None else min(most, self.ceiling)

    def at(self, ns: int) -> int:
        """On the line between the updates around it; past the last one known, on the line before that."""
        if len(self.points) < 2:
            return self.count
        a, b = next((pair for pair in pairwise(self.points) if ns <= pair[1].ns), self.points[-2:])
        ns = min(ns, b.ns + self.hold_ns)
        return a.count + (b.count - a.count) * (ns - a.ns) // max(b.ns - a.ns, 1)


class Accumulator:
    """Adds up the steps of what ``read() -> int`` gives, in units of ``unit_j`` joules.

    A read that fails is a fault, and so is the next one that does not, because a window that begins there
    begins at a stale count.
    """

    bridges = True  # the next read holds what was counted while none could be made

    def __init__(self, read: Callable[[], int], unit_j: float, max_power_w: float = float("inf")) -> None:
        self.unit_j = unit_j
        self.max_power_w = max_power_w
        self.count = self.spread = self.faults = self.late_ns = 0
        self.fault = ""
        self.power_w: float | None = None
        self.peak_w = 0.0
        self._read = read
        self._last: int | None = None
        self._first_ns: int | None = None
        self._begun_ns = self._ended_ns = 0  # of the last read that succeeded
        self._blind = False  # the last read failed
        self._open: list[Mark] = []
        self.reads = self.changes = 0
        self._first_change_ns = self._changed_ns = 0

    def advance(self, now_ns: int, clock: Callable[[], int] | None = None) -> None:
        """Read at ``now_ns``; ``clock`` tells when the read ended, for it may take long."""
        try:
            value = self._value()
        except Exception as error:  # a sensor may fail in ways of its own; the run it watches goes on
            self._blame(f"a read failed ({type(error).__name__}: {error})")
            self._blind = True
            if not self.bridges:
                self._last = self.power_w = None
            return
        ended_ns = now_ns if clock is None else clock()
        self.faults += self._blind
        self.reads, self._blind = self.reads + 1, False
        if self._first_ns is None:
            self._first_ns = ended_ns
        if self._last is not None and value != self._last:
            self.changes += 1
            self._changed_ns = ended_ns
            self._first_change_ns = self._first_change_ns or ended_ns
        self._take(value, now_ns, ended_ns)
        self._last, self._begun_ns, self._ended_ns = value, now_ns, ended_ns

    def tick(self, now_ns: int) -> None:
        """Called by the sampler after ``advance``."""

    def _value(self) -> int:
        return int(self._read())

    def _take(self, value: int, begun_ns: int, ended_ns: int) -> None:
        self.count += 0 if self._last is None else value - self._last

    def _blame(self, fault: str) -> None:
        self.faults += 1
        self.fault = fault

    @property
    def period_s(self) -> float | None:
        """The mean time between two updates so far; None if there were few, or too few reads to see all."""
        if self.changes < 3 or self.reads < 1.5 * self.changes:
            return None
        return (self._changed_ns - self._first_change_ns) / (self.changes - 1) / NS

    @property
    def age_s(self) -> float:
        """Seconds from the first read to the last."""
        return 0.0 if self._first_ns is None else (self._ended_ns - self._first_ns) / NS

    def mark(self, edge_ns: int = 0) -> Mark:
        """The state after the last read; ``edge_ns`` is the end of the snapshot that it belongs to."""
        return self._mark(Mark)

    def _mark(self, kind: type[Mark], **more: Any) -> Mark:
        so_far = self.count, self.spread, self.faults, self.late_ns, self.power_w
        mark = kind(*so_far, self._begun_ns, self._ended_ns, **more)
        if not mark.settled:
            self._open.append(mark)
        return mark


class Counter(Accumulator):
    """Unwraps an energy counter that only goes up.

    ``modulus`` is the number of raw values before it wraps to 0, or None if that is unknown; then a backwards
    step is a fault and not a wrap. ``max_power_w`` is more than the device can draw: a step beyond it is a
    fault, whether the counter leapt or was reset and seems to have wrapped, and so is an interval long enough
    to go all the way round. The counter stands still for up to ``hold_ns``, and then steps; one that stands
    still for many times the longest time between two steps that was seen has stopped, which is a fault.
    """

    def __init__(
        self,
        read: Callable[[], int],
        unit_j: float,
        modulus: int | None = None,
        max_power_w: float = 1000.0,
        hold_ns: int = 0,
    ) -> None:
        super().__init__(read, unit_j, max_power_w)
        self.hold_ns = hold_ns
        self.updates = 0  # seen since the last fault
        self._modulus = modulus
        self._full = max_power_w / NS / unit_j  # counts in a nanosecond
        self._longest_ns = hold_ns
        self._shown: Point | None = None
        self._seen_ns = 0  # when what it shows was first read
        self._points: list[Point] = []  # the last two updates
        self._tick: tuple[int, int] | None = None  # (ns, count) at the sampler's last visit

    def _take(self, value: int, begun_ns: int, ended_ns: int) -> None:
        if self._last is None:
            return self._restart(ended_ns)
        self._shown = Point(self._ended_ns, self.count)
        step, elapsed_ns = value - self._last, ended_ns - self._begun_ns
        if step < 0 and self._modulus is not None:
            step += self._modulus
        if self._modulus and self._full * elapsed_ns >= self._modulus:
            self._blame("the counter was not read for so long that it may have wrapped more than once")
        if not 0 <= step <= self._full * (elapsed_ns + self.hold_ns + WRAP_SLACK_NS):
            if value >= self._last:
                leap = f"{step * self.unit_j:.6g} J in {elapsed_ns / NS:.3g} s"
                self._blame(f"the counter leapt by {leap}; more than {self.max_power_w:.4g} W cannot be")
            elif self._modulus is None:
                self._blame("the counter went backwards (driver reload?)")
            else:
                self._blame("the counter went backwards by more than a wrap explains (reset?)")
            return self._restart(ended_ns)
        stood_ns = self._begun_ns - self._seen_ns  # at least
        if self.updates and stood_ns > LATE * self._longest_ns:
            for mark in self._open:
                mark.stood = True
            self.late_ns += stood_ns if step else 0
        if self.updates > 2 and stood_ns > max(STOPPED * self._longest_ns, STOPPED_NS):
            self._blame(f"the counter stood still for {stood_ns / NS:.3g} s, though it had moved before")
        elif step and self.updates:
            self._longest_ns = max(self._longest_ns, stood_ns)
        if step:
            self._update(step, begun_ns, ended_ns)

    def _restart(self, ns: int) -> None:
        """What it shows has nothing to do with what it showed before."""
        self._shown = None
        self._points = [Point(ns - self.hold_ns // 2, self.count)]
        self._seen_ns, self.updates = ns, 0
        for mark in self._open:
            mark.settled = True
        self._open = []

    def _update(self, step: int, begun_ns: int, ended_ns: int) -> None:
        """It stepped after the last read had begun, and not earlier than ``hold_ns`` before this one."""
        self.count += step
        self.updates += 1
        ns = (max(self._begun_ns, begun_ns - self.hold_ns) + ended_ns) // 2
        point = Point(max(ns, self._points[-1].ns + 1), self.count)
        self._points, self._seen_ns = [self._points[-1], point], ended_ns
        for mark in self._open:
            mark.points.append(point)
            early_ns = max(0, mark.edge_ns - self._begun_ns)
            if early_ns <= PROMPT_NS:
                mark.ceiling = self.count + int(self._full * early_ns)
                mark.settled = True
        self._open = [mark for mark in self._open if not mark.settled]

    def tick(self, now_ns: int) -> None:
        """Keeps the mean power since the sampler's last visit, or over ``hold_ns`` if that is longer."""
        if self._tick is not None:
            if now_ns - self._tick[0] < max(self.hold_ns, 1):
                return
            self.power_w = (self.count - self._tick[1]) * self.unit_j * NS / (now_ns - self._tick[0])
            self.peak_w = max(self.peak_w, self.power_w)
        self._tick = (now_ns, self.count)

    def mark(self, edge_ns: int = 0) -> Mark:
        return self._mark(
            CounterMark,
            settled=not self._points or self._blind,
            edge_ns=edge_ns,
            shown=self._shown,
            points=list(self._points),
            hold_ns=self._longest_ns,  # as measured, where that is longer than what was assumed
            full=self._full,
        )


class Trapezoid(Accumulator):
    """Integrates sampled power, in milliwatts, to energy.

    Between samples p_k at t_k:  E = Σ (p_k + p_{k+1})/2 · (t_{k+1} - t_k). In mW and ns the sum is an
    integer number of half-picojoules. While power is monotone between two samples the trapezoid is off by
    at most |p_{k+1} - p_k|/2 · (t_{k+1} - t_k); ``spread`` adds these bounds up. A sensor that holds each
    value for ``hold_ns``, longer than from one sample to the next, has moved within that time. A spike
    between two samples escapes both; between two that are further apart than ``gap_ns`` power may have been
    the least or the most that was ever seen. A sample of more than ``max_power_w`` is a fault, like a read
    that fails; nothing is interpolated across the hole.
    """

    bridges = False
    unit_j = 0.5e-12

    def __init__(
        self,
        read_mw: Callable[[], int],
        gap_ns: int | None = None,
        max_power_w: float = 3000.0,
        hold_ns: int = 0,
    ) -> None:
        super().__init__(read_mw, self.unit_j, max_power_w)
        self._gap_ns = gap_ns
        self.hold_ns = hold_ns
        self._least_w = max_power_w
        self._edge_w = 0.0  # the highest of the last two samples

    def _value(self) -> int:
        power = int(self._read())
        if not 0 <= power <= self.max_power_w * 1e3:
            raise ValueError(f"it showed {power / 1e3:.6g} W; more than {self.max_power_w:.4g} W cannot be")
        return power

    def _take(self, value: int, begun_ns: int, ended_ns: int) -> None:
        before_w, self.power_w = self.power_w, value / 1e3
        self._edge_w = max(before_w or 0.0, self.power_w)
        self.peak_w, self._least_w = max(self.peak_w, self.power_w), min(self._least_w, self.power_w)
        for mark in self._open:
            mark.power_w = max(mark.power_w, self.power_w)
            mark.settled = begun_ns >= mark.ended_ns + self.hold_ns
        self._open = [mark for mark in self._open if not mark.settled]
        if self._last is None:
            return
        middle = (self._begun_ns + self._ended_ns) // 2
        elapsed_ns = (begun_ns + ended_ns) // 2 - middle
        self.count += (value + self._last) * elapsed_ns
        range_mw = abs(value - self._last)
        if self._gap_ns is not None and elapsed_ns > self._gap_ns:
            self.late_ns += elapsed_ns
            range_mw = round(1e3 * (self.peak_w - self._least_w))
        self.spread += range_mw * max(elapsed_ns, int(LATE * self.hold_ns) + ended_ns - begun_ns)

    def mark(self, edge_ns: int = 0) -> Mark:
        mark = self._mark(Mark, settled=self.power_w is None, slope=2 * (self._last or 0))
        mark.power_w = None if self.power_w is None else self._edge_w
        return mark
