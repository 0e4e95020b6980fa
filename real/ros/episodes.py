"""Episodes of a twin over ROS: which one a reading belongs to, and when the next may begin. A real robot has none."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from real.ros.connection import Connection, reliable

_AGAIN_S = 1.0  # a request that was not heeded is repeated


@dataclass(frozen=True)
class _Episode:
    """What a twin said: it holds for readings stamped at or after ``stamp_ns``."""

    index: int
    seed: int
    ended: bool
    success: bool
    stamp_ns: int


class TwinEpisodes:
    """Follows ``twin/episode``; asks for the next episode on ``twin/reset`` once the end of one has been read.

    Attributes:
        topic: Absolute name of ``twin/episode``.
        active: Whether a twin has spoken.
        begun: Whether the last call of :meth:`of` was the first in a new episode.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._now: _Episode | None = None
        self._next: _Episode | None = None
        self._reset: Any = None
        self._delivered, self._asked_at, self._ignored = False, 0.0, False
        self.begun = False
        self.topic: str = connection.subscribe("std_msgs/msg/String", "twin/episode", lambda m, _: self._take(m.data), reliable(10, latched=True)).topic_name

    @property
    def active(self) -> bool:
        """Whether a twin has spoken."""
        return self._now is not None

    def ignore(self) -> None:
        """Listen to nobody from now on: this robot is no twin."""
        with self._lock:
            self._ignored, self._now, self._next = True, None, None

    def _take(self, text: str) -> None:
        if self._ignored:
            return
        try:
            said = json.loads(text)
            episode = _Episode(int(said["episode"]), int(said["seed"]), bool(said["ended"]), bool(said["success"]), int(said.get("stamp_ns", 0)))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return  # no twin of ours says that
        if not all(0 <= number < 1 << 63 for number in (episode.index, episode.seed, episode.stamp_ns)):
            return
        if self._reset is None:
            self._reset = self._connection.publisher("std_msgs/msg/Empty", "twin/reset", reliable())
        with self._lock:
            if self._now is None or self._now.index == episode.index:
                self._now = episode
            else:
                self._next = episode

    def of(self, stamp_ns: int) -> tuple[int, bool, bool]:
        """Return number (its seed), end and success of the episode of a reading whose oldest stamp is ``stamp_ns``."""
        self.begun = False
        with self._lock:
            if self._next is not None and stamp_ns >= self._next.stamp_ns:
                self._now, self._next = self._next, None
                self.begun, self._delivered = True, False
            if self._now is None:
                return 0, False, False
            self._delivered |= self._now.ended
            return self._now.seed, self._now.ended, self._now.success

    def go_on(self) -> None:
        """Ask for the next episode if the end of this one has been read."""
        if self._delivered and self._next is None and time.monotonic() - self._asked_at > _AGAIN_S:
            self._asked_at = time.monotonic()
            self.reset()

    def reset(self) -> None:
        """Ask the twin for its next episode now."""
        if self._reset is not None:
            from real.ros import api

            self._reset.publish(api.message("std_msgs/msg/Empty")())
