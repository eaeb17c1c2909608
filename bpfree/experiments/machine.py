"""What a cost was measured on: hardware, threads and versions."""

import functools
import hashlib
import json
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import psutil
import torch


@functools.cache
def git_revision() -> str | None:
    """Revision of the checkout this package runs from, with "+" if it was changed; None if there is none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
        how = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": 10}
        described = subprocess.run(command, cwd=root, **how)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


def cpu_name() -> str:
    """The processor's marketing name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    if found := re.search(r"^model name[^:]*:(.*)", text, re.MULTILINE):
        return found[1].strip()
    return platform.processor() or platform.machine()


def machine(device: torch.device | str = "cpu") -> dict:
    """The machine as plain values: `id` names the hardware, threads and versions that costs depend on."""
    device = torch.device(device)
    hardware = {
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":  # a replayed step costs less than a launched one, as all were in older records
        hardware["executor"] = "graph"
    digest = hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12], **hardware, "bpfree": metadata.version("bpfree"), "git": git_revision()}


def environment_line() -> str:
    """One line for the end of a notebook: versions and hardware."""
    m = machine("cuda" if torch.cuda.is_available() else "cpu")
    where = m["accelerator"] or f"{m['cpu']}, cores {m['cores']}, threads {m['threads']}"
    return f"bpfree {m['bpfree']}, torch {m['torch']}, Python {m['python']} on {m['system']}; {where}"
