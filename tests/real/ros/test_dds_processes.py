"""Two processes over loopback with the settings that ship: nothing of two camera streams is lost, nodes see each other, deaths are noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.domains import free_domain
from tests.real.ros.spinning import LONG_S, Place, peers, place

ROOT = Path(__file__).parents[3]
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


@pytest.mark.parametrize("reliable", [False, True], ids=["best-effort", "reliable"])
def test_two_camera_streams_arrive_whole(here: Place, peer: Callable[..., Any], reliable: bool) -> None:
    """921 kB images from two cameras at 30 Hz. Reliable ones all come; best-effort ones do too unless the processor was elsewhere.

    With DDS's own defaults every round loses most of the second stream, so one whole round of five shows the settings at work.
    """
    frames, node = 30, here.node("watcher")
    profile = ros.QoSProfile(depth=frames, reliability=ros.ReliabilityPolicy.RELIABLE if reliable else ros.ReliabilityPolicy.BEST_EFFORT)
    seen: dict[str, list[bytes]] = {"left": [], "right": []}
    for side, images in seen.items():
        node.create_subscription(Image, f"/camera/{side}/image_raw", images.append, profile, raw=True)
    positions: list[float] = []
    node.create_subscription(JointState, "/joint_states", lambda m: positions.append(m.position[0]), frames + 1)
    other = peer("cameras", "reliable" if reliable else "best-effort", str(frames), "30")

    def complete() -> bool:
        return all(len(images) == frames for images in seen.values()) and positions[-1:] == [-1.0]

    for _ in range(1 if reliable else 5):
        for images in [*seen.values(), positions]:
            images.clear()
        other.stdin.write("\n")
        other.stdin.flush()
        assert here.until(lambda: positions[-1:] == [-1.0])
        if here.until(complete, LONG_S if reliable else 1.0):
            break
    assert complete(), {side: len(images) for side, images in seen.items()}
    for images in seen.values():
        decoded = [ros.deserialize(cdr, Image) for cdr in images]
        assert [m.header.stamp.sec for m in decoded] == list(range(frames))
        assert all(len(m.data) == 921600 and m.data[0] == m.data[-1] == m.header.stamp.sec for m in decoded)
    assert positions == [float(n) for n in range(frames)] + [-1.0]
    assert json.loads(other.stdout.readline())["dropped"] == 0


def test_messages_go_round_names_are_seen_and_a_killed_process_leaves_the_graph(here: Place, peer: Callable[..., Any]) -> None:
    node, back = here.node("asker"), []
    publisher = node.create_publisher(JointState, "/joint_states", 10)
    subscription = node.create_subscription(JointState, "/joint_states_echo", back.append, 10)
    other = peer("echo")
    assert here.until(lambda: publisher.get_subscription_count() == 1 and node.count_publishers("/joint_states_echo") == 1)
    assert here.until(lambda: ("echo", "/peer") in node.get_node_names_and_namespaces())
    assert here.until(lambda: [i.node_name for i in node.get_publishers_info_by_topic("/joint_states_echo")] == ["echo"])
    assert here.until(lambda: subscription.get_publisher_count() == 1)
    sent = [JointState(name=["a"], position=[float(n)]) for n in range(50)]
    for n, message in enumerate(sent):
        publisher.publish(message)
        assert here.until(lambda n=n: len(back) == n + 1)
    assert back == sent
    other.kill()
    assert here.until(lambda: "echo" not in node.get_node_names() and node.count_publishers("/joint_states_echo") == 0, 2 * LONG_S)


def test_a_mismatch_with_another_process_names_its_node(here: Place, peer: Callable[..., Any]) -> None:
    """And another domain hears nothing of it."""
    node = here.node("driver", namespace="cell")
    node.create_subscription(Image, "/camera/left/image_raw", print, 10)
    peer("cameras", "best-effort", "1", "10")
    assert here.until(lambda: node.context.graph.mismatches)
    assert node.context.graph.mismatches == [
        "QoS mismatch on /camera/left/image_raw: /peer/cameras offers reliability BEST_EFFORT, /cell/driver asks for RELIABLE: no message arrives; "
        "ask for reliability BEST_EFFORT in the subscription, or publish with RELIABLE"
    ]
    with place() as elsewhere:
        outside = elsewhere.node("outside")
        assert elsewhere.domain != here.domain
        elsewhere.executor.spin_once(0.3)
        assert outside.get_node_names() == ["outside"] and outside.count_publishers("/camera/left/image_raw") == 0


def test_humble_has_identities_of_another_length() -> None:
    """Its graph messages carry 24 bytes where later ones carry 16: two contexts of that distribution see each other's nodes."""
    code = """
import sys, time
from real.ros import api as ros
contexts = [ros.Context() for _ in range(2)]
for context in contexts:
    context.init(args=[], domain_id=int(sys.argv[1]))
first, second = (ros.Node(name, context=context) for name, context in zip(("first", "second"), contexts))
publisher = second.create_publisher(ros.message("std_msgs/msg/String"), "t", 10)
until = time.monotonic() + 30
while "second" not in first.get_node_names() or [i.node_name for i in first.get_publishers_info_by_topic("t")] != ["second"]:
    assert time.monotonic() < until
    time.sleep(0.01)
print(ros.distro(), len(ros.message("rmw_dds_common/msg/Gid")().data))
"""
    with free_domain() as domain:
        env = {key: value for key, value in os.environ.items() if key != "CYCLONEDDS_URI"} | {"PYTHONPATH": str(ROOT), "ROS_DISTRO": "humble"}
        done = subprocess.run([sys.executable, "-c", code, str(domain)], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)
    assert done.stdout == "humble 24\n", done.stderr
