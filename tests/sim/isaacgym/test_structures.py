"""Vectors, quaternions, transforms and parameters; assets and what can be asked of them; what is not covered says so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from policies.spec import InputError
from tests.sim.isaacgym.scene import HERE, Scene, at, gymapi

from isaacgym import gymutil  # isort: skip

UNIT = st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1)
TRIPLE = st.lists(st.floats(-5, 5), min_size=3, max_size=3)


def quat(numbers: list[float]) -> Any:
    return gymapi.Quat(*numbers).normalize()


@given(UNIT, UNIT, TRIPLE, TRIPLE)
def test_quaternions_and_transforms_are_rotations_and_moves(a: list[float], b: list[float], p: list[float], v: list[float]) -> None:
    one, two, vector = quat(a), quat(b), gymapi.Vec3(*v)
    there, other = Rotation.from_quat(one.array()), Rotation.from_quat(two.array())
    np.testing.assert_allclose(one.rotate(vector).array(), there.apply(v), atol=1e-9)
    np.testing.assert_allclose((one * two).rotate(vector).array(), (there * other).apply(v), atol=1e-9)
    np.testing.assert_allclose((one * one.inverse()).array(), [0, 0, 0, 1], atol=1e-12)
    frame, inner = gymapi.Transform(gymapi.Vec3(*p), one), gymapi.Transform(vector, two)
    np.testing.assert_allclose((frame * inner).transform_point(vector).array(), frame.transform_point(inner.transform_point(vector)).array(), atol=1e-8)
    np.testing.assert_allclose(frame.inverse().transform_point(frame.transform_point(vector)).array(), v, atol=1e-8)
    np.testing.assert_allclose(frame.transform_vector(vector).array(), there.apply(v), atol=1e-9)


@given(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3))
def test_euler_angles_are_about_z_then_y_then_x(x: float, y: float, z: float) -> None:
    made = gymapi.Quat.from_euler_zyx(x, y, z)
    expected = Rotation.from_euler("ZYX", [z, y, x])
    assert (Rotation.from_quat(made.array()) * expected.inv()).magnitude() < 1e-9
    np.testing.assert_allclose(made.to_euler_zyx(), [x, y, z], atol=1e-6)


def test_vectors_compute_and_records_have_the_interfaces_layout() -> None:
    a, b = gymapi.Vec3(1, 2, 3), gymapi.Vec3(-2, 0, 1)
    assert (a + b, a - b, 2 * a, a / 2, -a) == tuple(gymapi.Vec3(*v) for v in ((-1, 2, 4), (3, 2, 2), (2, 4, 6), (0.5, 1, 1.5), (-1, -2, -3)))
    assert a.dot(b) == 1 and a.cross(b).array().tolist() == np.cross([1, 2, 3], [-2, 0, 1]).tolist() and a.length() == pytest.approx(math.sqrt(14))
    records = np.zeros(2, gymapi.RigidBodyState.dtype)
    assert records.itemsize == 13 * 4
    records["pose"]["p"]["z"], records["pose"]["r"]["w"] = 2.0, 1.0
    assert gymapi.Transform.from_buffer(records[0]["pose"]).p.z == 2.0 and gymapi.Quat.from_buffer(records[0]["pose"]["r"]).w == 1.0
    assert gymapi.Vec3.from_buffer(np.array([1, 2, 3], np.float32)).y == 2.0


def test_a_urdf_file_is_asked_what_it_is_made_of() -> None:
    scene = Scene()
    gym = scene.gym
    asset = scene.load("walker.urdf", collapse_fixed_joints=True, default_dof_drive_mode=gymapi.DOF_MODE_POS, armature=0.02)
    legs = [f"{leg}_{part}" for leg in ("FL", "FR", "RL", "RR") for part in ("hip", "thigh", "calf", "foot")]
    assert gym.get_asset_rigid_body_names(asset) == ["base", *legs]  # legs in alphabetical order, not the file's; feet kept, the IMU merged
    assert gym.get_asset_dof_names(asset) == [f"{name}_joint" for name in legs if "foot" not in name]
    assert gym.get_asset_dof_count(asset) == gym.get_asset_joint_count(asset) == 12
    assert gym.find_asset_rigid_body_index(asset, "FR_foot") == 8 and gym.find_asset_rigid_body_index(asset, "imu") == -1
    props = gym.get_asset_dof_properties(asset)
    assert props.dtype.names == ("hasLimits", "lower", "upper", "driveMode", "velocity", "effort", "stiffness", "damping", "friction", "armature")
    np.testing.assert_allclose(props["lower"][:3], [-0.8, -1.0, -2.6])
    np.testing.assert_allclose(np.stack([props[n] for n in ("velocity", "effort", "armature")]), np.tile([[20.0], [25.0], [0.02]], 12), rtol=1e-6)
    assert set(props["driveMode"]) == {1} and props["hasLimits"].all()
    assert gym.get_asset_dof_type(asset, 0) == gymapi.DOF_ROTATION
    scene.fill([(asset, at(z=1), "walker")])
    bodies = gym.get_actor_rigid_body_properties(scene.envs[0], 0)
    assert bodies[0].mass == pytest.approx(6.1) and bodies[0].com.x == pytest.approx(0.1 * 0.1 / 6.1)
    whole = scene.load("walker.urdf")
    assert gym.get_asset_rigid_body_names(whole)[-1] == "imu" and gym.get_asset_rigid_body_count(whole) == 18


def test_an_mjcf_file_is_asked_about_its_motors() -> None:
    scene = Scene()
    asset = scene.load("ant.xml")
    names = scene.gym.get_asset_rigid_body_names(asset)
    assert names == ["torso", *(f"{part}_{n}" for n in range(1, 5) for part in ("leg", "foot"))]
    motors = scene.gym.get_asset_actuator_properties(asset)
    assert [m.motor_effort for m in motors] == [15.0] * 8 and motors[3].joint_name == "ankle_2"
    assert (motors[0].lower_control_limit, motors[0].upper_control_limit, motors[0].control_limited) == (-1.0, 1.0, True)
    props = scene.gym.get_asset_dof_properties(asset)
    assert set(props["driveMode"]) == {gymapi.DOF_MODE_EFFORT} and props["lower"][0] == pytest.approx(math.radians(-40))
    assert scene.gym.get_asset_rigid_shape_count(asset) == 9
    ranges = scene.gym.get_asset_rigid_body_shape_indices(asset)
    assert [(r.start, r.count) for r in ranges] == [(k, 1) for k in range(9)]


def test_indices_count_in_the_domain_that_is_asked_for() -> None:
    scene = Scene(num_envs=3)
    gym, walker = scene.gym, scene.load("walker.urdf", collapse_fixed_joints=True)
    scene.fill([(gym.create_box(scene.sim, 0.1, 0.1, 0.1), at(z=3), "box"), (walker, at(z=1), "walker")], mask=1)
    env = scene.envs[2]
    domains = (gymapi.DOMAIN_ACTOR, gymapi.DOMAIN_ENV, gymapi.DOMAIN_SIM)
    assert [gym.find_actor_rigid_body_index(env, 1, "FL_hip", d) for d in domains] == [1, 2, 2 * 18 + 2]
    assert [gym.find_actor_dof_index(env, 1, "FL_calf_joint", d) for d in domains] == [2, 2, 26]
    assert gym.get_actor_index(env, 1, gymapi.DOMAIN_SIM) == 5 and gym.find_actor_handle(env, "walker") == 1
    assert gym.find_actor_rigid_body_handle(env, 1, "base") == 1 and gym.find_actor_rigid_body_handle(env, 1, "nose") == -1
    assert gym.get_actor_count(env) == 2 and gym.get_sim_actor_count(scene.sim) == 6 and gym.get_env_count(scene.sim) == 3


def test_parameters_have_defaults_and_refuse_unknown_names() -> None:
    params = gymapi.SimParams()
    assert (params.dt, params.substeps, params.physx.num_position_iterations) == (1 / 60, 2, 4)
    with pytest.raises(InputError, match=r"SimParams\.gravitiy is not covered by sim\.isaacgym; did you mean 'gravity'\?"):
        params.gravitiy = 3
    gymutil.parse_sim_config({"dt": 0.02, "gravity": [0, 0, -1.0], "physx": {"solver_type": 0}}, params)
    assert (params.dt, params.gravity.z, params.physx.solver_type) == (0.02, -1.0, 0)
    assert gymutil.parse_device_str("cuda:1") == ("cuda", 1) and gymutil.parse_device_str("cpu") == ("cpu", 0)
    with pytest.raises(InputError, match="device 'tpu:0'"):
        gymutil.parse_device_str("tpu:0")


def test_the_command_line_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["example", "--headless", "--num_envs", "64"])
    args = gymutil.parse_arguments(headless=True, custom_parameters=[{"name": "--num_envs", "type": int, "default": 4, "help": "how many"}])
    assert (args.num_envs, args.headless, args.sim_device, args.use_gpu_pipeline, args.physics_engine) == (64, True, "cpu", False, gymapi.SIM_PHYSX)
    monkeypatch.setattr("sys.argv", ["example", "--flex"])
    with pytest.raises(InputError, match="--flex is not covered"):
        gymutil.parse_arguments()


CALLS = ["set_particle_state_tensor", "create_camera_sensor", "attach_camera_to_body", "create_cloth_grid", "get_rigid_contacts", "load_usd"]


@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_covered_raises_an_error_that_names_the_call(call: str) -> None:
    gym = gymapi.acquire_gym()
    assert not hasattr(gym, call)
    with pytest.raises(InputError, match=rf"^gym\.{call} is not covered by sim\.isaacgym"):
        getattr(gym, call)


def test_other_refusals_are_one_line_each() -> None:
    gym, params = gymapi.acquire_gym(), gymapi.SimParams()
    with pytest.raises(InputError, match=r"gymapi\.SoftMaterial is not covered"):
        gymapi.SoftMaterial  # noqa: B018
    with pytest.raises(InputError, match="isaacgym.gymdeps is not covered".replace(".", r"\.")):
        import isaacgym.gymdeps  # noqa: F401
    with pytest.raises(InputError, match="SIM_FLEX is not covered"):
        gym.create_sim(0, 0, gymapi.SIM_FLEX, params)
    params.use_gpu_pipeline = True
    with pytest.raises(InputError, match="use_gpu_pipeline is on"):
        gym.create_sim(0, 0, gymapi.SIM_PHYSX, params)
    scene = Scene()
    with pytest.raises(InputError, match=r"load_asset: no file .*nothing\.urdf"):
        scene.load("nothing.urdf")
    with pytest.raises(InputError, match=r"load_asset: scene\.py is no MJCF"):
        scene.load("scene.py")
    with pytest.raises(InputError, match="there is no environment with an actor"):
        gym.prepare_sim(scene.sim)
    assert HERE.name == "isaacgym"


def test_environments_that_differ_are_refused() -> None:
    scene = Scene(num_envs=2)
    small, large = (scene.gym.create_box(scene.sim, edge, edge, edge) for edge in (0.1, 0.2))
    for k, asset in enumerate((small, large)):
        env = scene.gym.create_env(scene.sim, gymapi.Vec3(-1, -1, 0), gymapi.Vec3(1, 1, 1), 2)
        scene.gym.create_actor(env, asset, at(z=1), "box", k, 0)
    with pytest.raises(InputError, match="environment 1 differs from environment 0 at actor 0"):
        scene.gym.prepare_sim(scene.sim)


def test_ball_joints_and_forests_are_refused(tmp_path: Any) -> None:
    def load(body: str) -> None:
        (tmp_path / "robot.xml").write_text(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
        scene.gym.load_asset(scene.sim, str(tmp_path), "robot.xml", gymapi.AssetOptions())

    scene, geom = Scene(), "<geom size='.1'/>"
    with pytest.raises(InputError, match=r"robot\.xml: joint 'j' of body 'b' is a ball joint"):
        load(f"<body name='a'><freejoint/>{geom}<body name='b'><joint name='j' type='ball'/>{geom}</body></body>")
    with pytest.raises(InputError, match=r"robot\.xml: an asset is one tree of bodies, found 2"):
        load(f"<body>{geom}</body><body>{geom}</body>")
    with pytest.raises(InputError, match=r"load_asset: robot\.xml: "):
        load("<body><joint type='wheel'/></body>")


TETRAHEDRON = "v 0 0 0\nv .2 0 0\nv 0 .2 0\nv 0 0 .2\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


@pytest.mark.parametrize("name", ["../meshes/shape.obj", "package://robot/meshes/shape.obj"])
def test_meshes_are_found_where_urdf_files_put_them(name: str, tmp_path: Any) -> None:
    (tmp_path / "meshes").mkdir()
    (tmp_path / "urdf").mkdir()
    (tmp_path / "meshes" / "shape.obj").write_text(TETRAHEDRON)
    inertia = "<inertial><mass value='1'/><inertia ixx='.01' iyy='.01' izz='.01' ixy='0' ixz='0' iyz='0'/></inertial>"
    looks = "<visual><geometry><mesh filename='package://robot/meshes/only_for_looks.dae'/></geometry></visual>"
    robot = "<robot name='r'><link name='base'>{}{}<collision><geometry><mesh filename='{}'/></geometry></collision></link></robot>"
    (tmp_path / "urdf" / "r.urdf").write_text(robot.format(inertia, looks, name))
    scene = Scene(num_envs=2, ground=True, dt=0.005)
    asset = scene.gym.load_asset(scene.sim, str(tmp_path), "urdf/r.urdf", gymapi.AssetOptions())
    scene.fill([(asset, at(z=0.02), "one"), (asset, at(x=1.0, z=0.02), "other")])
    roots = scene.tensor("actor_root_state")
    scene.run(150)
    np.testing.assert_allclose(roots[:, 2].numpy(), 0.0, atol=2e-3)
    (tmp_path / "urdf" / "r.urdf").write_text(robot.format(inertia, looks, name.replace("shape", "absent")))
    with pytest.raises(InputError, match=r"r\.urdf: .*absent\.obj"):
        scene.gym.load_asset(scene.sim, str(tmp_path), "urdf/r.urdf", gymapi.AssetOptions())


def test_viewer_calls_go_by_without_a_window() -> None:
    scene = Scene()
    gym, viewer = scene.gym, scene.gym.create_viewer(scene.sim, gymapi.CameraProperties())
    gym.subscribe_viewer_keyboard_event(viewer, gymapi.KEY_V, "toggle")
    gym.viewer_camera_look_at(viewer, None, gymapi.Vec3(1, 1, 1), gymapi.Vec3())
    gym.step_graphics(scene.sim)
    gym.draw_viewer(viewer, scene.sim, True)
    gym.sync_frame_time(scene.sim)
    assert gym.query_viewer_has_closed(viewer) is False and gym.query_viewer_action_events(viewer) == []
    gym.destroy_viewer(viewer)
    gym.destroy_sim(scene.sim)


def test_gravity_can_change_and_the_time_step_cannot() -> None:
    scene = Scene(num_envs=2, dt=0.01)
    scene.fill([(scene.gym.create_sphere(scene.sim, 0.1), at(z=5), "ball")])
    root = scene.tensor("actor_root_state")
    params = scene.gym.get_sim_params(scene.sim)
    params.gravity.z = 3.0
    scene.gym.set_sim_params(scene.sim, params)
    scene.run(1)
    np.testing.assert_allclose(root[:, 9].numpy(), 0.03, rtol=1e-5)
    params.dt = 0.02
    with pytest.raises(InputError, match="dt and substeps cannot change"):
        scene.gym.set_sim_params(scene.sim, params)
