"""Figures show what the records say: the drawn points are the table's, and joules carry their provenance."""

import pandas as pd
import pytest
import torch

import bpfree
from bpfree import figures, store
from bpfree.labels import COLOURS, LABELS, MARKERS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    kept = store.Store(tmp_path_factory.mktemp("store"))
    settings = {"architecture": "2x16", "max_epochs": 3, "device": "cpu"}
    names = ("bp", "mf")
    return [bpfree.run(bpfree.Experiment(n, **settings), kept, progress=False) for n in names]


def texts(figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_every_algorithm_looks_like_itself_only():
    assert set(COLOURS) == set(LABELS) == set(MARKERS) == set(bpfree.ALGORITHMS)
    for look in (COLOURS, LABELS, MARKERS):
        assert len(set(look.values())) == len(look)


def test_learning_curves_draw_every_stage_and_mark_what_was_kept(runs):
    frame = store.epochs(runs)
    figure = figures.learning_curves(frame)
    lines = figure.axes[0].get_lines()
    assert len(lines) == 3 + 2  # bp and the two stages of mf, and a set of markers for each algorithm
    mf = frame[frame["algorithm"] == "mf"]
    assert lines[2].get_ydata().tolist() == mf.loc[mf["stage"] == "layer 1", "val_loss"].tolist()
    assert lines[-1].get_xdata().tolist() == mf.loc[mf["kept"], "pass"].tolist()
    assert len(lines[-1].get_xdata()) == 2
    assert "seconds" in texts(figure)


def test_the_bill_says_how_the_joules_were_obtained(runs):
    records = store.tidy(runs)
    figure = figures.bill(records)
    assert runs[0].provenance.split(":")[0] in ("estimated", "measured")
    assert runs[0].provenance in texts(figure)
    accuracy = figure.axes[0].get_lines()[0].get_ydata()
    assert accuracy.tolist() == [runs[0].metrics["test_accuracy"]]


def test_reach_fills_what_the_gradient_reaches():
    table = pd.DataFrame([[1.0, 0.0]], ["layer 1"], ["model.blocks.0.linear.weight", "heads.2.weight"])
    figure = figures.reach(table, "title")
    filled, empty = (patch.get_facecolor() for patch in figure.axes[0].patches)
    assert filled != empty
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["$W_{1}$", "$M_{2}$"]


def test_pictures_are_on_one_scale():
    x = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    figure = figures.pictures([("a", x), ("b", 0.5 * x)], titles=[0, 1])
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert [float(image.max()) for image in shown] == [0.0, 1.0, 0.0, 0.5]


def test_a_picture_shows_itself(runs):
    assert figures.learning_curves(store.epochs(runs))._repr_png_().startswith(b"\x89PNG")
