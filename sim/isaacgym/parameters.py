"""The parameter records of the interface, with its names and defaults.

A value that these physics do not have (``num_position_iterations``) is kept and has no effect; ``docs/isaacgym.md`` lists them. A
name that the interface does not have is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim.isaacgym.constants import ContactCollection, DofDriveMode, MeshNormalMode, UpAxis
from sim.isaacgym.refusal import refuse
from sim.isaacgym.structures import Mat33, Transform, Vec3

_MOST = 3.4028234663852886e38  # what stands for "no limit": the largest float32


class Parameters:
    """Named values; setting a name that is not declared is an error that names the nearest."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = getattr(type(self), "__dataclass_fields__", {})
        if name not in known:
            raise refuse(type(self).__name__, name, known)
        object.__setattr__(self, name, value)


@dataclass
class PhysXParams(Parameters):
    """Settings of the other package's solver; kept, without effect except ``num_threads``."""

    solver_type: int = 1
    num_threads: int = 0
    num_subscenes: int = 0
    num_position_iterations: int = 4
    num_velocity_iterations: int = 1
    contact_offset: float = 0.02
    rest_offset: float = 0.001
    bounce_threshold_velocity: float = 0.2
    max_depenetration_velocity: float = 100.0
    friction_offset_threshold: float = 0.04
    friction_correlation_distance: float = 0.025
    default_buffer_size_multiplier: float = 2.0
    max_gpu_contact_pairs: int = 1024 * 1024
    contact_collection: ContactCollection = ContactCollection.CC_ALL_SUBSTEPS
    always_use_articulations: bool = False
    use_gpu: bool = False


@dataclass
class SimParams(Parameters):
    """Time step ``dt`` (s) of one ``simulate``, cut into ``substeps``; gravity (m/s^2); which axis is up."""

    dt: float = 1.0 / 60.0
    substeps: int = 2
    up_axis: UpAxis = UpAxis.UP_AXIS_Y
    gravity: Vec3 = field(default_factory=lambda: Vec3(0.0, -9.8, 0.0))
    use_gpu_pipeline: bool = False
    num_client_threads: int = 0
    enable_actor_creation_warning: bool = True
    stress_visualization: bool = False
    stress_visualization_max: float = 1e5
    stress_visualization_min: float = 0.0
    physx: PhysXParams = field(default_factory=PhysXParams)


@dataclass
class PlaneParams(Parameters):
    """An infinite plane: ``normal`` . x + ``distance`` = 0."""

    normal: Vec3 = field(default_factory=lambda: Vec3(0.0, 1.0, 0.0))
    distance: float = 0.0
    static_friction: float = 1.0
    dynamic_friction: float = 1.0
    restitution: float = 0.0
    segmentation_id: int = 0


@dataclass
class HeightFieldParams(Parameters):
    """A grid of heights: ``nbRows`` along x, ``nbColumns`` along y, scales in m."""

    nbRows: int = 0
    nbColumns: int = 0
    row_scale: float = 1.0
    column_scale: float = 1.0
    vertical_scale: float = 1.0
    transform: Transform = field(default_factory=Transform)
    static_friction: float = 1.0
    dynamic_friction: float = 1.0
    restitution: float = 0.0
    segmentation_id: int = 0


@dataclass
class TriangleMeshParams(Parameters):
    """A mesh of terrain and where it lies."""

    nb_vertices: int = 0
    nb_triangles: int = 0
    transform: Transform = field(default_factory=Transform)
    static_friction: float = 1.0
    dynamic_friction: float = 1.0
    restitution: float = 0.0
    segmentation_id: int = 0


@dataclass
class VhacdParams(Parameters):
    """Convex decomposition of meshes; kept, without effect: a mesh collides as its convex hull."""

    resolution: int = 100000
    max_convex_hulls: int = 64
    max_num_vertices_per_ch: int = 64
    concavity: float = 0.0025


@dataclass
class AssetOptions(Parameters):
    """How a model file becomes an asset."""

    fix_base_link: bool = False
    collapse_fixed_joints: bool = False
    default_dof_drive_mode: int = DofDriveMode.DOF_MODE_NONE
    density: float = 1000.0
    armature: float = 0.0
    disable_gravity: bool = False
    replace_cylinder_with_capsule: bool = False
    override_com: bool = False
    override_inertia: bool = False
    angular_damping: float = 0.5
    linear_damping: float = 0.0
    max_angular_velocity: float = 64.0
    max_linear_velocity: float = 1000.0
    thickness: float = 0.02
    flip_visual_attachments: bool = False
    use_mesh_materials: bool = False
    use_physx_armature: bool = True
    enable_gyroscopic_forces: bool = True
    mesh_normal_mode: MeshNormalMode = MeshNormalMode.FROM_ASSET
    min_particle_mass: float = 1e-12
    slices_per_cylinder: int = 20
    tendon_limit_stiffness: float = 1.0
    convex_decomposition_from_submeshes: bool = False
    vhacd_enabled: bool = False
    vhacd_params: VhacdParams = field(default_factory=VhacdParams)


@dataclass
class RigidBodyProperties(Parameters):
    """Mass (kg), centre of mass ``com`` in the body's frame (m), ``inertia`` about it in the body's axes (kg m^2)."""

    mass: float = 1.0
    com: Vec3 = field(default_factory=Vec3)
    inertia: Mat33 = field(default_factory=Mat33)
    invMass: float = 1.0
    invInertia: Mat33 = field(default_factory=Mat33)
    flags: int = 0


@dataclass
class RigidShapeProperties(Parameters):
    """Contact properties of one collision shape; ``friction`` has effect, the two others where the file's geom has a ``condim`` of 6 and 4."""

    friction: float = 1.0
    rolling_friction: float = 0.0
    torsion_friction: float = 0.0
    restitution: float = 0.0
    compliance: float = 0.0
    thickness: float = 0.0
    contact_offset: float = 0.02
    rest_offset: float = 0.001
    filter: int = 0


@dataclass
class ActuatorProperties(Parameters):
    """One actuator of a model file."""

    name: str = ""
    joint_name: str = ""
    type: int = 0
    motor_effort: float = 0.0
    kp: float = 0.0
    kv: float = 0.0
    control_limited: bool = False
    force_limited: bool = False
    lower_control_limit: float = -_MOST
    upper_control_limit: float = _MOST
    lower_force_limit: float = -_MOST
    upper_force_limit: float = _MOST


@dataclass
class ForceSensorProperties(Parameters):
    """What a force sensor counts, and in which frame it reports."""

    enable_forward_dynamics_forces: bool = True
    enable_constraint_solver_forces: bool = True
    use_world_frame: bool = False


@dataclass
class IndexRange(Parameters):
    """``count`` indices from ``start``."""

    start: int = 0
    count: int = 0


@dataclass
class CameraProperties(Parameters):
    """A camera; there is none here, so that only a viewer is made from it."""

    width: int = 1600
    height: int = 900
    horizontal_fov: float = 90.0
    near_plane: float = 0.1
    far_plane: float = 2e6
    enable_tensors: bool = False
    use_collision_geometry: bool = False
    supersampling_horizontal: int = 1
    supersampling_vertical: int = 1


#: "No limit" in float32, as the interface reports it.
UNLIMITED = _MOST
