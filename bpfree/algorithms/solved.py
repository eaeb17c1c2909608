"""What a stage can solve in one pass over the data: least squares, and the statistics of BatchNorm.

Sums run in float64, because a sum over the pixels of a whole data set loses digits in float32.
"""

import torch
from torch import Tensor, nn

from ..errors import InvalidInput


class NormalEquations:
    """Ridge regression of targets on features: min_P ‖HP − Y‖²/N + ridge·‖P‖².

    The solution obeys (HᵀH + N·ridge·I) P = HᵀY. Only HᵀH (d×d) and HᵀY (d×outputs) are kept, never H.

    Args:
        bias: append a constant 1 to every row of H.
        ridge: as above; with per_sample=False what stands there as N·ridge.
        penalise_bias: whether the weight of that constant is penalised, too.
    """

    tile = 1024  # columns of HᵀH that are updated at a time

    def __init__(self, *, bias: bool, ridge: float, per_sample: bool = True, penalise_bias: bool = False):
        self.bias, self.ridge, self.per_sample, self.penalise_bias = bias, ridge, per_sample, penalise_bias
        self.count, self.gram, self.moment = 0, None, None

    @torch.no_grad()
    def add(self, features: Tensor, targets: Tensor) -> None:
        """One batch. features: (B, d); targets: (B, outputs)."""
        h, y = doubled(features), doubled(targets)
        if self.bias:
            h = torch.cat([h, h.new_ones(len(h), 1)], dim=1)
        if self.gram is None:
            self.gram = h.new_zeros(h.shape[1], h.shape[1])
            self.moment = h.new_zeros(h.shape[1], y.shape[1])
        for i in range(0, h.shape[1], self.tile):  # HᵀH, which is symmetric: its lower tiles are enough
            self.gram[i:, i : i + self.tile].addmm_(h[:, i:].T, h[:, i : i + self.tile])
        self.moment.addmm_(h.T, y)  # HᵀY
        self.count += len(h)

    @torch.no_grad()
    def solve(self, head: nn.Linear) -> None:
        """Put Pᵀ (outputs × d) into the head and let go of the sums. Raises InvalidInput if there is no P."""
        penalised = self.gram.diagonal()[: None if self.penalise_bias else head.in_features]
        penalised += self.ridge * (self.count if self.per_sample else 1)
        factor, failed = torch.linalg.cholesky_ex(self.gram)  # reads the lower triangle only
        p = torch.cholesky_solve(self.moment, factor).T.to(head.weight.dtype)
        self.count, self.gram, self.moment = 0, None, None
        if failed or not p.isfinite().all():
            raise InvalidInput(
                f"ridge={self.ridge:g}: the features are linearly dependent or not finite, so that least "
                "squares has no single solution; use a larger ridge, such as 1e-3"
            )
        head.weight.copy_(p[:, : head.in_features])
        if self.bias:
            head.bias.copy_(p[:, -1])


class ChannelMoments:
    """Mean and variance of every channel over a whole data set, for a BatchNorm in eval mode."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """One batch, (B, channels, ...)."""
        x = doubled(x).contiguous()  # one order of summation, whatever layout the features come in
        others = [axis for axis in range(x.ndim) if axis != 1]
        self.count += x.numel() // x.shape[1]
        self.total = self.total + x.sum(others)
        self.squares = self.squares + x.square().sum(others)

    @torch.no_grad()
    def solve(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        """Set the running statistics: what train mode would compute on all data as one batch."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)  # E[x²] − E[x]²
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def doubled(x: Tensor) -> Tensor:
    """float64, on the same device or, where that has none (MPS), on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()
