"""From the worlds' arrays to the interface's states and back: array code over all environments.

Positions are in the environment's frame, quaternions (x, y, z, w). Linear velocities are those of the centre of mass, as PhysX
has them, angular velocities are in the environment's axes (the world's). MuJoCo's free joint differs in all of it: its
quaternion starts with w, its linear velocity is of the body's origin, its angular velocity in the body's axes.
"""

from __future__ import annotations

import numpy as np

from sim.isaacgym.world import Sim


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the vector product (..., 3); ``np.cross`` costs several times as much."""
    return np.stack(
        [a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1], a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2], a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]],
        axis=-1,
    )


def rotate(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return ``vector`` (..., 3) rotated by ``quat`` (..., 4), w first."""
    axis = quat[..., 1:]
    twice = 2.0 * cross(axis, vector)
    return vector + quat[..., :1] * twice + cross(axis, twice)


def _conjugate(quat: np.ndarray) -> np.ndarray:
    return quat * np.array([1.0, -1.0, -1.0, -1.0])


def _root_centres(sim: Sim) -> np.ndarray:
    """Return the centres of mass of the free roots in their frames, (1 or N, F, 3)."""
    return sim.body_centres()[:, sim.layout.body_start[sim.layout.free]]


def read_roots(sim: Sim, out: np.ndarray) -> None:
    """Write the states of all actors' roots into ``out`` (N, A, 13)."""
    sim.write_properties()  # where a centre of mass is decides what its velocity is
    layout = sim.layout
    if layout.free.size:
        pose = sim.qpos[:, layout.free_qpos[:, None] + np.arange(7)]  # (N, F, 7)
        velocity = sim.qvel[:, layout.free_dof[:, None] + np.arange(6)]
        quat = pose[..., 3:]
        turning = rotate(quat, velocity[..., 3:])
        linear = velocity[..., :3] + cross(turning, rotate(quat, _root_centres(sim)))
        out[:, layout.free] = np.concatenate([pose[..., :3] - sim.shift[:, None], quat[..., 1:], quat[..., :1], linear, turning], axis=-1)
    if layout.fixed.size:
        bodies = layout.root_ids[layout.fixed]
        place, turn = (sim.written_or_model(name)[:, bodies] for name in ("body_pos", "body_quat"))
        out[:, layout.fixed] = 0.0
        out[:, layout.fixed, :3] = place - sim.shift[:, None]
        out[:, layout.fixed, 3:6], out[:, layout.fixed, 6] = turn[..., 1:], turn[..., 0]


def write_roots(sim: Sim, states: np.ndarray, actor: int, rows: np.ndarray) -> None:
    """Set the root of ``actor`` in worlds ``rows`` (K,) to ``states`` (K, 13)."""
    sim.write_properties()
    layout = sim.layout
    pose = np.concatenate([states[:, :3] + sim.shift[rows], states[:, 6:7], states[:, 3:6]], axis=1)
    norm = np.linalg.norm(pose[:, 3:], axis=1, keepdims=True)
    pose[:, 3:] = np.where(norm > 0, pose[:, 3:] / np.where(norm > 0, norm, 1.0), [1.0, 0.0, 0.0, 0.0])
    slot = np.flatnonzero(layout.free == actor)
    if not slot.size:
        sim.move_fixed(rows, np.array([actor]), pose[:, None])
    else:
        start, quat = layout.free_qpos[slot[0]], pose[:, 3:]
        centres = _root_centres(sim)[:, slot[0]]
        centre = rotate(quat, centres if len(centres) == 1 else centres[rows])
        sim.qpos[rows, start : start + 7] = pose
        start = layout.free_dof[slot[0]]
        sim.qvel[rows, start : start + 3] = states[:, 7:10] - cross(states[:, 10:], centre)
        sim.qvel[rows, start + 3 : start + 6] = rotate(_conjugate(quat), states[:, 10:])
    sim.touch(rows)


def read_dofs(sim: Sim, out: np.ndarray) -> None:
    """Write positions and velocities of all degrees of freedom into ``out`` (N, D, 2)."""
    out[:, :, 0] = sim.qpos[:, sim.layout.qpos_ids]
    out[:, :, 1] = sim.qvel[:, sim.layout.dof_ids]


