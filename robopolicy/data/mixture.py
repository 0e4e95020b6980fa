"""Training batches from several data sets: demonstrations, and what people did who took over, each with its weight.

An epoch holds ``weight`` times the windows of every set, in an order that is a function of (seed, epoch); each set's own windows are
visited evenly, in its own order. So batch n is a pure function of (data, weights, seed, n), as it is of one set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.spec import InputError
from robopolicy.data.batches import Batches
from robopolicy.data.shuffle import Shuffle
from robopolicy.data.windows import WindowSampler

_ORDER = 0x0313A  # keeps the keys of the order apart from those of the noise and of a set's own order


class MixtureSampler(Batches):
    """Draws batches of windows from several samplers; see :class:`robopolicy.data.windows.WindowSampler`.

    Args:
        samplers: One a set, with the same fields and sizes.
        weights: How often each set's windows come in an epoch, above 0.
        seed: Of the order and of the row keys.
        buffers: A batch stays valid until this many more have been drawn.

    Attributes:
        num_windows: Windows in an epoch.

    Raises:
        InputError: if weights leave nothing of a set.
    """

    def __init__(self, samplers: Sequence[WindowSampler], weights: Sequence[float], seed: int, buffers: int = 4) -> None:
        super().__init__(samplers[0].batch_size, seed, buffers)
        self.samplers, self.horizon, self.n_obs_steps = list(samplers), samplers[0].horizon, samplers[0].n_obs_steps
        self._counts = np.array([round(weight * sampler.num_windows) for sampler, weight in zip(samplers, weights, strict=True)], np.int64)
        for sampler, count, weight in zip(samplers, self._counts, weights, strict=True):
            if count < 1:
                raise InputError(f"data set {sampler.dataset.path}: weight {weight:g} leaves nothing of its {sampler.num_windows} windows")
            sampler.drawn_in_stretches(int(count))
        self._first = np.concatenate([[0], np.cumsum(self._counts)])
        self.num_windows = int(self._first[-1])
        self._shuffle = Shuffle(self.seed, _ORDER, self.num_windows)

    def draw(self, positions: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """See base class."""
        which, own = self.locate(positions)
        for k, sampler in enumerate(self.samplers):
            rows = np.flatnonzero(which == k)
            if not rows.size:
                continue
            part = {name: np.empty((len(rows), *array.shape[1:]), array.dtype) for name, array in out.items()}
            sampler.draw(own[rows], part)
            for name, array in part.items():
                out[name][rows] = array

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """See base class; the sets have the same fields."""
        return self.samplers[0].empty(rows)

    def remarks(self) -> list[str]:
        """See base class."""
        return [line for sampler in self.samplers for line in sampler.remarks()]

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the set of each of the positions (B,), and the position in that set's own endless order, (B,) int64 each."""
        mixed, epochs = self._shuffle.at(positions)
        which = np.searchsorted(self._first, mixed, side="right") - 1
        return which, epochs * self._counts[which] + mixed - self._first[which]
