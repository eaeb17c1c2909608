"""Verdicts on published claims: constructed runs with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from bpfree.evidence.runs import Number
from bpfree.evidence.verdicts import CLAIMS, VERDICTS, Claim, effect, judge, t_interval, verdicts
from bpfree.experiments import published
from bpfree.experiments.store import COLUMNS

ACCURACY = Claim("more accurate", "thesis", "mf", "test_accuracy", "difference", more=True)
ENERGY = Claim("less energy", "thesis", "mf", "total_j", "change", more=False)
COSTLIER = Claim("several times the energy", "2026", "mf", "total_j", "ratio", more=True)


def number(values) -> Number:
    values = pd.Series(values, dtype=float)
    return Number(values.mean(), values.std(ddof=1), len(values))


@pytest.mark.parametrize(
    ("claim", "printed", "values", "expected"),
    [
        (ACCURACY, 1.2, [1.0, 1.1, 1.2], "stands"),
        (ACCURACY, 1.2, [0.45, 0.5, 0.55], "moves"),  # the claimed side, less than half the size
        (ACCURACY, 1.2, [2.9, 3.0, 3.1], "moves"),  # more than twice
        (ACCURACY, math.nan, [2.9, 3.0, 3.1], "stands"),  # no size was printed: the side decides
        (ACCURACY, -0.5, [1.0, 1.1, 1.2], "moves"),  # printed on the other side on this network
        (ACCURACY, 1.2, [-1.0, -1.1, -1.2], "turns"),
        (ACCURACY, 1.2, [1.0, -1.0, 0.5], "undecided"),
        (ACCURACY, 1.2, [0.02, 0.03, 0.01], "moves"),  # a difference, but within the margin: equivalent
        (ACCURACY, 1.2, [1.0], "undecided"),  # one seed has no interval
        (ACCURACY, 1.2, [], "untested"),
        (ENERGY, -41.0, [-40.0, -38.0, -42.0], "stands"),
        (ENERGY, -41.0, [-8.0, -9.0, -10.0], "moves"),
        (ENERGY, -41.0, [30.0, 31.0, 32.0], "turns"),
        (COSTLIER, 4.0, [3.0, 3.1, 3.2], "stands"),
        (COSTLIER, 4.0, [1.2, 1.25, 1.22], "moves"),
        (COSTLIER, 4.0, [0.8, 0.85, 0.82], "turns"),
        (COSTLIER, 4.0, [0.8, 1.25, 1.0], "undecided"),
    ],
)
def test_a_claim_is_judged_by_side_and_size(claim, printed, values, expected):
    assert expected in VERDICTS
    assert judge(claim, printed, number(values)) == expected


def test_an_effect_is_as_large_as_its_inverse_is_small():
    assert effect(4.0, "ratio") == pytest.approx(2 * effect(2.0, "ratio"))
    assert (
        effect(-50.0, "change")
        == pytest.approx(-effect(100.0, "change"))
        == pytest.approx(effect(0.5, "ratio"))
    )
    assert effect(0.7, "difference") == 0.7


def test_the_interval_is_students():
    values = np.array([0.3, 0.5, 0.1, 0.9])
    low, high = reference.t.interval(0.95, 3, values.mean(), reference.sem(values))
    assert t_interval(number(values)) == pytest.approx((low, high))


def test_equivalence_is_tost_at_five_percent():
    from bpfree.evidence.stats import tost

    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.normal(0.1, 0.12, size=5)  # no size was printed: nothing else makes a claim move
        assert (judge(ACCURACY, math.nan, number(values)) == "moves") == (tost(values) < 0.05)


def runs(**per_arm) -> pd.DataFrame:
    """Tidy records of arms on Fashion-MNIST 2x1000: {algorithm: {metric: values by seed}}."""
    rows = []
    for algorithm, metrics in per_arm.items():
        for metric, values in metrics.items():
            for seed, value in enumerate(values):
                row = dict.fromkeys(COLUMNS)
                row |= {"key": f"{algorithm} {seed}", "algorithm": algorithm, "data": "fashion_mnist"}
                row |= {"architecture": "2x1000", "seed": seed, "protocol": "convergence", "max_epochs": 100}
                row |= {"precision": "fp32", "device": "cpu", "status": "finished"}
                row |= {"metric": metric, "value": value, "unit": ""}
                if metric not in ("test_accuracy", "val_loss", "epochs"):
                    row |= {"machine": "m", "provenance": "estimated: a model"}
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def test_claims_are_put_beside_what_was_printed():
    records = runs(
        bp={
            "test_accuracy": [89.0, 89.2, 89.1],
            "total_s": [100.0] * 3,
            "total_estimated_j": [10.0, 11.0, 12.0],
        },
        mf={
            "test_accuracy": [90.0, 90.3, 90.1],
            "total_s": [150.0] * 3,
            "total_estimated_j": [5.0, 5.6, 6.0],
        },
    )
    table = verdicts(records).set_index("claim")
    mine = table[(table["network"] == "Fashion-MNIST 2x1000")]
    printed = published.results(
        source="thesis", data="fashion_mnist", architecture="2x1000", metric="test_accuracy", baseline=""
    ).set_index("algorithm")["mean"]
    accuracy = mine.loc["MF is more accurate than BP"]
    assert str(accuracy["printed"]) == f"{printed['mf'] - printed['bp']:+.2f} pp"
    assert str(accuracy["ours"]) == "+1.03 ± 0.06 pp"
    assert accuracy["seeds"] == 3
    energy = mine.loc["MF takes less energy"]
    assert float(energy["ours"]) == pytest.approx(-49.7, abs=0.05)
    assert energy["ours is"] == "estimated"
    assert mine.loc["MF takes less time", "verdict"] == "turns"
    assert mine.loc["MF takes several times the energy", "verdict"] == "turns"
    assert mine.loc["MF ends at a lower validation loss", "verdict"] == "untested"  # not recorded here


def test_every_claim_names_an_arm_and_a_number_that_exist():
    from bpfree.algorithms import ARMS
    from bpfree.evidence.runs import COMPARISONS, COSTS, OUTCOMES

    for claim in CLAIMS:
        assert claim.algorithm in ARMS
        assert claim.metric in {**OUTCOMES, **COSTS}
        assert claim.how in COMPARISONS
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)
