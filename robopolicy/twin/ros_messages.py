"""What the twin over ROS 2 says: messages of a world's observation, camera pictures, frames and the episode."""

from __future__ import annotations

import array
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import Field
from real.ros.api import message
from robopolicy.twin.ros_world import RosWorld

_NS = 1_000_000_000


def time_of(stamp_ns: int) -> Any:
    """Return builtin_interfaces/Time of ``stamp_ns``, nanoseconds."""
    return message("builtin_interfaces/msg/Time")(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS)


def nanoseconds(stamp: Any) -> int:
    """Return a builtin_interfaces Time or Duration in nanoseconds."""
    return int(stamp.sec) * _NS + int(stamp.nanosec)


def header(stamp_ns: int, frame: str = "") -> Any:
    """Return std_msgs/Header."""
    return message("std_msgs/msg/Header")(stamp=time_of(stamp_ns), frame_id=frame)


def topic_of(field: str) -> str:
    """Return the topic of an observation field for which ROS has no message: ``observation.environment_state`` -> ``state/environment_state``."""
    return "state/" + field.removeprefix("observation.").replace(".", "_")


def camera_of(field: str) -> str:
    """Return the name of the camera of an image field: ``observation.images.front`` -> ``front``."""
    return field.removeprefix("observation.images.").replace(".", "_")


def state(field: Field, values: np.ndarray, stamp_ns: int) -> Any:
    """Return a field's ``values`` (*shape) as sensor_msgs/JointState: stamped and named, flattened, in ``position``."""
    names = field.names or tuple(str(i) for i in range(field.size))
    return message("sensor_msgs/msg/JointState")(header=header(stamp_ns), name=list(names), position=_doubles(values.ravel()))


def joint_state(names: Sequence[str], position: np.ndarray, velocity: np.ndarray | None, stamp_ns: int) -> Any:
    """Return sensor_msgs/JointState of ``position`` (n,) and ``velocity`` (n,), which may be unknown."""
    given = {} if velocity is None else {"velocity": _doubles(velocity)}
    return message("sensor_msgs/msg/JointState")(header=header(stamp_ns), name=list(names), position=_doubles(position), **given)


def _doubles(values: np.ndarray) -> array.array[float]:
    return array.array("d", np.ascontiguousarray(values, np.float64).tobytes())


def image(picture: np.ndarray, stamp_ns: int, frame: str) -> Any:
    """Return sensor_msgs/Image of an RGB picture (H, W, 3) uint8."""
    height, width = picture.shape[:2]
    data = array.array("B", np.ascontiguousarray(picture).tobytes())
    shape = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
    return message("sensor_msgs/msg/Image")(header=header(stamp_ns, frame), **shape, data=data)


def compressed(picture: np.ndarray, stamp_ns: int, frame: str, quality: int = 90) -> Any:
    """Return sensor_msgs/CompressedImage, JPEG, of an RGB picture (H, W, 3) uint8."""
    import cv2

    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} has no JPEG")
    return message("sensor_msgs/msg/CompressedImage")(
        header=header(stamp_ns, frame), format="rgb8; jpeg compressed bgr8", data=array.array("B", data.tobytes())
    )


def camera_info(size: tuple[int, int], fovy_deg: float, stamp_ns: int, frame: str) -> Any:
    """Return sensor_msgs/CameraInfo of a pinhole camera without distortion, (height, width) px, vertical field of view in degrees."""
    height, width = size
    focal = height / (2 * math.tan(math.radians(fovy_deg) / 2))
    cx, cy = width / 2 - 0.5, height / 2 - 0.5
    k, p = [focal, 0, cx, 0, focal, cy, 0, 0, 1], [focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1, 0]
    lens = {"k": np.array(k, np.float64), "r": np.eye(3).ravel(), "p": np.array(p, np.float64), "d": _doubles(np.zeros(5))}
    return message("sensor_msgs/msg/CameraInfo")(header=header(stamp_ns, frame), height=height, width=width, distortion_model="plumb_bob", **lens)


