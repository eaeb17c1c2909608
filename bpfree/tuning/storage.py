"""Where studies lie: a journal file, SQLite, or any database that Optuna can reach; who runs which trial."""

import re
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from ..data import StrPath
from ..errors import BpfreeError, InvalidInput, StorageFailed, disk
from ..experiments.store import Store
from .journal import ELSEWHERE, Journal

SQLITE = (".db", ".sqlite", ".sqlite3")
HEARTBEAT_S = 60  # of a trial in a database without a file; after twice as long without one it counts as lost
SQLITE_WAIT_S = 120  # for another process's writing
DIVERGED = "diverged"
WAYS = (
    "give the path of a journal file, that of a .db file for SQLite, or a URL such as "
    "postgresql+psycopg://user@host/name"
)


class Place(NamedTuple):
    """An open storage, its name for messages, and the file that it is in, if it is in one."""

    storage: BaseStorage
    name: str
    path: Path | None


def default_path(name: str) -> Path:
    """The journal of the study of this name in the default store."""
    return Store().root / "studies" / f"{name}.log"


def open_storage(storage: StrPath | BaseStorage | None, study: str) -> Place:
    """The storage of a study of this name; made if it is not there.

    Args:
        storage: None for `default_path`; a path ending in .db, .sqlite or .sqlite3 (SQLite) or in anything
            else (a journal file); an RDB URL; or an Optuna storage, which is taken as it is.

    Raises InvalidInput if it cannot be opened.
    """
    if not re.fullmatch(r"[\w.+-]+", study):
        raise InvalidInput(f"study name {study!r}: use letters, digits and .+-_ only")
    if isinstance(storage, BaseStorage):
        return Place(storage, type(storage).__name__, None)
    text = str(storage if storage is not None else default_path(study))
    with refusals(_shown(text)):
        return _open_url(text) if "://" in text else _open_file(Path(text).expanduser().resolve())


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Inside, a storage that cannot be opened or read becomes an InvalidInput that names it."""
    try:
        with quiet():
            yield
    except BpfreeError:
        raise
    except Exception as error:  # whatever Optuna, SQLAlchemy, a driver or the file system may raise
        raise InvalidInput(f"storage {name} cannot be opened ({reason(error)}): {WAYS}") from error


@contextmanager
def using(place: Place) -> Iterator[None]:
    """Inside, what the system or a database refuses becomes a StorageFailed. A journal does so by itself."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with disk.refusals(place.path or place.name, ELSEWHERE):
            yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageFailed(
            f"{place.name} cannot be written or read ({reason(error)}): make room there, wait until others "
            f"have ended, or {ELSEWHERE}"
        ) from error


def reason(error: Exception) -> str:
    """Why, in one line."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__  # Optuna guesses, the driver knows
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _open_url(text: str) -> Place:
    from sqlalchemy.engine import make_url  # here, because only databases need it

    url = make_url(text)
    if url.get_backend_name() != "sqlite":
        heartbeat = {"heartbeat_interval": HEARTBEAT_S, "grace_period": 2 * HEARTBEAT_S}
        return Place(_database(text, **heartbeat), _shown(text), None)
    if url.database in (None, "", ":memory:"):
        return Place(InMemoryStorage(), text, None)
    return _open_sqlite(Path(url.database).resolve(), text)


def _open_file(path: Path) -> Place:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in SQLITE:
        return _open_sqlite(path)
    try:
        return Place(JournalStorage(Journal(path)), str(path), path)
    except (LookupError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"it is not as Optuna {optuna.__version__} writes it: {error!r}") from error


def _open_sqlite(path: Path, url: str = "sqlite://") -> Place:
    """Opened by its path alone if there is no URL, for in one some paths would mean others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    own = {"connect_args": {"timeout": SQLITE_WAIT_S}}
    if url == "sqlite://":
        own = {"creator": lambda: sqlite3.connect(path, timeout=SQLITE_WAIT_S)}
    with file_lock(path, "@open"):  # two processes that make the tables at once would stumble over each other
        return Place(_database(url, own), str(path), path)


def _database(url: str, options: dict | None = None, **heartbeat) -> RDBStorage:
    from sqlalchemy.pool import NullPool

    # Each transaction opens its connection and closes it: none is left open, and none idles through a long
    # trial until the server drops it. Braces are a template of Optuna's.
    escaped = url.replace("{", "{{").replace("}", "}}")
    return RDBStorage(escaped, {"poolclass": NullPool, **(options or {})}, **heartbeat)


