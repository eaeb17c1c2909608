"""What does a pass over the data cost, beside backpropagation's? Writes figures/data/pass_cost.csv.

    python figures/measure/pass_cost.py               the paper's networks, minutes on a quiet machine
    python figures/measure/pass_cost.py --out PATH    somewhere else
    python figures/measure/pass_cost.py --quick       few images, in seconds: does it run?

Run by hand on a quiet machine, on images of noise: what a pass takes depends on their number and size alone.
Every arm is trained for `EPOCHS` epochs a stage; the first, which warms up, is left out. Columns: data (whose
shape the images have), architecture, algorithm, prefix ("kept" or "recomputed"), metric, value, unit,
threads, machine. The metrics, microseconds an image:

    train    a training pass of one stage, the mean over its stages, its recomputed prefix included
    val      a pass of validation
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

import bpfree
from bpfree.algorithms.architectures import build_model
from bpfree.experiments.machine import machine
from bpfree.training.batches import Data
from bpfree.training.stopping import Stopping

EPOCHS, IMAGES = 4, 6400
CNN = ("bp", "cafo_rand", "cafo_dfa")
LADDER = ("bp", "bp_ds", "mf_joint", "mf_interleaved", "mf")
RUNS = {
    ("mnist", "3x1000"): ("bp", "ff"),
    ("mnist", "cnn"): CNN,
    ("fashion_mnist", "2x1000"): LADDER,
    ("cifar10", "3x2000"): LADDER,
}
OUT = Path(__file__).parents[1] / "data" / "pass_cost.csv"


def noise(name: str, n: int) -> Data:
    """n random images of a data set's size."""
    shape, classes = (3, 32, 32) if name.startswith("cifar") else (1, 28, 28), 10
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for split, count in (("train", n), ("val", n // 4), ("test", 10)):
        parts[f"x_{split}"] = torch.randn(count, *shape, generator=generator)
        parts[f"y_{split}"] = torch.arange(count) % classes
    constants = {"mean": (0.0,) * shape[0], "std": (1.0,) * shape[0], "sha256": ""}
    return Data(name, classes, **parts, **constants)


def measure(name: str, data: Data, architecture: str, cache: bool) -> dict[str, float]:
    """metric -> microseconds an image"""
    algorithm = bpfree.arm(name).make(build_model(architecture, data))
    how = {"max_epochs": EPOCHS, "stopping": Stopping(patience=None), "cache": cache, "progress": False}
    rows = bpfree.train(algorithm, data, **how).frame()
    rows = rows[(rows["epoch"] > 1) & rows["train_loss"].notna()]
    again = rows["prefix_s"].fillna(0.0) if not cache else 0.0
    stages = rows.assign(train=rows["train_s"] + again, val=rows["val_s"]).groupby("stage")[["train", "val"]]
    mean = stages.median().mean()
    return {"train": 1e6 * mean["train"] / len(data.x_train), "val": 1e6 * mean["val"] / len(data.x_val)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rows = []
    todo = [(*place, name) for place, names in RUNS.items() for name in names]
    for data_name, architecture, name in tqdm(todo, unit="arm"):
        data = noise(data_name, 512 if args.quick else IMAGES)
        for cache in (True, False) if name in ("mf", "cafo_rand", "cafo_dfa") else (True,):
            for metric, value in measure(name, data, architecture, cache).items():
                way = "kept" if cache else "recomputed"
                rows.append((data_name, architecture, name, way, metric, value, "µs"))
    columns = ["data", "architecture", "algorithm", "prefix", "metric", "value", "unit"]
    table = pd.DataFrame(rows, columns=columns)
    here = machine(bpfree.training.loop.pick_device())
    where = here["accelerator"] or f"{here['cpu']}, {here['cores']} cores"
    table = table.assign(threads=torch.get_num_threads(), machine=f"{where}, torch {here['torch']}")
    table.to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")
    print(f"{args.out}: {len(table)} rows")


if __name__ == "__main__":
    main()
