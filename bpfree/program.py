"""How a command-line program ends: whatever happens, with one line at most and an exit status."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .errors import BpfreeError

WRONG, INTERRUPTED, NO_READER, TERMINATED = 2, 130, 141, 143  # as shells have them


class Terminated(KeyboardInterrupt):
    """SIGTERM, the signal of kill, docker stop, systemd and schedulers; what stops at Ctrl-C stops at it."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, so that whatever tidies up after Ctrl-C does so after it, too."""
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return

    def stop(*_) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_program(name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs `main(argv)`, by default with the arguments of this process, and returns the exit status.

    That is what `main` returns; 2 after an error that its user can put right, or if standard output cannot be
    written; 130 after Ctrl-C and 143 after SIGTERM, with the notes of the exception; 141, in silence, when
    whoever read its output has gone. With `--debug` among the arguments errors keep their tracebacks.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # whatever the locale lacks, or is no text, such as some paths
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with stopped_by_sigterm():
            status = main(argv)
            sys.stdout.flush()
            return status
    except BpfreeError as error:
        if "--debug" in argv:
            raise
        return _say(f"{name}: {error}", WRONG)
    except KeyboardInterrupt as stop:
        how = "terminated" if isinstance(stop, Terminated) else "interrupted"
        notes = getattr(stop, "__notes__", [])
        return _say("; ".join([f"{name}: {how}", *notes]), TERMINATED if how == "terminated" else INTERRUPTED)
    except OSError as error:
        if not _output_failed():
            raise
        if isinstance(error, BrokenPipeError):
            return NO_READER
        return _say(f"{name}: standard output cannot be written ({error.strerror})", WRONG)


def _say(line: str, status: int) -> int:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody reads that, either
        _silence(sys.stderr)
    return status


def _output_failed() -> bool:
    """Whether standard output is what refuses; if so it is silenced, since Python flushes it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
        return True
    return False


def _silence(stream) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
