"""How much memory this process may still take: of the machine, its container or batch job, and its limits."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
UNLIMITED = 1 << 60  # what the first version of cgroups says for none is a little less than 2⁶³


def free_memory(device: torch.device, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that are free on the device for this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [*in_cgroups(cgroups, membership), *under_rlimits()]
    return max(0, min([psutil.virtual_memory().available, *limits]))


def in_cgroups(root: Path, membership: Path) -> Iterator[int]:
    """The free bytes of each control group that this process belongs to; caches count as free."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    names = [line.split(":", 2)[1:] for line in lines if line.count(":") >= 2]
    for controllers, name in names:
        if controllers == "":  # version 2
            yield from _left(root, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left(root / "memory", name, *files)


def _left(root: Path, name: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    # In a container the name may be the host's, and the container's own group is the root.
    own = root / name.lstrip("/")
    for folder in (own, *own.parents):
        if folder.is_relative_to(root):
            try:
                files = (folder / file for file in (limit, usage, "memory.stat"))
                most, used, stat = (file.read_text(encoding="utf-8").strip() for file in files)
                cached = dict(line.split() for line in stat.splitlines()).get(cache, 0)
            except (OSError, ValueError):  # no such group, or it has no limit
                continue
            if most != "max" and int(most) < UNLIMITED:
                yield int(most) - int(used) + int(cached)


def under_rlimits() -> Iterator[int]:
    """The bytes that are left of `ulimit -v` and `ulimit -d`."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = psutil.Process().memory_info()
    for limit, amount in (("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")):
        soft, _ = resource.getrlimit(getattr(resource, limit))
        if soft != resource.RLIM_INFINITY and hasattr(used, amount):
            yield soft - getattr(used, amount)
