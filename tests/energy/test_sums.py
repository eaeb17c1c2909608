"""Totals: of a lost sensor there is no total; an implausible step is no energy; two sensors must agree."""

from __future__ import annotations

import json

import pytest

from bpfree.energy import EnergyMeter, EnergyValue, Reading, check
from bpfree.energy.accumulator import Counter, Trapezoid
from bpfree.energy.reading import billed
from conftest import LOST, NO_COUNTER, NO_POWER, HandMeter, advanced

SECOND = 1_000_000_000
SENSORS = ["nvml-counter", "nvml-power", "rapl"]


def by_source(reading, channel="gpu:0"):
    return {v.source: v for v in reading.values if v.channel == channel}


@pytest.fixture
def both(stub, powercap):
    """A GPU of 100 W and a CPU package of 20 W on one clock: ``both.at(t)`` moves all of it."""
    powercap.zone("intel-rapl:0", "package-0", 200_000_000)

    class Both:
        sysfs, clock = powercap.sysfs, stub.clock

        def at(self, seconds, package_w=20):
            stub.at(seconds)
            powercap.set(rapl_0=round(package_w * 1e6 * seconds))

    return Both()


# -------------------------------------------------------------------- a sensor is lost


def test_without_a_sensor_that_was_lost_there_is_no_total(stub, both):
    options = {"country": "POL", "idle_w": {"gpu:0": 10.0, "cpu:package-0": 5.0}}
    both.at(10)
    with HandMeter(sources=SENSORS, sysfs=both.sysfs, _clock=both.clock, hz=0, **options) as meter:
        with meter.window("whole") as whole:
            both.at(20)
        with meter.window("broken") as broken:
            stub.sensor(0, missing=LOST)
            both.at(30)
    assert whole.reading.measured_j == pytest.approx(1200.0)
    assert whole.reading.net_measured_j == pytest.approx(1050.0)
    assert whole.reading.lacking == ()
    for reading in (broken.reading, meter.reading):
        package = by_source(reading, "cpu:package-0")["rapl"]
        assert package.joules == pytest.approx(200.0 if reading is broken.reading else 400.0)
        assert (reading.measured_j, reading.net_measured_j) == (None, None)
        assert reading.gco2e.measured_g is None
        assert reading.lacking == ("gpu:0",)
        assert reading.provenance == "incomplete: GPU 0 could not be read"
        record = json.loads(reading.to_json())
        assert (record["measured_j"], record["lacking"]) == (None, ["gpu:0"])
        assert "no total without gpu:0" in str(reading)
        assert [v["role"] for v in record["values"] if v["channel"] == "gpu:0"] == ["lacking: no total", "-"]


def test_a_package_that_was_lost_takes_the_total_with_it(both, powercap):
    both.at(10)
    with HandMeter(sources=SENSORS, sysfs=both.sysfs, _clock=both.clock, hz=0) as meter:
        both.at(20)
        (powercap.path("intel-rapl:0") / "energy_uj").write_text("")
    assert by_source(meter.reading)["nvml-counter"].joules == pytest.approx(1000.0)
    assert meter.reading.measured_j is None
    assert meter.reading.lacking == ("cpu:package-0",)


def test_sensors_that_this_machine_never_had_are_not_missed(stub, both):
    """No counter, a second package without permission, a package that never moves: not part of any total."""
    stub.sensor(0, missing=NO_COUNTER)
    both.at(10, package_w=0)
    with HandMeter(sources=SENSORS, sysfs=both.sysfs, _clock=both.clock, hz=0) as meter:
        both.at(20, package_w=0)
    assert meter.reading.measured_j == pytest.approx(1000.0)
    assert meter.reading.lacking == ()
    assert meter.reading.provenance == "measured: nvml-power (GPU 0)"


def test_the_second_source_of_a_channel_stands_in_for_the_first(stub, both):
    both.at(10)
    with HandMeter(sources=SENSORS, sysfs=both.sysfs, _clock=both.clock, hz=0) as meter:
        both.at(20)
        stub.sensor(0, missing=NO_COUNTER)
    assert by_source(meter.reading)["nvml-counter"].status == "unavailable"
    assert meter.reading.measured_j == pytest.approx(1200.0)
    assert meter.reading.lacking == ()


def test_a_counter_that_has_not_had_time_to_move_is_no_loss(both):
    """A first window may be shorter than the sensor's update period: its joules are 0 to all it can have."""
    both.at(10.001)
    with HandMeter(sources=["nvml-counter"], _clock=both.clock, hz=0) as meter:
        with meter.window() as first:
            both.at(10.002)
        reading = first.reading  # asked at once, before the counter moved
        both.at(20)
    [value] = reading.values
    assert (value.status, value.joules) == ("unavailable", None)
    assert value.flags == ("short-window", "use-unverified")
    assert "was not read after them" in value.reason
    [value] = first.reading.values  # and again, when it had moved
    assert (value.status, value.flags) == ("measured", ("short-window", "attributed", "use-unverified"))
    assert value.joules == pytest.approx(0.1, rel=0.01)  # 100 W, 1 ms
    assert value.low <= 0.1 <= value.high
    assert meter.reading.measured_j == pytest.approx(1000.0)


