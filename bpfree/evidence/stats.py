"""Seeds in, statements out: a mean with its interval, and whether two algorithms differ or are equivalent.

Not finding a difference is not finding equivalence. Equivalence has a test of its own: two one-sided
t-tests (TOST; Schuirmann 1987), each against one end of a margin that was stated beforehand. Runs are
paired by seed, because the same seed means the same split, the same start and the same batches.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..algorithms.arms import ARMS, label
from ..errors import InvalidInput, choose
from ..experiments.protocols import BUDGETS
from .order import arranged

MARGIN = 0.25  # percentage points of accuracy: the camera-ready's margin
ALPHA = 0.05
LEVEL = 0.95
RESAMPLES = 9999
SEED = 0  # of the bootstrap: the same values have the same interval

EQUIVALENT, DIFFERENT, INCONCLUSIVE = "EQUIVALENT", "DIFFERENT", "INCONCLUSIVE"
COLUMNS = [
    "data",
    "architecture",
    "protocol",
    "algorithm",
    "baseline",
    "n",
    "difference",
    "sd",
    "low",
    "high",
]
COLUMNS += ["p", "p_holm", "p_tost", "verdict"]


@dataclass(frozen=True)
class Description:
    """What n values say of their mean.

    n: how many; mean; sd: sample standard deviation (n - 1), NaN for one value; low, high: 95 % bootstrap
    interval of the mean, NaN where `interval` has none.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def describe(values: Iterable[float]) -> Description:
    """Mean, sample standard deviation and bootstrap interval. Raises InvalidInput for none or for a NaN."""
    values = _values(values)
    return Description(len(values), float(values.mean()), _sd(values), *interval(values))


def interval(values: Iterable[float], level: float = LEVEL) -> tuple[float, float]:
    """Bootstrap interval of the mean: bias-corrected and accelerated (Efron 1987), seeded.

    It does not depend on the order of the values. With fewer than three there is none: (NaN, NaN). Values
    that are all the same have that value at both ends. Where the correction is undefined, the percentile
    interval. With a handful of values a bootstrap interval is too narrow: of three normal values it holds
    the mean about three times in four, not nineteen times in twenty; judge by `verdict`, which uses t.
    """
    from scipy.stats import bootstrap

    values = np.sort(_values(values))
    if len(values) < 3:
        return math.nan, math.nan
    if _constant(values):
        return float(values.mean()), float(values.mean())
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BCa says that it is degenerate by a warning and by NaN
            found = bootstrap(
                (values,),
                np.mean,
                confidence_level=level,
                n_resamples=RESAMPLES,
                method=method,
                random_state=np.random.default_rng(SEED),
            ).confidence_interval
        if np.isfinite(found).all():
            break
    return float(found.low), float(found.high)


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


def learned(accuracies: pd.Series, labels: Iterable[int], errors: float = 3.0) -> str:
    """A sentence: which algorithms are above chance by more than so many standard errors (`above_chance`).

    accuracies: in %, by algorithm, all of predictions of these labels.
    """
    labels = list(labels)
    not_above = [label(name) for name, a in accuracies.items() if not above_chance(a, labels) > errors]
    if not not_above:
        return "far above chance: every algorithm"
    return f"not surely above chance on these data: {', '.join(not_above)}"


def paired(a: pd.Series, b: pd.Series) -> pd.Series:
    """The differences a - b of the seeds that both have; a and b are indexed by seed.

    Raises InvalidInput if a seed occurs twice: which run would be its partner?
    """
    for values in (a, b):
        if values.index.has_duplicates:
            twice = sorted(set(values.index[values.index.duplicated()]))
            raise InvalidInput(f"several values of seed {twice[0]}: pairing by seed needs one value per seed")
    return (a - b).dropna().sort_index()


def ttest(differences: Iterable[float]) -> float:
    """Two-sided p of the paired t-test: that the mean difference is 0. NaN without n > 1 or any spread."""
    from scipy.stats import ttest_1samp

    differences = _values(differences)
    return float(ttest_1samp(differences, 0).pvalue) if _sd(differences) > 0 else math.nan


