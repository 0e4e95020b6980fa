"""State tensors against numbers worked out by hand: order of quaternions, frames of velocities, what forces do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.sim.isaacgym.scene import GRAVITY, Scene, about, at, gymapi, gymtorch

SIZES = (0.2, 0.4, 0.6)
MASS = 1000.0 * 0.2 * 0.4 * 0.6


def box_scene(turn: object = None, **options: float) -> Scene:
    scene = Scene(num_envs=3, **options)  # type: ignore[arg-type]
    box = scene.gym.create_box(scene.sim, *SIZES)
    return scene.fill([(box, at(0.1, 0.2, 5.0, turn), "box")])


def test_a_body_falls_as_the_closed_form_says() -> None:
    scene = box_scene(dt=0.01, substeps=2)
    roots, bodies = scene.tensor("actor_root_state"), scene.tensor("rigid_body_state")
    assert roots.shape == bodies.shape == (3, 13)
    scene.run(30)
    # Semi-implicit Euler: v = -g n h, z = z0 - g h^2 n (n + 1) / 2.
    n, h = 60, 0.005
    expected = [0.1, 0.2, 5.0 - GRAVITY * h * h * n * (n + 1) / 2, 0, 0, 0, 1, 0, 0, -GRAVITY * n * h, 0, 0, 0]
    for tensor in (roots, bodies):
        np.testing.assert_allclose(tensor.numpy(), np.tile(expected, (3, 1)), atol=1e-5)
    assert scene.gym.get_sim_time(scene.sim) == pytest.approx(0.3)


def test_quaternions_are_x_y_z_w() -> None:
    turn = about((0, 0, 1), math.pi / 2)
    scene = box_scene(turn)
    half = math.sqrt(0.5)
    for name in ("actor_root_state", "rigid_body_state"):
        np.testing.assert_allclose(scene.tensor(name)[0, 3:7].numpy(), [0, 0, half, half], atol=1e-6)


def test_angular_velocity_is_in_the_worlds_axes_and_turns_the_body_about_them() -> None:
    """A sphere spins about the world's x although it is turned by 90 degrees about z."""
    scene = Scene(num_envs=2, dt=0.01, gravity=0.0)
    ball = scene.gym.create_sphere(scene.sim, 0.1)
    scene.fill([(ball, at(turn=about((0, 0, 1), math.pi / 2)), "ball")])
    root = scene.tensor("actor_root_state")
    root[:, 10:] = torch.tensor([2.0, 0.0, 0.0])
    scene.set("actor_root_state", root)
    scene.run(50)
    expected = Rotation.from_rotvec([2.0 * 0.5, 0, 0]) * Rotation.from_rotvec([0, 0, math.pi / 2])
    found = Rotation.from_quat(root[0, 3:7].numpy())  # scipy: x, y, z, w
    assert (expected * found.inv()).magnitude() < 1e-3
    np.testing.assert_allclose(root[:, 10:].numpy(), np.tile([2.0, 0, 0], (2, 1)), atol=1e-5)
    np.testing.assert_allclose(scene.tensor("rigid_body_state").numpy(), root.numpy(), atol=1e-6)


def pendulum() -> tuple[Scene, torch.Tensor, torch.Tensor]:
    """The cart and pole, upright, with the pole at 90 degrees (along -y) swinging at 3 rad/s and the cart at rest."""
    scene = Scene(num_envs=2, gravity=0.0)
    scene.fill([(scene.load("cartpole.urdf", fix_base_link=True), at(1.0, 2.0, 3.0), "cartpole")], mask=1)
    dofs = scene.rows("dof_state")
    dofs[:, 1] = torch.tensor([math.pi / 2, 3.0])
    scene.set("dof_state", scene.tensor("dof_state").copy_(dofs.view(-1, 2)))
    scene.refresh()
    return scene, dofs, scene.rows("rigid_body_state")


