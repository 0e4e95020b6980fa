"""The oracle of generative samplers: a Gaussian mixture, whose optimal denoiser is known in closed form on every path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from policies.generative.paths import Estimate, Level, NoisePath, Prediction, spread


@dataclass(frozen=True)
class GaussianMixture:
    """Components N(mean_k, deviation_k^2 I) with weights (K,), means (K, D) and deviations (K,), all float64."""

    weights: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    @classmethod
    def of(cls, *components: tuple[float, tuple[float, ...], float]) -> GaussianMixture:
        """Build one from (weight, mean, deviation) triples."""
        weights, means, deviations = zip(*components, strict=True)
        return cls(*(torch.tensor(v, dtype=torch.float64) for v in (weights, means, deviations)))

    def estimate(self, path: NoisePath, x: torch.Tensor, t: Level) -> Estimate:
        """Return the expected data and noise (B, D) given x_t = x (B, D)."""
        a, b = (spread(c, x) for c in path.scales(t))
        away = x[:, None] - a * self.means if isinstance(a, float | int) else x[:, None] - a[:, None] * self.means
        total = a**2 * self.deviations**2 + b**2  # variance of x_t in each component, (K,) or (B, K)
        log_weight = self.weights.log() - 0.5 * x.shape[1] * total.log() - 0.5 * away.square().sum(-1) / total
        share = log_weight.softmax(-1)[..., None]  # (B, K, 1)
        gain = (a * self.deviations**2 / total)[..., None]
        data = (share * (self.means + gain * away)).sum(1)
        noise = (share * away * (b / total)[..., None]).sum(1)
        return Estimate(data, noise)

    def network(self, path: NoisePath, kind: Prediction):
        """Return (x, level) -> the prediction that training would converge to."""

        def predict(x: torch.Tensor, t: Level) -> torch.Tensor:
            return path.target(kind, *self.estimate(path, x, t), t)

        return predict

    def draw(self, n: int, seed: int = 0) -> torch.Tensor:
        """Return (n, D) samples."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[which] + self.deviations[which, None] * z

    def quantiles(self, n: int, direction: np.ndarray) -> np.ndarray:
        """Return the (i + 1/2) / n quantiles, i < n, of the projection on a unit vector (D,)."""
        centres, widths = self.means.numpy() @ direction, self.deviations.numpy()
        grid = np.linspace(centres.min() - 8 * widths.max(), centres.max() + 8 * widths.max(), 20001)
        cumulative = (self.weights.numpy() * stats.norm.cdf((grid[:, None] - centres) / widths)).sum(1)
        return np.interp((np.arange(n) + 0.5) / n, cumulative, grid)

    def distance(self, samples: torch.Tensor, directions: int = 8) -> float:
        """Return the 1-Wasserstein distance of samples (B, D) to the mixture; in 2-D the largest over projections."""
        x = samples.double().numpy()
        angles = np.arange(directions) * np.pi / directions
        units = [np.ones(1)] if x.shape[1] == 1 else [np.array([np.cos(a), np.sin(a)]) for a in angles]
        return max(float(np.abs(np.sort(x @ u) - self.quantiles(len(x), u)).mean()) for u in units)


def normal_grid(n: int) -> torch.Tensor:
    """Return (n, 1) standard normal quantiles: noise without sampling error, for deterministic samplers."""
    return torch.from_numpy(stats.norm.ppf((np.arange(n) + 0.5) / n))[:, None]


#: Unequal weights and widths, so that neither symmetry nor a collapsed mode passes.
BIMODAL = GaussianMixture.of((0.3, (-0.8,), 0.05), (0.7, (0.5,), 0.2))
RING = GaussianMixture.of(*((1 / 8, (float(np.cos(a)), float(np.sin(a))), 0.05) for a in np.arange(8) * np.pi / 4))
