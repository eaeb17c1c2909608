"""Which of two pieces of work takes less energy, as a claim that holds: a ratio with its interval.

    result = compare(lambda: train_epoch(bp), lambda: train_epoch(mf))
    print(result)                   # joules and seconds of a pass of each, and their ratios

The protocol: each is repeated back to back in windows of at least five seconds of whole passes, so that the
sensor's update period is a fiftieth of a window; windows come in rounds of A B B A, so that a drift that is
linear in time falls out; they begin when the temperature has stopped rising; and rounds go on until the
standard error of the ratio is under a bound, or a cap is reached, which is then said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from .meter import EnergyMeter
from .reading import Reading, joules

LEVEL = 0.95
LEAST_ROUNDS = 3
STABLE_C = 1.0  # the temperature is stable if two windows end within so many degrees
MOST_WARMUPS = 20


@dataclass(frozen=True)
class Ratio:
    """The geometric mean of the rounds' ratios, a's over b's, with its 95 % interval by Student's t."""

    value: float
    low: float
    high: float
    error: float  # relative standard error; NaN of one round

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        from scipy.stats import t

        logs = [math.log(ratio) for ratio in ratios]
        mean = fmean(logs)
        error = stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
        half = error * t.ppf((1 + LEVEL) / 2, len(logs) - 1)
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half), error)

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Side:
    """One of the two: ``passes`` in each of its windows, and what a pass took in the mean."""

    name: str
    passes: int
    joules: float | None
    seconds: float
    readings: tuple[Reading, ...] = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        a, b: the two sides.
        ratio: of the joules of a to those of b; None if they were not measured.
        time_ratio: of the seconds.
        rounds: of A B B A.
        converged: whether the bound of the standard error was met, and not the cap.
        stable: whether the temperature was stable when the first round began; None where none is shown.
        temperature_c, clock_mhz: least and most seen at the windows' ends; None where none is shown.
        flags: those of any window: a claim should have none but "sampled-power".
        provenance: of the joules; where a window lacks them, of that one.
    """

    a: Side
    b: Side
    ratio: Ratio | None
    time_ratio: Ratio
    rounds: int
    converged: bool
    stable: bool | None
    temperature_c: tuple[float, float] | None
    clock_mhz: tuple[float, float] | None
    flags: tuple[str, ...]
    provenance: str

    def __str__(self) -> str:
        lines = [
            f"{side.name}: {joules(side.joules)} and {side.seconds:.4g} s a pass "
            f"({len(side.readings)} windows of {side.passes} passes)"
            for side in (self.a, self.b)
        ]
        names = f"{self.a.name} / {self.b.name}"
        lines.append(f"joules, {names}: {self.ratio or 'not measured'}")
        lines.append(f"seconds, {names}: {self.time_ratio}")
        met = "" if self.converged else "; the cap was reached before the bound"
        lines.append(f"{self.rounds} rounds of A B B A; 95 % intervals{met}; {self.provenance}")
        if self.temperature_c:
            rising = "" if self.stable else ", still rising at the beginning"
            lines.append("{:.0f} to {:.0f} °C".format(*self.temperature_c) + rising)
        if self.clock_mhz:
            lines[-1] += ", {:.0f} to {:.0f} MHz".format(*self.clock_mhz)
        if self.flags:
            lines.append(f"flags: {', '.join(self.flags)}")
        return "\n".join(lines)


