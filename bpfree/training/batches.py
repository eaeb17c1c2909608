"""A data set as tensors that live on the device: how it is made from arrays, and the one way to draw batches.

Because the images are already tensors, a batch is one or two index operations; there is no DataLoader.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput, check_seed
from .numerics import pinned

KEYS = ("x_train", "y_train", "x_test", "y_test")  # the layout of Keras's npz files
MAX_CLASSES = 65_536  # larger labels are surely not class numbers, and a head for them would not fit


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the reflect-padded image, then a horizontal flip with probability one half.

    An image of H by W pixels has only (2·pad + 1)² crops, twice that with flips. These views are numbered,
    and a table of pixel indices says where each takes its pixels from: to augment is to look up.

    pad: pixels added on every side; must be smaller than the image's sides.
    flip: whether half of the images are mirrored.
    """

    pad: int = 4
    flip: bool = True

    @property
    def views(self) -> int:
        """How many different views of an image there are."""
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n view numbers, (n,) int64, uniform: view = (flipped·k + top)·k + left, with k = 2·pad + 1."""
        return torch.randint(self.views, (n,), generator=generator)

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


def batch_plan(
    n: int, batch_size: int, generator: torch.Generator, augment: Augmentation | None = None
) -> tuple[Tensor, Tensor | None]:
    """One epoch of shuffled batches of n samples, on the CPU: their rows and, if augmented, their views.

    Both (batches, batch_size) int64. The generator, of the CPU, so that every device has the same, gives the
    order first, then each batch's views. A short last batch is left out, as in the papers' code, unless it is
    the only one.
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size={batch_size} is not allowed: choose 1 or more")
    size, count = min(batch_size, n), max(1, n // batch_size)
    rows = torch.randperm(n, generator=generator)[: count * size].view(count, size)
    views = [augment.draw(size, generator) for _ in rows] if augment else []
    return rows, torch.stack(views) if views else None


def pick(x: Tensor, rows: Tensor, augment: Augmentation | None = None, views: Tensor | None = None) -> Tensor:
    """These rows (B,) of x (N, ...), which are images (N, C, H, W) if they are shown by `views` (B,)."""
    chosen = x.index_select(0, rows)
    return chosen if views is None else augment.apply(chosen, views)


def batches(
    x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator, augment: Augmentation | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a `batch_plan`, of x (N, ...) and y (N,)."""
    order, views = batch_plan(len(x), batch_size, generator, augment)
    order, views = order.to(x.device), None if views is None else views.to(x.device)
    return (
        (pick(x, rows, augment, None if views is None else views[k]), y.index_select(0, rows))
        for k, rows in enumerate(order)
    )


class MapStyle(Protocol):
    """What has a length and gives (image, class) for every index below it, as torch's `Dataset` does."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """A data set, split and normalised, on one device.

    x_*: (N, C, H, W) float32, (pixel / scale - mean) / std per channel; y_*: (N,) int64 in 0..classes-1.
    mean, std: per channel, of the pixels after division by their scale (255 for uint8, 16 for digits).
    sha256: identifies the raw arrays, whichever file they came from, and the normalisation and augmentation
        that were given with them.
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

    @classmethod
    @pinned()
    def from_arrays(
        cls,
        x_train: np.ndarray | Tensor,
        y_train: np.ndarray | Tensor,
        x_test: np.ndarray | Tensor,
        y_test: np.ndarray | Tensor,
        *,
        name: str = "own",
        x_val: np.ndarray | Tensor | None = None,
        y_val: np.ndarray | Tensor | None = None,
        seed: int = 0,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        augment: Augmentation | None = None,
    ) -> "Data":
        """Data of your own, from numpy arrays or tensors in the layout of an .npz file; they are copied.

        Args:
            x_train, x_test: images (N, H, W) or (N, H, W, C) with C in 1..4, or flat vectors (N, F), which
                become (N, 1, 1, F); uint8, which is divided by 255, or floats, taken as they are.
            y_train, y_test: labels 0..K-1, integers (N,).
            x_val, y_val: what validates; None: a random tenth of the training images.
            seed: which tenth that is.
            mean, std: for all channels or one for each; None: of the training images.
            augment: what training does to its images.

        Raises:
            InvalidInput: it names the array that cannot be used, and says why.
        """
        check_seed(seed)
        given = dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))
        given |= {key: a for key, a in (("x_val", x_val), ("y_val", y_val)) if a is not None}
        source = f"data {name!r}"
        arrays = checked({key: _array(a) for key, a in given.items()}, source)
        _, height, width, channels = arrays["x_train"].shape
        if not isinstance(augment, Augmentation | None):
            raise InvalidInput(f"{source}: augment={augment!r}: use a bpfree.training.Augmentation, or None")
        if augment:
            _pixel_table(augment, height, width, torch.device("cpu"))  # refuses a padding that is too large
        how = {n: _per_channel(n, value, channels) for n, value in (("mean", mean), ("std", std))}
        how["augment"] = augment
        return assembled(name, content_hash(arrays, **how), arrays, seed, **how)

    @classmethod
    def from_dataset(
        cls,
        train: MapStyle,
        test: MapStyle,
        *,
        val: MapStyle | None = None,
        name: str = "own",
        seed: int = 0,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        augment: Augmentation | None = None,
    ) -> "Data":
        """Data of your own, from map-style data sets of (image, class), as torchvision's are.

        An image is one of PIL's, a numpy array (H, W), (H, W, C) or (F,), or a tensor (C, H, W), (H, W) or
        (F,). Each is read once; what a random transform does to it then stays.

        Args:
            val: what validates; None: a random tenth of `train`.
            name, seed, mean, std, augment: as in `from_arrays`, which also says what is raised.
        """
        parts = {"train": train, "test": test} | ({"val": val} if val is not None else {})
        arrays = {}
        for part, dataset in parts.items():
            try:
                pairs = [(_pixels(x), _array(y)) for x, y in (dataset[i] for i in range(len(dataset)))]
            except (TypeError, ValueError) as error:  # no length, no index, or items that are no pairs
                raise InvalidInput(
                    f"data {name!r}: {part} is no map-style data set of (image, class) ({error}): give one "
                    "with a length and such a pair for every index below it"
                ) from error
            for letter, values in (("x", [x for x, _ in pairs]), ("y", [y for _, y in pairs])):
                shapes = [(value.shape, str(value.dtype)) for value in values]
                odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
                if odd is not None:
                    raise InvalidInput(
                        f"data {name!r}: {letter}_{part}[{odd}] has shape and dtype {shapes[odd]}, but "
                        f"{letter}_{part}[0] {shapes[0]}; give all the same"
                    )
                arrays[f"{letter}_{part}"] = np.stack(values) if values else np.empty((0, 1))
        return cls.from_arrays(**arrays, name=name, seed=seed, mean=mean, std=std, augment=augment)

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


