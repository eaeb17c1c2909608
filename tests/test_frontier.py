"""The frontier: a budget fixed in advance, its division, its search, and what a target costs."""

import itertools
import math
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

import bpfree
from bpfree import Experiment, tuning
from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import answers, frontier, gallery, tables
from bpfree.evidence.figures import frontier as pictures
from bpfree.evidence.verdicts import verdicts
from bpfree.experiments import runner, study, tuned
from bpfree.experiments.experiment import fit
from bpfree.experiments.store import Store
from bpfree.training.stage import Stage
from bpfree.training.stopping import Budget
from bpfree.tuning.budget import beyond_the_edge, first_points
from bpfree.tuning.spaces import quasi_random

SMALL = {"architecture": "2x16", "device": "cpu", "protocol": "frontier"}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "shipped.csv")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def digits():
    return bpfree.load("digits")


# ---------------------------------------------------------------- a budget and its division


def stages(*shares: float | None) -> list[Stage]:
    """Stages with these shares; None is one that is solved."""
    return [
        Stage(str(i), losses=None if share is None else lambda *_: iter(()), share=share or 1.0)
        for i, share in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("passes", "shares", "lengths"),
    [
        (8, (1,), [8]),
        (8, (1, 1), [4, 4]),
        (9, (1, 1), [5, 4]),  # a half is rounded up
        (12, (1, 0.5), [8, 4]),
        (16, (1, 0.5, 0.25), [9, 5, 2]),  # 64/7, then 2/3 of 7
        (2, (1, 0.001), [1, 1]),  # each has one
        (3, (0.001, 1, 1), [1, 1, 1]),
        (8, (None, 1, None, 1), [1, 3, 1, 3]),  # what is solved has its one
        (2, (None, None), [1, 1]),
    ],
)
def test_an_exact_budget_is_divided_by_shares(passes, shares, lengths):
    assert Budget("passes", passes, exact=True).lengths(stages(*shares)) == lengths


def test_whatever_the_shares_an_exact_budget_is_spent_and_no_stage_goes_without():
    generator = np.random.default_rng(0)
    for _ in range(500):
        shares = generator.uniform(0.01, 1, generator.integers(1, 6))
        passes = int(generator.integers(len(shares), 70))
        lengths = Budget("passes", passes, exact=True).lengths(stages(*shares))
        assert sum(lengths) == passes
        assert min(lengths) >= 1
        wanted = passes * shares / shares.sum()
        if wanted.min() > 1.5:
            assert np.abs(np.array(lengths) - wanted).max() < 1.5  # rounding is passed on


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda: Budget("passes", 1, exact=True).lengths(stages(1, 1)), "1 passes for 2 stages.*give 2"),
        (lambda: Budget("s", 3, exact=True), "whole number of passes"),
        (lambda: Budget("passes", 2.5, exact=True), "whole number of passes"),
        (lambda: Experiment("mf", max_epochs=0, protocol="frontier"), "max_epochs"),
        (lambda: Experiment("mf", options={"epochs": 2}, protocol="frontier"), "epochs=2 .* unspent"),
        (lambda: Experiment("mf", options={"stage_ratio": 0.0}, protocol="frontier"), "stage_ratio"),
        (lambda: Experiment("ff_sgd", options={"lr_schedule": "linear"}), "contradicts 'ff_sgd'"),
        (lambda: Experiment("mf", protocol="frontier", preset="tuned"), "budget of 16 passes"),
    ],
)
def test_bad_input_is_one_line(what, words):
    with pytest.raises(InvalidInput, match=words) as error:
        what()
    assert "\n" not in str(error.value)


def test_too_few_passes_are_refused_before_anything_is_trained(digits):
    for name in ("mf", "cafo_rand_mse"):
        with pytest.raises(InvalidInput, match="every stage needs one"):
            fit(Experiment(name, max_epochs=1, protocol="frontier"), digits, progress=False)


@pytest.mark.parametrize("algorithm", ["bp", "bp_ds", "mf", "mf_interleaved", "ff", "ff_sgd", "cafo_rand"])
@pytest.mark.parametrize("passes", [8, 9])
def test_every_arm_spends_the_budget_and_keeps_its_last_weights(digits, algorithm, passes):
    network = "cnn-2-2-2" if algorithm.startswith("cafo") else "2x16"
    e = Experiment(algorithm, **{**SMALL, "architecture": network}, max_epochs=passes)
    trained, history = fit(e, digits, progress=False)
    assert history.epochs == passes
    for stage in history.stages:
        assert stage.ended in ("budget", "solved")
        assert stage.restored == len(stage.rows)
    for stage in trained.stages():
        assert stage.losses is None or stage.schedule == "linear"


