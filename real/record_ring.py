"""Memory that a run shares with its recorder: messages in slots of one size, images in planes of their own, written once.

One process writes, one reads. A message is a reading of the robot, a policy step, or a word about the episode; they are read
in the order in which they were written. A pipe tells of new ones: it wakes the reader, what was written before a byte went in
is seen by whoever took the byte out, and it ends when the writer does, whatever it died of. Nobody waits for the other:
where there is no room, :meth:`RecordRing.message` and :meth:`RecordRing.plane` say so, and the writer counts what it let go.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, Spec

TEXT_BYTES = 512  # of a task's words
PROBLEM_BYTES = 1024
_RESERVED = 32  # message slots for words about the episode, when readings have filled the others
_MAX_CAMERAS = 32
_PAGE = 4096
_NUMBERS = 256  # 64-bit numbers at the beginning; the rest of the page is the reader's text


class Kind(IntEnum):
    """What a message says."""

    READING = 1
    STEP = 2
    BEGIN = 3
    SAVE = 4
    DISCARD = 5
    END = 6


class _At(IntEnum):
    """Where a number lies in the first page."""

    HEAD = 0  # messages written
    TAIL = 1  # messages read
    READY = 2
    EPISODES = 3
    FRAMES = 4
    LAG_NS = 5
    PROBLEM = 6  # bytes of the text about it
    WRITTEN = 64  # planes written, one number a camera
    RELEASED = 128  # planes that the reader needs no more, likewise


@dataclass(frozen=True)
class RingSize:
    """How much fits; both ends compute the same layout from it.

    Attributes:
        messages: Slots for messages.
        planes: Slots for images of every camera.
    """

    messages: int = 2048
    planes: int = 96

    @staticmethod
    def of(spec: Spec, rate_hz: float, buffer_mb: float, seconds: float = 8.0) -> RingSize:
        """Return what holds ``seconds`` of messages at ``rate_hz``, and images of ``buffer_mb`` MB, at most 256 a camera."""
        image = sum(spec.observation.fields[name].size for name in spec.observation.image_names)
        planes = 1 if not image else int(np.clip(buffer_mb * 1e6 / image, 4, 256))
        return RingSize(int(np.clip(2 * seconds * rate_hz, 512, 1 << 15)), planes)


class RecordRing:
    """Both ends of the memory; :meth:`create` makes it, :meth:`attach` opens it in the process that was given the file.

    Args:
        file: Descriptor of the memory.
        spec: What a reading and an action hold.
        size: See :class:`RingSize`.

    Attributes:
        streams: Names of the observation fields; a stamp belongs to each.
        cameras: Of these, the images.
        states: The others.
    """

    def __init__(self, file: int, spec: Spec, size: RingSize) -> None:
        self.file, self.spec, self.size = file, spec, size
        observation = spec.observation
        self.streams, self.cameras, self.states = tuple(observation.fields), observation.image_names, observation.state_names
        if len(self.cameras) > _MAX_CAMERAS:
            raise InputError(f"recording: at most {_MAX_CAMERAS} cameras, found {len(self.cameras)}")
        self.dtype = _message_dtype(spec)
        slots_at = _PAGE
        planes_at = _up(slots_at + size.messages * self.dtype.itemsize)
        offsets = {}
        for name in self.cameras:
            offsets[name] = planes_at
            planes_at += _up(size.planes * observation.fields[name].size)
        self.bytes = planes_at
        if self.bytes > _available_bytes() // 2:  # asked for more, the system would take it from whoever runs
            raise OSError(errno.ENOMEM, f"{self.bytes >> 20} MB are more than half of what is free")
        os.posix_fallocate(file, 0, self.bytes)  # no room is said now; written to a hole it would be a signal
        self._memory = np.frombuffer(mmap.mmap(file, self.bytes, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)), np.uint8)
        self._numbers = self._memory[: 8 * _NUMBERS].view(np.int64)
        self._problem = self._memory[8 * _NUMBERS : 8 * _NUMBERS + PROBLEM_BYTES]
        self._slots = self._memory[slots_at : slots_at + size.messages * self.dtype.itemsize].view(self.dtype)
        self._planes = {}
        for name, offset in offsets.items():
            shape = (size.planes, *observation.fields[name].shape)
            self._planes[name] = self._memory[offset : offset + int(np.prod(shape))].reshape(shape)

    @classmethod
    def create(cls, spec: Spec, size: RingSize) -> RecordRing:
        """Make the memory. It has no name: it goes with the processes that hold it. Raises InputError if there is no room."""
        file = os.memfd_create("robopolicy-recording") if hasattr(os, "memfd_create") else _unnamed_file()
        try:
            return cls(file, spec, size)
        except OSError as error:
            os.close(file)
            raise InputError(
                f"recording: no shared memory for {size.planes} images a camera: {error.strerror}; a smaller record.buffer_mb needs less"
            ) from error

    # ---- the writing end

    def message(self, kind: Kind) -> Any:
        """Return the slot of the next message, to be filled and then published; None: there is no room."""
        head = int(self._numbers[_At.HEAD])
        limit = self.size.messages - (_RESERVED if kind in (Kind.READING, Kind.STEP) else 0)
        if head - int(self._numbers[_At.TAIL]) >= limit:
            return None
        slot = self._slots[head % self.size.messages]
        slot["kind"] = kind
        return slot

    def plane(self, camera: str) -> tuple[int, np.ndarray] | None:
        """Return number and place (H, W, 3) of the next image; None: there is no room."""
        index = self.cameras.index(camera)
        written = int(self._numbers[_At.WRITTEN + index])
        if written - int(self._numbers[_At.RELEASED + index]) >= self.size.planes:
            return None
        return written, self._planes[camera][written % self.size.planes]

    def took(self, camera: str) -> None:
        """Note that the plane has been filled."""
        self._numbers[_At.WRITTEN + self.cameras.index(camera)] += 1

    def publish(self) -> None:
        """Let the reader see the message."""
        self._numbers[_At.HEAD] += 1

    # ---- the reading end

    def waiting(self) -> int:
        """Return how many messages wait."""
        return int(self._numbers[_At.HEAD] - self._numbers[_At.TAIL])

    def next(self) -> Any:
        """Return the oldest message, which stays until :meth:`done`."""
        return self._slots[int(self._numbers[_At.TAIL]) % self.size.messages]

    def done(self) -> None:
        """Free the slot of the oldest message."""
        self._numbers[_At.TAIL] += 1

    def image(self, camera: str, number: int) -> np.ndarray:
        """Return the image (H, W, 3) of that number, a view."""
        return self._planes[camera][number % self.size.planes]

    def release(self, camera: str, before: int) -> None:
        """Free the images of numbers below ``before``."""
        at = _At.RELEASED + self.cameras.index(camera)
        self._numbers[at] = max(int(self._numbers[at]), before)

    def written(self, camera: str) -> int:
        """Return how many images of ``camera`` were written."""
        return int(self._numbers[_At.WRITTEN + self.cameras.index(camera)])

    # ---- what the reader says of itself

    def tell(self, episodes: int, frames: int, lag_ns: int) -> None:
        """Say how far the reader is: episodes saved, frames of the open one, age of the oldest frame that is not encoded."""
        self._numbers[_At.EPISODES], self._numbers[_At.FRAMES], self._numbers[_At.LAG_NS] = episodes, frames, lag_ns

    def tell_ready(self) -> None:
        """Say that the reader reads."""
        self._numbers[_At.READY] = 1

    def tell_problem(self, text: str) -> None:
        """Say what is wrong, in one line; empty: nothing is."""
        line = " ".join(text.split()).encode("utf-8", "replace")[:PROBLEM_BYTES]
        self._numbers[_At.PROBLEM] = 0
        self._problem[: len(line)] = np.frombuffer(line, np.uint8)
        self._numbers[_At.PROBLEM] = len(line)

    @property
    def ready(self) -> bool:
        """Whether the reader reads."""
        return bool(self._numbers[_At.READY])

    @property
    def told(self) -> tuple[int, int, int]:
        """What :meth:`tell` said: episodes, frames, lag in ns."""
        return int(self._numbers[_At.EPISODES]), int(self._numbers[_At.FRAMES]), int(self._numbers[_At.LAG_NS])

    @property
    def problem(self) -> str:
        """What :meth:`tell_problem` said."""
        return bytes(self._problem[: int(self._numbers[_At.PROBLEM])]).decode("utf-8", "replace")

    def close(self) -> None:
        """Let go of the file; the memory lives as long as any array in it. May be called twice."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _message_dtype(spec: Spec) -> np.dtype:
    """Return the type of a slot: what every message has, a reading's fields and stamps, a step's action."""
    observation = spec.observation
    fields: list[tuple[Any, ...]] = [
        ("kind", "u1"),
        ("taken", "?"),
        ("robot_success", "?"),
        ("success", "i1"),
        ("tick", "i8"),
        ("time_ns", "i8"),
        ("episode", "i8"),
    ]
    fields += [(f"state.{name}", observation.fields[name].dtype, observation.fields[name].shape) for name in observation.state_names]
    fields += [("stamps", "i8", (len(observation.fields),)), ("planes", "i8", (max(len(observation.image_names), 1),))]
    fields += [("action", "f4", (spec.action.dim,)), ("dropped", "i8", (len(observation.fields) + 1,)), ("text", f"S{TEXT_BYTES}")]
    return np.dtype(fields, align=True)


def _available_bytes() -> int:
    """Return the memory that can be taken from the system without it taking any from others."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = [line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
        if lines:
            return int(lines[0].split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
