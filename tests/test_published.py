"""The published settings and results: what the loader returns is what was printed, in bpfree's names."""

import csv
import math
from importlib import resources

import pandas as pd
import pytest

from bpfree.algorithms import ARMS
from bpfree.data import NAMES
from bpfree.errors import UnknownName
from bpfree.experiments import published
from bpfree.experiments.experiment import Experiment, parse_architecture
from bpfree.training import Stopping


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    """The file, read by another reader."""
    with (resources.files("bpfree.experiments.published") / "hyperparameters.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_line_is_read_with_its_type(lines):
    table = published.hyperparameters()
    assert len(table) == len(lines) > 300
    assert table.columns.tolist() == ["source", "algorithm", "data", "architecture", "parameter", "value"]
    for line, row in zip(lines, table.to_dict("records"), strict=True):
        text, value = line["value"], row["value"]
        assert {**row, "value": text} == line
        if text == "none":
            assert value is None
        elif isinstance(value, str):
            assert value == text
            assert text.lower() not in ("nan", "inf", "true", "false")
        else:
            assert type(value) is (
                int if text.lstrip("-").isdigit() else float if "." in text or "e" in text else bool
            )
            assert isinstance(value, bool) or math.isclose(value, float(text), rel_tol=0)


def test_a_setting_is_given_once(lines):
    keys = [tuple(v for k, v in line.items() if k != "value") for line in lines]
    assert len(keys) == len(set(keys))


def test_it_is_filtered_by_any_columns():
    table = published.hyperparameters(source="thesis", algorithm="mf", data="fashion_mnist")
    assert set(table["source"]) == {"thesis"}
    assert set(table["algorithm"]) == {"mf"}
    assert dict(zip(table["parameter"], table["value"], strict=True))["optimiser"] == "adam"
    assert table.index.tolist() == list(range(len(table)))
    assert published.hyperparameters(source="nobody").empty


def test_every_name_in_it_is_one_of_this_package(lines):
    for line in lines:
        assert line["source"] in ("thesis", "2026", "gong")
        assert line["data"] in NAMES
        parse_architecture(line["architecture"])
        if line["parameter"].startswith("stopping."):
            Stopping(**{line["parameter"].removeprefix("stopping."): published.parse(line["value"])})
        elif line["algorithm"] in ARMS:
            assert line["parameter"] in ARMS[line["algorithm"]].algorithm.options()


def test_rates_and_patiences_are_in_their_range():
    table = published.hyperparameters()
    rates = table.loc[table["parameter"].str.fullmatch(r"(.*_)?lr"), "value"]
    assert len(rates) > 20
    assert all(1e-6 < rate < 1 for rate in rates)
    for name in ("epochs", "batch_size", "stopping.patience"):
        values = table.loc[table["parameter"] == name, "value"]
        assert all(value is None or (isinstance(value, int) and value > 0) for value in values)


CONV = "conv-64-128-256-512"
PLAIN = f"cifar10_plain {CONV}"

# Copied by hand from what the papers printed: in their words and units, then in ours.
PRINTED = [
    # FF-AdamW on Fashion-MNIST 4x2000, training time
    ("574.6 ± 134.49 s, n=3", "thesis fashion_mnist 4x2000 ff total_s", 574.6, 134.49, "s", 3),
    # MF on CIFAR-10 3x2000, energy
    ("3.17 ± 0.06 Wh, n=3", "thesis cifar10 3x2000 mf total_j", 11412.0, 216.0, "J", 3),
    # CaFo-DFA-CE on CIFAR-100, carbon
    ("39.23 ± 4.88 g, n=3", "thesis cifar100 cnn cafo_dfa co2e_g", 39.23, 4.88, "g", 3),
    # BP on the CIFAR-10 CNN, forward and backward of one sample
    ("0.28893 GFLOPs", "thesis cifar10 cnn bp sample_flop", 288_930_000, None, "FLOP", 3),
    # MF on MNIST 2x1000, NVML, device-wide
    ("934 MiB", "thesis mnist 2x1000 mf memory_nvml_mib", 934.0, None, "MiB", 3),
    # MF against BP on CIFAR-10
    ("energy -40.78 %", "readme cifar10 3x2000 mf/bp total_j_change", -40.78, None, "%", 3),
    # MF on CIFAR-10 under the harmonised rule
    ("66.374 ± 0.28125 %, n=20", "2026 cifar10 3x2000 mf test_accuracy", 66.374, 0.28125, "%", 20),
    # CaFo-DFA-CE against BP on CIFAR-10
    ("energy 8.308 x", "2026 cifar10 cnn cafo_dfa/bp total_j_ratio", 8.308, None, "x", 5),
    # MF minus MF-Joint on CIFAR-10, lower end of the interval
    ("3.904 pp", "2026 cifar10 3x2000 mf/mf_joint test_accuracy_difference_low", 3.904, None, "pp", 20),
    # MF on Fashion-MNIST at BP's budget
    ("6.38862 ± 0.05261 %", "2026 fashion_mnist 2x1000 mf utilisation", 6.38862, 0.05261, "%", 20),
    # MF with its activations cached on the host, MNIST
    ("6.73066 Wh", "2026 mnist 2x1000 mf[cache on host] total_j", 24230.376, 3928.392, "J", 20),
    # Mono-Forward on its authors' CNN: their later repository, and a third party's word of the first version
    ("80.20 ± 0.35", f"gong-abdulla {PLAIN} mf_interleaved[local-bp] test_accuracy", 80.2, 0.35, "%", 3),
    ("83.58 ± 0.49", f"gong-abdulla {PLAIN} mf_joint[ce-matched-ge] test_accuracy", 83.58, 0.49, "%", 3),
    ("84.51 ± 0.05", f"gong-abdulla {PLAIN} bp test_accuracy", 84.51, 0.05, "%", 3),
    ("77.8", f"gong {PLAIN} bp test_accuracy", 77.8, None, "%", None),
    ("seed 426: 91.60", f"gong-abdulla fashion_mnist {CONV} bp[seed 426] test_accuracy", 91.6, None, "%", 1),
    # predsim on CIFAR-10, one seed
    ("error 5.58 %", "nokland-eidnes cifar10 vgg8b predsim test_accuracy", 94.42, None, "%", 1),
    # Forward-Forward as Hinton printed it
    (
        "error 1.36 %",
        "hinton mnist 4x2000 ff[supervised, 60 epochs] test_accuracy",
        98.64,
        None,
        "%",
        None,
    ),
]


def where(text: str) -> dict:
    """A row's place, of the form "source data architecture algorithm[variant]/baseline metric"."""
    source, data, architecture, *algorithm, metric = text.split(" ")
    name, _, baseline = " ".join(algorithm).partition("/")
    name, _, variant = name.partition("[")
    return {
        "source": source,
        "data": data,
        "architecture": architecture,
        "algorithm": name,
        "variant": variant.rstrip("]"),
        "baseline": baseline,
        "metric": metric,
    }


@pytest.mark.parametrize(("printed", "place", "mean", "sd", "unit", "n"), PRINTED)
def test_results_are_what_was_printed(printed, place, mean, sd, unit, n):
    found = published.results(**where(place))
    protocol = {"2026": "matched" if "utilisation" in place else "convergence_loss"}.get(place.split()[0])
    [row] = found[(found["protocol"] == protocol) if protocol else slice(None)].to_dict("records")
    assert row["mean"] == pytest.approx(mean, rel=1e-9), printed
    assert math.isnan(row["sd"]) if sd is None else row["sd"] == pytest.approx(sd, rel=1e-9)
    assert row["unit"] == unit
    assert pd.isna(row["n"]) if n is None else row["n"] == n


def test_a_verdict_is_a_word():
    [row] = published.results(metric="verdict", data="mnist", algorithm="mf_joint", baseline="bp_ds").to_dict(
        "records"
    )
    assert (row["verdict"], row["n"]) == ("EQUIVALENT", 20)
    assert math.isnan(row["mean"])
    words = published.results()
    assert ((words["verdict"] != "") == (words["metric"] == "verdict")).all()
    assert set(words["verdict"]) == {"", "EQUIVALENT", "DIFFERENT"}


def test_all_results_are_there_and_each_once():
    table = published.results()
    # 1000 printed numbers; the weights of 2x1000 were printed once for MNIST and Fashion-MNIST
    assert len(table) == 1000 + 1
    counts = table["source"].value_counts()
    assert counts[["thesis", "readme", "2026", "2026-reports"]].tolist() == [193, 60, 468, 68]
    place = ["source", "protocol", "data", "architecture", "algorithm", "variant", "baseline", "metric"]
    assert not table.duplicated(place).any()
    assert not table.loc[table["metric"] != "verdict", "mean"].isna().any()
    assert (table["origin"] != "").all()


def test_results_of_the_study_speak_this_package_s_names():
    table = published.results(source=["thesis", "readme", "2026", "2026-reports"])
    assert set(table["algorithm"]) <= {*ARMS, "any"}
    assert set(table["baseline"]) <= {*ARMS, ""}
    assert set(table["data"]) <= {*NAMES, "all"}
    for architecture in set(table["architecture"]) - {"all"}:
        parse_architecture(architecture)
    assert (table.groupby("metric")["unit"].nunique() == 1).all()
    assert set(table["source"]) | set(published.results()["source"]) == set(published.PUBLICATIONS)


def test_printed_ratios_follow_from_printed_means():
    """So units were converted alike and every number stands at the right arm."""
    table = published.results(source="2026", protocol="convergence_loss", variant="")
    place = ["data", "architecture", "algorithm"]
    means = table[table["baseline"] == ""].set_index([*place, "metric"])["mean"]
    ratios = table[table["metric"].isin(["total_j_ratio", "total_s_ratio", "memory_allocator_mib_ratio"])]
    assert len(ratios) == 12 * 3 + 4 * 2
    for row in ratios.to_dict("records"):
        metric = row["metric"].removesuffix("_ratio")
        ours = means[row["data"], row["architecture"], row["algorithm"], metric]
        theirs = means[row["data"], row["architecture"], "bp", metric]
        assert ours / theirs == pytest.approx(row["mean"], abs=0.006)


def test_an_unknown_column_is_said():
    with pytest.raises(UnknownName, match="did you mean 'metric'"):
        published.results(metrics="epochs")


def test_the_authors_cnn_is_a_network_of_this_package_and_runs_under_their_protocol():
    """Two optimisers, one of which validation chose: Adam of backpropagation on CIFAR-10, else SGD."""
    arms = published.hyperparameters(source="gong")[["algorithm", "data", "architecture"]].drop_duplicates()
    assert len(arms) == 3 * 4
    for algorithm, data, architecture in arms.to_numpy().tolist():
        experiment = Experiment(algorithm, data, 424, architecture, protocol="published", preset="gong")
        options, rule = experiment.resolved_options(experiment.rule()), experiment.rule()
        adam = (algorithm, data) == ("bp", "cifar10_plain")
        profile = ("adam", 1e-3, "cosine_epochs") if adam else ("sgd", 0.1, "step_30")
        assert (options["optimiser"], options["lr"], options["lr_schedule"]) == profile
        assert (options["momentum"], options["weight_decay"], options["batch_size"]) == (0.9, 0.0, 128)
        assert (options["epochs"], rule.max_epochs) == (200, None)
        assert (rule.stopping.metric, rule.stopping.patience) == ("val_accuracy", 15)
        if algorithm == "bp":
            assert options["head_bias"] is False
        else:
            assert (options["predict_by"], options["projection_bias"]) == ("sum", True)
            assert options["aux_weight"] == 1.0
        printed = published.results(source="gong-abdulla", algorithm=algorithm, data=data)
        assert architecture in set(printed["architecture"])


def test_their_square_s_other_corners_take_the_same_settings():
    place = {"data": "cifar10_plain", "seed": 424, "architecture": CONV, "preset": "gong"}
    corners = ("mf", "mf_sequential_joint", "mf_interleaved", "mf_joint")
    found = [Experiment(name, **place) for name in corners]
    options = [e.resolved_options(e.rule()) for e in found]
    for one in options:
        assert {**one, "schedule": 0, "detach": 0} == {**options[0], "schedule": 0, "detach": 0}
    assert len({(one["schedule"], one["detach"]) for one in options}) == 4
