"""Where the gradient stops, read from the losses themselves."""

import torch

import bpfree


def test_reach_is_autograds_and_leaves_the_algorithm_as_it_was():
    torch.manual_seed(0)
    x, y = torch.randn(8, 1, 2, 3), torch.randint(3, (8,))
    mf = bpfree.MonoForward(bpfree.MLP([6, 5, 4], classes=3), schedule="simultaneous")
    mf.initialise(0)
    before = {k: v.clone() for k, v in mf.state_dict().items()}
    table = bpfree.gradient_reach(mf, x, y)
    assert list(table.index) == ["network, loss 1", "network, loss 2"]
    a = mf.model.blocks[0](x)
    torch.nn.functional.cross_entropy(mf.heads["1"](a), y).backward()
    for name, parameter in mf.named_parameters():
        expected = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        assert table.loc["network, loss 1", name] == expected
    assert all(torch.equal(v, before[k]) for k, v in mf.state_dict().items())


def test_a_global_loss_reaches_everything():
    x, y = torch.randn(8, 1, 2, 3), torch.randint(3, (8,))
    bp = bpfree.Backprop(bpfree.MLP([6, 5, 4], classes=3))
    bp.initialise(0)
    assert (bpfree.gradient_reach(bp, x, y) > 0).all(axis=None)
