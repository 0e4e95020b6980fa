"""A folder of views: pictures of a board, where the joints or the hand stood, and what was commanded and measured meanwhile.

``views.json`` names the pictures (``image``) with ``joints`` (positions as read) or ``pose`` (of the hand in the base:
``position``, m, and ``quaternion``, w first) and ``capture_ns``; ``model.xml`` is the robot. ``motion.npz`` holds ``time_ns`` (T,),
``measured`` (T, n) and, with ``commanded_ns`` (C,), ``commanded`` (C, n). A folder of pictures alone is enough for intrinsics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.kinematics import Kinematics
from policies.spec import InputError
from robopolicy.calibration.board import Board, Corners
from robopolicy.calibration.poses import from_dict
from robopolicy.data.atomic import TEMPORARY, publish, read_json, temporary, write_bytes, write_json

VIEWS, MODEL, MOTION = "views.json", "model.xml", "motion.npz"
KIND, FORMAT = "robopolicy calibration views", 1
_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass
class View:
    """One picture.

    Attributes:
        image: Its file.
        joints: (n,) as read, rad or m; None: not known.
        pose: (4, 4) of the hand in the base; None: not known.
        capture_ns: When it was taken; 0: not known.
        corners: What was found of the board; None: nothing, or not looked yet.
    """

    image: Path
    joints: np.ndarray | None = None
    pose: np.ndarray | None = None
    capture_ns: int = 0
    corners: Corners | None = None


@dataclass
class Motion:
    """What joints did: ``measured`` (T, n) at ``time_ns`` (T,), ``commanded`` (C, n) at ``commanded_ns`` (C,)."""

    time_ns: np.ndarray
    measured: np.ndarray
    commanded_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    commanded: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass
class Views:
    """The contents of a folder.

    Attributes:
        folder: Where it lies.
        views: The pictures, in order.
        names: Joint names; empty: not known.
        frame: Site or body of the hand.
        model: MJCF or URDF text; empty: none.
        board: The board; None: not said.
        robot, camera: Names.
        motion: What the joints did; None: not recorded.
        size: (width, height) px of the pictures; (0, 0) before they were looked at.
    """

    folder: Path
    views: list[View]
    names: tuple[str, ...] = ()
    frame: str = ""
    model: str = ""
    board: Board | None = None
    robot: str = ""
    camera: str = ""
    motion: Motion | None = None
    size: tuple[int, int] = (0, 0)

    def look(self, board: Board) -> int:
        """Find ``board`` in every picture; returns in how many it was found. Raises InputError for pictures that differ in size."""
        import cv2

        for view in self.views:
            picture = cv2.imread(str(view.image), cv2.IMREAD_GRAYSCALE)
            if picture is None:
                raise InputError(f"{view.image}: not a picture that can be read")
            size = (picture.shape[1], picture.shape[0])
            if self.size not in ((0, 0), size):
                raise InputError(f"{view.image}: {size[0]}x{size[1]} px, the pictures before it have {self.size[0]}x{self.size[1]}")
            self.size = size
            view.corners = board.detect(picture)
        return len(self.found)

    @property
    def found(self) -> list[View]:
        """The pictures in which the board was found."""
        return [view for view in self.views if view.corners is not None]

    def kinematics(self, model: str = "", what: str = "calibrate") -> Kinematics:
        """Return the robot, of ``model`` or of the folder. Raises InputError if neither says what it is."""
        text = model or self.model
        if not text:
            raise InputError(f"{what}: {self.folder} has no {MODEL}; give the robot's MJCF or URDF with --model")
        return Kinematics(text, self.names or None)


def read_views(folder: str | Path) -> Views:
    """Read a folder of views, or of pictures alone. Raises InputError, naming the file and what is wrong."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; make one with: robopolicy calibrate collect, or rehearse")
    if not (folder / VIEWS).is_file():
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
        if not pictures:
            raise InputError(f"{folder}: expected {VIEWS}, or pictures ({', '.join(_PICTURES)})")
        return Views(folder, [View(path) for path in pictures])
    said = read_json(folder / VIEWS)
    where = str(folder / VIEWS)
    if not isinstance(said, dict) or said.get("kind") != KIND or said.get("format") != FORMAT:
        raise InputError(f"{where}: expected kind {KIND!r} of format {FORMAT}")
    names = tuple(str(name) for name in said.get("joints") or ())
    views = [_view(folder, one, len(names), f"{where} views[{k}]") for k, one in enumerate(said.get("views") or [])]
    model = (folder / MODEL).read_text(encoding="utf-8") if (folder / MODEL).is_file() else ""
    board = Board(**said["board"]) if isinstance(said.get("board"), dict) else None
    motion = _read_motion(folder / MOTION) if (folder / MOTION).is_file() else None
    return Views(folder, views, names, str(said.get("frame") or ""), model, board, str(said.get("robot") or ""), str(said.get("camera") or ""), motion)


