"""Runs that are killed, interrupted and shared, on full disks: nothing is lost and nothing is done twice."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bpfree.experiments.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks"),
]

#: What the workers below have in common: a plan of small runs, a checkpoint wherever one may be, and a log.
PLAN = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
from bpfree.experiments import runner as running
from bpfree.training.checkpoint import Checkpoint
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.runner import run_many
from bpfree.experiments.store import Store

Checkpoint.every_s, Checkpoint.share = 0.0, float("inf")
running.POLL_S = 0.05
own = {"data": "digits", "architecture": "2x16", "max_epochs": 3, "device": "cpu"}
PLAN = [
    Experiment("bp", **own),
    Experiment("mf", **own),
    Experiment("mf", seed=1, **own),
    Experiment("mf_interleaved", precision="bf16", **own),
    Experiment("ff_sgd", **own),
    Experiment("cafo_rand", **{**own, "architecture": "cnn-2-4"}),
    Experiment("cafo_dfa", **{**own, "architecture": "cnn-2-4"}),
    Experiment("mf", protocol="matched", **own),
    Experiment("mf_sequential_joint", protocol="equal_energy", **own),
    Experiment("bp", hyperparameters={"lr": 1e30}, **own),  # diverges
]

def log(path, *words):
    with open(path, "a") as file:  # a line is one write, which the system appends
        file.write(" ".join([str(os.getpid()), *words]) + "\\n")

def logged(path):
    train, write = running._train, Store.write
    def logging_train(resolved, *rest, **how):
        log(path, "begins", resolved.key)
        return train(resolved, *rest, **how)
    def logging_write(self, record, *rest):
        written = write(self, record, *rest)
        log(path, "stored", record.key)
        return written
    running._train, Store.write = logging_train, logging_write
"""

