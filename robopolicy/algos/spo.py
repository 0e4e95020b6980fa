"""SPO: simple policy optimisation, a parabola in the place of PPO's clip (Xie et al. 2025).

maximise  E[rho A - |A| / (2 eps) (rho - 1)^2],   rho = pi(a|s) / pi_old(a|s)

For every sample the best ratio is 1 + eps sign(A), PPO's edge; but beyond it the gradient points back, so that ratios stay
near it however many epochs there are.
"""

from __future__ import annotations

import pydantic
import torch

from policies.config import Config
from robopolicy.algos.rule import OnPolicyRule, PolicyStep


class SpoConfig(Config):
    """What SPO can be told."""

    deviation: pydantic.PositiveFloat = 0.2  # eps: how far from 1 the best ratio is


class Spo(OnPolicyRule):
    """The surrogate with a quadratic penalty on the ratio."""

    Config = SpoConfig
    config: SpoConfig

    def policy_loss(self, step: PolicyStep) -> torch.Tensor:
        """Return |A| / (2 eps) (rho - 1)^2 - rho A, (B,)."""
        off = step.ratio - 1.0
        return step.advantage.abs() * off.square() * (0.5 / self.config.deviation) - step.ratio * step.advantage
