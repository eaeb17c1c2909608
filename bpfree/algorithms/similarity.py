"""Similarity matching (Nøkland and Eidnes, arXiv 1901.06656): to a layer, samples of one class shall look
alike, and samples of two classes shall not."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .base import Head
from .networks import Blocks

EPS = 1e-8  # of the authors' code


def similarity_map(model: Blocks, i: int) -> nn.Module:
    """S_i, through which layer i is compared: a 3×3 convolution of its channels, or a d_i × d_i matrix."""
    convolutions = [m for m in model.blocks[i - 1].modules() if isinstance(m, nn.Conv2d)]
    if convolutions:
        channels = convolutions[-1].out_channels
        return nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    width = model.features[i - 1]
    return Head(width, width, bias=False, read=model.read)


def similarity_loss(h: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean of (R(h) − R(Y))² over all pairs of the batch; h: (B, ...), labels: (B,).

    Y are the one-hot labels, of which R is 1 for a pair of one class and −1/(C − 1) for any other.
    """
    alike = labels[:, None] == labels
    with torch.autocast(h.device.type, enabled=False):  # EPS is nothing beside numbers of half precision
        r = similarities(h.to(torch.promote_types(h.dtype, torch.float32)))
        return mse_loss(r, torch.where(alike, 1.0, -1.0 / (classes - 1)).to(r.dtype))


def similarities(h: Tensor) -> Tensor:
    """R, (B, B): the correlation of every two rows, R = X̂ X̂ᵀ with x̂ = (x − mean x) / (ε + ‖x − mean x‖).

    x is a row of h (B, ...), or of pictures (B, channels, ...) with more than three channels the deviation of
    each channel over its positions.
    """
    pictures = h.ndim == 4 and h.shape[1] > 3 and h.shape[2] > 1
    x = h.flatten(2).std(2) if pictures else h.flatten(1)
    x = x - x.mean(1, keepdim=True)
    x = x / (EPS + torch.linalg.vector_norm(x, dim=1, keepdim=True))
    return (x @ x.T).clamp(-1.0, 1.0)
