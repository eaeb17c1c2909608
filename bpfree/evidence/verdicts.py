"""What our runs say of each published number that compares an algorithm with BP.

A claim is a printed number with its sign, of one algorithm on one network against BP there, and no more than
its source printed (one was made in words alone). It is judged by our runs, seed by seed, with the inference
of `stats.contrasts`:

    confirmed   ours lies surely on the printed side, and is neither less than half nor more than twice as far
                from no effect
    weaker, stronger    it lies on that side, but nearer or further
    equivalent  of an accuracy: ours is surely smaller than the margin
    reversed    it lies surely on the other side
    undecided   it lies surely on neither
    one run     a single pair decides nothing
    untested    not run; or ours is another quantity than the printed one

"Surely" is by the paired t-test, corrected (Holm) over all contrasts of the same metric under one protocol.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ..algorithms.arms import label
from ..experiments.protocols import BUDGETS
from .order import PLACE, network_name
from .runs import ACCOUNT, TOTALS, whose_settings
from .stats import ALPHA, EFFECTS, EQUIVALENT, KINDS, ONE_RUN, SHOWN, UNDECIDED, compared, contrasts
from .tables.paper import MEMORY, PLACES, USUAL_PROTOCOL, printed_numbers
from .tables.text import Quantity

FACTOR = 2.0  # an effect of less than 1/FACTOR or more than FACTOR times the printed one is of another size
UNTESTED = "untested"
ANOTHER = "untested: another quantity"


@dataclass(frozen=True)
class Claim:
    """What a source may have printed of an algorithm and of BP: a quantity, and how the two compare."""

    quantity: str
    how: str
    ours: tuple[str, ...]  # metrics of our runs, the first that an arm and its baseline have on a machine


CLAIMS = {
    "test_accuracy": Claim("accuracy", "difference", ("test_accuracy",)),
    "val_loss": Claim("validation loss", "difference", ("val_loss",)),
    "total_j": Claim("energy", "change", tuple(TOTALS.values())),
    "total_s": Claim("time", "change", ("total_s",)),
    "memory": Claim("memory", "change", ("memory_bytes",)),
}
#: What a source said without a number, by metric: of which algorithm, and the sign of its effect.
IN_WORDS = {"val_loss": ("thesis", "mf", -1)}
EFFECT_UNITS = {"difference": "pp", "change": "%"}
OBTAINED = {**{total: kind for kind, total in TOTALS.items()}, "memory_bytes": ACCOUNT}
ALGORITHMS = ("mf", "ff", "ff_sgd", "cafo_rand", "cafo_dfa")  # whose numbers the papers' conclusions are of


def verdicts(
    records: pd.DataFrame,
    protocols: Sequence[str] = ("convergence",),
    *,
    metrics: Sequence[str] = tuple(CLAIMS),
    untested: bool = False,
) -> pd.DataFrame:
    """Every printed comparison with BP, and what was found under each of our protocols.

    Args:
        records: as `bpfree.records` gives it.
        protocols: of ours, to be shown.
        metrics: of `CLAIMS`.
        untested: also what no run of ours can be put beside.

    Returns: a row per algorithm, quantity, network, protocol of ours and, of costs, machine: claim, network,
        our protocol, settings (those of BP, too), device; what each source printed; ours (mean and n), its
        95 % interval, `ours is` (how it was obtained), how many runs of both ended at the cap; the contrast
        in the words of `stats.contrasts`; the verdict on each source.
    """
    found = {metric: _found(records, metric, protocols) for metric in metrics}
    rows: dict[tuple, dict] = {}
    for claim in _claims(metrics):
        place = tuple(claim[column] for column in PLACE)
        ours = found[claim["metric"]].get(place, [{}] * untested)
        for number, contrast in enumerate(ours):
            row = rows.setdefault((claim["metric"], *place, number), _row(claim, contrast))
            row[f"printed, {claim['source']}"] = _printed_effect(claim)
            row[f"verdict, {claim['source']}"] = _judged(claim, contrast)
    return pd.DataFrame(rows.values(), columns=VERDICT_COLUMNS, dtype=object).fillna("")


def told(found: pd.DataFrame, claim: str) -> str:
    """What was found of a claim of `verdicts`, in words: every network's number, interval and contrast."""
    said = []
    for row in found[found["claim"] == claim].to_dict("records"):
        where = ", ".join(filter(None, [row["network"], row["device"], row["ours is"]]))
        interval = f", {row['95 %']}" if row["95 %"] else ""
        said.append(f"{where}: {row['ours']}{interval}, {row['contrast']}")
    return "; ".join(said)


def counted(words: pd.Series) -> str:
    """How often each verdict or word of a contrast occurs, the commonest first: "3 undecided, 1 lower"."""
    known = words[words != ""].value_counts()
    return ", ".join(f"{n} {word}" for word, n in known.items())


VERDICT_COLUMNS = ["claim", "network", "our protocol", "settings", "device"]
VERDICT_COLUMNS += [f"printed, {source}" for source in USUAL_PROTOCOL]
VERDICT_COLUMNS += ["ours", "95 %", "ours is", "at the cap", "contrast"]
VERDICT_COLUMNS += [f"verdict, {source}" for source in USUAL_PROTOCOL]


