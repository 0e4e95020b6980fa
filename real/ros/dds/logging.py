"""Loggers as rclpy's: levels, one line to standard error, ``throttle_duration_sec`` and ``once``."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class LoggingSeverity(IntEnum):
    """How bad a line is."""

    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


_lock = threading.Lock()
_levels: dict[str, LoggingSeverity] = {"": LoggingSeverity.INFO}
_loggers: dict[str, RcutilsLogger] = {}


class RcutilsLogger:
    """A named logger; the name's parts, parted by dots, inherit their level from the left.

    Args:
        name: Its name, e.g. ``arm.driver``.

    Attributes:
        outlet: Called with (severity, line) for every line said, e.g. what publishes ``/rosout``; None for none.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.outlet: Callable[[LoggingSeverity, str], None] | None = None
        self._once: set[str] = set()
        self._last: dict[str, float] = {}
        self._skipped: set[str] = set()

    def get_child(self, name: str) -> RcutilsLogger:
        """Return the logger whose name continues this one's."""
        if not name:
            raise ValueError("Child logger name must not be empty.")
        return get_logger(f"{self.name}.{name}" if self.name else name)

    def set_level(self, level: LoggingSeverity | int) -> None:
        """Say from which severity on lines are written."""
        _levels[self.name] = LoggingSeverity(level)

    def get_effective_level(self) -> LoggingSeverity:
        """Return the level that holds here: its own, or of the nearest name to the left that has one."""
        name = self.name
        while name:
            if level := _levels.get(name):
                return level
            name = name.rpartition(".")[0]
        return _levels[""]

    def is_enabled_for(self, severity: LoggingSeverity | int) -> bool:
        """Whether a line of this severity would be written."""
        return severity >= self.get_effective_level()

    def log(
        self, message: Any, severity: LoggingSeverity | int, name: str = "", *, throttle_duration_sec: float = 0.0, once: bool = False,
        skip_first: bool = False, **_: Any,
    ) -> bool:  # fmt: skip
        """Write one line; returns whether it was written.

        Args:
            message: Anything with a text.
            severity: How bad it is.
            name: Ignored; the logger's is used.
            throttle_duration_sec: At least so many seconds between two lines of one place in the code.
            once: Only the first of one place.
            skip_first: Not the first of one place.
        """
        severity = LoggingSeverity(severity)
        if not self.is_enabled_for(severity) or not self._due(throttle_duration_sec, once, skip_first):
            return False
        shown = str(message)
        stream = sys.stderr
        try:
            with _lock:
                stream.write(f"[{severity.name}] [{time.time():.9f}] [{self.name}]: {shown}\n")
                stream.flush()
        except (OSError, ValueError):  # nobody reads standard error any more: that must stop no node
            pass
        if self.outlet is not None:
            self.outlet(severity, shown)
        return True

    def _due(self, throttle: float, once: bool, skip_first: bool) -> bool:
        if not (throttle or once or skip_first):
            return True
        frame = sys._getframe(3)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if skip_first and place not in self._skipped:
            self._skipped.add(place)
            return False
        if once:
            if place in self._once:
                return False
            self._once.add(place)
        if throttle:
            now = time.monotonic()
            if now - self._last.get(place, -1e9) < throttle:
                return False
            self._last[place] = now
        return True

    def debug(self, message: Any, **kwargs: Any) -> bool:
        """Write a line about debugging; arguments are those of ``log``."""
        return self.log(message, LoggingSeverity.DEBUG, **kwargs)

    def info(self, message: Any, **kwargs: Any) -> bool:
        """Write a line about what goes on; arguments are those of ``log``."""
        return self.log(message, LoggingSeverity.INFO, **kwargs)

    def warning(self, message: Any, **kwargs: Any) -> bool:
        """Write a line about what may go wrong; arguments are those of ``log``."""
        return self.log(message, LoggingSeverity.WARN, **kwargs)

    def warn(self, message: Any, **kwargs: Any) -> bool:
        """Write a line about what may go wrong; arguments are those of ``log``."""
        return self.log(message, LoggingSeverity.WARN, **kwargs)

    def error(self, message: Any, **kwargs: Any) -> bool:
        """Write a line about what has gone wrong; arguments are those of ``log``."""
        return self.log(message, LoggingSeverity.ERROR, **kwargs)

    def fatal(self, message: Any, **kwargs: Any) -> bool:
        """Write a line about what cannot go on; arguments are those of ``log``."""
        return self.log(message, LoggingSeverity.FATAL, **kwargs)


def get_logger(name: str) -> RcutilsLogger:
    """Return the logger of a name; one name, one logger."""
    with _lock:
        return _loggers.setdefault(name, RcutilsLogger(name))


def set_logger_level(name: str, level: LoggingSeverity | int) -> None:
    """Set the level of a name; empty is that of all."""
    _levels[name] = LoggingSeverity(level)
