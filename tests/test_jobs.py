"""Runs as jobs: each once, references first, a failure tried again and then told, Ctrl-C that tidies up.

The cluster is an imitation of Slurm's commands that runs their scripts here.
"""

import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from helpers import in_background
from nbformat import write as write_notebook
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from submitit.core.utils import FailedJobError

import run_all
from bpfree.errors import InvalidInput, MissingData, UnknownName
from bpfree.evidence import book as batch
from bpfree.experiments import jobs, runner, study
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.jobs import Training, reason, slurm_settings, submit
from bpfree.experiments.store import Store

ROOT = Path(run_all.__file__).parent
SMALL = {"architecture": "1x4", "max_epochs": 1, "device": "cpu"}


def small(algorithm="bp", **changes) -> Experiment:
    return Experiment(algorithm, **{**SMALL, **changes})


ABSENT = small(data="/no/such/folder/own.npz")
DIVERGING = small(options={"optimiser": "sgd"}, hyperparameters={"lr": 1e30})


def stored(store) -> list[tuple]:
    """Algorithm, seed and protocol of every record."""
    found = [Store(store).read(key).experiment for key in Store(store)]
    return sorted((e.algorithm, e.seed, e.protocol) for e in found)


@pytest.fixture
def trainings(monkeypatch):
    """What was trained in this process, in order; a `broken` algorithm raises as often as it says."""
    done, broken, plain = [], Counter(), runner._train

    def train(resolved, *rest, **how):
        done.append((resolved.algorithm, resolved.seed, resolved.protocol))
        if broken[resolved.algorithm] > 0:
            broken[resolved.algorithm] -= 1
            raise RuntimeError("lost the GPU")
        return plain(resolved, *rest, **how)

    monkeypatch.setattr(runner, "_train", train)
    return SimpleNamespace(done=done, broken=broken)


# ---------------------------------------------------------------- in this process


def test_each_run_is_trained_once_and_references_first(tmp_path, trainings):
    runs = [small("mf", protocol="matched"), small(), small("mf"), small(seed=1), small("mf")]
    assert submit(runs, "inline", tmp_path, progress=False) == []
    bp, mf = ("bp", 0, "convergence"), ("mf", 0, "convergence")
    assert trainings.done[0] == bp
    assert sorted(trainings.done) == sorted([bp, ("bp", 1, "convergence"), mf, ("mf", 0, "matched")])
    assert stored(tmp_path) == sorted(trainings.done)
    assert submit(runs, "inline", tmp_path, progress=False) == []
    assert len(trainings.done) == 4
    assert not (tmp_path / "jobs").exists()


def test_what_fails_once_is_tried_again(tmp_path, trainings):
    trainings.broken["mf"] = 1
    assert submit([small("mf"), small()], "inline", tmp_path, progress=False) == []
    assert Counter(trainings.done) == {("mf", 0, "convergence"): 2, ("bp", 0, "convergence"): 1}
    assert len(stored(tmp_path)) == 2


def test_what_fails_twice_is_reported_and_the_others_go_on(tmp_path, trainings):
    trainings.broken["mf"] = 99
    failures = submit([ABSENT, small("mf"), small("bp_ds")], "inline", tmp_path, progress=False)
    assert [f.experiment for f in failures] == [ABSENT, small("mf")]
    assert [f.reason.partition(":")[0] for f in failures] == ["MissingData", "RuntimeError"]
    assert str(failures[1]) == "mf digits 1x4 seed 0 (convergence) failed: RuntimeError: lost the GPU"
    assert Counter(trainings.done)["mf", 0, "convergence"] == 2
    assert stored(tmp_path) == [("bp_ds", 0, "convergence")]


def test_without_its_reference_run_nothing_is_trained_on_its_budget(tmp_path, trainings):
    trainings.broken["bp"] = 99
    budgeted = small("mf", protocol="matched")
    failures = submit([budgeted, small("mf")], "inline", tmp_path, progress=False)
    assert [f.experiment for f in failures] == [small(), budgeted]
    assert failures[1].reason == "its reference run bp digits 1x4 seed 0 failed"
    assert stored(tmp_path) == [("mf", 0, "convergence")]


