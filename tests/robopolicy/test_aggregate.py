"""Aggregates over a suite against scipy, hand-computed numbers and the definition of Agarwal et al. 2021."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.spec import InputError
from robopolicy.evaluation import aggregate, bootstrap


def runs(scores: dict[str, list[float]]) -> dict[str, list[np.ndarray]]:
    """Return runs of one episode each with these scores."""
    return {task: [np.array([score]) for score in values] for task, values in scores.items()}


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-10, 10)))
def test_iqm_is_scipys_trimmed_mean(values: np.ndarray) -> None:
    assert aggregate.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25), abs=1e-12)
    table = np.stack([values, values[::-1] * 2])
    np.testing.assert_allclose(aggregate.iqm(table), scipy.stats.trim_mean(table, 0.25, axis=1), atol=1e-12)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("sizes", [(17,), (4, 9, 6)])
def test_the_stratified_bootstrap_is_scipys(method: str, sizes: tuple[int, ...]) -> None:
    """Equal generators draw equal resamples, so the intervals are equal to rounding."""
    strata = [np.random.default_rng(i).gamma(2, 1 + i, n) for i, n in enumerate(sizes)]

    def statistic(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([p.mean(axis) for p in parts], axis=0)

    rng = np.random.default_rng(5)
    expected = scipy.stats.bootstrap(strata, statistic, n_resamples=999, method=method, rng=rng, vectorized=True, axis=-1)
    drawn = statistic(*bootstrap.resampled(strata, 999, np.random.default_rng(5)))
    value = float(statistic(*strata))
    if method == "percentile":
        ours = bootstrap.percentile(drawn, value)
        assert ours == bootstrap.stratified(strata, lambda parts: statistic(*parts), 999, rng=np.random.default_rng(5))
    else:
        k = len(strata)
        without = [value - s.mean() / k + (s.sum() - s) / (len(s) - 1) / k for s in strata]
        ours = bootstrap.bca(drawn, value, without)
    assert (ours.low, ours.high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-10)


def test_aggregates_are_scipys_over_runs_within_tasks() -> None:
    rng = np.random.default_rng(0)
    scores = {f"task {i}": rng.beta(2 + i, 3, 5).tolist() for i in range(6)}
    strata = [np.array(v) for v in scores.values()]
    found = aggregate.aggregates(runs(scores), resamples=2000, seed=3)
    flat = np.concatenate(strata)
    assert found["iqm"].value == pytest.approx(scipy.stats.trim_mean(flat, 0.25))
    assert found["mean"].value == pytest.approx(flat.mean()) and found["median"].value == pytest.approx(np.median([s.mean() for s in strata]))
    assert found["optimality_gap"].value == pytest.approx(np.maximum(1 - flat, 0).mean())

    def trimmed(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        return scipy.stats.trim_mean(np.concatenate(parts, axis=axis), 0.25, axis=axis)

    expected = scipy.stats.bootstrap(strata, trimmed, n_resamples=2000, method="percentile", rng=bootstrap.generator(3), vectorized=True, axis=-1)
    assert (found["iqm"].low, found["iqm"].high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-12)
    assert aggregate.aggregates(runs(scores), resamples=2000, seed=3) == found != aggregate.aggregates(runs(scores), resamples=2000, seed=4)


def test_one_run_a_task_is_resampled_by_its_episodes() -> None:
    """The mean over tasks of binomial rates has a known spread; runs of one task alone would give no interval at all."""
    rng = np.random.default_rng(1)
    single = {str(i): [(rng.random(200) < 0.3 + 0.1 * i).astype(float)] for i in range(5)}
    assert not aggregate.over_runs(single) and aggregate.over_runs({"a": [np.ones(1)] * 2})
    found = aggregate.aggregates(single)["mean"]
    rates = np.array([task[0].mean() for task in single.values()])
    deviation = np.sqrt((rates * (1 - rates) / 200).sum()) / 5
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)
    graded = {task: [run[0] * 0.999] for task, run in single.items()}  # no longer 0 and 1: drawn index by index
    other = aggregate.aggregates(graded)["mean"]
    assert other.high - other.low == pytest.approx(found.high - found.low, rel=0.06)


def test_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(2)
    first = {t: rng.integers(0, 6, 7).astype(float).tolist() for t in "abc"}
    second = {t: rng.integers(0, 5, 4).astype(float).tolist() for t in "abcd"}
    expected = np.mean([scipy.stats.mannwhitneyu(first[t], second[t]).statistic / 28 for t in "abc"])
    found = aggregate.improvement(runs(first), runs(second))
    assert found.value == pytest.approx(expected) and found.low < found.value < found.high
    mirrored = aggregate.improvement(runs({t: second[t] for t in "abc"}), runs(first))
    assert mirrored.value == pytest.approx(1 - expected)
    assert aggregate.improvement(runs({"a": [2.0, 3.0]}), runs({"a": [0.0, 1.0]})) == bootstrap.Estimate(1.0, 1.0, 1.0)


def test_performance_profiles_fall_from_one_to_zero() -> None:
    scores = {"a": [0.1, 0.5, 0.9], "b": [0.2, 0.6, 1.0]}
    found = aggregate.profile(runs(scores), np.array([0.0, 0.15, 0.55, 1.0]))
    assert found.share.tolist() == pytest.approx([1.0, 5 / 6, 0.5, 0.0])
    assert (found.low <= found.share).all() and (found.share <= found.high).all() and (np.diff(found.share) <= 0).all()
    assert found.low[0] == found.high[0] == 1.0


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=5))
def test_intervals_hold_any_scores(table: list[list[float]]) -> None:
    found = aggregate.aggregates(runs({str(i): row for i, row in enumerate(table)}), resamples=50)
    assert all(-1e-9 <= e.low <= e.high <= 1 + 1e-9 for e in found.values())


def test_nothing_to_aggregate_is_one_line() -> None:
    with pytest.raises(InputError, match="at least one task"):
        aggregate.aggregates({})
    with pytest.raises(InputError, match="share no task"):
        aggregate.improvement(runs({"a": [1.0]}), runs({"b": [1.0]}))
    with pytest.raises(InputError, match="finite"):
        bootstrap.resampled([np.array([np.nan])], 2, bootstrap.generator(0))
