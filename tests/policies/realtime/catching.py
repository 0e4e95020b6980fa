"""Policies for the catch task: a flow and a diffusion that are the demonstrators' distribution exactly; no training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from policies import registry
from policies.diffusion import DiffusionPolicy
from policies.flow import FlowPolicy
from policies.generative.paths import Estimate, Level, spread
from policies.generative.policy import GenerativePolicy
from policies.generative.samplers import Model
from policies.learnt import LearntPolicy
from policies.statistics import RunningStats
from robopolicy.bench import catch

RANGE = 2.5  # m/s^2 that normalise to 1: all but 3 % of the demonstrated accelerations are below


class _Exact(GenerativePolicy):
    """Its model is the expected data and noise, given x, of a plan centre + kappa swing + noise; no network.

    Given kappa's side, a plan is Gaussian with covariance C = SPREAD^2 I + STYLE^2 swing swing^T; all in normalised units.
    """

    def model(self, condition: torch.Tensor) -> Model:
        names = catch.SPEC.observation.fields
        fields = [self.normalizer.unnormalize(name, part) for name, part in zip(names, condition[:, -1].split(2, -1), strict=True)]
        centre, swing = (torch.from_numpy(v).float() for v in catch.plans(*(f.double().numpy() for f in fields)))
        origin = self.normalizer.normalize("action", torch.zeros(1, 1))
        scale = (self.normalizer.normalize("action", torch.ones(1, 1)) - origin).item()
        swing, width, sides = scale * swing[:, None], scale * catch.SPREAD, torch.tensor([-1.0, 1.0])[:, None, None]
        means = self.normalizer.normalize("action", centre)[:, None] + sides * swing  # (B, 2, Tp, 1)
        length = catch.STYLE**2 * swing.square().sum((2, 3), keepdim=True)  # of C along the swing, above width^2
        unit = swing / swing.square().sum((2, 3), keepdim=True).clamp_min(1e-12).sqrt()

        def model(x: torch.Tensor, t: Level) -> Estimate:
            a, b = (spread(c, x) for c in self.path.scales(t))
            away = x[:, None] - a * means
            along = (away * unit).sum((2, 3), keepdim=True) * unit
            across, wide, narrow = away - along, a**2 * (width**2 + length) + b**2, a**2 * width**2 + b**2
            fit = along.square().sum((2, 3), keepdim=True) / wide + across.square().sum((2, 3), keepdim=True) / narrow
            share = (-0.5 * fit).softmax(1)
            data = means + a * ((width**2 + length) / wide * along + width**2 / narrow * across)
            return Estimate((share * data).sum(1), (share * b * (along / wide + across / narrow)).sum(1))

        return model


class ExactFlow(_Exact, FlowPolicy):
    """The flow that training would converge to."""


class ExactDiffusion(_Exact, DiffusionPolicy):
    """The diffusion that training would converge to."""


def exact(kind: str = "flow", **config) -> GenerativePolicy:
    """Return the exact policy; its backbone has parameters but is not used."""
    base: type[LearntPolicy] = registry.policy_class(kind)
    settings = {"n_obs_steps": 1, "horizon": catch.HORIZON, "n_action_steps": 8, "mlp": {"width": 8, "blocks": 1, "clock_features": 4}}
    if kind == "diffusion":
        settings["clip"] = False
    chosen = base.Config(**{**settings, **config})
    normalizer = base.fit_normalizer(chosen, catch.SPEC, _stats(), [])
    made: Any = ExactFlow if kind == "flow" else ExactDiffusion
    return made(chosen, catch.SPEC, normalizer).eval()


def _stats():
    world, stats = catch.Catch(np.arange(500)), {}
    obs = world.observation()
    rows = {name: value[:, 0] for name, value in obs.items()}
    rows["action"] = np.array([[-RANGE], [RANGE]])
    rows["observation.environment_state"] = np.array([[-1.5, 0.0], [1.5, 1.0]])
    rows["observation.state"] = np.array([[-1.5, -1.5], [1.5, 1.5]])
    for name, value in rows.items():
        running = RunningStats((value.shape[1],))
        running.update(value.astype(np.float32))
        stats[name] = running.result()
    return stats
