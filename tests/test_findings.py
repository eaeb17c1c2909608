"""What the findings say of the committed records, and of copies of them that were changed."""

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bpfree.algorithms.arms import look
from bpfree.errors import InvalidInput
from bpfree.evidence import answers
from bpfree.experiments import published

FIGURES = Path(__file__).parent.parent / "figures"
TABLES = ("runs", "epochs", "machines", "frontier", "frontier_trials", "memory", "pass_cost", "landscape")


@pytest.fixture
def folder(tmp_path):
    """A copy of the committed records."""
    (tmp_path / "data").mkdir()
    for name in TABLES:
        shutil.copy(FIGURES / "data" / f"{name}.csv", tmp_path / "data")
    return tmp_path


def change(folder, name, what):
    path = folder / "data" / f"{name}.csv"
    table = pd.read_csv(path, dtype={"preset": str}, keep_default_na=True)
    what(table).to_csv(path, index=False)


@functools.cache
def of_the_committed_records(notebooks: str = "") -> str:
    return answers.findings(FIGURES, notebooks)


def said(folder, about: str) -> str:
    """The one finding whose text has these words."""
    text = of_the_committed_records() if folder == FIGURES else answers.findings(folder)
    [line] = [line for line in text.splitlines() if about in line]
    return line


def word_of(found: str, network: str) -> str:
    """The last of the words before the network's difference."""
    before = found.partition(f" {network} (")[0]
    return re.findall(r"higher|lower|equivalent|undecided|known from one run", before)[-1]


def committed(runs: pd.DataFrame, algorithm: str, data: str, architecture: str) -> pd.Series:
    rows = runs[(runs["data"] == data) & (runs["architecture"] == architecture)]
    rows = rows[(rows["algorithm"] == algorithm) & (rows["protocol"] == "convergence")]
    rows = rows[rows["chapters"].str.contains("05")]
    return rows.groupby("seed")["outcome test_accuracy"].mean()


def with_accuracies(shift: float, spread: float, data: str = "fashion_mnist", algorithm: str = "mf"):
    """Of a table of runs one in which the algorithm is that much better than BP, and by not quite as much."""

    def changed(runs):
        place = "fashion_mnist" if data is None else data
        bp = committed(runs, "bp", place, "2x1000")
        mine = (runs["data"] == place) & (runs["architecture"] == "2x1000") & (runs["algorithm"] == algorithm)
        mine &= (runs["protocol"] == "convergence") & runs["seed"].isin(bp.index)
        mine &= runs["chapters"].str.contains("05")
        noise = spread * runs["seed"].mod(3).sub(1)
        runs.loc[mine, "outcome test_accuracy"] = runs["seed"].map(bp) + shift + noise
        return runs

    return changed


@pytest.mark.parametrize(
    ("shift", "spread", "words"),
    [
        (3.0, 0.1, "higher"),
        (-3.0, 0.1, "lower"),
        (0.0, 0.05, "equivalent"),
        (0.1, 0.02, "equivalent"),  # surely more, and by less than the margin
        (0.5, 5.0, "undecided"),
    ],
)
def test_the_word_changes_with_the_data(shift, spread, words, folder):
    change(folder, "runs", with_accuracies(shift, spread))
    line = said(folder, "The difference in test accuracy")
    found, evidence = line.split("<details>")
    assert word_of(found, "Fashion-MNIST 2x1000") == words
    assert float(re.search(r"Fashion-MNIST 2x1000 \((.\d+\.\d\d)", found)[1]) == pytest.approx(
        shift, abs=spread
    )
    number = re.search(r"(.\d+\.\d\d) points on Fashion-MNIST 2x1000 \(n = 7;", evidence)
    assert float(number[1]) == pytest.approx(shift, abs=spread)


