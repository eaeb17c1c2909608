"""One accumulator per channel; a window is the difference of two of its marks.

Accumulators count in integers (µJ, mJ, ns, half-picojoules), so E[a,b] + E[b,c] = E[a,c] exactly, and
windows may nest and overlap at no cost. Every read, at a window's edge or by the sampler, advances the same
accumulator: a counter that wrapped is unwrapped by whoever reads it next, so no poll can come too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

NS = 1_000_000_000
WRAP_SLACK_NS = NS  # late kernel updates and scheduling may squeeze up to a second of energy into one read


class Mark(NamedTuple):
    """The state of an accumulator at one instant; two of them make a window.

    ``count`` integrates energy in the channel's unit; ``spread`` bounds what sampling may have missed, in the
    same unit; ``faults`` counts what the window cannot account for; ``gaps`` counts late samples;
    ``power_w`` is the power near the mark, or None if unknown.
    """

    count: int
    spread: int = 0
    faults: int = 0
    gaps: int = 0
    power_w: float | None = None


class Accumulator:
    """Adds up the steps of what ``read() -> int`` gives, in units of ``unit_j`` joules.

    A read that fails is a fault, and so is the next one that does not, because a window that begins there
    begins at a stale count.
    """

    bridges = True  # the next read holds what was counted while none could be made

    def __init__(self, read: Callable[[], int], unit_j: float, max_power_w: float = float("inf")) -> None:
        self.unit_j = unit_j
        self.max_power_w = max_power_w
        self.count = self.spread = self.faults = self.gaps = 0
        self.fault = ""
        self.power_w: float | None = None
        self.peak_w = 0.0
        self._read = read
        self._last: int | None = None
        self._first_ns: int | None = None
        self._last_ns = 0
        self._blind = False  # the last read failed

    def advance(self, now_ns: int) -> Mark:
        """Read at ``now_ns`` and return the new mark."""
        try:
            value = self._value()
        except Exception as error:  # a sensor may fail in ways of its own; the run it watches goes on
            self._blame(f"a read failed ({type(error).__name__}: {error})")
            self._blind = True
            if not self.bridges:
                self._last = self.power_w = None
            return self.mark()
        self.faults += self._blind
        self._blind = False
        if self._last is not None:
            self._step(value, now_ns - self._last_ns)
        if self._first_ns is None:
            self._first_ns = now_ns
        self._last, self._last_ns = value, now_ns
        return self.mark()

    def tick(self, now_ns: int) -> None:
        """Called by the sampler after ``advance``."""

    def _value(self) -> int:
        return int(self._read())

    def _step(self, value: int, elapsed_ns: int) -> None:
        self.count += value - self._last

    def _blame(self, fault: str) -> None:
        self.faults += 1
        self.fault = fault

    @property
    def age_s(self) -> float:
        """Seconds from the first read to the last."""
        return 0.0 if self._first_ns is None else (self._last_ns - self._first_ns) / NS

    def mark(self) -> Mark:
        return Mark(self.count, self.spread, self.faults, self.gaps, self.power_w)


class Counter(Accumulator):
    """Unwraps an energy counter that only goes up.

    ``modulus`` is the number of raw values before it wraps to 0, or None if that is unknown; then a backwards
    step is a fault and not a wrap. ``max_power_w`` is more than the device can draw: a step beyond it is a
    fault, whether the counter leapt or was reset and seems to have wrapped, and so is an interval long enough
    to go all the way round. The counter stands still for up to ``hold_ns``, and then steps.
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
        self._modulus = modulus
        self._hold_ns = hold_ns
        self._tick: tuple[int, int] | None = None  # (ns, count) at the sampler's last visit

    def _step(self, value: int, elapsed_ns: int) -> None:
        step = value - self._last
        if step < 0 and self._modulus is not None:
            step += self._modulus
        most = self.max_power_w / NS / self.unit_j  # counts in a nanosecond
        if not 0 <= step <= most * (elapsed_ns + self._hold_ns + WRAP_SLACK_NS):
            if value >= self._last:
                leap = f"{step * self.unit_j:.6g} J in {elapsed_ns / NS:.3g} s"
                self._blame(f"the counter leapt by {leap}; more than {self.max_power_w:.4g} W cannot be")
            elif self._modulus is None:
                self._blame("the counter went backwards (driver reload?)")
            else:
                self._blame("the counter went backwards by more than a wrap explains (reset?)")
            step = 0
        if self._modulus and most * elapsed_ns >= self._modulus:
            self._blame("the counter was not read for so long that it may have wrapped more than once")
        self.count += step

    def tick(self, now_ns: int) -> None:
        """Keeps the mean power since the sampler's last visit, or over ``hold_ns`` if that is longer."""
        if self._tick is not None:
            if now_ns - self._tick[0] < max(self._hold_ns, 1):
                return
            self.power_w = (self.count - self._tick[1]) * self.unit_j * NS / (now_ns - self._tick[0])
            self.peak_w = max(self.peak_w, self.power_w)
        self._tick = (now_ns, self.count)


class Trapezoid(Accumulator):
    """Integrates sampled power, in milliwatts, to energy.

    Between samples p_k at t_k:  E = Σ (p_k + p_{k+1})/2 · (t_{k+1} - t_k). In mW and ns the sum is an
    integer number of half-picojoules. While power is monotone between two samples the trapezoid is off by
    at most |p_{k+1} - p_k|/2 · (t_{k+1} - t_k); ``spread`` adds these bounds up. A sensor that holds each
    value for ``hold_ns``, longer than from one sample to the next, has moved within that time. A spike
    between two samples escapes both. A sample of more than ``max_power_w`` is a fault, like a read that
    fails; nothing is interpolated across the hole.
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
        self._hold_ns = hold_ns

    def _value(self) -> int:
        power = int(self._read())
        if not 0 <= power <= self.max_power_w * 1e3:
            raise ValueError(f"it showed {power / 1e3:.6g} W; more than {self.max_power_w:.4g} W cannot be")
        self.power_w = power / 1e3
        self.peak_w = max(self.peak_w, self.power_w)
        return power

    def _step(self, value: int, elapsed_ns: int) -> None:
        self.count += (value + self._last) * elapsed_ns
        self.spread += abs(value - self._last) * max(elapsed_ns, self._hold_ns)
        self.gaps += self._gap_ns is not None and elapsed_ns > self._gap_ns
