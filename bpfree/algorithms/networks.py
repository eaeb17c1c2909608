"""The networks of the study as plain ordered blocks of hidden layers; nothing of any algorithm is in them.

Whatever reads a class from an activation (a head, a projection matrix, a predictor) belongs to the algorithm.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, layer_norm

from ..errors import InvalidInput, choose
from ..training.numerics import MadePinned


def flatten(a: Tensor) -> Tensor:
    """(B, ...) -> (B, all of it)."""
    return a.flatten(1)


def mean(a: Tensor) -> Tensor:
    """(B, channels, ...) -> (B, channels), averaged over the rest."""
    return a.flatten(2).mean(2) if a.ndim > 2 else a


READS = {"flatten": flatten, "mean": mean}


class Blocks(nn.Module, metaclass=MadePinned):
    """Blocks applied in order.

    A network of your own is a subclass, made as `MyNetwork(shape, classes=...)` from the shape (channels,
    height, width) of an image. In experiments it is `architecture="my_module:MyNetwork"`; give the class a
    `version` and raise it when a change alters what the network computes.

    Attributes:
        blocks: the hidden layers, first to last.
        features: activations per sample that a head reads after each block: d_1, ..., d_L.
        inputs: numbers per input sample, flattened: d_0.
        classes: how many classes the data have.
        read: what a head reads of an activation: "flatten", all of it; "mean" of every channel; or a function
            without parameters of its own, (B, ...) -> (B, d_i).
        shapes: of a sample's activation after each block, (channels, height, width) or, the default, (d_i,).
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        features: Sequence[int],
        inputs: int,
        classes: int,
        read: str | Callable[[Tensor], Tensor] = "flatten",
        shapes: Sequence[tuple[int, ...]] | None = None,
    ):
        super().__init__()
        if not isinstance(classes, int) or classes < 2:
            raise InvalidInput(f"classes={classes!r}: a classifier needs an integer of at least 2")
        if not len(blocks) == len(features) > 0:
            raise InvalidInput(
                f"{len(blocks)} blocks and {len(features)} features: give at least one block, and for each "
                "the number of activations that a head reads"
            )
        self.blocks, self.features = nn.ModuleList(blocks), list(features)
        self.inputs, self.classes = inputs, classes
        self.read = read if callable(read) else READS[choose("read", read, READS)]
        self.shapes = [(d,) for d in features] if shapes is None else list(shapes)

    def initialise_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> bool:
        """Fills `value` with the start of this parameter, if the network has a start of its own for it.

        Called before every training for each parameter; `name` is the network's, such as
        "blocks.0.linear.weight", and chance comes from `generator` only. Returns whether `value` is filled;
        False, as here, leaves it to the algorithm. What the constructor drew is overwritten either way.
        """
        return False

    def activities(
        self, a: Tensor, low: int = 1, high: int | None = None, *, detach: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """(i, a_i), one by one, of the layers from `low` to `high` (None: the last) above a = a_{low-1}.

        Layer 0 is the input itself. detach: no gradient passes from a layer to the one below it.
        """
        for i in range(low, (len(self.blocks) if high is None else high) + 1):
            if i > 0:
                a = self.blocks[i - 1](a.detach() if detach else a)
            yield i, a

    def activity(self, a: Tensor, low: int = 1, high: int | None = None) -> Tensor:
        """The last of these `activities` alone: a_high of a = a_{low-1}."""
        for block in islice(self.blocks, max(low - 1, 0), high):
            a = block(a)
        return a

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> the last block's activation, (N, d_L) or (N, channels, height, width)."""
        return self.activity(x)


class MLP(Blocks):
    """Fully connected ReLU layers: a_i = ReLU(a_{i-1} W_iᵀ + b_i), a_0 the flattened input.

    widths: d_0, d_1, ..., d_L; `MLP([784, 1000, 1000], classes=10)` is the paper's 2x1000.
    Raises InvalidInput for fewer than two widths, or a width or class count that is not a positive integer.
    """

    def __init__(self, widths: Sequence[int], *, classes: int):
        if not are_positive(widths) or len(widths) < 2:
            raise InvalidInput(
                f"widths {widths!r} do not make an MLP: give the input size and one positive integer per "
                "hidden layer, as in MLP([784, 1000, 1000], classes=10)"
            )
        widths = [int(width) for width in widths]  # numpy's integers are not JSON's
        blocks = [
            block_of(
                flatten=nn.Flatten(),  # images come in as (N, C, H, W); later layers are flat already
                linear=nn.Linear(d_in, d_out),
                relu=nn.ReLU(inplace=True),
            )
            for d_in, d_out in pairwise(widths)
        ]
        super().__init__(blocks, widths[1:], widths[0], classes)


class Halving(Blocks):
    """Convolutional blocks of which each halves the picture: 28 -> 14 -> 7 -> 3, 32 -> 16 -> 8 -> 4.

    A subclass says what a `block` is, how many `channels` its source gives the blocks, and whether a head
    `reads` all of one ("flatten") or the "mean" of every channel.

    shape: (channels, height, width) of one image; channels: output channels of each block; None: the
    source's. Raises InvalidInput for images too small to be halved by every block, or a count that is not
    positive.
    """

    channels: Sequence[int]
    reads = "flatten"

    def __init__(self, shape: Sequence[int], *, classes: int, channels: Sequence[int] | None = None):
        channels = self.channels if channels is None else channels
        if not (are_positive(shape) and len(shape) == 3 and are_positive(channels) and channels):
            raise InvalidInput(
                f"shape {shape!r} and channels {channels!r} make no CNN: give (channels, height, width) "
                "of an image, and one positive integer per block, as in channels=(32, 128, 512)"
            )
        c_in, height, width = shape
        if min(height, width) >> len(channels) < 1:
            raise InvalidInput(
                f"{len(channels)} blocks halve a {height}x{width} image to nothing: use images of at least "
                f"{2 ** len(channels)}x{2 ** len(channels)} pixels or fewer blocks"
            )
        inputs = c_in * height * width
        blocks, features, shapes = [], [], []
        for c_out in channels:
            height, width = height // 2, width // 2
            block = self.block(c_in, c_out)
            blocks.append(block.to(memory_format=torch.channels_last))  # up to a third faster on a CPU
            features.append(c_out * (1 if self.reads == "mean" else height * width))
            shapes.append((c_out, height, width))
            c_in = c_out
        super().__init__(blocks, features, inputs, classes, self.reads, shapes)

    def block(self, c_in: int, c_out: int) -> nn.Module:
        """One block: (B, c_in, H, W) -> (B, c_out, H // 2, W // 2)."""
        raise NotImplementedError


class CaFoCNN(Halving):
    """The three-block CNN of Cascaded-Forward: Conv3x3, ReLU, MaxPool2, BatchNorm in each block.

    Zhao et al., arXiv 2303.09728; convolutions without bias and BatchNorm with eps 1e-4. A head reads all of
    a block's output. Arguments and what is raised: as of `Halving`.
    """

    channels = (32, 128, 512)

    def block(self, c_in: int, c_out: int) -> nn.Module:
        return block_of(
            conv=nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(2),
            norm=nn.BatchNorm2d(c_out, eps=1e-4),
        )


class ConvNet(Halving):
    """The four-block CNN of Mono-Forward's authors: Conv3x3, BatchNorm, ReLU, MaxPool2 in each block.

    Gong et al., arXiv 2501.09238, as the authors' later repository FF-Decomposition runs it (its
    `cnn_experiment`): convolutions without bias, BatchNorm with torch's own eps and momentum. A head reads
    the mean of every channel of a block's output, so that it is small on images of any size. Arguments and
    what is raised: as of `Halving`.
    """

    channels = (64, 128, 256, 512)
    reads = "mean"

    def block(self, c_in: int, c_out: int) -> nn.Module:
        return block_of(
            conv=nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(c_out),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(2),
        )


class RMSNet(Halving):
    """Blocks as Adaptive Spatial Goodness Encoding is described to have: Conv3x3, ReLU, RMS-pool, LayerNorm.

    Of arXiv 2509.12394 only secondary descriptions were to be had: channels, biases and whether LayerNorm has
    a trained scale are not known. Here it has none. It is over the channels at each position, and stands
    before the convolution that reads it, not behind the pool: that is the same function, and what is read of
    a block is then its energy, which RMS-pool keeps and LayerNorm would take away. Pixels are not
    normalised. A head reads the mean of every channel. Arguments and what is raised: as of `Halving`.
    """

    channels = (64, 128, 256, 512)
    reads = "mean"

    def __init__(self, shape: Sequence[int], *, classes: int, channels: Sequence[int] | None = None):
        super().__init__(shape, classes=classes, channels=channels)
        self.blocks[0] = self.blocks[0][1:]  # over one channel, LayerNorm would leave nothing of the image

    def block(self, c_in: int, c_out: int) -> nn.Module:
        return block_of(
            norm=ChannelNorm(),
            conv=nn.Conv2d(c_in, c_out, 3, padding=1),
            relu=nn.ReLU(inplace=True),
            pool=RMSPool(),
        )


class ChannelNorm(nn.Module):
    """(B, channels, H, W) at mean 0 and variance 1 over the channels of every position."""

    def forward(self, a: Tensor) -> Tensor:
        return layer_norm(a.permute(0, 2, 3, 1), a.shape[1:2]).permute(0, 3, 1, 2)


class RMSPool(nn.Module):
    """The root of the mean square of every 2×2 window: (B, channels, H, W) -> (B, channels, H//2, W//2)."""

    def forward(self, a: Tensor) -> Tensor:
        # The root has no finite gradient at 0, where a unit is silent in the whole window.
        return avg_pool2d(a.square(), 2).clamp(min=1e-12).sqrt()


def block_of(**modules: nn.Module) -> nn.Sequential:
    """These modules one after the other, by these names."""
    return nn.Sequential(OrderedDict(modules))


def are_positive(values: object) -> bool:
    """Whether they are a sequence of positive integers."""
    whole = isinstance(values, Sequence) and all(isinstance(v, Integral) for v in values)
    return whole and all(v > 0 and not isinstance(v, bool) for v in values)
