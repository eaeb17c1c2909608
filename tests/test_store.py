"""Records on disk: whole or not there, read back as they were, and one tidy table of them."""

import errno
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import resolved

from bpfree.errors import InvalidInput, StorageFailed
from bpfree.experiments.store import (
    FORMAT,
    TIDY_COLUMNS,
    Record,
    Store,
    epochs,
    records,
    stages_at_cap,
    traces,
    unit,
)
from bpfree.training.history import COST

KEY, OTHER = (resolved(seed=seed).key for seed in (0, 1))
ERROR = {"stage": "layer 1", "epoch": 1, "lr": 0.1}
WEIGHTS = {"w": torch.arange(6.0).view(2, 3).T, "finished": torch.tensor(2)}  # transposed: not contiguous


def record(key=KEY, **changes) -> Record:
    """The record of a key; with another experiment, of its own."""
    fields = {
        "experiment": resolved(seed=(KEY, OTHER).index(key)),
        "status": "finished",
        "metrics": {
            "test_accuracy": 90.5,
            "test_accuracy[sum]": 91.0,
            "test_loss": 0.3,
            "epochs": 3,
            "samples": 9,
        },
        "history": pd.DataFrame(
            {
                "stage": ["layer 1", "layer 1", "layer 2"],
                "epoch": [1, 2, 1],
                "val_loss": [0.5, 0.4, float("nan")],
            }
        ),
        "cost": {"train_s": 1.5, "train_measured_j": 3.0, "total_estimated_j": 4.0, "graph_bytes": 8.0},
        "epoch_cost": pd.DataFrame(
            {
                "stage": ["layer 1", "layer 1", "layer 2"],
                "epoch": [1, 2, 1],
                **{c: [1.0, 2.0, 4.0] for c in COST},
            }
        ),
        "trace": pd.DataFrame(
            {
                "time_s": [0.1, 0.3],
                "channel": "process",
                "quantity": "rss",
                "value": [1.0, 2.0],
                "unit": "B",
                "stage": ["layer 1", "layer 2"],
            }
        ),
        "stages": [
            {"name": "layer 1", "prefix": "images", "ended": "cap", "restored": 1},
            {"name": "layer 2", "prefix": "cached in memory", "ended": "cap", "restored": 1},
        ],
        "machine": {"id": "0123456789ab", "cpu": "a processor"},
        "provenance": "measured: a sensor",
    }
    return Record(**{**fields, **changes})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "not" / "there" / "yet")


def test_what_is_written_is_what_is_read(store):
    assert KEY not in store
    assert list(store) == []
    written = store.write(record(), WEIGHTS)
    assert KEY in store
    assert list(store) == [KEY]
    for back in (written, store.read(KEY), Store(str(store.root)).read(KEY)):
        for name, value in vars(record()).items():
            if isinstance(value, pd.DataFrame):
                pd.testing.assert_frame_equal(getattr(back, name), value)
            elif name != "folder":
                assert getattr(back, name) == value
        assert back.folder == store.folder(KEY)
        weights = back.weights()
        assert weights.keys() == WEIGHTS.keys()
        assert all(torch.equal(weights[name], WEIGHTS[name]) for name in weights)
        assert all(weights[name].dtype == WEIGHTS[name].dtype for name in weights)


def test_the_root_is_the_argument_or_the_variable_or_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "variable"))
    assert Store().root == tmp_path / "variable"
    assert Store(tmp_path).root == tmp_path
    assert Store(Store(tmp_path)).root == tmp_path
    monkeypatch.delenv("BPFREE_STORE")
    assert Store().root.parts[-2:] == ("bpfree", "records")
    assert Store("~/x").root == Path.home() / "x"


@pytest.mark.parametrize(
    ("breaks", "errors"),
    [
        ("history", (ValueError, TypeError)),  # what the library that fails raises
        ("weights", (NotImplementedError, RuntimeError)),
        ("scalars", TypeError),
        ("rename", StorageFailed),
        ("fsync", StorageFailed),
    ],
)
def test_a_record_that_fails_to_be_written_leaves_nothing(store, breaks, errors, monkeypatch):
    store.write(record(OTHER))
    changes, weights = {}, WEIGHTS
    if breaks == "history":
        changes["history"] = pd.DataFrame({"mixed": [1, "one"]})
    elif breaks == "weights":
        weights = {"w": torch.zeros(2, device="meta")}
    elif breaks == "scalars":
        changes["metrics"] = {"test_accuracy": object()}
    else:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, breaks, full)
    with pytest.raises(errors) as raised:
        store.write(record(**changes), weights)
    if errors is StorageFailed:
        for said in (str(store.folder(KEY)), "No space left on device", "make room there", "BPFREE_STORE"):
            assert said in str(raised.value)
    assert KEY not in store
    assert list(store) == [OTHER]
    assert not [p for p in store.root.rglob("*") if p.name.startswith(".writing") or KEY in p.name]
    monkeypatch.undo()
    assert store.write(record()).metrics == record().metrics


