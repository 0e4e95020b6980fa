"""What a camera does to a ray: focal lengths, principal point and distortion, from pictures of a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.calibration.board import Board, Corners

FEWEST = 8  # pictures
_LENGTHS = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera with OpenCV's distortion (k1, k2, p1, p2, k3).

    Attributes:
        width, height: Of the pictures, px.
        fx, fy, cx, cy: Focal lengths and principal point, px; the centre of the upper left pixel is (0, 0).
        distortion: (5,) k1, k2, p1, p2, k3.
        rms_px: Root mean square distance of the corners from where the model puts them.
        errors: Standard error of fx, fy, cx, cy, px, and of the distortion.
        views: Pictures used.
        view_rms_px: rms of each.
        warnings: What makes the result doubtful, one line each.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    rms_px: float = 0.0
    errors: Mapping[str, float] | None = None
    views: int = 0
    view_rms_px: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) camera matrix, px."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Return where points (n, 3), m, in the camera's frame (x right, y down, z forward) are seen, (n, 2) px."""
        k1, k2, p1, p2, k3 = self.distortion
        x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
        square = x * x + y * y
        radial = 1 + square * (k1 + square * (k2 + square * k3))
        bent_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        bent_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return np.stack([self.fx * bent_x + self.cx, self.fy * bent_y + self.cy], axis=1)

    def board_pose(self, board: Board, seen: Corners) -> np.ndarray:
        """Return the pose (4, 4) of ``board`` in the camera's frame from its corners in one picture. Raises InputError if there is none."""
        import cv2

        from robopolicy.calibration.poses import pose

        done, turned, shift = cv2.solvePnP(board.corners[seen.ids], seen.points, self.matrix, np.array(self.distortion), flags=cv2.SOLVEPNP_IPPE)
        if not done:
            raise InputError("the board's pose cannot be told from one of the pictures")
        turned, shift = cv2.solvePnPRefineLM(board.corners[seen.ids], seen.points, self.matrix, np.array(self.distortion), turned, shift)
        return pose(cv2.Rodrigues(turned)[0], shift.ravel())

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "model": "opencv", "width": self.width, "height": self.height,
            **{name: getattr(self, name) for name in _LENGTHS}, "distortion": list(self.distortion),
            "rms_px": self.rms_px, "standard_errors": dict(self.errors or {}), "views": self.views,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Intrinsics:
        """Build from :meth:`to_dict`'s mapping. Raises InputError if it is not one."""
        try:
            fx, fy, cx, cy = (float(value[name]) for name in _LENGTHS)
            distortion = tuple(float(v) for v in value["distortion"])
            if len(distortion) != 5:
                raise ValueError(f"distortion: expected 5 numbers, found {len(distortion)}")
            rms, errors, views = float(value.get("rms_px", 0.0)), value.get("standard_errors"), int(value.get("views", 0))
            return cls(int(value["width"]), int(value["height"]), fx, fy, cx, cy, distortion, rms, errors, views)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the intrinsics of a camera: {type(error).__name__}: {error}") from error


def solve_intrinsics(board: Board, seen: Sequence[Corners], width: int, height: int, k3: bool = False) -> Intrinsics:
    """Return the camera that explains the corners in ``seen`` best.

    Args:
        board: Which is in all the pictures.
        seen: Its corners, a picture each.
        width: Of the pictures, px.
        height: Of the pictures, px.
        k3: Whether the sixth power of the radius bends rays too (wide lenses, many pictures).

    Raises:
        InputError: too few pictures, or they do not determine a camera.
    """
    import cv2

    if len(seen) < FEWEST:
        raise InputError(f"calibrate camera: the board was found in {len(seen)} pictures, expected at least {FEWEST}, turned and tilted differently")
    places = [board.corners[one.ids].astype(np.float32) for one in seen]
    points = [one.points.astype(np.float32) for one in seen]
    flags = 0 if k3 else cv2.CALIB_FIX_K3
    try:
        rms, matrix, bent, _, _, deviations, _, each = cv2.calibrateCameraExtended(
            places, points, (width, height), np.eye(3), np.zeros(5), flags=flags, criteria=(cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 200, 1e-10)
        )
    except cv2.error as error:
        raise InputError(f"calibrate camera: the pictures do not determine a camera ({str(error).split('error:')[-1].strip()[:80]}): tilt the board") from error
    fx, fy, cx, cy = (float(v) for v in (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    names = (*_LENGTHS, "k1", "k2", "p1", "p2", "k3")
    errors = {name: float(v) for name, v in zip(names, deviations.ravel()[:9], strict=True)}
    warnings = [f"{n} is known to {errors[n]:.1f} px only: tilt the board more" for n in ("fx", "fy") if not errors[n] < 0.01 * matrix[0, 0]]
    everything = np.concatenate(points)
    low, high = everything.min(axis=0), everything.max(axis=0)
    share = float(np.prod(high - low) / (width * height))
    if share < 0.5:
        warnings.append(f"the board was seen in {100 * share:.0f} % of the picture: bring it to the edges too, distortion is not known there")
    distortion = tuple(float(v) for v in bent.ravel()[:5])
    view_rms = tuple(float(v) for v in each.ravel())
    return Intrinsics(width, height, fx, fy, cx, cy, distortion, float(rms), errors, len(seen), view_rms, tuple(warnings))
