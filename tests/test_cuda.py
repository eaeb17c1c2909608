"""On an NVIDIA GPU: the same bits whichever way, the CPU's numbers but for rounding, and joules that agree.

Skipped where there is none. Everything else is tested on the CPU, whatever the machine has.
"""

import time

import pytest
import torch
from helpers import Eager, same, weights

import bpfree
from bpfree.algorithms import ARMS
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.energy import EnergyMeter
from bpfree.training.clock import Clock
from bpfree.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def data():
    return bpfree.load("digits")


def trained(name, data, device="cuda", **how):
    """An arm's weights, on the CPU, and its history, after three epochs a stage."""
    convolutional = name.startswith("cafo")
    network = CaFoCNN(data.shape, classes=10) if convolutional else MLP([64, 300, 200], classes=10)
    algorithm = ARMS[name].make(network)
    history = train(algorithm, data, seed=1, max_epochs=3, device=device, progress=False, **how)
    return {key: value.cpu() for key, value in weights(algorithm).items()}, history.frame()


@pytest.mark.parametrize("name", ARMS)
def test_again_uncached_and_resumed_runs_have_the_same_bits(name, data, tmp_path):
    first, _ = trained(name, data)
    assert same(first, trained(name, data)[0])
    assert same(first, trained(name, data, cache=False)[0])
    with pytest.raises(KeyboardInterrupt):
        trained(name, data, checkpoint=Eager(tmp_path / "c", dies_after=2))
    assert same(first, trained(name, data, checkpoint=Eager(tmp_path / "c"))[0])


@pytest.mark.parametrize("name", [name for name in ARMS if not name.startswith("ff")])
def test_it_learns_what_the_cpu_learns(name, data):
    # Not so Forward-Forward: its negatives are drawn by the device's own generator.
    (_, here), (_, there) = trained(name, data), trained(name, data, device="cpu")
    for metric in ("train_loss", "val_loss"):
        torch.testing.assert_close(
            torch.tensor(here[metric].dropna().to_numpy(float)),
            torch.tensor(there[metric].dropna().to_numpy(float)),
            rtol=0.05,
            atol=0.02,
        )


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
