"""The ladder from BP to Mono-Forward changes one thing a rung, shown on gradients.

All rungs get the same hidden layers, heads and batch; every reference gradient is taken by autograd from the
cross-entropies of a network that is written out here by hand.
"""

import pytest
import torch
from helpers import arm, losses_of
from torch.nn.functional import cross_entropy, relu

WIDTHS, CLASSES, DEPTH = (12, 8, 7, 6), 3, 3
GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(16, 12, dtype=torch.float64, generator=GENERATOR)
Y = torch.arange(16) % CLASSES


def rung(name: str, **options):
    """An arm in float64; parameters of one name start alike in all of them."""
    algorithm = arm(name, WIDTHS, CLASSES, **options).double()
    algorithm.initialise(0)
    return algorithm


def terms() -> tuple[dict[str, torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    """The parameters by the names they have in the arms, CE(V a_L), and [L_1, ..., L_L]; nothing detached."""
    source = rung("bp_ds")
    p = {name: value.detach().clone().requires_grad_() for name, value in source.named_parameters()}
    a, local = X, []
    for i in range(DEPTH):
        layer = f"model.blocks.{i}.linear"
        a = relu(a @ p[f"{layer}.weight"].T + p[f"{layer}.bias"])
        local.append(cross_entropy(a @ p[f"heads.{i + 1}.weight"].T, Y))
    return p, cross_entropy(a @ p["heads.output.weight"].T, Y), local


def gradients(loss: torch.Tensor, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(value) if g is None else g
        for (name, value), g in zip(parameters.items(), found, strict=True)
    }


def of_rung(algorithm, stage: int = 0) -> dict[str, torch.Tensor]:
    """What the arm's own losses give every parameter, all of a stage's losses together."""
    own = dict(algorithm.named_parameters())
    inputs = X
    for module in algorithm.stages()[stage].prefix:
        inputs = module(inputs).detach()
    losses = losses_of(algorithm.stages()[stage], inputs, Y)
    return gradients(sum(losses), own)


def layer_of(name: str) -> int:
    """The layer a parameter belongs to, from 1; the output head V belongs above the last."""
    place = name.split(".")
    if place[0] == "heads":
        return DEPTH + 1 if place[1] == "output" else int(place[1])
    return int(place[2]) + 1


def agree(found: dict, expected: dict) -> None:
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12, msg=name)


def test_the_rungs_start_from_the_same_weights():
    shared = dict(rung("bp_ds").named_parameters())
    for name in ("mf_joint", "mf_sequential_joint", "mf_interleaved", "mf"):
        for parameter, value in rung(name).named_parameters():
            assert torch.equal(value, shared[parameter]), (name, parameter)
    bp = dict(rung("bp").named_parameters())
    assert all(torch.equal(bp[name], shared[name]) for name in shared if name.startswith("model"))


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_bp_to_bp_ds_adds_the_auxiliary_losses(weight):
    p, output, local = terms()
    found = of_rung(rung("bp_ds", aux_weight=weight))
    without, added = gradients(output, p), gradients(sum(local), p)
    agree(found, {name: without[name] + weight * added[name] for name in p})
    # ... and without them it is BP, whose head is M_L's twin by name and V by role.
    bp = rung("bp")
    with torch.no_grad():
        bp.heads[bp.output].weight.copy_(p["heads.output.weight"])
    alone = {name.replace("heads.output", f"heads.{bp.output}"): g for name, g in without.items()
             if name.startswith("model") or "output" in name}  # fmt: skip
    agree(of_rung(bp), alone)


def test_bp_ds_to_mf_joint_takes_the_output_head_away():
    p, output, _ = terms()
    bp_ds, lost = of_rung(rung("bp_ds")), gradients(output, p)
    agree(of_rung(rung("mf_joint")), {name: bp_ds[name] - lost[name] for name in p if "output" not in name})


def test_mf_joint_to_interleaved_detaches_and_changes_no_loss():
    p, _, local = terms()
    joint, interleaved = rung("mf_joint"), rung("mf_interleaved")
    values = [sum(losses_of(r.stages()[0], X, Y)).item() for r in (joint, interleaved)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    each = [gradients(loss, p) for loss in local]
    agree(of_rung(joint), {name: sum(g[name] for g in each) for name in p})
    # of the same terms, only those of a parameter's own layer are left
    agree(of_rung(interleaved), {name: each[layer_of(name) - 1][name] for name in p if "output" not in name})
    lower = [name for name in p if layer_of(name) < DEPTH]
    assert any(not torch.allclose(of_rung(joint)[n], of_rung(interleaved)[n]) for n in lower)


def test_interleaved_to_mf_changes_the_schedule_and_no_gradient():
    together = of_rung(rung("mf_interleaved"))
    mf = rung("mf")
    assert [stage.name for stage in mf.stages()] == [f"layer {i}" for i in range(1, DEPTH + 1)]
    for i in range(1, DEPTH + 1):
        own = of_rung(mf, stage=i - 1)
        agree(
            own,
            {name: together[name] if layer_of(name) == i else torch.zeros_like(g) for name, g in own.items()},
        )


def test_the_fourth_corner_changes_the_schedule_of_mf_joint_and_detaches_nothing():
    p, _, local = terms()
    corner = rung("mf_sequential_joint")
    for i in range(1, DEPTH + 1):
        agree(of_rung(corner, stage=i - 1), gradients(local[i - 1], p))
        moving = {id(q) for group in corner.stages()[i - 1].groups for q in group.parameters}
        names = {name for name, q in corner.named_parameters() if id(q) in moving}
        assert names == {name for name in p if name.startswith("model") and layer_of(name) <= i} | {
            f"heads.{i}.weight"
        }
