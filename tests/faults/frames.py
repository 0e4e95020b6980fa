"""Hostile bytes: mutated messages, lengths that are only claimed, and what a process has used of the memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zmq

Frames = list[bytes]

TWO_GIB = 1 << 31
#: MessagePack that claims two to four thousand million bytes or items, and nests without end.
CLAIMS = [bytes([lead]) + b"\xff\xff\xff\xff" for lead in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)]
CLAIMS += [bytes([lead]) + struct.pack(">I", TWO_GIB) for lead in (0xC6, 0xDB, 0xDD, 0xDF)]
CLAIMS += [b"\x91" * 100_000, b"\x81\xa1a" * 50_000]


def mutated(messages: Sequence[Frames], number: int, seed: int = 0) -> Iterator[Frames]:
    """Yield ``number`` messages, each one of ``messages`` with one to four changes; the same for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(number):
        frames = [bytearray(frame) for frame in messages[random.integers(len(messages))]]
        for _ in range(random.integers(1, 5)):
            _change(frames, random)
        yield [bytes(frame) for frame in frames] or [b""]


def _change(frames: list[bytearray], random: np.random.Generator) -> None:
    """Change one thing about a message."""
    kind = random.integers(8)
    if not frames or kind == 0:
        frames.insert(random.integers(len(frames) + 1), bytearray(random.bytes(random.integers(64))))
        return
    at = int(random.integers(len(frames)))
    frame = frames[at]
    if kind == 1:
        del frames[at]
    elif kind == 2:
        frames.insert(at, bytearray(frame))
    elif kind == 3:
        del frame[random.integers(len(frame) + 1) :]
    elif kind == 4:
        frame[:] = CLAIMS[random.integers(len(CLAIMS))] + frame
    elif kind == 5 and frame:  # a length or a number in the middle becomes an enormous one
        where = random.integers(len(frame))
        frame[where : where + 5] = CLAIMS[random.integers(9)]
    else:
        for where in random.integers(max(len(frame), 1), size=random.integers(1, 9)):
            frame[where : where + 1] = bytes([random.integers(256)])


def throw(address: str, messages: Iterator[Frames], kind: int = zmq.DEALER) -> int:
    """Send messages to ``address`` without reading the answers' meaning; returns how many went."""
    context, sent = zmq.Context(), 0
    link = context.socket(kind)
    link.setsockopt(zmq.LINGER, 0)
    link.setsockopt(zmq.SNDTIMEO, 5000)
    link.connect(address)
    try:
        for frames in messages:
            link.send_multipart(frames)
            sent += 1
            while link.poll(0):
                link.recv_multipart()
    finally:
        context.destroy(linger=500)
    return sent


def _stream(address: str) -> socket.socket:
    transport, _, rest = address.partition("://")
    if transport == "ipc":
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(5)
        made.connect(rest)
        return made
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def claim(address: str, length: int = TWO_GIB, kind: str = "DEALER") -> None:
    """Shake hands with a ZeroMQ socket as ZMTP 3.0 says and announce one frame of ``length`` bytes; a few of them follow."""
    with _stream(address) as stream:
        stream.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode() + b"\x08Identity" + bytes(4)
        stream.sendall(b"\x04" + bytes([len(ready)]) + ready)
        _drain(stream, 64)
        stream.sendall(b"\x02" + struct.pack(">Q", length) + bytes(4096))
        _drain(stream, 1)


def garbage(address: str, data: bytes) -> None:
    """Send bytes that are no ZMTP at all."""
    with _stream(address) as stream:
        try:
            stream.sendall(data)
            _drain(stream, 1)
        except OSError:
            return


def _drain(stream: socket.socket, least: int) -> None:
    """Read until ``least`` bytes have come, the other side closes or 0.2 s pass."""
    stream.settimeout(0.2)
    try:
        while least > 0 and (data := stream.recv(4096)):
            least -= len(data)
    except OSError:
        return


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
