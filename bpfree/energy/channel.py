"""A channel: one accumulator, what it means, and how a window of it becomes an :class:`EnergyValue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .accumulator import Mark
from .reading import EnergyValue, unavailable

SHORT_WINDOW_PERIODS = 10


class Accumulator(Protocol):
    unit_j: float
    count: int
    fault: str
    peak_w: float

    def advance(self, now_ns: int) -> Mark: ...
    def tick(self, now_ns: int) -> None: ...
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
        self, a: Mark, b: Mark, seconds: float, companions: tuple[Mark, Mark] | None = None
    ) -> EnergyValue:
        """The energy between marks ``a`` and ``b``.

        The sensor shows at time t what it knew at its last update, at most one period τ earlier. So the truth
        lies within  [E - τ·P_a, E + τ·P_b]  of what is shown, P_a and P_b the power before the two edges; the
        larger power known stands for both, and the largest ever seen where it is not known.
        """
        unit = self.accumulator.unit_j
        if b.faults > a.faults:
            known = (b.count - a.count) * unit
            reason = f"{self.accumulator.fault}; what could be read adds up to {known:.6g} J"
            return unavailable(self.source, self.name, reason, (*self.flags, "counter-fault"))
        if self.accumulator.count == 0:
            reason = (
                "the counter has not moved since the meter started (a virtual machine, or too short a time)"
            )
            return unavailable(self.source, self.name, reason, self.flags)
        energy = (b.count - a.count) * unit
        edges = companions or (a, b)
        powers = [self.accumulator.peak_w if m.power_w is None else m.power_w for m in edges]
        if seconds > 0:
            powers.append(energy / max(seconds, self.period_s))
        edge = self.period_s * max(powers, default=0.0) + unit
        margin = edge + (b.spread - a.spread) * unit + self.tolerance_w * seconds
        flags = list(self.flags)
        if seconds < SHORT_WINDOW_PERIODS * self.period_s:
            flags.append("short-window")
        if b.gaps > a.gaps:
            flags.append("sampling-gap")
        return EnergyValue(
            self.source,
            self.name,
            "measured",
            energy,
            max(0.0, energy - margin),
            energy + margin,
            tuple(flags),
            basis=self.basis,
        )
