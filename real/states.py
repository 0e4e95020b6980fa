"""The states of a run and every way between them.

``idle``: before and after a run. ``active``: commands of a plan leave. ``hold``: the robot brakes to a stand and keeps its
pose, for a cause that is counted. ``stopped``: latched; nothing moves until the latch is cleared and a new run begins.
"""

from __future__ import annotations

from collections.abc import Callable

#: state -> the states that it may be followed by.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    "idle": ("hold", "stopped"),
    "hold": ("active", "idle", "stopped"),
    "active": ("hold", "idle", "stopped"),
    "stopped": (),
}


class States:
    """The state of one run.

    Args:
        changed: Called with (before, after, cause) whenever the state changes.

    Attributes:
        now: The present state.
        cause: Why it is held or stopped; empty otherwise.
    """

    def __init__(self, changed: Callable[[str, str, str], None] = lambda before, after, cause: None) -> None:
        self.now, self.cause = "idle", ""
        self._changed = changed

    def enter(self, state: str, cause: str = "") -> None:
        """Go to ``state``; from ``stopped`` there is no way, and staying is no change.

        Raises:
            ValueError: for a way that is not in :data:`TRANSITIONS`.
        """
        before = self.now
        if state == before:
            self.cause = self.cause if before == "stopped" else cause
            return
        if before == "stopped":
            return
        if state not in TRANSITIONS[before]:
            raise ValueError(f"there is no way from {before} to {state}")
        self.now, self.cause = state, cause
        self._changed(before, state, cause)
