"""Two processes over loopback with the settings that ship: nothing of two camera streams is lost, nodes see each other, deaths are noticed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.spinning import LONG_S, Place, peers, place

JointState = ros.message("sensor_msgs/msg/JointState")
Image = ros.message("sensor_msgs/msg/Image")


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


@pytest.fixture
def peer(here: Place) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with peers(here.domain) as start:
        yield start


@pytest.mark.parametrize("reliable", ["best-effort", "reliable"])
def test_two_camera_streams_arrive_whole(here: Place, peer: Callable[..., Any], reliable: str) -> None:
    """921 kB images from two cameras; a receiver that is late may miss best-effort ones, so they are sent at a rate it keeps up with."""
    frames, node = 30, here.node("watcher")
    profile = ros.QoSProfile(depth=frames, reliability=ros.ReliabilityPolicy.RELIABLE if reliable == "reliable" else ros.ReliabilityPolicy.BEST_EFFORT)
    seen: dict[str, list[bytes]] = {"left": [], "right": []}
    for side, images in seen.items():
        node.create_subscription(Image, f"/camera/{side}/image_raw", images.append, profile, raw=True)
    positions: list[float] = []
    node.create_subscription(JointState, "/joint_states", lambda m: positions.append(m.position[0]), frames)
    other = peer("cameras", reliable, str(frames), "15")
    here.until(lambda: all(len(images) == frames for images in seen.values()) and len(positions) == frames)
    for images in seen.values():
        decoded = [ros.deserialize(cdr, Image) for cdr in images]
        assert [m.header.stamp.sec for m in decoded] == list(range(frames))
        assert all(len(m.data) == 921600 and m.data[0] == m.data[-1] == m.header.stamp.sec for m in decoded)
    assert positions == [float(n) for n in range(frames)]
    assert json.loads(other.stdout.readline()) == {"sent": frames, "dropped": 0}


def test_messages_go_round_and_names_are_seen(here: Place, peer: Callable[..., Any]) -> None:
    node, back = here.node("asker"), []
    publisher = node.create_publisher(JointState, "/joint_states", 10)
    node.create_subscription(JointState, "/joint_states_echo", back.append, 10)
    peer("echo")
    assert here.until(lambda: publisher.get_subscription_count() == 1 and node.count_publishers("/joint_states_echo") == 1)
    assert here.until(lambda: ("echo", "/peer") in node.get_node_names_and_namespaces())
    assert here.until(lambda: [i.node_name for i in node.get_publishers_info_by_topic("/joint_states_echo")] == ["echo"])
    assert here.until(lambda: next(iter(node.subscriptions)).get_publisher_count() == 1)
    sent = [JointState(name=["a"], position=[float(n)]) for n in range(50)]
    for n, message in enumerate(sent):
        publisher.publish(message)
        assert here.until(lambda n=n: len(back) == n + 1)
    assert back == sent


def test_a_killed_process_leaves_the_graph(here: Place, peer: Callable[..., Any]) -> None:
    node = here.node("asker")
    other = peer("echo")
    assert here.until(lambda: "echo" in node.get_node_names() and node.count_publishers("/joint_states_echo") == 1)
    other.kill()
    assert here.until(lambda: "echo" not in node.get_node_names() and node.count_publishers("/joint_states_echo") == 0, 2 * LONG_S)


def test_a_mismatch_with_another_process_names_its_node(here: Place, peer: Callable[..., Any]) -> None:
    node = here.node("driver", namespace="cell")
    node.create_subscription(Image, "/camera/left/image_raw", print, 10)
    peer("cameras", "best-effort", "1", "10")
    assert here.until(lambda: node.context.graph.mismatches)
    assert node.context.graph.mismatches == [
        "QoS mismatch on /camera/left/image_raw: /peer/cameras offers reliability BEST_EFFORT, /cell/driver asks for RELIABLE: no message arrives; "
        "ask for reliability BEST_EFFORT in the subscription, or publish with RELIABLE"
    ]


def test_two_domains_do_not_hear_each_other(here: Place, peer: Callable[..., Any]) -> None:
    peer("echo")
    with place() as elsewhere:
        assert elsewhere.domain != here.domain
        inside, outside = here.node("inside"), elsewhere.node("outside")
        assert here.until(lambda: "echo" in inside.get_node_names())
        assert elsewhere.until(lambda: outside.get_node_names() == ["outside"])
        assert outside.count_publishers("/joint_states_echo") == 0
