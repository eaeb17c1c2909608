"""Regions of seconds and joules add up, and prefix work goes to its own account."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers import ScriptedMeter, arm, toy

import bpfree.experiments.runner
from bpfree.errors import InvalidInput
from bpfree.training import executor
from bpfree.training.clock import Clock
from bpfree.training.loop import train
from bpfree.training.stopping import Budget

CPU = torch.device("cpu")


@pytest.fixture
def hand(monkeypatch):
    """The clock's time, moved by hand: `hand.now += 2.0`."""
    moved = SimpleNamespace(now=100.0)
    monkeypatch.setattr("bpfree.training.clock.time", SimpleNamespace(perf_counter=lambda: moved.now))
    return moved


def test_a_region_adds_its_seconds_and_joules_to_the_row(hand):
    row, clock = {}, Clock(CPU, ScriptedMeter((6.0, 8.0), (1.0, 2.0)))
    for seconds in (2.0, 3.0):
        with clock.region(row, "train"):
            hand.now += seconds
        hand.now += 50.0  # outside any region
    assert row == {"train_s": 5.0, "train_measured_j": 7.0, "train_estimated_j": 10.0}
    assert clock.provenance == "scripted"
    assert clock.meter.names == ["train", "train"]


def test_a_capture_that_fails_is_billed(hand, monkeypatch):
    """As if this were a GPU, on which the operations are called one by one after the failure."""

    def failing(*_):
        hand.now += 3.0
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(executor, "Replayed", failing)
    monkeypatch.setattr(executor, "Called", lambda *_: "called")
    lies, row = SimpleNamespace(device=torch.device("cuda")), {}
    source = SimpleNamespace(cache=lies, train=lies, clock=Clock(CPU, ScriptedMeter((6.0, 1.0))))
    what = None, SimpleNamespace(name="network"), source
    assert executor.make_executor("auto", row, *what) == "called"
    assert row == {"train_s": 3.0, "train_measured_j": 6.0, "train_estimated_j": 1.0}
    with pytest.raises(InvalidInput, match="cannot be captured"):
        executor.make_executor("graph", row, *what)


class Late:
    """A window whose joules are known from `settle()` on, or from when `settled` is set."""

    def __init__(self, joules: float, before=()):
        self.joules, self.settled, self.before = joules, False, before

    @property
    def reading(self):
        known = self.joules if self.settled else None
        return SimpleNamespace(measured_j=known, estimated_j=1.0, provenance="late" if known else "lacking")

    def settle(self):
        """With it, as a meter does, all that came before."""
        for window in self.before:
            window.settled = True
        self.settled = True


def test_joules_that_a_sensor_shows_later_enter_the_row_they_belong_to(hand):
    windows = [Late(6.0), Late(0.2), Late(7.0)]
    left = list(windows)
    clock = Clock(CPU, SimpleNamespace(window=lambda name: nullcontext(left.pop(0))))
    first, second = {"epoch": 1}, {}
    for row, name in ((first, "train"), (first, "val")):
        with clock.region(row, name):
            hand.now += 2.0
    assert first == {
        "epoch": 1,
        "train_s": 2.0,
        "val_s": 2.0,
        "train_estimated_j": 1.0,
        "val_estimated_j": 1.0,
    }
    assert clock.provenance == "lacking"
    windows[0].settled = windows[1].settled = True  # as by the sampler, meanwhile
    with clock.region(second, "train"):
        hand.now += 2.0
    assert (first["train_measured_j"], first["val_measured_j"]) == (6.0, 0.2)
    assert "train_measured_j" not in second
    clock.settle()
    assert second["train_measured_j"] == 7.0
    assert clock.provenance == "late"


def test_rows_wait_for_a_slow_sensor_however_many_they_are_and_are_read_once_it_moved(hand):
    """Epochs of a millisecond, a sensor of ten updates a second: a hundred rows wait for one update."""
    reads = []

    class Counted(Late):
        @property
        def reading(self):
            reads.append(self)
            return super().reading

    windows = [Counted(0.5) for _ in range(101)]
    left = list(windows)
    clock = Clock(CPU, SimpleNamespace(window=lambda name: nullcontext(left.pop(0))))
    rows = [{} for _ in range(101)]
    for row in rows[:100]:
        with clock.region(row, "train"):
            hand.now += 0.001
    assert len(reads) == 100  # one that waits is not read again each time
    for window in windows:
        window.settled = True
    with clock.region(rows[100], "train"):
        hand.now += 0.001
    assert all(row["train_measured_j"] == 0.5 for row in rows)


def test_the_last_rows_of_training_are_settled(monkeypatch):
    made = []

    def window(name):
        made.append(Late(0.5, list(made)))
        return nullcontext(made[-1])

    history = train(arm("bp"), toy(), max_epochs=3, meter=SimpleNamespace(window=window), progress=False)
    assert all(one.settled for one in made)
    assert history.total("measured_j") == pytest.approx(0.5 * len(made))
    budget = Budget("measured_j", 2.1)  # a window for the prefix, and two for each epoch
    history = train(arm("bp"), toy(), budget=budget, meter=SimpleNamespace(window=window), progress=False)
    assert history.epochs == 2


def test_the_time_that_the_meter_takes_to_look_is_not_the_regions(hand):
    class Slow(ScriptedMeter):
        @contextmanager
        def window(self, name):
            hand.now += 7.0
            with super().window(name) as opened:
                yield opened
                hand.now += 7.0

    row, clock = {}, Clock(CPU, Slow((6.0, 8.0)))
    with clock.region(row, "train"):
        hand.now += 2.0
    assert row["train_s"] == 2.0


