"""The landscape around the weights of stored runs, as one tidy table."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..data import load
from ..diagnostics import landscape as around
from ..errors import InvalidInput
from ..experiments.experiment import trained
from ..experiments.store import FIELDS
from ..training.numerics import pinned
from . import stats
from .order import NETWORK, arranged, network_name

if TYPE_CHECKING:
    from ..experiments.store import Record

SURVEY_COLUMNS = (*FIELDS, "kind", "split", "samples", "direction", "x", "y", *around.VALUES)
CONNECTED = ("bp", "mf")  # the algorithms whose solutions a line connects
MEASURES = {  # of `per_run`, the smaller the more favourable -> in words
    "loss": "validation loss (nats)",
    "rise": "its rise one step away (nats)",
    "eigenvalue": "sharpness, training images",
    "eigenvalue_val": "sharpness, validation images",
    "loss_gap": "validation − training loss (nats)",
    "error_gap": "validation − training error (points)",
}


@pinned()
def survey(
    records: Iterable["Record"],
    *,
    directions: int = 3,
    alphas: Sequence[float] = around.ALPHAS,
    grid: Sequence[float] = around.ALPHAS[::2],
    samples: int | None = around.LANDSCAPE_SAMPLES,
) -> pd.DataFrame:
    """Everything chapter 08 shows, from trained runs whose weights were kept, as one tidy table.

    Args:
        records: runs of any algorithms, data and seeds.
        directions: random directions of the slices.
        alphas, grid: steps of the slices, and of each side of the plane.
        samples: so many images of a split, the first, are looked at; None: all.

    Columns: those of `store.tidy` that say which run it is; kind; split, samples; direction; x, y;
    loss (nats), accuracy (%); eigenvalue, residual. A kind leaves those empty that it has not got:

        gap        split                loss, accuracy at the trained weights
        slice      direction, x         loss, accuracy on validation images
        plane      x, y                 the same, of the first two directions; first seed of an arm only
        line       x                    the same, from x = 0 (BP) to 1 (MF), where both have a run of the same
                                        data, seed, protocol and network, head included; algorithm "bp-mf"
        sharpness  split                eigenvalue, residual
    """
    records = sorted(records, key=lambda record: (record.experiment.data, record.experiment.seed))
    tables, planes, ends = [], set(), {}
    for record in records:
        what = {name: getattr(record.experiment, name) for name in FIELDS}
        data = load(what["data"], seed=what["seed"])
        algorithm = trained(record, data)

        def keep(kind: str, table: pd.DataFrame, what=what, **more) -> None:
            tables.append(table.assign(**{**what, "kind": kind, **more}))

        keep("gap", around.gap(algorithm, data, samples))
        val = {"split": "val", "samples": len(data.x_val[:samples])}
        draws = [around.direction(algorithm, data, k) for k in range(directions)]
        for k, draw in enumerate(draws):
            keep("slice", around.along(algorithm, data, draw, alphas, samples=samples), direction=k, **val)
        for split in around.SPLITS:
            keep("sharpness", around.sharpness(algorithm, data, split, samples))
        arm = tuple(value for name, value in what.items() if name != "seed")
        if arm not in planes and directions > 1:
            planes.add(arm)
            keep("plane", around.plane(algorithm, data, draws[:2], grid, samples=samples), **val)
        if what["algorithm"] in CONNECTED:
            pair = ends.setdefault(tuple(v for n, v in what.items() if n != "algorithm"), {})
            pair[what["algorithm"]] = algorithm
            if len(pair) == 2:
                with contextlib.suppress(InvalidInput):  # their heads differ, as the thesis has them
                    table = around.between(*(pair[name] for name in CONNECTED), data, samples=samples)
                    keep("line", table, algorithm="-".join(CONNECTED), **val)
                pair.clear()
    if not tables:
        raise InvalidInput("no records to look around: run an experiment first")
    return pd.DataFrame([row for table in tables for row in table.to_dict("records")], columns=SURVEY_COLUMNS)


def per_run(evidence: pd.DataFrame) -> pd.DataFrame:
    """One row per run of `evidence`: what its pictures show, as numbers.

    Columns: those that say which run it is; loss (nats) and accuracy (%) on validation images; rise: what a
    step to either end of the slices adds to that loss, mean over directions; eigenvalue, eigenvalue_val: on
    training and on validation images; loss_gap (nats), error_gap (percentage points): validation minus
    training.
    """
    rows = []
    for which, run in evidence[evidence["kind"] != "line"].groupby(list(FIELDS), dropna=False, sort=False):
        by_split = {kind: part.set_index("split") for kind, part in run.groupby("kind")}
        train, val = by_split["gap"].loc["train"], by_split["gap"].loc["val"]
        mean = by_split["slice"].groupby("x")["loss"].mean()
        ends = mean[mean.index.map(abs) == mean.index.map(abs).max()]
        found = {"loss": val["loss"], "accuracy": val["accuracy"], "rise": ends.mean() - mean[0.0]}
        found["eigenvalue"], found["eigenvalue_val"] = by_split["sharpness"]["eigenvalue"][["train", "val"]]
        found["loss_gap"] = val["loss"] - train["loss"]
        found["error_gap"] = train["accuracy"] - val["accuracy"]
        rows.append(dict(zip(FIELDS, which, strict=True)) | found)
    return pd.DataFrame(rows)


def favourable(runs: pd.DataFrame) -> pd.DataFrame:
    """By which of `MEASURES` MF's minimum is more favourable than BP's, and by which it is less: smaller is.

    runs: as `per_run` gives it, of one network. Columns: bp, mf (means over the seeds that both have), n, and
    favourable ("more", "less" or "as much").
    """
    rows = {}
    for measure in MEASURES:
        by_seed = runs.pivot(index="seed", columns="algorithm", values=measure)[["bp", "mf"]].dropna()
        bp, mf = by_seed.mean()
        word = "more" if mf < bp else "less" if mf > bp else "as much"
        rows[measure] = {"bp": bp, "mf": mf, "n": len(by_seed), "favourable": word}
    return pd.DataFrame.from_dict(rows, orient="index")


def compared(runs: pd.DataFrame) -> pd.DataFrame:
    """`MEASURES` of BP and MF as a table to read: means, the difference paired by seed with its 95 % interval
    and the p of a paired t-test, corrected for the number of rows (Holm); neither of a single seed.

    runs: as `per_run` gives it, of one network.
    """
    rows, tests = [], []
    for measure, words in MEASURES.items():
        by_seed = runs.pivot(index="seed", columns="algorithm", values=measure)
        difference = stats.paired(by_seed["mf"], by_seed["bp"])
        found = stats.describe(difference)
        interval = f" [{found.low:+.3g}, {found.high:+.3g}]" if found.n > 1 else ""
        rows.append((words, *by_seed[["bp", "mf"]].mean(), f"{found.mean:+.3g}{interval}"))
        tests.append(stats.ttest(difference))
    table = pd.DataFrame(rows, columns=["measure", "BP", "MF", "MF − BP"]).round(3)
    return table.assign(**{"p": [f"{p:.2f}" if p == p else "" for p in stats.holm(pd.Series(tests))]})


def lowest_losses(curves: pd.DataFrame) -> pd.DataFrame:
    """The lowest validation loss (nats) that the last stage went through, which need not be that of the kept
    weights: columns bp and mf, by data, architecture and seed, of the seeds that both have.

    curves: epochs of runs, as `gallery.recorded("mf_mean_loss")` gives them; of a seed on several devices the
    mean.
    """
    arm = [*NETWORK, "seed", "algorithm"]
    run = [*arm, "device"]
    last = curves[curves["stage"] == curves.groupby(run)["stage"].transform("last")]
    lowest = last.groupby(run)["val_loss"].min().groupby(arm).mean()
    return lowest.unstack("algorithm").reindex(columns=["bp", "mf"]).dropna()


def lowest_in_words(curves: pd.DataFrame) -> str:
    """On which networks MF's of `lowest_losses` lies below BP's: "lower on A (-0.007 nats, n = 7; ...)".

    By the 95 % interval of the difference paired by seed, of one comparison alone; "" without a pair.
    """
    where: dict[str, list[str]] = {"lower": [], "higher": [], "undecided": []}
    pairs = arranged(lowest_losses(curves).reset_index(), *NETWORK)
    for place, both in pairs.groupby(NETWORK, sort=False):
        found = stats.describe(both["mf"] - both["bp"])
        word = "lower" if found.high < 0 else "higher" if found.low > 0 else "undecided"
        interval = f"; {found.low:+.3f} to {found.high:+.3f}" if found.n > 1 else ""
        where[word].append(f"{network_name(*place)} ({found.mean:+.3f} nats, n = {found.n}{interval})")
    return ", ".join(f"{word} on {' and '.join(networks)}" for word, networks in where.items() if networks)


def verdict(evidence: pd.DataFrame, losses: pd.DataFrame, curves: pd.DataFrame) -> str:
    """The answer of chapter 08, Markdown: by how many measures MF's minimum is less favourable, and on which
    data sets its validation loss is lower.

    evidence: of one network, as `survey` gives it; losses: MF's validation loss against BP's, as
    `stats.contrasts` gives it; curves: as of `lowest_losses`.
    """
    place = evidence[["data", "architecture"]].iloc[0]
    found = favourable(per_run(evidence))
    more, less = (found.index[found["favourable"] == word] for word in ("more", "less"))
    lower, higher = losses["high"] < 0, losses["low"] > 0
    words = {"lower": lower, "higher": higher, "undecided": ~(lower | higher)}
    on = {}
    for word, which in words.items():
        where = [f"{network_name(r.data, r.architecture)} (n = {r.n})" for r in losses[which].itertuples()]
        on[word] = " and ".join(where) or "no network"
    return (
        f"{'On some data it is lower' if lower.any() else 'Not shown'}. Mono-Forward's validation loss, "
        f"which the claim was about, is **lower on {on['lower']}, higher on {on['higher']}** (95 % intervals "
        f"that leave out 0), and undecided on {on['undecided']}. These are the losses at the kept weights, "
        f"those of the best accuracy; at its lowest in the last stage it is {lowest_in_words(curves)}. "
        f"On {network_name(*place)} (n = "
        f"{found['n'].max()} seed, GPU, settings tuned here) its minimum is **less favourable by {len(less)} "
        f"of {len(found)} measures** and more favourable by {len(more)} "
        f"({'; '.join(MEASURES[m] for m in more) or 'none'})."
    )
