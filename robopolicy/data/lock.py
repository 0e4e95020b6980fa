"""One process at a time changes a data set: an advisory lock on its folder, freed by the system however the process ends."""

from __future__ import annotations

import os
from pathlib import Path

from policies.spec import InputError


class FolderLock:
    """Holds the lock of a folder until :meth:`release`.

    Raises:
        InputError: if another process holds it.
    """

    def __init__(self, root: Path) -> None:
        """Take the lock."""
        import fcntl

        self._handle: int | None = os.open(root, os.O_RDONLY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._handle)
            self._handle = None
            raise InputError(f"data set {root} is being changed by another process (recording, editing or recovering); wait for it to end") from None

    def release(self) -> None:
        """Free the lock; may be called twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
