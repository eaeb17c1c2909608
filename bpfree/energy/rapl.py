"""CPU packages and DRAM through RAPL's energy counters, read from powercap sysfs (Linux).

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
more: a package is sold for 500 W at most.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .accumulator import NS, Counter
from .channel import Found, SensorChannel

RAPL = "rapl"
ROOT = Path("/sys/class/powercap")
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

    def open(self) -> tuple[Callable[[], int], Callable[[], None]]:
        """A reader of ``energy_uj`` and its closer; the file stays open: a read is one system call."""
        descriptor = os.open(self.path / "energy_uj", os.O_RDONLY)
        return (lambda: int(os.pread(descriptor, 32, 0))), (lambda: os.close(descriptor))

    @property
    def range_uj(self) -> int | None:
        """The counter runs from 0 to this range inclusive, in steps of tens of µJ: it serves as modulus."""
        return max(0, _number(self.path / "max_energy_range_uj")) or None

    @property
    def max_power_w(self) -> float:
        """More than the zone can draw."""
        paths = self.path.glob("constraint_*_uw")  # power_limit_uw, max_power_uw, min_power_uw
        return min(2 * UNIT_J * max(map(_number, paths), default=0), MOST_ZONE_W) or MOST_ZONE_W


def _number(path: Path) -> int:
    """What a file of sysfs holds; 0 if it cannot be read."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def _zones(root: Path, found: Found) -> list[Zone]:
    """Every zone below ``root``, nested or flat (sysfs shows both), "intel-rapl" before its mmio twin.

    Zones without a readable name go to ``found.missing``.
    """
    paths = {path.name: path for path in sorted(root.rglob("intel-rapl*:*")) if path.is_dir()}
    zones: list[Zone] = []
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}  # (control + channel) -> key: two zones of one control may have one name
    for key in sorted(paths, key=lambda key: key.split(":")):
        control, *numbers = key.split(":")
        try:
            label = labels[key] = (paths[key] / "name").read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            found.lack(RAPL, key, _unreadable(error, paths[key] / "name"))
            continue
        parent = labels.get(":".join([control, *numbers[:-1]]), "")
        channel = f"cpu:{label}" if _PACKAGE.match(label) else f"{label}:{parent}" if parent else label
        if taken.setdefault(control + channel, key) != key:
            channel += f" ({key})"
        zones.append(Zone(paths[key], label, channel, control))
    return zones


def _unreadable(error: Exception, path: Path) -> str:
    if isinstance(error, PermissionError):
        return f"no permission to read {path}: run as root, or let an administrator make it readable"
    return f"cannot read {path}: {type(error).__name__}"


def open_zones(found: Found, root: Path = ROOT) -> None:
    """Open the zones that count, once each, add them to ``found``, and say of every other why it does not."""
    before = len(found.missing)
    try:
        zones = _zones(root, found)
    except OSError as error:
        found.lack(RAPL, "cpu", _unreadable(error, root))
        return
    if not zones and len(found.missing) == before:
        why = "not Linux on Intel or AMD, a virtual machine, or no powercap driver"
        found.lack(RAPL, "cpu", f"no RAPL zones under {root}: {why}")
    opened: dict[str, Callable[[], int]] = {}
    failed: dict[str, str] = {}
    for zone in zones:  # "intel-rapl" sorts before "intel-rapl-mmio", so the twin comes second
        if zone.name == "psys":
            found.ignored.append((zone.channel, "the whole platform, packages included: never added"))
        elif not (_PACKAGE.match(zone.name) or zone.name == "dram"):
            found.ignored.append((zone.channel, "part of its package: never added"))
        elif zone.channel in opened:
            twin = f"{zone.channel} ({zone.control})"
            found.ignored.append((twin, "a second window onto the same counter"))
        else:
            with ExitStack() as closing:
                try:
                    read, close = zone.open()
                    closing.callback(close)
                    read()
                    twin = _mirrored(zone, read, opened)
                except Exception as error:  # a file of sysfs may fail in ways of its own
                    failed.setdefault(zone.channel, _unreadable(error, zone.path))
                    continue
                if twin:
                    found.ignored.append((zone.channel, f"mirrors the counter of {twin}: counted once"))
                    continue
                closing.pop_all()  # it stays open
            opened[zone.channel] = read
            failed.pop(zone.channel, None)
            name, modulus = zone.channel, zone.range_uj
            counter = Counter(read, UNIT_J, modulus, zone.max_power_w, int(RAPL_PERIOD_S * NS))
            basis = "energy counter" + ("" if modulus else ", range unknown: a wrap would be a fault")
            found.channels.append(SensorChannel(RAPL, name, counter, RAPL_PERIOD_S, basis, close=close))
    for channel, why in failed.items():
        found.lack(RAPL, channel, why)


def _mirrored(zone: Zone, read: Callable[[], int], opened: dict[str, Callable[[], int]]) -> str | None:
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
