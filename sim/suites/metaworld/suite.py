"""Meta-World's own objects: how one begins an episode on a shared model, and N worlds stepped by them one after the other.

An episode is a new suite object, seeded and reset the suite's own way, so that it is a pure function of (task, seed, actions)
and equals the suite's to the last bit. What an episode changes in the model (positions of bodies and sites) is put back before
each of its steps, so N worlds cost one model. :mod:`sim.suites.metaworld.sawyer` begins its episodes here and steps them as one
batch; :class:`SuiteBatch` is what it is measured against, and the worlds of a task that is not in array code.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from sim.drawn import DrawnBatch, View, require_pictures
from sim.env import Observation
from sim.episodes import Outcome
from sim.registry import Options
from sim.suites.metaworld import CAMERA, MAX_EPISODE_STEPS, definitions, make_spec


class SharedModel:
    """One compiled model on which any number of the suite's objects of one task begin episodes.

    Args:
        name: Registered task, e.g. ``metaworld/push``.

    Attributes:
        model: ``mujoco.MjModel``; an episode that begins writes positions of bodies and sites into it.
        body_pos: (nbody, 3) m, as compiled.
        site_pos: (nsite, 3) m, as compiled.
        expert: The suite's scripted policy, which keeps nothing between calls.
        clip: Limits (39,) that the suite clips its observation to.
        template: A suite object that was never reset.
    """

    def __init__(self, name: str) -> None:
        from sim.suites import metaworld_shim as shim

        shim.load()
        self._task = name.rpartition("/")[2]
        self._suite_class, self.expert = _suite_task(self._task + "-v3")
        self.template: Any = self._suite_class()
        self.model: Any = self.template.model
        self.body_pos, self.site_pos = self.model.body_pos.copy(), self.model.site_pos.copy()
        shim.observe_goal(self.template)
        space = self.template.sawyer_observation_space
        self.clip: tuple[np.ndarray, np.ndarray] = (space.low, space.high)

    def version(self) -> str:
        """Return what defines the task, for the evaluation ledger."""
        from sim.suites.metaworld_shim import suite_version

        return suite_version(self._suite_class, self.template.model_name, definitions.success(self._task))

    def begin(self, data: Any, seed: int, twice: bool = True) -> tuple[Any, np.ndarray]:
        """Begin an episode in ``data`` (``mujoco.MjData``); return the suite's object and its clipped observation (39,).

        The suite's reset begins an episode and then another one; of the first nothing remains but the numbers drawn for it and
        what they changed in the model. Without ``twice`` the hand is not driven to its place for the first: the same, in half the time.
        """
        import mujoco

        from sim.suites.metaworld_shim import observe_goal

        self.model.body_pos[:], self.model.site_pos[:] = self.body_pos, self.site_pos
        mujoco.mj_resetData(self.model, data)
        env = _on_shared_model(self._suite_class, self.model, data)
        observe_goal(env)
        env.max_path_length = sys.maxsize  # the time limit is ours
        env.seed(seed)
        if not twice:
            _drive_hand_once(env)
        observation, _ = env.reset()
        return env, np.clip(observation, *self.clip)

    def expert_actions(self, observations: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the suite's scripted actions (N, 4) float32, clipped to [-1, 1], in worlds ``rows`` (K,); zeros in the others."""
        out = np.zeros((len(observations), 4), np.float32)
        for row in rows:
            out[row] = self.expert.get_action(observations[row].copy())
        return np.clip(out, -1, 1)


class _World:
    """One running episode: a suite object on the shared model, and what this episode changed in it."""

    def __init__(self, model: Any) -> None:
        import mujoco

        self.data = mujoco.MjData(model)
        self.env: Any = None
        self.body_pos = model.body_pos.copy()  # (nbody, 3) m
        self.site_pos = model.site_pos.copy()  # (nsite, 3) m


