"""Cheetah: a trunk on two legs runs forward in a plane."""

from __future__ import annotations

import numpy as np

from sim.suites.locomotion.rhythm import Rhythm
from sim.suites.locomotion.running import Running

# Of hip, knee and ankle, hind before front.
GAIT = Rhythm(
    frequency=3.91,
    middle=(-0.354, 0.89, -0.331, -0.529, 0.769, -0.37),
    swing=(0.527, 0.303, 0.244, 0.293, 0.101, 0.291),
    phase=(0.0, 0.089, -0.413, 1.426, -1.775, 1.227),
    stiffness=2.581,
    damping=0.071,
    feedback=((0.219,), (0.0,), (0.0,), (0.142,), (0.0,), (0.0,)),  # of the pitch
)


class Cheetah(Running):
    """Seven links and six motors; it may fall and get up again, no episode ends before its time. See :class:`Running`."""

    task_name = "locomotion/cheetah"
    description = "a two-legged body runs forward in a plane"
    success = "40 m run forward from the start"
    xml = "cheetah.xml"
    tags = ("expert",)
    finish_m = 40.0
    home = (0.0, 0.5 * np.cos(0.4) + 0.05 - 0.5, 0.0, -0.4, 0.8, -0.4, -0.4, 0.8, -0.4)  # feet flat

    def expert_action(self) -> np.ndarray:
        """Return the action (N, 6) of a bounding gait."""
        return GAIT.torques(self._elapsed / self.rate_hz, self.qpos[:, 3:], self.qvel[:, 3:], self.qpos[:, 2:3]).astype(np.float32)


TASKS = (Cheetah,)
