"""Negative data for Forward-Forward: what a layer should find wrong."""

import functools

import torch
from torch import Tensor

from ..training.chance import Chance

BLURS = 10  # Hinton blurs "repeatedly"; ten passes leave blobs a few pixels wide in a 28x28 mask


def uniform_wrong(labels: Tensor, classes: int, chance: Chance) -> Tensor:
    """One of the classes - 1 wrong labels for each of `labels` (B,), all equally likely."""
    return (labels + chance.integers(1, classes, len(labels))) % classes


def hard_wrong(labels: Tensor, logits: Tensor, chance: Chance) -> Tensor:
    """A wrong label for each of `labels` (B,), drawn from the softmax of logits (B, classes) over those.

    The class with the largest p_c / E_c, E_c ~ Exp(1), is c with probability p_c: so torch.multinomial draws
    one. Where logits are not finite, any wrong label is as likely as another.
    """
    wrong = logits.float().scatter(1, labels[:, None], -torch.inf).softmax(1)
    wrong = wrong.nan_to_num(nan=1.0).scatter(1, labels[:, None], 0.0)
    return (wrong / chance.exponential(*wrong.shape)).argmax(1)


def hybrids(images: Tensor, chance: Chance) -> Tensor:
    """Two images mixed by a mask of large blobs, x₁ m + x₂ (1 − m): right up close, wrong as a whole.

    The partner x₂ of each image is another one of the batch (Hinton, arXiv 2212.13345, section 3.2).
    images: (B, C, H, W); flat vectors count as one row of pixels.
    """
    b, shape = len(images), images.shape
    images = images if images.ndim == 4 else images.reshape(b, 1, 1, -1)
    m = masks(b, *images.shape[2:], chance)
    order = chance.permutation(b)
    partner = torch.empty_like(order).scatter_(0, order, order.roll(1))  # one cycle: never one's own partner
    return torch.where(m, images, images[partner]).reshape(shape)


def masks(n: int, height: int, width: int, chance: Chance) -> Tensor:
    """(n, 1, height, width) bool: random bits, blurred `BLURS` times in both directions, above one half."""
    bits = chance.uniform(n, 1, height, width).round()
    return blur_matrix(height, bits.device) @ bits @ blur_matrix(width, bits.device).T > 0.5


@functools.lru_cache(maxsize=8)
def blur_matrix(n: int, device: torch.device) -> Tensor:
    """(n, n): the filter [1/4, 1/2, 1/4] along an axis of n pixels, `BLURS` times; the border repeats."""
    row = torch.arange(n, device=device)
    once = torch.zeros(n, n, device=device)
    for step, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        once.index_put_((row, (row + step).clamp(0, n - 1)), once.new_tensor(weight), accumulate=True)
    return torch.linalg.matrix_power(once, BLURS)
