"""What chapters say of the committed runs, against the tables in figures/data, read with pandas alone."""

import re
from pathlib import Path

import pandas as pd
import pytest

from bpfree.evidence import answers, gallery
from bpfree.experiments import published

DATA = Path(__file__).parent.parent / "figures" / "data"
LINE = re.compile(r"- (\S+) (\S+): (.+) − BP = \*\*(.\S+) points\*\* \(n = (\d+)")
CELL = re.compile(r"([\d.]+)(?: ± ([\d.]+))? \((\d+)\)")
NAMES = {"MNIST": "mnist", "Fashion-MNIST": "fashion_mnist", "CIFAR-10": "cifar10"}


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """A row per run of chapter 05 on real data, under the rule of the book."""
    rows = pd.read_csv(DATA / "runs.csv", dtype={"preset": str})
    rows = rows[rows["chapters"].str.contains("05") & (rows["protocol"] == "convergence")]
    return rows[rows["data"] != "digits"]


def by_seed(runs: pd.DataFrame, column: str, network: str, algorithm: str, device: str = "") -> pd.Series:
    data, architecture = network.split()
    mine = runs[(runs["data"] == NAMES[data]) & (runs["architecture"] == architecture)]
    mine = mine[(mine["algorithm"] == algorithm) & (mine["device"].eq(device) | (device == ""))]
    return mine.groupby("seed")[column].mean().dropna()


@pytest.mark.parametrize(
    ("algorithm", "lines"),
    [("mf", 3), ("mf_interleaved", 2), ("ff", 1), ("ff_sgd", 1), ("cafo_rand", 3), ("cafo_dfa", 2)],
)
def test_accuracy_against_backpropagation(runs, algorithm, lines):
    said = LINE.findall(answers.accuracy_against_bp(algorithm))
    assert len(said) == lines
    for data, architecture, _, points, n in said:
        of = (f"{data} {architecture}", algorithm), (f"{data} {architecture}", "bp")
        a, b = (by_seed(runs, "outcome test_accuracy", *arm) for arm in of)
        differences = (a - b).dropna()
        assert (float(points), int(n)) == (pytest.approx(differences.mean(), abs=0.0051), len(differences))


def test_the_word_and_the_interval_are_those_of_the_forest():
    table = gallery.contrasts_with_bp(gallery.recorded("forest")).query(
        "data != 'digits' and algorithm == 'mf'"
    )
    for line, row in zip(answers.accuracy_against_bp("mf").splitlines(), table.itertuples(), strict=True):
        assert f"n = {row.n}, 95 % interval {row.low:+.2f} to {row.high:+.2f};" in line
        assert line.endswith(f"): {row.verdict}")


def test_a_sentence_has_the_numbers_of_the_list():
    for algorithms, shared in ((("ff", "ff_sgd"), "CPU and GPU; settings of the thesis"), (("mf",), "")):
        sentence = answers.in_a_sentence(*algorithms)
        lines = answers.accuracy_against_bp(*algorithms).splitlines()
        listed = [re.search(r"- (.+?): (.+) − BP = (\*\*.+) points\*\* \((n.+?);", line) for line in lines]
        assert listed
        assert all(
            f"{number}** on {network} ({n}" in sentence
            for network, _, number, n in (found.groups() for found in listed)
        )
        assert len(re.findall(r"\bn = ", sentence)) == len(lines)
        assert all(sentence.count(name) == 1 for name in {found[2] for found in listed})
        assert all(f"; {line.rpartition('): ')[2]}" in sentence for line in lines)  # the verdict
        assert sentence.endswith(f" ({shared})." if shared else ").")
        assert sentence.count("settings") == (1 if shared else len(lines))


