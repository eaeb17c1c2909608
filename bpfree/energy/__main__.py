"""``python -m bpfree.energy -- COMMAND`` measures a command, ``--check`` lists what can be measured."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from .check import check
from .meter import EnergyMeter

PROGRAM = "python -m bpfree.energy"
LOAD_S = 5.0
WRONG, INTERRUPTED, NO_READER = 2, 130, 141  # exit statuses, as shells have them


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> None:
        self.exit(WRONG, f"{self.prog}: error: {message}; see --help\n")

    def print_help(self, file: object = None) -> None:
        self.exit(_print(self.format_help().rstrip()))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [options] -- COMMAND [ARGUMENT ...]   or   %(prog)s --check [--load] [--json]",
        description="Measure the energy of a command, or list what can be measured on this machine. "
        "The report follows the command's output; the exit status is the command's.",
        epilog=f"example: {PROGRAM} --country POL --json -- python train.py > energy.json",
        allow_abbrev=False,
    )
    for name, text in (
        ("--check", "list the energy sources found here, why others are not, and what the sensors do"),
        ("--load", "with --check: watch the sensors under a load of 5 s, too, on the GPU if torch has one"),
        ("--json", "report as one line of JSON; the command's output then goes to stderr"),
        ("--debug", "show tracebacks"),
    ):
        parser.add_argument(name, action="store_true", help=text)
    parser.add_argument("--country", help="ISO 3166-1 alpha-3 code of the grid, for gCO2e (POL, DEU, ...)")
    parser.add_argument("--sources", help="comma-separated: nvml-counter,nvml-power,rapl,estimate")
    parser.add_argument("--gpus", help="comma-separated nvidia-smi indices or UUIDs; default: those in use")
    parser.add_argument("--watts-per-core", type=float, help="watts per busy core for the estimate")
    parser.add_argument("--hz", type=float, help="samples per second (default 5)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, after --")
    return parser


class _Child:
    """The command. What ends this program ends the command; then the reading is still printed.

    Ctrl-C reaches it by itself, and SIGTERM, which comes to this process alone, is passed on as often as it
    comes: what to do is the command's choice.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.terminated = False

    def terminate(self, *_: object) -> None:
        self.terminated = True
        if self.process is not None:
            self.process.terminate()

    def run(self, command: Sequence[str], **options: object) -> int:
        """The exit status of the command, negative for a signal. Raises OSError if it cannot run."""
        self.process = subprocess.Popen(command, **options)
        if self.terminated:  # while it was started
            self.process.terminate()
        return self.process.wait()

    @contextmanager
    def signals(self) -> Iterator[None]:
        # Functions, not SIG_IGN, which the command would inherit; a signal that whoever started this program
        # has it ignore (nohup) stays ignored. A handler can be set in the main thread only.
        handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: self.terminate}
        here = threading.current_thread() is threading.main_thread()
        taken = [n for n in handlers if here and signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handlers[number]) for number in taken}
        try:
            yield
        finally:
            for number, was in before.items():
                signal.signal(number, was)


def _print(text: str) -> int:
    """Print on standard output; 0, or the exit status if it refuses: in silence if its reader has gone."""
    try:
        if sys.stdout is not None:
            with suppress(AttributeError, ValueError):  # a name of a command need not be encodable
                sys.stdout.reconfigure(errors="backslashreplace")
        print(text, flush=True)
        return 0
    except OSError as error:
        _silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return NO_READER
        return _say(f"standard output cannot be written ({error.strerror})", WRONG)


def _say(line: str, status: int) -> int:
    try:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads that, either
        _silence(sys.stderr)
    return status


def _silence(stream: object) -> None:
    """What the stream still holds goes nowhere, because Python writes it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.check == bool(command):
        parser.error("give either --check or a command after --")
    if options.load and not options.check:
        parser.error("--load goes with --check: nothing is loaded while a command is measured")
    settings = {name: getattr(options, name) for name in ("country", "watts_per_core")}
    settings |= {} if options.hz is None else {"hz": options.hz}
    gpus = [int(g) if g.isdecimal() else g for g in options.gpus.split(",")] if options.gpus else None
    settings |= {"gpus": gpus, "sources": options.sources.split(",") if options.sources else None}
    try:
        if options.check:
            if options.load:
                with suppress(ImportError):
                    import torch  # noqa: F401  so that the load is the GPU's
                settings["gpus"] = gpus or "visible"
            found = check(load_s=LOAD_S if options.load else 0.0, **settings)
            return _print(json.dumps([row._asdict() for row in found]) if options.json else str(found))
        meter = EnergyMeter(**settings, name=" ".join(command))
    except (ValueError, ModuleNotFoundError) as error:
        if options.debug:
            raise
        parser.error(str(error))
    child, output = _Child(), (sys.stderr or subprocess.DEVNULL) if options.json else None
    with child.signals():
        with meter:
            try:
                status = child.run(command, stdout=output)
            except OSError as error:
                status = 127 if isinstance(error, FileNotFoundError) else 126
                return _say(f"cannot run {command[0]!r}: {os.strerror(error.errno)}", status)
        failed = _print(meter.reading.to_json() if options.json else str(meter.reading))
    return (status if status >= 0 else 128 - status) or failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", INTERRUPTED))
