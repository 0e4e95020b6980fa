"""A node over DDS: topics, timers, guard conditions, the graph, and the line about what does not fit together."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policies.spec import InputError
from real.ros import api as ros
from real.ros.dds.graph import Graph
from tests.real.ros.spinning import Place, place

JointState = ros.message("sensor_msgs/msg/JointState")
String = ros.message("std_msgs/msg/String")


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


def test_messages_arrive_decoded_raw_and_with_their_info(here: Place) -> None:
    node, seen, raw, infos = here.node("arm", namespace="left"), [], [], []
    publisher = node.create_publisher(JointState, "joint_states", 10)
    node.create_subscription(JointState, "/left/joint_states", seen.append, 10)
    node.create_subscription(JointState, "joint_states", raw.append, ros.qos_profile_sensor_data, raw=True)
    node.create_subscription(JointState, "joint_states", lambda message, info: infos.append(info), 10)
    assert publisher.topic_name == "/left/joint_states"
    assert here.until(lambda: publisher.get_subscription_count() == 3)
    sent = JointState(name=["a"], position=[0.25])
    before = time.time_ns()
    publisher.publish(sent)
    assert here.until(lambda: seen and raw and infos)
    assert seen == [sent] and ros.deserialize(raw[0], JointState) == sent
    assert before <= infos[0]["source_timestamp"] <= infos[0]["received_timestamp"] <= time.time_ns()
    publisher.publish(ros.serialize(sent))
    assert here.until(lambda: len(seen) == 2) and seen[1] == sent


def test_what_is_published_is_of_the_publishers_type(here: Place) -> None:
    publisher = here.node("arm").create_publisher(JointState, "joint_states", 10)
    with pytest.raises(TypeError, match=r"Expected .*JointState"):
        publisher.publish(String(data="a"))
    publisher.destroy()
    with pytest.raises(ros.InvalidHandle, match="was destroyed"):
        publisher.publish(JointState())


def test_latched_messages_reach_who_comes_late(here: Place) -> None:
    node, seen = here.node("description"), []
    node.create_publisher(String, "robot_description", ros.qos_profile_latched).publish(String(data="<robot/>"))
    node.create_subscription(String, "robot_description", seen.append, ros.qos_profile_latched)
    assert here.until(lambda: seen) and seen[0].data == "<robot/>"


def test_a_publisher_that_goes_brings_no_message(here: Place) -> None:
    """DDS tells of a writer's end as a sample without data: the callback must not see it."""
    node, seen = here.node("arm"), []
    node.create_subscription(String, "a", seen.append, 10)
    for count in range(3):
        publisher = node.create_publisher(String, "a", 10)
        assert here.until(lambda p=publisher: p.get_subscription_count() == 1)
        publisher.publish(String(data=str(count)))
        assert here.until(lambda n=count: len(seen) == n + 1)
        publisher.destroy()
        assert here.until(lambda: node.count_publishers("a") == 0)
        for _ in range(5):
            here.executor.spin_once(0)
    assert [m.data for m in seen] == ["0", "1", "2"]


def test_timers_keep_their_grid_and_can_be_stopped(here: Place) -> None:
    node, calls = here.node("clockwork"), []
    timer = node.create_timer(0.01, lambda: calls.append(time.monotonic()))
    assert here.until(lambda: len(calls) >= 20)
    assert min(b - a for a, b in zip(calls[:-2], calls[2:], strict=True)) > 0.005  # never two calls to make up for one
    assert calls[-1] - calls[0] >= 0.01 * (len(calls) - 2)
    timer.cancel()
    count = len(calls)
    here.executor.spin_once(0.05)
    assert len(calls) == count and timer.is_canceled() and timer.time_until_next_call() is None
    timer.reset()
    assert here.until(lambda: len(calls) > count)
    assert node.destroy_timer(timer) and not node.destroy_timer(timer)
    still = node.create_timer(0.001, lambda: calls.append(0.0), autostart=False)
    count = len(calls)
    here.executor.spin_once(0.02)
    assert len(calls) == count and still.is_canceled()


def test_a_guard_condition_is_heard_from_another_thread(here: Place) -> None:
    node, ran = here.node("guarded"), []
    guard = node.create_guard_condition(lambda: ran.append(1))
    thread = threading.Timer(0.05, guard.trigger)
    thread.start()
    assert here.until(lambda: ran)
    thread.join()
    here.executor.spin_once(0.02)
    assert ran == [1]
    assert node.destroy_guard_condition(guard)


