"""The square on a convolutional network, and similarity losses on an MLP. Writes figures/data/square.csv.

    python figures/measure/square.py                  all of it: hours on a CPU
    python figures/measure/square.py --only cnn       the one; mlp: the other
    python figures/measure/square.py --seconds 600    begins nothing new after ten minutes

All train for `PASSES` that are fixed in advance. The square is that of the CNN of Gong and Abdulla, with
their settings (preset "gong"), on CIFAR-10 as they have it, without augmentation, in bfloat16. The similarity
losses of Nøkland and Eidnes (predsim) are added to Mono-Forward on CIFAR-10 3x2000: Mono-Forward has the
settings that the search of the frontier found for it, and predsim the same with the best of `RATES` times its
rate, by validation on seed 0. Rows are as `frontier.points` has them, with the precision and the test
accuracy by the last read-out alone; those that the file has of other runs stay.
"""

import argparse
import os
import time
from pathlib import Path

PASSES = 16
CNN = ("bp", "mf_joint", "mf_interleaved", "mf", "mf_sequential_joint")
RATES = (1 / 3, 1, 3)
OUT = Path(__file__).parents[1] / "data" / "square.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("cnn", "mlp"))
    parser.add_argument("--seeds", type=int, nargs=2, default=(1, 3), help="of the CNN and of the MLP")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.store:
        os.environ["BPFREE_STORE"] = str(args.store)

    from bpfree import Experiment
    from bpfree.evidence import frontier, square
    from bpfree.experiments import tuned
    from bpfree.experiments.runner import run_many
    from bpfree.experiments.store import Record, Store

    end = time.monotonic() + args.seconds
    budget = {"protocol": "frontier", "max_epochs": PASSES}

    def train(experiments: list[Experiment]) -> list[Record]:
        """The records; of what is not begun there is none. (None would ask to be tried again.)"""
        found = run_many(
            experiments,
            keep_weights=False,
            attempt=lambda _, go: go() if time.monotonic() < end else "not begun",
        )
        return [r for r in found if r != "not begun"]

    if args.only != "mlp":
        own = {"architecture": "conv-64-128-256-512", "preset": "gong", "precision": "bf16"}
        seeds = range(1, args.seeds[0] + 1)
        train([Experiment(name, "cifar10_plain", seed, **own, **budget) for seed in seeds for name in CNN])
    if args.only != "cnn":
        settings = tuned.settings("mf", "cifar10", "3x2000", PASSES)

        def mlp(name: str, seed: int, rate: float = 1) -> Experiment:
            own = settings | {"lr": settings["lr"] * rate}
            return Experiment(name, "cifar10", seed, "3x2000", **budget, hyperparameters=own)

        trials = dict(zip(RATES, train([mlp("mf_predsim", 0, rate) for rate in RATES]), strict=False))
        if len(trials) == len(RATES):
            best = max(trials, key=lambda rate: trials[rate].metrics.get("val_accuracy", 0.0))
            for seed in range(1, args.seeds[1] + 1):
                train([mlp("mf", seed), mlp("mf_predsim", seed, best)])
    records = [r for r in Store().records() if wanted(r.experiment)]
    precision = {r.key[:12]: r.experiment.precision for r in records}
    last = {r.key[:12]: r.metrics.get(square.LAST) for r in records}
    table = frontier.points(records).drop_duplicates("run")  # one that two asked for is there twice
    table = table.assign(**{"precision": table["run"].map(precision), square.LAST: table["run"].map(last)})
    print(frontier.keep_beside(table, args.out, ["run"]))


def wanted(experiment) -> bool:
    """Whether a record of the store is one of these, and no trial."""
    mlp = experiment.algorithm in ("mf", "mf_predsim") and experiment.architecture == "3x2000"
    cnn = experiment.precision == "bf16" and experiment.architecture.startswith("conv")
    spent = experiment.budget is not None and experiment.budget.exact and experiment.budget.amount == PASSES
    return (mlp or cnn) and spent and experiment.seed > 0


if __name__ == "__main__":
    main()
