"""Records on disk: content-addressed, written whole or not at all, read back as one tidy table.

What is read is what was written: `SHA256SUMS` in a record's folder has the checksum of every file (for
`sha256sum -c`, too), and the resolved experiment must have the hash that the folder is named by. Records from
before there were checksums are read without. Those of format 2, whose folders are named by another hash, are
found by the key of today.

A run may be asked for under several sets of labels, such as two protocols that say the same of an arm. It is
trained once, and its folder has a small file, `asked-*.json`, for every further set.
"""

import errno
import io
import json
import logging
import os
import re
import shutil
import socket
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import NoneType

import pandas as pd
from filelock import FileLock, Timeout
from safetensors.torch import load
from torch import Tensor

from ..errors import InvalidInput, StorageFailed, TrainingDiverged, disk
from ..training.history import REGIONS
from .protocols import origin
from .resolved import LABELS, Resolved, hash_of

log = logging.getLogger("bpfree")
FORMAT = 3  # of the files below; raised when a reader of the old form could not read the new one
READ = (2, FORMAT)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
RECORD, SUMS, WEIGHTS = "record.json", "SHA256SUMS", "weights.safetensors"
SERIES_FILES = {"history": "history.parquet", "epoch_cost": "cost.parquet", "trace": "trace.parquet"}
#: Of a record: the columns without which a series is none of ours, and the types of its scalars.
NEEDED = {
    "history": ("stage", "epoch"),
    "epoch_cost": ("stage", "epoch", *(f"{region}_s" for region in REGIONS)),
    "trace": ("time_s", "channel", "quantity", "value", "unit", "stage"),
}
TYPES = {
    **dict.fromkeys(("metrics", "cost", "machine"), dict),
    **{"stages": list, "resumed": int, "contended": bool},
    **{"provenance": (str, NoneType), "meter": (dict, NoneType), "error": (dict, NoneType)},
}
#: By the last word of a metric's name.
METRIC_UNITS = {"accuracy": "%", "loss": "nats", "j": "J", "flop": "FLOP", "bytes": "B"}
METRIC_UNITS |= {name: name for name in ("epochs", "samples", "s")}


class DamagedRecord(InvalidInput):
    """What lies under a key is not what was written there: cut, overwritten, or the record of another run."""


@dataclass(frozen=True)
class Record:
    """One run: its outcome and, apart from it, what it cost on the machine that ran it.

    Attributes:
        experiment: the resolved experiment, with the labels under which it was asked for.
        status, error: "finished", or "failed" and why.
        metrics: the outcome: `test_accuracy` (%), `test_loss`, the same by every other read-out
            (`test_accuracy[sum]`), and `epochs` and `samples` trained.
        history: one row per stage and epoch: losses, accuracies, rate; epoch_cost: their seconds and joules.
        cost: totals: `train_s`, `val_s`, `prefix_s`, `total_s`, `..._measured_j`, `..._estimated_j` and
            `..._flop`; and the most bytes that a stage holds (`memory_bytes`) and keeps for the backward pass
            (`graph_bytes`).
        trace: what the machine did meanwhile: time_s (since the run began), channel ("process", "gpu:0"),
            quantity, value, unit, stage; of a resumed run what it did since.
        stages: per stage how its inputs came, how it ended, and the epoch that was restored.
        machine: where it ran; costs of different machines must not be pooled.
        provenance: how the joules were obtained.
        meter: what they may be held against, as `runner.metered` has it: the idle watts that they include,
            the joules net of these, and what the sensors did meanwhile. All joules of `cost` are gross.
        contended: whether others were at work beside it, on its processor or its GPU: its seconds and joules
            are then not its own alone, and no table of evidence has them.
        resumed: how often it was resumed from a checkpoint. Seconds and joules are then those of the epochs
            that count and of every computation of a cached prefix, and not what was lost with a killed
            process; operations and bytes are those of a run without an interruption.
        folder: where it lies; None if it was not stored.
    """

    experiment: Resolved
    status: str
    metrics: dict[str, float]
    history: pd.DataFrame
    cost: dict
    epoch_cost: pd.DataFrame
    trace: pd.DataFrame
    stages: list[dict]
    machine: dict
    provenance: str | None = None
    meter: dict | None = None
    error: dict | None = None
    contended: bool = False
    resumed: int = 0
    folder: Path | None = None

    @property
    def key(self) -> str:
        return self.experiment.key

    def weights(self) -> dict[str, Tensor]:
        """The trained parameters and buffers by name.

        Raises InvalidInput if none were stored, and DamagedRecord if they are not what was stored.
        """
        path = self.folder / WEIGHTS if self.folder else None
        if path is None or not path.exists():
            stored = f"remove {self.folder} and run it again" if self.folder else "run it"
            raise InvalidInput(f"record {self.key[:12]} has no weights: {stored} with keep_weights=True")
        with _damage(path, self.folder):
            content = _content(path)
            _verify(self.folder, {WEIGHTS: content})
            return load(content)


