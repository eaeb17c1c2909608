"""Named image data sets as tensors that live on the device, and the one way to draw batches from them.

Splits, normalisation and augmentation are those of Spyra and Dzwinel (arXiv 2509.19063 and
2511.01061): a fixed 50k/10k split for MNIST and a seeded random tenth for validation
elsewhere, per-channel mean and standard deviation, and for CIFAR a random crop from the
image padded by reflection plus a random horizontal flip. Because the images are already
tensors, a batch is one or two index operations; there is no DataLoader and no PIL.
"""

import functools
import gzip
import hashlib
import math
import os
import shutil
import socket
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InvalidInput, MissingData, check_seed, choose
from .errors.disk import FORBIDDEN, FULL, given_path, own_folder, refusals
from .training.batches import Augmentation, Data
from .training.numerics import pinned

StrPath = str | os.PathLike
KEYS = ("x_train", "y_train", "x_test", "y_test")  # the layout of Keras's npz files
MAX_CLASSES = 65_536  # larger labels are surely not class numbers, and a head for them would not fit
SILENCE_S = 60.0  # after which a download is given up
ELSEWHERE = "set BPFREE_DATA or root= to a folder elsewhere"


# ---------------------------------------------------------------- batches


# ---------------------------------------------------------------- the data set


@dataclass(frozen=True)
class _Published:
    """What is known of a published data set, so that a mislabelled file is recognised.

    label: what tables and figures call it.
    torchvision, folder, archive: its class there, and where below a root its files lie, unpacked and not.
    """

    label: str
    torchvision: str
    folder: str
    archive: str | None
    image: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10
    train: int = 50_000
    test: int = 10_000
    validation: int | None = None  # the last so many training images; None: a seeded random tenth
    scale: int = 255
    augment: Augmentation | None = None


# Mean and standard deviation over all training pixels, as torchvision's examples print them.
# Departure: the paper's code divides CIFAR-10 by (0.2023, 0.1994, 0.2010), a widely copied slip
# (the mean of the single images' deviations); the deviation of the pixels is the one here.
_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
#: Divided by 16, not normalised.
_DIGITS = _Published("digits", "", "", None, (8, 8), (0.0,), (1.0,), train=1437, test=360, scale=16)
PUBLISHED = {
    "mnist": _Published(
        *("MNIST", "MNIST", "MNIST/raw", None, (28, 28), (0.1307,), (0.3081,)),
        train=60_000,
        validation=10_000,
    ),
    "fashion_mnist": _Published(
        *("Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw", None, (28, 28), (0.2860,), (0.3530,)),
        train=60_000,
    ),
    "cifar10": _Published(
        "CIFAR-10",
        *("CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz", (32, 32, 3), *_CIFAR10),
        augment=Augmentation(),
    ),
    "cifar100": _Published(
        "CIFAR-100",
        *("CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz", (32, 32, 3), *_CIFAR100),
        classes=100,
        augment=Augmentation(),
    ),
}
NAMES = ("digits", *PUBLISHED)


def dataset(name: str) -> str:
    """What tables and figures call a data set; a user's own by its file's name, wherever it lies."""
    known = {"digits": _DIGITS, **PUBLISHED}
    return known[name].label if name in known else Path(name).name


def rank(name: str) -> tuple[int, str]:
    """Where a data set stands in their order: in that of `NAMES`, a user's own last, by name."""
    return NAMES.index(name) if name in NAMES else len(NAMES), name


@dataclass(frozen=True)
class Raw:
    """A data set as its files have it: checked, but neither split nor normalised.

    name: of the data set, or of the user's file; published: whether it is one of `NAMES`.
    sha256: identifies the arrays, whichever file they came from.
    arrays: `KEYS`, x (N, H, W, C) uint8 or float32 and y (N,) int64. Two are equal by all the rest.
    """

    name: str
    published: bool
    sha256: str
    arrays: Mapping[str, np.ndarray] = field(compare=False, repr=False)