def compare(
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    names: tuple[str, str] = ("a", "b"),
    bound: float = 0.01,
    window_s: float = 5.0,
    most_rounds: int = 20,
    **options: Any,
) -> Comparison:
    """Measure one pass of ``a`` against one of ``b``, each a function without arguments, by the protocol.

    Args:
        names: what to call them.
        bound: rounds end when the relative standard error of the ratio is no more than this; of the joules,
            or of the seconds where no joules are measured.
        window_s: seconds of a window, at least.
        most_rounds: the cap.
        options: of the :class:`EnergyMeter`.

    Raises ValueError for a bound or a window that is not positive, or fewer than three rounds. What the
    functions raise goes through.
    """
    if not bound > 0 or not window_s > 0 or not most_rounds >= LEAST_ROUNDS:
        raise ValueError(
            f"bound={bound!r}, window_s={window_s!r}, most_rounds={most_rounds!r}: give positive numbers, "
            f"and {LEAST_ROUNDS} rounds or more"
        )
    with EnergyMeter(**options) as meter:
        bench = _Bench(meter, window_s, {names[0]: a, names[1]: b})
        stable = bench.warm_up()
        first, second = names
        while len(bench.readings[first]) < 2 * most_rounds:
            for name in (first, second, second, first):
                bench.window(name)
            ratio, time_ratio = bench.ratio("measured_j"), bench.ratio("seconds")
            error = (ratio or time_ratio).error
            rounds = len(bench.readings[first]) // 2
            converged = rounds >= LEAST_ROUNDS and error <= bound
            if converged:
                break
    readings = [reading for found in bench.readings.values() for reading in found]
    return Comparison(
        bench.side(first),
        bench.side(second),
        ratio,
        time_ratio,
        rounds,
        converged,
        stable,
        *bench.extremes(),
        tuple(sorted({flag for r in readings for v in r.values if v.primary for flag in v.flags})),
        min(readings, key=lambda reading: reading.measured_j is not None).provenance,
    )


class _Bench:
    """Windows of whole passes of each function."""

    def __init__(self, meter: EnergyMeter, window_s: float, work: dict[str, Callable[[], object]]) -> None:
        if len(work) < 2:
            raise ValueError(f"names={tuple(work) * 2}: give two different names")
        self.meter, self.work, self.window_s = meter, work, window_s
        self.passes = dict.fromkeys(work, 1)
        self.readings: dict[str, list[Reading]] = {name: [] for name in work}
        self.gauges: list[dict[str, tuple[float, float]]] = []

    def window(self, name: str, keep: bool = True) -> Reading:
        with self.meter.window(name) as window:
            for _ in range(self.passes[name]):
                self.work[name]()
        reading = window.settle()
        if keep:
            self.readings[name].append(reading)
            self.gauges.append(self.meter.gauges())
        return reading

    def warm_up(self) -> bool | None:
        """Finds how many passes make a window, and runs until two windows end at one temperature."""
        for name in self.work:
            self.window(name, keep=False)  # compiles, allocates
            while (seconds := self.window(name, keep=False).seconds) < self.window_s:
                more = math.ceil(1.1 * self.window_s / max(seconds, 1e-6) * self.passes[name])
                self.passes[name] = min(max(more, self.passes[name] + 1), 100 * self.passes[name])
        before: dict[str, tuple[float, float]] = {}
        for _ in range(MOST_WARMUPS):
            now = self.meter.gauges()
            if not any(math.isfinite(celsius) for celsius, _ in now.values()):
                return None
            if before and all(abs(now[c][0] - before[c][0]) <= STABLE_C for c in before if c in now):
                return True
            before = now
            for name in self.work:
                self.window(name, keep=False)
        return False

    def _mean(self, name: str, what: str) -> float | None:
        """Of a pass."""
        found = [getattr(reading, what) for reading in self.readings[name]]
        return None if None in found else fmean(found) / self.passes[name]

    def ratio(self, what: str) -> Ratio | None:
        """A round's ratio is that of two windows of the first to two of the second, pass by pass."""
        first, second = (
            [None if (amount := getattr(r, what)) is None else amount / self.passes[name] for r in found]
            for name, found in self.readings.items()
        )
        if None in first + second or not all(first + second):
            return None
        ratios = [sum(first[k : k + 2]) / sum(second[k : k + 2]) for k in range(0, len(first), 2)]
        return Ratio.of(ratios)

    def side(self, name: str) -> Side:
        readings = tuple(self.readings[name])
        return Side(
            name, self.passes[name], self._mean(name, "measured_j"), self._mean(name, "seconds"), readings
        )

    def extremes(self) -> list[tuple[float, float] | None]:
        """Least and most temperature and clock, of all GPUs in use."""
        found = []
        for quantity in range(2):
            seen = [pair[quantity] for gauges in self.gauges for pair in gauges.values()]
            seen = [value for value in seen if math.isfinite(value)]
            found.append((min(seen), max(seen)) if seen else None)
        return found
