"""RAPL through perf events: an imitated PMU, a stub of the system call, and the call itself on a clock."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import time

import pytest

from bpfree.energy import check, perf
from conftest import HandMeter, files_held

LABELS = {"energy-cores": 1, "energy-pkg": 2, "energy-ram": 3, "energy-gpu": 4, "energy-psys": 5}
SCALE = "2.3283064365386962890625e-10"  # as Linux writes 2^-32
CPU_CLOCK = 1, 0  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK: nanoseconds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="perf is Linux's")


class Pmu:
    """The files of the PMU "power", and counters that this process may open: ``add`` puts joules on one."""

    KIND = 23

    def __init__(self, sysfs, cpus="0", packages=None):
        self.path = sysfs / "bus/event_source/devices/power"
        (self.path / "events").mkdir(parents=True)
        self.write("type", self.KIND)
        self.write("cpumask", cpus)
        for label, number in LABELS.items():
            self.event(label, f"event=0x{number:02x}")
        for cpu, package in (packages or {0: 0}).items():
            topology = sysfs / f"devices/system/cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text(f"{package}\n")
        self.joules, self.files, self.opened, self.refuse = {}, {}, [], {}
        self.store = sysfs

    def write(self, name, content):
        (self.path / name).write_text(f"{content}\n")

    def event(self, label, asked="event=0x02", scale=SCALE, unit="Joules"):
        self.write(f"events/{label}", asked)
        self.write(f"events/{label}.scale", scale)
        self.write(f"events/{label}.unit", unit)

    def perf_event_open(self, kind, config, cpu):
        """A file in which every read of eight bytes shows the count."""
        assert kind == self.KIND
        self.opened.append((config, cpu))
        if (config, cpu) in self.refuse:
            raise OSError(self.refuse[config, cpu], os.strerror(self.refuse[config, cpu]))
        path = self.store / f"counter {config} {cpu}"
        path.touch()
        self.files[config, cpu] = descriptor = os.open(path, os.O_RDWR)
        self.add(0.0, config, cpu)
        return descriptor

    def add(self, joules, config=2, cpu=0, unit_j=2.0**-32):
        total = self.joules[config, cpu] = self.joules.get((config, cpu), 0.0) + joules
        count = round(total / unit_j).to_bytes(8, sys.byteorder)
        os.pwrite(self.files[config, cpu], 4096 * count, 0)
        os.lseek(self.files[config, cpu], 0, os.SEEK_SET)

    def end(self, config, cpu):
        """As a counter of a package that was unplugged."""
        os.ftruncate(self.files[config, cpu], 0)


@pytest.fixture
def pmu(powercap, monkeypatch):
    def make(*arguments):
        made = Pmu(powercap.sysfs, *arguments)
        monkeypatch.setattr(perf, "perf_event_open", made.perf_event_open)
        return made

    return make


@pytest.fixture
def denied(powercap, monkeypatch):
    """energy_uj is for root alone; root may read everything, so the refusal is imitated."""
    real = os.open

    def guarded(path, *arguments):
        if str(path).endswith("energy_uj"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", guarded)
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:0:0", "core")
    powercap.zone("intel-rapl:0:1", "dram")
    powercap.zone("intel-rapl:1", "psys")


def meter(powercap, clock, **options):
    return HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock, **options)


def values(reading):
    return {v.channel: v for v in reading.values}


def joules(reading):
    return {v.channel: pytest.approx(v.joules) for v in reading.values if v.status == "measured"}


def test_packages_and_dram_are_added_once_and_what_lies_inside_is_not(powercap, clock, pmu):
    power = pmu("0,18", {0: 0, 18: 1})
    with meter(powercap, clock) as m:
        clock.seconds += 10
        for cpu, package_j, dram_j in ((0, 500.0, 40.0), (18, 300.0, 30.0)):
            power.add(package_j, LABELS["energy-pkg"], cpu)
            power.add(dram_j, LABELS["energy-ram"], cpu)
    assert joules(m.reading) == {
        "cpu:package-0": 500.0,
        "cpu:package-1": 300.0,
        "dram:package-0": 40.0,
        "dram:package-1": 30.0,
    }
    assert m.reading.measured_j == pytest.approx(870.0)
    for value in m.reading.values:
        assert value.low <= value.joules <= value.high
    never = {"psys", "core:package-0", "core:package-1", "uncore:package-0", "uncore:package-1"}
    assert never <= dict(m.ignored).keys()
    assert {config for config, _ in power.opened} == {LABELS["energy-pkg"], LABELS["energy-ram"]}


def test_the_reading_says_by_which_way(powercap, clock, pmu, denied):
    power = pmu()
    with meter(powercap, clock) as m:
        clock.seconds += 1
        power.add(20.0)
        power.add(3.0, LABELS["energy-ram"])
    assert m.reading.provenance == "measured: rapl: perf (cpu:package-0, dram:package-0)"
    assert {v.interface for v in m.reading.values} == {"perf"}
    assert [channel for channel, _ in m.ignored].count("psys") == 1
    assert {v.status for v in m.reading.values} == {"measured"}  # powercap's refusals are of no interest


def test_interval_is_what_the_limits_allow_that_powercap_states_for_all(powercap, clock, pmu, denied):
    (powercap.path("intel-rapl:0") / "constraint_0_power_limit_uw").write_text("100000000")
    power = pmu()
    with meter(powercap, clock) as m:
        for _ in range(2):
            clock.seconds += 1
            power.add(50.0)
            m._sample()
        with m.window() as window:
            clock.seconds += 1
            power.add(50.0)
        clock.seconds += 1
        power.add(50.0)
        m._sample()
    value, edge = values(window.reading)["cpu:package-0"], 2 * 100.0 * 1.5e-3  # twice the limit, 1.5 updates
    assert (value.low, value.high) == pytest.approx((50.0 - edge, 50.0 + edge), abs=1e-4)


def test_where_powercap_can_be_read_perf_is_left_alone(powercap, clock, pmu):
    power = pmu()
    powercap.zone("intel-rapl:0", "package-0")
    with meter(powercap, clock) as m:
        clock.seconds += 1
        powercap.set(rapl_0=6_000_000)
    assert m.reading.measured_j == pytest.approx(5.0)
    assert m.reading.provenance == "measured: rapl (cpu:package-0)"
    assert power.opened == []


def test_where_neither_can_be_read_one_line_says_both_reasons(powercap, clock, pmu, denied):
    pmu().refuse = {(number, 0): errno.EACCES for number in LABELS.values()}
    with meter(powercap, clock) as m:
        clock.seconds += 1
    assert values(m.reading).keys() == {"cpu:package-0", "dram:package-0"}
    for value in m.reading.values:
        assert (value.status, value.joules) == ("unavailable", None)
        assert "run as root" in value.reason
        assert "kernel.perf_event_paranoid" in value.reason
        assert "\n" not in value.reason


def test_without_both_one_line_says_so(powercap, clock):
    shutil.rmtree(powercap.root)
    with meter(powercap, clock) as m:
        pass
    [value] = m.reading.values
    assert value.channel == "cpu"
    assert "no RAPL zones under" in value.reason
    assert "bus/event_source/devices/power" in value.reason


@pytest.mark.parametrize(("scale", "unit_j"), [("6.103515625e-05", 2.0**-14), ("1e-6", 1e-6)])
def test_what_a_count_is_the_files_say(powercap, clock, pmu, scale, unit_j):
    power = pmu()
    power.event("energy-pkg", "event=0x9", scale)
    with meter(powercap, clock) as m:
        clock.seconds += 1
        power.add(64.0, 9, 0, unit_j)
    assert values(m.reading)["cpu:package-0"].joules == pytest.approx(64.0)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"unit": "Watts"}, "Watts"),
        ({"scale": "0"}, "0 Joules"),
        ({"scale": "-1e-6"}, "-1e-6 Joules"),
        ({"scale": "many"}, "many"),
        ({"asked": "event=0x02,umask=0x1"}, "umask"),
        ({"asked": ""}, "asks for"),
    ],
)
def test_an_event_that_cannot_be_understood_is_not_counted(powercap, clock, pmu, broken, says):
    power = pmu()
    power.event("energy-pkg", **broken)
    with meter(powercap, clock) as m:
        clock.seconds += 1
        power.add(3.0, LABELS["energy-ram"])
    package = values(m.reading)["cpu:package-0"]
    assert (package.status, package.joules) == ("unavailable", None)
    assert says in package.reason
    assert joules(m.reading) == {"dram:package-0": 3.0}


@pytest.mark.parametrize(
    ("name", "content"), [("type", "x"), ("cpumask", ""), ("cpumask", "0-"), ("type", "")]
)
def test_a_pmu_that_cannot_be_understood_is_a_reason(powercap, clock, pmu, name, content):
    pmu().write(name, content)
    with meter(powercap, clock) as m:
        pass
    [value] = m.reading.values
    assert (value.channel, value.status) == ("cpu", "unavailable")
    assert "cannot be understood" in value.reason


def test_dies_that_may_share_a_counter_are_refused(powercap, clock, pmu):
    """Linux 6.9 to 6.11 list every die of an AMD package, all of which show the package's energy."""
    power = pmu("0-1,8", {0: 0, 1: 0, 8: 1})
    with meter(powercap, clock) as m:
        clock.seconds += 1
        power.add(7.0, LABELS["energy-pkg"], 8)
        power.add(2.0, LABELS["energy-ram"], 8)
    assert joules(m.reading) == {"cpu:package-1": 7.0, "dram:package-1": 2.0}
    assert "2 CPUs of one package" in values(m.reading)["cpu:package-0"].reason
    assert {cpu for _, cpu in power.opened} == {8}


