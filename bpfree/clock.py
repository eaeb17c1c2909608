"""Seconds and joules of each region of training: prefix work, training, validation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


class Clock:
    """Times regions of the training loop and reads the meter around them.

    A region adds `<name>_s` to a row, and with a meter `<name>_measured_j` and `<name>_estimated_j`
    (absent where the meter has no such value). The device is synchronised at both edges.

    Args:
        device: where the work runs.
        meter: anything with `window(name)`, a context manager whose `reading` has `seconds`,
            `measured_j`, `estimated_j` and `provenance` once it is closed; or None.
    """

    def __init__(self, device: torch.device, meter=None):
        self.device = device
        self.meter = meter
        self.provenance: str | None = None
        self._inner: list = []

    @contextmanager
    def region(self, row: dict, name: str) -> Iterator[None]:
        self._inner = []
        window = self.meter.window(name) if self.meter is not None else nullcontext()
        self._synchronise()
        with window as opened:
            start = time.perf_counter()  # from here, because a meter may take milliseconds to look
            yield
            self._synchronise()
            seconds = time.perf_counter() - start
        amounts = {"s": seconds}
        if self.meter is not None:
            reading = opened.reading
            self.provenance = reading.provenance
            amounts |= {"measured_j": reading.measured_j, "estimated_j": reading.estimated_j}
        # What the prefix took of a region is moved to its own account; its joules by its share of the time.
        share = min(1.0, self._inner_seconds() / seconds) if self._inner else 0.0
        for unit, amount in amounts.items():
            if amount is not None:
                _add(row, f"{name}_{unit}", amount * (1.0 - share))
                if share:
                    _add(row, f"prefix_{unit}", amount * share)

    @contextmanager
    def prefix_work(self) -> Iterator[None]:
        """Marks prefix work inside a region; on CUDA by events, so that nothing waits."""
        if self.device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._inner.append((start, end))
        else:
            start = time.perf_counter()
            yield
            self._inner.append(time.perf_counter() - start)

    def _inner_seconds(self) -> float:
        if self.device.type == "cuda":
            return sum(start.elapsed_time(end) for start, end in self._inner) / 1e3
        return sum(self._inner)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def _add(row: dict, key: str, amount: float) -> None:
    row[key] = row.get(key, 0.0) + amount
