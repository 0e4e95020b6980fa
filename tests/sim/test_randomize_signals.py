"""Late, lost and noisy commands and readings, against sequences worked out by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sim.randomize_signals import Channel, step_normals, step_uniform

ROW = np.array([0])


def channel(longest: float = 0.0, worlds: int = 1, width: int = 1, high: float = np.inf, **can: bool) -> Channel:
    able = {"noisy": False, "losing": False, "biased": False, **can}
    return Channel(worlds, width, np.full(width, -high), np.full(width, high), longest, **able, dtype="float64")


def begin(one: Channel, key: int = 5, delay: float = 0.0, noise: float = 0.0, dropout: float = 0.0, bias: float = 0.0) -> Channel:
    each = np.ones(len(one.lost))
    one.begin(np.arange(len(each)), key + np.arange(len(each)), delay * each, noise * each, dropout * each, bias * each[:, None])
    return one


def through(one: Channel, values: list[float], command: bool = False, before: bool = False) -> list[float]:
    """Return what arrives of one world's values."""
    if command:
        return [float(one.send(ROW, np.array([[v]]), np.array([before]))[0, 0]) for v in values]
    return [float(one.read(ROW, np.array([[v]]))[0, 0]) for v in values]


def test_a_reading_that_is_a_step_and_a_quarter_late_lies_between_two() -> None:
    late = begin(channel(longest=3.0), delay=1.25)
    # 0.75 of the reading one step ago and 0.25 of the one before; before the first there was the first
    assert through(late, [8.0, 16.0, 0.0, 4.0]) == [8.0, 8.0, 0.75 * 16 + 0.25 * 8, 0.75 * 0 + 0.25 * 16]


def test_a_delayed_command_acts_with_its_mean_over_the_step() -> None:
    effort = begin(channel(longest=2.0), delay=0.5)
    assert through(effort, [1.0, 1.0, 3.0], command=True, before=True) == [0.5, 1.0, 2.0]  # efforts were zero before
    target = begin(channel(longest=2.0), delay=2.0)
    assert through(target, [1.0, 2.0, 3.0, 4.0], command=True) == [1.0, 1.0, 1.0, 2.0]  # targets hold what was asked first


def test_without_delay_nothing_changes() -> None:
    values = [0.1, -0.7, 1e-9, 3.0]
    assert through(begin(channel(longest=4.0)), values) == values
    assert through(begin(channel(noisy=True, losing=True, biased=True)), values, command=True) == values


def test_a_lost_reading_repeats_the_last_and_is_counted() -> None:
    chance, key = 0.4, 21
    one, values = begin(channel(losing=True), key, dropout=chance), [float(v) for v in range(200)]
    got = through(one, values)
    lost = [bool(step_uniform(np.array([key]), np.array([t]))[0] < chance) and t > 0 for t in range(200)]
    expected, last = [], 0.0
    for t, value in enumerate(values):
        last = last if lost[t] else value
        expected.append(last)
    assert got == expected and one.lost.tolist() == [sum(lost)]
    assert abs(sum(lost) - 200 * chance) < 4 * np.sqrt(200 * chance * (1 - chance))
    begin(one, key)
    assert one.lost.tolist() == [0]


def test_every_reading_lost_means_the_first_for_ever() -> None:
    assert through(begin(channel(losing=True), dropout=1.0), [3.0, 4.0, 5.0]) == [3.0, 3.0, 3.0]


def test_noise_is_white_and_bias_constant() -> None:
    one = begin(channel(noisy=True, biased=True, worlds=40, width=3), noise=0.5, bias=2.0)
    rows = np.arange(40)
    got = np.stack([one.read(rows, np.zeros((40, 3))) for _ in range(100)])  # (T, N, D)
    assert stats.kstest(got.ravel(), stats.norm(2.0, 0.5).cdf).pvalue > 0.01
    for a, b in ((got[:-1], got[1:]), (got[:, :-1], got[:, 1:]), (got[..., :-1], got[..., 1:])):  # along time, worlds, elements
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(a.size)


def test_noise_ends_at_the_limits() -> None:
    got = through(begin(channel(noisy=True, high=1.0), noise=5.0), [0.0] * 50, command=True)
    assert max(got) == 1.0 and min(got) == -1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**62), st.integers(0, 1000), st.integers(1, 9))
def test_a_row_of_noise_is_its_own_affair(key: int, step: int, count: int) -> None:
    alone = step_normals(np.array([key]), np.array([step]), count)
    among = step_normals(np.array([1, key, 7]), np.array([3, step, step]), count)
    np.testing.assert_array_equal(among[1], alone[0])
    assert np.isfinite(alone).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 3), st.lists(st.floats(-9, 9), min_size=1, max_size=12))
def test_delays_are_a_shift_with_linear_interpolation(delay: float, values: list[float]) -> None:
    got = through(begin(channel(longest=3.0), delay=delay), values)
    at = np.arange(len(values)) - delay
    np.testing.assert_allclose(got, np.interp(at, np.arange(len(values)), values), atol=1e-9)


def test_worlds_that_begin_at_different_times_do_not_mix() -> None:
    one = channel(longest=2.0, worlds=2)
    begin(one, delay=1.0)
    both = np.arange(2)
    one.read(both, np.array([[1.0], [10.0]]))
    one.read(both, np.array([[2.0], [20.0]]))
    one.begin(np.array([1]), np.array([9]), np.array([2.0]), np.zeros(1), np.zeros(1), np.zeros((1, 1)))
    assert one.read(both, np.array([[3.0], [30.0]])).ravel().tolist() == [2.0, 30.0]
    assert one.read(both, np.array([[4.0], [40.0]])).ravel().tolist() == [3.0, 30.0]
    assert one.read(np.array([1]), np.array([[50.0]])).ravel().tolist() == [30.0]
    assert one.read(both, np.array([[5.0], [60.0]])).ravel().tolist() == [4.0, 40.0]
