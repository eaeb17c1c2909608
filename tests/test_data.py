"""Data sets: splits, normalisation, augmentation against torchvision, and what is said of bad files."""

import errno
import gzip
import hashlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.error
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from filelock import FileLock
from sklearn.datasets import load_digits
from torch.utils.data import random_split
from torchvision.transforms import Normalize

import bpfree
from bpfree.data import PUBLISHED, load
from bpfree.errors import (
    BpfreeError,
    InvalidInput,
    MissingData,
    StorageFailed,
    TrainingDiverged,
    UnknownName,
    choose,
)
from bpfree.experiments.experiment import Experiment
from bpfree.training.batches import Augmentation, batches

KEYS = ("x_train", "y_train", "x_test", "y_test")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def arrays_of(image: tuple = (6, 5), classes: int = 3, train: int = 40, test: int = 9) -> dict:
    """A small data set of noise in which every image and every class occurs."""
    rng = np.random.default_rng(0)
    out = {}
    for split, n in (("train", train), ("test", test)):
        out[f"x_{split}"] = rng.integers(0, 256, (n, *image), dtype=np.uint8)
        out[f"y_{split}"] = (np.arange(n) % classes).astype(np.uint8)
    return out


def write(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def message(error: pytest.ExceptionInfo) -> str:
    """The error's text, having checked that it is one of bpfree's own and one line."""
    text = str(error.value)
    assert isinstance(error.value, BpfreeError)
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def no_data_of_the_user(monkeypatch):
    monkeypatch.delenv("BPFREE_DATA", raising=False)


@pytest.fixture
def small(monkeypatch):
    """Published sets cut to a size that tests can write: 60 training and 20 test images."""
    for name, known in PUBLISHED.items():
        last = 10 if known.validation else None
        monkeypatch.setitem(PUBLISHED, name, replace(known, train=60, test=20, validation=last))
    return lambda name: arrays_of(PUBLISHED[name].image, PUBLISHED[name].classes, 60, 20)


# ---------------------------------------------------------------- augmentation


@pytest.mark.parametrize(("h", "w", "pad", "flip"), [(32, 32, 4, True), (7, 5, 2, True), (6, 6, 5, False)])
def test_every_view_is_the_crop_and_flip_of_torchvision(h, w, pad, flip):
    augment, k = Augmentation(pad, flip), 2 * pad + 1
    view = torch.arange(augment.views)
    images = torch.randn(augment.views, 3, h, w, generator=generator())
    seen = augment.apply(images, view)
    for i, image in enumerate(tvf.pad(images, [pad], padding_mode="reflect")):
        flipped, top, left = i // k**2, i // k % k, i % k
        expected = tvf.crop(image, top, left, h, w)
        expected = tvf.hflip(expected) if flipped else expected
        assert torch.equal(seen[i], expected), (flipped, top, left)
    assert augment.views == k**2 * (2 if flip else 1)


def test_views_are_drawn_uniformly_and_include_the_unchanged_image():
    augment = Augmentation(pad=1)
    counts = torch.bincount(augment.draw(18_000, generator()), minlength=18)
    assert len(counts) == augment.views == 18
    # Pearson's statistic of a uniform draw has 17 degrees of freedom: above 40.8 once in a thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 40.8
    image = torch.randn(1, 3, 4, 4, generator=generator())
    assert torch.equal(augment.apply(image, torch.tensor([1 * 3 + 1])), image)  # top = left = pad, no flip


def test_batches_are_augmented_by_the_views_that_their_generator_draws_after_the_order():
    x, augment, chance = torch.randn(9, 2, 5, 5, generator=generator(1)), Augmentation(2), generator(5)
    order = torch.randperm(9, generator=chance)[:8].split(4)
    views = [augment.draw(4, chance) for _ in order]
    seen = list(batches(x, torch.arange(9), 4, generator(5), augment))
    for (images, rows), expected, view in zip(seen, order, views, strict=True):
        assert torch.equal(rows, expected)
        assert torch.equal(images, augment.apply(x[rows], view))


def test_padding_that_exceeds_the_image_is_refused():
    with pytest.raises(InvalidInput) as error:
        Augmentation(pad=4).apply(torch.zeros(1, 1, 4, 9), torch.tensor([0]))
    assert "pad=4" in message(error)
    assert "0 to 3" in message(error)


# ---------------------------------------------------------------- batches


def test_an_epoch_shows_every_image_once_but_the_short_rest():
    y = torch.arange(23)
    x = y[:, None].float()
    seen = list(batches(x, y, 5, generator(3)))
    assert [len(labels) for _, labels in seen] == [5] * 4
    labels = torch.cat([labels for _, labels in seen])
    assert torch.equal(torch.cat([images for images, _ in seen]).flatten().long(), labels)
    assert len(labels.unique()) == 20
    assert torch.equal(labels, torch.randperm(23, generator=generator(3))[:20])
    assert not torch.equal(labels, y[:20])


def test_fewer_images_than_a_batch_are_one_batch():
    y = torch.arange(3)
    (only,) = batches(y, y, 128, generator())
    assert only[1].sort().values.tolist() == [0, 1, 2]
    with pytest.raises(InvalidInput, match="batch_size=0"):
        batches(y, y, 0, generator())


def test_the_generator_alone_decides_an_augmented_epoch(small, tmp_path):
    write(tmp_path / "cifar10.npz", **small("cifar10"))
    data = load("cifar10", tmp_path)

    def images(seed, **options):
        return torch.cat([x for x, _ in data.epoch(8, generator(seed), **options)])

    torch.manual_seed(0)
    first = images(4)
    torch.manual_seed(1)
    assert torch.equal(first, images(4))
    assert not torch.equal(first, images(5))
    plain = images(4, augment=False)
    order = torch.randperm(len(data.x_train), generator=generator(4))
    assert torch.equal(plain, data.x_train[order[: len(plain)]])
    assert not torch.equal(first, plain)


# ---------------------------------------------------------------- what is loaded


def test_digits_are_the_bundled_ones_divided_by_16_with_the_last_360_for_the_test():
    data, bunch = load("digits"), load_digits()
    assert (data.shape, data.features, data.classes, data.augment) == ((1, 8, 8), 64, 10, None)
    assert torch.equal(data.x_test[:, 0], torch.from_numpy(bunch.images[-360:]).float() / 16)
    assert torch.equal(data.y_test, torch.from_numpy(bunch.target[-360:]))
    part, rest = (len(data.x_val), len(data.x_train))
    assert (part, part + rest) == (143, 1437)
    # The split shuffles but neither loses nor repeats an image, and keeps each with its label.
    rows = torch.cat(
        [
            torch.cat([data.x_train, data.x_val]).flatten(1) * 16,
            torch.cat([data.y_train, data.y_val])[:, None],
        ],
        1,
    )
    expected = np.column_stack([bunch.data[:-360], bunch.target[:-360]])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))


