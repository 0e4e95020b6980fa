"""Image encoder: random crop and colour jitter, a small ResNet with GroupNorm, spatial softmax, a linear layer.

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

    shift: int = pydantic.Field(default=0, ge=0)  # px; off-policy rules and reward classifiers: updates see images moved by up to that (4: DrQ); 0: as seen
    crop: float = pydantic.Field(default=0.9, gt=0, le=1)  # share of height and width that is kept: anywhere in training, the centre otherwise
    brightness: float = pydantic.Field(default=0.0, ge=0, lt=1)  # training only: each row's light is multiplied by 1 - brightness to 1 + brightness; 0: as seen
    contrast: float = pydantic.Field(default=0.0, ge=0, lt=1)  # training only: and its distance from its mean by 1 - contrast to 1 + contrast; 0: as seen
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
        self.brightness, self.contrast = config.brightness, config.contrast
        self.size = (max(1, round(config.crop * height)), max(1, round(config.crop * width)))
        smallest = 2 ** (len(config.channels) + 1)
        if min(self.size) < smallest:
            cropped = f"{self.size[0]}x{self.size[1]} px after the crop"
            raise InputError(f"image of {height}x{width} px ({cropped}): an encoder of {len(config.channels)} stages needs {smallest} px or more")
        first = config.channels[0]
        self.stem = nn.Sequential(nn.Conv2d(colours, first, 5, stride=2, padding=2), nn.GroupNorm(config.groups, first), nn.ReLU(inplace=True))
        stages = zip([first, *config.channels], config.channels, strict=False)
        self.stages = nn.Sequential(*(_ResidualBlock(a, b, config.groups) for a, b in stages))
        self.softmax = SpatialSoftmax(config.channels[-1], config.keypoints)
        self.last = nn.Linear(2 * config.keypoints, config.features)

    def forward(self, images: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return (B, To, features) from ``images`` (B, To, H, W, 3) uint8; in training, ``noise`` places each row's crop and draws its colours."""
        light = self.jitter(self.crop(images, noise).to(self.last.weight.dtype, copy=True).div_(255.0), noise)
        pixels = light.mul_(2.0).sub_(1.0).flatten(0, 1).permute(0, 3, 1, 2)  # channels last in memory, as the kernels like it
        return self.last(self.softmax(self.stages(self.stem(pixels)))).unflatten(0, images.shape[:2])

    def crop(self, images: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return (B, To, h, w, 3) uint8: one window per row, the same at every step so that motion stays motion."""
        height, width = self.size
        spare = images.shape[2] - height, images.shape[3] - width
        if not self.training or spare == (0, 0):
            top, left = spare[0] // 2, spare[1] // 2
            return images[:, :, top : top + height, left : left + width]
        corners = zip(noise.integers(spare[0] + 1).tolist(), noise.integers(spare[1] + 1).tolist(), strict=True)
        out = images.new_empty((*images.shape[:2], height, width, images.shape[4]))
        for row, (top, left) in enumerate(corners):  # copies of slices: ten times as fast as one gather of pixels
            out[row] = images[row, :, top : top + height, left : left + width]
        return out

    def jitter(self, light: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Change brightness, then contrast, of ``light`` (B, To, h, w, 3) in [0, 1] in place and return it; the same at every step of a row."""
        if self.training and self.brightness > 0:
            factor = 1.0 + self.brightness * (2.0 * noise.uniform(1, 1, 1, 1) - 1.0)
            light.mul_(factor.to(light.dtype)).clamp_(max=1.0)
        if self.training and self.contrast > 0:
            factor = (1.0 + self.contrast * (2.0 * noise.uniform(1, 1, 1, 1) - 1.0)).to(light.dtype)
            mean = light.mean((1, 2, 3, 4), keepdim=True)
            light.mul_(factor).add_(mean * (1.0 - factor)).clamp_(0.0, 1.0)
        return light


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
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels_out),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False), nn.GroupNorm(groups, channels_out))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (N, channels_out, ceil(H / 2), ceil(W / 2)) from ``h`` (N, channels_in, H, W)."""
        return self.branch(h).add_(self.shortcut(h)).relu_()  # in place: a third less to write, and GroupNorm does not need its output
