"""What the arm is asked to do: :class:`Reach`, :class:`Push` and :class:`Tour`, each with its expert.

Points are drawn in a ring sector before the arm that its tool reaches pointing down. Episodes never terminate by
themselves: success is reported per step, and who evaluates ends the episode at the first.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np

from policies.spec import Field
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.arm_expert import TipServo, push_waypoint
from sim.registry import Options
from sim.suites.arm import HOME, ArmBatch, N

RADIUS, ANGLE, HEIGHT = (0.38, 0.62), 0.7, (0.12, 0.42)  # m from the base's axis, rad to both sides, m above the table
REACHED = 0.025  # m, between tip and goal
TOUR_GOALS = 3
APART = 0.15  # m, between goals that follow each other, and from the tip at the beginning

PUCK_RADIUS, PUCK_HEIGHT, TOOL_RADIUS = 0.045, 0.05, 0.018  # m
PUSHED = 0.03  # m, between puck and goal
PUSH_LENGTH = (0.12, 0.22)  # m, from the puck's first place to its goal
PUSH_RADIUS, PUSH_ANGLE = (0.45, 0.63), 0.45

_XYZ = ("x", "y", "z")


class _PointTask(ArmBatch):
    """Goals that the tip is brought to; ``_goals`` (N, G, 3), m, ``_visited`` (N, G) bool."""

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self._goals = np.zeros((self.num_worlds, self.goals_shown, 3))
        self._visited = np.zeros((self.num_worlds, self.goals_shown), bool)
        self._servo = TipServo(self.robot_model, np.array(HOME))

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the field of the goal, (3,) m."""
        return {"observation.environment_state": Field((3,), unit="m", kind="goal", names=tuple(f"goal.{axis}" for axis in _XYZ))}

    def _lay_out(self, row: int, generator: np.random.Generator) -> None:
        previous = self._servo.tip(self._qpos[row, :N])
        for k in range(self.goals_shown):
            goal = previous
            while np.linalg.norm(goal - previous) < APART:
                radius, angle, height = generator.uniform(*RADIUS), generator.uniform(-ANGLE, ANGLE), generator.uniform(*HEIGHT)
                goal = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
            self._goals[row, k] = previous = goal
        self._mocap[row] = self._goals[row]
        self._visited[row] = False

    def _judge(self, rows: np.ndarray) -> Outcome:
        present = np.minimum(self._visited[rows].sum(axis=1), self.goals_shown - 1)
        distance = np.linalg.norm(self.hand[rows] - self._goals[rows, present], axis=1)
        self._visited[rows, present] |= distance < REACHED
        success = np.asarray(self._visited[rows].all(axis=1))
        return Outcome(success - distance, np.zeros(len(rows), bool), {"success": success})

    def _observe_task(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.environment_state"][rows] = self._goals[rows, -1]

    def expert_action(self) -> np.ndarray:
        """Return joint targets (N, 7) float32, rad, towards the first goal not visited; where ended, the arm's own pose."""
        out = self._qpos[:, :N].astype(np.float32)
        for row in np.flatnonzero(self._running):
            goal = self._goals[row, min(int(self._visited[row].sum()), self.goals_shown - 1)]
            out[row] = self._servo.target(self._qpos[row, :N], goal, speed=0.25, approach=2.0)
        return np.clip(out, self._low, self._high)


class Reach(_PointTask):
    """Bring the tip to within 25 mm of the goal. ``info``: ``success``."""


class Tour(_PointTask):
    """Visit three goals in their order, success once all are. ``info``: ``success``.

    ``observation.environment_state`` is the sub-goal that a policy heads for; the world shows the last goal there, and a
    planner, who reads ``observation.goals`` (positions in m and whether they were visited), writes the next one.
    """

    goals_shown = TOUR_GOALS

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the goal's field, (3,) m, and the list of goals, (12,): x, y, z in m and 1 once visited, for each."""
        names = tuple(f"goal{k}.{part}" for k in range(TOUR_GOALS) for part in (*_XYZ, "visited"))
        return {**super().task_fields(state), "observation.goals": Field((len(names),), unit="m, 1", names=names)}

    def _observe_task(self, rows: np.ndarray, out: Observation) -> None:
        super()._observe_task(rows, out)
        listed = np.concatenate([self._goals[rows], self._visited[rows, :, None]], axis=2)
        out["observation.goals"][rows] = listed.reshape(len(rows), -1)


class Push(ArmBatch):
    """Push the puck to within 30 mm of the goal. ``info``: ``success``.

    The puck slides and turns in the plane of the table under dry friction, and does not tip.
    """

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self._servo = TipServo(self.robot_model, np.array(HOME))

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return puck and goal positions, (4,) m, the goal alone, (2,), when the puck is to be seen."""
        if not state:
            return {"observation.goal": Field((2,), unit="m", kind="goal", names=("goal.x", "goal.y"))}
        return {"observation.environment_state": Field((4,), unit="m", names=("puck.x", "puck.y", "goal.x", "goal.y"))}

    def _furnish(self, scene: Any) -> None:
        mj = self._mj
        puck = scene.worldbody.add_body(name="puck", pos=[0, 0, PUCK_HEIGHT / 2])
        for axis in ((1, 0, 0), (0, 1, 0)):
            puck.add_joint(name=f"puck.{'xy'[axis[1]]}", type=mj.mjtJoint.mjJNT_SLIDE, axis=axis, damping=8.0, frictionloss=1.0)
        puck.add_joint(name="puck.yaw", type=mj.mjtJoint.mjJNT_HINGE, axis=(0, 0, 1), damping=0.01, frictionloss=0.01)
        disc = mj.mjtGeom.mjGEOM_CYLINDER
        puck.add_geom(name="puck", type=disc, size=[PUCK_RADIUS, PUCK_HEIGHT / 2, 0], mass=0.3, rgba=[0.2, 0.45, 0.85, 1], contype=4)

    def _lay_out(self, row: int, generator: np.random.Generator) -> None:
        puck = goal = np.zeros(2)
        while not PUSH_LENGTH[0] < np.linalg.norm(goal - puck) < PUSH_LENGTH[1]:
            radius, angle = generator.uniform(*PUSH_RADIUS, 2), generator.uniform(-PUSH_ANGLE, PUSH_ANGLE, 2)
            puck, goal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        self._qpos[row, N:] = *puck, 0.0
        self._mocap[row, 0] = *goal, 0.0

    def _judge(self, rows: np.ndarray) -> Outcome:
        distance = np.linalg.norm(self._qpos[rows, N : N + 2] - self._mocap[rows, 0, :2], axis=1)
        success = distance < PUSHED
        return Outcome(success - distance, np.zeros(len(rows), bool), {"success": success})

    def _observe_task(self, rows: np.ndarray, out: Observation) -> None:
        goal = self._mocap[rows, 0, :2]
        if "observation.environment_state" in out:
            out["observation.environment_state"][rows] = np.concatenate([self._qpos[rows, N : N + 2], goal], axis=1)
        else:
            out["observation.goal"][rows] = goal

    def expert_action(self) -> np.ndarray:
        """Return joint targets (N, 7) float32, rad; where ended, the arm's own pose."""
        out = self._qpos[:, :N].astype(np.float32)
        for row in np.flatnonzero(self._running):
            clearance = PUCK_RADIUS + TOOL_RADIUS
            point, speed = push_waypoint(self.hand[row], self._qpos[row, N : N + 2], self._mocap[row, 0, :2], clearance)
            out[row] = self._servo.target(self._qpos[row, :N], point, speed, approach=5.0)
        return np.clip(out, self._low, self._high)


TASKS: dict[str, type[ArmBatch]] = {"reach": Reach, "push": Push, "tour": Tour}
