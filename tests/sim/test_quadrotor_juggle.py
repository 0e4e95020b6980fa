"""Juggling: the bounce against closed forms, the meeting of ball and racket by hand, counting, the expert, and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from sim import registry
from sim.oracles.quadrotor_expert import Juggling, meeting
from sim.suites.quadrotor import juggle
from sim.suites.quadrotor.vehicle import GRAVITY

PLAN = Juggling(mass=1.0, ball_mass=0.05, restitution=0.8, contact=0.1, home=np.array([0.0, 0.0, 1.0]), apex=0.5)


def test_a_bounce_off_the_floor_keeps_what_the_damped_spring_says() -> None:
    env = registry.make("quadrotor/juggle")
    env.reset(np.array([0]))
    env.qpos[0, :3], env.qpos[0, 7:10], env.qvel[0] = [3, 0, 2], [0, 0, 0.03 + 0.6], 0.0
    env.engine.forward()
    speeds = []
    for _ in range(300):
        env.ctrl[:] = 0.41
        env.engine.step(None, 1)
        speeds.append(env.qvel[0, 8])
    before, after = -min(speeds), max(speeds)
    assert before == pytest.approx(np.sqrt(2 * GRAVITY * 0.6), rel=0.01)
    assert after / before == pytest.approx(juggle.restitution(), abs=0.05)
    env.close()


def test_ball_and_racket_meet_when_and_as_two_equations_say() -> None:
    meet = meeting(PLAN, np.array([[0.0, 0.0, 1.6]]), np.zeros((1, 3)))  # half a metre above the contact, above home
    assert meet.seconds[0] == pytest.approx(np.sqrt(2 * 0.5 / GRAVITY))
    np.testing.assert_allclose(meet.place, [[0, 0, 1.1]], atol=1e-12)
    np.testing.assert_allclose(meet.normal, [[0, 0, 1]], atol=1e-12)
    fall = np.sqrt(2 * GRAVITY * 0.5)
    u, e, m, b = meet.speed[0], 0.8, 1.0, 0.05
    after = (m * u - b * fall + e * m * (u + fall)) / (m + b)  # conservation of momentum and Newton's restitution
    assert after == pytest.approx(fall), "it rises as high as it fell from"


def test_a_ball_off_the_middle_is_sent_back_by_a_racket_that_leans_home() -> None:
    meet = meeting(PLAN, np.array([[0.1, 0.0, 1.6]]), np.array([[0.2, 0.0, 0.0]]))
    assert meet.place[0, 0] == pytest.approx(0.1 + 0.2 * meet.seconds[0])
    assert meet.normal[0, 0] < 0 and meet.normal[0, 1] == 0 and np.linalg.norm(meet.normal) == pytest.approx(1.0)
    incoming = np.array([0.2, 0.0, -meet.fall[0]])
    along = (PLAN.restitution + 1) * PLAN.mass / (PLAN.mass + PLAN.ball_mass) * (meet.speed[0] - incoming @ meet.normal[0])
    after = incoming + along * meet.normal[0]
    rises = np.sqrt(2 * GRAVITY * PLAN.apex)
    np.testing.assert_allclose(after, [-0.5 * meet.place[0, 0] / (2 * rises / GRAVITY), 0, rises], atol=1e-9)


def test_only_bounces_from_high_enough_count_and_a_low_one_begins_anew() -> None:
    env = registry.make("quadrotor/juggle", max_episode_steps=1000)
    env.reset(np.array([0]))
    hover, seen = np.array([[env.airframe.mass * GRAVITY, 0, 0, 0]], np.float32), []
    env.qpos[0, :7], env.qpos[0, 7:10], env.qvel[0] = [0, 0, 1, 1, 0, 0, 0], [0, 0, 1 + juggle.CONTACT + 0.6], 0.0
    env.engine.forward()
    for _ in range(150):
        result = env.step(hover)
        seen.append(int(result.info["bounces"][0]))
        if result.terminated[0]:
            break
    assert max(seen) in (1, 2, 3) and 0 in seen[seen.index(max(seen)) :], "a racket that only hovers takes the height away"
    env.close()


def test_the_expert_keeps_the_ball_up() -> None:
    env = registry.make("quadrotor/juggle", 20, max_episode_steps=600)
    env.reset(np.arange(20) + 500)
    for _ in range(600):
        result = env.step(env.expert_action())
    assert result.info["success"].mean() >= 0.9
    assert np.median(result.info["bounces"]) >= 12
    env.close()


@pytest.mark.parametrize("kind", ["zero", "random", "hold"])
def test_no_thrust_chance_and_holding_drop_the_ball(kind: str) -> None:
    env = registry.make("quadrotor/juggle", 16)
    env.reset(np.arange(16))
    generator, total = np.random.default_rng(0), np.zeros(16)
    for _ in range(400):
        action = np.zeros((16, 4), np.float32)
        if kind == "random":
            action = generator.uniform(env.spec.action.low, env.spec.action.high, (16, 4)).astype(np.float32)
        elif kind == "hold":
            action[:, 0] = env.airframe.mass * GRAVITY
        result = env.step(action)
        total += result.reward
        assert not result.info["success"].any()
    assert total.max() < 6
    env.close()
