"""The Bullet engine: another physics of the same robot, to see whether what was learnt holds in another engine.

Bodies, joints, joint limits, joint friction, contacts and their integration are Bullet's. What acts on joints from inside (actuators,
springs, damping, gravity compensation) is worked out by MuJoCo's equations on the state that Bullet produced and applied as joint
forces; so are damping and velocity feedback taken implicitly, and the inertia of rotors (``armature``), which Bullet does not know:

    force = (M - A) a + bias,    a = what MuJoCo's integrator would make of the same state without contacts,

where A is the armature; what of it and of damping a contact meets is in ``sim/bullet_rotors.py``. Without both this is the force
itself. Derived positions and sensors are MuJoCo's kinematics of Bullet's state.

Limits. Where contacts of joints with rotors far above their links begin or end, a tick is tried several times and may stay a little
off (a running cheetah with 100 times the inertia of its feet: one tick in five). A world takes about 40 MB and 50 ms to make, and a few
Python calls a tick for every tree: many times slower than ``mujoco``.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import copy
import importlib.metadata
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from sim import render
from sim.bullet_model import friction_factors, translate
from sim.bullet_rotors import rotor_inertia, settle
from sim.bullet_world import MOST_WORLDS, BulletWorld, carried, geom_pose, standing_poses

_STATE = ("time", "qpos", "qvel", "act", "ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos", "mocap_quat", "userdata")
_DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat"),
    *("light_xpos", "light_xdir", "subtree_com", "cinert", "ten_length", "ten_velocity", "actuator_length", "actuator_velocity", "cvel"),
    *("actuator_force", "act_dot", "qfrc_actuator", "qfrc_passive", "qfrc_gravcomp", "qfrc_spring", "qfrc_damper", "qfrc_bias", "sensordata"),
)
#: What can differ between worlds: what Bullet takes, and what MuJoCo's share of the forces and the pictures are made of.
_VARIES = (
    *("body_mass", "body_inertia", "geom_friction", "dof_frictionloss", "opt.gravity"),
    *("dof_damping", "dof_armature", "jnt_stiffness", "qpos_spring", "body_gravcomp", "actuator_gainprm", "actuator_biasprm", "actuator_dynprm"),
    *("actuator_gear", "actuator_ctrlrange", "actuator_forcerange", "site_pos", "site_quat", "cam_pos", "cam_quat", "cam_fovy"),
    *("light_pos", "light_dir", "light_diffuse", "light_ambient", "light_specular", "geom_rgba", "mat_rgba"),
)


class BulletEngine:
    """N worlds on ``pybullet``, one client each; see :class:`sim.engine.Engine`.

    Args:
        model: ``mujoco.MjModel``.
        num_worlds: N.
        threads: Of MuJoCo's share; Bullet's worlds run one after another.

    Raises:
        InputError: naming what of the model Bullet cannot do.
    """

    name = "bullet"

    def __init__(self, model: Any, num_worlds: int, threads: int = 1) -> None:
        render.configure()
        import mujoco
        import mujoco.batch

        if num_worlds > MOST_WORLDS:  # before the first thousand are made, which takes minutes
            raise InputError(f"engine 'bullet' has room for {MOST_WORLDS} worlds, found {num_worlds}; use engine=mujoco")
        self._mj: Any = mujoco
        self.version = f"pybullet {importlib.metadata.version('pybullet')}, mujoco {mujoco.__version__}"
        self.model, self.num_worlds, self.threads = model, num_worlds, threads
        self._translation = translate(model)
        shadow = copy.copy(model)
        shadow.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT | mujoco.mjtDisableBit.mjDSBL_CONTACT)
        if shadow.opt.integrator == int(mujoco.mjtIntegrator.mjINT_RK4):
            shadow.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        self._shadow: Any = mujoco.batch.Batch(shadow, num_worlds, nthread=threads, persistent=True)
        self._state = self._shadow.state
        self._qpos, self._qvel, self._mocap_pos, self._mocap_quat = (self._shadow.bind(field) for field in ("qpos", "qvel", "mocap_pos", "mocap_quat"))
        self._mass, self._bias, self._smooth = (self._shadow.bind(field) for field in ("M", "qfrc_bias", "qfrc_smooth"))
        self._lower, self._diagonal, self._driven = _layout(model)
        self._reaction = np.zeros((num_worlds, model.nv))  # generalized force of the last tick's constraints
        self._rotors = np.zeros((num_worlds, model.nv))
        self._put = np.full((num_worlds, model.nq + model.nv), np.nan)  # what Bullet has, NaN: to be put
        self._carried = carried(model, self._translation)
        self._carried_at = np.full((num_worlds, 7 * model.nmocap), np.nan)
        self._expanded: dict[str, np.ndarray] = {}
        self._scene: tuple[Any, Any] | None = None
        standing = standing_poses(model, self._translation)
        self._worlds = [BulletWorld(model, self._translation, standing) for _ in range(num_worlds)]
        self._set_dynamics(np.arange(num_worlds))

    # Arrays ------------------------------------------------------------------------------------------------------

    def bind(self, field: str) -> np.ndarray:
        """Return the live (N, ...) array of an ``MjData`` field. Raises InputError for one that Bullet and kinematics do not give."""
        if field not in (*_STATE, *_DERIVED):
            raise InputError(f"engine 'bullet' computes no field {field!r}{suggest(field, (*_STATE, *_DERIVED))}")
        if field == "sensordata":
            late = np.flatnonzero(self.model.sensor_needstage == int(self._mj.mjtStage.mjSTAGE_ACC))
            if late.size:
                name = self.model.sensor(int(late[0])).name or int(late[0])
                raise InputError(f"engine 'bullet' has no sensors of forces and accelerations: sensor {name!r}; use engine=mujoco")
        return self._shadow.bind(field)

    def expand(self, field: str) -> np.ndarray:
        """Return the live (N, ...) values of a model field, taken over by :meth:`refresh`. Raises InputError for one that is shared by all worlds."""
        if field not in _VARIES:
            raise InputError(f"engine 'bullet' has one value of model field {field!r} for all worlds{suggest(field, _VARIES)}")
        if field not in self._expanded:
            self._expanded[field] = self._shadow.expand(field)
        return self._expanded[field]

    def refresh(self, rows: np.ndarray | None = None) -> None:
        """Derive constants of worlds ``rows`` (K,) from their fields and hand masses and friction to Bullet."""
        if self._expanded:
            self._shadow.set_const(rows)
            self._set_dynamics(np.arange(self.num_worlds) if rows is None else rows)

    def _set_dynamics(self, rows: np.ndarray) -> None:
        def each(name: str, value: np.ndarray) -> np.ndarray:
            return self._expanded.get(name, np.broadcast_to(value, (self.num_worlds, *value.shape)))

        model, flags, off = self.model, self._mj.mjtDisableBit, self.model.opt.disableflags
        mass, inertia, friction, loss = (each(name, getattr(model, name)) for name in ("body_mass", "body_inertia", "geom_friction", "dof_frictionloss"))
        pull = each("opt.gravity", model.opt.gravity)
        joints = (each(name, getattr(model, name))[rows] for name in ("dof_armature", "dof_damping", "actuator_biasprm", "actuator_gear"))
        self._rotors[rows] = rotor_inertia(model, *joints)
        rubs = 0.0 if off & int(flags.mjDSBL_FRICTIONLOSS | flags.mjDSBL_CONSTRAINT) else 1.0
        falls = 0.0 if off & int(flags.mjDSBL_GRAVITY) else 1.0
        shared = None if "geom_friction" in self._expanded else friction_factors(model, self._translation, model.geom_friction)
        for row in rows:
            factors = friction_factors(model, self._translation, friction[row]) if shared is None else shared
            self._worlds[row].set_dynamics(mass[row], inertia[row], factors, rubs * loss[row], falls * pull[row])

    # Physics -----------------------------------------------------------------------------------------------------

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Put worlds ``rows`` (K,) into the initial state without computing what follows from it."""
        self._shadow.reset(rows, stage=self._mj.mjtStage.mjSTAGE_NONE.value)
        picked = slice(None) if rows is None else rows
        self._put[picked], self._reaction[picked] = np.nan, 0.0

    def forward(self, rows: np.ndarray | None = None) -> None:
        """Compute what follows from the state of worlds ``rows`` (K,)."""
        self._shadow.forward(rows)

    def step(self, rows: np.ndarray | None = None, ticks: int = 1, fresh: bool = True) -> None:
        """Advance worlds ``rows`` (K,) by ``ticks`` physics steps; see :meth:`sim.engine.Engine.step`."""
        chosen = np.arange(self.num_worlds) if rows is None else np.asarray(rows)
        if not chosen.size:
            return
        self._hand_over(chosen)
        for _ in range(ticks):
            self._tick(chosen)
        self._put[chosen] = np.concatenate([self._qpos[chosen], self._qvel[chosen]], axis=1)
        if fresh:
            self._shadow.forward(rows, self._mj.mjtStage.mjSTAGE_VEL.value)

    def _hand_over(self, rows: np.ndarray) -> None:
        """Tell Bullet what has been written into the state since its last tick."""
        state = np.concatenate([self._qpos[rows], self._qvel[rows]], axis=1)
        for row in rows[(state != self._put[rows]).any(axis=1)]:
            self._worlds[row].put(self._qpos[row], self._qvel[row])
        if not self._carried:
            return
        poses = np.concatenate([self._mocap_pos, self._mocap_quat], axis=2).reshape(self.num_worlds, -1)
        moved = rows[(poses[rows] != self._carried_at[rows]).any(axis=1)]
        if moved.size:
            self._carried_at[moved] = poses[moved]
            xpos, xquat = self._shadow.bind("xpos"), self._shadow.bind("xquat")
            self._shadow.forward(moved, self._mj.mjtStage.mjSTAGE_POS.value)
            for row in moved:
                for shape in self._carried:
                    self._worlds[row].place(shape, *geom_pose(self.model, self._translation.shapes[shape][0], xpos[row], xquat[row]))

    def _tick(self, rows: np.ndarray) -> None:
        before, qpos, timestep = self._qvel[rows], self._qpos[rows], float(self.model.opt.timestep)
        self._shadow.step(rows, 1, self._mj.mjtStage.mjSTAGE_NONE.value)
        inertia, bias = self._inertia(rows), self._bias[rows]
        implied = np.einsum("kij,kj->ki", inertia, (self._qvel[rows] - before) / timestep) + bias
        force = np.where(self._driven, implied, self._smooth[rows] + bias)
        begun, qvel, worlds = qpos.copy(), before.copy(), [self._worlds[row] for row in rows]

        def tick(some: np.ndarray, sent: np.ndarray) -> np.ndarray:
            for k, own in zip(some.tolist(), sent, strict=True):
                worlds[k].step(own, qpos[k], qvel[k])
            return qvel[some]

        def again(some: np.ndarray) -> None:
            qpos[some], qvel[some] = begun[some], before[some]
            for k in some.tolist():
                worlds[k].take_back(qpos[k], qvel[k])

        self._reaction[rows] = settle(tick, again, inertia, self._rotors[rows], force, bias, before, self._reaction[rows], timestep)
        self._qpos[rows], self._qvel[rows] = qpos, qvel

    def _inertia(self, rows: np.ndarray) -> np.ndarray:
        """Return (K, nv, nv) joint-space inertias without armature."""
        nv, (row, column) = self.model.nv, self._lower
        out = np.zeros((len(rows), nv, nv))
        out[:, row, column] = self._mass[rows]
        out[:, column, row] = self._mass[rows]
        armature = self._expanded["dof_armature"][rows] if "dof_armature" in self._expanded else self.model.dof_armature
        out[:, self._diagonal, self._diagonal] -= armature
        return out

    def save(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the state (K, S) of worlds ``rows``; Bullet's memory of contacts, which is no part of it, is dropped in these worlds."""
        picked = slice(None) if rows is None else rows
        self._put[picked] = np.nan
        return np.concatenate([self._state[picked], self._reaction[picked]], axis=1)

    def load(self, state: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put ``state`` (K, S) into worlds ``rows`` (K,)."""
        picked = slice(None) if rows is None else rows
        width = self._state.shape[1]
        self._state[picked], self._reaction[picked], self._put[picked] = state[:, :width], state[:, width:], np.nan

    def scene(self, row: int) -> tuple[Any, Any]:
        """Return (model, data) of world ``row``, kinematics computed; valid until the next call."""
        if self._scene is None:
            self._scene = self._shadow.get_model(row), self._mj.MjData(self.model)
        model, data = self._scene
        if self._expanded:
            self._shadow.get_model(row, model)
        self._shadow.get_data(row, data)
        self._mj.mj_forward(model, data)
        return model, data

    def close(self) -> None:
        """End all worlds; may be called twice."""
        for world in self._worlds:
            world.close()
        self._worlds, self._shadow, self._scene, self._expanded = [], None, None, {}


def _layout(model: Any) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Return rows and columns of ``MjData.M``'s entries, the indices of a diagonal, and which dofs (nv,) are not a free body's."""
    import mujoco

    row, column = np.repeat(np.arange(model.nv), model.M_rownnz), np.asarray(model.M_colind, np.int64)
    driven = model.jnt_type[model.dof_jntid] != int(mujoco.mjtJoint.mjJNT_FREE) if model.nv else np.zeros(0, bool)
    return (row, column), np.arange(model.nv), np.asarray(driven)
