"""The pose of one frame in another, from /tf and /tf_static."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError
from real.ros.sensors import stamp_of
from real.ros.stamps import StampClock

_MOST_FRAMES = 4096


@dataclass(frozen=True)
class _Transform:
    """Pose of a frame in its parent: position (3,), quaternion (4,) w first; when it was so."""

    parent: str
    position: np.ndarray
    quaternion: np.ndarray
    capture_ns: int
    stamp_ns: int
    static: bool


class Frames:
    """The tree of frames, newest wins.

    Args:
        clock: Of the stamps.

    Attributes:
        malformed: Transforms that were none: not finite, a quaternion of no length, a frame in itself.
    """

    def __init__(self, clock: StampClock) -> None:
        self._clock, self._frames = clock, dict[str, _Transform]()
        self.malformed = 0
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Every frame heard of."""
        with self._lock:
            return sorted({*self._frames, *(frame.parent for frame in self._frames.values())})

    def take(self, message: Any, arrival_ns: int, static: bool = False) -> None:
        """Take a TFMessage in."""
        for one in message.transforms:
            t, q, stamp = one.transform.translation, one.transform.rotation, stamp_of(one.header)
            position, quaternion = np.array([t.x, t.y, t.z]), np.array([q.w, q.x, q.y, q.z])
            child, parent = one.child_frame_id.lstrip("/"), one.header.frame_id.lstrip("/")
            length = float(np.linalg.norm(quaternion))
            if (
                not (np.isfinite(position).all() and abs(length - 1) < 0.1)
                or child == parent
                or (child not in self._frames and len(self._frames) >= _MOST_FRAMES)
            ):
                self.malformed += 1
                continue
            capture = arrival_ns if static else self._clock.seen(stamp, arrival_ns)
            with self._lock:
                self._frames[child] = _Transform(parent, position, quaternion / length, capture, stamp, static)

    def pose(self, parent: str, child: str) -> tuple[np.ndarray, int, int]:
        """Return the pose (7,) of ``child`` in ``parent``: position, m, and quaternion (w, x, y, z); oldest capture time and stamp on the way, ns.

        A way of static frames alone has no age: its capture time is 0. Raises InputError if there is no way.
        """
        with self._lock:
            frames = dict(self._frames)
        up_child, up_parent = _way_up(child, frames), _way_up(parent, frames)
        common = next((frame for frame in up_child if frame in up_parent), None)
        if common is None:
            raise InputError(f"no transform from {child!r} to {parent!r}")
        way = [frames[f] for f in up_child[: up_child.index(common)]]
        down = [frames[f] for f in up_parent[: up_parent.index(common)]]
        position, quaternion = _compose(way)
        base_position, base_quaternion = _compose(down)
        inverse = base_quaternion * np.array([1.0, -1.0, -1.0, -1.0])
        moving = [frame for frame in (*way, *down) if not frame.static]
        pose = np.concatenate([_rotate(inverse, position - base_position), _multiply(inverse, quaternion)])
        return pose, min((f.capture_ns for f in moving), default=0), min((f.stamp_ns for f in moving), default=0)


class TransformReader:
    """The pose of one frame in another as a field (7,); see :class:`Frames`."""

    def __init__(self, frames: Frames, parent: str, child: str) -> None:
        self._frames, self._parent, self._child = frames, parent.lstrip("/"), child.lstrip("/")

    def read(self) -> tuple[np.ndarray, int, int]:
        """Return the pose (7,), when it was so and its stamp, ns. Raises InputError before there is one."""
        return self._frames.pose(self._parent, self._child)


def _way_up(frame: str, frames: dict[str, _Transform]) -> list[str]:
    """Return ``frame``, its parent, and so on to a root, or to where a loop closes."""
    way = [frame]
    while way[-1] in frames and (parent := frames[way[-1]].parent) not in way:
        way.append(parent)
    return way


def _compose(way: list[_Transform]) -> tuple[np.ndarray, np.ndarray]:
    """Return position (3,) and quaternion (4,) of the first frame of ``way`` in the parent of its last."""
    position, quaternion = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
    for frame in way:
        position = frame.position + _rotate(frame.quaternion, position)
        quaternion = _multiply(frame.quaternion, quaternion)
    return position, quaternion


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product of quaternions (4,), w first."""
    v = a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.array([a[0] * b[0] - a[1:] @ b[1:], *v])


def _rotate(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return a point (3,) turned by a quaternion (4,)."""
    t = 2 * np.cross(q[1:], p)
    return p + q[0] * t + np.cross(q[1:], t)
