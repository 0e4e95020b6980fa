"""The twin over ROS 2: its world under controllers without a network, and its topics with a client in the same process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from real.ros import api
from real.ros.api import message
from robopolicy.twin.log import read_log
from robopolicy.twin.ros import RosPlace, TwinNode, latched
from robopolicy.twin.ros_control import waypoints
from robopolicy.twin.ros_messages import nanoseconds, time_of
from robopolicy.twin.ros_world import QUIET_S, RobotClock, RosWorld
from robopolicy.twin.world import World, open_log
from sim import registry
from tests.real.ros.domains import free_domain
from tests.require import require

MS = 1_000_000
TICK = 10 * MS
WAIT_S = 30.0


def world(task: str = "arm/reach", *, speed: float = 1.0, episodes: int | None = None, log: Path | None = None, **options: Any) -> RosWorld:
    env = registry.make(task, 1, **{key: options.pop(key) for key in ("observations", "image_size", "max_episode_steps") if key in options})
    made = RosWorld(
        env, 3, episodes, False, speed, options.pop("silence_s", None), open_log(log, env, False, speed) if log else None, clock=RobotClock(speed), **options
    )
    return made


def run_to(made: RosWorld, ticks: int) -> None:
    """Do the ticks up to number ``ticks`` from the start, one by one, as on a machine that is never late."""
    while made._next <= ticks:
        made.tick(made.due + 1e-9)


def after_quiet(made: RosWorld) -> int:
    """Pass the moment in which a new episode is announced; returns the time of the last tick."""
    run_to(made, int(QUIET_S * made.rate_hz) + 1)
    return made.stamp_ns


# The world alone -----------------------------------------------------------------------------------------------------


def test_stamped_points_are_hit_at_every_tick_as_if_they_were_written() -> None:
    """The same commands as in lock-step behind ZeroMQ, sent as trajectories on the robot's clock: bit for bit the same motion."""
    made, other = world(), World(registry.make("arm/reach", 1), 3, lockstep=True)
    start = after_quiet(made)
    stands = made._standing()
    assert stands is not None and np.array_equal(stands, made._stands)
    for k in range(1, 60):
        command = stands + 0.2 * np.sin(0.05 * k)
        made.controllers.follow(waypoints(made.controllers.joints, made.controllers.joints, [(TICK, command, [], [])]), start + (k - 1) * TICK, made.stamp_ns)
        other.write(command, 0.0)
        made.tick(made.due + 1e-9)
        for name, array in other.observation.items():
            np.testing.assert_array_equal(made.observation[name], array)
        assert made.stamp_ns == start + k * TICK
    assert made.record.ticks == other.record.ticks == 59


def test_an_episode_begins_with_the_first_command_that_leads_away() -> None:
    made = world()
    start = after_quiet(made)
    stands, names = made._standing(), made.controllers.joints
    made.controllers.follow(waypoints(names, names, [(TICK, stands, [], [])]), 0, start)
    run_to(made, 30)
    assert made.command is None and made.record.ticks == 0
    made.controllers.follow(waypoints(names, names, [(TICK, stands + 1e-6, [], [])]), 0, made.stamp_ns)
    made.tick(made.due + 1e-9)
    assert made.record.ticks == 1


def test_what_was_sent_to_the_end_of_an_episode_moves_nothing_in_the_next(tmp_path: Path) -> None:
    made = world(max_episode_steps=2, log=tmp_path / "log")
    told: list[tuple[int, bool]] = []
    made.changed = lambda: told.append((made.record.seed, made.ended))
    start, names = after_quiet(made), made.controllers.joints
    made.controllers.follow(waypoints(names, names, [(1000 * TICK, np.array(made._standing()) + 0.5, [], [])]), 0, start)
    run_to(made, 100)
    assert made.ended and made.record.ticks == 10 and told == [(3, True)]
    held = made._standing()
    made.next_episode()
    assert told[1:] == [(4, False)] and made.quiet
    run_to(made, 200)
    assert made.record.ticks == 0 and not np.allclose(np.array(made._standing()), np.array(held))
    log = read_log(tmp_path / "log")
    assert log.kind.tolist() == ["begin", *["write"] * 10, "begin"] and log.episode.tolist() == [3] * 11 + [4]


