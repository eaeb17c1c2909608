import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import psutil
import pytest
import torch
from helpers import in_background, same, weights
from matplotlib.text import Text
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

import bpfree
from bpfree import Experiment, tuning
from bpfree.algorithms import ARMS
from bpfree.errors import BpfreeError, InvalidInput, UnknownName
from bpfree.evidence import figures
from bpfree.experiments import published, study, tuned
from bpfree.experiments.experiment import fit
from bpfree.tuning import __main__ as cli
from bpfree.tuning import search
from bpfree.tuning.storage import Place, Slots, file_lock, open_storage

SMALL = {"batch_size": 16}
UNPOOLED = {"poolclass": NullPool}  # a pool would leave its connections to the garbage collector


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "nothing-shipped.csv")
    return tmp_path / "store"


@pytest.fixture
def toy(tmp_path) -> str:
    """Three separable classes of 8x8 images, as a file."""
    rng = np.random.default_rng(0)
    parts = {}
    for split, n in (("train", 90), ("test", 12)):
        y = np.arange(n) % 3
        x = rng.normal(size=(n, 8, 8)) + 2 * (np.arange(8) // 3 == y[:, None])[:, None, :]
        parts |= {f"x_{split}": x.astype("float32"), f"y_{split}": y}
    np.savez(tmp_path / "toy.npz", **parts)
    return str(tmp_path / "toy.npz")


def arm(toy: str, algorithm: str = "bp", **changes) -> Experiment:
    network = "cnn-2-2" if algorithm.startswith("cafo") else "2x6"
    settings = {"architecture": network, "max_epochs": 2, "hyperparameters": SMALL, **changes}
    return Experiment(algorithm, toy, **settings)


def tune(experiment, trials, *rest, **how):
    return tuning.tune(experiment, trials, *rest, progress=False, **how)


def drawn(study) -> list[dict]:
    return [t.params for t in study.trials]


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- spaces


@pytest.mark.parametrize("algorithm", sorted({*ARMS} - {*study.BUDGET_ONLY["mf"]}))
def test_every_parameter_of_every_space_does_something_and_has_three_decades(algorithm, toy):
    options = {"predict_by": "softmax"} if algorithm.startswith("ff") else {}
    experiment = arm(toy, algorithm, max_epochs=1, options=options)
    images = bpfree.load(toy)
    for name, (low, high, scale) in tuning.space(experiment).items():
        assert scale == "log"
        assert high / low >= 999
        ends = []
        for value in (low, high):
            own = {**SMALL, "lr": 0.01, name: value} if "lr" in ARMS[algorithm].space else {name: value}
            trained, _ = fit(replace(experiment, hyperparameters=own), images, progress=False)
            ends.append(weights(trained))
        assert not same(*ends), name


def test_what_does_nothing_is_not_searched(toy):
    by_goodness = tuning.space(arm(toy, "ff"))
    assert set(by_goodness) == {"lr", "weight_decay"}
    for options in ({"predict_by": "softmax"}, {"negatives": "hard"}):
        assert {"head_lr", "head_weight_decay"} < set(tuning.space(arm(toy, "ff", options=options)))
    assert "block_lr" in tuning.space(arm(toy, "cafo_dfa"))
    assert "block_lr" not in tuning.space(arm(toy, "cafo_rand"))


def test_lengths_are_searched_only_where_the_protocol_gives_none():
    paper = {"data": "fashion_mnist", "architecture": "2x1000"}
    assert "epochs" not in tuning.space(Experiment("mf", **paper))
    assert tuning.space(Experiment("mf", **paper, protocol="published"))["epochs"].scale == "int"


def test_what_the_experiment_fixes_is_not_searched(toy):
    assert set(tuning.space(arm(toy, hyperparameters={"lr": 0.1}))) == {"weight_decay"}
    with pytest.raises(InvalidInput, match="nothing of bp is left to search"):
        tuning.space(arm(toy, hyperparameters={"lr": 0.1, "weight_decay": 0.0}))


@pytest.mark.parametrize(
    ("algorithm", "own", "says"),
    [
        ("bp", {"lrr": (1e-4, 1e-1, "log")}, "unknown parameter in the space of bp 'lrr': did you mean 'lr'"),
        ("bp", {"lr": (1e-1, 1e-1, "log")}, r"\(0.1, 0.1\) of lr is empty: give low < high"),
        ("bp", {"lr": (1e-1, 1e-4, "log")}, "of lr is empty: give low < high"),
        ("bp", {"lr": (0.0, 1e-1, "log")}, "log takes numbers greater than 0"),
        ("bp", {"lr": (-1.0, 1e-1)}, "lr=-1.0: use a number greater than 0"),
        ("bp", {"lr": (1e-4, math.inf, "log")}, "takes finite numbers"),
        (
            "bp",
            {"lr": (1e-4, 1e-1, "logarithmic")},
            "unknown scale of lr 'logarithmic': allowed are log, linear",
        ),
        ("bp", {"lr": 0.1}, "give .low, high. or"),
        ("bp", {"lr": "ab"}, "give .low, high. or"),
        ("bp", {"batch_size": (0.5, 16, "int")}, "int takes whole numbers"),
        ("bp", {"momentum": (0.1, 0.9)}, "momentum in the space does nothing: optimiser='adamw'"),
        ("bp", {"epochs": (0, 10, "int")}, "epochs=0: use a positive integer"),
        ("bp", {"optimiser": (1, 2)}, "unknown optimiser 1"),
        ("bp", {}, "an empty space"),
        ("ff", {"head_lr": (1e-4, 1e-1, "log")}, "head_lr in the space does nothing"),
        ("mf", {"aux_weight": (0.1, 10.0, "log")}, "mf has one loss per layer and no λ"),
        ("cafo_rand", {"block_lr": (0.1, 1.0)}, "random blocks are not trained"),
        ("cafo_rand", {"ridge": (0.1, 1.0)}, "ridge in the space does nothing"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(algorithm, own, says, toy, store):
    with pytest.raises(BpfreeError, match=says) as error:
        tune(arm(toy, algorithm, hyperparameters={}), 2, space=own)
    one_line(error)
    assert not store.exists()  # nothing was begun


def test_a_parameter_that_is_fixed_cannot_be_searched(toy):
    with pytest.raises(InvalidInput, match=r"lr is in the space and fixed at 0\.1"):
        tune(arm(toy, hyperparameters={"lr": 0.1}), 2, space={"lr": (0.1, 1.0)})


def test_own_ranges_are_what_is_searched(toy):
    own = {"lr": (1e-3, 1e-2, "log"), "batch_size": (8, 32, "int")}
    study = tune(arm(toy, hyperparameters={}), 5, space=own)
    for parameters in drawn(study):
        assert set(parameters) == set(own)
        assert 1e-3 <= parameters["lr"] <= 1e-2
        assert parameters["batch_size"] in range(8, 33)


def test_the_table_has_a_row_per_parameter(toy):
    table = tuning.search_spaces(arm(toy), arm(toy, "cafo_dfa"))
    assert list(table["parameter"][:2]) == ["lr", "weight_decay"]
    assert len(table) == 2 + 4
    assert (table["decades"] >= 3).all()


# ---------------------------------------------------------------- a study


def test_a_study_goes_on_to_the_total_as_if_it_had_never_stopped(toy, tmp_path):
    whole = tune(arm(toy), 12, tmp_path / "whole.log")  # beyond TPE's ten start-up trials
    tune(arm(toy), 4, tmp_path / "parts.log")
    parts = tune(arm(toy), 12, tmp_path / "parts.log")
    assert len(parts.trials) == 12
    assert drawn(parts) == drawn(whole)
    assert [t.value for t in parts.trials] == [t.value for t in whole.trials]
    assert len(tune(arm(toy), 12, tmp_path / "parts.log").trials) == 12  # nothing is left to do
    assert len(tune(arm(toy), 2, tmp_path / "parts.log").trials) == 12


def test_the_objective_is_the_validation_accuracy_that_a_run_records(toy):
    kept_was_not_last = False
    for algorithm in ("bp", "mf", "ff", "cafo_dfa"):
        experiment = arm(toy, algorithm, max_epochs=6)
        trial = tune(experiment, 1, space={"lr": (0.2, 0.5, "log")}).trials[0]  # which shakes
        record = bpfree.run(replace(experiment, hyperparameters={**SMALL, **trial.params}), progress=False)
        assert trial.value == record.metrics["val_accuracy"]
        kept_was_not_last |= trial.value != record.history["val_accuracy"].iloc[-1]
    assert kept_was_not_last


def test_two_studies_do_not_draw_the_same_and_no_two_trials_do(toy):
    studies = [tune(arm(toy), 4, name=name) for name in ("one", "two")]
    values = [p["lr"] for study in studies for p in drawn(study)]
    assert len(set(values)) == 8


def test_start_up_trials_cover_the_whole_range(toy, tmp_path):
    study = tune(arm(toy), 10, tmp_path / "s.log")
    decades = {math.floor(math.log10(p["lr"])) for p in drawn(study)}
    assert len(decades) >= 3
    # uniform in the logarithm: the mean of ten lies within four standard deviations of the middle
    mean = np.mean([math.log10(p["lr"]) for p in drawn(study)])
    assert abs(mean + 3.0) < 4 * 4 / math.sqrt(12 * 10)


def proposed(number: int) -> list[tuple]:
    """The trials of a study whose value is known without training."""
    ranges = {"lr": bpfree.Range(1e-5, 1e-1, "log"), "epochs": bpfree.Range(1, 40, "int")}
    study = optuna.create_study(direction="maximize", study_name="one", sampler=search.TrialSeeded())
    for _ in range(number):
        trial = study.ask()
        tuning.draw(trial, ranges)
        study.tell(trial, -abs(math.log10(trial.params["lr"]) + 3) - trial.params["epochs"] / 40)
    return [(float(f"{p['lr']:.6g}"), p["epochs"]) for p in drawn(study)]


def test_start_up_trials_are_the_same_under_every_optuna():
    assert proposed(10)[::3] == [(0.000517355, 4), (3.28175e-05, 32), (0.00172756, 31), (0.0014332, 2)]


def test_what_tpe_proposes_does_not_depend_on_the_defaults_of_the_day():
    assert proposed(14)[10:] == [(1.85521e-05, 18), (0.0068204, 6), (0.000346158, 12), (1.15078e-05, 1)]


def test_test_data_change_nothing_and_are_not_there(toy, monkeypatch, tmp_path):
    images = bpfree.load(toy)
    handed = []
    monkeypatch.setattr(search, "fit", lambda e, d, **how: handed.append(d) or fit(e, d, **how))

    def values(name, **test):
        monkeypatch.setattr(search, "load", lambda *a, **k: replace(images, **test))
        return [t.value for t in tune(arm(toy), 3, tmp_path / name, name="one").trials]

    honest = values("a.log")
    nan = values("b.log", x_test=torch.full_like(images.x_test, math.nan), y_test=images.y_test * 0 - 1)
    # Tensors that have no values: whoever reads one gets an exception.
    gone = values("c.log", x_test=images.x_test.to("meta"), y_test=images.y_test.to("meta"))
    assert honest == nan == gone
    assert {len(d.x_test) + len(d.y_test) for d in handed} == {0}
    assert len(handed) == 9


def test_divergence_is_a_failed_trial_that_counts_and_the_study_goes_on(toy):
    wild = arm(toy, hyperparameters={"optimiser": "sgd", **SMALL})
    study = tune(wild, 3, space={"lr": (1e25, 1e30, "log")})
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 3
    table = tuning.trials(study)
    assert list(table["state"]) == ["diverged"] * 3
    assert table["best"].isna().all()
    assert (table["seconds"] > 0).all()  # what they took is on the bill
    assert tuning.cost(study).loc[0, ["trials", "diverged", "lost"]].tolist() == [3, 3, 0]
    with pytest.raises(InvalidInput, match="no trial that ended with a finite loss") as error:
        tuning.best(study)
    one_line(error)
    assert len(tune(wild, 4, space={"lr": (1e25, 1e30, "log")}).trials) == 4


class Faulty(optuna.pruners.BasePruner):
    """Raises a fault in the middle of the second trial, if there is one."""

    def __init__(self, fault: BaseException | None = None):
        self.fault = fault

    def prune(self, study, trial):
        if trial.number == 1 and self.fault:
            raise self.fault
        return False


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("out of memory")], ids=repr)
def test_a_trial_that_is_interrupted_does_not_count(fault, toy):
    with pytest.raises(type(fault)):
        tune(arm(toy), 3, pruner=Faulty(fault))
    study = tune(arm(toy), 3, pruner=Faulty())
    assert list(tuning.trials(study)["state"]) == ["complete", "lost", "complete", "complete"]
    assert tuning.finished(study) == 3
    assert study.trials[1].user_attrs["reason"].startswith(("interrupted", "RuntimeError: out of memory"))
    assert tuning.cost(study).loc[0, ["trials", "lost"]].tolist() == [3, 1]


class AtOnce(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.last_step == 1


def test_a_pruner_cuts_trials_short_and_they_count(toy):
    # toy data are easy: without the pruner each of the two stages of mf takes its two epochs
    full, cut = tune(arm(toy, "mf"), 2, name="full"), tune(arm(toy, "mf"), 2, name="cut", pruner=AtOnce())
    assert [t.user_attrs["cost"]["epochs"] for t in full.trials] == [4, 4]
    assert [t.user_attrs["cost"]["epochs"] for t in cut.trials] == [
        3,
        3,
    ]  # all of stage 1, and one of stage 2
    assert list(tuning.trials(cut)["state"]) == ["pruned"] * 2
    assert tuning.finished(cut) == 2
    with pytest.raises(InvalidInput, match="pruner 'AtOnce', and this of None"):
        tune(arm(toy, "mf"), 3, name="cut")


# ---------------------------------------------------------------- the bill


def billed(toy, *costs: tuple) -> optuna.Study:
    """A study of which each trial took these seconds, measured and estimated joules."""
    own = tune(arm(toy), 1).user_attrs
    study = optuna.create_study(study_name="billed", direction="maximize")
    study.set_user_attr(search.IDENTITY, own[search.IDENTITY])
    for value, (seconds, measured, estimated) in enumerate(costs):
        cost = {"seconds": seconds, "measured_j": measured, "estimated_j": estimated, "provenance": "told"}
        study.add_trial(optuna.trial.create_trial(value=50.0 + value, user_attrs={"cost": cost}))
    return study


def test_the_bill_is_the_sum_of_the_trials(toy):
    study = billed(toy, (1.0, 10.0, 3.0), (2.0, 20.0, 4.0), (4.0, 40.0, 5.0))
    table = tuning.trials(study)
    assert list(table["total_seconds"]) == [1.0, 3.0, 7.0]
    assert list(table["total_joules"]) == [10.0, 30.0, 70.0]
    assert set(table["energy"]) == {"measured"}
    assert list(table["best"]) == [50.0, 51.0, 52.0]
    bill = tuning.cost(study).iloc[0]
    assert (bill["seconds"], bill["joules"], bill["energy"]) == (7.0, 70.0, "measured")
    assert (bill["provenance"], bill["best"]) == ("told", 52.0)


def test_joules_are_measured_only_if_all_trials_were(toy):
    table = tuning.trials(billed(toy, (1.0, 10.0, 3.0), (2.0, None, 4.0)))
    assert list(table["joules"]) == [3.0, 4.0]
    assert set(table["energy"]) == {"estimated"}


def test_a_sum_that_lacks_joules_is_none(toy):
    study = billed(toy, (1.0, 10.0, 3.0), (2.0, None, None), (4.0, None, 5.0))
    table = tuning.trials(study)
    assert table["total_joules"].iloc[0] == 3.0
    assert table["total_joules"].iloc[1:].isna().all()
    bill = tuning.cost(study).iloc[0]
    assert bill["seconds"] == 7.0
    assert math.isnan(bill["joules"])


def test_a_trial_records_its_own_meter(toy):
    trial = tune(arm(toy), 1).trials[0].user_attrs["cost"]
    assert trial["seconds"] > 0
    assert trial["measured_j"] is not None or trial["estimated_j"] > 0
    assert "measured" in trial["provenance"] or "estimated" in trial["provenance"]
    assert len(trial["machine"]) == 12


# ---------------------------------------------------------------- sweeps, and what is read from studies


def test_a_sweep_trains_at_each_value_once_and_takes_in_more(toy):
    values = [1e-3, 1e-2, 1e-1]
    first = tuning.sweep(arm(toy), "lr", values, progress=False).get_trials()
    more = tuning.sweep(arm(toy), "lr", [*values, 3e-2], progress=False)
    assert [t.params["lr"] for t in first] == values
    assert [p["lr"] for p in drawn(more)] == [*values, 3e-2]
    at_one = replace(arm(toy), hyperparameters={**SMALL, "lr": 1e-2})
    assert first[1].value == bpfree.run(at_one, progress=False).metrics["val_accuracy"]
    table = tuning.trials(more)
    assert list(table["lr"]) == [*values, 3e-2]
    assert set(table["state"]) == {"complete"}


def test_a_sweep_trains_the_value_of_a_lost_trial_again(toy, monkeypatch):
    def fails(*rest, **how):
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(search, "fit", fails)
        with pytest.raises(RuntimeError):
            tuning.sweep(arm(toy), "lr", [1e-3, 1e-2], progress=False)
    study = tuning.sweep(arm(toy), "lr", [1e-3, 1e-2], progress=False)
    assert [p["lr"] for p in drawn(study)] == [1e-3, 1e-3, 1e-2]
    assert list(tuning.trials(study)["state"]) == ["lost", "complete", "complete"]


def sweep_of(algorithm: str, curve: dict) -> pd.DataFrame:
    return pd.DataFrame({"algorithm": algorithm, "lr": curve.keys(), "value": curve.values()})


def test_tolerance_is_where_the_curve_falls_below_the_best_less_the_points():
    hill = sweep_of("bp", {1e-4: 80.0, 1e-3: 90.0, 1e-2: 86.0, 1e-1: math.nan})
    plain = sweep_of("mf", {1e-2: 90.0, 1e-3: 90.5, 1e-1: 89.0})
    table = tuning.tolerance(pd.concat([hill, plain]), points=2.0).set_index("algorithm")
    bp = table.loc["bp"]
    assert (bp["best"], bp["at"]) == (90.0, 1e-3)
    # straight lines in the logarithm: 2 of 10 points to the left, 2 of 4 to the right
    assert math.log10(bp["low"]) == pytest.approx(-3 - 0.2)
    assert math.log10(bp["high"]) == pytest.approx(-3 + 0.5)
    assert bp["decades"] == pytest.approx(0.7)
    assert table.loc["mf", "decades"] == pytest.approx(2.0)  # as far as the sweep went


def test_importances_find_the_parameter_that_matters(toy, tmp_path):
    """A study whose value depends on one of its parameters alone."""
    study = tune(arm(toy), 1, tmp_path / "s.log")
    for _ in range(40):
        trial = study.ask()
        tuning.draw(trial, tuning.space(arm(toy)))
        study.tell(trial, -abs(math.log10(trial.params["weight_decay"]) + 4))
    found = tuning.importances(study).set_index("parameter")["importance"]
    assert found.sum() == pytest.approx(1.0)
    assert found["weight_decay"] > 0.8


def test_our_ranges_contain_the_published_ones():
    """What the thesis could find, we can: no search of its is cut off by ours."""
    rows = published.searches()
    assert len(rows) > 70
    for row in rows.itertuples():
        own = {**ARMS[row.algorithm].space, **ARMS[row.algorithm].lengths}[row.parameter]
        assert own.low <= row.low < row.high <= own.high


def test_tuned_settings_stand_beside_the_published_ones():
    assert tuning.beside_published().empty
    paper = ("fashion_mnist", "2x1000")
    tuned.write_settings(
        "mf", *paper, {"lr": 0.002, "weight_decay": 0.0, "batch_size": 128}, trials=20, val_accuracy=90.5
    )
    tuned.write_settings("mf", "digits", "2x64", {"lr": 0.5})  # never published
    table = tuning.beside_published().set_index("parameter")
    assert list(table.index) == ["lr", "weight_decay"]
    thesis, search = (
        f(source="thesis", algorithm="mf", data=paper[0], parameter="lr")
        for f in (published.hyperparameters, published.searches)
    )
    lr = table.loc["lr"]
    assert lr["thesis"] == thesis["value"][0]
    assert lr["their trials"] == search["trials"][0]
    assert (lr["ours"], lr["our trials"], lr["val accuracy"]) == (0.002, 20, 90.5)


def test_the_published_effort_was_not_equal():
    table = tuning.published_effort().set_index("algorithm")
    assert table.loc["BP", "pruner"] == "median"
    assert set(table.drop("BP")["pruner"]) == {"none"}
    assert table.loc["BP", "trials"] == "5 (1 ×), 10 (10 ×)"


def test_figures_show_every_algorithm_and_say_what_the_joules_are(toy):
    arms = [arm(toy, name) for name in ("bp", "mf")]
    table = tuning.equal_budget(arms, 3, progress=False)
    sweeps = tuning.trials([tuning.sweep(a, "lr", [1e-3, 1e-2, 1e-1], progress=False) for a in arms])
    studies = [tune(a, 3) for a in arms]
    drawn_figures = [
        figures.tuning.best_so_far(table),
        figures.tuning.sensitivity(sweeps, tuning.tolerance(sweeps)),
        figures.tuning.importance_bars(tuning.importances(studies)),
    ]
    for figure in drawn_figures:
        words = " ".join(t.get_text() for t in figure.findobj(Text))
        assert "BP" in words
        assert "MF" in words
        figure.draw_without_rendering()
    words = " ".join(t.get_text() for t in drawn_figures[0].findobj(Text))
    assert table["energy"].iloc[0] in words
    assert table["provenance"].iloc[0] in words.replace("\n", " ")
    lines = [line.get_ydata() for line in drawn_figures[0].axes[0].lines]
    best = [list(part["best"]) for _, part in table.groupby("algorithm")]
    assert all(any(list(line) == b for line in lines) for b in best)


def test_optunas_slices_leave_no_style_and_no_open_figure_behind(toy):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    figure = figures.tuning.slice_points(tune(arm(toy), 3))
    assert {ax.get_xlabel() for ax in figure.axes} >= {"lr", "weight_decay"}
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []
    assert figure._repr_png_()[:4] == b"\x89PNG"


# ---------------------------------------------------------------- storages and identities


@pytest.mark.parametrize(
    "kind", ["journal", "sqlite file", "sqlite url", "sqlite in memory", "default", "object"]
)
def test_every_storage_keeps_a_study(kind, toy, tmp_path, store):
    storage = {
        "journal": tmp_path / "deep" / "s.log",
        "sqlite file": str(tmp_path / "s.db"),
        "sqlite url": f"sqlite:///{tmp_path}/s.sqlite",
        "sqlite in memory": "sqlite://",
        "default": None,
        "object": optuna.storages.InMemoryStorage(),
    }[kind]
    study = tune(arm(toy), 1, storage, name="one")
    if kind == "sqlite in memory":
        assert len(study.trials) == 1
        return
    assert len(tune(arm(toy), 2, storage, name="one").trials) == 2
    assert tuning.study_names(storage) == ["one"]
    if kind == "default":
        assert (store / "studies" / "one.log").exists()


@pytest.mark.parametrize(
    "kind", ["folder", "text", "text.db", "file/s.log", "foo://x", "postgresql://u:secret@h/x"]
)
def test_a_storage_that_cannot_be_opened_is_named_in_one_line(kind, toy, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("text", "text.db", "file"):
        (tmp_path / name).write_text("no journal\nand no database\n")
    storage = kind if "://" in kind else tmp_path / kind
    with pytest.raises(InvalidInput, match=r"cannot be opened .*: give the path of a journal file") as error:
        tune(arm(toy), 1, storage)
    assert kind.replace("secret", "***") in one_line(error)
    assert "secret" not in str(error.value)


STRANGE = ["a b?c", "p%20q", "'#\"&;", "{x}", "größe", "bytes\udcff"]


@pytest.mark.parametrize("name", ["s.log", "s.db"])
@pytest.mark.parametrize("folder", STRANGE)
def test_a_storage_may_lie_anywhere(folder, name, toy, tmp_path):
    path = tmp_path / folder / name
    tune(arm(toy), 1, str(path))
    assert len(tune(arm(toy), 2, path).trials) == 2
    assert path.is_file()
    beside = [path.parent, tmp_path / "toy.npz", tmp_path / "store"]
    assert sorted(tmp_path.iterdir()) == sorted(p for p in beside if p.exists())


@pytest.mark.parametrize("stem", ["with space", *STRANGE[:-1]])
def test_a_data_set_may_have_any_name(stem, toy, tmp_path):
    Path(toy).rename(tmp_path / f"{stem}.npz")
    experiment = arm(str(tmp_path / f"{stem}.npz"))
    assert len(tune(experiment, 1).trials) == 1
    assert tuning.study_names(None) == [tuning.study_name(experiment)]
    assert cli.main([tuning.study_name(experiment), "--trials", "2"]) == 0


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "sqlite:////dev/full", "fifo", "fifo.db"])
def test_what_is_no_file_is_no_storage(path, toy, tmp_path):
    if path.startswith("fifo"):
        os.mkfifo(tmp_path / path)
        path = str(tmp_path / path)
    with pytest.raises(InvalidInput, match=r"cannot be opened \(it is no file\)") as error:
        tune(arm(toy), 1, path)
    one_line(error)


def test_a_study_leaves_no_connection_open(toy, tmp_path):
    """Here, because since Python 3.13 the garbage collector complains of it in other tests."""
    study = tune(arm(toy), 1, tmp_path / "s.db")
    engine = study._storage._backend.engine
    assert engine.pool.status() == "NullPool"


def test_a_name_that_is_no_file_name_is_refused(toy):
    with pytest.raises(InvalidInput, match=r"study name '\.\./x': use letters"):
        tune(arm(toy), 1, name="../x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"algorithm": "mf"}, "of algorithm 'bp', and this of 'mf'"),
        ({"architecture": "3x6"}, "of architecture '2x6', and this of '3x6'"),
        ({"seed": 1}, "of seed 0, and this of 1"),
        ({"max_epochs": 3}, "of max_epochs 2, and this of 3"),
        ({"hyperparameters": {"batch_size": 32}}, "of options batch_size 16, and this of 32"),
        ({"options": {"head_bias": True}}, "of options head_bias False, and this of True"),
        ({"protocol": "convergence_loss"}, "of protocol 'convergence', and this of 'convergence_loss'"),
    ],
)
def test_a_study_of_something_else_under_the_same_name_is_refused(change, says, toy):
    tune(arm(toy), 1, name="mine")
    with pytest.raises(InvalidInput, match=says) as error:
        tune(replace(arm(toy), **change), 2, name="mine")
    assert "another name" in one_line(error)
    assert len(tune(arm(toy), 1, name="mine").trials) == 1


def test_a_study_of_another_space_or_other_data_under_the_same_name_is_refused(toy, tmp_path):
    tune(arm(toy), 1, name="mine")
    with pytest.raises(InvalidInput, match=r"of space lr .*, and this of \[0\.001, 0\.01, 'log'"):
        tune(arm(toy), 2, name="mine", space={"lr": (1e-3, 1e-2, "log")})
    arrays = dict(np.load(toy))
    np.savez(toy, **{**arrays, "x_train": arrays["x_train"] + 1})
    with pytest.raises(InvalidInput, match=r"of data .*toy.npz', and this of .*with another content"):
        tune(arm(toy), 2, name="mine")


def test_somebody_elses_study_is_left_alone(toy, tmp_path):
    path = tmp_path / "s.log"
    theirs = optuna.create_study(
        storage=open_storage(path, "s").storage, study_name="s", direction="maximize"
    )
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InvalidInput, match=r"'s' was not made by bpfree\.tuning"):
        tune(arm(toy), 2, path, name="s")


