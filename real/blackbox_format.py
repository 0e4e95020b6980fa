"""How telemetry stands in a black box: topics, schemas and encodings that Foxglove and the ROS tools open.

Ticks, vectors and events are JSON with a JSON schema; numbers that are not finite are the texts "NaN", "Infinity" and
"-Infinity", because JSON has no other way to say them. Images are ``sensor_msgs/msg/Image`` (or ``CompressedImage``)
in CDR, so their bytes are the camera's own. Log times are those of the publisher's monotonic clock, shifted by the
offset that the run began with: a step of the wall clock does not reorder what happened.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.spec import InputError
from real.mcap import Channel
from real.telemetry import Record

_HEADER = "std_msgs/Header header\n"
_HEADER_TYPES = (
    f"{'=' * 80}\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n{'=' * 80}\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
)
_IMAGE = f"{_HEADER}uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data\n{_HEADER_TYPES}".encode()
_COMPRESSED = f"{_HEADER}string format\nuint8[] data\n{_HEADER_TYPES}".encode()
_LITTLE_ENDIAN = b"\x00\x01\x00\x00"


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Return values (numbers, texts, arrays (*shape), lists, mappings) as JSON."""
    plain = _plain(values)
    try:
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(_named(plain), separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _named(value: Any) -> Any:
    """Return plain values with every number that is not finite as its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list) else value


def json_schema(values: Mapping[str, Any]) -> bytes:
    """Return a JSON schema that names the fields of ``values``: with it Foxglove offers them for plots."""
    return json.dumps({"type": "object", "properties": {name: _described(value) for name, value in values.items()}}).encode()


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, np.ndarray) and not value.ndim:
        return _described(value.item())
    if isinstance(value, Mapping):
        return {"type": "object", "properties": {str(name): _described(item) for name, item in value.items()}}
    if isinstance(value, np.ndarray | list | tuple):
        first = value.flat[0].item() if isinstance(value, np.ndarray) and value.size else value[0] if len(value) and not isinstance(value, np.ndarray) else 0.0
        items = _described(first)
        for _ in range(np.ndim(value) - 1 if isinstance(value, np.ndarray) else 0):
            items = {"type": "array", "items": items}
        return {"type": "array", "items": items}
    if value is None:
        return {}
    return {"type": "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "string"}


def image_parts(image: np.ndarray, stamp_ns: int, camera: str) -> list[Any]:
    """Return an image (H, W, 3) uint8 RGB or (H, W, 1) as the parts of one ``sensor_msgs/msg/Image`` in CDR.

    Raises:
        InputError: for another number of channels.
    """
    height, width, channels = image.shape
    if channels not in (1, 3):
        raise InputError(f"camera {camera!r}: image of shape {image.shape}, expected (H, W, 3) or (H, W, 1)")
    head = _stamped(stamp_ns, camera)
    head += struct.pack("<II", height, width)
    head = _string(head, "rgb8" if channels == 3 else "mono8") + b"\x00"
    head = _aligned(head) + struct.pack("<II", width * channels, image.size)
    return [_LITTLE_ENDIAN + head, np.ascontiguousarray(image).reshape(-1).data]


def jpeg_parts(image: np.ndarray, stamp_ns: int, camera: str, quality: int) -> list[Any]:
    """Return an image (H, W, 3) uint8 RGB as the parts of one ``sensor_msgs/msg/CompressedImage`` in CDR."""
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError(f"camera {camera!r}: image of shape {image.shape} cannot be compressed")
    head = _aligned(_string(_stamped(stamp_ns, camera), "jpeg"))
    return [_LITTLE_ENDIAN + head + struct.pack("<I", data.size), data.reshape(-1).data]


def image_array(data: Any) -> tuple[str, int, np.ndarray]:
    """Return camera, stamp and image (H, W, 3) or (H, W, 1) uint8 of :func:`image_parts`, joined. Raises InputError for other bytes."""
    body = memoryview(data)[4:]
    try:
        sec, nanosec = struct.unpack_from("<iI", body)
        camera, at = _read_string(body, 8)
        at += -at % 4
        height, width = struct.unpack_from("<II", body, at)
        encoding, at = _read_string(body, at + 8)
        at += 1  # is_bigendian
        at += -at % 4
        _, size = struct.unpack_from("<II", body, at)
        start = at + 8
        image = np.frombuffer(body[start : start + size], np.uint8).reshape(height, width, 3 if encoding == "rgb8" else 1)
    except (struct.error, ValueError) as error:
        raise InputError(f"not an image: {error}") from error
    return camera, sec * 1_000_000_000 + nanosec, image


def _stamped(stamp_ns: int, frame: str) -> bytes:
    return _aligned(_string(struct.pack("<iI", *divmod(stamp_ns, 1_000_000_000)), frame))


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)  # counted from behind the four bytes of encapsulation


def _string(data: bytes, value: str) -> bytes:
    text = value.encode() + b"\x00"
    return _aligned(data) + struct.pack("<I", len(text)) + text


def _read_string(body: memoryview, at: int) -> tuple[str, int]:
    at += -at % 4
    (length,) = struct.unpack_from("<I", body, at)
    end = at + 4 + length
    return str(body[at + 4 : end - 1], "utf-8"), end


class Encoder:
    """Turns the records of a run into messages of a black box.

    Args:
        jpeg: Quality of JPEG images, 1 to 100; 0: images stay as they are.
    """

    def __init__(self, jpeg: int = 0) -> None:
        self._jpeg = jpeg
        self._channels: dict[str, Channel] = {}
        self.offset_ns = 0

    def encode(self, record: Record) -> tuple[Channel, int, list[Any]]:
        """Return channel, log time in ns since 1970 and the parts of the message.

        Raises:
            InputError: for an image that is none.
        """
        if record.kind == "info":
            self.offset_ns = int(record.values.get("clock_offset_ns", self.offset_ns))
        at = record.stamp_ns + self.offset_ns
        if record.kind == "image":
            return self._image(record, at)
        values = {"run": f"{record.run:x}", "sequence": record.sequence, "dropped": record.dropped, "stamp_ns": record.stamp_ns, **record.values}
        return self.json_channel(f"/{record.kind}", values), at, [json_bytes(values)]

    def _image(self, record: Record, at: int) -> tuple[Channel, int, list[Any]]:
        camera, image = record.values["name"], record.values["image"]
        captured = record.values["capture_ns"] + self.offset_ns
        topic = f"/image/{camera.removeprefix('observation.images.')}"
        if self._jpeg and image.shape[2] == 3:
            return Channel(topic, "sensor_msgs/msg/CompressedImage", "ros2msg", _COMPRESSED, "cdr"), at, jpeg_parts(image, captured, camera, self._jpeg)
        return Channel(topic, "sensor_msgs/msg/Image", "ros2msg", _IMAGE, "cdr"), at, image_parts(image, captured, camera)

    def json_channel(self, topic: str, values: Mapping[str, Any]) -> Channel:
        """Return the JSON channel of ``topic``. Its schema is that of the first message: later fields are in the data all the same."""
        if topic not in self._channels:
            self._channels[topic] = Channel(topic, f"robopolicy{topic.replace('/', '.')}", "jsonschema", json_schema(values), "json")
        return self._channels[topic]
