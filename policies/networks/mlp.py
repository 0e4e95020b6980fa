"""A residual multi-layer perceptron as denoiser: the quickest backbone for short chunks of few numbers."""

from __future__ import annotations

import pydantic
import torch
from torch import nn

from policies.config import Config
from policies.networks.embedding import ClockEmbedding


class MlpConfig(Config):
    """Size of the perceptron."""

    width: pydantic.PositiveInt = 512  # features of the residual stream
    blocks: pydantic.PositiveInt = 3  # residual blocks
    clock_features: int = pydantic.Field(default=64, ge=4, multiple_of=2)  # of the noise level's embedding
    skip: bool | None = None  # pass the input on, times a number that depends on the noise level; None: as suits the policy


class MlpDenoiser(nn.Module):
    """Flattens chunk and condition into one vector: a linear layer, pre-norm residual blocks, a linear layer.

    With ``skip`` it adds s(clock) x. The targets of denoising hold a multiple of x that depends on the noise level alone
    (EDM's c_skip, Karras et al. 2022), and a normalised stream forgets the size of what it was given.

    Args:
        config: Its size.
        action_dim: De, numbers per step of the chunk.
        horizon: Tp, steps of the chunk.
        condition_dim: C, features per observed step.
        n_obs_steps: To, observed steps.
    """

    def __init__(self, config: MlpConfig, action_dim: int, horizon: int, condition_dim: int, n_obs_steps: int) -> None:
        super().__init__()
        self.clock = ClockEmbedding(config.clock_features)
        self.first = nn.Linear(horizon * action_dim + n_obs_steps * condition_dim + config.clock_features, config.width)
        self.blocks = nn.ModuleList(_Block(config.width) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.last = nn.Linear(config.width, horizon * action_dim)
        self.skip = _skip(config.clock_features) if config.skip else None

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return a prediction (B, Tp, De) for ``x`` (B, Tp, De), ``clock`` (B,) and ``condition`` (B, To, C), normalised units."""
        embedded = self.clock(clock)
        h = self.first(torch.cat([x.flatten(1), condition.flatten(1), embedded], -1))
        for block in self.blocks:
            h = h + block(h)
        out = self.last(self.norm(h)).unflatten(-1, x.shape[1:])
        return out if self.skip is None else out + self.skip(embedded).unsqueeze(-1) * x


def _skip(clock_features: int) -> nn.Sequential:
    """Return s(clock), which is 0 at first: a wrong multiple at the start can trap small networks."""
    first, last = nn.Linear(clock_features, 64), nn.Linear(64, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.Mish(), last)


class _Block(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, width), nn.Mish(), nn.Linear(width, width))
