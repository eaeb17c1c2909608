"""A channel: one accumulator, what it means, and how a window of it becomes an :class:`EnergyValue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .accumulator import Mark
from .reading import EnergyValue, unavailable

SHORT_WINDOW_PERIODS = 10
LATE_SHARE = 0.02  # of a window: from here on it is flagged that its edges were read late


class Accumulator(Protocol):
    unit_j: float
    count: int
    fault: str
    peak_w: float
    max_power_w: float

    def advance(self, now_ns: int) -> Mark: ...
    def tick(self, now_ns: int) -> None: ...
    @property
    def age_s(self) -> float: ...
    @property
    def power_w(self) -> float | None: ...


@dataclass
class SensorChannel:
    """A sensor of energy or power.

    ``period_s`` is the time between two updates of the sensor (or over which it averages), ``tolerance_w``
    its documented tolerance in watts, 0 where the maker documents none. ``companion`` is a power channel of
    the same device: it knows the power at an edge better than the counter does.
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
    close: Callable[[], None] = field(default=lambda: None)

    def advance(self, now_ns: int) -> Mark:
        return self.accumulator.advance(now_ns)

    def tick(self, now_ns: int) -> None:
        self.accumulator.tick(now_ns)

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
        One that has never moved is not taken for a sensor at all.
        """
        sensor, unit = self.accumulator, self.accumulator.unit_j
        energy, still = (b.count - a.count) * unit, b.count == a.count
        if b.faults > a.faults:
            reason = f"{sensor.fault}; what could be read adds up to {energy:.6g} J"
            return unavailable(self.source, self.name, reason, (*self.flags, "counter-fault"), primary=True)
        if sensor.count == 0 and sensor.age_s > 2 * self.period_s:
            reason = (
                "the counter has not moved since the meter started (a virtual machine, or too short a time)"
            )
            return unavailable(self.source, self.name, reason, self.flags)
        if still and seconds >= SHORT_WINDOW_PERIODS * self.period_s:
            reason = f"the counter stood still for {seconds:.3g} s, though it had moved before"
            return unavailable(self.source, self.name, reason, (*self.flags, "stands-still"), primary=True)
        edges = companions or (a, b)
        powers = [sensor.peak_w if m.power_w is None else m.power_w for m in edges]
        if seconds > 0:
            powers.append(energy / max(seconds, self.period_s))
        power = max(powers) or sensor.max_power_w
        edge = (max(self.period_s, seconds) if still else self.period_s) * power + unit
        margin = edge + (b.spread - a.spread) * unit + self.tolerance_w * seconds
        flags = list(self.flags)
        if seconds < SHORT_WINDOW_PERIODS * self.period_s:
            flags.append("short-window")
        if late_s > LATE_SHARE * seconds:
            flags.append("late-edge")
        if b.gaps > a.gaps:
            flags.append("sampling-gap")
        return EnergyValue(
            self.source,
            self.name,
            "measured",
            energy,
            max(0.0, energy - margin - late_s * power),
            energy + margin,
            tuple(flags),
            basis=self.basis,
        )
