"""How an algorithm learns, drawn from its own code: what runs up, how far gradients come down, what rests.

Nothing of an algorithm is drawn from memory. It is built on a small network and asked: its `stages` say
what moves, what is frozen and what is kept; `gradient_reach` says which loss reaches which weights; and what
a loss no longer reaches once the fixed random matrices are 0, it had reached through them.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from ...algorithms.arms import ARMS, look
from ...algorithms.base import Algorithm
from ...algorithms.networks import MLP
from ...diagnostics.gradient_reach import gradient_reach
from ...errors import InvalidInput, choose
from ...training.chance import stream
from . import style


class View(NamedTuple):
    """What a panel is called, and which of the algorithm's stages it shows, counted from 1."""

    title: str
    variant: str = ""
    stage: int = 1


#: What can be drawn; of several stages, the first that shows what is peculiar to the algorithm.
VIEWS = {
    "bp": View("Backpropagation"),
    "bp_ds": View("Backpropagation", "deep supervision"),
    "bp_freeze": View("Backpropagation", "freezing", 2),
    "mf_joint": View("Mono-Forward", "joint"),
    "mf_sequential_joint": View("Mono-Forward", "not detached", 2),
    "mf_interleaved": View("Mono-Forward", "interleaved"),
    "mf_overlapped": View("Mono-Forward", "overlapped", 3),
    "mf": View("Mono-Forward", "sequential", 2),
    "ff": View("Forward-Forward"),
    "cafo_rand": View("Cascaded-Forward", "random", 2),
    "cafo_dfa": View("Cascaded-Forward", "DFA"),
}
DEPTH = 3  # layers: below the one that learns one may be frozen, and above it one may wait
TOP = "output"  # the read-out above the last layer; the others stand beside the layer that they read

# ---------------------------------------------------------------- what there is to see


class Loss(NamedTuple):
    """What one loss moves: layers by a true gradient, layers through fixed random feedback, and read-outs."""

    layers: frozenset[int]
    fed_back: frozenset[int]
    heads: frozenset[str]

    @property
    def passed(self) -> frozenset[int]:
        """The layers through which the gradient goes on into the layer below."""
        return frozenset(i for i in self.layers if i - 1 in self.layers)

    @property
    def ends(self) -> list[int]:
        """The layers above the first at whose input the gradient stops."""
        return sorted((self.layers | self.fed_back) - self.passed - {1})


@dataclass
class Moment:
    """An algorithm while one of its stages lasts.

    state: of every layer, by its number, and every read-out, by its name: "learns", "frozen" or "waits".
    kept: how many of the lowest layers are the frozen prefix, the output of which is kept.
    losses: each once, though it may come in several parts.
    """

    state: dict[int | str, str]
    kept: int
    losses: list[Loss]


def small(name: str) -> Algorithm:
    """The algorithm of this arm on a network of three layers, before any training."""
    algorithm = ARMS[name].make(MLP([16] * (DEPTH + 1), classes=4))
    algorithm.initialise(0)
    return algorithm


def moments(algorithm: Algorithm) -> list[Moment]:
    """What there is to see of an algorithm, stage by stage."""
    parts = {parameter: part_of(name, algorithm) for name, parameter in algorithm.named_parameters()}
    every = sorted(set(parts.values()), key=str)
    reach = losses_of(algorithm)
    seen, done = [], set()
    for stage in algorithm.stages():
        learns = {parts[p] for group in stage.groups for p in group.parameters}
        kept = {parts[p] for module in stage.prefix for p in module.parameters()}
        done |= kept
        state = {p: "learns" if p in learns else "frozen" if p in done else "waits" for p in every}
        done |= learns
        seen.append(Moment(state, len(kept), reach.get(stage.name, [])))
    return seen


def part_of(name: str, algorithm: Algorithm) -> int | str:
    """The layer or the read-out to which the parameter of this name belongs."""
    kind, *_, key = name.split(".")[: 3 if name.startswith("model.blocks.") else 2]
    if kind == "model":
        return int(key) + 1
    return TOP if len(algorithm.heads) == 1 else key  # a lone read-out is the network's output


