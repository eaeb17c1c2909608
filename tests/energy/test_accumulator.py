"""Properties of the accumulators: additivity, wrap-around, nesting, and what must not be invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfree.energy.accumulator import Counter, Trapezoid
from conftest import advanced

SECOND = 1_000_000_000


class Tape:
    """A sensor that plays values back."""

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self):
        value = next(self.values)
        if isinstance(value, Exception):
            raise value
        return value


steps = st.lists(st.integers(1, 50_000_000), min_size=3, max_size=40)  # µJ per second: below 50 W
modulus = st.integers(10**8, 10**12)


@given(steps, modulus, st.data())
def test_energy_adds_up_exactly_and_windows_nest(deltas, size, data):
    offset = data.draw(st.integers(0, size - 1))
    raw, total = [offset], offset
    for delta in deltas:
        total += delta
        raw.append(total % size)
    counter = Counter(Tape(raw), 1e-6, size, max_power_w=60.0)
    marks = [advanced(counter, k * SECOND) for k in range(len(raw))]
    i, j, k = sorted(data.draw(st.tuples(*[st.integers(0, len(marks) - 1)] * 3)))
    energy = lambda a, b: marks[b].count - marks[a].count  # noqa: E731
    assert energy(i, j) + energy(j, k) == energy(i, k)
    assert energy(i, k) == sum(deltas[i:k])
    assert 0 <= energy(i, j) <= energy(i, k)  # a nested window holds no more


@given(steps, st.integers(10**8, 10**10), st.integers(0, 10**10), st.integers(0, 10**10))
def test_where_the_counter_stands_does_not_matter(deltas, size, first, second):
    def total(offset):
        raw = [offset % size]
        for delta in deltas:
            raw.append((raw[-1] + delta) % size)
        counter = Counter(Tape(raw), 1e-6, size, max_power_w=60.0)
        mark = [advanced(counter, k * SECOND) for k in range(len(raw))][-1]
        return mark.count, mark.faults

    assert total(first) == total(second) == (sum(deltas), 0)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**10)), min_size=3, max_size=30), st.data())
def test_sampled_power_adds_up_exactly(samples, data):
    trapezoid = Trapezoid(Tape([p for p, _ in samples]))
    now, marks = 0, []
    for _, elapsed in samples:
        now += elapsed
        marks.append(advanced(trapezoid, now))
    i, j, k = sorted(data.draw(st.tuples(*[st.integers(0, len(marks) - 1)] * 3)))
    assert (marks[j].count - marks[i].count) + (marks[k].count - marks[j].count) == marks[k].count - marks[
        i
    ].count
    expected = sum(
        (samples[n][0] + samples[n + 1][0]) / 2 * 1e-3 * samples[n + 1][1] * 1e-9 for n in range(i, k)
    )
    assert (marks[k].count - marks[i].count) * Trapezoid.unit_j == pytest.approx(expected, rel=1e-12)


def test_trapezoid_of_a_ramp_is_exact():
    trapezoid = Trapezoid(Tape([0, 10_000, 40_000]))  # 0, 10, 40 W at 0, 1, 4 s
    marks = [advanced(trapezoid, t * SECOND) for t in (0, 1, 4)]
    assert marks[-1].count * Trapezoid.unit_j == pytest.approx(80.0)
    # If power jumps anywhere between two samples, the error is at most this: 10/2·1 + 30/2·3 J.
    assert marks[-1].spread * Trapezoid.unit_j == pytest.approx(50.0)


def test_backwards_without_a_known_range_is_a_fault_and_adds_nothing():
    counter = Counter(Tape([1000, 5000, 300, 800]), 1e-3)
    marks = [advanced(counter, k * SECOND) for k in range(4)]
    assert [m.count for m in marks] == [0, 4000, 4000, 4500]
    assert [m.faults for m in marks] == [0, 0, 1, 1]


def test_a_reset_is_not_mistaken_for_a_wrap():
    """After suspend the counter starts at 0 again: unwrapped, that would be 262 kJ in a second."""
    counter = Counter(Tape([5_000_000, 1_000_000]), 1e-6, 262_143_328_850)
    marks = [advanced(counter, k * SECOND) for k in range(2)]
    assert marks[1].count == 0
    assert marks[1].faults == 1


def test_more_than_one_wrap_is_possible_and_therefore_marked():
    counter = Counter(Tape([0, 5_000_000]), 1e-6, 262_143_328_850, max_power_w=1000.0)
    advanced(counter, 0)
    assert advanced(counter, 262 * SECOND).faults == 0
    counter = Counter(Tape([0, 5_000_000]), 1e-6, 262_143_328_850, max_power_w=1000.0)
    advanced(counter, 0)
    assert advanced(counter, 263 * SECOND).faults == 1


@pytest.mark.parametrize("make", [lambda tape: Counter(tape, 1e-3), lambda tape: Trapezoid(tape)])
def test_a_failed_read_faults_every_window_that_touches_it(make):
    accumulator = make(Tape([1000, OSError("gone"), 3000, 4000, 5000]))
    marks = [advanced(accumulator, k * SECOND) for k in range(5)]
    faults = [m.faults for m in marks]
    assert faults[1] > faults[0]  # ends at the failure
    assert faults[2] > faults[1]  # begins at the failure
    assert faults[4] == faults[3] == faults[2]  # begins after it
    assert "OSError" in accumulator.fault


def test_a_counter_that_stands_still_longer_than_before_is_late_and_then_has_stopped():
    """Ten steps a tenth of a second apart, none for the time given, and one more."""

    def stood(seconds):
        begin, end = 1.0, 1.0 + seconds
        times = [k / 20 for k in range(round(20 * end) + 3)]
        shown = [round(min(t, begin) / 0.1 + 1e-9) + (t >= end) for t in times]
        counter = Counter(Tape(shown), 1e-3, hold_ns=SECOND // 10)
        mark = [advanced(counter, round(t * SECOND)) for t in times][-1]
        return mark.late_ns > 0, mark.faults > 0

    assert stood(0.1) == (False, False)
    assert stood(0.5) == (True, False)
    assert stood(2.0) == (True, True)


def test_a_late_sample_is_a_gap():
    trapezoid = Trapezoid(Tape([1000] * 3), gap_ns=SECOND)
    marks = [advanced(trapezoid, t) for t in (0, SECOND, 2 * SECOND + 1)]
    assert [m.late_ns for m in marks] == [0, 0, SECOND + 1]


def test_across_a_gap_power_may_have_been_the_least_or_the_most_ever_seen():
    """100, 500, 100, 100 W: the last after a gap of 3 s, in which there may have been 400 W more."""
    trapezoid = Trapezoid(Tape([100_000, 500_000, 100_000, 100_000]), gap_ns=SECOND)
    marks = [advanced(trapezoid, t * SECOND) for t in (0, 1, 2, 5)]
    assert (marks[2].spread - marks[0].spread) * Trapezoid.unit_j == pytest.approx(400.0)
    assert (marks[3].spread - marks[2].spread) * Trapezoid.unit_j == pytest.approx(400 * 3 / 2)
