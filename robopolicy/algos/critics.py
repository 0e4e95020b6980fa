"""Q networks in one module: E members side by side, so that an ensemble costs as many tensor calls as one network.

Weights are (E, in, out) and a layer is one ``baddbmm``; what comes out equals E networks that were run one after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from policies.networks.perceptron import ACTIVATIONS, Activation

#: Which members to run: a slice of them, or their numbers (M,) int64.
Members = slice | torch.Tensor

_M = TypeVar("_M", bound=nn.Module)


class EnsembleLinear(nn.Module):
    """E linear layers; each begins as ``torch.nn.Linear`` does, uniform within 1 / sqrt(inputs).

    Args:
        members: E.
        inputs: Width of what goes in.
        outputs: Width of what comes out.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor, members: Members | None = None) -> torch.Tensor:
        """Return (M, B, outputs) from ``x`` (M, B, inputs)."""
        if members is None:
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias[members], x, self.weight[members])


class EnsembleLayerNorm(nn.Module):
    """E layer normalisations, each with scale and shift of its own."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: torch.Tensor, members: Members | None = None) -> torch.Tensor:
        """Return (M, B, width) from ``x`` of that shape."""
        weight, bias = (self.weight, self.bias) if members is None else (self.weight[members], self.bias[members])
        return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:]), weight)


class Critics(nn.Module):
    """E multi-layer perceptrons over (features, action).

    Args:
        members: E.
        inputs: Width of the features and the action together.
        hidden: Widths of the layers between.
        outputs: Numbers that each member says: 1 for a value, 2 for its mean and deviation.
        activation: Between the layers.
        layer_norm: Whether every hidden layer is normalised before its activation, which bounds values off the data (Ball et al. 2023).
    """

    def __init__(self, members: int, inputs: int, hidden: Sequence[int], outputs: int = 1, activation: Activation = "relu", layer_norm: bool = False) -> None:
        super().__init__()
        self.members, self.outputs = members, outputs
        widths = [inputs, *hidden]
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in zip(widths, [*hidden, outputs], strict=True))
        self.norms = nn.ModuleList(EnsembleLayerNorm(members, width) for width in hidden if layer_norm)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, features: torch.Tensor, action: torch.Tensor, members: Members | None = None) -> torch.Tensor:
        """Return what M members (all of them if None) say of ``action`` (B, Da) in ``features`` (B, F): (M, B), or (M, B, outputs) if that is not 1."""
        x = torch.cat([features, action], -1)
        count = self.members if members is None else len(range(*members.indices(self.members))) if isinstance(members, slice) else len(members)
        h = x.expand(count, *x.shape)
        for number, layer in enumerate(self.layers):
            if number:
                h = self.activation(h if not self.norms else self.norms[number - 1](h, members))
            h = layer(h, members)
        return h.squeeze(-1) if self.outputs == 1 else h


def target_copy(module: _M) -> _M:
    """Return a copy of ``module`` that no optimiser moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def polyak(targets: Iterable[torch.Tensor], sources: Iterable[torch.Tensor], tau: float) -> None:
    """Move ``targets`` (any shapes) by ``tau`` of the way to ``sources``, in place: target <- (1 - tau) target + tau source."""
    torch._foreach_lerp_(list(targets), list(sources), tau)  # pyright: ignore[reportPrivateImportUsage]
