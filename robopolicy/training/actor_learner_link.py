"""The actor's end: a thread that sends what the spool holds and fetches the newest weights, while the actor goes on acting."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from policies.spec import InputError
from real.context import LinkContext
from real.keys import ClientKeys, handshake_failure
from real.wire import Message, WireError, checked_connect, configure, decode, receive, require_loopback, send
from robopolicy.training.actor_learner_spool import Spool
from robopolicy.training.actor_learner_wire import BEAT_S, SILENT_S, Arrays, Layout

_WINDOW = 256  # control steps on their way at once
_AGAIN_S = 1.0  # without progress: chunks on their way are sent anew
_POLL_MS = 20


@dataclass
class Heard:
    """What the learner last said, and what happened on the way.

    Attributes:
        version: Of the weights that the learner has.
        total: Environment steps in its replay.
        allowed: Environment steps that there may be.
        done: Whether the run is over.
        silences: Times that the learner went silent.
        refusal: Why the learner does not take this actor; empty if it does.
    """

    version: int = 0
    total: int = 0
    allowed: int = 0
    done: bool = False
    silences: int = 0
    refusal: str = ""


class Link:
    """Speaks with the learner.

    Args:
        address: Of the learner; loopback, or any with ``keys``.
        actor: Which actor this is.
        layout: What crosses.
        spool: What waits to be sent.
        keys: Folder or file of ``real.keys.ClientKeys``; None: none.
        say: Told, in one line, when the learner has gone silent or come back.

    Attributes:
        heard: What the learner said.

    Raises:
        InputError: for an address that needs keys, or keys that cannot be used.
    """

    def __init__(self, address: str, actor: int, layout: Layout, spool: Spool, keys: str | Path | None = None, say: Callable[[str], None] = print) -> None:
        self.address, self._actor, self._layout, self._spool, self._say = address, actor, layout, spool, say
        self._keys = None if keys is None else ClientKeys(keys)
        require_loopback(address, self._keys is not None)
        self._limits, self._process = layout.limits(), uuid.uuid4().hex
        self.heard, self._weights, self._have = Heard(), None, 0
        self._context, self._socket = LinkContext(), None
        self._session = self._taken = self._cursor = 0
        self._last = time.monotonic()
        self._silent, self._beat_at, self._moved_at, self._greet_at = False, 0.0, 0.0, 0.0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the learner is heard of."""
        return bool(self._session) and not self._silent

    def wait_for_welcome(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Return when the learner has taken this actor in, so that the next chunk has a number, or when ``stopped()``. Raises InputError."""
        while not self._session and not stopped():
            self.check()
            time.sleep(0.02)

    def put(self, arrays: Arrays, anew: bool, episodes: Sequence[float] = ()) -> None:
        """Write a chunk to the spool, from where it is sent; see :meth:`Spool.put`."""
        with self._lock:
            self._spool.put(arrays, anew, episodes)

    def forget(self) -> None:
        """Give up what waits: the run is over."""
        with self._lock:
            self._spool.forget(self._spool.next or 0)

    @property
    def waiting_steps(self) -> int:
        """Control steps that the learner has not kept yet."""
        with self._lock:
            return self._spool.steps

    def weights(self) -> tuple[int, Arrays] | None:
        """Return version and tensors that came since the last call, None if none did."""
        with self._lock:
            out, self._weights = self._weights, None
        return out

    def check(self) -> None:
        """Raise what the thread died of; InputError when the learner refuses this actor."""
        if self._failure is not None:
            raise self._failure
        if self.heard.refusal:
            raise InputError(f"learner {self.address}: {self.heard.refusal}")

    def close(self) -> None:
        """End the thread; what is in the spool stays there. May be called twice."""
        self._stopped.set()
        self._thread.join()
        self._context.destroy(linger=200 if self.heard.done else 0)  # ms, for the last sign of life

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._step(time.monotonic())
        except BaseException as error:  # told to the actor's own thread
            self._failure = error

    def _step(self, now: float) -> None:
        if not self._session and now >= self._greet_at:
            self._greet(now)
        assert self._socket is not None
        if self._socket.poll(_POLL_MS):
            while (frames := receive(self._socket, self._limits)) is not None:
                self._handle(frames)
        now = time.monotonic()
        if self._session:
            if now >= self._beat_at:
                self._beat(now)
            self._send_chunks(now)
        if now - self._last > SILENT_S and not self._silent:
            self._lose(now)

    def _greet(self, now: float) -> None:
        """Connect on a new socket, so that nothing old is on its way, and ask to be taken in."""
        if self._socket is not None:
            self._note_handshake()
            self._socket.disable_monitor()
            self._socket.close(linger=0)
        self._socket = self._context.socket(zmq.DEALER)
        configure(self._socket, self._limits)
        self._monitor = self._socket.get_monitor_socket()
        if self._keys is not None:
            self._keys.secure(self._socket)
        checked_connect(self._socket, self.address, self._keys is not None)
        self._greet_at = now + _AGAIN_S
        if self._socket.poll(200, zmq.POLLOUT):
            send(self._socket, Message("hello", fingerprint=self._layout.fingerprint, meta={"actor": self._actor, "process": self._process}))

    def _note_handshake(self) -> None:
        why = handshake_failure(self._monitor, self._keys)
        if why:
            self.heard.refusal = why

    def _lose(self, now: float) -> None:
        """Say that the learner is silent, once, and look for it again."""
        self._silent, self._session = True, 0
        self.heard.silences += 1
        room = max(0, self._spool.capacity - self._spool.steps)
        self._say(f"learner {self.address} is silent for {now - self._last:.1f} s: collecting goes on, there is room for {room} control steps")

    def _handle(self, frames: list[zmq.Frame]) -> None:
        try:
            message = decode(frames, self._limits)
            if message.kind == "refused":
                self._refused(message.value("text", str))
            elif message.kind == "welcome":
                self._welcome(message)
            elif message.session == self._session and message.kind == "weights":
                self._layout.require_weights(message.arrays)
                with self._lock:
                    self._weights = message.sequence, {name: array.copy() for name, array in message.arrays.items()}
                    self._have = message.sequence
                self._last = time.monotonic()
            elif message.session == self._session and message.kind == "state":
                self._note(message)
        except WireError as error:
            self._say(f"learner {self.address} sent something malformed: {error}")

    def _refused(self, text: str) -> None:
        if self._session:  # it has forgotten the session: it was started anew
            self._session, self._greet_at = 0, 0.0
        elif "is alive" not in text:  # a process before this one that was killed counts as alive for a moment
            self.heard.refusal = text

    def _welcome(self, message: Message) -> None:
        with self._lock:
            given_up = self._spool.belong(message.value("run", str), message.value("kept", int))
        if given_up:
            self._say(f"{given_up} control steps that waited for another run are given up")
        self._session = message.session
        self._cursor = message.value("taken", int)
        self._have = 0  # a learner that was started anew may have other weights under the same number
        self._note(message)
        if self._silent:
            self._silent = False
            self._say(f"learner {self.address} is back: {self._spool.steps} control steps wait for it")

    def _note(self, message: Message) -> None:
        """Take note of how far the learner is."""
        now = time.monotonic()
        taken, kept = message.value("taken", int), message.value("kept", int)
        if taken != self._taken:
            self._taken, self._moved_at = taken, now
            self._cursor = max(self._cursor, taken)
        heard = self.heard
        heard.version, heard.total, heard.allowed = (message.value(name, int) for name in ("version", "total", "allowed"))
        if message.value("done", bool) and not heard.done:
            heard.done, self._beat_at = True, now  # the learner waits to be told that it was heard
        with self._lock:
            self._spool.forget(kept)
        self._last = now

    def _beat(self, now: float) -> None:
        assert self._socket is not None
        self._beat_at = now + BEAT_S
        told = {"version": self._have, "wants": self.heard.version > self._have, "done": self.heard.done}
        send(self._socket, Message("beat", self._session, meta=told))

    def _send_chunks(self, now: float) -> None:
        """Send chunks in order, a few at once; what brought no progress is sent anew from where the learner is."""
        assert self._socket is not None
        if self._cursor > self._taken and now - self._moved_at > _AGAIN_S:
            self._cursor, self._moved_at = self._taken, now
        while self._cursor < self._taken + _WINDOW:
            with self._lock:
                chunk = self._spool.find(self._cursor)
                if chunk is None:
                    return
                message = self._spool.read(chunk[0])
            if self._cursor == self._taken:
                self._moved_at = now
            message.session = self._session
            if not send(self._socket, message):
                return
            self._cursor = chunk[1]
