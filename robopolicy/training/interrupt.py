"""Ctrl-C and termination as a flag that a loop looks at between steps: a step is done as a whole or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # schedulers of clusters send the second before they kill


class Interrupts:
    """Context in which the first Ctrl-C (or SIGTERM) only sets ``asked``; the second interrupts at once.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        told: Called at the first.

    Attributes:
        asked: Whether a stop was asked for.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        """Nothing is changed before the context is entered."""
        self._told = told
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._told()
