"""What the numbers of Gymnasium-Robotics' observations are called, and which field of the spec each belongs to.

The suite's observation, achieved goal and desired goal are read as one vector, in that order. ``observation.state`` is what the robot
knows of itself, ``observation.environment_state`` what it would have to see, ``observation.goal`` where something shall be: its names
are those of the numbers that shall come to equal it, so that a goal can be replaced by what was reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import Field
from sim.suites.gymnasium.walking import coordinate_names

STATE, ENVIRONMENT, GOAL = "observation.state", "observation.environment_state", "observation.goal"
_XYZ = ("x", "y", "z")
_TIPS = tuple(f"{finger}_tip.{axis}" for finger in ("first", "middle", "ring", "little", "thumb") for axis in _XYZ)


@dataclass(frozen=True)
class Part:
    """One field: its unit, and for each of its numbers the place in the suite's vector and the name."""

    unit: str
    places: tuple[int, ...]
    names: tuple[str, ...]
    kind: str = "state"

    @property
    def field(self) -> Field:
        """The field of the spec."""
        return Field((len(self.names),), unit=self.unit, kind=self.kind, names=self.names)


Layout = dict[str, Part]


def flat(observation: Any) -> np.ndarray:
    """Return the suite's observation as one vector (D,): observation, achieved goal, desired goal; goals by task one after the other."""
    if not isinstance(observation, dict):
        return np.asarray(observation, np.float64)
    goals = [observation["achieved_goal"], observation["desired_goal"]]
    parts = [part for goal in goals for part in (goal.values() if isinstance(goal, dict) else (goal,))]
    return np.concatenate([observation["observation"], *parts])


def _take(names: Sequence[str], *wanted: Callable[[str], bool] | slice) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return places and names of those in ``wanted``, slices of the vector."""
    places = [i for part in wanted if isinstance(part, slice) for i in range(len(names))[part]]
    return tuple(places), tuple(names[i] for i in places)


def _three(thing: str) -> tuple[str, ...]:
    return tuple(f"{thing}.{axis}" for axis in _XYZ)


def _goal(unit: str, names: Sequence[str], first: int) -> Part:
    return Part(unit, tuple(range(first, first + len(names))), tuple(names), "goal")


def _fetch(env: Any) -> Layout:
    fingers, motion = ("finger.right", "finger.left"), ("finger.right.velocity", "finger.left.velocity")
    if not env.has_object:
        names = (*_three("gripper"), *fingers, *_three("gripper.velocity"), *motion)
        return {STATE: Part("m, m/step", *_take(names, slice(0, 10))), GOAL: _goal("m", _three("gripper"), 13)}
    relative, turn = _three("object.from_gripper"), ("object.roll", "object.pitch", "object.yaw")
    rates = (*_three("object.velocity_from_gripper"), *_three("object.rate"))
    names = (*_three("gripper"), *_three("object"), *relative, *fingers, *turn, *rates, *_three("gripper.velocity"), *motion)
    own = _take(names, slice(0, 3), slice(9, 11), slice(20, 25))
    seen = _take(names, slice(3, 9), slice(11, 20))
    return {STATE: Part("m, m/step", *own), ENVIRONMENT: Part("m, rad, m/step, rad/step", *seen), GOAL: _goal("m", _three("object"), 28)}


def _joints(env: Any, prefix: str) -> tuple[list[str], list[str]]:
    """Return names of the robot's joints and of their velocities, without the suite's ``prefix``."""
    kept = [name for name in env._model_names.joint_names if name.startswith("robot")]
    plain = [name.removeprefix(prefix) for name in kept]
    return plain, [f"{name}.velocity" for name in plain]


def _hand_reach(env: Any) -> Layout:
    positions, velocities = _joints(env, "robot0:")
    names = (*positions, *velocities, *_TIPS)
    return {STATE: Part("rad, rad/s, m", *_take(names, slice(0, len(names)))), GOAL: _goal("m", _TIPS, len(names) + len(_TIPS))}


def _hand(env: Any) -> Layout:
    positions, velocities = _joints(env, "robot0:")
    pose = (*_three("object"), "object.qw", "object.qx", "object.qy", "object.qz")
    names = (*positions, *velocities, *(f"object.{what}" for what in ("vx", "vy", "vz", "wx", "wy", "wz")), *pose)
    own = len(positions) + len(velocities)
    return {
        STATE: Part("rad, rad/s", *_take(names, slice(0, own))),
        ENVIRONMENT: Part("m/s, rad/s, m, 1", *_take(names, slice(own, len(names)))),
        GOAL: _goal("m, 1", pose, len(names) + len(pose)),
    }


def _kitchen(env: Any) -> Layout:
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_INDICES

    positions, velocities = coordinate_names(env.model)
    positions, velocities = (tuple(name.removeprefix("robot:panda0_") for name in part) for part in (positions, velocities))
    names = (*positions[:9], *velocities[:9], *positions[9:], *velocities[9:])
    wanted = [positions[i] for task in env.goal for i in OBS_ELEMENT_INDICES[task]]
    return {
        STATE: Part("rad, m, rad/s, m/s", *_take(names, slice(0, 18))),
        ENVIRONMENT: Part("rad, m, rad/s, m/s, 1", *_take(names, slice(18, len(names)))),
        GOAL: _goal("rad, m, 1", wanted, len(names) + len(wanted)),
    }


def _adroit(own: slice, more: Sequence[str], palm: slice | None = None) -> Callable[[Any], Layout]:
    """Return the layout of an Adroit task: joints of ``own`` first, then ``more``, of which those at ``palm`` are the hand's."""

    def layout(env: Any) -> Layout:
        joints = coordinate_names(env.model)[0][own]
        names = (*joints, *more)
        hand = (slice(0, len(joints)), *((slice(len(joints) + palm.start, len(joints) + palm.stop),) if palm else ()))
        state = _take(names, *hand)
        seen = tuple(i for i in range(len(names)) if i not in state[0])
        return {STATE: Part("rad, m", *state), ENVIRONMENT: Part("rad, m, m/s, rad/s, 1", seen, tuple(names[i] for i in seen))}

    return layout


