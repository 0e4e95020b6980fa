"""What policies that walk from noise to a chunk of actions share, and where methods of execution take hold of the walk.

A generative policy names its noise path, what its network predicts and its solver. Sampling is one method, ``walk``, so
warm starts (RTI), steering (RTC), composed scores (GPC) and other step counts need no code in the policy itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from policies.chunk import ChunkPolicy
from policies.generative.paths import NoisePath, Prediction
from policies.generative.samplers import Model, Solver, denoiser, sample
from policies.noise import Noise

#: Changes a model of what x is made of: guidance, inpainting, composition.
Steer = Callable[[Model], Model]


@dataclass(frozen=True)
class WarmStart:
    """Where a walk begins instead of pure noise.

    Attributes:
        plan: (B, Tp, De) guess of the chunk, normalised.
        levels: The step list, from the level that the guess is re-noised to down to the data.
        solver: The rule for one step; None: the policy's.
    """

    plan: torch.Tensor
    levels: Sequence[float]
    solver: Solver | None = None


class GenerativePolicy(ChunkPolicy):
    """A chunk policy whose network says, at any level of a noise path, what a noisy chunk is made of.

    Attributes:
        path: From noise to data.
        prediction: What the network predicts.
        clip: Bound of the estimated data at every step, normalised; None: none.
        jumps: Whether its own steps go from level to level in one, by no solver's rule.
    """

    path: NoisePath
    prediction: Prediction
    clip: float | None = None
    jumps: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def solver(self) -> Solver:
        """The rule for one step."""

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Steps of a walk from pure noise."""

    def model(self, condition: torch.Tensor) -> Model:
        """Return what says what a noisy chunk (B, Tp, De) is made of, for ``condition`` (B, To, C), normalised units."""
        return denoiser(partial(self.network, condition=condition), self.path, self.prediction, self.clip)

    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """Return a sampled chunk (B, Tp, De), normalised, and the network calls that it took."""
        return self.walk(condition, noise)

    def walk(
        self, condition: torch.Tensor, noise: Noise, *, start: WarmStart | None = None, steer: Steer | None = None, steps: int | None = None
    ) -> tuple[torch.Tensor, int]:
        """Return a sampled chunk (B, Tp, De), normalised, and the network calls that it took.

        Args:
            condition: (B, To, C), normalised.
            noise: Where the chunk's noise comes from.
            start: Begin with a guess, re-noised to the first of its levels; None: with pure noise.
            steer: Changes the model.
            steps: From pure noise; None: as configured.
        """
        model = self.model(condition) if steer is None else steer(self.model(condition))
        z = noise.normal(self.config.horizon, self.transform.dim).to(condition.dtype)
        levels = self.path.step_list(steps or self.steps) if start is None else tuple(start.levels)
        x = self.path.prior(z) if start is None else self.path.mix(start.plan, z, levels[0])
        solver = self.solver if start is None or start.solver is None else start.solver
        return sample(model, x, self.path, levels, solver, noise), solver.network_calls(self.path, levels)
