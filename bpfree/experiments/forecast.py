"""How long a list of runs will take on this machine, from a few steps of each, before anything is trained."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from ..algorithms import Algorithm
from ..data import PUBLISHED, load, stand_in
from ..diagnostics import epoch_seconds
from ..errors import MissingData
from ..training.batches import Data
from ..training.loop import pick_device
from ..training.stopping import DEFAULT_CAP
from . import published
from .experiment import Experiment, build

GROUP = ["algorithm", "data", "network", "protocol"]


def forecast(
    experiments: Sequence[Experiment],
    *,
    progress: bool = True,
    timed: Callable[[Algorithm, Data], float] | None = None,
) -> pd.DataFrame:
    """How long these runs will take on this machine: a row per arm and protocol.

    Args:
        experiments: published data sets need not be here: their sizes are known.
        timed: how long an image takes; default `seconds_per_image`.

    Returns:
        Columns algorithm, data, network, protocol, seeds ("0 1 2"), runs; then, of one run, epoch_s (the mean
        epoch of its stages), epochs (those that the papers report for this arm, the cap where they report
        none) and at_most (the cap); total_s, the seconds of all these runs at `epochs`, and most_s at the
        cap. A run on a budget is taken to last as long as the backpropagation whose passes or energy it gets.
        All of these are estimates; NaN for an .npz that is not here.
    """
    known: dict[tuple, float] = {}
    rows = []
    for e in tqdm(
        experiments,
        desc="timing a few steps",
        unit="run",
        leave=False,
        **({} if progress else {"disable": True}),
    ):
        trained = e.reference() or e
        try:
            data = sizes(trained)
        except MissingData:
            rows.append((e.algorithm, e.data, e.resolved_architecture, e.protocol, e.seed, *[math.nan] * 3))
            continue
        algorithm = build(trained.resolve(data), data)
        stages = descended(algorithm)
        # Data sets of one shape take the same time an image.
        shape = (trained.algorithm, data.shape, data.classes, data.augment, e.resolved_architecture, e.device)
        if shape not in known:
            known[shape] = (timed or seconds_per_image)(algorithm.to(pick_device(e.device)), data)
        most = cap_of(trained) * stages
        epochs = min(most, typical_epochs(trained, otherwise=most))
        epoch = known[shape] * len(data.x_train)
        rows.append((e.algorithm, e.data, e.resolved_architecture, e.protocol, e.seed, epoch, epochs, most))
    frame = pd.DataFrame(rows, columns=[*GROUP, "seed", "epoch_s", "epochs", "at_most"])
    table = frame.groupby(GROUP, sort=False).agg(
        seeds=("seed", lambda seeds: " ".join(map(str, sorted(set(seeds))))),
        runs=("seed", "size"),
        **{c: (c, "mean") for c in ("epoch_s", "epochs", "at_most")},
    )
    table["total_s"] = table["runs"] * table["epoch_s"] * table["epochs"]
    table["most_s"] = table["runs"] * table["epoch_s"] * table["at_most"]
    return table.reset_index()


def seconds_per_image(algorithm: Algorithm, data: Data) -> float:
    """Seconds per image of the mean epoch of a descended stage, which bears its share of the solved ones."""
    algorithm.initialise(0)
    return sum(epoch_seconds(algorithm, data).values()) / descended(algorithm) / len(data.x_train)


def descended(algorithm: Algorithm) -> int:
    """How many stages have epochs; one where all are solved."""
    return max(1, sum(stage.losses is not None for stage in algorithm.stages()))


def sizes(experiment: Experiment) -> Data:
    """The data, or black images in their place: only the sizes count."""
    if experiment.data in PUBLISHED:
        return stand_in(experiment.data)
    return load(experiment.data, seed=experiment.seed)


def cap_of(experiment: Experiment) -> int:
    """Epochs that each stage may take."""
    rule = experiment.rule()
    own = experiment.resolved_options(rule)["epochs"]
    caps = [cap for cap in (experiment.max_epochs, rule.max_epochs, own) if cap is not None]
    return min(caps, default=DEFAULT_CAP)


def typical_epochs(experiment: Experiment, otherwise: float) -> float:
    """Epochs summed over stages that the papers report for this arm, whatever their stopping rule."""
    found = published.results(
        algorithm=experiment.algorithm,
        data=experiment.data,
        architecture=experiment.resolved_architecture,
        metric="epochs",
    )
    mean = found["mean"].mean()
    return otherwise if math.isnan(mean) else mean


def lines(table: pd.DataFrame) -> str:
    """The table of `forecast` as text for a terminal, with the sum below."""
    shown = table[[*GROUP, "seeds", "runs"]].assign(
        **{
            "s an epoch": table["epoch_s"].map("{:.2g}".format),
            "epochs": table["epochs"].map("{:.0f}".format),
            "in all": table["total_s"].map(clock),
            "at most": table["most_s"].map(clock),
        }
    )
    total, most, runs = table["total_s"].sum(), table["most_s"].sum(), table["runs"].sum()
    summary = (
        f"About {clock(total)} for {runs} runs, at most {clock(most)}: estimates from a few steps of each "
        "network and the epochs that the papers report.\nWhat is in the store already is not trained again."
    )
    return tabulate(shown, headers="keys", showindex=False, disable_numparse=True) + "\n\n" + summary


def clock(seconds: float) -> str:
    """12 s, 4 min, 3.2 h or 1.5 d; "?" if it is not known."""
    if math.isnan(seconds):
        return "?"
    for size, name, digits in ((86400, "d", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {name}"
    return f"{seconds:.0f} s"
