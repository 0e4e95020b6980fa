"""Hopper, cheetah and ant, and what all locomotion tasks share: frames, independence of N and threads, stability."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import registry
from sim.suites.locomotion import frames
from sim.task import MujocoTask

TASKS = ("locomotion/hopper", "locomotion/cheetah", "locomotion/ant", "locomotion/quadruped", "locomotion/quadruped-rough")
RUNNING = TASKS[:3]
every_task = pytest.mark.parametrize("task", TASKS)


def make(task: str, num_worlds: int, **options) -> MujocoTask:
    env = registry.make(task, num_worlds, **options)
    assert isinstance(env, MujocoTask)
    return env


def random_actions(env: MujocoTask, steps: int) -> np.ndarray:
    size = env.spec.action.dim
    return np.stack([np.random.default_rng(i).uniform(-1, 1, (steps, size)) for i in range(env.num_worlds)], axis=1).astype(np.float32)


# Frames --------------------------------------------------------------------------------------------------------------


def test_a_quarter_turn_to_the_left_turns_what_is_ahead_in_the_world_to_the_right() -> None:
    half = np.sqrt(0.5)
    rotation = frames.rotations(np.array([[half, 0.0, 0.0, half]]))  # (w, x, y, z)
    np.testing.assert_allclose(frames.to_base(rotation, np.array([[1.0, 0.0, 0.0]])), [[0.0, -1.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(frames.to_world(rotation, np.array([[1.0, 0.0, 0.0]])), [[0.0, 1.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(frames.heading(rotation), [[0.0], [1.0]], atol=1e-15)
    np.testing.assert_allclose(frames.yaw_quaternions(np.array([np.pi / 2])), [[half, 0, 0, half]], atol=1e-15)


def test_gravity_points_where_the_base_has_tipped_to() -> None:
    half = np.sqrt(0.5)
    level, nose_down, left_up = [1.0, 0, 0, 0], [half, 0, half, 0], [half, half, 0, 0]
    gravity = frames.gravity_in_base(frames.rotations(np.array([level, nose_down, left_up])))
    np.testing.assert_allclose(gravity, [[0, 0, -1], [1, 0, 0], [0, -1, 0]], atol=1e-15)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.01))
def test_rotations_are_those_of_mujoco(parts: list[float]) -> None:
    quaternion = np.array(parts) / np.linalg.norm(parts)
    expected = np.zeros(9)
    mujoco.mju_quat2Mat(expected, quaternion)
    np.testing.assert_allclose(frames.rotations(quaternion[None])[0].ravel(), expected, atol=1e-12)


# Every task ----------------------------------------------------------------------------------------------------------


@every_task
def test_a_world_is_the_same_whatever_stands_beside_it_and_whatever_steps_it(task: str) -> None:
    seeds = np.array([5, 6, 7, 8, 9])
    many, threaded, alone = make(task, 5), make(task, 5, threads=2), make(task, 1)
    first = many.reset(seeds), threaded.reset(seeds), alone.reset(seeds[3:4])
    for name in first[0]:
        np.testing.assert_array_equal(first[0][name], first[1][name])
        np.testing.assert_array_equal(first[0][name][3], first[2][name][0])
    for action in random_actions(many, 60):
        a, b, c = many.step(action), threaded.step(action), alone.step(action[3:4])
        np.testing.assert_array_equal(a.reward, b.reward)
        assert a.reward[3] == c.reward[0]
        for name in a.obs:
            np.testing.assert_array_equal(a.obs[name], b.obs[name])
            np.testing.assert_array_equal(a.obs[name][3], c.obs[name][0])
        for name in a.info:
            assert a.info[name][3] == c.info[name][0], name
    many.close(), threaded.close(), alone.close()


def check_stability(task: str, worlds: int, steps: int) -> None:
    env = make(task, worlds, autoreset=True)
    env.reset(np.arange(worlds))
    rng = np.random.default_rng(0)
    hold = np.zeros((worlds, env.spec.action.dim), np.float32)
    for t in range(steps):  # half of the worlds shake, half throw their motors from end to end
        action = rng.uniform(-1, 1, hold.shape).astype(np.float32)
        if t % 10 == 0:
            hold = np.sign(action)
        action[worlds // 2 :] = hold[worlds // 2 :]
        result = env.step(action)
        assert all(np.isfinite(values).all() for values in result.next_obs.values()) and np.isfinite(result.reward).all()
        assert np.abs(env.qvel).max() < 200.0, f"step {t}"
    assert not env.engine._worlds.warning.any(), "the physics gave warnings"  # type: ignore[attr-defined]
    env.close()


@every_task
def test_the_physics_stays_sane_under_violent_actions(task: str) -> None:
    check_stability(task, 20, 100)


@pytest.mark.soak
@every_task
def test_the_physics_stays_sane_for_100_000_steps(task: str) -> None:
    check_stability(task, 100, 1000)


@every_task
def test_names_say_what_every_number_is(task: str) -> None:
    env = make(task, 1)
    state = env.spec.observation.fields["observation.state"]
    assert len(state.names) == len(set(state.names)) == state.size
    assert "camera" in registry.entry(task).tags and "locomotion" in registry.entry(task).tags
    env.close()


# Run forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", RUNNING)
def test_what_was_run_is_rewarded(task: str) -> None:
    env, sparse = make(task, 2), make(task, 2, reward="sparse")
    env.reset(np.array([1, 2])), sparse.reset(np.array([1, 2]))
    before = env.qpos[:, 0].copy()
    np.testing.assert_array_equal(before, 0.0)
    action = random_actions(env, 1)[0]
    result, other = env.step(action), sparse.step(action)
    assert not result.terminated.any()
    moved = env.qpos[:, 0] - before
    expected = moved + (env.alive - env.effort * (action.astype(np.float64) ** 2).sum(axis=1)) * 0.02  # type: ignore[attr-defined]
    np.testing.assert_allclose(result.reward, expected, rtol=1e-5)
    np.testing.assert_allclose(result.info["speed"], moved * 50, rtol=1e-5)
    assert (other.reward == 0).all()
    env.close(), sparse.close()


@pytest.mark.parametrize("task", RUNNING)
def test_success_is_the_finish_and_not_before(task: str) -> None:
    env = make(task, 3, reward="sparse")
    env.reset(np.array([1, 2, 3]))
    env.qpos[:, 0] = env.finish_m + np.array([0.2, -0.2, 0.2])  # type: ignore[attr-defined]
    if task != "locomotion/cheetah":  # the last of them lies on its back
        env.qpos[2, 1 if task == "locomotion/hopper" else 2] -= 0.6
    result = env.step(np.zeros((3, env.spec.action.dim), np.float32))
    fallen = task != "locomotion/cheetah"
    assert result.info["success"].tolist() == [True, False, not fallen]
    assert result.terminated.tolist() == [False, False, fallen]
    np.testing.assert_allclose(result.reward, [0.02, 0.0, 0.0 if fallen else 0.02], rtol=1e-6)
    env.close()


@pytest.mark.parametrize("task", [task for task in RUNNING if registry.entry(task).has_expert])
def test_the_expert_runs_and_a_body_that_does_nothing_or_shakes_does_not(task: str) -> None:
    env, rng = make(task, 12), np.random.default_rng(0)
    env.reset(1000 + np.arange(12))
    success = np.zeros(12, bool)
    for _ in range(env.max_episode_steps):
        action = env.expert_action()
        action[8:10], action[10:] = 0.0, rng.uniform(-1, 1, (2, action.shape[1]))
        success |= env.step(action).info["success"]
    assert success[:8].sum() >= 7 and not success[8:].any()
    env.close()


@pytest.mark.parametrize("task", RUNNING)
def test_a_body_at_home_stands_on_the_ground(task: str) -> None:
    """Its lowest point is within 3 cm of the floor in the pose that episodes begin with: not in it, not falling far."""
    env = make(task, 1)
    model, data = env.model, mujoco.MjData(env.model)
    data.qpos[:] = env.home  # type: ignore[attr-defined]
    mujoco.mj_forward(model, data)
    assert data.ncon == 0 or min(c.dist for c in data.contact) > -0.01
    data.qpos[1 if model.nq < 12 else 2] -= 0.03
    mujoco.mj_forward(model, data)
    assert data.ncon > 0
    env.close()
