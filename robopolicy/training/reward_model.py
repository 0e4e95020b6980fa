"""A reward from images: the probability that the task is done, by a small network, in a folder without pickle.

==========================  ================================================================
``weights.safetensors``     The network's weights.
``manifest.json``           Format, SHA-256 of the weights, config, cameras, what it was trained on and how well it does.
==========================  ================================================================

Learning by trial asks it after every step (``robopolicy.training.trial_worlds``), as SERL does (Luo et al. 2024).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch

from policies.config import Config
from policies.networks.encoders import ImageConfig
from policies.networks.observation import ObservationEncoder
from policies.networks.perceptron import perceptron
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer
from policies.spec import InputError, Spec
from robopolicy.config import validate
from robopolicy.data.atomic import read_json, write_bytes, write_json

KIND, FORMAT = "robopolicy-reward-classifier", 1
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"


class ClassifierConfig(Config):
    """What a reward classifier can be told."""

    cameras: list[str] | None = None  # image fields to read; None: all of them
    hidden: list[pydantic.PositiveInt] = pydantic.Field(default=[64], min_length=1)  # widths of the layers after the encoders
    image: ImageConfig = ImageConfig(shift=4, crop=1.0, brightness=0.2, contrast=0.2, channels=[16, 32, 64], features=32)


class RewardClassifier(torch.nn.Module):
    """Tells success from images of one instant.

    Args:
        config: Its size.
        spec: What the data or the world offers; only the cameras that it reads are kept.

    Attributes:
        spec: Its cameras.

    Raises:
        InputError: if there is no camera to read, or an unknown one is asked for.
    """

    def __init__(self, config: ClassifierConfig, spec: Spec) -> None:
        super().__init__()
        names = list(spec.observation.image_names) if config.cameras is None else config.cameras
        if not names:
            raise InputError("reward classifier: no camera to read; record or collect images, e.g. robopolicy collect TASK --observations state+image")
        self.config, self.spec = config, spec.subset(names)
        other = [name for name in names if name not in self.spec.observation.image_names]
        if other:
            raise InputError(f"reward classifier: field {other[0]!r} is no camera; expected some of {', '.join(spec.observation.image_names)}")
        self.encoder = ObservationEncoder(self.spec, config.image)
        self.head = perceptron(self.encoder.features, config.hidden, 1, "relu")
        self._plain = Normalizer()  # images need none

    def forward(self, obs: Mapping[str, torch.Tensor], noise: Noise) -> torch.Tensor:
        """Return the log odds (B,) of success from ``obs``, camera -> (B, H, W, 3) uint8; in training, ``noise`` changes their light."""
        return self.head(self.encoder(obs, self._plain, noise)).squeeze(-1)

    @torch.no_grad()
    def probability(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability (N,) float32 of success from the cameras in ``obs``, field -> (N, H, W, 3) uint8."""
        device = next(self.parameters()).device
        images = {name: torch.from_numpy(np.array(obs[name])).to(device) for name in self.spec.observation.image_names}
        rows = next(iter(images.values())).shape[0]
        return torch.sigmoid(self(images, Noise(row_keys(0, np.arange(rows)), device))).cpu().numpy()

    @property
    def image_size(self) -> int:
        """Height of the pictures that it reads, px. Raises InputError if cameras differ or pictures are not square."""
        sizes = {side for field in self.spec.observation.fields.values() for side in field.shape[:2]}
        if len(sizes) > 1:
            raise InputError(f"reward classifier: its pictures are of {', '.join(map(str, sorted(sizes)))} px; worlds show one size, height and width")
        return sizes.pop()


def save_classifier(folder: str | Path, model: RewardClassifier, about: Mapping[str, Any]) -> Path:
    """Write a classifier; the manifest is written last and vouches for the weights.

    Args:
        folder: Where to.
        model: The network.
        about: More for the manifest, JSON-ready: data, settings, how well it does.

    Raises:
        InputError: if the folder cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    body = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()})
    manifest = {"kind": KIND, "format": FORMAT, "config": model.config.model_dump(mode="json"), "spec": model.spec.to_dict()}
    try:
        write_bytes(folder / WEIGHTS, body)
        write_json(folder / MANIFEST, {**manifest, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "about": dict(about)})
    except OSError as error:
        raise InputError(f"reward classifier {folder}: cannot be written: {error.strerror or error}") from error
    return folder


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a classifier. Raises InputError if there is none, or one that this version does not read."""
    file = Path(folder) / MANIFEST
    if not file.is_file():
        raise InputError(f"reward classifier {folder}: has no {MANIFEST}; train one with: robopolicy reward DATASET --out {folder}")
    found = read_json(file)
    if not isinstance(found, dict) or found.get("kind") != KIND or not isinstance(found.get("format"), int):
        raise InputError(f"reward classifier {folder}: {MANIFEST} is of something else: expected kind {KIND!r}")
    if found["format"] > FORMAT:
        raise InputError(f"reward classifier {folder}: format {found['format']} is newer than this version reads (up to {FORMAT}); update robopolicy")
    return found


def load_classifier(folder: str | Path, device: str | torch.device = "cpu") -> RewardClassifier:
    """Read a classifier, ready to decide.

    Raises:
        InputError: one line naming the file and the cause: missing, altered, or not fitting its own config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    manifest, file = read_manifest(folder), Path(folder) / WEIGHTS
    try:
        body = file.read_bytes()
    except OSError as error:
        raise InputError(f"reward classifier {folder}: {WEIGHTS} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(body).hexdigest() != manifest.get("sha256"):
        raise InputError(f"reward classifier {folder}: {WEIGHTS} was truncated or altered: its SHA-256 is not the one in {MANIFEST}")
    config = validate(ClassifierConfig, manifest.get("config", {}), f"reward classifier {folder}: {MANIFEST}")
    model = RewardClassifier(config, Spec.from_dict(manifest["spec"]))
    try:
        model.load_state_dict(load(body))
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise InputError(f"reward classifier {folder}: {WEIGHTS} does not fit its config: {str(error).splitlines()[0]}") from error
    return model.to(torch.device(device)).eval()


def fingerprint(folder: str | Path) -> str:
    """Return 16 hex digits that are equal for equal decisions. Raises InputError."""
    manifest = read_manifest(folder)
    text = json.dumps([manifest["sha256"], manifest["config"], manifest["spec"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
