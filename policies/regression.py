"""Regression: the mean chunk of actions by least squares, with the network of the generative policies.

The baseline that they must beat. The chunk input is zero and the clock stands at 0, so size and structure are the same.
Where demonstrations disagree it predicts their average, which may be nobody's action.
"""

from __future__ import annotations

import torch

from policies.chunk import ChunkConfig, ChunkPolicy
from policies.noise import Noise


class RegressionConfig(ChunkConfig):
    """What a regression policy can be told: nothing of its own."""


class RegressionPolicy(ChunkPolicy):
    """Behaviour cloning of action chunks with a squared error."""

    Config = RegressionConfig
    config: RegressionConfig

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) of the predicted chunk, normalised."""
        return (self._predict(condition) - chunk) ** 2

    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """Return the predicted chunk (B, Tp, De), normalised, after one network call."""
        return self._predict(condition), 1

    def _predict(self, condition: torch.Tensor) -> torch.Tensor:
        blank = condition.new_zeros(condition.shape[0], self.config.horizon, self.transform.dim)
        return self.network(blank, condition.new_zeros(condition.shape[0]), condition=condition)
