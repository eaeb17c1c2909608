"""Where studies lie: a journal file, SQLite, or any database that Optuna can reach."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from ..data import StrPath
from ..errors import InvalidInput
from ..store import Store

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
    try:
        with quiet():
            return _open_url(text) if "://" in text else _open_path(Path(text).expanduser())
    except Exception as error:  # whatever Optuna, SQLAlchemy, a driver or the file system may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"storage {_shown(text)} cannot be opened ({reason}): {WAYS}") from error


def _open_url(text: str) -> Place:
    from sqlalchemy.engine import make_url  # here, because only databases need it

    url = make_url(text)
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return _open_path(Path(url.database), text)
    # Long trials outlive idle connections: each is tried before it is used.
    options = {"pool_pre_ping": True}
    heart = {"heartbeat_interval": HEARTBEAT_S, "grace_period": 2 * HEARTBEAT_S}
    return Place(RDBStorage(text, options, **heart), _shown(text), None)


def _open_path(path: Path, url: str = "") -> Place:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not url and path.suffix not in SQLITE:
        refuse_foreign(path)
        return Place(JournalStorage(JournalFileBackend(str(path))), str(path), path)
    options = {"connect_args": {"timeout": SQLITE_WAIT_S}}
    with file_lock(path, "@open"):  # two processes that make the tables at once would stumble over each other
        return Place(RDBStorage(url or f"sqlite:///{path}", options), str(path), path)


def refuse_foreign(path: Path) -> None:
    """Raises ValueError for a file that is no journal: Optuna would append to it, and then not read it."""
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            if b'"op_code"' not in file.readline():
                raise ValueError("it is no journal of Optuna's")


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
    return sorted(optuna.get_all_study_names(open_storage(storage, "any").storage))


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
