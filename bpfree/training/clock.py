"""Seconds and joules of each region of training: prefix work, training, validation."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from .history import COST

PENDING = 1000  # rows that wait for their joules at a time; of older ones they are what is known by then


@runtime_checkable
class Meter(Protocol):
    """What measures joules, such as a `bpfree.EnergyMeter`."""

    def window(self, name: str) -> AbstractContextManager[Any]:
        """Its `reading` has `seconds`, `measured_j`, `estimated_j` and `provenance` once it is closed.

        A window that also has `settled` may read otherwise until that is true, and `settle()` waits for it.
        """


@dataclass
class Account:
    """What the regions of one row took: each window beside its seconds and the prefix's share of them.

    row: the dict that is kept up to date. before: what it held at first.
    """

    row: dict
    before: dict
    regions: list[tuple[str, float, float, Any]] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        return all(getattr(window, "settled", True) for *_, window in self.regions)

    def book(self) -> None:
        """Makes the row what its regions come to as far as their windows know."""
        total = dict(self.before)
        for name, seconds, share, window in self.regions:
            amounts = {"s": seconds}
            if window is not None:
                reading = window.reading
                amounts |= {"measured_j": reading.measured_j, "estimated_j": reading.estimated_j}
            # What the prefix took of a region is moved to its own account; its joules by its share of time.
            for account, part in {name: 1.0 - share, **({"prefix": share} if share else {})}.items():
                begun = f"{account}_s" in total
                for unit, amount in amounts.items():
                    key = f"{account}_{unit}"
                    known = amount is not None and (key in total or not begun)
                    sum_so_far = total.pop(key, 0.0)
                    if known:  # of what came before, too: else the sum is not, and the key is absent
                        total[key] = sum_so_far + amount * part
        for key in [key for key in self.row if key in COST]:
            del self.row[key]
        self.row |= total


class Clock:
    """Times regions of the training loop and reads the meter around them.

    A region adds `<name>_s` to a row, and with a meter `<name>_measured_j` and `<name>_estimated_j`
    (absent if the meter lacks such a value for any of the seconds). The device is synchronised at both edges.
    A sensor may show only later what a short region took: the row is then corrected by the next region, or
    by `settle`.

    `provenance` says how the joules were obtained: of the last region, or of one that lacks measured joules,
    because then their total lacks them, too; None without a meter.
    """

    def __init__(self, device: torch.device, meter: Meter | None = None):
        self.device, self.meter = device, meter
        self._lacking: str | None = None  # the provenance of a settled region without measured joules
        self._last: Any = None  # the last window
        self._open: list[Account] = []
        self._inner: list = []

    @property
    def provenance(self) -> str | None:
        return self._lacking or (self._last and self._last.reading.provenance)

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
        self._last = opened
        share = min(1.0, self._inner_seconds() / seconds) if self._inner else 0.0
        if not self._open or self._open[-1].row is not row:
            self._open.append(Account(row, {key: row[key] for key in COST if key in row}))
        self._open[-1].regions.append((name, seconds, share, opened))
        self._book()

    def settle(self) -> None:
        """Waits until the sensors have shown what the regions so far took, which no sensor does for long."""
        if not getattr(self._last, "settled", True):
            self._last.settle()
        self._book(waiting=0)  # what a sensor has not shown by now it never will

    def _book(self, waiting: int = PENDING) -> None:
        """Books the last row, and those before it in their order, until one must wait; so many may."""
        last = max(len(self._open) - 1, 0)
        done = next((i for i, account in enumerate(self._open[:last]) if not account.settled), last)
        done = max(done, last - waiting)
        for account in self._open[:done] + self._open[last:]:
            account.book()
            for *_, window in account.regions:
                if window is not None and getattr(window, "settled", True) and not self._lacking:
                    reading = window.reading
                    self._lacking = None if reading.measured_j is not None else reading.provenance
        del self._open[:done]

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
