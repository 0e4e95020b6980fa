"""What the arm is asked to do without another tool: :class:`Reach`, :class:`Push` and :class:`Tour`, each with its expert.

Points are drawn in a ring sector before the arm that its tool reaches pointing down. Episodes never terminate by
themselves: success is reported per step, and who evaluates ends the episode at the first.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import abc
from typing import Any

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.oracles.arm_expert import TipServo, push_waypoint
from sim.suites.arm import HOME, HOME_SPREAD, VERSION, DrivenArm, N

RADIUS, ANGLE, HEIGHT = (0.38, 0.62), 0.7, (0.12, 0.42)  # m from the base's axis, rad to both sides, m above the table
REACHED = 0.025  # m, between tip and goal
TOUR_GOALS = 3
APART = 0.15  # m, between goals that follow each other, and from the tip at the beginning

PUCK_RADIUS, PUCK_HEIGHT, TOOL_RADIUS = 0.045, 0.05, 0.018  # m
PUSHED = 0.03  # m, between puck and goal
PUSH_LENGTH = (0.12, 0.22)  # m, from the puck's first place to its goal
PUSH_RADIUS, PUSH_ANGLE = (0.45, 0.63), 0.45

_XYZ = ("x", "y", "z")


class _Generated(DrivenArm):
    """An arm whose episodes are drawn by one ``numpy`` generator each, world by world.

    That is slower than ``sim.draws``, but data sets and checkpoints exist for the episodes that it gives. Where a place is
    drawn until it is far enough from another, it costs little beside the episode.
    """

    def prepare(self) -> None:
        """Make the expert besides."""
        super().prepare()
        self._servo = TipServo(self.robot_model, np.array(HOME))

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """See :meth:`sim.suites.arm.ArmBatch.lay_out`."""
        for row, seed in zip(rows, draws.seeds, strict=True):
            generator = np.random.default_rng([int(seed), VERSION])
            self.qpos[row, :N] = np.array(HOME) + generator.uniform(-HOME_SPREAD, HOME_SPREAD, N)
            self._place(int(row), generator)
        self._rest(rows)

    def place(self, rows: np.ndarray, draws: Draws) -> None:
        """Nothing: each world is laid out whole."""

    @abc.abstractmethod
    def _place(self, row: int, generator: np.random.Generator) -> None:
        """Draw what the task places in world ``row``, whose arm stands already."""


class _PointTask(_Generated):
    """Goals that the tip is brought to; ``_goals`` (N, G, 3), m, ``_visited`` (N, G) bool."""

    def prepare(self) -> None:
        """Allocate the goals besides."""
        super().prepare()
        self._goals = np.zeros((self.num_worlds, self.goals_shown, 3))
        self._visited = np.zeros((self.num_worlds, self.goals_shown), bool)
        self._reached = np.zeros(self.num_worlds, np.int64)  # how many were visited

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the field of the goal, (3,) m."""
        return {"observation.environment_state": Field((3,), unit="m", kind="goal", names=tuple(f"goal.{axis}" for axis in _XYZ))}

    def _place(self, row: int, generator: np.random.Generator) -> None:
        previous = self._servo.tip(self.qpos[row, :N])
        for k in range(self.goals_shown):
            goal = previous
            while np.linalg.norm(goal - previous) < APART:
                radius, angle, height = generator.uniform(*RADIUS), generator.uniform(-ANGLE, ANGLE), generator.uniform(*HEIGHT)
                goal = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
            self._goals[row, k] = previous = goal
        self._mocap[row] = self._goals[row]
        self._visited[row], self._reached[row] = False, 0

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward a short way to the next goal, and success once all were visited."""
        present = np.minimum(self._reached, self.goals_shown - 1)
        distance = np.linalg.norm(self.hand - self._goals[self._all, present], axis=1)
        now = (distance < REACHED) & self._due
        if np.count_nonzero(now):
            self._visited[self._all, present] |= now
            self._reached[:] = self._visited.sum(axis=1)
        success = self._reached == self.goals_shown
        return self.worth(success, success - distance)

    def observe_task(self, out: Observation) -> None:
        """Write the last goal."""
        out["observation.environment_state"][:] = self._goals[:, -1]

    def expert_action(self) -> np.ndarray:
        """Return joint targets (N, 7) float32, rad, towards the first goal not visited; where ended, the arm's own pose."""
        out = self.qpos[:, :N].astype(np.float32)
        for row in np.flatnonzero(self._running):
            goal = self._goals[row, min(int(self._reached[row]), self.goals_shown - 1)]
            out[row] = self._servo.target(self.qpos[row, :N], goal, speed=0.25, approach=2.0)
        return np.clip(out, self._low, self._high)


class Reach(_PointTask):
    """Bring the tip to within 25 mm of the goal. ``info``: ``success``."""

    task_name, short, description = "arm/reach", "arm-reach", "bring the tool of a seven-joint arm to a point"
    success = "the tool's tip within 25 mm of the goal"
    time_limit_s = 5.0


