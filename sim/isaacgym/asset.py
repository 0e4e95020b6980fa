"""An asset: one tree of bodies from an MJCF or URDF file or a primitive shape, and what can be asked about it.

Bodies and degrees of freedom are listed depth first. Children stand in the order of an MJCF file; those of a URDF in the
alphabetical order of their joints (FL, FR, RL, RR), as task code for the interface expects.
"""

# pyright: reportAttributeAccessIssue=false
# (mujoco is compiled and comes without stubs)
from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.isaacgym.constants import DofDriveMode
from sim.isaacgym.parameters import UNLIMITED, ActuatorProperties, AssetOptions, ForceSensorProperties, RigidBodyProperties, RigidShapeProperties
from sim.isaacgym.structures import DOF_PROPERTIES, Transform

_DENSITY = 1000.0  # kg/m3, MuJoCo's of geoms that say nothing


@dataclass(frozen=True)
class UrdfJoint:
    """What MuJoCo's reader of URDF files drops: velocity limit (rad/s or m/s), and whether a fixed joint is to be kept."""

    name: str
    velocity: float
    keep: bool


@dataclass(frozen=True)
class ForceSensor:
    """A force sensor of an asset: body index, its pose on the body, what it counts."""

    body: int
    pose: Transform
    properties: ForceSensorProperties


