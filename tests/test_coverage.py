"""What was run, how much of the paper that fills and how long it took, of made records with known answers."""

import math

import pandas as pd
import pytest

from bpfree.evidence import tables
from bpfree.experiments import published
from bpfree.experiments.store import TIDY_COLUMNS

MACHINES = pd.DataFrame(
    [
        {"id": "a", "cpu": "Some CPU", "cores": 2, "accelerator": None},
        {"id": "b", "cpu": "Some CPU", "cores": 2, "accelerator": None},
        {"id": "b", "cpu": "Some CPU", "cores": 2, "accelerator": None},  # with another revision
        {"id": "g", "cpu": "Other CPU", "cores": 16, "accelerator": "NVIDIA X"},
    ]
)
MLP = {"data": "mnist", "architecture": "2x1000"}


def run(algorithm="bp", seed=0, machine="a", contended=False, **more) -> dict:
    own = {"algorithm": algorithm, "seed": seed, "machine": machine, "contended": contended}
    usual = {**MLP, "protocol": "convergence", "chapters": "05", "status": "finished", "busy_s": 10.0}
    return {**usual, **own, **more}


RUNS = pd.DataFrame(
    [
        *(run("bp", seed, "g", contended=seed > 0) for seed in range(3)),
        run("bp", 0, "a"),
        run("mf", 0, "b"),
        run("mf", 1, "b", protocol="matched"),
        run("mf", 9, "b", status="failed"),
        run("bp_ds", 5, "g", chapters="07"),
    ]
)
POINTS = pd.DataFrame(
    [
        {**MLP, "algorithm": "mf", "seed": seed, "passes": passes, "machine": "b", "s": s}
        for seed, passes, s in ((1, 2, 3.0), (1, 4, math.nan), (2, 2, math.nan))
    ]
)


def covered(**changes) -> pd.DataFrame:
    given = {"runs": RUNS, "points": POINTS, "machines": MACHINES, **changes}
    return tables.coverage(**given).set_index(["network", "algorithm"])


def test_a_cell_says_how_many_seeds_where_and_which_were_alone():
    found = covered()
    assert found.loc[("MNIST 2x1000", "BP"), "convergence"] == (
        "n = 3: 1 alone on Some CPU, 2 cores; 1 alone, 2 shared on NVIDIA X"
    )
    assert found.loc[("MNIST 2x1000", "MF"), "convergence"] == "n = 1: 1 alone on Some CPU, 2 cores #2"
    assert found.loc[("MNIST 2x1000", "MF"), "matched"] == "n = 1: 1 alone on Some CPU, 2 cores #2"


def test_the_frontier_counts_runs_and_seeds_and_seconds_that_are_not_told_were_shared():
    cell = covered().loc[("MNIST 2x1000", "MF"), "frontier"]
    assert cell == "n = 2: 1 alone, 2 shared on Some CPU, 2 cores #2"


def test_what_the_study_asks_for_is_not_run_and_what_it_does_not_is_empty():
    found = covered()
    assert found.loc[("CIFAR-100 3x2000", "MF"), "convergence"] == "not run"
    assert found.loc[("MNIST 2x1000", "BP"), "frontier"] == "not run"
    assert found.loc[("MNIST 2x1000", "BP"), "matched"] == ""
    assert found.loc[("MNIST 3x1000", "FF (SGD)"), "frontier"] == ""
    nothing = covered(runs=RUNS.iloc[:0], points=POINTS.iloc[:0])
    assert set(nothing.to_numpy().ravel()) == {"", "not run"}
    assert nothing.shape == found.shape


def test_the_ladder_s_runs_stand_apart():
    cells = covered().loc[("MNIST 2x1000", "BP-DS")]
    assert cells["equal settings"] == "n = 1: 1 alone on NVIDIA X"
    assert cells["convergence"] == ""


def test_data_sets_of_ones_own():
    found = covered(data=["fashion_mnist"]).index.get_level_values("network")
    assert {name.split()[0] for name in found} == {"Fashion-MNIST"}


