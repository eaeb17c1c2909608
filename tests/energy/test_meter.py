"""The meter as a whole: windows, totals that stay apart, contention, overhead, and what it leaves behind."""

from __future__ import annotations

import ast
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpfree.energy
from bpfree.energy import EnergyMeter, EnergyValue, Reading, Window, check, measure, measure_idle
from bpfree.energy.reading import billed, joules_text
from bpfree.energy.watch import contended
from conftest import HandMeter


@settings(max_examples=40)
@given(st.lists(st.integers(100_000, 100_000_000), min_size=3, max_size=8), st.data())
def test_windows_nest_and_overlap_for_free(powercap, clock, deltas, data):
    """E[a,b] + E[b,c] = E[a,c] through the whole meter, for windows that share their edges' readings."""
    powercap.zone("intel-rapl:0", "package-0", 262_143_328_850 - data.draw(st.integers(0, 10**8)))
    with HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock) as meter:
        raw = int((powercap.path("intel-rapl:0") / "energy_uj").read_text())
        starts = {}
        readings = {}
        for k in range(len(deltas) + 1):
            for first, window in starts.items():
                window.__exit__(None)
                readings[first, k] = window.reading
                window._stop = window._reading = None  # reopened: the next edge closes a longer one
            starts[k] = meter.window().__enter__()
            if k < len(deltas):
                clock.seconds += 1
                raw = (raw + deltas[k]) % 262_143_328_850
                powercap.set(rapl_0=raw)
    energy = {key: r.values[0].joules for key, r in readings.items()}
    phase_j = 1e-9 * max(deltas) + 2e-6  # what it draws from one update of the counter to the next
    for (a, b), value in energy.items():
        assert value == pytest.approx(sum(deltas[a:b]) * 1e-6, abs=phase_j)
    assert energy[0, 1] + energy[1, 2] == pytest.approx(energy[0, 2], abs=phase_j)


def test_interface_without_any_sensor():
    with EnergyMeter(sources=["rapl", "estimate"], sysfs="/nonexistent") as meter:
        with meter.window("epoch 1") as epoch:
            sum(range(100_000))
        assert meter.reading.seconds > 0  # so far
    assert isinstance(epoch, Window)
    assert epoch.reading.name == "epoch 1"
    assert 0 < epoch.reading.seconds < meter.reading.seconds
    assert meter.reading.measured_j is None
    assert meter.reading.estimated_j > 0
    assert meter.reading is meter.reading


def test_a_source_that_is_missing_has_no_joules_and_a_reason():
    with EnergyMeter(sources=["rapl"], sysfs="/nonexistent") as meter:
        time.sleep(0.01)
    (value,) = meter.reading.values
    assert (value.status, value.joules, value.low, value.high) == ("unavailable", None, None, None)
    assert value.reason
    assert meter.reading.provenance == "unavailable: no energy source could be read"
    assert meter.reading.measured_j is None
    assert meter.reading.estimated_j is None


def value(source, channel, status, joules=None):
    return EnergyValue(source, channel, status, joules, joules, joules)


def test_one_primary_per_channel_and_estimates_apart():
    settled = billed(
        [
            value("estimate", "cpu:process", "estimated", 7.0),
            value("nvml-power", "gpu:0", "measured", 99.0),
            value("nvml-counter", "gpu:0", "measured", 100.0),
            value("nvml-counter", "gpu:1", "unavailable"),
            value("nvml-power", "gpu:1", "measured", 50.0),
            value("rapl", "dram:package-0", "measured", 3.0),
        ],
        ("nvml-counter", "nvml-power", "rapl", "estimate"),
    )
    reading = Reading("r", 1.0, settled)
    assert reading.measured_j == 153.0
    assert reading.estimated_j == 7.0
    assert {(v.source, v.channel) for v in settled if v.status == "measured" and not v.primary} == {
        ("nvml-power", "gpu:0")
    }
    assert reading.provenance == (
        "measured: nvml-counter (GPU 0), nvml-power (GPU 1), rapl (dram:package-0); estimated: "
    )


