"""Where the gradient stops: which loss moves which parameter."""

import pandas as pd
import torch
from torch import Tensor, nn

from ..training.chance import Chance, stream
from ..training.numerics import pinned
from ..training.prefix import apply


@pinned()
def gradient_reach(algorithm: nn.Module, x: Tensor, labels: Tensor) -> pd.DataFrame:
    """The norm of every loss's gradient at every parameter tensor, on one batch.

    Nothing is frozen for this: a 0 says that the loss does not reach the parameter, not that the parameter
    was forbidden to move.

    x, labels: images (B, C, H, W) and classes (B,) on the algorithm's device, which is left as it is. Returns
    a row per loss, named by its stage and, where a stage has several, its number; a column per parameter.
    """
    named = dict(algorithm.named_parameters())
    rows = {}
    for stage in algorithm.stages():
        if stage.losses is None:
            continue
        with torch.no_grad():
            inputs = apply(stage.prefix, x)
        losses = stage.losses(inputs, labels, Chance(stream("gradient reach"), x.device))
        norms = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            norms.append([0.0 if g is None else g.norm().item() for g in gradients])
        for number, row in enumerate(norms, start=1):
            rows[stage.name if len(norms) == 1 else f"{stage.name}, loss {number}"] = row
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(named))
