"""The least-squares solver against dense algebra and scipy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from sim.identify_solve import solve

W, R, P, M = 5, 12, 3, 2
WIDE = np.full(P, 1e6)


def linear(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(W, R, P)), generator.normal(size=(W, R, M)), generator.normal(size=(W, R))


def dense(of_shared: np.ndarray, of_own: np.ndarray) -> np.ndarray:
    """Return the Jacobian (W R, P + W M) that the solver never forms."""
    out = np.zeros((W * R, P + W * M))
    out[:, :P] = of_shared.reshape(W * R, P)
    for w in range(W):
        out[w * R : (w + 1) * R, P + w * M : P + (w + 1) * M] = of_own[w]
    return out


def test_a_linear_problem_is_solved_as_by_dense_algebra() -> None:
    of_shared, of_own, offset = linear(0)

    def residuals(shared: np.ndarray, own: np.ndarray) -> np.ndarray:
        return offset + of_shared @ shared + np.einsum("wrm,wm->wr", of_own, own)

    found = solve(residuals, lambda s, o: (residuals(s, o), of_shared, of_own), np.zeros(P), np.zeros((W, M)), -WIDE, WIDE)
    jacobian = dense(of_shared, of_own)
    expected = np.linalg.lstsq(jacobian, -offset.ravel(), rcond=None)[0]
    assert found.converged
    np.testing.assert_allclose(found.shared, expected[:P], atol=1e-6)
    np.testing.assert_allclose(found.own.ravel(), expected[P:], atol=1e-6)
    covariance = np.linalg.inv(jacobian.T @ jacobian)[:P, :P]
    np.testing.assert_allclose(np.linalg.inv(found.information), covariance, rtol=1e-6)


def test_parameters_stay_inside_their_range() -> None:
    of_shared, of_own, offset = linear(1)

    def residuals(shared: np.ndarray, own: np.ndarray) -> np.ndarray:
        return offset + of_shared @ shared + np.einsum("wrm,wm->wr", of_own, own)

    free = solve(residuals, lambda s, o: (residuals(s, o), of_shared, of_own), np.zeros(P), np.zeros((W, M)), -WIDE, WIDE)
    low, high = free.shared - 1, free.shared.copy()
    high[0] -= 0.5
    found = solve(residuals, lambda s, o: (residuals(s, o), of_shared, of_own), low + 0.1, np.zeros((W, M)), low, high)
    assert found.shared[0] == high[0] and (found.shared <= high).all() and found.cost > free.cost


def test_a_curved_problem_ends_where_scipys_does() -> None:
    """Decays with one common rate and one amplitude a window, from noisy samples."""
    time = np.linspace(0, 3, R)
    generator = np.random.default_rng(2)
    amplitude = generator.uniform(1, 3, (W, 1))
    data = amplitude * np.exp(-0.7 * time) + 0.01 * generator.normal(size=(W, R))

    def residuals(shared: np.ndarray, own: np.ndarray) -> np.ndarray:
        return own * np.exp(-shared[0] * time) - data

    def linearized(shared: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        decay = np.broadcast_to(np.exp(-shared[0] * time), (W, R))
        return residuals(shared, own), (-time * own * decay)[:, :, None], decay[:, :, None]

    found = solve(residuals, linearized, np.array([2.5]), np.ones((W, 1)), np.zeros(1), np.full(1, 9.0))
    theirs = least_squares(lambda x: residuals(x[:1], x[1:, None]).ravel(), np.array([2.5, *np.ones(W)]), xtol=1e-12)
    np.testing.assert_allclose(found.shared, theirs.x[:1], atol=1e-5)
    np.testing.assert_allclose(found.own[:, 0], theirs.x[1:], atol=1e-5)
    assert abs(found.cost - theirs.cost) < 1e-8
