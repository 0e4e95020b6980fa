"""Commands for ros2_control's controllers.

A trajectory always ends at rest: to the motion that was checked it adds the stop that was checked with it, phase by phase. A
controller that hears nothing more, for whatever reason, has then stopped the robot within limits by itself.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.motion import MotionLimits, Reference
from real.ros import api
from real.safety.brake import Brake

_NS = 1_000_000_000
_CLOSEST_NS = 100_000  # of two points: nearer ones make the controller's polynomials of high degree ill-conditioned
_GAIN = 2000
_STANDING_NS = 50_000_000  # at the end: a trajectory that is over when it arrives is rejected

#: interface -> (message type, topic, kind of the action's fields)
INTERFACES: Mapping[str, tuple[str, str, str]] = {
    "trajectory": ("trajectory_msgs/msg/JointTrajectory", "joint_trajectory_controller/joint_trajectory", "position"),
    "position": ("std_msgs/msg/Float64MultiArray", "forward_position_controller/commands", "position"),
    "velocity": ("std_msgs/msg/Float64MultiArray", "forward_velocity_controller/commands", "velocity"),
    "twist": ("geometry_msgs/msg/Twist", "cmd_vel", "velocity"),
    "twist_stamped": ("geometry_msgs/msg/TwistStamped", "cmd_vel", "velocity"),
}
TWIST_AXES = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")


@dataclass(frozen=True)
class Path:
    """Points of a motion that comes to rest, and stands for a moment; between two of them the jerk of every joint is constant.

    Attributes:
        times_ns: (P,) int64, rising, from 0.
        position, velocity, acceleration: (P, n).
    """

    times_ns: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


def stopping_path(before: Reference | None, after: Reference, limits: MotionLimits, tick_s: float) -> Path:
    """Return the motion of a tick and the stop from its end.

    Args:
        before: The state (n,) at its beginning; None: it is left out, the controller finds its own way to ``after``.
        after: The state (n,) at the tick's end.
        limits: Of the joints; the stop is the emergency stop, which was checked together with the command.
        tick_s: Length of the tick, s; time 0 is its beginning.
    """
    brake = Brake.of(after, limits)
    tick_ns = round(tick_s * _NS)
    times = [0] * (before is not None) + [tick_ns]
    for end in np.unique(np.ceil(brake.phase_ends * _NS).astype(np.int64)).tolist():
        if tick_ns + end - times[-1] >= _CLOSEST_NS:
            times.append(tick_ns + end)
    rest = int(np.ceil(brake.duration.max() * _NS)) + tick_ns
    if times[-1] < rest:  # the very last phases were too near to each other
        times.append(max(rest, times[-1] + _CLOSEST_NS))
    times.append(times[-1] + _STANDING_NS)
    first = len(times) - sum(t > tick_ns for t in times)  # of the stop's points
    since = (np.array(times[first:], np.int64)[:, None] - tick_ns) * 1e-9
    known = [after] if before is None else [before, after]
    gone, velocity, acceleration = brake.sample(since)
    return Path(
        np.array(times, np.int64),
        np.concatenate([[state.position for state in known], after.position + gone]),
        np.concatenate([[state.velocity for state in known], velocity]),
        np.concatenate([[state.acceleration for state in known], acceleration]),
    )


class Shift:
    """A distance between where the controller stands and where motion begins, taken back smoothly while that goes on.

    Motion begins where the robot is measured; its controller stands where it was sent, some milliradians away or, after a
    pause, more. The distance shrinks as a polynomial of degree five, with a tenth of what the limits allow.

    Args:
        distance: (n,) where the controller stands minus where motion begins.
        limits: Of the joints.
    """

    def __init__(self, distance: np.ndarray, limits: MotionLimits) -> None:
        far = 10 * np.abs(distance)
        needed = (1.875 * far / limits.velocity, np.sqrt(5.78 * far / limits.acceleration), np.cbrt(60 * far / limits.jerk))
        self._distance, self._lasts_s, self._t = distance, float(np.max(needed)), 0.0

    @property
    def over(self) -> bool:
        """Whether nothing is left of the distance."""
        return self._t >= self._lasts_s

    def advance(self, tick_s: float) -> Shift:
        """Go on a tick; returns itself."""
        self._t += tick_s
        return self

    def applied(self, reference: Reference) -> Reference:
        """Return ``reference`` (n,) with what is left of the distance."""
        if self.over:
            return reference
        s, d, rate = self._t / self._lasts_s, self._distance, 1 / self._lasts_s
        left = 1 - s**3 * (10 - 15 * s + 6 * s**2)
        slope, bend = -30 * s**2 * (1 - s) ** 2, -60 * s * (1 - s) * (1 - 2 * s)
        return Reference(reference.position + left * d, reference.velocity + slope * rate * d, reference.acceleration + bend * rate**2 * d)


def longest_stop_s(limits: MotionLimits) -> float:
    """Return a bound on how long a stop takes from any state inside ``limits``, s: two ramps, the peak, and a ramp back before."""
    ramp = limits.stop_acceleration / limits.stop_jerk
    return float((3 * ramp + limits.velocity / limits.stop_acceleration).max())


class StampGrid:
    """When the states of a stream of commands are due, in the controller's time: one tick apart, whatever the jitter here.

    Args:
        tick_s: Length of a tick in the controller's time, s.
        lead_s: How long before it is due a command is sent, s of the controller's time.

    Attributes:
        anchored: How often the grid was laid anew.
    """

    def __init__(self, tick_s: float, lead_s: float) -> None:
        self.tick_ns, self.lead_ns = round(tick_s * _NS), round(lead_s * _NS)
        self.anchored = 0
        self._due: int | None = None

    def restart(self) -> None:
        """Forget the grid: a pause, or the controller's clock has jumped."""
        self._due = None

    def next(self, now_ns: int, phase_ns: int) -> tuple[int, bool]:
        """Return when the tick of the next command begins, and whether it continues the one before (else there is a gap).

        Args:
            now_ns: The controller's time now.
            phase_ns: A time at which the controller has done a step: new grids are laid on its steps.
        """
        wanted = now_ns + self.lead_ns
        if self._due is not None:
            due = self._due + self.tick_ns
            ahead = due - wanted
            if -self.lead_ns <= ahead <= self.lead_ns + 3 * self.tick_ns:
                # Clocks drift, and ticks are missed. What is gained a tick is so little that no limit of jerk notices.
                if ahead < -self.lead_ns // 2:
                    due += self.tick_ns // _GAIN
                elif ahead > self.lead_ns // 2 + self.tick_ns:
                    due -= self.tick_ns // _GAIN
                self._due = due
                return due, True
        self.anchored += 1
        self._due = phase_ns - (phase_ns - wanted) // self.tick_ns * self.tick_ns  # the first step that is not before it
        return self._due, False


