"""Deterministic: the next action as tanh of a network, one step at a time; what TD3 trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pydantic
import torch

from policies.base import Execution, Plan, State
from policies.config import Config
from policies.learnt import Batch, LearntPolicy, row_errors
from policies.networks.encoders import ImageConfig
from policies.networks.observation import ObservationEncoder
from policies.networks.perceptron import Activation, orthogonal, perceptron
from policies.noise import Noise
from policies.normalize import Normalizer, default_modes
from policies.spec import InputError, Spec


class DeterministicConfig(Config):
    """What a deterministic policy can be told; sizes as TD3's actor has them (Fujimoto et al. 2018)."""

    observations: list[str] | None = None  # observation fields to read; None: all of them
    hidden: list[pydantic.PositiveInt] = pydantic.Field(default=[256, 256], min_length=1)  # widths of the layers
    activation: Activation = "relu"
    layer_norm: bool = False
    image: ImageConfig = ImageConfig()


class DeterministicPolicy(LearntPolicy):
    """One step in, one action out, always the same for the same observation; in normalised units it lies within [-1, 1].

    Args:
        config: See ``DeterministicConfig``.
        spec: What the world or robot offers.
        normalizer: See :meth:`fit_normalizer`; images are not in it.

    Raises:
        InputError: if the config asks for what the spec or the normaliser does not have.
    """

    Config = DeterministicConfig
    config: DeterministicConfig

    def __init__(self, config: DeterministicConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        for name in (*self.spec.observation.state_names, "action"):
            normalizer.modes(name)  # refuses a field that was not fitted
        self.encoder = ObservationEncoder(self.spec, config.image)
        self.action_dim = self.spec.action.low.size
        self.network = orthogonal(perceptron(self.encoder.features, config.hidden, self.action_dim, config.activation, config.layer_norm), 0.01)

    @classmethod
    def window(cls, config: DeterministicConfig) -> tuple[int, int, int]:
        """See base class: one step of each."""
        return 1, 1, 1

    @classmethod
    def observed(cls, config: DeterministicConfig, spec: Spec) -> Spec:
        """See base class."""
        spec = spec if config.observations is None else spec.subset(config.observations)
        if not spec.observation.fields:
            raise InputError("policy: no observation field to read; leave observations out to read all")
        return spec

    @classmethod
    def fit_normalizer(cls, config: DeterministicConfig, spec: Spec, stats: Mapping[str, Mapping[str, Any]], windows: Iterable[Batch]) -> Normalizer:
        """See base class: deviations of states, the range of the demonstrated actions."""
        return Normalizer.fit(stats, default_modes(cls.observed(config, spec), "mean_std", "min_max"))

    def action(self, features: torch.Tensor) -> torch.Tensor:
        """Return actions (B, Da), normalised units, for ``features`` (B, F) of :attr:`encoder`."""
        return torch.tanh(self.network(features))

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``: actions (B, 1, Da)."""
        self.spec.observation.validate(obs, (noise.keys.shape[0], self.n_obs_steps))
        chosen = self.action(self.encoder({name: obs[name][:, -1] for name in self.spec.observation.fields}, self.normalizer, noise))
        actions = self.normalizer.unnormalize("action", chosen).unsqueeze(1)
        return Plan(actions, {"network_calls": actions.new_ones(actions.shape[:1])}), state

    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the squared error to demonstrated actions (B, 1, Da), normalised units, an element (behaviour cloning).

        See base class; scalars.
        """
        obs = {name: batch[name][:, -1] for name in self.spec.observation.fields}
        chosen = self.action(self.encoder(obs, self.normalizer, noise))
        errors = (chosen - self.normalizer.normalize("action", batch["action"][:, 0])).square()
        return errors.mean(), {"mse": errors.mean().detach(), **row_errors(errors, batch)}