class Asset:
    """A tree of bodies that actors are made from.

    Attributes:
        name: Of the file or the shape, for messages.
        spec: ``mujoco.MjSpec`` without actuators, sensors and keyframes; copied into every layout.
        bodies: Names, root first.
        dofs: Names of the hinge and slide joints.
        dof_bodies: Body index per degree of freedom.
        shapes: Names of the collision geoms, body by body; ``shape_bodies`` their body indices.
        floating: Whether the root moves freely.
        jointed_root: Whether the root body hangs on joints of its own, so that a fixed base body has to carry it.
    """

    def __init__(self, name: str, spec: Any, options: AssetOptions, urdf: dict[str, UrdfJoint] | None = None) -> None:
        import mujoco

        self.name, self.options, self._mj = name, replace(options), mujoco
        self._urdf = urdf or {}
        self.spec = spec
        self.sensors: list[ForceSensor] = []
        self.body_properties: list[RigidBodyProperties] | None = None  # read when first asked for
        self._prepare(urdf is not None)
        if options.override_inertia or options.override_com:
            self._override_inertials()
        self.model: Any = self._compile()
        self.actuators = self._read_actuators()
        for group in (spec.actuators, spec.sensors, spec.keys):
            for element in list(group):
                spec.delete(element)
        self.dof_properties = self._read_dofs()
        self.shape_properties = [self._read_shape(shape) for shape in self.shapes]

    def copy_shape_properties(self) -> list[RigidShapeProperties]:
        """Return the contact properties of the shapes, to be changed by the caller."""
        return [replace(shape) for shape in self.shape_properties]

    def slides(self, dof: int) -> bool:
        """Return whether a degree of freedom is a slide joint."""
        return bool(self.model.joint(self.dofs[dof]).type[0] == self._mj.mjtJoint.mjJNT_SLIDE)

    def _prepare(self, is_urdf: bool) -> None:
        """Bring the file's tree into the form of an asset: one root at the origin, every element named, options applied."""
        spec, options = self.spec, self.options
        roots = list(spec.worldbody.bodies)
        if len(roots) != 1:
            raise InputError(f"{self.name}: an asset is one tree of bodies, found {len(roots)} at the top level")
        (root,) = roots
        for element in [*spec.worldbody.geoms, *spec.worldbody.lights, *spec.worldbody.cameras, *spec.worldbody.sites]:
            spec.delete(element)  # a floor of the file is not part of the robot
        spec.compiler.fusestatic = False
        self._forget_options()
        if is_urdf:
            spec.compiler.balanceinertia = True
        for geom in spec.geoms:
            geom.density = options.density if geom.density == _DENSITY else geom.density
        self.root_joints = list(root.joints)
        free = [j for j in self.root_joints if j.type == self._mj.mjtJoint.mjJNT_FREE]
        self.jointed_root = bool(self.root_joints) and not free
        if options.collapse_fixed_joints:
            for body in spec.bodies[1:]:
                body.fuse = not (body is root or body.name == root.name or self._keeps(body.name))
            spec.fuse_static()
            (root,) = spec.worldbody.bodies
        for joint in list(root.joints) if free else []:
            spec.delete(joint)
        self.floating = not options.fix_base_link and not self.jointed_root
        if self.floating:
            root.add_freejoint(name="root")
        if not self.jointed_root:
            root.pos, root.quat = np.zeros(3), np.array([1.0, 0, 0, 0])
        self._name_elements(root, is_urdf)

    def _override_inertials(self) -> None:
        """Take centres of mass and inertias from the geometry of bodies that have any; masses stay the file's."""
        shaped = self.spec.copy()
        shaped.compiler.inertiafromgeom = self._mj.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE
        model = self._compile(shaped)
        for body in self.spec.bodies[1:]:
            found = model.body(body.name)
            if not body.explicitinertial or not body.geoms or not found.mass[0] > 0:
                continue
            if self.options.override_com:
                body.ipos = found.ipos
            if self.options.override_inertia:
                body.iquat, body.inertia, body.fullinertia = found.iquat, found.inertia * body.mass / found.mass[0], [np.nan, 0, 0, 0, 0, 0]

    def _forget_options(self) -> None:
        """Leave the time step and the solver to the simulation: a file's are of no account, and would only be warned about."""
        given, usual = self.spec.option, self._mj.MjSpec().option
        for name in (name for name in dir(usual) if not name.startswith("_")):
            value = getattr(usual, name)
            setattr(given, name, value.copy() if isinstance(value, np.ndarray) else value)

    def _keeps(self, body: str) -> bool:
        return body in self._urdf and self._urdf[body].keep

    def _walk(self, body: Any, is_urdf: bool) -> Iterator[Any]:
        yield body
        children = list(body.bodies)
        if is_urdf:
            children.sort(key=lambda child: self._urdf[child.name].name if child.name in self._urdf else child.name)
        for child in children:
            yield from self._walk(child, is_urdf)

    def _name_elements(self, root: Any, is_urdf: bool) -> None:
        """Name what has no name, list it in the interface's order, and apply the options that are about elements."""
        types = self._mj.mjtJoint
        self.bodies: list[str] = ["base"] if self.jointed_root else []
        self.dofs: list[str] = []
        self.dof_bodies: list[int] = []
        self.shapes: list[str] = []
        self.shape_bodies: list[int] = []
        for body in self._walk(root, is_urdf):
            index = len(self.bodies)
            body.name = body.name or f"body_{index}"
            self.bodies.append(body.name)
            if self.options.disable_gravity:
                body.gravcomp = 1.0
            for joint in body.joints:
                if joint.type == types.mjJNT_FREE and body is root:
                    continue
                if joint.type not in (types.mjJNT_HINGE, types.mjJNT_SLIDE):
                    raise InputError(
                        f"{self.name}: joint {joint.name!r} of body {body.name!r} is a {joint.type.name[6:].lower()} joint; hinge and slide are covered"
                    )
                joint.name = joint.name or f"{body.name}_joint_{len(self.dofs)}"
                joint.armature = joint.armature or self.options.armature
                self.dofs.append(joint.name)
                self.dof_bodies.append(index)
            for number, geom in enumerate(body.geoms):
                geom.name = geom.name or f"{body.name}_geom_{number}"
                self._take_shape(geom, index)

    def _take_shape(self, geom: Any, body: int) -> None:
        kinds = self._mj.mjtGeom
        if self.options.replace_cylinder_with_capsule and geom.type == kinds.mjGEOM_CYLINDER:
            geom.type = kinds.mjGEOM_CAPSULE
        if geom.contype or geom.conaffinity:
            self.shapes.append(geom.name)
            self.shape_bodies.append(body)

    def _compile(self, spec: Any = None) -> Any:
        try:
            return (spec or self.spec.copy()).compile()
        except ValueError as error:
            raise InputError(f"{self.name}: {' '.join(str(error).split())}") from None

    def _read_actuators(self) -> list[ActuatorProperties]:
        model, out = self.model, []
        for index in range(model.nu):
            joint = int(model.actuator_trnid[index, 0])
            if model.actuator_trntype[index] != self._mj.mjtTrn.mjTRN_JOINT:
                continue
            gain, bias = model.actuator_gainprm[index, 0], model.actuator_biasprm[index]
            servo = bias[1] != 0 or bias[2] != 0
            found = ActuatorProperties(name=model.actuator(index).name, joint_name=model.joint(joint).name)
            found.motor_effort = 0.0 if servo else float(gain * model.actuator_gear[index, 0])
            found.kp, found.kv = (float(-bias[1]), float(-bias[2])) if servo else (0.0, 0.0)
            found.type = int(DofDriveMode.DOF_MODE_EFFORT if not servo else DofDriveMode.DOF_MODE_POS if bias[1] else DofDriveMode.DOF_MODE_VEL)
            if model.actuator_ctrllimited[index]:
                found.control_limited = True
                found.lower_control_limit, found.upper_control_limit = map(float, model.actuator_ctrlrange[index])
            if model.actuator_forcelimited[index]:
                found.force_limited = True
                found.lower_force_limit, found.upper_force_limit = map(float, model.actuator_forcerange[index])
            out.append(found)
        return out

    def _read_dofs(self) -> np.ndarray:
        model = self.model
        out = np.zeros(len(self.dofs), DOF_PROPERTIES)
        by_joint = {actuator.joint_name: actuator for actuator in self.actuators}
        for record, name in zip(out, self.dofs, strict=True):
            joint = model.joint(name)
            dof = int(joint.dofadr[0])
            limited, forces = bool(model.jnt_limited[joint.id]), model.jnt_actfrcrange[joint.id]
            record["hasLimits"] = limited
            record["lower"], record["upper"] = joint.range if limited else (-UNLIMITED, UNLIMITED)
            record["effort"] = forces[1] if model.jnt_actfrclimited[joint.id] and forces[1] > 0 else UNLIMITED
            record["velocity"] = self._velocity_limit(name)
            record["stiffness"], record["damping"] = np.ravel(model.jnt_stiffness[joint.id])[0], np.ravel(model.dof_damping[dof])[0]
            record["friction"], record["armature"] = model.dof_frictionloss[dof], model.dof_armature[dof]
            record["driveMode"] = self.options.default_dof_drive_mode
            if actuator := by_joint.get(name):
                record["driveMode"] = actuator.type
                record["effort"] = min(record["effort"], actuator.upper_force_limit)
                if actuator.type != DofDriveMode.DOF_MODE_EFFORT:
                    held = record["damping"] if actuator.type == DofDriveMode.DOF_MODE_POS else 0.0  # a drive at rest damps as the joint does
                    record["stiffness"], record["damping"] = actuator.kp, actuator.kv + held
        return out

    def _velocity_limit(self, joint: str) -> float:
        limits = [j.velocity for j in self._urdf.values() if j.name == joint and j.velocity > 0]
        return limits[0] if limits else UNLIMITED

    def _read_shape(self, name: str) -> RigidShapeProperties:
        slide, torsion, rolling = self.model.geom(name).friction
        return RigidShapeProperties(friction=float(slide), torsion_friction=float(torsion), rolling_friction=float(rolling))


