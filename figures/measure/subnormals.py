"""What do subnormal numbers cost? Writes figures/data/subnormals.csv.

    python figures/measure/subnormals.py               on Fashion-MNIST, minutes on a quiet processor
    python figures/measure/subnormals.py --out PATH    somewhere else
    python figures/measure/subnormals.py --quick       two epochs a stage: does it run?

Run by hand on a quiet machine, with BPFREE_DATA set. Backpropagation and Mono-Forward are trained on the
processor as under `convergence`, `EPOCHS` epochs a stage: as the loop does it, with subnormal numbers taken
for zero, and once more without that. The weights must come out the same, to the bit. Columns: data,
architecture, algorithm, subnormal ("zero" or "kept"), stage, pass, value (seconds of the training pass),
unit, threads, machine.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch

import bpfree
from bpfree.experiments.experiment import build
from bpfree.experiments.machine import machine
from bpfree.training import numerics
from bpfree.training.stopping import Stopping

EPOCHS = 30
ARM = {"data": "fashion_mnist", "architecture": "2x1000", "preset": "tuned", "device": "cpu"}
OUT = Path(__file__).parents[1] / "data" / "subnormals.csv"


def train(name: str, data: bpfree.Data, epochs: int) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    algorithm = build(bpfree.Experiment(name, **ARM).resolve(data), data)
    how = {"max_epochs": epochs, "stopping": Stopping(patience=None), "device": "cpu"}
    frame = bpfree.train(algorithm, data, **how).frame()
    return algorithm.state_dict(), frame[["stage", "train_s"]].assign(**{"pass": range(1, len(frame) + 1)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    data = bpfree.load(ARM["data"], seed=0)
    tables = []
    for name in ("bp", "mf"):
        weights = {}
        for way in ("zero", "kept"):
            with patch.object(numerics, "flushed", nullcontext) if way == "kept" else nullcontext():
                weights[way], passes = train(name, data, 2 if args.quick else EPOCHS)
            tables.append(passes.assign(algorithm=name, subnormal=way))
        zero, kept = weights.values()
        assert all(torch.equal(zero[n], kept[n]) for n in zero), f"{name}: the weights differ"
    here = machine("cpu")
    table = pd.concat(tables).rename(columns={"train_s": "value"}).assign(**ARM, unit="s")
    table = table.assign(
        threads=here["threads"], machine=f"{here['cpu']}, {here['cores']} cores, torch {here['torch']}"
    )
    columns = ["data", "architecture", "algorithm", "subnormal", "stage", "pass", "value", "unit"]
    table[[*columns, "threads", "machine"]].to_csv(
        args.out, index=False, float_format="%.6g", lineterminator="\n"
    )
    print(f"{args.out}: {len(table)} rows")


if __name__ == "__main__":
    main()
