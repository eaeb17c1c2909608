"""Files that are there whole or not at all, and what to do when the system refuses one."""

import errno
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from . import InvalidInput, StorageFailed

if TYPE_CHECKING:
    from torch import Tensor

OTHER_STORE = "use a store elsewhere (the variable BPFREE_STORE, or store=)"
OUTPUT = "choose another --output"
CHECKOUT = "use a checkout of your own"
NAMED = {"data": "STORE", "cache": "DATA"}
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def own_folder(kind: str) -> Path:
    """Where the user's "data" or "cache" lie if no folder is named. Raises InvalidInput without a home."""
    try:
        return given_path(getattr(platformdirs, f"user_{kind}_dir")("bpfree"))
    except RuntimeError as error:
        raise InvalidInput(f"no folder for {kind} ({error}), nor one named in BPFREE_{NAMED[kind]}") from None


def store_folder(root: str | os.PathLike | None = None) -> Path:
    """A store's folder, there or not yet: `root`, else `BPFREE_STORE`, else in the user's data folder.

    Raises InvalidInput for a file, and as `given_path`.
    """
    folder = given_path(root or os.environ.get("BPFREE_STORE") or own_folder("data") / "records")
    if os.path.isfile(folder):
        raise InvalidInput(f"store {folder} is a file: name a folder (the variable BPFREE_STORE, or store=)")
    return folder


def given_path(text: str | os.PathLike) -> Path:
    """A path as a user gives it, made absolute; ~ is the home folder.

    Raises InvalidInput where there is no such home, or where the current folder was removed.
    """
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, FileNotFoundError):
        home = str(text).startswith("~")
        reason = "there is no such home" if home else "the current folder was removed"
        remedy = "set HOME" if home else "change to one that is there"
        raise InvalidInput(f"{text} leads nowhere ({reason}): {remedy}, or give the whole path") from None


def settle_store(program: str, otherwise: Path) -> None:
    """Where no store is named and the user's data folder cannot be written, records are kept in `otherwise`,
    and the program says so."""
    if os.environ.get("BPFREE_STORE"):
        return
    folder = own_folder("data")
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        os.environ["BPFREE_STORE"] = str(otherwise)
        print(f"{program}: {folder} cannot be made: records are kept in {otherwise}", file=sys.stderr)


def write(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk. Raises OSError."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes, remedy: str = OTHER_STORE) -> None:
    """As `write`, but what was there before stays until the new content is whole, whoever else writes there.

    Raises StorageFailed.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.writing")
    with refusals(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(draft, content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def safetensors(tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> bytes:
    """Tensors by name as the content of a safetensors file."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)


def read_object(content: bytes) -> dict:
    """The JSON object that a file holds. Raises ValueError for anything else."""
    try:
        found = json.loads(content.decode())
    except RecursionError:  # brackets in brackets, for as long as the file is
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds no JSON object but {type(found).__name__}")
    return found


def one_spelling(name: str) -> str:
    """How what is stored names data: a user's own by the absolute path, links followed; others by name."""
    return os.path.realpath(os.path.expanduser(name)) if name.endswith(".npz") and "\0" not in name else name


@contextmanager
def refusals(path: Path, remedy: str = OTHER_STORE, doing: str = "written") -> Iterator[None]:
    """Inside, an OSError becomes a StorageFailed that names the path, the reason and what to do.

    doing: what could not be done, "written" or "read".
    """
    try:
        yield
    except StorageFailed:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            remedy = f"make room there, or {remedy}; what was stored before is unharmed"
        elif error.errno in FORBIDDEN:
            remedy = f"make it {'writable' if doing == 'written' else 'readable'}, or {remedy}"
        raise StorageFailed(f"{path} cannot be {doing} ({reason}): {remedy}") from error