def test_without_commands_the_joints_hold_and_the_log_says_so_once(tmp_path: Path) -> None:
    made = world(log=tmp_path / "log", silence_s=0.1)
    start = after_quiet(made)
    made.controllers.forward("velocity", np.full(7, 0.1), start)
    run_to(made, 50)
    stopped = np.array(made.command)
    run_to(made, 80)
    np.testing.assert_array_equal(stopped, np.array(made.command))
    kinds = read_log(tmp_path / "log").kind.tolist()
    assert kinds.count("silent") == 1 and kinds.count("write") == 10 and made.record.silent == 80 - 6 - 10


def test_late_ticks_are_done_later_and_a_long_pause_drops_the_command() -> None:
    made = world()
    start, names = after_quiet(made), made.controllers.joints
    stands = np.array(made._standing())
    made.controllers.follow(waypoints(names, names, [(1000 * TICK, stands + 1.0, [], [])]), 0, start)
    assert made.tick(made.due + 0.2)
    assert made.record.ticks == 21 and made.slips == 20
    assert made.tick(made.due + 5.0)
    reached = np.array(made.command)
    assert made.record.ticks == 22 and np.abs(reached - stands).max() == pytest.approx(0.021, abs=2e-3)
    run_to(made, made._next + 20)
    np.testing.assert_array_equal(reached, np.array(made.command))


def test_simulated_time_runs_faster_and_commands_are_cut_to_the_range() -> None:
    made = world(speed=10.0)
    assert made.rate_hz == 1000
    start = after_quiet(made)
    made.controllers.forward("position", np.full(7, 9.0), start)
    made.tick(made.due + 1e-9)
    assert made.stamp_ns == start + TICK and np.array_equal(np.array(made.command), made.joints.motion.high)


def test_what_has_no_controller_is_one_line() -> None:
    with pytest.raises(InputError, match="leave --lockstep out"):
        RosWorld(registry.make("arm/reach", 1), 0, None, True)
    with pytest.raises(InputError, match="controllers command positions or velocities"):
        world("arm/pick-place")


# Its topics ----------------------------------------------------------------------------------------------------------


class Client:
    """A node beside the twin, in the same thread."""

    def __init__(self, twin: TwinNode, domain: int) -> None:
        self.twin, self.heard = twin, {}
        self.context = api.Context()
        api.init(args=[], context=self.context, domain_id=domain)
        self.node = api.Node("client", context=self.context, start_parameter_services=False)
        self.executor = api.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]]

    def listen(self, kind: str, topic: str, qos: Any = 10) -> list[Any]:
        found = self.heard.setdefault(topic, [])
        self.node.create_subscription(message(kind), topic, found.append, qos)
        return found

    def until(self, done: Callable[[], Any]) -> Any:
        """Let both run until ``done()``."""
        end = time.monotonic() + WAIT_S
        while not (found := done()):
            assert time.monotonic() < end, f"still waiting; heard { ({k: len(v) for k, v in self.heard.items()}) }"
            self.twin.step(0.002)
            for _ in range(8):
                self.executor.spin_once(timeout_sec=0.0)
        return found

    def sender(self, kind: str, topic: str) -> Any:
        publisher = self.node.create_publisher(message(kind), topic, 10)
        self.until(publisher.get_subscription_count)
        return publisher

    def episode(self) -> dict[str, Any]:
        return json.loads(self.heard["twin/episode"][-1].data)


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    """Start a twin in a domain of its own, and a client; both end with the test."""
    made: list[Any] = []
    with free_domain() as domain:

        def start(served: RosWorld, **place: Any) -> Client:
            twin = TwinNode(served, RosPlace(domain=domain, **place), lambda line: None)
            made.append(twin.close)
            client = Client(twin, domain)
            made.append(lambda: api.shutdown(context=client.context))
            client.listen("std_msgs/msg/String", "twin/episode", latched())
            return client

        yield start
        for close in reversed(made):
            close()


