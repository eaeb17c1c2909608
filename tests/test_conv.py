"""The CNN of Mono-Forward's authors: its sizes, its function, and every algorithm of the ladder on it."""

from itertools import pairwise

import pytest
import torch
from helpers import LADDER, Eager, losses_of, outcome, resolved, same, toy, weights
from torch import nn
from torch.nn.functional import cross_entropy

from bpfree import diagnostics
from bpfree.algorithms import ARMS, ConvNet, MonoForward
from bpfree.algorithms.architectures import build_model
from bpfree.data import stand_in
from bpfree.diagnostics.kernels import counter
from bpfree.errors import InvalidInput
from bpfree.experiments.experiment import Experiment
from bpfree.training import Augmentation, Stopping, train
from bpfree.training.chance import stream
from bpfree.training.stage import SCHEDULES

NAME = "conv-64-128-256-512"
CHANNELS, IMAGE, CLASSES, BATCH = (4, 6, 5), (2, 8, 8), 3, 16
DATA = toy(n=70, val=30, shape=IMAGE, classes=CLASSES)
LAST = Stopping(patience=None, restore="last")
SQUARE = ("mf", "mf_sequential_joint", "mf_interleaved", "mf_joint")


def network(name: str, channels=CHANNELS, **options):
    """An arm on a small network of this kind, initialised."""
    model = ConvNet(IMAGE, classes=CLASSES, channels=channels)
    algorithm = ARMS[name].make(model, **{"batch_size": BATCH, **options})
    algorithm.initialise(0)
    return algorithm


def by_hand(channels, c_in: int, classes: int) -> nn.ModuleList:
    """The same network of torch's own modules: a block and its head for each of the channels."""
    pairs = []
    for a, b in pairwise((c_in, *channels)):
        block = [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(b, classes)]
        pairs.append(nn.ModuleList([nn.Sequential(*block), nn.Sequential(*head)]))
    return nn.ModuleList(pairs)


def copied(algorithm) -> nn.ModuleList:
    """`by_hand` with the weights of an algorithm whose heads 1..L have a bias."""
    twin = by_hand(CHANNELS, IMAGE[0], CLASSES)
    for i, (block, head) in enumerate(twin, start=1):
        ours = algorithm.model.blocks[i - 1]
        block[0].load_state_dict(ours.conv.state_dict())
        block[1].load_state_dict(ours.norm.state_dict())
        head[2].load_state_dict(algorithm.heads[str(i)].state_dict())
    return twin


def agree(algorithm, twin: nn.ModuleList, **tolerance) -> None:
    """All weights, and the statistics of every BatchNorm, which counts its batches."""
    for i, (block, head) in enumerate(twin, start=1):
        ours = algorithm.model.blocks[i - 1]
        for mine, theirs in (
            (ours.conv, block[0]),
            (ours.norm, block[1]),
            (algorithm.heads[str(i)], head[2]),
        ):
            for name, value in theirs.state_dict().items():
                torch.testing.assert_close(mine.state_dict()[name], value, **tolerance)


def layer(algorithm, i: int) -> set[str]:
    """Names of the parameters of block i and its head."""
    prefixes = (f"model.blocks.{i - 1}.", f"heads.{i}.")
    return {n for n, _ in algorithm.named_parameters() if n.startswith(prefixes)}


