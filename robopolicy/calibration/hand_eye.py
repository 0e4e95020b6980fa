"""Where a camera is mounted: on the hand (eye in hand) or beside the robot (eye to hand), from pictures of one board.

A closed form gives the beginning (``cv2.calibrateHandEye``, or its pose-wise mean); then mounting and board are moved until
all corners of all pictures lie where they are seen, in pixels, which is what is really measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.calibration.board import Board, Corners
from robopolicy.calibration.intrinsics import Intrinsics
from robopolicy.calibration.poses import between, changed, inverse, to_dict

FEWEST = 5  # pictures
EYES = ("in-hand", "to-hand")
METHODS = ("park", "tsai", "horaud", "andreff", "daniilidis")
_OUTLIER = 5.0  # times the median rms: a picture taken while the arm moved
_SMALLEST_TURN = np.radians(5.0)


@dataclass(frozen=True)
class HandEye:
    """A camera's mounting.

    Attributes:
        eye: ``in-hand`` or ``to-hand``.
        mount: (4, 4) pose of the camera (x right, y down, z forward) on the hand, or in the robot's base.
        board: (4, 4) pose of the board in the robot's base, or on the hand.
        rms_px: Root mean square distance of all corners from where they should be seen.
        view_rms_px: rms of each picture.
        spread: Root mean square deviation of the board's place as each picture alone tells it, m and rad.
        errors: Standard errors of the mounting: (6,) turn, rad, and shift, m, in the camera's frame.
        left_out: Pictures that fit nothing else, by their number.
    """

    eye: str
    mount: np.ndarray
    board: np.ndarray
    rms_px: float
    view_rms_px: np.ndarray
    spread: tuple[float, float]
    errors: np.ndarray
    left_out: tuple[int, ...] = ()

    def to_dict(self, frame: str) -> dict[str, Any]:
        """Return a JSON-ready mapping; ``frame`` is the frame that the camera is mounted on."""
        return {
            "eye": self.eye, "frame": frame, **to_dict(self.mount), "rms_px": self.rms_px, "views": len(self.view_rms_px),
            "spread_m": self.spread[0], "spread_rad": self.spread[1],
            "standard_error_m": float(np.linalg.norm(self.errors[3:])), "standard_error_rad": float(np.linalg.norm(self.errors[:3])),
        }  # fmt: skip


class Sight:
    """What is seen of one board by one camera, and where it should be seen.

    Args:
        board: The board.
        camera: The camera.
        seen: Its corners, a picture each.
        eye: ``in-hand`` or ``to-hand``.

    Raises:
        InputError: unknown ``eye``.
    """

    def __init__(self, board: Board, camera: Intrinsics, seen: Sequence[Corners], eye: str) -> None:
        if eye not in EYES:
            raise InputError(f"eye {eye!r} is unknown{suggest(eye, EYES)}")
        self.camera, self.eye, self.seen = camera, eye, list(seen)
        self._points = [np.c_[board.corners[one.ids], np.ones(len(one.ids))] for one in seen]
        self.alone = [camera.board_pose(board, one) for one in seen]  # the board in the camera's frame, from one picture

    def arm(self, hand: np.ndarray) -> np.ndarray:
        """Return the pose (4, 4) from the frame of the board's pose to the frame of the mounting; ``hand`` (4, 4) is in the base."""
        return inverse(hand) if self.eye == "in-hand" else hand

    def misses(self, mount: np.ndarray, board: np.ndarray, hands: Sequence[np.ndarray]) -> np.ndarray:
        """Return how far every corner lies from where it should be seen, (corners of all pictures, 2) px.

        Args:
            mount: (4, 4) of the camera.
            board: (4, 4) of the board.
            hands: (4, 4) of the hand in the base, a picture each.
        """
        to_camera, out = inverse(mount), []
        for points, one, hand in zip(self._points, self.seen, hands, strict=True):
            placed = points @ (to_camera @ self.arm(hand) @ board).T
            placed[:, 2] = np.maximum(placed[:, 2], 1e-3)  # behind the camera while it is searched
            out.append(self.camera.project(placed[:, :3]) - one.points)
        return np.concatenate(out)

    def by_view(self, misses: np.ndarray) -> np.ndarray:
        """Return the rms of each picture, (V,) px, of ``misses`` (corners of all pictures, 2)."""
        ends = np.cumsum([len(one.ids) for one in self.seen])
        return np.array([np.sqrt((part**2).sum(axis=1).mean()) for part in np.split(misses, ends[:-1])])