def test_a_start_and_a_stop():
    meter = EnergyMeter(sources=["estimate"])
    with pytest.raises(RuntimeError, match="not started"):
        _ = meter.reading
    with pytest.raises(RuntimeError, match="not started"):
        meter.stop()
    assert meter.start() is meter
    first = meter.stop()
    assert meter.stop() is first
    with pytest.raises(RuntimeError, match="already started"):
        meter.start()
    for closed in (meter, EnergyMeter(sources=["estimate"])):
        with pytest.raises(RuntimeError, match=r"has stopped|was not started"):
            closed.window("w")
    with EnergyMeter(sources=["estimate"]) as meter, pytest.raises(RuntimeError, match="not entered"):
        _ = meter.window("w").reading


def test_a_window_left_open_ends_with_the_meter():
    with EnergyMeter(sources=["estimate"], hz=0) as meter:
        window = meter.window("open").__enter__()
        time.sleep(0.02)
    ended = meter.reading.seconds
    time.sleep(0.05)
    window.__exit__(None)
    assert window.reading.seconds <= ended


def test_an_exception_passes_and_the_window_is_read():
    with pytest.raises(KeyError), EnergyMeter(sources=["estimate"]) as meter, meter.window("w") as window:  # noqa: PT012
        sum(range(10_000))
        raise KeyError("mine")
    assert window.reading.seconds > 0
    assert meter.reading.estimated_j is not None


def test_no_thread_is_left():
    before = threading.active_count()
    with EnergyMeter(hz=50):
        assert threading.active_count() == before + 1
        assert all(t.daemon for t in threading.enumerate() if t.name == "energy-sampler")
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError), EnergyMeter():
        _ = 1 / 0
    assert threading.active_count() == before
    with EnergyMeter(hz=0):
        assert threading.active_count() == before


def test_the_sampler_s_thread_is_no_garbage_to_collect():
    """A Ctrl-C during a collection is lost in a callback, and one runs for a thread that is freed."""
    gc.collect()
    gc.disable()
    try:
        with EnergyMeter(sources=["estimate"]) as meter:
            threads = set(threading.enumerate()) - {threading.main_thread()}
            samplers = [weakref.ref(thread) for thread in threads if thread.name == "energy-sampler"]
            del threads
        assert len(samplers) == 1
        assert samplers[0]() is None
        assert meter.reading.seconds > 0
    finally:
        gc.enable()


