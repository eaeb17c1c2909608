"""Sources of one's own: their energy is right inside its interval, counted once, and never passed over."""

from __future__ import annotations

import math
import os
import random
import time

import pytest
import torch  # noqa: F401  before a fixture puts a stand-in in its place

from bpfree.energy import EnergyMeter, FileSource, Reading, check
from conftest import HandMeter


class Wattmeter:
    """A sensor of a known power P(t), which it shows as it was at its last update."""

    def __init__(self, clock, power, energy, *, unit="W", channel="machine", name="wattmeter", **more):
        self.clock, self.power, self.energy = clock, power, energy
        self.unit, self.channel, self.name = unit, channel, name
        self.period_s = more.pop("period_s", 0.1)
        self.phase = more.pop("phase", 0.0)
        vars(self).update(more)
        self.closed = 0

    def read(self):
        seen = self.clock.seconds
        if self.period_s:
            seen = math.floor((seen - self.phase) / self.period_s) * self.period_s + self.phase
        return self.power(seen) if self.unit == "W" else self.energy(seen)

    def close(self):
        self.closed += 1


def constant(clock, watts, **more):
    return Wattmeter(clock, lambda t: watts, lambda t: watts * t, **more)


def run(clock, *sources, seconds=20.0, hz=5.0, sample=True, during=lambda: None, **options) -> EnergyMeter:
    with HandMeter(sources=list(sources), hz=hz, _clock=clock, **options) as meter:
        for _ in range(int(seconds * hz)):
            clock.seconds += 1 / hz
            during()
            if sample:
                meter._sample()
    return meter


def values(reading: Reading) -> dict:
    return {v.source: v for v in reading.values}


# -------------------------------------------------------------------- its energy


@pytest.mark.parametrize("unit", ["J", "W"])
@pytest.mark.parametrize("period_s", [0.05, 1.0, 3.0])
def test_intervals_hold_the_true_energy_of_a_sine_at_random_phases(clock, unit, period_s):
    """∫ b + a sin(ωt) dt = b t - a/ω cos(ωt); the sensor shows it up to one of its periods late."""
    rng, trials, covered, widths = random.Random(f"{unit}{period_s}"), 60, 0, []
    for _ in range(trials):
        base, amplitude, omega = 200.0, rng.uniform(0, 150), rng.uniform(0.2, 1.0)

        def energy(t, b=base, a=amplitude, w=omega):
            return b * t - a / w * math.cos(w * t)

        def power(t, b=base, a=amplitude, w=omega):
            return b + a * math.sin(w * t)

        clock.seconds = begun = rng.uniform(100, 110)
        phase = rng.uniform(0, period_s)
        source = Wattmeter(clock, power, energy, unit=unit, period_s=period_s, phase=phase)
        [value] = run(clock, source, seconds=40.0).reading.values
        truth = energy(clock.seconds) - energy(begun)
        covered += value.low <= truth <= value.high
        widths.append((value.high - value.low) / truth)
        assert value.joules == pytest.approx(truth, rel=0.1)
    assert covered >= 0.99 * trials
    assert max(widths) < {0.05: 0.15, 1.0: 0.6, 3.0: 1.6}[period_s]  # one that covers everything says nothing


def test_power_is_flagged_as_sampled_and_a_counter_is_not(clock):
    meter = run(
        clock, constant(clock, 50.0, name="a"), constant(clock, 30.0, name="b", unit="J", channel="npu")
    )
    sampled, counted = values(meter.reading)["a"], values(meter.reading)["b"]
    assert "sampled-power" in sampled.flags
    assert "power at 20 Hz" in sampled.basis
    assert counted.flags == ("unsettled",)  # the clock of this test stops with the meter
    assert counted.joules == pytest.approx(600.0, rel=0.01)
    options = {"hz": 1.0, "seconds": 5.0, "sample": False}
    [edges] = run(clock, constant(clock, 50.0, period_s=2.1), **options).reading.values
    assert edges.joules == pytest.approx(250.0)
    assert "sampling-gap" not in edges.flags
    [edges] = run(clock, constant(clock, 50.0, period_s=1.9), **options).reading.values
    assert "sampling-gap" in edges.flags


def test_what_a_slow_sensor_shows_late_is_inside_the_interval(clock):
    """300 W more, from just after an update to just before the next but one: shown for 3 of 5.8 seconds."""

    def power(t):
        return 400.0 if 0.1 < t % 12 < 5.9 else 100.0

    clock.seconds = 120.0
    [value] = run(clock, Wattmeter(clock, power, None, period_s=3.0), seconds=60.0).reading.values
    truth = 60 * 100.0 + 5 * 5.8 * 300.0
    assert truth - value.joules > 4000.0
    assert value.low <= truth <= value.high