def test_a_package_that_is_not_there_has_its_reason(powercap, clock, pmu):
    power = pmu("0,18", {0: 0, 18: 1})
    power.refuse = {(number, 18): errno.ENODEV for number in LABELS.values()}
    with meter(powercap, clock) as m:
        clock.seconds += 1
        power.add(5.0)
        power.add(1.0, LABELS["energy-ram"])
    assert joules(m.reading) == {"cpu:package-0": 5.0, "dram:package-0": 1.0}
    assert "CPU 18: No such device" in values(m.reading)["cpu:package-1"].reason


@pytest.mark.parametrize("how", ["ends", "stands still"])
def test_a_package_that_is_unplugged_takes_the_total_with_it(powercap, clock, pmu, how):
    power = pmu("0,18", {0: 0, 18: 1})
    with meter(powercap, clock) as m:
        for second in range(8):
            clock.seconds += 1
            for cpu in (0, 18):
                if cpu == 0 or second < 4:
                    power.add(5.0, LABELS["energy-pkg"], cpu)
                    power.add(1.0, LABELS["energy-ram"], cpu)
            if second == 4 and how == "ends":
                power.end(LABELS["energy-pkg"], 18)
            m._sample()
    lost = values(m.reading)["cpu:package-1"]
    assert (lost.status, lost.joules) == ("unavailable", None)
    assert ("perf has ended the counter" if how == "ends" else "stood still") in lost.reason
    assert "cpu:package-1" in m.reading.lacking
    assert m.reading.measured_j is None
    assert values(m.reading)["cpu:package-0"].joules == pytest.approx(40.0)


