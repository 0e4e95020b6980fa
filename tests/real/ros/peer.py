"""The other process of a test: ``python peer.py DOMAIN ROLE [OPTIONS]``; prints one line when it is ready, one with what it counted."""

from __future__ import annotations

import json
import sys
import time

from real.ros import api as ros

JointState = ros.message("sensor_msgs/msg/JointState")
Image = ros.message("sensor_msgs/msg/Image")

WAIT_S = 30.0


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def open_node(domain: int, name: str) -> tuple[ros.Context, ros.Node]:
    context = ros.Context()
    context.init(args=[], domain_id=domain)
    return context, ros.Node(name, context=context, namespace="/peer", start_parameter_services=False, enable_rosout=False)


def image(number: int) -> bytes:
    """A 640x480 picture as CDR, numbered in its stamp."""
    made = Image(height=480, width=640, encoding="rgb8", step=1920, data=bytes([number % 256]) * 921600)
    made.header.stamp.sec = number
    return ros.serialize(made)


def cameras(domain: int, reliable: str, frames: str, rate: str) -> None:
    """Publish a round of pictures of two cameras, and joint states, for every line that comes; a joint at -1 ends a round."""
    context, node = open_node(domain, "cameras")
    kind = ros.ReliabilityPolicy.RELIABLE if reliable == "reliable" else ros.ReliabilityPolicy.BEST_EFFORT
    profile = ros.QoSProfile(depth=int(frames), reliability=kind)
    publishers = [node.create_publisher(Image, f"/camera/{side}/image_raw", profile) for side in ("left", "right")]
    joints = node.create_publisher(JointState, "/joint_states", int(frames) + 1)
    pictures = [image(n) for n in range(int(frames))]
    say(ready=True)
    for _ in sys.stdin:
        until = time.monotonic() + WAIT_S
        while not all(p.get_subscription_count() for p in [*publishers, joints]) and time.monotonic() < until:
            time.sleep(0.01)
        period, begin = 1 / float(rate), time.monotonic()
        for number, picture in enumerate(pictures):
            for publisher in publishers:
                publisher.publish(picture)
            joints.publish(JointState(name=["a"], position=[float(number)]))
            time.sleep(max(0.0, begin + (number + 1) * period - time.monotonic()))
        joints.publish(JointState(name=["a"], position=[-1.0]))
        say(sent=len(pictures), dropped=sum(p.dropped for p in publishers))
    context.shutdown()


def echo(domain: int) -> None:
    """Send every joint state back, raw, until the input ends."""
    context, node = open_node(domain, "echo")
    back = node.create_publisher(JointState, "/joint_states_echo", 10)
    node.create_subscription(JointState, "/joint_states", back.publish, 10, raw=True)
    executor = ros.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    say(ready=True)
    until = time.monotonic() + 4 * WAIT_S
    while time.monotonic() < until:
        executor.spin_once(0.1)


def announce(domain: int, kind: str) -> None:
    """Offer a best-effort publisher on /t, say its DDS identity, and publish a whole message for every line that comes."""
    context, node = open_node(domain, "announcer")
    made = ros.message(kind)
    publisher = node.create_publisher(made, "/t", ros.qos_profile_sensor_data)
    say(ready=True)
    say(guid=publisher._open().entity.guid.bytes.hex())
    for _ in sys.stdin:
        publisher.publish(made())
    context.shutdown()


if __name__ == "__main__":
    {"cameras": cameras, "echo": echo, "announce": announce}[sys.argv[2]](int(sys.argv[1]), *sys.argv[3:])
