"""Properties of degrees of freedom, bodies and shapes, one row an environment, and the model fields that they mean."""

# pyright: reportAttributeAccessIssue=false
# (mujoco is compiled and comes without stubs)
from __future__ import annotations

from typing import Any

import numpy as np

from sim.isaacgym.asset import Asset
from sim.isaacgym.constants import DofDriveMode, RigidBodyFlags
from sim.isaacgym.layout import Layout
from sim.isaacgym.parameters import UNLIMITED, RigidBodyProperties, RigidShapeProperties
from sim.isaacgym.structures import DOF_PROPERTIES, Mat33, Vec3

_UNBOUNDED = 1e30


class Properties:
    """What the calls ``set_actor_*_properties`` set, as arrays over N environments.

    Attributes:
        dofs: (N, D) records ``DOF_PROPERTIES``.
        masses: (N, B) kg; ``centres`` (N, B, 3) m and ``inertias`` (N, B, 3, 3) kg m^2 about them, in the bodies' axes.
        weightless: (N, B) bool.
        frictions: (N, S, 3) sliding, torsional, rolling.
    """

    def __init__(self, layout: Layout, num_envs: int) -> None:
        kinds = layout.kinds
        records = [kind.asset.dof_properties for kind in kinds] or [np.zeros(0, DOF_PROPERTIES)]
        self.dofs = np.repeat(np.concatenate(records)[None], num_envs, axis=0)
        bodies = [body for kind in kinds for body in body_properties(kind.asset)]
        self.masses, self.centres, self.inertias = (np.repeat(part[None], num_envs, axis=0) for part in _body_arrays(bodies))
        self.weightless = np.repeat(np.array([bool(b.flags & RigidBodyFlags.RIGID_BODY_DISABLE_GRAVITY) for b in bodies])[None], num_envs, axis=0)
        shapes = [shape for kind in kinds for shape in kind.asset.shape_properties]
        self.frictions = np.repeat(_frictions(shapes)[None], num_envs, axis=0)
        self._first = self.masses.copy(), self.centres.copy(), self.inertias.copy()
        self._first_weightless = self.weightless.copy()
        self._bases: dict[str, np.ndarray] = {}  # the model's own values of fields of bodies that were ever changed

    def set_bodies(self, env: int, start: int, properties: list[RigidBodyProperties], recompute: bool) -> None:
        """Set bodies ``start`` and following of one environment; ``recompute`` scales the inertia with the mass."""
        chosen = slice(start, start + len(properties))
        masses, centres, inertias = _body_arrays(properties)
        if recompute:
            before, heavy = self.masses[env, chosen], self.masses[env, chosen] > 0  # a body that only joins others has no mass
            factors = np.divide(masses, before, out=np.ones_like(masses), where=heavy)[:, None, None]
            inertias = np.where(heavy[:, None, None], self.inertias[env, chosen] * factors, inertias)
        self.masses[env, chosen], self.centres[env, chosen], self.inertias[env, chosen] = masses, centres, inertias
        self.weightless[env, chosen] = [bool(b.flags & RigidBodyFlags.RIGID_BODY_DISABLE_GRAVITY) for b in properties]

    def get_bodies(self, env: int, start: int, count: int) -> list[RigidBodyProperties]:
        """Return the properties of ``count`` bodies from ``start`` of one environment."""
        return [_body(self.masses[env, b], self.centres[env, b], self.inertias[env, b], bool(self.weightless[env, b])) for b in range(start, start + count)]

    def set_shapes(self, env: int, start: int, properties: list[RigidShapeProperties]) -> None:
        """Set shapes ``start`` and following of one environment."""
        self.frictions[env, start : start + len(properties)] = _frictions(properties)

    def centres_moved(self) -> bool:
        """Whether any centre of mass is not where its asset has it."""
        return bool((self.centres != self._first[1]).any())

    def gains(self) -> tuple[np.ndarray, np.ndarray]:
        """Return stiffness (N, D) and damping (N, D) of the drives: zero where nothing is driven."""
        mode = self.dofs["driveMode"]
        position, velocity = mode == DofDriveMode.DOF_MODE_POS, mode == DofDriveMode.DOF_MODE_VEL
        return np.where(position, self.dofs["stiffness"], 0.0).astype(float), np.where(position | velocity, self.dofs["damping"], 0.0).astype(float)

    def fields(self, layout: Layout, ground: float | None) -> dict[str, np.ndarray]:
        """Return model field -> (N, ...) values of all environments.

        Args:
            layout: Where everything lies.
            ground: Friction of the ground, averaged with every shape's, as PhysX does; None without a ground.
        """
        return {**self._dof_fields(layout), **self._body_fields(layout), **self._shape_fields(layout, ground)}

    def _dof_fields(self, layout: Layout) -> dict[str, np.ndarray]:
        model, dofs = layout.model, self.dofs
        num_envs = len(dofs)

        def whole(field: str) -> np.ndarray:
            template = getattr(model, field)
            return np.repeat(template[None], num_envs, axis=0)

        out = {field: whole(field) for field in ("actuator_biasprm", "actuator_forcerange", "dof_damping", "dof_armature", "dof_frictionloss")}
        out |= {field: whole(field) for field in ("jnt_stiffness", "jnt_range", "jnt_limited")}
        stiffness, damping = self.gains()
        driven = np.isin(dofs["driveMode"], (DofDriveMode.DOF_MODE_POS, DofDriveMode.DOF_MODE_VEL))
        out["actuator_biasprm"][:, :, 1] = -stiffness
        out["actuator_biasprm"][:, :, 2] = -(damping + model.opt.timestep * stiffness)
        effort = np.where(dofs["effort"] >= 0.5 * UNLIMITED, _UNBOUNDED, dofs["effort"])
        out["actuator_forcerange"][:, :, 0], out["actuator_forcerange"][:, :, 1] = -effort, effort
        out["dof_damping"][:, layout.dof_ids] = np.where(driven, 0.0, dofs["damping"])
        out["dof_armature"][:, layout.dof_ids] = dofs["armature"]
        out["dof_frictionloss"][:, layout.dof_ids] = dofs["friction"]
        out["jnt_stiffness"][:, layout.joint_ids] = np.where(driven, 0.0, dofs["stiffness"])
        out["jnt_limited"][:, layout.joint_ids] = dofs["hasLimits"]
        out["jnt_range"][:, layout.joint_ids, 0] = np.where(dofs["hasLimits"], dofs["lower"], 0.0)
        out["jnt_range"][:, layout.joint_ids, 1] = np.where(dofs["hasLimits"], dofs["upper"], 0.0)
        return out

    def _body_fields(self, layout: Layout) -> dict[str, np.ndarray]:
        model, ids, num_envs = layout.model, layout.body_ids, len(self.masses)
        masses, centres, inertias = self._first
        out: dict[str, np.ndarray] = {}

        def varies(changed: np.ndarray, *names: str) -> bool:
            if not changed.any() and names[0] not in self._bases:
                return False
            for name in names:  # also when all is as it was in the beginning: worlds or model may have other values by now
                out[name] = np.repeat(self._bases.setdefault(name, getattr(model, name).copy())[None], num_envs, axis=0)
            return True

        if varies(self.masses != masses, "body_mass"):
            out["body_mass"][:, ids] = np.where(self.masses != masses, self.masses, out["body_mass"][:, ids])
        if varies(self.centres != centres, "body_ipos"):
            changed = (self.centres != centres).any(axis=-1, keepdims=True)
            out["body_ipos"][:, ids] = np.where(changed, self.centres, out["body_ipos"][:, ids])
        if varies(self.inertias != inertias, "body_inertia", "body_iquat"):
            changed = (self.inertias != inertias).any(axis=(-2, -1))[..., None]
            moments, quats = _principal(self.inertias)
            for field, values in (("body_inertia", moments), ("body_iquat", quats)):
                out[field][:, ids] = np.where(changed, values, out[field][:, ids])
        light = self.weightless != self._first_weightless  # a file's body may float by a share
        if varies(light, "body_gravcomp"):
            out["body_gravcomp"][:, ids] = np.where(light, self.weightless, out["body_gravcomp"][:, ids])
        return out

    def _shape_fields(self, layout: Layout, ground: float | None) -> dict[str, np.ndarray]:
        frictions = np.repeat(layout.model.geom_friction[None], len(self.frictions), axis=0)
        frictions[:, layout.shape_ids] = self.frictions
        if ground is not None:
            frictions[:, layout.shape_ids, 0] = 0.5 * (self.frictions[..., 0] + ground)
        return {"geom_friction": frictions}


