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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .carbon import JOULES_PER_KWH, grid
from .reading import Reading, joules_text

EVERY_S = 5.0  # between two looks of the tracker
COMPONENTS = {"gpu": "gpu", "cpu": "cpu", "ram": "dram"}  # CodeCarbon's, and how our channels begin
SAME = 0.05  # two numbers that differ by no more are taken to agree


@dataclass(frozen=True)
class Component:
    """Joules of one component by both, how they were obtained, and why they differ; ours None where unknown."""

    name: str
    ours_j: float | None
    ours_by: str
    theirs_j: float
    theirs_by: str
    why: str


@dataclass(frozen=True)
class Crosscheck:
    """Both bills of one window: ``components``, and their sum in grams.

    ``ours_g`` is of the joules beside ``theirs_j``: measured where a sensor was read, and else estimated.
    ``theirs_g_per_kwh`` is None if the tracker saw no joules.
    """

    seconds: float
    theirs_s: float
    components: tuple[Component, ...]
    g_per_kwh: float
    theirs_g_per_kwh: float | None
    ours_g: float
    theirs_g: float

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        from tabulate import tabulate

        rows = [
            [c.name, joules_text(c.ours_j), c.ours_by, joules_text(c.theirs_j), c.theirs_by, c.why]
            for c in self.components
        ]
        headers, widths = ["", "ours", "by", "CodeCarbon", "by", "why"], [None, None, 24, None, 32, 40]
        table = tabulate(rows, headers=headers, disable_numparse=True, maxcolwidths=widths)
        factors = {f"{factor:.4g}" for factor in (self.g_per_kwh, self.theirs_g_per_kwh) if factor}
        grams = f"gCO2e: {self.ours_g:.4g} and {self.theirs_g:.4g}, at {' and '.join(sorted(factors))} g/kWh"
        return f"{table}\n{grams}; {self.seconds:.3g} and {self.theirs_s:.3g} s"


class Tracker:
    """CodeCarbon's offline tracker. Nothing that it raises ends the run: ``failure`` then says what it was.

    Raises ValueError without a country, and for any other name.
    """

    def __init__(self, name: str, country: str | None) -> None:
        if name != "codecarbon":
            raise ValueError(f"crosscheck={name!r}: only codecarbon is known")
        if country is None:
            raise ValueError(f"crosscheck={name!r} without a country: give one, such as country='POL'")
        self.country, self.failure = country, ""
        self._grams: float | None = None
        self._tracker = self._attempt(lambda: _offline(country))

    def _attempt(self, do: Callable[[], Any]) -> Any:
        try:
            return None if self.failure else do()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            return None

    def start(self) -> None:
        self._attempt(lambda: self._tracker.start())

    def stop(self) -> None:
        if self._grams is None:
            self._grams = self._attempt(lambda: 1e3 * self._tracker.stop())

    def against(self, reading: Reading) -> Crosscheck | None:
        """Beside the reading of the same window; None if the tracker has not stopped.

        Raises RuntimeError if the tracker failed.
        """
        found = None if self._grams is None else self._attempt(lambda: self._against(reading, self._grams))
        if self.failure:
            raise RuntimeError(f"The cross-check failed: {self.failure}")
        return found

    def _against(self, reading: Reading, grams: float) -> Crosscheck:
        data, by, components = self._tracker.final_emissions_data, _methods(self._tracker), []
        for name, ours in COMPONENTS.items():
            values = [v for v in reading.values if v.primary and v.channel.split(":")[0] == ours]
            values = [v for v in values if v.status == "measured"] or [v for v in values if v.joules]
            ours_j = sum(v.joules for v in values) if values else None
            ours_by = ", ".join(dict.fromkeys(v.basis for v in values)) or "no sensor"
            theirs_j, theirs_by = (
                getattr(data, f"{name}_energy") * JOULES_PER_KWH,
                by.get(name, "not tracked"),
            )
            if not theirs_j or not ours_j:
                why = "only CodeCarbon has any" if theirs_j else "CodeCarbon has none"
            elif abs(theirs_j / ours_j - 1) <= SAME:
                why = f"within {SAME:.0%}"
            else:
                why = f"{theirs_by}, against {ours_by}"
            components.append(Component(name, ours_j, ours_by, theirs_j, theirs_by, why))
        factor = grid(self.country)["carbon_intensity"]
        ours_kwh, theirs_kwh = (
            sum(joules) / JOULES_PER_KWH
            for joules in ([c.ours_j or 0.0 for c in components], [c.theirs_j for c in components])
        )
        theirs = grams / theirs_kwh if theirs_kwh else None
        seconds = reading.seconds, data.duration
        return Crosscheck(*seconds, tuple(components), factor, theirs, factor * ours_kwh, grams)


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


def _methods(tracker: Any) -> dict[str, str]:
    """How the tracker says that it obtains each component's joules."""
    methods = {"ram": "watts for each module, not measured", "gpu": "the same counter, of every GPU it sees"}
    for part in getattr(tracker, "_hardware", ()):
        if type(part).__name__ == "CPU":
            watts, mode = (
                f"{getattr(part, '_tdp', math.nan):g} W for the processor",
                getattr(part, "_mode", ""),
            )
            known = {"cpu_load": f"the whole machine's load x {watts}", "constant": f"half of {watts}"}
            methods["cpu"] = known.get(mode, f"{mode} of the machine")
    return methods
