"""A small model with one of everything that can vary, and a task on it, for the tests of randomisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.task import MujocoTask

XML = """
<mujoco model="everything">
  <option timestep="0.01" integrator="implicitfast"/>
  <asset>
    <texture name="checks" type="2d" builtin="checker" rgb1="0.9 0.1 0.1" rgb2="0.1 0.1 0.9" width="64" height="64"/>
    <texture name="grid" type="2d" builtin="checker" rgb1="0.1 0.8 0.1" rgb2="0.9 0.9 0.2" width="64" height="64"/>
    <material name="red" texture="checks"/>
    <material name="green" texture="grid"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="0 -1 2" dir="0 0.4 -1"/>
    <camera name="front" pos="0 -2 0.6" xyaxes="1 0 0 0 0.3 1" fovy="50"/>
    <geom name="floor" type="plane" size="3 3 0.1" material="red"/>
    <body name="marker" mocap="true" pos="1 1 1"><geom type="sphere" size="0.02" mass="0" contype="0" conaffinity="0"/></body>
    <body name="crate" pos="0.6 0 0.1">
      <freejoint name="crate"/>
      <inertial pos="0 0 0" mass="0.5" diaginertia="0.002 0.003 0.004"/>
      <geom name="crate_left" type="box" size="0.05 0.06 0.07" pos="-0.06 0 0"/>
      <geom name="crate_right" type="capsule" size="0.04 0.05" pos="0.06 0 0"/>
    </body>
    <body name="upper" pos="-0.5 0 0.8">
      <joint name="shoulder" type="hinge" axis="0 1 0" damping="0.1" armature="0.01" frictionloss="0.02" stiffness="0.3"/>
      <geom name="upper" type="capsule" fromto="0 0 0 0 0 -0.3" size="0.03" mass="1"/>
      <body name="fore" pos="0 0 -0.3">
        <joint name="elbow" type="hinge" axis="0 1 0" damping="0.05"/>
        <geom name="fore" type="capsule" fromto="0 0 0 0 0 -0.25" size="0.025" mass="0.6" rgba="0.2 0.3 0.9 1"/>
        <site name="tip" pos="0 0 -0.25"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="shoulder" joint="shoulder" kp="12" kv="0.8" ctrlrange="-1 1"/>
    <motor name="elbow" joint="elbow" gear="2" ctrlrange="-1 1" forcerange="-5 5"/>
    <velocity name="brake" joint="elbow" kv="0.3" ctrlrange="-1 1"/>
  </actuator>
  <sensor><framepos name="tip" objtype="site" objname="tip"/></sensor>
</mujoco>
"""
JOINTS = ("shoulder", "elbow")


class Everything(MujocoTask):
    """Two joints of an arm are observed and moved; a crate lies beside it."""

    task_name, description, xml = "test/everything", "one of everything", ""
    rate_hz, time_limit_s = 50.0, 4.0
    camera = "front"

    def make_model(self) -> Any:
        """Compile the text above."""
        import mujoco

        return mujoco.MjModel.from_xml_string(XML)  # type: ignore[attr-defined]

    def observation_fields(self) -> dict[str, Field]:
        """Positions, velocities; the crate."""
        names = (*JOINTS, *(f"{name}.velocity" for name in JOINTS))
        return {"observation.state": Field((4,), unit="rad, rad/s", names=names), "observation.environment_state": Field((3,), unit="m")}

    def action_fields(self) -> dict[str, Field]:
        """A target and two efforts."""
        return {
            "target": Field((1,), unit="rad", low=(-1.0,), high=(1.0,), kind="position"),
            "efforts": Field((2,), low=(-1.0, -1.0), high=(1.0, 1.0), kind="effort"),
        }

    def lay_out(self, rows: np.ndarray, draws: Draws) -> None:
        """Joints somewhere, the crate a little above the floor."""
        self.qpos[rows, 7:] = draws.uniform(-0.3, 0.3, (2,))

    def judge(self, action: np.ndarray) -> Outcome:
        """Succeed while the shoulder is on the positive side."""
        return Outcome(-np.abs(self.qpos[:, 7]), np.zeros(self.num_worlds, bool), {"success": self.qpos[:, 7] > 0})

    def observe(self, out: Observation) -> None:
        """Write them."""
        out["observation.state"][:, :2], out["observation.state"][:, 2:] = self.qpos[:, 7:], self.qvel[:, 6:]
        if "observation.environment_state" in out:
            out["observation.environment_state"][:] = self.qpos[:, :3]
