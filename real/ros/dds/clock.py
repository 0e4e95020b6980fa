"""Times, durations and clocks: system, steady, and ROS time, which follows ``/clock`` where ``use_sim_time`` is set.

A jump of ROS time, backwards too, is told to the callbacks that ask for it and to the timers that stand on the clock.
"""

from __future__ import annotations

import threading
import time as _time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Any

#: Nanoseconds in a second, and the largest count of them that fits in a signed 64-bit number.
S_TO_NS, LARGEST = 1_000_000_000, 2**63 - 1


class ClockType(IntEnum):
    """What a clock shows. Values as in ``rcl``."""

    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


class ClockChange(IntEnum):
    """Whether a jump came with a change of the source of ROS time. Values as in ``rcl``."""

    ROS_TIME_NO_CHANGE = 1
    ROS_TIME_ACTIVATED = 2
    ROS_TIME_DEACTIVATED = 3
    SYSTEM_TIME_NO_CHANGE = 4


def _nanoseconds(seconds: float, nanoseconds: float) -> int:
    total = int(seconds * S_TO_NS) if isinstance(seconds, float) else int(seconds) * S_TO_NS
    total += int(nanoseconds)
    if not -LARGEST - 1 <= total <= LARGEST:
        raise OverflowError(f"{total} ns do not fit in 64 bits")
    return total


class _Counted(ABC):
    """A number of nanoseconds, compared with what :meth:`_other` says is of its kind."""

    __slots__ = ("_ns",)
    _ns: int

    @property
    def nanoseconds(self) -> int:
        """Return it in nanoseconds."""
        return self._ns

    @abstractmethod
    def _other(self, other: object) -> int | None:
        """Return the nanoseconds of ``other``; None: it is of another kind."""

    def __eq__(self, other: object) -> bool:
        return NotImplemented if (ns := self._other(other)) is None else self._ns == ns

    def __lt__(self, other: object) -> bool:
        return NotImplemented if (ns := self._other(other)) is None else self._ns < ns

    def __le__(self, other: object) -> bool:
        return NotImplemented if (ns := self._other(other)) is None else self._ns <= ns

    def __gt__(self, other: object) -> bool:
        return NotImplemented if (ns := self._other(other)) is None else self._ns > ns

    def __ge__(self, other: object) -> bool:
        return NotImplemented if (ns := self._other(other)) is None else self._ns >= ns


class Duration(_Counted):
    """A span of time, signed, in nanoseconds."""

    __slots__ = ()

    def __init__(self, *, seconds: float = 0, nanoseconds: float = 0) -> None:
        """Raises OverflowError if the sum does not fit in 64 bits."""
        self._ns = _nanoseconds(seconds, nanoseconds)

    def _other(self, other: object) -> int | None:
        return other.nanoseconds if isinstance(other, Duration) else None

    def __hash__(self) -> int:
        return hash(("Duration", self._ns))

    def __repr__(self) -> str:
        return f"Duration(nanoseconds={self._ns})"

    def to_msg(self) -> Any:
        """Return a ``builtin_interfaces/msg/Duration``; the nanoseconds are never negative."""
        from real.ros.messages import message

        sec, nanosec = divmod(self._ns, S_TO_NS)
        return message("builtin_interfaces/msg/Duration")(sec=sec, nanosec=nanosec)

    @classmethod
    def from_msg(cls, msg: Any) -> Duration:
        """Return the value of a ``builtin_interfaces/msg/Duration``."""
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec)


