"""Poses to joints: rotations against scipy, poses reached, the world's reaching task by a straight line, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from policies.base import Execution, Plan, Policy, State
from policies.cartesian import CartesianPolicy, rotation_matrix
from policies.differential_ik import IkOptions
from policies.kinematics import Kinematics
from policies.motion import MotionLimits
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim.registry import make
from sim.suites.arm import HOME, RATE_HZ, motion_limits, robot_model

STATE, GOAL = "observation.state", "observation.environment_state"
ROBOT = make("arm/reach").spec


class Straight:
    """Leads the hand along a line to the goal, 2 cm a step, keeping the rotation that it is given (if any)."""

    n_obs_steps, horizon, n_action_steps = 1, 4, 4

    def __init__(self, rotation: dict[str, Field] | None = None, turn: np.ndarray | None = None) -> None:
        action = {"hand": Field((3,), unit="m", kind="position"), **(rotation or {})}
        observation = {STATE: ROBOT.observation.fields[STATE], GOAL: ROBOT.observation.fields[GOAL]}
        self.spec, self._turn = Spec(ObservationSpec(observation, RATE_HZ), ActionSpec(action, RATE_HZ)), turn

    def initial_state(self, batch: int) -> State:
        return {}

    def reset(self, state: State, mask: Any) -> State:
        return state

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        at, goal = obs[STATE][:, -1, 14:17], obs[GOAL][:, -1]
        way = goal - at
        length = np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
        points = np.stack([at + way * np.minimum(1, 0.02 * (k + 2) / length) for k in range(4)], axis=1)
        if self._turn is not None:
            points = np.concatenate([points, np.broadcast_to(self._turn, (*points.shape[:2], len(self._turn)))], axis=2)
        return Plan(points.astype(np.float32), {"network_calls": np.zeros(len(at))}), state


def joints_policy(policy: Policy, **options: Any) -> CartesianPolicy:
    return CartesianPolicy(policy, ROBOT, Kinematics(robot_model()), "hand", motion_limits(), posture=np.array(HOME), **options)


def test_rotations_against_scipy() -> None:
    for seed in range(20):
        rotation = Rotation.random(rng=np.random.default_rng(seed))
        matrix, quaternion = rotation.as_matrix(), rotation.as_quat(scalar_first=True)
        np.testing.assert_allclose(rotation_matrix("rotation_6d", 1.7 * matrix[:, :2].T.ravel()), matrix, atol=1e-12)
        np.testing.assert_allclose(rotation_matrix("rotation_quaternion", -2 * quaternion), matrix, atol=1e-12)
        np.testing.assert_allclose(rotation_matrix("rotation_axis_angle", rotation.as_rotvec()), matrix, atol=1e-12)
    np.testing.assert_allclose(rotation_matrix("rotation_axis_angle", np.zeros(3)), np.eye(3))


def test_a_pose_is_reached_by_the_joints_of_the_plan() -> None:
    """Twenty plans on a robot that does what it is told, with the hand turned by 0.3 rad."""
    arm = Kinematics(robot_model())
    arm.forward(np.array(HOME))
    turn = Rotation.from_rotvec([0.0, 0.2, 0.3]).as_matrix() @ arm.pose("hand")[1]
    below = Straight({"turn": Field((6,), kind="rotation_6d")}, turn[:, :2].T.ravel())
    policy = joints_policy(below)
    assert isinstance(policy, Policy) and policy.spec.action.names == ROBOT.action.names
    q, goal, plan = np.array(HOME), np.array([0.45, 0.2, 0.3]), None
    for _ in range(20):
        arm.forward(q)
        obs = {STATE: np.concatenate([q, np.zeros(7), arm.pose("hand")[0]])[None, None].astype(np.float32), GOAL: goal[None, None].astype(np.float32)}
        plan, _ = policy.act(obs, {}, np.zeros(1, np.int64))
        steps = np.diff(np.concatenate([q[None], plan.actions[0]]), axis=0) * RATE_HZ
        assert (np.abs(steps) <= motion_limits().velocity * (1 + 1e-5)).all()
        q = plan.actions[0, -1].astype(np.float64)
    arm.forward(q)
    position, rotation = arm.pose("hand")
    assert plan is not None and plan.info["off_m"][0] < 1e-3
    np.testing.assert_allclose(position, goal, atol=1e-3)
    np.testing.assert_allclose(rotation, turn, atol=2e-3)


def test_it_solves_the_reaching_task_of_the_world() -> None:
    """The whole way: poses, joints, interpolation at 100 Hz, servos, physics."""
    from robopolicy.evaluation.rollout import evaluate

    policy = joints_policy(Straight(), options=IkOptions(rows=(0, 1, 2), linear=1.0))
    done = evaluate(policy, "arm/reach", episodes=8, block=8, progress=False, latency_calls=0)
    assert sum(episode.success for episode in done.episodes) == 8


def test_what_is_no_pose_is_no_command() -> None:
    policy, world = joints_policy(Straight()), make("arm/reach", num_worlds=2)
    obs = {name: array[:, None].copy() for name, array in world.reset(np.arange(2)).items()}
    world.close()
    obs[GOAL][1] = np.nan
    actions = policy.act(obs, {}, np.zeros(2, np.int64))[0].actions
    assert np.isfinite(actions[0]).all() and np.isnan(actions[1]).all()


@pytest.mark.parametrize(("kind", "numbers"), [("rotation_6d", [0.0] * 6), ("rotation_6d", [1.0, 0, 0, 2, 0, 0]), ("rotation_quaternion", [0.0] * 4)])
def test_numbers_that_are_no_rotation_are_no_command(kind: str, numbers: list[float]) -> None:
    policy, world = joints_policy(Straight({"turn": Field((len(numbers),), kind=kind)}, np.array(numbers))), make("arm/reach")
    obs = {name: array[:, None] for name, array in world.reset(np.arange(1)).items()}
    world.close()
    plan, _ = policy.act(obs, {}, np.zeros(1, np.int64))
    assert np.isnan(plan.actions).all() and np.isnan(plan.info["off_m"]).all()


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(InputError, match="expected a position of 3 numbers, then perhaps a rotation, found hand"):
        joints_policy(Straight({"grip": Field((1,), kind="gripper")}))
    limits = MotionLimits(("a",), *(np.ones(1) * k for k in (-1, 1, 1, 1, 1)))
    fewer = Spec(ROBOT.observation, ActionSpec({"joint": Field((1,), kind="position", names=("a",))}, RATE_HZ))
    with pytest.raises(InputError, match="the robot takes a; the arm has joint1"):
        CartesianPolicy(Straight(), fewer, Kinematics(robot_model()), "hand", limits)
