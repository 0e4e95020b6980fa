"""Zero offsets of joints: what has to be added to a robot's readings for its model to be true.

From pictures of a board (the mounting of the camera is found with them), or from touching one point in several postures.
Some zeros cannot be told apart from where the board or the camera is: the turn of the base is a turn of the whole world, that
of the last joint a turn of the mounting. They are found by looking at what the measurements really change, named, and held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.kinematics import Kinematics
from policies.spec import InputError
from robopolicy.calibration.board import Board, Corners
from robopolicy.calibration.hand_eye import FEWEST, Sight, begin, refine, require_turns
from robopolicy.calibration.intrinsics import Intrinsics
from robopolicy.calibration.poses import changed, pose

_BLIND = 0.02  # of the best told direction: what changes the measurements less cannot be told
_STEP = 1e-5  # rad or m
_TOUCH_NOISE_M = 1e-4


@dataclass(frozen=True)
class JointOffsets:
    """Zero offsets.

    Attributes:
        offsets: Joint -> what is to be added to its readings, rad or m; joints that are held are not in it.
        errors: Standard errors of them.
        held: Joints whose zeros these measurements do not tell; they were left at 0.
        before, after: rms of the misses without and with the offsets, in ``unit``.
        unit: ``px`` or ``m``.
        mount: (4, 4) of the camera as found with them; None for touches.
    """

    offsets: dict[str, float]
    errors: dict[str, float]
    held: tuple[str, ...]
    before: float
    after: float
    unit: str
    mount: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        told = {"offsets": self.offsets, "standard_errors": self.errors, "held": list(self.held)}
        return {**told, f"rms_before_{self.unit}": self.before, f"rms_{self.unit}": self.after}


def hands_of(kinematics: Kinematics, frame: str, positions: np.ndarray) -> list[np.ndarray]:
    """Return the pose (4, 4) of ``frame`` in the base for every row of joint ``positions`` (V, n), rad or m. Raises InputError."""
    out = []
    for row in positions:
        kinematics.forward(row)
        place, rotation = kinematics.pose(frame)
        out.append(pose(rotation, place))
    return out


def solve_joints(
    board: Board, camera: Intrinsics, seen: Sequence[Corners], kinematics: Kinematics, frame: str, positions: np.ndarray, eye: str = "in-hand"
) -> JointOffsets:
    """Return the zero offsets that let all corners of all pictures lie where they are seen.

    Args:
        board: Which stands still (in-hand), or is held by the hand (to-hand).
        camera: Its intrinsics.
        seen: Corners of the board, a picture each.
        kinematics: The robot.
        frame: Site or body of the hand.
        positions: (V, n) joint positions as read, rad or m, a picture each.
        eye: ``in-hand`` or ``to-hand``.

    Raises:
        InputError: too few pictures, no such frame, or the hand was not turned.
    """
    hands = hands_of(kinematics, frame, positions)
    require_turns(hands)
    sight = Sight(board, camera, seen, eye)
    mount, place = begin(sight, hands)
    mount, place, _, misses, _ = refine(sight, mount, place, lambda _: hands, 0)
    before = _rms(misses)

    def at(x: np.ndarray, free: np.ndarray) -> np.ndarray:
        moved = hands_of(kinematics, frame, positions + spread_out(x[12:], free, kinematics.n))
        return sight.misses(changed(mount, x[:6]), changed(place, x[6:12]), moved).ravel()

    everything = np.arange(kinematics.n)
    free = told(_slopes(lambda x: at(x, everything), 12 + kinematics.n), 12)
    if not free.size:
        raise InputError("calibrate joints: these pictures tell no joint's zero; vary the posture more")
    mount, place, found, misses, errors = refine(
        sight, mount, place, lambda x: hands_of(kinematics, frame, positions + spread_out(x, free, kinematics.n)), len(free)
    )
    return _named(kinematics, free, found, errors[12:], before, _rms(misses), "px", mount)


def solve_touches(kinematics: Kinematics, frame: str, postures: Sequence[np.ndarray]) -> JointOffsets:
    """Return the zero offsets that bring ``frame`` to one and the same point in all postures in which it touched that point.

    Args:
        kinematics: The robot.
        frame: Site or body of the tip.
        postures: One array (k, n) a point: joint positions as read, rad or m, each time it was touched.

    Raises:
        InputError: too few touches, or they tell nothing.
    """
    if any(len(rows) < 2 for rows in postures) or sum(len(rows) - 1 for rows in postures) < 2:
        raise InputError("calibrate joints: every point must be touched in two postures or more, three and more touches in all")

    def apart(offsets: np.ndarray) -> np.ndarray:
        out = []
        for rows in postures:
            tips = np.array([hand[:3, 3] for hand in hands_of(kinematics, frame, rows + offsets)])
            out.append((tips - tips.mean(axis=0)).ravel())
        return np.concatenate(out)

    free = told(_slopes(apart, kinematics.n), 0)
    from scipy.optimize import least_squares

    if not free.size:
        raise InputError("calibrate joints: these postures tell no joint's zero; touch the point with the elbow up and down")
    fit = least_squares(lambda x: apart(spread_out(x, free, kinematics.n)), np.zeros(len(free)), jac="3-point")
    count = 3 * sum(len(rows) - 1 for rows in postures)
    noise = max(float(fit.fun @ fit.fun) / max(count - len(free), 1), _TOUCH_NOISE_M**2)
    errors = np.sqrt(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)) * noise)
    before = _rms(apart(np.zeros(kinematics.n)).reshape(-1, 3))
    return _named(kinematics, free, fit.x, errors, before, _rms(fit.fun.reshape(-1, 3)), "m", None)


def spread_out(values: np.ndarray, free: np.ndarray, n: int) -> np.ndarray:
    """Return offsets (n,) that are ``values`` (k,) at the joints ``free`` (k,) and zero elsewhere."""
    out = np.zeros(n)
    out[free] = values
    return out


def told(slopes: np.ndarray, others: int) -> np.ndarray:
    """Return the numbers (k,) of the joints whose zeros measurements can tell.

    Args:
        slopes: (m, others + n) how every measurement changes with the other unknowns and with every joint's zero.
        others: How many other unknowns there are, which may explain the same changes.
    """
    joints = slopes[:, others:]
    if others:
        basis = np.linalg.qr(slopes[:, :others])[0]
        joints = joints - basis @ (basis.T @ joints)
    scale = float(np.linalg.norm(slopes[:, others:], axis=0).max())
    free = list(range(joints.shape[1]))
    while free:
        _, strengths, directions = np.linalg.svd(joints[:, free], full_matrices=False)
        if strengths[-1] >= _BLIND * scale:
            break
        weights = np.abs(directions[-1])
        ends = [k for k in range(len(free)) if weights[k] > 0.5 * weights.max()]
        del free[min(ends, key=lambda k: float(np.linalg.norm(joints[:, free[k]])))]  # of those that trade off, the least told
    return np.array(free, np.int64)


def _slopes(function: Callable[[np.ndarray], np.ndarray], size: int) -> np.ndarray:
    """Return the derivatives (m, size) of ``function`` at zero."""
    steps = _STEP * np.eye(size)
    return np.stack([(function(step) - function(-step)) / (2 * _STEP) for step in steps], axis=1)


def _rms(misses: np.ndarray) -> float:
    return float(np.sqrt((misses**2).sum(axis=1).mean()))


def _named(
    kinematics: Kinematics, free: np.ndarray, found: np.ndarray, errors: np.ndarray, before: float, after: float, unit: str, mount: np.ndarray | None
) -> JointOffsets:
    names = [kinematics.names[k] for k in free]
    held = tuple(name for name in kinematics.names if name not in names)
    offsets = {name: float(v) for name, v in zip(names, found, strict=True)}
    return JointOffsets(offsets, {name: float(v) for name, v in zip(names, errors, strict=True)}, held, before, after, unit, mount)


def few(count: int) -> str:
    """Return a warning where ``count`` pictures are few for offsets; empty: they are not."""
    return f"{count} pictures are few for joint offsets: take {4 * FEWEST} or more in postures that differ widely" if count < 2 * FEWEST else ""
