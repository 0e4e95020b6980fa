"""Services and their clients, framed as ``rmw_cyclonedds`` frames them.

A request travels on ``rq/NAMERequest``, its answer on ``rr/NAMEReply``. In front of the body stand 16 bytes: the client's handle and
a sequence number; who belongs to whom is said in the endpoints' user data (``clientid=``, ``serviceid=``). ``rmw_fastrtps`` says the
same in a part of the protocol that the Python binding cannot reach: its services are never called, its requests never answered, and
a warning says so once per service.
"""

from __future__ import annotations

import inspect
import itertools
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cyclonedds.core import DDSException

from real.ros.dds.binding import POLICIES
from real.ros.dds.endpoints import anything, close, cyclone_qos
from real.ros.dds.exceptions import InvalidHandle, NotInitializedException, RCLError
from real.ros.dds.future import Future
from real.ros.dds.peers import Peer, fast_dds_arrived, matched_readers, matched_writers, peer_of_writer
from real.ros.messages import MessageError, deserialize, serialize

if TYPE_CHECKING:
    from real.ros.dds.node import Node

#: (client's handle, sequence number) between the encapsulation (4 bytes) and the body.
_HEADER = struct.Struct("<Qq")
_HEADER_BIG = struct.Struct(">Qq")
_ids = itertools.count(1)

#: How long an answer waits for its client's reader to be found, s; as long as rmw_cyclonedds.
ANSWER_WAIT_S = 0.1


def frame(cdr: bytes, client: int, sequence: int) -> bytes:
    """Return the bytes of a request or answer: the header put between encapsulation and body of a message's CDR."""
    return cdr[:4] + _HEADER.pack(client, sequence) + cdr[4:]


def unframe(data: bytes) -> tuple[int, int, bytes]:
    """Return (client's handle, sequence number, the message's CDR) of a request or answer.

    Raises:
        MessageError: if the bytes are too short to be one.
    """
    if len(data) < 4 + _HEADER.size:
        raise MessageError(f"{len(data)} bytes are no request or answer: the header alone has {_HEADER.size}")
    header = _HEADER if data[1] & 1 else _HEADER_BIG
    client, sequence = header.unpack_from(data, 4)
    return client, sequence, data[:4] + data[4 + _HEADER.size :]


