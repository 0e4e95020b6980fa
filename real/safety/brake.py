"""The time-optimal, jerk-limited stop of every joint, in closed form.

From velocity v and acceleration a, a joint is brought to rest (v = a = 0) as fast as |a| <= A and |jerk| <= J allow: the
acceleration ramps to a peak, stays there if the peak is A, and ramps to zero. Which way the peak points follows from the
velocity that would remain if the acceleration were ramped to zero at once, v + a|a| / (2 J). A state with |a| > A is
brought back at full jerk first. The stop is memoryless: the stop from any state on its path is the rest of that path.
"""

from __future__ import annotations

import numpy as np

from policies.motion import MotionLimits, Reference

# numpy takes arrays of no dimension, and operands of equal shapes, faster than numbers and broadcasting.
_ZERO, _SIXTH, _THIRD, _HALF, _ONE = (np.array(x) for x in (0.0, 1 / 6, 1 / 3, 0.5, 1.0))
_ROOT_TWO = np.sqrt(np.array(2.0))


class Brake:
    """Stops from states of any shape (...); limits broadcast against them.

    Args:
        velocity, acceleration: States (...), rad/s or m/s, and per s^2.
        limit, jerk: Largest acceleration and jerk (...), above 0.

    Attributes:
        displacement: Where the joint comes to rest, relative to where it is (...), rad or m.
        low, high: Largest excursion to either side on the way (...); low <= 0 <= high.

    Indexing gives the stops of one row, if the limits have the shape of the states.
    """

    def __init__(self, velocity: np.ndarray, acceleration: np.ndarray, limit: np.ndarray, jerk: np.ndarray) -> None:
        pace = 1 / jerk
        half = pace * _HALF
        ends = velocity + acceleration * np.abs(acceleration) * half  # the velocity left when a has been ramped to zero
        self._sign = sign = np.copysign(_ONE, ends)
        v, a = sign * velocity, sign * acceleration  # mirrored: the peak is -p
        root = np.sqrt(np.maximum(jerk * v + a * a * _HALF, _ZERO))
        p = np.minimum(root, limit)
        rise, twice = a + p, a + a
        t1 = np.abs(rise) * pace  # the ramp to the peak, of jerk * t1 = -rise
        v1, v2 = v + t1 * (a - p) * _HALF, p * p * half  # velocities when the peak begins and ends
        t2 = np.maximum(v1 - v2, _ZERO) / limit  # round-off alone where the peak is below the limit
        t3 = p * pace
        end = t1 * (v + t1 * (twice - p) * _SIXTH) + t2 * (v1 + v2) * _HALF + v2 * t3 * _THIRD
        # Only a joint that moves against the mirrored direction turns on its way, in the first ramp.
        across = root * _ROOT_TWO
        turn = np.maximum((a - across) * pace, _ZERO)
        back = turn * (v + turn * (twice + across) * _SIXTH)
        ahead = np.maximum(end, _ZERO)
        both, middle = ahead - back, sign * (ahead + back)
        self.displacement = sign * end
        self.low, self.high = (middle - both) * _HALF, (middle + both) * _HALF
        self._phases = v, a, p, v1, v2, jerk, t1, t2, t3, rise
        self._turn, self._back, self._end = turn, back, end
        self._start: np.ndarray | None = None

    def __getitem__(self, row: int) -> Brake:
        one: Brake = object.__new__(Brake)
        one._sign, one._phases = self._sign[row], tuple(part[row] for part in self._phases)
        one._turn, one._back, one._end = self._turn[row], self._back[row], self._end[row]
        one.displacement, one.low, one.high, one._start = self.displacement[row], self.low[row], self.high[row], None
        return one

    @property
    def duration(self) -> np.ndarray:
        """Time until rest (...), s."""
        return self._phases[6] + self._phases[7] + self._phases[8]

    @property
    def phase_ends(self) -> np.ndarray:
        """Times (3, ...), s, at which the first ramp, the peak and the last ramp end: in between the jerk is constant."""
        return np.cumsum(np.stack(np.broadcast_arrays(*self._phases[6:9])), axis=0)

    @property
    def travel(self) -> np.ndarray:
        """Length of the way (...), both directions added; at least ``abs(displacement)``."""
        return self._end - 2 * self._back

    @classmethod
    def of(cls, reference: Reference, limits: MotionLimits, *, stop: bool = True) -> Brake:
        """Return the stop (n,) from ``reference``, with the limits of an emergency stop or those of normal motion."""
        limit, jerk = (limits.stop_acceleration, limits.stop_jerk) if stop else (limits.acceleration, limits.jerk)
        brake = cls(reference.velocity, reference.acceleration, limit, jerk)
        brake._start = reference.position.copy()
        return brake

    def sample(self, t: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return displacement, velocity and acceleration (...) at ``t`` s after the start; ``t`` broadcasts against the states."""
        v, a, p, _, _, jerk, t1, t2, t3, rise = self._phases
        q, (s1, s2, s3) = self._along(t)
        down = np.copysign(jerk, rise)  # the size of the first ramp's jerk, positive where it points against the motion
        velocity = v + s1 * (a - down * s1 / 2) - p * s2 - s3 * (p - jerk * s3 / 2)
        acceleration = np.where(s1 < t1, a - down * s1, -p + jerk * s3)
        rest = t >= t1 + t2 + t3
        return self._sign * q, np.where(rest, 0.0, self._sign * velocity), np.where(rest, 0.0, self._sign * acceleration)

    def way(self, t: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return displacement and the length of the way made (...) at ``t`` s after the start; ``t`` broadcasts."""
        along, _ = self._along(t)
        return self._sign * along, np.where(np.asarray(t) < self._turn, -along, along - 2 * self._back)

    def _along(self, t: float | np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return the mirrored displacement (...) and the times spent in each phase."""
        v, a, p, v1, v2, jerk, t1, t2, t3, rise = self._phases
        s1 = np.minimum(t, t1)
        left = t - t1
        s2 = np.minimum(np.maximum(left, _ZERO), t2)
        s3 = np.minimum(np.maximum(left - t2, _ZERO), t3)
        first = s1 * (v + s1 * (a * _HALF - np.copysign(jerk, rise) * s1 * _SIXTH))
        last = s3 * (v2 - s3 * (p * _HALF - jerk * s3 * _SIXTH))
        return first + s2 * (v1 - p * s2 * _HALF) + last, (s1, s2, s3)

    def reference(self, t: float) -> Reference:
        """Return the state (n,) at ``t`` s after the start of a stop made by :meth:`of`; at rest once it is over."""
        if self._start is None:
            raise ValueError("this stop has no start position: it was not made by Brake.of")
        q, velocity, acceleration = self.sample(t)
        return Reference(self._start + q, velocity, acceleration)
