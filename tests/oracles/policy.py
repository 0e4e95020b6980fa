"""Policies with exact answers: a real policy whose network is replaced by what training would converge to.

>>> policy = oracle_policy("diffusion", two_modes(4), horizon=4)                    # acts at once, no training
>>> plan, _ = policy.act({"observation.state": torch.zeros(n, 1, 1)}, {}, noise)   # (n, 4, 1), drawn from the mixture
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from policies import registry
from policies.generative.paths import NoisePath, Prediction
from policies.generative.policy import GenerativePolicy
from policies.noise import Noise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from tests.oracles.mixture import ConditionalMixture, GaussianMixture, level_of


class OracleNetwork(torch.nn.Module):
    """The exact network: (x (B, Tp, De), clock (B,), condition (B, To, C)) -> prediction (B, Tp, De), in x's dtype.

    Dimension i of the mixture is element i of the flattened chunk, rows of time first; the condition is flattened alike.

    Attributes:
        mixture: What the data are; conditional, or the same whatever is observed.
    """

    def __init__(self, mixture: GaussianMixture | ConditionalMixture, path: NoisePath, prediction: Prediction) -> None:
        super().__init__()
        self.mixture, self.path, self.prediction = mixture, path, prediction
        self.nothing = torch.nn.Parameter(torch.zeros(()))  # by which others find the device

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        flat, t = x.flatten(1).double(), level_of(self.path, clock)
        mixture = self.mixture.given(condition.flatten(1)) if isinstance(self.mixture, ConditionalMixture) else self.mixture
        return self.path.target(self.prediction, *mixture.estimate(self.path, flat, t), t).to(x.dtype).reshape(x.shape)


def oracle_policy(
    name: str, mixture: GaussianMixture | ConditionalMixture, horizon: int = 1, n_obs_steps: int = 1, n_action_steps: int | None = None, **config: Any
) -> GenerativePolicy:
    """Return a policy ``name`` (``diffusion``, ``flow``, any GenerativePolicy) that samples ``mixture``, in eval mode.

    Nothing is scaled (identity normalisation), so plans are samples of the mixture. It has one observation field,
    observation.state, and one action field, action. Diffusion is not clipped unless ``clip=True``.

    Args:
        name: Of the policy.
        mixture: Of D = Tp De dimensions and, if conditional, C = To times the size of the state.
        horizon: Tp; De = D / Tp.
        n_obs_steps: To.
        n_action_steps: Ta; None: all from the present step on.
        config: More for the policy's config, e.g. ``steps=100, sampler="ddpm"``.
    """
    conditional = isinstance(mixture, ConditionalMixture)
    dim = mixture.base.dim if conditional else mixture.dim
    states = mixture.slopes.shape[-1] // n_obs_steps if conditional else 1
    assert dim % horizon == 0
    spec = Spec(
        ObservationSpec({"observation.state": Field((states,))}),
        ActionSpec({"action": Field((dim // horizon,), kind="position")}),
    )
    kind = registry.policy_class(name)
    if "clip" in kind.Config.model_fields:
        config = {"clip": False, **config}
    chosen = kind.Config(
        horizon=horizon, n_obs_steps=n_obs_steps, n_action_steps=n_action_steps or horizon - n_obs_steps + 1,
        state_normalization="identity", action_normalization="identity", mlp={"width": 8, "blocks": 1, "clock_features": 4}, **config,
    )  # fmt: skip
    stats = {"observation.state": {"mean": np.zeros(states)}, "action": {"mean": np.zeros(dim // horizon)}}
    policy = registry.create(name, chosen, spec, kind.fit_normalizer(chosen, spec, stats, []))
    assert isinstance(policy, GenerativePolicy)
    policy.network = OracleNetwork(mixture, policy.path, policy.prediction)
    return policy.eval()


def plans(policy: Any, n: int, state: torch.Tensor | None = None, seed: int = 0) -> torch.Tensor:
    """Return actions (n, Ta, Da) of ``policy`` for ``state`` (n, To, C), by default zeros."""
    seen = torch.zeros(n, policy.n_obs_steps, *policy.spec.observation.fields["observation.state"].shape) if state is None else state
    plan, _ = policy.act({"observation.state": seen.float()}, policy.initial_state(n), Noise(row_keys(seed, np.arange(n))))
    return plan.actions
