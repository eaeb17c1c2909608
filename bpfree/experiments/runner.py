"""Running an experiment gives a record; running it again reads that record."""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import torch
from tqdm import tqdm

from .. import diagnostics
from ..algorithms import Algorithm
from ..data import data_source
from ..energy import EnergyMeter, measure_idle
from ..errors import InvalidInput, StorageFailed, TrainingDiverged, check_made, check_positive, disk
from ..training.batches import Data
from ..training.checkpoint import Checkpoint
from ..training.history import COST, COST_UNITS, OUTCOME, REGIONS, History
from ..training.loop import pick_device
from ..training.numerics import pinned
from ..training.progress import shown
from ..training.stopping import Budget
from .beside import MOST_AT_ONCE, SideBySide
from .experiment import Experiment, build, score, train_resolved, validated
from .machine import machine
from .resolved import Resolved
from .store import Record, RunLock, Store

STAGE = ("name", "prefix", "executor", "ended", "restored")  # of a stage, in a record
IDLE_S = 1.0  # of looking at what idling draws, which holds ...
IDLE_AGE_S = 86_400.0  # ... for a day on one machine
POLL_S = 1.0  # between two looks at what another process is training
log = logging.getLogger("bpfree")


def run(
    experiment: Experiment,
    store: Store | str | os.PathLike | None = None,
    *,
    progress: bool = True,
    keep_weights: bool = True,
) -> Record:
    """The experiment's record: read from the store, or trained, measured and stored.

    Test data are read once, after training. A run that was interrupted goes on from its last checkpoint; one
    that another process is training is waited for.

    Raises:
        TrainingDiverged: training failed (now or when it was stored); the record says so and is kept.
        MissingData, InvalidInput: the data are not there, or do not fit.
        StorageFailed: the store cannot be written; what was trained is in the checkpoint, if that could be.
    """
    record = _Job(experiment, Store(store), progress, keep_weights).attempt(wait=True)
    if record.status == "failed":
        raise TrainingDiverged(**record.error)
    return record


def run_many(
    experiments: Iterable[Experiment],
    store: Store | str | os.PathLike | None = None,
    *,
    progress: bool = True,
    keep_weights: bool = True,
    at_once: int = 1,
    attempt: Callable[[Experiment, Callable[[], Record | None]], object] = lambda _, go: go(),
) -> list[Record]:
    """The records of many experiments, in their order; what is not in the store is trained.

    Any number of processes may share a store: each takes what no other is training, and waits in the end for
    what others are. A run that diverges does not end the batch: its record, with the status "failed", stands
    in its place, or that of its `reference` if it was that which failed.

    at_once: how many of them train side by side, in threads of this process. Each has the outcome that it has
        alone; its record says that it shared the machine, so that its costs count for nothing. A run waits
        until the device has the memory for it.
    attempt: how a run is tried, again and again until it gives something other than None, which then stands
    in the run's place: `attempt(experiment, go)`, where `go()` is its record, or None as long as another
    process trains it. Others than the default may skip a run, or survive its errors.

    Shows a bar over runs (off with the variable TQDM_DISABLE=1). Raises as `run` does, but for divergence;
    after that, as after Ctrl-C, the same call goes on where this one stopped.
    """
    if isinstance(experiments, Experiment):
        raise InvalidInput("one experiment: use bpfree.run, or give a list")
    check_positive("at_once", at_once)
    if at_once > MOST_AT_ONCE:
        raise InvalidInput(f"at_once={at_once}: only {MOST_AT_ONCE} runs can have a stream each; use fewer")
    store, beside = Store(store), SideBySide(at_once) if at_once > 1 else None
    waiting = {i: _Job(e, store, progress, keep_weights, beside) for i, e in enumerate(experiments)}
    records: dict[int, Record] = {}
    with tqdm(total=len(waiting), unit="run", **shown(progress)) as bar:

        def take(job: _Job) -> Record | None:
            bar.set_description(job.experiment.label)
            return attempt(job.experiment, partial(job.attempt, wait=False))

        try:
            while waiting:
                before = len(waiting)
                tasks = {i: partial(take, job) for i, job in waiting.items()}
                one_by_one = ((i, task()) for i, task in tasks.items())
                with closing(beside.each(tasks) if beside else one_by_one) as each:
                    for i, record in each:
                        if record is not None:
                            records[i] = record
                            del waiting[i]
                            bar.update()
                if len(waiting) == before:  # others are training all that is left
                    bar.set_description(f"waiting for {next(iter(waiting.values())).holder}")
                    time.sleep(POLL_S)
        except KeyboardInterrupt as stop:
            stop.add_note(f"{len(records)} of {bar.total} runs are in {store.root}; the same call goes on.")
            raise
    return [records[i] for i in sorted(records)]


