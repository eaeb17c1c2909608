"""The best weights of a stage so far, kept aside until it ends."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from .stage import Stage


class BestWeights:
    """The parameters of a stage and the algorithm's buffers after the epoch that the stop rule calls best:
    `epoch` (0 before the first), `live` the tensors as they are now, `kept` their copies."""

    def __init__(self, algorithm: nn.Module, stage: Stage):
        self.live = [p for group in stage.groups for p in group.parameters] + list(algorithm.buffers())
        self.kept: list[Tensor] = []
        self.epoch = 0

    def offer(self, best: int, last: int) -> None:
        """After epoch `last`: keeps the weights if that one is the best.

        Raises InvalidInput if the best is neither that one nor the one whose weights are kept.
        """
        if best == last:
            self.keep(last, self.live)
        elif best != self.epoch:
            raise InvalidInput(
                f"after epoch {last} the stop rule calls {best!r} the best, whose weights are gone: let "
                f"best(rows) name the last epoch, {last}, or the one that it named before, {self.epoch}"
            )

    @torch.no_grad()
    def keep(self, epoch: int, tensors: Sequence[Tensor]) -> None:
        """Keeps copies of the tensors, which are those of that epoch."""
        self.kept = self.kept or [torch.empty_like(tensor) for tensor in self.live]
        torch._foreach_copy_(self.kept, list(tensors))
        self.epoch = epoch

    @torch.no_grad()
    def restore(self) -> int:
        """Puts back what is kept; returns the epoch it comes from."""
        torch._foreach_copy_(self.live, self.kept)
        return self.epoch
