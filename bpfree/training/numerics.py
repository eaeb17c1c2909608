"""How torch and numpy compute is settled here and not by what a process has set before it calls us.

A caller's autocast, default dtype, TF32 switches or gradient mode would decide an outcome, and nothing in an
experiment's key tells of them. So whatever computes an outcome does so `pinned`, and afterwards everything is
as the caller had it. What remains is the machine, the versions of its libraries, and the number of threads.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, reduce

import numpy as np
import torch

#: How to read it, how to write it, its value.
Setting = tuple[Callable[[], object], Callable[[object], object], object]
AUTOCASTS = ("cpu", "cuda", "mps")
BACKENDS = {
    "cudnn.enabled": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": True,  # the one thing that a new process has not
    "mkldnn.enabled": True,
    "mkldnn.deterministic": False,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": True,
}
FP32_PRECISIONS = {
    "fp32_precision": "none",  # of all backends; one of them and its operations inherit it
    "cudnn.fp32_precision": "none",
    "mkldnn.fp32_precision": "none",
    "cuda.matmul.fp32_precision": "none",
    "cudnn.conv.fp32_precision": "tf32",
    "cudnn.rnn.fp32_precision": "tf32",
    "mkldnn.matmul.fp32_precision": "none",
    "mkldnn.conv.fp32_precision": "none",
}


@contextmanager
def pinned(*, flush: bool = False) -> Iterator[None]:
    """Within it torch computes as it does in a new process, cuDNN deterministically, whatever was set before.

    To be had as a decorator, too. A caller's context managers do not reach into it; only warnings are left to
    the caller's filters. flush: whether subnormal numbers count as zero; training wants that.
    """
    with (
        torch._C.DisableTorchFunction(),  # the default device is a mode of torch functions, like any other
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autograd.set_detect_anomaly(False),
        np.errstate(all="ignore"),  # what is not finite is looked for, and said in our own words
        outermost_autocast(),
        ExitStack() as undo,
    ):
        for read, write, value in settings_of_a_new_process():
            before = current(read)
            if before is not None:
                undo.callback(put_back, read, write, before, value)
            if before not in (None, value):
                write(value)
        with flushed(flush):
            yield


def settings_of_a_new_process() -> Iterator[Setting]:
    """The settings of a new process, to be restored in reverse order, because some write others, too."""
    # TF32 and bf16 inside products of float32 have new names since torch 2.9. The old ones write those,
    # and cannot be read any more once those are written.
    old_names = [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        backend("cudnn.allow_tf32", True),
    ]
    old_values = [current(read) for read, _, _ in old_names]
    for name, value in FP32_PRECISIONS.items():
        yield backend(name, value)
    for before, (_, write, value) in zip(old_values, old_names, strict=True):
        yield lambda before=before: before, write, value
    yield torch.get_default_dtype, torch.set_default_dtype, torch.float32
    for device in AUTOCASTS:
        yield partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device), False
    yield torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True
    enabled = torch.are_deterministic_algorithms_enabled, torch.is_deterministic_algorithms_warn_only_enabled
    yield (
        lambda: tuple(read() for read in enabled),
        lambda how: torch.use_deterministic_algorithms(how[0], warn_only=how[1]),
        (False, False),
    )
    for name, value in BACKENDS.items():
        yield backend(name, value)
    linalg = torch.backends.cuda.preferred_linalg_library
    yield linalg, linalg, torch._C._LinalgBackend.Default


def put_back(read: Callable, write: Callable, before: object, value: object) -> None:
    """Restores a setting, if it differed from ours or if restoring another one has changed it."""
    if before != value or current(read) != before:
        write(before)


def current(read: Callable[[], object]) -> object | None:
    """The present value; None if this version of torch has no such setting, or refuses to read it."""
    try:
        return read()
    except (AttributeError, RuntimeError):
        return None


def backend(name: str, value: object) -> Setting:
    """The setting of a dotted name in torch.backends."""
    *path, last = name.split(".")

    def owner() -> object:
        return reduce(getattr, path, torch.backends)

    def write(given: object) -> None:
        if name == "mkldnn.fp32_precision":  # whose attribute writes that of all backends
            torch.backends.mkldnn.set_flags(_fp32_precision=given)
        else:
            setattr(owner(), last, given)

    return lambda: getattr(owner(), last), write, value


@contextmanager
def outermost_autocast() -> Iterator[None]:
    """Within it an autocast is an outermost one: it forgets the weights that it has cast when it ends.

    Inside a caller's it would keep them, and an optimiser's steps would not reach them.
    """
    depth = torch.autocast_increment_nesting() - 1
    for _ in range(depth + 1):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        for _ in range(depth):
            torch.autocast_increment_nesting()


@contextmanager
def flushed(flush: bool = True) -> Iterator[None]:
    """Within it, this thread and those that share torch's operations with it take subnormal numbers for zero;
    with flush=False none of them does. Afterwards each is as it was.

    Those are too small for float32's full precision (below 1.2e-38). A CPU computes with them many times more
    slowly, and training makes more and more of them: a read-out that is sure of its answer leaves the other
    classes probabilities of that size, the backward pass multiplies with them, and AdamW squares what comes
    out. The weights come out the same: numbers so small move none.

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


class MadePinned(type):
    """The metaclass of modules that are made `pinned`, with weights in float32 that can be trained.

    The weights that modules draw when they are made, of which training makes none, cost the caller's
    generator nothing.
    """

    def __call__(cls, *args, **options):
        with pinned(), torch.random.fork_rng(devices=[]):
            return super().__call__(*args, **options)
