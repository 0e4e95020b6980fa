"""Noise paths: how a data sample turns into noise, and what a network can predict about a point in between.

Every path is x_t = signal(t) data + sigma(t) noise, with noise ~ N(0, I). What differs is what the level t means:

==============  =======================================  ===============  ===========
path            level t                                  noise end        data end
==============  =======================================  ===============  ===========
``DdpmPath``    0 ... K-1, diffusion steps (integers)    K - 1            -1
``LinearPath``  [0, 1], time of the flow                 0                1
``KarrasPath``  [sigma_min, sigma_max] and 0, deviation  sigma_max        0
==============  =======================================  ===============  ===========

A level is a number, or a tensor (B,) with one per row. Numbers are computed with in float64 on the host, so a sampler
over a fixed list of levels is plain tensor code with constants, which compiles and exports.
"""

from __future__ import annotations

import abc
import math
import operator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from policies.spec import InputError, suggest

#: epsilon: the noise. x0: the data. v: signal noise - sigma data (Salimans & Ho 2022). velocity: dx/dt along the path.
Prediction = Literal["epsilon", "x0", "v", "velocity"]
#: A noise level: a number, or (B,) numbers.
Level = float | torch.Tensor
#: Two coefficients, each a number or (B,) float64: of the data and of the noise.
Pair = tuple[Level, Level]


class Estimate(NamedTuple):
    """What x_t is made of, as far as one knows: ``data`` and ``noise``, both shaped like x (B, ...), normalised units."""

    data: torch.Tensor
    noise: torch.Tensor


def spread(coefficient: Level, x: torch.Tensor) -> Level:
    """Return a coefficient ready to multiply ``x`` (B, ...): a number as it is, (B,) as (B, 1, ...) in x's dtype."""
    if isinstance(coefficient, (int, float)):
        return coefficient
    return coefficient.to(x.dtype).reshape(-1, *(1 for _ in x.shape[1:]))


class NoisePath(abc.ABC):
    """x_t = signal(t) data + sigma(t) noise.

    Attributes:
        start: Level of pure noise, where sampling begins.
        end: Level of the data.
    """

    start: float
    end: float

    @abc.abstractmethod
    def scales(self, t: Level) -> Pair:
        """Return (signal, sigma) at level ``t``."""

    @abc.abstractmethod
    def rates(self, t: Level) -> Pair:
        """Return (d signal/dt, d sigma/dt) at level ``t``. Raises InputError on a path of discrete levels."""

    @abc.abstractmethod
    def clock(self, t: Level) -> Level:
        """Return the number, about 0 to 100, that networks embed for level ``t``."""

    @abc.abstractmethod
    def step_list(self, n: int, start: float | None = None) -> tuple[float, ...]:
        """Return n + 1 levels for ``n`` steps from ``start`` (None: pure noise) down to the data. Raises InputError."""

    @abc.abstractmethod
    def level_at(self, noise_to_signal: Level) -> Level:
        """Return the level where sigma / signal is the given number, or (B,), of at least 0; the nearest one where the path has none."""

    def prior(self, z: torch.Tensor) -> torch.Tensor:
        """Return the sample to begin with at ``start``, from standard normal ``z`` (B, ...)."""
        return spread(self.scales(self.start)[1], z) * z

    def mix(self, data: torch.Tensor, noise: torch.Tensor, t: Level) -> torch.Tensor:
        """Return x_t (B, ...) from data and noise (B, ...), normalised units: the forward process, and warm starts."""
        signal, sigma = (spread(c, data) for c in self.scales(t))
        return signal * data + sigma * noise

    def noise_in(self, x: torch.Tensor, data: torch.Tensor, t: Level) -> torch.Tensor:
        """Return the noise that makes ``x`` (B, ...) at level ``t`` of ``data`` (B, ...); not defined at the data end."""
        signal, sigma = (spread(c, x) for c in self.scales(t))
        return (x - signal * data) / sigma

    def target(self, kind: Prediction, data: torch.Tensor, noise: torch.Tensor, t: Level) -> torch.Tensor:
        """Return what a network that predicts ``kind`` should say at level ``t``; (B, ...) as data and noise."""
        of_data, of_noise = (spread(c, data) for c in self._row(kind, t))
        return of_data * data + of_noise * noise

    def estimate(self, kind: Prediction, prediction: torch.Tensor, x: torch.Tensor, t: Level) -> Estimate:
        """Return data and noise (B, ...) from ``x`` at level ``t`` and a prediction of it (B, ...), normalised units.

        Solves x = a data + b noise, prediction = c data + d noise. An epsilon prediction says nothing about the data
        where there is no signal (t = 0 of the linear path), an x0 prediction nothing about noise at the data end.
        """
        a, b = self.scales(t)
        c, d = self._row(kind, t)
        det = a * d - b * c
        a, b, c, d = (spread(k / det, x) for k in (a, b, c, d))
        return Estimate(d * x - b * prediction, a * prediction - c * x)

    def velocity(self, estimate: Estimate, t: Level) -> torch.Tensor:
        """Return dx/dt (B, ...) at level ``t``, normalised units per unit of level."""
        of_data, of_noise = (spread(c, estimate.data) for c in self.rates(t))
        return of_data * estimate.data + of_noise * estimate.noise

    def _row(self, kind: Prediction, t: Level) -> Pair:
        """Return (c, d) of prediction = c data + d noise."""
        if kind == "epsilon":
            return 0.0, 1.0
        if kind == "x0":
            return 1.0, 0.0
        if kind == "v":
            signal, sigma = self.scales(t)
            return -sigma, signal
        if kind == "velocity":
            return self.rates(t)
        raise InputError(f"prediction {kind!r} is unknown{suggest(kind, get_args(Prediction))}")