def test_the_random_validation_split_is_random_split_of_the_same_seed(small, tmp_path):
    arrays = small("fashion_mnist")
    write(tmp_path / "fashion_mnist.npz", **arrays)
    for seed in (0, 7):
        data = load("fashion_mnist", tmp_path, seed=seed)
        train, val = random_split(range(60), [54, 6], generator=generator(seed))
        y = torch.from_numpy(arrays["y_train"].astype(np.int64))
        assert torch.equal(data.y_train, y[train.indices])
        assert torch.equal(data.y_val, y[val.indices])
    torch.manual_seed(0)  # the global stream has no say
    again = load("fashion_mnist", tmp_path, seed=7)
    assert torch.equal(again.x_val, data.x_val)
    assert not torch.equal(load("fashion_mnist", tmp_path, seed=0).x_val, data.x_val)
    assert load("fashion_mnist", tmp_path, seed=0).sha256 == data.sha256


def test_mnist_validates_on_its_last_images_whatever_the_seed(small, tmp_path):
    arrays = small("mnist")
    write(tmp_path / "mnist.npz", **arrays)
    for seed in (0, 1):
        data = load("mnist", tmp_path, seed=seed)
        assert data.y_train.tolist() == arrays["y_train"][:50].tolist()
        assert data.y_val.tolist() == arrays["y_train"][50:].tolist()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_normalisation_is_torchvisions_to_the_bit(small, tmp_path, name):
    arrays = small(name)
    write(tmp_path / f"{name}.npz", **arrays)
    data, known = load(name, tmp_path), PUBLISHED[name]
    normalise = Normalize(known.mean, known.std)
    for image, raw in zip(data.x_test, arrays["x_test"], strict=True):
        assert torch.equal(image, normalise(tvf.to_tensor(raw)))
    assert (data.mean, data.std) == (known.mean, known.std)
    assert data.x_train.dtype == torch.float32
    assert data.x_train.is_contiguous()


