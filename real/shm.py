"""Images in memory that a client and its server share, where both are on one host.

The client makes a file in ``/dev/shm`` that only its user can read and writes two random texts into it. It tells the
server the file's name and the first text (nobody else can have read it); the server opens the file and answers with the
second, which proves that it sees the same memory. From then on images cross as offsets. The file has lost its name by
then: the memory goes with the processes, whatever they die of. One that died in between leaves a file that nobody has
locked, and the next start removes it.

The memory is divided into slots. A slot that a request names is the server's until the server has answered that request
or a later one (it handles those of a session in order); until then the client does not touch it. Without a free slot,
and without shared memory at all, images cross in the message. Offsets and sizes are checked against the size of the
file before anything is read. A process of the same user could shrink the file and so end the server, as it could with a
signal; other users' files are refused.
"""

from __future__ import annotations

import fcntl
import hmac
import math
import mmap
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ObservationSpec
from real.wire import DTYPE_NAMES, Message, Placed

FOLDER = Path("/dev/shm")
SLOTS = 2
MAX_SLOT_BYTES = 64 << 20
_NAME = re.compile(r"robopolicy-[0-9a-f]{32}")
_TEXT = 32  # bytes of each of the two texts
_PAGE, _ALIGN = 4096, 64  # the texts have a page of their own
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)  # pages are there before the first image is


class SharedMemoryRefused(ValueError):
    """Memory, or a place in it, that a client names and the server does not take; the text is one line."""


def slot_bytes(sizes: list[int]) -> int:
    """Return the bytes of a slot for arrays of these sizes, each at an aligned offset."""
    return sum([_up(size, _ALIGN) for size in sizes])


