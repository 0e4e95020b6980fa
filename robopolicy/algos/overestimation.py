"""Over-estimation: what critics promise against what comes, by Monte Carlo (van Hasselt et al. 2016; Fujimoto et al. 2018).

In every step t of an episode that the policy acts with the noise that its critics assume,

G_t = sum_{k >= t} gamma^(k - t) (r_k + gamma b_{k+1}),

where b is what the policy adds to the reward (-alpha log pi for soft critics, whose Q counts it from the next action on; else 0). An
episode that terminated says G for all of its steps. One that was truncated leaves out gamma^(T - t) of the value: filling it in with
the critics' own estimate would hide their error, so only its steps with gamma^(T - t) below ``tail`` count.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from policies.noise import Noise, row_keys
from policies.spec import InputError
from robopolicy.algos.rule import Tensors
from sim.env import BatchEnv, Observation

#: What tells apart the numbers drawn here from others with the same seed.
_ACT = 301


class Judge(Protocol):
    """What is measured: any rule with a policy and critics (``robopolicy.algos.actor_critic.ActorCritic``)."""

    policy: Any

    def draw(self, obs: Tensors, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions (B, Da), normalised units, and what the policy adds to the reward (B,)."""
        ...

    def value(self, obs: Tensors, action: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Return the estimate (B,) of ``action`` (B, Da), normalised units."""
        ...


def overestimation(rule: Judge, env: BatchEnv, episodes: int, gamma: float, seed: int = 0, tail: float = 0.01) -> tuple[float, float]:
    """Return (mean Q - mean discounted return, its standard error) over the steps of ``episodes`` episodes.

    Steps of an episode hang together: the error is that of a ratio of sums over episodes, each of which counts as one draw.

    Args:
        rule: Whose critics are asked.
        env: Its worlds; with auto-reset or without.
        episodes: How many, 2 or more; episode i is reset with ``seed + i``.
        gamma: Discount that the critics learnt with.
        seed: First seed, of worlds and noise.
        tail: Share of the value beyond a truncation that may be missing; the bias that is left is at most that share of the value.

    Raises:
        InputError: if ``episodes`` is below 2, or no step of any episode is far enough from its truncation.
    """
    if episodes < 2:
        raise InputError(f"overestimation: expected 2 episodes or more for an error, found {episodes}")
    gaps: list[np.ndarray] = []
    for begin in range(0, episodes, env.num_worlds):
        gaps += _block(rule, env, np.arange(begin, begin + env.num_worlds), gamma, seed, tail)[: episodes - begin]
    sums, counts = np.array([gap.sum() for gap in gaps]), np.array([len(gap) for gap in gaps], np.float64)
    if not counts.any():
        least = 1 if gamma == 0 else int(np.ceil(np.log(tail) / np.log(gamma))) if gamma < 1 else None
        needed = "episodes that terminate" if least is None else f"episodes of more than {least} steps, or that terminate"
        raise InputError(f"overestimation: every step is too near its truncation: with gamma {gamma} expected {needed}, found {env.max_episode_steps} steps")
    mean = float(sums.sum() / counts.sum())
    spread = np.square(sums - mean * counts).sum() * len(gaps) / (len(gaps) - 1)
    return mean, float(np.sqrt(spread) / counts.sum())


def _block(rule: Judge, env: BatchEnv, episode: np.ndarray, gamma: float, seed: int, tail: float) -> list[np.ndarray]:
    """Run one episode in every world; return Q - G of the steps that count, one array an episode."""
    device = next(rule.policy.parameters()).device
    obs, running = env.reset(seed + episode), np.ones(len(episode), bool)
    terminated, lengths = np.zeros(len(episode), bool), np.zeros(len(episode), np.int64)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # Q, reward, bonus of every step
    while running.any():
        noise = Noise(row_keys(seed, _ACT, episode, len(rows)), device)
        seen = _tensors(obs, device)
        action, bonus = rule.draw(seen, noise)
        q = rule.value(seen, action, noise)
        result = env.step(rule.policy.normalizer.unnormalize("action", action).cpu().numpy())
        rows.append((q.cpu().numpy().astype(np.float64), result.reward.astype(np.float64), bonus.cpu().numpy().astype(np.float64)))
        lengths[running] += 1
        ended = running & (result.terminated | result.truncated)
        terminated |= ended & result.terminated
        running &= ~ended
        obs = result.obs
    q, reward, bonus = (np.stack(column, 1) for column in zip(*rows, strict=True))
    return [_gaps(q[w, :n], reward[w, :n], bonus[w, :n], gamma, bool(terminated[w]), tail) for w, n in enumerate(lengths)]


def _gaps(q: np.ndarray, reward: np.ndarray, bonus: np.ndarray, gamma: float, terminated: bool, tail: float) -> np.ndarray:
    """Return Q - G of the steps of one episode that count; ``q``, ``reward`` and ``bonus`` are (T,)."""
    returns, after = np.zeros(len(q)), 0.0  # after: gamma times what came from the next step on
    for t in range(len(q) - 1, -1, -1):
        returns[t] = reward[t] + after
        after = gamma * (bonus[t] + returns[t])
    left = gamma ** np.arange(len(q), 0, -1, dtype=np.float64)
    return (q - returns)[terminated | (left <= tail)]


def _tensors(obs: Observation, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(np.array(array)).to(device) for name, array in obs.items()}
