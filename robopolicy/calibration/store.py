"""Writing ``calibration.json``: every measurement takes its place beside the others, with its date; the file is replaced whole."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policies.spec import InputError
from real.calibration import Calibration
from robopolicy.calibration.intrinsics import Intrinsics
from robopolicy.data.atomic import write_json

DEFAULT = Path("calibration.json")


def store(path: str | Path, part: tuple[str, ...], value: Mapping[str, Any], robot: str = "") -> Calibration:
    """Put ``value`` at ``part`` of the calibration at ``path``, which is begun if it is not there, and return all of it.

    Args:
        path: The file.
        part: Where: ``("cameras", NAME, "intrinsics")``, ``("joints",)``, ``("actuation",)``.
        value: JSON-ready; its date is added.
        robot: Name of the robot; empty: as the file says.

    Raises:
        InputError: if the file is no calibration, belongs to another robot, or cannot be written.
    """
    path = Path(path)
    before = Calibration.load(path) if path.exists() else Calibration.empty(robot)
    contents = before.contents
    if robot and contents.get("robot") and contents["robot"] != robot:
        raise InputError(f"{path}: is of robot {contents['robot']!r}, this is {robot!r}; give another file with --out")
    contents["robot"] = contents.get("robot") or robot
    place = contents
    for name in part[:-1]:
        place = place.setdefault(name, {})
    place[part[-1]] = {**value, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    after = Calibration(contents, str(path))
    try:
        write_json(path, after.contents)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {error}") from error
    return after


def intrinsics_of(path: str | Path, camera: str) -> Intrinsics:
    """Return the intrinsics of ``camera`` in the calibration at ``path``. Raises InputError if they are not there."""
    known = Calibration.load(path)
    part = known.camera(camera, "intrinsics")
    if part is None:
        there = ", ".join(sorted(known.cameras)) or "none"
        raise InputError(f"{path}: no intrinsics of camera {camera!r} (cameras: {there}); first: robopolicy calibrate camera FOLDER --name {camera}")
    return Intrinsics.from_dict(part)
