"""Subscriptions: decoded messages, or raw CDR bytes, to a callback."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cyclonedds.core import DDSException

from real.ros.dds.callback_groups import CallbackGroup
from real.ros.dds.endpoints import Reader
from real.ros.messages import MessageError, deserialize

if TYPE_CHECKING:
    from real.ros.dds.node import Node
    from real.ros.qos import QoSProfile

#: So many broken samples are thrown away at once, before others get their turn.
_BROKEN_AT_ONCE = 16


class Subscription:
    """Hears one topic; made by ``Node.create_subscription``.

    Attributes:
        msg_type: Message class.
        topic_name: Absolute name, after remapping.
        qos_profile: What is asked for.
        raw: Whether the callback gets CDR bytes.
        corrupt: Samples that could not be decoded; they reach nobody.
    """

    def __init__(
        self,
        node: Node,
        reader: Reader,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        callback_group: CallbackGroup,
        qos_profile: QoSProfile,
        raw: bool,
    ) -> None:
        self._node = node
        self._reader: Reader | None = reader
        self.msg_type = msg_type
        self.topic = self.topic_name = topic
        self.callback = callback
        self.callback_group = callback_group
        self.qos_profile = qos_profile
        self.raw = raw
        self.corrupt = 0
        self.condition = reader.condition
        self._wants_info = _takes_two(callback)

    def take(self) -> tuple[Any, Any] | None:
        """Return the next message (or its bytes) and its info, None when there is none; broken ones are counted and passed over."""
        for _ in range(_BROKEN_AT_ONCE):
            reader = self._reader
            if reader is None:
                return None
            try:
                taken = reader.take()
            except DDSException:
                if self._reader is None:  # destroyed by another thread meanwhile
                    return None
                raise
            if taken is None:
                return None
            cdr, info = taken
            if self.raw:
                return cdr, info
            try:
                return deserialize(cdr, self.msg_type), info
            except MessageError as error:
                self.corrupt += 1
                self._node.get_logger().warning(f"{self.topic_name}: {error} ({self.corrupt} broken so far)", throttle_duration_sec=5.0)
        return None

    def execute(self, item: tuple[Any, Any]) -> Any:
        """Run the callback."""
        message, info = item
        if not self._wants_info:
            return self.callback(message)
        return self.callback(message, {"source_timestamp": info.source_timestamp, "received_timestamp": time.time_ns()})

    def get_publisher_count(self) -> int:
        """Return how many publishers it hears."""
        return self._reader.matched() if self._reader is not None else 0

    @property
    def logger_name(self) -> str:
        """The name of the node's logger."""
        return self._node.get_logger().name

    def destroy(self) -> None:
        """Take it out of its node and of DDS."""
        self._node.destroy_subscription(self)

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *ended: object) -> None:
        self.destroy()


def _takes_two(callback: Callable[..., Any]) -> bool:
    """Whether a callback asks for the message's info beside the message: two positional arguments, neither with a default."""
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in signature.parameters.values()) == 2
