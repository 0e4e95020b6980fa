"""How a network is told the noise level: sines and cosines of its clock at geometrically spaced frequencies."""

from __future__ import annotations

import math

import torch


class ClockEmbedding(torch.nn.Module):
    """Embeds a clock (Vaswani et al. 2017, section 3.5): frequencies from 1 down to 1e-4 rad per unit.

    Args:
        dim: Number of features, even.
    """

    frequencies: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        frequencies = torch.exp(-math.log(1e4) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, clock: torch.Tensor) -> torch.Tensor:
        """Return (B, dim) from ``clock`` (B,), a pure number of about 0 to 100."""
        angle = clock[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)
