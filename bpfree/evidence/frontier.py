"""What a budget that was fixed in advance bought: a row per run under the protocol "frontier".

`figures/data/frontier.csv` has these rows of the committed runs, `frontier_trials.csv` those of the search.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..algorithms.arms import ordered
from ..errors import InvalidInput
from ..experiments import protocols, store
from ..experiments.experiment import Experiment
from ..experiments.store import Record
from ..experiments.study import SOLVED
from ..tuning.budget import with_passes
from . import stats
from .evidence import FOLDER, keep_machines, read_table, stacked, write_table
from .order import NETWORK, PLACE, arranged
from .runs import BUDGET_OF

WHO = [*PLACE, "passes", "seed"]
SETTINGS = ["lr", "weight_decay", "aux_weight", "stage_ratio", "freeze_from"]
SCORES = ["val_accuracy", "test_accuracy", "test_accuracy[sum]"]


class Cost(NamedTuple):
    """A cost of training as readers have it: name, unit, how many of ours that is, how it was obtained."""

    name: str
    unit: str
    size: float
    obtained: str


COSTS = {
    "flop": Cost("operations", "TFLOP", 1e12, "operations counted"),
    "s": Cost("time", "s", 1.0, "wall clock, median of runs alone on their machine"),
    "measured_j": Cost("energy", "J, measured", 1.0, "energy measured, gross"),
    "estimated_j": Cost("energy", "J, estimated", 1.0, "energy estimated by a model, not measured"),
}
#: A layer that is frozen has to compute the validation images, too, which counts as its work; so the cost of
#: what freezes layers is stated too high by this, and never too low.
WHAT_IS_COUNTED = "training and the work of frozen layers, without other validation"
COLUMNS = [*WHO, "settings", *SETTINGS, *SCORES, *COSTS, "device", "machine", "run"]


def points(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run on a budget of its own: who, with which settings, what it reached and cost.

    A run that diverged has a row, too, without accuracies: it reached nothing. Columns: data, architecture,
    algorithm, passes (the budget), seed; settings (where they come from; see `protocols.origin`): lr,
    weight_decay and what else is searched; val_accuracy,
    test_accuracy (%) and that by the sum of the layers where there is one; then the cost of training, with
    what frozen layers compute (of the validation images, too) and otherwise without validation: flop
    (operations), s, measured_j and estimated_j, of which a run that shared its machine has operations alone;
    device, machine, and the first digits of the run's key.
    """
    rows = []
    for r in records:
        e = r.experiment
        if e.budget is None or not e.budget.exact:
            continue
        options = {} if e.algorithm in SOLVED else e.options  # a rate would say nothing
        own = {name: options.get(name, math.nan) for name in SETTINGS}
        for unit in COSTS:
            parts = [r.cost.get(f"{region}_{unit}") for region in ("train", "prefix")]
            told = parts[0] is not None and (unit == "flop" or not r.contended)
            own[unit] = parts[0] + (parts[1] or 0.0) if told else math.nan
        own |= {name: r.metrics.get(name, math.nan) for name in SCORES}
        who = {"algorithm": e.algorithm, "data": e.data, "architecture": e.architecture, "seed": e.seed}
        who["settings"] = protocols.origin(e)
        whose = {"device": e.device, "machine": r.machine["id"], "run": r.key[:12]}
        rows.append({**who, "passes": e.budget.amount, **own, **whose})
    return arranged(pd.DataFrame(rows, columns=COLUMNS), *WHO).reset_index(drop=True)


def keep(records: Iterable[Record], folder: Path = FOLDER) -> Path:
    """Writes these runs' points beside those in `folder`/data, and their machines.

    Of one seed of an arm and budget the later point is kept: an arm has one best setting for a budget.
    """
    records = list(records)
    path = keep_beside(points(records), folder / "data" / "frontier.csv", WHO)
    keep_machines(records, path.parent)
    return path


