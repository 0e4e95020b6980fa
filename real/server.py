"""The policy server: one policy behind a ROUTER socket, state per session, nothing a client sends can stop it.

A session holds the policy's state rows of one client: those after its last plan and those that this plan was made from,
for the client may never have got it. Every request names the plan that it goes on from.

Requests are answered in order of arrival; one that is past its time budget when its turn comes is dropped and counted,
for its client has stopped waiting. Mistakes of a client and exceptions of the policy are answered as error messages.
There is no pickle and no message that ends the server.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from policies.base import Execution, Policy, State, select_rows
from policies.spec import InputError, SpecMismatch
from real.latency import Latency
from real.policy import act_numpy
from real.wire import Limits, Message, WireError, checked_bind, configure, decode, receive, send


class Refusal(Exception):
    """A request that is understood and not granted; ``code`` tells the client why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class ServerStats:
    """What a server has counted since its start."""

    sessions_opened: int = 0
    sessions_closed_idle: int = 0
    plans: int = 0
    forgotten: int = 0  # streams begun anew because the plan they go on from is not kept, e.g. after this server's restart
    dropped_late: int = 0
    refused: int = 0
    malformed: int = 0
    policy_errors: int = 0
    replies_unsent: int = 0
    inference: Latency = field(default_factory=Latency)

    def line(self, open_sessions: int) -> str:
        """Return the counts as one line."""
        ms = self.inference
        return (
            f"sessions {open_sessions} open, {self.sessions_opened} in all; plans {self.plans}, "
            f"{1e3 * ms.quantile(0.5):.1f} ms p50, {1e3 * ms.quantile(0.99):.1f} ms p99; dropped {self.dropped_late}, "
            f"refused {self.refused}, malformed {self.malformed}, policy errors {self.policy_errors}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, the latency as ``Latency.to_dict``."""
        counts = {key: value for key, value in vars(self).items() if isinstance(value, int)}
        return {**counts, "inference_ms": self.inference.to_dict()}


@dataclass
class _Session:
    identity: bytes
    streams: int
    heard: float
    kept: dict[int, State] = field(default_factory=dict)  # sequence of a plan -> the policy's state after it
    sequence: int = 0


class PolicyServer:
    """Serves one policy.

    Args:
        policy: Learnt or numpy policy.
        bind: Loopback address; port 0 takes any free one. See :attr:`address` for the one bound.
        name: What the policy is called towards clients, e.g. the checkpoint's folder.
        idle_s: Sessions that are silent for longer are closed.
        max_sessions: Sessions open at once.
        max_streams: Streams of one session.
        stats_s: Seconds between two lines of statistics; 0 for none.
        log: Where lines go.

    Raises:
        InputError: if ``bind`` is not loopback or cannot be bound.
    """

    def __init__(
        self, policy: Policy, bind: str, *, name: str = "policy", idle_s: float = 60.0, max_sessions: int = 256, max_streams: int = 64,
        stats_s: float = 10.0, log: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.policy, self.name, self.stats = policy, name, ServerStats()
        self._fingerprint = policy.spec.fingerprint()
        self._idle_s, self._max_sessions, self._max_streams = idle_s, max_sessions, max_streams
        self._stats_s, self._stats_at, self._log = stats_s, time.monotonic() + stats_s, log
        self._sessions: dict[int, _Session] = {}
        self._queue: list[tuple[bytes, Message, float]] = []
        self._looked_at = time.monotonic()
        self._limits = Limits.of_observations(policy.spec.observation, policy.n_obs_steps, max_streams)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure(self._socket, self._limits)
        try:
            self.address = checked_bind(self._socket, bind)
        except InputError:
            self._context.destroy(linger=0)
            raise

    def warm_up(self, calls: int = 3) -> float:
        """Plan for zeros a few times, so that the first request is not the slow one; returns the last call's seconds."""
        spec = self.policy.spec.observation
        obs = {n: np.zeros((1, self.policy.n_obs_steps, *f.shape), f.dtype) for n, f in spec.fields.items()}
        state, seconds = self.policy.initial_state(1), 0.0
        for call in range(calls):
            started = time.perf_counter()
            _, state = act_numpy(self.policy, obs, state, np.array([call], np.int64))
            seconds = time.perf_counter() - started
        return seconds

    def serve(self, stopped: Callable[[], bool] = lambda: False, wait_s: float = 0.1) -> None:
        """Answer until ``stopped()``, looked at after every message and every ``wait_s``; then close."""
        try:
            while not stopped():
                self.step(wait_s)
        finally:
            self.close()

    def step(self, wait_s: float = 0.0) -> None:
        """Take in what has arrived (waiting up to ``wait_s`` for it), answer one request, do the housekeeping."""
        self._take_in(self._looked_at)  # what came while the policy was busy may have come at the beginning of that
        if not self._queue and self._socket.poll(int(1e3 * wait_s)):
            self._take_in(time.monotonic())
        self._looked_at = time.monotonic()
        if self._queue:
            self._answer(*self._queue.pop(0))
        now = time.monotonic()
        for session in [s for s, row in self._sessions.items() if now - row.heard > self._idle_s]:
            del self._sessions[session]
            self.stats.sessions_closed_idle += 1
        if self._stats_s and now >= self._stats_at:
            self._stats_at = now + self._stats_s
            self._log(self.stats.line(len(self._sessions)))

    def close(self) -> None:
        """Release the address; may be called twice."""
        self._sessions.clear()
        self._context.destroy(linger=0)

    def _take_in(self, since: float) -> None:
        """Move waiting messages to a bounded queue; their budgets count from ``since``, the last moment without them."""
        while len(self._queue) < 2 * self._max_sessions:
            frames = receive(self._socket, self._limits)
            if frames is None:
                return
            identity = frames[0].bytes
            try:
                message = decode(frames[1:], self._limits)
            except WireError as error:
                self.stats.malformed += 1
                self._refuse(identity, Message("?"), "wire", str(error))
                continue
            self._queue.append((identity, message, since))

    def _answer(self, identity: bytes, message: Message, received: float) -> None:
        try:
            if message.kind == "hello":
                reply = self._open(identity, message)
            elif message.kind == "bye":
                if self._session(identity, message):
                    del self._sessions[message.session]
                return
            elif message.kind == "act":
                session = self._session(identity, message)
                if time.monotonic() - received > message.budget_s:
                    self.stats.dropped_late += 1
                    return
                reply = self._plan(session, message)
            else:
                raise Refusal("kind", f"kind {message.kind!r}: a policy server answers hello, act and bye")
        except Refusal as error:
            self.stats.refused += 1
            self._refuse(identity, message, error.code, str(error))
        except (WireError, SpecMismatch) as error:
            self.stats.malformed += 1
            self._refuse(identity, message, "spec" if isinstance(error, SpecMismatch) else "wire", str(error))
        except Exception as error:  # whatever the policy raises is told to the client; the other sessions go on
            self.stats.policy_errors += 1
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._log(f"policy error: {text[:500]}")
            self._refuse(identity, message, "policy", text[:500])
        else:
            self._send(identity, reply)

    def _open(self, identity: bytes, message: Message) -> Message:
        """Open a session for a greeting; a client that greets again gives up its session before.

        The new session goes on from the plans of the one that it names with ``resume`` (0: none), which only its client knows.
        """
        streams, resume = message.value("streams", int), message.value("resume", int)
        if not 1 <= streams <= self._max_streams:
            raise Refusal("streams", f"{streams} streams: expected 1 to {self._max_streams}")
        before = self._sessions.get(resume)  # it stays until it is idle: this greeting's answer may be lost, too
        for old in [s for s, row in self._sessions.items() if row.identity == identity]:
            del self._sessions[old]
        if len(self._sessions) >= self._max_sessions:
            raise Refusal("full", f"{self._max_sessions} sessions are open, the most this server keeps")
        session = secrets.randbits(63) or 1
        kept = dict(before.kept) if before is not None and before.streams == streams else {}
        self._sessions[session] = _Session(identity, streams, time.monotonic(), kept)
        self.stats.sessions_opened += 1
        meta = {
            "policy_spec": json.dumps(self.policy.spec.to_dict()),
            "n_obs_steps": self.policy.n_obs_steps,
            "horizon": self.policy.horizon,
            "n_action_steps": self.policy.n_action_steps,
            "name": self.name,
        }
        return Message("ready", session, message.sequence, fingerprint=self._fingerprint, meta=meta)

    def _session(self, identity: bytes, message: Message) -> _Session:
        """Return the session of a message. Raises Refusal when it is not this client's or the message is not new."""
        session = self._sessions.get(message.session)
        if session is None or session.identity != identity:
            raise Refusal("session", f"session {message.session} is not open here; greet again")
        if message.sequence <= session.sequence and message.kind != "bye":
            raise Refusal("sequence", f"sequence {message.sequence}: expected more than {session.sequence}")
        session.heard, session.sequence = time.monotonic(), message.sequence
        return session

    def _plan(self, session: _Session, message: Message) -> Message:
        """Run the policy for one request."""
        if message.fingerprint != self._fingerprint:
            raise Refusal("spec", f"spec fingerprint: expected {self._fingerprint}, found {message.fingerprint or 'none'}")
        rows, policy = session.streams, self.policy
        policy.spec.observation.validate(message.arrays, (rows, policy.n_obs_steps))
        obs = {name: message.arrays[name] for name in policy.spec.observation.fields}
        restart = np.array(_row_numbers(message, "restart", bool, rows), bool)
        timing = ("delay", "frozen") if message.meta.get("elapsed", 0) is None else ("delay", "frozen", "elapsed")
        after, noise, *when = (np.array(_row_numbers(message, key, int, rows), np.int64) for key in ("after", "noise", *timing))
        execution = Execution(*when)
        started = time.perf_counter()
        state = self._state(session, np.where(restart, 0, after))
        plan, new = act_numpy(policy, obs, state, noise, execution)
        session.kept = {sequence: kept for sequence, kept in session.kept.items() if sequence in after} | {message.sequence: new}
        seconds = time.perf_counter() - started
        self.stats.inference.add(seconds)
        self.stats.plans += 1
        info = np.array([*plan.info.values(), np.full(rows, seconds)], np.float64)  # one frame for all numbers
        arrays = {"actions": np.asarray(plan.actions, np.float32), "info": info}
        meta = {"info": [*plan.info, "inference_s"]}
        return Message("plan", message.session, message.sequence, fingerprint=self._fingerprint, meta=meta, arrays=arrays)

    def _state(self, session: _Session, after: np.ndarray) -> State:
        """Return the state that each stream had after the plan of sequence ``after`` (B,), fresh where that is 0 or not kept."""
        if len(named := set(after.tolist())) == 1 and (only := named.pop()) in session.kept:
            return session.kept[only]
        state = self.policy.initial_state(session.streams)
        for sequence, kept in session.kept.items():
            state = select_rows(state, after == sequence, kept)
        self.stats.forgotten += int((~np.isin(after, [0, *session.kept])).sum())
        return state

    def _refuse(self, identity: bytes, message: Message, code: str, text: str) -> None:
        self._send(identity, Message("error", message.session, message.sequence, meta={"code": code, "text": text}))

    def _send(self, identity: bytes, message: Message) -> None:
        """Send, or drop the reply when the client has gone or does not read (its queue holds 2)."""
        self.stats.replies_unsent += not send(self._socket, message, identity)


def _row_numbers(message: Message, name: str, kind: type, rows: int) -> list[Any]:
    """Return ``meta[name]`` if it is a list of ``rows`` numbers of type ``kind``. Raises WireError."""
    values = message.meta.get(name)
    if not isinstance(values, list) or len(values) != rows or not all(type(v) is kind for v in values):
        raise WireError(f"{name!r}: expected a list of {rows} {kind.__name__}")
    return values
