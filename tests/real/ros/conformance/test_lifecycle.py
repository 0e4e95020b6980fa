"""Nodes with a life cycle: their states, their callbacks, their services and their publishers."""

from __future__ import annotations

from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import NEVER_S, String, World, texts

Return = ros.TransitionCallbackReturn
GetState = ros.service("lifecycle_msgs/srv/GetState")
ChangeState = ros.service("lifecycle_msgs/srv/ChangeState")


class Logged(ros.LifecycleNode):
    """A node that writes down what it is asked, and answers as it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.said: list[tuple[str, str]] = []
        self.answers: dict[str, Any] = {}
        super().__init__(*args, **kwargs)

    def _log(self, name: str, state: Any) -> Any:
        self.said.append((name, state.label))
        answer = self.answers.get(name, Return.SUCCESS)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def on_configure(self, state: Any) -> Any:
        """Answer and write down."""
        return self._log("configure", state)

    def on_activate(self, state: Any) -> Any:
        """Answer and write down; the publishers follow."""
        super().on_activate(state)
        return self._log("activate", state)

    def on_deactivate(self, state: Any) -> Any:
        """Answer and write down; the publishers follow."""
        super().on_deactivate(state)
        return self._log("deactivate", state)

    def on_cleanup(self, state: Any) -> Any:
        """Answer and write down."""
        return self._log("cleanup", state)

    def on_shutdown(self, state: Any) -> Any:
        """Answer and write down."""
        return self._log("shutdown", state)

    def on_error(self, state: Any) -> Any:
        """Answer and write down."""
        self.said.append(("error", ""))
        return self.answers.get("error", Return.SUCCESS)


def made(world: World, **kwargs: Any) -> Logged:
    """Return such a node, spun."""
    node = Logged("managed", context=world.context, **kwargs)
    world.executor.add_node(node)
    return node


class Outside:
    """Another node, which asks and tells the managed one through its services."""

    def __init__(self, world: World) -> None:
        self.world, node = world, world.node("outside")
        self._get, self._change = node.create_client(GetState, "/managed/get_state"), node.create_client(ChangeState, "/managed/change_state")
        assert self._get.wait_for_service(timeout_sec=30.0)
        assert self._change.wait_for_service(timeout_sec=30.0)

    def state(self) -> tuple[int, str]:
        """Return the number and the label of the state."""
        found = self.world.result(self._get.call_async(GetState.Request())).current_state
        return found.id, found.label

    def change(self, number: int, label: str = "") -> bool:
        """Ask for a transition; returns whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id, request.transition.label = number, label
        return self.world.result(self._change.call_async(request)).success


def test_the_round_of_states(world: World) -> None:
    node, outside = made(world), Outside(world)
    assert outside.state() == (1, "unconfigured")
    for trigger, state in (
        (node.trigger_configure, (2, "inactive")),
        (node.trigger_activate, (3, "active")),
        (node.trigger_deactivate, (2, "inactive")),
        (node.trigger_cleanup, (1, "unconfigured")),
        (node.trigger_shutdown, (4, "finalized")),
    ):
        assert trigger() == Return.SUCCESS
        assert outside.state() == state
    assert node.said == [
        ("configure", "unconfigured"), ("activate", "inactive"), ("deactivate", "active"), ("cleanup", "inactive"), ("shutdown", "unconfigured"),
    ]  # fmt: skip


def test_a_transition_that_is_not_there_is_refused(world: World) -> None:
    node = made(world)
    with pytest.raises(Exception, match=r"activate|[Tt]ransition"):
        node.trigger_activate()
    assert node.said == []


def test_others_change_the_state_by_number_or_label(world: World) -> None:
    node, outside = made(world), Outside(world)
    assert outside.change(1)
    assert outside.change(0, "activate")
    assert outside.state() == (3, "active")
    assert not outside.change(0, "configure")
    assert outside.change(7)
    assert outside.state() == (4, "finalized")
    assert [name for name, _ in node.said] == ["configure", "activate", "shutdown"]


def test_a_callback_that_fails_leaves_the_state(world: World) -> None:
    node, outside = made(world), Outside(world)
    node.answers["configure"] = Return.FAILURE
    assert node.trigger_configure() == Return.FAILURE
    assert outside.state() == (1, "unconfigured")
    assert not outside.change(1)
    node.answers.clear()
    assert outside.change(1)


@pytest.mark.parametrize(("recovers", "state"), [(Return.SUCCESS, (1, "unconfigured")), (Return.FAILURE, (4, "finalized"))])
@pytest.mark.parametrize("how", ["returned", "raised"])
def test_an_error_is_recovered_from_or_final(world: World, how: str, recovers: Any, state: tuple[int, str]) -> None:
    node, outside = made(world), Outside(world)
    node.trigger_configure()
    node.answers.update(activate=Return.ERROR if how == "returned" else RuntimeError("broken"), error=recovers)
    assert not outside.change(3)
    assert outside.state() == state
    assert [name for name, _ in node.said] == ["configure", "activate", "error"]


def test_a_lifecycle_publisher_is_silent_while_inactive(world: World) -> None:
    node = made(world)
    publisher = node.create_lifecycle_publisher(String, "chatter", 10)
    heard = texts(world, world.node("listener"), "chatter")
    node.trigger_configure()
    world.until(lambda: publisher.get_subscription_count() == 1)
    assert not publisher.is_activated
    publisher.publish(String(data="too early"))
    world.pass_time(NEVER_S)
    node.trigger_activate()
    assert publisher.is_activated
    publisher.publish(String(data="now"))
    world.until(lambda: bool(heard))
    node.trigger_deactivate()
    publisher.publish(String(data="too late"))
    world.pass_time(NEVER_S)
    assert heard == ["now"]


def test_transitions_are_told_and_listed(world: World) -> None:
    node, watcher = made(world), world.node("watcher")
    events: list[tuple[str, str, str]] = []
    kind = ros.message("lifecycle_msgs/msg/TransitionEvent")
    watcher.create_subscription(kind, "/managed/transition_event", lambda e: events.append((e.start_state.label, e.transition.label, e.goal_state.label)), 10)
    world.until(lambda: watcher.count_publishers("/managed/transition_event") == 1)
    world.pass_time(0.2)
    node.trigger_configure()
    world.until(lambda: ("configuring", "transition_success", "inactive") in events, "event")
    listed = ros.service("lifecycle_msgs/srv/GetAvailableTransitions")
    client = watcher.create_client(listed, "/managed/get_available_transitions")
    assert client.wait_for_service(timeout_sec=30.0)
    found = world.result(client.call_async(listed.Request())).available_transitions
    assert {one.transition.label for one in found} == {"cleanup", "activate", "shutdown"}
    states = ros.service("lifecycle_msgs/srv/GetAvailableStates")
    client = watcher.create_client(states, "/managed/get_available_states")
    assert client.wait_for_service(timeout_sec=30.0)
    found = world.result(client.call_async(states.Request())).available_states
    assert {(1, "unconfigured"), (2, "inactive"), (3, "active"), (4, "finalized")} <= {(one.id, one.label) for one in found}


def test_the_services_can_be_left_out(world: World) -> None:
    node = made(world, enable_communication_interface=False)
    assert node.trigger_configure() == Return.SUCCESS
    client = world.node("outside").create_client(GetState, "/managed/get_state")
    assert not client.wait_for_service(timeout_sec=0.3)
