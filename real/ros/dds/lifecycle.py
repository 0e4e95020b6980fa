"""Nodes with a life cycle: unconfigured, inactive, active, finalized, and the transitions between them.

The states, their numbers and the services are those of ``lifecycle_msgs``; the callbacks (``on_configure`` ...) those of
``rclpy.lifecycle``. ``trigger_configure()`` and its kin, or the service ``~/change_state``, make a transition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from real.ros.dds.exceptions import RCLError
from real.ros.dds.node import Node
from real.ros.messages import message

STATES = {
    "unknown": 0, "unconfigured": 1, "inactive": 2, "active": 3, "finalized": 4, "configuring": 10, "cleaningup": 11, "shuttingdown": 12,
    "activating": 13, "deactivating": 14, "errorprocessing": 15,
}  # fmt: skip


class TransitionCallbackReturn(Enum):
    """What a callback says of its transition: done, not done (back to where it was), or broken (``on_error`` is asked)."""

    SUCCESS = 97
    FAILURE = 98
    ERROR = 99


@dataclass(frozen=True)
class LifecycleState:
    """A state as the callbacks get it."""

    label: str
    state_id: int


@dataclass(frozen=True)
class Transition:
    """One edge: its number and label, from where, through which state while the callback runs, and where it ends."""

    number: int
    label: str
    start: str
    goal: str


def _edges() -> list[Transition]:
    """Return all transitions, those that are asked for and those that end a callback."""
    made = [
        Transition(1, "configure", "unconfigured", "configuring"),
        Transition(2, "cleanup", "inactive", "cleaningup"),
        Transition(3, "activate", "inactive", "activating"),
        Transition(4, "deactivate", "active", "deactivating"),
        Transition(5, "shutdown", "unconfigured", "shuttingdown"),
        Transition(6, "shutdown", "inactive", "shuttingdown"),
        Transition(7, "shutdown", "active", "shuttingdown"),
    ]
    ends = (
        (10, "configuring", "inactive", "unconfigured"),
        (20, "cleaningup", "unconfigured", "inactive"),
        (30, "activating", "active", "inactive"),
        (40, "deactivating", "inactive", "active"),
        (50, "shuttingdown", "finalized", "finalized"),
        (60, "errorprocessing", "unconfigured", "finalized"),
    )
    for number, through, success, failure in ends:
        error = "finalized" if through == "errorprocessing" else "errorprocessing"
        labels = ("transition_success", success), ("transition_failure", failure), ("transition_error", error)
        made += [Transition(number + k, label, through, goal) for k, (label, goal) in enumerate(labels)]
    return made


TRANSITIONS = _edges()
_PRIMARY = tuple(edge for edge in TRANSITIONS if edge.number < 10)


class ManagedEntity:
    """Something that follows its node's life cycle; every callback may be overridden and returns SUCCESS unless it is."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Prepare; resources are made here."""
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo what on_configure did."""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act."""
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cease to act."""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End for good."""
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Recover; anything but SUCCESS finalizes the node."""
        return TransitionCallbackReturn.SUCCESS


class SimpleManagedEntity(ManagedEntity):
    """An entity that is on while its node is active."""

    def __init__(self) -> None:
        self._enabled = False

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Switch it on."""
        self._enabled = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Switch it off."""
        self._enabled = False
        return TransitionCallbackReturn.SUCCESS

    @property
    def is_activated(self) -> bool:
        """Return whether it is on."""
        return self._enabled


class LifecyclePublisher(SimpleManagedEntity):
    """A publisher that says nothing while its node is not active; everything else is the publisher's."""

    def __init__(self, publisher: Any) -> None:
        super().__init__()
        self._publisher = publisher

    def publish(self, msg: Any) -> None:
        """Publish a message, or drop it while the node is not active."""
        if self._enabled:
            self._publisher.publish(msg)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_publisher"], name)


