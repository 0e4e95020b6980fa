"""Fast DDS, as Debian ships it (the engine of rmw_fastrtps), hears our node and our node hears it; services it is not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from real.ros import api as ros
from tests.real.ros.interop.build import fast_peer, running
from tests.real.ros.interop.exchange import ours, there_and_back
from tests.require import require


@pytest.fixture(scope="module")
def program() -> Path:
    require("fastdds")
    return fast_peer()


@pytest.mark.parametrize("qos", ["reliable", "best_effort"])
@pytest.mark.parametrize(("kind", "count"), [("JointState", 50), ("Image", 10)])
def test_messages_go_there_and_come_back_with_the_same_bytes(program: Path, kind: str, count: int, qos: str) -> None:
    there_and_back(program, kind, qos, count)


def test_a_service_of_a_fast_dds_node_is_told_of_and_never_sent_a_request(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trigger = ros.service("std_srvs/srv/Trigger")
    with ours() as here, running(program, here.domain, "service", "/go") as peer:
        assert peer.line() == "ready"
        client = here.node.create_client(trigger, "/go")
        here.until(lambda: len(client.writer.get_matched_subscriptions()) == 1, "match")
        assert not client.wait_for_service(timeout_sec=0.3)
        future = client.call_async(trigger.Request())
        assert future.done()
        with pytest.raises(RuntimeError, match="offered by a node on Fast DDS: services reach Cyclone DDS only"):
            future.result()
        here.node.create_service(trigger, "/late", lambda request, response: response)
        assert peer.lines() == []  # it was not asked: our header would be its body
    told = capfd.readouterr().err
    assert "a Fast DDS node is on this domain; services reach nodes on Cyclone DDS only" in told
    assert "service /go: it is offered by a node on Fast DDS, which this layer cannot call" in told
