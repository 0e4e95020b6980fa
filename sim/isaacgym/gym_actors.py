"""Calls about environments and actors: making them, finding their parts, setting properties, states and targets one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policies.spec import InputError
from sim.isaacgym.actors import Actor, Env
from sim.isaacgym.asset import Asset
from sim.isaacgym.constants import INVALID_HANDLE, IndexDomain
from sim.isaacgym.gym_assets import position, shape_ranges
from sim.isaacgym.parameters import ActuatorProperties, IndexRange, RigidBodyProperties, RigidShapeProperties
from sim.isaacgym.properties import body_properties, copied, with_scaled_inertia
from sim.isaacgym.structures import DOF_PROPERTIES, Transform, Vec3
from sim.isaacgym.world import Sim


def _before(env: Env, actor: int, part: str) -> int:
    """Return how many ``bodies``, ``dofs`` or ``shapes`` the actors before ``actor`` have."""
    return sum(len(getattr(other.asset, part)) for other in env.actors[:actor])


def _index(env: Env, actor: int, part: str, local: int, domain: int) -> int:
    """Return an actor's ``local`` index of a part in the numbering of ``domain``."""
    if domain == IndexDomain.DOMAIN_ACTOR or local == INVALID_HANDLE:
        return local
    inside = _before(env, actor, part) + local
    return inside if domain == IndexDomain.DOMAIN_ENV else env.index * _before(env, len(env.actors), part) + inside


def _chosen(env: Env, actor: int) -> Actor:
    if not 0 <= actor < len(env.actors):
        raise InputError(f"environment {env.index} has no actor {actor}; it has {len(env.actors)}")
    return env.actors[actor]


