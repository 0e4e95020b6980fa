"""A robot of two joints for tests: a process whose node behaves like ros2_control's controllers, as its documentation says.

``controller.py FOLDER DOMAIN [KIND]`` publishes joint states and its description and moves as it is told; every step's desired
positions go to ``FOLDER/desired.log``. Lines on its standard input make it fail: see :meth:`Robot.obey`.
"""

from __future__ import annotations

import bisect
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from real.ros import api

JOINTS = ("shoulder", "elbow")
RATE_HZ = 100.0
TRAJECTORY = "joint_trajectory_controller/joint_trajectory"
URDF = """<robot name="two">
  <link name="base"/><link name="upper"/><link name="fore"/><link name="finger"/>
  <joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/><axis xyz="0 0 1"/>
    <limit lower="-2.0" upper="2.0" velocity="1.5" effort="20"/></joint>
  <joint name="elbow" type="revolute"><parent link="upper"/><child link="fore"/><axis xyz="0 0 1"/>
    <limit lower="-1.5" upper="1.5" velocity="2.0" effort="10"/></joint>
  <joint name="finger" type="prismatic"><parent link="fore"/><child link="finger"/><mimic joint="elbow"/>
    <limit lower="0" upper="0" velocity="1" effort="1"/></joint>
  <ros2_control name="two" type="system">
    <joint name="shoulder"><command_interface name="acceleration"><param name="max">6.0</param></command_interface>
      <command_interface name="jerk"><param name="max">80.0</param></command_interface></joint>
    <joint name="elbow"><command_interface name="acceleration"><param name="max">8.0</param></command_interface>
      <command_interface name="jerk"><param name="max">100.0</param></command_interface></joint>
  </ros2_control>
</robot>"""


