"""What the committed runs and measurements answer: numbers computed, each with the n of its own runs."""

from collections.abc import Iterator
from math import nan

import pandas as pd

from ..algorithms.arms import label
from ..data import dataset
from ..experiments import published
from ..experiments.protocols import REFERENCE
from . import gallery
from .order import arranged
from .runs import Number, Ours
from .tables.text import Quantity

SETTINGS = {"tuned": "tuned here", "thesis": "of the thesis", "2026": "of 2026", "defaults": "by default"}
DEVICE_WORDS = {"cuda": "GPU", "cpu": "CPU"}
NETWORK = ["data", "architecture"]
RATIOS = ("passes (× BP)", "time of a pass (× BP)", "time (× BP)")


def against_bp(*algorithms: str) -> str:
    """The accuracy of these algorithms against BP's, paired by seed and judged as in the forest: Markdown, a
    line for each network, with the interval, the pairs, the hardware and whose settings both had.
    """
    runs = gallery.recorded("forest").query("metric == 'test_accuracy'")
    whose = {r.key: SETTINGS[r.experiment.hyperparameters_from] for r in gallery.records("05")}
    lines = []
    for row in gallery.against_bp(runs).itertuples():
        if row.algorithm not in algorithms or row.data == "digits":
            continue
        place = runs[(runs[NETWORK] == [row.data, row.architecture]).all(axis=1)]
        both = [place[place["algorithm"] == name] for name in (row.algorithm, row.baseline)]
        settings = [" and ".join(dict.fromkeys(part["key"].map(whose))) for part in both]
        devices = sorted({DEVICE_WORDS.get(d, d) for part in both for d in part["device"]})
        interval = "" if pd.isna(row.low) else f", 95 % interval {row.low:+.2f} to {row.high:+.2f}"
        lines.append(
            f"- {dataset(row.data)} {row.architecture}: {label(row.algorithm)} − {label(row.baseline)} = "
            f"**{row.difference:+.2f} points** (n = {row.n}{interval}; {' and '.join(devices)}; settings "
            f"{settings[0] if len(set(settings)) == 1 else f'{settings[0]}, BP {settings[1]}'}): "
            f"{row.verdict.partition(' (')[0].lower()}"  # n stands before it
        )
    return "\n".join(lines)


def a_pass(algorithm: str) -> pd.DataFrame:
    """How many passes an algorithm makes and how long one takes, as ratios to BP, by all who measured it.

    Returns: a row per network and measurement: the printed means; our runs under `convergence`, machine by
        machine, passes of all that ran there, times (training, validation and prefix work) of those that were
        alone; and early training passes timed apart on a quiet processor. In brackets is how many pairs of
        runs a number is of; in print, how many runs.
    """
    apart = [
        (
            row["data"],
            row["architecture"],
            f"early passes, CPU, prefix {prefix}",
            *map(Number, (nan, row[prefix], nan)),
        )
        for row in saving(algorithm).to_dict("records")
        for prefix in ("kept", "recomputed")
        if row[prefix] == row[prefix]
    ]
    table = pd.DataFrame(
        [*_printed(algorithm), *_ours(algorithm), *apart], columns=[*NETWORK, "measured by", *RATIOS]
    )
    table[[*RATIOS]] = table[[*RATIOS]].map(_ratio)
    return _named(table)


def saving(algorithm: str = "mf") -> pd.DataFrame:
    """What training a stage takes, as ratios to a pass of BP, and how much of what it saves is saved already
    with everything below computed again (%): by updating a part of the network alone.
    """
    table = gallery.recorded("pass_cost")
    table = table[table["metric"] == "train"].set_index([*NETWORK, "algorithm", "prefix"])["value"]
    rows = []
    for data, network, name, prefix in table.index:
        if (name, prefix) == (algorithm, "kept"):
            base = table[data, network, REFERENCE, "kept"]
            kept = table[data, network, name, "kept"] / base
            again = table.get((data, network, name, "recomputed"), nan) / base
            rows.append((data, network, again, kept, 100 * (1 - again) / (1 - kept)))
    return pd.DataFrame(rows, columns=[*NETWORK, "recomputed", "kept", "saved without keeping (%)"])


def _named(table: pd.DataFrame) -> pd.DataFrame:
    table = arranged(table, *NETWORK).reset_index(drop=True)
    table.insert(2, "network", table["data"].map(dataset) + " " + table["architecture"])
    return table.drop(columns=NETWORK)


def _ratio(number: Number) -> Quantity:
    return Quantity(number.mean, number.sd, 2, note=f"({number.n or 1})")


def _printed(algorithm: str) -> Iterator[tuple]:
    """Wherever a source printed epochs and seconds of both under one protocol."""
    table = published.results(metric=["epochs", "total_s"], variant="", baseline="")
    table = table[table["algorithm"].isin([algorithm, REFERENCE])]
    for (source, _, data, network), part in table.groupby(["source", "protocol", *NETWORK], sort=False):
        means = part.pivot(index="metric", columns="algorithm", values="mean")
        if means.shape == (2, 2) and means.notna().all(axis=None):
            epochs, seconds = means[algorithm] / means[REFERENCE]
            n = int(part["n"].min())
            ratios = (Number(ratio, n=n) for ratio in (epochs, seconds / epochs, seconds))
            yield data, network, source, *ratios


def _ours(algorithm: str) -> Iterator[tuple]:
    ours = Ours(gallery.recorded("forest").query("data != 'digits'"))
    for (data, network), _ in ours.runs[ours.runs["algorithm"] == algorithm].groupby(NETWORK, sort=False):
        pair = ours.pair((data, network, algorithm), ("convergence",), ("tuned", ""))
        device = dict(zip(pair[0]["machine"], pair[0]["device"].map(DEVICE_WORDS), strict=True))
        times = (ours.comparison(metric, "ratio", *pair) for metric in ("s_per_epoch", "total_s"))
        for of_a_pass, whole in zip(*times, strict=True):
            if whole.n:
                who = f"here, {device[whole.machine]}"
                there = (runs[runs["machine"] == whole.machine] for runs in pair)
                yield data, network, who, *ours.comparison("epochs", "ratio", *there), of_a_pass, whole
