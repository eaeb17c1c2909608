"""A channel: one accumulator, what it means, and how a window of it becomes an :class:`EnergyValue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .accumulator import NS, Accumulator, Mark
from .reading import EnergyValue, unavailable

SHORT_WINDOW_PERIODS = 10
LATE_SHARE = 0.02  # of a window: from here on it is flagged that its edges were read late


@dataclass
class SensorChannel:
    """A sensor of energy or power.

    ``period_s`` is the time between two updates of the sensor (or over which it averages), ``tolerance_w``
    its documented tolerance in watts, 0 where the maker documents none. ``companion`` is a power channel of
    the same device: it knows the power at an edge better than the counter does. ``own`` is one that the user
    brought along: it belongs to the total even if it never shows anything.
    """

    source: str
    name: str
    accumulator: Accumulator
    period_s: float
    basis: str
    tolerance_w: float = 0.0
    flags: tuple[str, ...] = ()
    kind: str = "cpu"  # whose contention concerns it: "cpu" or the GPU's channel name
    companion: int | None = None
    own: bool = False
    close: Callable[[], None] = field(default=lambda: None)

    def value(
        self,
        a: Mark,
        b: Mark,
        seconds: float,
        companions: tuple[Mark, Mark] | None = None,
        late_s: float = 0.0,
    ) -> EnergyValue:
        """The energy between marks ``a`` and ``b``, which were taken up to ``late_s`` outside the window.

        The sensor shows at time t what it knew at its last update, at most one period τ earlier. So the truth
        lies within  [E - τ·P_a, E + τ·P_b]  of what is shown, P_a and P_b the power before the two edges; the
        larger power known stands for both, and the largest ever seen where it is not known. Reads outside
        the window can only have added to it:  late_s · P  at most.

        A sensor that fails inside the window leaves its joules unknown, and so the total that they belong to.
        One that has never moved is not taken for a sensor at all, unless the user brought it along.
        """
        sensor, unit = self.accumulator, self.accumulator.unit_j
        energy, still = (b.count - a.count) * unit, b.count == a.count
        short = seconds < SHORT_WINDOW_PERIODS * self.period_s

        def lost(reason: str, *flags: str, primary: bool = True) -> EnergyValue:
            return unavailable(self.source, self.name, reason, (*self.flags, *flags), primary)

        if b.faults > a.faults:
            return lost(f"{sensor.fault}; what could be read adds up to {energy:.6g} J", "counter-fault")
        if sensor.count == 0 and sensor.age_s > 2 * self.period_s:
            why = "the counter has not moved since the meter started (a virtual machine, or too short a time)"
            return lost(why, primary=self.own)
        if still and not short:
            return lost(
                f"the counter stood still for {seconds:.3g} s, though it had moved before", "stands-still"
            )
        powers = [sensor.peak_w if m.power_w is None else m.power_w for m in companions or (a, b)]
        if seconds > 0:
            powers.append(energy / max(seconds, self.period_s))
        power = max(powers) or sensor.max_power_w
        edge = (max(self.period_s, seconds) if still else self.period_s) * power + unit
        margin = edge + (b.spread - a.spread) * unit + self.tolerance_w * seconds
        notes = {
            "short-window": short,
            "late-edge": late_s > LATE_SHARE * seconds,
            "sampling-gap": b.gaps > a.gaps,
        }
        return EnergyValue(
            self.source,
            self.name,
            "measured",
            energy,
            max(0.0, energy - margin - late_s * power),
            energy + margin,
            (*self.flags, *(flag for flag, applies in notes.items() if applies)),
            basis=self.basis,
        )


@dataclass
class Found:
    """What was discovered: channels, what is unavailable and why, and what is left out on purpose."""

    channels: list = field(default_factory=list)
    missing: list[EnergyValue] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)

    def lack(self, source: str, channel: str, reason: str) -> None:
        self.missing.append(unavailable(source, channel, reason))


def gap_ns(hz: float) -> int | None:
    """From which distance on a sample is late: five periods of the sampler, a second at least."""
    return int(max(5 / hz, 1.0) * NS) if hz else None


def power_at(hz: float) -> str:
    """On what sampled power is based."""
    return f"power at {f'{hz:g} Hz' if hz else 'window edges only'}"
