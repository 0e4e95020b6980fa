"""Meta-World's 50 manipulation tasks (v3) with their scripted experts, goal observable.

Yu et al. 2019, "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning"; McLean et al.
2025 for v3. A Sawyer arm whose hand follows a mocap body: the action moves it by up to 1 cm and sets the gripper's effort.

Episodes begin with the suite's own code (``suite.py``) and are stepped as one batch with observations, rewards and success in
array code (``sawyer.py``, a class a task in ``tasks_*.py``), equal to the suite's own environment step for step.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim.env import BatchEnv
from sim.registry import Entry, Options
from sim.suites.metaworld import definitions
from sim.suites.metaworld.definitions import MT10 as MT10
from sim.suites.metaworld.definitions import TASKS as TASKS

if TYPE_CHECKING:
    from sim.suites.metaworld.sawyer import SawyerTask

RATE_HZ = 80.0  # 5 physics steps of 2.5 ms
MAX_EPISODE_STEPS = 500
CAMERA = "corner2"

#: Limits of the hand position that the suite clips its observation to, m.
_HAND_LOW, _HAND_HIGH = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
_OBJECT_NAMES = tuple(f"object{i}.{part}" for i in (1, 2) for part in ("x", "y", "z", "q0", "q1", "q2", "q3"))


def entries() -> list[Entry]:
    """Return the 50 tasks."""
    return [
        Entry(
            name=f"metaworld/{task}",
            description=f"Sawyer arm: {task.replace('-', ' ')} (Meta-World v3)",
            tags=("metaworld", *definitions.tags(task), "expert", "camera"),
            rate_hz=RATE_HZ,
            max_episode_steps=MAX_EPISODE_STEPS,
            requires=("mujoco", "metaworld"),
            install="`robopolicy install metaworld`",
            factory=_make,
            batched=True,
            success=definitions.success(task),
        )
        for task in TASKS
    ]


@functools.cache
def batched() -> dict[str, type[SawyerTask]]:
    """Return the tasks that are stepped as one batch: name without the suite's -> class, of every module ``tasks_*``."""
    modules = [module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("tasks_")]
    found = [importlib.import_module(f"{__name__}.{module}") for module in sorted(modules)]
    return {task.suite_task: task for module in found for task in module.TASKS}


def _make(name: str, options: Options) -> BatchEnv:
    from sim.suites.metaworld.suite import SuiteBatch

    return batched().get(name.rpartition("/")[2], SuiteBatch)(name, options)


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