class RunLock(AbstractContextManager):
    """The lock of one run. One process has it at a time; the system frees it when that process dies.

    A context manager, which releases the lock if it was taken. A note beside the lock says who has it.
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.note = folder, folder / f"{key}.json"
        self.lock = FileLock(folder / f"{key}.lock")

    def take(self, wait_s: float = 0.0) -> bool:
        """Whether the lock is ours, after waiting for at most `wait_s` seconds.

        Raises StorageFailed where no file can be made or the file system has no locks.
        """
        with disk.refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with warnings.catch_warnings():
                    # In their place filelock would take a file that a killed process leaves for ever.
                    warnings.filterwarnings("error", "flock not supported")
                    self.lock.acquire(timeout=wait_s)
            except Timeout:
                return False
            except (NotImplementedError, UserWarning, OSError) as error:
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
                raise StorageFailed(
                    f"the file system of {self.folder} has no locks, so that two processes could train one "
                    f"run: {disk.OTHER_STORE}"
                ) from error
            note = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
            self.note.write_text(note, encoding="utf-8")
        return True

    def holder(self) -> str:
        """Who has the lock, as far as is known."""
        with suppress(OSError, ValueError):
            note = disk.read_object(self.note.read_bytes())
            pid, host = note.get("pid"), note.get("host")
            if type(pid) is int and isinstance(host, str) and host.isprintable():
                return f"process {pid} on {host}"
        return "another process"

    def forget(self) -> None:
        """Releases a lock that is ours and whose run is stored, and removes its file, which nobody needs now.

        Without a record the file must stay: who waits for it would then hold another than who comes later.
        """
        self.__exit__()
        with suppress(OSError):  # on Windows, while others have it open: then the last of them removes it
            Path(self.lock.lock_file).unlink(missing_ok=True)

    def __exit__(self, *_) -> None:
        if self.lock.is_locked:
            with suppress(OSError):  # a note that stays is written over by who comes next
                self.note.unlink(missing_ok=True)
            self.lock.release()


class Store:
    """A folder of records, one folder per key; beside them the `checkpoints` and `locks` of unfinished runs.

    root: as in `disk.store_folder`, or another `Store`, whose own it then is.
    """

    def __init__(self, root: "Store | str | os.PathLike | None" = None):
        self.root = root.root if isinstance(root, Store) else disk.store_folder(root)

    def __contains__(self, key: str) -> bool:
        """Whether anything lies under a key; whether it is whole, `read` says."""
        return bool(self._folders(key))

    def folder(self, key: str) -> Path:
        """Where the record of a key lies, or will lie."""
        return next(iter(self._folders(key)), self._home(key))

    def checkpoint(self, key: str) -> Path:
        """Where the checkpoint of an unfinished run lies."""
        return self.root / "checkpoints" / f"{key}.safetensors"

    def claim(self, key: str) -> RunLock:
        """The right to train this run and to write its record."""
        return RunLock(self.root / "locks", key)

    def __iter__(self) -> Iterator[str]:
        """Every stored key, in a fixed order; a folder under another name is no record of this store.

        Raises StorageFailed if the system does not let us look: none there is another thing.
        """
        return iter(dict.fromkeys(map(_key_in, self._all())))

    def records(self) -> Iterator[Record]:
        """Every record in a fixed order, once with each set of labels under which it was asked for.

        Raises as `read` does.
        """
        seen: set[Resolved] = set()
        for record in map(read_folder, self._all()):
            for labels in (record.experiment.labels, *_asked(record.folder)):
                experiment = replace(record.experiment, **labels)
                if experiment not in seen:
                    seen.add(experiment)
                    yield replace(record, experiment=experiment)

    def write(self, record: Record, weights: dict[str, Tensor] | None = None) -> Record:
        """Stores a record under its key; an earlier one of the same key stays as it is.

        All files are written into a folder of another name, which is then renamed: a reader finds
        a whole record or none. Raises StorageFailed; the store is then what it was.
        """
        target = self._home(record.key)
        draft = self.root / f".writing-{record.key}-{uuid.uuid4().hex}"
        files = files_of(record, weights)
        with disk.refusals(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.mkdir()  # not mkdtemp, whose folders nobody else may read: stores are shared
            try:
                for name, content in files.items():
                    disk.write(draft / name, content)
                os.rename(draft, target)
            except OSError:
                if not self._whole(record.key):  # not because another process stored the same run first
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return self.read(record.key)

    def sweep(self, key: str) -> None:
        """Removes what killed processes have left of a run, but its checkpoint only once there is a record.

        Call it while holding the run's claim, or once there is a record: then nobody trains it.
        """
        left = [*self.root.glob(f".writing-{key}-*"), *self.root.glob(f"checkpoints/{key}.*.writing")]
        if key in self:
            left += [*self.root.glob(f"checkpoints/{key}.*"), *self.root.glob(f"locks/{key}.*")]
        for path in left:
            with suppress(OSError):  # in a store that may only be read they stay
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def find(self, experiment: Resolved) -> Record | None:
        """The record of a run, with the labels of this experiment, which the store remembers.

        None if there is none, or none that is what was written. Raises as `read` does for one of another
        version, and StorageFailed where the system lets nobody read.
        """
        found = self._whole(experiment.key)
        if not found:
            return None
        record = next((r for r in found if r.experiment.labels == experiment.labels), found[0])
        if record.experiment.labels != experiment.labels:
            note = record.folder / _asked_file(experiment.labels)
            content = json.dumps(experiment.labels, sort_keys=True).encode()
            with suppress(OSError):  # in a store that may only be read they are forgotten
                if not note.exists() or note.read_bytes() != content:
                    disk.replace(note, content)
        return replace(record, experiment=experiment)

    def set_aside(self, key: str) -> None:
        """Moves what lies under a key and cannot be read into the folder `damaged`, with a line in the log.

        Call it while holding the run's claim, after `find` gave None. Raises StorageFailed.
        """
        for folder in self._folders(key):
            aside = self.root / "damaged" / f"{folder.name}-{uuid.uuid4().hex[:8]}"
            with disk.refusals(folder):
                aside.parent.mkdir(parents=True, exist_ok=True)
                os.rename(folder, aside)
            log.warning(
                "%s holds no record that can be read: it is now %s, and is trained again", folder, aside
            )

    def read(self, key: str) -> Record:
        """The record of a key.

        Raises InvalidInput if there is none or it is of another version; DamagedRecord, which is one, if it
        is not what was written; and StorageFailed if the system does not let us read it.
        """
        if key not in self:
            raise InvalidInput(f"no record {key[:12]} in {self.root}: run the experiment first")
        return read_folder(self.folder(key))

    def _home(self, key: str) -> Path:
        return self.root / key[:2] / key

    def _all(self) -> Iterator[Path]:
        """The folder of every record."""
        for parent in (name for name in _names(self.root) if len(name) == 2):
            for name in _names(self.root / parent):
                if name.startswith(parent) and re.fullmatch("[0-9a-f]{64}", name):
                    yield self._home(name)

    @cached_property
    def _before(self) -> dict[str, list[Path]]:
        """The folders of format 2 by the key of today, as they are when a key is first not found."""
        found: dict[str, list[Path]] = {}
        for folder in self._all():
            if (key := _key_in(folder)) != folder.name:
                found.setdefault(key, []).append(folder)
        return found

    def _folders(self, key: str) -> list[Path]:
        """The folders of a key: none or one, or several where format 2 took the run for several."""
        home = self._home(key)
        with disk.refusals(home, doing="read"), suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(home)
            return [home]
        return [folder for folder in self._before.get(key, []) if folder.exists()]

    def _whole(self, key: str) -> list[Record]:
        """The records of a key that are what was written."""
        found = []
        for folder in self._folders(key):
            with suppress(DamagedRecord):
                found.append(read_folder(folder))
        return found


# ---------------------------------------------------------------- what a record's files are


def read_folder(folder: Path) -> Record:
    """The record in a folder; raises as `Store.read` does."""
    with _damage(folder, folder):
        content = _content(folder / RECORD)
        scalars = disk.read_object(content)
        found = scalars.pop("format")
    if type(found) is int and found not in READ:
        raise InvalidInput(
            f"{folder} was written by another version of bpfree (format {found}, this one reads "
            f"{' and '.join(map(str, READ))}): use another store (the variable BPFREE_STORE), or remove it "
            "and run again"
        )
    with _damage(folder, folder):
        _need(found in READ, f"its format is {found!r}")
        files = {name: _content(folder / name) for name in SERIES_FILES.values()}
        _verify(folder, {RECORD: content, **files})
        series = {field: pd.read_parquet(io.BytesIO(files[name])) for field, name in SERIES_FILES.items()}
        _need(scalars.pop("key") == folder.name, "it is the record of another run")
        experiment = Resolved.named(scalars.pop("experiment"), folder.name)
        record = Record(experiment, **scalars, **series, folder=folder)
        _check(record)
        return record


def _key_in(folder: Path) -> str:
    """The key of the record in a folder: the folder's name, but of one in format 2."""
    try:
        scalars = disk.read_object(_content(folder / RECORD))
        return Resolved.of(scalars["experiment"]).key if scalars["format"] == 2 else folder.name
    except Exception:  # who reads it is told
        return folder.name


