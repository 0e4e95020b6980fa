"""The learner's end: a thread that takes chunks in and answers, whatever the learner is busy with.

The thread owns the socket. It hands chunks on in order, each once, and never raises for what arrives: whoever sends
something else than an actor of this run is answered with a refusal, counted, and costs nothing more.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from real.keys import ServerKeys
from real.router import bound_router
from real.wire import Message, WireError, decode, receive, send
from robopolicy.training.actor_learner_wire import SILENT_S, Arrays, Layout

_WAITING = 64  # chunks in memory that the learner has not looked at yet
_POLL_MS = 20
_TAKEN = 4096  # messages handled before the rest of the housekeeping


@dataclass(frozen=True)
class Chunk:
    """T control steps of one actor: the number of the first, whether its worlds began anew before it, arrays (T, *shape)."""

    actor: int
    first: int
    anew: bool
    arrays: Arrays
    episodes: list[tuple[float, float, float]]  # return, length and success of those that ended


@dataclass
class Counts:
    """What happened at the socket."""

    taken: int = 0  # control steps
    duplicates: int = 0  # chunks that had come before
    early: int = 0  # chunks that came before the one ahead of them, or found no room; they come again
    refused: int = 0  # greetings and messages of strangers
    malformed: int = 0
    silences: int = 0  # of actors
    returns: int = 0  # of actors that were silent, or were started anew


@dataclass
class _Actor:
    taken: int  # control steps
    kept: int
    session: int = 0
    identity: bytes = b""
    process: str = ""
    heard: float = 0.0
    silent: bool = False
    told: tuple[int, int, int, bool] = (0, 0, 0, False)  # the last answer's numbers
    done: bool = False  # whether it has heard that the run is over


@dataclass
class _Word:
    """What the learner last said; written by its thread, read by the hub's."""

    version: int = 0
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    total: int = 0
    allowed: int = 0
    done: bool = False


