"""Contact forces, collision filters, friction, force sensors and terrain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from policies.spec import InputError
from tests.sim.isaacgym.scene import GRAVITY, Scene, about, at, gymapi, gymtorch

EDGE, MASS = 0.2, 8.0  # m, kg: a cube of water


def test_contact_forces_of_a_pile_carry_its_weight() -> None:
    """Two cubes on each other: the lower one is pushed up with both weights and down with one; the upper one up with its own."""
    scene = Scene(num_envs=3, ground=True, dt=0.01, substeps=2)
    cube = scene.gym.create_box(scene.sim, EDGE, EDGE, EDGE)
    scene.fill([(cube, at(z=0.1), "low"), (cube, at(z=0.3), "high")])
    forces = scene.rows("net_contact_force")
    scene.run(100)
    np.testing.assert_allclose(forces.numpy(), np.tile([[0, 0, MASS * GRAVITY]] * 2, (3, 1, 1)), rtol=1e-3, atol=1e-2)
    roots = scene.rows("actor_root_state").clone()
    roots[1, 1, 2] = 5.0
    scene.set("actor_root_state", roots.view(-1, 13), [3])
    scene.run(2)
    assert torch.equal(forces[1, 1], torch.zeros(3))
    assert forces[1, 0, 2].item() == pytest.approx(MASS * GRAVITY, rel=0.2) and forces[0, 1, 2].item() == pytest.approx(MASS * GRAVITY, rel=1e-3)


@pytest.mark.parametrize(
    ("groups", "filters", "meet"), [((0, 0), (0, 0), True), ((0, 1), (0, 0), False), ((0, -1), (0, 0), True), ((0, 0), (1, 3), False), ((0, 0), (1, 2), True)]
)
def test_groups_and_filters_say_who_collides(groups: tuple[int, int], filters: tuple[int, int], meet: bool) -> None:
    scene = Scene(num_envs=1, ground=True, dt=0.01)
    cube = scene.gym.create_box(scene.sim, EDGE, EDGE, EDGE)
    env = scene.gym.create_env(scene.sim, gymapi.Vec3(-1, -1, 0), gymapi.Vec3(1, 1, 1), 1)
    for height, name, group, mask in zip((0.1, 0.35), "ab", groups, filters, strict=True):
        scene.gym.create_actor(env, cube, at(z=height), name, group, mask)
    scene.gym.prepare_sim(scene.sim)
    roots = scene.tensor("actor_root_state")
    scene.run(100)
    np.testing.assert_allclose(roots[:, 2].numpy(), [0.1, 0.3 if meet else 0.1], atol=2e-3)


@pytest.mark.parametrize(("friction", "slides"), [(0.2, True), (1.0, False)])
def test_friction_of_shape_and_ground_is_averaged_and_the_same_in_every_direction(friction: float, slides: bool) -> None:
    """A slab is pulled with 0.8 of its weight: the average with the ground's 1.0 is 0.6 (slides) or 1.0 (holds)."""
    scene = Scene(num_envs=2, ground=True, dt=0.0025)
    slab = scene.gym.create_box(scene.sim, 0.4, 0.4, 0.05)
    (shape,) = scene.gym.get_asset_rigid_shape_properties(slab)
    shape.friction = friction
    scene.gym.set_asset_rigid_shape_properties(slab, [shape])
    scene.fill([(slab, at(z=0.025), "slab")])
    roots = scene.tensor("actor_root_state")
    scene.run(50)
    pull = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]]) * 0.8 * 8.0 * GRAVITY
    for _ in range(200):
        scene.gym.apply_rigid_body_force_tensors(scene.sim, gymtorch.unwrap_tensor(pull), None, gymapi.ENV_SPACE)
        scene.run(1)
    expected = (0.8 - 0.6) * GRAVITY * 0.5 if slides else 0.0
    np.testing.assert_allclose(roots[:, 7:9].norm(dim=1).numpy(), expected, rtol=0.1, atol=0.02)


def test_an_actor_has_the_shapes_that_its_asset_had_when_it_was_made() -> None:
    """Task code randomizes friction so: one list of properties, changed and set on the asset before every actor."""
    scene, wanted = Scene(num_envs=4, ground=True), [0.5, 1.0, 1.5, 2.0]
    slab = scene.gym.create_box(scene.sim, 0.4, 0.4, 0.05)
    props = scene.gym.get_asset_rigid_shape_properties(slab)
    for i, friction in enumerate(wanted):
        env = scene.gym.create_env(scene.sim, gymapi.Vec3(-1, -1, 0), gymapi.Vec3(1, 1, 1), 2)
        props[0].friction = friction
        scene.gym.set_asset_rigid_shape_properties(slab, props)
        scene.gym.create_actor(env, slab, at(z=0.025), "slab", i, 0)
        scene.envs.append(env)
    props[0].friction = 9.0  # the caller's own again
    scene.gym.prepare_sim(scene.sim)
    assert [scene.gym.get_actor_rigid_shape_properties(env, 0)[0].friction for env in scene.envs] == wanted
    assert scene.gym.get_asset_rigid_shape_properties(slab)[0].friction == 2.0
    roots, pull = scene.tensor("actor_root_state"), torch.tensor([[1.1 * 8.0 * GRAVITY, 0.0, 0.0]] * 4)
    for _ in range(50):
        scene.gym.apply_rigid_body_force_tensors(scene.sim, gymtorch.unwrap_tensor(pull), None, gymapi.ENV_SPACE)
        scene.run(1)
    assert (roots[:, 7] > 0.1).tolist() == [True, True, False, False]  # of the average with the ground's 1.0: 0.75, 1, 1.25, 1.5


