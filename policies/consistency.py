"""Consistency policy: jumps from any noise level to a chunk of actions in one network call, distilled or from scratch.

Song et al. 2023, "Consistency models": f(x, sigma) is the end of the path (the probability flow ODE) that x is on, so it
is the same at all levels of one path. Training makes f at a level agree with f, held constant, one level nearer to the
data, and the form of f makes it the identity at sigma_min. The neighbour on the path is found in one of two ways:

- distillation: by one solver step of a teacher (``policy.teacher=CHECKPOINT``, any generative policy, on any path);
- from scratch: by the same noise at both levels, which is right in the mean and the better the closer the levels are,
  so they grow in number while training goes on (Song & Dhariwal 2023, "Improved techniques", sections 3.2 to 3.5).

Acting: f of pure noise. With more calls the answer is noised anew to a smaller level, and f is asked again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import pydantic
import torch

from policies.generative.paths import Estimate, KarrasPath, Level, NoisePath, spread
from policies.generative.policy import GenerativePolicy
from policies.generative.robust import tempered
from policies.generative.samplers import Earlier, Euler, Heun, Model, Solver
from policies.generative.translate import rows, translate
from policies.learnt import Batch
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import InputError, Spec
from policies.teacher import Lesson, Student, StudentConfig

_FIRST_LEVELS = 10  # of the curriculum
_LOG_MEAN, _LOG_DEVIATION = -1.1, 2.0  # of ln sigma in training (Song & Dhariwal 2023, section 3.5)
_SMALL = 0.00054  # root mean square difference where the distance turns from square to absolute (same, section 3.3)


class ConsistencyConfig(StudentConfig):
    """What a consistency policy can be told.

    Published models begin at sigma 80, for images. A normalised chunk whose two routes are D = 8 apart (16 steps, one
    number 0.5 apart in each) begins at most D / 2 / sigma_max / sqrt(2 pi) = 8 % from the right distribution with 20,
    and a third of the levels would lie between 20 and 80, where all answers are the same.
    """

    steps: pydantic.PositiveInt = 1  # network calls per chunk
    levels: int = pydantic.Field(default=160, ge=_FIRST_LEVELS)  # N at the end of training; it begins with 10
    solver: Literal["euler", "heun"] = "heun"  # of the teacher, from a level to the next
    sigma_min: pydantic.PositiveFloat = 0.002  # where f is the identity, normalised
    sigma_max: pydantic.PositiveFloat = 20.0  # of pure noise
    sigma_data: pydantic.PositiveFloat = 0.5  # deviation of the actions, which scales what the network is given
    sigma_skip: pydantic.PositiveFloat = 0.15  # above this noise f is the network's answer, below it is mostly x

    @property
    def input_skip(self) -> bool:
        """See base class: below ``sigma_skip`` the network's answer holds the noise."""
        return True

    @pydantic.model_validator(mode="after")
    def _levels_are_ordered(self) -> ConsistencyConfig:
        if not self.sigma_min < self.sigma_data < self.sigma_max:
            raise ValueError(f"expected sigma_min < sigma_data < sigma_max, found {self.sigma_min}, {self.sigma_data} and {self.sigma_max}")
        return self


@dataclass(frozen=True)
class ConsistencyPath(KarrasPath):
    """The Karras path with levels for re-noising, and a slower clock: fast sines make training unstable (same, section 3.1)."""

    def clock(self, t: Level) -> Level:
        """See base class: 8 ln sigma."""
        return 0.32 * super().clock(t)

    def step_list(self, n: int, start: float | None = None) -> tuple[float, ...]:
        """See base class: ``start``, then evenly down from sigma_data.

        Noise above sigma_data would ask anew which of the modes it shall be, which the first call has answered as well.
        """
        first, *_ = super().step_list(n, start)
        high = min(first, self.sigma_data)
        return (first, *(max(high * (n - i) / n, self.sigma_min) for i in range(1, n)), 0.0)


@dataclass(frozen=True)
class Renoise(Solver):
    """Takes the estimated data and noises it to the next level: data + sqrt(t_next^2 - sigma_min^2) z (Song et al. 2023, algorithm 1).

    Attributes:
        sigma_min: Noise that a consistency function leaves.
    """

    stochastic: ClassVar[bool] = True
    sigma_min: float = 0.002

    def step(
        self, path: NoisePath, x: torch.Tensor, t: Level, t_next: Level, estimate: Estimate, z: torch.Tensor | None = None, earlier: Earlier = None
    ) -> torch.Tensor:
        """See base class; ``t_next`` is a number, ``z`` is needed unless it is the data end."""
        if isinstance(t_next, torch.Tensor) or z is None:
            raise InputError("re-noising takes one level for all rows, and noise")
        return estimate.data + math.sqrt(max(t_next**2 - self.sigma_min**2, 0.0)) * z


class Ladder(NamedTuple):
    """The levels of training, from sigma_min up: ``levels`` (N,), ``cumulative`` (N,) shares of their pairs, ``weights`` (N - 1,)."""

    levels: torch.Tensor
    cumulative: torch.Tensor
    weights: torch.Tensor


