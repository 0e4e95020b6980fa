"""Between the frame of the world and that of a floating base, for all worlds at once.

Quaternions are (w, x, y, z), as in MuJoCo; a rotation matrix R takes vectors of the base into the world. Sums run over three
elements in a fixed order, so that a world's numbers do not depend on how many worlds there are.
"""

from __future__ import annotations

import numpy as np

# Element (i, j) of R is (i == j) plus two products 2 q_a q_b with their signs; pairs a, b are flattened to 4 a + b.
_FIRST = np.array([10, 6, 7, 6, 5, 11, 7, 11, 5])
_FIRST_SIGN = np.array([-1.0, 1, 1, 1, -1, 1, 1, 1, -1])
_SECOND = np.array([15, 3, 2, 3, 15, 1, 2, 1, 10])
_SECOND_SIGN = np.array([-1.0, -1, 1, 1, -1, -1, -1, 1, -1])
_ONE = np.eye(3).ravel()


def rotations(quaternions: np.ndarray) -> np.ndarray:
    """Return the matrices (N, 3, 3) of unit quaternions (N, 4)."""
    products = (2.0 * quaternions[:, :, None] * quaternions[:, None, :]).reshape(-1, 16)
    return (_ONE + (products[:, _FIRST] * _FIRST_SIGN + products[:, _SECOND] * _SECOND_SIGN)).reshape(-1, 3, 3)


def to_base(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return vectors (N, 3) of the world in the frame of the base, given its ``rotation`` (N, 3, 3)."""
    return (rotation * vectors[:, :, None]).sum(axis=1)


def to_world(rotation: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return vectors (N, 3) of the base in the frame of the world, given its ``rotation`` (N, 3, 3)."""
    return (rotation * vectors[:, None, :]).sum(axis=2)


def gravity_in_base(rotation: np.ndarray) -> np.ndarray:
    """Return the direction of gravity (N, 3), a unit vector in the frame of the base: (0, 0, -1) when it is level."""
    return -rotation[:, 2]


def heading(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine (N,) of the yaw of the base: the direction of its x axis seen from above."""
    forward = rotation[:, :2, 0]
    length = np.maximum(np.sqrt(forward[:, 0] ** 2 + forward[:, 1] ** 2), 1e-9)
    return forward[:, 0] / length, forward[:, 1] / length


def yaw_quaternions(yaw: np.ndarray) -> np.ndarray:
    """Return quaternions (N, 4) of rotations by ``yaw`` (N,), rad, about the vertical."""
    out = np.zeros((len(yaw), 4))
    out[:, 0], out[:, 3] = np.cos(yaw / 2), np.sin(yaw / 2)
    return out
