"""The acting half of off-policy learning: worlds that are stepped, and what was gone through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from policies.noise import Noise, NumpyNoise, row_keys
from policies.normalize import Normalizer
from robopolicy.algos.rule import Tensors
from sim.env import BatchEnv, Observation
from sim.episodes import hashed

#: What tells apart the numbers drawn for different purposes at the same step of the same run.
_WORLD, _RANDOM, _EXPLORE = 101, 102, 103


class TakeOver(Protocol):
    """Who may act instead of the policy."""

    def apply(self, obs: Observation, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the actions (N, Da), normalised units, that are executed instead of ``action``, and where (N,) bool somebody took over."""
        ...

    def ended(self, worlds: np.ndarray) -> None:
        """Note that the episodes of ``worlds`` (N,) bool are over."""
        ...


@dataclass(frozen=True)
class Experience:
    """One control step of N worlds.

    Attributes:
        obs: field -> (N, *shape), what was acted on.
        action: (N, Da) float32, normalised units.
        reward: (N,) float32.
        next_obs: field -> (N, *shape), the true successor.
        terminated: (N,) bool.
        truncated: (N,) bool.
        taken: (N,) bool, where somebody took over from the policy.
    """

    obs: Observation
    action: np.ndarray
    reward: np.ndarray
    next_obs: Observation
    terminated: np.ndarray
    truncated: np.ndarray
    taken: np.ndarray


@dataclass(frozen=True)
class Episode:
    """One episode that came to its own end.

    Attributes:
        return_: Sum of its rewards.
        length: Control steps.
        success: Whether it ever succeeded.
    """

    return_: float
    length: int
    success: bool


class Actor:
    """N worlds and who acts in them. What it does is a function of (seed, stream, step) and of the policy.

    Args:
        env: Worlds with auto-reset.
        explore: ``OffPolicyRule.explore`` or the like: observations and one key a world in, actions (N, Da) in normalised units out.
        normalizer: Maps actions to robot units.
        seed: Of the recipe.
        random_steps: Environment steps of all worlds together with uniform actions at first.
        device: Where ``explore`` reads.
        stream: Tells apart actors of one run.
        take_over: Who may act instead; None: nobody.

    Attributes:
        steps: Control steps that the worlds have done, in this run and before it was interrupted.
    """

    def __init__(
        self,
        env: BatchEnv,
        explore: Callable[[Tensors, Noise], torch.Tensor],
        normalizer: Normalizer,
        seed: int,
        random_steps: int = 0,
        device: torch.device | str = "cpu",
        stream: int = 0,
        take_over: TakeOver | None = None,
    ) -> None:
        self.env, self.explore, self.normalizer, self.seed, self.random_steps = env, explore, normalizer, seed, random_steps
        self.device, self.stream, self.take_over, self.steps = torch.device(device), stream, take_over, 0
        self._worlds, self._fields = np.arange(env.num_worlds), tuple(env.spec.observation.fields)
        self._dim, self._nobody = env.spec.action.dim, np.zeros(env.num_worlds, bool)
        self._ended: list[Episode] = []
        self._obs: Observation = {}

    def begin(self, steps: int) -> None:
        """Begin all worlds anew, as after ``steps`` control steps: from here on nothing hangs on what was before."""
        self.steps = steps
        if self.take_over is not None:
            self.take_over.ended(np.ones(self.env.num_worlds, bool))
        self._obs = self.env.reset(hashed(self.seed, _WORLD, self.stream, steps, self._worlds))
        self._return, self._length = np.zeros(self.env.num_worlds), np.zeros(self.env.num_worlds, np.int64)
        self._success = np.zeros(self.env.num_worlds, bool)

    def step(self, cut: bool = False) -> Experience:
        """Take one control step in all worlds; with ``cut`` it is the last before :meth:`begin`, and the episodes that run are truncated."""
        obs = {name: np.array(self._obs[name]) for name in self._fields}  # the worlds may use theirs again
        action, taken = self._action(obs), self._nobody
        if self.take_over is not None:
            action, taken = self.take_over.apply(obs, action)
        result = self.env.step(self.in_robot_units(action))
        self._obs = result.obs
        self.steps += 1
        ended = result.terminated | result.truncated
        self._return += result.reward
        self._length += 1
        self._success |= np.asarray(result.info["success"], bool)
        if ended.any():
            self._end(np.flatnonzero(ended))
        truncated = ~result.terminated if cut else result.truncated
        if self.take_over is not None:
            self.take_over.ended(result.terminated | truncated)
        next_obs = {name: result.next_obs[name] for name in self._fields}
        return Experience(obs, action, result.reward, next_obs, result.terminated, truncated, taken)

    def finished(self) -> list[Episode]:
        """Return the episodes that have ended since the last call; those that were cut are none."""
        ended, self._ended = self._ended, []
        return ended

    def in_robot_units(self, action: np.ndarray) -> np.ndarray:
        """Return normalised ``action`` (N, Da) in robot units."""
        return self.normalizer.unnormalize("action", torch.from_numpy(action).to(self.device)).cpu().numpy()

    def _action(self, obs: Observation) -> np.ndarray:
        if self.steps * self.env.num_worlds < self.random_steps:
            return 2.0 * NumpyNoise(self._keys(_RANDOM)).uniform(self._dim) - np.float32(1.0)
        seen: dict[str, Any] = {name: torch.from_numpy(array).to(self.device) for name, array in obs.items()}
        with torch.no_grad():
            return self.explore(seen, Noise(self._keys(_EXPLORE), self.device)).cpu().numpy()

    def _keys(self, purpose: int) -> np.ndarray:
        return row_keys(self.seed, purpose, self.stream, self.steps, self._worlds)

    def _end(self, worlds: np.ndarray) -> None:
        self._ended += [Episode(float(self._return[w]), int(self._length[w]), bool(self._success[w])) for w in worlds]
        self._return[worlds], self._length[worlds], self._success[worlds] = 0.0, 0, False
