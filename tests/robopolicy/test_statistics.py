"""Intervals and tests against scipy, closed forms and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.evaluation import seeds, statistics


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(n: int, fraction: float, confidence: float) -> None:
    k = round(n * fraction)
    expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert statistics.wilson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_at_the_ends() -> None:
    assert statistics.wilson(0, 10)[0] == 0.0 and statistics.wilson(10, 10)[1] == 1.0
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert statistics.wilson(0, 10)[1] == pytest.approx(z2 / (10 + z2), abs=1e-14)
    assert statistics.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 5), (1.5, 3)])
def test_wilson_refuses_what_is_no_count(k: int, n: int) -> None:
    with pytest.raises(InputError):
        statistics.wilson(k, n)


def test_wilson_refuses_a_confidence_outside_its_range() -> None:
    with pytest.raises(InputError, match="confidence"):
        statistics.wilson(1, 2, 95)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = scipy.stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert statistics.mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert statistics.mcnemar(5, 0) == 2 / 32  # 2 * (1/2)^5
    assert statistics.mcnemar(1, 4) == 2 * (1 + 5) / 32
    assert statistics.mcnemar(3, 3) == 1.0
    assert statistics.mcnemar(900, 700) == pytest.approx(scipy.stats.binomtest(900, 1600).pvalue, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60), st.floats(-0.95, 0.95))
def test_tangos_nuisance_parameter_is_the_constrained_maximum_likelihood(n: int, b: int, c: int, delta: float) -> None:
    b = min(b, n)
    c = min(c, n - b)

    def negative_log_likelihood(q: float) -> float:  # P(only second) = q, P(only first) = q + delta
        terms = [(b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta)]
        return -sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    best = scipy.optimize.minimize_scalar(negative_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
    ours = statistics._tango_q(n, b, c, delta)
    assert low - 1e-9 <= ours <= high + 1e-9
    assert negative_log_likelihood(min(max(ours, low), high)) <= best.fun + 1e-5


def test_paired_difference_closed_forms() -> None:
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    difference, low, high = statistics.paired_difference(20, 0, 0)  # no discordant pair: z^2 / (n + z^2)
    assert difference == 0 and high == pytest.approx(z2 / (20 + z2), abs=1e-12) and low == pytest.approx(-high, abs=1e-12)
    assert statistics.paired_difference(12, 12, 0)[2] == 1.0


@given(st.integers(1, 200), st.integers(0, 200), st.integers(0, 200))
def test_paired_difference_is_antisymmetric_and_holds_the_estimate(n: int, b: int, c: int) -> None:
    b = min(b, n)
    c = min(c, n - b)
    difference, low, high = statistics.paired_difference(n, b, c)
    assert -1 <= low <= difference <= high <= 1
    mirrored = statistics.paired_difference(n, c, b)
    assert mirrored == pytest.approx((-difference, -high, -low), abs=1e-9)
    # Tango's interval inverts the score test whose statistic at difference 0 is McNemar's (b - c) / sqrt(b + c).
    # Within rounding of the boundary either answer is right.
    score = (b - c) / math.sqrt(b + c) if b + c else 0.0
    if abs(abs(score) - scipy.stats.norm.ppf(0.975)) > 1e-6:
        assert (low > 0 or high < 0) == (abs(score) > scipy.stats.norm.ppf(0.975))


def test_paired_interval_covers_the_truth() -> None:
    """Coverage by summing the whole trinomial distribution, no simulation: n = 25, P(b) = 0.3, P(c) = 0.1."""
    n, pb, pc = 25, 0.3, 0.1
    covered = 0.0
    for b, c in itertools.product(range(n + 1), repeat=2):
        if b + c > n:
            continue
        _, low, high = statistics.paired_difference(n, b, c)
        if low <= pb - pc <= high:
            covered += scipy.stats.multinomial.pmf([b, c, n - b - c], n, [pb, pc, 1 - pb - pc])
    assert 0.93 < covered < 0.975


def test_runs_on_the_same_states_tell_as_much_as_their_states_differ() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(50) < 0.3
    assert statistics.over_states(one[None]) == pytest.approx((one.mean(), *statistics.wilson(int(one.sum()), 50)))
    assert statistics.over_states(np.array([one] * 3)) == pytest.approx((one.mean(), *statistics.wilson(int(one.sum()), 50))), "the same three times"
    assert statistics.over_states(np.ones((3, 50))) == pytest.approx((1.0, *statistics.wilson(50, 50)))
    hard = rng.beta(0.4, 0.4, (600, 50))  # every state has its own rate, 0.5 on average
    outcomes = rng.random((600, 3, 50)) < hard[:, None]
    covered = [low <= 0.5 <= high for _, low, high in map(statistics.over_states, outcomes)]
    pooled = [low <= 0.5 <= high for low, high in (statistics.wilson(int(x.sum()), 150) for x in outcomes)]
    assert 0.925 < np.mean(covered) < 0.98 and np.mean(pooled) < 0.87
    with pytest.raises(InputError, match="expected outcomes"):
        statistics.over_states(np.zeros((0, 5)))


def test_states_that_only_some_runs_were_tried_on_count_as_what_they_tell() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(100) < 0.6).astype(float)
    less = np.where(np.arange(100) < 99, one, np.nan)
    whole, nearly = statistics.over_states(np.array([one, one, one])), statistics.over_states(np.array([one, one, less]))
    assert nearly == pytest.approx(whole, abs=0.01), "one state fewer does not make three times the episodes"
    apart = np.full((2, 100), np.nan)
    apart[0, :50], apart[1, 50:] = one[:50], one[50:]
    assert statistics.over_states(apart) == pytest.approx((one.mean(), *statistics.wilson(int(one.sum()), 100)), abs=0.002), (
        "states of their own are so many episodes"
    )
    assert statistics.over_states(np.array([np.ones(50), [1.0] * 25 + [np.nan] * 25]))[1] == pytest.approx(statistics.wilson(45, 45)[0])
    found = []
    for _ in range(1000):  # two runs on states of which some are hard for both, one run on only a third of them
        hard = rng.beta(0.5, 0.5, 60)
        values = (rng.random((2, 60)) < hard).astype(float)
        values[1, 20:] = np.nan
        _, low, high = statistics.over_states(values)
        found.append(low <= 0.5 <= high)
    assert 0.93 < np.mean(found) < 0.98
    with pytest.raises(InputError, match="a state without"):
        statistics.over_states(np.full((2, 3), np.nan))


def test_a_p_value_is_never_nought() -> None:
    assert 0 < statistics.mcnemar(0, 5000) < 1e-300


def test_compare_counts_pairs() -> None:
    result = statistics.compare([True, True, False, False, True], [True, False, True, False, False])
    assert (result.n, result.both, result.first_only, result.second_only) == (5, 1, 2, 1)
    assert result.difference == pytest.approx(0.2) and result.p_value == 1.0
    with pytest.raises(InputError, match="same episodes"):
        statistics.compare([True], [True, False])


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_mean_of_several_runs_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, half = statistics.mean_interval(values, 0.9)
    expected = scipy.stats.t.interval(0.9, 4, loc=values.mean(0), scale=scipy.stats.sem(values))
    np.testing.assert_allclose((mean - half, mean + half), expected, rtol=1e-12)
    mean, half = statistics.mean_interval([2.0])
    assert mean == 2.0 and math.isnan(half)
    with pytest.raises(InputError, match="expected at least one, found none"):
        statistics.mean_interval([])


def test_seed_ranges_do_not_meet() -> None:
    assert (seeds.DEMONSTRATION, seeds.SELECTION, seeds.REPORT) == (0, 1_000_000, 2_000_000)
    for first, second in itertools.pairwise(seeds.Purpose):
        assert seeds.seeds(first, 1, seeds.SIZE - 1)[-1] < seeds.seeds(second, 1)[0]


@given(st.sampled_from(list(seeds.Purpose)), st.integers(-5, seeds.SIZE + 5), st.integers(-2, 50))
def test_every_seed_names_its_purpose(purpose: seeds.Purpose, offset: int, count: int) -> None:
    try:
        values = seeds.seeds(purpose, count, offset)
    except InputError:
        assert count < 1 or offset < 0 or offset + count > seeds.SIZE
        return
    assert values.dtype == np.int64 and len(values) == count and np.all(np.diff(values) == 1)
    assert seeds.purpose_of(int(values[0])) == purpose == seeds.purpose_of(int(values[-1]))


def test_a_seed_outside_every_range_is_refused() -> None:
    with pytest.raises(InputError):
        seeds.purpose_of(3_000_000)
