"""The level above the policy in the control loop: a planner that names sub-goals in a thread of its own and is never waited for.

One request is in flight; an answer after its deadline is thrown away. The last sub-goal stands for as long as the planner
said when it was made; after that the policy gets no observation and the robot is held.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from policies.hierarchy import Planner, Subgoal, goal_field
from policies.spec import InputError, ObservationSpec, Spec
from real.robot import Observation


class PlannerLevel:
    """Names the sub-goal that stands, for the goal field of a policy's observations; what ``real.runtime`` takes as its planner.

    Args:
        planner: Asked at its own rate with the newest reading, in a thread.
        spec: Of the policy: one goal field takes what the planner names.
        deadline_s: Seconds from a request after which its answer is not used.
        clock: Monotonic seconds, for deadlines.
        lockstep_hz: Rate of a robot in lock-step: time is then counted in its ticks, and an answer is waited for; None: neither.

    Attributes:
        field: The goal field.
        reads: What a robot must show: the fields that the planner reads.
        counts: How many plans were ``asked`` for, and came ``answered``, ``late``, ``failed`` (raised, or no finite sub-goal
            of the field's shape) or ``empty`` (the planner had none).
        error: What went wrong last, one line.

    Raises:
        InputError: if the policy takes no such sub-goals.
    """

    def __init__(
        self, planner: Planner, spec: Spec, *, deadline_s: float = 1.0, clock: Callable[[], float] = time.monotonic, lockstep_hz: float | None = None
    ) -> None:
        if not (planner.rate_hz > 0 and deadline_s > 0):
            raise InputError(f"planner: expected a rate and a deadline above 0, found {planner.rate_hz:g} Hz and {deadline_s:g} s")
        self.planner, self.field = planner, goal_field(spec, planner.kind)
        self.reads: ObservationSpec = planner.reads
        self.deadline_s, self.counts, self.error = deadline_s, Counter[str](), ""
        self._goal, self._clock, self._every = spec.observation.fields[self.field], clock, 1.0 / planner.rate_hz
        self._lockstep_hz, self._episode = lockstep_hz, None
        self._wake = threading.Condition()
        self._job: tuple[int, dict[str, np.ndarray], Any, float] | None = None
        self._result: tuple[int, Any] | None = None
        self._busy, self._closing, self._ticket = False, False, 0
        self._asked: float | None = None  # on the clock: when the request in flight was made
        self.begin()
        self._thread = threading.Thread(target=self._work, name="planner", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Begin a new episode: no sub-goal stands, and an answer under way is not for it."""
        self._state, self._value, self._until, self._due = self.planner.initial_state(1), None, -np.inf, -np.inf
        self._forget()

    def update(self, reading: Observation, now: float) -> dict[str, np.ndarray] | None:
        """Return the goal field (*shape) with the sub-goal that stands; None when none does: then the policy is held.

        A new episode begins anew. Waits for nothing, except in lock-step.

        Args:
            reading: The newest one.
            now: Seconds on the runtime's clock.
        """
        if reading.episode != self._episode:
            self.begin()
            self._episode = reading.episode
        if self._lockstep_hz is None:
            return self.goal(reading.fields, now)
        return self.goal(reading.fields, reading.tick / self._lockstep_hz, self.deadline_s)

    def goal(self, fields: Mapping[str, np.ndarray], now: float, wait_s: float = 0.0) -> dict[str, np.ndarray] | None:
        """Take in an answer that has come, ask for the next sub-goal when it is time, and return the one that stands (*shape).

        Args:
            fields: name -> (*shape), one reading.
            now: Seconds of the robot's time at which it was made.
            wait_s: How long to wait for an answer that is asked for now; 0: not at all.
        """
        self._collect(0.0)
        if now >= self._due and self._ask(fields, now):
            self._due = now + self._every - 1e-9
            self._collect(wait_s)
        return None if self._value is None or now >= self._until else {self.field: self._value}

    def close(self) -> None:
        """End the thread; a planner that hangs is left behind (it dies with the process)."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(1.0)

    def _ask(self, fields: Mapping[str, np.ndarray], now: float) -> bool:
        """Hand the newest reading to the thread; False while it is busy, or when a field is missing or not finite."""
        try:
            self.reads.validate(fields)
        except InputError as error:
            self.error = str(error)
            return False
        read = {name: np.array(fields[name])[None] for name in self.reads.fields}
        if not all(np.isfinite(array).all() for array in read.values()):
            self.error = "a reading for the planner is not finite"
            return False
        with self._wake:
            if self._busy or self._job is not None:
                return False
            self._ticket += 1
            self._job, self._asked = (self._ticket, read, self._state, now), self._clock()
            self._wake.notify_all()
        self.counts["asked"] += 1
        return True

    def _collect(self, wait_s: float) -> None:
        """Take in the answer to the request in flight; once its deadline has passed it is counted as late."""
        if self._asked is None:
            return
        with self._wake:
            until = min(self._clock() + wait_s, self._asked + self.deadline_s)
            while not self._mine() and self._clock() < until:
                self._wake.wait(max(until - self._clock(), 0.0))
            answer = self._result[1] if self._mine() and self._result is not None else None
        if answer is not None and self._clock() < self._asked + self.deadline_s:
            self._asked = None
            self._take(answer)
        elif self._clock() >= self._asked + self.deadline_s:
            self.counts["late"] += 1
            self.error = f"the planner did not answer within {self.deadline_s:g} s"
            self._forget()

    def _take(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            self.counts["failed"] += 1
            self.error = f"{type(answer).__name__}: {answer}"
            return
        try:
            subgoal, state = answer
            why = self._wrong(subgoal)
        except (TypeError, ValueError) as error:
            self.counts["failed"] += 1
            self.error = f"the planner named no sub-goal: {type(error).__name__}: {error}"
            return
        if why:
            self.counts["failed"] += 1
            self.error = why
            return
        self._state = state
        if not float(subgoal.valid_s[0]) > 0:
            self.counts["empty"] += 1
            return
        self.counts["answered"] += 1
        self._value = np.asarray(subgoal.value[0]).astype(self._goal.dtype)
        self._until = float(subgoal.issued[0]) + float(subgoal.valid_s[0])

    def _wrong(self, subgoal: Subgoal) -> str:
        """Return why a sub-goal cannot be used; empty: it can."""
        if not isinstance(subgoal, Subgoal) or subgoal.kind != self.planner.kind:
            return f"the planner named no sub-goal of kind {self.planner.kind!r}"
        if np.shape(subgoal.value) != (1, *self._goal.shape) or np.shape(subgoal.issued) != (1,) or np.shape(subgoal.valid_s) != (1,):
            return f"sub-goal: expected shape {(1, *self._goal.shape)}, found {np.shape(subgoal.value)}"
        numbers = (subgoal.value, subgoal.issued, subgoal.valid_s)
        return "" if all(np.isfinite(np.asarray(part, np.float64)).all() for part in numbers) else "a sub-goal is not finite"

    def _mine(self) -> bool:
        return self._result is not None and self._result[0] == self._ticket

    def _forget(self) -> None:
        with self._wake:
            self._ticket += 1
            self._job, self._asked = None, None

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._job is None and not self._closing:
                    self._wake.wait()
                if self._closing or self._job is None:
                    return
                (ticket, read, state, now), self._job, self._busy = self._job, None, True
            answer: Any
            try:
                answer = self.planner.plan(read, state, np.array([now]))
            except Exception as error:  # whatever a planner raises becomes a missing sub-goal, never the end of the control loop
                answer = error
            with self._wake:
                self._result, self._busy = (ticket, answer), False
                self._wake.notify_all()
