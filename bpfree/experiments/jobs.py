"""Runs as jobs: on a Slurm cluster, in processes of this machine, or one after the other in this process.

Whoever trains a run puts its record into the store; so jobs may be lost, repeated or joined by other batches
at any time. Processes of this machine each go through the whole list, as `run_many` does. On a cluster each
run is a job of its own, which submitit hands to its process as a pickle in `<store>/jobs`: what is in it is
ours, never data, records or weights.
"""

import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import platformdirs
import torch
from tqdm import tqdm

from ..errors import InvalidInput, StorageFailed, choose, disk
from ..errors.program import helpers, run_program, stop_with_starter, threads_each
from ..training.progress import shown
from .experiment import Experiment
from .runner import run_many
from .store import Store

JOB_KINDS = ("slurm", "local", "inline")
#: What --slurm sets: numbers that submitit translates, and words that go to sbatch as they are.
NUMBERS = {"timeout_min": int, "cpus_per_task": int, "gpus_per_node": int, "mem_gb": float}
SBATCH = ("partition", "account", "qos", "constraint", "gres", "nodelist", "exclude", "mem_per_gpu")
SBATCH += ("comment",)
TIMEOUT_MIN = 240  # of a job on a cluster, where nothing else is said
REQUEUES = 20  # of a job whose time was up: its run goes on
TRIES = 2
JOB_POLL_S = {"slurm": 5.0, "local": 0.5}
RETRY_AFTER_S = (5, 15, 60, 180, 600, 600, 600)  # pauses before jobs are submitted again
#: What sbatch says when it would take the same jobs later, and when it would take fewer at a time.
TEMPORARY = re.compile(
    "timed out|temporarily|not responding|unable to contact|connection|zero bytes|standby|retry|try again",
    re.IGNORECASE,
)
TOO_MANY = re.compile("job array specification|SubmitJob")
TEMPORARY_ERRNO = (errno.EAGAIN, errno.ENOMEM)  # the same of this machine, when a process is to be started

log = logging.getLogger("bpfree")


@dataclass(frozen=True)
class Failure:
    """A run that failed as often as it was tried: why, in one line, and where its log lies, if it has one."""

    experiment: Experiment
    reason: str
    log: Path | None

    def __str__(self) -> str:
        where = f"; its log is {self.log}" if self.log else ""
        return f"{self.experiment.label} ({self.experiment.protocol}) failed: {self.reason}{where}"


def submit(
    experiments: Iterable[Experiment],
    kind: str = "local",
    store: Store | str | os.PathLike | None = None,
    *,
    workers: int | None = None,
    at_once: int = 1,
    slurm: Mapping[str, object] | None = None,
    progress: bool = True,
) -> list[Failure]:
    """Trains the runs that are not in the store yet, as jobs.

    The reference run of a budget goes before the runs that share it out. A run that fails is tried once more,
    and then reported, while the others go on. A run that diverges is no failure: that is its record. Ctrl-C
    cancels what is queued and stops what runs; its note says what is finished.

    Args:
        kind: "slurm", "local" (processes of this machine) or "inline" (this process).
        store: must lie where all the jobs' machines see it.
        workers: runs at a time. Default: on a cluster all; in local processes one for each GPU, or one. The
            seconds and joules of runs that share a processor are not those of a run alone.
        at_once: runs side by side in each local process or in this one; see `run_many`. Those of a process
            that dies are tried one by one.
        slurm: settings of the jobs; see `slurm_settings`.

    Raises:
        InvalidInput: submitit is not installed, there is no Slurm, or it refuses the jobs permanently, which
            is raised after those that it accepted have ended.
        StorageFailed: the files that tell the jobs what to do cannot be written.
    """
    choose("kind of job", kind, JOB_KINDS)
    batch = Batch(experiments, Store(store).root.absolute())
    total = len(batch.runs)
    try:
        with tqdm(total=total, desc=f"{kind} jobs", unit="run", **shown(progress)) as bar:
            if kind == "slurm":
                on_cluster(batch, workers or total, slurm or {}, bar)
            elif kind == "local":
                in_processes(batch, workers, at_once, bar)
            else:
                train_here(batch, bar, at_once=at_once)
        return batch.failures()
    except KeyboardInterrupt as stop:
        stop.add_note(
            f"{sum(map(batch.is_done, batch.runs))} of {total} runs are in {batch.root}, the other jobs were "
            "cancelled. The same command goes on: what was trained is read from the store."
        )
        raise
    finally:
        batch.tidy()


