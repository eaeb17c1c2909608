"""Where studies lie: a journal file, SQLite, or any database that Optuna can reach; who runs which trial."""

import math
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ..data import StrPath
from ..errors import BpfreeError, InvalidInput, StorageFailed, disk
from ..experiments.store import Store
from .journal import OTHER_STORAGE, Journal

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
    path: Path | None = None


def open_storage(storage: StrPath | BaseStorage | None, study: str) -> Place:
    """The storage of a study of this name; made if it is not there. Raises InvalidInput if it cannot be.

    storage: None for a journal in the default store; a path ending in .db, .sqlite or .sqlite3 (SQLite) or in
        anything else (a journal file); an RDB URL; or an Optuna storage, which is taken as it is.
    """
    if not re.fullmatch(r"[\w.+-]+", study):
        raise InvalidInput(f"study name {study!r}: use letters, digits and .+-_ only")
    if isinstance(storage, BaseStorage):
        return Place(storage, type(storage).__name__)
    text = str(storage if storage is not None else Store().root / "studies" / f"{study}.log")
    with opening(without_password(text)):
        return _open_url(text) if "://" in text else _open_file(Path(text).expanduser().resolve())


@contextmanager
def opening(name: str) -> Iterator[None]:
    """Inside, a storage that cannot be opened or read becomes an InvalidInput that names it."""
    try:
        with quiet():
            yield
    except BpfreeError:
        raise
    except Exception as error:  # whatever Optuna, SQLAlchemy, a driver or the file system may raise
        raise InvalidInput(f"storage {name} cannot be opened ({why(error)}): {WAYS}") from error


@contextmanager
def using(place: Place) -> Iterator[None]:
    """Inside, what the system or a database refuses becomes a StorageFailed. A journal does so by itself."""
    try:
        with disk.refusals(place.path or place.name, OTHER_STORAGE):
            yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageFailed(
            f"{place.name} cannot be written or read ({why(error)}): make room there, wait until others "
            f"have ended, or {OTHER_STORAGE}"
        ) from error


def why(error: Exception) -> str:
    """The cause of an error, in one line."""
    if isinstance(error, StorageInternalError):
        error = error.__cause__ or error  # Optuna guesses, the driver knows
    return (str(error) or type(error).__name__).splitlines()[0]


def _open_url(text: str) -> Place:
    url = make_url(text)
    if url.get_backend_name() != "sqlite":
        heartbeat = {"heartbeat_interval": HEARTBEAT_S, "grace_period": 2 * HEARTBEAT_S}
        return Place(_database(text, **heartbeat), without_password(text))
    if url.database in (None, "", ":memory:"):
        return Place(InMemoryStorage(), text)
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
    # Each transaction opens its connection and closes it: none is left open, and none idles through a long
    # trial until the server drops it. Braces are a template of Optuna's.
    escaped = url.replace("{", "{{").replace("}", "}}")
    return RDBStorage(escaped, {"poolclass": NullPool, **(options or {})}, **heartbeat)


def file_lock(path: Path, name: str):
    """A lock beside a storage's file; the system frees it when its holder dies, however it dies."""
    folder = path.with_name(path.name + ".claims")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


@contextmanager
def study_lock(place: Place, name: str) -> Iterator[ExitStack]:
    """Inside, until `close()`, no other worker begins a trial of this study, if it lies in a file."""
    with ExitStack() as lock:
        if place.path:
            lock.enter_context(file_lock(place.path, name))
        yield lock


def without_password(text: str) -> str:
    """The name of a storage for messages, without its password."""
    try:
        return make_url(text).render_as_string(hide_password=True) if "://" in text else text
    except Exception:  # not a URL after all
        return text.partition("://")[0] + "://..."


def study_names(storage: StrPath | BaseStorage | None) -> list[str]:
    """The studies in a storage, or in the default store."""
    if storage is None:
        return sorted(path.stem for path in (Store().root / "studies").glob("*.log"))
    place = open_storage(storage, "any")
    with opening(place.name):
        return sorted(optuna.get_all_study_names(place.storage))


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log lines, which the bar replaces, and its warnings that a feature is new."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
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


