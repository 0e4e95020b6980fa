"""Random numbers that are a function of (seed, stream, how many were drawn before) alone, one row an episode.

A generator object per episode costs more than an episode's first physics step; these are array code over all episodes that
begin, and row k never depends on which others begin with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sim.episodes import hashed, mixed

Bound = float | Sequence[float] | np.ndarray

_NOTHING, _LAST_BIT = np.zeros(1, np.uint64), np.uint64(1)


class Draws:
    """Draws for K episodes; every call gives (K, *shape) and goes on in each episode's own sequence.

    Args:
        seeds: (K,) int64, of the episodes.
        stream: What the numbers are for: sequences of different streams are independent.
        first: (K, L), the first numbers of each sequence (:func:`unit_numbers`) where they are known; computed otherwise.
    """

    def __init__(self, seeds: np.ndarray, stream: int = 0, first: np.ndarray | None = None) -> None:
        self._seeds, self._stream, self.drawn = np.asarray(seeds, np.int64), stream, 0
        self._first = first
        self._known = 0 if first is None else first.shape[1]
        self._prefix: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._seeds)

    @property
    def seeds(self) -> np.ndarray:
        """(K,) int64 of the episodes."""
        return self._seeds

    def _unit(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return (K, *shape) float64, uniform in [0, 1)."""
        begin, self.drawn = self.drawn, self.drawn + math.prod(shape)
        if self._first is not None and self.drawn <= self._known:
            return self._first[:, begin : self.drawn].reshape(len(self._seeds), *shape)
        if self._prefix is None:
            self._prefix = _sequences(self._seeds, self._stream)
        return _numbers(self._prefix, begin, self.drawn).reshape(len(self._seeds), *shape)

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


def unit_numbers(seeds: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Return the first ``count`` numbers (*shape, count), uniform in [0, 1), of the sequences of ``seeds`` (*shape)."""
    return _numbers(_sequences(seeds, stream), 0, count)


def _sequences(seeds: np.ndarray, stream: int) -> np.ndarray:
    """Return the hash (*shape, 1) that every number of a sequence begins with."""
    return mixed(mixed(_NOTHING, np.asarray(seeds, np.int64)[..., None]), stream)


def _numbers(prefix: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return numbers ``begin`` to ``end`` of the sequences of ``prefix`` (*shape, 1), as (*shape, end - begin)."""
    return (mixed(prefix, np.arange(begin, end)) >> _LAST_BIT).view(np.int64) * 2.0**-63


class Ahead:
    """The next episodes of N worlds that begin anew by themselves: their seeds, and the first numbers of their draws.

    Few worlds end in a step, and hashing for few costs as much as for hundreds: what the coming episodes of all worlds need
    is computed at once, many episodes ahead. The numbers are those that :class:`Draws` computes.

    Args:
        num_worlds: N.
        stream: Of the draws.
        numbers: How many are kept at most.
    """

    def __init__(self, num_worlds: int, stream: int, numbers: int = 1 << 16) -> None:
        self._num_worlds, self._stream, self._numbers = num_worlds, stream, numbers
        self._next = np.zeros(num_worlds, np.int64)  # (N,) rows of the next episodes in what was computed; row 0 is none
        self._seeds, self._first = np.full(1, -1), np.zeros((1, 0))  # a seed -1 ends each world's episodes
        self._asked: tuple[np.ndarray, np.ndarray] | None = None
        self._lent: Draws | None = None
        self._length = 1

    def seeds(self, rows: np.ndarray, roots: np.ndarray, counts: np.ndarray, first_world: int = 0) -> np.ndarray:
        """Return the seeds (K,) of episodes ``counts`` (N,) of worlds ``rows`` (K,), whose first seeds were ``roots`` (N,).

        ``first_world`` is the index of the first of the N worlds among all.
        """
        if self._lent is not None and self._lent.drawn > self._length:
            self._length = self._lent.drawn
            self._next.fill(0)
        at = self._next[rows]
        seeds = self._seeds[at]
        if np.minimum.reduce(seeds) < 0:
            episodes = min(self._numbers // (self._num_worlds * self._length), 16)
            if episodes < 2:
                return hashed(roots[rows], rows + first_world, counts[rows])
            begin = counts + 1  # the present one of the other worlds runs
            begin[rows] = counts[rows]
            self._compute(roots, begin, episodes, first_world)
            at = self._next[rows]
            seeds = self._seeds[at]
        self._next[rows] = at + 1
        self._asked = rows, at
        return seeds

    def _compute(self, roots: np.ndarray, counts: np.ndarray, episodes: int, first_world: int) -> None:
        """Compute the next ``episodes`` of every world, from ``counts`` (N,) on."""
        worlds = np.arange(self._num_worlds)[:, None]
        seeds = hashed(roots[:, None], worlds + first_world, counts[:, None] + np.arange(episodes + 1))
        numbers = unit_numbers(seeds, self._stream, self._length)
        seeds[:, episodes] = -1
        self._seeds = np.concatenate([[-1], seeds.ravel()])
        self._first = np.concatenate([np.zeros((1, self._length)), numbers.reshape(-1, self._length)])
        self._next = 1 + np.arange(self._num_worlds) * (episodes + 1)

    def draws(self, rows: np.ndarray, seeds: np.ndarray) -> Draws:
        """Return the draws of episodes with ``seeds`` (K,) in worlds ``rows`` (K,): those just asked for, or any others."""
        asked, self._asked = self._asked, None
        if asked is not None and asked[0] is rows:
            self._lent = Draws(seeds, self._stream, self._first[asked[1]])
        else:
            self._next[rows] = 0  # these worlds have new first seeds
            self._lent = Draws(seeds, self._stream)
        return self._lent