# -------------------------------------------------------------------- implausible steps


def test_a_package_that_leaps_is_unavailable(powercap, clock):
    powercap.zone("intel-rapl:0", "package-0")
    with HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock, hz=0) as meter:
        with meter.window() as leap:
            clock.seconds += 1
            powercap.set(rapl_0=200_001_000_000)
        with meter.window() as after:
            clock.seconds += 1
            powercap.set(rapl_0=200_031_000_000)
    assert leap.reading.measured_j is None
    assert "leapt by 200000 J in 1 s" in leap.reading.values[0].reason
    assert "counter-fault" in leap.reading.values[0].flags
    assert after.reading.measured_j == pytest.approx(30.0, rel=1e-3)
    assert meter.reading.measured_j is None


@pytest.mark.parametrize(
    ("stated", "leap_w", "status"),
    [
        ({}, 900, "measured"),
        ({}, 2100, "unavailable"),  # 1000 W for the second and for another of slack
        ({"constraint_0_power_limit_uw": 65, "constraint_1_power_limit_uw": 125}, 450, "measured"),
        ({"constraint_0_power_limit_uw": 65, "constraint_1_power_limit_uw": 125}, 550, "unavailable"),
        ({"constraint_0_power_limit_uw": 0, "constraint_0_max_power_uw": 125}, 550, "unavailable"),
        ({"constraint_0_power_limit_uw": 0}, 900, "measured"),
        ({"constraint_0_power_limit_uw": "garbage"}, 900, "measured"),
        ({"constraint_0_power_limit_uw": 4095}, 2100, "unavailable"),  # "no limit", says many a BIOS
    ],
)
def test_what_a_package_can_draw_is_what_its_constraints_state(powercap, clock, stated, leap_w, status):
    powercap.zone("intel-rapl:0", "package-0", 0)
    for name, watts in stated.items():
        text = watts if isinstance(watts, str) else str(watts * 1_000_000)
        (powercap.path("intel-rapl:0") / name).write_text(text)
    with HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock, hz=0) as meter:
        clock.seconds += 1
        powercap.set(rapl_0=leap_w * 1_000_000)
    assert meter.reading.values[0].status == status


def test_a_gpu_counter_that_leaps_is_unavailable_and_power_stands_in(stub, metered):
    def leap(_meter, t):
        stub.offset(0, 10_000_000_000 if t >= 15 else 0)

    reading = metered(10.0, 20.0, visit=leap).reading
    values = by_source(reading)
    assert values["nvml-counter"].status == "unavailable"
    assert "leapt" in values["nvml-counter"].reason
    assert reading.measured_j == values["nvml-power"].joules == pytest.approx(1000.0)


def test_a_gpu_draws_no_more_than_twice_its_highest_power_limit(stub, metered):
    def leap(_meter, t):
        stub.offset(0, 2_000_000 if t >= 15 else 0)  # 2 kJ more than 100 W in a fifth of a second

    for limit, status in ((700, "unavailable"), (2000, "measured"), (0, "measured")):
        stub.limit(0, limit)
        values = by_source(metered(10.0, 20.0, visit=leap).reading)
        assert values["nvml-counter"].status == status
        stub.offset(0, 0)


def test_power_that_no_gpu_draws_is_unavailable(stub, metered):
    stub.limit(0, 300)
    stub.script(0, "spike", 100.0, 550.0, 0.5, 14.9)  # 650 W
    assert by_source(metered(10.0, 20.0).reading)["nvml-power"].status == "unavailable"
    assert "650 W" in by_source(metered(10.0, 20.0).reading)["nvml-power"].reason
    stub.script(0, "spike", 100.0, 450.0, 0.5, 14.9)  # 550 W
    assert by_source(metered(10.0, 20.0).reading)["nvml-power"].status == "measured"


def test_accumulators_fault_what_cannot_be():
    raw = iter([0, 10_000_000, 10_100_000])
    counter = Counter(lambda: next(raw), 1e-3, max_power_w=1000.0)
    marks = [advanced(counter, k * SECOND) for k in range(3)]
    assert [(m.count, m.faults) for m in marks] == [(0, 0), (0, 1), (100_000, 1)]
    power = iter([100_000, 4_294_967_295, 100_000, 100_000])
    trapezoid = Trapezoid(lambda: next(power), max_power_w=1000.0)
    marks = [advanced(trapezoid, k * SECOND) for k in range(4)]
    assert [m.faults for m in marks] == [0, 1, 2, 2]
    assert marks[3].count * trapezoid.unit_j == pytest.approx(100.0)
    for odd in (None, "", float("nan"), object()):
        for accumulator in (Counter(lambda odd=odd: odd, 1e-3), Trapezoid(lambda odd=odd: odd)):
            assert advanced(accumulator, SECOND).faults == 1


# -------------------------------------------------------------------- counters that stand still


