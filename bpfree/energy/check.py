"""What can be measured on this machine, and why the rest cannot."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from .meter import EnergyMeter

MEANING = {
    "nvml-counter": "GPU energy counter",
    "nvml-power": "GPU power, sampled",
    "rapl": "CPU and DRAM energy counters",
    "estimate": "CPU time x assumed watts",
}


class Row(NamedTuple):
    source: str
    meaning: str
    channel: str
    status: str
    detail: str


class Check(tuple[Row, ...]):
    """The rows of :func:`check`, printable as a table."""

    def __str__(self) -> str:
        from tabulate import tabulate

        headers = ["source", "what it is", "channel", "status", "how, or why not"]
        table = tabulate(self, headers=headers, maxcolwidths=[None] * 4 + [60])
        measured = [row.channel for row in self if row.status == "measured"]
        verdict = (
            f"Energy can be measured here: {', '.join(dict.fromkeys(measured))}."
            if measured
            else "No energy sensor can be read here. Joules will be estimates, and labelled so."
        )
        return f"{table}\n{verdict}"


def check(seconds: float = 0.3, **options: Any) -> Check:
    """Try every source for ``seconds`` (a counter must be seen to move). ``options`` go to the meter."""
    with EnergyMeter(**{"hz": 20.0, **options}) as meter:
        time.sleep(seconds)
    rows = []
    for value in meter.reading.values:
        detail = value.reason or value.basis
        if flags := [f for f in value.flags if f != "short-window"]:
            detail += f" [{', '.join(flags)}]"
        rows.append(
            Row(
                value.source,
                MEANING.get(value.source, "a source of your own"),
                value.channel,
                value.status,
                detail,
            )
        )
    rows += [Row("rapl", MEANING["rapl"], channel, "left out", why) for channel, why in meter.ignored]
    return Check(rows)
