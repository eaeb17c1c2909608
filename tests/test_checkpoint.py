"""Going on from a checkpoint: to the same bits, never from another run's, and honest about its cost."""

import errno
import json
import logging
import os
import random
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import Eager, ScriptedMeter, for_epochs, no_memory, outcome, same, toy, weights
from safetensors import safe_open

from bpfree.algorithms import ARMS
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.errors import StorageFailed, TrainingDiverged, disk
from bpfree.training import checkpoint as module
from bpfree.training.checkpoint import Checkpoint
from bpfree.training.clock import Clock
from bpfree.training.history import History
from bpfree.training.loop import train
from bpfree.training.stopping import Budget, Stopping

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


def arm(name: str, **options):
    # A high rate, so that the best epoch is not always the last.
    rate = {} if name.startswith("ff") else {"lr": 0.05}
    network = (
        CaFoCNN(SHAPE, classes=3, channels=(3, 4))
        if name.startswith("cafo")
        else MLP(options.pop("widths", [64, 9, 8, 7]), classes=3)
    )
    return ARMS[name].make(network, **{"batch_size": 16, **rate, **options})


def trained(name="mf", checkpoint=None, options=None, **how):
    """An arm trained for at most five epochs a stage: its weights and its history."""
    algorithm = arm(name, **(options or {}))
    how = {**for_epochs(algorithm, 5), "stopping": Stopping(patience=3), "progress": False, "seed": 1, **how}
    data = how.pop("data", toy(n=40, shape=SHAPE))
    history = train(algorithm, data, checkpoint=checkpoint, **how)
    return weights(algorithm), history


def killed(path, after, *args, **how):
    """Train until the n-th checkpoint, and die."""
    with pytest.raises(KeyboardInterrupt):
        trained(*args, checkpoint=Eager(path, dies_after=after), **how)


def assert_same(one, two):
    assert same(one[0], two[0])
    # By text, since a stage that is not validated has NaN where others have losses.
    assert [(s.name, s.prefix, s.ended, s.restored) for s in one[1].stages] == [
        (s.name, s.prefix, s.ended, s.restored) for s in two[1].stages
    ]
    assert one[1].frame().iloc[:, :7].equals(two[1].frame().iloc[:, :7])


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("name", ARMS)
def test_wherever_a_run_dies_it_goes_on_to_the_same_bits(name, tmp_path):
    through = trained(name)
    watched = Eager(tmp_path / "all")
    assert_same(trained(name, watched), through)  # writing changes nothing
    assert watched.writes >= 2
    moments = range(1, watched.writes + 1)
    if name != "mf":
        moments = sorted({1, watched.writes, *random.Random(name).sample(moments, min(3, watched.writes))})
    for moment in moments:
        path = tmp_path / f"{moment}"
        killed(path, moment, name)
        again = Eager(path)
        assert_same(trained(name, again), through)
        assert again.resumed == 1
        assert again.writes == watched.writes - moment  # what was trained is not trained again


@pytest.mark.parametrize(
    "how",
    [
        {"precision": "bf16"},
        {"cache": False},
        {"budget": Budget("passes", 12)},
        {"stopping": Stopping("val_loss", 2, restore="val_accuracy")},
        {"stopping": Stopping(patience=2, restore="last")},
        {"options": {"optimiser": "sgd", "lr_schedule": "cooldown"}},
        {"options": {"optimiser": "sgd", "momentum": 0.0}},
        {"options": {"optimiser": "adam", "weight_decay": 0.1}},
    ],
    ids=str,
)
def test_however_it_is_trained(how, tmp_path):
    through = trained(**how)
    for moment in (3, 8):
        killed(tmp_path / f"{moment}", moment, **how)
        assert_same(trained(checkpoint=Eager(tmp_path / f"{moment}"), **how), through)


def test_a_prefix_on_disk_is_computed_again(tmp_path, monkeypatch):
    no_memory(monkeypatch)
    through = trained()
    assert through[1].stages[2].prefix == "cached on disk"
    killed(tmp_path / "c", 12)
    assert_same(trained(checkpoint=Eager(tmp_path / "c")), through)


def test_a_run_may_die_again_and_again(tmp_path):
    through, deaths = trained(), 0
    while True:
        checkpoint = Eager(tmp_path / "c", dies_after=2)
        try:
            ended = trained(checkpoint=checkpoint)
            break
        except KeyboardInterrupt:
            assert checkpoint.resumed == deaths
            deaths += 1
    assert deaths > 4
    assert_same(ended, through)


