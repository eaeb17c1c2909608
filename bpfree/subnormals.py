"""Numbers too small for float32's full precision (below 1.2e-38: subnormal) count as zero while training.

A CPU computes with them many times more slowly, and training makes more and more of them: where a read-out is
sure of its answer, the softmax leaves the other classes probabilities of that size, the backward pass
multiplies with them, and AdamW squares what comes out. The longer a stage went on, the more a pass of it
would cost. The weights come out the same: numbers so small move none.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed() -> Iterator[None]:
    """Within it, this thread and those that share torch's operations with it take subnormal numbers for zero.

    torch.set_flush_denormal speaks for the calling thread. The workers of GNU OpenMP, which torch has on
    Linux, are told here as well; those of another OpenMP stay as they were when they started.
    """
    if _flushing():
        yield
        return
    _on_every_thread(True)
    try:
        yield
    finally:
        _on_every_thread(False)


def _flushing() -> bool:
    return (torch.tensor(2e-38) * 0.1).item() == 0.0


def _on_every_thread(flush: bool) -> None:
    torch.set_flush_denormal(flush)  # workers that start later have it from this thread
    if sys.platform != "linux":
        return
    # void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags)
    run = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if run is not None:
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: torch.set_flush_denormal(flush) and None)
        run(function, None, torch.get_num_threads(), 0)