def load(name: StrPath, root: StrPath | None = None, *, download: bool = False, seed: int = 0) -> Data:
    """Load a data set, on the CPU.

    name: digits (bundled with scikit-learn), mnist, fashion_mnist, cifar10, cifar100, or the path
        of an .npz file with x_train, y_train, x_test, y_test. Its images are (N, H, W), (N, H, W, C)
        with C in 1..4, or flat vectors (N, F), which become (N, 1, 1, F); uint8 (divided by 255)
        or floats, taken as they are; both are normalised by the training images. Labels 0..K-1.
    root: folder of the named sets: `<root>/<name>.npz`, else torchvision's own files, unpacked or as they
        are published. Default: the environment variable BPFREE_DATA, else the user's cache directory.
    download: fetch a named set that is not there, or damaged, through torchvision, and keep it as .npz.
    seed: which random tenth of the training images validates; on MNIST its last 10,000 always do.

    Raises UnknownName; MissingData; InvalidInput, which names the file and the array; or StorageFailed.
    """
    check_seed(seed)
    return assembled(read(name, root, download=download), seed)


@pinned()
def read(name: StrPath, root: StrPath | None = None, *, download: bool = False) -> Raw:
    """The arrays that `load` splits and normalises; the arguments and what it raises are those."""
    if isinstance(name, os.PathLike) or str(name).endswith(".npz"):
        path = Path(os.path.expanduser(name))  # as the user wrote it, in messages, too
        arrays = _checked(_read_npz(path), path)
        if not any(arrays[key].max() for key in ("y_train", "y_test")):
            raise InvalidInput(f"{path}: all labels are 0; at least two classes are needed")
        return Raw(path.name, False, _sha256(arrays), arrays)
    name = choose("data set (or path of an .npz file)", name, NAMES)
    if name == "digits":
        return _digits()
    found, source = _find(name, data_root(root), download)
    arrays = _checked(found, source, name, PUBLISHED[name])
    return Raw(name, True, _sha256(arrays), arrays)


@pinned()
def assembled(raw: Raw, seed: int) -> Data:
    """Split the arrays, scale and normalise; what is not known of a user's own data is measured."""
    known = _DIGITS if raw.name == "digits" else PUBLISHED[raw.name] if raw.published else None
    arrays = raw.arrays
    last = known and known.validation
    train, val = (slice(None, -last), slice(-last, None)) if last else _tenth(len(arrays["x_train"]), seed)
    scale = known.scale if known else 255 if arrays["x_train"].dtype == np.uint8 else 1
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    images = [_as_images(x, scale) for x in (x_train[train], x_train[val], x_test)]
    labels = [torch.from_numpy(y) for y in (y_train[train], y_train[val], y_test)]
    if known:
        constants, classes, augment = (known.mean, known.std), known.classes, known.augment
    else:  # from the training part alone: neither validation nor test images have a say
        std, mean = torch.std_mean(images[0], dim=(0, 2, 3), correction=0)
        std[std == 0] = 1.0  # a constant channel carries nothing; it becomes zero
        constants, augment = (tuple(mean.tolist()), tuple(std.tolist())), None
        classes = 1 + max(int(y.max()) for y in (y_train, y_test))
    mean, std = (torch.tensor(c).view(-1, 1, 1) for c in constants)
    for x in images:
        x.sub_(mean).div_(std)
    parts = [tensor for pair in zip(images, labels, strict=True) for tensor in pair]
    return Data(raw.name, classes, *parts, *constants, raw.sha256, augment)


def data_root(root: StrPath | None = None) -> Path:
    """The folder of the named data sets: the argument, else BPFREE_DATA, else the user's cache directory."""
    root = root or os.environ.get("BPFREE_DATA") or own_folder("cache")
    return given_path(root)


def _tenth(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and validation, drawn as random_split draws them in the paper's code."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    validation = max(1, n // 10)
    return order[:-validation], order[-validation:]


def _as_images(x: np.ndarray, scale: float) -> Tensor:
    """(N, H, W, C) to (N, C, H, W) float32 divided by scale; x itself is left alone."""
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    return torch.empty(x.shape).copy_(x).div_(scale)  # four times as fast as x.to(float32)


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in KEYS:
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[key]))
    return digest.hexdigest()


