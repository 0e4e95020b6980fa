"""Distributions over actions in normalised units, as few tensor calls as they can be: small networks wait for Python, not for sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """Independent normals over the elements of an action.

    Attributes:
        mean: (..., Da).
        log_std: (..., Da) or (Da,), natural logarithm of the deviations.
    """

    mean: torch.Tensor
    log_std: torch.Tensor

    @property
    def std(self) -> torch.Tensor:
        """(..., Da) or (Da,) deviations."""
        return self.log_std.exp()

    def draw(self, standard: torch.Tensor) -> torch.Tensor:
        """Return the draws (..., Da) that standard normals of that shape stand for, with gradients to mean and deviation."""
        return self.mean + self.std * standard

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """Return the log density (...,) of ``action`` (..., Da)."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - _HALF_LOG_2PI).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Return the differential entropy (...,), nat."""
        per_element = self.log_std + (0.5 + _HALF_LOG_2PI)
        return per_element.expand_as(self.mean).sum(-1)

    def kl(self, other: Gaussian) -> torch.Tensor:
        """Return KL(self || other) (...,), nat."""
        ratio = torch.exp(2.0 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return (0.5 * (ratio + distance - 1.0) + other.log_std - self.log_std).expand_as(self.mean).sum(-1)

    def detach(self) -> Gaussian:
        """Return it without gradients."""
        return Gaussian(self.mean.detach(), self.log_std.detach())


def squashed(before: torch.Tensor, log_prob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tanh(x), its log density) of draws x with a known log density (Haarnoja et al. 2018, appendix C).

    log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)) does not lose its digits where tanh is flat.

    Args:
        before: (..., Da) draws x.
        log_prob: (...,) their log density.
    """
    return torch.tanh(before), log_prob - (2.0 * (math.log(2.0) - before - F.softplus(-2.0 * before))).sum(-1)
