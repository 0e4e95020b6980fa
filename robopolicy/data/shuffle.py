"""Orders of windows that are functions of (seed, epoch): nothing has to be saved to go on with them."""

from __future__ import annotations

import numpy as np

from policies.noise import row_keys


class Shuffle:
    """An endless order of ``count`` things, each once an epoch, in the order of a hash of (seed, epoch, thing).

    Args:
        seed: Of the order.
        salt: Keeps its keys apart from those of the noise and of other orders.
        count: Things in an epoch.
    """

    def __init__(self, seed: int, salt: int, count: int) -> None:
        """Begin; an epoch's order is made when it is asked for."""
        self._seed, self.count = seed ^ salt, count
        self._orders: dict[int, np.ndarray] = {}

    def order(self, epoch: int) -> np.ndarray:
        """Return the order (count,) int64 of an epoch; the last two that were asked for are kept."""
        if epoch not in self._orders:
            for old in [e for e in self._orders if e < epoch - 1 or e > epoch]:
                del self._orders[old]
            self._orders[epoch] = self._made(epoch)
        return self._orders[epoch]

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what stands at ``positions`` (B,) of the endless order, and in which epoch, (B,) int64 each."""
        epochs, offsets = np.divmod(positions, self.count)
        if (epochs == epochs[0]).all():
            return self.order(int(epochs[0]))[offsets], epochs
        out = np.empty_like(positions)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            out[mine] = self.order(int(epoch))[offsets[mine]]
        return out, epochs

    def _made(self, epoch: int) -> np.ndarray:
        return np.argsort(row_keys(self._seed, epoch, np.arange(self.count)), kind="stable")


__all__ = ["Shuffle"]
