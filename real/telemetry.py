"""Telemetry: what the control loop tells the black box and the operator page, at a cost it can bound, never waiting for either.

A reader joins at a ZeroMQ ROUTER and says so again every half second. Every reader has a queue and an image budget of
its own: a page that hangs costs the recorder nothing and the loop never more than the queue. What does not fit is
dropped and counted, and the count travels with the next message; readers also see the gap in their sequence numbers.

Kinds: ``info`` (what the run is made of, also sent to whoever joins), ``tick``, ``observation`` (its vectors), ``image``
(one camera), ``event`` (an intervention, a change of state).

Names that the operator page understands, all optional. In ``info``: ``robot``, ``joints`` (names), ``model`` (MJCF or
URDF text), ``rate_hz``, ``limits`` (MotionLimits.to_dict()). In ``tick``: ``state``, ``cause``, ``speed``, arrays
``measured`` and ``command``, every number whose name ends in ``_ms`` (latencies), and ``counts`` (name -> number).
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from real.context import LinkContext
from real.router import bound_router
from real.telemetry_wire import COUNTS, Record, decode, encode, opened
from real.wire import Limits, WireError, checked_connect, receive

_FROM_READERS = Limits(frames=0, frame_bytes=4096, header_bytes=4096)
_TO_READERS = Limits(frames=1, frame_bytes=64 << 20, header_bytes=16 << 20)
_READERS = 8  # at most
_SILENT_NS = 5_000_000_000  # a reader that has not said so for that long has gone
_JOIN_NS = 500_000_000


@dataclass
class _Reader:
    """One reader: what it wants, what was dropped for it, and the images that are still on their way."""

    image_ns: float  # between two images of a camera; infinity: none
    heard_ns: int
    sequence: int = 0
    dropped: int = 0
    last_image: dict[str, int] = field(default_factory=dict)
    on_the_way: deque[tuple[int, Any]] = field(default_factory=deque)
    bytes: int = 0

    def room(self, size: int, budget: int) -> bool:
        """Whether an image of ``size`` bytes stays within the budget; forgets the images that have left."""
        while self.on_the_way and self.on_the_way[0][1].done:
            self.bytes -= self.on_the_way.popleft()[0]
        return self.bytes + size <= budget

    def sent(self, size: int, tracker: Any) -> None:
        """Note an image that is on its way."""
        self.on_the_way.append((size, tracker))
        self.bytes += size

    def wants(self, camera: str, now: int) -> bool:
        """Whether the next image of ``camera`` is due for this reader; it then counts as given."""
        due = now - self.last_image.get(camera, -(1 << 62)) >= 0.999 * self.image_ns
        if due:
            self.last_image[camera] = now
        return due


class Telemetry:
    """The publishing end. What is called in a tick neither waits nor raises; all of it belongs to one thread.

    Args:
        bind: Loopback address, ``tcp://127.0.0.1:PORT`` (port 0: any free one) or ``ipc://PATH``.
        image_rate_hz: At most so many images a second and camera are published; None: all that are given.
        queue: Messages kept for a slow reader.
        image_bytes: Bytes of images kept for a slow reader.
        clock_ns: Monotonic nanoseconds.

    Attributes:
        address: Where readers join.
        run: Random number of this run; a reader that sees another one knows of the restart.
        dropped: Messages that a reader's full queue or image budget cost, over all readers.
        refused: Messages that could not be encoded, and malformed ones from readers.

    Raises:
        InputError: for an address that is not loopback or cannot be bound.
    """

    def __init__(
        self, bind: str = "tcp://127.0.0.1:0", *, image_rate_hz: float | None = None, queue: int = 500, image_bytes: int = 32 << 20,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self.run = secrets.randbits(62)
        self.dropped = self.refused = 0
        self._clock_ns, self._image_bytes = clock_ns, image_bytes
        self._image_ns = 1e9 / image_rate_hz if image_rate_hz else 0.0
        self._last_image: dict[str, int] = {}
        self._readers: dict[bytes, _Reader] = {}
        self._info: dict[str, Any] = {}
        self._context, self._socket, self.address = bound_router(bind, _FROM_READERS, options={zmq.SNDHWM: queue, zmq.RCVHWM: 64})

    @property
    def readers(self) -> int:
        """How many readers have joined and been heard lately."""
        return len(self._readers)

    def info(self, **values: Any) -> None:
        """Say what the run is made of (values as in a tick); given to present readers and to those that join later."""
        self._info.update(values)
        try:
            encode("info", 0, 0, self._info)
        except (TypeError, ValueError, OverflowError, RecursionError):
            self.refused += 1
            self._info = {k: v for k, v in self._info.items() if k not in values}
        self._listen()
        self._publish("info", self._about())

    def tick(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Publish one control tick: numbers, texts, arrays (*shape), lists and mappings of them, by name."""
        if self._listen():
            self._publish("tick", {**(values or {}), **more} if more else values or {})

    def observation(self, fields: Mapping[str, np.ndarray], capture_ns: Mapping[str, int] | None = None) -> None:
        """Publish one reading: vectors (*shape) in one message, every image (H, W, 3) uint8 in one of its own.

        Large images are not copied: they must not be overwritten before they are sent (a driver gives new arrays).
        """
        if not self._listen():
            return
        stamps = capture_ns or {}
        images = {name: value for name, value in fields.items() if np.ndim(value) == 3 and getattr(value, "dtype", None) == np.uint8}
        vectors = {name: value for name, value in fields.items() if name not in images}
        if vectors:
            self._publish("observation", {**vectors, "capture_ns": {name: int(stamps[name]) for name in vectors if name in stamps}})
        now = self._clock_ns()
        for name, image in images.items():
            if now - self._last_image.get(name, -(1 << 62)) >= 0.999 * self._image_ns:
                self._last_image[name] = now
                self._publish("image", {"name": name, "capture_ns": int(stamps.get(name, now))}, image)

    def event(self, kind: str, cause: str, before: Any = None, after: Any = None, **values: Any) -> None:
        """Publish one intervention or change of state.

        Args:
            kind: What happened, e.g. ``clamp``, ``brake``, ``hold``, ``state``.
            cause: Why, in a few words.
            before: What it was to be: a value, or an array (*shape).
            after: What it became, likewise.
            **values: More about it.
        """
        told = {"before": before, "after": after}
        if self._listen():
            self._publish("event", {"event": kind, "cause": cause, **{k: v for k, v in told.items() if v is not None}, **values})

    def await_reader(self, timeout_s: float) -> bool:
        """Wait, before a run, until somebody reads; returns whether somebody does. The one method that waits."""
        until = time.monotonic() + timeout_s
        while not self._listen():
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        return True

    def close(self) -> None:
        """Let the queues drain for a moment (0.2 s at most) and close."""
        self._socket.close(linger=200)
        self._context.term()

    def _publish(self, kind: str, values: Mapping[str, Any], image: np.ndarray | None = None) -> None:
        """Send to every reader that wants it; an image goes only to those whose rate it is within."""
        now = self._clock_ns()
        try:
            body = encode(kind, self.run, now, values if image is None else {**values, "shape": list(image.shape)})
            data = None if image is None else np.ascontiguousarray(image).reshape(-1).data
        except (TypeError, ValueError, OverflowError, RecursionError):
            self.refused += 1
            return
        for identity, reader in list(self._readers.items()):
            if data is None or reader.wants(str(values["name"]), now):
                self._send(identity, reader, body, data)

    def _send(self, identity: bytes, reader: _Reader, body: bytes, image: memoryview | None = None) -> None:
        reader.sequence += 1
        frames: list[Any] = [identity, COUNTS.pack(reader.sequence, reader.dropped) + body]
        try:
            if image is None:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
                return
            if reader.room(image.nbytes, self._image_bytes):
                tracker = self._socket.send_multipart([*frames, image], zmq.NOBLOCK, copy=False, track=True)
                reader.sent(image.nbytes, tracker)
                return
        except zmq.ZMQError as error:
            if error.errno != zmq.EAGAIN:
                del self._readers[identity]  # gone; it will join again if it is still there
        reader.dropped += 1
        self.dropped += 1

    def _listen(self) -> bool:
        """Take in who joins or goes; returns whether anybody reads."""
        for _ in range(4):
            try:
                frames = receive(self._socket, _FROM_READERS)
            except zmq.ZMQError:
                self.refused += 1
                break
            if frames is None:
                break
            self._hear(frames[0].bytes, frames[1:])
        now = self._clock_ns()
        for identity in [i for i, r in self._readers.items() if now - r.heard_ns > _SILENT_NS]:
            del self._readers[identity]
        return bool(self._readers)

    def _hear(self, identity: bytes, frames: list[zmq.Frame]) -> None:
        try:
            kind, _, _, values = decode(frames[0].buffer if len(frames) == 1 else b"", ("join", "leave"))
            rate = values.get("image_rate_hz")
            if not isinstance(rate, float):
                raise WireError("no rate")
        except WireError:
            self.refused += 1
            return
        if kind == "leave":
            self._readers.pop(identity, None)
        elif identity in self._readers or len(self._readers) < _READERS:
            reader = self._readers.setdefault(identity, _Reader(0, 0))
            reader.image_ns, reader.heard_ns = 1e9 / rate if rate > 0 else math.inf, self._clock_ns()
            if not reader.sequence:
                self._send(identity, reader, encode("info", self.run, self._clock_ns(), self._about()))

    def _about(self) -> dict[str, Any]:
        return {**self._info, "clock_offset_ns": time.time_ns() - self._clock_ns()}


