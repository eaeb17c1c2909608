"""The landscape's figures draw the rows of their own kind, and what they say is what the rows say."""

import itertools

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest

from bpfree.algorithms.arms import look
from bpfree.evidence import figures
from bpfree.evidence.landscape import SURVEY_COLUMNS


@pytest.fixture(scope="module")
def evidence() -> pd.DataFrame:
    rows = []
    steps = (-1.0, 0.0, 1.0)
    for k, (name, seed) in enumerate(itertools.product(("bp", "mf"), (0, 1))):
        run = {"algorithm": name, "seed": seed}
        rows += [
            {**run, "kind": "slice", "direction": d, "x": x, "loss": 0.1 * (k + 1) * (1 + d) * (1 + x * x)}
            for d in (0, 1)
            for x in steps
        ]
        for split, loss, accuracy, eigenvalue in (("train", 0.1, 99.0, 5.0 + k), ("val", 0.3, 96.0, 50.0)):
            rows.append({**run, "kind": "gap", "split": split, "loss": loss * (1 + k), "accuracy": accuracy})
            rows.append({**run, "kind": "sharpness", "split": split, "eigenvalue": eigenvalue})
        if seed == 0:
            rows += [
                {**run, "kind": "plane", "x": x, "y": y, "loss": 0.1 + k + x * x + 2 * y * y}
                for x in steps
                for y in steps
            ]
    rows += [
        {"algorithm": "bp-mf", "seed": s, "kind": "line", "x": x, "loss": x + s, "accuracy": 90.0 + x + s}
        for s in (0, 1)
        for x in (0.0, 0.5, 1.0)
    ]
    fixed = {"data": "digits", "architecture": "2x256", "protocol": "convergence"}
    return pd.DataFrame(rows).assign(**fixed).reindex(columns=SURVEY_COLUMNS)


def coloured(ax, name: str) -> list:
    """The lines of an axis in an algorithm's colour."""
    colour = matplotlib.colors.to_rgb(look(name).colour)
    return [line for line in ax.get_lines() if matplotlib.colors.to_rgb(line.get_color()) == colour]


def test_slices_show_every_run_and_their_mean(evidence):
    loss, rise = figures.landscape.slice_lines(evidence).axes
    for ax in (loss, rise):
        assert [len(coloured(ax, name)) for name in ("bp", "mf")] == [2 * 2 + 1] * 2
    rows = evidence[(evidence["kind"] == "slice") & (evidence["algorithm"] == "mf")]
    mean = rows.groupby("x")["loss"].mean()
    assert coloured(loss, "mf")[-1].get_ydata() == pytest.approx(mean.to_numpy())
    assert coloured(rise, "mf")[-1].get_ydata() == pytest.approx((mean - mean[0.0]).to_numpy())


def test_line_runs_from_one_solution_to_the_other(evidence):
    figure = figures.landscape.line(evidence)
    for ax, base in zip(figure.axes, (0.0, 90.0), strict=True):
        runs = [line.get_ydata().tolist() for line in ax.get_lines() if len(line.get_xdata()) == 3]
        assert runs == [[base, base + 0.5, base + 1.0], [base + 1.0, base + 1.5, base + 2.0]]
        assert [list(coloured(ax, name)[0].get_xdata()) for name in ("bp", "mf")] == [[0.0, 0.0], [1.0, 1.0]]
    assert "from BP (0) to MF (1)" in figure.axes[0].get_xlabel()


def test_planes_have_one_scale_and_the_axes_the_right_way_round(evidence):
    figure = figures.landscape.plane_contours(evidence)
    bp, mf, bar = figure.axes
    assert [ax.get_xlabel().split(":")[0] for ax in (bp, mf)] == ["BP, seed 0", "MF, seed 0"]
    filled = [ax.collections[0] for ax in (bp, mf)]
    assert np.array_equal(filled[0].levels, filled[1].levels)
    rows = evidence[evidence["kind"] == "plane"]
    assert filled[0].levels[0] == pytest.approx(rows["loss"].min())
    assert filled[0].levels[-1] > rows["loss"].max()
    # The loss rises twice as steeply along y: a contour is wider than it is high.
    low = filled[0].get_paths()[1].get_extents()
    assert low.width > low.height
    assert "nats" in bar.get_ylabel()


def test_sharpness_is_of_both_kinds_of_images_and_gaps_are_validation_minus_training(evidence):
    figure = figures.landscape.sharpness_points(evidence)
    drawn = [[coloured(ax, name)[0].get_ydata().tolist() for name in ("bp", "mf")] for ax in figure.axes]
    assert drawn[0] == [[5.0, 6.0], [7.0, 8.0]]
    assert np.ravel(drawn[1]) == pytest.approx([50.0] * 4)
    assert np.ravel(drawn[2]) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert np.ravel(drawn[3]) == pytest.approx([3.0] * 4)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["BP\nn = 2", "MF\nn = 2"]


PICTURES = {"slice_lines": 2, "line": 2, "plane_contours": 2, "sharpness_points": 4}  # and their columns


@pytest.mark.parametrize(("draw", "columns"), PICTURES.items())
def test_every_data_set_has_a_row_of_its_own(evidence, draw, columns):
    both = pd.concat([evidence, evidence.assign(data="mnist", loss=evidence["loss"] + 1.0)])
    figure = getattr(figures.landscape, draw)(both)
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert [title.split(",")[0] for title in titles] == ["digits", "MNIST"]
    assert len(figure.axes) == 2 * (columns + (draw == "plane_contours"))


def test_pictures_show_themselves(evidence):
    for draw in PICTURES:
        assert getattr(figures.landscape, draw)(evidence)._repr_png_().startswith(b"\x89PNG")


def test_losses_of_zero_have_a_colour(evidence):
    plane = evidence[evidence["kind"] == "plane"]
    for losses in (plane["loss"].where(plane["x"] != 0, 0.0), 0.0 * plane["loss"]):
        figures.landscape.plane_contours(plane.assign(loss=losses)).canvas.draw()


def test_what_evidence_lacks_is_said_in_its_figure(evidence):
    one = evidence[(evidence["kind"] != "line") & (evidence["kind"] != "plane")]
    for draw in (figures.landscape.line, figures.landscape.plane_contours):
        assert draw(one).axes[0].texts[0].get_text()
    single = evidence[(evidence["seed"] == 0) & (evidence["algorithm"] == "bp")]
    for draw in (
        figures.landscape.slice_lines,
        figures.landscape.sharpness_points,
        figures.landscape.plane_contours,
    ):
        draw(single).canvas.draw()
