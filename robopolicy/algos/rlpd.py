"""RLPD: soft actor-critic that learns from demonstrations and trial alike, many updates a step (Ball et al. 2023, 2302.02948).

critics  E[mean_i (Q_i(s, a) - y)^2], i = 1 ... E = 10, with layer normalisation
         y = r + gamma (1 - d) (min_{j in M} Q'_j(s', a') [- alpha log pi(a'|s')]),   M: 2 of the E, drawn anew for every batch
policy   E[alpha log pi(a|s) - mean_i Q_i(s, a)]
temperature  as SAC's, with H = -Da / 2

Half of every batch are demonstrations (the loop sees to that). The critics learn from each of the batches of a call, the policy and the
temperature from the last of them alone.
"""

from __future__ import annotations

import pydantic
import torch

from policies.learnt import LearntPolicy
from policies.spec import InputError, Spec
from robopolicy.algos.actor_critic import Seen
from robopolicy.algos.rule import Transitions
from robopolicy.algos.sac import Sac, SacConfig


class RlpdConfig(SacConfig):
    """What RLPD can be told."""

    layer_norm: bool = True
    members: pydantic.PositiveInt = 10  # E
    subset: pydantic.PositiveInt = 2  # critics that the target is the least of
    backup_entropy: bool = True  # whether the policy's entropy counts in the target


class Rlpd(Sac):
    """SAC with an ensemble of layer-normed critics, of which the target takes the least of a random few."""

    Config = RlpdConfig
    config: RlpdConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: RlpdConfig, spec: Spec, policy: LearntPolicy) -> None:
        if config.subset > config.members:
            raise InputError(f"algo.subset: expected at most algo.members ({config.members}), found {config.subset}")
        super().__init__(config, spec, policy, config.members)

    @property
    def numbers(self) -> int:
        """See base class: for the action here, for the next, and for the choice of critics."""
        return 2 * self.action_dim + self.config.members

    def default_target_entropy(self) -> float:
        """See base class: -Da / 2, nat."""
        return -0.5 * self.action_dim

    def improves(self, update: int, last: bool) -> bool:
        """See base class: from the last batch alone."""
        return last

    def target(self, batch: Transitions, following: Seen, standard: torch.Tensor) -> torch.Tensor:
        """See base class: y, (B,)."""
        action, log_prob = self.policy.sample(following.actor, standard[:, self.action_dim : 2 * self.action_dim])
        value = self.target_critics(following.critic, action, self.chosen(standard)).amin(0)
        if self.config.backup_entropy:
            value = value - self.log_temperature.exp() * log_prob
        return torch.addcmul(batch.reward, batch.discount, value)

    def chosen(self, standard: torch.Tensor) -> torch.Tensor:
        """Return the critics (subset,) that the first row of ``standard`` (B, numbers) chooses: those with the largest of its last E numbers."""
        return standard[0, 2 * self.action_dim :].topk(self.config.subset).indices

    def critic_loss(self, batch: Transitions, seen: Seen, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See base class: the mean over critics; errors (B,) are their mean."""
        error = self.critics(seen.critic, batch.action) - target
        return (batch.weight * error.square()).mean(), error.detach().abs().mean(0)

    def judged(self, values: torch.Tensor) -> torch.Tensor:
        """See base class: the mean (B,) of all critics' (E, B)."""
        return values.mean(0)
