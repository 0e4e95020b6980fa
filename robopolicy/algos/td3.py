"""TD3: twin critics, a smoothed target, a policy that is updated less often (Fujimoto et al. 2018, 1802.09477).

critics  E[sum_i (Q_i(s, a) - y)^2],   y = r + gamma (1 - d) min_i Q'_i(s', a')
         a' = clip(pi'(s') + clip(sigma z, -c, c), -1, 1),   z ~ N(0, 1),   sigma = 0.2,   c = 0.5
policy   -E[Q_1(s, pi(s))], every second update, and the targets of critics and policy with it
acting   clip(pi(s) + 0.1 z, -1, 1)

Losses of the critics are weighted by the importance of each row. Actions are in normalised units, so that the deviations are shares of
half the range.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic
import torch

from policies.noise import Noise
from robopolicy.algos.actor_critic import ActorCritic, ActorCriticConfig, Seen
from robopolicy.algos.rule import Tensors, Transitions


class Td3Config(ActorCriticConfig):
    """What TD3 can be told; learning rates as published for MuJoCo's robots."""

    critic_rate: pydantic.PositiveFloat = 1e-3
    actor_rate: pydantic.PositiveFloat = 1e-3
    target_noise: pydantic.NonNegativeFloat = 0.2  # sigma, normalised units
    target_clip: pydantic.NonNegativeFloat = 0.5  # c
    exploration_noise: pydantic.NonNegativeFloat = 0.1  # deviation, normalised units
    delay: pydantic.PositiveInt = 2  # updates of the critics for one of the policy and the targets


class Td3(ActorCritic):
    """Twin critics and a deterministic policy."""

    Config = Td3Config
    config: Td3Config
    policy_type: ClassVar[str] = "deterministic"
    policy_settings: ClassVar[dict[str, Any]] = {}
    target_policy: ClassVar[bool] = True
    target_actor: Any

    @property
    def numbers(self) -> int:
        """See base class: for the next action."""
        return self.action_dim

    def improves(self, update: int, last: bool) -> bool:
        """See base class: every ``delay`` updates."""
        return update % self.config.delay == 0

    def moves_targets(self, improve: bool) -> bool:
        """See base class: with the policy."""
        return improve

    def target(self, batch: Transitions, following: Seen, standard: torch.Tensor) -> torch.Tensor:
        """See base class: y, (B,)."""
        value = self.target_critics(following.critic, self.smoothed(self.target_actor.action(following.actor), standard)).amin(0)
        return torch.addcmul(batch.reward, batch.discount, value)

    def smoothed(self, action: torch.Tensor, standard: torch.Tensor) -> torch.Tensor:
        """Return ``action`` (B, Da) with clipped noise made of ``standard`` (B, Da) normals, within the limits."""
        c = self.config.target_clip
        return (action + (self.config.target_noise * standard).clamp(-c, c)).clamp(-1.0, 1.0)

    def critic_loss(self, batch: Transitions, seen: Seen, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: the sum over critics; errors (B,) are their mean."""
        error = self.critics(seen.critic, batch.action) - target
        return (batch.weight * error.square()).mean(-1).sum(), error.detach().abs().mean(0)

    def actor_loss(self, seen: Seen, standard: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See base class: a scalar of (B, Da) actions; only the first critic is run."""
        loss = -self.critics(seen.critic, self.policy.action(seen.actor), slice(0, 1)).mean()
        return loss, {"actor_loss": loss.detach()}

    @torch.no_grad()
    def explore(self, obs: Tensors, noise: Noise) -> torch.Tensor:
        """See base class: the policy's action (B, Da) and Gaussian noise."""
        action = self.policy.action(self.look(obs, noise).actor)
        return (action + self.config.exploration_noise * noise.normal(self.action_dim)).clamp(-1.0, 1.0)

    @torch.no_grad()
    def draw(self, obs: Tensors, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: actions (B, Da), smoothed as the targets' are, and no addition to the reward (B,)."""
        action = self.policy.action(self.look(obs, noise).actor)
        return self.smoothed(action, noise.normal(self.action_dim)), action.new_zeros(len(action))

    @torch.no_grad()
    def value(self, obs: Tensors, action: torch.Tensor, noise: Noise) -> torch.Tensor:
        """See base class: (B,), what the first critic says of ``action`` (B, Da)."""
        return self.critics(self.look(obs, noise).critic, action, slice(0, 1))[0]