def has(points: pd.DataFrame, experiment: Experiment) -> bool:
    """Whether the points have this run: tuned, with the learning rate that it would have today; or solved."""
    e = experiment
    own = points[(points[WHO] == [e.data, e.architecture, e.algorithm, e.max_epochs, e.seed]).all(axis=1)]
    if e.algorithm in SOLVED:
        return len(own) > 0
    rates = own.loc[own["settings"] == protocols.TUNED, "lr"]
    return bool(np.isclose(rates, e.resolved_options(e.rule())["lr"], rtol=1e-5).any())


def keep_trials(trials: pd.DataFrame, folder: Path = FOLDER) -> Path:
    """Writes the trials of a search, as `tuning.trials` gives them, beside those that are there."""
    columns = ["study", "algorithm", "data", "architecture", "trial", "state", "value", *SETTINGS, "seconds"]
    path = folder / "data" / "frontier_trials.csv"
    return keep_beside(trials.reindex(columns=columns), path, ["study", "trial"])


def keep_beside(table: pd.DataFrame, path: Path, by: list[str]) -> Path:
    """Writes rows beside those that the file has; of rows that agree in the columns `by` the later ones."""
    old = [read_table(path)] if path.exists() else []
    both = stacked(*old, table).drop_duplicates(by, keep="last")
    order = [c for c in (*WHO, "study", "trial") if c in both]
    return write_table(arranged(both, *order), path)


