"""The robot description: read back by MuJoCo's own URDF reader and by ours, the same robot as the MJCF."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest

from policies.kinematics import Kinematics
from policies.motion import MotionLimits
from policies.spec import InputError
from robopolicy.twin.ros_urdf import roll_pitch_yaw, urdf_of
from sim.suites.arm import motion_limits, robot_model
from sim.suites.arm_insert import peg_model

ODD = """<mujoco><compiler angle="radian"/><worldbody><body name="cart" pos="0.1 0.2 0.3" euler="0.3 -0.4 0.5">
  <joint name="rail" type="slide" axis="1 0 0" pos="0.05 0 0.1" range="-1 1"/><joint name="turn" axis="0 1 1" pos="0 0.2 0" range="-2 2"/>
  <geom type="box" size="0.1 0.2 0.05" euler="0.1 0.2 0.3" mass="2"/><site name="eye" pos="0.1 0 0.3" euler="0.2 0 0.1"/>
  <body name="pole" pos="0.2 0 0.4" euler="0 0.7 0.2"><joint name="hinge" axis="1 0 0" pos="0 0.1 0.2"/>
  <geom type="sphere" size="0.05" mass="1" pos="0.1 0 0"/><geom type="cylinder" size="0.02 0.3" mass="0.5" contype="0" conaffinity="0"/></body></body>
</worldbody></mujoco>"""
ODD_LIMITS = MotionLimits(("rail", "turn"), np.array([-1.0, -2.0]), np.array([1.0, 2.0]), *np.array([[1.0, 2], [3, 4], [50, 60]]))


def mass_and_place(kinematics: Kinematics, body: str) -> np.ndarray:
    """Return mass and position of the centre of mass in the world, (4,)."""
    number = kinematics.model.body(body).id
    return np.array([kinematics.model.body_mass[number], *kinematics.data.xipos[number]])


@pytest.mark.parametrize(("model", "motion"), [(robot_model(), motion_limits()), (peg_model(), motion_limits()), (ODD, ODD_LIMITS)], ids=["arm", "peg", "odd"])
def test_it_moves_as_the_model_does(model: str, motion: MotionLimits) -> None:
    ours, theirs = Kinematics(model), Kinematics(urdf_of(model, motion, "robot"))
    assert theirs.names == ours.names
    np.testing.assert_array_equal(theirs.low, ours.low)
    np.testing.assert_array_equal(theirs.high, ours.high)
    for q in np.random.default_rng(0).uniform(-2, 2, (20, ours.n)):
        ours.forward(q)
        theirs.forward(q)
        for body in range(1, theirs.model.nbody):
            name = theirs.model.body(body).name
            if name in {ours.model.body(b).name for b in range(ours.model.nbody)}:
                np.testing.assert_allclose(theirs.pose(name)[1], ours.pose(name)[1], atol=1e-9)
                np.testing.assert_allclose(mass_and_place(theirs, name), mass_and_place(ours, name), atol=1e-9)
        shapes = {ours.model.geom(g).name: ours.data.geom_xpos[g] for g in range(ours.model.ngeom)}
        for geom in range(theirs.model.ngeom):
            name = theirs.model.geom(geom).name
            if name and name in shapes:
                np.testing.assert_allclose(theirs.data.geom_xpos[geom], shapes[name], atol=1e-9)


def test_the_frames_said_on_tf_are_those_of_the_model() -> None:
    """Chained from the world: every link of the description, the tool's tip too, whose body MuJoCo merges away."""
    from robopolicy.twin.ros_messages import Frames

    for model, motion, tip in ((robot_model(), motion_limits(), "hand"), (ODD, ODD_LIMITS, "eye")):
        kinematics, frames = Kinematics(model), Frames(urdf_of(model, motion, "robot"))
        for q in np.random.default_rng(1).uniform(-2, 2, (5, kinematics.n)):
            kinematics.forward(q)
            said = [*frames.fixed(0).transforms, *frames.moving(dict(zip(kinematics.names, q.tolist(), strict=True)), 0).transforms]
            position, turn = chained(said, tip)
            np.testing.assert_allclose(position, kinematics.pose(tip)[0], atol=1e-9)
            np.testing.assert_allclose(turn, kinematics.pose(tip)[1], atol=1e-9)