class Batch:
    """The outcome of each run so far, noted in files that all processes see which train them.

    runs: each once, the references of budgets first; root: of the store; folder: of the notes and the logs.
    """

    def __init__(self, experiments: Iterable[Experiment], root: Path, folder: Path | None = None):
        given = list(experiments)
        self.reference = {e: e.reference() for e in given}
        self.runs = list(dict.fromkeys([*filter(None, self.reference.values()), *given]))
        self.root, self.folder = root, folder or new_folder(root)
        with disk.refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def file(self, e: Experiment, kind: str) -> Path:
        return self.folder / f"run{self.runs.index(e)}.{kind}"

    def note(self, e: Experiment, failure: str | None = None, log: Path | None = None) -> None:
        """Notes that a run is in the store, or that an attempt at it has failed."""
        with open(self.file(e, "notes"), "a", encoding="utf-8") as file:
            file.write(json.dumps([failure, log and str(log)]) + "\n")

    def notes(self, e: Experiment) -> list[list[str | None]]:
        path = self.file(e, "notes")
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def is_done(self, e: Experiment) -> bool:
        return any(failure is None for failure, _ in self.notes(e))

    def failure(self, e: Experiment) -> Failure | None:
        """The failure of a run, or of the reference run without which it has no budget; else None."""
        notes, reference = self.notes(e), self.reference.get(e)
        if len(notes) >= TRIES and not self.is_done(e):
            why, log = notes[-1]
            return Failure(e, why, log and Path(log))
        without = reference and self.failure(reference)
        return without and Failure(e, f"its reference run {reference.label} failed", without.log)

    def failures(self) -> list[Failure]:
        return list(filter(None, map(self.failure, self.runs)))

    def is_left(self, e: Experiment) -> bool:
        return not (self.is_done(e) or self.failure(e))

    def is_ready(self, e: Experiment) -> bool:
        """Whether it is left and need not wait for a reference run."""
        reference = self.reference.get(e)
        return self.is_left(e) and (reference is None or self.is_done(reference))

    def show(self, bar: tqdm, running: int) -> None:
        bar.set_postfix(running=running, failed=len(self.failures()), refresh=False)
        bar.update(len(self.runs) - sum(map(self.is_left, self.runs)) - bar.n)

    def tidy(self) -> None:
        """Removes all files but the logs of failed runs."""
        kept = {failure.log for failure in self.failures()}
        for path in self.folder.glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):  # it is not empty
                folder.rmdir()


# ---------------------------------------------------------------- in this process, and in others beside it


def train_here(batch: Batch, bar: tqdm | None = None, number: str = "", at_once: int = 1) -> None:
    """Trains what no other process trains, until every run of the batch is done or has failed.

    number: of this process, if there are several: a run that it holds has a mark by which the others can tell
        if it dies, and each has a log of its tracebacks.
    """

    def attempt(e: Experiment, go: Callable) -> bool | None:
        if batch.is_ready(e):
            log, mark = (batch.file(e, kind) if number else None for kind in ("log", f"held{number}"))
            try:
                if mark:
                    mark.touch()
                if go() is not None:
                    batch.note(e)
            except Exception as error:
                if log:
                    with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
                        traceback.print_exc(file=file)
                batch.note(e, reason(error), log)
            finally:
                if mark:
                    mark.unlink(missing_ok=True)
        if batch.is_left(e):
            return None
        if bar is not None:
            bar.update()
        return True

    run_many(batch.runs, batch.root, progress=False, at_once=at_once, attempt=attempt)


