"""The prefix cache: the same bits as recomputing, in memory or on disk, and never stale."""

import errno
import gc
import logging
import os
import tempfile
import weakref
from dataclasses import replace

import pytest
import torch
from helpers import LADDER, arm, no_memory, outcome, same, toy, weights

from bpfree.algorithms import Algorithm, MonoForward
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.errors import InvalidInput, StorageFailed
from bpfree.training.batches import Augmentation
from bpfree.training.chance import stream
from bpfree.training.clock import Clock
from bpfree.training.loop import train
from bpfree.training.prefix import VALIDATION_BATCH, PrefixCache, apply, mapped, reserve, windows

CPU = torch.device("cpu")
NOTHING = torch.autocast("cpu", torch.bfloat16, enabled=False)
CACHED = "cached in memory"


def cache_of(data, batch_size=16, mode="auto", budget=None):
    return PrefixCache(data, batch_size, CPU, mode, NOTHING, budget)


def stage_of(prefix, moving=()):
    """A stage with this prefix that moves the parameters of `moving`."""
    helper = Algorithm(MLP([12, 3], classes=3))
    parameters = [p for module in moving for p in module.parameters()]
    return helper.stage("s", parameters, None, None, prefix, layer=1)


def blocks_of(*widths):
    algorithm = MonoForward(MLP(widths, classes=3))
    algorithm.initialise(0)
    return list(algorithm.model.blocks)


# ---------------------------------------------------------------- cached equals recomputed


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("n", [64, 70, 65, 79])  # whole batches of 16, and last ones of 6, 1 and 15
def test_cached_and_recomputed_prefixes_give_the_same_bits(n, precision, monkeypatch):
    data, results = toy(n=n), []
    for mode, kind in (
        (False, "recomputed"),
        (True, CACHED),
        ("auto", CACHED),
        ("auto", "cached on disk"),
    ):
        if kind == "cached on disk":
            no_memory(monkeypatch)
        algorithm = arm("mf", (12, 33, 17, 9))
        history = train(algorithm, data, max_epochs=3, cache=mode, precision=precision, progress=False)
        assert [s.prefix for s in history.stages] == ["images", kind, kind]
        results.append((weights(algorithm), outcome(history)))
    for other in results[1:]:
        assert same(results[0][0], other[0])
        assert results[0][1] == other[1]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 100, 128])
@pytest.mark.parametrize("width", [31, 256])
def test_at_sizes_where_a_products_rounding_depends_on_its_rows(batch_size, width):
    data, results = toy(n=213, val=70, shape=(1, 28, 28)), []
    for mode in (True, False):
        algorithm = arm("mf", (784, width, width, width), batch_size=batch_size)
        history = train(algorithm, data, max_epochs=2, cache=mode, progress=False)
        results.append((weights(algorithm), outcome(history)))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_rows_place_in_its_batch_does_not_matter(threads):
    """Whatever the number of rows: several threads would share few of them out unevenly."""
    generator, before = torch.Generator().manual_seed(0), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n in (*range(1, 20), 31, 64, 100, 128):
            x = torch.randn(n, 784, generator=generator)
            order = torch.randperm(n, generator=generator)
            blocks = blocks_of(784, 256, 31)
            assert torch.equal(apply(blocks, x)[order], apply(blocks, x[order])), n
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_same_of_convolutions_with_batch_normalisation():
    data, results = toy(n=70, shape=(1, 8, 8)), []
    for mode in (True, False):
        algorithm = MonoForward(CaFoCNN((1, 8, 8), classes=3, channels=(4, 8, 8)), batch_size=16)
        history = train(algorithm, data, max_epochs=2, cache=mode, progress=False)
        results.append((weights(algorithm), outcome(history)))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_in_fp32_the_cache_holds_what_the_blocks_put_out():
    data, blocks = toy(), blocks_of(12, 33, 17)
    with cache_of(data) as cache:
        source = cache.source(stage_of(blocks), Clock(CPU))
        for mine, x in ((source.train, data.x_train), (source.val, data.x_val)):
            with torch.no_grad():
                expected = blocks[1](blocks[0](x))
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
            assert not mine.requires_grad


