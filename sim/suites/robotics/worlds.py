"""N worlds of one Gymnasium-Robotics task, each stepped by an environment of the suite's own.

An episode begins from a state that is reset whole (warm start of the solver, mocap bodies, controls), so that it is a pure function of
(task, seed, actions) and equals the suite's own first episode with that seed.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim.drawn import DrawnBatch, View, require_pictures
from sim.env import Observation
from sim.episodes import Outcome
from sim.identity import identity, model_files, versions
from sim.oracles import fetch_expert
from sim.oracles.hand_reach_expert import HandReachExpert
from sim.oracles.point_maze_expert import PointMazeExpert
from sim.registry import Options
from sim.suites.robotics import CAMERA, KINDS, Kind
from sim.suites.robotics.layout import ENVIRONMENT, LAYOUTS, Layout, action_fields, flat
from sim.suites.robotics.shim import SHIM_VERSION, construct, copied

_EXPERTS = {"fetch-reach": fetch_expert.reach, "fetch-push": fetch_expert.push, "fetch-pick-and-place": fetch_expert.pick_and_place}


class RoboticsBatch(DrawnBatch):
    """N worlds of a task of Gymnasium-Robotics; ``info``: ``success``, in the kitchen also ``score``, the share of its tasks done.

    Args:
        name: Registered task.
        options: As every suite gets them.
    """

    def __init__(self, name: str, options: Options) -> None:
        require_pictures(name, options)
        self._name = name.rpartition("/")[2]
        kind = self._kind = KINDS[self._name]
        reward = options.reward or kind.rewards[0]
        arguments = {**kind.arguments, **({"reward_type": reward} if len(kind.rewards) > 1 else {})}
        first = construct(kind.environment, arguments)
        self._envs = [first, *(copied(first) for _ in range(options.num_worlds - 1))]
        self._layout: Layout = LAYOUTS[kind.family](first)
        version = identity(_said(kind, reward), f"{kind.success} {sorted(kind.arguments.items())}", definition_files(first, kind))
        spec = self._make_spec(first.action_space.shape[0], options)
        info = {"score": "float32"} if kind.family == "kitchen" else {}
        super().__init__(name, version, spec, options.num_worlds, options.max_episode_steps or kind.steps, options.autoreset, info)
        self._latest: Any = [np.zeros(0)] * options.num_worlds  # the suite's own observation of each row, flat
        self._image_size = options.image_size if options.images else 0
        self.view = View(first.model, free_view(first.model, kind.view))
        self._scratch: Any = None  # where goals are drawn
        self._through_maze = maze_expert(first) if kind.family == "pointmaze" else None
        self._hands = [HandReachExpert(env) for env in self._envs] if kind.family == "hand-reach" else []

    def _make_spec(self, action_size: int, options: Options) -> Spec:
        fields: dict[str, Field] = {name: part.field for name, part in self._layout.items() if options.state or name != ENVIRONMENT}
        if options.images:
            fields[f"observation.images.{CAMERA}"] = Field((options.image_size, options.image_size, 3), "uint8", kind="image")
        rate = self._kind.rate_hz
        return Spec(ObservationSpec(fields, rate), ActionSpec(action_fields(self._kind.family, action_size), rate))

    # Episodes ----------------------------------------------------------------------------------------------------

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        import mujoco

        for row, seed in zip(rows, seeds, strict=True):
            env = self._envs[row]
            mujoco.mj_resetData(env.model, env.data)  # some of the suite's resets leave the warm start as it was
            observation, _ = env.reset(seed=int(seed))
            self._latest[row] = flat(observation)

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward, score = np.zeros((2, rows.size))
        terminated, success = np.zeros((2, rows.size), bool)
        for k, row in enumerate(rows):
            env = self._envs[row]
            observation, reward[k], terminated[k], _, info = env.step(action[k].astype(env.action_space.dtype))
            self._latest[row] = flat(observation)
            if "episode_task_completions" in info:
                score[k] = len(info["episode_task_completions"]) / len(env.goal)
                success[k] = score[k] == 1.0
            else:
                success[k] = bool(info["is_success"] if "is_success" in info else info["success"])
        scored = {"score": score} if self._kind.family == "kitchen" else {}
        return Outcome(reward, terminated, {"success": success, **scored})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        for name, part in self._layout.items():
            if name in out:
                for row in rows:
                    out[name][row] = self._latest[row][list(part.places)]
        if self._image_size:
            out[f"observation.images.{CAMERA}"][rows] = self.pictures(rows, self._image_size)

    def mujoco_row(self, row: int) -> tuple[Any, Any]:
        """Return the ``mujoco.MjModel`` and ``mujoco.MjData`` that world ``row`` alone is stepped and drawn with."""
        env = self._envs[row]
        return env.model, env.data

    def expert_action(self) -> np.ndarray:
        """Return the expert's action (N, Da) float32; zeros where ended. Raises InputError if the task has none."""
        if not self._kind.expert:
            return super().expert_action()
        out, rows = np.zeros((self.num_worlds, self.spec.action.dim), np.float32), np.flatnonzero(self._running)
        if self._through_maze is not None and rows.size:
            seen = np.stack([self._latest[row] for row in rows])
            out[rows] = self._through_maze.force(seen[:, :2], seen[:, 2:4], seen[:, 6:8])
        elif self._through_maze is None:
            for row in rows:
                out[row] = self._hands[row].action() if self._hands else _EXPERTS[self._name](self._latest[row])
        return np.clip(out, -1.0, 1.0)

    # Pictures ----------------------------------------------------------------------------------------------------

    def scene(self, row: int) -> tuple[Any, Any]:
        """See :class:`sim.drawn.DrawnBatch`; without the mark of the goal."""
        return self.mujoco_row(row)

    def picture(self, row: int, size: int) -> np.ndarray:
        """Return the picture (size, size, 3) uint8 of one world, its goal in it; nothing of the world changes by that."""
        import mujoco

        env = self._envs[row]
        if not hasattr(env, "_render_callback"):
            return super().picture(row, size)
        assert self.view is not None
        if self._scratch is None:
            self._scratch = mujoco.MjData(env.model)
        data, sites = env.data, env.model.site_pos.copy()
        mujoco.mj_copyData(self._scratch, env.model, data)
        env.data = self._scratch
        try:
            env._render_callback()  # puts markers at the goal, and computes the kinematics anew
            return self.view.picture(size, env.model, self._scratch)
        finally:
            env.data, env.model.site_pos[:] = data, sites

    def close(self) -> None:
        """Free cameras and worlds; may be called twice."""
        super().close()
        self._envs, self._scratch = [], None


