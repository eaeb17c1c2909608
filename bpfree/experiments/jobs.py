"""Runs as independent jobs: on a Slurm cluster, in processes of this machine, or one by one in this process.

A job is one run. It puts its record into the store, where whoever needs it finds it; so jobs need no other
tie, and may be lost, repeated or joined by other batches at any time. They are submitit's. It hands a job to
its process as a pickle, which it writes beside the log in `<store>/jobs` and reads back itself: what is in
it is ours, never data, records or weights.
"""

import errno
import io
import logging
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from tqdm import tqdm

from ..errors import BpfreeError, InvalidInput, StorageFailed, choose, disk
from ..errors.program import stop_with_starter, stopped_by_sigterm
from .experiment import Experiment
from .runner import loaded, run_many, spent
from .store import Record, Store, key_of

KINDS = {"slurm": "slurm", "local": "local", "inline": "debug"}  # our name -> submitit's
#: What --slurm sets: numbers that submitit translates, and words that go to sbatch as they are.
NUMBERS = {"timeout_min": int, "cpus_per_task": int, "gpus_per_node": int, "mem_gb": float}
WORDS = ("partition", "account", "qos", "constraint", "gres", "nodelist", "exclude", "mem_per_gpu", "comment")
TIMEOUT_MIN = 240  # on a cluster, where nothing else is said
REQUEUES = 20  # of a job whose time was up: its run goes on
FOREVER_MIN = 60 * 24 * 365
TRIES = 2
POLL_S = {"slurm": 5.0, "local": 0.2, "inline": 0.0}
GOODBYE_S = 5.0  # for cancelled processes
PAUSES_S = (5, 15, 60, 180, 600, 600, 600)  # before jobs that were refused in passing are handed in again
#: What sbatch says when it would take the same jobs later, and what when it would take fewer at a time.
PASSING = re.compile(
    "timed out|temporarily|not responding|unable to contact|connection|zero bytes|standby|retry|try again",
    re.IGNORECASE,
)
TOO_MANY = re.compile("job array specification|SubmitJob")
LATER = (errno.EAGAIN, errno.ENOMEM)  # the same of this machine, when a process is to be started

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


