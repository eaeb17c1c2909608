"""What a stage is, and one step of it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, choose
from .chance import Chance

OPTIMISERS = ("adam", "adamw", "sgd")


def cooldown(epoch: int, cap: int, shift: int = 0) -> float:
    """Constant, then linearly down in the second half: 2(1 + E − e)/E for e > E/2, e counted from 0.

    Loewe's Forward-Forward code; its last epoch has 4/E. With shift=1 Spyra's, which counts from 1.
    """
    e = epoch - 1 + shift
    return 2.0 * (1 + cap - e) / cap if e > cap // 2 else 1.0


#: name -> (k, n) -> factor on the rate of the k-th of n epochs, counted from 1, or for `STEP_BY_STEP` steps
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda epoch, cap: 1.0,
    "step": lambda epoch, cap: 0.1 ** ((epoch - 1) // 20),  # Gong's Mono-Forward code
    "step_30": lambda epoch, cap: 0.1 ** ((epoch - 1) // 30),  # FF-Decomposition's SGD, and below its Adam
    "cosine_epochs": lambda epoch, cap: (1.0 + math.cos(math.pi * (epoch - 1) / cap)) / 2.0,
    "cooldown": cooldown,
    "cooldown_thesis": lambda epoch, cap: cooldown(epoch, cap, shift=1),
    "linear": lambda step, steps: 1.0 - (step - 1) / steps,  # 1 − t/T at step t of T, counted from 0
    "cosine": lambda step, steps: 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps)),  # ½(1 + cos(πt/T))
}
STEP_BY_STEP = ("linear", "cosine")  # these change from step to step, the others from epoch to epoch
MADE_FOR_THE_CAP = ("cooldown", "cooldown_thesis", *STEP_BY_STEP)  # early stopping may not cut these short


@dataclass(eq=False)
class Group:
    """Parameters that move together, with their own rate and decay.

    One that several stages in a row hold, each of which `continues` the one before, lives through all of
    them: its schedule runs over their passes together, and its optimiser's state is handed on.
    """

    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass
class Stage:
    """One step of a training algorithm.

    A stage is either descended (it has `losses` and `groups`) or solved (it has `accumulate` and
    `solve`: one pass over the training data in order, no optimiser, no stopping).

    Attributes:
        name: what progress bars, histories and errors call it.
        losses: `losses(inputs, labels, chance)` yields scalar losses one by one; the loop runs
            backward on each as it comes, so the graph of one is freed before the next is built.
            inputs: (B, ...) what the prefix puts out; labels: (B,); random numbers come from `chance`. On a
            GPU one step of them is captured and replayed: they may not look at the values of tensors, what
            they change must be tensors, in place, and Python's own values stay as they were at the capture.
        groups: the parameters that may move; all others are frozen while the stage lasts.
        readout: inputs (B, ...) -> class scores (B, classes); validates the stage. None: unvalidated.
        prefix: frozen modules, in order, that turn an image into this stage's input (in eval mode).
        optimiser: "adam", "adamw" or "sgd".
        momentum: of "sgd".
        epochs: this stage's own cap; the smaller of it and `train(max_epochs=...)` counts.
        schedule: a name in `SCHEDULES`: the factor on every group's rate. Under one of `MADE_FOR_THE_CAP`
            early stopping does not cut the stage short.
        share: its weight where an exact `Budget` is divided.
        continues: whether it goes on where the stage before it stops, which then ends with its last weights:
            the epochs of both are numbered on, so that no order of the batches comes twice, and the groups
            that both hold live on. Only under an exact `Budget`, where all lengths are known in advance.
        stream: names the random stream of its batches; stages of two algorithms with the same one see
            the same batches. Default: the stage's name.
        accumulate, solve: of a solved stage.
    """

    name: str
    losses: Callable[[Tensor, Tensor, Chance], Iterator[Tensor]] | None = None
    groups: Sequence[Group] = ()
    readout: Callable[[Tensor], Tensor] | None = None
    prefix: Sequence[nn.Module] = ()
    optimiser: str = "adamw"
    momentum: float = 0.9
    epochs: int | None = None
    schedule: str = "constant"
    share: float = 1.0
    continues: bool = False
    stream: str = ""
    accumulate: Callable[[Tensor, Tensor], None] | None = None
    solve: Callable[[], None] | None = None

    @property
    def moving(self) -> list[nn.Parameter]:
        """The parameters of all groups."""
        return [parameter for group in self.groups for parameter in group.parameters]


def freeze_all_but(algorithm: nn.Module, stage: Stage) -> None:
    """Only the stage's groups may receive gradients; checks that its prefix is not among them."""
    moving = {id(p) for p in stage.moving}
    frozen = {id(p) for module in stage.prefix for p in module.parameters()}
    if moving & frozen:
        raise InvalidInput(
            f"stage {stage.name!r} moves parameters of its own frozen prefix: take them from one"
        )
    for parameter in algorithm.parameters():
        parameter.requires_grad_(id(parameter) in moving)


