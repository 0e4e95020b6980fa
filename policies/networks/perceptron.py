"""The plain multi-layer perceptron of learning by trial: linear layers, an activation, perhaps layer normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

Activation = Literal["tanh", "elu", "relu", "gelu", "silu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "elu": nn.ELU, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, activation: Activation, layer_norm: bool = False) -> nn.Sequential:
    """Return a network (B, inputs) -> (B, outputs); ``layer_norm`` stands between every hidden layer and its activation (as RLPD's critics have it)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), *([nn.LayerNorm(width)] if layer_norm else []), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def orthogonal(network: nn.Sequential, last_gain: float, gain: float = 2.0**0.5) -> nn.Sequential:
    """Give every linear layer orthogonal weights of ``gain``, the last of ``last_gain``, and zero biases; returns ``network`` (Saxe et al. 2014)."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, last_gain if layer is linear[-1] else gain)
        nn.init.zeros_(layer.bias)
    return network


def weights_of(modules: Sequence[nn.Module]) -> list[torch.nn.Parameter]:
    """Return the parameters of ``modules`` that have gradients, each once."""
    return list({id(p): p for module in modules for p in module.parameters() if p.requires_grad}.values())
