"""How far what a block learns from is from the gradient that backpropagation would give it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from ..errors import InvalidInput, choose
from ..training.numerics import pinned
from ..training.prefix import apply
from ..training.stage import Stage
from .one_step import PreparedStage, prepared_stages


@pinned()
def alignment(algorithm: nn.Module, x: Tensor, labels: Tensor, *, of: str = "weights") -> dict[str, float]:
    """The angle in degrees between each block's own gradient and the true one: {"block i": angle}.

    For every block i that a descended stage moves, on one batch and at the weights as they are,

        ∠(g_i, t_i),  g_i = Σ ∂L/∂θ_i over the stage's own losses L,  t_i = ∂CE(s(x), y)/∂θ_i

    where s is the read-out of the last stage that moves a block (or, if that has none, of the one after) and
    the chain rule goes all the way down: whatever the algorithm detaches on its way is not detached for t_i.
    θ_i are all parameters of the block as one vector; neither decay nor what an optimiser makes of a gradient
    is in it. 0° is backpropagation, 90° is chance; NaN: one of them is zero. Where several stages move a
    block, the last of them counts. BatchNorm of the stage's frozen prefix is in eval mode, of all others in
    train mode. While sequential stages are trained, s reads layers that have not been trained yet.

    x, labels: images (B, C, H, W) and classes (B,). The algorithm is left as it is; fit for `on_epoch`.
    of: "weights", as above; or "outputs": at what the block puts out, (B, ...), instead of at θ_i. For direct
        feedback alignment that is the angle between its signal e B_i and the gradient. It needs losses that
        see the same outputs as the read-out, as Forward-Forward's do not.

    Raises InvalidInput where no block is descended, and for outputs that are not the same.
    """
    choose("of", of, ("weights", "outputs"))
    found = {}
    for ready in prepared_stages(algorithm, x, labels):
        blocks = {
            i: block
            for i, block in enumerate(ready.algorithm.model.blocks, start=1)
            if any(p.requires_grad for p in block.parameters())
        }
        if blocks:
            found |= angles(ready, blocks, of)
    if not found:
        raise InvalidInput(f"{algorithm.name} moves no block by a gradient: there is nothing to align")
    return {f"block {i}": found[i] for i in sorted(found)}


def angles(ready: PreparedStage, blocks: Mapping[int, nn.Module], of: str) -> dict[int, float]:
    """Those of the blocks that one stage moves, by their numbers."""
    before = [buffer.clone() for buffer in ready.algorithm.buffers()]  # running statistics move with a pass
    with seen(blocks, of) as own:
        g = gradients(ready.stage.losses(ready.inputs, ready.labels, ready.chance()), own)
    with seen(blocks, of) as whole:
        t = gradients(whole_loss(ready), whole)
    with torch.no_grad():
        for buffer, old in zip(ready.algorithm.buffers(), before, strict=True):
            buffer.copy_(old)
    for i in blocks:
        if not alike(own[i], whole[i]):
            raise InvalidInput(
                f"{ready.algorithm.name} learns from other outputs of block {i} than it is read out from: "
                "use of='weights'"
            )
    return {i: angle(vector(g, own[i]), vector(t, whole[i])) for i in blocks}


@contextmanager
def seen(blocks: Mapping[int, nn.Module], of: str) -> Iterator[dict[int, list[Tensor]]]:
    """The tensors at which each block's gradient is taken: its parameters, or what it puts out within."""
    if of == "weights":
        yield {i: list(block.parameters()) for i, block in blocks.items()}
        return

    def note(outputs: list[Tensor], module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if output.requires_grad:
            outputs.append(output)

    found = {i: [] for i in blocks}
    with ExitStack() as hooks:
        for i, block in blocks.items():
            hooks.enter_context(block.register_forward_hook(partial(note, found[i])))
        yield found


def gradients(losses: Iterator[Tensor], at: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    """The gradient of the sum of the losses, by the id of the tensor at which it is taken."""
    total = {}
    for loss in losses:
        tensors = [t for some in at.values() for t in some]  # by now
        found = torch.autograd.grad(loss, tensors, allow_unused=True) if tensors else ()
        for t, g in zip(tensors, found, strict=True):
            if g is not None:
                total[id(t)] = total[id(t)] + g if id(t) in total else g
    return total


def vector(gradient: Mapping[int, Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """The gradient at these tensors as one vector, in float64; 0 where no loss reaches."""
    parts = [gradient.get(id(t), torch.zeros_like(t)).flatten().cpu().double() for t in tensors]
    return torch.cat(parts)


def alike(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether a block was seen to put out the same once in both passes; of parameters always."""
    return 0 < len(a) == len(b) and all(
        s is t or (len(a) == 1 and s.shape == t.shape and torch.allclose(s, t))
        for s, t in zip(a, b, strict=True)
    )


def whole_loss(ready: PreparedStage) -> Iterator[Tensor]:
    """CE(s(x), y), through which the gradient reaches down to the images."""
    stage = last_readout(ready.algorithm)
    with Undetached():
        loss = cross_entropy(stage.readout(apply(stage.prefix, ready.images)), ready.labels)
    yield loss


def last_readout(algorithm: nn.Module) -> Stage:
    """The last stage that moves a block, or the first after it that has a read-out."""
    stages, parts = algorithm.stages(), {id(p) for p in algorithm.model.parameters()}
    moves = [any(id(p) in parts for group in stage.groups for p in group.parameters) for stage in stages]
    last = max(k for k, moving in enumerate(moves) if moving)
    for stage in stages[last:]:
        if stage.readout is not None:
            return stage
    raise InvalidInput(
        f"{algorithm.name} has no read-out above its blocks, whose gradient would be the true one"
    )


class Undetached(TorchFunctionMode):
    """Within it nothing is detached: `detach` gives the tensor itself, and `no_grad` does nothing."""

    def __enter__(self):
        self.heard = torch._C._EnableTorchFunction()  # `pinned` turns modes off, and a mode this is
        self.heard.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.heard.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.detach:
            return args[0]
        if func is torch._C._set_grad_enabled:
            return None
        with torch._C.DisableTorchFunction():  # nor do the modes of the caller have a say here
            return func(*args, **(kwargs or {}))


def angle(a: Tensor, b: Tensor) -> float:
    """Between two vectors, in degrees: 2 arctan(‖u − v‖ / ‖u + v‖) of u = a/‖a‖ and v = b/‖b‖, which is exact
    where they are nearly parallel."""
    u, v = a / a.norm(), b / b.norm()
    return torch.rad2deg(2.0 * torch.atan2((u - v).norm(), (u + v).norm())).item()
