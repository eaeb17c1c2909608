"""Forward Projection: every layer is solved for targets that are made of its input and the labels."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..errors import InvalidInput, check_flag, check_range
from ..training.chance import stream
from ..training.stage import Stage
from .base import Algorithm
from .networks import MLP, Blocks
from .solved import NormalEquations


class ForwardProjection(Algorithm):
    """Forward Projection (O'Shea and Rajendran, arXiv 2501.16476, and their code).

    Layer by layer, without a gradient, an optimiser or an epoch: one pass over the training data for every
    layer, and one for the read-out. With ã = [a, 1], Y the one-hot labels, and Q_l ((d_{l-1} + 1) × d_l) and
    U_l (classes × d_l) drawn once from N(0, 1),

        Z_l = sign(ã_{l-1} Q_l) + sign(Y U_l)             the targets of layer l, which are -2, 0 or 2
        W_l = argmin ‖ã_{l-1} W − Z_l‖² + λ ‖W‖²,  a_l = ReLU(ã_{l-1} W_l)
        V   = argmin ‖ã_L V − (2Y − 1)‖² + λ_V ‖V‖²,  class = argmax ã_L V

    Left out of the paper: convolutions, its other two activations, and the reading of classes from hidden
    layers. Its code inverts in float32, and takes the identity where that fails; here it is Cholesky's
    factorisation in float64, and a failure is an error.

    Args:
        model: an MLP.
        ridge: λ, of all samples together. output_ridge: λ_V.
        penalise_bias: whether the last row of W_l and V, the bias, is in the penalty, as in the code.
        **common: see `Algorithm`; only the batch size does anything, and to the rounding alone.

    Raises:
        InvalidInput: not an MLP, or a value out of its range.
    """

    name = "fp"

    def __init__(
        self,
        model: Blocks,
        *,
        ridge: float = 10.0,
        output_ridge: float = 1.0,
        penalise_bias: bool = True,
        **common,
    ):
        super().__init__(model, **common)
        if not isinstance(model, MLP):
            raise InvalidInput(f"model={type(model).__name__}: Forward Projection solves an MLP; give it one")
        check_range("ridge", ridge)
        check_range("output_ridge", output_ridge)
        check_flag("penalise_bias", penalise_bias)
        self.ridge, self.output_ridge, self.penalise_bias = ridge, output_ridge, penalise_bias
        self.heads["output"] = self.head(self.depth, bias=True)  # V
        widths = [model.inputs, *model.features]
        for i, width in enumerate(model.features, start=1):
            self.register_buffer(f"feature_projection_{i}", torch.zeros(widths[i - 1] + 1, width))  # Q_i
            self.register_buffer(f"label_projection_{i}", torch.zeros(model.classes, width))  # U_i

    def initialise(self, seed: int) -> None:
        super().initialise(seed)
        for name, projection in self.named_buffers():
            if "_projection_" in name:
                projection.copy_(torch.randn(projection.shape, generator=stream(seed, name)))

    def targets(self, i: int, a: Tensor, labels: Tensor) -> Tensor:
        """Z_i, (B, d_i), of the layer's input a (B, d_{i-1}) and labels (B,)."""
        q, u = self.get_buffer(f"feature_projection_{i}"), self.get_buffer(f"label_projection_{i}")
        return (a @ q[:-1] + q[-1]).sign() + u[labels].sign()

    def stages(self) -> list[Stage]:
        blocks = list(self.model.blocks)
        hidden = [
            self.solved_stage(f"layer {i}", block.linear, blocks[: i - 1], self.ridge, i)
            for i, block in enumerate(blocks, start=1)
        ]
        return [*hidden, self.solved_stage("output", self.heads["output"], blocks, self.output_ridge)]

    def solved_stage(self, name: str, layer: nn.Linear, prefix: list, ridge: float, i: int = 0) -> Stage:
        """The one pass that solves `layer`: that of block i, or the read-out, which alone is validated."""
        equations = NormalEquations(
            bias=True, ridge=ridge, per_sample=False, penalise_bias=self.penalise_bias
        )

        def accumulate(a: Tensor, labels: Tensor) -> None:
            a = a.flatten(1)
            z = self.targets(i, a, labels) if i else 2 * one_hot(labels, self.model.classes) - 1
            equations.add(a, z)

        readout, solve = None if i else layer, partial(equations.solve, layer)
        return Stage(name, prefix=prefix, readout=readout, accumulate=accumulate, solve=solve)

    def readouts(self, x: Tensor) -> dict[str, Tensor]:
        """ "last": ã_L V."""
        if self.finished().readout is None:
            raise InvalidInput(f"{self.name} has no solved read-out yet: let bpfree.train finish")
        return super().readouts(x)
