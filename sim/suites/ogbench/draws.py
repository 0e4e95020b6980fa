"""The suite's random numbers under an episode's seed: it draws some of them from numpy's global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sim.episodes import hashed

_STREAM = 0x06B
_STREAMS = {"global": 0, "space": 1, "environment": 2, "oracle": 3}


def stream_seed(seed: int, stream: str) -> int:
    """Return the seed in [0, 2^32) of one of an episode's generators: ``global``, ``space``, ``environment``, ``oracle``."""
    return int(hashed(int(seed), _STREAM, _STREAMS[stream])[0] & 0xFFFFFFFF)


class GlobalDraws:
    """A state of numpy's global generator that belongs to one episode.

    Args:
        seed: Of the state, in [0, 2^32).
    """

    def __init__(self, seed: int) -> None:
        self._state: Any = np.random.RandomState(seed).get_state()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let ``np.random`` go on from this state inside the block; afterwards it is as it was before."""
        outside = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)
