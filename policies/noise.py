"""Counter-based noise: every number is a pure function of (row key, draw index, element index).

The same row gets the same numbers whatever else is in its batch, on any number of workers, and after a resume: there
is no generator state to save. The bits come from SplitMix64's finaliser (Steele et al. 2014, "Fast splittable
pseudorandom number generators"), normals from Box-Muller. Torch wraps int64 like uint64; shifts are masked.
Torch is imported when numbers are drawn: a robot's client makes row keys without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift(x, 30)) * _signed(_M1)
    x = (x ^ _shift(x, 27)) * _signed(_M2)
    return x ^ _shift(x, 31)


def row_keys(seed: int, *parts: Sequence[int] | np.ndarray | int) -> np.ndarray:
    """Hash ``seed`` and the integers of ``parts`` (each a number or (B,)) into row keys (B,) int64.

    ``row_keys(seed, episode, step)`` names one row's noise for one call, whatever the batch.
    """
    arrays = np.broadcast_arrays(*[np.atleast_1d(np.asarray(p, np.int64)) for p in parts]) if parts else [np.zeros(1, np.int64)]
    with np.errstate(over="ignore"):
        h = np.full(arrays[0].shape, seed & _MASK64, np.uint64)
        for a in [np.full_like(arrays[0], len(parts)), *arrays]:
            h = (h + a.astype(np.uint64)) * np.uint64(_M1) + np.uint64(_GOLDEN)
            h = (h ^ (h >> np.uint64(30))) * np.uint64(_M1)
            h = (h ^ (h >> np.uint64(27))) * np.uint64(_M2)
            h = h ^ (h >> np.uint64(31))
    return h.view(np.int64)


class Noise:
    """A stream of random tensors, one row per key; each call takes the next draw index.

    Args:
        keys: (B,) int64 row keys, see :func:`row_keys`.
        device: Where tensors are made.
        draw: First draw index.
    """

    def __init__(self, keys: np.ndarray | torch.Tensor, device: torch.device | str = "cpu", draw: int = 0) -> None:
        import torch

        self.keys = torch.as_tensor(keys, dtype=torch.int64).to(device)
        self.draw = draw

    def _bits(self, count: int) -> torch.Tensor:
        """Return (B, count) int64 random bits for the present draw, and take it."""
        import torch

        index = torch.arange(count, device=self.keys.device, dtype=torch.int64)
        base = _mix(self.keys * _signed(_M2) + _signed((self.draw + 1) * _GOLDEN))
        self.draw += 1
        # The key enters twice: two rows whose sequences of counters overlap still get different bits.
        return _mix(_mix(base[:, None] + index * _signed(_GOLDEN)) + self.keys[:, None])

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return (B, *shape) float32, uniform in [0, 1): multiples of 2^-24."""
        import torch

        return (_shift(self._bits(math.prod(shape)), 40).to(torch.float32) * 2.0**-24).reshape(-1, *shape)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return (B, *shape) float32, standard normal; at most 6.8, which one number in 10^11 would exceed."""
        import torch

        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        # 32 bits each for radius and angle; the half keeps the logarithm off zero
        u1 = (_shift(bits, 32).to(torch.float64) + 0.5) * 2.0**-32
        u2 = (bits & 0xFFFFFFFF).to(torch.float64) * 2.0**-32
        radius, angle = torch.sqrt(-2.0 * torch.log(u1)), 2.0 * math.pi * u2
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], 1)[:, :count]
        return both.to(torch.float32).reshape(-1, *shape)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """Return (B, *shape) int64, uniform in {0, ..., high - 1} (bias below high / 2^31)."""
        return (_shift(self._bits(math.prod(shape)), 33) % high).reshape(-1, *shape)


class NumpyNoise:
    """:class:`Noise` without torch: the same bits, normals equal to a few times 1e-7 (the logarithms differ in the last place).

    Args:
        keys: (B,) int64 row keys.
        draw: First draw index.
    """

    def __init__(self, keys: np.ndarray, draw: int = 0) -> None:
        self.keys, self.draw = np.asarray(keys, np.int64).view(np.uint64), draw

    def bits(self, count: int) -> np.ndarray:
        """Return (B, count) uint64 random bits for the present draw, and take it."""
        with np.errstate(over="ignore"):
            base = _mix_unsigned(self.keys * np.uint64(_M2) + np.uint64((self.draw + 1) * _GOLDEN & _MASK64))
            counters = base[:, None] + np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN)
            self.draw += 1
            return _mix_unsigned(_mix_unsigned(counters) + self.keys[:, None])

    def uniform(self, *shape: int) -> np.ndarray:
        """See :meth:`Noise.uniform`."""
        return ((self.bits(math.prod(shape)) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(-1, *shape)

    def normal(self, *shape: int) -> np.ndarray:
        """See :meth:`Noise.normal`."""
        count = math.prod(shape)
        bits = self.bits((count + 1) // 2)
        u1 = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
        u2 = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * 2.0**-32
        radius, angle = np.sqrt(-2.0 * np.log(u1)), 2.0 * math.pi * u2
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :count]
        return both.astype(np.float32).reshape(-1, *shape)

    def integers(self, high: int, *shape: int) -> np.ndarray:
        """See :meth:`Noise.integers`."""
        return ((self.bits(math.prod(shape)) >> np.uint64(33)).astype(np.int64) % high).reshape(-1, *shape)


def _mix_unsigned(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_M1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_M2)
    return x ^ (x >> np.uint64(31))