def test_nothing_is_visible_before_everything_is_written(store, monkeypatch):
    """At the moment of renaming, the draft is whole and the key is not there."""
    seen, rename = [], os.rename

    def watch(draft, target):
        seen.append((KEY in store, list(store), sorted(os.listdir(draft))))
        rename(draft, target)

    monkeypatch.setattr(os, "rename", watch)
    store.write(record(), WEIGHTS)
    files = ["cost.parquet", "history.parquet", "record.json", "trace.parquet", "weights.safetensors"]
    assert seen == [(False, [], ["SHA256SUMS", *files])]


def test_of_two_writers_of_one_key_the_first_stays(store):
    first = store.write(record(metrics={"test_accuracy": 1.0}))
    second = store.write(record(metrics={"test_accuracy": 2.0}), WEIGHTS)
    assert first.metrics == second.metrics == {"test_accuracy": 1.0}
    assert not (store.folder(KEY) / "weights.safetensors").exists()
    assert [p.name for p in store.root.iterdir()] == [KEY[:2]]  # no draft is left


def test_writers_at_the_same_time_agree(store):
    barrier, results = threading.Barrier(6), []

    def write(value):
        barrier.wait()
        results.append(store.write(record(metrics={"test_accuracy": float(value)})).metrics)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(metrics == store.read(KEY).metrics for metrics in results)


def test_a_table_of_a_store_with_a_record_of_another_format_is_refused(store):
    """Rather than be without it: means over what is left would be others."""
    store.write(record(OTHER))
    path = store.write(record()).folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    said = f"another version of bpfree (format 1, this one reads 2 and {FORMAT}): use another store"
    with pytest.raises(InvalidInput, match=re.escape(said)) as raised:
        records(store)
    assert str(path.parent) in str(raised.value)


def test_records_of_two_training_versions_are_not_mixed(store):
    for key, version, accuracy in ((KEY, 1, 90.0), (OTHER, 2, 95.0)):
        experiment = resolved(seed=(KEY, OTHER).index(key), training_version=version)
        store.write(record(experiment=experiment, metrics={"test_accuracy": accuracy}, cost={}))
    with pytest.raises(InvalidInput, match="training versions 1, 2") as raised:
        records(store)
    for said in (str(store.root), "training_version=2", "use another store"):
        assert said in str(raised.value)
    for version, accuracy in ((1, [90.0]), (2, [95.0]), (3, [])):
        found = records(store, training_version=version)
        assert found.loc[found["metric"] == "test_accuracy", "value"].tolist() == accuracy


def test_how_often_a_run_was_resumed_is_kept_and_may_be_missing_in_what_was_written_before(store):
    assert store.write(record(resumed=3)).resumed == 3
    path = store.folder(KEY) / "record.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "resumed"}))
    path.with_name("SHA256SUMS").unlink()  # which there was not, either
    assert store.read(KEY).resumed == 0


def test_sweeping_removes_what_was_left_of_a_run_and_of_no_other(store):
    left = {
        key: [
            *(store.root / f".writing-{key}-0" / "history.parquet", store.root / f"locks/{key}.lock"),
            *(store.root / f"locks/{key}.json", store.checkpoint(key)),
            store.checkpoint(key).with_name(f"{key}.safetensors.writing"),
        ]
        for key in (KEY, OTHER)
    }
    for path in [path for paths in left.values() for path in paths]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    store.sweep(KEY)  # not yet stored: it goes on from its checkpoint
    assert [path.exists() for path in left[KEY]] == [False, True, True, True, False]
    store.write(record())
    store.sweep(KEY)
    assert [path.exists() for path in left[KEY]] == 5 * [False]
    assert all(path.exists() for path in left[OTHER])
    assert KEY in store


def test_what_is_not_there_is_said_to_be_missing(store):
    with pytest.raises(InvalidInput, match=r"no record abababababab in .* run the experiment first"):
        store.read("ab" * 32)
    for without in (record(), store.write(record())):
        with pytest.raises(InvalidInput, match=f"record {KEY[:12]} has no weights"):
            without.weights()


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("epochs", "cap", "stages"),
    [
        ({"a": 5, "b": 3}, 5, 1),
        ({"a": 4, "b": 3}, 5, 0),  # seven epochs, none of the stages at its end
        ({"a": 5, "b": 5}, 5, 2),
        ({"a": 5, "b": 5}, None, 0),
        (5, 5, 1),
        (4, 5, 0),
        (7, 5, None),  # of which stages, only the history knows
    ],
)
def test_stages_that_ended_at_the_cap_are_counted_as_far_as_is_known(epochs, cap, stages):
    of = epochs if isinstance(epochs, dict) else {}
    rows = [{"stage": name, "epoch": e + 1} for name, n in of.items() for e in range(n)]
    total = sum(of.values()) if of else epochs
    made = record(experiment=resolved(max_epochs=cap), metrics={"epochs": total}, history=pd.DataFrame(rows))
    assert stages_at_cap(made) == stages
    assert stages_at_cap(replace(made, status="failed")) is None


