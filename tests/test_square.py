"""The square of detachment and schedule: its differences, its figure, and the printed numbers beside ours."""

import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from bpfree import Experiment, run
from bpfree.evidence import figures, gallery, square, stats, tables
from bpfree.experiments import published

#: Test accuracies by algorithm, a value per seed.
MADE = {
    "bp": [60.0, 61.0, 62.0],
    "bp_ds": [62.0, 62.5, 63.9],
    "mf_joint": [64.0, 63.0, 65.0],
    "mf_sequential_joint": [64.5, 64.5, 65.1],
    "mf_interleaved": [60.0, 59.5, 60.7],
    "mf": [61.0, 62.0, 64.0],
}


def runs(made: dict = MADE, data: str = "cifar10") -> pd.DataFrame:
    fixed = {"data": data, "architecture": "3x8", "protocol": "convergence", "status": "finished"}
    fixed |= {"metric": "test_accuracy", "device": "cuda", "machine": "m"}
    rows = [
        {**fixed, "algorithm": name, "seed": seed, "value": value, "key": f"{data} {name} {seed}"}
        for name, values in made.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def differences(own: str, other: str) -> list[float]:
    return [a - b for a, b in zip(MADE[own], MADE[other], strict=True)]


def test_each_change_is_the_mean_of_the_pairs_with_student_s_interval():
    table = square.sides(runs()).set_index("change")
    assert list(table.index) == list(square.CHANGES)
    for change, ends in square.CHANGES.items():
        row, test = table.loc[change], ttest_1samp(differences(*ends), 0)
        assert (row["n"], row["difference"]) == (3, pytest.approx(sum(differences(*ends)) / 3))
        assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval()))
        assert row["p"] == pytest.approx(test.pvalue)


def test_both_changes_from_deep_supervision_are_the_way_over_mf_joint():
    table = square.sides(runs()).set_index("change")["difference"]
    joint = square.sides(runs({"mf_joint": MADE["bp_ds"], "mf": MADE["mf_joint"]}))["difference"]
    assert table["both, from deep supervision"] == pytest.approx(table["both"] + joint.item())


def test_the_family_is_all_networks_together():
    both = square.sides(pd.concat([runs(), runs(data="mnist")]))
    alone = square.sides(runs())
    assert len(both) == 2 * len(alone) == 10
    assert both["p_holm"].min() == pytest.approx(min(1.0, 2 * alone["p_holm"].min()))


def test_a_change_without_pairs_is_left_out_and_its_cell_is_empty():
    some = runs({name: MADE[name] for name in ("bp", "bp_ds", "mf")})
    part = square.sides(some)
    assert list(part["change"]) == ["deep supervision alone", "both, from deep supervision"]
    shown = square.in_short(part, square.sides(runs(data="mnist")))
    assert list(shown["what changes"]) == list(square.CHANGES)
    assert list(shown["CIFAR-10 3x8 (points)"] == "") == [False, True, True, True, False]
    assert not (shown == "").loc[:, "MNIST 3x8 (points)"].any()
    assert square.in_short(square.sides(runs()), square.sides(runs().iloc[:0])).shape == (5, 2)


def test_words_have_the_difference_the_interval_and_n():
    row = square.sides(runs()).set_index("change").loc["detached alone"]
    cell = square.in_short(square.sides(runs())).set_index("what changes").loc["detached alone"].item()
    assert cell.startswith(f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}): ")
    assert "n = 3" in cell
    assert row["verdict"].split(" (")[0] in cell


def test_a_seed_that_ran_on_two_devices_counts_once():
    table = runs()
    twice = table[table["algorithm"] == "mf"].assign(device="cpu", key="other")
    twice["value"] += 2.0
    row = square.sides(pd.concat([table, twice])).set_index("change").loc["both"]
    assert (row["n"], row["difference"]) == (3, pytest.approx(sum(differences("mf", "mf_joint")) / 3 + 1.0))


def test_printed_differences_are_those_in_print_and_ours_stand_last():
    table = square.in_print(runs())
    printed = published.results(source="2026", data="cifar10", metric="test_accuracy_difference")
    printed = printed[(printed["protocol"] == "convergence_loss") & (printed["variant"] == "")]
    printed = printed.set_index(["algorithm", "baseline"])["mean"]
    first = [float(cell) for cell in table.iloc[0, 3:]]
    assert first == [printed["bp_ds", "bp"], printed["mf", "bp_ds"], printed["mf", "bp"]]
    means = published.results(source="gong-abdulla", data="cifar10_plain", metric="test_accuracy")
    means = means[means["architecture"] == "conv-64-128-256-512"].set_index("algorithm")["mean"]
    convolutional = table[table["network"] == "conv-64-128-256-512"].iloc[0, 3:]
    expected = [("mf_joint", "bp"), ("mf_interleaved", "mf_joint"), ("mf_interleaved", "bp")]
    assert [float(cell) for cell in convolutional] == pytest.approx(
        [means[a] - means[b] for a, b in expected]
    )
    ours = table[table["by whom"] == "here"]
    assert list(ours["local layers learn"]) == ["in sequence", "all at once"]
    assert list(ours.index) == list(table.index[-2:])
    ends = [("bp_ds", "bp"), ("mf_interleaved", "bp_ds"), ("mf_interleaved", "bp")]
    assert [float(c) for c in ours.iloc[1, 3:]] == pytest.approx([sum(differences(*e)) / 3 for e in ends])