class ConsistencyPolicy(Student, GenerativePolicy):
    """A consistency function over action chunks: f(x, sigma) = c_skip x + c_out network(c_in x).

    With d = sigma - sigma_min and s = sigma_skip: c_skip = s^2 / (d^2 + s^2), c_out = d / sqrt(sigma^2 + s^2), and
    c_in = 1 / sqrt(sigma^2 + sigma_data^2), which keeps the input at unit size at every level (released code for RL has
    no c_in). The published c_skip has sigma_data for s: then the network must name the noise in x wherever that is below
    the spread of all data, though given the observation the data are much narrower; with a small s it names the data.
    """

    Config = ConsistencyConfig
    config: ConsistencyConfig
    path: ConsistencyPath
    prediction = "x0"

    _solvers: ClassVar[dict[str, Solver]] = {"euler": Euler(), "heun": Heun()}

    def __init__(self, config: ConsistencyConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        self.path = ConsistencyPath(config.sigma_min, config.sigma_max, sigma_data=config.sigma_data)
        self.begin_update(1.0)

    @property
    def solver(self) -> Solver:
        """See base class."""
        return Renoise(self.config.sigma_min)

    @property
    def steps(self) -> int:
        """See base class."""
        return self.config.steps

    def begin_update(self, progress: float) -> None:
        """See base class: N doubles from 10 to ``levels`` at equal intervals (Song & Dhariwal 2023, eq. 10)."""
        doublings = math.log2(self.config.levels / _FIRST_LEVELS)
        n = min(int(_FIRST_LEVELS * 2.0 ** int(progress * (math.floor(doublings) + 1))), self.config.levels)
        if progress >= 1.0:
            n = self.config.levels
        if n != getattr(self, "_n", None):
            self._n, self._ladder = n, ladder(self.path, n)

    def jump(self, x: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return f: the chunk (B, Tp, De) at the end of the path of ``x`` (B, Tp, De) at ``sigma`` (B,), for ``condition`` (B, To, C)."""
        away, width = sigma - self.config.sigma_min, self.config.sigma_skip
        skip, out = width**2 / (away**2 + width**2), away / (sigma**2 + width**2).sqrt()
        into = self.path.precondition(sigma)[2]
        answer = self.network(spread(into, x) * x, torch.as_tensor(self.path.clock(sigma)).to(x.dtype), condition=condition)
        return spread(skip, x) * x + spread(out, x) * answer

    def model(self, condition: torch.Tensor) -> Model:
        """See base class; the data are the end of x's own path, not the mean of all data that x may come from."""

        def estimate(x: torch.Tensor, t: Level) -> Estimate:
            data = self.jump(x, rows(t, x), condition)
            return Estimate(data, self.path.noise_in(x, data, t))

        return estimate

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return weighted squared errors (B, Tp, De) between two neighbouring levels with the same noise, normalised."""
        low, high, weight = self.neighbours(noise)
        z = noise.normal(*chunk.shape[1:])
        return self._disagreement(self.path.mix(chunk, z, high), high, self.path.mix(chunk, z, low), low, weight, condition)

    def taught_errors(self, chunk: torch.Tensor, condition: torch.Tensor, lesson: Lesson, noise: Noise) -> torch.Tensor:
        """Return the same where the teacher steps from one level to the next."""
        low, high, weight = self.neighbours(noise)
        x = self.path.mix(chunk, noise.normal(*chunk.shape[1:]), high)
        with torch.no_grad():
            teacher = translate(lesson.teacher.model(lesson.condition), lesson.teacher.path, self.path)
            nearer, _ = self._solvers[self.config.solver].advance(teacher, self.path, x, high, low)
        return self._disagreement(x, high, nearer, low, weight, condition)

    def _disagreement(
        self, x: torch.Tensor, sigma: torch.Tensor, nearer: torch.Tensor, low: torch.Tensor, weight: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """Return weighted squared errors of f at ``sigma`` against f at ``low``, which is held constant."""
        here = self.jump(x, sigma, condition)
        with torch.no_grad():
            there = self.jump(nearer, low, condition)
        return spread(weight, x) ** 2 * ((here - there) ** 2 + _SMALL**2)

    def average(self, errors: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See base class; the weighted mean of pseudo-Huber distances sqrt(mean d^2 + c^2)."""
        real = ~batch["action_is_pad"] if self.config.mask_padding else None
        return super().average(tempered(errors, 0.5, 0.0, real), batch)

    def neighbours(self, noise: Noise) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw a pair of neighbouring levels a row; returns the lower, the upper and the weight of their error, each (B,)."""
        levels, cumulative, weights = (part.to(noise.keys.device) for part in self._ladder)
        n = torch.searchsorted(cumulative, noise.uniform().double(), right=True).clamp(1, len(levels) - 1) - 1
        return levels[n], levels[n + 1], weights[n]


def ladder(path: KarrasPath, n: int) -> Ladder:
    """Return ``n`` levels of a path, how often each pair of neighbours is drawn, and how much it counts.

    The pairs follow a normal law of ln sigma; the weight is 1 / (difference of the pair), which lets what is known at
    the data end travel upwards (Song & Dhariwal 2023, sections 3.1 and 3.5), scaled to a mean of 1.
    """
    levels = torch.tensor(KarrasPath.step_list(path, n)[-2::-1], dtype=torch.float64)
    below = torch.special.ndtr((levels.log() - _LOG_MEAN) / _LOG_DEVIATION)
    cumulative = (below - below[0]) / (below[-1] - below[0])
    weights = 1.0 / levels.diff()
    return Ladder(levels, cumulative, weights / (weights * cumulative.diff()).sum())