def test_a_run_that_died_after_training_trains_no_more(tmp_path):
    meter = ScriptedMeter((1.0, 2.0))
    through = trained(checkpoint=Eager(tmp_path / "c"), meter=meter)
    idle = ScriptedMeter((1.0, 2.0))
    again = trained(checkpoint=Eager(tmp_path / "c"), meter=idle)
    assert_same(again, through)
    assert idle.names == []
    assert again[1].provenance == through[1].provenance == "scripted"
    assert again[1].total("measured_j") == through[1].total("measured_j")


def test_divergence_stays_divergence(tmp_path):
    growing = {"optimiser": "sgd", "momentum": 0.0, "lr": 1e-3, "weight_decay": 3e3}  # w ← −2w at every step
    how = {"name": "bp", "options": growing, "max_epochs": 60, "stopping": Stopping(patience=None)}
    errors = []
    for checkpoint in (None, Eager(tmp_path / "c", dies_after=1), Eager(tmp_path / "c")):
        with pytest.raises((TrainingDiverged, KeyboardInterrupt)) as raised:
            trained(checkpoint=checkpoint, **how)
        errors.append(raised.value)
    assert errors[0].epoch > 2
    assert (errors[0].stage, errors[0].epoch) == (errors[2].stage, errors[2].epoch)
    assert outcome(errors[0].history)[:-1] == outcome(errors[2].history)[:-1]


# ---------------------------------------------------------------- what it cost


def test_the_history_has_the_epochs_that_count_and_every_prefix_that_was_computed(tmp_path):
    """Every window of this meter is a joule: an epoch is two, a stage begins with one for its prefix."""
    meter = ScriptedMeter((1.0, 2.0))
    through = trained(meter=meter)[1]
    stages, epochs = len(through.stages), through.epochs
    assert through.total("measured_j") == 2 * epochs + stages
    for moment in (2, 9):
        first = Eager(tmp_path / "c", dies_after=moment)
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint=first, meter=meter)
    last = Eager(tmp_path / "c")
    resumed = trained(checkpoint=last, meter=meter)[1]
    assert last.resumed == 2
    assert resumed.total("measured_j") == 2 * epochs + stages + 2
    assert resumed.total("measured_j", ("prefix",)) == stages + 2
    paid = [row.get("prefix_measured_j", 0.0) for row in resumed.stages[0].rows]
    assert paid[:3] == [1.0, 1.0, 0.0]  # the second computation stands with the epoch that it follows
    assert 0 < last.begun_s < resumed.total("s")


def test_a_budget_of_seconds_goes_on_with_what_it_had_spent(tmp_path, monkeypatch):
    plain = Clock.region

    def region(self, row, name):  # every epoch takes a second, and a prefix 0.3 of one
        context = plain(self, {}, name)
        row[f"{name}_s"] = row.get(f"{name}_s", 0.0) + {"train": 1.0, "prefix": 0.3}.get(name, 0.0)
        return context

    monkeypatch.setattr(Clock, "region", region)
    how = {"budget": Budget("s", 30.0), "max_epochs": None}
    assert [len(s.rows) for s in trained(**how)[1].stages] == [10, 9, 10]  # to 10.3, 19.6 and 29.9 s
    for moment in (4, 13, 14):
        killed(tmp_path / f"{moment}", moment, **how)
        history = trained(checkpoint=Eager(tmp_path / f"{moment}"), **how)[1]
        assert history.total("s") == pytest.approx(30.0, abs=0.5)
        assert history.total("s", ("prefix",)) == pytest.approx(1.2)


# ---------------------------------------------------------------- when it is written


def test_it_is_written_now_and_then_and_takes_no_more_than_its_share(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def slow(path, content):
        now[0] += 0.2
        written.append(round(now[0], 1))

    monkeypatch.setattr(module.disk, "replace", slow)
    checkpoint = Checkpoint(tmp_path / "c", "a run")

    def epoch(algorithm, stage, row):
        now[0] += 4.0

    trained("bp", checkpoint, on_epoch=epoch, max_epochs=40, stopping=Stopping(patience=None))
    # every 30 s, since 0.2 s are less than a hundredth of that
    assert written == pytest.approx([32.2, 64.4, 96.6, 128.8, 161.0], abs=0.5)
    now[0], written[:] = 0.0, []
    checkpoint = Checkpoint(tmp_path / "c", "a run")
    checkpoint.share = 0.002  # 100 s for 0.2
    trained("bp", checkpoint, on_epoch=epoch, max_epochs=60, stopping=Stopping(patience=None))
    assert written == pytest.approx([32.2, 136.4, 236.6], abs=0.5)


def test_a_short_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)  # however slow the machine
    trained(checkpoint=Checkpoint(tmp_path / "c", "a run"))
    assert not list(tmp_path.iterdir())


