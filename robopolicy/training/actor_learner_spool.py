"""The spool of an actor: chunks that the learner has not kept yet, one file each, so that the death of neither loses them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from policies.spec import InputError
from real.wire import Limits, Message, WireError, decode, encode
from robopolicy.data.atomic import read_json, write_json

_ENDING = ".chunk"


class Spool:
    """A folder of chunks, each named by the number of its first control step; whole files only, which outlive the process that wrote them.

    Args:
        folder: Made when it is not there.
        capacity: Control steps that may wait in it.
        limits: Of one chunk.
        fresh: Give up chunks that wait for another run, instead of refusing to mix them.

    Attributes:
        next: Number of the next control step; None while nothing says which it is.
        steps: Control steps that wait.
        run: Name of the run that the chunks belong to; empty before one is known.

    Raises:
        InputError: if the folder cannot be used.
    """

    def __init__(self, folder: Path, capacity: int, limits: Limits, fresh: bool = False) -> None:
        self._folder, self.capacity, self._limits, self._fresh = folder, capacity, limits, fresh
        self._waiting: dict[int, int] = {}  # first control step -> how many
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.tmp"):
                left.unlink()
            for file in sorted(folder.glob(f"*{_ENDING}")):
                self._waiting[int(file.stem)] = self._steps_of(self.read(int(file.stem)).arrays)
        except (OSError, ValueError) as error:
            raise InputError(f"spool {folder}: cannot be used: {getattr(error, 'strerror', None) or error}") from error
        about = folder / "run.json"
        self.run = str(read_json(about)["run"]) if about.is_file() else ""
        last = max(self._waiting, default=None)
        self.next = None if last is None else last + self._waiting[last]

    @property
    def steps(self) -> int:
        """Control steps that wait."""
        return sum(self._waiting.values())

    @property
    def full(self) -> bool:
        """Whether nothing more may be put into it."""
        return self.steps >= self.capacity

    def belong(self, run: str, kept: int) -> int:
        """Take note of the run of the learner and of how many control steps of this actor it has kept; return how many are given up.

        Raises:
            InputError: if the chunks that wait were collected for another run, or the learner has lost what it had kept.
        """
        given_up = 0
        if self._waiting and (self.run != run or min(self._waiting) > kept):
            if not self._fresh:
                raise InputError(
                    f"spool {self._folder}: {self.steps} control steps wait in it for another run of the learner; "
                    "go on with that run, or give them up with --fresh"
                )
            given_up = self.steps
            self.forget(max(first + count for first, count in self._waiting.items()))
        if self.run != run:
            write_json(self._folder / "run.json", {"run": run})
            self.run = run
        self.next = max(self.next or 0, kept) if self._waiting else kept
        self.forget(kept)
        return given_up

    def put(self, arrays: Mapping[str, np.ndarray], anew: bool, episodes: Sequence[float] = ()) -> int:
        """Write one chunk and return the number of its first step; the file is whole or absent, whenever this process ends.

        ``anew``: the worlds began anew before its first step; ``episodes``: return, length and success of those that ended.
        """
        if self.next is None:
            raise InputError(f"spool {self._folder}: the first chunk waits for the learner to say its number")
        number = self.next
        told = {"anew": anew, "episodes": [float(value) for value in episodes]}
        frames = [bytes(frame) for frame in encode(Message("steps", sequence=number, meta=told, arrays=dict(arrays)))]
        file = self._file(number)
        part = file.with_suffix(".tmp")
        try:
            part.write_bytes(struct.pack(f"<{len(frames) + 1}Q", len(frames), *map(len, frames)) + b"".join(frames))
            part.replace(file)
        except OSError as error:
            raise InputError(f"spool {self._folder}: cannot be written: {error.strerror or error}") from error
        self._waiting[number] = self._steps_of(arrays)
        self.next = number + self._waiting[number]
        return number

    def read(self, number: int) -> Message:
        """Return the chunk that begins with control step ``number``. Raises ValueError if its file is not one."""
        data = self._file(number).read_bytes()
        try:
            (count,) = struct.unpack_from("<Q", data)
            if not 1 <= count <= self._limits.frames + 1:
                raise WireError(f"{count} frames")
            lengths, at, frames = struct.unpack_from(f"<{count}Q", data, 8), 8 * (count + 1), []
            for length in lengths:
                frames.append(data[at : at + length])
                at += length
            return decode(frames, self._limits)
        except (struct.error, WireError) as error:
            raise ValueError(f"{self._file(number).name} is damaged ({error})") from error

    def find(self, step: int) -> tuple[int, int] | None:
        """Return (first, one after the last) control step of the chunk that holds ``step``; None if none that waits does."""
        return next(((first, first + count) for first, count in self._waiting.items() if first <= step < first + count), None)

    def forget(self, kept: int) -> None:
        """Remove the chunks all of whose control steps are below ``kept``: the learner has them on its disk."""
        for number in [first for first, count in self._waiting.items() if first + count <= kept]:
            self._file(number).unlink(missing_ok=True)
            del self._waiting[number]

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_ENDING}"

    @staticmethod
    def _steps_of(arrays: Mapping[str, np.ndarray]) -> int:
        return max((array.shape[0] for array in arrays.values() if array.ndim), default=0)
