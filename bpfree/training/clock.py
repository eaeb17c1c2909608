"""Seconds and joules of each region of training: prefix work, training, validation."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch


class Meter(Protocol):
    """What measures joules, such as a `bpfree.EnergyMeter`."""

    def window(self, name: str) -> AbstractContextManager[Any]:
        """Its `reading` has `seconds`, `measured_j`, `estimated_j` and `provenance` once it is closed."""


class Clock:
    """Times regions of the training loop and reads the meter around them.

    A region adds `<name>_s` to a row, and with a meter `<name>_measured_j` and `<name>_estimated_j`
    (absent if the meter lacks such a value for any of the seconds). The device is synchronised at both edges.
    `provenance` says how the joules were obtained: of the last region, or of one that lacks measured joules,
    because then their total lacks them, too; None without a meter.
    """

    def __init__(self, device: torch.device, meter: Meter | None = None):
        self.device, self.meter = device, meter
        self.provenance: str | None = None
        self._measured = True  # every region so far was
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
            if self._measured or reading.measured_j is None:
                self.provenance = reading.provenance
            self._measured &= reading.measured_j is not None
            amounts |= {"measured_j": reading.measured_j, "estimated_j": reading.estimated_j}
        # What the prefix took of a region is moved to its own account; its joules by its share of the time.
        share = min(1.0, self._inner_seconds() / seconds) if self._inner else 0.0
        for account, part in {name: 1.0 - share, **({"prefix": share} if share else {})}.items():
            before = f"{account}_s" in row
            for unit, amount in amounts.items():
                key = f"{account}_{unit}"
                known = amount is not None and (key in row or not before)
                total = row.pop(key, 0.0)
                if known:  # of what came before, too: else the sum is not, and the key is absent
                    row[key] = total + amount * part

    @contextmanager
    def prefix_work(self) -> Iterator[None]:
        """Marks prefix work inside a region; on CUDA by events, so that nothing waits.

        Work that is being captured is marked where it is replayed.
        """
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            yield
        elif self.device.type == "cuda":
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
            torch.cuda.current_stream(self.device).synchronize()  # other runs may have streams of their own
        elif self.device.type == "mps":
            torch.mps.synchronize()
