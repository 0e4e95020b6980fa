"""The oracle of generative samplers: Gaussian mixtures, of which everything is known in closed form on every noise path.

Data ~ sum_k w_k N(m_k, diag(s_k^2)) makes x_t = a data + b noise ~ sum_k w_k N(a m_k, diag(a^2 s_k^2 + b^2)): score,
energy, the expected data and noise, the velocity and their change with the level follow. In a conditional mixture the
means and the weights depend on a condition, so that it is what a perfectly trained policy samples from.
All of it is float64. Ready policies around it are in ``tests.oracles.policy``, distances in ``tests.oracles.distance``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from policies.generative.paths import DdpmPath, Estimate, KarrasPath, Level, LinearPath, NoisePath, Prediction
from policies.generative.samplers import Model
from tests.oracles import distance


@dataclass(frozen=True)
class GaussianMixture:
    """One mixture for all rows of x, or one per row: the leading dimension (B,) of the parameters is optional.

    Attributes:
        weights: (K,) or (B, K), summing to 1.
        means: (K, D) or (B, K, D).
        deviations: (K, 1), (K, D) or (B, K, D); a single number per component is isotropic.
    """

    weights: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    @classmethod
    def of(cls, *components: tuple[float, Sequence[float], float | Sequence[float]]) -> GaussianMixture:
        """Build one from (weight, mean, deviation) triples; a deviation is a number or one per dimension."""
        weights, means, deviations = zip(*components, strict=True)
        wide = [np.broadcast_to(d, len(m)) for m, d in zip(means, deviations, strict=True)]
        return cls(*(torch.tensor(np.array(v, float), dtype=torch.float64) for v in (weights, means, wide)))

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[-1]

    # --- at any level of a path --------------------------------------------------------------------------------------

    def at(self, path: NoisePath, t: float) -> GaussianMixture:
        """Return the law of x_t, a mixture too."""
        a, b = path.scales(t)
        return GaussianMixture(self.weights, a * self.means, ((a * self.deviations) ** 2 + b**2) ** 0.5)

    def log_density(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return log p_t(x), (B,), for x (B, D) at level ``t`` (a number or (B,))."""
        return self._log_terms(*self._components(path, x, t)[:2]).logsumexp(-1)

    def energy(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return -log p_t(x), (B,)."""
        return -self.log_density(path, x, t)

    def responsibilities(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the probability (B, K) that each component made x (B, D)."""
        return self._log_terms(*self._components(path, x, t)[:2]).softmax(-1)

    def score(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the gradient of log p_t with respect to x, (B, D)."""
        away, total, _ = self._components(path, x, t)
        return (self.responsibilities(path, x, t)[..., None] * (-away / total)).sum(1)

    def data(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the expected data (B, D) given x_t = x."""
        away, total, (a, _) = self._components(path, x, t)
        each = self.means + a * self.deviations**2 / total * away
        return (self.responsibilities(path, x, t)[..., None] * each).sum(1)

    def estimate(self, path: NoisePath, x: torch.Tensor, t: Level) -> Estimate:
        """Return the expected data and noise (B, D) given x_t = x; the noise is -sigma times the score."""
        away, total, (a, b) = self._components(path, x, t)
        pull = away / total
        share = self._log_terms(away, total).softmax(-1)[..., None]
        return Estimate((share * (self.means + a * self.deviations**2 * pull)).sum(1), (share * (b * pull)).sum(1))

    def velocity(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the expected dx/dt (B, D) given x_t = x: the marginal velocity of flow matching."""
        return path.velocity(self.estimate(path, x, t), t)

    def energy_rate(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the partial derivative of the energy with respect to the level, (B,), x held."""
        away, total, (a, b) = self._components(path, x, t)
        of_a, of_b = (_broadcastable(c) for c in path.rates(t))
        of_total = 2.0 * (a * of_a * self.deviations**2 + b * of_b)
        each = -0.5 * of_total / total + away * of_a * self.means / total + 0.5 * away**2 * of_total / total**2
        return -(self.responsibilities(path, x, t) * each.sum(-1)).sum(-1)

    def covariance_of_data(self, path: NoisePath, x: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the covariance (B, D, D) of the data given x_t = x; sigma^2 / signal times the Jacobian of :meth:`data`."""
        away, total, (a, b) = self._components(path, x, t)
        share = self.responsibilities(path, x, t)[..., None]
        each = self.means + a * self.deviations**2 / total * away
        centred = each - (share * each).sum(1, keepdim=True)
        within = (share * (self.deviations**2 * b**2 / total)).sum(1)
        return torch.einsum("bki,bkj->bij", share * centred, centred) + torch.diag_embed(within)

    def model(self, path: NoisePath, clip: float | None = None) -> Model:
        """Return (x (B, D), level) -> Estimate, as a perfectly trained ``denoiser`` gives it."""

        def predict(x: torch.Tensor, t: Level) -> Estimate:
            estimate = self.estimate(path, x, t)
            if clip is None:
                return estimate
            data = estimate.data.clamp(-clip, clip)
            return Estimate(data, path.noise_in(x, data, t))

        return predict

    def network(self, path: NoisePath, kind: Prediction):
        """Return (x (B, D), clock (B,)) -> the prediction that training would converge to, for ``denoiser``."""

        def predict(x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
            t = level_of(path, clock)
            return path.target(kind, *self.estimate(path, x, t), t)

        return predict

    # --- of the data itself ------------------------------------------------------------------------------------------

    def mean(self) -> torch.Tensor:
        """Return the mean (D,) or (B, D) of the data."""
        return (self.weights[..., None] * self.means).sum(-2)

    def covariance(self) -> torch.Tensor:
        """Return the covariance (D, D) or (B, D, D) of the data."""
        centred = self.means - self.mean().unsqueeze(-2)
        between = torch.einsum("...k,...ki,...kj->...ij", self.weights, centred, centred)
        wide = self.deviations.expand(*self.deviations.shape[:-1], self.dim)
        return between + torch.diag_embed((self.weights[..., None] * wide**2).sum(-2))

    def given_part(self, known: Sequence[int], values: torch.Tensor) -> GaussianMixture:
        """Return the exact law of the other dimensions, one mixture a row, given the ``known`` ones as ``values`` (B, len(known))."""
        wide = self.deviations.expand_as(self.means)
        rest = [d for d in range(self.dim) if d not in known]
        away = (values[:, None] - self.means[..., list(known)]) / wide[..., list(known)]
        log_weights = self.weights.log() - wide[..., list(known)].log().sum(-1) - 0.5 * away.square().sum(-1)
        rows = (len(values), *self.means.shape[-2:-1], len(rest))
        return GaussianMixture(log_weights.softmax(-1), self.means[..., rest].expand(rows), wide[..., rest].expand(rows))

    def draw(self, n: int, seed: int = 0) -> torch.Tensor:
        """Return (n, D) samples; of a mixture per row, n = B and each row has its own."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights.expand(n, -1), 1, generator=generator)[..., None].expand(-1, -1, self.dim)
        z = torch.randn(n, self.dim, dtype=torch.float64, generator=generator)
        means, deviations = (v.expand(n, self.means.shape[-2], self.dim).gather(1, which)[:, 0] for v in (self.means, self.deviations))
        return means + deviations * z

    def projected(self, direction: np.ndarray) -> distance.Law:
        """Return the law of the projection on a unit vector (D,), for distances; not of a mixture per row."""
        wide = self.deviations.expand_as(self.means).numpy()
        return distance.Law(self.weights.numpy(), self.means.numpy() @ direction, np.sqrt(wide**2 @ direction**2))

    def distance(self, samples: torch.Tensor, directions: int = 16) -> float:
        """Return the 1-Wasserstein distance of samples (n, D) to the mixture: exact in 1-D, else the largest over projections."""
        x = samples.detach().double().numpy()
        return max(self.projected(u).distance(x @ u) for u in distance.unit_vectors(self.dim, directions))

    def _components(self, path: NoisePath, x: torch.Tensor, t: Level) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Return x_t - a m_k (B, K, D), its variance (B or 1, K, D or 1), and the scales (1 or B, 1, 1)."""
        a, b = (_broadcastable(c) for c in path.scales(t))
        return x[:, None] - a * self.means, a**2 * self.deviations**2 + b**2, (a, b)

    def _log_terms(self, away: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Return log w_k N(x_t; a m_k, total), (B, K)."""
        size = (2.0 * np.pi * total).log().expand(*total.shape[:-1], self.dim).sum(-1)
        return self.weights.log() - 0.5 * (size + (away**2 / total).sum(-1))


@dataclass(frozen=True)
class ConditionalMixture:
    """m_k(c) = means_k + slopes_k c, log w_k(c) = log weights_k + tilts_k . c, up to a constant: a policy in closed form.

    Attributes:
        base: The mixture at condition 0.
        slopes: (K, D, C).
        tilts: (K, C); 0: the weights do not depend on the condition.
    """

    base: GaussianMixture
    slopes: torch.Tensor
    tilts: torch.Tensor

    @classmethod
    def of(cls, base: GaussianMixture, slopes: object, tilts: object = 0.0) -> ConditionalMixture:
        """Build one; ``slopes`` broadcasts to (K, D, C) and ``tilts`` to (K, C)."""
        slope = torch.as_tensor(slopes, dtype=torch.float64)
        slope = slope.expand(*base.means.shape, slope.shape[-1] if slope.ndim else 1)
        tilt = torch.as_tensor(tilts, dtype=torch.float64).expand(len(base.weights), slope.shape[-1])
        return cls(base, slope, tilt)

    def given(self, condition: torch.Tensor) -> GaussianMixture:
        """Return one mixture a row for ``condition`` (B, C)."""
        c = condition.double()
        weights = (self.base.weights.log() + c @ self.tilts.mT).softmax(-1)
        return GaussianMixture(weights, self.base.means + torch.einsum("kdc,bc->bkd", self.slopes, c), self.base.deviations)

    def draw(self, condition: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Return one sample (B, D) for each condition (B, C)."""
        return self.given(condition).draw(len(condition), seed)


def level_of(path: NoisePath, clock: torch.Tensor) -> torch.Tensor:
    """Return the levels (B,) of the clocks (B,) that networks are told: undoes ``path.clock``."""
    clock = clock.double()
    if isinstance(path, DdpmPath):
        return (clock * (path.levels / 100.0)).round().long()
    if isinstance(path, LinearPath):
        return clock / 100.0
    assert isinstance(path, KarrasPath)
    return (clock / 25.0).exp()


def normal_grid(n: int) -> torch.Tensor:
    """Return (n, 1) standard normal quantiles: noise without sampling error, for deterministic samplers."""
    return torch.from_numpy(stats.norm.ppf((np.arange(n) + 0.5) / n))[:, None]


def two_modes(dim: int = 1, separation: float = 1.0, deviation: float = 0.05, share: float = 0.5) -> GaussianMixture:
    """Return ``share`` at +separation and the rest at -separation, in all dimensions alike: two ways that do not mix."""
    return GaussianMixture.of((share, [separation] * dim, deviation), (1.0 - share, [-separation] * dim, deviation))


def _broadcastable(coefficient: Level) -> torch.Tensor:
    return torch.as_tensor(coefficient, dtype=torch.float64).reshape(-1, 1, 1)


#: Unequal weights and widths, so that neither symmetry nor a collapsed mode passes.
BIMODAL = GaussianMixture.of((0.3, (-0.8,), 0.05), (0.7, (0.5,), 0.2))
RING = GaussianMixture.of(*((1 / 8, (float(np.cos(a)), float(np.sin(a))), 0.05) for a in np.arange(8) * np.pi / 4))
#: Diagonal, with a different width in every dimension and component.
DIAGONAL = GaussianMixture.of((0.6, (0.5, -0.4, 0.1), (0.05, 0.2, 0.1)), (0.4, (-0.5, 0.3, 0.6), (0.3, 0.1, 0.15)))
#: Where the condition moves the means, and turns one mode into the other: c = 0 is a coin, c = +-1 all but certain.
STEERED = ConditionalMixture.of(two_modes(2, 0.6, 0.1), [[[0.2], [0.0]], [[0.0], [-0.2]]], [[3.0], [-3.0]])
