"""One lock per run, so that two processes that share a store never train it both."""

import errno
import json
import os
import socket
import warnings
from contextlib import suppress
from pathlib import Path

from ..errors import StorageFailed
from ..errors.disk import ELSEWHERE, read_object, refusals

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class RunLock:
    """The lock of one run. One process has it at a time; the system frees it when that process dies.

    A context manager, which releases the lock if it was taken. A note beside the lock says who has it.
    """

    def __init__(self, folder: Path, key: str):
        from filelock import FileLock

        self.folder, self.key = folder, key
        self.lock = FileLock(folder / f"{key}.lock")
        self.note = folder / f"{key}.json"

    def take(self, wait_s: float = 0.0) -> bool:
        """Whether the lock is ours, after waiting for at most `wait_s` seconds.

        Raises StorageFailed where no file can be made or the file system has no locks.
        """
        from filelock import Timeout

        with refusals(self.folder):
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
                    f"run: {ELSEWHERE}"
                ) from error
            note = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
            self.note.write_text(note, encoding="utf-8")
        return True

    def holder(self) -> str:
        """Who has the lock, as far as is known."""
        try:
            note = read_object(self.note.read_bytes())
        except (OSError, ValueError):
            return "another process"
        pid, host = note.get("pid"), note.get("host")
        known = type(pid) is int and isinstance(host, str) and host.isprintable()
        return f"process {pid} on {host}" if known else "another process"

    def forget(self) -> None:
        """Releases a lock that is ours and whose run is stored, and removes its file, which nobody needs now.

        Without a record the file must stay: who waits for it would then hold another than who comes later.
        """
        self._release()
        with suppress(OSError):  # on Windows, while others have it open: then the last of them removes it
            Path(self.lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_) -> None:
        self._release()

    def _release(self) -> None:
        if self.lock.is_locked:
            with suppress(OSError):  # a note that stays is written over by who comes next
                self.note.unlink(missing_ok=True)
            self.lock.release()