def test_prefix_work_is_moved_with_its_share_of_the_joules(hand):
    row, clock = {"prefix_s": 0.5, "prefix_measured_j": 1.0}, Clock(CPU, ScriptedMeter((40.0, 80.0)))
    row["prefix_estimated_j"] = 2.0
    with clock.region(row, "train"):
        hand.now += 5.0
        for _ in range(3):
            with clock.prefix_work():
                hand.now += 1.0
    # 8 seconds in all, 3 of them in the prefix
    expected = {"train_s": 5.0, "train_measured_j": 25.0, "train_estimated_j": 50.0}
    expected |= {"prefix_s": 3.5, "prefix_measured_j": 16.0, "prefix_estimated_j": 32.0}
    assert row == pytest.approx(expected)


def test_prefix_work_of_one_region_is_not_charged_to_the_next(hand):
    row, clock = {}, Clock(CPU)
    with clock.region(row, "train"), clock.prefix_work():
        hand.now += 1.0
    with clock.region(row, "val"):
        hand.now += 2.0
    assert row == {"train_s": 0.0, "prefix_s": 1.0, "val_s": 2.0}


@pytest.mark.parametrize(
    ("meter", "keys"),
    [
        (None, {"val_s"}),
        (ScriptedMeter((None, 3.0)), {"val_s", "val_estimated_j"}),
        (ScriptedMeter((3.0, None)), {"val_s", "val_measured_j"}),
    ],
)
def test_joules_that_nobody_read_are_absent_and_not_zero(meter, keys):
    row = {}
    with Clock(CPU, meter).region(row, "val"):
        pass
    assert row.keys() == keys


@pytest.mark.parametrize("readings", [[(6.0, 8.0), (None, 2.0)], [(None, 8.0), (6.0, 2.0)]])
def test_joules_that_lack_a_part_are_absent_and_not_less(hand, readings):
    row, clock = {}, Clock(CPU, ScriptedMeter(*readings))
    for _ in range(2):
        with clock.region(row, "train"):
            hand.now += 2.0
    assert row == {"train_s": 4.0, "train_estimated_j": 10.0}


def test_prefix_joules_lack_what_a_region_with_a_share_of_it_lacks(hand):
    row, clock = {}, Clock(CPU, ScriptedMeter((1.0, 1.0), (None, 4.0), (5.0, 5.0)))
    with clock.region(row, "prefix"):
        hand.now += 1.0
    with clock.region(row, "train"), clock.prefix_work():
        hand.now += 2.0
    with clock.region(row, "val"):
        hand.now += 3.0
    assert {k: v for k, v in row.items() if k.endswith("measured_j")} == {"val_measured_j": 5.0}
    assert row["prefix_estimated_j"] == 5.0


def test_one_region_without_joules_leaves_no_total_and_says_so():
    """A sensor is lost in the second epoch and comes back: 5 windows, of which the fourth lacks it."""

    class Losing(ScriptedMeter):
        @contextmanager
        def window(self, name):
            with super().window(name) as opened:
                yield opened
            lost = len(self.names) == 4
            opened.reading.provenance = "incomplete" if lost else "measured"

    meter = Losing((1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (None, 8.0), (16.0, 16.0))
    history = train(arm("bp"), toy(), max_epochs=2, meter=meter, progress=False)
    assert meter.names == ["prefix", "train", "val", "train", "val"]
    assert history.total("measured_j") is None
    assert history.total("measured_j", ("train",)) is None
    assert history.total("measured_j", ("val",)) == 20.0
    assert history.total("estimated_j") == 31.0
    assert history.provenance == "incomplete"
    totals = bpfree.experiments.runner.totals(history)
    assert {"train_measured_j", "total_measured_j"}.isdisjoint(totals)
    assert totals["val_measured_j"] == 20.0
    assert history.frame()["train_measured_j"].isna().tolist() == [False, True]


def test_every_epoch_has_its_regions_and_the_totals_are_their_sums():
    # Three stages: each opens a window for its prefix and two an epoch.
    meter = ScriptedMeter((2.0, 4.0))
    history = train(arm("mf"), toy(), max_epochs=2, meter=meter, progress=False)
    assert meter.names == 3 * ["prefix", "train", "val", "train", "val"]
    assert history.provenance == "scripted"
    assert history.total("measured_j") == pytest.approx(15 * 2.0)
    assert history.total("estimated_j") == pytest.approx(15 * 4.0)
    assert history.total("measured_j", ("val",)) == pytest.approx(6 * 2.0)
    frame = history.frame()
    assert history.total("s") == pytest.approx(frame[["prefix_s", "train_s", "val_s"]].sum().sum())
    # A cached prefix is paid once, in the stage's first row.
    assert frame["prefix_s"].notna().tolist() == 3 * [True, False]


def test_a_recomputed_prefix_is_paid_in_every_epoch():
    meter = ScriptedMeter((2.0, 4.0))
    history = train(arm("mf"), toy(), max_epochs=2, cache=False, meter=meter, progress=False)
    frame = history.frame()
    assert (frame.loc[frame["stage"] != "layer 1", ["prefix_s", "prefix_measured_j"]] > 0).all(axis=None)
    assert history.total("measured_j") == pytest.approx(15 * 2.0)  # moved, not added
    assert history.total("measured_j", ("train",)) < 6 * 2.0


def test_without_a_meter_there_are_seconds_and_no_joules():
    history = train(arm("bp"), toy(), max_epochs=1, progress=False)
    assert history.total("s") > 0
    assert history.total("measured_j") is None
    assert history.provenance is None
    assert history.frame()["train_measured_j"].isna().all()
