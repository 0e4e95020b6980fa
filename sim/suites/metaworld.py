"""Meta-World's 50 manipulation tasks (v3) with their scripted experts, goal observable.

Yu et al. 2019, "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning"; McLean et al.
2025 for v3. A Sawyer arm whose hand follows a mocap body: the action moves it by up to 1 cm and sets the gripper's effort.

An episode is a new suite object over the batch's one compiled model, seeded and reset the suite's own way, so that it is
a pure function of (task, seed, actions) and equals the suite's to the last bit. What an episode changes in the model
(positions of bodies and sites) is put back before each of its steps, so N worlds cost one model.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim import render
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome
from sim.registry import Entry, Options

RATE_HZ = 80.0  # 5 physics steps of 2.5 ms
MAX_EPISODE_STEPS = 500
CAMERA = "corner2"
PICTURE_SIZE = 256  # px, pictures for people

_NAMES = """
assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall button-press-wall
coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open door-unlock drawer-close
drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide plate-slide-back
plate-slide-back-side plate-slide-side push push-back push-wall reach reach-wall shelf-place soccer stick-pull stick-push
sweep sweep-into window-close window-open
"""
_MT10_NAMES = """
button-press-topdown door-open drawer-close drawer-open peg-insert-side pick-place push reach window-close window-open
"""
TASKS, MT10 = tuple(_NAMES.split()), tuple(_MT10_NAMES.split())

#: Limits of the hand position that the suite clips its observation to, m.
_HAND_LOW, _HAND_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
_OBJECT_NAMES = tuple(f"object{i}.{part}" for i in (1, 2) for part in ("x", "y", "z", "q0", "q1", "q2", "q3"))


def entries() -> list[Entry]:
    """Return the 50 tasks."""
    return [
        Entry(
            name=f"metaworld/{task}",
            description=f"Sawyer arm: {task.replace('-', ' ')} (Meta-World v3)",
            tags=("metaworld", "mt50", *(("mt10",) if task in MT10 else ()), "expert", "camera"),
            rate_hz=RATE_HZ,
            max_episode_steps=MAX_EPISODE_STEPS,
            requires=("mujoco", "metaworld"),
            install="`robopolicy install metaworld`",
            factory=_make,
        )
        for task in TASKS
    ]


def _make(name: str, options: Options) -> BatchEnv:
    return MetaWorldBatch(name, options)


def make_spec(options: Options) -> Spec:
    """Return the spec: the present frame of the suite's observation (its copy of the last frame is left to windows).

    ``observation.state``: hand x, y, z in m, gripper opening in [0, 1] of 0.1 m. ``observation.environment_state``: two
    objects' position in m and quaternion (zeros where a task has one object), goal position in m.
    """
    fields = {
        "observation.state": Field((4,), unit="m, 1", low=(*_HAND_LOW, 0), high=(*_HAND_HIGH, 1), names=("hand.x", "hand.y", "hand.z", "gripper")),
    }
    if options.state:
        fields["observation.environment_state"] = Field((17,), unit="m, 1", names=(*_OBJECT_NAMES, "goal.x", "goal.y", "goal.z"))
    if options.images:
        size = options.image_size
        fields[f"observation.images.{CAMERA}"] = Field((size, size, 3), "uint8", kind="image")
    action = {
        "hand": Field((3,), low=-1, high=1, kind="delta", names=("hand.dx", "hand.dy", "hand.dz")),  # type: ignore[arg-type]
        "gripper": Field((1,), low=-1, high=1, kind="gripper", names=("gripper",)),  # type: ignore[arg-type]
    }
    return Spec(ObservationSpec(fields, RATE_HZ), ActionSpec(action, RATE_HZ), {"hand": "1 is an increment of 0.01 m a step"})


class _World:
    """One running episode: a suite object on the shared model, and what this episode changed in it."""

    def __init__(self, model: Any) -> None:
        import mujoco

        self.data = mujoco.MjData(model)
        self.env: Any = None
        self.body_pos = model.body_pos.copy()  # (nbody, 3) m
        self.site_pos = model.site_pos.copy()  # (nsite, 3) m
        self.observation = np.zeros(39)  # the suite's own, which its expert reads


class MetaWorldBatch(EpisodicBatch):
    """N worlds of one Meta-World task; ``info``: ``success`` at this step, ``score`` is 1 once it was reached.

    Episodes never terminate by themselves (as in the suite): success is reported per step, and who evaluates ends the
    episode at the first.
    """

    def __init__(self, name: str, options: Options) -> None:
        from sim.suites import metaworld_shim as shim

        shim.load()
        if options.images and not render.available():
            raise InputError(f"task {name!r} cannot show images on this machine: {render.unavailable_reason()}; use observations=state")
        steps = options.max_episode_steps or MAX_EPISODE_STEPS
        super().__init__(name, shim.suite_version(), make_spec(options), options.num_worlds, steps, options.autoreset)
        suite_name = name.rpartition("/")[2] + "-v3"
        self._suite_class, self._expert = _suite_task(suite_name)
        template = self._suite_class()
        self._model: Any = template.model
        self._clean = self._model.body_pos.copy(), self._model.site_pos.copy()
        shim.observe_goal(template)
        space = template.sawyer_observation_space
        self._clip = space.low, space.high
        self._worlds = [_World(self._model) for _ in range(options.num_worlds)]
        self._loaded: _World | None = None
        self._image_size = options.image_size if options.images else 0
        self._cameras: dict[int, render.Camera] = {}

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        import mujoco

        from sim.suites.metaworld_shim import observe_goal

        for row, seed in zip(rows, seeds, strict=True):
            world = self._worlds[row]
            self._model.body_pos[:], self._model.site_pos[:] = self._clean
            mujoco.mj_resetData(self._model, world.data)
            world.env = _on_shared_model(self._suite_class, self._model, world.data)
            observe_goal(world.env)
            world.env.max_path_length = sys.maxsize  # the time limit is ours
            world.env.seed(int(seed))
            observation, _ = world.env.reset()
            world.observation = np.clip(observation, *self._clip)
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
            world.observation, reward[k], _, _, info = world.env.step(action[k])
            success[k] = info["success"] > 0
        return Outcome(reward, np.zeros(rows.size, bool), {"success": success})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        for row in rows:
            observation = self._worlds[row].observation
            out["observation.state"][row] = observation[:4]
            if "observation.environment_state" in out:
                out["observation.environment_state"][row, :14] = observation[4:18]
                out["observation.environment_state"][row, 14:] = observation[36:]
        if self._image_size:
            out[f"observation.images.{CAMERA}"][rows] = self._pictures(rows, self._image_size)

    def _pictures(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Return (K, size, size, 3) uint8; the suite hangs this camera upside down, so it is turned by half a turn (a flip would mirror)."""
        if size not in self._cameras:
            self._cameras[size] = render.Camera(self._model, size, size, CAMERA)
        camera, out = self._cameras[size], np.zeros((len(rows), size, size, 3), np.uint8)
        for k, row in enumerate(rows):
            self._load(self._worlds[row])
            out[k] = camera.picture(self._model, self._worlds[row].data)[::-1, ::-1]
        return out

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return (len(worlds), 256, 256, 3) uint8, or None when this machine cannot render."""
        if not render.available():
            return None
        rows = np.arange(self.num_worlds) if worlds is None else np.asarray(worlds)
        return self._pictures(rows, PICTURE_SIZE)

    def expert_action(self) -> np.ndarray:
        """Return the suite's scripted action (N, 4) float32, clipped to [-1, 1]."""
        out = np.zeros((self.num_worlds, 4), np.float32)
        for row in np.flatnonzero(self._running):
            out[row] = self._expert.get_action(self._worlds[row].observation)
        return np.clip(out, -1, 1)

    def close(self) -> None:
        """Free cameras, worlds and the model; may be called twice."""
        for camera in self._cameras.values():
            camera.close()
        super().close()
        self._cameras, self._worlds, self._loaded, self._model = {}, [], None, None


@functools.cache
def _suite_task(suite_name: str) -> tuple[type, Any]:
    """Return the suite's class and its expert, which keeps nothing between calls."""
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
