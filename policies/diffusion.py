"""Diffusion policy (Chi et al. 2023): denoises a chunk of actions from noise, conditioned on the observations.

Training: x_k = sqrt(alpha_bar_k) A + sqrt(1 - alpha_bar_k) eps with k uniform, and the network predicts eps (or the data,
or v). Acting: walks from noise to data with DDPM or DDIM. Samples the demonstrators' distribution, all of its modes.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import pydantic
import torch

from policies.chunk import ChunkConfig, ChunkPolicy
from policies.generative.paths import DdpmPath
from policies.generative.samplers import Ddim, Ddpm, Solver, denoiser, sample
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import Spec


class DiffusionConfig(ChunkConfig):
    """What a diffusion policy can be told. Published: 100 training steps, DDPM with 100 steps, clipping."""

    train_steps: pydantic.PositiveInt = 100  # K, noise levels
    # published: epsilon; after the few thousand updates of a laptop run x0 solves far more (docs/benchmarks.md)
    prediction: Literal["epsilon", "x0", "v"] = "x0"
    sampler: Literal["ddpm", "ddim"] = "ddim"
    steps: pydantic.PositiveInt = 10  # network calls per chunk, at most train_steps
    clip: bool = True  # keep the estimate of the data in [-1, 1] at every step; needs min_max actions

    @pydantic.model_validator(mode="after")
    def _sampler_fits(self) -> DiffusionConfig:
        if self.steps > self.train_steps:
            raise ValueError(f"steps {self.steps}: expected at most train_steps, {self.train_steps}")
        if self.clip and self.action_normalization not in ("min_max", "identity"):
            raise ValueError(f"clip keeps actions in [-1, 1], but {self.action_normalization} leaves them larger; use min_max or clip: false")
        return self


class DiffusionPolicy(ChunkPolicy):
    """Denoising diffusion over action chunks."""

    Config = DiffusionConfig
    config: DiffusionConfig

    _solvers: ClassVar[dict[str, Solver]] = {"ddpm": Ddpm(), "ddim": Ddim()}

    def __init__(self, config: DiffusionConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        self.path = DdpmPath(config.train_steps)

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) of the prediction at a random level a row, normalised."""
        level, z = noise.integers(self.path.levels), noise.normal(*chunk.shape[1:])
        x = self.path.mix(chunk, z, level)
        prediction = self.network(x, self.path.clock(level), condition=condition)
        return (prediction - self.path.target(self.config.prediction, chunk, z, level)) ** 2

    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """Return a sampled chunk (B, Tp, De), normalised, after ``config.steps`` network calls."""
        config, solver = self.config, self._solvers[self.config.sampler]
        levels = self.path.step_list(config.steps)
        model = denoiser(partial(self.network, condition=condition), self.path, config.prediction, 1.0 if config.clip else None)
        start = self.path.prior(noise.normal(config.horizon, self.transform.dim))
        return sample(model, start, self.path, levels, solver, noise), solver.network_calls(self.path, levels)
