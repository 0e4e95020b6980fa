"""Points in time at a fixed rate, on an absolute grid: late is late, nothing is caught up."""

from __future__ import annotations


class Grid:
    """The points ``start + k / rate_hz``.

    Args:
        rate_hz: Points per second.
        start: The first point, monotonic s.

    Attributes:
        due: The next point, s.
    """

    def __init__(self, rate_hz: float, start: float) -> None:
        self._period, self._start, self._next = 1.0 / rate_hz, start, 0
        self.due = start

    def begin(self, now: float) -> int:
        """Use the point that is nearest to ``now``, at or after :attr:`due`; returns how many before it have passed unused.

        The point after it is then due, so two ticks are never closer than half a period.
        """
        missed = max(round((now - self.due) / self._period), 0)
        self._next += missed + 1
        self.due = self._start + self._next * self._period
        return missed