def test_divergence_is_a_record_and_no_failure(tmp_path, trainings):
    assert submit([DIVERGING], "inline", tmp_path, progress=False) == []
    assert len(trainings.done) == 1
    (key,) = Store(tmp_path)
    assert Store(tmp_path).read(key).status == "failed"


def test_an_interrupt_says_what_is_finished(tmp_path, monkeypatch):
    plain = runner._train

    def train(resolved, *rest, **how):
        if resolved.algorithm == "mf":
            raise KeyboardInterrupt
        return plain(resolved, *rest, **how)

    monkeypatch.setattr(runner, "_train", train)
    with pytest.raises(KeyboardInterrupt) as stop:
        submit([small(), small("mf"), small("bp_ds")], "inline", tmp_path, progress=False)
    assert f"1 of 3 runs are in {tmp_path}, the other jobs were cancelled" in stop.value.__notes__[-1]
    assert stored(tmp_path) == [("bp", 0, "convergence")]


# ---------------------------------------------------------------- what is handed in, and when


class Engine:
    """submitit's part, played: every job ends at the second look, as `fates` (of an algorithm) say.

    refusals: what is raised when jobs are handed in, time after time; None: nothing.
    """

    def __init__(self, store: Path, fates=()):
        self.store, self.fates = store, dict(fates)
        self.running, self.peak, self.order, self.cancelled = 0, 0, [], []
        self.refusals = []

    def map_array(self, training, experiments):
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        self.running += len(experiments)
        self.peak = max(self.peak, self.running)
        self.order += [e.algorithm for e in experiments]
        return [Job(self, training, e) for e in experiments]


class Job:
    def __init__(self, engine: Engine, training: Training, experiment: Experiment):
        self.engine, self.training, self.experiment, self.looks = engine, training, experiment, 0
        self.job_id, self.paths = "7", SimpleNamespace(stdout=Path("log"))

    def done(self) -> bool:
        if self.engine.fates.get(self.experiment.algorithm) == "interrupt":
            raise KeyboardInterrupt
        self.looks += 1
        return self.looks == (6 if self.engine.fates.get(self.experiment.algorithm) == "long" else 2)

    def exception(self):
        self.engine.running -= 1
        if self.engine.fates.get(self.experiment.algorithm) != "elsewhere":
            self.key = self.training(self.experiment)
        else:
            self.key = "0" * 64

    def result(self) -> str:
        return self.key

    def cancel(self, check):
        self.engine.cancelled.append(self.experiment.algorithm)


def play(monkeypatch, store: Path, **fates) -> Engine:
    played = Engine(store, fates)
    monkeypatch.setattr(jobs, "engine", lambda *_: played)
    monkeypatch.setitem(jobs.JOB_POLL_S, "slurm", 0.0)
    return played


def test_never_more_jobs_than_workers(tmp_path, monkeypatch):
    runs = [small(a) for a in ("bp", "mf", "bp_ds", "mf_joint", "ff")]
    played = play(monkeypatch, tmp_path)
    assert submit(runs, "slurm", tmp_path, workers=2, progress=False) == []
    assert played.peak == 2
    assert played.order == ["bp", "mf", "bp_ds", "mf_joint", "ff"]
    assert played.cancelled == []


def test_a_cluster_has_all_at_once_but_what_needs_a_reference(tmp_path, monkeypatch):
    runs = [small("mf", protocol="matched"), small("ff"), small("mf_joint", protocol="equal_energy")]
    played = play(monkeypatch, tmp_path)
    assert submit(runs, "slurm", tmp_path, progress=False) == []
    assert sorted(played.order[:2]) == ["bp", "ff"]
    assert sorted(played.order[2:]) == ["mf", "mf_joint"]
    assert played.peak == 2


def test_a_record_that_lies_elsewhere_is_a_failure(tmp_path, monkeypatch):
    play(monkeypatch, tmp_path, bp="elsewhere")
    (failure,) = submit([small()], "slurm", tmp_path, progress=False)
    assert failure.reason == f"its record is not in {tmp_path}, which must lie where every machine sees it"
    assert str(failure).endswith("; its log is log")


