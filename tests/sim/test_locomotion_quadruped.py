"""The quadruped on flat ground: its frames, reward, commands, success, legs and trot."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import registry
from sim.draws import Draws
from sim.suites.locomotion import gait, quadruped
from sim.suites.locomotion.commands import VelocityCommands
from sim.suites.locomotion.quadruped import HOME, REACH, WEIGHTS, Quadruped

HALF = np.sqrt(0.5)


def make(num_worlds: int, **options) -> Quadruped:
    env = registry.make("locomotion/quadruped", num_worlds, **options)
    assert isinstance(env, Quadruped)
    return env


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_path(str(Quadruped.xml_path()))


def test_the_robot_is_what_the_tables_say(model) -> None:
    assert model.body_mass.sum() == pytest.approx(12.0) == pytest.approx(gait.WEIGHT / 9.81)
    assert tuple(model.actuator(k).name for k in range(12)) == quadruped.JOINTS
    assert [model.joint(name).qposadr[0] for name in quadruped.JOINTS] == list(range(7, 19))
    low, high = model.actuator_ctrlrange.T
    assert (low <= HOME - REACH).all() and (high >= HOME + REACH).all(), "an action can ask for what a servo refuses"
    np.testing.assert_array_equal(model.key("home").ctrl, HOME)
    assert model.actuator_gainprm[:, 0] == pytest.approx(gait.STIFFNESS)


# Legs ----------------------------------------------------------------------------------------------------------------


def test_feet_are_where_the_physics_puts_them(model) -> None:
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(5):
        joints = HOME + rng.uniform(-0.5, 0.5, 12)
        data.qpos[:] = [0, 0, 1, 1, 0, 0, 0, *joints]
        mujoco.mj_kinematics(model, data)
        expected = [data.site(f"{leg}_foot").xpos - data.body(f"{leg}_hip").xpos for leg in quadruped.LEGS]
        np.testing.assert_allclose(gait.foot_positions(joints.reshape(1, 4, 3))[0], expected, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-0.65, 0.65), st.floats(-0.5, 1.5), st.floats(-2.5, -0.4))
def test_inverse_kinematics_undo_the_kinematics(hip: float, thigh: float, calf: float) -> None:
    joints = np.tile([hip, thigh, calf], (1, 4, 1))
    feet = gait.foot_positions(joints)
    if (feet[..., 2] < -0.09).all():  # a foot beside or above its hip has another leg pose as well
        np.testing.assert_allclose(gait.leg_joints(feet), joints, atol=1e-7)


def test_a_leg_bears_what_it_should(model) -> None:
    """The torques are those of statics: minus the foot's Jacobian, transposed, times the force."""
    data, rng = mujoco.MjData(model), np.random.default_rng(1)
    joints = HOME + rng.uniform(-0.4, 0.4, 12) * np.tile([0.0, 1.0, 1.0], 4)  # the sum of planar arms is exact for hips at zero
    data.qpos[:] = [0, 0, 1, 1, 0, 0, 0, *joints]
    mujoco.mj_forward(model, data)
    force, expected = np.array([10.0, 20.0, 30.0, 40.0]), np.zeros(12)
    for leg, newtons in zip(quadruped.LEGS, force, strict=True):
        jacobian = np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, jacobian, None, model.site(f"{leg}_foot").id)
        expected -= jacobian[2, 6:] * newtons
    shaped = joints.reshape(1, 4, 3)
    got = gait.supporting_torques(gait.foot_positions(shaped), shaped, force[None])
    np.testing.assert_allclose(got.ravel(), expected, atol=1e-12)


# Observation and reward ----------------------------------------------------------------------------------------------


def test_motion_is_in_the_frame_of_the_trunk() -> None:
    env = make(3)
    env.reset(np.arange(3))
    env.qpos[:, 3:7] = [[HALF, 0, 0, HALF], [HALF, HALF, 0, 0], [1, 0, 0, 0]]  # a quarter left; left side up; level
    env.qvel[:, :3], env.qvel[:, 3:6] = [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]
    env.engine.forward()
    gravity, linear, angular = env.motion()
    np.testing.assert_allclose(linear, [[2, -1, 3], [1, 3, -2], [1, 2, 3]], atol=1e-12)
    np.testing.assert_allclose(gravity, [[0, 0, -1], [0, -1, 0], [0, 0, -1]], atol=1e-12)
    sensors = env.engine.bind("sensordata")
    for name, values in (("velocimeter", linear), ("gyro", angular)):
        at = env.model.sensor(name).adr[0]
        np.testing.assert_allclose(sensors[:, at : at + 3], values, atol=1e-12)
    out = {"observation.state": np.zeros((3, 48), np.float32)}
    env.observe(out)
    state = dict(zip(quadruped.STATE_NAMES, out["observation.state"][0], strict=True))
    assert state["base.vx"] == pytest.approx(2) and state["base.wz"] == pytest.approx(0.3) and state["gravity.z"] == pytest.approx(-1)
    assert state["rr_calf.offset"] == pytest.approx(env.qpos[0, 18] - HOME[11], abs=1e-6) and state["fl_hip.velocity"] == pytest.approx(env.qvel[0, 6])
    env.close()


