"""The one quadratic program of a tick: the nearest motion that barriers allow, inside the interval of each joint.

In x, of one unit per half interval around the wanted motion: minimise |x|^2 / 2 with x in a box and, softly, rows A x >= b.
A solver's word is not taken for it: status, finiteness, box and rows are checked on every solve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: ``solve(H, f, A, upper, lower, sense) -> (x, cost, exit flag, info)``, the interface of ``daqp.solve``.
Solver = Callable[..., tuple[np.ndarray, float, int, Any]]

_OPTIMAL, _SOFT_OPTIMAL = 1, 2  # exit flags: all rows hold; some rows are eased
_SOFT = 8  # a row that may be eased
_TOLERANCE = 1e-5  # of box (units of the interval) and rows


class SolverFailed(ArithmeticError):
    """The solver's answer cannot be used; the message says why."""


@dataclass
class Solution:
    """What was found.

    Attributes:
        x: (n,) inside the box.
        active: (K,) bool: rows that hold with equality or are eased.
        eased: (K,) bool: rows that do not hold.
    """

    x: np.ndarray
    active: np.ndarray
    eased: np.ndarray


class Program:
    """Solves programs of one size.

    Args:
        n: Number of joints.
        rows: Number of rows K.
        solve: The solver; None: daqp.
    """

    def __init__(self, n: int, rows: int, solve: Solver | None = None) -> None:
        import daqp

        self._solve: Any = solve or daqp.solve
        self._hessian, self._linear = np.eye(n), np.zeros(n)
        self._upper, self._lower = np.full(n + rows, 1e30), np.empty(n + rows)
        self._sense = np.zeros(n + rows, np.int32)
        self._sense[n:] = _SOFT
        self._n = n

    def nearest(self, low: np.ndarray, high: np.ndarray, a: np.ndarray, b: np.ndarray) -> Solution:
        """Return the x nearest to zero with ``low <= x <= high`` (n,) and, as far as possible, ``a @ x >= b`` with a (K, n), b (K,).

        Raises SolverFailed if the inputs or the answer are not finite, the status is not optimal, or box or rows are broken.
        """
        n = self._n
        self._upper[:n], self._lower[:n], self._lower[n:] = high, low, b
        if not (_finite(self._lower) and _finite(high) and _finite(a)):
            raise SolverFailed("the program is not finite")
        # The solver keeps and scales what it is given: it gets copies of what is used again.
        x, _, status, _ = self._solve(
            self._hessian.copy(), self._linear.copy(), np.ascontiguousarray(a), self._upper.copy(), self._lower.copy(), self._sense.copy()
        )
        x = np.asarray(x, np.float64)
        if status not in (_OPTIMAL, _SOFT_OPTIMAL):
            raise SolverFailed(f"status {status}")
        if x.shape != (n,) or not _finite(x):
            raise SolverFailed("the answer is not finite")
        if np.count_nonzero((x > high + _TOLERANCE) | (x < low - _TOLERANCE)):
            raise SolverFailed("the answer is outside its box")
        left = a @ x - b
        eased = left < -_TOLERANCE
        if status == _OPTIMAL and np.count_nonzero(eased):
            raise SolverFailed("a row does not hold although the status says so")
        return Solution(np.minimum(np.maximum(x, low), high), left < _TOLERANCE, eased)


def _finite(x: np.ndarray) -> bool:
    return np.count_nonzero(np.isfinite(x)) == x.size
