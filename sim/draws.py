"""Random numbers that are a function of (seed, stream, how many were drawn before) alone, one row an episode.

A generator object per episode costs more than an episode's first physics step; these are array code over all episodes that
begin, and row k never depends on which others begin with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.episodes import hashed

Bound = float | Sequence[float] | np.ndarray


class Draws:
    """Draws for K episodes; every call gives (K, *shape) and goes on in each episode's own sequence.

    Args:
        seeds: (K,) int64, of the episodes.
        stream: What the numbers are for: sequences of different streams are independent.
    """

    def __init__(self, seeds: np.ndarray, stream: int = 0) -> None:
        self._seeds, self._stream, self._drawn = np.asarray(seeds, np.int64), stream, 0

    def __len__(self) -> int:
        return len(self._seeds)

    @property
    def seeds(self) -> np.ndarray:
        """(K,) int64 of the episodes."""
        return self._seeds

    def _unit(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return (K, *shape) float64, uniform in [0, 1)."""
        count = int(np.prod(shape))
        lanes = self._drawn + np.arange(count)
        self._drawn += count
        bits = hashed(self._seeds[:, None], self._stream, lanes[None, :])
        return (bits.astype(np.float64) * 2.0**-63).reshape(len(self._seeds), *shape)

    def uniform(self, low: Bound = 0.0, high: Bound = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return (K, *shape) float64 in [low, high); bounds broadcast against ``shape``."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        return low + (high - low) * self._unit(shape)

    def normal(self, mean: Bound = 0.0, std: Bound = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return (K, *shape) float64 normals (Box and Muller 1958)."""
        radius, angle = self._unit(shape), self._unit(shape)
        return np.asarray(mean) + np.asarray(std) * np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return (K, *shape) int64 in [low, high)."""
        return np.minimum(low + np.floor((high - low) * self._unit(shape)), high - 1).astype(np.int64)