def test_a_difference_is_that_of_the_pairs():
    runs = pd.read_csv(FIGURES / "data/runs.csv", dtype={"preset": str})
    line = said(FIGURES, "The difference in test accuracy")
    for name, data, network in (
        ("MNIST 2x1000", "mnist", "2x1000"),
        ("CIFAR-10 3x2000", "cifar10", "3x2000"),
    ):
        mf, bp = (committed(runs, algorithm, data, network) for algorithm in ("mf", "bp"))
        difference = (mf - bp).dropna()
        number = re.search(rf"(.\d+\.\d\d) points on {name} \(n = (\d+);", line)
        assert float(number[1]) == pytest.approx(difference.mean(), abs=0.0051)
        assert int(number[2]) == len(difference)


def test_one_run_is_called_one_run(folder):
    change(folder, "runs", lambda runs: runs[(runs["algorithm"] != "mf") | (runs["seed"] == 0)])
    line = said(folder, "The difference in test accuracy")
    assert [word_of(line, n) for n in ("MNIST 2x1000", "CIFAR-10 3x2000")] == ["known from one run"] * 2
    assert "n = " not in line


def test_an_undecided_difference_whose_interval_leaves_out_zero_says_why(folder):
    change(folder, "runs", lambda runs: runs[(runs["data"] != "cifar10") | (runs["seed"] < 3)])
    found = dict(re.findall(r"points on ([^(]+) (\(n = [^)]+\))", said(folder, "The difference in test acc")))
    low, high = map(float, re.findall(r"[+-]\d+\.\d+", found["CIFAR-10 3x2000"]))
    assert low * high > 0
    assert float(re.search(r"p = (\S+) after correction", found["CIFAR-10 3x2000"])[1]) > 0.05
    assert "correction" not in found["Fashion-MNIST 2x1000"]


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_the_passes_are_those_of_the_runs(factor, folder):
    def changed(runs):
        mine = (runs["algorithm"] == "mf") & (runs["data"] != "digits")
        epochs = runs["outcome epochs"]
        return runs.assign(**{"outcome epochs": epochs.where(~mine, epochs * factor)})

    def told():
        ends = re.search(r"makes ([\d.]+) to ([\d.]+) times as many passes", said(folder, "Time of a pass: "))
        return [float(end) for end in ends.groups()]

    before = told()
    change(folder, "runs", changed)
    assert told() == pytest.approx([factor * end for end in before], rel=0.02)


@pytest.mark.parametrize(("joules", "count"), [(0.01, 0), (100.0, 3)])
def test_energy_counts_on_how_many_networks_it_is_more(joules, count, folder):
    def changed(runs):
        mine = (runs["algorithm"] == "mf") & runs["cost total_measured_j"].notna()
        runs.loc[mine, "cost total_measured_j"] *= joules
        return runs

    change(folder, "runs", changed)
    assert re.search(
        rf"takes more energy than backpropagation on {count} of \d+ networks", answers.findings(folder)
    )


def test_a_measured_pair_stands_beside_the_passes_of_all_pairs():
    runs = pd.read_csv(FIGURES / "data/runs.csv", dtype={"preset": str})
    runs = runs[runs["chapters"].str.contains("05") & (runs["protocol"] == "convergence")]
    runs = runs[(runs["data"] == "fashion_mnist") & (runs["architecture"] == "2x1000")]
    measured = runs.dropna(subset="cost total_measured_j")
    joules = measured.pivot(index="seed", columns="algorithm", values="cost total_measured_j")
    pair, every = (
        table.pivot_table("outcome epochs", "seed", "algorithm")[["mf", "bp"]].dropna()
        for table in (measured, runs)
    )
    energy = (joules["mf"] / joules["bp"]).dropna()
    passes, usual = (np.exp(np.log(table["mf"] / table["bp"]).mean()) for table in (pair, every))
    number = re.search(
        r"([+-]\d+) % on Fashion-MNIST 2x1000 \(one run\), [\d.]+ kJ beside [\d.]+ kJ, for ([\d.]+) times "
        r"the passes; with ([\d.]+) "
        r"times, the mean of n = (\d+), it would be ([+-]\d+) %",
        of_the_committed_records(),
    ).groups()
    more, of_the_pair, of_all, n, would_be = map(float, number)
    assert (of_the_pair, of_all, n) == (
        pytest.approx(passes, abs=0.0051),
        pytest.approx(usual, abs=0.0051),
        len(every),
    )
    assert more == pytest.approx(100 * (energy.iloc[0] - 1), abs=0.51)
    assert would_be == pytest.approx(100 * (energy.iloc[0] * usual / passes - 1), abs=0.51)


