"""PushT: the suite's own numbers, keypoints and pictures, and a planner that solves it."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely

from sim import registry
from sim.oracles import pusht_planner as planner
from sim.suites import pusht
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def opencv() -> None:
    """The suite imports OpenCV."""
    require("libgl")


def play(seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let the expert play; returns success (N,), best score (N,) and steps (N,)."""
    env = registry.make("pusht", len(seeds))
    env.reset(seeds)
    best, steps = np.zeros(len(seeds)), np.zeros(len(seeds))
    for _ in range(env.max_episode_steps):
        result = env.step(env.expert_action())
        best = np.maximum(best, result.info["score"])
        ended = result.terminated | result.truncated
        steps += ~ended
        if ended.all():
            break
    env.close()
    return result.info["success"], best, steps


def test_episodes_equal_the_suites_own() -> None:
    suite = pusht._suite_class()
    worlds = registry.make("pusht", 1, observations="state+image", image_size=64)
    own = suite(obs_type="pixels_agent_pos", observation_width=64, observation_height=64)
    rng = np.random.default_rng(0)
    for seed in (4, 5):
        obs, (frame, _) = worlds.reset(np.array([seed])), own.reset(seed=seed)
        target = np.array([256.0, 256.0])
        for _ in range(40):
            np.testing.assert_array_equal(obs["observation.state"][0], frame["agent_pos"].astype(np.float32))
            np.testing.assert_array_equal(obs["observation.images.top"][0], frame["pixels"])
            keypoints = own.get_keypoints(own._block_shapes).ravel().astype(np.float32)
            np.testing.assert_array_equal(obs["observation.environment_state"][0], keypoints)
            target = np.clip(target + rng.uniform(-60, 60, 2), 0, 512).astype(np.float32)
            result = worlds.step(target[None])
            frame, reward, terminated, _, info = own.step(target.astype(np.float64))
            assert result.reward[0] == np.float32(reward) and result.terminated[0] == terminated
            assert result.info["score"][0] == np.float32(info["coverage"])
            obs = result.obs
    worlds.close()


def test_coverage_is_the_overlap_of_the_outlines() -> None:
    env = registry.make("pusht", 1)
    env.reset(np.array([0]))
    suite = env._envs[0]  # type: ignore[attr-defined]
    goal = shapely.Polygon(planner.corners(planner.GOAL_POSITION, planner.GOAL_ANGLE))
    for offset, turn in (((0, 0), 0.0), ((20, -10), 0.3), ((300, 0), 0.0)):
        suite.block.angle = planner.GOAL_ANGLE + turn
        suite.block.position = tuple(planner.GOAL_POSITION + offset)
        block = shapely.Polygon(planner.corners(np.array(suite.block.position), suite.block.angle))
        assert suite._get_coverage() == pytest.approx(goal.intersection(block).area / goal.area, abs=1e-9)
    env.close()


def test_the_keypoints_are_corners_of_the_outline() -> None:
    env = registry.make("pusht", 3)
    keypoints = env.reset(np.arange(3))["observation.environment_state"].reshape(3, 8, 2)
    for suite, points in zip(env._envs, keypoints, strict=True):  # type: ignore[attr-defined]
        outline = shapely.Polygon(planner.corners(np.array(suite.block.position), suite.block.angle))
        assert max(outline.exterior.distance(shapely.Point(p)) for p in points) < 1e-3
    env.close()


def test_the_expert_solves_it() -> None:
    success, best, steps = play(np.arange(2_000_000, 2_000_012))
    assert success.all() and (best > 0.95).all() and steps.mean() < 150


@pytest.mark.soak
def test_the_expert_solves_98_of_100() -> None:
    import time

    start = time.process_time()
    success, _, _ = play(np.arange(1000, 1100))
    assert success.sum() >= 98
    assert (time.process_time() - start) / 100 < 1.0  # CPU seconds an episode; about 0.2 on a quiet core


