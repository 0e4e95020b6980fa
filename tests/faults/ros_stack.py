"""The whole stack with its robot behind ROS 2: the twin offers a ros2_control robot's topics, the drive has ``robot=ros2``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import sim.registry
from tests.faults.arrivals import Arrivals
from tests.faults.stack import TASK, Stack

LEAD_S = 0.08  # commands are sent so long before they are due: a machine full of tests is often late
TRAJECTORY = "/joint_trajectory_controller/joint_trajectory"


class RosStack(Stack):
    """See :class:`Stack`.

    Args:
        folder: For sockets, logs and state.
        domain: DDS domain that nobody else uses.
        robot: Further options of the driver, ``key=value``.
        others: As of :class:`Stack`.
    """

    def __init__(self, folder: Path, domain: int, robot: tuple[str, ...] = (), **others: Any) -> None:
        super().__init__(folder, **others)
        self.domain, self._options = domain, robot

    def twin_words(self) -> list[object]:
        """How the twin is reached, as words of its command line."""
        return ["--ros2", "--domain", self.domain]

    def robot_words(self) -> list[str]:
        """The robot of the drive, once the twin is there; it offers the spec of the task."""
        self.twin.ready()
        env = sim.registry.make(TASK, 1, autoreset=False)
        spec = self.folder / "spec.json"
        spec.write_text(json.dumps(env.spec.to_dict()))
        env.close()
        limits = ["robot.tracking=0.6", "robot.stop_acceleration=12.0", "robot.stop_jerk=400.0", "robot.connect_s=30", f"robot.lead_s={LEAD_S}"]
        return ["robot=ros2", f"robot.domain={self.domain}", f"robot.spec={spec}", *limits, *(f"robot.{option}" for option in self._options)]

    def judge(self) -> Arrivals:
        """Fail unless everything that the controllers told the joints was safe.

        A trajectory that came when it was over is refused, as it should be. Ticks that the twin was late for it makes up for.
        """
        found = self.arrived()
        found = dataclasses.replace(found, refused=[cause for cause in found.refused if cause != "past"])
        found.require_safe()
        return found
