"""Calls that read or set the state, the targets and the forces of one actor or body at a time: for set-up, not for every step."""

from __future__ import annotations

import numpy as np

from policies.spec import InputError
from sim.isaacgym import states
from sim.isaacgym.actors import Env
from sim.isaacgym.constants import CoordinateSpace, StateFlags
from sim.isaacgym.structures import DofState, Quat, RigidBodyState, Transform, Vec3


def _body(env: Env, body: int) -> np.ndarray:
    """Return the state (13,) of a body by its handle."""
    return _bodies(env)[body]


def _bodies(env: Env) -> np.ndarray:
    sim = env.sim
    out = np.zeros((sim.num_envs, len(sim.engine_layout().body_ids), 13), np.float32)
    states.read_bodies(sim, out)
    return out[env.index]


class StateCalls:
    """``Gym`` calls about the state of one actor. They make the worlds if these are not made yet."""

    def get_actor_dof_states(self, env: Env, actor: int, flags: int) -> np.ndarray:
        """Return (D,) records of ``pos`` and ``vel``."""
        sim, chosen = env.sim, env.sim.dofs_of(actor)
        out = np.zeros(chosen.stop - chosen.start, DofState.dtype)
        out["pos"], out["vel"] = sim.qpos[env.index, sim.layout.qpos_ids[chosen]], sim.qvel[env.index, sim.layout.dof_ids[chosen]]
        return out

    def set_actor_dof_states(self, env: Env, actor: int, state: np.ndarray, flags: int) -> bool:
        """Set ``pos``, ``vel`` or both (``flags``) of an actor to records ``state`` (D,)."""
        present = self.get_actor_dof_states(env, actor, StateFlags.STATE_ALL)
        if state.shape != present.shape:
            raise InputError(f"set_actor_dof_states: expected {len(present)} records, found shape {state.shape}")
        for name, flag in (("pos", StateFlags.STATE_POS), ("vel", StateFlags.STATE_VEL)):
            if flags & flag:
                present[name] = state[name]
        both = np.stack([present["pos"], present["vel"]], axis=-1)[None]
        states.write_dofs(env.sim, both, env.sim.dofs_of(actor), np.array([env.index]))
        return True

    def get_actor_dof_position_targets(self, env: Env, actor: int) -> np.ndarray:
        """Return (D,) what the position drives of an actor aim at."""
        chosen = env.sim.dofs_of(actor)
        return env.sim.position_targets[env.index, chosen].astype(np.float32)

    def get_actor_dof_velocity_targets(self, env: Env, actor: int) -> np.ndarray:
        """Return (D,) what the velocity drives of an actor aim at."""
        chosen = env.sim.dofs_of(actor)
        return env.sim.velocity_targets[env.index, chosen].astype(np.float32)

    def get_dof_position(self, env: Env, dof: int) -> float:
        """Return the position of a degree of freedom by its handle."""
        layout = env.sim.engine_layout()
        return float(env.sim.qpos[env.index, layout.qpos_ids[dof]])

    def get_dof_velocity(self, env: Env, dof: int) -> float:
        """Return the velocity of a degree of freedom by its handle."""
        layout = env.sim.engine_layout()
        return float(env.sim.qvel[env.index, layout.dof_ids[dof]])

    def set_dof_target_position(self, env: Env, dof: int, target: float) -> None:
        """Set what the position drive of a degree of freedom, by its handle, aims at."""
        env.sim.engine_layout()
        env.sim.position_targets[env.index, dof] = target

    def set_dof_target_velocity(self, env: Env, dof: int, target: float) -> None:
        """Set what the velocity drive of a degree of freedom, by its handle, aims at."""
        env.sim.engine_layout()
        env.sim.velocity_targets[env.index, dof] = target

    def apply_dof_effort(self, env: Env, dof: int, effort: float) -> None:
        """Push a degree of freedom, by its handle, until it is set anew."""
        env.sim.engine_layout()
        env.sim.efforts[env.index, dof] = effort

    def get_actor_rigid_body_states(self, env: Env, actor: int, flags: int) -> np.ndarray:
        """Return (B,) records of ``pose`` and ``vel`` of an actor's bodies."""
        start = env.sim.engine_layout().body_start
        return _bodies(env)[start[actor] : start[actor + 1]].copy().view(RigidBodyState.dtype)[:, 0]

    def get_env_rigid_body_states(self, env: Env, flags: int) -> np.ndarray:
        """Return (B,) records of ``pose`` and ``vel`` of an environment's bodies."""
        return _bodies(env).copy().view(RigidBodyState.dtype)[:, 0]

    def get_rigid_transform(self, env: Env, body: int) -> Transform:
        """Return the pose of a body by its handle."""
        state = _body(env, body)
        return Transform(Vec3(*state[:3]), Quat(*state[3:7]))

    def get_rigid_linear_velocity(self, env: Env, body: int) -> Vec3:
        """Return the velocity (m/s) of a body's centre of mass."""
        return Vec3(*_body(env, body)[7:10])

    def get_rigid_angular_velocity(self, env: Env, body: int) -> Vec3:
        """Return the angular velocity (rad/s) of a body."""
        return Vec3(*_body(env, body)[10:])

    def set_actor_dof_position_targets(self, env: Env, actor: int, targets: np.ndarray) -> bool:
        """Set what the position drives of an actor aim at: ``targets`` (D,)."""
        chosen = env.sim.dofs_of(actor)
        env.sim.position_targets[env.index, chosen] = targets
        return True

    def set_actor_dof_velocity_targets(self, env: Env, actor: int, targets: np.ndarray) -> bool:
        """Set what the velocity drives of an actor aim at: ``targets`` (D,)."""
        chosen = env.sim.dofs_of(actor)
        env.sim.velocity_targets[env.index, chosen] = targets
        return True

    def apply_actor_dof_efforts(self, env: Env, actor: int, efforts: np.ndarray) -> bool:
        """Push an actor's degrees of freedom with ``efforts`` (D,), N or N m, until they are set anew."""
        chosen = env.sim.dofs_of(actor)
        env.sim.efforts[env.index, chosen] = efforts
        return True

    def get_actor_dof_forces(self, env: Env, actor: int) -> np.ndarray:
        """Return (D,) what the drives of an actor pushed with in the last physics step."""
        sim, chosen = env.sim, env.sim.dofs_of(actor)
        out = np.zeros((sim.num_envs, len(sim.layout.dof_ids)), np.float32)
        states.read_dof_forces(sim, out)
        return out[env.index, chosen]

    def apply_body_forces(self, env: Env, body: int, force: Vec3 | None = None, torque: Vec3 | None = None, space: int = CoordinateSpace.ENV_SPACE) -> None:
        """Push a body, by its handle, at its centre of mass for the next step."""
        sim = env.sim
        wrench = np.array([(force or Vec3()).array(), (torque or Vec3()).array()])
        if space == CoordinateSpace.LOCAL_SPACE:
            (xquat,) = sim.derived("xquat")
            wrench = states.rotate(np.tile(xquat[env.index, sim.layout.body_ids[body]], (2, 1)), wrench)
        layout = sim.engine_layout()
        sim.push()[env.index, layout.body_ids[body]] += wrench.ravel()
