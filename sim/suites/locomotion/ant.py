"""Ant: a body on four legs of two joints each runs forward."""

from __future__ import annotations

import numpy as np

from sim.suites.locomotion import frames
from sim.suites.locomotion.running import Running

LOWEST, TILT = 0.2, 0.3  # m; cosine of the tilt of its back


class Ant(Running):
    """Nine links and eight motors; the episode ends when it lies low or on its side. See :class:`Running`."""

    task_name = "locomotion/ant"
    description = "a four-legged body runs forward"
    xml = "ant.xml"
    along = 2
    alive = 0.5
    finish_m = 10.0
    home = (0.0, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, *(0.0,) * 8)

    def fallen(self) -> np.ndarray:
        """Return (N,) bool: low, or far from level."""
        return (self.qpos[:, 2] < LOWEST) | (frames.rotations(self.qpos[:, 3:7])[:, 2, 2] < TILT)


TASKS = (Ant,)
