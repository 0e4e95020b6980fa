"""The critic of on-policy rules: what an observation is worth, from the fields that it may read, also those that the policy cannot.

Pinto et al. 2018, "Asymmetric actor critic for image-based robot learning".
"""

from __future__ import annotations

import torch
from torch import nn

from policies.networks.encoders import ImageConfig
from policies.networks.observation import ObservationEncoder
from policies.networks.perceptron import orthogonal, perceptron
from policies.spec import InputError, Spec
from robopolicy.training.on_policy_config import CriticConfig


class Critic(nn.Module):
    """A perceptron on the features of an observation.

    Args:
        config: Sizes, and the fields that are read (None: all).
        spec: What the worlds offer.
        image: Of the encoder of every camera.

    Raises:
        InputError: for a field that the worlds do not offer.
    """

    def __init__(self, config: CriticConfig, spec: Spec, image: ImageConfig) -> None:
        super().__init__()
        try:
            self.spec = spec if config.observations is None else spec.subset(config.observations)
        except InputError as error:
            raise InputError(f"training.critic.observations: {error}") from None
        if not self.spec.observation.fields:
            raise InputError("training.critic.observations: no field to read; leave it out to read all")
        self.encoder = ObservationEncoder(self.spec, image)
        self.network = orthogonal(perceptron(self.encoder.features, config.hidden, 1, config.activation), 1.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return values (...,) of ``features`` (..., F) of :attr:`encoder`."""
        return self.network(features).squeeze(-1)
