"""A sum tree: draws from a changing discrete distribution in logarithmic time, for many rows in one call (Schaul et al. 2016)."""

from __future__ import annotations

import numpy as np


class SumTree:
    """Weights of ``size`` leaves and, above them, the sums of pairs up to the root.

    Every inner number is the sum of its two children as they stand, so the tree is a function of its leaves: what was
    restored from them draws the same.

    Args:
        size: Number of leaves; they begin at 0.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._depth = max(1, (size - 1).bit_length())
        self._first = 1 << self._depth  # leaf i is node first + i, the root is node 1
        self._sums = np.zeros(2 * self._first)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._sums[1])

    @property
    def leaves(self) -> np.ndarray:
        """Weights (size,) float64; a view, to be changed by :meth:`set` alone."""
        return self._sums[self._first : self._first + self.size]

    def set(self, leaf: np.ndarray, weight: np.ndarray | float) -> None:
        """Give leaves (K,) int64 their ``weight`` (K,) or one number; of a leaf that is named twice the last one counts."""
        node = leaf + self._first
        self._sums[node] = weight
        pairs = self._sums.reshape(-1, 2)  # row i: the children of node i
        for _ in range(self._depth):
            node = node >> 1
            self._sums[node] = pairs[node].sum(1)

    def fill(self, weights: np.ndarray) -> None:
        """Give all leaves their ``weights`` (size,)."""
        self._sums[:] = 0.0
        self.leaves[:] = weights
        level = self._first
        while level > 1:
            self._sums[level // 2 : level] = self._sums[level : 2 * level].reshape(-1, 2).sum(1)
            level //= 2

    def find(self, height: np.ndarray) -> np.ndarray:
        """Return the leaf (K,) int64 in whose part of [0, total) each ``height`` (K,) lies; never one of weight 0 while total is positive."""
        node, height = np.ones(len(height), np.int64), height.copy()
        for _ in range(self._depth):
            node <<= 1
            left = self._sums[node]
            right = (height >= left) & (self._sums[node + 1] > 0.0)  # rounding may leave a height at the end of the last part
            height -= left * right
            node += right
        return node - self._first