# ---------------------------------------------------------------- from arrays


def _array(value: object) -> np.ndarray:
    return value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)


def _pixels(image: object) -> np.ndarray:
    """An image with its channels last."""
    if isinstance(image, Tensor) and image.ndim == 3:
        image = image.movedim(0, -1)
    if getattr(image, "mode", None) in ("1", "P"):  # of PIL, whose pixels are bits or places in a palette
        image = image.convert("L" if image.mode == "1" else "RGB")
    return _array(image)


def _per_channel(name: str, value: float | Sequence[float] | None, channels: int) -> tuple[float, ...] | None:
    """One number for each channel; None stays None."""
    if value is None:
        return None
    try:
        numbers = np.broadcast_to(np.asarray(value, np.float64), channels)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all() or (name == "std" and not (numbers > 0).all()):
        above = " above 0" if name == "std" else ""
        raise InvalidInput(
            f"{name}={value!r}: use a number{above}, or one for each of the {channels} channels"
        )
    return tuple(numbers.tolist())


def content_hash(arrays: Mapping[str, np.ndarray], **given: object) -> str:
    """The SHA-256 sum of checked arrays, with the normalisation and augmentation given."""
    digest = hashlib.sha256()
    for key in (*KEYS, "x_val", "y_val"):
        if key in arrays:
            digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape} ".encode())
            digest.update(np.ascontiguousarray(arrays[key]))
    for name, value in given.items():
        if value is not None:
            digest.update(f"{name} {value} ".encode())
    return digest.hexdigest()


