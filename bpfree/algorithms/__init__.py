"""The training algorithms. Two of them differ only in their losses and in where they detach.

`ALGORITHMS` names the arms of the study: name -> (class, the options that make it that arm).
"""

from .base import Algorithm
from .bp import Backprop, DeepSupervision
from .cafo import CascadedForward
from .ff import ForwardForward
from .mf import MonoForward

ALGORITHMS: dict[str, tuple[type[Algorithm], dict]] = {
    "bp": (Backprop, {}),
    "bp_ds": (DeepSupervision, {}),
    "mf_joint": (MonoForward, {"schedule": "simultaneous", "detach": False}),
    "mf_interleaved": (MonoForward, {"schedule": "simultaneous", "detach": True}),
    "mf": (MonoForward, {"schedule": "sequential", "detach": True}),
    "mf_sequential_joint": (MonoForward, {"schedule": "sequential", "detach": False}),
    "ff": (ForwardForward, {"optimiser": "adamw"}),
    "ff_sgd": (ForwardForward, {"optimiser": "sgd", "lr_schedule": "cooldown"}),
    "cafo_rand": (CascadedForward, {"blocks": "random"}),
    "cafo_rand_mse": (CascadedForward, {"blocks": "random", "loss": "mse"}),
    "cafo_dfa": (CascadedForward, {"blocks": "dfa"}),
}

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Backprop",
    "CascadedForward",
    "DeepSupervision",
    "ForwardForward",
    "MonoForward",
]