def receiving(algorithm) -> set[str]:
    return {n for n, p in algorithm.named_parameters() if p.grad is not None and p.grad.any()}


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize(
    ("data", "bp", "multi_head"),
    [
        ("cifar10", 1_557_056, 1_561_576),
        ("cifar100", 1_603_136, 1_648_336),
        ("mnist", 1_555_904, 1_560_424),
    ],
)
def test_its_parameters_are_as_many_as_the_authors_has(data, bp, multi_head):
    """Without a bias of backpropagation's head, and with one of every head of the others."""
    sizes = stand_in(data)
    counts = {}
    for name in ("bp", "mf", "mf_joint"):
        preset = {**ARMS[name].algorithm.presets["gong"], **ARMS[name].options}
        with torch.device("meta"):
            algorithm = ARMS[name].make(build_model(NAME, sizes), **preset)
        counts[name] = sum(p.numel() for p in algorithm.parameters())
    assert counts == {"bp": bp, "mf": multi_head, "mf_joint": multi_head}
    plain = by_hand((64, 128, 256, 512), sizes.shape[0], sizes.classes)
    assert sum(p.numel() for p in plain.parameters()) == multi_head


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_computes_what_torchs_own_modules_compute(mode):
    algorithm = network("mf_joint", projection_bias=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in algorithm.state_dict().values():
            if value.is_floating_point():
                value.copy_(0.2 + torch.rand(value.shape, generator=generator))  # biases and statistics, too
    twin = copied(algorithm)
    getattr(algorithm, mode)()
    getattr(twin, mode)()
    a = DATA.x_train
    for (i, goodness), (block, head) in zip(algorithm.goodnesses(DATA.x_train), twin, strict=True):
        a = block(a)
        assert a.shape == (70, CHANNELS[i - 1], 8 >> i, 8 >> i)
        torch.testing.assert_close(goodness, head(a), rtol=1e-5, atol=1e-5)
    assert i == 3


def test_its_heads_read_as_many_numbers_as_there_are_channels_whatever_the_image():
    for shape, side in (((3, 32, 32), 2), ((1, 28, 28), 1), ((1, 16, 40), 1)):
        model = ConvNet(shape, classes=10)
        assert model.features == [64, 128, 256, 512]
        a = model.eval()(torch.zeros(2, *shape))
        assert a.shape[:3] == (2, 512, side)
        assert model.read(a).shape == (2, 512)


def test_images_too_small_for_it_are_refused_in_one_line():
    with pytest.raises(InvalidInput, match="4 blocks halve a 8x8 image to nothing") as raised:
        ConvNet((1, 8, 8), classes=10)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["mf_interleaved", "mf"])
def test_a_local_loss_reaches_its_own_block_and_head_only(name):
    algorithm = network(name, projection_bias=True)
    stages = algorithm.stages()
    for i in (1, 2, 3):
        algorithm.zero_grad(set_to_none=True)
        if name == "mf":
            a = DATA.x_train
            with torch.no_grad():
                for block in list(algorithm.model.blocks)[: i - 1]:
                    a = block(a)
            (loss,) = losses_of(stages[i - 1], a, DATA.y_train)
        else:
            loss = losses_of(stages[0], DATA.x_train, DATA.y_train)[i - 1]
        loss.backward()
        assert receiving(algorithm) == layer(algorithm, i)


def test_a_local_gradient_is_that_of_its_head_alone_in_the_undetached_network():
    """∂L_i/∂block_i: the same whether the gradient goes on below or not. By torch's own modules."""
    detached = network("mf_interleaved", projection_bias=True)
    twin = copied(detached).train()
    locals_ = losses_of(detached.train().stages()[0], DATA.x_train, DATA.y_train)
    scores, a = [], DATA.x_train
    for block, head in twin:
        a = block(a)
        scores.append(head(a))
    for i, (local, (block, head)) in enumerate(zip(locals_, twin, strict=True)):
        detached.zero_grad(set_to_none=True)
        twin.zero_grad(set_to_none=True)
        local.backward()
        cross_entropy(scores[i], DATA.y_train).backward(retain_graph=True)
        ours = detached.model.blocks[i]
        for mine, theirs in (
            (ours.conv, block[0]),
            (ours.norm, block[1]),
            (detached.heads[str(i + 1)], head[2]),
        ):
            for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)
        assert i == 0 or twin[0][0][0].weight.grad.any()  # there it does go on below


def test_with_its_last_head_alone_the_undetached_network_is_backpropagation_to_the_bit():
    joint, bp = network("mf_joint", aux_weight=0.0), network("bp")
    histories = [train(a, DATA, max_epochs=3, progress=False) for a in (joint, bp)]
    assert outcome(histories[0]) == outcome(histories[1])
    trained = weights(joint)
    assert same({name: trained[name] for name in weights(bp)}, weights(bp))


# ---------------------------------------------------------------- whole training, against a loop by hand


def test_interleaved_training_is_the_authors_loop_with_an_optimiser_for_every_block():
    """Block by block: step on its own loss, and hand on what it put out before the step, detached."""
    ours = network("mf_interleaved", **ARMS["mf_interleaved"].algorithm.presets["gong"])
    twin = copied(ours).train()
    optimisers = [torch.optim.SGD(pair.parameters(), lr=0.1, momentum=0.9) for pair in twin]
    train(ours, DATA, max_epochs=2, stopping=LAST, progress=False)
    for epoch in (1, 2):
        for x, y in DATA.epoch(BATCH, stream(0, "layer 3", epoch, "order")):
            a = x
            for (block, head), optimiser in zip(twin, optimisers, strict=True):
                a = block(a.detach())
                optimiser.zero_grad()
                cross_entropy(head(a), y).backward()
                optimiser.step()
    agree(ours, twin, rtol=1e-4, atol=1e-5)


