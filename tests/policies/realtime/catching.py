"""The catch task for methods of execution: a flow and a diffusion policy that are the demonstrators' distribution exactly, and episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policies import registry
from policies.base import Execution
from policies.diffusion import DiffusionPolicy
from policies.flow import FlowPolicy
from policies.generative.paths import Estimate, Level, spread
from policies.generative.policy import GenerativePolicy
from policies.generative.samplers import Model
from policies.learnt import LearntPolicy
from policies.noise import Noise, row_keys
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


@dataclass
class Outcome:
    """Of B episodes: caught (B,), steps at which plans changed (P,), and per plan (B, P) jumps of the action there and info."""

    caught: np.ndarray
    jumps: np.ndarray
    usual: float
    info: dict[str, np.ndarray]
    sides: np.ndarray


def play(policy, delay: int, every: int, seeds: np.ndarray, seed: int = 0, watch: Callable | None = None) -> Outcome:
    """Catch with plans asked for every ``every`` steps, each taking over ``delay`` steps after it was asked for."""
    world, state, current = catch.Catch(seeds), policy.initial_state(len(seeds)), None
    jumps, usual, infos, sides, last, switches = [], [], [], [], None, set()
    while not world.over:
        obs = world.observation()
        d = 0 if current is None else delay
        noise = Noise(row_keys(seed, seeds, world.step))
        plan, state = policy.act({n: torch.from_numpy(v) for n, v in obs.items()}, state, noise, Execution(d, d, every))
        if watch is not None:
            watch(plan, state)
        new = plan.actions.numpy()
        current = new if current is None else np.concatenate([current[:, :d], new[:, d:]], 1)
        if infos:
            switches.add(world.step + d)
        infos.append({k: v.numpy() for k, v in plan.info.items()})
        centre, swing = catch.plans(obs["observation.state"][:, 0].astype(float), obs["observation.environment_state"][:, 0].astype(float))
        sides.append(((new - centre[:, : new.shape[1]]) * swing[:, : new.shape[1]]).sum((1, 2)) > 0)
        for i in range(every):
            if world.over:
                break
            if last is not None:
                (jumps if world.step in switches else usual).append(np.abs(current[:, i] - last)[:, 0])
            last = current[:, i]
            world.advance(last)
        current = current[:, every:]
    info = {k: np.stack([i[k] for i in infos], 1) for k in infos[0]}
    return Outcome(world.caught(), np.stack(jumps, 1), float(np.mean(usual)) if usual else 0.0, info, np.stack(sides, 1))