def test_feet_of_a_moving_robot_are_where_the_physics_puts_them() -> None:
    env = make(3)
    env.reset(np.arange(3))
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 3, 12)).astype(np.float32):
        env.step(action)
    env.engine.forward()
    np.testing.assert_allclose(env.feet(), env.sites[:, env.foot_sites], atol=1e-12)
    env.close()


def test_the_terms_of_the_reward_are_their_formulas() -> None:
    env = make(2)
    env.reset(np.arange(2))
    gravity = np.array([[0.0, 0.0, -1.0], [0.6, 0.0, -0.8]])
    linear = np.array([[0.5, -0.2, 0.0], [0.0, 0.0, 0.3]])
    angular = np.array([[0.0, 0.0, 0.4], [1.0, 2.0, 0.0]])
    command = np.array([[0.5, -0.2, 0.4], [0.3, 0.4, -0.5]])
    env.torque = np.array([[2.0] * 12, [0.0] * 12])
    env.change[:] = [[0.0] * 12, [0.5] * 12]
    contact, env.air[:] = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool), [[0.4, 0.1, 0, 0], [0.2, 0.2, 0.2, 0.2]]
    terms = env.terms(gravity, linear, angular, command, contact)
    expected = {
        "track_linear": [1.0, np.exp(-0.25 / 0.25)],
        "track_yaw": [1.0, np.exp(-0.25 / 0.25)],
        "vertical": [0.0, 0.09],
        "tilting": [0.0, 5.0],
        "tilt": [0.0, 0.36],
        "effort": [48.0, 0.0],
        "jerking": [0.0, 3.0],
        "air_time": [0.42 - 0.1, 0.0],  # the front left landed; the rear right stood already
        "alive": [1.0, 1.0],
    }
    assert terms.keys() == expected.keys() == WEIGHTS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], values, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(env.air, [[0, 0.12, 0.02, 0], [0.22] * 4], atol=1e-12)
    env.close()


def test_the_reward_is_the_weighted_sum_of_what_info_shows() -> None:
    env = make(4)
    env.reset(np.arange(4))
    for _ in range(30):
        result = env.step(env.expert_action())
        expected = sum(weight * result.info[name].astype(np.float64) for name, weight in WEIGHTS.items()) / 50
        np.testing.assert_allclose(result.reward, expected, rtol=1e-4, atol=1e-6)
    assert (result.info["effort"] > 0).all() and (result.info["track_linear"] > 0).all()
    env.close()


def test_feet_in_the_air_are_timed_and_the_ground_carries_the_robot() -> None:
    env = make(1)
    env.reset(np.array([3]))
    env.qpos[:, 2] = 1.0
    for k in range(5):
        env.step(np.zeros((1, 12), np.float32))
        np.testing.assert_allclose(env.air, 0.02 * (k + 1))
    env.reset(np.array([3]))
    for _ in range(100):
        env.step(np.zeros((1, 12), np.float32))
    touch = env.engine.bind("sensordata")[:, :4]
    env.step(np.zeros((1, 12), np.float32))
    assert touch.sum() == pytest.approx(gait.WEIGHT, rel=0.05) and (touch > 5.0).all()
    assert (env.air == 0).all()
    env.close()


def test_contact_by_clearance_is_contact_by_touch() -> None:
    env = make(4)
    env.reset(np.arange(4))
    touch, agree = env.engine.bind("sensordata")[:, :4], []
    for _ in range(100):
        env.step(env.expert_action())
        agree.append((env.air == 0) == (touch > 1.0))
    assert np.mean(agree) > 0.9  # a foot may hover close to the ground for a moment
    env.close()


def test_a_robot_on_its_side_or_its_belly_has_fallen() -> None:
    env = make(3)
    env.reset(np.arange(3))
    env.qpos[1, 3:7], env.qpos[1, 2] = [HALF, HALF, 0, 0], 0.5
    env.qpos[2, 2] = 0.12
    env.qpos[2, 7:] = np.tile([0, 1.4, -2.6], 4)
    result = env.step(np.tile((np.array([0, 1.4, -2.6] * 4) - HOME) / REACH, (3, 1)).astype(np.float32) * np.array([[0], [0], [1]], np.float32))
    assert result.terminated.tolist() == [False, True, True]
    env.close()


# Commands and success ------------------------------------------------------------------------------------------------


