"""What does a pass over the data cost, beside backpropagation's? Writes figures/data/pass_cost.csv.

    python figures/measure/pass_cost.py                  the paper's networks, 20 minutes to 2 hours
    python figures/measure/pass_cost.py --out PATH       somewhere else
    python figures/measure/pass_cost.py --executor WAY   "eager" or "graph"; default: as training has it here
    python figures/measure/pass_cost.py --quick          few images, in a minute or two: does it run?

Run by hand on a quiet machine, on images of noise: what a pass takes depends on their number and size alone.
Learning rates are 0: the operations are the same, and every pass is an early one, however many there are.

Every arm is compared with backpropagation on the same network by the protocol of `bpfree.energy.compare`:
windows of five seconds of whole passes in rounds of A B B A, until the ratio is known to 1 % or 20 rounds are
over. There are 15 comparisons, each of which takes 80 seconds at least and 8 minutes at most. Rows are
written as they come. `launches.py` has eager steps beside replayed ones, every stage apart.

Columns: data (whose shape the images have), architecture, algorithm, prefix ("kept" or "recomputed"),
executor ("eager" or "graph"), metric, value, low, high (a 95 % interval), unit, n, how (the joules were
obtained, and what a claim must say of its windows), threads, machine. The metrics, of a pass of one stage,
the mean over the arm's stages; n counts windows, and of a ratio rounds:

    train           microseconds an image of a training pass, a recomputed prefix included
    joules          microjoules an image of the same, where a sensor measures them; gross
    train ratio     of backpropagation's
    joules ratio    likewise
    floor           microseconds an image that its operations and bytes take at the least (the roofline)
    val             microseconds an image of a pass of validation, a median
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean

import pandas as pd
import torch
from launches import floors, noise
from torch import nn
from tqdm import tqdm

import bpfree
from bpfree import diagnostics
from bpfree.algorithms.architectures import build_model
from bpfree.diagnostics.timing import median_seconds
from bpfree.energy import Comparison, compare
from bpfree.experiments.machine import machine
from bpfree.training.batches import Data
from bpfree.training.clock import Clock
from bpfree.training.executor import EXECUTORS, Called, make_executor
from bpfree.training.loop import pick_device
from bpfree.training.numerics import pinned
from bpfree.training.prefix import PrefixCache
from bpfree.training.stage import freeze_all_but, make_optimiser

IMAGES = 6400
PROTOCOL = {"bound": 0.01, "window_s": 5.0, "most_rounds": 20}
QUICK = {"bound": 0.5, "window_s": 0.02, "most_rounds": 3}
CNN = ("cafo_rand", "cafo_dfa")
LADDER = ("bp_ds", "mf_joint", "mf_interleaved", "mf")
RUNS = {  # beside backpropagation
    ("mnist", "3x1000"): ("ff",),
    ("mnist", "cnn"): CNN,
    ("fashion_mnist", "2x1000"): LADDER,
    ("cifar10", "3x2000"): LADDER,
}
SEQUENTIAL = ("mf", "cafo_rand", "cafo_dfa")  # arms with a prefix
PLACE = ["data", "architecture", "algorithm", "prefix", "executor"]
COLUMNS = [*PLACE, "metric", "value", "low", "high", "unit", "n", "how"]
OUT = Path(__file__).parents[1] / "data" / "pass_cost.csv"


class Passes:
    """The descended stages of an arm, each of them ready, on a network of its own. Called: a pass of each."""

    def __init__(self, name: str, data: Data, architecture: str, cache: bool, executor: str) -> None:
        self.name, self.prefix = name, "kept" if cache else "recomputed"
        self.images, self.validated, self.device = len(data.x_train), len(data.x_val), pick_device()
        self.stages: list[Called] = []

        def fresh() -> nn.Module:
            algorithm = bpfree.arm(name).make(build_model(architecture, data)).to(self.device)
            algorithm.initialise(0)
            algorithm.prepare(data)
            return algorithm

        here = data.to(self.device)
        for number in range(len(fresh().stages())):
            algorithm = fresh()
            stage = algorithm.stages()[number]
            if stage.losses is None:
                continue
            freeze_all_but(algorithm, stage)
            kept = PrefixCache(here, algorithm.batch_size, self.device, cache, nullcontext())
            source = kept.source(stage, Clock(self.device))
            what = algorithm, stage, source, make_optimiser(stage), nullcontext()
            self.stages.append(make_executor(executor, {}, *what))
        self.executor = self.stages[0].name

    def __call__(self) -> None:
        for ready in self.stages:
            ready.begin((0, ready.stage.name, 1), [[0.0] * len(ready.stage.groups)])
            for _ in range(ready.source.batches):
                ready.step()
            ready.total.item()  # as training reads its loss

    def of_an_image(self, amounts: list[float]) -> float:
        """Millionths for an image, of what passes of all stages took."""
        return 1e6 * fmean(amounts) / len(self.stages) / self.images

    @property
    def val(self) -> float:
        """Microseconds an image."""
        took = [median_seconds(ready.validate, self.device) for ready in self.stages]
        return 1e6 * fmean(took) / self.validated


def rows_of(passes: Passes, side: int, comparisons: list[Comparison]) -> list[tuple]:
    """(metric, value, low, high, unit, n, how) of one side of some comparisons, its ratio if it is of one."""
    rows = []
    how = "; ".join(dict.fromkeys(filter(None, map(said, comparisons))))
    windows = sum(2 * found.rounds for found in comparisons)
    for metric, unit, what in (("train", "µs", "seconds"), ("joules", "µJ", "measured_j")):
        spent = [of_a_pass[side] for found in comparisons if (of_a_pass := found.of_a_pass(what))]
        if len(spent) == len(comparisons):
            rows.append((metric, passes.of_an_image(spent), None, None, unit, windows, how))
        if side == 0 and (ratio := comparisons[0].ratio(what)) is not None:
            # Of a pass of one stage: the mean over as many stages as the arm has.
            a, low, high = (x / len(passes.stages) for x in (ratio.value, ratio.low, ratio.high))
            rows.append((f"{metric} ratio", a, low, high, "1", comparisons[0].rounds, how))
    return rows


def said(found: Comparison) -> str:
    """What a claim says of its windows."""
    cap = "" if found.converged else "the cap was reached before the bound"
    rising = "the temperature was rising" if found.stable is False else ""
    return "; ".join(filter(None, [found.provenance, *found.flags, cap, rising]))


@pinned(flush=True)
def measure(
    place: tuple[str, str],
    executor: str,
    quick: bool,
    roof: diagnostics.Roofline,
    keep: Callable[[list[tuple]], None],
) -> None:
    """Gives `keep` the rows of a network, arm by arm, backpropagation's last."""
    images, protocol = (256, QUICK) if quick else (IMAGES, PROTOCOL)
    (name, architecture), comparisons = place, []
    data = noise(name, images, images // 4)

    def finished(passes: Passes, side: int, found: list[Comparison]) -> None:
        rows = rows_of(passes, side, found)
        rows.append(("val", passes.val, None, None, "µs", 1, ""))
        if passes.prefix == "kept":
            least = [seconds for *_, seconds, _, _ in floors(passes.name, data, architecture, roof)]
            rows.append(("floor", passes.of_an_image([sum(least)]), None, None, "µs", 1, ""))
        keep([(*place, passes.name, passes.prefix, passes.executor, *row) for row in rows])

    bp = Passes("bp", data, architecture, True, executor)
    for arm in RUNS[place]:
        for cache in (True, False) if arm in SEQUENTIAL else (True,):
            passes = Passes(arm, data, architecture, cache, executor)
            comparisons.append(compare(passes, bp, names=(arm, "bp"), **protocol))
            finished(passes, 0, comparisons[-1:])
    finished(bp, 1, comparisons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--executor", choices=EXECUTORS, default="auto")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    here, rows = machine(pick_device()), []
    where = here["accelerator"] or f"{here['cpu']}, {here['cores']} cores"
    where = {"threads": torch.get_num_threads(), "machine": f"{where}, torch {here['torch']}"}

    def keep(found: list[tuple]) -> None:  # at once: what was measured stays, however this ends
        rows.extend(found)
        table = pd.DataFrame(rows, columns=COLUMNS).assign(**where)
        table.to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")

    roof = diagnostics.roofline()
    for place in tqdm(RUNS, unit="network"):
        measure(place, args.executor, args.quick, roof, keep)
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
