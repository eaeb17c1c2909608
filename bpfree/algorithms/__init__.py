"""The training algorithms. Two of them differ only in their losses and in where they detach."""

from .arms import ARMS, Arm, Range, add_arm, arm
from .base import Algorithm, Head
from .bp import Backprop, DeepSupervision, FreezeOut
from .cafo import CascadedForward
from .ff import ForwardForward
from .mf import MonoForward
from .networks import MLP, Blocks, CaFoCNN, ConvNet
from .projection import ForwardProjection

__all__ = ["ARMS", "MLP", "Algorithm", "Arm", "Backprop", "Blocks", "CaFoCNN", "CascadedForward", "ConvNet"]
__all__ += ["DeepSupervision", "ForwardForward", "ForwardProjection", "FreezeOut", "Head", "MonoForward"]
__all__ += ["Range", "add_arm", "arm"]