def test_which_sets_are_augmented(small, tmp_path):
    augmented = {"cifar10", "cifar100"}
    for name in PUBLISHED:
        if not name.endswith("_plain"):  # these read the others' files
            write(tmp_path / f"{name}.npz", **small(name))
    for name in PUBLISHED:
        expected = Augmentation(pad=4, flip=True) if name in augmented else None
        assert load(name, tmp_path).augment == expected
    assert load("cifar100", tmp_path).classes == 100


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_plain_sets_are_the_same_images_of_the_same_files(small, tmp_path, name):
    write(tmp_path / f"{name}.npz", **small(name))
    augmented, plain = load(name, tmp_path, seed=3), load(f"{name}_plain", tmp_path, seed=3)
    for part in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"):
        assert torch.equal(getattr(augmented, part), getattr(plain, part))
    assert (plain.name, plain.augment, plain.sha256) == (f"{name}_plain", None, augmented.sha256)
    runs = [Experiment("mf", data, device="cpu").resolve(load(data, tmp_path)) for data in (name, plain.name)]
    assert runs[0].key != runs[1].key
    assert runs[0].architecture == runs[1].architecture == "3x2000"


@pytest.mark.parametrize(
    ("image", "shape"),
    [((6, 5), (1, 6, 5)), ((6, 5, 3), (3, 6, 5)), ((6, 5, 1), (1, 6, 5)), ((7,), (1, 1, 7))],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float32, ">f4"])
def test_users_own_arrays_are_normalised_by_their_training_images(tmp_path, image, shape, dtype):
    arrays = arrays_of(image)
    unit = arrays["x_test"] / 255  # float64
    if dtype != np.uint8:
        for key in ("x_train", "x_test"):
            arrays[key] = (arrays[key] / 255).astype(dtype)
    data = load(write(tmp_path / "own.npz", **arrays))
    assert (data.name, data.classes, data.shape, data.augment) == ("own.npz", 3, shape, None)
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (36, 4, 9)
    assert torch.allclose(data.x_train.mean((0, 2, 3)), torch.zeros(shape[0]), atol=1e-5)
    assert torch.allclose(data.x_train.std((0, 2, 3), correction=0), torch.ones(shape[0]), atol=1e-5)
    mean, std = (torch.tensor(c, dtype=torch.float64).view(-1, 1, 1) for c in (data.mean, data.std))
    channels_last = torch.from_numpy(unit).reshape(9, shape[1], shape[2], shape[0])
    assert torch.allclose(data.x_test.double() * std + mean, channels_last.permute(0, 3, 1, 2), atol=1e-6)
    assert load(str(tmp_path / "own.npz")).sha256 == data.sha256


def test_a_constant_channel_becomes_zero_and_a_class_may_be_missing(tmp_path):
    arrays = arrays_of((4, 4, 2))
    arrays["x_train"][..., 1] = 9
    arrays["y_train"] = arrays["y_train"].astype(">i8")[:, None]  # Keras gives CIFAR's labels as (N, 1)
    arrays["y_test"] = np.full(9, 6, np.uint64)
    data = load(write(tmp_path / "a.npz", **arrays))
    assert data.classes == 7
    assert data.x_train[:, 1].abs().max() == 0
    assert data.y_train.shape == (36,)
    assert {getattr(data, f"y_{part}").dtype for part in ("train", "val", "test")} == {torch.int64}


def test_the_hash_identifies_the_arrays_not_the_file(tmp_path):
    arrays = arrays_of()
    first = load(write(tmp_path / "a.npz", **arrays)).sha256
    np.savez_compressed(tmp_path / "b.npz", **{k: arrays[k] for k in reversed(KEYS)})
    assert load(tmp_path / "b.npz").sha256 == first
    wider = {k: v.astype(np.int64) if k[0] == "y" else v for k, v in arrays.items()}
    assert load(write(tmp_path / "c.npz", **wider)).sha256 == first
    for key in KEYS:
        changed = {k: v.copy() for k, v in arrays.items()}
        changed[key].flat[0] = 2
        assert load(write(tmp_path / "d.npz", **changed)).sha256 != first, key
    turned = arrays | {
        "x_train": arrays["x_train"].reshape(40, 5, 6),
        "x_test": arrays["x_test"].reshape(9, 5, 6),
    }
    assert load(write(tmp_path / "e.npz", **turned)).sha256 != first


