"""The published settings: what the loader returns is what stands in the file, and the algorithms know it."""

import csv
import math
from importlib import resources

import pytest

from bpfree import published
from bpfree.algorithms import ALGORITHMS
from bpfree.data import NAMES
from bpfree.experiment import parse_architecture
from bpfree.training import Stopping


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    """The file, read by another reader."""
    with (resources.files("bpfree.published") / "hyperparameters.csv").open() as file:
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
        assert line["source"] in ("thesis", "2026")
        assert line["data"] in NAMES
        parse_architecture(line["architecture"])
        if line["parameter"].startswith("stopping."):
            Stopping(**{line["parameter"].removeprefix("stopping."): published._value(line["value"])})
        elif line["algorithm"] in ALGORITHMS:
            cls, _ = ALGORITHMS[line["algorithm"]]
            assert line["parameter"] in cls.options()


def test_rates_and_patiences_are_in_their_range():
    table = published.hyperparameters()
    rates = table.loc[table["parameter"].str.fullmatch(r"(.*_)?lr"), "value"]
    assert len(rates) > 20
    assert all(1e-6 < rate < 1 for rate in rates)
    for name in ("epochs", "batch_size", "stopping.patience"):
        values = table.loc[table["parameter"] == name, "value"]
        assert all(value is None or (isinstance(value, int) and value > 0) for value in values)
