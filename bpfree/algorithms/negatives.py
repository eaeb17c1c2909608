"""Negative data for Forward-Forward: what a layer should find wrong."""

import torch
from torch import Tensor

BLURS = 10  # Hinton blurs "repeatedly"; ten passes leave blobs a few pixels wide in a 28x28 mask


def uniform_wrong(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """One of the classes - 1 wrong labels for each of `labels` (B,), all equally likely."""
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shift) % classes


def hard_wrong(labels: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    """A wrong label for each of `labels` (B,), drawn from the softmax of logits (B, classes) over those.

    Where logits are not finite, any wrong label is as likely as another.
    """
    wrong = logits.float().scatter(1, labels[:, None], -torch.inf).softmax(1)
    wrong = wrong.nan_to_num(nan=1.0).scatter(1, labels[:, None], 0.0)
    return torch.multinomial(wrong, 1, generator=generator)[:, 0]


def hybrids(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two images mixed by a mask of large blobs, x₁ m + x₂ (1 − m): right up close, wrong as a whole.

    The partner x₂ of each image is another one of the batch (Hinton, arXiv 2212.13345, section 3.2).
    images: (B, C, H, W); flat vectors count as one row of pixels.
    """
    b, shape = len(images), images.shape
    images = images if images.ndim == 4 else images.reshape(b, 1, 1, -1)
    m = masks(b, *images.shape[2:], generator, images.device)
    order = torch.randperm(b, generator=generator, device=images.device)
    partner = torch.empty_like(order).scatter_(0, order, order.roll(1))  # one cycle: never one's own partner
    return torch.where(m, images, images[partner]).reshape(shape)


def masks(n: int, height: int, width: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(n, 1, height, width) bool: random bits, blurred `BLURS` times in both directions, above one half."""
    bits = torch.rand(n, 1, height, width, generator=generator, device=device).round()
    return blur_matrix(height, device) @ bits @ blur_matrix(width, device).T > 0.5


def blur_matrix(n: int, device: torch.device) -> Tensor:
    """(n, n): the filter [1/4, 1/2, 1/4] along an axis of n pixels, `BLURS` times; the border repeats."""
    row = torch.arange(n, device=device)
    once = torch.zeros(n, n, device=device)
    for step, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        once.index_put_((row, (row + step).clamp(0, n - 1)), once.new_tensor(weight), accumulate=True)
    return torch.linalg.matrix_power(once, BLURS)
