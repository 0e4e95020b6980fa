"""Touches: one fixed point, touched by the tip of the hand in several postures; ``touches.json`` lists the joints at each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policies.kinematics import Kinematics
from policies.spec import InputError
from robopolicy.calibration.views import MODEL
from robopolicy.data.atomic import read_json

TOUCHES = "touches.json"


def read_touches(folder: str | Path, model: str = "", frame: str | None = None) -> tuple[Kinematics, str, list[np.ndarray]]:
    """Read ``touches.json``: ``{"joints": [names], "frame": tip, "points": [[[q, ...], ...], ...]}``, and ``model.xml`` beside it.

    Args:
        folder: Where they lie.
        model: MJCF or URDF text; empty: the folder's own.
        frame: Site or body of the tip; None: as the file says.

    Returns:
        The robot, the tip's frame, and for every point the postures (k, n), rad or m.

    Raises:
        InputError: if something is missing or does not fit.
    """
    folder = Path(folder)
    said, where = read_json(folder / TOUCHES), folder / TOUCHES
    try:
        names = tuple(str(name) for name in said["joints"])
        postures = [np.array(rows, np.float64).reshape(-1, len(names)) for rows in said["points"]]
        tip = frame or str(said["frame"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: expected joints, frame and points (lists of postures): {type(error).__name__}: {error}") from error
    if not all(np.isfinite(rows).all() for rows in postures):
        raise InputError(f"{where}: a posture is not finite")
    text = model or ((folder / MODEL).read_text(encoding="utf-8") if (folder / MODEL).is_file() else "")
    if not text:
        raise InputError(f"{folder}: has no {MODEL}; give the robot's MJCF or URDF with --model")
    return Kinematics(text, names), tip, postures
