"""The whole stack with its robot behind ROS 2: the twin offers a ros2_control robot's topics, the drive has ``robot=ros2``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sim.registry
from tests.faults.stack import TASK, Stack

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
        limits = ["robot.tracking=0.2", "robot.stop_acceleration=12.0", "robot.stop_jerk=400.0", "robot.connect_s=30"]
        return ["robot=ros2", f"robot.domain={self.domain}", f"robot.spec={spec}", *limits, *(f"robot.{option}" for option in self._options)]
