"""Ant: a body on four legs of two joints each runs forward."""

from __future__ import annotations

import numpy as np

from sim.mirror import Mirror
from sim.suites.locomotion import frames
from sim.suites.locomotion.rhythm import Rhythm
from sim.suites.locomotion.running import Running

LOWEST, TILT = 0.2, 0.3  # m; cosine of the tilt of its back
# Of the hips and knees of front left, front right, rear left, rear right: diagonal legs together, as in a trot.
PI, LAG = np.pi, 3.245
GAIT = Rhythm(
    frequency=2.13,
    middle=(0.1, 0.118, -0.1, 0.118, -0.1, 0.118, 0.1, 0.118),
    swing=(-0.654, 0.316, 0.654, 0.316, -0.654, 0.316, 0.654, 0.316),
    phase=(0.0, LAG, PI, PI + LAG, PI, PI + LAG, 0.0, LAG),
    stiffness=1.734,
    damping=0.015,
    steer=(1.852, 1.852, -1.852, -1.852, 1.852, 1.852, -1.852, -1.852),
)
BACK_TO_LINE = 0.3  # rad for each m to the left of the line


class Ant(Running):
    """Nine links and eight motors; the episode ends when it lies low or on its side. See :class:`Running`."""

    task_name = "locomotion/ant"
    description = "a four-legged body runs forward"
    success = "15 m run forward from the start without having fallen"
    xml = "ant.xml"
    tags = ("expert",)
    along = 2
    mirror = Mirror(
        swapped=(("fl_", "fr_"), ("rl_", "rr_")),
        flipped=("base.i", "base.k", "base.y.velocity", "base.wx.velocity", "base.wz.velocity", "*_hip", "*_hip.*"),
    )
    alive = 0.5
    finish_m = 15.0
    home = (0.0, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, *(0.0,) * 8)

    def fallen(self) -> np.ndarray:
        """Return (N,) bool: low, or far from level."""
        return (self.qpos[:, 2] < LOWEST) | (frames.rotations(self.qpos[:, 3:7])[:, 2, 2] < TILT)

    def expert_action(self) -> np.ndarray:
        """Return the action (N, 8) of a trot that keeps to the x axis by longer steps on one side."""
        cos, sin = frames.heading(frames.rotations(self.qpos[:, 3:7]))
        course = np.arctan2(sin, cos) + BACK_TO_LINE * np.clip(self.qpos[:, 1], -2.0, 2.0)
        return GAIT.torques(self._elapsed / self.rate_hz, self.qpos[:, 7:], self.qvel[:, 6:], course=course).astype(np.float32)


TASKS = (Ant,)
