"""Publishers and subscriptions: what arrives, in which order, to whom, and what quality of service keeps apart."""

from __future__ import annotations

from typing import Any

import pytest

from real.ros import api as ros
from tests.real.ros.conformance.world import NEVER_S, String, World, texts

RELIABLE = ros.QoSProfile(depth=10, reliability=ros.ReliabilityPolicy.RELIABLE)
BEST_EFFORT = ros.QoSProfile(depth=10, reliability=ros.ReliabilityPolicy.BEST_EFFORT)


def latched(depth: int) -> Any:
    """Return a profile whose late subscribers get the last ``depth`` messages."""
    return ros.QoSProfile(depth=depth, reliability=ros.ReliabilityPolicy.RELIABLE, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL)


def matched(world: World, publisher: Any, count: int = 1) -> None:
    """Wait until so many subscriptions get what is published."""
    world.until(lambda: publisher.get_subscription_count() == count, f"{count} subscriptions")


def test_messages_arrive_in_order(world: World) -> None:
    publisher = world.node("talker").create_publisher(String, "chatter", 50)
    heard = texts(world, world.node("listener"), "chatter", 50)
    matched(world, publisher)
    for k in range(30):
        publisher.publish(String(data=str(k)))
    world.until(lambda: len(heard) == 30)
    assert heard == [str(k) for k in range(30)]


def test_a_node_hears_itself_and_every_subscription_gets_every_message(world: World) -> None:
    node = world.node()
    lists = [texts(world, node, "chatter") for _ in range(3)]
    publisher = node.create_publisher(String, "chatter", 10)
    matched(world, publisher, 3)
    publisher.publish(String(data="once"))
    world.until(lambda: all(lists))
    assert lists == [["once"]] * 3


@pytest.mark.parametrize(
    ("offered", "asked", "arrives"),
    [(RELIABLE, RELIABLE, True), (RELIABLE, BEST_EFFORT, True), (BEST_EFFORT, BEST_EFFORT, True), (BEST_EFFORT, RELIABLE, False),
     (latched(1), RELIABLE, True), (RELIABLE, latched(1), False)],
)  # fmt: skip
def test_an_offer_must_be_at_least_what_is_asked_for(world: World, offered: Any, asked: Any, arrives: bool) -> None:
    publisher = world.node("talker").create_publisher(String, "chatter", offered)
    heard = texts(world, world.node("listener"), "chatter", asked)
    control = texts(world, world.node("control"), "chatter", BEST_EFFORT)
    if arrives:
        matched(world, publisher, 2)
    else:
        matched(world, publisher, 1)
    for _ in range(200):  # a best-effort message may be lost
        publisher.publish(String(data="x"))
        world.pass_time(0.02)
        if control and bool(heard) == arrives:
            break
    if not arrives:
        world.pass_time(NEVER_S)
    assert control
    assert bool(heard) == arrives
    fits, _ = ros.qos_check_compatible(offered, asked)
    assert (fits.name == "ERROR") != arrives


@pytest.mark.parametrize("depth", [1, 3])
def test_a_late_subscription_gets_the_last_messages_of_a_latched_topic(world: World, depth: int) -> None:
    publisher = world.node("talker").create_publisher(String, "description", latched(depth))
    for k in range(5):
        publisher.publish(String(data=str(k)))
    heard = texts(world, world.node("listener"), "description", latched(10))
    world.until(lambda: len(heard) >= depth)
    world.pass_time(NEVER_S)
    assert heard == [str(k) for k in range(5)][-depth:]


def test_a_late_subscription_gets_nothing_old_of_a_volatile_topic(world: World) -> None:
    publisher = world.node("talker").create_publisher(String, "chatter", 10)
    publisher.publish(String(data="old"))
    heard = texts(world, world.node("listener"), "chatter", 10)
    matched(world, publisher)
    world.pass_time(NEVER_S)
    publisher.publish(String(data="new"))
    world.until(lambda: bool(heard))
    assert heard == ["new"]


def test_a_queue_keeps_the_last_messages(world: World) -> None:
    publisher = world.node("talker").create_publisher(String, "chatter", 50)
    quiet = world.node("listener", spins=False)
    heard = texts(world, quiet, "chatter", 3)
    matched(world, publisher)
    for k in range(10):
        publisher.publish(String(data=str(k)))
    assert publisher.wait_for_all_acked(ros.Duration(seconds=30))
    world.executor.add_node(quiet)
    world.until(lambda: len(heard) >= 3)
    world.pass_time(NEVER_S)
    assert heard == ["7", "8", "9"]


