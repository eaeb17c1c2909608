"""Where studies lie: a journal file, SQLite, or any database that Optuna can reach."""

import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage

from ..data import StrPath
from ..errors import BpfreeError, InvalidInput, StorageFailed, disk
from ..experiments.store import Store
from .journal import ELSEWHERE, Journal

SQLITE = (".db", ".sqlite", ".sqlite3")
HEARTBEAT_S = 60  # of a trial in a database without a file; after twice as long without one it counts as lost
SQLITE_WAIT_S = 120  # for another process's writing
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
        heart = {"heartbeat_interval": HEARTBEAT_S, "grace_period": 2 * HEARTBEAT_S}
        return Place(_database(text, **heart), _shown(text), None)
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


def _database(url: str, options: dict | None = None, **heart) -> RDBStorage:
    from sqlalchemy.pool import NullPool

    # Each transaction opens its connection and closes it: none is left open, and none idles through a long
    # trial until the server drops it. Braces are a template of Optuna's.
    escaped = url.replace("{", "{{").replace("}", "}}")
    return RDBStorage(escaped, {"poolclass": NullPool, **(options or {})}, **heart)


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
