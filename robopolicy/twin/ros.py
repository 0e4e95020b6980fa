"""The twin over ROS 2: a simulated world behind the topics of a robot under ros2_control, for ``robopolicy run robot=ros2``.

Relative to the namespace, stamped with the time of capture on the robot's clock:

- ``joint_states``, ``robot_description`` (joint-driven tasks), ``state/FIELD`` for every field, ``odom`` for points in the plane;
  all of a tick carry one stamp
- ``camera/NAME/image_raw``, ``.../compressed``, ``camera/NAME/camera_info`` at the rate of the actions; ``/tf``, ``/tf_static``
- commands: ``joint_trajectory_controller/joint_trajectory``, ``forward_position_controller/commands``,
  ``forward_velocity_controller/commands``, ``cmd_vel`` (see ``robopolicy.twin.ros_control``)
- what only a twin has: ``twin/episode``, the service ``twin/reset`` and a topic of that name; ``/clock`` where asked for
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.motion import joint_columns
from real.latency import Latency
from real.ros import api
from real.ros.api import message
from robopolicy.processes import announce as tell
from robopolicy.twin import ros_messages as say
from robopolicy.twin.ros_control import CommandRefused, waypoints
from robopolicy.twin.ros_urdf import urdf_of
from robopolicy.twin.ros_world import RobotClock, RosWorld
from robopolicy.twin.server import records_json

_AXES = {"x": ("linear", "x"), "y": ("linear", "y"), "z": ("linear", "z"), "yaw": ("angular", "z"), "theta": ("angular", "z")}
_BETWEEN_LINES_S = 1.0  # about refused commands
_REPEATED_S = 3.0  # so long after an episode has begun a reset is taken for a repetition, unless something has moved
_REMEMBERED = 64  # readings whose latency to a command may still be measured


@dataclass(frozen=True)
class RosPlace:
    """Where on the ROS network a node is.

    Attributes:
        namespace: Of its relative names.
        domain: ROS domain; None: ``ROS_DOMAIN_ID``.
        interface: Network interface of DDS; None: loopback.
        clock: Whether to publish /clock.
    """

    namespace: str = ""
    domain: int | None = None
    interface: str | None = None
    clock: bool = False


def latched(depth: int = 1) -> Any:
    """Return the QoS of what late joiners get too."""
    return api.QoSProfile(depth=depth, reliability=api.ReliabilityPolicy.RELIABLE, durability=api.DurabilityPolicy.TRANSIENT_LOCAL)


class TwinNode:
    """Serves a world on topics.

    Args:
        world: The world.
        place: Where on the network.
        log: Where lines go.

    Attributes:
        refused: Cause -> command messages that no controller took.
        heard: Topic -> command messages taken.
        latency: From publishing a reading to the arrival of the command made from it.

    Raises:
        InputError: if the node cannot be made.
    """

    def __init__(self, world: RosWorld, place: RosPlace = RosPlace(), log: Callable[[str], None] = print) -> None:
        self.world, self._log, self._told, self._quiet_until = world, log, 0, 0.0
        self.refused: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self.latency = Latency()
        self._published: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._answered_ns = 0
        self._context = api.Context()
        api.init(args=[], context=self._context, domain_id=place.domain, **({} if place.interface is None else {"interface": place.interface}))
        try:
            self._node = api.create_node("twin", namespace=place.namespace or None, context=self._context, use_global_arguments=False)
            self._executor = api.SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
            self._open(place)
        except BaseException:
            api.shutdown(context=self._context)
            raise
        world.changed = self._tell_episode
        self._tell_episode()

    def _open(self, place: RosPlace) -> None:
        node, world = self._node, self.world
        self._episode = node.create_publisher(message("std_msgs/msg/String"), "twin/episode", latched())
        self._clock = node.create_publisher(message("rosgraph_msgs/msg/Clock"), "/clock", api.QoSProfile(depth=1)) if place.clock else None
        fields = world.env.spec.observation.fields
        self._states = {n: node.create_publisher(message("sensor_msgs/msg/JointState"), say.topic_of(n), 10) for n, f in fields.items() if not f.is_image}
        self._cameras = {name: _Camera(node, world, name) for name, field in fields.items() if field.is_image}
        self._frames = None
        if world.joints is not None:
            self._open_joints()
        self._odom = None
        if world.joints is None and {"x", "y"} <= set(fields["observation.state"].names):
            self._odom = node.create_publisher(message("nav_msgs/msg/Odometry"), "odom", 10)
        numbers = message("std_msgs/msg/Float64MultiArray")
        for kind in ("position", "velocity") if world.joints is not None else (world.forwards,):
            topic = f"forward_{kind}_controller/commands"
            node.create_subscription(numbers, topic, lambda msg, kind=kind, topic=topic: self._forward(kind, topic, np.asarray(msg.data)), 10)
        if world.joints is None and world.forwards == "velocity" and set(world.env.spec.action.names) <= set(_AXES):
            node.create_subscription(message("geometry_msgs/msg/Twist"), "cmd_vel", self._twist, 10)
        node.create_subscription(message("std_msgs/msg/Empty"), "twin/reset", lambda msg: self._reset(), 10)
        node.create_service(message("std_srvs/srv/Trigger"), "twin/reset", self._answer_reset)

    def _open_joints(self) -> None:
        node, joints = self._node, self.world.joints
        assert joints is not None
        urdf = urdf_of(joints.robot_model, joints.motion, self.world.env.task.replace("/", "_"))
        self._joint_states = node.create_publisher(message("sensor_msgs/msg/JointState"), "joint_states", 10)
        self._description = node.create_publisher(message("std_msgs/msg/String"), "robot_description", latched())
        self._description.publish(message("std_msgs/msg/String")(data=urdf))
        observation = self.world.env.spec.observation
        self._field, self._columns = joint_columns(observation, joints.motion.names)
        names = observation.fields[self._field].names
        speeds = [f"{joint}.velocity" for joint in joints.motion.names]
        self._speeds = np.array([names.index(name) for name in speeds]) if set(speeds) <= set(names) else None
        self._frames = say.Frames(urdf)
        tf = message("tf2_msgs/msg/TFMessage")
        self._tf, self._tf_static = node.create_publisher(tf, "/tf", 100), node.create_publisher(tf, "/tf_static", latched())
        self._tf_static.publish(self._frames.fixed(self.world.stamp_ns))
        topic = "joint_trajectory_controller/joint_trajectory"
        node.create_subscription(message("trajectory_msgs/msg/JointTrajectory"), topic, lambda msg: self._trajectory(topic, msg), 10)

    def serve(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run the world and answer until ``stopped()``, looked at every 0.1 s; then close."""
        try:
            while not stopped():
                self.step(0.1)
        finally:
            self.close()

    def step(self, wait_s: float = 0.0) -> None:
        """Wait for a message or the next tick, and do what there is to do."""
        left = self.world.due - time.monotonic()
        if left > 0:
            self._executor.spin_once(timeout_sec=min(wait_s, left))
        if self.world.tick(time.monotonic()):
            if not self.world.quiet:
                self._publish()
            self._tell()

    def close(self) -> None:
        """Leave the network and release the world; may be called twice."""
        if self._context.ok():
            self._executor.shutdown()
            self._node.destroy_node()
            api.shutdown(context=self._context)
        self.world.env.close()

    def counts(self) -> dict[str, Any]:
        """Return what was heard and refused and how long commands took, JSON-ready."""
        return {"heard": dict(self.heard), "refused": dict(self.refused), "slips": self.world.slips, "latency_ms": self.latency.to_dict()}

    @property
    def name(self) -> str:
        """Its full name on the network."""
        return self._node.get_fully_qualified_name()

    # What it says ------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Say the newest observation; all of it carries one stamp."""
        world, stamp_ns = self.world, self.world.stamp_ns
        observation, fields = world.observation, world.env.spec.observation.fields
        if self._clock is not None:
            self._clock.publish(message("rosgraph_msgs/msg/Clock")(clock=say.time_of(stamp_ns)))
        for name, publisher in self._states.items():  # before the joints: who has those has a whole reading
            publisher.publish(say.state(fields[name], observation[name], stamp_ns))
        if world.joints is not None:
            measured = observation[self._field].astype(np.float64)
            speed = None if self._speeds is None else measured[self._speeds]
            self._joint_states.publish(say.joint_state(world.joints.motion.names, measured[self._columns], speed, stamp_ns))
        if self._odom is not None:
            names, values = fields["observation.state"].names, observation["observation.state"]
            velocity = np.zeros(2) if world.command is None else np.asarray(world.command)[:2]
            self._odom.publish(say.odometry(values[names.index("x")], values[names.index("y")], velocity, stamp_ns))
        self._published.append((stamp_ns, time.monotonic()))
        if world.record.ticks % world.substeps == 0 or world.command is None or world.ended:
            self._publish_slowly(stamp_ns)

    def _publish_slowly(self, stamp_ns: int) -> None:
        """Say what changes at the rate of the actions: pictures and frames."""
        world = self.world
        for name, camera in self._cameras.items():
            camera.publish(world.observation[name], stamp_ns)
        if self._frames is not None and world.joints is not None and self._tf.get_subscription_count():
            measured = world.observation[self._field].astype(np.float64)[self._columns]
            self._tf.publish(self._frames.moving(dict(zip(world.joints.motion.names, measured.tolist(), strict=True)), stamp_ns))

    def _tell_episode(self) -> None:
        self._episode.publish(say.episode(self.world))

    def _tell(self) -> None:
        """Say how episodes ended, one line each."""
        finished = self.world.finished()
        for record in finished[self._told :]:
            self._log(record.line())
        self._told = len(finished)

    # What it is told ---------------------------------------------------------------------------------------------

    def _trajectory(self, topic: str, msg: Any) -> None:
        stamp_ns = say.nanoseconds(msg.header.stamp)

        def take(controllers: Any, now_ns: int) -> None:
            points = [(say.nanoseconds(p.time_from_start), p.positions, p.velocities, p.accelerations) for p in msg.points]
            controllers.follow(waypoints(controllers.joints, msg.joint_names, points), stamp_ns, now_ns)

        self._take(topic, take, stamp_ns)

    def _forward(self, kind: str, topic: str, numbers: np.ndarray) -> None:
        self._take(topic, lambda controllers, now_ns: controllers.forward(kind, numbers, now_ns))

    def _twist(self, msg: Any) -> None:
        numbers = np.array([getattr(getattr(msg, _AXES[name][0]), _AXES[name][1]) for name in self.world.env.spec.action.names], np.float64)
        self._forward("velocity", "cmd_vel", numbers)

    def _take(self, topic: str, take: Callable[[Any, int], None], stamp_ns: int = 0) -> None:
        """Give a command to the controllers, count it, and measure how old the reading is that it answers."""
        now, world = time.monotonic(), self.world
        self._measure(stamp_ns, now)
        try:
            if world.ended or world.quiet:
                raise CommandRefused("episode", "the episode is over")
            take(world.controllers, world.clock.at(now))
            self.heard[topic] += 1
        except CommandRefused as error:
            self.refused[error.code] += 1
            world.event("refused", refused=error.code)
            if error.code != "episode" and now >= self._quiet_until:
                self._quiet_until = now + _BETWEEN_LINES_S
                self._log(f"{topic}: {error}")

    def _measure(self, stamp_ns: int, now: float) -> None:
        """Count the time since the reading with this stamp was published; without such a one, since the newest."""
        answered = next((entry for entry in self._published if entry[0] == stamp_ns), None) or (self._published[-1] if self._published else None)
        if answered is not None and answered[0] > self._answered_ns:
            self._answered_ns = answered[0]
            self.latency.add(now - answered[1])

    def _reset(self) -> None:
        """Begin the next episode; a request that is repeated by somebody who has not heard of it yet changes nothing."""
        world = self.world
        fresh = world.record.index and world.command is None and not world.ended
        if not (fresh and world.clock.at(time.monotonic()) - world.begun_ns < 1e9 * _REPEATED_S * world.speed):
            world.next_episode()
        self._tell()

    def _answer_reset(self, request: Any, response: Any) -> Any:
        self._reset()
        response.success, response.message = not self.world.over, f"episode {self.world.record.index}, seed {self.world.record.seed}"
        return response


