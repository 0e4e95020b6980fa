"""Off-policy MDPO: mirror descent on the policy, from a replay (Tomar et al. 2020, 2005.09814, equation 13).

policy   pi_{k+1} = argmin_pi E_s[KL(pi(.|s) || pi_k(.|s) exp(t Q(s, .)) / Z(s))]
                  = argmin_pi E_s[KL(pi(.|s) || pi_k(.|s)) - t E_{a ~ pi}[Q(s, a) - c log pi(a|s)]]
critics  0.5 E[(Q_i(s, a) - y)^2],   y = r + gamma (1 - d) (min_i Q'_i(s', a') - c log pi(a'|s')),   a' ~ pi(.|s')

E over a by reparametrisation, Q the smaller of two. The KL of two squashed Gaussians is that of the Gaussians before the tanh, which is
known in closed form, so no draw adds noise to it. The minimum is approached by several steps of the optimiser; then pi_k becomes pi.
``c``, the weight of the entropy, is 0 for the plain objective. Losses of the critics are weighted by the importance of each row.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic
import torch

from policies.distributions import squashed
from policies.learnt import LearntPolicy
from policies.noise import Noise
from policies.spec import Spec
from robopolicy.algos.actor_critic import ActorCritic, ActorCriticConfig, Seen, head_copy
from robopolicy.algos.rule import Tensors, Transitions


class OffPolicyMdpoConfig(ActorCriticConfig):
    """What off-policy MDPO can be told."""

    step: pydantic.PositiveFloat = 1.0  # t: how far one policy goes from the last; larger for smaller rewards
    policy_steps: pydantic.PositiveInt = 250  # updates between one pi_k and the next
    entropy: pydantic.NonNegativeFloat = 0.0  # c


class OffPolicyMdpo(ActorCritic):
    """Twin critics, a squashed Gaussian policy, and the policy that it may not go far from."""

    Config = OffPolicyMdpoConfig
    config: OffPolicyMdpoConfig
    policy_type: ClassVar[str] = "gaussian"
    policy_settings: ClassVar[dict[str, Any]] = {"squash": True, "deviation": "observed"}

    def __init__(self, config: OffPolicyMdpoConfig, spec: Spec, policy: LearntPolicy) -> None:
        super().__init__(config, spec, policy)
        self.previous = head_copy(self.policy)  # pi_k

    @property
    def numbers(self) -> int:
        """See base class: for the action here, and for the next."""
        return 2 * self.action_dim

    @torch.no_grad()
    def after(self, update: int) -> None:
        """See base class: every ``policy_steps`` updates pi_k becomes pi."""
        if update % self.config.policy_steps == 0:
            for old, new in zip(self.previous.network.parameters(), self.policy.network.parameters(), strict=True):
                old.copy_(new)

    def target(self, batch: Transitions, following: Seen, standard: torch.Tensor) -> torch.Tensor:
        """See base class: y, (B,)."""
        action, log_prob = self.policy.sample(following.actor, standard[:, self.action_dim :])
        value = self.target_critics(following.critic, action).amin(0)
        return torch.addcmul(batch.reward, batch.discount, value - self.config.entropy * log_prob)

    def critic_loss(self, batch: Transitions, seen: Seen, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: the sum over critics; errors (B,) are their mean."""
        error = self.critics(seen.critic, batch.action) - target
        return 0.5 * (batch.weight * error.square()).mean(-1).sum(), error.detach().abs().mean(0)

    def actor_loss(self, seen: Seen, standard: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See base class: divided by t, so that the learning rate means the same for any; a scalar of (B, Da) actions."""
        law = self.policy.distribution(seen.actor)
        with torch.no_grad():
            old = self.previous.distribution(seen.actor)
        before = law.draw(standard[:, : self.action_dim])
        action, log_prob = squashed(before, law.log_prob(before))
        value = self.critics(seen.critic, action).amin(0) - self.config.entropy * log_prob
        kl = law.kl(old).mean()
        loss = kl / self.config.step - value.mean()
        return loss, {"actor_loss": loss.detach(), "kl": kl.detach(), "entropy": -log_prob.detach().mean()}

    @torch.no_grad()
    def draw(self, obs: Tensors, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: actions (B, Da) and -c log pi (B,)."""
        action, log_prob = self.policy.sample(self.look(obs, noise).actor, noise.normal(self.action_dim))
        return action, -self.config.entropy * log_prob

    @torch.no_grad()
    def value(self, obs: Tensors, action: torch.Tensor, noise: Noise) -> torch.Tensor:
        """See base class: (B,), of ``action`` (B, Da)."""
        return self.critics(self.look(obs, noise).critic, action).amin(0)
