"""The lowest level of a run: from the policy's action to the command of this tick, through the safety filter.

A robot of joints is driven by :class:`JointLevel`: the controller interpolates between actions at the drive's rate, the
filter keeps every limit. A robot with commands of another kind (Cartesian increments, a gripper) takes one action a tick;
:class:`RangeLevel` keeps them finite and within their range. Nothing else makes commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from policies.control import JointInterpolator, MotionState
from policies.motion import MotionLimits, Reference, joint_columns
from policies.spec import ActionSpec, InputError, ObservationSpec
from real.robot import Observation, RobotInfo
from real.safety.declared import robot_barriers
from real.safety.filter import SafetyFilter


@dataclass
class Command:
    """What leaves in one tick.

    Attributes:
        values: (Da,) in robot units.
        reference: Of a robot of joints: the state after this tick, from which a verified brake exists.
        causes: Why it is not what the controller wanted; empty: it is.
        before: (Da,) what the controller wanted, where that was finite.
        braking: Whether the robot slows down to a stand.
    """

    values: np.ndarray
    reference: Reference | None = None
    causes: tuple[str, ...] = ()
    before: np.ndarray | None = None
    braking: bool = False


class Level(Protocol):
    """Turns actions into commands.

    Attributes:
        due: Whether this tick needs a new action of the policy.
        slows: Whether it can be slower than full speed.
    """

    slows: bool

    @property
    def due(self) -> bool:
        """Whether this tick needs a new action of the policy."""
        ...

    def start(self, reading: Observation) -> None:
        """Begin where the robot stands."""
        ...

    def drop(self) -> None:
        """Forget the action being executed: without another one, the robot brakes from the next tick on."""
        ...

    def step(self, action: np.ndarray | None, reading: Observation, speed: float = 1.0) -> Command | None:
        """Return the command of this tick; None: the robot holds as it is.

        Args:
            action: (Da,) the policy's when one was due (None: there is none, brake); between actions it is not looked at.
            reading: The robot now.
            speed: Of the motion, 0 to 1.
        """
        ...


class RangeLevel:
    """Commands that are actions: finite, of the right shape, inside the declared range.

    Args:
        action: The robot's action spec.
    """

    due, slows = True, False

    def __init__(self, action: ActionSpec) -> None:
        self._action = action

    def start(self, reading: Observation) -> None:
        """Nothing to begin: commands do not depend on each other."""

    def drop(self) -> None:
        """Nothing to forget: an action lasts one tick."""

    def step(self, action: np.ndarray | None, reading: Observation, speed: float = 1.0) -> Command | None:
        """See :class:`Level`; ``speed`` cannot be less than 1 here, what an increment means is the robot's."""
        if action is None:
            return None
        before = np.asarray(action, np.float32)
        values = self._action.clip(before)
        return Command(values, causes=("range",) if (values != before).any() else (), before=before)


class JointLevel:
    """Joint positions at the drive's rate.

    Args:
        observation: The robot's fields, one of which names the joints.
        info: The robot: rate, substeps, limits, model and barriers.

    Raises:
        InputError: if the joints are not observed, or the barriers are not to be had.
    """

    slows = True

    def __init__(self, observation: ObservationSpec, info: RobotInfo) -> None:
        motion = info.motion
        if motion is None:
            raise InputError(f"robot {info.name!r} declares no limits of motion")
        self.motion: MotionLimits = motion
        self._field, self._columns = joint_columns(observation, motion.names)
        self._substeps = info.substeps
        self._interpolator = JointInterpolator(motion, info.rate_hz, info.substeps)
        self.filter = SafetyFilter(motion, info.rate_hz, robot_barriers(info))
        self._state: MotionState = self._interpolator.start(np.zeros((1, motion.n)))
        self._phase = 0.0  # of the action being executed, in ticks at full speed
        self._target: np.ndarray | None = None
        self._before = np.zeros(motion.n)  # the action before it
        self._fresh = True

    @property
    def due(self) -> bool:
        """Whether the action being executed, if any, ends with the tick before."""
        return self._target is None or self._phase >= self._substeps - 1e-9

    def measured(self, reading: Observation) -> np.ndarray:
        """Return the measured joint positions (n,) float64."""
        return np.asarray(reading.fields[self._field], np.float64)[self._columns]

    def start(self, reading: Observation) -> None:
        """Begin at rest where the robot stands, or in the motion that its drive says it is in; with a later reading if neither is known."""
        self._target, self._fresh = None, reading.reference is None and not np.isfinite(self.measured(reading)).all()
        if self._fresh:
            return
        if reading.reference is None:
            self.filter.start(self.measured(reading))
        else:
            self.filter.start(reading.reference.position)  # in motion, the first step takes that over
        self._follow(self.filter.reference if reading.reference is None else reading.reference)

    def drop(self) -> None:
        """See :class:`Level`."""
        self._target = None

    def step(self, action: np.ndarray | None, reading: Observation, speed: float = 1.0) -> Command | None:
        """See :class:`Level`."""
        if self._fresh:
            self.start(reading)
        if self._fresh:
            return None
        measured, wanted = self.measured(reading), None
        if self.due and action is None:
            self._target = None
        elif self.due:
            self._before = self.filter.reference.position if self._target is None else self._target
            self._target, self._phase = np.asarray(action, np.float64), 0.0
        if self._target is not None and np.isfinite(self._target).all():
            wanted = self._interpolate(speed)
        out = self.filter.step(wanted, measured, scale=speed, reference=reading.reference)
        if wanted is None or out.causes:
            self._follow(out.reference)
        if wanted is None and _at_rest(out.reference):
            return None
        return Command(out.command, out.reference, out.causes if wanted is not None else (), out.before, out.braking)

    def _interpolate(self, speed: float) -> Reference:
        """Advance the controller by a tick of ``speed`` and return the motion that it wants at the tick's end."""
        assert self._target is not None
        substep = min(int(self._phase), self._substeps - 1)
        self._phase += speed
        target = self._target
        if speed < 1:  # the way to the action is spread over more ticks
            target = self._before + (self._target - self._before) * min(self._phase / self._substeps, 1.0)
        _, self._state = self._interpolator.step(self._state, target[None], substep)
        return Reference(self._state.position[0], self._state.velocity[0], self._state.acceleration[0])

    def _follow(self, reference: Reference) -> None:
        """Put the controller where the robot is sent: it goes on from there, not from where it wanted to be."""
        self._state = self._interpolator.start(reference.position[None], reference.velocity[None], reference.acceleration[None])


def _at_rest(reference: Reference) -> bool:
    return not (reference.velocity.any() or reference.acceleration.any())


def make_level(observation: ObservationSpec, action: ActionSpec, info: RobotInfo) -> Level:
    """Return the level that a robot's commands need.

    Raises:
        InputError: for a robot whose declarations do not fit together.
    """
    if info.motion is None:
        if info.substeps != 1:
            raise InputError(f"robot {info.name!r}: {info.substeps} commands an action need limits of motion, it declares none")
        return RangeLevel(action)
    if info.motion.n != action.dim:
        raise InputError(f"robot {info.name!r}: limits of {info.motion.n} joints, actions of {action.dim} numbers")
    if tuple(action.names) != info.motion.names:  # one joint would be kept in another's limits
        raise InputError(f"robot {info.name!r}: actions of {', '.join(action.names)}, limits of {', '.join(info.motion.names)}: not the same in order")
    return JointLevel(observation, info)
