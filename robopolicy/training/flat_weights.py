"""The weights of a network, and their gradients, as one tensor each: what is done to all of them is one call.

A small network has a dozen small tensors, and an optimiser's step on them is mostly Python. The network's own parameters become
views of the one tensor, so that it computes, is saved and is loaded (in place) as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class FlatWeights:
    """One network's weights.

    Args:
        weights: Its parameters, all of one type and on one device; they are views of ``flat`` from now on.

    Attributes:
        flat: All of them, (P,), what an optimiser is given; ``flat.grad`` is where backward passes add.
    """

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.flat = nn.Parameter(torch.cat([weight.detach().reshape(-1) for weight in weights]))
        self._gradient = torch.zeros_like(self.flat.detach())
        self.flat.grad = self._gradient
        sizes = [weight.numel() for weight in weights]
        self._own = [(weight, part.view_as(weight)) for weight, part in zip(weights, self._gradient.split(sizes), strict=True)]
        for weight, part in zip(weights, self.flat.detach().split(sizes), strict=True):
            weight.data = part.view_as(weight)
        self.zero()

    def zero(self) -> None:
        """Forget the gradients."""
        for weight, gradient in self._own:
            if weight.grad is not gradient:  # somebody else has cleared it
                weight.grad = gradient
        self._gradient.zero_()

    def clip(self, limit: float | None) -> torch.Tensor:
        """Scale the gradients down to the norm ``limit``, if they are longer; returns their norm before, ()."""
        norm = torch.linalg.vector_norm(self._gradient)
        if limit is not None:
            self._gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm
