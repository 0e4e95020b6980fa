"""SAC: soft actor-critic with twin critics and a temperature that finds itself (Haarnoja et al. 2018, 1812.05905).

critics      0.5 E[(Q_i(s, a) - y)^2],   y = r + gamma (1 - d) (min_i Q'_i(s', a') - alpha log pi(a'|s')),   a' ~ pi(.|s')
policy       E[alpha log pi(a|s) - min_i Q_i(s, a)],   a = tanh(mean + std z),   z ~ N(0, 1)
temperature  E[-log alpha (log pi(a|s) + H)],   H = -Da

Losses of the critics are weighted by the importance of each row. The temperature's loss uses log alpha where the paper has alpha: the
same sign at every point, and what the authors' code and stable-baselines3 do.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pydantic
import torch

from policies.learnt import LearntPolicy
from policies.noise import Noise
from policies.spec import Spec
from robopolicy.algos.actor_critic import ActorCritic, ActorCriticConfig, Seen
from robopolicy.algos.rule import Tensors, Transitions


class SacConfig(ActorCriticConfig):
    """What SAC can be told."""

    temperature: pydantic.PositiveFloat = 1.0  # alpha at first
    temperature_rate: pydantic.NonNegativeFloat = 3e-4  # its learning rate; 0: it stays as it is
    target_entropy: float | None = None  # H, nat, of actions in normalised units; None: -1 for each element of the action


class Sac(ActorCritic):
    """Twin critics, a squashed Gaussian policy, an automatic temperature."""

    Config = SacConfig
    config: SacConfig
    policy_type: ClassVar[str] = "gaussian"
    policy_settings: ClassVar[dict[str, Any]] = {"squash": True, "deviation": "observed"}

    def __init__(self, config: SacConfig, spec: Spec, policy: LearntPolicy, members: int = 2, outputs: int = 1) -> None:
        super().__init__(config, spec, policy, members, outputs)
        self.log_temperature = torch.nn.Parameter(torch.tensor(math.log(config.temperature), device=self.updates.device))
        self.target_entropy = self.default_target_entropy() if config.target_entropy is None else config.target_entropy
        if config.temperature_rate > 0:
            self._weights["actor"] = [*self._weights["actor"], self.log_temperature]
            self._optimizers["actor"].add_param_group({"params": [self.log_temperature], "lr": config.temperature_rate})

    @property
    def numbers(self) -> int:
        """See base class: for the action here, and for the next."""
        return 2 * self.action_dim

    def default_target_entropy(self) -> float:
        """Return H, nat, where the config does not say."""
        return -float(self.action_dim)

    def target(self, batch: Transitions, following: Seen, standard: torch.Tensor) -> torch.Tensor:
        """See base class: y, (B,)."""
        action, log_prob = self.policy.sample(following.actor, standard[:, self.action_dim : 2 * self.action_dim])
        value = self.target_critics(following.critic, action).amin(0)
        return torch.addcmul(batch.reward, batch.discount, value - self.log_temperature.exp() * log_prob)

    def critic_loss(self, batch: Transitions, seen: Seen, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: the sum over critics; errors (B,) are their mean."""
        error = self.critics(seen.critic, batch.action) - target
        return 0.5 * (batch.weight * error.square()).mean(-1).sum(), error.detach().abs().mean(0)

    def actor_loss(self, seen: Seen, standard: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See base class: a scalar, the policy's loss and the temperature's, whose gradients do not meet."""
        action, log_prob = self.policy.sample(seen.actor, standard[:, : self.action_dim])
        temperature, entropy = self.log_temperature.detach().exp(), -log_prob.detach().mean()
        policy = (temperature * log_prob - self.judged(self.critics(seen.critic, action))).mean()
        metrics = {"actor_loss": policy.detach(), "entropy": entropy, "temperature": temperature}
        return policy + self.log_temperature * (entropy - self.target_entropy), metrics

    def judged(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the policy makes large, (B,), of what the critics say, (E, B)."""
        return values.amin(0)

    @torch.no_grad()
    def draw(self, obs: Tensors, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: actions (B, Da) and -alpha log pi (B,)."""
        action, log_prob = self.policy.sample(self.look(obs, noise).actor, noise.normal(self.action_dim))
        return action, -self.log_temperature.exp() * log_prob

    @torch.no_grad()
    def value(self, obs: Tensors, action: torch.Tensor, noise: Noise) -> torch.Tensor:
        """See base class: (B,), of ``action`` (B, Da)."""
        return self.judged(self.critics(self.look(obs, noise).critic, action))
