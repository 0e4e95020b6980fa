"""What a node can ask about the ROS graph."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from real.ros.dds.names import fully_qualified
from real.ros.dds.types import ros_name
from real.ros.qos import QoSProfile


class TopicEndpointTypeEnum(IntEnum):
    """Which side of a topic."""

    INVALID = 0
    PUBLISHER = 1
    SUBSCRIPTION = 2


@dataclass(frozen=True)
class TopicEndpointInfo:
    """One publisher or subscription of a topic, anywhere.

    Attributes:
        node_name: Its node, or ``_NODE_NAME_UNKNOWN_`` as long as nobody has said.
        node_namespace: The node's namespace.
        topic_type: ``package/msg/Name``.
        topic_type_hash: ``RIHS01_..``, or empty.
        endpoint_type: Which side.
        endpoint_gid: Its DDS identity, 16 numbers.
        qos_profile: What it offers or asks for.
    """

    node_name: str
    node_namespace: str
    topic_type: str
    topic_type_hash: str
    endpoint_type: TopicEndpointTypeEnum
    endpoint_gid: tuple[int, ...]
    qos_profile: QoSProfile


class NodeGraph:
    """The part of a node that answers questions about who else is there; the answers are as new as discovery."""

    def get_node_names(self: Any) -> list[str]:
        """Return the names of all nodes."""
        return [name for name, _ in self._context.graph.nodes()]

    def get_node_names_and_namespaces(self: Any) -> list[tuple[str, str]]:
        """Return (name, namespace) of all nodes."""
        return self._context.graph.nodes()

    def get_fully_qualified_node_names(self: Any) -> list[str]:
        """Return the absolute names of all nodes."""
        return [fully_qualified(*node) for node in self._context.graph.nodes()]

    def get_topic_names_and_types(self: Any, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """Return (topic, its types) of all topics that somebody publishes or hears."""
        return _by_name(self._context.graph.endpoints(), "rt", "", no_demangle)

    def get_service_names_and_types(self: Any) -> list[tuple[str, list[str]]]:
        """Return (service, its types) of all services."""
        return _services(self._context.graph.endpoints(writes=False), "rq", "Request", "_Request")

    def get_publisher_names_and_types_by_node(self: Any, node_name: str, node_namespace: str, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """Return (topic, its types) of what a node publishes."""
        return _by_name(self._of(node_name, node_namespace, True), "rt", "", no_demangle)

    def get_subscriber_names_and_types_by_node(self: Any, node_name: str, node_namespace: str, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        """Return (topic, its types) of what a node hears."""
        return _by_name(self._of(node_name, node_namespace, False), "rt", "", no_demangle)

    def get_service_names_and_types_by_node(self: Any, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """Return (service, its types) of what a node offers."""
        return _services(self._of(node_name, node_namespace, False), "rq", "Request", "_Request")

    def get_client_names_and_types_by_node(self: Any, node_name: str, node_namespace: str) -> list[tuple[str, list[str]]]:
        """Return (service, its types) of what a node may call."""
        return _services(self._of(node_name, node_namespace, False), "rr", "Reply", "_Response")

    def _of(self: Any, name: str, namespace: str, writes: bool) -> list[Any]:
        graph = self._context.graph
        if (name, namespace) not in graph.nodes():
            from real.ros.dds.exceptions import RCLError

            raise RCLError(f"no node {fully_qualified(name, namespace)} is there")
        return [e for e in graph.endpoints(writes=writes) if graph.node_of(e.guid) == (name, namespace)]

    def count_publishers(self: Any, topic_name: str) -> int:
        """Return how many publish a topic."""
        return len(self._context.graph.endpoints(f"rt{self.resolve_topic_name(topic_name)}", writes=True))

    def count_subscribers(self: Any, topic_name: str) -> int:
        """Return how many hear a topic."""
        return len(self._context.graph.endpoints(f"rt{self.resolve_topic_name(topic_name)}", writes=False))

    def get_publishers_info_by_topic(self: Any, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """Return who publishes a topic."""
        return self._infos(topic_name, no_mangle, True)

    def get_subscriptions_info_by_topic(self: Any, topic_name: str, no_mangle: bool = False) -> list[TopicEndpointInfo]:
        """Return who hears a topic."""
        return self._infos(topic_name, no_mangle, False)

    def _infos(self: Any, topic: str, no_mangle: bool, writes: bool) -> list[TopicEndpointInfo]:
        graph = self._context.graph
        side = TopicEndpointTypeEnum.PUBLISHER if writes else TopicEndpointTypeEnum.SUBSCRIPTION
        found = []
        for endpoint in graph.endpoints(topic if no_mangle else f"rt{self.resolve_topic_name(topic)}", writes=writes):
            name, namespace = graph.node_of(endpoint.guid) or ("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")
            gid = tuple(endpoint.guid)
            found.append(TopicEndpointInfo(name, namespace, ros_name(endpoint.type), endpoint.typehash, side, gid, endpoint.profile))
        return found


def _by_name(endpoints: list[Any], prefix: str, suffix: str, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
    found: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if no_demangle:
            found.setdefault(endpoint.topic, set()).add(endpoint.type)
        elif endpoint.topic.startswith(f"{prefix}/") and endpoint.topic.endswith(suffix):
            found.setdefault(endpoint.topic[len(prefix) : len(endpoint.topic) - len(suffix)], set()).add(ros_name(endpoint.type))
    return sorted((name, sorted(types)) for name, types in found.items())


def _services(endpoints: list[Any], prefix: str, suffix: str, ending: str) -> list[tuple[str, list[str]]]:
    return [(name, [kind.removesuffix(ending) for kind in kinds]) for name, kinds in _by_name(endpoints, prefix, suffix)]
