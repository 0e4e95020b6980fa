"""What reached the robot: the twin's log as positions tick by tick, and the questions that the failure tests ask of it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.motion import MotionLimits
from real.safety.brake import Brake
from tests.real.judge import nearest_m, violations

_STILL = 20  # ticks without motion that are called standing still
_LATE_S = 0.05  # without a command, during which a robot of positions has stood at the last


@dataclass(frozen=True)
class Arrivals:
    """K messages of the drive to its robot; one a drive tick.

    Attributes:
        limits: Of the robot.
        tick_s: Period of the drive, s.
        arrived_ns: (K,) int64, monotonic.
        position: (K, n) float64: the command, of a hold the one before it.
        written: (K,) bool: a command, not a hold.
        anew: (K,) bool: the robot had come to rest by itself before this one: an episode began, commands had stopped coming, or
            they had been missing for so long that the drive took it for that and says so by repeating the last.
        before: (K, n) where the robot stood before those that are ``anew``; the position before for the others.
        refused: Why the robot did not take a message, for all that it refused.
    """

    limits: MotionLimits
    tick_s: float
    arrived_ns: np.ndarray
    position: np.ndarray
    written: np.ndarray
    anew: np.ndarray
    before: np.ndarray
    refused: list[str]

    def __len__(self) -> int:
        return len(self.arrived_ns)

    def row(self, ns: int) -> int:
        """Return the first row that arrived after monotonic ``ns``."""
        return int(np.searchsorted(self.arrived_ns, ns))

    def still_from(self, row: int = 0) -> int | None:
        """Return the first row from ``row`` on after which the robot is told to stand for 20 ticks; None: it never is."""
        moved = (np.diff(self.position, axis=0, prepend=self.position[:1]) != 0).any(axis=1)
        ahead = np.concatenate([[0], np.cumsum(moved)])  # ahead[k]: how often it moved before row k
        standing = np.flatnonzero(ahead[_STILL + 1 :] == ahead[1:-_STILL]) if len(self) > _STILL else np.zeros(0, int)
        later = standing[standing >= row]
        return int(later[0]) if len(later) else None

    def stop_bound(self, row: int, late: int = 0, emergency: bool = False) -> np.ndarray:
        """Return how far the joints (n,) may go after ``row``: ``late`` ticks at full acceleration, and the brake from there.

        ``emergency``: with the limits of a stop. Velocity and acceleration at ``row`` are differences of the log, and what the jerk may hide
        between two rows is added.
        """
        q, h, limits = self.position[row - 2 : row + 1], self.tick_s, self.limits
        moving, t = (q[2] - q[1]) / h, late * h
        acceleration = np.where(moving >= 0, 1, -1) * (q[2] - 2 * q[1] + q[0]) / h**2 + limits.jerk * (h + t)
        acceleration = np.minimum(acceleration, limits.acceleration)
        velocity = np.abs(moving) + np.maximum(acceleration, 0) * (h + t) + limits.jerk * h * h
        velocity = np.minimum(velocity, limits.velocity + limits.jerk * h * h)
        kind = "stop_" if emergency else ""
        brake = Brake(velocity, acceleration, getattr(limits, f"{kind}acceleration"), getattr(limits, f"{kind}jerk"))
        return velocity * t + np.maximum(brake.high, -brake.low)

    def require_safe(self) -> None:
        """Fail unless every message was taken, finite, in range, and moved the robot within its limits (``tests.real.judge``).

        The drive's brake may come at any time, so the limits of acceleration and jerk are those of a stop.
        """
        limits, h = self.limits, self.tick_s
        assert self.refused == [], f"the robot itself refused: {self.refused[:3]}"
        assert np.isfinite(self.position).all()
        starts = np.flatnonzero(self.anew)
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):
            found = violations(self.position[start:end], h, limits, start=self.before[start])
            assert not found, f"of the {len(self)} rows from {start} on: {found}"

    def require_clear(self, model: str) -> None:
        """Fail unless the arm of ``model`` (MJCF) was told to keep clear of the table, which is the plane z = 0, and of itself."""
        floored = model.replace("<worldbody>", '<worldbody><geom name="floor" type="plane" size="1 1 1"/>', 1)
        far = ("link5", "link6", "link7", "tool")
        pairs = [(a, b) for a in ("base", "link1", "link2") for b in far] + [("floor", b) for b in ("link3", "link4", *far)]
        nearest = nearest_m(floored, self.position[::3], pairs, self.limits.names)
        assert min(nearest.values()) > 0, f"{min(nearest, key=nearest.__getitem__)} meet"

    def without_freeze(self, ns: int) -> Arrivals:
        """Return this for a robot that was itself frozen at monotonic ``ns``, until which its commands went unread.

        Its world knows nothing of the time that passed. The drive does, and takes it to have come to rest: motion begins anew
        where the one command that was on its way has led.
        """
        row = self.row(ns)
        anew, before = self.anew.copy(), self.before.copy()
        anew[row : row + 2] = True
        before[row : row + 2] = self.position[row : row + 2]
        return dataclasses.replace(self, anew=anew, before=before)

    def most_in(self, ticks: int) -> int:
        """Return the largest number of messages that arrived within ``ticks`` periods of each other."""
        ends = np.searchsorted(self.arrived_ns, self.arrived_ns + round(1e9 * ticks * self.tick_s))
        return int((ends - np.arange(len(self))).max())


def worst_brake_ticks(limits: MotionLimits, tick_s: float) -> int:
    """Return the ticks that the slowest brake takes, from full velocity while still accelerating fully."""
    brake = Brake(limits.velocity, limits.acceleration, limits.acceleration, limits.jerk)
    return int(np.ceil(brake.duration.max() / tick_s))


class RobotLog:
    """Reads the twin's log (``robopolicy twin --log``) while it grows.

    Args:
        path: Of the log; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._about = path, 0, {}
        self._rows: list[tuple[int, np.ndarray, np.ndarray, bool, bool]] = []  # arrived, position, before, written, anew
        self._refused: list[str] = []
        self._last, self._fresh = np.zeros(0), True

    def arrivals(self) -> Arrivals:
        """Return what has reached the robot so far."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new, found, _ = file.read().rpartition(b"\n")
        self._offset += len(new) + len(found)
        for line in new.splitlines():
            self._take(json.loads(line))
        limits, tick_s = MotionLimits.from_dict(self._about["motion"]), 1.0 / self._about["rate_hz"]
        shape = len(self._rows), limits.n
        arrived, position, before, written, anew = ([row[k] for row in self._rows] for k in range(5))
        times, table, stood = np.array(arrived, np.int64), np.array(position).reshape(shape), np.array(before).reshape(shape)
        late = np.diff(times, prepend=times[:1]) > 1e9 * _LATE_S
        silent = np.array(anew, bool)
        begun = silent | (late & (table == stood).all(axis=1))
        # A robot that was starved itself finds one command waiting that is a tick further, and then the drive's repetition of it.
        for row in np.flatnonzero(silent[1:-1]) + 1:
            step = np.abs(table[row] - stood[row])
            if (table[row + 1] == table[row]).all() and (step <= limits.velocity * tick_s * (1 + 1e-6)).all():
                begun[row + 1], stood[row] = True, table[row]
        return Arrivals(limits, tick_s, times, table, np.array(written, bool), begun, stood, list(self._refused))

    def _take(self, event: dict[str, Any]) -> None:
        """Take one line in."""
        kind = event["kind"]
        if kind == "start":
            self._about = self._about or event["about"]
        elif kind in ("begin", "silent"):
            self._last, self._fresh = np.array(event["command"]) if kind == "begin" else self._last, True
        elif event.get("refused"):
            self._refused.append(event["refused"])
        else:
            before = self._last
            self._last = np.array(event["command"], np.float64) if kind == "write" else before
            self._rows.append((event["t"], self._last, before, kind == "write", self._fresh))
            self._fresh = False
