"""Where the expert sends an arm: differential inverse kinematics of the tool's tip, and the geometry of pushing, inserting and picking."""

from __future__ import annotations

from typing import NamedTuple

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

    def target(self, q: np.ndarray, point: np.ndarray, speed: float, approach: float, turn: float | None = None) -> np.ndarray:
        """Return joint positions (n,) to command at joint positions ``q`` (n,), rad.

        Args:
            q: Measured.
            point: (3,) where the tip shall go, m.
            speed: Largest speed of the tip, m/s.
            approach: Speed per distance to the point, 1/s: the way in is exponential.
            turn: How far the tool shall turn about its own axis, rad; None: that is free.
        """
        self._kinematics.forward(q)
        position, rotation = self._kinematics.pose("hand")
        jacobian = self._kinematics.jacobian("hand")
        way = point - position
        distance = float(np.linalg.norm(way))
        way *= LOOKAHEAD_S * min(approach, speed / max(distance, 1e-9))
        axis = rotation[:, 2]
        tilt = np.cross(axis, [0.0, 0.0, -1.0]) if axis[2] < 0.9 else np.array([1.0, 0.0, 0.0])  # upside down has no nearest way
        rows = np.concatenate([jacobian[:3], UPRIGHT * (rotation.T @ jacobian[3:])[: 2 if turn is None else 3]])
        wanted = np.concatenate([way, UPRIGHT * LOOKAHEAD_S * 4 * (rotation.T @ tilt)[:2]])
        if turn is not None:
            wanted = np.append(wanted, UPRIGHT * LOOKAHEAD_S * 4 * turn)
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


def insert_waypoint(tip: np.ndarray, hole: np.ndarray, top: float, bottom: float, clearance: float) -> tuple[np.ndarray, float]:
    """Return where the tip of a peg goes next (3,), m, and how fast, m/s, to be put into a hole.

    Over the hole, down once it stands there to less than half the clearance, and up again from beside it.

    Args:
        tip: (3,) of the peg.
        hole: (2,) its axis.
        top: Height of the hole's edge, m.
        bottom: Height to which the tip shall go, m.
        clearance: Between peg and wall when the peg stands in the middle, m.
    """
    aside = float(np.linalg.norm(tip[:2] - hole))
    inside = tip[2] < top and aside < 2 * clearance
    lined_up = aside < (clearance / 2 if tip[2] > top + 0.015 else clearance)
    if inside or (lined_up and tip[2] < top + 0.06):
        return np.array([*hole, bottom]), 0.12
    if tip[2] < top + 0.01:
        return np.array([*tip[:2], top + 0.05]), 0.3
    return np.array([*hole, top + 0.03]), 0.35


class PickPlan(NamedTuple):
    """What a gripper does next.

    Attributes:
        point: (3,) where the middle between the fingers goes, m.
        speed: Largest, m/s.
        turn: About the tool's axis, rad.
        opening: Of the gripper, 0 to 1.
    """

    point: np.ndarray
    speed: float
    turn: float
    opening: float


def turn_to_faces(frame: np.ndarray, quaternion: np.ndarray) -> float:
    """Return how far a gripper that points down must turn about its own axis, rad, for its fingers to meet faces of a cube.

    Args:
        frame: (3, 3) of the gripper; the fingers close along y.
        quaternion: (4,) of a cube that lies on one of its faces, (w, x, y, z).
    """
    w, x, y, z = quaternion
    cube = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    off = cube - np.arctan2(frame[1, 1], frame[0, 1])
    return -float((off + np.pi / 4) % (np.pi / 2) - np.pi / 4)  # seen along the tool, the world turns the other way round


def pick_waypoint(hand: np.ndarray, frame: np.ndarray, cube: np.ndarray, goal: np.ndarray, opening: float) -> PickPlan:
    """Return what a gripper does next to put a cube on its place: over it, down, close, up, across, down, open, up.

    Args:
        hand: (3,) middle between the fingers, m.
        frame: (3, 3) of the gripper.
        cube: (7,) its position, m, and quaternion.
        goal: (3,) where its middle shall be, m.
        opening: Of the gripper: at 0.5 it holds the cube.
    """
    above, high = 0.09, float(goal[2]) + 0.09
    turn = turn_to_faces(frame, cube[3:])
    over = float(np.linalg.norm(hand[:2] - cube[:2]))
    off = cube[:3] - goal
    within = over < 0.012 and abs(hand[2] - cube[2]) < 0.012  # the cube is between the fingers
    placed = float(np.hypot(off[0], off[1])) < 0.02 and abs(off[2]) < 0.005
    if placed:
        return PickPlan(np.array([*hand[:2], goal[2] + (0.1 if opening > 0.7 else 0.0)]), 0.3, 0.0, 1.0)
    if within and opening < 0.53:
        return PickPlan(_carry(hand, goal, high), 0.3, 0.0, 0.0)
    if within and over < 0.008:
        return PickPlan(np.array(cube[:3]), 0.1, turn, 0.0)
    if opening < 0.9 and hand[2] < cube[2] + 0.06:  # let go of what is not held well, before moving away from it
        return PickPlan(hand.copy(), 0.1, 0.0, 1.0)
    if over < (0.006 if hand[2] > cube[2] + 0.05 else 0.012) and abs(turn) < 0.1:
        return PickPlan(np.array(cube[:3]), 0.2, turn, 1.0)
    if hand[2] < cube[2] + 0.06:  # beside it
        return PickPlan(np.array([*hand[:2], cube[2] + above]), 0.3, turn, 1.0)
    return PickPlan(np.array([*cube[:2], cube[2] + above]), 0.35, turn, 1.0)


def _carry(hand: np.ndarray, goal: np.ndarray, high: float) -> np.ndarray:
    """Return where a gripper that holds a cube goes: up, across, and down onto the place (3,), m."""
    aside = float(np.linalg.norm(hand[:2] - goal[:2]))
    if aside < (0.006 if hand[2] > goal[2] + 0.05 else 0.015):
        return np.array([*goal[:2], goal[2] - 0.004])  # a little lower, to set it down
    if hand[2] < high - 0.03:
        return np.array([*hand[:2], high])
    return np.array([*goal[:2], high])