def step(
    stage: Stage,
    optimiser: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    chance: Chance,
    autocast: AbstractContextManager | None = None,
) -> Tensor:
    """One update: backward on each loss as the stage yields it, then one optimiser step.

    Returns the sum of the losses, detached, on the device (so that nothing waits for it).
    """
    autocast = autocast or nullcontext()
    losses, total = stage.losses(inputs, labels, chance), None
    if not isinstance(losses, Iterator):
        raise InvalidInput(f"the losses of stage {stage.name!r} are no generator: yield each of them")
    while True:
        with autocast:  # forward only: the backward pass runs outside autocast, as torch advises
            loss = next(losses, None)
        if loss is None:
            break
        if loss.ndim:
            raise InvalidInput(
                f"a loss of stage {stage.name!r} has shape {tuple(loss.shape)}: yield its mean"
            )
        loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
        del loss  # else this graph would live until the next one is built
    if total is None:
        raise InvalidInput(f"stage {stage.name!r} yields no loss: there is nothing to train it by")
    optimiser.step()
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = None  # as zero_grad does, which takes a tenth of a small step for its own record
    return total


def make_optimiser(stage: Stage, state: Mapping[nn.Parameter, dict] | None = None) -> torch.optim.Optimizer:
    """The stage's optimiser over its groups, fused where the device has the kernel.

    state: of the parameters that bring one along from the stage before; by default none does.
    On CUDA its rates and step counts lie on the device, where a captured step reads them when it is replayed.
    """
    kind = choose("optimiser", stage.optimiser, OPTIMISERS)
    device = stage.moving[0].device
    cuda = device.type == "cuda"
    groups = [
        {
            "params": list(g.parameters),
            "lr": torch.tensor(g.lr, device=device) if cuda else g.lr,
            "weight_decay": g.weight_decay,
        }
        for g in stage.groups
    ]
    fused = device.type in ("cpu", "cuda")
    if kind == "sgd":
        made = torch.optim.SGD(groups, momentum=stage.momentum, fused=fused)
    else:
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
        made = adam(groups, fused=fused, capturable=cuda)
    made.state.update(state or {})
    return made


def rates_of(stage: Stage, epoch: int, lives: Sequence[tuple[int, int]], steps: int) -> list[list[float]]:
    """The rates of the groups in an epoch of the stage, counted from 1, that has so many steps: a row for
    every step, or a single one that holds for all of them.

    lives: of each group, the epochs of its life before the stage, and in all.
    """
    factor, stepwise = SCHEDULES[stage.schedule], stage.schedule in STEP_BY_STEP

    def rate(group: Group, begun: int, whole: int, step: int) -> float:
        now = begun + epoch
        place = ((now - 1) * steps + step, whole * steps) if stepwise else (now, whole)
        return group.lr * factor(*place)

    lived = list(zip(stage.groups, lives, strict=True))
    return [[rate(g, *life, step) for g, life in lived] for step in range(1, steps + 1 if stepwise else 2)]


def set_rates(optimiser: torch.optim.Optimizer, rates: Sequence[float] | Tensor) -> None:
    """The learning rate of each group, in place where it lies on a device."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = float(rate)