class ActorCalls:
    """``Gym`` calls that take an environment, and most an actor's handle in it."""

    def create_env(self, sim: Sim, lower: Vec3, upper: Vec3, num_per_row: int) -> Env:
        """Add an environment on a grid with cells of the size of the box from ``lower`` to ``upper`` (m)."""
        return sim.add_env(lower, upper, num_per_row)

    def create_actor(
        self,
        env: Env,
        asset: Asset,
        pose: Transform,
        name: str | None = None,
        group: int = -1,
        filter: int = -1,
        segmentationId: int = 0,
    ) -> int:
        """Add an actor; returns its handle. Actors of other groups and with a bit of ``filter`` in common do not collide."""
        placed = Transform(Vec3(*pose.p.array()), pose.r.normalize())
        return env.sim.add_actor(env, Actor(asset, placed, name or f"actor_{len(env.actors)}", group, filter))

    def begin_aggregate(self, env: Env, max_bodies: int, max_shapes: int, self_collisions: bool) -> bool:
        """Do nothing: aggregates only speed the other package up."""
        return True

    def end_aggregate(self, env: Env) -> bool:
        """Do nothing."""
        return True

    # Environments ------------------------------------------------------------------------------------------------

    def get_env(self, sim: Sim, index: int) -> Env:
        """Return an environment."""
        return sim.envs[index]

    def get_env_count(self, sim: Sim) -> int:
        """Return the number of environments."""
        return sim.num_envs

    def get_env_origin(self, env: Env) -> Vec3:
        """Return where the environment lies (m); tensors hold positions relative to it."""
        return Vec3(*env.origin.array())

    def get_env_rigid_body_count(self, env: Env) -> int:
        """Return the number of bodies in an environment."""
        return _before(env, len(env.actors), "bodies")

    def get_env_dof_count(self, env: Env) -> int:
        """Return the number of degrees of freedom in an environment."""
        return _before(env, len(env.actors), "dofs")

    def get_sim_actor_count(self, sim: Sim) -> int:
        """Return the number of actors in all environments."""
        return sum(len(env.actors) for env in sim.envs)

    def get_sim_rigid_body_count(self, sim: Sim) -> int:
        """Return the number of bodies in all environments."""
        return sum(self.get_env_rigid_body_count(env) for env in sim.envs)

    def get_sim_dof_count(self, sim: Sim) -> int:
        """Return the number of degrees of freedom in all environments."""
        return sum(self.get_env_dof_count(env) for env in sim.envs)

    def get_sim_force_sensor_count(self, sim: Sim) -> int:
        """Return the number of force sensors in all environments."""
        return sum(_before(env, len(env.actors), "sensors") for env in sim.envs)

    # Finding -----------------------------------------------------------------------------------------------------

    def get_actor_count(self, env: Env) -> int:
        """Return the number of actors of an environment."""
        return len(env.actors)

    def get_actor_handle(self, env: Env, index: int) -> int:
        """Return the handle of the actor that was made as number ``index``."""
        return index

    def get_actor_name(self, env: Env, actor: int) -> str:
        """Return the name of an actor."""
        return _chosen(env, actor).name

    def get_actor_asset(self, env: Env, actor: int) -> Asset:
        """Return what an actor is made from."""
        return _chosen(env, actor).asset

    def find_actor_handle(self, env: Env, name: str) -> int:
        """Return the handle of an actor, -1 if there is none of that name."""
        return position([actor.name for actor in env.actors], name)

    def get_actor_index(self, env: Env, actor: int, domain: int) -> int:
        """Return the index of an actor in its environment or among all."""
        return env.index * len(env.actors) + actor if domain == IndexDomain.DOMAIN_SIM else actor

    def find_actor_index(self, env: Env, name: str, domain: int) -> int:
        """Return the index of an actor, -1 if there is none of that name."""
        found = self.find_actor_handle(env, name)
        return found if found == INVALID_HANDLE else self.get_actor_index(env, found, domain)

    def get_actor_rigid_body_count(self, env: Env, actor: int) -> int:
        """Return the number of bodies of an actor."""
        return len(_chosen(env, actor).asset.bodies)

    def get_actor_rigid_body_names(self, env: Env, actor: int) -> list[str]:
        """Return the names of an actor's bodies."""
        return list(_chosen(env, actor).asset.bodies)

    def get_actor_rigid_body_dict(self, env: Env, actor: int) -> dict[str, int]:
        """Return name -> index of an actor's bodies."""
        return {name: k for k, name in enumerate(_chosen(env, actor).asset.bodies)}

    def get_actor_rigid_body_index(self, env: Env, actor: int, index: int, domain: int) -> int:
        """Return the index of an actor's body in a domain."""
        return _index(env, actor, "bodies", index, domain)

    def find_actor_rigid_body_index(self, env: Env, actor: int, name: str, domain: int) -> int:
        """Return the index of an actor's body in a domain, -1 if there is none of that name."""
        return _index(env, actor, "bodies", position(_chosen(env, actor).asset.bodies, name), domain)

    def find_actor_rigid_body_handle(self, env: Env, actor: int, name: str) -> int:
        """Return the handle of an actor's body: its index in the environment, -1 if there is none of that name."""
        return self.find_actor_rigid_body_index(env, actor, name, IndexDomain.DOMAIN_ENV)

    def get_actor_rigid_body_handle(self, env: Env, actor: int, index: int) -> int:
        """Return the handle of an actor's body: its index in the environment."""
        return _index(env, actor, "bodies", index, IndexDomain.DOMAIN_ENV)

    def get_actor_root_rigid_body_handle(self, env: Env, actor: int) -> int:
        """Return the handle of an actor's root."""
        return self.get_actor_rigid_body_handle(env, actor, 0)

    def get_actor_dof_count(self, env: Env, actor: int) -> int:
        """Return the number of an actor's degrees of freedom."""
        return len(_chosen(env, actor).asset.dofs)

    get_actor_joint_count = get_actor_dof_count

    def get_actor_dof_names(self, env: Env, actor: int) -> list[str]:
        """Return the names of an actor's degrees of freedom."""
        return list(_chosen(env, actor).asset.dofs)

    get_actor_joint_names = get_actor_dof_names

    def get_actor_dof_dict(self, env: Env, actor: int) -> dict[str, int]:
        """Return name -> index of an actor's degrees of freedom."""
        return {name: k for k, name in enumerate(_chosen(env, actor).asset.dofs)}

    get_actor_joint_dict = get_actor_dof_dict

    def get_actor_dof_index(self, env: Env, actor: int, index: int, domain: int) -> int:
        """Return the index of an actor's degree of freedom in a domain."""
        return _index(env, actor, "dofs", index, domain)

    def find_actor_dof_index(self, env: Env, actor: int, name: str, domain: int) -> int:
        """Return the index of an actor's degree of freedom in a domain, -1 if there is none of that name."""
        return _index(env, actor, "dofs", position(_chosen(env, actor).asset.dofs, name), domain)

    def find_actor_dof_handle(self, env: Env, actor: int, name: str) -> int:
        """Return the handle of an actor's degree of freedom: its index in the environment, -1 if there is none of that name."""
        return self.find_actor_dof_index(env, actor, name, IndexDomain.DOMAIN_ENV)

    def get_actor_dof_handle(self, env: Env, actor: int, index: int) -> int:
        """Return the handle of an actor's degree of freedom: its index in the environment."""
        return _index(env, actor, "dofs", index, IndexDomain.DOMAIN_ENV)

    get_actor_joint_handle = get_actor_dof_handle

    def get_actor_scale(self, env: Env, actor: int) -> float:
        """Return 1: actors are as large as their assets."""
        return 1.0

    def get_actor_rigid_shape_count(self, env: Env, actor: int) -> int:
        """Return the number of an actor's collision shapes."""
        return len(_chosen(env, actor).asset.shapes)

    def get_actor_rigid_body_shape_indices(self, env: Env, actor: int) -> list[IndexRange]:
        """Return which shapes every body of an actor has."""
        return shape_ranges(_chosen(env, actor).asset)

    def get_actor_actuator_count(self, env: Env, actor: int) -> int:
        """Return the number of actuators in an actor's file."""
        return len(_chosen(env, actor).asset.actuators)

    def get_actor_actuator_properties(self, env: Env, actor: int) -> list[ActuatorProperties]:
        """Return the actuators in an actor's file."""
        return list(_chosen(env, actor).asset.actuators)

    def get_actor_force_sensor_count(self, env: Env, actor: int) -> int:
        """Return the number of an actor's force sensors."""
        return len(_chosen(env, actor).asset.sensors)

    # Properties --------------------------------------------------------------------------------------------------

    def get_actor_dof_properties(self, env: Env, actor: int) -> np.ndarray:
        """Return (D,) records of an actor's degrees of freedom, as ``get_asset_dof_properties``."""
        chosen = _chosen(env, actor)
        return (chosen.asset.dof_properties if chosen.dofs is None else chosen.dofs).copy()

    def set_actor_dof_properties(self, env: Env, actor: int, props: np.ndarray) -> bool:
        """Set drives, limits, friction and armature of an actor's degrees of freedom to records ``props`` (D,)."""
        chosen = _chosen(env, actor)
        if getattr(props, "dtype", None) != DOF_PROPERTIES or props.shape != chosen.asset.dof_properties.shape:
            raise InputError(f"set_actor_dof_properties: expected {len(chosen.asset.dofs)} records as get_actor_dof_properties returns them")
        chosen.dofs = props.copy()
        if env.sim.made:
            layout = env.sim.layout
            env.sim.properties.dofs[env.index, layout.dof_start[actor] : layout.dof_start[actor + 1]] = props
            env.sim.properties_changed()
        return True

    def get_actor_rigid_body_properties(self, env: Env, actor: int) -> list[RigidBodyProperties]:
        """Return mass, centre of mass and inertia of an actor's bodies."""
        chosen = _chosen(env, actor)
        if env.sim.made:
            return env.sim.properties.get_bodies(env.index, int(env.sim.layout.body_start[actor]), len(chosen.asset.bodies))
        if chosen.bodies:
            return [copied(body) for body in chosen.bodies[-1][0]]
        return body_properties(chosen.asset)

    def set_actor_rigid_body_properties(
        self,
        env: Env,
        actor: int,
        props: list[RigidBodyProperties],
        recomputeInertia: bool = True,
    ) -> bool:
        """Set mass, centre of mass and inertia of an actor's bodies; ``recomputeInertia`` scales the inertia with the mass instead."""
        chosen = _chosen(env, actor)
        if len(props) != len(chosen.asset.bodies):
            raise InputError(f"set_actor_rigid_body_properties: {len(props)} given, {chosen.asset.name} has {len(chosen.asset.bodies)} bodies")
        copies = [copied(body) for body in props]
        if env.sim.made:
            env.sim.properties.set_bodies(env.index, int(env.sim.layout.body_start[actor]), copies, recomputeInertia)
            env.sim.properties_changed()
        else:
            scaled = with_scaled_inertia(copies, self.get_actor_rigid_body_properties(env, actor)) if recomputeInertia else copies
            chosen.bodies = [(scaled, False)]  # as they are read back
        return True

    def get_actor_rigid_shape_properties(self, env: Env, actor: int) -> list[RigidShapeProperties]:
        """Return the contact properties of an actor's shapes."""
        chosen = _chosen(env, actor)
        return [replace(shape) for shape in chosen.shapes]

    def set_actor_rigid_shape_properties(self, env: Env, actor: int, props: list[RigidShapeProperties]) -> bool:
        """Set the contact properties of an actor's shapes; their filters only before the worlds are made."""
        chosen = _chosen(env, actor)
        if len(props) != len(chosen.asset.shapes):
            raise InputError(f"set_actor_rigid_shape_properties: {len(props)} given, {chosen.asset.name} has {len(chosen.asset.shapes)} shapes")
        if env.sim.made and [p.filter for p in props] != [p.filter for p in chosen.shapes]:
            raise InputError("set_actor_rigid_shape_properties: filters cannot change once the worlds are made")
        chosen.shapes = [replace(shape) for shape in props]
        if env.sim.made:
            env.sim.properties.set_shapes(env.index, int(env.sim.layout.shape_start[actor]), chosen.shapes)
            env.sim.properties_changed()
        return True

    def enable_actor_dof_force_sensors(self, env: Env, actor: int) -> bool:
        """Do nothing: forces of degrees of freedom are always there."""
        return True

    def set_rigid_body_color(self, env: Env, actor: int, body: int, mesh: int, color: Vec3) -> None:
        """Do nothing: there is no window."""

    def set_rigid_body_segmentation_id(self, env: Env, actor: int, body: int, segmentation: int) -> None:
        """Do nothing: there are no cameras."""
