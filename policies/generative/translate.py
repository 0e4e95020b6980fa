"""A model of one noise path, asked on another: at equal signal-to-noise ratio two paths differ by a factor alone.

On a path with x = a data + b noise and on one with x' = a' data + b' noise, equal b / a = b' / a' means x' = (a' / a) x:
the same data and the same noise make up both. So a diffusion teacher can teach on the Karras path, and diffusion and
flow can be composed (Karras et al. 2022, appendix B; Kingma et al. 2021, "Variational diffusion models", section 5).
"""

from __future__ import annotations

import math

import torch

from policies.generative.paths import Estimate, Level, NoisePath, spread
from policies.generative.samplers import Model


def translate(model: Model, source: NoisePath, target: NoisePath) -> Model:
    """Return a model on the path ``target`` from ``model`` on the path ``source``, both in the same normalised units.

    Where ``source`` has no level of that ratio (pure noise of a path that has none, the last of the noise of one that
    ends early), its nearest level is asked, and x is scaled to the size that it would have there. The noise of the
    estimate is what is left of x, so data and noise make up x on ``target`` whatever was asked.
    """
    if source == target:
        return model

    def translated(x: torch.Tensor, t: Level) -> Estimate:
        a, b = target.scales(t)
        level = rows(source.level_at(noise_to_signal(a, b)), x)
        a_source, b_source = source.scales(level)
        factor = ((a_source**2 + b_source**2) / (a**2 + b**2)) ** 0.5
        data = model(spread(factor, x) * x, level).data
        return Estimate(data, target.noise_in(x, data, t))

    return translated


def noise_to_signal(signal: Level, sigma: Level) -> Level:
    """Return sigma / signal, infinite where there is no signal; numbers or (B,)."""
    if isinstance(signal, torch.Tensor) or isinstance(sigma, torch.Tensor):
        return sigma / signal
    return sigma / signal if signal > 0 else math.inf


def rows(level: Level, x: torch.Tensor) -> torch.Tensor:
    """Return a level as (B,) float64, one per row of ``x`` (B, ...): a number that a path does not list can be given like this."""
    if isinstance(level, (int, float)):
        return torch.full((x.shape[0],), level, dtype=torch.float64, device=x.device)
    return level.double()
