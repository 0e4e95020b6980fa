"""A rehearsal without hardware: the arm, a ChArUco board and a camera, rendered, with everything known that is to be found.

The picture is drawn by a plain pinhole larger than the camera and bent to its intrinsics, so that focal lengths, principal
point and distortion are whatever one plants. The arm's readings lack planted zero offsets.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.kinematics import Kinematics
from policies.spec import InputError
from robopolicy.calibration.board import Board
from robopolicy.calibration.intrinsics import Intrinsics
from robopolicy.calibration.poses import inverse, pose, quaternion, turn
from sim import render
from sim.suites.arm import HOME, JOINTS, robot_model

FRAME = "hand"
CAMERA, BOARD = "calibration_camera", "calibration_board"
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # from a camera that looks along -z with y up, and a box whose face looks at +z, to ours
_THICK = 0.002  # m, half
_TEXTURE_PX = 96  # a square
_WITHIN = (1e-4, 1e-3)  # m and rad: the arm is there


def planted_camera() -> Intrinsics:
    """Return the camera of a rehearsal: 640x480 px, not quite square pixels, an eccentric axis, some distortion."""
    return Intrinsics(640, 480, 590.0, 584.0, 331.0, 236.0, (-0.11, 0.06, 0.0012, -0.0008, 0.0))


def planted_mount(eye: str) -> np.ndarray:
    """Return the pose (4, 4) of the camera on the hand (``in-hand``) or in the base (``to-hand``)."""
    if eye == "in-hand":
        return pose(turn(np.array([0.0, 0.0, np.pi / 2])) @ turn(np.array([-0.12, 0.05, 0.03])), np.array([0.075, 0.008, -0.14]))
    looks = looking_at(np.array([1.25, 0.12, 0.62]), np.array([0.45, 0.0, 0.4]))
    return looks @ pose(turn(np.array([0.03, -0.02, 0.06])), np.zeros(3))


def planted_board(eye: str, board: Board) -> np.ndarray:
    """Return the pose (4, 4) of the board in the base (``in-hand``: it lies on the table) or on the hand (``to-hand``)."""
    width, height = board.size_m
    centre = pose(np.eye(3), np.array([-width / 2, -height / 2, 0.0]))  # from the board's origin to its middle
    if eye == "in-hand":
        return pose(turn(np.array([0.0, 0.0, 0.3])) @ np.diag([1.0, -1.0, -1.0]), np.array([0.5, 0.02, 0.01])) @ centre
    return pose(turn(np.array([0.0, np.pi / 2, 0.1])) @ np.diag([1.0, -1.0, -1.0]), np.array([0.06, 0.0, -0.02])) @ centre


def looking_at(place: np.ndarray, target: np.ndarray, up: np.ndarray = np.array([0.0, 0.0, 1.0])) -> np.ndarray:
    """Return the pose (4, 4) of a camera at ``place`` (3,) that looks at ``target`` (3,), with ``up`` (3,) up in its picture."""
    forward = (target - place) / np.linalg.norm(target - place)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return pose(np.stack([right, np.cross(forward, right), forward], axis=1), place)


@dataclass
class Scene:
    """An arm, a board and a camera.

    Attributes:
        eye: ``in-hand`` (camera on the hand, board on the table) or ``to-hand`` (board on the hand).
        board: What is drawn.
        camera: Planted intrinsics.
        mount: (4, 4) planted pose of the camera; None: :func:`planted_mount`.
        place: (4, 4) planted pose of the board; None: :func:`planted_board`.
        offsets: (7,) what is to be added to the readings, rad.
        fine: Pixels drawn for one of the camera's, along a side.

    Raises:
        InputError: this machine cannot draw.
    """

    eye: str = "in-hand"
    board: Board = field(default_factory=Board)
    camera: Intrinsics = field(default_factory=planted_camera)
    mount: np.ndarray | None = None
    place: np.ndarray | None = None
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(len(JOINTS)))
    fine: int = 2

    def __post_init__(self) -> None:
        """Build the model and the map that bends pictures."""
        self.mount = planted_mount(self.eye) if self.mount is None else self.mount
        self.place = planted_board(self.eye, self.board) if self.place is None else self.place
        if reason := render.unavailable_reason():
            raise InputError(f"calibrate: the rehearsal cannot be drawn here: {reason}")
        import mujoco

        self._mj: Any = mujoco
        self.kinematics = Kinematics(robot_model())
        fov, pixels = self._bend()
        self._model: Any = self._build(fov)
        self._data: Any = mujoco.MjData(self._model)
        self._drawn = render.Camera(self._model, pixels, pixels, CAMERA)

    def close(self) -> None:
        """Free what draws; may be called twice."""
        self._drawn.close()

    def picture(self, joints: np.ndarray) -> np.ndarray:
        """Return what the camera sees, (H, W, 3) uint8 RGB, when the arm is really at ``joints`` (7,), rad."""
        import cv2

        self._data.qpos[: len(JOINTS)] = joints
        self._mj.mj_forward(self._model, self._data)
        wide = self._drawn.picture(self._model, self._data)
        bent = cv2.remap(wide, *self._map, cv2.INTER_LINEAR)
        return cv2.resize(bent, (self.camera.width, self.camera.height), interpolation=cv2.INTER_AREA)

    def reading(self, joints: np.ndarray) -> np.ndarray:
        """Return what the arm says of itself, (7,) rad, when it is really at ``joints`` (7,)."""
        return joints - self.offsets

    def postures(self, count: int, seed: int = 0) -> np.ndarray:
        """Return ``count`` joint positions (count, 7), rad, in which the whole board is seen from varied sides and distances.

        Raises:
            InputError: if so many are not found.
        """
        generator, out = np.random.default_rng(seed), []
        for _ in range(60 * count):
            found = self._reach(self._hand_for(generator), generator)
            if found is not None and self._seen(found):
                out.append(found)
                if len(out) == count:
                    return np.stack(out)
        raise InputError(f"calibrate: only {len(out)} of {count} postures see the whole board; move it, or the camera")

    def _middle(self) -> np.ndarray:
        width, height = self.board.size_m
        return np.array([width / 2, height / 2, 0.0, 1.0])

    def _hand_for(self, generator: np.random.Generator) -> np.ndarray:
        """Return a hand (4, 4) from which the camera has the board before it, tilted and turned at random."""
        assert self.mount is not None and self.place is not None
        tilt, around, spin = generator.uniform(0.1, 0.65), generator.uniform(-np.pi, np.pi), generator.uniform(-0.5, 0.5)
        distance, aside = generator.uniform(0.22, 0.36), generator.uniform(-0.03, 0.03, 2)
        seen = pose(turn(tilt * np.array([np.cos(around), np.sin(around), 0.0])) @ turn(np.array([0, 0, spin])), np.array([*aside, distance]))
        if self.eye == "to-hand":
            seen[2, 3] += 0.35
        seen = seen @ pose(np.eye(3), -self._middle()[:3])  # the board in the camera's frame
        if self.eye == "in-hand":
            return self.place @ inverse(seen) @ inverse(self.mount)
        return self.mount @ seen @ inverse(self.place)

    def _reach(self, hand: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
        """Return joints (7,) that bring the hand to ``hand`` (4, 4), inside the limits; None if they are not found."""
        k = self.kinematics
        q = np.array(HOME) + generator.uniform(-0.3, 0.3, k.n)
        for _ in range(60):
            k.forward(q)
            place, rotation = k.pose(FRAME)
            away = hand[:3, :3] @ rotation.T
            skew = 0.5 * np.array([away[2, 1] - away[1, 2], away[0, 2] - away[2, 0], away[1, 0] - away[0, 1]])
            error = np.concatenate([hand[:3, 3] - place, skew])
            if np.linalg.norm(error[:3]) < _WITHIN[0] and np.linalg.norm(error[3:]) < _WITHIN[1] and np.trace(away) > 2:
                return q
            jacobian = k.jacobian(FRAME)
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), error)
            q = np.clip(q + np.clip(step, -0.3, 0.3), k.low + 0.02, k.high - 0.02)
        return None

    def _seen(self, joints: np.ndarray) -> bool:
        """Whether all corners are in the picture, and the board faces the camera."""
        assert self.mount is not None and self.place is not None
        self.kinematics.forward(joints)
        place, rotation = self.kinematics.pose(FRAME)
        hand = pose(rotation, place)
        chain = inverse(self.mount) @ (inverse(hand) if self.eye == "in-hand" else hand) @ self.place
        points = (np.c_[self.board.corners, np.ones(len(self.board.corners))] @ chain.T)[:, :3]
        if (points[:, 2] < 0.05).any() or chain[2, 2] < 0.4:
            return False
        pixels, edge = self.camera.project(points), 12
        return bool((pixels > edge).all() and (pixels < np.array([self.camera.width, self.camera.height]) - edge).all())

    def _bend(self) -> tuple[float, int]:
        """Make the map from the drawn picture to the camera's; returns the drawn one's field of view, degrees, and its side, px."""
        import cv2

        c, fine = self.camera, self.fine
        across, down = np.meshgrid((np.arange(c.width * fine) + 0.5) / fine - 0.5, (np.arange(c.height * fine) + 0.5) / fine - 0.5)
        pixels = np.stack([across.ravel(), down.ravel()], axis=1)[:, None]
        criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 8, 1e-8)
        rays = cv2.undistortPointsIter(pixels, c.matrix, np.array(c.distortion), np.eye(3), np.eye(3), criteria).reshape(*across.shape, 2)
        half = 1.02 * float(np.abs(rays).max())
        side = round(2 * half * fine * max(c.fx, c.fy))
        where = (rays / half + 1) * side / 2 - 0.5
        self._map = where[..., 0].astype(np.float32), where[..., 1].astype(np.float32)
        return float(np.degrees(2 * np.arctan(half))), side

    def _build(self, fov: float) -> Any:
        """Return the model: the arm, a table, the board and the camera."""
        import cv2

        assert self.mount is not None and self.place is not None
        mj = self._mj
        spec = mj.MjSpec.from_string(robot_model())
        margin = _TEXTURE_PX // 2
        drawn = cv2.cvtColor(self.board.picture(_TEXTURE_PX, margin), cv2.COLOR_GRAY2RGB)
        spec.assets = {"board.png": cv2.imencode(".png", drawn)[1].tobytes()}
        spec.add_texture(name=BOARD, type=mj.mjtTexture.mjTEXTURE_2D, file="board.png")
        material = spec.add_material(name=BOARD, emission=0.5, specular=0.0, texuniform=False)
        material.textures[mj.mjtTextureRole.mjTEXROLE_RGB] = BOARD
        spec.worldbody.add_light(pos=[0.5, -0.8, 2.0], dir=[0.0, 0.4, -1.0], type=mj.mjtLightType.mjLIGHT_DIRECTIONAL)
        spec.worldbody.add_geom(name="table", type=mj.mjtGeom.mjGEOM_BOX, pos=[0.4, 0, -0.02], size=[0.55, 0.6, 0.02], rgba=[0.76, 0.7, 0.6, 1])
        hand = next(b for b in spec.bodies if b.name == "link7")
        on_link = pose(np.eye(3), np.array([0.0, 0.0, 0.2]))  # the hand's frame on its link
        size = (np.array(self.board.size_m) + self.board.square_m) / 2
        middle = pose(np.eye(3), self._middle()[:3]) @ _FLIP @ pose(np.eye(3), np.array([0, 0, -_THICK]))
        box, eye = self.place @ middle, self.mount @ _FLIP
        (world, on) = (box, on_link @ eye) if self.eye == "in-hand" else (on_link @ box, eye)
        carrier, camera_on = (spec.worldbody, hand) if self.eye == "in-hand" else (hand, spec.worldbody)
        carrier.add_geom(
            name=BOARD, type=mj.mjtGeom.mjGEOM_BOX, size=[*size, _THICK], pos=world[:3, 3], quat=quaternion(world[:3, :3]), material=BOARD,
            contype=0, conaffinity=0, mass=0.0,
        )  # fmt: skip
        camera_on.add_camera(name=CAMERA, pos=on[:3, 3], quat=quaternion(on[:3, :3]), fovy=fov)
        return spec.compile()
