"""ROS 2 messages as arrays and back: which of a message's numbers a field takes, when it was captured, images of every usual encoding."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policies.spec import InputError, suggest

JOINT_STATE, IMAGE, COMPRESSED = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STRING, BOOL, INT64, FLOAT32 = "std_msgs/msg/String", "std_msgs/msg/Bool", "std_msgs/msg/Int64", "std_msgs/msg/Float32"
_STAMP = {True: struct.Struct("<iI"), False: struct.Struct(">iI")}
_CHANNELS = {
    "rgb8": (3, slice(None)),
    "bgr8": (3, slice(None, None, -1)),
    "rgba8": (4, slice(0, 3)),
    "bgra8": (4, slice(2, None, -1)),
    "mono8": (1, slice(0, 1)),
}


def typestore() -> Any:
    """Return the definitions of ROS 2's own messages. Raises InputError without the package that has them."""
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise InputError("bags need the package rosbags: pip install 'robopolicy[convert]'") from error
    return get_typestore(Stores.ROS2_JAZZY)


def _xyz(value: Any) -> list[float]:
    return [value.x, value.y, value.z]


def _pose(pose: Any) -> list[float]:
    return [*_xyz(pose.position), *_xyz(pose.orientation), pose.orientation.w]


def _twist(twist: Any) -> list[float]:
    return [*_xyz(twist.linear), *_xyz(twist.angular)]


def _last_point(message: Any) -> Any:
    if not message.points:
        raise InputError("a trajectory without a point")
    return message.points[-1].positions


#: Message type -> its numbers, in order; a JointState is taken apart by name (:func:`joint_values`).
VECTORS: dict[str, Callable[[Any], Any]] = {
    "std_msgs/msg/Float32MultiArray": lambda m: m.data,
    "std_msgs/msg/Float64MultiArray": lambda m: m.data,
    BOOL: lambda m: [m.data],
    INT64: lambda m: [m.data],
    "std_msgs/msg/Int32": lambda m: [m.data],
    FLOAT32: lambda m: [m.data],
    "std_msgs/msg/Float64": lambda m: [m.data],
    "geometry_msgs/msg/Twist": _twist,
    "geometry_msgs/msg/TwistStamped": lambda m: _twist(m.twist),
    "geometry_msgs/msg/Pose": _pose,
    "geometry_msgs/msg/PoseStamped": lambda m: _pose(m.pose),
    "geometry_msgs/msg/PointStamped": lambda m: _xyz(m.point),
    "geometry_msgs/msg/WrenchStamped": lambda m: [*_xyz(m.wrench.force), *_xyz(m.wrench.torque)],
    "nav_msgs/msg/Odometry": lambda m: [*_pose(m.pose.pose), *_twist(m.twist.twist)],
    "trajectory_msgs/msg/JointTrajectory": _last_point,
}


def is_known(kind: str) -> bool:
    """Whether a field can be made of messages of this type."""
    return kind in VECTORS or kind in (JOINT_STATE, IMAGE, COMPRESSED)


def vector(message: Any, kind: str, value: str = "position", names: Sequence[str] | None = None) -> np.ndarray:
    """Return the numbers (n,) of a message that is no image: float64, but int64 of an Int64, which floats would round from 2^53 on.

    Args:
        message: Deserialised.
        kind: Its type.
        value: JointState: ``position``, ``velocity`` or ``effort``.
        names: JointState: joints to take, in this order; None: all as they come.

    Raises:
        InputError: if it has not what is asked for.
    """
    found = joint_values(message, value, names) if kind == JOINT_STATE else VECTORS[kind](message)
    return np.asarray(found, np.int64 if kind == INT64 else np.float64).ravel()


def joint_values(message: Any, value: str, names: Sequence[str] | None) -> np.ndarray:
    """Return ``value`` of the joints ``names`` (n,) of a JointState. Raises InputError for one that it does not hold."""
    numbers = np.asarray(getattr(message, value), np.float64)
    if not names:
        return numbers
    if len(numbers) != len(message.name):
        raise InputError(f"{len(message.name)} joints but {len(numbers)} of {value}")
    if list(names) == list(message.name):
        return numbers
    where = {name: index for index, name in enumerate(message.name)}
    for name in names:
        if name not in where:
            raise InputError(f"no joint {name!r}{suggest(name, where)}")
    return numbers[[where[name] for name in names]]


def image(message: Any, kind: str) -> np.ndarray:
    """Return the picture (H, W, 3) uint8, RGB, of an Image or a CompressedImage. Raises InputError for one that cannot be read."""
    if kind == COMPRESSED:
        import cv2

        found = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_COLOR)
        if found is None:
            raise InputError(f"a compressed image ({message.format}) that cannot be decoded")
        return np.ascontiguousarray(found[..., ::-1])
    if message.encoding not in _CHANNELS:
        raise InputError(f"images encoded as {message.encoding!r}{suggest(message.encoding, _CHANNELS)}")
    depth, order = _CHANNELS[message.encoding]
    data = np.frombuffer(bytes(message.data), np.uint8)
    height, width, step = int(message.height), int(message.width), int(message.step)
    if step < width * depth or len(data) < step * height:
        raise InputError(f"an image of {height}x{width} with {len(data)} bytes in lines of {step}")
    pixels = data[: step * height].reshape(height, step)[:, : width * depth].reshape(height, width, depth)[..., order]
    return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))


def stamp_ns(data: bytes | memoryview, log_ns: int, has_header: bool) -> int:
    """Return when a message was captured: its header's stamp, ns, or the bag's time where it has none (or none was set)."""
    if not has_header or len(data) < 12:
        return log_ns
    seconds, nanoseconds = _STAMP[bool(data[1] & 1)].unpack_from(data, 4)
    return seconds * 10**9 + nanoseconds or log_ns


def header(store: Any, ns: int, frame: str = "") -> Any:
    """Return a header stamped ``ns``."""
    seconds, nanoseconds = divmod(int(ns), 10**9)
    if not -(2**31) <= seconds < 2**31:
        raise InputError(f"a stamp of {ns} ns does not fit a ROS message, which counts seconds in 32 bits")
    return store.types["std_msgs/msg/Header"](stamp=store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds), frame_id=frame)


def joint_state(store: Any, ns: int, names: Sequence[str], values: np.ndarray) -> Any:
    """Return a JointState that holds ``values`` (n,) as positions."""
    empty = np.zeros(0, np.float64)
    return store.types[JOINT_STATE](header=header(store, ns), name=list(names), position=np.asarray(values, np.float64).ravel(), velocity=empty, effort=empty)


def image_message(store: Any, ns: int, frame: str, picture: np.ndarray, form: str) -> Any:
    """Return a picture (H, W, 3) uint8 as an Image (``raw``) or a CompressedImage (``jpeg`` or ``png``)."""
    height, width, _ = picture.shape
    if form == "raw":
        data = np.ascontiguousarray(picture).reshape(-1)
        return store.types[IMAGE](header=header(store, ns, frame), height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=data)
    import cv2

    done, data = cv2.imencode(f".{form}", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95] if form == "jpeg" else [])
    if not done:
        raise InputError(f"an image of {height}x{width} cannot be written as {form}")
    return store.types[COMPRESSED](header=header(store, ns, frame), format=form, data=data.ravel())
