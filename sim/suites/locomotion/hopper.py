"""Hopper: a torso on one leg hops forward in a plane."""

from __future__ import annotations

import numpy as np

from sim.suites.locomotion.rhythm import Rhythm
from sim.suites.locomotion.running import Running

LOWEST, STEEPEST = -0.45, 0.7  # m, of the hip below where it starts; rad
CRUISE = 1.0  # m/s
# Of hip, knee and ankle; felt are the pitch, its rate, the speed beyond CRUISE and the speed upwards, up to 2 m/s.
GAIT = Rhythm(
    frequency=1.924,
    middle=(-0.526, 1.102, -0.498),
    swing=(0.14, 0.123, 0.142),
    phase=(0.0, -1.526, -0.468),
    stiffness=3.391,
    damping=0.109,
    feedback=((-0.306, 0.057, 0.011, 0.306), (0.0, 0.0, 0.0, 0.0), (0.789, 0.068, 0.236, 0.46)),
)


class Hopper(Running):
    """Four links and three motors; the episode ends when the hip is low or the torso leans far. See :class:`Running`."""

    task_name = "locomotion/hopper"
    description = "a one-legged body hops forward in a plane"
    success = "10 m run forward from the start without having fallen"
    tags = ("expert",)
    xml = "hopper.xml"
    alive = 1.0
    finish_m = 10.0
    # The foot lies flat below the hip: its bottom is 0.08 m below the ankle, thigh and shank take 0.4 and 0.42 m.
    home = (0.0, 0.4 * np.cos(0.5) + 0.42 * np.cos(0.48) + 0.08 - 0.9, 0.0, -0.5, 0.98, -0.48)

    def fallen(self) -> np.ndarray:
        """Return (N,) bool: low, or far from upright."""
        return (self.qpos[:, 1] < LOWEST) | (np.abs(self.qpos[:, 2]) > STEEPEST)

    def expert_action(self) -> np.ndarray:
        """Return the action (N, 3) of hops in time that balance the torso."""
        felt = np.stack([self.qpos[:, 2], self.qvel[:, 2], self.qvel[:, 0] - CRUISE, np.clip(self.qvel[:, 1], -2.0, 2.0)], axis=1)
        return GAIT.torques(self._elapsed / self.rate_hz, self.qpos[:, 3:], self.qvel[:, 3:], felt).astype(np.float32)


TASKS = (Hopper,)