def file_lock(path: Path, name: str):
    """A lock beside a storage's file; the system frees it when its holder dies, however it dies."""
    from filelock import FileLock

    folder = path.with_name(path.name + ".claims")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def _shown(text: str) -> str:
    """A storage in a message: without its password."""
    from sqlalchemy.engine import make_url

    try:
        return make_url(text).render_as_string(hide_password=True) if "://" in text else text
    except Exception:  # not a URL after all
        return text.partition("://")[0] + "://..."


def study_names(storage: StrPath | BaseStorage | None) -> list[str]:
    """The studies in a storage, or in the default store."""
    if storage is None:
        return sorted(path.stem for path in (Store().root / "studies").glob("*.log"))
    place = open_storage(storage, "any")
    with refusals(place.name):
        return sorted(optuna.get_all_study_names(place.storage))


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log lines, which the bar replaces, and its warnings that a feature is new."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


# ---------------------------------------------------------------- who runs which trial


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: a diverged one is, a killed one is not."""
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("reason") == DIVERGED
    return trial.state.is_finished()


def finished(study: Study) -> int:
    """How many trials of the study are finished."""
    return sum(map(is_finished, study.get_trials(deepcopy=False)))


class Heartbeat:
    """Tells a storage that wants to know, at its intervals, that the worker of a trial is alive."""

    def __init__(self, storage: BaseStorage, study: str, number: int):
        self.over, self.thread = threading.Event(), None
        interval = getattr(storage, "get_heartbeat_interval", lambda: None)()  # databases may have one
        if interval is None:
            return
        own = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)

        def beat() -> None:
            storage.record_heartbeat(own)
            while not self.over.wait(interval):
                storage.record_heartbeat(own)

        self.thread = threading.Thread(target=beat)
        self.thread.start()

    def stop(self) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join()


class Slots:
    """The trials that a study still lacks, handed out one at a time to any number of workers.

    A storage in a file (a journal, SQLite) has locks beside it, in the folder `<file>.claims`. Under the
    study's, a worker counts the trials that are finished or run, and takes the next number if one is missing.
    While it runs a trial it holds that trial's lock, which the system frees when the worker dies: the next
    worker finds a trial that is running and free, fails it, and a new one takes its place. The file system
    must have working locks, as local ones and NFS 4 have.

    In a database that is reached by its URL there are no such files, and its workers may share none. There a
    running trial has Optuna's heartbeat, and counts as lost when it stops. Numbers are given by the database,
    one by one; whoever gets one that as many earlier trials precede as the study should have gives it back.
    """

    def __init__(self, study: Study, total: int, place: Place):
        self.study, self.total, self.place, self.path = study, total, place, place.path
        self.storage = place.storage
        self.lock = file_lock(place.path, study.study_name) if place.path else nullcontext()
        self.held = self.heartbeat = None

    def take(self, distributions: dict) -> Trial | None:
        """The next trial, its parameters drawn from `distributions`; None if all are finished or run."""
        with quiet(), using(self.place):
            with self.lock:
                self.fail_lost()
                if self._taken() >= self.total:
                    return None
                trial = self.study.ask(distributions)
                if self.path:
                    self.held = self._claim(trial.number)
                    self.held.acquire()
            self.heartbeat = Heartbeat(self.storage, self.study.study_name, trial.number)
            if self._taken(before=trial.number) >= self.total:  # never so where there is a lock
                self.give(trial, state=TrialState.FAIL, reason="surplus")
                return None
            return trial

    def give(
        self, trial: Trial, value: float | None = None, *, state: TrialState, reason: str | None = None
    ) -> None:
        """How a trial ended; a failed one with the reason."""
        with quiet(), using(self.place):
            try:
                if reason is not None:
                    trial.set_user_attr("reason", reason)
                self.study.tell(trial, value, state=state)
            finally:
                self.heartbeat.stop()
                if self.held is not None:
                    self.held.release()
                    self._forget(trial.number)

    def fail_lost(self) -> None:
        """Fails the running trials whose workers are dead. They have no `reason`: nobody lived to give it."""
        if not self.path:
            fail_stale_trials(self.study)  # does nothing where there is no heartbeat
            return
        from filelock import Timeout

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            claim = self._claim(trial.number)
            try:
                with claim.acquire(blocking=False):
                    # Its owner may have ended it since; a claim is let go after that.
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except Timeout:
                continue  # its owner lives
            self._forget(trial.number)

    def _taken(self, before: int | None = None) -> int:
        """Trials that are finished or run; of those with smaller numbers only, if `before` is given."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(
            is_finished(t) or t.state == TrialState.RUNNING
            for t in trials
            if before is None or t.number < before
        )

    def _claim(self, number: int):
        return file_lock(self.path, f"{self.study.study_name}@{number}")

    def _forget(self, number: int) -> None:
        """Removes the file of a finished trial's claim, for which nobody looks any more."""
        Path(self._claim(number).lock_file).unlink(missing_ok=True)
