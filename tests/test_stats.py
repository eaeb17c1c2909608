"""Statistics against scipy and statsmodels, on data of known verdict, and on the published contrasts."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from bpfree.errors import InvalidInput, UnknownName
from bpfree.evidence import stats
from bpfree.experiments.store import TIDY_COLUMNS

rng = np.random.default_rng(7)


def shaped(n: int, mean: float, sd: float) -> np.ndarray:
    """n values with exactly this mean and sample standard deviation."""
    z = np.random.default_rng(n).normal(size=n)
    return mean + sd * (z - z.mean()) / z.std(ddof=1)


def tidy(values: dict, metric: str = "test_accuracy", **changes) -> pd.DataFrame:
    """Records with {(algorithm, protocol): values of seeds 0, 1, ...}."""
    fixed = {"data": "mnist", "architecture": "2x1000", "status": "finished", "metric": metric, **changes}
    rows = [
        {**fixed, "algorithm": algorithm, "protocol": protocol, "seed": seed, "value": value}
        for (algorithm, protocol), series in values.items()
        for seed, value in enumerate(series)
    ]
    return pd.DataFrame(rows).reindex(columns=TIDY_COLUMNS)


# -- a mean and its interval


def test_summary_has_the_sample_standard_deviation():
    values = [98.1, 98.4, 97.9, 98.3]
    found = stats.describe(values)
    assert (found.n, found.mean) == (4, pytest.approx(98.175))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("n", [9, 25])
def test_interval_is_students_and_blind_to_order(n):
    values = rng.normal(size=n)
    reference = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert stats.interval(values) == pytest.approx(reference, rel=1e-12)
    assert stats.interval(values) == stats.interval(values[::-1])
    low, high = stats.interval([1.0, 2.0])
    assert (low, high) == pytest.approx(scipy.stats.t.interval(0.95, 1, 1.5, 0.5))


@pytest.mark.parametrize("n", [3, 10, 40])
def test_interval_covers_the_mean_as_it_promises(n):
    draws = np.random.default_rng(3).normal(5.0, 2.0, size=(2000, n))
    held = [low <= 5.0 <= high for low, high in map(stats.interval, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)  # three standard errors of so many draws


def test_values_without_an_interval():
    assert all(math.isnan(x) for x in stats.interval([1.0]))
    assert stats.interval([0.3] * 5) == (pytest.approx(0.3), pytest.approx(0.3))
    one = stats.describe([4.0])
    assert (one.n, one.mean) == (1, 4.0)
    assert math.isnan(one.sd)
    assert stats.describe([0.1 + 0.2, 0.3, 0.3]).sd == 0.0  # rounding is not a spread
    with pytest.raises(InvalidInput, match="at least one"):
        stats.describe([])
    with pytest.raises(InvalidInput, match="finite"):
        stats.describe([1.0, math.nan])


# -- tests


def test_p_values_are_scipys_and_statsmodels():
    a, b = rng.normal(98.0, 0.3, 12), rng.normal(97.9, 0.3, 12)
    assert stats.ttest(a - b) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    for margin in (0.1, 0.25, 0.6):
        reference = ttost_paired(a, b, -margin, margin)[0]
        assert stats.tost(a - b, margin) == pytest.approx(reference, rel=1e-9)
    p = [0.04, 0.01, math.nan, 0.03, 0.6]
    known = [0.04, 0.01, 0.03, 0.6]
    corrected = stats.holm(p)
    assert np.delete(corrected, 2) == pytest.approx(multipletests(known, method="holm")[1])
    assert corrected[1] == pytest.approx(4 * 0.01)
    assert math.isnan(corrected[2])
    assert len(stats.holm([])) == 0
    for size in range(1, 40):  # to the last bit, ties and ones included
        family = rng.choice([*rng.uniform(0, 0.2, size), 0.01, 1.0], size)
        assert stats.holm(family).tolist() == multipletests(family, method="holm")[1].tolist()


@pytest.mark.parametrize("differences", [[0.3], [0.3, 0.3, 0.3], [0.0] * 4, [0.1 + 0.2, 0.3]])
def test_no_spread_no_test(differences):
    assert math.isnan(stats.ttest(differences))
    assert math.isnan(stats.tost(differences))
    n = len(differences)
    assert word(differences) == ("one run" if n == 1 else "undecided")


def test_margin_must_be_positive():
    with pytest.raises(InvalidInput, match="margin=0"):
        stats.tost([0.1, 0.2], margin=0)


def test_pairs_are_by_seed_and_only_of_seeds_that_both_have():
    a = pd.Series([1.0, 2.0, 3.0], index=[2, 0, 1])
    b = pd.Series([10.0, 20.0, 30.0], index=[0, 1, 5])
    assert stats.paired(a, b).to_dict() == {0: -8.0, 1: -17.0}
    with pytest.raises(InvalidInput, match="seed 0"):
        stats.paired(pd.Series([1.0, 2.0], index=[0, 0]), b)


# -- verdicts


def word(differences) -> str:
    [found] = stats.infer([pd.Series(differences)])["verdict"]
    return found


@pytest.mark.parametrize(
    ("n", "mean", "sd", "said"),
    [
        (20, 0.0, 0.2, "equivalent"),
        (20, 3.9, 0.5, "higher"),
        (20, -3.9, 0.5, "lower"),
        (3, 0.1, 0.6, "undecided"),  # three seeds show neither
        (3, 0.0, 0.05, "equivalent"),
        (20, 0.251, 0.28, "higher"),
        (400, 0.1, 0.2, "equivalent"),  # a real difference (p < 1e-20), and too small to matter
        (7, -0.148, 0.091, "equivalent"),
    ],
)
def test_constructed_differences_have_their_verdict(n, mean, sd, said):
    assert word(shaped(n, mean, sd)) == said


# CP025_mf_v19 (camera-ready), numbers.json, preregistered contrasts of accuracy in pp, own convergence:
# mean difference, 95 % interval, n, verdict.
CP025 = [
    (-1.653, -1.8515, -1.453, 20, "DIFFERENT"),  # CIFAR-10 3x2000: BP-DS - BP
    (3.903, 3.684, 4.107, 20, "DIFFERENT"),  # MF - BP
    (1.46, 1.192, 1.721, 20, "DIFFERENT"),  # MF-Joint - BP-DS
    (5.556, 5.372, 5.745, 20, "DIFFERENT"),  # MF - BP-DS
    (4.096, 3.904, 4.288, 20, "DIFFERENT"),  # MF - MF-Joint
    (-1.064, -1.2645, -0.867, 20, "DIFFERENT"),  # CIFAR-100 3x2000, in the same order
    (5.04, 4.814, 5.2425, 20, "DIFFERENT"),
    (2.9235, 2.709, 3.1395, 20, "DIFFERENT"),
    (6.104, 5.883, 6.3195, 20, "DIFFERENT"),
    (3.1805, 3.0275, 3.341, 20, "DIFFERENT"),
    (0.0434, -0.0365, 0.1228, 122, "EQUIVALENT"),  # Fashion-MNIST 2x1000
    (0.0463, -0.0535, 0.1473, 48, "EQUIVALENT"),
    (-0.081, -0.2155, 0.0695, 20, "EQUIVALENT"),
    (-0.0567, -0.1702, 0.0554, 48, "EQUIVALENT"),
    (0.1095, -0.002, 0.2185, 20, "EQUIVALENT"),
    (0.0713, -0.0192, 0.163, 60, "EQUIVALENT"),  # MNIST 2x1000
    (0.251, 0.131, 0.3815, 20, "DIFFERENT"),
    (0.0655, -0.0455, 0.176, 20, "EQUIVALENT"),
    (0.114, -0.0145, 0.234, 20, "EQUIVALENT"),
    (0.0485, -0.072, 0.146, 20, "EQUIVALENT"),
]


def test_the_rule_gives_the_published_verdicts():
    # The single runs were not printed. Their spread follows from the interval: it is that of the mean.
    z = scipy.stats.norm.ppf(0.975)
    runs = [shaped(n, mean, (high - low) / 2 / z * math.sqrt(n)) for mean, low, high, n, _ in CP025]
    found = stats.infer([pd.Series(differences) for differences in runs])
    words = {"EQUIVALENT": {"equivalent"}, "DIFFERENT": {"higher", "lower"}}
    assert all(said in words[row[-1]] for said, row in zip(found["verdict"], CP025, strict=True))
    assert ((found["difference"] > 0) == [row[0] > 0 for row in CP025]).all()


# -- the table


def test_contrasts_are_the_tests_of_the_paired_differences():
    bp, mf = shaped(10, 98.0, 0.2), shaped(10, 98.0, 0.2)[::-1] + 0.4
    ff = shaped(10, 97.0, 0.3)[::-1]
    records = tidy({("mf", "convergence"): mf, ("ff", "convergence"): ff, ("bp", "convergence"): bp})
    records = pd.concat([records, tidy({("mf", "convergence"): [0.0]}, metric="test_loss")])
    found = stats.contrasts(records)
    assert list(found.columns) == list(stats.CONTRAST_COLUMNS)
    assert found["algorithm"].tolist() == ["mf", "ff"]  # in the order of all tables
    row, raw = found.iloc[0], [scipy.stats.ttest_rel(x, bp).pvalue for x in (mf, ff)]
    assert (row["n"], row["baseline"]) == (10, "bp")
    assert row["difference"] == pytest.approx((mf - bp).mean())
    assert row["sd"] == pytest.approx((mf - bp).std(ddof=1))
    assert (row["low"], row["high"]) == pytest.approx(stats.interval(mf - bp))
    assert found["p"].tolist() == pytest.approx(raw)
    assert found["p_holm"].tolist() == pytest.approx(multipletests(raw, method="holm")[1])
    assert row["p_tost"] == pytest.approx(ttost_paired(mf, bp, -0.25, 0.25)[0])
    shuffled = records.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(stats.contrasts(shuffled), found)


def test_ratios_are_tested_as_logarithms():
    bp, mf = rng.lognormal(3, 0.2, 6), rng.lognormal(3, 0.2, 6)
    runs = tidy({("bp", "convergence"): bp, ("mf", "convergence"): mf}, metric="total_s", machine="m")
    [row] = stats.contrasts(runs, metric="total_s", how="ratio").to_dict("records")
    assert row["difference"] == pytest.approx(np.log(mf / bp).mean())
    assert row["p"] == pytest.approx(scipy.stats.ttest_rel(np.log(mf), np.log(bp)).pvalue)
    assert math.isnan(row["p_tost"])  # no margin was stated
    other_way = stats.contrasts(runs, "mf", "total_s", "ratio").iloc[0]
    assert other_way[["difference", "low", "high"]].tolist() == pytest.approx(
        [-row["difference"], -row["high"], -row["low"]]
    )


@pytest.mark.parametrize("column", stats.KINDS[1:])
def test_runs_of_several_kinds_are_not_one_series(column):
    values = {("bp", "convergence"): [1.0, 2.0, 3.0], ("mf", "convergence"): [1.5, 2.0, 3.1]}
    a, b = (tidy(values, **{column: value}) for value in (1, 2))
    b["seed"] += 3  # so that seeds do not give it away
    both = pd.concat([a, b.assign(value=b["value"] + (b["algorithm"] == "mf"))])
    found = stats.contrasts(both)
    assert found["n"].tolist() == [3, 3]
    assert sorted(found["difference"]) == pytest.approx([0.2, 1.2])
    with pytest.raises(InvalidInput, match=f"several kinds, {column} 1 and 2"):
        stats.one_kind(both)
    stats.one_kind(a)
    if column != "precision":  # of which the partner has the same, or there is none
        third = both[both["algorithm"] == "mf"].assign(**{column: 3})
        with pytest.raises(InvalidInput, match=f"mf against bp .* several kinds, {column} 1 and 2"):
            stats.contrasts(pd.concat([both[both["algorithm"] == "bp"], third]))


def test_a_cost_of_two_machines_has_two_rows_and_an_outcome_one():
    values = {("bp", "convergence"): [1.0, 2.0], ("mf", "convergence"): [2.0, 4.4]}
    on = [tidy(values, metric="total_s", machine=m) for m in ("here", "there")]
    found = stats.contrasts(pd.concat(on), metric="total_s", how="ratio")
    assert found[["machine", "n"]].values.tolist() == [["here", 2], ["there", 2]]


def test_a_contrast_counts_the_runs_that_ended_at_the_cap():
    values = {("bp", "convergence"): [1.0, 2.0, 3.0], ("mf", "convergence"): [1.5, 2.0, 3.1]}
    runs = tidy(values)
    runs["key"] = runs["algorithm"] + runs["seed"].astype(str)
    stages = runs.assign(metric="stages_at_cap", value=[0, 0, 1, 2, 0, 1])
    [row] = stats.contrasts(pd.concat([runs, stages])).to_dict("records")
    assert row["at_cap"] == "3 of 6"
    [row] = stats.contrasts(pd.concat([runs, stages[stages["value"] < 2]])).to_dict("records")
    assert row["at_cap"] == "2 of 6, 1 not known"


def test_the_verdict_is_of_the_corrected_p():
    zero = np.zeros(8)
    almost = shaped(8, 1.0, 1.1)  # p = 0.037: alone different, among three not
    assert 0.02 < stats.ttest(almost) < 0.05
    alone = {("bp", "convergence"): zero, ("mf", "convergence"): almost}
    assert stats.contrasts(tidy(alone))["verdict"].tolist() == ["higher"]
    others = {(name, "convergence"): shaped(8, 0.9, 1.2) for name in ("ff", "bp_ds")}
    assert stats.contrasts(tidy(alone | others))["verdict"].tolist() == ["undecided"] * 3


def test_a_family_is_of_one_protocol():
    """So a contrast has one p, whichever protocols are looked at beside its own."""
    runs = {("bp", "convergence"): np.zeros(8), ("mf", "convergence"): shaped(8, 1.0, 1.1)}
    budgets = {(name, "matched"): shaped(8, 0.9, 1.2) for name in ("mf", "ff")}
    alone = stats.contrasts(tidy(runs))
    both = stats.contrasts(tidy(runs | budgets), baseline_protocol="convergence")
    pd.testing.assert_frame_equal(both[both["protocol"] == "convergence"], alone)
    assert both.loc[both["protocol"] == "matched", "p_holm"].gt(both["p"][1:].min()).all()


def test_failed_runs_and_missing_partners_are_left_out():
    records = tidy({("bp", "convergence"): [1.0, 2.0, 3.0], ("mf", "convergence"): [2.0, 3.5, 4.1]})
    failed = tidy({("mf", "convergence"): [None] * 4}, status="failed", metric="failed")
    elsewhere = tidy({("mf", "convergence"): [2.0, 3.0]}, architecture="3x1000")
    found = stats.contrasts(pd.concat([records, failed, elsewhere]))
    assert found[["architecture", "n"]].values.tolist() == [["2x1000", 3]]


def test_one_pair_decides_nothing():
    found = stats.contrasts(tidy({("bp", "convergence"): [98.0], ("mf", "convergence"): [98.5]})).iloc[0]
    assert (found["n"], found["difference"], found["verdict"]) == (1, 0.5, "one run")
    assert found[["sd", "low", "high", "p", "p_holm", "p_tost"]].isna().all()


def test_the_baseline_may_live_under_another_protocol():
    values = {
        ("bp", "convergence"): [1.0, 2.0, 3.0],
        ("mf", "convergence"): [1.5, 2.0, 3.1],
        ("mf", "matched"): [2.0, 3.5, 4.1],
    }
    assert stats.contrasts(tidy(values))["protocol"].tolist() == ["convergence"]
    found = stats.contrasts(tidy(values), baseline_protocol="convergence").set_index("protocol")
    assert found.loc["matched", "difference"] == pytest.approx(1.2)
    # Another rule is no budget: it wants a partner of its own.
    values["mf", "convergence_loss"] = [9.0, 9.0, 9.5]
    found = stats.contrasts(tidy(values), baseline_protocol="convergence")
    assert found["protocol"].tolist() == ["convergence", "matched"]
    values["bp", "matched"] = [2.0, 3.0, 4.0]  # its own protocol's goes first
    found = stats.contrasts(tidy(values), baseline_protocol="convergence").set_index("protocol")
    assert found.loc["matched", "difference"] == pytest.approx(0.2)


def test_what_cannot_be_contrasted_says_why():
    with pytest.raises(InvalidInput, match="no finished run of 'bp'"):
        stats.contrasts(tidy({("mf", "convergence"): [1.0]}))
    twice = tidy({("bp", "convergence"): [1.0, 2.0], ("mf", "convergence"): [1.0, 2.0]})
    with pytest.raises(InvalidInput, match="mf against bp on mnist 2x1000, convergence: several values"):
        stats.contrasts(pd.concat([twice, twice]))
    with pytest.raises(UnknownName, match="algorithm"):
        stats.contrasts(twice, baseline="backprop")
    assert stats.contrasts(tidy({("bp", "convergence"): [1.0]})).empty


def test_a_seed_that_ran_on_two_devices_is_one_pair():
    two = {("bp", "convergence"): [90.0, 91.0, 92.0], ("mf", "convergence"): [91.0, 91.5, 93.0]}
    there = {("mf", "convergence"): [93.0]}
    runs = pd.concat([tidy(two, device="cpu"), tidy(there, device="cuda")])
    [row] = stats.contrasts(runs).to_dict("records")
    assert row["n"] == 3
    assert row["difference"] == pytest.approx(((91 + 93) / 2 - 90 + 0.5 + 1) / 3)


# -- chance


def test_chance_is_the_commonest_class_whatever_their_number():
    three = [0] * 50 + [1] * 25 + [2] * 25
    assert stats.above_chance(50.0, three) == pytest.approx(0.0)  # naming class 0 always
    assert stats.above_chance(65.0, three) == pytest.approx(0.15 / math.sqrt(0.25 / 100))
    assert stats.above_chance(34.0, three) < 0  # above one in three classes, and worse than the commonest
    hundred = list(range(100)) * 10
    assert stats.above_chance(5.0, hundred) > 3
    assert math.isnan(stats.above_chance(100.0, [1, 1]))
    with pytest.raises(InvalidInput, match="no labels"):
        stats.above_chance(50.0, [])


def test_a_few_test_images_do_not_make_chance_look_like_learning():
    accuracies = pd.Series({"bp": 75.0, "mf": 100.0})
    assert stats.learned(accuracies, [0, 1] * 100) == "far above chance: every algorithm"
    assert stats.learned(accuracies, [0, 1] * 10) == "not surely above chance on these data: BP"


# ---------------------------------------------------------------- how many pairs would decide


@pytest.mark.parametrize(
    ("mean", "sd", "tests"), [(0.3, 0.2, 1), (0.0, 0.2, 1), (0.5, 0.3, 4), (0.1, 0.2, 1)]
)
def test_the_pairs_needed_decide_four_studies_in_five_and_one_pair_less_does_not(mean, sd, tests):
    """Against studies that are drawn, each judged by scipy's tests."""
    generator, found = np.random.default_rng(0), {}
    needed = int(stats.pairs_needed(mean, sd, tests))
    for n in (needed, needed - 1):
        decided = 0
        for _ in range(2000):
            values = generator.normal(mean, sd, n)
            differ = scipy.stats.ttest_1samp(values, 0).pvalue < 0.05 / tests
            low = scipy.stats.ttest_1samp(values, -0.25, alternative="greater").pvalue
            high = scipy.stats.ttest_1samp(values, 0.25, alternative="less").pvalue
            decided += differ or max(low, high) < 0.05
        found[n] = decided / 2000
    assert found[needed] > 0.78
    if abs(mean) not in (0.1,):  # where both tests may decide, needed is an upper bound
        assert found[needed - 1] < 0.81


def test_pairs_needed_of_what_cannot_be_decided():
    assert math.isnan(stats.pairs_needed(0.3, math.nan))
    assert math.isnan(stats.pairs_needed(0.3, 0.0))
    assert stats.pairs_needed(0.25, 5.0) == math.inf
    assert stats.pairs_needed(0.0, 1.0, margin=None) == math.inf
    assert stats.pairs_needed(0.3, 0.2, 10) > stats.pairs_needed(0.3, 0.2, 1)
