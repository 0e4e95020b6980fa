"""The URDF of a robot whose model is MJCF: what ROS tools expect on ``robot_description``.

Every hinge becomes a revolute joint (continuous without a range), every slide a prismatic one, with the limits of position,
velocity and effort; sites become links on fixed joints, so that a tool's tip has a frame. URDF knows no capsules: each is a
cylinder and two spheres. Acceleration and jerk, for which URDF has no element, stand in a ``ros2_control`` block, as limits of
command interfaces. Numbers are written so that they read back bit for bit.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from policies.motion import MotionLimits
from policies.spec import InputError


def urdf_of(model: str, motion: MotionLimits, name: str) -> str:
    """Return URDF text of the robot in ``model`` (MJCF text, one tree under the world).

    Args:
        model: As of :class:`sim.env.JointDriven.robot_model`.
        motion: Limits of its joints.
        name: Of the robot.

    Raises:
        InputError: if the model has a joint that URDF cannot say (ball, free), or a joint of ``motion`` is not in it.
    """
    import mujoco

    mj: Any = mujoco
    return _Writer(mj, mj.MjModel.from_xml_string(model), motion, name).text()


class _Writer:
    """Writes one model; ``_place`` of a body is its frame in the frame of its link, which lies in its last joint."""

    def __init__(self, mj: Any, model: Any, motion: MotionLimits, name: str) -> None:
        self._mj, self._model, self._motion = mj, model, motion
        self._root = ET.Element("robot", name=name)
        self._links: dict[int, str] = {0: "world"}
        self._shift: dict[int, np.ndarray] = {0: np.zeros(3)}  # from the body's frame to its link's, in the body's axes
        lacking = set(motion.names) - {model.joint(j).name for j in range(model.njnt)}
        if lacking:
            raise InputError(f"robot description: the model has no joint {sorted(lacking)[0]!r}")

    def text(self) -> str:
        """Return the whole description, indented."""
        ET.SubElement(self._root, "link", name="world")
        for body in range(1, self._model.nbody):
            self._body(body)
        for site in range(self._model.nsite):
            self._site(site)
        self._control()
        ET.indent(self._root)
        return '<?xml version="1.0"?>\n' + ET.tostring(self._root, encoding="unicode") + "\n"

    def _body(self, body: int) -> None:
        """Write a body: its joints in their order (links without mass between them), then the link with what it is made of."""
        model, parent = self._model, int(self._model.body_parentid[body])
        link = model.body(body).name or f"body{body}"
        self._links[body] = link
        at, axes = model.body_pos[body] - self._shift[parent], model.body_quat[body]
        joints = range(int(model.body_jntadr[body]), int(model.body_jntadr[body]) + int(model.body_jntnum[body]))
        above, shift = self._links[parent], np.zeros(3)
        for k, joint in enumerate(joints):
            anchor = model.jnt_pos[joint]
            step = self._rotated(axes, anchor - shift)
            child = link if k == len(joints) - 1 else f"{link}_{model.joint(joint).name}"
            self._joint(joint, above, child, at + step, axes)
            if child != link:
                self._almost_nothing(ET.SubElement(self._root, "link", name=child))
            above, at, axes, shift = child, np.zeros(3), np.array([1.0, 0, 0, 0]), anchor
        if not len(joints):
            self._fixed(f"{link}_fixed", above, link, at, axes)
        self._shift[body] = shift
        element = ET.SubElement(self._root, "link", name=link)
        self._inertia(element, body, shift)
        for geom in range(int(model.body_geomadr[body]), int(model.body_geomadr[body]) + int(model.body_geomnum[body])):
            self._geom(element, geom, shift)

    def _joint(self, joint: int, parent: str, child: str, at: np.ndarray, axes: np.ndarray) -> None:
        model, mj = self._model, self._mj
        name, kind = model.joint(joint).name, int(model.jnt_type[joint])
        if kind not in (int(mj.mjtJoint.mjJNT_HINGE), int(mj.mjtJoint.mjJNT_SLIDE)):
            raise InputError(f"robot description: joint {name!r} is neither a hinge nor a slide; URDF has no other kind that moves by one number")
        limited = bool(model.jnt_limited[joint]) or name in self._motion.names
        slide = kind == int(mj.mjtJoint.mjJNT_SLIDE)
        element = ET.SubElement(self._root, "joint", name=name, type="prismatic" if slide else "revolute" if limited else "continuous")
        self._ends(element, parent, child, at, axes)
        ET.SubElement(element, "axis", xyz=_numbers(model.jnt_axis[joint]))
        low, high = (float(v) for v in model.jnt_range[joint])
        velocity = 0.0
        if name in self._motion.names:
            i = self._motion.names.index(name)
            low, high, velocity = float(self._motion.low[i]), float(self._motion.high[i]), float(self._motion.velocity[i])
        bounds = {"lower": repr(low), "upper": repr(high)} if limited else {}
        ET.SubElement(element, "limit", {**bounds, "effort": repr(self._effort(joint)), "velocity": repr(velocity)})
        ET.SubElement(element, "dynamics", damping=repr(float(model.dof_damping[model.jnt_dofadr[joint]])))

    def _effort(self, joint: int) -> float:
        """Return the largest force or torque of the actuators of a joint; 0 where none is bounded."""
        model = self._model
        of = [a for a in range(model.nu) if int(model.actuator_trnid[a, 0]) == joint and model.actuator_forcelimited[a]]
        return float(sum(np.abs(model.actuator_forcerange[a]).max() for a in of))

    def _fixed(self, name: str, parent: str, child: str, at: np.ndarray, axes: np.ndarray) -> None:
        self._ends(ET.SubElement(self._root, "joint", name=name, type="fixed"), parent, child, at, axes)

    def _ends(self, element: ET.Element, parent: str, child: str, at: np.ndarray, axes: np.ndarray) -> None:
        ET.SubElement(element, "parent", link=parent)
        ET.SubElement(element, "child", link=child)
        self._origin(element, at, axes)

    def _site(self, site: int) -> None:
        model, body = self._model, int(self._model.site_bodyid[site])
        name = model.site(site).name or f"site{site}"
        if name in self._links.values():
            name += "_site"
        ET.SubElement(self._root, "link", name=name)
        self._fixed(f"{name}_fixed", self._links[body], name, model.site_pos[site] - self._shift[body], model.site_quat[site])

    def _inertia(self, element: ET.Element, body: int, shift: np.ndarray) -> None:
        model = self._model
        if not model.body_mass[body]:
            return
        inertial = ET.SubElement(element, "inertial")
        self._origin(inertial, model.body_ipos[body] - shift, model.body_iquat[body])
        ET.SubElement(inertial, "mass", value=repr(float(model.body_mass[body])))
        xx, yy, zz = (repr(float(v)) for v in model.body_inertia[body])
        ET.SubElement(inertial, "inertia", ixx=xx, iyy=yy, izz=zz, ixy="0", ixz="0", iyz="0")

    def _almost_nothing(self, element: ET.Element) -> None:
        """Write the inertia of a link between two joints of one body: simulators refuse a link that moves and weighs nothing."""
        inertial = ET.SubElement(element, "inertial")
        ET.SubElement(inertial, "mass", value="1e-06")
        ET.SubElement(inertial, "inertia", ixx="1e-09", iyy="1e-09", izz="1e-09", ixy="0", ixz="0", iyz="0")

    def _geom(self, element: ET.Element, geom: int, shift: np.ndarray) -> None:
        """Write a shape as visual and, if it collides, as collision; planes, meshes and fields are left out."""
        model, kinds = self._model, self._mj.mjtGeom
        kind, size = int(model.geom_type[geom]), [float(v) for v in model.geom_size[geom]]
        at, axes = model.geom_pos[geom] - shift, model.geom_quat[geom]
        shapes: list[tuple[str, dict[str, str], np.ndarray]] = []
        if kind == int(kinds.mjGEOM_BOX):
            shapes = [("box", {"size": _numbers(2 * np.array(size))}, at)]
        elif kind == int(kinds.mjGEOM_SPHERE):
            shapes = [("sphere", {"radius": repr(size[0])}, at)]
        elif kind in (int(kinds.mjGEOM_CYLINDER), int(kinds.mjGEOM_CAPSULE)):
            shapes = [("cylinder", {"radius": repr(size[0]), "length": repr(2 * size[1])}, at)]
            if kind == int(kinds.mjGEOM_CAPSULE):
                end = self._rotated(axes, np.array([0, 0, size[1]]))
                shapes += [("sphere", {"radius": repr(size[0])}, at + side * end) for side in (1, -1)]
        name = model.geom(geom).name or f"geom{geom}"
        solid = bool(model.geom_contype[geom] or model.geom_conaffinity[geom])
        for k, (shape, sizes, where) in enumerate(shapes):
            for tag in ("visual", "collision") if solid else ("visual",):
                part = ET.SubElement(element, tag, name=name if not k else f"{name}_end{k}")
                self._origin(part, where, axes)
                ET.SubElement(ET.SubElement(part, "geometry"), shape, sizes)
                if tag == "visual":
                    material = ET.SubElement(part, "material", name=f"{name}_colour")
                    ET.SubElement(material, "color", rgba=_numbers(model.geom_rgba[geom].astype(np.float64)))

    def _control(self) -> None:
        """Write what the joints take and tell, and the limits that URDF itself has no element for."""
        block = ET.SubElement(self._root, "ros2_control", name="twin", type="system")
        ET.SubElement(ET.SubElement(block, "hardware"), "plugin").text = "robopolicy/Twin"
        motion = self._motion
        for i, name in enumerate(motion.names):
            joint = ET.SubElement(block, "joint", name=name)
            bounds = {"position": (motion.low[i], motion.high[i])}
            bounds |= {kind: (-limit[i], limit[i]) for kind, limit in zip(("velocity", "acceleration", "jerk"), _moving(motion), strict=True)}
            for kind, (low, high) in bounds.items():
                interface = ET.SubElement(joint, "command_interface", name=kind)
                ET.SubElement(interface, "param", name="min").text = repr(float(low))
                ET.SubElement(interface, "param", name="max").text = repr(float(high))
            for kind in ("position", "velocity"):
                ET.SubElement(joint, "state_interface", name=kind)

    def _rotated(self, axes: np.ndarray, vector: np.ndarray) -> np.ndarray:
        out = np.zeros(3)
        self._mj.mju_rotVecQuat(out, np.asarray(vector, np.float64), np.asarray(axes, np.float64))
        return out

    def _origin(self, element: ET.Element, at: np.ndarray, axes: np.ndarray) -> None:
        ET.SubElement(element, "origin", xyz=_numbers(at), rpy=_numbers(roll_pitch_yaw(axes)))


def _moving(motion: MotionLimits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return motion.velocity, motion.acceleration, motion.jerk


def roll_pitch_yaw(quaternion: np.ndarray) -> np.ndarray:
    """Return the angles (3,), rad, about the fixed x, y and z axes of a unit quaternion (w, x, y, z): URDF's ``rpy``."""
    w, x, y, z = (float(v) for v in quaternion / np.linalg.norm(quaternion))
    sine = 2 * (w * y - z * x)
    pitch = np.arctan2(sine, np.hypot(1 - 2 * (y * y + z * z), 2 * (x * y + w * z)))
    if abs(sine) > 1 - 1e-12:  # roll and yaw turn about one axis: all of it is yaw
        return np.array([0.0, pitch, np.arctan2(2 * (w * z - x * y), 1 - 2 * (x * x + z * z))])
    return np.array([np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y)), pitch, np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))])


def _numbers(values: np.ndarray) -> str:
    return " ".join(repr(float(v) + 0.0) for v in values)
