"""The training algorithms. Two of them differ only in their losses and in where they detach."""

from .arms import ARMS, Arm, Range, add_arm, arm
from .asge import ASGELike
from .base import Algorithm, Head
from .bp import Backprop, DeepSupervision, FreezeOut
from .cafo import CascadedForward
from .ff import ForwardForward
from .mf import MonoForward
from .networks import MLP, Blocks, CaFoCNN, ConvNet, RMSNet
from .projection import ForwardProjection

__all__ = ["ARMS", "MLP", "ASGELike", "Algorithm", "Arm", "Backprop", "Blocks", "CaFoCNN", "CascadedForward"]
__all__ += ["ConvNet", "DeepSupervision", "ForwardForward", "ForwardProjection", "FreezeOut", "Head"]
__all__ += ["MonoForward", "RMSNet", "Range", "add_arm", "arm"]
