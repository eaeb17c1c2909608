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
    SIDES,
    at_equal_accuracy,
    comparable,
    in_passes,
    leads,
    means,
    to_target,
)
from .order import NETWORK
from .tables.text import listed, span


def in_words(points: pd.DataFrame, cost: str = "flop") -> dict[tuple[str, str], list[str]]:
    """By data and network, four whole sentences: what budgets buy, and what accuracies cost.

    Which side is ahead, for how much to spend; what the accuracy costs that every seed reaches; who gets to
    backpropagation at its best; and who, missing that, comes to within `stats.MARGIN` of it. A sentence is ""
    where there is nothing to say. Who is ahead is said of `frontier.comparable` arms.
    cost: of `COSTS`. Networks without backpropagation are left out.
    """
    compared = comparable(points)
    table, goals, equal = means(compared, cost), to_target(points, cost), at_equal_accuracy(points, cost)
    near, found = at_equal_accuracy(points, cost, stats.MARGIN), {}
    for network, arms in equal.groupby(NETWORK, sort=False):
        low = goals[(goals[NETWORK] == list(network)).all(axis=1) & (goals["target"] == ALL)]
        of_here = (compared[NETWORK] == list(network)).all(axis=1)
        tried = compared[of_here].groupby("algorithm")["passes"].max()
        here = table[(table[NETWORK] == list(network)).all(axis=1)]
        found[network] = [
            _of_budgets(here, tried, cost),
            _of_all(low, cost),
            _of_best(arms, tried, cost),
            _of_near(arms, near[(near[NETWORK] == list(network)).all(axis=1)], cost),
        ]
    return found


def _of_budgets(here: pd.DataFrame, tried: pd.Series, cost: str) -> str:
    ahead = who_is_ahead(here, cost)
    if not ahead:
        return ""
    top = here.loc[here["mean"].idxmax()]
    notes = [f"{top['mean']:.2f} % for {_amount(top['cost'], cost)}", f"n = {span(here['n'], 0)} each"]
    local = ~here["algorithm"].isin(BASELINES)
    if top["algorithm"] not in BASELINES:
        most = tried[tried.index.isin(BASELINES)].max()
        notes.append(f"backpropagation was tried with {in_passes(most)} at most")
    elif (most := here.loc[local, "cost"].max()) < top["cost"]:
        notes.append(f"local learning was tried up to {_amount(most, cost)}")
    most_accurate = f"{label(top['algorithm'])} with {in_passes(top['passes'])} ({'; '.join(notes)})"
    return f"{ahead[0].upper()}{ahead[1:]}. The highest mean is that of {most_accurate}."


def who_is_ahead(here: pd.DataFrame, cost: str) -> str:
    """As text, without a point behind it: for how much to spend which side is ahead, and by how much.

    here: of `frontier.means` the rows of one network. "" if the sides cannot be compared.
    """
    turns, said = leads(here), []
    if not turns:
        return ""
    where = f"from {_amount(turns[0].start, cost)}"
    first = here.loc[here["cost"].idxmin()]
    if _amount(first["cost"], cost) != _amount(turns[0].start, cost):
        alone = SIDES[first["algorithm"] not in BASELINES]
        said.append(f"below {_amount(turns[0].start, cost)} only {alone} can be had")
        where = "from there"
    for turn in turns:
        if turn.side == NEITHER and _amount(turn.start, cost) == _amount(turn.end, cost):
            continue
        by = f"more than {stats.MARGIN:g}" if turn.side == NEITHER else f"up to {turn.by:.2f}"
        said.append(f"{where} to {_amount(turn.end, cost)} {turn.side} is ahead by {by} points")
        where = "from there"
    return "; ".join(said)


def _amount(value: float, cost: str) -> str:
    rounded = float(f"{value / COSTS[cost].size:.2g}")  # two figures, and no power of ten
    return f"{rounded:g} {COSTS[cost].unit}"


def _of_all(goals: pd.DataFrame, cost: str) -> str:
    local = goals[~goals["algorithm"].isin(BASELINES)].dropna(subset="ratio")
    if local.empty:
        return ""
    return (
        f"What every seed of every algorithm reaches with some budget ({goals['accuracy'].iat[0]:.2f} % on "
        f"validation data) costs, compared with the cheapest backpropagation "
        f"({label(goals['baseline'].iat[0])}), {_prices(local, cost)}."
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
    missed = missed[~missed.isin(BASELINES)]
    if missed.empty:
        return ""
    there = near[near["algorithm"].isin(missed) & (near["ratio"] < math.inf)]
    own = near[near["algorithm"].isin(BASELINES)].dropna(subset="ratio").sort_values("ratio", kind="stable")
    if len(there):
        said = f"{'come' if len(there) > 1 else 'comes'} {_prices(there, cost, 'for ')}"
        said = f"{said}; so does {_prices(own[:1], cost, 'for ')}"
    else:
        alone = len(missed) == 1
        said = (
            f"{label(missed.iat[0])} does not come"
            if alone
            else f"comes none of {listed(map(label, missed))}"
        )
        said = f"{said}; {_prices(own[:1], cost, 'does, for ')}"
    return f"To within {stats.MARGIN:g} points of backpropagation's best on validation data {said}."


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
