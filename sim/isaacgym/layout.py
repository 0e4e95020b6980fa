"""The layout that all environments share: actors of assets merged into one ``MjModel``, and where each of their parts lies in it.

One motor a degree of freedom, with a position and velocity bias, is every drive mode: what it pushes is
``ctrl - kp q - (kd + h kp) qd`` with ``ctrl = kp target + kd velocity_target + effort``. The term ``h kp`` (``h``: the physics step)
makes the integrator's implicit velocity a fully implicit spring, which is what a PhysX drive is: stable at any stiffness, and at
rest exactly ``kp (target - q)``.
"""

# pyright: reportAttributeAccessIssue=false
# (mujoco is compiled and comes without stubs)
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.isaacgym.asset import Asset, ForceSensor
from sim.isaacgym.parameters import SimParams
from sim.isaacgym.terrain import Terrain

_GROUND_BIT = 1
_CLASSES = 30  # bits of contype that are left


@dataclass(frozen=True)
class ActorKind:
    """What all environments have in common about one of their actors."""

    asset: Asset
    name: str
    group: int
    filters: tuple[int, ...]  # one a collision shape


@dataclass(frozen=True)
class Needs:
    """What the model must offer beyond moving: contact forces, force sensors, centres of mass that can be set."""

    contacts: bool = False
    sensors: bool = False
    centres: bool = False