def test_protocols_with_a_budget_and_the_tuned_preset_are_not_searched(toy):
    with pytest.raises(
        InvalidInput, match="protocol 'matched' trains on the budget of another run: tune under"
    ):
        tune(arm(toy, protocol="matched"), 1)
    tuned.write_settings("bp", toy, "2x6", {"lr": 0.1})
    with pytest.raises(InvalidInput, match="preset 'tuned' is what tuning makes"):
        tune(arm(toy, preset="tuned"), 1)


def test_a_study_is_resumed_by_its_name_alone(toy, tmp_path):
    path, own = tmp_path / "s.log", {"lr": (1e-3, 1e-2, "log")}
    tune(arm(toy, "mf", seed=3), 1, path, name="mine", space=own)
    study = tuning.resume("mine", 3, path, progress=False)
    assert len(study.trials) == 3
    assert drawn(study) == drawn(tune(arm(toy, "mf", seed=3), 3, tmp_path / "t.log", name="mine", space=own))
    with pytest.raises(UnknownName, match="unknown study 'mind': did you mean 'mine'"):
        tuning.resume("mind", 3, path)


# ---------------------------------------------------------------- damage


@pytest.fixture
def journal(toy, tmp_path) -> Path:
    """Of a study with three trials."""
    tune(arm(toy), 3, tmp_path / "s.log")
    return tmp_path / "s.log"


