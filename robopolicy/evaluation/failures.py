"""Rare failures: the failure rate of a policy from fewer rollouts than plain Monte Carlo, without bias.

An episode is a pure function of its seed, and a reset is cheap beside a rollout. So M seeds, the pool, are reset, and the n
rollouts are spent in rounds on those where a failure is likelier, as a predictor says that has learnt from the rounds before:

1. The predictor gives every seed a chance to fail. The seeds not yet rolled out are cut into strata of like chance.
2. The round's rollouts go to the strata by Neyman's allocation, in proportion to N_k sqrt(p_k (1 - p_k)), but a fixed share,
   the defensive one, goes to them in proportion to their sizes N_k alone; within a stratum they are drawn at random
   without replacement.
3. The round's estimate of the pool's failure rate is R_t = (F_t + sum_k N_k y_k) / M: F_t failures are known from the
   rounds before, y_k is the share of failures among the n_k seeds drawn from stratum k.

**Unbiased, whatever the predictor says.** Let H_t be all that is known before round t. Strata and n_k are functions of H_t, and
given H_t each y_k is the mean of a simple random sample of its stratum, so E[R_t | H_t] is the pool's failure rate exactly. The
estimate is sum_t c_t R_t with weights c_t that are fixed before the first rollout and sum to one, so its mean is the pool's rate
too, and that of a pool of random seeds is the failure rate.

**Variance.** R_t less the pool's rate is a martingale difference, so the rounds are uncorrelated and the variance given the pool
is the mean of sum_t c_t^2 V_t, V_t = sum_k N_k^2 (1 - n_k / N_k) S_k^2 / (n_k M^2), for which every round gives the textbook's
unbiased estimate; the pool itself adds p (1 - p) / M. **Bound:** V_t is at most max_k n_t N_k / (N n_k) times that of n_t plain
rollouts, however wrong the predictor is. With defensive share a that is 1 / a, and somewhat more where each stratum's two
rollouts take from the share: for the defaults 2.7 to 3 with 2,000 or 1,000 rollouts, 4.8 with the fewest that can be, 230.

Sources: Neyman 1934; Cochran 1977, "Sampling Techniques", chapters 5 (stratified) and 12 (two-phase sampling); Hesterberg 1995
(defensive mixtures); Kossen et al. 2021, "Active Testing" (adaptive, unbiased evaluation); the interval: Fay & Feuer 1997 and Tiwari et al. 2006.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from policies.spec import InputError

#: Where strata are cut: shares of the seeds that are likelier to fail. Fine at the top, where a chance is a matter of a few seeds.
CUTS = (0.6, 0.35, 0.2, 0.12, 0.08, 0.05, 0.03, 0.02, 0.01, 0.005)
_BELIEF = 10.0  # rollouts that the predictor's word on a stratum is worth
_LEAST = 2  # rollouts of a stratum, so that its variance can be estimated
_FEW = 10  # failures below which the interval allows for one that weighs as much as any rollout could


class Outcomes(NamedTuple):
    """What rollouts came to.

    Attributes:
        failed: (n,) bool.
        margins: (n, m) float, any numbers that may tell near failures from easy successes (length, return, score); m may be 0.
    """

    failed: np.ndarray
    margins: np.ndarray


class Experience(NamedTuple):
    """Rollouts of other policies on the task, an earlier checkpoint's say, from before the search: they tell where it is difficult.

    Attributes:
        features: (k, d) float, as of the pool.
        outcomes: What they came to, with the same margins.
    """

    features: np.ndarray
    outcomes: Outcomes


#: Rolls out seeds, given as their places (n,) in the pool.
Roll = Callable[[np.ndarray], Outcomes]
#: (features (M, d), places rolled out (n,), their outcomes) -> chance to fail (M,); of a place in (n,): without its own outcome.
Predict = Callable[[np.ndarray, np.ndarray, Outcomes], np.ndarray]
#: ``Design.gains`` with experience: the first round is not even then.
EXPERIENCED = (3.0, 3.0, 3.5, 4.0, 4.0, 5.0)


@dataclass(frozen=True)
class Design:
    """How rollouts are spent; all of it is fixed before the first, which is what keeps the estimate unbiased.

    Attributes:
        rollouts: n.
        shares: Of the rollouts, by round; the first is drawn evenly where nothing is known yet.
        gains: By how much a rollout of each round is expected to be worth more than a plain one; c_t is in proportion to n_t times
            this. Wrong guesses cost variance, not bias.
        defensive: a, the share of each later round that is spent evenly.
        seed: Of the draws.
    """

    rollouts: int
    shares: tuple[float, ...] = (0.15, 0.1, 0.15, 0.2, 0.2, 0.2)
    gains: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 5.0)
    defensive: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.gains) or min(self.shares) <= 0 or min(self.gains) <= 0 or not math.isclose(sum(self.shares), 1.0):
            raise InputError(f"design: expected as many positive gains as shares, which sum to 1, found {self.shares} and {self.gains}")
        if not 0 < self.defensive <= 1:
            raise InputError(f"design: defensive share: expected a number above 0 and at most 1, found {self.defensive:g}")
        if min(self.sizes) < 2 * (len(CUTS) + 1):
            raise InputError(f"failures: expected at least {self.least} rollouts, found {self.rollouts}; with so few use `robopolicy eval`")

    def require_pool(self, pool: int) -> None:
        """Refuse a pool of fewer seeds than four times the rollouts. Raises InputError."""
        if pool < 4 * self.rollouts:
            raise InputError(f"failures: a pool of {pool} seeds is too small for {self.rollouts} rollouts: expected at least {4 * self.rollouts}")

    @property
    def least(self) -> int:
        """The fewest rollouts that can be: two for every stratum of the smallest round."""
        return math.ceil((2 * len(CUTS) + 3) / min(self.shares))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rollouts of every round, n_t."""
        ends = [round(self.rollouts * share) for share in np.cumsum(self.shares)]
        return tuple(int(n) for n in np.diff([0, *ends]))

    @property
    def weights(self) -> np.ndarray:
        """Return c_t (T,), which sum to 1."""
        raw = np.array(self.sizes) * np.array(self.gains)
        return raw / raw.sum()


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        places: (n,) int64 places in the pool.
        chance: (n,) probability with which each was drawn.
        failed: (n,) bool.
        estimate: R_t.
        variance: Unbiased estimate of V_t.
    """

    places: np.ndarray
    chance: np.ndarray
    failed: np.ndarray
    estimate: float
    variance: float


@dataclass(frozen=True)
class FailureRate:
    """An estimate, with all that it rests on.

    Attributes:
        rate: Of episodes that fail.
        low: Lower end of its 95 % interval.
        high: Upper end.
        variance: Of ``rate``, of which ``pool_variance`` is due to the pool being a sample.
        pool_variance: p (1 - p) / M.
        pool: M.
        places: (n,) int64, seeds rolled out, as places in the pool, in the order of the rounds.
        weights: (n,) what a failure there counts: ``rate`` is their sum over those that failed.
        failed: (n,) bool.
        rounds: One by one.
    """

    rate: float
    low: float
    high: float
    variance: float
    pool_variance: float
    pool: int
    places: np.ndarray
    weights: np.ndarray
    failed: np.ndarray
    rounds: tuple[Round, ...]

    @property
    def rollouts(self) -> int:
        """How many were made."""
        return len(self.places)

    @property
    def failures(self) -> int:
        """How many of them failed."""
        return int(self.failed.sum())

    @property
    def plain_rollouts(self) -> float:
        """Plain Monte Carlo rollouts with the same variance, p (1 - p) / variance: the effective sample size. None or all failed: as many as were made."""
        return self.rate * (1.0 - self.rate) / self.variance if self.variance > 0 else float(self.rollouts)


def estimate_failure_rate(
    design: Design, features: np.ndarray, roll: Roll, predict: Predict | None = None, experience: Experience | None = None
) -> FailureRate:
    """Estimate the failure rate; see the module's text for why it is unbiased.

    Args:
        design: How rollouts are spent.
        features: (M, d) float, what a reset shows of each seed of the pool.
        roll: Rolls out.
        predict: Says where failures are likely; None: :func:`robopolicy.evaluation.failures_predictor.predict`.
        experience: Whose rollouts this predictor also learns from; the first round is not even then. It is fixed before the first
            rollout, so the estimate is as unbiased as without.

    Raises:
        InputError: if the pool is smaller than four times the rollouts, a predictor's answer is not (M,) finite numbers, or experience
            is given with a predictor of one's own or does not go with the pool.
    """
    from robopolicy.evaluation import failures_predictor

    if predict is not None and experience is not None:
        raise InputError("failures: experience is for the learnt predictor, and another is given")
    predict, pool = predict or functools.partial(failures_predictor.predict, experience=experience), len(features)
    design.require_pool(pool)
    places, failed, rounds = np.zeros(0, np.int64), np.zeros(0, bool), []
    margins = None if experience is None else np.zeros((0, experience.outcomes.margins.shape[1]))
    for number, size in enumerate(design.sizes):
        fresh = np.ones(pool, bool)
        fresh[places] = False
        left = np.flatnonzero(fresh)
        if margins is None:
            labels, anticipated = np.zeros(len(left), np.int64), np.full(1, 0.5)
        else:
            chance = _checked(predict(features, places, Outcomes(failed, margins)), pool)
            labels, anticipated = stratify(chance[left], chance[places], failed)
        counts = np.bincount(labels)
        taken = allocate(counts, np.sqrt(anticipated * (1 - anticipated)), size, design.defensive)
        drawn = draw(labels, taken, np.random.Generator(np.random.Philox(key=[design.seed, number])))
        found = roll(left[drawn])
        rounds.append(_round(left[drawn], labels[drawn], counts, taken, np.asarray(found.failed, bool), int(failed.sum()), pool))
        margins = found.margins if margins is None else np.concatenate([margins, found.margins])
        places, failed = np.concatenate([places, left[drawn]]), np.concatenate([failed, rounds[-1].failed])
    return combine(rounds, design.weights, pool)


def _checked(chance: np.ndarray, pool: int) -> np.ndarray:
    chance = np.asarray(chance, np.float64)
    if chance.shape != (pool,) or not np.isfinite(chance).all():
        raise InputError(f"failures: the predictor: expected {pool} finite numbers, found shape {chance.shape}")
    return np.clip(chance, 1e-6, 1.0)


def stratify(chance: np.ndarray, known_chance: np.ndarray, known_failed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut seeds into strata of like chance at ``CUTS`` and say what to expect of each.

    Only the order of the chances decides the strata, of which each has at least four seeds. What is expected of one is its mean
    chance, corrected by the rollouts known in it.

    Args:
        chance: (N,) in (0, 1], of the seeds that are left.
        known_chance: (n,) of those rolled out.
        known_failed: (n,) bool.

    Returns:
        Stratum (N,) int64 of every seed, from 0, the least likely to fail, and the expected failure rate (K,) in (0, 1) of each.
    """
    order, firsts = np.argsort(chance, kind="stable"), [0]
    for cut in (round(len(chance) * (1 - share)) for share in CUTS):
        if cut - firsts[-1] >= 2 * _LEAST and len(chance) - cut >= 2 * _LEAST:
            firsts.append(cut)
    labels = np.empty(len(chance), np.int64)
    labels[order] = np.searchsorted(np.array(firsts), np.arange(len(chance)), side="right") - 1
    known = np.searchsorted(chance[order][firsts[1:]], known_chance, side="right")
    count = len(firsts)
    believed = np.bincount(labels, chance, count) / np.bincount(labels, minlength=count)
    seen, failures = np.bincount(known, minlength=count), np.bincount(known, known_failed.astype(np.float64), count)
    return labels, np.clip((failures + _BELIEF * believed) / (seen + _BELIEF), 1e-6, 1 - 1e-6)


