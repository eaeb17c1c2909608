"""Mono-Forward: every layer learns from its own read-out through one projection matrix."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import InvalidInput, check_flag, check_range, choose
from ..training.chance import Chance
from ..training.stage import Group, Stage
from .base import GONG_SGD, Algorithm
from .networks import Blocks
from .similarity import similarity_loss, similarity_map

#: (schedule, detach) -> the corner of the ablation
CORNERS = {
    ("sequential", True): "mf",
    ("sequential", False): "mf_sequential_joint",
    ("simultaneous", True): "mf_interleaved",
    ("simultaneous", False): "mf_joint",
}


class MonoForward(Algorithm):
    """Mono-Forward (Gong et al., arXiv 2501.09238; Spyra, arXiv 2509.19063).

    Layer i has a projection matrix M_i (classes × d_i), without bias by default, and learns from the
    cross-entropy of its own class scores, its goodness:

        a_i = block_i(a_{i-1}),  G_i = M_i a_i,  L_i = CE(G_i, y)

    The gradient of L_i reaches W_i, b_i and M_i and stops at a_{i-1}. Two switches make the four
    corners of the ablation, {detached or not} × {sequential or simultaneous}:

        schedule        detach   what moves on what
        sequential      True     stage i: (W_i, M_i) on L_i, fed by the frozen layers 1..i-1   (`mf`)
        sequential      False    stage i: (W_1..W_i, M_i) on L_i
        simultaneous    True     every batch: (W_i, M_i) on L_i for i = 1..L      (`mf_interleaved`)
        simultaneous    False    every batch: everything on L_L + λ Σ_{i<L} L_i         (`mf_joint`)

    Between the two detached schedules lie overlapping ones (`mf_overlapped`): with schedule=k, 0 < k < 1,
    layer i lives, of the time that each layer has, in [(i − 1)k, (i − 1)k + 1). So it begins when the layer
    below has had the share k of its passes; with k = 1 that would be when it has ended, and with k = 0 at
    once. Its rate falls over its own life. The times at which a layer begins or ends divide the run into
    stages; the length of the run must be fixed in advance, as an exact `Budget`, of whose passes each stage
    has a whole number, one at least.

    With a weight β of similarity matching (Nøkland and Eidnes, arXiv 1901.06656: their "predsim", β = 0.99)
    a detached layer has one more term in its loss, and a map S_i for it that moves with the layer:

        L_i = (1 − β) CE(M_i a_i, y) + β mean (R(S_i a_i) − R(Y))²,  R as in `similarities`

    What is left out of theirs: BatchNorm, dropout, M_i that begin at 0 and have a bias and a pool before
    them, and an output layer of its own: prediction stays with the M_i, and the S_i have no part in it.

    Args:
        model, **common: see `Algorithm`.
        schedule: "sequential", "simultaneous", or a number between 0 and 1; that one only detached, and
            without M_0.
        detach: whether the gradient stops at the layer's input.
        predict_by: the read-out of `predict`: "last" is G_L, "sum" is Σ_{i=1..L} G_i (Gong's FF-style
            prediction). Sequential stages are validated by their own G_i either way, overlapping ones by
            that of the highest layer that has begun.
        aux_weight: λ of the undetached simultaneous loss. Detached losses do not mix, so that there it
            has nothing to weigh and must be 1.
        stage_ratio: of sequential stages, how many passes of a budget that is fixed in advance (protocol
            "frontier") each has for one of the stage before it: 1 is equal shares, 0.5 halves them.
        sim_weight: β in [0, 1], of detached losses only; 0 is Mono-Forward without S_i. What the term
            asks for depends on the batch, whose samples it compares with each other.
        input_projection: also train M_0 on the pixels, first. It feeds nothing: it is multinomial
            logistic regression. Off by default (the camera-ready trains it, the thesis did not).
        projection_bias: whether the M_i have a bias (as the authors' later code has it).

    The preset "gong" is of that code, FF-Decomposition, on its CNN (`ConvNet`). Departures: the biases of the
    M_i start at 0, like all biases here, where torch draws them; one optimiser has all layers, which computes
    what their own ones do there. On its MLPs that code descends the mean of the undetached losses, not their
    sum: under SGD without decay, that is the sum at the L-th part of the rate.
    """

    presets = {
        "thesis": {"optimiser": "adam"},
        "2026": {"optimiser": "adam", "input_projection": True},
        "reference": {
            "optimiser": "adam",
            "schedule": "simultaneous",
            "predict_by": "sum",
            "lr_schedule": "step",
            "epochs": 200,
        },
        "gong": {
            **GONG_SGD,
            "schedule": "simultaneous",
            "predict_by": "sum",
            "projection_bias": True,
        },
    }

    def __init__(
        self,
        model: Blocks,
        *,
        schedule: str | float = "sequential",
        detach: bool = True,
        predict_by: str = "last",
        aux_weight: float = 1.0,
        stage_ratio: float = 1.0,
        sim_weight: float = 0.0,
        input_projection: bool = False,
        projection_bias: bool = False,
        **common,
    ):
        super().__init__(model, **common)
        self.predict_by = choose("predict_by", predict_by, ("last", "sum"))
        check_flag("detach", detach)
        check_flag("input_projection", input_projection)
        check_flag("projection_bias", projection_bias)
        self.overlaps = not isinstance(schedule, str)
        if self.overlaps:
            check_overlap(schedule, detach, input_projection)
        else:
            choose("schedule", schedule, ("sequential", "simultaneous"))
        self.schedule = schedule
        self.detach = detach
        self.name = "mf_overlapped" if self.overlaps else CORNERS[schedule, detach]
        check_range("aux_weight", aux_weight)
        if aux_weight != 1.0 and (schedule, detach) != ("simultaneous", False):
            raise InvalidInput(
                f"aux_weight={aux_weight}: {self.name} has one loss per layer and no λ; leave it at 1"
            )
        self.aux_weight = aux_weight
        check_range("stage_ratio", stage_ratio, above=0.0)
        self.stage_ratio = stage_ratio
        self.lowest = 0 if input_projection else 1
        for i in range(self.lowest, self.depth + 1):
            self.heads[str(i)] = self.head(i, bias=projection_bias)  # M_i
        check_range("sim_weight", sim_weight, most=1.0)
        if sim_weight and not detach:
            raise InvalidInput(
                f"sim_weight={sim_weight}: similarities are matched layer by layer, and {self.name} does not "
                "detach its layers; use detach=True or sim_weight=0"
            )
        self.sim_weight = sim_weight
        matched = range(1, self.depth + 1) if sim_weight else ()
        self.maps = nn.ModuleDict({str(i): similarity_map(model, i) for i in matched})  # S_i

    # -- training

    def stages(self) -> list[Stage]:
        if self.schedule == "simultaneous":
            return [self.part("network", self.lowest, self.depth, layer=self.depth)]
        if self.overlaps:
            return self.overlapping_stages()
        return [
            self.part(f"layer {i}", i if self.detach else min(i, 1), i, layer=i, share=self.stage_ratio**k)
            for k, i in enumerate(range(self.lowest, self.depth + 1))
        ]

    def overlapping_stages(self) -> list[Stage]:
        groups = [Group(self.moving(i, [i]), self.lr, self.weight_decay) for i in range(1, self.depth + 1)]
        stages = []
        for low, high, share in self.phases():
            name = f"layer {low}" if low == high else f"layers {low}-{high}"
            own = {"groups": groups[low - 1 : high], "share": share, "continues": bool(stages)}
            stages.append(self.part(name, low, high, layer=self.depth, **own))
        return stages

    def phases(self) -> Iterator[tuple[int, int, float]]:
        """From each time at which a layer begins or ends to the next: the lowest and the highest layer that
        live then, and how long it is."""
        # Rounded, so that times that are equal are equal numbers.
        begins = [round(i * self.schedule, 9) for i in range(self.depth)]
        ends = [round(i * self.schedule + 1, 9) for i in range(self.depth)]
        for now, then in pairwise(sorted({*begins, *ends})):
            yield 1 + sum(end <= now for end in ends), sum(begin <= now for begin in begins), then - now

    def part(self, name: str, low: int, high: int, *, layer: int, **own) -> Stage:
        """The layers from `low` to `high` move, above those that are frozen: each on its own loss if they are
        detached; if not, all of them on the highest one's in a sequential stage, else on all losses."""
        at_once = self.schedule == "simultaneous"
        undetached_in_turn = self.schedule == "sequential" and not self.detach
        learning = range(high if undetached_in_turn else low, high + 1)

        def local(a: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
            for i, a_i in self.model.activities(a, low, high, detach=True):
                yield self.layer_loss(i, a_i, labels)  # its graph is freed before the next layer's is built

        def joint(a: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
            layers = self.model.activities(a, low, high)
            *lower, highest = (self.layer_loss(i, a_i, labels) for i, a_i in layers if i in learning)
            yield sum(self.aux_weight * loss for loss in lower) + highest if lower else highest

        def readout(a: Tensor) -> Tensor:
            if at_once:
                return self.combine(dict(self.goodnesses(a)))[self.predict_by]
            return self.heads[str(high)](self.model.activity(a, low, high))  # G_high

        moving = self.parameters() if at_once else self.moving(low, learning)
        losses, prefix = local if self.detach else joint, self.model.blocks[: max(low - 1, 0)]
        return self.stage(name, moving, losses, readout, prefix, layer=layer, **own)

    def moving(self, low: int, learning: Sequence[int]) -> list[nn.Parameter]:
        """What moves on the losses of the layers `learning`, the last of which is the highest: W_i and b_i
        from layer `low` up, M_i, and S_i if it is there; layer 0 has M_0 alone."""
        modules = list(self.model.blocks[max(low - 1, 0) : learning[-1]])
        modules += [self.heads[str(i)] for i in learning]
        modules += [self.maps[str(i)] for i in learning if str(i) in self.maps]
        return [p for module in modules for p in module.parameters()]

    def layer_loss(self, i: int, a: Tensor, labels: Tensor) -> Tensor:
        """L_i of a_i."""
        loss = cross_entropy(self.heads[str(i)](a), labels)
        if str(i) in self.maps:
            similarity = similarity_loss(self.maps[str(i)](a), labels, self.model.classes)
            loss = (1.0 - self.sim_weight) * loss + self.sim_weight * similarity
        return loss

    # -- prediction

    @property
    def predicts_as_validated(self) -> bool:
        return self.predict_by == "last" or self.schedule == "simultaneous"

    def goodnesses(self, x: Tensor, high: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(i, G_i) layer by layer up to `high`, by default the last; M_0's first if it is there."""
        for i, a in self.model.activities(x, self.lowest, high):
            yield i, self.heads[str(i)](a)

    def readouts(self, x: Tensor) -> dict[str, Tensor]:
        """ "last" (G_L), "sum" (Σ_{i≥1} G_i) and each "layer i", of the layers trained so far."""
        self.finished()  # refuses an untrained network
        high, last = self.depth, int(self.stages_finished) - 1
        if self.schedule == "sequential":
            high = self.lowest + last
        elif self.overlaps:
            _, high, _ = list(self.phases())[last]
        goodness = dict(self.goodnesses(x, high))
        both = self.combine(goodness)
        ordered = {self.predict_by: both[self.predict_by], **both}
        return ordered | {f"layer {i}": g for i, g in goodness.items()}

    @staticmethod
    def combine(goodness: dict[int, Tensor]) -> dict[str, Tensor]:
        """The ways to make one prediction of G_i; that of M_0 counts only where there is no other."""
        counted = [g for i, g in goodness.items() if i > 0] or list(goodness.values())
        return {"last": counted[-1], "sum": sum(counted)}


def check_overlap(schedule: object, detach: bool, input_projection: bool) -> None:
    if type(schedule) not in (int, float) or not 0 < schedule < 1:
        raise InvalidInput(
            f"schedule={schedule!r}: use 'sequential', 'simultaneous', or a number greater than 0 and less "
            "than 1, the share of its passes that a layer has had when the next one begins"
        )
    if not detach or input_projection:
        raise InvalidInput(
            f"schedule={schedule!r}: overlapping stages are detached and have no M_0; leave out detach=False "
            "and input_projection=True"
        )