class Training:
    """What a job does, as its process receives it: train the run, or find that it is in the store.

    Args:
        environment: variables that the process shall have as ours has them; None: not set.
        tied: whether it ends with whoever started it, as `stop_with_starter` has it.
    """

    def __init__(
        self,
        experiment: Experiment,
        root: Path,
        environment: Mapping[str, str | None],
        tied: bool = False,
    ):
        self.experiment, self.root, self.environment = experiment, root, dict(environment)
        self.tied = tied

    def __call__(self) -> str:
        if not self.tied:
            return self.train()
        with stopped_by_sigterm():  # which submitit would have ignored
            stop_with_starter()
            return self.train()

    def train(self) -> str:
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        (record,) = run_many([self.experiment], self.root, progress=False)
        return record.key

    def checkpoint(self):
        """Called on a cluster when the time is up or the machine is taken away: Slurm queues the same job
        again, and on a machine of the same kind the run goes on from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    experiments: Iterable[Experiment],
    kind: str = "local",
    store: Store | str | os.PathLike | None = None,
    *,
    workers: int | None = None,
    slurm: Mapping[str, object] | None = None,
    progress: bool = True,
) -> list[Failure]:
    """Sees to it that all these runs are in the store, each trained by a job of its own.

    The reference run of a budget goes before the runs that share it out. A job that fails is tried once more,
    and then reported, while the others go on. A run that diverges is no failure: that is its record.

    Args:
        kind: "slurm", "local" (processes of this machine) or "inline" (this process).
        store: must lie where all the jobs' machines see it.
        workers: jobs at a time. Default: on a cluster all; in local processes one for each GPU, or one. The
            seconds and joules of runs that share a processor are not those of a run alone.
        slurm: settings of the jobs; see `slurm_settings`.
        progress: show a bar over runs (off with the variable TQDM_DISABLE=1).

    Raises:
        InvalidInput: submitit is not installed, there is no Slurm, or it refuses the jobs for good: said when
            those that it took before have ended.
        StorageFailed: what the jobs are told cannot be written.
        KeyboardInterrupt: its note says what is finished; what was queued is cancelled, what ran is stopped.
    """
    store = store if isinstance(store, Store) else Store(store)
    batch = _Batch(experiments, kind, store, workers, slurm or {})
    return batch.run(progress)


class Command:
    """A command as a job: its exit status and what it printed, to stdout and to stderr."""

    def __init__(self, words: Sequence[str]):
        self.words, self.folder = list(words), Path.cwd()

    def __call__(self) -> tuple[int, str, str]:
        done = subprocess.run(
            self.words, cwd=self.folder, capture_output=True, encoding="utf-8", errors="replace"
        )
        return done.returncode, done.stdout, done.stderr


def run_on_cluster(words: Sequence[str], store: Store, slurm: Mapping[str, object]) -> tuple[int, str, str]:
    """Runs a command as a Slurm job and waits for it; see `Command`.

    Raises InvalidInput if Slurm refuses it or it ends without an exit status.
    """
    logs = new_logs(store.root.absolute())
    cluster = engine("slurm", logs, slurm)
    job = patiently(lambda: cluster.submit(Command(words)), logs)
    print(f"the chapters are job {job.job_id}, whose log is {job.paths.stdout}", flush=True)
    try:
        while not job.done():
            time.sleep(POLL_S["slurm"])
    except KeyboardInterrupt:
        job.cancel(check=False)
        raise
    error = job.exception()
    if error is not None:
        raise InvalidInput(f"job {job.job_id} failed: {reason(error)}; its log is {job.paths.stdout}")
    result = job.result()
    shutil.rmtree(logs, ignore_errors=True)
    with suppress(OSError):  # where others have theirs
        logs.parent.rmdir()
    return result


class _Batch:
    """The runs that wait, the jobs that run, and what has become of the others."""

    def __init__(self, experiments, kind: str, store: Store, workers: int | None, slurm: Mapping):
        self.root = store.root.absolute()
        self.kind, self.store = kind, Store(self.root)
        self.logs = new_logs(self.root)
        self.engine = engine(kind, self.logs, slurm)
        given = list(experiments)
        self.reference = {e: e.reference() for e in given}
        ordered = dict.fromkeys([*filter(None, self.reference.values()), *given])
        self.total = len(ordered)
        # Here a look into the store is quick; on a cluster another kind of device may be what counts.
        self.waiting = [e for e in ordered if kind == "slurm" or stored(e, self.store) is None]
        self.gpus = visible_gpus() if kind == "local" else []
        workers = workers or {"slurm": self.total or 1, "local": len(self.gpus) or 1, "inline": 1}[kind]
        self.slots = list(range(workers))
        self.threads = max(1, cores() // workers)
        self.tries: dict[Experiment, int] = {}
        self.jobs: list[tuple[Experiment, int, object]] = []  # with its slot
        self.failures: dict[Experiment, Failure] = {}
        self.refusal: InvalidInput | None = None
        self.lifeline = os.pipe() if kind == "local" else ()  # the jobs read there, and end when it ends

    def run(self, progress: bool) -> list[Failure]:
        off = {} if progress else {"disable": True}
        done = self.total - len(self.waiting)
        with tqdm(total=self.total, initial=done, desc=f"{self.kind} jobs", unit="run", **off) as bar:
            try:
                while self.jobs or (self.waiting and not self.refusal):
                    self.give_up_without_reference()
                    self.start()
                    finished = [entry for entry in self.jobs if self.has_ended(entry[2])]
                    for entry in finished:
                        self.end(*entry)
                    left = len(self.waiting) + len(self.jobs)
                    bar.set_postfix(running=len(self.jobs), failed=len(self.failures), refresh=False)
                    bar.update(self.total - left - bar.n)
                    if not finished and self.jobs:
                        time.sleep(POLL_S[self.kind])
            except KeyboardInterrupt as stop:
                # A job may have stored its run and not have ended yet.
                running = [
                    e for e, _, _ in self.jobs if self.kind == "slurm" or stored(e, self.store) is None
                ]
                kept = self.total - len(self.waiting) - len(running) - len(self.failures)
                stop.add_note(
                    f"{kept} of {self.total} runs are in {self.root}, the other jobs were cancelled. "
                    "The same command goes on: what was trained is read from the store."
                )
                raise
            finally:
                self.cancel()
        if self.refusal:
            raise self.refusal
        return list(self.failures.values())

    def give_up_without_reference(self) -> None:
        for e in [e for e in self.waiting if self.reference.get(e) in self.failures]:
            self.waiting.remove(e)
            why = self.failures[self.reference[e]]
            self.failures[e] = Failure(e, f"its reference run {why.experiment.label} failed", why.log)

    def start(self) -> None:
        """Hands in what may run and finds a slot; at once, so that a cluster sees one array of jobs."""
        unfinished = {*self.waiting, *(e for e, _, _ in self.jobs)}
        ready = [e for e in self.waiting if self.reference.get(e) not in unfinished][: len(self.slots)]
        if not ready or self.refusal:
            return
        slots = self.slots[: len(ready)]
        try:
            jobs = patiently(lambda: self.hand_in(ready, slots), self.logs)
        except InvalidInput as refusal:
            self.refusal = refusal
            if self.jobs:
                log.warning("%s; waiting for the %d jobs that run", refusal, len(self.jobs))
            return
        self.slots = self.slots[len(ready) :]
        self.waiting = [e for e in self.waiting if e not in ready]
        self.jobs += zip(ready, slots, jobs, strict=True)

    def hand_in(self, ready: Sequence[Experiment], slots: Sequence[int]) -> list:
        tied = self.kind == "local"
        with self.surroundings(), self.engine.batch():
            return [
                self.engine.submit(Training(e, self.root, self.environment(slot), tied))
                for e, slot in zip(ready, slots, strict=True)
            ]

    def environment(self, slot: int) -> dict[str, str | None]:
        """submitit hides all GPUs from its local processes; each slot has its own here."""
        if self.kind != "local":
            return {}
        return {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)] if self.gpus else None}

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """What the local processes inherit: their share of the cores, the lifeline, and no terminal.

        After Ctrl-C submitit's own would print tracebacks there. What the runs print is in the logs.
        """
        if self.kind != "local":
            yield
            return
        added = "OMP_NUM_THREADS" not in os.environ
        os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))  # torch reads it when it is imported
        try:
            with open(os.devnull, "wb") as null, replaced(0, self.lifeline[0]), replaced(2, null.fileno()):
                yield
        finally:
            if added:
                del os.environ["OMP_NUM_THREADS"]

    def has_ended(self, job) -> bool:
        return self.kind == "inline" or job.done()  # of an inline job, asking for its outcome runs it

    def end(self, e: Experiment, slot: int, job) -> None:
        """Tidies up after a job that did what it should; another is tried again, or is a failure."""
        error = job.exception()
        done = error is None and job.result() in self.store
        self.jobs.remove((e, slot, job))
        self.slots.append(slot)
        if done:
            self.remove_files(job)
            return
        self.tries[e] = self.tries.get(e, 0) + 1
        if self.tries[e] < TRIES:
            self.waiting.insert(0, e)
            return
        nowhere = f"its record is not in {self.root}, which must lie where every machine sees it"
        log = None if self.kind == "inline" else job.paths.stdout
        self.failures[e] = Failure(e, nowhere if error is None else reason(error), log)

    def remove_files(self, job) -> None:
        for path in self.logs.glob(f"{job.job_id}_*"):
            path.unlink(missing_ok=True)

    def cancel(self) -> None:
        """Ends what still runs, and removes all files but the logs of failed jobs."""
        import psutil

        for end in self.lifeline:
            os.close(end)
        processes = []
        for _, _, job in self.jobs:
            if self.kind == "local" and psutil.pid_exists(int(job.job_id)):
                process = psutil.Process(int(job.job_id))
                processes += [process, *process.children(recursive=True)]
            if self.kind != "inline":
                job.cancel(check=False)
        for process in psutil.wait_procs(processes, GOODBYE_S)[1]:
            process.kill()
        for _, _, job in self.jobs:
            if self.kind == "local":
                job.done()  # takes note of the end of its process
        kept = {failure.log for failure in self.failures.values()}
        for path in self.logs.glob("*"):
            if path not in kept:
                path.unlink(missing_ok=True)
        for folder in (self.logs, self.logs.parent):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()


def engine(kind: str, logs: Path, slurm: Mapping[str, object]):
    """submitit's executor of this kind. Raises InvalidInput if it cannot be had here."""
    choose("executor", kind, KINDS)
    try:
        import submitit
    except ImportError:
        raise InvalidInput(f"executor {kind!r} needs submitit: pip install 'bpfree[cluster]'") from None
    if kind == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise InvalidInput(
            "executor 'slurm' finds no sbatch and srun here: use a machine that submits jobs, or 'local'"
        )
    own = {"slurm_max_num_timeout": REQUEUES} if kind == "slurm" else {}
    made = submitit.AutoExecutor(logs, cluster=KINDS[kind], **own)
    made.update_parameters(stderr_to_stdout=True, timeout_min=TIMEOUT_MIN if kind == "slurm" else FOREVER_MIN)
    if kind == "slurm":
        made.update_parameters(name="bpfree", **slurm)
    return made


