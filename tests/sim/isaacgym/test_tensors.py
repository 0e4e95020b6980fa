"""Tensors are live views; what is set comes back and touches only what was named; Jacobians and mass matrices fit the states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.spec import InputError
from tests.sim.isaacgym.scene import Scene, at, gymapi, gymtorch


def two_robots(num_envs: int = 4, **options: float) -> Scene:
    """A floating walker, a ball and a cart and pole on a fixed rail in every environment: free and fixed roots between each other."""
    scene = Scene(num_envs=num_envs, **options)  # type: ignore[arg-type]
    walker, ball = scene.load("walker.urdf", collapse_fixed_joints=True), scene.gym.create_sphere(scene.sim, 0.05)
    cart = scene.load("cartpole.urdf", fix_base_link=True)
    placed = [(walker, at(0, 0, 2.0), "walker"), (ball, at(0, 1.0, 1.0), "ball"), (cart, at(3.0, 0, 1.0), "cart")]
    return scene.fill(placed, spacing=10.0, mask=1)


def random_roots(num_envs: int, seed: int) -> torch.Tensor:
    """States of three roots an environment: any pose, any velocity; fixed ones at rest."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(num_envs * 3, 13, generator=generator)
    out[:, 3:7] = torch.nn.functional.normalize(out[:, 3:7], dim=1)
    out[2::3, 7:] = 0.0
    return out


def test_wrapped_tensors_share_the_memory_that_a_refresh_writes() -> None:
    scene = two_robots()
    first, second = scene.tensor("actor_root_state"), scene.tensor("actor_root_state")
    view = first.view(4, 3, 13)[:, 1, 2]
    assert first.data_ptr() == second.data_ptr() and view.tolist() == [1.0] * 4
    for _ in range(10):
        scene.gym.simulate(scene.sim)
    assert view.tolist() == [1.0] * 4
    assert scene.gym.refresh_actor_root_state_tensor(scene.sim) is True
    assert (view < 0.97).all()
    assert scene.gym.refresh_net_contact_force_tensor(scene.sim) is False  # never acquired


def test_shapes_of_all_tensors() -> None:
    scene = two_robots()
    bodies, dofs = 17 + 1 + 3, 12 + 0 + 2
    assert scene.gym.get_sim_rigid_body_count(scene.sim) == 4 * bodies and scene.gym.get_sim_dof_count(scene.sim) == 4 * dofs
    shapes = {"actor_root_state": (12, 13), "dof_state": (4 * dofs, 2), "rigid_body_state": (4 * bodies, 13), "net_contact_force": (4 * bodies, 3)}
    shapes |= {"dof_force": (4 * dofs,), "force_sensor": (0, 6)}
    for name, shape in shapes.items():
        tensor = scene.tensor(name)
        assert tuple(tensor.shape) == shape and tensor.dtype == torch.float32 and tensor.is_contiguous(), name
    assert scene.tensor("jacobian", "walker").shape == (4, 17, 6, 18)
    assert scene.tensor("jacobian", "cart").shape == (4, 2, 6, 2)
    assert scene.tensor("mass_matrix", "walker").shape == (4, 12, 12)
    with pytest.raises(InputError, match="acquire_jacobian_tensor: environments have no actor 'wlaker'; did you mean 'walker'"):
        scene.gym.acquire_jacobian_tensor(scene.sim, "wlaker")