def test_moving_to_the_device_it_is_on_returns_the_same_object():
    data = load("digits")
    assert data.to("cpu") is data
    assert data.to(torch.device("cpu")) is data
    meta = data.to("meta")  # the one other device that every machine has
    assert {v.device.type for v in vars(meta).values() if isinstance(v, torch.Tensor)} == {"meta"}
    assert (meta.name, meta.sha256, meta.shape) == (data.name, data.sha256, data.shape)
    assert "train=1294, val=143, test=360" in repr(data)


def test_importing_the_module_stays_quick():
    """Neither torchvision nor scikit-learn, each about a second, is imported before it is needed."""
    code = "import sys, bpfree.data; print([m for m in ('torchvision', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---------------------------------------------------------------- where it is looked for


def test_root_is_the_argument_then_the_environment_then_the_cache(small, tmp_path, monkeypatch):
    for folder in ("argument", "environment", "cache"):
        (tmp_path / folder).mkdir()
        arrays = small("mnist")
        arrays["x_train"][0] = len(folder)
        write(tmp_path / folder / "mnist.npz", **arrays)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache"))

    def found(root=None):
        x = load("mnist", root).x_train[0] * 0.3081 + 0.1307
        return round(float(x.mean() * 255))

    assert found() == len("cache")
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path / "environment"))
    assert found() == len("environment")
    assert found(tmp_path / "argument") == len("argument")


def fake_torchvision(monkeypatch, name, arrays, on_disk=False, failure=None):
    """Replace torchvision's class by one of the same interface; returns the calls it received."""
    import torchvision

    calls = []

    def dataset(root, train=True, download=False):
        calls.append((Path(root), train, download))
        if not (download or on_disk):
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        if failure:
            raise failure
        split = "train" if train else "test"
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if name in ("mnist", "fashion_mnist"):  # torchvision gives tensors here, an array and a list there
            return SimpleNamespace(data=torch.from_numpy(x), targets=torch.from_numpy(y).long())
        return SimpleNamespace(data=x, targets=[int(label) for label in y])

    monkeypatch.setattr(torchvision.datasets, PUBLISHED[name].torchvision, dataset)
    return calls


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar100"])
def test_download_is_kept_as_npz_and_equals_it(small, tmp_path, monkeypatch, name):
    arrays, root = small(name), tmp_path / "new" / "root"
    calls = fake_torchvision(monkeypatch, name, arrays)
    downloaded = load(name, root, download=True)
    fetched = [(folder, train) for folder, train, download in calls if download]
    assert [train for _, train in fetched] == [True, False]
    assert fetched[0][0].parent == root  # on the target's own file system, so that it can be renamed
    assert os.listdir(root) == [f"{name}.npz"]  # nothing temporary is left
    calls.clear()
    again = load(name, root)
    assert not calls
    assert again.sha256 == downloaded.sha256 == load(name, root=root, download=True).sha256
    assert torch.equal(again.x_train, downloaded.x_train)
    assert torch.equal(again.y_test, torch.from_numpy(arrays["y_test"]).long())


def test_torchvisions_own_files_serve_without_download_and_nothing_is_written(small, tmp_path, monkeypatch):
    arrays = small("cifar10")
    calls = fake_torchvision(monkeypatch, "cifar10", arrays, on_disk=True)
    data = load("cifar10", tmp_path)
    assert calls == [(tmp_path, True, False), (tmp_path, False, False)]
    assert os.listdir(tmp_path) == []
    write(tmp_path / "cifar10.npz", **arrays)
    assert load("cifar10", tmp_path).sha256 == data.sha256


def write_idx(raw: Path, arrays: dict, suffix: str = "") -> dict[str, Path]:
    """MNIST's four files by the array they hold, written by hand, packed where the suffix says so."""
    raw.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        for key, kind in ((f"x_{split}", "images-idx3"), (f"y_{split}", "labels-idx1")):
            a = arrays[key]
            content = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">i4").tobytes() + a.tobytes()
            files[key] = raw / f"{stem}-{kind}-ubyte{suffix}"
            files[key].write_bytes(gzip.compress(content) if suffix else content)
    return files


