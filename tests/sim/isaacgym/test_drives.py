"""Drives of degrees of freedom against closed forms: deflection under gravity, decay, limits, what is passive, what is reported."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.spec import InputError
from tests.sim.isaacgym.scene import GRAVITY, Scene, at, gymapi, gymtorch

POLE_MASS, POLE_ARM, POLE_INERTIA = 0.5, 0.47, 0.03 + 0.5 * 0.47**2  # about its joint


def cartpole(each: dict[str, list[float]], num_envs: int = 2, **options: float) -> Scene:
    """Cart and pole on a fixed rail with the given properties of (cart, pole)."""
    scene = Scene(num_envs=num_envs, **options)  # type: ignore[arg-type]
    asset = scene.load("cartpole.urdf", fix_base_link=True)

    def set_properties(env: object, handles: list[int]) -> None:
        props = scene.gym.get_actor_dof_properties(env, handles[0])
        for name, values in each.items():
            props[name][:] = values
        scene.gym.set_actor_dof_properties(env, handles[0], props)

    return scene.fill([(asset, at(z=2.0), "cartpole")], each=set_properties, mask=1)


@pytest.mark.parametrize("stiffness", [20.0, 1e4])
def test_a_position_drive_under_gravity_rests_where_stiffness_balances_weight(stiffness: float) -> None:
    """kp (target - q) + m g l sin(q) = 0, whatever the step; the stiff drive is far beyond what an explicit one survives."""
    modes = [gymapi.DOF_MODE_POS, gymapi.DOF_MODE_POS]
    scene = cartpole({"driveMode": modes, "stiffness": [1e5, stiffness], "damping": [1e4, 4.0]}, dt=1 / 60, substeps=2)
    target = torch.tensor([[0.3, 0.6], [0.0, 0.0]])
    scene.set("dof_position_target", target)
    dofs = scene.rows("dof_state")
    scene.run(400)
    angle = 0.6
    for _ in range(200):
        angle -= (stiffness * (0.6 - angle) + POLE_MASS * GRAVITY * POLE_ARM * math.sin(angle)) / (
            -stiffness + POLE_MASS * GRAVITY * POLE_ARM * math.cos(angle)
        )
    np.testing.assert_allclose(dofs[0, :, 0].numpy(), [0.3, angle], atol=2e-5)
    np.testing.assert_allclose(dofs[:, :, 1].numpy(), 0.0, atol=1e-4)
    held = scene.tensor("dof_force").view(2, 2)[0, 1].item()
    assert held == pytest.approx(-POLE_MASS * GRAVITY * POLE_ARM * math.sin(angle), rel=1e-3)


def test_a_velocity_drive_reaches_its_target_and_effort_limits_what_it_pushes() -> None:
    modes = [gymapi.DOF_MODE_VEL, gymapi.DOF_MODE_NONE]
    scene = cartpole({"driveMode": modes, "damping": [1000.0, 0.0], "effort": [1000.0, 1000.0]}, gravity=0.0, dt=0.01)
    scene.set("dof_velocity_target", torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
    dofs = scene.rows("dof_state")
    scene.run(100)
    assert dofs[0, 0, 1].item() == pytest.approx(0.5, abs=1e-3)
    weak = cartpole({"driveMode": modes, "damping": [1000.0, 0.0], "effort": [3.0, 1000.0]}, gravity=0.0, dt=0.01)
    weak.set("dof_velocity_target", torch.tensor([[50.0, 0.0], [50.0, 0.0]]))
    weak.run(1)
    # The pole hangs upright on the cart: 3 N move the cart's effective mass.
    effective = 1.0 + POLE_MASS - (POLE_MASS * POLE_ARM) ** 2 / POLE_INERTIA
    assert weak.rows("dof_state")[0, 0, 1].item() == pytest.approx(3.0 * 0.01 / effective, rel=1e-4)
    assert weak.tensor("dof_force").view(2, 2)[0, 0].item() == pytest.approx(3.0)


def test_an_effort_acts_until_it_is_set_anew_and_on_its_environment_alone() -> None:
    scene = cartpole({"driveMode": [gymapi.DOF_MODE_EFFORT, gymapi.DOF_MODE_NONE]}, num_envs=3, gravity=0.0, dt=0.001)
    efforts = torch.zeros(3, 2)
    efforts[1, 0] = 2.0
    scene.set("dof_actuation_force", efforts)
    dofs = scene.rows("dof_state")
    effective = 1.0 + POLE_MASS - (POLE_MASS * POLE_ARM) ** 2 / POLE_INERTIA
    scene.run(2)
    np.testing.assert_allclose(dofs[:, 0, 1].numpy(), [0, 2.0 * 0.002 / effective, 0], rtol=1e-4, atol=1e-9)
    scene.set("dof_actuation_force", torch.zeros(3, 2))
    reached = dofs[1, 0, 1].item()
    scene.run(1)
    assert dofs[1, 0, 1].item() == pytest.approx(reached, rel=1e-4)


def test_an_undriven_joint_has_its_damping_and_keeps_its_limits() -> None:
    """A cart with damping c alone: v decays by 1 / (1 + h c / m) a step; at its limit of 4 m it stops."""
    scene = cartpole({"driveMode": [gymapi.DOF_MODE_NONE, gymapi.DOF_MODE_POS], "damping": [3.0, 1e5], "stiffness": [0.0, 1e6]}, gravity=0.0)
    dofs = scene.tensor("dof_state")
    dofs[:, 1] = torch.tensor([2.0, 0.0, 0.0, 0.0])
    scene.set("dof_state", dofs)
    scene.run(20)
    assert dofs[0, 1].item() == pytest.approx(2.0 / (1 + 0.01 * 3.0 / 1.5) ** 20, rel=1e-3)
    free = cartpole({"driveMode": [gymapi.DOF_MODE_EFFORT, gymapi.DOF_MODE_POS], "damping": [0.0, 1e5], "stiffness": [0.0, 1e6]}, gravity=0.0)
    free.set("dof_actuation_force", torch.tensor([[30.0, 0.0], [-30.0, 0.0]]))
    free.run(400)
    np.testing.assert_allclose(free.rows("dof_state")[:, 0, 0].numpy(), [4.0, -4.0], atol=0.03)


def test_properties_may_differ_between_environments_and_change_later() -> None:
    scene = Scene(num_envs=4, gravity=0.0, dt=0.01)
    asset = scene.load("cartpole.urdf", fix_base_link=True)

    def heavier(env: object, handles: list[int]) -> None:
        bodies = scene.gym.get_actor_rigid_body_properties(env, handles[0])
        assert [b.mass for b in bodies] == [1.0, 1.0, 0.5]
        bodies[1].mass = 1.0 + len(scene.envs)
        scene.gym.set_actor_rigid_body_properties(env, handles[0], bodies)

    scene.fill([(asset, at(), "cartpole")], each=heavier, mask=1)
    scene.set("dof_actuation_force", torch.tensor([[1.0, 0.0]] * 4))
    scene.run(1)
    swung = POLE_MASS - (POLE_MASS * POLE_ARM) ** 2 / POLE_INERTIA
    masses = np.arange(2.0, 6.0) + swung
    np.testing.assert_allclose(scene.rows("dof_state")[:, 0, 1].numpy(), 0.01 / masses, rtol=1e-4)
    bodies = scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)
    bodies[1].mass = 10.0
    scene.gym.set_actor_rigid_body_properties(scene.envs[0], 0, bodies)
    zero = torch.zeros(8, 2)
    scene.set("dof_state", zero)
    scene.run(1)
    masses[0] = 10.0 + swung
    np.testing.assert_allclose(scene.rows("dof_state")[:, 0, 1].numpy(), 0.01 / masses, rtol=1e-4)


def test_bodies_without_mass_stay_so_when_others_become_heavier(tmp_path: Path) -> None:
    """The base that carries a jointed root, and links that only mark a place: their inertia is not scaled by 0 / 0."""
    cart = "<joint name='slide' type='slide' axis='1 0 0'/><geom size='.1' mass='2'/><body name='mark' pos='0 0 .1'/>"
    (tmp_path / "slider.xml").write_text(f"<mujoco><worldbody><body name='cart'>{cart}</body></worldbody></mujoco>")
    scene = Scene(num_envs=2, gravity=0.0, dt=0.01)
    asset = scene.gym.load_asset(scene.sim, str(tmp_path), "slider.xml", gymapi.AssetOptions())

    def heavier(env: object, handles: list[int]) -> None:
        bodies = scene.gym.get_actor_rigid_body_properties(env, handles[0])
        assert [b.mass for b in bodies] == [0.0, 2.0, 0.0]
        bodies[1].mass = 4.0 + len(scene.envs)
        scene.gym.set_actor_rigid_body_properties(env, handles[0], bodies, recomputeInertia=True)

    scene.fill([(asset, at(), "slider")], each=heavier)
    scene.set("dof_actuation_force", torch.full((2, 1), 20.0))
    scene.run(1)
    np.testing.assert_allclose(scene.rows("dof_state")[:, 0, 1].numpy(), [0.2 / 5.0, 0.2 / 6.0], rtol=1e-5)
    inertia = scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)[1].inertia.array()
    np.testing.assert_allclose(inertia, 5.0 * 0.4 * 0.1**2 * np.eye(3), rtol=1e-5)  # of a ball


@pytest.mark.parametrize("late", [False, True])
def test_properties_that_are_set_back_are_those_of_the_beginning(late: bool) -> None:
    """In all environments at once, whether they were changed before the worlds were made or after."""
    scene = Scene(num_envs=2, gravity=10.0, dt=0.01)
    ball = scene.gym.create_sphere(scene.sim, 0.1)

    def change(env: object, handles: list[int]) -> None:
        (body,) = scene.gym.get_actor_rigid_body_properties(env, 0)
        body.mass, body.flags = 100.0, int(gymapi.RIGID_BODY_DISABLE_GRAVITY)
        scene.gym.set_actor_rigid_body_properties(env, 0, [body])

    scene.fill([(ball, at(), "ball")], each=None if late else change)
    for env in scene.envs if late else ():
        change(env, [0])
    roots, push = scene.tensor("actor_root_state"), torch.tensor([[4.0, 0.0, 0.0]] * 2)

    def pushed() -> np.ndarray:
        scene.gym.apply_rigid_body_force_tensors(scene.sim, gymtorch.unwrap_tensor(push), None, gymapi.ENV_SPACE)
        before = roots[:, 7:10].numpy().copy()
        scene.run(1)
        return roots[:, 7:10].numpy() - before

    np.testing.assert_allclose(pushed(), [[4e-4, 0.0, 0.0]] * 2, atol=1e-6)
    for env in scene.envs:
        (body,) = scene.gym.get_actor_rigid_body_properties(env, 0)
        body.mass, body.flags = 4000.0 / 3.0 * np.pi * 0.1**3, 0
        scene.gym.set_actor_rigid_body_properties(env, 0, [body])
    np.testing.assert_allclose(pushed(), [[0.04 / body.mass, 0.0, -0.1]] * 2, rtol=1e-5)


def test_a_body_of_a_file_may_float_by_a_share(tmp_path: Path) -> None:
    (tmp_path / "buoy.xml").write_text("<mujoco><worldbody><body name='buoy' gravcomp='0.75'><geom size='.1' mass='1'/></body></worldbody></mujoco>")
    scene = Scene(num_envs=2, gravity=10.0, dt=0.01)
    scene.fill([(scene.gym.load_asset(scene.sim, str(tmp_path), "buoy.xml", gymapi.AssetOptions()), at(), "buoy")])
    scene.tensor("actor_root_state")
    scene.run(1)
    np.testing.assert_allclose(scene.tensor("actor_root_state")[:, 9].numpy(), -0.025, rtol=1e-5)


@pytest.mark.parametrize(("centre", "inertia"), [(True, False), (False, True), (True, True)])
def test_overridden_inertials_are_of_the_geometry_with_the_masses_of_the_file(centre: bool, inertia: bool, tmp_path: Path) -> None:
    """A box of 8 kg whose file says 2 kg about a point beside its middle, and a link without inertial data, of the density asked for."""
    moments = "ixx='0.5' ixy='0' ixz='0' iyy='0.5' iyz='0' izz='0.5'"
    given = f"<inertial><origin xyz='0.03 0 0'/><mass value='2'/><inertia {moments}/></inertial>"
    box = "<collision><geometry><box size='0.2 0.2 0.2'/></geometry></collision>"
    joint = "<joint name='j' type='revolute'><parent link='base'/><child link='arm'/><axis xyz='0 0 1'/><limit lower='-1' upper='1'/></joint>"
    (tmp_path / "box.urdf").write_text(f"<robot name='box'><link name='base'>{given}{box}</link>{joint}<link name='arm'>{box}</link></robot>")
    scene, options = Scene(num_envs=1), gymapi.AssetOptions()
    options.override_com, options.override_inertia, options.density = centre, inertia, 10.0
    scene.fill([(scene.gym.load_asset(scene.sim, str(tmp_path), "box.urdf", options), at(), "box")])
    base, arm = scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)
    assert base.mass == pytest.approx(2.0) and arm.mass == pytest.approx(0.08)
    np.testing.assert_allclose(base.com.array(), [0.0 if centre else 0.03, 0, 0], atol=1e-6)
    np.testing.assert_allclose(base.inertia.array(), (2.0 * 0.2**2 / 6 if inertia else 0.5) * np.eye(3), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(scene.sim.engine.model.body_mass[1:], [2.0, 0.08], rtol=1e-6)


def test_a_servo_of_a_file_keeps_the_damping_of_its_joint(tmp_path: Path) -> None:
    """Critically damped: 2 kg behind 50 N/m and 20 N s/m, of which the joint has 15."""
    cart = "<body name='cart'><joint name='slide' type='slide' axis='1 0 0' damping='15'/><geom size='.1' mass='2'/></body>"
    servo = "<actuator><position joint='slide' kp='50' kv='5'/></actuator>"
    (tmp_path / "slider.xml").write_text(f"<mujoco><worldbody>{cart}</worldbody>{servo}</mujoco>")
    scene = Scene(num_envs=1, gravity=0.0, dt=0.001)
    scene.fill([(scene.gym.load_asset(scene.sim, str(tmp_path), "slider.xml", gymapi.AssetOptions()), at(), "slider")])
    scene.set("dof_position_target", torch.ones(1, 1))
    scene.run(400)
    decay = 5.0 * 0.4
    assert scene.rows("dof_state")[0, 0, 0].item() == pytest.approx(1.0 - (1.0 + decay) * math.exp(-decay), abs=3e-3)


@pytest.mark.parametrize("prepare", [False, True])
def test_an_inertia_that_was_scaled_with_its_mass_is_read_back(prepare: bool) -> None:
    scene = Scene(num_envs=1)
    scene.fill([(scene.gym.create_sphere(scene.sim, 0.1), at(), "ball")], prepare=prepare)
    (body,) = scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)
    first = body.inertia.array()
    for factor in (2.0, 1.5):
        body.mass *= factor
        scene.gym.set_actor_rigid_body_properties(scene.envs[0], 0, [body], recomputeInertia=True)
        (body,) = scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)
    np.testing.assert_allclose(body.inertia.array(), 3.0 * first, rtol=1e-9)
    scene.gym.set_actor_rigid_body_properties(scene.envs[0], 0, [body], recomputeInertia=False)
    scene.gym.prepare_sim(scene.sim)
    (body,) = scene.gym.get_actor_rigid_body_properties(scene.envs[0], 0)
    np.testing.assert_allclose(body.inertia.array(), 3.0 * first, rtol=1e-9)


def test_per_actor_calls_do_what_the_tensors_do() -> None:
    scene = cartpole({"driveMode": [gymapi.DOF_MODE_EFFORT, gymapi.DOF_MODE_NONE]}, gravity=0.0)
    gym, env = scene.gym, scene.envs[1]
    state = gym.get_actor_dof_states(env, 0, gymapi.STATE_ALL)
    state["pos"][:], state["vel"][:] = [0.5, 0.2], [9.0, 9.0]
    gym.set_actor_dof_states(env, 0, state, gymapi.STATE_POS)
    scene.refresh()
    np.testing.assert_allclose(scene.tensor("dof_state").numpy(), [[0, 0], [0, 0], [0.5, 0], [0.2, 0]], atol=1e-7)
    gym.apply_actor_dof_efforts(env, 0, np.array([1.0, 0.0], np.float32))
    scene.run(1)
    assert gym.get_actor_dof_forces(env, 0).tolist() == [1.0, 0.0]
    assert scene.rows("dof_state")[0, 0, 1].item() == 0.0 and scene.rows("dof_state")[1, 0, 1].item() > 0
    slider = gym.find_actor_dof_handle(env, 0, "rail_to_cart")
    assert slider == gym.get_actor_dof_handle(env, 0, 0) == 0 and gym.get_dof_velocity(env, slider) > gym.get_dof_velocity(scene.envs[0], slider) == 0
    gym.set_dof_target_position(env, slider, 0.25)
    gym.set_actor_dof_velocity_targets(env, 0, np.array([0.5, 1.0]))
    gym.set_dof_target_velocity(env, slider, 0.75)
    assert gym.get_actor_dof_position_targets(env, 0).tolist() == [0.25, 0.0]
    assert gym.get_actor_dof_velocity_targets(env, 0).tolist() == [0.75, 1.0]
    assert gym.get_dof_position(env, slider) == pytest.approx(0.5, abs=0.01)
    pole = gym.find_actor_rigid_body_handle(env, 0, "pole")
    placed, bodies = gym.get_rigid_transform(env, pole), gym.get_actor_rigid_body_states(env, 0, gymapi.STATE_ALL)
    assert bodies["pose"]["p"]["y"][2] == pytest.approx(placed.p.y) == pytest.approx(0.5, abs=0.01)
    assert gym.get_rigid_angular_velocity(env, pole).x == pytest.approx(scene.rows("dof_state")[1, 1, 1].item(), abs=1e-6)


def test_wrong_shapes_are_refused_in_one_line() -> None:
    scene = cartpole({"driveMode": [gymapi.DOF_MODE_EFFORT, gymapi.DOF_MODE_NONE]})
    with pytest.raises(InputError, match=r"^set_dof_actuation_force_tensor: expected 4 x 1 values, found a tensor of shape \(3,\)$"):
        scene.set("dof_actuation_force", torch.zeros(3))
    with pytest.raises(InputError, match=r"set_dof_state_tensor: expected a gymapi\.Tensor, found Tensor"):
        scene.gym.set_dof_state_tensor(scene.sim, torch.zeros(4, 2))
    with pytest.raises(InputError, match="not contiguous"):
        gymtorch.unwrap_tensor(torch.zeros(4, 2).T)
    with pytest.raises(InputError, match=r"actor index 2 is outside 0 \.\. 1"):
        scene.set("dof_state", torch.zeros(4, 2), [2])
    with pytest.raises(InputError, match=r"set_actor_dof_properties: expected 2 records"):
        scene.gym.set_actor_dof_properties(scene.envs[0], 0, np.zeros(3))
