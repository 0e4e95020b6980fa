"""Two policies on the same initial states: across tasks, for scores, and how many episodes would tell a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.bootstrap import RESAMPLES, bca, generator, resampled
from robopolicy.evaluation.statistics import Paired, mcnemar

_EXACT = 14  # differences up to which all sign changes are tried
_MOST = 10_000_000  # episodes beyond which a power hint says nothing useful


@dataclass(frozen=True)
class Difference:
    """Two policies over one or several tasks, first minus second.

    Attributes:
        tasks: How many.
        n: Initial states in all.
        first_mean: Of the first over tasks (of success, score or return).
        second_mean: Of the second.
        difference: ``first - second``, every task with equal weight.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: Two-sided, of no difference in any task.
        test: Name of the test.
        interval: Name of the interval.
    """

    tasks: int
    n: int
    first_mean: float
    second_mean: float
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    interval: str


def successes(pairs: Sequence[Paired]) -> Difference:
    """Join the comparisons of several tasks.

    The test is exact: if in every task either policy is equally likely to be the one that solves a state that only one of
    them solves, the number of states that only the first solves is binomial(all such states, 1/2). Where tasks have different
    numbers of states, that would weigh a state of each the same, unlike the difference: then signs are changed at random, each with
    its weight in the difference, so that test and difference cannot point to different sides. The interval of the mean
    of the tasks' differences joins their own (Tango's) by their distances from the estimates (method of variance estimates
    recovery: Zou and Donner 2008, "Construction of confidence limits about effect measures"). One task: just Tango's.

    Raises:
        InputError: if there is no pair.
    """
    if not pairs:
        raise InputError("paired comparison: the two share no task")
    difference = float(np.mean([p.difference for p in pairs]))
    down = math.sqrt(sum((p.difference - p.low) ** 2 for p in pairs)) / len(pairs)
    up = math.sqrt(sum((p.high - p.difference) ** 2 for p in pairs)) / len(pairs)
    first, second = (float(np.mean([(p.both + getattr(p, only)) / p.n for p in pairs])) for only in ("first_only", "second_only"))
    if len({p.n for p in pairs}) == 1:
        p_value = mcnemar(sum(p.first_only for p in pairs), sum(p.second_only for p in pairs))
        test = "exact McNemar test" if len(pairs) == 1 else f"exact McNemar test over {len(pairs)} tasks"
    else:
        weighted = np.concatenate([np.repeat([1.0, -1.0], [p.first_only, p.second_only]) / (p.n * len(pairs)) for p in pairs])
        p_value, test = _sign_flips(weighted, RESAMPLES, 0)
    interval = "Tango" if len(pairs) == 1 else "Tango, tasks joined by MOVER"
    return Difference(len(pairs), sum(p.n for p in pairs), first, second, difference, difference - down, difference + up, p_value, test, interval)


def means(pairs: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int = RESAMPLES, seed: int = 0, rng: np.random.Generator | None = None) -> Difference:
    """Compare scores or returns of the same initial states.

    Args:
        pairs: For every task the values (n,) of the first and (n,) of the second.
        resamples: Of bootstrap and permutation.
        seed: Of both.
        rng: Generator of the bootstrap; None: that of ``seed``.

    The interval is the BCa bootstrap of the differences, resampled inside each task; the test changes the signs of the
    differences at random (exact up to 14 of them). All tasks weigh the same.

    Raises:
        InputError: if there is no pair, or the sides of one differ in length.
    """
    if not pairs or any(len(a) != len(b) or not len(a) for a, b in pairs):
        raise InputError(f"paired comparison: expected the same episodes on both sides, found {[(len(a), len(b)) for a, b in pairs]}")
    differences = [np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in pairs]
    first, second = (float(np.mean([np.mean(pair[side]) for pair in pairs])) for side in (0, 1))
    value = float(np.mean([d.mean() for d in differences]))
    drawn = np.mean([d.mean(-1) for d in resampled(differences, resamples, generator(seed) if rng is None else rng)], axis=0)
    k = len(differences)
    without = [value - d.mean() / k + (d.sum() - d) / max(1, len(d) - 1) / k for d in differences]
    e = bca(drawn, value, without)
    n = sum(map(len, differences))
    p_value, test = _sign_flips(np.concatenate([d / (len(d) * k) for d in differences]), resamples, seed)
    return Difference(k, n, first, second, value, e.low, e.high, p_value, test, "BCa bootstrap of the paired differences")


def _sign_flips(weighted: np.ndarray, resamples: int, seed: int) -> tuple[float, str]:
    """Return the two-sided p-value of ``weighted`` (n,) summing to as much as they do, under random signs, and the test's name."""
    n, found = len(weighted), abs(weighted.sum())
    edge = found * (1 - 1e-12)  # sums in another order differ in their last bits
    if n <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ weighted) >= edge).mean()), "exact sign-change permutation test"
    rng, extreme, left = generator(seed + 1), 0, resamples
    while left:
        rows = min(left, max(1, (1 << 22) // n))
        extreme += int((np.abs((1.0 - 2.0 * rng.integers(0, 2, (rows, n))) @ weighted) >= edge).sum())
        left -= rows
    return (1 + extreme) / (1 + resamples), f"sign-change permutation test, {resamples} permutations"


def power(n: int, discordant: float, difference: float, level: float = 0.05) -> float:
    """Return the chance that the exact McNemar test is below ``level`` after ``n`` episodes, by summing over all outcomes.

    Args:
        n: Initial states.
        discordant: Share of the states that only one of the two policies solves.
        difference: True difference of their success rates.
        level: Of the test, two-sided.
    """
    from scipy.special import bdtr, bdtrik
    from scipy.stats import binom

    weights = binom.pmf(np.arange(n + 1), n, discordant)
    kept = np.flatnonzero(weights > 1e-12)
    better = 0.5 + difference / (2 * discordant)  # chance that such a state is one of the first's
    low = np.ceil(np.nan_to_num(bdtrik(level / 2, kept, 0.5), nan=0.0))  # largest k with P(X <= k) <= level / 2: this one, or one or two less
    for _ in range(3):
        low = np.where((low >= 0) & (bdtr(np.maximum(low, 0), kept, 0.5) > level / 2), low - 1, low)
    few, many = (np.where(low >= 0, bdtr(np.maximum(low, 0), kept, p), 0.0) for p in (better, 1 - better))
    return float((weights[kept] * (few + many)).sum())


def episodes_for(difference: float, discordant: float, wanted: float = 0.8, level: float = 0.05) -> int:
    """Return about how many paired episodes tell a difference of success rates with the power ``wanted``.

    Begins at Connor's formula (1987, "Sample size for testing differences in proportions for the paired-sample design")
    and grows until the exact power is there.

    Args:
        difference: Of the rates, not 0.
        discordant: Share of the states that only one of the two solves; at least ``difference``.
        wanted: Power.
        level: Of the test.

    Raises:
        InputError: for a difference that is 0 or beyond 1.
    """
    d = abs(difference)
    if not 0 < d <= 1:
        raise InputError(f"difference to tell: expected more than 0 and at most 1, found {difference}")
    share = min(1.0, max(discordant, d))
    a, b = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(wanted)
    n = math.ceil((a * math.sqrt(share) + b * math.sqrt(max(0.0, share - d * d))) ** 2 / (d * d))
    if n > _MOST // 100:
        return n
    while power(n, share, d, level) < wanted and n < _MOST:
        n += max(1, n // 50)
    return n


def episodes_for_mean(difference: float, deviation: float, wanted: float = 0.8, level: float = 0.05) -> int:
    """Return about how many paired episodes tell a difference of means, given the deviation of the paired differences.

    At least as many as the sign-change test needs to be below ``level`` at all: all of n differences on one side have p = 2 / 2^n.

    Raises:
        InputError: for a difference of 0.
    """
    if not difference:
        raise InputError("difference to tell: expected another number than 0")
    quantiles = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(wanted)
    return max(math.floor(1 - math.log2(level)) + 1, math.ceil((quantiles * deviation / difference) ** 2))
