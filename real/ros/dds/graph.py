"""Who is there: endpoints from DDS discovery, nodes from ``ros_discovery_info``; and one line when two of them do not fit together.

Every participant says in ``ros_discovery_info`` (transient local) which of its endpoints belong to which of its nodes: that
is what ``ros2 node list`` shows. A thread of its own keeps the picture, so that a question is answered from memory.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsParticipant, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription
from cyclonedds.core import DDSException, GuardCondition, WaitSet
from cyclonedds.qos import Policy

from real.ros.dds import types
from real.ros.dds.binding import POLICIES
from real.ros.dds.endpoints import Reader, Writer, anything, close, ros_profile
from real.ros.dds.logging import get_logger
from real.ros.messages import MessageError, deserialize, message, serialize
from real.ros.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, mismatch

if TYPE_CHECKING:
    from real.ros.dds.context import Context

_INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_MOST_LINES = 256  # about endpoints that do not fit, the newest
_MOST_PARTICIPANTS = 4096  # whose nodes are remembered: a stranger may announce as many as it likes
_NAME_COMES_NS = 1_500_000_000  # the node's name follows its endpoints; after so long a line is said without it


@dataclass(frozen=True)
class Endpoint:
    """A publisher (or a service's writer) or subscription that discovery has found, our own among them.

    Attributes:
        guid: 16 bytes.
        participant: 16 bytes.
        topic: DDS name, e.g. ``rt/joint_states``.
        type: DDS type name.
        profile: Quality of service.
        writes: Whether it publishes.
        typehash: ``RIHS01_..``, or empty.
    """

    guid: bytes
    participant: bytes
    topic: str
    type: str
    profile: QoSProfile
    writes: bool
    typehash: str = ""


@dataclass
class LocalNode:
    """A node of this process and the DDS guids of its endpoints."""

    name: str
    namespace: str
    readers: set[bytes] = field(default_factory=set)
    writers: set[bytes] = field(default_factory=set)


class Graph:
    """The picture of the ROS graph that one context has.

    Args:
        context: Its context, whose participant is open.

    Attributes:
        mismatches: The lines said so far about endpoints that do not fit together.
    """

    def __init__(self, context: Context) -> None:
        participant = context.participant
        self.mismatches: list[str] = []
        self._own = participant.guid.bytes
        self._lock = threading.RLock()
        self._locals: list[LocalNode] = []
        self._endpoints: dict[bytes, Endpoint] = {}
        self._participants: set[bytes] = set()
        self._remote: dict[bytes, list[tuple[str, str, set[bytes], set[bytes]]]] = {}
        self._pending: list[tuple[int, Endpoint, Endpoint]] = []
        self._listeners: list[Any] = []
        self._info = message(_INFO)
        kind = types.raw_type(_INFO)
        last = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        every = QoSProfile(history=HistoryPolicy.KEEP_ALL, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._writer = Writer(context, "ros_discovery_info", kind, last)
        self._reader = Reader(context, "ros_discovery_info", kind, every)
        self._builtin = {
            "participants": BuiltinDataReader(participant, BuiltinTopicDcpsParticipant),
            "publications": BuiltinDataReader(participant, BuiltinTopicDcpsPublication),
            "subscriptions": BuiltinDataReader(participant, BuiltinTopicDcpsSubscription),
        }
        self._ending = False
        self._guard = GuardCondition(participant)
        self._waitset = WaitSet(participant)
        for condition in [self._guard, self._reader.condition, *map(anything, self._builtin.values())]:
            self._waitset.attach(condition)
        self._thread = threading.Thread(target=self._follow, name="ros-graph", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the participant takes the rest with it."""
        self._ending = True
        self._guard.set(True)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        close(self._waitset)

    # -- what this process is

    def add_node(self, name: str, namespace: str) -> LocalNode:
        """Tell everybody of a node of ours."""
        node = LocalNode(name, namespace)
        with self._lock:
            self._locals.append(node)
        self._tell()
        return node

    def remove_node(self, node: LocalNode) -> None:
        """Tell everybody that a node of ours has gone."""
        with self._lock:
            self._locals = [other for other in self._locals if other is not node]
        self._tell()

    def add_endpoint(self, node: LocalNode, guid: bytes, writer: bool) -> None:
        """Tell everybody that an endpoint belongs to a node."""
        with self._lock:
            (node.writers if writer else node.readers).add(guid)
        self._tell()

    def remove_endpoint(self, node: LocalNode, guid: bytes) -> None:
        """Tell everybody that an endpoint has gone."""
        with self._lock:
            node.writers.discard(guid)
            node.readers.discard(guid)
        self._tell()

    def _tell(self) -> None:
        entities, gid = message("rmw_dds_common/msg/NodeEntitiesInfo"), self._gid
        with self._lock:
            nodes = [
                entities(
                    node_namespace=node.namespace,
                    node_name=node.name,
                    reader_gid_seq=[gid(g) for g in sorted(node.readers)],
                    writer_gid_seq=[gid(g) for g in sorted(node.writers)],
                )
                for node in self._locals
            ]
            if not self._ending:
                self._writer.write(serialize(self._info(gid=gid(self._own), node_entities_info_seq=nodes)))

    def _gid(self, guid: bytes) -> Any:
        gid = message("rmw_dds_common/msg/Gid")()
        gid.data = list(guid.ljust(len(gid.data), b"\0"))  # 24 bytes in Humble, 16 from Iron on
        return gid

    # -- what discovery brings

    def _follow(self) -> None:
        while not self._ending:
            try:
                self._waitset.wait(200_000_000 if self._pending else 3_600_000_000_000)
                if self._ending:
                    return
                self._guard.take()
                self._hear()
            except DDSException as error:
                if not self._ending:
                    get_logger("ros.graph").error(f"the ROS graph is not followed any more: {error}")
                return
            except Exception as error:  # what a stranger announces must not end the picture of all others
                get_logger("ros.graph").warning(f"an announcement was passed over: {type(error).__name__}: {error}", throttle_duration_sec=5.0)
            for listener in list(self._listeners):
                listener()

    def _hear(self) -> None:
        for found in self._drain("participants"):
            guid = found.key.bytes
            with self._lock:
                if _gone(found):
                    self._participants.discard(guid)
                    self._remote.pop(guid, None)
                elif found.sample_info.valid_data:
                    self._participants.add(guid)
        for name in ("publications", "subscriptions"):
            for found in self._drain(name):
                self._endpoint(found, name == "publications")
        while (taken := self._reader.take()) is not None:
            self._nodes_of(taken[0])
        self._say_mismatches()

    def _drain(self, name: str) -> list[Any]:
        found: list[Any] = []
        with POLICIES:
            while taken := self._builtin[name].take(N=64):
                found += taken
        return found

    def _endpoint(self, found: Any, writes: bool) -> None:
        guid = found.key.bytes
        if _gone(found):  # it may still bring data, when it went before it was looked at
            with self._lock:
                self._endpoints.pop(guid, None)
            return
        if not found.sample_info.valid_data:
            return
        text = bytes(found.qos[Policy.Userdata].data).decode(errors="replace") if Policy.Userdata in found.qos else ""
        hashes = [part[len("typehash=") :] for part in text.split(";") if part.startswith("typehash=")]
        one = Endpoint(guid, found.participant_key.bytes, found.topic_name, found.type_name, ros_profile(found.qos), writes, "".join(hashes[:1]))
        with self._lock:
            known = guid in self._endpoints
            self._endpoints[guid] = one
            if not known:
                due = time.monotonic_ns() + _NAME_COMES_NS
                for other in self._endpoints.values():
                    if other.topic == one.topic and other.writes != writes and self._own in (other.participant, one.participant):
                        pair = (one, other) if writes else (other, one)
                        if _fault(*pair):
                            self._pending.append((due, *pair))

    def _nodes_of(self, cdr: bytes) -> None:
        try:
            info = deserialize(cdr, self._info)
        except MessageError:
            return  # somebody's broken announcement is no reason to lose the picture of the others
        key = bytes(info.gid.data)[:16]
        if key == self._own:
            return
        nodes = [
            (n.node_name, n.node_namespace, {bytes(g.data)[:16] for g in n.reader_gid_seq}, {bytes(g.data)[:16] for g in n.writer_gid_seq})
            for n in info.node_entities_info_seq
        ]
        with self._lock:
            if key in self._remote or len(self._remote) < _MOST_PARTICIPANTS:  # a name may come before its participant is seen
                self._remote[key] = nodes

    def _say_mismatches(self) -> None:
        now = time.monotonic_ns()
        with self._lock:
            due = [p for p in self._pending if p[0] <= now or (self.node_of(p[1].guid) and self.node_of(p[2].guid))]
            self._pending = [p for p in self._pending if p not in due]
            due = [p for p in due if p[1].guid in self._endpoints and p[2].guid in self._endpoints]
        for _, writer, reader in due:
            line = self._line(writer, reader)
            self.mismatches.append(line)
            del self.mismatches[:-_MOST_LINES]
            ours = self.node_of((reader if reader.participant == self._own else writer).guid)
            get_logger(_logger_name(*ours) if ours else "ros.graph").warning(line)

    def _line(self, writer: Endpoint, reader: Endpoint) -> str:
        topic = writer.topic[2:] if writer.topic.startswith("rt/") else writer.topic
        publisher, subscriber = (self._called(e) for e in (writer, reader))
        if writer.type != reader.type:
            offered, wanted = types.ros_name(writer.type), types.ros_name(reader.type)
            return f"type mismatch on {topic}: {publisher} publishes {offered}, {subscriber} expects {wanted}: no message arrives; rename one of the topics"
        apart = mismatch(writer.profile, reader.profile)
        assert apart is not None
        policy = apart.policy.name.lower()
        between = f"{publisher} offers {policy} {apart.offered}, {subscriber} asks for {apart.requested}"
        return f"QoS mismatch on {topic}: {between}: no message arrives; {apart.advice()}"

    def _called(self, endpoint: Endpoint) -> str:
        node = self.node_of(endpoint.guid)
        if node is None:
            return "a node of this process" if endpoint.participant == self._own else "an unnamed participant"
        return f"{node[1].rstrip('/')}/{node[0]}"

    # -- questions

    def nodes(self) -> list[tuple[str, str]]:
        """Return (name, namespace) of all nodes, ours first."""
        with self._lock:
            found = [(node.name, node.namespace) for node in self._locals]
            for key, nodes in self._remote.items():
                if key in self._participants:
                    found += [(name, namespace) for name, namespace, _, _ in nodes]
            return found

    def node_of(self, guid: bytes) -> tuple[str, str] | None:
        """Return (name, namespace) of the node that an endpoint belongs to, or None when nobody has said."""
        with self._lock:
            for node in self._locals:
                if guid in node.readers or guid in node.writers:
                    return node.name, node.namespace
            for nodes in self._remote.values():
                for name, namespace, readers, writers in nodes:
                    if guid in readers or guid in writers:
                        return name, namespace
        return None

    def endpoints(self, topic: str | None = None, *, writes: bool | None = None) -> list[Endpoint]:
        """Return the endpoints of a DDS topic (all), of publishers or subscriptions only (both)."""
        with self._lock:
            return [e for e in self._endpoints.values() if (topic is None or e.topic == topic) and (writes is None or e.writes == writes)]

    def on_change(self, listener: Any) -> None:
        """Have ``listener()`` called, in the graph's thread, after every change."""
        self._listeners.append(listener)


def _fault(writer: Endpoint, reader: Endpoint) -> bool:
    return writer.type != reader.type or mismatch(writer.profile, reader.profile) is not None


def _gone(found: Any) -> bool:
    return found.sample_info.instance_state != 16  # DDS: not ALIVE


def _logger_name(name: str, namespace: str) -> str:
    return ".".join([part for part in namespace.split("/") if part] + [name])