class Slots:
    """The trials that a study still lacks, run one at a time by any number of workers.

    A storage in a file has locks beside it, in the folder `<file>.claims`. Under the study's, a worker counts
    the trials that are finished or run, and takes the next number if one is missing. While it runs a trial it
    holds that trial's lock, which the system frees when the worker dies: the next worker finds a trial that
    is running and free, fails it, and a new one takes its place. The file system must have working locks.

    In a database that is reached by its URL there are no such files. There a running trial has Optuna's
    heartbeat, and counts as lost when it stops. Numbers are given by the database; whoever gets one that as
    many earlier trials precede as the study should have gives it back.

    total: how many finished trials the study should have.
    listed: what is tried in place of what the sampler draws: parameters that a trial is given.
    """

    def __init__(self, study: Study, total: int, place: Place, listed: Sequence[Mapping] = ()):
        self.study, self.total, self.place, self.listed = study, total, place, listed

    def run_next(self, begin: Callable[[Trial], object], objective: Callable[[Trial], float]) -> bool:
        """Runs one more trial, unless all are finished or run by others. Returns whether it did.

        begin: draws the trial's parameters, while no other worker draws.
        objective: gives the trial's value; NaN makes it a failed trial, and an error, which is raised again.
        """
        place, study, errors = self.place, self.study, []
        with quiet(), using(place), ExitStack() as claim, study_lock(place, study.study_name) as lock:

            def run(trial: Trial) -> float:
                if place.path:
                    claim.callback(self._forget, trial.number)  # once it is released
                    claim.enter_context(self._claim(trial.number))
                begin(trial)
                lock.close()
                if self._taken(before=trial.number) >= self.total:  # never so where there is a lock
                    trial.set_user_attr("reason", "surplus")
                    return math.nan
                try:
                    return objective(trial)
                except optuna.TrialPruned:
                    raise
                except KeyboardInterrupt:
                    trial.set_user_attr("reason", "interrupted")
                    raise
                except Exception as error:
                    errors.append(error)
                    trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
                    raise

            self.fail_lost()
            if self._taken() >= self.total:
                return False
            self._enqueue_listed()
            try:
                study.optimize(run, n_trials=1, catch=(Exception,))
            except AssertionError as error:  # Optuna 5.0's, over the error of a storage that was told the end
                raise (error.__context__ or error) from None
        if errors:  # here, because it is no fault of the storage's
            raise errors[0]
        return True

    def fail_lost(self) -> None:
        """Fails the running trials whose workers are dead. They have no `reason`: nobody lived to give it."""
        if not self.place.path:
            fail_stale_trials(self.study)  # does nothing where there is no heartbeat
            return
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            claim = self._claim(trial.number)
            try:
                with claim.acquire(blocking=False):
                    # Its owner may have ended it since; a claim is let go after that.
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except Timeout:
                continue  # its owner lives
            self._forget(trial.number)

    def _enqueue_listed(self) -> None:
        """Enqueues the first of those listed that no trial has or had, if none is waiting.

        Its `GridSampler` takes a lost trial's value for done, and begins anew when values are added.
        """
        trials = self.study.get_trials(deepcopy=False)
        if any(t.state == TrialState.WAITING for t in trials):
            return
        had = [t.params.items() for t in trials if is_finished(t) or t.state == TrialState.RUNNING]
        left = (point for point in self.listed if not any(point.items() <= one for one in had))
        if point := next(left, None):
            self.study.enqueue_trial(dict(point))

    def _taken(self, before: float = math.inf) -> int:
        """Trials that are finished or run; of those with smaller numbers only, if `before` is given."""
        return sum(
            is_finished(t) or t.state == TrialState.RUNNING
            for t in self.study.get_trials(deepcopy=False)
            if t.number < before
        )

    def _claim(self, number: int):
        return file_lock(self.place.path, f"{self.study.study_name}@{number}")

    def _forget(self, number: int) -> None:
        """Removes the lock file of a finished trial, which nobody needs any more."""
        Path(self._claim(number).lock_file).unlink(missing_ok=True)