def test_what_a_source_has_no_arm_for_is_empty():
    table = square.in_print(runs({"bp": MADE["bp"]})).set_index("by whom")
    assert "here" not in table.index
    for _, *cells, local in table.loc["Nøkland and Eidnes"].iloc[:, 1:].itertuples(index=False):
        assert [str(cell) for cell in cells] == ["", ""]
        assert local.n == 1


def test_the_answer_counts_what_is_decided_and_names_the_largest():
    said = square.answer(runs())
    table = square.sides(runs())
    decided = table["verdict"].str.startswith(("higher", "lower", "equivalent")).sum()
    word = "something" if decided else "nothing"
    assert said.startswith(f"**{word} is decided**, {decided} of 5 differences on CIFAR-10 ")
    assert "“detached alone” on CIFAR-10, is **-3.93 points**" in said
    assert "GPU; n = 3 pairs" in said


def test_recorded_runs_have_the_whole_square():
    ladder = gallery.recorded("ladder").query("protocol == 'convergence' and data != 'digits'")
    table = square.sides(ladder)
    assert (table.groupby("data")["change"].nunique() == len(square.CHANGES)).all()
    against = stats.contrasts(ladder, baseline="mf_joint").set_index(["data", "algorithm"])["difference"]
    for row in table[table["change"] == "detached alone"].itertuples():
        assert row.difference == pytest.approx(against[row.data, "mf_interleaved"])
    assert "(points)" in tables.markdown(square.in_short(table))


def test_the_figure_joins_the_means_of_two_corners():
    figure = figures.comparison.square(pd.concat([runs(), runs(data="mnist")]))
    figure.draw_without_rendering()
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in panels] == ["MNIST 3x8", "CIFAR-10 3x8"]
    joined = [list(line.get_ydata()) for line in panels[0].lines if list(line.get_xdata()) == [2, 3]]
    ends = [("mf_joint", "mf_interleaved"), ("mf_sequential_joint", "mf")]
    assert joined == [pytest.approx([sum(MADE[name]) / 3 for name in pair]) for pair in ends]
    assert any("n = 3" in text.get_text() for text in panels[0].texts)


def test_the_corners_on_a_budget_stand_beside_what_was_printed():
    rows = [
        ("bp", 84.0, 100.0),
        ("mf_joint", 83.0, 101.0),
        ("mf_interleaved", 80.0, 90.0),
        ("mf", 79.0, 50.0),
    ]
    place = {"data": "cifar10_plain", "architecture": "conv-64-128-256-512", "passes": 16}
    points = pd.DataFrame(
        place | {"algorithm": name, "seed": seed, "test_accuracy": accuracy + seed, "flop": flop}
        for name, accuracy, flop in rows
        for seed in (0, 2)
    )
    table = square.on_a_budget(points).set_index("algorithm")
    assert list(table.index) == ["BP", "MF-Joint", "MF interleaved", "MF"]  # one corner is not there
    corners = table[["detached", "one layer after the other"]]
    assert corners.loc["MF-Joint"].tolist() == ["no", "no"]
    assert corners.loc["MF interleaved"].tolist() == ["yes", "no"]
    assert corners.loc["MF"].tolist() == ["yes", "yes"]
    assert str(table.loc["BP", "test accuracy (%)"]) == "85.00 ± 1.41 (n = 2)"
    assert str(table.loc["MF interleaved", "printed (%)"]) == "80.20 ± 0.35 (n = 3)"
    assert str(table.loc["MF", "printed (%)"]) == ""
    assert float(table.loc["MF", "operations (× BP)"]) == 0.5


def test_what_a_budget_says_of_the_cnn_and_of_similarity_losses():
    conv, mlp = {"architecture": "conv-8-8", "data": "cifar10"}, {"architecture": "3x8", "data": "cifar10"}
    rows = [conv | {"algorithm": name, "seed": 1, "test_accuracy": a} for name, a in (("bp", 84), ("mf", 79))]
    rows += [conv | {"algorithm": "mf_joint", "seed": seed, "test_accuracy": 80 + seed} for seed in (1, 2)]
    rows += [conv | {"algorithm": "mf_interleaved", "seed": 2, "test_accuracy": 78}]
    for seed, gain in ((1, 1.0), (2, 2.0), (3, None)):  # the third has no other side
        rows += [mlp | {"algorithm": "mf", "seed": seed, "test_accuracy": 60, "flop": 10}]
        if gain:
            rows += [mlp | {"algorithm": "mf_predsim", "seed": seed, "test_accuracy": 60 + gain, "flop": 15}]
    said = square.in_words(pd.DataFrame(rows).assign(passes=16))
    assert "there: detached alone, **-4.00 points** (n = 1)." in said  # nothing of the sequential corner
    assert "on CIFAR-10 3x8 differs by **+1.50 points** (n = 2 pairs, +1.00 to +2.00; 16 passes)" in said
    assert "print +1.40 on their MLP" in said  # 69.07 - 67.67
    assert "**1.50 times** the operations" in said
    assert "last read-out" not in said


