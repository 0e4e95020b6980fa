"""A node: its name, its publishers, subscriptions, timers and questions about the graph. Services and parameters are mixed in."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cyclonedds.core import DDSException

from real.ros.dds import types
from real.ros.dds.arguments import Arguments, node_identity, parameters, resolve
from real.ros.dds.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from real.ros.dds.clock import Clock, ROSClock
from real.ros.dds.context import Context, get_default_context
from real.ros.dds.endpoints import Reader, Writer, close
from real.ros.dds.exceptions import InvalidHandle, NotInitializedException
from real.ros.dds.logging import LoggingSeverity, RcutilsLogger, get_logger
from real.ros.dds.names import fully_qualified
from real.ros.dds.node_graph import NodeGraph
from real.ros.dds.parameters import NodeParameters
from real.ros.dds.publisher import Publisher
from real.ros.dds.services import NodeServices
from real.ros.dds.subscription import Subscription
from real.ros.dds.timer import GuardCondition, Timer
from real.ros.messages import MessageError, message, type_name
from real.ros.qos import DurabilityPolicy, QoSProfile, as_profile

_ROSOUT_DEPTH = 1000


class Node(NodeServices, NodeParameters, NodeGraph):
    """A ROS 2 node; arguments are rclpy's.

    Args:
        node_name: Its name, before remapping.
        context: Open context; None is the default one.
        cli_args: Words of a command line for this node alone.
        namespace: Its namespace, before remapping.
        use_global_arguments: Whether the process's command line holds for it too.
        enable_rosout: Whether its log lines are published on ``/rosout``.
        start_parameter_services: Whether others may see and set its parameters.
        parameter_overrides: Values in place of the defaults of declared parameters.
        allow_undeclared_parameters: Whether parameters may be set that nobody declared.
        automatically_declare_parameters_from_overrides: Whether overrides declare their parameters.

    Raises:
        NotInitializedException: if the context is not open.
        InvalidNodeNameException: or InvalidNamespaceException, for names that ROS does not allow.
    """

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: Sequence[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        enable_rosout: bool = True,
        start_parameter_services: bool = True,
        parameter_overrides: Sequence[Any] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
        enable_logger_service: bool = False,
    ) -> None:
        self._context = context or get_default_context()
        if not self._context.ok():
            raise NotInitializedException("cannot create node: the context is not initialised, call init() first")
        self._sources: tuple[Arguments, ...] = (Arguments.parse(cli_args or []),)
        if use_global_arguments:
            self._sources += (self._context.arguments,)
        self._name, self._namespace = node_identity(node_name, namespace, self._sources)
        self._publishers: list[Publisher] = []
        self._subscriptions: list[Subscription] = []
        self._timers: list[Timer] = []
        self._guards: list[GuardCondition] = []
        self._waitables: list[Any] = []
        self._executor: Any = None
        self._default_group = MutuallyExclusiveCallbackGroup()
        self._clock = ROSClock()
        self._logger = get_logger(".".join([part for part in self._namespace.split("/") if part] + [self._name]))
        for source in self._sources:
            if (level := source.log_level(self._logger.name)) is not None:
                self._logger.set_level(level)
                break
        self._closed = False
        self._entry: Any = self._context.graph.add_node(self._name, self._namespace)
        self._context._nodes.append(self)
        self._rosout = self._open_rosout() if enable_rosout else None
        self._init_services()
        self._init_parameters(
            parameter_overrides=parameter_overrides,
            allow_undeclared_parameters=allow_undeclared_parameters,
            automatically_declare_parameters_from_overrides=automatically_declare_parameters_from_overrides,
            start_parameter_services=start_parameter_services,
            given=parameters(self._name, self._namespace, self._sources),
        )

    def _open_rosout(self) -> Publisher:
        profile = QoSProfile(depth=_ROSOUT_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        kind = message("rcl_interfaces/msg/Log")
        publisher = self.create_publisher(kind, "/rosout", profile)
        name, clock = self._logger.name, self._clock

        def tell(severity: LoggingSeverity, line: str) -> None:
            with contextlib.suppress(DDSException, InvalidHandle, MessageError, NotInitializedException):  # a line that is lost there stops nobody
                publisher.publish(kind(stamp=clock.now().to_msg(), level=int(severity), name=name, msg=line.replace("\0", " ")))

        self._logger.outlet = tell
        return publisher

    # -- who it is

    @property
    def context(self) -> Context:
        """Its context."""
        return self._context

    @property
    def executor(self) -> Any:
        """The executor that runs its callbacks, None while there is none."""
        return self._executor() if self._executor is not None else None

    @executor.setter
    def executor(self, executor: Any) -> None:
        current = self.executor
        if executor is current:
            return
        if current is not None:
            current.remove_node(self)
        if executor is not None:
            executor.add_node(self)

    def _set_executor(self, executor: Any) -> None:
        self._executor = None if executor is None else weakref.ref(executor)

    def _wake(self) -> None:
        executor = self.executor
        if executor is not None:
            executor.wake()

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The group of entities that are given none: one callback at a time."""
        return self._default_group

    def get_name(self) -> str:
        """Return its name."""
        return self._name

    def get_namespace(self) -> str:
        """Return its absolute namespace."""
        return self._namespace

    def get_fully_qualified_name(self) -> str:
        """Return namespace and name."""
        return fully_qualified(self._name, self._namespace)

    def get_logger(self) -> RcutilsLogger:
        """Return its logger."""
        return self._logger

    def get_clock(self) -> Clock:
        """Return its clock: the system's, or ``/clock`` with ``use_sim_time``."""
        return self._clock

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Return the absolute name of a topic, after remapping unless ``only_expand``."""
        return resolve(topic, self._name, self._namespace, self._sources, only_expand=only_expand)

    def resolve_service_name(self, service: str, *, only_expand: bool = False) -> str:
        """Return the absolute name of a service, after remapping unless ``only_expand``."""
        return resolve(service, self._name, self._namespace, self._sources, service=True, only_expand=only_expand)

    # -- what it has

    @property
    def publishers(self) -> Iterator[Publisher]:
        """Its publishers."""
        yield from list(self._publishers)

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Its subscriptions."""
        yield from list(self._subscriptions)

    @property
    def timers(self) -> Iterator[Timer]:
        """Its timers."""
        yield from list(self._timers)

    @property
    def guards(self) -> Iterator[GuardCondition]:
        """Its guard conditions."""
        yield from list(self._guards)

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: QoSProfile | int, *, callback_group: CallbackGroup | None = None, event_callbacks: Any = None, **_: Any
    ) -> Publisher:
        """Publish a topic.

        Args:
            msg_type: Message class, from ``message()``.
            topic: Relative, private or absolute name.
            qos_profile: What is offered; a number is the depth of a reliable queue.
            callback_group: Accepted as rclpy does.
            event_callbacks: Accepted as rclpy does; what does not match is said by the logger.
        """
        name, profile, ros_type = self.resolve_topic_name(topic), as_profile(qos_profile), type_name(msg_type)
        writer = Writer(self._context, _dds_topic(name, profile), types.raw_type(ros_type), profile, f"typehash={types.typehash(ros_type)};")
        made = Publisher(self, writer, msg_type, name, profile)
        self._publishers.append(made)
        self._register_endpoint(writer.entity, writer=True)
        return made

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: CallbackGroup | None = None,
        event_callbacks: Any = None,
        raw: bool = False,
        **_: Any,
    ) -> Subscription:
        """Hear a topic.

        Args:
            msg_type: Message class, from ``message()``.
            topic: Relative, private or absolute name.
            callback: Called with the message, or with it and its info (``source_timestamp``, ``received_timestamp``, ns).
            qos_profile: What is asked for; a number is the depth of a reliable queue.
            callback_group: Its rule in an executor.
            event_callbacks: Accepted as rclpy does; what does not match is said by the logger.
            raw: Whether the callback gets the CDR bytes, with their four bytes of encapsulation.
        """
        name, profile, ros_type = self.resolve_topic_name(topic), as_profile(qos_profile), type_name(msg_type)
        reader = Reader(self._context, _dds_topic(name, profile), types.raw_type(ros_type), profile, f"typehash={types.typehash(ros_type)};")
        group = callback_group or self._default_group
        made = Subscription(self, reader, msg_type, name, callback, group, profile, raw)
        group.add_entity(made)
        self._subscriptions.append(made)
        self._register_endpoint(reader.entity, writer=False)
        self._wake()
        return made

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[[], Any] | None,
        callback_group: CallbackGroup | None = None,
        clock: Clock | None = None,
        autostart: bool = True,
    ) -> Timer:
        """Call back every so many seconds of a clock (None: the node's)."""
        group = callback_group or self._default_group
        made = Timer(callback, group, round(float(timer_period_sec) * 1e9), clock or self._clock, self._wake, autostart=autostart)
        group.add_entity(made)
        self._timers.append(made)
        self._wake()
        return made

    def create_guard_condition(self, callback: Callable[[], Any], callback_group: CallbackGroup | None = None) -> GuardCondition:
        """Call back after ``trigger()`` of what is returned."""
        group = callback_group or self._default_group
        made = GuardCondition(callback, group, self._context.participant)
        group.add_entity(made)
        self._guards.append(made)
        self._wake()
        return made

    def create_rate(self, frequency: float, clock: Clock | None = None) -> Any:
        """Return what sleeps until the next of ``frequency`` beats a second; sleep in another thread than the one that spins."""
        from real.ros.dds.rate import Rate

        if frequency <= 0:
            raise ValueError(f"frequency must be above 0, got {frequency}")
        return Rate(self.create_timer(1.0 / frequency, None, clock=clock), self)

    def destroy_publisher(self, publisher: Publisher) -> bool:
        """Take a publisher out; returns whether it was there."""
        return self._destroy(self._publishers, publisher, publisher._writer)

    def destroy_subscription(self, subscription: Subscription) -> bool:
        """Take a subscription out; returns whether it was there."""
        return self._destroy(self._subscriptions, subscription, subscription._reader)

    def _destroy(self, kept: list[Any], one: Any, endpoint: Any) -> bool:
        if not _remove(kept, one):
            return False
        if endpoint is not None:
            self._context.graph.remove_endpoint(self._entry, endpoint.entity.guid.bytes) if self._context.ok() else None
        one._close()
        self._wake()
        return True

    def destroy_timer(self, timer: Timer) -> bool:
        """Take a timer out; returns whether it was there."""
        found = _remove(self._timers, timer)
        if found:
            timer.destroy()
        return found

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        """Take a guard condition out; returns whether it was there."""
        found = _remove(self._guards, guard)
        if found:
            guard.destroy()
        return found

    def destroy_rate(self, rate: Any) -> bool:
        """Take a rate out; returns whether it was there."""
        return self.destroy_timer(rate.timer)

    def destroy_node(self) -> None:
        """Take it and all it has out of ROS; a second time does nothing."""
        if self._closed:
            return
        executor = self.executor
        if executor is not None:
            executor.remove_node(self)
        self._close_services()
        for publisher in list(self._publishers):
            self.destroy_publisher(publisher)
        self._context_ended()
        if self._context.ok():
            self._context._nodes = [node for node in self._context._nodes if node is not self]
            self._context.graph.remove_node(self._entry)

    def _context_ended(self) -> None:
        """Let go of everything, whether or not others still listen."""
        self._closed = True
        self._logger.outlet = None
        for subscription in list(self._subscriptions):
            self.destroy_subscription(subscription)
        for timer in list(self._timers):
            self.destroy_timer(timer)
        for guard in list(self._guards):
            self.destroy_guard_condition(guard)

    # -- what its services, parameters and executor ask of it

    def _register_endpoint(self, entity: Any, *, writer: bool) -> None:
        """Tell the graph that a DDS reader or writer is this node's."""
        self._context.graph.add_endpoint(self._entry, entity.guid.bytes, writer)

    def _unregister_endpoint(self, entity: Any) -> None:
        """Tell the graph that a DDS reader or writer has gone, and delete it."""
        if self._context.ok():
            self._context.graph.remove_endpoint(self._entry, entity.guid.bytes)
        close(entity)

    def _add_waitable(self, waitable: Any) -> None:
        """Have the executor wait for ``waitable.reader`` (or ``.condition``) and run ``execute(take())``."""
        self._waitables.append(waitable)
        self._wake()

    def _remove_waitable(self, waitable: Any) -> None:
        _remove(self._waitables, waitable)
        self._wake()

    def _all_waitables(self) -> list[Any]:
        return [*self._subscriptions, *self._guards, *self._waitables]

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *ended: object) -> None:
        self.destroy_node()

    def __repr__(self) -> str:
        return f"<Node {self.get_fully_qualified_name()}>"


def _remove(kept: list[Any], one: Any) -> bool:
    for index, other in enumerate(kept):
        if other is one:
            del kept[index]
            return True
    return False


def _dds_topic(name: str, profile: QoSProfile) -> str:
    return name[1:] if profile.avoid_ros_namespace_conventions else f"rt{name}"
