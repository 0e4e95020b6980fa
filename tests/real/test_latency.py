"""Latency: quantiles against numpy's, memory that does not grow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real.latency import Latency


@given(st.lists(st.floats(2e-5, 10), min_size=1, max_size=300), st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]))
def test_histogram_quantile_is_at_most_ten_percent_high(values, q):
    latency = Latency()
    for value in values:
        latency.add(value)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert exact * (1 - 1e-9) <= latency.quantile(q) <= exact * 1.1 * (1 + 1e-9)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.floats(0, 1))
def test_recent_quantile_is_exact_over_the_window(values, q):
    latency = Latency(window=20)
    for value in values:
        latency.add(value)
    assert latency.recent_quantile(q) == pytest.approx(np.quantile(values[-20:], q, method="inverted_cdf"))


def test_empty_and_extreme():
    latency = Latency()
    assert latency.quantile(0.5) == latency.recent_quantile(0.5) == 0.0
    for value in (-1.0, 0.0, 1e9):
        latency.add(value)
    assert latency.count == 3 and latency.max_s == 1e9
    assert sum(n for _, n in latency.to_dict()["histogram"]) == 3
