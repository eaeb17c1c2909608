"""The loss around trained weights: slices, the line between two solutions, and sharpness.

Everything is of the network *as it predicts*, whichever way it was trained: the class scores are the
algorithm's own `readouts`, their loss is the cross-entropy, and the parameters are those that the
prediction uses (Mono-Forward's projection matrices below the last layer are not among them).

Slices go along random directions that are filter-normalised (Li et al. 2018, arXiv 1712.09913): every
neuron's part of the direction is as long as that neuron's weights, and biases and normalisation stay.
So a slice does not change when a ReLU layer is scaled up and the next one down, although the Hessian's
eigenvalue does (Dinh et al. 2017, arXiv 1703.04933; `rescaled` shows it).
"""

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ..errors import InvalidInput, choose
from ..training.batches import Data
from ..training.chance import stream
from ..training.numerics import pinned
from ..training.prefix import VALIDATION_BATCH

Direction = Mapping[str, Tensor]  # parameter name -> a step, shaped like the parameter
SPLITS = ("train", "val")
ALPHAS = tuple(i / 10 for i in range(-10, 11))  # 1: the step is as long as the weights
LINE = tuple(i / 20 for i in range(21))
LANDSCAPE_SAMPLES = 1000  # images of a split that `evidence` and `sharpness` look at
VALUES = ("loss", "accuracy", "eigenvalue", "residual")


class Predictor(nn.Module):
    """A copy of an algorithm as a module whose output is its prediction: (B, C, H, W) -> (B, classes)."""

    def __init__(self, algorithm: nn.Module):
        super().__init__()
        self.algorithm = copy.deepcopy(algorithm).eval().requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return next(iter(self.algorithm.readouts(x).values()))


@dataclass(frozen=True)
class Surface:
    """The loss of a trained network as a function of the parameters that its prediction uses.

    Attributes:
        predictor: the network; its own parameters stay as they are.
        names: role -> name of the parameter in the predictor. The role of the only head that is used is
            "head", whatever the algorithm calls it; so that two algorithms' networks can be compared.
        point: role -> trained value.
        x, y: the images (N, C, H, W) and labels (N,) of the loss.
    """

    predictor: Predictor
    names: dict[str, str]
    point: dict[str, Tensor]
    x: Tensor
    y: Tensor

    def losses(self, point: Direction) -> Iterator[tuple[Tensor, int]]:
        """Batch by batch: the summed cross-entropy at a point, and how many images it gets right."""
        named = {self.names[role]: value for role, value in point.items()}
        for x, y in zip(self.x.split(VALIDATION_BATCH), self.y.split(VALIDATION_BATCH), strict=True):
            scores = functional_call(self.predictor, named, (x,))
            yield cross_entropy(scores, y, reduction="sum"), (scores.argmax(1) == y).sum().item()

    @pinned()
    @torch.no_grad()
    def evaluate(self, point: Direction) -> dict[str, float]:
        """`loss` (nats) and `accuracy` (%) at a point."""
        losses, correct = zip(*self.losses(point), strict=True)
        total = sum(loss.item() for loss in losses)
        return {"loss": total / len(self.y), "accuracy": 100.0 * sum(correct) / len(self.y)}

    def moved(self, *steps: tuple[float, Direction]) -> dict[str, Tensor]:
        """The trained point plus Σ amount · direction."""
        point = dict(self.point)
        for amount, direction in steps:
            for role, step in direction.items():
                point[role] = point[role] + amount * step
        return point

    @pinned()
    def hessian_times(self, v: Tensor) -> Tensor:
        """H·v for the Hessian H of the mean loss at the trained point; v: flat, in the order of `point`.

        Two backward passes per batch: the gradient, and the gradient of its inner product with v.
        """
        point = {role: value.clone().requires_grad_() for role, value in self.point.items()}
        product = torch.zeros_like(v)
        for loss, _ in self.losses(point):
            gradient = _flat(torch.autograd.grad(loss / len(self.y), list(point.values()), create_graph=True))
            product += _flat(torch.autograd.grad(gradient, list(point.values()), v, materialize_grads=True))
        return product


