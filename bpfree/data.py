"""What is learned: data sets by name, from files, and from somebody's own module.

Splits, normalisation and augmentation are those of Spyra and Dzwinel (arXiv 2509.19063 and
2511.01061): a fixed 50k/10k split for MNIST and a seeded random tenth for validation
elsewhere, per-channel mean and standard deviation, and for CIFAR a random crop from the
image padded by reflection plus a random horizontal flip. "cifar10_plain" and "cifar100_plain"
are the same without crop and flip, as Mono-Forward's authors train on them.
"""

import functools
import gzip
import inspect
import os
import shutil
import socket
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from .errors import InvalidInput, MissingData, check_seed, choose, named
from .errors.disk import FORBIDDEN, FULL, given_path, own_folder, refusals
from .training.batches import KEYS, Augmentation, Data, assembled, checked, content_hash
from .training.numerics import pinned

StrPath = str | os.PathLike
SILENCE_S = 60.0  # after which a download is given up
OTHER_DATA = "set BPFREE_DATA or root= to a folder elsewhere"


@dataclass(frozen=True)
class _Published:
    """What is known of a published data set, so that a mislabelled file is recognised: what tables call it,
    its class of torchvision's, where below a root its files lie, unpacked and not, and what they hold."""

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
    validation: int | None = None  # so many of the training images validate; None: a seeded random tenth
    scale: int = 255
    augment: Augmentation | None = None
    of: str = ""  # the set whose files these are, if not its own


