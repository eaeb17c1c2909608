"""Sources of energy of your own: a wattmeter, a smart plug, a sensor that this package does not know.

    class Plug:
        name, unit, channel, period_s = "plug", "W", "machine", 1.0

        def read(self):
            return ask_the_plug()["watts"]

    with EnergyMeter(sources=["rapl", Plug()]) as meter:
        ...

What is added to what is decided by the channel, so that nothing is counted twice:

- "machine" is the whole machine. It is the total, and whatever else is measured is a part of it, which is
  shown and not added;
- the channel of another source ("gpu:0", "cpu:package-0", "dram:package-0") is the same thing seen
  twice: your source is the one that counts, and the other is a cross-check;
- "gpu" is all of "gpu:0", "gpu:1" and so on, and "cpu" likewise;
- any other name is a part that no other source sees, and is added.

A source that you bring along is never passed over: where it cannot be read, steps back, or shows nothing at
all, the reading says so and there is no total. It counts whatever process uses what it measures.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from .accumulator import NS, Counter, Trapezoid
from .channel import SensorChannel, gap_ns, power_at

MOST_OWN_W = 20_000.0
TAIL = 4096  # bytes of a file's end in which its last lines are looked for


class Source(Protocol):
    """What :class:`EnergyMeter` takes among its sources; a class need not inherit from this one.

    Attributes:
        name: what readings call the source; none of the built-in names.
        unit: "J" if ``read`` gives the joules counted so far, "W" if it gives the power now, which is sampled
            at the meter's rate and integrated by the trapezoid rule, and flagged "sampled-power".
        channel: what it measures; the rules are those of the module.
        period_s: seconds between two updates of the sensor.
        tolerance_w: its documented tolerance in watts; 0 if left out.
        max_power_w: more than what it measures can draw: what exceeds it is a fault, and not energy; 20 kW if
            left out.

    ``read`` is called at both edges of every window and by the sampler's thread, one call at a time; where it
    takes long, windows are flagged "late-edge". ``close``, if there is one, is called when the meter ends.
    """

    name: str
    unit: str
    channel: str
    period_s: float

    def read(self) -> float:
        """Joules or watts, as a finite number; any exception means that the sensor cannot be read now."""
        ...


@dataclass(eq=False)
class FileSource:
    """A sensor whose readings another program writes to a text file: the last number of its last line.

        FileSource("plug.csv", name="plug", period_s=1.0)  # lines of time and watts
        FileSource("/sys/class/hwmon/hwmon3/power1_input", channel="board", scale=1e-6, stale_s=math.inf)

    Args:
        path: the file, a log to which lines are added or one that is written anew; a line that does not end
            yet is left for later. A comma separates, but in a line with semicolons or tabs it is the decimal
            mark.
        name, unit, channel, period_s, tolerance_w, max_power_w: as in :class:`Source`.
        scale: joules or watts for each unit of the file's, such as 3.6e6 for kWh.
        stale_s: how old the file may be before its readings count as lost; by default ten periods. ``inf``
            for sysfs, whose files are as old as the system.
    """

    path: str | os.PathLike
    _: KW_ONLY
    name: str = "file"
    unit: str = "W"
    channel: str = "machine"
    period_s: float = 1.0
    tolerance_w: float = 0.0
    max_power_w: float = MOST_OWN_W
    scale: float = 1.0
    stale_s: float | None = None

    def read(self) -> float:
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            age_s = time.time() - status.st_mtime
            file.seek(max(0, status.st_size - TAIL))
            lines = file.read().split(b"\n")
        if age_s > (10 * self.period_s if self.stale_s is None else self.stale_s):
            raise TimeoutError(f"{self.path} was last written {age_s:.3g} s ago")
        whole = lines[:-1] or lines  # behind the last end of a line something may just be written
        last = next((line.decode(errors="replace") for line in reversed(whole) if line.strip()), "")
        by_comma = not any(separator in last for separator in ";\t")
        fields = last.replace(",", " " if by_comma else ".").replace(";", " ").split()
        try:
            return self.scale * float(fields[-1])
        except (IndexError, ValueError):
            raise ValueError(f"{self.path} does not end in a number: its last line is {last!r}") from None


def open_source(source: Source, hz: float) -> SensorChannel:
    """The channel of a source of the user's own. Raises ValueError for what cannot be one."""
    lacking = [name for name in ("name", "unit", "channel", "period_s", "read") if not hasattr(source, name)]
    if lacking:
        raise ValueError(f"energy source {source!r} has no {', '.join(lacking)}: see bpfree.energy.Source")
    tolerance_w, max_power_w = getattr(source, "tolerance_w", 0.0), getattr(source, "max_power_w", MOST_OWN_W)
    name, unit, period_s = source.name, source.unit, source.period_s
    for what, text in (("name", name), ("channel", source.channel)):
        if not (isinstance(text, str) and text):
            raise ValueError(f"energy source {source!r}: {what}={text!r}, give a name such as 'machine'")
    if unit not in ("J", "W"):
        raise ValueError(f"energy source {name!r}: unit={unit!r}, give 'J' (counted) or 'W' (power now)")
    numbers = {"period_s": period_s, "tolerance_w": tolerance_w, "max_power_w": max_power_w}
    for what, value in numbers.items():
        above = "0 or more" if what == "tolerance_w" else "above 0"
        if not (isinstance(value, int | float) and 0 <= value < math.inf and (value or "or" in above)):
            raise ValueError(f"energy source {name!r}: {what}={value!r}, give a number {above}")
    held_ns = round(period_s * NS)
    if unit == "J":
        accumulator = Counter(lambda: round(1e6 * source.read()), 1e-6, None, max_power_w, held_ns)
        basis, flags = "energy counter", ()
    else:
        basis, flags = power_at(hz, period_s), ("sampled-power",)
        period_s = max(period_s, 1 / hz if hz else 0.0)
        accumulator = Trapezoid(lambda: round(1e3 * source.read()), gap_ns(period_s), max_power_w, held_ns)
    kind = source.channel if source.channel.startswith("gpu") else "cpu"
    sensor = name, source.channel, accumulator, period_s, f"{basis}, a source of the user's own"
    close = getattr(source, "close", lambda: None)
    return SensorChannel(*sensor, tolerance_w, flags, kind=kind, own=True, close=close)
