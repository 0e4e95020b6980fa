"""1-Wasserstein distances: exact to a one-dimensional mixture of normals, exact between small sets, sliced between large ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import ndtr


@dataclass(frozen=True)
class Law:
    """A mixture of normals on the line: weights, centres and widths, each (K,)."""

    weights: np.ndarray
    centres: np.ndarray
    widths: np.ndarray

    def cumulative(self, x: np.ndarray) -> np.ndarray:
        """Return F at x (n,)."""
        return ndtr((x[:, None] - self.centres) / self.widths) @ self.weights

    def quantiles(self, u: np.ndarray) -> np.ndarray:
        """Return where F is ``u`` (n,), inside (0, 1)."""
        grid = np.linspace((self.centres - 8 * self.widths).min(), (self.centres + 8 * self.widths).max(), 10001)
        return np.interp(u, self.cumulative(grid), grid)

    def distance(self, samples: np.ndarray) -> float:
        """Return the integral of |F - F_n| for samples (n,): W1, exactly.

        Between two neighbouring samples F_n is constant and F crosses it once at most; the antiderivative of
        F, sum_k w_k s_k (z Phi(z) + phi(z)), does the rest.
        """
        x, n = np.sort(samples), len(samples)
        share = np.arange(1, n) / n
        left, right = x[:-1], x[1:]
        cross = np.clip(self.quantiles(share), left, right) if n > 1 else left
        g_left, g_cross, g_right = self._integral(left), self._integral(cross), self._integral(right)
        inside = share * (cross - left) - (g_cross - g_left) + (g_right - g_cross) - share * (right - cross)
        below = self._integral(x[:1])[0]
        above = self.weights @ self.centres - x[-1] + self._integral(x[-1:])[0]
        return float(inside.sum() + below + above)

    def _integral(self, x: np.ndarray) -> np.ndarray:
        """Return the integral of F up to x (n,)."""
        z = (x[:, None] - self.centres) / self.widths
        return (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)) @ (self.weights * self.widths)


def unit_vectors(dim: int, n: int) -> np.ndarray:
    """Return unit vectors (m, dim): one in 1-D, n evenly spread in 2-D, else the axes and n in random directions."""
    if dim == 1:
        return np.ones((1, 1))
    if dim == 2:
        angles = np.arange(n) * np.pi / n
        return np.stack([np.cos(angles), np.sin(angles)], 1)
    free = np.random.default_rng(0).standard_normal((n, dim))
    return np.concatenate([np.eye(dim), free / np.linalg.norm(free, axis=1, keepdims=True)])


def wasserstein(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return W1 between samples (n, D) and (n, D), exactly; an assignment problem of n^3, for n up to about 1000."""
    x, y = (v.detach().double().numpy() for v in (a, b))
    if x.shape[1] == 1:
        return float(stats.wasserstein_distance(x[:, 0], y[:, 0]))
    costs = cdist(x, y)
    return float(costs[linear_sum_assignment(costs)].mean())


def sliced_wasserstein(a: torch.Tensor, b: torch.Tensor, directions: int = 32) -> float:
    """Return the mean over projections of W1 between samples (n, D) and (m, D); never above :func:`wasserstein`."""
    x, y = (v.detach().double().numpy() for v in (a, b))
    return float(np.mean([stats.wasserstein_distance(x @ u, y @ u) for u in unit_vectors(x.shape[1], directions)]))