def test_commands_come_from_the_seed_keep_to_their_range_and_change_in_time() -> None:
    def drawn(steps: int, seeds: np.ndarray) -> VelocityCommands:
        out = VelocityCommands(len(seeds), 50.0, steps, 4.0, (-0.5, -0.3, -0.8), (0.8, 0.3, 0.8), 0.1)
        out.draw(np.arange(len(seeds)), Draws(seeds))
        return out

    seeds = np.arange(2000)
    many = drawn(1000, seeds)
    every = np.stack([many.at(np.full(2000, t)) for t in range(0, 1000, 200)])
    assert (every >= [-0.5, -0.3, -0.8]).all() and (every <= [0.8, 0.3, 0.8]).all()
    still = (every == 0).all(axis=2)
    assert still.mean() == pytest.approx(0.1, abs=0.01)  # 10,000 draws: three standard errors
    np.testing.assert_allclose(every[~still].mean(axis=0), [0.15, 0, 0], atol=0.02)
    np.testing.assert_array_equal(many.at(np.full(2000, 199)), every[0])
    assert (many.at(np.full(2000, 200)) != every[0]).any(axis=1).mean() > 0.9
    longer, one = drawn(3000, seeds[:3]), drawn(1000, seeds[2:3])
    np.testing.assert_array_equal(longer.at(np.array([0, 500, 999])), many.at(np.r_[0, 500, 999, np.zeros(1997, int)])[:3])
    np.testing.assert_array_equal(one.at(np.array([700])), many.at(np.full(2000, 700))[2:3])


def test_what_counts_is_the_average_after_settling() -> None:
    commands = VelocityCommands(4, 50.0, 400, 4.0, (0, 0, 0), (0, 0, 0), 0.0)
    command = np.array([[0.5, 0.0, 0.2]] * 3 + [[0.0, 0.0, 0.0]])
    commands.impose(np.arange(4), command)
    sway = np.array([[0.0, 0.3, 0.0]] + [[0.0] * 3] * 3)
    for t in range(400):
        elapsed = np.full(4, t)
        sign = 1.0 if t % 10 < 5 else -1.0  # sways around the command, as a gait does; half as fast; stands still; is to stand still
        velocity = command * np.array([[1.0], [0.5], [0.0], [0.0]]) + sign * sway
        errors = commands.follow(velocity, commands.at(elapsed), elapsed)
        if t == 0:
            np.testing.assert_allclose(errors[2], [0.5, 0.2])
    np.testing.assert_array_equal(commands.judged, 2 * (200 - 75))
    assert commands.tracked((0.1, 0.1)).tolist() == [True, False, False, True]
    np.testing.assert_allclose(commands.missed[2] / 250, [0.5, 0.2])
    np.testing.assert_allclose(commands.asked / 250, [[0.5, 0.2]] * 3 + [[0, 0]], atol=1e-12)
    assert commands.tracked((0.3, 0.09)).tolist() == [True, False, False, True]
    assert commands.tracked((0.51, 0.21)).tolist() == [True, True, False, True]  # within the limits, but so is who does nothing


def test_a_robot_that_stands_still_follows_no_commands() -> None:
    """On rough ground commands are small: every eighth robot that only stood was within the limits."""
    env = registry.make("locomotion/quadruped-rough", 24)
    assert isinstance(env, Quadruped)
    env.reset(np.arange(24))
    asked = env.commands.at(np.zeros(24, np.int64))
    small = np.array([0.0, 0.1, 0.2]) * np.sign(asked + 0.5)
    env.commands.impose(np.arange(24), small)
    env._elapsed[:] = env.max_episode_steps - 100  # its last command is judged for 25 steps
    for _ in range(100):
        result = env.step(np.zeros((24, 12), np.float32))
    assert result.truncated.all() and (env.commands.missed < np.array(quadruped.TOLERANCE) * env.commands.judged[:, None]).all()
    assert not result.info["success"].any()
    env.close()


def episode(env: Quadruped, act) -> tuple[np.ndarray, np.ndarray]:
    """Return success (N,) at any time and at the end of an episode."""
    env.reset(1000 + np.arange(env.num_worlds))
    ever = np.zeros(env.num_worlds, bool)
    for _ in range(env.max_episode_steps):
        result = env.step(act())
        ever |= result.info["success"]
    return ever, result.info["success"]


def test_the_trot_follows_commands() -> None:
    env = make(10)
    ever, last = episode(env, env.expert_action)
    assert last.sum() >= 9
    np.testing.assert_array_equal(ever, last)
    env.close()


def test_standing_still_and_shaking_fail() -> None:
    env, rng = make(8), np.random.default_rng(0)
    act = np.zeros((8, 12), np.float32)

    def shaken_or_still() -> np.ndarray:
        act[4:] = rng.uniform(-1, 1, (4, 12))
        return act

    assert episode(env, shaken_or_still)[0].sum() == 0
    env.close()


def test_the_sparse_reward_pays_for_following_alone() -> None:
    env = make(2, reward="sparse")
    env.reset(np.arange(2))
    env.commands.impose(np.arange(2), np.array([[0.0, 0.0, 0.0], [0.8, 0.0, 0.0]]))
    total = sum(env.step(np.zeros((2, 12), np.float32)).reward for _ in range(100))
    assert total[0] > 1.5 and total[1] == 0.0
    env.close()