def _read_urdf(path: Path) -> dict[str, UrdfJoint]:
    """Return child link -> joint of a URDF file."""
    out = {}
    for joint in ElementTree.parse(path).getroot().findall("joint"):
        child, limit = joint.find("child"), joint.find("limit")
        if child is not None:
            velocity = float(limit.get("velocity", 0.0)) if limit is not None else 0.0
            out[child.get("link", "")] = UrdfJoint(joint.get("name", ""), velocity, joint.get("dont_collapse", "false") == "true")
    return out


def _find_packages(spec: Any, folder: Path, path: Path) -> None:
    """Point meshes named ``package://NAME/...`` to files beside or above the model file or in the asset folder."""
    for mesh in spec.meshes:
        if not mesh.file.startswith("package:"):
            continue
        rest = mesh.file.removeprefix("package:").lstrip("/")
        inside = rest.partition("/")[2]
        places = [folder / rest, folder / inside, path.parent / inside, path.parent.parent / inside]
        found = [place for place in places if place.is_file()]
        if not found:
            raise InputError(f"load_asset: {path.name}: no file for package://{rest}; looked in {folder} and beside the model file")
        mesh.file = str(found[0].resolve())


def load(folder: str, file: str, options: AssetOptions) -> Asset:
    """Return the asset of an MJCF or URDF file.

    Raises:
        InputError: one line, if the file is missing, is no model, or holds what is not covered.
    """
    import mujoco

    path = Path(folder) / file
    if not path.is_file():
        raise InputError(f"load_asset: no file {path}")
    if path.suffix.lower() not in (".xml", ".mjcf", ".urdf"):
        raise InputError(f"load_asset: {path.name} is no MJCF (.xml) or URDF (.urdf) file")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        urdf = _read_urdf(path) if path.suffix.lower() == ".urdf" else None
        _find_packages(spec, Path(folder), path)
    except InputError:
        raise
    except (ValueError, ElementTree.ParseError) as error:
        raise InputError(f"load_asset: {path.name}: {' '.join(str(error).split())}") from None
    return Asset(path.name, spec, options, urdf)


def primitive(kind: str, size: tuple[float, float, float], options: AssetOptions) -> Asset:
    """Return an asset of one body: a ``box``, ``sphere`` or ``capsule`` (along x) of MuJoCo's half sizes ``size`` (m)."""
    import mujoco

    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name=kind)
    half = np.sqrt(0.5)
    turn = [half, 0.0, half, 0.0] if kind == "capsule" else [1.0, 0.0, 0.0, 0.0]
    shape = getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}")
    body.add_geom(name=kind, type=shape, size=list(size), quat=turn, density=options.density)
    return Asset(kind, spec, options)
