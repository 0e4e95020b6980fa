"""Whether a stop stays clear of every barrier on its whole way, from a few evaluations.

A distance changes by at most the lever arm of each joint times what that joint travels. Between two configurations with
distances h1 and h2 and travels d, it is therefore never below (h1 + h2 - L . d) / 2 (conservative advancement). Intervals for
which that does not decide are split; a way that is not decided after a number of evaluations counts as unsafe.
"""

from __future__ import annotations

import numpy as np

from real.safety.barriers import Barriers
from real.safety.brake import Brake

_PARTS = 4  # into which an undecided interval is split
_MOST = 24  # configurations in all
_INNER = np.linspace(0, 1, _PARTS + 1)[1:-1] ** 1.5  # shares of an interval; most of the way is made early


class Certifier:
    """Decides about stops of one robot.

    Args:
        barriers: Where it must not be.
    """

    def __init__(self, barriers: Barriers) -> None:
        self._barriers = barriers
        self._arms = np.ascontiguousarray(barriers.lever_arms.T)

    def clear(self, start: np.ndarray, brake: Brake, least: np.ndarray, also: np.ndarray) -> tuple[bool, np.ndarray, np.ndarray]:
        """Decide about one stop.

        Args:
            start: Joint positions (n,) at which the stop begins.
            brake: The stop (n,).
            least: Distance (K,) that must be kept.
            also: Further joint positions (n,) whose distances are wanted.

        Returns:
            Whether it is certainly clear; the distances (K,) at ``start``; those at ``also``.
        """
        end = start + brake.displacement
        h = self._barriers.path(np.concatenate([start, end, also]).reshape(3, -1))
        here, there = h[0], h[2]
        if np.count_nonzero(h[:2] >= least) != 2 * len(least):  # nor is a NaN
            return False, here, there
        if not np.count_nonzero((here + h[1] - brake.travel @ self._arms) * 0.5 < least):
            return True, here, there
        times = np.array([0.0, float(brake.duration.max())])
        travel = np.stack([np.zeros_like(brake.travel), brake.travel])
        return self._split(start, brake, least, [(values[:1], values[1:]) for values in (times, travel, h[:2])]), here, there

    def _split(self, start: np.ndarray, brake: Brake, least: np.ndarray, ends: list[tuple[np.ndarray, np.ndarray]]) -> bool:
        """Whether all intervals are clear; ``ends``: times, travels and distances where they begin and end."""
        used = 2
        while True:
            begin, end = ends[0]
            used += len(begin) * (_PARTS - 1)
            if used > _MOST:
                return False
            times = (begin[:, None] + (end - begin)[:, None] * _INNER).ravel()
            moved, travel = brake.way(times[:, None])
            h = self._barriers.path(start + moved)
            if np.count_nonzero(h >= least) != h.size:
                return False
            ends = [_parts(first, inner, last) for (first, last), inner in zip(ends, (times, travel, h), strict=True)]
            (_, _), (since, until), (first, last) = ends
            undecided = ((first + last - (until - since) @ self._arms) * 0.5 < least).any(axis=1)
            if not undecided.any():
                return True
            ends = [(first[undecided], last[undecided]) for first, last in ends]


def _parts(first: np.ndarray, inner: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values where the parts of each interval begin and end, from those at its ends (U, ...) and inside (U * (P - 1), ...)."""
    whole = np.concatenate([first[:, None], inner.reshape(len(first), _PARTS - 1, *first.shape[1:]), last[:, None]], axis=1)
    return whole[:, :-1].reshape(-1, *first.shape[1:]), whole[:, 1:].reshape(-1, *first.shape[1:])