def test_the_documented_tolerance_widens_the_interval(clock):
    [plain] = run(clock, constant(clock, 100.0)).reading.values
    [wide] = run(clock, constant(clock, 100.0, tolerance_w=5.0)).reading.values
    assert wide.high - plain.high == pytest.approx(5.0 * 20.0)


# -------------------------------------------------------------------- counted once


@pytest.fixture
def package(powercap, clock):
    """A CPU package of 30 W with 4 W of DRAM, beside which a source of one's own is metered."""
    powercap.zone("intel-rapl:0", "package-0", 0)
    powercap.zone("intel-rapl:0:0", "dram", 0)

    def metered(*sources, package_w=30.0, **options):
        def during():
            now = clock.seconds - 100
            powercap.set(rapl_0=round(package_w * 1e6 * now), rapl_0_0=round(4e6 * now))

        during()
        return run(clock, "rapl", *sources, during=during, sysfs=powercap.sysfs, **options).reading

    return metered


def joules_added(reading):
    return {v.channel: round(v.joules) for v in reading.values if v.primary}


def test_the_whole_machine_is_the_total_and_the_others_are_its_parts(clock, package):
    reading = package(constant(clock, 90.0))
    assert joules_added(reading) == {"machine": 1800}
    assert reading.measured_j == pytest.approx(1800.0, rel=0.01)
    assert reading.provenance == "measured: wattmeter (machine)"
    parts = [v for v in reading.values if v.source == "rapl"]
    assert [v.joules for v in parts] == pytest.approx([600.0, 80.0], rel=0.01)
    assert {v.role for v in parts} == {"counted already, not added"}
    assert not any("sources-disagree" in v.flags for v in reading.values)


def test_the_same_channel_is_counted_by_ones_own_source_and_checked_by_the_other(clock, package):
    reading = package(constant(clock, 31.0, channel="cpu:package-0"))
    assert joules_added(reading) == {"cpu:package-0": 620, "dram:package-0": 80}
    assert reading.provenance == "measured: wattmeter (cpu:package-0), rapl (dram:package-0)"
    clock.seconds = 100.0
    reading = package(constant(clock, 60.0, channel="cpu:package-0"))
    assert "sources-disagree" in values(reading)["wattmeter"].flags


def test_a_channel_holds_those_that_begin_with_it(clock, package):
    assert joules_added(package(constant(clock, 40.0, channel="cpu"))) == {"cpu": 800, "dram:package-0": 80}
    clock.seconds = 100.0
    reading = package(constant(clock, 40.0, channel="cpu"), constant(clock, 50.0, name="plug"))
    assert joules_added(reading) == {"machine": 1000}
    assert not any("sources-disagree" in v.flags for v in reading.values)  # 40 and 4 W are within 50


def test_any_other_part_is_added(clock, package):
    reading = package(constant(clock, 10.0, channel="npu"), constant(clock, 5.0, channel="fan", name="other"))
    assert joules_added(reading) == {"npu": 200, "fan": 100, "cpu:package-0": 600, "dram:package-0": 80}


def test_parts_that_are_more_than_the_whole_contradict_it(clock, package):
    reading = package(constant(clock, 0.09))  # whoever wrote it meant kilowatts
    assert "sources-disagree" in values(reading)["wattmeter"].flags
    assert reading.provenance == "measured: wattmeter (machine, contradicted)"


def test_without_the_machine_that_was_asked_for_there_is_no_total(clock, package):
    source = constant(clock, 90.0)
    source.read = lambda: 1 / 0
    reading = package(source)
    assert (reading.measured_j, reading.lacking) == (None, ("machine",))
    assert "ZeroDivisionError" in values(reading)["wattmeter"].reason
    assert reading.provenance == "incomplete: machine could not be read"


def test_a_gpu_of_ones_own_counts_whatever_process_uses_it(clock, stub):
    """Beside NVML's, which this process does not use, and where there is no NVML at all."""
    import sys
    import types

    idle = types.SimpleNamespace(cuda=types.SimpleNamespace(is_initialized=lambda: False))
    sys.modules["torch"] = idle  # the fixture takes it away again
    for sources in (["nvml-counter"], []):
        reading = run(clock, *sources, constant(clock, 70.0, channel="gpu:0")).reading
        assert joules_added(reading) == {"gpu:0": 1400}


