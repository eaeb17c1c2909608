"""Batches of images that live on the device, and the one way to draw them."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InvalidInput


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the reflect-padded image, then a horizontal flip with probability one half.

    An image of H by W pixels has only (2·pad + 1)² crops, twice that with flips. These views are
    numbered, and a table of pixel indices, made once, says where each takes its pixels from:
    to augment is to look up, and neither data set nor batch is ever padded.

    pad: pixels added on every side; must be smaller than the image's sides.
    flip: whether half of the images are mirrored.
    """

    pad: int = 4
    flip: bool = True

    @property
    def views(self) -> int:
        """How many different views of an image there are."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, n: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
        """n view numbers, (n,) int64, uniform: view = (flipped·k + top)·k + left, with k = 2·pad + 1."""
        # Asynchronous, because a blocking copy would make the host wait for the device at every batch.
        return torch.randint(self.views, (n,), generator=generator).to(device, non_blocking=True)

    def apply(self, images: Tensor, view: Tensor) -> Tensor:
        """The numbered views of images (B, C, H, W), one each; view: (B,) int64 on the same device."""
        b, c, h, w = images.shape
        pixel = _pixel_table(self, h, w, images.device).index_select(0, view)  # (B, H·W)
        # One pixel index serves all channels of an image.
        return images.reshape(b, c, h * w).gather(2, pixel[:, None].expand(b, c, h * w)).view(b, c, h, w)


@functools.lru_cache(maxsize=8)
def _pixel_table(augment: Augmentation, h: int, w: int, device: torch.device) -> Tensor:
    """(views, H·W) int64: for every view and pixel, the flat index of the image's pixel it shows."""
    if not 0 <= augment.pad < min(h, w):
        raise InvalidInput(f"pad={augment.pad} does not suit images of {h}x{w}: choose 0 to {min(h, w) - 1}")
    shift = torch.arange(-augment.pad, augment.pad + 1)[:, None]
    rows = _reflect(torch.arange(h) + shift, h)  # (k, H), by the crop's top
    columns = _reflect(torch.arange(w) + shift, w)[None]  # (1, k, W), by the crop's left
    if augment.flip:
        columns = torch.cat([columns, columns.flip(2)])  # the flip comes last: it mirrors the crop
    table = rows[None, :, None, :, None] * w + columns[:, None, :, None, :]  # (flipped, top, left, H, W)
    return table.reshape(augment.views, h * w).to(device)


def _reflect(i: Tensor, n: int) -> Tensor:
    """Indices outside 0..n-1 mirrored at the border pixel, which is not repeated (numpy's "reflect")."""
    return (n - 1) - ((n - 1) - i.abs()).abs()


def permutation(n: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """A random order of n rows, (n,) int64. Drawn on the CPU, so the order is the same on every device."""
    return torch.randperm(n, generator=generator).to(device, non_blocking=True)


def gather(
    x: Tensor, index: Tensor, augment: Augmentation | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """The batch x[index], augmented on request.

    x: (N, ...), images (N, C, H, W) if augmented; index: (B,) int64 on x's device;
    generator: a CPU generator, from which the augmentation draws one view per image.
    """
    batch = x.index_select(0, index)
    if augment is None:
        return batch
    return augment.apply(batch, augment.draw(len(index), generator, x.device))


def batches(
    x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator, augment: Augmentation | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches, x (B, ...) and y (B,).

    The generator, of the CPU, gives the order first, then each batch's views. A short last
    batch is left out, as in the papers' code, unless it is the only one.
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size={batch_size} is not allowed: choose 1 or more")
    order = permutation(len(x), generator, x.device)
    order = order[: max(1, len(x) // batch_size) * batch_size]
    return ((gather(x, i, augment, generator), y.index_select(0, i)) for i in order.split(batch_size))


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set, split and normalised, on one device.

    x_*: (N, C, H, W) float32, (pixel / scale - mean) / std per channel; y_*: (N,) int64 in 0..classes-1.
    mean, std: per channel, of the pixels after division by their scale (255 for uint8, 16 for digits).
    sha256: identifies the raw arrays, whichever file they came from.
    augment: what training does to its images; None, or CIFAR's crop and flip.
    The test part is only carried here; nothing but the final evaluation should touch it.
    """

    name: str
    classes: int
    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    augment: Augmentation | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.x_train.shape[1:])

    @property
    def features(self) -> int:
        """C·H·W, the width of a flattened image."""
        return self.x_train[0].numel()

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.x_train.device

    def to(self, device: torch.device | str) -> "Data":
        """The same data on another device; itself if it is there already."""
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as tensors name it
        if device == self.device:
            return self
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def epoch(
        self, batch_size: int, generator: torch.Generator, *, augment: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled training batches; augmented if the data set is and `augment` is not False."""
        return batches(self.x_train, self.y_train, batch_size, generator, self.augment if augment else None)

    def __repr__(self) -> str:
        sizes = f"train={len(self.x_train)}, val={len(self.x_val)}, test={len(self.x_test)}"
        return f"Data({self.name!r}, classes={self.classes}, shape={self.shape}, {sizes}, {self.device})"