def is_head(part: int | str) -> bool:
    return isinstance(part, str)


def losses_of(algorithm: Algorithm) -> dict[str, list[Loss]]:
    """stage's name -> its losses. The algorithm's fixed feedback is 0 afterwards."""
    x = torch.rand(32, 1, 4, 4, generator=stream("schematic"))
    labels = torch.arange(len(x)) % algorithm.model.classes
    both = gradient_reach(algorithm, x, labels) > 0
    for name, matrix in algorithm.named_buffers():
        if name.startswith("feedback"):
            matrix.zero_()
    true = gradient_reach(algorithm, x, labels) > 0
    losses = {}
    for loss in both.index:
        reached, truly = (
            frozenset(part_of(name, algorithm) for name in table.columns[table.loc[loss]])
            for table in (both, true)
        )
        heads = frozenset(filter(is_head, reached))
        layers = frozenset(part for part in truly if not is_head(part))
        one = Loss(layers, reached - layers - heads, heads)
        mine = losses.setdefault(loss.partition(", loss ")[0], [])
        if one not in mine:  # Forward-Forward has one for the positive and one for the negative images
            mine.append(one)
    return losses


# ---------------------------------------------------------------- the marks, in inches

PANEL = style.WIDTH / 4  # inches: four panels in a row
PITCH = 0.62  # from layer to layer
FIRST = 1.27  # the height of the first layer
CENTRE, UP, DOWN = 0.55, 0.37, 0.73  # of the layers; where activations run up, where gradients come down
READ, LOSS = 1.17, 1.61  # the columns of read-outs and of losses
LAYER, SIDE, OUTPUT = (0.76, 0.25), (0.25, 0.22), (0.5, 0.22)  # of a layer, a read-out, and the output's
HEIGHT = FIRST + DEPTH * PITCH + 0.66  # of a panel
STRIP = 0.42  # of it, that of the strip of stages
TEXT = 8  # points
HEAD = 0.075  # the length of a thin arrow's head
RADIUS = 0.125  # of a loss
SHEET, STEP, STACK = (0.2, 0.09), 0.025, (0.25, 0.14)  # of paper, how far to the next, and of three of them
APART = 0.05  # half-way between an activation and the gradient that comes back along it
NEAR = LOSS - (RADIUS**2 - APART**2) ** 0.5  # where the two touch the circle of a loss
IMAGE = 0.32  # side of the image
LINE, SKIP = 0.147, 0.075  # inches of a line of the legend, and between its entries
ONE = (
    "........",
    "....#...",
    "...##...",
    "..#.#...",
    "....#...",
    "....#...",
    "...###..",
    "........",
)
INK, PALE = "#222222", "#999999"

ARROWS = {
    "activations": {"color": INK, "lw": 1.0, "zorder": 3},
    "once": {"color": PALE, "lw": 1.0, "zorder": 3},
    "gradient": {"color": style.RED, "lw": 2.0, "zorder": 4},
    "feedback": {"color": style.RED, "lw": 1.5, "ls": (0, (2.2, 1.2)), "zorder": 4},
}
BOXES = {
    "learns": {"fc": "#FDE8DC", "ec": style.RED, "lw": 1.5},
    "frozen": {"fc": "#E0E0E0", "ec": "#777777", "lw": 0.8},
    "waits": {"fc": "white", "ec": PALE, "lw": 0.9, "ls": (0, (1.2, 1.4))},
}
MEANINGS = {
    "activations": "activations",
    "once": "computed only once",
    "kept": "outputs that are kept",
    "V": "the output's read-out",
    "M": "a layer's read-out",
    "P": "a block's predictor",
    "loss": "a loss",
    "gradient": "its gradient",
    "stop": "the gradient stops",
    "feedback": "the error through fixed random matrices",
    "learns": "learns in this stage",
    "frozen": "frozen",
    "waits": "waits for its stage",
    "stages": "all stages in turn; framed: drawn large",
}


def around(x: float, y: float, size: tuple[float, float]) -> Bbox:
    """A box of this width and height around its centre."""
    return Bbox.from_bounds(x - size[0] / 2, y - size[1] / 2, *size)


