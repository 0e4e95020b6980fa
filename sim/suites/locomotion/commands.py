"""Velocity commands for a mobile base: drawn for a whole episode, followed, and judged honestly.

A legged base sways within a stride, so what is held against the command is the velocity averaged over about one stride, and
only once the robot has had time to get there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.draws import Draws

STRIDE_S = 0.5  # time constant of the average
SETTLE_S = 1.5  # after a new command, before its error counts
BETTER = 0.8  # share of the errors of standing still below which those of the base must be: small commands are within the limits anyway


class VelocityCommands:
    """What N bases are to do: (forward m/s, left m/s, yaw rate rad/s) in their own frames, anew every ``every_s`` seconds.

    Args:
        num_worlds: N.
        rate_hz: Of control steps.
        steps: Control steps of an episode.
        every_s: Time between two commands.
        low: Least of the three.
        high: Most of the three.
        standing: Share of the commands that are to stand still.

    Attributes:
        missed: (N, 2) sums over the judged steps of the errors of the averaged velocity: m/s in the plane, rad/s.
        asked: (N, 2) sums of what standing still would have missed.
        judged: (N,) steps in those sums.
    """

    def __init__(self, num_worlds: int, rate_hz: float, steps: int, every_s: float, low: Sequence[float], high: Sequence[float], standing: float) -> None:
        self.low, self.high, self.standing = np.asarray(low), np.asarray(high), standing
        self._steps, self._settle, self._blend = round(every_s * rate_hz), round(SETTLE_S * rate_hz), 1.0 / (STRIDE_S * rate_hz)
        self._count = -(-steps // self._steps)
        self._all = np.zeros((num_worlds, self._count, 3))
        self._worlds = np.arange(num_worlds)
        self._average = np.zeros((num_worlds, 3))
        self.missed, self.asked, self.judged = np.zeros((num_worlds, 2)), np.zeros((num_worlds, 2)), np.zeros(num_worlds)

    def draw(self, rows: np.ndarray, draws: Draws) -> None:
        """Draw the commands of the episodes that begin in worlds ``rows`` (K,), with ``draws`` (K rows)."""
        for k in range(self._count):  # one after the other, so that a longer limit leaves the first ones as they are
            stands = draws.uniform() < self.standing
            self._all[rows, k] = np.where(stands[:, None], 0.0, draws.uniform(self.low, self.high, (3,)))
        self._average[rows], self.missed[rows], self.asked[rows], self.judged[rows] = 0.0, 0.0, 0.0, 0.0

    def impose(self, rows: np.ndarray, command: np.ndarray) -> None:
        """Give worlds ``rows`` (K,) one ``command`` (3,) or (K, 3) for the rest of the episode instead."""
        self._all[rows] = np.broadcast_to(command, (len(rows), 3))[:, None]

    def at(self, elapsed: np.ndarray) -> np.ndarray:
        """Return the commands (N, 3) after ``elapsed`` (N,) control steps."""
        return self._all[self._worlds, np.minimum(elapsed // self._steps, self._count - 1)]

    def judges(self, elapsed: np.ndarray) -> np.ndarray:
        """Return (N,) bool: whether the step after ``elapsed`` (N,) counts, the base having had time to follow the present command."""
        return elapsed % self._steps >= self._settle

    def follow(self, velocity: np.ndarray, command: np.ndarray, elapsed: np.ndarray) -> np.ndarray:
        """Take in the ``velocity`` (N, 3) that the step after ``elapsed`` (N,) ended with; return the errors (N, 2) of its average."""
        self._average += (velocity - self._average) * self._blend
        off = self._average - command
        errors = sizes(off)
        counts = self.judges(elapsed)
        self.missed += errors * counts[:, None]
        self.asked += sizes(command) * counts[:, None]
        self.judged += counts
        return errors

    def tracked(self, limits: Sequence[float]) -> np.ndarray:
        """Return (N,) bool: the mean errors over the judged steps, m/s and rad/s, keep within ``limits`` (two numbers), not by standing still."""
        missed, asked = self.missed / limits, self.asked / limits
        moved = missed[:, 0] + missed[:, 1] < BETTER * (asked[:, 0] + asked[:, 1])
        return np.all(missed < self.judged[:, None], axis=1) & (moved | ~self.asked.any(axis=1))


def sizes(velocity: np.ndarray) -> np.ndarray:
    """Return (N, 2): speed in the plane and of turning of ``velocity`` (N, 3)."""
    return np.stack([np.hypot(velocity[:, 0], velocity[:, 1]), np.abs(velocity[:, 2])], axis=1)