def cut(content: bytes) -> bytes:
    return content[:-60]


def zeros(content: bytes) -> bytes:
    return content[:-60] + bytes(200)


def cut_and_written_on(content: bytes) -> bytes:
    """As Optuna's own journal goes on behind half a line."""
    return content[:-60] + content.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("damage", [cut, zeros, cut_and_written_on])
def test_a_torn_last_line_is_cut_and_the_study_goes_on(damage, journal, toy, caplog):
    whole = journal.read_bytes()
    journal.write_bytes(damage(whole))
    study = tune(arm(toy), 3, journal)
    assert list(tuning.trials(study)["state"]) == ["complete", "complete", "lost", "complete"]
    assert journal.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1) + 1])  # nothing whole is lost
    (said,) = caplog.messages
    assert said.startswith(f"{journal} ended in half a line")
    assert len(tune(arm(toy), 4, journal).trials) == 5
    assert len(caplog.messages) == 1


def test_of_a_journal_wherever_it_is_cut_what_is_whole_remains(journal, toy):
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    rng = np.random.default_rng(0)
    for size in [*rng.integers(1, len(whole), 6), len(lines[0]), 1]:
        journal.write_bytes(whole[:size])
        assert tuning.finished(tune(arm(toy), 1, journal)) >= 1
        kept, n = journal.read_bytes(), whole[:size].count(b"\n")
        assert kept.startswith(b"".join(lines[:n]))


