"""Data of somebody's own: from arrays, from map-style data sets, and by a name that other processes find."""

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.datasets import VisionDataset

import bpfree
from bpfree import Data, Experiment, data, tuning
from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import figures, tables
from bpfree.experiments import experiment, jobs
from bpfree.experiments.store import Store
from bpfree.training import Augmentation

KEYS = ("x_train", "y_train", "x_test", "y_test")
PARTS = tuple(f"{letter}_{part}" for part in ("train", "val", "test") for letter in "xy")


def arrays_of(image=(6, 5), dtype=np.uint8, train=40, test=9, classes=3) -> dict:
    """Noise in which every class occurs."""
    rng = np.random.default_rng(0)
    out = {}
    for split, n in (("train", train), ("test", test)):
        x = rng.integers(0, 256, (n, *image), dtype=np.uint8)
        out[f"x_{split}"] = x if dtype == np.uint8 else (x / 255).astype(dtype)
        out[f"y_{split}"] = np.arange(n) % classes
    return out


def assert_same(a: Data, b: Data) -> None:
    for part in PARTS:
        assert torch.equal(getattr(a, part), getattr(b, part)), part
    assert (a.sha256, a.mean, a.std, a.classes, a.augment) == (b.sha256, b.mean, b.std, b.classes, b.augment)


def trained(content: Data) -> dict:
    algorithm = bpfree.MonoForward(bpfree.MLP([content.features, 8], classes=content.classes))
    bpfree.train(algorithm, content, max_epochs=2, progress=False)
    return algorithm.state_dict()


# ---------------------------------------------------------------- from arrays


@pytest.mark.parametrize("image", [(6, 5), (6, 5, 3), (7,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_arrays_are_what_a_file_of_them_is_to_the_bit(tmp_path, image, dtype, kind):
    arrays = arrays_of(image, dtype)
    np.savez(tmp_path / "own.npz", **arrays)
    native = {
        k: a.astype(a.dtype.newbyteorder("=")) if kind is not np.asarray else a for k, a in arrays.items()
    }
    made = Data.from_arrays(*(kind(native[k]) for k in KEYS), seed=4)
    filed = bpfree.load(tmp_path / "own.npz", seed=4)
    assert_same(made, filed)
    assert made.name == "own"
    if dtype == np.uint8:
        first, second = trained(made), trained(filed)
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_arrays_of_any_memory_are_copied_and_left_alone():
    plain = arrays_of(dtype=np.float32)
    odd = {k: np.asfortranarray(a)[::-1] for k, a in plain.items()}  # negative strides
    for a in odd.values():
        a.flags.writeable = False
    made = Data.from_arrays(**odd)
    assert_same(made, Data.from_arrays(**{k: a[::-1] for k, a in plain.items()}))
    before = {k: a.copy() for k, a in plain.items()}
    made = Data.from_arrays(**plain)
    for part in PARTS:
        getattr(made, part).zero_()
    assert all(np.array_equal(before[k], plain[k]) for k in plain)


def test_what_is_given_decides_and_is_hashed():
    arrays = arrays_of((6, 5, 2))
    plain = Data.from_arrays(**arrays)
    given = {
        "mean": Data.from_arrays(**arrays, mean=0.25),
        "means": Data.from_arrays(**arrays, mean=(0.25, 0.5)),
        "std": Data.from_arrays(**arrays, std=[0.5, 0.25]),
        "augment": Data.from_arrays(**arrays, augment=Augmentation(2)),
        "other augment": Data.from_arrays(**arrays, augment=Augmentation(2, flip=False)),
        "validation": Data.from_arrays(**arrays, x_val=arrays["x_test"], y_val=arrays["y_test"]),
    }
    assert len({plain.sha256, *(d.sha256 for d in given.values())}) == 7
    assert given["mean"].sha256 == Data.from_arrays(**arrays, mean=[0.25, 0.25], seed=3).sha256
    pixels = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2) / 255
    std = torch.tensor(plain.std).view(2, 1, 1)
    assert torch.allclose(given["mean"].x_test, (pixels - 0.25) / std, atol=1e-6)
    assert given["means"].mean == (0.25, 0.5)
    assert given["std"].std == (0.5, 0.25)
    assert given["std"].mean == plain.mean
    validation = given["validation"]
    assert torch.equal(validation.x_val, validation.x_test)
    assert torch.equal(validation.y_train, torch.from_numpy(arrays["y_train"]))
    assert given["augment"].augment == Augmentation(2)
    view = next(given["augment"].epoch(36, torch.Generator().manual_seed(0)))[0]
    assert not torch.equal(view, next(plain.epoch(36, torch.Generator().manual_seed(0)))[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_train": np.zeros((40, 3, 6, 5))}, "x_train has shape (40, 3, 6, 5)"),
        ({"y_test": np.eye(9)}, "y_test has dtype float64"),
        ({"y_train": np.arange(39)}, "y_train has 39 labels but x_train 40"),
        ({"x_test": np.full((9, 6, 5), np.nan)}, "x_test has NaN or infinite values, first in row 0"),
        ({"x_val": np.zeros((2, 6, 5), np.uint8)}, "x_val and y_val belong together"),
        ({"x_val": np.zeros((2, 6, 4), np.uint8), "y_val": [0, 1]}, "x_val has images (6, 4, 1)"),
        ({"x_val": np.zeros((2, 6, 5)), "y_val": [0, 1]}, "x_val has dtype float32, but x_train uint8"),
        ({"mean": (0.1, 0.2)}, "mean=(0.1, 0.2): use a number, or one for each of the 1 channels"),
        ({"mean": "half"}, "mean='half'"),
        ({"std": 0.0}, "std=0.0: use a number above 0"),
        ({"std": [np.inf]}, "std=[inf]"),
        ({"augment": True}, "augment=True: use a bpfree.training.Augmentation"),
        ({"augment": Augmentation(5)}, "pad=5"),
        ({"seed": -1}, "seed=-1"),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(9, int)}, "at least two classes"),
    ],
)
def test_arrays_that_cannot_be_data_are_named_in_one_line(change, says):
    with pytest.raises(InvalidInput) as error:
        Data.from_arrays(**arrays_of() | change)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- from data sets


