"""Whether a stop stays clear of every barrier on its whole way, from a few evaluations.

A distance changes by at most the lever arm of each joint times what that joint travels. Between two configurations with
distances h1 and h2 and travels d, it is therefore never below (h1 + h2 - L . d) / 2 (conservative advancement). Intervals for
which that does not decide are split; a way that is not decided after a number of evaluations counts as unsafe.
"""

from __future__ import annotations

import numpy as np

from real.safety.barriers import Barriers
from real.safety.brake import Brake

_FIRST = np.array([0.0, 0.3, 1.0])  # shares of the stop's duration; most of the way is made early
_PARTS = 4  # into which an undecided interval is split
_MOST = 24  # configurations in all
_INNER = np.linspace(0, 1, _PARTS + 1)[1:-1]


class Certifier:
    """Decides about stops of one robot.

    Args:
        barriers: Where it must not be.
    """

    def __init__(self, barriers: Barriers) -> None:
        self._barriers = barriers
        self._arms = np.ascontiguousarray(barriers.lever_arms.T)

    def clear(self, start: np.ndarray, brake: Brake, row: int, least: np.ndarray, also: np.ndarray) -> tuple[bool, np.ndarray, np.ndarray]:
        """Decide about one stop.

        Args:
            start: Joint positions (n,) at which the stop begins.
            brake: Stops (R, n) of which row ``row`` is meant.
            row: Number of the stop.
            least: Distance (K,) that must be kept.
            also: Further joint positions (n,) whose distances are wanted.

        Returns:
            Whether it is certainly clear; the distances (K,) at ``start``; those at ``also``.
        """
        times = _FIRST * float(brake.duration[row].max())
        q, travel = _way(start, brake, row, times)
        h = self._barriers.path(np.concatenate([q, also[None]]))
        here, there, h = h[0], h[-1], h[:-1]
        if not (h >= least).all():  # nor is a NaN
            return False, here, there
        used = len(q)
        ends = [(values[:-1], values[1:]) for values in (times, travel, h)]  # where intervals begin and end
        while True:
            (_, _), (since, until), (first, last) = ends
            undecided = ((first + last - (until - since) @ self._arms) / 2 < least).any(axis=1)
            if not undecided.any():
                return True, here, there
            begin, end = (side[undecided] for side in ends[0])
            used += len(begin) * (_PARTS - 1)
            if used > _MOST:
                return False, here, there
            times = (begin[:, None] + (end - begin)[:, None] * _INNER).ravel()
            q, travel = _way(start, brake, row, times)
            h = self._barriers.path(q)
            if not (h >= least).all():
                return False, here, there
            ends = [_split(side[0][undecided], inner, side[1][undecided]) for side, inner in zip(ends, (times, travel, h), strict=True)]


def _split(first: np.ndarray, inner: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values where the parts of each interval begin and end, from those at its ends (U, ...) and inside (U * (P - 1), ...)."""
    whole = np.concatenate([first[:, None], inner.reshape(len(first), _PARTS - 1, *first.shape[1:]), last[:, None]], axis=1)
    return whole[:, :-1].reshape(-1, *first.shape[1:]), whole[:, 1:].reshape(-1, *first.shape[1:])


def _way(start: np.ndarray, brake: Brake, row: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and distances travelled (T, n) of one of the stops at ``times`` (T,)."""
    moved, travel = brake.way(times[:, None, None])
    return start + moved[:, row], travel[:, row]