def test_windows_from_several_threads():
    readings = []

    def work(meter):
        for _ in range(50):
            with meter.window("w") as window:
                pass
            readings.append(window.reading)

    with EnergyMeter(sources=["estimate"], hz=100) as meter:
        threads = [threading.Thread(target=work, args=(meter,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(readings) == 200
    assert all(r.estimated_j >= 0 and r.seconds >= 0 for r in readings)


def test_overhead_is_reported():
    """How small it is, tests/benchmarks/energy_overhead.py measures."""
    with EnergyMeter() as meter:
        for _ in range(100):
            with meter.window():
                pass
    assert 0 < meter.reading.overhead_s < meter.reading.seconds


FOREVER = "while True: pass"


def test_the_load_of_our_own_children_is_ours():
    burner = subprocess.Popen([sys.executable, "-S", "-c", FOREVER])
    try:
        with EnergyMeter(sources=["estimate"], hz=20) as meter:
            deadline = time.monotonic() + 20
            while meter.reading.estimated_j < 0.3 * 3.5 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert burner.pid in meter._times.pids
    finally:
        burner.kill()
        burner.wait()
    assert meter.reading.estimated_j >= 0.3 * 3.5


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that orphans a child")
def test_foreign_cpu_load_raises_contention(monkeypatch):
    monkeypatch.setattr("psutil.cpu_count", lambda: 2)  # of more, one busy core is a smaller share
    orphan = f"{sys.executable} -S -c '{FOREVER}' > /dev/null 2>&1 & echo $!"
    shell = subprocess.run(["/bin/sh", "-c", orphan], capture_output=True, text=True, check=True)
    pid = int(shell.stdout)
    try:
        with EnergyMeter(sources=["estimate"], hz=20) as meter:
            time.sleep(0.2)
            with meter.window() as busy:
                time.sleep(0.6)
            assert pid not in meter._times.pids
    finally:
        os.kill(pid, signal.SIGKILL)
    assert "contention" in busy.reading.values[0].flags


def test_contention_arithmetic():
    quiet, busy = (1, {"cpu": 0}, {}), (4, {"cpu": 200}, {"cpu": False})
    assert contended("cpu", quiet, busy, 2000)
    assert not contended("cpu", quiet, busy, 2001)
    assert not contended("gpu:0", quiet, busy, 100)
    assert contended(
        "cpu", (4, {}, {}), (4, {}, {"cpu": True}), 10
    )  # between two visits the last one decides


def test_heavy_foreign_load_is_noticed(monkeypatch, clock):
    """The machine works 3 of 4 cores, this process none."""
    import psutil

    from bpfree.energy import watch

    busy = iter([0.0, 3.0, 6.0, 6.0, 6.0])
    times = type(psutil.cpu_times())
    blank = times(*[0.0] * len(times._fields))
    monkeypatch.setattr(watch.psutil, "cpu_times", lambda: blank._replace(user=next(busy)))
    monkeypatch.setattr(watch.psutil, "cpu_count", lambda: 4)
    with HandMeter(sources=["estimate"], _clock=clock) as meter:
        meter._sample()
        with meter.window() as heavy:
            for _ in range(2):
                clock.seconds += 1
                meter._sample()
        with meter.window() as light:
            for _ in range(2):
                clock.seconds += 1
                meter._sample()
    assert "contention" in heavy.reading.values[0].flags
    assert "contention" not in light.reading.values[0].flags


@pytest.mark.parametrize(("cores", "at_rest"), [(0.8, False), (0.3, True)])
def test_at_rest_this_process_s_own_load_is_load_too(cores, at_rest, monkeypatch, clock):
    """All that the machine works is this process's: 0.8 of a core, or 0.3."""
    import psutil

    from bpfree.energy import watch

    begun, times = clock.seconds, psutil.cpu_times()
    blank = type(times)(*[0.0] * len(times._fields))

    def worked():
        return cores * (clock.seconds - begun)

    monkeypatch.setattr(watch.psutil, "cpu_times", lambda: blank._replace(user=worked()))
    monkeypatch.setattr(watch.psutil, "cpu_count", lambda: 64)
    for meant_to_rest in (True, False):
        with HandMeter(sources=["estimate"], _clock=clock, _at_rest=meant_to_rest) as meter:
            monkeypatch.setattr(meter._times, "read", lambda: round(1e9 * worked()))
            for _ in range(3):
                clock.seconds += 1
                meter._sample()
        contended = "contention" in meter.reading.values[0].flags
        assert contended == (meant_to_rest and not at_rest)


def test_a_sampler_that_dies_is_confessed(monkeypatch):
    with EnergyMeter(sources=["estimate"], hz=100) as meter:
        monkeypatch.setattr(meter._watch, "visit", lambda now: 1 / 0)
        meter._thread.join(timeout=5)
    assert "sampler-stopped" in meter.reading.values[0].flags


def test_a_trace_too_short_for_the_sampler_has_one_sample():
    for _ in range(20):
        with EnergyMeter(sources=["estimate"], hz=5, trace=True) as meter:
            pass
        assert meter.trace["time_s"].nunique() == 1
        assert meter.trace["time_s"].between(0, meter.reading.seconds).all()


def test_trace_of_the_process():
    with EnergyMeter(sources=["estimate"], hz=50, trace=True) as meter, meter.window() as window:
        begun = time.process_time()
        while time.process_time() - begun < 0.3:
            pass
    frame = meter.trace
    assert set(frame.quantity) == {"utilisation", "rss"}
    assert frame.time_s.is_monotonic_increasing
    assert frame[frame.quantity == "utilisation"].value.max() > 30
    assert window.trace.time_s.min() >= 0
    assert window.trace.time_s.max() <= window.reading.seconds
    with EnergyMeter(sources=["estimate"]) as meter:
        pass
    with pytest.raises(RuntimeError, match="trace=True"):
        _ = meter.trace


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": ["nvml-power", "rpal"]}, "Unknown energy source 'rpal'.*did you mean 'rapl'"),
        ({"sources": []}, "names none"),
        ({"hz": -1}, "hz=-1"),
        ({"hz": 1e6}, "hz="),
        ({"hz": float("nan")}, "hz=nan"),
        ({"hz": 0, "trace": True}, "trace=True with hz=0"),
        ({"hz": "5"}, "hz='5'"),
        ({"idle_w": -3.0}, "idle_w=-3.0"),
        ({"idle_w": "50"}, "idle_w='50'"),
        ({"idle_w": True}, "idle_w=True"),
        ({"idle_w": float("inf")}, "idle_w=inf"),
        ({"idle_w": {"machine": "50"}}, "idle_w={'machine': '50'}"),
        ({"idle_w": {"machine": float("nan")}}, "idle_w={'machine': nan}"),
        ({"idle_w": {"machine": -5}}, "idle_w={'machine': -5}"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        EnergyMeter(**options)
    assert "\n" not in str(error.value)


def test_reading_is_json_a_frame_and_a_table():
    with EnergyMeter(name="job", country="POL") as meter:
        sum(range(100_000))
    reading = meter.reading
    record = json.loads(json.dumps(reading.to_dict()))
    assert record["name"] == "job"
    assert record["measured_j"] == reading.measured_j
    assert [v["source"] for v in record["values"]] == [v.source for v in reading.values]
    assert all(v["joules"] is None for v in record["values"] if v["status"] == "unavailable")
    frame = reading.frame()
    assert len(frame) == len(reading.values)
    assert frame.status.tolist() == [v.status for v in reading.values]
    text = str(reading)
    assert "a power model, not a measurement" in text
    assert "gCO2e estimated" in text
    assert "<table>" in reading._repr_html_()


def test_nothing_unavailable_prints_as_zero():
    reading = Reading("r", 1.0, (EnergyValue("rapl", "cpu", "unavailable", reason="none"),))
    assert "0 J" not in str(reading)
    assert "0.0" not in str(reading).replace("1.000", "").replace("0.00 ms", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0123, "12.3 mJ"), (5.0, "5 J"), (12_345, "12.35 kJ"), (3.6e6, "3.6 MJ")],
)
def test_joules_for_people(value, text):
    assert joules_text(value) == text


def test_measure_decorates():
    seen = []

    @measure(report=seen.append, sources=["estimate"])
    def work(n):
        """Doc."""
        return sum(range(n))

    assert work(1000) == 499_500
    assert work.__doc__ == "Doc."
    assert seen == [work.reading]
    assert "work" in work.reading.name


def test_measure_prints_by_default(capsys):
    @measure
    def work():
        return 1

    assert work() == 1
    assert "estimated" in capsys.readouterr().out


def test_idle_measures_nothing_to_do():
    class Plug:
        name, unit, channel, period_s = "plug", "W", "machine", 0.01
        read = staticmethod(lambda: 75.0)

    reading = measure_idle(0.05, sources=[Plug()], hz=0)  # without a sampler, which may find a load
    assert reading.name == "idle"
    assert reading.watts == {"machine": pytest.approx(75.0)}
    assert reading.seconds >= 0.05


def test_nothing_is_waited_for_where_there_is_no_sensor():
    begun = time.monotonic()
    assert measure_idle(60.0, sources=["estimate"]).watts == {}
    assert check(60.0, load_s=60.0, sources=["estimate"])[0].seen is None
    assert time.monotonic() - begun < 10.0


def test_import_is_light(python):
    heavy = ("torch", "pandas", "numpy", "pynvml", "codecarbon", "tabulate")
    done = python("-c", f"import sys, bpfree.energy; print([m for m in {heavy!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_nothing_else_of_bpfree_is_imported():
    """The folder can be taken alone: every import is its own, relative and one level deep, or a library's."""
    folder = Path(bpfree.energy.__file__).parent
    nodes = [n for path in folder.glob("*.py") for n in ast.walk(ast.parse(path.read_text("utf-8")))]
    assert len(nodes) > 1000
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            assert node.level == 1 or node.module.partition(".")[0] != "bpfree"
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("bpfree") for alias in node.names)