@dataclass
class _Job:
    """One experiment on its way into a store."""

    experiment: Experiment
    store: Store
    progress: bool
    keep_weights: bool
    beside: SideBySide | None = None
    resolved: Resolved | None = None
    holder: str = ""  # who is training it, if another process is

    def __post_init__(self):
        given = self.experiment
        check_made("experiment", given, Experiment, "bpfree.Experiment('mf')")
        reference = given.reference()
        self.reference = reference and _Job(reference, self.store, self.progress, True, self.beside)

    def attempt(self, *, wait: bool) -> Record | None:
        """Its record, read or trained. If another process is training it: None, unless we `wait` for that.

        If its reference run failed there is no budget, and that run's record is what it has.
        """
        budget = None
        if self.resolved is None:
            if self.reference is not None:
                record = self.reference.attempt(wait=wait)
                if record is None or record.status == "failed":
                    self.holder = self.reference.holder
                    return record
                kind = self.experiment.rule().budget
                budget = spent(record, kind)
                of = f"{self.experiment.label}: the run whose energy is its budget"
                if budget.unit == "s" and record.epoch_cost.filter(like="measured_j").notna().any(axis=None):
                    log.warning("%s: not all joules were measured: its budget is that run's seconds", of)
                if record.contended and kind == "energy":
                    log.warning("%s shared its machine: the budget is too large", of)
            data = loaded(self.experiment.data, self.experiment.seed)
            self.resolved = self.experiment.resolve(data, budget)
        key = self.resolved.key
        record = self.store.find(self.resolved)
        if record is not None:
            self.store.sweep(key)
            return record
        with self.store.claim(key) as claim:
            if not claim.take():
                if not wait:
                    self.holder = claim.holder()
                    return None
                self._wait(claim)
            record = self.store.find(self.resolved)  # which may be there since we waited
            if record is None:
                self.store.set_aside(key)
                self.store.sweep(key)
                record = self._train()
            claim.forget()
            self.store.sweep(key)
            return record

    def _wait(self, claim: RunLock) -> None:
        """Waits until the claim is ours."""
        text = f"{self.experiment.label}: waiting for {claim.holder()}"
        log.info(text)
        with tqdm(desc=text, bar_format="{desc} ({elapsed})", leave=False, **shown(self.progress)) as bar:
            while not claim.take(POLL_S):
                bar.refresh()

    def _train(self) -> Record:
        """Train and store; what cannot be stored is kept in the checkpoint."""
        here = machine(self.resolved.device)["id"]  # elsewhere it would not be the same to the bit
        key = self.resolved.key
        checkpoint = Checkpoint(self.store.checkpoint(key), f"{key} on {here}")
        data = loaded(self.experiment.data, self.experiment.seed)
        if data.sha256 != self.resolved.data_sha256:
            raise InvalidInput(f"{self.experiment.data} was changed after its run had begun: run it again")
        place, how = nullcontext(), {"progress": self.progress}
        checkpoint.shared = self.beside is not None
        if self.beside:
            device = pick_device(self.resolved.device)
            need = needed(self.resolved, build(self.resolved, data), data)
            place = self.beside.place(need, device)
            how = {"progress": False, "on_epoch": self.beside.go_on}
        try:
            idle = {} if self.beside else idle_power(torch.device(self.resolved.device), self.store)
            with place:
                algorithm, record = _train(self.resolved, data, checkpoint, idle, **how)
        except KeyboardInterrupt as stop:
            kept = f"from {checkpoint.path}" if checkpoint.path.exists() else "from its beginning"
            stop.add_note(f"{self.experiment.label} is not finished; the same call goes on {kept}.")
            raise
        weights = algorithm.state_dict() if self.keep_weights and not record.error else None
        try:
            stored = self.store.write(record, weights)
        except OSError:
            if algorithm is not None:
                with suppress(OSError):
                    checkpoint.save(now=True)
            raise
        checkpoint.remove()
        return stored