def free_view(model: Any, view: Mapping[str, Any]) -> Any:
    """Return a ``mujoco.MjvCamera`` that looks as MuJoCo would by default, but for what ``view`` says."""
    import mujoco

    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    for name, value in view.items():
        if name == "lookat":
            camera.lookat[:] = value
        else:
            setattr(camera, name, value)
    return camera


def maze_expert(env: Any) -> PointMazeExpert:
    """Return the expert for the maze of one of the suite's environments."""
    return PointMazeExpert(np.array([[cell == 1 for cell in row] for row in env.maze.maze_map]), env.maze.maze_size_scaling)


def _said(kind: Kind, reward: str) -> str:
    said = f"{versions('gymnasium-robotics', 'gymnasium', 'mujoco')}, shim {SHIM_VERSION}"
    return said if reward == kind.rewards[0] else f"{said}, {reward} reward"


def definition_files(env: Any, kind: Kind) -> tuple[Path, ...]:
    """Return the model's files and the sources of the environment's classes: what rewards, successes and first states come from."""
    folder = Path(importlib.import_module("gymnasium_robotics").__file__ or "").parent
    inner = [value for name, value in vars(env).items() if name.endswith("_env")]
    if kind.family == "pointmaze":
        models = [folder / "envs" / "assets" / "point" / "point.xml"]
    elif kind.family == "antmaze":
        models = [Path(inspect.getfile(type(inner[0]))).parent / "assets" / "ant.xml"]
    else:
        models = [Path((inner[0] if inner else env).fullpath)]
    classes = [base for owner in (env, *inner) for base in type(owner).__mro__ if base.__module__.startswith("gymnasium_robotics.envs")]
    maps = [folder / "envs" / "maze" / "maps.py"] if "maze_map" in kind.arguments else []
    return (*model_files(*models), *sorted({Path(inspect.getfile(base)) for base in classes}), *maps)
