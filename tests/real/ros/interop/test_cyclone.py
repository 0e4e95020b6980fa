"""Cyclone DDS in C, as Debian ships it (the engine of rmw_cyclonedds): topics, the graph, and services in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from real.ros import api as ros
from tests.real.ros.interop.build import cyclone_peer, running
from tests.real.ros.interop.exchange import ours, there_and_back
from tests.require import require

CALLS = 20


@pytest.fixture(scope="module")
def program() -> Path:
    require("cyclonedds-c")
    return cyclone_peer()


@pytest.mark.parametrize("qos", ["reliable", "best_effort"])
@pytest.mark.parametrize(("kind", "count"), [("JointState", 50), ("Image", 10)])
def test_messages_go_there_and_come_back_with_the_same_bytes(program: Path, kind: str, count: int, qos: str) -> None:
    there_and_back(program, kind, qos, count)


@pytest.mark.parametrize("kind", ["JointState", "Image"])
def test_a_program_whose_types_come_with_xtypes_information_understands_us(program: Path, kind: str) -> None:
    there_and_back(cyclone_peer(type_information=True), kind, "reliable", 5)


def test_the_graph_names_our_node_and_its_endpoints(program: Path) -> None:
    with ours() as here, running(program, here.domain, "graph") as peer:
        node = ros.Node("arm", context=here.context, namespace="/cell", start_parameter_services=False, enable_rosout=False)
        node.create_subscription(ros.message("std_msgs/msg/String"), "heard", lambda message: None, 10)
        wanted = "node /cell arm readers=1 writers=1"  # the subscription; /parameter_events
        lines: list[str] = []
        here.until(lambda: bool(lines.extend(peer.lines())) or wanted in lines, f"line {wanted!r} (got {lines})")
        assert any(line.startswith("node / ours ") for line in lines)


def test_a_c_client_is_answered_by_our_service(program: Path) -> None:
    trigger = ros.service("std_srvs/srv/Trigger")
    asked: list[object] = []

    def answer(request: object, response: object) -> object:
        asked.append(request)
        response.success, response.message = len(asked) % 2 == 0, f"call {len(asked)} äöü"  # pyright: ignore[reportAttributeAccessIssue]
        return response

    with ours() as here:
        here.node.create_service(trigger, "/go", answer)
        with running(program, here.domain, "call", "/go", CALLS) as peer:
            lines: list[str] = []
            here.until(lambda: bool(lines.extend(peer.lines())) or len(lines) == CALLS + 1, f"{CALLS} answers")
    assert lines == ["ready", *(f"answer {k} {'true' if k % 2 == 0 else 'false'} call {k} äöü" for k in range(1, CALLS + 1))]


def test_our_client_is_answered_by_a_c_service(program: Path) -> None:
    trigger = ros.service("std_srvs/srv/Trigger")
    with ours() as here, running(program, here.domain, "serve", "/go") as peer:
        client = here.node.create_client(trigger, "/go")
        assert peer.line() == "ready"
        assert client.wait_for_service(timeout_sec=30.0)
        for k in range(1, CALLS + 1):
            future = client.call_async(trigger.Request())
            here.until(future.done, f"answer {k}")
            assert (future.result().success, future.result().message) == (True, f"request {k}")