def test_a_stage_whose_patience_was_over_at_its_cap_would_not_have_gone_on():
    history = pd.DataFrame([{"stage": name, "epoch": e + 1} for name in "ab" for e in range(5)])
    stages = [{"name": "a", "ended": "patience"}, {"name": "b", "ended": "cap"}]
    made = record(experiment=resolved(max_epochs=5), metrics={"epochs": 10}, history=history, stages=stages)
    assert stages_at_cap(made) == 1


def test_the_table_is_tidy_with_units_and_provenance(store):
    store.write(record())
    store.write(record(OTHER, metrics={}, cost={"train_s": 1.0}, status="failed", error=ERROR))
    table = records(store)
    assert table.columns.tolist() == list(TIDY_COLUMNS)
    assert len(table) == 5 + 4 + 1 + 1 + 1
    assert not table.duplicated(["key", "metric"]).any()
    mine = table[table["key"] == KEY].set_index("metric")
    at_cap = mine.loc["stages_at_cap", "value"]
    assert mine["value"].to_dict() == {**record().metrics, "stages_at_cap": at_cap, **record().cost}
    units = {"test_accuracy": "%", "test_accuracy[sum]": "%", "test_loss": "nats", "epochs": "epochs"}
    units |= {"samples": "samples", "train_s": "s", "train_measured_j": "J", "total_estimated_j": "J"}
    units |= {"graph_bytes": "B", "stages_at_cap": ""}
    assert mine["unit"].to_dict() == units
    assert mine.loc["train_measured_j", "provenance"] == "measured: a sensor"
    assert mine.loc["train_s", "provenance"] == "wall clock"
    assert mine.loc["graph_bytes", "provenance"] == "counted"
    outcomes, costs = [*record().metrics, "stages_at_cap"], list(record().cost)
    assert mine.loc[outcomes, "provenance"].isna().all()
    assert (mine.loc[costs, "machine"] == "0123456789ab").all()
    assert mine.loc[outcomes, "machine"].isna().all()  # an outcome is not the machine's
    assert (mine["algorithm"] == "mf").all()
    failed = table[table["key"] == OTHER]
    assert set(failed["metric"]) == {"train_s", "failed"}
    assert set(failed["status"]) == {"failed"}


@pytest.mark.parametrize("name", ["", "ab"], ids=["the store", "a folder in it"])
def test_a_store_that_cannot_be_looked_into_is_not_taken_for_an_empty_one(name, tmp_path, monkeypatch):
    """As one user's is by another."""
    store = Store(tmp_path / "store")
    (store.root / "ab").mkdir(parents=True)
    look = os.listdir

    def refuse(path="."):
        if Path(path) == store.root / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageFailed, match=r"cannot be read .*: make it readable, or use a store elsewhere"):
        records(store)


def test_an_empty_store_is_an_empty_table_of_the_same_columns(store):
    assert records(store).empty
    assert records(store).columns.tolist() == list(TIDY_COLUMNS)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("val_s", "s"), ("prefix_estimated_j", "J"), ("total_flop", "FLOP"), ("failed", "")],
)
def test_a_unit_is_the_last_word_of_the_metric(metric, expected):
    assert unit(metric) == expected


def test_the_epochs_of_records_are_the_history_beside_its_cost():
    second = record(OTHER)
    frame = epochs([record(), second])
    assert frame["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frame["pass"].tolist() == 2 * [1, 2, 3]
    assert frame["elapsed_s"].tolist() == 2 * [3.0, 9.0, 21.0]  # three regions an epoch, summed up
    assert frame["kept"].tolist() == 2 * [True, False, True]
    assert frame["val_loss"].tolist()[:2] == [0.5, 0.4]
    assert set(frame["machine"]) == {"0123456789ab"}


def test_the_traces_of_records_say_which_run_they_are_of():
    second = record(OTHER)
    frame = traces([record(), second])
    assert frame["seed"].tolist() == [0, 0, 1, 1]
    assert frame["value"].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert frame["stage"].tolist() == 2 * ["layer 1", "layer 2"]
    assert set(frame["machine"]) == {"0123456789ab"}
    with pytest.raises(InvalidInput, match="run an experiment first"):
        traces([])


def test_a_region_that_was_not_recorded_takes_no_time():
    cost = record().epoch_cost.assign(prefix_s=[1.0, None, 4.0])
    assert epochs([replace(record(), epoch_cost=cost)])["elapsed_s"].tolist() == [3.0, 7.0, 19.0]
