"""CodeCarbon's tracker, offline, over the same window: its joules and grams beside ours, and why they differ.

    with EnergyMeter(country="POL", crosscheck="codecarbon") as meter:
        ...
    print(meter.crosscheck)

It is a second opinion and no part of any total. The tracker is imported and started only when asked for: it
takes seconds, which are before the meter's own, and a thread of its own, whose work is then in both bills.

The table has a row for each component, and one for all: joules and grams of both, how they were obtained, and
why they differ. Ours are measured where a sensor was read, and else estimated; NaN where there is neither.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .carbon import JOULES_PER_KWH, grid
from .reading import Reading

if TYPE_CHECKING:
    import pandas

EVERY_S = 5.0  # between two looks of the tracker
COMPONENTS = {"gpu": "gpu", "cpu": "cpu", "ram": "dram"}  # CodeCarbon's, and how our channels begin
SAME = 0.05  # two numbers that differ by no more are taken to agree


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

    def against(self, reading: Reading) -> pandas.DataFrame | None:
        """Beside the reading of the same window; None if the tracker has not stopped.

        Raises RuntimeError if the tracker failed.
        """
        found = None if self._grams is None else self._attempt(lambda: self._against(reading, self._grams))
        if self.failure:
            raise RuntimeError(f"The cross-check failed: {self.failure}")
        return found

    def _against(self, reading: Reading, grams: float) -> pandas.DataFrame:
        import pandas

        data, methods, rows = self._tracker.final_emissions_data, _methods(self._tracker), []
        for name, ours in COMPONENTS.items():
            values = [v for v in reading.values if v.primary and v.channel.split(":")[0] == ours]
            values = [v for v in values if v.status == "measured"] or [v for v in values if v.joules]
            ours_j = sum(v.joules for v in values) if values else None
            ours_by = ", ".join(dict.fromkeys(v.basis for v in values)) or "no sensor"
            theirs_j = getattr(data, f"{name}_energy") * JOULES_PER_KWH
            theirs_by = methods.get(name, "not tracked")
            if not theirs_j or not ours_j:
                why = "only CodeCarbon has any" if theirs_j else "CodeCarbon has none"
            elif abs(theirs_j / ours_j - 1) <= SAME:
                why = f"within {SAME:.0%}"
            else:
                why = f"{theirs_by}, against {ours_by}"
            rows.append((name, ours_j, theirs_j, ours_by, theirs_by, why))
        columns = ["component", "ours_j", "theirs_j", "ours_by", "theirs_by", "why"]
        table = pandas.DataFrame(rows, columns=columns).astype({"ours_j": float})
        seconds = f"{reading.seconds:.3g} s", f"{data.duration:.3g} s"
        table.loc[len(table)] = ["all", table["ours_j"].sum(), table["theirs_j"].sum(), *seconds, ""]
        table.insert(3, "ours_g", table["ours_j"] / JOULES_PER_KWH * grid(self.country)["carbon_intensity"])
        table.insert(4, "theirs_g", table["theirs_j"] / (table["theirs_j"].iloc[-1] or 1.0) * grams)
        return table


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
            watts = f"{getattr(part, '_tdp', math.nan):g} W for the processor"
            mode = getattr(part, "_mode", "")
            known = {"cpu_load": f"the whole machine's load x {watts}", "constant": f"half of {watts}"}
            methods["cpu"] = known.get(mode, f"{mode} of the machine")
    return methods
