"""NVIDIA sources against a stub library: analytic integrals, intervals, resets, the right device."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import sys
import threading
import types
from contextlib import contextmanager

import pytest
from scipy.integrate import quad

from bpfree.energy import EnergyMeter, check, measure_idle, nvml
from conftest import LOST, NO_COUNTER, NO_GAUGES, NO_INSTANT, NO_POWER, HandMeter


def power(shape: str, base: float, amplitude: float, period: float, phase: float):
    """The scripted power, written independently of the stub."""
    return {
        "constant": lambda t: base,
        "ramp": lambda t: base + amplitude * (t + phase),
        "square": lambda t: base + (amplitude if ((t + phase) / period) % 1 < 0.5 else 0.0),
        "sine": lambda t: base + amplitude * math.sin(2 * math.pi * (t + phase) / period),
        "spike": lambda t: base + (amplitude if phase <= t < phase + period else 0.0),
    }[shape]


def truth(shape: str, script: tuple, start: float, stop: float) -> float:
    """∫ P dt by quadrature, split at the jumps."""
    _, _, period, phase = script
    edges = [start, stop]
    if shape == "square":
        half = period / 2
        edges += [
            k * half - phase for k in range(math.ceil((start + phase) / half), int((stop + phase) / half) + 1)
        ]
    if shape == "spike":
        edges += [phase, phase + period]
    edges = sorted(min(max(e, start), stop) for e in edges)
    function = power(shape, *script)
    return sum(quad(function, a, b, limit=200)[0] for a, b in itertools.pairwise(edges) if b - a > 1e-9)


def by_source(reading, channel="gpu:0"):
    return {v.source: v for v in reading.values if v.channel == channel}


SCRIPTS = {
    "constant": (250.0, 0.0, 1.0, 0.0),
    "ramp": (60.0, 20.0, 1.0, 0.0),
    "square": (80.0, 300.0, 2.3, 0.4),
    "sine": (200.0, 120.0, 3.1, 0.7),
}


@pytest.mark.parametrize("shape", SCRIPTS)
def test_both_sources_match_the_analytic_integral_inside_their_interval(stub, metered, shape):
    stub.script(0, shape, *SCRIPTS[shape])
    reading = metered(10.03, 30.01).reading
    expected = truth(shape, SCRIPTS[shape], 10.03, 30.01)
    for value in by_source(reading).values():
        assert value.status == "measured"
        assert value.low <= expected <= value.high
        assert value.joules == pytest.approx(expected, rel=0.03)
        # An interval that covers everything says nothing: the counter's is within 3 %, sampling's within 20
        # %.
        assert value.high - value.low < {"nvml-counter": 0.06, "nvml-power": 0.4}[value.source] * expected
    assert reading.measured_j == by_source(reading)["nvml-counter"].joules  # the cross-check is not added


@pytest.mark.parametrize("shape", SCRIPTS)
def test_intervals_cover_the_truth_at_random_phases(stub, shape):
    rng = random.Random(shape)
    covered = {"nvml-counter": 0, "nvml-power": 0}
    trials = 250  # 1,000 over the four shapes
    for _ in range(trials):
        base, amplitude, period, _ = SCRIPTS[shape]
        script = (base, amplitude, period, rng.uniform(0, 3))
        stub.script(0, shape, *script)
        stub.sensor(0, update=0.1, phase=rng.uniform(0, 0.1))
        start = rng.uniform(5, 8)
        stop = start + rng.uniform(2, 6)
        stub.at(start)
        meter = HandMeter(sources=["nvml-counter", "nvml-power"], _clock=stub.clock)
        with meter:
            t = start + rng.uniform(0, 0.2)
            while t < stop:
                stub.at(t)
                meter._sample()
                t += 0.2
            stub.at(stop)
        expected = truth(shape, script, start, stop)
        for source, value in by_source(meter.reading).items():
            covered[source] += value.low <= expected <= value.high
    assert min(covered.values()) >= 0.99 * trials, covered


def test_intervals_of_the_counter_alone_cover_the_truth(stub):
    """Without a power reading at the edges, the counter's own recent slope has to do."""
    rng, covered, trials = random.Random(7), 0, 200
    for _ in range(trials):
        script = (120.0, 100.0, 4.0, rng.uniform(0, 4))
        stub.script(0, "sine", *script)
        stub.sensor(0, update=0.1, phase=rng.uniform(0, 0.1), missing=NO_POWER)
        start, length = rng.uniform(5, 8), rng.uniform(2, 5)
        stub.at(start)
        with HandMeter(sources=["nvml-counter"], _clock=stub.clock) as meter:
            for step in range(1, int(length * 5)):
                stub.at(start + step / 5)
                meter._sample()
            stub.at(start + length)
        value = meter.reading.values[0]
        covered += value.low <= truth("sine", script, start, start + length) <= value.high
    assert covered >= 0.99 * trials


