"""Pick up a cube with a two-finger gripper and put it on a pedestal.

The gripper (``arm_gripper.xml``) is put on the flange in place of the tool. Actions are seven joint positions, which the arm's
interpolator smooths as everywhere, and the opening of the gripper, which its servos take as it is: a drive for joint positions alone
cannot take it, so this arm is none that a twin steps at the drive's rate (:class:`sim.env.JointDriven`), only action by action.
The cube is held by friction and nothing else.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.arm_expert import TipServo, pick_waypoint
from sim.suites.arm import HOME, TABLE, ArmBatch, N, robot_model

OPENING = 0.04  # m, of each finger
CUBE_HALF, CUBE_MASS = 0.02, 0.1  # m, kg
PEDESTAL_HALF, PEDESTAL_HEIGHT = 0.05, 0.06  # m
RADIUS, ANGLE, YAW = (0.42, 0.58), (0.25, 0.55), 0.6  # m from the base's axis, rad to one side (the cube) and to the other, rad
PLACED, LEVEL, STILL = 0.03, 0.006, 0.05  # m from the middle of the pedestal, m from resting on it, m/s
RELEASED = 0.6  # opening beyond which nothing holds the cube: it keeps the fingers at 0.5

_CUBE = slice(N + 2, N + 9)  # in qpos, behind the fingers


@functools.cache
def gripper_model() -> str:
    """Return the MJCF text of the arm with the gripper as its tool; the site ``hand`` is between the pads."""
    import mujoco

    spec: Any = mujoco.MjSpec.from_string(robot_model())
    spec.delete(spec.geom("tool"))
    gripper: Any = mujoco.MjSpec.from_string(Path(__file__).with_name("arm_gripper.xml").read_text(encoding="utf-8"))
    spec.body("link7").add_frame().attach_body(gripper.body("palm"), "gripper_", "")
    spec.compile()
    return spec.to_xml()


class PickPlace(ArmBatch):
    """Put the cube on the pedestal and let go of it. ``info``: ``success``.

    Success is a cube that lies on the pedestal, its middle within 30 mm of the pedestal's, at rest, with the gripper open.
    """

    task_name, short, description = "arm/pick-place", "arm-pick-place", "put a cube on a pedestal with a seven-joint arm and a gripper"
    success = "the cube rests on the pedestal, within 30 mm of its middle and slower than 0.05 m/s, with the gripper open"
    time_limit_s = 15.0
    goals_shown = 0

    @classmethod
    def robot(cls) -> str:
        """Return the MJCF text of the arm with the gripper."""
        return gripper_model()

    @classmethod
    def asset_paths(cls) -> tuple[Path, ...]:
        """Return the files of the arm and of the gripper."""
        return (*super().asset_paths(), Path(__file__).with_name("arm_gripper.xml"))

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the gripper's opening, (1,) in [0, 1], and where cube and pedestal are, (10,), or the pedestal alone, (3,) m, when the cube is to be seen."""
        opening = {"observation.gripper": Field((1,), names=("gripper.opening",))}
        goal = ("goal.x", "goal.y", "goal.z")
        if not state:
            return {**opening, "observation.goal": Field((3,), unit="m", kind="goal", names=goal)}
        names = ("cube.x", "cube.y", "cube.z", "cube.qw", "cube.qx", "cube.qy", "cube.qz", *goal)
        return {**opening, "observation.environment_state": Field((10,), unit="m, 1", names=names)}

    def action_fields(self) -> dict[str, Field]:
        """Return the joint position targets and the gripper's opening, 0 closed, 1 open."""
        return {**super().action_fields(), "gripper": Field((1,), low=(0.0,), high=(1.0,), kind="gripper", names=("gripper",))}

    def furnish(self, scene: Any) -> None:
        """Add cube and pedestal."""
        import mujoco

        mj: Any = mujoco
        cube = scene.worldbody.add_body(name="cube", pos=[0.5, 0, CUBE_HALF])
        cube.add_freejoint(name="cube")
        box = mj.mjtGeom.mjGEOM_BOX
        rubbing: dict[str, Any] = {"friction": [0.8, 0.01, 0.0001], "condim": 4, "conaffinity": 1 | TABLE}
        cube.add_geom(name="cube", type=box, size=[CUBE_HALF] * 3, mass=CUBE_MASS, rgba=[0.85, 0.25, 0.2, 1], **rubbing)
        size = [PEDESTAL_HALF, PEDESTAL_HALF, PEDESTAL_HEIGHT / 2]
        pedestal = scene.worldbody.add_body(name="pedestal", mocap=True)
        pedestal.add_geom(name="pedestal", type=box, pos=[0, 0, PEDESTAL_HEIGHT / 2], size=size, rgba=[0.3, 0.6, 0.35, 1])

    def prepare(self) -> None:
        """Bind what the expert reads, and make it."""
        super().prepare()
        self._frames = self.engine.bind("site_xmat").reshape(self.num_worlds, self.model.nsite, 3, 3)
        self._goals = np.zeros((self.num_worlds, 3))  # where the middle of the cube shall be
        self._servo = TipServo(robot_model(), np.array(HOME))

    def place(self, rows: np.ndarray, draws: Draws) -> None:
        """Draw cube and pedestal of worlds ``rows`` (K,), one to the left and one to the right; the gripper begins open."""
        side = 2.0 * draws.integers(0, 2) - 1.0
        radius, angle = draws.uniform(*RADIUS, (2,)), draws.uniform(*ANGLE, (2,)) * np.stack([side, -side], axis=1)
        x, y, yaw = radius * np.cos(angle), radius * np.sin(angle), draws.uniform(-YAW, YAW)
        cube = np.zeros((len(rows), 7))
        cube[:, 0], cube[:, 1], cube[:, 2], cube[:, 3], cube[:, 6] = x[:, 0], y[:, 0], CUBE_HALF, np.cos(yaw / 2), np.sin(yaw / 2)
        self.qpos[rows, N : N + 2], self.qpos[rows, _CUBE], self.ctrl[rows, N:] = OPENING, cube, OPENING
        self._mocap[rows, 0, 0], self._mocap[rows, 0, 1] = x[:, 1], y[:, 1]
        self._goals[rows] = np.stack([x[:, 1], y[:, 1], np.full(len(rows), PEDESTAL_HEIGHT + CUBE_HALF)], axis=1)

    def play(self, rows: np.ndarray | None, action: np.ndarray) -> None:
        """Open or close the gripper of worlds ``rows`` (K,) as ``action`` (N, 8) says, and move as every arm does."""
        chosen = action[:, N:] if rows is None else action[rows, N:]
        self._controls[: len(chosen), :, N:] = OPENING * chosen[:, None]
        super().play(rows, action)

    def opening(self) -> np.ndarray:
        """Return how far the gripper is open (N,), 0 to 1."""
        return (self.qpos[:, N] + self.qpos[:, N + 1]) / (2 * OPENING)

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward the gripper near the cube, and twice as much the cube near its place."""
        cube = self.qpos[:, _CUBE][:, :3]
        off, reach = cube - self._goals, self.hand - cube
        velocity = self.qvel[:, N + 2 : N + 5]
        success = (off[:, 0] ** 2 + off[:, 1] ** 2 < PLACED**2) & (np.abs(off[:, 2]) < LEVEL)
        success &= (self.opening() > RELEASED) & (np.einsum("ij,ij->i", velocity, velocity) < STILL**2)
        return self.worth(success, success - np.sqrt(np.einsum("ij,ij->i", reach, reach)) - 2 * np.sqrt(np.einsum("ij,ij->i", off, off)))

    def observe_task(self, out: Observation) -> None:
        """Write opening, cube and pedestal."""
        out["observation.gripper"][:, 0] = self.opening()
        if "observation.environment_state" in out:
            out["observation.environment_state"][:, :7], out["observation.environment_state"][:, 7:] = self.qpos[:, _CUBE], self._goals
        else:
            out["observation.goal"][:] = self._goals

    def expert_action(self) -> np.ndarray:
        """Return joint targets and opening (N, 8) float32; where ended, the arm's own pose and an open gripper."""
        out = np.concatenate([self.qpos[:, :N], np.ones((self.num_worlds, 1))], axis=1).astype(np.float32)
        opening = self.opening()
        for row in np.flatnonzero(self._running):
            hand, frame, cube = self.hand[row], self._frames[row, self._hand_id], self.qpos[row, _CUBE]
            plan = pick_waypoint(hand, frame, cube, self._goals[row], float(opening[row]))
            out[row, :N] = self._servo.target(self.qpos[row, :N], plan.point, plan.speed, 5.0, plan.turn)
            out[row, N] = plan.opening
        return np.clip(out, self._low, self._high)


TASKS = (PickPlace,)
