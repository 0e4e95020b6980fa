"""Gymnasium-Robotics: Fetch arm, Shadow hand, Adroit hand, Franka kitchen and mazes, by the suite's own environments.

Plappert et al. 2018, "Multi-Goal Reinforcement Learning" (Fetch, hand); Rajeswaran et al. 2018 (Adroit); Gupta et al. 2019,
"Relay Policy Learning" (kitchen); Fu et al. 2020, "D4RL" (mazes, and which kitchen tasks go together). Physics, rewards and success
are the package's; ``worlds.py`` steps N of them, ``layout.py`` names their numbers, ``shim.py`` lets them run on MuJoCo 3.17.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.env import BatchEnv
from sim.registry import Entry, Options

SUITE = "robotics"
CAMERA = "main"
INSTALL = "`pip install 'robopolicy[suites]'`"
FLAG = "(the suite's flag)"


@dataclass(frozen=True)
class Kind:
    """One task of the package.

    Attributes:
        family: Of tasks that share robot and layout of observations: a key of ``layout.LAYOUTS``.
        environment: ``module:Class`` below ``gymnasium_robotics.envs``.
        description: One line for people.
        success: When an episode counts as solved, one line.
        rate_hz: Of actions.
        steps: Time limit.
        arguments: Of the class; ``reward_type`` and ``maze_map`` (its name in the package's ``maps``) are filled in.
        rewards: Kinds of reward, the suite's own first.
        expert: Whether there is one in ``sim/oracles``.
        view: What differs from the usual camera: ``lookat``, ``distance``, ``azimuth``, ``elevation``.
    """

    family: str
    environment: str
    description: str
    success: str
    rate_hz: float
    steps: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rewards: tuple[str, ...] = ("sparse", "dense")
    expert: bool = False
    view: Mapping[str, Any] = field(default_factory=dict)


_FETCH_VIEW = {"lookat": (1.3, 0.75, 0.55), "distance": 1.6, "azimuth": 132.0, "elevation": -25.0}
_HAND_VIEW = {"lookat": (1.0, 0.96, 0.14), "distance": 0.5, "azimuth": 55.0, "elevation": -25.0}
_DOOR_VIEW = {"lookat": (0.0, 0.1, 0.25), "distance": 1.5, "azimuth": 70.0, "elevation": -25.0}
_PEN_VIEW = {"lookat": (0.0, -0.15, 0.25), "distance": 0.8, "azimuth": -45.0, "elevation": -35.0}
_KITCHEN_VIEW = {"lookat": (-0.2, 0.5, 2.0), "distance": 2.2, "azimuth": 70.0, "elevation": -35.0}


def _fetch(module: str, name: str, what: str, thing: str, expert: bool) -> Kind:
    success = f"the {thing} within 5 cm of the goal {FLAG}"
    return Kind("fetch", f"fetch.{module}:MujocoFetch{name}Env", f"Fetch arm: {what}", success, 25.0, 50, expert=expert, view=_FETCH_VIEW)


def _hand(thing: str, what: str, distance: str, turn: str = "", **arguments: str) -> Kind:
    success = f"the {thing} {distance}within 0.1 rad of the goal's orientation{turn} {FLAG}"
    environment = f"shadow_dexterous_hand.manipulate_{thing}:MujocoHand{thing.capitalize()}Env"
    return Kind("hand", environment, f"Shadow hand: {what}", success, 25.0, 100, arguments, view=_HAND_VIEW)


def _adroit(name: str, what: str, success: str, view: Mapping[str, Any]) -> Kind:
    environment = f"adroit_hand.adroit_{name}:AdroitHand{name.capitalize()}Env"
    return Kind(f"adroit-{name}", environment, f"Adroit hand: {what}", f"{success} {FLAG}", 100.0, 200, rewards=("dense", "sparse"), view=view)


def _kitchen(*tasks: str) -> Kind:
    listed = ", ".join(tasks)
    success = f"each of {listed} was within 0.3 of its goal at a step; ends the episode {FLAG}"
    environment = "franka_kitchen.kitchen_env:KitchenEnv"
    arguments = {"tasks_to_complete": tasks}
    return Kind("kitchen", environment, f"Franka arm in a kitchen: {listed}", success, 12.5, 280, arguments, ("sparse",), view=_KITCHEN_VIEW)


def _point(maze: str, steps: int, distance: float) -> Kind:
    success = f"the ball within 0.45 m of the goal {FLAG}"
    view = {"lookat": (0.0, 0.0, 0.0), "distance": distance, "azimuth": 90.0, "elevation": -80.0}
    arguments = {"maze_map": maze}
    what = f"force a ball through a maze ({maze.lower()})"
    return Kind("pointmaze", "maze.point_maze:PointMazeEnv", what, success, 100.0, steps, arguments, expert=True, view=view)


def _ant(maze: str, steps: int, distance: float) -> Kind:
    success = f"the ant's torso within 0.45 m of the goal {FLAG}"
    view = {"lookat": (0.0, 0.0, 0.0), "distance": distance, "azimuth": 90.0, "elevation": -70.0}
    what = f"walk a four-legged robot through a maze ({maze.lower()})"
    return Kind("antmaze", "maze.ant_maze_v5:AntMazeEnv", what, success, 20.0, steps, {"maze_map": maze}, view=view)


_BLOCK, _EGG, _PEN = "within 1 cm and ", "within 1 cm and ", "within 5 cm and "
_ABOUT = ", turns about its own axis aside,"

#: Task, without the suite's name -> what it is.
KINDS: dict[str, Kind] = {
    "fetch-reach": _fetch("reach", "Reach", "bring the gripper to a point", "gripper", True),
    "fetch-push": _fetch("push", "Push", "push a block to a point on the table, gripper closed", "block", True),
    "fetch-slide": _fetch("slide", "Slide", "hit a puck so that it stops at a point out of reach", "puck", False),
    "fetch-pick-and-place": _fetch("pick_and_place", "PickAndPlace", "bring a block to a point on or above the table", "block", True),
    "hand-reach": Kind(
        "hand-reach",
        "shadow_dexterous_hand.reach:MujocoHandReachEnv",
        "Shadow hand: bring the finger tips to five points",
        f"all five finger tips together within 1 cm (root of the summed squares) of their goals {FLAG}",
        25.0,
        50,
        expert=True,
        view=_HAND_VIEW,
    ),
    "hand-block": _hand("block", "bring a block to a pose", _BLOCK, target_position="random", target_rotation="xyz"),
    "hand-block-rotate-z": _hand("block", "turn a block about z", "", target_position="ignore", target_rotation="z"),
    "hand-block-rotate-parallel": _hand("block", "turn a block, faces parallel", "", target_position="ignore", target_rotation="parallel"),
    "hand-block-rotate-xyz": _hand("block", "turn a block to any orientation", "", target_position="ignore", target_rotation="xyz"),
    "hand-egg": _hand("egg", "bring an egg to a pose", _EGG, target_position="random", target_rotation="xyz"),
    "hand-egg-rotate": _hand("egg", "turn an egg to any orientation", "", target_position="ignore", target_rotation="xyz"),
    "hand-pen": _hand("pen", "bring a pen to a pose", _PEN, _ABOUT, target_position="random", target_rotation="xyz"),
    "hand-pen-rotate": _hand("pen", "turn a pen to any orientation", "", _ABOUT, target_position="ignore", target_rotation="xyz"),
    "adroit-door": _adroit("door", "undo a latch and open a door", "the door's hinge at 1.35 rad or more", _DOOR_VIEW),
    "adroit-hammer": _adroit("hammer", "drive a nail in", "the nail within 1 cm of its goal", {"distance": 2.0, "azimuth": 45.0}),
    "adroit-pen": _adroit("pen", "turn a pen to an orientation", "the pen within 7.5 cm of its place, cosine to its goal's axis above 0.95", _PEN_VIEW),
    "adroit-relocate": _adroit("relocate", "bring a ball to a point", "the ball within 10 cm of its goal", {"distance": 1.5, "azimuth": 90.0}),
    "kitchen": _kitchen("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-mixed": _kitchen("microwave", "kettle", "bottom burner", "light switch"),
    "kitchen-all": _kitchen("bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet", "microwave", "kettle"),
    "pointmaze-open": _point("OPEN", 300, 8.8),
    "pointmaze-umaze": _point("U_MAZE", 300, 7.0),
    "pointmaze-medium": _point("MEDIUM_MAZE", 600, 11.0),
    "pointmaze-large": _point("LARGE_MAZE", 800, 14.0),
    "antmaze-open": _ant("OPEN", 700, 32.0),
    "antmaze-umaze": _ant("U_MAZE", 700, 26.0),
    "antmaze-medium": _ant("MEDIUM_MAZE", 1000, 42.0),
    "antmaze-large": _ant("LARGE_MAZE", 1000, 54.0),
}


def entries() -> list[Entry]:
    """Return the tasks."""
    return [
        Entry(
            name=f"{SUITE}/{task}",
            description=f"{kind.description} (Gymnasium-Robotics)",
            tags=(SUITE, task.partition("-")[0], *(("expert",) if kind.expert else ()), "camera"),
            rate_hz=kind.rate_hz,
            max_episode_steps=kind.steps,
            requires=("mujoco", "gymnasium_robotics"),
            install=INSTALL,
            factory=_make,
            short=f"{SUITE}-{task}" if "maze" in task else "",
            rewards=kind.rewards,
            success=kind.success,
        )
        for task, kind in KINDS.items()
    ]


def _make(name: str, options: Options) -> BatchEnv:
    from sim.suites.robotics.worlds import RoboticsBatch

    return RoboticsBatch(name, options)
