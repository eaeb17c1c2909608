"""CPU packages and DRAM through RAPL's energy counters, by powercap or else by perf events (Linux).

Powercap's files are read where they can be; where not one of them can, the same counters are opened as perf
events (see ``perf``), under the same names. The two are never mixed: a package is counted once.

Layout (Linux, Documentation/power/powercap): zones ``intel-rapl:0`` named "package-0", with subzones
``intel-rapl:0:0`` named "core", "uncore" or "dram"; each has ``energy_uj`` and wraps after
``max_energy_range_uj``. AMD uses the same names. What is added and what is not:

- packages are added up; DRAM lies outside the package and is added once; core and uncore lie inside it;
- "psys" is the whole platform, packages included: never added;
- ``intel-rapl-mmio`` is a second window onto the same package: used only where the first cannot be read;
- the dies of one package ("package-0-die-1") may mirror one counter: mirrors are counted once.

The counters advance about every millisecond (Khan et al. 2018, "RAPL in Action"). Intel documents no
tolerance. No zone is believed to draw more than twice the highest limit that its constraints state
(``constraint_*_power_limit_uw``, ``constraint_*_max_power_uw``), or ``MOST_ZONE_W`` if they state none or
more: a package is sold for 500 W at most. The limits are for all to read, and hold for perf's
counters, too.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from . import perf
from .accumulator import NS, Counter
from .channel import Found, SensorChannel

RAPL = "rapl"
SYSFS = Path("/sys")
POWERCAP = "class/powercap"
UNIT_J = 1e-6
RAPL_PERIOD_S = 1e-3
MOST_ZONE_W = 1000.0
_PACKAGE = re.compile(r"package-\d+(-die-\d+)?$")
_DIE = re.compile(r"(\w+:package-\d+)(-die-\d+)?$")


@dataclass
class Zone:
    """One powercap zone."""

    path: Path
    name: str
    channel: str
    control: str  # "intel-rapl" or "intel-rapl-mmio"

    interface = ""
    unit_j = UNIT_J

    def open(self) -> tuple[Callable[[], int], Callable[[], None]]:
        """A reader of ``energy_uj`` and its closer; the file stays open: a read is one system call."""
        descriptor = os.open(self.path / "energy_uj", os.O_RDONLY)
        return (lambda: int(os.pread(descriptor, 32, 0))), (lambda: os.close(descriptor))

    def why(self, error: Exception) -> str:
        return _unreadable(error, self.path)

    @property
    def modulus(self) -> int | None:
        """The counter runs from 0 to its range inclusive, in steps of tens of µJ: the range serves."""
        return max(0, _number(self.path / "max_energy_range_uj")) or None

    @property
    def basis(self) -> str:
        return "energy counter" + ("" if self.modulus else ", range unknown: a wrap would be a fault")

    @property
    def limit_w(self) -> float:
        """More than the zone can draw, by its own account; infinite if it gives none."""
        paths = self.path.glob("constraint_*_uw")  # power_limit_uw, max_power_uw, min_power_uw
        return 2 * UNIT_J * max(map(_number, paths), default=0) or math.inf


def _number(path: Path) -> int:
    """What a file of sysfs holds; 0 if it cannot be read."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def _zones(root: Path) -> tuple[list[Zone], dict[str, str]]:
    """Every zone below ``root``, nested or flat (sysfs shows both), "intel-rapl" before its mmio twin.

    Beside them why others, whose name cannot be read, are none; under "cpu" why there are none at all.
    """
    try:
        paths = {path.name: path for path in sorted(root.rglob("intel-rapl*:*")) if path.is_dir()}
    except OSError as error:
        return [], {"cpu": _unreadable(error, root)}
    if not paths:
        why = "not Linux on Intel or AMD, a virtual machine, or no powercap driver"
        return [], {"cpu": f"no RAPL zones under {root}: {why}"}
    zones: list[Zone] = []
    failed: dict[str, str] = {}
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}  # (control + channel) -> key: two zones of one control may have one name
    for key in sorted(paths, key=lambda key: key.split(":")):
        control, *numbers = key.split(":")
        try:
            label = labels[key] = (paths[key] / "name").read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            failed[key] = _unreadable(error, paths[key] / "name")
            continue
        parent = labels.get(":".join([control, *numbers[:-1]]), "")
        channel = f"cpu:{label}" if _PACKAGE.match(label) else f"{label}:{parent}" if parent else label
        if taken.setdefault(control + channel, key) != key:
            channel += f" ({key})"
        zones.append(Zone(paths[key], label, channel, control))
    return zones, failed


