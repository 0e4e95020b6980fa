"""Gaussian: a normal distribution over the next action, one step at a time; what policies that learn by trial are.

Robots get its mean (or, squashed, the tanh of its mean); learning draws from it. ``free`` deviations are parameters of their own,
the same in every state (as on-policy methods have them); ``observed`` ones are an output of the network (as SAC has them).
With a ``memory`` the distribution also depends on the steps before; what is remembered is the policy's state, one row a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pydantic
import torch

from policies.base import Execution, Plan, State
from policies.config import Config
from policies.distributions import Gaussian, squashed
from policies.learnt import Batch, LearntPolicy, row_errors
from policies.networks.encoders import ImageConfig
from policies.networks.memory import MemoryConfig, build_memory
from policies.networks.observation import ObservationEncoder
from policies.networks.perceptron import Activation, orthogonal, perceptron
from policies.noise import Noise
from policies.normalize import Normalizer, default_modes
from policies.spec import InputError, Spec


class GaussianConfig(Config):
    """What a Gaussian policy can be told; sizes as rl-zoo's PPO has them for MuJoCo's robots."""

    observations: list[str] | None = None  # observation fields to read; None: all of them
    hidden: list[pydantic.PositiveInt] = pydantic.Field(default=[64, 64], min_length=1)  # widths of the layers
    activation: Activation = "tanh"
    layer_norm: bool = False
    deviation: Literal["free", "observed"] = "free"  # parameters of their own, or an output of the network
    initial_std: pydantic.PositiveFloat = 1.0  # of free deviations, normalised units
    log_std_range: tuple[float, float] = (-5.0, 2.0)  # that observed ones are clamped to
    squash: bool = False  # tanh of what is drawn, so that actions lie within the limits
    stochastic: bool = False  # act by drawing instead of with the mean
    memory: MemoryConfig = MemoryConfig()  # of the steps before, between the features of an observation and the layers
    image: ImageConfig = ImageConfig()

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> GaussianConfig:
        if self.log_std_range[0] > self.log_std_range[1]:
            raise ValueError(f"log_std_range: expected the lower limit first, found {list(self.log_std_range)}")
        return self


class GaussianPolicy(LearntPolicy):
    """One step in, one action out. Distributions are over actions in normalised units, where the limits are -1 and 1.

    Args:
        config: See ``GaussianConfig``.
        spec: What the world or robot offers.
        normalizer: See :meth:`fit_normalizer`; with images, they are not in it.

    Raises:
        InputError: if the config asks for what the spec or the normaliser does not have.
    """

    Config = GaussianConfig
    config: GaussianConfig

    def __init__(self, config: GaussianConfig, spec: Spec, normalizer: Normalizer) -> None:
        super().__init__(config, spec, normalizer)
        for name in (*self.spec.observation.state_names, "action"):
            normalizer.modes(name)  # refuses a field that was not fitted
        self.encoder = ObservationEncoder(self.spec, config.image)
        self.action_dim = self.spec.action.low.size
        outputs = self.action_dim * (2 if config.deviation == "observed" else 1)
        self.memory = build_memory(config.memory, self.encoder.features)
        inputs = self.encoder.features if self.memory is None else self.memory.width
        self.network = orthogonal(perceptron(inputs, config.hidden, outputs, config.activation, config.layer_norm), 0.01)
        if config.deviation == "free":
            self.log_std = torch.nn.Parameter(torch.full((self.action_dim,), float(config.initial_std)).log())

    @classmethod
    def window(cls, config: GaussianConfig) -> tuple[int, int, int]:
        """See base class: one step of each."""
        return 1, 1, 1

    @classmethod
    def observed(cls, config: GaussianConfig, spec: Spec) -> Spec:
        """See base class."""
        spec = spec if config.observations is None else spec.subset(config.observations)
        if not spec.observation.fields:
            raise InputError("policy: no observation field to read; leave observations out to read all")
        return spec

    @classmethod
    def fit_normalizer(cls, config: GaussianConfig, spec: Spec, stats: Mapping[str, Mapping[str, Any]], windows: Iterable[Batch]) -> Normalizer:
        """See base class: deviations of states, the range of the demonstrated actions."""
        return Normalizer.fit(stats, default_modes(cls.observed(config, spec), "mean_std", "min_max"))

    @property
    def recurrent(self) -> bool:
        """Whether it remembers: actions depend on the steps before, and rows of a batch are learnt from in the order of time."""
        return self.memory is not None

    def initial_state(self, batch: int) -> State:
        """See base class: an empty memory, if there is one."""
        return {} if self.memory is None else self.memory.fresh(batch, next(self.parameters()).device)

    def distribution(self, features: torch.Tensor) -> Gaussian:
        """Return the distribution (before any squashing) for ``features`` (B, F) of :attr:`encoder`.

        Raises:
            InputError: with a memory, which one step says nothing to: see :meth:`remember` and :meth:`over`.
        """
        if self.memory is not None:
            raise InputError(f"policy.memory {self.config.memory.type!r}: only on-policy rules learn from whole sequences of steps; use memory none")
        return self._law(features)

    def remember(self, features: torch.Tensor, state: State) -> tuple[Gaussian, State]:
        """Return the distribution for ``features`` (B, F) of :attr:`encoder` after the steps in ``state``, and the next state."""
        if self.memory is None:
            return self._law(features), state
        remembered, state = self.memory.step(features, state)
        return self._law(remembered), state

    def over(self, features: torch.Tensor, state: State, begun: torch.Tensor) -> Gaussian:
        """Return the distributions (T, B, Da) that :meth:`remember` gives one step after the other, with gradients through time.

        Args:
            features: (T, B, F) of :attr:`encoder`.
            state: Of the B streams before the first step.
            begun: (T, B) bool, where the observation is the first of an episode: the state begins anew before it.
        """
        return self._law(features if self.memory is None else self.memory.over(features, state, begun))

    def _law(self, inputs: torch.Tensor) -> Gaussian:
        out = self.network(inputs)
        if self.config.deviation == "free":
            return Gaussian(out, self.log_std)
        mean, log_std = out.chunk(2, -1)
        return Gaussian(mean, log_std.clamp(*self.config.log_std_range))

    def sample(self, features: torch.Tensor, standard: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (B, Da), normalised units, and their log density (B,), with gradients, for standard normals (B, Da)."""
        law = self.distribution(features)
        drawn = law.draw(standard)
        log_prob = law.log_prob(drawn)
        return squashed(drawn, log_prob) if self.config.squash else (drawn, log_prob)

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``: actions (B, 1, Da); ``plan.info`` also has ``std`` (B,), the mean deviation, normalised units."""
        self.spec.observation.validate(obs, (noise.keys.shape[0], self.n_obs_steps))
        features = self.encoder({name: obs[name][:, -1] for name in self.spec.observation.fields}, self.normalizer, noise)
        law, state = self.remember(features, state)
        chosen = law.draw(noise.normal(self.action_dim)) if self.config.stochastic else law.mean
        chosen = torch.tanh(chosen) if self.config.squash else chosen
        actions = self.normalizer.unnormalize("action", chosen).unsqueeze(1)
        ones = actions.new_ones(actions.shape[:1])
        return Plan(actions, {"network_calls": ones, "std": law.std.mean(-1) * ones}), state

    def loss(self, batch: Batch, noise: Noise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the negative log-likelihood of demonstrated actions (B, 1, Da), nat an element (behaviour cloning), and their squared error.

        See base class; both are scalars.
        """
        obs = {name: batch[name][:, -1] for name in self.spec.observation.fields}
        law = self.distribution(self.encoder(obs, self.normalizer, noise))
        wanted = self.normalizer.normalize("action", batch["action"][:, 0])
        if self.config.squash:
            wanted = torch.atanh(wanted.clamp(-0.999, 0.999))
        errors = (law.mean - wanted).square().detach()
        return -law.log_prob(wanted).mean() / self.action_dim, {"mse": errors.mean(), **row_errors(errors, batch)}
