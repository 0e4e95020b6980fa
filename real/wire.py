"""The wire: ZeroMQ multipart messages, a small msgpack header and then raw array frames, never copied on the way.

Frame 0 is a msgpack list: protocol version, kind, session, sequence, remaining time budget, capture ages, spec
fingerprint, a few scalars, and name, dtype, shape and place of every array. The place is null for the next frame (the
bytes of the array, C order, little endian), the bytes themselves for a small array, or an offset into memory that both
ends share (``real.shm``). Monotonic clocks mean nothing on another machine, so times cross as ages and remaining budgets.

Whatever arrives is hostile until it is decoded: every malformed message is a :class:`WireError` of one line, and
nothing is allocated for a length that a message only claims. There is no pickle and no object dtype.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgpack
import numpy as np
import zmq

from policies.spec import ActionSpec, ObservationSpec
from real.addresses import checked_bind as checked_bind  # an end of the wire is made with these
from real.addresses import checked_connect as checked_connect
from real.addresses import is_loopback as is_loopback
from real.addresses import require_loopback as require_loopback

PROTOCOL = 3
#: Array dtypes that may cross; the numpy name without byte order.
DTYPES = ("float32", "float64", "uint8", "int64", "bool")
#: Arrays of at most so many bytes lie in the header: a frame of their own costs more than the copy.
SMALL = 4096
_TYPES = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}
DTYPE_NAMES = {np.dtype(name): name for name in DTYPES}  # asking a dtype for its name takes longer than all else about an array
_HEADER = ("version", "kind", "session", "seq", "budget", "ages", "spec", "meta", "arrays")
_MAX_DIMS = 8
_MAX_NAME = 128
_MAX_LIST = 4096
_INT64 = 1 << 63
_POLLIN, _MORE = int(zmq.POLLIN), int(zmq.NOBLOCK | zmq.SNDMORE)
_COPIED = 1 << 16  # bytes: to hand over a buffer without a copy takes a message to another thread
_SCALARS = (str, int, float, bool, type(None))

T = TypeVar("T")


class WireError(ValueError):
    """A message that is not one of ours; the text is one line."""


@dataclass(frozen=True)
class Limits:
    """What a message may hold at most: number of array frames, bytes in each, bytes of the header."""

    frames: int = 64
    frame_bytes: int = 1 << 20
    header_bytes: int = 1 << 20

    @classmethod
    def of_observations(cls, spec: ObservationSpec, n_obs_steps: int = 1, streams: int = 1) -> Limits:
        """Return the limits of messages that carry (streams, n_obs_steps, *shape) of every field."""
        sizes = [f.size * np.dtype(f.dtype).itemsize * n_obs_steps * streams for f in spec.fields.values()]
        return cls(frames=len(sizes) + 8, frame_bytes=max([4096, 64 * streams, *sizes]))

    @classmethod
    def of_actions(cls, spec: ActionSpec, n_action_steps: int = 1, streams: int = 1) -> Limits:
        """Return the limits of messages that carry (streams, n_action_steps, Da) float32 and numbers about them."""
        return cls(frames=64, frame_bytes=max(4096, 64 * streams, spec.dim * 4 * n_action_steps * streams))


class Placed(NamedTuple):
    """Where an array lies in shared memory; ``offset`` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass
