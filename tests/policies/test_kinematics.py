"""Kinematics against formulas by hand and finite differences, on MJCF and URDF."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinematics import Kinematics
from policies.spec import InputError

PLANAR = """
<mujoco>
  <compiler angle="radian" autolimits="true"/>
  <worldbody>
    <body name="upper">
      <joint name="shoulder" axis="0 0 1" range="-1 2"/>
      <geom type="capsule" fromto="0 0 0 0.5 0 0" size="0.03"/>
      <body name="lower" pos="0.5 0 0">
        <joint name="elbow" axis="0 0 1"/>
        <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03"/>
        <body name="finger" pos="0.3 0 0">
          <joint name="slide" type="slide" axis="1 0 0" range="0 0.1"/>
          <geom type="sphere" size="0.02"/>
          <site name="tip"/>
        </body>
      </body>
    </body>
    <body name="cube" pos="1 1 1"><freejoint/><geom type="box" size="0.02 0.02 0.02"/></body>
  </worldbody>
</mujoco>
"""

URDF = """
<robot name="pendulum">
  <link name="base"/>
  <link name="arm"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <link name="hand"><inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="hinge" type="revolute">
    <parent link="base"/><child link="arm"/><origin xyz="0 0 1"/><axis xyz="0 1 0"/><limit lower="-1.5" upper="1.5" effort="1" velocity="1"/>
  </joint>
  <joint name="wrist" type="revolute">
    <parent link="arm"/><child link="hand"/><origin xyz="0.4 0 0"/><axis xyz="1 0 0"/><limit lower="-3" upper="3" effort="1" velocity="1"/>
  </joint>
</robot>
"""

angles = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


@given(angles)
def test_a_planar_arm_is_where_trigonometry_says(q: np.ndarray) -> None:
    arm = Kinematics(PLANAR)
    assert arm.names == ("shoulder", "elbow", "slide") and arm.n == 3
    arm.forward(q)
    a, b, reach = q[0], q[0] + q[1], 0.3 + q[2]
    position, rotation = arm.pose("tip")
    np.testing.assert_allclose(position, [0.5 * np.cos(a) + reach * np.cos(b), 0.5 * np.sin(a) + reach * np.sin(b), 0], atol=1e-12)
    np.testing.assert_allclose(rotation, [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]], atol=1e-12)
    expected = np.zeros((6, 3))
    expected[:2, 0] = [-0.5 * np.sin(a) - reach * np.sin(b), 0.5 * np.cos(a) + reach * np.cos(b)]
    expected[:2, 1] = [-reach * np.sin(b), reach * np.cos(b)]
    expected[:2, 2] = [np.cos(b), np.sin(b)]
    expected[5, :2] = 1
    np.testing.assert_allclose(arm.jacobian("tip"), expected, atol=1e-12)
    np.testing.assert_allclose(arm.jacobian("finger"), expected, atol=1e-12)


def test_limits_and_home_come_from_the_model() -> None:
    arm = Kinematics(PLANAR)
    np.testing.assert_array_equal(arm.low, [-1, -np.inf, 0])
    np.testing.assert_array_equal(arm.high, [2, np.inf, 0.1])
    np.testing.assert_array_equal(arm.home, 0)


def test_named_joints_in_the_order_asked_for() -> None:
    whole, part = Kinematics(PLANAR), Kinematics(PLANAR, ["elbow", "shoulder"])
    assert part.names == ("elbow", "shoulder")
    whole.forward(np.array([0.3, -0.7, 0.0]))
    part.forward(np.array([-0.7, 0.3]))
    np.testing.assert_allclose(part.pose("tip")[0], whole.pose("tip")[0], atol=1e-15)
    np.testing.assert_allclose(part.jacobian("tip"), whole.jacobian("tip")[:, [1, 0]], atol=1e-15)


def test_a_urdf_has_the_jacobian_of_its_finite_differences() -> None:
    arm = Kinematics(URDF)
    assert arm.names == ("hinge", "wrist")
    np.testing.assert_allclose(arm.low, [-1.5, -3])
    q, step = np.array([0.4, -1.1]), 1e-6
    arm.forward(q)
    position, rotation = arm.pose("hand")
    np.testing.assert_allclose(position, [0.4 * np.cos(0.4), 0, 1 - 0.4 * np.sin(0.4)], atol=1e-12)
    jacobian = arm.jacobian("hand")
    for joint in range(2):
        arm.forward(q + step * np.eye(2)[joint])
        moved, turned = arm.pose("hand")
        spin = (turned @ rotation.T - np.eye(3)) / step
        np.testing.assert_allclose(jacobian[:3, joint], (moved - position) / step, atol=1e-5)
        np.testing.assert_allclose(jacobian[3:, joint], [spin[2, 1], spin[0, 2], spin[1, 0]], atol=1e-5)


def test_what_cannot_be_used_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match="not a model in MJCF or URDF") as told:
        Kinematics("<mujoco><worldbody><bodi/></worldbody></mujoco>")
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="no hinge or slide 'elbo'; did you mean 'elbow'"):
        Kinematics(PLANAR, ["elbo"])
    with pytest.raises(InputError, match="no hinge or slide joint"):
        Kinematics("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    with pytest.raises(InputError, match="no site or body 'tp'; did you mean 'tip'"):
        Kinematics(PLANAR).pose("tp")
    with pytest.raises(ValueError, match=r"expected joint positions of shape \(3,\), found \(2,\)"):
        Kinematics(PLANAR).forward(np.zeros(2))


def test_the_module_starts_without_mujoco() -> None:
    code = "import sys, policies.kinematics; sys.exit(any(name in sys.modules for name in ('mujoco', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