class Listed(VisionDataset):
    """Map-style as torchvision's; it has a length and nothing that ends an iteration."""

    def __init__(self, images, labels):
        super().__init__("")
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i % len(self)], self.labels[i % len(self)]


def pil(x):
    return [Image.fromarray(a) for a in x]


def chw(x):
    return [torch.from_numpy(a).movedim(-1, 0) if a.ndim == 3 else torch.from_numpy(a) for a in x]


@pytest.mark.parametrize("image", [(6, 5), (6, 5, 3)])
@pytest.mark.parametrize("images", [pil, chw, list])
@pytest.mark.parametrize("label", [int, np.int32, torch.tensor])
def test_a_data_set_is_what_its_arrays_are(image, images, label):
    arrays = arrays_of(image)
    train, test = (
        Listed(images(arrays[f"x_{part}"]), [label(y) for y in arrays[f"y_{part}"]])
        for part in ("train", "test")
    )
    made = Data.from_dataset(train, test, name="mine", seed=2, mean=0.5, augment=Augmentation(1))
    assert_same(made, Data.from_arrays(**arrays, seed=2, mean=0.5, augment=Augmentation(1)))
    assert made.name == "mine"
    with_val = Data.from_dataset(train, test, val=test)
    assert torch.equal(with_val.x_val, with_val.x_test)


def test_a_data_set_of_tensors_and_one_of_vectors():
    x, y = torch.rand(20, 3, 4, 5), torch.arange(20) % 2
    made = Data.from_dataset(TensorDataset(x, y), TensorDataset(x[:5], y[:5]), mean=0.0, std=1.0)
    assert torch.equal(made.x_test, x[:5])
    flat = Data.from_dataset(TensorDataset(x.flatten(1), y), TensorDataset(x[:5].flatten(1), y[:5]))
    assert flat.shape == (1, 1, 60)


