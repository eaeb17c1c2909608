"""What a joule buys: who is ahead for how much to spend, and what backpropagation's best accuracy costs."""

import math
from typing import NamedTuple

import pandas as pd

from ...algorithms.arms import label
from ...errors import choose
from .. import frontier
from ..frontier import ALL, BASELINES, COSTS, SIDES, Lead, in_passes
from ..order import NETWORK, PLACE, network_name
from ..stats import MARGIN
from .budgets import ratio_with_interval
from .text import span

NOWHERE, MISSED, UNKNOWN = "nowhere", "not reached", "not known"


LEADS = ("BP ahead by (points)", "MF ahead by (points)")


class Buys(NamedTuple):
    """What budgets bought on one network, backpropagation against local learning, in words.

    Each side is the best of its arms. Where its best is the most passes that this arm was tried with, it says
    so, for more might be better still. A ratio has its 95 % interval if there are seeds enough for one.

    Attributes:
        n: the seeds.
        best: of each side the test accuracy (%) of the arm and budget that validate best in the mean.
        ahead: of each side for how much to spend it is ahead by more than `stats.MARGIN` points, and by how
            much at most, by `frontier.leads`.
        most: of each side this most in points, 0.0 where it is nowhere ahead.
        compared: from where to where both have a budget.
        tried: of each side with how many passes each of its arms was tried: what was not is not judged.
        equal: what the cheapest local arm spends to be as accurate as backpropagation's best, as a ratio;
        near: or less accurate by `stats.MARGIN` points at most, and the cheapest arm of backpropagation
            beside it, which may give these up, too; both by `frontier.at_equal_accuracy`.
        low: what it spends for the accuracy that every seed of every arm reaches, as a ratio to the cheapest
            arm of backpropagation, by `frontier.to_target`.
    """

    n: str
    best: tuple[str, str]
    ahead: tuple[str, str]
    most: tuple[float, float]
    compared: str
    tried: tuple[str, str]
    equal: str
    near: str
    low: str


def bought(points: pd.DataFrame, cost: str = "flop") -> dict[str, Buys]:
    """By network what budgets bought; points: as `frontier.points` gives them; cost: of `frontier.COSTS`.

    Networks are left out of which the cost is not known, and those on which only one of the sides was run.
    """
    choose("cost", cost, COSTS)
    if points.empty:
        return {}
    compared = frontier.comparable(points)
    means = frontier.means(compared, cost)
    exactly, nearly = (frontier.at_equal_accuracy(points, cost, margin) for margin in (0.0, MARGIN))
    goals = frontier.to_target(points, cost)
    goals = goals[goals["target"] == ALL].merge(compared[PLACE].drop_duplicates())
    reached = compared.assign(val_accuracy=compared["val_accuracy"].fillna(-math.inf))  # diverged: nothing
    by_budget = reached.groupby([*PLACE, "passes"])[["val_accuracy", "test_accuracy"]].mean().round(9)
    by_budget = by_budget.reset_index()
    largest, found = by_budget.groupby(PLACE)["passes"].max(), {}
    for network, here in means.groupby(NETWORK, sort=False):
        turns = frontier.leads(here)
        if not turns:
            continue
        best, equal, near, low = (
            _sides(table[(table[NETWORK] == list(network)).all(axis=1)])
            for table in (by_budget, exactly, nearly, goals)
        )
        found[network_name(*network)] = Buys(
            n=span(here["n"], 0),
            best=tuple(_at_best(side, largest) for side in best),
            ahead=tuple(_ahead(turns, side, cost) or NOWHERE for side in SIDES),
            most=tuple(most(turns, side) for side in SIDES),
            compared=f"{_amount(turns[0].start, cost)} to {_amount(turns[-1].end, cost)} {COSTS[cost].unit}",
            tried=tuple(map(_passes, best)),
            equal=_cheapest(equal[1]),
            near="; ".join(_cheapest(side) for side in reversed(near)),
            low=f"{_cheapest(low[1])}, for {low[1]['accuracy'].iat[0]:.2f} % on validation data",
        )
    return found


def what_a_joule_buys(points: pd.DataFrame, cost: str = "flop") -> pd.DataFrame:
    """`bought` as a table with everything in it: a row for each question, a column for each network."""
    buys = bought(points, cost)
    name = COSTS[cost].name
    times = f"(× the {name} of that best)"
    questions = [
        *(f"{side} at its best on validation data: test accuracy (%)" for side in SIDES),
        *(f"{side} is ahead by more than {MARGIN:g} points" for side in SIDES),
        "both were tried from",
        *(f"{side} was tried with (passes)" for side in SIDES),
        f"to be as accurate on validation data as backpropagation's best, local learning needs {times}",
        f"to come within {MARGIN:g} points of it {times}",
        f"to reach what every seed reached (× the {name} of the cheapest backpropagation)",
    ]
    columns = {
        f"{network}, n = {of.n}": [*of.best, *of.ahead, of.compared, *of.tried, of.equal, of.near, of.low]
        for network, of in buys.items()
    }
    return pd.DataFrame(columns, questions).rename_axis("").reset_index()


