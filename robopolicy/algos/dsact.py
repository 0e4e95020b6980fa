"""DSAC-T: distributional soft actor-critic with three refinements (Duan et al. 2023, 2310.05858).

Critic i says that the return of (s, a) is N(Q_i, sigma_i). With m = argmin_i Q'_i(s', a'), a' ~ pi'(.|s'), z ~ N(0, 1) within [-3, 3]:

1. the mean regresses the expected target   y = r + gamma (1 - d) (Q'_m - alpha log pi'(a'|s')),
2. both targets come from the twin with the smaller mean, and the deviation learns from a sample of it,
   y_z = r + gamma (1 - d) (Q'_m + sigma'_m z - alpha log pi'(a'|s')),
3. b_i, the running mean of sigma_i, sets the scale: y_z is clipped to Q_i +- 3 b_i, and the loss is weighted by
   w_i = b_i^2 / (sigma_i^2 + 0.1), within [0.1, 10].

critics  E[sum_i w_i (huber(Q_i, y) + sigma_i (sigma_i^2 - huber(Q_i, y_z clipped)) / (sigma_i + 0.1))],   huber with delta 50;
         gradients reach Q_i through the first huber and sigma_i through the factor before the bracket alone
policy   E[alpha log pi(a|s) - min_i Q_i(s, a)], temperature as SAC's; every second update, and all targets with them

The fixed point of sigma_i is half the squared error, since huber(x) = x^2 / 2 near zero: that is how the authors' code has it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pydantic
import torch
from torch.nn import functional as F

from policies.learnt import LearntPolicy
from policies.networks.perceptron import Activation
from policies.spec import Spec
from robopolicy.algos.actor_critic import Seen
from robopolicy.algos.rule import Transitions
from robopolicy.algos.sac import Sac, SacConfig

#: Added to variances and deviations that are divided by, the range of the weights, the delta of Huber's loss, and how far samples reach.
_BIAS, _LEAST, _MOST, _DELTA, _REACH = 0.1, 0.1, 10.0, 50.0, 3.0


class DsactConfig(SacConfig):
    """What DSAC-T can be told; defaults as published."""

    hidden: list[pydantic.PositiveInt] = pydantic.Field(default=[256, 256, 256], min_length=1)
    activation: Activation = "gelu"
    critic_rate: pydantic.PositiveFloat = 1e-4
    actor_rate: pydantic.PositiveFloat = 1e-4
    temperature: pydantic.PositiveFloat = 2.718281828459045  # alpha at first
    delay: pydantic.PositiveInt = 2  # updates of the critics for one of the policy and the targets
    bound_tau: float | None = pydantic.Field(default=None, gt=0, le=1)  # of the running means b; None: tau


class Dsact(Sac):
    """Twin distributional critics, a squashed Gaussian policy and a slow copy of it."""

    Config = DsactConfig
    config: DsactConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    target_policy: ClassVar[bool] = True
    target_actor: Any
    spread: torch.Tensor

    def __init__(self, config: DsactConfig, spec: Spec, policy: LearntPolicy) -> None:
        super().__init__(config, spec, policy, outputs=2)
        self.register_buffer("spread", torch.full((self.critics.members, 1), -1.0, device=self.updates.device))  # b; below 0: none yet

    @property
    def numbers(self) -> int:
        """See base class: for the action here, for the next, and for the sample of its return."""
        return 2 * self.action_dim + 1

    def improves(self, update: int, last: bool) -> bool:
        """See base class: every ``delay`` updates."""
        return update % self.config.delay == 0

    def moves_targets(self, improve: bool) -> bool:
        """See base class: with the policy."""
        return improve

    def target(self, batch: Transitions, following: Seen, standard: torch.Tensor) -> torch.Tensor:
        """See base class: y and y_z, (2, B)."""
        d = self.action_dim
        action, log_prob = self.target_actor.sample(following.actor, standard[:, d : 2 * d])
        mean, sigma = moments(self.target_critics(following.critic, action))
        least = mean.argmin(0, keepdim=True)
        value, sigma = mean.gather(0, least)[0], sigma.gather(0, least)[0]
        sample = value + sigma * standard[:, 2 * d].clamp(-_REACH, _REACH)
        return torch.addcmul(batch.reward, batch.discount, torch.stack([value, sample]) - self.log_temperature.exp() * log_prob)

    def critic_loss(self, batch: Transitions, seen: Seen, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: the sum over critics, which moves b first; errors (B,) are the mean of |Q_i - y|."""
        mean, sigma = moments(self.critics(seen.critic, batch.action))
        with torch.no_grad():
            tau = self.config.tau if self.config.bound_tau is None else self.config.bound_tau
            now = sigma.mean(-1, keepdim=True)
            self.spread.copy_(torch.where(self.spread < 0, now, self.spread.lerp(now, tau)))
            weight = (self.spread.square() / (sigma.square() + _BIAS)).clamp(_LEAST, _MOST) * batch.weight
            reach = _REACH * self.spread
            clipped = mean + (target[1] - mean).clamp(-reach, reach)
            slope = (sigma.square() - F.huber_loss(mean, clipped, reduction="none", delta=_DELTA)) / (sigma + _BIAS)
        expected = target[0].expand_as(mean)
        loss = weight * (F.huber_loss(mean, expected, reduction="none", delta=_DELTA) + sigma * slope)
        return loss.mean(-1).sum(), (mean.detach() - expected).abs().mean(0)

    def judged(self, values: torch.Tensor) -> torch.Tensor:
        """See base class: the smaller mean (B,) of what the critics say, (E, B, 2)."""
        return values[..., 0].amin(0)


def moments(said: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation, (E, B) each, from what critics say, (E, B, 2)."""
    return said[..., 0], F.softplus(said[..., 1])
