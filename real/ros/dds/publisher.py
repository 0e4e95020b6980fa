"""Publishers: messages, or ready CDR bytes, to a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyclonedds.core import DDSException

from real.ros.dds.clock import Duration
from real.ros.dds.endpoints import Writer
from real.ros.dds.exceptions import InvalidHandle
from real.ros.messages import MessageError, serialize, type_name

if TYPE_CHECKING:
    from real.ros.dds.node import Node
    from real.ros.qos import QoSProfile

#: The first two bytes of what ROS 2 sends: XCDR1, big-endian and little-endian.
_ENCODINGS = (b"\0\0", b"\0\1")


class Publisher:
    """Publishes on one topic; made by ``Node.create_publisher``.

    Attributes:
        msg_type: Message class.
        topic_name: Absolute name, after remapping.
        qos_profile: What is offered.
    """

    def __init__(self, node: Node, writer: Writer, msg_type: Any, topic: str, qos_profile: QoSProfile) -> None:
        self._node = node
        self._writer: Writer | None = writer
        self.msg_type = msg_type
        self.topic = self.topic_name = topic
        self.qos_profile = qos_profile

    @property
    def logger_name(self) -> str:
        """The name of the node's logger."""
        return self._node.get_logger().name

    def _open(self) -> Writer:
        if self._writer is None:
            raise InvalidHandle(f"the publisher on {self.topic_name} was destroyed")
        return self._writer

    def publish(self, msg: Any) -> None:
        """Send a message, or its ready CDR bytes (an image that was never a Python object).

        Raises:
            TypeError: if it is a message of another type.
            MessageError: if a value does not fit its field, or ready bytes are no message of this type.
            InvalidHandle: after it was destroyed.
        """
        writer = self._open()
        if isinstance(msg, (bytes, bytearray, memoryview)):
            cdr = bytes(msg)
        elif isinstance(msg, self.msg_type):
            cdr = serialize(msg)
        else:
            raise TypeError(f"Expected {self.msg_type}, got {type(msg)}")
        try:
            if cdr[:2] not in _ENCODINGS:
                raise DDSException(DDSException.DDS_RETCODE_BAD_PARAMETER)
            sent = writer.write(cdr)
        except DDSException as error:
            if error.code != DDSException.DDS_RETCODE_BAD_PARAMETER:
                raise
            raise MessageError(f"{self.topic_name}: {len(cdr)} bytes that should be a {type_name(self.msg_type)} are none") from None
        if not sent:
            self._node.get_logger().warning(
                f"{self.topic_name}: a reliable subscription does not keep up; {writer.dropped} messages dropped so far", throttle_duration_sec=5.0
            )

    @property
    def dropped(self) -> int:
        """Messages that were not sent, since a reliable subscription did not keep up."""
        return self._open().dropped

    def get_subscription_count(self) -> int:
        """Return how many subscriptions get what is published."""
        return self._open().matched()

    def wait_for_all_acked(self, timeout: Duration | None = None) -> bool:
        """Wait until every reliable subscription has confirmed what was published; returns whether they have."""
        return bool(self._open().entity.wait_for_acks((timeout or Duration(seconds=3600)).nanoseconds))

    def assert_liveliness(self) -> None:
        """Say that this publisher is alive; any publication says it too."""
        self._open()

    def destroy(self) -> None:
        """Take it out of its node and of DDS."""
        self._node.destroy_publisher(self)

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *ended: object) -> None:
        self.destroy()