def test_a_spike_between_samples_escapes_sampling_but_not_the_counter(stub, metered):
    script = (100.0, 2000.0, 0.05, 15.11)  # 50 ms at +2 kW, between the samples at 15.0 and 15.2
    stub.sensor(0, update=0.01)
    stub.script(0, "spike", *script)
    values = by_source(metered(10.0, 20.0).reading)
    expected = truth("spike", script, 10.0, 20.0)
    assert expected == pytest.approx(1100.0)
    assert values["nvml-counter"].joules == pytest.approx(expected, abs=6.0)
    assert values["nvml-power"].joules == pytest.approx(1000.0, abs=2.0)
    assert not values["nvml-power"].low <= expected <= values["nvml-power"].high


def test_the_interval_of_sampled_power_knows_what_jumps_may_hide(stub, metered):
    """A square wave that sampling misjudges every second: high half the time, at two samples of five."""
    script = (100.0, 600.0, 1.0, -0.05)
    stub.sensor(0, update=0.0)
    stub.script(0, "square", *script)
    value = by_source(metered(10.0, 30.0).reading)["nvml-power"]
    expected = truth("square", script, 10.0, 30.0)
    assert expected - value.joules > 1000.0  # far more than ±5 W and the edges explain
    assert value.low <= expected <= value.high


def test_one_second_averaging_is_recorded_and_covered(stub, metered):
    stub.sensor(0, missing=NO_INSTANT)
    script = (80.0, 300.0, 7.0, 0.0)
    stub.script(0, "square", *script)
    value = by_source(metered(10.3, 22.3).reading)["nvml-power"]
    assert value.basis.startswith("1 s average power at 5 Hz")
    assert value.low <= truth("square", script, 10.3, 22.3) <= value.high
    # The averaged power lags: this is the integral of the moving average, not of the power.
    lagged = quad(lambda t: truth("square", script, t - 1, t), 10.3, 22.3, limit=400)[0]
    assert value.joules == pytest.approx(lagged, rel=0.02)


@pytest.mark.parametrize(
    ("architecture", "capability", "method"),
    [
        (7, (8, 0), "instantaneous"),
        (7, (8, 6), "1 s average"),
        (9, (9, 0), "1 s average"),
        (5, (7, 0), "instantaneous"),
    ],
)
def test_what_power_usage_averages_depends_on_the_architecture(
    stub, metered, architecture, capability, method
):
    stub.sensor(0, missing=NO_INSTANT)
    stub.identity(0, "GPU-aaaa", architecture=architecture, capability=capability)
    assert method in by_source(metered(10, 12).reading)["nvml-power"].basis


def test_instant_power_is_preferred(stub, metered):
    assert by_source(metered(10, 12).reading)["nvml-power"].basis.startswith("instant power at 20 Hz")


def test_two_devices_are_summed(stub, metered):
    stub.reset(2)
    stub.script(0, "constant", 100.0)
    stub.script(1, "constant", 300.0)
    reading = metered(10, 20).reading
    assert reading.measured_j == pytest.approx(4000.0, rel=2e-3)
    assert {v.channel for v in reading.values if v.primary} == {"gpu:0", "gpu:1"}


def test_counter_reset_is_marked_and_power_takes_over(stub, metered):
    stub.script(0, "constant", 200.0)

    def reload_driver(_meter, t):
        stub.offset(0, -3_000_000 if t >= 15 else 0)

    reading = metered(20_000.0, 20_010.0, visit=lambda m, t: reload_driver(m, t - 19_990)).reading
    values = by_source(reading)
    assert values["nvml-counter"].status == "unavailable"
    assert values["nvml-counter"].joules is None
    assert "backwards" in values["nvml-counter"].reason
    assert "counter-fault" in values["nvml-counter"].flags
    assert reading.measured_j == values["nvml-power"].joules == pytest.approx(2000.0)