def _asked_file(labels: Mapping) -> str:
    """The file in a record's folder that notes that it was asked for under these labels."""
    return f"asked-{hash_of(labels)[:16]}.json"


def _asked(folder: Path) -> Iterator[dict]:
    """The other labels under which a record was asked for. Raises DamagedRecord for a file that is none."""
    for path in sorted(folder.glob("asked-*.json")):
        with _damage(path, path):
            labels = disk.read_object(_content(path))
            _need(path.name == _asked_file(labels), "it is not what was written")
            _need(set(labels) == set(LABELS), f"it has {', '.join(labels)}")
        yield labels


def files_of(record: Record, weights: dict[str, Tensor] | None) -> dict[str, bytes]:
    """The files of a record by name, with their content."""
    files = {
        name: getattr(record, field).to_parquet(None, index=False) for field, name in SERIES_FILES.items()
    }
    if weights is not None:
        files[WEIGHTS] = disk.safetensors(weights)
    scalars = {name: value for name, value in vars(record).items() if name not in (*SERIES_FILES, "folder")}
    what = {"format": FORMAT, "key": record.key, **scalars, "experiment": record.experiment.plain()}
    files[RECORD] = json.dumps(what, indent=1).encode()
    sums = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    return {**files, SUMS: sums.encode()}