def test_an_interrupt_cancels_what_is_queued(tmp_path, monkeypatch):
    played = play(monkeypatch, tmp_path, mf="interrupt")
    with pytest.raises(KeyboardInterrupt):
        submit([small(), small("mf")], "slurm", tmp_path, progress=False)
    assert sorted(played.cancelled) == ["bp", "mf"]


def sbatch_fails(*lines: str) -> FailedJobError:
    return FailedJobError("\n".join(f"sbatch: error: {line}" for line in lines))


PASSING = [
    sbatch_fails("Batch job submission failed: Socket timed out on send/recv operation"),
    sbatch_fails("Batch job submission failed: Unable to contact slurm controller (connect failure)"),
    sbatch_fails(
        "Slurm temporarily unable to accept job, sleeping and retrying.",
        "Batch job submission failed: Resource temporarily unavailable",
    ),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
]


def test_jobs_refused_in_passing_are_handed_in_again_and_those_that_run_go_on(tmp_path, monkeypatch, caplog):
    runs = [small(), small("ff"), small("mf", protocol="matched")]
    played = play(monkeypatch, tmp_path, ff="long")
    played.refusals = [None, *PASSING]  # the second time, while ff runs
    monkeypatch.setattr(jobs, "RETRY_AFTER_S", (0.0,) * len(PASSING))
    assert submit(runs, "slurm", tmp_path, progress=False) == []
    assert played.cancelled == []
    assert played.order == ["bp", "ff", "mf"]
    assert len(stored(tmp_path)) == 3
    assert len(caplog.messages) == len(PASSING)
    assert all(line.startswith("no jobs are taken at present (") for line in caplog.messages)


def test_jobs_that_are_refused_for_ever_are_given_up(tmp_path, monkeypatch):
    play(monkeypatch, tmp_path).refusals = [PASSING[0]] * 9
    monkeypatch.setattr(jobs, "RETRY_AFTER_S", (0.0, 0.0))
    with pytest.raises(
        InvalidInput, match=r"no jobs are taken at present \(.*Socket timed out.*try again later"
    ):
        submit([small()], "slurm", tmp_path, progress=False)


def test_after_a_refusal_for_good_what_runs_ends_before_it_is_said(tmp_path, monkeypatch):
    runs = [small(), small("ff"), small("mf", protocol="matched")]
    played = play(monkeypatch, tmp_path, ff="long")
    played.refusals = [None, sbatch_fails("QOSMaxSubmitJobPerUserLimit", "Batch job submission failed")]
    with pytest.raises(
        InvalidInput, match=r"\(sbatch: error: QOSMaxSubmitJobPerUserLimit\): give a .*--workers"
    ):
        submit(runs, "slurm", tmp_path, progress=False)
    assert played.cancelled == []
    assert stored(tmp_path) == [("bp", 0, "convergence"), ("ff", 0, "convergence")]


def test_settings_of_a_cluster_are_typed():
    assert slurm_settings(["partition=gpu", "timeout_min=120", "mem_gb=7.5", "gres=gpu:a100:1"]) == {
        "slurm_partition": "gpu",
        "timeout_min": 120,
        "mem_gb": 7.5,
        "slurm_gres": "gpu:a100:1",
    }
    with pytest.raises(UnknownName, match="did you mean 'partition'"):
        slurm_settings(["partitions=gpu"])
    for bad in ("partition", "partition=", "timeout_min=1.5", "timeout_min=0", "mem_gb=1e3"):
        with pytest.raises(InvalidInput, match=f"--slurm '{bad}'"):
            slurm_settings([bad])


def test_without_submitit_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InvalidInput, match=r"'slurm' needs submitit: pip install 'bpfree\[cluster\]'"):
        submit([small()], "slurm", tmp_path)


def test_a_reason_is_one_line():
    from submitit.core.utils import FailedJobError, UncompletedJobError

    rule = "-" * 22
    trace = "Traceback (most recent call last):\n  File x\nbpfree.errors.MissingData: no mnist in /data\n"
    failed = FailedJobError(f"Job failed with trace:\n{rule}\n{trace}\n{rule}\nYou can check full logs")
    assert reason(failed) == "MissingData: no mnist in /data"
    lost = UncompletedJobError(
        "Job 1 has not produced any output (state: OUT_OF_MEMORY)\nError stream\n---\nx"
    )
    assert reason(lost) == "its process ended without a result (OUT_OF_MEMORY)"
    assert reason(MissingData("no mnist")) == "MissingData: no mnist"


