"""What strangers send: thousands of broken samples through live subscriptions, floods, graph announcements that are none."""

from __future__ import annotations

import json
import random
import resource
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from real.ros import api as ros
from real.ros.dds import types
from real.ros.dds.endpoints import Writer
from tests.real.ros.spinning import Place, peers, place

KINDS = ["sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray", "diagnostic_msgs/msg/DiagnosticArray"]
EACH = 1000


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


def good(kind: str) -> Any:
    made = ros.message(kind)
    if kind == "sensor_msgs/msg/JointState":
        return made(name=[f"joint{n}" for n in range(7)], position=[float(n) for n in range(7)])
    if kind == "trajectory_msgs/msg/JointTrajectory":
        point = ros.message("trajectory_msgs/msg/JointTrajectoryPoint")
        return made(joint_names=["a", "b"], points=[point(positions=[0.0, 1.0]) for _ in range(4)])
    if kind == "std_msgs/msg/Float64MultiArray":
        return made(data=[1.0, 2.0, 3.0])
    status = ros.message("diagnostic_msgs/msg/DiagnosticStatus")
    return made(status=[status(level=b"\1", name="motor", message="hot", values=[ros.message("diagnostic_msgs/msg/KeyValue")(key="t", value="91")])])


def broken(rng: random.Random, cdr: bytes) -> bytes:
    """Bytes with bits turned, lengths blown up, an end cut off, or nothing but noise."""
    made = bytearray(cdr)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made))
        how = rng.randrange(6)
        if how <= 2:
            made[at] ^= 1 << rng.randrange(8)
        elif how == 3:
            made[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"])
        elif how == 4:
            made = made[: max(4, at)]
        else:
            made = made[:4] + bytearray(rng.randbytes(rng.randint(0, 200)))
    return bytes(made)


def packet(guid: bytes, sequence: int, cdr: bytes) -> bytes:
    """An RTPS packet with one DATA submessage, as DDSI-RTPS 2.x lays it out, that says it is of the writer ``guid``."""
    cdr += b"\0" * (-len(cdr) % 4)
    body = struct.pack("<HH", 0, 16) + b"\0\0\0\0" + guid[12:] + struct.pack("<iI", sequence >> 32, sequence & 0xFFFFFFFF) + cdr
    return b"RTPS\x02\x01\x01\x10" + guid[:12] + struct.pack("<BBH", 0x15, 0x05, len(body)) + body


def ports(domain: int) -> list[int]:
    """The ports at which the first participants of a domain hear user data (DDSI-RTPS: 7400 + 250 d + 11 + 2 i)."""
    return [7400 + 250 * domain + 11 + 2 * index for index in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_samples_reach_no_callback_as_anything_but_messages(here: Place, kind: str) -> None:
    """Packets in the name of a real publisher: a sample is decoded, in its type's bounds, or counted, or dropped below; the node goes on."""
    node, seen, made = here.node("target"), [], ros.message(kind)
    subscription = node.create_subscription(made, "/t", seen.append, ros.QoSProfile(depth=EACH, reliability=ros.ReliabilityPolicy.BEST_EFFORT))
    rng, whole = random.Random(7), ros.serialize(good(kind))
    with peers(here.domain) as start, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        liar = start("announce", kind)
        assert liar.stdout is not None
        guid = bytes.fromhex(json.loads(liar.stdout.readline())["guid"])
        assert here.until(lambda: subscription.get_publisher_count() == 1)
        before, sequence = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0

        def send(cdr: bytes) -> None:
            nonlocal sequence
            sequence += 1
            for port in ports(here.domain):
                wire.sendto(packet(guid, sequence, cdr), ("127.0.0.1", port))

        def whole_arrives() -> bool:
            count = seen.count(good(kind))
            send(whole)
            return here.until(lambda: seen.count(good(kind)) > count, 1.0)

        assert any(whole_arrives() for _ in range(10))  # what is sent this way is heard at all
        for _ in range(EACH // 50):
            for _ in range(50):
                send(broken(rng, whole))
            assert any(whole_arrives() for _ in range(10))
        assert all(type(message) is made for message in seen)
        assert all(ros.deserialize(ros.serialize(message), made) is not None for message in seen)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_subscription_counts_what_it_cannot_decode(here: Place) -> None:
    """What DDS lets through and the type does not allow (a stamp of a thousand million nanoseconds, a text that is not UTF-8)."""
    node, seen, made = here.node("target"), [], ros.message("std_msgs/msg/Header")
    sender = node.create_publisher(made, "t", ros.QoSProfile(depth=EACH))
    subscription = node.create_subscription(made, "t", seen.append, ros.QoSProfile(depth=EACH))
    assert here.until(lambda: sender.get_subscription_count() == 1)
    for n in range(EACH):
        sender.publish(bytes.fromhex("00010000 01000000") + (1_000_000_000 + n).to_bytes(4, "little") + bytes.fromhex("02000000 6100"))
        sender.publish(bytes.fromhex("00010000 01000000 02000000 02000000") + bytes([0x80 + n % 128, 0]))
        if n % 100 == 99:
            assert here.until(lambda n=n: subscription.corrupt == 2 * (n + 1))
    sender.publish(made(frame_id="base"))
    assert here.until(lambda: seen) and seen == [made(frame_id="base")]


def test_bytes_that_are_no_message_are_not_sent(here: Place) -> None:
    made = ros.message("std_msgs/msg/String")
    sender = here.node("sender").create_publisher(made, "t", 10)
    for wrong in (b"", b"\0\1\0\0", bytes.fromhex("00010000ffffffff6100"), bytes.fromhex("000700000200000061006100")):
        with pytest.raises(ros.MessageError, match=f"/t: {len(wrong)} bytes that should be a std_msgs/msg/String are none"):
            sender.publish(wrong)


def test_a_flood_is_bounded_by_the_depth_and_the_newest_arrive(here: Place) -> None:
    node, seen = here.node("slow"), []
    string = ros.message("std_msgs/msg/String")
    sender = node.create_publisher(string, "t", 10)
    node.create_subscription(string, "t", lambda m: seen.append(m.data), 10)
    assert here.until(lambda: sender.get_subscription_count() == 1)
    for n in range(500):
        sender.publish(string(data=str(n)))
    assert here.until(lambda: seen and seen[-1] == "499")
    assert seen == [str(n) for n in range(490, 500)]


def test_announcements_that_are_none_do_not_end_the_picture(here: Place) -> None:
    node = here.node("watcher")
    kind = types.raw_type("rmw_dds_common/msg/ParticipantEntitiesInfo")
    liar = ros.Context()
    liar.init(args=[], domain_id=here.domain)
    try:
        writer = Writer(liar, "ros_discovery_info", kind, ros.QoSProfile(depth=100, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL))
        entities = ros.message("rmw_dds_common/msg/NodeEntitiesInfo")
        info = ros.message("rmw_dds_common/msg/ParticipantEntitiesInfo")(node_entities_info_seq=[entities(node_name="XY", node_namespace="/")])
        whole = ros.serialize(info)
        for n in range(200):
            writer.write(whole.replace(b"XY", bytes([0x80 + n % 64, 0xFF])))
        ros.Node("honest", context=liar, start_parameter_services=False, enable_rosout=False)
        assert here.until(lambda: "honest" in node.get_node_names())
        assert sorted(node.get_node_names()) == ["honest", "watcher"]
    finally:
        liar.try_shutdown()
    assert here.until(lambda: node.get_node_names() == ["watcher"])


def test_raw_bytes_are_given_as_they_came(here: Place) -> None:
    """A raw subscription decodes nothing: an image arrives as the bytes that were sent."""
    node, seen = here.node("raw"), []
    image = ros.message("sensor_msgs/msg/Image")
    sender = node.create_publisher(image, "t", 10)
    node.create_subscription(image, "t", seen.append, 10, raw=True)
    assert here.until(lambda: sender.get_subscription_count() == 1)
    cdr = ros.serialize(image(height=1, width=500, step=1500, data=random.Random(0).randbytes(1500)))
    sender.publish(cdr)
    assert here.until(lambda: seen) and seen[0][: len(cdr)] == cdr and not any(seen[0][len(cdr) :])