@contextmanager
def replaced(number: int, other: int) -> Iterator[None]:
    """Inside, the file descriptor of this number is a copy of the other, for what is started, too."""
    with ExitStack() as after:
        try:
            kept = os.dup(number)
        except OSError:  # it is closed
            after.callback(os.close, number)
        else:
            after.callback(os.close, kept)
            after.callback(os.dup2, kept, number)
        os.dup2(other, number)
        yield


def new_logs(root: Path) -> Path:
    """A folder for the jobs of a batch, in the store if submitit and Slurm take its path as it is.

    In a path with %j or %t they would put numbers, a backslash is Slurm's, and its scripts are UTF-8.
    """
    for folder in (root, platformdirs.user_cache_path("bpfree")):
        if re.fullmatch(r"[^%\\\n\ud800-\udfff]*", str(folder)):
            return folder / "jobs" / uuid.uuid4().hex[:8]
    raise InvalidInput(f"jobs cannot be told of {root}: use a store in a folder without % and \\ in its path")


def patiently(hand_in: Callable, logs: Path):
    """What `hand_in()` returns, once nobody refuses it in passing any more; jobs that run go on meanwhile.

    Raises InvalidInput for a refusal for good, or as often as there are `PAUSES_S`, with what helps.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    for pause in (*PAUSES_S, None):
        try:
            with disk.refusals(logs), redirect_stderr(io.StringIO()):  # where submitit repeats what it raises
                return hand_in()
        except StorageFailed as error:
            cause = error.__cause__
            if cause.errno not in LATER:
                raise
        except (FailedJobError, FailedSubmissionError) as error:
            cause = error
            if not PASSING.search(str(error)) or TOO_MANY.search(str(error)):
                raise InvalidInput(f"Slurm refuses the jobs ({said(error)}): {remedy(str(error))}") from error
        if pause is None:
            raise InvalidInput(f"no jobs are taken at present ({said(cause)}): try again later") from cause
        log.warning("no jobs are taken at present (%s): trying again in %g s", said(cause), pause)
        time.sleep(pause)


def remedy(refusal: str) -> str:
    if TOO_MANY.search(refusal):
        return "give a smaller --workers, so that fewer are handed in at a time"
    return "change --slurm, or give a smaller --workers" if "submit limit" in refusal else "change --slurm"


def said(error: Exception) -> str:
    """What sbatch, or the system, has to say against a job, in one line."""
    lines = [line for line in str(error).splitlines() if "error:" in line] or [last_line(str(error))]
    return lines[0].strip()


def slurm_settings(pairs: Sequence[str]) -> dict[str, object]:
    """What `--slurm KEY=VALUE ...` says, as submitit takes it. Raises UnknownName or InvalidInput."""
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (equals and value):
            raise InvalidInput(f"--slurm {pair!r}: give KEY=VALUE, such as partition=gpu")
        choose("setting of --slurm", key, [*NUMBERS, *WORDS])
        if key in WORDS:
            settings[f"slurm_{key}"] = value
            continue
        number = re.fullmatch(r"[0-9]+(\.[0-9]+)?" if NUMBERS[key] is float else r"[0-9]+", value)
        if not number or not float(value):
            raise InvalidInput(f"--slurm {pair!r}: {key} takes a number greater than 0, as in {key}=4")
        settings[key] = NUMBERS[key](value)
    return settings


def stored(experiment: Experiment, store: Store) -> Record | None:
    """The record that running the experiment here would read; None if it would train, or fail."""
    try:
        budget, reference = None, experiment.reference()
        if reference is not None:
            record = stored(reference, store)
            if record is None or record.status == "failed":
                return record
            budget = spent(record, experiment.rule().budget)
        key = key_of(experiment.resolve(loaded(experiment.data, experiment.seed), budget))
        return store.find(key)
    except BpfreeError:  # the job will say it
        return None


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be for a process that shall see one GPU: each of ours in turn."""
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return names.split(",")[:count] if names else [str(i) for i in range(count)]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reason(error: BaseException) -> str:
    """Why a job failed, in one line."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    text = str(error)
    if isinstance(error, FailedJobError):  # with the traceback between two rules
        parts = re.split(r"^-{10,}$", text, flags=re.MULTILINE)
        return last_line(parts[1] if len(parts) > 2 else text).removeprefix("bpfree.errors.")
    if isinstance(error, UncompletedJobError):
        state = re.search(r"\(state: (.+?)\)", text)
        return f"its process ended without a result ({state[1] if state else last_line(text)})"
    return f"{type(error).__name__}: {last_line(text)}"


def last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]
