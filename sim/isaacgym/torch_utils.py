"""``isaacgym.torch_utils``: quaternions (x, y, z, w), frames and small tensor functions; all may be used inside TorchScript.

Rows are batched: quaternions are (..., 4), vectors (..., 3), unless a function says otherwise.
"""
# No "from __future__ import annotations" here: TorchScript reads the annotations themselves.

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_torch(x: Any, dtype: torch.dtype = torch.float, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """Return ``x`` (*shape) as a tensor of its own; on the CPU by default, where the other package's is on the GPU."""
    if isinstance(x, Tensor):
        return x.detach().clone().to(device=device, dtype=dtype).requires_grad_(requires_grad)
    return torch.tensor(x, dtype=dtype, device=device, requires_grad=requires_grad)


# Vectors and quaternions -----------------------------------------------------------------------------------------


def normalize(x: Tensor, eps: float = 1e-9) -> Tensor:
    """Return ``x`` (..., D) with norm 1; the norm counts as ``eps`` at least."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=eps)


def quat_unit(a: Tensor) -> Tensor:
    """Return the quaternions (..., 4) with norm 1."""
    return normalize(a)


def quat_mul(a: Tensor, b: Tensor) -> Tensor:
    """Return the products ``a b`` (..., 4): the rotation ``b``, then ``a``."""
    v, w = a[..., :3], a[..., 3:]
    u, s = b[..., :3], b[..., 3:]
    vector = w * u + s * v + torch.linalg.cross(v, u)
    scalar = w * s - (v * u).sum(dim=-1, keepdim=True)
    return torch.cat([vector, scalar], dim=-1)


def quat_conjugate(a: Tensor) -> Tensor:
    """Return the conjugates (..., 4), for unit quaternions the opposite rotations."""
    return torch.cat([-a[..., :3], a[..., 3:]], dim=-1)


def quat_apply(a: Tensor, b: Tensor) -> Tensor:
    """Return vectors ``b`` (..., 3) rotated by unit quaternions ``a`` (..., 4)."""
    axis = a[..., :3]
    twice = 2.0 * torch.linalg.cross(axis, b)
    return b + a[..., 3:] * twice + torch.linalg.cross(axis, twice)


def quat_rotate(q: Tensor, v: Tensor) -> Tensor:
    """Return vectors ``v`` (N, 3) rotated by unit quaternions ``q`` (N, 4): from the body's frame into the world's."""
    return quat_apply(q, v)


def quat_rotate_inverse(q: Tensor, v: Tensor) -> Tensor:
    """Return vectors ``v`` (N, 3) rotated back by unit quaternions ``q`` (N, 4): from the world's frame into the body's."""
    return quat_apply(quat_conjugate(q), v)


def quat_axis(q: Tensor, axis: int = 0) -> Tensor:
    """Return where the ``axis``-th basis vector points after rotation by ``q`` (N, 4): (N, 3)."""
    basis = torch.zeros(q.shape[0], 3, dtype=q.dtype, device=q.device)
    basis[:, axis] = 1.0
    return quat_apply(q, basis)


def quat_from_angle_axis(angle: Tensor, axis: Tensor) -> Tensor:
    """Return the rotations (..., 4) by ``angle`` (...,) rad about ``axis`` (..., 3), of any length but zero."""
    half = 0.5 * angle.unsqueeze(-1)
    return normalize(torch.cat([normalize(axis) * torch.sin(half), torch.cos(half)], dim=-1))


def quat_from_euler_xyz(roll: Tensor, pitch: Tensor, yaw: Tensor) -> Tensor:
    """Return the rotations (..., 4) by roll about x, then pitch about y, then yaw about z, fixed axes; angles (...,) rad."""
    cr, sr = torch.cos(0.5 * roll), torch.sin(0.5 * roll)
    cp, sp = torch.cos(0.5 * pitch), torch.sin(0.5 * pitch)
    cy, sy = torch.cos(0.5 * yaw), torch.sin(0.5 * yaw)
    x = cy * sr * cp - sy * cr * sp
    y = cy * cr * sp + sy * sr * cp
    z = sy * cr * cp - cy * sr * sp
    w = cy * cr * cp + sy * sr * sp
    return torch.stack([x, y, z, w], dim=-1)


def get_euler_xyz(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return roll, pitch and yaw (N,) of ``q`` (N, 4), each in [0, 2 pi)."""
    x, y, z, w = q[:, 0], q[:, 1], q[:, 2], q[:, 3]
    roll = torch.atan2(2.0 * (w * x + y * z), w * w - x * x - y * y + z * z)
    pitch = torch.asin((2.0 * (w * y - z * x)).clamp(-1.0, 1.0))
    yaw = torch.atan2(2.0 * (w * z + x * y), w * w + x * x - y * y - z * z)
    turn = 2.0 * math.pi
    return roll % turn, pitch % turn, yaw % turn


def normalize_angle(x: Tensor) -> Tensor:
    """Return the same angles (...,) in [-pi, pi]."""
    return torch.atan2(torch.sin(x), torch.cos(x))


def copysign(a: float, b: Tensor) -> Tensor:
    """Return the number ``a`` with the signs of ``b`` (N,)."""
    return torch.copysign(torch.full_like(b, a), b)


# Frames ----------------------------------------------------------------------------------------------------------


def tf_inverse(q: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation (..., 4) and translation (..., 3) that undo ``q``, ``t``."""
    back = quat_conjugate(q)
    return back, -quat_apply(back, t)


def tf_apply(q: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """Return points ``v`` (..., 3) rotated by ``q``, then moved by ``t``."""
    return quat_apply(q, v) + t


def tf_vector(q: Tensor, v: Tensor) -> Tensor:
    """Return directions ``v`` (..., 3) rotated by ``q``."""
    return quat_apply(q, v)


def tf_combine(q1: Tensor, t1: Tensor, q2: Tensor, t2: Tensor) -> tuple[Tensor, Tensor]:
    """Return rotation (..., 4) and translation (..., 3) of frame 2 inside frame 1, seen from where frame 1 is given in."""
    return quat_mul(q1, q2), tf_apply(q1, t1, t2)


def get_basis_vector(q: Tensor, v: Tensor) -> Tensor:
    """Return the basis vectors ``v`` (..., 3) of frames ``q`` (..., 4)."""
    return quat_apply(q, v)


def compute_heading_and_up(
    torso_rotation: Tensor, inv_start_rot: Tensor, to_target: Tensor, vec0: Tensor, vec1: Tensor, up_idx: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return how a torso stands and where it looks.

    Args:
        torso_rotation: (N, 4).
        inv_start_rot: (N, 4), the opposite of the rotation in which it stands upright, looking ahead.
        to_target: (N, 3), towards the target.
        vec0: (N, 3), ahead in the upright torso's frame.
        vec1: (N, 3), up in the upright torso's frame.
        up_idx: Which axis of the world is up.

    Returns:
        rotation from upright (N, 4); ``up_idx``-th component of where up points (N,); cosine between heading and target (N,); where
        up points (N, 3); where ahead points (N, 3).
    """
    torso_quat = quat_mul(torso_rotation, inv_start_rot)
    up_vec, heading_vec = quat_apply(torso_quat, vec1), quat_apply(torso_quat, vec0)
    heading_proj = (heading_vec * normalize(to_target)).sum(dim=-1)
    return torso_quat, up_vec[:, up_idx], heading_proj, up_vec, heading_vec


def compute_rot(
    torso_quat: Tensor, velocity: Tensor, ang_velocity: Tensor, targets: Tensor, torso_positions: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return a torso's velocities in its own frame, its angles, and the direction of its target.

    Args:
        torso_quat: (N, 4).
        velocity: (N, 3), world.
        ang_velocity: (N, 3), world.
        targets: (N, 3), positions.
        torso_positions: (N, 3).

    Returns:
        linear and angular velocity in the torso's frame (N, 3); roll, pitch, yaw (N,) in [0, 2 pi); angle to the target (N,): its
        direction in the plane of x and z (y up) less the yaw.
    """
    roll, pitch, yaw = get_euler_xyz(torso_quat)
    walk = torch.atan2(targets[:, 2] - torso_positions[:, 2], targets[:, 0] - torso_positions[:, 0])
    return quat_rotate_inverse(torso_quat, velocity), quat_rotate_inverse(torso_quat, ang_velocity), roll, pitch, yaw, walk - yaw


# Small things ----------------------------------------------------------------------------------------------------


def get_axis_params(value: float, axis_idx: int, x_value: float = 0.0, dtype: Any = float, n_dims: int = 3) -> list[float]:
    """Return ``n_dims`` numbers: ``value`` at ``axis_idx``, ``x_value`` first, zeros elsewhere."""
    out = np.zeros(n_dims)
    out[0] = x_value
    out[axis_idx] = value
    return out.astype(dtype).tolist()


def torch_rand_float(lower: float, upper: float, shape: tuple[int, int], device: str) -> Tensor:
    """Return uniform numbers in [lower, upper) of a shape."""
    return lower + (upper - lower) * torch.rand(shape, device=device)


def torch_random_dir_2(shape: tuple[int, int], device: str) -> Tensor:
    """Return random unit vectors of the plane, (*shape, 2), the last dimension of ``shape`` being dropped if it is 1."""
    angle = torch_rand_float(-math.pi, math.pi, shape, device).squeeze(-1)
    return torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)


def tensor_clamp(t: Tensor, min_t: Tensor, max_t: Tensor) -> Tensor:
    """Return ``t`` between two tensors, elementwise; the upper one wins where they cross."""
    return torch.minimum(torch.maximum(t, min_t), max_t)


def scale(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return ``x`` (...,) stretched from [-1, 1] to [lower, upper]."""
    return lower + 0.5 * (x + 1.0) * (upper - lower)


def unscale(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return ``x`` (...,) shrunk from [lower, upper] to [-1, 1]."""
    return 2.0 * (x - lower) / (upper - lower) - 1.0


def unscale_np(x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return numpy ``x`` (...,) shrunk from [lower, upper] to [-1, 1]."""
    return 2.0 * (x - lower) / (upper - lower) - 1.0
