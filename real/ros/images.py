"""Images out of the bytes of a message: no element of one passes through a Python serialiser.

The CDR of ``sensor_msgs/Image`` and ``CompressedImage`` is read in place; the picture goes, once, into an array of a pool.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

import numpy as np

from policies.spec import InputError, suggest

_MOST_PIXELS = 1 << 26
#: encoding -> (bytes a pixel, channels that are red, green and blue)
_CHANNELS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "8UC3": (3, (2, 1, 0)),  # as OpenCV keeps it
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "8UC4": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
}


@dataclass(frozen=True)
class RawImage:
    """An image as it came; ``data`` (bytes,) uint8 is a view of the message.

    Attributes:
        stamp_ns: Of its header.
        height, width: Pixels; 0 where ``encoding`` is that of a file format.
        encoding: As in ``sensor_msgs/Image``, or the format of a compressed one.
        step: Bytes from row to row; 0: compressed.
        data: Pixels or file.
    """

    stamp_ns: int
    height: int
    width: int
    encoding: str
    step: int
    data: np.ndarray


class _Cdr:
    """A cursor in the bytes of a message."""

    def __init__(self, cdr: bytes | memoryview) -> None:
        if len(cdr) < 4 or cdr[0] != 0 or cdr[1] not in (0, 1):
            raise InputError("image message: not CDR of version 1")
        self._cdr, self._at, self._order = cdr, 4, "<" if cdr[1] else ">"

    def _take(self, form: str, size: int) -> int:
        self._at += -(self._at - 4) % size
        try:
            (value,) = struct.unpack_from(self._order + form, self._cdr, self._at)
        except struct.error as error:
            raise InputError("image message: it ends in the middle") from error
        self._at += size
        return value

    def u32(self) -> int:
        return self._take("I", 4)

    def u8(self) -> int:
        return self._take("B", 1)

    def stamp_ns(self) -> int:
        return self._take("i", 4) * 1_000_000_000 + self.u32()

    def bytes(self) -> np.ndarray:
        size = self.u32()
        if size > len(self._cdr) - self._at:
            raise InputError(f"image message: {size} bytes are announced, {len(self._cdr) - self._at} are there")
        found = np.frombuffer(self._cdr, np.uint8, size, self._at)
        self._at += size
        return found

    def text(self) -> str:
        return self.bytes().tobytes().rstrip(b"\0").decode("ascii", "replace")


def read_image(cdr: bytes | memoryview) -> RawImage:
    """Return the image in the CDR bytes of a ``sensor_msgs/Image``. Raises InputError if they are not one."""
    cursor = _Cdr(cdr)
    stamp_ns, _ = cursor.stamp_ns(), cursor.text()
    height, width, encoding, _ = cursor.u32(), cursor.u32(), cursor.text(), cursor.u8()
    step = cursor.u32()
    data = cursor.bytes()
    if not 0 < height * width <= _MOST_PIXELS:
        raise InputError(f"image of {width}x{height} pixels")
    if step < width or len(data) < step * (height - 1) + width:
        raise InputError(f"image of {width}x{height} pixels, {step} bytes a row: it has only {len(data)} bytes")
    return RawImage(stamp_ns, height, width, encoding, step, data)


def read_compressed(cdr: bytes | memoryview) -> RawImage:
    """Return the file in the CDR bytes of a ``sensor_msgs/CompressedImage``. Raises InputError if they are not one."""
    cursor = _Cdr(cdr)
    stamp_ns, _ = cursor.stamp_ns(), cursor.text()
    encoding = cursor.text()
    return RawImage(stamp_ns, 0, 0, encoding, 0, cursor.bytes())


def image_size(image: RawImage) -> tuple[int, int]:
    """Return height and width; of a compressed one as its file says. Raises InputError if that is neither JPEG nor PNG."""
    return (image.height, image.width) if image.step else _file_size(image.data)


def decode(image: RawImage, out: np.ndarray, resize: bool = False) -> None:
    """Write an image into ``out`` (H, W, 3) uint8 RGB.

    Args:
        image: Of H x W pixels, or any if ``resize``.
        out: Where it goes.
        resize: Whether one of another size is scaled (area average).

    Raises:
        InputError: for another size, an encoding that is not known, or a file that does not decode.
    """
    height, width = image_size(image)
    if (height, width) != out.shape[:2] and not resize:
        raise InputError(f"image of {width}x{height} pixels, {out.shape[1]}x{out.shape[0]} are expected")
    if not 0 < height * width <= _MOST_PIXELS:
        raise InputError(f"image of {width}x{height} pixels")
    if (height, width) == out.shape[:2]:
        _unpack(image, out) if image.step else _decompress(image, out)
        return
    import cv2

    whole = np.empty((height, width, 3), np.uint8)
    _unpack(image, whole) if image.step else _decompress(image, whole)
    cv2.resize(whole, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_AREA)


def _unpack(image: RawImage, out: np.ndarray) -> None:
    if image.encoding not in _CHANNELS:
        raise InputError(f"image encoding {image.encoding!r} is not known{suggest(image.encoding, _CHANNELS)}")
    size, channels = _CHANNELS[image.encoding]
    used = image.width * size
    if image.step < used or len(image.data) < image.step * (image.height - 1) + used:
        raise InputError(f"image of {image.width} {image.encoding} pixels a row and {image.step} bytes a row: too few")
    rows = np.lib.stride_tricks.as_strided(image.data, (image.height, used), (image.step, 1), writeable=False)
    pixels = rows.reshape(image.height, image.width, size) if image.step == used else _pixels(image, size)
    if channels == (0, 1, 2) and size == 3:
        np.copyto(out, pixels)
        return
    for k, channel in enumerate(channels):
        out[..., k] = pixels[..., channel]


def _pixels(image: RawImage, size: int) -> np.ndarray:
    """Return the pixels (H, W, size) of an image whose rows are padded."""
    return np.lib.stride_tricks.as_strided(image.data, (image.height, image.width, size), (image.step, size, 1), writeable=False)


def _decompress(image: RawImage, out: np.ndarray) -> None:
    import cv2

    # OpenCV's own files are blue first; the picture is flat or turned as the file says, not as its EXIF data wishes.
    try:
        found = cv2.imdecode(image.data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        found = None
    if found is None or found.shape != out.shape:
        raise InputError(f"compressed image ({image.encoding[:40]!r}): it does not decode")
    cv2.cvtColor(found, cv2.COLOR_BGR2RGB, dst=out)


def _file_size(data: np.ndarray) -> tuple[int, int]:
    """Return height and width of a JPEG or PNG file, from its header alone: nothing large is decoded unseen."""
    head = data[:24].tobytes()
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) == 24:
        width, height = struct.unpack(">II", head[16:24])
        return height, width
    if head.startswith(b"\xff\xd8"):
        at, end = 2, len(data) - 9
        while at < end and data[at] == 0xFF:
            kind, size = int(data[at + 1]), int(data[at + 2]) * 256 + int(data[at + 3])
            if kind == 0x01 or 0xD0 <= kind <= 0xD8:  # markers without a length: what follows them is no part of them
                at += 2
                continue
            if kind in (0xD9, 0xDA):
                break  # the end, or a scan, before any frame
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # start of a frame
                height, width = struct.unpack(">HH", data[at + 5 : at + 9].tobytes())
                return height, width
            at += 1 if kind == 0xFF else 2 + size
    raise InputError("compressed image: neither a JPEG nor a PNG file")


class FramePool:
    """Arrays for the pictures of one camera: one is used again when nobody holds it any more.

    Args:
        shape: (H, W, 3).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._arrays = shape, [np.zeros(shape, np.uint8) for _ in range(4)]

    def take(self) -> np.ndarray:
        """Return an array (H, W, 3) uint8 that is nobody's; more are made when all are held."""
        for array in self._arrays:
            if sys.getrefcount(array) <= _FREE:
                return array
        self._arrays.append(np.zeros(self._shape, np.uint8))
        return self._arrays[-1]


def _count_of_a_free_one() -> int:
    """Return how many references an array has that lies in a list and is looked at in a loop."""
    for array in [np.zeros(1, np.uint8)]:
        return sys.getrefcount(array)
    return 0


_FREE = _count_of_a_free_one()