def allocate(counts: np.ndarray, spread: np.ndarray, total: int, defensive: float) -> np.ndarray:
    """Return how many to draw from each stratum (K,) int64: at least two, or all of it, at most all, ``total`` together.

    Args:
        counts: (K,) seeds in each, N_k.
        spread: (K,) expected standard deviation of an outcome in each.
        total: At least twice the number of strata, at most all seeds.
        defensive: Share that goes by size alone.
    """
    counts = np.asarray(counts, np.int64)
    least = np.minimum(counts, _LEAST)
    if not least.sum() <= total <= counts.sum():
        raise InputError(f"allocation: expected {least.sum()} to {counts.sum()} draws from these strata, found {total}")
    product = counts * np.asarray(spread, np.float64)
    neyman = product / product.sum() if product.sum() > 0 else counts / counts.sum()
    wanted = total * (defensive * counts / counts.sum() + (1 - defensive) * neyman)
    low, high = 0.0, 2.0 + float((counts / np.maximum(wanted, 1e-300)).max())
    for _ in range(60):  # the factor at which the clipped wishes sum to the total
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(wanted * middle, least, counts).sum() < total else (low, middle)
    exact = np.clip(wanted * high, least, counts)
    taken = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((np.arange(len(counts)), taken - exact))  # largest remainders first
    while (short := total - int(taken.sum())) != 0:
        step = 1 if short > 0 else -1
        free = [k for k in order if (taken[k] < counts[k] if step > 0 else taken[k] > least[k])]
        taken[free[: abs(short)]] += step
    return taken


