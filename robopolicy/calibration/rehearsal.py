"""Folders of views from a rendered rehearsal: what one would collect from a robot, and the planted truth beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from robopolicy.calibration.board import Board
from robopolicy.calibration.poses import to_dict
from robopolicy.calibration.scene import FRAME, Scene
from robopolicy.calibration.views import Motion, View, Views, write_views
from robopolicy.data.atomic import write_json
from sim.suites.arm import JOINTS, robot_model

CAMERA, TRUTH = "wrist", "planted.json"
OFFSETS = (0.0, 0.012, -0.018, 0.015, 0.01, -0.014, 0.0)  # rad; the first and the last cannot be told from pictures
CAMERA_S, ACTUATION_S = 0.045, 0.03
_RATE_HZ, _PICTURES_HZ, _BEFORE_S = 100.0, 30.0, 1.2
_SWING, _SWING_HZ = 0.06, 0.9  # rad


def rehearse(
    folder: str | Path, eye: str = "in-hand", count: int = 20, moving_s: float = 0.0, seed: int = 0, board: Board | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Views:  # fmt: skip
    """Render views of a board and write them to ``folder`` as if they had been collected, with ``planted.json`` beside them.

    Args:
        folder: New.
        eye: ``in-hand`` or ``to-hand``.
        count: Still views.
        moving_s: Instead of still views: so many seconds in which the arm swings, for delays.
        seed: Of the postures.
        board: What is drawn; None: the usual one.
        told: Called with the pictures drawn and their number.

    Raises:
        InputError: this machine cannot draw, or the folder is taken.
    """
    board = board or Board()
    scene = Scene(eye, board, offsets=np.array(OFFSETS), fine=1 if moving_s else 2)
    try:
        if moving_s:
            views, pictures = _moving(scene, Path(folder), moving_s, seed, told)
        else:
            views, pictures = _still(scene, Path(folder), count, seed, told)
    finally:
        scene.close()
    write_views(views, pictures)
    assert scene.mount is not None and scene.place is not None
    write_json(
        Path(folder) / TRUTH,
        {
            "camera": scene.camera.to_dict(), "mount": {"eye": eye, "frame": FRAME if eye == "in-hand" else "base", **to_dict(scene.mount)},
            "board": to_dict(scene.place), "offsets": dict(zip(JOINTS, OFFSETS, strict=True)),
            "camera_latency_s": CAMERA_S, "actuation_latency_s": ACTUATION_S,
        },
    )  # fmt: skip
    return views


def _empty(scene: Scene, folder: Path) -> Views:
    return Views(folder, [], JOINTS, FRAME, robot_model(), scene.board, "rehearsal", CAMERA)


def _still(scene: Scene, folder: Path, count: int, seed: int, told: Callable[[int, int], None]) -> tuple[Views, list[np.ndarray]]:
    out, pictures = _empty(scene, folder), []
    for k, joints in enumerate(scene.postures(count, seed)):
        pictures.append(scene.picture(joints))
        out.views.append(View(folder / f"view-{k:04d}.png", scene.reading(joints)))
        told(k + 1, count)
    return out, pictures


def _moving(scene: Scene, folder: Path, seconds: float, seed: int, told: Callable[[int, int], None]) -> tuple[Views, list[np.ndarray]]:
    """Let the arm swing; what was commanded leads it by the planted delay, and pictures are stamped late by theirs."""
    out, middle = _empty(scene, folder), scene.postures(1, seed)[0]
    generator = np.random.default_rng([seed, 1])
    parts = generator.uniform(-1, 1, 7)
    parts *= _SWING / np.abs(parts).max()
    second = generator.uniform(0, 2 * np.pi)

    def where(t: np.ndarray) -> np.ndarray:
        """Return the arm's true joints (T, 7) at times (T,), s."""
        swing = np.sin(2 * np.pi * _SWING_HZ * t) + 0.5 * np.sin(2 * np.pi * 2.3 * _SWING_HZ * t + second)
        return middle + swing[:, None] * parts / 1.5

    ticks = np.arange(0.0, seconds + 2 * _BEFORE_S, 1 / _RATE_HZ)
    taken = np.arange(_BEFORE_S, _BEFORE_S + seconds, 1 / _PICTURES_HZ)
    pictures = []
    for k, (t, joints) in enumerate(zip(taken, where(taken), strict=True)):
        pictures.append(scene.picture(joints))
        out.views.append(View(folder / f"view-{k:04d}.png", capture_ns=round(1e9 * (t + CAMERA_S))))
        told(k + 1, len(taken))
    stamps = np.round(1e9 * ticks).astype(np.int64)
    out.motion = Motion(stamps, where(ticks) - scene.offsets, stamps, where(ticks + ACTUATION_S) - scene.offsets)
    return out, pictures
