"""The policy server: one policy behind a ROUTER socket, many robots, state per session; nothing a client sends can stop it.

A session holds the policy's state rows of one client: those after its last plan and those that this plan was made from,
for the client may never have got it. Every request names the plan that it goes on from.

Requests that wait are computed together (``real.batching``); one that is past its time budget when its turn comes is
dropped and counted. Mistakes of a client and exceptions of the policy are answered as error messages.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zmq

from policies.base import Policy, State, select_rows
from policies.spec import SpecMismatch
from real.batching import ROWS, Outcome, Queue, Request, compute, unpack
from real.keys import ServerKeys
from real.metrics import ServerStats
from real.policy import act_numpy, ranges_to_json, trained_ranges
from real.router import bound_router
from real.shm import SLOTS, Mapped, SharedMemoryRefused, file_bytes, slot_bytes, sweep
from real.wire import Limits, Message, WireError, decode, receive, send

_MAX_WAITING_BYTES = 1 << 30  # of observations
_ACTIVE_S = 1.0  # a session that was heard within this is waited for
_NEWER = 0.2  # weight of the last call in what a row costs
_SWEEP_S = 0.05  # between two looks for sessions that are silent


class Refusal(Exception):
    """A request that is understood and not granted; ``code`` tells the client why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class _Session:
    identity: bytes
    streams: int
    heard: float
    kept: dict[int, State] = field(default_factory=dict)  # sequence of a plan -> the policy's state after it
    sequence: int = 0
    memory: Mapped | None = None  # that its images may lie in
    failed: bool = False  # whether the policy failed at its last request
    resumed: int = 0  # the session that it goes on from


