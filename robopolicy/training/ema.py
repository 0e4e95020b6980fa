"""Exponential moving average of a policy's weights: the weights that are evaluated and deployed."""

from __future__ import annotations

import copy

import torch

from robopolicy.recipe import EmaConfig
from robopolicy.training.schedule import ema_decay


class Ema:
    """A second copy of a policy that follows the first: ``average += (1 - decay_t) (weights - average)``.

    Buffers are copied, not averaged: the normaliser's are constant, and running statistics of BatchNorm would be
    wrong for averaged weights (policies here use GroupNorm).

    Attributes:
        policy: The averaged policy, in eval mode and without gradients.
    """

    def __init__(self, policy: torch.nn.Module, config: EmaConfig) -> None:
        """Begin at the weights of ``policy``."""
        self.config = config
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        self._average = list(self.policy.parameters())
        self._buffers = list(self.policy.buffers())

    @torch.no_grad()
    def update(self, policy: torch.nn.Module, step: int) -> float:
        """Take in the weights after the ``step``-th update (1 is the first); returns the decay that was used."""
        decay = ema_decay(step, self.config)
        weights = [p.detach() for p in policy.parameters()]
        if decay == 0.0:
            torch._foreach_copy_(self._average, weights)
        else:
            torch._foreach_lerp_(self._average, weights, 1.0 - decay)
        for mine, theirs in zip(self._buffers, policy.buffers(), strict=True):
            mine.copy_(theirs)
        return decay
