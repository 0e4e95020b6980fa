"""What a camera's process and its reader share: the newest pictures, when they were taken, and counts. Newest wins.

A ring of three slots in a file without a name. The writer fills the slot of the next number and then makes that number the
newest; a reader copies the newest slot and looks whether it was overwritten meanwhile, which takes the writer two more
pictures. Nobody waits for anybody.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np

_PAGE, _SLOTS, _TEXT = 4096, 3, 1024
_NUMBERS = ("newest", "alive_ns", "frames", "dropped", "repeated", "freezes", "connections", "losses", "connected", "frozen", "rate_mhz")
COUNTS = ("frames", "dropped", "repeated", "freezes", "connections", "losses")


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, read-only.
        capture_ns: When it was taken, monotonic clock.
        number: Counts from 1.
    """

    image: np.ndarray
    capture_ns: int
    number: int


class FrameMemory:
    """The shared memory of one camera.

    Args:
        file: Descriptor of the file; None: make one.
        shape: (H, W, 3) of the pictures; None: not known yet, only numbers and text are there.

    Attributes:
        file: Its descriptor, to hand on.
        shape: (H, W, 3), or None.
    """

    def __init__(self, file: int | None = None, shape: tuple[int, int, int] | None = None) -> None:
        self.file = os.memfd_create("robopolicy-camera") if file is None else file
        if file is None:
            os.ftruncate(self.file, _PAGE)
        self.shape: tuple[int, int, int] | None = None
        self._head = np.frombuffer(mmap.mmap(self.file, _PAGE), np.uint8)
        self._numbers = self._head[: 8 * len(_NUMBERS)].view(np.int64)
        self._slots: list[tuple[np.ndarray, np.ndarray]] = []
        if shape is not None:
            self.open(shape)

    def open(self, shape: tuple[int, int, int]) -> None:
        """Make (or find) room for pictures of ``shape`` (H, W, 3)."""
        slot = -(-(64 + int(np.prod(shape))) // _PAGE) * _PAGE
        size = _PAGE + _SLOTS * slot
        if os.fstat(self.file).st_size < size:
            os.ftruncate(self.file, size)
        whole = np.frombuffer(mmap.mmap(self.file, size), np.uint8)
        self.shape, self._slots = shape, []
        for k in range(_SLOTS):
            start = _PAGE + k * slot
            self._slots.append((whole[start : start + 24].view(np.int64), whole[start + 64 : start + 64 + int(np.prod(shape))].reshape(shape)))

    def __getitem__(self, name: str) -> int:
        """Return one of the numbers."""
        return int(self._numbers[_NUMBERS.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._numbers[_NUMBERS.index(name)] = value

    def add(self, name: str, count: int = 1) -> None:
        """Raise one of the numbers; the writer's alone."""
        self._numbers[_NUMBERS.index(name)] += count

    @property
    def text(self) -> str:
        """Why there are no pictures at present, one line; empty: there are."""
        return bytes(self._head[_PAGE - _TEXT :]).split(b"\0", 1)[0].decode(errors="replace")

    @text.setter
    def text(self, line: str) -> None:
        said = line.encode()[: _TEXT - 1]
        self._head[_PAGE - _TEXT :] = np.frombuffer(said.ljust(_TEXT, b"\0"), np.uint8)

    def publish(self, image: np.ndarray, capture_ns: int) -> None:
        """Make ``image`` (H, W, 3) the newest."""
        number = self["newest"] + 1
        about, place = self._slots[number % _SLOTS]
        about[0] = 0  # of no picture, while it is written
        np.copyto(place, image)
        about[1], about[0] = capture_ns, number
        self["newest"] = number

    def newest(self, after: int = 0) -> Frame | None:
        """Return a copy of the newest picture; None if there is none with a number above ``after``."""
        while (number := self["newest"]) > after:
            about, place = self._slots[number % _SLOTS]
            image, capture_ns = place.copy(), int(about[1])
            if about[0] == number:
                image.setflags(write=False)
                return Frame(image, capture_ns, number)
        return None
