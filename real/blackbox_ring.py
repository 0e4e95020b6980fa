"""The ring of segments on the disk: the last minutes, within so many bytes, whatever the disk does.

A segment is an MCAP file of some seconds; the oldest are deleted when the ring is over its limits. A chunk is closed at
least every second and brought to the disk, so a killed recorder loses at most the open chunk. When nothing more fits,
the oldest segment makes room once; if that does not help, messages are dropped and counted until there is room again:
nothing piles up in memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.spec import InputError
from real.mcap import Channel, McapWriter, time_span

_NAME = re.compile(r"segment-(\d{6,})\.mcap")
_CHUNK_BYTES = 4 << 20
_SETTLED, _ROOM = 10, 2 * _CHUNK_BYTES  # chunks without a refusal, and free bytes, before it is said that the disk takes again
_RETRY_S = 1.0  # between two attempts on a disk that refused

_Waiting = tuple[Channel, int, list[Any], int]  # what McapWriter.add takes


@dataclass
class RingLimits:
    """How much is kept, and in what pieces.

    Attributes:
        minutes: Recorded minutes to keep at least, while the bytes allow it.
        max_bytes: Bytes of all segments together; the oldest go first.
        segment_s: Seconds of a segment.
        flush_s: Seconds after which the open chunk is written.
    """

    minutes: float = 10.0
    max_bytes: int = 2 << 30
    segment_s: float = 30.0
    flush_s: float = 1.0

    def __post_init__(self) -> None:
        """Check that everything is above 0. Raises InputError."""
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"black box: {name}: expected a number above 0, found {value}")
        if self.max_bytes < 1 << 16:
            raise InputError(f"black box: max_bytes: expected at least 65536, found {self.max_bytes}")


def segments(folder: Path) -> list[Path]:
    """Return the segments of a black box, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("segment-*.mcap") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


