"""The time-optimal, jerk-limited stop of every joint, in closed form.

From velocity v and acceleration a, a joint is brought to rest (v = a = 0) as fast as |a| <= A and |jerk| <= J allow: the
acceleration ramps to a peak, stays there if the peak is A, and ramps to zero. Which way the peak points follows from the
velocity that would remain if the acceleration were ramped to zero at once, v + a|a| / (2 J). A state with |a| > A is
brought back at full jerk first. The stop is memoryless: the stop from any state on its path is the rest of that path.
"""

from __future__ import annotations

import numpy as np

from policies.motion import MotionLimits, Reference


class Brake:
    """Stops from states of any shape (...); limits broadcast against them.

    Args:
        velocity, acceleration: States (...), rad/s or m/s, and per s^2.
        limit, jerk: Largest acceleration and jerk (...), above 0.

    Attributes:
        duration: Time until rest (...), s.
        displacement: Where the joint comes to rest, relative to where it is (...), rad or m.
        low, high: Largest excursion to either side on the way (...); low <= 0 <= high.
        travel: Length of the way, both directions added (...), at least ``abs(displacement)``.
    """

    def __init__(self, velocity: np.ndarray, acceleration: np.ndarray, limit: np.ndarray, jerk: np.ndarray) -> None:
        ends = velocity + acceleration * np.abs(acceleration) / (2 * jerk)  # the velocity left when a has been ramped to zero
        self._sign = np.where(ends >= 0, 1.0, -1.0)
        v, a = self._sign * velocity, self._sign * acceleration  # mirrored: the peak is -p
        self._v, self._a, self._jerk = v, a, jerk
        p = np.minimum(np.sqrt(np.maximum(jerk * v + a * a / 2, 0)), limit)
        self._peak = p
        t1 = np.abs(a + p) / jerk
        self._jerk1 = np.where(a + p >= 0, -jerk, jerk)
        self._v2 = p * p / (2 * jerk)  # velocity when the last ramp begins
        t2 = np.maximum(v + (a - p) * t1 / 2 - self._v2, 0) / np.maximum(p, 1e-300)
        t2 = np.where(p < limit, 0.0, t2)
        t3 = p / jerk
        self._times = t1, t2, t3
        self.duration = t1 + t2 + t3
        end = t1 * (v + t1 * (a / 2 + self._jerk1 * t1 / 6)) + t2 * (self._v2 + p * t2 / 2) + p * t3 * t3 / 6
        # Only a joint that moves against the mirrored direction turns on its way, in the first ramp.
        turn = (a - np.sqrt(np.maximum(a * a + 2 * jerk * v, 0))) / jerk
        back = np.where(v < 0, np.minimum(turn * (v + turn * (a / 2 - jerk * turn / 6)), 0.0), 0.0)
        self._back, self._turn = back, np.where(v < 0, turn, 0.0)
        self.displacement = self._sign * end
        ahead = np.maximum(end, 0.0)
        positive = self._sign > 0
        self.low, self.high = np.where(positive, back, -ahead), np.where(positive, ahead, -back)
        self.travel = np.abs(end - back) - back
        self._start: np.ndarray | None = None

    @classmethod
    def of(cls, reference: Reference, limits: MotionLimits, *, stop: bool = True) -> Brake:
        """Return the stop (n,) from ``reference``, with the limits of an emergency stop or those of normal motion."""
        limit, jerk = (limits.stop_acceleration, limits.stop_jerk) if stop else (limits.acceleration, limits.jerk)
        brake = cls(reference.velocity, reference.acceleration, limit, jerk)
        brake._start = reference.position.copy()
        return brake

    def sample(self, t: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return displacement, velocity and acceleration (...) at ``t`` s after the start; ``t`` broadcasts against the states."""
        t1, t2, t3 = self._times
        s1 = np.clip(t, 0, t1)
        s2 = np.clip(t - t1, 0, t2)
        s3 = np.clip(t - t1 - t2, 0, t3)
        v, a, j1, p, v2 = self._v, self._a, self._jerk1, self._peak, self._v2
        v1 = v2 + p * t2
        last = s3 * (v2 + s3 * (-p / 2 + self._jerk * s3 / 6))
        q = s1 * (v + s1 * (a / 2 + j1 * s1 / 6)) + s2 * (v1 - p * s2 / 2) + last
        velocity = v + s1 * (a + j1 * s1 / 2) - p * s2 - s3 * (p - self._jerk * s3 / 2)
        acceleration = np.where(s1 < t1, a + j1 * s1, -p + self._jerk * s3)
        rest = t >= self.duration
        return self._sign * q, np.where(rest, 0.0, self._sign * velocity), np.where(rest, 0.0, self._sign * acceleration)

    def way(self, t: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return displacement and the length of the way made (...) at ``t`` s after the start; ``t`` broadcasts."""
        q = self.sample(t)[0]
        along = self._sign * q
        return q, np.where(np.asarray(t) < self._turn, -along, along - 2 * self._back)

    def reference(self, t: float) -> Reference:
        """Return the state (n,) at ``t`` s after the start of a stop made by :meth:`of`; at rest once it is over."""
        if self._start is None:
            raise ValueError("this stop has no start position: it was not made by Brake.of")
        q, velocity, acceleration = self.sample(t)
        return Reference(self._start + q, velocity, acceleration)