def chained(transforms: list, link: str) -> tuple[np.ndarray, np.ndarray]:
    """Return position (3,) and rotation (3, 3) of a link in the world."""
    of = {t.child_frame_id: t for t in transforms}
    position, turn = np.zeros(3), np.eye(3)
    while link in of:
        q, p = of[link].transform.rotation, of[link].transform.translation
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, np.array([q.w, q.x, q.y, q.z]))
        position = np.array([p.x, p.y, p.z]) + matrix.reshape(3, 3) @ position
        turn = matrix.reshape(3, 3) @ turn
        link = of[link].header.frame_id
    assert link == "world"
    return position, turn


def test_limits_and_what_urdf_has_no_element_for() -> None:
    root, motion = ET.fromstring(urdf_of(robot_model(), motion_limits(), "arm")), motion_limits()
    joints = {joint.get("name"): joint for joint in root.findall("joint")}
    for i, name in enumerate(motion.names):
        limit = joints[name].find("limit")
        assert joints[name].get("type") == "revolute" and limit is not None
        assert float(limit.get("lower")) == motion.low[i] and float(limit.get("upper")) == motion.high[i]  # type: ignore[arg-type]
        assert float(limit.get("velocity")) == 2.0 and float(limit.get("effort")) in (150.0, 120.0, 40.0, 20.0)  # type: ignore[arg-type]
        control = root.find(f"ros2_control/joint[@name='{name}']")
        assert control is not None
        found = {i.get("name"): i.findtext("param[@name='max']") for i in control.findall("command_interface")}
        assert float(found["acceleration"]) == 8.0 and float(found["jerk"]) == 150.0  # type: ignore[arg-type]
    links = [link.get("name") for link in root.findall("link")]
    parents = [joint.find("child").get("link") for joint in root.findall("joint")]  # type: ignore[union-attr]
    assert len(links) == len(set(links)) and sorted(parents) == sorted(set(links) - {"world"}), "one tree: every link but the root is a child once"
    assert not root.findall(".//capsule")


def test_our_own_reader_takes_it() -> None:
    from real.ros.urdf import parse_urdf

    found, motion = parse_urdf(urdf_of(robot_model(), motion_limits(), "arm")), motion_limits()
    assert list(found.joints) == list(motion.names)
    for i, name in enumerate(motion.names):
        joint = found.joints[name]
        assert (joint.low, joint.high, joint.velocity, joint.acceleration, joint.jerk) == (motion.low[i], motion.high[i], 2.0, 8.0, 150.0)


def test_angles_of_a_quaternion() -> None:
    for angles in ([0.1, -0.2, 0.3], [3.0, 1.2, -2.0], [0.0, np.pi / 2, 0.7], [0.0, -np.pi / 2, -0.4]):
        quaternion, matrix, expected = np.zeros(4), np.zeros(9), np.zeros(9)
        mujoco.mju_euler2Quat(quaternion, np.array(angles[::-1]), "zyx")
        mujoco.mju_quat2Mat(expected, quaternion)
        mujoco.mju_euler2Quat(quaternion, roll_pitch_yaw(quaternion)[::-1].copy(), "zyx")
        mujoco.mju_quat2Mat(matrix, quaternion)
        np.testing.assert_allclose(matrix, expected, atol=1e-7)


def test_what_urdf_cannot_say_is_refused() -> None:
    inner = '<body><joint type="ball" name="socket"/><geom size="1"/></body>'
    ball = f'<mujoco><worldbody><body name="b"><joint name="rail" type="slide"/>{inner}<geom size="1"/></body></worldbody></mujoco>'
    one = MotionLimits(("rail",), *np.array([[-1.0], [1], [1], [1], [1]]))
    with pytest.raises(InputError, match="'socket' is neither a hinge nor a slide"):
        urdf_of(ball, one, "x")
    with pytest.raises(InputError, match="no joint 'turn'"):
        urdf_of(ball, ODD_LIMITS, "x")
