"""What a window cost: one :class:`EnergyValue` per channel, together a :class:`Reading`.

A channel is one physical thing seen through one source: ``gpu:0`` through ``nvml-counter``,
``cpu:package-0`` through ``rapl``. Measured and estimated joules are two numbers here, and nothing
in this module adds the one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from .carbon import Footprint, footprint

if TYPE_CHECKING:
    import pandas

Status = Literal["measured", "estimated", "unavailable"]
MACHINE = "machine"  # the channel of what measures the whole machine
DISAGREE = "sources-disagree"  # two sensors of one channel, by more than their intervals allow


@dataclass(frozen=True)
class EnergyValue:
    """Energy of one channel in one window.

    ``joules`` lies in [``low``, ``high``]: of a counter what its updates around the window's edges leave
    open, of sampled power what its samples do, plus the tolerance that the sensor's maker documents. All are
    None, never 0, when ``status`` is "unavailable"; ``reason`` then says why. ``primary`` says whether the
    value belongs to the totals of its reading. A second look at a channel that another source already
    measures does not, nor does a part of what is measured as a whole, nor a sensor that could not be read
    from the start: they are shown and not added. One that was lost in the middle does, and then there is no
    total. ``net_joules`` is ``joules`` less the idle baseline, if one was given. ``interface`` names the
    way to the source where it was not the usual one: "perf" for RAPL through perf events.
    """

    source: str
    channel: str
    status: Status
    joules: float | None = None
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    reason: str = ""
    basis: str = ""
    primary: bool = True
    net_joules: float | None = None
    interface: str = ""

    @property
    def role(self) -> str:
        """How the value enters the totals of its reading."""
        if self.status == "unavailable":
            return "lacking: no total" if self.primary else "-"
        if self.status == "estimated":
            return "estimate, beside the bill"
        return "in measured_j" if self.primary else "counted already, not added"


def unavailable(
    source: str, channel: str, reason: str, flags: Iterable[str] = (), primary: bool = False
) -> EnergyValue:
    """A channel that could not be read: its joules are None and its reason is stated."""
    return EnergyValue(source, channel, "unavailable", flags=tuple(flags), reason=reason, primary=primary)


def billed(values: Iterable[EnergyValue], preference: Sequence[str]) -> tuple[EnergyValue, ...]:
    """Keep one primary value per channel and none inside another, and flag what contradicts itself.

    It is the first measured one in the order of ``preference``, or one that was lost if none is measured.
    ``MACHINE`` holds all other channels, and "gpu" holds "gpu:0".
    """
    ordered = sorted(values, key=lambda value: preference.index(value.source))
    measured: dict[str, list[EnergyValue]] = {}
    for value in ordered:
        if value.status == "measured":
            measured.setdefault(value.channel, []).append(value)
    judged, taken = [], set()
    for value in ordered:
        primary = value.status == "estimated"
        if value.primary and not primary and value.channel not in taken:
            primary = value.status == "measured" or value.channel not in measured
            taken |= {value.channel} if primary else set()
        flags = value.flags
        if value.status == "measured" and _contradict(measured[value.channel]):
            flags = (*flags, DISAGREE)
        judged.append(replace(value, flags=flags, primary=primary))
    primaries = [v for v in judged if v.primary and v.status != "estimated"]
    return tuple(_nested(v, primaries) if v in primaries else v for v in judged)


def _nested(value: EnergyValue, primaries: Sequence[EnergyValue]) -> EnergyValue:
    """The value, not added if it is a part of another, and flagged if its parts are more than it is."""

    def within(part: EnergyValue, whole: EnergyValue) -> bool:
        machine = whole.channel == MACHINE != part.channel
        return machine or part.channel.startswith(f"{whole.channel}:")

    parts = [v for v in primaries if v.status == "measured" and within(v, value)]
    least = sum(v.low for v in parts if not any(within(v, whole) for whole in parts))
    if value.status == "measured" and least - value.high > 0.05 * least:
        value = replace(value, flags=(*value.flags, DISAGREE))
    return replace(value, primary=not any(within(value, whole) for whole in primaries))


def _contradict(values: Sequence[EnergyValue]) -> bool:
    """Do they differ by more than their intervals allow, and by a twentieth more?

    The twentieth because sensors of different make are never calibrated to the last joule.
    """
    low, high = max(v.low for v in values), min(v.high for v in values)
    return low - high > 0.05 * low


@dataclass(frozen=True)
class Reading:
    """The energy of one window, per channel and in two separate totals.

    ``overhead_s`` is the time the meter itself spent inside the window (its edges and its sampler's
    CPU time). ``idle_w`` is the idle baseline of the measured total in watts, if one was given.
    """

    name: str
    seconds: float
    values: tuple[EnergyValue, ...]
    country: str | None = None
    overhead_s: float = 0.0
    idle_w: float | None = None

    @property
    def lacking(self) -> tuple[str, ...]:
        """Channels that were lost: their joules belong to the measured totals, which are therefore None."""
        return tuple(v.channel for v in self.values if v.status == "unavailable" and v.primary)

    def _total(self, status: Status, field: str = "joules") -> float | None:
        if status == "measured" and self.lacking:
            return None
        joules = [getattr(v, field) for v in self.values if v.status == status and v.primary]
        return None if not joules or None in joules else sum(joules)

    @property
    def measured_j(self) -> float | None:
        """Joules that sensors counted: GPUs, CPU packages and DRAM; or those of the whole machine, where a
        source of your own measures it.

        None if nothing was measured, and if one of the channels is ``lacking``: a sum without it would be
        too small.
        """
        return self._total("measured")

    @property
    def estimated_j(self) -> float | None:
        """Joules of the power model. Never part of ``measured_j``. None if nothing was estimated."""
        return self._total("estimated")

    @property
    def net_measured_j(self) -> float | None:
        """``measured_j`` less the idle baseline; None without a baseline for every measured channel."""
        if self.idle_w is not None and self.measured_j is not None:
            return self.measured_j - self.idle_w * self.seconds
        return self._total("measured", "net_joules")

    @property
    def watts(self) -> dict[str, float]:
        """Mean power by channel, of what ``measured_j`` adds up and nobody else was seen to use."""
        own = [v for v in self.values if v.status == "measured" and v.primary and "contention" not in v.flags]
        return {v.channel: v.joules / self.seconds for v in own}

    @property
    def provenance(self) -> str:
        """A short label for captions and tables: which joules these are and where they come from."""
        sources: dict[str, list[str]] = {}
        for value in self.values:
            if value.status == "measured" and value.primary:
                doubt = ", contradicted" if DISAGREE in value.flags else ""
                source = f"{value.source}: {value.interface}" if value.interface else value.source
                sources.setdefault(source, []).append(_label(value.channel) + doubt)
        parts = []
        if self.lacking:
            parts.append(f"incomplete: {', '.join(map(_label, self.lacking))} could not be read")
        elif sources:
            parts.append("measured: " + ", ".join(f"{s} ({', '.join(c)})" for s, c in sources.items()))
        parts += [f"estimated: {v.basis}" for v in self.values if v.status == "estimated"]
        return "; ".join(parts) or "unavailable: no energy source could be read"

    @cached_property
    def gco2e(self) -> Footprint | None:
        """Grams CO2e on the grid of ``country``, looked up when first asked for; None without a country."""
        return None if self.country is None else footprint(self.measured_j, self.estimated_j, self.country)

    def to_dict(self) -> dict:
        """Everything, JSON-serialisable."""
        totals = ("measured_j", "estimated_j", "net_measured_j")
        plain = ("name", "seconds", *totals, "idle_w", "provenance", "overhead_s")
        return {
            **{name: getattr(self, name) for name in plain},
            "lacking": list(self.lacking),
            "values": [{**asdict(v), "flags": list(v.flags), "role": v.role} for v in self.values],
            "gco2e": None if self.gco2e is None else self.gco2e.to_dict(),
        }

    def to_json(self) -> str:
        """``to_dict`` as one line of JSON."""
        return json.dumps(self.to_dict())

    def frame(self) -> pandas.DataFrame:
        """One row per channel, for tables and storage."""
        import pandas

        rows = [{"window": self.name, "seconds": self.seconds, **asdict(v)} for v in self.values]
        frame = pandas.DataFrame(rows)
        frame["flags"] = frame["flags"].map(" ".join)
        return frame

    def _table(self, **options: object) -> str:
        from tabulate import tabulate

        rows = []
        for v in self.values:
            interval = "" if v.low is None else f"{joules_text(v.low)} to {joules_text(v.high)}"
            notes = "; ".join(filter(None, [v.reason or v.basis, *v.flags]))
            rows.append([v.source, v.channel, v.status, joules_text(v.joules), interval, v.role, notes])
        headers = ["source", "channel", "status", "energy", "interval", "role", "notes"]
        return tabulate(rows, headers, disable_numparse=True, **options)

    def _summary(self) -> list[str]:
        note = f" (no total without {', '.join(self.lacking)})" if self.lacking else ""
        if self.measured_j is not None:
            note = f" ({self.measured_j / max(self.seconds, 1e-12):.3g} W mean)"
        lines = [
            f"measured:  {joules_text(self.measured_j)}{note}",
            f"estimated: {joules_text(self.estimated_j)} (a power model, not a measurement; not added)",
        ]
        if self.net_measured_j is not None:
            lines.append(f"net of the idle baseline: {joules_text(self.net_measured_j)} measured")
        if self.gco2e is not None:
            lines.append(f"carbon:    {self.gco2e}")
        return lines

    def __str__(self) -> str:
        overhead = f"meter's own overhead {self.overhead_s * 1e3:.2f} ms"
        title = f"{self.name or 'energy'}: {self.seconds:.3f} s ({overhead})"
        return "\n".join([title, self._table(maxcolwidths=[None] * 6 + [52]), *self._summary()])

    def _repr_html_(self) -> str:
        from html import escape

        title = escape(f"{self.name or 'energy'}: {self.seconds:.3f} s")
        summary = "<br>".join(map(escape, self._summary()))
        return f"<p>{title}</p>{self._table(tablefmt='html')}<p>{summary}</p>"


def _label(channel: str) -> str:
    return channel.replace("gpu:", "GPU ")


def joules_text(value: float | None) -> str:
    """An energy for people: four digits and the unit, or a dash where there is none."""
    if value is None:
        return "-"
    for limit, scale, unit in ((1.0, 1e3, "mJ"), (1e3, 1.0, "J"), (1e6, 1e-3, "kJ")):
        if abs(value) < limit:
            return f"{value * scale:.4g} {unit}"
    return f"{value * 1e-6:.4g} MJ"
