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
_ENDS = np.array([0.0, 1.0])
_INNER_AND_ENDS = np.concatenate([_ENDS[:1], _INNER, _ENDS[1:]])
_HALF = np.array(0.5)


class Certifier:
    """Decides about stops of one robot.

    Args:
        barriers: Where it must not be.
    """

    def __init__(self, barriers: Barriers) -> None:
        self._barriers = barriers
        self._arms = np.ascontiguousarray(barriers.lever_arms.T)
        self._careful = False

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
        times = (_INNER_AND_ENDS if self._careful else _ENDS) * float(brake.duration.max())
        moved, travel = brake.way(times[:, None])
        h = self._barriers.path(np.concatenate([start + moved, also[None]]))
        here, there, h = h[0], h[-1], h[:-1]
        used, ends = len(times), [(values[:-1], values[1:]) for values in (times, travel, h)]
        while True:
            if np.count_nonzero(h >= least) != h.size:  # nor is a NaN
                return False, here, there
            (begin, end), (since, until), (first, last) = ends
            below = (first + last - (until - since) @ self._arms) * _HALF < least
            if not np.count_nonzero(below):
                self._careful = used > 3  # what was undecided in one tick will be in the next
                return True, here, there
            undecided = below.any(axis=1)
            begin, end = begin[undecided], end[undecided]
            used += len(begin) * (_PARTS - 1)
            if used > _MOST:
                return False, here, there
            times = (begin[:, None] + (end - begin)[:, None] * _INNER).ravel()
            moved, travel = brake.way(times[:, None])
            h = self._barriers.path(start + moved)
            known = ((begin, end), (since[undecided], until[undecided]), (first[undecided], last[undecided]))
            ends = [_parts(*sides, inner) for sides, inner in zip(known, (times, travel, h), strict=True)]


def _parts(first: np.ndarray, last: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values where the parts of each interval begin and end, from those at its ends (U, ...) and inside (U * (P - 1), ...)."""
    whole = np.concatenate([first[:, None], inner.reshape(len(first), _PARTS - 1, *first.shape[1:]), last[:, None]], axis=1)
    return whole[:, :-1].reshape(-1, *first.shape[1:]), whole[:, 1:].reshape(-1, *first.shape[1:])
