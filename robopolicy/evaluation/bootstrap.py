"""Bootstrap intervals: strata resampled independently, by counter-based random numbers, without a loop over resamples.

Drawn index by index as ``scipy.stats.bootstrap`` draws them, so that equal generators give equal intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from policies.spec import InputError

RESAMPLES = 5000
_CHUNK = 1 << 22  # numbers drawn at once


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The figure.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def generator(seed: int) -> np.random.Generator:
    """Return the generator that stands for ``seed``: the same numbers everywhere, whatever was drawn before."""
    return np.random.Generator(np.random.Philox(key=seed))


def resampled(strata: Sequence[np.ndarray], resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw from every stratum (n_i,) with replacement; returns (resamples, n_i) each.

    Raises:
        InputError: if a stratum is empty or holds a number that is not finite.
    """
    out = []
    for values in strata:
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise InputError(f"bootstrap: expected strata (n,) of finite numbers, found one of shape {values.shape}")
        out.append(values[rng.integers(0, len(values), (resamples, len(values)))])
    return out


def resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the means (resamples,) of as many draws from ``values`` (n,), with replacement; outcomes 0 and 1 are counted, not drawn."""
    n = len(values)
    if np.isin(values, (0.0, 1.0)).all():
        return rng.binomial(n, values.mean(), resamples) / n
    rows = max(1, _CHUNK // n)
    return np.concatenate([values[rng.integers(0, n, (min(rows, resamples - at), n))].mean(1) for at in range(0, resamples, rows)])


def percentile(distribution: np.ndarray, value: float, confidence: float = 0.95) -> Estimate:
    """Return ``value`` with the percentile interval of its bootstrap ``distribution`` (resamples,)."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(distribution, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def bca(distribution: np.ndarray, value: float, jackknife: Sequence[np.ndarray], confidence: float = 0.95) -> Estimate:
    """Return ``value`` with its bias-corrected and accelerated interval (Efron 1987; several samples as in scipy).

    Args:
        distribution: (resamples,) of the statistic.
        value: The statistic of what was observed.
        jackknife: For every stratum the statistic (n_i,) without each of its members in turn.
        confidence: Coverage.

    A distribution that is one point, or that lies on one side of ``value``, has the percentile interval.
    """
    normal = NormalDist()
    share = ((distribution < value).mean() + (distribution <= value).mean()) / 2
    top = bottom = 0.0
    for without in jackknife:
        u = (len(without) - 1) * (without.mean() - without)
        top += float((u**3).sum()) / len(without) ** 3
        bottom += float((u**2).sum()) / len(without) ** 2
    if not 0 < share < 1 or bottom <= 0:
        return percentile(distribution, value, confidence)
    acceleration, bias = top / (6 * bottom**1.5), normal.inv_cdf(share)
    ends = []
    for quantile in ((1 - confidence) / 2, (1 + confidence) / 2):
        moved = bias + normal.inv_cdf(quantile)
        ends.append(100 * normal.cdf(bias + moved / (1 - acceleration * moved)))
    low, high = np.percentile(distribution, ends)
    return Estimate(value, float(low), float(high))


def stratified(
    strata: Sequence[np.ndarray],
    statistic: Callable[[Sequence[np.ndarray]], np.ndarray],
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> Estimate:
    """Return a statistic with the percentile interval of the stratified bootstrap.

    Args:
        strata: (n_i,) each, resampled independently.
        statistic: Takes strata (..., n_i) and returns (...), over their last axes.
        resamples: How many.
        confidence: Coverage.
        rng: None: that of seed 0.
    """
    drawn = resampled(strata, resamples, generator(0) if rng is None else rng)
    return percentile(statistic(drawn), float(statistic(strata)), confidence)