def write_cifar(root: Path, arrays: dict, monkeypatch) -> dict[str, Path]:
    """CIFAR-10's files by name, with their sums where torchvision has those of the real ones."""
    import torchvision

    folder, files = root / PUBLISHED["cifar10"].folder, {}
    folder.mkdir(parents=True)

    def put(name: str, **content) -> list[str]:
        files[name] = folder / name
        files[name].write_bytes(pickle.dumps(content))
        return [name, hashlib.md5(files[name].read_bytes()).hexdigest()]

    def batch(name: str, x, y) -> list[str]:
        return put(name, data=x.transpose(0, 3, 1, 2).reshape(len(x), -1), labels=y.tolist())

    x, y = arrays["x_train"], arrays["y_train"]
    cifar = torchvision.datasets.CIFAR10
    lists = [batch("data_batch_1", x[:30], y[:30]), batch("data_batch_2", x[30:], y[30:])]
    monkeypatch.setattr(cifar, "train_list", lists)
    monkeypatch.setattr(cifar, "test_list", [batch("test_batch", arrays["x_test"], arrays["y_test"])])
    name, md5 = put("batches.meta", label_names=[str(k) for k in range(10)])
    monkeypatch.setattr(cifar, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnists_own_files_are_read_packed_or_not(small, tmp_path, suffix):
    arrays = small("mnist")
    files = write_idx(tmp_path / "MNIST" / "raw", arrays, suffix)
    data, before = load("mnist", tmp_path), sorted(tmp_path.rglob("*"))
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written
    write(tmp_path / "mnist.npz", **arrays)
    assert load("mnist", tmp_path).sha256 == data.sha256
    (tmp_path / "mnist.npz").unlink()
    for key, file in files.items():
        good = file.read_bytes()
        for bad in (good[:-5], b"", bytes(len(good)), b"<html>404</html>", good[:9], b"\0\0\x08\xff"):
            file.write_bytes(bad)
            with pytest.raises(InvalidInput) as error:
                load("mnist", tmp_path)
            for said in (f"{file} of torchvision's mnist is damaged", "use download=True", "put a whole one"):
                assert said in message(error), key
        file.unlink()
        with pytest.raises(InvalidInput, match=f"{stem_of(file)} of torchvision's mnist is missing"):
            load("mnist", tmp_path)
        file.write_bytes(good)
    assert load("mnist", tmp_path).sha256 == data.sha256


def stem_of(file: Path) -> str:
    return file.name.removesuffix(".gz")


def test_a_file_half_unpacked_beside_its_archive_is_passed_over(small, tmp_path):
    packed = write_idx(tmp_path / "FashionMNIST" / "raw", small("fashion_mnist"), ".gz")
    expected = load("fashion_mnist", tmp_path).sha256
    for file in packed.values():
        file.with_suffix("").write_bytes(b"\0\0\x08\x03")
    assert load("fashion_mnist", tmp_path).sha256 == expected


def test_cifars_own_files_are_read_packed_or_not(small, tmp_path, monkeypatch):
    arrays = small("cifar10")
    files = write_cifar(tmp_path, arrays, monkeypatch)
    unpacked = load("cifar10", tmp_path).sha256
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(files["test_batch"].parent, files["test_batch"].parent.name)
        outside = tarfile.TarInfo("../outside")
        archive.addfile(outside)
    shutil.rmtree(files["test_batch"].parent)
    assert load("cifar10", tmp_path).sha256 == unpacked
    assert os.listdir(tmp_path) == ["cifar-10-python.tar.gz"]  # nothing is written
    content = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    for bad in (content[: len(content) // 2], b"", b"<html>"):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(bad)
        with pytest.raises(InvalidInput) as error:
            load("cifar10", tmp_path)
        assert "torchvision's cifar10" in message(error)
        assert "use download=True" in message(error)


def test_a_damaged_or_missing_batch_is_named(small, tmp_path, monkeypatch):
    files = write_cifar(tmp_path, small("cifar10"), monkeypatch)
    for file in files.values():
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        for what in ("damaged", "missing"):
            with pytest.raises(InvalidInput) as error:
                load("cifar10", tmp_path)
            for said in (f"{file} of torchvision's cifar10 is {what}", "download=True", "put a whole one"):
                assert said in message(error)
            file.unlink(missing_ok=True)
        file.write_bytes(good)
    for file in files.values():
        file.unlink()
    with pytest.raises(MissingData, match="no cifar10 in"):  # an empty folder
        load("cifar10", tmp_path)


def test_what_is_damaged_is_downloaded_where_that_is_asked_for(small, tmp_path, monkeypatch):
    arrays = small("mnist")
    write_idx(tmp_path / "MNIST" / "raw", arrays)["x_test"].write_bytes(b"half")
    fake_torchvision(monkeypatch, "mnist", arrays)
    data = load("mnist", tmp_path, download=True)
    assert load("mnist", tmp_path).sha256 == data.sha256


def test_missing_data_names_the_three_ways(tmp_path):
    with pytest.raises(MissingData) as error:
        load("cifar100", tmp_path / "nowhere")
    text = message(error)
    for way in (
        str(tmp_path / "nowhere" / "cifar100.npz"),
        "BPFREE_DATA",
        "root=",
        "download=True",
        "--download",
    ):
        assert way in text
    assert isinstance(error.value, FileNotFoundError)
    with pytest.raises(MissingData, match=r"no file .*absent\.npz"):
        load(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError("Name or service not known"), RuntimeError("Error\ndownloading"), EOFError()],
)
def test_a_failed_download_leaves_nothing_and_says_so(small, tmp_path, monkeypatch, failure):
    fake_torchvision(monkeypatch, "mnist", small("mnist"), failure=failure)
    with pytest.raises(MissingData) as error:
        load("mnist", tmp_path, download=True)
    assert "cannot download mnist" in message(error)
    assert type(failure).__name__ in message(error)
    assert os.listdir(tmp_path) == []


def test_a_silent_server_has_a_time_limit(small, tmp_path, monkeypatch):
    """One that takes the connection and never answers; the caller's own limit is put back."""
    import torchvision

    monkeypatch.setattr("bpfree.data.SILENCE_S", 0.2)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address])
        with pytest.raises(MissingData) as error:
            load("fashion_mnist", tmp_path, download=True)
    assert "cannot download fashion_mnist (no answer for 0.2 s): check the network" in message(error)
    assert os.listdir(tmp_path) == []
    assert socket.getdefaulttimeout() is None


