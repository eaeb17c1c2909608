"""How long a list of runs will take on this machine, from a few steps of each, before anything is trained."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from ..algorithms import Algorithm
from ..data import PUBLISHED, load, stand_in
from ..diagnostics import epoch_seconds
from ..errors import MissingData
from ..training.batches import Data
from ..training.loop import pick_device
from ..training.progress import shown
from ..training.stopping import DEFAULT_CAP
from . import published
from .experiment import Experiment, build

GROUP = ["algorithm", "data", "network", "protocol"]
ESTIMATES = ["epoch_s", "epochs", "at_most"]


def forecast(
    experiments: Sequence[Experiment],
    *,
    progress: bool = True,
    timed: Callable[[Algorithm, Data], float] | None = None,
) -> pd.DataFrame:
    """How long these runs will take on this machine, estimated: a row per arm and protocol.

    Columns algorithm, data, network, protocol, seeds ("0 1 2"), runs; then, of one run, epoch_s (the mean
    epoch of its stages), epochs (those that the papers report for this arm, the cap where they report none)
    and at_most (the cap); total_s, the seconds of all these runs at `epochs`, and most_s at the cap. A run on
    a budget is taken to last as long as the backpropagation whose passes or energy it gets. NaN for an .npz
    that is not here; of published data only the sizes count.

    timed: how long an image takes, in the mean epoch of a descended stage, which bears its share of the
    solved ones; by default from a few steps.
    """
    known: dict[tuple, float] = {}
    rows = []
    for e in tqdm(experiments, desc="timing a few steps", unit="run", leave=False, **shown(progress)):
        what = (*e.place, e.protocol, e.seed)
        trained = e.reference() or e
        try:
            data = stand_in(e.data) if e.data in PUBLISHED else load(e.data, seed=e.seed)
        except MissingData:
            rows.append((*what, *[math.nan] * 3))
            continue
        resolved = trained.resolve(data)
        algorithm = build(resolved, data)
        stages = max(1, sum(stage.losses is not None for stage in algorithm.stages()))  # that have epochs
        # Data sets of one shape take the same time an image.
        shape = (trained.algorithm, data.shape, data.classes, data.augment, e.resolved_architecture, e.device)
        if shape not in known and timed:
            known[shape] = timed(algorithm, data)
        elif shape not in known:
            algorithm.to(pick_device(e.device)).initialise(0)
            known[shape] = sum(epoch_seconds(algorithm, data).values()) / stages / len(data.x_train)
        caps = [cap for cap in (resolved.max_epochs, resolved.options["epochs"]) if cap is not None]
        most = resolved.max_epochs if resolved.budget else min(caps, default=DEFAULT_CAP) * stages
        arm = {"algorithm": trained.algorithm, "data": e.data, "architecture": e.resolved_architecture}
        reported = published.results(**arm, metric="epochs")["mean"].mean()  # whatever their stopping rule
        epochs = most if math.isnan(reported) else min(most, reported)
        rows.append((*what, known[shape] * len(data.x_train), epochs, most))
    groups = pd.DataFrame(rows, columns=[*GROUP, "seed", *ESTIMATES]).groupby(GROUP, sort=False)
    table = groups.agg(
        seeds=("seed", lambda seeds: " ".join(map(str, sorted(set(seeds))))),
        runs=("seed", "size"),
        **{c: (c, "mean") for c in ESTIMATES},
    )
    table["total_s"] = table["runs"] * table["epoch_s"] * table["epochs"]
    table["most_s"] = table["runs"] * table["epoch_s"] * table["at_most"]
    return table.reset_index()


def lines(table: pd.DataFrame) -> str:
    """The table of `forecast` as text for a terminal, with the sum below."""
    shown = table[[*GROUP, "seeds", "runs"]].assign(
        **{
            "s an epoch": table["epoch_s"].map(partial(known, "{:.2g}")),
            "epochs": table["epochs"].map(partial(known, "{:.0f}")),
            "in all": table["total_s"].map(clock),
            "at most": table["most_s"].map(clock),
        }
    )
    total, most = (table[column].sum(skipna=False) for column in ("total_s", "most_s"))
    runs = table["runs"].sum()
    missing = ", ".join(dict.fromkeys(table.loc[table["total_s"].isna(), "data"]))
    return (
        f"{tabulate(shown, headers='keys', showindex=False, disable_numparse=True)}\n\n"
        f"About {clock(total)} for {runs} runs, at most {clock(most)}: estimates from a few steps of each "
        "network and the epochs that the papers report.\nWhat is in the store already is not trained again."
        + (f"\nNot known is how long it takes on {missing}, which is not here." if missing else "")
    )


def known(form: str, number: float) -> str:
    """The number in this form, "?" if it is NaN."""
    return "?" if math.isnan(number) else form.format(number)


def clock(seconds: float) -> str:
    """12 s, 4 min, 3.2 h or 1.5 d; "?" if it is not known."""
    if math.isnan(seconds):
        return "?"
    for size, name, digits in ((86400, "d", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {name}"
    return f"{seconds:.0f} s"
