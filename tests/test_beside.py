"""Runs side by side: each has the outcome that it has alone, and says that it shared the machine."""

import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch
from helpers import Eager

import bpfree
from bpfree.errors import InvalidInput
from bpfree.experiments import beside
from bpfree.experiments.beside import SideBySide
from bpfree.experiments.runner import needed
from bpfree.experiments.store import Store
from bpfree.training import Augmentation

CPU = torch.device("cpu")


def experiments(count=4, **how):
    small = {"architecture": "20-15", "max_epochs": 2, "device": "cpu", **how}
    arms = ["bp", "mf", "ff", "mf_interleaved"]
    return [bpfree.Experiment(arms[i % 4], "digits", seed=i // 4, **small) for i in range(count)]


def test_the_outcomes_are_those_of_each_alone(tmp_path):
    alone = bpfree.run_many(experiments(6), tmp_path / "alone", progress=False)
    together = bpfree.run_many(experiments(6), tmp_path / "together", progress=False, at_once=3)
    for one, other in zip(alone, together, strict=True):
        assert one.key == other.key
        assert one.metrics == other.metrics
        assert one.history.equals(other.history)
        assert all(torch.equal(v, other.weights()[k]) for k, v in one.weights().items())
        assert other.contended


def test_what_shares_a_reference_run_waits_for_it(tmp_path):
    runs = experiments(2, protocol="matched")
    records = bpfree.run_many([runs[1], *experiments(1), runs[1]], tmp_path, progress=False, at_once=3)
    assert [r.status for r in records] == ["finished"] * 3
    assert records[0].key == records[2].key
    assert bpfree.records(tmp_path)["key"].nunique() == 2


def test_an_error_of_one_stops_the_others_and_the_same_call_goes_on(tmp_path):
    begun = threading.Barrier(2)

    def attempt(experiment, go):
        begun.wait(timeout=60)
        if experiment.algorithm == "bp":
            raise InvalidInput("not this one")
        return go()

    long = {"max_epochs": 1000, "options": {"lr_schedule": "cooldown"}}  # which nothing cuts short
    two = [experiments(1)[0], experiments(2, **long)[1]]
    with pytest.raises(InvalidInput, match="not this one"):
        bpfree.run_many(two, tmp_path, progress=False, at_once=2, attempt=attempt)
    assert len(list(Store(tmp_path))) == 0  # the other did not come to its end
    assert len(bpfree.run_many(experiments(2), tmp_path, progress=False, at_once=2)) == 2


def test_a_run_waits_for_the_memory_that_it_needs(monkeypatch):
    monkeypatch.setattr(beside, "LOOK_S", 0.01)
    company, most, now, lock = SideBySide(8, free=lambda device: 100), [], [], threading.Lock()

    def task(need):
        with company.place(need, CPU):
            with lock:
                now.append(need)
                most.append(sum(now))
            time.sleep(0.02)
            with lock:
                now.remove(need)

    needs = [40, 40, 30, 20, 60, 10, 500]
    done = dict(company.each({i: lambda need=need: task(need) for i, need in enumerate(needs)}))
    assert sorted(done) == list(range(len(needs)))
    assert max(total for total in most if total != 500) <= 90
    assert 500 in most  # more than there is: it trains alone


def test_the_memory_that_a_run_needs_has_the_recomputed_features_of_all_validation_images():
    """A captured validation holds them all at once, since their prefix has a graph of its own."""
    digits, width, seen, held = bpfree.load("digits"), 777, [], []
    validated = {"x_val": digits.x_train, "y_val": digits.y_train}
    data = replace(digits, augment=Augmentation(pad=1), sha256="augmented", **validated)

    class Looking(bpfree.MonoForward):
        def stages(self):
            first, second = super().stages()
            plain = second.readout

            def readout(features):
                seen.append(weakref.ref(features))
                alive = [t.untyped_storage() for t in (ref() for ref in seen) if t is not None]
                held.append(sum({store.data_ptr(): store.nbytes() for store in alive}.values()))
                return plain(features)

            return [first, replace(second, readout=readout)]

    mf = Looking(bpfree.MLP([64, width, 3], classes=10))
    bpfree.train(mf, data, max_epochs=1, executor="graph", device="cpu", progress=False)
    resolved = bpfree.Experiment("mf", "digits", architecture=f"{width}-3", device="cpu").resolve(data)
    there = [t for t in vars(data).values() if isinstance(t, torch.Tensor)] + list(mf.parameters())
    assert max(held) >= 4 * width * len(data.x_val)
    assert needed(resolved, mf, data) > sum(t.nbytes for t in there) + max(held)


def test_what_shared_its_machine_before_it_was_interrupted_says_so(tmp_path):
    data, first, second = bpfree.load("digits"), Eager(tmp_path / "c", dies_after=1), Eager(tmp_path / "c")
    first.shared = True
    how = {"max_epochs": 3, "progress": False, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        bpfree.train(bpfree.Backprop(bpfree.MLP([64, 9], classes=10)), data, checkpoint=first, **how)
    bpfree.train(bpfree.Backprop(bpfree.MLP([64, 9], classes=10)), data, checkpoint=second, **how)
    assert (second.resumed, second.shared) == (1, True)


def test_ctrl_c_while_tasks_are_handed_out_stops_those_that_have_begun():
    company, stopped = SideBySide(2), []

    def task():
        while not stopped:
            try:
                company.go_on()
            except KeyboardInterrupt:
                stopped.append(True)
            time.sleep(0.01)

    class Tasks(dict):
        def items(self):
            yield from super().items()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(company.each(Tasks(one=task)))
    assert stopped


@pytest.mark.parametrize("count", [0, -1, 1.5, "two", 33])
def test_a_number_that_is_none_is_refused(count, tmp_path):
    with pytest.raises(InvalidInput, match="at_once"):
        bpfree.run_many([], tmp_path, at_once=count)
