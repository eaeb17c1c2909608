"""Sparsemax and its loss (Martins and Astudillo, arXiv 1602.02068): class probabilities that can be 0."""

import torch
from torch import Tensor


def sparsemax(scores: Tensor) -> Tensor:
    """The Euclidean projection of every row of scores (B, classes) onto the simplex, in float32 at least:
    p_j = max(0, s_j − τ) with Σ_j p_j = 1."""
    s = _shifted(scores)
    return (s - _threshold(s)[0]).clamp(min=0)


def sparsemax_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of L = −s_y + ½ Σ_{j∈S} (s_j² − τ²) + ½, whose gradient is p − onehot(y).

    L ≥ 0, and 0 where the right class leads every other by 1 or more. scores: (B, classes); labels: (B,).
    """
    s = _shifted(scores)
    tau, support = _threshold(s)
    inside = ((s - tau) * (s + tau) * support).sum(1)  # Σ_{j∈S} (s_j² − τ²)
    return (0.5 * inside + 0.5 - s.gather(1, labels[:, None]).squeeze(1)).mean()


def _shifted(scores: Tensor) -> Tensor:
    """Both functions ignore a constant added to a row; without it the squares do not cancel digits."""
    s = scores.to(torch.promote_types(scores.dtype, torch.float32))  # autocast's bfloat16 has too few
    return s - s.detach().amax(1, keepdim=True)


def _threshold(s: Tensor) -> tuple[Tensor, Tensor]:
    """τ (B, 1), differentiable, and the support S (B, classes), which is where s > τ."""
    with torch.no_grad():
        z = s.sort(1, descending=True).values
        rank = torch.arange(1, s.shape[1] + 1, device=s.device, dtype=s.dtype)
        size = (1 + rank * z > z.cumsum(1)).sum(1, keepdim=True)  # |S|: the largest k that holds
        size.clamp_(min=1)  # of a row with NaN none does; it comes out as NaN, and the others as they are
        support = s >= z.gather(1, size - 1)
    # Scores equal to the smallest of S are in S too; they would be anyway, as the condition is strict in s.
    return ((s * support).sum(1, keepdim=True) - 1) / support.sum(1, keepdim=True), support
