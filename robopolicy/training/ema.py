"""Exponential moving average of a policy's weights: the weights that are evaluated and deployed."""

from __future__ import annotations

import copy
from typing import Any

import torch

from robopolicy.recipe import EmaConfig
from robopolicy.training.schedule import ema_decay


class Ema:
    """A second copy of a policy that follows it: ``average += (1 - decay_t) (weights - average)``.

    Buffers are copied, not averaged: the normaliser's are constant, and running statistics of BatchNorm would be
    wrong for averaged weights (policies here use GroupNorm).

    Attributes:
        policy: The averaged policy, in eval mode and without gradients.
    """

    def __init__(self, policy: torch.nn.Module, config: EmaConfig) -> None:
        """Begin at the weights of ``policy``."""
        self.config = config
        self.policy: Any = copy.deepcopy(policy).eval().requires_grad_(False)
        # listed once: walking the modules costs as much as the update itself
        self._average: list[torch.Tensor] = list(self.policy.parameters())
        self._weights: list[torch.Tensor] = [p.detach() for p in policy.parameters()]
        self._buffers = list(zip(self.policy.buffers(), policy.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> float:
        """Take in the weights after the ``step``-th update (1 is the first); returns the decay that was used."""
        decay = ema_decay(step, self.config)
        if decay == 0.0:
            torch._foreach_copy_(self._average, self._weights)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_lerp_(self._average, self._weights, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for mine, theirs in self._buffers:
            mine.copy_(theirs)
        return decay
