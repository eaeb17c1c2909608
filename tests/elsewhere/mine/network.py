"""One wide layer of hyperbolic tangents."""

import math

from torch import nn

from bpfree import Blocks


class Wide(Blocks):
    def __init__(self, shape, *, classes):
        pixels = math.prod(shape)
        layer = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 300), nn.Tanh())
        super().__init__([layer], [300], inputs=pixels, classes=classes)