def test_windows_before_and_after_a_reset_are_unharmed(stub):
    stub.script(0, "constant", 200.0)
    stub.at(20_000.0)
    with HandMeter(sources=["nvml-counter"], _clock=stub.clock) as meter:
        with meter.window() as before:
            stub.at(20_005.0)
        stub.offset(0, -3_000_000)
        with meter.window() as during:
            stub.at(20_010.0)
        with meter.window() as after:
            stub.at(20_015.0)
    assert before.reading.measured_j == pytest.approx(1000.0)
    assert during.reading.measured_j == pytest.approx(1000.0)  # the reset fell between the windows
    assert after.reading.measured_j == pytest.approx(1000.0)
    assert meter.reading.measured_j is None


def test_a_gpu_lost_in_the_middle_is_unavailable_not_less(stub):
    stub.at(10.0)
    with HandMeter(sources=["nvml-counter", "nvml-power"], _clock=stub.clock) as meter:
        stub.at(15.0)
        stub.sensor(0, missing=LOST)
        with meter.window() as blind:
            stub.sensor(0)
            stub.at(20.0)
    for reading in (meter.reading, blind.reading):
        assert reading.measured_j is None
        assert all(v.joules is None and "GPU is lost" in v.reason for v in reading.values)


def test_a_gpu_lost_from_the_start_does_not_hide_the_others(stub, metered):
    stub.reset(2)
    stub.sensor(0, missing=LOST)
    reading = metered(10, 20, gpus=[1]).reading
    assert reading.measured_j == pytest.approx(1000.0, rel=0.01)
    stub.sensor(1, missing=LOST)
    reading = metered(10, 20).reading
    assert reading.measured_j is None
    assert "none of its 2 GPUs" in reading.values[0].reason


def test_a_cuda_failure_at_the_last_edge_releases_the_sensors(stub, monkeypatch):
    fake_torch(monkeypatch, ["00000010-1111-2222-3333-444444444444"], allocated=[0])
    meter = HandMeter(sources=["nvml-counter"], _clock=stub.clock).start()

    def fail(_):
        raise RuntimeError("CUDA error")

    sys.modules["torch"].cuda.synchronize = fail
    with pytest.raises(RuntimeError, match="CUDA error"):
        meter.stop()
    assert stub.sessions == 0
    assert all(thread.name != "energy-sampler" for thread in threading.enumerate())


def test_not_supported_is_unavailable_with_a_reason(stub, metered):
    stub.sensor(0, missing=NO_COUNTER)
    stub.script(0, "constant", 50.0)
    reading = metered(10, 20).reading
    counter, sampled = by_source(reading)["nvml-counter"], by_source(reading)["nvml-power"]
    assert (counter.status, counter.joules, counter.low) == ("unavailable", None, None)
    assert "Not Supported" in counter.reason
    assert sampled.primary
    assert reading.measured_j == pytest.approx(500.0)
    stub.sensor(0, missing=NO_COUNTER | NO_POWER)
    assert metered(10, 20).reading.measured_j is None


def test_a_counter_that_never_moves_is_unavailable(stub, metered):
    stub.script(0, "constant", 0.0)
    reading = metered(10, 20, sources=["nvml-counter"]).reading
    assert reading.values[0].status == "unavailable"
    assert "not moved" in reading.values[0].reason
    assert reading.measured_j is None


def test_short_windows_are_flagged(stub, metered):
    assert "short-window" in by_source(metered(10, 10.9).reading)["nvml-counter"].flags
    assert "short-window" not in by_source(metered(10, 11.1).reading)["nvml-counter"].flags


def test_a_sampling_gap_is_marked(stub):
    stub.at(10.0)
    with HandMeter(sources=["nvml-power"], _clock=stub.clock) as meter:
        stub.at(13.0)
    assert "sampling-gap" in meter.reading.values[0].flags


def test_live_reading_grows(stub):
    stub.script(0, "constant", 100.0)
    stub.at(10.0)
    with HandMeter(sources=["nvml-counter"], _clock=stub.clock) as meter, meter.window() as window:
        stub.at(12.0)
        assert window.reading.measured_j == pytest.approx(200.0)
        stub.at(15.0)
        assert meter.reading.measured_j == pytest.approx(500.0)
    assert window.reading.measured_j == pytest.approx(500.0)


# -------------------------------------------------------------------- which device


def fake_torch(monkeypatch, uuids, allocated=(), initialised=True):
    calls = []
    module = types.SimpleNamespace(
        is_initialized=lambda: initialised,
        device_count=lambda: len(uuids),
        memory_reserved=lambda i: 1024 if i in allocated else 0,
        get_device_properties=lambda i: types.SimpleNamespace(uuid=uuids[i]),
        synchronize=calls.append,
        default_stream=lambda i: f"default {i}",
        current_stream=lambda i: f"default {i}",
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=module))
    return calls


