"""The conditional 1-D U-Net of Diffusion Policy (Chi et al. 2023): convolutions over the steps of the chunk, FiLM conditioning."""

from __future__ import annotations

import itertools

import pydantic
import torch
from torch import nn

from policies.config import Config
from policies.networks.embedding import ClockEmbedding


class UnetConfig(Config):
    """Size of the U-Net. Published: channels 256, 512, 1024 and 256 clock features for states; twice, and 128, for images."""

    channels: list[pydantic.PositiveInt] = pydantic.Field(default=[128, 256], min_length=1)  # per level, from fine to coarse
    kernel: int = pydantic.Field(default=5, ge=1)  # steps of the chunk that a convolution sees, odd
    groups: pydantic.PositiveInt = 8  # of GroupNorm
    clock_features: int = pydantic.Field(default=64, ge=4, multiple_of=2)  # of the noise level's embedding

    @pydantic.model_validator(mode="after")
    def _fits(self) -> UnetConfig:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, found {self.kernel}")
        for channels in self.channels:
            if channels % self.groups:
                raise ValueError(f"channels: expected multiples of groups ({self.groups}), found {channels}")
        return self

    @property
    def divisor(self) -> int:
        """What the horizon must divide by: every level but the last halves the number of steps."""
        return 2 ** (len(self.channels) - 1)


class UnetDenoiser(nn.Module):
    """U-Net over the chunk; every residual block is scaled and shifted by (clock, condition).

    Args:
        config: Its size.
        action_dim: De, numbers per step of the chunk.
        condition_dim: C, features per observed step.
        n_obs_steps: To, observed steps.
    """

    def __init__(self, config: UnetConfig, action_dim: int, condition_dim: int, n_obs_steps: int) -> None:
        super().__init__()
        features = config.clock_features
        self.clock = nn.Sequential(ClockEmbedding(features), nn.Linear(features, 4 * features), nn.Mish(), nn.Linear(4 * features, features))
        context = features + n_obs_steps * condition_dim
        widths = [action_dim, *config.channels]

        def block(channels_in: int, channels_out: int) -> FilmBlock:
            return FilmBlock(channels_in, channels_out, context, config.kernel, config.groups)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in enumerate(itertools.pairwise(widths)):
            last = level == len(config.channels) - 1
            halve = nn.Identity() if last else nn.Conv1d(coarse, coarse, 3, stride=2, padding=1)
            self.down.append(nn.ModuleList([block(fine, coarse), block(coarse, coarse), halve]))
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]), block(widths[-1], widths[-1])])
        for fine, coarse in reversed(list(itertools.pairwise(config.channels))):
            double = nn.ConvTranspose1d(fine, fine, 4, stride=2, padding=1)
            self.up.append(nn.ModuleList([block(2 * coarse, fine), block(fine, fine), double]))
        self.final = nn.Sequential(_ConvBlock(widths[1], widths[1], config.kernel, config.groups), nn.Conv1d(widths[1], action_dim, 1))

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return a prediction (B, Tp, De) for ``x`` (B, Tp, De), ``clock`` (B,) and ``condition`` (B, To, C), normalised units."""
        context = nn.functional.mish(torch.cat([self.clock(clock), condition.flatten(1)], -1))
        h, skips = x.mT, []
        for first, second, halve in self.down:  # type: ignore[misc]
            h = second(first(h, context), context)
            skips.append(h)
            h = halve(h)
        for one in self.middle:
            h = one(h, context)
        for first, second, double in self.up:  # type: ignore[misc]
            h = double(second(first(torch.cat([h, skips.pop()], 1), context), context))
        return self.final(h).mT


class _ConvBlock(nn.Sequential):
    """Convolution, GroupNorm, Mish."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, groups: int) -> None:
        super().__init__(nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2), nn.GroupNorm(groups, channels_out), nn.Mish())


class FilmBlock(nn.Module):
    """Two convolution blocks around a residual; after the first, scale * h + bias with both linear in the context."""

    def __init__(self, channels_in: int, channels_out: int, context: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = _ConvBlock(channels_in, channels_out, kernel, groups)
        self.film = nn.Linear(context, 2 * channels_out)
        self.second = _ConvBlock(channels_out, channels_out, kernel, groups)
        self.residual = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, h: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return (B, channels_out, T) from ``h`` (B, channels_in, T) and ``context`` (B, context) after Mish."""
        scale, bias = self.film(context)[:, :, None].chunk(2, 1)
        return self.second(self.first(h) * scale + bias) + self.residual(h)
