"""What was printed beside what was run: constructed records with known answers."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bpfree.energy.carbon import footprint
from bpfree.errors import InvalidInput
from bpfree.evidence import compare
from bpfree.evidence import runs as ours
from bpfree.evidence.runs import judged
from bpfree.experiments import published
from bpfree.experiments.store import FIELDS, TIDY_COLUMNS

MNIST = {"data": "mnist", "architecture": "2x1000"}
COST = ("_s", "_j", "_bytes")
MEASURED = "measured: nvml-counter (GPU 0); estimated: CPU seconds x 3.5 W/core"


def runs(algorithm: str, protocol: str = "convergence", machine: str = "m", seeds=(0, 1, 2), **metrics):
    """Tidy rows of one arm, CIFAR-10 on 3x2000 unless `where` says otherwise; metrics: a value per seed."""
    where = {"data": "cifar10", "architecture": "3x2000", **metrics.pop("where", {})}
    fixed = {"protocol": protocol, "precision": "fp32", "device": "cpu", "status": "finished", **where}
    rows = []
    for position, seed in enumerate(seeds):
        key = "/".join(map(str, (*where.values(), algorithm, protocol, machine, seed)))
        for metric, values in metrics.items():
            cost = metric.endswith(COST)
            rows.append(
                {
                    **fixed,
                    "key": key,
                    "algorithm": algorithm,
                    "seed": seed,
                    "metric": metric,
                    "value": float(values[position]),
                    "machine": machine if cost else None,
                    "provenance": MEASURED if metric.endswith("_j") else None,
                }
            )
    return pd.DataFrame(rows, columns=[*TIDY_COLUMNS, *({"variant"} & set(where))])


def one(records, **where) -> pd.Series:
    where = {"data": "cifar10", "architecture": "3x2000", "variant": "", "baseline": "", **where}
    [row] = compare.beside(records, **where).to_dict("records")
    return row


def test_every_published_result_has_a_row_and_nothing_is_invented():
    printed = published.results()
    table = compare.beside(runs("bp", seeds=()))
    place = compare.FIXED
    pd.testing.assert_frame_equal(table[place], printed[place])
    np.testing.assert_array_equal(table["published"], printed["mean"])
    counted = table["metric"].isin(["sample_flop", "weights"])
    assert table.loc[~counted, ["ours", "difference", "ratio", "ours_sd"]].isna().all(axis=None)
    assert set(table.loc[~counted, "ours_is"]) == {"not run", "not an algorithm of this package"}
    assert table.loc[counted, "ours"].notna().all()


def test_operations_and_weights_agree_with_the_printed_ones():
    table = compare.beside(runs("bp", seeds=()), metric=["sample_flop", "weights"])
    assert len(table) == 27 + 4
    for row in table.to_dict("records"):  # printed with three to five decimals of a GFLOP
        assert row["ours"] == pytest.approx(row["published"], rel=2e-3, abs=5e5), row


def test_mean_sd_difference_and_ratio():
    row = one(runs("mf", test_accuracy=[60, 62, 67]), source="thesis", algorithm="mf", metric="test_accuracy")
    assert (row["published"], row["published_sd"], row["published_n"]) == (62.34, 0.05, 3)
    assert row["ours"] == pytest.approx(63)
    assert row["ours_sd"] == pytest.approx(np.std([60, 62, 67], ddof=1))
    assert row["ours_n"] == 3
    assert row["difference"] == pytest.approx(63 - 62.34)
    assert row["ratio"] == pytest.approx(63 / 62.34)


def test_our_protocol_is_the_published_one_else_convergence_unless_one_is_asked_for():
    where = {"source": "thesis", "algorithm": "mf", "metric": "test_accuracy"}
    fallback = runs("mf", test_accuracy=[60, 60, 60])
    both = pd.concat([fallback, runs("mf", "published", test_accuracy=[62, 62, 62])])
    matched = pd.concat([both, runs("mf", "matched", test_accuracy=[50, 50, 50])])
    assert (one(fallback, **where)["our_protocol"], one(fallback, **where)["ours"]) == ("convergence", 60)
    assert (one(both, **where)["our_protocol"], one(both, **where)["ours"]) == ("published", 62)
    asked = one(matched, our_protocol="matched", **where)
    assert (asked["our_protocol"], asked["ours"]) == ("matched", 50)
    assert one(both, our_protocol="matched", **where)["ours_is"] == "not run"


def test_the_source_s_preset_comes_first():
    default = runs("mf", test_accuracy=[60, 60, 60])
    preset = runs("mf", test_accuracy=[65, 65, 65]).assign(preset="2026", key=lambda t: t["key"] + "p")
    both = pd.concat([default, preset])
    late = one(both, source="2026", protocol="convergence_loss", algorithm="mf", metric="test_accuracy")
    early = one(both, source="thesis", algorithm="mf", metric="test_accuracy")
    assert (late["our_preset"], late["ours"]) == ("2026", 65)
    assert (early["our_preset"], early["ours"]) == ("", 60)


def test_energy_is_measured_or_estimated_and_never_mixed():
    where = {"source": "thesis", "algorithm": "mf", "metric": "total_j"}
    measured = runs("mf", total_measured_j=[10, 20, 30], total_estimated_j=[1, 1, 1])
    row = one(measured, **where)
    assert (row["ours"], row["ours_is"]) == (20, "measured: nvml-counter (GPU 0)")
    partly = measured[~((measured["metric"] == "total_measured_j") & (measured["seed"] == 2))]
    row = one(partly, **where)
    assert (row["ours"], row["ours_is"]) == (1, "estimated: CPU seconds x 3.5 W/core")
    lone = runs("bp", total_measured_j=[10, 20, 30])
    other = runs("mf", total_estimated_j=[1, 1, 1])
    row = one(
        pd.concat([lone, other]), source="readme", algorithm="mf", baseline="bp", metric="total_j_change"
    )
    assert math.isnan(row["ours"])
    assert row["ours_is"] == "one is measured, the other estimated"


def test_carbon_and_power_follow_from_the_joules():
    records = runs("mf", total_measured_j=[3.6e6, 7.2e6, 3.6e6], total_s=[100, 100, 200])
    carbon = one(records, source="thesis", algorithm="mf", metric="co2e_g")
    assert carbon["ours"] == pytest.approx(footprint(4.8e6, None, "POL").measured_g)
    assert carbon["ours_is"].startswith("measured")
    power = one(records, source="2026", protocol="convergence_loss", algorithm="mf", metric="power_w")
    assert power["ours"] == pytest.approx((36e3 + 72e3 + 18e3) / 3)


def test_costs_of_two_machines_have_a_row_each_and_outcomes_one():
    records = pd.concat(
        [
            runs("mf", machine=machine, total_s=[s, s, s], test_accuracy=[a, a, a])
            for machine, s, a in (("here", 1, 60), ("there", 9, 61))
        ]
    )
    table = compare.beside(
        records, source="thesis", data="cifar10", algorithm="mf", metric=["total_s", "test_accuracy"]
    )
    assert table["metric"].tolist() == ["test_accuracy", "total_s", "total_s"]
    assert table["machine"].tolist() == ["", "here", "there"]
    assert table["ours"].tolist() == [60.5, 1, 9]
    assert table["ours_n"].tolist() == [3, 3, 3]


def test_comparisons_pair_by_seed_and_take_the_geometric_mean_of_ratios():
    records = pd.concat(
        [
            runs("mf", seeds=(0, 1, 2), total_s=[2, 4, 100], test_accuracy=[61, 64, 0]),
            runs("bp", seeds=(0, 1, 5), total_s=[4, 6, 100], test_accuracy=[60, 60, 0]),
        ]
    )
    where = {"source": "readme", "algorithm": "mf", "baseline": "bp"}
    time = one(records, metric="total_s_change", **where)
    mean = np.sqrt(2 / 4 * 4 / 6)
    assert time["ours"] == pytest.approx(100 * (mean - 1))
    ends = np.array(scipy.stats.t.interval(0.95, 1, np.log(mean), scipy.stats.sem(np.log([2 / 4, 4 / 6]))))
    assert (time["ours_low"], time["ours_high"]) == pytest.approx(tuple(100 * (np.exp(ends) - 1)))
    assert time["ours_sd"] == pytest.approx(np.std([50, 100 * 4 / 6], ddof=1))
    assert time["ours_n"] == 2
    assert math.isnan(time["ratio"])
    assert time["difference"] == pytest.approx(time["ours"] - time["published"])
    accuracy = one(records, metric="test_accuracy_difference", **where)
    assert accuracy["ours"] == pytest.approx(2.5)
    ratio = one(records, source="2026", metric="total_s_ratio", algorithm="mf", baseline="bp")
    assert ratio["ours"] == pytest.approx(mean)
    apart = pd.concat([runs("mf", seeds=(7,), total_s=[2]), runs("bp", seeds=(8,), total_s=[4])])
    assert one(apart, metric="total_s_change", **where)["ours_is"] == "no seed in common"


def test_the_partner_of_a_budget_is_the_bp_run_that_gave_it():
    records = pd.concat(
        [
            runs("mf", "matched", total_s=[3, 3, 3], epochs=[52, 52, 52]),
            runs("bp", "convergence", total_s=[4, 4, 4], epochs=[51, 51, 54]),
            runs("bp", "published", total_s=[90, 90, 90], epochs=[1, 1, 1]),
        ]
    )
    where = {"source": "2026", "protocol": "matched"}
    assert one(records, algorithm="mf", baseline="bp", metric="total_s_change", **where)[
        "ours"
    ] == pytest.approx(-25)
    row = one(records, algorithm="bp", metric="epochs", **where)
    assert (row["ours"], row["our_protocol"]) == (52, "convergence")


def test_no_other_protocol_lends_a_partner():
    records = pd.concat([runs("mf", "published", total_s=[3, 3, 3]), runs("bp", total_s=[4, 4, 4])])
    row = one(records, source="readme", algorithm="mf", baseline="bp", metric="total_s_change")
    assert (row["ours_is"], row["our_protocol"]) == ("not run", "")


def test_a_device_s_memory_and_our_account_are_not_compared():
    records = runs("mf", memory_bytes=[2**20 * 200] * 3)
    device = one(records, source="thesis", algorithm="mf", metric="memory_nvml_mib")
    assert device["ours"] == 200
    assert device["ours_is"] == "exact account of tensors"
    assert math.isnan(device["difference"])
    assert math.isnan(device["ratio"])
    where = {"source": "2026", "protocol": "convergence_loss", "algorithm": "mf"}
    allocator = one(records, metric="memory_allocator_mib", **where)
    assert allocator["difference"] == pytest.approx(200 - 216.79395)


def test_times_and_energies_are_of_the_runs_that_have_them():
    records = pd.concat(
        [
            runs("bp", total_s=[100, 100, 100], total_measured_j=[50, 50, 50], test_accuracy=[90, 91, 92]),
            runs("mf", total_s=[300, 200, 999], total_measured_j=[70, 80, 999], test_accuracy=[92, 93, 94]),
        ]
    )
    third = (records["algorithm"] == "mf") & (records["seed"] == 2) & records["metric"].str.endswith(COST)
    found = ours.Ours(records[~third])  # that run shared its machine
    arms = [found.arm("cifar10", "3x2000", name, ("convergence",)) for name in ("mf", "bp")]
    [time] = found.comparison("total_s", "ratio", *arms)
    assert (time.mean, time.n) == (pytest.approx(np.sqrt(3 * 2)), 2)
    [energy] = found.number("total_j", arms[0])
    assert (energy.mean, energy.n) == (75, 2)
    [accuracy] = found.comparison("test_accuracy", "difference", *arms)
    assert (accuracy.mean, accuracy.n) == (2, 3)


def trace(records: pd.DataFrame, utilisations, memory=2**30) -> pd.DataFrame:
    """As `store.traces` gives it: two samples a run of an accelerator and of the process."""
    one_each = records.drop_duplicates("key")[list(FIELDS)].assign(machine="m")
    rows = []
    for run, level in zip(one_each.to_dict("records"), utilisations, strict=True):
        rows += [{**run, "channel": "gpu:0", "quantity": "utilisation", "value": level + d} for d in (-1, 1)]
        rows += [{**run, "channel": "gpu:0", "quantity": "memory", "value": memory}]
        rows += [{**run, "channel": "cpu:process", "quantity": "utilisation", "value": 1e3}]
        rows += [{**run, "channel": "cpu:process", "quantity": "rss", "value": 2**20 * v} for v in (3, 5)]
    return pd.DataFrame(rows)


def test_a_trace_gives_utilisation_and_the_device_s_memory():
    records = runs("mf", "matched", memory_bytes=[1, 1, 1])
    traces = trace(records, [6, 7, 11])
    where = {"source": "2026", "protocol": "matched", "algorithm": "mf"}
    assert one(records, metric="utilisation", **where)["ours_is"] == "not recorded"
    assert one(records, traces=traces, metric="utilisation", **where)["ours"] == pytest.approx(8)
    some = traces[traces["seed"] < 2]  # enough, and said
    assert one(records, traces=some, metric="utilisation", **where)["ours"] == pytest.approx(6.5)
    assert one(records, traces=some, metric="utilisation", **where)["ours_n"] == 2
    memory = one(records, traces=traces, metric="memory_nvml_mib", **where)
    assert (memory["ours"], memory["ours_is"]) == (1024, "device-wide NVML")
    assert memory["difference"] == pytest.approx(1024 - 969.6125)
    host = runs("mf", total_s=[1], seeds=[0], where={**MNIST, "variant": "recompute"})
    row = one(host, traces=trace(host, [1]), metric="memory_host_mib", variant="recompute", **MNIST)
    assert row["ours"] == 5


def test_what_a_paper_pools_over_data_sets_is_pooled():
    records = pd.concat(
        [
            runs("mf", total_s=[1, 1, 1]),
            runs("mf", total_s=[1, 1, 1], where=MNIST),
            runs("mf", total_s=[1, 1, 1], where={"data": "mnist", "architecture": "4x2000"}),
        ]
    )
    [row] = compare.beside(
        records, traces=trace(records, [6, 7, 8, 2, 2, 2, 99, 99, 99]), data="all", algorithm="mf",
        metric="utilisation",
    ).to_dict("records")  # fmt: skip
    assert row["ours"] == pytest.approx(4.5)
    assert row["ours_n"] == 6


def test_stages_and_their_epochs_are_counted():
    layers = {f"test_accuracy[layer {i}]": [50, 50, 50] for i in range(4)}
    records = runs("mf", "matched", epochs=[52, 52, 48], **layers)
    where = {"source": "2026", "protocol": "matched", "algorithm": "mf"}
    assert one(records, metric="stages", **where)["difference"] == 0
    assert one(records, metric="epochs_per_stage", **where)["ours"] == pytest.approx((13 + 13 + 12) / 3)
    median = {"source": "2026", "protocol": "convergence_loss", "algorithm": "mf"}
    records = runs("mf", epochs=[10, 11, 90])
    assert one(records, metric="epochs_median", **median)["ours"] == 11


def test_verdicts_and_intervals_of_known_differences():
    noise = np.array([0.01, -0.02, 0.03, 0.0, -0.01, 0.02])
    seeds = range(len(noise))
    arms = {"bp": 62 + noise, "mf": 62 + noise[::-1], "bp_ds": 60 - noise, "mf_joint": 62 + 40 * noise[::-1]}
    records = pd.concat([runs(name, seeds=seeds, test_accuracy=a) for name, a in arms.items()])
    where = {"source": "2026", "protocol": "convergence_loss", "data": "cifar10", "architecture": "3x2000"}
    table = compare.beside(records, metric="verdict", **where).set_index(["algorithm", "baseline"])
    assert table["published_verdict"].tolist() == ["DIFFERENT"] * 5
    assert table["our_verdict"].to_dict() == {
        ("bp_ds", "bp"): "lower",
        ("mf", "bp"): "equivalent",
        ("mf_joint", "bp_ds"): "higher",
        ("mf", "bp_ds"): "higher",
        ("mf", "mf_joint"): "undecided",
    }
    ends = {
        end: one(records, algorithm="bp_ds", baseline="bp", metric=f"test_accuracy_difference_{end}", **where)
        for end in ("low", "high")
    }
    differences = arms["bp_ds"] - arms["bp"]
    student = scipy.stats.t.interval(0.95, 5, differences.mean(), scipy.stats.sem(differences))
    assert (ends["low"]["ours"], ends["high"]["ours"]) == pytest.approx(student)
    few = records[records["seed"] < 1]
    row = one(few, algorithm="bp_ds", baseline="bp", metric="test_accuracy_difference_low", **where)
    assert row["ours_is"] == "1 pair has no interval"


def test_a_verdict_counts_how_many_contrasts_were_looked_at():
    differences = pd.Series([0.2, 1.9, 1.1, 0.1])
    p = scipy.stats.ttest_1samp(differences + 1, 0).pvalue
    assert 0.01 < p < 0.05
    assert [v.verdict for v in judged([differences + 1])] == ["higher"]
    assert {v.verdict for v in judged([differences + 1] * 5)} == {"undecided"}


def test_variants_are_found_under_their_name_only():
    usual = runs("mf", total_s=[1, 1, 1], where=MNIST)
    host = runs("mf", total_s=[7, 7, 7], where={**MNIST, "variant": "cache on host"})
    where = {"source": "2026", "data": "mnist", "algorithm": "mf", "metric": "total_s"}
    where |= {"protocol": "convergence_loss"}
    table = compare.beside(pd.concat([usual, host]), **where).set_index("variant")
    assert table["ours"].dropna().to_dict() == {"": 1, "cache on host": 7}
    rerun = runs("mf", "published", total_s=[5, 5, 5])
    row = one(rerun, source="2026-reports", variant="without M_0", algorithm="mf", metric="total_s")
    assert row["ours"] == 5


def test_pooled_spread_is_that_of_all_arms():
    records = pd.concat(
        [runs("bp", test_accuracy=[1, 2, 3]), runs("mf", seeds=(0, 1), test_accuracy=[10, 14])]
    )
    [row] = compare.beside(records, metric="test_accuracy_sd").to_dict("records")
    assert row["ours"] == pytest.approx(math.sqrt((2 * 1 + 1 * 8) / 3))


def test_of_several_caps_the_highest_counts_and_of_equal_runs_neither():
    capped = runs("mf", total_s=[1, 1, 1]).assign(max_epochs=20)
    whole = runs("mf", total_s=[5, 5, 5]).assign(max_epochs=100, key=lambda t: t["key"] + "whole")
    where = {"source": "thesis", "algorithm": "mf", "metric": "total_s"}
    assert one(pd.concat([capped, whole]), **where)["ours"] == 5
    again = whole.assign(key=lambda t: t["key"] + "again")
    with pytest.raises(
        InvalidInput, match=r"two runs of mf on cifar10 3x2000, convergence, seed 0: pass one"
    ):
        one(pd.concat([whole, again]), **where)


@pytest.mark.parametrize(
    ("algorithm", "variant", "printed"),
    [("mf_interleaved", "local-bp", 80.2), ("mf_joint", "ce-matched-ge", 83.58), ("bp", "", 84.51)],
)
def test_the_later_numbers_of_mono_forwards_authors_stand_beside_ours_of_their_preset(
    algorithm, variant, printed
):
    place = {"data": "cifar10_plain", "architecture": "conv-64-128-256-512"}
    theirs = runs(algorithm, "published", test_accuracy=[81, 82, 83], where={**place, "preset": "gong"})
    other = runs(algorithm, "convergence", test_accuracy=[1, 2, 3], where={**place, "preset": ""})
    records = pd.concat([other, theirs])
    row = one(records, source="gong-abdulla", algorithm=algorithm, variant=variant, **place)
    assert (row["published"], row["ours"], row["ours_n"]) == (printed, 82, 3)
    assert (row["our_protocol"], row["our_preset"]) == ("published", "gong")
    assert row["difference"] == pytest.approx(82 - printed)


def test_other_authors_numbers_stand_beside_ours_where_the_network_is_the_same():
    records = runs("cafo_rand", test_accuracy=[66, 66, 66], where={"architecture": "cnn"})
    table = compare.beside(records, source=["gong", "zhao"], data="cifar10", metric="test_accuracy")
    found = table[table["ours"].notna()]
    assert found[["source", "algorithm", "variant"]].to_numpy().tolist() == [["zhao", "cafo_rand", ""]]
    assert found["difference"].iat[0] == pytest.approx(66 - (100 - 32.57))
