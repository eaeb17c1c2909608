"""Many runs, several processes, one store: each run is trained once, and waited for by who comes second."""

import errno
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import same
from tqdm import tqdm

from bpfree.data import PUBLISHED
from bpfree.energy import EnergyMeter
from bpfree.errors import InvalidInput, MissingData, StorageFailed, TrainingDiverged
from bpfree.evidence.tables.summary import bill_of_run
from bpfree.experiments import runner
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.runner import run, run_many
from bpfree.experiments.store import RunLock, Store
from bpfree.training.checkpoint import Checkpoint
from bpfree.training.stopping import Budget

SMALL = {"data": "digits", "architecture": "1x4", "max_epochs": 1, "device": "cpu"}
DIVERGING = {"options": {"optimiser": "sgd"}, "hyperparameters": {"lr": 1e30}}


def small(algorithm="bp", **changes) -> Experiment:
    return Experiment(algorithm, **{**SMALL, **changes})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def trainings(monkeypatch):
    """The experiments that were trained, in order."""
    done, plain = [], runner._train

    def train(resolved, *rest, **how):
        done.append((resolved.algorithm, resolved.seed))
        return plain(resolved, *rest, **how)

    monkeypatch.setattr(runner, "_train", train)
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    return done


def until(condition) -> None:
    """Waits for another thread; it has a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------- claims

HOLDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from bpfree.experiments.store import RunLock
claim = RunLock(Path(sys.argv[1]), "key")
print(claim.take(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the claim of "key"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_claim_is_one_processs_until_it_dies(tmp_path, holder):
    mine = RunLock(tmp_path, "key")
    assert not mine.take()
    assert not mine.take(0.1)
    assert mine.holder() == f"process {holder.pid} on {socket.gethostname()}"
    assert RunLock(tmp_path, "another").take()
    os.kill(holder.pid, signal.SIGKILL)
    assert mine.take(30.0)
    assert mine.holder() == f"process {os.getpid()} on {socket.gethostname()}"
    mine.lock.release()


def test_a_claim_is_given_up_however_its_holder_ends(tmp_path):
    def interrupted():
        with RunLock(tmp_path, "key") as claim:
            assert claim.take()
            assert not RunLock(tmp_path, "key").take()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with RunLock(tmp_path, "key") as again:
        assert again.take()
        again.forget()
    assert not list(tmp_path.iterdir())


def test_who_does_not_take_it_leaves_it_to_its_holder(tmp_path):
    with RunLock(tmp_path, "key") as first:
        assert first.take()
        with RunLock(tmp_path, "key") as second:
            assert not second.take()
        assert not RunLock(tmp_path, "key").take()
        assert "process" in first.holder()


NOTES = ["", "[]", "{", "null", "3", '{"pid": 1}', '{"pid": [], "host": {}}', '{"pid": 1, "host": "a\\nb"}']


@pytest.mark.parametrize("note", [*NOTES, 100_000 * "[", "\0" * 30])
def test_a_note_that_cannot_be_read_is_another_process(tmp_path, note):
    claim = RunLock(tmp_path, "key")
    claim.note.write_text(note)
    assert claim.holder() == "another process"


@pytest.mark.parametrize("reason", ["errno", "old filelock", "new filelock"])
def test_a_file_system_without_locks_is_said_in_one_line(tmp_path, monkeypatch, reason):
    def acquire(timeout):
        if reason == "errno":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        if reason == "old filelock":
            raise NotImplementedError
        warnings.warn("flock not supported on this filesystem, falling back to SoftFileLock", stacklevel=2)

    claim = RunLock(tmp_path, "key")
    monkeypatch.setattr(claim.lock, "acquire", acquire)
    with pytest.raises(StorageFailed, match=r"has no locks.*use a store elsewhere") as raised:
        claim.take()
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux which files are open")
def test_where_an_open_file_cannot_be_removed_a_claim_is_given_up_all_the_same(store, monkeypatch):
    """As on Windows: a run is stored, and neither its lock nor anything else is left."""
    remove = os.unlink

    def is_open(path):
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the folder's own has been closed
                if os.path.samefile(f"/proc/self/fd/{descriptor}", path):
                    return True
        return False

    def unlink(self, missing_ok=False):
        if is_open(self):
            raise PermissionError(errno.EACCES, "it is being used by another process", str(self))
        with suppress(*[FileNotFoundError] * missing_ok):
            remove(self)

    monkeypatch.setattr("pathlib.Path.unlink", unlink)
    key = run(small(), store, progress=False).key
    assert list(store) == [key]
    assert not list((store.root / "locks").iterdir())


# ---------------------------------------------------------------- one run


def test_a_run_that_another_process_trains_is_waited_for_and_read(store, trainings, caplog):
    experiment = small()
    key = run(experiment, store, progress=False).key
    folder = store.folder(key)
    away = folder.rename(folder.with_name("away"))
    caplog.set_level(logging.INFO, "bpfree")
    results = []
    with store.claim(key) as other:
        assert other.take()
        waiting = threading.Thread(target=lambda: results.append(run(experiment, store, progress=False)))
        waiting.start()
        until(lambda: caplog.messages)
        assert not results
        away.rename(folder)  # "another process" stores it
        other.forget()
    waiting.join(30)
    assert results[0].key == key
    assert trainings == [("bp", 0)]
    assert f"bp digits 1x4 seed 0: waiting for process {os.getpid()} on" in caplog.messages[0]


def test_a_run_whose_trainer_gave_up_is_trained_by_who_waited(store, trainings):
    key = run(small(), store, progress=False).key
    store.folder(key).rename(store.root / "away")
    results, first = [], store.claim(key)
    assert first.take()
    waiting = threading.Thread(target=lambda: results.append(run(small(), store, progress=False)))
    waiting.start()
    first.__exit__()
    waiting.join(30)
    assert results[0].key == key
    assert len(trainings) == 2


def test_data_that_change_while_a_run_is_waited_for_are_not_trained_by_its_key(tmp_path, store, trainings):
    experiment = small(data=str(own_data(tmp_path / "own.npz", 0)))
    key = run(experiment, tmp_path / "elsewhere", progress=False).key
    trainings.clear()
    job = runner._Job(experiment, store, progress=False, keep_weights=True)
    with store.claim(key) as other:
        assert other.take()
        assert job.attempt(wait=False) is None
    own_data(tmp_path / "own.npz", 1)
    with pytest.raises(InvalidInput, match=r"own\.npz was changed after its run had begun: run it again"):
        job.attempt(wait=False)
    assert not trainings
    assert list(store) == []
    assert run(experiment, store, progress=False).key != key


def own_data(path, seed):
    chance = np.random.default_rng(seed)
    x, y = chance.random((60, 6)), np.arange(60) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_record_that_the_system_does_not_let_us_read_is_not_taken_for_damaged(
    store, monkeypatch, number, trainings
):
    record = run(small(), store, progress=False)
    trainings.clear()

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", refuse)
        for call in (lambda: run(small(), store, progress=False), record.weights):
            with pytest.raises(StorageFailed, match=f"cannot be read .{os.strerror(number)}") as raised:
                call()
            assert "\n" not in str(raised.value)
    assert not trainings
    assert run(small(), store, progress=False).metrics == record.metrics
    assert not (store.root / "damaged").exists()


def test_a_damaged_record_of_a_reference_run_is_trained_again_too(store, trainings, caplog):
    matched = small("mf", architecture="2x4", protocol="matched")
    (before,) = run_many([matched], store, progress=False)
    reference = run(matched.reference(), store, progress=False)
    for record in (before, reference):
        (record.folder / "cost.parquet").write_bytes(b"PAR1")
    trainings.clear()
    (after,) = run_many([matched], store, progress=False)
    assert trainings == [("bp", 0), ("mf", 0)]
    assert (after.key, after.metrics) == (before.key, before.metrics)
    assert len(caplog.messages) == len(list((store.root / "damaged").iterdir())) == 2


def test_a_stored_run_needs_no_claim(store, monkeypatch):
    record = run(small(), store, progress=False)

    def refuse(*_):
        raise AssertionError("claimed")

    monkeypatch.setattr(Store, "claim", refuse)  # as in a store that may only be read
    assert run(small(), store, progress=False).metrics == record.metrics
    assert run_many([small()], store, progress=False)[0].metrics == record.metrics


def test_a_finished_run_leaves_nothing_but_its_record(store, monkeypatch):
    monkeypatch.setattr(Checkpoint, "every_s", 0.0)
    monkeypatch.setattr(Checkpoint, "share", float("inf"))
    run(small(max_epochs=2), store, progress=False)
    files = {p.relative_to(store.root).parts[0] for p in store.root.rglob("*") if p.is_file()}
    (key,) = store
    assert files == {key[:2]}


def test_what_an_epoch_costs_is_counted_once_for_all_seeds_of_an_arm(store, tmp_path, monkeypatch):
    from bpfree import diagnostics
    from bpfree.experiments import runner

    monkeypatch.setattr(runner, "_counted", {})
    real, calls = diagnostics.counts, []
    monkeypatch.setattr(diagnostics, "counts", lambda *what: calls.append(what) or real(*what))
    costs = ("total_flop", "memory_bytes", "graph_bytes")

    def bill(store, **changes):
        cost = run(small("mf", architecture="2x6", max_epochs=2, **changes), store, progress=False).cost
        return [cost[name] for name in costs]

    first, second = bill(store), bill(store, seed=1)
    assert len(calls) == 1
    runner._counted.clear()
    assert bill(tmp_path / "alone", seed=1) == second == first
    assert bill(store, hyperparameters={"batch_size": 32}) != first  # another arm
    assert len(calls) == 3


def test_what_an_epoch_costs_is_that_of_the_data_set_and_not_of_another_with_its_arrays(
    tmp_path, monkeypatch
):
    """CIFAR-10 is augmented, so that its prefixes are not cached; a user's file with its images is not."""
    monkeypatch.setitem(PUBLISHED, "cifar10", replace(PUBLISHED["cifar10"], train=60, test=20))
    monkeypatch.setenv("BPFREE_DATA", str(tmp_path))
    chance = np.random.default_rng(0)
    arrays = {f"x_{k}": chance.integers(0, 256, (n, 32, 32, 3), np.uint8) for k, n in PARTS}
    arrays |= {f"y_{k}": np.arange(n) % 10 for k, n in PARTS}
    for name in ("cifar10", "own"):
        np.savez(tmp_path / f"{name}.npz", **arrays)

    def bill(data, store):
        experiment = small("mf", data=data, architecture="2x4", hyperparameters={"batch_size": 16})
        cost = run(experiment, tmp_path / store, progress=False).cost
        return {name: value for name, value in cost.items() if name.endswith(("_flop", "_bytes"))}

    both, alone = (str(tmp_path / "own.npz"), "cifar10"), {}
    for data in both:
        runner._counted.clear()
        alone[data] = bill(data, "alone")
    assert alone[both[0]] != alone[both[1]]
    for order in (both, both[::-1]):
        runner._counted.clear()
        assert {data: bill(data, f"{Path(order[0]).stem} first") for data in order} == alone