def test_a_count_of_64_bits_is_kept_to_the_joule(powercap, clock, pmu):
    """2^64 counts of 2^-32 J are 4.3 GJ: close to them, nothing on the way is a float of the count."""
    power = pmu()
    with meter(powercap, clock) as m:
        power.add(4.294e9 - 1000)  # one leap, which cannot be
        clock.seconds += 10
        m._sample()
        with m.window() as window:
            clock.seconds += 1
            power.add(50.0)
    assert window.reading.values[0].joules == pytest.approx(50.0, abs=1e-5)
    assert "leapt" in values(m.reading)["cpu:package-0"].reason


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no list of open files here")
def test_descriptors_are_closed(powercap, clock, pmu):
    pmu("0,18", {0: 0, 18: 1}).refuse = {(LABELS["energy-ram"], 18): errno.ENODEV}
    assert files_held(lambda: meter(powercap, clock)) == 3


def test_another_architecture_is_refused_with_a_reason(powercap, clock, monkeypatch):
    Pmu(powercap.sysfs)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with meter(powercap, clock) as m:
        pass
    assert "x86_64 only" in values(m.reading)["cpu:package-0"].reason


def test_the_check_lists_it(powercap, pmu, monkeypatch):
    power = pmu()
    begun = time.perf_counter()

    def read(descriptor, n, real=os.read):  # 20 W
        if descriptor == power.files.get((2, 0)):
            return round(20 * (time.perf_counter() - begun) * 2**32).to_bytes(n, sys.byteorder)
        return real(descriptor, n)

    monkeypatch.setattr(os, "read", read)
    table = check(0.2, sources=["rapl"], sysfs=powercap.sysfs)
    found = {row.channel: row for row in table}
    assert found["cpu:package-0"].status == "measured"
    assert "perf" in found["cpu:package-0"].detail
    assert found["cpu:package-0"].seen["idle_w"] > 0
    assert found["psys"].status == "left out"


def test_the_system_call_itself_on_a_clock_of_one_watt(powercap):
    """The kernel's own clock of CPU 0 in nanoseconds, sold to the meter as a package that draws 1 W."""
    try:
        os.close(perf.perf_event_open(*CPU_CLOCK, 0))
    except OSError as error:
        pytest.skip(f"perf is not allowed here: {error}")
    power = Pmu(powercap.sysfs)
    for label in LABELS:
        (power.path / "events" / label).unlink()
    power.write("type", CPU_CLOCK[0])
    power.event("energy-pkg", "event=0x00", "1e-9")
    with HandMeter(sources=["rapl"], sysfs=powercap.sysfs) as m:
        with m.window() as window:
            time.sleep(0.3)
        assert not any(os.get_inheritable(int(n)) for n in os.listdir("/proc/self/fd") if _perf(n))
    [value] = window.reading.values
    assert value.low <= window.reading.seconds <= value.high
    assert value.joules == pytest.approx(window.reading.seconds, abs=0.1)


def test_the_system_call_asks_for_the_event_that_it_is_given():
    """Of the kernel's software events the dummy counts nothing; its neighbours count time."""
    dummy, task_clock = (perf.Event("", "", CPU_CLOCK[0], number, 0, 1.0) for number in (9, 1))
    try:
        opened = [event.open() for event in (dummy, task_clock)]
    except OSError as error:
        pytest.skip(f"perf is not allowed here: {error}")
    time.sleep(0.01)
    assert [read() > 0 for read, _ in opened] == [False, True]
    for _, close in opened:
        close()


def _perf(descriptor):
    try:
        return "perf_event" in os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return False
