"""Vectors, quaternions and transforms of the interface, and the numpy forms of states.

Quaternions are (x, y, z, w) here; MuJoCo's (w, x, y, z) never leaves the modules that read and write the worlds.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

_VEC3 = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
_QUAT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("w", "<f4")])
_TRANSFORM = np.dtype([("p", _VEC3), ("r", _QUAT)])
_VELOCITY = np.dtype([("linear", _VEC3), ("angular", _VEC3)])


def _numbers(dtype: np.dtype, buffer: Any) -> np.ndarray:
    """Return the float32 numbers of one value of ``dtype`` in anything with a buffer."""
    raw = np.frombuffer(buffer, np.uint8) if not isinstance(buffer, np.ndarray) else np.ascontiguousarray(buffer).reshape(-1).view(np.uint8)
    return raw[: dtype.itemsize].view("<f4")


class Vec3:
    """Three numbers."""

    dtype: ClassVar[np.dtype] = _VEC3

    def __init__(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> None:
        self.x, self.y, self.z = float(x), float(y), float(z)

    @staticmethod
    def from_buffer(buffer: Any) -> Vec3:
        """Return the vector in the first 12 bytes of ``buffer``."""
        return Vec3(*_numbers(_VEC3, buffer))

    def array(self) -> np.ndarray:
        """Return (3,) float64."""
        return np.array([self.x, self.y, self.z])

    def copy(self) -> Vec3:
        """Return a copy."""
        return Vec3(self.x, self.y, self.z)

    def dot(self, other: Vec3) -> float:
        """Return the scalar product."""
        return float(self.array() @ other.array())

    def cross(self, other: Vec3) -> Vec3:
        """Return the vector product."""
        return Vec3(*np.cross(self.array(), other.array()))

    def length(self) -> float:
        """Return the norm."""
        return math.sqrt(self.dot(self))

    def length_sq(self) -> float:
        """Return the squared norm."""
        return self.dot(self)

    def normalize(self) -> Vec3:
        """Return the vector of length 1 along this one; a zero vector stays zero."""
        return self / (self.length() or 1.0)

    def __add__(self, other: Vec3) -> Vec3:
        return Vec3(*(self.array() + other.array()))

    def __sub__(self, other: Vec3) -> Vec3:
        return Vec3(*(self.array() - other.array()))

    def __mul__(self, factor: float) -> Vec3:
        return Vec3(*(self.array() * factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Vec3:
        return Vec3(*(self.array() / divisor))

    def __neg__(self) -> Vec3:
        return Vec3(-self.x, -self.y, -self.z)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vec3) and bool((self.array() == other.array()).all())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vec3({self.x:f}, {self.y:f}, {self.z:f})"


class Quat:
    """Rotation as a unit quaternion (x, y, z, w)."""

    dtype: ClassVar[np.dtype] = _QUAT

    def __init__(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, w: float = 1.0) -> None:
        self.x, self.y, self.z, self.w = float(x), float(y), float(z), float(w)

    @staticmethod
    def from_buffer(buffer: Any) -> Quat:
        """Return the quaternion in the first 16 bytes of ``buffer``."""
        return Quat(*_numbers(_QUAT, buffer))

    @staticmethod
    def from_axis_angle(axis: Vec3, angle: float) -> Quat:
        """Return the rotation by ``angle`` (rad) about ``axis``."""
        unit = axis.normalize() * math.sin(angle / 2)
        return Quat(unit.x, unit.y, unit.z, math.cos(angle / 2))

    @staticmethod
    def from_euler_zyx(x: float, y: float, z: float) -> Quat:
        """Return the rotation about z, then the new y, then the new x, by these angles (rad)."""
        about = Quat.from_axis_angle
        return about(Vec3(0, 0, 1), z) * about(Vec3(0, 1, 0), y) * about(Vec3(1, 0, 0), x)

    def to_euler_zyx(self) -> tuple[float, float, float]:
        """Return the angles (rad) about x, y and z that :meth:`from_euler_zyx` takes."""
        x, y, z, w = self.normalize().array()
        sine = min(1.0, max(-1.0, 2 * (w * y - z * x)))
        about_x = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        about_z = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return about_x, math.asin(sine), about_z

    def array(self) -> np.ndarray:
        """Return (4,) float64 in the order x, y, z, w."""
        return np.array([self.x, self.y, self.z, self.w])

    def inverse(self) -> Quat:
        """Return the opposite rotation."""
        unit = self.normalize()
        return Quat(-unit.x, -unit.y, -unit.z, unit.w)

    def normalize(self) -> Quat:
        """Return the same rotation with norm 1."""
        numbers = self.array()
        return Quat(*(numbers / (np.linalg.norm(numbers) or 1.0)))

    def rotate(self, vector: Vec3) -> Vec3:
        """Return ``vector`` rotated."""
        turned = self * Quat(vector.x, vector.y, vector.z, 0.0) * self.inverse()
        return Vec3(turned.x, turned.y, turned.z)

    def __mul__(self, other: Quat) -> Quat:
        a, b = self.array(), other.array()
        x, y, z = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
        return Quat(x, y, z, a[3] * b[3] - a[:3] @ b[:3])

    def __repr__(self) -> str:
        return f"Quat({self.x:f}, {self.y:f}, {self.z:f}, {self.w:f})"


class Transform:
    """Position ``p`` and rotation ``r``."""

    dtype: ClassVar[np.dtype] = _TRANSFORM

    def __init__(self, p: Vec3 | None = None, r: Quat | None = None) -> None:
        self.p, self.r = p or Vec3(), r or Quat()

    @staticmethod
    def from_buffer(buffer: Any) -> Transform:
        """Return the transform in the first 28 bytes of ``buffer``."""
        numbers = _numbers(_TRANSFORM, buffer)
        return Transform(Vec3(*numbers[:3]), Quat(*numbers[3:]))

    def inverse(self) -> Transform:
        """Return the transform that undoes this one."""
        back = self.r.inverse()
        return Transform(-back.rotate(self.p), back)

    def transform_point(self, point: Vec3) -> Vec3:
        """Return ``point`` rotated, then moved."""
        return self.r.rotate(point) + self.p

    def transform_vector(self, vector: Vec3) -> Vec3:
        """Return ``vector`` rotated."""
        return self.r.rotate(vector)

    def transform_points(self, points: np.ndarray) -> np.ndarray:
        """Return ``points`` (n,) of dtype ``Vec3.dtype`` rotated, then moved."""
        return np.array([tuple(self.transform_point(Vec3(*point)).array()) for point in points], _VEC3)

    def transform_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Return ``vectors`` (n,) of dtype ``Vec3.dtype`` rotated."""
        return np.array([tuple(self.transform_vector(Vec3(*vector)).array()) for vector in vectors], _VEC3)

    def __mul__(self, other: Transform) -> Transform:
        return Transform(self.transform_point(other.p), self.r * other.r)

    def __repr__(self) -> str:
        return f"Transform(p={self.p!r}, r={self.r!r})"