def rectangle(box: Bbox, **how) -> Rectangle:
    return Rectangle(box.p0, *box.size, **how)


class Marks:
    """Draws the marks on axes in inches, each in one way, and notes which of them were used."""

    def __init__(self, ax: Axes):
        self.ax, self.used = ax, set()

    def put(self, mark: str, patch: Patch, label: str = "") -> None:
        self.used.add(mark)
        patch.set_label(f"{mark}: {label}")
        self.ax.add_patch(patch)

    def write(self, x: float, y: float, text: str, **how) -> None:
        self.ax.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": TEXT, "zorder": 6, **how})

    def arrow(self, kind: str, *points: tuple[float, float], label: str = "") -> None:
        """A way along these points, with its head at the last."""
        look_of = ARROWS[kind]
        *way, (x0, y0), (x1, y1) = points
        far = math.hypot(x1 - x0, y1 - y0)
        head = HEAD * look_of["lw"] ** 0.4
        dx, dy = (x1 - x0) / far * head, (y1 - y0) / far * head
        neck = x1 - dx, y1 - dy
        self.put(kind, PathPatch(Path([*way, (x0, y0), neck]), fill=False, capstyle="butt", **look_of), label)
        sides = [(neck[0] + t * dy, neck[1] - t * dx) for t in (0.42, -0.42)]
        self.ax.add_patch(
            Polygon([(x1, y1), *sides], fc=look_of["color"], ec="none", zorder=look_of["zorder"])
        )

    def box(self, state: str, box: Bbox, text: str = "", label: str = "") -> None:
        """A layer or a matrix; what is frozen is hatched, too, for those who print in grey."""
        self.put(state, rectangle(box, zorder=2, **BOXES[state]), label)
        if state == "frozen":
            self.ax.add_patch(rectangle(box, fc="none", ec="#ABABAB", lw=0, hatch="/////", zorder=2))
        if text:
            plate = {"fc": BOXES[state]["fc"], "ec": "none", "pad": 0.8}
            x, y = (box.p0 + box.p1) / 2
            self.write(x, y, text, color=PALE if state == "waits" else INK, bbox=plate)

    def loss(self, x: float, y: float, text: str, label: str) -> None:
        how = {"fc": "white", "ec": style.RED, "lw": 1.3, "zorder": 5}
        self.put("loss", Circle((x, y), RADIUS, **how), label)
        self.write(x, y, text)

    def stop(self, x: float, y: float, dx: float, dy: float, label: str = "") -> None:
        """A gradient that begins here, goes this little way, and ends at a bar."""
        end = x + dx, y + dy
        bar = [(end[0] + t * dy, end[1] - t * dx) for t in (0.8, -0.8)]
        codes = [Path.MOVETO, Path.LINETO] * 2
        self.put("stop", PathPatch(Path([(x, y), end, *bar], codes), fill=False, **ARROWS["gradient"]), label)

    def sheets(self, x: float, y: float, label: str = "") -> None:
        """A stack of paper."""
        for step in (STEP, 0, -STEP):
            sheet = around(x + step, y + step, SHEET)
            self.put("kept", rectangle(sheet, fc="white", ec=INK, lw=0.8, zorder=5), label)

    def image(self, x: float, y: float, label: int | None = None) -> None:
        """A picture of a one; `label`: the pixel of the first row in which a class is written."""
        side, frame = IMAGE / len(ONE), around(x, y, (IMAGE, IMAGE))
        self.ax.add_patch(rectangle(frame, fc="white", ec=INK, lw=0.8, zorder=5))
        for row, line in enumerate(ONE):
            for column, pixel in enumerate(line):
                if pixel == "#" or (row, column) == (0, label):
                    at = (frame.x0 + column * side, frame.y1 - (row + 1) * side)
                    self.ax.add_patch(Rectangle(at, side, side, fc=INK, ec="none", zorder=5))


# ---------------------------------------------------------------- panels


def height(part: int | str) -> float:
    """Of a layer's middle, or of a read-out's and its loss's."""
    if isinstance(part, int):
        return FIRST + (part - 1) * PITCH
    return height(DEPTH + 1) if part == TOP else between(int(part))