def test_whose_settings_and_which_hardware(runs):
    lines = dict(
        line.partition(":")[::2] for line in answers.accuracy_against_bp("mf", "cafo_rand_mse").splitlines()
    )
    devices = {"CPU": "cpu", "GPU": "cuda"}
    for network, algorithm, settings in (
        ("CIFAR-10 3x2000", "mf", "settings of the thesis"),
        ("MNIST 2x1000", "mf", "settings tuned here"),
        ("CIFAR-10 cnn", "cafo_rand_mse", "settings by default, BP of the thesis"),
    ):
        used = [name for name, d in devices.items() if len(by_seed(runs, "seed", network, algorithm, d))]
        assert f"; {' and '.join(used)}; {settings})" in lines[f"- {network}"]


@pytest.mark.parametrize(("where", "device"), [("here, CPU", "cpu"), ("here, GPU", "cuda")])
def test_ratios_of_whole_runs(runs, where, device):
    rows = answers.a_pass("mf").query("`measured by` == @where")
    assert len(rows) >= 2
    for network, _, *cells in rows.itertuples(index=False, name=None):
        passes, of_a_pass, whole = (CELL.fullmatch(str(cell)) for cell in cells)
        epochs = [by_seed(runs, "outcome epochs", network, name, device) for name in ("mf", "bp")]
        paced = runs.assign(pace=runs["cost total_s"] / runs["outcome epochs"])
        pace, seconds = (
            [by_seed(paced, column, network, name, device) for name in ("mf", "bp")]
            for column in ("pace", "cost total_s")
        )
        for cell, (a, b) in ((passes, epochs), (of_a_pass, pace), (whole, seconds)):
            seeds = a.index.intersection(b.index)
            assert int(cell[3]) == len(seeds)
            each = a[seeds] / b[seeds]  # any mean of them lies between them
            assert each.min() - 0.0051 <= float(cell[1]) <= each.max() + 0.0051
            assert (cell[2] is None) == (len(seeds) == 1)


def test_printed_ratios():
    rows = answers.a_pass("cafo_rand").query("`measured by` == 'thesis'").set_index("network")
    table = published.results(source="thesis", data="fashion_mnist", architecture="cnn", variant="")
    mean = table.set_index(["algorithm", "metric"])["mean"]
    epochs, seconds = (mean["cafo_rand", m] / mean["bp", m] for m in ("epochs", "total_s"))
    cells = [float(cell) for cell in rows.loc["Fashion-MNIST cnn"].iloc[1:]]
    assert cells == pytest.approx([epochs, seconds / epochs, seconds])


def test_a_run_without_seconds_of_its_own_is_no_pair(monkeypatch):
    recorded = gallery.recorded
    whole = answers.a_pass("mf").set_index(["network", "measured by"])

    def fewer(name):
        table = recorded(name)
        if name != "forest":
            return table
        seconds = table.query("unit == 's' and device == 'cpu' and data == 'mnist'")
        return table.drop(seconds.index[seconds["seed"] == seconds["seed"].min()])

    monkeypatch.setattr(gallery, "recorded", fewer)
    left = answers.a_pass("mf").set_index(["network", "measured by"])
    place = ("MNIST 2x1000", "here, CPU")
    before, after = (int(CELL.fullmatch(str(t.loc[place, "time (× BP)"]))[3]) for t in (whole, left))
    assert after == before - 1
    assert str(whole.loc[place, "passes (× BP)"]) == str(left.loc[place, "passes (× BP)"])


def test_what_a_stage_saves():
    table = pd.read_csv(DATA / "pass_cost.csv").query("metric == 'train'")
    for row in answers.saving("mf").itertuples(index=False):
        mine = table[(table["data"] == row.data) & (table["architecture"] == row.architecture)]
        train = mine.set_index(["algorithm", "prefix"])["value"]
        kept, again = (train["mf", way] / train["bp", "kept"] for way in ("kept", "recomputed"))
        assert row[2:] == pytest.approx((again, kept, 100 * (1 - again) / (1 - kept)))


