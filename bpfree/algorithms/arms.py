"""One arm per algorithm: its class and options, and how it is searched, named and drawn.

`ARMS` is the one table of them, in the order of tables and figures. A record may name an arm that is not in
it, such as `"module:object"` of somebody else's: `look` has a label, a colour and a place for any name.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..errors import InvalidInput, choose, named
from .asge import ASGELike
from .base import Algorithm
from .bp import Backprop, DeepSupervision, FreezeOut
from .cafo import CascadedForward
from .ff import ForwardForward
from .mf import CORNERS, MonoForward
from .networks import Blocks
from .projection import ForwardProjection


class Range(NamedTuple):
    """What a search tries of a parameter: from low to high, both included.

    scale: "log" or "linear"; "log int" or "int" for whole numbers.
    """

    low: float
    high: float
    scale: str

    @property
    def decades(self) -> float:
        return round(math.log10(self.high / self.low), 2) if self.low > 0 else math.inf


# One range for every rate and one for every decay, four and five decades wide, so that no algorithm is given
# a kinder one; the published searches had as little as a factor of 10 for some and 1000 for others.
RATE = Range(1e-5, 1e-1, "log")
DECAY = Range(1e-7, 1e-2, "log")
WEIGHT = Range(1e-2, 1e1, "log")  # λ
LAYERS = {"lr": RATE, "weight_decay": DECAY}
MIXED = {**LAYERS, "aux_weight": WEIGHT}
HEAD = {**LAYERS, "head_lr": RATE, "head_weight_decay": DECAY}  # Forward-Forward's head has rates of its own
BLOCKS = {**LAYERS, "block_lr": RATE, "block_weight_decay": DECAY}  # and DFA's blocks have theirs


@dataclass(frozen=True, eq=False)
class Arm:
    """An algorithm of a study: one class with the options that make it this arm.

    Attributes:
        name: what experiments and records call it; algorithm: its class.
        options: keyword options that an experiment of this arm may not contradict.
        label: what tables and figures call it; default: the last part of its name.
        family: in whose tables it stands and whose networks it trains by default: "ff", "cafo" or "mf";
            "bp" for the baselines, which stand in all of them.
        colour, marker, line: in figures, as matplotlib takes them; None: the next that is free.
        space: parameter -> range that a search tries.
        lengths: likewise of lengths of training, which are searched only under the protocol "published":
            under any other, patience and cap are the protocol's and the same for all.
        division: likewise of how a budget that is fixed in advance is divided over the stages.
    """

    name: str
    algorithm: type[Algorithm]
    options: Mapping[str, object] = field(default_factory=dict)
    label: str = ""
    family: str = "mf"
    colour: str | None = None
    marker: str | None = None
    line: object = None
    space: Mapping[str, Range] = field(default_factory=lambda: LAYERS)
    lengths: Mapping[str, Range] = field(default_factory=dict)
    division: Mapping[str, Range] = field(default_factory=dict)

    def make(self, model: Blocks, **options) -> Algorithm:
        """The algorithm on this network; `options` go before the arm's own."""
        algorithm = self.algorithm(model, **{**self.options, **options})
        algorithm.name = self.name
        return algorithm


DASHED, DOTTED, DASH_DOTTED = (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5))
DOUBLE, LONG = (0, (2, 1)), (0, (4, 1, 1, 1, 1, 1))
RANDOM, DFA, MSE = {"blocks": "random"}, {"blocks": "dfa"}, {"blocks": "random", "loss": "mse"}
ADAMW, SGD = {"optimiser": "adamw"}, {"optimiser": "sgd", "lr_schedule": "cooldown"}
MF = {name: {"schedule": schedule, "detach": detach} for (schedule, detach), name in CORNERS.items()}
HALF = {"schedule": 0.5, "detach": True}
EPOCHS, CAFO_EPOCHS = {"epochs": Range(5, 30, "int")}, {"epochs": Range(3, 1500, "log int")}
DFA_EPOCHS = {**CAFO_EPOCHS, "block_epochs": Range(3, 250, "log int")}
RIDGE = {"ridge": Range(1e-6, 1e1, "log")}
# Those of "fp" are of all samples together.
RIDGES = {"ridge": Range(1e-1, 1e4, "log"), "output_ridge": Range(1e-2, 1e3, "log")}
PREDSIM = {**MF["mf"], "sim_weight": 0.99}
DIVISION = {"stage_ratio": Range(0.5, 1.0, "linear")}  # from halving to equal shares
FREEZING = {"freeze_from": Range(0.5, 1.0, "linear")}  # the last of which freezes nothing