FAST, SLOW = "GPU-f0000000-aaaa-bbbb-cccc-dddddddddddd", "GPU-50000000-aaaa-bbbb-cccc-dddddddddddd"


@pytest.fixture
def reversed_pair(stub):
    """CUDA's device 0, the fast one, is NVML's device 1."""
    stub.reset(2)
    stub.identity(0, SLOW, "Slow GPU")
    stub.identity(1, FAST, "Fast GPU")
    stub.script(0, "constant", 10.0)
    stub.script(1, "constant", 400.0)
    return stub


def test_cuda_device_is_found_by_uuid_not_by_index(reversed_pair, metered, monkeypatch):
    bare = [FAST.removeprefix("GPU-"), SLOW.removeprefix("GPU-")]  # as torch spells them
    fake_torch(monkeypatch, bare, allocated=[0])
    reading = metered(10, 20).reading
    assert reading.measured_j == pytest.approx(4000.0, rel=2e-3)
    idle = by_source(reading, "gpu:0")["nvml-counter"]
    assert (idle.status, idle.joules) == ("unavailable", None)
    assert "not in use" in idle.reason
    assert FAST in by_source(reading, "gpu:1")["nvml-counter"].basis


@pytest.mark.parametrize(
    ("visible", "order", "channels"),
    [
        (FAST, None, ["gpu:1"]),
        (FAST[:9], None, ["gpu:1"]),  # CUDA takes abbreviations
        (f"{FAST},{SLOW}", None, ["gpu:1", "gpu:0"]),
        ("1", "PCI_BUS_ID", ["gpu:1"]),
        ("0,-1,1", "PCI_BUS_ID", ["gpu:0"]),  # the list ends at the first invalid entry
        ("0", None, []),  # CUDA's order is not NVML's: refused, not guessed
        ("", None, []),
        ("-1", "PCI_BUS_ID", []),
    ],
)
def test_cuda_visible_devices(reversed_pair, monkeypatch, visible, order, channels):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if order:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    session = nvml.Nvml()
    devices, reason = session.visible()
    session.close()
    assert [d.channel for d in devices] == channels
    assert bool(reason) == (not channels)