def test_what_a_killed_download_left_is_removed_by_the_next_but_not_one_that_goes_on(
    small, tmp_path, monkeypatch
):
    fake_torchvision(monkeypatch, "mnist", small("mnist"))
    folders = [tmp_path / name for name in (".mnist-killed", ".mnist-goes-on", ".cifar10-other")]
    for folder in folders:
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "half").write_bytes(b"half")
    with FileLock(folders[1] / "lock"):
        load("mnist", tmp_path, download=True)
        assert [folder.exists() for folder in folders] == [False, True, True]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("where", ["mkdir", "savez"])
def test_a_disk_that_refuses_a_download_is_not_taken_for_the_network(
    small, tmp_path, monkeypatch, number, where
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    fake_torchvision(monkeypatch, "mnist", small("mnist"))
    monkeypatch.setattr(*((Path, "mkdir") if where == "mkdir" else (np, "savez")), refuse)
    with pytest.raises(StorageFailed) as error:
        load("mnist", tmp_path, download=True)
    for said in (str(tmp_path), os.strerror(number), "BPFREE_DATA"):
        assert said in message(error)
    assert "network" not in message(error)
    assert "BPFREE_STORE" not in message(error)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- what is refused


def test_unknown_names_list_the_allowed_and_suggest_the_nearest():
    for name, near in (("fashion-mnist", "fashion_mnist"), ("MNIST", "mnist"), ("cifar", "cifar10")):
        with pytest.raises(UnknownName) as error:
            load(name)
        text = message(error)
        assert repr(name) in text
        assert f"did you mean '{near}'" in text
        assert all(known in text for known in ("digits", *PUBLISHED, ".npz"))
    with pytest.raises(UnknownName) as error:
        load(3)
    assert "did you mean" not in message(error)


def changed(**changes):
    return lambda arrays: arrays | {k: f(arrays[k]) for k, f in changes.items()}


BAD = {  # what is done to a good data set of uint8 images, and what the error must name
    "missing": (lambda a: {k: v for k, v in a.items() if k != "y_test"}, ["no array y_test", "x_train"]),
    "objects": (changed(x_test=lambda x: np.array([{}] * 9)), ["x_test", "pickled"]),
    "lengths": (changed(y_train=lambda y: y[:-1]), ["y_train has 39 labels", "x_train 40"]),
    "dtype": (changed(**{k: lambda x: x.astype(np.int64) for k in KEYS}), ["x_train", "int64", "uint8"]),
    "mixed": (changed(x_test=lambda x: x / 255), ["x_test", "float32", "uint8"]),
    "strings": (changed(y_test=lambda y: y.astype(str)), ["y_test", "integers"]),
    "fractions": (changed(y_train=lambda y: y + 0.5), ["y_train", "float64", "integers"]),
    "channels first": (
        changed(x_train=lambda x: np.stack([x, x, x], 1)),
        ["x_train", "(40, 3, 6, 5)", "(N, H, W, C<=4)"],
    ),
    "scalar": (changed(x_test=lambda x: np.uint8(3)), ["x_test", "shape ()"]),
    "one-hot": (changed(y_train=lambda y: np.eye(3, dtype=int)[y]), ["y_train", "(40, 3)"]),
    "no labels": (changed(y_test=lambda y: np.int64(2)), ["y_test", "shape ()"]),
    "sizes": (changed(x_test=lambda x: x[:, :-1]), ["x_test", "(5, 5, 1)", "(6, 5, 1)"]),
    "empty": (changed(x_test=lambda x: x[:0], y_test=lambda y: y[:0]), ["x_test is empty"]),
    "no pixels": (changed(x_train=lambda x: x[:, :0]), ["x_train is empty"]),
    "single": (changed(x_train=lambda x: x[:1], y_train=lambda y: y[:1]), ["x_train has one image"]),
    "negative": (changed(y_test=lambda y: y.astype(int) - 1), ["y_test", "labels -1 to 1"]),
    "huge": (changed(y_test=lambda y: y.astype(int) + 10**6), ["y_test", "1000002", "0 to 65535"]),
    "one class": (changed(y_train=lambda y: y * 0, y_test=lambda y: y * 0), ["at least two classes"]),
}


def test_a_file_may_have_images_of_its_own_that_validate(tmp_path):
    arrays = arrays_of()
    arrays |= {"x_val": arrays["x_test"][:4], "y_val": arrays["y_test"][:4]}
    data = load(write(tmp_path / "own.npz", **arrays))
    same = bpfree.Data.from_arrays(**arrays)
    assert torch.equal(data.x_val, same.x_val)
    assert (len(data.x_train), len(data.x_val), data.sha256) == (40, 4, same.sha256)
    arrays.pop("y_val")
    with pytest.raises(InvalidInput, match="x_val and y_val belong together"):
        load(write(tmp_path / "half.npz", **arrays))


@pytest.mark.parametrize("case", BAD)
def test_a_mislabelled_file_is_named_with_its_array(tmp_path, case):
    change, named = BAD[case]
    path = write(tmp_path / "own.npz", **change(arrays_of()))
    with pytest.raises(InvalidInput) as error:
        load(path)
    for text in (str(path), *named):
        assert text in message(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])  # the last is finite, but not as float32
