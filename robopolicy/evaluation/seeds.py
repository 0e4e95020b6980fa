"""Which episode seeds serve what: demonstrations, choosing (checkpoint, learning rate, temperature), reporting.

A policy that is chosen on the states it is reported on looks better than it is. Every use therefore has its own range
of ``SIZE`` seeds; the ranges cannot meet because a request that would leave its range is refused.
"""

from __future__ import annotations

import enum

import numpy as np

from policies.spec import InputError

SIZE = 1_000_000  # seeds per purpose


class Purpose(enum.IntEnum):
    """What seeds are for; the value is the first seed of the range ``[value, value + SIZE)``."""

    DEMONSTRATION = 0
    SELECTION = SIZE
    REPORT = 2 * SIZE


DEMONSTRATION, SELECTION, REPORT = (int(p) for p in Purpose)


def seeds(purpose: Purpose, count: int, offset: int = 0) -> np.ndarray:
    """Return ``count`` consecutive episode seeds (count,) int64 of ``purpose``, starting at its first plus ``offset``.

    Raises:
        InputError: if ``count`` is not positive or the seeds would leave the range of ``purpose``.
    """
    if count < 1:
        raise InputError(f"number of episodes: expected at least 1, found {count}")
    if count > SIZE:
        raise InputError(f"number of episodes: expected at most {SIZE}, as many as there are {purpose.name.lower()} seeds, found {count}")
    if not 0 <= offset <= SIZE - count:
        raise InputError(f"seed offset: expected 0 to {SIZE - count} for {count} {purpose.name.lower()} episodes, found {offset}")
    return np.arange(count, dtype=np.int64) + (int(purpose) + offset)


def purpose_of(seed: int) -> Purpose:
    """Return the purpose whose range holds ``seed``. Raises InputError when none does."""
    if not 0 <= seed < len(Purpose) * SIZE:
        raise InputError(f"seed {seed} belongs to no purpose: expected 0 to {len(Purpose) * SIZE - 1}")
    return Purpose(seed // SIZE * SIZE)
