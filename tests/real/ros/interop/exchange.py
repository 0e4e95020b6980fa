"""What every engine is asked: to take our messages apart, to put them together again and to send them back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from real.ros import api as ros
from tests.real.ros.domains import free_domain
from tests.real.ros.interop.build import running

JointState = ros.message("sensor_msgs/msg/JointState")
Image = ros.message("sensor_msgs/msg/Image")

RELIABLE = ros.QoSProfile(depth=20, reliability=ros.ReliabilityPolicy.RELIABLE)
BEST_EFFORT = ros.QoSProfile(depth=20, reliability=ros.ReliabilityPolicy.BEST_EFFORT)
PROFILES = {"reliable": RELIABLE, "best_effort": BEST_EFFORT}


class Ours:
    """A node of ours on a domain of its own, and an executor that spins when it is told."""

    def __init__(self, domain: int) -> None:
        self.domain = domain
        self.context = ros.Context()
        self.context.init([], domain_id=domain, interface="")
        self.node = ros.Node("ours", context=self.context)
        self.executor = ros.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
        """Spin until ``condition()``; fails after ``timeout`` s."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"no {what} in {timeout} s"
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        """End it."""
        self.executor.shutdown()
        self.context.try_shutdown()


@contextlib.contextmanager
def ours() -> Iterator[Ours]:
    """Open a node of ours on a free domain."""
    assert "CYCLONEDDS_URI" not in os.environ
    with free_domain() as domain:
        node = Ours(domain)
        try:
            yield node
        finally:
            node.close()


def joint_state(k: int, rng: np.random.Generator) -> Any:
    """Return a joint state with names of many lengths and values of many sizes."""
    names = [f"joint{'x' * int(rng.integers(0, 9))}{i}" for i in range(int(rng.integers(1, 9)))]
    message = JointState(name=names, position=rng.normal(size=len(names)).tolist(), velocity=rng.normal(size=len(names)).tolist())
    message.effort = [float("inf"), -0.0, 1e-300][: int(rng.integers(0, 4))]
    message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = k, 999_999_999 - k, "base" * (k % 3)
    return message


def image(k: int, rng: np.random.Generator) -> Any:
    """Return an image of 640 x 480 with random pixels."""
    message = Image(height=480, width=640, encoding="rgb8", step=1920, data=rng.integers(0, 256, 921600, dtype=np.uint8).tobytes())
    message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id = k, k, "camera"
    return message


def said(message: Any) -> str:
    """Return the line that a peer prints for a message that it understood."""
    stamp = f"{message.header.stamp.sec}.{message.header.stamp.nanosec:09d}"
    if isinstance(message, Image):
        return f"{stamp} {message.width}x{message.height} {message.encoding} sum={int(np.frombuffer(message.data, np.uint8).sum(dtype=np.uint64))}"
    return f"{stamp} names={len(message.name)} sum={sum(message.position):.6f}"


def there_and_back(program: Path, kind: str, qos: str, count: int) -> None:
    """Send ``count`` messages through a peer that takes each apart and sends it back: same values there, same bytes here."""
    rng = np.random.default_rng(7)
    make, message_type = (image, Image) if kind == "Image" else (joint_state, JointState)
    sent = [make(k, rng) for k in range(count)]
    back: list[bytes] = []
    with ours() as here, running(program, here.domain, kind, qos, "rt/there", "rt/back", 10**6) as peer:
        publisher = here.node.create_publisher(message_type, "there", PROFILES[qos])
        here.node.create_subscription(message_type, "back", back.append, PROFILES[qos], raw=True)
        assert peer.line() == "ready"
        _until_it_flows(here, publisher, ros.serialize(sent[0]), back)
        back.clear()
        returned = [_returned(here, publisher, message, back) for message in sent]
        lines = [said(message) for message in sent]
        heard = [peer.line()]
        while heard[-1] != lines[-1]:
            heard.append(peer.line())
    assert [line for line in lines if line not in heard] == []
    for k, (message, cdr) in enumerate(zip(sent, returned, strict=True)):
        expected = ros.serialize(message)
        assert cdr == expected, f"message {k}: {expected[-24:].hex()} ({len(expected)}) came back as {cdr[-24:].hex()} ({len(cdr)})"


def _returned(here: Ours, publisher: Any, message: Any, back: list[bytes]) -> bytes:
    """Send one message until it comes back (best effort may lose it on a busy machine); return its bytes, found by their stamp."""
    stamp = ros.serialize(message)[4:12]
    reliable = publisher.qos_profile.reliability == ros.ReliabilityPolicy.RELIABLE
    for _ in range(1 if reliable else 10):
        publisher.publish(ros.serialize(message))
        end = time.monotonic() + (30.0 if reliable else 3.0)
        while time.monotonic() < end:
            here.executor.spin_once(timeout_sec=0.02)
            if found := [cdr for cdr in back if cdr[4:12] == stamp]:
                return found[0]
    raise AssertionError(f"the message of stamp {message.header.stamp} did not come back")


def _until_it_flows(here: Ours, publisher: Any, cdr: bytes, back: list[bytes]) -> None:
    """Send until all that is sent comes back: what is sent while the two ends still find each other may be lost, reliable or not."""
    end = time.monotonic() + 30.0
    came = sent = 0
    while came == 0 or came != sent:
        assert time.monotonic() < end, f"{came} of {sent} messages came back"
        before, sent, came = len(back), 2, 0
        for _ in range(sent):
            publisher.publish(cdr)
            time.sleep(0.05)
        quiet = time.monotonic() + 1.0
        while time.monotonic() < quiet and came < sent:
            here.executor.spin_once(timeout_sec=0.02)
            came = len(back) - before