class PolicyServer:
    """Serves one policy.

    Args:
        policy: Learnt or numpy policy.
        bind: Loopback address, any with ``keys``; port 0 takes any free one. See :attr:`address` for the one bound.
        name: What the policy is called towards clients, e.g. the checkpoint's folder.
        idle_s: Sessions that are silent for longer are closed.
        max_sessions: Sessions open at once.
        max_streams: Streams of one session.
        batch_s: How long a request may wait for those of other sessions, s; 0: for none (those that wait anyway are computed together).
        max_batch: Rows of one policy call, at most (a single request may have more); 1: every request by itself.
        keys: Folder of ``real.keys.ServerKeys``; None: anybody who can reach the address is served.
        stats_s: Seconds between two lines of statistics; 0 for none.
        log: Where lines go.

    Raises:
        InputError: if ``bind`` is not loopback and there are no keys, if it cannot be bound, or the keys cannot be used.
    """

    def __init__(
        self, policy: Policy, bind: str, *, name: str = "policy", idle_s: float = 60.0, max_sessions: int = 256, max_streams: int = 64,
        batch_s: float = 0.002, max_batch: int = 64, keys: str | Path | None = None, stats_s: float = 10.0, log: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.policy, self.name, self.stats = policy, name, ServerStats()
        self._fingerprint = policy.spec.fingerprint()
        self._ranges = ranges_to_json(trained_ranges(policy))
        self._expected = {n: (np.dtype(f.dtype), f.shape) for n, f in policy.spec.observation.fields.items()}
        self._idle_s, self._max_sessions, self._max_streams = idle_s, max_sessions, max_streams
        self._batch_s, self._max_batch = batch_s, max_batch
        self._stats_s, self._stats_at, self._log = stats_s, time.monotonic() + stats_s, log
        self._sessions: dict[int, _Session] = {}
        self._queue, self._row_s = Queue(), 0.0  # s of a call a row, lately
        self._looked_at = self._swept_at = time.monotonic()
        self._limits = Limits.of_observations(policy.spec.observation, policy.n_obs_steps, max_streams)
        self._keys = None if keys is None else ServerKeys(keys, log)
        sweep()
        self._context, self._socket, self.address = bound_router(bind, self._limits, self._keys)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    def warm_up(self, calls: int = 3) -> float:
        """Plan for zeros a few times, so that the first request is not the slow one; returns the last call's seconds. Then it is ready."""
        obs = {name: np.zeros((1, self.policy.n_obs_steps, *shape), dtype) for name, (dtype, shape) in self._expected.items()}
        state, seconds = self.policy.initial_state(1), 0.0
        for call in range(calls):
            started = time.perf_counter()
            _, state = act_numpy(self.policy, obs, state, np.array([call], np.int64))
            seconds = time.perf_counter() - started
        self.stats.ready = True
        return seconds

    def serve(self, stopped: Callable[[], bool] = lambda: False, wait_s: float = 0.1) -> None:
        """Answer until ``stopped()``, looked at after every call and every ``wait_s``; then close."""
        try:
            while not stopped():
                self.step(wait_s)
        finally:
            self.close()

    def step(self, wait_s: float = 0.0) -> None:
        """Take in what has arrived (waiting up to ``wait_s`` for it), make one policy call, do the housekeeping."""
        self._take_in(self._looked_at)  # what came while the policy was busy may have come at the beginning of that
        if not self._queue and self._poller.poll(int(1e3 * wait_s)):
            self._take_in(time.monotonic(), waiting=True)
        self._gather()
        self._looked_at = time.monotonic()
        self._answer()
        self._keep_house(time.monotonic())

    def close(self) -> None:
        """Release the address; may be called twice."""
        self.stats.ready = False
        self._sessions.clear()
        if self._keys is not None:
            self._keys.close()
        self._context.destroy(linger=0)

    def _take_in(self, since: float, waiting: bool = False) -> None:
        """Handle waiting messages and queue requests; their budgets count from ``since``, the last moment without them."""
        for _ in range(2 * self._max_sessions):  # a flood of messages never keeps the policy from its work
            frames = receive(self._socket, self._limits, waiting)
            if frames is None:
                return
            waiting = False
            self._handle(frames[0].bytes, frames[1:], since)

    def _gather(self) -> None:
        """Wait a moment for the requests of other sessions, where that costs no one their budget."""
        while self._batch_s and self._max_batch > 1 and 0 < len(self._queue) < len(self._sessions):
            now = time.monotonic()
            if sum(now - session.heard < _ACTIVE_S for session in self._sessions.values()) <= len(self._queue):
                return
            wait_s = self._queue.wait_s(now, self._batch_s, self.stats.inference.recent_quantile(0.95))
            if not wait_s or not self._poller.poll(math.ceil(1e3 * wait_s)):
                return
            self._take_in(time.monotonic(), waiting=True)

    def _handle(self, identity: bytes, frames: list[zmq.Frame], since: float) -> None:
        """Handle one message: whatever it is, its sender gets an answer or is dropped, and nothing is raised."""
        message, reply = Message("?"), None
        try:
            message = decode(frames, self._limits)
            if message.kind == "act":
                self._enqueue(identity, message, since)
            elif message.kind == "hello":
                reply = self._open(identity, message)
            elif message.kind == "share":
                reply = self._share(self._session(identity, message), message)
            elif message.kind == "bye":
                if self._session(identity, message):
                    self._end(message.session)
            else:
                raise Refusal("kind", f"kind {message.kind!r}: a policy server answers hello, share, act and bye")
        except Refusal as error:
            self.stats.refused += 1
            reply = _error(message, error.code, str(error))
        except SharedMemoryRefused as error:
            self.stats.shared_refused += 1
            reply = _error(message, "shm", str(error))
        except (WireError, SpecMismatch) as error:
            self.stats.malformed += 1
            reply = _error(message, "spec" if isinstance(error, SpecMismatch) else "wire", str(error))
        except Exception as error:  # what nobody has thought of costs the sender, never the server
            self.stats.malformed += 1
            text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            self._log(f"message not handled: {text}")
            reply = _error(message, "wire", text)
        if reply is not None and not self._send(identity, reply) and reply.kind == "ready":
            self._end(reply.session)  # nobody knows of it

    def _open(self, identity: bytes, message: Message) -> Message:
        """Open a session for a greeting; a client that greets again gives up its session before.

        The new session goes on from the plans of the one that it names with ``resume`` (0: none), which only its client knows.
        """
        streams, resume = message.value("streams", int), message.value("resume", int)
        if not 1 <= streams <= self._max_streams:
            raise Refusal("streams", f"{streams} streams: expected 1 to {self._max_streams}")
        before = self._sessions.get(resume)  # it stays until it is idle: this greeting's answer may be lost, too
        if before is not None:
            before.memory = None
            if before.resumed in self._sessions:  # who names this one has got it, and needs none before
                self._end(before.resumed)
                before.resumed = 0
        for old in [s for s, row in self._sessions.items() if row.identity == identity]:
            self._end(old)
        if len(self._sessions) >= self._max_sessions:
            raise Refusal("full", f"{self._max_sessions} sessions are open, the most this server keeps")
        session = secrets.randbits(63) or 1
        kept = dict(before.kept) if before is not None and before.streams == streams else {}
        self._sessions[session] = _Session(identity, streams, time.monotonic(), kept, resumed=resume)
        self.stats.sessions_opened += 1
        self.stats.sessions_open = len(self._sessions)
        meta = {
            "policy_spec": json.dumps(self.policy.spec.to_dict()),
            **{key: getattr(self.policy, key) for key in ("n_obs_steps", "horizon", "n_action_steps")},
            "name": self.name,
            "ranges": self._ranges,
        }
        return Message("ready", session, message.sequence, fingerprint=self._fingerprint, meta=meta)

    def _end(self, session: int) -> None:
        self._queue.forget(session)
        del self._sessions[session]
        self.stats.sessions_open = len(self._sessions)

    def _session(self, identity: bytes, message: Message) -> _Session:
        """Return the session of a message. Raises Refusal when it is not this client's or the message is not new."""
        session = self._sessions.get(message.session)
        if session is None or session.identity != identity:
            raise Refusal("session", f"session {message.session} is not open here; greet again")
        if message.sequence <= session.sequence and message.kind != "bye":
            raise Refusal("sequence", f"sequence {message.sequence}: expected more than {session.sequence}")
        session.heard, session.sequence = time.monotonic(), message.sequence
        return session

    def _share(self, session: _Session, message: Message) -> Message:
        """Open the memory that a client shares; the answer proves that it is the same on this side."""
        sizes = [f.size * np.dtype(f.dtype).itemsize for f in self.policy.spec.observation.fields.values()]
        most = file_bytes(slot_bytes([session.streams * self.policy.n_obs_steps * size for size in sizes]), SLOTS)
        session.memory = None
        session.memory = Mapped(message.value("name", str), message.value("claim", str), most)
        return Message("shared", message.session, message.sequence, meta={"proof": session.memory.proof})

    def _enqueue(self, identity: bytes, message: Message, since: float) -> None:
        """Check a request for a plan and let it wait for its turn."""
        session = self._session(identity, message)
        if message.fingerprint != self._fingerprint:
            raise Refusal("spec", f"spec fingerprint: expected {self._fingerprint}, found {message.fingerprint or 'none'}")
        for name, placed in message.shared.items():
            if session.memory is None:
                raise SharedMemoryRefused("shared memory: there is none in this session")
            message.arrays[name] = session.memory.array(name, placed)
        memory = session.memory if message.shared else None
        self.stats.shared_arrays += len(message.shared)
        lead = (session.streams, self.policy.n_obs_steps)
        for name, (dtype, shape) in self._expected.items():
            found = message.arrays.get(name)
            if found is None or found.dtype != dtype or found.shape != lead + shape:
                self.policy.spec.observation.validate(message.arrays, lead)  # says what is wrong
        obs = {name: message.arrays[name] for name in self._expected}
        rows = unpack(message.arrays.get(ROWS), session.streams)
        request = Request(message.session, message.sequence, obs, rows, since, since + message.budget_s, session.failed, memory)
        if self._queue.bytes + request.bytes > _MAX_WAITING_BYTES:
            raise Refusal("full", f"{self._queue.bytes} bytes of observations wait already")
        self.stats.dropped_surplus += self._queue.add(request) is not None

    def _answer(self) -> None:
        """Make the next policy call and answer the requests that it was for."""
        requests, late = self._queue.take(time.monotonic(), self._max_batch, self._row_s)
        self.stats.dropped_late += late
        ready: list[Request] = []
        for request in requests:
            try:
                request.state = self._state(self._sessions[request.session], request.rows.after)
                ready.append(request)
            except Exception as error:  # of the policy, as below
                self._fail(request, error)
        outcomes = compute(self.policy, ready)
        self.stats.batches_split += len(outcomes) > 1 and outcomes[1].rows > 0
        for request, outcome in zip(ready, outcomes, strict=True):
            if outcome.rows:
                self.stats.called(outcome.seconds, outcome.rows, outcome.error is None)
                self._row_s += _NEWER * (outcome.seconds / outcome.rows - self._row_s)
            try:
                self._send(self._sessions[request.session].identity, self._plan(request, outcome))
            except Exception as error:  # whatever the policy raises is told to the client that asked; the others go on
                self._fail(request, error)
            else:
                self._keep(request, outcome)

    def _plan(self, request: Request, outcome: Outcome) -> Message:
        """Return the message that brings a plan. Raises what the policy raised."""
        plan = outcome.plan
        if plan is None:
            raise outcome.error or RuntimeError("no plan")
        arrays = {"actions": np.asarray(plan.actions, np.float32), "info": np.empty((len(plan.info) + 1, request.streams))}
        for row, values in enumerate(plan.info.values()):
            arrays["info"][row] = values
        arrays["info"][-1] = outcome.seconds
        if request.memory is not None:  # what the policy returns may view what it was given
            outcome.state, arrays = request.memory.own(outcome.state), request.memory.own(arrays)
        meta = {"info": [*plan.info, "inference_s"]}
        self.stats.plans += 1
        self.stats.answered.add(time.monotonic() - request.since)
        return Message("plan", request.session, request.sequence, fingerprint=self._fingerprint, meta=meta, arrays=arrays)

    def _keep(self, request: Request, outcome: Outcome) -> None:
        """Keep the state after a plan that is on its way, and those that it was made from."""
        session = self._sessions[request.session]
        session.kept = {sequence: kept for sequence, kept in session.kept.items() if sequence in request.rows.after}
        session.kept[request.sequence] = outcome.state
        session.failed = False

    def _fail(self, request: Request, error: Exception) -> None:
        """Say what the policy raised; the session's next request is computed by itself."""
        session, text = self._sessions[request.session], " ".join(f"{type(error).__name__}: {error}".split())[:500]
        session.failed = True
        self.stats.policy_errors += 1
        self._log(f"policy error: {text}")
        self._send(session.identity, _error(Message("act", request.session, request.sequence), "policy", text))

    def _state(self, session: _Session, after: list[int]) -> State:
        """Return the state that each stream had after the plan of sequence ``after`` (one each), fresh where that is 0 or not kept."""
        named = set(after)
        if len(named) == 1 and after[0] in session.kept:
            return session.kept[after[0]]
        state = self.policy.initial_state(session.streams)
        for sequence in named & session.kept.keys():
            state = select_rows(state, np.array(after) == sequence, session.kept[sequence])
        self.stats.forgotten += sum(sequence != 0 and sequence not in session.kept for sequence in after)
        return state

    def _keep_house(self, now: float) -> None:
        """Close sessions that have gone silent; say the counts from time to time."""
        if now - self._swept_at > _SWEEP_S:
            self._swept_at = now
            for session in [s for s, row in self._sessions.items() if now - row.heard > self._idle_s]:
                self._end(session)
                self.stats.sessions_closed_idle += 1
            self.stats.unknown_keys = self._keys.refused if self._keys is not None else 0
        if self._stats_s and now >= self._stats_at:
            self._stats_at = now + self._stats_s
            self._log(self.stats.line())

    def _send(self, identity: bytes, message: Message) -> bool:
        """Send, or drop the reply when the client has gone or does not read (its queue holds 2); returns whether it is on its way."""
        sent = send(self._socket, message, identity)
        self.stats.replies_unsent += not sent
        return sent


def _error(message: Message, code: str, text: str) -> Message:
    return Message("error", message.session, message.sequence, meta={"code": code, "text": text})
