"""bpfree: train neural networks without backpropagation, and account for what it costs.

data = bpfree.load("fashion_mnist")
model = bpfree.MLP([784, 1000, 1000], classes=10)
mf = bpfree.MonoForward(model)
with bpfree.EnergyMeter() as meter:
    history = bpfree.train(mf, data, seed=0, meter=meter)
mf.predict(data.x_test)

record = bpfree.run(bpfree.Experiment("mf", "fashion_mnist", seed=0))

Your own algorithm and network are subclasses of `bpfree.Algorithm` and `bpfree.Blocks`; an experiment names
them as "module:Class", and so every process finds them by import.
"""

import importlib

# name -> the module it lives in; imported when first used, so that `bpfree.energy` stays light
_HOMES = {
    "load": "data",
    "Data": "training.batches",
    "MLP": "algorithms",
    "CaFoCNN": "algorithms",
    "ARMS": "algorithms",
    "arm": "algorithms",
    "Arm": "algorithms",
    "Range": "algorithms",
    "Algorithm": "algorithms",
    "Head": "algorithms",
    "Blocks": "algorithms",
    "Stage": "training.stage",
    "Group": "training.stage",
    "Backprop": "algorithms",
    "DeepSupervision": "algorithms",
    "ForwardForward": "algorithms",
    "CascadedForward": "algorithms",
    "MonoForward": "algorithms",
    "train": "training.loop",
    "Checkpoint": "training.checkpoint",
    "Stopping": "training.stopping",
    "StopRule": "training.stopping",
    "Budget": "training.stopping",
    "History": "training.history",
    "EnergyMeter": "energy",
    "measure": "energy",
    "Experiment": "experiments.experiment",
    "run": "experiments.runner",
    "run_many": "experiments.runner",
    "Record": "experiments.store",
    "Store": "experiments.store",
    "records": "experiments.store",
    "gradient_reach": "diagnostics.gradient_reach",
    "BpfreeError": "errors",
    "TrainingDiverged": "errors",
    "environment_line": "experiments.machine",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'bpfree' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
