"""The tensor calls: live buffers over all environments, refreshed and set by array code."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from policies.spec import InputError, suggest
from sim.isaacgym import dynamics, states
from sim.isaacgym.constants import CoordinateSpace
from sim.isaacgym.tensor import Tensor, indices, values
from sim.isaacgym.world import Sim


def _by_actor(call: str, sim: Sim, tensor: Tensor, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (actor, worlds (K,)) for the actors of all environments that ``tensor`` names."""
    actors = len(sim.engine_layout().kinds)
    chosen = indices(call, tensor, count, sim.num_envs * actors)
    if actors == 1:
        yield 0, chosen
        return
    for actor in np.unique(chosen % actors):
        yield int(actor), chosen[chosen % actors == actor] // actors


def _all(sim: Sim) -> np.ndarray:
    return np.arange(sim.num_envs)


class TensorCalls:
    """``Gym`` calls that hand out, refresh and set tensors. What is set acts at once: the next ``simulate`` starts from it."""

    # Buffers -----------------------------------------------------------------------------------------------------

    def acquire_actor_root_state_tensor(self, sim: Sim) -> Tensor:
        """Return the (N A, 13) states of all roots: position, quaternion (x, y, z, w), linear and angular velocity."""
        return sim.buffer("root", (len(sim.engine_layout().kinds), 13), states.read_roots, flat=1)

    def acquire_dof_state_tensor(self, sim: Sim) -> Tensor:
        """Return (N D, 2): position and velocity of all degrees of freedom."""
        return sim.buffer("dof", (len(sim.engine_layout().dof_ids), 2), states.read_dofs, flat=1)

    def acquire_rigid_body_state_tensor(self, sim: Sim) -> Tensor:
        """Return the (N B, 13) states of all bodies, as of roots."""
        return sim.buffer("body", (len(sim.engine_layout().body_ids), 13), states.read_bodies, flat=1)

    def acquire_net_contact_force_tensor(self, sim: Sim) -> Tensor:
        """Return the (N B, 3) net contact forces on all bodies; from now on every step computes them."""
        sim.need(contacts=True)
        return sim.buffer("contact", (len(sim.engine_layout().body_ids), 3), states.read_contacts, flat=1)

    def acquire_dof_force_tensor(self, sim: Sim) -> Tensor:
        """Return the (N D,) forces and torques of all drives."""
        return sim.buffer("force", (len(sim.engine_layout().dof_ids),), states.read_dof_forces, flat=1)

    def acquire_force_sensor_tensor(self, sim: Sim) -> Tensor:
        """Return (N K, 6): force and torque of all force sensors; from now on every step computes them."""
        sim.need(sensors=True)
        return sim.buffer("sensor", (len(sim.engine_layout().sensors), 6), states.read_force_sensors, flat=1)

    def acquire_jacobian_tensor(self, sim: Sim, name: str) -> Tensor:
        """Return the Jacobians (N, links, 6, columns) of the actor called ``name``."""
        actor = self._named(sim, name, "acquire_jacobian_tensor")
        return sim.buffer(f"jacobian/{actor}", dynamics.jacobian_shape(sim, actor)[1:], lambda s, out: dynamics.read_jacobian(s, actor, out))

    def acquire_mass_matrix_tensor(self, sim: Sim, name: str) -> Tensor:
        """Return the mass matrices (N, D, D) of the actor called ``name``."""
        actor = self._named(sim, name, "acquire_mass_matrix_tensor")
        dofs = len(sim.layout.kinds[actor].asset.dofs)
        return sim.buffer(f"mass/{actor}", (dofs, dofs), lambda s, out: dynamics.read_mass_matrix(s, actor, out))

    @staticmethod
    def _named(sim: Sim, name: str, call: str) -> int:
        names = [kind.name for kind in sim.engine_layout().kinds]
        if name not in names:
            raise InputError(f"{call}: environments have no actor {name!r}{suggest(name, names)}")
        return names.index(name)

    def refresh_actor_root_state_tensor(self, sim: Sim) -> bool:
        """Write the present root states into their buffer."""
        return sim.refresh("root")

    def refresh_dof_state_tensor(self, sim: Sim) -> bool:
        """Write the present states of the degrees of freedom into their buffer."""
        return sim.refresh("dof")

    def refresh_rigid_body_state_tensor(self, sim: Sim) -> bool:
        """Write the present body states into their buffer."""
        return sim.refresh("body")

    def refresh_net_contact_force_tensor(self, sim: Sim) -> bool:
        """Write the contact forces of the last physics step into their buffer."""
        return sim.refresh("contact")

    def refresh_dof_force_tensor(self, sim: Sim) -> bool:
        """Write the drives' forces of the last physics step into their buffer."""
        return sim.refresh("force")

    def refresh_force_sensor_tensor(self, sim: Sim) -> bool:
        """Write the force sensors' readings of the last physics step into their buffer."""
        return sim.refresh("sensor")

    def refresh_jacobian_tensors(self, sim: Sim) -> bool:
        """Write the present Jacobians into their buffers."""
        return sim.refresh("jacobian/")

    def refresh_mass_matrix_tensors(self, sim: Sim) -> bool:
        """Write the present mass matrices into their buffers."""
        return sim.refresh("mass/")

    # States ------------------------------------------------------------------------------------------------------

    def set_actor_root_state_tensor(self, sim: Sim, state: Tensor) -> bool:
        """Set all roots to ``state`` (N A, 13)."""
        actors = len(sim.engine_layout().kinds)
        given = values("set_actor_root_state_tensor", state, 13, sim.num_envs * actors).reshape(-1, actors, 13)
        for actor in range(actors):
            states.write_roots(sim, given[:, actor], actor, _all(sim))
        return True

    def set_actor_root_state_tensor_indexed(self, sim: Sim, state: Tensor, actors: Tensor, count: int) -> bool:
        """Set the roots of the ``count`` actors that ``actors`` (int32) names to their rows of ``state`` (N A, 13)."""
        call, kinds = "set_actor_root_state_tensor_indexed", len(sim.engine_layout().kinds)
        given = values(call, state, 13, sim.num_envs * kinds).reshape(-1, kinds, 13)
        for actor, rows in _by_actor(call, sim, actors, count):
            states.write_roots(sim, given[rows, actor], actor, rows)
        return True

    def set_dof_state_tensor(self, sim: Sim, state: Tensor) -> bool:
        """Set all degrees of freedom to ``state`` (N D, 2)."""
        dofs = len(sim.engine_layout().dof_ids)
        given = values("set_dof_state_tensor", state, 2, sim.num_envs * dofs).reshape(-1, dofs, 2)
        states.write_dofs(sim, given, slice(0, dofs), _all(sim))
        return True

    def set_dof_state_tensor_indexed(self, sim: Sim, state: Tensor, actors: Tensor, count: int) -> bool:
        """Set the degrees of freedom of the ``count`` actors that ``actors`` (int32) names to their rows of ``state`` (N D, 2)."""
        call, dofs = "set_dof_state_tensor_indexed", len(sim.engine_layout().dof_ids)
        given = values(call, state, 2, sim.num_envs * dofs).reshape(-1, dofs, 2)
        for actor, rows in _by_actor(call, sim, actors, count):
            chosen = sim.dofs_of(actor)
            states.write_dofs(sim, given[rows, chosen], chosen, rows)
        return True

    # Drives ------------------------------------------------------------------------------------------------------

    def _set_drive(self, call: str, sim: Sim, which: str, given: Tensor, actors: Tensor | None = None, count: int = 0) -> bool:
        shape = (sim.num_envs, len(sim.engine_layout().dof_ids))
        wanted = values(call, given, 1, shape[0] * shape[1]).reshape(shape)
        target: np.ndarray = getattr(sim, which)
        if actors is None:
            target[:] = wanted
            return True
        for actor, rows in _by_actor(call, sim, actors, count):
            chosen = sim.dofs_of(actor)
            target[rows, chosen] = wanted[rows, chosen]
        return True

    def set_dof_position_target_tensor(self, sim: Sim, targets: Tensor) -> bool:
        """Set what all position drives aim at, (N D,), rad or m, until it is set anew."""
        return self._set_drive("set_dof_position_target_tensor", sim, "position_targets", targets)

    def set_dof_position_target_tensor_indexed(self, sim: Sim, targets: Tensor, actors: Tensor, count: int) -> bool:
        """Set what the position drives of some actors aim at, from their rows of (N D,)."""
        return self._set_drive("set_dof_position_target_tensor_indexed", sim, "position_targets", targets, actors, count)

    def set_dof_velocity_target_tensor(self, sim: Sim, targets: Tensor) -> bool:
        """Set what all velocity drives aim at, (N D,), rad/s or m/s, until it is set anew."""
        return self._set_drive("set_dof_velocity_target_tensor", sim, "velocity_targets", targets)

    def set_dof_velocity_target_tensor_indexed(self, sim: Sim, targets: Tensor, actors: Tensor, count: int) -> bool:
        """Set what the velocity drives of some actors aim at, from their rows of (N D,)."""
        return self._set_drive("set_dof_velocity_target_tensor_indexed", sim, "velocity_targets", targets, actors, count)

    def set_dof_actuation_force_tensor(self, sim: Sim, forces: Tensor) -> bool:
        """Push all degrees of freedom with (N D,), N or N m, until it is set anew."""
        return self._set_drive("set_dof_actuation_force_tensor", sim, "efforts", forces)

    def set_dof_actuation_force_tensor_indexed(self, sim: Sim, forces: Tensor, actors: Tensor, count: int) -> bool:
        """Push the degrees of freedom of some actors, from their rows of (N D,)."""
        return self._set_drive("set_dof_actuation_force_tensor_indexed", sim, "efforts", forces, actors, count)

    # Pushes ------------------------------------------------------------------------------------------------------

    def apply_rigid_body_force_tensors(
        self,
        sim: Sim,
        forceTensor: Tensor | None = None,
        torqueTensor: Tensor | None = None,
        space: int = CoordinateSpace.ENV_SPACE,
    ) -> bool:
        """Push all bodies at their centres of mass in the next ``simulate``: forces and torques (N B, 3), N and N m."""
        call = "apply_rigid_body_force_tensors"
        force, torque = (self._pushes(call, sim, given, space) for given in (forceTensor, torqueTensor))
        self._push(sim, force, torque)
        return True

    def apply_rigid_body_force_at_pos_tensors(
        self,
        sim: Sim,
        forceTensor: Tensor,
        posTensor: Tensor | None = None,
        space: int = CoordinateSpace.ENV_SPACE,
    ) -> bool:
        """Push all bodies with forces (N B, 3) at points (N B, 3) of the same space in the next ``simulate``."""
        call = "apply_rigid_body_force_at_pos_tensors"
        force = self._pushes(call, sim, forceTensor, space)
        if posTensor is None or force is None:
            self._push(sim, force, None)
            return True
        xquat, xpos, xipos = sim.derived("xquat", "xpos", "xipos")
        ids = sim.layout.body_ids
        points = values(call, posTensor, 3, sim.num_envs * len(ids)).reshape(-1, len(ids), 3)
        if space == CoordinateSpace.LOCAL_SPACE:
            points = states.rotate(xquat[:, ids], points) + xpos[:, ids]
        elif space == CoordinateSpace.ENV_SPACE:
            points = points + sim.shift[:, None]
        elif not sim.terrain.grids:
            points = points - np.stack([env.origin.array() for env in sim.envs])[:, None]
        self._push(sim, force, states.cross(points - xipos[:, ids], force))
        return True

    @staticmethod
    def _pushes(call: str, sim: Sim, given: Tensor | None, space: int) -> np.ndarray | None:
        """Return what was given in the world's axes, (N, B, 3)."""
        if given is None:
            return None
        bodies = len(sim.engine_layout().body_ids)
        wanted = values(call, given, 3, sim.num_envs * bodies).reshape(-1, bodies, 3)
        if space == CoordinateSpace.LOCAL_SPACE:
            (xquat,) = sim.derived("xquat")
            return states.rotate(xquat[:, sim.layout.body_ids], wanted)
        return wanted

    @staticmethod
    def _push(sim: Sim, force: np.ndarray | None, torque: np.ndarray | None) -> None:
        pushes = sim.push()
        for part, given in ((slice(0, 3), force), (slice(3, 6), torque)):
            if given is not None:
                pushes[:, sim.layout.body_ids, part] += given
