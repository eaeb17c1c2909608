"""CodeCarbon's tracker, offline, over the same window: its joules and grams beside ours, and why they differ.

    with EnergyMeter(country="POL", crosscheck="codecarbon") as meter:
        ...
    print(meter.crosscheck)

It is a second opinion and no part of any total. The tracker is imported and started only when asked for: it
takes seconds, which are before the meter's own, and a thread of its own, whose work is then in both bills.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from .carbon import JOULES_PER_KWH, grid
from .reading import EnergyValue, Reading, joules

NAMES = ("codecarbon",)
EVERY_S = 5.0  # between two looks of the tracker
COMPONENTS = {"gpu": ("gpu",), "cpu": ("cpu",), "ram": ("dram",)}  # CodeCarbon's, and our channels
SAME = 0.05  # two numbers that differ by no more are taken to agree


@dataclass(frozen=True)
class Component:
    """Joules of one component by both, None where there are none, and how each was obtained."""

    name: str
    ours_j: float | None
    ours_by: str
    theirs_j: float | None
    theirs_by: str

    @property
    def why(self) -> str:
        """Where the difference comes from."""
        if not self.theirs_j or not self.ours_j:
            if not self.theirs_j and not self.ours_j:
                return "neither has any"
            return "only CodeCarbon has any" if self.theirs_j else "CodeCarbon has none"
        if abs(self.theirs_j / self.ours_j - 1) <= SAME:
            return f"within {SAME:.0%}"
        return f"{self.theirs_by}, against {self.ours_by}"


@dataclass(frozen=True)
class Crosscheck:
    """Both bills of one window.

    ``ours_g`` is of the joules beside ``theirs_j``: measured where a sensor was read, and else estimated.
    """

    source: str
    seconds: float
    theirs_s: float
    components: tuple[Component, ...]
    g_per_kwh: float
    theirs_g_per_kwh: float | None
    ours_g: float
    theirs_g: float

    def to_dict(self) -> dict:
        return {**asdict(self), "components": [{**asdict(c), "why": c.why} for c in self.components]}

    def __str__(self) -> str:
        from tabulate import tabulate

        rows = [
            [c.name, joules(c.ours_j), c.ours_by, joules(c.theirs_j), c.theirs_by, c.why]
            for c in self.components
        ]
        headers = ["", "ours", "by", self.source, "by", "why they differ"]
        widths = [None, None, 24, None, 32, 40]
        table = tabulate(rows, headers=headers, disable_numparse=True, maxcolwidths=widths)
        factor = self.theirs_g_per_kwh or self.g_per_kwh
        same = abs(factor / self.g_per_kwh - 1) <= 1e-3
        grid = f"both at {self.g_per_kwh:g} g/kWh" if same else f"at {self.g_per_kwh:g} and {factor:g} g/kWh"
        return (
            f"{table}\ngCO2e: {self.ours_g:.4g} and {self.theirs_g:.4g}, {grid}; "
            f"{self.seconds:.3g} and {self.theirs_s:.3g} s"
        )


class Tracker:
    """CodeCarbon's offline tracker. Nothing that it raises ends the run: ``failure`` then says what it was.

    Raises ValueError without a country.
    """

    def __init__(self, name: str, country: str | None) -> None:
        if name not in NAMES:
            raise ValueError(f"crosscheck={name!r}: choose from {', '.join(NAMES)}")
        if country is None:
            raise ValueError(f"crosscheck={name!r} without a country: give one, such as country='POL'")
        self.country = country
        self.failure = ""
        self._found: dict[str, Any] = {}
        self._tracker = self._attempt(lambda: _offline(country))

    def _attempt(self, do: Any) -> Any:
        try:
            return None if self.failure else do()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            return None

    def start(self) -> None:
        self._attempt(lambda: self._tracker.start())

    def stop(self) -> None:
        if self._found or self.failure:
            return
        grams = self._attempt(lambda: 1e3 * self._tracker.stop())
        self._found = {"grams": grams, "data": self._attempt(lambda: self._tracker.final_emissions_data)}

    def against(self, reading: Reading) -> Crosscheck | None:
        """Beside the reading of the same window; None if the tracker failed, or has not stopped."""
        return self._attempt(lambda: self._against(reading)) if self._found else None

    def _against(self, reading: Reading) -> Crosscheck:
        data, grams = self._found["data"], self._found["grams"]
        by = _methods(self._tracker)
        components = []
        for name, beginnings in COMPONENTS.items():
            values = _ours(reading, beginnings)
            ours_j = sum(v.joules for v in values) if values else None
            ours_by = ", ".join(dict.fromkeys(v.basis for v in values)) or "no sensor"
            theirs_j = getattr(data, f"{name}_energy") * JOULES_PER_KWH
            components.append(Component(name, ours_j, ours_by, theirs_j, by.get(name, "not tracked")))
        factor = grid(self.country)["carbon_intensity"]
        total_kwh = sum(c.theirs_j for c in components) / JOULES_PER_KWH
        return Crosscheck(
            f"CodeCarbon {version('codecarbon')}",
            reading.seconds,
            data.duration,
            tuple(components),
            factor,
            grams / total_kwh if total_kwh else None,
            factor * sum(c.ours_j or 0.0 for c in components) / JOULES_PER_KWH,
            grams,
        )


def _offline(country: str) -> Any:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return OfflineEmissionsTracker(
        country_iso_code=country,
        save_to_file=False,
        log_level="critical",
        measure_power_secs=EVERY_S,
        allow_multiple_runs=True,
    )


def _ours(reading: Reading, beginnings: tuple[str, ...]) -> list[EnergyValue]:
    """The values of a component: those that sensors measured, or estimates if none did."""
    values = [v for v in reading.values if v.primary and v.channel.split(":")[0] in beginnings]
    measured = [v for v in values if v.status == "measured"]
    return measured or [v for v in values if v.status == "estimated"]


def _methods(tracker: Any) -> dict[str, str]:
    """How the tracker says that it obtains each component's joules."""
    methods = {}
    for part in getattr(tracker, "_hardware", ()):
        kind = type(part).__name__.lower()
        mode = getattr(part, "_mode", "")
        if kind == "cpu":
            watts = f"{getattr(part, '_tdp', math.nan):g} W for the processor"
            load = f"the whole machine's load x {watts}"
            known = {"cpu_load": load, "constant": f"half of {watts}"}
            methods["cpu"] = known.get(mode, f"{mode} of the machine")
        elif kind == "ram":
            methods["ram"] = "watts for each module, not measured"
        elif kind == "gpu":
            methods["gpu"] = "the same counter, of every GPU that it sees"
    return methods
