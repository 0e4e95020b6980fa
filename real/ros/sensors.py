"""What a robot says of itself over ROS, newest wins: joints, named values, wrench, odometry, frames, pictures.

Every reader is fed by callbacks of one thread and read by another; what is read belongs together and has a capture time of
this machine's monotonic clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policies.spec import InputError
from real.ros.images import FramePool, RawImage, decode
from real.ros.stamps import StampClock

_MOST_NAMES = 4096
JOINT_PARTS = ("position", "velocity", "effort")
WRENCH_NAMES = ("force.x", "force.y", "force.z", "torque.x", "torque.y", "torque.z")
POSE_NAMES = ("position.x", "position.y", "position.z", "orientation.w", "orientation.x", "orientation.y", "orientation.z")
ODOMETRY_NAMES = (*POSE_NAMES, "linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")


def stamp_of(header: Any) -> int:
    """Return the stamp of a message's header, ns of its sender's clock."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


class JointReader:
    """Joint states, by name: any order, several messages for one robot, more joints than are wanted.

    Args:
        names: Joints that are read, n of them.
        clock: Of the stamps.

    Attributes:
        values: part -> (n,) float64; NaN until heard.
        capture_ns: (n,) int64 capture times; 0 until heard.
        stamps_ns: (n,) int64 stamps as they came, the sender's clock.
        heard: Names in the messages so far.
        heard_ns: When the last message arrived, monotonic; 0: none has.
        malformed: Messages whose lists do not fit together.
        messages: All of them.
    """

    def __init__(self, names: Sequence[str], clock: StampClock) -> None:
        self.names, self.clock = tuple(names), clock
        self.values = {part: np.full(len(self.names), np.nan) for part in JOINT_PARTS}
        self.capture_ns, self.stamps_ns = np.zeros(len(self.names), np.int64), np.zeros(len(self.names), np.int64)
        self.heard: set[str] = set()
        self.heard_ns = self.malformed = self.messages = 0
        self._columns: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}  # names of a message -> ours, its own
        self._lock = threading.Lock()

    def take(self, message: Any, arrival_ns: int) -> None:
        """Take a JointState in."""
        names, stamp = tuple(message.name), stamp_of(message.header)
        capture = self.clock.capture_ns(stamp, arrival_ns)
        lists = [np.asarray(part, np.float64) for part in (message.position, message.velocity, message.effort)]
        self.messages += 1
        if any(len(part) not in (0, len(names)) for part in lists):
            self.malformed += 1
            return
        ours, its = self._columns.get(names) or self._match(names)
        with self._lock:
            for part, found in zip(JOINT_PARTS, lists, strict=True):
                if len(found):
                    self.values[part][ours] = found[its]
            self.capture_ns[ours], self.stamps_ns[ours] = capture, stamp
            self.heard_ns = arrival_ns

    def _match(self, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        found = [(self.names.index(name), i) for i, name in enumerate(names) if name in self.names]
        columns = np.array([a for a, _ in found], np.int64), np.array([b for _, b in found], np.int64)
        if len(self.heard) < _MOST_NAMES:  # a stranger who sends other names every time fills no memory
            self.heard.update(names)
        if len(self._columns) < 16:
            self._columns[names] = columns
        return columns

    def read(self) -> tuple[dict[str, np.ndarray], int, int]:
        """Return part -> (n,) values, and the oldest capture time and stamp of a joint, ns."""
        with self._lock:
            return {part: values.copy() for part, values in self.values.items()}, int(self.capture_ns.min()), int(self.stamps_ns.min())

    @property
    def missing(self) -> tuple[str, ...]:
        """Joints that have not been heard of yet."""
        return tuple(name for name, capture in zip(self.names, self.capture_ns, strict=True) if not capture)


class VectorReader:
    """A named vector of numbers that comes in one message.

    Args:
        names: Elements that are read, in this order.
        numbers: Returns the names and the values (k,) of a message; names None: those of ``names``.
        clock: Of the stamps.

    Attributes:
        heard_ns: When the last message arrived, monotonic; 0: none has.
        heard: Names in the last message.
        malformed: Messages that did not have all elements.
    """

    def __init__(self, names: Sequence[str], numbers: Callable[[Any], tuple[Sequence[str] | None, np.ndarray]], clock: StampClock) -> None:
        self.names, self._numbers, self._clock = tuple(names), numbers, clock
        self.heard_ns = self.malformed = 0
        self.heard: tuple[str, ...] = ()
        self._newest: tuple[np.ndarray, int, int] | None = None
        self._columns: np.ndarray | None = None

    def take(self, message: Any, arrival_ns: int) -> None:
        """Take a message with a header in."""
        names, values = self._numbers(message)
        heard = self.names if names is None else tuple(names)
        if heard != self.heard or self._columns is None:
            self.heard = heard
            self._columns = np.array([heard.index(name) for name in self.names], np.int64) if set(self.names) <= set(heard) else None
        if self._columns is None or len(values) != len(heard):
            self.malformed += 1
            return
        stamp = stamp_of(message.header)
        self._newest = values[self._columns], self._clock.seen(stamp, arrival_ns), stamp
        self.heard_ns = arrival_ns

    @property
    def missing(self) -> tuple[str, ...]:
        """Elements that its messages do not have."""
        return tuple(name for name in self.names if name not in self.heard)

    def read(self) -> tuple[np.ndarray, int, int]:
        """Return the values (k,) float64, when they were captured and their stamp, ns. Raises InputError before the first."""
        if self._newest is None:
            raise InputError("nothing has been heard")
        return self._newest


def state_numbers(message: Any) -> tuple[Sequence[str], np.ndarray]:
    """Return the names and values (k,) of a JointState that carries a state field."""
    return message.name, np.array(message.position, np.float64)


def wrench_numbers(message: Any) -> tuple[None, np.ndarray]:
    """Return force, N, and torque, Nm, (6,) of a WrenchStamped; see :data:`WRENCH_NAMES`."""
    f, t = message.wrench.force, message.wrench.torque
    return None, np.array([f.x, f.y, f.z, t.x, t.y, t.z], np.float64)


def odometry_numbers(message: Any) -> tuple[None, np.ndarray]:
    """Return pose, m and quaternion, and twist, m/s and rad/s, (13,) of an Odometry; see :data:`ODOMETRY_NAMES`."""
    p, q, v = message.pose.pose.position, message.pose.pose.orientation, message.twist.twist
    numbers = [p.x, p.y, p.z, q.w, q.x, q.y, q.z, v.linear.x, v.linear.y, v.linear.z, v.angular.x, v.angular.y, v.angular.z]
    return None, np.array(numbers, np.float64)


class CameraReader:
    """Pictures of one camera: the newest message waits, whoever decodes takes it; what was not taken in time is counted.

    Args:
        name: Of the camera.
        shape: (H, W, 3) of the pictures that are wanted.
        read: Reads a message's bytes in place (``real.ros.images``).
        resize: Whether pictures of another size are scaled.
        clock: Of the robot's stamps; a camera whose stamps lie in its future has a clock of its own.

    Attributes:
        heard_ns: When the last picture arrived, monotonic; 0: none has.
        decoded, skipped, malformed: Pictures so far.
        fault: What was wrong with the last malformed one.
        own_clock: Its own clock, if it has one.
    """

    def __init__(self, name: str, shape: tuple[int, ...], read: Callable[[bytes], RawImage], resize: bool, clock: StampClock) -> None:
        self.name, self._read_message, self._resize, self._clock = name, read, resize, clock
        self.shape = shape
        self.heard_ns = self.decoded = self.skipped = self.malformed = 0
        self.fault = ""
        self.own_clock: StampClock | None = None
        self._pool = FramePool(shape)
        self._waiting: tuple[bytes, int] | None = None
        self._newest: tuple[np.ndarray, int, int] | None = None
        self._lock = threading.Lock()

    def take(self, cdr: bytes, arrival_ns: int) -> None:
        """Take a message's bytes in, without a look at them."""
        with self._lock:
            self.skipped += self._waiting is not None
            self._waiting = cdr, arrival_ns

    def work(self) -> bool:
        """Decode what waits; returns whether anything did."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return False
        cdr, arrival = waiting
        try:
            image, out = self._read_message(cdr), self._pool.take()
            decode(image, out, self._resize)
        except InputError as error:
            self.malformed += 1
            self.fault = str(error)
            return True
        self._newest = out, self._capture_ns(image.stamp_ns, arrival), image.stamp_ns
        self.decoded += 1
        self.heard_ns = arrival
        return True

    def _capture_ns(self, stamp_ns: int, arrival_ns: int) -> int:
        if stamp_ns <= 0:
            self._clock.unstamped += 1
            return arrival_ns
        foreign = self._clock.offset_ns is None or not -_OTHER_CLOCK_NS < self._clock.ahead_ns(stamp_ns, arrival_ns) < _AHEAD_NS
        if self.own_clock is None and foreign and not self.decoded:
            self.own_clock = StampClock(f"camera {self.name}", self._clock.speed)
        return (self.own_clock.capture_ns if self.own_clock else self._clock.seen)(stamp_ns, arrival_ns)

    def read(self) -> tuple[np.ndarray, int, int]:
        """Return the newest picture (H, W, 3) uint8, when it was captured and its stamp, ns. Raises InputError before the first."""
        if self._newest is None:
            raise InputError("no picture has come")
        return self._newest


_AHEAD_NS = 20_000_000  # in the future by more than this: another clock
_OTHER_CLOCK_NS = 5_000_000_000  # older than this when the first picture comes: another clock, no delay
