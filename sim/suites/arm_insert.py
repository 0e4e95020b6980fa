"""A peg at the end of the arm and a hole to put it into, with contact.

The peg, round, 24 mm thick and with a round end, is fixed to the flange in place of the tool, so all actions are joint positions and
a twin can drive this arm as it drives the others. The hole is square, 30 mm wide: 3 mm are left on every side of a peg that stands
in the middle. The block with the hole is fixed to the table, at another place and angle in every episode; touching it is allowed.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.arm_expert import TipServo, insert_waypoint
from sim.suites.arm import HOME, DrivenArm, N, robot_model

PEG_RADIUS, HOLE_HALF = 0.012, 0.015  # m: what is left between them is CLEARANCE
CLEARANCE = HOLE_HALF - PEG_RADIUS
BLOCK_HALF, BLOCK_HEIGHT = 0.05, 0.07  # m
DEPTH, BOTTOM = 0.04, 0.022  # m: how deep the tip must be for success; height to which the expert goes down
RADIUS, ANGLE, YAW = (0.45, 0.6), 0.45, 0.4  # m from the base's axis, rad to both sides, rad of the block's own turn
ABOVE = 0.02  # m over the block: where the dense reward wants a tip that is not over the hole


@functools.cache
def peg_model() -> str:
    """Return the MJCF text of the arm with the peg as its tool; the tip stays where it is."""
    import mujoco

    spec: Any = mujoco.MjSpec.from_string(robot_model())
    peg = spec.geom("tool")
    peg.name, peg.rgba, peg.size = "peg", [0.9, 0.5, 0.2, 1], [PEG_RADIUS, 0, 0]
    peg.fromto = [0, 0, 0.1, 0, 0, 0.2 - PEG_RADIUS]
    spec.compile()
    return spec.to_xml()


class Insert(DrivenArm):
    """Put the peg into the hole, 40 mm deep or deeper. ``info``: ``success``."""

    task_name, short, description = "arm/insert", "arm-insert", "put a peg into a hole with 3 mm to spare, with a seven-joint arm"
    success = "the peg's tip 40 mm deep in the hole or deeper"
    time_limit_s = 10.0
    goals_shown = 0

    @classmethod
    def robot(cls) -> str:
        """Return the MJCF text of the arm with the peg."""
        return peg_model()

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return where the hole is, (4,): the middle of its edge in m, and how far the block is turned, rad; nothing where it is to be seen."""
        if not state:
            return {}
        return {"observation.environment_state": Field((4,), unit="m, rad", kind="goal", names=("hole.x", "hole.y", "hole.z", "hole.yaw"))}

    def furnish(self, scene: Any) -> None:
        """Add the block: four walls around the hole."""
        import mujoco

        mj: Any = mujoco
        block, half, top = scene.worldbody.add_body(name="block", mocap=True), (BLOCK_HALF - HOLE_HALF) / 2, BLOCK_HEIGHT / 2
        for name, x, y in (("east", 1, 0), ("west", -1, 0), ("north", 0, 1), ("south", 0, -1)):
            size = [half, BLOCK_HALF, top] if x else [HOLE_HALF, half, top]
            place = [x * (HOLE_HALF + half), y * (HOLE_HALF + half), top]
            block.add_geom(name=f"wall_{name}", type=mj.mjtGeom.mjGEOM_BOX, pos=place, size=size, rgba=[0.25, 0.45, 0.75, 1])

    def prepare(self) -> None:
        """Bind the block and make the expert besides."""
        super().prepare()
        self._turned = self.engine.bind("mocap_quat")
        self._yaw = np.zeros(self.num_worlds)
        self._servo = TipServo(self.robot_model, np.array(HOME))

    def place(self, rows: np.ndarray, draws: Draws) -> None:
        """Draw where the block of worlds ``rows`` (K,) stands."""
        radius, angle, yaw = draws.uniform(*RADIUS), draws.uniform(-ANGLE, ANGLE), draws.uniform(-YAW, YAW)
        self._mocap[rows, 0] = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(len(rows))], axis=1)
        self._turned[rows, 0] = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
        self._yaw[rows] = yaw

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward the tip above the hole, and the deeper the nearer it is to its axis; see :func:`wanted_height`."""
        off = self.hand[:, :2] - self._mocap[:, 0, :2]
        aside, height = np.sqrt(off[:, 0] ** 2 + off[:, 1] ** 2), self.hand[:, 2]
        success = (height <= BLOCK_HEIGHT - DEPTH) & (aside < HOLE_HALF)
        return self.worth(success, success - aside - np.abs(height - wanted_height(aside)))

    def observe_task(self, out: Observation) -> None:
        """Write where the hole is."""
        if "observation.environment_state" in out:
            hole = out["observation.environment_state"]
            hole[:, :2], hole[:, 2], hole[:, 3] = self._mocap[:, 0, :2], BLOCK_HEIGHT, self._yaw

    def expert_action(self) -> np.ndarray:
        """Return joint targets (N, 7) float32, rad; where ended, the arm's own pose."""
        out = self.qpos[:, :N].astype(np.float32)
        for row in np.flatnonzero(self._running):
            point, speed = insert_waypoint(self.hand[row], self._mocap[row, 0, :2], BLOCK_HEIGHT, BOTTOM, CLEARANCE)
            out[row] = self._servo.target(self.qpos[row, :N], point, speed, approach=2.0)
        return np.clip(out, self._low, self._high)


def wanted_height(aside: np.ndarray) -> np.ndarray:
    """Return the height (N,), m, that the dense reward wants of a tip ``aside`` (N,), m, from the hole's axis.

    Above the block away from the hole, and from its edge inwards on a straight line down to the bottom, reached where the peg fits.
    """
    share = np.clip((aside - CLEARANCE) / (HOLE_HALF - CLEARANCE), 0.0, 1.0)
    return BOTTOM + share * (BLOCK_HEIGHT + ABOVE - BOTTOM)


TASKS = (Insert,)