def between(i: int) -> float:
    """The height half-way from layer i to the next, where a_i is read."""
    return height(i) + PITCH / 2


def source(head: str) -> int:
    """The layer that a read-out reads."""
    return DEPTH if head == TOP else int(head)


def beside(part: int | str) -> bool:
    """Whether it is a read-out that stands beside its layer."""
    return is_head(part) and part != TOP


def box_of(part: int | str) -> Bbox:
    """Where a layer or a read-out stands."""
    if beside(part):
        return around(READ, height(part), SIDE)
    return around(CENTRE, height(part), OUTPUT if part == TOP else LAYER)


def outlet(moment: Moment, i: int) -> Bbox:
    """From where the output of layer i runs on: from the layer, or from the stack in which it is kept."""
    return around(UP, between(i), STACK) if i == moment.kept else box_of(i)


@style.styled
def schematic(*names: str) -> Figure:
    """How algorithms learn: a panel for each of these arms, four in a row, and what the marks mean.

    names: of `VIEWS`: "bp", "bp_ds", "bp_freeze", "mf", "mf_interleaved", "mf_overlapped", "mf_joint",
        "mf_sequential_joint", "ff", "cafo_rand", "cafo_dfa". Raises UnknownName for another, InvalidInput for
        none.

    Boxes are layers, from the image up. Of an algorithm of several stages one is drawn large, and all of them
    small below it.
    """
    if not names:
        raise InvalidInput(f"no algorithm to draw: name one or more of {', '.join(VIEWS)}")
    for name in names:
        choose("schematic", name, VIEWS)
    shown = [moments(small(name)) for name in names]
    bottom = 0.0 if any(len(every) > 1 for every in shown) else STRIP
    top = HEIGHT if any(TOP in every[0].state for every in shown) else HEIGHT - PITCH / 2
    tall = top - bottom
    rows = -(-len(names) // 4)
    free = 4 * rows - len(names)  # places of panels, in which the legend can stand
    figure, axes = style.new_figure(columns=len(names) + 1)
    figure.set_layout_engine("none")
    *panels, last = axes.flat
    used = set().union(*(draw(ax, top, *panel) for ax, *panel in zip(panels, names, shown, strict=True)))
    entries = [mark for mark in MEANINGS if mark in used]
    columns = min(free, -(-len(entries) // 8)) if free else 4
    legend = explain(last, entries, columns)
    below = 0.0 if free else legend
    figure.set_size_inches(style.WIDTH, rows * tall + below)
    for k, ax in enumerate(panels):
        at = k % 4 * PANEL, below + (rows - 1 - k // 4) * tall
        place(ax, at, (0, PANEL), (bottom, top))
    at = ((4 - free) * PANEL, (tall - legend) / 2) if free else (0, 0)
    place(last, at, (0, columns * PANEL), (-legend, 0))
    return figure


def place(ax: Axes, at: tuple[float, float], xlim: tuple[float, float], ylim: tuple[float, float]) -> None:
    """Axes without ticks, with inches for coordinates, from this place of their figure on."""
    width, tall = ax.figure.get_size_inches()
    size = (xlim[1] - xlim[0]) / width, (ylim[1] - ylim[0]) / tall
    ax.set_position([at[0] / width, at[1] / tall, *size])
    ax.set(xlim=xlim, ylim=ylim)
    ax.axis("off")


def draw(ax: Axes, top: float, name: str, every: Sequence[Moment]) -> set[str]:
    """A panel that ends at this height; returns the marks that it used."""
    view, marks, family = VIEWS[name], Marks(ax), ARMS[name].family
    moment = every[view.stage - 1]
    title(ax, top, name, len(every))
    inputs(marks, moment, pair=family == "ff")
    layers(marks, moment, *(("block", "h") if family == "cafo" else ("layer", "a")))
    read_outs(marks, moment, "P" if family == "cafo" else "M")
    for loss in moment.losses:
        gradients(marks, moment, loss)
    if len(every) > 1:
        strip(marks, every, view.stage)
    return marks.used


def title(ax: Axes, top: float, name: str, stages: int) -> None:
    """The algorithm's name with the mark that it has in all figures, and which of its stages is drawn."""
    view, y = VIEWS[name], top - 0.14
    ax.plot(0.1, y, look(name).marker, color=look(name).colour, ms=5)
    ax.text(0.2, y, view.title, fontsize=9, weight="bold", va="center")
    stage = f"stage {view.stage} of {stages}" if stages > 1 else "one stage"
    ax.text(0.2, y - 0.17, ", ".join(filter(None, [view.variant, stage])), fontsize=TEXT, va="center")


def inputs(marks: Marks, moment: Moment, *, pair: bool) -> None:
    """The image; for Forward-Forward a pair of them, with a right and a wrong label written in."""
    y, kind = height(0), "once" if moment.kept else "activations"
    for x, label in ((UP, 1), (DOWN, 6)) if pair else ((UP, None),):
        marks.arrow(kind, (x, y + IMAGE / 2), (x, box_of(1).y0), label="to layer 1")
        marks.image(x, y, label)
    words = {"text": "right and\nwrong label", "linespacing": 1.1} if pair else {"text": "image"}
    marks.write(x + IMAGE / 2 + 0.05, y, **words, ha="left")


def layers(marks: Marks, moment: Moment, word: str, letter: str) -> None:
    """The layers and the activations that run up between them, as far as the stage needs them."""
    for i in range(1, DEPTH + 1):
        box, out, kept = box_of(i), outlet(moment, i), i == moment.kept
        marks.box(moment.state[i], box, f"{word} {i}", f"{word} {i}")
        if moment.state[i] == "waits":
            continue
        if kept:
            marks.arrow("once", (UP, box.y1), (UP, out.y0), label=f"of layer {i}")
            marks.sheets(UP, between(i), f"of layer {i}")
        if i < DEPTH and moment.state[i + 1] != "waits":
            kind = "once" if i < moment.kept else "activations"
            marks.arrow(kind, (UP, out.y1), (UP, box_of(i + 1).y0), label=f"to layer {i + 1}")
        left = (out.x0 if kept else UP) - 0.04
        marks.write(left, between(i), f"${letter}_{i}$", ha="right", color="#555555")


def read_outs(marks: Marks, moment: Moment, letter: str) -> None:
    """The read-outs, and the activations that run to those that the stage uses."""
    used = {head for loss in moment.losses for head in loss.heads}
    for head in filter(is_head, moment.state):
        box, label = box_of(head), f"read-out {head}"
        marks.used.add(letter if beside(head) else "V")
        marks.box(moment.state[head], box, f"${letter}_{head}$" if beside(head) else "$V$", label)
        if head in used and beside(head):
            to_the_side(marks, moment, int(head), box.x0, f"to {label}")
        elif head in used:
            marks.arrow("activations", (UP, outlet(moment, DEPTH).y1), (UP, box.y0), label=f"to {label}")


def to_the_side(marks: Marks, moment: Moment, i: int, x: float, label: str) -> None:
    """What layer i puts out, to a read-out or a loss beside it."""
    y, out = between(i) + APART, outlet(moment, i)
    start = [(out.x1, y)] if i == moment.kept else [(UP, out.y1), (UP, y)]
    marks.arrow("activations", *start, (x, y), label=label)


def gradients(marks: Marks, moment: Moment, loss: Loss) -> None:
    """One loss, and its gradient down to where it stops."""
    for head in sorted(loss.heads) or [str(max(loss.layers))]:
        y, top = height(head), source(head)
        if loss.heads:
            where, box = f"read-out {head}", box_of(head)
            back = (box.x0, y - APART)
            marks.arrow("activations", (box.x1, y + APART), (NEAR, y + APART), label=f"to loss {head}")
            marks.arrow("gradient", (NEAR, y - APART), (box.x1, y - APART), label=f"to {where}")
        else:  # it is of what the layer itself puts out
            where, back = f"layer {top}", (NEAR, y - APART)
            to_the_side(marks, moment, top, NEAR, f"to loss {top}")
        text = f"$L_{{{head}}}$" if len(moment.losses) > 1 or head != TOP else "$L$"
        marks.loss(LOSS, y, text, f"at {where}")
        if top not in loss.layers:
            marks.stop(*back, -0.08, 0, f"at {where}")
        elif head == TOP:
            down(marks, box_of(head).y0, top)
        else:
            down(marks, y - APART, top, back)
    for i in sorted(loss.passed):
        down(marks, box_of(i).y0, i - 1)
    for i in loss.ends:
        marks.stop(DOWN, box_of(i).y0, 0, -0.08, f"below layer {i}")
    for i in sorted(loss.fed_back):  # the output's error, through a fixed random matrix to each of these
        corner = [(LOSS, height(TOP) - RADIUS)] if i == min(loss.fed_back) else []
        matrix = around(READ, height(i), SIDE)
        marks.arrow("feedback", *corner, (LOSS, height(i)), (matrix.x1, height(i)), label=f"to matrix {i}")
        marks.box("frozen", matrix, f"$B_{i}$", f"matrix {i}")
        marks.arrow("feedback", (matrix.x0, height(i)), (box_of(i).x1, height(i)), label=f"to layer {i}")


def down(marks: Marks, y: float, i: int, *start: tuple[float, float]) -> None:
    """The gradient into layer i from this height."""
    marks.arrow("gradient", *start, (DOWN, y), (DOWN, box_of(i).y1), label=f"to layer {i}")


def strip(marks: Marks, every: Sequence[Moment], stage: int) -> None:
    """All stages, small, from left to right: the layers, and to their right their read-outs."""
    marks.used.add("stages")
    width, row = 0.32 if any(map(beside, every[0].state)) else 0.23, 0.08
    for k, moment in enumerate(every):
        left = 0.1 + 0.41 * k
        for part, state in moment.state.items():
            column, size = (0.18, 0.065) if beside(part) else (0.0, 0.15)
            level = DEPTH if part == TOP else int(part) - 1
            how = BOXES[state] | {"lw": 0.7} | ({"fc": style.RED} if state == "learns" else {})
            marks.ax.add_patch(Rectangle((left + 0.04 + column, 0.06 + row * level), size, 0.055, **how))
        if k + 1 == stage:
            tall = row * (DEPTH + (TOP in moment.state)) + 0.055
            marks.ax.add_patch(Rectangle((left, 0.02), width, tall, fc="none", ec=INK, lw=1.2))


def explain(ax: Axes, used: Sequence[str], columns: int) -> float:
    """What each of the marks means; returns how high that is.

    The columns, each as wide as a panel, begin at height 0 and are filled one after the other.
    """
    marks = Marks(ax)
    entries = [(m, textwrap.wrap(MEANINGS[m], 21, break_on_hyphens=False)) for m in used]
    each = -(-len(entries) // columns)
    lowest = 0.0
    for column in range(columns):
        left, y = 0.1 + column * PANEL, -0.15
        for mark, lines in entries[column * each : (column + 1) * each]:
            sample(marks, mark, left + 0.15, y)
            marks.write(left + 0.4, y + 0.065, "\n".join(lines), ha="left", va="top", linespacing=1.1)
            y -= LINE * len(lines) + SKIP
        lowest = min(lowest, y)
    return 0.05 - lowest


def sample(marks: Marks, mark: str, x: float, y: float) -> None:
    """A mark of its own around this point."""
    if mark in ARROWS:
        marks.arrow(mark, (x - 0.16, y), (x + 0.16, y))
    elif mark in BOXES:
        marks.box(mark, around(x, y, (0.3, 0.14)))
    elif mark == "kept":
        marks.sheets(x, y)
    elif mark == "loss":
        marks.put("loss", Circle((x, y), 0.075, fc="white", ec=style.RED, lw=1.3))
    elif mark == "stop":
        marks.stop(x + 0.04, y, -0.08, 0)
    elif mark == "stages":
        marks.ax.add_patch(rectangle(around(x, y, (0.24, 0.16)), fc="none", ec=INK, lw=1.2))
    else:
        marks.write(x, y, f"${mark}$")