def serve_world(
    options: tuple[Any, ...], pause_s: float | None, place: RosPlace, log: Callable[[str], None], announce: str | None, stopped: Callable[[], bool]
) -> dict[str, Any]:
    """Serve a world until ``stopped()``; returns the records of its episodes and what was counted, JSON-ready.

    Args:
        options: Of :class:`robopolicy.twin.World`, in its order; the fifth is the speed.
        pause_s: See :class:`RosWorld`.
        place: Where on the network.
        log: Where lines go.
        announce: File that gets one line once the node is there.
        stopped: Asked ten times a second.

    Raises:
        InputError: if the world has no controllers, or the node cannot be made.
    """
    world = RosWorld(*options, clock=RobotClock(options[4]), pause_s=pause_s)
    node = TwinNode(world, place, log)
    tell(announce, node.name)
    log(f"ready: {world.env.task} as {node.name} over ROS 2 ({api.BACKEND}), {world.rate_hz:g} Hz, holds after {world.silence_s:g} s without a command")
    node.serve(stopped)
    return {**records_json(world.env.task, world.finished()), "ros": node.counts()}


class _Camera:
    """One camera's topics.

    Args:
        node: That publishes.
        world: Whose camera it is.
        field: Observation field of its pictures.
    """

    def __init__(self, node: Any, world: RosWorld, field: str) -> None:
        name, qos = say.camera_of(field), api.qos_profile_sensor_data
        self._frame, self._size = f"{name}_optical_frame", world.env.spec.observation.fields[field].shape[:2]
        self._raw = node.create_publisher(message("sensor_msgs/msg/Image"), f"camera/{name}/image_raw", qos)
        self._compressed = node.create_publisher(message("sensor_msgs/msg/CompressedImage"), f"camera/{name}/image_raw/compressed", qos)
        self._info, self._fovy = None, _fovy(world.env, name)
        if self._fovy is not None:
            self._info = node.create_publisher(message("sensor_msgs/msg/CameraInfo"), f"camera/{name}/camera_info", qos)

    def publish(self, picture: np.ndarray, stamp_ns: int) -> None:
        """Say a picture (H, W, 3) uint8, in the forms that anybody listens to."""
        if self._raw.get_subscription_count():
            self._raw.publish(say.image(picture, stamp_ns, self._frame))
        if self._compressed.get_subscription_count():
            self._compressed.publish(say.compressed(picture, stamp_ns, self._frame))
        if self._info is not None and self._fovy is not None:
            self._info.publish(say.camera_info((self._size[0], self._size[1]), self._fovy, stamp_ns, self._frame))


def _fovy(env: Any, camera: str) -> float | None:
    """Return the vertical field of view of a MuJoCo world's camera, degrees; None for other worlds."""
    model = getattr(env, "model", None)
    if model is None or not hasattr(model, "cam_fovy") or getattr(env, "camera", None) != camera:
        return None
    return float(model.cam_fovy[model.camera(camera).id])
