"""Random shifts of images: pad with the pixels of the edge, then cut out a window of the old size (Yarats et al. 2021, DrQ).

Critics that learn from pixels overfit to where things stand in a picture long before their policy is any good; a shift of a few
pixels, drawn anew for every row of every batch, keeps them from it. Only updates shift: a policy acts on what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from policies.noise import Noise
from policies.spec import Spec


def shifted(obs: Mapping[str, torch.Tensor], spec: Spec, noise: Noise, pixels: int) -> dict[str, torch.Tensor]:
    """Return ``obs`` with every image field of ``spec`` shifted, rows and cameras each by their own draw; other fields are the same tensors.

    Args:
        obs: field -> (B, *shape), images (B, H, W, C) uint8.
        spec: Says which fields are images.
        noise: One key a row; two draws a camera, none where nothing is shifted.
        pixels: Largest shift to either side; 0: none.
    """
    if not pixels:
        return dict(obs)
    images = [name for name in spec.observation.image_names if name in obs]
    return {**obs, **{name: random_shift(obs[name], noise, pixels) for name in images}}


def random_shift(images: torch.Tensor, noise: Noise, pixels: int) -> torch.Tensor:
    """Return ``images`` (B, H, W, C) moved by whole pixels, each row by its own (dy, dx), uniform in [-pixels, pixels]; edges are repeated."""
    down, across = (noise.integers(2 * pixels + 1) - pixels for _ in range(2))
    return shift(images, down.reshape(-1), across.reshape(-1))


def shift(images: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Return ``out[b, y, x] = images[b, clip(y - down[b]), clip(x - across[b])]``.

    Args:
        images: (B, H, W, C).
        down: (B,) int64, pixels that row b moves down.
        across: (B,) int64, to the right.
    """
    batch, height, width = images.shape[:3]
    y = (torch.arange(height, device=images.device) - down[:, None]).clamp_(0, height - 1)  # (B, H)
    x = (torch.arange(width, device=images.device) - across[:, None]).clamp_(0, width - 1)  # (B, W)
    rows = torch.arange(batch, device=images.device)[:, None, None]
    return images[rows, y[:, :, None], x[:, None, :]]