# Mean and standard deviation over all training pixels, as torchvision's examples print them.
# Departure: the paper's code divides CIFAR-10 by (0.2023, 0.1994, 0.2010), a widely copied slip
# (the mean of the single images' deviations); the deviation of the pixels is the one here.
_CIFAR = {"image": (32, 32, 3), "augment": Augmentation()}
_CIFAR10 = {**_CIFAR, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_CIFAR100 = {**_CIFAR, "mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)}
#: Divided by 16, not normalised.
_DIGITS = _Published("digits", "", "", None, (8, 8), (0.0,), (1.0,), train=1437, test=360, scale=16)
_MNIST = {"archive": None, "image": (28, 28), "train": 60_000}
PUBLISHED = {
    "mnist": _Published(
        "MNIST", "MNIST", "MNIST/raw", mean=(0.1307,), std=(0.3081,), validation=10_000, **_MNIST
    ),
    "fashion_mnist": _Published(
        "Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw", mean=(0.2860,), std=(0.3530,), **_MNIST
    ),
    "cifar10": _Published("CIFAR-10", "CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz", **_CIFAR10),
    "cifar100": _Published(
        "CIFAR-100", "CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz", **_CIFAR100, classes=100
    ),
}
PUBLISHED |= {
    f"{name}_plain": replace(PUBLISHED[name], label=f"{PUBLISHED[name].label} plain", augment=None, of=name)
    for name in ("cifar10", "cifar100")
}
NAMES = ("digits", *PUBLISHED)


def is_own(name: str) -> bool:
    """Whether it is a "module:object"."""
    return ":" in str(name) and not str(name).endswith(".npz")


def dataset(name: str) -> str:
    """What tables and figures call a data set; a user's own by its file or object, wherever that lies."""
    if name in NAMES:
        return _DIGITS.label if name == "digits" else PUBLISHED[name].label
    return Path(name).name if name.endswith(".npz") else name.rpartition(":")[2]


def short(name: str) -> str:
    """Its name in bars and in the names of studies: a file's without folder and ending."""
    return Path(name).stem if name.endswith(".npz") else name


class DataSource(NamedTuple):
    """What `load` makes data of: which data these are, without holding their arrays; and the data by seed."""

    identity: tuple
    data: Callable[[int], Data]


def _checked(
    name: str, found: Mapping[str, np.ndarray], where: object, known: _Published | None
) -> DataSource:
    """Arrays as files have them, which are split, scaled and normalised; what is not known is measured."""
    arrays = checked(found, where, known.classes) if known else checked(found, where)
    names = ("mean", "std", "augment", "classes", "scale", "validation") if known else ()
    sha256, how = content_hash(arrays), {name: getattr(known, name) for name in names}
    return DataSource((name, known, sha256), partial(assembled, name, sha256, arrays, **how))


def _own(name: str) -> DataSource:
    """A `Data` that somebody's own module has, or a function that gives one, of the seed if it takes that.

    Its tensors, and its version if there is one, are part of its hash. Raises UnknownName or InvalidInput for
    anything else.
    """
    found = named(name, "data set")
    if isinstance(found, type) or not (isinstance(found, Data) or callable(found)):
        raise InvalidInput(f"data set {name!r}: it names neither a bpfree.Data nor a function")
    version = getattr(found, "version", None)

    def data(seed: int) -> Data:
        data = found
        if not isinstance(data, Data):
            try:
                signature = inspect.signature(data)
                chance = {"seed": seed} if "seed" in signature.parameters else {}
                signature.bind(**chance)
            except (TypeError, ValueError) as error:
                reason = f"{error}: make it a function without arguments, or of seed alone"
                raise InvalidInput(f"data set {name!r} cannot be called ({reason})") from None
            data = data(**chance)
        if not isinstance(data, Data) or not data.sha256:
            raise InvalidInput(f"data set {name!r} gives {data!r}: make it by bpfree.Data.from_arrays")
        # Their arrays' hash does not say which of the images train, nor what was done to them since.
        now = {key: tensor.numpy(force=True) for key, tensor in vars(data).items() if torch.is_tensor(tensor)}
        given = {"content": data.sha256, "classes": data.classes, "augment": data.augment, "version": version}
        return replace(data, sha256=content_hash(now, **given))

    return DataSource((name, found, version), data)


def check_name(name: str) -> None:
    """Raises UnknownName or InvalidInput unless it may name data; of files nothing is looked at."""
    if is_own(name):
        _own(name)
    elif not str(name).endswith(".npz"):
        choose("data set (or path of an .npz file)", name, [*NAMES, "module:object"])


def load(name: StrPath, root: StrPath | None = None, *, download: bool = False, seed: int = 0) -> Data:
    """Load a data set, on the CPU.

    name: digits (bundled with scikit-learn), mnist, fashion_mnist, cifar10, cifar100; cifar10_plain or
        cifar100_plain, the same images without augmentation; the path of an .npz file with x_train, y_train,
        x_test, y_test, and x_val, y_val or neither, as `Data.from_arrays` takes them; or "module:object" of
        your own: a `Data`, or a function that gives one, which is called with seed=... if it takes that. Its
        attribute `version`, if it has one, is part of the data's hash.
    root: folder of the named sets: `<root>/<name>.npz`, else torchvision's own files, unpacked or as they
        are published. Default: the environment variable BPFREE_DATA, else the user's cache directory.
    download: fetch a named set that is not there, or damaged, through torchvision, and keep it as .npz.
    seed: which random tenth of the training images validates; on MNIST its last 10,000 always do.

    Raises UnknownName; MissingData; InvalidInput, which names the file and the array; or StorageFailed.
    """
    check_seed(seed)
    return data_source(name, root, download=download).data(seed)


@pinned()
def data_source(name: StrPath, root: StrPath | None = None, *, download: bool = False) -> DataSource:
    """What `load` makes data of; the arguments and what it raises are those."""
    if isinstance(name, os.PathLike) or str(name).endswith(".npz"):
        path = Path(os.path.expanduser(name))  # as the user wrote it, in messages, too
        return _checked(path.name, _read_npz(path, "x_val", "y_val"), path, None)
    if is_own(name):
        return _own(name)
    check_name(name)
    if name == "digits":
        return _digits()
    known = PUBLISHED[name]
    found, source = _find(known.of or name, data_root(root), download)
    for split in ("train", "test"):
        x, shape = found[f"x_{split}"], (getattr(known, split), *known.image)
        if (x.dtype, x.shape) != (np.uint8, shape):
            what = f"x_{split} has dtype {x.dtype} and shape {x.shape}"
            raise InvalidInput(f"{source}: {what}; {name} has uint8 pixels and {shape}")
    return _checked(name, found, source, known)


def data_root(root: StrPath | None = None) -> Path:
    """The folder of the named data sets: the argument, else BPFREE_DATA, else the user's cache directory."""
    root = root or os.environ.get("BPFREE_DATA") or own_folder("cache")
    return given_path(root)


# ---------------------------------------------------------------- finding and checking files


@functools.cache  # they come with scikit-learn and are always the same
def _digits() -> DataSource:
    """scikit-learn's 1,797 digits of 8x8 pixels, 0..16; the last 360 are the test set."""
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8)
    split = {"x_train": x[:-360], "y_train": y[:-360], "x_test": x[-360:], "y_test": y[-360:]}
    return _checked("digits", split, "digits", _DIGITS)


def _find(name: str, root: Path, download: bool) -> tuple[dict[str, np.ndarray], str | Path]:
    """The raw arrays of a published set and where they came from, for messages."""
    path = root / f"{name}.npz"
    if os.path.exists(path):
        return _read_npz(path), path
    ways = f"put {path} there ({', '.join(KEYS)}), or set BPFREE_DATA or root= to the folder that has it"
    try:
        return _unfetched(name, root), f"torchvision's {name} under {root}"
    except (MissingData, InvalidInput) as error:
        if not download:
            fetch = "use download=True (run_all.py --download)"
            missing = isinstance(error, MissingData)
            what = f"{ways}, or {fetch}" if missing else f"{fetch}, or put a whole one there"
            raise type(error)(f"{error}: {what}") from error
    with refusals(root, OTHER_DATA):
        root.mkdir(parents=True, exist_ok=True)
    try:
        return _fetched(name, path), path
    except Exception as error:  # whatever sockets, archives, checksums or the disk may raise
        if getattr(error, "errno", None) in FULL + FORBIDDEN:
            with refusals(path, OTHER_DATA):
                raise
        silent = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
        why = f"no answer for {SILENCE_S:g} s" if silent else repr(error)
        raise MissingData(f"cannot download {name} ({why}): check the network, or {ways}") from error


def _fetched(name: str, path: Path) -> dict[str, np.ndarray]:
    """Downloads a published set and keeps it as `path`.

    Downloaded beside the target and renamed: an interrupted download leaves no half file. Whoever downloads
    has a lock in the folder, so that what killed ones left can be told, and is removed. A connection that is
    silent for `SILENCE_S` raises TimeoutError; torchvision has no limit.
    """
    for lock in path.parent.glob(f".{name}-*/lock"):
        with suppress(OSError, Timeout):
            with FileLock(lock, timeout=0):
                pass
            shutil.rmtree(lock.parent)
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(limit or SILENCE_S)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as temporary:
            folder = Path(temporary)
            with FileLock(folder / "lock"):
                arrays = _from_torchvision(name, folder, download=True)
                np.savez(folder / path.name, **arrays)
                os.replace(folder / path.name, path)
    finally:
        socket.setdefaulttimeout(limit)
    return arrays


def _unfetched(name: str, root: Path) -> dict[str, np.ndarray]:
    """What lies under a root as it was published, or as torchvision unpacked it; nothing is written there.

    Raises MissingData if there is nothing of the set, and InvalidInput, which names the file, if not all.
    """
    known = PUBLISHED[name]
    folder = root / known.folder
    if known.archive is None:
        return _read_idx(name, folder, root)
    archive, packed = root / known.archive, False
    try:
        packed = archive.is_file() and not folder.exists()
        if not packed:
            return _from_torchvision(name, root, download=False)
        with tempfile.TemporaryDirectory() as temporary:
            with tarfile.open(archive) as members:
                own = [m for m in members if m.isfile() and Path(m.name).parent == Path(known.folder)]
                members.extractall(temporary, own, filter="data")
            return _from_torchvision(name, temporary, download=False)
    except Exception as error:
        if getattr(error, "errno", None) in FULL:  # where the archive is unpacked
            with refusals(Path(tempfile.gettempdir()), "set TMPDIR to a folder elsewhere"):
                raise
        if getattr(error, "errno", None) in FORBIDDEN:
            with refusals(root, OTHER_DATA, doing="read"):
                raise
        if "not found" not in str(error):  # torchvision's words for files that are missing or damaged
            raise InvalidInput(f"torchvision's {name} under {root} cannot be read ({error!r})") from error
        damaged = archive if packed else _damaged(known, folder)
        if damaged is None:
            raise MissingData(f"no {name} in {root}") from error
        how = "is damaged" if damaged.exists() else "is missing"
        raise InvalidInput(f"{damaged} of torchvision's {name} {how}") from error


def _read_idx(name: str, folder: Path, root: Path) -> dict[str, np.ndarray]:
    """MNIST's four files, packed or not; raises as `_unfetched`."""
    arrays, failures, seen = {}, [], False
    files = {"x_train": "train-images-idx3", "y_train": "train-labels-idx1"}
    files |= {"x_test": "t10k-images-idx3", "y_test": "t10k-labels-idx1"}
    for key, file in files.items():
        plain = folder / f"{file}-ubyte"
        failures.append(f"{plain} of torchvision's {name} is missing")
        for path in (plain, plain.with_name(f"{plain.name}.gz")):
            with refusals(path, OTHER_DATA, doing="read"):
                content = path.read_bytes() if path.is_file() else None
            if content is None:
                continue
            seen = True
            try:
                content = gzip.decompress(content) if path.suffix == ".gz" else content
                arrays[key] = _idx(content)
                failures.pop()
                break
            except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
                failures[-1] = f"{path} of torchvision's {name} is damaged ({error})"
    if not seen:
        raise MissingData(f"no {name} in {root}")
    if failures:
        raise InvalidInput(failures[0])
    return arrays


def _idx(content: bytes) -> np.ndarray:
    """The array of an idx file: two zeros, the type (8: bytes), how many dimensions, these, the numbers."""
    if content[:3] != b"\0\0\x08":
        raise ValueError("it is no idx file of bytes")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    return np.frombuffer(bytearray(content), np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


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


def _read_npz(path: Path, *more: str) -> dict[str, np.ndarray]:
    """The four arrays of an npz file, and `more` if it has them; the error names one that is missing or
    damaged."""
    needed = ", ".join(KEYS)
    with refusals(path, "give the path of another file", doing="read"):
        is_file = path.is_file()  # and no pipe, which would be waited for
        if is_file:
            open(path, "rb").close()
    if not is_file:
        raise MissingData(f"no file {path}: give the path of an .npz file with {needed}")
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle and say so
        raise InvalidInput(f"{path} is truncated or no npz file: write {needed} with numpy.savez")
    key, arrays = "it", {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in (k for k in (*KEYS, *more) if k in archive.files):
                arrays[key] = archive[key]
    except Exception as error:  # zipfile, zlib and numpy's header parser each fail in their own way
        why = "it holds pickled objects, which are refused" if "allow_pickle" in str(error) else error
        raise InvalidInput(f"{path}: cannot read {key} ({why}); write {needed} with numpy.savez") from error
    for key in (*KEYS, *arrays):  # a member that numpy did not write comes out as bytes
        if not isinstance(arrays.get(key), np.ndarray):
            raise InvalidInput(f"{path}: no array {key}; needed are {needed}, found {archive.files}")
    return arrays


@pinned()
def stand_in(name: str, *, augmented: bool = True) -> Data:
    """Data of a published set's sizes that need no download and no memory: every image is black.

    For exact costs, which depend on shapes only. augmented: whether CIFAR is, as in the papers; its prefixes
    cannot be cached then. Raises UnknownName for a set that is not in `PUBLISHED`.
    """
    known = PUBLISHED[choose("published data set", name, PUBLISHED)]
    height, width, *channels = known.image
    image = torch.zeros(1, *(channels or [1]), height, width)
    validation = known.validation or known.train // 10
    sizes = known.train - validation, validation, known.test
    parts = [x for n in sizes for x in (image.expand(n, -1, -1, -1), torch.arange(n) % known.classes)]
    return Data(name, known.classes, *parts, known.mean, known.std, "", known.augment if augmented else None)
