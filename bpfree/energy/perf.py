"""RAPL's counters through perf events, for users to whom the kernel shows those but not powercap's files.

Since 2020 ``energy_uj`` is readable by root alone; perf counts the same registers for whoever
``kernel.perf_event_paranoid`` (0 or less) or CAP_PERFMON allows to. Layout (Linux,
Documentation/ABI/testing/sysfs-bus-event_source-devices-events; arch/x86/events/rapl.c): the PMU "power" has
its number in ``type``; ``events/energy-pkg`` and the like hold what to ask for, ``.scale`` and ``.unit``
what a count is; ``cpumask`` has one CPU of every package, on which its counters are opened.

A counter begins at 0 when it is opened, is unwrapped by the kernel to 64 bits, and lives as long as its
descriptor. Because all begin at 0, dies of one package that mirror one register cannot be told from dies that
have their own (Linux 6.9 to 6.11 list every die of an AMD package): such a package is refused.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PMU = "bus/event_source/devices/power"
TOPOLOGY = "devices/system/cpu/cpu{}/topology/physical_package_id"
EVENTS = {  # of the PMU -> as powercap names the zone
    "energy-pkg": "package",
    "energy-ram": "dram",
    "energy-cores": "core",
    "energy-gpu": "uncore",
    "energy-psys": "psys",
}
NUMBERS = {"x86_64": 298}  # of the system call; RAPL is of x86
ATTRIBUTES = 64  # bytes of perf_event_attr in its first version, which every kernel takes
CLOSE_ON_EXEC = 8


def perf_event_open(kind: int, config: int, cpu: int) -> int:
    """A descriptor of what the PMU of this type counts on a CPU, of all processes. Raises OSError."""
    number = NUMBERS.get(platform.machine())
    if number is None or sys.platform != "linux" or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"the system call is known for {', '.join(NUMBERS)} only")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    attributes = struct.pack("=IIQ", kind, ATTRIBUTES, config).ljust(ATTRIBUTES, b"\0")
    every_process, no_group = -1, -1
    where = map(ctypes.c_long, (every_process, cpu, no_group, CLOSE_ON_EXEC))
    descriptor = libc.syscall(ctypes.c_long(number), attributes, *where)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


@dataclass
class Event:
    """One counter of the PMU on one CPU, named as its powercap zone is."""

    name: str
    channel: str
    kind: int
    config: int
    cpu: int
    unit_j: float  # joules of a count
    limit_w: float = math.inf  # more than it can draw

    control = interface = "perf"
    modulus = None
    basis = "energy counter, by perf events"

    def open(self) -> tuple[Callable[[], int], Callable[[], None]]:
        """A reader of the count and its closer; a read is one system call."""
        descriptor = perf_event_open(self.kind, self.config, self.cpu)
        return (lambda: _count(descriptor)), (lambda: os.close(descriptor))

    def why(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            how = "set kernel.perf_event_paranoid to 0 or less, or grant CAP_PERFMON"
            return f"perf has no permission to count on CPU {self.cpu}: {how}"
        return f"perf cannot count on CPU {self.cpu}: {getattr(error, 'strerror', None) or error}"


def _count(descriptor: int) -> int:
    count = os.read(descriptor, 8)
    if len(count) < 8:
        raise OSError("perf has ended the counter: its CPUs are gone")
    return int.from_bytes(count, sys.byteorder)


def events(sysfs: Path) -> tuple[list[Event], dict[str, str]]:
    """The PMU's counters of every package, and by channel why there are none; "cpu" is all of them."""
    pmu = sysfs / PMU
    try:
        kind, cpus = int(_text(pmu / "type")), _cpus(_text(pmu / "cpumask"))
        packages = {cpu: int(_text(sysfs / TOPOLOGY.format(cpu))) for cpu in cpus}
    except FileNotFoundError as error:
        return [], {"cpu": f"perf has no RAPL counters here: no {error.filename}"}
    except (OSError, ValueError) as error:
        return [], {"cpu": f"perf has no RAPL counters here: {pmu} cannot be understood ({error})"}
    found, failed, listed = [], {}, Counter(packages.values())
    for label, zone in EVENTS.items():
        path = pmu / "events" / label
        if not path.exists():
            continue
        for cpu, package in packages.items():
            of = f"package-{package}"
            channel = {"package": f"cpu:{of}", "psys": zone}.get(zone, f"{zone}:{of}")
            try:
                asked, unit_j = _asked(path), _joules(path)
                if listed[package] > 1:
                    raise ValueError(f"{listed[package]} CPUs of one package, which may share a counter")
            except (OSError, ValueError) as error:
                failed[channel] = f"perf: {path} cannot be used ({error})"
                continue
            found.append(Event(of if zone == "package" else zone, channel, kind, asked, cpu, unit_j))
    if not found and not failed:
        failed["cpu"] = f"perf has no RAPL counters here: none in {pmu / 'events'}"
    return found, failed


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _cpus(listed: str) -> list[int]:
    """Of "0,18" or "0-1,4"."""
    ranges = [[int(end) for end in part.split("-")] for part in listed.split(",")]
    return [cpu for ends in ranges for cpu in range(ends[0], ends[-1] + 1)]


def _asked(path: Path) -> int:
    """The PMU's format is one field, "event", in the lowest byte of the configuration."""
    asked = re.fullmatch(r"event=(0x[0-9a-f]{1,2})", _text(path))
    if asked is None:
        raise ValueError(f"it asks for {_text(path)!r}")
    return int(asked[1], 16)


def _joules(path: Path) -> float:
    """Of a count, from the files beside the event."""
    unit, scale = (_text(path.with_name(path.name + end)) for end in (".unit", ".scale"))
    if unit != "Joules" or not 0 < float(scale) < math.inf:
        raise ValueError(f"its counts are {scale} {unit}")
    return float(scale)
