"""Cartesian control of joints: a hand is drawn to a pose by damped least squares, the redundancy to a posture.

The singular value decomposition of the Jacobian gives three things at once: a damping that grows only where the smallest
singular value vanishes, joint velocities that stay bounded there, and the null space, along which a posture is kept and the
ends of the joints' ranges are avoided without moving the hand. One arm at a time. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from policies.kinematics import Kinematics
from policies.spec import InputError


@dataclass(frozen=True)
class IkOptions:
    """How the hand is drawn to its target.

    Attributes:
        rows: Which of (x, y, z, rotation about x, y, z) are controlled.
        gain: Share of the error that one step corrects.
        linear, angular: Largest speed of the hand, m/s and rad/s.
        near: Smallest singular value (per unit of ``rows``) below which damping begins.
        damping: Largest damping, at a singularity.
        posture_gain: Share of the distance to the posture that one step closes, along the null space.
        margin: Share of a joint's range, at either end, in which the null space draws it inward.
    """

    rows: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    gain: float = 0.5
    linear: float = 0.5
    angular: float = 2.0
    near: float = 0.06
    damping: float = 0.06
    posture_gain: float = 0.05
    margin: float = 0.1


class DifferentialIk:
    """Joint position commands that draw a site or body to a pose.

    Args:
        kinematics: Of the arm; moved by every call.
        frame: Name of the site or body.
        velocity: Largest joint velocities (n,), rad/s.
        rate_hz: Rate of :meth:`step`.
        posture: Joint positions (n,) to which the null space tends; None: the middle of the ranges, or the model's home.
        options: See :class:`IkOptions`.

    Raises:
        InputError: if the frame is unknown or a number makes no sense.
    """

    def __init__(
        self, kinematics: Kinematics, frame: str, velocity: ArrayLike, rate_hz: float,
        posture: np.ndarray | None = None, options: IkOptions = IkOptions(),
    ) -> None:  # fmt: skip
        self.velocity = np.array(np.broadcast_to(np.asarray(velocity, np.float64), (kinematics.n,)))
        if not (self.velocity > 0).all() or not rate_hz > 0:
            raise InputError(f"differential IK: expected velocities and a rate above 0, found {self.velocity.min():g} rad/s and {rate_hz:g} Hz")
        if not options.rows or not set(options.rows) <= set(range(6)):
            raise InputError(f"differential IK: rows: expected some of 0 to 5, found {list(options.rows)}")
        kinematics.pose(frame)
        self.kinematics, self.frame, self.options, self.rate_hz = kinematics, frame, options, float(rate_hz)
        self._rows = np.array(options.rows, np.intp)
        bounded = np.isfinite(kinematics.low) & np.isfinite(kinematics.high)
        middle = 0.5 * (np.where(bounded, kinematics.low, 0.0) + np.where(bounded, kinematics.high, 0.0))
        self.posture = np.where(bounded, middle, kinematics.home) if posture is None else np.array(posture, np.float64)
        if self.posture.shape != (kinematics.n,):
            raise InputError(f"differential IK: posture: expected {kinematics.n} joints, found shape {self.posture.shape}")
        self._margin = options.margin * np.where(bounded, kinematics.high - kinematics.low, 0.0)

    def error(self, q: np.ndarray, position: np.ndarray, rotation: np.ndarray | None = None) -> np.ndarray:
        """Return what is left to the target (6,) at joints ``q`` (n,): m, and a rotation vector in the world, rad.

        Args:
            q: Joint positions (n,), rad.
            position: Target (3,), m.
            rotation: Target (3, 3); None: as it is.
        """
        self.kinematics.forward(q)
        at, turned = self.kinematics.pose(self.frame)
        turn = np.zeros(3) if rotation is None else rotation_vector(np.asarray(rotation, np.float64) @ turned.T)
        return np.concatenate([np.asarray(position, np.float64) - at, turn])

    def step(self, q: np.ndarray, position: np.ndarray, rotation: np.ndarray | None = None, posture: np.ndarray | None = None) -> np.ndarray:
        """Return the joint positions (n,) commanded next.

        Args:
            q: The present ones (n,), best those commanded last.
            position: Target of the hand (3,), m.
            rotation: Target (3, 3); None: as it is.
            posture: Joint positions (n,) for the null space, if not the usual.

        Raises:
            ValueError: if a number is not finite or a shape does not fit.
        """
        wanted = self.options.gain * self.rate_hz * self.error(q, position, rotation)
        if not np.isfinite(wanted).all():
            raise ValueError("differential IK: expected finite joint positions and target")
        for part, most in ((slice(0, 3), self.options.linear), (slice(3, 6), self.options.angular)):
            wanted[part] *= min(1.0, most / max(float(np.linalg.norm(wanted[part])), 1e-12))
        return q + self.velocities(q, wanted, posture) / self.rate_hz

    def velocities(self, q: np.ndarray, twist: np.ndarray, posture: np.ndarray | None = None) -> np.ndarray:
        """Return joint velocities (n,) that move the hand by ``twist`` (6,), m/s and rad/s in the world, where it can.

        A joint that would leave its range in this step goes to its end and the others make up for it. All are slowed
        together where one would be too fast, so that the hand keeps its direction.
        """
        arm = self.kinematics
        arm.forward(q)
        jacobian = arm.jacobian(self.frame)[self._rows]
        low, high = ((end - q) * self.rate_hz for end in (arm.low, arm.high))  # a joint outside its range may only come inward
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        own = self._null_motion(q, self.posture if posture is None else np.asarray(posture, np.float64))
        free, fixed = np.ones(arm.n, bool), np.zeros(arm.n)
        out = fixed
        for _ in range(arm.n):
            left = twist[self._rows] - jacobian[:, ~free] @ fixed[~free]
            out = fixed.copy()
            out[free] = self._damped(jacobian[:, free], left, own[free])
            out *= min(1.0, float((self.velocity / np.maximum(np.abs(out), 1e-12)).min()))
            over = free & ((out < low) | (out > high))
            if not over.any():
                break
            fixed[over] = np.clip(out, np.maximum(low, -self.velocity), np.minimum(high, self.velocity))[over]
            free &= ~over
            if not free.any():
                out = fixed
                break
        return np.clip(out, low, high)

    def manipulability(self, q: np.ndarray) -> float:
        """Return the product of the singular values of the controlled rows at joints ``q`` (n,) (Yoshikawa 1985)."""
        self.kinematics.forward(q)
        return float(np.prod(np.linalg.svd(self.kinematics.jacobian(self.frame)[self._rows], compute_uv=False)))

    def _null_motion(self, q: np.ndarray, posture: np.ndarray) -> np.ndarray:
        """Return joint velocities (n,) towards the posture, and inward near the ends of the ranges."""
        arm = self.kinematics
        inward = np.maximum(arm.low + self._margin - q, 0.0) - np.maximum(q - (arm.high - self._margin), 0.0)
        wanted = self.options.posture_gain * self.rate_hz * (posture - q) + 0.5 * self.rate_hz * np.where(np.isfinite(inward), inward, 0.0)
        return np.clip(wanted, -self.velocity, self.velocity)

    def _damped(self, jacobian: np.ndarray, twist: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return damped least squares plus the part of ``own`` in the null space (Nakamura and Hanafusa 1986; Chiaverini 1997)."""
        u, sigma, v = np.linalg.svd(jacobian, full_matrices=False)
        missing = len(jacobian) > jacobian.shape[1]  # fewer joints than rows: singular by shape
        smallest = 0.0 if missing else float(sigma[-1])
        damping2 = self.options.damping**2 * max(0.0, 1.0 - (smallest / self.options.near) ** 2)
        weight = sigma / (sigma**2 + max(damping2, 1e-12))
        # What of ``own`` the damped solution would undo is left out: all that moves the hand, but near a singularity, where
        # the direction that hardly does so and the null space change places, the posture may act on both.
        return own + v.T @ (weight * (u.T @ twist - sigma * (v @ own)))


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle (3,), rad, of a rotation matrix (3, 3), accurate from 0 to pi (by way of the quaternion)."""
    r = rotation
    # The quaternion's outer product, from which its largest row is taken: no division by a small number.
    outer = np.array([
        [1 + r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], 1 + r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
        [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], 1 - r[0, 0] + r[1, 1] - r[2, 2], r[1, 2] + r[2, 1]],
        [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], 1 - r[0, 0] - r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    quaternion = outer[int(np.argmax(np.diag(outer)))]
    quaternion = quaternion / np.linalg.norm(quaternion)
    quaternion = -quaternion if quaternion[0] < 0 else quaternion
    length = float(np.linalg.norm(quaternion[1:]))
    angle = 2 * np.arctan2(length, quaternion[0])
    return quaternion[1:] * (angle / length if length > 1e-12 else 2.0)


def solve(ik: DifferentialIk, q: np.ndarray, position: Sequence[float] | np.ndarray, rotation: np.ndarray | None = None, steps: int = 300) -> np.ndarray:
    """Return the joints (n,) at which repeated steps from ``q`` (n,) towards a pose (position (3,), rotation (3, 3)) end."""
    for _ in range(steps):
        nxt = ik.step(q, np.asarray(position), rotation)
        if np.abs(nxt - q).max() < 1e-10:
            break
        q = nxt
    return q
