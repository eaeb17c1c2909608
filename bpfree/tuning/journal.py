"""A study as a file of operations, a line each, that survives a full disk and a lost machine."""

import json
import logging
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock

from ..errors import BpfreeError, InvalidInput, disk

log = logging.getLogger("bpfree")
START = b'{"op_code":'  # of every line that Optuna writes
SUM = b',"crc32":'  # and what we add to it, which Optuna passes over
OTHER_STORAGE = "use another storage (--storage, or storage=)"


class Journal(BaseJournalBackend):
    """Optuna's journal file, with a checksum at the end of each line.

    Whoever fills the disk or dies while writing leaves half a line. `JournalFileBackend` writes on behind it,
    and can then never read the file again; here whoever writes first cuts what is no whole line off the end.
    Raises ValueError for a file that is no journal, which is left as it is.
    """

    def __init__(self, path: Path):
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with open(path, "ab+") as file:  # made if it is not there
            file.seek(0)
            if not START.startswith(file.read(len(START))):
                raise ValueError("it is no journal of Optuna's")
        self.path = path
        self.read = (0, 0)  # lines, and their bytes

    def read_logs(self, log_number_from: int) -> Iterator[dict]:
        """The operations from this number on. Raises InvalidInput if one is damaged that others follow."""
        number, offset = self.read if log_number_from == self.read[0] else (0, 0)
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                for line in file:
                    try:
                        entry = operation(line)
                    except ValueError:
                        if not file.read(1):
                            return  # torn, or being written
                        raise
                    number, offset = number + 1, offset + len(line)
                    if number > log_number_from:
                        self.read = (number, offset)
                        yield entry
        except BpfreeError:
            raise
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"line {number + 1} of {self.path} cannot be read ({error}): bring back a copy of the file, "
                f"or {OTHER_STORAGE}"
            ) from error

    def append_logs(self, logs: list[dict]) -> None:
        """Raises StorageFailed if it cannot; the file is then what it was."""
        lines = b"".join(map(as_line, logs))
        path = self.path
        with disk.refusals(path, OTHER_STORAGE), self.locked(), open(path, "r+b", buffering=0) as file:
            end = self.cut_torn_line(file)
            file.seek(end)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, the file is locked, for Optuna's own programs, too; any file system supports this lock."""
        lock = JournalFileOpenLock(str(self.path))
        lock.acquire()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # another has taken it for a dead process's, after half a minute
                lock.release()

    def cut_torn_line(self, file: BinaryIO) -> int:
        """Cuts a line that is not whole off the end; returns where the file then ends."""
        size = file.seek(0, os.SEEK_END)
        if not size:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(b"\n", 0, size - 1) + 1
            last = content[start:]
        try:
            operation(last)
            return size
        except ValueError:
            file.truncate(start)
            log.warning(
                "%s ended in half a line, as a full disk or a lost machine leaves it: cut; the study goes on "
                "from the %d bytes before it",
                self.path,
                start,
            )
            return start


def as_line(entry: dict) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%s%s%d}\n" % (text[:-1], SUM, zlib.crc32(text))


def operation(line: bytes) -> dict:
    """The operation of a line. Raises ValueError if it is not whole; Optuna's own have no checksum."""
    if not line.endswith(b"\n"):
        raise ValueError("it has no end")
    text, summed, checksum = line.rpartition(SUM)
    text = text + b"}" if summed else line
    entry = json.loads(text)
    if summed and checksum != b"%d}\n" % zlib.crc32(text):
        raise ValueError("its checksum is another")
    if not (isinstance(entry, dict) and isinstance(entry.get("op_code"), int)):
        raise ValueError("it is no operation of Optuna's")
    return entry