def write_dofs(sim: Sim, states: np.ndarray, dofs: slice, rows: np.ndarray) -> None:
    """Set degrees of freedom ``dofs`` of worlds ``rows`` (K,) to ``states`` (K, d, 2)."""
    layout = sim.layout
    sim.qpos[rows[:, None], layout.qpos_ids[dofs]] = states[..., 0]
    sim.qvel[rows[:, None], layout.dof_ids[dofs]] = states[..., 1]
    sim.touch(rows)


def read_bodies(sim: Sim, out: np.ndarray) -> None:
    """Write the states of all bodies into ``out`` (N, B, 13)."""
    xpos, xquat, xipos, cvel, subtree = sim.derived("xpos", "xquat", "xipos", "cvel", "subtree_com")
    layout = sim.layout
    ids = layout.body_ids
    quat, velocity = xquat[:, ids], cvel[:, ids]
    arm = xipos[:, ids] - subtree[:, layout.model.body_rootid[ids]]
    out[..., :3] = xpos[:, ids]
    if sim.terrain.grids:
        out[..., :3] = xpos[:, ids] - sim.shift[:, None]
    out[..., 3:6], out[..., 6] = quat[..., 1:], quat[..., 0]
    out[..., 7:10] = velocity[..., 3:] + cross(velocity[..., :3], arm)
    out[..., 10:] = velocity[..., :3]


def read_contacts(sim: Sim, out: np.ndarray) -> None:
    """Write the net contact force (N) on every body in the last physics step into ``out`` (N, B, 3)."""
    (data,) = sim.derived("sensordata")
    columns = sim.layout.contact_ids[:, None] + np.arange(3)
    out[:] = -data[:, columns]  # MuJoCo's is what the body does to the others


def read_dof_forces(sim: Sim, out: np.ndarray) -> None:
    """Write what the drives pushed with in the last physics step (N or N m) into ``out`` (N, D)."""
    (pushed,) = sim.derived("qfrc_actuator")
    out[:] = pushed[:, sim.layout.dof_ids]


def read_force_sensors(sim: Sim, out: np.ndarray) -> None:
    """Write force and torque of every force sensor into ``out`` (N, K, 6), in the sensor's frame or the world's.

    Everything that acts on the body is its mass times its acceleration; the constraint part is what contacts push, the forward
    part is the rest (weight, drives, neighbours).
    """
    data, ximat, xpos, xquat, xipos, cvel = sim.derived("sensordata", "ximat", "xpos", "xquat", "xipos", "cvel")
    layout, ids = sim.layout, sim.layout.body_ids
    gravity = sim.params.gravity.array()
    for k, (body, sensor) in enumerate(layout.sensors):
        b = ids[body]
        at, linear, angular = layout.force_ids[k]
        force, torque, point = -data[:, at : at + 3], -data[:, at + 3 : at + 6], data[:, at + 6 : at + 9]
        centre, inertial = ximat[:, b].reshape(-1, 3, 3), xipos[:, b]
        quat, place = sensor.pose.r.normalize().array(), sensor.pose.p.array()
        turn = xquat[:, b]
        position = xpos[:, b] + rotate(turn, place)
        touched = np.concatenate([force, torque + cross(point - position, force)], axis=1)
        spin = cvel[:, b, :3]
        inertia = np.einsum("nij,nj,nkj->nik", centre, sim.written_or_model("body_inertia")[:, b] + np.zeros((len(out), 3)), centre)
        mass = sim.written_or_model("body_mass")[:, b, None]
        whole = mass * (data[:, linear : linear + 3] + gravity)
        twist = np.einsum("nij,nj->ni", inertia, data[:, angular : angular + 3]) + cross(spin, np.einsum("nij,nj->ni", inertia, spin))
        net = np.concatenate([whole, twist + cross(inertial - position, whole)], axis=1)
        wanted = sensor.properties
        felt = (net - touched) * wanted.enable_forward_dynamics_forces + touched * wanted.enable_constraint_solver_forces
        if not wanted.use_world_frame:
            back = _conjugate(np.array([quat[3], *quat[:3]]))
            felt = np.concatenate([rotate(back, rotate(_conjugate(turn), part)) for part in (felt[:, :3], felt[:, 3:])], axis=1)
        out[:, k] = felt