class LifecycleNode(ManagedEntity, Node):
    """A node with a life cycle; it starts unconfigured. Override ``on_configure`` and its kin and call ``super()`` in them."""

    def __init__(self, node_name: str, *, enable_communication_interface: bool = True, **kwargs: Any) -> None:
        """Make the node.

        Args:
            node_name: As for Node.
            enable_communication_interface: Whether the services and ``~/transition_event`` are offered.
            **kwargs: As for Node.
        """
        self._state, self._managed = "unconfigured", []
        self._transition_events: Any = None
        Node.__init__(self, node_name, **kwargs)
        if enable_communication_interface:
            self._offer()

    @property
    def current_state(self) -> LifecycleState:
        """Return the state that the node is in."""
        return LifecycleState(self._state, STATES[self._state])

    def add_managed_entity(self, entity: ManagedEntity) -> None:
        """Have an entity follow the node's transitions."""
        self._managed.append(entity)

    def create_lifecycle_publisher(self, *args: Any, **kwargs: Any) -> LifecyclePublisher:
        """Make a publisher that is silent while the node is not active; arguments as for create_publisher."""
        made = LifecyclePublisher(self.create_publisher(*args, **kwargs))
        self.add_managed_entity(made)
        return made

    def _all(self, name: str, state: LifecycleState) -> TransitionCallbackReturn:
        for entity in self._managed:
            outcome = getattr(entity, name)(state)
            if outcome is not TransitionCallbackReturn.SUCCESS:
                return outcome
        return TransitionCallbackReturn.SUCCESS

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Configure the managed entities."""
        return self._all("on_configure", state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Clean the managed entities up."""
        return self._all("on_cleanup", state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Activate the managed entities."""
        return self._all("on_activate", state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate the managed entities."""
        return self._all("on_deactivate", state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Shut the managed entities down."""
        return self._all("on_shutdown", state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the managed entities recover; anything but SUCCESS finalizes the node."""
        return self._all("on_error", state)

    def trigger_configure(self) -> TransitionCallbackReturn:
        """Go from unconfigured to inactive; RCLError from another state."""
        return self._trigger("configure")

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        """Go from inactive to unconfigured; RCLError from another state."""
        return self._trigger("cleanup")

    def trigger_activate(self) -> TransitionCallbackReturn:
        """Go from inactive to active; RCLError from another state."""
        return self._trigger("activate")

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        """Go from active to inactive; RCLError from another state."""
        return self._trigger("deactivate")

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """Go to finalized; RCLError if that is where it is."""
        return self._trigger("shutdown")

    def _trigger(self, label: str) -> TransitionCallbackReturn:
        edge = next((one for one in _PRIMARY if one.label == label and one.start == self._state), None)
        if edge is None:
            raise RCLError(f"node {self.get_name()!r} is {self._state}: there is no transition {label!r} from there")
        start = self.current_state
        self._move(edge)
        outcome = self._run(getattr(self, f"on_{label}"), start)
        self._end(outcome)
        if self._state == "errorprocessing":
            self._end(self._run(self.on_error, start))
        return outcome

    def _run(self, callback: Callable[[LifecycleState], TransitionCallbackReturn], start: LifecycleState) -> TransitionCallbackReturn:
        try:
            outcome = callback(start)
        except Exception as error:  # whatever a callback raises is an error of its transition, as in rclpy
            self.get_logger().error(f"{callback.__name__} raised {type(error).__name__}: {error}")
            return TransitionCallbackReturn.ERROR
        return outcome if isinstance(outcome, TransitionCallbackReturn) else TransitionCallbackReturn.ERROR

    def _end(self, outcome: TransitionCallbackReturn) -> None:
        label = f"transition_{outcome.name.lower()}"
        self._move(next(edge for edge in TRANSITIONS if edge.start == self._state and edge.label == label))

    def _move(self, edge: Transition) -> None:
        self._state = edge.goal
        if self._transition_events is not None:
            event = message("lifecycle_msgs/msg/TransitionEvent")(timestamp=time.time_ns(), transition=_transition(edge))
            event.start_state, event.goal_state = _state(edge.start), _state(edge.goal)
            self._transition_events.publish(event)

    def _offer(self) -> None:
        self._transition_events = self.create_publisher(message("lifecycle_msgs/msg/TransitionEvent"), "~/transition_event", 10)
        for short, kind, answer in (
            ("change_state", "ChangeState", self._change_state),
            ("get_state", "GetState", self._get_state),
            ("get_available_states", "GetAvailableStates", self._get_available_states),
            ("get_available_transitions", "GetAvailableTransitions", self._get_available_transitions),
            ("get_transition_graph", "GetAvailableTransitions", self._get_transition_graph),
        ):
            self.create_service(message(f"lifecycle_msgs/srv/{kind}"), f"~/{short}", answer)

    def _change_state(self, request: Any, response: Any) -> Any:
        """Answer ``~/change_state``: by the transition's number, or by its label where one is given."""
        wanted = request.transition
        possible = [edge for edge in _PRIMARY if edge.start == self._state]
        if wanted.label:
            edge = next((one for one in possible if one.label == wanted.label), None)
        else:
            edge = next((one for one in possible if one.number == wanted.id), None)
        response.success = edge is not None and self._trigger(edge.label) is TransitionCallbackReturn.SUCCESS
        return response

    def _get_state(self, request: Any, response: Any) -> Any:
        response.current_state = _state(self._state)
        return response

    def _get_available_states(self, request: Any, response: Any) -> Any:
        response.available_states = [_state(label) for label in STATES]
        return response

    def _get_available_transitions(self, request: Any, response: Any) -> Any:
        response.available_transitions = [_description(edge) for edge in TRANSITIONS if edge.start == self._state]
        return response

    def _get_transition_graph(self, request: Any, response: Any) -> Any:
        response.available_transitions = [_description(edge) for edge in TRANSITIONS]
        return response


def _state(label: str) -> Any:
    return message("lifecycle_msgs/msg/State")(id=STATES[label], label=label)


def _transition(edge: Transition) -> Any:
    return message("lifecycle_msgs/msg/Transition")(id=edge.number, label=edge.label)


def _description(edge: Transition) -> Any:
    kind = message("lifecycle_msgs/msg/TransitionDescription")
    return kind(transition=_transition(edge), start_state=_state(edge.start), goal_state=_state(edge.goal))


#: Names of ``rclpy.lifecycle``.
State, Publisher, TransitionDescription = LifecycleState, LifecyclePublisher, Transition