class Mat33:
    """A 3x3 matrix by its rows ``x``, ``y`` and ``z``."""

    def __init__(self) -> None:
        self.x, self.y, self.z = Vec3(1, 0, 0), Vec3(0, 1, 0), Vec3(0, 0, 1)

    @staticmethod
    def of(matrix: np.ndarray) -> Mat33:
        """Return the matrix (3, 3)."""
        out = Mat33()
        out.x, out.y, out.z = (Vec3(*row) for row in matrix)
        return out

    def copy(self) -> Mat33:
        """Return a copy that shares nothing."""
        out = Mat33.__new__(Mat33)
        out.x, out.y, out.z = self.x.copy(), self.y.copy(), self.z.copy()
        return out

    def array(self) -> np.ndarray:
        """Return (3, 3) float64."""
        return np.stack([self.x.array(), self.y.array(), self.z.array()])


class DofState:
    """Position and velocity of degrees of freedom, as a numpy record."""

    dtype: ClassVar[np.dtype] = np.dtype([("pos", "<f4"), ("vel", "<f4")])


class Velocity:
    """Linear and angular velocity, as a numpy record."""

    dtype: ClassVar[np.dtype] = _VELOCITY


class RigidBodyState:
    """Pose and velocity of bodies, as a numpy record."""

    dtype: ClassVar[np.dtype] = np.dtype([("pose", _TRANSFORM), ("vel", _VELOCITY)])


#: Properties of degrees of freedom, one record each.
DOF_PROPERTIES = np.dtype(
    [("hasLimits", "?"), ("lower", "<f4"), ("upper", "<f4"), ("driveMode", "<i4")]
    + [(name, "<f4") for name in ("velocity", "effort", "stiffness", "damping", "friction", "armature")],
    align=True,
)