@pytest.mark.parametrize("wrong", [[(1, 2, 3)], [5], 7, iter([]), [(np.zeros((2, 2)),)]])
def test_what_is_no_data_set_of_pairs_is_refused_in_one_line(wrong):
    right = Listed([np.zeros((2, 2), np.uint8)] * 4, [0, 1] * 2)
    with pytest.raises(InvalidInput, match=r"test is no map-style data set of \(image, class\)") as refused:
        Data.from_dataset(right, wrong)
    assert "\n" not in str(refused.value)


def test_bits_and_palettes_are_shown_as_pixels():
    grey = [Image.fromarray(np.full((4, 4), 255 * (i % 2), np.uint8)) for i in range(6)]
    bits = Listed([image.convert("1") for image in grey], [0, 1] * 3)
    assert_same(
        Data.from_dataset(bits, bits), Data.from_dataset(Listed(grey, [0, 1] * 3), Listed(grey, [0, 1] * 3))
    )
    colours = Image.new("P", (4, 4), 1)
    colours.putpalette([0, 0, 0, 200, 100, 50])
    made = Data.from_dataset(*[Listed([colours] * 3, [0, 1, 0])] * 2, mean=0.0, std=1.0)
    assert made.x_test[0, :, 0, 0].tolist() == pytest.approx([200 / 255, 100 / 255, 50 / 255])


def test_images_of_two_sizes_and_no_images_are_refused():
    images = [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)]
    with pytest.raises(InvalidInput, match=r"x_train\[1\] has shape and dtype \(\(4, 5\), 'uint8'\)"):
        Data.from_dataset(Listed(images, [0, 1]), Listed(images[:1], [0]))
    with pytest.raises(InvalidInput, match="x_test is empty"):
        Data.from_dataset(Listed(images[:1] * 3, [0, 1, 1]), Listed([], []))


# ---------------------------------------------------------------- by a name