def test_the_last_read_out_alone_stands_beside_the_sum_of_all():
    one = {"architecture": "conv-8-8", "algorithm": "mf_sequential_joint", "passes": 16}
    scores = [(80.0, 83.0), (81.0, 85.0), (90.0, float("nan"))]  # of the last run it was not recorded
    rows = [one | {"seed": i, "test_accuracy": a, square.LAST: b} for i, (a, b) in enumerate(scores)]
    rows.append(one | {"algorithm": "mf", "seed": 7, "test_accuracy": 70.0, square.LAST: 72.0})
    said = square.in_words(pd.DataFrame(rows))
    assert (
        "alone MF sequential, not detached has **84.00 %** (sum: 80.50), MF has **72.00 %** (sum: 70.00)."
        in said
    )


def test_energy_as_goodness_is_said_by_each_of_its_read_outs():
    one = {"architecture": "rms-8-8", "algorithm": "asge_like", "passes": 2}
    rows = [
        one
        | {"data": data, "seed": seed, "test_accuracy": last}
        | dict(zip(square.READOUTS, (last, 91, 93), strict=True))
        for data, accuracies in {"mnist": (90.0, 92.0), "digits": (80.0, 82.0)}.items()
        for seed, last in enumerate(accuracies)
    ]
    said = square.in_words(pd.DataFrame(rows))
    assert "rms-8-8, has with default settings, after a pass for each of its blocks" in said
    assert "a test accuracy (%) of **91.00 ± 1.41 (n = 2)** on MNIST" in said
    assert "and **81.00 ± 1.41 (n = 2)** on digits by its last read-out (91.00 by all, 93.00 by the o" in said
    assert "predsim" not in said


COMMAND = Path(gallery.__file__).parents[2] / "figures" / "measure" / "square.py"


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """figures/measure/square.py with no time to train, on a store and a copy of the table of its own."""
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    table = shutil.copy(gallery.path_of("square"), tmp_path / "square.csv")

    def go() -> str:
        argv = [str(COMMAND), "--seconds", "0", "--out", str(table)]
        monkeypatch.setattr("sys.argv", argv)
        runpy.run_path(str(COMMAND), run_name="__main__")
        return Path(table).read_text()

    return go


def test_the_command_begins_nothing_when_its_time_is_up_and_keeps_what_is_recorded(measure):
    recorded = gallery.path_of("square").read_text()
    assert sorted(measure().splitlines()) == sorted(recorded.splitlines())  # training would miss its images


def test_the_command_adds_the_store_s_runs_once(measure):
    budget = {"protocol": "frontier", "max_epochs": 16}
    own = {"hyperparameters": {"lr": 0.01}, "precision": "bf16", **budget}
    mine = run(Experiment("bp", "digits", 1, "conv-2-2", **own), progress=False)
    run(Experiment("bp", "digits", 0, "conv-2-2", **own), progress=False)  # a trial
    run(Experiment("bp", "digits", 1, "2x8", **budget), progress=False)  # not of the square
    first = measure()
    added = set(first.splitlines()) - set(gallery.path_of("square").read_text().splitlines())
    [row] = added
    assert mine.key[:12] in row
    assert measure() == first


def test_what_detaching_saves_depends_on_what_it_is_compared_with():
    a_pass = {"bp": 9.0, "mf_joint": 10.0, "mf_interleaved": 7.0, "mf_sequential_joint": 8.0, "mf": 2.0}
    rows = []
    for seed, epochs in enumerate((3, 5)):  # of which a pass does not depend
        for name, cost in a_pass.items():
            whole = {"epochs": epochs, "train_flop": cost * epochs}
            if name == "mf":  # half of it in its frozen layers
                whole |= {"train_flop": epochs, "prefix_flop": epochs}
            place = {"data": "mnist", "architecture": "2x1000", "algorithm": name, "seed": seed}
            rows += [place | {"metric": metric, "value": value} for metric, value in whole.items()]
    first, last = square.saved_by_detaching(pd.DataFrame(rows))
    assert first["mnist", "2x1000"] == pytest.approx(3 / 8)
    assert last["mnist", "2x1000"] == pytest.approx(6 / 8)
