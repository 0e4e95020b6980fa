"""Aggregates over the tasks of a suite: interquartile mean, optimality gap, probability of improvement, performance profiles.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". Intervals are of the
bootstrap, stratified by task: over training runs where every task has at least two, otherwise over the episodes of the one
run, which says nothing about another training seed. Everything is a function of its arguments: no global random state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.bootstrap import RESAMPLES, Estimate, generator, percentile, resampled, resampled_means

#: task -> its training runs, each the scores (episodes,) of one evaluation.
Runs = Mapping[str, Sequence[np.ndarray]]


def iqm(values: np.ndarray) -> np.ndarray:
    """Return the interquartile mean (...) of ``values`` (..., n): the mean of what is left without the lowest and highest quarter.

    A quarter is rounded down to whole values, as in ``scipy.stats.trim_mean``.
    """
    n = values.shape[-1]
    cut = n // 4
    return np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)


def optimality_gap(values: np.ndarray, target: float = 1.0) -> np.ndarray:
    """Return by how much ``values`` (..., n) stay below ``target`` on average (...); what is above it does not count."""
    return np.maximum(target - values, 0.0).mean(axis=-1)


def _scores(runs: Runs) -> list[np.ndarray]:
    """Return the score of every run, (runs,) a task."""
    if not runs or not all(len(task) for task in runs.values()):
        raise InputError("aggregates: expected at least one task, and at least one run of each")
    return [np.array([np.mean(np.asarray(run, np.float64)) for run in task]) for task in runs.values()]


def over_runs(runs: Runs) -> bool:
    """Whether intervals are over training runs: every task has at least two."""
    return all(len(task) > 1 for task in runs.values())


def _drawn(runs: Runs, resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return bootstrap scores (resamples, runs) of every task."""
    if over_runs(runs):
        return resampled(_scores(runs), resamples, rng)
    return [np.stack([resampled_means(np.asarray(run, np.float64), resamples, rng) for run in task], axis=1) for task in runs.values()]


def _pooled(statistic: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    return lambda strata: statistic(np.concatenate(strata, axis=-1))


def _of_tasks(statistic: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    return lambda strata: statistic(np.stack([task.mean(-1) for task in strata], axis=-1))


def aggregates(runs: Runs, target: float = 1.0, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0) -> dict[str, Estimate]:
    """Return ``iqm``, ``mean``, ``median`` and ``optimality_gap`` of a suite with their intervals.

    IQM and optimality gap are over all runs of all tasks; mean and median over the tasks' means, so a task with more runs
    does not weigh more there.

    Args:
        runs: Scores (episodes,) of each run of each task; success is 0 or 1.
        target: Score below which the gap counts.
        resamples: Of the bootstrap.
        confidence: Coverage.
        seed: Of the bootstrap.

    Raises:
        InputError: if there is no task, or one without a run.
    """
    observed, drawn = _scores(runs), _drawn(runs, resamples, generator(seed))
    statistics = {
        "iqm": _pooled(iqm),
        "mean": _of_tasks(lambda x: x.mean(-1)),
        "median": _of_tasks(lambda x: np.median(x, axis=-1)),
        "optimality_gap": _pooled(lambda x: optimality_gap(x, target)),
    }
    return {name: percentile(statistic(drawn), float(statistic(observed)), confidence) for name, statistic in statistics.items()}


def improvement(first: Runs, second: Runs, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Return the probability that a run of ``first`` scores higher than one of ``second`` on a task drawn at random.

    Ties count half (the Mann-Whitney statistic of each task, averaged over the tasks that both have).

    Raises:
        InputError: if they share no task.
    """
    shared = [task for task in first if task in second]
    if not shared:
        raise InputError("probability of improvement: the two share no task")
    one, other = ({task: runs[task] for task in shared} for runs in (first, second))
    rng = generator(seed)

    def wins(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> np.ndarray:
        a_task = []
        for a, b in zip(x, y, strict=True):
            difference = a[..., :, None] - b[..., None, :]
            a_task.append(((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1)))
        return np.mean(a_task, axis=0)

    return percentile(wins(_drawn(one, resamples, rng), _drawn(other, resamples, rng)), float(wins(_scores(one), _scores(other))), confidence)


@dataclass(frozen=True)
class Profile:
    """Which share of the runs scores above a threshold.

    Attributes:
        thresholds: (k,) rising.
        share: (k,) of the runs of all tasks, each task with equal weight.
        low: (k,) lower edge of the pointwise band.
        high: (k,) upper edge.
    """

    thresholds: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def profile(runs: Runs, thresholds: np.ndarray, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Profile:
    """Return the performance profile of a suite over ``thresholds`` (k,), with pointwise bands."""
    observed, drawn = _scores(runs), _drawn(runs, resamples, generator(seed))
    tail = 50 * (1 - confidence)
    rows = []
    for threshold in thresholds:
        above = np.mean([(task > threshold).mean(-1) for task in drawn], axis=0)
        value = np.mean([(task > threshold).mean() for task in observed])
        rows.append((value, *np.percentile(above, [tail, 100 - tail])))
    share, low, high = np.array(rows).T
    return Profile(np.asarray(thresholds, np.float64), share, low, high)