def in_processes(batch: Batch, workers: int | None, at_once: int, bar: tqdm) -> None:
    """Trains a batch in processes of this machine, each with its share of the cores and its own GPU."""
    # The values of CUDA_VISIBLE_DEVICES under which a process sees one of this process's GPUs.
    names, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    gpus = names.split(",")[:count] if names else [str(i) for i in range(count)]
    workers = min(workers or len(gpus) or 1, len(batch.runs))
    told = {"root": str(batch.root), "runs": [vars(e) for e in batch.runs]}
    with disk.refusals(batch.folder):
        (batch.folder / "batch.json").write_text(json.dumps(told, default=dict), encoding="utf-8")

    def begin(number: int, at_once: int = at_once) -> subprocess.Popen:
        own = {"OMP_NUM_THREADS": threads_each(workers), **os.environ}
        if gpus:
            own["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        code = "import sys; from bpfree.experiments.jobs import process; sys.exit(process())"
        command = [sys.executable, "-c", code, str(batch.folder), str(number), str(at_once)]
        with open(batch.folder / f"process{number}.log", "ab") as log:
            how = {"env": own, "stdout": log, "stderr": subprocess.STDOUT}
            return with_retries(lambda: start(command, **how), batch.folder)

    def died(number: int, status: int, left: list[Experiment]) -> subprocess.Popen:
        """Says of which run a process died that has left these, and begins another in its place.

        If it held several, any may have been its end: none is blamed, and they are tried one by one.
        """
        log = batch.folder / f"process{number}.log"
        marks = {e: batch.file(e, f"held{number}") for e in left}
        held = [e for e, mark in marks.items() if mark.exists()]
        for mark in marks.values():
            mark.unlink(missing_ok=True)
        if len(held) > 1:
            return begin(number, at_once=1)
        batch.note((held or left)[0], f"its process ended without a result (status {status})", log)
        return begin(number)

    with helpers(grace_s=5) as start:
        working = {number: begin(number) for number in range(workers)}
        while working:
            time.sleep(JOB_POLL_S["local"])
            for number, status in [(n, process.poll()) for n, process in working.items()]:
                left = [e for e in batch.runs if batch.is_left(e)]
                if status and left:
                    working[number] = died(number, status, left)
                elif status is not None:
                    del working[number]
            batch.show(bar, len(working))


def process() -> int:
    """The program that `in_processes` starts: it trains a batch until that, or the parent process, ends."""

    def work(argv: Sequence[str]) -> int:
        stop_with_starter()
        folder, number, at_once = Path(argv[0]), argv[1], int(argv[2])
        told = disk.read_object((folder / "batch.json").read_bytes())
        batch = Batch([Experiment(**run) for run in told["runs"]], Path(told["root"]), folder)
        train_here(batch, number=number, at_once=at_once)
        return 0

    return run_program("job", work)


# ---------------------------------------------------------------- on a cluster


@dataclass
class Training:
    """What a job does: train a run, or find that it is in the store. Returns the record's key."""

    root: Path

    def __call__(self, experiment: Experiment) -> str:
        (record,) = run_many([experiment], self.root, progress=False)
        return record.key

    def checkpoint(self, experiment: Experiment):
        """Called when the time is up or the job is preempted: Slurm queues it again, and on a machine of the
        same kind the run resumes from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, experiment)


def on_cluster(batch: Batch, workers: int, slurm: Mapping[str, object], bar: tqdm) -> None:
    """Trains a batch in Slurm jobs, `workers` at a time; those that are ready are submitted as one array."""
    cluster, store = engine(batch.folder, slurm), Store(batch.root)
    elsewhere = f"its record is not in {batch.root}, which must lie where every machine sees it"
    running, refusal = {}, None
    try:
        while running or (any(map(batch.is_ready, batch.runs)) and not refusal):
            ready = [e for e in batch.runs if batch.is_ready(e) and e not in running]
            ready = ready[: workers - len(running)]
            try:
                if ready and not refusal:
                    array = partial(cluster.map_array, Training(batch.root), ready)
                    running |= zip(ready, with_retries(array, batch.folder), strict=True)
            except InvalidInput as error:
                refusal = error
                log.warning("%s; waiting for the %d jobs that run", refusal, len(running))
            for e in [e for e, job in running.items() if job.done()]:
                job = running.pop(e)
                error = job.exception()
                if error is None and job.result() in store:
                    batch.note(e)
                else:
                    batch.note(e, reason(error) if error else elsewhere, job.paths.stdout)
            batch.show(bar, len(running))
            time.sleep(JOB_POLL_S["slurm"])
    finally:
        for job in running.values():
            job.cancel(check=False)
    if refusal:
        raise refusal


def run_on_cluster(
    words: Sequence[str], store: Store, slurm: Mapping[str, object]
) -> subprocess.CompletedProcess:
    """Runs a command as a Slurm job, in this folder, and waits for it.

    Raises InvalidInput if Slurm refuses it or it ends without an exit status.
    """
    logs = new_folder(store.root.absolute())
    cluster = engine(logs, slurm)
    how = {"cwd": Path.cwd(), "capture_output": True, "encoding": "utf-8", "errors": "replace"}
    job = with_retries(lambda: cluster.submit(subprocess.run, list(words), **how), logs)
    print(f"the chapters are job {job.job_id}, whose log is {job.paths.stdout}", flush=True)
    try:
        while not job.done():
            time.sleep(JOB_POLL_S["slurm"])
    except KeyboardInterrupt:
        job.cancel(check=False)
        raise
    if error := job.exception():
        raise InvalidInput(f"job {job.job_id} failed: {reason(error)}; its log is {job.paths.stdout}")
    done = job.result()
    shutil.rmtree(logs, ignore_errors=True)
    with suppress(OSError):  # where others have theirs
        logs.parent.rmdir()
    return done


def engine(logs: Path, slurm: Mapping[str, object]):
    """submitit's executor. Raises InvalidInput if submitit is not installed or there is no Slurm."""
    try:
        import submitit
    except ImportError:
        raise InvalidInput("a job of kind 'slurm' needs submitit: pip install 'bpfree[cluster]'") from None
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise InvalidInput(
            "a job of kind 'slurm' finds no sbatch and srun here: use a machine that submits jobs, or 'local'"
        )
    made = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=REQUEUES)
    made.update_parameters(name="bpfree", stderr_to_stdout=True, **{"timeout_min": TIMEOUT_MIN, **slurm})
    return made