class Hub:
    """Speaks with the actors of a run.

    Args:
        bind: Loopback address, any with ``keys``; port 0 takes any free one.
        layout: What crosses.
        run: Name of the run; actors refuse to mix chunks of two.
        kept: How many control steps of each actor are on the disk.
        keys: Folder of ``real.keys.ServerKeys``; None: none.
        say: Told, in one line, which actor has gone silent or come back.

    Attributes:
        address: Where it is bound.
        counts: What happened.

    Raises:
        InputError: if it cannot be bound, or the keys cannot be used.
    """

    def __init__(self, bind: str, layout: Layout, run: str, kept: Sequence[int], keys: str | Path | None = None, say: Callable[[str], None] = print) -> None:
        self._layout, self._limits, self._run, self._say = layout, layout.limits(), run, say
        self._actors = [_Actor(number, number) for number in kept]
        self._inbox: queue.Queue[Chunk] = queue.Queue(_WAITING)
        self.counts, self._word, self._lock = Counts(), _Word(), threading.Lock()
        self._keys = None if keys is None else ServerKeys(keys, say)
        self._context, self._socket, self.address = bound_router(bind, self._limits, self._keys)
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="actors", daemon=True)
        self._thread.start()

    def take(self, wait_s: float = 0.0) -> Chunk | None:
        """Return the next chunk, waiting up to ``wait_s`` for it; None if there is none. Raises what the thread died of."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
        except queue.Empty:
            return None

    def keep(self, actor: int, kept: int) -> None:
        """Say that ``kept`` control steps of an actor are on the disk: it may forget them."""
        with self._lock:
            self._actors[actor].kept = kept

    def publish(self, version: int, weights: Mapping[str, np.ndarray]) -> None:
        """Give out ``weights`` (which nobody changes any more) from now on; versions count up."""
        with self._lock:
            self._word.version, self._word.weights = version, weights

    def allow(self, total: int, allowed: int, done: bool = False) -> None:
        """Say how many environment steps are in the replay, how many there may be, and whether the run is over."""
        with self._lock:
            self._word.total, self._word.allowed, self._word.done = total, allowed, done

    @property
    def present(self) -> list[int]:
        """The actors that are heard of."""
        with self._lock:
            return [i for i, actor in enumerate(self._actors) if actor.session and not actor.silent]

    def close(self, told_s: float = 0.0) -> None:
        """Release the address, after up to ``told_s`` in which actors that are heard of may learn that the run is over; may be called twice."""
        until = time.monotonic() + told_s
        while time.monotonic() < until and not self._all_know():
            time.sleep(0.02)
        self._stopped.set()
        self._thread.join()
        self._release()

    def _all_know(self) -> bool:
        """Whether all have said that they heard it: what was sent may be lost with this end of the connection."""
        with self._lock:
            return all(a.done for a in self._actors if a.session and not a.silent)

    def _release(self) -> None:
        if self._keys is not None:
            self._keys.close()
        self._context.destroy(linger=200)

    def _serve(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # told to the learner's own thread
            self._failure = error

    def _loop(self) -> None:
        while not self._stopped.is_set():
            if self._socket.poll(_POLL_MS):
                for _ in range(_TAKEN):
                    frames = receive(self._socket, self._limits)
                    if frames is None:
                        break
                    self._handle(frames[0].bytes, frames[1:])
            self._tell_news()
            self._listen(time.monotonic())

    def _handle(self, identity: bytes, frames: list[zmq.Frame]) -> None:
        """Handle one message; nothing is raised."""
        try:
            message = decode(frames, self._limits)
            if message.kind == "hello":
                reply = self._greet(identity, message)
            else:
                index = self._known(identity, message)
                reply = self._chunk(index, message) if message.kind == "steps" else self._beat(index, message)
        except _Refused as error:
            self.counts.refused += 1
            reply = Message("refused", meta={"text": str(error)})
        except (WireError, ValueError, TypeError) as error:
            self.counts.malformed += 1
            reply = Message("refused", meta={"text": " ".join(str(error).split())[:300]})
        if reply is not None:
            send(self._socket, reply, identity)

    def _greet(self, identity: bytes, message: Message) -> Message:
        """Open a session for an actor, and end the one that it had."""
        index, process = message.value("actor", int), message.value("process", str)
        if not 0 <= index < len(self._actors):
            raise _Refused(f"actor {index}: this learner has actors 0 to {len(self._actors) - 1}")
        if message.fingerprint != self._layout.fingerprint:
            raise _Refused(f"actor {index} has another recipe, task or policy (fingerprint {message.fingerprint or 'none'}, here {self._layout.fingerprint})")
        actor, now = self._actors[index], time.monotonic()
        if actor.session and actor.process != process and now - actor.heard < SILENT_S:
            raise _Refused(f"actor {index} is another process, which is alive; give this one another number")
        if actor.session and (actor.silent or actor.process != process):
            self.counts.returns += 1
            self._say(f"actor {index} is back" if actor.process == process else f"actor {index} was started anew")
        with self._lock:
            actor.session, actor.identity, actor.process = secrets.randbits(62) + 1, identity, process
            actor.heard, actor.silent, actor.done = now, False, False
            kept = actor.kept
        return Message("welcome", actor.session, meta={"run": self._run, "taken": actor.taken, "kept": kept, **self._said(actor)})

    def _known(self, identity: bytes, message: Message) -> int:
        """Return which actor sent ``message``. Raises _Refused for a stranger."""
        for index, actor in enumerate(self._actors):
            if actor.session and actor.session == message.session and actor.identity == identity:
                actor.heard = time.monotonic()
                if actor.silent:
                    actor.silent = False
                    self.counts.returns += 1
                    self._say(f"actor {index} is back")
                return index
        raise _Refused("greet")

    def _chunk(self, index: int, message: Message) -> Message:
        actor, first = self._actors[index], message.sequence
        stop = first + self._layout.require_chunk(message.arrays)
        known = actor.taken - first  # rows of it that a learner before this one has kept
        if stop <= actor.taken:
            self.counts.duplicates += 1
        elif known < 0:
            self.counts.early += 1
        else:
            # copies: the frames are the library's
            arrays = {name: array[known:].copy() for name, array in message.arrays.items()}
            try:
                self._inbox.put_nowait(Chunk(index, actor.taken, message.value("anew", bool) and not known, arrays, _episodes(message)))
                self.counts.taken += stop - actor.taken
                actor.taken = stop
            except queue.Full:
                self.counts.early += 1
        return self._state(actor)

    def _beat(self, index: int, message: Message) -> Message:
        if message.kind != "beat":
            raise WireError(f"kind {message.kind!r}: a learner answers hello, steps and beat")
        with self._lock:
            version, weights = self._word.version, self._word.weights
            self._actors[index].done = message.value("done", bool)
        if message.value("version", int) < version and message.value("wants", bool):
            return Message("weights", self._actors[index].session, sequence=version, arrays=dict(weights))
        return self._state(self._actors[index])

    def _said(self, actor: _Actor) -> dict[str, Any]:
        with self._lock:
            word = self._word
            actor.told = (actor.kept, word.version, word.allowed, word.done)
            return {"kept": actor.kept, "version": word.version, "total": word.total, "allowed": word.allowed, "done": word.done}

    def _state(self, actor: _Actor) -> Message:
        return Message("state", actor.session, meta={"taken": actor.taken, **self._said(actor)})

    def _tell_news(self) -> None:
        """Tell every actor what it does not know yet."""
        for actor in self._actors:
            with self._lock:
                news = (actor.kept, self._word.version, self._word.allowed, self._word.done) != actor.told
            if news and actor.session and not actor.silent:
                send(self._socket, self._state(actor), actor.identity)

    def _listen(self, now: float) -> None:
        """Say which actors have gone silent."""
        for index, actor in enumerate(self._actors):
            if actor.session and not actor.silent and now - actor.heard > SILENT_S:
                actor.silent = True
                self.counts.silences += 1
                self._say(f"actor {index} is silent for {now - actor.heard:.1f} s: learning goes on from what is there")


def _episodes(message: Message) -> list[tuple[float, float, float]]:
    """Return (return, length, success) of the episodes that a chunk reports. Raises WireError."""
    numbers = message.value("episodes", list)
    if len(numbers) % 3 or not all(isinstance(number, float) for number in numbers):
        raise WireError("chunk: episodes: expected three numbers each")
    return [(numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3)]


class _Refused(Exception):
    """A sender that is no actor of this run; the text says why."""
