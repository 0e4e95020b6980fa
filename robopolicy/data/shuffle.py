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

    Attributes:
        kept: Orders that are remembered, those asked for last: as many as epochs are drawn from at a time, else they are made for every batch.
    """

    def __init__(self, seed: int, salt: int, count: int) -> None:
        """Begin; an epoch's order is made when it is asked for."""
        self._seed, self.count, self.kept = seed ^ salt, count, 2
        self._orders: dict[int, np.ndarray] = {}

    def order(self, epoch: int) -> np.ndarray:
        """Return the order (count,) int64 of an epoch."""
        order = self._orders.pop(epoch, None)
        if order is None:
            while len(self._orders) >= self.kept:
                del self._orders[next(iter(self._orders))]
            order = self._made(epoch)
        self._orders[epoch] = order  # behind those that were asked for before
        return order

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
