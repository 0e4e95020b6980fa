"""Views from a robot that a person moves: pictures, joints and commands from the telemetry of a running teleoperation or run.

Nothing is commanded here. The person brings the arm into postures (through the same controller and safety filter as a
policy); a picture is kept when the arm stands still somewhere new and the board is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from policies.spec import InputError, suggest
from real.telemetry import Subscription
from real.telemetry_wire import Record
from robopolicy.calibration.board import Board
from robopolicy.calibration.views import Motion, View, Views, write_views

_STILL_S, _STILL = 0.3, 2e-3  # rad or m: so long within so much
_NEW = 0.08  # rad or m: some joint differs that much from every view before
_KEPT_S = 5.0  # of ticks while views are collected
_PATIENCE_S = 10.0  # for the first word


class Collector:
    """Takes views out of telemetry; pure: records in, views out.

    Args:
        board: What must be seen.
        camera: Observation field, or the last part of its name; empty: the only one.
        moving: Keep every picture and all motion instead of still views.
    """

    def __init__(self, board: Board, camera: str = "", moving: bool = False) -> None:
        self.board, self.camera, self.moving = board, camera, moving
        self.names: tuple[str, ...] = ()
        self.model = self.robot = ""
        self.pictures: list[np.ndarray] = []
        self.views: list[View] = []
        self.seen: set[str] = set()  # cameras
        self.said = ""  # why the last picture was not kept
        self._ticks: deque[tuple[int, np.ndarray, np.ndarray]] = deque()

    def take(self, record: Record) -> bool:
        """Take one record of telemetry; returns whether it became a view. Raises InputError for a robot without joints or such a camera."""
        values = record.values
        if record.kind == "info":
            self.names = tuple(str(name) for name in values.get("joints") or ())
            self.model, self.robot = str(values.get("model") or ""), str(values.get("robot") or "")
            if not self.names:
                raise InputError("calibrate collect: this robot is not commanded by joint positions: put poses of its hand into views.json by hand")
        elif record.kind == "tick" and "measured" in values:
            measured = np.array(values["measured"], np.float64)
            self._ticks.append((record.stamp_ns, measured, np.array(values.get("reference", measured), np.float64)))
            while not self.moving and record.stamp_ns - self._ticks[0][0] > 1e9 * _KEPT_S:
                self._ticks.popleft()
        elif record.kind == "image":
            return self._picture(str(values["name"]), int(values["capture_ns"]), values["image"])
        return False

    def motion(self) -> Motion:
        """Return all motion that was kept: ``measured`` and ``commanded`` (T, n). Raises InputError if there was none to keep."""
        unique = {stamp: (measured, reference) for stamp, measured, reference in self._ticks}
        if not unique:
            raise InputError("calibrate collect: the telemetry said nothing of where the joints stand: no delay can be told from these pictures")
        stamps = np.array(sorted(unique), np.int64)
        measured = np.array([unique[int(s)][0] for s in stamps]).reshape(len(stamps), -1)
        commanded = np.array([unique[int(s)][1] for s in stamps]).reshape(len(stamps), -1)
        return Motion(stamps, measured, stamps.copy(), commanded)

    def _picture(self, name: str, capture_ns: int, image: np.ndarray) -> bool:
        self.seen.add(name)
        if self.camera and self.camera not in (name, name.rpartition(".")[2]):
            return False
        if not self.camera and len(self.seen) > 1:
            raise InputError(f"calibrate collect: several cameras ({', '.join(sorted(self.seen))}): name one with --camera")
        if self.moving:
            return self._keep(image, capture_ns, None)
        still = self._still_at(capture_ns)
        if still is None:
            self.said = "moving"
        elif any(np.abs(still - np.asarray(view.joints)).max() < _NEW for view in self.views):
            self.said = "seen from here already"
        elif self.board.detect(image) is None:
            self.said = "the board is not seen"
        else:
            return self._keep(image, capture_ns, still)
        return False

    def _keep(self, image: np.ndarray, capture_ns: int, joints: np.ndarray | None) -> bool:
        self.said = ""
        self.pictures.append(np.array(image))
        self.views.append(View(Path(f"view-{len(self.views):04d}.png"), joints, None, capture_ns))
        return True

    def _still_at(self, time_ns: int) -> np.ndarray | None:
        """Return where the joints (n,) have stood since a while before ``time_ns``; None if they moved, or nobody knows."""
        since = time_ns - int(1e9 * _STILL_S)
        recent = [measured for stamp, measured, _ in self._ticks if stamp >= since]
        if len(recent) < 3 or self._ticks[0][0] > since or np.ptp(recent, axis=0).max() > _STILL:
            return None
        return np.mean(recent, axis=0)


def collect(
    telemetry: str, folder: str | Path, board: Board, camera: str = "", count: int = 20, moving_s: float = 0.0, frame: str = "",
    told: Callable[[int, int, str], None] = lambda done, of, why: None, stopped: Callable[[], bool] = lambda: False,
) -> Views:  # fmt: skip
    """Collect views from the telemetry at ``telemetry`` into ``folder`` while a person moves the robot.

    Args:
        telemetry: Address of a run's telemetry on this machine.
        folder: New.
        board: What must be seen.
        camera: Observation field, or the last part of its name; empty: the only one.
        count: Still views.
        moving_s: Instead: everything for so many seconds, for delays.
        frame: Site or body of the hand, noted in the folder.
        told: Called with views kept, their number, and why the last picture was not kept.
        stopped: Asked all the time; what was kept so far is written.

    Raises:
        InputError: nothing is heard there, no such camera, too few views, or the folder is taken.
    """
    collector, reader = Collector(board, camera, moving_s > 0), Subscription(telemetry)
    first_ns = last_ns = 0
    try:
        waits = 0.0
        while not stopped() and (moving_s > 0 or len(collector.views) < count):
            record = reader.poll(0.1)
            if record is None:
                waits += 0.1
                if not first_ns and waits > _PATIENCE_S:
                    raise InputError(f"calibrate collect: nothing is heard at {telemetry}: start robopolicy teleop or robopolicy run first")
                continue
            first_ns, last_ns = first_ns or record.stamp_ns, max(last_ns, record.stamp_ns)
            collector.take(record)
            told(len(collector.views), count, collector.said)
            if moving_s and last_ns - first_ns > 1e9 * moving_s:
                break
    finally:
        reader.close()
    if not collector.views:
        there = suggest(camera, collector.seen) if camera else ""
        raise InputError(f"calibrate collect: no picture of {camera or 'a camera'} was kept{there}")
    name = (camera or next(iter(collector.seen))).rpartition(".")[2]
    motion = collector.motion() if moving_s else None
    views = Views(Path(folder), collector.views, collector.names, frame, collector.model, board, collector.robot, name, motion)
    write_views(views, collector.pictures)
    return views