def judge(printed: float, n: int, effect: float, p_holm: float, p_tost: float = math.nan) -> str:
    """The verdict on a printed effect, from our contrast; effects are 0 where the two are alike."""
    if n < 2:
        return ONE_RUN if n else UNTESTED
    if p_tost < ALPHA:
        return EQUIVALENT
    if not p_holm < ALPHA:
        return UNDECIDED
    if (effect > 0) != (printed > 0):
        return "reversed"
    if abs(effect) < abs(printed) / FACTOR:
        return "weaker"
    return "stronger" if abs(effect) > abs(printed) * FACTOR else "confirmed"


def _found(records: pd.DataFrame, metric: str, protocols: Sequence[str]) -> dict[tuple, list[dict]]:
    """Our contrasts of a printed quantity, by place: costs under rules of stopping, since a budget sets them.

    Energy is measured where a machine measured it; bytes are counted, so that every machine has the same.
    """
    claim, tables = CLAIMS[metric], []
    for name in claim.ours:
        rows = records[records["metric"] == name]
        if (rows["algorithm"] == "bp").any():
            own = contrasts(records, metric=name, how=claim.how, baseline_protocol="convergence")
            device = rows.dropna(subset="machine").drop_duplicates("machine").set_index("machine")["device"]
            tables.append(own.assign(ours=name, device=own["machine"].map(device)))
    if not tables:
        return {}
    table = pd.concat(tables, ignore_index=True)
    of_bp = table.assign(algorithm=table["baseline"], settings=table["baseline_settings"])
    table = table.assign(whose=whose_settings(table), whose_bp=whose_settings(of_bp))
    if metric not in ("test_accuracy", "val_loss"):
        table = table[~table["protocol"].isin(BUDGETS)]
    place = [*PLACE, *KINDS, "machine"]
    if metric == "memory":
        table, place = table.assign(device="", verdict=""), [*PLACE, "protocol"]
    table = table[table["protocol"].isin(protocols)].drop_duplicates(place)
    return {place: part.to_dict("records") for place, part in table.groupby(PLACE)}


def _claims(metrics: Sequence[str]) -> Iterator[dict]:
    """What was printed of an algorithm and of BP on its network."""
    for metric, algorithm, source in itertools.product(metrics, ALGORITHMS, USUAL_PROTOCOL):
        in_words = IN_WORDS.get(metric, ())[:2] == (source, algorithm)
        name = MEMORY[source][0] if metric == "memory" else "test_accuracy" if in_words else metric
        printed = printed_numbers(source)
        for (protocol, *network, who), numbers in printed.items():
            if (protocol, who) == (USUAL_PROTOCOL[source], algorithm) and name in numbers:
                bp = printed[protocol, *network, "bp"][name]
                means = None if in_words else (numbers[name].mean, bp.mean)
                place = dict(zip(PLACE, (*network, who), strict=True))
                yield {**place, "metric": metric, "source": source, "means": means}


def _printed_effect(claim: dict) -> Quantity | str:
    how = CLAIMS[claim["metric"]].how
    if claim["means"] is None:
        return "lower, in words" if IN_WORDS[claim["metric"]][2] < 0 else "higher, in words"
    return Quantity(compared(how, *claim["means"]), places=PLACES[how], sign=True, note=EFFECT_UNITS[how])


def _judged(claim: dict, ours: dict) -> str:
    if not ours:
        return UNTESTED
    if claim["metric"] == "memory":
        return ANOTHER
    if claim["means"] is None:  # of whatever size
        printed = math.copysign(ours["difference"], IN_WORDS[claim["metric"]][2])
    else:
        printed = float(EFFECTS[CLAIMS[claim["metric"]].how](*claim["means"]))
    return judge(printed, ours["n"], ours["difference"], ours["p_holm"], ours["p_tost"])


def _row(claim: dict, ours: dict) -> dict:
    """What is the same for all sources."""
    metric, how = claim["metric"], CLAIMS[claim["metric"]].how
    row = {
        "claim": f"{label(claim['algorithm'])}, {CLAIMS[metric].quantity}",
        "network": network_name(claim["data"], claim["architecture"]),
    }
    if not ours:
        return row
    style = {"places": PLACES.get(metric, PLACES[how]), "sign": True}
    mean, low, high = (float(SHOWN[how](ours[e])) for e in ("difference", "low", "high"))
    ends = [str(Quantity(end, **style)) for end in (low, high)]
    unit = "nats" if metric == "val_loss" else EFFECT_UNITS[how]
    return row | {
        "our protocol": ours["protocol"],
        "settings": f"{ours['whose']}; BP: {ours['whose_bp']}",
        "device": ours["device"],
        "ours": Quantity(mean, **style, note=unit, n=ours["n"]),
        "95 %": " to ".join(filter(None, ends)),
        "ours is": OBTAINED.get(ours["ours"], ""),
        "at the cap": ours["at_cap"],
        "contrast": ours["verdict"],
    }
