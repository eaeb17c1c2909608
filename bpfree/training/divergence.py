"""What has become NaN or infinite ends training."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import TrainingDiverged


class DivergenceWatch:
    """Watches whether the parameters and buffers that were finite when it was made still are."""

    def __init__(self, algorithm: nn.Module):
        self.tensors = finite((*algorithm.parameters(), *algorithm.buffers()))

    def sound(self) -> bool:
        """Whether all of them are still finite."""
        return len(finite(self.tensors)) == len(self.tensors)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Ends the block where an operation refuses numbers that are not finite; `check` raises then."""
        try:
            yield
        except (ArithmeticError, LookupError, RuntimeError, ValueError):
            if self.sound():
                raise

    def check(self, row: dict, *, lr: float | None = None, solved: bool = True) -> None:
        """Raises TrainingDiverged unless the losses of an epoch, and the network after it, are finite.

        lr: the highest of the rates at which it was trained, for the error; None: it was solved.
        A loss does not tell of everything: the last step comes after it, and ReLU makes 0 of −∞.
        """
        losses = (row[name] for name in ("train_loss", "val_loss") if name in row)
        if not (solved and all(map(math.isfinite, losses)) and self.sound()):
            raise TrainingDiverged(row["stage"], row["epoch"], lr)


def finite(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those that hold floating-point numbers and neither NaN nor infinity."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    if not floating:
        return []
    whole = torch.stack([tensor.isfinite().all() for tensor in floating]).tolist()  # waits for a device once
    return [tensor for tensor, is_whole in zip(floating, whole, strict=True) if is_whole]
