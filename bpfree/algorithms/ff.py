"""Forward-Forward: every layer learns to be active on real data and quiet on wrong data."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from ..errors import InvalidInput, check_range, choose
from ..training.batches import Data
from ..training.chance import Chance
from ..training.stage import Group, Stage
from .base import Algorithm
from .negatives import hard_wrong, hybrids, uniform_wrong
from .networks import MLP, Blocks

EPS = 1e-8  # of the length normalisation
# A row that is right by more than this has a gradient below e⁻³⁰, which changes no weight; it is taken as 0.
# Left to shrink to denormal numbers, such rows make a CPU's matrix products half as fast.
SETTLED = -30.0


class ForwardForward(Algorithm):
    """Forward-Forward (Hinton, arXiv 2212.13345; Loewe's code; Spyra, arXiv 2509.19063).

    The label is written into the first C inputs: the true one makes an image positive, a wrong one
    negative. Layer i sees only the direction of what lies below, and its goodness, the sum of its
    squared activities, shall exceed the threshold θ on positive and stay below it on negative data:

        x̂ = x / (√mean_j x_j² + ε),  a_i = ReLU(x̂_{i-1} W_iᵀ + b_i),  g_i = Σ_j a_ij²,  θ_i = d_i
        L_i = ½ mean₊ log(1 + e^{θ_i − g_i}) + ½ mean₋ log(1 + e^{g_i − θ_i}) + κ mean_j (r̄_i − r_ij)²

    r is the running mean of the positive activities, and the last term (peer normalisation) keeps
    units from dying or from always being on. Nothing passes from layer to layer but activities.

    To predict "by goodness", every label is tried and Σ_i g_i compared: C passes, which run as one
    batch. To predict "by softmax", one pass with the neutral label (1/C in each of the C inputs) feeds
    a linear softmax head, which was trained on such passes.

    Args:
        model: an MLP.
        **common: see `Algorithm`; they hold for the layers.
        embed: where labels are written: "before" normalisation, as the values that raw pixels of 0 and 1
            have after it, so that a label looks like ink; or "after" it, as plain 0 and 1 (Spyra's code).
            `bpfree.train` takes the normalisation from the data; until then, 0 and 1.
        negatives: wrong labels, "uniform", or "hard": drawn from the softmax head's own mistakes. "hybrid"
            learns without labels: no label is written, negatives are blends of two images, and a second
            stage trains the softmax head on the frozen layers.
        squares: goodness is their "sum" or "mean".
        threshold: θ of every layer; None is the layer's width for the sum and 1 for the mean.
        norm: length normalisation of every layer's input: "rms", or "l2" (‖x‖ in place of the root mean),
            under which inputs are √d_{i-1} times smaller and want a threshold of their own.
        peer_weight, peer_momentum: κ and the momentum of r; Loewe's 0.03 and 0.9.
        relu_gradient: "true", or "full": pass the gradient through silent units too, as Loewe's and Spyra's
            code does. ∂g/∂a = 2a is 0 there, so it changes the peer term only.
        passes: 2: the positive and then the negative rows of a batch pass a layer; 1: both together, which
            saves time but doubles what autograd keeps: more than backpropagation on up to three layers.
        predict_by: "goodness" or "softmax".
        read: the layers that are read out: "upper", all but the first as Hinton does, or "all". A network
            of one layer reads that one.
        head_lr, head_weight_decay: of the softmax head, which exists only if it is used.

    Raises:
        InvalidInput: not an MLP, more classes than inputs, or options that exclude each other.
    """

    name = "ff"
    presets = {
        # The thesis' code; its text says L2 and all layers. The camera-ready's is taken to be the same.
        **{
            source: {"embed": "after", "relu_gradient": "full", "lr_schedule": "cooldown_thesis"}
            for source in ("thesis", "2026")
        },
        "reference": {  # Loewe's code
            "optimiser": "sgd",
            "weight_decay": 3e-4,
            "batch_size": 100,
            "lr_schedule": "cooldown",
            "relu_gradient": "full",
            "predict_by": "softmax",
            "epochs": 100,
        },
    }

    def __init__(
        self,
        model: Blocks,
        *,
        embed: str = "before",
        negatives: str = "uniform",
        squares: str = "sum",
        threshold: float | None = None,
        norm: str = "rms",
        peer_weight: float = 0.03,
        peer_momentum: float = 0.9,
        relu_gradient: str = "true",
        passes: int = 2,
        predict_by: str = "goodness",
        read: str = "upper",
        head_lr: float = 1e-2,
        head_weight_decay: float = 3e-3,
        **common,
    ):
        super().__init__(model, **common)
        if not isinstance(model, MLP):
            raise InvalidInput(f"model={type(model).__name__}: Forward-Forward trains an MLP; give it one")
        if model.classes > model.inputs:
            raise InvalidInput(
                f"{model.classes} classes do not fit into {model.inputs} inputs, which carry the label: "
                "use data with at least as many inputs as classes"
            )
        self.embed_at = choose("embed", embed, ("before", "after"))
        self.negatives = choose("negatives", negatives, ("uniform", "hard", "hybrid"))
        self.squares = choose("squares", squares, ("sum", "mean"))
        self.norm = choose("norm", norm, ("rms", "l2"))
        self.relu_gradient = choose("relu_gradient", relu_gradient, ("true", "full"))
        self.predict_by = choose("predict_by", predict_by, ("goodness", "softmax"))
        choose("read", read, ("upper", "all"))
        if negatives == "hybrid" and predict_by == "goodness":
            raise InvalidInput(
                "predict_by='goodness' needs labels in the images, and negatives='hybrid' writes none: "
                "use predict_by='softmax'"
            )
        if passes not in (1, 2) or isinstance(passes, bool):
            raise InvalidInput(f"passes={passes!r}: use 1, positive and negative rows together, or 2, apart")
        if threshold is not None:
            check_range("threshold", threshold, above=0.0)
        check_range("peer_weight", peer_weight)
        check_range("peer_momentum", peer_momentum, below=1.0)
        check_range("head_lr", head_lr, above=0.0)
        check_range("head_weight_decay", head_weight_decay)
        self.passes, self.peer_weight, self.peer_momentum = passes, peer_weight, peer_momentum
        self.head_lr, self.head_weight_decay = head_lr, head_weight_decay
        widths = [float(d) if squares == "sum" else 1.0 for d in model.features]
        self.thresholds = widths if threshold is None else [threshold] * len(widths)  # θ_1, ..., θ_L
        self.classes = model.classes
        self.first = 0 if read == "all" or self.depth == 1 else 1  # of the layers that are read
        if predict_by == "softmax" or negatives == "hard":
            width = sum(model.features[self.first :])
            self.heads["softmax"] = nn.Linear(width, model.classes, bias=False)
        # Buffers are saved, moved and restored with the weights. r of all layers, side by side:
        self.register_buffer("peers", torch.full((sum(model.features),), 0.5))
        # What the first C inputs show, (C + 1, C): row c for label c, the last row for the neutral label.
        self.register_buffer("label_pixels", raw_labels(model.classes))

    # -- the inputs

    def prepare(self, data: Data) -> None:
        """Takes from `data` what raw label pixels become under its normalisation (embed="before")."""
        raw = raw_labels(self.classes)
        if self.embed_at == "before":
            pixels = data.features // data.shape[0]  # per channel
            mean, std = (torch.tensor(c).repeat_interleave(pixels) for c in (data.mean, data.std))
            raw = (raw - mean[: self.classes]) / std[: self.classes]
        self.label_pixels.copy_(raw)

    def initialise(self, seed: int) -> None:
        super().initialise(seed)
        self.peers.fill_(0.5)

    def initialise_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """W_i ~ N(0, 1/d_i), so that g_i starts near d_{i-1}/2; the head starts at 0 (Loewe)."""
        if name.startswith("heads."):
            value.zero_()
        elif value.ndim > 1:
            value.normal_(0.0, value.shape[0] ** -0.5, generator=generator)
        else:
            super().initialise_parameter(name, value, generator)

    def embed(self, x: Tensor, labels: Tensor) -> Tensor:
        """Images with labels written in: x (B, ...), labels (k·B,) -> (k·B, d_0), copy after copy of x.

        Label C is the neutral one.
        """
        z = x.flatten(1).repeat(len(labels) // len(x), 1)
        z[:, : self.classes] = self.label_pixels[labels]
        return z

    def contrast(self, x: Tensor, labels: Tensor, chance: Chance, logits=None) -> Tensor:
        """Training inputs (2B, d_0), first positive, then negative, of images x (B, ...) and labels (B,).

        logits: the softmax head's (B, C), if they are at hand; hard negatives are drawn from them.
        """
        if self.negatives == "hybrid":
            return torch.cat([x, hybrids(x, chance)]).flatten(1)
        if self.negatives == "hard":
            logits = self.softmax_readout(x) if logits is None else logits
            wrong = hard_wrong(labels, logits.detach(), chance)
        else:
            wrong = uniform_wrong(labels, self.classes, chance)
        return self.embed(x, torch.cat([labels, wrong]))

    # -- the layers

    def normalise(self, x: Tensor) -> Tensor:
        """x̂: every row of x (B, d) at RMS 1, or at length 1."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x / ((length * x.shape[1] ** -0.5 if self.norm == "rms" else length) + EPS)

    def activities(self, z: Tensor) -> Iterator[Tensor]:
        """a_1, ..., a_L of inputs z (B, d_0), one by one; a layer never sees the graph of the one below."""
        for block in self.model.blocks:
            z = self.normalise(z)
            if self.relu_gradient == "true":
                z = block(z)
            else:
                z = block.linear(z)
                z = z + (z.relu() - z).detach()  # exactly ReLU's value, with the gradient of the identity
            yield z
            z = z.detach()

    def squared(self, a: Tensor) -> Tensor:
        """g_i (B,) of a_i (B, d_i)."""
        reduce = torch.sum if self.squares == "sum" else torch.mean
        return reduce(a.square(), 1, dtype=torch.promote_types(a.dtype, torch.float32))

    def features(self, z: Tensor) -> Tensor:
        """What the softmax head reads of inputs z (B, d_0): the normalised activities of the layers read."""
        with torch.no_grad():
            layers = [self.normalise(a) for a in self.activities(z.flatten(1))]
        return torch.cat(layers[self.first :], dim=1)

    # -- training

    def stages(self) -> list[Stage]:
        head = [Group(list(self.heads.parameters()), self.head_lr, self.head_weight_decay)]
        layers = [Group(list(self.model.parameters()), self.lr, self.weight_decay)]
        if self.negatives != "hybrid":
            readout = self.goodness_readout if self.predict_by == "goodness" else self.softmax_readout
            groups = [*layers, *(head if self.heads else [])]
            return [self.stage("network", [], self.losses, readout, layer=self.depth, groups=groups)]
        frozen, project = [Prefix(self.model.blocks, self.features)], self.heads["softmax"]
        return [
            self.stage("layers", [], self.losses, None, layer=self.depth, groups=layers),
            self.stage("read-out", [], self.head_losses, project, frozen, layer=self.depth, groups=head),
        ]

    def losses(self, x: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        logits = None
        if self.heads and self.negatives != "hybrid":
            logits = self.softmax_readout(x)
            yield cross_entropy(logits, labels)  # of the neutral label: the answer is nowhere in the input
        z = self.contrast(x, labels, chance, logits)
        walks = [self.activities(rows) for rows in z.chunk(self.passes)]
        positives = (len(x), 0)  # of the rows of each pass: the first ones
        for i in range(self.depth):
            for walk, n in zip(walks, positives, strict=False):
                yield self.layer_loss(i, next(walk), n)  # its graph is freed before the next one is built

    def layer_loss(self, i: int, a: Tensor, positives: int) -> Tensor:
        """L_i, i counted from 0, or one pass's share of it; a: activities, the first of them positive."""
        logit = self.squared(a) - self.thresholds[i]
        wrong = torch.cat([-logit[:positives], logit[positives:]])
        loss = softplus(wrong.clamp(min=SETTLED)).mean() / self.passes
        if self.peer_weight and positives:
            loss = loss + self.peer_weight * self.peer_loss(i, a[:positives])
        return loss

    def peer_loss(self, i: int, positive: Tensor) -> Tensor:
        """mean_j (r̄ − r_j)² with r ← m r + (1 − m) mean(a⁺): its gradient passes through the newest share."""
        state = self.peers.split(self.model.features)[i]
        r = self.peer_momentum * state + (1.0 - self.peer_momentum) * positive.mean(0)
        if self.training:
            state.copy_(r.detach())
        return (r.mean() - r).square().mean()

    def head_losses(self, features: Tensor, labels: Tensor, chance: Chance) -> Iterator[Tensor]:
        yield cross_entropy(self.heads["softmax"](features), labels)

    # -- prediction

    @torch.no_grad()
    def goodness(self, x: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """g_1, ..., g_L, each (B,), of images x (B, ...) with `labels` (B,) written in, or as they are."""
        z = x.flatten(1) if labels is None else self.embed(x, labels)
        return [self.squared(a) for a in self.activities(z)]

    def label_goodness(self, x: Tensor) -> list[Tensor]:
        """g_1, ..., g_L of every label, each (B, C): the C passes run as one batch of C·B rows."""
        every = torch.arange(self.classes, device=x.device).repeat_interleave(len(x))
        return [g.view(self.classes, len(x)).T for g in self.goodness(x, every)]

    def goodness_readout(self, x: Tensor) -> Tensor:
        return sum(self.label_goodness(x)[self.first :])

    def softmax_readout(self, x: Tensor) -> Tensor:
        """The head's logits (B, C) from one pass with the neutral label, or none where none is written."""
        neutral = torch.full((len(x),), self.classes, device=x.device)
        z = x if self.negatives == "hybrid" else self.embed(x, neutral)
        return self.heads["softmax"](self.features(z))

    def readouts(self, x: Tensor) -> dict[str, Tensor]:
        """ "goodness" and, with a head, "softmax", that of `predict` first; and "layer i"'s own goodness."""
        self.finished()  # refuses an untrained network
        scores = {"softmax": self.softmax_readout(x)} if self.heads else {}
        if self.negatives == "hybrid":
            return scores
        layers = self.label_goodness(x)
        scores["goodness"] = sum(layers[self.first :])
        ordered = {self.predict_by: scores[self.predict_by], **scores}
        return ordered | {f"layer {i}": g for i, g in enumerate(layers, start=1)}


class Prefix(nn.Module):
    """The frozen layers as the prefix of the read-out's stage."""

    def __init__(self, blocks: Sequence[nn.Module], features):
        super().__init__()
        self.blocks, self.features = blocks, features

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def raw_labels(classes: int) -> Tensor:
    return torch.cat([torch.eye(classes), torch.full((1, classes), 1 / classes)])
