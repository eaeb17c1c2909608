"""What the running process tells about CUDA. torch is asked only if somebody else has imported it."""

from __future__ import annotations

import sys
from types import ModuleType


def torch_loaded() -> bool:
    return "torch" in sys.modules


def cuda() -> ModuleType | None:
    """``torch.cuda`` if torch is imported and has initialised CUDA, else None."""
    module = getattr(sys.modules.get("torch"), "cuda", None)
    return module if module is not None and module.is_initialized() else None


def _allocated() -> list[int]:
    """Devices with a live allocation. Touching any other would create a context there."""
    module = cuda()
    return [i for i in range(module.device_count()) if module.memory_reserved(i) > 0] if module else []


def synchronise() -> None:
    """Wait for the work on the devices in use, so that queued kernels fall inside their window.

    A thread that works on a stream of its own waits for that alone: others may be capturing.
    """
    for index in _allocated():
        stream = cuda().current_stream(index)
        if stream == cuda().default_stream(index):
            cuda().synchronize(index)
        else:
            stream.synchronize()


def visible_uuids() -> list[str] | None:
    """UUIDs of the devices that torch sees, in CUDA's order, as torch spells them: without NVML's prefix.

    None if CUDA is not initialised.
    """
    module = cuda()
    if module is None:
        return None
    try:
        return [str(module.get_device_properties(i).uuid) for i in range(module.device_count())]
    except AttributeError:  # torch before 2.4 has no uuid
        return None


def used_uuids() -> list[str]:
    """UUIDs of the devices on which torch holds memory."""
    uuids = visible_uuids()
    return [] if uuids is None else [uuids[i] for i in _allocated()]
