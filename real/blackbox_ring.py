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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.spec import InputError
from real.mcap import Channel, McapWriter, time_span

_NAME = re.compile(r"segment-(\d{6,})\.mcap")
_CHUNK_BYTES = 4 << 20
_SETTLED = 10  # chunks without a refusal, before it is said that the disk takes again
_RETRY_S = 1.0  # between two attempts on a disk that refused


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
        full: Why the disk refuses at present; empty: it does not.

    Raises:
        InputError: when the folder cannot be used, or another recorder uses it.
    """

    def __init__(self, folder: Path, limits: RingLimits, say: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.limits, self._say, self._clock = folder, limits, say, clock
        self.lost = self.written = 0
        self.full = ""
        self._lock = _locked(folder)
        self._writer: McapWriter | None = None
        self._opened_at = self._flushed_at = clock()
        self._refused_at = -_RETRY_S
        self._lost_before = 0  # when the disk began to refuse
        self._old = [(path, path.stat().st_size, _seconds(path)) for path in segments(folder)]
        self._number = int(_NAME.fullmatch(self._old[-1][0].name)[1]) if self._old else 0  # type: ignore[index]

    @property
    def segment_begins(self) -> bool:
        """Whether the next message begins a segment: what explains the others belongs at its start."""
        return self._writer is None

    def add(self, channel: Channel, log_time: int, data: list[Any], sequence: int = 0) -> None:
        """Take a message; it is on the disk within ``flush_s`` of :meth:`due` being called."""
        writer = self._writer or self._open()
        if writer is None:
            self.lost += 1
            return
        writer.add(channel, log_time, data, sequence)
        if writer.pending_bytes >= min(_CHUNK_BYTES, self.limits.max_bytes // 16):
            self.flush()

    def due(self) -> None:
        """Write what is due; call it often."""
        if self._clock() - self._flushed_at >= self.limits.flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the open chunk, begin a new segment when this one is done, and delete what is over the limits."""
        self._flushed_at = self._clock()
        writer = self._writer
        if writer is None:
            return
        waiting = writer.pending_messages
        if waiting and not self._attempt(writer):
            self.lost += waiting
            writer.discard()
        elif waiting:
            self.written += waiting
            self._fits_again()
        if self._clock() - self._opened_at >= self.limits.segment_s or writer.size >= self.limits.max_bytes // 8:
            self.end_segment()
        self._prune()

    def end_segment(self) -> None:
        """Finish the open segment, so that any reader opens it; the next message begins another."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._flush_last(writer)
        if writer.messages:
            self._old.append((writer.path, writer.path.stat().st_size, (writer.end_ns - writer.start_ns) * 1e-9))
        else:
            writer.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Finish the open segment and let go of the folder."""
        self.end_segment()
        self._prune()
        os.close(self._lock)

    def _flush_last(self, writer: McapWriter) -> None:
        waiting = writer.pending_messages
        if waiting and not self._attempt(writer):
            self.lost += waiting
            writer.discard()
        elif waiting:
            self.written += waiting
        try:
            writer.finish()
        except OSError as error:  # without its end the segment is still read record by record
            self._refuses(error)

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

    def _attempt(self, writer: McapWriter) -> bool:
        """Write the open chunk; when the disk is full the oldest segment goes and it is tried once more."""
        for attempt in (0, 1):
            try:
                writer.flush()
                writer.sync()
                return True
            except OSError as error:
                if not writer.pending_messages:  # written, though not known to be on the disk itself
                    self._refuses(error)
                    return True
                if error.errno == errno.EFBIG and writer.messages:  # the file is as large as it may be, not the disk
                    self._opened_at = -1e18
                if attempt or error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._drop_oldest():
                    self._refuses(error)
                    return False
        return False

    def _refuses(self, error: OSError) -> None:
        self._refused_at = self._clock()
        if not self.full:
            self.full, self._lost_before = os.strerror(error.errno or 0), self.lost
            self._say(f"black box: {self.folder}: {self.full}; what does not fit is dropped and counted")

    def _fits_again(self) -> None:
        if self.full and self._clock() - self._refused_at >= _SETTLED * self.limits.flush_s:
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