class Ring:
    """Writes messages into the ring of ``folder``; one ring a folder at a time.

    Args:
        folder: Made if it is not there.
        limits: See :class:`RingLimits`.
        say: Told when the disk refuses, and when it takes again.
        clock: Monotonic seconds.

    Attributes:
        lost: Messages that the disk refused.
        written: Messages on the disk, of this ring's own writing.
        full: Why the disk refuses; empty: it does not. A ring that lives on what its oldest segments give up is on a full disk still.
        refused: Whether the disk refused what was to be written last.

    Raises:
        InputError: when the folder cannot be used, or another recorder uses it.
    """

    def __init__(self, folder: Path, limits: RingLimits, say: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.limits, self._say, self._clock = folder, limits, say, clock
        self.lost = self.written = 0
        self.full, self.refused = "", False
        self._lock = _locked(folder)
        self._writer: McapWriter | None = None
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        self._segment_bytes = min(limits.max_bytes // 8, soft // 2 if soft != resource.RLIM_INFINITY else limits.max_bytes)
        self._opened_at = self._flushed_at = clock()
        self._refused_at = -_RETRY_S
        self._lost_before = 0  # when the disk began to refuse
        self._old = [(path, path.stat().st_size, _seconds(path)) for path in segments(folder)]
        self._number = int(_NAME.fullmatch(self._old[-1][0].name)[1]) if self._old else 0  # type: ignore[index]

    @property
    def segment_begins(self) -> bool:
        """Whether the next message begins a segment: what explains the others belongs at its start."""
        return self._writer is None and not self._waiting

    def add(self, channel: Channel, log_time: int, data: list[Any], sequence: int = 0) -> None:
        """Take a message; it is on the disk within ``flush_s`` of :meth:`due` being called."""
        self._waiting.append((channel, log_time, data, sequence))
        self._waiting_bytes += sum(memoryview(part).nbytes for part in data)
        if self._waiting_bytes >= min(_CHUNK_BYTES, self._segment_bytes // 2):
            self.flush()

    def due(self) -> None:
        """Write what is due; call it often."""
        if self._clock() - self._flushed_at >= self.limits.flush_s:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one chunk, end the segment when it is long enough, and delete what is over the limits."""
        self._flushed_at = self._clock()
        messages, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if messages:
            self.refused = not self._write(messages)
            if self.refused:
                self.lost += len(messages)
            else:
                self.written += len(messages)
                self._fits_again()
        if self._writer is not None and (self._clock() - self._opened_at >= self.limits.segment_s or self._writer.size >= self._segment_bytes):
            self._finish_segment()
        self._prune()

    def end_segment(self) -> None:
        """Finish the open segment, so that any reader opens it; the next message begins another."""
        self.flush()
        self._finish_segment()

    def close(self) -> None:
        """Finish the open segment and let go of the folder."""
        self.end_segment()
        self._prune()
        os.close(self._lock)

    def _write(self, messages: list[_Waiting]) -> bool:
        """Write one chunk. A file that may not grow is ended, and a full disk gets the oldest segment back, before it is given up."""
        while True:
            writer = self._writer or self._open()
            if writer is None:
                return False
            for message in messages:
                writer.add(*message)
            try:
                writer.flush()
                writer.sync()
                return True
            except OSError as error:
                if not writer.pending_messages:  # written, though not known to be on the disk itself
                    self._refuses(error)
                    return True
                writer.discard()
                if error.errno == errno.EFBIG and writer.messages:
                    self._finish_segment()
                elif error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._drop_oldest():
                    self._refuses(error)
                    return False

    def _open(self) -> McapWriter | None:
        """Begin a segment, unless the disk has refused a moment ago."""
        if self._clock() - self._refused_at < _RETRY_S:
            return None
        try:
            self._writer = McapWriter(self.folder / f"segment-{self._number + 1:06d}.mcap")
        except OSError as error:
            self._refuses(error)
            self._drop_oldest()
            return None
        self._number += 1
        self._opened_at = self._clock()
        return self._writer

    def _finish_segment(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.finish()
        except OSError as error:  # without its end the segment is still read record by record
            if error.errno != errno.EFBIG:
                self._refuses(error)
        if writer.messages and writer.path.exists():  # somebody may have tidied up meanwhile
            self._old.append((writer.path, writer.size, (writer.end_ns - writer.start_ns) * 1e-9))
        else:
            writer.path.unlink(missing_ok=True)

    def _refuses(self, error: OSError) -> None:
        self._refused_at = self._clock()
        if not self.full:
            self.full, self._lost_before = os.strerror(error.errno or 0), self.lost
            self._say(f"black box: {self.folder}: {self.full}; what does not fit is dropped and counted")

    def _fits_again(self) -> None:
        settled = self._clock() - self._refused_at >= _SETTLED * self.limits.flush_s
        if self.full and settled and _free_bytes(self.folder) >= _ROOM:
            self._say(f"black box: {self.folder}: recording again, {self.lost - self._lost_before} messages did not fit")
            self.full = ""

    def _drop_oldest(self) -> bool:
        """Delete the oldest finished segment; returns whether there was one."""
        if not self._old:
            return False
        self._old.pop(0)[0].unlink(missing_ok=True)
        return True

    def _prune(self) -> None:
        writer = self._writer
        size, seconds = (writer.size, (writer.end_ns - writer.start_ns) * 1e-9) if writer else (0, 0.0)
        while self._old:
            newer = seconds + sum(entry[2] for entry in self._old[1:])
            if size + sum(entry[1] for entry in self._old) <= self.limits.max_bytes and newer < 60 * self.limits.minutes:
                return
            self._drop_oldest()


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # somebody has deleted it
        return 0


def _seconds(path: Path) -> float:
    first, last = time_span(path)
    return (last - first) * 1e-9


def _locked(folder: Path) -> int:
    """Make the folder and lock it for this process. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / "recorder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"black box: {folder}: cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise InputError(f"black box: {folder}: another recorder writes into it") from error
    return handle