def body_properties(asset: Asset) -> list[RigidBodyProperties]:
    """Return the properties of an asset's bodies, the caller's to change."""
    if asset.body_properties is None:
        asset.body_properties = _read_bodies(asset)
    return [copied(body) for body in asset.body_properties]


def copied(body: RigidBodyProperties) -> RigidBodyProperties:
    """Return a copy that shares nothing."""
    return RigidBodyProperties(body.mass, body.com.copy(), body.inertia.copy(), body.invMass, body.invInertia.copy(), body.flags)


def with_scaled_inertia(bodies: list[RigidBodyProperties], before: list[RigidBodyProperties]) -> list[RigidBodyProperties]:
    """Return ``bodies`` with the inertias of ``before`` times what their masses have grown by; one that had no mass keeps its own."""
    out = [copied(body) for body in bodies]
    for body, old in zip(out, before, strict=True):
        if old.mass > 0:
            body.inertia = Mat33.of(old.inertia.array() * (body.mass / old.mass))
    return out


def _read_bodies(asset: Asset) -> list[RigidBodyProperties]:
    import mujoco

    model, out = asset.model, []
    for name in asset.bodies:
        index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
        if index < 0:  # the base that carries a root with joints
            out.append(_body(0.0, np.zeros(3), np.zeros((3, 3)), False))
            continue
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, model.body_iquat[index])
        turn = axes.reshape(3, 3)
        inertia = turn @ np.diag(model.body_inertia[index]) @ turn.T
        out.append(_body(model.body_mass[index], model.body_ipos[index], inertia, bool(model.body_gravcomp[index] == 1.0)))
    return out