# ---------------------------------------------------------------- finding and checking files


@functools.cache  # they come with scikit-learn and are always the same
def _digits() -> Raw:
    """scikit-learn's 1,797 digits of 8x8 pixels, 0..16; the last 360 are the test set."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8)
    split = {"x_train": x[:-360], "y_train": y[:-360], "x_test": x[-360:], "y_test": y[-360:]}
    arrays = _checked(split, "digits")
    return Raw("digits", True, _sha256(arrays), arrays)


def _find(name: str, root: Path, download: bool) -> tuple[dict[str, np.ndarray], str | Path]:
    """The raw arrays of a published set and where they came from, for messages."""
    path = root / f"{name}.npz"
    if os.path.exists(path):
        return _read_npz(path), path
    ways = f"put {path} there ({', '.join(KEYS)}), or set BPFREE_DATA or root= to the folder that has it"
    try:
        return _unfetched(name, root), f"torchvision's {name} under {root}"
    except MissingData as error:
        if not download:
            raise MissingData(f"{error}: {ways}, or use download=True (run_all.py --download)") from error
    except InvalidInput as error:
        if not download:
            raise InvalidInput(
                f"{error}: use download=True (run_all.py --download), or put a whole one there"
            ) from error
    with refusals(root, ELSEWHERE):
        root.mkdir(parents=True, exist_ok=True)
    try:
        return _fetched(name, path), path
    except Exception as error:  # whatever sockets, archives, checksums or the disk may raise
        if getattr(error, "errno", None) in FULL + FORBIDDEN:
            with refusals(path, ELSEWHERE):
                raise
        silent = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
        why = f"no answer for {SILENCE_S:g} s" if silent else repr(error)
        raise MissingData(f"cannot download {name} ({why}): check the network, or {ways}") from error


def _fetched(name: str, path: Path) -> dict[str, np.ndarray]:
    """Downloads a published set and keeps it as `path`.

    Downloaded beside the target and renamed: an interrupted download leaves no half file. Whoever downloads
    has a lock in the folder, so that what killed ones left can be told, and is removed.
    """
    from filelock import FileLock, Timeout

    for lock in path.parent.glob(f".{name}-*/lock"):
        with suppress(OSError, Timeout):
            with FileLock(lock, timeout=0):
                pass
            shutil.rmtree(lock.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as temporary:
        folder = Path(temporary)
        with FileLock(folder / "lock"), _no_silence():
            arrays = _from_torchvision(name, folder, download=True)
            np.savez(folder / path.name, **arrays)
            os.replace(folder / path.name, path)
    return arrays


@contextmanager
def _no_silence() -> Iterator[None]:
    """Inside, a connection that is silent for `SILENCE_S` raises TimeoutError; torchvision has no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unfetched(name: str, root: Path) -> dict[str, np.ndarray]:
    """What lies under a root as it was published, or as torchvision unpacked it; nothing is written there.

    Raises MissingData if there is nothing of the set, and InvalidInput, which names the file, if not all.
    """
    known = PUBLISHED[name]
    folder, archive = root / known.folder, root / (known.archive or "no archive")
    if known.archive is None and (arrays := _read_idx(name, folder)):
        return arrays
    try:
        if archive.is_file() and not folder.exists():
            with tempfile.TemporaryDirectory() as temporary:
                with tarfile.open(archive) as packed:
                    for member in packed:
                        if member.isfile() and Path(member.name).parent == Path(known.folder):
                            target = Path(temporary, member.name)
                            target.parent.mkdir(exist_ok=True)
                            with open(target, "wb") as file:
                                shutil.copyfileobj(packed.extractfile(member), file)
                return _from_torchvision(name, temporary, download=False)
        return _from_torchvision(name, root, download=False)
    except Exception as error:
        if getattr(error, "errno", None) in FULL:  # where the archive is unpacked
            with refusals(Path(tempfile.gettempdir()), "set TMPDIR to a folder elsewhere"):
                raise
        if getattr(error, "errno", None) in FORBIDDEN:
            with refusals(root, ELSEWHERE, doing="read"):
                raise
        if "not found" not in str(error):  # torchvision's words for files that are missing or damaged
            raise InvalidInput(f"torchvision's {name} under {root} cannot be read ({error!r})") from error
        damaged = archive if archive.is_file() and not folder.exists() else _damaged(known, folder)
        if damaged is None:
            raise MissingData(f"no {name} in {root}") from error
        how = "is damaged" if damaged.exists() else "is missing"
        raise InvalidInput(f"{damaged} of torchvision's {name} {how}") from error


