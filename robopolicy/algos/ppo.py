"""PPO: proximal policy optimisation by clipping (Schulman et al. 2017, equation 7).

maximise  E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)],   rho = pi(a|s) / pi_old(a|s)

Once the ratio has left the clip on the side that the advantage favours, its gradient is zero: nothing drives it back.
"""

from __future__ import annotations

import pydantic
import torch

from policies.config import Config
from robopolicy.algos.rule import OnPolicyRule, PolicyStep


class PpoConfig(Config):
    """What PPO can be told."""

    clip: pydantic.PositiveFloat = 0.2  # eps


class Ppo(OnPolicyRule):
    """The clipped surrogate."""

    Config = PpoConfig
    config: PpoConfig

    def policy_loss(self, step: PolicyStep) -> torch.Tensor:
        """Return -min(rho A, clip(rho) A), (B,)."""
        clipped = step.ratio.clamp(1.0 - self.config.clip, 1.0 + self.config.clip)
        return -torch.minimum(step.ratio * step.advantage, clipped * step.advantage)
