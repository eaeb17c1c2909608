"""Runs side by side: threads of one process that share its device.

A small network does not fill a GPU, and a replayed step needs no Python (`bpfree.training.executor`): so
several runs take little longer than one. Each has a CUDA stream of its own, and computes what it computes
alone, to the bit. What it costs is another matter: the records say that their machine was shared.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch

from ..training.limits import free_memory
from ..training.numerics import pinned

Key, Value = TypeVar("Key"), TypeVar("Value")
MOST_AT_ONCE = 32  # so many streams torch has; beyond that two runs would share one
LOOK_S = 1.0  # between two looks whether all shall stop, while a run waits for memory
SHARE_OF_MEMORY = 0.9


class SideBySide:
    """Up to `count` tasks at a time, each in a thread, and the memory of their device shared out among them.

    free: bytes that are free on a device.
    """

    def __init__(self, count: int, free: Callable[[torch.device], int] = free_memory):
        self.count, self.free = count, free
        self.available = 0  # bytes, when nobody was training
        self.promised: list[int] = []  # bytes, to those that are
        self.streams: list[torch.cuda.Stream] = []  # of CUDA, of places that are free
        self.stopped, self.changed = threading.Event(), threading.Condition()

    def each(self, tasks: dict[Key, Callable[[], Value]]) -> Iterator[tuple[Key, Value]]:
        """(key, what its task returned), as they end. To be closed when it is not exhausted.

        An error of one, or Ctrl-C, stops all of them at their next epoch, and is raised when they have.
        """
        # Settings that hold for the whole process: else the first to end would take them from the others.
        with pinned(flush=True), ThreadPoolExecutor(self.count) as pool:
            try:
                futures = {pool.submit(task): key for key, task in tasks.items()}
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @contextmanager
    def place(self, need: int, device: torch.device) -> Iterator[None]:
        """Where a run may train that needs so many bytes: it waits for them, unless no other is training."""
        cuda = device.type == "cuda"
        with self.changed:
            if not self.promised:
                kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) if cuda else 0
                self.available = self.free(device) + kept  # what torch keeps for later is free, too
            while self.promised and sum(self.promised) + need > SHARE_OF_MEMORY * self.available:
                self.changed.wait(LOOK_S)
                self.go_on()
            self.promised.append(need)
            own = (self.streams.pop() if self.streams else torch.cuda.Stream(device)) if cuda else None
        try:
            with torch.cuda.stream(own) if cuda else nullcontext():
                yield
        finally:
            with self.changed:
                self.promised.remove(need)
                self.streams += [own] if cuda else []
                self.changed.notify_all()

    def go_on(self, *_: object) -> None:
        """Raises KeyboardInterrupt if all shall stop; to be called after every epoch."""
        if self.stopped.is_set():
            raise KeyboardInterrupt
