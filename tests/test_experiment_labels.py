"""One run that is asked for under several labels: trained once, and known by each of them."""

import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from bpfree.errors import InvalidInput, TrainingDiverged
from bpfree.evidence import evidence
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.runner import run, run_many
from bpfree.experiments.store import Store, epochs, records, tidy

#: Backpropagation has the same choices by both presets, and on digits there are no published settings.
THESIS, LATER = (
    Experiment("bp", architecture="1x4", max_epochs=1, device="cpu", preset=preset)
    for preset in ("thesis", "2026")
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def ask(store, *experiments):
    return run_many(experiments, store, progress=False, keep_weights=False)


def files(store) -> dict:
    return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_it_is_trained_once_and_each_asker_has_it_with_its_own_labels(store):
    first, second = ask(store, THESIS, LATER)
    assert [r.experiment.preset for r in (first, second)] == ["thesis", "2026"]
    assert replace(second.experiment, preset="thesis") == first.experiment
    assert (first.key, first.cost, first.machine) == (second.key, second.cost, second.machine)
    assert list(store) == [first.key]
    again = ask(store, LATER, THESIS)
    assert [r.experiment.preset for r in again] == ["2026", "thesis"]


def test_tables_have_the_rows_of_each_asker_and_the_store_remembers_who_asked(store):
    pair = ask(store, THESIS, LATER)
    table = records(Store(store.root))
    assert sorted(table["preset"].unique()) == ["2026", "thesis"]
    one, other = (part.reset_index(drop=True) for _, part in table.groupby("preset"))
    assert one.drop(columns=["preset", "key"]).equals(other.drop(columns=["preset", "key"]))
    assert not table.duplicated(["key", "metric"]).any()  # a key names the rows of one asker
    assert table["key"].str.contains(pair[0].key).all()
    assert len(tidy(pair)) == len(table)
    assert epochs(pair)["preset"].tolist() == ["thesis", "2026"]
    before = files(store)
    ask(store, THESIS, LATER, LATER)
    assert files(store) == before  # once is enough


def test_what_is_collected_is_each_askers(store):
    ask(store, THESIS, LATER)
    found = evidence.recorded_runs(store)([THESIS, LATER])
    assert sorted(r.experiment.preset for r in found) == ["2026", "thesis"]
    again = evidence.narrow(evidence.wide(found))
    assert [r.experiment for r in again] == [r.experiment for r in found]
    assert [r.key for r in again] == [r.key for r in found]


def test_a_store_that_may_only_be_read_serves_who_asks_under_other_labels(store, monkeypatch):
    (first,) = ask(store, THESIS)
    before = files(store)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr("bpfree.errors.disk.write", read_only)
        (second,) = ask(store, LATER)
    assert (second.key, second.experiment.preset) == (first.key, "2026")
    assert files(store) == before


@pytest.mark.parametrize("content", [b"", b"[]", b'{"preset": "2026"}', b"\xff", None])
def test_a_damaged_note_of_who_asked_is_named_and_written_anew_by_who_asks(store, content):
    first, _ = ask(store, THESIS, LATER)
    (note,) = first.folder.glob("asked-*.json")
    whole = note.read_bytes()
    changed = json.dumps({**json.loads(whole), "preset": "1926"}).encode()
    note.write_bytes(changed if content is None else content)
    with pytest.raises(InvalidInput, match="remove it and run again") as raised:
        records(store)
    assert str(note) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert ask(store, THESIS)[0].metrics == first.metrics
    ask(store, LATER)
    assert note.read_bytes() == whole


def own_data(path):
    x, y = np.random.default_rng(0).random((60, 6)), np.arange(60) % 3
    path.parent.mkdir(exist_ok=True)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def test_own_data_are_one_run_by_whatever_path_and_wherever_they_lie(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = own_data(tmp_path / "own.npz")

    def of(data):
        return Experiment("bp", str(data), architecture="1x4", max_epochs=1, device="cpu")

    (first,) = ask(store, of("own.npz"))
    moved = shutil.move(path, own_data(tmp_path / "elsewhere" / "other.npz"))
    found = ask(store, of(moved), of("elsewhere/other.npz"))
    assert {r.key for r in found} == {first.key}
    assert {r.cost["total_s"] for r in found} == {first.cost["total_s"]}
    assert list(store) == [first.key]
    assert set(records(store)["data"]) == {str(path), str(moved)}  # each asker finds it by its name


def test_a_file_with_the_arrays_of_a_published_set_is_another_run(tmp_path):
    """Whose split and augmentation go by its name."""
    published = Experiment("bp", "digits", device="cpu")
    own = Experiment("bp", str(own_data(tmp_path / "digits.npz")), architecture="2x256", device="cpu")

    class Same:
        sha256 = "0" * 64

    three = (published, replace(published, data="mnist", architecture="2x256"), own)
    assert len({experiment.resolve(Same).key for experiment in three}) == 3


def test_a_failed_run_is_failed_for_every_asker(store):
    diverging = [
        replace(e, options={"optimiser": "sgd"}, hyperparameters={"lr": 1e30}) for e in (THESIS, LATER)
    ]
    for experiment in diverging:
        with pytest.raises(TrainingDiverged):
            run(experiment, store, progress=False)
    assert len(list(store)) == 1
    assert sorted(r.experiment.preset for r in store.records()) == ["2026", "thesis"]
