"""Two functions of known energy on a virtual GPU: their ratio, its interval, and when it ends."""

from __future__ import annotations

import math
import random
import sys

import pytest
from scipy.stats import t
from trial import Gpu

from bpfree.energy import compare
from bpfree.energy.compare import Ratio


class Bench(Gpu):
    """Draws 80 W, and more while it works; it warms up with a time constant of 20 s."""

    IDLE = 80.0

    def __init__(self, seed: int = 0, noise: float = 0.0):
        self.work: list[tuple[float, float, float]] = []  # begin, end, watts above idle
        self.done = 0.0  # joules above idle of finished work
        self.noise = noise
        super().__init__(self.drawn, random.Random(seed), now=5.0, celsius=self.warm, mhz=self.clocked)
        self.passes: list[str] = []

    def drawn(self, t: float) -> float:
        extra = 0.0
        for begin, end, watts in reversed(self.work[-60:]):
            extra += watts * (min(end, t) - begin) if t > begin else 0.0
        return self.IDLE * t + self.before + extra

    @property
    def before(self) -> float:
        """Of work that lies too far back to be looked at twice."""
        while len(self.work) > 60:
            begin, end, watts = self.work.pop(0)
            self.done += watts * (end - begin)
        return self.done

    def warm(self) -> float:
        return 30 + 40 * -math.expm1(-(self.now - 5) / 20)

    def clocked(self) -> float:
        return 1500 - self.warm()

    def function(self, name: str, seconds: float, watts: float, drift: float = 0.0):
        def work() -> None:
            self.passes.append(name)
            factor = math.exp(self.rng.gauss(0, self.noise)) * (1 + drift * self.now)
            self.work.append((self.now, self.now + seconds, watts * factor - self.IDLE))
            self.now += seconds

        return work

    def compare(self, a, b, **options):
        return compare(
            a, b, sources=["nvml-counter"], gpus=[0], hz=0, _clock=self.clock, _sleep=self.sleep, **options
        )


@pytest.fixture
def bench(monkeypatch):
    def make(**options) -> Bench:
        made = Bench(**options)
        monkeypatch.setitem(sys.modules, "pynvml", made.module())
        return made

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return make


def test_the_ratio_of_known_joules_lies_in_its_interval(bench):
    gpu = bench(noise=0.02)
    result = gpu.compare(gpu.function("bp", 0.31, 300.0), gpu.function("mf", 0.19, 240.0), names=("bp", "mf"))
    truth = 0.31 * 300 / (0.19 * 240)
    assert result.ratio().low <= truth <= result.ratio().high
    assert result.ratio().value == pytest.approx(truth, rel=0.02)
    assert result.of_a_pass() == (pytest.approx(0.31 * 300, rel=0.03), pytest.approx(0.19 * 240, rel=0.03))
    assert result.of_a_pass("seconds") == pytest.approx((0.31, 0.19), rel=0.01)
    assert result.ratio("seconds").value == pytest.approx(0.31 / 0.19, rel=0.01)
    assert result.converged
    assert result.ratio().error <= 0.01
    assert all(r.seconds >= 5.0 for readings in result.readings for r in readings)
    assert result.ratio("net_measured_j") is None  # no idle power was given
    shortest = min(r.seconds for r in result.readings[1])
    assert (
        f"({2 * result.rounds} windows of {shortest:.3g} s or more, {result.passes[1]} passes each)"
        in str(result)
    )
    assert f"joules, bp / mf: {result.ratio()}" in str(result)
    assert f"{result.rounds} rounds of A B B A; 95 % intervals" in str(result)


def test_net_joules_have_a_ratio_of_their_own(bench):
    gpu = bench(noise=0.01)
    work = gpu.function("bp", 0.3, 300.0), gpu.function("mf", 0.2, 240.0)
    result = gpu.compare(*work, idle_w={"gpu:0": Bench.IDLE})
    truth = 0.3 * 220 / (0.2 * 160)
    assert result.ratio("net_measured_j").value == pytest.approx(truth, rel=0.02)
    assert result.ratio().value == pytest.approx(0.3 * 300 / (0.2 * 240), rel=0.02)
    assert "joules, net, a / b" in str(result)


def test_intervals_of_many_comparisons_hold_the_truth(bench):
    held = 0
    for seed in range(20):
        gpu = bench(seed=seed, noise=0.2)
        result = gpu.compare(gpu.function("a", 0.7, 300.0), gpu.function("b", 0.6, 200.0), bound=0.02)
        truth = 0.7 * 300 / (0.6 * 200)
        held += result.ratio().low <= truth <= result.ratio().high
    assert held >= 17


def test_a_drift_that_is_linear_in_time_falls_out(bench):
    gpu = bench()
    drift = 0.002  # a third more after three minutes
    a, b = gpu.function("a", 0.5, 300.0, drift), gpu.function("b", 0.5, 200.0, drift)
    assert gpu.compare(a, b).ratio().value == pytest.approx(1.5, rel=0.01)


def test_windows_come_as_a_b_b_a_once_it_is_warm(bench):
    gpu = bench()
    result = gpu.compare(gpu.function("a", 6.0, 300.0), gpu.function("b", 6.0, 200.0))
    assert "".join(gpu.passes[-4 * result.rounds :]) == "abba" * result.rounds
    assert result.stable
    low, high = result.temperature_c
    assert 0 <= high - low <= 3
    assert high > 65
    assert result.clock_mhz[0] < 1440


def test_what_does_not_settle_is_said_to_have_met_the_cap(bench):
    gpu = bench(noise=0.3)
    a, b = gpu.function("a", 5.0, 300.0), gpu.function("b", 5.0, 300.0)
    result = gpu.compare(a, b, bound=1e-6, most_rounds=4)
    assert (result.rounds, result.converged) == (4, False)
    assert "cap was reached" in str(result)
    assert result.ratio().low < 1 < result.ratio().high


def test_without_a_sensor_there_are_seconds_only():
    result = compare(
        lambda: sum(range(2000)), lambda: sum(range(1000)), window_s=0.02, bound=0.5, sources=["estimate"]
    )
    assert result.ratio() is None
    assert result.of_a_pass() is None
    assert result.ratio("seconds").value > 1
    assert result.temperature_c is None
    assert "not measured" in str(result)


@pytest.mark.parametrize(
    "wrong", [{"bound": 0.0}, {"window_s": -1.0}, {"most_rounds": 2}, {"names": ("a", "a")}]
)
def test_wrong_settings_are_one_line(wrong):
    with pytest.raises(ValueError, match="give") as error:
        compare(lambda: None, lambda: None, **wrong)
    assert "\n" not in str(error.value)


def test_the_interval_is_students(bench):
    ratios = [1.1, 1.3, 1.2, 1.25]
    logs = [math.log(r) for r in ratios]
    mean = sum(logs) / 4
    half = t.ppf(0.975, 3) * math.sqrt(sum((x - mean) ** 2 for x in logs) / 3 / 4)
    found = Ratio.of(ratios)
    assert found.value == pytest.approx(math.exp(mean))
    assert (found.low, found.high) == (
        pytest.approx(math.exp(mean - half)),
        pytest.approx(math.exp(mean + half)),
    )
