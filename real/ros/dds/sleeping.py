"""Sleeping on a clock: the system's, the steady one or ROS time, ended early by the context's shutdown."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from real.ros.dds.exceptions import NotInitializedException

if TYPE_CHECKING:
    from real.ros.dds.clock import Clock


def sleep_until(clock: Clock, until_ns: int, context: Any = None) -> bool:
    """Block until ``clock`` shows ``until_ns`` (ns); False if the context ended or the source of ROS time changed meanwhile.

    Raises:
        NotInitializedException: if there is no running context.
    """
    from real.ros.dds.clock import JumpThreshold
    from real.ros.dds.context import get_default_context

    context = get_default_context() if context is None else context
    if not context.ok():
        raise NotInitializedException
    news = threading.Condition()
    switched: list[bool] = []

    def wake() -> None:
        with news:
            news.notify_all()

    threshold = JumpThreshold(min_forward=None, min_backward=None, on_clock_change=True)
    handle = clock.create_jump_callback(threshold, post_callback=lambda jump: switched.append(True))
    clock.add_listener(wake)
    context.on_shutdown(wake)
    try:
        with news:
            while context.ok() and not switched:
                left = until_ns - clock.now().nanoseconds
                if left <= 0:
                    return True
                simulated = getattr(clock, "ros_time_is_active", False)
                news.wait(None if simulated else min(left / 1e9, 3600.0))
        return False
    finally:
        handle.unregister()
        clock.remove_listener(wake)
        context._forget(wake)
