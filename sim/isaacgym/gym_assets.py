"""Calls about assets: loading them and asking what they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policies.spec import InputError
from sim.isaacgym import asset as assets
from sim.isaacgym.asset import Asset, ForceSensor
from sim.isaacgym.constants import INVALID_HANDLE, DofType
from sim.isaacgym.parameters import ActuatorProperties, AssetOptions, ForceSensorProperties, IndexRange, RigidShapeProperties
from sim.isaacgym.structures import Transform
from sim.isaacgym.world import Sim


def position(names: list[str], name: str) -> int:
    """Return where ``name`` stands in ``names``, or ``INVALID_HANDLE``."""
    return names.index(name) if name in names else INVALID_HANDLE


def shape_ranges(asset: Asset) -> list[IndexRange]:
    """Return the range of shapes of every body."""
    owners = np.array(asset.shape_bodies, int)
    return [IndexRange(int(np.searchsorted(owners, b)), int((owners == b).sum())) for b in range(len(asset.bodies))]


class AssetCalls:
    """``Gym`` calls that take an asset or make one."""

    def load_asset(self, sim: Sim, rootpath: str, filename: str, options: AssetOptions | None = None) -> Asset:
        """Load an MJCF or URDF file. Raises InputError, one line, if it cannot be."""
        return assets.load(rootpath, filename, options or AssetOptions())

    load_mjcf = load_urdf = load_asset

    def create_box(self, sim: Sim, width: float, height: float, depth: float, options: AssetOptions | None = None) -> Asset:
        """Make a box of these edges (m) along x, y and z."""
        return assets.primitive("box", (width / 2, height / 2, depth / 2), options or AssetOptions())

    def create_sphere(self, sim: Sim, radius: float, options: AssetOptions | None = None) -> Asset:
        """Make a sphere of this radius (m)."""
        return assets.primitive("sphere", (radius, 0.0, 0.0), options or AssetOptions())

    def create_capsule(self, sim: Sim, radius: float, length: float, options: AssetOptions | None = None) -> Asset:
        """Make a capsule along x: a cylinder of this radius and length (m) and two half spheres."""
        return assets.primitive("capsule", (radius, length / 2, 0.0), options or AssetOptions())

    def create_asset_force_sensor(self, asset: Asset, body: int, pose: Transform, props: ForceSensorProperties | None = None) -> int:
        """Put a force sensor on a body of the asset, before actors are made of it; returns its index."""
        if not 0 <= body < len(asset.bodies):
            raise InputError(f"create_asset_force_sensor: {asset.name} has no body {body}; it has {len(asset.bodies)}")
        asset.sensors.append(ForceSensor(body, pose, props or ForceSensorProperties()))
        return len(asset.sensors) - 1

    # Bodies and shapes -------------------------------------------------------------------------------------------

    def get_asset_rigid_body_count(self, asset: Asset) -> int:
        """Return the number of bodies."""
        return len(asset.bodies)

    def get_asset_rigid_body_names(self, asset: Asset) -> list[str]:
        """Return the names of the bodies, root first."""
        return list(asset.bodies)

    def get_asset_rigid_body_name(self, asset: Asset, index: int) -> str:
        """Return the name of a body."""
        return asset.bodies[index]

    def get_asset_rigid_body_dict(self, asset: Asset) -> dict[str, int]:
        """Return name -> index of the bodies."""
        return {name: index for index, name in enumerate(asset.bodies)}

    def find_asset_rigid_body_index(self, asset: Asset, name: str) -> int:
        """Return the index of a body, -1 if there is none of that name."""
        return position(asset.bodies, name)

    def get_asset_rigid_shape_count(self, asset: Asset) -> int:
        """Return the number of collision shapes."""
        return len(asset.shapes)

    def get_asset_rigid_shape_properties(self, asset: Asset) -> list[RigidShapeProperties]:
        """Return the contact properties of the collision shapes."""
        return asset.copy_shape_properties()

    def set_asset_rigid_shape_properties(self, asset: Asset, props: list[RigidShapeProperties]) -> bool:
        """Set the contact properties that actors made from now on have."""
        if len(props) != len(asset.shapes):
            raise InputError(f"set_asset_rigid_shape_properties: {len(props)} given, {asset.name} has {len(asset.shapes)} shapes")
        asset.shape_properties = [replace(shape) for shape in props]  # a new list: actors that were made keep theirs
        return True

    def get_asset_rigid_body_shape_indices(self, asset: Asset) -> list[IndexRange]:
        """Return which shapes every body has."""
        return shape_ranges(asset)

    # Joints ------------------------------------------------------------------------------------------------------

    def get_asset_dof_count(self, asset: Asset) -> int:
        """Return the number of degrees of freedom."""
        return len(asset.dofs)

    def get_asset_dof_names(self, asset: Asset) -> list[str]:
        """Return the names of the degrees of freedom."""
        return list(asset.dofs)

    def get_asset_dof_name(self, asset: Asset, index: int) -> str:
        """Return the name of a degree of freedom."""
        return asset.dofs[index]

    def get_asset_dof_dict(self, asset: Asset) -> dict[str, int]:
        """Return name -> index of the degrees of freedom."""
        return {name: index for index, name in enumerate(asset.dofs)}

    def find_asset_dof_index(self, asset: Asset, name: str) -> int:
        """Return the index of a degree of freedom, -1 if there is none of that name."""
        return position(asset.dofs, name)

    def get_asset_dof_type(self, asset: Asset, index: int) -> DofType:
        """Return whether a degree of freedom turns or slides."""
        slides = asset.slides(index)
        return DofType.DOF_TRANSLATION if slides else DofType.DOF_ROTATION

    def get_asset_dof_properties(self, asset: Asset) -> np.ndarray:
        """Return (D,) records of ``hasLimits, lower, upper, driveMode, velocity, effort, stiffness, damping, friction, armature``."""
        return asset.dof_properties.copy()

    def get_asset_joint_count(self, asset: Asset) -> int:
        """Return the number of joints, which is that of the degrees of freedom: fixed joints have none."""
        return len(asset.dofs)

    def get_asset_joint_names(self, asset: Asset) -> list[str]:
        """Return the names of the joints."""
        return list(asset.dofs)

    def get_asset_joint_name(self, asset: Asset, index: int) -> str:
        """Return the name of a joint."""
        return asset.dofs[index]

    def find_asset_joint_index(self, asset: Asset, name: str) -> int:
        """Return the index of a joint, -1 if there is none of that name."""
        return position(asset.dofs, name)

    # Actuators ---------------------------------------------------------------------------------------------------

    def get_asset_actuator_count(self, asset: Asset) -> int:
        """Return the number of actuators of the file."""
        return len(asset.actuators)

    def get_asset_actuator_name(self, asset: Asset, index: int) -> str:
        """Return the name of an actuator."""
        return asset.actuators[index].name

    def get_asset_actuator_joint_name(self, asset: Asset, index: int) -> str:
        """Return the name of the joint that an actuator drives."""
        return asset.actuators[index].joint_name

    def get_asset_actuator_properties(self, asset: Asset) -> list[ActuatorProperties]:
        """Return the actuators of the file; ``motor_effort`` is what one unit of control pushes."""
        return list(asset.actuators)

    def find_asset_actuator_index(self, asset: Asset, name: str) -> int:
        """Return the index of an actuator, -1 if there is none of that name."""
        return position([actuator.name for actuator in asset.actuators], name)

    def get_asset_tendon_count(self, asset: Asset) -> int:
        """Return 0: tendons of a file act, but cannot be asked about."""
        return 0
