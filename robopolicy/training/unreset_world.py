"""A world that nobody puts back: two tasks share it, one brings it forward, the other back to where it began.

Each is a ``BatchEnv`` of one world for its own learner; beginning an episode in one of them goes on from wherever the other left off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from policies.spec import InputError, Spec
from robopolicy.training.trial_worlds import Judge
from sim.env import BatchEnv, Observation, StepResult
from sim.episodes import hashed


class UnresetWorld:
    """What the two tasks share.

    Args:
        world: One world without auto-reset and without a time limit that matters.
        shown: Observation fields that policies see; None: all.

    Attributes:
        start: field -> (1, *shape), how the world began.
        resets: How often it was reset: once, and again only where it ended by itself (a robot that has fallen).
    """

    def __init__(self, world: BatchEnv, shown: Spec | None = None) -> None:
        if world.num_worlds != 1 or world.autoreset:
            raise ValueError("a world that nobody resets is one world without auto-reset")
        self.world, self.spec = world, shown or world.spec
        self.start: Observation = {}
        self.obs: Observation = {}
        self.resets, self._seed = 0, 0

    def begin(self, seed: int) -> Observation:
        """Reset the world if it never was, and return what it shows, field -> (1, *shape)."""
        if not self.start:
            self._seed = seed
            self.start = self._reset()
        return self.obs

    def step(self, action: np.ndarray) -> StepResult:
        """Apply ``action`` (1, Da), robot units; where the world ended by itself, ``obs`` is of one that begins anew."""
        found = self.world.step(action)
        found.next_obs = {name: np.array(array) for name, array in found.next_obs.items()}  # the world may use its own again
        self.obs = found.next_obs
        if found.terminated[0] or found.truncated[0]:
            self._reset()
        found.obs = self.obs
        return found

    def _reset(self) -> Observation:
        self.resets += 1
        self.obs = {name: np.array(array) for name, array in self.world.reset(hashed(self._seed, self.resets)).items()}
        return self.obs


class Half:
    """One of the tasks: an episode ends when it is done, or after ``steps``. See ``sim.env.BatchEnv``; it has one world.

    Args:
        shared: The world.
        steps: Time limit, control steps.
        done: Who says that it is done, field -> (1, *shape) in, (1,) bool out; None: the world reports it.
        distance: How far the task is from done, (1,), for a dense reward (its negative); None: the world's own reward.
        sparse: Reward 1 for being done and 0 else, and an end that has no value beyond; false: done only ends the episode.

    Attributes:
        episodes: Begun so far.
        successes: Of them.
    """

    autoreset, num_worlds = True, 1

    def __init__(self, shared: UnresetWorld, steps: int, done: Judge | None = None, distance: Judge | None = None, sparse: bool = False) -> None:
        self.shared, self.max_episode_steps, self.done, self.distance, self.sparse = shared, steps, done, distance, sparse
        self.task, self.suite_version, self.spec = shared.world.task, shared.world.suite_version, shared.spec
        self.episodes = self.successes = self._elapsed = 0

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin an episode where the world stands; only the very first one resets it, with ``seeds`` (1,)."""
        self.episodes, self._elapsed = self.episodes + 1, 0
        return self._shown(self.shared.begin(int(seeds[0])))

    def step(self, action: np.ndarray) -> StepResult:
        """See ``sim.env.BatchEnv.step``; the observation to act on is the true successor, unless the world itself ended."""
        found = self.shared.step(action)
        self._elapsed += 1
        done = np.asarray(found.info["success"] if self.done is None else self.done(found.next_obs), bool)
        self.successes += int(done[0])
        terminated = found.terminated | (done if self.sparse else np.zeros(1, bool))
        truncated = (done | found.truncated | (self._elapsed >= self.max_episode_steps)) & ~terminated
        reward = found.reward
        if self.sparse:
            reward = done.astype(np.float32)
        elif self.distance is not None:
            reward = -np.asarray(self.distance(found.next_obs), np.float32)
        info = {**found.info, "success": done, "world_success": np.asarray(found.info["success"], bool)}
        return StepResult(self._shown(found.obs), self._shown(found.next_obs), reward, terminated, truncated, info)

    def metrics(self) -> dict[str, float]:
        """Return how often the world was reset, and the share of episodes so far that were done."""
        return {"world_resets": float(self.shared.resets), "done": self.successes / max(self.episodes, 1)}

    def counted(self) -> dict[str, int]:
        """Return what a training state keeps, so that a run that goes on counts on."""
        return {"episodes": self.episodes, "successes": self.successes}

    def recount(self, counted: Mapping[str, int]) -> None:
        """Take over what :meth:`counted` returned."""
        self.episodes, self.successes = counted["episodes"], counted["successes"]

    def retire(self, mask: np.ndarray) -> None:
        """Refused: the world never stays ended. Raises RuntimeError."""
        raise RuntimeError(f"task {self.task!r}: retire() is for worlds without auto-reset")

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """See ``sim.env.BatchEnv.render``."""
        return self.shared.world.render(worlds)

    def expert_action(self) -> np.ndarray:
        """See ``sim.env.BatchEnv.expert_action``."""
        return self.shared.world.expert_action()

    def close(self) -> None:
        """See ``sim.env.BatchEnv.close``."""
        self.shared.world.close()

    def _shown(self, obs: Mapping[str, np.ndarray]) -> Observation:
        return {name: obs[name] for name in self.spec.observation.fields}


def back_at_start(shared: UnresetWorld, fields: Sequence[str] | None) -> Judge:
    """Return how far a world is from where it began: field -> (1, *shape) in, Euclidean distance (1,) over ``fields`` out.

    Raises:
        InputError: for a field that is not observed, or an image.
    """
    names = list(fields or ["observation.state"])
    images = list(shared.spec.subset(names).observation.image_names)
    if images:
        raise InputError(f"training.resets.fields: {images[0]!r} is an image, expected fields of numbers")

    def distance(obs: Mapping[str, np.ndarray]) -> np.ndarray:
        apart = [(obs[name] - shared.start[name]).reshape(1, -1).astype(np.float64) for name in names]
        return np.linalg.norm(np.concatenate(apart, 1), axis=1)

    return distance
