"""Samplers: explicit steps from level t to level t_next along a noise path.

Each solver is a formula ``step(path, x, t, t_next, estimate, ...)`` that is right for any pair of levels, so a list of
levels may skip, begin anywhere (warm start) or end early. A formula for t -> t - 1 used on a list that skips leaves
more noise in x than the next level expects; here that cannot be written.

>>> model = denoiser(network, path, "epsilon", clip=1.0)                      # network: (x, clock) -> prediction
>>> x = sample(model, path.prior(z), path, path.step_list(10), Ddim(), noise)  # from noise, 10 steps
>>> x = sample(model, path.mix(plan, z, 15), path, (15, 9, 4, -1), Ddpm(), noise)  # warm start at level 15
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from policies.generative.paths import Estimate, Level, NoisePath, Prediction, spread
from policies.spec import InputError

#: (x (B, ...), level) -> what x is made of.
Model = Callable[[torch.Tensor, Level], Estimate]
#: Level and estimate of the step before; None at the first.
Earlier = tuple[Level, Estimate] | None
#: (x (B, ...), clock (B,)) -> prediction (B, ...), normalised units.
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Guidance: (estimate, x, level) -> a changed estimate, before it is clipped.
Guide = Callable[[Estimate, torch.Tensor, Level], Estimate]


class NormalSource(Protocol):
    """Where a sampler gets its noise: ``policies.noise.Noise``, or numbers that were drawn before."""

    def normal(self, *shape: int) -> torch.Tensor:
        """Return (B, *shape) standard normal numbers."""
        ...


def denoiser(network: Network, path: NoisePath, prediction: Prediction, clip: float | None = None, guide: Guide | None = None) -> Model:
    """Turn a network into a model of what x is made of.

    A clipped estimate is made consistent again: the noise becomes what is left of x (Diffusion Policy's DDIM keeps the
    noise of the unclipped estimate, so that data and noise no longer make up x).

    Args:
        network: Predicts ``prediction`` from x (B, ...) and the level's clock (B,).
        path: The path that it was trained on.
        prediction: What it predicts.
        clip: Bound of |data| in normalised units; None: none.
        guide: Changes the estimate before it is clipped.
    """

    def model(x: torch.Tensor, t: Level) -> Estimate:
        clock = path.clock(t)
        rows = x.new_full((x.shape[0],), clock) if isinstance(clock, (int, float)) else clock.to(x.dtype)
        estimate = path.estimate(prediction, network(x, rows), x, t)
        if guide is not None:
            estimate = guide(estimate, x, t)
        if clip is not None:
            data = estimate.data.clamp(-clip, clip)
            estimate = Estimate(data, path.noise_in(x, data, t))
        return estimate

    return model


@dataclass(frozen=True)
class Solver(abc.ABC):
    """A rule for one step. ``stochastic`` solvers use fresh noise in every step."""

    stochastic: ClassVar[bool] = False

    @abc.abstractmethod
    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """Return x at level ``t_next``.

        Args:
            path: The noise path.
            x: (B, ...) at level ``t``, normalised units.
            t: Where x is.
            t_next: Where to go, nearer to the data.
            estimate: What x is made of, each (B, ...).
            z: (B, ...) standard normal numbers, for stochastic solvers.
            earlier: Level and estimate of the step before, for multi-step solvers; None at the first.
        """

    def advance(
        self, model: Model, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> tuple[torch.Tensor, Estimate]:
        """Call ``model`` as often as this solver needs; return x (B, ...) at ``t_next`` and the estimate at ``t``."""
        estimate = model(x, t)
        return self.step(path, x, t, t_next, estimate, z, earlier), estimate

    def network_calls(self, path: NoisePath, levels: Sequence[Level]) -> int:
        """Return how many times :func:`sample` calls the model for these levels."""
        return len(levels) - 1


@dataclass(frozen=True)
class Ddpm(Solver):
    """Ancestral sampling: draws from the posterior q(x_s | x_t, data) (Ho et al. 2020, eq. 6-7), for any t -> s.

    With b(t|s) = sigma_t^2 - (signal_t / signal_s)^2 sigma_s^2, the variance that the path adds from s to t:
    mean = (signal_t / signal_s) sigma_s^2 / sigma_t^2 x_t + signal_s b(t|s) / sigma_t^2 data and variance
    b(t|s) sigma_s^2 / sigma_t^2 (``fixed_small``), which is 0 at the data end.
    """

    stochastic: ClassVar[bool] = True

    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """See base class; ``z`` is needed."""
        (a, b), (a_next, b_next) = path.scales(t), path.scales(t_next)
        added = b**2 - (a / a_next) ** 2 * b_next**2
        of_x, of_data = (a / a_next) * b_next**2 / b**2, a_next * added / b**2
        deviation = _root(added) * b_next / b
        mean = spread(of_x, x) * x + spread(of_data, x) * estimate.data
        return mean + spread(deviation, x) * _needed(z)


@dataclass(frozen=True)
class Ddim(Solver):
    """Goes to the same mix of data and noise at the next level (Song et al. 2021, eq. 12); exact for a perfect estimate.

    On the linear and the Karras path this is the Euler step. With ``eta`` above 0, a share of the noise is drawn anew;
    ``eta`` = 1 is :class:`Ddpm`.

    Attributes:
        eta: Share of the posterior's deviation, 0 to 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0.0 <= self.eta <= 1.0:
            raise InputError(f"ddim: eta: expected 0 to 1, found {self.eta}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether noise is drawn anew."""
        return self.eta > 0.0

    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """See base class; ``z`` is needed if ``eta`` > 0."""
        if not self.stochastic:
            return path.mix(estimate.data, estimate.noise, t_next)
        (a, b), (a_next, b_next) = path.scales(t), path.scales(t_next)
        fresh = self.eta * _root(b**2 - (a / a_next) ** 2 * b_next**2) * b_next / b
        kept = _root(b_next**2 - fresh**2)
        return spread(a_next, x) * estimate.data + spread(kept, x) * estimate.noise + spread(fresh, x) * _needed(z)


@dataclass(frozen=True)
class DpmSolver(Solver):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from one call a step, by remembering the last estimate.

    With lambda = log(signal / sigma) and h = lambda_next - lambda: x_next = sigma_next / sigma x - signal_next
    (e^-h - 1) D, where D extrapolates the data estimates of this step and the one before. The first step and one onto
    the data end are of first order, which is DDIM.
    """

    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """See base class; ``earlier`` makes it second order."""
        (a, b), (a_next, b_next) = path.scales(t), path.scales(t_next)
        data = estimate.data
        if earlier is not None and not _same(t_next, path.end):
            a_last, b_last = path.scales(earlier[0])
            half = 0.5 * (_log(a_next / b_next) - _log(a / b)) / (_log(a / b) - _log(a_last / b_last))
            if isinstance(half, torch.Tensor):  # rows that end here, or stood still in the step before
                half = torch.where(half.isfinite(), half, 0.0)
            data = data + spread(half, x) * (data - earlier[1].data)
        shrink = a * b_next / (a_next * b)  # e^-h
        return spread(b_next / b, x) * x + spread(a_next * (1.0 - shrink), x) * data


@dataclass(frozen=True)
class Euler(Solver):
    """First-order step along the velocity: x + (t_next - t) dx/dt; for paths with continuous levels."""

    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """See base class."""
        return x + spread(t_next - t, x) * path.velocity(estimate, t)


@dataclass(frozen=True)
class Heun(Euler):
    """Second-order step with the mean of the velocities at both ends (Karras et al. 2022, algorithm 1).

    Onto the data end it is an Euler step, since estimates are not defined there: n steps make 2 n - 1 calls.
    """

    def advance(
        self, model: Model, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> tuple[torch.Tensor, Estimate]:
        """Return x (B, ...) at ``t_next`` and the estimate at ``t``, after two calls, or one onto the data end."""
        estimate = model(x, t)
        guess = self.step(path, x, t, t_next, estimate)
        if _same(t_next, path.end):
            return guess, estimate
        both = path.velocity(estimate, t) + path.velocity(model(guess, t_next), t_next)
        return x + spread(0.5 * (t_next - t), x) * both, estimate

    def network_calls(self, path: NoisePath, levels: Sequence[Level]) -> int:
        """See base class."""
        return sum(1 if _same(t, path.end) else 2 for t in levels[1:])


@dataclass(frozen=True)
class Churn(Solver):
    """Noises x a little before every step and solves from there (Karras et al. 2022, algorithm 2): corrects earlier errors.

    sigma / signal is raised by the factor 1 + ``gamma`` where it is between ``low`` and ``high``; the step then begins at
    the noised x, at its level, with the estimate made there. On a path that ends, noise is raised to its start at most.
    A solver that remembers the last step (:class:`DpmSolver`) is of first order here, since new noise lies in between.

    Attributes:
        solver: The rule for the step itself, deterministic.
        gamma: Karras's min(S_churn / steps, sqrt(2) - 1); at least 0.
        low: Karras's S_tmin, as sigma / signal.
        high: Karras's S_tmax, as sigma / signal.
        inflate: Karras's S_noise: deviation of the numbers that are added; slightly above 1 makes up for detail lost.
    """

    stochastic: ClassVar[bool] = True

    solver: Solver
    gamma: float = math.sqrt(2.0) - 1.0
    low: float = 0.0
    high: float = math.inf
    inflate: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.gamma < 0.0 or not 0.0 <= self.low <= self.high or self.inflate <= 0.0:
            raise InputError(f"churn: expected gamma >= 0, 0 <= low <= high and inflate > 0, found {self}")
        if self.solver.stochastic:
            raise InputError(f"churn: expected a deterministic solver inside, found {type(self.solver).__name__}")

    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """Return x at ``t_next`` for x, ``t`` and ``estimate`` after the noise was raised; see :meth:`raised`."""
        return self.solver.step(path, x, t, t_next, estimate)

    def advance(
        self, model: Model, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> tuple[torch.Tensor, Estimate]:
        """Return x (B, ...) at ``t_next`` and the estimate of the noised x."""
        x, t = self.raised(path, x, t, _needed(z))
        return self.solver.advance(model, path, x, t, t_next)

    def raised(self, path: NoisePath, x: torch.Tensor, t: Level, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x (B, ...) with more noise, by the numbers ``z``, and its levels (B,) float64."""
        rows = t if isinstance(t, torch.Tensor) else torch.full((x.shape[0],), t, dtype=torch.float64, device=x.device)
        a, b = (torch.as_tensor(c, dtype=torch.float64, device=x.device) for c in path.scales(t))
        ratio = b / a
        here = (ratio >= self.low) & (ratio <= self.high) & (a > 0)
        level = torch.where(here, path.level_at(ratio * (1.0 + self.gamma)), rows)
        a_up, b_up = path.scales(level)
        shrink = torch.where(here, a_up / a, 1.0)
        added = self.inflate * torch.where(here, _root(b_up**2 - (shrink * b) ** 2), 0.0)
        return spread(shrink, x) * x + spread(added, x) * z, level

    def network_calls(self, path: NoisePath, levels: Sequence[Level]) -> int:
        """See base class."""
        return self.solver.network_calls(path, levels)


def sample(model: Model, x: torch.Tensor, path: NoisePath, levels: Sequence[Level], solver: Solver, noise: NormalSource | None = None) -> torch.Tensor:
    """Walk from ``levels[0]`` to ``levels[-1]``; returns x (B, ...) there, normalised units.

    Args:
        model: What x is made of, see :func:`denoiser`.
        x: (B, ...) at ``levels[0]``: ``path.prior(z)`` at pure noise, ``path.mix(guess, z, level)`` for a warm start.
        path: The noise path.
        levels: Each nearer to the data than the one before, e.g. ``path.step_list(10)``. One may be (B,), a level per
            row; a row whose level stays is left alone, so rows can begin late and end early.
        solver: The rule for one step.
        noise: For stochastic solvers: one draw of (steps, ...) numbers a row.

    Raises:
        InputError: if the solver is stochastic and there is no noise.
    """
    draws: torch.Tensor | None = None
    if solver.stochastic:
        if noise is None:
            raise InputError(f"{type(solver).__name__} draws noise in every step and was given none")
        draws = noise.normal(len(levels) - 1, *x.shape[1:]).to(x.dtype)
    earlier: Earlier = None
    for i, (t, t_next) in enumerate(itertools.pairwise(levels)):
        there, estimate = solver.advance(model, path, x, t, t_next, None if draws is None else draws[:, i], earlier)
        stays = t == t_next
        x = torch.where(stays.reshape(-1, *(1 for _ in x.shape[1:])), x, there) if isinstance(stays, torch.Tensor) else there
        earlier = (t, estimate)
    return x


def _root(value: Level) -> Level:
    """Square root of a variance, which rounding may have put just below 0."""
    return math.sqrt(max(value, 0.0)) if isinstance(value, (int, float)) else value.clamp_min(0.0).sqrt()


def _log(value: Level) -> Level:
    if isinstance(value, (int, float)):
        return math.log(value) if value > 0 else -math.inf
    return value.log()


def _same(t: Level, level: float) -> bool:
    """Whether ``t`` is the number ``level``; rows with levels of their own are never known to be."""
    return not isinstance(t, torch.Tensor) and t == level


def _needed(z: torch.Tensor | None) -> torch.Tensor:
    if z is None:
        raise InputError("a stochastic step needs noise")
    return z
