"""Rare failures: unbiased on worlds with a known rate whatever the predictor says, a third of the variance where it can know, a valid interval."""

from __future__ import annotations

import dataclasses
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.stats import chi2

from policies.spec import InputError
from robopolicy.evaluation.failures import (
    CUTS,
    EXPERIENCED,
    Design,
    Experience,
    FailureRate,
    Outcomes,
    allocate,
    draw,
    estimate_failure_rate,
    interval,
    stratify,
)
from robopolicy.evaluation.failures_predictor import logistic, predict, ridge, standardise

ROLLOUTS, POOL = 700, 7000
EDGE = 0.05  # of the unit interval: states below it fail with chance CHANCE, others never
CHANCE = 0.5


def edge_world(seed: int) -> tuple[np.ndarray, np.ndarray, Outcomes]:
    """Return features (M, 2), chances (M,) and outcomes of a pool: failures only where the first feature is small, 2.5 % of all."""
    generator = np.random.default_rng([seed, 1])
    x = generator.random((POOL, 2))
    chance = np.where(x[:, 0] < EDGE, CHANCE, 0.0)
    failed = generator.random(POOL) < chance
    return x, chance, Outcomes(failed, (1 - x[:, :1]) + 0.3 * generator.standard_normal((POOL, 1)))


def estimates(kind: str, repetitions: int, rollouts: int = ROLLOUTS) -> list[FailureRate]:
    """Return estimates on as many pools, with a predictor that has learnt, knows nothing, or says the opposite."""
    out = []
    for seed in range(repetitions):
        x, chance, all_of_them = edge_world(seed)
        foreseen = {
            "learnt": None,
            "useless": lambda features, places, known, s=seed: np.random.default_rng([s, len(places)]).random(len(features)),
            "adverse": lambda features, places, known, g=chance: np.where(g > 0, 0.001, 0.999),
        }[kind]
        roll = lambda places, o=all_of_them: Outcomes(o.failed[places], o.margins[places])  # noqa: E731
        out.append(estimate_failure_rate(Design(rollouts, seed=seed), x, roll, foreseen))
    return out


TRUTH = EDGE * CHANCE
PLAIN = TRUTH * (1 - TRUTH) / ROLLOUTS


