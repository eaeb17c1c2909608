"""Tune algorithms under one budget, in any number of processes; the best settings are kept in the store.

Studies go on where they were: the same command, run again or at once on other machines, adds what is missing.
"""

import argparse
import os
import subprocess
import sys
from contextlib import suppress

from ..errors import choose, disk
from ..errors.program import (
    INTERRUPTED,
    Parser,
    helpers,
    run_program,
    stop_with_starter,
    threads_each,
    whole,
)

PROG = "python -m bpfree.tuning"


def parser() -> Parser:
    examples = f"""examples:
  {PROG} bp mf --data fashion_mnist --trials 20 --max-epochs 8 --workers 2
  {PROG} ff --architecture 3x1000 --fix batch_size 64
  {PROG} my_module:MyAlgorithm --storage sqlite:///studies.db
"""
    p = Parser(prog=PROG, description=__doc__, epilog=examples)
    text = "algorithms (bp, mf, module:object, ...), or names of studies to go on with"
    p.add_argument("what", nargs="+", metavar="WHAT", help=text)
    p.add_argument("--trials", type=whole, default=20, help="of each study, in all (default 20)")
    p.add_argument("--workers", type=whole, default=1, help="processes on this machine (default 1)")
    p.add_argument("--storage", help="a journal file, a .db file, or a URL (default: in the store)")
    p.add_argument("--no-wait", action="store_true", help="end when no trial is left to begin")
    p.add_argument("--debug", action="store_true", help="show tracebacks")
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # one that another has started
    of = p.add_argument_group("of algorithms")
    of.add_argument("--data", default="digits", help="a data set or an .npz file (default digits)")
    of.add_argument("--architecture", help="2x1000, cnn, ... (default: the paper's)")
    of.add_argument("--protocol", default="convergence", help="how long a trial trains (default convergence)")
    of.add_argument("--max-epochs", type=whole, help="cap on every stage of every trial")
    of.add_argument("--seed", type=int, default=0, help="of all trials (default 0)")
    twice = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    of.add_argument("--fix", **twice, help="what is not searched, such as batch_size 64; repeatable")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 if --no-wait ended before all trials did, and otherwise as `run_program` has it."""

    def command(argv: list[str]) -> int:
        args = parser().parse_args(argv)
        disk.settle_store(PROG, disk.given_path("results") / "store")
        os.environ.setdefault("OMP_NUM_THREADS", threads_each(args.workers))
        if not args.worker:
            return finish_studies(args, argv)
        stop_with_starter()
        with suppress(KeyboardInterrupt):  # which whoever started it reports
            return finish_studies(args, argv)
        return INTERRUPTED

    return run_program(PROG, command, argv)


def finish_studies(args: argparse.Namespace, argv: list[str]) -> int:
    from . import budget, cost, finished, search  # here, because torch and Optuna take seconds to import

    how = {"wait": not (args.no_wait or args.worker), "progress": not args.worker}
    experiments, names = chosen(args)
    try:
        with helpers(grace_s=30) as start:  # in which a worker gives its trial back
            # The others are this command again, each in a process of its own.
            command = [sys.executable, "-m", "bpfree.tuning", *argv, "--workers", "1", "--worker"]
            others = [start(command, stdout=subprocess.DEVNULL) for _ in range(args.workers - 1)]
            studies = budget.tune_all(experiments, args.trials, args.storage, **how) if experiments else []
            studies += [search.resume(name, args.trials, args.storage, **how) for name in names]
            for other in others:
                other.wait()
    except KeyboardInterrupt as stop:
        if not args.worker:
            stop.add_note(so_far([*map(search.study_name, experiments), *names], args))
        raise
    if not args.worker:
        table = cost(studies)[["study", "trials", "diverged", "lost", "best", "seconds", "joules", "energy"]]
        print(table.round(2).to_string(index=False))
    return 0 if all(finished(study) >= args.trials for study in studies) else 1


def chosen(args: argparse.Namespace) -> tuple[list, list[str]]:
    """The experiments of algorithms, or else the names of studies."""
    from ..algorithms.arms import ARMS, arm
    from ..experiments import published
    from ..experiments.experiment import Experiment
    from .storage import study_names

    if not any(what in ARMS or ":" in what for what in args.what):
        known = study_names(args.storage)
        for what in args.what:
            choose("algorithm or study", what, [*ARMS, "module:object", *known])
        return [], args.what
    own = {name: getattr(args, name) for name in ("data", "seed", "architecture", "protocol", "max_epochs")}
    fixed = {name: published.parse(text) for name, text in args.fix}
    return [Experiment(arm(what).name, **own, hyperparameters=fixed) for what in args.what], []


def so_far(names: list[str], args: argparse.Namespace) -> str:
    """How many trials of each study are finished, and what to do, in words."""
    from . import finished, load_study, study_names

    known = study_names(args.storage)
    counts = [f"{finished(load_study(n, args.storage))} of {args.trials} of {n}" for n in names if n in known]
    done = f"finished are {', '.join(counts)}. " if counts else ""
    return f"{done}The same command goes on with what is missing"


if __name__ == "__main__":
    sys.exit(main())
