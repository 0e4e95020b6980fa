"""Flow matching policy: carries noise to a chunk of actions along straight lines, conditioned on the observations.

Training (Lipman et al. 2023; Liu et al. 2022): x_t = t A + (1 - t) eps, and the network predicts the velocity A - eps.
Acting: solves dx/dt = v(x, t) from noise (t = 0) to data (t = 1). Needs fewer steps than diffusion for the same samples.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
import torch

from policies.chunk import ChunkConfig
from policies.generative.paths import LinearPath
from policies.generative.policy import GenerativePolicy
from policies.generative.samplers import Euler, Heun, Solver
from policies.noise import Noise


class FlowConfig(ChunkConfig):
    """What a flow policy can be told."""

    solver: Literal["euler", "heun"] = "euler"
    steps: pydantic.PositiveInt = 10  # of the solver; network calls per chunk: steps (euler) or 2 steps - 1 (heun)
    time: Literal["uniform", "beta"] = "uniform"  # times in training; beta dwells near the noise (pi0, Black et al. 2024)


class FlowPolicy(GenerativePolicy):
    """Flow matching over action chunks."""

    Config = FlowConfig
    config: FlowConfig

    path = LinearPath()
    prediction = "velocity"
    _solvers: ClassVar[dict[str, Solver]] = {"euler": Euler(), "heun": Heun()}

    @property
    def solver(self) -> Solver:
        """See base class."""
        return self._solvers[self.config.solver]

    @property
    def steps(self) -> int:
        """See base class."""
        return self.config.steps

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) of the velocity at a random time a row, normalised."""
        time, z = self.times(noise), noise.normal(*chunk.shape[1:])
        x = self.path.mix(chunk, z, time)
        velocity = self.network(x, self.path.clock(time), condition)
        return (velocity - self.path.target("velocity", chunk, z, time)) ** 2

    def times(self, noise: Noise) -> torch.Tensor:
        """Draw training times (B,), 0 noise to 1 data.

        ``beta``: t = 0.999 (1 - u) with u ~ Beta(1.5, 1), whose distribution function is u^1.5 (pi0, appendix B).
        """
        uniform = noise.uniform()
        return uniform if self.config.time == "uniform" else 0.999 * (1.0 - uniform ** (1.0 / 1.5))
