"""The square on a CNN, similarity losses on an MLP, and energy as goodness. Writes figures/data/square.csv.

    python figures/measure/square.py                  all of it: hours on a CPU
    python figures/measure/square.py --only cnn       the first; mlp, asge: the others
    python figures/measure/square.py --seconds 600    begins nothing new after ten minutes

All train for `PASSES` that are fixed in advance. The square is that of the CNN of Gong and Abdulla, with
their settings (preset "gong"), on CIFAR-10 as they have it, without augmentation, in bfloat16. The similarity
losses of Nøkland and Eidnes (predsim) are added to Mono-Forward on CIFAR-10 3x2000: Mono-Forward has the
settings that the search of the frontier found for it, and predsim the same with the best of `RATES` times its
rate, by validation on seed 0. ASGE-like learns MNIST and Fashion-MNIST with a pass for each of its blocks, in
bfloat16. Rows are as `frontier.points` has them, with the precision and the test accuracies by other
read-outs; those that the file has of other runs stay.
"""

import argparse
import os
import time
from pathlib import Path

PASSES = 16
CNN = ("bp", "mf_joint", "mf_interleaved", "mf", "mf_sequential_joint")
RATES = (1 / 3, 1, 3)
ASGE = {"architecture": "rms-64-128-256-512", "precision": "bf16", "protocol": "frontier", "max_epochs": 4}
OUT = Path(__file__).parents[1] / "data" / "square.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("cnn", "mlp", "asge"))
    parser.add_argument("--seeds", type=int, help="default: 1 of the CNN, else 3")
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

    if args.only in (None, "cnn"):
        own = {"architecture": "conv-64-128-256-512", "preset": "gong", "precision": "bf16"}
        seeds = range(1, (args.seeds or 1) + 1)
        train([Experiment(name, "cifar10_plain", seed, **own, **budget) for seed in seeds for name in CNN])
    if args.only in (None, "mlp"):
        settings = tuned.settings("mf", "cifar10", "3x2000", PASSES)

        def mlp(name: str, seed: int, rate: float = 1) -> Experiment:
            own = settings | {"lr": settings["lr"] * rate}
            return Experiment(name, "cifar10", seed, "3x2000", **budget, hyperparameters=own)

        trials = dict(zip(RATES, train([mlp("mf_predsim", 0, rate) for rate in RATES]), strict=False))
        if len(trials) == len(RATES):
            best = max(trials, key=lambda rate: trials[rate].metrics.get("val_accuracy", 0.0))
            for seed in range(1, (args.seeds or 3) + 1):
                train([mlp("mf", seed), mlp("mf_predsim", seed, best)])
    if args.only in (None, "asge"):
        seeds = range(1, (args.seeds or 3) + 1)
        train(
            [Experiment("asge_like", d, seed, **ASGE) for seed in seeds for d in ("mnist", "fashion_mnist")]
        )
    records = [r for r in Store().records() if wanted(r.experiment)]
    table = frontier.points(records).drop_duplicates("run")  # one that two asked for is there twice
    own = {r.key[:12]: {"precision": r.experiment.precision} | r.metrics for r in records}
    for column in ("precision", *square.READOUTS):
        if any(column in known for known in own.values()):
            table[column] = [own[run].get(column) for run in table["run"]]
    print(frontier.keep_beside(table, args.out, ["run"]))


def wanted(experiment) -> bool:
    """Whether a record of the store is one of these, and no trial."""
    mlp = experiment.algorithm in ("mf", "mf_predsim") and experiment.architecture == "3x2000"
    mlp = mlp and experiment.data == "cifar10"
    half = experiment.precision == "bf16"
    cnn = half and experiment.architecture.startswith("conv")
    asge = half and experiment.algorithm == "asge_like" and experiment.architecture == ASGE["architecture"]
    passes = ASGE["max_epochs"] if asge else PASSES
    spent = experiment.budget is not None and experiment.budget.exact and experiment.budget.amount == passes
    return (mlp or cnn or asge) and spent and experiment.seed > 0


if __name__ == "__main__":
    main()
