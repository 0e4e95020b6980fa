"""The twin's world under controllers: every tick of the drive it takes what they command, as a robot under ros2_control does.

Ticks lie on a grid of time. One that this machine was late for is done when it can be, with the command that was due then, so
that a motion planned on the robot's clock stays that motion; after a pause of more than half a second all commands are dropped.
An episode's clock starts with the first command that leads away from where the joints stand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from policies.spec import InputError
from robopolicy.twin.ros_control import Controllers, Forward
from robopolicy.twin.world import World
from sim.env import JointDriven

_MOVES = 1e-9  # rad or m: less is standing
_CATCH_UP_S = 0.5
QUIET_S = 0.05  # after an episode was announced, before its first reading: who reads has heard of it


class RobotClock:
    """The robot's clock: that of the system, or simulated time that runs ``speed`` times as fast from where it was at the start.

    Args:
        speed: Simulated seconds in a second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed, self._began, self._origin_ns = speed, time.monotonic(), time.time_ns()

    def at(self, monotonic: float) -> int:
        """Return the robot's time, ns, at a monotonic time of this machine, s."""
        return self._origin_ns + int(1e9 * self.speed * (monotonic - self._began))


@dataclass
class RosWorld(World):
    """A world whose commands come from controllers: those of its joints, or the one of its velocities or positions.

    Attributes:
        clock: The robot's; its speed is the world's.
        pause_s: A new episode begins so long after one has ended, s; None: when it is asked for.
        stamp_ns: When the newest observation was made, on the robot's clock.
        begun_ns: Since when, on that clock, the present episode is the one.
    """

    clock: RobotClock = field(default_factory=RobotClock)
    pause_s: float | None = None

    def __post_init__(self) -> None:
        """Check that the actions are something that controllers command, and begin the first episode. Raises InputError."""
        kinds = {f.kind for f in self.env.spec.action.fields.values()}
        if not isinstance(self.env, JointDriven) and kinds not in ({"position"}, {"velocity"}):
            raise InputError(f"twin of {self.env.task!r} over ROS 2: actions are {', '.join(sorted(kinds))}; controllers command positions or velocities")
        if self.lockstep:
            raise InputError("lockstep: a robot on topics has a clock of its own; leave --lockstep out")
        self.forwards = kinds.pop() if len(kinds) == 1 else "position"
        self.controllers: Controllers | Forward | None = None
        self.stamp_ns = self.begun_ns = 0
        self.changed: Callable[[], None] = lambda: None
        super().__post_init__()
        self._start, self._next = time.monotonic(), 0
        self._start_ns = self.clock.at(self._start)

    def _begin(self) -> None:
        super()._begin()
        if self.controllers is None:
            silence_s = float(self.silence_s or 0.0) * self.speed
            self.controllers = self._made(silence_s)
        standing = self._standing()
        self._stands = np.zeros(self.env.spec.action.dim) if standing is None else standing
        self._quiet_until = self.captured_at + QUIET_S
        self.stamp_ns = self.begun_ns = self.clock.at(self.captured_at)
        self.controllers.begin(self._stands, self.begun_ns)
        self._ended_at = math.inf
        self.changed()

    def _made(self, silence_s: float) -> Controllers | Forward:
        if self.joints is None:
            return Forward(self.env.spec.action, self.forwards, silence_s)
        motion = self.joints.motion
        return Controllers(motion.names, silence_s, motion.low, motion.high)

    @property
    def due(self) -> float:
        """The next tick, monotonic s."""
        return self._start + self._next / self.rate_hz

    @property
    def quiet(self) -> bool:
        """Whether a new episode was announced a moment ago and has not been shown yet."""
        return self.captured_at < self._quiet_until

    def next_episode(self) -> None:
        """End the present episode, if it has not ended, and begin the next, unless that was the last."""
        self.ended = self.delivered = True
        self._next_episode()

    def tick(self, now: float) -> bool:
        """Do the ticks that are due; returns whether there was one."""
        if now < self.due:
            return False
        waiting = int((now - self.due) * self.rate_hz)
        if waiting / self.rate_hz > _CATCH_UP_S:
            assert self.controllers is not None
            self.slips += waiting
            self._next += waiting  # the world stood still meanwhile, and what was to be done then is not done now
            self.controllers.begin(self._stands if self.command is None else np.asarray(self.command, np.float64), self._stamp(self._next))
        self.slips -= 1
        while self.due <= now:
            at, stamp_ns = self.due, self._stamp(self._next)
            self._next += 1
            self.slips += 1
            self._tick_at(at, stamp_ns)
        if now - self._ended_at > (math.inf if self.pause_s is None else self.pause_s):
            self.next_episode()
        return True

    def _stamp(self, tick: int) -> int:
        """Return the time of a tick on the robot's clock, ns: the grid is exact there."""
        return self._start_ns + round(1e9 * self.speed * tick / self.rate_hz)

    def _tick_at(self, at: float, stamp_ns: int) -> None:
        """Do the tick of monotonic time ``at``: sample the controllers, step the world."""
        assert self.controllers is not None
        self.captured_at, self.stamp_ns = at, stamp_ns
        if self.ended or self.quiet:
            return
        command, active = self.controllers.sample(self.stamp_ns)
        if self.command is None and (not active or (self.joints is not None and np.abs(command - self._stands).max() <= _MOVES)):
            return  # nothing leads away from where it stands
        if self.joints is not None:
            command = np.clip(command, self.joints.motion.low, self.joints.motion.high)
        self.command = command if self.joints is not None else self.env.spec.action.clip(command)
        if active:
            self._quiet = False
            self.event("write", command=self.command)
        else:
            self.record.silent += 1
            if not self._quiet:
                self._quiet = True
                self.event("silent", command=self.command)
        self._step()
        if self.ended:
            self._ended_at = at
            self.changed()
