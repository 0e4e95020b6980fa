"""Timers and guard conditions: what an executor runs because time has passed, or because somebody said so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from cyclonedds.core import DDSException
from cyclonedds.core import GuardCondition as DdsGuardCondition

from real.ros.dds.callback_groups import CallbackGroup
from real.ros.dds.clock import Clock
from real.ros.dds.endpoints import close


class Timer:
    """Calls back every period of a clock; a call that comes late is not made up for, the grid of periods stays.

    Args:
        callback: Called without arguments, or with the timer's info where it takes one.
        callback_group: Its rule in an executor.
        timer_period_ns: Period, in nanoseconds of the clock.
        clock: Whose time it is.
        wake: Called when its next call has moved, so that whoever waits looks again.
        autostart: Whether it runs at once.
    """

    def __init__(
        self,
        callback: Callable[[], Any] | None,
        callback_group: CallbackGroup,
        timer_period_ns: int,
        clock: Clock,
        wake: Callable[[], None],
        *,
        autostart: bool = True,
    ) -> None:
        if timer_period_ns < 0:
            raise ValueError(f"timer period must be 0 or more, got {timer_period_ns} ns")
        self.callback = callback
        self.callback_group = callback_group
        self.clock = clock
        self._period = int(timer_period_ns)
        self._wake = wake
        self._lock = threading.Lock()
        self._canceled = not autostart
        self._destroyed = False
        self._last = clock.now().nanoseconds
        self._next = self._last + self._period
        self._sim = bool(getattr(clock, "ros_time_is_active", False))
        clock.add_listener(self._time_was_set)

    @property
    def timer_period_ns(self) -> int:
        """The period, in nanoseconds."""
        return self._period

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        self._period = int(value)

    def _time_was_set(self) -> None:
        with self._lock:
            now = self.clock.now().nanoseconds
            sim = bool(getattr(self.clock, "ros_time_is_active", False))
            if sim != self._sim or now < self._last:  # another source of time, or back: count anew
                self._last, self._next = now, now + self._period
            self._sim = sim
        self._wake()

    def waits_ns(self) -> int | None:
        """Return how long to wait for the next call, 0 for one that is due, None when only news of the clock can bring it."""
        if self._canceled or self._destroyed:
            return None
        left = self._next - self.clock.now().nanoseconds
        if left <= 0:
            return 0
        return None if getattr(self.clock, "ros_time_is_active", False) else left

    def is_ready(self) -> bool:
        """Whether a call is due."""
        return self.waits_ns() == 0

    def is_canceled(self) -> bool:
        """Whether it stands still."""
        return self._canceled

    def cancel(self) -> None:
        """Stop it until reset."""
        self._canceled = True

    def reset(self) -> None:
        """Begin a period now; starts it again when it was cancelled."""
        with self._lock:
            self._last = self.clock.now().nanoseconds
            self._next = self._last + self._period
            self._canceled = False
        self._wake()

    def time_since_last_call(self) -> int:
        """Return the nanoseconds since the last call, or since the start."""
        return self.clock.now().nanoseconds - self._last

    def time_until_next_call(self) -> int | None:
        """Return the nanoseconds until the next call (negative: late), None when it is cancelled."""
        return None if self._canceled else self._next - self.clock.now().nanoseconds

    def take(self) -> tuple[()] | None:
        """Begin the due call and set the next one; None when none is due."""
        with self._lock:
            if not self.is_ready():
                return None
            now = self.clock.now().nanoseconds
            self._last = now
            self._next += self._period
            if self._next <= now:  # calls that were missed are left out
                self._next += self._period * ((now - self._next) // self._period + 1) if self._period else now - self._next
            return ()

    def execute(self, item: tuple[()]) -> Any:
        """Run the callback."""
        return self.callback() if self.callback is not None else None

    def destroy(self) -> None:
        """End it for good."""
        self._destroyed = True
        self.clock.remove_listener(self._time_was_set)


class GuardCondition:
    """Runs its callback in an executor after ``trigger()``, which any thread may call.

    Args:
        callback: Called without arguments.
        callback_group: Its rule in an executor.
        participant: DDS participant of the context.
    """

    def __init__(self, callback: Callable[[], Any] | None, callback_group: CallbackGroup | None, participant: Any) -> None:
        self.callback = callback
        self.callback_group = callback_group
        self.condition: Any = DdsGuardCondition(participant)

    def trigger(self) -> None:
        """Have the callback run soon."""
        self.condition.set(True)

    def take(self) -> tuple[()] | None:
        """Return something if it was triggered, and reset it."""
        try:
            return () if self.condition.take() else None
        except DDSException:  # destroyed meanwhile
            return None

    def execute(self, item: tuple[()]) -> Any:
        """Run the callback."""
        return self.callback() if self.callback is not None else None

    def destroy(self) -> None:
        """End it for good."""
        close(self.condition)
