"""Jogging: what a person does with a device becomes actions of a robot, whatever its actions mean.

A robot of joint positions is moved at its hand (``real.teleop.hand``) or joint by joint (``real.teleop.jog_joints``), every other one
field by field as the kinds of its action say (``real.teleop.jog_fields``). A jog begins where the robot has been sent, so that taking
over never jumps; its actions pass the level and the safety filter of the run like a policy's.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError, Spec
from real.robot import Observation, RobotInfo
from real.teleop.source import Input

Share = Annotated[float, pydantic.Field(gt=0, le=1)]
FRAMES = ("base", "tool", "camera")
_AXES = ("x", "y", "z", "roll", "pitch", "yaw")


class JogConfig(Config):
    """How a device moves a robot.

    Attributes:
        linear, angular: Full speed of the hand, m/s and rad/s.
        joints: Full speed of a joint, share of its limit.
        field: Full speed of what is no joint: share of the range that a position crosses in a second, and share of their limits for
            velocities, increments and efforts.
        gripper: Share of its range that the gripper crosses in a second.
        opens: Which end of the gripper's range is open.
        dead_zone: Deflection up to which nothing moves.
        expo: How much finer small deflections are, 0 (straight) to 1 (cubic).
        frame: Axes of the hand's motion at first.
        hand: Site or body of the robot's model that is moved; None: the likeliest.
        camera: Rotation of the camera's axes (x right, y down, z forward) in the base, axis times angle, rad; None: there is no such frame.
        axes: What moves each element of an action that is no joint: an axis of the twist with a sign, ``0`` for none; None: by their names.
        leader_approach: Distance of a joint from its leader, rad or m, from which it is approached slowly.
        leader_speed: Of that, share of the joint's limit.
        home_speed: Of the way home, share of the joints' limits.
        lead_s: How far the target may be ahead of where the robot is sent, in seconds at the joints' limits.
        pose_scale: Metres of the hand for a metre of a device that has a pose.
        pose_yaw: Rotation of the device's frame about the vertical into the base's, rad.
    """

    linear: pydantic.PositiveFloat = 0.25
    angular: pydantic.PositiveFloat = 0.8
    joints: Share = 0.5
    field: Share = 1.0
    gripper: pydantic.PositiveFloat = 1.0
    opens: Literal["high", "low"] = "high"
    dead_zone: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.05
    expo: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.3
    frame: Literal["base", "tool", "camera"] = "base"
    hand: str | None = None
    camera: tuple[float, float, float] | None = None
    axes: list[str] | None = None
    leader_approach: pydantic.PositiveFloat = 0.15
    leader_speed: Share = 0.2
    home_speed: Share = 0.25
    lead_s: pydantic.PositiveFloat = 0.2
    pose_scale: pydantic.PositiveFloat = 1.0
    pose_yaw: float = 0.0


class Jog(Protocol):
    """Makes actions of what a person does.

    Attributes:
        frame: Axes of the hand's motion now.
        limited: Whether the last action wanted more than there is: an end of a range, a barrier that the filter keeps.
        homing: Whether the robot is on its way home.
        busy: Whether something goes on without the clutch: the way home, a gripper's way to its end.
    """

    frame: str
    limited: bool
    homing: bool

    @property
    def busy(self) -> bool:
        """Whether something goes on without the clutch: the way home, a gripper's way to its end."""
        ...

    def start(self, reading: Observation, last: np.ndarray | None) -> bool:
        """Begin where the robot has been sent; False: nobody knows where that is. What is under way goes on from there.

        Args:
            reading: The robot now.
            last: (Da,) the action before, whoever chose it: where a gripper was told to be. None: there was none.
        """
        ...

    def step(self, value: Input, reading: Observation) -> np.ndarray:
        """Return the action (Da,) float32 of this policy step; without a clutch, that which holds the robot (or goes on home)."""
        ...

    def hold(self, last: np.ndarray) -> np.ndarray:
        """Return the action (Da,) that keeps the robot where ``last`` (Da,) has left it: increments and rates are zero."""
        ...

    def grip(self) -> None:
        """Send the gripper to its other end, if there is one."""
        ...

    def rest(self) -> None:
        """Forget the way home and the gripper's."""
        ...

    def go_home(self) -> bool:
        """Begin the way home; False: this robot has none."""
        ...

    def turn_frame(self) -> str:
        """Go on to the next frame that there is, and return it."""
        ...


def shaped(deflection: np.ndarray, dead_zone: float, expo: float) -> np.ndarray:
    """Return deflections (k,) in [-1, 1] without their dead zone, finer near zero; still -1 to 1, monotonic and odd."""
    beyond = np.clip((np.abs(deflection) - dead_zone) / (1 - dead_zone), 0.0, 1.0)
    return np.sign(deflection) * ((1 - expo) * beyond + expo * beyond**3)


def axis_of(text: str) -> tuple[int, float]:
    """Return element of the twist and sign of ``"-y"``; sign 0 for ``"0"``. Raises InputError."""
    name = text.lstrip("+-")
    if text == "0":
        return 0, 0.0
    if name not in _AXES or len(text) - len(name) > 1:
        raise InputError(f"jog.axes: expected one of {', '.join(_AXES)}, perhaps with a sign, or 0, found {text!r}")
    return _AXES.index(name), -1.0 if text.startswith("-") else 1.0


def make_jog(spec: Spec, info: RobotInfo, config: JogConfig = JogConfig()) -> Jog:
    """Return the jog of a robot.

    Raises:
        InputError: if nothing of its action can be jogged, or ``config`` names what the robot does not have.
    """
    if config.frame == "camera" and config.camera is None:
        raise InputError("jog.frame=camera: set jog.camera to the camera's rotation in the base (axis times angle, rad)")
    if info.motion is not None:
        from real.teleop.jog_joints import JointJog

        return JointJog(spec, info, config)
    from real.teleop.jog_fields import FieldJog

    return FieldJog(spec, info, config)