#: Forks a worker for every line it is given: what a first run imports and reads is paid once.
NURSERY = (
    PLAN
    + """
import tempfile
with tempfile.TemporaryDirectory() as first:
    run_many(PLAN[:1], first, progress=False)

def die_at(number, store):
    # SIGKILL at this worker's n-th operation on the store's files.
    done = [0]
    def count(*_):
        done[0] += 1
        if done[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
    def audit(event, args):
        watched = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if event in watched and str(args[0]).startswith(store):
            count()
    sync = os.fsync
    def fsync(file):
        count()  # between writing and renaming
        sync(file)
    os.fsync = fsync
    sys.addaudithook(audit)

for line in sys.stdin:
    store, path, number = json.loads(line)
    pid = os.fork()
    if pid == 0:
        logged(path)
        if number:
            die_at(number, store)
        run_many(PLAN, store, progress=False)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
)


def start(script: str, *args, **how) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    own = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir()}  # else in TMPDIR
    environment = {**os.environ, **own, **how.pop("env", {})}
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, text=True, env=environment, **pipes, **how)


@contextmanager
def nursery():
    """A function that runs the plan in a store: for so many seconds, or to its n-th operation, or to its end.
    It returns whether the plan came to its end."""
    process = start(NURSERY)

    def work(store, log, *, seconds=None, operations=None) -> bool:
        process.stdin.write(json.dumps([str(store), str(log), operations]) + "\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        status = int(process.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status == 0

    try:
        yield work
    finally:
        process.stdin.close()
        errors = process.stderr.read()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert "Traceback" not in errors, errors


def outcomes(store: Path) -> dict:
    """Everything of the records that is no cost, to the byte; but of `equal_energy`, which depends on one."""
    found = {}
    for key in Store(store):
        record = Store(store).read(key)  # whole
        if record.experiment.protocol == "equal_energy":
            continue
        files = {name: record.folder / name for name in ("history.parquet", "weights.safetensors")}
        found[key] = (
            json.dumps(
                [record.experiment.plain(), record.status, record.metrics, record.stages, record.error]
            ),
            {name: path.read_bytes() for name, path in files.items() if path.exists()},
        )
    return found


def events(log: Path) -> list[list[str]]:
    """Who did what with which run, in order: [process, "begins" or "stored", key]."""
    return [line.split() for line in log.read_text().splitlines()]


def assert_trained_once(log: Path) -> None:
    """No run is begun after it was stored, and none is stored twice."""
    stored = set()
    for _, what, key in events(log):
        assert key not in stored
        if what == "stored":
            stored.add(key)


def assert_nothing_left(store: Path, but=()) -> None:
    """All files of a store are those of its records."""
    of_records = {p for key in Store(store) for p in Store(store).folder(key).iterdir()}
    assert {p for p in store.rglob("*") if p.is_file()} - of_records == set(but)
    assert not list(store.glob(".writing*"))


# ---------------------------------------------------------------- killed


def test_a_batch_killed_at_twenty_moments_loses_nothing_and_is_the_same(tmp_path):
    """Ten kills after so many seconds, and ten at the n-th operation on a file, which seconds would miss.

    A batch that comes to its end before all are done is followed by a new one.
    """
    chance, kills, batches, lost, resumed = random.Random(0), Counter(), 0, 0, 0
    with nursery() as work:
        begun = time.monotonic()
        assert work(tmp_path / "through", tmp_path / "through.log")
        seconds = time.monotonic() - begun
        expected = outcomes(tmp_path / "through")
        assert len(expected) == 9

        def moment() -> dict:
            if kills["seconds"] < 10 and (kills["operations"] == 10 or chance.random() < 0.5):
                return {"seconds": chance.uniform(0.02, 0.25) * seconds}
            return {"operations": chance.randint(1, 60)} if kills["operations"] < 10 else {}

        while kills.total() < 20:
            batches += 1
            store, log, ended, before = tmp_path / f"{batches}", tmp_path / f"{batches}.log", False, {}
            while not ended:
                how = moment()
                ended = work(store, log, **how)
                kills.update([] if ended else how.keys())
                now = outcomes(store)
                lost += sum(now.get(key) != content for key, content in before.items())
                before = now
            assert now == expected
            assert work(store, log)  # only reads
            assert_trained_once(log)
            assert_nothing_left(store)
            resumed += sum(Store(store).read(key).resumed for key in Store(store))
    print(f"{kills.total()} kills in {batches} batches: {lost} records lost, {resumed} resumptions")
    assert lost == 0
    assert resumed > 0


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    """The epochs that were trained before are not trained again: the killed run is resumed, not repeated."""
    with nursery() as work:
        assert not work(tmp_path / "store", tmp_path / "log", operations=40)
        (checkpoint,) = (tmp_path / "store" / "checkpoints").glob("*.safetensors")
        assert work(tmp_path / "store", tmp_path / "log")
        assert Store(tmp_path / "store").read(checkpoint.stem).resumed == 1


# ---------------------------------------------------------------- shared

WORKER = (
    PLAN
    + """
store, path = sys.argv[1:]
logged(path)
print("ready", flush=True)
sys.stdin.readline()
records = run_many(PLAN, store, progress=False)
print(json.dumps([record.key for record in records]), flush=True)
"""
)


@contextmanager
def workers(number: int, store: Path, log: Path):
    """Processes that begin the plan at the same time."""
    processes = [start(WORKER, store, log) for _ in range(number)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_two_processes_share_a_plan_and_train_nothing_twice(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    with workers(2, store, log) as processes:
        keys = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 10
    assert set(keys[0]) <= set(Store(store))
    outcomes(store)  # all whole
    begun = Counter(key for _, what, key in events(log) if what == "begins")
    assert set(begun.values()) == {1}
    shares = Counter(process for process, what, _ in events(log) if what == "stored")
    assert len(shares) == 2  # each did some
    assert sum(shares.values()) == len(begun) == len(list(Store(store)))
    assert_nothing_left(store)
    print(f"runs stored by process: {dict(shares)}; most trainings of one run: {max(begun.values())}")


def test_two_processes_share_a_store_with_damaged_records_and_train_each_once(tmp_path):
    """Every other record is damaged: it is set aside once and trained once, and the rest stays."""
    store, log = tmp_path / "store", tmp_path / "log"
    with workers(1, store, log) as (first,):
        json.loads(first.communicate(timeout=120)[0])
    before, chance = outcomes(store), random.Random(0)
    # But of BP, whose energy, another's budget, would be another.
    damaged = [key for key in before if Store(store).read(key).experiment.algorithm != "bp"][::2]
    for key in damaged:
        path = Store(store).folder(key) / chance.choice(("record.json", "cost.parquet", "SHA256SUMS"))
        path.write_bytes(path.read_bytes()[: chance.randrange(50)])
    log.unlink()
    with workers(2, store, log) as processes:
        for process in processes:
            assert len(json.loads(process.communicate(timeout=120)[0])) == 10
    assert outcomes(store) == before
    assert Counter(key for _, what, key in events(log) if what == "stored") == Counter(damaged)
    assert sorted(path.name[:64] for path in (store / "damaged").iterdir()) == sorted(damaged)


def test_who_lives_takes_over_from_who_is_killed(tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    with workers(2, store, log) as (first, second):
        deadline = time.monotonic() + 60
        while not (log.exists() and any(e[:2] == [str(first.pid), "begins"] for e in events(log))):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        first.kill()
        keys = json.loads(second.communicate(timeout=120)[0])
    assert set(keys) <= set(Store(store))
    begun = Counter(key for _, what, key in events(log) if what == "begins")
    assert sum(begun.values()) <= len(begun) + 1  # the one that the first was in
    assert_trained_once(log)
    assert_nothing_left(store)


def test_ctrl_c_in_a_script_says_how_to_go_on_and_leaves_nothing_half_written(tmp_path):
    """As typed on a terminal: `bpfree.run_many` in a script, no handler of its own."""
    script = WORKER.replace(
        "store, path", "signal.signal(signal.SIGINT, signal.default_int_handler)\nstore, path"
    )
    store, log = tmp_path / "store", tmp_path / "log"
    process = start(script, store, log)
    process.stdin.write("\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not (log.exists() and sum(what == "begins" for _, what, _ in events(log)) > 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    finished = len(list(Store(store)))
    assert "\nKeyboardInterrupt" in errors
    assert f"{finished} of 10 runs are in {store}; the same call goes on." in errors
    assert "is not finished; the same call goes on from" in errors
    assert not list(store.glob(".writing*"))
    assert not list(store.glob("locks/*.json"))  # nobody's
    with workers(1, store, log) as (again,):
        assert len(json.loads(again.communicate(timeout=120)[0])) == 10
    assert_trained_once(log)
    assert_nothing_left(store)


# ---------------------------------------------------------------- disks

SMALL_RUN = """
import sys
from bpfree.errors import BpfreeError
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.runner import run
architecture, seed = sys.argv[2:]
try:
    own = {"architecture": architecture, "seed": int(seed), "max_epochs": 1, "device": "cpu"}
    record = run(Experiment("mf", "digits", **own), sys.argv[1], progress=False)
    print(record.key, record.resumed)
except BpfreeError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def tiny_disk(tmp_path):
    """A function that mounts a file system of so many KiB; it is unmounted in the end."""
    mounted = []

    def mount(kib: int, name: str = "disk") -> Path:
        path = tmp_path / name
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(path)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def say(*args, **how) -> str:
    process = start(SMALL_RUN, *args, **how)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors  # no traceback, no signal
    return out.strip()


def test_a_store_on_a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room(tiny_disk):
    store = tiny_disk(1000)
    key, _ = say(store, "1x8", 0).split()
    before = (Store(store).folder(key) / "record.json").read_bytes()
    refused = say(store, "2x500", 1)  # 1.2 MB of weights
    for said in ("StorageFailed", str(store), "No space left on device", "make room there"):
        assert said in refused
    assert list(Store(store)) == [key]
    assert (Store(store).folder(key) / "record.json").read_bytes() == before
    assert not list(store.glob(".writing*"))
    subprocess.run(["mount", "-o", "remount,size=8000k", store], check=True)
    assert len(say(store, "2x500", 1).split()) == 2
    assert len(list(Store(store))) == 2
    assert_nothing_left(store)


def test_a_store_that_may_only_be_read_is_read(tiny_disk):
    store = tiny_disk(4000)
    key, _ = say(store, "1x8", 0).split()
    subprocess.run(["mount", "-o", "remount,ro", store], check=True)
    assert say(store, "1x8", 0) == f"{key} 0"
    refused = say(store, "1x8", 1)
    for said in ("StorageFailed", str(store), "Read-only file system", "make it writable, or use a store"):
        assert said in refused


CACHED = """
import os, signal, sys, torch
import bpfree.training.prefix
from bpfree.data import Data
from bpfree.algorithms import MonoForward
from bpfree.errors import BpfreeError
from bpfree.algorithms.networks import MLP
from bpfree.training.loop import train
sys.path.insert(0, "tests")
from helpers import toy
end, share, width = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
bpfree.training.prefix.SHARE_OF_FREE_MEMORY = share
data = toy(n=4000, shape=(1, 8, 8))

def epoch(algorithm, stage, row):
    if stage.name == "layer 2":
        if end == "exception":
            raise RuntimeError("an exception")
        if end == "killed":
            print("in stage 2", flush=True)
            sys.stdin.readline()

if end == "limited":
    import psutil, resource
    first = MonoForward(MLP([64, 8, 8], classes=3))  # what a first run imports is not meant
    train(first, toy(shape=(1, 8, 8)), max_epochs=1, progress=False)
    used = psutil.Process().memory_info().data
    resource.setrlimit(resource.RLIMIT_DATA, (used + (40 << 20), resource.RLIM_INFINITY))
try:
    mf = MonoForward(MLP([64, width, 8], classes=3))
    history = train(mf, data, max_epochs=1, on_epoch=epoch, progress=False)
    print(history.stages[1].prefix, flush=True)
except (BpfreeError, RuntimeError) as error:
    print(type(error).__name__, error, flush=True)
"""


def used(disk: Path) -> int:
    """Bytes in use on a file system."""
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("end", ["finished", "exception", "killed"])
def test_a_prefix_cached_on_disk_leaves_no_byte(end, tiny_disk):
    disk = tiny_disk(8000)
    empty = used(disk)
    process = start(CACHED, end, 0.0, 200, env={"TMPDIR": str(disk)})
    if end == "killed":
        assert process.stdout.readline() == "in stage 2\n"
        assert used(disk) - empty >= 4000 * 200 * 4  # it is there
        process.kill()
    out, errors = process.communicate(timeout=120)
    assert {"finished": "cached on disk", "exception": "RuntimeError an exception", "killed": ""}[end] in out
    assert not errors
    assert list(disk.iterdir()) == []
    assert used(disk) == empty
    print(f"bytes left: {used(disk) - empty}")


def test_a_prefix_that_the_disk_has_no_room_for_is_refused_in_one_line(tiny_disk):
    """Not by SIGBUS in the middle of an epoch, which is what a file of holes ends in."""
    disk = tiny_disk(1000)
    process = start(CACHED, "finished", 0.0, 200, env={"TMPDIR": str(disk)})
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    for said in ("StorageFailed", str(disk), "No space left on device", "set TMPDIR", "cache=False"):
        assert said in out
    assert out.count("\n") == 1
    assert list(disk.iterdir()) == []


def test_a_prefix_beyond_a_limit_of_memory_goes_to_disk(tmp_path):
    """32 MB of features, where the process may take 40 MB more and half of that is the budget."""
    process = start(CACHED, "limited", 0.5, 2000, env={"TMPDIR": str(tmp_path)})
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out.strip() == "cached on disk"
    assert not list(tmp_path.iterdir())
    assert tempfile.gettempdir() != str(tmp_path)
