"""What can be measured on this machine, why the rest cannot, and what the sensors do when watched."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from .meter import EnergyMeter
from .reading import Reading

MEANING = {
    "nvml-counter": "GPU energy counter",
    "nvml-power": "GPU power, sampled",
    "rapl": "CPU and DRAM energy counters",
    "estimate": "CPU time x assumed watts",
}
SEEN = {  # of a sensor's self-test, and how the table calls it
    "period_s": "moves every (s)",
    "assumed_s": "assumed (s)",
    "idle_w": "idle (W)",
    "load_w": "load (W)",
    "agreement": "counter / power",
    "faults": "faults",
}


class Row(NamedTuple):
    """One source and channel; ``seen`` is its self-test, where a sensor was read.

    That is the dict of :attr:`EnergyMeter.selftest`, and the watts while this program did nothing
    (``idle_w``) and under load (``load_w``, None without). A counter's ``agreement`` with the device's power
    is that under load, if there was one.
    """

    source: str
    meaning: str
    channel: str
    status: str
    detail: str
    seen: dict | None = None


class Check(tuple[Row, ...]):
    """The rows of :func:`check`, printable as a table."""

    def __str__(self) -> str:
        from tabulate import tabulate

        headers = ["source", "what it is", "channel", "status", "how, or why not"]
        table = tabulate([row[:5] for row in self], headers=headers, maxcolwidths=[None] * 4 + [60])
        measured = [row.channel for row in self if row.status == "measured"]
        if not measured:
            return f"{table}\nNo energy sensor can be read here. Joules will be estimates, and labelled so."
        seen = [[row.source, row.channel, *map(row.seen.get, SEEN)] for row in self if row.seen]
        tests = tabulate(seen, ["sensor", "channel", *SEEN.values()], missingval="-", floatfmt=".4g")
        return f"{table}\n\n{tests}\nEnergy can be measured here: {', '.join(dict.fromkeys(measured))}."


@contextmanager
def working() -> Iterator[None]:
    """A steady load meanwhile: products of matrices on the GPU if torch has one, else one busy core."""
    end, step = threading.Event(), _step()

    def work() -> None:
        while not end.is_set():
            step()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _step() -> Callable[[], object]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        block = bytes(1 << 24)
        return lambda: hashlib.sha256(block).digest()
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def step() -> None:
        for _ in range(8):
            matrix @ matrix
        torch.cuda.synchronize()

    return step


def check(seconds: float = 1.0, load_s: float = 0.0, **options: Any) -> Check:
    """Try every source and watch its sensor for ``seconds``, and under a load for ``load_s``.

    ``options`` go to the meter. Where there is no sensor there is nothing to wait for.
    """
    with EnergyMeter(**{"gpus": None, "hz": 20.0, **options}) as meter:
        sensors = bool(meter.selftest)
        idle, load = meter.window("idle"), meter.window("load")
        with idle:
            meter._follow(seconds * sensors)
        if load_s and sensors:
            with working(), load:
                meter._follow(load_s)
    tests, rows = meter.selftest, []
    idle_w = _watts(idle.reading)
    load_w = _watts(load.reading) if load_s and sensors else {}
    for value in meter.reading.values:
        detail = value.reason or value.basis
        if flags := [f for f in value.flags if f != "short-window"]:
            detail += f" [{', '.join(flags)}]"
        place = value.source, value.channel
        seen = tests.get(" ".join(place))
        if seen is not None:
            seen = {**seen, "idle_w": idle_w.get(place), "load_w": load_w.get(place)}
            power = load_w.get(("nvml-power", value.channel))
            if "agreement" in seen and power and seen["load_w"]:
                seen["agreement"] = round(seen["load_w"] / power, 4)
        meaning = MEANING.get(value.source, "a source of your own")
        rows.append(Row(value.source, meaning, value.channel, value.status, detail, seen))
    rows += [Row("rapl", MEANING["rapl"], channel, "left out", why) for channel, why in meter.ignored]
    return Check(rows)


def _watts(reading: Reading) -> dict[tuple[str, str], float]:
    measured = [v for v in reading.values if v.status == "measured"]
    return {(v.source, v.channel): round(v.joules / reading.seconds, 3) for v in measured}