@pytest.mark.parametrize("repetitions", [50, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("kind", "most"), [("learnt", 1 / 3), ("useless", 2.0), ("adverse", 1 / Design(ROLLOUTS).defensive)])
def test_estimates_are_unbiased_and_their_variance_is_bounded(kind: str, most: float, repetitions: int) -> None:
    """The learnt predictor saves two thirds of the variance, all its rollouts counted; a wrong one costs no more than its bound."""
    found = estimates(kind, repetitions)
    rates = np.array([e.rate for e in found])
    error = rates.std(ddof=1) / math.sqrt(len(rates))
    assert abs(rates.mean() - TRUTH) < 3.5 * error, f"{rates.mean():.5f} +- {error:.5f}"
    ratio = rates.var(ddof=1) / PLAIN  # that the pool is a sample, too, is part of ours
    low, high = ratio * (len(rates) - 1) / chi2.ppf([0.995, 0.005], len(rates) - 1)
    assert low < most, f"variance ratio {ratio:.2f}"
    if kind == "learnt":
        assert high < 1 and (repetitions < 200 or ratio < most), f"variance ratio {ratio:.2f}"
    else:
        assert high > 1 / 3, "a predictor that knows nothing saves nothing: the check can fail"
    said = np.mean([e.variance for e in found]) / rates.var(ddof=1)
    assert 0.6 < said < 1.7, f"the variance that is told, over the true one: {said:.2f}"
    covered = np.mean([e.low <= TRUTH <= e.high for e in found])
    assert covered > (0.9 if repetitions >= 200 else 0.84), f"coverage of the 95 % interval {covered:.3f}"
    assert all(e.rollouts == ROLLOUTS == len(set(e.places.tolist())) for e in found)


def weaker(sick: float, seed: int) -> Experience:
    """Return 400 rollouts of a policy that fails more often and further in, at the edge (``sick`` = 0) or at the other one (1)."""
    generator = np.random.default_rng([seed, 2])
    x = generator.random((400, 2))
    failed = (abs(x[:, 0] - sick) < 3 * EDGE) & (generator.random(400) < 0.8)
    return Experience(x, Outcomes(failed, (1 - abs(x[:, :1] - sick)) + 0.3 * generator.standard_normal((400, 1))))


@pytest.mark.parametrize("repetitions", [40, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize("sick", [0.0, 1.0])
def test_experience_of_a_weaker_policy_helps_and_misleading_experience_does_not_bias(sick: float, repetitions: int) -> None:
    """Where both fail in the same place the variance is below that of the search alone on the same pools; elsewhere within its bound."""
    found, design = [], Design(ROLLOUTS, gains=EXPERIENCED)
    for seed in range(repetitions):
        x, _, all_of_them = edge_world(seed)
        roll = lambda places, o=all_of_them: Outcomes(o.failed[places], o.margins[places])  # noqa: E731
        found.append(estimate_failure_rate(dataclasses.replace(design, seed=seed), x, roll, experience=weaker(sick, seed)))
    rates = np.array([e.rate for e in found])
    error = rates.std(ddof=1) / math.sqrt(len(rates))
    assert abs(rates.mean() - TRUTH) < 3.5 * error, f"{rates.mean():.5f} +- {error:.5f}"
    said = np.mean([e.variance for e in found])
    if sick:
        assert rates.var(ddof=1) * (repetitions - 1) / chi2.ppf(0.995, repetitions - 1) < PLAIN / design.defensive
    else:
        assert said < 0.8 * np.mean([e.variance for e in estimates("learnt", repetitions)]), f"{said / PLAIN:.2f} of plain Monte Carlo's"


def test_experience_that_does_not_go_with_the_pool_is_one_line() -> None:
    x, _, outcomes = edge_world(0)
    roll = lambda places: Outcomes(outcomes.failed[places], outcomes.margins[places])  # noqa: E731
    other = weaker(0.0, 0)
    with pytest.raises(InputError, match=r"features of the experience: expected \(k, 2\) as of the pool, found \(400, 1\)"):
        estimate_failure_rate(Design(ROLLOUTS), x, roll, experience=other._replace(features=other.features[:, :1]))
    with pytest.raises(InputError, match="experience is for the learnt predictor"):
        estimate_failure_rate(Design(ROLLOUTS), x, roll, predict, other)


def test_a_rate_is_the_sum_of_the_weights_of_its_failures_and_all_weights_sum_to_one() -> None:
    for e in estimates("learnt", 3):
        assert e.rate == pytest.approx(e.weights[e.failed].sum(), rel=1e-12)
        weights = Design(ROLLOUTS).weights
        assert e.rate == pytest.approx(sum(c * r.estimate for c, r in zip(weights, e.rounds, strict=True)), rel=1e-9)
        assert 0 < e.low < e.rate < e.high < 1 and e.plain_rollouts > ROLLOUTS


def test_the_same_design_makes_the_same_estimate() -> None:
    first, again = estimates("learnt", 1)[0], estimates("learnt", 1)[0]
    assert first.rate == again.rate and (first.places == again.places).all()


def test_without_a_failure_the_rate_is_zero_and_the_interval_is_not() -> None:
    x, _, outcomes = edge_world(0)
    never = Outcomes(np.zeros(POOL, bool), outcomes.margins)
    e = estimate_failure_rate(Design(ROLLOUTS), x, lambda p: Outcomes(never.failed[p], never.margins[p]))
    assert e.rate == e.low == 0 and 3.6 / ROLLOUTS < e.high < 0.03 and e.plain_rollouts == ROLLOUTS


@pytest.mark.parametrize("rollouts", [230, 300, 500])
def test_where_all_fail_the_interval_is_that_of_no_failure_turned_round(rollouts: int) -> None:
    """Failures and successes change places: 1 less the rate, 1 less the ends, nothing else."""
    x = np.random.default_rng(0).normal(size=(4 * rollouts, 3))
    always, never = (estimate_failure_rate(Design(rollouts), x, lambda p, f=f: Outcomes(np.full(len(p), f), np.zeros((len(p), 0)))) for f in (True, False))
    assert always.rate == always.high == 1.0 and always.plain_rollouts == rollouts
    assert always.low == pytest.approx(1 - never.high, rel=1e-6) and 0.9 < always.low < 1


def test_an_interval_of_few_successes_is_that_of_few_failures_turned_round() -> None:
    n = 500
    for k in (1, 3, 30):
        low, high = interval(k / n, k / n**2, k, n, 1 / n)
        assert interval(1 - k / n, k / n**2, n - k, n, 1 / n) == pytest.approx((1 - high, 1 - low), rel=1e-9)


def test_the_interval_is_exact_where_weights_are_equal() -> None:
    """Garwood's interval of a Poisson count, from chi-squared quantiles."""
    n = 500
    for k in (1, 3, 9):
        low, high = interval(k / n, k / n**2, k, n, 1 / n)
        assert low == pytest.approx(chi2.ppf(0.025, 2 * k) / (2 * n), rel=1e-9)
        assert high == pytest.approx(chi2.ppf(0.975, 2 * k + 2) / (2 * n), rel=1e-9)
    assert interval(0.0, 0.0, 0, n, 1 / n) == (0.0, pytest.approx(-math.log(0.025) / n, rel=1e-9))


@given(st.data())
def test_allocations_sum_and_stay_within_strata(data: st.DataObject) -> None:
    counts = np.array(data.draw(st.lists(st.integers(1, 5000), min_size=1, max_size=12)))
    spread = np.array(data.draw(st.lists(st.floats(0, 0.5), min_size=len(counts), max_size=len(counts))))
    least = np.minimum(counts, 2)
    total = data.draw(st.integers(int(least.sum()), int(counts.sum())))
    defensive = data.draw(st.floats(0.05, 1))
    taken = allocate(counts, spread, total, defensive)
    assert taken.sum() == total and (taken <= counts).all() and (taken >= least).all()
    if counts.min() * total * defensive > 20 * counts.sum():  # far from the limits the defensive share is kept, up to rounding
        assert (taken >= np.minimum(counts, np.floor(defensive * total * counts / counts.sum() * 0.9)) - len(counts)).all()


def test_an_allocation_is_neymans_where_nothing_limits_it() -> None:
    counts, spread = np.array([8000, 1000, 1000]), np.array([0.01, 0.1, 0.3])
    ideal = counts * spread / (counts * spread).sum()
    assert allocate(counts, spread, 480, 1e-9).tolist() == pytest.approx(480 * ideal, abs=1)
    assert allocate(counts, spread, 500, 1.0).tolist() == [400, 50, 50]


@given(st.integers(0, 2**32), st.lists(st.integers(2, 40), min_size=1, max_size=6))
def test_draws_are_within_strata_without_replacement(seed: int, counts: list[int]) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    taken = np.array([generator.integers(1, c + 1) for c in counts])
    drawn = draw(labels, taken, generator)
    assert len(set(drawn.tolist())) == taken.sum() and (np.bincount(labels[drawn], minlength=len(counts)) == taken).all()


@given(st.integers(0, 2**32), st.integers(20, 3000))
def test_strata_follow_the_order_of_chances(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    chance = np.clip(generator.random(count) ** 4, 1e-6, 1)
    labels, expected = stratify(chance, chance[:10], chance[:10] > 0.5)
    sizes = np.bincount(labels)
    assert sizes.min() >= 4 and len(sizes) <= len(CUTS) + 1 and (np.diff(labels[np.argsort(chance, kind="stable")]) >= 0).all()
    assert ((expected > 0) & (expected < 1)).all() and len(expected) == len(sizes)


def test_leave_one_out_is_what_leaving_out_gives() -> None:
    """Against refitting without the rollout at the same width and penalty: the closed form holds for the fixed centres and mean."""
    generator = np.random.default_rng(3)
    x = standardise(generator.random((40, 2)))
    y = np.sin(3 * x[:, :1]) + 0.1 * generator.standard_normal((40, 1))
    y = (y - y.mean()) / y.std()
    everywhere, held_out = ridge(x, np.arange(40), y)
    explained = 1 - ((held_out - y) ** 2).mean()
    assert 0.8 < explained < 1 and ((everywhere - y) ** 2).mean() < ((held_out - y) ** 2).mean()


def test_logistic_regression_agrees_with_the_zero_of_its_gradient() -> None:
    generator = np.random.default_rng(5)
    inputs = generator.standard_normal((300, 2))
    labels = (generator.random(300) < 1 / (1 + np.exp(3 - 2 * inputs[:, 0]))).astype(float)
    slopes = logistic(inputs, labels)
    design = np.column_stack([np.ones(301), np.vstack([inputs, [0, 0]])])
    gradient = design.T @ (np.append(labels, 0.5) - 1 / (1 + np.exp(-design @ slopes))) - np.array([1e-6, 0.5, 0.5]) * slopes
    assert np.abs(gradient).max() < 1e-6 and slopes[1] > 1.2 > abs(slopes[2])
    assert np.isfinite(logistic(inputs, np.zeros(300))).all() and np.isfinite(logistic(inputs, np.ones(300))).all()


def test_the_predictor_finds_where_failures_are_and_needs_no_variation() -> None:
    x, chance, outcomes = edge_world(7)
    rolled = np.arange(600)
    said = predict(x, rolled, Outcomes(outcomes.failed[rolled], outcomes.margins[rolled]))
    assert said.shape == (POOL,) and ((said > 0) & (said < 1)).all()
    top = np.argsort(-said[600:])[: POOL // 25]
    assert (chance[600:][top] > 0).mean() > 0.7 > 10 * (chance > 0).mean()
    same = predict(np.ones((50, 3)), np.arange(10), Outcomes(np.zeros(10, bool), np.ones((10, 1))))
    assert np.ptp(same) == 0
    twice = standardise(np.column_stack([x, x, np.ones(POOL)]))
    assert twice.shape == (POOL, 2) and np.allclose(twice.std(0), 1)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    x, _, outcomes = edge_world(0)
    roll = lambda places: Outcomes(outcomes.failed[places], outcomes.margins[places])  # noqa: E731
    with pytest.raises(InputError, match="expected at least 230 rollouts, found 100"):
        Design(100)
    with pytest.raises(InputError, match="too small for 800 rollouts: expected at least 3200"):
        estimate_failure_rate(Design(800), x[:2000], roll)
    with pytest.raises(InputError, match="expected 7000 finite numbers"):
        estimate_failure_rate(Design(800), x, roll, lambda *_: np.full(POOL, np.nan))
    with pytest.raises(InputError, match="above 0 and at most 1"):
        Design(800, defensive=0.0)


@pytest.mark.parametrize(("rollouts", "most"), [(230, 4.8), (1000, 3.05), (2000, 3.05)])
def test_a_round_is_worth_at_least_what_the_page_says(rollouts: int, most: float) -> None:
    """Whatever the predictor believes, a stratum gets so much of its plain share: the worst beliefs are those that want one stratum alone."""
    design, pool = Design(rollouts), 20 * rollouts
    ends = [0, *(round(pool * (1 - share)) for share in CUTS), pool]
    counts, worst = np.diff(ends), 0.0
    for size in design.sizes[1:]:
        for wanted in np.eye(len(counts)) + 1e-3:
            worst = max(worst, float((size * counts / pool / allocate(counts, wanted, size, design.defensive)).max()))
    assert 1 / design.defensive <= worst <= most