# Colours are Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which
# white paper swallows; markers repeat the distinction in print, and dashes do within each family.
_ARMS = (
    Arm("bp", Backprop, {}, "BP", "bp", "#000000", "o", "-"),
    Arm("bp_ds", DeepSupervision, {}, "BP-DS", "bp", "#707070", "s", DOTTED, MIXED),
    Arm("bp_freeze", FreezeOut, {}, "BP, freezing", "bp", "#332288", "d", DASHED, division=FREEZING),
    Arm("mf_joint", MonoForward, MF["mf_joint"], "MF-Joint", "mf", "#56B4E9", "v", DASH_DOTTED, MIXED),
    Arm(
        *("mf_sequential_joint", MonoForward, MF["mf_sequential_joint"]),
        *("MF sequential, not detached", "mf", "#CC79A7", "X", LONG),
        division=DIVISION,
    ),
    Arm("mf_interleaved", MonoForward, MF["mf_interleaved"], "MF interleaved", "mf", "#0072B2", "D", DOUBLE),
    Arm("mf_overlapped", MonoForward, HALF, "MF overlapped", "mf", "#117733", "h", DOTTED),
    Arm("mf", MonoForward, MF["mf"], "MF", "mf", "#D55E00", "P", DASHED, lengths=EPOCHS, division=DIVISION),
    Arm(
        *("mf_predsim", MonoForward, PREDSIM, "MF, predsim", "mf", "#A6761D", "H", LONG),
        **{"lengths": EPOCHS, "division": DIVISION},
    ),
    Arm("fp", ForwardProjection, {}, "FP, solved", "mf", "#1F3A93", "8", DOTTED, RIDGES),
    Arm("asge_like", ASGELike, {}, "ASGE-like", "mf", "#44AA99", "x", DASH_DOTTED),
    Arm("ff", ForwardForward, ADAMW, "FF (AdamW)", "ff", "#009E73", "^", DASHED, HEAD),
    Arm("ff_sgd", ForwardForward, SGD, "FF (SGD)", "ff", "#66C2A5", "<", DOTTED, HEAD),
    Arm(
        "cafo_rand", CascadedForward, RANDOM, "CaFo-Rand", "cafo", "#E69F00", ">", DASHED, LAYERS, CAFO_EPOCHS
    ),
    Arm("cafo_rand_mse", CascadedForward, MSE, "CaFo-Rand, solved", "cafo", "#7F7000", "p", DOTTED, RIDGE),
    Arm(
        "cafo_dfa", CascadedForward, DFA, "CaFo-DFA", "cafo", "#882255", "*", DASH_DOTTED, BLOCKS, DFA_EPOCHS
    ),
)
ARMS: dict[str, Arm] = {arm.name: arm for arm in _ARMS}

_ELSEWHERE: dict[str, Arm] = {}  # those that "module:object" named, by that name


def arm(name: str) -> Arm:
    """The arm of this name in `ARMS`; or the one, or the `Algorithm`, that "module:object" names.

    Raises UnknownName or InvalidInput, in one line, if there is none.
    """
    if name in ARMS or ":" not in str(name):
        return ARMS[choose("algorithm", name, [*ARMS, "module:object"])]
    if name not in _ELSEWHERE:
        found = named(name, "algorithm")
        if isinstance(found, type) and issubclass(found, Algorithm):
            found = Arm(name, found)
        if not isinstance(found, Arm):
            raise InvalidInput(f"algorithm {name!r}: it names neither a bpfree.Algorithm nor a bpfree.Arm")
        # A record keeps the name by which another process finds it, too.
        _ELSEWHERE[name] = replace(found, name=name)
    return _ELSEWHERE[name]


def add_arm(arm: Arm) -> Arm:
    """Puts an arm last in `ARMS`, for this process. Raises InvalidInput if its name is taken by another."""
    if ARMS.setdefault(arm.name, arm) is not arm:
        raise InvalidInput(f"an arm {arm.name!r} is there already: give yours another name")
    return arm


# ---------------------------------------------------------------- how arms are named and drawn


class Look(NamedTuple):
    """How tables and figures show an arm: its label and family, how it is drawn, its place in their order."""

    label: str
    family: str
    colour: str
    marker: str
    line: object
    place: int


# For arms that bring none of their own.
FREE = {
    "colour": ("#6A3D9A", "#B15928", "#E7298A", "#1B7837", "#B2182B"),
    "marker": ("1", "2", "3", "4"),
    "line": ((0, (3, 1, 1, 1)), (0, (8, 2)), (0, (3, 2)), "-"),
}
_met: dict[str, int] = {}  # such arms, in the order in which they were met


def look(name: str) -> Look:
    """How an arm of any name is shown: one that `ARMS` lacks has the next colour and the last place."""
    known = ARMS.get(name) or _ELSEWHERE.get(name)
    own = [getattr(known, part, None) for part in FREE]
    if name not in ARMS or None in own:
        turn = _met.setdefault(name, len(_met))
        own = [mine or free[turn % len(free)] for mine, free in zip(own, FREE.values(), strict=True)]
    place = list(ARMS).index(name) if name in ARMS else len(ARMS)
    return Look(label(name), known.family if known else Arm.family, *own, place)


def label(name: str) -> str:
    """What tables and figures call an arm of any name."""
    known = ARMS.get(name) or _ELSEWHERE.get(name)
    return (known and known.label) or str(name).rpartition(":")[2]


def ordered(names: Iterable[str]) -> list[str]:
    """These arms, each once, in the order of tables and figures; those that `ARMS` lacks last, by name."""
    return sorted(set(names), key=lambda name: (look(name).place, name))
