"""MDPO: mirror descent policy optimisation, on-policy (Tomar, Shani, Efroni and Ghavamzadeh 2022).

maximise  E[rho A] - (1 / t_k) E[KL(pi(.|s) || pi_k(.|s))],   t_k = t_0 (1 - k / K)

by a few gradient steps for each rollout k of K. Its exact solution is pi = pi_k exp(t_k A) / Z: the step of mirror descent
with the negative entropy. Nothing is clipped; the divergence, not a ratio, holds the policy near the one that acted.
"""

from __future__ import annotations

import pydantic
import torch

from policies.config import Config
from robopolicy.algos.rule import OnPolicyRule, PolicyStep

_LEAST = 1e-3  # of t_k / t_0: the last rollout of very many still has a finite weight


class MdpoConfig(Config):
    """What MDPO can be told."""

    step_size: pydantic.PositiveFloat = 1.0  # t_0; advantages have a deviation of 1
    anneal: bool = True  # t_k goes down to 0 while training goes on


class Mdpo(OnPolicyRule):
    """The surrogate with the divergence from the policy that acted; its gradient is taken through both distributions' formula."""

    Config = MdpoConfig
    config: MdpoConfig

    def step_size(self, progress: float) -> float:
        """Return t_k once ``progress``, 0 to 1, of training is done."""
        left = max(1.0 - progress, _LEAST) if self.config.anneal else 1.0
        return self.config.step_size * left

    def policy_loss(self, step: PolicyStep) -> torch.Tensor:
        """Return KL(new || old) / t_k - rho A, (B,)."""
        return step.new.kl(step.old) / self.step_size(step.progress) - step.ratio * step.advantage
