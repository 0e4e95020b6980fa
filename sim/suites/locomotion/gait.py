"""A trot for the quadruped: diagonal feet step together along paths that the command asks for, by inverse kinematics of the legs.

Feet on the ground move against the commanded velocity, feet in the air swing to where the next stance begins; the placement
rule is Raibert's (1986, "Legged Robots That Balance"). Everything is a function of the time and of what the trunk feels now.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HIPS = np.array([[0.18, 0.05], [0.18, -0.05], [-0.18, 0.05], [-0.18, -0.05]])  # m, in the frame of the trunk
SIDES = np.array([1.0, -1.0, 1.0, -1.0])  # left, right
LATERAL, LINK = 0.08, 0.2  # m: from the hip's axis to the plane of the leg; thigh and calf
FEET = HIPS + np.stack([np.zeros(4), LATERAL * SIDES], axis=1)  # m, below which the feet stand
PHASES = np.array([0.0, 0.5, 0.5, 0.0])  # of a stride: front left with rear right
WEIGHT = 12.0 * 9.81  # N
STIFFNESS = 40.0  # N m/rad, of the servos


def foot_positions(joints: np.ndarray) -> np.ndarray:
    """Return the feet (N, 4, 3), m, from their hips, for joints (N, 4, 3), rad: hip, thigh, calf."""
    hip, thigh, calf = joints[..., 0], joints[..., 1], joints[..., 2]
    x = -LINK * (np.sin(thigh) + np.sin(thigh + calf))
    down = LINK * (np.cos(thigh) + np.cos(thigh + calf))
    side = LATERAL * SIDES
    return np.stack([x, side * np.cos(hip) + down * np.sin(hip), side * np.sin(hip) - down * np.cos(hip)], axis=-1)


def leg_joints(feet: np.ndarray) -> np.ndarray:
    """Return joints (N, 4, 3), rad, knees backwards, that put the feet at (N, 4, 3), m, from their hips; the nearest out of reach."""
    x, y, z = feet[..., 0], feet[..., 1], feet[..., 2]
    side = LATERAL * SIDES
    down = np.sqrt(np.maximum(y * y + z * z - LATERAL**2, 1e-6))
    hip = np.arctan2(z, y) - np.arctan2(-down, side)
    hip = (hip + np.pi) % (2 * np.pi) - np.pi
    calf = -np.arccos(np.clip((x * x + down * down) / (2 * LINK**2) - 1.0, -1.0, 1.0))
    thigh = np.arctan2(-x, down) - calf / 2  # links of equal length: the foot lies on the bisector
    return np.stack([hip, thigh, calf], axis=-1)


def supporting_torques(feet: np.ndarray, joints: np.ndarray, force: np.ndarray) -> np.ndarray:
    """Return the torques (N, 4, 3), N m, with which legs bear ``force`` (N, 4), N, upwards at feet (N, 4, 3): minus the transposed Jacobian."""
    knee = -LINK * np.sin(joints[..., 1] + joints[..., 2])
    return np.stack([-feet[..., 1], feet[..., 0], knee], axis=-1) * force[..., None]


@dataclass(frozen=True)
class Trot:
    """Numbers of the gait, found by a small search over them.

    Attributes:
        period: Of a stride, s.
        duty: Share of it that a foot stands.
        lift: Of a foot in the air, m.
        height: Of the hips above the feet, m.
        gain: Of the speed of the feet over the commanded one, forward, left, turning: servos lag and feet slip.
        bias: Of the forward speed of the feet, m/s: a leg that folds backwards drags.
        chase: Share of the velocity's error that is added to the speed of the feet.
        place: s, how far feet are set out for each m/s of the velocity's error.
        level: How much legs extend on the side to which the trunk leans.
        damp: s, the same for its rate.
        follow: Share of the height of the ground below a foot by which the foot is raised.
    """

    period: float = 0.36
    duty: float = 0.55
    lift: float = 0.08
    height: float = 0.27
    gain: tuple[float, float, float] = (1.4, 2.0, 1.1)
    bias: float = 0.45
    chase: float = 0.3
    place: float = 0.05
    level: float = 0.7
    damp: float = 0.03
    follow: float = 1.0

    def targets(self, time: np.ndarray, command: np.ndarray, gravity: np.ndarray, linear: np.ndarray, angular: np.ndarray, ground: np.ndarray) -> np.ndarray:
        """Return joint targets (N, 12), rad.

        Args:
            time: (N,) s since the gait began.
            command: (N, 3) forward and left velocity, m/s, and yaw rate, rad/s.
            gravity: (N, 3) its direction in the frame of the trunk.
            linear: (N, 3) velocity of the trunk in its frame, m/s.
            angular: (N, 3) angular velocity of the trunk in its frame, rad/s.
            ground: (N, 4) height of the ground below each foot above that below all, m.
        """
        phase = (time[:, None] / self.period + PHASES) % 1.0
        standing = phase < self.duty
        swing = np.clip((phase - self.duty) / (1.0 - self.duty), 0.0, 1.0)
        error = np.concatenate([linear[:, :2], angular[:, 2:]], axis=1) - command
        speed = command * self.gain + (self.bias, 0.0, 0.0) - self.chase * error
        velocity = speed[:, None, :2] + speed[:, 2, None, None] * np.stack([-FEET[:, 1], FEET[:, 0]], axis=1)
        # From 1/2 to -1/2 of a stance's way while standing, back again in the air.
        along = np.where(standing, 0.5 - phase / self.duty, -0.5 * np.cos(np.pi * swing))
        feet = np.zeros((len(time), 4, 3))
        feet[..., :2] = FEET - HIPS + velocity * (along * self.duty * self.period)[..., None]
        feet[..., :2] += self.place * error[:, None, :2] * (~standing)[..., None]
        lean = gravity[:, None, 0] * FEET[:, 0] + gravity[:, None, 1] * FEET[:, 1]
        leaning = angular[:, None, 1] * FEET[:, 0] - angular[:, None, 0] * FEET[:, 1]
        feet[..., 2] = self.lift * np.sin(np.pi * swing) - self.height - self.level * lean - self.damp * leaning + self.follow * ground
        joints = leg_joints(feet)
        force = np.where(standing, WEIGHT / (4 * self.duty), 0.0)
        return (joints + supporting_torques(feet, joints, force) / STIFFNESS).reshape(-1, 12)
