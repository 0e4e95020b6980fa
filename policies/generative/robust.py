"""Robust regression: errors weighted so that rare large ones do not drown the rest."""

from __future__ import annotations

import torch


def tempered(squared: torch.Tensor, power: float, floor: float, real: torch.Tensor | None = None) -> torch.Tensor:
    """Return squared errors (B, T, D), each row divided by a power of its own size: e^2 / (mean e^2 + floor^2)^power.

    The divisor is a constant to the gradient. With power 1/2 the gradient is that of the pseudo-Huber distance
    sqrt(|e|^2 + c^2) - c (Song & Dhariwal 2023, eq. 7), up to a factor; with power 1, MeanFlow's adaptive weight
    (Geng et al. 2025, section 4.3); with power 0, the squared error.

    Args:
        squared: (B, T, D).
        power: 0 to 1.
        floor: Root mean square error below which rows count as squared errors.
        real: (B, T) bool, the steps that make up a row's size; None: all.
    """
    each = squared.detach().mean(-1)
    size = each.mean(-1) if real is None else (each * real).sum(-1) / real.sum(-1).clamp_min(1)
    return squared / (size + floor**2).pow(power)[:, None, None]
