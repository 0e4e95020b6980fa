"""Where the expert sends an arm: differential inverse kinematics of the tool's tip, and the geometry of pushing a puck."""

from __future__ import annotations

import numpy as np

from policies.kinematics import Kinematics

LOOKAHEAD_S = 0.13  # s: targets lead the measured joints by what interpolation (two steps of 50 ms) and servos take
DAMPING = 0.03  # m: of the least squares, near singular poses
UPRIGHT = 0.25  # m/rad: weight of the tool pointing down against the tip's position
POSTURE = 0.08  # 1/step: pull of the null space towards the home pose
LARGEST_STEP = 0.2  # rad, of a joint's target from its position


class TipServo:
    """Joint targets that move the tool's tip towards a point while it points down.

    Weighted damped least squares (Nakamura and Hanafusa 1986; Wampler 1986) on five rows: the tip's position, and the tilt
    of the tool; turning about its own axis is free, and so is the elbow, which the null space pulls home.

    Args:
        model: MJCF of the arm, with a site ``hand``.
        home: (n,) joint positions that the null space prefers, rad.
    """

    def __init__(self, model: str, home: np.ndarray) -> None:
        self._kinematics, self._home = Kinematics(model), np.asarray(home)

    def tip(self, q: np.ndarray) -> np.ndarray:
        """Return the tip's position (3,), m, at joint positions ``q`` (n,), rad."""
        self._kinematics.forward(q)
        return self._kinematics.pose("hand")[0]

    def target(self, q: np.ndarray, point: np.ndarray, speed: float, approach: float) -> np.ndarray:
        """Return joint positions (n,) to command at joint positions ``q`` (n,), rad.

        Args:
            q: Measured.
            point: (3,) where the tip shall go, m.
            speed: Largest speed of the tip, m/s.
            approach: Speed per distance to the point, 1/s: the way in is exponential.
        """
        self._kinematics.forward(q)
        position, rotation = self._kinematics.pose("hand")
        jacobian = self._kinematics.jacobian("hand")
        way = point - position
        distance = float(np.linalg.norm(way))
        way *= LOOKAHEAD_S * min(approach, speed / max(distance, 1e-9))
        axis = rotation[:, 2]
        tilt = np.cross(axis, [0.0, 0.0, -1.0]) if axis[2] < 0.9 else np.array([1.0, 0.0, 0.0])  # upside down has no nearest way
        rows = np.concatenate([jacobian[:3], UPRIGHT * (rotation.T @ jacobian[3:])[:2]])
        wanted = np.concatenate([way, UPRIGHT * LOOKAHEAD_S * 4 * (rotation.T @ tilt)[:2]])
        inverse = rows.T @ np.linalg.inv(rows @ rows.T + DAMPING**2 * np.eye(len(rows)))
        step = inverse @ wanted
        step += POSTURE * ((self._home - q) - inverse @ (rows @ (self._home - q)))
        return q + step * min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), 1e-9))


def push_waypoint(hand: np.ndarray, puck: np.ndarray, goal: np.ndarray, clearance: float) -> tuple[np.ndarray, float]:
    """Return where the tip goes next (3,), m, and how fast, m/s, to push a puck straight to its goal.

    Above the table to behind the puck, down, and along the line to the goal; when the puck has slipped aside, again.

    Args:
        hand: (3,) tip.
        puck: (2,) its centre.
        goal: (2,) where its centre shall be.
        clearance: Distance between tip and puck's centre when they touch, m.
    """
    way = goal - puck
    distance = float(np.linalg.norm(way))
    ahead = way / max(distance, 1e-9)
    offset = hand[:2] - puck
    along = float(offset @ ahead)
    aside = offset - along * ahead
    behind = puck - (clearance + 0.035) * ahead
    low, high = 0.03, 0.13
    if hand[2] < 0.06 and along < -0.5 * clearance and np.linalg.norm(aside) < 0.03:
        pushing = puck - (clearance - 0.005) * ahead - 1.5 * aside  # steers: an offset to one side is met from that side
        return np.array([*(pushing + min(distance, 0.06) * ahead), low]), 0.15
    if np.linalg.norm(hand[:2] - behind) < 0.02:
        return np.array([*behind, low]), 0.3
    if hand[2] < high - 0.04:
        return np.array([*hand[:2], high]), 0.4
    return np.array([*behind, high]), 0.4
