"""Nonlinear least squares with parameters shared by all windows and others of each window alone, without their large Jacobian.

Levenberg and Marquardt on the normal equations; what belongs to one window (its first state) is eliminated window by window (Schur
complement, as in bundle adjustment: Triggs et al. 2000), so the cost grows with the number of windows, not with its cube.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Residuals = Callable[[np.ndarray, np.ndarray], np.ndarray]
Linearized = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
_RIDGE = 1e-9  # of the largest diagonal element of a window's own block


@dataclass
class Solution:
    """What :func:`solve` found.

    Attributes:
        shared: (P,) parameters of all windows.
        own: (W, M) parameters of each window.
        cost: Half the sum of squared residuals.
        information: (P, P), inverse of the covariance of ``shared`` for residuals of variance 1, the windows' own being unknown.
        iterations: Steps tried.
        converged: Whether it ended because steps had become small.
    """

    shared: np.ndarray
    own: np.ndarray
    cost: float
    information: np.ndarray
    iterations: int
    converged: bool


@dataclass
class _Blocks:
    """Normal equations of W windows: A (P, P) summed, B (W, P, M), C (W, M, M), right sides g (P,), h (W, M)."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    g: np.ndarray
    h: np.ndarray


def _blocks(residual: np.ndarray, of_shared: np.ndarray, of_own: np.ndarray) -> _Blocks:
    return _Blocks(
        a=np.einsum("wrp,wrq->pq", of_shared, of_shared),
        b=np.einsum("wrp,wrm->wpm", of_shared, of_own),
        c=np.einsum("wrm,wrn->wmn", of_own, of_own),
        g=np.einsum("wrp,wr->p", of_shared, residual),
        h=np.einsum("wrm,wr->wm", of_own, residual),
    )


def _reduced(blocks: _Blocks, damping: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the normal matrix (P, P) and right side (P,) of the shared parameters, and C's damped inverse (W, M, M)."""
    diagonal = np.einsum("wmm->wm", blocks.c)
    floor = _RIDGE * (1.0 + diagonal.max(axis=-1, initial=0.0, keepdims=True))  # what residuals do not see stays where it is
    inverse = np.linalg.inv(blocks.c + np.eye(diagonal.shape[-1]) * (damping * diagonal + floor)[:, None, :])
    through = np.einsum("wpm,wmn->wpn", blocks.b, inverse)
    matrix = blocks.a - np.einsum("wpn,wqn->pq", through, blocks.b)
    side = blocks.g - np.einsum("wpn,wn->p", through, blocks.h)
    return matrix, side, inverse


def solve(
    residuals: Residuals,
    linearized: Linearized,
    shared: np.ndarray,
    own: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    iterations: int = 30,
    largest: float = 1.0,
    settled: tuple[float, float] = (1e-9, 1e-7),
    told: Callable[[int, float], None] | None = None,
) -> Solution:
    """Minimise half the sum of squared residuals.

    Args:
        residuals: (shared (P,), own (W, M)) -> (W, R).
        linearized: The same -> residuals (W, R), their Jacobians for the shared (W, R, P) and the window's own (W, R, M) parameters.
        shared: (P,) where to start.
        own: (W, M) where to start.
        low: (P,) least values of the shared ones.
        high: (P,) greatest.
        iterations: Most steps that are tried.
        largest: Longest step of a shared parameter.
        settled: It ends after a step that lowered the cost by less than the first (a share) and moved no shared parameter by more than the second.
        told: Called with (steps tried, cost).
    """
    shared, own, damping = np.clip(shared, low, high), own.copy(), 1e-3
    residual, of_shared, of_own = linearized(shared, own)
    cost, converged, tried = 0.5 * float((residual**2).sum()), False, 0
    blocks = _blocks(residual, of_shared, of_own)
    while tried < iterations and not converged:
        tried += 1
        step, own_step = _step(blocks, damping, shared, low, high, largest)
        new, new_own = np.clip(shared + step, low, high), own + own_step
        found = residuals(new, new_own)
        new_cost = 0.5 * float((found**2).sum()) if np.isfinite(found).all() else np.inf
        if told is not None:
            told(tried, min(cost, new_cost))
        if new_cost <= cost:
            gained, moved = cost - new_cost, float(np.abs(new - shared).max(initial=0.0))
            shared, own, damping = new, new_own, max(damping / 5, 1e-9)
            converged = gained <= settled[0] * cost and moved <= settled[1]
            residual, of_shared, of_own = linearized(shared, own)
            cost, blocks = 0.5 * float((residual**2).sum()), _blocks(residual, of_shared, of_own)
        else:
            damping *= 8
            converged = damping > 1e8
    information, _, _ = _reduced(blocks, 0.0)
    return Solution(shared, own, cost, information, tried, converged)


def _step(blocks: _Blocks, damping: float, shared: np.ndarray, low: np.ndarray, high: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the damped steps (P,), (W, M); parameters that would leave their range stay on its edge."""
    matrix, side, inverse = _reduced(blocks, damping)
    diagonal = np.maximum(np.diag(blocks.a), 1e-12 * max(1.0, float(np.diag(blocks.a).max(initial=0.0))))
    matrix = matrix + np.diag(damping * diagonal)
    free = ~(((shared <= low) & (side > 0)) | ((shared >= high) & (side < 0)))
    step = np.zeros_like(shared)
    if free.any():
        step[free] = -np.linalg.lstsq(matrix[np.ix_(free, free)], side[free], rcond=None)[0]
    step *= min(1.0, largest / max(float(np.abs(step).max(initial=0.0)), 1e-300))
    step = np.clip(shared + step, low, high) - shared
    own_step = -np.einsum("wmn,wn->wm", inverse, blocks.h + np.einsum("wpm,p->wm", blocks.b, step))
    return step, own_step
