"""dm_control's control suite: bodies with rewards in [0, 1], a thousand steps an episode, by the suite's own environments.

Tassa et al. 2018, "DeepMind Control Suite"; Tunyasuvunakool et al. 2020, "dm_control". The suite knows no success: it reports the
return, which ``info["score"]`` gives as a share of the greatest possible. What counts as success here is ours, and said so.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import copy
import functools
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim import render
from sim.drawn import DrawnBatch, View, require_pictures
from sim.env import BatchEnv, Observation
from sim.episodes import Outcome
from sim.identity import identity, model_files, package_folder, versions
from sim.registry import Entry, Options

SUITE = "dmcontrol"
MAX_EPISODE_STEPS = 1000
SOLVED = 0.5  # share of the greatest possible return
SUCCESS = "judged at the time limit: a return of at least half of the steps, 500 of 1,000 (our line: the suite has none, compare scores)"
BENCHMARKING = "dmcontrol-benchmarking"  # tag of the set that the suite calls so

#: Control step in s -> domain:tasks of the suite's set ``BENCHMARKING``.
_BENCHMARKING = {
    0.01: "acrobot:swingup,swingup_sparse cartpole:balance,balance_sparse,swingup,swingup_sparse cheetah:run manipulator:bring_ball",
    0.02: "ball_in_cup:catch finger:spin,turn_easy,turn_hard hopper:stand,hop pendulum:swingup point_mass:easy reacher:easy,hard",
    0.025: "humanoid:stand,walk,run walker:stand,walk,run",
    0.03: "swimmer:swimmer6,swimmer15",
    0.04: "fish:upright,swim",
}
_MORE = {0.02: "quadruped:walk,run", 0.015: "dog:walk,run"}

#: Observations of the suite that a robot does not know of itself.
_SEEN = ("to_target", "target", "target_position", "target_pos", "dist_to_target", "object_pos", "object_vel")
_STATE, _ENVIRONMENT = "observation.state", "observation.environment_state"


@functools.cache
def tasks() -> dict[str, tuple[str, str, float, bool]]:
    """Return name without the suite's -> (domain, task, control step in s, whether it belongs to the suite's benchmarking set)."""
    out = {}
    for table, benchmarking in ((_BENCHMARKING, True), (_MORE, False)):
        for step, domains in table.items():
            for domain, _, members in (entry.partition(":") for entry in domains.split()):
                for task in members.split(","):
                    out[f"{domain}-{task}".replace("_", "-")] = domain, task, step, benchmarking
    return dict(sorted(out.items()))


def entries() -> list[Entry]:
    """Return the tasks."""
    return [
        Entry(
            name=f"{SUITE}/{name}",
            description=f"{domain.replace('_', ' ')}: {task.replace('_', ' ')} (dm_control)",
            tags=(SUITE, domain.replace("_", "-"), *((BENCHMARKING,) if benchmarking else ()), "camera"),
            rate_hz=1.0 / step,
            max_episode_steps=MAX_EPISODE_STEPS,
            requires=("mujoco", "dm_control"),
            install="`pip install 'robopolicy[suites]'`",
            factory=_make,
            success=SUCCESS,
        )
        for name, (domain, task, step, benchmarking) in tasks().items()
    ]


def _make(name: str, options: Options) -> BatchEnv:
    return DmControlBatch(name, options)


@functools.cache
def load_suite() -> Any:
    """Import ``dm_control.suite`` with a rendering backend chosen; returns the module."""
    render.configure()
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that MuJoCo will not read its models for ever
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dm_control import suite
    return suite


def construct(name: str) -> Any:
    """Return the suite's environment of a task without its time limit, which is ours."""
    domain, task, _, _ = tasks()[name]
    return load_suite().load(domain, task, task_kwargs={"time_limit": float("inf"), "random": 0})


def copied(env: Any) -> Any:
    """Return a copy of a suite's environment: a model and data of its own, and a task that draws for itself."""
    out = copy.copy(env)
    out._physics, out._task = env.physics.copy(), copy.copy(env.task)
    return out


def generator(seed: int) -> np.random.RandomState:
    """Return what the suite draws an episode from: for seeds below 2^32 what it makes of ``random=seed``."""
    return np.random.RandomState(seed if seed < 2**32 else [seed % 2**32, seed >> 32])