@pytest.mark.parametrize("budget", [None, 0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("channels", [1, 4])
def test_the_cache_has_the_layout_of_what_the_blocks_put_out(channels, budget):
    # On a GPU, normalising channels-last features rounds otherwise than normalising plain ones.
    data = toy(n=70, shape=(1, 8, 8))
    blocks = list(CaFoCNN((1, 8, 8), classes=3, channels=(channels, 8)).blocks)
    for prefix in (blocks[:1], [*blocks[0][:-1]], blocks):
        with torch.no_grad():
            expected = apply(prefix, data.x_train[:16])
        with cache_of(data, budget=budget) as cache:
            source = cache.source(stage_of(prefix), Clock(CPU))
            for mine in (source.train, source.val):
                assert mine.stride() == expected.stride()


def test_a_frozen_prefix_runs_once_a_stage_when_cached_and_once_a_batch_when_not():
    data = toy(n=64)  # 4 batches, and one of validation
    for mode, calls in ((True, 5), (False, 3 * 5)):
        algorithm, count = arm("mf", (12, 8, 7)), [0]
        (_, second) = algorithm.stages()
        second.prefix[0].register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        algorithm.stages = lambda stage=second: [stage]
        train(algorithm, data, max_epochs=3, cache=mode, progress=False)
        assert count[0] == calls


# ---------------------------------------------------------------- where it lies


def test_what_exceeds_the_budget_goes_to_disk_and_is_said_to(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data, blocks = toy(), blocks_of(12, 33)
    training, validation = 70 * 33 * 4, 30 * 33 * 4  # bytes
    for budget, kind in (
        (training, CACHED),
        (training - 1, "cached on disk"),
        (validation, "cached on disk"),  # that validation fits makes no difference
        (0, "cached on disk"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "bpfree"), cache_of(data, budget=budget) as cache:
            source = cache.source(stage_of(blocks), Clock(CPU))
            assert source.kind == kind, budget
            torch.testing.assert_close(source.train, blocks[0](data.x_train).detach())
        assert ("cached on disk" in caplog.text) == (kind == "cached on disk")
    assert not list(tmp_path.iterdir())  # a file without a name, gone even if the process is killed


def test_a_tensor_on_disk_is_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, reserve_room = [], os.posix_fallocate

    def look(*where):
        seen.extend(tmp_path.iterdir())
        reserve_room(*where)

    monkeypatch.setattr(os, "posix_fallocate", look)
    tensor = mapped(40, torch.float32)
    tensor[:] = torch.arange(10.0)
    assert tensor.sum() == 45
    assert [*seen, *tmp_path.iterdir()] == []  # from its beginning on


@pytest.mark.parametrize("reserves", ["posix_fallocate", "zeros"])
def test_room_on_the_disk_is_taken_before_it_is_written_to(tmp_path, monkeypatch, reserves):
    if reserves == "zeros":
        monkeypatch.delattr(os, "posix_fallocate")
    size = 3 * 2**20 + 5
    with open(tmp_path / "file", "w+b") as file:
        reserve(file, size)
        found = os.fstat(file.fileno())
        assert found.st_size == size
        assert found.st_blocks * 512 >= size  # no holes
    assert (tmp_path / "file").read_bytes() == bytes(size)


def test_a_file_system_that_cannot_reserve_is_filled(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with open(tmp_path / "file", "w+b") as file:
        reserve(file, 10)
    assert (tmp_path / "file").read_bytes() == bytes(10)


def test_no_room_or_no_folder_for_a_prefix_says_what_to_do(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    no_memory(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for said in (
        "No such file or directory): set TMPDIR",
        "No space left on device): make room there, or set",
    ):
        with pytest.raises(StorageFailed) as raised:
            train(arm("mf"), toy(), max_epochs=1, progress=False)
        for words in (said, str(tmp_path / "gone"), "TMPDIR", "cache=False"):
            assert words in str(raised.value)
        assert "\n" not in str(raised.value)
        (tmp_path / "gone").mkdir(exist_ok=True)
        monkeypatch.setattr(os, "posix_fallocate", full)


def test_the_folder_of_the_cache_may_vanish_while_it_is_in_use(tmp_path, monkeypatch):
    no_memory(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    results = []
    for vanishes in (False, True):
        (tmp_path / "cache").mkdir(exist_ok=True)
        algorithm = arm("mf", (12, 8, 7))

        def epoch(algorithm, stage, row, vanishes=vanishes):
            if vanishes and (stage.name, row["epoch"]) == ("layer 2", 1):
                (tmp_path / "cache").rmdir()

        history = train(algorithm, toy(), max_epochs=3, on_epoch=epoch, progress=False)
        assert history.stages[1].prefix == "cached on disk"
        results.append(weights(algorithm))
    assert same(*results)


def test_leaving_the_cache_frees_it():
    with cache_of(toy()) as cache:
        cache.source(stage_of(blocks_of(12, 33)), Clock(CPU))
        assert cache.train.shape == (70, 33)
        held = [weakref.ref(cache.train), weakref.ref(cache.val)]
    gc.collect()
    assert [reference() for reference in held] == [None, None]


# ---------------------------------------------------------------- growing and going stale


def test_a_growing_prefix_is_extended_and_not_computed_anew():
    data, blocks, count = toy(n=64), blocks_of(12, 8, 7, 6), []
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, i=i: count.append(i))
    clock = Clock(CPU)
    with cache_of(data) as cache:
        for depth in (1, 2, 3):
            source = cache.source(stage_of(blocks[:depth]), clock)
    assert [count.count(i) for i in range(3)] == [5, 5, 5]
    assert source.train.shape == (64, 6)


def test_another_or_a_shorter_prefix_starts_again_from_the_images():
    data, clock = toy(), Clock(CPU)
    first, second = blocks_of(12, 8, 7), blocks_of(12, 9)
    with cache_of(data) as cache:
        cache.source(stage_of(first), clock)
        assert cache.source(stage_of(second), clock).train.shape == (70, 9)
        cache.source(stage_of(first), clock)
        source = cache.source(stage_of(first[:1]), clock)
        torch.testing.assert_close(source.train, first[0](data.x_train).detach())
        source = cache.source(stage_of([]), clock)  # no prefix: the images themselves
        assert (source.kind, source.train.data_ptr()) == ("images", data.x_train.data_ptr())


def test_a_stage_that_moves_cached_modules_makes_the_cache_stale():
    data, clock = toy(), Clock(CPU)
    blocks = blocks_of(12, 8)
    with cache_of(data) as cache:
        old = cache.source(stage_of(blocks), clock).train
        cache.source(stage_of([], moving=blocks), clock)
        with torch.no_grad():
            blocks[0].linear.weight.mul_(2)
        new = cache.source(stage_of(blocks), clock).train
    torch.testing.assert_close(new, blocks[0](data.x_train).detach())
    assert not torch.equal(old, new)


class BackAndForth(MonoForward):
    """Layer 1, layer 2, then both again: the prefix of the last stage is not what it was."""

    def stages(self):
        one, two = super().stages()
        again = [replace(one, name="again 1"), replace(two, name="again 2")]
        return [one, two, *again]


def test_through_the_whole_loop_a_stale_cache_is_not_used():
    results = []
    for mode in (True, False):
        algorithm = BackAndForth(MLP([12, 8, 7], classes=3), batch_size=16)
        train(algorithm, toy(), max_epochs=2, cache=mode, progress=False)
        results.append(weights(algorithm))
    assert same(*results)


# ---------------------------------------------------------------- augmented images


def test_augmented_images_refuse_a_cache_in_one_line():
    with pytest.raises(InvalidInput) as raised:
        train(arm("mf"), toy(augment=Augmentation(pad=1)), cache=True, progress=False)
    for said in ("cache=True", "'toy'", "augmented", "cache='auto'"):
        assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_auto_recomputes_augmented_images_and_says_so(caplog):
    data, results = toy(augment=Augmentation(pad=1)), []
    for mode in ("auto", False):
        caplog.clear()
        algorithm = arm("mf")
        with caplog.at_level(logging.INFO, "bpfree"):
            history = train(algorithm, data, max_epochs=2, cache=mode, progress=False)
        assert [s.prefix for s in history.stages] == ["images", "recomputed", "recomputed"]
        assert [r.message for r in caplog.records] == [
            f"stage layer {i}: prefix recomputed: inputs are augmented" for i in (2, 3)
        ]
        results.append(weights(algorithm))
    assert same(*results)
    unaugmented = arm("mf")
    train(unaugmented, replace(data, augment=None), max_epochs=2, progress=False)
    assert not same(weights(unaugmented), results[0])


def test_recomputing_on_request_is_said_too():
    source = cache_of(toy(), mode=False).source(stage_of(blocks_of(12, 8)), Clock(CPU))
    assert (source.kind, source.note) == ("recomputed", "prefix recomputed: cache=False")


@pytest.mark.parametrize("mode", ["yes", None, 2])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(InvalidInput, match="use 'auto', True or False"):
        train(arm("bp"), toy(), cache=mode, progress=False)


def test_arms_without_a_prefix_train_on_the_images_whatever_the_mode():
    for name in set(LADDER) - {"mf"}:
        results = []
        for mode in ("auto", False):
            algorithm = arm(name)
            history = train(algorithm, toy(), max_epochs=1, cache=mode, progress=False)
            assert {s.prefix for s in history.stages} == {"images"}
            results.append(weights(algorithm))
        assert same(*results)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("n", [1, 5, 16, 17, 31, 32, 70])
def test_windows_have_one_length_and_cover_every_row_once(n):
    rows, covered = torch.arange(n), []
    for window, fresh in windows(n, 16):
        assert len(rows[window]) == min(16, n)
        covered += rows[window][fresh:].tolist()
    assert covered == list(range(n))


@pytest.mark.parametrize("mode", ["auto", False])
def test_passes_in_order_and_for_validation_see_every_sample_once(mode):
    validated = 2 * VALIDATION_BATCH + 6
    data, blocks = toy(val=validated), blocks_of(12, 33)
    with cache_of(data, mode=mode) as cache:
        source = cache.source(stage_of(blocks), Clock(CPU))
        passes = (
            (source.in_order(), data.x_train, data.y_train),
            (source.validation(), data.x_val, data.y_val),
        )
        for batches, x, y in passes:
            inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
            torch.testing.assert_close(inputs, blocks[0](x).detach(), rtol=1e-5, atol=1e-6)
            assert torch.equal(labels, y)
        assert (source.size, source.val_size, source.batch_size, source.batches) == (70, validated, 16, 4)
        assert sum(len(x) for x, _ in source.shuffled(stream(0))) == 64


def test_the_prefix_is_in_eval_mode_even_while_the_rest_trains():
    data = toy(n=64, shape=(1, 8, 8))
    algorithm = MonoForward(CaFoCNN((1, 8, 8), classes=3, channels=(4, 4)), batch_size=16)
    first, second = algorithm.stages()
    modes = []
    first_block, second_block = algorithm.model.blocks

    def watch(x, labels, chance):
        modes.append((first_block.training, second_block.training))
        yield from second.losses(x, labels, chance)

    algorithm.stages = lambda: [first, replace(second, losses=watch)]
    for mode in ("auto", False):
        train(algorithm, data, max_epochs=2, cache=mode, progress=False)
    assert set(modes) == {(False, True)}


def test_filling_the_cache_moves_no_statistics_even_of_a_network_in_train_mode():
    model = CaFoCNN((1, 8, 8), classes=3, channels=(4, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with cache_of(toy(shape=(1, 8, 8))) as cache:
        cache.source(stage_of(list(model.blocks)), Clock(CPU))
    assert same(before, model.state_dict())


def test_a_prefix_on_disk_of_bf16_reads_back_as_bf16():
    data, blocks = toy(), blocks_of(12, 33)
    bf16 = torch.autocast("cpu", torch.bfloat16)
    with PrefixCache(data, 16, CPU, "auto", bf16, budget=0) as cache:
        source = cache.source(stage_of(blocks), Clock(CPU))
        assert source.train.dtype == torch.bfloat16
        torch.testing.assert_close(
            source.train.float(), blocks[0](data.x_train).detach(), rtol=0.02, atol=0.02
        )
