"""N worlds of the robot arm, each stepped by the suite's own environment; the worlds share one compiled model.

A world is a shallow copy of one environment with its own state and random numbers. What an episode changes in the model (the
locks of drawer and window, marks and colours) is put back before each of its steps, so N worlds cost one model.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import copy
import functools
import importlib
from typing import Any

import numpy as np

from sim import render
from sim.env import Observation
from sim.episodes import EpisodicBatch, Outcome
from sim.oracles.ogbench_arm import ArmExpert
from sim.registry import Options
from sim.suites.ogbench import PICTURE_SIZE, environment, goal_of, make_spec
from sim.suites.ogbench.draws import GlobalDraws, stream_seed
from sim.suites.ogbench.version import suite_version

CAMERA = "front"
#: Arrays of the model that an episode changes.
_CHANGED = ("dof_damping", "site_pos", "geom_rgba", "mat_rgba")
#: Attributes of the suite's object that an episode changes in place.
_OWN = ("_cur_button_states", "_target_button_states")


@functools.cache
def suite_class(family: str) -> Any:
    """Return the suite's class for ``cube``, ``scene`` or ``puzzle`` whose ``action_space`` draws numbers under a seed.

    The suite makes a new, unseeded space for every random action with which its resets let the goal settle.
    """
    render.configure()  # before mujoco is imported
    base: Any = getattr(importlib.import_module(f"ogbench.manipspace.envs.{family}_env"), f"{family.capitalize()}Env")

    class Seeded(base):
        @property
        def action_space(self) -> Any:
            if "seeded_space" not in self.__dict__:
                self.seeded_space = new_space()
            return self.seeded_space

    return Seeded


def new_space() -> Any:
    """Return the suite's space of actions, with a generator of its own."""
    from gymnasium.spaces import Box

    ones = np.ones(5, np.float32)
    return Box(-ones, ones, (5,), np.float32)


class SharedArm:
    """One compiled model of an environment on which any number of worlds run.

    Args:
        name: Registered task.
        options: Of the suite's class, e.g. ``mode``.
    """

    def __init__(self, name: str, **options: Any) -> None:
        e = environment(name)
        self.template: Any = suite_class(e.family)(env_type=e.variant, **options)
        self.template.reset(seed=0)  # compiles; every episode begins on a model that is there
        self.model: Any = self.template._model
        self._compiled = {field: getattr(self.model, field).copy() for field in _CHANGED}
        self._loaded: ArmWorld | None = None

    def world(self) -> ArmWorld:
        """Return a new world on this model."""
        return ArmWorld(self)

    def load(self, world: ArmWorld) -> None:
        """Put into the model what the episode of ``world`` has changed in it."""
        if self._loaded is world:
            return
        if self._loaded is not None:
            self._loaded.kept = {field: getattr(self.model, field).copy() for field in _CHANGED}
        for field, array in world.kept.items():
            getattr(self.model, field)[:] = array
        self._loaded = world

    def pristine(self) -> dict[str, np.ndarray]:
        """Return what an episode may change, as compiled."""
        return {field: array.copy() for field, array in self._compiled.items()}


class ArmWorld:
    """One running episode.

    Attributes:
        env: The suite's object.
        kept: Arrays of the model as this episode left them, while another world uses the model.
        draws: The global random numbers of its expert.
    """

    def __init__(self, shared: SharedArm) -> None:
        import mujoco

        self.shared = shared
        self.env: Any = copy.copy(shared.template)
        self.env._data = mujoco.MjData(shared.model)
        self.env._np_random, self.env.seeded_space = None, new_space()
        self.kept = shared.pristine()
        self.draws = GlobalDraws(0)

    def begin(self, seed: int, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the episode of ``seed``; return the observation (S,) and the suite's info, with ``goal`` (S,) in task mode."""
        self.shared.load(self)
        for field, array in self.shared.pristine().items():
            getattr(self.shared.model, field)[:] = array
        env = self.env
        for name in _OWN:
            if hasattr(env, name):
                setattr(env, name, np.zeros_like(getattr(env, name)))  # of its own, and no trace of the last episode
        env.seeded_space.seed(stream_seed(seed, "space"))
        draws = GlobalDraws(stream_seed(seed, "global"))
        with draws.used():
            observation, info = env.reset(seed=stream_seed(seed, "environment"), options=options)
        self.draws = GlobalDraws(stream_seed(seed, "oracle"))
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        """Advance by one control step with ``action`` (5,): observation (S,), reward, whether the suite ends the episode, its info."""
        self.shared.load(self)
        observation, reward, terminated, _, info = self.env.step(action)
        return observation, float(reward), bool(terminated), info


class ArmBatch(EpisodicBatch):
    """N robot arms; ``info``: ``success``, ``goal`` (1 to 5).

    Args:
        name: Registered task.
        options: As every suite gets them.
    """

    def __init__(self, name: str, options: Options) -> None:
        e = environment(name)
        steps = options.max_episode_steps or e.max_episode_steps
        super().__init__(name, suite_version(name), make_spec(name), options.num_worlds, steps, options.autoreset, {"goal": "int64"})
        self._shared = SharedArm(name)
        self._worlds = [self._shared.world() for _ in range(options.num_worlds)]
        self._experts = [ArmExpert() for _ in self._worlds]
        self._goals = np.zeros(options.num_worlds, np.int64)
        self._states = np.zeros((options.num_worlds, e.observed))  # the suite's float64
        self._wanted = np.zeros((options.num_worlds, e.observed))
        self._camera: render.Camera | None = None

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._goals[rows] = goal_of(seeds)
        for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True):
            self._states[row], info = self._worlds[row].begin(seed, {"task_id": int(self._goals[row])})
            self._wanted[row] = info["goal"]
            self._experts[row].forget()

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward, success = np.zeros(rows.size), np.zeros(rows.size, bool)
        for k, row in enumerate(rows.tolist()):
            self._states[row], reward[k], _, info = self._worlds[row].step(action[k])
            success[k] = bool(info["success"])
        return Outcome(reward, success, {"success": success, "goal": self._goals[rows]})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows] = self._states[rows]
        out["observation.goal"][rows] = self._wanted[rows]

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return (len(worlds), 256, 256, 3) uint8, or None when this machine cannot render."""
        if not render.available():
            return None
        rows = np.arange(self.num_worlds) if worlds is None else np.asarray(worlds)
        if self._camera is None:
            self._camera = render.Camera(self._shared.model, PICTURE_SIZE, PICTURE_SIZE, CAMERA)
        out = np.zeros((len(rows), PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
        for k, row in enumerate(rows.tolist()):
            self._shared.load(self._worlds[row])
            out[k] = self._camera.picture(self._shared.model, self._worlds[row].env._data)
        return out

    def expert_action(self) -> np.ndarray:
        """Return the expert's actions (N, 5) float32, zeros where ended; see ``sim.oracles.ogbench_arm``."""
        out = np.zeros((self.num_worlds, 5), np.float32)
        for row in np.flatnonzero(self._running).tolist():
            world = self._worlds[row]
            self._shared.load(world)
            out[row] = self._experts[row].action(world.env, int(self._elapsed[row]), world.draws)
        return np.clip(out, -1, 1)

    def close(self) -> None:
        """Free the camera; may be called twice."""
        super().close()
        if self._camera is not None:
            self._camera.close()
            self._camera = None
