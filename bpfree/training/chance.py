"""Where random numbers come from: streams on the CPU that are keyed by what they are for.

So they do not depend on the device, on what else was drawn, or on whether a step is called or replayed.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Draw = Callable[[torch.Generator], Tensor]
NOT_ALIKE = "its losses ask for other random numbers at one step than at another"


def stream(*key) -> torch.Generator:
    """A generator on the CPU, seeded by the hash of `key`, such as (seed, parameter name)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


class Chance:
    """The random numbers that the losses of a stage ask for, as tensors on `device`.

    A step that is replayed runs no Python, so that what it needs is drawn before the epoch begins: the losses
    must ask for the same numbers, in the same order, at every step, and draw from nothing else.
    """

    def __init__(self, generator: torch.Generator, device: torch.device | str = "cpu"):
        self.generator, self.device = generator, device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32."""
        return self.ask(lambda generator: torch.rand(shape, generator=generator))

    def exponential(self, *shape: int) -> Tensor:
        """Exponential with mean 1, float32."""
        return self.ask(lambda generator: torch.empty(shape).exponential_(generator=generator))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform in low, ..., high - 1, int64."""
        return self.ask(lambda generator: torch.randint(low, high, shape, generator=generator))

    def permutation(self, n: int) -> Tensor:
        """0, ..., n - 1 in random order, int64."""
        return self.ask(lambda generator: torch.randperm(n, generator=generator))

    def ask(self, draw: Draw) -> Tensor:
        """What `draw(generator)` gives, on the device."""
        return draw(self.generator).to(self.device, non_blocking=True)


class Noted(Chance):
    """Notes in `draws` what a step asks for."""

    def __init__(self, device: torch.device):
        super().__init__(stream("noted"), device)
        self.draws: list[Draw] = []

    def rewind(self) -> None:
        """To be called when a step begins."""
        self.draws.clear()

    def end(self) -> None:
        """To be called when it has ended."""

    def ask(self, draw: Draw) -> Tensor:
        self.draws.append(draw)
        return super().ask(draw)


class Tape(Chance):
    """The numbers of all steps of an epoch in one buffer for each of the `draws` of a step.

    at: what picks a buffer's row for the step at hand.
    A step that asks for other numbers than those is a RuntimeError.
    """

    def __init__(
        self, draws: Sequence[Draw], steps: int, device: torch.device, at: Callable[[Tensor], Tensor]
    ):
        self.draws, self.steps, self.at = draws, steps, at
        self.samples = [draw(stream("noted")) for draw in draws]  # by which a draw is known again
        self.buffers = [torch.empty((steps, *s.shape), dtype=s.dtype, device=device) for s in self.samples]
        self.asked: Iterator[tuple[Tensor, Tensor]] = iter(())

    def record(self, generator: torch.Generator) -> None:
        """Draws what the steps of an epoch will ask for, step after step, as they would have drawn it."""
        rows = [[draw(generator) for draw in self.draws] for _ in range(self.steps)]
        for buffer, row in zip(self.buffers, zip(*rows, strict=True), strict=True):
            buffer.copy_(torch.stack(row))

    def rewind(self) -> None:
        self.asked = zip(self.buffers, self.samples, strict=True)

    def ask(self, draw: Draw) -> Tensor:
        buffer, sample = next(self.asked, (None, None))
        fresh = draw(stream("noted"))
        if buffer is None or fresh.dtype != sample.dtype or not torch.equal(fresh, sample):
            raise RuntimeError(NOT_ALIKE)
        return self.at(buffer)

    def end(self) -> None:
        if next(self.asked, None) is not None:
            raise RuntimeError(NOT_ALIKE)
