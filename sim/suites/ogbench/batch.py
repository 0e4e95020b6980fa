"""What OGBench's mazes and tables have in common: five goals, of which the seed takes one, and the suite's own states."""

from __future__ import annotations

import abc

import numpy as np

from sim.drawn import DrawnBatch
from sim.env import Observation
from sim.episodes import Outcome
from sim.registry import Options
from sim.suites.ogbench import environment, goal_of, make_spec
from sim.suites.ogbench.version import suite_version


class GoalBatch(DrawnBatch):
    """N worlds with goals; ``info``: ``success``, ``goal`` (1 to 5).

    Args:
        name: Registered task.
        options: As every suite gets them.
    """

    def __init__(self, name: str, options: Options) -> None:
        e = environment(name)
        steps = options.max_episode_steps or e.max_episode_steps
        super().__init__(name, suite_version(name), make_spec(name), options.num_worlds, steps, options.autoreset, {"goal": "int64"})
        self._goals = np.zeros(options.num_worlds, np.int64)
        self._states = np.zeros((options.num_worlds, e.observed))  # the suite's float64
        self._wanted = np.zeros((options.num_worlds, e.observed))

    @abc.abstractmethod
    def begin_world(self, row: int, seed: int, goal: int) -> tuple[np.ndarray, np.ndarray]:
        """Begin an episode towards ``goal`` (1 to 5); returns the state (S,) and the state that is wanted (S,)."""

    @abc.abstractmethod
    def step_world(self, row: int, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Advance by one control step with ``action`` (Da,); returns the state (S,), the reward and whether the goal is reached."""

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._goals[rows] = goal_of(seeds)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._states[row], self._wanted[row] = self.begin_world(row, seed, int(self._goals[row]))

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward, success = np.zeros(rows.size), np.zeros(rows.size, bool)
        for k, row in enumerate(rows.tolist()):
            self._states[row], reward[k], success[k] = self.step_world(row, action[k])
        return Outcome(reward, success, {"success": success, "goal": self._goals[rows]})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows] = self._states[rows]
        out["observation.goal"][rows] = self._wanted[rows]


__all__ = ["GoalBatch"]
