"""The latched emergency stop: a file per robot that outlives every process; while it is there, no command is taken.

It is written, and on the disk, before the stop is acted on, and only an operator removes it (``robopolicy estop --clear``).
A file that cannot be read, or read as what was written, is a stop too. The drive looks at every tick, so that writing the
file from any process (``robopolicy estop``) stops the robot, whatever else still works.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from policies.spec import InputError

FILE_NAME = "estop.json"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class LatchRecord:
    """What is known of a stop: its cause, when it came (ISO 8601, UTC) and who asked for it."""

    cause: str
    time: str
    who: str

    def line(self) -> str:
        """Return the record as one line."""
        return f"{self.cause} (by {self.who}, {self.time})"


def state_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return where the state of all robots lies: ``root``, else $ROBOPOLICY_STATE, else robopolicy/ in the XDG state home."""
    given = root or os.environ.get("ROBOPOLICY_STATE")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()) / "robopolicy"  # XDG: a relative one is ignored


def robot_folder(robot: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Return the state folder of the robot of that name; characters that are none of a file name become ``-``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", robot).strip("-.") or "robot"
    return state_folder(root) / name


class Latch:
    """The stop of one robot.

    Args:
        folder: Its state folder; made when it is not there.

    Attributes:
        path: The file.

    Raises:
        InputError: if nothing can be written there: a stop that cannot be kept is no stop.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / f".{FILE_NAME}.{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(f"state folder {folder}: the emergency stop cannot be kept there: {error.strerror}; set ROBOPOLICY_STATE") from error
        self._seen: tuple[int, int, int] | None = None  # inode, time and size of the file that was read last
        self._record: LatchRecord | None = None

    def read(self) -> LatchRecord | None:
        """Return the stop that is latched, None when there is none; costs one ``stat`` while nothing changes."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._seen = self._record = None
            return None
        except OSError as error:
            self._seen = self._record = None
            return LatchRecord(f"the latch {self.path} cannot be looked at: {error.strerror}", "", "the drive")
        mark = found.st_ino, found.st_mtime_ns, found.st_size
        if mark != self._seen:
            self._record, self._seen = _parse(self.path), mark
        return self._record

    def set(self, cause: str, who: str) -> LatchRecord:
        """Latch the stop and return it once it is on the disk; one that is latched already stays as it is.

        Raises:
            OSError: if it cannot be written; the caller stops all the same.
        """
        before = self.read()
        if before is not None and self._seen is not None:  # it has been seen; where nobody can look, nothing may be kept
            return before
        record = LatchRecord(_line(cause), datetime.now(timezone.utc).isoformat(timespec="milliseconds"), _line(who))
        part = self.path.with_name(f".{FILE_NAME}.{os.getpid()}")
        with part.open("w", encoding="utf-8") as file:
            json.dump({"cause": record.cause, "time": record.time, "who": record.who}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        _sync_folder(self.path.parent)
        return record

    def clear(self) -> LatchRecord | None:
        """Remove the latch and return what it was; the operator's alone.

        Raises:
            InputError: if the file cannot be removed.
        """
        before = self.read()
        try:
            self.path.unlink(missing_ok=True)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise InputError(f"{self.path} cannot be removed: {error.strerror}") from error
        return before


def stop_all(folders: Sequence[Path], cause: str, who: str) -> tuple[dict[Path, LatchRecord], list[str]]:
    """Latch the stop of several robots; one that cannot be latched keeps none of the others from its stop.

    Returns:
        State folder -> the stop that is latched there; a line for each robot that is NOT stopped.
    """
    latched, failed = dict[Path, LatchRecord](), []
    for folder in folders:
        try:
            latched[folder] = Latch(folder).set(cause, who)
        except InputError as error:
            failed.append(str(error))
        except OSError as error:
            failed.append(f"{folder / FILE_NAME}: the latch cannot be written: {error.strerror}")
    return latched, failed


def _parse(path: Path) -> LatchRecord:
    """Return the record in the file, or one that says why there is none: also then the robot stays stopped."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return LatchRecord(*(_line(str(found[key])) for key in ("cause", "time", "who")))
    except OSError as error:
        return LatchRecord(f"the latch {path} cannot be read: {error.strerror}", "", "the drive")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return LatchRecord(f"the latch {path} is damaged: {type(error).__name__}", "", "the drive")


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _sync_folder(folder: Path) -> None:
    """Bring the folder's own entries to the disk: a name that a crash forgets latches nothing."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
