"""The transformer denoiser of Diffusion Policy (Chi et al. 2023): a pre-norm decoder over the chunk that attends to the observations."""

from __future__ import annotations

import pydantic
import torch
from torch import nn

from policies.config import Config
from policies.networks.embedding import ClockEmbedding


class TransformerConfig(Config):
    """Size of the transformer. Published for PushT from states: width 256, 8 layers, 4 heads, dropout 0.01."""

    width: int = pydantic.Field(default=128, ge=4)  # features per token, a multiple of heads
    layers: pydantic.PositiveInt = 4
    heads: pydantic.PositiveInt = 4
    dropout: float = pydantic.Field(default=0.01, ge=0, lt=1)  # of attention weights and residual branches

    @pydantic.model_validator(mode="after")
    def _fits(self) -> TransformerConfig:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width: expected an even multiple of heads ({self.heads}), found {self.width}")
        return self


class TransformerDenoiser(nn.Module):
    """One token per step of the chunk, causal among themselves; they attend to the clock's token and the observations'.

    The memory is (clock, o_0, ..., o_{To-1}); step t of the chunk sees memory entries s <= t + 1, so an observation is
    hidden from the steps before it. Weights start at N(0, 0.02), biases at 0.

    Args:
        config: Its size.
        action_dim: De, numbers per step of the chunk.
        horizon: Tp, steps of the chunk.
        condition_dim: C, features per observed step.
        n_obs_steps: To, observed steps.
    """

    visible: torch.Tensor

    def __init__(self, config: TransformerConfig, action_dim: int, horizon: int, condition_dim: int, n_obs_steps: int) -> None:
        super().__init__()
        width = config.width
        self.clock = ClockEmbedding(width)
        self.embed_action, self.embed_condition = nn.Linear(action_dim, width), nn.Linear(condition_dim, width)
        self.action_position = nn.Parameter(torch.empty(1, horizon, width))
        self.memory_position = nn.Parameter(torch.empty(1, 1 + n_obs_steps, width))
        self.encode_memory = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_Layer(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, action_dim)
        self.undecayed = (self.action_position, self.memory_position)
        steps, entries = torch.arange(horizon), torch.arange(1 + n_obs_steps)
        self.register_buffer("visible", steps[:, None] >= entries[None, :] - 1, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for position in self.undecayed:
            nn.init.normal_(position, std=0.02)

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return a prediction (B, Tp, De) for ``x`` (B, Tp, De), ``clock`` (B,) and ``condition`` (B, To, C), normalised units."""
        memory = torch.cat([self.clock(clock)[:, None], self.embed_condition(condition)], 1) + self.memory_position
        memory = self.encode_memory(self.dropout(memory))
        h = self.dropout(self.embed_action(x) + self.action_position)
        for layer in self.layers:
            h = layer(h, memory, self.visible)
        return self.last(self.norm(h))


class _Layer(nn.Module):
    """Pre-norm decoder layer: causal self-attention, attention to the memory, feed-forward with GELU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.to_self, self.to_memory = _Attention(width, heads, dropout), _Attention(width, heads, dropout)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: torch.Tensor, memory: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return (B, T, width) from ``h`` (B, T, width), ``memory`` (B, S, width) and ``visible`` (T, S) bool."""
        a = self.norms[0](h)
        h = h + self.dropout(self.to_self(a, a, None))
        h = h + self.dropout(self.to_memory(self.norms[1](h), memory, visible))
        return h + self.dropout(self.feed_forward(self.norms[2](h)))


class _Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key_value, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, h: torch.Tensor, memory: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
        """Return (B, T, width) from queries of ``h`` (B, T, width) on ``memory`` (B, S, width); ``visible`` (T, S), None: causal."""
        query = self.query(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.key_value(memory).chunk(2, -1))
        dropout = self.dropout if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout, is_causal=visible is None)
        return self.out(mixed.transpose(1, 2).flatten(2))
