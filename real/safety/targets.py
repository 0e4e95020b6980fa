"""What a stream of position targets says about its velocity and acceleration.

Backward differences over the last six targets, exact for polynomials of fifth degree. A stream that jumps has no velocity:
until six targets in a row fit the limits of motion, a joint's target counts as standing still.
"""

from __future__ import annotations

import numpy as np

from policies.motion import MotionLimits, Reference

# Backward difference formulas of fifth order in the six newest values, newest first, for the first three derivatives.
_DERIVATIVES = np.linalg.inv(np.vander(-np.arange(6.0), 6, increasing=True))[1:4] * np.array([[1.0], [2.0], [6.0]])


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
        """Forget: the next target stands still."""
        self._targets = None

    def push(self, target: np.ndarray) -> tuple[Reference, bool]:
        """Take the target (n,) for the end of the coming tick; return it with its motion, and whether all joints move smoothly."""
        if self._targets is None:
            self._targets = np.repeat(target[None], 6, axis=0)
        else:
            self._targets[1:] = self._targets[:-1].copy()
            self._targets[0] = target
        motion = self._weights @ self._targets
        smooth = (np.abs(motion) <= self._most).all(axis=0)
        velocity, acceleration = np.where(smooth, motion[:2], 0.0)
        return Reference(target, velocity, acceleration), bool(smooth.all())
