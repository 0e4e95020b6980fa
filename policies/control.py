"""Joint control without weights: targets at the policy's rate become smooth commands at the drive's.

Array code over (N, n): N streams (worlds, or the one robot) of n joints, each row on its own, the same bits whatever N.
What a stream carries from tick to tick is an explicit state. Worlds and runtime run this very code. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from policies.motion import MotionLimits
from policies.spec import InputError

__all__ = ["JointInterpolator", "MotionLimits", "MotionState"]  # whoever controls joints needs their limits, too

#: Share of acceleration and of jerk that a planned stop uses; the rest corrects what a tick of finite length leaves over.
_STOP_ACCELERATION, _STOP_JERK = 0.9, 0.7


class MotionState(NamedTuple):
    """Where the commanded motion of N streams is at the end of a tick.

    Attributes:
        position, velocity, acceleration: (N, n) float64; the jerk was constant since the tick before.
        goal: (N, n) what is followed: it moves in a straight line from one target to the next within a policy step.
    """

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    goal: np.ndarray


class JointInterpolator:
    """Makes drive-rate commands of policy-rate targets, within the limits of motion.

    A reference model of third order: the jerk of a tick places the three poles of the sampled triple integrator at one
    real number, so that in the linear range a command never leaves the hull of the targets; it lags a moving target by one
    policy step. The jerk is then cut to what velocity, acceleration and jerk allow and, towards the target, to what
    leaves room for a jerk-limited stop at it: far targets are approached in nearly shortest time and without overshoot.
    A target that comes to lie within the stopping distance is passed; the motion brakes fully and comes back.

    Args:
        limits: Of the joints; targets are cut to their range. None: commands go in a straight line to each target.
        rate_hz: Rate of the drive, that is of :meth:`step`.
        substeps: Steps of the drive per target.

    Raises:
        InputError: if rate or substeps are not positive.
    """

    def __init__(self, limits: MotionLimits | None, rate_hz: float, substeps: int) -> None:
        if not rate_hz > 0 or substeps < 1:
            raise InputError(f"interpolator: expected a rate above 0 and at least 1 substep, found {rate_hz:g} Hz and {substeps}")
        self.limits, self.rate_hz, self.substeps = limits, float(rate_hz), int(substeps)
        self._tick = tick = 1.0 / self.rate_hz
        # Poles of the position law at 1 - d: gains from matching (z - 1 + d)^3; a ramp is followed 3 / d - 2 ticks behind.
        d = min(3.0 / (substeps + 2), 0.75)
        gain, rate = d**3, 3 * d**2 - d**3
        self._position_gains = (gain / tick**2, rate / tick, 3 * d - rate / 2 - gain / 6)
        self._velocity_gains = (d**2 / tick, 2 * d - d**2 / 2)  # the same for the double integrator, (z - 1 + d)^2
        self._bounds = None if limits is None else _Bounds.of(limits, tick)
        self._many: tuple[int, _Bounds | None] = (1, self._bounds)  # the bounds for that many streams

    def start(self, position: np.ndarray, velocity: np.ndarray | None = None, acceleration: np.ndarray | None = None) -> MotionState:
        """Return the state of streams at ``position`` (N, n): at rest, or moving as ``velocity`` and ``acceleration`` (N, n) say.

        Raises:
            ValueError: if the shape does not fit.
        """
        position = np.array(position, np.float64)
        if position.ndim != 2 or (self.limits is not None and position.shape[1] != self.limits.n):
            raise ValueError(f"position: expected shape (N, {'n' if self.limits is None else self.limits.n}), found {position.shape}")
        v, a = (np.zeros_like(position) if part is None else np.array(part, np.float64) for part in (velocity, acceleration))
        return MotionState(position, v, a, position)

    def step(self, state: MotionState, target: np.ndarray, substep: int) -> tuple[np.ndarray, MotionState]:
        """Take one tick of the drive towards position targets.

        Args:
            state: Of the tick before.
            target: (N, n) of this policy step.
            substep: Which tick of the policy step this is, from 0.

        Returns:
            The command (N, n) float64 and the state after it.

        Raises:
            ValueError: if a target is not finite, has another shape than the state, or there is no such substep.
        """
        target, bound = self._within(self._checked(state, target, substep, "target"))
        return self._towards(bound, state, target, substep)

    def steps(self, state: MotionState, target: np.ndarray, commands: np.ndarray) -> MotionState:
        """Take all ticks of a policy step, as :meth:`step` does one by one, and write the commands.

        Args:
            state: At the end of the policy step before.
            target: (N, n) of this policy step.
            commands: (N, substeps, n), is written.

        Returns:
            The state after the last tick.

        Raises:
            ValueError: as :meth:`step` does.
        """
        target, bound = self._within(self._checked(state, target, 0, "target"))
        for substep in range(self.substeps):
            commands[:, substep], state = self._towards(bound, state, target, substep)
        return state

    def _within(self, target: np.ndarray) -> tuple[np.ndarray, _Bounds | None]:
        """Return ``target`` (N, n) cut to the range of the joints, and the bounds for so many streams."""
        bound = self._bounds_of(len(target))
        return (target if bound is None else np.minimum(np.maximum(target, bound.low), bound.high)), bound

    def _towards(self, bound: _Bounds | None, state: MotionState, target: np.ndarray, substep: int) -> tuple[np.ndarray, MotionState]:
        """Take one tick towards ``target`` (N, n), which is checked and within the range."""
        left = self.substeps - substep
        goal = target if left == 1 else state.goal + (target - state.goal) / left
        if bound is None:
            velocity = (goal - state.position) * self.rate_hz
            return goal, MotionState(goal, velocity, np.zeros_like(goal), goal)
        to_error, to_velocity, to_acceleration = self._position_gains
        wanted = to_error * (goal - state.position) - to_velocity * state.velocity - to_acceleration * state.acceleration
        return self._advance(bound, state, state.acceleration + wanted, target, goal)

    def step_velocity(self, state: MotionState, velocity: np.ndarray, substep: int) -> tuple[np.ndarray, MotionState]:
        """Take one tick of the drive at velocity targets; holding is a target of zero, and a range of positions is not left.

        Args:
            state: Of the tick before.
            velocity: (N, n) target of this policy step.
            substep: Which tick of the policy step this is, from 0.

        Returns:
            The position command (N, n) float64 and the state after it.

        Raises:
            ValueError: as :meth:`step` does.
        """
        velocity = self._checked(state, velocity, substep, "velocity")
        bound = self._bounds_of(len(velocity))
        if bound is None:
            position = state.position + velocity * self._tick
            return position, MotionState(position, velocity, np.zeros_like(position), position)
        velocity = np.minimum(np.maximum(velocity, -bound.velocity), bound.velocity)
        # Towards the end of the range the velocity falls with the distance, so that it is reached without a shock.
        per_step = self.rate_hz / self.substeps
        velocity = np.maximum(np.minimum(velocity, per_step * (bound.high - state.position)), per_step * (bound.low - state.position))
        to_error, to_acceleration = self._velocity_gains
        wanted = to_error * (velocity - state.velocity) - to_acceleration * state.acceleration
        end = np.where(velocity > 0, bound.high, bound.low)
        command, after = self._advance(bound, state, state.acceleration + wanted, end, state.position)
        return command, after._replace(goal=command)

    def _bounds_of(self, streams: int) -> _Bounds | None:
        if self._many[0] != streams:
            self._many = streams, None if self._bounds is None else self._bounds.repeated(streams)
        return self._many[1]

    def _checked(self, state: MotionState, target: np.ndarray, substep: int, what: str) -> np.ndarray:
        target = np.asarray(target, np.float64)
        if target.shape != state.position.shape:
            raise ValueError(f"{what}: expected shape {state.position.shape}, found {target.shape}")
        if np.count_nonzero(np.isfinite(target)) != target.size:
            raise ValueError(f"{what}: expected finite numbers, found {target[~np.isfinite(target)][0]}")
        if not 0 <= substep < self.substeps:
            raise ValueError(f"substep: expected 0 to {self.substeps - 1}, found {substep}")
        return target

    def _advance(self, bound: _Bounds, state: MotionState, wanted: np.ndarray, target: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, MotionState]:
        """Go one tick to the acceleration nearest to ``wanted`` that the limits allow.

        They hold that a stop remains possible before the target if it lies ahead, and before the end of the range if not.
        """
        gap = target - state.position
        heading = bound.heading(state.velocity, state.acceleration)
        side = np.copysign(bound.one, np.where(heading, heading, gap))  # all that follows is seen in this direction
        v, a, gap = side * state.velocity, side * state.acceleration, side * gap
        past = gap < bound.zero  # the target lies behind: ahead, there is the end of the range
        ahead = gap
        if np.count_nonzero(past):
            end = np.maximum(side * (bound.high - state.position), side * (bound.low - state.position))
            ahead = np.where(past, end, gap)
        drift = v + bound.half_tick * a
        low, high = a - bound.jerk_step, a + bound.jerk_step
        least = np.maximum(low, bound.bottom)
        ceiling = np.maximum(bound.slow_enough(np.minimum(high, bound.top), bound.velocity - drift), low)
        floor = np.minimum(-bound.slow_enough(-least, bound.velocity + drift), high)
        chosen = np.minimum(np.maximum(side * wanted, floor), ceiling)
        travelled = bound.tick * v + bound.third_tick2 * a
        chosen = bound.stopping(chosen, least, drift, ahead - travelled)
        v_after = drift + bound.half_tick * chosen
        turned = bound.heading(v_after, chosen) < bound.zero
        if np.count_nonzero(turned):  # the same for the other side
            room = np.where(past, -gap, np.maximum(side * (state.position - bound.low), side * (state.position - bound.high)))
            chosen = np.where(turned, -bound.stopping(-chosen, np.maximum(-high, bound.bottom), -drift, room + travelled), chosen)
            v_after = drift + bound.half_tick * chosen
        acceleration = side * chosen
        position = state.position + side * travelled + bound.sixth_tick2 * acceleration
        return position, MotionState(position, side * v_after, acceleration, goal)


@dataclass(frozen=True)
class _Bounds:
    """Limits and constants of a tick, all of the shape of the state, (1, n) for one robot: small arrays are slow to broadcast.

    For more streams (:meth:`repeated`) what is equal for all joints is a number, the rest is repeated.
    """

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    jerk_step: np.ndarray  # largest change of acceleration in a tick
    half_per_jerk: np.ndarray
    per_reserve: np.ndarray
    ample: np.ndarray  # velocity left to the limit at which every acceleration is allowed
    stop_top: np.ndarray  # seconds in which a planned stop takes back its acceleration
    per_stop_jerk: np.ndarray
    tick: np.ndarray
    half_tick: np.ndarray
    third_tick2: np.ndarray
    sixth_tick2: np.ndarray
    one: np.ndarray
    zero: np.ndarray

    @classmethod
    def of(cls, limits: MotionLimits, tick: float) -> _Bounds:
        stop_jerk = np.minimum(_STOP_JERK * limits.jerk, 0.25 * limits.acceleration / tick)  # its ramps are to last four ticks
        top, jerk = limits.acceleration, limits.jerk
        ample = (top**2 / (2 * jerk) + top * tick) * (1 + 1e-9)
        values = (
            limits.low, limits.high, limits.velocity, top, -top, jerk * tick, 0.5 / jerk, 2 / (jerk * tick**2), ample,
            _STOP_ACCELERATION * top / stop_jerk, 1 / stop_jerk, tick, tick / 2, tick**2 / 3, tick**2 / 6, 1.0, 0.0,
        )  # fmt: skip
        return cls(*(np.array(np.broadcast_to(value, (1, limits.n))) for value in values))

    def repeated(self, streams: int) -> _Bounds:
        """Return the same bounds for that many streams: numbers and arrays (streams, n), which take part in one loop over all elements."""
        if streams == 1:
            return self
        values: list[Any] = [getattr(self, field.name) for field in fields(self)]
        many: list[Any] = [float(v[0, 0]) if (v == v[0, 0]).all() else np.repeat(v, streams, axis=0) for v in values]
        return _Bounds(*many)

    def slow_enough(self, a: np.ndarray, reserve: np.ndarray) -> np.ndarray:
        """Return ``a``, or less where it takes more than ``reserve``, the velocity left to the limit, until it is back at zero.

        That is a^2 / 2J + a h, in ticks of h.
        """
        if np.count_nonzero(reserve < self.ample) == 0:
            return a
        most = self.jerk_step * (np.sqrt(np.maximum(self.one + self.per_reserve * reserve, self.zero)) - self.one)
        return np.minimum(a, most)

    def heading(self, v: np.ndarray, a: np.ndarray) -> np.ndarray:
        """Return the velocity once the acceleration has been taken to zero: where the motion goes if nothing is done."""
        return v + self.half_per_jerk * a * np.abs(a)

    def stopping(self, wanted: np.ndarray, least: np.ndarray, drift: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """Return the next acceleration, ``wanted`` where a stop within the gap is then possible, else less, down to ``least``.

        Rows are judged each on its own, whether or not another row needs it.
        """
        over = self.overshoot(wanted, drift, gap)
        beyond = over > self.zero
        if not np.count_nonzero(beyond):
            return wanted
        least = np.minimum(least, wanted)
        at_least = self.overshoot(least, drift, gap)
        share = np.minimum(at_least, 0.0) / np.minimum(at_least - over, -1e-300)  # along a chord: slightly less than the most
        return np.where(beyond, least + np.minimum(share, 1.0) * (wanted - least), wanted)

    def overshoot(self, a: np.ndarray, drift: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """Return how far beyond the gap a jerk-limited stop ends that begins after a tick to acceleration ``a``.

        A stop from (v, a) is part of the one from (w, 0) with w = v + a^2 / 2J: the acceleration falls through zero on its
        way (a > 0), or fell from zero a moment ago (a < 0). The way between is v a / J + a^3 / 3 J^2 in both cases.
        """
        v, ramp = drift + self.half_tick * a, a * self.per_stop_jerk
        gained = a * ramp
        w = np.maximum(v + 0.5 * gained, self.zero)
        # From (w, 0) a stop takes w (w / A + A / J) / 2; with A = sqrt(w J) where the limit is not reached.
        per_jerk = w * self.per_stop_jerk
        seconds = np.minimum(np.sqrt(per_jerk), self.stop_top)
        distance = ramp * (v + gained / 3) + 0.5 * w * (per_jerk / np.maximum(seconds, 1e-150) + seconds)
        return np.where(np.maximum(v, a) > self.zero, distance, self.zero) + self.sixth_tick2 * a - gap
