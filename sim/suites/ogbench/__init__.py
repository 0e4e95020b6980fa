"""OGBench's goal-conditioned tasks from state: mazes for a point, an ant and a humanoid, a ball game, and a robot arm.

Park et al. 2025, "OGBench: Benchmarking Offline Goal-Conditioned RL". Every environment has five evaluation goals; the goal is an
observation of its own, ``observation.goal``, in the form of ``observation.state`` (what would be observed if it were reached). The
seed of an episode decides which of the five it is, in turn (``info["goal"]`` = 1 + seed mod 5), and everything that is random.

Success, goals and time limits are the suite's own: ``maze.py`` and ``manipulation.py`` step its environments, with the random
numbers that it takes from global generators brought under the seed. Its picture observations are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim.env import BatchEnv
from sim.registry import Entry, Options

NUM_GOALS = 5

_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
_ARM = (*(f"{j}.{q}" for q in ("position", "velocity") for j in _JOINTS), "hand.x", "hand.y", "hand.z", "hand.cos", "hand.sin", "gripper", "contact")
_CUBE = ("x", "y", "z", "q0", "q1", "q2", "q3", "cos", "sin")
_BUTTON = ("is0", "is1", "position", "velocity")


@dataclass(frozen=True)
class Environment:
    """One environment of the suite.

    Attributes:
        name: The suite's, without its version.
        family: ``point``, ``ant``, ``humanoid`` or ``ball`` (mazes), ``cube``, ``scene`` or ``puzzle`` (manipulation).
        about: One line for people.
        observed: Numbers in an observation.
        commanded: Numbers in an action.
        rate_hz: Control steps per second.
        max_episode_steps: The suite's time limit.
        success: When an episode counts as solved.
        expert: Whether there is an expert here.
    """

    name: str
    family: str
    about: str
    observed: int
    commanded: int
    rate_hz: float
    max_episode_steps: int
    success: str
    expert: bool = False

    @property
    def maze(self) -> bool:
        """Whether it is a maze (else it is a robot arm)."""
        return self.family in ("point", "ant", "humanoid", "ball")

    @property
    def variant(self) -> str:
        """What the suite calls it within its family, e.g. ``large`` or ``double``."""
        return self.name.partition("-")[2] or self.name


def _mazes() -> list[Environment]:
    out = []
    for family, sizes, about, observed, commanded, rate, radius in (
        ("point", ("medium", "large", "giant", "teleport"), "point that moves by its action", 2, 2, 10.0, 1.0),
        ("ant", ("medium", "large", "giant", "teleport"), "four-legged robot", 29, 8, 10.0, 0.5),
        ("humanoid", ("medium", "large"), "humanoid robot", 69, 21, 40.0, 0.5),
    ):
        limit = 2000 if family == "humanoid" else 1000
        success = f"the robot's position is within {radius:g} m of the goal's after a step; ends the episode"
        out += [
            Environment(f"{family}maze-{size}", family, f"{about}, {size} maze", observed, commanded, rate, limit, success, family == "point") for size in sizes
        ]
    success = "the ball is within 0.5 m of the goal after a step; ends the episode"
    return out + [Environment(f"antsoccer-{size}", "ball", f"four-legged robot and a ball, {size}", 42, 8, 10.0, 1000, success) for size in ("arena", "medium")]


def _arms() -> list[Environment]:
    cubes = "every cube is within 0.04 m of its goal after a step; ends the episode"
    buttons = "every button has its wanted colour after a step; ends the episode"
    scene = "cube, drawer and window are within 0.04 m of their goals and both buttons as wanted after a step; ends the episode"
    return [
        *(
            Environment(f"cube-{size}", "cube", f"UR5e arm: {count} to put in place", 19 + 9 * n, 5, 20.0, limit, cubes, True)
            for n, (size, count, limit) in enumerate((("single", "a cube", 200), ("double", "two cubes", 500), ("triple", "three cubes", 1000)), 1)
        ),
        Environment("scene", "scene", "UR5e arm: cube, drawer, window and the buttons that lock them", 40, 5, 20.0, 750, scene, True),
        *(
            Environment(f"puzzle-{n}x{n}", "puzzle", f"UR5e arm: lights out with {n} x {n} buttons", 19 + 4 * n * n, 5, 20.0, 500, buttons, True)
            for n in (3, 4)
        ),
    ]


ENVIRONMENTS = {e.name: e for e in (*_mazes(), *_arms())}


def environment(task: str) -> Environment:
    """Return the environment of a registered task's name."""
    return ENVIRONMENTS[task.rpartition("/")[2]]


