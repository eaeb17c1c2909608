"""Profiles: the paper's arms, and which runs a chapter needs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bpfree import tuning
from bpfree.errors import BpfreeError
from bpfree.experiments import study
from bpfree.experiments.protocols import BUDGETS, PROTOCOLS

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def arms(runs) -> set[tuple]:
    return {(e.algorithm, e.data, e.resolved_architecture) for e in runs}


def test_the_arms_are_the_papers():
    """Section "Experiments" of arXiv 2509.19063, and the ladder of its authors' later report."""
    paper = study.profile("paper")
    assert arms(paper.arms("ff")) == {
        *((a, "mnist", "3x1000") for a in ("bp", "ff", "ff_sgd")),
        *((a, d, "4x2000") for a in ("bp", "ff") for d in ("mnist", "fashion_mnist")),
    }
    four = ("mnist", "fashion_mnist", "cifar10", "cifar100")
    cafo = ("bp", "cafo_rand", "cafo_rand_mse", "cafo_dfa")
    assert arms(paper.arms("cafo")) == {(a, d, "cnn") for a in cafo for d in four}
    networks = dict(zip(four, ("2x1000", "2x1000", "3x2000", "3x2000"), strict=True))
    assert arms(paper.arms("mf")) == {(a, d, n) for a in study.LADDER for d, n in networks.items()}


def test_arms_cover_algorithms_and_seeds():
    runs = study.profile("quick", seeds=[3, 5]).arms("mf", "bp", "mf")
    assert [(e.algorithm, e.seed) for e in runs] == [("bp", 3), ("bp", 5), ("mf", 3), ("mf", 5)]


def test_the_frontier_has_the_arms_that_need_a_budget_too_and_nothing_else_does():
    quick, frontier = study.profile("quick", seeds=[0]), study.FRONTIER
    assert frontier == ("bp", "bp_ds", "bp_freeze", "mf_interleaved", "mf_overlapped", "mf")
    assert tuple(dict.fromkeys(e.algorithm for e in quick.frontier())) == frontier  # in this order
    assert {e.algorithm for e in quick.frontier("bp_freeze", "mf")} == {"bp_freeze", "mf"}
    least = {a: min(e.max_epochs for e in quick.frontier(a)) for a in frontier}
    solved = {e.algorithm: e.max_epochs for e in quick.solved()}
    assert solved == {"fp": 3, "cafo_rand_mse": 2}  # a pass for each layer that is solved
    assert [e.algorithm for e in quick.solved("fp")] == ["fp"]
    # two layers: a stage for each and one for the head; two alone and one between them; of 2, 4, ...
    assert least == {"bp": 2, "bp_ds": 2, "bp_freeze": 4, "mf_interleaved": 2, "mf_overlapped": 4, "mf": 2}
    others = [e for number in study.CHAPTERS if number != "09" for e in quick.chapter(number)]
    assert not {e.algorithm for e in others} & set(study.BUDGET_ONLY["mf"])
    with pytest.raises(BpfreeError, match="unknown algorithm of cafo 'bp_freeze'"):
        quick.arms("cafo", "bp_freeze")


def test_arms_beside_the_study_are_run_by_name_only():
    quick = study.profile("quick", seeds=[0])
    beside = ["mf_predsim", "fp", "asge_like"]
    on_a_budget = quick.solved()  # which chapter 09 has
    assert not {*beside} & {e.algorithm for e in study.plan(quick) if e not in on_a_budget}
    assert [e.algorithm for e in quick.arms("mf", "mf", *beside)] == ["mf", *beside]


def test_other_data_get_a_network_of_their_own():
    assert arms(study.profile("quick").arms("ff")) == {(a, "digits", "2x256") for a in ("bp", "ff")}
    # The paper has no Forward-Forward on CIFAR: it is run there if nothing else is asked for.
    assert arms(study.profile("paper", ["cifar10"]).arms("ff")) == {
        (a, "cifar10", "3x2000") for a in ("bp", "ff")
    }
    assert all(d == "mnist" for _, d, _ in arms(study.profile("paper", ["cifar10", "mnist"]).arms("ff")))


def test_settings_stand_above_the_profile():
    chosen = study.profile("quick", seeds=[0])
    assert {e.max_epochs for e in chosen.arms("mf")} == {chosen.max_epochs}
    [one] = chosen.arms("mf", "bp", max_epochs=2, hyperparameters={"lr": 0.5})
    assert one.max_epochs == 2
    assert one.hyperparameters == {**chosen.hyperparameters, "lr": 0.5}


@pytest.mark.parametrize("name", study.PROFILES)
def test_rungs_of_the_ladder_share_everything_but_the_algorithm(name):
    """What each rung changes in the algorithm itself: tests/test_mf.py, on gradients."""
    for protocol in ("convergence", "matched"):
        shared = {}
        for e in study.profile(name, seeds=[0]).ladder(protocol=protocol):
            options = e.resolved_options(e.rule())
            common = {k: options[k] for k in ("optimiser", "lr", "weight_decay", "batch_size", "lr_schedule")}
            rule = e.rule()
            settings = (common, options.get("aux_weight", 1.0), rule.stopping, rule.max_epochs, e.max_epochs)
            assert shared.setdefault(e.data, settings) == settings
            assert not options.get("head_bias", False)
            assert not options.get("input_projection", False)