def test_links_report_their_origin_and_the_velocity_of_their_centre_of_mass() -> None:
    """The pole turns about x at its origin; its centre of mass, 0.47 m along its z, points to -y and moves with w x r."""
    scene, _, bodies = pendulum()
    pole = scene.gym.find_actor_rigid_body_handle(scene.envs[0], 0, "pole")
    state = bodies[0, pole].numpy()
    np.testing.assert_allclose(state[:3], [1.12, 2.0, 3.0], atol=1e-6)
    np.testing.assert_allclose(state[3:7], [math.sqrt(0.5), 0, 0, math.sqrt(0.5)], atol=1e-6)
    np.testing.assert_allclose(state[10:], [3.0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(state[7:10], np.cross([3.0, 0, 0], [0, -0.47, 0]), atol=1e-6)
    rail = bodies[0, 0].numpy()
    np.testing.assert_allclose(rail, [1, 2, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(scene.tensor("actor_root_state")[0].numpy(), rail, atol=1e-7)


@pytest.mark.parametrize("late", [False, True])
def test_root_velocity_is_that_of_the_centre_of_mass(late: bool) -> None:
    """In environment 1 a box's centre of mass is moved by 0.1 m along its x, early or once it spins: its origin circles around it."""
    scene = Scene(num_envs=2, dt=0.001, gravity=0.0)
    box = scene.gym.create_box(scene.sim, *SIZES)

    def move_centre(env: object, handles: list[int]) -> None:
        if len(scene.envs) == 2:
            (body,) = scene.gym.get_actor_rigid_body_properties(env, handles[0])
            body.com = gymapi.Vec3(0.1, 0.0, 0.0)
            scene.gym.set_actor_rigid_body_properties(env, handles[0], [body])

    scene.fill([(box, at(0, 0, 1, about((0, 0, 1), math.pi / 2)), "box")], each=None if late else move_centre)
    root = scene.tensor("actor_root_state")
    if late:
        scene.run(10)
        move_centre(scene.envs[1], [0])
    root[:, 12] = 4.0
    scene.set("actor_root_state", root.clone())
    scene.refresh()
    np.testing.assert_allclose(root[:, 7:].numpy(), np.tile([0, 0, 0, 0, 0, 4.0], (2, 1)), atol=1e-6)
    np.testing.assert_allclose(scene.tensor("rigid_body_state")[:, 7:].numpy(), np.tile([0, 0, 0, 0, 0, 4.0], (2, 1)), atol=1e-6)
    scene.run(250)
    # The centre stays at (0, 0.1, 1); after 1 rad the body's x axis has turned from y by 1 rad.
    angle = math.pi / 2 + 1.0
    centre, axis = np.array([0, 0.1, 1.0]), np.array([math.cos(angle), math.sin(angle), 0])
    np.testing.assert_allclose(root[:, :3].numpy(), [[0, 0, 1.0], centre - 0.1 * axis], atol=5e-4)  # of first order in the step


def test_what_is_acquired_late_does_not_disturb_what_runs() -> None:
    """Contact forces are acquired in the middle of one of two equal runs."""
    early, late = (Scene(num_envs=2, ground=True, dt=0.01) for _ in range(2))
    for scene in (early, late):
        cube = scene.gym.create_box(scene.sim, 0.2, 0.2, 0.2)
        scene.fill([(cube, at(z=0.15, turn=about((1, 0, 0), 0.2)), "cube"), (scene.gym.create_sphere(scene.sim, 0.1), at(1.0, 0, 0.3), "ball")])
    early.tensor("net_contact_force")
    for steps in (15, 30):
        for scene in (early, late):
            scene.tensor("actor_root_state")
            scene.run(steps)
        forces = [scene.tensor("net_contact_force") for scene in (early, late)]
    torch.testing.assert_close(early.tensor("actor_root_state"), late.tensor("actor_root_state"), atol=1e-5, rtol=0)
    for scene in (early, late):
        scene.run(1)
    assert forces[0][0, 2] > 1.0
    torch.testing.assert_close(*forces, atol=0.05, rtol=1e-2)


@pytest.mark.parametrize("space", ["ENV_SPACE", "LOCAL_SPACE"])
def test_a_force_at_the_centre_gives_mass_times_acceleration(space: str) -> None:
    scene = box_scene(about((0, 0, 1), math.pi / 2), dt=0.01, gravity=0.0)
    root = scene.tensor("actor_root_state")
    force = torch.zeros(3, 3)
    force[1, 0] = 96.0
    scene.gym.apply_rigid_body_force_tensors(scene.sim, gymtorch.unwrap_tensor(force), None, getattr(gymapi, space))
    scene.run(1)
    gained = 96.0 * 0.01 / MASS
    expected = [gained, 0, 0] if space == "ENV_SPACE" else [0, gained, 0]
    np.testing.assert_allclose(root[:, 7:10].numpy(), [[0, 0, 0], expected, [0, 0, 0]], atol=1e-7)
    scene.run(5)  # the force acted once
    np.testing.assert_allclose(root[1, 7:10].numpy(), expected, atol=1e-7)


def test_a_torque_gives_inertia_times_angular_acceleration_and_a_force_off_centre_gives_both() -> None:
    scene = box_scene(dt=0.001, gravity=0.0)
    root = scene.tensor("actor_root_state")
    inertia_z = MASS / 12 * (SIZES[0] ** 2 + SIZES[1] ** 2)
    torque = torch.zeros(3, 3)
    torque[0, 2] = 5.0
    scene.gym.apply_rigid_body_force_tensors(scene.sim, None, gymtorch.unwrap_tensor(torque), gymapi.ENV_SPACE)
    scene.run(1)
    np.testing.assert_allclose(root[:, 12].numpy(), [5.0 * 0.001 / inertia_z, 0, 0], rtol=1e-5, atol=1e-9)
    force, point = torch.zeros(3, 3), torch.zeros(3, 3)
    force[2] = torch.tensor([0.0, 10.0, 0.0])
    point[2] = root[2, :3] + torch.tensor([0.5, 0.0, 0.0])
    scene.gym.apply_rigid_body_force_at_pos_tensors(scene.sim, gymtorch.unwrap_tensor(force), gymtorch.unwrap_tensor(point), gymapi.ENV_SPACE)
    scene.run(1)
    assert root[2, 8].item() == pytest.approx(10.0 * 0.001 / MASS, rel=1e-5)
    assert root[2, 12].item() == pytest.approx(0.5 * 10.0 * 0.001 / inertia_z, rel=1e-4)


def test_positions_are_those_of_the_environment_not_of_the_world() -> None:
    scene = box_scene()
    origins = np.array([[o.x, o.y, o.z] for o in map(scene.gym.get_env_origin, scene.envs)])
    np.testing.assert_allclose(origins, [[0, 0, 0], [2, 0, 0], [0, 2, 0]])
    np.testing.assert_allclose(scene.tensor("actor_root_state")[:, :3].numpy(), np.tile([0.1, 0.2, 5.0], (3, 1)), atol=1e-6)


def test_velocities_in_the_bodys_frame_come_out_as_in_legged_tasks() -> None:
    """The idiom quat_rotate_inverse(root[:, 3:7], root[:, 7:10]): a walker turned by 90 degrees that moves to the world's +y moves ahead."""
    from isaacgym.torch_utils import quat_rotate_inverse

    scene = Scene(num_envs=2, gravity=0.0)
    scene.fill([(scene.load("walker.urdf"), at(0, 0, 1, about((0, 0, 1), math.pi / 2)), "walker")], mask=1)
    root = scene.tensor("actor_root_state")
    root[:, 8], root[:, 10] = 1.5, 0.7
    scene.set("actor_root_state", root)
    scene.refresh()
    np.testing.assert_allclose(quat_rotate_inverse(root[:, 3:7], root[:, 7:10]).numpy(), np.tile([1.5, 0, 0], (2, 1)), atol=1e-6)
    np.testing.assert_allclose(quat_rotate_inverse(root[:, 3:7], root[:, 10:13]).numpy(), np.tile([0, -0.7, 0], (2, 1)), atol=1e-6)


def test_fixed_bases_stand_where_each_environment_puts_them_and_can_be_moved() -> None:
    scene = Scene(num_envs=3, gravity=0.0)
    asset = scene.load("cartpole.urdf", fix_base_link=True)
    lower, upper = gymapi.Vec3(-1, -1, 0), gymapi.Vec3(1, 1, 1)
    for i in range(3):
        env = scene.gym.create_env(scene.sim, lower, upper, 3)
        scene.envs.append(env)
        scene.gym.create_actor(env, asset, at(0.1 * i, 0, 1.0, about((0, 0, 1), 0.5 * i)), "cartpole", i, 1)
    root, bodies = scene.tensor("actor_root_state"), scene.rows("rigid_body_state")
    half = np.array([0.0, 0.25, 0.5])
    expected = np.stack([np.array([0.1 * i, 0, 1, 0, 0, math.sin(h), math.cos(h)]) for i, h in enumerate(half)])
    np.testing.assert_allclose(root[:, :7].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(bodies[:, 0, :7].numpy(), expected, atol=1e-6)
    # The pole's joint is 0.12 m along the rail's x.
    np.testing.assert_allclose(bodies[:, 2, :2].numpy(), expected[:, :2] + 0.12 * np.stack([np.cos(2 * half), np.sin(2 * half)], axis=1), atol=1e-6)
    root[1, :7] = torch.tensor([5.0, 6.0, 7.0, 0.0, 0.0, 0.0, 1.0])
    scene.set("actor_root_state", root.clone(), [1])
    scene.run(3)
    np.testing.assert_allclose(bodies[1, :, :3].numpy(), [[5, 6, 7], [5, 6, 7], [5.12, 6, 7]], atol=1e-6)
    np.testing.assert_allclose(bodies[[0, 2], 0, :7].numpy(), expected[[0, 2]], atol=1e-6)


def test_an_mjcf_root_on_joints_of_its_own_is_carried_by_a_base(tmp_path: Path) -> None:
    slide = "<joint name='slide' type='slide' axis='1 0 0'/><geom size='.1' mass='2'/>"
    motor = "<actuator><position joint='slide' kp='50' kv='10'/></actuator>"
    (tmp_path / "slider.xml").write_text(f"<mujoco><worldbody><body name='cart' pos='0 0 .2'>{slide}</body></worldbody>{motor}</mujoco>")
    scene = Scene(num_envs=2, gravity=0.0)
    asset = scene.gym.load_asset(scene.sim, str(tmp_path), "slider.xml", gymapi.AssetOptions())
    assert scene.gym.get_asset_rigid_body_names(asset) == ["base", "cart"]
    props = scene.gym.get_asset_dof_properties(asset)[0]
    assert (props["driveMode"], props["stiffness"], props["damping"]) == (gymapi.DOF_MODE_POS, 50.0, 10.0)
    scene.fill([(asset, at(1.0, 0, 1.0), "slider"), (asset, at(0, 2.0, 1.0), "other")])
    bodies, dofs = scene.rows("rigid_body_state"), scene.rows("dof_state")
    np.testing.assert_allclose(bodies[0, :, :3].numpy(), [[1, 0, 1], [1, 0, 1.2], [0, 2, 1], [0, 2, 1.2]], atol=1e-6)
    scene.set("dof_position_target", torch.tensor([[0.5, 0.0], [0.0, -0.5]]))
    scene.run(400)
    np.testing.assert_allclose(dofs[:, :, 0].numpy(), [[0.5, 0], [0, -0.5]], atol=1e-4)
    np.testing.assert_allclose(bodies[0, :, 0].numpy(), [1, 1.5, 0, 0], atol=1e-4)
