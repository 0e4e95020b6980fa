"""Lines for people, written where no tick waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Full, Queue

_WAITING = 200  # lines; of more the newest are lost, and counted
_END_S = 1.0


class Lines:
    """Says lines in a thread of its own: a full disk, a closed pipe or a terminal that stands still costs lines, never a tick.

    Args:
        say: Writes one line; may raise OSError or wait for as long as it likes.

    Attributes:
        lost: Lines that were not written.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.lost = 0
        self._say = say
        self._lines: Queue[str | None] = Queue(_WAITING)
        self._thread = threading.Thread(target=self._write, name="lines", daemon=True)
        self._thread.start()

    def __call__(self, line: str) -> None:
        """Say ``line`` soon; never waits, never raises."""
        try:
            self._lines.put_nowait(line)
        except Full:
            self.lost += 1

    def close(self) -> None:
        """Write what waits, for a second at most."""
        try:
            self._lines.put(None, timeout=_END_S)
        except Full:
            return
        self._thread.join(_END_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._say(line)
            except (OSError, ValueError):  # ValueError: of a stream that has been closed
                self.lost += 1
