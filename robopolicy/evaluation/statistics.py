"""Intervals and paired tests for success counts, exact where that is cheap.

Everything is a closed form or a one-dimensional root: no random numbers, so a report says the same thing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from policies.spec import InputError


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a number between 0 and 1, found {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value != int(value) or value < 0:
            raise InputError(f"{name}: expected a whole number of at least 0, found {value}")


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a proportion with ``k`` successes in ``n`` trials.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". Unlike the textbook
    interval p +- z sqrt(p(1-p)/n) it stays inside [0, 1] and keeps its coverage near 0 and 1. ``n = 0`` gives (0, 1).

    Raises:
        InputError: if not 0 <= k <= n or confidence is not in (0, 1).
    """
    z = _normal_quantile(confidence)
    _check_counts(k=k, n=n)
    if k > n:
        raise InputError(f"successes: expected at most {n} (the number of episodes), found {k}")
    if n == 0:
        return 0.0, 1.0
    return _score_interval(k / n, n, z)


def _score_interval(p: float, n: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval of a rate ``p`` seen in as much as ``n`` trials tell."""
    zz = z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    # at the ends centre and half are equal in exact arithmetic; rounding must not leave 1e-17
    return (0.0 if p == 0 else centre - half), (1.0 if p == 1 else centre + half)


def over_states(outcomes: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean success of several runs on the same initial states with its interval (mean, low, high).

    Args:
        outcomes: (R, N) 0 or 1, of R runs (training seeds, checkpoints) on N states; NaN where a run was not tried on a state.
        confidence: Coverage.

    States that are hard for one run are hard for the next, so R N episodes tell less than as many states would. Wilson's interval is
    taken for the effective number of trials p (1 - p) / v (Kish's design effect), v the variance of the mean that follows from how the
    states' own means differ; between N, which it is where the runs agree on every state, and R N. For one run it is Wilson's. It is
    about new initial states for these runs, not about other training seeds. Where runs have states of their own, every episode weighs
    the same, v is that of a ratio (Cochran 1977, chapter 6), and the bounds are Kish's number of states and that of episodes.

    Raises:
        InputError: if there is no run, or a state on which none was tried.
    """
    z = _normal_quantile(confidence)
    values = np.asarray(outcomes, np.float64)
    if values.ndim != 2 or not values.size:
        raise InputError(f"success of several runs: expected outcomes (runs, states), found shape {values.shape}")
    tried = (~np.isnan(values)).sum(0)  # (N,) runs that were tried on each state
    if not tried.all():
        raise InputError("success of several runs: expected an outcome on every state, found a state without")
    n, total = len(tried), float(tried.sum())
    solved = np.nansum(values, axis=0)
    p = float(solved.sum()) / total
    v = float(((solved - p * tried) ** 2).sum()) * n / (n - 1) / total**2 if n > 1 else 0.0
    least = total**2 / float((tried**2).sum())
    told = p * (1 - p) / v if v > 0 else (least if p in (0.0, 1.0) else total)
    return p, *_score_interval(p, min(max(told, least), total), z)


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> tuple[Any, Any]:
    """Return the mean over runs and half the width of its interval, Student's; NaN of one run, which tells nothing of others.

    Args:
        values: (R,) of R runs, or (R, ...), each column for itself.
        confidence: Coverage.

    Raises:
        InputError: without a run, or if confidence is not in (0, 1).
    """
    from scipy.stats import t

    _normal_quantile(confidence)
    array = np.asarray(values, np.float64)
    runs = len(array)
    if not runs:
        raise InputError("mean of several runs: expected at least one, found none")
    mean = array.mean(0)
    if runs == 1:
        return mean, np.full_like(mean, np.nan)[()]
    return mean, t.ppf(0.5 + confidence / 2, runs - 1) * array.std(0, ddof=1) / math.sqrt(runs)


def joined(ends: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the mean of independent figures (value, low, high) with its interval, by MOVER; see :func:`mean_rate`."""
    mean = sum(value for value, _, _ in ends) / len(ends)
    down = math.sqrt(sum((value - low) ** 2 for value, low, _ in ends)) / len(ends)
    up = math.sqrt(sum((high - value) ** 2 for value, _, high in ends)) / len(ends)
    return mean, mean - down, mean + up


def mean_rate(counts: Sequence[tuple[int, int]], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of several success rates with its interval (mean, low, high), e.g. over the tasks of a suite.

    Args:
        counts: (successes, episodes) of each; all weigh the same.
        confidence: Coverage.

    Joins Wilson's intervals by their distances from the rates (method of variance estimates recovery: Zou and Donner 2008),
    so it is Wilson's own for one. It is about the initial states of these tasks, not about other tasks.

    Raises:
        InputError: if there is none, or one without episodes.
    """
    if not counts or any(n < 1 for _, n in counts):
        raise InputError(f"mean success rate: expected at least one task with episodes, found {list(counts)}")
    return joined([(k / n, *wilson(k, n, confidence)) for k, n in counts])


def mcnemar(b: int, c: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        b: Initial states where only the first policy succeeds.
        c: Initial states where only the second succeeds.

    Under the null hypothesis b is binomial(b + c, 1/2). That is symmetric, so the two-sided p-value is twice the
    smaller tail, at most 1. Computed in integers: exact for any count.
    """
    _check_counts(b=b, c=c)
    n, k = b + c, min(b, c)
    term, total = 1, 0
    for i in range(k + 1):
        total += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * total / (1 << n)) if n < 1000 else min(1.0, max(_ratio(2 * total, n), math.ulp(0.0)))  # never 0: too small for a float


def _ratio(value: int, bits: int) -> float:
    """Return ``value / 2**bits`` when the two no longer fit in a float."""
    shift = max(value.bit_length() - 64, 0)
    return math.ldexp(value >> shift, shift - bits)


def _tango_q(n: int, b: int, c: int, delta: float) -> float:
    """Return the maximum-likelihood P(only second succeeds) given difference ``delta`` (Tango 1998, equation 3)."""
    linear = -(b + c) + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    return (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)


def _tango_score(n: int, b: int, c: int, delta: float) -> float:
    """Return the score statistic, falling in ``delta``, whose roots at +-z bound the interval."""
    variance = n * (2 * _tango_q(n, b, c, delta) + delta * (1 - delta))
    distance = b - c - n * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses zero, by bisection to the last bit; the end itself if it does not cross."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if function(middle) > 0 else (low, middle)


def paired_difference(n: int, b: int, c: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return (difference, low, high) of two success rates on the same ``n`` initial states, first minus second.

    Args:
        n: Number of states.
        b: States where only the first policy succeeds.
        c: States where only the second succeeds.
        confidence: Coverage.

    The interval is Tango's score interval (Tango 1998, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design"): it inverts the same test that McNemar's is at difference 0, and keeps
    its coverage in small samples and when b or c is 0.
    """
    z = _normal_quantile(confidence)
    _check_counts(n=n, b=b, c=c)
    if n < 1 or b + c > n:
        raise InputError(f"discordant pairs: expected at most n = {n} (at least 1), found b + c = {b + c}")
    low = _falling_root(lambda d: _tango_score(n, b, c, d) - z, -1.0, 1.0)
    high = _falling_root(lambda d: _tango_score(n, b, c, d) + z, -1.0, 1.0)
    return (b - c) / n, low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for having made all these tests (Holm 1979, step-down), in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Paired:
    """Two policies on the same initial states.

    Attributes:
        n: Number of shared states.
        both: States that both solve.
        first_only: States that only the first solves (b).
        second_only: States that only the second solves (c).
        difference: Success rate of the first minus that of the second.
        low: Lower end of its 95 % interval (Tango).
        high: Upper end.
        p_value: Exact two-sided McNemar.
    """

    n: int
    both: int
    first_only: int
    second_only: int
    difference: float
    low: float
    high: float
    p_value: float


def compare(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare outcomes on the same states, in the same order.

    Raises:
        InputError: if the two differ in length or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise InputError(f"paired comparison: expected the same episodes on both sides, found {len(first)} and {len(second)}")
    both = sum(bool(x) and bool(y) for x, y in zip(first, second, strict=True))
    b, c = sum(map(bool, first)) - both, sum(map(bool, second)) - both
    return Paired(len(first), both, b, c, *paired_difference(len(first), b, c), mcnemar(b, c))