# ---------------------------------------------------------------- run_all.py


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Two chapters of which only 00 has runs: those in `runs`."""
    folder = tmp_path / "chapters"
    folder.mkdir()
    for name in ("00_a", "04_b"):
        cells = [
            new_markdown_cell(f"# {name}\n\nWhy?"),
            new_code_cell("seeds: list = []", metadata={"tags": ["parameters"]}),
            new_code_cell("print('read')"),
        ]
        kernel = {"name": "python3", "display_name": "x"}
        info = {"kernelspec": kernel, "language_info": {"name": "python"}}
        write_notebook(new_notebook(cells=cells, metadata=info), folder / f"{name}.ipynb")
    runs, executed = [small(), small("mf", protocol="matched")], []
    monkeypatch.setattr(study, "plan", lambda chosen, numbers: runs if numbers == ["00"] else 1 / 0)
    monkeypatch.setattr(batch, "execute", lambda chapter, *_: executed.append(chapter.name))
    monkeypatch.setattr("bpfree.evidence.pages.Pages.end", lambda *_: None)
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))

    def run(*argv):
        executed.clear()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_all.main([*argv, "--output", str(tmp_path / "out")], folder)
        return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())

    return SimpleNamespace(run=run, runs=runs, executed=executed, folder=folder, store=tmp_path / "store")


def test_the_batch_trains_first_and_then_executes_the_chapters(book, trainings):
    result = book.run("--jobs", "inline")
    assert result.status == 0, result.err
    assert "inline: 2 of 2 runs are in the store" in result.out
    assert stored(book.store) == [("bp", 0, "convergence"), ("mf", 0, "matched")]
    assert book.executed == ["00_a", "04_b"]
    book.run("--jobs", "inline", "--only", "04")  # which has no runs
    assert book.executed == ["04_b"]
    assert len(trainings.done) == 2


def test_after_a_failure_the_chapters_wait_unless_told_otherwise(book):
    book.runs.append(ABSENT)
    result = book.run("--jobs", "inline")
    assert result.status == 1
    assert book.executed == []
    first, second = result.err.splitlines()
    assert first.startswith(
        "run_all.py: bp own 1x4 seed 0 (convergence) failed: MissingData: no file /no/such"
    )
    assert "--keep-going" in second
    assert "2 of 3 runs are in the store" in result.out
    assert book.run("--jobs", "inline", "--keep-going").status == 1
    assert book.executed == ["00_a", "04_b"]


# ---------------------------------------------------------------- processes of this machine


#: Every Python that is started runs this first: it writes down what is trained, and `mf_joint` fails once.
FLAKY = """
import os, sys
from pathlib import Path

def train(resolved, *rest, **how):
    notes = Path(os.environ["NOTES"])
    with open(notes / "trained", "a") as log:
        log.write(f"{resolved.algorithm} {os.environ.get('OMP_NUM_THREADS')}\\n")
    if resolved.algorithm == "mf_joint" and not (notes / "again").exists():
        (notes / "again").touch()
        raise RuntimeError("out of luck")
    if resolved.algorithm == "bp_ds" and not (notes / "killed").exists():
        (notes / "killed").touch()
        os.kill(os.getpid(), 9)
    return plain(resolved, *rest, **how)

if sys.argv[0] == "-c":
    from bpfree.experiments import runner
    plain, runner._train = runner._train, train
