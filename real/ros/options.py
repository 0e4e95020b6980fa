"""Options of ``robot=ros2``; ``configs/runtime/ros2.yaml`` shows them all with what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pydantic

from policies.config import Config
from policies.spec import InputError, Spec
from real.ros.fields import FieldConfig

PerJoint = pydantic.PositiveFloat | list[pydantic.PositiveFloat] | dict[str, pydantic.PositiveFloat]


class Ros2Config(Config):
    """How a robot is reached over ROS 2, and what its URDF does not say.

    Attributes:
        domain: DDS domain; None: ``ROS_DOMAIN_ID``, or 0.
        interface: Network interface, by name or address; None: ``ROBOPOLICY_ROS_INTERFACE``, or loopback.
        namespace, node: Of the node; topics without a leading ``/`` are in that namespace.
        remap: Topic -> name that is used in its place.
        joint_states, description, command_topic: Topics; ``command_topic`` None: the usual one of ``command``.
        command: ``trajectory``, ``position``, ``velocity``, ``twist`` or ``twist_stamped`` (``real.ros.commands.INTERFACES``).
        accept_no_timeout: Drive a controller that keeps its last command for ever when none comes.
        timeout_s: After how many seconds without commands the controller itself sets its rates to zero; None: not known.
        spec: Folder of a checkpoint or file with its spec, or the spec itself; None: joints and ``fields`` alone.
        fields: Field -> where it comes from (``real.ros.fields.FieldConfig``).
        joints: Their order in a command; empty: the checkpoint's, or all of the URDF that are driven.
        twist: Axis (``linear.x``) -> range, m/s or rad/s.
        convert: Whether units may be converted; every conversion is said.
        rate_hz, action_rate_hz: Of commands to a controller of joint positions; of actions, where no checkpoint says it.
        velocity, acceleration, jerk, stop_acceleration, stop_jerk, tracking: Of the joints, rad or m and s: one number, a list or
            by name; tighter than the URDF's where both are given. Stops None: as fast as normal motion.
        home: Joint positions that the robot can always be brought to slowly; empty: none is known.
        barriers: What ``real.safety.barriers.BarrierConfig`` takes; None: none.
        stamps: ``robot``: trajectories begin at a time of the robot's clock; ``arrival``: when they arrive.
        lead_s: How long before it is due a command is sent; None: three ticks.
        deadline_s: Every command must have come to rest by itself within this; None: what the limits make of it.
        speed: Seconds of the robot in one of ours: above 1 for a simulation that is faster.
        connect_s: Patience at the start, for each thing that must be there.
        stale_s, gone_s: Silence of joint states (or controller) after which the robot holds, and after which it is gone.
        joint_state_publishers: How many nodes publish joint states of this robot.
    """

    domain: int | None = pydantic.Field(None, ge=0, le=232)
    interface: str | None = None
    namespace: str = ""
    node: str = "robopolicy_drive"
    remap: dict[str, str] = pydantic.Field(default_factory=dict)
    joint_states: str = "joint_states"
    description: str = "robot_description"
    command_topic: str | None = None
    command: Literal["trajectory", "position", "velocity", "twist", "twist_stamped"] = "trajectory"
    accept_no_timeout: bool = False
    timeout_s: pydantic.PositiveFloat | None = None
    spec: str | dict[str, Any] | None = None
    fields: dict[str, FieldConfig] = pydantic.Field(default_factory=dict)
    joints: list[str] = pydantic.Field(default_factory=list)
    twist: dict[str, tuple[float, float]] = pydantic.Field(default_factory=dict)
    convert: bool = False
    rate_hz: pydantic.PositiveFloat = 100.0
    action_rate_hz: pydantic.PositiveFloat = 20.0
    velocity: PerJoint | None = None
    acceleration: PerJoint | None = None
    jerk: PerJoint | None = None
    stop_acceleration: PerJoint | None = None
    stop_jerk: PerJoint | None = None
    tracking: PerJoint | None = None
    home: list[float] = pydantic.Field(default_factory=list)
    barriers: dict[str, Any] | None = None
    stamps: Literal["robot", "arrival"] = "robot"
    lead_s: pydantic.NonNegativeFloat | None = None
    deadline_s: pydantic.PositiveFloat | None = None
    speed: pydantic.PositiveFloat = 1.0
    connect_s: pydantic.PositiveFloat = 5.0
    stale_s: pydantic.PositiveFloat = 0.15
    gone_s: pydantic.PositiveFloat = 5.0
    joint_state_publishers: pydantic.PositiveInt = 1

    @pydantic.model_validator(mode="after")
    def _patience_in_order(self) -> Ros2Config:
        if self.stale_s >= self.gone_s:
            raise ValueError(f"stale_s {self.stale_s:g}: expected less than gone_s, {self.gone_s:g}")
        if self.command.startswith("twist") and not self.twist:
            raise ValueError("twist: a base needs its range, e.g. {linear.x: [-0.3, 0.3], angular.z: [-1.0, 1.0]}; no URDF says it")
        return self


def wanted_spec(config: Ros2Config) -> Spec | None:
    """Return the spec that the robot is brought together with; None: none is given. Raises InputError if it cannot be read."""
    if config.spec is None:
        return None
    if not isinstance(config.spec, str):
        return Spec.from_dict(config.spec)
    path = Path(config.spec)
    path = path / "spec.json" if path.is_dir() else path
    try:
        return Spec.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"robot.spec={config.spec}: not a checkpoint's folder, nor its spec.json: {error}") from error
