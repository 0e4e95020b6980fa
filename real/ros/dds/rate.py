"""Sleeping to a beat, beside a thread that spins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from real.ros.dds.executor import ExternalShutdownException

if TYPE_CHECKING:
    from real.ros.dds.timer import Timer

_LOOKS_S = 0.05


class Rate:
    """Beats of a timer, for a thread that sleeps between them; made by ``Node.create_rate``.

    Attributes:
        timer: The timer whose beats they are.
    """

    def __init__(self, timer: Timer, node: Any) -> None:
        self.timer = timer
        self._node = node
        self._last = timer.clock.now().nanoseconds

    def sleep(self) -> None:
        """Sleep until the next beat.

        Raises:
            ExternalShutdownException: if the context is shut down meanwhile.
        """
        period = self.timer.timer_period_ns
        until = self._last + period
        now = self.timer.clock.now().nanoseconds
        if now > until + period:  # beats that were missed are left out
            until = now
        while (left := until - self.timer.clock.now().nanoseconds) > 0:
            if not self._node.context.ok() or self.timer.is_canceled():
                raise ExternalShutdownException
            time.sleep(min(left / 1e9, _LOOKS_S))
        self._last = until

    def destroy(self) -> None:
        """End it."""
        self._node.destroy_rate(self)
