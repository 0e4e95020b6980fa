"""Paired comparisons across tasks and of scores, false-positive rates by enumeration, power, and coverage of intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from policies.spec import InputError
from robopolicy.evaluation import bootstrap, paired, statistics


def wilson_coverage(n: int) -> tuple[float, float]:
    """Return the coverage of the Wilson interval averaged over uniform p, in closed form, and its minimum over p."""
    ends = np.array([statistics.wilson(k, n) for k in range(n + 1)])
    k = np.arange(n + 1)
    inside = scipy.special.betainc(k + 1, n - k + 1, ends[:, 1]) - scipy.special.betainc(k + 1, n - k + 1, ends[:, 0])
    p = np.clip(np.concatenate([ends.ravel() - 1e-12, ends.ravel() + 1e-12]), 1e-15, 1 - 1e-15)  # it is lowest beside a jump
    covered = (ends[:, :1] <= p) & (p <= ends[:, 1:])
    at = (scipy.stats.binom.pmf(k[:, None], n, p) * covered).sum(0)
    return float(inside.sum() / (n + 1)), float(at.min())


@pytest.mark.parametrize(("n", "minimum"), [(10, 0.835), (20, 0.836), (50, 0.838), (100, 0.838), (200, 0.838)])
def test_wilson_covers_95_percent_on_average(n: int, minimum: float) -> None:
    """The minimum is at rates of about 0.17 / n; docs/evaluate.md reports it."""
    mean, least = wilson_coverage(n)
    assert 0.94 < mean < 0.96
    assert least == pytest.approx(minimum, abs=0.002)


def test_the_paired_test_is_wrong_at_most_as_often_as_it_says() -> None:
    """Given b + c, the false-positive rate is a sum of binomial probabilities."""
    for m in (1, 5, 6, 10, 17, 25, 60, 200):
        rate = sum(scipy.stats.binom.pmf(b, m, 0.5) for b in range(m + 1) if statistics.mcnemar(b, m - b) <= 0.05)
        assert rate <= 0.05 and (m < 6) == (rate == 0)
    assert paired.power(200, 0.2, 0.0) <= 0.05  # over all b + c


def test_the_false_positive_rate_in_simulation_is_the_enumerated_one() -> None:
    rng, n, trials = np.random.default_rng(0), 60, 4000
    difficulty = rng.random((trials, n))  # both policies find the same states hard: correlated outcomes
    first, second = (rng.random((trials, n)) < 0.2 + 0.6 * difficulty for _ in range(2))
    b, c = (first & ~second).sum(1), (second & ~first).sum(1)
    found = np.mean([statistics.mcnemar(int(x), int(y)) <= 0.05 for x, y in zip(b, c, strict=True)])
    expected = paired.power(n, float((b + c).mean() / n), 0.0)
    assert abs(found - expected) < 3.5 * np.sqrt(expected / trials) and found < 0.05


def test_power_is_that_of_brute_force() -> None:
    n, discordant, difference = 14, 0.6, 0.4
    share = (discordant + difference) / 2, (discordant - difference) / 2
    expected = sum(
        scipy.stats.multinomial.pmf([b, c, n - b - c], n, [*share, 1 - discordant])
        for b, c in itertools.product(range(n + 1), repeat=2)
        if b + c <= n and statistics.mcnemar(b, c) <= 0.05
    )
    assert paired.power(n, discordant, difference) == pytest.approx(expected, abs=1e-9)


def test_the_hint_has_the_power_it_says_and_not_much_more() -> None:
    for difference, discordant in ((0.05, 0.2), (0.1, 0.1), (0.3, 0.5)):
        n = paired.episodes_for(difference, discordant)
        assert paired.power(n, max(discordant, difference), difference) >= 0.8
        assert paired.power(int(0.85 * n), max(discordant, difference), difference) < 0.8
    assert paired.episodes_for_mean(0.5, 1.0) == 32  # (1.96 + 0.8416)^2 / 0.25 = 31.4
    with pytest.raises(InputError, match="more than 0"):
        paired.episodes_for(0.0, 0.1)


def test_tasks_are_joined_by_hand() -> None:
    pairs = [statistics.compare([True] * 8 + [False] * 2, [True] * 5 + [False] * 5), statistics.compare([True, False] * 5, [False, True] * 5)]
    found = paired.successes(pairs)
    assert (found.tasks, found.n) == (2, 20) and found.difference == pytest.approx(0.15) and (found.first_mean, found.second_mean) == pytest.approx((0.65, 0.5))
    assert found.p_value == statistics.mcnemar(3 + 5, 5)
    down = math.hypot(*(p.difference - p.low for p in pairs)) / 2
    assert found.low == pytest.approx(0.15 - down)
    alone = paired.successes(pairs[:1])
    assert (alone.difference, alone.low, alone.high, alone.p_value) == pytest.approx((pairs[0].difference, pairs[0].low, pairs[0].high, pairs[0].p_value))
    with pytest.raises(InputError, match="no task"):
        paired.successes([])


def test_the_mean_rate_of_one_task_is_wilsons_and_of_many_is_narrower() -> None:
    mean, low, high = statistics.mean_rate([(30, 40)])
    assert (mean, low, high) == pytest.approx((0.75, *statistics.wilson(30, 40)))
    many = statistics.mean_rate([(30, 40)] * 16)
    assert many[0] == 0.75 and many[2] - many[1] == pytest.approx((high - low) / 4)
    with pytest.raises(InputError, match="at least one task"):
        statistics.mean_rate([])


def test_the_joined_interval_covers_the_truth() -> None:
    """Three tasks of 20 states; the rates are hard on an interval by normal approximation."""
    rng, rates = np.random.default_rng(4), (0.05, 0.5, 0.9)
    counts = rng.binomial(20, rates, (3000, 3))
    covered = 0
    for row in counts:
        _, low, high = statistics.mean_rate([(int(k), 20) for k in row])
        covered += low <= np.mean(rates) <= high
    assert 0.935 < covered / 3000 < 0.975


def test_means_are_scipys_bootstrap_and_permutation_test() -> None:
    rng = np.random.default_rng(7)
    a = rng.gamma(2, 1, 40)
    b = a + rng.normal(-0.2, 0.5, 40)
    found = paired.means([(a, b)], resamples=2000, rng=np.random.default_rng(1))
    expected = scipy.stats.bootstrap((a - b,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(1))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-10)
    assert found.difference == pytest.approx((a - b).mean())
    other = scipy.stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=4000, rng=2, vectorized=False)
    assert found.p_value == pytest.approx(other.pvalue, abs=0.02)


def test_few_differences_are_tested_exactly() -> None:
    a, b = np.array([3.0, 4.0, 1.0, 6.5, 2.0]), np.array([1.0, 4.5, 0.0, 3.0, 1.0])
    expected = scipy.stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=1000, vectorized=False)
    found = paired.means([(a, b)])
    assert found.p_value == pytest.approx(expected.pvalue) and "exact" in found.test
    equal = paired.means([(a, a)])
    assert (equal.low, equal.high, equal.p_value) == (0.0, 0.0, 1.0)
    with pytest.raises(InputError, match="same episodes"):
        paired.means([(a, b[:2])])


def test_a_generator_of_one_seed_is_always_the_same() -> None:
    assert bootstrap.generator(3).random(4).tolist() == bootstrap.generator(3).random(4).tolist() != bootstrap.generator(4).random(4).tolist()


def test_test_and_difference_of_tasks_of_unequal_size_point_to_one_side() -> None:
    large = statistics.compare([True] * 30 + [False] * 170, [False] * 30 + [False] * 170)  # 30 of 200 for the first
    small = statistics.compare([False] * 8 + [True] * 2, [True] * 8 + [True] * 2)  # 8 of 10 for the second
    found = paired.successes([large, small])
    assert found.difference == pytest.approx((0.15 - 0.8) / 2) and statistics.mcnemar(30, 8) < 0.001, "states alone would call the first better"
    exact = np.mean([abs(sum(signs)) >= 8 for signs in itertools.product((-1, 1), repeat=8)])  # what the large task adds is small beside it
    assert found.p_value < 0.05 and found.p_value == pytest.approx(exact, abs=0.03) and "sign-change" in found.test
    few = [statistics.compare([True, False, True, False], [False, False, False, True]), statistics.compare([True, False], [False, False])]
    sums = [abs(np.dot(signs, [1, 1, 1, 2])) for signs in itertools.product((-1, 1), repeat=4)]  # in eighths; seen: 1 + 1 - 1 + 2
    assert paired.successes(few).p_value == np.mean([s >= 3 for s in sums])
    nothing = statistics.compare([True] * 3, [True] * 3)
    assert paired.successes([nothing, statistics.compare([True] * 2, [True] * 2)]).p_value == 1.0


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_hint_for_means_is_never_fewer_than_the_test_can_tell(level: float) -> None:
    n = paired.episodes_for_mean(0.5, 0.0, level=level)
    assert paired.means([(np.full(n, 0.5), np.zeros(n))]).p_value < level <= paired.means([(np.full(n - 1, 0.5), np.zeros(n - 1))]).p_value
    assert paired.episodes_for_mean(0.1, 1.0) == 785
