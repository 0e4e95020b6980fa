"""Tasks on which policies of few calls are compared: an uneven law of one number, and two routes as a chunk."""

from __future__ import annotations

import math

import numpy as np
import torch

from policies.learnt import LearntPolicy
from policies.noise import Noise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from tests.oracles.mixture import GaussianMixture
from tests.policies.toy import Batch

#: Unequal weights and widths: neither symmetry nor a lost mode passes.
UNEVEN = GaussianMixture.of((0.3, [-0.8], 0.05), (0.7, [0.5], 0.2))

ROUTES = Spec(ObservationSpec({"observation.state": Field((1,), unit="m")}), ActionSpec({"position": Field((2,), unit="m", kind="position")}))
ROUTES_CONFIG = {
    "n_obs_steps": 1, "horizon": 8, "n_action_steps": 8, "mlp": {"width": 64, "blocks": 2, "clock_features": 32, "skip": True},
}  # fmt: skip
_ALONG = torch.linspace(0, 1, 8)
_BULGE = torch.sin(math.pi * _ALONG)


def routes_batch(step: int, rows: int = 256, seed: int = 7) -> Batch:
    """Return chunks of 8 positions (m) that pass an obstacle on the left or the right, half and half, from where one stands."""
    noise = Noise(row_keys(seed, step * rows + np.arange(rows)))
    side = torch.where(noise.uniform(1) < 0.5, -1.0, 1.0)
    width, start = 1 + 0.1 * noise.normal(1), 0.3 * noise.normal(1, 1)
    across = start[:, 0] * (1 - _ALONG) + side * width * _BULGE
    return _batch(start, torch.stack([_ALONG.expand(rows, 8), across], -1))


def routes_success(policy: LearntPolicy, n: int = 1000) -> tuple[float, float]:
    """Return the share of chunks that follow one of the routes (within 0.2 m, bulging 0.65 to 1.35 m), and the share on the right."""
    start = routes_batch(10_000, n)["observation.state"]
    plan, _ = policy.act({"observation.state": start}, {}, Noise(row_keys(9, np.arange(n))))
    across = plan.actions[..., 1] - start[:, :, 0] * (1 - _ALONG)
    bulge = (across * _BULGE).sum(-1) / (_BULGE**2).sum()
    off = (across - bulge[:, None] * _BULGE).abs().amax(-1)
    fine = ((bulge.abs() - 1).abs() < 0.35) & (off < 0.2) & ((plan.actions[..., 0] - _ALONG).abs().amax(-1) < 0.1)
    return fine.float().mean().item(), (bulge > 0).float().mean().item()


def _batch(state: torch.Tensor, action: torch.Tensor) -> Batch:
    return {"observation.state": state, "action": action, "action_is_pad": torch.zeros(action.shape[:2], dtype=torch.bool)}