def checked(
    arrays: Mapping[str, np.ndarray], source: object, classes: int = MAX_CLASSES
) -> dict[str, np.ndarray]:
    """The arrays in one form, x (N, H, W, C) uint8 or float32 and y (N,) int64.

    arrays: `KEYS`, and x_val with y_val or neither. source: whose they are, for the message of InvalidInput.
    """

    def need(condition: bool, otherwise: str) -> None:
        if not condition:
            raise InvalidInput(f"{source}: {otherwise}")

    out = {}
    need(("x_val" in arrays) == ("y_val" in arrays), "x_val and y_val belong together; give both or neither")
    for part in ("train", "val", "test"):
        kx, ky = f"x_{part}", f"y_{part}"
        if kx not in arrays:
            continue
        x, y = arrays[kx], arrays[ky]
        real = x.dtype.kind == "f"
        need(real or x.dtype == np.uint8, f"{kx} has dtype {x.dtype}; allowed are uint8 and floats")
        fits = x.ndim in (2, 3) or (x.ndim == 4 and x.shape[3] <= 4)
        need(fits, f"{kx} has shape {x.shape}; allowed are (N, H, W), (N, H, W, C<=4) and (N, F)")
        need(x.size > 0, f"{kx} is empty, shape {x.shape}; at least one image is needed")
        if real:
            x = x.astype(np.float32, copy=False)  # what float32 cannot hold becomes inf and is refused
            bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
            need(not bad.any(), f"{kx} has NaN or infinite values, first in row {bad.argmax()}; remove them")
        need(y.dtype.kind in "iu", f"{ky} has dtype {y.dtype}; labels are integers 0 to K-1")
        need(y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1), f"{ky} has shape {y.shape}; allowed is (N,)")
        need(len(y) == len(x), f"{ky} has {len(y)} labels but {kx} {len(x)} images; one each is needed")
        low, high = y.min(), y.max()
        need(low >= 0 and high < classes, f"{ky} has labels {low} to {high}; allowed are 0 to {classes - 1}")
        out[kx] = x[:, None, :, None] if x.ndim == 2 else x[..., None] if x.ndim == 3 else x
        out[ky] = y.reshape(-1).astype(np.int64)
        first = out["x_train"]
        shape, wanted = out[kx].shape[1:], first.shape[1:]
        need(shape == wanted, f"{kx} has images {shape}, but x_train {wanted} (H, W, C)")
        need(
            x.dtype == first.dtype, f"{kx} has dtype {x.dtype}, but x_train {first.dtype}; give all the same"
        )
    alone = len(out["x_train"]) == 1 and "x_val" not in out
    need(not alone, "x_train has one image; two are needed, one of them for validation")
    two = any(out[key].max() for key in out if key[0] == "y")
    need(two, "all labels are 0; at least two classes are needed")
    return out


@pinned()
def assembled(
    name: str,
    sha256: str,
    arrays: Mapping[str, np.ndarray],
    seed: int,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    augment: Augmentation | None = None,
    classes: int | None = None,
    scale: float | None = None,
    validation: int | None = None,
) -> Data:
    """Checked arrays, split, divided by their scale and normalised; what is not given is measured.

    validation: so many of the training images validate; None: x_val, or a tenth of them that the seed draws.
    """
    x_train, y_train = arrays["x_train"], arrays["y_train"]
    if "x_val" in arrays:
        split = [(x_train, y_train), (arrays["x_val"], arrays["y_val"])]
    else:
        fixed = validation and (slice(None, -validation), slice(-validation, None))
        split = [(x_train[r], y_train[r]) for r in fixed or _tenth(len(x_train), seed)]
    split.append((arrays["x_test"], arrays["y_test"]))
    scale = scale or (255 if x_train.dtype == np.uint8 else 1)
    images = [_as_images(x, scale) for x, _ in split]
    labels = [torch.from_numpy(y) for _, y in split]
    if mean is None or std is None:  # from the training part alone: neither validation nor test have a say
        deviation, average = torch.std_mean(images[0], dim=(0, 2, 3), correction=0)
        deviation[deviation == 0] = 1.0  # a constant channel carries nothing; it becomes zero
        mean = mean or tuple(average.tolist())
        std = std or tuple(deviation.tolist())
    for x in images:
        x.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))
    classes = classes or 1 + max(int(y.max()) for y in labels)
    parts = [tensor for pair in zip(images, labels, strict=True) for tensor in pair]
    return Data(name, classes, *parts, mean, std, sha256, augment)


def _tenth(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and validation, drawn as random_split draws them in the paper's code."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    validation = max(1, n // 10)
    return order[:-validation], order[-validation:]


def _as_images(x: np.ndarray, scale: float) -> Tensor:
    """(N, H, W, C) to (N, C, H, W) float32 divided by scale; x itself is left alone."""
    x = torch.from_numpy(np.require(x, requirements="CW")).permute(0, 3, 1, 2)
    return torch.empty(x.shape).copy_(x).div_(scale)  # four times as fast as x.to(float32)