def test_what_forward_forward_costs(runs):
    table = answers.forward_forward_bill().set_index("Forward-Forward's (× BP)")
    here = table["here"]
    mnist = runs[(runs["data"] == "mnist") & (runs["architecture"] == "3x1000")]
    a_pass = (
        mnist.filter(like="_flop").div(mnist["outcome epochs"], axis=0).groupby(mnist["algorithm"]).mean()
    )
    ratio = a_pass.loc["ff"] / a_pass.loc["bp"]
    assert float(here["operations of a training pass"]) == pytest.approx(ratio["cost train_flop"])
    assert float(here["operations of a pass and its validation"]) == pytest.approx(ratio["cost total_flop"])
    ff, bp = (by_seed(runs, "outcome epochs", "MNIST 3x1000", name) for name in ("ff", "bp"))
    each = (ff / bp).dropna()
    assert here["passes"].n == len(each)
    assert float(here["passes"]) == pytest.approx(each.prod() ** (1 / len(each)))
    alone = mnist.dropna(subset="cost total_s").groupby("algorithm").size()
    assert (here["time of the training"] == "not known") == (not {"ff", "bp"} <= set(alone.index))
    printed = published.results(source="2026", data="mnist", architecture="3x1000", metric="total_j")
    joules = printed[printed["variant"] == ""].set_index("algorithm")["mean"]
    assert float(table.loc["energy of the training", "2026"]) == pytest.approx(joules["ff"] / joules["bp"])
    assert not table.loc["operations of a training pass", "thesis"]


def test_searches_are_told_by_their_own_trials():
    table = pd.read_csv(DATA / "tuning.csv").sort_values("trial")
    said = answers.tuning_against_algorithm(few=3)
    values = table.sort_values("trial").groupby(["data", "algorithm"])["value"]
    late = (values.max() - values.apply(lambda trials: trials.iloc[:3].max())).tolist()
    spread = (values.max() - values.min()).tolist()
    assert f"and the best lie {min(spread):.1f} to {max(spread):.1f} points" in said
    assert f"the first 3 and the best of all {min(late):.2f} to {max(late):.2f}," in said
    for data, name in (("fashion_mnist", "Fashion-MNIST"), ("mnist", "MNIST")):
        bp, mf = (
            table[(table["data"] == data) & (table["algorithm"] == a)]["value"].tolist() for a in ("bp", "mf")
        )
        spreads = sorted(max(v) - min(v) for v in (bp, mf))
        assert f"best lie {spreads[0]:.1f} to {spreads[1]:.1f} points" in said
        assert f"**{max(mf) - max(bp):+.2f} points**" in said
        assert f"({max(mf) - max(bp[:3]):+.2f} if that had its first 3" in said
        joules = table[(table["data"] == data) & (table["algorithm"] == "mf")]["joules"]
        assert f"MF on {name} **{joules.sum() / 1000:.1f} kJ**" in answers.search_bill()


def test_idle_power_is_the_counters_and_no_share_is_above_all():
    sensors = pd.read_csv(DATA / "sensors.csv").set_index(["phase", "sensor"])
    idle = sensors.loc[("idle, with a context", "counter")]
    said = answers.idle_power()
    assert f"draws **{idle['joules'] / idle['seconds']:.0f} W**" in said
    low, high = map(int, re.search(r"\*\*(\d+) to (\d+) %\*\*", said).groups())
    assert 0 < low < high <= 100


def test_power_is_compared_run_by_run_and_as_printed():
    printed = published.results(source="2026", protocol="convergence_loss", metric="power_w", variant="")
    printed = printed.pivot(index=["data", "architecture"], columns="algorithm", values="mean")
    ratios = (printed["mf"] / printed["bp"]).dropna()
    said = answers.idle_power()
    assert f"in print (2026) {ratios.min():.2f} to {ratios.max():.2f} times." in said
    [drawn] = re.findall(r"it drew (\d+) to (\d+) W", said)
    traces = pd.read_csv(DATA / "traces.csv").query("channel == 'gpu:0' and quantity == 'power'")
    means = traces.groupby("run")["value"].mean()  # warm-up included, which lowers them
    assert means.min() <= int(drawn[0]) + 1
    assert int(drawn[1]) <= traces["value"].max()