def test_the_graph_shows_nodes_topics_types_and_quality(here: Place) -> None:
    node = here.node("arm", namespace="/left", start_parameter_services=True)
    node.create_publisher(JointState, "joint_states", ros.qos_profile_sensor_data)
    other = ros.Context()
    other.init(args=[], domain_id=here.domain)
    try:
        watcher = ros.Node("watcher", context=other)
        assert here.until(lambda: "/left/arm" in watcher.get_fully_qualified_node_names())
        assert here.until(lambda: watcher.count_publishers("/left/joint_states") == 1)
        assert ("arm", "/left") in watcher.get_node_names_and_namespaces()
        assert ("/left/joint_states", ["sensor_msgs/msg/JointState"]) in watcher.get_topic_names_and_types()
        assert here.until(lambda: ("/left/arm/list_parameters", ["rcl_interfaces/srv/ListParameters"]) in watcher.get_service_names_and_types())
        (info,) = watcher.get_publishers_info_by_topic("/left/joint_states")
        assert (info.node_name, info.node_namespace, info.topic_type) == ("arm", "/left", "sensor_msgs/msg/JointState")
        assert info.qos_profile.reliability == ros.ReliabilityPolicy.BEST_EFFORT
        assert info.topic_type_hash == "RIHS01_a13ee3a330e346c9d87b5aa18d24e11690752bd33a0350f11c5882bc9179260e"
        assert ("/left/joint_states", ["sensor_msgs/msg/JointState"]) in watcher.get_publisher_names_and_types_by_node("arm", "/left")
        node.destroy_node()
        assert here.until(lambda: "arm" not in watcher.get_node_names() and watcher.count_publishers("/left/joint_states") == 0)
    finally:
        other.try_shutdown()


def graph_of(node: Any) -> Graph:
    return node.context.graph


def test_a_mismatch_is_one_line_that_says_who_and_what_to_change(here: Place, capfd: pytest.CaptureFixture[str]) -> None:
    camera, driver = here.node("camera", namespace="cell"), here.node("driver")
    camera.create_publisher(JointState, "/joints", ros.qos_profile_sensor_data)
    driver.create_subscription(JointState, "/joints", print, 10)
    driver.create_subscription(JointState, "/joints", print, ros.qos_profile_sensor_data)
    assert here.until(lambda: graph_of(driver).mismatches)
    assert graph_of(driver).mismatches == [
        "QoS mismatch on /joints: /cell/camera offers reliability BEST_EFFORT, /driver asks for RELIABLE: no message arrives; "
        "ask for reliability BEST_EFFORT in the subscription, or publish with RELIABLE"
    ]
    said = capfd.readouterr().err
    assert said.count("QoS mismatch") == 1 and "[driver]" in said


@pytest.mark.parametrize(
    ("offered", "asked", "said"),
    [
        ({"depth": 1}, {"depth": 1, "durability": ros.DurabilityPolicy.TRANSIENT_LOCAL}, "offers durability VOLATILE, /b asks for TRANSIENT_LOCAL"),
        ({"depth": 1}, {"depth": 1, "deadline": ros.Duration(seconds=0.5)}, "offers deadline none, /b asks for 0.5 s"),
        ({"depth": 1}, {"depth": 1, "liveliness": ros.LivelinessPolicy.MANUAL_BY_TOPIC}, "offers liveliness AUTOMATIC, /b asks for MANUAL_BY_TOPIC"),
    ],
)
def test_every_policy_that_keeps_them_apart_is_named(here: Place, offered: dict[str, Any], asked: dict[str, Any], said: str) -> None:
    a, b = here.node("a"), here.node("b")
    publisher = a.create_publisher(String, "t", ros.QoSProfile(**offered))
    b.create_subscription(String, "t", print, ros.QoSProfile(**asked))
    assert here.until(lambda: graph_of(b).mismatches)
    assert said in graph_of(b).mismatches[0] and publisher.get_subscription_count() == 0


def test_profiles_that_fit_say_nothing_and_get_through(here: Place) -> None:
    a, b, seen = here.node("a"), here.node("b"), []
    publisher = a.create_publisher(String, "t", ros.qos_profile_latched)
    for profile in (ros.qos_profile_sensor_data, ros.qos_profile_system_default, ros.qos_profile_services_default, ros.qos_profile_parameters, 3):
        b.create_subscription(String, "t", seen.append, profile)
    assert here.until(lambda: publisher.get_subscription_count() == 5)
    publisher.publish(String(data="x"))
    assert here.until(lambda: len(seen) == 5)
    assert graph_of(a).mismatches == []