# -------------------------------------------------------------------- what fails


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "12 W", -1.0])
@pytest.mark.parametrize("unit", ["J", "W"])
def test_what_is_no_energy_is_a_fault(clock, unit, bad):
    source = constant(clock, 40.0, unit=unit)
    good = source.read
    with HandMeter(sources=[source], _clock=clock) as meter:
        clock.seconds += 5
        source.read = lambda: bad
        with meter.window() as blind:
            clock.seconds += 5
        source.read = good
        clock.seconds += 5
        meter._sample()
        with meter.window() as seeing:
            clock.seconds += 5
    for reading in (blind.reading, meter.reading):
        assert reading.measured_j is None
        assert reading.lacking == ("machine",)
        assert values(reading)["wattmeter"].reason
    assert seeing.reading.measured_j == pytest.approx(200.0)


def test_a_counter_that_steps_back_leaps_or_stands_still_is_lost(clock):
    for energy, says in (
        (lambda t: 40 * (t % 110), "went backwards"),
        (lambda t: 40 * t + (1e9 if t > 110 else 0), "leapt by 1e+09 J"),
        (lambda t: 40 * min(t, 110), "stood still"),
        (lambda t: 40.0, "has not moved"),
    ):
        clock.seconds = 100.0
        source = Wattmeter(clock, None, energy, unit="J")
        with HandMeter(sources=[source], _clock=clock) as meter:
            clock.seconds += 9.9
            meter._sample()
            clock.seconds += 0.3
            meter._sample()
            with meter.window() as later:
                clock.seconds += 9.8
        reading = later.reading if says == "stood still" else meter.reading
        assert says in values(reading)["wattmeter"].reason
        assert (reading.measured_j, reading.lacking) == (None, ("machine",))


def test_a_counter_that_is_seldom_updated_steps_and_does_not_leap(clock):
    slow = constant(clock, 100.0, unit="J", period_s=30.0, max_power_w=150.0)
    [value] = run(clock, slow, seconds=300.0).reading.values
    assert value.joules == pytest.approx(30_000.0, rel=0.1)
    assert value.low <= 30_000.0 <= value.high


def test_more_than_it_can_draw_is_a_fault(clock):
    assert run(clock, constant(clock, 30_000.0)).reading.measured_j is None
    [value] = run(clock, constant(clock, 400.0, max_power_w=300.0)).reading.values
    assert "it showed 400 W; more than 300 W cannot be" in value.reason
    assert run(clock, constant(clock, 200.0, max_power_w=300.0)).reading.measured_j == pytest.approx(4000.0)


def test_it_is_closed_once_whatever_that_does(clock):
    source, other = constant(clock, 5.0), constant(clock, 5.0, name="other", channel="fan")
    other.close = lambda: 1 / 0
    run(clock, other, source)
    assert source.closed == 1
    del Wattmeter.close  # it may be left out
    try:
        assert run(clock, constant(clock, 5.0)).reading.measured_j == pytest.approx(100.0)
    finally:
        Wattmeter.close = lambda self: setattr(self, "closed", self.closed + 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "rapl"}, "sources=rapl, rapl: give each a name of its own"),
        ({"name": ""}, "name='', give a name"),
        ({"channel": None}, "channel=None"),
        ({"unit": "mW"}, "unit='mW', give 'J' (counted) or 'W' (power now)"),
        ({"period_s": 0.0}, "period_s=0.0, give a number above 0"),
        ({"tolerance_w": -1}, "tolerance_w=-1, give a number 0 or more"),
        ({"max_power_w": math.inf}, "max_power_w=inf"),
    ],
)
def test_what_cannot_be_a_source_is_refused_in_one_line(clock, change, says):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        EnergyMeter(sources=["rapl", constant(clock, 1.0, **change)])
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="energy source 3 has no name, unit, channel, period_s, read"):
        EnergyMeter(sources=[3])


def test_it_is_traced_and_listed_by_its_name(clock, tmp_path):
    frame = run(clock, constant(clock, 60.0), trace=True, seconds=2.0).trace
    watts = frame[frame["channel"] == "machine (wattmeter)"]
    assert set(watts["unit"]) == {"W"}
    assert watts["value"].tolist() == pytest.approx([60.0] * 10)
    (tmp_path / "plug").write_text("60\n")
    plug = FileSource(tmp_path / "plug", name="plug", period_s=0.1, stale_s=math.inf)
    [row] = check(0.3, sources=[plug])
    assert (row.source, row.meaning, row.channel) == ("plug", "a source of your own", "machine")
    assert row.status == "measured"


# -------------------------------------------------------------------- a file


