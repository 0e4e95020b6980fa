"""Median voting: one sensor of three that lies, freezes or says nothing moves the value by no more than the tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real.safety.voting import vote

lies = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 10))


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.lists(lies, min_size=4, max_size=4), st.integers(0, 2), st.integers(0, 99))
def test_one_liar_of_three_changes_nothing_beyond_the_tolerance(truth: list[float], lie: list[float], liar: int, seed: int) -> None:
    tolerance, true = 0.01, np.array(truth)
    readings = true + np.random.default_rng(seed).uniform(-tolerance / 2, tolerance / 2, (3, 4))
    readings[liar] = lie
    result = vote(readings, tolerance)
    assert (np.abs(result.value - true) <= tolerance).all()
    assert result.trusted.all()
    honest = np.delete(result.disagrees, liar, axis=0)
    assert not honest.any()
    far = ~(np.abs(np.array(lie) - true) <= 2 * tolerance)
    assert result.disagrees[liar][far].all()


def test_a_frozen_sensor_is_found_once_the_others_have_moved_on() -> None:
    found = []
    for step in range(50):
        true = np.array([0.01 * step])
        readings = np.stack([true, true + 0.002, np.zeros(1)])
        result = vote(readings, 0.02)
        assert abs(result.value[0] - true[0]) <= 0.002
        found.append(bool(result.disagrees[2, 0]))
    assert found[:2] == [False, False] and all(found[3:])


def test_by_hand() -> None:
    nan = np.nan
    result = vote(np.array([[1.0, nan, nan, 5.0], [2.0, 3.0, nan, 1.0], [9.0, 3.5, nan, 9.0]]), np.array([1.0, 0.1, 1.0, 0.5]))
    np.testing.assert_array_equal(result.value, [2.0, 3.0, nan, 5.0])
    np.testing.assert_array_equal(result.disagrees, [[False, True, True, False], [False, False, True, True], [True, True, True, True]])
    np.testing.assert_array_equal(result.trusted, [True, False, False, False])
    with pytest.raises(ValueError, match=r"\(S, n\)"):
        vote(np.zeros(3), 1.0)