def spent(record: Record, kind: str) -> Budget:
    """What a run took, as a budget: "passes", or "energy": joules, or seconds if not all were measured."""
    if kind == "passes":
        return Budget("passes", record.metrics["epochs"])
    unit = "measured_j" if "total_measured_j" in record.cost else "s"
    return Budget(unit, record.cost[f"total_{unit}"])


def _train(
    resolved: Resolved, data: Data, checkpoint: Checkpoint, idle: dict[str, dict[str, float]], **how
) -> tuple[Algorithm | None, Record]:
    """Train as resolved, under a tracing meter; divergence is an outcome, too. how: of `bpfree.train`."""
    algorithm = error = None
    with EnergyMeter(trace=True) as meter:
        try:
            algorithm, history = train_resolved(resolved, data, meter=meter, checkpoint=checkpoint, **how)
        except TrainingDiverged as diverged:
            history = diverged.history
            error = {"stage": diverged.stage, "epoch": diverged.epoch, "lr": diverged.lr}
    metrics, counts = {}, {}
    if not error:
        metrics = outcome(algorithm, history, data)
        counts = diagnostics.run_counts(counts_of(resolved, algorithm, data), history)
    frame, begun_s = history.frame(), checkpoint.begun_s
    trace = meter.trace.assign(time_s=lambda t: t["time_s"] + begun_s)
    return algorithm, Record(
        experiment=resolved,
        status="failed" if error else "finished",
        metrics=metrics,
        history=frame[list(OUTCOME)],
        cost=totals(history) | counts,
        epoch_cost=frame[["stage", "epoch", *COST]],
        trace=history.staged(trace, meter.reading.seconds + begun_s, begun_s),
        stages=[{name: getattr(stage, name) for name in STAGE} for stage in history.stages],
        machine=machine(resolved.device),
        provenance=history.provenance,
        meter=metered(meter, idle, history),
        error=error,
        contended=checkpoint.shared or any("contention" in value.flags for value in meter.reading.values),
        resumed=checkpoint.resumed,
    )


_idle: dict[str, dict[str, float]] = {}  # watts by channel, as this process knows them


def idle_power(device: torch.device, store: Store) -> dict[str, dict[str, float]]:
    """Watts by channel while nothing runs: "bare", if this process had no context of CUDA yet, and "context".

    Where there is a sensor it takes a second for each, once on a machine: what was found is kept in the
    store's folder `idle`, and read from there for a day, unless something worked meanwhile: of that channel
    nothing is known then, and the next process looks again. Without a sensor it takes nothing.
    """
    place = [platform.node(), machine(device)["id"], os.environ.get("CUDA_VISIBLE_DEVICES")]
    path = store.root / "idle" / f"{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]}.json"
    if not _idle:
        with suppress(OSError, ValueError):
            if time.time() - path.stat().st_mtime < IDLE_AGE_S:
                _idle.update(json.loads(path.read_text(encoding="utf-8")))
    looks = {}
    if not torch.cuda.is_initialized() and "bare" not in _idle:
        looks["bare"] = measure_idle(IDLE_S, gpus="visible")
    if device.type == "cuda" and "context" not in _idle:
        torch.zeros(1, device=device)
        looks["context"] = measure_idle(IDLE_S, gpus="visible")
    _idle.update({kind: look.watts for kind, look in looks.items()})
    found = {kind: watts for kind, watts in _idle.items() if watts}
    at_rest = not any("contention" in value.flags for look in looks.values() for value in look.values)
    if found and looks and at_rest:
        with suppress(StorageFailed):  # where nobody may write the next process looks again
            disk.replace(path, json.dumps(found).encode())
    return found