def test_without_a_path_nothing_is_written_even_if_asked():
    checkpoint = Checkpoint()
    trained(checkpoint=checkpoint)
    checkpoint.save(now=True)
    checkpoint.remove()


# ---------------------------------------------------------------- what is not read


def test_another_runs_is_passed_over_in_one_line_and_replaced(tmp_path, caplog):
    through = trained()
    killed(tmp_path / "c", 5)
    with caplog.at_level(logging.WARNING, "bpfree"):
        other = Eager(tmp_path / "c", run="another machine")
        assert_same(trained(checkpoint=other), through)
    (line,) = caplog.messages
    assert line == f"checkpoint {tmp_path / 'c'} is of another run, machine or version: passed over"
    assert other.resumed == 0
    again = Eager(tmp_path / "c", run="another machine")
    assert_same(trained(checkpoint=again), through)
    assert again.resumed == 1


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"options": {"lr": 0.02}},
        {"options": {"batch_size": 8}},
        {"options": {"predict_by": "sum"}},
        {"max_epochs": 6},
        {"stopping": Stopping(patience=1)},
        {"stopping": Stopping(patience=3, min_delta=0.5)},
        {"budget": Budget("passes", 8, exact=True)},
        {"precision": "bf16"},
        {"data": replace(toy(n=40, shape=SHAPE), sha256="others")},
    ],
    ids=lambda other: str(next(iter(other))),
)
def test_another_run_does_not_resume_nor_return_this_one(other, tmp_path, caplog):
    checkpoint = Eager(tmp_path / "c")
    trained(checkpoint=checkpoint)
    with caplog.at_level(logging.WARNING, "bpfree"):
        assert_same(trained(checkpoint=Eager(tmp_path / "c"), **other), trained(**other))
    assert "is of another run" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [
        ("ff", {"threshold": 1.0}, {"threshold": 60.0}),
        ("cafo_dfa", {"error": "mean"}, {"error": "sum"}),
    ],
)  # which the algorithm keeps under other names
def test_another_option_is_another_run_whatever_becomes_of_it(name, options, other, tmp_path, caplog):
    killed(tmp_path / "c", 2, name, options=options)
    with caplog.at_level(logging.WARNING, "bpfree"):
        again = trained(name, Eager(tmp_path / "c"), other)
    assert_same(again, trained(name, options=other))
    assert "is of another run" in caplog.text


def test_another_network_with_weights_of_the_same_shapes_is_another_run(tmp_path, caplog):
    def smooth(checkpoint=None):
        algorithm = arm("mf")
        for block in algorithm.model.blocks:
            block.relu = torch.nn.Tanh()
        how = {"stopping": Stopping(patience=3), "progress": False, "seed": 1, "checkpoint": checkpoint}
        history = train(algorithm, toy(n=40, shape=SHAPE), **for_epochs(algorithm, 5), **how)
        return weights(algorithm), history

    killed(tmp_path / "c", 2)
    with caplog.at_level(logging.WARNING, "bpfree"):
        assert_same(smooth(Eager(tmp_path / "c")), smooth())
    assert "is of another run" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "torn", "garbage", "no header", "JSON"])
def test_what_cannot_be_read_is_passed_over_in_one_line(damage, tmp_path, caplog):
    path = tmp_path / "c"
    killed(path, 5)
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "torn": whole[: len(whole) // 2],
        "garbage": b"\xff" * len(whole),
        "no header": disk.safetensors({"a": torch.zeros(1)}),
        "JSON": disk.safetensors({}, {"bpfree": "{"}),
    }[damage]
    path.write_bytes(content)
    checkpoint = Eager(path)
    with caplog.at_level(logging.WARNING, "bpfree"):
        assert_same(trained(checkpoint=checkpoint), trained())
    (line,) = caplog.messages
    assert "passed over" in line
    assert "\n" not in line
    assert checkpoint.resumed == 0