def test_floats_that_are_not_finite_are_refused_with_their_row(tmp_path, value):
    arrays = changed(x_train=lambda x: x / 255, x_test=lambda x: x / 255)(arrays_of())
    arrays["x_test"][4, 2, 1] = value
    with pytest.raises(InvalidInput) as error:
        load(write(tmp_path / "own.npz", **arrays))
    assert "x_test has NaN or infinite values, first in row 4" in message(error)


BAD_PUBLISHED = {
    "dtype": (changed(x_test=lambda x: x / 255), ["x_test", "float64", "uint8"]),
    "shape": (changed(x_train=lambda x: x[:, :28, :28, 0]), ["x_train", "(60, 28, 28)", "(60, 32, 32, 3)"]),
    "truncated": (
        changed(x_train=lambda x: x[:50], y_train=lambda y: y[:50]),
        ["x_train", "(50, 32, 32, 3)"],
    ),
    "label": (changed(y_test=lambda y: y + 1), ["y_test", "labels 1 to 10", "0 to 9"]),
}


@pytest.mark.parametrize("case", BAD_PUBLISHED)
def test_a_file_that_is_not_the_published_set_is_refused(small, tmp_path, case):
    change, named = BAD_PUBLISHED[case]
    path = write(tmp_path / "cifar10.npz", **change(small("cifar10")))
    with pytest.raises(InvalidInput) as error:
        load("cifar10", tmp_path)
    for text in (str(path), *named):
        assert text in message(error)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused(tmp_path, save):
    """Cut short anywhere, or one byte of an array changed: never an array of wrong pixels."""
    path = tmp_path / "own.npz"
    save(path, **arrays_of())
    good = path.read_bytes()
    for cut in (0, 3, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(InvalidInput) as error:
            load(path)
        assert str(path) in message(error)
    path.write_bytes(good)
    with zipfile.ZipFile(path) as z:
        members = {info.filename: info for info in z.infolist()}
    for key in KEYS:
        start = members[f"{key}.npy"].header_offset + 30 + len(f"{key}.npy") + 40
        for offset in (start, start + members[f"{key}.npy"].compress_size // 2):
            broken = bytearray(good)
            broken[offset] ^= 0x55
            path.write_bytes(broken)
            with pytest.raises(InvalidInput) as error:
                load(path)
            assert f"cannot read {key}" in message(error)


def test_what_is_no_file_that_may_be_read_is_said_to_be_that(tmp_path, monkeypatch):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")  # which would be waited for
    for path in ("folder.npz", "pipe.npz", "none/own.npz", "a\0b.npz", "~nobody-here/own.npz"):
        with pytest.raises(MissingData, match="no file"):
            load(str(tmp_path / path) if path[0] != "~" else path)
    path = write(tmp_path / "own.npz", **arrays_of())

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for function in ("builtins.open", "os.stat"):
        with monkeypatch.context() as patch:
            patch.setattr(function, refuse)
            with pytest.raises(StorageFailed) as error:
                load(path)
        for said in (str(path), "cannot be read (Permission denied)", "make it readable"):
            assert said in message(error)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_root_that_may_not_be_looked_into_is_said_to_be_that(name, tmp_path, monkeypatch):
    """As another user's home."""
    look = os.stat

    def refuse(path, *args, **kwargs):
        if str(path).startswith(str(tmp_path / "theirs")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(StorageFailed) as error:
        load(name, tmp_path / "theirs")
    for said in (str(tmp_path / "theirs"), "cannot be read (Permission denied)", "make it readable"):
        assert said in message(error)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps({"x_train": 1}), b"PK\x03\x04"])
def test_files_that_are_no_archives_are_refused(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InvalidInput) as error:
        load(tmp_path / "own.npz")
    assert "truncated or no npz file" in message(error)


def test_foreign_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as z:
        for key in KEYS:
            z.writestr(f"{key}.npy", "1,2,3")
    with pytest.raises(InvalidInput) as error:
        load(tmp_path / "own.npz")
    assert "x_train" in message(error)


# ---------------------------------------------------------------- errors


def test_choose_returns_the_name_or_explains():
    assert choose("algorithm", "mf", iter(["bp", "mf"])) == "mf"
    with pytest.raises(UnknownName) as error:
        choose("algorithm", "ba\nckprop", ["Backprop", "mf"])
    assert (
        message(error) == r"unknown algorithm 'ba\nckprop': did you mean 'Backprop'? allowed are Backprop, mf"
    )
    assert isinstance(error.value, ValueError)
    with pytest.raises(UnknownName, match="unknown algorithm None: allowed are bp, mf"):
        choose("algorithm", None, ["bp", "mf"])


def test_errors_are_one_line_and_survive_pickling():
    assert str(InvalidInput("two\nlines")) == "two lines"
    error = pickle.loads(pickle.dumps(TrainingDiverged("layer 2", 7, 0.1)))
    assert (error.stage, error.epoch, error.lr) == ("layer 2", 7, 0.1)
    assert isinstance(error, FloatingPointError)
    for part in ("layer 2", "epoch 7", "0.1"):
        assert part in str(error)
    assert str(pickle.loads(pickle.dumps(MissingData("gone")))) == "gone"


# ---------------------------------------------------------------- real data

REAL = Path(os.environ.get("BPFREE_DATA", "no such folder"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_data_has_the_published_mean_and_deviation(name):
    file = f"{name.removesuffix('_plain')}.npz"
    if not (REAL / file).exists():
        pytest.skip(f"needs {file} in BPFREE_DATA")
    data = load(name, REAL)
    std, mean = torch.std_mean(data.x_train, dim=(0, 2, 3))
    # The constants describe the whole training part, of which validation holds a tenth or a sixth.
    assert mean.abs().max() < 5e-3
    assert (std - 1).abs().max() < 5e-3
    assert data.y_train.unique().tolist() == data.y_test.unique().tolist() == list(range(data.classes))
