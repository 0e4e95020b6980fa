"""Human takeover: a person acts instead of the policy that is learning, and what they do is learnt from like a demonstration.

A source says in which worlds it takes over and what is done there. People do it through the operator's channel (``real.operator``),
which needs the run's token and forgets a command within 0.2 s, or with a device (``takeover_device``); in tests and in simulation the
task's scripted expert stands in. The action that was executed is what is stored; taken-over transitions also go to the
demonstrations' side of every batch, as HIL-SERL has it (Luo et al. 2024), since they show the way out of where the policy gets stuck.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from policies.normalize import Normalizer
from policies.spec import InputError, Spec
from robopolicy.training.off_policy_config import TakeoverConfig
from sim.env import BatchEnv
from sim.episodes import hashed

if TYPE_CHECKING:
    from real.operator import OperatorChannel
    from robopolicy.recipe_trial import TrialRecipe

_EPISODES = 0x7A4E  # keeps the choice of episodes apart from other numbers drawn from the seed


class Intervention(Protocol):
    """Somebody who may take over."""

    def poll(self, obs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return who takes over (N,) bool and what is done there, (N, Da) in robot units; ``obs`` is field -> (N, *shape). Never waits."""
        ...

    def ended(self, worlds: np.ndarray) -> None:
        """Note where (N,) bool episodes have just ended."""
        ...

    def close(self) -> None:
        """Let go of connections; may be called twice."""
        ...


