"""On an NVIDIA GPU: the same bits whichever way, the CPU's numbers but for rounding, and joules that agree.

Skipped where there is none. Everything else is tested on the CPU, whatever the machine has.
"""

import time
from dataclasses import replace

import pytest
import torch
from helpers import Eager, for_epochs, same, weights

import bpfree
from bpfree.algorithms import ARMS
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.energy import EnergyMeter
from bpfree.errors import InvalidInput
from bpfree.training import Augmentation
from bpfree.training.clock import Clock
from bpfree.training.history import OUTCOME
from bpfree.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def data():
    return bpfree.load("digits")


def trained(name, data, device="cuda", options=(), seed=1, **how):
    """An arm's weights, on the CPU, and its history, after three epochs a stage."""
    convolutional = name.startswith("cafo")
    network = CaFoCNN(data.shape, classes=10) if convolutional else MLP([64, 300, 200], classes=10)
    algorithm = ARMS[name].make(network, **dict(options))
    how |= for_epochs(algorithm, 3)
    history = train(algorithm, data, seed=seed, device=device, progress=False, **how)
    return {key: value.cpu() for key, value in weights(algorithm).items()}, history


def outcome(history):
    return history.frame()[list(OUTCOME)]


@pytest.mark.parametrize("name", ARMS)
def test_again_uncached_and_resumed_runs_have_the_same_bits(name, data, tmp_path):
    first, _ = trained(name, data)
    assert same(first, trained(name, data)[0])
    assert same(first, trained(name, data, cache=False)[0])
    with pytest.raises(KeyboardInterrupt):
        trained(name, data, checkpoint=Eager(tmp_path / "c", dies_after=2))
    assert same(first, trained(name, data, checkpoint=Eager(tmp_path / "c"))[0])


OPTIONS = [
    *((name, {}) for name in ARMS),
    *((name, {"optimiser": "sgd", "lr_schedule": "step"}) for name in ("bp", "mf", "cafo_dfa")),
    *((name, {"optimiser": "adam", "weight_decay": 0.1, "lr_schedule": "cooldown"}) for name in ("bp", "mf")),
    *((name, {"lr_schedule": "linear"}) for name in ("bp", "mf", "ff", "ff_sgd")),
    *((name, {"lr_schedule": "cosine"}) for name in ("bp_freeze", "mf_overlapped")),
    ("ff", {"negatives": "hard", "lr_schedule": "cooldown"}),
    ("ff", {"negatives": "hybrid", "predict_by": "softmax"}),
    ("ff", {"predict_by": "softmax", "passes": 1}),
    ("cafo_rand", {"loss": "sparsemax"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_learns_what_called_operations_learn(name, options, precision, data):
    how = {"options": options, "precision": precision}
    (called, first), (replayed, second) = (
        trained(name, data, executor=kind, **how) for kind in ("eager", "graph")
    )
    assert outcome(first).equals(outcome(second))
    assert same(called, replayed)
    assert {s.executor for s in second.stages if s.ended != "solved"} <= {"graph"}


@pytest.mark.parametrize(
    "name", ["bp", "bp_freeze", "mf", "mf_overlapped", "mf_sequential_joint", "ff", "cafo_dfa"]
)
def test_so_it_does_on_augmented_images_and_where_it_is_resumed(name, data, tmp_path):
    data = replace(data, augment=Augmentation(pad=1))
    called, _ = trained(name, data, executor="eager")
    replayed, history = trained(name, data, executor="graph")
    assert same(called, replayed)
    if name == "mf":  # whose prefix is recomputed in a graph of its own
        assert (history.frame().query("stage != 'layer 1'")["prefix_s"] > 0).all()
    with pytest.raises(KeyboardInterrupt):
        trained(name, data, executor="eager", checkpoint=Eager(tmp_path / "c", dies_after=2))
    assert same(called, trained(name, data, executor="graph", checkpoint=Eager(tmp_path / "c"))[0])


class Looking(bpfree.Backprop):
    """Reads the value of its loss, as no captured step may; its first step, a rehearsal, is slow."""

    slow_s = 0.2

    def losses(self, x, labels, chance):
        time.sleep(self.slow_s)
        self.slow_s = 0.0
        (loss,) = super().losses(x, labels, chance)
        if loss.item() > -1:
            yield loss


def test_a_step_that_cannot_be_captured_is_called(data, caplog):
    def looking(**how):
        algorithm = Looking(MLP([64, 300, 200], classes=10))
        history = train(algorithm, data, seed=1, max_epochs=3, device="cuda", progress=False, **how)
        return {key: value.cpu() for key, value in weights(algorithm).items()}, history

    found, history = looking()
    assert history.stages[0].executor == "eager"
    assert "cannot be captured" in caplog.text
    assert history.stages[0].rows[0]["train_s"] > Looking.slow_s  # what the attempt took is billed
    assert same(found, trained("bp", data)[0])
    with pytest.raises(InvalidInput, match="cannot be captured"):
        looking(executor="graph")
    assert same(trained("bp", data)[0], found)  # and the device is as it was


@pytest.mark.parametrize("name", ARMS)
def test_it_learns_what_the_cpu_learns(name, data):
    (_, here), (_, there) = trained(name, data), trained(name, data, device="cpu")
    for metric in ("train_loss", "val_loss"):
        torch.testing.assert_close(
            torch.tensor(here.frame()[metric].dropna().to_numpy(float)),
            torch.tensor(there.frame()[metric].dropna().to_numpy(float)),
            rtol=0.05,
            atol=0.02,
        )


def test_runs_side_by_side_have_the_bits_that_they_have_alone(tmp_path):
    arms = ["bp", "mf", "ff", "mf_interleaved"] * 2
    how = {"architecture": "300-200", "max_epochs": 5, "device": "cuda"}
    runs = [bpfree.Experiment(name, "digits", seed=k, **how) for k, name in enumerate(arms)]
    alone = bpfree.run_many(runs, tmp_path / "alone", progress=False)
    together = bpfree.run_many(runs, tmp_path / "together", progress=False, at_once=8)
    for one, other in zip(alone, together, strict=True):
        assert {s["executor"] for s in other.stages} == {"graph"}
        assert one.history.equals(other.history)
        assert same(one.weights(), other.weights())
        assert other.contended


def test_prefix_work_is_timed_by_the_device():
    device = torch.device("cuda")
    row, clock, x = {}, Clock(device), torch.randn(4096, 4096, device=device)
    with clock.region(row, "train"):
        with clock.prefix_work():
            for _ in range(20):
                x = x @ x.sign() / 4096
        x.sum()
    assert row["prefix_s"] > 0.5 * (row["prefix_s"] + row["train_s"])


def test_counter_and_power_agree_on_steady_work():
    x = torch.randn(4096, 4096, device="cuda")
    with EnergyMeter(sources=["nvml-counter", "nvml-power"], hz=10) as meter:
        end = time.perf_counter() + 4
        while time.perf_counter() < end:
            for _ in range(10):
                x @ x
            torch.cuda.synchronize()
    counter, power = meter.reading.values
    assert (counter.status, power.status, power.primary) == ("measured", "measured", False)
    assert power.joules == pytest.approx(counter.joules, rel=0.1)
    assert counter.low <= power.joules <= counter.high or power.low <= counter.joules <= power.high
