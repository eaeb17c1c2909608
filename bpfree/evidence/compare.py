"""What the papers printed beside what was run here, number by number.

`beside(records)` has a row for every published one, whatever its kind: an accuracy, a cost, a difference
against a baseline, an end of an interval, a verdict. Where ours is not the same quantity (a device's memory
beside an exact account of tensors), `ours_is` says so and no difference is taken.
"""

import math

import pandas as pd

from ..algorithms.arms import ARMS
from ..experiments import published
from .runs import ACCOUNT, Number, Ours, judged, paper_flop

#: Published protocol -> ours to set beside it, the first that was run.
OUR_PROTOCOLS = {
    "published": ("published", "convergence"),
    "convergence_loss": ("convergence_loss", "convergence"),
    "matched": ("matched",),
    "validation-selected": ("published", "convergence"),
}
OTHERS = ("convergence", "published")  # beside other authors' protocols
#: Source -> the preset of ours that takes its definitions.
PRESETS = {"thesis": "thesis", "readme": "thesis", "2026": "2026", "gong-abdulla": "gong"}
#: Variants that are our preset's usual arm: the thesis's Mono-Forward had no M_0.
USUAL_VARIANTS = {
    ("2026-reports", "without M_0"): "thesis",
    ("gong-abdulla", "local-bp"): "gong",
    ("gong-abdulla", "ce-matched-ge"): "gong",
}
SUFFIXES = ("difference_low", "difference_high", "difference", "change", "percent", "ratio")
FIXED = ["source", "protocol", "data", "architecture", "algorithm", "variant", "baseline", "metric", "unit"]
BESIDE_COLUMNS = [*FIXED, "published", "published_sd", "published_n"]
BESIDE_COLUMNS += ["ours", "ours_sd", "ours_n", "ours_low", "ours_high", "difference", "ratio"]
BESIDE_COLUMNS += ["our_protocol", "our_preset", "ours_is", "machine", "published_verdict", "our_verdict"]


def beside(
    records: pd.DataFrame,
    *,
    our_protocol: str | None = None,
    traces: pd.DataFrame | None = None,
    country: str = "POL",
    **where: object,
) -> pd.DataFrame:
    """A row per published result, with ours next to it.

    Args:
        records: as `bpfree.records` gives it, or `Ours` of it; one run per arm and seed. A column `variant`
            may name runs of a published variant ("cache on host").
        our_protocol: which of ours; None: the one that the published number is of or, where that was not
            run, "convergence".
        traces: as `experiments.store.traces` gives it, for utilisation and memory as the device reports them.
        country: whose grid our carbon is of.
        **where: which published results, as in `published.results`.

    Returns: the columns of `published.results` that say which number it is, then

        published, published_sd, published_n: what was printed.
        ours, ours_sd, ours_n: mean, sample standard deviation and number of seeds; NaN where there is none.
            Comparisons are of seeds that both arms have, seed by seed (see `runs.Ours.comparison`).
        ours_low, ours_high: 95 % interval of `ours` (see `stats.interval`).
        difference, ratio: ours - published, and for amounts ours / published; NaN for unlike quantities.
        our_protocol, our_preset: what ours ran under.
        ours_is: how ours was obtained ("measured: ...", "estimated: ...", "exact account of tensors",
            "wall clock"), or why there is none ("not run").
        machine: of our costs, which are never pooled: a cost measured on several has a row for each.
        published_verdict, our_verdict: ours (see `stats.infer`), the family being the contrasts that the
            source printed together.

    Raises InvalidInput if an arm has two runs of one seed on one machine.
    """
    ours = Ours.of(records, traces, country)
    table = published.results(**where)
    by_place = _verdict_numbers(ours, table, our_protocol)
    rows = []
    for place, row in enumerate(table.to_dict("records")):
        arm, partner = _runs_beside(ours, row, our_protocol)
        numbers = [by_place[place]] if place in by_place else _numbers(ours, row, arm, partner, our_protocol)
        for number in numbers:
            ran = number.n and len(arm)
            like = not (row["metric"].startswith("memory_nvml") and number.what == ACCOUNT)
            amount = like and row["mean"] and not row["metric"].endswith(SUFFIXES[:-1])
            difference = number.mean - row["mean"] if like else math.nan
            ratio = number.mean / row["mean"] if amount else math.nan
            under = [arm[column].iat[0] if ran else "" for column in ("protocol", "preset")]
            own = (number.mean, number.sd, number.n, number.low, number.high, difference, ratio, *under)
            verdicts = (row["verdict"], number.verdict)
            printed = [row[column] for column in (*FIXED, "mean", "sd", "n")]
            rows.append((*printed, *own, number.what, number.machine, *verdicts))
    return pd.DataFrame(rows, columns=BESIDE_COLUMNS)


def protocols_for(published_protocol: str, our_protocol: str | None = None) -> tuple[str, ...]:
    """Ours to look for beside a published protocol, in order."""
    return (our_protocol,) if our_protocol else OUR_PROTOCOLS.get(published_protocol, OTHERS)


def _runs_beside(ours: Ours, row: dict, our_protocol: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Our runs of a published row's algorithm, and of its baseline under the same protocol."""
    protocols = protocols_for(row["protocol"], our_protocol)
    preset, variant = PRESETS.get(row["source"]), row["variant"]
    if (row["source"], variant) in USUAL_VARIANTS:
        preset, variant = USUAL_VARIANTS[row["source"], variant], ""
    presets = (preset, "") if preset else ("",)
    place = (row["data"], row["architecture"], row["algorithm"])
    return ours.pair(place, protocols, presets, variant, row["baseline"])


def _numbers(
    ours: Ours, row: dict, arm: pd.DataFrame, partner: pd.DataFrame, our_protocol: str | None
) -> list[Number]:
    """Our numbers for one published row: one, or one for each machine."""
    metric = row["metric"]
    if row["algorithm"] not in ARMS and row["algorithm"] != "any":
        return [Number(what="not an algorithm of this package")]
    if metric == "sample_flop":
        flop = paper_flop(row["algorithm"], row["data"], row["architecture"])
        return [Number(flop, what="counted by the papers' convention")]
    if metric == "weights":  # the convention counts the output head and no M_i; an operation pair per weight
        return [Number(paper_flop("mf", row["data"], row["architecture"]) / 2, what="counted")]
    if metric == "test_accuracy_sd":
        return [ours.pooled_sd(protocols_for(row["protocol"], our_protocol))]
    how = next((suffix for suffix in SUFFIXES if row["baseline"] and metric.endswith("_" + suffix)), None)
    if how is None:
        return ours.number(metric, arm)
    if how in ("difference_low", "difference_high"):
        [number] = ours.comparison(metric.removesuffix("_" + how), "difference", arm, partner)
        end = getattr(number, how.removeprefix("difference_"))
        missing = number.n and math.isnan(end)
        what = f"{number.n} pair has no interval" if missing else f"interval: {number.what}"
        return [Number(end, n=number.n, what=what if number.n else number.what)]
    return ours.comparison(metric.removesuffix("_" + how), how, arm, partner)


def _verdict_numbers(ours: Ours, table: pd.DataFrame, our_protocol: str | None) -> dict[int, Number]:
    """Ours for the rows that are verdicts; a family is what one source printed under one protocol."""
    found = {}
    rows = table[table["metric"] == "verdict"]
    for _, family in rows.groupby(["source", "protocol"], sort=False):
        pairs = [_runs_beside(ours, row, our_protocol) for row in family.to_dict("records")]
        found.update(zip(family.index, judged([ours.differences(*pair) for pair in pairs]), strict=True))
    return found
