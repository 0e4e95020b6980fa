"""Small off-policy rules, random transitions, and the noise that a rule draws: what the tests of the rules share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from policies import registry as policies_registry
from policies.noise import Noise, row_keys
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.algos.registry import rule_class
from robopolicy.algos.rule import Transitions

STATE = "observation.state"


def spec(states: int = 3, actions: int = 2) -> Spec:
    """Return one state field and one action field with limits -1 and 1."""
    action = Field((actions,), low=(-1.0,) * actions, high=(1.0,) * actions, kind="position")
    return Spec(ObservationSpec({STATE: Field((states,))}), ActionSpec({"position": action}))


def rule(name: str, of: Spec, seed: int = 0, policy: dict[str, Any] | None = None, double: bool = False, device: str = "cpu", **config: Any) -> Any:
    """Return a rule with a fresh small policy; ``double``: in float64, as hand-computed numbers are compared with."""
    torch.manual_seed(seed)
    kind: Any = rule_class(name)
    values = {"hidden": [16, 16], "activation": "relu", **kind.policy_settings, **(policy or {})}
    actor = policies_registry.create(kind.policy_type, policies_registry.config_class(kind.policy_type)(**values), of, limits_normalizer(of)).to(device)
    made = kind(kind.Config(**{"hidden": [16, 16], **config}), of, actor)
    return made.double() if double else made


def transitions(of: Spec, rows: int = 16, seed: int = 0, **changed: Any) -> Transitions:
    """Return random transitions, some of them terminal; ``changed`` replaces fields."""
    g = torch.Generator().manual_seed(seed)
    obs, following = (
        {
            name: torch.randint(0, 256, (rows, *f.shape), dtype=torch.uint8, generator=g) if f.is_image else torch.randn(rows, *f.shape, generator=g)
            for name, f in of.observation.fields.items()
        }
        for _ in range(2)
    )
    values: dict[str, Any] = {
        "obs": obs,
        "action": 2.0 * torch.rand(rows, of.action.dim, generator=g) - 1.0,
        "reward": torch.randn(rows, generator=g),
        "next_obs": following,
        "discount": 0.99 * (torch.rand(rows, generator=g) < 0.8).float(),
        "weight": torch.ones(rows),
        "index": torch.arange(rows),
    }
    return Transitions(**{**values, **changed})


def noise(rows: int, seed: int = 0, step: int = 0) -> Noise:
    """Return the noise of one call."""
    return Noise(row_keys(seed, step, np.arange(rows)))


def to_double(batch: Transitions) -> Transitions:
    """Return ``batch`` with its numbers in float64."""

    def cast(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value for name, value in values.items()}

    return Transitions(**{**cast(vars(batch)), "obs": cast(batch.obs), "next_obs": cast(batch.next_obs)})
