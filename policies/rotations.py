"""Conversions between rotation representations: batched, differentiable, stable near 0 and pi.

Representations, all with leading batch dims:

- ``rotation_axis_angle`` (..., 3): axis times angle, rad; conversions return angles in [0, pi].
- ``rotation_quaternion`` (..., 4): (w, x, y, z), normalised on the way in; conversions return w >= 0.
- ``rotation_6d`` (..., 6): the first two columns of the matrix, one after the other (Zhou et al. 2019, "On the
  Continuity of Rotation Representations in Neural Networks", eq. 15-16); any six numbers give a rotation.
- ``matrix`` (..., 3, 3): acts on column vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from policies.spec import InputError, suggest

#: Numbers in each representation that an action can use.
SIZES = {"rotation_axis_angle": 3, "rotation_quaternion": 4, "rotation_6d": 6}


def axis_angle_to_quaternion(axis_angle: torch.Tensor) -> torch.Tensor:
    """Return (..., 4) from (..., 3) rad: (cos(a/2), sin(a/2) axis)."""
    squared = axis_angle.square().sum(-1, keepdim=True)
    small = squared < 1e-6
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    # sin(a/2)/a = 1/2 - a^2/48 + a^4/3840 - ...: at a < 1e-3 the last term is below 1e-15
    ratio = torch.where(small, 0.5 - squared / 48 + squared.square() / 3840, (angle / 2).sin() / angle)
    w = torch.where(small, 1 - squared / 8 + squared.square() / 384, (angle / 2).cos())
    return _positive(torch.cat([w, ratio * axis_angle], -1))


def quaternion_to_axis_angle(quaternion: torch.Tensor) -> torch.Tensor:
    """Return (..., 3) rad, at most pi long, from (..., 4)."""
    quaternion = _positive(_unit(quaternion))
    w, v = quaternion[..., :1], quaternion[..., 1:]
    squared = v.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    # 2 atan(s/w)/s = 2/w (1 - (s/w)^2/3 + ...)
    safe_w = torch.where(small, w, torch.ones_like(w))
    ratio = torch.where(small, 2 / safe_w * (1 - squared / (3 * safe_w.square())), 2 * torch.atan2(sine, w) / sine)
    return ratio * v


def quaternion_to_matrix(quaternion: torch.Tensor) -> torch.Tensor:
    """Return (..., 3, 3) from (..., 4)."""
    w, x, y, z = _unit(quaternion).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: torch.Tensor) -> torch.Tensor:
    """Return (..., 4), w >= 0, from (..., 3, 3).

    4 q q^T is linear in the matrix; its row with the largest diagonal element is the quaternion times the number that
    is farthest from zero (Shepperd 1978), so nothing is lost near pi.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    products = [
        torch.stack([1 + m[0][0] + m[1][1] + m[2][2], m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]], -1),
        torch.stack([m[2][1] - m[1][2], 1 + m[0][0] - m[1][1] - m[2][2], m[1][0] + m[0][1], m[0][2] + m[2][0]], -1),
        torch.stack([m[0][2] - m[2][0], m[1][0] + m[0][1], 1 - m[0][0] + m[1][1] - m[2][2], m[2][1] + m[1][2]], -1),
        torch.stack([m[1][0] - m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2], 1 - m[0][0] - m[1][1] + m[2][2]], -1),
    ]
    outer = torch.stack(products, -2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return _positive(_unit(row))


def matrix_to_rotation_6d(matrix: torch.Tensor) -> torch.Tensor:
    """Return (..., 6), the first column and then the second, from (..., 3, 3)."""
    return torch.cat([matrix[..., :, 0], matrix[..., :, 1]], -1)


def rotation_6d_to_matrix(rotation_6d: torch.Tensor) -> torch.Tensor:
    """Return (..., 3, 3) from any (..., 6) by Gram-Schmidt.

    A vanishing first column counts as x; a second column along the first counts as the axis that is farthest from it.
    """
    a, b = rotation_6d[..., :3], rotation_6d[..., 3:]
    x = _unit(a, fallback=torch.eye(3, dtype=a.dtype, device=a.device)[0].expand_as(a))
    farthest = torch.nn.functional.one_hot(x.detach().abs().argmin(-1), 3).to(x.dtype)
    spare = _unit(farthest - (x * farthest).sum(-1, keepdim=True) * x)
    b = _unit(b)
    y = _unit(b - (x * b).sum(-1, keepdim=True) * x, fallback=spare, floor=16 * torch.finfo(b.dtype).eps)
    y = _unit(y - (x * y).sum(-1, keepdim=True) * x)  # again: orthogonal to rounding even when b is almost along a
    return torch.stack([x, y, torch.linalg.cross(x, y, dim=-1)], -1)


def axis_angle_to_matrix(axis_angle: torch.Tensor) -> torch.Tensor:
    """Return (..., 3, 3) from (..., 3) rad."""
    return quaternion_to_matrix(axis_angle_to_quaternion(axis_angle))


def matrix_to_axis_angle(matrix: torch.Tensor) -> torch.Tensor:
    """Return (..., 3) rad, at most pi long, from (..., 3, 3)."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


_TO_MATRIX: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rotation_axis_angle": axis_angle_to_matrix,
    "rotation_quaternion": quaternion_to_matrix,
    "rotation_6d": rotation_6d_to_matrix,
}
_FROM_MATRIX: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rotation_axis_angle": matrix_to_axis_angle,
    "rotation_quaternion": matrix_to_quaternion,
    "rotation_6d": matrix_to_rotation_6d,
}


def to_matrix(rotation: torch.Tensor, kind: str) -> torch.Tensor:
    """Return (..., 3, 3) from ``rotation`` (..., SIZES[kind]). Raises InputError for an unknown kind or a wrong size."""
    _require(kind)
    if rotation.shape[-1] != SIZES[kind]:
        raise InputError(f"{kind} has {SIZES[kind]} numbers, found {rotation.shape[-1]}")
    return _TO_MATRIX[kind](rotation)


def from_matrix(matrix: torch.Tensor, kind: str) -> torch.Tensor:
    """Return (..., SIZES[kind]) from ``matrix`` (..., 3, 3). Raises InputError for an unknown kind."""
    _require(kind)
    return _FROM_MATRIX[kind](matrix)


def convert(rotation: torch.Tensor, source: str, target: str) -> torch.Tensor:
    """Return ``rotation`` (..., SIZES[source]) in representation ``target`` (..., SIZES[target])."""
    return from_matrix(to_matrix(rotation, source), target)


def mean(rotations: torch.Tensor, weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the weighted means (..., SIZES[kind]) of ``rotations`` (..., N, SIZES[kind]) with ``weight`` (..., N), not negative.

    The largest eigenvector of sum_i w_i q_i q_i^T (Markley et al. 2007, "Averaging Quaternions"): q and -q are one rotation, and
    turns of pi and -pi about an axis are, which a mean of the numbers takes for opposites. Raises InputError as :func:`to_matrix`.
    """
    quaternion = matrix_to_quaternion(to_matrix(rotations, kind))
    outer = quaternion[..., :, None] * quaternion[..., None, :]
    q = torch.linalg.eigh((weight[..., None, None] * outer).sum(-3)).eigenvectors[..., -1]
    return from_matrix(quaternion_to_matrix(q), kind)


def _require(kind: str) -> None:
    if kind not in SIZES:
        raise InputError(f"rotation representation {kind!r} is unknown{suggest(kind, SIZES)}")


def _positive(quaternion: torch.Tensor) -> torch.Tensor:
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def _unit(vector: torch.Tensor, fallback: torch.Tensor | None = None, floor: float = 0.0) -> torch.Tensor:
    """Return ``vector`` at length 1; ``fallback`` (default: the first axis) where no element exceeds ``floor``."""
    if fallback is None:
        fallback = torch.eye(vector.shape[-1], dtype=vector.dtype, device=vector.device)[0].expand_as(vector)
    peak = vector.detach().abs().amax(-1, keepdim=True)
    vanishes = peak <= max(floor, 1e3 * torch.finfo(vector.dtype).tiny)
    scaled = torch.where(vanishes, fallback, vector / torch.where(vanishes, torch.ones_like(peak), peak))
    return scaled / scaled.norm(dim=-1, keepdim=True)
