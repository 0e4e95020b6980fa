"""Diffusion policy (Chi et al. 2023): denoises a chunk of actions from noise, conditioned on the observations.

Training: x_k = sqrt(alpha_bar_k) A + sqrt(1 - alpha_bar_k) eps with k uniform, and the network predicts eps (or the data,
or v). Acting: walks from noise to data with DDPM or DDIM. Samples the demonstrators' distribution, all of its modes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic
import torch

from policies.chunk import ChunkConfig
from policies.generative.paths import DdpmPath
from policies.generative.policy import GenerativePolicy
from policies.generative.samplers import Ddim, Ddpm, Solver
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import Spec


class DiffusionConfig(ChunkConfig):
    """What a diffusion policy can be told. Published: 100 training steps, DDPM with 100 steps, clipping."""

    train_steps: pydantic.PositiveInt = 100  # K, noise levels
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"  # what the network says of a noisy chunk
    sampler: Literal["ddpm", "ddim"] = "ddim"
    steps: pydantic.PositiveInt = 10  # network calls per chunk, at most train_steps
    clip: bool = True  # keep the estimate of the data in [-1, 1] at every step; needs min_max actions

    @property
    def input_skip(self) -> bool:
        """See base class: epsilon and v hold the noise of the input, data does not."""
        return self.prediction != "x0"

    @pydantic.model_validator(mode="after")
    def _sampler_fits(self) -> DiffusionConfig:
        if self.steps > self.train_steps:
            raise ValueError(f"steps {self.steps}: expected at most train_steps, {self.train_steps}")
        if self.clip and self.action_normalization not in ("min_max", "identity"):
            raise ValueError(f"clip keeps actions in [-1, 1], but {self.action_normalization} leaves them larger; use min_max or clip: false")
        return self


class DiffusionPolicy(GenerativePolicy):
    """Denoising diffusion over action chunks."""

    Config = DiffusionConfig
    config: DiffusionConfig
    path: DdpmPath

    _solvers: ClassVar[dict[str, Solver]] = {"ddpm": Ddpm(), "ddim": Ddim()}

    def __init__(self, config: DiffusionConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        self.path = DdpmPath(config.train_steps)
        self.prediction = config.prediction
        self.clip = 1.0 if config.clip else None

    @property
    def solver(self) -> Solver:
        """See base class."""
        return self._solvers[self.config.sampler]

    @property
    def steps(self) -> int:
        """See base class."""
        return self.config.steps

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) of the prediction at a random level a row, normalised."""
        level, z = noise.integers(self.path.levels), noise.normal(*chunk.shape[1:])
        x = self.path.mix(chunk, z, level)
        prediction = self.network(x, self.path.clock(level), condition=condition)
        return (prediction - self.path.target(self.prediction, chunk, z, level)) ** 2
