"""Who sends commands to a controller: a trajectory that ends at rest, positions, or rates."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from policies.motion import MotionLimits, Reference
from real.ros.commands import INTERFACES, Shift, StampGrid, TrajectoryBytes, array_message, stopping_path, twist_message
from real.ros.connection import Connection, reliable
from real.ros.description import lead_s
from real.ros.fields import Mapped
from real.ros.options import Ros2Config
from real.ros.stamps import StampClock

_STAYED = 0.02  # rad or m: nearer than that to where it was left it has not been moved
_STRAYED = 0.1  # rad or m: a robot that stands so far from where motion would begin was moved by somebody else


class Commander(Protocol):
    """Sends the commands of one robot.

    Attributes:
        topic: Absolute name.
        counts: What was sent.
    """

    topic: str
    counts: Counter[str]

    def heard(self) -> bool:
        """Whether somebody takes commands."""
        ...

    def doubt(self) -> str:
        """Return why the robot does not do what was sent; empty: it does."""
        ...

    def send(self, values: np.ndarray) -> None:
        """Send a command (Da,), in its own units."""
        ...

    def send_motion(self, before: Reference, after: Reference) -> None:
        """Send the motion (n,) of a tick."""
        ...

    def hold(self) -> None:
        """See to it that the robot stands."""
        ...

    def restart(self) -> None:
        """Forget what was sent: a new episode, or somebody else commanded."""
        ...

    def resume(self) -> None:
        """Go on after a stop was taken back."""
        ...


class _Sender:
    """What all have: a publisher."""

    def __init__(self, publisher: Any) -> None:
        self._publisher, self.topic = publisher, str(publisher.topic_name)
        self.counts: Counter[str] = Counter()

    def heard(self) -> bool:
        """Whether somebody takes commands."""
        return self._publisher.get_subscription_count() > 0

    def doubt(self) -> str:
        """Nothing is known that would keep the robot from doing what was sent."""
        return ""

    def _send(self, message: Any) -> None:
        self._publisher.publish(message)
        self.counts["commands"] += 1


class TrajectoryCommander(_Sender):
    """Sends trajectories: the motion of a tick, then the stop from its end.

    Args:
        publisher: Of JointTrajectory.
        mapped: Joints and units.
        limits: Of the joints, in the units of the command.
        tick_s, lead: Length of a tick, and how long before it is due its command is sent, s of our time.
        clock: Of the controller; None: trajectories begin when they arrive.
        steps: Returns a time of the controller's clock at which it has done a step.
        speed: Seconds of the controller in one of ours.
        measured: Returns where the joints (n,) are, rad or m.
    """

    def __init__(
        self, publisher: Any, mapped: Mapped, limits: MotionLimits, tick_s: float, lead: float,
        clock: StampClock | None, steps: Callable[[], int], speed: float, measured: Callable[[], np.ndarray],
    ) -> None:  # fmt: skip
        super().__init__(publisher)
        self._names, self._measured, self._strayed = mapped.joints, measured, ""
        self._bytes, self._factors, self._limits, self._tick_s, self._speed = TrajectoryBytes(mapped.joints), mapped.factors, limits, tick_s, speed
        self._clock, self._steps = clock, steps
        self._grid = StampGrid(tick_s * speed, lead * speed)
        self._end: np.ndarray | None = None  # where the last trajectory comes to rest
        self._gap, self._sent_ns, self._stands_ns = False, 0, 0  # the last was sent then, and the robot stands at its end then, monotonic
        self._shift = Shift(np.zeros(limits.n), limits)
        self._patience_ns = int(1e9 * (tick_s + lead))

    def send(self, values: np.ndarray) -> None:
        """Refuse positions (n,) without their motion: nobody could say how to stop from there. Raises ValueError."""
        raise ValueError("a trajectory is made of the motion behind a command, not of positions alone")

    def send_motion(self, before: Reference, after: Reference) -> None:
        """Send the motion from ``before`` to ``after`` (n,), one tick apart, and the stop from there.

        After a gap, in which the controller has begun the stop that it had, nothing is sent until it stands: the robot is
        already past ``before``, and no motion within limits leads back. :meth:`doubt` says so meanwhile. Nor is anything sent to
        a robot that somebody else has moved since: a controller goes to the first point at once, however far away it is.
        """
        now = time.monotonic_ns()
        stamp_ns, there, continues = self._due(now)
        resting = not (before.velocity.any() or before.acceleration.any())
        if resting and self._end is not None and (self._shift.over or not continues):
            self._shift = Shift(self._end - before.position, self._limits)  # of length zero as long as nobody has moved it
        before, after = self._shift.applied(before), self._shift.advance(self._tick_s).applied(after)
        if resting and not continues:
            self._strayed = self._strayed or self._far_from(before)
        if self._strayed:
            self.counts["not_sent"] += 1
            return
        known: Reference | None = before
        if not continues and not (resting and self._end is not None):
            known = None  # nobody knows where it was sent: it finds its own way
            self._gap = self._gap or (not resting and self._end is not None)
        if self._gap:
            self.counts["not_sent"] += 1
            return
        path = stopping_path(known, after, self._limits, self._tick_s)
        self._end, self._sent_ns = path.position[-1].copy(), now
        self._stands_ns = now + int((stamp_ns - there) / self._speed if stamp_ns else 0) + int(path.times_ns[-1])
        for part in (path.position, path.velocity, path.acceleration):
            part *= self._factors
        self._send(self._bytes.encode(path, stamp_ns, self._speed))

    def doubt(self) -> str:
        """Return that the robot was moved by others, or that a gap was so long that the controller has begun to brake; empty: all is well."""
        if self._strayed:
            return self._strayed
        return "late: a command came when the controller had begun to brake by itself; it is left to that until it stands" if self._gap else ""

    def hold(self) -> None:
        """Nothing is to be said: what was sent last ends at rest."""
        if self._strayed:  # the drive has heard of it, and begins anew where the robot is
            self.restart()
        if self._gap and time.monotonic_ns() > self._stands_ns:
            self.counts["gaps"] += 1
            self._gap = False
            self._grid.restart()

    def restart(self) -> None:
        """Forget where the last trajectory ended."""
        self._grid.restart()
        self._gap, self._end, self._shift, self._strayed = False, None, Shift(np.zeros(self._limits.n), self._limits), ""

    def resume(self) -> None:
        """Begin where the last trajectory ended, if the robot has stayed there; otherwise the controller finds its way from where it is."""
        end = self._end
        stayed = end is not None and bool((np.abs(self._measured() - end * self._factors) <= _STAYED).all())
        self.restart()
        self._end = end if stayed else None

    def _far_from(self, begin: Reference) -> str:
        """Return that the robot does not stand where motion would begin, (n,) in the units of the command; empty: it does."""
        off = np.abs(self._measured() - begin.position * self._factors)
        worst = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
        if off[worst] <= _STRAYED:
            return ""
        return f"moved: {self._names[worst]} is {off[worst]:.3g} rad or m from where it was left; motion begins anew from where it is"

    def _due(self, now: int) -> tuple[int, int, bool]:
        """Return the stamp of the next trajectory (0: on arrival), the controller's time now, and whether it continues the last."""
        there = None if self._clock is None or self._clock.doubt(now) else self._clock.there_ns(now)
        if there is None:
            self._grid.restart()
            return 0, 0, now - self._sent_ns < self._patience_ns
        due, continues = self._grid.next(there, self._steps())
        return due, there, continues