def outdated(points: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Arms and budgets whose runs are not of the best trial: the search went on after they were made.

    trials: as `keep_trials` keeps them. Columns: data, architecture, algorithm, passes; then (validation
    accuracy in % of the trial with the runs' rate, on the search's seed) and now (of the best trial).
    """
    trials = with_passes(trials.dropna(subset="value"))
    own = points[points["settings"] == protocols.TUNED].drop_duplicates([*PLACE, "passes"])
    rows = []
    for arm in arranged(own, *PLACE, "passes").itertuples():
        place = [getattr(arm, name) for name in (*PLACE, "passes")]
        there = trials[(trials[[*PLACE, "passes"]] == place).all(axis=1)]
        then = there.loc[np.isclose(there["lr"], arm.lr, rtol=1e-5), "value"].max()
        if there["value"].max() > then:
            rows.append((*place, then, there["value"].max()))
    return pd.DataFrame(rows, columns=[*PLACE, "passes", "then", "now"])


# ---------------------------------------------------------------- in joules


def joules_of_a_pass(runs: pd.DataFrame) -> pd.DataFrame:
    """What a pass of each arm takes, measured in runs until convergence that had their machine to themselves.

    Columns: data, architecture, algorithm; joules (of training and of the work of frozen layers, the mean
    over n runs), n, machine: the one on which the network has most such runs. runs: as `Ours.runs` has them.
    """
    joules = runs["train_measured_j"] + runs["prefix_measured_j"].fillna(0.0)
    known = runs.assign(joules=joules / runs["epochs"])
    known = known[(known["protocol"] == BUDGET_OF) & known["joules"].notna()]
    if len(known):
        known = known[known["machine"] == _usual_machine(known)]
    return known.groupby([*PLACE, "machine"])["joules"].agg(joules="mean", n="count").reset_index()


def in_joules(points: pd.DataFrame, passes: pd.DataFrame) -> pd.DataFrame:
    """The points of the arms of which a pass was measured, with measured_j: passes × the joules of a pass.

    This is a projection: their accuracy is their own, their joules are those of other runs of the same arm,
    which may have divided their passes among the stages otherwise. passes: as `joules_of_a_pass` gives them.
    """
    own = with_budget(points).merge(passes[[*PLACE, "joules"]], on=PLACE)
    return own.assign(measured_j=own["passes"] * own["joules"], machine="projected").drop(columns="joules")


# ---------------------------------------------------------------- what a target costs

#: Backpropagation, and its own answers to heads at every layer and to layers that freeze.
BASELINES = ("bp", "bp_ds", "bp_freeze")
BEST, ALL = "backpropagation's best", "reached by all"
ENOUGH = 10  # seeds from which on the bootstraps below hold what they promise
RESAMPLES = 9999
EQUAL_DRAWS = 2000  # resamples at equal accuracy
SEED = 0  # of the bootstraps: the same runs have the same interval


def with_budget(points: pd.DataFrame) -> pd.DataFrame:
    """Those of arms whose budget can be chosen: what is solved has one only, and no say in targets."""
    return points[~points["algorithm"].isin(SOLVED)]


def whole(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the seeds that have every budget of their arm: of others the best is not known.

    Of `with_budget` arms, whose budgets are those that half of their seeds have or more. Raises InvalidInput
    for two runs of one seed, as of two sets of settings.
    """
    points = with_budget(points)
    twice = points[points.duplicated([*PLACE, "passes", "seed"])]
    if len(twice):
        one = twice.iloc[0]
        raise InvalidInput(
            f"two runs of {one['algorithm']} on {one['data']} {one['architecture']}, {one['passes']} passes, "
            f"seed {one['seed']}: pass one of them only"
        )
    arm = [points[c] for c in PLACE]
    seeds = points.groupby(arm)["seed"].transform("nunique")
    usual = points[points.groupby([*arm, "passes"])["seed"].transform("size") >= seeds / 2]
    budgets = usual.groupby([*PLACE, "seed"])["passes"].transform("size")
    return usual[budgets == budgets.groupby([usual[c] for c in PLACE]).transform("max")]


def comparable(points: pd.DataFrame) -> pd.DataFrame:
    """Of `whole` the arms with as many seeds as their network's arm with most has, or with `ENOUGH`.

    Arms are compared on seeds that all of them have; one that has just begun would leave the others few.
    """
    points = whole(points)
    seeds = points.groupby([points[c] for c in PLACE])["seed"].transform("nunique")
    most = seeds.groupby([points[c] for c in NETWORK]).transform("max")
    return points[seeds >= most.clip(upper=ENOUGH)]


def targets(points: pd.DataFrame) -> pd.DataFrame:
    """The validation accuracies (%) that are to be reached, two for each network.

    Columns: data, architecture, target, accuracy. `BEST`: of every `comparable` arm of `BASELINES` the median
    over seeds of its best validation accuracy at any budget (of an even number the lower middle one, so that
    more than half reach it), and of these the highest. `ALL`: the highest that each seed of each arm reaches
    at some budget. Both are of validation data: the test data have no say in what counts as reached.
    """
    best = whole(points).groupby([*PLACE, "seed"])["val_accuracy"].max()
    of_many = comparable(points).groupby([*PLACE, "seed"])["val_accuracy"].max()
    medians = of_many.groupby(level=PLACE).quantile(interpolation="lower").rename_axis(PLACE).reset_index()
    medians = medians[medians["algorithm"].isin(BASELINES)]
    rows = []
    for place, arms in best.groupby(level=NETWORK, sort=False):
        rivals = medians.loc[(medians[NETWORK] == list(place)).all(axis=1), "val_accuracy"]
        if len(rivals):
            rows.append((*place, BEST, rivals.max()))
        rows.append((*place, ALL, arms.min()))
    return arranged(pd.DataFrame(rows, columns=[*NETWORK, "target", "accuracy"]), *NETWORK)


def bill(points: pd.DataFrame, cost: str, how: str = "median") -> pd.Series:
    """What a run of each arm and budget costs, in a column of `COSTS`; by data, network, algorithm, passes.

    The median over its runs that had their machine to themselves; of the machine on which the network has
    most of them, since two machines' costs have no mean in common. Operations are the same on all.

    how: "median", or "count" for the number of runs that it is of.
    """
    known = points.dropna(subset=cost)
    if cost != "flop" and len(known):
        known = known[known["machine"] == _usual_machine(known)]
    return known.groupby([*PLACE, "passes"])[cost].agg(how)


def _usual_machine(runs: pd.DataFrame) -> pd.Series:
    """Of each row the machine that its network has most rows of."""
    return runs.groupby(NETWORK)["machine"].transform(lambda ids: ids.value_counts().index[0])


def means(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The mean test accuracy of every arm and budget beside its cost, and which of them lie on the front.

    Columns: data, architecture, algorithm, passes; n, mean, sd (of test accuracy in %; sample, 0 of one
    seed); cost (see `bill`); front: whether no arm and budget of the network has a higher mean for as much or
    less. What has no cost is left out, and what diverged, be it with one seed only.
    """
    by = [points[c] for c in (*PLACE, "passes")]
    sound = points[points["test_accuracy"].notna().groupby(by).transform("all")]
    found = sound.groupby([*PLACE, "passes"])["test_accuracy"].agg(n="count", mean="mean", sd="std")
    found["mean"] = found["mean"].round(9)  # else half of a last digit depends on how it was summed
    table = found.fillna({"sd": 0.0}).join(bill(points, cost).rename("cost"), how="inner").reset_index()
    table = arranged(table, *PLACE, "passes").reset_index(drop=True)
    table["front"] = False
    for _, rows in table.groupby(NETWORK):
        by_cost = rows.sort_values(["cost", "mean"], ascending=[True, False])
        better = by_cost["mean"] > by_cost["mean"].cummax().shift(fill_value=-math.inf)
        table.loc[better.index[better], "front"] = True
    return table


NEITHER = "neither"
SIDES = ("backpropagation", "local learning")


class Lead(NamedTuple):
    """Between two costs `side` is ahead by `by` points at most: one of `SIDES`, by more than `stats.MARGIN`
    somewhere on the way and never behind by as much; or `NEITHER`."""

    side: str
    start: float
    end: float
    by: float


def leads(table: pd.DataFrame) -> list[Lead]:
    """Of one network, as of `means`: which side is ahead for how much to spend, from the cheapest on.

    An arm has, for any amount, what its line in the picture has there, evenly between two budgets by the
    logarithm of the cost, or what it had for less, if that was more. A side has what its best arm has;
    `BASELINES` are one side, all others the other. They are compared from where both have a budget to where
    one of them has no larger one. Where neither is ahead, but the same side is before and after, is no turn.
    """
    local = ~table["algorithm"].isin(BASELINES)
    ends = table.groupby(local)["cost"].agg(["min", "max"])
    low, high = ends["min"].max(), ends["max"].min()
    if len(ends) < 2 or low > high:
        return []
    lines = {
        name: (np.log(arm["cost"].to_numpy()), arm["mean"].cummax().to_numpy())
        for name, arm in table.sort_values("cost").groupby("algorithm")
    }
    # so many that where one line crosses another is known to less than is said
    price = np.union1d(table["cost"][table["cost"].between(low, high)], np.geomspace(low, high, 1000)[1:-1])
    best = [
        np.nanmax([np.interp(np.log(price), *lines[name], left=math.nan) for name in side.unique()], axis=0)
        for side in (table["algorithm"][~local], table["algorithm"][local])
    ]
    found: list[Lead] = []
    for cost, by in zip(price, best[1] - best[0], strict=True):
        side = NEITHER if abs(by) <= stats.MARGIN else SIDES[int(by > 0)]
        start, most = cost, abs(by)
        if len(found) > 1 and found[-1].side == NEITHER and found[-2].side == side:
            found.pop()
        if found and found[-1].side == side:
            start, most = found[-1].start, max(found[-1].by, most)
            found.pop()
        elif found:
            found[-1] = found[-1]._replace(end=cost)
        found.append(Lead(side, start, cost, most))
    return found


def best(points: pd.DataFrame) -> list[tuple[tuple, pd.DataFrame]]:
    """(data, network, algorithm) and its points at the budget with the highest mean validation accuracy.

    Of `with_budget` arms; of equals the smallest budget; in the order of tables.
    """
    found = []
    for place, runs in arranged(with_budget(points), *PLACE, "passes").groupby(PLACE, sort=False):
        by_budget = runs.groupby("passes")["val_accuracy"].mean().dropna()
        if len(by_budget):
            found.append((place, runs[runs["passes"] == by_budget.idxmax()]))
    return found


def best_records(points: pd.DataFrame) -> pd.DataFrame:
    """The test accuracies of `best` as tidy records (see `bpfree.records`), which tables and tests take.

    Budgets differ from arm to arm, each being the one that its own validation chose. An arm that did best
    with the most passes it was tried with is left out: its best is not known, for more might do better.
    """
    most = points.groupby(PLACE)["passes"].max()
    known = [runs for place, runs in best(points) if runs["passes"].iat[0] < most[place]]
    parts = [runs.dropna(subset="test_accuracy") for runs in known]  # without what diverged
    runs = pd.concat(parts) if parts else points.iloc[:0]
    whose = runs["settings"]
    runs = runs.rename(columns={"run": "key"}).assign(
        **{"protocol": "frontier", "preset": whose, "unit": "%"},
        settings=whose.replace(protocols.TUNED, "tuned for each budget"),
        **{"max_epochs": math.nan, "precision": "fp32", "status": "finished", "stages_at_cap": 0.0},
        **{"machine": None, "provenance": None},
    )
    named = [c for c in store.TIDY_COLUMNS if c not in ("metric", "value")]
    long = runs.melt(named, ["test_accuracy", "stages_at_cap"], "metric", "value")
    return long.reindex(columns=store.TIDY_COLUMNS)


def reaching(points: pd.DataFrame, accuracy: float) -> pd.Series:
    """Of every arm and seed the smallest budget whose run reaches a validation accuracy (%).

    Infinite where none does. By data, architecture, algorithm and seed.
    """
    passes = points["passes"].where(points["val_accuracy"] >= accuracy, math.inf)
    return passes.groupby([points[c] for c in (*PLACE, "seed")]).min()


def ratio_of_medians(own: pd.Series, base: pd.Series) -> tuple[float, float, float]:
    """median(own) / median(base) over the seeds that both have, and its 95 % interval.

    By a seeded bootstrap that draws whole seeds, whose values may be infinite. There is none of fewer than
    `ENOUGH` seeds, of which a bootstrap's interval is too narrow, nor where in a draw both medians are
    infinite.
    """
    seeds = own.index.intersection(base.index)
    a, b = own.loc[seeds].to_numpy(float), base.loc[seeds].to_numpy(float)
    with np.errstate(invalid="ignore"):  # ∞ / ∞ says nothing: NaN
        if not len(seeds):
            return math.nan, math.nan, math.nan
        drawn = np.random.default_rng(SEED).integers(len(seeds), size=(RESAMPLES, len(seeds)))
        ratios = np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1)
        middle = float(np.median(a) / np.median(b))
    if len(seeds) < ENOUGH or np.isnan(ratios).any():
        return middle, math.nan, math.nan
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")  # of values that occur
    return middle, float(low), float(high)


def to_target(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """What every target of `targets` costs every arm, seed by seed the smallest budget that reaches it.

    Columns: data, architecture, target, accuracy, algorithm; n (seeds), misses; passes, cost (medians over
    seeds, a miss being infinite), and ratio, low, high: of the medians to that of the cheapest `comparable`
    arm of `BASELINES`, named in `baseline`; see `ratio_of_medians`.
    """
    compared = comparable(points)
    points, price = whole(points), bill(points, cost)
    rows = []
    for goal in targets(points).itertuples(index=False):
        here = points[(points["data"] == goal.data) & (points["architecture"] == goal.architecture)]
        passes, spent = reaching(here, goal.accuracy), {}
        for algorithm, of_seeds in passes.groupby(level="algorithm"):
            place = (goal.data, goal.architecture, algorithm)
            paid = [math.inf if n == math.inf else price.get((*place, n), math.nan) for n in of_seeds]
            spent[algorithm] = pd.Series(paid, of_seeds.index.get_level_values("seed"))
        there = (compared[NETWORK] == [goal.data, goal.architecture]).all(axis=1)
        many = set(compared.loc[there, "algorithm"])
        rivals = {name: spent[name].median(skipna=False) for name in BASELINES if name in many}
        cheapest = min(rivals, key=lambda name: (math.isnan(rivals[name]), rivals[name]), default="")
        for algorithm in ordered(spent):
            own = spent[algorithm]
            ratio = ratio_of_medians(own, spent[cheapest]) if cheapest else (math.nan,) * 3
            count = len(own), int((own == math.inf).sum())
            steps = passes.xs(algorithm, level="algorithm").median()
            found = (steps, own.median(skipna=False), *ratio, cheapest)
            rows.append((*goal, algorithm, *count, *found))
    columns = [*NETWORK, "target", "accuracy", "algorithm", "n", "misses"]
    columns += ["passes", "cost", "ratio", "low", "high", "baseline"]
    return pd.DataFrame(rows, columns=columns)


def at_equal_accuracy(points: pd.DataFrame, cost: str, margin: float = 0.0) -> pd.DataFrame:
    """What every arm spends to be, in the mean over seeds, as accurate as backpropagation at its very best.

    That is the arm and budget of `BASELINES` with the highest mean validation accuracy, of equals the
    cheapest; an arm spends the cheapest of its budgets whose mean is as high, or lower by no more than the
    margin (in points), which backpropagation's own arms have, too. Arms are the `comparable` ones, and seeds
    those that all of these have.

    The highest of several means is too high by chance, and a rival is held against that: without a margin an
    arm that is just as good misses it more often than not. What is said here is of these seeds.

    Columns: data, architecture, algorithm, n, baseline, baseline_passes, accuracy (that mean, in %), passes
    (NaN: no budget is enough), test and baseline_test (mean test accuracy of either, in %), ratio of the
    costs (infinite where no budget is enough), low and high: its 95 % interval, by a seeded bootstrap over
    seeds in which backpropagation's best is found anew each time; none of fewer than `ENOUGH` seeds.
    NaN where a cost is not known.
    """
    points, price, rows = comparable(points), bill(points, cost), []
    for network, here in points.groupby(NETWORK, sort=False):
        arms = ["algorithm", "passes"]
        reached = here.assign(val_accuracy=here["val_accuracy"].fillna(-math.inf))  # a diverged run: nothing
        val = reached.pivot(index="seed", columns=arms, values="val_accuracy").dropna()
        test = (
            here.pivot_table(index="seed", columns=arms, values="test_accuracy")
            .loc[val.index]
            .mean()
            .round(9)
        )
        rivals = val.columns[val.columns.get_level_values("algorithm").isin(BASELINES)]
        if rivals.empty or val.empty:
            continue
        paid = pd.Series([price.get((*network, *arm), math.nan) for arm in val], val.columns)
        draws = np.random.default_rng(SEED).integers(len(val), size=(EQUAL_DRAWS, len(val)))
        means = np.vstack([val.mean(), val.to_numpy()[draws].mean(axis=1)])  # (1 + draws, arms and budgets)
        order = np.argsort(paid.to_numpy(), kind="stable")  # the cheapest first, unknown costs last
        columns, means, paid = val.columns[order], means[:, order], paid.to_numpy()[order]
        base = np.flatnonzero(columns.isin(rivals))
        best = base[means[:, base].argmax(axis=1)]  # of equals the first
        level = means[np.arange(len(means)), best]
        for name in ordered(set(columns.get_level_values("algorithm"))):
            own = np.flatnonzero(columns.get_level_values("algorithm") == name)
            enough = means[:, own] >= level[:, None] - margin
            first = own[enough.argmax(axis=1)]
            ratios = np.where(enough.any(axis=1), paid[first] / paid[best], math.inf)
            ends = np.quantile(ratios[1:], [0.025, 0.975], method="inverted_cdf")
            ends = ends if len(val) >= ENOUGH and not np.isnan(ratios).any() else (math.nan,) * 2
            reached = bool(enough[0].any())
            passes = columns[first[0]][1] if reached else math.nan
            of_test = test[columns[first[0]]] if reached else math.nan
            found = (level[0], passes, of_test, test[columns[best[0]]], ratios[0], *ends)
            rows.append((*network, name, len(val), *columns[best[0]], *found))
    columns = [*NETWORK, "algorithm", "n", "baseline", "baseline_passes", "accuracy", "passes", "test"]
    return pd.DataFrame(rows, columns=[*columns, "baseline_test", "ratio", "low", "high"])


def in_passes(n: int) -> str:
    """As text: "1 pass", "8 passes"."""
    return f"{n} {'pass' if n == 1 else 'passes'}"