def test_a_plan_is_a_function_of_the_state_alone() -> None:
    code = (
        "import numpy as np; from sim.suites import pusht; from sim.oracles.pusht_planner import plan; pusht._suite_class();"
        "m = plan(np.array([100., 80.]), np.array([300., 250.]), 2.0);"
        "print([float(v).hex() for v in (*m.push.start, *m.push.direction, m.push.stride, m.push.steps, *np.ravel(m.waypoints))])"
    )
    answers = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    planner.plan(np.array([400.0, 400.0]), np.array([150.0, 200.0]), -1.0)  # a plan before it changes nothing
    macro = planner.plan(np.array([100.0, 80.0]), np.array([300.0, 250.0]), 2.0)
    push = macro.push
    mine = [float(v).hex() for v in (*push.start, *push.direction, push.stride, push.steps, *np.ravel(macro.waypoints))]
    assert answers == {f"{mine}\n"}


def test_a_plan_foresees_what_the_task_does() -> None:
    """The pose after a push, simulated by the planner, is the pose in the real world after the same push."""
    env = registry.make("pusht", 1)
    for seed in (1, 2, 3):
        env.reset(np.array([seed]))
        suite = env._envs[0]  # type: ignore[attr-defined]
        position, angle = np.array(suite.block.position), float(suite.block.angle)
        push = planner.plan(np.array(suite.agent.position), position, angle).push
        suite.agent.position = tuple(push.start)
        suite.agent.velocity = (0, 0)
        foreseen = planner.Replica().push(position, angle, push)
        for k, (where, turned) in enumerate(foreseen, start=1):
            suite.step(push.start + push.direction * push.stride * k)
            np.testing.assert_allclose(np.array(suite.block.position), where, atol=0.5)
            assert float(suite.block.angle) == pytest.approx(turned, abs=0.01)
    env.close()


def test_the_way_round_keeps_clear_of_the_block() -> None:
    position, angle = np.array([256.0, 256.0]), 0.3
    body = shapely.Polygon(planner.corners(position, angle))
    places, inward = planner.free_contacts(position, angle)
    assert len(places) > 30
    np.testing.assert_allclose(np.linalg.norm(inward, axis=1), 1)
    agent = np.array([256.0, 60.0])
    ways = planner.WaysRound(agent, places, position, angle)
    reached = np.flatnonzero(np.isfinite(ways.length))
    assert len(reached) >= len(places) - 2  # in the inner corners there may be no room
    for i in reached:
        line = shapely.LineString([agent, *ways.way(i)])
        assert line.distance(body) > planner.AGENT_RADIUS
        assert line.length == pytest.approx(ways.length[i])
        assert line.length >= np.linalg.norm(places[i] - agent) - 1e-9
        np.testing.assert_array_equal(ways.way(i)[-1], places[i])


def test_an_agent_at_the_block_first_leaves_it() -> None:
    position, angle = np.array([256.0, 256.0]), 0.0
    agent = np.array([256.0, 256.0 - 15.5])  # against the bar's upper edge
    places, _ = planner.free_contacts(position, angle)
    ways = planner.WaysRound(agent, places, position, angle)
    reached = np.isfinite(ways.length)
    assert reached.sum() >= len(places) - 2
    first = ways.way(int(np.argmax(np.where(reached, ways.length, 0))))[0]
    body = shapely.Polygon(planner.corners(position, angle))
    assert body.distance(shapely.Point(first)) > body.distance(shapely.Point(agent))


def test_corner_distance_by_hand() -> None:
    assert planner.corner_distance(planner.GOAL_POSITION + [3, 4], planner.GOAL_ANGLE) == pytest.approx(5.0)
    radius = math.sqrt((planner.OUTLINE**2).sum(1).mean())
    assert planner.corner_distance(planner.GOAL_POSITION, planner.GOAL_ANGLE + math.pi) == pytest.approx(2 * radius)


def test_an_expert_that_was_not_asked_plans_anew() -> None:
    env = registry.make("pusht", 1)
    env.reset(np.array([3]))
    for _ in range(4):
        env.step(env.expert_action())
    old = env._planner.macros[0]  # type: ignore[attr-defined]
    env.step(np.array([[30.0, 30.0]]))
    env.expert_action()
    assert env._planner.macros[0] is not old  # type: ignore[attr-defined]
    env.close()