def test_an_estimate_is_set_right_for_the_passes_of_all_pairs_too():
    runs = pd.read_csv(FIGURES / "data/runs.csv", dtype={"preset": str})
    runs = runs[runs["chapters"].str.contains("05") & (runs["protocol"] == "convergence")]
    runs = runs[runs["data"].isin(["mnist", "fashion_mnist"]) & (runs["architecture"] == "2x1000")]
    own = runs[(runs["device"] == "cpu") & runs["cost total_estimated_j"].notna()]

    def ratio(table, column):
        both = table.pivot_table(column, ["data", "seed"], "algorithm")[["mf", "bp"]].dropna()
        return np.exp(np.log(both["mf"] / both["bp"]).groupby("data").mean())

    joules = ratio(own, "cost total_estimated_j")
    usual = joules * ratio(runs, "outcome epochs") / ratio(own, "outcome epochs")
    text = re.search(
        r"estimated at ([+-]\d+) to ([+-]\d+) % .*at the mean number of passes, ([+-]\d+) to ([+-]\d+) %\)",
        of_the_committed_records(),
    )
    ends = [100 * (end - 1) for of in (joules, usual) for end in (of.min(), of.max())]
    assert [float(number) for number in text.groups()] == pytest.approx(ends, abs=0.51)


@pytest.mark.parametrize(("factor", "ahead", "behind"), [(0.1, 3, 0), (20.0, 0, 3)])
def test_what_a_joule_buys_follows_from_what_a_pass_takes(factor, ahead, behind, folder):
    def changed(runs):
        mine = runs["algorithm"] == "mf"
        for column in ("cost train_measured_j", "cost prefix_measured_j"):
            runs.loc[mine, column] *= factor
        return runs

    change(folder, "runs", changed)
    counts = f"Mono-Forward is ahead on {ahead} of 3 networks and behind on {behind}."
    assert counts in said(folder, "**In short.**")
    line = said(folder, "Where passes are fixed")
    assert ("At that price Mono-Forward is ahead of plain backpropagation nowhere" in line) == (not ahead)
    assert ("and behind nowhere" in line) == (not behind)


def test_what_a_search_has_found_since_is_said_where_the_runs_are(folder):
    def found(better):
        def changed(trials):
            own = (trials["algorithm"] == "mf") & trials["study"].str.contains(
                "mf-mnist-2x1000-frontier-cap8-"
            )
            own &= trials["value"].eq(trials.loc[own, "value"].min())
            trials.loc[own, "value"] = 100.0 if better else 0.0
            return trials

        change(folder, "frontier_trials", changed)
        return answers.findings(folder)

    words = r"MF on MNIST 2x1000 with 8 passes \(\+\d\.\d\d points on validation data\)"
    assert not re.search(words, found(better=False))
    text = found(better=True)
    assert len(re.findall(rf"Better settings than those of these runs [^:]*{words}", text)) == 1
    assert len(re.findall(rf"better settings than those of the runs are known of [^;]*{words}", text)) == 1


def test_of_two_pairs_no_interval_is_given():
    assert re.search(r"\(n = 2\)", of_the_committed_records())
    assert not re.search(r"\(n = 2;", of_the_committed_records())


def test_the_paper_s_claim_is_named_beside_what_is_found():
    for metric, cost in (("total_j", "energy"), ("total_s", "time")):
        printed = published.results(
            source="thesis", protocol="published", metric=metric, variant="", baseline=""
        )
        means = printed.pivot_table("mean", ["data", "architecture"], "algorithm")
        most = 100 * (1 - (means["mf"] / means["bp"]).min())
        assert f"the paper claims up to {most:.0f} % less {cost}" in of_the_committed_records().replace(
            "The p", "the p"
        )