@dataclass(frozen=True)
class DdpmPath(NoisePath):
    """Variance-preserving diffusion over K discrete levels with the cosine schedule (Nichol & Dhariwal 2021, eq. 17).

    beta_k = min(1 - f(k + 1) / f(k), 0.999) with f(k) = cos^2((k / K + 0.008) / 1.008 pi / 2); alpha_bar_k is the
    product of 1 - beta up to k; signal = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar). This is ``squaredcos_cap_v2``.

    Attributes:
        levels: K.
    """

    levels: int = 100
    _table: tuple[tuple[float, ...], tuple[float, ...]] = field(init=False, repr=False, compare=False)  # scales of level t at t + 1

    def __post_init__(self) -> None:
        """Check the number of levels and compute their scales."""
        if self.levels < 1:
            raise InputError(f"diffusion path: expected at least 1 level, found {self.levels}")
        alpha_bar = np.concatenate([[1.0], self.alpha_bar])
        object.__setattr__(self, "_table", (tuple(np.sqrt(alpha_bar).tolist()), tuple(np.sqrt(1.0 - alpha_bar).tolist())))

    @property
    def start(self) -> float:  # type: ignore[override]
        """The noisiest level, K - 1."""
        return self.levels - 1

    @property
    def end(self) -> float:  # type: ignore[override]
        """The level of the data, -1: alpha_bar is 1 there."""
        return -1

    @property
    def betas(self) -> np.ndarray:
        """(K,) float64: variance that step k adds."""
        angle = (np.arange(self.levels + 1) / self.levels + 0.008) / 1.008 * (np.pi / 2)
        f = np.cos(angle) ** 2
        return np.minimum(1.0 - f[1:] / f[:-1], 0.999)

    @property
    def alpha_bar(self) -> np.ndarray:
        """(K,) float64: share of the signal's variance that is left at level k."""
        return np.cumprod(1.0 - self.betas)

    def scales(self, t: Level) -> Pair:
        """See base class; level ``t`` is an integer from -1 to K - 1, or (B,) int64, or (B,) float64 from 0 to K - 1.

        Between two levels, log(signal / sigma) is interpolated: that is where :meth:`level_at` puts levels of other paths.
        """
        signal, sigma = self._table
        if isinstance(t, (int, float)):
            index = operator.index(t) + 1  # type: ignore[arg-type] # refuses 3.0: a level between two has no meaning
            if not 0 <= index <= self.levels:
                raise InputError(f"diffusion level {t}: expected -1 (data) to {self.levels - 1}")
            return signal[index], sigma[index]
        if t.is_floating_point():
            table = torch.tensor(self._log_noise, dtype=torch.float64, device=t.device)
            below = t.floor().clamp(0, self.levels - 1).long()
            log_noise = torch.lerp(table[below], table[(below + 1).clamp_max(self.levels - 1)], t.double() - below)
            return torch.sigmoid(-2.0 * log_noise).sqrt(), torch.sigmoid(2.0 * log_noise).sqrt()
        rows = torch.tensor((signal, sigma), dtype=torch.float64, device=t.device)[:, t + 1]
        return rows[0], rows[1]

    def rates(self, t: Level) -> Pair:
        """See base class."""
        raise InputError("a diffusion path of discrete levels has no velocity; predict epsilon, x0 or v, and solve with ddpm or ddim")

    @property
    def _log_noise(self) -> list[float]:
        """log(sigma / signal) of levels 0 to K - 1, increasing."""
        return [math.log(b / a) for a, b in list(zip(*self._table, strict=True))[1:]]

    def level_at(self, noise_to_signal: Level) -> Level:
        """See base class; 0 to K - 1, and in general between two levels."""
        if isinstance(noise_to_signal, (int, float)):
            log_noise = math.log(noise_to_signal) if noise_to_signal > 0 else -math.inf
            return float(np.interp(log_noise, self._log_noise, np.arange(self.levels)))
        if self.levels == 1:
            return torch.zeros_like(noise_to_signal, dtype=torch.float64)
        table = torch.tensor(self._log_noise, dtype=torch.float64, device=noise_to_signal.device)
        log_noise = noise_to_signal.double().log().clamp(table[0], table[-1])
        above = torch.searchsorted(table, log_noise).clamp(1, self.levels - 1)
        low, high = table[above - 1], table[above]
        return above - 1 + (log_noise - low) / (high - low)

    def clock(self, t: Level) -> Level:
        """See base class: 100 k / K, which is k itself for the published K = 100."""
        return t * (100.0 / self.levels)

    def step_list(self, n: int, start: float | None = None) -> tuple[int, ...]:
        """See base class: evenly spaced and rounded; ends ... , -1. n = K gives every level."""
        first = self.levels - 1 if start is None else operator.index(start)  # type: ignore[arg-type]
        if not 0 <= first < self.levels:
            raise InputError(f"diffusion start level: expected 0 to {self.levels - 1}, found {first}")
        if not 1 <= n <= first + 1:
            raise InputError(f"diffusion steps: expected 1 to {first + 1} (every level from {first} to 0 once), found {n}")
        return tuple(round(first - i * (first + 1) / n) for i in range(n + 1))


