"""What the energy meter itself costs. Run by hand: ``python tests/benchmarks/energy_overhead.py``.

Prints medians and 99th percentiles of the meter's edges in microseconds, and the sampler's CPU time as a
share of one core, alone and in a process with the threads that numerical libraries leave behind.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable

from bpfree.energy import EnergyMeter


class Tenths:
    """A counter of 75 W whose read takes no time."""

    name, unit, channel, period_s = "tenths", "J", "machine", 0.1

    def read(self) -> float:
        return 75 * (time.perf_counter() // 0.1) * 0.1


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e6


def describe(label: str, samples: list[float]) -> None:
    ordered = sorted(samples)
    tail = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(f"{label:<44} median {statistics.median(ordered):9.1f} µs   99 % {tail:9.1f} µs   n={len(ordered)}")


def edges(repeats: int) -> None:
    made, started, stopped = [], [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        meter = EnergyMeter()
        made.append((time.perf_counter() - begun) * 1e6)
        started.append(timed(meter.start))
        time.sleep(0.02)  # the sampler's first visit
        stopped.append(timed(meter.stop))
    describe("EnergyMeter()", made)
    describe("start()", started)
    describe("stop(), reading included", stopped)


def windows(repeats: int) -> None:
    entered, left, read = [], [], []
    with EnergyMeter() as meter:
        for _ in range(repeats):
            window = meter.window("w")
            entered.append(timed(window.__enter__))
            left.append(timed(lambda window=window: window.__exit__(None)))
            read.append(timed(lambda window=window: window.reading))
    describe("window: enter", entered)
    describe("window: exit", left)
    describe("window: first access to .reading", read)


def sampler(seconds: float, threads: int, **options: object) -> None:
    """CPU time of a process that only sleeps, with the meter and without."""
    release = threading.Event()
    idle = [threading.Thread(target=release.wait, daemon=True) for _ in range(threads)]
    for thread in idle:
        thread.start()
    begun = time.process_time()
    time.sleep(seconds)
    bare = time.process_time() - begun
    with EnergyMeter(**options) as meter:
        begun = time.process_time()
        time.sleep(seconds)
        metered = time.process_time() - begun
        reported = meter.reading.overhead_s
    release.set()
    share = 100 * (metered - bare) / seconds
    print(
        f"sampler, {options.get('hz', 5.0):g} Hz, trace {'on' if options.get('trace') else 'off'}, "
        f"{threads:>2} idle threads: {share:.3f} % of a core "
        f"(the meter's own account: {100 * reported / seconds:.3f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    print(f"Python {sys.version.split()[0]} on {sys.platform}")
    with EnergyMeter() as meter:
        pass
    print(f"sources here: {meter.reading.provenance}")
    edges(arguments.repeats)
    windows(20 * arguments.repeats)
    for threads in (0, 32):
        sampler(arguments.seconds, threads)
    sampler(arguments.seconds, 0, trace=True)
    print("with a counter that moves ten times a second, as a GPU's does:")
    sampler(arguments.seconds, 0, sources=["estimate", Tenths()])
    sampler(arguments.seconds, 0, sources=["estimate", Tenths()], trace=True)


if __name__ == "__main__":
    main()