@pytest.mark.parametrize(
    ("content", "watts"),
    [
        (b"45.5\n", 45.5),
        (b"45.5", 45.5),
        (b"time,watts\n2026-01-01 12:00:00,44\n2026-01-01 12:00:01,45.5\n", 45.5),
        (b"44;1;45.5\n", 45.5),
        (b"2026-01-01;45,5\n", 45.5),  # as in a locale with decimal commas
        (b"1,5\t45,5\n", 45.5),
        (b"1764000000,45\n", 45.0),
        (b"1 45.5\n2 4", 45.5),  # the last line is being written
        (b"1\t45.5\r\n\r\n", 45.5),
        (b"x" * 9999 + b"\n45.5\n", 45.5),
    ],
)
def test_the_last_number_of_the_last_whole_line_counts(tmp_path, content, watts):
    (tmp_path / "log").write_bytes(content)
    assert FileSource(tmp_path / "log").read() == watts
    assert FileSource(tmp_path / "log", scale=1e-3).read() == pytest.approx(watts / 1000)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"time;12.5 W\n", b"12.5\nwatts\n"])
def test_a_line_without_a_number_is_quoted(tmp_path, content):
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ValueError, match="does not end in a number: its last line is ") as refused:
        FileSource(tmp_path / "log").read()
    assert "\n" not in str(refused.value)


def test_a_log_of_watts_and_a_counter_of_kilowatt_hours_give_the_energy_they_show(tmp_path, clock):
    log, total = tmp_path / "log.csv", tmp_path / "total"

    def write():
        now = clock.seconds - 100
        with open(log, "a") as file:
            file.write(f"{now},{50 + 2 * now}\n")
        total.write_text(f"{(50 * now + now**2) / 3.6e6:.9f}\n")

    write()
    sources = [
        FileSource(log, name="log", period_s=0.2),
        FileSource(total, name="total", unit="J", scale=3.6e6, channel="rack", period_s=0.2),
    ]
    found = values(run(clock, *sources, during=write).reading)
    assert found["log"].joules == pytest.approx(50 * 20 + 20**2)  # ∫ 50 + 2t dt
    assert found["total"].joules == pytest.approx(50 * 20 + 20**2, rel=5e-3)


def test_a_file_that_is_gone_empty_or_no_longer_written_is_lost(tmp_path, clock):
    path = tmp_path / "log"
    for content, says in (
        (None, "FileNotFoundError"),
        (b"", "does not end in a number"),
        (b"volts\n", "ValueError"),
    ):
        if content is not None:
            path.write_bytes(content)
        [value] = run(clock, FileSource(path)).reading.values
        assert says in value.reason
        assert value.role == "lacking: no total"
    path.write_text("50\n")
    os.utime(path, (1.0, 1.0))
    [value] = run(clock, FileSource(path)).reading.values
    assert "was last written" in value.reason
    assert run(clock, FileSource(path, stale_s=math.inf)).reading.measured_j == pytest.approx(1000.0)


class Tenths:
    """A counter of 75 W that moves every tenth of a second."""

    name, unit, channel, period_s = "tenths", "J", "machine", 0.1

    def read(self):
        return 75 * math.floor(time.perf_counter() / 0.1) * 0.1


def test_validations_of_milliseconds_have_their_share_of_the_joules():
    import bpfree

    algorithm = bpfree.Backprop(bpfree.MLP([64, 8], classes=10))
    with EnergyMeter(sources=[Tenths()]) as meter:
        history = bpfree.train(algorithm, bpfree.load("digits"), max_epochs=8, meter=meter, progress=False)
    frame = history.frame()
    assert frame["val_s"].max() < 0.1  # else they show nothing here
    assert (frame["val_measured_j"] > 0).all()
    assert (frame["train_measured_j"] > 0).all()
    assert history.provenance == "measured: tenths (machine)"
    assert history.total("measured_j") == pytest.approx(75 * history.total("s"), rel=0.2, abs=7.5)


def test_training_is_billed_by_it(tmp_path):
    import bpfree

    (tmp_path / "plug").write_text("75\n")
    plug = FileSource(tmp_path / "plug", name="plug", period_s=0.001, stale_s=math.inf)
    algorithm = bpfree.Backprop(bpfree.MLP([64, 8], classes=10))
    with EnergyMeter(sources=[plug]) as meter:
        history = bpfree.train(algorithm, bpfree.load("digits"), max_epochs=2, meter=meter, progress=False)
    assert history.provenance == "measured: plug (machine)"
    assert history.total("measured_j") == pytest.approx(75 * history.total("s"), rel=0.1)