_DOOR = ("latch", "door", *_three("palm"), *_three("handle"), *_three("palm.from_handle"), "open")
_HAMMER_RATES = tuple(f"hammer.rate{i}" for i in range(6))
_HAMMER = ("nail", *_HAMMER_RATES, *_three("palm"), *_three("hammer"), "hammer.roll", "hammer.pitch", "hammer.yaw", *_three("target"), "impact")
_PEN_RATES = tuple(f"pen.rate{i}" for i in range(6))
_PEN_ERRORS = (*_three("pen.from_goal"), *_three("pen.axis_from_goal"))
_PEN = (*_three("pen"), *_PEN_RATES, *_three("pen.axis"), *_three("goal.axis"), *_PEN_ERRORS)
_RELOCATE = (*_three("palm.from_ball"), *_three("palm.from_goal"), *_three("ball.from_goal"))


def _pointmaze(env: Any) -> Layout:
    names = ("x", "y", "x.velocity", "y.velocity")
    return {STATE: Part("m, m/s", *_take(names, slice(0, 4))), GOAL: _goal("m", ("x", "y"), 6)}


def _antmaze(env: Any) -> Layout:
    positions, velocities = coordinate_names(env.model)
    count = env.observation_space["observation"].shape[0]
    contacts = tuple(f"contact.{i}" for i in range(count - len(positions) + 2 - len(velocities)))
    names = ("x", "y", *positions[2:], *velocities, *contacts)
    places = (count, count + 1, *range(count))  # the suite leaves out where the torso is, and gives it as the achieved goal
    return {STATE: Part("m, rad, m/s, rad/s, N", places, names), GOAL: _goal("m", ("x", "y"), count + 2)}


#: Family -> what its environments' numbers are.
LAYOUTS: dict[str, Callable[[Any], Layout]] = {
    "fetch": _fetch,
    "hand-reach": _hand_reach,
    "hand": _hand,
    "kitchen": _kitchen,
    "adroit-door": _adroit(slice(1, -2), _DOOR, slice(2, 5)),
    "adroit-hammer": _adroit(slice(0, 26), _HAMMER, slice(7, 10)),
    "adroit-pen": _adroit(slice(0, 24), _PEN),
    "adroit-relocate": _adroit(slice(0, 30), _RELOCATE),
    "pointmaze": _pointmaze,
    "antmaze": _antmaze,
}


def action_fields(family: str, size: int) -> dict[str, Field]:
    """Return the fields of the action of ``size`` numbers, all in [-1, 1]."""
    if family == "fetch":
        hand = Field((3,), unit="0.05 m", low=(-1.0,) * 3, high=(1.0,) * 3, kind="delta", names=("gripper.dx", "gripper.dy", "gripper.dz"))
        return {"hand": hand, "gripper": Field((1,), low=(-1.0,), high=(1.0,), kind="gripper", names=("opening",))}
    kind, name = {"kitchen": ("velocity", "joints"), "pointmaze": ("effort", "force"), "antmaze": ("effort", "torque")}.get(family, ("position", "joints"))
    return {name: Field((size,), low=(-1.0,) * size, high=(1.0,) * size, kind=kind)}