@pinned()
def surface(algorithm: nn.Module, data: Data, split: str = "val", samples: int | None = None) -> Surface:
    """The loss surface of a trained algorithm over the first `samples` images (None: all) of a split.

    Raises:
        UnknownName: a split other than "train" and "val": test data are not for looking around.
        InvalidInput: the algorithm has not been trained, or its prediction has no gradient.
    """
    x, y = (getattr(data, f"{part}_{choose('split', split, SPLITS)}")[:samples] for part in "xy")
    predictor = Predictor(algorithm)
    named = dict(predictor.named_parameters())
    like = next(iter(named.values()))
    x, y = x.to(like), y.to(like.device)
    score = predictor(x[:2]).sum()
    if not score.requires_grad:
        raise InvalidInput(f"the prediction of {algorithm.name} has no gradient: its landscape is flat steps")
    reached = torch.autograd.grad(score, list(named.values()), allow_unused=True)
    used = [name for name, gradient in zip(named, reached, strict=True) if gradient is not None]
    names = {name.removeprefix("algorithm."): name for name in used}
    if len({role.split(".")[1] for role in names if role.startswith("heads.")}) == 1:
        names = {re.sub(r"^heads\.[^.]+\.", "head.", role): name for role, name in names.items()}
    point = {role: named[name].detach() for role, name in names.items()}
    return Surface(predictor.requires_grad_(False), names, point, x, y)


# ---------------------------------------------------------------- slices


@pinned()
def direction(algorithm: nn.Module, data: Data, seed: int = 0) -> dict[str, Tensor]:
    """A filter-normalised random direction: {role of the parameter: step}.

    Drawn from the stream (seed, role): two algorithms that train the same network get the same draw, each
    scaled to its own weights.
    """
    steps = {}
    for role, weight in surface(algorithm, data, samples=2).point.items():
        steps[role] = torch.zeros_like(weight)
        if weight.ndim > 1:  # biases and normalisation stay
            draw = torch.randn(weight.shape, generator=stream(seed, role)).to(weight).flatten(1)
            lengths = weight.flatten(1).norm(dim=1, keepdim=True) / draw.norm(dim=1, keepdim=True)
            steps[role] = (draw * lengths).view_as(weight)
    return steps


@pinned()
def along(
    algorithm: nn.Module, data: Data, direction: Direction, alphas: Iterable[float] = ALPHAS, **which
) -> pd.DataFrame:
    """Loss and accuracy at the trained weights plus x · direction, for x in `alphas`.

    which: `split` and `samples`, as in `surface`. Columns: x, loss (nats), accuracy (%).
    """
    here = surface(algorithm, data, **which)
    return pd.DataFrame([{"x": x, **here.evaluate(here.moved((x, direction)))} for x in alphas])


@pinned()
def plane(
    algorithm: nn.Module,
    data: Data,
    directions: tuple[Direction, Direction],
    alphas: Iterable[float] = ALPHAS,
    **which,
) -> pd.DataFrame:
    """`along` two directions at once. Columns: x, y, loss (nats), accuracy (%)."""
    here = surface(algorithm, data, **which)
    steps = (zip(amounts, directions, strict=True) for amounts in product(alphas, repeat=2))
    rows = [{"x": x, "y": y, **here.evaluate(here.moved((x, a), (y, b)))} for (x, a), (y, b) in steps]
    return pd.DataFrame(rows)


@pinned()
def between(a: nn.Module, b: nn.Module, data: Data, t: Iterable[float] = LINE, **which) -> pd.DataFrame:
    """Loss and accuracy on the straight line (1 - x)·a + x·b between two solutions, for x in `t`.

    which: `split` and `samples`, as in `surface`. Columns: x, loss (nats), accuracy (%). Raises InvalidInput
    unless both predict through parameters of the same roles and shapes, with the same running statistics.
    """
    here, there = surface(a, data, **which), surface(b, data, **which)
    shapes = [{role: tuple(value.shape) for role, value in s.point.items()} for s in (here, there)]
    if shapes[0] != shapes[1]:
        odd = sorted({role for role, _ in shapes[0].items() ^ shapes[1].items()})
        raise InvalidInput(
            f"{a.name} and {b.name} predict through different parameters ({', '.join(odd)}): a line needs "
            "the same network, with head_bias=False and predict_by='last'"
        )
    statistics = [[v for v in s.predictor.buffers() if v.is_floating_point()] for s in (here, there)]
    if not all(map(torch.equal, *statistics)):
        raise InvalidInput(
            f"{a.name} and {b.name} have different running statistics, which a line of weights does not "
            "connect: compare networks without BatchNorm"
        )
    points = ((x, {r: torch.lerp(v, there.point[r], x) for r, v in here.point.items()}) for x in t)
    return pd.DataFrame([{"x": x, **here.evaluate(point)} for x, point in points])


