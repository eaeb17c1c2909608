"""A store with damaged and foreign files, of many sorts, by a seeded generator: never a traceback, never a
wrong result, and nothing that is whole is lost."""

import json
import logging
import random
import shutil
from collections import Counter

import pandas as pd
import pytest
from helpers import same

from bpfree.errors import BpfreeError, InvalidInput
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.runner import run
from bpfree.experiments.store import Store, records

OWN = {"data": "digits", "architecture": "1x4", "max_epochs": 1, "device": "cpu"}
PLAN = [Experiment("bp", **OWN), Experiment("bp", seed=1, **OWN)]
FILES = (
    "record.json",
    "history.parquet",
    "cost.parquet",
    "trace.parquet",
    "weights.safetensors",
    "SHA256SUMS",
)
FOREIGN = ([], None, 3, "x", True, {}, [[]], {"a": [None]}, -1.5)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A store with a record of each run of the plan, in its order."""
    store = Store(tmp_path_factory.mktemp("good"))
    return store, [run(experiment, store, progress=False) for experiment in PLAN]


# ---------------------------------------------------------------- what happens to a file, or to a record


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def zeros(content, chance):
    return bytes(len(content))


def garbage(content, chance):
    return chance.randbytes(chance.randint(1, 2 * len(content)))


def flipped(content, chance):
    where = chance.randrange(len(content))
    return content[:where] + bytes([content[where] ^ 1 << chance.randrange(8)]) + content[where + 1 :]


def longer(content, chance):
    return content + chance.randbytes(7)


def file_of(change):
    """Changes one file of a record; which, chance says."""

    def damage(folder, other, chance):
        path = folder / chance.choice(FILES)
        path.write_bytes(change(path.read_bytes(), chance))

    return damage


def gone(folder, other, chance):
    (folder / chance.choice(FILES[:4])).unlink()


def a_folder(folder, other, chance):
    path = folder / chance.choice(FILES)
    path.unlink()
    path.mkdir()


def a_file(folder, other, chance):
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


def emptied(folder, other, chance):
    shutil.rmtree(folder)
    folder.mkdir()


def another_runs(folder, other, chance):
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def with_a_file_of_anothers(folder, other, chance):
    name = chance.choice(FILES[:1] + FILES[2:5])  # the histories of failed runs may be the same
    shutil.copy(other / name, folder / name)


# Those from before there were checksums have only their form to be judged by.


def without_sums(change):
    def damage(folder, other, chance):
        (folder / "SHA256SUMS").unlink()
        change(folder, other, chance)

    return damage


def no_object(folder, other, chance):
    (folder / "record.json").write_text(json.dumps(chance.choice(FOREIGN)))


def too_deep(folder, other, chance):
    (folder / "record.json").write_text(100_000 * chance.choice(("[", '{"a":')))


def other_types(folder, other, chance):
    scalars = json.loads((folder / "record.json").read_text())
    name = chance.choice(sorted(scalars.keys() - {"provenance", "meter", "resumed", "error", "contended"}))
    if isinstance(scalars[name], dict) and name != "machine" and chance.random() < 0.5:
        inner = chance.choice(sorted(scalars[name]))
        scalars[name][inner] = {"not": "this"}
    else:
        scalars[name] = chance.choice([v for v in FOREIGN if type(v) is not type(scalars[name])])
    (folder / "record.json").write_text(json.dumps(scalars))


def other_columns(folder, other, chance):
    path = folder / chance.choice(FILES[1:4])
    table = pd.read_parquet(path)
    chosen = {"history": "epoch", "cost": "train_s", "trace": "quantity"}[path.stem]
    path.write_bytes(table.rename(columns={chosen: "colour"}).to_parquet(None, index=False))


def no_experiment_of_this_key(folder, other, chance):
    path = folder / "record.json"
    path.write_text(path.read_text().replace('"lr": ', '"lr": 1', 1))


def with_weights_of_anothers(folder, other, chance):
    (folder / "weights.safetensors").write_bytes(chance.randbytes(99))


SORTS = {
    **{change.__name__: file_of(change) for change in (cut, zeros, garbage, flipped, longer)},
    **{change.__name__: change for change in (gone, a_folder, a_file, emptied, another_runs)},
    "with a file of another's": with_a_file_of_anothers,
    **{
        f"old, {change.__name__}": without_sums(change)
        for change in (
            *(gone, another_runs, no_object, too_deep, other_types, other_columns),
            *(no_experiment_of_this_key, with_weights_of_anothers),
        )
    },
}


# ---------------------------------------------------------------- what is asked of a store


def content(record, weights):
    """All that a record says, to be compared."""
    series = [getattr(record, name).to_csv() for name in ("history", "epoch_cost", "trace")]
    scalars = {k: v for k, v in vars(record).items() if isinstance(v, str | dict | list | int | None)}
    return repr(scalars), series, {name: value.tolist() for name, value in sorted(weights.items())}


def told(call):
    """What a call gives, or None and the one line that it raises."""
    line = ""
    try:
        return call(), line
    except BpfreeError as error:
        line = str(error)
    assert "\n" not in line
    return None, line


@pytest.mark.parametrize("sort", SORTS)
def test_a_damaged_record_is_named_passed_over_and_trained_again(sort, good, tmp_path, caplog):
    """Six of a sort; with 19 sorts, 114 damaged records."""
    kept, originals = good
    caplog.set_level(logging.WARNING, "bpfree")
    outcomes = Counter()
    for number in range(6):
        chance = random.Random(f"{sort} {number}")
        store = Store(tmp_path / f"{number}")
        shutil.copytree(kept.root, store.root)
        (damaged, whole), (experiment, _) = (
            (pair if number % 2 == 0 else pair[::-1]) for pair in (originals, PLAN)
        )
        folder = store.folder(damaged.key)
        SORTS[sort](folder, store.folder(whole.key), chance)
        before = sorted((p.name, p.read_bytes()) for p in [folder, *folder.rglob("*")] if p.is_file())
        caplog.clear()

        read, line = told(lambda store=store, key=damaged.key: store.read(key))
        weights, weights_line = told(read.weights) if read else (None, line)
        if weights is not None:  # then it is what was written
            assert content(read, weights) == content(damaged, damaged.weights())
        assert read or (str(folder) in line and "remove it and run again" in line)
        assert weights or str(folder) in weights_line
        table, line = told(lambda store=store: records(store))
        assert (table is None) == (read is None)
        assert table is None or table.equals(records(kept))

        again, line = told(lambda e=experiment, store=store: run(e, store, progress=False))
        assert line == ""
        assert (again.metrics, again.stages) == (damaged.metrics, damaged.stages)
        assert again.history.equals(damaged.history)
        if read is None:
            assert same(again.weights(), damaged.weights())
            (message,) = caplog.messages
            assert str(folder) in message
            assert "\n" not in message
            (aside,) = (store.root / "damaged").iterdir()
            found = [(p.name, p.read_bytes()) for p in [aside, *aside.rglob("*")] if p.is_file()]
            assert sorted(c for _, c in found) == sorted(c for _, c in before)  # nothing is thrown away
            assert len(records(store)) == len(records(kept))
        outcomes["damaged" if read is None else "weights" if weights is None else "whole"] += 1

        untouched = store.read(whole.key)
        assert content(untouched, untouched.weights()) == content(whole, whole.weights())
    assert outcomes["whole"] == 0
    print(sort, dict(outcomes))


def test_a_record_of_a_newer_version_is_neither_used_nor_moved(good, tmp_path):
    kept, (newer, _) = good
    store = Store(tmp_path / "store")
    shutil.copytree(kept.root, store.root)
    path = store.folder(newer.key) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 4, "colour": "red"}))
    content = path.read_bytes()
    for call in (lambda: run(PLAN[0], store, progress=False), lambda: records(store)):
        with pytest.raises(InvalidInput, match="another version of bpfree"):
            call()
    assert path.read_bytes() == content
    assert not (store.root / "damaged").exists()


def test_a_folder_that_is_named_by_no_key_is_no_record(good, tmp_path):
    kept, (record, _) = good
    store = Store(tmp_path / "store")
    shutil.copytree(kept.root, store.root)
    for name in ("copy", f"{record.key} (copy)", record.key[:-1], "ff" + record.key[2:]):
        shutil.copytree(store.folder(record.key), store.folder(record.key).with_name(name))
    assert records(store).equals(records(kept))