def test_what_a_number_of_passes_is_worth_follows_from_which_runs_ended_at_the_cap(folder):
    runs = pd.read_csv(FIGURES / "data/runs.csv", dtype={"preset": str})
    runs = runs[runs["chapters"].str.contains("05") & (runs["protocol"] == "convergence")]
    runs = runs[(runs["data"] == "mnist") & (runs["architecture"] == "3x1000")]
    ended = (runs["outcome epochs"] == runs["max_epochs"]).groupby(runs["algorithm"]).agg(["sum", "size"])
    words = "on MNIST 3x1000 {} of {} of its runs and {} of {} of backpropagation's ended at the cap"
    found, _ = said(FIGURES, words.format(*ended.loc["ff"], *ended.loc["bp"])).split("<details>")
    assert "makes a number of passes that is not known, because runs of both ended at the cap" in found

    def uncapped(algorithm):
        def changed(runs):
            mine = (runs["algorithm"] == algorithm) & (runs["architecture"] == "3x1000")
            runs.loc[mine, "outcome stages_at_cap"] = 0
            return runs

        return changed

    change(folder, "runs", uncapped("bp"))
    assert " times as many passes (or more on MNIST 3x1000," in said(folder, "A training pass takes")
    change(folder, "runs", uncapped("ff"))
    assert " times as many passes. " in said(folder, "A training pass takes")


def without(data: str, network: str):
    return lambda runs: runs[(runs["data"] != data) | (runs["architecture"] != network)]


def test_what_was_not_run_and_what_its_training_costs_is_open(folder):
    line = said(FIGURES, "What is open")
    assert "CIFAR-10 cnn and CIFAR-100" not in line
    gone = {"CIFAR-10 cnn": ("cifar10", "cnn"), "MNIST 3x1000": ("mnist", "3x1000")}
    for data, network in gone.values():
        change(folder, "runs", without(data, network))
    nothing = re.search("until it stops improving on ([^;]+);", said(folder, "What is open"))[1]
    assert all(network in nothing for network in gone)
    assert "Forward-Forward" in line
    assert "Forward-Forward" not in said(folder, "What is open")  # of which there is no run


def points(gain: float):
    """The frontier's table of BP and MF on one network, MF better at every budget, by nearly as much."""

    def changed(table):
        table = table[(table["data"] == "fashion_mnist") & table["algorithm"].isin(["bp", "mf"])].copy()
        mf = table["algorithm"] == "mf"
        bp = table[table["algorithm"] == "bp"]
        for column in ("val_accuracy", "test_accuracy"):
            best = bp[column].max()
            table.loc[mf, column] = best + gain + 0.01 * table["seed"].mod(3)
        return table

    return changed


def test_the_frontier_s_words_follow_its_points(folder):
    change(folder, "frontier", points(2.0))
    best, buys = said(folder, "at its best with"), said(folder, "Where passes are fixed")
    assert word_of(best.split("Mono-Forward")[1], "Fashion-MNIST 2x1000") == "higher"
    assert re.search(
        r"accuracy costs local learning, as a ratio of operations, 0\.\d\d .*by MF on Fashion", buys
    )
    ahead = "ahead on Fashion-MNIST 2x1000 (by up to"
    assert re.search(
        rf"local learning is {re.escape(ahead)} [\d.]+ points\), and backpropagation nowhere", buys
    )
    change(folder, "frontier", points(-5.0))
    best, buys = said(folder, "at its best with"), said(folder, "Where passes are fixed")
    assert word_of(best.split("Mono-Forward")[1], "Fashion-MNIST 2x1000") == "lower"
    assert "accuracy is not reached by local learning on Fashion-MNIST 2x1000." in buys
    assert f"ahead nowhere, and backpropagation {ahead.removeprefix('ahead ')}" in buys
    [row] = [line for line in answers.findings(folder).splitlines() if line.startswith("| Fashion-MNIST")]
    assert [cell.strip() for cell in row.split("|")[4:8:3]] == ["not reached", "nowhere"]


def test_the_frontier_s_settings_are_not_called_tuned_unless_they_were(folder):
    change(folder, "frontier", lambda table: table.assign(settings=table["algorithm"].map({"bp": "tuned"})))
    change(folder, "frontier", lambda table: table.fillna({"settings": "given"}))
    for about in ("at its best with", "Where passes are fixed"):
        assert "tuned here and given" in said(folder, about)
        assert "one plan of trials for all" not in said(folder, about)


