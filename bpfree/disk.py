"""Files that are there whole or not at all, and what to do when the system refuses one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StorageFailed

if TYPE_CHECKING:
    from torch import Tensor

ELSEWHERE = "use a store elsewhere (the variable BPFREE_STORE, or store=)"
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def write(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk. Raises OSError."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """As `write`, but what was there before stays until the new content is whole. Raises StorageFailed."""
    draft = path.with_name(path.name + ".writing")
    with refusals(path):
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


@contextmanager
def refusals(path: Path, remedy: str = ELSEWHERE) -> Iterator[None]:
    """Inside, an OSError becomes a StorageFailed that names the path, the reason and what to do."""
    try:
        yield
    except StorageFailed:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            remedy = f"make room there, or {remedy}; what was stored before is unharmed"
        elif error.errno in FORBIDDEN:
            remedy = f"make it writable, or {remedy}"
        raise StorageFailed(f"{path} cannot be written ({reason}): {remedy}") from error
