"""The arm: kinematics against closed forms, servos, the drive's ticks against actions, limits, tasks and their experts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.control import JointInterpolator
from policies.kinematics import Kinematics
from policies.motion import MotionLimits, joint_columns
from policies.spec import InputError
from sim import registry
from sim.env import JointDriven
from sim.oracles.arm_expert import TipServo, push_waypoint
from sim.suites import arm, arm_tasks

TASKS = ("arm/reach", "arm/push", "arm/tour")
SEEDS = np.array([3, 8], np.int64)


def turn(axis: str, angle: float) -> np.ndarray:
    """Return a homogeneous rotation (4, 4) about one axis."""
    c, s, out = np.cos(angle), np.sin(angle), np.eye(4)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    out[[i, j, i, j], [i, j, j, i]] = c, c, -s, s
    return out


def shift(x: float, z: float) -> np.ndarray:
    out = np.eye(4)
    out[[0, 2], 3] = x, z
    return out


def by_hand(q: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) of the tool's tip, joint by joint."""
    upper = shift(0, 0.333) @ turn("z", q[0]) @ turn("y", q[1]) @ shift(0, 0.316) @ turn("z", q[2])
    fore = shift(0.08, 0) @ turn("y", -q[3]) @ shift(-0.08, 0.384) @ turn("z", q[4])
    return upper @ fore @ turn("y", q[5]) @ shift(-0.088, 0) @ turn("z", q[6]) @ shift(0, 0.2)