def metered(meter: EnergyMeter, idle: dict[str, dict[str, float]], history: History) -> dict:
    """What a record says of its meter, as plain values.

    `idle_w`: watts by channel, "bare" and with a "context"; `net_measured_j`: the run's measured joules less
    either of them, where every channel of the sum has one; `sensors`: `EnergyMeter.selftest`.
    """
    channels = [v.channel for v in meter.reading.values if v.status == "measured" and v.primary]
    gross, seconds = history.total("measured_j"), history.total("s")
    net = {
        kind: gross - seconds * sum(watts[channel] for channel in channels)
        for kind, watts in idle.items()
        if gross is not None and channels and watts.keys() >= set(channels)
    }
    return {"idle_w": idle, "net_measured_j": net, "sensors": meter.selftest}


_counted: dict[tuple, diagnostics.Counts] = {}  # of the arms that this process has trained


def counts_of(resolved: Resolved, algorithm: Algorithm, data: Data) -> diagnostics.Counts:
    """Operations and bytes; counted for the first seed of an arm only, because they do not depend on it."""
    what = (resolved.algorithm, resolved.architecture, resolved.data_sha256, data.augment is not None)
    arm = (*what, json.dumps(dict(resolved.options), sort_keys=True))
    if arm not in _counted:
        _counted[arm] = diagnostics.counts(algorithm, data)
    return _counted[arm]


def needed(resolved: Resolved, algorithm: Algorithm, data: Data) -> int:
    """Bytes that a run will hold on its device: the data, and the most that a stage does of the rest.

    Twice what a step holds, because a captured one keeps its memory for as long as the stage lasts.
    """
    account = counts_of(resolved, algorithm, data).account
    recomputed = resolved.cache is False or data.augment is not None
    features = account["recomputed" if recomputed else "cache"]
    stage = 2 * account["peak"] + features + account["best"]
    tensors = [tensor for tensor in vars(data).values() if isinstance(tensor, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors) + int(stage.max())


@pinned()
def outcome(algorithm: Algorithm, history: History, data: Data) -> dict[str, float]:
    """Test accuracy (%) and loss by every read-out, and how much was trained. Reads the test data."""
    metrics = {}
    for name, scores in algorithm.predict_all(data.x_test).items():
        accuracy, loss = score(scores, data.y_test)
        for suffix in (f"[{name}]",) if metrics else ("", f"[{name}]"):
            metrics |= {f"test_accuracy{suffix}": accuracy, f"test_loss{suffix}": loss}
    metrics |= validated(algorithm, history, data)
    samples = sum(row["samples"] for s in history.stages for row in s.rows)
    return {**metrics, "epochs": history.epochs, "samples": samples}


def totals(history: History) -> dict[str, float]:
    """Seconds and joules by region and in all; only what was recorded of every epoch."""
    parts = {**{region: (region,) for region in REGIONS}, "total": REGIONS}
    found = {f"{n}_{unit}": history.total(unit, part) for unit in COST_UNITS for n, part in parts.items()}
    return {name: amount for name, amount in found.items() if amount is not None}


_kept: tuple = (None, None)  # the data set that was asked for last, and by what


def loaded(name: str, seed: int) -> Data:
    """As `bpfree.load`. The files are read each time, since they may have changed; the tensors are kept."""
    global _kept
    source = data_source(name)
    kept, data = _kept  # of another thread, perhaps, but of one call
    if kept != (source.identity, seed):
        data = source.data(seed)
        _kept = (source.identity, seed), data
    return data