def test_force_sensors_read_what_acts_in_their_own_frame() -> None:
    """At rest everything cancels, contacts push with the weight, the rest is the weight; falling, only the weight acts."""
    scene = Scene(num_envs=2, ground=True, dt=0.005)
    cube = scene.gym.create_box(scene.sim, EDGE, EDGE, EDGE)
    pose = gymapi.Transform(gymapi.Vec3(0.05, 0.0, 0.0), about((1, 0, 0), math.pi / 2))
    for forward, constraint, world in ((True, True, False), (False, True, False), (True, False, False), (False, True, True)):
        props = gymapi.ForceSensorProperties()
        props.enable_forward_dynamics_forces, props.enable_constraint_solver_forces, props.use_world_frame = forward, constraint, world
        scene.gym.create_asset_force_sensor(cube, 0, pose, props)
    scene.fill([(cube, at(z=0.1), "cube")])
    sensors = scene.rows("force_sensor")
    assert sensors.shape == (2, 4, 6) and scene.gym.get_sim_force_sensor_count(scene.sim) == 8
    scene.run(200)
    weight = MASS * GRAVITY
    # The sensor's y axis points up; 0.05 m beside the line of weight the torque about the world's y is 0.05 * weight.
    lever = 0.05 * weight
    expected = [[0, 0, 0, 0, 0, 0], [0, weight, 0, 0, 0, -lever], [0, -weight, 0, 0, 0, lever], [0, 0, weight, 0, lever, 0]]
    np.testing.assert_allclose(sensors[0].numpy(), expected, atol=0.05)
    roots = scene.tensor("actor_root_state")
    roots[:, 2] = 10.0
    scene.set("actor_root_state", roots)
    scene.run(2)
    np.testing.assert_allclose(sensors[0, :, :3].numpy(), [[0, -weight, 0], [0, 0, 0], [0, -weight, 0], [0, 0, 0]], atol=0.01)


def test_fixed_links_do_not_collide_with_what_hangs_on_them() -> None:
    """The cart overlaps its rail, with self-collision switched on."""
    scene = Scene(num_envs=1, gravity=0.0, dt=0.01)
    scene.fill([(scene.load("cartpole.urdf", fix_base_link=True), at(z=2.0), "cartpole")], mask=0)
    forces = scene.rows("net_contact_force")
    dofs = scene.tensor("dof_state")
    dofs[0, 1] = 1.0
    scene.set("dof_state", dofs)
    scene.run(50)
    assert torch.equal(forces[0, 1], torch.zeros(3)) and dofs[0, 1].item() == pytest.approx(1.0, rel=1e-3)


def stairs() -> tuple[np.ndarray, np.ndarray]:
    """Return a mesh of two steps, 0.3 and 0.6 m high, over x in [0, 4], y in [0, 2], as a regular grid of 0.25 m."""
    rows, columns = np.meshgrid(np.arange(17), np.arange(9), indexing="ij")
    x, y = 0.25 * rows, 0.25 * columns
    z = 0.3 * (rows >= 6) + 0.3 * (rows >= 11)
    vertices = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    index = np.arange(17 * 9).reshape(17, 9)
    a, b, c, d = index[:-1, :-1].ravel(), index[1:, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel()
    return vertices, np.concatenate([np.stack([a, d, c], axis=1), np.stack([a, b, d], axis=1)]).astype(np.uint32)


def test_bodies_rest_on_a_mesh_that_all_environments_share() -> None:
    scene = Scene(num_envs=3, dt=0.005)
    vertices, triangles = stairs()
    params = gymapi.TriangleMeshParams()
    params.nb_vertices, params.nb_triangles = len(vertices), len(triangles)
    params.transform.p.x, params.transform.p.y = -0.5, -1.0
    scene.gym.add_triangle_mesh(scene.sim, vertices.flatten(), triangles.flatten(), params)
    cube = scene.gym.create_box(scene.sim, 0.1, 0.1, 0.1)
    scene.fill([(cube, at(z=0.45), "cube")], spacing=1.5)  # environment 1 lies 1.5 m further along x, 2 likewise along y: beside the mesh
    roots = scene.tensor("actor_root_state")
    np.testing.assert_allclose(roots[:, :3].numpy(), np.tile([0, 0, 0.45], (3, 1)), atol=1e-6)
    scene.run(400)
    # World x = 0 is 0.5 m into the mesh (height 0), 1.5 is 2 m (height 0.3).
    np.testing.assert_allclose(roots[:2, 2].numpy(), [0.05, 0.35], atol=2e-3)
    assert roots[2, 2].item() < -1.0


def test_height_fields_lie_where_their_samples_say() -> None:
    scene = Scene(num_envs=2, dt=0.005)
    samples = np.zeros((30, 20), np.int16)
    samples[15:] = 40
    params = gymapi.HeightFieldParams()
    params.nbRows, params.nbColumns, params.row_scale, params.column_scale, params.vertical_scale = 30, 20, 0.1, 0.1, 0.005
    params.transform.p.x, params.transform.p.y = -1.5, -1.0
    scene.gym.add_heightfield(scene.sim, samples.flatten(), params)
    cube = scene.gym.create_box(scene.sim, 0.1, 0.1, 0.1)
    scene.fill([(cube, at(x=-0.5, z=0.5), "left"), (cube, at(x=0.5, z=0.5), "right")], spacing=0.0)
    roots = scene.rows("actor_root_state")
    scene.run(300)
    np.testing.assert_allclose(roots[:, :, 2].numpy(), [[0.05, 0.25]] * 2, atol=2e-3)
    with pytest.raises(InputError, match="add_heightfield: the worlds are made already"):
        scene.gym.add_heightfield(scene.sim, samples, params)
