"""Which callbacks of a node may run at the same time in a multi-threaded executor; as rclpy's."""

from __future__ import annotations

import threading
from typing import Any


class CallbackGroup:
    """The entities that share a rule; an entity is in one group."""

    def __init__(self) -> None:
        self.entities: list[Any] = []
        self._lock = threading.Lock()

    def add_entity(self, entity: Any) -> None:
        """Put an entity under this group's rule."""
        with self._lock:
            self.entities.append(entity)

    def remove_entity(self, entity: Any) -> None:
        """Take an entity out again."""
        with self._lock:
            self.entities = [e for e in self.entities if e is not entity]

    def has_entity(self, entity: Any) -> bool:
        """Whether the entity is in this group."""
        return any(e is entity for e in self.entities)

    def can_execute(self, entity: Any) -> bool:
        """Whether the entity's callback may begin now."""
        return True

    def beginning_execution(self, entity: Any) -> bool:
        """Begin a callback; returns whether it may."""
        return True

    def ending_execution(self, entity: Any) -> None:
        """Say that the entity's callback is over."""


class ReentrantCallbackGroup(CallbackGroup):
    """Its callbacks run whenever a thread is free, the same one even several times at once."""


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """One callback of the group at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._active: Any = None

    def can_execute(self, entity: Any) -> bool:
        """Whether none of the group's callbacks runs."""
        return self._active is None

    def beginning_execution(self, entity: Any) -> bool:
        """Begin a callback unless another runs."""
        with self._lock:
            if self._active is not None:
                return False
            self._active = entity
            return True

    def ending_execution(self, entity: Any) -> None:
        """Let the next one begin."""
        with self._lock:
            self._active = None
