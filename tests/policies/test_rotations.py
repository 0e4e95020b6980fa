"""Rotation conversions against scipy, near 0 and pi in particular."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from policies import rotations
from policies.spec import InputError

KINDS = tuple(rotations.SIZES)


def axes() -> np.ndarray:
    random = np.random.default_rng(0).normal(size=(30, 3))
    special = np.array([a for a in itertools.product((-1, 0, 1), repeat=3) if any(a)], float)
    both = np.concatenate([random, special])
    return both / np.linalg.norm(both, axis=1, keepdims=True)


ANGLES = np.array([0, 1e-12, 1e-8, 1e-5, 1e-4, 1e-3, 1.1e-3, 0.3, 1.5, 3.0, np.pi - 1e-3, np.pi - 1e-6, np.pi - 1e-9, np.pi])
ROTVECS = (axes()[:, None] * ANGLES[:, None]).reshape(-1, 3)


def from_scipy(rotation: Rotation, kind: str) -> np.ndarray:
    matrix = rotation.as_matrix()
    if kind == "rotation_axis_angle":
        return rotation.as_rotvec()
    if kind == "rotation_quaternion":
        return rotation.as_quat(canonical=True, scalar_first=True)
    return np.concatenate([matrix[..., :, 0], matrix[..., :, 1]], -1)


def angle_between(a: torch.Tensor, b: np.ndarray) -> float:
    relative = Rotation.from_matrix(a.double().numpy()).inv() * Rotation.from_matrix(b)
    return float(relative.magnitude().max())


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-8), (torch.float32, 2e-6)])
@pytest.mark.parametrize("kind", KINDS)
def test_matrix_equals_scipy(kind, dtype, tolerance):
    truth = Rotation.from_rotvec(ROTVECS)
    matrix = rotations.to_matrix(torch.as_tensor(from_scipy(truth, kind), dtype=dtype), kind)
    np.testing.assert_allclose(matrix.numpy(), truth.as_matrix(), atol=tolerance)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-8), (torch.float32, 2e-6)])
@pytest.mark.parametrize("source,target", list(itertools.product(KINDS, KINDS)))
def test_conversions_keep_the_rotation_everywhere(source, target, dtype, tolerance):
    truth = Rotation.from_rotvec(ROTVECS)
    converted = rotations.convert(torch.as_tensor(from_scipy(truth, source), dtype=dtype), source, target)
    assert torch.isfinite(converted).all()
    assert angle_between(rotations.to_matrix(converted, target), truth.as_matrix()) < tolerance


def test_axis_angle_near_zero_keeps_relative_precision():
    small = torch.tensor([[3e-9, -2e-9, 1e-9]], dtype=torch.float64)
    for back in (
        rotations.quaternion_to_axis_angle(rotations.axis_angle_to_quaternion(small)),
        rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(small)),
    ):
        torch.testing.assert_close(back, small, rtol=1e-6, atol=0)


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_any_axis_angle_gives_its_rotation_and_a_canonical_form(rotvec):
    matrix = rotations.axis_angle_to_matrix(torch.tensor([rotvec], dtype=torch.float64))
    np.testing.assert_allclose(matrix[0].numpy(), Rotation.from_rotvec(rotvec).as_matrix(), atol=1e-9)
    canonical = rotations.matrix_to_axis_angle(matrix)
    assert canonical.norm() <= np.pi + 1e-9


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6))
def test_any_six_numbers_give_a_rotation(numbers):
    matrix = rotations.rotation_6d_to_matrix(torch.tensor([numbers], dtype=torch.float32))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3)[None], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("numbers", [[0] * 6, [0, 0, 0, 1, 0, 0], [1, 2, 3, 2, 4, 6], [1, 2, 3, 0, 0, 0], [1, 0, 0, -1, 1e-9, 0], [1e-30, 0, 0, 0, 1e30, 0]])
def test_degenerate_6d_gives_a_rotation(numbers):
    matrix = rotations.rotation_6d_to_matrix(torch.tensor([numbers], dtype=torch.float32))
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3)[None], atol=1e-6, rtol=0)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(abs(x) for x in q) > 1e-3))
def test_quaternion_sign_and_length_do_not_matter(q):
    q = torch.tensor([q], dtype=torch.float64)
    torch.testing.assert_close(rotations.quaternion_to_matrix(q), rotations.quaternion_to_matrix(-3 * q))
    np.testing.assert_allclose(rotations.quaternion_to_matrix(q)[0].numpy(), Rotation.from_quat(q[0].numpy(), scalar_first=True).as_matrix(), atol=1e-12)


def test_leading_dims_are_kept():
    x = torch.randn(2, 5, 4, 3)
    assert rotations.axis_angle_to_matrix(x).shape == (2, 5, 4, 3, 3)
    assert rotations.convert(x, "rotation_axis_angle", "rotation_6d").shape == (2, 5, 4, 6)
    assert rotations.convert(x[:0], "rotation_axis_angle", "rotation_quaternion").shape == (0, 5, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_at_zero_and_pi(kind):
    truth = Rotation.from_rotvec([[0, 0, 0], [np.pi, 0, 0], [0, 0, np.pi / 2]])
    x = torch.tensor(from_scipy(truth, kind), requires_grad=True)
    (rotations.to_matrix(x, kind) * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_unknown_kinds_and_sizes_are_named():
    with pytest.raises(InputError, match="did you mean 'rotation_6d'"):
        rotations.to_matrix(torch.zeros(6), "rotation6d")
    with pytest.raises(InputError, match="has 4 numbers, found 3"):
        rotations.to_matrix(torch.zeros(3), "rotation_quaternion")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_that_of_scipy_and_sees_that_turns_of_pi_and_minus_pi_are_one(kind):
    random = np.random.default_rng(1)
    truth = Rotation.from_rotvec(random.normal(size=(40, 1, 3)) + 0.4 * random.normal(size=(40, 5, 3)))
    weight = random.uniform(size=(40, 5)) + 0.01
    found = rotations.mean(torch.from_numpy(from_scipy(truth, kind)), torch.from_numpy(weight), kind)
    expected = Rotation.concatenate([truth[i].mean(weight[i]) for i in range(40)])
    assert angle_between(rotations.to_matrix(found, kind), expected.as_matrix()) < 1e-7

    around = Rotation.from_rotvec([[3.1, 0.0, 0.0], [-3.1, 0.0, 0.0]])  # 0.083 rad apart: the mean of the numbers would be no turn at all
    found = rotations.mean(torch.from_numpy(from_scipy(around, kind)), torch.ones(2, dtype=torch.float64), kind)
    assert Rotation.from_matrix(rotations.to_matrix(found, kind).numpy()).magnitude() == pytest.approx(np.pi, abs=1e-9)
