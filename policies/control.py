"""Joint control without weights: targets at the policy's rate become smooth commands at the drive's.

Array code over (N, n): N streams (worlds, or the one robot) of n joints, each row on its own, the same bits whatever N.
What a stream carries from tick to tick is an explicit state. Worlds and runtime run this very code. Torch-free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policies.motion import MotionLimits
from policies.spec import InputError

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
        # Poles of the position law at 1 - d: gains from matching (z - 1 + d)^3; a ramp is followed 3/d - 1 ticks behind.
        d = min(3.0 / (substeps + 1), 0.75)
        gain, rate = d**3, 3 * d**2 - d**3
        self._position_gains = (gain / tick**2, rate / tick, 3 * d - rate / 2 - gain / 6)
        self._velocity_gains = (d**2 / tick, 2 * d - d**2 / 2)  # the same for the double integrator, (z - 1 + d)^2
        if limits is not None:
            self._jerk_step = limits.jerk * tick  # largest change of acceleration in a tick
            self._half_per_jerk = 0.5 / limits.jerk
            self._per_reserve = 2 / (limits.jerk * tick**2)
            stop_jerk = np.minimum(_STOP_JERK * limits.jerk, 0.5 * limits.acceleration / tick)  # its ramps are to last two ticks
            self._per_stop_a, self._per_stop_jerk = 1 / (_STOP_ACCELERATION * limits.acceleration), 1 / stop_jerk
            self._stop_ratio = self._per_stop_jerk / self._per_stop_a

    def start(self, position: np.ndarray, velocity: np.ndarray | None = None, acceleration: np.ndarray | None = None) -> MotionState:
        """Return the state of streams at ``position`` (N, n): at rest, or moving as ``velocity`` and ``acceleration`` (N, n) say."""
        position = np.array(position, np.float64)
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
        target = self._checked(state, target, substep, "target")
        if self.limits is not None:
            target = np.minimum(np.maximum(target, self.limits.low), self.limits.high)
        left = self.substeps - substep
        goal = target if left == 1 else state.goal + (target - state.goal) / left
        if self.limits is None:
            velocity = (goal - state.position) * self.rate_hz
            return goal, MotionState(goal, velocity, np.zeros_like(goal), goal)
        to_error, to_velocity, to_acceleration = self._position_gains
        wanted = to_error * (goal - state.position) - to_velocity * state.velocity - to_acceleration * state.acceleration
        return self._advance(state, state.acceleration + wanted, target, goal)

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
        if self.limits is None:
            position = state.position + velocity * self._tick
            return position, MotionState(position, velocity, np.zeros_like(position), position)
        velocity = np.minimum(np.maximum(velocity, -self.limits.velocity), self.limits.velocity)
        to_error, to_acceleration = self._velocity_gains
        wanted = to_error * (velocity - state.velocity) - to_acceleration * state.acceleration
        end = np.where(velocity > 0, self.limits.high, self.limits.low)
        command, after = self._advance(state, state.acceleration + wanted, end, state.position)
        return command, after._replace(goal=command)

    def _checked(self, state: MotionState, target: np.ndarray, substep: int, what: str) -> np.ndarray:
        target = np.asarray(target, np.float64)
        if target.shape != state.position.shape:
            raise ValueError(f"{what}: expected shape {state.position.shape}, found {target.shape}")
        if not np.isfinite(target).all():
            raise ValueError(f"{what}: expected finite numbers, found {target[~np.isfinite(target)][0]}")
        if not 0 <= substep < self.substeps:
            raise ValueError(f"substep: expected 0 to {self.substeps - 1}, found {substep}")
        return target

    def _advance(self, state: MotionState, wanted: np.ndarray, target: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, MotionState]:
        """Go one tick to the acceleration nearest to ``wanted`` that the limits allow.

        They hold that a stop remains possible before the target if it lies ahead, and before the end of the range if not.
        """
        assert self.limits is not None
        tick, top = self._tick, self.limits.acceleration
        gap = target - state.position
        heading = state.velocity + self._half_per_jerk * state.acceleration * np.abs(state.acceleration)  # once a has gone to 0
        side = np.copysign(1.0, np.where(heading == 0, gap, heading))  # all that follows is seen in this direction
        v, a, gap = side * state.velocity, side * state.acceleration, side * gap
        end = np.where(side > 0, self.limits.high - state.position, state.position - self.limits.low)
        gap = np.where(gap >= 0, gap, end)
        drift = v + 0.5 * tick * a
        low, high = a - self._jerk_step, a + self._jerk_step
        ceiling = np.minimum(np.minimum(high, top), self._fastest(self.limits.velocity - drift))
        floor = np.maximum(np.maximum(low, -top), -self._fastest(self.limits.velocity + drift))
        ceiling, floor = np.maximum(ceiling, low), np.minimum(floor, high)  # no state is left faster than the jerk allows
        chosen = np.minimum(np.maximum(side * wanted, floor), ceiling)
        gap = gap - tick * (v + (tick / 3) * a)
        over = self._overshoot(chosen, drift, gap)
        if (over > 0).any():  # rows in which it is not are left as they are, whatever the others need
            least = np.minimum(np.maximum(low, -top), chosen)
            at_least = self._overshoot(least, drift, gap)
            share = np.minimum(at_least, 0.0) / np.minimum(at_least - over, -1e-300)  # a chord: slightly less than the largest
            chosen = np.where(over > 0, least + np.minimum(share, 1.0) * (chosen - least), chosen)
        acceleration = side * chosen
        velocity = state.velocity + (0.5 * tick) * (state.acceleration + acceleration)
        position = state.position + tick * (state.velocity + tick * (state.acceleration / 3 + acceleration / 6))
        return position, MotionState(position, velocity, acceleration, goal)

    def _fastest(self, reserve: np.ndarray) -> np.ndarray:
        """Return the largest a with a^2 / 2J + a h <= reserve, the velocity left: its limit is not passed while a is taken back."""
        step = self._jerk_step
        return step * (np.sqrt(np.maximum(1 + self._per_reserve * reserve, 0.0)) - 1)

    def _overshoot(self, a: np.ndarray, drift: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """Return how far beyond the gap a jerk-limited stop ends that begins after a tick to acceleration ``a``.

        A stop from (v, a) is part of the one from (w, 0) with w = v + a^2 / 2J: the acceleration falls through zero on its
        way (a > 0), or fell from zero a moment ago (a < 0). The way between is v a / J + a^3 / 3 J^2 in both cases.
        """
        v, ramp = drift + (0.5 * self._tick) * a, a * self._per_stop_jerk
        w = np.maximum(v + 0.5 * a * ramp, 0.0)
        # From (w, 0) a stop takes w (w / A + A / J) / 2; with A = sqrt(w J) where the limit is not reached.
        ramp_time = np.minimum(np.sqrt(w * self._per_stop_jerk), self._stop_ratio)
        stop = 0.5 * w * (w * self._per_stop_jerk / np.maximum(ramp_time, 1e-150) + ramp_time)
        distance = ramp * (v + a * ramp / 3) + stop
        return np.where((v <= 0) & (a <= 0), 0.0, distance) + (self._tick**2 / 6) * a - gap
