"""Batch n of an endless order of windows: whole, or the share of one of several processes, in arrays that are used again."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from policies.noise import row_keys
from policies.spec import InputError


class Batches(ABC):
    """Draws batches; what a position of the order holds, the subclass says.

    Args:
        batch_size: Windows in a batch, over all processes.
        seed: Of the row keys.
        buffers: A batch stays valid until this many more have been drawn: its arrays are used again.

    Attributes:
        num_windows: Windows in an epoch.
    """

    num_windows: int

    def __init__(self, batch_size: int, seed: int, buffers: int) -> None:
        self.batch_size, self.seed = int(batch_size), int(seed)
        self._ring: list[dict[str, np.ndarray]] = [{} for _ in range(max(1, buffers))]
        self._turn = 0

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Return the rows of global batch ``step`` that belong to process ``rank`` of ``world``: a contiguous share.

        Returns:
            The batch: observation fields (b, To, *shape), ``action`` (b, Tp, Da) float32, ``action_is_pad`` (b, Tp) bool,
            with b = batch_size / world; and the row keys (b,) int64 of the global sample positions, for the noise.

        Raises:
            InputError: if ``batch_size`` does not divide by ``world``.
        """
        if self.batch_size % world or not 0 <= rank < world:
            raise InputError(f"batch size {self.batch_size} cannot be shared by {world} processes (rank {rank}): choose a multiple of {world}")
        share = self.batch_size // world
        positions = np.arange(step * self.batch_size + rank * share, step * self.batch_size + (rank + 1) * share, dtype=np.int64)
        out = self._buffers(share)
        self.draw(positions, out)
        return {name: torch.from_numpy(array) for name, array in out.items()}, row_keys(self.seed, positions)

    @abstractmethod
    def draw(self, positions: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Write the windows that ``positions`` (B,) of the endless order name into arrays of the shapes that :meth:`batch` returns."""

    @abstractmethod
    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Return arrays for :meth:`draw`: fields (rows, To, *shape), ``action`` (rows, Tp, Da), ``action_is_pad`` (rows, Tp)."""

    def remarks(self) -> list[str]:
        """Return lines on what of the data no window holds; none by default."""
        return []

    def _buffers(self, rows: int) -> dict[str, np.ndarray]:
        self._turn = (self._turn + 1) % len(self._ring)
        ring = self._ring[self._turn]
        if not ring or len(ring["action"]) != rows:
            ring.clear()
            ring.update(self.empty(rows))
        return ring
