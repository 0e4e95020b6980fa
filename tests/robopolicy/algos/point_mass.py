"""A point on a line that is pushed towards its middle: N worlds at once, in numpy, as a ``BatchEnv``; and a loop of its own for rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from policies.noise import Noise, NumpyNoise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.algos.rule import Transitions
from sim.env import Observation, StepResult
from tests.robopolicy.algos.off_policy_toys import STATE

SPEC = Spec(ObservationSpec({STATE: Field((2,))}), ActionSpec({"position": Field((1,), low=(-2.0,), high=(2.0,), kind="position")}))


class PointMass:
    """Position and velocity, (x, v); v' = 0.8 v + 0.25 a, x' = x + v' with |a| <= 1 in normalised units; reward -x'^2; nothing ever ends but time.

    Args:
        num_worlds: N.
        steps: Time limit.
    """

    task, suite_version, spec, autoreset = "toy/point-mass", "1", SPEC, False

    def __init__(self, num_worlds: int, steps: int = 20) -> None:
        self.num_worlds, self.max_episode_steps = num_worlds, steps
        self.state, self.count = np.zeros((num_worlds, 2), np.float32), 0

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin at a place in [-1, 1] that the seeds (N,) choose, at rest."""
        self.state = np.zeros((self.num_worlds, 2), np.float32)
        self.state[:, 0] = 2.0 * NumpyNoise(row_keys(7, seeds)).uniform() - 1.0
        self.count = 0
        return {STATE: self.state}

    def step(self, action: np.ndarray) -> StepResult:
        """Push with ``action`` (N, 1), robot units."""
        velocity = 0.8 * self.state[:, 1] + 0.125 * np.clip(action[:, 0], -2.0, 2.0)
        self.state = np.stack([self.state[:, 0] + velocity, velocity], 1).astype(np.float32)
        self.count += 1
        no, late = np.zeros(self.num_worlds, bool), np.full(self.num_worlds, self.count >= self.max_episode_steps)
        seen = {STATE: self.state}
        return StepResult(seen, seen, -np.square(self.state[:, 0]), no, late, {"success": no})

    def retire(self, mask: np.ndarray) -> None:
        """Nothing to save."""

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """No pictures."""
        return None

    def expert_action(self) -> np.ndarray:
        """Return (N, 1): a critically damped push."""
        return np.clip(-2.0 * self.state[:, :1] - 5.0 * self.state[:, 1:], -2.0, 2.0)

    def close(self) -> None:
        """Nothing to release."""


def returns(policy: Any, episodes: int = 64, steps: int = 20, expert: bool = False) -> float:
    """Return the mean undiscounted return of what the policy does without noise."""
    env = PointMass(episodes, steps)
    obs, total = env.reset(10_000 + np.arange(episodes)), 0.0
    for _ in range(steps):
        window = {STATE: torch.from_numpy(obs[STATE].copy()).unsqueeze(1)}
        action = env.expert_action() if expert else policy.act(window, {}, Noise(np.arange(episodes)))[0].actions[:, 0].numpy()
        result = env.step(action)
        obs, total = result.obs, total + float(result.reward.mean())
    return total


def learn(rule: Any, episodes: int = 8, worlds: int = 16, updates: int = 8, batch: int = 64, gamma: float = 0.9) -> None:
    """Let ``rule`` act in ``worlds`` worlds and learn ``updates`` times a control step; the first episode is of random actions."""
    env, kept, step = PointMass(worlds), [], 0
    for episode in range(episodes):
        obs = env.reset(row_keys(1, episode, np.arange(worlds)))
        for _ in range(env.max_episode_steps):
            keys = row_keys(2, step, np.arange(worlds))
            before = torch.from_numpy(obs[STATE].copy())
            action = rule.explore({STATE: before}, Noise(keys)) if episode else 2.0 * Noise(keys).uniform(1) - 1.0
            result = env.step(rule.policy.normalizer.unnormalize("action", action).numpy())
            discount = torch.full((worlds,), gamma)  # truncated at most, never terminated
            kept.append((before, action, torch.from_numpy(result.reward), torch.from_numpy(result.next_obs[STATE].copy()), discount))
            obs, step = result.obs, step + 1
            if episode:
                past = [torch.cat(column) for column in zip(*kept, strict=True)]
                rule.update([_draw(past, batch, step, number) for number in range(updates)], Noise(row_keys(4, step, np.arange(batch))))


def _draw(past: list[torch.Tensor], batch: int, step: int, number: int) -> Transitions:
    rows = torch.from_numpy(NumpyNoise(row_keys(3, step, number)).integers(len(past[0]), batch)[0])
    obs, action, reward, following, discount = (column[rows] for column in past)
    return Transitions({STATE: obs}, action, reward, {STATE: following}, discount, torch.ones(batch), rows)
