"""The hand of an arm, moved by a twist or to a pose: differential IK from joint positions to joint positions."""

from __future__ import annotations

import numpy as np

from policies.cartesian import rotation_matrix
from policies.differential_ik import DifferentialIk, IkOptions, rotation_vector
from policies.kinematics import Kinematics
from policies.motion import MotionLimits
from policies.spec import InputError
from real.teleop.jog import FRAMES, JogConfig

_LIKELY = ("hand", "tool", "tcp", "ee", "tool0", "ee_link", "tool_center_point", "attachment_site", "gripper", "flange", "wrist_3_link", "link7")
_ITERATIONS = 2  # of the IK in a policy step
_AHEAD_M, _AHEAD_RAD = 0.02, 0.15  # the pose that is wanted stays that near to the one that is reached


class Hand:
    """Where the hand shall be; every step draws the joints after it.

    Args:
        model: MJCF or URDF text.
        limits: Of the joints that ``q`` is about.
        speed: Largest joint velocities (n,), rad/s or m/s.
        rate_hz: Of :meth:`move`.
        config: Name of the hand, camera.

    Attributes:
        site: Name of the site or body that is moved.
        position, rotation: Where it is wanted in the base, (3,) m and (3, 3).

    Raises:
        InputError: if the model does not have the joints or the hand.
    """

    def __init__(self, model: str, limits: MotionLimits, speed: np.ndarray, rate_hz: float, config: JogConfig) -> None:
        self.kinematics = Kinematics(model, limits.names)
        self.site = config.hand or likely_hand(self.kinematics)
        rows = (0, 1, 2, 3, 4, 5) if self.kinematics.n >= 6 else (0, 1, 2)  # fewer joints cannot keep an orientation
        options = IkOptions(rows=rows, gain=0.8, linear=4 * config.linear, angular=4 * config.angular)
        self._ik = DifferentialIk(self.kinematics, self.site, speed, rate_hz * _ITERATIONS, options=options)
        self._low, self._high, self._tick = limits.low, limits.high, 1.0 / rate_hz
        self._camera = None if config.camera is None else rotation_matrix("rotation_axis_angle", np.array(config.camera, np.float64))
        self.start(self.kinematics.home)

    def start(self, q: np.ndarray) -> None:
        """Begin at joint positions ``q`` (n,)."""
        self.kinematics.forward(q)
        self.position, self.rotation = self.kinematics.pose(self.site)
        self._posture = np.array(q, np.float64)

    def axes(self, frame: str) -> np.ndarray:
        """Return the axes (3, 3) of ``frame``, columns in the base."""
        if frame == "tool":
            return self.rotation
        return self._camera if frame == "camera" and self._camera is not None else np.eye(3)

    def frames(self) -> tuple[str, ...]:
        """Return the frames that there are."""
        return FRAMES if self._camera is not None else FRAMES[:2]

    def move(self, q: np.ndarray, twist: np.ndarray, frame: str = "base") -> tuple[np.ndarray, bool]:
        """Return the joint positions (n,) after a step of ``twist`` (6,), m/s and rad/s along ``frame``; and whether it went all the way."""
        axes = self.axes(frame)
        turn = rotation_matrix("rotation_axis_angle", axes @ twist[3:] * self._tick)
        return self.to(q, self.position + axes @ twist[:3] * self._tick, turn @ self.rotation)

    def to(self, q: np.ndarray, position: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the joint positions (n,) after a step towards ``position`` (3,), ``rotation`` (3, 3); and whether it came near them."""
        for _ in range(_ITERATIONS):
            q = np.clip(self._ik.step(q, position, rotation, self._posture), self._low, self._high)
        left = self._ik.error(q, position, rotation)
        at, turned = self.kinematics.pose(self.site)
        off, angle = float(np.linalg.norm(left[:3])), float(np.linalg.norm(left[3:]))
        self.position = at + left[:3] * min(1.0, _AHEAD_M / max(off, 1e-12))
        self.rotation = _orthonormal(rotation_matrix("rotation_axis_angle", left[3:] * min(1.0, _AHEAD_RAD / max(angle, 1e-12))) @ turned)
        return q, off <= _AHEAD_M and (angle <= _AHEAD_RAD or self.kinematics.n < 6)


def likely_hand(kinematics: Kinematics) -> str:
    """Return the site or body that is most likely the hand: by its usual name, else what hangs at the end of the last joint.

    Raises:
        InputError: if nothing has a name.
    """
    model = kinematics.model
    sites = {model.site(s).name: s for s in range(model.nsite) if model.site(s).name}
    bodies = {model.body(b).name: b for b in range(model.nbody) if model.body(b).name and b}
    last = int(model.jnt_bodyid[kinematics.joints[-1]])
    moved = {n for n, b in bodies.items() if _hangs(model, b, last)} | {n for n, s in sites.items() if _hangs(model, int(model.site_bodyid[s]), last)}
    for name in _LIKELY:
        if name in moved:
            return name
    ends = [n for n in sites if n in moved] or [n for n in bodies if n in moved]
    if not ends:
        raise InputError("jog.hand: the model names no site or body at the last joint; set it")
    return ends[-1]


def _hangs(model: object, body: int, above: int) -> bool:
    """Whether ``body`` is ``above`` or is carried by it."""
    parents = model.body_parentid  # type: ignore[attr-defined]
    while body > 0 and body != above:
        body = int(parents[body])
    return body == above


def _orthonormal(rotation: np.ndarray) -> np.ndarray:
    """Return ``rotation`` (3, 3) without what rounding has added over many steps."""
    return rotation_matrix("rotation_axis_angle", rotation_vector(rotation))
