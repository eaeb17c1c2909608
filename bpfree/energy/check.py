"""What can be measured on this machine, and why the rest cannot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .meter import EnergyMeter

if TYPE_CHECKING:
    import pandas

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


@dataclass(frozen=True)
class Check:
    """The result of :func:`check`: iterable rows, printable as a table."""

    rows: tuple[Row, ...]

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(self.rows, columns=Row._fields)

    def __str__(self) -> str:
        from tabulate import tabulate

        headers = ["source", "what it is", "channel", "status", "how, or why not"]
        table = tabulate(self.rows, headers=headers, maxcolwidths=[None] * 4 + [60])
        measured = [row.channel for row in self.rows if row.status == "measured"]
        verdict = (
            f"Energy can be measured here: {', '.join(dict.fromkeys(measured))}."
            if measured
            else "No energy sensor can be read here. Joules will be estimates, and labelled so."
        )
        return f"{table}\n{verdict}"


def check(seconds: float = 0.3, **options: object) -> Check:
    """Try every source for ``seconds`` (a counter must be seen to move). ``options`` go to the meter."""
    with EnergyMeter(**{"hz": 20.0, **options}) as meter:
        time.sleep(seconds)
    rows = []
    for value in meter.reading.values:
        detail = value.reason or value.basis
        flags = (
            f" [{', '.join(f for f in value.flags if f != 'short-window')}]"
            if set(value.flags) - {"short-window"}
            else ""
        )
        rows.append(Row(value.source, MEANING[value.source], value.channel, value.status, detail + flags))
    rows += [Row("rapl", MEANING["rapl"], channel, "left out", why) for channel, why in meter.ignored]
    return Check(tuple(rows))