@contextmanager
def _damage(path: Path, folder: Path) -> Iterator[None]:
    """Inside, whatever is wrong with a file becomes a DamagedRecord: the path, why, the folder to remove."""
    try:
        yield
    except StorageFailed:
        raise
    except Exception as error:  # parsers of damaged files fail in many ways, pyarrow's in its own
        it = "it" if path == folder else folder
        raise DamagedRecord(f"{path} cannot be read ({error}): remove {it} and run again") from None


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _content(path: Path) -> bytes:
    """Raises ValueError where there is no such file, and StorageFailed where the system refuses it."""
    with disk.refusals(path, doing="read"), suppress(FileNotFoundError):  # it may be set aside meanwhile
        if path.is_file():
            return path.read_bytes()
    raise ValueError(f"{path.name} is missing")


def _names(folder: Path) -> list[str]:
    """What lies in a folder, in a fixed order; nothing if there is no such folder. Raises StorageFailed."""
    with disk.refusals(folder, doing="read"), suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder))
    return []


def _verify(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raises ValueError for a file of a folder that is not what was written there, if there are checksums."""
    if not os.path.lexists(folder / SUMS):
        return  # a record from before there were any
    text = _content(folder / SUMS).decode(errors="replace")
    sums = {name: digest for digest, name in re.findall("(?m)^([0-9a-f]{64})  (.+)$", text)}
    for name, content in files.items():
        whole = sums.get(name) == sha256(content).hexdigest()
        _need(whole, f"{name} is not what was written: its checksum is another")


def _check(record: Record) -> None:
    """Raises ValueError, KeyError or TypeError for what is no record."""
    for name, kind in TYPES.items():
        value = getattr(record, name)
        _need(isinstance(value, kind), f"its {name} is {value!r}")
    for name, value in [*record.metrics.items(), *record.cost.items()]:
        _need(value is None or type(value) in (int, float), f"its {name} is {value!r}")
    for field, columns in NEEDED.items():
        lacking = [name for name in columns if name not in getattr(record, field)]
        _need(not lacking, f"{SERIES_FILES[field]} has no {', '.join(lacking)}")
    for stage in record.stages:
        stage["name"], stage["restored"]
    _need(isinstance(record.machine["id"], str), f"its machine is {record.machine!r}")
    _need(record.status in ("finished", "failed"), f"its status is {record.status!r}")
    if record.status == "failed":
        TrainingDiverged(**record.error)  # which running it again raises


# ---------------------------------------------------------------- as tidy tables

#: Of each run, which one it is.
FIELDS = ("algorithm", "data", "architecture", "seed", "protocol", "preset")
FIELDS += ("max_epochs", "precision", "device")
TIDY_COLUMNS = ("key", *FIELDS, "settings", "status", "metric", "value", "unit", "provenance", "machine")


def records(
    store: Store | str | os.PathLike | None = None, *, training_version: int | None = None
) -> pd.DataFrame:
    """All records of a store as one tidy table; see `tidy`.

    training_version: only records of this one. Raises InvalidInput for a record that cannot be read, and if
    they are of several versions and none is named: they do not compute the same.
    """
    store = Store(store)
    found = list(store.records())
    versions = sorted({r.experiment.training_version for r in found})
    if training_version is None and len(versions) > 1:
        raise InvalidInput(
            f"the records in {store.root} are of training versions {', '.join(map(str, versions))}, which do "
            f"not compute the same: choose one with training_version={versions[-1]}, or use another store"
        )
    return tidy(r for r in found if training_version in (None, r.experiment.training_version))


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run and metric, for each set of labels under which the run was asked for.

    Columns: key (which names one set of rows: where the same run comes again with other labels, a number
    stands before it, as in "2:"), those of the experiment, settings (where they come from; see
    `protocols.origin`), status, then metric, value, unit, provenance (of energies: how they were obtained)
    and machine (its id; costs of different machines must not be pooled). `stages_at_cap` counts the stages
    that ended at the cap, as far as is known. Failed runs have a row with the metric "failed".
    """
    rows, asked = [], {}
    for record in records:
        others = asked.setdefault(record.key, {})
        number = others.setdefault(record.experiment, len(others) + 1)
        rows += _rows(record, f"{number}:{record.key}" if number > 1 else record.key)
    return pd.DataFrame(rows, columns=TIDY_COLUMNS)


def _rows(record: Record, key: str) -> Iterator[dict]:
    what = {name: getattr(record.experiment, name) for name in FIELDS}
    fixed = {"key": key, **what, "settings": origin(record.experiment), "status": record.status}
    at_cap = stages_at_cap(record)
    more = {} if at_cap is None else {"stages_at_cap": at_cap}
    more |= {"failed": 1.0} if record.status == "failed" else {}
    for metric, value in {**record.metrics, **more}.items():
        yield {**fixed, "metric": metric, "value": value, "unit": unit(metric)}
    for metric, value in record.cost.items():
        provenance = {"J": record.provenance, "s": "wall clock"}.get(unit(metric), "counted")
        whose = {"provenance": provenance, "machine": record.machine["id"]}
        yield {**fixed, "metric": metric, "value": value, "unit": unit(metric), **whose}


def epochs(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run, stage and epoch: the history beside its cost.

    Columns: those of `tidy` that say which run it is, `History.frame`'s, and then `pass` (epochs since the
    run began), `elapsed_s` (seconds since then, by the end of the epoch: prefix, training and validation),
    `kept` (whether this epoch's weights are the ones that the stage kept) and `ended` (what ended the stage).
    """
    found = []
    for record in records:
        frame = record.history.merge(record.epoch_cost, on=["stage", "epoch"])
        restored, ended = ({s["name"]: s.get(k) for s in record.stages} for k in ("restored", "ended"))
        frame = frame.assign(
            **{"pass": range(1, len(frame) + 1)},
            elapsed_s=frame[[f"{region}_s" for region in REGIONS]].fillna(0.0).sum(axis=1).cumsum(),
            kept=frame["epoch"] == frame["stage"].map(restored),
            ended=frame["stage"].map(ended),
            provenance=record.provenance,
        )
        found.append((record, frame))
    return _joined(found)


def traces(records: Iterable[Record]) -> pd.DataFrame:
    """What the machine did during each run: a row per sample and quantity.

    Columns: those of `tidy` that say which run it is and on which machine, and those of `Record.trace`.
    """
    return _joined([(record, record.trace) for record in records])


def _joined(found: list[tuple[Record, pd.DataFrame]]) -> pd.DataFrame:
    """These frames below each other, with columns that say which run each is of, and on which machine."""
    if not found:
        raise InvalidInput("no records to show: run an experiment first")
    frames = [frame.assign(machine=record.machine["id"]) for record, frame in found]
    for (record, _), frame in zip(found, frames, strict=True):
        for position, name in enumerate(FIELDS):
            frame.insert(position, name, getattr(record.experiment, name))
    return pd.concat(frames, ignore_index=True)


def stages_at_cap(record: Record) -> int | None:
    """How many stages of a run trained as long as they may, so that they might have gone on.

    From its epochs, or else from their number; None where that leaves it open, or the run did not finish. A
    stage whose patience was over in the last epoch would not have gone on.
    """
    cap, epochs = record.experiment.max_epochs, record.metrics.get("epochs")
    if record.status != "finished":
        return None
    if cap is None or record.experiment.budget is not None:  # which says how long a stage trains
        return 0
    if "stages_at_cap" in record.metrics:  # a record from a table, which does not say how stages ended
        return record.metrics["stages_at_cap"]
    if len(record.history):
        impatient = [stage["name"] for stage in record.stages if stage.get("ended") == "patience"]
        last = record.history.groupby("stage")["epoch"].max().drop(impatient, errors="ignore")
        return int((last >= cap).sum())
    if epochs is None:
        return None
    return int(epochs == cap) if epochs <= cap else None


def unit(metric: str) -> str:
    """The unit of a metric, from the last word of its name."""
    return METRIC_UNITS.get(metric.partition("[")[0].rpartition("_")[2], "")