def _body(mass: float, centre: np.ndarray, inertia: np.ndarray, weightless: bool) -> RigidBodyProperties:
    flags = int(RigidBodyFlags.RIGID_BODY_DISABLE_GRAVITY) if weightless else 0
    inverse = np.linalg.inv(inertia) if np.linalg.det(inertia) > 0 else np.zeros((3, 3))
    return RigidBodyProperties(float(mass), Vec3(*centre), Mat33.of(inertia), 1.0 / mass if mass else 0.0, Mat33.of(inverse), flags)


def _body_arrays(bodies: list[RigidBodyProperties]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masses = np.array([b.mass for b in bodies], float)
    centres = np.array([b.com.array() for b in bodies], float).reshape(-1, 3)
    return masses, centres, np.array([b.inertia.array() for b in bodies], float).reshape(-1, 3, 3)


def _frictions(shapes: list[RigidShapeProperties]) -> np.ndarray:
    return np.array([(s.friction, s.torsion_friction, s.rolling_friction) for s in shapes], float).reshape(-1, 3)


def _principal(inertias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments (..., 3) of ``inertias`` (..., 3, 3) and the quaternions (..., 4), w first, of their axes."""
    import mujoco

    moments, axes = np.linalg.eigh(inertias)
    axes[..., :, 0] *= np.where(np.linalg.det(axes) < 0, -1.0, 1.0)[..., None]
    flat: Any = axes.reshape(-1, 9)
    quats = np.zeros((len(flat), 4))
    distinct, back = np.unique(flat, axis=0, return_inverse=True)
    found = np.zeros((len(distinct), 4))
    for quat, matrix in zip(found, distinct, strict=True):  # at set-up; few bodies differ
        mujoco.mju_mat2Quat(quat, matrix)
    quats[:] = found[back.ravel()]
    return moments, quats.reshape(*moments.shape[:-1], 4)