class ExpertIntervention:
    """The task's script in place of a person: it looks after a share of the episodes, and acts for a while where nothing came of them.

    Which episodes, is a function of the seed and of what is seen first in them: a run that goes on from a mark is helped as it would have been.

    Args:
        worlds: Whose expert acts.
        config: When.
        seed: Of the choice of episodes.

    Raises:
        InputError: if the task ships no expert.
    """

    def __init__(self, worlds: BatchEnv, config: TakeoverConfig, seed: int) -> None:
        self.worlds, self.config, self.seed = worlds, config, seed
        self._elapsed, self._chosen = np.zeros(worlds.num_worlds, np.int64), np.zeros(worlds.num_worlds, bool)

    def poll(self, obs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Intervention.poll`."""
        for row in np.flatnonzero(self._elapsed == 0):
            self._chosen[row] = self._looks_after({name: array[row] for name, array in obs.items()})
        mask = self._chosen & (self._elapsed % (self.config.after + self.config.hold) >= self.config.after)
        self._elapsed += 1
        action = self.worlds.expert_action() if mask.any() else np.zeros((self.worlds.num_worlds, self.worlds.spec.action.dim), np.float32)
        return mask, action

    def ended(self, worlds: np.ndarray) -> None:
        """See :meth:`Intervention.ended`; ``worlds`` (N,)."""
        self._elapsed[worlds] = 0

    def close(self) -> None:
        """See :meth:`Intervention.close`."""

    def _looks_after(self, first: Mapping[str, np.ndarray]) -> bool:
        """Return whether an episode is looked after that begins with ``first``, field -> (*shape)."""
        seen = zlib.crc32(b"".join(first[name].tobytes() for name in sorted(first)))
        return bool(hashed(self.seed ^ _EPISODES, seen)[0] * 2.0**-63 < self.config.share)


class OperatorIntervention:
    """Who has the token of the run's operator channel; commands are for the first world, so train on one.

    Args:
        channel: Where commands arrive; closed with this.
        spec: Of the action: robot units.
        told: What else the operator asks for (``hold``, ``stop``, ``resume``, ``speed``) with its number; None: nobody cares.
    """

    def __init__(self, channel: OperatorChannel, spec: Spec, told: Callable[[str, float], None] | None = None) -> None:
        self.channel, self.spec, self.told = channel, spec, told

    def poll(self, obs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Intervention.poll`. A command (Da,) of the wrong length takes nothing over."""
        self.listen()
        rows, dim = len(next(iter(obs.values()))), self.spec.action.dim
        mask, action, command = np.zeros(rows, bool), np.zeros((rows, dim), np.float32), self.channel.command
        if command is not None and len(command) == dim:
            mask[0], action[0] = True, command
        return mask, action

    def listen(self) -> None:
        """Take in what the operator says, and pass on what is no command. Never waits."""
        for kind, value in self.channel.poll():
            if kind == "speed":
                self.channel.speed = value  # slower is for anybody, faster again needs the token
            if self.told is not None:
                self.told(kind, value)

    def ended(self, worlds: np.ndarray) -> None:
        """See :meth:`Intervention.ended`; ``worlds`` (N,)."""

    def close(self) -> None:
        """See :meth:`Intervention.close`."""
        self.channel.close()


class Takeover:
    """Puts a source between the policy and the worlds, and counts.

    Args:
        source: Who may take over.
        spec: Of the worlds: limits of the action.
        normalizer: Of the policy that learns: its units of actions; None: where the limits are -1 and 1.

    Attributes:
        steps: World steps so far.
        taken: Those of them that were taken over.

    Raises:
        InputError: if an action has no limits.
    """

    def __init__(self, source: Intervention, spec: Spec, normalizer: Normalizer | None = None) -> None:
        low, high = (np.asarray(side, np.float64) for side in (spec.action.low, spec.action.high))
        if normalizer is not None:
            ends = (torch.full((low.size,), end, device=next(normalizer.buffers()).device) for end in (-1.0, 1.0))
            low, high = (normalizer.unnormalize("action", end).cpu().numpy().astype(np.float64) for end in ends)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError("training.takeover: expected limits for all elements of the action")
        self.source, self._middle, self._half = source, (low + high) / 2, (high - low) / 2
        self.steps = self.taken = 0
        self._logged = (0, 0)

    def apply(self, obs: Mapping[str, np.ndarray], action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is executed, (N, Da) normalised units within [-1, 1], and where it was taken over, (N,) bool.

        Args:
            obs: field -> (N, *shape), what is acted on.
            action: (N, Da) the policy's, normalised units.
        """
        mask, chosen = self.source.poll(obs)
        mask = np.asarray(mask, bool) & np.isfinite(chosen).all(1)
        self.steps, self.taken = self.steps + mask.size, self.taken + int(mask.sum())
        if not mask.any():
            return action, mask
        normalised = np.clip((np.where(mask[:, None], chosen, self._middle) - self._middle) / self._half, -1.0, 1.0)
        return np.where(mask[:, None], normalised, action).astype(action.dtype), mask

    def ended(self, worlds: np.ndarray) -> None:
        """Note where (N,) bool episodes have just ended."""
        self.source.ended(np.asarray(worlds, bool))

    def metrics(self) -> dict[str, float]:
        """Return ``intervention_rate``, the share of world steps that were taken over since the last call, and how many were in all."""
        steps, taken = self.steps - self._logged[0], self.taken - self._logged[1]
        self._logged = self.steps, self.taken
        return {"intervention_rate": taken / max(steps, 1), "interventions": float(self.taken)}

    def counted(self) -> dict[str, int]:
        """Return what a training state keeps, so that a run that goes on counts on."""
        return {"steps": self.steps, "taken": self.taken}

    def recount(self, counted: Mapping[str, int]) -> None:
        """Take over what :meth:`counted` returned."""
        self._logged = self.steps, self.taken = counted["steps"], counted["taken"]

    def close(self) -> None:
        """Let go of the source; may be called twice."""
        self.source.close()


def open_takeover(recipe: TrialRecipe, worlds: BatchEnv, normalizer: Normalizer | None = None) -> Takeover | None:
    """Return who may take over in ``worlds`` as ``training.takeover`` says; None: nobody. ``normalizer``: see :class:`Takeover`.

    Raises:
        InputError: if the task ships no expert, or an operator would have several worlds to look after.
    """
    config: TakeoverConfig = getattr(recipe.training, "takeover", None) or TakeoverConfig()
    if config.source == "none":
        return None
    if config.source == "operator":
        from real.operator import OperatorChannel

        if worlds.num_worlds != 1:
            raise InputError(f"training.takeover.source=operator: a person looks after one world, expected training.worlds=1, found {worlds.num_worlds}")
        channel = OperatorChannel(config.address, Path(recipe.filled(recipe.output)))
        person, attend = OperatorIntervention(channel, worlds.spec, getattr(worlds, "obey", None)), getattr(worlds, "attend", None)
        if attend is not None:
            attend(person.listen)  # a robot hears its operator in every tick
        return Takeover(person, worlds.spec, normalizer)
    if config.source == "device":
        from robopolicy.training.takeover_device import open_device

        somebody, attend = open_device(config, worlds, getattr(worlds, "obey", None)), getattr(worlds, "attend", None)
        if attend is not None:
            attend(somebody.listen)
        return Takeover(somebody, worlds.spec, normalizer)
    from sim.registry import entry

    if not entry(recipe.task).has_expert:
        raise InputError(f"training.takeover.source=expert: task {recipe.task!r} ships no scripted expert")
    return Takeover(ExpertIntervention(worlds, config, recipe.seed), worlds.spec, normalizer)
