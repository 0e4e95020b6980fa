"""What policies that predict chunks of actions share: observation in, normalised chunk in between, robot actions out.

A concrete policy adds two functions over normalised chunks (B, Tp, De): ``errors``, what training makes small, and
``generate``, how a chunk is made. Backbone, encoder and loss are the same, so policies can be compared at equal size.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import pydantic
import torch

from policies.actions import ActionTransform
from policies.base import Execution, Plan, State
from policies.config import Config
from policies.learnt import Batch, LearntPolicy, row_errors
from policies.networks.encoders import ImageConfig, ImageEncoder
from policies.networks.mlp import MlpConfig, MlpDenoiser
from policies.networks.text import TextConfig, TextEncoder
from policies.networks.transformer import TransformerConfig, TransformerDenoiser
from policies.networks.unet1d import UnetConfig, UnetDenoiser
from policies.noise import Noise
from policies.normalize import Normalizer, default_modes, two_valued
from policies.spec import InputError, Spec
from policies.statistics import RunningStats

Normalization = Literal["min_max", "mean_std", "quantile", "identity"]


class ChunkConfig(Config):
    """What all chunk policies can be told; windows as in Diffusion Policy: To 2, Tp 16, Ta 8."""

    n_obs_steps: pydantic.PositiveInt = 2  # To, control steps: the latest observations that are seen
    horizon: pydantic.PositiveInt = 16  # Tp, control steps predicted, from the oldest observation on
    n_action_steps: pydantic.PositiveInt = 8  # Ta, control steps executed, from the latest observation on
    observations: list[str] | None = None  # observation fields to read; None: all of them
    actions: Literal["absolute", "delta", "chunk_relative"] = "absolute"  # what is predicted, see policies.actions
    action_reference: dict[str, str] = pydantic.Field(default_factory=dict)  # action field -> where it is measured, e.g. {position: "observation.state[0:3]"}
    action_rotation: Literal["rotation_6d", "rotation_quaternion", "rotation_axis_angle"] | None = None  # predicted form; None: as commanded
    state_normalization: Normalization = "min_max"
    action_normalization: Normalization = "min_max"
    two_valued_scale: float | None = pydantic.Field(default=None, gt=0, le=1)  # predict two-valued actions (grippers) as +-this, play the nearer; None: no
    mask_padding: bool = False  # leave repeated actions at an episode's edge out of the loss; published: they count
    backbone: Literal["mlp", "unet", "transformer"] = "mlp"  # the network; each has a section of its own below
    mlp: MlpConfig = MlpConfig()
    unet: UnetConfig = UnetConfig()
    transformer: TransformerConfig = TransformerConfig()
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()  # of the instruction, where one is observed

    @property
    def input_skip(self) -> bool:
        """Whether the perceptron passes its input on, where ``mlp.skip`` does not say: for targets that hold the noise itself."""
        return False

    @pydantic.model_validator(mode="after")
    def _windows_fit(self) -> ChunkConfig:
        shortest = self.n_obs_steps - 1 + self.n_action_steps
        if self.horizon < shortest:
            raise ValueError(f"horizon {self.horizon}: expected at least n_obs_steps - 1 + n_action_steps = {shortest}")
        if self.backbone == "unet" and self.horizon % self.unet.divisor:
            raise ValueError(f"horizon {self.horizon}: a U-Net with {len(self.unet.channels)} levels needs a multiple of {self.unet.divisor}")
        if self.backbone == "unet" and self.horizon == self.unet.divisor and self.unet.groups in self.unet.channels[-2:]:
            # the coarsest level has one step: a group of one number, less its mean, is 0 whatever it was
            raise ValueError(f"unet.groups {self.unet.groups}: each would be one number at the coarsest of the levels; expected fewer, or a longer horizon")
        return self


class ChunkPolicy(LearntPolicy):
    """Predicts Tp steps from To observations and executes Ta of them, beginning with the present one.

    Args:
        config: See ``ChunkConfig``.
        spec: What the world or robot offers.
        normalizer: See :meth:`fit_normalizer`; images are not in it.

    Raises:
        InputError: if the config asks for what the spec or the normaliser does not have.
    """

    config: ChunkConfig
    two_valued: torch.Tensor  # (De,) what two-valued elements are predicted as, +- that, normalised; 0 for the others
    extra_features: ClassVar[int] = 0  # that a policy appends to every observed step before its network sees it

    def __init__(self, config: ChunkConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        observation = self.spec.observation
        self.transform = self.action_transform(config, spec)
        for name in (*observation.state_names, "action"):
            normalizer.modes(name)  # refuses a field that was not fitted
        two = [(config.two_valued_scale or 0.0) * (mode == "two_valued") for mode in normalizer.modes("action")]
        self.register_buffer("two_valued", torch.tensor(two), persistent=False)
        self._rounds = any(two)
        self.cameras = torch.nn.ModuleList(ImageEncoder(config.image, observation.fields[name].shape) for name in observation.image_names)
        self.texts = torch.nn.ModuleList(TextEncoder(config.text) for _ in observation.text_names)
        states = sum(observation.fields[name].size for name in observation.state_names)
        self.features = states + len(self.cameras) * config.image.features + len(self.texts) * config.text.features
        self.network = self.make_network(self.features + self.extra_features)

    def make_network(self, condition_dim: int) -> torch.nn.Module:
        """Return the network for conditions of ``condition_dim`` features a step: the backbone of the config, or a policy's own."""
        return _backbone(self.config, self.transform.dim, condition_dim)

    @classmethod
    def window(cls, config: ChunkConfig) -> tuple[int, int, int]:
        """See base class."""
        return config.n_obs_steps, config.horizon, config.n_action_steps

    @classmethod
    def observed(cls, config: ChunkConfig, spec: Spec) -> Spec:
        """See base class."""
        needed = cls.action_transform(config, spec).observation_fields
        if config.observations is not None:
            spec = spec.subset(config.observations)
        if not spec.observation.fields:
            raise InputError("policy: no observation field to read; leave observations out to read all")
        missing = [name for name in needed if name not in spec.observation.fields]
        if missing:
            raise InputError(f"policy: actions={config.actions} refers to {missing[0]!r}, which observations leaves out")
        return spec

    @classmethod
    def action_transform(cls, config: ChunkConfig, spec: Spec) -> ActionTransform:
        """Return what maps robot actions to what is predicted. Raises InputError if the spec does not have what it refers to."""
        return ActionTransform.from_config(config.actions, spec, config.action_reference, config.action_rotation)

    @classmethod
    def fit_normalizer(cls, config: ChunkConfig, spec: Spec, stats: Mapping[str, Mapping[str, Any]], windows: Iterable[Batch]) -> Normalizer:
        """See base class."""
        spec = cls.observed(config, spec)
        transform = cls.action_transform(config, spec)
        if config.actions != "absolute" or config.action_rotation is not None:
            running = RunningStats((transform.dim,))
            for batch in windows:
                running.update(transform.encode(batch["action"], batch).flatten(0, 1).numpy())
            stats = {**stats, "action": running.result()}
        modes = default_modes(spec, config.state_normalization, config.action_normalization, transform.kinds)
        if config.two_valued_scale is not None:
            found = zip(two_valued(stats["action"]), modes["action"], transform.kinds, strict=True)
            modes["action"] = tuple("two_valued" if two and not kind.startswith("rotation") else mode for two, mode, kind in found)
        return Normalizer.fit(stats, modes)

    @abc.abstractmethod
    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return squared errors (B, Tp, De) for demonstrated ``chunk`` (B, Tp, De) and ``condition`` (B, To, C), normalised."""

    @abc.abstractmethod
    def generate(self, condition: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
        """Return a chunk (B, Tp, De) for ``condition`` (B, To, C), both normalised, and the network calls that it took."""

    def condition(self, obs: Batch, noise: Noise) -> torch.Tensor:
        """Return (B, To, C), pure numbers, from observation field -> (B, To, *shape); ``noise`` places crops in training."""
        fields = self.spec.observation
        states = [self.normalizer.normalize(name, obs[name]).flatten(2) for name in fields.state_names]
        images = [encoder(obs[name], noise) for name, encoder in zip(fields.image_names, self.cameras, strict=True)]
        texts = [encoder(obs[name][:, -1]) for name, encoder in zip(fields.text_names, self.texts, strict=True)]  # what is asked for now
        return torch.cat([*states, *images, *(text.unsqueeze(1).expand(-1, self.n_obs_steps, -1) for text in texts)], -1)

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``; ``plan.info["network_calls"]`` is (B,) float32. Actions are not clipped to limits."""
        self.spec.observation.validate(obs, (noise.keys.shape[0], self.n_obs_steps))
        chunk, calls = self.generate(self.condition(obs, noise), noise)
        now = self.n_obs_steps - 1
        actions = self.decode(chunk, obs)[:, now : now + self.n_action_steps]
        return Plan(actions, {"network_calls": chunk.new_full(chunk.shape[:1], calls)}), state

    def decode(self, chunk: torch.Tensor, obs: Batch) -> torch.Tensor:
        """Return actions (B, Tp, Da) in robot units from a normalised chunk (B, Tp, De); row To - 1 is the present step."""
        if self._rounds:
            chunk = torch.where(self.two_valued > 0, torch.where(chunk < 0, -1.0, 1.0), chunk)
        return self.transform.decode(self.normalizer.unnormalize("action", chunk), obs)

    def encode(self, actions: torch.Tensor, obs: Batch) -> torch.Tensor:
        """Return the normalised chunk (B, Tp, De) of actions (B, Tp, Da) in robot units, as seen from ``obs``: undoes :meth:`decode`."""
        chunk = self.normalizer.normalize("action", self.transform.encode(actions, obs))
        return torch.where(self.two_valued > 0, self.two_valued * chunk, chunk) if self._rounds else chunk

    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the mean of :meth:`errors`, a scalar; see base class."""
        condition = self.condition(batch, noise)
        errors = self.errors(self.encode(batch["action"], batch), condition, noise)
        return self.average(errors, batch), row_errors(errors, batch)

    def average(self, errors: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean of errors (B, Tp, De), a scalar; with ``mask_padding`` over the steps that are real."""
        if not self.config.mask_padding:
            return errors.mean()
        real = (~batch["action_is_pad"])[..., None].to(errors.dtype)
        return (errors * real).sum() / (real.sum() * errors.shape[-1])


def _backbone(config: ChunkConfig, action_dim: int, condition_dim: int) -> torch.nn.Module:
    """Return a network (x (B, Tp, De), clock (B,), condition (B, To, C)) -> (B, Tp, De)."""
    if config.backbone == "mlp":
        skip = config.input_skip if config.mlp.skip is None else config.mlp.skip
        return MlpDenoiser(config.mlp.model_copy(update={"skip": skip}), action_dim, config.horizon, condition_dim, config.n_obs_steps)
    if config.backbone == "unet":
        return UnetDenoiser(config.unet, action_dim, condition_dim, config.n_obs_steps)
    return TransformerDenoiser(config.transformer, action_dim, config.horizon, condition_dim, config.n_obs_steps)
