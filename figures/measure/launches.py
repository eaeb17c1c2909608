"""What does a pass cost on a GPU, launched step by step or replayed? Writes figures/data/launches.csv.

    python figures/measure/launches.py               the paper's networks, two minutes on a GPU of its own
    python figures/measure/launches.py --out PATH    somewhere else
    python figures/measure/launches.py --quick       few images, in seconds, on any device: does it run?

Images are noise, as many and as large as those of the data set: what a pass takes depends on nothing else.
Each stage is trained for at least three passes and `SECONDS` after a first, which warms up and captures.
Columns: data, architecture, algorithm, stage, executor ("eager" or "graph"), metric, value, unit, n (passes),
machine. The metrics, of a training pass of the stage:

    train     seconds
    joules    of the GPU's energy counter, if it has one; gross
    floor     the seconds that its operations and bytes take at the least on this GPU (the roofline)

and of `AT_ONCE` runs of a network with different seeds, one after the other and side by side:

    passes    per second, of all of them together; executor is then "graph, one by one" or "graph, at once"
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import bpfree
from bpfree import diagnostics
from bpfree.algorithms.architectures import build_model
from bpfree.experiments.machine import machine
from bpfree.training import Augmentation
from bpfree.training.batches import Data
from bpfree.training.loop import pick_device

SECONDS, AT_ONCE, EPOCHS = 1.5, 8, 10
RUNS = {
    ("fashion_mnist", "2x1000"): ("bp", "mf", "mf_interleaved", "mf_joint"),
    ("mnist", "3x1000"): ("bp", "ff"),
    ("fashion_mnist", "cnn"): ("bp", "cafo_rand", "cafo_dfa"),
    ("cifar10", "3x2000"): ("bp", "mf"),
}
SIZES = {"mnist": (54_000, 1, 28, 28), "fashion_mnist": (54_000, 1, 28, 28), "cifar10": (45_000, 3, 32, 32)}
COLUMNS = ["data", "architecture", "algorithm", "stage", "executor", "metric", "value", "unit", "n"]
OUT = Path(__file__).parents[1] / "data" / "launches.csv"


def noise(name: str, count: int, validated: int, augment: Augmentation | None = None) -> Data:
    """Random images as large as the data set's, so many to train on and to validate."""
    _, *shape = SIZES[name]
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for split, n in (("train", count), ("val", validated), ("test", 10)):
        parts[f"x_{split}"] = torch.randn(n, *shape, generator=generator)
        parts[f"y_{split}"] = torch.arange(n) % 10
    constants = {"mean": (0.0,) * shape[0], "std": (1.0,) * shape[0], "sha256": ""}
    return Data(name, 10, **parts, **constants, augment=augment)


@dataclass(frozen=True)
class LongEnough:
    """A stop rule: at least three passes and so many seconds after the first."""

    seconds: float

    def stop(self, rows: list[dict]) -> bool:
        return len(rows) >= 4 and sum(row["train_s"] for row in rows[1:]) >= self.seconds

    def best(self, rows: list[dict]) -> int:
        return len(rows)


def measure(name: str, data: Data, architecture: str, executor: str, seconds: float) -> list[tuple]:
    """(stage, executor, metric, value, unit, n) of every stage that is descended."""
    algorithm = bpfree.arm(name).make(build_model(architecture, data))
    with bpfree.EnergyMeter() as meter:
        how = {"executor": executor, "meter": meter, "progress": False, "max_epochs": 10_000}
        history = bpfree.train(algorithm, data, stopping=LongEnough(seconds), **how)
    found = []
    for stage in history.stages:
        rows = stage.rows[1:]
        if stage.ended == "solved":
            continue
        for metric, unit, column in (("train", "s", "s"), ("joules", "J", "measured_j")):
            # A prefix that is recomputed is a part of every pass.
            parts = [[row.get(f"{region}_{column}") for region in ("train", "prefix")] for row in rows]
            if all(train is not None for train, _ in parts):
                total = sum(train + (prefix or 0.0) for train, prefix in parts)
                found.append((stage.name, stage.executor, metric, total / len(rows), unit, len(rows)))
    return found


def floors(name: str, data: Data, architecture: str, roof: diagnostics.Roofline) -> list[tuple]:
    """The same columns, of the least that a pass can take."""
    algorithm = bpfree.arm(name).make(build_model(architecture, data)).to(pick_device())
    batches = len(data.x_train) // algorithm.batch_size
    placed = diagnostics.place(algorithm, data, roof, seconds=0.01)
    return [
        (row.stage, "none", "floor", batches * row.flops / row.limit, "s", 1) for row in placed.itertuples()
    ]


def together(folder: Path, quick: bool) -> Iterator[tuple]:
    """Passes a second of `AT_ONCE` runs, in one process and one after the other or side by side."""
    n, pixels = (256 if quick else 54_000), np.random.default_rng(0)
    images = {
        f"x_{part}": pixels.integers(0, 256, (k, 28, 28), dtype=np.uint8)
        for part, k in (("train", n), ("val", 128), ("test", 128))
    }
    labels = {key.replace("x", "y", 1): np.arange(len(x)) % 10 for key, x in images.items()}
    np.savez(folder / "noise.npz", **images, **labels)
    for name in ("bp", "mf"):
        how = {"architecture": "2x1000", "max_epochs": 2 if quick else EPOCHS}
        runs = [bpfree.Experiment(name, str(folder / "noise.npz"), seed=s, **how) for s in range(AT_ONCE)]
        bpfree.run(replace(runs[0], seed=AT_ONCE), folder / name, progress=False)  # warms up
        for way, at_once in (("one by one", 1), ("at once", AT_ONCE)):
            begin = time.perf_counter()
            records = bpfree.run_many(runs, folder / f"{name} {way}", progress=False, at_once=at_once)
            seconds = time.perf_counter() - begin
            passes = sum(record.metrics["epochs"] for record in records)
            executor = f"{records[0].stages[0]['executor']}, {way}"
            where = "fashion_mnist", "2x1000", name, "all", executor
            yield *where, "passes", passes / seconds, "1/s", AT_ONCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rows, seconds = [], 0.0 if args.quick else SECONDS
    here = machine(pick_device())
    where = f"{here['accelerator'] or here['cpu']}, torch {here['torch']}"

    def keep(found: list[tuple]) -> None:  # at once: what was measured stays, however this ends
        rows.extend(found)
        table = pd.DataFrame(rows, columns=COLUMNS).assign(machine=where)
        table.to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")

    with tempfile.TemporaryDirectory() as folder:
        for found in together(Path(folder), args.quick):
            keep([found])
    roof = diagnostics.roofline()
    for (name, architecture), arms in tqdm(RUNS.items(), unit="network"):
        augment = Augmentation() if name == "cifar10" else None
        data = noise(name, 256 if args.quick else SIZES[name][0], 128, augment)
        for arm in tqdm(arms, unit="arm", leave=False):
            found = floors(arm, data, architecture, roof)
            for executor in ("graph", "eager"):
                found += measure(arm, data, architecture, executor, seconds)
            keep([(name, architecture, arm, *one) for one in found])
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
