"""The transformer of ACT (Zhao et al. 2023): an encoder mixes what is seen, a decoder reads it with one learnt query a step.

After DETR (Carion et al. 2020): positions are added to queries and keys in every layer, never to values, and all queries
are answered at once, without an order among them. Norms stand before each branch (published: behind it, with a learning
rate of 1e-5; before it, rates a hundred times larger train).
"""

from __future__ import annotations

import pydantic
import torch
from torch import nn

from policies.config import Config


class DetrConfig(Config):
    """Size of the transformer. Published: width 512, feed_forward 3200, 8 heads, 4 and 7 layers.

    Of its 7 decoder layers the released code uses the first alone (it takes element 0 of the layers' outputs); here all
    that are asked for are used.
    """

    width: int = pydantic.Field(default=128, ge=4)  # features per token, a multiple of heads
    feed_forward: pydantic.PositiveInt = 256  # features inside the feed-forward branches
    heads: pydantic.PositiveInt = 4
    encoder_layers: pydantic.PositiveInt = 2
    decoder_layers: pydantic.PositiveInt = 2
    dropout: float = pydantic.Field(default=0.1, ge=0, lt=1)  # of attention weights and branches, as published

    @pydantic.model_validator(mode="after")
    def _fits(self) -> DetrConfig:
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads ({self.heads}), found {self.width}")
        return self


class DetrNetwork(nn.Module):
    """From a condition whose features are (states, cameras, style) to a chunk.

    The encoder's tokens: one of the style, and for each observed step one of the states and one a camera. A camera's token
    is its pooled features; the published network has one token per cell of a ResNet's last map.

    Args:
        config: Its size.
        action_dim: De, numbers per step of the chunk.
        horizon: Tp, steps of the chunk.
        parts: Features of the states and of each camera, in order; a part of no features is left out.
        style_dim: Features of the style, the last of the condition.
        n_obs_steps: To, observed steps.
    """

    def __init__(self, config: DetrConfig, action_dim: int, horizon: int, parts: list[int], style_dim: int, n_obs_steps: int) -> None:
        super().__init__()
        width = config.width
        self.parts, self.style_dim = parts, style_dim
        self.embed_style = nn.Linear(style_dim, width)
        self.embed_parts = nn.ModuleList(nn.Linear(features, width) for features in parts)
        self.memory_position = nn.Parameter(torch.empty(1 + len(parts) * n_obs_steps, width))
        self.query_position = nn.Parameter(torch.empty(horizon, width))
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(_DecoderLayer(config) for _ in range(config.decoder_layers))
        self.memory_norm, self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, action_dim)
        self.undecayed = (self.memory_position, self.query_position)
        for position in self.undecayed:
            nn.init.normal_(position, std=0.02)

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return a chunk (B, Tp, De) for ``condition`` (B, To, C), normalised units; ``x`` and ``clock`` (B,), for denoisers, are not read."""
        *parts, style = condition.split([*self.parts, self.style_dim], -1)
        tokens = [self.embed_style(style[:, -1:]), *(embed(part) for embed, part in zip(self.embed_parts, parts, strict=True))]
        memory = torch.cat(tokens, 1)
        for layer in self.encoder:
            memory = layer(memory, self.memory_position)
        memory = self.memory_norm(memory)
        h = torch.zeros_like(self.query_position).expand(memory.shape[0], -1, -1)
        for layer in self.decoder:
            h = layer(h, self.query_position, memory, self.memory_position)
        return self.last(self.norm(h))


class StyleEncoder(nn.Module):
    """What tells two demonstrations of one observation apart: a normal over the style variable, from states and chunk.

    A transformer encoder over (a learnt token, the states of each observed step, each step of the chunk); the first token's
    output holds mean and log variance. Used in training only.

    Args:
        config: Its size, that of the policy's transformer.
        action_dim: De.
        horizon: Tp.
        states: Features of the states per observed step; 0: it sees the chunk alone.
        style_dim: Numbers of the style.
        n_obs_steps: To.
    """

    def __init__(self, config: DetrConfig, action_dim: int, horizon: int, states: int, style_dim: int, n_obs_steps: int) -> None:
        super().__init__()
        self.states = states
        self.embed_action = nn.Linear(action_dim, config.width)
        self.embed_states = nn.Linear(states, config.width) if states else None
        seen = n_obs_steps if states else 0
        self.question = nn.Parameter(torch.empty(1, config.width))
        self.position = nn.Parameter(torch.empty(1 + seen + horizon, config.width))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.norm, self.last = nn.LayerNorm(config.width), nn.Linear(config.width, 2 * style_dim)
        self.undecayed = (self.question, self.position)
        for parameter in self.undecayed:
            nn.init.normal_(parameter, std=0.02)

    def forward(self, chunk: torch.Tensor, condition: torch.Tensor, real: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance, each (B, style_dim).

        Args:
            chunk: (B, Tp, De), normalised.
            condition: (B, To, C), of which the first features are the states.
            real: (B, Tp) bool, which steps to look at; None: all.
        """
        tokens = [self.question.expand(len(chunk), 1, -1), self.embed_action(chunk)]
        if self.embed_states is not None:
            tokens.insert(1, self.embed_states(condition[..., : self.states]))
        h = torch.cat(tokens, 1)
        visible = None
        if real is not None:
            visible = torch.cat([real.new_ones(len(real), h.shape[1] - real.shape[1]), real], 1)[:, None, None]
        for layer in self.layers:
            h = layer(h, self.position, visible)
        mean, log_variance = self.last(self.norm(h[:, 0])).chunk(2, -1)
        return mean, log_variance


class EncoderLayer(nn.Module):
    """Pre-norm: attention among all tokens, then a feed-forward branch; tokens are (B, S, width)."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.attention, self.feed_forward = _Attention(config), _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: torch.Tensor, position: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, S, width) from ``h`` (B, S, width) and ``position`` (S, width); ``visible`` (B, 1, 1, S) bool, None: all."""
        a = self.norms[0](h)
        h = h + self.dropout(self.attention(a + position, a + position, a, visible))
        return h + self.dropout(self.feed_forward(self.norms[1](h)))


class _DecoderLayer(nn.Module):
    """Pre-norm: attention among the queries, attention to the memory, a feed-forward branch."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.to_self, self.to_memory, self.feed_forward = _Attention(config), _Attention(config), _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: torch.Tensor, position: torch.Tensor, memory: torch.Tensor, memory_position: torch.Tensor) -> torch.Tensor:
        """Return (B, T, width) from ``h`` (B, T, width), ``memory`` (B, S, width) and their positions."""
        a = self.norms[0](h)
        h = h + self.dropout(self.to_self(a + position, a + position, a))
        h = h + self.dropout(self.to_memory(self.norms[1](h) + position, memory + memory_position, memory))
        return h + self.dropout(self.feed_forward(self.norms[2](h)))


class _Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017) with keys apart from values."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, T, width) from ``query`` (B, T, width), ``key`` and ``value`` (B, S, width)."""
        split = (self.query(query), self.key(key), self.value(value))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in split)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))


def _feed_forward(config: DetrConfig) -> nn.Sequential:
    first, last = nn.Linear(config.width, config.feed_forward), nn.Linear(config.feed_forward, config.width)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(config.dropout), last)
