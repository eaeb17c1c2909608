"""How a command-line program is asked, and how it ends: with one line at most and an exit status."""

import _thread
import argparse
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from . import BpfreeError, InvalidInput

WRONG, INTERRUPTED, NO_READER, TERMINATED = 2, 130, 141, 143  # as shells have them


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line of ours, and help that cannot be written is not passed over."""

    def __init__(self, **how):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **how)

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{message} (--help lists the options)")

    def print_help(self, file=None) -> None:
        print(self.format_help(), end="", file=file)


def whole(text: str, least: int = 1) -> int:
    """The type of an option that takes a whole number of `least` or more."""
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more: give one")
    return int(text)


class Terminated(KeyboardInterrupt):
    """SIGTERM, the signal of kill, docker stop, systemd and schedulers; what stops at Ctrl-C stops at it."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, so that whatever tidies up after Ctrl-C does so after it, too."""
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return

    def stop(*_) -> None:
        # Once: `timeout` sends it twice, and the second would end the tidying up.
        signal.signal(signal.SIGTERM, lambda *_: None)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: it was not set by Python


def stop_with_starter() -> None:
    """From now on this process gets SIGTERM as soon as its standard input ends: a pipe whose other end only
    its starter holds, so that it ends when the starter closes it or dies, however and on any system."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock Python wants when it ends
            pass
        _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def helpers(grace_s: float) -> Iterator[Callable[..., subprocess.Popen]]:
    """Gives a function that starts processes, as `subprocess.Popen` does, which end with this one, since they
    call `stop_with_starter`. Who is still there `grace_s` seconds after the end is killed."""
    started = []

    def start(command: Sequence[str], **how) -> subprocess.Popen:
        # In a session of its own, because Ctrl-C on a terminal is for the starter alone.
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **how))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.stdin.close()
        for process in started:
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def threads_each(processes: int) -> str:
    """OMP_NUM_THREADS, which torch reads when it is imported, of so many processes that share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return str(max(1, cores // processes))


def run_program(name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs `main(argv)`, by default with the arguments of this process, and returns the exit status.

    That is what `main` returns; 2 after an error that its user can put right, or if its output cannot be
    written; 130 after Ctrl-C and 143 after SIGTERM, with the notes of the exception; 141, in silence, when
    whoever read its output has gone. With `--debug` among the arguments errors keep their tracebacks.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # the shell has closed it, which libraries do not reckon with
            null = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, stream, open(null, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the locale lacks, or is no text, as some paths
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with stopped_by_sigterm():
            try:
                status = main(argv)
            except SystemExit:  # after --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return status
    except BpfreeError as error:
        if "--debug" in argv:
            raise
        return _end(f"{name}: {error}", WRONG)
    except KeyboardInterrupt as stop:
        how = "terminated" if isinstance(stop, Terminated) else "interrupted"
        notes = getattr(stop, "__notes__", [])
        return _end("; ".join([f"{name}: {how}", *notes]), TERMINATED if how == "terminated" else INTERRUPTED)
    except OSError as error:
        if error.filename is not None or not any(map(_refuses, (sys.stdout, sys.stderr))):
            raise
        if isinstance(error, BrokenPipeError):
            return _end("", NO_READER)
        return _end(f"{name}: its output cannot be written ({error.strerror})", WRONG)


def _end(line: str, status: int) -> int:
    """Says a last line. Output that nobody takes is let go of, or Python would complain of it at the end."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, line and line + "\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
    return status


def _refuses(stream) -> bool:
    """Whether nothing can be written there: an empty line shows it of what is not buffered, too."""
    try:
        stream.write("\n")
        stream.flush()
    except OSError:
        return True
    return False