def test_hidden_devices_are_reported_unavailable(reversed_pair, metered, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    reading = metered(10, 20).reading
    assert reading.measured_j is None
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in reading.values[0].reason


def test_mig_reports_its_parent_as_shared(stub, metered, monkeypatch):
    stub.reset(2)
    stub.identity(1, FAST, mig=1)
    instance = "MIG-00000011-5555-6666-7777-888888888888"
    for spelling in (instance, f"MIG-{FAST}/1/0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", spelling)
        values = by_source(metered(10, 20).reading, "gpu:1")
        assert values["nvml-counter"].status == "measured"
        assert "mig-shared" in values["nvml-counter"].flags
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    fake_torch(monkeypatch, [instance.removeprefix("MIG-")], allocated=[0])
    reading = metered(10, 20).reading
    assert "mig-shared" in by_source(reading, "gpu:1")["nvml-counter"].flags
    assert by_source(reading, "gpu:0") == {}


def test_named_gpus(reversed_pair, metered):
    assert metered(10, 20, gpus=[1]).reading.measured_j == pytest.approx(4000.0, rel=2e-3)
    assert metered(10, 20, gpus=[SLOW]).reading.measured_j == pytest.approx(100.0, rel=0.01)
    with pytest.raises(ValueError, match="Unknown GPU 7: NVML sees 0"):
        EnergyMeter(gpus=[7])


def test_torch_without_cuda_uses_no_gpu(stub, metered, monkeypatch):
    fake_torch(monkeypatch, [], initialised=False)
    reading = metered(10, 20).reading
    assert reading.measured_j is None
    assert "torch holds no memory" in reading.values[0].reason


def test_without_evidence_visible_devices_count_and_say_so(stub, metered):
    assert "use-unverified" in by_source(metered(10, 20).reading)["nvml-counter"].flags


def test_nvmls_process_list_tells_which_devices_are_ours(stub, metered):
    stub.reset(2)
    stub.processes(1, os.getpid())
    reading = metered(10, 20).reading
    assert by_source(reading, "gpu:0")["nvml-counter"].status == "unavailable"
    assert by_source(reading, "gpu:1")["nvml-counter"].flags == ()


def test_other_processes_on_the_gpu_raise_contention(stub, metered):
    stub.processes(0, os.getpid(), 1)
    assert "contention" in by_source(metered(10, 20).reading)["nvml-counter"].flags
    stub.processes(0, os.getpid())
    assert "contention" not in by_source(metered(10, 20).reading)["nvml-counter"].flags


def test_contention_concerns_the_windows_it_fell_into(stub):
    stub.processes(0, os.getpid())
    stub.at(10.0)

    def pass_time(meter, until):
        while stub.seconds < until:
            stub.at(stub.seconds + 0.5)
            meter._sample()

    with HandMeter(sources=["nvml-counter"], _clock=stub.clock) as meter:
        pass_time(meter, 14)
        with meter.window() as quiet:
            pass_time(meter, 18)
        stub.processes(0, os.getpid(), 1)
        pass_time(meter, 20)
        with meter.window() as busy:
            pass_time(meter, 24)
    assert "contention" not in quiet.reading.values[0].flags
    assert "contention" in busy.reading.values[0].flags


def test_cuda_is_synchronised_at_both_edges_on_the_devices_in_use(stub, monkeypatch):
    stub.reset(2)
    uuids = [f"{i + 10:08d}-1111-2222-3333-444444444444" for i in range(2)]
    order = fake_torch(monkeypatch, uuids, allocated=[1])
    stub.at(10.0)
    meter = HandMeter(sources=["nvml-counter"], _clock=stub.clock).start()
    assert order == [1]
    advance = meter._channels[0].accumulator.advance
    monkeypatch.setattr(
        meter._channels[0].accumulator, "advance", lambda *now: (order.append("read"), advance(*now))[1]
    )
    with meter.window():
        order.append("work")
    assert order == [1, 1, "read", "work", 1, "read"]
    stub.at(11.0)
    meter.stop()
    assert order[-2:] == [1, "read"]


def test_waiting_for_cuda_counts_as_the_windows_time(stub, monkeypatch):
    uuids = ["00000010-1111-2222-3333-444444444444"]
    fake_torch(monkeypatch, uuids, allocated=[0])
    sys.modules["torch"].cuda.synchronize = lambda _: stub.at(stub.seconds + 3.0)  # queued work: 3 s
    stub.script(0, "constant", 100.0)
    stub.at(10.0)
    with HandMeter(sources=["nvml-counter"], _clock=stub.clock) as meter, meter.window() as window:
        pass
    assert window.reading.seconds == pytest.approx(3.0)
    assert window.reading.measured_j == pytest.approx(300.0)


# -------------------------------------------------------------------- traces, baseline


def test_trace_is_tidy_and_relative_to_the_window(stub):
    stub.script(0, "ramp", 0.0, 10.0)
    stub.at(10.0)
    with HandMeter(sources=["nvml-power"], trace=True, _clock=stub.clock) as meter:
        for second in (11.0, 12.0):
            stub.at(second)
            meter._sample()
        with meter.window() as window:
            for second in (13.0, 14.0):
                stub.at(second)
                meter._sample()
    frame = meter.trace
    assert list(frame.columns) == ["time_s", "channel", "quantity", "value", "unit"]
    watts = frame[(frame.channel == "gpu:0") & (frame.quantity == "power")]
    assert watts.time_s.tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert watts.value.tolist() == pytest.approx([110.0, 120.0, 130.0, 140.0])
    gauges = frame[frame.time_s == 1.0].set_index(["channel", "quantity"]).value
    assert gauges["gpu:0", "utilisation"] == 87
    assert gauges["gpu:0", "sm_clock"] == 1410
    assert gauges["gpu:0", "temperature"] == 61
    assert gauges["gpu:0", "memory"] == 3 * 2**30
    assert gauges["cpu:process", "rss"] > 2**20
    assert sorted(window.trace.time_s.unique()) == pytest.approx([0.0, 1.0, 2.0])


def test_unsupported_gauges_are_nan_in_the_trace(stub):
    stub.sensor(0, missing=NO_GAUGES)
    stub.at(10.0)
    with HandMeter(sources=["nvml-power"], trace=True, _clock=stub.clock) as meter:
        stub.at(11.0)
        meter._sample()
    frame = meter.trace
    assert frame[frame.quantity.isin(["sm_clock", "temperature", "memory"])].value.isna().all()


def test_idle_watts_are_those_of_every_visible_gpu_used_or_not(stub, monkeypatch):
    stub.reset(2)
    stub.script(1, "constant", 60.0)
    for device in range(2):
        stub.sensor(device, missing=NO_GAUGES)  # which would say that they work
    fake_torch(monkeypatch, [], initialised=False)
    sensors = {"sources": ["nvml-counter"], "_clock": stub.clock, "_sleep": stub.sleep}
    idle = measure_idle(5.0, gpus="visible", **sensors).watts
    assert idle == {"gpu:0": pytest.approx(100.0, rel=0.02), "gpu:1": pytest.approx(60.0, rel=0.02)}
    before = stub.seconds
    assert measure_idle(5.0, **{**sensors, "sources": ["estimate"]}).watts == {}
    assert stub.seconds == before  # nothing to wait for


@pytest.mark.parametrize(("missing", "working"), [(0, True), (NO_GAUGES, False)])
def test_of_a_gpu_that_works_there_are_no_idle_watts(missing, working, stub, metered):
    """Though NVML lists no other process there, as in a container."""
    stub.sensor(0, missing=missing)
    assert bool(metered(10, 20, gpus="visible", _at_rest=True).reading.watts) != working
    assert metered(30, 40, gpus="visible").reading.watts  # a busy GPU is nobody else's by that


def test_a_foreign_id_on_a_named_gpu_that_torch_uses_is_our_own(stub, monkeypatch):
    """As in a container: else idle power with a context would count as somebody else's."""
    uuid = "00000010-1111-2222-3333-444444444444"
    stub.identity(0, f"GPU-{uuid}")
    for allocated in ([0], []):
        fake_torch(monkeypatch, [uuid], allocated=allocated)
        stub.processes(0, 999_999)
        stub.at(10.0)
        with HandMeter(sources=["nvml-counter"], gpus=[0], _clock=stub.clock, _sleep=stub.sleep) as meter:
            for seconds in range(11, 20):
                stub.at(seconds)
                meter._sample()
        contended = any("contention" in value.flags for value in meter.reading.values)
        assert contended == (not allocated)
        assert bool(meter.reading.watts) == bool(allocated)


def test_idle_baseline_gives_gross_and_net(stub, metered):
    stub.script(0, "constant", 60.0)
    idle = metered(10, 20).reading
    stub.script(0, "constant", 300.0)
    for baseline in (idle, {"gpu:0": 60.0}, 60.0):
        reading = metered(30, 40, idle_w=baseline).reading
        assert reading.measured_j == pytest.approx(3000.0, rel=5e-3)
        assert reading.net_measured_j == pytest.approx(2400.0, rel=6e-3)
    assert metered(30, 40).reading.net_measured_j is None


def test_check_measures_how_often_the_sensors_move_and_whether_they_agree(stub, monkeypatch):
    """Those of the stub: a counter and power that move every 50 ms, not 100, and draw 120 W, then 360 W."""
    stub.sensor(0, update=0.05)
    stub.script(0, "spike", 120.0, 240.0, 100.0, 12.2)

    @contextmanager
    def working():
        stub.at(12.5)
        yield

    monkeypatch.setattr(sys.modules["bpfree.energy.check"], "working", working)
    options = {"sources": ["nvml-counter", "nvml-power"], "gpus": [0]}
    table = check(2.0, load_s=3.0, _clock=stub.clock, _sleep=stub.sleep, **options)
    for row in table:
        assert row.seen["assumed_s"] == 0.1
        assert row.seen["idle_w"] == pytest.approx(120.0, rel=0.03)
        assert row.seen["load_w"] == pytest.approx(360.0, rel=0.03)
        assert row.seen["faults"] == 0
    counter = table[0].seen
    assert counter["period_s"] == pytest.approx(0.05, rel=0.2)
    assert counter["agreement"] == pytest.approx(1.0, abs=0.01)
    assert "moves every" in str(table)
    json.dumps([row._asdict() for row in table])


# -------------------------------------------------------------------- the real loader


def test_pynvml_finds_the_stub_by_itself(stub_path, python):
    """Loaded the way the driver's library is: by name, on the loader's path."""
    code = (
        "import ctypes, pynvml; pynvml.nvmlInit(); pynvml.nvmlLib.stub_reset(2);"
        "pynvml.nvmlLib.stub_time(ctypes.c_double(50.0));"
        "from bpfree.energy import check; print(check())"
    )
    done = python("-c", code, LD_LIBRARY_PATH=str(stub_path.parent), CUDA_VISIBLE_DEVICES="1")
    assert done.returncode == 0, done.stderr
    assert "gpu:1" in done.stdout
    assert "gpu:0" not in done.stdout
