"""Seeds in, statements out: a mean with its interval, and whether two algorithms differ or are equivalent.

Not finding a difference is not finding equivalence. Equivalence has a test of its own: two one-sided
t-tests (TOST; Schuirmann 1987), each against one end of a margin that was stated beforehand. Runs are
paired by seed, because the same seed means the same split, the same start and the same batches.

Every table and figure takes its n, interval and word from `infer`; a contrast's word is one of

    equivalent      by TOST: the difference is surely smaller than the margin, whatever its sign
    higher, lower   otherwise by a t-test of the paired differences, corrected (Holm) over its family, which
                    is all that is compared with the same baseline under one protocol
    undecided       neither
    one run         a single pair decides nothing
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..algorithms.arms import ARMS, label
from ..errors import InvalidInput, choose
from ..experiments.protocols import BUDGETS
from .order import NETWORK, PLACE, arranged

MARGIN = 0.25  # percentage points of accuracy: the camera-ready's margin
ALPHA = 0.05
POWER = 0.8
MOST_PAIRS = 1000
LEVEL = 0.95

HIGHER, LOWER, EQUIVALENT = "higher", "lower", "equivalent"
UNDECIDED, ONE_RUN = "undecided", "one run"
#: What sets runs of one algorithm on one network apart, so that they have no mean in common.
KINDS = ("protocol", "preset", "settings", "max_epochs", "precision")
#: How two arms compare: the effect of values a and b, which is 0 if they are alike, and how it is displayed.
#: Ratios are tested as logarithms: a / b and b / a say the same.
EFFECTS = {"difference": lambda a, b: a - b}
EFFECTS |= dict.fromkeys(("ratio", "change", "percent"), lambda a, b: np.log(a / b))
SHOWN = {
    "difference": lambda e: e,
    "ratio": np.exp,
    "change": lambda e: 100 * np.expm1(e),
    "percent": lambda e: 100 * np.exp(e),
}
CONTRAST_COLUMNS = [*NETWORK, *KINDS, "machine", "algorithm"]
CONTRAST_COLUMNS += ["baseline", "baseline_settings", "at_cap"]
CONTRAST_COLUMNS += ["n", "difference", "sd", "low", "high", "p", "p_holm", "p_tost", "verdict"]


@dataclass(frozen=True)
class Description:
    """What n values say of their mean.

    n: how many; mean; sd: sample standard deviation (n - 1), NaN for one value; low, high: 95 % interval of
    the mean, NaN where `interval` has none.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def describe(values: Iterable[float]) -> Description:
    """Mean, sample standard deviation and interval. Raises InvalidInput for none or for a NaN."""
    values = _finite(values)
    return Description(len(values), float(values.mean()), _sd(values), *interval(values))


def interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of the mean.

    A bootstrap's would be too narrow for as few values as there are seeds: of ten from a normal distribution
    its 95 % hold the mean in 89 to 90 of a hundred cases. A single value has none: (NaN, NaN). Values that
    are all the same have that value at both ends.
    """
    from scipy import special

    values = np.sort(_finite(values))  # so that their order does not change the last digit
    mean = float(values.mean())
    if len(values) < 2:
        return math.nan, math.nan
    if _constant(values):
        return mean, mean
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = special.stdtrit(len(values) - 1, (1 + level) / 2) * error  # Student's quantile
    return float(mean - half), float(mean + half)


def above_chance(accuracy: float, labels: Iterable[int]) -> float:
    """By how many standard errors an accuracy exceeds that of always naming the labels' commonest class.

    The standard error is that guess's own, √(p(1 − p)/n), p being the class's share of the n labels. So it
    takes any number of classes of any sizes, and a small test set does not make chance look like learning.
    NaN where all labels are the same.

    accuracy: in %, of predictions of these labels. Raises InvalidInput for no labels.
    """
    labels = np.asarray(list(labels))
    if not len(labels):
        raise InvalidInput("no labels: give those that the accuracy is of")
    share = np.unique(labels, return_counts=True)[1].max() / len(labels)
    error = math.sqrt(share * (1 - share) / len(labels))
    return (accuracy / 100 - share) / error if error else math.nan


def learned(accuracies: pd.Series, labels: Iterable[int]) -> str:
    """A sentence: which algorithms are above chance by more than three standard errors (`above_chance`).

    accuracies: in %, by algorithm, all of predictions of these labels.
    """
    labels = list(labels)
    not_above = [label(name) for name, a in accuracies.items() if not above_chance(a, labels) > 3]
    if not not_above:
        return "far above chance: every algorithm"
    return f"not surely above chance on these data: {', '.join(not_above)}"


def paired(a: pd.Series, b: pd.Series, how: str = "difference") -> pd.Series:
    """The effects of the seeds that both have, such as a - b (see `EFFECTS`); a and b are indexed by seed.

    Raises InvalidInput if a seed occurs twice: which run would be its partner?
    """
    for values in (a, b):
        if values.index.has_duplicates:
            twice = sorted(set(values.index[values.index.duplicated()]))
            raise InvalidInput(f"several values of seed {twice[0]}: pairing by seed needs one value per seed")
    a, b = a.align(b, join="inner", axis=0)
    return EFFECTS[how](a, b).dropna().sort_index()


def compared(how: str, a: float, b: float) -> float:
    """How a compares to b, as it is displayed; `how` is a key of `EFFECTS`."""
    return float(SHOWN[how](EFFECTS[how](a, b)))


def ttest(differences: Iterable[float]) -> float:
    """Two-sided p of the paired t-test: that the mean difference is 0. NaN without n > 1 or any spread."""
    from scipy.stats import ttest_1samp

    differences = _finite(differences)
    return float(ttest_1samp(differences, 0).pvalue) if _sd(differences) > 0 else math.nan


def tost(differences: Iterable[float], margin: float = MARGIN) -> float:
    """p of the paired equivalence test: that the mean difference lies outside ±margin.

    The larger p of two one-sided t-tests. NaN without n > 1 or any spread.
    Raises InvalidInput for a margin that is not a positive number.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    if not 0 < margin < math.inf:
        raise InvalidInput(f"margin={margin!r}: use a number greater than 0, in the metric's unit")
    differences = _finite(differences)
    if not _sd(differences) > 0:
        return math.nan
    return float(DescrStatsW(differences).ttost_mean(-margin, margin)[0])