PARTS = (("train", 60), ("test", 20))


def test_a_run_goes_on_from_its_checkpoint_and_its_record_says_so(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "every_s", 0.0)
    monkeypatch.setattr(Checkpoint, "share", float("inf"))
    experiment = small("mf", architecture="2x4", max_epochs=3)
    through, plain, writes = run(experiment, tmp_path / "through", progress=False), Checkpoint.save, []

    def die(self, *state, **how):
        plain(self, *state, **how)
        writes.append(1)
        if len(writes) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", die)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(experiment, store, progress=False)
    (path,) = (store.root / "checkpoints").iterdir()
    assert stop.value.__notes__ == [
        f"mf digits 2x4 seed 0 is not finished; the same call goes on from {path}."
    ]
    assert list(store) == []
    resumed = run(experiment, store, progress=False)
    assert (through.resumed, resumed.resumed) == (0, 1)
    assert len(writes) == 5 + 2 + 1  # two epochs and the end of the second stage were left
    assert (resumed.key, resumed.metrics, resumed.stages) == (through.key, through.metrics, through.stages)
    assert resumed.history.equals(through.history)
    assert same(resumed.weights(), through.weights())
    assert not list((store.root / "checkpoints").iterdir())
    before = resumed.epoch_cost[["prefix_s", "train_s", "val_s"]][:3].sum().sum()
    assert resumed.trace["time_s"].min() > before  # what the machine did since, counted from the beginning
    assert set(resumed.trace["stage"]) == {"layer 2"}


