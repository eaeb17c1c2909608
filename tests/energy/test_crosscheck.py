"""CodeCarbon beside the meter: both joules by component, both grams, and why they differ."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from bpfree.energy import EnergyMeter, carbon, crosscheck
from conftest import HandMeter

KWH = 3.6e6


class CPU:
    _mode, _tdp = "cpu_load", 65.0


class RAM:
    pass


class GPU:
    pass


class Tracker:
    """As CodeCarbon's: 1,100 J of the GPU, 600 J of the CPU, 200 J of memory."""

    _hardware = (CPU(), RAM(), GPU())

    def __init__(self, fails=""):
        self.fails, self.calls = fails, []
        parts = {"gpu_energy": 1100 / KWH, "cpu_energy": 600 / KWH, "ram_energy": 200 / KWH}
        self.final_emissions_data = SimpleNamespace(duration=10.1, **parts)

    def start(self):
        self.calls.append("start")
        if self.fails == "start":
            raise OSError("no such sensor")

    def stop(self):
        self.calls.append("stop")
        return 1e-3 * 1900 / KWH * carbon.grid("POL")["carbon_intensity"]


@pytest.fixture
def tracked(monkeypatch):
    def use(**options) -> Tracker:
        tracker = Tracker(**options)
        monkeypatch.setattr(crosscheck, "_offline", lambda country: tracker)
        return tracker

    return use


def test_both_bills_by_component(stub, powercap, tracked):
    tracked()
    powercap.zone("intel-rapl:0", "package-0", 0)
    stub.at(10.0)
    options = {"country": "POL", "crosscheck": "codecarbon", "sysfs": powercap.sysfs}
    sources = ["nvml-counter", "rapl"]
    with HandMeter(sources=sources, _clock=stub.clock, _sleep=stub.sleep, **options) as meter:
        stub.at(15.0)
        powercap.set(rapl_0=150_000_000)
        meter._sample()
        stub.at(20.0)
        powercap.set(rapl_0=300_000_000)
    table = meter.crosscheck.set_index("component")
    assert table.ours_j["gpu"] == pytest.approx(1000.0, rel=0.01)
    assert table.theirs_j["gpu"] == pytest.approx(1100.0)
    assert table.ours_j["cpu"] == pytest.approx(300.0, rel=0.01)
    assert "load x 65 W" in table.why["cpu"]
    assert math.isnan(table.ours_j["ram"])
    assert table.why["ram"] == "only CodeCarbon has any"
    factor = carbon.grid("POL")["carbon_intensity"]
    for theirs, parts in ((1100, "gpu"), (600, "cpu"), (200, "ram"), (1900, "all")):
        assert table.theirs_g[parts] == pytest.approx(theirs / KWH * factor)
    assert table.ours_g["all"] == pytest.approx(1300 / KWH * factor, rel=0.01)


def test_an_estimate_stands_where_nothing_is_measured(tracked):
    tracked()
    with EnergyMeter(sources=["estimate"], country="POL", crosscheck="codecarbon") as meter:
        sum(range(1_000_000))
        assert meter.crosscheck is None  # not yet
    cpu = meter.crosscheck.set_index("component").loc["cpu"]
    assert cpu.ours_j == meter.reading.estimated_j
    assert "CPU seconds" in cpu.ours_by


def test_a_tracker_that_fails_ends_no_run(tracked):
    tracker = tracked(fails="start")
    with EnergyMeter(sources=["estimate"], country="POL", crosscheck="codecarbon") as meter:
        pass
    assert tracker.calls == ["start"]
    assert meter.reading.estimated_j is not None
    with pytest.raises(RuntimeError, match="OSError: no such sensor"):
        _ = meter.crosscheck


@pytest.mark.parametrize(
    ("options", "says"),
    [({"crosscheck": "codecarbon"}, "country="), ({"crosscheck": "zeus", "country": "POL"}, "codecarbon")],
)
def test_what_cannot_be_checked_is_refused_in_one_line(options, says):
    with pytest.raises(ValueError, match=says) as error:
        EnergyMeter(sources=["estimate"], **options)
    assert "\n" not in str(error.value)
    with EnergyMeter(sources=["estimate"]) as meter:
        pass
    with pytest.raises(RuntimeError, match="crosscheck='codecarbon'"):
        _ = meter.crosscheck


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_tracker():
    with EnergyMeter(sources=["estimate"], country="POL", crosscheck="codecarbon") as meter:
        sum(range(20_000_000))
    table = meter.crosscheck.set_index("component")
    assert float(table.theirs_by["all"].removesuffix(" s")) == pytest.approx(
        meter.reading.seconds, rel=0.5, abs=0.5
    )
    factor = carbon.grid("POL")["carbon_intensity"]
    assert table.theirs_g["all"] == pytest.approx(table.theirs_j["all"] / KWH * factor, rel=1e-3)
    assert table.theirs_j["ram"] > 0
