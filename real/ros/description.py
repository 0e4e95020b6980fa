"""What a driver declares of a robot: its limits of motion and what it does when commands stop, from URDF and options."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.motion import MotionLimits
from policies.spec import InputError, suggest
from real.robot import RobotInfo
from real.ros.commands import INTERFACES, longest_stop_s
from real.ros.fields import Mapped
from real.ros.options import Ros2Config
from real.ros.urdf import Urdf

_DELIVERY_S = 0.05  # from here into the controller's hands, at worst
_PARTS = ("velocity", "acceleration", "jerk", "stop_acceleration", "stop_jerk", "tracking")


def describe(config: Ros2Config, urdf: Urdf, mapped: Mapped) -> tuple[MotionLimits | None, RobotInfo]:
    """Return the limits of the commanded joints (None: the commands are rates) and the declaration of the robot.

    Raises:
        InputError: one line: a limit that nobody says, rates that do not divide, an interface without a known timeout, a robot
            that needs longer to stop than its deadline.
    """
    name = f"ros2 {config.namespace.strip('/') or urdf.name or 'robot'}".replace("/", " ")
    if INTERFACES[config.command][2] == "velocity":
        on_silence, silence_s = _rate_silence(config)
        rate = mapped.spec.action.rate_hz * config.speed
        return None, RobotInfo(name=name, rate_hz=rate, on_silence=on_silence, silence_s=silence_s, model=urdf.text)
    motion = motion_limits(config, urdf, mapped)
    substeps = config.rate_hz / mapped.spec.action.rate_hz
    if substeps < 1 or abs(substeps - round(substeps)) > 1e-6:
        raise InputError(f"robot.rate_hz={config.rate_hz:g}: expected a whole multiple of the {mapped.spec.action.rate_hz:g} Hz of actions")
    rate_hz = config.rate_hz * config.speed
    on_silence, silence_s = ("holds", 1 / rate_hz)
    if config.command == "trajectory":
        on_silence, silence_s = "brakes", lead_s(config) + 1 / rate_hz + longest_stop_s(motion) + _DELIVERY_S
        if config.deadline_s is not None and silence_s > config.deadline_s:
            told = f"a stop takes up to {longest_stop_s(motion):.3g} s, {silence_s:.3g} s with its way there"
            raise InputError(f"robot.deadline_s={config.deadline_s:g}: {told}; allow that, or larger robot.stop_acceleration and robot.stop_jerk")
    elif not config.accept_no_timeout:
        told = "a forward_command_controller keeps its last command for ever, no timeout of it is known"
        raise InputError(f"robot.command=position: {told}; use command=trajectory, or say accept_no_timeout: true")
    converted = bool((mapped.factors != 1).any())
    if converted and config.barriers:
        raise InputError("robot.barriers: they need joints in rad and m, the checkpoint has other units")
    if config.home and len(config.home) != motion.n:
        raise InputError(f"robot.home: expected {motion.n} numbers, found {len(config.home)}")
    info = RobotInfo(
        name=name, rate_hz=rate_hz, on_silence=on_silence, silence_s=silence_s, substeps=round(substeps), motion=motion,
        model="" if converted else urdf.text, home=tuple(config.home), barriers=config.barriers,
    )  # fmt: skip
    return motion, info


def lead_s(config: Ros2Config) -> float:
    """Return how long before it is due a command is sent, s."""
    return 3 / (config.rate_hz * config.speed) if config.lead_s is None else config.lead_s


def _rate_silence(config: Ros2Config) -> tuple[str, float]:
    """Return what a controller of rates does in silence, and after how long."""
    if config.timeout_s is not None:
        return "brakes", config.timeout_s
    if not config.accept_no_timeout:
        told = "a rate stays when commands stop, and no timeout of this controller is known"
        raise InputError(f"robot.command={config.command}: {told}; set robot.timeout_s to the controller's own (cmd_vel_timeout), or accept_no_timeout: true")
    return "holds", 1.0


def motion_limits(config: Ros2Config, urdf: Urdf, mapped: Mapped) -> MotionLimits:
    """Return the limits of the commanded joints, in the units of the command and seconds of ours. Raises InputError for one that nobody says."""
    joints = urdf.of(mapped.joints)
    action, to_si = mapped.spec.action, mapped.factors
    parts: dict[str, Any] = {}
    for part in _PARTS:
        given = _by_joint(part, getattr(config, part), mapped.joints)
        own = [getattr(joint, part, None) for joint in joints]
        values = [min((v for v in pair if v is not None), default=None) for pair in zip(given, own, strict=True)]
        lacking = [name for name, value in zip(mapped.joints, values, strict=True) if value is None]
        if not lacking:
            power = {"velocity": 1, "acceleration": 2, "jerk": 3}.get(part.removeprefix("stop_"), 0)
            parts[part] = np.array(values, np.float64) / to_si * config.speed**power
        elif part in _PARTS[:3]:
            told = "" if part == "velocity" else " (a URDF has it in <ros2_control> at most)"
            raise InputError(f"{part} of {', '.join(lacking)}: robot_description does not limit it{told}; set robot.{part}")
    for part in ("acceleration", "jerk"):  # a stop must be able to do what normal motion does
        if f"stop_{part}" in parts:
            parts[f"stop_{part}"] = np.maximum(parts[f"stop_{part}"], parts[part])
    if "tracking" not in parts:  # what a joint may be behind at full speed when readings are as old as they may be, and half as much again
        parts["tracking"] = 1.5 * parts["velocity"] * (config.stale_s + lead_s(config))
    low = np.maximum(np.array([j.low for j in joints]) / to_si, action.low.astype(np.float64))
    high = np.minimum(np.array([j.high for j in joints]) / to_si, action.high.astype(np.float64))
    endless = ~(np.isfinite(low) & np.isfinite(high))  # a continuous joint: what is not bounded is bounded far away
    low, high = np.where(endless, np.maximum(low, -1e3), low), np.where(endless, np.minimum(high, 1e3), high)
    return MotionLimits(mapped.joints, low, high, **parts)


def _by_joint(part: str, value: Any, names: tuple[str, ...]) -> list[float | None]:
    """Return an option for every joint; None: it says nothing of it. Raises InputError."""
    if isinstance(value, dict):
        for name in value:
            if name not in names:
                raise InputError(f"robot.{part}: no commanded joint {name!r}{suggest(name, names)}")
        return [value.get(name) for name in names]
    if isinstance(value, list):
        if len(value) != len(names):
            raise InputError(f"robot.{part}: expected {len(names)} numbers, for {', '.join(names)}; found {len(value)}")
        return list(value)
    return [value] * len(names)