def test_a_gpu_counter_that_stands_still_under_load_hands_over_to_power(stub):
    stub.sensor(0, update=0.0)
    stub.at(10.0)
    with HandMeter(sources=["nvml-counter", "nvml-power"], _clock=stub.clock) as meter:
        stub.at(15.0)
        with meter.window() as stuck:
            for step in range(1, 21):
                stub.at(15.0 + step / 4)
                stub.offset(0, -25_000 * step)  # the 100 W since
                meter._sample()
    values = by_source(stuck.reading)
    assert values["nvml-counter"].joules is None
    assert "stood still for 5 s" in values["nvml-counter"].reason
    assert "stands-still" in values["nvml-counter"].flags
    assert stuck.reading.measured_j == values["nvml-power"].joules == pytest.approx(500.0)


def test_a_package_that_stops_counting_takes_the_total_with_it(both):
    both.at(10)
    with HandMeter(sources=SENSORS, sysfs=both.sysfs, _clock=both.clock, hz=0) as meter:
        both.at(20)
        with meter.window() as stuck:
            both.at(30, package_w=20 * 20 / 30)
    assert "stands-still" in by_source(stuck.reading, "cpu:package-0")["rapl"].flags
    assert stuck.reading.measured_j is None
    assert stuck.reading.lacking == ("cpu:package-0",)


# -------------------------------------------------------------------- the cross-check


def test_sources_that_contradict_each_other_are_flagged(stub, metered):
    def drift(_meter, t):
        stub.offset(0, round((t - 10) * 100_000))  # the counter runs at twice the power

    reading = metered(10.0, 30.0, visit=drift).reading
    for value in by_source(reading).values():
        assert "sources-disagree" in value.flags
    assert reading.provenance == "measured: nvml-counter (GPU 0, contradicted)"
    assert "sources-disagree" in str(reading)
    stub.offset(0, 0)
    reading = metered(10.0, 30.0).reading
    assert not any("sources-disagree" in v.flags for v in reading.values)
    assert reading.provenance == "measured: nvml-counter (GPU 0)"


def test_a_difference_that_the_intervals_allow_is_no_contradiction():
    def flags(power, half):
        counter = EnergyValue("nvml-counter", "gpu:0", "measured", 1000.0, 990.0, 1010.0)
        sampled = EnergyValue("nvml-power", "gpu:0", "measured", power, power - half, power + half)
        return billed([counter, sampled], SENSORS)[0].flags

    assert flags(900.0, 60.0) == ()  # 100 J apart, where 2 · (10 + 60) may be
    assert flags(800.0, 60.0) == ("sources-disagree",)
    assert flags(960.0, 0.0) == ()  # less than a twentieth


def test_a_lost_value_is_of_no_total_only_if_no_other_source_has_its_channel():
    lost = EnergyValue("nvml-counter", "gpu:0", "unavailable", reason="lost")
    power = EnergyValue("nvml-power", "gpu:0", "measured", 5.0, 4.0, 6.0)
    package = EnergyValue("rapl", "cpu:package-0", "measured", 3.0, 2.0, 4.0)
    assert Reading("r", 1.0, billed([power, lost, package], SENSORS)).measured_j == 8.0
    assert Reading("r", 1.0, billed([lost, package], SENSORS)).measured_j is None


# -------------------------------------------------------------------- late reads


def test_a_slow_read_at_an_edge_widens_the_interval_and_is_flagged(stub, monkeypatch):
    import pynvml

    read = pynvml.nvmlDeviceGetTotalEnergyConsumption

    def slow(handle):
        stub.at(stub.seconds + 0.05)
        return read(handle)

    stub.sensor(0, missing=NO_POWER)
    stub.script(0, "constant", 600.0)
    stub.at(10.0)
    with HandMeter(sources=["nvml-counter"], gpus=[0], _clock=stub.clock, _sleep=stub.sleep, hz=0) as meter:
        with meter.window() as prompt:
            stub.at(stub.seconds + 1.0)
        with monkeypatch.context() as patched:
            patched.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", slow)
            with meter.window() as late:
                stub.at(stub.seconds + 1.0)
    [value] = prompt.reading.values
    assert "late-edge" not in value.flags
    assert value.joules == pytest.approx(600.0, rel=0.06)
    [value] = late.reading.values
    assert "late-edge" in value.flags
    assert value.joules == pytest.approx(600.0, rel=0.06)  # and not those of the 50 ms of each read
    assert value.low <= 600.0 <= value.high


def test_check_lists_a_gpu_that_cannot_be_used_beside_one_that_can(stub):
    stub.reset(2)
    stub.identity(0, "GPU-00000010-1111", b"\xf8\x95\xa0\x81")
    found = {(r.source, r.channel): r for r in check(0.01, sources=["nvml-counter", "nvml-power"])}
    assert found["nvml-counter", "gpu:0"].status == "unavailable"
    assert "UnicodeDecodeError" in found["nvml-counter", "gpu:0"].detail
    assert ("nvml-power", "gpu:1") in found
    with pytest.raises(ValueError, match=r"GPU 0 cannot be used.*UnicodeDecodeError") as error:
        EnergyMeter(gpus=[0])
    assert "\n" not in str(error.value)