def test_another_machines_checkpoint_is_not_gone_on_with(store, monkeypatch, caplog):
    monkeypatch.setattr(Checkpoint, "every_s", 0.0)
    monkeypatch.setattr(Checkpoint, "share", float("inf"))
    plain = runner.train_resolved

    def interrupted(*args, on_epoch=None, **how):
        def stop(algorithm, stage, row):
            if row["epoch"] == 2:
                raise KeyboardInterrupt

        return plain(*args, on_epoch=stop, **how)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train_resolved", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(small(max_epochs=3), store, progress=False)
    here = runner.machine("cpu")
    monkeypatch.setattr(runner, "machine", lambda device: {**here, "id": "elsewhere"})
    assert run(small(max_epochs=3), store, progress=False).resumed == 0
    assert "is of another run, machine or version: passed over" in caplog.text


# ---------------------------------------------------------------- a disk that refuses


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_record_that_cannot_be_written_is_kept_in_the_checkpoint(store, monkeypatch, trainings):
    other = run(small(seed=1), store, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(StorageFailed) as raised:
            run(small("mf", architecture="2x4"), store, progress=False)
    for said in (str(store.root), "No space left on device", "make room", "unharmed"):
        assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(store) == [other.key]
    assert store.read(other.key).metrics == other.metrics
    assert not list(store.root.glob(".writing*"))
    assert len(list((store.root / "checkpoints").iterdir())) == 1

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("bpfree.training.executor.step", refuse)
    assert run(small("mf", architecture="2x4"), store, progress=False).resumed == 1


def test_a_full_disk_is_one_line_even_if_there_is_no_room_for_the_checkpoint(store, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        run(small(), store, progress=False)
    assert list(store) == []
    assert not list((store.root / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_store_that_may_only_be_read_says_so_before_anything_is_trained(
    store, monkeypatch, number, trainings
):
    def read_only(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    with pytest.raises(StorageFailed) as raised:
        run(small(), store, progress=False)
    for said in (str(store.root), os.strerror(number), "make it writable, or use a store elsewhere"):
        assert said in str(raised.value)
    assert not trainings


def test_what_a_killed_writer_left_is_removed_by_who_trains_the_run(store, monkeypatch):
    key = run(small(), store, progress=False).key
    store.folder(key).rename(store.root / "away")
    drafts = [store.root / f".writing-{k}-{'0' * 32}" for k in (key, "f" * 64)]
    for draft in drafts:
        draft.mkdir()
        (draft / "history.parquet").write_bytes(b"half")
    run(small(), store, progress=False)
    assert [draft.exists() for draft in drafts] == [False, True]  # another run's may be being written


# ---------------------------------------------------------------- many


def test_many_runs_are_returned_in_their_order_and_trained_once(store, trainings):
    experiments = [small(seed=1), small("mf"), small(seed=0), small("mf")]
    records = run_many(experiments, store, progress=False)
    assert [(r.experiment.algorithm, r.experiment.seed) for r in records] == [
        ("bp", 1), ("mf", 0), ("bp", 0), ("mf", 0)
    ]  # fmt: skip
    assert trainings == [("bp", 1), ("mf", 0), ("bp", 0)]
    assert run_many(iter(experiments), store, progress=False)[0].metrics == records[0].metrics
    assert len(trainings) == 3
    assert run_many([], store) == []


def test_a_run_that_diverges_does_not_end_the_batch(store, trainings):
    experiments = [small(**DIVERGING), small(seed=1), small("mf", protocol="matched", **DIVERGING)]
    failed, fine, without_budget = run_many(experiments, store, progress=False)
    assert (failed.status, fine.status) == ("failed", "finished")
    assert failed.error["stage"] == "network"
    assert without_budget.status == "failed"  # its reference's
    assert without_budget.experiment.algorithm == "bp"
    with pytest.raises(TrainingDiverged):
        run(experiments[2], store, progress=False)
    assert len(trainings) == 3


def test_anything_else_ends_the_batch_and_what_is_finished_stays(store, tmp_path):
    with pytest.raises(MissingData):
        run_many([small(), small(data=str(tmp_path / "none.npz"))], store, progress=False)
    assert len(list(store)) == 1


def test_ctrl_c_ends_the_batch_and_says_how_to_go_on(store, monkeypatch):
    plain = runner._train

    def interrupted(resolved, *rest, **how):
        if resolved.seed == 2:
            raise KeyboardInterrupt
        return plain(resolved, *rest, **how)

    monkeypatch.setattr(runner, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        run_many([small(seed=s) for s in range(4)], store, progress=False)
    assert stop.value.__notes__ == [
        "bp digits 1x4 seed 2 is not finished; the same call goes on from its beginning.",
        f"2 of 4 runs are in {store.root}; the same call goes on.",
    ]
    assert len(list(store)) == 2
    assert [p.suffix for p in (store.root / "locks").iterdir()] == [".lock"]  # nobody's


def test_what_others_are_training_is_left_to_the_end(store, trainings, tmp_path):
    experiments = [small(seed=s) for s in range(3)]
    keys = [run(e, tmp_path / "elsewhere", progress=False).key for e in experiments]
    trainings.clear()
    other = store.claim(keys[0])
    assert other.take()
    results = []
    batch = threading.Thread(target=lambda: results.extend(run_many(experiments, store, progress=False)))
    batch.start()
    until(lambda: len(list(store)) == 2)
    assert trainings == [("bp", 1), ("bp", 2)]
    (tmp_path / "elsewhere" / keys[0][:2] / keys[0]).rename(make_parent(store.folder(keys[0])))
    batch.join(30)
    assert [r.key for r in results] == keys
    assert trainings == [("bp", 1), ("bp", 2)]
    other.__exit__()


def make_parent(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_budgeted_run_waits_for_its_reference(store, trainings, tmp_path):
    matched = small("mf", architecture="2x4", protocol="matched")
    reference = matched.reference()
    key = run(reference, tmp_path / "elsewhere", progress=False).key
    trainings.clear()
    other = store.claim(key)
    assert other.take()
    job = runner._Job(matched, store, progress=False, keep_weights=True)
    assert job.attempt(wait=False) is None
    assert "process" in job.holder
    assert not trainings
    other.__exit__()
    assert job.attempt(wait=False).experiment.budget == Budget("passes", 1)
    assert trainings == [("bp", 0), ("mf", 0)]


def test_a_bar_counts_the_runs_and_says_which(store, monkeypatch):
    screen = io.StringIO()

    class Bar(tqdm):  # whatever TQDM_DISABLE says
        def __init__(self, *args, **settings):
            super().__init__(*args, **{"disable": False, "file": screen, "mininterval": 0, **settings})

    monkeypatch.setattr(runner, "tqdm", Bar)
    run_many([small(), small(seed=1)], store)
    for shown in ("bp digits 1x4 seed 0:   0%", "bp digits 1x4 seed 1:  50%", "2/2"):
        assert shown in screen.getvalue()
    screen.truncate(0)
    run_many([small()], store, progress=False)
    assert screen.getvalue() == ""


def test_a_budget_of_energy_from_a_run_that_was_not_alone_is_said_to_be_too_large(store, monkeypatch, caplog):
    for others in (True, False):
        monkeypatch.setattr("bpfree.energy.meter.contended", lambda *_, others=others: others)
        caplog.clear()
        experiment = small("mf", architecture="2x4", max_epochs=2, protocol="equal_energy", seed=int(others))
        record = run(experiment, store, progress=False)
        assert record.contended == others
        assert ("shared its machine" in caplog.text) == others


def test_a_budget_of_energy_from_a_run_that_lost_a_sensor_is_its_seconds_and_said_so(
    store, monkeypatch, caplog
):
    for lost in (True, False):
        known = property(lambda self, lost=lost: None if lost and self.name == "val" else 2.0)
        monkeypatch.setattr("bpfree.energy.reading.Reading.measured_j", known)
        caplog.clear()
        experiment = small("mf", architecture="2x4", max_epochs=2, protocol="equal_energy", seed=int(lost))
        record = run(experiment, store, progress=False)
        assert record.experiment.budget.unit == ("s" if lost else "measured_j")
        assert ("not all joules were measured" in caplog.text) == lost
        assert ("total_measured_j" in record.cost, "train_measured_j" in record.cost) == (not lost, True)


def test_a_record_says_what_its_joules_are_gross_and_net_of(tmp_path, monkeypatch):
    class Plug:
        name, unit, channel, period_s = "plug", "W", "machine", 0.01
        read = staticmethod(lambda: 75.0)

    looks = []

    def measure_idle(seconds, **_):
        looks.append(seconds)
        return SimpleNamespace(watts={"machine": 50.0}, values=())

    monkeypatch.setattr(runner, "EnergyMeter", lambda **how: EnergyMeter(sources=[Plug()], **how))
    monkeypatch.setattr(runner, "measure_idle", measure_idle)
    monkeypatch.setattr(runner, "_idle", {})
    store = Store(tmp_path)
    record = run(small(), store, progress=False)
    run(small(seed=1), store, progress=False)
    assert len(looks) == 1  # once in a process
    monkeypatch.setattr(runner, "_idle", {})
    assert run(small(seed=2), store, progress=False).meter["idle_w"] == record.meter["idle_w"]
    assert len(looks) == 1  # and on a machine
    for kept in (tmp_path / "idle").iterdir():
        os.utime(kept, (0, 0))
    monkeypatch.setattr(runner, "_idle", {})
    run(small(seed=3), store, progress=False)
    assert len(looks) == 2  # but not for ever
    again = store.find(record.experiment)
    assert again.meter == record.meter
    assert record.meter["idle_w"] == {"bare": {"machine": 50.0}}
    gross, seconds = record.cost["total_measured_j"], record.cost["total_s"]
    assert gross == pytest.approx(75 * seconds, rel=0.1)
    assert record.meter["net_measured_j"]["bare"] == pytest.approx(gross - 50 * seconds)
    assert record.meter["sensors"]["plug machine"]["watts"] == pytest.approx(75.0, rel=0.01)
    table = bill_of_run(record, "POL").set_index("how it was obtained")
    assert table.loc["net of the idle power", "what"] == "energy"


def test_a_channel_whose_idle_power_is_not_known_leaves_no_net(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runner, "measure_idle", lambda seconds, **_: SimpleNamespace(watts={"gpu:7": 50.0}, values=())
    )
    monkeypatch.setattr(runner, "_idle", {})
    record = run(small(), Store(tmp_path), progress=False)
    assert record.meter["net_measured_j"] == {}


def test_idle_power_that_was_measured_under_load_is_not_kept(tmp_path, monkeypatch):
    looks, busy = [], SimpleNamespace(flags=("contention",))

    def measure_idle(seconds, **_):
        looks.append(seconds)
        return SimpleNamespace(watts={"gpu:0": 60.0}, values=[SimpleNamespace(flags=()), busy])

    monkeypatch.setattr(runner, "measure_idle", measure_idle)
    for flags, times in ((("contention",), 1), ((), 2), ((), 2)):
        busy.flags = flags
        monkeypatch.setattr(runner, "_idle", {})  # another process
        for _ in range(2):
            assert runner.idle_power(torch.device("cpu"), Store(tmp_path)) == {"bare": {"gpu:0": 60.0}}
        assert len(looks) == times
