"""What budgets bought and what targets cost, as sentences."""

import math

import pandas as pd

from ..algorithms.arms import label
from . import stats
from .frontier import (
    ALL,
    BASELINES,
    COSTS,
    NEITHER,
    at_equal_accuracy,
    budgeted,
    in_passes,
    leads,
    means,
    to_target,
)
from .order import NETWORK


def in_words(points: pd.DataFrame, cost: str = "flop") -> dict[tuple[str, str], list[str]]:
    """By data and network, four whole sentences: what budgets buy, and what accuracies cost.

    Which side is ahead, for how much to spend; what the accuracy costs that every run reaches; who gets to
    backpropagation at its best; and who, missing that, comes to within `stats.MARGIN` of it. A sentence is ""
    where there is nothing to say. All are of `frontier.budgeted` arms.
    cost: of `COSTS`. Networks without backpropagation are left out.
    """
    points = budgeted(points)
    table, goals, equal = means(points, cost), to_target(points, cost), at_equal_accuracy(points, cost)
    near, found = at_equal_accuracy(points, cost, stats.MARGIN), {}
    for network, arms in equal.groupby(NETWORK, sort=False):
        low = goals[(goals[NETWORK] == list(network)).all(axis=1) & (goals["target"] == ALL)]
        tried = points[(points[NETWORK] == list(network)).all(axis=1)].groupby("algorithm")["passes"].max()
        here = table[(table[NETWORK] == list(network)).all(axis=1)]
        found[network] = [
            _of_front(here.sort_values("cost"), tried, cost),
            _of_all(low, cost),
            _of_best(arms, tried, cost),
            _of_near(arms, near[(near[NETWORK] == list(network)).all(axis=1)], cost),
        ]
    return found


def _of_front(here: pd.DataFrame, tried: pd.Series, cost: str) -> str:
    ahead = who_is_ahead(here, cost, at=True)
    if not ahead:
        return ""
    top = here[here["front"]].iloc[-1]
    dearest = f"{label(top['algorithm'])} with {in_passes(top['passes'])}, {top['mean']:.2f} %"
    local = ~here["algorithm"].isin(BASELINES)
    if top["algorithm"] not in BASELINES:
        most = tried[tried.index.isin(BASELINES)].max()
        dearest = f"{dearest} (backpropagation was tried with {in_passes(most)} at most)"
    elif (most := here.loc[local, "cost"].max()) < top["cost"]:
        dearest = f"{dearest} (local learning was tried up to {_amount(most, cost)})"
    return f"{ahead[0].upper()}{ahead[1:]}. The most accurate is {dearest}."


def who_is_ahead(here: pd.DataFrame, cost: str, at: bool = False) -> str:
    """As text, without a point behind it: for how much to spend which side is ahead, and by how much.

    here: of `frontier.means` the rows of one network, by cost. at: whether amounts are said in passes, too.
    "" if one of the sides has no run.
    """

    def price(row: pd.Series) -> str:
        amount = _amount(row["cost"], cost)
        return f"{amount} ({in_passes(row['passes'])} of {label(row['algorithm'])})" if at else amount

    said, turns = [], leads(here)
    for i, turn in enumerate(turns):
        where = f"from {price(here.loc[turn.start])}"
        if i:
            where = "from there"
        where += f" to {price(here.loc[turns[i + 1].start])}" if i + 1 < len(turns) else " on"
        by = f"by {f'more than {stats.MARGIN:g}' if turn.side == NEITHER else f'up to {turn.by:.2f}'} points"
        comma = "" if turn.side == NEITHER else ","
        said.append(f"{where} {turn.side} is{comma} {by}" if i else f"{turn.side} is ahead {by} {where}")
    return "; ".join(said)


def _amount(value: float, cost: str) -> str:
    rounded = float(f"{value / COSTS[cost].size:.2g}")  # two figures, and no power of ten
    return f"{rounded:g} {COSTS[cost].unit}"


def _of_all(goals: pd.DataFrame, cost: str) -> str:
    local = goals[~goals["algorithm"].isin(BASELINES)].dropna(subset="ratio")
    if local.empty:
        return ""
    accuracy = f"{goals['accuracy'].iat[0]:.2f} % on validation data"
    return (
        f"What every run reaches ({accuracy}) costs, compared with the cheapest backpropagation, "
        f"{_prices(local, cost)}."
    )


def _of_best(arms: pd.DataFrame, tried: pd.Series, cost: str) -> str:
    first, local = arms.iloc[0], arms[~arms["algorithm"].isin(BASELINES)].dropna(subset="ratio")
    passes = first["baseline_passes"]
    most = ", the most that it was tried with" if passes == tried[first["baseline"]] else ""
    said, there = [], local[local["ratio"] < math.inf]
    if len(there):
        said.append(f"is reached by {_prices(there, cost, 'for ')}")
    missed = local.loc[local["ratio"] == math.inf, "algorithm"]
    for budget, names in missed.groupby(missed.map(tried)):
        said.append(f"is not reached by {', '.join(map(label, names))} in {in_passes(budget)}")
    best = (
        f"Backpropagation at its best on validation data, {label(first['baseline'])} with "
        f"{in_passes(passes)}{most} ({first['baseline_test']:.2f} % on the test data),"
    )
    return f"{best} {'; it '.join(said)}." if said else ""


def _of_near(arms: pd.DataFrame, near: pd.DataFrame, cost: str) -> str:
    missed = arms.loc[arms["ratio"] == math.inf, "algorithm"]
    there = near[near["algorithm"].isin(missed) & (near["ratio"] < math.inf)]
    if there.empty:
        return ""
    come = "comes" if len(there) == 1 else "come"
    within = f"{stats.MARGIN:g} points of backpropagation's best on validation data"
    return f"To within {within} {come} {_prices(there, cost, 'for ')}."


def _prices(rows: pd.DataFrame, cost: str, word: str = "") -> str:
    """Of these arms the ratios of costs, each with its n and interval."""
    said, what = [], f" the {COSTS[cost].name}"
    for row in rows.itertuples():
        ends = ["never" if end == math.inf else f"{end:.2f}" for end in (row.low, row.high)]
        interval = "" if math.isnan(row.low) else f", 95 % interval {' to '.join(ends)}"
        ratio = "never" if row.ratio == math.inf else f"**{row.ratio:.2f} times**{what}"
        said.append(f"{label(row.algorithm)} {word}{ratio} (n = {row.n}{interval})")
        what = ""  # once is enough
    return ", ".join(said)
