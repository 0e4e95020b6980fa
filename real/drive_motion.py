"""What the drive knows of the commanded motion: which command may follow it, and the brake that always remains.

A robot of joints has a :class:`JointMotion`; one with commands of another kind a :class:`RangeMotion`, which has no inertia
that we know of: its brake is the hold command.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from policies.motion import MotionLimits, Reference, joint_columns
from policies.spec import ActionSpec, InputError, Spec
from real.robot import Observation, RobotInfo
from real.safety.brake import Brake
from real.safety.check import check_command
from real.safety.declared import robot_barriers

_UNKNOWN = "measured joints are not finite"
_SAMPLES = 12  # of a stop at which the barriers are asked, as the check of a command does
_ROUNDING = 1e-6  # relative: a command crosses in float32, the reference that it stands for in float64


class CommandedMotion(Protocol):
    """The motion that has been sent so far.

    Attributes:
        reference: State after the last command; None where commands are no joint positions.
    """

    reference: Reference | None

    @property
    def at_rest(self) -> bool:
        """Whether the last command stands still."""
        ...

    def rest_at(self, reading: Observation) -> str:
        """Begin anew at rest where the robot stands; returns why that is not known, empty: it is."""
        ...

    def refuse(self, command: np.ndarray, after: Reference | None) -> str:
        """Return why ``command`` (Da,) may not be the next, leading to ``after``; empty: it may."""
        ...

    def accept(self, command: np.ndarray, after: Reference | None) -> np.ndarray:
        """Go on to ``after``, which :meth:`refuse` did not refuse; returns what is to be sent (Da,)."""
        ...

    def brake(self, emergency: bool = False) -> np.ndarray | None:
        """Go on one tick along the brake and return its command (Da,); None: at rest."""
        ...

    def halt(self) -> None:
        """Take it that the robot has come to rest at the last command by itself."""
        ...

    def watch(self, reading: Observation) -> tuple[str, bool]:
        """Return what the measured robot does that was not commanded (empty: nothing), and whether it must be stopped for that."""
        ...


class RangeMotion:
    """Commands that do not depend on each other: only their range is kept.

    Args:
        action: The robot's action spec.
    """

    reference: Reference | None = None
    at_rest = True

    def __init__(self, action: ActionSpec) -> None:
        self._names, self._low, self._high = action.names, action.low, action.high

    def rest_at(self, reading: Observation) -> str:
        """Nothing to begin."""
        return ""

    def refuse(self, command: np.ndarray, after: Reference | None) -> str:
        """Return ``range: ...`` for a command (Da,) beyond the declared limits."""
        outside = (command < self._low) | (command > self._high)
        if not outside.any():
            return ""
        i = int(np.flatnonzero(outside)[0])
        return f"range: {self._names[i]} is {command[i]:g}, outside [{self._low[i]:g}, {self._high[i]:g}]"

    def accept(self, command: np.ndarray, after: Reference | None) -> np.ndarray:
        """Return ``command`` (Da,) as float32: there is nothing to remember."""
        return np.asarray(command, np.float32)

    def brake(self, emergency: bool = False) -> np.ndarray | None:
        """There is no motion to slow down: the drive holds."""
        return None

    def halt(self) -> None:
        """Nothing to forget."""

    def watch(self, reading: Observation) -> tuple[str, bool]:
        """Nobody knows where such a command leads."""
        return "", False


class JointMotion:
    """Joint positions along a path of limited velocity, acceleration and jerk.

    Args:
        spec: The robot's; one observation field names the joints.
        info: Its limits, rate, model and barriers.

    Attributes:
        reference: State after the last command.

    Raises:
        InputError: if the joints are not observed, actions are of another size, or the barriers are not to be had.
    """

    def __init__(self, spec: Spec, info: RobotInfo) -> None:
        assert info.motion is not None
        if info.motion.n != spec.action.dim:
            raise InputError(f"robot {info.name!r}: limits of {info.motion.n} joints, actions of {spec.action.dim} numbers")
        if tuple(spec.action.names) != info.motion.names:
            raise InputError(f"robot {info.name!r}: actions of {', '.join(spec.action.names)}, limits of {', '.join(info.motion.names)}: not the same in order")
        self.limits: MotionLimits = info.motion
        self.reference: Reference | None = None
        self._tick_s = 1.0 / info.rate_hz
        self._field, self._columns = joint_columns(spec.observation, self.limits.names)
        self._barriers = robot_barriers(info)
        self._plan: Brake | None = None
        self._played, self._gentle = 0, False  # ticks of the plan, and whether it is one of normal motion

    @property
    def at_rest(self) -> bool:
        """Whether the last command stands still."""
        return self.reference is None or not (self.reference.velocity.any() or self.reference.acceleration.any())

    def rest_at(self, reading: Observation) -> str:
        """Begin anew at rest at the measured joints; returns why they are not to be believed, empty: they are."""
        measured = self._measured(reading)
        if not np.isfinite(measured).all():
            return _UNKNOWN
        self.reference, self._plan = Reference.at_rest(measured), None
        return ""

    def refuse(self, command: np.ndarray, after: Reference | None) -> str:
        """Return why ``command`` (n,), leading to ``after``, is no continuation of the reference from which a brake remains."""
        if self.reference is None:
            return "no reading: nobody knows where the robot stands"
        if after is None:
            return "reference: a command for joints comes with the velocity and acceleration that it leads to"
        parts = (after.position, after.velocity, after.acceleration)
        if any(p.shape != (self.limits.n,) or not np.isfinite(p).all() for p in parts):
            return f"reference: expected 3 x {self.limits.n} finite numbers"
        if (np.abs(command - after.position) > _ROUNDING * (1 + np.abs(after.position))).any():
            return "reference: it does not lead to the command"
        return check_command(self.reference, after, self.limits, self._tick_s, self._barriers)

    def accept(self, command: np.ndarray, after: Reference | None) -> np.ndarray:
        """Go on to ``after``, which :meth:`refuse` did not refuse; returns its joints (n,) float64: what was checked is sent."""
        assert after is not None
        self.reference, self._plan = after.copy(), None
        return self.reference.position

    def brake(self, emergency: bool = False) -> np.ndarray | None:
        """Go on one tick along the brake from the last command and return its joints (n,) float64; None: at rest.

        A command that is late by a tick need not cost an emergency stop: the stop of normal motion is taken where it stays
        inside every limit, else the emergency stop, which was found to do so when the last command was checked.

        Args:
            emergency: As fast as the limits of a stop allow; a gentler brake that is under way goes over into that.
        """
        if self.at_rest or self.reference is None:
            return None
        if self._plan is None or (emergency and self._gentle):
            plan = Brake.of(self.reference, self.limits, stop=False)
            self._gentle = not emergency and self._stays_inside(plan)
            self._plan, self._played = plan if self._gentle else Brake.of(self.reference, self.limits), 0
        self._played += 1
        self.reference = self._plan.reference(self._played * self._tick_s)
        return self.reference.position

    def _stays_inside(self, plan: Brake) -> bool:
        """Whether a stop keeps the range and the velocity of the joints and, at samples of its way, every barrier."""
        assert self.reference is not None
        position, limits = self.reference.position, self.limits
        if (position + plan.low < limits.low).any() or (position + plan.high > limits.high).any():
            return False
        v, a = self.reference.velocity, self.reference.acceleration
        left = np.abs(v + a * np.abs(a) / (2 * limits.jerk))  # once the acceleration has been ramped to zero
        swings = left > np.maximum(np.abs(v), limits.velocity) * (1 + 1e-6)
        if swings.any() or (np.abs(a) > limits.acceleration * (1 + 1e-9)).any():  # in an emergency stop already
            return False
        if self._barriers is None:
            return True
        way = plan.sample(np.linspace(0, 1, _SAMPLES)[:, None] * plan.duration.max())[0]
        return bool((self._barriers.path(position + way) >= 0).all())

    def halt(self) -> None:
        """Take it that the robot has come to rest at the last command."""
        if self.reference is not None:
            self.reference, self._plan = Reference.at_rest(self.reference.position), None

    def watch(self, reading: Observation) -> tuple[str, bool]:
        """Return which joint is further from its command than declared (a stop), or that the joints are not finite (a brake)."""
        measured = self._measured(reading)
        if not np.isfinite(measured).all():
            return _UNKNOWN, False
        if self.reference is None:  # the first readings were none
            return self.rest_at(reading), False
        error = np.abs(measured - self.reference.position)
        if (error <= self.limits.tracking).all():
            return "", False
        i = int(np.argmax(error - self.limits.tracking))
        return f"tracking: {self.limits.names[i]} is {error[i]:.3g} from its command, at most {self.limits.tracking[i]:g} is declared", True

    def _measured(self, reading: Observation) -> np.ndarray:
        return np.asarray(reading.fields[self._field], np.float64)[self._columns]


def commanded_motion(spec: Spec, info: RobotInfo) -> CommandedMotion:
    """Return the motion of a robot, by whether it declares limits of joints. Raises InputError."""
    return RangeMotion(spec.action) if info.motion is None else JointMotion(spec, info)