def test_the_global_multi_head_network_descends_the_sum_of_all_heads_losses():
    ours = network("mf_joint", **{**ARMS["mf_joint"].algorithm.presets["gong"], "detach": False})
    twin = copied(ours).train()
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    history = train(ours, DATA, max_epochs=2, stopping=LAST, progress=False)
    for epoch in (1, 2):
        for x, y in DATA.epoch(BATCH, stream(0, "layer 3", epoch, "order")):
            a, total = x, 0.0
            for block, head in twin:
                a = block(a)
                total = total + cross_entropy(head(a), y)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
    agree(ours, twin, rtol=1e-4, atol=1e-5)
    twin.eval()
    with torch.no_grad():
        scores, a = 0.0, DATA.x_val
        for block, head in twin:
            a = block(a)
            scores = scores + head(a)
    torch.testing.assert_close(ours.predict(DATA.x_val), scores, rtol=1e-3, atol=1e-4)
    accuracy = 100.0 * (scores.argmax(1) == DATA.y_val).float().mean().item()
    assert history.stages[0].rows[-1]["val_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("name", LADDER)
def test_every_rung_learns_and_predicts(name):
    data = toy(n=240, val=60, test=60, shape=IMAGE)
    algorithm = ARMS[name].make(ConvNet(IMAGE, classes=3, channels=CHANNELS), batch_size=16, lr=1e-2)
    history = train(algorithm, data, max_epochs=8, progress=False)
    assert len(history.stages) == (3 if name in ("mf", "mf_sequential_joint") else 1)
    scores = algorithm.predict(data.x_test)
    assert scores.shape == (len(data.x_test), 3)
    assert (scores.argmax(1) == data.y_test).float().mean() > 0.6  # chance is a third


@pytest.mark.parametrize("name", SQUARE)
def test_the_class_does_not_change_with_a_constant_on_one_heads_scores(name):
    algorithm = network(name, projection_bias=True, predict_by="sum")
    train(algorithm, DATA, max_epochs=1, progress=False)
    before = algorithm.predict(DATA.x_test)
    with torch.no_grad():
        algorithm.heads["2"].bias.add_(7.0)
    after = algorithm.predict(DATA.x_test)
    torch.testing.assert_close(after, before + 7.0, rtol=1e-4, atol=1e-4)
    assert torch.equal(after.argmax(1), before.argmax(1))


# ---------------------------------------------------------------- BatchNorm


def counted(algorithm) -> list[int]:
    """How many batches each BatchNorm has seen."""
    return [int(block.norm.num_batches_tracked) for block in algorithm.model.blocks]


@pytest.mark.parametrize("name", ["bp", "bp_ds", "mf_joint", "mf_interleaved"])
def test_a_batch_moves_the_statistics_once(name):
    algorithm = network(name, batch_size=64)
    first = algorithm.model.blocks[0].conv.weight.detach().clone()
    train(algorithm, DATA, max_epochs=1, stopping=LAST, progress=False)  # one batch of 64 of 70 images
    assert counted(algorithm) == [1, 1, 1]
    ((x, _),) = DATA.epoch(64, stream(0, "layer 3", 1, "order"))
    z = nn.functional.conv2d(x, first, padding=1)
    norm = algorithm.model.blocks[0].norm
    torch.testing.assert_close(norm.running_mean, 0.1 * z.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * z.var((0, 2, 3)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("name", "seen"), [("mf", [8, 8, 8]), ("mf_sequential_joint", [24, 16, 8])])
def test_a_frozen_prefix_keeps_its_statistics_and_what_moves_takes_each_batch_once(name, seen, cache):
    """Two epochs of four batches a stage. Undetached, the blocks below are in every later stage, too."""
    algorithm, after = network(name), []

    def watch(algorithm, stage, row):
        after.append(weights(algorithm.model.blocks[0].norm))

    train(algorithm, DATA, max_epochs=2, stopping=LAST, cache=cache, progress=False, on_epoch=watch)
    assert counted(algorithm) == seen
    frozen = after[2:] if name == "mf" else []
    assert all(same(after[1], later) for later in frozen)


# ---------------------------------------------------------------- prefixes, executors, interruptions


@pytest.mark.parametrize("channels", [CHANNELS, pytest.param((64, 128, 256), marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cached_prefix_gives_the_bits_of_a_recomputed_one(channels, precision, monkeypatch):
    results = []
    for cache in (True, False, "on disk"):
        if cache == "on disk":
            monkeypatch.setattr("bpfree.training.prefix.SHARE_OF_FREE_MEMORY", 0.0)
        algorithm = network("mf", channels)
        how = {"max_epochs": 2, "cache": cache is not False, "precision": precision, "progress": False}
        history = train(algorithm, DATA, **how)
        kind = {True: "cached in memory", False: "recomputed"}.get(cache, "cached on disk")
        assert [s.prefix for s in history.stages] == ["images", kind, kind]
        results.append((weights(algorithm), outcome(history)))
    for found in results[1:]:
        assert same(results[0][0], found[0])
        assert results[0][1] == found[1]


class PixelLast(MonoForward):
    """A further stage, which learns a second head of the last block from its frozen output."""

    def stages(self):
        *below, last = super().stages()
        prefix, head = list(self.model.blocks), self.heads["2"]

        def losses(a, labels, chance):
            yield cross_entropy(head(a), labels)

        return [*below, last, self.stage("again", head.parameters(), losses, head, prefix, layer=2)]


def test_so_it_does_where_a_cached_map_is_a_single_pixel():
    """4 -> 2 -> 1: memory layouts of such a map can no longer be told apart."""
    data, results = toy(n=70, shape=(1, 4, 4)), []
    for cache in (True, False):
        algorithm = PixelLast(ConvNet((1, 4, 4), classes=3, channels=(4, 5)), batch_size=16)
        train(algorithm, data, max_epochs=2, cache=cache, progress=False)
        results.append(weights(algorithm))
    assert same(*results)


@pytest.mark.parametrize("augment", [None, Augmentation(pad=1)])
@pytest.mark.parametrize("name", LADDER)
def test_replayed_steps_learn_what_called_ones_learn(name, augment):
    data = toy(n=70, shape=IMAGE, augment=augment)
    options = {"optimiser": "sgd", "lr": 0.1, "lr_schedule": "cosine_epochs"}
    results = []
    for executor in ("eager", "graph"):
        algorithm = network(name, **options)
        history = train(algorithm, data, max_epochs=3, executor=executor, device="cpu", progress=False)
        assert {s.executor for s in history.stages} == {executor}
        results.append((weights(algorithm), outcome(history)))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("name", SQUARE)
def test_an_interrupted_run_resumes_to_the_same_bits(name, tmp_path):
    whole = network(name)
    train(whole, DATA, max_epochs=2, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(
            network(name), DATA, max_epochs=2, progress=False, checkpoint=Eager(tmp_path / "c", dies_after=1)
        )
    again = network(name)
    train(again, DATA, max_epochs=2, progress=False, checkpoint=Eager(tmp_path / "c"))
    assert same(weights(whole), weights(again))


# ---------------------------------------------------------------- costs

# Of one sample: c_i = 2 · 9 · in · out · H · W for convolution i, h_i = 2 C d_i for a head of its channels.
C = [2 * 9 * a * b * side**2 for (a, b), side in zip(pairwise((IMAGE[0], *CHANNELS)), (8, 4, 2), strict=True)]
H = [2 * CLASSES * d for d in CHANNELS]


def through(blocks: list[int], heads: int) -> tuple[int, int]:
    """(forward, backward) of blocks trained by one loss: no gradient is taken at the images."""
    return sum(blocks) + heads, 2 * sum(blocks) - blocks[0] + 2 * heads


ANALYTIC = {
    "bp": {"network": through(C, H[-1])},
    "bp_ds": {"network": through(C, sum(H) + H[-1])},
    "mf_joint": {"network": through(C, sum(H))},
    "mf_interleaved": {"network": (sum(C) + sum(H), sum(C) + 2 * sum(H))},
    "mf": {f"layer {i + 1}": (C[i] + H[i], C[i] + 2 * H[i]) for i in range(3)},
    "mf_sequential_joint": {f"layer {i}": through(C[:i], H[i - 1]) for i in (1, 2, 3)},
}


@pytest.mark.parametrize("name", LADDER)
def test_operations_are_those_counted_by_hand(name):
    table = diagnostics.flops(network(name), DATA)
    steps = table[table["part"].isin(["forward", "backward"])]
    found = steps.pivot(index="stage", columns="part", values="per_sample")
    assert {s: (row["forward"], row["backward"]) for s, row in found.iterrows()} == ANALYTIC[name]
    prefixes = table[table["part"] == "prefix, recomputed"]["per_sample"].tolist()
    assert prefixes == ([C[0], C[0] + C[1]] if name == "mf" else [])
    assert table[table["part"] == "prefix, cached"]["per_sample"].tolist() == (C[:2] if name == "mf" else [])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("name", LADDER)
def test_they_add_up_to_what_an_epoch_of_real_training_computes(name, cache):
    algorithm = network(name)
    table = diagnostics.flops(algorithm, DATA)
    with counter() as found:
        train(algorithm, DATA, max_epochs=1, cache=cache, progress=False)
    outside = ["elementwise", "optimiser", "prediction", "prefix, recomputed" if cache else "prefix, cached"]
    assert found.get_total_flops() == round(table.loc[~table["part"].isin(outside), "flops"].sum())


def test_the_authors_network_takes_58_million_multiplications_an_image():
    sizes = stand_in("cifar10_plain")
    with torch.device("meta"):
        algorithm = ARMS["bp"].make(build_model(NAME, sizes))
    forward = diagnostics.paper_flops(algorithm, sizes) / 3 / 2  # as the papers count: three passes, ×2
    assert round((forward - 512 * 10) / 1e6, 1) == 58.4


def test_bytes_are_those_counted_by_hand():
    """Of each block: the convolution's input and output, the ReLU's output, the places of the maxima."""
    pixels = [BATCH * c * side**2 for c, side in zip(CHANNELS, (8, 4, 2), strict=True)]
    inputs = [BATCH * IMAGE[0] * 64, *(p // 4 for p in pixels[:-1])]
    block = [
        4 * a + 2 * 4 * z + 8 * z // 4 + 2 * 4 * c for a, z, c in zip(inputs, pixels, CHANNELS, strict=True)
    ]
    head = [4 * BATCH * (c + CLASSES) + 8 * BATCH + 4 for c in CHANNELS]  # its input, log-softmax, labels, 1
    bp = diagnostics.account(network("bp"), DATA).loc["network"]
    assert bp["graph"] == sum(block) + head[-1]
    local = diagnostics.account(network("mf_interleaved"), DATA).loc["network"]
    assert local["graph"] == max(b + h for b, h in zip(block, head, strict=True))
    convolutions = 9 * sum(a * b for a, b in pairwise((IMAGE[0], *CHANNELS)))
    assert bp["parameters"] == 4 * (convolutions + 2 * sum(CHANNELS) + CLASSES * CHANNELS[-1])
    assert (
        bp["buffers"] == 4 * 2 * sum(CHANNELS) + 8 * len(CHANNELS) + 8
    )  # statistics, counts, finished stages
    cached = diagnostics.account(network("mf"), DATA)["cache"].tolist()
    assert cached == [0, *(4 * (70 + 30) * p // 4 // BATCH for p in pixels[:-1])]


# ---------------------------------------------------------------- names, keys, schedules


def test_its_name_is_not_that_of_cafos_blocks():
    data = toy(n=30, val=10, shape=(1, 16, 16))
    conv, cafo = (build_model(name, data) for name in ("conv-4-6", "cnn-4-6"))
    assert isinstance(conv, ConvNet)
    assert not isinstance(cafo, ConvNet)
    assert [type(layer) for layer in conv.blocks[1]] != [type(layer) for layer in cafo.blocks[1]]
    assert conv.features == [4, 6]
    with pytest.raises(InvalidInput, match="conv-64-128-256-512"):
        build_model("conv", data)
    with pytest.raises(InvalidInput, match="conv-0"):
        Experiment("mf", architecture="conv-0")


def test_keys_of_its_experiments_are_those_of_its_first_records():
    keys = {name: resolved(architecture=name).key for name in ("conv-8-16", "cnn-8-16", "8-16", "conv-8-17")}
    assert len(set(keys.values())) == 4
    assert keys["conv-8-16"] == "9d7c4f6d3b4a9b8b7b9d6e1c2c7361279c41c2bbd90dd60f353366ef1ef5051d"
    off, on = (
        resolved(options={"lr": 0.1, "projection_bias": bias}, architecture="conv-8-16").key
        for bias in (False, True)
    )
    assert off == keys["conv-8-16"] != on  # a record from before there was the option is found


def test_schedules_are_torchs():
    for name, made in (
        ("cosine_epochs", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40)),
        ("step_30", lambda o: torch.optim.lr_scheduler.StepLR(o, 30, 0.1)),
    ):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = made(optimiser)
        for epoch in range(1, 41):
            rate = optimiser.param_groups[0]["lr"]
            assert 0.1 * SCHEDULES[name](epoch, 40) == pytest.approx(rate, rel=1e-9, abs=1e-12)
            optimiser.step()
            schedule.step()


def test_their_cosine_may_be_cut_short():
    algorithm = network("bp", lr_schedule="cosine_epochs", lr=1e-9)
    history = train(algorithm, DATA, max_epochs=50, stopping=Stopping(patience=2), progress=False)
    assert history.stages[0].ended == "patience"
