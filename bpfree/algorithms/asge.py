"""ASGE-like: every block learns to put its energy where a fixed head, which never learns, reads the class."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, linear, log_softmax

from ..errors import InvalidInput, check_range, choose
from ..training.chance import Chance, stream
from ..training.history import StageHistory
from ..training.stage import Stage
from .base import Algorithm
from .networks import Blocks

PREDICTIONS = ("last", "fusion", "best")
#: (C_i, C_L, α) -> P_i, the patches of a map along each side
PATCHES: dict[str, Callable[[int, int, float], int]] = {
    "floor": lambda own, last, alpha: max(1, math.floor(alpha * last / own)),
    # C_i P_i² ≈ C_L at α = 1:
    "const_dim": lambda own, last, alpha: max(1, round((last / own) ** (alpha / 2))),
}


class ASGELike(Algorithm):
    """What is known of Adaptive Spatial Goodness Encoding (Gong, Staszewski and Xu, arXiv 2509.12394).

    This is no reproduction. It was built from the abstract and from secondary descriptions, because neither
    the paper's text nor its code was to be had; its results say nothing of the paper's.

    The maps of block i are cut into P_i × P_i patches, and its goodness g_i is the energy of each channel in
    each patch. A head that is random and never moves reads the class scores from it, and the block, alone,
    learns to be read:

        a_i = block_i(a_{i-1}),  g_i = mean of a_i² over each patch,  s_i = W_i g_i + b_i,  L_i = CE(s_i, y)

    So it is Mono-Forward with squares in the place of activations, and M_i fixed. The fewer channels a block
    has beside the last one, the more patches it has. Of vectors every number is a channel with one patch.

    Three predictions: "last", argmax s_L; "fusion", all layers' scores, Σ_i log softmax(s_i); and "best", the
    one layer that was best on the validation images when its stage ended, the lowest of equals.

    Args:
        model, **common: see `Algorithm`. ASGE is described on convolutional networks only; of a block's
            kind, with its RMS-pool, is `RMSNet`. A network of your own says the shape of its maps
            (`Blocks.shapes`), else their squares are read as its heads read activations.
        schedule: "sequential", stage i trains block i above the frozen ones; or "simultaneous", every batch
            trains all blocks. Which is ASGE's is not known; the input of a block is detached in both.
        predict_by: the read-out of `predict`, "last", "fusion" or "best"; "best" only of the sequential
            schedule, where each layer is validated on its own. All of them are computed either way.
        pooled: a patch has the "mean" of its squares, or their "sum", which grows with its area.
        patches: P_i from the channels C_i of the block and C_L of the last: "floor", max(1, ⌊α C_L/C_i⌋); or
            "const_dim", max(1, round((C_L/C_i)^(α/2))). The paper's formula is not known.
        alpha: α. Patches are as large as P_i of them need to be to cover the map; fewer may then do.
        head: "random", weights and biases U(±1/√fan_in); or "groups": the channels are in as many groups as
            there are classes, and the score of a class is the mean of its group, over one patch. That is the
            goodness of CwComp and its loss CwC_CE (Papachristodoulou et al., arXiv 2312.12668, and their
            code), whose sources are complete.

    Guessed, because the descriptions are silent or contradict each other: the loss, the schedule, the mean,
    P_i, the scale of W_i and b_i, what "fusion" adds, and that "best" is chosen on validation images. Left
    out of CwComp: its grouped convolutions, its other losses, interleaved layer training, and the softmax
    regression on top.

    Attributes:
        validated: accuracy of each layer on the validation images, in percent, when its sequential stage
            ended, (L,); kept with the weights.

    Raises:
        InvalidInput: a value out of its range; channels that make no equal groups; options that exclude each
            other.
    """

    name = "asge_like"

    def __init__(
        self,
        model: Blocks,
        *,
        schedule: str = "sequential",
        predict_by: str = "last",
        pooled: str = "mean",
        patches: str = "floor",
        alpha: float = 1.0,
        head: str = "random",
        **common,
    ):
        super().__init__(model, **common)
        self.schedule = choose("schedule", schedule, ("sequential", "simultaneous"))
        self.predict_by = choose("predict_by", predict_by, PREDICTIONS)
        choose("pooled", pooled, ("mean", "sum"))
        choose("patches", patches, PATCHES)
        check_range("alpha", alpha)
        self.head_kind = choose("head", head, ("random", "groups"))
        if predict_by == "best" and schedule != "sequential":
            raise InvalidInput(
                f"predict_by='best': layers are validated one by one only in turn, and schedule={schedule!r} "
                "has them all at once: use schedule='sequential', or 'last' or 'fusion'"
            )
        if head == "groups" and (patches, alpha) != ("floor", 1.0):
            raise InvalidInput(
                "head='groups' has one patch a map: leave patches and alpha as they are, or use head='random'"
            )
        last = model.shapes[-1][0]
        for i, (channels, *sides) in enumerate(model.shapes, start=1):
            p = PATCHES[patches](channels, last, alpha) if head == "random" else 1
            window = [math.ceil(side / p) for side in sides]
            width = channels * math.prod(math.ceil(s / k) for s, k in zip(sides, window, strict=True))
            if head == "groups" and width % model.classes:
                raise InvalidInput(
                    f"head='groups': the {width} channels of block {i} are not {model.classes} equal groups: "
                    f"use a multiple of {model.classes}"
                )
            read = partial(goodness, window=window, pooled=pooled) if sides else partial(squares, model.read)
            self.heads[str(i)] = FixedHead(width, model.classes, read)
        self.register_buffer("validated", torch.zeros(self.depth))

    def initialise(self, seed: int) -> None:
        super().initialise(seed)
        self.validated.zero_()
        for i, head in self.heads.items():
            classes, width = head.weight.shape
            if self.head_kind == "groups":
                of = width // classes
                head.weight.copy_(torch.eye(classes).repeat_interleave(of, 1) / of)
                continue
            for name, value in head.named_buffers():
                chance = stream(seed, f"heads.{i}.{name}")
                value.copy_(torch.empty(value.shape).uniform_(-(width**-0.5), width**-0.5, generator=chance))

    # -- training

    def stages(self) -> list[Stage]:
        if self.schedule == "simultaneous":
            return [self.local_stage("network", 1, self.depth, self.predict_by)]
        return [self.local_stage(f"layer {i}", i, i, "last") for i in range(1, self.depth + 1)]

    def local_stage(self, name: str, low: int, high: int, way: str) -> Stage:
        """The blocks from `low` to `high`, each on its own loss, above those that are frozen."""
        blocks = self.model.blocks

        def losses(a: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
            for scores in self.scores(a, low, high):
                yield cross_entropy(scores, labels)  # its graph is freed before the next block's is built

        def readout(a: Tensor) -> Tensor:
            return self.combine(list(self.scores(a, low, high)))[way]

        moving = [p for block in blocks[low - 1 : high] for p in block.parameters()]
        return self.stage(name, moving, losses, readout, blocks[: low - 1], layer=high)

    def scores(self, a: Tensor, low: int, high: int) -> Iterator[Tensor]:
        """s_low, ..., s_high, each (B, classes), of a_{low-1}."""
        for i, a_i in self.model.activities(a, low, high, detach=True):
            yield self.heads[str(i)](a_i)

    def conclude(self, number: int, log: StageHistory) -> None:
        super().conclude(number, log)
        if self.schedule == "sequential":
            self.validated[number - 1] = log.rows[log.restored - 1]["val_accuracy"]

    # -- prediction

    @property
    def predicts_as_validated(self) -> bool:
        return self.predict_by == "last" or self.schedule == "simultaneous"

    @staticmethod
    def combine(scores: list[Tensor]) -> dict[str, Tensor]:
        return {"last": scores[-1], "fusion": sum(log_softmax(s, 1) for s in scores)}

    def readouts(self, x: Tensor) -> dict[str, Tensor]:
        """ "last", "fusion", of the sequential schedule "best", and each "layer i", of the layers trained so
        far; `predict_by` first."""
        self.finished()  # refuses an untrained network
        trained = self.depth if self.schedule == "simultaneous" else int(self.stages_finished)
        scores = list(self.scores(x, 1, trained))
        ways = self.combine(scores)
        if self.schedule == "sequential":
            accuracy = self.validated[:trained].tolist()
            ways["best"] = scores[accuracy.index(max(accuracy))]
        ordered = {self.predict_by: ways[self.predict_by], **ways}
        return ordered | {f"layer {i}": s for i, s in enumerate(scores, start=1)}


class FixedHead(nn.Module):
    """s = W g + b, (B, classes), of the goodness g (B, width) of an activation. Nothing moves W and b: they
    are buffers, which are kept with the weights."""

    def __init__(self, width: int, classes: int, read: Callable[[Tensor], Tensor]):
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))
        self.read = read

    def forward(self, a: Tensor) -> Tensor:
        return linear(self.read(a), self.weight, self.bias)


def goodness(a: Tensor, window: list[int], pooled: str) -> Tensor:
    """g: the mean or sum of the squares of a (B, channels, H, W) in each patch, (B, channels · patches).

    Patches of this size cover the map from its first corner on without overlap; the last ones may be smaller.
    """
    divisor = 1 if pooled == "sum" else None
    return avg_pool2d(energy(a), window, ceil_mode=True, divisor_override=divisor).flatten(1)


def squares(read: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """g of vectors: the square of every number."""
    return read(energy(a))


def energy(a: Tensor) -> Tensor:
    """a², in float32 at least."""
    return a.to(torch.promote_types(a.dtype, torch.float32)).square()
