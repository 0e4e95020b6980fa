"""Memory between the features of an observation and a policy's perceptron: GRU, LSTM, or attention to the last K steps.

What is remembered is a value, one row per stream, that goes in and comes out of every call: nothing is kept inside. One step is
a sequence of length one, so acting step by step and learning from whole rollouts run the same code.

=============  =====================================================================================================
``gru``        Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".
``lstm``       Hochreiter and Schmidhuber 1997, with the forget gate open at first (Jozefowicz et al. 2015).
``transformer``  Pre-norm layers, each attends to its own last K inputs (Dai et al. 2019, "Transformer-XL"), with positions
               as distances (Shaw et al. 2018).
=============  =====================================================================================================
"""

from __future__ import annotations

import abc
from typing import Literal

import pydantic
import torch
from torch import nn

from policies.base import State
from policies.config import Config

Kind = Literal["none", "gru", "lstm", "transformer"]


class MemoryConfig(Config):
    """What remembers, and how much."""

    type: Kind = "none"
    width: pydantic.PositiveInt = 64  # features that come out; of a transformer a multiple of heads
    layers: pydantic.PositiveInt = 1
    window: int = pydantic.Field(default=32, ge=2)  # K, control steps that a layer of a transformer sees, the present one included
    heads: pydantic.PositiveInt = 4  # of a transformer

    @pydantic.model_validator(mode="after")
    def _fits(self) -> MemoryConfig:
        if self.type == "transformer" and self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads ({self.heads}), found {self.width}")
        return self


class Memory(nn.Module, abc.ABC):
    """Turns features of one step after the other into features that also tell of the steps before.

    Attributes:
        width: W, features that come out.
    """

    width: int

    @abc.abstractmethod
    def fresh(self, batch: int, device: torch.device) -> State:
        """Return the memory of ``batch`` streams that have just begun: name -> (B, ...)."""

    @abc.abstractmethod
    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return (B, W) and the next state for features ``x`` (B, F) of one step."""

    @abc.abstractmethod
    def over(self, x: torch.Tensor, state: State, begun: torch.Tensor) -> torch.Tensor:
        """Return (T, B, W), what :meth:`step` would give one step after the other.

        Args:
            x: (T, B, F) features.
            state: Before the first of them.
            begun: (T, B) bool, where a stream begins anew: what was before that step is forgotten.
        """


def build_memory(config: MemoryConfig, features: int) -> Memory | None:
    """Return the memory of ``config`` over F = ``features`` numbers a step; None where there is none."""
    if config.type == "none":
        return None
    if config.type == "transformer":
        return AttentionMemory(config, features)
    return RecurrentMemory(config, features)


class RecurrentMemory(Memory):
    """GRU or LSTM. State: ``memory.hidden`` (B, layers, W), and ``memory.cell`` of the same shape for the LSTM.

    Args:
        config: Its kind and size.
        features: F.
    """

    def __init__(self, config: MemoryConfig, features: int) -> None:
        super().__init__()
        self.width, self.layers = config.width, config.layers
        self.parts = ("memory.hidden", "memory.cell") if config.type == "lstm" else ("memory.hidden",)
        self.cells: nn.GRU | nn.LSTM = (nn.LSTM if config.type == "lstm" else nn.GRU)(features, config.width, config.layers)
        for name, value in self.cells.named_parameters():
            if name.startswith("weight_hh"):
                for gate in value.data.split(config.width):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                nn.init.zeros_(value)
                if config.type == "lstm" and name.startswith("bias_ih"):
                    value.data[config.width : 2 * config.width] = 1.0  # the forget gate

    def fresh(self, batch: int, device: torch.device) -> State:
        """See base class: zeros."""
        return {name: torch.zeros(batch, self.layers, self.width, device=device) for name in self.parts}

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """See base class."""
        y, state = self._run(x.unsqueeze(0), state)
        return y.squeeze(0), state

    def over(self, x: torch.Tensor, state: State, begun: torch.Tensor) -> torch.Tensor:
        """See base class. Streams are cut where they begin anew and the P pieces go through the cells side by side, padded at their ends."""
        if not bool(begun.any()):
            return self._run(x, state)[0]
        steps, rows = begun.shape
        starts = begun.clone()
        starts[0] = True
        row, first = starts.T.nonzero(as_tuple=True)  # (P,) each, in the order of row, then time
        piece = starts.T.flatten().cumsum(0).reshape(rows, steps).T - 1  # (T, B), which piece a step belongs to
        inner = torch.arange(steps, device=x.device)[:, None] - first[piece]  # (T, B), where in it
        longest = int(inner.max()) + 1
        source = (first + torch.arange(longest, device=x.device)[:, None]).clamp_max(steps - 1)  # (L, P); padding: any step, never read
        anew, fresh = begun[first, row][:, None, None], self.fresh(len(row), x.device)
        y, _ = self._run(x[source, row], {name: torch.where(anew, fresh[name], state[name][row]) for name in self.parts})
        return y[inner, piece]

    def _run(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return (T, B, W) and the state after the last step, for streams of which none begins anew."""
        hidden: tuple[torch.Tensor, ...] = tuple(state[name].transpose(0, 1).contiguous() for name in self.parts)
        if isinstance(self.cells, nn.LSTM):
            y, after = self.cells(x, (hidden[0], hidden[1]))
        else:
            y, last = self.cells(x, hidden[0])
            after = (last,)
        return y, {name: part.transpose(0, 1) for name, part in zip(self.parts, after, strict=True)}


