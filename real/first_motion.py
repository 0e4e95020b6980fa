"""Before a policy moves a robot for the first time: what is checked while it stands still, and the slow way to a known pose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from policies.spec import InputError, Spec, SpecMismatch
from real.drive_handle import DriveHandle
from real.levels import JointLevel
from real.observing import AHEAD_S
from real.policy import Ranges
from real.robot import Observation

_RATE_TOLERANCE = 0.1
_FLAT = 2.0  # grey levels: a camera whose picture varies less shows nothing
_BEYOND = 0.1  # of the training range: farther outside is named
_QUEUED = 10_000  # readings that may have waited, at most
_STILL = 1e-3  # rad/s or m/s


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, whether it may go on, and one line about it."""

    what: str
    passed: bool
    line: str


def preflight(robot: DriveHandle, spec: Spec, ranges: Ranges | None = None, *, seconds: float = 1.0, max_age_s: float = 0.5) -> list[Finding]:
    """Look at a robot that stands still, for ``seconds``; nothing is commanded.

    Args:
        robot: Its drive.
        spec: What the policy reads and commands.
        ranges: Where the policy's training data lay; None: not known, which is said.
        seconds: How long to look.
        max_age_s: What the run will take as stale.

    Returns:
        Findings on spec, rate, every field, cameras and the start pose; the run should begin only if all have passed.
    """
    try:
        spec.require(robot.spec, "the policy", f"robot {robot.info.name!r}")
    except SpecMismatch as error:
        return [Finding("spec", False, str(error))]
    readings, arrived = _look(robot, seconds)
    out = [Finding("spec", True, f"{len(spec.observation.fields)} fields and the action fit"), _rate(robot, readings)]
    out += [_field(name, spec, readings, arrived, max_age_s) for name in spec.observation.fields]
    out.append(_start(readings[-1].fields, ranges))
    if robot.info.motion is not None:
        level = JointLevel(robot.spec.observation, robot.info)
        measured, motion = level.measured(readings[-1]), robot.info.motion
        outside = [n for n, bad in zip(motion.names, (measured < motion.low) | (measured > motion.high), strict=True) if bad]
        out.append(Finding("position limits", not outside, f"outside: {', '.join(outside)}" if outside else "all joints inside"))
    return out


def _look(robot: DriveHandle, seconds: float) -> tuple[list[Observation], list[float]]:
    """Return readings and the monotonic second at which each arrived; a world in lock-step is looked at once."""
    if not robot.info.lockstep:
        _catch_up(robot)
    readings, arrived = [robot.read(2.0)], [time.monotonic()]
    while not robot.info.lockstep and arrived[-1] - arrived[0] < seconds:
        readings.append(robot.read(2.0))
        arrived.append(time.monotonic())
    return readings, arrived


def _catch_up(robot: DriveHandle) -> None:
    """Read away what has waited while nobody read, which says nothing of the rate: until a reading has to be waited for."""
    for _ in range(_QUEUED):
        began = time.monotonic()
        robot.read(2.0)
        if time.monotonic() - began > 0.7 / robot.info.rate_hz:
            return


def _rate(robot: DriveHandle, readings: list[Observation]) -> Finding:
    """Compare the rate at which the robot was measured with the declared one; how readings travelled says nothing of it."""
    if robot.info.lockstep:
        return Finding("rate", True, "lock-step: the world waits")
    first, last = readings[0], readings[-1]
    seconds = 1e-9 * (max(last.capture_ns.values(), default=0) - max(first.capture_ns.values(), default=0))
    found, declared = (last.tick - first.tick) / max(seconds, 1e-9), robot.info.rate_hz
    passed = abs(found / declared - 1) <= _RATE_TOLERANCE
    return Finding("rate", passed, f"{found:.1f} Hz measured, {declared:g} Hz declared")