def holm(p: Sequence[float]) -> np.ndarray:
    """p values corrected for their number (Holm 1979), in their order; NaN stays NaN and is not counted."""
    # statsmodels' multipletests does the same, and collects garbage at every call: most of a page's seconds.
    corrected = np.array(p, dtype=float)
    known = np.flatnonzero(np.isfinite(corrected))
    order = known[np.argsort(corrected[known], kind="stable")]
    # The k-th smallest of m, k from 0, is multiplied by m - k and is no smaller than the one before it.
    stepped = corrected[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def pairs_needed(difference: float, sd: float, tests: int = 1, margin: float | None = MARGIN) -> float:
    """With how many pairs a contrast would be decided in four of five studies, were it as it was observed.

    The smallest number with which the power (`POWER`) of either test suffices: of the paired t-test at
    `ALPHA` over the number of `tests` in the family, than which Holm's correction is never stricter, or of
    TOST. Powers by the noncentral t-distribution; TOST's is at least the sum of its two tests' less 1.
    Infinite if `MOST_PAIRS` are too few, NaN without a spread.
    """
    from scipy.stats import nct, t

    if not sd > 0:
        return math.nan
    n = np.arange(2, MOST_PAIRS + 1)
    freedom, error = n - 1, sd / np.sqrt(n)
    critical = t.isf(ALPHA / tests / 2, freedom)
    power = nct.sf(critical, freedom, abs(difference) / error)  # the other tail adds nothing that counts
    if margin is not None:
        critical = t.isf(ALPHA, freedom)
        below = nct.cdf(-critical, freedom, (difference - margin) / error)
        above = nct.sf(critical, freedom, (difference + margin) / error)
        power = np.fmax(power, below + above - 1)
    enough = n[power >= POWER]
    return float(enough[0]) if len(enough) else math.inf


def verdict(n: int, difference: float, p_holm: float, p_tost: float) -> str:
    """The word for a contrast of n pairs, from its mean and its tests; see above. NaN proves nothing."""
    if n == 1:
        return ONE_RUN
    if p_tost < ALPHA:
        return EQUIVALENT
    if p_holm < ALPHA:
        return HIGHER if difference > 0 else LOWER
    return UNDECIDED


def infer(family: Sequence[pd.Series], margin: float | None = MARGIN) -> pd.DataFrame:
    """What each of a family of paired effects shows: a row for each, all of them with a value or more.

    p is corrected over the family (Holm); p_tost is not, because every row states its own equivalence, and is
    NaN without a margin. Columns: n, difference, sd, low, high, p, p_holm, p_tost, verdict.
    """
    columns = ["n", "mean", "sd", "low", "high"]
    rows = pd.DataFrame([vars(describe(effects)) for effects in family], columns=columns)
    rows = rows.rename(columns={"mean": "difference"})
    rows["p"] = [ttest(effects) for effects in family]
    rows["p_holm"] = holm(rows["p"])
    rows["p_tost"] = [math.nan if margin is None else tost(effects, margin) for effects in family]
    tests = rows[["n", "difference", "p_holm", "p_tost"]].itertuples(index=False)
    return rows.assign(verdict=[verdict(*row) for row in tests])


def contrasts(
    records: pd.DataFrame,
    baseline: str = "bp",
    metric: str = "test_accuracy",
    how: str = "difference",
    baseline_protocol: str | None = None,
) -> pd.DataFrame:
    """Every algorithm against the baseline, paired by seed on the same data, network and protocol.

    All rows of one protocol are a family; see `infer`. Differences of accuracy up to `MARGIN` count as none;
    other metrics have no test of equivalence. The runs of a row, and those of its partner, agree in
    all of `KINDS`; the partner has the row's preset, cap and settings where the baseline has such runs.

    Args:
        records: as `bpfree.records` gives it; failed runs are left out. Of a metric that is an outcome, a
            seed that ran on several devices counts once, by its mean; a cost is of one machine, and one that
            was measured on several has a row for each.
        how: a key of `EFFECTS`.
        baseline_protocol: whose baseline runs are the partners of runs with a budget, "matched" and
            "equal_energy": the protocol under which BP spent it.

    Returns: a row per arm that has a partner: what it is of (machine: of a cost); the settings of the
        baseline; at_cap: how many of the runs of both ended at the cap (see `at_cap`); n: pairs; difference,
        sd: the mean effect and its sample standard deviation, a ratio's as logarithms; low, high: its
        interval; p, p_holm: t-test of the pairs; p_tost; verdict.

    Raises InvalidInput: no run of the baseline has the metric, or two runs of an arm have the same seed.
    """
    choose("algorithm", baseline, [*ARMS, *records["algorithm"].unique()])
    rows = records[(records["status"] == "finished") & (records["metric"] == metric)]
    rows = rows.reindex(columns=[*records, *(k for k in KINDS if k not in records)])
    if not (rows["algorithm"] == baseline).any():
        raise InvalidInput(
            f"no finished run of {baseline!r} has the metric {metric!r}: run the baseline, too"
        )
    shared, own = [*NETWORK, "precision", "machine"], ["algorithm", *KINDS[:-1]]
    capped = records[records["metric"] == "stages_at_cap"].set_index("key")["value"]
    table, effects = [], []
    for here, part in rows.groupby(shared, sort=False, dropna=False):
        baselines = part[part["algorithm"] == baseline]
        others = part[part["algorithm"] != baseline]
        for arm, runs in others.groupby(own, sort=False, dropna=False):
            what = dict(zip([*shared, *own], [*here, *arm], strict=True))
            try:
                partners = _partners(baselines, what, baseline_protocol)
                each = paired(_by_seed(runs), _by_seed(partners), how)
            except InvalidInput as error:
                raise InvalidInput(
                    f"{what['algorithm']} against {baseline} on {what['data']} {what['architecture']}, "
                    f"{what['protocol']}: {error}"
                ) from None
            if len(each):
                both = [r.loc[r["seed"].isin(each.index), "key"] for r in (runs, partners)]
                what |= {"baseline": baseline, "baseline_settings": partners["settings"].iat[0]}
                table.append(what | {"at_cap": at_cap(capped.reindex(pd.concat(both)))})
                effects.append(each)
    margin = MARGIN if metric.startswith("test_accuracy") and how == "difference" else None
    table = pd.DataFrame(table, columns=CONTRAST_COLUMNS[: CONTRAST_COLUMNS.index("n")])
    found = [
        infer([effects[row] for row in rows], margin).set_index(rows)
        for rows in table.groupby("protocol", sort=False).groups.values()
    ]
    table = table.join(pd.concat(found or [infer([], margin)]))[CONTRAST_COLUMNS]
    order = *NETWORK, "protocol", "algorithm", *KINDS[1:], "machine"
    return arranged(table, *order).reset_index(drop=True)


def _partners(baselines: pd.DataFrame, arm: dict, baseline_protocol: str | None) -> pd.DataFrame:
    """Of the baseline's runs on an arm's network and machine those that it is compared with: as much like it
    as there are any.
    """
    own = baselines[baselines["protocol"] == arm["protocol"]]
    if own.empty and arm["protocol"] in BUDGETS:
        own = baselines[baselines["protocol"] == baseline_protocol]
    for column in ("preset", "max_epochs", "settings"):
        alike = own[column].isna() if pd.isna(arm[column]) else own[column] == arm[column]
        own = own[alike] if alike.any() else own
    one_kind(own)
    return own


def at_cap(stages: pd.Series) -> str:
    """How many runs have stages that ended at the cap on epochs, and might have gone on; "" if none has.

    stages: `stages_at_cap` of each run, NaN where it is not known.
    """
    some, unknown = int((stages > 0).sum()), int(stages.isna().sum())
    words = (f"{some} of {len(stages)}" if some else "", f"{unknown} not known" if unknown else "")
    return ", ".join(filter(None, words))


def one_kind(records: pd.DataFrame, *columns: str) -> None:
    """Raises InvalidInput where runs of one algorithm on one network differ in what no mean may run over.

    columns: in what, beside `KINDS`, of the rows that have it.
    """
    for column in (c for c in (*KINDS, *columns) if c in records):
        if records[column].nunique(dropna=False) < 2:
            continue
        rows = records.dropna(subset=column) if column in columns else records
        kinds = rows.groupby(PLACE, sort=False)[column].nunique(dropna=False)
        for place in kinds.index[kinds > 1]:
            own = rows.set_index(PLACE).loc[[place], column]
            several = ["none" if pd.isna(kind) else str(kind) for kind in own.unique()]
            raise InvalidInput(
                f"{place[2]} on {place[0]} {place[1]} has runs of several kinds, {column} "
                f"{' and '.join(several)}, whose mean says nothing: pass those of one"
            )


def _by_seed(rows: pd.DataFrame) -> pd.Series:
    """The values by seed. Of a seed that ran on several devices their mean: it is still one seed."""
    if "device" in rows and not rows.duplicated(["seed", "device"]).any():
        return rows.groupby("seed")["value"].mean()
    return rows.set_index("seed")["value"]


def _finite(values: Iterable[float]) -> np.ndarray:
    values = np.array(list(values), dtype=float)
    if not len(values) or not np.isfinite(values).all():
        raise InvalidInput(f"values {values.tolist()}: use at least one number, all of them finite")
    return values


def _constant(values: np.ndarray) -> bool:
    """Whether the values are the same but for rounding, so that their spread means nothing."""
    return bool(np.ptp(values) <= 1e-9 * max(1.0, np.abs(values).max()))


def _sd(values: np.ndarray) -> float:
    """Sample standard deviation; 0 of constant values, NaN of a single one."""
    if len(values) < 2:
        return math.nan
    return 0.0 if _constant(values) else float(values.std(ddof=1))
