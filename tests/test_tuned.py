import errno
import multiprocessing
import os

import pandas as pd
import pytest

from bpfree.errors import InvalidInput, StorageFailed
from bpfree.experiments import tuned

ARM = ("mf", "digits", "2x256")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A store of its own for every test, and nothing shipped."""
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "shipped.csv")
    return tmp_path


def test_what_was_written_is_read_back_with_its_types():
    values = {"lr": 0.1 + 0.2, "batch_size": 64, "optimiser": "adamw", "epochs": None, "head_bias": False}
    tuned.write_settings(*ARM, values, study="s", trials=20, epochs=8, seed=3, val_accuracy=97.25)
    read = tuned.settings(*ARM)
    assert read == values
    assert [type(v) for v in read.values()] == [type(v) for v in values.values()]
    row = tuned.table().iloc[0]
    assert (row["study"], row["trials"], row["epochs"], row["seed"]) == ("s", 20, 8, 3)
    assert row["val_accuracy"] == 97.25
    assert row["revision"] is None or row["revision"] == "none"


def test_an_arm_that_was_never_tuned_has_no_settings():
    assert tuned.settings(*ARM) == {}
    assert list(tuned.table().columns) == tuned.TUNED_COLUMNS
    tuned.write_settings(*ARM, {"lr": 0.1})
    assert tuned.settings("mf", "digits", "3x256") == {}
    assert tuned.settings("bp", "digits", "2x256") == {}


def test_the_stores_rows_replace_the_shipped_ones_arm_by_arm():
    tuned.write_settings(*ARM, {"lr": 0.1, "weight_decay": 0.2}, tuned.SHIPPED, study="shipped")
    tuned.write_settings("bp", *ARM[1:], {"lr": 0.3}, tuned.SHIPPED, study="shipped")
    tuned.write_settings(*ARM, {"lr": 0.4}, study="own")
    assert tuned.settings(*ARM) == {"lr": 0.4}  # two searches are never mixed
    assert tuned.settings("bp", *ARM[1:]) == {"lr": 0.3}
    assert dict(tuned.table()[["algorithm", "study"]].values) == {"mf": "own", "bp": "shipped"}


def test_a_users_own_data_are_the_same_however_they_are_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.npz").symlink_to(tmp_path / "own.npz")
    tuned.write_settings("mf", "./own.npz", "2x256", {"lr": 0.1})
    tuned.write_settings("mf", "link.npz", "2x256", {"lr": 0.2})
    for spelling in ("own.npz", "./own.npz", str(tmp_path / "own.npz"), "link.npz"):
        assert tuned.settings("mf", spelling, "2x256") == {"lr": 0.2}
    assert tuned.table()["data"].tolist() == [str(tmp_path / "own.npz")]


def test_what_is_no_number_stays_text():
    values = {"lr": "[]", "batch_size": "{[]: 1}", "optimiser": "(" * 300, "epochs": "b'1'"}
    tuned.write_settings(*ARM, values)
    assert tuned.settings(*ARM) == values


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_one_line_and_the_file_stays_as_it_was(monkeypatch, number):
    path = tuned.write_settings(*ARM, {"lr": 0.1})
    content = path.read_bytes()

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFailed, match=f"{os.strerror(number)}.*give another path") as error:
        tuned.write_settings(*ARM, {"lr": 0.2})
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content
    assert {p.name for p in path.parent.iterdir()} == {"tuned.csv", "tuned.lock"}


def test_an_arm_written_again_is_replaced_whole_and_others_stay():
    tuned.write_settings("bp", *ARM[1:], {"lr": 0.3})
    tuned.write_settings(*ARM, {"lr": 0.1, "weight_decay": 0.2})
    tuned.write_settings(*ARM, {"lr": 0.5})
    assert tuned.settings(*ARM) == {"lr": 0.5}
    assert tuned.settings("bp", *ARM[1:]) == {"lr": 0.3}


def test_the_shipped_file_has_the_columns_and_one_value_per_parameter():
    rows = pd.read_csv(tuned.Path(tuned.__file__).with_name("tuned.csv"), dtype=str)
    assert list(rows.columns) == tuned.TUNED_COLUMNS
    assert not rows.duplicated([*tuned.TUNED_KEYS, "parameter"]).any()


def _write_one(path, k):
    tuned.write_settings("mf", "digits", f"1x{k}", {"lr": k / 100}, path)


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_one, args=(tmp_path / "t.csv", k)) for k in range(1, 9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(pd.read_csv(tmp_path / "t.csv")) == 8
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []  # no drafts are left


HEAD = ",".join(tuned.TUNED_COLUMNS) + "\n"
ROW = "mf,digits,2x256,none,lr,0.0012,s,20,8,0,convergence,97,r,m\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "algorithm,data\nmf,digits\n", '"\n', 64 * "\0", "[]\n", "null"),
        *(
            HEAD + ROW[:24],
            HEAD + ROW[:22] + "\n",
            HEAD + ROW[:-1],
            HEAD + ROW[:-1] + ",more\n",
            HEAD + ROW + ROW,
        ),
    ],
)
def test_a_broken_file_is_named_and_left_alone(text):
    path = tuned.store_path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for call in (tuned.table, lambda: tuned.write_settings(*ARM, {"lr": 0.1})):
        with pytest.raises(InvalidInput, match=rf"{path}.*remove it and tune again") as error:
            call()
        assert "\n" not in str(error.value)
    assert path.read_text() == text


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="give another path"):
        tuned.write_settings(*ARM, {"lr": 0.1}, tmp_path / "file" / "tuned.csv")


def test_a_file_of_before_there_were_budgets_is_read_and_kept_apart(tmp_path):
    old = HEAD.replace("passes,", "") + ROW.replace("none,", "", 1)
    path = tuned.store_path()
    path.parent.mkdir(parents=True)
    path.write_text(old)
    assert tuned.settings(*ARM) == {"lr": 0.0012}
    assert tuned.settings(*ARM, passes=8) == {}
    tuned.write_settings(*ARM, {"lr": 0.5}, passes=8)
    assert tuned.settings(*ARM) == {"lr": 0.0012}
    assert tuned.settings(*ARM, passes=8) == {"lr": 0.5}
    assert len(tuned.usual()) == 1
