"""What single kernels compute and move; which group of work each belongs to."""

import re
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten

# Kernels that compute nothing: they copy, fill, look up, or draw.
MOVES = re.compile(
    r"_local_scalar_dense|_to_copy|_unsafe_view|arange|cat|clone|copy_|contiguous|expand|fill_|gather"
    r"|index|index_put_|index_select|lift_fresh|(new_)?(empty|full|ones|zeros)(_like|_strided)?|promote_types"
    r"|rand|randint|randn|randperm|repeat|resize_|scalar_tensor|scatter_?|(select|slice)_backward|stack"
    r"|uniform_|normal_|zero_"
)
SOLVERS = ("addmm_", "cholesky_solve", "linalg_cholesky_ex")
MATRIX = frozenset([*SOLVERS, *(packet.__name__ for packet in flop_registry)])


def group_of(kernel: str) -> str:
    """The group that a kernel, such as "addmm", is accounted to."""
    if kernel.startswith(("_fused_", "_foreach_")):
        return "optimiser"
    if kernel in MATRIX:
        return "matrix products"
    return "copies and fills" if MOVES.fullmatch(kernel) else "elementwise"


def counter() -> FlopCounterMode:
    """Torch's counter of matrix products and convolutions, taught the solvers that this project uses."""
    formulas = {
        # m×k by k×n: a multiplication and an addition each
        aten.addmm_: lambda total, a, b, *_, **__: 2 * a[0] * a[1] * b[1],
        aten.linalg_cholesky_ex: lambda a, *_, **__: a[-1] ** 3 // 3,  # n³/3
        # two triangular solves of n² for each of k columns
        aten.cholesky_solve: lambda b, factor, *_, **__: 2 * b[-2] ** 2 * b[-1],
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


class Kernels(TorchDispatchMode):
    """Watches every kernel that runs, forward and backward.

    Attributes:
        elementwise: operations outside matrix products and optimiser: a kernel that computes does one per
            element of the largest tensor it reads or writes; a bias added in a matrix product likewise.
        traffic: bytes read and written by group, every kernel reading its inputs and writing its outputs
            once, as if nothing stayed in a cache between two kernels. (Fused optimisers declare that they
            may write the gradients, too, and are taken at their word.)
    """

    def __init__(self):
        super().__init__()
        self.elementwise = 0
        self.traffic: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace != "aten":
            return out
        name = func._schema.name.partition("::")[2]
        group = group_of(name)
        reads, results = list(tensors((args, kwargs))), list(tensors(out))
        if not (reads or results):
            return out
        self.traffic[group] += sum(map(nbytes, reads)) + sum(map(nbytes, written(func, args, results)))
        if group == "elementwise":
            self.elementwise += max(t.numel() for t in reads + results)
        elif group == "matrix products" and any(t.ndim == 1 for t in reads):  # a bias
            self.elementwise += results[0].numel()
        return out


def tensors(tree) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def nbytes(tensor: Tensor) -> int:
    """Bytes behind a tensor; an expanded one has fewer than its shape says."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def written(func, args, results: list[Tensor]) -> list[Tensor]:
    """What a kernel writes: its results, and the arguments that it changes without returning them."""
    changed = [
        tensor
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors(value)
    ]
    return results or changed