# ---------------------------------------------------------------- the paper's cells


def records(seeds: int, **metrics) -> pd.DataFrame:
    """BP and MF on MNIST 2x1000, as `bpfree.records` gives them, every run with the same metrics."""
    rows = [
        {**MLP, "key": f"{name}{seed}", "algorithm": name, "seed": seed, "protocol": "convergence"}
        | {"precision": "fp32", "device": "cpu", "status": "finished", "settings": "thesis"}
        | {"metric": metric, "value": value, "machine": "a" if metric == "total_s" else None}
        for name in ("bp", "mf")
        for seed in range(seeds)
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(rows, columns=TIDY_COLUMNS)


def counts(seeds: int, **metrics) -> dict[str, tuple[int, int]]:
    found = tables.filled(records(seeds, **metrics))
    return {row[0]: tuple(row[2:]) for row in found.itertuples(index=False)}


def test_the_cells_are_those_that_the_paper_printed():
    thesis = published.results(source="thesis", protocol="published", variant="", baseline="")
    found = tables.filled(records(0)).set_index("the paper's table")
    assert (found["ours"].to_numpy() == [0, 0, 0, 0, 0, 0, 0, *found["ours"][-2:]]).all()
    mlps = thesis[thesis["architecture"].isin(["2x1000", "3x2000"]) & thesis["algorithm"].isin(["bp", "mf"])]
    printed = mlps[mlps["metric"].isin(["test_accuracy", "epochs"])]
    differences = printed[(printed["metric"] == "test_accuracy") & (printed["algorithm"] == "mf")]
    assert found.loc["5 Mono-Forward, performance", "cells"] == len(printed) + len(differences)


@pytest.mark.parametrize(("seeds", "several"), [(1, False), (2, False), (3, True)])
def test_a_number_of_ours_fills_a_cell_and_n_says_how_well(seeds, several):
    accuracy = counts(seeds, test_accuracy=98.0)
    # Two accuracies and a difference; in the table of all algorithms the difference again.
    assert accuracy["5 Mono-Forward, performance"] == (3, 3 * several)
    assert accuracy["7 all algorithms"] == (1, several)
    assert accuracy["1 Forward-Forward, performance"] == (0, 0)
    epochs = counts(seeds, test_accuracy=98.0, epochs=4)
    assert epochs["5 Mono-Forward, performance"] == (5, 5 * several)


def test_what_was_searched_here_fills_the_table_of_settings():
    found = tables.filled(records(0)).set_index("the paper's table")
    shown = tables.best_hyperparameters(tuned=pd.DataFrame(columns=["data"]).iloc[:0])
    assert found.loc["8 best hyperparameters", "cells"] == (shown["thesis"] != "").sum()
    assert 0 < found.loc["8 best hyperparameters", "ours"] < found.loc["8 best hyperparameters", "cells"]


# ---------------------------------------------------------------- seconds


def test_the_campaign_s_seconds_are_added_up_by_machine_beside_the_printed_ones():
    found = tables.campaign(RUNS, MACHINES).set_index(["algorithm", "machine"])
    gpu = found.loc[("BP", "NVIDIA X")]
    assert (gpu["runs"], gpu["of these shared"], float(gpu["all runs (s)"])) == (3, 2, 30.0)
    mf = found.loc[("MF", "Some CPU, 2 cores #2")]
    assert (mf["runs"], float(mf["all runs (s)"])) == (3, 30.0)  # a failed run took its time, too
    for source, protocol in (("thesis", "published"), ("2026", "convergence_loss")):
        where = {"source": source, "protocol": protocol, "metric": "total_s", "variant": "", "baseline": ""}
        [printed] = published.results(**where, algorithm="mf", **MLP).to_dict("records")
        cell = mf[f"one run, A100, {source} (s)"]
        assert (float(cell), cell.n) == (printed["mean"], printed["n"])
    assert not found.loc[("BP-DS", "NVIDIA X"), "one run, A100, thesis (s)"]  # which the thesis did not have
