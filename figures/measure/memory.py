"""What does training hold in memory, by three accounts? Writes figures/data/memory.csv.

    python figures/measure/memory.py               real data (BPFREE_DATA), a quarter of an hour on two cores
    python figures/measure/memory.py --out PATH    somewhere else
    python figures/measure/memory.py --black       black images, as many and as large, which are held alike
    python figures/measure/memory.py --beside N    N runs at a time on a GPU; without what the device reports
    python figures/measure/memory.py --quick       few images, in seconds: does it run?

Every run is `STEPS` batches of every stage in a process of its own, which has loaded its data and trained a
tiny network before its baseline is taken: nothing of another run and no library's start is in it. The order
of the runs is drawn by a seed. Images are not augmented, so that a prefix can be kept. Columns: data,
architecture, algorithm, prefix ("kept" or "recomputed"), repeat, place (in the order), quantity, value, unit,
device, threads, machine. The quantities, bytes:

    account     the most that a stage holds of parameters, gradients, optimiser and graph (`account`'s peak)
    with_prefix the same and the kept output of the frozen layers below
    rss         on a CPU: peak resident memory of the process above its baseline
    allocated   on a GPU: the peak of PyTorch's tensors (`max_memory_allocated`) above their baseline
    reserved    on a GPU: the same of what PyTorch's allocator took from the device
    nvml        on a GPU: the peak of what is in use on the device, above its baseline
"""

import argparse
import gc
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import torch
from tqdm import tqdm

import bpfree
from bpfree import diagnostics
from bpfree.algorithms.architectures import build_model
from bpfree.data import stand_in
from bpfree.experiments.machine import machine
from bpfree.training.batches import Data
from bpfree.training.loop import pick_device
from bpfree.training.prefix import BatchSource, PrefixCache
from bpfree.training.stopping import Stopping

REPEATS, SEED = 3, 0
STEPS, VALIDATED = 20, 1024  # what is held does not grow with either; a kept prefix is of all training images
RUNS = {
    ("mnist", "2x1000"): ("bp", "mf", "ff"),
    ("mnist", "cnn"): ("bp", "cafo_rand"),
    ("fashion_mnist", "2x1000"): ("bp", "mf", "mf_interleaved"),
    ("cifar10", "3x2000"): ("bp", "mf", "mf_interleaved"),
}
COLUMNS = ["data", "architecture", "algorithm", "prefix", "repeat", "place", "quantity", "value"]
OUT = Path(__file__).parents[1] / "data" / "memory.csv"


def few(data: Data, n: int) -> Data:
    """The data set with the first n training images and few to validate, not augmented."""
    split = {"train": n, "val": min(n, VALIDATED)}
    parts = {
        f"{xy}_{name}": getattr(data, f"{xy}_{name}")[:most] for xy in "xy" for name, most in split.items()
    }
    return replace(data, augment=None, **parts)


def measure(name: str, architecture: str, algorithm: str, prefix: str, images: str) -> dict[str, float]:
    """quantity -> bytes, of one run in this process"""
    data = bpfree.load(name) if images == "real" else stand_in(name, augmented=False)
    device = pick_device()
    data = few(data, 512 if images == "quick" else len(data.x_train)).to(device)
    whole = PrefixCache.source

    def shortened(*given: object) -> BatchSource:
        source = whole(*given)
        source.batches = min(source.batches, STEPS)
        return source

    PrefixCache.source = shortened
    how = {"max_epochs": 1, "stopping": Stopping(patience=None), "progress": False}
    bpfree.train(bpfree.arm("bp").make(build_model("1x8", data)), few(data, 256), **how)
    arm = bpfree.arm(algorithm).make(build_model(architecture, data)).to(device)
    gc.collect()
    start = {"rss": psutil.Process().memory_info().rss}
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        start = {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}
        start["nvml"] = total - free
    with bpfree.EnergyMeter(trace=True, hz=100) as meter:
        trace = diagnostics.resources(arm, data, meter, cache=prefix == "kept", **how)
    most = trace.groupby("quantity")["value"].max().rename({"memory": "nvml"})
    if device.type == "cuda":
        most["allocated"] = torch.cuda.max_memory_allocated()
        most["reserved"] = torch.cuda.max_memory_reserved()
    held = diagnostics.account(arm, data)
    kept = held["cache"] * (prefix == "kept")
    found = {"account": held["peak"].max(), "with_prefix": (held["peak"] + kept).max()}
    return {k: float(v) for k, v in {**found, **{q: most[q] - start[q] for q in start}}.items()}


def runs() -> list[tuple]:
    """(repeat, data, architecture, algorithm, prefix), in an order drawn by the seed."""
    ways = {"mf": ("kept", "recomputed"), "cafo_rand": ("kept", "recomputed")}
    arms = [(*place, name) for place, names in RUNS.items() for name in names]
    todo = [(k, *arm, way) for k in range(REPEATS) for arm in arms for way in ways.get(arm[-1], ("kept",))]
    random.Random(SEED).shuffle(todo)
    return todo


def in_a_process(*what: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--one", *what], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(what)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--black", dest="images", action="store_const", const="black", default="real")
    parser.add_argument("--quick", dest="images", action="store_const", const="quick")
    parser.add_argument("--beside", type=int, default=1, metavar="N")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)  # a single run, in this process
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one[:4], images=args.one[4])))
        return
    device = pick_device()
    here = machine(device)
    where = here["accelerator"] or f"{here['cpu']}, {here['cores']} cores"
    where = {"device": device.type, "threads": torch.get_num_threads()} | {
        "machine": f"{where}, torch {here['torch']}"
    }
    rows = []
    todo = runs()
    of_all = {"nvml"} if args.beside > 1 else set()  # what the device reports is of all its processes
    with ThreadPoolExecutor(args.beside) as pool:
        measured = pool.map(lambda run: in_a_process(*run[1:], args.images), todo)
        for place, found in enumerate(tqdm(measured, total=len(todo), unit="run")):
            repeat, *what = todo[place]
            rows += [(*what, repeat, place, q, value) for q, value in found.items() if q not in of_all]
            table = pd.DataFrame(rows, columns=COLUMNS).assign(unit="B", **where)
            table.to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")
    print(f"{args.out}: {len(table)} rows")


if __name__ == "__main__":
    main()
