"""What is left of each published claim: it stands, moves or turns, or nobody can tell yet.

A claim is a direction: of one number of an algorithm against that of BP on the same network. It is judged by
our runs, seed by seed, and by the printed size where there is one.

    stands      the 95 % interval of our mean lies on the claimed side, and our effect is neither less than
                half nor more than twice the printed one
    moves       it lies on that side, but the effect is of another size; or the two are equivalent in accuracy
    turns       it lies on the other side
    undecided   it lies on both sides, or there are too few seeds for an interval
    untested    not run

Every claim is judged for itself: what many of them together may owe to chance is corrected for in
`stats.contrasts`, not here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from ..algorithms.arms import look
from ..errors import choose
from .runs import COMPARISONS, Number, Ours
from .stats import MARGIN
from .tables.paper import MEMORY, USUAL, Compared, arms
from .tables.text import Quantity

VERDICTS = ("stands", "moves", "turns", "undecided", "untested")
NEUTRAL = {"difference": 0.0, "change": 0.0, "percent": 100.0, "ratio": 1.0}
UNITS = {"difference": "pp", "change": "%", "ratio": "×"}
DIGITS = {"difference": 2, "change": 1, "ratio": 2}
FACTOR = 2.0  # an effect of less than 1/FACTOR or more than FACTOR times the printed one is of another size


@dataclass(frozen=True)
class Claim:
    """A published statement about one algorithm and BP.

    Attributes:
        text: the statement.
        source: "thesis" (arXiv 2509.19063) or "2026" (its authors' camera-ready).
        algorithm: in this package's name.
        metric, how: which number and how it is compared: "difference", "change" (%) or "ratio".
        more: whether the claim is that the algorithm has more of it than BP, or less.
    """

    text: str
    source: str
    algorithm: str
    metric: str
    how: str
    more: bool


CLAIMS = (
    Claim("MF is more accurate than BP", "thesis", "mf", "test_accuracy", "difference", more=True),
    Claim("MF ends at a lower validation loss", "thesis", "mf", "val_loss", "difference", more=False),
    Claim("MF takes less energy", "thesis", "mf", "total_j", "change", more=False),
    Claim("MF takes less time", "thesis", "mf", "total_s", "change", more=False),
    Claim("MF does not save memory", "thesis", "mf", "memory", "change", more=True),
    Claim("MF takes several times the energy", "2026", "mf", "total_j", "ratio", more=True),
    Claim("FF takes more energy", "thesis", "ff", "total_j", "ratio", more=True),
    Claim("FF is less accurate", "thesis", "ff", "test_accuracy", "difference", more=False),
    Claim("CaFo-Rand takes more energy", "thesis", "cafo_rand", "total_j", "ratio", more=True),
    Claim("CaFo-Rand is less accurate", "thesis", "cafo_rand", "test_accuracy", "difference", more=False),
    Claim("CaFo-DFA takes more energy", "thesis", "cafo_dfa", "total_j", "ratio", more=True),
)


def verdicts(
    records: pd.DataFrame, protocols: Sequence[str] = ("convergence",), claims: Iterable[Claim] = CLAIMS
) -> pd.DataFrame:
    """Every claim on every network, as printed and as found under each of our protocols.

    Args:
        records: as `bpfree.records` gives it.
        protocols: of ours.

    Returns: a row per claim, network and protocol: claim, source, network, printed, ours ("mean ± sd"),
        seeds, `ours is` (how it was obtained), our protocol, machine (of costs, which are apart), verdict.
    """
    ours = Ours(records)
    rows = []
    for claim in claims:
        choose("source of claims", claim.source, USUAL)
        for protocol in protocols:
            family = look(claim.algorithm).family
            for arm in arms(ours, [family], claim.source, our_protocol=protocol):
                if arm.algorithm != claim.algorithm:
                    continue
                printed = _printed(claim, arm)
                for number in ours.comparison(claim.metric, claim.how, arm.runs, arm.bp):
                    rows.append(
                        {
                            "claim": claim.text,
                            "source": claim.source,
                            "network": arm.network,
                            "printed": _cell(printed, math.nan, claim),
                            "ours": _cell(number.mean, number.sd, claim),
                            "seeds": number.n,
                            "ours is": number.what.partition(":")[0],
                            "our protocol": protocol,
                            "machine": number.machine,
                            "verdict": judge(claim, printed, number),
                        }
                    )
    return pd.DataFrame(rows)


def judge(claim: Claim, printed: float, ours: Number) -> str:
    """The verdict; printed: NaN where no size was printed."""
    if not ours.n:
        return "untested"
    if ours.n < 2:
        return "undecided"
    if claim.metric == "test_accuracy":  # TOST at 5 %: the 90 % interval lies within the margin
        low, high = t_interval(ours, 0.90)
        if low > -MARGIN and high < MARGIN:
            return "moves"
    neutral = NEUTRAL[claim.how]
    low, high = t_interval(ours)
    if low <= neutral <= high:
        return "undecided"
    if (ours.mean > neutral) != claim.more:
        return "turns"
    size = effect(ours.mean, claim.how) / effect(printed, claim.how) if not math.isnan(printed) else 1.0
    # What was printed with the other sign has no size on this side.
    return "stands" if 1 / FACTOR <= size <= FACTOR else "moves"


def _printed(claim: Claim, arm: Compared) -> float:
    """The comparison of the printed means; NaN if there are none."""
    metric = MEMORY[claim.source][0] if claim.metric == "memory" else claim.metric
    if metric not in arm.printed or metric not in arm.printed_bp:
        return math.nan
    return COMPARISONS[claim.how](arm.printed[metric].mean, arm.printed_bp[metric].mean)


def _cell(mean: float, sd: float, claim: Claim) -> Quantity:
    unit = "nats" if claim.metric == "val_loss" else UNITS[claim.how]
    return Quantity(mean, sd, DIGITS[claim.how], sign=claim.how != "ratio", note=unit)


def effect(value: float, how: str) -> float:
    """How far from no effect, on a scale on which twice as far is twice the effect."""
    if how == "change":
        value = 1 + value / 100
    return value if how == "difference" else math.log(max(value, 1e-12))


def t_interval(number: Number, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean over seeds."""
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, number.n - 1) * number.sd / math.sqrt(number.n)
    return number.mean - half, number.mean + half