def test_another_type_on_the_same_topic_is_said(here: Place) -> None:
    a, b = here.node("a"), here.node("b")
    a.create_publisher(String, "t", 10)
    b.create_subscription(JointState, "t", print, 10)
    assert here.until(lambda: graph_of(b).mismatches)
    assert "type mismatch on /t: /a publishes std_msgs/msg/String, /b expects sensor_msgs/msg/JointState" in graph_of(b).mismatches[0]


def test_names_are_remapped_and_refused(here: Place) -> None:
    node = here.node("arm", cli_args=["--ros-args", "-r", "joint_states:=/robot/joints", "-r", "__node:=other"])
    assert node.get_fully_qualified_name() == "/other"
    assert node.create_publisher(JointState, "joint_states", 10).topic_name == "/robot/joints"
    assert node.create_publisher(JointState, "~/own", 10).topic_name == "/other/own"
    with pytest.raises(ros.InvalidTopicNameException):
        node.create_publisher(JointState, "joint states", 10)
    with pytest.raises(ros.InvalidNodeNameException):
        here.node("no spaces")


def test_contexts_open_close_and_open_again() -> None:
    context = ros.Context()
    assert not context.ok()
    with pytest.raises(ros.NotInitializedException):
        ros.Node("too_early", context=context)
    with place() as here:
        node = here.node("first")
        with pytest.raises(RuntimeError, match="only be called once"):
            here.context.init(args=[])
        assert here.context.get_domain_id() == here.domain
        with pytest.raises(InputError, match="other DDS settings"):
            context.init(args=[], domain_id=here.domain, interface="127.0.0.2")
        here.context.shutdown()
        assert not here.context.ok()
        node.destroy_node()
        with pytest.raises(RuntimeError, match="must be initialized"):
            here.context.shutdown()
        here.context.init(args=[], domain_id=here.domain)
        assert ros.Node("second", context=here.context).get_name() == "second"


@pytest.mark.parametrize(("domain", "said"), [("x", "ROS_DOMAIN_ID='x': expected a whole number"), ("300", "domain 300: expected 0 to 232")])
def test_a_domain_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, domain: str, said: str) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    with pytest.raises(InputError, match=said):
        ros.Context().init(args=[])


def test_nodes_leave_nothing_behind(here: Place) -> None:
    """Fifty nodes come and go: no DDS entity, no thread and no graph entry stays."""
    from cyclonedds.core import Entity

    keeper = here.node("keeper")

    def one(number: int) -> None:
        node = here.node(f"n{number}")
        node.create_publisher(String, "t", 10).publish(String(data="x"))
        node.create_subscription(String, "t", lambda _: None, 10)
        node.create_timer(1.0, lambda: None)
        here.executor.spin_once(0)
        node.destroy_node()

    one(0)
    here.executor.spin_once(0.05)
    gc.collect()
    entities, threads = len(Entity._entities), threading.active_count()
    for number in range(50):
        one(number)
    here.executor.spin_once(0.05)
    gc.collect()
    assert len(Entity._entities) <= entities + 2 and threading.active_count() == threads
    assert here.until(lambda: keeper.get_node_names() == ["keeper"] and keeper.count_publishers("t") == 0)


def test_log_lines_go_to_rosout_and_throttle(here: Place, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    node, log = here.node("teller", namespace="cell", enable_rosout=True), here.node("log")
    log.create_subscription(
        ros.message("rcl_interfaces/msg/Log"), "/rosout", seen.append, ros.QoSProfile(depth=10, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL)
    )
    for _ in range(3):
        node.get_logger().warning("hot", throttle_duration_sec=60.0)
        node.get_logger().info("once", once=True)
        node.get_logger().debug("hidden")
    node.get_logger().get_child("joint").error("far")
    assert here.until(lambda: len(seen) == 2)
    assert [(m.level, m.name, m.msg) for m in seen] == [(30, "cell.teller", "hot"), (20, "cell.teller", "once")]
    lines = capfd.readouterr().err.splitlines()
    assert [line.split("]")[0] + "]" for line in lines] == ["[WARN]", "[INFO]", "[ERROR]"] and "[cell.teller.joint]: far" in lines[2]