class TrajectoryBytes:
    """Writes JointTrajectory messages of one set of joints as CDR, without an object for every point.

    Args:
        names: Joints, n of them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        n = len(names)
        head = struct.pack("<I", 1) + b"\0"  # no frame
        head += b"\0" * (-len(head) % 4) + struct.pack("<I", n)
        for name in names:
            text = name.encode() + b"\0"
            head += b"\0" * (-len(head) % 4) + struct.pack("<I", len(text)) + text
        self._head = head + b"\0" * (-len(head) % 4)  # the stamp before it has 8 bytes: what is aligned here is aligned there
        # A point begins 4 bytes after a multiple of 8, all but the first perhaps: its doubles need no gap.
        parts = [("n1", "<u4"), ("position", "<f8", (n,)), ("n2", "<u8"), ("velocity", "<f8", (n,)), ("n3", "<u8"), ("acceleration", "<f8", (n,))]
        self._point = np.dtype([*parts, ("efforts", "<u4"), ("sec", "<i4"), ("nanosec", "<u4")])
        self._n = n

    def encode(self, path: Path, stamp_ns: int, speed: float = 1.0) -> bytes:
        """Return the message of ``path``.

        Args:
            path: The motion, in our time and SI units.
            stamp_ns: When it begins, in the controller's time; 0: when it arrives.
            speed: Seconds of the controller in one of ours.
        """
        points = np.zeros(len(path.times_ns), self._point)
        points["n1"] = points["n2"] = points["n3"] = self._n
        points["position"], points["velocity"], points["acceleration"] = path.position, path.velocity / speed, path.acceleration / speed**2
        points["sec"], points["nanosec"] = np.divmod(np.round(path.times_ns * speed).astype(np.int64), _NS)
        body, count = points.tobytes(), struct.pack("<I", len(points))
        if (len(self._head) + len(count)) % 8 == 0:
            body = body[:4] + b"\0\0\0\0" + body[4:]
        return b"\x00\x01\x00\x00" + struct.pack("<iI", *divmod(stamp_ns, _NS)) + self._head + count + body


def array_message(values: np.ndarray) -> Any:
    """Return the Float64MultiArray of ``values`` (n,), for a forward_command_controller."""
    message = api.message("std_msgs/msg/Float64MultiArray")()
    message.data = _doubles(values)
    return message


def twist_message(axes: Sequence[str], values: np.ndarray, stamp_ns: int | None = None, frame: str = "") -> Any:
    """Return the Twist of ``values`` (n,) along ``axes`` (of :data:`TWIST_AXES`), m/s and rad/s; the others are zero.

    Args:
        axes: Which of the six each value is.
        values: m/s or rad/s.
        stamp_ns: Time of a TwistStamped in ``frame``; None: a plain Twist.
        frame: Name of the frame.
    """
    twist = api.message("geometry_msgs/msg/Twist")()
    for axis, value in zip(axes, np.asarray(values, np.float64).tolist(), strict=True):
        part, letter = axis.split(".")
        setattr(getattr(twist, part), letter, value)
    if stamp_ns is None:
        return twist
    stamped = api.message("geometry_msgs/msg/TwistStamped")()
    stamped.header.stamp.sec, stamped.header.stamp.nanosec = divmod(stamp_ns, _NS)
    stamped.header.frame_id = frame
    stamped.twist = twist
    return stamped


def _doubles(values: np.ndarray) -> array.array[float]:
    """Return ``values`` (n,) as the array that messages hold."""
    return array.array("d", np.ascontiguousarray(values, np.float64).tobytes())
