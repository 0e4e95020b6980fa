"""A wall clock that can be set while a process runs: ``faketime`` on that process alone, its monotonic clock left real."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.require import require


class WallClock:
    """The wall clock of the processes started with :attr:`environment`.

    Args:
        folder: For the file that holds the present offset.
        offset_s: Seconds ahead of the real one.
    """

    def __init__(self, folder: Path, offset_s: float = 0.0) -> None:
        require("faketime")
        self._file = folder / "wall-clock"
        self.set(offset_s)
        faked = str(Path(__file__).with_name("faked"))
        self.environment = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # the file is read at every look at the wall clock, so that a step is seen at once
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": faked,
        }

    def set(self, offset_s: float) -> None:
        """Step the clock to ``offset_s`` seconds ahead of the real one."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{offset_s:+g}\n")
        part.replace(self._file)


def library() -> str:
    """Return the path of libfaketime for processes with threads, which belongs to the command ``faketime``."""
    command = Path(shutil.which("faketime") or "")
    lib = command.resolve().parents[1] / "lib"
    return str(next(p for pattern in ("*/faketime", "faketime") for p in lib.glob(f"{pattern}/libfaketimeMT.so.1")))
