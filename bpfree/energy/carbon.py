"""Grams of CO2 equivalent, from CodeCarbon's table of national grids, offline.

    gCO2e = joules / 3.6e6 J/kWh x carbon intensity of the country's grid in g/kWh

The table is read as a data file of the installed ``codecarbon`` distribution. The package itself is not
imported: that would start its logging and telemetry. A country that the table does not have is an error
and never a world average.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Footprint:
    """Carbon of one reading; measured and estimated grams stay apart, as their joules do."""

    country: str
    country_name: str
    g_per_kwh: float
    year: int
    source: str
    measured_g: float | None
    estimated_g: float | None

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        both = {"measured": self.measured_g, "estimated": self.estimated_g}
        grams = [f"{value:.4g} gCO2e {status}" for status, value in both.items() if value is not None]
        factor = f"{self.g_per_kwh:g} g/kWh, {self.country_name} {self.year}, {self.source}"
        return f"{', '.join(grams) or 'unknown: no joules'} ({factor})"


@cache
def _grids() -> dict[str, dict]:
    spec = find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("Carbon needs CodeCarbon's grid data: pip install codecarbon")
    folder = Path(spec.submodule_search_locations[0])
    return json.loads((folder / "data" / "private_infra" / "global_energy_mix.json").read_text("utf-8"))


def grid(country: str) -> dict:
    """CodeCarbon's entry of a country: ``carbon_intensity`` in g/kWh, ``year``, ``country_name``.

    Raises ValueError for anything but an ISO 3166-1 alpha-3 code with a known carbon intensity.
    """
    grids, text = _grids(), str(country)
    if not isinstance(country, str) or country not in grids:
        near = [code for code, entry in grids.items() if entry["country_name"].lower() == text.lower()]
        near = near or difflib.get_close_matches(text.upper(), grids, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        given = f"Unknown country {country!r}"
        raise ValueError(f"{given}: give a three-letter ISO 3166-1 code such as 'POL'{hint}")
    if not grids[country].get("carbon_intensity"):
        lacking = f"CodeCarbon has no carbon intensity for {country!r}"
        raise ValueError(f"{lacking}: give another country's grid or none")
    return grids[country]


def footprint(measured_j: float | None, estimated_j: float | None, country: str) -> Footprint:
    """Grams CO2e of measured and of estimated joules on the grid of ``country``; None stays None."""
    entry = grid(country)
    intensity = entry["carbon_intensity"]
    source = f"CodeCarbon {version('codecarbon')}"
    grams = [None if j is None else j / JOULES_PER_KWH * intensity for j in (measured_j, estimated_j)]
    return Footprint(country, entry["country_name"], intensity, int(entry["year"]), source, *grams)