class PositionCommander(_Sender):
    """Sends joint positions as they are; the controller keeps the last."""

    def __init__(self, publisher: Any, mapped: Mapped) -> None:
        super().__init__(publisher)
        self._factors, self._last = mapped.factors, None

    def send(self, values: np.ndarray) -> None:
        """Send positions (n,)."""
        self._last = array_message(values * self._factors)
        self._send(self._last)

    def send_motion(self, before: Reference, after: Reference) -> None:
        """Send where the motion leads (n,)."""
        self.send(after.position)

    def hold(self) -> None:
        """Say the last positions again."""
        if self._last is not None:
            self._send(self._last)

    def restart(self) -> None:
        """Forget the last positions."""
        self._last = None

    def resume(self) -> None:
        """Forget the last positions."""
        self.restart()


class RateCommander(_Sender):
    """Sends rates: of joints, or of a base (``axes``; ``clock``: stamped, None: not)."""

    def __init__(self, publisher: Any, mapped: Mapped, axes: bool, stamped: bool, clock: StampClock) -> None:
        super().__init__(publisher)
        self._names, self._factors, self._axes, self._stamped, self._clock = mapped.joints, mapped.factors, axes, stamped, clock

    def send(self, values: np.ndarray) -> None:
        """Send rates (Da,)."""
        rates = np.asarray(values, np.float64) * self._factors
        stamp = (self._clock.there_ns(time.monotonic_ns()) or 0) if self._stamped else None
        self._send(twist_message(self._names, rates, stamp) if self._axes else array_message(rates))

    def send_motion(self, before: Reference, after: Reference) -> None:
        """Refuse: rates have no motion of joint positions (n,) behind them. Raises ValueError."""
        raise ValueError("rates are sent as they are")

    def hold(self) -> None:
        """Say zero."""
        self.send(np.zeros(len(self._names)))

    def restart(self) -> None:
        """Nothing is remembered."""

    def resume(self) -> None:
        """Nothing is remembered."""


def open_commander(
    config: Ros2Config, connection: Connection, clock: StampClock, mapped: Mapped, motion: MotionLimits | None, tick_s: float, steps: Callable[[], int],
    measured: Callable[[], np.ndarray],
) -> Commander:  # fmt: skip
    """Return who sends the commands of ``config.command``; see :class:`TrajectoryCommander` for the arguments (``motion`` of n joints, (n,) each)."""
    kind, topic, _ = INTERFACES[config.command]
    publisher = connection.publisher(kind, config.command_topic or topic, reliable())
    if config.command == "trajectory":
        assert motion is not None
        own = clock if config.stamps == "robot" else None
        return TrajectoryCommander(publisher, mapped, motion, tick_s, lead_s(config), own, steps, config.speed, measured)
    if config.command == "position":
        return PositionCommander(publisher, mapped)
    return RateCommander(publisher, mapped, config.command.startswith("twist"), config.command == "twist_stamped", clock)
