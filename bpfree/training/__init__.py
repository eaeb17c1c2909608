"""How it is trained: stages, and the one loop that all algorithms share.

stage        what a stage is: groups of parameters, losses, read-out, prefix; and one step of it
batches      data on the device, and the one way to draw shuffled, augmented batches
loop         `train`: for each stage freeze, compute the prefix, take the rows of its epochs, restore
stopping     when a stage ends and which epoch's weights it keeps; budgets
snapshot     the best weights so far
prefix       what a frozen prefix puts out, computed once, in memory or on disk
limits       how much memory that may take
checkpoint   how far a run has come, in a file
clock        seconds and joules of each region of an epoch
history      the rows of all epochs, and their sums
progress     bars
divergence   what is no longer finite
numerics     how torch computes meanwhile, whatever the process has set; subnormals: those count as zero
"""

import importlib

# name -> the module it lives in; imported when first used, because history and stopping need no torch
_HOMES = {
    "Augmentation": "batches",
    "Budget": "stopping",
    "Checkpoint": "checkpoint",
    "Data": "batches",
    "Group": "stage",
    "History": "history",
    "Stage": "stage",
    "StageHistory": "history",
    "StopRule": "stopping",
    "Stopping": "stopping",
    "pick_device": "loop",
    "pinned": "numerics",
    "stream": "stage",
    "train": "loop",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
