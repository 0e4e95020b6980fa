"""Where the experts of ALOHA's tasks send two arms: inverse kinematics of the grip points, and which pose comes next.

What comes next follows from the present state alone, so that whoever is disturbed goes on from where things are.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sim import render

LEFT, RIGHT = 0, 1
_SIDES = ("left", "right")
GRIP = np.array([0.135, 0.0, 0.0])  # m, in the frame of a gripper: between the tips of its fingers
CLOSED, OPEN = 0.01844, 0.05800  # m, a finger at gripper 0 and 1
_DAMPING, _ROUNDS, _LARGEST = 0.02, 12, 0.25  # of the least squares; iterations; rad a round
_FASTEST = 0.08  # rad a control step
_TURN = 0.15  # m/rad: weight of orientation against position


class Arm(NamedTuple):
    """Where an arm's numbers lie in the model.

    Attributes:
        joints: (6,) indices into positions.
        columns: (6,) indices into velocities.
        finger: Index of the left finger into positions.
        body: Of the gripper.
        low: (6,) limits, rad.
        high: As above.
    """

    joints: np.ndarray
    columns: np.ndarray
    finger: int
    body: int
    low: np.ndarray
    high: np.ndarray


class Pose(NamedTuple):
    """Where a grip point goes, and what the gripper does.

    Attributes:
        point: (3,) m.
        rotation: (3, 3); the fingers point along x and close along y.
        gripper: 0 closed, 1 open.
        speed: Of the grip point, m a control step.
    """

    point: np.ndarray
    rotation: np.ndarray
    gripper: float
    speed: float


class Hands:
    """Kinematics of both arms, on scratch memory of its own.

    Args:
        model: ``mujoco.MjModel`` of a scene with both arms.
    """

    def __init__(self, model: Any) -> None:
        render.configure()
        import mujoco

        self._mj: Any = mujoco
        self.model, self.data = model, mujoco.MjData(model)
        self.arms = [self._arm(side) for side in _SIDES]
        self._jacobian = np.zeros((6, model.nv))

    def _arm(self, side: str) -> Arm:
        names = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
        joints = [self.model.joint(f"vx300s_{side}/{name}") for name in names]
        places, columns = (np.array([getattr(joint, key)[0] for joint in joints]) for key in ("qposadr", "dofadr"))
        finger = int(self.model.joint(f"vx300s_{side}/left_finger").qposadr[0])
        low, high = np.array([joint.range for joint in joints]).T
        return Arm(places, columns, finger, self.model.body(f"vx300s_{side}/gripper_link").id, low, high)

    def place(self, qpos: np.ndarray) -> None:
        """Put everything where ``qpos`` (nq,) says."""
        self.data.qpos[:] = qpos
        self._mj.mj_kinematics(self.model, self.data)

    def grip(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return position (3,), m, and rotation (3, 3) of a grip point."""
        rotation = self.data.xmat[self.arms[side].body].reshape(3, 3).copy()
        return self.data.xpos[self.arms[side].body] + rotation @ GRIP, rotation

    def opening(self, side: int, qpos: np.ndarray) -> float:
        """Return how far a gripper is open, 0 to 1, at the positions ``qpos`` (nq,)."""
        return (float(qpos[self.arms[side].finger]) - CLOSED) / (OPEN - CLOSED)

    def solve(self, side: int, start: np.ndarray, point: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Return joint positions (6,), rad, that bring a grip point to a pose, nearest to ``start`` (6,).

        Damped least squares (Nakamura and Hanafusa 1986), a few rounds; what cannot be reached is approached.
        """
        arm, data, q = self.arms[side], self.data, start.copy()
        for _ in range(_ROUNDS):
            data.qpos[arm.joints] = q
            self._mj.mj_kinematics(self.model, data)
            self._mj.mj_comPos(self.model, data)
            found, turned = self.grip(side)
            wrong = np.concatenate([point - found, _TURN * _rotation_vector(rotation @ turned.T)])
            if np.abs(wrong).max() < 1e-5:
                break
            self._mj.mj_jac(self.model, data, self._jacobian[:3], self._jacobian[3:], found, arm.body)
            rows = self._jacobian[:, arm.columns] * np.array([1, 1, 1, _TURN, _TURN, _TURN])[:, None]
            step = rows.T @ np.linalg.solve(rows @ rows.T + _DAMPING**2 * np.eye(6), wrong)
            q = np.clip(q + step * min(1.0, _LARGEST / max(float(np.abs(step).max()), 1e-9)), arm.low, arm.high)
        return q

    def command(self, side: int, sent: np.ndarray, pose: Pose) -> np.ndarray:
        """Return joint targets and gripper (7,) that go on from the targets ``sent`` (6,) before, straight towards a pose.

        The servos follow steady targets closely, and overshoot when targets follow the joints instead.
        """
        arm = self.arms[side]
        self.data.qpos[arm.joints] = sent
        self._mj.mj_kinematics(self.model, self.data)
        here, _ = self.grip(side)
        way = pose.point - here
        way *= min(1.0, pose.speed / max(float(np.linalg.norm(way)), 1e-9))
        turn = self.solve(side, sent, here + way, pose.rotation) - sent
        return np.append(sent + turn * min(1.0, _FASTEST / max(float(np.abs(turn).max()), 1e-9)), pose.gripper)


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Return the axis times angle (3,), rad, of a rotation (3, 3)."""
    w = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine, cosine = float(np.linalg.norm(w)) / 2, (float(np.trace(rotation)) - 1) / 2
    angle = float(np.arctan2(sine, cosine))
    if sine > 1e-6:
        return w * (angle / (2 * sine))
    return w / 2 if cosine > 0 else np.array([np.pi, 0.0, 0.0])


def towards(direction: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a gripper whose fingers point along ``direction`` (3,) and close along ``closing`` (3,), unit vectors."""
    return np.stack([direction, closing, np.cross(direction, closing)], axis=1)


MEETING = np.array([0.0, 0.5, 0.25])  # m, where the cube is handed over
_DOWN = np.deg2rad(60.0)  # below the horizon: how the right arm reaches for the cube
_PICKING = towards(np.array([-np.cos(_DOWN), 0.0, -np.sin(_DOWN)]), np.array([0.0, -1.0, 0.0]))
_TAKING = towards(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]))  # the left arm, with a finger below and one above
_ABOVE = 0.09  # m, before the cube is reached for
_FAST, _SLOW = 0.02, 0.006  # m a control step
_CAREFUL, _INTO = 0.008, 0.003  # m a control step, with something in the hand
HELD = 0.64  # opening below which the fingers hold the cube, which is 40 mm wide


def transfer_action(hands: Hands, qpos: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Return what both arms do next (14,) to hand the cube over, in the world at ``qpos`` (nq,) whose joint targets were ``sent`` (2, 6)."""
    hands.place(qpos)
    cube = qpos[16:19]
    point, _ = hands.grip(RIGHT)
    taking, _ = hands.grip(LEFT)
    there = float(np.linalg.norm(cube - MEETING)) < 0.02
    right, left = _pick(qpos[16:23], point, hands.opening(RIGHT, qpos)), Pose(MEETING - np.array([0.12, 0.0, 0.0]), _TAKING, 1.0, _FAST)
    if there:
        left = Pose(cube, _TAKING, 0.0 if float(np.linalg.norm(taking - cube)) < 0.008 else 1.0, _SLOW)
    return np.concatenate([hands.command(LEFT, sent[LEFT], left), hands.command(RIGHT, sent[RIGHT], right)])


def _pick(pose: np.ndarray, point: np.ndarray, opening: float) -> Pose:
    """Return what the right arm, whose grip point is at ``point`` (3,), does to bring the cube at ``pose`` (7,) to the meeting point."""
    cube, picking = pose[:3], _turned(pose[3:]) @ _PICKING  # its faces are gripped, however it lies
    ahead, off = picking[:, 0], cube - point
    along = float(off @ ahead)
    aside = float(np.linalg.norm(off - along * ahead))
    if float(np.linalg.norm(off)) < 0.025 and opening < HELD:
        return Pose(MEETING + (point - cube), _PICKING, 0.0, _FAST)
    if abs(along) < 0.012 and aside < 0.012:
        return Pose(cube, picking, 0.0, _SLOW)
    if opening > 0.85 and -0.02 < along < _ABOVE + 0.03 and aside < 0.02:
        return Pose(cube - max(0.0, along - 0.03) * ahead, picking, 1.0, _SLOW)
    return Pose(cube - _ABOVE * ahead, picking, 1.0, _FAST)


def _turned(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) about the vertical by which a cube with ``quaternion`` (4,) is turned, to the nearest of its faces."""
    w, x, y, z = quaternion
    yaw = float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
    yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
    return np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])


JOINING = np.array([0.0, 0.5, 0.28])  # m, where the peg meets the socket
_GAP = 0.14  # m between the middles of peg and socket, each 0.12 m long, before one enters the other
_PEG_HELD, _SOCKET_HELD = 0.42, 0.72  # openings below which the fingers hold a peg 20 mm wide, a socket 44 mm wide
_OVER = np.array([0.0, 0.0, 0.009])  # m: the fingers are thicker than half the peg that lies on the table
_FROM_RIGHT = _PICKING
_FROM_LEFT = towards(np.array([np.cos(_DOWN), 0.0, -np.sin(_DOWN)]), np.array([0.0, 1.0, 0.0]))


def insertion_action(hands: Hands, qpos: np.ndarray, sent: np.ndarray) -> np.ndarray:
    """Return what both arms do next (14,) to put the peg into the socket, in the world at ``qpos`` (nq,); see :func:`transfer_action`."""
    hands.place(qpos)
    peg, socket = qpos[16:19], qpos[23:26]
    (right, _), (left, _) = hands.grip(RIGHT), hands.grip(LEFT)
    openings = hands.opening(LEFT, qpos), hands.opening(RIGHT, qpos)
    held = _holds(socket, left, openings[LEFT], _SOCKET_HELD), _holds(peg, right, openings[RIGHT], _PEG_HELD)
    at = JOINING - np.array([_GAP / 2, 0.0, 0.0])
    ready = held[LEFT] and held[RIGHT] and float(np.linalg.norm(socket - at)) < 0.02 and float(np.linalg.norm((peg - socket)[1:])) < 0.004
    inside = float(peg[0] - socket[0]) < 0.118 and float(np.linalg.norm((peg - socket)[1:])) < 0.012
    goal = socket + np.array([0.08 if ready or inside else _GAP, 0.0, 0.0]) if held[LEFT] else JOINING + np.array([_GAP / 2, 0.0, 0.0])
    hands_do = (
        Pose(at + (left - socket), _FROM_LEFT, 0.0, _CAREFUL) if held[LEFT] else _reach(socket, left, openings[LEFT], _FROM_LEFT),
        Pose(goal + (right - peg), _FROM_RIGHT, 0.0, _INTO if ready or inside else _CAREFUL)
        if held[RIGHT]
        else _reach(peg + _OVER, right, openings[RIGHT], _FROM_RIGHT),
    )
    return np.concatenate([hands.command(side, sent[side], hands_do[side]) for side in (LEFT, RIGHT)])


def _holds(thing: np.ndarray, point: np.ndarray, opening: float, held: float) -> bool:
    return float(np.linalg.norm(thing - point)) < 0.03 and opening < held


def _reach(thing: np.ndarray, point: np.ndarray, opening: float, rotation: np.ndarray) -> Pose:
    """Return what an arm does to have ``thing`` (3,) between its fingers, whose grip point is at ``point`` (3,): before it, along, close."""
    ahead, off = rotation[:, 0], thing - point
    along = float(off @ ahead)
    aside = float(np.linalg.norm(off - along * ahead))
    if abs(along) < 0.012 and aside < 0.012:
        return Pose(thing, rotation, 0.0, _SLOW)
    if opening > 0.85 and -0.02 < along < _ABOVE + 0.03 and aside < 0.02:
        return Pose(thing - max(0.0, along - 0.03) * ahead, rotation, 1.0, _SLOW)
    return Pose(thing - _ABOVE * ahead, rotation, 1.0, _FAST)
