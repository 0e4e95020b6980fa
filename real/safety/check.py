"""The independent check of a command, by the process that owns the drive.

It asks again, with code that shares nothing with the filter's, what the filter has answered: does the motion from one
reference to the next obey the limits, and can the robot still stop inside them afterwards? Plain numbers joint by joint;
stops are phases of constant jerk whose peak is found by bisection. What was already outside may only come back.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from policies.motion import MotionLimits, Reference

_PATH_SAMPLES = 12  # configurations of a stop at which the barriers are asked
_TOUCHING_M = 1e-6  # round-off of distances
_ROUND_OFF_M = 1e-9  # a robot inside a barrier may go only outward; what a tick may lack of that must not add up to anything


class Distances(Protocol):
    """What the check needs of barriers."""

    names: tuple[str, ...]

    def path(self, q: np.ndarray) -> np.ndarray:
        """Return the distance to every barrier, margin taken off, (T, K), m, at joint positions ``q`` (T, n)."""
        ...


Phases = list[tuple[float, float]]  # (duration in s, jerk)


def check_command(before: Reference, after: Reference, limits: MotionLimits, tick_s: float, barriers: Distances | None = None) -> str:
    """Return "" if ``after`` may follow ``before`` (states (n,) one tick apart), else the cause in one line."""
    arrays = [array for state in (before, after) for array in (state.position, state.velocity, state.acceleration)]
    if any(np.shape(array) != (limits.n,) for array in arrays):
        return f"shape: expected ({limits.n},), found {[np.shape(array) for array in arrays]}"
    if not all(math.isfinite(x) for array in arrays for x in array.tolist()):
        return "not finite"
    starts = list(zip(before.position.tolist(), before.velocity.tolist(), before.acceleration.tolist(), strict=True))
    ends = list(zip(after.position.tolist(), after.velocity.tolist(), after.acceleration.tolist(), strict=True))
    largest = list(zip(limits.stop_acceleration.tolist(), limits.stop_jerk.tolist(), strict=True))
    before_stops = [_stop(v, a, *most) for (_, v, a), most in zip(starts, largest, strict=True)]
    after_stops = [_stop(v, a, *most) for (_, v, a), most in zip(ends, largest, strict=True)]
    stopping = _is_stopping(starts, ends, before_stops, limits, tick_s)
    for joint, (start, end) in enumerate(zip(starts, ends, strict=True)):
        cause = _motion(start, end, limits, joint, tick_s, stopping)
        cause = cause or _excursion(_extremes(start, before_stops[joint]), _extremes(end, after_stops[joint]), limits, joint)
        if cause:
            return f"{cause} of {limits.names[joint]!r}"
    return _path(before, ends, after_stops, barriers) if barriers is not None else ""


State = tuple[float, float, float]


def _is_stopping(starts: list[State], ends: list[State], stops: list[Phases], limits: MotionLimits, tick_s: float) -> bool:
    """Whether the tick is one of the emergency stop, whose limits are declared apart."""
    for joint, (start, end) in enumerate(zip(starts, ends, strict=True)):
        expected = _at(start, stops[joint], tick_s)
        scale = float(limits.stop_jerk[joint])
        off = (end[0] - expected[0]) / tick_s**3, (end[1] - expected[1]) / tick_s**2, (end[2] - expected[2]) / tick_s
        if max(map(abs, off)) > 1e-4 * scale + _noise(start[0], tick_s):
            return False
    return True


def _noise(position: float, tick_s: float) -> float:
    """Return how far round-off of positions can move a third difference."""
    return 32 * 2.2e-16 * max(1.0, abs(position)) / tick_s**3


def _motion(start: State, end: State, limits: MotionLimits, joint: int, tick_s: float, stopping: bool) -> str:
    """Return which of velocity, acceleration and jerk the tick breaks."""
    q, v, a = start
    largest = float(limits.stop_jerk[joint] if stopping else limits.jerk[joint])
    room = 1e-6 * largest + _noise(q, tick_s)
    # Three weighted means of the jerk within the tick; each is at most the largest jerk.
    means = (
        6 * (end[0] - q - tick_s * (v + tick_s * a / 2)) / tick_s**3,
        2 * (end[1] - v - tick_s * a) / tick_s**2,
        (end[2] - a) / tick_s,
    )
    jerk = max(map(abs, means))
    if not jerk <= largest + room:
        return f"jerk {jerk:g} above {largest:g}"
    limit = float(limits.stop_acceleration[joint] if stopping else limits.acceleration[joint])
    # Only a stop may go on with an acceleration that is above the limit: what an emergency stop leaves is nobody else's to use.
    if abs(end[2]) > (max(limit, abs(a)) if stopping else limit) * (1 + 1e-6) + room * tick_s:
        return f"acceleration {abs(end[2]):g} above {limit:g}"
    # What is too fast already (in a stop: or bound to be) may not become faster; else the velocity ahead must keep the limit,
    # too: only that rules out a source that speeds up at every limit in turn, or by what an emergency stop leaves.
    fastest = max(float(limits.velocity[joint]), _ahead(v, a, largest) if stopping else abs(v))
    speed = max(_ahead(end[1], end[2], largest), abs(end[0] - q) / tick_s)
    if not speed <= fastest * (1 + 1e-9) + room * tick_s**2:
        return f"velocity {speed:g} above {float(limits.velocity[joint]):g}"
    return ""


def _ahead(v: float, a: float, jerk: float) -> float:
    """Return the largest speed until the acceleration, ramped to zero with ``jerk``, is gone."""
    return max(abs(v), abs(v + a * abs(a) / (2 * jerk)))


def _excursion(before: tuple[float, float], after: tuple[float, float], limits: MotionLimits, joint: int) -> str:
    """Return which position limit the stop after the tick breaks, beyond what the stop before it had to."""
    (was_low, was_high), (low, high) = before, after
    if low < min(float(limits.low[joint]) - 1e-7, was_low - 1e-10):
        return f"position: it would stop at {low:g}, below {float(limits.low[joint]):g},"
    if high > max(float(limits.high[joint]) + 1e-7, was_high + 1e-10):
        return f"position: it would stop at {high:g}, above {float(limits.high[joint]):g},"
    return ""


def _path(before: Reference, ends: list[State], stops: list[Phases], barriers: Distances) -> str:
    """Return the barrier that the stop after the tick breaks."""
    whole = max(sum(duration for duration, _ in phases) for phases in stops)
    times = [whole * k / _PATH_SAMPLES for k in range(_PATH_SAMPLES + 1)] if whole > 0 else [0.0]
    way = [[_at(end, phases, t)[0] for end, phases in zip(ends, stops, strict=True)] for t in times]
    now, *ahead = barriers.path(np.array([before.position.tolist(), *way]))  # all at once: most of the time goes into single calls
    least = np.minimum(-_TOUCHING_M, now - _ROUND_OFF_M)
    for d in ahead:
        if not (d >= least).all():  # a NaN is no distance
            worst = int(np.argmin(np.where(np.isnan(d), -np.inf, d - least)))
            return f"barrier {barriers.names[worst]!r}: {d[worst]:g} m left while stopping"
    return ""


def _stop(v: float, a: float, limit: float, jerk: float) -> Phases:
    """Return the phases of the fastest stop: ramp to a peak of acceleration, stay, ramp to zero."""
    ends = v + a * abs(a) / (2 * jerk)
    side = 1.0 if ends >= 0 else -1.0
    v, a = side * v, side * a

    def left(peak: float) -> float:
        return v + (a - peak) / 2 * abs(a + peak) / jerk - peak * peak / (2 * jerk)

    stay, peak = 0.0, limit
    if left(limit) >= 0:
        stay = left(limit) / limit
    else:
        least, most = max(0.0, -a), limit
        for _ in range(60):
            peak = (least + most) / 2
            least, most = (peak, most) if left(peak) > 0 else (least, peak)
    down = -side * jerk if a + peak >= 0 else side * jerk
    return [(abs(a + peak) / jerk, down), (stay, 0.0), (peak / jerk, side * jerk)]


def _advance(state: State, duration: float, jerk: float) -> State:
    q, v, a = state
    t = duration
    return q + t * (v + t * (a / 2 + t * jerk / 6)), v + t * (a + t * jerk / 2), a + t * jerk


def _at(state: State, phases: Phases, t: float) -> State:
    """Return the state after ``t`` s of ``phases``; at rest when they are over."""
    for duration, jerk in phases:
        state = _advance(state, min(t, duration), jerk)
        if t <= duration:
            return state
        t -= duration
    return state[0], 0.0, 0.0


def _extremes(state: State, phases: Phases) -> tuple[float, float]:
    """Return the lowest and highest position on the way through ``phases``."""
    low = high = state[0]
    for duration, jerk in phases:
        _, v, a = state
        turns = [duration]
        inside = a * a - 2 * jerk * v
        if jerk and inside > 0:
            turns += [t for t in ((-a - math.sqrt(inside)) / jerk, (-a + math.sqrt(inside)) / jerk) if 0 < t < duration]
        elif not jerk and a and 0 < -v / a < duration:
            turns.append(-v / a)
        for t in turns:
            q = _advance(state, t, jerk)[0]
            low, high = min(low, q), max(high, q)
        state = _advance(state, duration, jerk)
    return low, high