def _read_idx(name: str, folder: Path) -> dict[str, np.ndarray]:
    """MNIST's four files, packed or not; nothing if there are none. Raises InvalidInput for damaged ones."""
    arrays, missing = {}, []
    for split, stem in (("train", "train"), ("test", "t10k")):
        for key, kind in ((f"x_{split}", "images-idx3"), (f"y_{split}", "labels-idx1")):
            plain = folder / f"{stem}-{kind}-ubyte"
            with refusals(folder, ELSEWHERE, doing="read"):
                there = [path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()]
            missing += [] if there else [plain]
            for path in there:
                with refusals(path, ELSEWHERE, doing="read"):
                    content = path.read_bytes()
                try:
                    arrays[key] = _idx(gzip.decompress(content) if path.suffix == ".gz" else content)
                    break
                except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
                    failure = InvalidInput(f"{path} of torchvision's {name} is damaged ({error})")
            else:
                if there:
                    raise failure
    if arrays and missing:
        raise InvalidInput(f"{missing[0]} of torchvision's {name} is missing")
    return arrays


def _idx(content: bytes) -> np.ndarray:
    """The array of an idx file: two zeros, the type (8: bytes), how many dimensions, these, the numbers."""
    if content[:3] != b"\0\0\x08":
        raise ValueError("it is no idx file of bytes")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    numbers = np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * len(shape))
    if len(numbers) != math.prod(shape):
        raise ValueError(f"it has {len(numbers)} numbers for the shape {tuple(shape)}")
    return numbers.reshape(shape)


def _damaged(known: _Published, folder: Path) -> Path | None:
    """The first of CIFAR's files that is missing, or has not the MD5 sum that torchvision knows; None if all
    are missing."""
    import torchvision

    dataset = getattr(torchvision.datasets, known.torchvision)
    if not folder.is_dir():
        return None
    meta = dataset.meta["filename"], dataset.meta["md5"]
    files = {folder / name: md5 for name, md5 in (*dataset.train_list, *dataset.test_list, meta)}
    if not any(path.exists() for path in files):
        return None
    check = torchvision.datasets.utils.check_integrity
    return next((path for path, md5 in files.items() if not check(path, md5)), None)


