"""Episodes of OGBench's published data sets, simulated anew: an arm at play, and a point that navigates a maze.

``play``: the suite's own oracles carry out one random task after the other, along planned motions with smooth noise. ``navigate``:
from a random cell along shortest ways to one random corner after the other, with noise on every action. ``stitch``: to one cell
four steps away. What is drawn, and how much noise there is, follows the suite's generator (Park et al. 2025, appendix); the numbers
that are drawn are ours, and every episode is a function of its seed. Actions are recorded as they were executed, noise included.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.episodes import hashed
from sim.suites.ogbench import environment
from sim.suites.ogbench.draws import GlobalDraws, stream_seed

_PLAY_NOISE, _PLAY_SMOOTHING = 0.1, 0.5  # share of the action range; standard deviation of the filter, control steps
_MAZE_NOISE = 0.5  # standard deviation, of actions in [-1, 1]
_STITCH_STEPS = 4  # cells
_DATA = 0x0DA7A
#: Limits between which the chance that a cube is put onto another one is drawn for every episode.
_STACKING = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35)}
_ORACLES = {"cube": ("cube",), "scene": ("cube", "button", "drawer", "window"), "puzzle": ("button",)}


@dataclass(frozen=True)
class Trajectory:
    """One episode of T frames.

    Attributes:
        seed: What it is a function of.
        states: (T, S) float32, before each action.
        actions: (T, A) float32, executed.
    """

    seed: int
    states: np.ndarray
    actions: np.ndarray


class PlaySimulator:
    """Plays with the objects of a robot arm's environment.

    Args:
        task: Registered name.
        frames: Of an episode.
    """

    def __init__(self, task: str, frames: int) -> None:
        from sim.suites.ogbench.manipulation import SharedArm

        self.environment, self.frames = environment(task), frames
        self._world = SharedArm(task, mode="data_collection", terminate_at_goal=False).world()
        self._oracles = {kind: self._oracle(kind) for kind in _ORACLES[self.environment.family]}

    def _oracle(self, kind: str) -> Any:
        made: Any = getattr(importlib.import_module(f"ogbench.manipspace.oracles.plan.{kind}_plan"), f"{kind.capitalize()}PlanOracle")
        puzzle = {"gripper_always_closed": True} if self.environment.family == "puzzle" else {}
        return made(env=self._world.env, noise=_PLAY_NOISE, noise_smoothing=_PLAY_SMOOTHING, **puzzle)

    def run(self, seed: int) -> Trajectory:
        """Simulate the episode of ``seed``; a scene whose cube is lost from sight is drawn anew, as the suite's generator does."""
        attempt = 0
        while True:
            states, actions, cubes = self._episode(seed if not attempt else int(hashed(seed, _DATA, attempt)[0] & 0xFFFFFFFF))
            if self.environment.family != "scene" or _in_sight(cubes):
                return Trajectory(seed, states, actions)
            attempt += 1

    def _episode(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        world, draws = self._world, GlobalDraws(stream_seed(seed, "oracle"))
        observation, info = world.begin(seed)
        states = np.empty((self.frames, observation.size), np.float32)
        actions, cubes = np.empty((self.frames, 5), np.float32), np.zeros((self.frames, 3))
        with draws.used():
            chance = np.random.uniform(*_STACKING.get(self.environment.variant, (0.5, 0.5)))
            oracle = self._oracles[info["privileged/target_task"]]
            oracle.reset(observation, info)
            for t in range(self.frames):
                action = np.clip(oracle.select_action(observation, info), -1, 1)
                states[t], actions[t] = observation, action
                if self.environment.family == "scene":
                    cubes[t] = info["privileged/block_0_pos"]
                observation, _, _, info = world.step(action)
                if oracle.done:
                    seen, told = world.env.set_new_target(p_stack=chance)
                    oracle = self._oracles[told["privileged/target_task"]]
                    oracle.reset(seen, told)
        return states, actions, cubes


def _in_sight(cubes: np.ndarray) -> bool:
    """Whether a cube at ``cubes`` (T, 3) m never leaves the table's middle but for the drawer."""
    left = (cubes[:, 1] <= -0.3) & ((cubes[:, 2] < 0.06) | (cubes[:, 2] > 0.08))
    return not ((cubes[:, 1] >= 0.29) | left).any()


class MazeSimulator:
    """Navigates a maze with a point.

    Args:
        task: Registered name.
        kind: ``navigate`` or ``stitch``.
        frames: Of an episode.
    """

    def __init__(self, task: str, kind: str, frames: int) -> None:
        from sim.suites.ogbench.maze import another, build, paths

        self.kind, self.frames = kind, frames
        self._env = another(build(task, terminate_at_goal=False))
        self._path = paths(self._env, round_teleports=False)
        self._ways, self._corners = self._path.ways(), self._path.corners()
        self._centres = self._path.centre(np.arange(len(self._path.cells)))

    def run(self, seed: int) -> Trajectory:
        """Simulate the episode of ``seed``."""
        from sim.suites.ogbench.maze import begin

        rng = np.random.Generator(np.random.Philox(key=[seed, _DATA]))
        env, cells = self._env, self._path.cells
        first = int(rng.integers(len(cells)))
        target = self._first_goal(first, rng)
        pair = {"init_ij": tuple(cells[first].tolist()), "goal_ij": tuple(cells[target].tolist())}
        observation, _, draws = begin(env, seed, {"task_info": pair})
        noise = rng.normal(0.0, _MAZE_NOISE, (self.frames, 2))
        states, actions = np.empty((self.frames, 2), np.float32), np.empty((self.frames, 2), np.float32)
        with draws.used():
            for t in range(self.frames):
                heading = self._centres[self._ways[self._cell(observation), target]] - observation
                action = np.clip(heading / (np.hypot(*heading) + 1e-6) + noise[t], -1, 1)
                states[t], actions[t] = observation, action
                _, _, _, _, info = env.step(action)
                observation = env.get_xy()  # a teleport moves it after the suite has looked
                if self.kind == "navigate" and info["success"]:
                    target = int(self._corners[rng.integers(len(self._corners))])
                    env.set_goal(tuple(cells[target].tolist()))
        return Trajectory(seed, states, actions)

    def _first_goal(self, first: int, rng: np.random.Generator) -> int:
        if self.kind == "navigate":
            return int(self._corners[rng.integers(len(self._corners))])
        near = np.flatnonzero(self._path.distance[first] == _STITCH_STEPS)
        return int(near[rng.integers(len(near))]) if near.size else first

    def _cell(self, point: np.ndarray) -> int:
        return int(self._path.cell(point[None])[0])