def test_the_plan_has_every_run_once_and_references_first():
    runs = study.plan(study.profile("quick"))
    assert len(set(runs)) == len(runs)
    for position, run in enumerate(runs):
        if run.protocol in BUDGETS:
            assert runs.index(run.reference()) < position
    assert {run.protocol for run in runs} == {*PROTOCOLS} - {"published"}  # nothing was published on digits
    published = [e for e in study.plan(study.profile("paper")) if e.protocol == "published"]
    assert {"ff", "ff_sgd", "cafo_rand", "cafo_dfa", "mf", "bp"} == {e.algorithm for e in published}
    assert study.plan(study.profile("quick"), ["00"]) == study.profile("quick").chapter("00")


def test_chapters_run_what_the_plan_says():
    """Whoever schedules a batch by the plan must not find that a chapter trains something else; but the
    bundled digits, of which a run is a second, chapters may train beside it.
    """
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        code = "\n".join(
            "".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"
        )
        number = path.name[:2]
        if number in study.CHAPTERS:
            assert f'chapter("{number}")' in code, path.name
            assert re.sub(r'Experiment\("\w+", "digits",', "", code).count("Experiment(") == 0, path.name


@pytest.mark.parametrize(("name", "seeds"), [("quik", []), ("quick", [-1]), ("quick", ["0"])])
def test_bad_input_is_one_line(name, seeds):
    with pytest.raises(BpfreeError) as error:
        study.profile(name, [], seeds)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "names"), [("arms", ["fff"]), ("arms", ["mf", "cafo_rand"]), ("chapter", ["9"])]
)
def test_an_unknown_family_member_or_chapter_is_one_line(method, names):
    with pytest.raises(BpfreeError, match="allowed are") as error:
        getattr(study.profile("quick"), method)(*names)
    assert "\n" not in str(error.value)


def test_a_study_of_tuned_settings_takes_published_ones_where_nothing_was_tuned(monkeypatch):
    from bpfree.experiments import tuned

    found = {("bp", "mnist", "2x1000"): {"lr": 0.5}, ("mf", "mnist", "2x1000"): {"lr": 0.25}}
    monkeypatch.setattr(
        tuned, "settings", lambda *arm, passes=None, **named: found.get((*arm, *named.values()), {})
    )
    chosen = study.Profile(("mnist",), (0,), None, preset="tuned")
    presets = {e.algorithm: e.preset for e in chosen.arms("mf")}
    assert {name for name, preset in presets.items() if preset == "tuned"} == {"bp", "mf"}
    assert [e.rule().hyperparameters for e in chosen.arms("mf", "bp", "mf")] == [{"lr": 0.5}, {"lr": 0.25}]
    assert {e.algorithm for e in chosen.arms("mf")} == {"bp", "mf"}  # nobody tuned the other rungs
    assert {e.algorithm for e in chosen.ladder()} == set(study.LADDER)
    assert {e.rule().source for e in chosen.arms("cafo", "bp", "cafo_rand")} == {"thesis"}
    assert {e.preset for e in chosen.ladder()} == {None}


# ---------------------------------------------------------------- data of one's own


def write(path: Path, shape: tuple[int, ...], classes: int, n: int = 60) -> str:
    labels = np.arange(n) % classes
    images = np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


def test_own_data_are_trained_by_every_family_beside_published_ones(tmp_path):
    own = write(tmp_path / "own.npz", (8, 8, 3), 3)
    chosen = study.profile("quick", [own, "mnist"])
    for family in ("ff", "cafo", "mf"):
        assert {e.data for e in chosen.arms(family)} == {own, "mnist"}
    assert "cnn" in {e.resolved_architecture for e in chosen.arms("cafo")}


def test_vectors_and_small_images_are_not_convolved(tmp_path):
    for shape in ((20,), (4, 4)):
        own = write(tmp_path / f"{len(shape)}.npz", shape, 3)
        assert {e.resolved_architecture for e in study.profile("quick", [own]).arms("cafo")} == {study.FLAT}
        searched = tuning.plan_of("quick").experiments(study.profile("quick", [own]))
        small = {"2x64"} if len(shape) == 1 else {"2x64", "cnn-8-16"}  # two blocks halve 4x4 to 1x1
        assert {e.resolved_architecture for e in searched} == small


def test_where_the_label_does_not_fit_there_is_no_forward_forward(tmp_path):
    own = write(tmp_path / "own.npz", (5,), 6)
    chosen = study.profile("quick", [own])
    assert chosen.arms("ff") == []
    assert chosen.fitting("ff").datasets == ("digits",)
    assert study.profile("quick", [own, "digits"]).fitting("ff").datasets == ("digits",)
    assert {e.data for e in chosen.chapter("01")} == {"digits"}
    assert not {e.algorithm for n in ("05", "06") for e in chosen.chapter(n)} & {"ff", "ff_sgd"}
    assert "ff" not in {e.algorithm for e in tuning.plan_of("quick").experiments(chosen)}


def test_the_paper_s_own_rows_stay_the_paper_s():
    chosen = study.profile("paper", ["cifar10", "mnist"])
    assert chosen.fitting("ff").datasets == ("mnist",)  # so that the chapter's first data set has its runs
    assert chosen.fitting("mf").datasets == ("cifar10", "mnist")
