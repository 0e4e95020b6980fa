"""ACT, action chunking with transformers (Zhao et al. 2023): a chunk by least absolute error, with a style variable in training.

A conditional VAE: while training, an encoder sees the demonstrated chunk and says of what style z it is, so that the
decoder need not average over styles; loss = |prediction - chunk| + kl_weight KL(q(z | chunk, state) || N(0, I)). Acting, z
is 0, the prior's mean: one network call, no noise. Where z is not used, least absolute error gives the median, which of
two ways of unequal share is the more frequent one, where least squares gives their average.
"""

from __future__ import annotations

from typing import Literal

import pydantic
import torch

from policies.chunk import ChunkConfig, ChunkPolicy
from policies.learnt import Batch, row_errors
from policies.networks.detr import DetrConfig, DetrNetwork, StyleEncoder
from policies.noise import Noise


class ActConfig(ChunkConfig):
    """What an ACT policy can be told. Published: horizon 100, n_obs_steps 1, AdamW with learning rate 1e-5, batches of 8.

    With another ``backbone`` the decoder is that of the other policies, for comparisons at equal size.
    """

    backbone: Literal["detr", "mlp", "unet", "transformer"] = "detr"  # type: ignore[assignment] # one more than the others have
    detr: DetrConfig = DetrConfig()  # of the style encoder too
    kl_weight: pydantic.NonNegativeFloat = 10.0
    style_dim: pydantic.PositiveInt = 32  # numbers of z
    mask_padding: bool = True  # as published: neither the loss nor the style encoder sees repeated actions


class ActPolicy(ChunkPolicy):
    """Action chunking with transformers; deterministic when it acts."""

    Config = ActConfig
    config: ActConfig

    def make_network(self, condition_dim: int) -> torch.nn.Module:
        """See base class; also makes the style encoder."""
        config, dim = self.config, self.transform.dim
        states = sum(self.spec.observation.fields[name].size for name in self.spec.observation.state_names)
        self.style_encoder = StyleEncoder(config.detr, dim, config.horizon, states, config.style_dim, config.n_obs_steps)
        if config.backbone != "detr":
            return super().make_network(condition_dim + config.style_dim)
        parts = [states] * bool(states) + [config.image.features] * len(self.cameras) + [config.text.features] * len(self.texts)
        return DetrNetwork(config.detr, dim, config.horizon, parts, config.style_dim, config.n_obs_steps)

    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return l1 + kl_weight kl, a scalar, and both as metrics; kl is summed over z and averaged over rows, as published."""
        condition, chunk = self.condition(batch, noise), self.encode(batch["action"], batch)
        real = ~batch["action_is_pad"] if self.config.mask_padding else None
        mean, log_variance = self.style_encoder(chunk, condition, real)
        errors = (self.predict(condition, _sample(mean, log_variance, noise)) - chunk).abs()
        l1, kl = self.average(errors, batch), divergence(mean, log_variance).mean()
        return l1 + self.config.kl_weight * kl, {"l1": l1.detach(), "kl": kl.detach(), **row_errors(errors, batch)}

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return absolute errors (B, Tp, De) of the chunk predicted with a style drawn for it, normalised."""
        mean, log_variance = self.style_encoder(chunk, condition)
        return (self.predict(condition, _sample(mean, log_variance, noise)) - chunk).abs()

    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """Return the chunk (B, Tp, De) of style 0, normalised, after one network call."""
        return self.predict(condition, condition.new_zeros(condition.shape[0], self.config.style_dim)), 1

    def predict(self, condition: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """Return the chunk (B, Tp, De) for ``condition`` (B, To, C) and ``style`` (B, style_dim)."""
        told = torch.cat([condition, style[:, None].expand(-1, condition.shape[1], -1)], -1)
        blank = condition.new_zeros(condition.shape[0], self.config.horizon, self.transform.dim)
        return self.network(blank, condition.new_zeros(condition.shape[0]), condition=told)


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, I)), (B,), from (B, D) each (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(-1)


def _sample(mean: torch.Tensor, log_variance: torch.Tensor, noise: Noise) -> torch.Tensor:
    return mean + (0.5 * log_variance).exp() * noise.normal(mean.shape[-1]).to(mean.dtype)