def test_how_long_something_ran_on_the_gpu():
    said = answers.gpu_waits()
    runs = pd.read_csv(DATA / "runs.csv", dtype={"preset": str})
    runs = runs[runs["figures"].str.contains("mf_resources") & (runs["device"] == "cuda")]
    runs = runs.assign(run=runs["key"].str[:12]).set_index("run")["algorithm"]
    traces = pd.read_csv(DATA / "traces.csv").query("channel == 'gpu:0' and quantity == 'utilisation'")
    # A run's card works from its first busy sample on; the means stay within the samples either way.
    busy = traces[traces["value"] > 0].groupby("run")["value"].mean()
    busy = busy.groupby(runs.reindex(busy.index)).agg(["min", "max"]).round()
    found = re.findall(r"\*\*(\d+) to (\d+) %\*\* (?:of the time )?for (?:b|M)", said)
    assert len(found) == 2
    for name, span in zip(("bp", "mf"), found, strict=True):
        assert [float(end) for end in span] == pytest.approx(busy.loc[name].tolist(), abs=1)
    assert "In the authors' runs (2026) the GPU was busy 10 to 17 and 6 to 8 % of the time" in said
    rand = answers.a_pass("cafo_rand").set_index("measured by")["time of a pass (× BP)"]
    assert f"on the GPU **{float(rand['here, GPU']):.2f}**" in said


@pytest.mark.parametrize(("where", "device"), [("CPU", "cpu"), ("GPU", "cuda")])
def test_the_time_of_whole_trainings_is_the_span_over_networks(runs, where, device):
    ratios = []
    for network in ("MNIST 2x1000", "Fashion-MNIST 2x1000", "CIFAR-10 3x2000"):
        a, b = (by_seed(runs, "cost total_s", network, name, device) for name in ("mf", "bp"))
        if len(each := (a / b).dropna()):
            ratios.append((each.min(), each.max()))
    least, most = map(float, re.search(r"\*\*([\d.]+) to ([\d.]+) times", answers.whole_time(where)).groups())
    (low, high), (low_of_most, high_of_most) = min(ratios), max(ratios)
    assert low - 0.0051 <= least <= high + 0.0051  # the mean of a network's pairs lies among them
    assert low_of_most - 0.0051 <= most <= high_of_most + 0.0051


def test_the_sweeps_ratios_are_those_of_its_points():
    index = ["sweep", "depth", "width", "batch", "algorithm", "metric"]
    value = pd.read_csv(DATA / "scaling.csv").set_index(index)["value"].sort_index()
    deepest = value["depth", 32, 500, 128]
    said = answers.scaling_ratios()
    assert f"with 32 **{deepest['mf', 'saved_bytes'] / deepest['bp', 'saved_bytes']:.2f}** times" in said
    ff = value.xs("ff", level="algorithm") / value.xs("bp", level="algorithm")
    times = ff.xs("step_s", level="metric")
    assert f"Forward-Forward's takes **{times.min():.2f} to {times.max():.2f}** times as long" in said


def test_local_mlps_in_print_and_here(runs):
    table = answers.nokland_eidnes_beside_ours().set_index("data")
    printed = published.results(source="nokland-eidnes", architecture="3x1024 with BatchNorm", data="mnist")
    printed = printed.set_index("algorithm")["mean"]
    mnist = table.loc["MNIST"]
    assert [float(cell) for cell in mnist.iloc[:2]] == [printed["bp"], printed["pred"]]
    for cell, name in zip(mnist.iloc[2:], ("bp", "mf_interleaved", "mf"), strict=True):
        seeds = by_seed(runs, "outcome test_accuracy", "MNIST 2x1000", name)
        assert (float(cell), cell.n) == (pytest.approx(seeds.mean()), len(seeds))
    assert str(table.loc["CIFAR-10", "MF interleaved, here (%)"]) == ""  # not run there