class DmControlBatch(DrawnBatch):
    """N worlds of a task of the control suite; ``info``: ``success``; ``score``: the return so far over the steps of the time limit.

    Observations keep the suite's order and names: ``observation.state``, and ``observation.environment_state`` for what is told of
    objects and targets. The action is in [-1, 1] of each actuator's range.
    """

    def __init__(self, name: str, options: Options) -> None:
        require_pictures(name, options)
        self._name = name.rpartition("/")[2]
        first = construct(self._name)
        self._envs = [first, *(copied(first) for _ in range(options.num_worlds - 1))]
        self._camera = _camera_name(first.physics.model.ptr)
        self._keys = {field: [k for k in first.observation_spec() if (k in _SEEN) == (field == _ENVIRONMENT)] for field in (_STATE, _ENVIRONMENT)}
        spec = self._make_spec(first, options)
        steps = options.max_episode_steps or MAX_EPISODE_STEPS
        version = identity(versions("dm-control", "mujoco"), SUCCESS, definition_files(tasks()[self._name][0]))
        super().__init__(name, version, spec, options.num_worlds, steps, options.autoreset, {"score": "float32"})
        actions = first.action_spec()
        self._middle, self._half = (actions.maximum + actions.minimum) / 2.0, (actions.maximum - actions.minimum) / 2.0
        self._returns = np.zeros(options.num_worlds)
        self._latest: list[Any] = [None] * options.num_worlds  # the suite's own observation of each row
        self._image_size = options.image_size if options.images else 0
        self.view = View(first.physics.model.ptr, self._camera)

    def _make_spec(self, env: Any, options: Options) -> Spec:
        rate = 1.0 / tasks()[self._name][2]
        shapes = {key: array.shape for key, array in env.observation_spec().items()}
        fields: dict[str, Field] = {}
        for field, keys in self._keys.items():
            names = tuple(name for key in keys for name in _names(key, shapes[key]))
            if names and (options.state or field == _STATE):
                fields[field] = Field((len(names),), unit="1", names=names)
        if options.images:
            fields[f"observation.images.{self._camera}"] = Field((options.image_size, options.image_size, 3), "uint8", kind="image")
        size = env.action_spec().shape[0]
        motors = tuple(env.physics.model.ptr.actuator(i).name for i in range(size))
        names = motors if all(motors) and len(set(motors)) == size else ()
        action = Field((size,), low=(-1.0,) * size, high=(1.0,) * size, kind="effort", names=names)
        return Spec(ObservationSpec(fields, rate), ActionSpec({"control": action}, rate))

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            env = self._envs[row]
            env.task._random = generator(int(seed))
            self._latest[row] = env.reset().observation
        self._returns[rows] = 0.0

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        from dm_control.rl.control import PhysicsError

        reward, terminated = np.zeros(rows.size), np.zeros(rows.size, bool)
        for k, row in enumerate(rows):
            env = self._envs[row]
            try:
                step = env.step(self._middle + self._half * action[k].astype(np.float64))
            except PhysicsError:  # the state has run away: the episode ends where it was last sound
                terminated[k] = True
                continue
            self._latest[row], reward[k], terminated[k] = step.observation, step.reward, step.last()
        self._returns[rows] += reward
        score = self._returns[rows] / self.max_episode_steps
        last = terminated | (self._elapsed[rows] + 1 >= self.max_episode_steps)
        return Outcome(reward, terminated, {"success": last & (score >= SOLVED), "score": score})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        for field, keys in self._keys.items():
            if field in out:
                for row in rows:
                    out[field][row] = np.concatenate([np.ravel(self._latest[row][key]) for key in keys])
        if self._image_size:
            out[f"observation.images.{self._camera}"][rows] = self.pictures(rows, self._image_size)

    def mujoco_row(self, row: int) -> tuple[Any, Any]:
        """Return the ``mujoco.MjModel`` and ``mujoco.MjData`` that world ``row`` alone is stepped and drawn with."""
        physics = self._envs[row].physics
        return physics.model.ptr, physics.data.ptr

    def scene(self, row: int) -> tuple[Any, Any]:
        """See :class:`sim.drawn.DrawnBatch`."""
        return self.mujoco_row(row)

    def close(self) -> None:
        """Free cameras and worlds; may be called twice."""
        super().close()
        self._envs = []


def definition_files(domain: str) -> tuple[Path, ...]:
    """Return the domain's model with what it refers to, and the source of its first states and rewards."""
    folder = package_folder("dm_control")
    sources = (folder / "suite" / f"{domain}.py", folder / "suite" / "base.py", folder / "utils" / "rewards.py")
    return (*model_files(folder / "suite" / f"{domain}.xml"), *sources)


def _camera_name(model: Any) -> str:
    """Return the name of the model's first camera, with which the suite renders by default."""
    return model.camera(0).name


def _names(key: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return a name for each number of an observation."""
    size = int(np.prod(shape, dtype=np.int64))
    return (key,) if shape == () else tuple(f"{key}.{i}" for i in range(size))