class Subscription:
    """The reading end.

    Args:
        address: Of the telemetry.
        image_rate_hz: Images a second and camera; None: all, 0: none.
        limits: Of one message.

    Attributes:
        malformed: Messages that were none.
        lost: Messages meant for this reader that did not come.
        run: The run heard last; 0 before the first message.

    Raises:
        InputError: for an address that is not loopback.
    """

    def __init__(self, address: str, *, image_rate_hz: float | None = None, limits: Limits = _TO_READERS) -> None:
        self.malformed = self.lost = self.run = 0
        self._limits, self._sequence, self._joined_ns = limits, 0, 0
        self._rate = 1e9 if image_rate_hz is None else float(image_rate_hz)
        self._context = LinkContext()
        self._socket = self._context.socket(zmq.DEALER)
        # The publisher keeps the long queue: here nothing piles up while the disk or the browser is slow.
        for option, value in ((zmq.RCVHWM, 32), (zmq.SNDHWM, 2), (zmq.LINGER, 100), (zmq.IMMEDIATE, 1), (zmq.RECONNECT_IVL, 50), (zmq.RECONNECT_IVL_MAX, 500)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.MAXMSGSIZE, limits.frame_bytes)
        try:
            checked_connect(self._socket, address)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def poll(self, timeout_s: float = 0.0) -> Record | None:
        """Return the next message, or None if none comes within ``timeout_s``. Call it often: it also says that this reader lives."""
        until = time.monotonic() + timeout_s
        while True:
            self._join()
            left = until - time.monotonic()
            self._socket.poll(int(1e3 * max(min(left, 0.1), 0.0)))
            frames = receive(self._socket, self._limits)
            record = None if frames is None else self._decoded(frames)
            if record is not None or (frames is None and left <= 0):
                return record

    def close(self) -> None:
        """Leave."""
        if self._socket.closed:
            return
        self._say("leave")
        self._context.destroy(linger=100)

    def _join(self) -> None:
        now = time.monotonic_ns()
        if now - self._joined_ns >= _JOIN_NS and self._say("join"):
            self._joined_ns = now

    def _say(self, kind: str) -> bool:
        try:
            self._socket.send_multipart([encode(kind, 0, 0, {"image_rate_hz": self._rate})], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _decoded(self, frames: list[zmq.Frame]) -> Record | None:
        try:
            record = opened([frame.buffer for frame in frames], self._limits)
        except WireError:
            self.malformed += 1
            return None
        if record.run == self.run and record.sequence > self._sequence:
            self.lost += record.sequence - self._sequence - 1
        self.run, self._sequence = record.run, record.sequence
        return record
