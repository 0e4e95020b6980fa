"""A policy that says where the hand shall go, on a robot that is commanded in joints: differential IK in between.

What it makes of a plan is a plan of joint positions, so that limits, interpolation and safety filter treat it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.base import Execution, Plan, Policy, State
from policies.differential_ik import DifferentialIk, IkOptions
from policies.hierarchy import act_below
from policies.kinematics import Kinematics
from policies.motion import MotionLimits, joint_columns
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec

_ROTATIONS = ("rotation_axis_angle", "rotation_quaternion", "rotation_6d")


class CartesianPolicy:
    """Joint positions for the poses that another policy plans.

    Each row of a plan is pursued for ``iterations`` steps of differential IK from where the row before has led; the first
    begins at the measured joints. ``plan.info["off_m"]`` (B,) is how far the hand would end from its last target.

    Args:
        policy: Its action is a position (3,), m, in the world of the model, then perhaps a rotation in any of the forms.
        robot: What the robot observes, and its action: n joint positions.
        kinematics: Of the arm; moved by every call.
        frame: Site or body that the poses are of.
        limits: Of the joints; the speed of the plan keeps to them.
        posture: Joint positions (n,) for the null space; None: the middle of the ranges.
        options: Of the IK.
        iterations: IK steps an action.

    Raises:
        InputError: if the policy plans no poses, or the robot takes no such joints.
    """

    def __init__(
        self, policy: Policy, robot: Spec, kinematics: Kinematics, frame: str, limits: MotionLimits, *,
        posture: np.ndarray | None = None, options: IkOptions = IkOptions(), iterations: int = 4,
    ) -> None:  # fmt: skip
        kinds = [(f.kind, f.size) for f in policy.spec.action.fields.values()]
        if not (kinds and kinds[0] == ("position", 3) and len(kinds) <= 2 and all(kind in _ROTATIONS for kind, _ in kinds[1:])):
            found = ", ".join(f"{name} ({f.kind}, {f.size})" for name, f in policy.spec.action.fields.items())
            raise InputError(f"Cartesian control: expected a position of 3 numbers, then perhaps a rotation, found {found}")
        if robot.action.names != kinematics.names or iterations < 1:
            raise InputError(f"Cartesian control: the robot takes {', '.join(robot.action.names)}; the arm has {', '.join(kinematics.names)}")
        self.policy, self.iterations = policy, iterations
        self._rotation = kinds[1][0] if len(kinds) == 2 else None
        self._field, self._columns = joint_columns(robot.observation, kinematics.names)
        names = {self._field, *policy.spec.observation.fields}
        Spec(policy.spec.observation, robot.action).require(robot, "the policy", "the robot")
        fields: dict[str, Field] = {name: f for name, f in robot.observation.fields.items() if name in names}
        self.spec = Spec(ObservationSpec(fields, robot.observation.rate_hz), ActionSpec(robot.action.fields, robot.action.rate_hz), policy.spec.meta)
        self.n_obs_steps, self.horizon, self.n_action_steps = policy.n_obs_steps, policy.horizon, policy.n_action_steps
        self._ik = DifferentialIk(kinematics, frame, limits.velocity, robot.action.rate_hz * iterations, posture, options)

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams of the policy."""
        return self.policy.initial_state(batch)

    def reset(self, state: State, mask: Any) -> State:
        """Return ``state`` with the rows of ``mask`` (B,) begun anew."""
        return self.policy.reset(state, mask)

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See :class:`policies.base.Policy`; numpy arrays, whatever the policy computes with."""
        window = {name: np.asarray(obs[name]) for name in self.policy.spec.observation.fields}
        plan, state = act_below(self.policy, window, state, noise, execution)
        poses, measured = np.asarray(plan.actions, np.float64), np.asarray(obs[self._field])[:, -1].reshape(len(plan.actions), -1)
        joints = np.full((*poses.shape[:2], len(self._columns)), np.nan, np.float32)  # no pose, no command
        off = np.full(len(poses), np.nan)
        for row, targets in enumerate(poses):
            q = measured[row, self._columns].astype(np.float64)
            for t, pose in enumerate(targets):
                if not (np.isfinite(pose).all() and np.isfinite(q).all()):
                    break
                turn = None if self._rotation is None else rotation_matrix(self._rotation, pose[3:])
                if turn is not None and not np.isfinite(turn).all():  # numbers of no length, or columns along one line: no rotation
                    break
                for _ in range(self.iterations):
                    q = self._ik.step(q, pose[:3], turn)
                joints[row, t] = q
            else:
                off[row] = np.linalg.norm(self._ik.error(q, targets[-1, :3])[:3])
        return Plan(joints, {**plan.info, "off_m": off}), state


def rotation_matrix(kind: str, numbers: np.ndarray) -> np.ndarray:
    """Return the matrix (3, 3) of a rotation given as ``kind``, (3,), (4,) or (6,), NaN if they are none; see ``policies.rotations``."""
    if kind == "rotation_6d":
        x = _unit(numbers[:3])
        y = _unit(numbers[3:] - (x @ numbers[3:]) * x)
        return np.stack([x, y, np.cross(x, y)], axis=1)
    if kind == "rotation_quaternion":
        w, *vector = _unit(numbers)
    else:
        angle = float(np.linalg.norm(numbers))
        w, vector = np.cos(angle / 2), 0.5 * np.sinc(angle / (2 * np.pi)) * numbers
    cross = np.cross(np.eye(3), np.asarray(vector))  # cross @ x is the product of vector and x
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return ``vector`` (n,) at length 1; NaN where it has none."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else np.full(len(vector), np.nan)