def test_more_algorithms_and_data_sets_of_the_frontier_are_said_too(folder):
    def changed(table):
        table = table[table["data"] == "fashion_mnist"]
        other = table[table["algorithm"] == "mf"].assign(algorithm="mf_predsim")
        both = pd.concat([table, other.assign(run=other["run"] + "i")])
        mnist = both.assign(data="mnist", run=both["run"] + "m")
        return pd.concat([both, mnist])

    change(folder, "frontier", changed)
    line = said(folder, "at its best with")
    for words in (
        "Mono-Forward is",
        f"{look('mf_predsim').label} is",
        "on MNIST 2x1000",
        "Fashion-MNIST 2x1000",
    ):
        assert words in line


def test_what_is_not_recorded_is_not_said(folder):
    whole = of_the_committed_records()
    for name in ("frontier", "memory", "landscape", "pass_cost"):
        (folder / "data" / f"{name}.csv").unlink()
    less = answers.findings(folder)
    assert "suits it best, fixed in advance" in whole
    assert "suits it best, fixed in advance" not in less
    assert "depends on whether it keeps" not in less
    assert "What does a joule buy?" in whole
    assert "What does a joule buy?" not in less
    first, last = (sum(bool(re.match(r"\d+\. ", line)) for line in t.splitlines()) for t in (whole, less))
    assert last == first - 3  # two of the frontier, one of memory
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", less, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_nothing_on_real_data_is_one_sentence(folder, tmp_path):
    change(folder, "runs", lambda runs: runs[runs["data"] == "digits"])
    assert answers.findings(folder) == "No run on real data has been recorded yet."
    with pytest.raises(InvalidInput, match="run from a checkout"):
        answers.findings(tmp_path / "nowhere")


def test_eight_to_eleven_findings_each_with_a_chapter():
    lines = [
        line for line in of_the_committed_records("notebooks/").splitlines() if re.match(r"\d+\. ", line)
    ]
    assert 8 <= len(lines) <= 11
    for line in lines:
        goals = re.findall(r"\]\((notebooks/[^)]+)\)", line)
        assert goals
        assert all((FIGURES.parent / goal).exists() for goal in goals)
        assert not re.search(r"\bnan\b", line)


def test_the_chapter_that_shows_them_has_no_link_to_itself():
    assert "[chapter 05]" in of_the_committed_records("notebooks/")
    assert "[chapter 05]" not in of_the_committed_records()
    assert " ()" not in of_the_committed_records()


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (
            5.0,
            r"on 1 of 1 networks, by up to [5-9]\.\d\d points of .*, and behind nowhere\. "
            r".*on 1 of 1, and within 0\.25 points of it on 1\.",
        ),
        (-9.0, r"on 0 of 1 networks and behind at some on 1\. .*best on 0 of 1, and .*of it on 0\."),
    ],
)
def test_in_short_it_counts_the_networks_on_which_each_side_is_ahead(shift, words, folder):
    def changed(table):
        table = table[(table["data"] == "fashion_mnist") & table["algorithm"].isin(["bp", "mf"])]
        other = table["algorithm"] == "mf"
        return table.assign(**{c: table[c] + shift * other for c in ("test_accuracy", "val_accuracy")})

    change(folder, "frontier", changed)
    assert re.search(words, said(folder, "**In short.**"))


def test_in_short_the_passes_and_the_energy_are_those_of_the_findings(folder):
    short = said(folder, "**In short.**")
    energy = re.search(r"measured energy changes by (.* %), one run each", short)[1]
    assert f"({energy}, one run each; at the mean" in said(folder, "By the GPU's own counter")
    passes = re.search(r"makes ([\d.]+ to [\d.]+ times) as many passes as backpropagation", short)[1]
    assert f"Mono-Forward makes {passes} as many passes over" in said(folder, "The whole training took")
    (folder / "data" / "frontier.csv").unlink()
    assert re.match(r"\*\*In short\.\*\* Where training ends", answers.findings(folder))
