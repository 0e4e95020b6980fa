"""Rough ground: its heights against hand-made numbers and against the physics' own rays, the scan, the patches."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
import pytest

from sim import registry
from sim.suites.locomotion import terrain
from sim.suites.locomotion.quadruped_rough import SCAN, SCAN_X, SCAN_Y, QuadrupedRough
from sim.suites.locomotion.terrain import CELL, Terrain


def make(num_worlds: int, **options) -> QuadrupedRough:
    env = registry.make("locomotion/quadruped-rough", num_worlds, **options)
    assert isinstance(env, QuadrupedRough)
    return env


def test_heights_are_linear_in_each_triangle() -> None:
    # Three by three samples: x from -0.1 to 0.1 along columns, y along rows.
    ground = Terrain(np.array([[0.0, 1.0, 2.0], [0.0, 5.0, 0.0], [3.0, 0.0, 7.0]]), np.zeros((1, 1, 3)))
    assert ground.radius == (CELL, CELL)
    points = {(-0.1, -0.1): 0.0, (0.0, 0.0): 5.0, (0.1, 0.1): 7.0, (-0.1, 0.1): 3.0, (0.0, -0.1): 1.0}  # on samples
    points |= {(-0.05, -0.1): 0.5, (-0.05, -0.05): 2.5, (-0.025, -0.05): 2.75, (-0.075, -0.05): 1.25, (9.0, 9.0): 7.0, (-9.0, -0.05): 0.0}
    got = ground.heights(np.array(list(points)))
    np.testing.assert_allclose(got, list(points.values()), atol=1e-12)
    np.testing.assert_allclose(ground.heights(np.array(list(points)).reshape(1, -1, 1, 2)).ravel(), got)


@pytest.fixture(scope="module")
def env():
    out = make(6)
    yield out
    out.close()


def test_heights_are_what_rays_hit(env: QuadrupedRough) -> None:
    env.reset(np.arange(6))
    rng = np.random.default_rng(0)
    rx, ry = env.terrain.radius
    points = rng.uniform([-rx, -ry], [rx, ry], (6, 400, 2))
    start = np.concatenate([points, np.full((6, 400, 1), 5.0)], axis=2)
    from mujoco.batch import Batch

    rays = Batch(env.model, 6, nthread=1)
    rays.state[:] = env.engine.save()
    distance, geom = rays.ray(start, np.array([0.0, 0.0, -1.0]), geomgroup=None, bodyexclude=-1)
    on_ground = geom == env.model.geom("terrain").id
    assert on_ground.mean() > 0.95  # a few hit a robot or fall on the plane beyond the rim
    np.testing.assert_allclose(env.ground(points)[on_ground], 5.0 - distance[on_ground], atol=1e-6)


def test_the_scan_turns_with_the_heading_and_not_with_the_tilt(env: QuadrupedRough) -> None:
    env.reset(np.arange(6))
    half = np.sqrt(0.5)
    env.qpos[0, :7] = [1.0, 2.0, 0.5, half, 0, 0, half]  # a quarter to the left
    env.qpos[1, :7] = [1.0, 2.0, 0.5, np.cos(0.3), 0, np.sin(0.3), 0]  # nose down by 0.6 rad
    got = env.scan().reshape(6, len(SCAN_X), len(SCAN_Y))
    for i, x in enumerate(SCAN_X):
        for j, y in enumerate(SCAN_Y):
            left = env.terrain.heights(np.array([1.0 - y, 2.0 + x])) - 0.5
            ahead = env.terrain.heights(np.array([1.0 + x, 2.0 + y])) - 0.5
            np.testing.assert_allclose(got[:2, i, j], [left, ahead], atol=1e-12)


def test_an_episode_begins_on_a_level_place_of_the_patch_that_its_seed_chose(env: QuadrupedRough) -> None:
    starts, chosen = env.terrain.starts, set()
    for k in range(12):
        obs = env.reset(100 * k + np.arange(6))
        chosen |= set(zip(env.kind.tolist(), env.level.tolist(), strict=True))
        assert np.abs(env.qpos[:, :2] - starts[env.kind, env.level, :2]).max() <= 0.2
        np.testing.assert_allclose(env.qpos[:, 2] - env.ground(env.qpos[:, None, :2])[:, 0], 0.31, atol=1e-6)
        scan = obs["observation.environment_state"].reshape(6, 13, 9)
        np.testing.assert_allclose(scan[:, 4:9, 2:7], -0.31, atol=1e-3)  # level under its feet
    assert len(chosen) == 16
    result = env.step(np.zeros((6, 12), np.float32))
    np.testing.assert_array_equal(result.info["level"], env.level)
    assert not result.terminated.any()


def test_higher_levels_are_rougher() -> None:
    ground = terrain.make_terrain()
    assert ground.elevation.min() == pytest.approx(-terrain.RIM) and ground.elevation[1:-1, 1:-1].min() >= 0.0
    side = terrain.SIDE
    inner = ground.elevation[1:-1, 1:-1].reshape(len(terrain.KINDS), side, terrain.LEVELS, side)
    spread = np.ptp(inner, axis=(1, 3))
    assert (np.diff(spread, axis=1) > 0).all() and spread.min() > 0.01 and spread.max() < 0.6
    np.testing.assert_array_equal(ground.elevation, terrain.make_terrain().elevation)


def test_a_robot_stands_on_the_ground_and_not_in_it(env: QuadrupedRough) -> None:
    """Feet that carry are a foot's radius above what :meth:`heights` says, so that scan and physics mean the same ground."""
    env.reset(40 + np.arange(6))
    for _ in range(50):
        env.step(np.zeros((6, 12), np.float32))
    touch = env.engine.bind("sensordata")[:, :4]
    env.step(np.zeros((6, 12), np.float32))
    standing = touch > 5.0
    assert standing.sum() >= 20
    np.testing.assert_allclose(env.heights()[:, 1:][standing], 0.022, atol=0.006)


def test_the_trot_follows_commands_on_rough_ground_because_it_sees_it() -> None:
    seeing, blind = make(8, max_episode_steps=500), make(8, max_episode_steps=500)
    blind.trot = dataclasses.replace(blind.trot, follow=0.0)
    succeeded = []
    for worlds in (seeing, blind):
        worlds.reset(2000 + np.arange(8))
        for _ in range(500):
            result = worlds.step(worlds.expert_action())
        succeeded.append(int(result.info["success"].sum()))
        worlds.close()
    assert succeeded[0] >= 6 and succeeded[1] < succeeded[0]


def test_without_its_state_the_world_is_seen_by_the_camera_alone() -> None:
    from tests.require import require

    require("egl")
    env = make(1, observations="image", image_size=32)
    obs = env.reset(np.array([1]))
    assert set(obs) == {"observation.state", "observation.images.side"} and obs["observation.images.side"].std() > 5
    assert SCAN.shape == (117, 2)
    env.close()


def test_the_model_has_the_plane_below_the_rim(env: QuadrupedRough) -> None:
    assert env.model.geom("floor").pos[2] == pytest.approx(-terrain.RIM)
    assert env.model.nhfield == 1 and isinstance(env.model, mujoco.MjModel)