def test_a_flipped_bit_before_the_last_line_is_one_line_and_changes_nothing(journal, toy):
    whole = journal.read_bytes()
    before = tuning.trials(tune(arm(toy), 3, journal))
    rng = np.random.default_rng(0)
    refusals = []
    for place in rng.integers(0, whole.rindex(b"\n", 0, -1), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        journal.write_bytes(damaged)
        try:
            after = tuning.trials(tuning.load_study(tuning.study_name(arm(toy)), journal))
        except BpfreeError as error:
            refusals.append(str(error))
        else:
            pd.testing.assert_frame_equal(after, before)
        assert journal.read_bytes() == damaged
    assert len(refusals) > 30
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize(
    "line",
    [b"garbage", b"[]", b"null", b"{}", b'{"op_code":99}', b'{"op_code":5,"trial_id":"x"}', b"\xff\xfe", b""],
)
def test_a_foreign_line_in_a_journal_is_one_line(line, journal, toy):
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], line + b"\n", *lines[3:]])
    journal.write_bytes(damaged)
    with pytest.raises(InvalidInput, match=re.escape(str(journal))) as error:
        tune(arm(toy), 4, journal)
    one_line(error)
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize("identity", [[], "text", {}, {"experiment": 1}])
def test_a_study_whose_description_is_foreign_is_refused(identity, toy, tmp_path):
    path = tmp_path / "s.log"
    name = tuning.study_name(arm(toy))
    theirs = optuna.create_study(storage=open_storage(path, name).storage, study_name=name)
    theirs.set_user_attr(search.IDENTITY, identity)
    for act in (lambda: tune(arm(toy), 1, path), lambda: tuning.resume(name, 1, path)):
        with pytest.raises(InvalidInput, match=r"was not made by bpfree\.tuning"):
            act()


