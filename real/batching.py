"""Requests of many robots in one policy call: who is served next, with whom, and which rows are whose.

Sessions are served in turn: at most one request of each in a call, at most two waiting (the older one makes room). A
request waits for others only as long as all that wait can still be computed within their budgets. Rows of a policy know
nothing of each other, so a plan does not depend on who shared the call; where a call fails, its requests are computed
one by one, so that only those fail that fail alone.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policies.base import Array, Execution, Plan, Policy, State
from real.policy import act_numpy
from real.wire import WireError

if TYPE_CHECKING:
    from real.shm import Mapped

#: The array of a request that holds what it asks of each stream, see :func:`pack`.
ROWS = "#rows"
_WAITING = 2  # requests of one session


class Rows(NamedTuple):
    """What a request asks of its B streams.

    Attributes:
        after: Sequence of the plan that each stream goes on from; 0: it begins anew.
        noise: (B,) int64, row keys.
        execution: Its numbers are (B,) int64.
    """

    after: list[int]
    noise: np.ndarray
    execution: Execution


def pack(state: State, noise: np.ndarray, execution: Execution) -> np.ndarray:
    """Return a client's state, row keys (B,) and execution as int64 (6, B), or (5, B) without ``elapsed``; see :func:`unpack`."""
    known = [state["restart"], state["after"], noise, execution.delay, execution.frozen]
    rows = np.empty((5 if execution.elapsed is None else 6, len(state["restart"])), np.int64)
    for i, values in enumerate(known if execution.elapsed is None else [*known, execution.elapsed]):
        rows[i] = values
    return rows


def unpack(rows: np.ndarray | None, streams: int) -> Rows:
    """Undo :func:`pack`: int64 (5 or 6, B). Raises WireError for what it would not have made for B = ``streams``."""
    if rows is None or rows.dtype != np.int64 or rows.shape not in ((5, streams), (6, streams)):
        found = "none" if rows is None else f"{rows.dtype}{list(rows.shape)}"
        raise WireError(f"array {ROWS!r}: expected int64[5 or 6, {streams}], found {found}")
    restart, after, _, *when = rows.tolist()  # a few numbers: Python is quicker at them
    if min(restart) < 0 or max(restart) > 1 or min(after) < 0 or min(map(min, when)) < 0:
        raise WireError(f"array {ROWS!r}: expected restart of 0 or 1, and after, delay, frozen and elapsed of at least 0")
    return Rows([0 if anew else sequence for anew, sequence in zip(restart, after, strict=True)], rows[2], Execution(*rows[3:]))


@dataclass
class Request:
    """One request that waits for its plan.

    Attributes:
        session: Whose it is.
        sequence: Its number.
        obs: Field -> (B, To, *shape).
        rows: See :class:`Rows`.
        since: When it was there at the earliest, monotonic s.
        deadline: When its client stops waiting, at the earliest.
        alone: Whether it is computed in a call of its own, as its session's last one failed.
        memory: What some of ``obs`` lie in.
        state: The policy's state that it goes on from; set before it is computed.
        streams: B.
        bytes: Of its observations.
    """

    session: int
    sequence: int
    obs: Mapping[str, np.ndarray]
    rows: Rows
    since: float
    deadline: float
    alone: bool = False
    memory: Mapped | None = None
    state: State = field(default_factory=dict)
    streams: int = field(init=False)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.streams = len(self.rows.after)
        self.bytes = sum([array.nbytes for array in self.obs.values()])

    def fits(self, other: Request) -> bool:
        """Whether both can be rows of one call."""
        return not (self.alone or other.alone) and (self.rows.execution.elapsed is None) == (other.rows.execution.elapsed is None)


