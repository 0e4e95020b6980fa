"""Services and clients: who is answered, in which order, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import World

SetBool = ros.service("std_srvs/srv/SetBool")
Trigger = ros.service("std_srvs/srv/Trigger")


def count(request: Any, response: Any, asked: list[Any]) -> Any:
    """Answer with how often one was asked."""
    asked.append(request)
    response.success, response.message = bool(getattr(request, "data", True)), f"call {len(asked)}"
    return response


def served(world: World, kind: Any = SetBool, name: str = "switch", **kwargs: Any) -> tuple[Any, list[Any]]:
    """Offer a service on a node of its own; returns it and the list of requests."""
    asked: list[Any] = []
    return world.node("server", **kwargs).create_service(kind, name, lambda request, response: count(request, response, asked)), asked


def test_a_request_is_answered(world: World) -> None:
    service, asked = served(world, namespace="arm")
    client = world.node("client").create_client(SetBool, "/arm/switch")
    assert service.service_name == client.service_name == "/arm/switch"
    assert client.wait_for_service(timeout_sec=30.0)
    assert client.service_is_ready()
    response = world.result(client.call_async(SetBool.Request(data=True)))
    assert isinstance(response, SetBool.Response)
    assert (response.success, response.message) == (True, "call 1")
    assert not world.result(client.call_async(SetBool.Request(data=False))).success
    assert [request.data for request in asked] == [True, False]


def test_a_service_without_fields_is_answered(world: World) -> None:
    served(world, Trigger)
    client = world.node("client").create_client(Trigger, "switch")
    assert client.wait_for_service(timeout_sec=30.0)
    assert world.result(client.call_async(Trigger.Request())).message == "call 1"


def test_every_client_gets_its_own_answers(world: World) -> None:
    def echo(request: Any, response: Any) -> Any:
        response.values = [ros.message("rcl_interfaces/msg/ParameterValue")(type=4, string_value=name) for name in request.names]
        return response

    kind = ros.service("rcl_interfaces/srv/GetParameters")
    world.node("server").create_service(kind, "echo", echo)
    clients = [world.node(f"client{k}").create_client(kind, "echo") for k in range(3)]
    assert all(client.wait_for_service(timeout_sec=30.0) for client in clients)
    futures = [(f"{c}.{k}", client.call_async(kind.Request(names=[f"{c}.{k}"]))) for k in range(3) for c, client in enumerate(clients)]
    for name, future in futures:
        assert [value.string_value for value in world.result(future).values] == [name]


def test_waiting_for_a_service_that_is_not_there_ends(world: World) -> None:
    client = world.node("client").create_client(Trigger, "nowhere")
    assert not client.service_is_ready()
    assert not client.wait_for_service(timeout_sec=0.2)


def test_a_service_that_was_destroyed_is_not_ready(world: World) -> None:
    service, _ = served(world)
    client = world.node("client").create_client(SetBool, "switch")
    assert client.wait_for_service(timeout_sec=30.0)
    server = next(node for node in world.executor.get_nodes() if node.get_name() == "server")
    assert service in list(server.services)
    assert server.destroy_service(service)
    world.until(lambda: not client.service_is_ready())


def test_a_request_of_another_type_is_refused(world: World) -> None:
    client = world.node("client").create_client(Trigger, "switch")
    with pytest.raises(TypeError):
        client.call_async(SetBool.Request())


def test_an_answer_of_another_type_comes_out_of_the_spin(world: World) -> None:
    node = world.node("server")
    node.create_service(Trigger, "switch", lambda request, response: "done")
    client = node.create_client(Trigger, "switch")
    assert client.wait_for_service(timeout_sec=30.0)
    future = client.call_async(Trigger.Request())
    with pytest.raises(TypeError):
        world.result(future)


def test_a_call_that_blocks_is_made_beside_the_thread_that_spins(world: World) -> None:
    served(world)
    client = world.node("client").create_client(SetBool, "switch")
    with world.spinning():
        assert client.wait_for_service(timeout_sec=30.0)
        assert client.call(SetBool.Request(data=True)).message == "call 1"


def test_a_callback_may_be_a_coroutine_that_calls_another_service(world: World) -> None:
    served(world, Trigger, "inner")
    node = world.node("middle")
    inner = node.create_client(Trigger, "inner", callback_group=ros.ReentrantCallbackGroup())  # the service's own group is taken while it waits

    async def ask_on(request: Any, response: Any) -> Any:
        answer = await inner.call_async(Trigger.Request())
        response.success, response.message = answer.success, "inner " + answer.message
        return response

    node.create_service(Trigger, "outer", ask_on)
    outer = world.node("client").create_client(Trigger, "outer")
    assert inner.wait_for_service(timeout_sec=30.0)
    assert outer.wait_for_service(timeout_sec=30.0)
    assert world.result(outer.call_async(Trigger.Request())).message == "inner call 1"


def test_a_callback_calls_a_service_of_its_own_process_from_another_group(world: World) -> None:
    executor = ros.MultiThreadedExecutor(num_threads=4, context=world.context)
    node = world.node("both", spins=False)
    executor.add_node(node)
    asked: list[Any] = []
    node.create_service(Trigger, "inner", lambda request, response: count(request, response, asked), callback_group=ros.MutuallyExclusiveCallbackGroup())
    client = node.create_client(Trigger, "inner", callback_group=ros.MutuallyExclusiveCallbackGroup())
    said: list[str] = []
    done = threading.Event()
    timers: list[Any] = []

    def ask() -> None:
        timers[0].cancel()
        if client.wait_for_service(timeout_sec=30.0):
            said.append(client.call(Trigger.Request()).message)
        done.set()

    timers.append(node.create_timer(0.05, ask, callback_group=ros.MutuallyExclusiveCallbackGroup()))
    with world.spinning(executor):
        assert done.wait(30.0)
    executor.shutdown(timeout_sec=30.0)
    assert said == ["call 1"]


def test_a_service_of_another_context_is_called(opened: Callable[..., World]) -> None:
    here, there = opened(), opened()
    served(there)
    client = here.node("client").create_client(SetBool, "switch")
    with there.spinning():
        assert client.wait_for_service(timeout_sec=30.0)
        for k in range(1, 21):
            assert here.result(client.call_async(SetBool.Request(data=True))).message == f"call {k}"


def test_an_answer_after_its_request_was_given_up_is_dropped(world: World) -> None:
    served(world)
    client = world.node("client").create_client(SetBool, "switch")
    assert client.wait_for_service(timeout_sec=30.0)
    forgotten = client.call_async(SetBool.Request(data=True))
    client.remove_pending_request(forgotten)
    assert world.result(client.call_async(SetBool.Request(data=True))).message == "call 2"
    assert not forgotten.done()