def _from_torchvision(name: str, root: str | Path, download: bool) -> dict[str, np.ndarray]:
    import torchvision  # here, because importing it takes a second and most users have the npz

    dataset = getattr(torchvision.datasets, PUBLISHED[name].torchvision)
    arrays = {}
    for split in ("train", "test"):
        part = dataset(root, train=split == "train", download=download)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = np.asarray(part.data), np.asarray(part.targets)
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of an npz file; the error names the one that is missing or damaged."""
    needed = ", ".join(KEYS)
    with refusals(path, "give the path of another file", doing="read"):
        try:
            is_file = stat.S_ISREG(os.stat(path).st_mode)  # and no pipe, which would be waited for
            if is_file:
                open(path, "rb").close()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a zero in the path
            is_file = False
    if not is_file:
        raise MissingData(f"no file {path}: give the path of an .npz file with {needed}")
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle and say so
        raise InvalidInput(f"{path} is truncated or no npz file: write {needed} with numpy.savez")
    key, arrays = "it", {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in KEYS:
                if key in archive.files:
                    arrays[key] = archive[key]
    except Exception as error:  # zipfile, zlib and numpy's header parser each fail in their own way
        why = "it holds pickled objects, which are refused" if "allow_pickle" in str(error) else error
        raise InvalidInput(f"{path}: cannot read {key} ({why}); write {needed} with numpy.savez") from error
    for key in KEYS:  # a member that numpy did not write comes out as bytes
        if not isinstance(arrays.get(key), np.ndarray):
            raise InvalidInput(f"{path}: no array {key}; needed are {needed}, found {archive.files}")
    return arrays


def _checked(arrays: Mapping, source: object, name: str = "", known: _Published | None = None) -> dict:
    """The arrays in canonical form, x (N, H, W, C) uint8 or float32 and y (N,) int64, or InvalidInput."""

    def need(condition: bool, otherwise: str) -> None:
        if not condition:
            raise InvalidInput(f"{source}: {otherwise}")

    out = {}
    last = (known.classes if known else MAX_CLASSES) - 1
    for split in ("train", "test"):
        kx, ky = f"x_{split}", f"y_{split}"
        x, y = arrays[kx], arrays[ky]
        if known:
            shape = (getattr(known, split), *known.image)
            need(x.dtype == np.uint8, f"{kx} has dtype {x.dtype}; {name} has uint8 pixels")
            need(x.shape == shape, f"{kx} has shape {x.shape}; {name} has {shape}")
        real = x.dtype.kind == "f"
        need(real or x.dtype == np.uint8, f"{kx} has dtype {x.dtype}; allowed are uint8 and floats")
        fits = x.ndim in (2, 3) or (x.ndim == 4 and x.shape[3] <= 4)
        need(fits, f"{kx} has shape {x.shape}; allowed are (N, H, W), (N, H, W, C<=4) and (N, F)")
        need(x.size > 0, f"{kx} is empty, shape {x.shape}; at least one image is needed")
        if real:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf and is refused
                x = x.astype(np.float32, copy=False)
            bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
            need(not bad.any(), f"{kx} has NaN or infinite values, first in row {bad.argmax()}; remove them")
        need(y.dtype.kind in "iu", f"{ky} has dtype {y.dtype}; labels are integers 0 to K-1")
        need(y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1), f"{ky} has shape {y.shape}; allowed is (N,)")
        need(len(y) == len(x), f"{ky} has {len(y)} labels but {kx} {len(x)} images; one each is needed")
        low, high = y.min(), y.max()
        need(low >= 0 and high <= last, f"{ky} has labels {low} to {high}; allowed are 0 to {last}")
        out[kx] = x[:, None, :, None] if x.ndim == 2 else x[..., None] if x.ndim == 3 else x
        out[ky] = y.reshape(-1).astype(np.int64)
    a, b = out["x_train"], out["x_test"]
    need(a.shape[1:] == b.shape[1:], f"x_test has images {b.shape[1:]}, but x_train {a.shape[1:]} (H, W, C)")
    need(a.dtype == b.dtype, f"x_test has dtype {b.dtype}, but x_train {a.dtype}; give both the same")
    need(len(a) > 1, "x_train has one image; two are needed, one of them for validation")
    return out


@pinned()
def stand_in(name: str, *, augmented: bool = True) -> Data:
    """Data of the published set's sizes that need no download and no memory: every image is black.

    For exact costs, which depend on shapes only; nothing can be learned from them.

    Args:
        name: mnist, fashion_mnist, cifar10 or cifar100.
        augmented: whether CIFAR is augmented, as in the papers; its prefixes cannot be cached then.

    Raises:
        UnknownName: another name.
    """
    known = PUBLISHED[choose("published data set", name, PUBLISHED)]
    height, width, *channels = known.image
    image = torch.zeros(1, *(channels or [1]), height, width)
    parts = {}
    validation = known.validation or known.train // 10
    for split, n in (("train", known.train - validation), ("val", validation), ("test", known.test)):
        parts[f"x_{split}"] = image.expand(n, *image.shape[1:])
        parts[f"y_{split}"] = torch.arange(n) % known.classes
    data = Data(
        name, known.classes, **parts, mean=known.mean, std=known.std, sha256="", augment=known.augment
    )
    return data if augmented else replace(data, augment=None)
