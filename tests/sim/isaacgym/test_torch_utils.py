"""Tensor functions against scipy's rotations and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.sim.isaacgym import scene  # noqa: F401  (makes "import isaacgym" find ours)

from isaacgym import torch_utils as tu  # isort: skip

N = 200


def rotations(seed: int) -> tuple[torch.Tensor, Any]:
    """Return random rotations as a tensor (N, 4) and as scipy's."""
    there = Rotation.random(N, random_state=seed)
    return torch.tensor(there.as_quat()), there


def vectors(seed: int) -> torch.Tensor:
    return torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def same_rotation(found: torch.Tensor, expected: Any) -> None:
    assert (Rotation.from_quat(found.numpy()) * expected.inv()).magnitude().max() < 1e-7
    np.testing.assert_allclose(found.norm(dim=-1).numpy(), 1.0, atol=1e-12)


def test_products_conjugates_and_units() -> None:
    (q, a), (p, b) = rotations(0), rotations(1)
    same_rotation(tu.quat_mul(q, p), a * b)
    same_rotation(tu.quat_conjugate(q), a.inv())
    same_rotation(tu.quat_unit(3.0 * q), a)
    np.testing.assert_allclose(tu.normalize(vectors(2)).norm(dim=1).numpy(), 1.0, atol=1e-12)
    assert torch.equal(tu.normalize(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert tu.quat_mul(q.view(2, 100, 4), p.view(2, 100, 4)).shape == (2, 100, 4)


def test_vectors_are_rotated_there_and_back() -> None:
    (q, a), v = rotations(3), vectors(4)
    for function in (tu.quat_apply, tu.quat_rotate, tu.tf_vector, tu.get_basis_vector):
        np.testing.assert_allclose(function(q, v).numpy(), a.apply(v.numpy()), atol=1e-12)
    np.testing.assert_allclose(tu.quat_rotate_inverse(q, v).numpy(), a.inv().apply(v.numpy()), atol=1e-12)
    for axis in range(3):
        np.testing.assert_allclose(tu.quat_axis(q, axis).numpy(), a.as_matrix()[:, :, axis], atol=1e-12)


def test_angles_make_rotations_and_come_back_in_zero_to_two_pi() -> None:
    generator = torch.Generator().manual_seed(5)
    roll, yaw = (2 * math.pi * torch.rand(2, N, dtype=torch.float64, generator=generator)).unbind()
    pitch = (torch.rand(N, dtype=torch.float64, generator=generator) - 0.5) * 3.0
    q = tu.quat_from_euler_xyz(roll, pitch, yaw)
    same_rotation(q, Rotation.from_euler("xyz", torch.stack([roll, pitch, yaw], dim=1).numpy()))
    for found, expected in zip(tu.get_euler_xyz(q), (roll, pitch % (2 * math.pi), yaw), strict=True):
        assert (found >= 0).all() and (found < 2 * math.pi).all()
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-9)
    angle, axis = 5.0 * torch.rand(N, dtype=torch.float64, generator=generator), vectors(6)
    unit = (axis / axis.norm(dim=1, keepdim=True)).numpy()
    same_rotation(tu.quat_from_angle_axis(angle, axis), Rotation.from_rotvec(angle.numpy()[:, None] * unit))
    many = torch.linspace(-20, 20, N, dtype=torch.float64)
    wrapped = tu.normalize_angle(many)
    assert (wrapped.abs() <= math.pi).all()
    np.testing.assert_allclose(np.exp(1j * wrapped.numpy()), np.exp(1j * many.numpy()), atol=1e-12)


def test_frames_combine_and_invert_as_matrices_do() -> None:
    (q, a), (p, b) = rotations(7), rotations(8)
    t, s, v = vectors(9), vectors(10), vectors(11)

    def matrix(rotation: Any, move: torch.Tensor) -> np.ndarray:
        out = np.tile(np.eye(4), (N, 1, 1))
        out[:, :3, :3], out[:, :3, 3] = rotation.as_matrix(), move.numpy()
        return out

    points = np.concatenate([v.numpy(), np.ones((N, 1))], axis=1)[..., None]
    np.testing.assert_allclose(tu.tf_apply(q, t, v).numpy(), (matrix(a, t) @ points)[:, :3, 0], atol=1e-12)
    back, move = tu.tf_inverse(q, t)
    np.testing.assert_allclose(matrix(Rotation.from_quat(back.numpy()), move), np.linalg.inv(matrix(a, t)), atol=1e-12)
    both, where = tu.tf_combine(q, t, p, s)
    np.testing.assert_allclose(matrix(Rotation.from_quat(both.numpy()), where), matrix(a, t) @ matrix(b, s), atol=1e-12)


def test_heading_up_and_local_velocities() -> None:
    (q, a), (start, b) = rotations(12), rotations(13)
    target, ahead, up = vectors(14), torch.tensor([[1.0, 0, 0]]).double().repeat(N, 1), torch.tensor([[0.0, 0, 1]]).double().repeat(N, 1)
    torso, up_proj, heading_proj, up_vec, heading_vec = tu.compute_heading_and_up(q, start, target, ahead, up, 2)
    same_rotation(torso, a * b)
    columns = (a * b).as_matrix()
    np.testing.assert_allclose(up_vec.numpy(), columns[:, :, 2], atol=1e-12)
    np.testing.assert_allclose(heading_vec.numpy(), columns[:, :, 0], atol=1e-12)
    np.testing.assert_allclose(up_proj.numpy(), columns[:, 2, 2], atol=1e-12)
    to = target.numpy() / np.linalg.norm(target.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(heading_proj.numpy(), (columns[:, :, 0] * to).sum(axis=1), atol=1e-12)
    v, w, goal, at = vectors(15), vectors(16), vectors(17), vectors(18)
    linear, angular, roll, pitch, yaw, angle = tu.compute_rot(q, v, w, goal, at)
    np.testing.assert_allclose(linear.numpy(), a.inv().apply(v.numpy()), atol=1e-12)
    np.testing.assert_allclose(angular.numpy(), a.inv().apply(w.numpy()), atol=1e-12)
    euler = a.as_euler("xyz") % (2 * math.pi)
    np.testing.assert_allclose(torch.stack([roll, pitch, yaw], dim=1).numpy(), euler, atol=1e-7)
    away = (goal - at).numpy()
    np.testing.assert_allclose(angle.numpy(), np.arctan2(away[:, 2], away[:, 0]) - euler[:, 2], atol=1e-7)


def test_small_functions() -> None:
    x, low, high = torch.tensor([-2.0, 0.3, 9.0]), torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.5, 5.0])
    assert tu.tensor_clamp(x, low, high).tolist() == pytest.approx([-1.0, 0.3, 5.0])
    assert tu.scale(torch.tensor([-1.0, 0.0, 1.0]), low, high).tolist() == [-1.0, 0.25, 5.0]
    np.testing.assert_allclose(tu.unscale(tu.scale(x, low, high), low, high).numpy(), x.numpy(), rtol=1e-5)
    np.testing.assert_allclose(tu.unscale_np(x.numpy(), low.numpy(), high.numpy()), tu.unscale(x, low, high).numpy(), rtol=1e-6)
    assert tu.copysign(2.0, torch.tensor([-0.1, 3.0])).tolist() == [-2.0, 2.0]
    assert tu.get_axis_params(0.7, 2) == [0.0, 0.0, 0.7] and tu.get_axis_params(-1.0, 1, x_value=3.0) == [3.0, -1.0, 0.0]
    drawn = tu.torch_rand_float(-2.0, 3.0, (1000, 4), device="cpu")
    assert drawn.shape == (1000, 4) and drawn.min() >= -2.0 and drawn.max() < 3.0 and abs(drawn.mean().item() - 0.5) < 0.15
    unit = tu.torch_random_dir_2((500, 1), device="cpu")
    assert unit.shape == (500, 2) and torch.allclose(unit.norm(dim=1), torch.ones(500), atol=1e-6) and unit.mean(dim=0).abs().max() < 0.15
    made = tu.to_torch([1, 2], dtype=torch.int32)
    assert made.dtype == torch.int32 and made.device.type == "cpu"
    given = torch.zeros(3)
    assert tu.to_torch(given).data_ptr() != given.data_ptr()


def test_all_of_them_may_be_used_in_torchscript() -> None:
    script: Any = torch.jit.script
    for name in ("quat_mul", "quat_apply", "quat_rotate", "quat_rotate_inverse", "quat_conjugate", "quat_axis", "normalize", "quat_from_angle_axis"):
        script(getattr(tu, name))
    for name in ("quat_from_euler_xyz", "get_euler_xyz", "normalize_angle", "tf_inverse", "tf_apply", "tf_combine", "compute_heading_and_up"):
        script(getattr(tu, name))
    for name in ("compute_rot", "tensor_clamp", "scale", "unscale", "copysign", "torch_rand_float"):
        script(getattr(tu, name))
    q, v = rotations(20)[0], vectors(21)
    assert torch.equal(script(tu.quat_rotate_inverse)(q, v), tu.quat_rotate_inverse(q, v))