def trajectory(names: tuple[str, ...], position: np.ndarray, after_ns: int, stamp_ns: int = 0) -> Any:
    points = [message("trajectory_msgs/msg/JointTrajectoryPoint")(positions=[float(v) for v in position])]
    points[0].time_from_start = message("builtin_interfaces/msg/Duration")(sec=after_ns // 10**9, nanosec=after_ns % 10**9)
    found = message("trajectory_msgs/msg/JointTrajectory")(joint_names=list(names), points=points)
    found.header.stamp = time_of(stamp_ns)
    return found


def test_readings_of_a_tick_carry_one_stamp_and_say_what_the_world_observes(serve) -> None:
    client = serve(world())
    joints, whole, goal = (client.listen("sensor_msgs/msg/JointState", topic) for topic in ("joint_states", "state/state", "state/environment_state"))
    description = client.listen("std_msgs/msg/String", "robot_description", latched())
    client.until(lambda: description and goal and len(set.intersection(*({nanoseconds(m.header.stamp) for m in f} for f in (joints, whole, goal)))) > 5)
    made, last = client.twin.world, joints[-1]
    assert tuple(last.name) == made.joints.motion.names and len(last.velocity) == 7
    np.testing.assert_array_equal(np.array(whole[-1].position, np.float32), made.observation["observation.state"])
    assert list(goal[-1].name) == ["goal.x", "goal.y", "goal.z"] and list(whole[-1].name)[-1] == "hand.z"
    assert "<robot" in description[0].data and client.episode()["seed"] == 3 and client.episode()["rate_hz"] == 100
    assert min(nanoseconds(m.header.stamp) for m in joints) > client.episode()["stamp_ns"]


def test_an_expert_reaches_the_goal_through_trajectories_and_the_next_episode_is_asked_for(serve) -> None:
    made = world(speed=2.0, episodes=2, max_episode_steps=1000)  # on a busy machine it takes as long as it takes
    client = serve(made, clock=True)
    clock = client.listen("rosgraph_msgs/msg/Clock", "/clock")
    states = client.listen("sensor_msgs/msg/JointState", "joint_states")
    sender = client.sender("trajectory_msgs/msg/JointTrajectory", "joint_trajectory_controller/joint_trajectory")
    reset = client.sender("std_msgs/msg/Empty", "twin/reset")
    for seed in (3, 4):
        client.until(lambda seed=seed: client.heard["twin/episode"] and client.episode()["seed"] == seed)
        states.clear()
        while not client.episode()["ended"]:
            client.until(lambda: states or client.episode()["ended"])
            stamp = nanoseconds(states[-1].header.stamp) if states else made.stamp_ns
            states.clear()
            sender.publish(trajectory(made.joints.motion.names, made.env.expert_action()[0], 5 * TICK, stamp))
        assert client.episode()["success"] and made.record.success
        sent = made.record.ticks
        client.until(lambda: len(states) > 10)
        assert made.record.ticks == sent and made.ended, "an ended episode stands still until the next is asked for"
        if seed == 3:
            reset.publish(message("std_msgs/msg/Empty")())
    assert made.over and client.twin.heard["joint_trajectory_controller/joint_trajectory"] > 20
    assert clock and client.twin.latency.count > 10


def test_the_reset_service_begins_the_next_episode(serve) -> None:
    client = serve(world())
    kind = api.service("std_srvs/srv/Trigger")
    asked = client.node.create_client(kind, "twin/reset")
    client.until(asked.service_is_ready)
    future = asked.call_async(kind.Request())
    client.until(future.done)
    assert future.result().success and client.twin.world.record.seed == 4
    client.until(lambda: client.episode()["seed"] == 4)
    again = asked.call_async(kind.Request())
    client.until(again.done)
    assert again.result().success and client.twin.world.record.seed == 4, "who repeats the request has not heard of the episode yet"


def test_what_no_controller_takes_is_counted_by_its_cause(serve, tmp_path: Path) -> None:
    made = world(log=tmp_path / "log")
    client = serve(made)
    states = client.listen("sensor_msgs/msg/JointState", "joint_states")
    sender = client.sender("trajectory_msgs/msg/JointTrajectory", "joint_trajectory_controller/joint_trajectory")
    numbers = client.sender("std_msgs/msg/Float64MultiArray", "forward_position_controller/commands")
    client.until(lambda: states)
    now = nanoseconds(states[-1].header.stamp)
    names = made.joints.motion.names
    sender.publish(trajectory(names[:-1], np.zeros(6), TICK))
    sender.publish(trajectory(names, np.full(7, np.nan), TICK))
    sender.publish(trajectory(names, np.zeros(7), TICK, client.episode()["stamp_ns"] - TICK))
    sender.publish(trajectory(names, np.zeros(7), MS, now - 2 * TICK))
    numbers.publish(message("std_msgs/msg/Float64MultiArray")(data=[0.0] * 3))
    client.until(lambda: sum(client.twin.refused.values()) == 5)
    assert dict(client.twin.refused) == {"joints": 1, "not finite": 1, "episode": 1, "past": 1, "size": 1}
    assert made.record.ticks == 0 and made.command is None
    assert sorted(set(read_log(tmp_path / "log").refused.tolist()) - {""}) == ["episode", "joints", "not finite", "past", "size"]


def test_a_point_in_the_plane_is_driven_by_a_twist(serve) -> None:
    made = world("two-route", speed=2.0)
    client = serve(made, namespace="/left")
    odometry = client.listen("nav_msgs/msg/Odometry", "/left/odom")
    client.listen("std_msgs/msg/String", "/left/twin/episode", latched())
    sender = client.sender("geometry_msgs/msg/Twist", "/left/cmd_vel")
    client.until(lambda: odometry)
    begun = odometry[-1].pose.pose.position.x
    twist = message("geometry_msgs/msg/Twist")()
    twist.linear.x = 0.5

    def driven() -> bool:
        sender.publish(twist)
        return odometry[-1].pose.pose.position.x > begun + 0.1

    client.until(driven)
    assert made.command is not None and made.command.tolist() == [0.5, 0.0]
    client.until(lambda: made.record.silent > 2)
    assert made.command.tolist() == [0.0, 0.0]


def test_cameras_raw_and_compressed(serve) -> None:
    require("egl")
    import cv2

    made = world(observations="state+image", image_size=64)
    client = serve(made)
    raw = client.listen("sensor_msgs/msg/Image", "camera/front/image_raw", api.qos_profile_sensor_data)
    small = client.listen("sensor_msgs/msg/CompressedImage", "camera/front/image_raw/compressed", api.qos_profile_sensor_data)
    info = client.listen("sensor_msgs/msg/CameraInfo", "camera/front/camera_info", api.qos_profile_sensor_data)
    client.until(lambda: raw and small and info)
    picture = np.frombuffer(bytes(raw[-1].data), np.uint8).reshape(raw[-1].height, raw[-1].width, 3)
    assert raw[-1].encoding == "rgb8" and raw[-1].step == 192
    np.testing.assert_array_equal(picture, made.observation["observation.images.front"])
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(bytes(small[-1].data), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert (
        np.abs(decoded.astype(int) - picture).mean() < 6
        and np.abs(decoded[..., ::-1].astype(int) - picture).mean() > np.abs(decoded.astype(int) - picture).mean()
    )
    assert info[-1].k[0] == pytest.approx(32 / np.tan(np.radians(21))) and info[-1].k[2] == 31.5