class _Endpoint:
    """What service and client share: a reader and a writer with one identity, known to the executor and to the graph."""

    _role: str
    _read_half: str
    _write_half: str

    def __init__(self, node: Node, srv_type: Any, srv_name: str, qos_profile: Any, callback_group: Any) -> None:
        from cyclonedds.pub import DataWriter
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        from real.ros.dds.types import raw_type

        for half in ("Request", "Response"):
            if not hasattr(getattr(srv_type, half, None), "__msgtype__"):
                raise RuntimeError(f"{srv_type!r} is no service type; message('std_srvs/srv/Trigger') gives one")
        if not node.context.ok():
            raise NotInitializedException
        self._node, self.srv_type, self.srv_name, self.qos_profile, self.callback_group = weakref.ref(node), srv_type, srv_name, qos_profile, callback_group
        self._full = node.resolve_service_name(srv_name)
        self._logger = node.get_logger()
        self._warned: set[str] = set()
        participant = node.context.participant
        identity = [*participant.guid.bytes[:12], *struct.pack(">I", next(_ids))]
        qos = cyclone_qos(qos_profile, f"{self._role}={'.'.join(f'{byte:x}' for byte in identity)};")
        topics = {}
        for half, prefix, suffix in (("Request", "rq", "Request"), ("Response", "rr", "Reply")):
            kind = raw_type(getattr(srv_type, half).__msgtype__, header=True)
            topics[half] = Topic(participant, f"{prefix}{self._full}{suffix}", kind)
        with POLICIES:
            self.reader = DataReader(participant, topics[self._read_half], qos)
            self.writer = DataWriter(participant, topics[self._write_half], qos)
        self.condition = anything(self.reader)
        self._topics = list(topics.values())
        self._handle = int(self.writer.get_instance_handle()) & (2**64 - 1)
        self._destroyed = False
        node._register_endpoint(self.reader, writer=False)
        node._register_endpoint(self.writer, writer=True)
        callback_group.add_entity(self)
        node._add_waitable(self)
        if fast_dds_arrived(participant):
            self._warn_fast_dds("a Fast DDS node is on this domain; services reach nodes on Cyclone DDS only")

    @property
    def service_name(self) -> str:
        """Return the absolute name of the service."""
        return self._full

    def _warn_fast_dds(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._logger.warning(f"service {self._full}: {text} (RMW_IMPLEMENTATION=rmw_cyclonedds_cpp on the other side, or rclpy on this one)")

    def destroy(self) -> None:
        """End it and forget its endpoints; a second time does nothing."""
        if self._destroyed:
            return
        self._destroyed = True
        node = self._node()
        if node is not None:
            self.callback_group.remove_entity(self)
            node._remove_waitable(self)
            close(self.condition)
            for entity in (self.reader, self.writer):
                node._unregister_endpoint(entity)
            for topic in self._topics:
                close(topic)

    def _taken(self) -> list[Any]:
        """Return the next sample in a list, an empty one where there is none or another thread has destroyed the reader."""
        try:
            return [] if self._destroyed else self.reader.take(N=1)
        except DDSException:
            if self._destroyed:
                return []
            raise

    def _write(self, cdr: bytes, client: int, sequence: int) -> None:
        self.writer.write(self.writer.data_type.of(frame(cdr, client, sequence)))


class Service(_Endpoint):
    """Answers requests: ``callback(request, response)`` fills and returns the response; it may be a coroutine."""

    _role, _read_half, _write_half = "serviceid", "Request", "Response"

    def __init__(self, node: Node, srv_type: Any, srv_name: str, callback: Callable[[Any, Any], Any], qos_profile: Any, callback_group: Any) -> None:
        self.callback = callback
        self._clients: dict[int, Peer] = {}
        super().__init__(node, srv_type, srv_name, qos_profile, callback_group)

    def take(self) -> tuple[int, int, int, bytes] | None:
        """Return (writer's handle, client's handle, sequence, request's CDR) of the next request that can be answered, None for none."""
        while samples := self._taken():
            if not samples[0].sample_info.valid_data:
                continue
            writer = int(samples[0].sample_info.publication_handle)
            peer = self._clients.get(writer) or peer_of_writer(self.reader, writer)
            if peer is None:
                continue  # it left before its request was read
            if len(self._clients) > 256:
                self._clients.clear()
            self._clients[writer] = peer
            if not peer.client:
                self._warn_fast_dds(f"a request of {peer.engine} was not answered: it does not say who asks in the way of Cyclone DDS")
                continue
            try:
                client, sequence, cdr = unframe(samples[0].cdr)
            except MessageError as error:
                self._logger.warning(f"service {self._full}: {error}")
                continue
            return writer, client, sequence, cdr
        return None

    def execute(self, item: tuple[int, int, int, bytes]) -> Any:
        """Run the callback on one request and send the answer; a coroutine where the callback is one."""
        writer, client, sequence, cdr = item
        try:
            request = deserialize(cdr, self.srv_type.Request)
        except MessageError as error:
            self._logger.warning(f"service {self._full}: {error}")
            return None
        answer = self.callback(request, self.srv_type.Response())
        if inspect.isawaitable(answer):
            return self._answer_later(answer, writer, client, sequence)
        self._answer(answer, writer, client, sequence)
        return None

    async def _answer_later(self, answer: Any, writer: int, client: int, sequence: int) -> None:
        self._answer(await answer, writer, client, sequence)

    def _answer(self, answer: Any, writer: int, client: int, sequence: int) -> None:
        if not isinstance(answer, self.srv_type.Response):
            raise TypeError(f"the callback of service {self._full} returned {type(answer).__name__}, expected {self.srv_type.Response.__name__}")
        if self._destroyed:
            return
        asked_by = self._clients[writer].client if writer in self._clients else ""
        until = time.monotonic() + ANSWER_WAIT_S
        while asked_by and all(peer.client != asked_by for peer in matched_readers(self.writer)):
            if time.monotonic() > until:
                self._logger.warning(f"service {self._full}: the client that asked cannot be reached; its answer is dropped")
                return
            time.sleep(0.001)
        self._write(serialize(answer), client, sequence)


class Client(_Endpoint):
    """Asks a service; answers come through the executor that spins its node."""

    _role, _read_half, _write_half = "clientid", "Response", "Request"

    def __init__(self, node: Node, srv_type: Any, srv_name: str, qos_profile: Any, callback_group: Any) -> None:
        self._lock = threading.Lock()
        self._pending: dict[int, Future] = {}
        self._numbers = itertools.count(1)
        super().__init__(node, srv_type, srv_name, qos_profile, callback_group)

    def service_is_ready(self) -> bool:
        """Whether a service that can answer has been found, in both directions."""
        if self._destroyed:
            raise InvalidHandle(f"the client of {self._full} was destroyed")
        asked = matched_readers(self.writer)
        if any(not peer.service for peer in asked):
            engine = next(peer.engine for peer in asked if not peer.service)
            self._warn_fast_dds(f"it is offered by a node on {engine}, which this layer cannot call")
            return False
        answering = {peer.service for peer in matched_writers(self.reader)}
        return any(peer.service in answering for peer in asked)

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Block until the service is ready; returns whether it is.

        Args:
            timeout_sec: Longest wait, s; None waits until the context ends.
        """
        until = None if timeout_sec is None else time.monotonic() + timeout_sec
        node = self._node()
        while node is not None and node.context.ok() and not self.service_is_ready():
            left = 0.02 if until is None else until - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(0.02, left))
        return self.service_is_ready()

    def call_async(self, request: Any) -> Future:
        """Send a request; the future gets the response, or RCLError where the service is one that cannot be called from here.

        Raises:
            TypeError: if ``request`` is not of the service's request type.
            InvalidHandle: if the client was destroyed.
        """
        if not isinstance(request, self.srv_type.Request):
            raise TypeError(f"{self._full} is asked with a {self.srv_type.Request.__name__}, not {type(request).__name__}")
        if self._destroyed:
            raise InvalidHandle(f"the client of {self._full} was destroyed")
        future = Future()
        foreign = next((peer for peer in matched_readers(self.writer) if not peer.service), None)
        if foreign is not None:  # it would read our header as the body
            future.set_exception(RCLError(f"service {self._full} is offered by a node on {foreign.engine}: services reach Cyclone DDS only"))
            return future
        with self._lock:
            sequence = next(self._numbers)
            self._pending[sequence] = future
        self._write(serialize(request), self._handle, sequence)
        return future

    def call(self, request: Any, timeout_sec: float | None = None) -> Any:
        """Send a request and block until another thread's executor brings the response; never from a callback of one thread.

        Returns:
            The response, or None after ``timeout_sec`` s (None waits for ever).
        """
        future = self.call_async(request)
        if not future._wait(timeout_sec):
            self.remove_pending_request(future)
            return None
        return future.result()

    def remove_pending_request(self, future: Future) -> None:
        """Forget a request; an answer that comes later is dropped."""
        with self._lock:
            for sequence in [key for key, value in self._pending.items() if value is future]:
                del self._pending[sequence]

    def take(self) -> tuple[Future, bytes] | None:
        """Return (future, response's CDR) of the next answer to a request of this client, None for none."""
        while samples := self._taken():
            if not samples[0].sample_info.valid_data:
                continue
            try:
                client, sequence, cdr = unframe(samples[0].cdr)
            except MessageError as error:
                self._logger.warning(f"service {self._full}: {error}")
                continue
            with self._lock:
                future = self._pending.pop(sequence, None) if client == self._handle else None
            if future is not None and not future.cancelled():
                return future, cdr
        return None

    def execute(self, item: tuple[Future, bytes]) -> None:
        """Give an answer to whoever waits for it."""
        future, cdr = item
        try:
            future.set_result(deserialize(cdr, self.srv_type.Response))
        except MessageError as error:
            future.set_exception(error)


class NodeServices:
    """The part of a node that makes services and clients."""

    _services: list[Service]
    _clients: list[Client]

    def _init_services(self) -> None:
        self._services, self._clients = [], []

    @property
    def services(self) -> Iterator[Service]:
        """Iterate over the node's services."""
        yield from list(self._services)

    @property
    def clients(self) -> Iterator[Client]:
        """Iterate over the node's clients."""
        yield from list(self._clients)

    def create_service(
        self: Any, srv_type: Any, srv_name: str, callback: Callable[[Any, Any], Any], *, qos_profile: Any = None, callback_group: Any = None
    ) -> Service:
        """Offer a service (``rclpy.node.Node.create_service``).

        Raises:
            InvalidServiceNameException: for a name that ROS does not allow.
        """
        made = Service(self, srv_type, srv_name, callback, qos_profile or _default_qos(), callback_group or self.default_callback_group)
        self._services.append(made)
        return made

    def create_client(self: Any, srv_type: Any, srv_name: str, *, qos_profile: Any = None, callback_group: Any = None) -> Client:
        """Make a client of a service (``rclpy.node.Node.create_client``).

        Raises:
            InvalidServiceNameException: for a name that ROS does not allow.
        """
        made = Client(self, srv_type, srv_name, qos_profile or _default_qos(), callback_group or self.default_callback_group)
        self._clients.append(made)
        return made

    def destroy_service(self, service: Service) -> bool:
        """End a service; returns whether it was this node's."""
        return _destroy(self._services, service)

    def destroy_client(self, client: Client) -> bool:
        """End a client; returns whether it was this node's."""
        return _destroy(self._clients, client)

    def _close_services(self) -> None:
        for made in [*self._services, *self._clients]:
            made.destroy()
        self._init_services()


def _destroy(made: list[Any], one: Any) -> bool:
    if one not in made:
        return False
    made.remove(one)
    one.destroy()
    return True


def _default_qos() -> Any:
    from real.ros.qos import qos_profile_services_default

    return qos_profile_services_default
