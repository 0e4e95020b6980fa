"""Jacobians and mass matrices of actors, from the worlds' arrays, all environments at once."""

from __future__ import annotations

import numpy as np

from sim.isaacgym.states import cross, rotate
from sim.isaacgym.world import Sim


def jacobian_shape(sim: Sim, actor: int) -> tuple[int, int, int, int]:
    """Return (N, links, 6, columns): a fixed actor has no row for its root, a free one 6 more columns, first."""
    asset = sim.layout.kinds[actor].asset
    bodies, dofs = len(asset.bodies), len(asset.dofs)
    return (sim.num_envs, bodies, 6, dofs + 6) if asset.floating else (sim.num_envs, bodies - 1, 6, dofs)


def read_jacobian(sim: Sim, actor: int, out: np.ndarray) -> None:
    """Write the Jacobian of ``actor`` into ``out`` (N, links, 6, columns).

    Row blocks: linear velocity of the link's centre of mass, angular velocity, both in the world's axes. The six first columns of
    a free actor belong to the root's linear (of its centre of mass) and angular velocity, as the root state has them.
    """
    cdof, xipos, subtree = sim.derived("cdof", "xipos", "subtree_com")
    layout, model = sim.layout, sim.layout.model
    floating = layout.kinds[actor].asset.floating
    bodies = layout.body_ids[layout.body_start[actor] + (not floating) : layout.body_start[actor + 1]]
    dofs = layout.dof_ids[layout.dof_start[actor] : layout.dof_start[actor + 1]]
    slot = np.flatnonzero(layout.free == actor)
    if floating:
        dofs = np.concatenate([layout.free_dof[slot[0]] + np.arange(6), dofs])
    moves = _ancestors(model.body_parentid, bodies)[:, model.dof_bodyid[dofs]]  # (links, columns)
    axes = cdof[:, None, dofs]  # (N, 1, columns, 6)
    arms = xipos[:, bodies] - subtree[:, model.body_rootid[bodies]]
    linear = (axes[..., 3:] + cross(axes[..., :3], arms[:, :, None])) * moves[..., None]
    angular = axes[..., :3] * moves[..., None]
    whole = np.concatenate([linear, angular], axis=-1)  # (N, links, columns, 6)
    if floating:
        quat = sim.qpos[:, layout.free_qpos[slot[0]] + np.arange(3, 7)]
        root = layout.body_start[actor]
        centre = rotate(quat, sim.body_centres()[:, root])
        moving, turning = whole[:, :, :3].copy(), whole[:, :, 3:6]
        back = np.stack([rotate(quat * [1, -1, -1, -1], np.eye(3)[i]) for i in range(3)], axis=1)  # (N, world axis, body axis)
        skew = np.stack([cross(centre, np.broadcast_to(np.eye(3)[i], centre.shape)) for i in range(3)], axis=1)
        whole[:, :, 3:6] = np.einsum("nij,nljk->nlik", back, turning) + np.einsum("nij,nljk->nlik", skew, moving)
    out[:] = np.swapaxes(whole, -1, -2)


def _ancestors(parents: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """Return (len(bodies), nbody) bool: which bodies carry which."""
    out = np.zeros((len(bodies), len(parents)), bool)
    for row, body in zip(out, bodies, strict=True):
        while body:
            row[body] = True
            body = parents[body]
    return out


def read_mass_matrix(sim: Sim, actor: int, out: np.ndarray) -> None:
    """Write the joint-space mass matrix of ``actor`` (armature included, root excluded) into ``out`` (N, d, d)."""
    (sparse,) = sim.derived("M")
    layout, model = sim.layout, sim.layout.model
    dofs = layout.dof_ids[layout.dof_start[actor] : layout.dof_start[actor + 1]]
    rows = np.repeat(np.arange(model.nv), model.M_rownnz)
    where = np.full((model.nv, model.nv), -1)
    where[rows, model.M_colind] = np.arange(len(rows))
    where = np.maximum(where, where.T)[np.ix_(dofs, dofs)]
    out[:] = np.where(where >= 0, sparse[:, np.maximum(where, 0)], 0.0)
