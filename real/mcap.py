"""MCAP files (https://mcap.dev/spec): a writer whose every chunk is whole on the disk, and a reader that survives a torn end.

Own code because the black box needs what the library does not offer: a chunk closed on demand, a write that fails
(full disk) taken back to the last whole record, and no dependency on the robot. Chunks are not compressed, and each
carries the schemas and channels of its messages, so any chunk can be read without the ones before it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from policies.spec import InputError

MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = 1, 2, 3, 4, 5, 6, 7, 8
_STATISTICS, _SUMMARY_OFFSET, _DATA_END = 0x0B, 0x0E, 0x0F
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_LARGE = 1 << 16
_CHUNK_HEAD = struct.Struct("<QQQI")


class Channel(NamedTuple):
    """What a stream of messages is: topic, name, encoding and text of its schema, encoding of its messages."""

    topic: str
    schema: str
    schema_encoding: str
    schema_data: bytes
    encoding: str


class McapMessage(NamedTuple):
    """One message of a file; ``data`` views the file."""

    channel: Channel
    sequence: int
    log_time: int
    publish_time: int
    data: Any


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def _record(code: int, content: bytes) -> bytes:
    return _RECORD.pack(code, len(content)) + content


def _definitions(number: int, channel: Channel) -> tuple[bytes, bytes]:
    """Return the records of a channel's schema (of the same number) and of the channel."""
    schema = struct.pack("<H", number) + _text(channel.schema) + _text(channel.schema_encoding) + _text(channel.schema_data)
    stream = struct.pack("<HH", number, number) + _text(channel.topic) + _text(channel.encoding) + _text(b"")
    return _record(_SCHEMA, schema), _record(_CHANNEL, stream)


