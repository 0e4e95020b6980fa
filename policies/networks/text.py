"""Text encoder: the bytes of an instruction to a vector, trained here from nothing.

Bytes instead of words: no vocabulary to ship, and a word that training never saw is at least spelt like one that it did.
Convolutions see runs of letters, a mean over the bytes that are there makes one vector of any length. Padding (zero bytes)
is masked before every convolution and in the mean, so it changes nothing; rows do not see each other.
"""

from __future__ import annotations

import pydantic
import torch
from torch import nn

from policies.config import Config


class TextConfig(Config):
    """Size of the encoder of one text."""

    width: pydantic.PositiveInt = 64  # features per byte
    layers: pydantic.PositiveInt = 2  # residual blocks, each over ``kernel`` neighbouring bytes
    kernel: int = pydantic.Field(default=5, ge=1)  # bytes, an odd number
    features: pydantic.PositiveInt = 64  # numbers per text

    @pydantic.field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"expected an odd number of bytes, found {value}")
        return value


class TextEncoder(nn.Module):
    """Encodes texts of one field.

    Args:
        config: Its size.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, config.width)
        self.blocks = nn.ModuleList(_Block(config.width, config.kernel) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.last = nn.Linear(config.width, config.features)
        self.undecayed = (self.letters.weight,)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return (B, features) from ``text`` (B, L) uint8, zero bytes behind its end.

        In training equal rows are encoded once: a batch holds few instructions many times.
        """
        if self.training:
            own, row = torch.unique(text, dim=0, return_inverse=True)
            return self._encode(own)[row]
        return self._encode(text)

    def _encode(self, text: torch.Tensor) -> torch.Tensor:
        real = (text != 0).unsqueeze(-1).to(self.last.weight.dtype)  # (B, L, 1)
        h = self.letters(text.long()) * real
        for block in self.blocks:
            h = h + block(h, real)
        mean = h.sum(1) / real.sum(1).clamp_min(1.0)
        return self.last(self.norm(mean))


class _Block(nn.Module):
    """Pre-norm convolution over bytes, and a linear layer; zero wherever there is no byte."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.last = nn.Linear(width, width)

    def forward(self, h: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return (B, L, width) from ``h`` (B, L, width) and ``real`` (B, L, 1), 1 where there is a byte."""
        mixed = self.mix((self.norm(h) * real).transpose(1, 2)).transpose(1, 2)
        return self.last(nn.functional.mish(mixed)) * real
