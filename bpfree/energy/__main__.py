"""``python -m bpfree.energy -- COMMAND`` measures a command, ``--check`` lists what can be measured."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager

from .check import check
from .meter import EnergyMeter


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bpfree.energy",
        usage="%(prog)s [options] -- COMMAND [ARGUMENT ...]   or   %(prog)s --check [--json]",
        description="Measure the energy of a command, or list what can be measured on this machine. "
        "The report follows the command's output; the exit status is the command's.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--check", action="store_true", help="list the energy sources found here, and why others are not"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="report as one line of JSON; the command's output then goes to stderr",
    )
    parser.add_argument("--country", help="ISO 3166-1 alpha-3 code of the grid, for gCO2e (POL, DEU, ...)")
    parser.add_argument("--sources", help="comma-separated: nvml-counter,nvml-power,rapl,estimate")
    parser.add_argument("--gpus", help="comma-separated nvidia-smi indices or UUIDs; default: those in use")
    parser.add_argument("--watts-per-core", type=float, help="watts per busy core for the estimate")
    parser.add_argument("--hz", type=float, help="samples per second (default 5)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, after --")
    return parser


@contextmanager
def _ignoring_interrupts():
    """Ctrl-C reaches the command, started before, as well: let it decide, and still print the reading."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.check == bool(command):
        parser.error("give either --check or a command after --")
    settings = {
        "country": options.country,
        "sources": options.sources.split(",") if options.sources else None,
        "gpus": [int(g) if g.isdigit() else g for g in options.gpus.split(",")] if options.gpus else None,
        "watts_per_core": options.watts_per_core,
        **({} if options.hz is None else {"hz": options.hz}),
    }
    try:
        if options.check:
            found = check(**settings)
            print(json.dumps([row._asdict() for row in found]) if options.json else found)
            return 0
        meter = EnergyMeter(**settings, name=" ".join(command))
    except (ValueError, ModuleNotFoundError) as error:
        if options.debug:
            raise
        parser.error(str(error))
    sys.stdout.flush()
    with meter:
        try:
            child = subprocess.Popen(command, stdout=sys.stderr if options.json else None)
        except OSError as error:
            print(f"{parser.prog}: cannot run {command[0]!r}: {os.strerror(error.errno)}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
        with _ignoring_interrupts():
            status = child.wait()
    print(meter.reading.to_json() if options.json else meter.reading)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