def barrier(line: pd.DataFrame) -> float:
    """How far the loss rises above the straight line between both ends' losses (nats; 0: no barrier).

    line: as `between` gives it, from x = 0 to x = 1 (Frankle et al. 2020, arXiv 1912.05671).
    """
    line = line.sort_values("x")
    first, last = line["loss"].iloc[[0, -1]]
    return float((line["loss"] - ((1 - line["x"]) * first + line["x"] * last)).max())


@pinned()
def gap(algorithm: nn.Module, data: Data, samples: int | None = None) -> pd.DataFrame:
    """Loss and accuracy on training and validation images. Columns: split, samples, loss, accuracy."""
    rows = []
    for split in SPLITS:
        here = surface(algorithm, data, split, samples)
        rows.append({"split": split, "samples": len(here.y), **here.evaluate(here.point)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- sharpness


@pinned()
def sharpness(
    algorithm: nn.Module,
    data: Data,
    split: str = "train",
    samples: int | None = LANDSCAPE_SAMPLES,
    *,
    tolerance: float = 1e-2,
    max_iterations: int = 200,
) -> pd.DataFrame:
    """The largest eigenvalue of the Hessian of the loss, in one row.

    Columns: split, samples, eigenvalue (nats per squared unit of weight), and residual and iterations as in
    `largest_eigenvalue`. The start is seeded and nothing is sampled: it is the same every time.
    """
    here = surface(algorithm, data, split, samples)
    start = _flat([torch.randn(v.shape, generator=stream(0, role)).to(v) for role, v in here.point.items()])
    found = largest_eigenvalue(here.hessian_times, start, tolerance, max_iterations)
    return pd.DataFrame([{"split": split, "samples": len(here.y), **found}])


def largest_eigenvalue(
    times: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 1e-2, max_iterations: int = 200
) -> dict[str, float]:
    """The largest, not the largest in magnitude, eigenvalue of a symmetric matrix H, by power iteration.

    A hundredth is all the precision that is asked for: a dozen products with vectors do, where ARPACK's
    Lanczos method (`scipy.sparse.linalg.eigsh`) takes at least 21. If the eigenvalue of largest magnitude is
    negative, or two of opposite sign compete so that it does not settle, it is repeated on H + ρI with ρ that
    magnitude: there the largest eigenvalue has the largest magnitude.

    times: v -> H·v; start: (n,). Returns eigenvalue λ; residual: ‖Hv - λv‖/|λ|, the relative distance within
    which H surely has an eigenvalue (that of the largest is nearer its square), at most `tolerance` if it
    settled; iterations.
    """
    done, shift = 0, 0.0
    for _ in range(2):
        v = start / start.norm()
        for _ in range(max_iterations):
            hv, done = times(v), done + 1
            value = (v @ hv).item()
            residual = (hv - value * v).norm().item() / max(abs(value), 1e-30)
            shifted = hv + shift * v
            length = shifted.norm().item()
            if residual <= tolerance or length == 0.0:
                break
            v = shifted / length
        # A residual this small: no competitor of the other sign, at most a near tie that does not matter.
        if shift or length == 0.0 or (value > 0 and residual < 0.1):
            break
        shift = length
    return {"eigenvalue": value, "residual": residual, "iterations": done}


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@pinned()
def rescaled(algorithm: nn.Module, factor: float, layer: int = 1) -> nn.Module:
    """A copy that computes the same with other weights: a layer times `factor`, what reads it divided by it.

    ReLU(c·z) = c·ReLU(z) for c > 0. Raises InvalidInput for another factor, or a layer with none above it.
    """
    twin = copy.deepcopy(algorithm)
    blocks = twin.model.blocks
    linear = all(hasattr(block, "linear") for block in blocks)
    if not (linear and 1 <= layer < len(blocks) and 0 < factor < math.inf):
        raise InvalidInput(
            f"layer={layer}, factor={factor!r}: use a layer of an MLP below its last, and a positive factor"
        )
    readers = [blocks[layer].linear, *(twin.heads[name] for name in twin.heads if name == str(layer))]
    with torch.no_grad():
        for parameter in blocks[layer - 1].parameters():
            parameter.mul_(factor)
        for reader in readers:
            reader.weight.div_(factor)
    return twin
