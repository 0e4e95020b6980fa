"""The peg and its hole: geometry by MuJoCo's own distances, the shaped reward, the expert, and arms that do nothing clever."""

from __future__ import annotations

import numpy as np
import pytest

from policies.kinematics import Kinematics
from sim import registry
from sim.env import JointDriven
from sim.oracles.arm_expert import TipServo, insert_waypoint
from sim.suites import arm, arm_insert
from tests.require import require

SEEDS = np.array([3, 8], np.int64)


def run(env, act, steps: int | None = None) -> np.ndarray:
    """Return which worlds (N,) succeeded with actions ``act()``."""
    done = np.zeros(env.num_worlds, bool)
    for _ in range(steps or env.max_episode_steps):
        done |= env.step(act()).info["success"]
        env.retire(done)
        if done.all():
            break
    return done


def test_three_millimetres_are_left_around_a_peg_in_the_middle() -> None:
    import mujoco

    env = registry.make("arm/insert")
    env.reset(SEEDS[:1])
    model, data = env.engine.scene(0)
    tip = np.array([*env._mocap[0, 0, :2], arm_insert.BOTTOM])
    servo, q = TipServo(env.robot_model, np.array(env.home)), env.qpos[0].copy()
    for _ in range(300):  # the kinematics alone
        q = servo.target(q, tip, 1.0, 3.0)
    np.testing.assert_allclose(servo.tip(q), tip, atol=1e-3)
    data.qpos[:7] = q
    mujoco.mj_forward(model, data)
    peg = model.geom("peg").id
    gaps = [mujoco.mj_geomDistance(model, data, peg, model.geom(f"wall_{w}").id, 1.0, None) for w in ("east", "west", "north", "south")]
    assert gaps[0] + gaps[1] == pytest.approx(2 * arm_insert.CLEARANCE, abs=2e-4)
    assert gaps[2] + gaps[3] == pytest.approx(2 * arm_insert.CLEARANCE, abs=2e-4)
    np.testing.assert_allclose(arm_insert.CLEARANCE, 0.003)
    assert data.ncon == 0
    env.close()


def test_the_peg_is_where_the_tool_was_and_a_twin_can_drive_it() -> None:
    env = registry.make("arm/insert")
    assert isinstance(env, JointDriven) and env.spec.action.names == arm.JOINTS
    bare, armed = Kinematics(arm.robot_model()), Kinematics(env.robot_model)
    q = np.random.default_rng(0).uniform(*arm.joint_range())
    bare.forward(q), armed.forward(q)
    np.testing.assert_allclose(armed.pose("hand")[0], bare.pose("hand")[0], atol=1e-5)
    env.close()


def test_the_hole_keeps_what_is_beside_it_out() -> None:
    env = registry.make("arm/insert", 2)
    env.reset(SEEDS)
    servo = TipServo(env.robot_model, np.array(env.home))
    beside = env._mocap[:, 0] + [0.03, 0.0, 0.0]  # over the wall

    lowest = np.full(2, np.inf)

    def press() -> np.ndarray:
        np.minimum(lowest, env.hand[:, 2], out=lowest)
        high = np.linalg.norm(env.hand[:, :2] - beside[:, :2], axis=1) > 0.004
        points = beside + np.where(high, 0.12, 0.02)[:, None] * [0, 0, 1]
        return np.array([servo.target(q, p, 0.2, 2.0) for q, p in zip(env.qpos, points, strict=True)], np.float32)

    assert not run(env, press, 120).any()
    assert (lowest > arm_insert.BLOCK_HEIGHT - 0.006).all(), "the peg went through the block"
    assert (lowest < arm_insert.BLOCK_HEIGHT + 0.001).all(), "the peg never touched the block"
    env.close()


def test_the_height_wanted_falls_from_the_edge_inwards() -> None:
    wanted = arm_insert.wanted_height(np.array([0.0, 0.003, 0.009, 0.015, 0.2]))
    np.testing.assert_allclose(wanted, [0.022, 0.022, 0.056, 0.09, 0.09], atol=1e-12)


def test_the_expert_lines_up_before_it_goes_down() -> None:
    hole = np.array([0.5, 0.1])
    over, _ = insert_waypoint(np.array([0.4, 0.0, 0.3]), hole, 0.07, 0.022, 0.003)
    np.testing.assert_allclose(over, [0.5, 0.1, 0.1])
    down, _ = insert_waypoint(np.array([0.501, 0.1, 0.1]), hole, 0.07, 0.022, 0.003)
    np.testing.assert_allclose(down, [0.5, 0.1, 0.022])
    up, _ = insert_waypoint(np.array([0.52, 0.1, 0.072]), hole, 0.07, 0.022, 0.003)
    np.testing.assert_allclose(up, [0.52, 0.1, 0.12])


def test_the_expert_inserts() -> None:
    env = registry.make("arm/insert", 20)
    env.reset(np.arange(20) + 500)
    assert run(env, env.expert_action).mean() >= 0.9
    env.close()


@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_standing_still_and_chance_fail(reward: str) -> None:
    env = registry.make("arm/insert", 8, reward=reward, max_episode_steps=60)
    env.reset(np.arange(8))
    generator, home = np.random.default_rng(0), np.tile(np.array(env.home, np.float32), (8, 1))

    def act() -> np.ndarray:
        out = home.copy()
        out[4:] = generator.uniform(env.spec.action.low, env.spec.action.high, (4, 7))
        return out

    for _ in range(60):
        result = env.step(act())
        assert not result.info["success"].any()
        assert (result.reward == 0).all() if reward == "sparse" else (result.reward < 0).all()
    env.close()


def test_the_image_task_says_nothing_of_the_hole() -> None:
    fields = registry.make("arm/insert").task_fields(state=False)
    assert fields == {}


def test_the_expert_inserts_in_another_physics() -> None:
    require("bullet")
    env = registry.make("arm/insert", 2, engine="bullet")
    env.reset(np.array([3, 4]))
    assert run(env, env.expert_action).all()
    env.close()