def odometry(x: float, y: float, velocity: np.ndarray, stamp_ns: int) -> Any:
    """Return nav_msgs/Odometry of a point in the plane, m, with ``velocity`` (2,), m/s."""
    found = message("nav_msgs/msg/Odometry")(header=header(stamp_ns, "odom"), child_frame_id="base_link")
    found.pose.pose.position.x, found.pose.pose.position.y = float(x), float(y)
    found.twist.twist.linear.x, found.twist.twist.linear.y = float(velocity[0]), float(velocity[1])
    return found


def episode(world: RosWorld) -> Any:
    """Return std_msgs/String about the present episode, as JSON: what the driver of a twin reads.

    ``stamp_ns``: readings stamped at or after it belong to the episode.
    """
    record = world.record
    about: dict[str, Any] = {"task": world.env.task, "episode": record.index, "seed": record.seed, "ended": world.ended, "success": record.success}
    about |= {"stamp_ns": world.begun_ns, "rate_hz": world.rate_hz / world.speed, "substeps": world.substeps, "speed": world.speed, "over": world.over}
    return message("std_msgs/msg/String")(data=json.dumps(about))


@dataclass(frozen=True)
class _Frame:
    parent: str
    child: str
    at: np.ndarray
    turn: np.ndarray  # (w, x, y, z)
    joint: str  # empty: fixed
    axis: np.ndarray
    slides: bool


class Frames:
    """The transforms between a robot's links, from its URDF.

    Args:
        urdf: The text.
    """

    def __init__(self, urdf: str) -> None:
        self._frames = [_frame(joint) for joint in ET.fromstring(urdf).findall("joint")]

    def fixed(self, stamp_ns: int) -> Any:
        """Return tf2_msgs/TFMessage of the links that do not move against their parents."""
        return self._message([f for f in self._frames if not f.joint], {}, stamp_ns)

    def moving(self, positions: dict[str, float], stamp_ns: int) -> Any:
        """Return tf2_msgs/TFMessage of the others at joint ``positions`` (rad, m); an unnamed joint is at 0."""
        return self._message([f for f in self._frames if f.joint], positions, stamp_ns)

    def _message(self, frames: list[_Frame], positions: dict[str, float], stamp_ns: int) -> Any:
        transforms = []
        for frame in frames:
            value, at, turn = positions.get(frame.joint, 0.0), frame.at, frame.turn
            if frame.slides:
                at = at + _rotate(turn, frame.axis * value)
            elif frame.joint:
                turn = _multiply(turn, np.array([math.cos(value / 2), *(math.sin(value / 2) * frame.axis)]))
            stamped = message("geometry_msgs/msg/TransformStamped")(header=header(stamp_ns, frame.parent), child_frame_id=frame.child)
            move, spin = stamped.transform.translation, stamped.transform.rotation
            move.x, move.y, move.z = (float(v) for v in at)
            spin.w, spin.x, spin.y, spin.z = (float(v) for v in turn)
            transforms.append(stamped)
        return message("tf2_msgs/msg/TFMessage")(transforms=transforms)


def _frame(joint: ET.Element) -> _Frame:
    def numbers(path: str, key: str, default: str) -> np.ndarray:
        element = joint.find(path)
        return np.array([float(v) for v in (default if element is None else element.get(key, default)).split()])

    roll, pitch, yaw = numbers("origin", "rpy", "0 0 0") / 2
    turn = np.array([math.cos(yaw), 0, 0, math.sin(yaw)])
    for part in ([math.cos(pitch), 0, math.sin(pitch), 0], [math.cos(roll), math.sin(roll), 0, 0]):
        turn = _multiply(turn, np.array(part))
    parent, child = (_link(joint, end) for end in ("parent", "child"))
    axis = numbers("axis", "xyz", "1 0 0")
    moves = joint.get("type") != "fixed"
    return _Frame(parent, child, numbers("origin", "xyz", "0 0 0"), turn, str(joint.get("name")) if moves else "", axis, joint.get("type") == "prismatic")


def _link(joint: ET.Element, end: str) -> str:
    found = joint.find(end)
    assert found is not None
    return str(found.get("link"))


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    scalar = a[0] * b[0] - a[1:] @ b[1:]
    return np.array([scalar, *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])


def _rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _multiply(_multiply(q, np.array([0.0, *v])), q * np.array([1, -1, -1, -1]))[1:]
