"""The safety filter: from every state that a command leads to, a verified jerk-limited stop remains inside all limits.

Each tick, in this order: inputs are checked; a motion that is already safe passes unchanged; else every joint's interval
(jerk, acceleration, velocity, room to stop) and the barriers, as rows on where the robot would come to rest, are solved
together; then the stop from the new state is verified on its whole way. Whatever fails, the stop that was verified one tick
ago plays on. A limiter in software, not a safety function in the sense of ISO 13849.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from policies.motion import MotionLimits, Reference
from policies.spec import InputError
from real.safety.barriers import Barriers
from real.safety.brake import Brake
from real.safety.certify import Certifier
from real.safety.program import Program, Solver, SolverFailed
from real.safety.reach import Interval, Reach
from real.safety.targets import TargetStream

_UNCHANGED = 1e-6  # rad or m: a command this close to its target is no intervention
_ROUND_OFF = 1e-8  # rad or m, in where a stop ends
_FAR = 1e6  # rad or m: beyond any target that means something; keeps the arithmetic within its range
_SWING = 1e-5  # share of the velocity limit: more than round-off can bring normal motion beyond it
_WAY_OUT_M = 5e-4  # by how much a robot inside a barrier may come nearer on its way out


@dataclass
class Filtered:
    """What leaves the filter in one tick.

    Attributes:
        command: Joint positions to send (n,) float64.
        reference: State of the commanded motion at the end of the tick; its position is ``command``.
        causes: Why the command is not the target, e.g. ``velocity``, ``position``, ``barrier:link3:tool``, ``brake``; empty: it is.
        braking: Whether the tick is one of a stop.
        before: The target that was asked for (n,), None if there was none that could be read.
    """

    command: np.ndarray
    reference: Reference
    causes: tuple[str, ...]
    braking: bool
    before: np.ndarray | None


@dataclass
class _Verified:
    """What is known about the stops from a state."""

    state: Reference
    clear: bool  # the emergency stop keeps every limit and barrier
    inside: bool  # the stop of normal motion ends inside the range
    distances: np.ndarray  # (K,) now
    at_rest: np.ndarray  # (K,) where normal motion would come to rest
    rest: np.ndarray  # (n,) there
    low: np.ndarray  # (n,) extremes of the emergency stop
    high: np.ndarray


class SafetyFilter:
    """Filters the targets of one robot.

    Args:
        limits: Of the joints.
        rate_hz: Rate of :meth:`step`, that of the drive.
        barriers: Where not to be; None: only the limits hold.
        solve: Solver of the quadratic program, with the interface of ``daqp.solve``; None: daqp.

    Attributes:
        interventions: How often each cause was given, since the beginning.

    Raises:
        InputError: if the rate is no number above 0, or the barriers are about another number of joints.
    """

    def __init__(self, limits: MotionLimits, rate_hz: float, barriers: Barriers | None = None, *, solve: Solver | None = None) -> None:
        if not (np.isfinite(rate_hz) and rate_hz > 0):
            raise InputError(f"safety filter: expected a rate above 0, found {rate_hz:g} Hz")
        if barriers is not None and barriers.n != limits.n:
            raise InputError(f"safety filter: limits of {limits.n} joints, barriers of {barriers.n}")
        self.limits, self.tick_s = limits, 1.0 / float(rate_hz)
        self.interventions: Counter[str] = Counter()
        self._barriers = barriers if barriers is not None and barriers.names else None
        count = len(self._barriers.names) if self._barriers is not None else 0
        self._reach, self._stream = Reach(limits, self.tick_s), TargetStream(limits, self.tick_s)
        self._program = Program(limits.n, count, solve)
        self._certifier = Certifier(self._barriers) if self._barriers is not None else None
        self._keep = max(0.0, 1 - self._barriers.config.alpha * self.tick_s) if self._barriers is not None else 0.0
        self._most_acceleration = np.stack([limits.acceleration, limits.stop_acceleration])
        self._most_jerk = np.stack([limits.jerk, limits.stop_jerk])
        self._now: _Verified | None = None
        self._low, self._high, self._least = limits.low, limits.high, np.zeros(count)

    @property
    def reference(self) -> Reference:
        """State of the commanded motion, (n,). Raises RuntimeError before :meth:`start`."""
        return self._state().state

    def _state(self) -> _Verified:
        if self._now is None:
            raise RuntimeError("safety filter: start() was not called")
        return self._now

    def start(self, measured: np.ndarray) -> None:
        """Begin at rest at joint positions ``measured`` (n,). Raises InputError if they are no n finite numbers."""
        measured = np.asarray(measured, np.float64)
        if measured.shape != (self.limits.n,) or not np.isfinite(measured).all():
            raise InputError(f"safety filter: expected {self.limits.n} finite joint positions, found {measured.tolist()}")
        self._stream.clear()
        self._adopt(Reference.at_rest(measured))

    def _adopt(self, state: Reference) -> None:
        """Take ``state`` as it is; limits and barriers that its stop does not keep give way to where it leads, and no further."""
        limits = self.limits
        self._low, self._high, self._least = limits.low, limits.high, np.full(len(self._least), -np.inf)
        self._now = self._verify(state)
        self._low = np.minimum(limits.low, self._now.low)
        self._high = np.maximum(limits.high, self._now.high)
        if self._barriers is not None:
            way = Brake.of(state, limits)
            q = state.position + way.sample(np.linspace(0, 1, 9)[:, None] * way.duration.max())[0]
            self._least = self._floor(self._barriers.path(q).min(axis=0))

    def _floor(self, distances: np.ndarray) -> np.ndarray:
        return np.where(distances < 0, distances - _WAY_OUT_M, 0.0)

    def step(self, target: np.ndarray | Reference | None, measured: np.ndarray, *, scale: float = 1.0, reference: Reference | None = None) -> Filtered:
        """Return the command of the coming tick.

        Args:
            target: Joint positions (n,) for the end of the tick, or the whole state of a planned motion there (a motion within
                the limits then passes to the bit); None: come to rest.
            measured: Joint positions (n,) as measured.
            scale: Share of the velocity limits that may be used, in [0, 1].
            reference: State of the drive's motion, where the drive has moved otherwise than commanded.

        Returns:
            The command; its causes say why it is not the target.
        """
        causes: list[str] = []
        if reference is not None:
            self._follow(reference, causes)
        now = self._state().state
        goal, meeting = self._goal(target, now, causes)
        asked = None if goal is None else goal.position.copy()
        self._check_measured(measured, now, causes)
        if not (0 <= scale <= 1):  # nor is a NaN
            causes.append("scale")
        gentle = not causes and (goal is None or scale == 0)  # asked to stop, not forced to
        if self._in_stop(now):
            causes.append("stopping")  # an emergency stop is left once normal motion can go on from it
        after = None
        if not causes:
            after = self._stopped(now, causes, "scale" if goal is not None else "no target") if gentle else self._moved(goal, meeting, scale, causes)
        braking = gentle or after is None
        if after is None:
            after = self._verify(Brake.of(now, self.limits).reference(self.tick_s))
        self._commit(after)
        self.interventions.update(causes)
        return Filtered(after.state.position.copy(), after.state.copy(), tuple(causes), braking, asked)

    def _in_stop(self, now: Reference) -> bool:
        """Whether the acceleration (n,) is an emergency stop's: above its limit, or normal jerk would end it only beyond the velocity limit."""
        a, limits = now.acceleration, self.limits
        size = np.abs(a)
        swing = np.copysign(1.0, a) * now.velocity + size * size / (2 * limits.jerk)  # along a, once that has been ramped to zero
        return bool(np.count_nonzero((size > limits.acceleration * (1 + 1e-9)) | ((size > 0) & (swing > limits.velocity * (1 + _SWING)))))

    def _follow(self, reference: Reference, causes: list[str]) -> None:
        """Take over the drive's motion if it is another than ours."""
        arrays = [np.asarray(a, np.float64) for a in (reference.position, reference.velocity, reference.acceleration)]
        if any(a.shape != (self.limits.n,) or np.count_nonzero(np.isfinite(a)) != a.size for a in arrays):
            causes.append("reference")
            return
        ours = self._state().state
        if not all(np.array_equal(a, b) for a, b in zip(arrays, (ours.position, ours.velocity, ours.acceleration), strict=True)):
            self._adopt(Reference(*arrays))

    def _goal(self, target: np.ndarray | Reference | None, now: Reference, causes: list[str]) -> tuple[Reference | None, np.ndarray | None]:
        """Return the target with its motion, and for a stream the acceleration (n,) that meets it where it is not smooth."""
        if target is None:
            self._stream.clear()
            return None, None
        given = (target.position, target.velocity, target.acceleration) if isinstance(target, Reference) else (target,)
        try:
            arrays = [np.asarray(a, np.float64) for a in given]
        except (TypeError, ValueError):
            arrays = []
        if not arrays or any(a.shape != (self.limits.n,) or np.count_nonzero(np.isfinite(a)) != a.size for a in arrays):
            causes.append("target")
            self._stream.clear()
            return None, None
        arrays[0] = np.minimum(np.maximum(arrays[0], -_FAR), _FAR)
        if len(arrays) == 3:
            self._stream.clear()
            return Reference(*arrays), None
        goal, exactly = self._stream.push(arrays[0], now.position)
        # While the jerk of a stream jumps, what meets it exactly is the better guide; for longer that would swing up.
        return goal, np.where(exactly, self._reach.meeting(now, goal.position), np.nan)

    def _check_measured(self, measured: np.ndarray, now: Reference, causes: list[str]) -> None:
        measured = np.asarray(measured, np.float64)
        if measured.shape != now.position.shape or np.count_nonzero(np.isfinite(measured)) != measured.size:
            causes.append("measured")
        elif np.count_nonzero(np.abs(measured - now.position) > self.limits.tracking):
            causes.append("tracking")

    def _stopped(self, now: Reference, causes: list[str], cause: str) -> _Verified | None:
        """Return the next state of the stop within the limits of normal motion; None if only the emergency stop is safe."""
        causes.append(cause)
        after = self._verify(Brake.of(now, self.limits, stop=False).reference(self.tick_s))
        if after.clear:
            return after
        causes.append("brake")
        return None

    def _moved(self, goal: Reference | None, meeting: np.ndarray | None, scale: float, causes: list[str]) -> _Verified | None:
        """Return the next state towards ``goal``; None if none is safe but the stop."""
        assert goal is not None
        now, fastest = self._state(), self.limits.velocity * scale
        for candidate in self._candidates(now.state, goal, meeting):
            if self._reach.admits(now.state, candidate, fastest):
                after = self._verify(candidate)
                if after.clear and after.inside and not np.count_nonzero(after.at_rest < self._needed(now) - _ROUND_OFF):
                    return after
                break
        try:
            after, reasons = self._solved(now, goal, meeting, fastest)
        except SolverFailed:
            causes.append("solver")
            return None
        if np.count_nonzero(np.abs(after.state.position - goal.position) > _UNCHANGED):
            causes += [("scale" if r == "velocity" and scale < 1 else r) for r in reasons] or ["motion"]
        if not after.clear:
            causes.append("brake")
            return None
        return after

    def _candidates(self, now: Reference, goal: Reference, meeting: np.ndarray | None) -> list[Reference]:
        """Return states at the target, as it is said or estimated to move there, or as one tick of constant jerk leads there."""
        if meeting is None or np.count_nonzero(np.isnan(meeting)) == len(meeting):
            return [goal]
        met, use = self._reach.next(now, meeting), np.isfinite(meeting)
        return [goal, Reference(goal.position, np.where(use, met.velocity, goal.velocity), np.where(use, met.acceleration, goal.acceleration))]

    def _needed(self, now: _Verified) -> np.ndarray:
        """Return the distances (K,) that are needed where the robot would come to rest after the tick."""
        if self._barriers is None:
            return self._least
        reserve = self._barriers.config.reserve_m
        return np.where(now.at_rest >= reserve, reserve + self._keep * (now.at_rest - reserve), now.at_rest)

    def _solved(self, now: _Verified, goal: Reference, meeting: np.ndarray | None, fastest: np.ndarray) -> tuple[_Verified, list[str]]:
        """Solve for the motion nearest to the one that heads for ``goal``, and verify its stop. Raises SolverFailed."""
        state, limits = now.state, self.limits
        interval = self._reach.interval(state, goal, meeting, fastest, self._low, self._high)
        reasons = ["velocity"] * bool(np.count_nonzero(interval.by_velocity)) + ["position"] * bool(np.count_nonzero(interval.by_position))
        fixed, instead = interval.empty, None
        if np.count_nonzero(fixed):
            stop = Brake.of(state, limits, stop=False)
            instead = stop.reference(self.tick_s)
            values = (interval.wanted, interval.low, interval.high)
            interval.wanted, interval.low, interval.high = (np.where(fixed, instead.acceleration, a) for a in values)
            interval.rests = np.where(fixed, state.position + stop.displacement, interval.rests)
        if self._barriers is not None:
            reasons += self._keep_clear(self._barriers, now, interval)
        after = self._reach.next(state, interval.wanted)
        if instead is not None:
            pairs = zip((instead.position, instead.velocity, instead.acceleration), (after.position, after.velocity, after.acceleration), strict=True)
            after = Reference(*(np.where(fixed, a, b) for a, b in pairs))
        return self._verify(after), reasons

    def _keep_clear(self, barriers: Barriers, now: _Verified, interval: Interval) -> list[str]:
        """Change what is wanted to the nearest that keeps clear of the barriers; return which of them decided. Raises SolverFailed."""
        needed = self._needed(now)
        farthest = np.maximum(np.abs(interval.rests[0] - now.rest), np.abs(interval.rests[-1] - now.rest))
        if not np.count_nonzero(now.at_rest - barriers.lever_arms @ farthest < needed):
            return []  # no barrier is so near that one tick could matter
        h, gradient = barriers.rows(self._reach.at_rest(interval))
        if not np.count_nonzero(h < needed):
            return []
        half = (interval.high - interval.low) * 0.5
        free = half > 0
        unit = np.where(free, half, 1.0)
        slope = np.where(free, (interval.rests[-1] - interval.rests[0]) * half / np.maximum(interval.width, 1e-30), 0.0)  # of the place of rest, per unit
        wanted = interval.wanted
        # In millimetres, so that tolerances are small beside what a tick can do.
        found = self._program.nearest((interval.low - wanted) / unit, (interval.high - wanted) / unit, gradient * (1e3 * slope), 1e3 * (needed - h))
        interval.wanted = wanted + unit * found.x
        return [f"barrier:{barriers.names[k]}" for k in np.flatnonzero(found.active)] + ["slack"] * bool(np.count_nonzero(found.eased))

    def _verify(self, state: Reference) -> _Verified:
        """Examine the stops from ``state``: that of normal motion, row 0, and the emergency stop, row 1."""
        q, n = state.position, self.limits.n
        v, a = (np.concatenate([part, part]).reshape(2, n) for part in (state.velocity, state.acceleration))
        stops = Brake(v, a, self._most_acceleration, self._most_jerk)
        low, high = q + stops.low, q + stops.high
        beyond = (low < self._low - _ROUND_OFF) | (high > self._high + _ROUND_OFF)
        within, inside = not np.count_nonzero(beyond[1]), not np.count_nonzero(beyond[0])
        rest, none = q + stops.displacement[0], self._least
        clear, here, there = self._certifier.clear(q, stops[1], self._least, rest) if self._certifier is not None else (True, none, none)
        return _Verified(state, clear and within, inside, here, there, rest, low[1], high[1])

    def _commit(self, after: _Verified) -> None:
        """Go on from ``after``; what was outside and has come nearer may not go back."""
        self._now = after
        self._low = np.minimum(self.limits.low, np.maximum(self._low, after.low))
        self._high = np.maximum(self.limits.high, np.minimum(self._high, after.high))
        if np.count_nonzero(self._least):
            self._least = np.maximum(self._least, self._floor(after.distances))
