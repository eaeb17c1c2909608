"""Numbers too small for float32's full precision (below 1.2e-38: subnormal) count as zero while training.

A CPU computes with them many times more slowly, and training makes more and more of them: where a read-out is
sure of its answer, the softmax leaves the other classes probabilities of that size, the backward pass
multiplies with them, and AdamW squares what comes out. The longer a stage went on, the more a pass of it
would cost. The weights come out the same: numbers so small move none.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed(flush: bool = True) -> Iterator[None]:
    """Within it, this thread and those that share torch's operations with it take subnormal numbers for zero;
    with flush=False none of them does. Afterwards each is as it was.

    torch.set_flush_denormal speaks for the calling thread. The workers of GNU OpenMP, which torch has on
    Linux, are told here as well; those of another OpenMP stay as they were when they started.
    """
    before: dict[int, bool] = {}  # thread -> whether it flushed

    def set_all() -> None:
        before.setdefault(threading.get_ident(), _flushing())  # the calling thread is told twice
        torch.set_flush_denormal(flush)

    def restore() -> None:
        torch.set_flush_denormal(before.get(threading.get_ident(), here))

    here = _flushing()  # as a worker that starts within would have begun
    _on_every_thread(set_all)
    try:
        yield
    finally:
        _on_every_thread(restore)


def _flushing() -> bool:
    """Whether the calling thread flushes: the processor's mode holds for Python's numbers, too."""
    return sys.float_info.min * 0.5 == 0.0


def _on_every_thread(tell: Callable[[], None]) -> None:
    tell()
    if sys.platform != "linux":
        return
    # void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags)
    run = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if run is not None:
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: tell())
        run(function, None, torch.get_num_threads(), 0)
