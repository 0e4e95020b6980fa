"""Foreign stamps on this machine's monotonic clock.

A message that was stamped at S (its sender's clock) and arrives here at A was not captured after A, so A - S is never below
the offset between the clocks; the least of it over a window of the last seconds is the offset, but for the least delay of
the way. A clock that jumps shows: what is stamped is then too early, too late, or older than what came before it.
"""

from __future__ import annotations

from collections import deque

_NS = 1_000_000_000


class StampClock:
    """One foreign clock as seen from here.

    Args:
        name: Whose clock it is, for messages.
        speed: How many of its seconds pass in one of ours: above 1 for a simulation that is faster than real time.
        window_s: Length of the window of the least offset, s.
        jump_s: Change of the offset, s, that delays do not explain.
        settle_s: How long stamps must agree again after a jump before they are believed.

    Attributes:
        unstamped: Messages with a zero stamp; they count as captured when they arrived.
        jumps: Jumps so far.
    """

    def __init__(self, name: str, speed: float = 1.0, window_s: float = 10.0, jump_s: float = 0.25, settle_s: float = 1.0) -> None:
        self.name, self.speed = name, speed
        self._half_ns, self._jump_ns, self._settle_ns = int(window_s * _NS / 2), int(jump_s * _NS), int(settle_s * _NS)
        self.unstamped = self.jumps = 0
        self._halves: deque[tuple[int, int]] = deque(maxlen=2)  # (begun, least offset) of the present and the last half of the window
        self._last: tuple[int, int] | None = None  # stamp here and arrival of the newest message
        self._late_since = 0  # arrival of the first of a row of messages that all are late; 0: the last was not
        self._jumped = ""
        self._believed_at = 0

    @property
    def offset_ns(self) -> int | None:
        """Monotonic time here minus (scaled) time there; None: nothing has been heard yet."""
        return min(least for _, least in self._halves) if self._halves else None

    def doubt(self, now_ns: int) -> str:
        """Return why its stamps are not believed at monotonic ``now_ns``; empty: they are."""
        return self._jumped if now_ns < self._believed_at else ""

    def capture_ns(self, stamp_ns: int, arrival_ns: int) -> int:
        """Take a message in; returns when it was captured, monotonic ns of this machine, never after it arrived.

        Args:
            stamp_ns: Of its header, ns of the foreign clock; 0: it has none.
            arrival_ns: When it arrived, monotonic ns.
        """
        if stamp_ns <= 0:
            self.unstamped += 1
            return arrival_ns
        there = self._scaled(stamp_ns)
        found = arrival_ns - there
        self._look_for_jump(there, arrival_ns, found)
        if not self._halves or arrival_ns - self._halves[-1][0] > self._half_ns:
            self._halves.append((arrival_ns, found))
        elif found < self._halves[-1][1]:
            self._halves[-1] = (self._halves[-1][0], found)
        self._last = there, arrival_ns
        return self.seen(stamp_ns, arrival_ns)

    def seen(self, stamp_ns: int, arrival_ns: int) -> int:
        """Return when something was captured by the offset known so far, without learning from it."""
        offset = self.offset_ns
        if stamp_ns <= 0 or offset is None:
            return arrival_ns
        return min(self._scaled(stamp_ns) + offset, arrival_ns)

    def ahead_ns(self, stamp_ns: int, arrival_ns: int) -> int:
        """Return how far after its arrival something claims to have been captured, ns; by a clock of its own, if much."""
        offset = self.offset_ns
        return 0 if stamp_ns <= 0 or offset is None else self._scaled(stamp_ns) + offset - arrival_ns

    def there_ns(self, here_ns: int) -> int | None:
        """Return the foreign clock's time at monotonic ``here_ns``; None: nothing has been heard yet."""
        offset = self.offset_ns
        if offset is None:
            return None
        return here_ns - offset if self.speed == 1.0 else round((here_ns - offset) * self.speed)

    def _scaled(self, stamp_ns: int) -> int:
        """Return a foreign time in our seconds; exact where both are the same."""
        return stamp_ns if self.speed == 1.0 else round(stamp_ns / self.speed)

    def restart(self) -> None:
        """Forget the offset: a new episode of a simulation, or another sender."""
        self._halves.clear()
        self._last, self._late_since = None, 0

    def _look_for_jump(self, there: int, arrival: int, found: int) -> None:
        offset = self.offset_ns
        if offset is None or self._last is None:
            return
        before, _ = self._last
        if found < offset - self._jump_ns:
            self._jump(f"it went {(offset - found) / _NS:.3g} s forward", arrival)
        elif there < before - self._jump_ns:
            self._jump(f"it went {(before - there) / _NS:.3g} s back", arrival)
        elif found > offset + self._jump_ns:
            self._late_since = self._late_since or arrival
            if arrival - self._late_since > self._settle_ns:  # delays pass; this has stayed
                self._jump(f"its stamps stay {(found - offset) / _NS:.3g} s behind", arrival)
        else:
            self._late_since = 0

    def _jump(self, how: str, arrival: int) -> None:
        self.jumps += 1
        self.restart()
        self._jumped, self._believed_at = f"clock: that of {self.name} jumped: {how}", arrival + self._settle_ns
