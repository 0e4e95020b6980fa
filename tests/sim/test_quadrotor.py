"""The quadrotor: thrust and torque by hand, the motors' lag, Lee's attitude error on states set by hand, experts and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from sim import registry
from sim.oracles import quadrotor_expert as expert
from sim.suites.quadrotor.vehicle import GRAVITY, ROTORS, Airframe, rotor_shares

TASKS = ("quadrotor/hover", "quadrotor/waypoints")


def turned(axis: int, angle: float) -> np.ndarray:
    """Return a rotation matrix (3, 3) about a coordinate axis."""
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out = np.eye(3)
    out[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
    return out


@pytest.fixture
def env():
    worlds = registry.make("quadrotor/hover", 2, max_episode_steps=1000)
    worlds.reset(np.array([1, 2]))
    yield worlds
    worlds.close()


def at_rest(env, height: float = 1.5) -> None:
    """Put all worlds of ``env`` to rest, upright, the rotors at hover thrust."""
    env.qpos[:, :7], env.qvel[:, :6] = [0, 0, height, 1, 0, 0, 0], 0.0
    env._thrusts[:] = env.airframe.mass * GRAVITY / (4 * env.airframe.largest)
    env.engine.forward()


def test_a_quarter_of_the_weight_on_every_rotor_hovers(env) -> None:
    at_rest(env)
    frame = env.airframe
    assert frame.mass == pytest.approx(1.0, abs=1e-9)
    shares = rotor_shares(frame, np.array([[frame.mass * GRAVITY, 0, 0, 0]] * 2), np.zeros((2, 3)))
    np.testing.assert_allclose(shares * frame.largest, frame.mass * GRAVITY / 4, rtol=1e-12)
    for _ in range(100):
        env.step(np.array([[frame.mass * GRAVITY, 0, 0, 0]] * 2, np.float32))
    np.testing.assert_allclose(env.qpos[:, :3], [[0, 0, 1.5]] * 2, atol=1e-4)
    np.testing.assert_allclose(env.qvel[:, :6], 0, atol=1e-4)


def test_rotors_give_the_torques_of_their_places(env) -> None:
    frame, arm, reaction = env.airframe, 0.12, 0.016
    # front left, rear left, rear right, front right; y is left: thrust there rolls to the right, thrust in front pitches up (-y)
    by_hand = np.array([[1, 1, 1, 1], [arm, arm, -arm, -arm], [-arm, arm, arm, -arm], [reaction, -reaction, reaction, -reaction]])
    np.testing.assert_allclose(frame.mixing, by_hand, atol=1e-9)
    assert frame.inertia[0, 0] > 0 and np.abs(frame.inertia - np.diag(np.diag(frame.inertia))).max() < 1e-8


def test_a_motor_reaches_63_percent_after_its_time_constant(env) -> None:
    at_rest(env, 3.0)
    env._thrusts[:], env.ctrl[:] = 0.0, 1.0
    env.engine.step(None, 15)  # 30 ms
    np.testing.assert_allclose(env._thrusts, 1 - np.exp(-1), atol=1e-6)


def test_one_rotor_alone_turns_it_as_its_torque_and_inertia_say(env) -> None:
    at_rest(env)
    frame = env.airframe
    env._thrusts[:] = [1, 0, 0, 0]
    env.ctrl[:] = [1, 0, 0, 0]
    env.engine.step(None, 1)
    wanted = np.linalg.solve(frame.inertia, frame.mixing[1:, 0] * frame.largest) * env.model.opt.timestep
    np.testing.assert_allclose(env.rates, np.tile(wanted, (2, 1)), rtol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [-1.2, 0.1, 0.8])
def test_the_attitude_error_is_the_sine_of_the_angle_about_its_axis(axis: int, angle: float) -> None:
    base = turned(2, 0.4) @ turned(0, -0.3)
    error = expert.attitude_error((base @ turned(axis, angle))[None], base[None])[0]
    np.testing.assert_allclose(error, np.sin(angle) * np.eye(3)[axis], atol=1e-12)
    np.testing.assert_allclose(expert.attitude_error(base[None], base[None]), 0, atol=1e-15)


def test_attitudes_along_a_direction_are_rotations_and_point_there() -> None:
    directions = np.random.default_rng(0).normal(size=(50, 3)) + [0, 0, 2.5]
    found = expert.attitude_along(directions)
    np.testing.assert_allclose(found[:, :, 2], directions / np.linalg.norm(directions, axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(found @ np.swapaxes(found, 1, 2), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1.0, atol=1e-12)
    assert (found[:, 0, 0] > 0).all() and np.abs(found[:, 0, 1]).max() < 1e-12, "the nose points ahead, the left wing across"


def test_at_the_goal_the_geometric_controller_carries_the_weight_and_turns_nothing() -> None:
    action = expert.thrust_and_rates(1.3, np.zeros((1, 3)), np.eye(3)[None])
    np.testing.assert_allclose(action, [[1.3 * GRAVITY, 0, 0, 0]], atol=1e-12)
    forward = expert.thrust_and_rates(1.0, np.array([[1.0, 0, 0]]), np.eye(3)[None])[0]
    angle = np.arctan2(1.0, GRAVITY)  # pitch forward about +y
    np.testing.assert_allclose(forward, [GRAVITY, 0, expert.ATTITUDE_GAIN * np.sin(angle), 0], atol=1e-12)


def test_the_rate_loop_reaches_what_is_asked(env) -> None:
    at_rest(env, 2.0)
    weight = env.airframe.mass * GRAVITY
    for _ in range(10):
        env.step(np.array([[weight, 1.0, 0, 0], [weight, 0, 0, 1.0]], np.float32))
    np.testing.assert_allclose(env.rates, [[1, 0, 0], [0, 0, 1]], atol=0.08)


@pytest.mark.parametrize(("task", "episodes"), [("quadrotor/hover", 24), ("quadrotor/waypoints", 24)])
def test_the_expert_succeeds(task: str, episodes: int) -> None:
    env = registry.make(task, episodes)
    env.reset(np.arange(episodes) + 500)
    done = np.zeros(episodes, bool)
    for _ in range(env.max_episode_steps):
        result = env.step(env.expert_action())
        done |= result.info["success"]
        assert not result.terminated.any(), "crashed"
        env.retire(done)
        if done.all():
            break
    assert done.all()
    env.close()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["zero", "random", "hold"])
def test_no_thrust_chance_and_holding_fail(task: str, kind: str) -> None:
    env = registry.make(task, 16, reward="sparse")
    env.reset(np.arange(16))
    generator, done = np.random.default_rng(0), np.zeros(16, bool)
    for _ in range(env.max_episode_steps):
        action = np.zeros((16, 4), np.float32)
        if kind == "random":
            action = generator.uniform(env.spec.action.low, env.spec.action.high, (16, 4)).astype(np.float32)
        elif kind == "hold":
            action[:, 0] = env.airframe.mass * GRAVITY
        result = env.step(action)
        done |= result.info["success"]
        assert (result.reward == result.info["success"]).all() or result.terminated.any()
    assert not done.any()
    if kind == "zero":
        assert result.terminated.all(), "falling ends the episode"
    env.close()


def test_rewards_prefer_the_expert() -> None:
    for task in TASKS:
        gained = []
        for clever in (True, False):
            env = registry.make(task, 8)
            env.reset(np.arange(8))
            total = np.zeros(8)
            for _ in range(150):
                action = env.expert_action() if clever else np.tile(np.array([GRAVITY, 0, 0, 0], np.float32), (8, 1))
                total += env.step(action).reward
            gained.append(total)
            env.close()
        assert (gained[0] > gained[1]).all(), task


def test_waypoints_are_reached_in_their_order_and_counted() -> None:
    env = registry.make("quadrotor/waypoints", 1)
    first = env.reset(np.array([5]))["observation.environment_state"].copy()
    assert first[0, 6] == 0
    env.qpos[0, :3] = env._markers[0, 2]  # the third, out of its turn
    env.engine.forward()
    assert env.step(env.expert_action()).info["reached"][0] == 0
    for k in range(4):
        env.qpos[0, :3] = env._markers[0, k]
        env.engine.forward()
        result = env.step(env.expert_action())
        assert result.info["reached"][0] == k + 1 and result.info["success"][0] == (k == 3)
    env.close()


def test_the_airframe_of_another_model_is_read_from_it() -> None:
    env = registry.make("quadrotor/juggle")
    frame = Airframe(env.model)
    assert frame.mass == pytest.approx(1.06, abs=1e-9) and frame.offset[2] == pytest.approx(0.08 * 0.05 / 1.06 + 0.04 * 0.01 / 1.06, abs=3e-3)
    assert len(ROTORS) == 4 and frame.inertia[0, 0] > registry.make("quadrotor/hover").airframe.inertia[0, 0]
    env.close()


@pytest.mark.parametrize("task", [*TASKS, "quadrotor/juggle"])
def test_an_episode_is_the_same_among_many_and_alone(task: str) -> None:
    many, alone = registry.make(task, 65, threads=2), registry.make(task, 1)
    seeds = np.arange(65) + 7
    many.reset(seeds), alone.reset(seeds[64:])
    for _ in range(40):
        action = many.expert_action()
        np.testing.assert_array_equal(alone.expert_action()[0], action[64])
        found, one = many.step(action), alone.step(action[64:])
        for name, array in one.obs.items():
            np.testing.assert_array_equal(array[0], found.obs[name][64])
        assert one.reward[0] == found.reward[64]
    many.close(), alone.close()


def test_the_rate_loop_cancels_the_gyroscopic_torque(env) -> None:
    rates = np.array([[2.0, -1.0, 3.0], [0.5, 4.0, -2.0]])
    action = np.concatenate([np.full((2, 1), 12.0), rates], axis=1)  # no error: what remains is w x J w
    shares = rotor_shares(env.airframe, action, rates)
    made = shares * env.airframe.largest @ env.airframe.mixing.T
    np.testing.assert_allclose(made[:, 0], 12.0)
    np.testing.assert_allclose(made[:, 1:], np.cross(rates, rates @ env.airframe.inertia.T), atol=1e-12)
