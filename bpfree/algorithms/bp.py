"""Backpropagation, and backpropagation with deep supervision: the baselines."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import check_flag, check_range, choose
from ..training.chance import Chance
from ..training.stage import Stage
from .base import GONG_SGD, Algorithm
from .networks import Blocks


class Backprop(Algorithm):
    """Backpropagation (Spyra, arXiv 2509.19063): one stage, one global loss, nothing detached.

        a_i = block_i(a_{i-1}),  L = CE(V a_L + c, y)

    Args:
        model, **common: see `Algorithm`.
        head_bias: whether the head has the bias c. Without it (the default) the network that
            predicts is exactly the one that Mono-Forward trains and reads out through M_L.
        head_init: "uniform" like every other weight, or "normal": N(0, 0.01²), as the thesis has it.
    """

    name = "bp"
    presets = {
        **{source: {"head_bias": True, "head_init": "normal"} for source in ("thesis", "2026")},
        "gong": GONG_SGD,
    }

    def __init__(self, model: Blocks, *, head_bias: bool = False, head_init: str = "uniform", **common):
        super().__init__(model, **common)
        check_flag("head_bias", head_bias)
        self.head_init = choose("head_init", head_init, ("uniform", "normal"))
        self.output = str(len(model.blocks))  # the head is the one of layer L
        self.heads[self.output] = self.head(len(model.blocks), bias=head_bias)

    def stages(self) -> list[Stage]:
        depth = len(self.model.blocks)
        return [self.stage("network", self.parameters(), self.losses, self.readout, layer=depth)]

    def losses(self, x: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        yield cross_entropy(self.readout(x), labels)

    def readout(self, x: Tensor) -> Tensor:
        return self.heads[self.output](self.model(x))

    def initialise_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        if self.head_init == "normal" and name == f"heads.{self.output}.weight":
            value.normal_(0.0, 0.01, generator=generator)
        else:
            super().initialise_parameter(name, value, generator)


class DeepSupervision(Backprop):
    """Backpropagation with an auxiliary head at every hidden layer (BP-DS; Spyra and Dzwinel, CP025).

        L = CE(V a_L + c, y) + λ Σ_{i=1..L} CE(M_i a_i, y),  nothing detached

    Predicts through the output head V; the auxiliary heads M_i only shape the features. (The "global
    multi-head" of Gong and Abdulla has no V: it is `mf_joint` with λ = 1. The preset "gong" trains this
    network as they train that one.)

    Args:
        model, head_bias, head_init, **common: see `Backprop`.
        aux_weight: λ.
        input_head: also a head M_0 on the pixels, as the camera-ready's code has it. It moves nothing
            but itself.
    """

    name = "bp_ds"
    presets = {"2026": {**Backprop.presets["2026"], "input_head": True}, "gong": GONG_SGD}

    def __init__(self, model: Blocks, *, aux_weight: float = 1.0, input_head: bool = False, **common):
        super().__init__(model, **common)
        check_range("aux_weight", aux_weight)
        check_flag("input_head", input_head)
        self.aux_weight = aux_weight
        self.output = "output"  # not L: that is the name of layer L's auxiliary head
        self.heads["output"] = self.heads.pop(str(len(model.blocks)))
        for i in range(0 if input_head else 1, len(model.blocks) + 1):
            self.heads[str(i)] = self.head(i)

    def losses(self, x: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        auxiliary = cross_entropy(self.heads["0"](x), labels) if "0" in self.heads else 0.0
        a = x
        for i, block in enumerate(self.model.blocks, start=1):
            a = block(a)  # not detached: every head reaches down to W_1
            auxiliary = auxiliary + cross_entropy(self.heads[str(i)](a), labels)
        yield cross_entropy(self.heads["output"](a), labels) + self.aux_weight * auxiliary