def new_folder(root: Path) -> Path:
    """A folder for the jobs of a batch, in the store if submitit and Slurm take its path as it is.

    In a path with %j or %t they would put numbers, a backslash is Slurm's, and its scripts are UTF-8.
    """
    for folder in (root, platformdirs.user_cache_path("bpfree")):
        if re.fullmatch(r"[^%\\\n\ud800-\udfff]*", str(folder)):
            return folder / "jobs" / uuid.uuid4().hex[:8]
    raise InvalidInput(f"jobs cannot be told of {root}: use a store in a folder without % and \\ in its path")


def with_retries(submit_jobs: Callable, logs: Path):
    """What `submit_jobs()` returns; a temporary refusal is tried again after each of `RETRY_AFTER_S`. Raises
    InvalidInput, which says what helps, for a permanent refusal or when the last try was refused."""
    for pause in (*RETRY_AFTER_S, None):
        try:
            with disk.refusals(logs), redirect_stderr(io.StringIO()):  # where submitit repeats what it raises
                return submit_jobs()
        except StorageFailed as error:
            cause, remedy = error.__cause__, ""
            if cause.errno not in TEMPORARY_ERRNO:
                raise
        except RuntimeError as error:  # submitit's, with what sbatch has said
            cause, remedy = error, ""
            if TOO_MANY.search(str(error)):
                remedy = "give a smaller --workers, so that fewer are handed in at a time"
            elif not TEMPORARY.search(str(error)):
                remedy = "change --slurm" + ", or give a smaller --workers" * ("submit limit" in str(error))
        said = [line for line in str(cause).splitlines() if "error:" in line] or [last_line(str(cause))]
        if remedy:
            raise InvalidInput(f"Slurm refuses the jobs ({said[0].strip()}): {remedy}") from cause
        why = f"no jobs are taken at present ({said[0].strip()})"
        if pause is None:
            raise InvalidInput(f"{why}: try again later") from cause
        log.warning("%s: trying again in %g s", why, pause)
        time.sleep(pause)


def slurm_settings(pairs: Sequence[str]) -> dict[str, object]:
    """What `--slurm KEY=VALUE ...` says, as submitit takes it. Raises UnknownName or InvalidInput."""
    settings: dict[str, object] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not value:
            raise InvalidInput(f"--slurm {pair!r}: give KEY=VALUE, such as partition=gpu")
        choose("setting of --slurm", key, [*NUMBERS, *SBATCH])
        if key in SBATCH:
            settings[f"slurm_{key}"] = value
            continue
        number = re.fullmatch(r"[0-9]+(\.[0-9]+)?" if NUMBERS[key] is float else r"[0-9]+", value)
        if not number or not float(value):
            raise InvalidInput(f"--slurm {pair!r}: {key} takes a number greater than 0, as in {key}=4")
        settings[key] = NUMBERS[key](value)
    return settings


def reason(error: BaseException) -> str:
    """Why a run failed, in one line."""
    kind, text = type(error).__name__, str(error)
    if kind == "FailedJobError":  # submitit's, with the traceback between two rules
        parts = re.split(r"^-{10,}$", text, flags=re.MULTILINE)
        return last_line(parts[1] if len(parts) > 2 else text).removeprefix("bpfree.errors.")
    if kind == "UncompletedJobError":
        state = re.search(r"\(state: (.+?)\)", text)
        return f"its process ended without a result ({state[1] if state else last_line(text)})"
    return f"{kind}: {last_line(text)}"


def last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]