class Message:
    """One message, decoded.

    Attributes:
        kind: What it asks or answers.
        session: Random 64-bit number (positive int64) that the server gave; 0 before there is one.
        sequence: Counts up per sender; an answer carries the number of its request.
        budget_s: Seconds that remained for an answer when this was sent.
        ages_s: Field -> seconds between its capture and the sending of this message.
        fingerprint: Fingerprint of the spec that the sender works with.
        meta: Scalars, or lists of scalars, by name.
        arrays: Arrays by name; after decoding they view the received frames.
        shared: Arrays by name that lie in shared memory; whether they do is not known before the session is.
    """

    kind: str
    session: int = 0
    sequence: int = 0
    budget_s: float = 0.0
    ages_s: dict[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    shared: dict[str, Placed] = field(default_factory=dict)

    def value(self, name: str, kind: type[T]) -> T:
        """Return the scalar ``name`` of ``meta``. Raises WireError if it is absent or not a ``kind``."""
        found = self.meta.get(name)
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            return float(found)  # type: ignore[return-value]
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise WireError(f"{self.kind} message: {name!r}: expected {kind.__name__}, found {_shown(found)}")
        return found


def _shown(value: Any) -> str:
    text = repr(value)
    return " ".join((text if len(text) < 60 else text[:57] + "...").split())


def encode(message: Message) -> list[Any]:
    """Return the frames of ``message``; array frames are views, so arrays must not change until they are sent.

    Raises:
        TypeError: for a dtype that may not cross.
    """
    frames: list[Any] = [b""]
    arrays: list[Any] = [[name, *placed] for name, placed in message.shared.items()]
    for name, value in message.arrays.items():
        value = np.asarray(value)
        array = np.ascontiguousarray(value)  # which is no scalar any more
        dtype = DTYPE_NAMES.get(array.dtype)
        if dtype is None:
            raise TypeError(f"array {name!r}: dtype {array.dtype} does not cross the wire; one of {', '.join(DTYPES)} does")
        if sys.byteorder == "big":
            array = array.astype(_TYPES[dtype])
        if array.nbytes <= SMALL:
            arrays.append((name, dtype, value.shape, array.tobytes()))
        else:
            arrays.append((name, dtype, value.shape, None))
            frames.append(array.reshape(-1).view(np.uint8).data)
    ages = {name: float(age) for name, age in message.ages_s.items()}
    header = (PROTOCOL, message.kind, message.session, message.sequence, float(message.budget_s), ages, message.fingerprint, message.meta, arrays)
    frames[0] = msgpack.packb(header, use_bin_type=True)
    return frames


def decode(frames: Sequence[Any], limits: Limits) -> Message:
    """Build a message from received frames (bytes, or ``zmq.Frame`` to view them without a copy).

    Raises:
        WireError: for anything that :func:`encode` would not have made, or that is beyond ``limits``.
    """
    if not frames:
        raise WireError("message without a header")
    if len(frames) - 1 > limits.frames:
        raise WireError(f"message of {len(frames) - 1} or more arrays: at most {limits.frames} are allowed")
    _, *fields, described = _header(_buffer(frames[0]), limits)
    message, taken = Message(*fields), 1
    for item in described:
        name, dtype, shape, place, size = _described(item, limits)
        if name in message.arrays or name in message.shared:
            raise WireError(f"array {_shown(name)} appears twice")
        if type(place) is int:
            message.shared[name] = Placed(dtype, tuple(shape), place)
            continue
        if place is None:
            if taken == len(frames):
                raise WireError(f"header describes more arrays than the message has frames, {len(frames) - 1}")
            place, taken = _buffer(frames[taken]), taken + 1
        message.arrays[name] = _array(name, dtype, shape, place, size)
    if taken != len(frames):
        raise WireError(f"header describes {taken - 1} arrays in frames, the message has {len(frames) - 1}")
    return message


def _buffer(frame: Any) -> memoryview:
    return frame.buffer if isinstance(frame, zmq.Frame) else memoryview(frame)


def _header(data: memoryview, limits: Limits) -> list[Any]:
    """Return the header with every value checked and converted."""
    if len(data) > limits.header_bytes:
        raise WireError(f"header of {len(data)} bytes: at most {limits.header_bytes} are allowed")
    try:
        header = msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0, max_bin_len=SMALL)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"header is not msgpack: {type(error).__name__}: {_shown(str(error))}") from None
    version = header[0] if isinstance(header, list) and header else header.get("v") if isinstance(header, dict) else None
    if type(version) is not int or version != PROTOCOL:
        raise WireError(f"protocol version: expected {PROTOCOL}, found {_shown(version)}")
    if not isinstance(header, list) or len(header) != len(_HEADER):
        raise WireError(f"header: expected {len(_HEADER)} values: {', '.join(_HEADER)}")
    _, kind, session, sequence, budget, ages, fingerprint, meta, arrays = header
    if type(kind) is not str or len(kind) > _MAX_NAME:
        raise WireError(f"header: 'kind': expected a short text, found {_shown(kind)}")
    if type(fingerprint) is not str or len(fingerprint) > _MAX_NAME:
        raise WireError(f"header: 'spec': expected a short text, found {_shown(fingerprint)}")
    if type(session) is not int or not 0 <= session < _INT64:
        raise WireError(f"header: 'session': expected an integer in [0, 2^63), found {_shown(session)}")
    if type(sequence) is not int or not 0 <= sequence < _INT64:
        raise WireError(f"header: 'seq': expected an integer in [0, 2^63), found {_shown(sequence)}")
    header[4] = _seconds("budget", budget)
    if ages != {}:
        for name, age in _mapping("ages", ages).items():
            ages[name] = _seconds("age of " + name, age)
    if meta != {}:
        for name, value in _mapping("meta", meta).items():
            _check_meta(name, value)
    if not isinstance(arrays, list) or len(arrays) > limits.frames:
        raise WireError(f"header: 'arrays': expected a list of at most {limits.frames}, found {_shown(arrays)}")
    return header


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 256 or not all(isinstance(k, str) and len(k) <= _MAX_NAME for k in value):
        raise WireError(f"header: {key!r}: expected a small map with short names, found {_shown(value)}")
    return value


