"""What budgets that were fixed in advance bought, and what a target costs: tables of `frontier.points`."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from ...algorithms.arms import label
from .. import frontier
from ..order import NETWORK, PLACE, arm_names, arranged, network_name
from ..runs import BUDGET_OF
from ..stats import MARGIN
from .text import Quantity

COSTS = frontier.COSTS
RIVAL = "cheapest BP"


def at_best(points: pd.DataFrame) -> pd.DataFrame:
    """Every arm at the budget that validates best: what it reached there, by which settings, and the cost.

    Columns: network, algorithm, passes, learning rate and weight decay, test accuracy (%) and that by all
    layers, then the costs that are known: of runs that had their machine to themselves, gross.
    """
    rows = []
    bills = {cost: frontier.bill(points, cost) for cost in COSTS}
    for place, runs in frontier.best(points):
        first = runs.iloc[0]
        row = arm_names(*place) | {
            "passes": first["passes"],
            "learning rate": f"{first['lr']:.2g}",
            "weight decay": f"{first['weight_decay']:.2g}",
            "test accuracy (%)": Quantity.of(runs["test_accuracy"], 2),
            "by all layers (%)": Quantity.of(runs["test_accuracy[sum]"], 2),
        }
        for cost, of in COSTS.items():
            paid = bills[cost].get((*place, first["passes"]), math.nan)
            row[f"{of.name} ({of.unit})"] = _rounded(paid / of.size)
        rows.append(row)
    return _without_blanks(pd.DataFrame(rows))


def beside_patience(points: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Every arm at its best budget beside itself trained until it stopped improving, where both were run.

    Columns: network, algorithm; passes, test accuracy (%) and operations (TFLOP, see `frontier.COSTS`) where
    passes were fixed; settings, test accuracy and operations, counted alike, where training ended by itself.

    runs: as `Ours.runs` has them; of several sets of settings of an arm those that most runs had, and of a
    seed on several devices the mean.
    """
    of, rows = COSTS["flop"], []
    bill = frontier.bill(points, "flop")
    runs = runs[runs["protocol"] == BUDGET_OF]
    for place, fixed in frontier.best(points):
        own = runs[(runs[PLACE] == list(place)).all(axis=1)]
        if own.empty:
            continue
        own = own[own["settings"] == own["settings"].mode().iat[0]]
        spent = own["train_flop"] + own["prefix_flop"].fillna(0.0)
        until = own.assign(spent=spent).groupby("seed")[["test_accuracy", "spent"]].mean()
        passes = fixed["passes"].iat[0]
        rows.append(
            arm_names(*place)
            | {
                "passes, fixed": passes,
                "test accuracy (%), fixed": Quantity.of(fixed["test_accuracy"], 2),
                f"{of.name} ({of.unit}), fixed": _rounded(bill[(*place, passes)] / of.size),
                "settings until it stops": own["settings"].iat[0],
                "test accuracy (%), until it stops": Quantity.of(until["test_accuracy"], 2),
                f"{of.name} ({of.unit}), until it stops": _rounded(until["spent"].mean() / of.size),
            }
        )
    return pd.DataFrame(rows)