"""


@pytest.mark.slow
def test_local_processes_share_the_store_and_fail_alone(tmp_path, monkeypatch, capfd):
    (tmp_path / "sitecustomize.py").write_text(FLAKY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    store = tmp_path / "store"
    runs = [small("mf", protocol="matched"), small("mf_joint"), small("bp_ds"), ABSENT]
    (failure,) = submit(runs, "local", store, workers=2, progress=False)
    assert failure.experiment == ABSENT
    assert failure.reason.startswith("MissingData: no file /no/such/folder/own.npz")
    assert "Traceback" in failure.log.read_text()
    names = [("bp", "convergence"), ("bp_ds", "convergence"), ("mf", "matched"), ("mf_joint", "convergence")]
    assert stored(store) == [(name, 0, protocol) for name, protocol in names]
    trained = Counter((tmp_path / "trained").read_text().split("\n")[:-1])
    threads = int(jobs.threads_each(2))
    assert trained == {f"{a} {threads}": 2 if a in ("mf_joint", "bp_ds") else 1 for a, _ in names}
    assert [p.name for p in failure.log.parent.iterdir()] == [failure.log.name]
    assert "OMP_NUM_THREADS" not in os.environ
    assert capfd.readouterr().err == ""


#: As above: `bp_ds` ends its process whenever it is trained, at first not before the two others are, too.
DEADLY = """
import os, sys, time
from pathlib import Path

def train(resolved, *rest, **how):
    notes = Path(os.environ["NOTES"])
    (notes / f"{resolved.algorithm}.begun").touch()
    while resolved.algorithm == "bp_ds":
        if len(list(notes.glob("*.begun"))) == 3:
            os.kill(os.getpid(), 9)
        time.sleep(0.01)
    time.sleep(2)
    return plain(resolved, *rest, **how)

if sys.argv[0] == "-c":
    from bpfree.experiments import runner
    plain, runner._train = runner._train, train
"""


@pytest.mark.slow
def test_of_runs_side_by_side_the_one_that_kills_their_process_is_told(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("NOTES", str(tmp_path))
    runs = [small(name) for name in ("bp_ds", "bp", "mf")]
    (failure,) = submit(runs, "local", tmp_path / "store", workers=1, at_once=3, progress=False)
    assert failure.experiment.algorithm == "bp_ds"
    assert "its process ended without a result (status -9)" in failure.reason
    assert [name for name, *_ in stored(tmp_path / "store")] == ["bp", "mf"]


LONG = """
import sys
from pathlib import Path
import run_all
from bpfree.experiments import study
from bpfree.experiments.experiment import Experiment
own = {"architecture": "1x4", "device": "cpu"}
study.plan = lambda *_: [
    Experiment("bp", max_epochs=1, **own),
    Experiment("bp", **{**own, "architecture": "9x999"}),  # trains for minutes
    Experiment("mf", max_epochs=1, **own),
]
sys.exit(run_all.main(["--jobs", "local", "--only", "00", "--output", sys.argv[1]]))
"""


@pytest.fixture
def batch_of_minutes(tmp_path):
    """A batch with its first run in the store and its second in training."""
    store = tmp_path / "store"

    def ready() -> bool:
        trained = {path.parent.name for path in store.glob("??/*/record.json")}
        return bool(trained and {path.stem for path in store.glob("locks/*.json")} - trained)

    command = [sys.executable, "-c", LONG, str(tmp_path)]
    with in_background(command, ready, BPFREE_STORE=str(store), PYTHONPATH=str(ROOT)) as (process, children):
        assert children
        yield process, children, store


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize(
    ("sent", "status", "says"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_ends_local_processes_and_leaves_nothing(sent, status, says, batch_of_minutes):
    process, children, store = batch_of_minutes
    process.send_signal(getattr(signal, sent))
    _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert err.count("\n") == 1, err
    assert err.startswith(f"run_all.py: {says}; 1 of 3 runs are in ")
    assert "The same command goes on" in err
    assert psutil.wait_procs(children, 60)[1] == []
    assert not (store / "jobs").exists()
    assert stored(store) == [("bp", 0, "convergence")]


@pytest.mark.slow
def test_local_processes_do_not_outlive_a_batch_that_is_killed(batch_of_minutes):
    process, children, _ = batch_of_minutes
    process.kill()
    assert psutil.wait_procs(children, 60)[1] == []


@pytest.mark.slow
def test_the_path_of_a_store_may_be_any(tmp_path, monkeypatch):
    """%j and %t are numbers to submitit, and quotes and spaces a shell's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = tmp_path / "run%t %j 'a'"
    assert submit([small()], "local", store, progress=False) == []
    assert stored(store) == [("bp", 0, "convergence")]


# ---------------------------------------------------------------- a cluster, imitated

