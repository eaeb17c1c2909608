"""The schematics show what the algorithms do: their marks are those of the code, and change with it."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from bpfree.algorithms.arms import ARMS
from bpfree.errors import BpfreeError
from bpfree.evidence import figures
from bpfree.evidence.figures.schematic import VIEWS


def marks(name: str) -> dict[str, set[str]]:
    """mark -> what it stands at or leads to, in the one panel of this algorithm."""
    found = {}
    for patch in figures.schematic(name).axes[0].patches:
        mark, _, where = str(patch.get_label()).partition(": ")
        if where:
            found.setdefault(mark, set()).add(where)
    return found


def to(*layers: int) -> set[str]:
    return {f"to layer {i}" for i in layers}


def layers_in(found: dict[str, set[str]], mark: str) -> set[str]:
    return {where for where in found.get(mark, ()) if "layer" in where}


def test_backpropagations_one_gradient_comes_down_to_the_first_layer():
    found = marks("bp")
    assert found["loss"] == {"at read-out output"}
    assert layers_in(found, "gradient") == to(1, 2, 3)
    assert layers_in(found, "learns") == {"layer 1", "layer 2", "layer 3"}
    assert not {"stop", "frozen", "waits", "kept", "once", "feedback"} & set(found)


def test_mono_forwards_gradient_stops_in_its_own_layer():
    found = marks("mf")
    assert found["loss"] == {"at read-out 2"}
    assert layers_in(found, "gradient") == to(2)
    assert found["stop"] == {"below layer 2"}
    assert found["learns"] == {"layer 2", "read-out 2"}
    assert found["frozen"] == {"layer 1", "read-out 1"}
    assert found["waits"] == {"layer 3", "read-out 3"}
    assert found["kept"] == {"of layer 1"}
    assert found["once"] == {"to layer 1", "of layer 1"}


def test_interleaved_layers_learn_together_and_no_gradient_passes_between_them():
    found = marks("mf_interleaved")
    assert found["loss"] == {f"at read-out {i}" for i in (1, 2, 3)}
    assert layers_in(found, "gradient") == to(1, 2, 3)
    assert found["stop"] == {"below layer 2", "below layer 3"}
    assert not {"frozen", "waits", "kept"} & set(found)


def test_forward_forward_has_a_loss_at_every_layer_two_images_and_no_read_out():
    found = marks("ff")
    assert found["loss"] == {"at layer 1", "at layer 2", "at layer 3"}
    assert layers_in(found, "gradient") == to(1, 2, 3)
    assert found["stop"] == {"below layer 2", "below layer 3"}
    assert found["learns"] == {"layer 1", "layer 2", "layer 3"}
    assert any("wrong label" in text.get_text() for text in figures.schematic("ff").findobj(Text))


def test_random_blocks_get_no_gradient_and_those_of_dfa_get_theirs_through_fixed_matrices():
    random = marks("cafo_rand")
    assert random["frozen"] == {"block 1", "block 2", "read-out 1"}
    assert random["learns"] == {"read-out 2"}
    assert random["kept"] == {"of layer 2"}
    assert random["stop"] == {"at read-out 2"}
    assert not layers_in(random, "gradient")
    dfa = marks("cafo_dfa")
    assert layers_in(dfa, "feedback") == to(1, 2)
    assert layers_in(dfa, "gradient") == to(3)
    assert dfa["stop"] == {"below layer 2", "below layer 3"}
    assert dfa["frozen"] == {"matrix 1", "matrix 2"}
    assert dfa["waits"] == {"read-out 1", "read-out 2", "read-out 3"}


def test_what_freezes_passes_its_gradient_no_further():
    assert marks("bp_freeze")["stop"] == {"below layer 2"}
    assert layers_in(marks("bp_freeze"), "gradient") == to(2, 3)
    assert marks("mf_overlapped")["kept"] == {"of layer 1"}
    assert marks("mf_overlapped")["stop"] == {"below layer 2", "below layer 3"}


def test_a_change_of_the_algorithm_changes_its_drawing(monkeypatch):
    undetached = replace(ARMS["mf"], options={**ARMS["mf"].options, "detach": False})
    monkeypatch.setitem(ARMS, "mf", undetached)
    found = marks("mf")
    assert layers_in(found, "gradient") == to(1, 2)
    assert "stop" not in found
    assert "kept" not in found


@pytest.mark.parametrize(
    "names", [*((name,) for name in VIEWS), tuple(VIEWS), ("bp", "ff", "cafo_dfa", "mf")]
)
def test_every_text_can_be_read(names):
    figure = figures.schematic(*names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    whole = figure.bbox
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    shown = [text for text in shown if text.axes is not None and text in text.axes.texts]
    assert min(text.get_fontsize() for text in shown) >= 8
    boxes = [(text.get_text(), Text.get_window_extent(text, renderer)) for text in shown]
    for said, box in boxes:
        assert whole.containsx(box.x0), said
        assert whole.containsx(box.x1), said
        assert whole.containsy(box.y0), said
        assert whole.containsy(box.y1), said
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


def test_panels_stand_four_in_a_row_and_a_mark_is_explained_once():
    figure = figures.schematic(*VIEWS)
    places = Counter(round(ax.get_position().x0, 3) for ax in figure.axes[: len(VIEWS)])
    assert places == {0.0: 3, 0.25: 3, 0.5: 3, 0.75: 2}
    said = [text.get_text() for text in figure.axes[-1].texts]
    assert len(said) == len(set(said))
    assert "frozen" in said
    assert "frozen" not in [text.get_text() for text in figures.schematic("bp").axes[-1].texts]


def test_drawing_draws_no_random_number_of_the_callers():
    before = torch.get_rng_state()
    figures.schematic("cafo_dfa", "ff")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("names", [("mff",), ("bp", "fp"), ()])
def test_what_cannot_be_drawn_is_refused_in_one_line(names):
    with pytest.raises(BpfreeError) as refused:
        figures.schematic(*names)
    assert "\n" not in str(refused.value)
    assert "mf_interleaved" in str(refused.value)