def _unreadable(error: Exception, path: Path) -> str:
    if isinstance(error, PermissionError):
        return f"no permission to read {path}: run as root, or let an administrator make it readable"
    return f"cannot read {path}: {type(error).__name__}"


def open_zones(found: Found, sysfs: Path = SYSFS) -> None:
    """Open what counts, once each, add it to ``found``, and say of everything else why it does not count."""
    zones, failed = _zones(sysfs / POWERCAP)
    opened, refused = _open(found, zones)
    failed |= refused
    if not opened:
        events, by_perf = perf.events(sysfs)
        limits_w = {zone.channel: zone.limit_w for zone in reversed(zones)}
        for event in events:
            event.limit_w = limits_w.get(event.channel, math.inf)
        opened, refused = _open(found, events)
        failed = _either(failed, by_perf | refused, opened)
    for channel, why in failed.items():
        found.lack(RAPL, channel, why)


def _either(by_powercap: dict[str, str], by_perf: dict[str, str], opened: Iterable[str]) -> dict[str, str]:
    """By channel, why neither way leads to it; "cpu" speaks of all channels, where none has a name."""
    named = {channel: None for channel in (*by_powercap, *by_perf) if channel not in ("cpu", *opened)}
    reasons = {}
    for channel in named or ([] if opened else ["cpu"]):
        both = [way.get(channel, way.get("cpu")) for way in (by_powercap, by_perf)]
        reasons[channel] = "; ".join(filter(None, both))
    return reasons


def _open(
    found: Found, zones: Iterable[Zone | perf.Event]
) -> tuple[dict[str, Callable[[], int]], dict[str, str]]:
    """The readers of the zones that count, and why others that would do cannot be read, by channel."""
    opened: dict[str, Callable[[], int]] = {}
    failed: dict[str, str] = {}

    def ignore(channel: str, why: str) -> None:
        if (channel, why) not in found.ignored:  # the other way may have said so
            found.ignored.append((channel, why))

    for zone in zones:  # "intel-rapl" sorts before "intel-rapl-mmio", so the twin comes second
        if zone.name == "psys":
            ignore(zone.channel, "the whole platform, packages included: never added")
        elif not (_PACKAGE.match(zone.name) or zone.name == "dram"):
            ignore(zone.channel, "part of its package: never added")
        elif zone.channel in opened:
            ignore(f"{zone.channel} ({zone.control})", "a second window onto the same counter")
        else:
            with ExitStack() as closing:
                try:
                    read, close = zone.open()
                    closing.callback(close)
                    read()
                    twin = _mirrored(zone, read, opened)
                except Exception as error:  # a file of sysfs may fail in ways of its own
                    failed.setdefault(zone.channel, zone.why(error))
                    continue
                if twin:
                    ignore(zone.channel, f"mirrors the counter of {twin}: counted once")
                    continue
                closing.pop_all()  # it stays open
            opened[zone.channel] = read
            failed.pop(zone.channel, None)
            most_w, held_ns = min(zone.limit_w, MOST_ZONE_W), int(RAPL_PERIOD_S * NS)
            counter = Counter(read, zone.unit_j, zone.modulus, most_w, held_ns)
            sensor = RAPL, zone.channel, counter, RAPL_PERIOD_S, zone.basis
            found.channels.append(SensorChannel(*sensor, interface=zone.interface, close=close))
    return opened, failed


def _mirrored(
    zone: Zone | perf.Event, read: Callable[[], int], opened: dict[str, Callable[[], int]]
) -> str | None:
    """The already opened die of the same package whose counter this one mirrors, if any.

    A mirror's value lies between two reads of the original taken just before and after. Two counters of
    2^32 steps that differ do so only by a freak of chance.
    """
    die = _DIE.match(zone.channel)
    for channel, original in opened.items():
        other = _DIE.match(channel)
        if die and die[2] and other and other[1] == die[1]:
            before, here, after = original(), read(), original()
            if 0 < before <= here <= after:
                return channel
    return None