# ---------------------------------------------------------------- a disk that refuses


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_is_said_in_one_line_and_what_was_written_stays(where, tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "c"
    killed(path, 3)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(StorageFailed) as raised:
            trained(checkpoint=Eager(path))
    for said in (str(path), "No space left on device", "make room", "BPFREE_STORE", "unharmed"):
        assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["c"]
    assert_same(trained(checkpoint=Eager(path)), trained())


def test_ctrl_c_while_it_is_written_keeps_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "c"
    killed(path, 3)
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=Eager(path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


# ---------------------------------------------------------------- damaged and foreign files


def opened(path):
    """The scalars and tensors of a checkpoint, as a reader of safetensors sees them."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["bpfree"]), {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def midway(tmp_path_factory):
    """A run, and the file of its seventh checkpoint, in the middle of its second stage."""
    path = tmp_path_factory.mktemp("midway") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        killed(path, 7)
    scalars, _ = opened(path)
    assert len(scalars["stages"]) == 2
    assert 0 < scalars["best"] < len(scalars["stages"][-1]["rows"])  # whose weights are kept
    return trained(), path


def assert_trained_again(path, through, caplog, **how):
    """From the beginning, to the same bits, with one line in the log."""
    caplog.clear()
    checkpoint = Eager(path)
    with caplog.at_level(logging.WARNING, "bpfree"):
        assert_same(trained(checkpoint=checkpoint, **how), through)
    (line,) = caplog.messages
    assert "passed over" in line
    assert "\n" not in line
    assert checkpoint.resumed == 0


OTHERS = {
    "another network": {"options": {"widths": [64, 9, 8, 5]}},
    "another stage": {"options": {"input_projection": True}},
    "other parameters in a stage": {"name": "mf_sequential_joint"},
    "another optimiser": {"options": {"optimiser": "sgd"}},
    "another stop rule": {"stopping": Stopping(patience=3, restore="last")},
    "another algorithm": {"name": "mf_interleaved"},
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_run_of_the_same_name_that_trains_something_else_begins_anew(change, midway, tmp_path, caplog):
    shutil.copy(midway[1], tmp_path / "c")
    assert_trained_again(tmp_path / "c", trained(**OTHERS[change]), caplog, **OTHERS[change])


FOREIGN = {
    "no checksum": lambda scalars, tensors: disk.safetensors(tensors, {"bpfree": json.dumps(scalars)}),
    "a newer version": lambda scalars, tensors: sealed(
        {**scalars, "of": {**scalars["of"], "format": module.CHECKPOINT_FORMAT + 1}}, tensors
    ),
    "no such scalars": lambda scalars, tensors: sealed([scalars], tensors),
}


def sealed(scalars, tensors) -> bytes:
    """A file with whatever content, and the checksum of that content."""
    text = json.dumps(scalars)
    return disk.safetensors(tensors, {"bpfree": text, "sha256": module.checksum(text, tensors)})


@pytest.mark.parametrize("change", FOREIGN)
def test_a_file_of_another_form_is_passed_over(change, midway, tmp_path, caplog):
    through, path = midway
    (tmp_path / "c").write_bytes(FOREIGN[change](*opened(path)))
    assert_trained_again(tmp_path / "c", through, caplog)


def damages(whole: bytes, seed: int):
    """Ten sorts of damage to the bytes of a file, drawn from the seed."""
    draw = random.Random(seed)
    place, other = sorted(draw.sample(range(len(whole)), 2))
    yield "cut", whole[:place]
    yield "zeros", whole[:place] + bytes(other - place) + whole[other:]
    yield "garbage", whole[:place] + draw.randbytes(other - place) + whole[other:]
    yield "a bit", whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
    yield "a byte", whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :]
    end = len(whole) - 1 - draw.randrange(min(4000, len(whole)))
    yield "a bit of a number", whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]
    yield "something more", whole + draw.randbytes(draw.randrange(1, 99))
    yield "something left out", whole[:place] + whole[other:]
    yield "all garbage", draw.randbytes(len(whole))
    yield "all zeros", bytes(len(whole))


def test_whatever_bytes_are_damaged_the_outcome_is_that_of_an_undisturbed_run(midway, tmp_path, caplog):
    """What is passed over is the same whatever stands in it, so that only the reading is tried each time."""
    through, path = midway
    whole = path.read_bytes()
    for seed in range(20):
        for sort, content in damages(whole, seed):
            (tmp_path / "c").write_bytes(content)
            caplog.clear()
            algorithm = arm("mf")
            algorithm.initialise(1)
            before, checkpoint, history = (
                weights(algorithm),
                Checkpoint(tmp_path / "c", "a run"),
                History("mf", 1),
            )
            with caplog.at_level(logging.WARNING, "bpfree"):
                checkpoint.load(algorithm, history)
            assert len(caplog.messages) == 1, (sort, seed)
            assert "passed over" in caplog.text
            assert same(before, weights(algorithm)), (sort, seed)
            assert (history.stages, checkpoint.resumed) == ([], 0), (sort, seed)
        if seed < 1:
            for sort, content in damages(whole, seed):
                (tmp_path / sort).write_bytes(content)
                assert_trained_again(tmp_path / sort, through, caplog)


def test_a_folder_in_its_place_is_passed_over(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)  # so that nothing is written
    (tmp_path / "c").mkdir()
    with caplog.at_level(logging.WARNING, "bpfree"):
        assert_same(trained(checkpoint=Checkpoint(tmp_path / "c", "a run")), trained())
    (line,) = caplog.messages
    assert "passed over" in line
    Checkpoint(tmp_path / "c").remove()