class Trajectory:
    """A JointTrajectory, sampled as a joint_trajectory_controller does: quintic between points, from where it was to the first."""

    def __init__(self, message: Any, now_ns: int, start: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        order = [list(message.joint_names).index(name) for name in JOINTS]
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        begin = stamp or now_ns
        self.times = [begin + p.time_from_start.sec * 10**9 + p.time_from_start.nanosec for p in message.points]
        self.states = [tuple(np.array(part)[order] for part in (p.positions, p.velocities, p.accelerations)) for p in message.points]
        if any(b <= a for a, b in zip(self.times, self.times[1:], strict=False)):
            raise ValueError("times of a trajectory must rise")
        if self.times[-1] < now_ns:
            raise ValueError("a trajectory that is over is rejected")
        if self.times[0] > now_ns:
            self.times.insert(0, now_ns)
            self.states.insert(0, start)

    def sample(self, t_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        i = bisect.bisect_right(self.times, t_ns)
        if i == len(self.times):
            q = self.states[-1][0]
            return q, np.zeros_like(q), np.zeros_like(q)
        span = (self.times[i] - self.times[i - 1]) * 1e-9
        return quintic(self.states[i - 1], self.states[i], span, (t_ns - self.times[i - 1]) * 1e-9)


def quintic(a: Any, b: Any, span: float, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The polynomial of degree 5 through two states (position, velocity, acceleration) ``span`` s apart, at ``t``."""
    rows = [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0], [1] * 6, [0, 1, 2, 3, 4, 5], [0, 0, 2, 6, 12, 20]]
    right = [a[0], a[1] * span, a[2] * span**2, b[0], b[1] * span, b[2] * span**2]  # in the unit of the span: well conditioned
    c = np.linalg.solve(np.array(rows, float), np.array(right))
    s = t / span
    power = s ** np.arange(6)
    k = np.arange(6)
    q = power @ c
    v = (k[1:] * power[:-1]) @ c[1:] / span
    acceleration = (k[2:] * k[1:-1] * power[:-2]) @ c[2:] / span**2
    return q, v, acceleration


class Robot:
    """The simulated robot."""

    def __init__(self, folder: Path, domain: int) -> None:
        self.context = api.Context()
        api.init(args=[], context=self.context, domain_id=domain, interface="")
        self.node = api.Node("controller", context=self.context, use_global_arguments=False, start_parameter_services=False)
        self.types = {name: api.message(name) for name in ("sensor_msgs/msg/JointState", "std_msgs/msg/String", "sensor_msgs/msg/Image")}
        latched = api.QoSProfile(depth=1, durability=api.DurabilityPolicy.TRANSIENT_LOCAL)
        self.description = self.node.create_publisher(self.types["std_msgs/msg/String"], "robot_description", latched)
        self.description.publish(self.types["std_msgs/msg/String"](data=URDF))
        self.states = self.node.create_publisher(self.types["sensor_msgs/msg/JointState"], "joint_states", 10)
        self.camera = self.node.create_publisher(self.types["sensor_msgs/msg/Image"], "camera/front/image_raw", api.qos_profile_sensor_data)
        self.extra: list[Any] = []
        self.q, self.v, self.a = np.array([0.3, -0.4]), np.zeros(2), np.zeros(2)
        self.trajectory: Trajectory | None = None
        self.rates, self.rated_at = np.zeros(2), 0.0
        self.subscription: Any = None
        self.listen()
        for kind, topic, take in (
            ("position", "forward_position_controller/commands", self.take_position),
            ("velocity", "forward_velocity_controller/commands", self.take_rate),
        ):
            self.extra.append((kind, self.node.create_subscription(api.message("std_msgs/msg/Float64MultiArray"), topic, take, 10)))
        self.node.create_subscription(api.message("geometry_msgs/msg/TwistStamped"), "cmd_vel", self.take_twist, 10)
        self.twists: list[Any] = []
        self.mode, self.shift_ns, self.images = "", 0, True
        self.log = (folder / "desired.log").open("w")
        self.said = (folder / "said.log").open("w")
        self.executor = api.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def listen(self) -> None:
        self.subscription = self.node.create_subscription(api.message("trajectory_msgs/msg/JointTrajectory"), TRAJECTORY, self.take, 10)

    def now_ns(self) -> int:
        return time.time_ns() + self.shift_ns

    def take(self, message: Any) -> None:
        try:
            self.trajectory = Trajectory(message, self.now_ns(), (self.q, self.v, self.a))
        except ValueError as error:
            print(f"refused: {error}", file=self.said, flush=True)

    def take_position(self, message: Any) -> None:
        self.trajectory, self.q, self.v = None, np.array(message.data), np.zeros(2)

    def take_rate(self, message: Any) -> None:
        self.trajectory, self.rates, self.rated_at = None, np.array(message.data), time.monotonic()

    def take_twist(self, message: Any) -> None:
        t = message.twist
        print(f"twist {t.linear.x:g} {t.angular.z:g} {message.header.stamp.sec > 0}", file=self.said, flush=True)

    def obey(self, line: str) -> None:
        """Do what a line says: silence, nan, jump SECONDS, deaf, second states|commands|descriptions|none, images on|off, well."""
        words = line.split()
        if words[0] == "jump":
            self.shift_ns += int(float(words[1]) * 1e9)
            self.trajectory = None
        elif words[0] == "deaf":
            self.node.destroy_subscription(self.subscription)
        elif words[0] == "hear":
            self.listen()
        elif words[0] == "images":
            self.images = words[1] == "on"
        elif words[0] == "second":
            self.second(words[1])
        else:
            self.mode = words[0]

    def second(self, what: str) -> None:
        """Another node publishes too."""
        if what == "none":
            self.other.destroy_node()
            return
        self.other = api.Node("intruder", context=self.context, use_global_arguments=False, start_parameter_services=False)
        kinds = {"states": ("sensor_msgs/msg/JointState", "joint_states"), "descriptions": ("std_msgs/msg/String", "robot_description")}
        kind, topic = kinds.get(what, ("trajectory_msgs/msg/JointTrajectory", TRAJECTORY))
        self.other.create_publisher(api.message(kind), topic, 10)

    def step(self, k: int) -> None:
        now = self.now_ns()
        if self.trajectory is not None:
            self.q, self.v, self.a = self.trajectory.sample(now)
        elif time.monotonic() - self.rated_at < 0.2:
            self.q = self.q + self.rates / RATE_HZ
        print(json.dumps([now, *self.q.tolist()]), file=self.log, flush=True)
        if self.mode == "silence":
            return
        message = self.types["sensor_msgs/msg/JointState"]()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
        shown = np.full(2, np.nan) if self.mode == "nan" else self.q
        message.name = ["gripper", "elbow", "shoulder"]
        message.position, message.velocity = [0.01, float(shown[1]), float(shown[0])], [0.0, float(self.v[1]), float(self.v[0])]
        self.states.publish(message)
        if self.images and k % 3 == 0:
            self.picture(now, k)

    def picture(self, now: int, k: int) -> None:
        image = self.types["sensor_msgs/msg/Image"]()
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(now, 10**9)
        image.height, image.width, image.encoding, image.step = 4, 6, "bgr8", 20
        pixels = np.zeros((4, 20), np.uint8)
        pixels[:, 0:18:3], pixels[:, 2:18:3], pixels[0, 0] = 7, 200, k % 256
        image.data = pixels.tobytes()
        self.camera.publish(image)

    def run(self) -> None:
        lines: list[str] = []

        def read() -> None:
            for line in sys.stdin:
                lines.append(line)
            lines.append("end")

        threading.Thread(target=read, daemon=True).start()
        print("ready", flush=True)
        k, begin = 0, time.monotonic()
        while True:
            while lines:
                line = lines.pop(0).strip()
                if line == "end":
                    return
                self.obey(line)
                print(f"done {line}", flush=True)
            self.step(k)
            k += 1
            while (left := begin + k / RATE_HZ - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)


if __name__ == "__main__":
    Robot(Path(sys.argv[1]), int(sys.argv[2])).run()