def by_budget(points: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy (%) by passes: a row for each arm, a column for each budget, mean ± sd over seeds.

    Of `frontier.with_budget` arms.

    Columns: network, algorithm, seeds (the most that a budget of the row has), then the budgets; a cell of
    fewer seeds says of how many.
    """
    rows, points = [], frontier.with_budget(points)
    for place, runs in arranged(points, *PLACE, "passes").groupby(PLACE, sort=False):
        cells = {n: Quantity.of(of["test_accuracy"], 2) for n, of in runs.groupby("passes")}
        most = max(cell.n for cell in cells.values())
        cells = {n: replace(cell, n=cell.n if cell.n < most else 0) for n, cell in cells.items()}
        row = arm_names(*place) | {"seeds": most}
        rows.append(row | {frontier.in_passes(n): cell for n, cell in cells.items()})
    budgets = map(frontier.in_passes, sorted(points["passes"].unique()))
    return pd.DataFrame(rows, columns=["network", "algorithm", "seeds", *budgets]).fillna("")


def solved(points: pd.DataFrame) -> pd.DataFrame:
    """What is solved in closed form, beside the most accurate that costs no more.

    Columns: network, algorithm, test accuracy (%), operations (TFLOP); for as much or less: the arm and
    budget with the highest mean test accuracy of the `frontier.with_budget` ones, and that; "" if all cost
    more.
    """
    of, rows = COSTS["flop"], []
    means = frontier.means(points, "flop")
    others = frontier.with_budget(means)
    for row in means.drop(others.index).itertuples():
        place = (others[NETWORK] == [row.data, row.architecture]).all(axis=1)
        rivals = others[place & (others["cost"] <= row.cost)].sort_values("mean")
        accuracies = points[(points[PLACE] == [row.data, row.architecture, row.algorithm]).all(axis=1)]
        found = arm_names(row.data, row.architecture, row.algorithm) | {
            "test accuracy (%)": Quantity.of(accuracies["test_accuracy"], 2),
            f"{of.name} ({of.unit})": _rounded(row.cost / of.size),
            "for as much or less": "",
        }
        if len(rivals):
            rival = rivals.iloc[-1]
            found["for as much or less"] = (
                f"{label(rival['algorithm'])}, {frontier.in_passes(rival['passes'])}: {rival['mean']:.2f} %"
            )
        rows.append(found)
    return pd.DataFrame(rows)


def to_target(points: pd.DataFrame) -> pd.DataFrame:
    """What it costs to reach each target of `frontier.targets`, by arm.

    Columns: network, target, its validation accuracy (%), algorithm, n (seeds), never (how many of them miss
    it at every budget), passes; then for every cost that is known the median over seeds, a miss being
    infinite ("-"), and its ratio to the cheapest arm of backpropagation with the ratio's 95 % interval.
    """
    tables = {cost: frontier.to_target(points, cost) for cost in COSTS if len(frontier.bill(points, cost))}
    rows = []
    for parts in zip(*(table.itertuples(index=False) for table in tables.values()), strict=True):
        first = parts[0]
        row = {
            "network": network_name(first.data, first.architecture),
            "target": first.target,
            "validation (%)": f"{first.accuracy:.2f}",
            "algorithm": label(first.algorithm),
            "n": first.n,
            "never": first.misses or "",
            "passes": _rounded(first.passes),
        }
        for cost, part in zip(tables, parts, strict=True):
            of = COSTS[cost]
            row[f"{of.name} ({of.unit})"] = _rounded(part.cost / of.size)
            row[f"{of.name} (× {RIVAL})"] = ratio_with_interval(part.ratio, part.low, part.high)
        rows.append(row)
    return _without_blanks(pd.DataFrame(rows))


def at_equal_accuracy(points: pd.DataFrame) -> pd.DataFrame:
    """What is spent to be as accurate as backpropagation at its best, of `frontier`'s function.

    Columns: network, algorithm, n (seeds), what backpropagation is at its best and its mean validation
    accuracy, within how many points of it the algorithm is to be, the passes that it needs for that, and for
    every cost that is known their ratio, with its 95 % interval if there are seeds enough for one. Within
    some points, backpropagation's own cheapest arm has a row, too.
    """
    parts = [_equal(points, margin) for margin in (0.0, MARGIN)]
    return pd.concat(parts, ignore_index=True).fillna("")


def _equal(points: pd.DataFrame, margin: float) -> pd.DataFrame:
    tables = {
        c: frontier.at_equal_accuracy(points, c, margin) for c in COSTS if len(frontier.bill(points, c))
    }
    if not tables:
        return pd.DataFrame()
    rows, by_ratio = [], next(iter(tables.values())).sort_values("ratio", kind="stable")
    own = by_ratio[by_ratio["algorithm"].isin(frontier.BASELINES)]
    cheapest = own.groupby(NETWORK)["algorithm"].first()
    for parts in zip(*(table.itertuples(index=False) for table in tables.values()), strict=True):
        first = parts[0]
        if first.algorithm in frontier.BASELINES and (not margin or first.algorithm != cheapest[first[:2]]):
            continue  # without a margin it is as accurate as itself
        best = f"{label(first.baseline)}, {first.baseline_passes} passes: {first.accuracy:.2f} %"
        row = arm_names(first.data, first.architecture, first.algorithm) | {
            "n": first.n,
            "backpropagation at its best (validation)": best,
            "within (points)": f"{margin:g}",
            "passes for that": _rounded(first.passes),
        }
        for cost, part in zip(tables, parts, strict=True):
            what = COSTS[cost].name
            row[f"{what} (× that)"] = ratio_with_interval(part.ratio, part.low, part.high)
        rows.append(row)
    return _without_blanks(pd.DataFrame(rows))


def ratio_with_interval(ratio: float, low: float, high: float) -> str:
    """As text: "0.42 (0.40 to 0.80)"; "not reached" if it is infinite; "" if it is not known."""
    if math.isnan(ratio):
        return ""
    text = "not reached" if ratio == math.inf else f"{ratio:.2f}"
    if math.isnan(low) or low == math.inf:
        return text
    ends = ["∞" if end == math.inf else f"{end:.2f}" for end in (low, high)]
    return text if ends[0] == ends[1] == text else f"{text} ({ends[0]} to {ends[1]})"


def _rounded(value: float) -> str:
    """To three figures, never in powers of ten; "-" if it is infinite."""
    if math.isnan(value):
        return ""
    return "-" if value == math.inf else np.format_float_positional(float(f"{value:.3g}"), trim="-")


def _without_blanks(table: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that say nothing of any row."""
    return table[[c for c in table if table[c].map(bool).any()]]