class AttentionMemory(Memory):
    """A transformer in which a step sees the K - 1 steps before it, in every layer: that far back each, further together.

    State: ``memory.window`` (B, layers, K - 1, W), what the layers were given in the last steps, oldest first, and
    ``memory.count`` (B,) int64, how many of them are of the present episode.

    Args:
        config: Its size.
        features: F.
    """

    def __init__(self, config: MemoryConfig, features: int) -> None:
        super().__init__()
        self.width, self.kept = config.width, config.window - 1
        self.embed, self.norm = nn.Linear(features, config.width), nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(_Layer(config.width, config.heads, config.window) for _ in range(config.layers))
        self.undecayed = tuple(layer.distances for layer in self.layers if isinstance(layer, _Layer))

    def fresh(self, batch: int, device: torch.device) -> State:
        """See base class: an empty window."""
        window = torch.zeros(batch, len(self.layers), self.kept, self.width, device=device)
        return {"memory.window": window, "memory.count": torch.zeros(batch, dtype=torch.int64, device=device)}

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """See base class."""
        window, count = state["memory.window"], state["memory.count"]
        age = torch.arange(self.kept, -1, -1, device=x.device)  # of the kept steps, oldest first, and of this one
        visible = age <= count[:, None]
        h, given = self.embed(x).unsqueeze(1), []
        for layer, before in zip(self.layers, window.unbind(1), strict=True):
            seen = torch.cat([before, h], 1)
            given.append(seen[:, 1:])
            h = layer(h, seen, age[None], visible[:, None])
        return self.norm(h).squeeze(1), {"memory.window": torch.stack(given, 1), "memory.count": (count + 1).clamp_max(self.kept)}

    def over(self, x: torch.Tensor, state: State, begun: torch.Tensor) -> torch.Tensor:
        """See base class."""
        steps = len(x)
        now, then = torch.arange(steps, device=x.device), torch.arange(-self.kept, steps, device=x.device)
        age = now[:, None] - then[None, :]  # (T, S) with S = K - 1 + T
        episode = begun.T.cumsum(1)  # (B, T), 0 for the one that was going on before
        kept = torch.arange(self.kept, 0, -1, device=x.device) <= state["memory.count"][:, None]
        of = torch.cat([torch.where(kept, 0, -1), episode], 1)  # (B, S), -1 where nothing was kept
        visible = (age >= 0) & (age <= self.kept) & (of[:, None, :] == episode[:, :, None])
        h = self.embed(x).transpose(0, 1)
        for layer, before in zip(self.layers, state["memory.window"].unbind(1), strict=True):
            h = layer(h, torch.cat([before, h], 1), age.clamp(0, self.kept), visible)
        return self.norm(h).transpose(0, 1)


class _Layer(nn.Module):
    """Pre-norm attention to earlier steps by content and distance, then feed-forward with GELU.

    The score of a query q for a key k at distance d is (q k + q r_d) / sqrt(width of a head), with r learnt.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.distances = nn.Parameter(torch.empty(window, width).normal_(std=width**-0.5))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: torch.Tensor, seen: torch.Tensor, age: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return (B, T, W) from ``h`` (B, T, W), which sees ``seen`` (B, S, W) at distances ``age`` (T, S) where ``visible`` (B, T, S)."""
        query = self.query(self.norms[0](h)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, D)
        keys = self.key_value(self.norms[0](seen)).unflatten(-1, (2, self.heads, -1))
        key, value = (part.transpose(1, 2) for part in keys.unbind(2))
        distances = self.distances.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (heads, K, D)
        by_distance = (query @ distances.transpose(1, 2)).gather(-1, age.expand(*query.shape[:2], *age.shape))
        score = (query @ key.transpose(2, 3) + by_distance) * query.shape[-1] ** -0.5
        weight = torch.softmax(score.masked_fill(~visible.unsqueeze(1), -torch.inf), -1)
        h = h + self.out((weight @ value).transpose(1, 2).flatten(2))
        return h + self.feed_forward(self.norms[1](h))
