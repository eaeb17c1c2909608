"""What a batch will take, foreseen: passes are counted right, and seconds are those of the steps."""

import math

import pytest

from bpfree.experiments import published, study
from bpfree.experiments.experiment import Experiment
from bpfree.experiments.forecast import clock, forecast, lines


def foreseen(*runs: Experiment):
    """The forecast of these runs where every image takes two seconds."""
    return forecast(runs, progress=False, timed=lambda algorithm, data: 2.0)


def test_runs_of_an_arm_are_a_row_with_caps_and_sums():
    runs = [Experiment(a, "digits", seed=s, max_epochs=7) for a in ("bp", "mf") for s in (0, 3)]
    table = foreseen(*runs).set_index("algorithm")
    images = 1294  # of digits: 1797 less 360 for the test and a tenth of the rest
    assert table["seeds"].to_dict() == {"bp": "0 3", "mf": "0 3"}
    assert (table["epoch_s"] == 2.0 * images).all()
    assert table["at_most"].to_dict() == {"bp": 7, "mf": 14}  # two stages
    assert table["most_s"].to_dict() == {"bp": 2 * 7 * 2.0 * images, "mf": 2 * 14 * 2.0 * images}
    assert (table["total_s"] == table["most_s"]).all()  # nothing was published: the cap is all that is known


def test_published_epochs_are_what_is_expected():
    table = foreseen(Experiment("mf", "cifar10")).iloc[0]
    rows = published.results(algorithm="mf", data="cifar10", architecture="3x2000", metric="epochs")
    assert table["epochs"] == pytest.approx(rows["mean"].mean())
    assert table["epochs"] < table["at_most"] == 300
    capped = foreseen(Experiment("mf", "cifar10", max_epochs=1)).iloc[0]
    assert capped["epochs"] == capped["at_most"] == 3


def test_a_budget_takes_what_bp_takes():
    bp, mf = (
        foreseen(e).iloc[0]
        for e in (Experiment("bp", max_epochs=9), Experiment("mf", max_epochs=9, protocol="matched"))
    )
    assert mf["total_s"] == bp["total_s"] == 9 * 2.0 * 1294


def test_every_arm_of_the_study_can_be_timed():
    runs = study.plan(study.profile("quick", seeds=[0]))
    table = forecast(runs, progress=False)
    assert (table[["epoch_s", "epochs", "total_s"]] > 0).all().all()
    text = lines(table)
    assert len(text.splitlines()) == len(table) + 2 + 3
    assert "estimates" in text


def test_data_that_are_not_here_are_listed_without_a_time(tmp_path):
    path = str(tmp_path / "own.npz")
    table = forecast([Experiment("bp", path), Experiment("bp", max_epochs=1)], progress=False)
    assert math.isnan(table["total_s"][0])
    text = lines(table)
    assert "nan" not in text
    assert "About ? for 2 runs, at most ?" in text
    assert text.endswith(f"Not known is how long it takes on {path}, which is not here.")
    assert "Not known" not in lines(table.iloc[1:])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (5400, "1.5 h"), (2e5, "2.3 d"), (math.nan, "?")],
)
def test_a_time_is_said_in_its_own_unit(seconds, text):
    assert clock(seconds) == text
