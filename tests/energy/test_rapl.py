"""RAPL against imitated powercap trees: what is added, what is not, wraps, and what cannot be read."""

from __future__ import annotations

import os
import shutil

import pytest

from bpfree.energy import rapl
from conftest import HandMeter, files_held

RANGE = 262_143_328_850


def meter(powercap, clock, **options):
    return HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock, **options)


def joules(reading):
    return {v.channel: v.joules for v in reading.values}


def test_two_sockets_with_dram_psys_and_mmio(powercap, clock):
    for socket in (0, 1):
        powercap.zone(f"intel-rapl:{socket}", f"package-{socket}")
        powercap.zone(f"intel-rapl:{socket}:0", "core")
        powercap.zone(f"intel-rapl:{socket}:1", "uncore")
        powercap.zone(f"intel-rapl:{socket}:2", "dram")
        powercap.zone(f"intel-rapl-mmio:{socket}", f"package-{socket}")
        powercap.zone(f"intel-rapl-mmio:{socket}:0", "dram")
    powercap.zone("intel-rapl:2", "psys")
    with meter(powercap, clock) as m:
        clock.seconds += 10
        powercap.set(rapl_0=501_000_000, rapl_1=301_000_000, rapl_0_2=41_000_000, rapl_1_2=31_000_000)
        powercap.set(rapl_0_0=400_000_000, rapl_0_1=90_000_000, rapl_2=2_000_000_000)
        powercap.set(mmio_0=502_000_000, mmio_1=302_000_000, mmio_0_0=42_000_000)
    assert joules(m.reading) == {
        "cpu:package-0": 500.0,
        "cpu:package-1": 300.0,
        "dram:package-0": 40.0,
        "dram:package-1": 30.0,
    }
    assert m.reading.measured_j == pytest.approx(870.0)
    left_out = dict(m.ignored)
    assert "never added" in left_out["psys"]
    assert {"core:package-0", "uncore:package-1", "cpu:package-0 (intel-rapl-mmio)"} <= left_out.keys()


def test_the_flat_view_of_sysfs_is_not_counted_twice(powercap, clock):
    """/sys/class/powercap shows every zone as a link beside the nested directories."""
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:0:0", "dram")
    for zone in ("intel-rapl:0", "intel-rapl:0:0"):
        (powercap.root / zone).symlink_to(powercap.path(zone))
    with meter(powercap, clock) as m:
        clock.seconds += 1
        powercap.set(rapl_0=3_000_000, rapl_0_0=2_000_000)
    assert joules(m.reading) == {"cpu:package-0": 2.0, "dram:package-0": 1.0}


def test_links_alone_suffice(powercap, clock, tmp_path):
    """As on a real machine: the class directory holds nothing but links, subzones included."""
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:0:0", "dram")
    classes = tmp_path / "links" / "class" / "powercap"
    classes.mkdir(parents=True)
    for zone in ("intel-rapl", "intel-rapl:0", "intel-rapl:0:0"):
        (classes / zone).symlink_to(powercap.path(zone))
    with HandMeter(sources=["rapl"], sysfs=tmp_path / "links", _clock=clock) as m:
        clock.seconds += 1
        powercap.set(rapl_0=3_000_000, rapl_0_0=2_000_000)
    assert joules(m.reading) == {"cpu:package-0": 2.0, "dram:package-0": 1.0}


