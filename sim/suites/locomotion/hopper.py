"""Hopper: a torso on one leg hops forward in a plane."""

from __future__ import annotations

import numpy as np

from sim.suites.locomotion.running import Running

LOWEST, STEEPEST = -0.45, 0.7  # m, of the hip below where it starts; rad


class Hopper(Running):
    """Four links and three motors; the episode ends when the hip is low or the torso leans far. See :class:`Running`."""

    task_name = "locomotion/hopper"
    description = "a one-legged body hops forward in a plane"
    xml = "hopper.xml"
    alive = 1.0
    finish_m = 10.0
    # The foot lies flat below the hip: its bottom is 0.08 m below the ankle, thigh and shank take 0.4 and 0.42 m.
    home = (0.0, 0.4 * np.cos(0.5) + 0.42 * np.cos(0.48) + 0.08 - 0.9, 0.0, -0.5, 0.98, -0.48)

    def fallen(self) -> np.ndarray:
        """Return (N,) bool: low, or far from upright."""
        return (self.qpos[:, 1] < LOWEST) | (np.abs(self.qpos[:, 2]) > STEEPEST)


TASKS = (Hopper,)