def _field(name: str, spec: Spec, readings: list[Observation], arrived: list[float], max_age_s: float) -> Finding:
    field = spec.observation.fields[name]
    try:
        spec.observation.subset([name]).validate(readings[-1].fields)
    except SpecMismatch as error:
        return Finding(name, False, str(error))
    value = readings[-1].fields[name]
    ages = [now - 1e-9 * reading.capture_ns.get(name, -math.inf) for now, reading in zip(arrived, readings, strict=True)]
    age = max(ages)
    if min(ages) < -AHEAD_S:
        return Finding(name, False, f"captured in the future, by {-min(ages):.3g} s: its stamps are not of this machine's monotonic clock")
    if age > max_age_s:
        return Finding(name, False, f"up to {age:.3f} s old, at most {max_age_s:g} s are allowed")
    if field.is_image:
        contrast = float(value.std())
        return Finding(name, contrast >= _FLAT, f"contrast {contrast:.1f} grey levels" + ("" if contrast >= _FLAT else ": the camera shows nothing"))
    if not np.isfinite(value).all():
        return Finding(name, False, f"{int((~np.isfinite(value)).sum())} elements are not finite")
    return Finding(name, True, f"{value.size} numbers, at most {1e3 * age:.0f} ms old")


def _start(fields: Mapping[str, np.ndarray], ranges: Ranges | None) -> Finding:
    """Compare the present state with the training data, element by element."""
    if not ranges:
        return Finding("start pose", True, "the policy does not say where its training data lay: not compared")
    worst, where = 0.0, ""
    for name, (low, high) in ranges.items():
        if name not in fields:
            continue
        width = np.maximum(high - low, 1e-6)
        beyond = np.where(np.isfinite(width), np.maximum(low - fields[name], fields[name] - high) / width, 0.0).ravel()
        if beyond.size and beyond.max() > worst:
            worst, where = float(beyond.max()), f"{name}[{int(beyond.argmax())}]"
    if worst > _BEYOND:
        return Finding("start pose", False, f"{where} is {100 * worst:.0f} % of its range outside of the training data")
    return Finding("start pose", True, "inside the range of the training data")


def go_to(
    robot: DriveHandle, pose: np.ndarray, *, speed: float = 0.2, tolerance: float = 0.01, timeout_s: float = 60.0,
    stopped: Callable[[], bool] = lambda: False,
) -> float:  # fmt: skip
    """Bring a robot of joints slowly to ``pose`` (n,) and let it hold there; every command passes the safety filter.

    Args:
        robot: Its drive.
        pose: (n,) rad or m.
        speed: Share of the velocity limits.
        tolerance: Largest distance of a joint at the end, rad or m.
        timeout_s: Of robot time, after which it is given up.
        stopped: Asked every tick; True ends it, the robot brakes.

    Returns:
        The largest distance of a joint from the pose at the end.

    Raises:
        InputError: if the robot has no joint commands, the pose does not fit it, or it was not reached.
        RobotGone: as ``DriveHandle.read``.
    """
    level = JointLevel(robot.spec.observation, robot.info)
    motion, target = level.motion, np.asarray(pose, np.float64)
    if target.shape != (motion.n,) or not np.isfinite(target).all():
        raise InputError(f"pose: expected {motion.n} finite numbers for {', '.join(motion.names)}, found {np.shape(pose)}")
    if ((target < motion.low) | (target > motion.high)).any():
        joint = int(np.flatnonzero((target < motion.low) | (target > motion.high))[0])
        raise InputError(f"pose: {motion.names[joint]} {target[joint]:g} is outside of [{motion.low[joint]:g}, {motion.high[joint]:g}]")
    reading = robot.read(2.0)
    level.start(reading)
    first = reading.tick
    while (reading.tick - first) / robot.info.rate_hz < timeout_s and not stopped():
        if reading.drive_state == "stopped":
            raise InputError(f"robot {robot.info.name!r} is stopped: {reading.cause}")
        command = level.step(target, reading, speed)
        if command is None:
            robot.hold()
        else:
            robot.write(command.values, command.reference)
        left = np.abs(level.filter.reference.position - target).max()
        if left < tolerance / 10 and np.abs(level.filter.reference.velocity).max() < _STILL:
            break
        reading = robot.read(2.0)
    robot.hold()
    distance = float(np.abs(level.measured(robot.read(2.0)) - target).max())
    if distance > tolerance and not stopped():
        raise InputError(f"robot {robot.info.name!r} is {distance:.3g} rad or m from the pose after {timeout_s:g} s: something holds it back")
    return distance


def require_passed(findings: list[Finding]) -> None:
    """Raise InputError, one line, for the first finding that did not pass."""
    for finding in findings:
        if not finding.passed:
            raise InputError(f"pre-flight: {finding.what}: {finding.line}")
