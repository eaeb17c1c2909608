"""How do time, memory and operations grow with depth, width and batch? Writes figures/data/scaling.csv.

    python figures/measure/scaling.py                 the sweep, under three minutes on a quiet machine
    python figures/measure/scaling.py --out PATH      somewhere else
    python figures/measure/scaling.py --quick         the corners only, in seconds: does it run?

Run by hand on a quiet machine. One step of every stage, by the training loop's own step on random images of
784 pixels and 10 classes, AdamW, one thread, frozen prefixes taken as cached. Columns: sweep (what varies),
depth, width, batch, algorithm, metric, value, unit, threads, machine. The metrics:

    step_s        seconds to update every layer once: for sequential Mono-Forward, the sum over its stages
    saved_bytes   kept for the backward pass, of the stage that keeps most
    flops         of the matrix products of these steps, per sample, forward and backward
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

import bpfree
from bpfree import diagnostics
from bpfree.experiments.machine import machine
from bpfree.training.batches import Data

ARMS = ("bp", "mf_interleaved", "mf", "ff")
PIXELS, CLASSES = 784, 10
STANDARD = {"depth": 3, "width": 500, "batch": 128}  # what is not varied
SWEEPS = {
    "depth": (2, 4, 8, 16, 32),
    "width": (250, 500, 1000, 2000, 4000),
    "batch": (32, 64, 128, 256, 512, 1024),
}
SECONDS = 0.15  # of measuring a stage, at least one warm-up and five steps
OUT = Path(__file__).parents[1] / "data" / "scaling.csv"


def random_images(n: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for split in ("train", "val", "test"):
        parts[f"x_{split}"] = torch.randn(n, 1, 28, 28, generator=generator)
        parts[f"y_{split}"] = torch.arange(n) % CLASSES
    return Data("random", CLASSES, **parts, mean=(0.0,), std=(1.0,), sha256="")


def measure(algorithm: str, depth: int, width: int, batch: int) -> dict[str, tuple[float, str]]:
    """metric -> (value, unit)"""
    model = bpfree.MLP([PIXELS, *[width] * depth], classes=CLASSES)
    arm = bpfree.arm(algorithm).make(model, batch_size=batch)
    arm.initialise(0)
    data = random_images(batch)
    table = diagnostics.flops(arm, data)
    steps = table[table["part"].isin(["forward", "backward"])]
    return {
        "step_s": (sum(diagnostics.step_seconds(arm, data, seconds=SECONDS).values()), "s"),
        "saved_bytes": (max(diagnostics.saved_bytes(arm, (data.x_train, data.y_train)).values()), "B"),
        "flops": (steps["per_sample"].sum(), "FLOP"),
    }


def points(quick: bool) -> list[tuple[str, dict[str, int]]]:
    return [
        (sweep, {**STANDARD, sweep: value})
        for sweep, values in SWEEPS.items()
        for value in (values[:2] if quick else values)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    here, rows = machine("cpu")["id"], []
    todo = [(*point, name) for point in points(args.quick) for name in ARMS]
    for sweep, where, name in tqdm(todo):
        for metric, (value, unit) in measure(name, **where).items():
            rows.append(
                {"sweep": sweep, **where, "algorithm": name, "metric": metric, "value": value, "unit": unit}
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows).assign(threads=torch.get_num_threads(), machine=here)
    frame.to_csv(args.out, index=False, float_format="%.6g")
    print(f"{len(frame)} rows in {args.out}")
    print(bpfree.environment_line())


if __name__ == "__main__":
    main()