def test_mmio_serves_where_the_first_interface_cannot_be_read(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0")
    (powercap.path("intel-rapl:0") / "energy_uj").unlink()
    powercap.zone("intel-rapl-mmio:0", "package-0")
    with meter(powercap, clock) as m:
        clock.seconds += 1
        powercap.set(mmio_0=6_000_000)
    assert joules(m.reading) == {"cpu:package-0": 5.0}


def test_mirrored_dies_are_counted_once_and_distinct_dies_are_added(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0-die-0", 7_000_000)
    powercap.zone("intel-rapl:1", "package-0-die-1", 7_000_000)  # the same counter
    powercap.zone("intel-rapl:2", "package-1-die-0", 7_000_000)  # another socket, equal by chance
    powercap.zone("intel-rapl:3", "package-1-die-1", 9_000_000)  # a counter of its own
    powercap.zone("intel-rapl:0:0", "dram", 4_000_000)
    powercap.zone("intel-rapl:1:0", "dram", 4_000_000)
    with meter(powercap, clock) as m:
        clock.seconds += 1
        powercap.set(rapl_0=17_000_000, rapl_1=17_000_000, rapl_2=27_000_000, rapl_3=10_000_000)
        powercap.set(rapl_0_0=5_000_000, rapl_1_0=5_000_000)
    assert joules(m.reading) == {
        "cpu:package-0-die-0": 10.0,
        "cpu:package-1-die-0": 20.0,
        "cpu:package-1-die-1": 1.0,
        "dram:package-0-die-0": 1.0,
    }
    assert "mirrors" in dict(m.ignored)["cpu:package-0-die-1"]


def test_a_wrap_inside_a_window_is_unwrapped_at_the_read(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0", RANGE - 3_000_000)
    with meter(powercap, clock) as m:
        with m.window() as wrapped:
            clock.seconds += 1
            powercap.set(rapl_0=2_000_000)
        with m.window() as plain:
            clock.seconds += 1
            powercap.set(rapl_0=9_000_000)
    assert wrapped.reading.measured_j == pytest.approx(5.0, rel=1e-3)
    assert plain.reading.measured_j == pytest.approx(7.0, rel=1e-3)
    assert m.reading.measured_j == pytest.approx(12.0, rel=1e-3)


def test_each_zone_wraps_at_its_own_range(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0", RANGE - 1_000_000, RANGE)
    powercap.zone("intel-rapl:0:0", "dram", 65_000_000_000, 65_532_610_987)
    with meter(powercap, clock) as m:
        clock.seconds += 1
        powercap.set(rapl_0=1_000_000, rapl_0_0=67_389_013)
    assert joules(m.reading) == {"cpu:package-0": 2.0, "dram:package-0": 600.0}


def test_without_a_range_a_backwards_counter_is_unavailable(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0", 50_000_000, range_uj=None)
    with meter(powercap, clock) as m:
        with m.window() as forwards:
            clock.seconds += 1
            powercap.set(rapl_0=60_000_000)
        with m.window() as backwards:
            clock.seconds += 1
            powercap.set(rapl_0=2_000_000)
    assert forwards.reading.measured_j == pytest.approx(10.0)
    assert "range unknown" in forwards.reading.values[0].basis
    assert backwards.reading.measured_j is None
    assert "backwards" in backwards.reading.values[0].reason


def test_permission_denied_is_unavailable_with_a_way_out(powercap, clock, monkeypatch):
    """Linux keeps energy_uj for root since 2020. Root may read everything, so the refusal is imitated."""
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:1", "package-1")
    denied, real = str(powercap.path("intel-rapl:1") / "energy_uj"), os.open

    def guarded(path, *arguments):
        if str(path) == denied:
            raise PermissionError(13, "Permission denied", denied)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", guarded)
    with meter(powercap, clock) as m:
        clock.seconds += 1
        powercap.set(rapl_0=3_000_000)
    values = {v.channel: v for v in m.reading.values}
    assert values["cpu:package-1"].status == "unavailable"
    assert values["cpu:package-1"].joules is None
    assert "run as root" in values["cpu:package-1"].reason
    assert m.reading.measured_j == pytest.approx(2.0)


@pytest.mark.parametrize("content", [None, "", "garbage"])
def test_an_unreadable_counter_is_unavailable(powercap, clock, content):
    powercap.zone("intel-rapl:0", "package-0")
    path = powercap.path("intel-rapl:0") / "energy_uj"
    path.unlink() if content is None else path.write_text(content)
    with meter(powercap, clock) as m:
        clock.seconds += 1
    assert m.reading.values[0].status == "unavailable"
    assert str(powercap.path("intel-rapl:0")) in m.reading.values[0].reason
    assert m.reading.measured_j is None


def test_a_counter_that_stands_still_is_unavailable(powercap, clock):
    """A virtual machine may show the files and never move them."""
    powercap.zone("intel-rapl:0", "package-0", 0)
    with meter(powercap, clock) as m:
        clock.seconds += 60
    assert (m.reading.values[0].status, m.reading.values[0].joules) == ("unavailable", None)
    assert "not moved" in m.reading.values[0].reason


def test_a_zone_that_vanishes_is_a_fault(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0")
    with meter(powercap, clock) as m:
        clock.seconds += 1
        (powercap.path("intel-rapl:0") / "energy_uj").write_text("")
    assert m.reading.values[0].status == "unavailable"


def test_no_powercap_at_all(powercap, clock):
    shutil.rmtree(powercap.root)
    with meter(powercap, clock) as m:
        clock.seconds += 1
    assert "no RAPL zones under" in m.reading.values[0].reason
    assert m.reading.measured_j is None


def test_interval_is_what_the_package_can_draw_in_an_update_and_a_half_at_each_edge(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0", 0)
    (powercap.path("intel-rapl:0") / "constraint_0_power_limit_uw").write_text("100000000")
    with meter(powercap, clock) as m:
        for second in (1, 2):
            clock.seconds += 1
            powercap.set(rapl_0=50_000_000 * second)
            m._sample()
        with m.window() as window:
            clock.seconds += 1
            powercap.set(rapl_0=150_000_000)
        clock.seconds += 1
        powercap.set(rapl_0=200_000_000)
        m._sample()
    [value] = window.reading.values
    edge = 2 * 100.0 * 1.5 * rapl.RAPL_PERIOD_S  # twice the limit
    assert value.joules == pytest.approx(50.0)
    assert value.low == pytest.approx(50.0 - edge, abs=1e-4)
    assert value.high == pytest.approx(50.0 + edge, abs=1e-4)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no list of open files here")
def test_files_are_closed(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0")
    assert files_held(lambda: meter(powercap, clock)) == 1


def test_estimate_stands_beside_the_package_and_outside_the_bill(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0")
    with HandMeter(sources=["rapl", "estimate"], sysfs=powercap.sysfs, _clock=clock) as m:
        sum(range(200_000))
        clock.seconds += 1
        powercap.set(rapl_0=31_000_000)
    reading = m.reading
    assert reading.measured_j == pytest.approx(30.0)
    assert reading.estimated_j > 0
    assert reading.provenance.startswith("measured: rapl (cpu:package-0); estimated: CPU seconds x")
    assert "beside the bill" in str(reading)
