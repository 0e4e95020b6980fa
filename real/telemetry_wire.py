"""What one message of telemetry looks like: a msgpack map with small arrays inside, an image as a frame of its own.

A message is one frame: 16 bytes (its number for this reader, messages dropped for that reader so far), then msgpack; an
image is a second frame that is never copied. What arrives is checked like any input.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from real.wire import DTYPES, Limits, WireError

KINDS = ("info", "tick", "observation", "image", "event")
COUNTS = struct.Struct("<QQ")
_ARRAY = 1  # msgpack extension: dtype, number of dimensions, dimensions, bytes
_CODES = {np.dtype(name).newbyteorder("<"): code for code, name in enumerate(DTYPES)}


@dataclass
class Record:
    """One message as a reader sees it.

    Attributes:
        kind: ``info``, ``tick``, ``observation``, ``image`` or ``event``.
        run: Number of the run.
        sequence: Counts the messages that were meant for this reader; a gap is what was dropped on the way.
        dropped: Of these, how many the publisher had to drop so far.
        stamp_ns: Monotonic nanoseconds of the publisher, the same clock for all processes of a machine.
        values: Scalars, texts, arrays (*shape), lists and mappings by name; the picture (H, W, 3) of an image is ``image``.
    """

    kind: str
    run: int
    sequence: int
    dropped: int
    stamp_ns: int
    values: dict[str, Any]


def encode(kind: str, run: int, stamp_ns: int, values: Mapping[str, Any]) -> bytes:
    """Return one message: numbers (not finite ones too), texts, arrays (*shape), lists and mappings of them.

    Raises:
        TypeError, ValueError, OverflowError: for values that cannot be sent.
    """
    return bytes(msgpack.packb((kind, run, stamp_ns, values), default=_packed) or b"")


def _packed(value: Any) -> Any:
    """Pack what msgpack does not know."""
    if isinstance(value, np.ndarray):
        code = _CODES.get(value.dtype)  # by the dtype itself: its name is slow to ask for
        if code is None:
            value = value.astype(np.int64 if value.dtype.kind in "iu" else np.float64)
            code = _CODES[value.dtype]
        return msgpack.ExtType(_ARRAY, struct.pack(f"<BB{value.ndim}I", code, value.ndim, *value.shape) + value.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} does not go into telemetry")


def decode(data: Any, kinds: tuple[str, ...] = KINDS) -> tuple[str, int, int, dict[str, Any]]:
    """Return kind, run, stamp and values (arrays as (*shape)) of :func:`encode`'s bytes.

    Raises:
        WireError: for anything else; nothing is allocated for a length that is only claimed.
    """
    try:
        kind, run, stamp_ns, values = msgpack.unpackb(data, ext_hook=_array)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"not a message: {type(error).__name__}") from error
    if kind not in kinds or type(run) is not int or type(stamp_ns) is not int or not isinstance(values, dict):
        raise WireError("not a message: fields of another kind")
    if not all(isinstance(name, str) for name in values):
        raise WireError("a name that is no text")
    return kind, run, stamp_ns, values


def _array(code: int, data: bytes) -> np.ndarray:
    try:
        kind, ndim = data[0], data[1]
        shape = struct.unpack_from(f"<{ndim}I", data, 2)
        if code != _ARRAY or ndim > 8:
            raise WireError("an extension that is no array")
        return np.frombuffer(data, np.dtype(DTYPES[kind]).newbyteorder("<"), offset=2 + 4 * ndim).reshape(shape)
    except (IndexError, ValueError, struct.error) as error:
        raise WireError("an array that is none") from error


def opened(frames: Sequence[Any], limits: Limits) -> Record:
    """Return the record of received frames (anything with the buffer protocol); images view theirs.

    Raises:
        WireError: for anything that the publisher would not have sent, or that is beyond ``limits``.
    """
    if not frames or len(frames) > 2 or not COUNTS.size <= len(frames[0]) <= limits.header_bytes:
        raise WireError("not a message")
    sequence, dropped = COUNTS.unpack_from(frames[0])
    kind, run, stamp_ns, values = decode(frames[0][COUNTS.size :])
    if kind == "image":
        values["image"] = _picture(values, frames)
    return Record(kind, run, sequence, dropped, stamp_ns, values)


def _picture(values: dict[str, Any], frames: Sequence[Any]) -> np.ndarray:
    shape = values.pop("shape", None)
    if not isinstance(values.get("name"), str) or type(values.get("capture_ns")) is not int or len(frames) != 2:
        raise WireError("an image without its name")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape) or math.prod(shape) != len(frames[1]):
        raise WireError("an image of another shape")
    return np.frombuffer(frames[1], np.uint8).reshape(shape)
