"""A policy behind a server: the same policy protocol over numpy, without torch.

One request is in flight. Its deadline is judged here, on this process's monotonic clock; a reply that is late, out of
order or from another session is counted and never returned. After any failure the session is given up and a new one
is asked for on a new socket, so that nothing old can arrive. It takes over the state of the streams, and every request
names the plan that it goes on from, the last one returned here: one whose reply was lost has never been executed.

Images cross in shared memory where the server can open it (``real.shm``), else in the messages.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq

from policies.base import Execution, Plan, State
from policies.spec import InputError, Spec, SpecMismatch
from real.batching import ROWS, pack
from real.context import LinkContext
from real.keys import ClientKeys, handshake_failure
from real.policy import Observations, Ranges, RequestFailed, ranges_from_json
from real.wire import Limits, Message, WireError, checked_connect, configure, decode, is_loopback, receive, send

if TYPE_CHECKING:
    from real.shm import Segment

_GREETING = Limits()
_RETRY_S, _RETRY_MAX_S = 0.25, 2.0  # wait for an answer to a greeting, doubled up to the second


@dataclass
class _Pending:
    sequence: int
    deadline: float
    streams: int


class PolicyClient:
    """Client of ``real.server.PolicyServer``; implements ``policies.base.Policy`` and ``real.policy.AsyncPolicy``.

    Args:
        address: ZeroMQ address of the server, e.g. ``tcp://127.0.0.1:5555``.
        streams: B, number of streams (robots) that this client plans for.
        timeout_s: Deadline of the blocking :meth:`act`.
        connect_s: How long to wait for the server at first.
        clock: Monotonic seconds.
        keys: Folder or secret key of ``real.keys.ClientKeys``; a server that is not on loopback is spoken to with keys alone.
        shared_memory: Whether images may cross in shared memory, where the server is on this host.

    Attributes:
        spec, n_obs_steps, horizon, n_action_steps: of the served policy.
        name: what the server calls its policy.
        ranges: where its training data lay, as the server says; None: it does not know.
        sessions: sessions opened so far.
        late_replies: replies that came too late, out of order or from another session; none was returned.
        malformed_replies: messages that were none.
        shared, sent: requests whose images crossed in shared memory, and all others.

    Raises:
        InputError: if ``address`` is not one, the keys cannot be used, or no server answers within ``connect_s``.
    """

    spec: Spec
    n_obs_steps: int
    horizon: int
    n_action_steps: int
    name: str
    ranges: Ranges | None

    def __init__(
        self, address: str, *, streams: int = 1, timeout_s: float = 5.0, connect_s: float = 5.0, clock: Callable[[], float] = time.monotonic,
        keys: str | Path | None = None, shared_memory: bool = True,
    ) -> None:  # fmt: skip
        self.address, self.streams, self.timeout_s = address, streams, timeout_s
        self.sessions = self.late_replies = self.malformed_replies = self.shared = self.sent = 0
        self._keys = None if keys is None else ClientKeys(keys)
        self._memory: Segment | None = None  # offered to the server of this session
        self._share = shared_memory and is_loopback(address)
        self._clock = clock
        self._context = LinkContext()
        self._socket: zmq.Socket | None = None
        self._monitor: zmq.Socket | None = None
        self._poller = zmq.Poller()
        self._session = self._sequence = self._greeting = 0
        self._given_up = 0  # the session before, whose state of the streams the next one takes over
        self._retry_at, self._retry_s = -math.inf, _RETRY_S
        self._pending: _Pending | None = None
        self._served: tuple[str, list[int]] | None = None
        self._fingerprint = self._refusal = ""
        self._limits = _GREETING
        try:
            self._connect(connect_s)
        except BaseException:
            self.close()
            raise

    def _connect(self, connect_s: float) -> None:
        until = self._clock() + connect_s
        while not self.connected:
            self.poll(0.05)
            if self._clock() > until and not self.connected:
                why = self._refusal or f"no answer within {connect_s:g} s; start one with: robopolicy serve CHECKPOINT --bind {self.address}"
                raise InputError(f"policy server {self.address}: {why}")

    @property
    def connected(self) -> bool:
        """Whether there is a session with the server."""
        return self._session != 0

    @property
    def in_flight(self) -> bool:
        """Whether a request waits for its plan."""
        return self._pending is not None

    @property
    def session(self) -> int:
        """Id of the present session, 0 without one."""
        return self._session

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams: which the server shall begin anew, and which plan the others go on from."""
        return {"restart": np.ones(batch, bool), "after": np.zeros(batch, np.int64)}

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Return ``state`` with the masked streams begun anew at the next call."""
        return state | {"restart": state["restart"] | np.asarray(mask, bool)}

    def act(self, obs: Observations, state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan and wait for it, at most ``timeout_s``. ``noise``: row keys (B,), or an unused ``policies.noise.Noise``.

        Raises:
            RequestFailed: late, gone, refused or error.
        """
        keys = np.asarray(getattr(noise, "keys", noise), np.int64)
        until = self._clock() + self.timeout_s
        while not self.connected and self._clock() < until:
            self.poll(0.02)
        self.request(obs, state, keys, execution, budget_s=max(until - self._clock(), 0.0))
        while True:
            answer = self.poll(self.timeout_s)
            if answer is not None:
                return answer

    def request(
        self, obs: Observations, state: State, noise: np.ndarray, execution: Execution = Execution(), *,
        budget_s: float, ages_s: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Ask for a plan within ``budget_s`` seconds; see ``real.policy.AsyncPolicy.request``.

        Raises:
            RequestFailed: ``gone``, when there is no session or the connection takes nothing.
        """
        if self._pending is not None:
            raise RuntimeError("one request is in flight already")
        if not self.connected or self._socket is None:
            raise RequestFailed("gone", f"no session with {self.address}")
        self._sequence += 1
        deadline = self._clock() + budget_s
        rows = len(state["restart"])
        arrays = {name: np.asarray(obs[name]) for name in self.spec.observation.fields}
        ages = {name: max(float(age), 0.0) for name, age in (ages_s or {}).items() if name in arrays}
        arrays[ROWS] = pack(state, noise, execution)
        message = Message("act", self._session, self._sequence, max(budget_s, 0.0), ages, self._fingerprint, arrays=arrays)
        if self._memory is not None:
            message.shared = self._memory.lend({name: arrays[name] for name in self._images}, self._sequence)
            for name in message.shared:
                del arrays[name]
        self.shared, self.sent = self.shared + bool(message.shared), self.sent + (not message.shared)
        if not send(self._socket, message):
            self._lose()
            raise RequestFailed("gone", f"the connection to {self.address} takes no message")
        self._pending = _Pending(self._sequence, deadline, rows)

    def poll(self, wait_s: float = 0.0) -> tuple[Plan, State] | None:
        """Return plan and state once they are there, else None after ``wait_s``; also keeps asking for a session.

        Raises:
            RequestFailed: once, when the request in flight has failed or its deadline has passed.
            SpecMismatch: when the server came back with another policy.
        """
        until, waiting = self._clock() + wait_s, False
        while True:
            answer = self._read(waiting)
            if answer is not None:
                return answer
            now = self._clock()
            if self._pending is not None and now >= self._pending.deadline:
                self._lose()
                raise RequestFailed("late", f"no reply from {self.address} before the deadline")
            if not self._session:
                self._greet(now)
            if now >= until or self._socket is None:
                return None
            next_event = min(until, self._pending.deadline if self._pending else math.inf, math.inf if self._session else self._retry_at)
            if self._session or self._greeting:
                waiting = bool(self._poller.poll(math.ceil(1e3 * max(next_event - now, 0))))
            else:
                self._socket.poll(math.ceil(1e3 * max(next_event - now, 0)), zmq.POLLIN | zmq.POLLOUT)

    def abandon(self) -> None:
        """Forget the request in flight; its reply is counted as late and never returned."""
        self._pending = None

    def close(self) -> None:
        """End the session and release the socket; may be called twice."""
        if self._socket is not None:
            if self.connected:
                send(self._socket, Message("bye", self._session))
            self._close_socket(linger_ms=100)
            self._session = 0
        self._forget_memory()
        self._context.destroy(linger=100)

    def _lose(self) -> None:
        """Give the session up: the next poll asks for a new one on a new socket."""
        self._given_up, self._pending, self._session = self._session or self._given_up, None, 0
        self._retry_at = -math.inf
        self._forget_memory()  # the server may still read it; the next session has memory of its own

    def _greet(self, now: float) -> None:
        """Ask for a session as soon as there is a connection, and anew on another socket when no answer comes."""
        if now >= self._retry_at:
            self._note_handshake()
            self._close_socket(linger_ms=0)
            self._socket = self._context.socket(zmq.DEALER)
            configure(self._socket, Limits(frame_bytes=max(self._limits.frame_bytes, _GREETING.frame_bytes)))
            self._monitor = self._socket.get_monitor_socket()
            self._poller.register(self._socket, zmq.POLLIN)
            if self._keys is not None:
                self._keys.secure(self._socket)
            checked_connect(self._socket, self.address, self._keys is not None)
            self._greeting = 0
            self._retry_at, self._retry_s = now + self._retry_s, min(2 * self._retry_s, _RETRY_MAX_S)
        if self._socket is not None and not self._greeting and self._socket.poll(0, zmq.POLLOUT):
            self._sequence += 1
            if send(self._socket, Message("hello", sequence=self._sequence, meta={"streams": self.streams, "resume": self._given_up})):
                self._greeting = self._sequence

    def _close_socket(self, linger_ms: int) -> None:
        if self._socket is not None:
            self._poller.unregister(self._socket)
            self._socket.disable_monitor()
            self._socket.close(linger=linger_ms)
            self._socket = self._monitor = None

    def _note_handshake(self) -> None:
        """Note why the server does not let this client in, if that is so."""
        if self._monitor is not None:
            self._refusal = handshake_failure(self._monitor, self._keys) or self._refusal

    def _read(self, waiting: bool = False) -> tuple[Plan, State] | None:
        """Handle what has arrived, up to the plan that is waited for."""
        while self._socket is not None:
            frames = receive(self._socket, self._limits, waiting)
            if frames is None:
                return None
            waiting = False
            try:
                message = decode(frames, self._limits)
                if self._memory is not None and message.session == self._session and self._memory.heard(message):
                    continue
                if message.kind == "ready" and not self.connected and message.sequence == self._greeting > 0:
                    self._welcome(message)
                    continue
                mine = self._pending is not None and message.sequence == self._pending.sequence and message.session == self._session
                if mine and self._pending is not None and self._clock() < self._pending.deadline:
                    return self._answer(message)
                if message.kind == "error" and not self.connected and message.sequence == self._greeting > 0:
                    self._refusal = message.value("text", str)
                else:
                    self.late_replies += 1
            except WireError as error:
                self.malformed_replies += 1
                if self._pending is not None:
                    self._lose()
                    raise RequestFailed("error", f"{self.address} sent a malformed message: {error}") from error
                if not self.connected:  # whoever waits for a greeting is told what came in its place
                    self._refusal = f"it sent a malformed message: {error}"
        return None

    def _welcome(self, message: Message) -> None:
        """Accept a new session, if it is with the same policy as before."""
        try:
            spec = Spec.from_dict(json.loads(message.value("policy_spec", str)))
            self.ranges = ranges_from_json(message.value("ranges", str), spec)
        except (InputError, ValueError, TypeError, KeyError) as error:
            raise WireError(f"ready message without a spec: {error}") from error
        steps = [message.value(key, int) for key in ("n_obs_steps", "horizon", "n_action_steps")]
        if message.session == 0 or not all(1 <= n <= 4096 for n in steps):
            raise WireError(f"ready message with session {message.session} and steps {steps}")
        served = (spec.fingerprint(), steps)
        if self._served is not None and served != self._served:
            raise SpecMismatch(
                f"policy server {self.address} came back with another policy: expected spec {self._served[0]} with steps "
                f"{self._served[1]}, found {served[0]} with {steps}; start the run again"
            )
        self.spec, (self.n_obs_steps, self.horizon, self.n_action_steps) = spec, steps
        self.name, self._fingerprint, self._served = message.value("name", str), served[0], served
        self._limits = Limits.of_actions(spec.action, max(self.horizon, self.n_action_steps), self.streams)
        self._session, self._given_up, self._retry_s, self._refusal = message.session, 0, _RETRY_S, ""
        self.sessions += 1
        self._images, self._chunk = self.spec.observation.image_names, (self.n_action_steps, spec.action.dim)
        if self._share and self._images:
            self._offer_memory()

    def _offer_memory(self) -> None:
        """Ask the server to open memory for the images; until it has, and where it cannot, they cross in the messages."""
        from real.shm import segment_for

        self._forget_memory()
        self._memory = segment_for(self.spec.observation, self.streams * self.n_obs_steps)
        if self._memory is not None and self._socket is not None:
            self._sequence += 1
            self._memory.offered = self._sequence
            send(self._socket, Message("share", self._session, self._sequence, meta=self._memory.offer))

    def _forget_memory(self) -> None:
        if self._memory is not None:
            self._memory.unlink()
        self._memory = None

    def _answer(self, message: Message) -> tuple[Plan, State]:
        """Return the plan of a reply to the present request. Raises RequestFailed if the server would or could not."""
        if message.kind == "plan":
            return self._plan(message)
        code, text = message.value("code", str), message.value("text", str)
        self._lose()
        raise RequestFailed("error" if code == "policy" else "refused", f"{self.address}: {' '.join(text.split())}")

    def _plan(self, message: Message) -> tuple[Plan, State]:
        """Check the reply's form (not its values: that is the runtime's) and end the request."""
        assert self._pending is not None
        rows, sequence = self._pending.streams, self._pending.sequence
        actions, numbers, names = message.arrays.get("actions"), message.arrays.get("info"), message.meta.get("info")
        expected = (rows, *self._chunk)
        if actions is None or actions.shape != expected or actions.dtype != np.float32:
            self._lose()
            found = "none" if actions is None else f"{actions.dtype}{list(actions.shape)}"
            raise RequestFailed("error", f"plan from {self.address}: expected actions float32{list(expected)}, found {found}")
        if not isinstance(names, list) or numbers is None or numbers.shape != (len(names), rows):
            raise WireError(f"numbers about the plan: expected one row a name, {rows} columns")
        self._pending = None  # not before all of it has been checked: what is malformed fails this request
        return Plan(actions, {str(name): row for name, row in zip(names, numbers, strict=True)}), {
            "restart": np.zeros(rows, bool),
            "after": np.full(rows, sequence),
        }