def entries() -> list[Entry]:
    """Return one task for each environment."""
    return [
        Entry(
            name=f"ogbench/{e.name}",
            description=f"{e.about}; one of five goals is observed (OGBench)",
            tags=("ogbench", "ogbench-maze" if e.maze else "ogbench-manipulation", "goal", *(("expert",) if e.expert else ())),
            rate_hz=e.rate_hz,
            max_episode_steps=e.max_episode_steps,
            requires=("mujoco", "ogbench"),
            install="`pip install 'robopolicy[suites]'`",
            factory=_make,
            short=f"ogbench-{e.name}",
            success=e.success,
        )
        for e in ENVIRONMENTS.values()
    ]


def _make(name: str, options: Options) -> BatchEnv:
    if environment(name).maze:
        from sim.suites.ogbench.maze import MazeBatch

        return MazeBatch(name, options)
    from sim.suites.ogbench.manipulation import ArmBatch

    return ArmBatch(name, options)


def goal_of(seeds: np.ndarray) -> np.ndarray:
    """Return which of the five goals, 1 to 5, episodes with ``seeds`` (K,) have: in turn, so that reports hold them equally often."""
    return np.asarray(seeds, np.int64) % NUM_GOALS + 1


def make_spec(name: str) -> Spec:
    """Return the spec of a task: the suite's own observation, the goal in the same form, and its action in [-1, 1].

    Mazes: positions in m, m/s and so on, as the suite has them; a point's action 1 is 0.2 m a step. Arms: the suite scales what
    it observes (positions times 10 about the table's centre); an action of 1 is 0.05 m, 0.3 rad of yaw or the whole gripper.
    """
    e = environment(name)
    names = _observed_names(e)
    fields = {
        "observation.state": Field((e.observed,), names=names),
        "observation.goal": Field((e.observed,), kind="goal", names=tuple(f"goal.{n}" for n in names)),
    }
    return Spec(ObservationSpec(fields, e.rate_hz), ActionSpec(_action_fields(e), e.rate_hz))


def _observed_names(e: Environment) -> tuple[str, ...]:
    if e.family == "point":
        return ("x", "y")
    if e.maze:
        return ()
    n = {"single": 1, "double": 2, "triple": 3, "scene": 1}.get(e.variant, 0)
    names = (*_ARM, *(f"cube{i}.{part}" for i in range(n) for part in _CUBE))
    buttons = (e.observed - len(names)) // len(_BUTTON) if e.family == "puzzle" else 2 * (e.family == "scene")
    names += tuple(f"button{i}.{part}" for i in range(buttons) for part in _BUTTON)
    return (*names, "drawer.position", "drawer.velocity", "window.position", "window.velocity") if e.family == "scene" else names


def _action_fields(e: Environment) -> dict[str, Field]:
    def field(size: int, kind: Literal["delta", "effort", "gripper"], names: tuple[str, ...] = ()) -> Field:
        return Field((size,), low=-1, high=1, kind=kind, names=names)  # type: ignore[arg-type]

    if e.family == "point":
        return {"position": field(2, "delta", ("dx", "dy"))}
    if e.maze:
        return {"torque": field(e.commanded, "effort")}
    return {"hand": field(4, "delta", ("hand.dx", "hand.dy", "hand.dz", "hand.dyaw")), "gripper": field(1, "delta", ("gripper",))}
