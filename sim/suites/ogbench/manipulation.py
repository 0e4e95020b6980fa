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
from sim.drawn import View
from sim.oracles.ogbench_arm import ArmExpert
from sim.registry import Options
from sim.suites.ogbench import environment
from sim.suites.ogbench.batch import GoalBatch
from sim.suites.ogbench.draws import GlobalDraws, stream_seed

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


class ArmBatch(GoalBatch):
    """N robot arms; see :class:`sim.suites.ogbench.batch.GoalBatch`."""

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self._shared = SharedArm(name)
        self._worlds = [self._shared.world() for _ in range(options.num_worlds)]
        self._experts = [ArmExpert() for _ in self._worlds]
        self.view = View(self._shared.model, CAMERA)

    def begin_world(self, row: int, seed: int, goal: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`sim.suites.ogbench.batch.GoalBatch`; (S,) each."""
        state, info = self._worlds[row].begin(seed, {"task_id": goal})
        self._experts[row].forget()
        return state, info["goal"]

    def step_world(self, row: int, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """See :class:`sim.suites.ogbench.batch.GoalBatch`; ``action`` (Da,)."""
        state, reward, _, info = self._worlds[row].step(action)
        return state, reward, bool(info["success"])

    def scene(self, row: int) -> tuple[Any, Any]:
        """See :class:`sim.drawn.DrawnBatch`."""
        self._shared.load(self._worlds[row])
        return self._shared.model, self._worlds[row].env._data

    def expert_action(self) -> np.ndarray:
        """Return the expert's actions (N, 5) float32, zeros where ended; see ``sim.oracles.ogbench_arm``."""
        out = np.zeros((self.num_worlds, 5), np.float32)
        for row in np.flatnonzero(self._running).tolist():
            world = self._worlds[row]
            self._shared.load(world)
            out[row] = self._experts[row].action(world.env, int(self._elapsed[row]), world.draws)
        return np.clip(out, -1, 1)
