"""Backpropagation, alone, freezing its layers, and with deep supervision: the baselines."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import InvalidInput, check_flag, check_range, choose
from ..training.chance import Chance
from ..training.stage import Group, Stage
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
        self.output = str(self.depth)  # the head is the one of layer L
        self.heads[self.output] = self.head(self.depth, bias=head_bias)

    def stages(self) -> list[Stage]:
        return [self.stage("network", self.parameters(), self.losses, self.readout, layer=self.depth)]

    def losses(self, x: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        yield cross_entropy(self.readout(x), labels)

    def readout(self, x: Tensor) -> Tensor:
        return self.heads[self.output](self.model(x))

    def initialise_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        if self.head_init == "normal" and name == f"heads.{self.output}.weight":
            value.normal_(0.0, 0.01, generator=generator)
        else:
            super().initialise_parameter(name, value, generator)


class FreezeOut(Backprop):
    """Backpropagation that freezes its layers from below (FreezeOut; Brock et al., arXiv 1706.04983).

    Of a run of length 1, block i of L (from 0) moves until

        t_i = (t_0 + (1 − t_0) i/L)^p,    the head until t_L = 1,

    and its rate, which begins at α_i = α/t_i, falls over just that time: by half a cosine under
    lr_schedule="cosine", as in the paper. Then it is frozen, in eval mode, and no gradient is taken at it or
    below it: so what it puts out needs computing only once.

    Each time from one t_i to the next is a stage. So the length of a run must be fixed in advance, as an
    exact `Budget`, and the t_i are rounded to whole passes of it, one at least. With t_0 = 1 nothing freezes,
    and this is `Backprop`.

    Args:
        model, head_bias, head_init, **common: see `Backprop`; lr is α.
        freeze_from: t_0, before it is raised to the power, as in the paper's code: 0.8³ = 0.512.
        power: p, 1 (linear) or 3 (cubic) in the paper.
        scaled: whether the rate of a block is α/t_i, so that ∫ lr dt is the same for all, or α.
    """

    name = "bp_freeze"

    def __init__(
        self, model: Blocks, *, freeze_from: float = 0.8, power: float = 3.0, scaled: bool = True, **common
    ):
        super().__init__(model, **common)
        check_range("freeze_from", freeze_from, above=0.0)
        if freeze_from > 1.0:
            raise InvalidInput(f"freeze_from={freeze_from!r}: use a number up to 1, which freezes nothing")
        check_range("power", power, above=0.0)
        check_flag("scaled", scaled)
        self.freeze_from, self.power, self.scaled = freeze_from, power, scaled

    def ends(self) -> list[float]:
        """t_0, ..., t_L."""
        begin, depth = self.freeze_from, self.depth
        return [*((begin + (1 - begin) * i / depth) ** self.power for i in range(depth)), 1.0]

    def stages(self) -> list[Stage]:
        modules, ends = [*self.model.blocks, self.heads[self.output]], self.ends()
        groups = [
            Group(list(module.parameters()), self.lr / end if self.scaled else self.lr, self.weight_decay)
            for module, end in zip(modules, ends, strict=True)
        ]
        stages, begun = [], 0.0
        for frozen, end in enumerate(ends):
            if end > begun:
                when = {"share": end - begun, "continues": bool(stages)}
                stages.append(self.phase(frozen, groups=groups[frozen:], **when))
                begun = end
        return stages

    def phase(self, frozen: int, **own) -> Stage:
        """What is left to train when so many of the lowest blocks are frozen."""

        def readout(a: Tensor) -> Tensor:
            return self.heads[self.output](self.model.activity(a, frozen + 1))

        def losses(a: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
            yield cross_entropy(readout(a), labels)

        name = f"above layer {frozen}" if frozen else "network"
        return self.stage(name, [], losses, readout, self.model.blocks[:frozen], layer=self.depth, **own)


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
        self.lowest = 0 if input_head else 1
        self.heads["output"] = self.heads.pop(str(self.depth))
        for i in range(self.lowest, self.depth + 1):
            self.heads[str(i)] = self.head(i)

    def losses(self, x: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        auxiliary = 0.0
        for i, a in self.model.activities(x, self.lowest):  # not detached: every head reaches down to W_1
            auxiliary = auxiliary + cross_entropy(self.heads[str(i)](a), labels)
        yield cross_entropy(self.heads["output"](a), labels) + self.aux_weight * auxiliary