@dataclass(frozen=True)
class LinearPath(NoisePath):
    """The straight path of flow matching: x_t = t data + (1 - t) noise; velocity = data - noise.

    Lipman et al. 2023 ("Flow matching for generative modeling", sigma_min = 0) and Liu et al. 2022 (rectified flow):
    noise at t = 0, data at t = 1.
    """

    start = 0.0
    end = 1.0

    def scales(self, t: Level) -> Pair:
        """See base class."""
        return t, 1.0 - t

    def rates(self, t: Level) -> Pair:
        """See base class."""
        return 1.0, -1.0

    def level_at(self, noise_to_signal: Level) -> Level:
        """See base class: 1 / (1 + sigma / signal)."""
        return 1.0 / (1.0 + noise_to_signal)

    def clock(self, t: Level) -> Level:
        """See base class: 100 t."""
        return 100.0 * t

    def step_list(self, n: int, start: float | None = None) -> tuple[float, ...]:
        """See base class: evenly spaced in t."""
        first = 0.0 if start is None else float(start)
        if n < 1:
            raise InputError(f"flow steps: expected at least 1, found {n}")
        if not 0.0 <= first < 1.0:
            raise InputError(f"flow start time: expected 0 (noise) to below 1 (data), found {first}")
        return (*(first + (1.0 - first) * i / n for i in range(n)), 1.0)


@dataclass(frozen=True)
class KarrasPath(NoisePath):
    """Variance-exploding diffusion, x = data + sigma noise, with the level sigma itself (EDM; Karras et al. 2022).

    Attributes:
        sigma_min: Smallest deviation that is sampled at, normalised units.
        sigma_max: Deviation of pure noise.
        rho: Bend of the step list, eq. 5: larger means more steps near the data.
        sigma_data: Deviation of the data, for the preconditioning.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 0.5

    end = 0.0

    def __post_init__(self) -> None:
        """Check that the range is one."""
        if not (0.0 < self.sigma_min < self.sigma_max and self.rho > 0 and self.sigma_data > 0):
            raise InputError(f"Karras path: expected 0 < sigma_min < sigma_max, rho > 0 and sigma_data > 0, found {self}")

    @property
    def start(self) -> float:  # type: ignore[override]
        """The noisiest level, sigma_max."""
        return self.sigma_max

    def scales(self, t: Level) -> Pair:
        """See base class."""
        return 1.0, t

    def rates(self, t: Level) -> Pair:
        """See base class."""
        return 0.0, 1.0

    def level_at(self, noise_to_signal: Level) -> Level:
        """See base class: sigma itself, between sigma_min and sigma_max."""
        if isinstance(noise_to_signal, (int, float)):
            return min(max(noise_to_signal, self.sigma_min), self.sigma_max)
        return noise_to_signal.clamp(self.sigma_min, self.sigma_max)

    def clock(self, t: Level) -> Level:
        """See base class: 25 ln sigma, a hundred times the c_noise of EDM."""
        return 25.0 * (math.log(t) if isinstance(t, (int, float)) else t.log())

    def precondition(self, t: Level) -> tuple[Level, Level, Level]:
        """Return (c_skip, c_out, c_in) of EDM's table 1: data = c_skip x + c_out network(c_in x).

        They keep input and target of the network at unit variance at every level.
        """
        total = (t**2 + self.sigma_data**2) ** 0.5
        return (self.sigma_data / total) ** 2, t * self.sigma_data / total, 1.0 / total

    def step_list(self, n: int, start: float | None = None) -> tuple[float, ...]:
        """See base class: eq. 5 from ``start`` to sigma_min, then 0."""
        first = self.sigma_max if start is None else float(start)
        if n < 1:
            raise InputError(f"Karras steps: expected at least 1, found {n}")
        if not self.sigma_min <= first <= self.sigma_max:
            raise InputError(f"Karras start level: expected {self.sigma_min} to {self.sigma_max}, found {first}")
        high, low = first ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (first, *((high + (low - high) * i / (n - 1)) ** self.rho for i in range(1, n)), 0.0)
