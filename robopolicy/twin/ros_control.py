"""Controllers of the twin over ROS 2: what a robot under ros2_control does with the commands that reach its topics.

A trajectory (``joint_trajectory_controller/joint_trajectory``) is a list of points in time: positions alone are joined by
straight lines, with velocities by cubics, with accelerations too by quintics. It starts from the state that was desired when
it came, replaces what was there, and its last point is held. A list of numbers (``forward_position_controller/commands``,
``forward_velocity_controller/commands``) holds until the next; those controllers have no timeout of their own, so the twin's
robot stops by itself after ``silence_s``. The newest message of any kind has the joints.

Times are integer nanoseconds of the robot's clock; this module knows neither ROS nor a world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.spec import ActionSpec, suggest

_STILL = float(np.finfo(np.float32).eps)  # rad/s or m/s: what a last point may still move with


class CommandRefused(ValueError):
    """A message that a controller does not take; ``code`` is one word."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class State:
    """A state of n joints: ``position``, ``velocity``, ``acceleration`` (n,)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def at_rest(cls, position: np.ndarray) -> State:
        """Return the state that stands at ``position`` (n,)."""
        position = np.array(position, np.float64)
        return cls(position, np.zeros_like(position), np.zeros_like(position))


@dataclass
class Waypoints:
    """The points of a trajectory message, its joints in the robot's order.

    Attributes:
        times_ns: (P,) int64 after the start, rising.
        positions: (P, n).
        velocities, accelerations: (P, n), or None where the message has none.
    """

    times_ns: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray | None = None
    accelerations: np.ndarray | None = None

    def state(self, index: int) -> State:
        """Return point ``index``; what the message does not say is zero."""
        zero = np.zeros_like(self.positions[index])
        parts = (part[index] if part is not None else zero for part in (self.velocities, self.accelerations))
        return State(self.positions[index], *parts)


def waypoints(joints: Sequence[str], names: Sequence[str], points: Sequence[tuple[int, Sequence[float], Sequence[float], Sequence[float]]]) -> Waypoints:
    """Return the points of a message, checked as a trajectory controller does.

    Args:
        joints: The robot's, in its order.
        names: The message's.
        points: ``(time_from_start in ns, positions, velocities, accelerations)``; the last two may be empty.

    Raises:
        CommandRefused: one line, if the controller would not take it.
    """
    unknown = [name for name in names if name not in joints]
    if unknown:
        raise CommandRefused("joints", f"joint {unknown[0]!r} is none of this robot{suggest(unknown[0], joints)}")
    if sorted(names) != sorted(joints):
        raise CommandRefused("joints", f"expected every one of {', '.join(joints)} once, found {', '.join(names) or 'none'}")
    if not points:
        raise CommandRefused("empty", "a trajectory without points")
    order = [list(names).index(joint) for joint in joints]
    times = np.array([point[0] for point in points], np.int64)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        raise CommandRefused("times", "time_from_start must rise from point to point, from 0 on")
    columns: list[np.ndarray | None] = []
    for place, kind in enumerate(("positions", "velocities", "accelerations"), start=1):
        lists: list[Sequence[float]] = [point[place] for point in points]  # type: ignore[misc]
        lengths = {len(numbers) for numbers in lists}
        if lengths == {0} and place > 1:
            columns.append(None)
            continue
        if lengths != {len(joints)}:
            raise CommandRefused("size", f"{kind}: expected {len(joints)} numbers in every point, found {sorted(lengths)}")
        values = np.array(lists, np.float64)[:, order]
        if not np.isfinite(values).all():
            raise CommandRefused("not finite", f"{kind}: expected finite numbers")
        columns.append(values)
    if columns[1] is None:
        columns[2] = None  # a spline through accelerations needs velocities too
    elif (np.abs(columns[1][-1]) > _STILL).any():
        raise CommandRefused("no rest", "the last point has a velocity: nothing says what comes after it")
    assert columns[0] is not None
    return Waypoints(times, columns[0], columns[1], columns[2])


@dataclass
class Trajectory:
    """Waypoints from a moment on, entered from the state that was desired when they came.

    Attributes:
        points: The waypoints.
        start_ns: What their times count from.
        before: The state they are entered from, and ``before_ns``, its moment.
    """

    points: Waypoints
    start_ns: int
    before: State
    before_ns: int

    @property
    def end_ns(self) -> int:
        """The moment of the last point."""
        return self.start_ns + int(self.points.times_ns[-1])

    def sample(self, at_ns: int) -> State:
        """Return the desired state at ``at_ns``: between two points the spline, from the last on its position at rest."""
        points, offset = self.points, at_ns - self.start_ns
        if offset >= points.times_ns[-1]:
            return State.at_rest(points.positions[-1])
        index = int(np.searchsorted(points.times_ns, offset, side="right"))  # the first point still to come
        if index:
            return _between(points.state(index - 1), int(points.times_ns[index - 1]), points.state(index), int(points.times_ns[index]), offset, self._degree)
        began = self.before_ns - self.start_ns
        if began >= points.times_ns[0] or offset <= began:
            return self.before
        return _between(self.before, began, points.state(0), int(points.times_ns[0]), offset, self._degree)

    @property
    def _degree(self) -> int:
        return 1 if self.points.velocities is None else 3 if self.points.accelerations is None else 5


def _between(a: State, at_a: int, b: State, at_b: int, at: int, degree: int) -> State:
    """Return the polynomial of ``degree`` 1, 3 or 5 from ``a`` to ``b`` at ``at``; all times ns."""
    span, t = 1e-9 * (at_b - at_a), 1e-9 * (at - at_a)
    moved = b.position - a.position
    if degree == 1:
        slope = moved / span
        return State(a.position + slope * t, slope, np.zeros_like(slope))
    c0, c1 = a.position, a.velocity
    if degree == 3:
        c2 = (3 * moved / span - 2 * a.velocity - b.velocity) / span
        c3 = (a.velocity + b.velocity - 2 * moved / span) / span**2
        c4 = c5 = np.zeros_like(c0)
    else:
        c2 = a.acceleration / 2
        # What is left of position, velocity and acceleration at the end, after the first three terms
        p = moved - span * (a.velocity + span * c2)
        v = b.velocity - a.velocity - 2 * span * c2
        w = b.acceleration - a.acceleration
        c3 = (10 * p - 4 * span * v + span**2 * w / 2) / span**3
        c4 = (-15 * p + 7 * span * v - span**2 * w) / span**4
        c5 = (6 * p - 3 * span * v + span**2 * w / 2) / span**5
    position = c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * c5))))
    velocity = c1 + t * (2 * c2 + t * (3 * c3 + t * (4 * c4 + t * 5 * c5)))
    return State(position, velocity, 2 * c2 + t * (6 * c3 + t * (12 * c4 + t * 20 * c5)))


class Controllers:
    """The controllers of one robot; :meth:`sample` is called at every tick of its drive.

    Args:
        joints: Names, n of them.
        silence_s: How long a list of numbers holds when no other comes.
        low, high: (n,) positions at which a velocity ends; None: nowhere.
    """

    def __init__(self, joints: Sequence[str], silence_s: float, low: np.ndarray | None = None, high: np.ndarray | None = None) -> None:
        self.joints, self._silence_ns = tuple(joints), int(1e9 * silence_s)
        self._low, self._high = (-np.inf if low is None else low), (np.inf if high is None else high)
        self.begin(np.zeros(len(self.joints)), 0)

    def begin(self, position: np.ndarray, now_ns: int) -> None:
        """Stand at ``position`` (n,) and forget every command; those stamped before ``now_ns`` are refused from now on."""
        self._desired, self._sampled_ns, self._begun_ns = State.at_rest(position), now_ns, now_ns
        self._trajectory: Trajectory | None = None
        self._forward: tuple[str, np.ndarray, int] | None = None  # kind, numbers (n,), when they came

    def follow(self, points: Waypoints, stamp_ns: int, now_ns: int) -> None:
        """Take a trajectory that starts at ``stamp_ns`` (0: now).

        Raises:
            CommandRefused: if all of it is in the past, or it was meant for what was before :meth:`begin`.
        """
        if stamp_ns and stamp_ns < self._begun_ns:
            raise CommandRefused("episode", "stamped before the robot was put where it is")
        start = stamp_ns or now_ns
        if start + int(points.times_ns[-1]) < now_ns:
            raise CommandRefused("past", f"all of it lies in the past: it ended {1e-9 * (now_ns - start - int(points.times_ns[-1])):.3f} s ago")
        before_ns = max(self._sampled_ns, self._begun_ns)
        self._trajectory, self._forward = Trajectory(points, start, self._desired, before_ns), None

    def forward(self, kind: str, numbers: np.ndarray, now_ns: int) -> None:
        """Take ``numbers`` (n,), ``kind`` position or velocity. Raises CommandRefused if they are not n finite numbers."""
        _require_numbers(numbers, len(self.joints))
        self._forward, self._trajectory = (kind, np.array(numbers, np.float64), now_ns), None

    def sample(self, at_ns: int) -> tuple[np.ndarray, bool]:
        """Return the position command (n,) at ``at_ns``, and whether a command stands behind it; without one the joints hold."""
        active = False
        if self._trajectory is not None:
            self._desired, active = self._trajectory.sample(at_ns), at_ns <= self._trajectory.end_ns
        elif self._forward is not None:
            kind, numbers, came = self._forward
            active = at_ns - came <= self._silence_ns
            if not active:
                self._forward, self._desired = None, State.at_rest(self._desired.position)
            elif kind == "position":
                self._desired = State.at_rest(numbers)
            else:
                passed = 1e-9 * max(at_ns - self._sampled_ns, 0)
                reached = np.clip(self._desired.position + numbers * passed, self._low, self._high)
                self._desired = State(reached, numbers, np.zeros_like(numbers))
        self._sampled_ns = at_ns
        return self._desired.position.copy(), active


class Forward:
    """The controller of a world whose actions are no joint positions: the newest numbers, and a hold when no others come.

    Args:
        action: What they are.
        kind: ``position`` or ``velocity``: the only topic that it listens to.
        silence_s: How long numbers hold when no others come.
    """

    def __init__(self, action: ActionSpec, kind: str, silence_s: float) -> None:
        self.joints, self._action, self._kind, self._silence_ns = action.names, action, kind, int(1e9 * silence_s)
        self.begin(np.zeros(action.dim), 0)

    def begin(self, position: np.ndarray, now_ns: int) -> None:
        """Forget every command; ``position`` (Da,) says nothing here."""
        self._numbers, self._came_ns = np.zeros(len(position)), -self._silence_ns - 1

    def follow(self, points: Waypoints, stamp_ns: int, now_ns: int) -> None:
        """Refuse: this robot has no joints. Raises CommandRefused."""
        raise CommandRefused("joints", "this robot has no joints that follow a trajectory")

    def forward(self, kind: str, numbers: np.ndarray, now_ns: int) -> None:
        """Take ``numbers`` (Da,). Raises CommandRefused if they are of another kind, or not Da finite numbers."""
        if kind != self._kind:
            raise CommandRefused("kind", f"this robot takes {self._kind}s")
        _require_numbers(numbers, self._action.dim)
        self._numbers, self._came_ns = np.array(numbers, np.float64), now_ns

    def sample(self, at_ns: int) -> tuple[np.ndarray, bool]:
        """Return the action (Da,) at ``at_ns``, and whether a command stands behind it; without one it holds."""
        active = at_ns - self._came_ns <= self._silence_ns
        return (self._numbers.copy() if active else self._action.hold(self._numbers)), active


def _require_numbers(numbers: np.ndarray, count: int) -> None:
    if np.shape(numbers) != (count,):
        raise CommandRefused("size", f"expected {count} numbers, found {np.size(numbers)}")
    if not np.isfinite(numbers).all():
        raise CommandRefused("not finite", "expected finite numbers")
