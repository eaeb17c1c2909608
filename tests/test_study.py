"""Profiles: which experiments a chapter runs."""

import pytest

from bpfree import study
from bpfree.errors import BpfreeError


def test_experiments_cover_data_algorithms_and_seeds():
    chosen = study.profile("quick", ["digits", "mnist"], [3, 5])
    found = {(e.data, e.algorithm, e.seed) for e in chosen.experiments("bp", "mf")}
    assert found == {(d, a, s) for d in ("digits", "mnist") for a in ("bp", "mf") for s in (3, 5)}


def test_settings_stand_above_the_profile():
    chosen = study.profile("quick")
    assert {e.max_epochs for e in chosen.experiments("bp")} == {chosen.max_epochs}
    [one] = study.profile("quick", seeds=[0]).experiments("bp", max_epochs=2, hyperparameters={"lr": 0.5})
    assert one.max_epochs == 2
    assert one.hyperparameters == {**chosen.hyperparameters, "lr": 0.5}


@pytest.mark.parametrize(("name", "seeds"), [("quik", []), ("quick", [-1]), ("quick", ["0"])])
def test_bad_input_is_one_line(name, seeds):
    with pytest.raises(BpfreeError) as error:
        study.profile(name, [], seeds)
    assert "\n" not in str(error.value)
