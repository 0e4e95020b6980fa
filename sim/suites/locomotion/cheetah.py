"""Cheetah: a trunk on two legs runs forward in a plane."""

from __future__ import annotations

import numpy as np

from sim.suites.locomotion.running import Running


class Cheetah(Running):
    """Seven links and six motors; it may fall and get up again, no episode ends before its time. See :class:`Running`."""

    task_name = "locomotion/cheetah"
    description = "a two-legged body runs forward in a plane"
    xml = "cheetah.xml"
    finish_m = 20.0
    home = (0.0, 0.5 * np.cos(0.4) + 0.05 - 0.5, 0.0, -0.4, 0.8, -0.4, -0.4, 0.8, -0.4)  # feet flat


TASKS = (Cheetah,)
