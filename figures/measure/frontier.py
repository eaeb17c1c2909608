"""What does a joule buy? The frontier's search and runs, piece by piece. Writes figures/data/frontier.csv.

    python figures/measure/frontier.py                                 all of it: days on a CPU
    python figures/measure/frontier.py --data mnist --algorithms bp mf --seeds 3
    python figures/measure/frontier.py --seconds 600                   begins nothing new after ten minutes
    python figures/measure/frontier.py --at-once 8                     on a GPU: sooner, but without costs

Every algorithm is tuned for every budget on seed 0 with the same trials (`bpfree.tuning.tune_budgets`), which
see no test image, the smaller budgets first, asked for or not; then the seeds from 1 on are trained, one by
one, so that whole ones are left by a stop. What is solved in closed form is not tuned, and has one budget
only. The trials are in frontier_trials.csv beside it. The same command goes on where it stopped: what the
store (`--store`, else BPFREE_STORE) has is not trained again, nor what the two tables have with the settings
of today, wherever it was made; `--anew` asks for that, too, as for costs on a machine of your own.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--algorithms", nargs="+")
    parser.add_argument("--budgets", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=10, help="how many, from seed 1 on; 0: only search")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--anew", action="store_true", help="also what the tables have")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    if args.store:
        os.environ["BPFREE_STORE"] = str(args.store)

    from bpfree import tuning
    from bpfree.evidence import frontier
    from bpfree.evidence.evidence import read_table
    from bpfree.experiments import study
    from bpfree.experiments.runner import run_many

    if unknown := set(args.budgets) - study.TRIALS.keys():
        parser.error(f"--budgets {min(unknown)}: trials are fixed for {', '.join(map(str, study.TRIALS))}")
    chosen = study.profile("evidence", args.data or ("fashion_mnist", "mnist"))
    chosen = replace(chosen, seeds=tuple(range(1, args.seeds + 1)), passes=tuple(args.budgets))
    named = args.algorithms or (*study.FRONTIER, *study.SOLVED)
    solved = [name for name in named if name in study.SOLVED]
    algorithms = [name for name in named if name not in solved]
    trials = {passes: n for passes, n in study.TRIALS.items() if passes <= max(chosen.passes)}
    end = time.monotonic() + args.seconds

    def in_time() -> bool:
        return time.monotonic() < end

    def recorded(name: str):
        path = args.out / "data" / name
        return read_table(path) if path.exists() and not args.anew else None

    searched = replace(chosen, preset=None, seeds=(0,), passes=(max(chosen.passes),))
    for experiment in searched.frontier(*algorithms) if algorithms else []:
        if in_time():
            known = recorded("frontier_trials.csv")
            studies = tuning.tune_budgets([experiment], trials, known=known)
            if studies:
                frontier.keep_trials(tuning.trials(studies), args.out)
    left = chosen.frontier(*algorithms) if algorithms else []
    left += chosen.solved(*solved) if solved else []
    left.sort(key=lambda e: e.seed)
    if (points := recorded("frontier.csv")) is not None:
        left = [e for e in left if not frontier.has(points, e)]
    how = {"keep_weights": False, "at_once": args.at_once}
    found = run_many(left, **how, attempt=lambda _, go: go() if in_time() else "not begun")
    print(frontier.keep([record for record in found if record != "not begun"], args.out))


if __name__ == "__main__":
    main()