def draw(labels: np.ndarray, taken: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return ``taken[k]`` random places of every stratum k, without replacement, as one array (n,) int64 in ascending order.

    Args:
        labels: (N,) stratum of each place.
        taken: (K,) how many of each.
        generator: Source of randomness.
    """
    order = np.lexsort((generator.random(len(labels)), labels))
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < taken[ordered]])


def _round(places: np.ndarray, labels: np.ndarray, counts: np.ndarray, taken: np.ndarray, failed: np.ndarray, known: int, pool: int) -> Round:
    """Return the round with its estimate of the pool's rate and that estimate's variance (module's text, step 3)."""
    share = np.bincount(labels, failed.astype(np.float64), len(counts)) / taken
    spread = np.where(taken > 1, share * (1 - share) * taken / np.maximum(taken - 1, 1), 0.0)
    variance = float((counts**2 * (1 - taken / counts) * spread / taken).sum()) / pool**2
    return Round(places, (taken / counts)[labels], failed, (known + float((counts * share).sum())) / pool, variance)


def combine(rounds: list[Round], weights: np.ndarray, pool: int) -> FailureRate:
    """Join rounds with fixed ``weights`` (T,) into one estimate with its interval."""
    later = weights.sum() - np.cumsum(weights)  # a failure is counted as known in every round after its own
    own = np.concatenate([(c / r.chance + rest) / pool for c, rest, r in zip(weights, later, rounds, strict=True)])
    failed, places = np.concatenate([r.failed for r in rounds]), np.concatenate([r.places for r in rounds])
    rate = float(own[failed].sum() / own.sum())  # they sum to 1, but for rounding: where all failed it is 1
    given_pool = float(sum(c**2 * r.variance for c, r in zip(weights, rounds, strict=True)))
    of_pool = rate * (1 - rate) / pool
    low, high = interval(rate, given_pool + of_pool, int(failed.sum()), len(own), float(own.max()))
    return FailureRate(rate, low, high, given_pool + of_pool, of_pool, pool, places, own, failed, tuple(rounds))


def interval(rate: float, variance: float, failures: int, rollouts: int, heaviest: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the gamma interval of a sum of weighted rare counts.

    Failures are rare, so ``rate`` is nearly a weighted sum of Poisson counts, for which Fay & Feuer 1997 bound the mean by gamma
    quantiles: below those with its own mean and variance, above those after one more failure of weight w, which may just have
    been missed. With equal weights that is Garwood's exact interval. w is the heaviest there can be when fewer than ten failures
    were seen (theirs, conservative: without a failure and with equal weights the rule of three), else the mean weight, 1 / n, or
    that of the failures seen where it is larger (Tiwari et al. 2006). Above one half successes are the rarer: 1 less their interval.

    Args:
        rate: Estimate.
        variance: Its variance.
        failures: How many it rests on.
        rollouts: n.
        heaviest: Largest weight of any rollout.
        confidence: Coverage.
    """
    from scipy.stats import gamma

    if rate > 0.5:
        low, high = interval(1.0 - rate, variance, rollouts - failures, rollouts, heaviest, confidence)
        return 1.0 - high, 1.0 - low
    tail = (1 - confidence) / 2
    weight = heaviest if failures < _FEW else max(1.0 / rollouts, variance / rate)
    above, spread = rate + weight, variance + weight**2
    high = float(gamma.ppf(1 - tail, above**2 / spread, scale=spread / above))
    low = float(gamma.ppf(tail, rate**2 / variance, scale=variance / rate)) if failures and variance > 0 else 0.0
    return low, min(1.0, high)