def test_a_raw_subscription_gets_the_bytes(world: World) -> None:
    publisher = world.node("talker").create_publisher(String, "chatter", 10)
    heard: list[bytes] = []
    world.node("listener").create_subscription(String, "chatter", heard.append, 10, raw=True)
    matched(world, publisher)
    publisher.publish(String(data="bytes"))
    world.until(lambda: bool(heard))
    assert bytes(heard[0])[:14] == ros.serialize(String(data="bytes"))[:14]  # padding behind the text is the middleware's
    assert ros.deserialize(bytes(heard[0]), String).data == "bytes"


def test_ready_bytes_can_be_published(world: World) -> None:
    publisher = world.node("talker").create_publisher(String, "chatter", 10)
    heard = texts(world, world.node("listener"), "chatter")
    matched(world, publisher)
    publisher.publish(ros.serialize(String(data="ready")))
    world.until(lambda: bool(heard))
    assert heard == ["ready"]


def test_a_message_of_another_type_is_refused(world: World) -> None:
    publisher = world.node().create_publisher(String, "chatter", 10)
    with pytest.raises(TypeError):
        publisher.publish(ros.message("std_msgs/msg/Bool")())


def test_another_type_or_another_topic_is_not_heard(world: World) -> None:
    node = world.node()
    publisher = node.create_publisher(String, "chatter", 10)
    other: list[Any] = []
    node.create_subscription(String, "other", other.append, 10)
    heard = texts(world, node, "chatter")
    matched(world, publisher)
    publisher.publish(String(data="x"))
    world.until(lambda: bool(heard))
    world.pass_time(NEVER_S)
    assert other == []


def test_what_was_destroyed_cannot_be_used(world: World) -> None:
    node = world.node()
    publisher = node.create_publisher(String, "chatter", 10)
    assert list(node.publishers).count(publisher) == 1
    assert node.destroy_publisher(publisher)
    assert not node.destroy_publisher(publisher)
    assert list(node.publishers).count(publisher) == 0
    with pytest.raises(ros.InvalidHandle):
        publisher.publish(String())


def test_a_destroyed_subscription_hears_nothing_and_is_not_counted(world: World) -> None:
    node = world.node()
    publisher = node.create_publisher(String, "chatter", 10)
    heard: list[Any] = []
    subscription = node.create_subscription(String, "chatter", heard.append, 10)
    matched(world, publisher)
    assert node.destroy_subscription(subscription)
    matched(world, publisher, 0)
    publisher.publish(String(data="x"))
    world.pass_time(NEVER_S)
    assert heard == []


def test_the_graph_counts_publishers_and_subscriptions(world: World) -> None:
    one, two = world.node("one"), world.node("two", namespace="far")
    one.create_publisher(String, "chatter", 10)
    two.create_publisher(String, "/chatter", 10)
    two.create_subscription(String, "/chatter", lambda message: None, 10)
    world.until(lambda: one.count_publishers("chatter") == 2 and one.count_subscribers("/chatter") == 1, "the graph")
    world.until(lambda: ("/chatter", ["std_msgs/msg/String"]) in one.get_topic_names_and_types(), "the topic's name and type")
    world.until(lambda: {("one", "/"), ("two", "/far")} <= set(one.get_node_names_and_namespaces()), "the nodes' names")
    infos = one.get_publishers_info_by_topic("/chatter")
    assert sorted((info.node_name, info.node_namespace, info.topic_type) for info in infos) == [
        ("one", "/", "std_msgs/msg/String"), ("two", "/far", "std_msgs/msg/String"),
    ]  # fmt: skip


def test_a_profile_needs_history_or_depth(world: World) -> None:
    with pytest.raises(Exception, match="History"):
        ros.QoSProfile()
    with pytest.raises(Exception, match="depth"):
        ros.QoSProfile(history=ros.HistoryPolicy.KEEP_LAST)
    assert ros.QoSProfile(depth=7).history == ros.HistoryPolicy.KEEP_LAST
    with pytest.raises((TypeError, ValueError)):
        world.node().create_publisher(String, "chatter", -1)
    assert ros.qos_profile_sensor_data.reliability == ros.ReliabilityPolicy.BEST_EFFORT
    assert ros.qos_profile_sensor_data.depth == 5
    assert ros.qos_profile_services_default.reliability == ros.ReliabilityPolicy.RELIABLE
