"""Rigid poses as 4x4 matrices, and as six numbers that a solver may change: a turn (axis times angle) and a shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.spec import InputError


def pose(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) of a rotation matrix (3, 3) and a position (3,), m."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, np.asarray(position).ravel()
    return out


def inverse(one: np.ndarray) -> np.ndarray:
    """Return the inverse (4, 4) of a pose (4, 4)."""
    turned = one[:3, :3].T
    return pose(turned, -turned @ one[:3, 3])


def turn(vector: np.ndarray) -> np.ndarray:
    """Return the rotation matrix (3, 3) of axis times angle (3,), rad."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        x, y, z = vector
        return np.eye(3) + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def changed(one: np.ndarray, six: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) ``one`` turned in its own frame by ``six[:3]``, rad, and shifted by ``six[3:]``, m; ``six`` is (6,)."""
    return one @ pose(turn(six[:3]), six[3:])


def between(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    """Return distance, m, and angle, rad, between two poses (4, 4)."""
    turned = one[:3, :3].T @ two[:3, :3]
    skew = np.array([turned[2, 1] - turned[1, 2], turned[0, 2] - turned[2, 0], turned[1, 0] - turned[0, 1]])
    return float(np.linalg.norm(one[:3, 3] - two[:3, 3])), float(np.arctan2(np.linalg.norm(skew), np.trace(turned) - 1))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return the quaternion (4,), w first and not negative, of a rotation matrix (3, 3)."""
    m = rotation
    four = np.array([1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2], 1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2]])
    k = int(four.argmax())
    rows = np.array([
        [four[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], four[1], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
        [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], four[2], m[1, 2] + m[2, 1]],
        [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], four[3]],
    ])  # fmt: skip
    out = rows[k] / np.linalg.norm(rows[k])
    return -out if out[0] < 0 else out


def to_dict(one: np.ndarray) -> dict[str, list[float]]:
    """Return ``position`` (3,), m, and ``quaternion`` (4,), w first, of a pose (4, 4), JSON-ready."""
    return {"position": [float(v) for v in one[:3, 3]], "quaternion": [float(v) for v in quaternion(one[:3, :3])]}


def from_dict(value: Mapping[str, Any], where: str = "pose") -> np.ndarray:
    """Return the pose (4, 4) of ``position`` (3,), m, and ``quaternion`` (4,), w first. Raises InputError if it is none."""
    try:
        position, four = np.array(value["position"], np.float64), np.array(value["quaternion"], np.float64)
        if position.shape != (3,) or four.shape != (4,) or not np.isfinite(position).all() or not 0.99 < np.linalg.norm(four) < 1.01:
            raise ValueError("expected position of 3 numbers in m and a quaternion of length 1, w first")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    w, x, y, z = four / np.linalg.norm(four)
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return pose(rotation, position)