def tost(differences: Iterable[float], margin: float = MARGIN) -> float:
    """p of the paired equivalence test: that the mean difference lies outside ±margin.

    The larger p of two one-sided t-tests. NaN without n > 1 or any spread.
    Raises InvalidInput for a margin that is not a positive number.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    if not 0 < margin < math.inf:
        raise InvalidInput(f"margin={margin!r}: use a number greater than 0, in the metric's unit")
    differences = _values(differences)
    if not _sd(differences) > 0:
        return math.nan
    return float(DescrStatsW(differences).ttost_mean(-margin, margin)[0])


def holm(p: Sequence[float]) -> np.ndarray:
    """p values corrected for their number (Holm 1979), in their order; NaN stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests

    corrected = np.array(p, dtype=float)
    known = np.isfinite(corrected)
    if known.any():
        corrected[known] = multipletests(corrected[known], method="holm")[1]
    return corrected


def verdict(p: float, p_tost: float, alpha: float = ALPHA) -> str:
    """ "EQUIVALENT" if p_tost < alpha; else "DIFFERENT" if p < alpha; else "INCONCLUSIVE".

    Both can hold: many seeds show a difference that is real and too small to matter. That is called
    equivalent, because the margin says what matters. The camera-ready (CP025) has no such contrast among
    its twenty, so either order gives all of its verdicts. NaN proves nothing.
    Raises InvalidInput for an alpha that is no probability.
    """
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha={alpha!r}: use a probability between 0 and 1, such as {ALPHA}")
    if p_tost < alpha:
        return EQUIVALENT
    return DIFFERENT if p < alpha else INCONCLUSIVE


def contrasts(
    records: pd.DataFrame,
    baseline: str = "bp",
    metric: str = "test_accuracy",
    margin: float = MARGIN,
    alpha: float = ALPHA,
    baseline_protocol: str | None = None,
) -> pd.DataFrame:
    """Every algorithm against the baseline, paired by seed on the same data, network and protocol.

    Args:
        records: as `bpfree.records` gives it; failed runs are left out, and a seed that ran on several
            devices counts once, by its mean.
        margin: differences up to this count as none, in the metric's unit.
        alpha: level of the verdict. p is corrected over all rows of the result (Holm); p_tost is not,
            because every row states its own equivalence.
        baseline_protocol: whose baseline runs are the partners of runs with a budget, "matched" and
            "equal_energy": the protocol under which BP spent it.

    Returns: a row per arm that has a partner. n: pairs; difference, sd, low, high: mean difference, its
    sample standard deviation and bootstrap interval; p, p_holm: paired t-test; p_tost; verdict. Where
    one pair, or no spread, allows no test there are NaN and "INCONCLUSIVE".

    Raises InvalidInput: no run of the baseline has the metric, or two runs of an arm have the same seed.
    """
    choose("algorithm", baseline, [*ARMS, *records["algorithm"].unique()])
    rows = records[(records["status"] == "finished") & (records["metric"] == metric)]
    if not (rows["algorithm"] == baseline).any():
        raise InvalidInput(
            f"no finished run of {baseline!r} has the metric {metric!r}: run the baseline, too"
        )
    keys = ["data", "architecture", "protocol", "algorithm"]
    arms = {arm: _by_seed(part) for arm, part in rows.groupby(keys, sort=False)}
    table = []
    for (data, architecture, protocol, algorithm), values in arms.items():
        partner = arms.get((data, architecture, protocol, baseline))
        if partner is None and protocol in BUDGETS:
            partner = arms.get((data, architecture, baseline_protocol, baseline))
        if algorithm == baseline or partner is None:
            continue
        try:
            differences = paired(values, partner)
        except InvalidInput as error:
            raise InvalidInput(
                f"{algorithm} against {baseline} on {data} {architecture}, {protocol}: {error}"
            ) from None
        if len(differences):
            found = describe(differences)
            p, p_tost = ttest(differences), tost(differences, margin)
            what = (data, architecture, protocol, algorithm, baseline)
            how_much = (found.n, found.mean, found.sd, found.low, found.high)
            table.append((*what, *how_much, p, math.nan, p_tost, ""))
    table = pd.DataFrame(table, columns=COLUMNS)
    table["p_holm"] = holm(table["p"])
    table["verdict"] = [verdict(p, q, alpha) for p, q in zip(table["p_holm"], table["p_tost"], strict=True)]
    return arranged(table, *keys).reset_index(drop=True)


def _by_seed(rows: pd.DataFrame) -> pd.Series:
    """The values by seed. Of a seed that ran on several devices their mean: it is still one seed."""
    if "device" in rows and not rows.duplicated(["seed", "device"]).any():
        return rows.groupby("seed")["value"].mean()
    return rows.set_index("seed")["value"]


def _values(values: Iterable[float]) -> np.ndarray:
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