class Tour(_PointTask):
    """Visit three goals in their order, success once all are. ``info``: ``success``.

    ``observation.environment_state`` is the sub-goal that a policy heads for; the world shows the last goal there, and a
    planner, who reads ``observation.goals`` (positions in m and whether they were visited), writes the next one.
    """

    task_name, short, description = "arm/tour", "arm-tour", "visit three points in their order with a seven-joint arm"
    success = "the tip was within 25 mm of all three goals, in their order"
    time_limit_s = 12.0
    goals_shown = TOUR_GOALS

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return the goal's field, (3,) m, and the list of goals, (12,): x, y, z in m and 1 once visited, for each."""
        names = tuple(f"goal{k}.{part}" for k in range(TOUR_GOALS) for part in (*_XYZ, "visited"))
        return {**super().task_fields(state), "observation.goals": Field((len(names),), unit="m, 1", names=names)}

    def observe_task(self, out: Observation) -> None:
        """Write the last goal, and the list of all."""
        super().observe_task(out)
        listed = out["observation.goals"].reshape(self.num_worlds, TOUR_GOALS, 4)
        listed[..., :3], listed[..., 3] = self._goals, self._visited


class Push(_Generated):
    """Push the puck to within 30 mm of the goal. ``info``: ``success``.

    The puck slides and turns in the plane of the table under dry friction, and does not tip.
    """

    task_name, short, description = "arm/push", "arm-push", "push a puck across a table to a point with a seven-joint arm"
    success = "the puck within 30 mm of the goal"
    time_limit_s = 12.5

    @classmethod
    def task_fields(cls, state: bool) -> dict[str, Field]:
        """Return puck and goal positions, (4,) m, the goal alone, (2,), when the puck is to be seen."""
        if not state:
            return {"observation.goal": Field((2,), unit="m", kind="goal", names=("goal.x", "goal.y"))}
        return {"observation.environment_state": Field((4,), unit="m", names=("puck.x", "puck.y", "goal.x", "goal.y"))}

    def furnish(self, scene: Any) -> None:
        """Add the puck."""
        import mujoco

        mj: Any = mujoco
        puck = scene.worldbody.add_body(name="puck", pos=[0, 0, PUCK_HEIGHT / 2])
        for axis in ((1, 0, 0), (0, 1, 0)):
            puck.add_joint(name=f"puck.{'xy'[axis[1]]}", type=mj.mjtJoint.mjJNT_SLIDE, axis=axis, damping=8.0, frictionloss=1.0)
        puck.add_joint(name="puck.yaw", type=mj.mjtJoint.mjJNT_HINGE, axis=(0, 0, 1), damping=0.01, frictionloss=0.01)
        disc = mj.mjtGeom.mjGEOM_CYLINDER
        puck.add_geom(name="puck", type=disc, size=[PUCK_RADIUS, PUCK_HEIGHT / 2, 0], mass=0.3, rgba=[0.2, 0.45, 0.85, 1], contype=4)

    def _place(self, row: int, generator: np.random.Generator) -> None:
        puck = goal = np.zeros(2)
        while not PUSH_LENGTH[0] < np.linalg.norm(goal - puck) < PUSH_LENGTH[1]:
            radius, angle = generator.uniform(*PUSH_RADIUS, 2), generator.uniform(-PUSH_ANGLE, PUSH_ANGLE, 2)
            puck, goal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        self.qpos[row, N:] = *puck, 0.0
        self._mocap[row, 0] = *goal, 0.0

    def judge(self, action: np.ndarray) -> Outcome:
        """Reward a short way of the puck to its goal."""
        distance = np.linalg.norm(self.qpos[:, N : N + 2] - self._mocap[:, 0, :2], axis=1)
        success = distance < PUSHED
        return self.worth(success, success - distance)

    def observe_task(self, out: Observation) -> None:
        """Write puck and goal, or the goal alone."""
        if "observation.environment_state" in out:
            out["observation.environment_state"][:, :2] = self.qpos[:, N : N + 2]
            out["observation.environment_state"][:, 2:] = self._mocap[:, 0, :2]
        else:
            out["observation.goal"][:] = self._mocap[:, 0, :2]

    def expert_action(self) -> np.ndarray:
        """Return joint targets (N, 7) float32, rad; where ended, the arm's own pose."""
        out = self.qpos[:, :N].astype(np.float32)
        for row in np.flatnonzero(self._running):
            clearance = PUCK_RADIUS + TOOL_RADIUS
            point, speed = push_waypoint(self.hand[row], self.qpos[row, N : N + 2], self._mocap[row, 0, :2], clearance)
            out[row] = self._servo.target(self.qpos[row, :N], point, speed, approach=5.0)
        return np.clip(out, self._low, self._high)


TASKS = (Reach, Push, Tour)
