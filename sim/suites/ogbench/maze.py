"""N worlds of a maze, each stepped by the suite's own environment; the worlds share one compiled model.

A world is a shallow copy of one environment with its own state and random numbers. What an episode changes in the model is the
mark that shows its goal, which is put in place before a picture is drawn.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from policies.spec import InputError
from sim import render
from sim.drawn import View
from sim.oracles.maze_path import MazePath, unit_step
from sim.registry import Options
from sim.suites.ogbench import environment
from sim.suites.ogbench.batch import GoalBatch
from sim.suites.ogbench.draws import GlobalDraws, stream_seed


@contextlib.contextmanager
def _no_files_left(module: Any) -> Iterator[None]:
    """Close and remove the temporary model files that the suite's mazes write while they are built."""
    made: list[str] = []

    def mkstemp(**options: Any) -> tuple[int, str]:
        handle, path = tempfile.mkstemp(**options)
        os.close(handle)
        made.append(path)
        return -1, path

    module.tempfile = SimpleNamespace(mkstemp=mkstemp)
    try:
        yield
    finally:
        module.tempfile = tempfile
        for path in made:
            Path(path).unlink()


def build(name: str, terminate_at_goal: bool = True) -> Any:
    """Return the suite's environment for the maze ``name`` (registered), not wrapped."""
    render.configure()  # before mujoco is imported
    from ogbench.locomaze import maze

    e = environment(name)
    kinds = ("ant", "ball") if e.family == "ball" else (e.family, "maze")
    with _no_files_left(maze):
        return maze.make_maze_env(*kinds, maze_type=e.variant, terminate_at_goal=terminate_at_goal)


def another(env: Any) -> Any:
    """Return an environment like ``env`` on the same model with a state and random numbers of its own."""
    import mujoco

    out = object.__new__(type(env))
    out.__dict__.update(env.__dict__)  # copy.copy would build it anew from its constructor's arguments
    out.data = mujoco.MjData(out.model)
    out.action_space = copy.deepcopy(env.action_space)
    out._np_random = None
    return out


def begin(env: Any, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any], GlobalDraws]:
    """Begin the episode of ``seed``: observation (S,), the suite's info (with ``goal`` (S,)), and the global numbers of its steps."""
    draws = GlobalDraws(stream_seed(seed, "global"))
    env.action_space.seed(stream_seed(seed, "space"))
    with draws.used():
        observation, info = env.reset(seed=stream_seed(seed, "environment"), options=options)
    return observation, info, draws


def paths(env: Any, round_teleports: bool = True) -> MazePath:
    """Return the shortest ways of a maze; unless told otherwise they go round the cells from which one is teleported."""
    closed = np.array(env.maze_map) == 1
    for cell in (env._teleport_info or {}).get("teleport_in_ijs", ()) if round_teleports else ():
        closed[cell] = True
    return MazePath(closed, env._maze_unit, (-env._offset_x, -env._offset_y))


class MazeBatch(GoalBatch):
    """N mazes; see :class:`sim.suites.ogbench.batch.GoalBatch`."""

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        first = build(name)
        self._envs = [another(first) for _ in range(options.num_worlds)]
        self._model: Any = first.model
        self._path = paths(first) if environment(name).expert else None
        self._stochastic = first._teleport_info is not None
        self._draws = [GlobalDraws(0) for _ in self._envs]
        self.view = View(self._model, first.custom_camera)

    def begin_world(self, row: int, seed: int, goal: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`sim.suites.ogbench.batch.GoalBatch`; (S,) each."""
        state, info, self._draws[row] = begin(self._envs[row], seed, {"task_id": goal})
        return state, info["goal"]

    def step_world(self, row: int, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """See :class:`sim.suites.ogbench.batch.GoalBatch`; ``action`` (Da,)."""
        # only teleports draw numbers while they step
        with self._draws[row].used() if self._stochastic else contextlib.nullcontext():
            state, reward, _, _, info = self._envs[row].step(action)
        return state, float(reward), info["success"] > 0

    def scene(self, row: int) -> tuple[Any, Any]:
        """Return model and state of a maze, with the mark at its goal; only what is drawn depends on it."""
        env, mark = self._envs[row], self._model.geom("target").id
        self._model.geom_pos[mark, :2] = env.cur_goal_xy
        env.data.geom_xpos[mark] = self._model.geom_pos[mark]
        return self._model, env.data

    def expert_action(self) -> np.ndarray:
        """Return unit steps (N, 2) float32 along the shortest way, zeros where ended. Raises InputError for a maze of a walking robot."""
        if self._path is None:
            raise InputError(f"task {self.task!r} ships no scripted expert: a walking robot needs a policy that was trained to walk (robopolicy train)")
        out = np.zeros((self.num_worlds, 2), np.float32)
        rows = np.flatnonzero(self._running)
        if rows.size:
            here = np.array([self._envs[row].get_xy() for row in rows])
            goal = np.array([self._envs[row].cur_goal_xy for row in rows])
            out[rows] = unit_step(here, self._path.next_point(here, goal), reach=0.2)
        return out