def _seconds(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise WireError(f"header: {_shown(key)}: expected seconds, finite and not negative, found {_shown(value)}")
    return float(value)


def _check_meta(name: str, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    if len(values) > _MAX_LIST:
        raise WireError(f"header: {name!r}: list of {len(values)}, at most {_MAX_LIST} are allowed")
    for item in values:
        if not isinstance(item, _SCALARS) or (isinstance(item, float) and not math.isfinite(item)):
            raise WireError(f"header: {name!r}: expected finite numbers or texts, found {_shown(item)}")
        if isinstance(item, int) and not -_INT64 <= item < _INT64:
            raise WireError(f"header: {name!r}: integer beyond 64 bits")


def _described(item: Any, limits: Limits) -> tuple[str, str, list[int], Any, int]:
    """Return name, dtype, shape, place and size in bytes of one array, each checked by itself."""
    if not isinstance(item, list) or len(item) != 4:
        raise WireError(f"array: expected [name, dtype, shape, place], found {_shown(item)}")
    name, dtype, shape, place = item
    if not isinstance(name, str) or len(name) > _MAX_NAME:
        raise WireError(f"array: expected a short name, found {_shown(name)}")
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise WireError(f"array {_shown(name)}: dtype {_shown(dtype)}, expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMS:
        raise WireError(f"array {_shown(name)}: shape {_shown(shape)} is not one")
    size = extent = _TYPES[dtype].itemsize
    for n in shape:
        if type(n) is not int or not 0 <= n < 1 << 31:
            raise WireError(f"array {_shown(name)}: shape {_shown(shape)} is not one")
        size *= n
        extent *= n or 1
    if not (place is None or isinstance(place, bytes) or (type(place) is int and 0 <= place < _INT64)):
        raise WireError(f"array {_shown(name)}: place {_shown(place)}, expected none, bytes or an offset")
    if size > limits.frame_bytes:
        raise WireError(f"array {_shown(name)}: {_shown(size)} bytes, at most {limits.frame_bytes} are allowed")
    if extent >= _INT64:  # numpy makes no array of these, not even an empty one
        raise WireError(f"array {_shown(name)}: shape {_shown(shape)} is not one")
    return name, dtype, shape, place, size


def _array(name: str, dtype: str, shape: list[int], data: Any, size: int) -> np.ndarray:
    """Return the array in ``data``: a view where it is a frame and its alignment allows, a copy where it is small."""
    if size != len(data):
        raise WireError(f"array {_shown(name)}: {dtype}{shape} needs {size} bytes, found {len(data)}")
    if type(data) is bytes:
        data = bytearray(data)  # so that it can be written, like a frame
    array = np.frombuffer(data, _TYPES[dtype]) if size else np.empty(0, _TYPES[dtype])
    if dtype == "bool" and size and array.view(np.uint8).max() > 1:
        raise WireError(f"array {_shown(name)}: bytes other than 0 and 1 in a bool array")
    if sys.byteorder == "big" or not array.flags.aligned:
        array = array.astype(np.dtype(dtype))
    return array.reshape(shape)


def configure(socket: zmq.Socket, limits: Limits) -> None:
    """Bound what ``socket`` keeps: no lingering, queues of 2, frames within ``limits`` (libzmq drops the sender of more)."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 2)
    socket.setsockopt(zmq.RCVHWM, 2)
    socket.setsockopt(zmq.MAXMSGSIZE, max(limits.frame_bytes, limits.header_bytes))
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an answer that cannot go is said, not swallowed
    if socket.type == zmq.DEALER:
        socket.setsockopt(zmq.IMMEDIATE, 1)  # without a connection sending fails at once, nothing waits to arrive late
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)


def send(socket: zmq.Socket, message: Message, identity: bytes | None = None) -> bool:
    """Send without waiting; returns False when the queue is full or the peer is not connected."""
    frames = encode(message) if identity is None else [identity, *encode(message)]
    last = len(frames) - 1
    for attempt in (0, 1):
        try:
            for i, frame in enumerate(frames):  # only the first can fail: ZeroMQ takes messages whole
                socket.send(frame, zmq.NOBLOCK if i == last else _MORE, copy=len(frame) <= _COPIED)
            return True
        except zmq.Again:
            if not attempt:
                socket.getsockopt(zmq.EVENTS)  # libzmq takes note of what the peer has read only now and then; now it does
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
    return False


def receive(socket: zmq.Socket, limits: Limits, waiting: bool = False) -> list[zmq.Frame] | None:
    """Return the frames of one waiting message, or None. Of a message with too many, the surplus is thrown away unread.

    Args:
        socket: Where from.
        limits: What is kept.
        waiting: Whether a poll has just said that there is one.
    """
    if not waiting and not int(socket.get(zmq.EVENTS)) & _POLLIN:  # cheaper than an exception
        return None
    try:
        frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    except zmq.Again:
        return None
    while frames[-1].more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        if len(frames) <= limits.frames + 2:  # identity, header, arrays and one too many, so that decode sees the excess
            frames.append(frame)
        else:
            frames[-1] = frame
    return frames