def file_bytes(slot: int, slots: int = SLOTS) -> int:
    """Return the size of a file with ``slots`` slots of ``slot`` bytes."""
    return _PAGE + slots * _up(slot, _PAGE)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class Segment:
    """The client's side.

    Args:
        slot: Bytes of a slot, see :func:`slot_bytes`.
        slots: How many.

    Attributes:
        name, claim: See :attr:`offer`.
        proof: What the server answers.
        offered: Sequence of the message that offered it.
        usable: Whether the server has proved that it sees it.

    Raises:
        OSError: if there is no such folder, or no room in it.
    """

    def __init__(self, slot: int, slots: int = SLOTS) -> None:
        sweep()
        self.name = f"robopolicy-{secrets.token_hex(16)}"
        self.claim, self.proof = secrets.token_hex(_TEXT // 2), secrets.token_hex(_TEXT // 2)
        self._lent: list[int] = [0] * slots  # the sequence that a slot was lent at, 0: free
        self._slot = _up(slot, _PAGE)
        self.offered, self.usable = 0, False
        size = file_bytes(slot, slots)
        self._file: int | None = os.open(FOLDER / self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # alive: not to be swept
            os.posix_fallocate(self._file, 0, size)  # no room is said now; written to a hole it would be a signal
            memory = mmap.mmap(self._file, size, mmap.MAP_SHARED | _POPULATE)
        except BaseException:
            self.unlink()
            raise
        self._bytes = np.frombuffer(memory, np.uint8)
        self._bytes[: 2 * _TEXT] = np.frombuffer((self.claim + self.proof).encode(), np.uint8)

    @property
    def offer(self) -> dict[str, str]:
        """What the server is told."""
        return {"name": self.name, "claim": self.claim}

    def heard(self, message: Message) -> bool:
        """Note a message of the session: slots lent up to its sequence are free; returns whether it answered the offer."""
        if self.offered and message.sequence >= self.offered:
            self.give_back(message.sequence)
        if message.sequence != self.offered or self._file is None:
            return False
        self.usable = message.kind == "shared" and message.meta.get("proof") == self.proof
        self.unlink()
        return True

    def lend(self, arrays: Mapping[str, np.ndarray], sequence: int) -> dict[str, Placed]:
        """Copy ``arrays``, each of any shape, into a free slot, which is the server's from now on; nothing if that cannot be."""
        fits = slot_bytes([a.nbytes for a in arrays.values()]) <= self._slot and all(a.dtype in DTYPE_NAMES for a in arrays.values())
        if not self.usable or 0 not in self._lent or not fits:
            return {}
        slot = self._lent.index(0)
        self._lent[slot], offset, out = sequence, _PAGE + slot * self._slot, {}
        for name, array in arrays.items():
            place = self._bytes[offset : offset + array.nbytes]
            np.copyto(place.view(array.dtype).reshape(array.shape), array)
            out[name] = Placed(DTYPE_NAMES[array.dtype], array.shape, offset)
            offset += _up(array.nbytes, _ALIGN)
        return out

    def give_back(self, sequence: int) -> None:
        """Note that the server has answered request ``sequence``: what was lent up to there is free."""
        self._lent = [0 if lent <= sequence else lent for lent in self._lent]

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._lent.count(0)

    def unlink(self) -> None:
        """Take the file's name away, once the server has opened it or will not; may be called twice."""
        if self._file is not None:
            (FOLDER / self.name).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def segment_for(spec: ObservationSpec, rows: int) -> Segment | None:
    """Return memory for (rows, *shape) of every image of ``spec``; None if there are no images, no such memory or too little."""
    slot = slot_bytes([rows * spec.fields[name].size for name in spec.image_names])
    if not 0 < slot <= MAX_SLOT_BYTES or not FOLDER.is_dir():
        return None
    try:
        return Segment(slot)
    except OSError:  # no room, or no right to
        return None


class Mapped:
    """The server's side: the memory that a client made.

    Args:
        name: Of the file in ``/dev/shm``.
        claim: The text that shows that the client may read it.
        max_bytes: Of the file.

    Attributes:
        proof: The text for the client.

    Raises:
        SharedMemoryRefused: one line, if the file is not what a :class:`Segment` of this user would be.
    """

    def __init__(self, name: str, claim: str, max_bytes: int) -> None:
        if not _NAME.fullmatch(name):
            raise SharedMemoryRefused("shared memory: that is not a name of one")
        try:
            file = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SharedMemoryRefused(f"shared memory: cannot be opened here: {error.strerror}") from error
        try:
            size = _checked_size(os.fstat(file), max_bytes)
            memory = mmap.mmap(file, size, mmap.MAP_SHARED | _POPULATE)
        except (OSError, ValueError) as error:
            raise error if isinstance(error, SharedMemoryRefused) else SharedMemoryRefused(f"shared memory: cannot be mapped: {error}") from error
        finally:
            os.close(file)
        self._bytes = np.frombuffer(memory, np.uint8)  # the memory lives as long as this or any array in it
        texts = self._bytes[: 2 * _TEXT].tobytes()
        if not hmac.compare_digest(texts[:_TEXT], claim.encode()[: 2 * _TEXT]):
            raise SharedMemoryRefused("shared memory: the client does not know what is in it")
        self.proof = texts[_TEXT:].decode("ascii", "replace")
        self._inside = range(start := _address(self._bytes), start + len(self._bytes))

    def array(self, name: str, placed: Placed) -> np.ndarray:
        """Return the array (*shape) at ``placed``, a view. Raises SharedMemoryRefused if it does not lie in the slots."""
        dtype = np.dtype(placed.dtype)
        size = math.prod(placed.shape) * dtype.itemsize
        too_many = math.prod(n or 1 for n in placed.shape) > len(self._bytes)  # of an empty array, too: numpy makes none with such a shape
        if too_many or placed.dtype == "bool" or placed.offset % _ALIGN or placed.offset < _PAGE or placed.offset + size > len(self._bytes):
            raise SharedMemoryRefused(
                f"array {name[:60]!r}: {placed.dtype}{list(placed.shape)} at offset {placed.offset} does not lie in the {len(self._bytes)} bytes shared"
            )
        return self._bytes[placed.offset : placed.offset + size].view(dtype).reshape(placed.shape)

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return numpy or torch arrays (any shape), those copied that lie in this memory: the client will write there again."""
        return {name: _copied(value) if _address(value) in self._inside else value for name, value in values.items()}


def _checked_size(status: os.stat_result, max_bytes: int) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise SharedMemoryRefused("shared memory: expected a plain file")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SharedMemoryRefused("shared memory: expected a file of the server's user that nobody else can open")
    if not _PAGE <= status.st_size <= max_bytes:
        raise SharedMemoryRefused(f"shared memory: {status.st_size} bytes, expected {_PAGE} to {max_bytes}")
    if 512 * status.st_blocks < status.st_size:
        raise SharedMemoryRefused("shared memory: the file has holes")
    return status.st_size


def _address(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.__array_interface__["data"][0])
    return int(value.data_ptr()) if hasattr(value, "data_ptr") else -1


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value.clone()


def sweep() -> int:
    """Remove files of this user that no living process holds; returns how many. Without the folder there is nothing to do."""
    removed = 0
    for path in FOLDER.glob("robopolicy-*") if FOLDER.is_dir() else ():
        if not _NAME.fullmatch(path.name):
            continue
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # another user's, or gone
            continue
        try:
            if os.fstat(file).st_uid == os.geteuid():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
        except OSError:  # its maker lives
            continue
        finally:
            os.close(file)
    return removed