def test_the_rate_falls_to_zero_over_each_stage(digits):
    """MF on a budget of 3 against plain torch: 2 passes for layer 1 and 1 for layer 2, step by step."""
    e = Experiment("mf", **SMALL, max_epochs=3, options={"stage_ratio": 0.5}, hyperparameters={"lr": 0.01})
    trained, history = fit(e, digits, progress=False)
    assert [len(stage.rows) for stage in history.stages] == [2, 1]
    model = bpfree.MLP([64, 16, 16], classes=10)
    twin = bpfree.MonoForward(model, lr=0.01)
    twin.initialise(0)
    wd = e.resolved_options(e.rule())["weight_decay"]
    steps = len(digits.x_train) // 128
    hidden = digits.x_train
    from bpfree.training.chance import stream

    for i, passes in ((1, 2), (2, 1)):
        block, head = model.blocks[i - 1], twin.heads[str(i)]
        parameters = [*block.parameters(), *head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=0.01, weight_decay=wd)
        for epoch in range(passes):
            order = torch.randperm(len(hidden), generator=stream(0, f"layer {i}", epoch + 1, "order"))
            for k in range(steps):
                for group in optimiser.param_groups:
                    group["lr"] = 0.01 * (1 - (epoch * steps + k) / (passes * steps))
                rows = order[128 * k : 128 * (k + 1)]
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(head(block(hidden[rows])), digits.y_train[rows])
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            hidden = block(hidden)
    for name, value in trained.state_dict().items():
        if name != "stages_finished":
            torch.testing.assert_close(value, twin.state_dict()[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10"])
def test_every_arm_has_the_same_optimiser_and_batches_whatever_was_published(data):
    shared = set()
    for name in study.FRONTIER:
        e = Experiment(name, data, protocol="frontier")
        options = e.resolved_options(e.rule())
        shared.add(
            tuple(options[n] for n in ("optimiser", "batch_size", "lr", "weight_decay", "lr_schedule"))
        )
    assert shared == {("adamw", 128, 1e-3, 0.0, "linear")}


# ---------------------------------------------------------------- keys


def test_the_budget_is_part_of_the_key_and_the_usual_division_is_not(digits):
    def key(*, algorithm="mf", ratio=None, **changes):
        options = {} if ratio is None else {"options": {"stage_ratio": ratio}}
        return Experiment(algorithm, **{**SMALL, **options, **changes}).resolve(digits).key

    assert key(max_epochs=4) != key(max_epochs=8)
    assert key(max_epochs=16) == key()  # the protocol's own
    assert key(max_epochs=4, ratio=1.0) == key(max_epochs=4)
    assert key(max_epochs=4, ratio=0.5) != key(max_epochs=4)
    assert key(protocol="convergence", ratio=1) == key(protocol="convergence")


def test_records_on_a_budget_tell_budgets_apart(store):
    runs = [Experiment("bp", **SMALL, max_epochs=n) for n in (1, 2)]
    records = bpfree.run_many(runs, progress=False)
    table = bpfree.records()
    assert sorted(table["max_epochs"].unique()) == [1, 2]
    assert (table.loc[table["metric"] == "stages_at_cap", "value"] == 0).all()
    found = frontier.points(records)
    assert found["passes"].tolist() == [1, 2]
    assert found["flop"].iloc[1] == pytest.approx(2 * found["flop"].iloc[0])
    assert found["run"].tolist() == [r.key[:12] for r in records]
    assert frontier.points([bpfree.run(replace(runs[0], protocol="convergence"), progress=False)]).empty


# ---------------------------------------------------------------- the search


def test_quasi_random_points_are_as_even_as_sobols():
    ranges = {
        "lr": tuning.space(Experiment("mf", protocol="frontier"))["lr"],
        "n": (3, 6, "int"),
        "share": (0.5, 1.0, "linear"),
    }
    points = quasi_random(ranges, 16)
    u = np.array(
        [[math.log(p["lr"] / 3e-5) / math.log(1e-2 / 3e-5), (p["share"] - 0.5) / 0.5] for p in points]
    )
    for column in u.T:  # of 16 points of a Sobol sequence each sixteenth of an axis has one
        assert sorted((16 * column).astype(int)) == list(range(16))
    assert scipy_stats.qmc.discrepancy(u) < 0.02
    assert {n: sum(p["n"] == n for p in points) for n in (3, 4, 5, 6)} == dict.fromkeys((3, 4, 5, 6), 4)
    assert quasi_random(ranges, 8) == points[:8]


def test_what_an_arm_has_of_its_own_does_not_go_up_and_down_with_the_rates():
    shared, points = (
        first_points(tuning.space(Experiment(name, protocol="frontier")), 64) for name in ("bp", "mf")
    )
    assert [{name: p[name] for name in q} for p, q in zip(points, shared, strict=True)] == shared
    table = pd.DataFrame(points)
    assert table.rank().corr().where(~np.eye(3, dtype=bool), 0.0).abs().max(axis=None) < 0.15
    halves = table > table.median()  # of every two parameters each quarter of the square has its share
    for one, other in itertools.combinations(halves, 2):
        assert (halves[one] & halves[other]).sum() in range(12, 21)


def test_every_arm_has_the_same_trials_and_small_budgets_choose_for_large_ones(store):
    arms = [Experiment(name, **SMALL) for name in ("bp", "mf")]
    trials = {1: 4, 2: 4, 4: 2}
    studies = tuning.tune_budgets(arms, trials, progress=False)
    table = tuning.trials(studies)
    counts = table.groupby(["algorithm", "study"], sort=False).size()
    assert counts["bp"].tolist()[:2] == [4, 4]
    assert counts["mf"].tolist()[:1] == [4]  # a budget of one pass is none for two stages
    assert counts.groupby("algorithm").size().to_dict() == {"bp": 3, "mf": 2}
    assert set(counts.groupby("algorithm").last()) <= {2, 3, 4}  # more than 2 only beyond an edge
    assert set(table.loc[table["algorithm"] == "mf", "stage_ratio"].between(0.5, 1)) == {True}
    for name in ("bp", "mf"):
        of = {n: g for n, g in table[table["algorithm"] == name].groupby("study", sort=False)}
        smaller, larger = list(of.values())[-2:]
        best = smaller.sort_values("value", ascending=False)["lr"].head(2)
        assert set(larger["lr"].head(2)) == set(best)
        if name == "mf":  # the same rates and decays are tried of both
            first, others = of[next(iter(of))], table[table["algorithm"] == "bp"].head(4)
            assert first["lr"].tolist() == others["lr"].tolist()
            assert first["weight_decay"].tolist() == others["weight_decay"].tolist()
            assert first["stage_ratio"].nunique() == 4
        for passes in (2, 4):
            own = tuned.settings(name, "digits", "2x16", passes=passes)
            last = {2: smaller, 4: larger}[passes]
            assert own["lr"] == last.loc[last["value"].idxmax(), "lr"]
    assert tuned.settings("bp", "digits", "2x16") == {}  # of no other length of training
    again = tuning.trials(tuning.tune_budgets(arms, trials, progress=False))
    assert again["value"].tolist() == table["value"].tolist()
    e = Experiment("mf", **SMALL, max_epochs=4, preset="tuned")
    assert e.rule().source == "tuned"
    assert e.resolved_options(e.rule())["lr_schedule"] == "linear"
    with pytest.raises(InvalidInput, match="budget of 8 passes"):
        Experiment("mf", **SMALL, max_epochs=8, preset="tuned")
    with pytest.raises(InvalidInput, match="larger budget"):
        tuning.tune_budgets(arms, {1: 2, 2: 3}, progress=False)


def test_a_search_goes_on_from_trials_in_a_table(store, tmp_path):
    arms, trials = [Experiment(name, **SMALL) for name in ("bp", "mf")], {1: 4, 2: 4, 4: 2}
    whole = tuning.trials(tuning.tune_budgets(arms, trials, tmp_path / "whole.log", progress=False))
    path = frontier.keep_trials(whole[~whole["study"].str.contains("cap4")], tmp_path)
    before = tuned.table()
    known = pd.read_csv(path)
    known.loc[(known["algorithm"] == "bp") & (known["trial"] == 0), ["value", "state"]] = [None, "diverged"]
    rest = tuning.tune_budgets(arms, trials, tmp_path / "rest.log", known=known, progress=False)
    assert [s.study_name for s in rest] == [
        f"{name}-digits-2x16-frontier-cap4-seed0" for name in ("bp", "mf")
    ]
    found, same = tuning.trials(rest), whole[whole["study"].str.contains("cap4")]
    mf, as_before = (table[table["algorithm"] == "mf"] for table in (found, same))
    for column in ("lr", "weight_decay", "stage_ratio", "value"):  # to the bit, not to six figures
        assert mf[column].tolist() == as_before[column].tolist()
    tried = known[(known["algorithm"] == "bp") & known["study"].str.contains("cap2")].dropna(subset="value")
    best = tried.sort_values("value", ascending=False, kind="stable")["lr"].head(2)
    of_bp = found.loc[found["algorithm"] == "bp", "lr"]
    assert of_bp.head(2).tolist() == pytest.approx(best.tolist(), rel=1e-5)
    kept, there = (table[table["passes"] != 4].reset_index(drop=True) for table in (tuned.table(), before))
    pd.testing.assert_frame_equal(kept, there)


def test_the_largest_budget_is_not_searched_to_an_edge(store, tmp_path):
    arms, trials = [Experiment(name, **SMALL) for name in ("bp", "mf")], {2: 5, 4: 1}
    table = tuning.trials(tuning.tune_budgets(arms, trials, tmp_path / "whole.log", progress=False))
    for _, own in table.groupby("algorithm"):
        smaller, last = (own[own["study"].str.contains(f"cap{passes}")] for passes in trials)
        rates, tried = sorted(smaller["lr"]), sorted(last["lr"])
        assert len(rates) == 5
        assert len(tried) > 1
        assert tried == [rate for rate in rates if tried[0] <= rate <= tried[-1]]  # none is passed over
        best = last.loc[last["value"].idxmax(), "lr"]
        assert best in (rates[0], rates[-1]) or tried[0] < best < tried[-1]
    at_an_edge = table[table["study"].str.contains("cap2") | (table["trial"] == 0)]
    how = {"known": at_an_edge, "progress": False}
    again = tuning.trials(tuning.tune_budgets(arms, trials, tmp_path / "again.log", **how))
    assert again["value"].tolist() == table.loc[table["study"].str.contains("cap4"), "value"].tolist()
    how["known"] = table
    assert tuning.tune_budgets(arms, trials, tmp_path / "none.log", **how) == []


@pytest.mark.parametrize(
    ("values", "beyond"),
    [
        ({1e-3: 90.0, 1e-2: 80.0}, 3e-4),  # the best is the lowest: the next lower one
        ({1e-3: 80.0, 1e-2: 90.0}, 3e-2),
        ({1e-3: 80.0, 3e-3: 90.0, 1e-2: 85.0}, None),
        ({1e-3: 90.0}, 3e-4),  # one alone is both
        ({3e-4: 80.0, 1e-3: 90.0}, 3e-3),
        ({1e-4: 90.0, 3e-2: 80.0}, None),  # nothing is left below
        ({1e-3: math.nan, 3e-3: 90.0, 1e-2: 80.0}, None),  # what diverged was tried
        ({1e-3: math.nan}, None),
    ],
)
def test_beyond_an_edge_comes_the_next_rate(values, beyond):
    points = [{"lr": rate, "weight_decay": 0.1} for rate in (1e-2, 1e-4, 1e-3, 3e-2, 3e-3, 3e-4)]
    trials = pd.DataFrame({"lr": [*values], "weight_decay": 0.1, "trial": 0, "value": [*values.values()]})
    found = beyond_the_edge(points, trials)
    assert (found and found["lr"]) == beyond


def test_a_trial_that_was_lost_is_made_again(store, tmp_path):
    arms, trials = [Experiment("bp", **SMALL)], {1: 3}
    first = tuning.trials(tuning.tune_budgets(arms, trials, tmp_path / "first.log", progress=False))
    how = {"known": first, "progress": False}
    assert tuning.tune_budgets(arms, trials, tmp_path / "none.log", **how) == []
    how["known"] = first.assign(state=first["state"].mask(first["trial"] == 1, "lost"))
    [again] = tuning.tune_budgets(arms, trials, tmp_path / "again.log", **how)
    assert tuning.trials(again)["value"].tolist() == first["value"].tolist()


def test_the_study_has_every_budget_that_fits():
    chosen = replace(study.profile("quick", seeds=[0, 1]), passes=(1, 2, 4))
    runs = chosen.frontier("bp", "mf")
    assert [(e.seed, e.algorithm, e.max_epochs) for e in runs] == [
        (seed, *arm) for seed in (0, 1) for arm in (("bp", 1), ("bp", 2), ("bp", 4), ("mf", 2), ("mf", 4))
    ]
    assert {e.protocol for e in runs} == {"frontier"}
    assert not any(e.reference() for e in runs)
    assert replace(chosen, preset="tuned").frontier("bp", "mf") == runs  # nothing was tuned
    tuned.write_settings("mf", "digits", "2x256", {"lr": 0.5}, passes=4)
    [*found] = replace(chosen, preset="tuned").frontier("bp", "mf")
    assert {(e.algorithm, e.max_epochs, e.rule().hyperparameters["lr"]) for e in found} == {("mf", 4, 0.5)}


# ---------------------------------------------------------------- what a target costs


def made(arms: dict[str, dict[int, list[float]]], cost: dict[str, float], data="mnist") -> pd.DataFrame:
    """Points with these validation accuracies by arm, budget and seed; a pass costs so much."""
    rows = [
        {"data": data, "architecture": "2x1000", "algorithm": name, "passes": passes, "seed": seed}
        | {"val_accuracy": value, "test_accuracy": value - 1, "flop": passes * cost[name]}
        | {"s": passes * cost[name], "measured_j": math.nan, "estimated_j": math.nan, "machine": "m"}
        | {"settings": "tuned"}
        for name, budgets in arms.items()
        for passes, values in budgets.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


COST = {"bp": 10.0, "bp_ds": 11.0, "mf": 4.0}


def test_targets_are_backpropagations_median_best_and_what_all_reach():
    points = made(
        {
            "bp": {1: [80, 80, 80], 2: [90, 91, 92]},
            "bp_ds": {1: [85, 85, 85], 2: [84, 93, 96]},
            "mf": {2: [99, 79, 99], 4: [99, 81, 99]},
        },
        COST,
    )
    found = frontier.targets(points).set_index("target")["accuracy"]
    assert found[frontier.BEST] == 93  # of 85, 93, 96; bp's is 91; mf's do not count
    assert found[frontier.ALL] == 81  # mf's worst seed at its best budget
    even = points[points["seed"] < 2]
    assert frontier.targets(even).set_index("target").loc[frontier.BEST, "accuracy"] == 90  # of 90 and 91


def test_a_seed_without_all_budgets_says_nothing():
    points = made({"bp": {1: [80, 80], 2: [90, 99]}}, COST)
    points = points.drop(points.query("passes == 1 and seed == 1").index)
    assert frontier.whole(points)["seed"].unique().tolist() == [0]
    assert frontier.targets(points)["accuracy"].tolist() == [90, 90]


def test_cost_to_target_takes_the_smallest_budget_and_counts_misses_as_infinite():
    points = made(
        {
            "bp": {1: [80, 80, 80], 2: [90, 91, 92]},
            "mf": {2: [91, 91, 80], 4: [80, 95, 80]},  # seed 0 reaches it early and loses it again
        },
        COST,
    )
    table = frontier.to_target(points, "flop")
    best = table[table["target"] == frontier.BEST].set_index("algorithm")
    assert best.loc["bp", "accuracy"] == 91
    assert best["misses"].tolist() == [1, 1]  # bp's own: seed 0
    assert best.loc["mf", ["passes", "cost", "ratio"]].tolist() == [2, 8, 0.4]
    assert best.loc["bp", ["cost", "ratio"]].tolist() == [20, 1]
    lost = made({"bp": {2: [90, 91]}, "mf": {2: [1, 2]}}, COST)
    table = frontier.to_target(lost, "flop")
    row = table.query("algorithm == 'mf'").iloc[0]
    assert (row["misses"], row["cost"], row["ratio"]) == (2, math.inf, math.inf)


def test_a_cost_is_of_runs_that_were_alone_and_of_one_machine():
    points = made({"bp": {1: [80, 81, 82, 83, 84]}}, COST)
    points["s"] = [5.0, 7.0, 100.0, math.nan, 12.0]
    points["machine"] = ["a", "a", "b", "a", "a"]
    assert frontier.bill(points, "s").tolist() == [7.0]  # the median, which one slow run does not move
    assert frontier.bill(points, "s", "count").tolist() == [3]
    assert frontier.bill(points, "flop").tolist() == [10.0]
    points["s"] = math.nan
    assert frontier.bill(points, "s").empty
    assert frontier.to_target(points, "s")["cost"].isna().all()


def test_a_median_with_misses():
    five = pd.Series([1, 2, 3, 4, 5, *[math.inf] * 5])
    one = pd.Series([1.0] * 10)
    assert frontier.ratio_of_medians(five, one)[0] == math.inf
    assert frontier.ratio_of_medians(five.replace(math.inf, 5), one)[0] == 5


def test_the_ratio_of_medians_pairs_seeds_and_its_interval_holds_the_truth():
    generator, held = np.random.default_rng(1), 0
    for _ in range(100):
        base = pd.Series(generator.lognormal(0, 0.3, 15))
        own = pd.Series(0.5 * generator.lognormal(0, 0.3, 15))
        middle, low, high = frontier.ratio_of_medians(own, base)
        assert low <= middle <= high
        held += low <= 0.5 <= high
    assert held >= 85
    middle, low, high = frontier.ratio_of_medians(0.5 * base, base)  # the same seeds are drawn of both
    assert (middle, low, high) == (0.5, 0.5, 0.5)
    assert all(map(math.isnan, frontier.ratio_of_medians(own[:9], base[:9])[1:]))  # too few for a bootstrap
    assert all(map(math.isnan, frontier.ratio_of_medians(own[:0], base[:0])))


def test_equal_accuracy_is_that_of_backpropagation_at_its_best():
    points = made(
        {
            "bp": {1: [80, 82], 2: [90, 92], 4: [90, 90]},
            "bp_ds": {1: [70, 70], 2: [91, 91]},  # as good as bp's best, and dearer
            "mf": {2: [89, 89], 4: [96, 88], 8: [99, 99]},
        },
        COST,
    )
    table = frontier.at_equal_accuracy(points, "flop").set_index("algorithm")
    row = table.loc["mf"]
    assert (row["baseline"], row["baseline_passes"], row["accuracy"]) == ("bp", 2, 91)
    assert (row["passes"], row["ratio"]) == (4, 16 / 20)
    assert (row["test"], row["baseline_test"]) == (91, 90)
    assert table.loc["bp", "ratio"] == 1
    near = frontier.at_equal_accuracy(points, "flop", margin=2.5).set_index("algorithm").loc["mf"]
    assert (near["passes"], near["ratio"]) == (2, 8 / 20)  # 89 is within 2.5 points of 91
    worse = made({"bp": {1: [80, 82]}, "mf": {2: [79, 79]}}, COST)
    row = frontier.at_equal_accuracy(worse, "flop").set_index("algorithm").loc["mf"]
    assert row["ratio"] == math.inf
    assert math.isnan(row["low"])  # two seeds have no interval
    assert math.isnan(row["passes"])
    assert frontier.at_equal_accuracy(made({"mf": {2: [79, 79]}}, COST), "flop").empty


def test_an_arm_that_has_just_begun_neither_sets_the_level_nor_costs_the_others_their_seeds():
    points = made(
        {
            "bp": {1: [80.0 + k % 2 for k in range(12)]},
            "bp_ds": {1: [99.0] * 9},  # cheaper than all here, but too few: others have ten and more
            "bp_freeze": {1: [70.0] * 10},  # as many as are ever needed
            "mf": {2: [85.0] * 12},
        },
        {**COST, "bp_freeze": 5.0, "bp_ds": 1.0},
    )
    table = frontier.at_equal_accuracy(points, "flop").set_index("algorithm")
    assert set(table.index) == {"bp", "bp_freeze", "mf"}
    assert set(table["n"]) == {10}
    assert table.loc["mf", "baseline"] == "bp"
    found = frontier.targets(points).set_index("target")["accuracy"]
    assert found[frontier.BEST] == 80
    assert found[frontier.ALL] == 70  # which is asked of every seed there is
    spent = frontier.to_target(points, "flop").query("target == @frontier.ALL")
    assert set(spent["baseline"]) == {"bp_freeze"}
    few = points[points["seed"] < 3]
    assert "bp_ds" in set(frontier.at_equal_accuracy(few, "flop")["algorithm"])  # three like all others


def test_the_interval_at_equal_accuracy_is_the_bootstraps():
    """Against draws of ten seeds by a generator of its own, each judged in plain Python."""
    chance = np.random.default_rng(3)
    arms = {
        "bp": {1: chance.normal(81, 2, 10), 2: chance.normal(82, 2, 10)},
        "mf": {2: chance.normal(81.5, 2, 10), 4: chance.normal(83, 2, 10)},
    }
    points = made(arms, COST)
    val = points.pivot_table(index="seed", columns=["algorithm", "passes"], values="val_accuracy")
    price = {("bp", 1): 10, ("bp", 2): 20, ("mf", 2): 8, ("mf", 4): 16}
    ratios = []
    for _ in range(2000):
        mean = val.iloc[chance.integers(10, size=10)].mean()
        best = max([("bp", 1), ("bp", 2)], key=lambda arm: (mean[arm], -price[arm]))
        enough = [price[arm] for arm in (("mf", 2), ("mf", 4)) if mean[arm] >= mean[best]]
        ratios.append(min(enough, default=math.inf) / price[best])
    row = frontier.at_equal_accuracy(points, "flop").set_index("algorithm").loc["mf"]
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    assert (row["low"], row["high"]) == (low, high)
    fewer = frontier.at_equal_accuracy(points[points["seed"] < 9], "flop")
    assert fewer["low"].isna().all()


def test_a_diverged_run_is_a_miss_and_hides_nothing():
    points = made({"bp": {1: [80, 80], 2: [90, 91]}, "mf": {2: [91, math.nan], 4: [92, 90]}}, COST)
    assert len(frontier.whole(points)) == len(points)
    table = frontier.to_target(points, "flop").set_index(["target", "algorithm"])
    assert table.loc[(frontier.BEST, "mf"), "n"] == 2
    row = frontier.at_equal_accuracy(points, "flop").set_index("algorithm").loc["mf"]
    assert (row["n"], row["passes"]) == (2, 4)  # at two passes one of them reached nothing
    alone = points[points["algorithm"] == "mf"]
    assert frontier.reaching(alone, 91)["mnist", "2x1000", "mf", 1] == math.inf


def test_two_runs_of_a_seed_are_refused_and_a_stray_budget_hides_no_seed():
    points = made({"bp": {1: [80, 81, 82], 2: [90, 91, 92]}}, COST)
    with pytest.raises(InvalidInput, match=r"two runs of bp.*1 passes, seed 2"):
        frontier.whole(pd.concat([points, points.query("passes == 1 and seed == 2")]))
    stray = points.query("passes == 1 and seed == 0").assign(passes=64)
    assert len(frontier.whole(pd.concat([points, stray]))) == len(points)


def test_the_front_is_what_nothing_cheaper_beats():
    generator = np.random.default_rng(2)
    arms = {name: {2**k: generator.uniform(80, 99, 3) for k in range(5)} for name in COST}
    table = frontier.means(made(arms, COST), "flop")
    for row in table.itertuples():
        beaten = ((table["cost"] <= row.cost) & (table["mean"] > row.mean)).any()
        same = (table["cost"] <= row.cost) & (table["mean"] == row.mean)
        assert row.front == (not beaten and same.sum() == 1)
    assert table["n"].eq(3).all()


def test_what_is_solved_stands_on_the_front_and_sets_no_target():
    arms = {"bp": {1: [80, 82], 2: [90, 92]}, "mf": {2: [89, 89], 4: [91, 91]}}
    price = {**COST, "fp": 3.0, "cafo_rand_mse": 2.0}
    points = made({**arms, "fp": {3: [60, 70]}, "cafo_rand_mse": {2: [50, 50]}}, price)
    plain = points[points["algorithm"].isin(arms)]
    pd.testing.assert_frame_equal(frontier.targets(points), frontier.targets(plain))
    for of in (frontier.to_target, frontier.at_equal_accuracy):
        pd.testing.assert_frame_equal(of(points, "flop"), of(plain, "flop"))
    assert {place[2] for place, _ in frontier.best(points)} == set(arms)
    means = frontier.means(points, "flop").set_index("algorithm")
    assert means.loc["cafo_rand_mse", "front"]  # nothing costs as little
    assert not means.loc["fp", "front"]
    table = tables.solved(points).set_index("algorithm")
    assert table.loc["FP, solved", "for as much or less"] == "MF, 2 passes: 88.00 %"
    assert table.loc["CaFo-Rand, solved", "for as much or less"] == ""
    assert str(table.loc["FP, solved", "test accuracy (%)"]) == "64.00 ± 7.07 (n = 2)"
    assert set(tables.by_budget(points)["algorithm"]) == {"BP", "MF"}
    picture = pictures.accuracy_against_cost(points, "flop")
    [ax], [legend] = picture.axes, picture.legends
    assert {text.get_text() for text in ax.texts} >= {"↓ 49.0 %", "↓ 64.0 %"}  # far below the others
    assert 64 < ax.get_ylim()[0] < 80
    assert {"FP, solved", "CaFo-Rand, solved"} <= {text.get_text() for text in legend.get_texts()}


def test_pictures_say_everything_and_hide_nothing():
    arms = {
        "bp": {1: [80, 82, 81], 2: [90, 92, 91]},
        "mf": {2: [89, 89, 79], 4: [96, 88, 90]},
    }
    points = pd.concat([made(arms, COST), made(arms, COST, "fashion_mnist")])
    picture = pictures.accuracy_against_cost(points, "s")
    shown = [ax for ax in picture.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == ["MNIST 2x1000", "Fashion-MNIST 2x1000"]
    means = frontier.means(points, "s")
    for ax, (_, part) in zip(shown, means.groupby("data", sort=False), strict=True):
        drawn = {
            tuple(map(float, xy)) for line in ax.get_lines() for xy in zip(*line.get_data(), strict=True)
        }
        assert {(row.cost, row.mean) for row in part.itertuples()} <= drawn
        low, high = ax.get_ylim()
        assert ((part["mean"] - part["sd"] >= low) & (part["mean"] + part["sd"] <= high)).all()
        assert ax.get_xlabel() == "time of training (s)"
        assert [t.get_text() for t in ax.texts] == ["n\u00a0=\u00a03 each; of time, n\u00a0=\u00a03"]
    fewer = points[(points["algorithm"] == "bp") | (points["seed"] > 0)]
    fewer = fewer.assign(s=fewer["s"].mask((fewer["seed"] > 1) & (fewer["passes"] < 4)))
    [first, _] = pictures.accuracy_against_cost(fewer, "s").axes
    [said] = [" ".join(t.get_text().split("\n")) for t in first.texts]
    assert said == "BP: n\u00a0=\u00a03; MF: n\u00a0=\u00a02; of time, n\u00a0=\u00a01 to 2"
    [first, _] = pictures.accuracy_against_cost(fewer, "flop").axes  # of which all are the same
    assert [t.get_text() for t in first.texts] == ["BP: n\u00a0=\u00a03; MF: n\u00a0=\u00a02"]
    bars = pictures.cost_of_targets(points, "flop")
    assert (
        sum(len(ax.patches) for ax in bars.axes)
        == np.isfinite(frontier.to_target(points, "flop")["ratio"]).sum()
    )
    with pytest.raises(UnknownName, match="allowed are flop, s, measured_j"):
        pictures.accuracy_against_cost(points, "joules")
    points["estimated_j"] = math.nan
    assert pictures.accuracy_against_cost(points, "estimated_j").axes  # a reason in place of a picture


def test_what_is_kept_stays_beside_what_comes(tmp_path):
    (tmp_path / "data").mkdir()
    first = bpfree.run_many([Experiment("bp", **SMALL, max_epochs=1)], progress=False)
    more = bpfree.run_many([Experiment("bp", **SMALL, max_epochs=2)], progress=False)
    for records in (first, more, first):
        path = frontier.keep(records, tmp_path)
    assert pd.read_csv(path)["passes"].tolist() == [1, 2]
    assert list(pd.read_csv(path).columns) == list(frontier.points(Store().records()).columns)


# ---------------------------------------------------------------- tables and sentences


@pytest.fixture
def judged_points() -> pd.DataFrame:
    arms = {
        "bp": {1: [80, 82, 81], 2: [90, 92, 91], 4: [80, 80, 80]},
        "mf": {2: [89, 89, 89], 4: [93, 95, 94], 8: [91, 91, 91]},
        "mf_interleaved": {1: [70, 71, 72]},
    }
    settings = {"lr": 0.001, "weight_decay": 0.1, "device": "cpu", "test_accuracy[sum]": math.nan}
    points = made(arms, {**COST, "mf_interleaved": 8.0}, "fashion_mnist").assign(**settings)
    return points.assign(run=[f"{i:012d}" for i in range(len(points))])


def test_every_arm_is_shown_at_the_budget_that_validates_best(judged_points):
    table = tables.at_best(judged_points).set_index("algorithm")
    assert table["passes"].to_dict() == {"BP": 2, "MF interleaved": 1, "MF": 4}
    assert float(table.loc["MF", "test accuracy (%)"]) == 93
    assert str(table.loc["BP", "test accuracy (%)"]) == "90.00 ± 1.00 (n = 3)"
    assert table.loc["MF", "time (s)"] == "16"
    assert not {"energy (J, measured)", "by all layers (%)"} & set(table)  # which nothing is known of


def test_the_table_of_targets_says_what_was_never_reached(judged_points):
    table = tables.to_target(judged_points).set_index(["target", "algorithm"])
    ratio = "time (× cheapest BP)"
    assert table.loc[(frontier.BEST, "MF"), [ratio, "n"]].tolist() == ["0.80", 3]
    assert table.loc[(frontier.BEST, "MF interleaved"), [ratio, "never", "time (s)"]].tolist() == [
        "not reached",
        3,
        "-",
    ]
    assert table.loc[(frontier.ALL, "BP"), ratio] == "1.00"
    equal = tables.at_equal_accuracy(judged_points).set_index(["within (points)", "algorithm"])
    for margin in ("0", "0.25"):
        assert equal.loc[(margin, "MF"), "time (× that)"] == "0.80"
        assert equal.loc[(margin, "MF interleaved"), "time (× that)"] == "not reached"
    assert equal["backpropagation at its best (validation)"].unique().tolist() == ["BP, 2 passes: 91.00 %"]


def test_a_run_is_there_only_with_the_settings_of_today(store):
    tuned.write_settings("bp", "digits", "2x16", {"lr": 0.002}, passes=2)
    how = {"data": "digits", "seed": 1, "architecture": "2x16", "protocol": "frontier"}
    solved = Experiment("fp", **how, max_epochs=3)
    tuned_run = Experiment("bp", **how, max_epochs=2, preset="tuned")
    rows = [("fp", 3, "given", math.nan), ("bp", 2, "tuned", 0.002), ("bp", 2, "given", 0.3)]
    points = pd.DataFrame(rows, columns=["algorithm", "passes", "settings", "lr"])
    points = points.assign(data="digits", architecture="2x16", seed=1)
    assert frontier.has(points, solved)
    assert frontier.has(points, tuned_run)
    for other in ({"seed": 2}, {"lr": 0.003}, {"data": "mnist"}, {"settings": "given"}):
        assert not frontier.has(points.assign(**other), tuned_run)


def test_runs_are_outdated_once_a_search_has_found_better_settings():
    points = made({"bp": {1: [80.0], 2: [81.0]}, "mf": {2: [80.0]}}, COST).assign(lr=1e-3)
    trials = pd.DataFrame(
        [
            ("bp", 1, 1e-3, 70.0),
            ("bp", 1, 1e-2, 60.0),
            ("bp", 2, 1e-3, 71.0),
            ("bp", 2, 1e-4, 72.5),
            ("mf", 2, 1e-3, 70.0),
            ("mf", 2, 1e-2, math.nan),
            ("mf", 4, 1e-2, 99.0),
        ],
        columns=["algorithm", "passes", "lr", "value"],
    )
    names = [f"{t.algorithm}-mnist-2x1000-frontier-cap{t.passes}-seed0" for t in trials.itertuples()]
    trials = trials.drop(columns="passes").assign(study=names, data="mnist", architecture="2x1000")
    [found] = frontier.outdated(points, trials).to_dict("records")
    assert (found["algorithm"], found["passes"], found["then"], found["now"]) == ("bp", 2, 71.0, 72.5)
    assert frontier.outdated(points.assign(settings="given"), trials).empty  # of which nothing was searched


def test_beside_patience_stands_what_it_took_and_reached_seed_by_seed(judged_points):
    arm = {"data": "fashion_mnist", "architecture": "2x1000", "protocol": "convergence", "settings": "tuned"}
    rows = [  # algorithm, seed, accuracy, operations of training and of the prefix
        ("mf", 0, 90.0, 3e12, 1e12),
        ("mf", 0, 92.0, 3e12, 3e12),  # the same seed on another device
        ("mf", 1, 93.0, 7e12, math.nan),
        ("bp", 0, 89.0, 9e12, math.nan),
    ]
    columns = ["algorithm", "seed", "test_accuracy", "train_flop", "prefix_flop"]
    runs = pd.DataFrame(rows, columns=columns).assign(**arm)
    others = [runs.assign(protocol="matched"), runs.iloc[:1].assign(settings="thesis", test_accuracy=1.0)]
    found = tables.beside_patience(judged_points, pd.concat([runs, *others])).set_index("algorithm")
    assert list(found.index) == ["BP", "MF"]
    at_best = tables.at_best(judged_points).set_index("algorithm").loc[["BP", "MF"]]
    for column in ("test accuracy (%)", "operations (TFLOP)"):
        assert found[f"{column}, fixed"].map(str).tolist() == at_best[column].map(str).tolist()
    assert found["passes, fixed"].tolist() == at_best["passes"].tolist()
    until = found["test accuracy (%), until it stops"]
    assert (float(until["MF"]), until["MF"].n) == (92.0, 2)  # of 91 and 93
    assert found["operations (TFLOP), until it stops"].tolist() == ["9", "6"]  # 5 and 7


def test_the_papers_claims_are_judged_at_each_arms_best(judged_points):
    found = verdicts(frontier.best_records(judged_points), ["frontier"], metrics=["test_accuracy"])
    [row] = found.query("claim == 'MF, accuracy'").to_dict("records")
    assert set(frontier.best_records(judged_points)["algorithm"]) == {
        "bp",
        "mf",
    }  # of the other, more is open
    assert float(row["ours"]) == 3
    assert (row["our protocol"], row["at the cap"]) == ("frontier", "")
    assert row["settings"] == "tuned for each budget; BP: tuned for each budget"
    assert row["contrast"] == "undecided"  # all differences are 3: there is no spread to test by


def test_settings_that_nobody_tuned_are_not_called_tuned(tmp_path):
    runs = [Experiment(a, **SMALL, max_epochs=2, hyperparameters={"lr": 0.01}) for a in ("bp", "mf")]
    points = frontier.points(bpfree.run_many(runs, tmp_path, progress=False))
    longer = points.assign(passes=9, val_accuracy=0.0)  # so that two passes are known to be the best
    found = frontier.best_records(pd.concat([points, longer]))
    assert set(found["settings"]) == {"given"}
    assert "tuned" not in found.to_csv()


def test_at_a_glance_stands_what_the_other_tables_say(judged_points):
    table = tables.what_a_joule_buys(judged_points)
    [network] = table.columns[1:]
    assert network == "Fashion-MNIST 2x1000, n = 3"
    cells = dict(zip(table.iloc[:, 0].str.partition("(×")[0].str.strip(), table[network], strict=True))
    assert (
        cells["backpropagation at its best on validation data: test accuracy (%)"] == "90.00 (BP, 2 passes)"
    )
    assert cells["local learning at its best on validation data: test accuracy (%)"] == "93.00 (MF, 4 passes)"
    equal = "to be as accurate on validation data as backpropagation's best, local learning needs"
    assert cells[equal] == "0.80 by MF"
    assert cells["to come within 0.25 points of it"] == "0.80 by MF; 1.00 by BP"
    # 70 is what every seed of every arm reaches, for 8 by the one pass of the interleaved, beside 10 of BP
    low = "to reach what every seed reached"
    assert cells[low] == "0.80 by MF interleaved, for 70.00 % on validation data"
    [short] = tables.at_a_glance(tables.bought(judged_points)).to_numpy().tolist()
    assert short[:4] == [network, "90.00 (BP, 2 passes)", "93.00 (MF, 4 passes)", "0.80 by MF"]
    assert short[4:6] == [cells["to come within 0.25 points of it"], cells["both were tried from"]]
    assert short[6:] == [
        cells[f"{side} is ahead by more than 0.25 points"] for side in reversed(frontier.SIDES)
    ]
    assert tables.what_a_joule_buys(judged_points, "measured_j").shape[1] == 1  # of which nothing is known
    with pytest.raises(UnknownName, match="joules"):
        tables.what_a_joule_buys(judged_points, "joules")


def test_a_pass_is_priced_by_runs_that_were_alone_on_the_machine_with_most_of_them():
    runs = pd.DataFrame(
        [
            ("bp", "a", "convergence", 10, 90.0, 10.0),
            ("bp", "a", "convergence", 20, 300.0, math.nan),  # nothing was frozen
            ("bp", "a", "matched", 10, 900.0, 0.0),
            ("bp", "b", "convergence", 10, 900.0, 0.0),
            ("mf", "a", "convergence", 10, 50.0, 10.0),
            ("mf", "a", "convergence", 10, math.nan, math.nan),  # it shared its machine
            ("ff", "b", "convergence", 10, 90.0, 10.0),  # on the other machine alone
        ],
        columns=["algorithm", "machine", "protocol", "epochs", "train_measured_j", "prefix_measured_j"],
    ).assign(data="mnist", architecture="2x1000")
    found = frontier.joules_of_a_pass(runs).set_index("algorithm")
    assert found["joules"].to_dict() == {"bp": 12.5, "mf": 6.0}
    assert found["n"].to_dict() == {"bp": 2, "mf": 1}
    arms = {"bp": {1: [80.0], 4: [82.0]}, "mf": {2: [80.5], 8: [82.5]}, "mf_interleaved": {1: [99.0]}}
    points = made(arms, {**COST, "mf_interleaved": 1.0})
    priced = frontier.in_joules(points, found.reset_index())
    assert priced.set_index(["algorithm", "passes"])["measured_j"].to_dict() == {
        **{("bp", 1): 12.5, ("bp", 4): 50.0, ("mf", 2): 12.0, ("mf", 8): 48.0}
    }
    assert points["measured_j"].isna().all()  # what was given is as it was
    [row] = tables.for_as_many_joules(points, found.reset_index()).to_dict("records")
    assert (row["network"], row["seeds"], row["runs"]) == ("MNIST 2x1000", "1", 1)
    assert row["operations of a pass (× BP's)"] == pytest.approx(0.4)
    assert row["joules of a pass (× BP's)"] == pytest.approx(0.48)
    # at 12.5 J and more MF has 79.5 + log2(J / 12), and BP 79 + log2(J / 12.5), until MF's 48 J
    by = 0.5 + math.log2(12.5 / 12)
    assert row["MF ahead by (points)"] == pytest.approx(by, abs=0.01)
    assert row["BP ahead by (points)"] == 0.0
    assert row["ahead for as many joules"] == f"MF from 12 to 48 J (by up to {by:.2f} points)"
    dear = found.assign(joules=[12.5, 25.0]).reset_index()
    [row] = tables.for_as_many_joules(points, dear).to_dict("records")
    assert row["ahead for as many joules"].startswith("BP from 50 to 50 J")
    assert tables.for_as_many_joules(points, dear[dear["algorithm"] == "bp"]).empty


@pytest.mark.parametrize(
    ("bp", "mf", "backpropagation", "local"),
    [
        ([80, 81], [70, 71], "10 to 16 units (by up to 9.68 points)", "nowhere"),
        ([80, 81], [80, 90], "nowhere", "10 to 16 units (by up to 9.32 points)"),
        ([80, 81], [80, 80], "12 to 16 units (by up to 0.68 points)", "nowhere"),
        ([80, 95], [79, 90], "nowhere", "10 to 15 units (by up to 2.54 points)"),
        ([80, 85], [70, 90], "10 to 12 units (by up to 3.56 points)",
         "12 to 16 units (by up to 6.61 points)"),
    ],
)  # fmt: skip
def test_who_is_ahead_is_said_of_the_cheap_end_and_of_the_dear_one(
    bp, mf, backpropagation, local, monkeypatch
):
    monkeypatch.setitem(frontier.COSTS, "flop", frontier.COSTS["flop"]._replace(size=1.0, unit="units"))
    points = made({"bp": {1: bp[:1], 2: bp[1:]}, "mf": {2: mf[:1], 4: mf[1:]}}, COST)
    [said] = tables.bought(points).values()
    assert said.ahead == (backpropagation, local)
    assert [f"by up to {most:.2f}" in words for most, words in zip(said.most, said.ahead, strict=True)] == [
        words != "nowhere" for words in said.ahead
    ]
    assert said.compared == "10 to 16 units"
    dear = points.assign(flop=points["flop"] * 10.9)
    [said] = tables.bought(dear).values()
    assert said.compared == "110 to 170 units"  # and not 1.1e+02
    assert tables.bought(points[points["algorithm"] == "bp"]) == {}


def test_a_side_that_did_best_with_the_most_passes_that_it_was_tried_with_says_so():
    points = made({"bp": {1: [80], 2: [81]}, "mf": {2: [80], 4: [79]}}, COST)
    [said] = tables.bought(points).values()
    assert said.best == ("80.00 (BP, 2 passes, the most tried)", "79.00 (MF, 2 passes)")
    [said] = tables.bought(made({"bp": {1: [82], 2: [81]}, "mf": {2: [80], 4: [79]}}, COST)).values()
    assert said.best[0] == "81.00 (BP, 1 pass)"


def test_at_a_glance_a_diverged_seed_an_unequal_arm_and_an_unknown_cost_say_nothing_wrong():
    arms = {"bp": {4: [86, 86, 86.5], 8: [99, math.nan, 99]}, "mf": {4: [87] * 3, 16: [70] * 3}}
    begun = {"mf_interleaved": {4: [87]}}  # one seed, where all others have three
    [said] = tables.bought(made({**arms, **begun}, {**COST, "mf_interleaved": 1.0})).values()
    assert said.best[0] == "85.17 (BP, 4 passes)"
    assert (said.n, said.equal) == ("3", "0.40 by MF")
    assert said.tried == ("BP 4 to 8", "MF 4 to 16")  # and not with what only one seed has
    assert said.low == "0.40 by MF, for 86.00 % on validation data"
    apart = made({"bp": {2: [80]}, "mf": {2: [80], 8: [81]}}, COST)
    apart.loc[apart["algorithm"] == "mf", "seed"] += 10
    [said] = tables.bought(apart).values()
    assert said.equal == tables.UNKNOWN


def test_a_lead_is_between_lines_as_they_are_drawn():
    arms = {
        "bp": {1: [80.0], 2: [81.0], 4: [80.0], 8: [90.0]},  # at 4 the 81 of 2 passes can still be had
        "bp_ds": {1: [70.0]},
        "mf": {2: [80.0], 4: [82.0], 16: [82.0]},
        "mf_overlapped": {8: [80.0], 16: [84.0]},
    }
    means = frontier.means(made(arms, {**COST, "mf_overlapped": 4.0}), "flop")
    first, neither, last = frontier.leads(means)
    # at 16: mf's 81 beside 79 + log2(1.6) of bp; at 40 it is 81 beside 80, which 20 bought already
    assert (first.side, first.start) == ("local learning", 10)
    assert first.by == pytest.approx(81 - (79 + math.log2(1.6)))
    # from 40 on bp has 80 + 9 log2(cost / 40): a quarter of a point less than 81, and more
    assert first.end == neither.start == pytest.approx(40 * 2 ** (0.75 / 9), rel=3e-3)
    assert neither.end == last.start == pytest.approx(40 * 2 ** (1.25 / 9), rel=3e-3)
    assert (last.side, last.end) == ("backpropagation", 64)  # where local learning has no larger budget
    assert last.by == pytest.approx(80 + 9 * math.log2(64 / 40) - 83)
    even = {"bp": {1: [80.0], 2: [82.0], 4: [82.0]}, "mf": {2: [81.0], 5: [82.0], 10: [83.0]}}
    [only] = frontier.leads(frontier.means(made(even, COST), "flop"))  # even at 20, and ahead on both sides
    assert only.side == "local learning"
    assert frontier.leads(frontier.means(made({"mf": even["mf"]}, COST), "flop")) == []
    apart = made({"bp": {1: [80.0]}, "mf": {4: [81.0]}}, COST)  # each tried where the other was not
    assert frontier.leads(frontier.means(apart, "flop")) == []


def test_what_diverged_with_one_seed_has_no_mean_and_hides_no_other():
    arms = {"bp": {1: [80, 80], 2: [math.nan, 99], 4: [82, 82]}, "mf": {2: [81, 81], 4: [math.nan, math.nan]}}
    points = made({**arms, "bp_ds": {1: [math.nan, math.nan]}}, COST)
    means = frontier.means(points, "flop")
    assert means[["algorithm", "passes"]].to_numpy().tolist() == [["bp", 1], ["bp", 4], ["mf", 2]]
    assert means["front"].tolist() == [False, True, True]
    assert [(place[2], runs["passes"].iat[0]) for place, runs in frontier.best(points)] == [
        ("bp", 2),
        ("mf", 2),
    ]
    pictures.accuracy_against_cost(points)


def test_who_misses_backpropagations_best_may_come_close_to_it():
    arms = {"bp": {1: [70.0], 2: [80.0]}, "mf": {2: [79.7], 4: [79.8]}, "bp_ds": {2: [79.9]}}
    [said] = tables.bought(made(arms, COST)).values()
    # 4 passes at 4.0 beside 2 at 10.0; deep supervision is backpropagation's own, and no cheaper
    assert (said.equal, said.near) == (tables.MISSED, "0.80 by MF; 1.00 by BP")
    [said] = tables.bought(made(arms | {"mf": {2: [79.6], 4: [79.7]}}, COST)).values()  # too far away
    assert said.near == f"{tables.MISSED}; 1.00 by BP"
    [said] = tables.bought(made(arms | {"mf": {2: [79.6], 4: [80.1]}}, COST)).values()
    assert (said.equal, said.near) == ("0.80 by MF", "0.80 by MF; 1.00 by BP")


def test_accuracy_by_budget_says_of_how_many_seeds(judged_points):
    gone = (judged_points["algorithm"] == "mf") & (judged_points["passes"] == 8) & (judged_points["seed"] > 0)
    table = tables.by_budget(judged_points[~gone]).set_index("algorithm")
    assert list(table.columns) == ["network", "seeds", "1 pass", "2 passes", "4 passes", "8 passes"]
    assert str(table.loc["MF", "4 passes"]) == "93.00 ± 1.00"
    assert str(table.loc["MF", "8 passes"]) == "90.00 (n = 1)"
    assert table.loc["MF", "1 pass"] == ""
    assert table.loc["BP", "seeds"] == 3


def test_waiting_is_what_came_after_the_kept_epoch():
    table = answers.waiting("bp").set_index("network")
    runs = [
        r
        for r in gallery.committed_runs("05")
        if (r.experiment.data, r.experiment.architecture) == ("cifar10", "3x2000")
        and (r.experiment.algorithm, r.experiment.protocol) == ("bp", "convergence")
    ]
    epochs = gallery.recorded("epochs")
    waited = []
    for r in runs:
        rows = epochs[epochs["run"] == r.key[:12]]
        waited.append(rows["epoch"].max() - rows.loc[rows["kept"], "epoch"].max())
    row = table.loc["CIFAR-10 3x2000"]
    assert row["n"] == len({r.experiment.seed for r in runs})
    assert float(row["of these waiting"]) == pytest.approx(np.mean(waited))


COMMAND = Path(gallery.__file__).parents[2] / "figures" / "measure" / "frontier.py"


def test_the_command_goes_on_from_its_tables(store, tmp_path, monkeypatch):
    """On a small network in place of the paper's, and with few trials."""
    monkeypatch.setitem(study.NETWORKS["mf"], "digits", {"2x16": ("bp", "mf")})
    monkeypatch.setattr(study, "TRIALS", {1: 3, 2: 3, 4: 2})
    begun = []
    run_many = runner.run_many
    monkeypatch.setattr(runner, "run_many", lambda es, **how: begun.extend(es) or run_many(es, **how))

    def command(*args: str) -> tuple[list, pd.DataFrame]:
        begun.clear()
        given = ["--data", "digits", "--algorithms", "bp", "mf", "--out", str(tmp_path), *args]
        monkeypatch.setattr("sys.argv", [str(COMMAND), *given])
        runpy.run_path(str(COMMAND), run_name="__main__")
        who = [(e.algorithm, e.max_epochs, e.seed) for e in begun]
        return who, pd.read_csv(tmp_path / "data" / "frontier.csv")

    small, large = [("bp", 1), ("bp", 2), ("mf", 2)], [("bp", 4), ("mf", 4)]
    who, first = command("--budgets", "1", "2", "--seeds", "1")
    assert who == [(*arm, 1) for arm in small]
    shutil.copy(store / "tuned.csv", tuned.SHIPPED)  # as it is committed with the tables
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "another"))
    who, both = command("--budgets", "1", "2", "4", "--seeds", "2")
    assert who == [(*arm, 1) for arm in large] + [(*arm, 2) for arm in sorted(small + large)]
    assert set(both["run"]) > set(first["run"])
    assert len(both) == 10
    assert len(pd.read_csv(tmp_path / "data" / "frontier_trials.csv")) == 3 + 3 + 2 + 3 + 2
    who, same = command("--budgets", "1", "2", "4", "--seeds", "2", "--seconds", "0")
    assert who == []
    assert same.equals(both)
    who, _ = command("--budgets", "1", "2", "--seeds", "1", "--seconds", "0", "--anew")
    assert who == [(*arm, 1) for arm in small]
    trials = tmp_path / "data" / "frontier_trials.csv"
    searched = pd.read_csv(trials).drop(columns="seconds")
    trials.unlink()
    who, _ = command("--budgets", "4", "--seeds", "0")  # by way of the smaller ones, whose trials choose
    assert who == []
    assert pd.read_csv(trials).drop(columns="seconds").equals(searched)


def test_settings_of_every_committed_search_are_shipped_with_its_best_trial(monkeypatch):
    monkeypatch.setattr(tuned, "SHIPPED", Path(tuned.__file__).with_name("tuned.csv"))
    shipped, trials = tuned.table(), gallery.recorded("frontier_trials")
    for name, own in trials.groupby("study"):
        rows = shipped[shipped["study"] == name].set_index("parameter")
        best = own.loc[own["value"].idxmax()]
        assert rows.loc["lr", "val_accuracy"] == pytest.approx(best["value"], rel=1e-5)
        assert rows.loc["lr", "value"] == pytest.approx(best["lr"], rel=1e-5)
