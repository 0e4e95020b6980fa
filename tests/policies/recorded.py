"""Noise for tests of samplers: drawn before, or to begin with."""

from __future__ import annotations

import numpy as np
import torch

from policies.noise import Noise, row_keys


class Recorded:
    """Noise that was drawn before: (B, steps, ...)."""

    def __init__(self, draws: torch.Tensor) -> None:
        self.draws = draws

    def normal(self, *shape: int) -> torch.Tensor:
        assert self.draws.shape[1:] == shape
        return self.draws


def start(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Return (n, dim) standard normal numbers, float64."""
    return Noise(row_keys(seed, np.arange(n))).normal(dim).double()
