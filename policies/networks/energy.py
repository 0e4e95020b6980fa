"""Scalar energies: of a chunk of actions given the observations, made of any denoiser, and of the observations themselves.

An energy is differentiated by its input to act and once more by its weights to train, so all parts of it are twice
differentiable: smooth activations, LayerNorm or GroupNorm, and attention in plain matrix products (the fused kernels have
no second derivative).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class ChunkEnergy(nn.Module):
    """E(y, o) = sum over the steps t of <y_t, f_t(y, o)>, with a denoiser's network as f.

    A product with the input keeps f a map from chunk to chunk, as a denoiser is (Wang & Du 2025, "Equilibrium matching"),
    so every backbone serves. With the causal transformer as f, the energy of step t depends on the steps up to t alone.

    Args:
        denoiser: A network (chunk (B, Tp, De), clock (B,), condition (B, To, C)) -> (B, Tp, De); its clock stands at 0,
            since an energy knows no noise level.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, chunk: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return the energy of every step (B, Tp) for ``chunk`` (B, Tp, De) and ``condition`` (B, To, C), normalised units."""
        with sdpa_kernel(SDPBackend.MATH):
            field = self.denoiser(chunk, chunk.new_zeros(len(chunk)), condition)
        return (chunk * field).sum(-1)


class ObservationEnergy(nn.Module):
    """E(o) = |o - r(o)|^2 / 2 with a perceptron r of two hidden layers: 0 at best, in squared normalised units.

    Args:
        inputs: Numbers in an observation, To C.
        width: Features of the hidden layers.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.Mish(), nn.Linear(width, width), nn.Mish(), nn.Linear(width, inputs))

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """Return (B,) for ``condition`` (B, To, C), normalised units."""
        flat = condition.flatten(1)
        return (flat - self.layers(flat)).square().sum(-1) / 2