class McapWriter:
    """Writes one file.

    Args:
        path: Created or overwritten.

    Attributes:
        path: As given.
        size: Bytes of whole records in the file.
        messages: Messages in the file.
        start_ns, end_ns: Smallest and largest log time in the file; 0 while it is empty.
        pending_bytes: Bytes of the open chunk.
        pending_messages: Messages of the open chunk.

    Raises:
        OSError: from any method that writes; the file then still ends with its last whole record.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.messages, self.start_ns, self.end_ns = path, 0, 0, 0, 0
        self._channels: dict[Channel, int] = {}
        self._counts: dict[int, int] = {}
        self._chunks: list[bytes] = []  # records of the chunk index
        self._file = path.open("wb", buffering=0)
        self.discard()
        try:
            self._append([MAGIC + _record(_HEADER, _text("") + _text("robopolicy"))])
        except OSError:
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def add(self, channel: Channel, log_time: int, data: Sequence[Any], sequence: int = 0, publish_time: int | None = None) -> None:
        """Put a message, given in parts, into the open chunk. Times are nanoseconds since 1970."""
        number = self._channels.setdefault(channel, len(self._channels) + 1)
        if number not in self._open:
            for record in _definitions(number, channel):
                self._put(record)
        length = _MESSAGE_HEAD.size + sum(memoryview(part).nbytes for part in data)
        self._open.setdefault(number, []).append((log_time, self.pending_bytes))
        head = _MESSAGE_HEAD.pack(number, sequence & 0xFFFFFFFF, log_time, log_time if publish_time is None else publish_time)
        self._put(_RECORD.pack(_MESSAGE, length) + head)
        for part in data:
            self._put(part)
        self.pending_messages += 1

    def _put(self, part: Any) -> None:
        view = memoryview(part).cast("B")
        self.pending_bytes += view.nbytes
        if view.nbytes >= _LARGE:
            self._parts.append(view)  # an image goes to the disk from where it is
            return
        if not self._parts or not isinstance(self._parts[-1], bytearray):
            self._parts.append(bytearray())
        self._parts[-1] += view

    def discard(self) -> None:
        """Forget the open chunk."""
        self._parts: list[Any] = []
        self._open: dict[int, list[tuple[int, int]]] = {}
        self.pending_bytes = self.pending_messages = 0

    def flush(self) -> None:
        """Write the open chunk with its index, if there is one. When it cannot be written it stays open."""
        if not self.pending_messages:
            return
        crc = 0
        for part in self._parts:
            crc = zlib.crc32(part, crc)
        times = [time for entries in self._open.values() for time, _ in entries]
        head = _CHUNK_HEAD.pack(min(times), max(times), self.pending_bytes, crc) + _text("") + struct.pack("<Q", self.pending_bytes)
        start, length = self.size, _RECORD.size + len(head) + self.pending_bytes
        indices, offsets = b"", b""
        for number, entries in self._open.items():
            offsets += struct.pack("<HQ", number, start + length + len(indices))
            table = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            indices += _record(_MESSAGE_INDEX, struct.pack("<H", number) + _text(table))
        self._append([_RECORD.pack(_CHUNK, len(head) + self.pending_bytes) + head, *self._parts, indices])
        index = struct.pack("<QQQQ", min(times), max(times), start, length) + _text(offsets) + struct.pack("<Q", len(indices))
        self._chunks.append(_record(_CHUNK_INDEX, index + _text("") + struct.pack("<QQ", self.pending_bytes, self.pending_bytes)))
        self.start_ns = min(times) if not self.messages else min(self.start_ns, *times)
        self.end_ns = max(self.end_ns, *times)
        self.messages += self.pending_messages
        for number, entries in self._open.items():
            self._counts[number] = self._counts.get(number, 0) + len(entries)
        self.discard()

    def finish(self) -> None:
        """Write the open chunk, the summary and the end, and close: any reader now opens the file by its index."""
        try:
            self.flush()
            self._append(self._summary())
        finally:
            self._file.close()

    def close(self) -> None:
        """Close without an end, as after a crash; nothing more is written."""
        self._file.close()

    def sync(self) -> None:
        """Bring what was written to the disk itself: it then survives a loss of power."""
        os.fdatasync(self._file.fileno())

    def _summary(self) -> list[bytes]:
        definitions = [_definitions(number, channel) for channel, number in self._channels.items() if number in self._counts]
        counts = b"".join(struct.pack("<HQ", number, count) for number, count in self._counts.items())
        totals = struct.pack("<QHIIIIQQ", self.messages, len(definitions), len(definitions), 0, 0, len(self._chunks), self.start_ns, self.end_ns)
        groups = {
            _SCHEMA: b"".join(schema for schema, _ in definitions),
            _CHANNEL: b"".join(channel for _, channel in definitions),
            _STATISTICS: _record(_STATISTICS, totals + _text(counts)),
            _CHUNK_INDEX: b"".join(self._chunks),
        }
        end = _record(_DATA_END, struct.pack("<I", 0))
        start = offset = self.size + len(end)
        offsets = b""
        for code, group in groups.items():
            if group:
                offsets += _record(_SUMMARY_OFFSET, struct.pack("<BQQ", code, offset, len(group)))
            offset += len(group)
        body = b"".join(groups.values()) + offsets
        footer = _RECORD.pack(_FOOTER, 20) + struct.pack("<QQ", start, offset)
        return [end, body, footer + struct.pack("<I", zlib.crc32(body + footer)), MAGIC]

    def _append(self, parts: list[Any]) -> None:
        """Write the parts one after the other; if that fails the file is cut back to where it was."""
        written = 0
        try:
            for part in parts:
                view = memoryview(part).cast("B")
                while view.nbytes:
                    done = self._file.write(view) or 0
                    written += done
                    view = view[done:]
        except OSError:
            self._file.truncate(self.size)
            self._file.seek(self.size)
            raise
        self.size += written


def time_span(path: Path) -> tuple[int, int]:
    """Return the first and last log time in the whole chunks of a file, reading little of it; (0, 0) if there are none."""
    first, last, at = 0, 0, len(MAGIC)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at + _RECORD.size + 16 <= size:
            file.seek(at)
            code, length = _RECORD.unpack(file.read(_RECORD.size))
            if code == _CHUNK and length <= size - at - _RECORD.size:
                start, end = struct.unpack("<QQ", file.read(16))
                first, last = min(first or start, start), max(last, end)
            if not code:
                break
            at += _RECORD.size + length
    return first, last


@dataclass
class McapReader:
    """Reads a file record by record, as far as it is whole; iterate over it.

    Attributes:
        path: The file.
        finished: After the iteration: whether the file ends as it should.
        lost_bytes: After the iteration: bytes behind the last whole record.
        damaged: After the iteration: chunks whose checksum is wrong; their messages are not given.

    Raises:
        InputError: when the file cannot be opened or is no MCAP.
    """

    path: Path
    finished: bool = False
    lost_bytes: int = 0
    damaged: int = 0

    def __iter__(self) -> Iterator[McapMessage]:
        """Yield every message of every whole chunk, in the order of the file."""
        self.finished, self.lost_bytes, self.damaged = False, 0, 0
        try:
            with self.path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise InputError(f"{self.path}: not an MCAP file")
                yield from self._records(file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error}") from error

    def _records(self, file: BinaryIO, size: int) -> Iterator[McapMessage]:
        at = len(MAGIC)
        schemas: dict[int, tuple[str, str, bytes]] = {}
        channels: dict[int, Channel] = {}
        while at + _RECORD.size <= size:
            code, length = _RECORD.unpack(file.read(_RECORD.size))
            # Zeros are what a file system may leave behind the end after a loss of power.
            if not code or length > size - at - _RECORD.size:
                break
            content = memoryview(file.read(length))
            if code == _CHUNK:
                yield from self._chunk(content, schemas, channels)
            elif code in (_SCHEMA, _CHANNEL, _MESSAGE):
                try:
                    found = _taken_in(code, content, schemas, channels)
                except (struct.error, KeyError, ValueError):
                    break
                if found is not None:
                    yield found
            at += _RECORD.size + length
            if code == _FOOTER:
                self.finished = file.read(len(MAGIC)) == MAGIC
                at += len(MAGIC) if self.finished else 0
                break
        self.lost_bytes = size - at

    def _chunk(self, content: memoryview, schemas: dict[int, tuple[str, str, bytes]], channels: dict[int, Channel]) -> Iterator[McapMessage]:
        records, whole = memoryview(b""), False
        try:
            _, _, size, crc = _CHUNK_HEAD.unpack_from(content)
            compression, at = _taken(content, _CHUNK_HEAD.size)
            records = content[at + 8 :]
            whole = not len(compression) and len(records) == size and (not crc or zlib.crc32(records) == crc)
        except (struct.error, ValueError):
            whole = False  # its own head is torn
        if not whole:
            self.damaged += 1
            return
        at = 0
        try:
            while at < len(records):
                code, length = _RECORD.unpack_from(records, at)
                inner = records[at + _RECORD.size : at + _RECORD.size + length]
                at += _RECORD.size + length
                if (found := _taken_in(code, inner, schemas, channels)) is not None:
                    yield found
        except (struct.error, KeyError, ValueError):
            self.damaged += 1


def _taken(data: memoryview, at: int) -> tuple[memoryview, int]:
    (length,) = struct.unpack_from("<I", data, at)
    if length > len(data) - at - 4:
        raise ValueError("a text that is longer than its record")
    return data[at + 4 : at + 4 + length], at + 4 + length


def _taken_in(code: int, data: memoryview, schemas: dict[int, tuple[str, str, bytes]], channels: dict[int, Channel]) -> McapMessage | None:
    """Note a schema or a channel, or return a message. Raises struct.error, KeyError or ValueError for what is none."""
    if code == _MESSAGE:
        number, sequence, log_time, publish_time = _MESSAGE_HEAD.unpack_from(data)
        return McapMessage(channels[number], sequence, log_time, publish_time, data[_MESSAGE_HEAD.size :])
    if code == _SCHEMA:
        (number,) = struct.unpack_from("<H", data)
        name, at = _taken(data, 2)
        encoding, at = _taken(data, at)
        text, _ = _taken(data, at)
        schemas[number] = (str(name, "utf-8"), str(encoding, "utf-8"), bytes(text))
    elif code == _CHANNEL:
        number, schema = struct.unpack_from("<HH", data)
        topic, at = _taken(data, 4)
        encoding, _ = _taken(data, at)
        channels[number] = Channel(str(topic, "utf-8"), *schemas.get(schema, ("", "", b"")), str(encoding, "utf-8"))
    return None
