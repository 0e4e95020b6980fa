"""The gripper and the cube: grip by friction alone, turns and waypoints by hand, the expert, and arms that do nothing clever."""

from __future__ import annotations

import numpy as np
import pytest

from policies.kinematics import Kinematics
from sim import registry
from sim.env import JointDriven
from sim.oracles.arm_expert import TipServo, pick_waypoint, turn_to_faces
from sim.suites import arm, arm_pick

DOWN = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])


def about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_it_says_what_it_is() -> None:
    env = registry.make("arm/pick-place")
    assert not isinstance(env, JointDriven), "a drive for joint positions cannot take the gripper"
    assert env.spec.action.names == (*arm.JOINTS, "gripper") and env.spec.action.fields["gripper"].kind == "gripper"
    assert env.spec.action.low[7] == 0 and env.spec.action.high[7] == 1
    kinematics = Kinematics(env.robot_model, arm.JOINTS)
    bare, q = Kinematics(arm.robot_model()), np.random.default_rng(0).uniform(*arm.joint_range())
    bare.forward(q), kinematics.forward(q)
    np.testing.assert_allclose(kinematics.pose("hand")[0], bare.pose("hand")[0], atol=1e-5)
    env.close()


@pytest.mark.parametrize("angle", [0.0, 0.3, -0.6, 1.2])
@pytest.mark.parametrize("cube", [0.0, 0.5, -0.4])
def test_the_turn_brings_the_fingers_to_faces(angle: float, cube: float) -> None:
    frame = about_z(angle) @ DOWN
    turn = turn_to_faces(frame, np.array([np.cos(cube / 2), 0, 0, np.sin(cube / 2)]))
    assert abs(turn) <= np.pi / 4 + 1e-12
    closing = (frame @ about_z(turn))[:, 1]  # turned about its own axis
    faces = about_z(cube)[:, :2].T @ closing
    assert np.abs(faces).max() == pytest.approx(1.0), "the fingers close across a corner"


def test_the_servo_turns_the_tool_about_its_axis_and_holds_the_tip() -> None:
    servo, q = TipServo(arm.robot_model(), np.array(arm.HOME)), np.array(arm.HOME)
    kinematics = Kinematics(arm.robot_model())
    tip = servo.tip(q)
    left = 0.4
    for _ in range(60):
        kinematics.forward(q)
        frame = kinematics.pose("hand")[1]
        heading = np.arctan2(frame[1, 1], frame[0, 1])
        left = -((0.4 - (heading + np.pi / 2) + np.pi) % (2 * np.pi) - np.pi)  # of a tool whose y began at -90 degrees
        q = servo.target(q, tip, 0.3, 3.0, left)
    assert abs(left) < 0.01
    np.testing.assert_allclose(servo.tip(q), tip, atol=1e-3)
    kinematics.forward(q)
    assert kinematics.pose("hand")[1][2, 2] < -0.999


def test_open_fingers_stand_apart_by_eight_centimetres_and_a_cube_keeps_them_at_half() -> None:
    import mujoco

    env = registry.make("arm/pick-place")
    env.reset(np.array([1]))
    model, data = env.engine.scene(0)
    gap = mujoco.mj_geomDistance(model, data, model.geom("gripper_finger_left").id, model.geom("gripper_finger_right").id, 1.0, None)
    assert gap == pytest.approx(2 * arm_pick.OPENING, abs=1e-9)
    assert env.opening()[0] == 1.0
    np.testing.assert_allclose(arm_pick.CUBE_HALF / arm_pick.OPENING, 0.5)
    env.close()


def test_the_grip_holds_by_friction_for_two_seconds() -> None:
    env = registry.make("arm/pick-place", 2, max_episode_steps=500)
    env.reset(np.array([4, 9]))
    rose = np.zeros(2, bool)
    for _ in range(120):
        env.step(env.expert_action())
        rose |= (env.qpos[:, 11] > 0.1) & (env.opening() < 0.53)
        if rose.all():
            break
    assert rose.all()
    action = np.concatenate([env.qpos[:, :7], np.zeros((2, 1))], axis=1).astype(np.float32)
    env.step(action), env.step(action), env.step(action)
    before = env.qpos[:, 9:12] - env.hand
    for _ in range(40):
        env.step(action)
    assert np.abs(env.qpos[:, 9:12] - env.hand - before).max() < 0.004
    action[:, 7] = 1.0  # and let go
    for _ in range(20):
        env.step(action)
    assert (env.qpos[:, 11] < 0.1).all()
    env.close()


def test_what_is_planned_by_hand() -> None:
    goal, lying = np.array([0.5, 0.2, 0.08]), np.array([0.5, -0.2, 0.02, 1, 0, 0, 0])
    over = pick_waypoint(np.array([0.3, 0, 0.3]), DOWN, lying, goal, 1.0)
    np.testing.assert_allclose(over.point, [0.5, -0.2, 0.11])
    down = pick_waypoint(np.array([0.5, -0.2, 0.11]), DOWN, lying, goal, 1.0)
    np.testing.assert_allclose(down.point, lying[:3])
    assert down.opening == 1.0
    close = pick_waypoint(np.array([0.5, -0.2, 0.022]), DOWN, lying, goal, 1.0)
    assert close.opening == 0.0
    up = pick_waypoint(np.array([0.5, -0.2, 0.022]), DOWN, lying, goal, 0.5)
    np.testing.assert_allclose(up.point, [0.5, -0.2, 0.17])
    lifted = np.array([0.5, -0.2, 0.17, 1, 0, 0, 0])
    across = pick_waypoint(lifted[:3], DOWN, lifted, goal, 0.5)
    np.testing.assert_allclose(across.point, [0.5, 0.2, 0.17])
    brought = np.array([0.5, 0.2, 0.17, 1, 0, 0, 0])
    lower = pick_waypoint(brought[:3], DOWN, brought, goal, 0.5)
    assert lower.point[2] < goal[2] and lower.opening == 0.0
    placed = np.array([*goal, 1, 0, 0, 0])
    assert pick_waypoint(goal, DOWN, placed, goal, 0.5).opening == 1.0
    assert pick_waypoint(goal, DOWN, placed, goal, 1.0).point[2] > goal[2] + 0.05


def test_the_expert_picks_and_places() -> None:
    env = registry.make("arm/pick-place", 12)
    env.reset(np.arange(12) + 500)
    done = np.zeros(12, bool)
    for _ in range(env.max_episode_steps):
        done |= env.step(env.expert_action()).info["success"]
        env.retire(done)
        if done.all():
            break
    assert done.mean() >= 0.9
    cube = env.qpos[done, 9:12] - env._goals[done]
    assert (np.hypot(cube[:, 0], cube[:, 1]) < arm_pick.PLACED).all() and (np.abs(cube[:, 2]) < arm_pick.LEVEL).all()
    env.close()


@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_standing_still_and_chance_fail(reward: str) -> None:
    env = registry.make("arm/pick-place", 6, reward=reward, max_episode_steps=50)
    env.reset(np.arange(6))
    generator, home = np.random.default_rng(0), np.tile(np.array([*env.home, 1.0], np.float32), (6, 1))
    for _ in range(50):
        action = home.copy()
        action[3:] = generator.uniform(env.spec.action.low, env.spec.action.high, (3, 8))
        result = env.step(action)
        assert not result.info["success"].any()
        assert (result.reward == 0).all() if reward == "sparse" else (result.reward < 0).all()
    env.close()