def write_views(views: Views, pictures: Sequence[np.ndarray]) -> None:
    """Write a new folder; the description comes last, so that a folder that has one is whole.

    Args:
        views: Its contents; ``image`` of each view is a name in the folder.
        pictures: (H, W, 3) uint8 RGB, one a view.

    Raises:
        InputError: if the folder exists and holds views, or cannot be written.
    """
    import cv2

    folder = views.folder
    if (folder / VIEWS).exists():
        raise InputError(f"{folder}: holds views already; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for view, picture in zip(views.views, pictures, strict=True):
            done, body = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            assert done
            write_bytes(folder / view.image.name, body.tobytes())
        if views.model:
            write_bytes(folder / MODEL, views.model.encode())
        if views.motion is not None:
            _write_motion(folder / MOTION, views.motion)
        write_json(folder / VIEWS, _described(views))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _described(views: Views) -> dict[str, Any]:
    from robopolicy.calibration.poses import to_dict

    listed = []
    for view in views.views:
        one: dict[str, Any] = {"image": view.image.name, "capture_ns": int(view.capture_ns)}
        if view.joints is not None:
            one["joints"] = [float(v) for v in view.joints]
        if view.pose is not None:
            one["pose"] = to_dict(view.pose)
        listed.append(one)
    board = None if views.board is None else views.board.to_dict()
    head = {"kind": KIND, "format": FORMAT, "robot": views.robot, "camera": views.camera, "frame": views.frame, "board": board}
    return {**head, "joints": list(views.names), "views": listed}


def _view(folder: Path, one: Any, joints: int, where: str) -> View:
    if not isinstance(one, Mapping) or not isinstance(one.get("image"), str):
        raise InputError(f"{where}: expected image, with joints or pose")
    image = folder / one["image"]
    if image.parent != folder or not image.is_file():
        raise InputError(f"{where}: there is no picture {one['image']!r} in {folder}")
    positions = None
    if one.get("joints") is not None:
        positions = np.array(one["joints"], np.float64)
        if positions.shape != (joints,) or not np.isfinite(positions).all():
            raise InputError(f"{where}: joints: expected {joints} numbers, as many as there are names")
    hand = None if one.get("pose") is None else from_dict(one["pose"], f"{where} pose")
    return View(image, positions, hand, int(one.get("capture_ns") or 0))


def _read_motion(path: Path) -> Motion:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
        out = Motion(**{name: values.astype(np.int64 if name.endswith("_ns") else np.float64) for name, values in arrays.items()})
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a recording of motion: {error}") from error
    for times, values in ((out.time_ns, out.measured), (out.commanded_ns, out.commanded)):
        if values.ndim != 2 or times.shape != values.shape[:1] or not np.isfinite(values).all() or (np.diff(times) <= 0).any():
            raise InputError(f"{path}: expected (T, n) numbers with (T,) rising times")
    return out


def _write_motion(path: Path, motion: Motion) -> None:
    assert temporary(path).name.endswith(TEMPORARY)
    with temporary(path).open("wb") as file:
        np.savez(file, time_ns=motion.time_ns, measured=motion.measured, commanded_ns=motion.commanded_ns, commanded=motion.commanded)
    publish(path)
