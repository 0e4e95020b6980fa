"""Patches of terrain: heights where they are said to be, and the same ground as a mesh and as a height field."""

from __future__ import annotations

import numpy as np
import pytest

from sim.isaacgym.terrain import sample_mesh
from tests.sim.isaacgym import scene  # noqa: F401  (makes "import isaacgym" find ours)
from tests.sim.isaacgym.scene import Scene, at, gymapi

from isaacgym import terrain_utils as tu  # isort: skip


def patch() -> tu.SubTerrain:
    return tu.SubTerrain("patch", width=80, length=60, vertical_scale=0.005, horizontal_scale=0.1)


def heights(terrain: tu.SubTerrain) -> np.ndarray:
    return terrain.height_field_raw * terrain.vertical_scale


def test_slopes_stairs_and_waves() -> None:
    rise = heights(tu.sloped_terrain(patch(), slope=0.2))
    np.testing.assert_allclose(rise[:, 0], 0.02 * np.arange(80), atol=0.005)
    assert (rise == rise[:, :1]).all()
    hill = heights(tu.pyramid_sloped_terrain(patch(), slope=0.3, platform_size=2.0))
    assert hill[0].max() == 0 and hill.max() == hill[40, 30] == hill[32, 30]
    assert (hill[30:51, 20:41] == hill.max()).all() and hill.max() == pytest.approx(4 * 0.3 * 0.75 * (20 / 30), abs=0.005)  # corners too
    pit = heights(tu.pyramid_sloped_terrain(patch(), slope=-0.3, platform_size=2.0))
    np.testing.assert_allclose(pit, -hill, atol=0.0051)
    stairs = heights(tu.stairs_terrain(patch(), step_width=1.0, step_height=0.2))
    np.testing.assert_allclose(stairs[[5, 15, 75], 7], [0.2, 0.4, 1.6])
    pyramid = heights(tu.pyramid_stairs_terrain(patch(), step_width=0.5, step_height=0.1, platform_size=2.0))
    np.testing.assert_allclose([pyramid[2, 30], pyramid[7, 30], pyramid[40, 30], pyramid[79, 59]], [0, 0.1, 0.4, 0])
    waves = heights(tu.wave_terrain(patch(), num_waves=2, amplitude=0.4))
    np.testing.assert_allclose(waves.max(), 0.4, atol=0.01)


def test_random_patches_keep_to_their_ranges_and_their_platform() -> None:
    np.random.seed(0)
    rough = heights(tu.random_uniform_terrain(patch(), -0.05, 0.05, step=0.01, downsampled_scale=0.3))
    assert -0.05 <= rough.min() < -0.03 and 0.03 < rough.max() <= 0.05 and abs(rough.mean()) < 0.01
    blocks = heights(tu.discrete_obstacles_terrain(patch(), 0.2, 0.5, 1.5, num_rects=30, platform_size=2.0))
    assert set(np.unique(blocks)) <= {-0.2, -0.1, 0.0, 0.1, 0.2} and (blocks[30:50, 20:40] == 0).all() and (blocks != 0).any()
    stones = heights(tu.stepping_stones_terrain(patch(), 0.5, 0.2, 0.05, platform_size=2.0, depth=-2.0))
    assert stones.min() == -2.0 and (stones[30:50, 20:40] == 0).all() and 0.5 < (np.abs(stones) < 0.06).mean() < 0.8


def test_a_mesh_is_the_grid_and_a_sampled_mesh_is_the_grid_again() -> None:
    np.random.seed(1)
    terrain = tu.random_uniform_terrain(patch(), -0.1, 0.1, step=0.02, downsampled_scale=0.4)
    vertices, triangles = tu.convert_heightfield_to_trimesh(terrain.height_field_raw, 0.1, 0.005)
    assert vertices.shape == (4800, 3) and triangles.shape == (2 * 79 * 59, 3) and vertices.dtype == np.float32 and triangles.dtype == np.uint32
    normals = np.cross(*(vertices[triangles[:, k]] - vertices[triangles[:, 0]] for k in (1, 2)))
    assert (normals[:, 2] > 0).all()
    found, step, corner = sample_mesh(vertices.astype(float), triangles.astype(int))
    np.testing.assert_allclose(found, heights(terrain), atol=1e-6)
    assert step == pytest.approx((0.1, 0.1)) and corner == (0.0, 0.0)


def test_steep_sides_become_upright_without_a_change_of_what_lies_flat() -> None:
    terrain = tu.stairs_terrain(patch(), step_width=1.0, step_height=0.2)
    vertices, triangles = tu.convert_heightfield_to_trimesh(terrain.height_field_raw, 0.1, 0.005, slope_threshold=0.75)
    grid = vertices.reshape(80, 60, 3)
    assert grid[9, 5, 0] == pytest.approx(1.0) and grid[10, 5, 0] == pytest.approx(1.0) and grid[8, 5, 0] == pytest.approx(0.8)
    found, _, _ = sample_mesh(vertices.astype(float), triangles.astype(int))
    flat = [5, 15, 25, 35]
    np.testing.assert_allclose(found[flat], heights(terrain)[flat], atol=1e-6)


def test_a_cube_rests_on_stairs_given_as_a_mesh() -> None:
    world = Scene(num_envs=1, dt=0.005)
    vertices, triangles = tu.convert_heightfield_to_trimesh(tu.stairs_terrain(patch(), 1.0, 0.2).height_field_raw, 0.1, 0.005, 0.75)
    params = gymapi.TriangleMeshParams()
    params.nb_vertices, params.nb_triangles = len(vertices), len(triangles)
    world.gym.add_triangle_mesh(world.sim, vertices.flatten(order="C"), triangles.flatten(order="C"), params)
    cube = world.gym.create_box(world.sim, 0.2, 0.2, 0.2)
    world.fill([(cube, at(x=0.5, y=3.0, z=0.4), "low"), (cube, at(x=2.5, y=3.0, z=0.8), "high")])
    roots = world.tensor("actor_root_state")
    world.run(200)
    np.testing.assert_allclose(roots[:, 2].numpy(), [0.3, 0.7], atol=2e-3)
