"""What off-policy rules with a policy and an ensemble of critics have in common: who sees what, targets, optimisers, one update.

A rule adds its equations: what the critics regress (``target``), their loss, and the policy's. Images are seen by one encoder a
camera, the policy's own: the critics' loss trains it and the policy reads its features without gradients, as DrQ has it
(Yarats et al. 2021): rewards say more about pixels than a policy that still changes, images pass through one network instead of two,
and the checkpoint of the policy holds all that acting needs. What the policy does not read, the critics may: it gets encoders of its own.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pydantic
import torch

from policies.config import Config
from policies.learnt import LearntPolicy
from policies.networks.augmentation import shifted
from policies.networks.encoders import ImageConfig
from policies.networks.observation import ObservationEncoder
from policies.networks.perceptron import Activation, weights_of
from policies.noise import Noise
from policies.normalize import Normalizer, limits_normalizer
from policies.spec import InputError, Spec
from robopolicy.algos.critics import Critics, polyak, target_copy
from robopolicy.algos.graphs import CapturedUpdate
from robopolicy.algos.rule import OffPolicyRule, Tensors, Transitions, Updated


class ActorCriticConfig(Config):
    """What every rule with critics can be told; defaults as SAC was published (Haarnoja et al. 2018)."""

    hidden: list[pydantic.PositiveInt] = pydantic.Field(default=[256, 256], min_length=1)  # widths of the critics' layers
    activation: Activation = "relu"  # of the critics
    layer_norm: bool = False  # in the critics
    critic_rate: pydantic.PositiveFloat = 3e-4  # learning rate of the critics
    actor_rate: pydantic.PositiveFloat = 3e-4  # learning rate of the policy
    tau: float = pydantic.Field(default=0.005, gt=0, le=1)  # share of the way that targets go in an update
    image: ImageConfig = ImageConfig()  # encoders of cameras that the critics alone see
    compile: bool = False  # torch.compile of the losses: a minute at the start, then fewer and larger kernels
    graph: bool = False  # on a GPU without images: an update is captured once as a CUDA graph and replayed


@dataclass(frozen=True)
class Seen:
    """What became of B observations.

    Attributes:
        actor: (B, F) features that the policy reads, without gradients.
        critic: (B, G) features that the critics read, with gradients to encoders where there are images.
    """

    actor: torch.Tensor
    critic: torch.Tensor


class ActorCritic(OffPolicyRule):
    """A policy and E critics; see ``OffPolicyRule`` for the arguments.

    Args:
        config: Of the rule.
        spec: What the critics may read.
        policy: The actor.
        members: E.
        outputs: Numbers that a critic says.

    Raises:
        InputError: if the policy does not act one step at a time from the present alone.

    Attributes:
        target_policy: Whether targets are acted by a slow copy of the policy instead of the policy.
    """

    policy: Any
    updates: torch.Tensor
    target_policy: ClassVar[bool] = False

    def __init__(self, config: Any, spec: Spec, policy: LearntPolicy, members: int = 2, outputs: int = 1) -> None:
        super().__init__(config, spec, policy)
        if getattr(policy, "recurrent", False):
            raise InputError("policy.memory: off-policy rules learn from single steps, not from sequences; use memory none")
        self.action_dim = int(spec.action.low.size)
        hidden = [name for name in spec.observation.fields if name not in policy.spec.observation.fields]
        self.privileged = ObservationEncoder(spec.subset(hidden), config.image) if hidden else None
        self.sees_images = bool(spec.observation.image_names)
        self.privileged_normalizer = _normalizer(spec.subset(hidden), policy.normalizer) if hidden else None
        encoders = [self.policy.encoder, *([] if self.privileged is None else [self.privileged])]
        width = sum(encoder.features for encoder in encoders) + self.action_dim
        self.critics = Critics(members, width, config.hidden, outputs, config.activation, config.layer_norm)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # of the critics
        device = next(self.policy.parameters()).device
        self.to(device)
        self.target_critics = target_copy(self.critics)
        self.target_encoders = torch.nn.ModuleList(target_copy(encoder) for encoder in encoders if self.sees_images)
        self.target_actor = head_copy(self.policy) if self.target_policy else None
        sources, targets = [self.critics, *(encoders if self.sees_images else [])], [self.target_critics, *self.target_encoders]
        if self.target_actor is not None:
            sources, targets = [*sources, self.policy.network], [*targets, self.target_actor.network]
        self._moved = _weights(sources), _weights(targets)
        self._weights = {"critic": weights_of([self.critics, *encoders]), "actor": _head_weights(self.policy)}
        self._optimizers = {"critic": self._adam("critic", config.critic_rate), "actor": self._adam("actor", config.actor_rate)}
        if config.compile:
            for name in ("target", "critic_loss", "actor_loss"):
                setattr(self, name, torch.compile(getattr(self, name)))
        self._captured: CapturedUpdate | None = None

    @property
    @abc.abstractmethod
    def numbers(self) -> int:
        """Standard normals that an update takes for a row."""

    @abc.abstractmethod
    def target(self, batch: Transitions, following: Seen, standard: torch.Tensor) -> torch.Tensor:
        """Return what the critics regress, (..., B), without gradients; ``standard`` (B, numbers) normals."""

    @abc.abstractmethod
    def critic_loss(self, batch: Transitions, seen: Seen, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the critics' loss, a scalar, and absolute errors (B,) without gradients; ``target`` (..., B)."""

    @abc.abstractmethod
    def actor_loss(self, seen: Seen, standard: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the policy's loss and metrics, scalars, for features without gradients; ``standard`` (B, numbers) normals."""

    @abc.abstractmethod
    def draw(self, obs: Tensors, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (B, Da), normalised units, as the policy that the critics judge draws them, and what they add to its reward (B,)."""

    @abc.abstractmethod
    def value(self, obs: Tensors, action: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return the estimate (B,) that the policy is improved by, of ``action`` (B, Da), normalised units, in ``obs``, field -> (B, *shape)."""

    def improves(self, update: int, last: bool) -> bool:
        """Whether the policy learns in update number ``update`` (from 1) of the critics; ``last``: of this call."""
        return True

    def moves_targets(self, improve: bool) -> bool:
        """Whether targets move in an update in which the policy does or does not ``improve``."""
        return True

    def after(self, update: int) -> None:
        """Called after update number ``update``."""
        return

    def see(self, obs: Tensors, noise: Noise) -> Seen:
        """Return what policy and critics make of ``obs``, field -> (B, *shape), robot units."""
        return self._seen(obs, noise, self.policy.encoder, self.privileged)

    def see_next(self, obs: Tensors, noise: Noise) -> Seen:
        """Return features (B, ...) of successors: for the targets of the critics, and for whoever acts in them."""
        if not self.sees_images:
            return self.see(obs, noise)
        slow = self._seen(obs, noise, self.target_encoders[0], self.target_encoders[1] if self.privileged is not None else None)
        return slow if self.target_policy else Seen(self.see(obs, noise).actor, slow.critic)

    def _seen(self, obs: Tensors, noise: Noise, encoder: Any, privileged: Any) -> Seen:
        features = encoder(obs, self.policy.normalizer, noise)
        if privileged is None:
            return Seen(features.detach(), features)
        return Seen(features.detach(), torch.cat([features, privileged(obs, self.privileged_normalizer, noise)], -1))

    @torch.no_grad()
    def explore(self, obs: Tensors, noise: Noise) -> torch.Tensor:
        """See base class: (B, Da) drawn from the policy."""
        return self.draw(obs, noise)[0]

    def look(self, obs: Tensors, noise: Noise) -> Seen:
        """Return what acting sees (B, ...): images in the middle of their crops."""
        if self.sees_images:
            self._crops(False)
        return self.see(obs, noise)

    def update(self, batches: Sequence[Transitions], noise: Noise) -> Updated:
        """See base class. All noise of a call is drawn at once.

        Raises:
            InputError: if actions are chunks, which a policy of one step cannot choose.
        """
        if batches[0].action.shape[1] != self.action_dim:
            found = f"{batches[0].action.shape[1]} numbers an action, not {self.action_dim}"
            raise InputError(f"training.replay.chunk: the policy acts one step at a time, expected chunk 1, found {found}")
        if self.sees_images:
            self._crops(True)
        standard = noise.normal(len(batches), self.numbers)
        done, metrics, errors = int(self.updates), {}, []
        for number, batch in enumerate(batches):
            done += 1
            improve = self.improves(done, number + 1 == len(batches))
            found, error = self._run(batch, standard[:, number], noise, improve)
            metrics |= found
            errors.append(error)
            self.after(done)
        self.updates.fill_(done)
        return Updated(metrics, torch.cat(errors))

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """See base class: ``critic`` and ``actor``."""
        return dict(self._optimizers)

    def learn(self, batch: Transitions, standard: torch.Tensor, noise: Noise, improve: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Learn once from ``batch`` with ``standard`` (B, numbers) normals; return metrics, scalars, and absolute errors (B,)."""
        pixels = self.policy.config.image.shift if self.sees_images else 0
        seen = self.see(shifted(batch.obs, self.spec, noise, pixels), noise)
        with torch.no_grad():
            target = self.target(batch, self.see_next(shifted(batch.next_obs, self.spec, noise, pixels), noise), standard)
        loss, errors = self.critic_loss(batch, seen, target)
        self._descend("critic", loss)
        metrics = {"critic_loss": loss.detach(), "q": target.mean()}
        if improve:
            loss, found = self.actor_loss(Seen(seen.actor, seen.critic.detach()), standard)
            self._descend("actor", loss)
            metrics |= found
        if self.moves_targets(improve):
            polyak(self._moved[1], self._moved[0], self.config.tau)
        return metrics, errors

    def _run(self, batch: Transitions, standard: torch.Tensor, noise: Noise, improve: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if not (self.config.graph and standard.is_cuda and not self.sees_images):
            return self.learn(batch, standard, noise, improve)
        if self._captured is None:
            self._captured = CapturedUpdate(self.learn)
        return self._captured(batch, standard, noise, improve)

    def _descend(self, name: str, loss: torch.Tensor) -> None:
        """Take one step with optimiser ``name``; gradients of no other weights are worked out."""
        for weight in self._weights[name]:
            weight.grad = None
        loss.backward(inputs=self._weights[name])
        self._optimizers[name].step()

    def _adam(self, name: str, rate: float) -> torch.optim.Optimizer:
        weights = self._weights[name]
        return torch.optim.Adam(weights, lr=rate, fused=True, capturable=self.config.graph and weights[0].is_cuda)

    def _crops(self, random: bool) -> None:
        for encoder in (self.policy.encoder, self.privileged, *self.target_encoders):
            if encoder is not None:
                encoder.train(random)


def head_copy(policy: Any) -> Any:
    """Return a copy of ``policy`` without encoder and normaliser, that no optimiser moves: it acts on features."""
    return copy.deepcopy(policy, {id(policy.encoder): None, id(policy.normalizer): None}).requires_grad_(False)


def _head_weights(policy: Any) -> list[torch.nn.Parameter]:
    seen = {id(p) for p in policy.encoder.parameters()}
    return [p for p in weights_of([policy]) if id(p) not in seen]


def _weights(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    return [p for module in modules for p in module.parameters()]


def _normalizer(spec: Spec, known: Normalizer) -> Normalizer:
    """Return the policy's normaliser if it knows all fields of ``spec`` (it is refitted for both), else one that leaves them as they are."""
    return known if all(name in known.names for name in spec.observation.state_names) else limits_normalizer(spec)