class Time(_Counted):
    """A moment of one clock, in nanoseconds; times of clocks of different types are not compared.

    Raises:
        ValueError: if a part is negative.
        OverflowError: if the sum does not fit in 64 bits.
    """

    __slots__ = ("_type",)

    def __init__(self, *, seconds: float = 0, nanoseconds: float = 0, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        if not isinstance(clock_type, ClockType):
            raise TypeError(f"clock_type is a ClockType, not {clock_type!r}")
        if seconds < 0 or nanoseconds < 0:
            raise ValueError("a time is not negative")
        self._ns, self._type = _nanoseconds(seconds, nanoseconds), clock_type

    @property
    def clock_type(self) -> ClockType:
        """Return the type of the clock."""
        return self._type

    def seconds_nanoseconds(self) -> tuple[int, int]:
        """Return (whole seconds, nanoseconds beyond them)."""
        return divmod(self._ns, S_TO_NS)

    def _moved(self, by: int) -> Time:
        moved = self._ns + by
        if moved > LARGEST:
            raise OverflowError("the sum leaves what a time can hold")
        if moved < 0:
            raise ValueError("a time is not negative")
        return Time(nanoseconds=moved, clock_type=self._type)

    def __add__(self, other: object) -> Time:
        return self._moved(other.nanoseconds) if isinstance(other, Duration) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Any:
        """Return the Duration between two times, or the Time that is a Duration earlier."""
        if isinstance(other, Time):
            self._same_clock(other)
            return Duration(nanoseconds=self._ns - other._ns)
        return self._moved(-other.nanoseconds) if isinstance(other, Duration) else NotImplemented

    def _same_clock(self, other: Time) -> None:
        if self._type != other._type:
            raise TypeError(f"times of different clocks ({self._type.name}, {other._type.name}) cannot be compared or subtracted")

    def _other(self, other: object) -> int | None:
        if not isinstance(other, Time):
            return None
        self._same_clock(other)
        return other._ns

    def __hash__(self) -> int:
        return hash((self._type, self._ns))

    def __repr__(self) -> str:
        return f"Time(nanoseconds={self._ns}, clock_type={self._type.name})"

    def to_msg(self) -> Any:
        """Return a ``builtin_interfaces/msg/Time``."""
        from real.ros.messages import message

        sec, nanosec = self.seconds_nanoseconds()
        return message("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec)

    @classmethod
    def from_msg(cls, msg: Any, clock_type: ClockType = ClockType.ROS_TIME) -> Time:
        """Return the value of a ``builtin_interfaces/msg/Time``."""
        return cls(seconds=msg.sec, nanoseconds=msg.nanosec, clock_type=clock_type)


@dataclass(frozen=True)
class TimeJump:
    """What is told of a jump: whether the source changed, and by how much time moved (positive: forwards)."""

    clock_change: ClockChange
    delta: Duration


class JumpThreshold:
    """Which jumps a callback wants to hear of.

    Args:
        min_forward: Smallest jump forwards; None for none.
        min_backward: Smallest jump backwards, as a negative duration; None for none.
        on_clock_change: Whether switching between system and simulated time counts.

    Raises:
        ValueError: if nothing is asked for or a threshold has the wrong sign.
    """

    def __init__(self, *, min_forward: Duration | None, min_backward: Duration | None, on_clock_change: bool = True) -> None:
        if min_forward is not None and min_forward.nanoseconds <= 0:
            raise ValueError("min_forward is a positive duration")
        if min_backward is not None and min_backward.nanoseconds >= 0:
            raise ValueError("min_backward is a negative duration")
        if min_forward is None and min_backward is None and not on_clock_change:
            raise ValueError("at least one threshold is needed, or on_clock_change")
        self.min_forward, self.min_backward, self.on_clock_change = min_forward, min_backward, on_clock_change

    def passed(self, jump: TimeJump) -> bool:
        """Whether this jump is to be told."""
        if jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
            return self.on_clock_change
        forward = self.min_forward is not None and jump.delta >= self.min_forward
        return forward or (self.min_backward is not None and jump.delta <= self.min_backward)


class JumpHandle:
    """A registered pair of jump callbacks; ``unregister()`` or leaving its ``with`` block ends it."""

    def __init__(self, clock: Clock, threshold: JumpThreshold, pre_callback: Callable[[], Any] | None, post_callback: Callable[[TimeJump], Any] | None) -> None:
        if pre_callback is None and post_callback is None:
            raise ValueError("a jump needs a callback before or after it")
        self._clock, self.threshold, self.pre_callback, self.post_callback = clock, threshold, pre_callback, post_callback
        clock._jumps.append(self)

    def unregister(self) -> None:
        """End it; a second time does nothing."""
        if self in self._clock._jumps:
            self._clock._jumps.remove(self)

    def __enter__(self) -> JumpHandle:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.unregister()


class Clock:
    """A clock of one type; ``Clock(clock_type=ClockType.ROS_TIME)`` is a ROSClock."""

    def __new__(cls, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> Clock:
        """Make a ROSClock where that type is asked for."""
        if not isinstance(clock_type, ClockType):
            raise TypeError(f"clock_type is a ClockType, not {clock_type!r}")
        kind: type[Clock] = ROSClock if cls is Clock and clock_type is ClockType.ROS_TIME else cls
        return object.__new__(kind)

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        self._type = clock_type
        self._jumps: list[JumpHandle] = []
        self._listeners: list[Callable[[], None]] = []

    @property
    def clock_type(self) -> ClockType:
        """Return the type of the clock."""
        return self._type

    def _read(self) -> int:
        return _time.monotonic_ns() if self._type is ClockType.STEADY_TIME else _time.time_ns()

    def now(self) -> Time:
        """Return the time that it shows."""
        return Time(nanoseconds=self._read(), clock_type=self._type)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, in the thread that brings the news, whenever time was set from outside."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """End what add_listener began."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def create_jump_callback(
        self, threshold: JumpThreshold, *, pre_callback: Callable[[], Any] | None = None, post_callback: Callable[[TimeJump], Any] | None = None
    ) -> JumpHandle:
        """Have callbacks called around jumps beyond ``threshold``; they run in the thread that sets the time."""
        return JumpHandle(self, threshold, pre_callback, post_callback)

    def sleep_until(self, until: Time, context: Any = None) -> bool:
        """Block until this clock shows ``until`` or its context is shut down.

        Returns:
            Whether the time was reached; False if the context ended or the source of time changed meanwhile.

        Raises:
            ValueError: if ``until`` is of a clock of another type.
            NotInitializedException: if there is no running context.
        """
        from real.ros.dds.sleeping import sleep_until

        if until.clock_type != self._type:
            raise ValueError(f"{until!r} is not of this clock ({self._type.name})")
        return sleep_until(self, until.nanoseconds, context)

    def sleep_for(self, rel_time: Duration, context: Any = None) -> bool:
        """Block for a duration of this clock; returns and raises as sleep_until."""
        return self.sleep_until(self.now() + rel_time, context)


class ROSClock(Clock):
    """ROS time: the system's, or what was last heard on ``/clock`` while ``use_sim_time`` is set (0 before the first message)."""

    def __new__(cls, *, clock_type: ClockType = ClockType.ROS_TIME) -> ROSClock:
        """Make one; the type is always ROS_TIME."""
        return object.__new__(cls)

    def __init__(self, *, clock_type: ClockType = ClockType.ROS_TIME) -> None:
        super().__init__(clock_type=ClockType.ROS_TIME)
        self._lock = threading.RLock()
        self._active, self._override = False, 0

    @property
    def ros_time_is_active(self) -> bool:
        """Return whether simulated time is shown."""
        return self._active

    def _read(self) -> int:
        return self._override if self._active else _time.time_ns()

    def _set_ros_time_is_active(self, enabled: bool) -> None:
        """Switch between the system's time and the one that is set."""
        if enabled == self._active:
            return
        change = ClockChange.ROS_TIME_ACTIVATED if enabled else ClockChange.ROS_TIME_DEACTIVATED
        self._jump(change, self._override if enabled else _time.time_ns(), enabled, self._override)

    def set_ros_time_override(self, time: Time) -> None:
        """Set what the clock shows while simulated time is active.

        Raises:
            TypeError: if ``time`` is no Time.
        """
        if not isinstance(time, Time):
            raise TypeError(f"time is a Time, not {type(time).__name__}")
        if self._active:
            self._jump(ClockChange.ROS_TIME_NO_CHANGE, time.nanoseconds, True, time.nanoseconds)
        else:
            self._override = time.nanoseconds

    def _jump(self, change: ClockChange, to: int, active: bool, override: int) -> None:
        with self._lock:
            jump = TimeJump(change, Duration(nanoseconds=to - self._read()))
            told = [handle for handle in list(self._jumps) if handle.threshold.passed(jump)]
            for handle in told:
                if handle.pre_callback is not None:
                    handle.pre_callback()
            self._active, self._override = active, override
            for handle in told:
                if handle.post_callback is not None:
                    handle.post_callback(jump)
        for listener in list(self._listeners):
            listener()
