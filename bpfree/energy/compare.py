"""Which of two pieces of work takes less energy, as a claim that holds: a ratio with its interval.

    result = compare(lambda: train_epoch(bp), lambda: train_epoch(mf))
    print(result)                   # joules and seconds of a pass of each, and their ratios

The protocol: each is repeated back to back in windows of at least five seconds of whole passes, so that the
sensor's update period is a fiftieth of a window; windows come in rounds of A B B A, so that a drift that is
linear in time falls out; they begin when the temperature has stopped rising; and rounds go on until the
standard error of the ratio is under a bound, or a cap is reached, which is then said. Because they end when
rounds happen to agree, the interval is a little too narrow where rounds differ by several times the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from .meter import EnergyMeter
from .reading import Reading, joules_text

CONFIDENCE = 0.95
LEAST_ROUNDS = 3
STABLE_C = 1.0  # the temperature is stable if two windows end within so many degrees


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
        half = error * t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half), error)

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found. Where there are two of something, they are of a and of b.

    Attributes:
        names, passes: what either is called, and how many passes make one of its windows.
        readings: of its windows, in their order; two of each make a round.
        converged: whether the bound of the standard error was met, and not the cap.
        stable: whether the temperature was stable when the first round began; None where none is shown.
        temperature_c, clock_mhz: least and most seen at the windows' ends; None where none is shown.
    """

    names: tuple[str, str]
    passes: tuple[int, int]
    readings: tuple[tuple[Reading, ...], tuple[Reading, ...]] = field(repr=False)
    converged: bool
    stable: bool | None
    temperature_c: tuple[float, float] | None
    clock_mhz: tuple[float, float] | None

    @property
    def rounds(self) -> int:
        """Of A B B A."""
        return len(self.readings[0]) // 2

    def _rounds(self, what: str) -> list[list[float]] | None:
        """Of a pass, in each round's mean; None if a window lacks it."""
        found = [[getattr(reading, what) for reading in readings] for readings in self.readings]
        if None in found[0] + found[1]:
            return None
        pairs = [zip(amounts[::2], amounts[1::2], strict=True) for amounts in found]
        return [[fmean(p) / n for p in pair] for pair, n in zip(pairs, self.passes, strict=True)]

    def of_a_pass(self, what: str = "measured_j") -> tuple[float, float] | None:
        """The mean of a pass, of any amount that a :class:`Reading` has; None if a window lacks it."""
        rounds = self._rounds(what)
        return rounds and (fmean(rounds[0]), fmean(rounds[1]))

    def ratio(self, what: str = "measured_j") -> Ratio | None:
        """Of ``measured_j``, ``net_measured_j`` or ``seconds``; None if a window lacks it, or has none."""
        rounds = self._rounds(what)
        if rounds is None or min(rounds[0] + rounds[1]) <= 0:
            return None
        return Ratio.of([a / b for a, b in zip(*rounds, strict=True)])

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of any window: a claim should have none but "sampled-power"."""
        values = [value for reading in sum(self.readings, ()) for value in reading.values]
        return tuple(sorted({flag for value in values if value.primary for flag in value.flags}))

    @property
    def provenance(self) -> str:
        """Of the joules; where a window lacks them, of that one."""
        return min(sum(self.readings, ()), key=lambda reading: reading.measured_j is not None).provenance

    def __str__(self) -> str:
        spent, took = self.of_a_pass() or (None, None), self.of_a_pass("seconds")
        lines = [
            f"{name}: {joules_text(j)} and {s:.4g} s a pass "
            f"({len(found)} windows of {min(r.seconds for r in found):.3g} s or more, {n} passes each)"
            for name, n, j, s, found in zip(self.names, self.passes, spent, took, self.readings, strict=True)
        ]
        ratios = {"joules": self.ratio() or "not measured", "joules, net": self.ratio("net_measured_j")}
        ratios["seconds"] = self.ratio("seconds")
        lines += [f"{what}, {' / '.join(self.names)}: {ratio}" for what, ratio in ratios.items() if ratio]
        met = "" if self.converged else "; the cap was reached before the bound"
        lines.append(f"{self.rounds} rounds of A B B A; 95 % intervals{met}; {self.provenance}")
        if self.temperature_c:
            rising = "" if self.stable else ", still rising at the beginning"
            lines.append("{:.0f} to {:.0f} °C".format(*self.temperature_c) + rising)
        if self.clock_mhz:
            lines.append("{:.0f} to {:.0f} MHz".format(*self.clock_mhz))
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
    most_warmups: int = 20,
    **options: Any,
) -> Comparison:
    """Measure one pass of ``a`` against one of ``b``, each a function without arguments, by the protocol.

    Args:
        names: what to call them.
        bound: rounds end when the relative standard error of the ratio is no more than this; of the joules,
            or of the seconds where no joules are measured.
        window_s: seconds of a window, at least.
        most_rounds: the cap.
        most_warmups: how many windows of each may go by before the temperature is stable.
        options: of the :class:`EnergyMeter`; with ``idle_w`` there are net joules, too.

    Raises ValueError for a bound or a window that is not positive, or fewer than three rounds. What the
    functions raise goes through.
    """
    if not bound > 0 or not window_s > 0 or not most_rounds >= LEAST_ROUNDS:
        raise ValueError(
            f"bound={bound!r}, window_s={window_s!r}, most_rounds={most_rounds!r}: give positive numbers, "
            f"and {LEAST_ROUNDS} rounds or more"
        )
    if names[0] == names[1]:
        raise ValueError(f"names={names!r}: give two different names")
    work, passes, readings, gauges = (a, b), [1, 1], ([], []), []
    with EnergyMeter(**options) as meter:

        def window(side: int) -> Reading:
            with meter.window(names[side]) as opened:
                for _ in range(passes[side]):
                    work[side]()
            return opened.settle()

        for side in (0, 1):
            window(side)  # compiles, allocates
            while (seconds := window(side).seconds) < window_s:
                more = math.ceil(1.1 * window_s / max(seconds, 1e-6) * passes[side])
                passes[side] = min(max(more, passes[side] + 1), 100 * passes[side])
        stable = _warm(meter, lambda: (window(0), window(1)), most_warmups)
        while True:
            for side in (0, 1, 1, 0):
                readings[side].append(window(side))
                gauges += meter.gauges().values()
            found = Comparison(
                names, tuple(passes), tuple(map(tuple, readings)), False, stable, *_extremes(gauges)
            )
            error = (found.ratio() or found.ratio("seconds")).error
            converged = found.rounds >= LEAST_ROUNDS and error <= bound
            if converged or found.rounds == most_rounds:
                return replace(found, converged=converged)


def _warm(meter: EnergyMeter, work: Callable[[], object], most: int) -> bool | None:
    """Works until it ends twice at one temperature: whether it did, or None where none is shown."""
    before: dict[str, tuple[float, float]] = {}
    for _ in range(most):
        now = meter.gauges()
        if not any(math.isfinite(celsius) for celsius, _ in now.values()):
            return None
        if before and all(abs(now[c][0] - before[c][0]) <= STABLE_C for c in before if c in now):
            return True
        before = now
        work()
    return False


def _extremes(gauges: Sequence[tuple[float, float]]) -> list[tuple[float, float] | None]:
    """Least and most temperature and clock, of all GPUs in use."""
    seen = [[value for value in values if math.isfinite(value)] for values in zip(*gauges, strict=True)]
    return [(min(values), max(values)) if values else None for values in seen or ([], [])]