def test_a_journal_is_optunas_own_and_the_other_way_round(journal, toy):
    theirs = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(theirs))
    assert [t.value for t in study.trials] == [t.value for t in tune(arm(toy), 3, journal).trials]
    study.set_user_attr("theirs", 1)
    assert tune(arm(toy), 4, journal).user_attrs["theirs"] == 1


@pytest.fixture
def full_disk():
    """No file may grow beyond a size, as on a full disk: what is written until then is there."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["s.log", "s.db"])
def test_a_full_disk_is_one_line_and_the_study_goes_on_once_there_is_room(name, toy, tmp_path, full_disk):
    path = tmp_path / name
    tune(arm(toy), 2, path)
    whole = path.read_bytes()
    for size in (len(whole) + 1, len(whole) + 60, len(whole) + 700) if name == "s.log" else (4096,):
        full_disk(size)
        try:
            with pytest.raises(BpfreeError, match=re.escape(str(path))) as error:
                tune(arm(toy), 40, path)
        finally:
            full_disk(-1)
        one_line(error)
    if name == "s.log":
        assert path.read_bytes().startswith(whole)
        assert path.read_bytes().endswith(b"\n")
    study = tune(arm(toy), 4, path)
    assert tuning.finished(study) == 4
    assert list(tuning.trials(study)["state"][:2]) == ["complete"] * 2


@pytest.mark.parametrize("damage", ["cut", "garbage", "zeros", "header"])
def test_a_damaged_database_is_one_line(damage, toy, tmp_path):
    path = tmp_path / "s.db"
    tune(arm(toy), 2, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "garbage": whole[:4096] + rng.bytes(len(whole) - 4096),
            "zeros": whole[:4096] + bytes(len(whole) - 4096),
            "header": b"X" + whole[1:],
        }[damage]
    )
    with pytest.raises(BpfreeError, match=r"s\.db") as error:
        tune(arm(toy), 3, path)
    one_line(error)


# ---------------------------------------------------------------- equal budgets


def test_equal_budget_keeps_the_best_where_the_tuned_preset_finds_them(toy, store):
    arms = [arm(toy, name, max_epochs=None) for name in ("bp", "mf")]
    table = tuning.equal_budget(arms, 3, max_epochs=2, progress=False)
    assert list(table.groupby("algorithm").size()) == [3, 3]
    assert table["total_joules"].notna().all()
    for name in ("bp", "mf"):
        part = table[table["algorithm"] == name]
        winner = part.loc[part["value"].idxmax()]
        values = tuned.settings(name, toy, "2x6")
        assert values == {"batch_size": 16, "lr": winner["lr"], "weight_decay": winner["weight_decay"]}
        row = tuned.table().query("algorithm == @name").iloc[0]
        assert (row["trials"], row["epochs"], row["seed"], row["protocol"]) == (3, 2, 0, "convergence")
        assert (row["study"], row["val_accuracy"]) == (winner["study"], winner["value"])
        # A run with the preset is the best trial again.
        again = Experiment(name, toy, architecture="2x6", preset="tuned", max_epochs=2)
        assert bpfree.run(again, progress=False).metrics["val_accuracy"] == winner["value"]


def test_equal_budget_writes_to_a_path_and_goes_on(toy, tmp_path, store):
    path = tmp_path / "mine.csv"
    tuning.equal_budget([arm(toy)], 1, path=path, progress=False)
    table = tuning.equal_budget([arm(toy)], 2, path=path, progress=False)
    assert len(table) == 2
    assert path.exists()
    assert not (store / "tuned.csv").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([{}, {"algorithm": "mf", "max_epochs": 3}], "equal caps on epochs, and these have 2, 3"),
        ([{}, {"algorithm": "mf", "protocol": "convergence_loss"}], "equal protocols"),
        ([{}, {"seed": 1}], "bp .*toy.npz 2x6 is there twice"),
        (
            [{"options": {"head_bias": True}}],
            "bp with head_bias: tuned settings are kept for this package's own",
        ),
        ([{"preset": "thesis"}], "bp with preset 'thesis'"),
        ([], "no experiments to tune"),
    ],
)
def test_budgets_that_are_not_equal_are_refused(changes, says, toy, store):
    with pytest.raises(InvalidInput, match=says) as error:
        tuning.equal_budget([replace(arm(toy), **change) for change in changes], 1)
    one_line(error)
    assert not store.exists()


# ---------------------------------------------------------------- many workers

WORKER = """
import json, os, sys, time
from dataclasses import replace
from pathlib import Path
from bpfree import Experiment, tuning
from bpfree.tuning import search

