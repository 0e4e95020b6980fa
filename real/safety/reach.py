"""What one tick of constant jerk can reach from a state, and which of it leaves room to stop.

The decision of a tick is the acceleration a+ at its end, per joint; with it velocity and position are affine:
v+ = v + (a + a+) dt / 2 and q+ = q + v dt + (2 a + a+) dt^2 / 6. Every limit is monotone in a+, so that what is allowed
is an interval: ends of stops are compared with the ends of the range on a grid of a+, refined once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.motion import MotionLimits, Reference
from real.safety.brake import Brake

_POINTS = 9  # of the grid
_UP = np.linspace(0.0, 1.0, _POINTS)
_GRID = np.stack([1 - _UP, _UP], axis=1)  # (G, 2): from the values at both ends to those on the grid
_BOTH_FRAMES, _THREE_WAYS = np.kron(np.eye(2), _GRID), np.kron(np.eye(3), _GRID)
_CLOSE = np.array(1e-9)  # rad or m: round-off of where a stop ends
# Shares with which a stop at the target is planned; the rest corrects what ticks of constant jerk leave over.
_STOP_ACCELERATION, _STOP_JERK = 0.95, 0.8
_NEAR = 2.0  # ticks of full jerk: how near to the target's motion the linear law leads
_NUDGE = 1e-6  # share of what a tick can do that counts as no change
_ZERO, _ONE, _TINY = np.array(0.0), np.array(1.0), np.array(1e-30)


@dataclass
class Interval:
    """Accelerations at the end of the tick that limits allow, and the one that heads for the target.

    Attributes:
        low, high: (n,); where nothing is allowed, both are that of the stop.
        wanted: (n,) inside them.
        empty: (n,) bool: nothing is allowed but the stop itself.
        first, width: (n,) least a+ that the tick can reach, and up to where from there.
        rests: (G, n) where the joints would come to rest, on a grid over that.
        by_velocity, by_position: (n,) bool: whether ``wanted`` was cut by that limit.
    """

    low: np.ndarray
    high: np.ndarray
    wanted: np.ndarray
    empty: np.ndarray
    first: np.ndarray
    width: np.ndarray
    rests: np.ndarray
    by_velocity: np.ndarray
    by_position: np.ndarray


class Reach:
    """Intervals of one robot at one rate.

    Args:
        limits: Of the joints (n,).
        tick_s: Duration of a tick.
    """

    def __init__(self, limits: MotionLimits, tick_s: float) -> None:
        self.limits, self.tick_s = limits, tick_s
        self._step = limits.jerk * tick_s
        self._least = -limits.acceleration
        self._limit, self._jerk = (
            np.concatenate([np.tile(row, (_POINTS, 1)), share * np.tile(row, (_POINTS, 1))])
            for row, share in ((limits.acceleration, _STOP_ACCELERATION), (limits.jerk, _STOP_JERK))
        )
        self._jerk2, self._step2 = np.tile(limits.jerk, 2), np.tile(self._step, 2)
        self._column = np.arange(3)[:, None] * (_POINTS * limits.n) + np.arange(limits.n)
        self._half_tick, self._third_square, self._sixth_square = (np.array(x) for x in (tick_s / 2, tick_s**2 / 3, tick_s**2 / 6))
        self._quarter_square, self._twice_pace = np.array(tick_s**2 / 4), 2 / self._jerk2
        self._hair = 1e-6 * np.tile(limits.velocity, 2)
        # Gains that place the three poles of the sampled triple integrator at one half.
        d = 0.5
        gains = d**3 / tick_s**2, (3 * d**2 - d**3) / tick_s, 3 * d - (3 * d**2 - d**3) / 2 - d**3 / 6
        self._gains = tuple(np.array(gain) for gain in gains)
        self._nudge, self._near_bend = _NUDGE * self._step, _NEAR * self._step
        self._near_speed = self._near_bend * tick_s
        self._farthest = limits.jerk * (tick_s**3 / 6) * (1 + 1e-6) + 1e-12

    def next(self, state: Reference, acceleration: np.ndarray) -> Reference:
        """Return the state after a tick that ends with ``acceleration`` (n,) or (G, n)."""
        t = self.tick_s
        velocity = state.velocity + (state.acceleration + acceleration) * (t / 2)
        position = state.position + state.velocity * t + (2 * state.acceleration + acceleration) * (t * t / 6)
        return Reference(position, velocity, acceleration)

    def admits(self, state: Reference, after: Reference, fastest: np.ndarray, tolerance: float = 1e-6) -> bool:
        """Whether ``after`` can be reached from ``state`` within jerk, acceleration and velocity (n,), and the velocity be kept.

        A bounded jerk with given changes of acceleration, velocity and position exists if and only if the last lies between
        those of the two jerks that are always extreme, switch twice and have the first two (Markov's moment problem).
        """
        t, most = self.tick_s, self.limits.jerk * (1 + tolerance)
        shift = after.position - state.position - t * (state.velocity + (t / 2) * state.acceleration)
        if np.count_nonzero(np.abs(shift) > self._farthest):
            return False
        first = (after.acceleration - state.acceleration) / (t * most)
        second = first - (after.velocity - state.velocity - t * state.acceleration) / (t * t * most)
        third = 2 * shift / (t**3 * most) - first + 2 * second  # moments of the jerk over the tick: of 1, s and s^2
        rise = np.abs(after.acceleration)
        # The largest velocity ahead: that of the next zero of the acceleration, if it is ramped to zero at full jerk.
        ahead = np.abs(after.velocity + after.acceleration * rise / (2 * self.limits.jerk))
        beyond = (rise > self.limits.acceleration * (1 + 1e-9)) | (np.maximum(ahead, np.abs(after.velocity)) > fastest * (1 + 1e-9))
        beyond |= np.abs(first) >= 1
        if np.count_nonzero(beyond):
            return False
        # Both signs at once; in the middle of the tick the jerk has the other sign, for ``2 * half`` around ``center``.
        first, second, third = (np.concatenate([part, -part]) for part in (first, second, third))
        half = 0.25 - 0.25 * first
        center = (0.125 - 0.25 * second) / half
        extreme = 1 / 3 - 4 * half * (center * center + half * half * (1 / 3))
        return not np.count_nonzero((np.abs(center - 0.5) > 0.5 - half + 1e-9) | (third > extreme + 1e-9))

    def meeting(self, state: Reference, position: np.ndarray) -> np.ndarray:
        """Return the a+ (n,) of the constant jerk that leads to ``position`` (n,) in one tick; NaN where it is not within reach."""
        ends = (position - state.position - self.tick_s * state.velocity) / self._sixth_square - 2 * state.acceleration
        return np.where(np.abs(ends - state.acceleration) <= self._step * (1 + 1e-6), ends, np.nan)

    def interval(self, state: Reference, target: Reference, meeting: np.ndarray | None, fastest: np.ndarray, low: np.ndarray, high: np.ndarray) -> Interval:
        """Return what a tick from ``state`` may end with, and what heads for ``target``.

        Args:
            state: Now, (n,).
            target: Where to be at the end of the tick, and how fast, (n,).
            meeting: What to end with (n,) where it is a number, whatever else heads for the target; None: nowhere.
            fastest: Largest velocity (n,).
            low: Lower end of the range (n,).
            high: Upper end of the range (n,).
        """
        limits, n, t = self.limits, self.limits.n, self.tick_s
        a = state.acceleration
        reach_low, reach_high = np.maximum(a - self._step, self._least), np.minimum(a + self._step, limits.acceleration)
        bounds = self._keeping_velocity(state, fastest)
        up = np.minimum(np.maximum(bounds[:n], reach_low), reach_high)
        down = np.minimum(np.maximum(-bounds[n:], reach_low), up)  # where both cannot be, the upper bound decides
        # Ends of the tick for both bounds, absolute and in the target's frame; between them everything is affine.
        halfway = state.velocity + a * self._half_tick
        v_down, v_up = halfway + down * self._half_tick, halfway + up * self._half_tick
        q = state.position + t * state.velocity + a * self._third_square
        q_down, q_up = q + down * self._sixth_square, q + up * self._sixth_square
        ends = np.concatenate([down, up, down - target.acceleration, up - target.acceleration]).reshape(4, n)
        speeds = np.concatenate([v_down, v_up, v_down - target.velocity, v_up - target.velocity]).reshape(4, n)
        stops = Brake(_BOTH_FRAMES @ speeds, _BOTH_FRAMES @ ends, self._limit, self._jerk)
        relative = np.concatenate([q_down - high, q_up - high, low - q_up, low - q_down, q_down - target.position, q_up - target.position])
        reached = np.concatenate([stops.high[:_POINTS], -stops.low[_POINTS - 1 :: -1], stops.displacement[_POINTS:]])
        share = self._crossings((_THREE_WAYS @ relative.reshape(6, n) + reached).reshape(3, _POINTS, n))
        span = up - down
        empty = (share[0] < 0) | (share[1] < 0) | (share[0] + share[1] < 1 - 1e-9)
        highest, lowest = down + span * share[0], up - span * share[1]
        wanted = self._linear(state, target, down + span * np.maximum(share[2], _ZERO))
        if meeting is not None:
            wanted = np.where(np.isnan(meeting), wanted, meeting)
        cut = np.minimum(np.maximum(wanted, lowest), highest)
        velocity = ((wanted > up - _NUDGE * span) & (up < reach_high)) | ((wanted < down + _NUDGE * span) & (down > reach_low))
        rests = _GRID @ np.concatenate([q_down, q_up]).reshape(2, n) + stops.displacement[:_POINTS]
        return Interval(lowest, highest, cut, empty, down, span, rests, velocity, (np.abs(cut - wanted) > self._nudge) | empty)

    def _crossings(self, values: np.ndarray) -> np.ndarray:
        """Return the share (3, n) of the grid at which increasing ``values`` (3, G, n) cross zero: 1 if nowhere, below 0 if before it."""
        count = (values <= _CLOSE).sum(axis=1)
        below = np.minimum(np.maximum(count - 1, 0), _POINTS - 2)
        flat, place = values.ravel(), self._column + below * self.limits.n
        first, last = flat[place], flat[place + self.limits.n]
        # The stop's end is convex where a limit is near, so that the secant stays on the safe side.
        share = (below - first / np.maximum(last - first, _TINY)) * (1 / (_POINTS - 1))
        return np.where(count == 0, -1.0, np.where(count == _POINTS, 1.0, np.minimum(np.maximum(share, _ZERO), _ONE)))

    def at_rest(self, interval: Interval) -> np.ndarray:
        """Return where the joints would come to rest (n,) after what is wanted."""
        place = (interval.wanted - interval.first) / np.maximum(interval.width, _TINY) * (_POINTS - 1)
        cell = np.minimum(np.maximum(place.astype(np.intp), 0), _POINTS - 2)
        flat, at = interval.rests.ravel(), self._column[0] + cell * self.limits.n
        below, above = flat[at], flat[at + self.limits.n]
        return below + (above - below) * (place - cell)

    def _keeping_velocity(self, state: Reference, fastest: np.ndarray) -> np.ndarray:
        """Return the largest a+ (2 n,) to either side (mirrored) after which the velocity need not exceed ``fastest``."""
        jerk = self._jerk2
        v, a = (np.concatenate([part, -part]) for part in (state.velocity, state.acceleration))
        left = np.concatenate([fastest, fastest]) - v
        room = left - a * self._half_tick
        root = np.sqrt(self._quarter_square + np.abs(room) * self._twice_pace)
        # Within a tick of the limit the acceleration turns negative in time; beyond the limit it goes back at full jerk.
        turning = np.maximum(a - a * a * self._half_tick / np.maximum(left, _TINY), a - self._step2)
        viable = (left >= _ZERO) & (a * a <= (jerk + jerk) * (left + self._hair))
        return np.where(room >= _ZERO, jerk * (root - self._half_tick), np.where(viable, turning, jerk * (self._half_tick - root)))

    def _linear(self, state: Reference, target: Reference, otherwise: np.ndarray) -> np.ndarray:
        """Return a+ (n,) of the linear law in the target's frame where its jerk is allowed, else ``otherwise`` (n,)."""
        t = self.tick_s
        before = target.velocity - t * target.acceleration  # where the target came from
        error = state.position - (target.position - t * (before + (t / 2) * target.acceleration))
        speed, bend, gains = state.velocity - before, state.acceleration - target.acceleration, self._gains
        change = gains[0] * error + gains[1] * speed + gains[2] * bend
        # Far away its terms may cancel, which says nothing.
        far = (np.abs(change) > self._step) | (np.abs(speed) > self._near_speed) | (np.abs(bend) > self._near_bend)
        return np.where(far, otherwise, state.acceleration - change)