class Layout:
    """The merged model and the addresses of every interface part in it.

    Attributes:
        model: ``mujoco.MjModel``.
        kinds: The actors of an environment, A of them.
        body_start: (A + 1,) first interface body of every actor; likewise ``dof_start``, ``shape_start``, ``sensor_start``.
        body_ids: (B,) MuJoCo body of every interface body.
        joint_ids: (D,) joint of every degree of freedom; ``qpos_ids`` and ``dof_ids`` (D,) their addresses.
        shape_ids: (S,) geoms of the collision shapes.
        free: (F,) actors with a free root; ``free_qpos`` and ``free_dof`` (F,) the first address of each.
        fixed: (X,) the other actors; ``root_ids`` (A,) MuJoCo bodies of all roots.
        contact_ids: (B,) address in ``sensordata`` of the contact force on every body; empty without that need.
        force_ids: (K, 4) addresses of contact force, torque, point and of linear acceleration of every force sensor.
    """

    def __init__(self, kinds: Sequence[ActorKind], terrain: Terrain, params: SimParams, needs: Needs) -> None:
        import mujoco

        self._mj, self.kinds, self.needs = mujoco, tuple(kinds), needs
        self.body_start = self._starts([len(kind.asset.bodies) for kind in kinds])
        self.dof_start = self._starts([len(kind.asset.dofs) for kind in kinds])
        self.shape_start = self._starts([len(kind.asset.shapes) for kind in kinds])
        self.sensor_start = self._starts([len(kind.asset.sensors) for kind in kinds])
        self.body_names = [f"a{a}/{name}" for a, kind in enumerate(kinds) for name in kind.asset.bodies]
        self.dof_names = [f"a{a}/{name}" for a, kind in enumerate(kinds) for name in kind.asset.dofs]
        self.shape_names = [f"a{a}/{name}" for a, kind in enumerate(kinds) for name in kind.asset.shapes]
        self.sensors: list[tuple[int, ForceSensor]] = [
            (int(self.body_start[a]) + sensor.body, sensor) for a, kind in enumerate(kinds) for sensor in kind.asset.sensors
        ]
        self.spec: Any = mujoco.MjSpec()
        self._merge()
        self._filter_collisions()
        terrain.add(self.spec, _GROUND_BIT)
        self._add_motors()
        self._add_sensors()
        self._set_options(params)
        try:
            self.model: Any = self.spec.compile()
        except ValueError as error:
            raise InputError(f"prepare_sim: {' '.join(str(error).split())}") from None
        self._find_addresses()

    @staticmethod
    def _starts(counts: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(counts)]).astype(int)

    # Building ----------------------------------------------------------------------------------------------------

    def _merge(self) -> None:
        spec = self.spec
        spec.compiler.fusestatic = False
        for a, kind in enumerate(self.kinds):
            carrier = spec.worldbody
            if kind.asset.jointed_root:
                carrier = spec.worldbody.add_body(name=f"a{a}/base")
            spec.attach(kind.asset.spec.copy(), prefix=f"a{a}/", frame=carrier.add_frame())
            root = spec.body(f"a{a}/{kind.asset.bodies[0]}")
            if not kind.asset.floating:
                self._exclude_neighbours(root)

    def _exclude_neighbours(self, static: Any) -> None:
        """Let a link that hangs on a static one not collide with it; MuJoCo does so by itself for links that move."""
        for child in static.bodies:
            if list(child.joints):
                self.spec.add_exclude(bodyname1=static.name, bodyname2=child.name)
            else:
                self._exclude_neighbours(child)

    def _filter_collisions(self) -> None:
        """Write groups and filters as bits: one bit for every (group, filter) that occurs.

        Two shapes collide if they are of one group, or one is of group -1, and their filters have no bit in common.
        """
        owners = [(kind.group, wanted) for kind in self.kinds for wanted in kind.filters]
        classes = sorted(set(owners))
        if len(classes) > _CLASSES:
            raise InputError(f"create_actor: {len(classes)} different pairs of collision group and filter in an environment; {_CLASSES} are covered")
        for name, owner in zip(self.shape_names, owners, strict=True):
            group, mask = owner
            meets = _GROUND_BIT
            for k, (other_group, other_mask) in enumerate(classes):
                if (group == other_group or -1 in (group, other_group)) and not max(mask, 0) & max(other_mask, 0):
                    meets |= 2 << k
            geom = self.spec.geom(name)
            geom.contype, geom.conaffinity, geom.priority = 2 << classes.index(owner), meets, 1

    def _add_motors(self) -> None:
        for name in self.dof_names:
            joint = self.spec.joint(name)
            joint.actfrclimited = self._mj.mjtLimited.mjLIMITED_FALSE
            motor = self.spec.add_actuator(name=name, target=name, trntype=self._mj.mjtTrn.mjTRN_JOINT)
            motor.gaintype, motor.biastype = self._mj.mjtGain.mjGAIN_FIXED, self._mj.mjtBias.mjBIAS_AFFINE
            motor.gainprm[0] = 1.0
            motor.forcelimited, motor.forcerange = self._mj.mjtLimited.mjLIMITED_TRUE, [-1e30, 1e30]
            motor.ctrllimited = self._mj.mjtLimited.mjLIMITED_FALSE

    def _add_sensors(self) -> None:
        kinds, objects, net = self._mj.mjtSensor, self._mj.mjtObj, 3
        if self.needs.contacts:
            for name in self.body_names:
                self._add_contact_sensor(f"contact/{name}", name, [2, net, 1])  # bit 1: force
        if self.needs.sensors:
            for k, (body, _) in enumerate(self.sensors):
                name = self.body_names[body]
                self._add_contact_sensor(f"wrench/{k}", name, [2 | 4 | 16, net, 1])  # force, torque, point
                for what in ("LIN", "ANG"):
                    kind = getattr(kinds, f"mjSENS_FRAME{what}ACC")
                    self.spec.add_sensor(name=f"acceleration/{what}/{k}", type=kind, objtype=objects.mjOBJ_BODY, objname=name)

    def _add_contact_sensor(self, name: str, body: str, wanted: list[int]) -> None:
        contact, objects = self._mj.mjtSensor.mjSENS_CONTACT, self._mj.mjtObj
        sensor = self.spec.add_sensor(name=name, type=contact, objtype=objects.mjOBJ_BODY, objname=body)  # XBODY: its subtree
        sensor.reftype = objects.mjOBJ_UNKNOWN
        sensor.intprm[:3] = wanted

    def _set_options(self, params: SimParams) -> None:
        option = self.spec.option
        option.timestep = params.dt / params.substeps
        option.gravity = params.gravity.array()
        option.integrator = self._mj.mjtIntegrator.mjINT_IMPLICITFAST
        option.cone = self._mj.mjtCone.mjCONE_ELLIPTIC  # a sliding body is braked with friction times its weight, not with less
        if self.needs.centres:
            for name in self.body_names:
                self.spec.body(name).simple = False

    # Addresses ---------------------------------------------------------------------------------------------------

    def _find_addresses(self) -> None:
        model = self.model
        if self.needs.centres:  # shortcuts of the kinematics that hold for the centres of mass at compile time only
            for field in (model.body_sameframe, model.geom_sameframe, model.site_sameframe):
                field[:] = 0
        self.body_ids = np.array([model.body(name).id for name in self.body_names], int)
        self.joint_ids = np.array([model.joint(name).id for name in self.dof_names], int)
        self.qpos_ids, self.dof_ids = model.jnt_qposadr[self.joint_ids].astype(int), model.jnt_dofadr[self.joint_ids].astype(int)
        self.shape_ids = np.array([model.geom(name).id for name in self.shape_names], int)
        self.root_ids = self.body_ids[self.body_start[:-1]] if len(self.kinds) else np.zeros(0, int)
        floating = np.array([kind.asset.floating for kind in self.kinds], bool)
        self.free, self.fixed = np.flatnonzero(floating), np.flatnonzero(~floating)
        joints = model.body_jntadr[self.root_ids[self.free]]
        self.free_qpos, self.free_dof = model.jnt_qposadr[joints].astype(int), model.jnt_dofadr[joints].astype(int)
        self.contact_ids = np.array([self._sensor(f"contact/{n}") for n in self.body_names] if self.needs.contacts else [], int)
        wrenches = range(len(self.sensors)) if self.needs.sensors else range(0)
        found = [[self._sensor(f"{what}/{k}") for what in ("wrench", "acceleration/LIN", "acceleration/ANG")] for k in wrenches]
        self.force_ids = np.array(found, int).reshape(-1, 3)

    def _sensor(self, name: str) -> int:
        return int(self.model.sensor(name).adr[0])
