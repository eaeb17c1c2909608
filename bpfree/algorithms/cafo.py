"""Cascaded-Forward: blocks that learn without a backward pass through the network, or not at all, and one
linear predictor per block."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softmax

from ..errors import InvalidInput, check_flag, check_positive, check_range, choose
from ..training.chance import Chance, stream
from ..training.stage import Group, Stage
from .base import Algorithm
from .networks import Blocks, flatten
from .solved import ChannelMoments, NormalEquations
from .sparsemax import sparsemax, sparsemax_loss

LOSSES = {"ce": cross_entropy, "sparsemax": sparsemax_loss, "mse": None}  # "mse" is solved
PREDICTIONS = ("logits", "probabilities", "last")


class CascadedForward(Algorithm):
    """Cascaded-Forward (CaFo; Zhao et al., arXiv 2303.09728; with DFA: Spyra, arXiv 2509.19063).

    A predictor P_i reads the classes from the features h_i of block i, which are frozen by then:

        h_i = block_i(h_{i-1}),  s_i = P_i h_i,  class = argmax Σ_i s_i

    The blocks come first, in one of two ways:

        blocks    name        they are
        random    cafo_rand   left as they were initialised. Before P_i, BatchNorm of block i is calibrated:
                              its statistics are the exact mean and variance of the training data.
        dfa       cafo_dfa    trained by direct feedback alignment (Nøkland, arXiv 1609.01596) with an
                              output head V of their own, before the first predictor:

        p = softmax(V h_L),  e = (p − Y)/B,  δ_i = e B_i at the output of block i < L,  δ_L = e V

    B_i (classes × d_i) is random and fixed. Inside a block the gradient is the true one; no gradient passes
    between blocks. One backward pass of

        CE(V h_L, y) + Σ_{i<L} ⟨h_i, stopgrad(δ_i)⟩,  every block's input detached

    gives exactly these gradients: ∂/∂θ_i ⟨h_i, δ_i⟩ = (∂h_i/∂θ_i)ᵀ δ_i. How near δ_i is to the true gradient
    at h_i, `bpfree.alignment(..., of="outputs")` says.

    Args:
        model, **common: see `Algorithm`. lr and weight_decay are the predictors'.
        blocks: "random" or "dfa".
        loss: of the predictors: "ce", "sparsemax", or "mse", which is not descended but solved in one pass
            (ridge regression by normal equations in float64).
        ridge: of "mse", per sample: see `NormalEquations`.
        predict_by: the read-out of `predict`: Σ of the predictors' "logits" (Spyra), Σ of their
            "probabilities" (Zhao), or the "last" predictor. Every predictor is validated alone.
        head_bias: whether predictors (and V) have a bias.
        head_init: of the predictors: "uniform" like every other weight, or "ones" (Zhao's code).
        calibrate: of random blocks; False leaves BatchNorm at mean 0 and variance 1 (the thesis; but for a
            factor of 1.05 per block, which its code got from a probe with zeros).
        block_lr, block_weight_decay, block_epochs: of DFA's blocks; None takes the common ones.
        error: of DFA: "mean" divides by the batch size, as CE does; "sum" does not (Spyra's code).
        feedback_scale: length of every row of B_i.

    Raises:
        InvalidInput: a value out of its range; options of DFA's blocks where the blocks are random.

    Departures: Zhao's code keeps BatchNorm in train mode, with a whole data set as one batch. Calibration
    gives the same features of the training set; for the test set that code uses the statistics of the test
    images, and we do not. Its full-batch descent is a batch_size beyond the data set's.
    """

    presets = {
        # The camera-ready's own code for this was not to be had; taken to be the thesis's.
        **{
            source: {"optimiser": "adam", "head_bias": True, "calibrate": False, "error": "sum"}
            for source in ("thesis", "2026")
        },
        "reference": {
            "optimiser": "sgd",
            "momentum": 0.0,
            "lr": 0.01,
            "epochs": 5000,
            "head_init": "ones",
            "predict_by": "probabilities",
        },
    }

    def __init__(
        self,
        model: Blocks,
        *,
        blocks: str = "random",
        loss: str = "ce",
        ridge: float = 1e-3,
        predict_by: str = "logits",
        head_bias: bool = False,
        head_init: str = "uniform",
        calibrate: bool = True,
        block_lr: float | None = None,
        block_weight_decay: float | None = None,
        block_epochs: int | None = None,
        error: str = "mean",
        feedback_scale: float = 1.0,
        **common,
    ):
        super().__init__(model, **common)
        self.blocks = choose("blocks", blocks, ("random", "dfa"))
        self.dfa = blocks == "dfa"
        self.name = "cafo_dfa" if self.dfa else "cafo_rand"
        self.loss = choose("predictor loss", loss, LOSSES)
        self.predict_by = choose("predict_by", predict_by, PREDICTIONS)
        self.head_bias = head_bias
        self.head_init = choose("head_init", head_init, ("uniform", "ones"))
        self.error_scale = choose("error", error, ("mean", "sum"))
        check_flag("head_bias", head_bias)
        check_flag("calibrate", calibrate)
        check_range("ridge", ridge)
        check_range("feedback_scale", feedback_scale)
        self.ridge, self.calibrate, self.feedback_scale = ridge, calibrate, feedback_scale
        own = {"lr": block_lr, "weight_decay": block_weight_decay, "epochs": block_epochs}
        for option, value in own.items():
            if value is not None and not self.dfa:
                raise InvalidInput(f"block_{option}={value}: random blocks are not trained; use blocks='dfa'")
            setattr(self, f"block_{option}", getattr(self, option) if value is None else value)
        check_range("block_lr", self.block_lr, above=0.0)
        check_range("block_weight_decay", self.block_weight_decay)
        check_positive("block_epochs", self.block_epochs)
        for i in range(1, self.depth + 1):
            self.heads[str(i)] = self.head(i, bias=head_bias)  # P_i
        if self.dfa:
            self.heads["output"] = self.head(self.depth, bias=head_bias)  # V
            for i, width in enumerate(model.features[:-1], start=1):
                self.register_buffer(f"feedback_{i}", torch.zeros(model.classes, width))  # B_i

    def initialise(self, seed: int) -> None:
        super().initialise(seed)
        for i in range(1, self.depth if self.dfa else 1):
            b = torch.randn(self.feedback(i).shape, generator=stream(seed, f"feedback_{i}"))
            self.feedback(i).copy_(self.feedback_scale * b / b.norm(dim=1, keepdim=True))

    def initialise_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        super().initialise_parameter(name, value, generator)
        if self.head_init == "ones" and name in {f"heads.{i}.weight" for i in range(1, self.depth + 1)}:
            value.fill_(1.0)

    def feedback(self, i: int) -> Tensor:
        """B_i, (classes, d_i), for i < L."""
        return self.get_buffer(f"feedback_{i}")

    # -- training

    def stages(self) -> list[Stage]:
        stages = [self.block_stage()] if self.dfa else []
        prefix = []
        for i, block in enumerate(self.model.blocks, start=1):
            if self.calibrate and not self.dfa and has_batch_norm(block):
                # Layer by layer, so that the predictor's prefix extends the calibration's: the cache
                # then has one convolution to compute for both.
                *before, block = block
                prefix = [*prefix, *before]
                stages.append(self.calibration_stage(i, block, prefix))
            prefix = [*prefix, block]
            stages.append(self.predictor_stage(i, prefix))
        return stages

    def block_stage(self) -> Stage:
        """DFA: all blocks and V at once, with their own rate, decay and number of epochs."""
        moving = [*self.model.parameters(), *self.heads["output"].parameters()]
        own = {"groups": [Group(moving, self.block_lr, self.block_weight_decay)], "epochs": self.block_epochs}
        return self.stage("blocks", [], self.dfa_losses, self.output, layer=self.depth, **own)

    def output(self, x: Tensor) -> Tensor:
        return self.heads["output"](self.model(x))

    def dfa_losses(self, x: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        *earlier, (_, last) = self.model.activities(x, detach=True)
        scores = self.heads["output"](last)
        loss = cross_entropy(scores, labels)  # exact for the last block and V
        e = self.error(scores, labels)
        for i, a in earlier:
            inner = (a * self.signal(i, a, e)).sum()  # ⟨h_i, δ_i⟩
            loss = loss + (inner - inner.detach())  # a gradient but no value: the loss reported is the CE
        yield loss

    def signal(self, i: int, a: Tensor, e: Tensor) -> Tensor:
        """δ_i at h_i, whose shape and memory layout it has: e B_i, pulled back through how a head reads h_i.

        BatchNorm's backward is several times slower on two layouts.
        """
        delta, wanted = torch.empty_like(a), e @ self.feedback(i)
        if self.model.read is flatten:
            return delta.copy_(wanted.view(a.shape))
        with torch.enable_grad():
            h = a.detach().requires_grad_()
            return delta.copy_(torch.autograd.grad(self.model.read(h), h, wanted)[0])

    def error(self, scores: Tensor, labels: Tensor) -> Tensor:
        """e = (p − Y)/B, or p − Y with error="sum": (B, classes), without gradient."""
        at_least_fp32 = torch.promote_types(scores.dtype, torch.float32)
        e = softmax(scores.detach(), 1, dtype=at_least_fp32) - one_hot(labels, scores.shape[1])
        return e / len(e) if self.error_scale == "mean" else e

    def calibration_stage(self, i: int, norm: nn.Module, prefix: list[nn.Module]) -> Stage:
        """Running statistics of random block i from what its BatchNorm gets on the training data."""
        moments = ChannelMoments()
        return Stage(
            f"calibrate {i}",
            prefix=prefix,
            accumulate=lambda h, labels: moments.add(h),
            solve=lambda: moments.solve(norm),
        )

    def predictor_stage(self, i: int, prefix: list[nn.Module]) -> Stage:
        """P_i on the features of the frozen blocks 1..i."""
        head, name = self.heads[str(i)], f"predictor {i}"
        if self.loss == "mse":
            equations = NormalEquations(bias=self.head_bias, ridge=self.ridge)
            return Stage(
                name,
                prefix=prefix,
                readout=head,
                accumulate=lambda h, labels: equations.add(head.read(h), one_hot(labels, self.model.classes)),
                solve=lambda: equations.solve(head),
            )

        def losses(h: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
            yield LOSSES[self.loss](head(h), labels)

        return self.stage(name, head.parameters(), losses, head, prefix, layer=i)

    # -- prediction

    @property
    def predicts_as_validated(self) -> bool:
        return False  # but by all predictors, each of which is validated on its own

    def readouts(self, x: Tensor) -> dict[str, Tensor]:
        """Sums of "logits" and of "probabilities", the "last" and each "block i" of the predictors trained so
        far, `predict_by` first; then, of DFA, "head": V, the output that trained the blocks."""
        self.finished()  # refuses an untrained network
        done = {stage.name for stage in self.stages()[: int(self.stages_finished)]}
        scores = {}
        for i, h in self.model.activities(x):
            if f"predictor {i}" in done:
                scores[f"block {i}"] = self.heads[str(i)](h)
        head = {"head": self.heads["output"](h)} if self.dfa else {}
        if not scores and not head:
            raise InvalidInput(f"{self.name} has no trained predictor yet: let bpfree.train finish")
        if not scores:
            return head
        all_ways = self.combine(list(scores.values()))
        return {self.predict_by: all_ways[self.predict_by], **all_ways, **scores, **head}

    def combine(self, scores: list[Tensor]) -> dict[str, Tensor]:
        """The ways to make one prediction of the predictors' scores, each (B, classes)."""
        sums = sum(scores), sum(map(self.probabilities, scores)), scores[-1]
        return dict(zip(PREDICTIONS, sums, strict=True))

    def probabilities(self, scores: Tensor) -> Tensor:
        """What the loss makes of scores; least squares estimates probabilities as they are."""
        if self.loss == "mse":
            return scores
        return sparsemax(scores) if self.loss == "sparsemax" else softmax(scores, 1)


def has_batch_norm(block: nn.Module) -> bool:
    """Whether the block ends in BatchNorm. Raises InvalidInput if it has one elsewhere."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms and not (len(norms) == 1 and isinstance(block, nn.Sequential) and block[-1] is norms[0]):
        raise InvalidInput(
            "a random block can be calibrated only if its one BatchNorm is its last layer: use such a "
            "network, as 'cnn-32-128', or an MLP"
        )
    return bool(norms)
