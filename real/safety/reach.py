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

_COARSE = np.linspace(0.0, 1.0, 5)[:, None]
_NEAR = np.array([0.9, 0.98, 1.0])[:, None]  # shares of the way to where the secant says a limit is met
_CLOSE = 1e-9  # rad or m: round-off of where a stop ends


@dataclass
class Interval:
    """Accelerations at the end of the tick that limits allow, and the one that heads for the target.

    Attributes:
        low, high: (n,); where nothing is allowed, both are that of the stop.
        wanted: (n,) inside them.
        empty: (n,) bool: nothing is allowed but the stop itself.
        by_velocity, by_position: (n,) bool: whether ``wanted`` was cut by that limit.
    """

    low: np.ndarray
    high: np.ndarray
    wanted: np.ndarray
    empty: np.ndarray
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
        self._sides = np.array([1.0, -1.0])[:, None]
        # Gains that place the three poles of the sampled triple integrator at one half.
        d = 0.5
        self._gains = d**3 / tick_s**2, (3 * d**2 - d**3) / tick_s, 3 * d - (3 * d**2 - d**3) / 2 - d**3 / 6
        third = np.linspace(0, 1, 4)
        rest = 1 - third
        moments = np.stack([np.diff(third), -np.diff(rest**2) / 2, -np.diff(rest**3) / 6])  # of a, v and q per unit jerk in each third
        self._jerks = np.linalg.inv(moments) / np.array([tick_s, tick_s**2, tick_s**3])

    def next(self, state: Reference, acceleration: np.ndarray) -> Reference:
        """Return the state after a tick that ends with ``acceleration`` (n,) or (G, n)."""
        t = self.tick_s
        velocity = state.velocity + (state.acceleration + acceleration) * (t / 2)
        position = state.position + state.velocity * t + (2 * state.acceleration + acceleration) * (t * t / 6)
        return Reference(position, velocity, acceleration)

    def jerks(self, state: Reference, after: Reference) -> np.ndarray:
        """Return the jerk (3, n) in each third of a tick that leads from ``state`` to ``after``; both (n,)."""
        t = self.tick_s
        moved = np.stack(
            [
                after.acceleration - state.acceleration,
                after.velocity - state.velocity - t * state.acceleration,
                after.position - state.position - t * (state.velocity + (t / 2) * state.acceleration),
            ]
        )
        return self._jerks @ moved

    def admits(self, state: Reference, after: Reference, fastest: np.ndarray, tolerance: float = 1e-6) -> bool:
        """Whether ``after`` can be reached from ``state`` within jerk, acceleration and velocity (n,), and the velocity be kept."""
        limits = self.limits
        if not (np.abs(self.jerks(state, after)) <= limits.jerk * (1 + tolerance)).all():
            return False
        if not (np.abs(after.acceleration) <= limits.acceleration * (1 + 1e-9)).all():
            return False
        # The largest velocity ahead: that of the next zero of the acceleration, if it is ramped to zero at full jerk.
        ahead = after.velocity + after.acceleration * np.abs(after.acceleration) / (2 * limits.jerk)
        return bool((np.maximum(np.abs(ahead), np.abs(after.velocity)) <= fastest * (1 + 1e-9)).all())

    def interval(self, state: Reference, target: Reference, fastest: np.ndarray, low: np.ndarray, high: np.ndarray) -> Interval:
        """Return what a tick from ``state`` may end with, and what heads for ``target``.

        Args:
            state: Now, (n,).
            target: Where to be at the end of the tick, and how fast, (n,).
            fastest: Largest velocity (n,).
            low: Lower end of the range (n,).
            high: Upper end of the range (n,).
        """
        limits = self.limits
        reach_low = np.maximum(state.acceleration - self._step, -limits.acceleration)
        reach_high = np.minimum(state.acceleration + self._step, limits.acceleration)
        bounds = self._keeping_velocity(state, fastest)
        up = np.minimum(np.maximum(bounds[0], reach_low), reach_high)
        down = np.minimum(np.maximum(-bounds[1], reach_low), up)  # where both cannot be, the upper bound decides
        grid = down + (up - down) * _COARSE
        over, under, behind = self._ends(state, target, grid, low, high)
        top, bottom, root = _Crossing(grid, over - _CLOSE), _Crossing(grid[::-1], -under[::-1] - _CLOSE), _Crossing(grid, behind)
        points = np.concatenate([top.near, bottom.near, root.near[2:]])
        over, under, behind = self._ends(state, target, points, low, high)
        highest, lowest = top.last_inside(over[:3] - _CLOSE), bottom.last_inside(-under[3:6] - _CLOSE)
        empty = top.none | bottom.none | (lowest > highest)
        wanted = self._linear(state, target, root.refined(behind[6]))
        cut = np.minimum(np.maximum(wanted, lowest), highest)
        by_position = cut != wanted
        by_velocity = ((wanted >= up) & (up < reach_high)) | ((wanted <= down) & (down > reach_low))
        return Interval(lowest, highest, cut, empty, by_velocity & ~by_position, by_position | empty)

    def _keeping_velocity(self, state: Reference, fastest: np.ndarray) -> np.ndarray:
        """Return the largest a+ (2, n) to either side (mirrored) after which the velocity need not exceed ``fastest``."""
        t, jerk = self.tick_s, self.limits.jerk
        v, a = self._sides * state.velocity, self._sides * state.acceleration
        room = fastest - v - a * (t / 2)
        root = np.sqrt(t * t / 4 + 2 * np.abs(room) / jerk)
        left = np.maximum(fastest - v, 1e-300)
        # Within a tick of the limit the acceleration turns negative in time; beyond the limit it goes back at full jerk.
        turning = np.maximum(a - t * a * a / (2 * left), a - jerk * t)
        viable = (v <= fastest) & (a * a <= 2 * jerk * (left + 1e-6 * fastest))
        return np.where(room >= 0, jerk * (root - t / 2), np.where(viable, turning, jerk * (t / 2 - root)))

    def _ends(self, state: Reference, target: Reference, a: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return by how much the stop after ``a`` (G, n) passes either end of the range, and the target in its own frame."""
        after, count = self.next(state, a), len(a)
        velocity = np.concatenate([after.velocity, after.velocity - target.velocity])
        brake = Brake(velocity, np.concatenate([a, a - target.acceleration]), self.limits.acceleration, self.limits.jerk)
        q = after.position
        return q + brake.high[:count] - high, q + brake.low[:count] - low, q + brake.displacement[count:] - target.position

    def _linear(self, state: Reference, target: Reference, otherwise: np.ndarray) -> np.ndarray:
        """Return a+ (n,) of the linear law in the target's frame where its jerk is allowed, else ``otherwise`` (n,)."""
        t = self.tick_s
        before = target.velocity - t * target.acceleration  # where the target came from
        error = state.position - (target.position - t * (before + (t / 2) * target.acceleration))
        gains = self._gains
        jerk_t = -gains[0] * error / t - gains[1] * (state.velocity - before) / t - gains[2] * (state.acceleration - target.acceleration) / t
        return np.where(np.abs(jerk_t) <= self.limits.jerk, state.acceleration + t * jerk_t, otherwise)


class _Crossing:
    """Where each column of increasing ``values`` (G, n) on ``grid`` (G, n) crosses zero, by one secant.

    Attributes:
        none: (n,) all values are above zero.
        near: (3, n) points of the grid's unit up to the crossing, the last being the secant's; the grid's end without one.
    """

    def __init__(self, grid: np.ndarray, values: np.ndarray) -> None:
        count = (values <= 0).sum(axis=0)
        self.none = count == 0
        self._whole = count == len(grid)
        columns = np.arange(grid.shape[1])
        below = np.maximum(count, 1) - 1
        above = np.minimum(below + 1, len(grid) - 1)
        self._low, self._high = grid[below, columns], grid[above, columns]
        low, high = values[below, columns], values[above, columns]
        share = np.where(self._whole | self.none, 0.0, -low / np.where(high > low, high - low, 1.0))
        self._share, self._below, self._above = share, low, high
        self.near = self._low + (self._high - self._low) * (share * _NEAR)

    def last_inside(self, values: np.ndarray) -> np.ndarray:
        """Return the furthest point (n,) that is inside, given the ``values`` (3, n) at ``near``."""
        out = self._low
        for point, value in zip(self.near, values, strict=True):
            out = np.where(value <= 0, point, out)
        return np.where(self._whole | self.none, self._low, out)

    def refined(self, value: np.ndarray) -> np.ndarray:
        """Return the crossing (n,) by a second secant, given the ``value`` (n,) at the first; an end of the grid without one."""
        middle = self.near[2]
        start, end = np.where(value <= 0, middle, self._low), np.where(value <= 0, self._high, middle)
        first, last = np.where(value <= 0, value, self._below), np.where(value <= 0, self._above, value)
        root = start + (end - start) * (-first / np.where(last > first, last - first, 1.0))
        return np.where(self._whole | self.none, self._low, root)
