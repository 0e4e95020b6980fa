"""Observation in, one vector out: normalised states beside what a small network makes of every camera's image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from policies.networks.encoders import ImageConfig, ImageEncoder
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import InputError, Spec


class ObservationEncoder(nn.Module):
    """Turns the observation of one step into features.

    Args:
        spec: The fields that are read, in this order: states, then images.
        image: Of the encoder of every camera.

    Attributes:
        features: F.

    Raises:
        InputError: for a text, which nothing here reads.
    """

    def __init__(self, spec: Spec, image: ImageConfig) -> None:
        super().__init__()
        fields = spec.observation.fields
        if spec.observation.text_names:
            name = spec.observation.text_names[0]
            raise InputError(f"{name!r} is a text, which this network does not read: take a policy of chunks, e.g. flow, or leave the field out")
        self.states, self.images = tuple(spec.observation.state_names), tuple(spec.observation.image_names)
        self.cameras = nn.ModuleList(ImageEncoder(image, fields[name].shape) for name in self.images)
        self.features = sum(fields[name].size for name in self.states) + len(self.images) * image.features

    def vector(self, obs: Mapping[str, torch.Tensor], normalizer: Normalizer) -> torch.Tensor:
        """Return the normalised states (B, S) of ``obs``, field -> (B, *shape), robot units."""
        parts = [normalizer.normalize(name, obs[name]) for name in self.states]
        parts = [part.flatten(1) if part.ndim > 1 else part.unsqueeze(1) for part in parts]  # a field may be one number
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def forward(self, obs: Mapping[str, torch.Tensor], normalizer: Normalizer, noise: Noise) -> torch.Tensor:
        """Return features (B, F) of ``obs``, field -> (B, *shape), robot units, images uint8; ``noise`` places crops in training."""
        return self.joined(self.vector(obs, normalizer) if self.states else None, obs, noise)

    def joined(self, vector: torch.Tensor | None, obs: Mapping[str, torch.Tensor], noise: Noise) -> torch.Tensor:
        """Return features (B, F) of states (B, S) that :meth:`vector` has normalised (None: there are none) and of the images in ``obs``."""
        if not self.images and vector is not None:
            return vector
        seen = [camera(obs[name].unsqueeze(1), noise).squeeze(1) for camera, name in zip(self.cameras, self.images, strict=True)]
        return torch.cat(seen if vector is None else [vector, *seen], -1)
