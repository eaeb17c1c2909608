"""The power model: CPU seconds of this process and its children, each once, times watts with bounds."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from bpfree.energy import EnergyMeter, estimate

BURN = "import time; t = time.process_time()\nwhile time.process_time() - t < {}: pass"


def burn(seconds: float) -> None:
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass


def spent() -> float:
    """CPU seconds of this process and of its children that have ended, as the system accounts for them."""
    times = os.times()
    return sum((times.user, times.system, times.children_user, times.children_system))


TICK = 0.05  # seconds: what the account of a child is rounded to, and its grandchild's, generously


def estimated(**options) -> EnergyMeter:
    return EnergyMeter(sources=["estimate"], **options)


def test_is_cpu_seconds_times_watts():
    before = time.process_time()
    with estimated(watts_per_core=10.0, hz=0) as meter:
        burn(0.2)
    after = time.process_time()
    assert 2.0 <= meter.reading.estimated_j <= 10.0 * (after - before)
    assert meter.reading.measured_j is None


def test_sleeping_costs_nothing():
    before = spent()
    with estimated(watts_per_core=10.0) as meter:
        time.sleep(0.3)
    assert meter.reading.estimated_j <= 10.0 * (spent() - before + TICK)


def test_all_threads_count():
    before = spent()
    with estimated(watts_per_core=1.0, hz=0) as meter:
        threads = [threading.Thread(target=burn, args=(0.15,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 0.3 <= meter.reading.estimated_j <= spent() - before + TICK


def test_children_count_once_each():
    before = spent()
    with estimated(watts_per_core=1.0) as meter:
        subprocess.run([sys.executable, "-S", "-c", BURN.format(0.3)], check=True)
    assert 0.3 <= meter.reading.estimated_j <= spent() - before + TICK


def test_living_children_count_too_and_not_again_when_they_end():
    child = subprocess.Popen([sys.executable, "-S", "-c", BURN.format(60)])
    process = psutil.Process(child.pid)
    try:
        with estimated(watts_per_core=1.0) as meter:
            before = sum(process.cpu_times()[:2])
            deadline = time.monotonic() + 30
            while (burnt := sum(process.cpu_times()[:2]) - before) < 0.3 and time.monotonic() < deadline:
                time.sleep(0.02)
            alive = meter.reading.estimated_j
            last = sum(process.cpu_times()[:2]) - before
            child.kill()
            child.wait()
        own = meter.reading.overhead_s + 0.1
    finally:
        child.kill()
        child.wait()
    assert burnt - 0.05 <= alive <= last + own
    assert alive <= meter.reading.estimated_j <= last + own + 0.1


def test_grandchildren_count():
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {BURN.format(0.3)!r}])"
    before = spent()
    with estimated(watts_per_core=1.0) as meter:
        subprocess.run([sys.executable, "-S", "-c", grandchild], check=True)
    assert 0.3 <= meter.reading.estimated_j <= spent() - before + TICK


def test_never_decreases_while_children_come_and_go():
    times = estimate.ProcessTimes()
    last = times.read()
    deadline = time.monotonic() + 0.5
    children = []
    while time.monotonic() < deadline:
        children = [c for c in children if c.poll() is None]
        if len(children) < 2:
            children.append(subprocess.Popen([sys.executable, "-S", "-c", BURN.format(0.02)]))
        times.refresh()
        now = times.read()
        assert now >= last
        last = now
    for child in children:
        child.wait()


def test_a_lost_child_does_not_hide_later_ones(monkeypatch):
    """A child that nobody waits for takes its seconds along; they stay counted, and the next child counts."""
    times = estimate.ProcessTimes()
    times.LOST_NS = 0
    waited, living = iter([5, 5, 5, 5]), iter([10, 0, 0, 3])
    monkeypatch.setattr(estimate, "_waited_ns", lambda: next(waited) * 10**9)
    monkeypatch.setattr(times, "_living_ns", lambda: next(living) * 10**9)
    monkeypatch.setattr(estimate.time, "process_time_ns", lambda: 0)
    assert [times.read() // 10**9 for _ in range(4)] == [15, 15, 15, 18]


def test_kernel_lists_agree_with_psutil():
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(5)"])
    try:
        times = estimate.ProcessTimes()
        times.refresh()
        assert times.pids == {os.getpid(), *(c.pid for c in psutil.Process().children(recursive=True))}
        assert child.pid in times.pids
        portable = estimate.ProcessTimes()
        portable._lists = False  # as where the kernel keeps no lists
        portable.refresh()
        assert portable.pids == times.pids
    finally:
        child.kill()
        child.wait()


def test_bounds_and_origin_are_stated():
    with estimated(hz=0) as meter:
        burn(0.05)
    value = meter.reading.values[0]
    assert value.status == "estimated"
    assert value.low < value.joules < value.high
    assert value.joules / value.low == pytest.approx(3.5 / 1.69)
    assert "Cloud Carbon Footprint" in value.reason
    assert "nothing beyond CPU time" in value.reason
    assert value.basis == "CPU seconds x 3.5 W/core"
    assert meter.reading.provenance == "estimated: CPU seconds x 3.5 W/core"


def test_stated_watts():
    assert estimate.watts((2, 4, 6)) == (2, 4, 6, "stated by the user")
    low, central, high, origin = estimate.watts(7)
    assert central == 7
    assert low / 7 == pytest.approx(1.69 / 3.5)
    assert high / 7 == pytest.approx(8.96 / 3.5)
    assert "user" in origin


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), (3, 2, 1), (1, 2)])
def test_wrong_watts_are_refused(wrong):
    with pytest.raises(ValueError, match="watts_per_core"):
        EnergyMeter(watts_per_core=wrong)


def test_a_pool_of_workers_counts():
    context = multiprocessing.get_context("spawn")
    with estimated(watts_per_core=1.0) as meter:
        process = context.Process(target=time.sleep, args=(0,))
        process.start()
        process.join()
    assert meter.reading.estimated_j > 0.01  # starting an interpreter takes CPU time
