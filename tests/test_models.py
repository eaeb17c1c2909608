"""Networks: the function they compute, their sizes, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d, one_hot

from bpfree.algorithms.networks import MLP, CaFoCNN


def test_an_mlp_is_relu_layers_on_the_flattened_image():
    model = MLP([12, 9, 7], classes=3)
    x = torch.randn(5, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    a = x.numpy().reshape(5, 12)
    for block in model.blocks:
        w, b = (p.detach().numpy() for p in (block.linear.weight, block.linear.bias))
        a = np.maximum(a @ w.T + b, 0.0)
    np.testing.assert_allclose(model(x).detach(), a, rtol=1e-5, atol=1e-6)
    assert model(x).min() == 0  # some units are off, so that the ReLU was seen


def test_blocks_applied_in_order_are_the_model():
    model = CaFoCNN((1, 8, 8), classes=3, channels=(2, 3, 4)).eval()
    x = a = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        a = block(a)
    assert torch.equal(a, model(x))


@pytest.mark.parametrize(
    ("widths", "classes", "millions"),
    [
        ([3072, 2000, 2000, 2000], 10, 14.164),
        ([3072, 2000, 2000, 2000], 100, 14.344),
        ([784, 1000, 1000], 10, 1.794),
    ],
)
def test_the_papers_networks_have_the_papers_sizes(widths, classes, millions):
    """Weights of the hidden layers and the output head, without biases."""
    with torch.device("meta"):
        model = MLP(widths, classes=classes)
    hidden = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert round((hidden + model.features[-1] * classes) / 1e6, 3) == millions


@pytest.mark.parametrize(
    ("shape", "features"),
    [((3, 32, 32), [8192, 8192, 8192]), ((1, 28, 28), [6272, 6272, 4608]), ((1, 8, 8), [512, 512, 512])],
)
def test_the_cnn_announces_the_features_it_puts_out(shape, features):
    model = CaFoCNN(shape, classes=10)
    assert model.features == features  # the first two as the paper's code has them
    a = torch.zeros(1, *shape)
    for block, d in zip(model.eval().blocks, features, strict=True):
        a = block(a)
        assert a.numel() == d


def test_a_cnn_block_is_conv_relu_pool_norm_in_this_order():
    block = CaFoCNN((2, 6, 6), classes=3, channels=(4,)).blocks[0].train()
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    a = max_pool2d(conv2d(x, block.conv.weight, padding=1).relu(), 2)
    mean, var = a.mean((0, 2, 3), keepdim=True), a.var((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(block(x), (a - mean) / (var + 1e-4).sqrt(), rtol=1e-4, atol=1e-5)


def test_nothing_of_an_algorithm_is_in_a_model():
    """Its parameters are those of the hidden layers: every output of the last block depends on some."""
    model = MLP([4, 5, 6], classes=3)
    assert {n.split(".")[0] for n, _ in model.named_parameters()} == {"blocks"}
    assert len(list(model.parameters())) == 2 * len(model.blocks)
    x = one_hot(torch.arange(4)).float()
    assert model(x).shape == (4, 6)  # hidden units, not classes
