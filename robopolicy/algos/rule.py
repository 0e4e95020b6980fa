"""What an update rule is: the seam between a loop (``robopolicy.training``) and the equation of one file in this folder.

On-policy rules say what makes an action of the last rollout more or less likely; the loop does all else. Off-policy rules own
their critics and optimisers, and turn transitions from a replay into one update.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from policies.config import Config
from policies.distributions import Gaussian
from policies.learnt import LearntPolicy
from policies.noise import Noise
from policies.spec import Spec

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PolicyStep:
    """What the policy did in B states of the last rollout, and what it would do now.

    Attributes:
        new: Distribution of the present policy, with gradients; actions in normalised units.
        old: Distribution that acted, without.
        action: (B, Da) what was drawn from ``old``, normalised units.
        ratio: (B,) new over old probability of ``action``.
        advantage: (B,) normalised over the whole rollout.
        progress: How much of training is done, 0 to 1.
        labels: What :meth:`OnPolicyRule.labels` said of these states, name -> (B, ...).
    """

    new: Gaussian
    old: Gaussian
    action: torch.Tensor
    ratio: torch.Tensor
    advantage: torch.Tensor
    progress: float
    labels: Tensors = field(default_factory=dict)


class OnPolicyRule(abc.ABC):
    """A rule for the on-policy loop; a concrete one is the class in ``robopolicy/algos/NAME.py`` that sets ``Config``.

    Attributes:
        Config: Its config model; a class attribute.
        loop: The loop that it plugs into.
        policy_type: Name of the policy that it trains, ``policies/NAME.py``.
        policy_settings: Keys of that policy's config that the rule needs to have these values.
        learns_values: Whether the loop trains a critic for it; without one, advantages are zero.
    """

    Config: ClassVar[type[Config]]
    loop: ClassVar[str] = "on_policy"
    policy_type: ClassVar[str] = "gaussian"
    policy_settings: ClassVar[Mapping[str, Any]] = {}
    learns_values: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def settled(cls, config: Any, spec: Spec) -> Any:
        """Return ``config`` as a run remembers it, checked against what the worlds offer, before anything is written. Raises InputError."""
        return config

    def begin(self, spec: Spec, policy: LearntPolicy) -> None:
        """Prepare, once before training: ``spec`` is what the worlds offer, ``policy`` the one that learns, on its device. Raises InputError."""
        return

    def labels(self, obs: Tensors, begun: torch.Tensor, noise: Noise) -> dict[str, torch.Tensor]:
        """Return what is to be remembered of N states beside what was done there, name -> (N, ...); nothing by default.

        Args:
            obs: All fields of the worlds, field -> (N, *shape), robot units, on the policy's device.
            begun: (N,) bool, where an episode has just begun.
            noise: One key a world.
        """
        return {}

    @abc.abstractmethod
    def policy_loss(self, step: PolicyStep) -> torch.Tensor:
        """Return what is made small, (B,)."""


@dataclass(frozen=True)
class Transitions:
    """B transitions of a replay. With n steps, ``reward`` is their discounted sum and ``next_obs`` what was seen after them.

    Attributes:
        obs: field -> (B, *shape), robot units, images uint8.
        action: (B, Da) normalised units, within [-1, 1]; (B, h * Da) for chunks of h actions.
        reward: (B,) float32.
        next_obs: field -> (B, *shape), the true successor.
        discount: (B,) float32, what the value of ``next_obs`` counts for: gamma^n, and 0 where the task ended on the way.
        weight: (B,) float32, importance of each in the loss; 1 with uniform sampling.
        index: (B,) int64, where each stands in the replay, for priorities.
    """

    obs: Tensors
    action: torch.Tensor
    reward: torch.Tensor
    next_obs: Tensors
    discount: torch.Tensor
    weight: torch.Tensor
    index: torch.Tensor


@dataclass(frozen=True)
class Updated:
    """What one call of :meth:`OffPolicyRule.update` did.

    Attributes:
        metrics: name -> scalar tensor, not yet waited for.
        priority: (G B,) absolute temporal-difference errors of the G batches, one after the other, for prioritised sampling.
    """

    metrics: dict[str, torch.Tensor]
    priority: torch.Tensor


class OffPolicyRule(torch.nn.Module, abc.ABC):
    """A rule for the off-policy loop; a concrete one is the class in ``robopolicy/algos/NAME.py`` that sets ``Config``.

    All its weights, targets and running numbers are in ``state_dict()``, its optimisers in :meth:`optimizers`.

    Args:
        config: An instance of ``Config``.
        spec: What the critics may read: all that the worlds offer.
        policy: The actor, on its device; it is trained in place.

    Attributes:
        Config: Its config model; a class attribute.
        loop: The loop that it plugs into.
        policy_type: Name of the policy that it trains, ``policies/NAME.py``.
        policy_settings: Keys of that policy's config that the rule needs to have these values, e.g. ``{"squash": True}``.
    """

    Config: ClassVar[type[Config]]
    loop: ClassVar[str] = "off_policy"
    policy_type: ClassVar[str] = "gaussian"
    policy_settings: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Any, spec: Spec, policy: LearntPolicy) -> None:
        super().__init__()
        self.config, self.spec, self.policy = config, spec, policy

    @abc.abstractmethod
    def explore(self, obs: Tensors, noise: Noise) -> torch.Tensor:
        """Return actions (B, Da), normalised units within [-1, 1], to learn from in ``obs``, field -> (B, *shape); one key a row."""

    @abc.abstractmethod
    def update(self, batches: Sequence[Transitions], noise: Noise) -> Updated:
        """Learn from ``batches``: the critics from each in turn, the actor as the rule says. ``noise``: one key a row of a batch."""

    @abc.abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by name; always the same ones."""