OWN = '''
import numpy as np
import bpfree

calls = []


def blobs(seed, *, noise=1.0):
    """Two clouds of points in six dimensions."""
    calls.append(seed)
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 240)
    x = np.where(y[:, None], 1.0, -1.0) + noise * rng.normal(size=(240, 6))
    return bpfree.Data.from_arrays(x[:200], y[:200], x[200:], y[200:], name="blobs", seed=seed)


def versioned():
    return blobs(0)


versioned.version = 2
fixed = blobs(7)
calls.clear()
number = 3


def wrong():
    return number
'''
HOW = {"max_epochs": 2, "device": "cpu", "architecture": "1x8"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own_clouds.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    yield tmp_path
    sys.modules.pop("own_clouds", None)


def test_a_function_is_asked_for_data_of_the_seed_and_an_object_is_taken_as_it_is(here):
    import own_clouds

    asked = bpfree.load("own_clouds:blobs", seed=3)
    assert_same(replace(asked, sha256=""), replace(own_clouds.blobs(3), sha256=""))
    assert own_clouds.calls[0] == 3
    taken = bpfree.load("own_clouds:fixed", seed=3)
    assert_same(replace(taken, sha256=""), replace(own_clouds.fixed, sha256=""))
    before = bpfree.load("own_clouds:versioned").sha256
    own_clouds.versioned.version = 3
    assert bpfree.load("own_clouds:versioned").sha256 != before


@pytest.mark.parametrize(
    "change",
    [
        lambda data, blobs: blobs(8),  # another tenth validates
        lambda data, blobs: replace(data, x_train=data.x_train[:50], y_train=data.y_train[:50]),
        lambda data, blobs: replace(data, x_val=-data.x_val),
        lambda data, blobs: replace(data, classes=3),
        lambda data, blobs: replace(data, augment=Augmentation(1)),
    ],
)
def test_other_data_of_the_same_arrays_are_another_run(here, change):
    import own_clouds

    mine = Experiment("mf", "own_clouds:fixed", **HOW)
    before = mine.resolve(bpfree.load(mine.data)).key
    own_clouds.fixed = replace(own_clouds.fixed)
    assert mine.resolve(bpfree.load(mine.data)).key == before
    own_clouds.fixed = change(own_clouds.fixed, own_clouds.blobs)
    assert mine.resolve(bpfree.load(mine.data)).key != before


def test_it_is_trained_stored_and_read_again(here):
    record = bpfree.run(Experiment("mf", "own_clouds:blobs", seed=1, **HOW), progress=False)
    again = bpfree.run(Experiment("mf", "own_clouds:blobs", seed=1, **HOW), progress=False)
    assert (again.key, again.cost["total_s"]) == (record.key, record.cost["total_s"])
    import own_clouds

    assert len(own_clouds.calls) == 1  # kept, not made again for the second
    own = bpfree.load("own_clouds:blobs", seed=1)
    hits = experiment.trained(record, own).predict(own.x_test).argmax(1) == own.y_test
    assert record.metrics["test_accuracy"] == pytest.approx(100 * hits.double().mean().item())


def test_it_stands_last_and_by_its_own_name_in_tables_and_figures(here):
    names = ["own_clouds:blobs", "digits"]
    bpfree.run_many([Experiment("mf", d, **HOW) for d in names], progress=False)
    frame = bpfree.records()
    assert set(tables.summary(frame)["data"]) == {"digits", "blobs"}
    figures.comparison.accuracy_against_energy(frame).draw_without_rendering()
    assert [data.dataset(d) for d in ("a.b:mine", "c:/mine:1.npz", "fashion_mnist")] == [
        "mine",
        "mine:1.npz",
        "Fashion-MNIST",
    ]
    sys.modules.pop("own_clouds")
    there = frame.assign(data=frame["data"].str.replace("own_clouds", "never_imported"))
    assert set(tables.summary(there)["data"]) == {"digits", "blobs"}
    assert "never_imported" not in sys.modules


def test_a_job_in_another_process_and_a_search_find_it(here):
    clouds = Experiment("mf", "own_clouds:blobs", **HOW)
    assert jobs.submit([clouds], "local", progress=False) == []
    [key] = Store()
    assert Store().read(key).experiment.data == "own_clouds:blobs"
    study = tuning.tune(clouds, 1, progress=False)
    assert study.study_name.startswith("mf-own_clouds_blobs-1x8")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("no_such_module:blobs", UnknownName, "there is no module 'no_such_module'"),
        ("own_clouds:blob", UnknownName, "did you mean 'own_clouds:blobs'?"),
        ("own_clouds:number", InvalidInput, "it names neither a bpfree.Data nor a function"),
    ],
)
def test_a_name_of_nothing_is_one_line_at_once(here, name, error, says):
    for call in (bpfree.load, lambda name: Experiment("mf", name)):
        with pytest.raises(error) as raised:
            call(name)
        assert says in str(raised.value)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)


def test_what_gives_no_data_is_said_when_it_is_loaded(here):
    with pytest.raises(InvalidInput, match="data set 'own_clouds:wrong' gives 3: make it by"):
        bpfree.load("own_clouds:wrong")
    import own_clouds

    own_clouds.stand_in = data.stand_in("mnist")  # whose images nothing identifies
    with pytest.raises(InvalidInput, match="data set 'own_clouds:stand_in' gives Data"):
        bpfree.load("own_clouds:stand_in")


def test_the_hash_of_arrays_alone_is_that_of_the_version_before():
    """Of dtype, shape and bytes of the four arrays, under their names, in this order."""
    arrays = arrays_of()
    made = Data.from_arrays(**arrays)
    digest = hashlib.sha256()
    for key in KEYS:
        a = arrays[key][..., None] if key[0] == "x" else arrays[key].astype(np.int64)
        digest.update(f"{key} {a.dtype} {a.shape} ".encode() + a.tobytes())
    assert made.sha256 == digest.hexdigest()