SBATCH = """
import os, re, subprocess, sys
script = open(sys.argv[1]).read()
if "--partition=wrong" in script:
    sys.exit("sbatch: error: invalid partition specified: wrong\\nsbatch: error: Batch job submission failed")
number, folder = str(os.getpid()), os.environ["CLUSTER"]
if "--array=0-3" in script:  # more than MaxArraySize
    sys.exit("sbatch: error: Batch job submission failed: Invalid job array specification")
open(f"{folder}/{number}.sh", "w").write(script)
array = re.search(r"--array=0-(\\d+)", script)
for task in range(int(array[1]) + 1) if array else [None]:
    env = {**os.environ, "SLURM_JOB_ID": number, "SLURM_PROCID": "0"}
    if task is not None:
        env |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}
    subprocess.Popen(["bash", f"{folder}/{number}.sh"], env=env, stdin=-3, stdout=-3, stderr=-3,
                     start_new_session=True)
print("Submitted batch job", number)
"""
SRUN = """
import os, sys
words = sys.argv[1:]
output = words[words.index("--output") + 1]
number = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
output = output.replace("%A_%a", f"{number}_{os.environ.get('SLURM_ARRAY_TASK_ID')}")
output = output.replace("%j", number).replace("%t", "0")
os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
os.dup2(1, 2)
start = next(i for i, w in enumerate(words) if "python" in w)
os.execvp(words[start], words[start:])
"""
SACCT = "print('JobID|State|NodeList')"  # knows nothing yet: the result's file says that a job has ended


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, code in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": ""}.items():
        (commands / name).write_text(f"#!{sys.executable}\n{code}")
        (commands / name).chmod(0o755)
    (tmp_path / "cluster").mkdir()
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setitem(jobs.JOB_POLL_S, "slurm", 0.2)
    return lambda: [path.read_text() for path in sorted((tmp_path / "cluster").glob("*.sh"))]


def test_what_slurm_refuses_is_one_line(cluster, tmp_path, capfd):
    said = "Slurm refuses the jobs .*invalid partition specified: wrong.*: change --slurm"
    with pytest.raises(InvalidInput, match=said) as raised:
        submit([small()], "slurm", tmp_path, slurm={"slurm_partition": "wrong"}, progress=False)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
    assert cluster() == []


def test_of_an_array_too_large_it_says_that_fewer_workers_help(cluster, tmp_path):
    runs = [small(seed=seed) for seed in range(4)]
    with pytest.raises(InvalidInput, match=r"Invalid job array specification\): give a smaller --workers"):
        submit(runs, "slurm", tmp_path, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["store", "run%j %t ü"])
def test_a_cluster_trains_an_array_of_runs(name, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = [small("mf", protocol="matched"), small("ff"), ABSENT]
    settings = slurm_settings(["partition=gpu", "gpus_per_node=1", "timeout_min=7"])
    (failure,) = submit(runs, "slurm", tmp_path / name, slurm=settings, progress=False)
    assert failure.experiment == ABSENT
    assert failure.reason.startswith("MissingData: no file")
    assert stored(tmp_path / name) == [
        ("bp", 0, "convergence"),
        ("ff", 0, "convergence"),
        ("mf", 0, "matched"),
    ]
    scripts = cluster()
    assert len(scripts) == 3  # the array, the second try, and the run that waited for its reference
    assert sum("--array=0-2" in script for script in scripts) == 1
    for line in ("--partition=gpu", "--gpus-per-node=1", "--time=7", "--job-name=bpfree"):
        assert all(line in script for script in scripts)


@pytest.mark.slow
def test_the_chapters_are_a_job_as_well(cluster, book, monkeypatch, tmp_path):
    seen = tmp_path / "seen"
    (tmp_path / "run_all.py").write_text(
        f"import json, os, sys\njson.dump(sys.argv[1:], open({str(seen)!r}, 'w'))\nprint('index: here')\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    argv = ["--jobs", "slurm", "--only", "00", "--slurm", "partition=gpu", "mem_gb=2"]
    result = book.run(*argv)
    assert result.status == 3
    assert "index: here\n" in result.out
    assert json.loads(seen.read_text()) == ["--only", "00", "--output", str(tmp_path / "out")]
    assert stored(book.store) == [("bp", 0, "convergence"), ("mf", 0, "matched")]
    assert book.executed == []