def solve_hand_eye(
    board: Board, camera: Intrinsics, seen: Sequence[Corners], hands: Sequence[np.ndarray], eye: str = "in-hand", method: str = "park"
) -> HandEye:
    """Return the mounting of ``camera``.

    Args:
        board: Which stands still (in-hand), or is held by the hand (to-hand).
        camera: Its intrinsics.
        seen: Corners of the board, a picture each.
        hands: (4, 4) pose of the hand in the base, a picture each.
        eye: ``in-hand`` or ``to-hand``.
        method: Where the search begins: a name of ``METHODS``.

    Raises:
        InputError: too few pictures, or the hand was not turned about two axes.
    """
    if method not in METHODS:
        raise InputError(f"calibrate hand-eye: method {method!r} is unknown{suggest(method, METHODS)}")
    require_turns(hands)
    sight = Sight(board, camera, seen, eye)
    mount, place = begin(sight, hands, method)
    mount, place, _, misses, _ = refine(sight, mount, place, lambda _: hands, 0, robust=True)  # a wrong picture must not bend the others
    each = sight.by_view(misses)
    wrong = np.flatnonzero(each > _OUTLIER * np.median(each))
    if 0 < wrong.size <= len(seen) - FEWEST:
        kept = [k for k in range(len(seen)) if k not in set(wrong.tolist())]
        again = solve_hand_eye(board, camera, [seen[k] for k in kept], [hands[k] for k in kept], eye, method)
        numbers = sorted([*wrong.tolist(), *(kept[k] for k in again.left_out)])
        return HandEye(eye, again.mount, again.board, again.rms_px, again.view_rms_px, again.spread, again.errors, tuple(int(k) for k in numbers))
    mount, place, _, misses, errors = refine(sight, mount, place, lambda _: hands, 0)
    rms, each = float(np.sqrt((misses**2).sum(axis=1).mean())), sight.by_view(misses)
    return HandEye(eye, mount, place, rms, each, _spread(sight, mount, place, hands), errors[:6])


def require_turns(hands: Sequence[np.ndarray]) -> None:
    """Refuse hands (V, 4, 4) that are too few or were not turned about two axes: they leave the mounting open."""
    if len(hands) < FEWEST:
        raise InputError(f"the board was found in {len(hands)} pictures with a known pose, expected at least {FEWEST}")
    turns = np.array([_axis(hands[0][:3, :3].T @ hand[:3, :3]) for hand in hands[1:]])
    strength = np.linalg.svd(turns, compute_uv=False)
    if len(strength) < 2 or strength[1] < _SMALLEST_TURN:
        raise InputError("the hand was hardly turned, or about one axis only: that leaves the mounting open; tilt it about two axes by 20 degrees or more")


def begin(sight: Sight, hands: Sequence[np.ndarray], method: str = "park") -> tuple[np.ndarray, np.ndarray]:
    """Return a first mounting (4, 4) and a first place of the board (4, 4); ``hands`` is (V, 4, 4)."""
    import cv2

    arms = [inverse(sight.arm(hand)) for hand in hands]
    kind = getattr(cv2, f"CALIB_HAND_EYE_{method.upper()}")
    turned, shift = cv2.calibrateHandEye(
        [a[:3, :3] for a in arms], [a[:3, 3] for a in arms], [b[:3, :3] for b in sight.alone], [b[:3, 3] for b in sight.alone], method=kind
    )
    mount = np.eye(4)
    mount[:3, :3], mount[:3, 3] = turned, shift.ravel()
    if not np.isfinite(mount).all():
        raise InputError(
            f"calibrate hand-eye: method {method} gives no mounting from these pictures; take {' or '.join(m for m in METHODS[:2] if m != method)}"
        )
    places = [a @ mount @ b for a, b in zip(arms, sight.alone, strict=True)]
    nearest = min(range(len(places)), key=lambda k: sum(np.linalg.norm(places[k] - other) for other in places))
    return mount, places[nearest]


def refine(
    sight: Sight, mount: np.ndarray, board: np.ndarray, hands: Callable[[np.ndarray], Sequence[np.ndarray]], more: int, robust: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Move mounting, board and ``more`` further numbers until the corners lie where they are seen.

    Args:
        sight: What is seen.
        mount: (4, 4) to begin with.
        board: (4, 4) to begin with.
        hands: Takes the further numbers (more,) and returns the hands, (V, 4, 4).
        more: How many further numbers; they begin at zero.
        robust: Whether large misses count less than their squares.

    Returns:
        mount (4, 4), board (4, 4), numbers (more,), misses (corners, 2) px, standard errors (12 + more,).
    """
    from scipy.optimize import least_squares

    def misses(x: np.ndarray) -> np.ndarray:
        return sight.misses(changed(mount, x[:6]), changed(board, x[6:12]), hands(x[12:])).ravel()

    found = least_squares(misses, np.zeros(12 + more), jac="3-point", method="trf", x_scale="jac", loss="cauchy" if robust else "linear", max_nfev=60)
    left = max(found.fun.size - found.x.size, 1)
    inverted = np.linalg.pinv(found.jac.T @ found.jac)
    errors = np.sqrt(np.maximum(np.diag(inverted), 0) * float(found.fun @ found.fun) / left)
    return changed(mount, found.x[:6]), changed(board, found.x[6:12]), found.x[12:], found.fun.reshape(-1, 2), errors


def _spread(sight: Sight, mount: np.ndarray, board: np.ndarray, hands: Sequence[np.ndarray]) -> tuple[float, float]:
    apart = [between(board, inverse(sight.arm(hand)) @ mount @ alone) for hand, alone in zip(hands, sight.alone, strict=True)]
    distance, angle = np.sqrt((np.array(apart) ** 2).mean(axis=0))
    return float(distance), float(angle)


def _axis(rotation: np.ndarray) -> np.ndarray:
    """Return axis times angle (3,) of a rotation matrix (3, 3) below half a turn."""
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    length = float(np.linalg.norm(skew))
    return np.zeros(3) if length < 1e-12 else skew / length * float(np.arctan2(length, np.trace(rotation) - 1))