def for_as_many_joules(points: pd.DataFrame, passes: pd.DataFrame) -> pd.DataFrame:
    """Mono-Forward in sequence against plain backpropagation, for as many operations and for as many joules.

    A row for each network of which a pass of both was measured; the joules are the projection of
    `frontier.in_joules`. Columns: network, seeds, runs (of which a pass's joules are the mean); for either
    cost what Mono-Forward's pass takes as a ratio to backpropagation's, and who is ahead by more than
    `stats.MARGIN` points, for how much, by how much at most; last, for as many joules, these most as numbers
    (`LEADS`), 0.0 where that is nowhere.
    """
    pair = ["bp", "mf"]
    points = points[points["algorithm"].isin(pair)]
    projected = frontier.in_joules(points, passes)
    projected = projected[projected.groupby(NETWORK)["algorithm"].transform("nunique") == len(pair)]
    runs, rows = passes[passes["algorithm"].isin(pair)].groupby(NETWORK)["n"].min(), []
    tables = {
        ("operations", "TFLOP"): frontier.means(frontier.comparable(points), "flop"),
        ("joules", "J"): frontier.means(frontier.comparable(projected), "measured_j"),
    }
    for network, last in tables["joules", "J"].groupby(NETWORK, sort=False):
        row = {"network": network_name(*network), "seeds": span(last["n"], 0), "runs": runs[network]}
        for (name, unit), means in tables.items():
            own = means[(means[NETWORK] == list(network)).all(axis=1)]
            turns = frontier.leads(own)
            a_pass = (own["cost"] / own["passes"]).groupby(own["algorithm"]).median()
            row[f"{name} of a pass (× BP's)"] = a_pass["mf"] / a_pass["bp"]
            row[f"ahead for as many {name}"] = _turns_of(turns, unit)
        rows.append(row | {name: most(turns, side) for name, side in zip(LEADS, SIDES, strict=True)})
    return pd.DataFrame(rows)


def _turns_of(turns: list[Lead], unit: str) -> str:
    """Who of the two is ahead, from the cheapest on: "MF from 360 to 7300 J (by up to 1.71 points)"."""
    size = COSTS["flop"].size if unit == COSTS["flop"].unit else 1.0
    names = dict(zip(SIDES, (label("bp"), label("mf")), strict=True))
    said = [
        f"{names[turn.side]} from {_two_figures(turn.start / size)} to {_two_figures(turn.end / size)} "
        f"{unit} (by up to {turn.by:.2f} points)"
        for turn in turns
        if turn.side in names
    ]
    return "; ".join(said) or "neither"


def at_a_glance(buys: dict[str, Buys], cost: str = "flop") -> pd.DataFrame:
    """The heart of what `bought` found: a row for each network."""
    bp, local = SIDES
    answers = [
        f"{bp}'s best accuracy (%)",
        f"{local}'s best accuracy (%)",
        f"as accurate on validation data as {bp}'s best, {local} needs (× its {COSTS[cost].name})",
        f"within {MARGIN:g} points of it, both need",
        "both were tried from",
        f"{local} is ahead",
        f"{bp} is ahead",
    ]
    rows = {
        f"{at}, n = {of.n}": [*of.best, of.equal, of.near, of.compared, *reversed(of.ahead)]
        for at, of in buys.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=answers).rename_axis("network").reset_index()


def _sides(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of backpropagation, and of local learning."""
    local = ~table["algorithm"].isin(BASELINES)
    return table[~local], table[local]


def _at_best(side: pd.DataFrame, most: pd.Series) -> str:
    best = side.loc[side["val_accuracy"].idxmax()]
    more = ", the most tried" if best["passes"] == most[tuple(best[PLACE])] else ""
    return f"{best['test_accuracy']:.2f} ({label(best['algorithm'])}, {in_passes(best['passes'])}{more})"


def _passes(side: pd.DataFrame) -> str:
    """Of each arm of a side the budgets that it was tried with: "BP 1 to 64; BP-DS 1 to 16"."""
    arms = side.groupby("algorithm", sort=False)["passes"]
    return "; ".join(f"{label(name)} {span(budgets, 0)}" for name, budgets in arms)


def most(turns: list[Lead], side: str) -> float:
    """By how many points a side is ahead at most, 0.0 where it is nowhere ahead."""
    return max((turn.by for turn in turns if turn.side == side), default=0.0)


def _ahead(turns: list[Lead], side: str, cost: str) -> str:
    return "; ".join(
        f"{_amount(turn.start, cost)} to {_amount(turn.end, cost)} {COSTS[cost].unit} "
        f"(by up to {turn.by:.2f} points)"
        for turn in turns
        if turn.side == side
    )


def _amount(value: float, cost: str) -> str:
    return _two_figures(value / COSTS[cost].size)


def _two_figures(value: float) -> str:
    """In no power of ten."""
    return f"{float(f'{value:.2g}'):g}"


def _cheapest(side: pd.DataFrame) -> str:
    """The smallest ratio of costs of these arms, and whose it is: "0.79 (0.40 to 1.59) by MF"."""
    if side["ratio"].isna().all():
        return UNKNOWN
    row = side.loc[side["ratio"].idxmin()]
    if row["ratio"] == math.inf:
        return MISSED
    return f"{ratio_with_interval(row['ratio'], row['low'], row['high'])} by {label(row['algorithm'])}"
