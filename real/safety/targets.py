"""What a stream of position targets says about its velocity and acceleration.

Backward differences over the last six targets, exact for polynomials of fifth degree. Where these do not fit the limits of
motion (the stream jumps, or its jerk does), a target counts as standing still.
"""

from __future__ import annotations

import numpy as np

from policies.motion import MotionLimits, Reference

# Backward difference formulas of fifth order in the six newest values, newest first, for the first three derivatives.
_DERIVATIVES = np.linalg.inv(np.vander(-np.arange(6.0), 6, increasing=True))[1:4] * np.array([[1.0], [2.0], [6.0]])
_ON_TARGET = 1e-7  # rad or m


class TargetStream:
    """The last targets of one robot.

    Args:
        limits: Of the joints (n,).
        tick_s: Time between two targets.
    """

    def __init__(self, limits: MotionLimits, tick_s: float) -> None:
        self._weights = _DERIVATIVES / tick_s ** np.arange(1, 4)[:, None]
        self._most = np.stack([limits.velocity, limits.acceleration, limits.jerk]) * (1 + 1e-6)
        self._targets: np.ndarray | None = None

    def clear(self) -> None:
        """Forget the targets."""
        self._targets = None

    def push(self, target: np.ndarray, position: np.ndarray) -> tuple[Reference, np.ndarray]:
        """Take the target (n,) for the end of the coming tick.

        Args:
            target: Joint positions (n,).
            position: Those that are commanded now (n,); before the first target they count as targets.

        Returns:
            The target with its motion (n,); which joints (n,) are to be led there exactly rather than by that motion: those
            whose target does not move smoothly, and those that have followed a moving one exactly so far.
        """
        if self._targets is None:
            self._targets = np.repeat(position[None], 6, axis=0)
        on_target = np.abs(self._targets[0] - position) <= _ON_TARGET
        self._targets[1:] = self._targets[:-1].copy()
        self._targets[0] = target
        motion = self._weights @ self._targets
        smooth = np.less_equal(np.abs(motion), self._most).all(axis=0)
        velocity, acceleration = np.where(smooth, motion[:2], 0.0)
        return Reference(target, velocity, acceleration), ~np.asarray(smooth) | (on_target & (np.abs(velocity) > _ON_TARGET))
