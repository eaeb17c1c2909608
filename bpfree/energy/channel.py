"""A channel: one accumulator, what it means, and how a window of it becomes an :class:`EnergyValue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .accumulator import LATE, NS, Accumulator, Counter, Mark
from .reading import EnergyValue, unavailable

SHORT_WINDOW_PERIODS = 10
FOLLOWED_S = 0.1  # sensors that update less often are read twice an update, others at the sampler's visits
LATE_SHARE = 0.02  # of a window: from here on it is flagged that its edges were read late


@dataclass
class SensorChannel:
    """A sensor of energy or power.

    ``period_s`` is the time between two updates of the sensor (or over which it averages), ``tolerance_w``
    its documented tolerance in watts, 0 where the maker documents none. ``own`` is one that the user brought
    along: it belongs to the total even if it never shows anything. ``interface``: as in :class:`EnergyValue`.
    """

    source: str
    name: str
    accumulator: Accumulator
    period_s: float
    basis: str
    tolerance_w: float = 0.0
    flags: tuple[str, ...] = ()
    kind: str = "cpu"  # whose contention concerns it: "cpu" or the GPU's channel name
    own: bool = False
    interface: str = ""
    close: Callable[[], None] = field(default=lambda: None)

    @property
    def poll_hz(self) -> float:
        """How often it must be read to see every update; 0: only at the sampler's visits."""
        return followed_hz(self.period_s)

    def selftest(self) -> dict[str, float | None]:
        """What the sensor did so far: as :attr:`EnergyMeter.selftest` says."""
        sensor, period_s = self.accumulator, self.accumulator.period_s
        watts = sensor.count * sensor.unit_j / sensor.age_s if sensor.age_s else None
        return {
            "assumed_s": self.period_s,
            "period_s": period_s and round(period_s, 6),
            "watts": None if watts is None else round(watts, 3),
            "faults": sensor.faults,
        }

    def value(self, a: Mark, b: Mark, start_ns: int, stop_ns: int) -> EnergyValue:
        """The energy from ``start_ns``, a little after mark ``a``, to ``stop_ns``, a little before ``b``.

        A counter's interval is that of its enclosing updates (see :class:`CounterMark`): whatever the power
        did between two of them, the truth lies inside. One that was not read on until it showed an update
        after the window is "unsettled": its interval takes the power seen around the edge to have lasted.
        Sampled power was true at its last update, at most τ before:
        that leaves  τ·P  at either edge, P the most power seen around it. No interval exceeds what the
        device can draw.

        A sensor that fails inside the window leaves its joules unknown, and so the total that they belong to.
        One that has never moved is not taken for a sensor at all, unless the user brought it along. So does
        a counter of which no update encloses the window, and none fell into it.
        """
        sensor, unit = self.accumulator, self.accumulator.unit_j
        seconds, period_s = max(stop_ns - start_ns, 0) / NS, self.period_s
        counts, still = isinstance(sensor, Counter), b.count == a.count
        short = seconds < SHORT_WINDOW_PERIODS * period_s

        def lost(reason: str, *flags: str, primary: bool = True) -> EnergyValue:
            return unavailable(self.source, self.name, reason, (*self.flags, *flags), primary)

        if b.faults > a.faults:
            so_far = f"{(b.count - a.count) * unit:.6g} J"
            flags = ("counter-fault", *(["stands-still"] if counts and still else []))
            return lost(f"{sensor.fault}; what could be read adds up to {so_far}", *flags)
        if sensor.count == 0 and sensor.age_s > 2 * period_s:
            why = "the counter has not moved since the meter started (a virtual machine, or too short a time)"
            return lost(why, primary=self.own)
        if counts and still and not short:
            return lost(
                f"the counter stood still for {seconds:.3g} s, though it had moved before", "stands-still"
            )
        if counts and still and not (a.settled and b.settled):
            why = f"the counter, which moves every {period_s:.3g} s, did not move in these {seconds:.3g} s"
            return lost(f"{why}, and was not read after them until it did", "short-window")
        energy = (b.at(stop_ns) - a.at(start_ns)) * unit
        powers = [sensor.peak_w if m.power_w is None else m.power_w for m in (a, b)]
        power = max(*powers, energy / max(seconds, period_s)) or sensor.max_power_w
        late_ns = start_ns - a.begun_ns + b.ended_ns - stop_ns
        if counts:
            drawn = int(1.5 * period_s * power / unit) + 1
            low = max(0, b.least(stop_ns) - a.most(start_ns, drawn) - 1) * unit
            high = min((b.most(stop_ns, drawn) - a.least(start_ns) + 1) * unit, sensor.max_power_w * seconds)
            energy = min(max(energy, low), high)
        else:
            spread = (LATE * period_s + late_ns / NS) * power + (b.spread - a.spread) * unit
            low, high = max(0.0, energy - spread), energy + spread
        slack = self.tolerance_w * seconds
        notes = {
            "short-window": short,
            "unsettled": counts and not (a.settled and b.settled),
            "attributed": counts and (still or seconds < period_s),
            "late-edge": late_ns > LATE_SHARE * NS * seconds,
            "sampling-gap": not counts and b.late_ns - a.late_ns > LATE_SHARE * NS * seconds,
            "stands-still": counts and (b.late_ns > a.late_ns or a.stood or b.stood),
        }
        return EnergyValue(
            self.source,
            self.name,
            "measured",
            energy,
            max(0.0, low - slack),
            high + slack,
            (*self.flags, *(flag for flag, applies in notes.items() if applies)),
            basis=self.basis,
            interface=self.interface,
        )


@dataclass
class Found:
    """What was discovered: channels, what is unavailable and why, and what is left out on purpose."""

    channels: list = field(default_factory=list)
    missing: list[EnergyValue] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)

    def lack(self, source: str, channel: str, reason: str) -> None:
        self.missing.append(unavailable(source, channel, reason))


def gap_ns(period_s: float) -> int:
    """From which distance on a sample is late: that of two and a half updates of the sensor."""
    return int(2.5 * period_s * NS)


def followed_hz(period_s: float) -> float:
    """Twice an update; 0 for a sensor that updates faster than a sampler can follow."""
    return 2 / period_s if period_s >= FOLLOWED_S else 0.0


def power_at(hz: float, period_s: float) -> str:
    """On what sampled power is based."""
    hz = hz and max(hz, followed_hz(period_s))
    return f"power at {f'{hz:g} Hz' if hz else 'window edges only'}"
