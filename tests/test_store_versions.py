"""A store that the version before has written: its runs are found, whole, and none is trained again.

`store_format_2.zip` has five runs: backpropagation with its weights, Mono-Forward, the same run on two paths
of one data file, and one that diverged.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bpfree.errors import InvalidInput, TrainingDiverged
from bpfree.evidence import evidence
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.resolved import Resolved, hash_of
from bpfree.experiments.runner import run, run_many
from bpfree.experiments.store import Store, records

SMALL = {"architecture": "1x4", "max_epochs": 2, "device": "cpu"}
BP = Experiment("bp", **SMALL)
MF = Experiment("mf", hyperparameters={"lr": 0.01}, **SMALL)
DIVERGED = Experiment("bp", options={"optimiser": "sgd"}, hyperparameters={"lr": 1e30}, **SMALL)


@pytest.fixture
def store(tmp_path):
    shutil.unpack_archive(Path(__file__).with_name("store_format_2.zip"), tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def own(tmp_path):
    """The data of two of the runs, in another folder."""
    chance = np.random.default_rng(0)
    x, y = chance.random((60, 6)), np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return Experiment("bp", str(tmp_path / "own.npz"), **SMALL)


def written(store) -> dict[str, dict]:
    """What every record's file says, by its folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in store.root.rglob("record.json")}


def before(store, **where) -> dict:
    """The one that has these settings."""
    (found,) = (
        one
        for one in written(store).values()
        if all({**one["experiment"], **one["experiment"]["options"]}[k] == v for k, v in where.items())
    )
    return found


def paths(store) -> list[str]:
    """Where the data of the two runs lay, one file and its copy."""
    found = sorted(one["experiment"]["data"] for one in written(store).values())
    return [path for path in found if path.endswith(".npz")]


def test_the_same_experiments_are_read_and_not_trained(store, own):
    folders = set(written(store))
    bp, mf, mine = run_many([BP, MF, own], store, progress=False)
    assert bp.cost == before(store, algorithm="bp", data="digits", lr=1e-3)["cost"]
    assert mf.cost == before(store, algorithm="mf")["cost"]
    assert mine.cost in [before(store, data=path)["cost"] for path in paths(store)]
    assert bp.weights()
    assert mine.experiment.data == own.data
    with pytest.raises(TrainingDiverged, match="in stage 'network', epoch 1, at learning rate 1e"):
        run(DIVERGED, store, progress=False)
    assert set(written(store)) == folders
    assert len(list(store)) == 4  # two of the five are one run
    assert bp.key == bp.experiment.key == store.read(bp.key).key in store
    assert bp.key != bp.folder.name == hash_of(bp.experiment.plain())


def test_they_are_found_by_what_decides_the_outcome_however_it_is_asked_for(store):
    cost = run(BP, store, progress=False).cost
    for changes in ({"weight_decay": 0}, {"momentum": 0.9}):  # 0 for 0.0, and a default spelled out
        assert run(replace(BP, hyperparameters=changes), store, progress=False).cost == cost
    assert len(written(store)) == 5


def test_their_tables_have_all_rows(store, own):
    table = records(store)
    assert len(table.drop_duplicates("key")) == 5
    assert table["key"].str[-64:].nunique() == 4
    seconds = table[table["metric"] == "total_s"].set_index("data")["value"]
    assert [Path(path).name for path in paths(store)] == ["copy.npz", "own.npz"]  # which were trained each
    for path in paths(store):
        assert seconds[path] == before(store, data=path)["cost"]["total_s"]
    run(own, store, progress=False)
    assert records(store)["key"].nunique() == 6


def test_who_asks_under_the_labels_of_one_of_them_has_that_one(store):
    found = list(store.records())
    assert len(found) == 5
    assert [store.find(r.experiment).cost for r in found] == [r.cost for r in found]
    assert not list(store.root.rglob("asked-*"))


def test_a_store_that_may_only_be_read_is_read(store, own):
    everything = [store.root, *store.root.rglob("*")]
    content = {path: path.read_bytes() for path in everything if path.is_file()}

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace", "unlink"):
            patch.setattr(f"os.{name}", refuse)
        patch.setattr("bpfree.errors.disk.write", refuse)
        found = run_many([BP, MF, own], store, progress=False)
    assert [r.status for r in found] == ["finished"] * 3
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == content


@pytest.mark.parametrize("damage", ["series", "experiment", "folder"])
def test_their_damage_is_found(store, damage):
    record = run(BP, store, progress=False)
    if damage == "series":
        (record.folder / "cost.parquet").write_bytes(b"PAR1")
    elif damage == "folder":
        (store.root / "00").mkdir()
        record.folder.rename(store.root / "00" / f"00{record.folder.name[2:]}")
    else:
        path = record.folder / "record.json"
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
        (record.folder / "SHA256SUMS").unlink()  # as if from before there were any
    with pytest.raises(InvalidInput, match="remove it and run again"):
        records(Store(store.root))
    again = run(BP, Store(store.root), progress=False)
    assert again.cost != record.cost  # trained again
    assert again.history.equals(record.history)
    assert again.folder.name == again.key


def test_a_table_of_runs_of_the_version_before_has_the_keys_of_today(store):
    found = list(store.records())
    table = evidence.wide(found).assign(key=[r.folder.name for r in found])
    assert [r.key for r in evidence.narrow(table)] == [r.key for r in found]
    with pytest.raises(ValueError, match="is of another run"):
        evidence.narrow(table.assign(key="0" * 64))


def test_every_committed_run_stands_under_its_key():
    from bpfree.evidence.gallery import path_of

    table = evidence.read_table(path_of("runs"))
    for key, experiment in table[["key", "experiment"]].values:
        assert Resolved.of(json.loads(experiment)).key == key