class Queue:
    """Requests that wait, by session; the session that was served longest ago comes first."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Request]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """Return how many sessions wait."""
        return len(self._waiting)

    def add(self, request: Request) -> Request | None:
        """Take ``request`` in and return the older one of its session that had to make room, if any."""
        waiting = self._waiting.setdefault(request.session, deque())
        gone = self._removed(waiting.popleft()) if len(waiting) == _WAITING else None
        waiting.append(request)
        self.bytes += request.bytes
        return gone

    def forget(self, session: int) -> None:
        """Let the requests of a session go that has ended."""
        for request in self._waiting.pop(session, ()):
            self._removed(request)

    def wait_s(self, now: float, window_s: float, call_s: float) -> float:
        """Return how long what waits may wait for others, s: to the end of the oldest one's window, and for half of what any can spare.

        Args:
            now: Monotonic s.
            window_s: How long a request may wait for others.
            call_s: How long a call takes.
        """
        every = [request for waiting in self._waiting.values() for request in waiting]
        if not every or any(request.alone for request in every):
            return 0.0
        return max(min(r.since + min(window_s, (r.deadline - call_s - r.since) / 2) for r in every) - now, 0.0)

    def take(self, now: float, max_rows: int, row_s: float = 0.0) -> tuple[list[Request], int]:
        """Return the requests of the next call, and how many were past their budget and have been dropped.

        Args:
            now: Monotonic s.
            max_rows: Of the call; a request that has more is computed by itself.
            row_s: What a row costs: nobody joins a call that would then last beyond the budget of one in it.
        """
        late = 0
        for session, waiting in list(self._waiting.items()):
            while waiting and now > waiting[0].deadline:
                self._removed(waiting.popleft())
                late += 1
            if not waiting:
                del self._waiting[session]
        batch: list[Request] = []
        rows, deadline = 0, math.inf
        for waiting in self._waiting.values():
            one = waiting[0]
            most, end = rows + one.streams, min(deadline, one.deadline)
            if not batch or (one.fits(batch[0]) and most <= max_rows and now + most * row_s <= end):
                batch.append(one)
                rows, deadline = most, end
        for request in batch:
            waiting = self._waiting.pop(request.session)
            self._removed(waiting.popleft())
            if waiting:
                self._waiting[request.session] = waiting  # behind all others
        return batch, late

    def _removed(self, request: Request) -> Request:
        self.bytes -= request.bytes
        return request


@dataclass
class Outcome:
    """What became of a request.

    Attributes:
        plan, state: The plan and the next state; None and nothing where the policy failed.
        error: What it raised.
        seconds: Duration of the call.
        rows: Of the call, at its first request; 0 at the others.
    """

    plan: Plan | None
    state: State
    error: Exception | None
    seconds: float
    rows: int


def compute(policy: Policy, requests: Sequence[Request]) -> list[Outcome]:
    """Compute ``requests`` in one call, or one by one if that fails; nothing is raised."""
    if not requests:
        return []
    if len(requests) > 1:
        started = time.perf_counter()
        try:
            plans, states = _together(policy, requests)
        except Exception:  # the one by one calls will say whose fault it is
            return [outcome for request in requests for outcome in compute(policy, [request])]
        seconds, rows = time.perf_counter() - started, [sum(r.streams for r in requests)] + [0] * (len(requests) - 1)
        return [Outcome(plan, state, None, seconds, n) for plan, state, n in zip(plans, states, rows, strict=True)]
    request, started = requests[0], time.perf_counter()
    try:
        plan, state = act_numpy(policy, request.obs, request.state, request.rows.noise, request.rows.execution)
    except Exception as error:  # whatever a policy raises is told to the client that asked
        return [Outcome(None, {}, error, time.perf_counter() - started, request.streams)]
    return [Outcome(plan, state, None, time.perf_counter() - started, request.streams)]


def _together(policy: Policy, requests: Sequence[Request]) -> tuple[list[Plan], list[State]]:
    """Return plan and state of each request from one call. Raises whatever the policy raises, ValueError for missing rows."""
    obs = {name: np.concatenate([r.obs[name] for r in requests]) for name in requests[0].obs}
    state = {name: _joined([r.state[name] for r in requests]) for name in requests[0].state}
    executions = [r.rows.execution for r in requests]
    timing = [[e.delay for e in executions], [e.frozen for e in executions]]
    if executions[0].elapsed is not None:
        timing.append([e.elapsed for e in executions])
    noise = np.concatenate([r.rows.noise for r in requests])
    plan, new = act_numpy(policy, obs, state, noise, Execution(*map(np.concatenate, timing)))
    ends = np.cumsum([r.streams for r in requests]).tolist()
    for name, array in (("actions", plan.actions), *plan.info.items(), *new.items()):
        if tuple(np.shape(array)[:1]) != (ends[-1],):
            raise ValueError(f"{name}: expected {ends[-1]} rows, found shape {tuple(np.shape(array))}")
    cuts = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    plans = [Plan(plan.actions[cut], {name: values[cut] for name, values in plan.info.items()}) for cut in cuts]
    return plans, [{name: _copied(array[cut]) for name, array in new.items()} for cut in cuts]


def _joined(arrays: Sequence[Array]) -> Array:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch

    return torch.cat(list(arrays))


def _copied(array: Array) -> Array:
    """Return the rows as an array of their own: a view of a kept state would keep the states of the whole call."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()