def inside(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(*arm.joint_range())


@given(st.integers(0, 10**6))
def test_the_tip_is_where_geometry_puts_it(seed: int) -> None:
    q, kinematics = inside(seed), Kinematics(arm.robot_model())
    kinematics.forward(q)
    position, rotation = kinematics.pose("hand")
    np.testing.assert_allclose(position, by_hand(q)[:3, 3], atol=1e-12)
    np.testing.assert_allclose(rotation, by_hand(q)[:3, :3], atol=1e-12)


def test_home_points_down_clear_of_the_table_and_of_itself() -> None:
    pose = by_hand(np.array(arm.HOME))
    np.testing.assert_allclose(pose[:3, 2], [0, 0, -1], atol=1e-12)
    # forearm at 2 rad from the vertical, tool straight down: by trigonometry
    x = 0.08 - 0.08 * np.cos(2.0) + 0.384 * np.sin(2.0) + 0.088
    z = 0.333 + 0.316 + 0.08 * np.sin(2.0) + 0.384 * np.cos(2.0) - 0.2
    np.testing.assert_allclose(pose[:3, 3], [x, 0, z], atol=1e-12)
    env = registry.make("arm/reach", 64)
    env.reset(np.arange(64))
    for row in range(64):
        assert env.engine.scene(row)[1].ncon == 0
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_it_says_what_a_twin_needs(task: str) -> None:
    env = registry.make(task)
    assert isinstance(env, JointDriven) and env.control_substeps == 5
    assert env.motion.names == env.spec.action.names == arm.JOINTS
    assert MotionLimits.from_dict(env.motion.to_dict()).to_dict() == env.motion.to_dict()
    assert (env.spec.action.low >= env.motion.low).all() and (env.spec.action.high <= env.motion.high).all()
    np.testing.assert_allclose(env.spec.action.low, env.motion.low, atol=1e-6)
    assert ((np.array(env.home) > env.motion.low) & (np.array(env.home) < env.motion.high)).all()
    field, columns = joint_columns(env.spec.observation, env.motion.names)
    obs = env.reset(np.array([5]))
    np.testing.assert_allclose(obs[field][0, columns], env.qpos[0, :7], atol=1e-6)
    np.testing.assert_allclose(obs[field][0, 14:], by_hand(env.qpos[0])[:3, 3], atol=1e-6)
    env.close()


@pytest.mark.parametrize("task", [*TASKS, "arm/insert"])
def test_an_action_is_five_ticks_of_the_interpolator(task: str) -> None:
    whole, ticked = registry.make(task, 2, max_episode_steps=12), registry.make(task, 2, max_episode_steps=12)
    whole.reset(SEEDS), ticked.reset(SEEDS)
    interpolator = JointInterpolator(whole.motion, 100, 5)
    state = interpolator.start(ticked.qpos[:, :7])
    for k in range(12):
        action = whole.expert_action()
        for substep in range(5):
            command, state = interpolator.step(state, action.astype(np.float64), substep)
            tick = ticked.control_step(command)
            assert tick.truncated.all() == (k == 11 and substep == 4)
        step = whole.step(action)
        for name, array in step.obs.items():
            np.testing.assert_array_equal(tick.obs[name], array)
        np.testing.assert_array_equal(tick.reward, step.reward)
    before = ticked.qpos.copy()
    ticked.control_step(command + 0.1)  # ended
    np.testing.assert_array_equal(ticked.qpos, before)
    whole.close(), ticked.close()


def test_what_cannot_be_driven_is_refused_and_the_range_is_kept() -> None:
    env = registry.make("arm/reach")
    with pytest.raises(RuntimeError, match="before the first reset"):
        env.control_step(np.zeros((1, 7)))
    env.reset(SEEDS[:1])
    with pytest.raises(ValueError, match=r"expected shape \(1, 7\)"):
        env.control_step(np.zeros(7))
    with pytest.raises(ValueError, match="not finite"):
        env.control_step(np.full((1, 7), np.nan))
    env.control_step(np.full((1, 7), 1e9))
    np.testing.assert_array_equal(env.ctrl[0], env.motion.high)
    env.close()


def test_late_actions_and_readings_are_refused_where_ticks_are_driven() -> None:
    """They are late by control steps: read at every tick they would be five times too early."""
    for section in ({"actions": {"delay": 0.1}}, {"sensors": {"observation.state": {"latency": 0.1}}}):
        env = registry.make("arm/reach", 1, randomize=section)
        env.reset(SEEDS[:1])
        with pytest.raises(InputError, match=r"task 'arm/reach': randomize\.(actions|sensors\.observation\.state) acts once a control step"):
            env.control_step(np.zeros((1, 7)))
        env.close()
    heavy = registry.make("arm/reach", 1, randomize={"model": {"mass:link3": {"scale": 2.0}}})
    heavy.reset(SEEDS[:1])
    heavy.control_step(np.array(heavy.home)[None])
    heavy.close()


def test_the_servos_hold_without_sagging_and_track_at_full_speed() -> None:
    env = registry.make("arm/reach", max_episode_steps=1000)
    env.reset(SEEDS[:1])
    home = np.array(env.home)
    interpolator = JointInterpolator(env.motion, 100, 5)
    state, worst, fastest = interpolator.start(env.qpos[:, :7]), 0.0, 0.0
    poses = [home, home + [0.9, 0.35, 0.8, 0.6, 0.9, 0.5, 0.9], home - [0.9, 0.3, 0.8, 0.4, 0.9, 0.5, 0.9], home]
    for tick in range(800):
        command, state = interpolator.step(state, poses[tick // 200][None], tick % 5)
        env.control_step(command)
        worst = max(worst, float(np.abs(env.qpos[0, :7] - command[0]).max()))
        fastest = max(fastest, float(np.abs(state.velocity).max()))
    assert fastest > 1.9 and worst < 0.5 * env.motion.tracking[0]
    np.testing.assert_allclose(env.qpos[0, :7], home, atol=1e-3)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_reference_of_wild_actions_keeps_the_limits(task: str) -> None:
    env = registry.make(task, 4, max_episode_steps=1000)
    env.reset(np.arange(4))
    sent = [np.repeat(env.ctrl[None], 3, axis=0)]
    generator = np.random.default_rng(0)
    for k in range(60):
        if k % 6 == 0:
            wild = generator.uniform(env.spec.action.low, env.spec.action.high, (4, 7))
        env.step(wild.astype(np.float32))
        sent.append(env._controls.swapaxes(0, 1).copy())
    path, h = np.concatenate(sent), 0.01
    for order, limit in enumerate((env.motion.velocity, env.motion.acceleration, env.motion.jerk), 1):
        assert (np.abs(np.diff(path, order, axis=0)) / h**order <= limit * (1 + 1e-6) + 1e-6).all()
    assert np.isfinite(env.qpos).all()
    env.close()


@pytest.mark.parametrize(("task", "share", "episodes"), [("arm/reach", 0.95, 60), ("arm/tour", 0.95, 20), ("arm/push", 0.8, 40)])
def test_the_expert_succeeds(task: str, share: float, episodes: int) -> None:
    env = registry.make(task, episodes)
    env.reset(np.arange(episodes) + 500)
    low, high = env.motion.low + 1e-3, env.motion.high - 1e-3
    success = np.zeros(episodes, bool)
    for _ in range(env.max_episode_steps):
        result = env.step(env.expert_action())
        success |= result.info["success"]
        env.retire(success)
        assert ((env.qpos[:, :7] > low) & (env.qpos[:, :7] < high)).all()
        assert env.hand[:, 2].min() > 0.01, "the tool is at the table"
        if success.all():
            break
    assert success.mean() >= share
    env.close()


def test_goals_are_apart_and_within_reach() -> None:
    env = registry.make("arm/tour", 200)
    first = env.reset(np.arange(200))
    goals = first["observation.goals"].reshape(200, 3, 4)
    path = np.concatenate([first["observation.state"][:, None, 14:], goals[:, :, :3]], axis=1)
    assert (np.linalg.norm(np.diff(path, axis=1), axis=2) > arm_tasks.APART - 1e-6).all()
    radius = np.linalg.norm(goals[..., :2], axis=2)
    assert radius.min() >= arm_tasks.RADIUS[0] - 1e-6 and radius.max() <= arm_tasks.RADIUS[1] + 1e-6
    assert (goals[..., 3] == 0).all()
    np.testing.assert_array_equal(first["observation.environment_state"], goals[:, -1, :3])
    env.close()


def test_the_last_goal_alone_is_no_tour_but_all_in_their_order_are() -> None:
    env = registry.make("arm/tour", 2)
    env.reset(SEEDS)
    servo = TipServo(env.robot_model, np.array(env.home))
    goals, seen = env._goals.copy(), []
    for _ in range(150):
        action = env.expert_action()
        action[1] = servo.target(env.qpos[1, :7], goals[1, -1], 0.25, 2.0)  # heads straight for the last
        result = env.step(action)
        seen.append(env._visited.copy())
        env.retire(result.info["success"])
    visited = np.array(seen)
    assert result.info["success"].tolist() == [True, False] and not visited[-1, 1, 1:].any()
    assert (np.diff(visited[:, 0].argmax(axis=0)) > 0).all(), "out of order"
    assert np.linalg.norm(env.hand[1] - goals[1, -1]) < arm_tasks.REACHED
    shown = result.obs["observation.goals"].reshape(2, 3, 4)
    np.testing.assert_array_equal(shown[..., 3], visited[-1])
    env.close()


def test_the_puck_moves_when_pushed_and_only_then() -> None:
    env = registry.make("arm/push", 2)
    first = env.reset(SEEDS)["observation.environment_state"].copy()
    moved = False
    for _ in range(120):
        action = env.expert_action()
        action[1] = env.qpos[1, :7]  # the second arm rests
        result = env.step(action)
        puck = result.obs["observation.environment_state"][:, :2]
        moved |= bool(np.linalg.norm(puck[0] - first[0, :2]) > 0.05)
        env.retire(result.info["success"])
    assert moved and result.info["success"].tolist() == [True, False]
    np.testing.assert_allclose(puck[1], first[1, :2], atol=1e-6)
    assert np.linalg.norm(puck[0] - first[0, 2:]) < arm_tasks.PUSHED
    env.close()


def test_pushing_goes_up_over_down_and_along() -> None:
    puck, goal, clearance = np.array([0.5, 0.0]), np.array([0.5, 0.2]), 0.063
    behind = puck - [0, clearance + 0.035]
    rising, _ = push_waypoint(np.array([0.5, 0.1, 0.03]), puck, goal, clearance)
    np.testing.assert_allclose(rising, [0.5, 0.1, 0.13])
    over, _ = push_waypoint(np.array([0.5, 0.1, 0.13]), puck, goal, clearance)
    np.testing.assert_allclose(over, [*behind, 0.13])
    down, _ = push_waypoint(np.array([*behind, 0.13]), puck, goal, clearance)
    np.testing.assert_allclose(down, [*behind, 0.03])
    along, slow = push_waypoint(np.array([*behind, 0.03]), puck, goal, clearance)
    assert along[1] > behind[1] and along[0] == pytest.approx(0.5) and slow < 0.2
    steered, _ = push_waypoint(np.array([0.51, behind[1], 0.03]), puck, goal, clearance)
    assert steered[0] < 0.5, "an offset to one side is met from that side"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_servo_steps_towards_the_point(seed: int) -> None:
    generator = np.random.default_rng(seed)
    q = np.array(arm.HOME) + generator.uniform(-0.2, 0.2, 7)
    servo = TipServo(arm.robot_model(), np.array(arm.HOME))
    tip = servo.tip(q)
    point = tip + generator.uniform(-0.1, 0.1, 3)
    target = servo.target(q, point, 0.25, 2.0)
    assert np.abs(target - q).max() <= 0.2 + 1e-12
    way, gone = point - tip, servo.tip(target) - tip
    assert way @ gone > 0.5 * np.linalg.norm(way) * np.linalg.norm(gone)


@pytest.mark.parametrize("task", TASKS)
def test_episodes_begin_as_their_generators_say(task: str) -> None:
    env = registry.make(task, 3)
    env.reset(np.array([4, 90, 7]))
    for row, seed in enumerate((4, 90, 7)):
        drawn = np.random.default_rng([seed, arm.VERSION]).uniform(-arm.HOME_SPREAD, arm.HOME_SPREAD, 7)
        np.testing.assert_array_equal(env.qpos[row, :7], np.array(arm.HOME) + drawn)
    env.close()


def test_neither_threads_nor_the_way_commands_reach_the_engine_change_a_bit() -> None:
    worlds = [registry.make("arm/push", 5, threads=threads) for threads in (1, 2, 1)]
    worlds[2].engine.follow = None  # command by command
    for env in worlds:
        env.reset(np.arange(5))
        for k in range(12):
            env.step(env.expert_action())
            if k == 6:
                env.retire(np.array([True, False, False, True, False]))
    for env in worlds[1:]:
        np.testing.assert_array_equal(env.engine.save(), worlds[0].engine.save())
    for env in worlds:
        env.close()


def test_the_sparse_reward_is_success() -> None:
    env, dense = registry.make("arm/reach", 4, reward="sparse"), registry.make("arm/reach", 4)
    env.reset(np.arange(4)), dense.reset(np.arange(4))
    assert "sparse" in env.suite_version and "sparse" not in dense.suite_version
    total = np.zeros(4)
    for _ in range(env.max_episode_steps):
        result, other = env.step(env.expert_action()), dense.step(dense.expert_action())
        np.testing.assert_array_equal(result.reward, result.info["success"])
        distance = np.linalg.norm(dense.hand - dense._goals[:, 0], axis=1)
        np.testing.assert_allclose(other.reward, other.info["success"] - distance, atol=1e-6)
        total += result.reward
    assert (total > 0).all()
    env.close(), dense.close()


@pytest.mark.parametrize("task", ["arm/reach", "arm/pick-place", "arm/insert"])
def test_a_randomised_episode_depends_on_its_seed_alone(task: str) -> None:
    config = {"model": {"mass:link*": {"scale": [0.7, 1.3]}}, "actions": {"delay": 0.05}}
    many, one, plain = registry.make(task, 3, randomize=config), registry.make(task, 1, randomize=config), registry.make(task, 3)
    many.reset(np.array([3, 4, 5])), one.reset(np.array([4])), plain.reset(np.array([3, 4, 5]))
    for _ in range(10):
        action = many.expert_action()
        found, alone, unlike = many.step(action), one.step(action[1:2]), plain.step(action)
    for name, array in found.obs.items():
        np.testing.assert_array_equal(array[1], alone.obs[name][0])
    assert (found.obs["observation.state"] != unlike.obs["observation.state"]).any(axis=1).all()
    many.close(), one.close(), plain.close()
