"""Every stage of an algorithm, set up as training would have it, for one real step on one batch."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..training.batches import Data
from ..training.chance import Chance, stream
from ..training.prefix import apply, windows
from ..training.stage import Stage, freeze_all_but, make_optimiser, step


@dataclass
class PreparedStage:
    """One stage, ready for its step.

    Attributes:
        algorithm: a copy of the user's, with everything frozen but this stage's groups; stage: the copy's.
        images, labels: the batch, (B, C, H, W) and (B,); inputs: what the prefix makes of it, (B, ...).
        fresh: the part of the prefix that an earlier stage's cache does not hold yet; below: its input.
    """

    algorithm: nn.Module
    stage: Stage
    images: Tensor
    labels: Tensor
    inputs: Tensor
    fresh: Sequence[nn.Module]
    below: Tensor

    def step(self, optimiser: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
        """One update by the training loop's own step, or a solved stage's pass. Returns the optimiser."""
        if self.stage.losses is None:
            self.accumulate()
            self.solve()
            return optimiser
        optimiser = optimiser or make_optimiser(self.stage)
        step(self.stage, optimiser, self.inputs, self.labels, self.chance())
        return optimiser

    @torch.no_grad()
    def accumulate(self) -> None:
        self.stage.accumulate(self.inputs, self.labels)

    def solve(self) -> None:
        """The solution, if one batch has any: what is counted does not depend on the values."""
        with suppress(InvalidInput):
            self.stage.solve()

    @torch.no_grad()
    def forward(self) -> None:
        """The losses without their backward passes."""
        for _ in self.stage.losses(self.inputs, self.labels, self.chance()):
            pass

    def chance(self) -> Chance:
        return Chance(stream("rehearsal"), self.inputs.device)


def prepared_stages(algorithm: nn.Module, x: Tensor, labels: Tensor) -> Iterator[PreparedStage]:
    """The stages in order, each on what its frozen prefix makes of the batch; `algorithm` is left as it is.

    It may be trained or not: what is counted does not depend on the values of the weights. x, labels: images
    (B, C, H, W) and classes (B,). Raises InvalidInput for images of another size than the network takes.
    """
    if x[0].numel() != algorithm.model.inputs:
        raise InvalidInput(
            f"the images have {x[0].numel()} numbers, but the network takes {algorithm.model.inputs}: "
            "use data of its size"
        )
    twin = copy.deepcopy(algorithm)
    twin.zero_grad(set_to_none=True)
    device = twin.stages_finished.device
    x, labels = x.to(device, copy=True), labels.to(device, copy=True)  # a slice would keep its whole data set
    cached, kept = (), x  # the modules that a prefix cache has applied by now, and their output
    for stage in twin.stages():
        freeze_all_but(twin, stage)
        twin.train(stage.losses is not None)
        prefix = tuple(stage.prefix)
        for module in prefix:
            module.eval()
        if prefix and prefix[: len(cached)] != cached:
            cached, kept = (), x  # another network below: as PrefixCache does, begin from the images
        fresh, below = (prefix[len(cached) :], kept) if prefix else ((), x)
        with torch.no_grad():
            inputs = apply(fresh, below)
        if prefix:
            cached, kept = prefix, inputs
        yield PreparedStage(twin, stage, x, labels, inputs, fresh, below)
        twin.zero_grad(set_to_none=True)  # a finished stage keeps no gradients


def batch_of(algorithm: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """The first training batch, unaugmented: costs depend on shapes, not on values."""
    size = min(algorithm.batch_size, len(data.x_train))
    return data.x_train[:size], data.y_train[:size]


def in_windows(n: int, size: int) -> int:
    """The images that a prefix is computed for: the last window reaches back, so that some count twice."""
    return sum(rows.stop - rows.start for rows, _ in windows(n, size))
