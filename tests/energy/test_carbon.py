"""Carbon: CodeCarbon's factors, offline, for a stated country only."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from bpfree.energy import EnergyMeter, EnergyValue, Reading, carbon


def reading(country="POL", measured=3.6e6, estimated=7.2e6):
    values = (
        EnergyValue("rapl", "cpu:package-0", "measured", measured, measured, measured),
        EnergyValue("estimate", "cpu:process", "estimated", estimated, estimated, estimated),
    )
    return Reading("r", 10.0, values, country)


def test_grams_are_kilowatt_hours_times_the_factor():
    footprint = reading().gco2e
    assert footprint.measured_g == pytest.approx(footprint.g_per_kwh)  # 1 kWh
    assert footprint.estimated_g == pytest.approx(2 * footprint.g_per_kwh)
    assert footprint.country_name == "Poland"
    assert 2000 < footprint.year < 2100
    assert footprint.source == f"CodeCarbon {version('codecarbon')}"
    assert str(footprint.year) in str(footprint)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_factor_is_codecarbons_own():
    """CodeCarbon's own calculation for the same energy and country."""
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    for country, name in (("POL", "Poland"), ("FRA", "France"), ("DEU", "Germany")):
        kilograms = Emissions(DataSource()).get_country_emissions(
            Energy.from_energy(kWh=1.0), GeoMetadata(country_iso_code=country, country_name=name)
        )
        assert reading(country).gco2e.measured_g == pytest.approx(1000 * kilograms, rel=1e-6)


def test_no_country_no_carbon():
    assert reading(country=None).gco2e is None


def test_what_was_not_measured_has_no_grams():
    footprint = Reading("r", 1.0, (reading().values[1],), "POL").gco2e
    assert footprint.measured_g is None
    assert footprint.estimated_g is not None
    assert "measured" not in str(footprint)


@pytest.mark.parametrize(
    ("wrong", "hint"), [("POLAND", "'POL'"), ("pol", "'POL'"), ("Poland", "'POL'"), ("XQZ", "ISO")]
)
def test_unknown_country_is_an_error_before_the_run(wrong, hint):
    with pytest.raises(ValueError, match="Unknown country") as error:
        EnergyMeter(country=wrong)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", [None, "", 0])
def test_footprint_needs_a_country(missing):
    with pytest.raises(ValueError, match="Unknown country"):
        carbon.footprint(1.0, None, missing)


def test_a_country_without_a_factor_is_an_error(monkeypatch):
    entry = {"country_name": "Nowhere", "year": 2020, "carbon_intensity": 0.0}
    monkeypatch.setattr(carbon, "_grids", lambda: {"NWH": entry})
    with pytest.raises(ValueError, match="no carbon intensity"):
        carbon.footprint(1.0, None, "NWH")


def test_missing_codecarbon_says_what_to_install(monkeypatch):
    carbon._grids.cache_clear()
    monkeypatch.setattr(carbon, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install codecarbon"):
        EnergyMeter(country="POL")


def test_lookup_is_silent_offline_and_leaves_nothing(python, tmp_path):
    """A whole metered run with carbon, in a fresh interpreter: no socket, no file written, no output."""
    code = """
import sys
opened, written = [], []
def audit(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.posix_spawn", "os.fork")):
        opened.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        written.append(arguments[0])
sys.dont_write_bytecode = True
sys.addaudithook(audit)
import threading
from bpfree.energy import EnergyMeter
with EnergyMeter(country="POL", trace=True, hz=50) as meter:
    sum(range(10**6))
grams = meter.reading.gco2e
meter.trace, str(meter.reading), meter.reading.to_dict(), meter.reading.frame()
assert not opened, opened
assert not written, written
assert threading.enumerate() == [threading.main_thread()]
assert "codecarbon" not in sys.modules
assert "torch" not in sys.modules
"""
    done = python("-c", code, PYTHONPATH=str(Path.cwd()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_to_dict_carries_the_factor():
    record = json.loads(reading().to_json())
    assert record["gco2e"]["g_per_kwh"] > 0
    assert record["gco2e"]["country"] == "POL"
