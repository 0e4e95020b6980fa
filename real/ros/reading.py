"""Fields of an observation from topics: one reader each, as the plan says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from policies.spec import InputError
from real.ros.connection import Connection, best_effort, reliable
from real.ros.fields import FieldPlan, Mapped, split_joint
from real.ros.images import read_compressed, read_image
from real.ros.options import Ros2Config
from real.ros.sensors import CameraReader, JointReader, VectorReader, odometry_numbers, state_numbers, wrench_numbers
from real.ros.stamps import StampClock
from real.ros.transforms import Frames, TransformReader
from real.ros.urdf import Urdf

_TYPES = {
    "state": ("sensor_msgs/msg/JointState", state_numbers),
    "wrench": ("geometry_msgs/msg/WrenchStamped", wrench_numbers),
    "odometry": ("nav_msgs/msg/Odometry", odometry_numbers),
}


class Values(Protocol):
    """What a field is read from."""

    def read(self) -> tuple[np.ndarray, int, int]:
        """Return the newest values (*shape), their capture time here and their stamp there, ns. Raises InputError before the first."""
        ...


class JointValues:
    """Elements of joint states, in the order of a field: ``(part, column)`` of the reader each."""

    def __init__(self, joints: JointReader, elements: list[tuple[str, int]]) -> None:
        self._joints = joints
        self.parts = tuple(dict.fromkeys(part for part, _ in elements))
        self._elements = {part: np.array([(i, column) for i, (p, column) in enumerate(elements) if p == part], np.int64).T for part in self.parts}
        self._size = len(elements)

    def read(self) -> tuple[np.ndarray, int, int]:
        """Return the elements (k,), their oldest capture time and stamp, ns."""
        values, capture, stamp = self._joints.read()
        out = np.empty(self._size)
        for part, (here, column) in self._elements.items():
            out[here] = values[part][column]
        return out, capture, stamp

    def heard(self) -> bool:
        """Whether every part has come."""
        return not self._joints.missing and all(not np.isnan(self._joints.values[part][columns[1]]).all() for part, columns in self._elements.items())


class Reader:
    """One field.

    Attributes:
        source: What it is read from.
        topic: Absolute name; empty for joints and frames.
        kind: Message type.
    """

    def __init__(self, plan: FieldPlan, source: Values, topic: str = "", kind: str = "") -> None:
        self.source, self.topic, self.kind = source, topic, kind
        self._factors, self._shape, self._dtype = plan.factors, plan.field.shape, np.dtype(plan.field.dtype)
        self._picture = plan.source == "image"

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of position, velocity and effort of joints it needs."""
        return getattr(self.source, "parts", ())

    def ready(self) -> bool:
        """Whether it has a value."""
        if isinstance(self.source, JointValues):
            return self.source.heard()
        try:
            self.source.read()
        except InputError:
            return False
        return True

    def read(self, now_ns: int) -> tuple[np.ndarray, int, int]:
        """Return the field (*shape), its capture time here and its stamp there, ns; what has no age is of ``now_ns``."""
        values, capture, stamp = self.source.read()
        if self._picture:
            return values, capture, stamp or _NEVER_OLD
        return (values * self._factors).astype(self._dtype).reshape(self._shape), capture or now_ns, stamp or _NEVER_OLD


_NEVER_OLD = 1 << 62  # of what has no stamp: it belongs to every episode


def open_readers(
    connection: Connection, config: Ros2Config, urdf: Urdf, mapped: Mapped, clock: StampClock, picture_came: Callable[[], None]
) -> tuple[JointReader, dict[str, Reader], Frames]:
    """Subscribe to everything that the plans name.

    Args:
        connection: The node.
        config: Options of the driver.
        urdf: The robot's.
        mapped: Fields and joints.
        clock: Of the robot's stamps.
        picture_came: Called when a picture waits to be decoded.

    Returns:
        The reader of the joints, those of the fields by name, and the frames.
    """
    elements = {plan.name: [found for n in plan.names if (found := split_joint(n, urdf))] for plan in mapped.plans if plan.source == "joints"}
    read = [joint for found in elements.values() for joint, _ in found]
    commanded = [name for name in mapped.joints if name in urdf.joints]
    joints, frames = JointReader(tuple(dict.fromkeys([*commanded, *read])), clock), Frames(clock)
    connection.subscribe("sensor_msgs/msg/JointState", config.joint_states, joints.take, best_effort())
    if any(plan.source == "transform" for plan in mapped.plans):
        connection.subscribe("tf2_msgs/msg/TFMessage", "/tf", frames.take, best_effort(100))
        connection.subscribe("tf2_msgs/msg/TFMessage", "/tf_static", lambda m, at: frames.take(m, at, static=True), reliable(100, latched=True))
    readers = {}
    for plan in mapped.plans:
        if plan.source == "joints":
            places = [(part, joints.names.index(joint)) for joint, part in elements[plan.name]]
            readers[plan.name] = Reader(plan, JointValues(joints, places))
        elif plan.source == "transform":
            readers[plan.name] = Reader(plan, TransformReader(frames, plan.config.parent, plan.config.child))
        elif plan.source == "image":
            readers[plan.name] = _camera(connection, plan, clock, picture_came)
        else:
            kind, numbers = _TYPES[plan.source]
            source = VectorReader(plan.names, numbers, clock) if plan.source == "state" else VectorReader(_all_names(plan), numbers, clock)
            topic = connection.subscribe(kind, plan.topic, source.take, best_effort()).topic_name
            readers[plan.name] = Reader(plan, source if plan.source == "state" else _Chosen(source, plan), topic, kind)
    return joints, readers, frames


def _all_names(plan: FieldPlan) -> tuple[str, ...]:
    from real.ros.sensors import ODOMETRY_NAMES, WRENCH_NAMES

    return WRENCH_NAMES if plan.source == "wrench" else ODOMETRY_NAMES


class _Chosen:
    """Some elements of a vector whose message always has all of them."""

    def __init__(self, whole: VectorReader, plan: FieldPlan) -> None:
        self._whole, self._columns = whole, np.array([whole.names.index(name) for name in plan.names], np.int64)

    def read(self) -> tuple[np.ndarray, int, int]:
        values, capture, stamp = self._whole.read()
        return values[self._columns], capture, stamp


def _camera(connection: Connection, plan: FieldPlan, clock: StampClock, picture_came: Callable[[], None]) -> Reader:
    compressed = plan.config.compressed
    kind = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
    camera = CameraReader(plan.name, plan.field.shape, read_compressed if compressed else read_image, plan.config.resize, clock)

    def take(cdr: Any, arrival_ns: int) -> None:
        camera.take(cdr, arrival_ns)
        picture_came()

    topic = connection.subscribe(kind, plan.topic, take, best_effort(1), raw=True).topic_name
    return Reader(plan, camera, topic, kind)