def test_roots_and_joints_come_back_as_they_were_set() -> None:
    scene = two_robots(gravity=0.0)
    roots, bodies = scene.tensor("actor_root_state"), scene.rows("rigid_body_state")
    wanted = random_roots(4, seed=1)
    joints = 0.3 * torch.randn(56, 2, generator=torch.Generator().manual_seed(2))
    scene.set("actor_root_state", wanted)
    scene.set("dof_state", joints)
    scene.refresh()
    torch.testing.assert_close(roots, wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(scene.tensor("dof_state"), joints, atol=1e-7, rtol=0)
    # Roots are also bodies 0, 17 and 18 of their environment, computed by the physics.
    torch.testing.assert_close(bodies[:, [0, 17, 18]].reshape(12, 13).abs(), wanted.abs(), atol=2e-5, rtol=0)


def test_what_an_indexed_call_does_not_name_goes_on_bit_for_bit() -> None:
    """Two simulations run alike; in one of them, environments 1 and 3 are reset between steps."""
    alone, reset = two_robots(), two_robots()
    wanted, joints = random_roots(4, seed=3), torch.zeros(56, 2)
    joints[:, 0] = torch.linspace(-0.2, 0.2, 56)
    for scene in (alone, reset):
        scene.tensor("actor_root_state"), scene.tensor("dof_state"), scene.tensor("rigid_body_state")
        scene.run(5)
    reset.set("actor_root_state", wanted, [3, 9, 10])  # the walkers of 1 and 3, the ball of 3
    reset.set("dof_state", joints, [3, 11])  # the walker of 1, the cart of 3
    reset.refresh()
    a, b = alone.rows("actor_root_state"), reset.rows("actor_root_state")
    torch.testing.assert_close(b.view(12, 13)[[3, 9, 10]], wanted[[3, 9, 10]], atol=2e-6, rtol=0)
    assert torch.equal(a[[0, 2]], b[[0, 2]]) and torch.equal(a[1, 1:], b[1, 1:]) and torch.equal(a[3, 2], b[3, 2])
    d, e = alone.rows("dof_state"), reset.rows("dof_state")
    torch.testing.assert_close(e[1, :12], joints.view(4, 14, 2)[1, :12], atol=1e-7, rtol=0)
    torch.testing.assert_close(e[3, 12:], joints.view(4, 14, 2)[3, 12:], atol=1e-7, rtol=0)
    assert torch.equal(d[[0, 2]], e[[0, 2]]) and torch.equal(d[1, 12:], e[1, 12:]) and torch.equal(d[3, :12], e[3, :12])
    for scene in (alone, reset):
        scene.run(5)
    for name in ("actor_root_state", "dof_state", "rigid_body_state"):
        assert torch.equal(alone.rows(name)[[0, 2]], reset.rows(name)[[0, 2]]), name
        assert not torch.equal(alone.rows(name)[[1, 3]], reset.rows(name)[[1, 3]])


def test_indexed_targets_touch_their_actors_only() -> None:
    scene = two_robots(num_envs=2, gravity=0.0)
    targets = torch.ones(28)
    scene.set("dof_position_target", targets, [5])
    assert scene.sim.position_targets[0].tolist() == [0.0] * 14
    assert scene.sim.position_targets[1].tolist() == [0.0] * 12 + [1.0] * 2
    scene.set("dof_velocity_target", targets, [0])
    scene.set("dof_actuation_force", targets, [0, 3])
    assert scene.sim.velocity_targets.sum() == 12 and scene.sim.efforts.sum() == 24


def test_jacobians_map_root_and_joint_velocities_to_link_velocities() -> None:
    scene = two_robots(gravity=0.0)
    roots, bodies = scene.rows("actor_root_state"), scene.rows("rigid_body_state")
    dofs, walker, cart = scene.rows("dof_state"), scene.tensor("jacobian", "walker"), scene.tensor("jacobian", "cart")
    scene.set("actor_root_state", random_roots(4, seed=5))
    scene.set("dof_state", 0.4 * torch.randn(56, 2, generator=torch.Generator().manual_seed(6)))
    scene.refresh()
    motion = torch.cat([roots[:, 0, 7:], dofs[:, :12, 1]], dim=1)
    torch.testing.assert_close(torch.einsum("nlij,nj->nli", walker, motion), bodies[:, :17, 7:], atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.einsum("nlij,nj->nli", cart, dofs[:, 12:, 1]), bodies[:, 19:, 7:], atol=2e-5, rtol=0)


def test_mass_matrices_give_the_kinetic_energy_of_the_links() -> None:
    """With the root at rest, qd' M qd is twice the sum over links of m v^2 / 2 + w' I w / 2."""
    scene = two_robots(gravity=0.0)
    mass, bodies = scene.tensor("mass_matrix", "walker"), scene.rows("rigid_body_state")
    joints = 0.4 * torch.randn(56, 2, generator=torch.Generator().manual_seed(7))
    scene.set("dof_state", joints)
    scene.refresh()
    speed = joints.view(4, 14, 2)[:, :12, 1]
    twice = torch.einsum("ni,nij,nj->n", speed, mass, speed).double().numpy()
    from isaacgym.torch_utils import quat_rotate_inverse

    energy = np.zeros(4)
    for link, body in enumerate(scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)):
        state = bodies[:, link]
        turning = quat_rotate_inverse(state[:, 3:7], state[:, 10:]).double().numpy()
        energy += body.mass * (state[:, 7:10].double().numpy() ** 2).sum(axis=1) + np.einsum("ni,ij,nj->n", turning, body.inertia.array(), turning)
    np.testing.assert_allclose(twice, energy, rtol=1e-5)


def test_force_descriptors_describe() -> None:
    scene = two_robots(num_envs=2)
    descriptor = scene.gym.acquire_dof_state_tensor(scene.sim)
    assert descriptor.shape == (28, 2) and descriptor.ndim == 2 and descriptor.dtype == np.float32 and descriptor.device == "cpu"
    assert descriptor.own_data and gymtorch.wrap_tensor(descriptor).data_ptr() == descriptor.data_address == descriptor.data_ptr
    assert not gymtorch.unwrap_tensor(torch.zeros(2)).own_data
    assert isinstance(descriptor, gymapi.Tensor)