fields, trials, storage, folder = json.loads(sys.argv[1])
folder, real = Path(folder), search.fit
def fit(experiment, data, **how):
    (folder / f"{os.getpid()}-{time.monotonic_ns()}.ran").write_text(str(experiment.hyperparameters["lr"]))
    if (folder / "hang").exists():
        print("in the middle", flush=True)
        time.sleep(600)
    time.sleep(0.05)
    return real(experiment, data, **how)
search.fit = fit
print("ready", flush=True)
while not (folder / "go").exists():
    time.sleep(0.01)
tuning.tune(Experiment(**fields), trials, storage, name="shared", progress=False)
"""


@pytest.fixture
def worker(tmp_path, toy):
    """Starts processes that tune one study on command; what is left of them at the end is killed."""
    started = []

    def start(trials: int, storage: Path) -> subprocess.Popen:
        experiment = arm(toy)
        fields = {k: v for k, v in vars(experiment).items() if v is not None}
        argument = json.dumps([fields, trials, str(storage), str(tmp_path)])
        command = [sys.executable, "-c", WORKER, argument]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s.log", "s.db"])
def test_two_processes_finish_exactly_the_trials_asked_for(name, worker, toy, tmp_path):
    workers = [worker(14, tmp_path / name) for _ in range(2)]
    assert [w.stdout.readline() for w in workers] == ["ready\n"] * 2
    (tmp_path / "go").touch()
    assert [w.wait(120) for w in workers] == [0, 0]
    study = tune(arm(toy), 14, tmp_path / name, name="shared")
    assert [t.number for t in study.trials] == list(range(14))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}  # none lost, none too many
    ran = [(path.name.partition("-")[0], float(path.read_text())) for path in tmp_path.glob("*.ran")]
    assert len({pid for pid, _ in ran}) == 2  # both worked
    assert sorted(lr for _, lr in ran) == sorted(p["lr"] for p in drawn(study))  # each was run once
    assert len({lr for _, lr in ran}) == 14  # and none repeated another's draw
    alone = tune(arm(toy), 10, tmp_path / "alone.log", name="shared")
    startup = [p["lr"] for p in drawn(alone)]
    assert [p["lr"] for p in drawn(study)][:10] == startup  # whoever runs it, a start-up trial is the same


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s.log", "s.db"])
def test_a_killed_workers_trial_is_failed_and_made_up_for(name, worker, toy, tmp_path):
    storage = tmp_path / name
    tune(arm(toy), 2, storage, name="shared")
    (tmp_path / "hang").touch()
    (tmp_path / "go").touch()
    victim = worker(4, storage)
    assert [victim.stdout.readline() for _ in range(2)] == ["ready\n", "in the middle\n"]
    place = open_storage(storage, "shared")
    study = optuna.load_study(study_name="shared", storage=place.storage)
    Slots(study, 4, place).fail_lost()
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]  # it lives
    others = tune(arm(toy), 4, storage, name="shared", wait=False)
    assert [t.state.name for t in others.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "COMPLETE"]
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    study = tune(arm(toy), 4, storage, name="shared")
    assert list(tuning.trials(study)["state"]) == ["complete", "complete", "lost", "complete", "complete"]
    assert tuning.finished(study) == 4
    assert tuning.cost(study).loc[0, ["trials", "lost"]].tolist() == [4, 1]
    assert [p.name for p in tmp_path.glob("*.claims/*@[0-9]*")] == []  # no claim is left behind


def draw(toy) -> Callable:
    return partial(tuning.draw, ranges=tuning.space(arm(toy)))


def test_without_a_lock_the_one_who_came_too_late_gives_its_trial_back(toy, tmp_path):
    """Two workers of a database by its URL, both of which found a slot free before either had taken it."""
    first = tune(arm(toy), 1, tmp_path / "s.db", name="s")
    place = Place(optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db", UNPOOLED), "s", None)
    early, late = (optuna.load_study(study_name="s", storage=place.storage) for _ in range(2))
    plain = late.optimize

    def optimize(*rest, **how):  # the other worker comes between the count and the trial
        assert Slots(early, 2, place).run_next(draw(toy), lambda trial: 50.0)
        plain(*rest, **how)

    late.optimize = optimize
    assert Slots(late, 2, place).run_next(draw(toy), lambda trial: 1 / 0)
    assert tuning.finished(first) == 2
    assert list(tuning.trials(first)["state"]) == ["complete", "complete", "lost"]
    assert first.trials[2].user_attrs["reason"] == "surplus"
    assert not Slots(first, 2, place).run_next(draw(toy), lambda trial: 1 / 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage")
def test_without_a_file_a_trial_whose_heart_stopped_is_failed(toy, tmp_path):
    first = tune(arm(toy), 1, tmp_path / "s.db", name="s")
    beating = {"heartbeat_interval": 1, "grace_period": 2}
    place = Place(optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s.db", UNPOOLED, **beating), "s", None)
    dead, living, other = (optuna.load_study(study_name="s", storage=place.storage) for _ in range(3))
    place.storage.record_heartbeat(dead.ask()._trial_id)  # once, and never again

    def slow(trial) -> float:
        time.sleep(3.5)
        assert Slots(other, 3, place).run_next(draw(toy), lambda trial: 1.0)
        return 1.0

    assert Slots(living, 3, place).run_next(draw(toy), slow)
    assert [t.state.name for t in first.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert tuning.finished(first) == 3


def test_who_waits_takes_over_what_another_loses(toy, tmp_path, monkeypatch):
    """The other worker dies while this one waits for it: here its lock is released, as the system would."""
    place = open_storage(tmp_path / "s.log", "s")
    tune(arm(toy), 1, place.path, name="s")
    held = file_lock(place.path, "s@1")
    held.acquire()
    optuna.load_study(study_name="s", storage=place.storage).ask()
    monkeypatch.setattr(time, "sleep", lambda s: held.release())
    study = tune(arm(toy), 2, place.path, name="s")
    assert list(tuning.trials(study)["state"]) == ["complete", "lost", "complete"]


# ---------------------------------------------------------------- the command


def command(toy, *more: str) -> list[str]:
    sizes = ["--data", toy, "--architecture", "2x6", "--max-epochs", "2", "--fix", "batch_size", "16"]
    return [*sizes, *more]


def test_the_command_tunes_and_keeps_the_best(toy, capsys):
    assert cli.main(["bp", "mf", "--trials", "2", *command(toy)]) == 0
    out = capsys.readouterr().out
    assert "bp-toy-2x6-convergence-cap2-seed0" in out
    assert "estimated" in out or "measured" in out
    assert set(tuned.settings("mf", toy, "2x6")) == {"lr", "weight_decay", "batch_size"}
    name = tuning.study_name(arm(toy))
    assert cli.main([name, "--trials", "3"]) == 0
    assert len(tune(arm(toy), 1).trials) == 3  # it was the study that Python would have made


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["zp"], "unknown algorithm or study 'zp'"),
        (["bp", "some-study"], "unknown algorithm 'some-study'"),
        (["bp", "--data", "mnits"], "unknown data set .*'mnits': did you mean 'mnist'"),
        (["bp", "--trials", "0"], "'0' is not a whole number of 1 or more"),
        (["bp", "--fix", "lrr", "1"], "unknown option of bp 'lrr'"),
        (["bp", "--protocol", "equal_energy"], "trains on the budget of another run"),
        (["bp", "--storage", "foo://bar"], "storage foo://bar cannot be opened"),
        (["bp", "--bogus"], "unrecognized arguments: --bogus"),
        ([], "the following arguments are required: WHAT"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(arguments, says, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("python -m bpfree.tuning: ")
    assert re.search(says, error)
    with pytest.raises(BpfreeError):
        cli.main([*arguments, "--debug"])


def test_ctrl_c_is_one_line_and_status_130(toy, capsys, monkeypatch):
    calls = []

    def interrupted(*rest, **how):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*rest, **how)

    monkeypatch.setattr(search, "fit", interrupted)
    assert cli.main(["bp", "--trials", "3", *command(toy)]) == 130
    error = capsys.readouterr().err
    assert error.count("python -m bpfree.tuning:") == 1
    assert (
        "interrupted; finished are 1 of 3 of bp-toy-2x6-convergence-cap2-seed0. The same command goes on"
        in error
    )
    assert cli.main(["bp", "--trials", "3", *command(toy)]) == 0
    assert tuning.finished(tune(arm(toy), 1)) == 3


@pytest.mark.slow
def test_workers_share_the_trials(toy, capfd):
    done = subprocess.run(
        [sys.executable, "-m", "bpfree.tuning", "bp", "--trials", "8", "--workers", "3", *command(toy)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    study = tune(arm(toy), 8)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
    assert len(study.trials) == 8


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends neither to one process")
@pytest.mark.parametrize(("sent", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_workers_end_with_who_started_them(sent, status, toy, tmp_path):
    options = f"bp --data digits --architecture 9x999 --trials 9 --workers 2 --storage {tmp_path / 's.log'}"
    command = [sys.executable, "-m", "bpfree.tuning", *options.split()]

    def claims() -> list[Path]:
        return list(tmp_path.glob("s.log.claims/*@*.lock"))

    with in_background(command, lambda: len(claims()) == 2) as (process, workers):  # both are in a trial
        assert len(workers) == 1
        process.send_signal(getattr(signal, sent))
        _, said = process.communicate(timeout=120)
        assert process.returncode == status
        assert psutil.wait_procs(workers, 60)[1] == []
        if sent != "SIGKILL":
            assert said.count("\n") == 1, said
            done = "finished are 0 of 9 of bp-digits-9x999-convergence-seed0. The same command goes on"
            assert done in said
            assert claims() == []  # their trials were given back
