"""Two cameras over ROS 2 between two processes: 640x480 pictures from a ring made before, raw, best effort, and what was lost.

``python -m robopolicy.bench.ros_cameras DOMAIN SECONDS`` is the process that publishes: two cameras at 30 Hz and joint states at
100 Hz. Every picture carries its number and the moment it was published in its first pixels.
"""

from __future__ import annotations

import array
import struct
import subprocess
import sys
import time
from typing import Any

import numpy as np

from policies.spec import InputError
from real.child import environment, module_command
from real.latency import Latency
from real.ros import api
from real.ros.api import message
from real.ticks import Grid

HEIGHT, WIDTH, CAMERAS, RATE_HZ, RING = 480, 640, 2, 30.0, 16
JOINTS_HZ = 100.0
_BYTES = HEIGHT * WIDTH * 3
_MARK = struct.Struct("<QQ")  # number, monotonic ns
_WAIT_S = 30.0


def pictures(seed: int = 0) -> list[bytearray]:
    """Return a ring of sensor_msgs/Image as ready CDR, the pixels last."""
    random = np.random.default_rng(seed)
    out = []
    for _ in range(RING):
        pixels = array.array("B", random.integers(0, 256, _BYTES, dtype=np.uint8).tobytes())
        shape = {"height": HEIGHT, "width": WIDTH, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * WIDTH}
        out.append(bytearray(api.serialize(message("sensor_msgs/msg/Image")(**shape, data=pixels))))
    return out


def pixels_at(cdr: bytes | bytearray) -> int:
    """Return where the pixels begin in an Image's CDR."""
    return (len(cdr) - _BYTES) // 4 * 4  # behind them there may be padding


def open_node(name: str, domain: int) -> tuple[Any, Any, Any]:
    """Return context, node and executor."""
    context = api.Context()
    api.init(args=[], context=context, domain_id=domain)
    node = api.Node(name, context=context, start_parameter_services=False, enable_rosout=False)
    executor = api.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    return context, node, executor


def publish(domain: int, seconds: float) -> int:
    """Publish for ``seconds`` once everybody listens; prints how many pictures each camera gave, returns the exit code."""
    context, node, executor = open_node("cameras", domain)
    senders = [node.create_publisher(message("sensor_msgs/msg/Image"), f"camera/c{k}/image_raw", api.qos_profile_sensor_data) for k in range(CAMERAS)]
    joints = node.create_publisher(message("sensor_msgs/msg/JointState"), "joint_states", 10)
    state = message("sensor_msgs/msg/JointState")(name=[f"joint{i}" for i in range(7)], position=[0.0] * 7, velocity=[0.0] * 7)
    rings = [pictures(k) for k in range(CAMERAS)]
    until = time.monotonic() + _WAIT_S
    while not all(sender.get_subscription_count() for sender in (*senders, joints)):
        if time.monotonic() > until:
            raise InputError(f"nobody listened within {_WAIT_S:g} s")
        executor.spin_once(timeout_sec=0.05)
    time.sleep(0.3)  # the other end knows of us a moment later
    begun = time.monotonic()
    frames, ticks, sent = Grid(RATE_HZ, begun), Grid(JOINTS_HZ, begun), 0
    while (now := time.monotonic()) - begun < seconds:
        if now >= frames.due:
            frames.begin(now)
            for sender, ring in zip(senders, rings, strict=True):
                picture = ring[sent % RING]
                _MARK.pack_into(picture, pixels_at(picture), sent, time.monotonic_ns())
                sender.publish(bytes(picture))
            sent += 1
        if now >= ticks.due:
            ticks.begin(now)
            joints.publish(state)
        time.sleep(max(min(frames.due, ticks.due) - time.monotonic(), 0.0))
    print(sent, flush=True)
    api.shutdown(context=context)
    return 0


def stream(seconds: float, domain: int) -> dict[str, Any]:
    """Listen in this process to what the other publishes; returns ``sent``, ``lost``, ``doubled``, ``delay_ms`` and ``joint_states``."""
    context, node, executor = open_node("listener", domain)
    heard: list[set[int]] = [set() for _ in range(CAMERAS)]
    delay, doubled, states = Latency(), 0, 0

    def take(camera: int, cdr: bytes) -> None:
        nonlocal doubled
        number, at = _MARK.unpack_from(cdr, pixels_at(cdr))
        delay.add(1e-9 * (time.monotonic_ns() - at))
        doubled += number in heard[camera]
        heard[camera].add(number)

    def count(_: Any) -> None:
        nonlocal states
        states += 1

    qos = api.qos_profile_sensor_data
    for k in range(CAMERAS):
        node.create_subscription(message("sensor_msgs/msg/Image"), f"camera/c{k}/image_raw", lambda cdr, k=k: take(k, cdr), qos, raw=True)
    node.create_subscription(message("sensor_msgs/msg/JointState"), "joint_states", count, 10)
    command = [*module_command("robopolicy.bench.ros_cameras"), str(domain), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        until = time.monotonic() + seconds + 2 * _WAIT_S
        while process.poll() is None and time.monotonic() < until:
            executor.spin_once(timeout_sec=0.05)
        for _ in range(50):
            executor.spin_once(timeout_sec=0.01)
        if process.poll() != 0 or process.stdout is None:
            raise InputError("the process that publishes pictures has failed")
        sent = int(process.stdout.read())
    finally:
        process.kill()
        process.wait()
        api.shutdown(context=context)
    lost = CAMERAS * sent - sum(map(len, heard))
    return {"sent": CAMERAS * sent, "lost": lost, "doubled": doubled, "delay_ms": delay.to_dict(), "joint_states": states, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(publish(int(sys.argv[1]), float(sys.argv[2])))