class SuiteBatch(DrawnBatch):
    """N worlds of one Meta-World task, each stepped by the suite's own object.

    Args:
        name: Registered task.
        options: As every suite gets them.
        shared: The model, if there is one already.
    """

    def __init__(self, name: str, options: Options, shared: SharedModel | None = None) -> None:
        require_pictures(name, options)
        self._shared: SharedModel | None = shared or SharedModel(name)
        steps = options.max_episode_steps or MAX_EPISODE_STEPS
        super().__init__(name, self._shared.version(), make_spec(options), options.num_worlds, steps, options.autoreset)
        self._model: Any = self._shared.model
        self._worlds = [_World(self._model) for _ in range(options.num_worlds)]
        self._observations = np.zeros((options.num_worlds, 39))  # the suite's own, which its expert reads
        self._loaded: _World | None = None
        self._image_size = options.image_size if options.images else 0
        self.view = View(self._model, CAMERA, turned=True)  # the suite hangs it upside down

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        assert self._shared is not None
        for row, seed in zip(rows, seeds, strict=True):
            world = self._worlds[row]
            world.env, self._observations[row] = self._shared.begin(world.data, int(seed))
            world.body_pos[:], world.site_pos[:] = self._model.body_pos, self._model.site_pos
            self._loaded = world

    def _load(self, world: _World) -> None:
        if self._loaded is not world:
            self._model.body_pos[:], self._model.site_pos[:] = world.body_pos, world.site_pos
            self._loaded = world

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward, success = np.zeros(rows.size), np.zeros(rows.size, bool)
        for k, row in enumerate(rows):
            world = self._worlds[row]
            self._load(world)
            self._observations[row], reward[k], _, _, info = world.env.step(action[k])
            success[k] = info["success"] > 0
        return Outcome(reward, np.zeros(rows.size, bool), {"success": success})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        spread(self._observations, rows, out)
        if self._image_size:
            out[f"observation.images.{CAMERA}"][rows] = self.pictures(rows, self._image_size)

    def scene(self, row: int) -> tuple[Any, Any]:
        """See :class:`sim.drawn.DrawnBatch`."""
        self._load(self._worlds[row])
        return self._model, self._worlds[row].data

    def expert_action(self) -> np.ndarray:
        """Return the suite's scripted action (N, 4) float32, clipped to [-1, 1]."""
        assert self._shared is not None
        return self._shared.expert_actions(self._observations, np.flatnonzero(self._running))

    def close(self) -> None:
        """Free cameras, worlds and the model; may be called twice."""
        super().close()
        self._worlds, self._loaded, self._model, self._shared = [], None, None, None


def spread(observations: np.ndarray, rows: np.ndarray, out: Observation) -> None:
    """Write the suite's observations (N, 39) of worlds ``rows`` (K,) into the fields of ``out``."""
    whole = rows.size == len(observations)
    chosen = observations if whole else observations[rows]
    where = slice(None) if whole else rows
    out["observation.state"][where] = chosen[:, :4]
    if "observation.environment_state" in out:
        environment = out["observation.environment_state"]
        environment[where, :14], environment[where, 14:] = chosen[:, 4:18], chosen[:, 36:]


@functools.cache
def _suite_task(suite_name: str) -> tuple[type, Any]:
    """Return the suite's class and its expert."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    return ALL_V3_ENVIRONMENTS[suite_name], ENV_POLICY_MAP[suite_name]()


@functools.cache
def _sharing(suite_class: type) -> type:
    """Return ``suite_class`` with its simulation taken from ``shared`` = (model, data) instead of compiled anew."""

    def initialize(self: Any) -> tuple[Any, Any]:
        return self.shared

    return type(suite_class.__name__, (suite_class,), {"_initialize_simulation": initialize})


def _on_shared_model(suite_class: type, model: Any, data: Any) -> Any:
    """Construct a suite object on ``model`` and ``data``."""
    sharing = _sharing(suite_class)
    env: Any = object.__new__(sharing)
    env.shared = (model, data)  # read while it is constructed
    env.__init__()
    return env


def _drive_hand_once(env: Any) -> None:
    """Leave out the first of the drives that bring the hand of ``env`` to its place."""

    def leave_out(steps: int = 50) -> None:
        env.init_tcp = env.tcp_center
        del env._reset_hand  # the class's own from now on

    env._reset_hand = leave_out
