"""What reached the robot: the twin's log as positions tick by tick, and the questions that the failure tests ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.motion import MotionLimits
from real.safety.brake import Brake
from robopolicy.twin_log import TwinEvents, read_log

_STILL = 20  # ticks without motion that are called standing still


@dataclass(frozen=True)
class Arrivals:
    """K messages of the drive to its robot; one a drive tick.

    Attributes:
        limits: Of the robot.
        tick_s: Period of the drive, s.
        arrived_ns: (K,) int64, monotonic.
        position: (K, n) float64: the command, of a hold the one before it.
        written: (K,) bool: a command, not a hold.
        anew: (K,) bool: the robot had come to rest by itself before this one (an episode began, or commands had stopped coming).
        refused: Why the robot did not take a message, for all that it refused.
    """

    limits: MotionLimits
    tick_s: float
    arrived_ns: np.ndarray
    position: np.ndarray
    written: np.ndarray
    anew: np.ndarray
    refused: list[str]

    def __len__(self) -> int:
        return len(self.arrived_ns)

    def row(self, ns: int) -> int:
        """Return the first row that arrived after monotonic ``ns``."""
        return int(np.searchsorted(self.arrived_ns, ns))

    def still_from(self, row: int = 0) -> int | None:
        """Return the first row from ``row`` on after which the robot is told to stand for 20 ticks; None: it never is."""
        moved = np.abs(np.diff(self.position, axis=0, prepend=self.position[:1])).max(axis=1) > 0
        for k in range(row, len(self) - _STILL):
            if not moved[k + 1 : k + 1 + _STILL].any():
                return k
        return None

    def stop_bound(self, row: int, late: int = 0, emergency: bool = False) -> np.ndarray:
        """Return how far the joints (n,) may go after ``row``: ``late`` ticks at full acceleration, and the brake from there.

        Velocity and acceleration at ``row`` are differences of the log; what the jerk may hide between two rows is added.
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

    def most_in(self, ticks: int) -> int:
        """Return the largest number of messages that arrived within ``ticks`` periods of each other."""
        ends = np.searchsorted(self.arrived_ns, self.arrived_ns + round(1e9 * ticks * self.tick_s))
        return int((ends - np.arange(len(self))).max())


def worst_brake_ticks(limits: MotionLimits, tick_s: float) -> int:
    """Return the ticks that the slowest brake takes, from full velocity while still accelerating fully."""
    brake = Brake(limits.velocity, limits.acceleration, limits.acceleration, limits.jerk)
    return int(np.ceil(brake.duration.max() / tick_s))


def arrivals(log: Path | TwinEvents) -> Arrivals:
    """Read what reached the robot from the twin's log."""
    events = read_log(log) if isinstance(log, Path) else log
    limits, tick_s = MotionLimits.from_dict(events.about["motion"]), 1.0 / events.about["rate_hz"]
    rows, position, written, anew, last, fresh = [], [], [], [], np.full(limits.n, np.nan), True
    refused = [str(text) for text in events.refused if text]
    for k, kind in enumerate(events.kind):
        if kind in ("begin", "silent"):
            last, fresh = (events.command[k], True) if kind == "begin" else (last, True)
        elif not events.refused[k]:
            last = events.command[k] if kind == "write" else last
            rows.append(k)
            position.append(last)
            written.append(kind == "write")
            anew.append(fresh)
            fresh = False
    table = np.array(position).reshape(len(rows), limits.n)
    return Arrivals(limits, tick_s, events.arrived_ns[rows], table, np.array(written, bool), np.array(anew, bool), refused)
