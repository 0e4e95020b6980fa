"""Image encoder: random crop, a small ResNet with GroupNorm, spatial softmax, a linear layer.

Where the published encoder is a ResNet-18, this one is a tenth of it by default; GroupNorm instead of BatchNorm keeps
averaged weights valid, and spatial softmax (Finn et al. 2016) keeps positions, which pooling would throw away.
"""

from __future__ import annotations

import pydantic
import torch
from torch import nn

from policies.config import Config
from policies.noise import Noise
from policies.spec import InputError


class ImageConfig(Config):
    """Size of the encoder of one camera, and its augmentation."""

    crop: float = pydantic.Field(default=0.9, gt=0, le=1)  # share of height and width that is kept: anywhere in training, the centre otherwise
    channels: list[pydantic.PositiveInt] = pydantic.Field(default=[32, 64, 128], min_length=1)  # per stage; each halves height and width
    groups: pydantic.PositiveInt = 8  # of GroupNorm
    keypoints: pydantic.PositiveInt = 32  # maps of the spatial softmax
    features: pydantic.PositiveInt = 64  # numbers per image and observed step

    @pydantic.model_validator(mode="after")
    def _fits(self) -> ImageConfig:
        for channels in self.channels:
            if channels % self.groups:
                raise ValueError(f"channels: expected multiples of groups ({self.groups}), found {channels}")
        return self


class ImageEncoder(nn.Module):
    """Encodes the images of one camera.

    Args:
        config: Its size.
        shape: (H, W, 3) px of the camera.

    Raises:
        InputError: if the images are too small for the number of stages.
    """

    def __init__(self, config: ImageConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width, colours = shape
        self.size = (max(1, round(config.crop * height)), max(1, round(config.crop * width)))
        smallest = 2 ** (len(config.channels) + 1)
        if min(self.size) < smallest:
            cropped = f"{self.size[0]}x{self.size[1]} px after the crop"
            raise InputError(f"image of {height}x{width} px ({cropped}): an encoder of {len(config.channels)} stages needs {smallest} px or more")
        first = config.channels[0]
        self.stem = nn.Sequential(nn.Conv2d(colours, first, 5, stride=2, padding=2), nn.GroupNorm(config.groups, first), nn.ReLU())
        stages = zip([first, *config.channels], config.channels, strict=False)
        self.stages = nn.Sequential(*(_ResidualBlock(a, b, config.groups) for a, b in stages))
        self.softmax = SpatialSoftmax(config.channels[-1], config.keypoints)
        self.last = nn.Linear(2 * config.keypoints, config.features)

    def forward(self, images: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return (B, To, features) from ``images`` (B, To, H, W, 3) uint8; in training, ``noise`` places the crop of each row."""
        cropped = self.crop(images, noise)
        pixels = cropped.flatten(0, 1).permute(0, 3, 1, 2).to(self.last.weight.dtype) / 127.5 - 1.0
        return self.last(self.softmax(self.stages(self.stem(pixels)))).unflatten(0, images.shape[:2])

    def crop(self, images: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return (B, To, h, w, 3) uint8: one window per row, the same at every step so that motion stays motion."""
        spare = images.shape[2] - self.size[0], images.shape[3] - self.size[1]
        if not self.training or spare == (0, 0):
            top, left = spare[0] // 2, spare[1] // 2
            return images[:, :, top : top + self.size[0], left : left + self.size[1]]
        top, left = noise.integers(spare[0] + 1), noise.integers(spare[1] + 1)
        rows = top[:, None] + torch.arange(self.size[0], device=images.device)
        columns = left[:, None] + torch.arange(self.size[1], device=images.device)
        each = torch.arange(images.shape[0], device=images.device)[:, None, None]
        return images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2, 4)


class SpatialSoftmax(nn.Module):
    """Expected position of each of K heat maps, in [-1, 1] from left to right and from top to bottom."""

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, keypoints, 1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (N, 2 K), the x of all maps before the y, from ``h`` (N, channels, H, W)."""
        maps = self.maps(h)
        height, width = maps.shape[-2:]
        weights = maps.flatten(2).softmax(-1).unflatten(-1, (height, width))
        across = torch.linspace(-1.0, 1.0, width, device=h.device, dtype=h.dtype)
        down = torch.linspace(-1.0, 1.0, height, device=h.device, dtype=h.dtype)
        return torch.cat([(weights.sum(2) * across).sum(-1), (weights.sum(3) * down).sum(-1)], -1)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the first halves height and width (He et al. 2016)."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(groups, channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels_out),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False), nn.GroupNorm(groups, channels_out))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (N, channels_out, ceil(H / 2), ceil(W / 2)) from ``h`` (N, channels_in, H, W)."""
        return torch.relu(self.branch(h) + self.shortcut(h))
