"""Returns of whole episodes of a Gymnasium environment, the same initial states for everybody, and curves of our runs by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.evaluation.statistics import mean_interval

#: Seeds of the episodes that every system is judged by; no training uses them.
EVALUATION_SEEDS = tuple(range(90_000, 90_020))


def deterministic_returns(environment: str, act: Callable[[np.ndarray], np.ndarray], seeds: Sequence[int]) -> list[float]:
    """Return the sum of rewards of one episode a seed, played to its end in Gymnasium's own environment.

    Args:
        environment: Gymnasium's name.
        act: (B, D) float32 observations of the episodes that still run -> (B, Da) actions; clipped to the limits here.
        seeds: Of the initial states.
    """
    import gymnasium

    worlds = [gymnasium.make(environment) for _ in seeds]
    obs = np.stack([world.reset(seed=seed)[0] for world, seed in zip(worlds, seeds, strict=True)])
    total, running = np.zeros(len(worlds)), np.arange(len(worlds))
    space: Any = worlds[0].action_space
    while len(running):
        actions = np.clip(act(obs[running].astype(np.float32)), space.low, space.high)
        going = []
        for at, action in zip(running, actions, strict=True):
            obs[at], reward, terminated, truncated, _ = worlds[at].step(action)
            total[at] += float(reward)
            going.append(not (terminated or truncated))
        running = running[going]
    for world in worlds:
        world.close()
    return total.tolist()


def policy_act(checkpoint: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return :func:`deterministic_returns`' ``act``, (B, D) -> (B, Da), of a checkpoint that reads one field: what Gymnasium observes."""
    import torch

    from policies.checkpoint import load
    from policies.noise import Noise, row_keys

    policy = load(checkpoint)
    (field,) = policy.spec.observation.fields

    def act(obs: np.ndarray) -> np.ndarray:
        plan, _ = policy.act({field: torch.from_numpy(obs).unsqueeze(1)}, policy.initial_state(len(obs)), Noise(row_keys(0, np.arange(len(obs)))))
        return plan.actions[:, 0].numpy()

    return act


def said(values: Sequence[float]) -> str:
    """Return ``mean [low, high]`` for notes, the 95 % interval Student's, and each value; of one value, that alone."""
    if len(values) == 1:
        return f"{values[0]:,.0f}"
    mean, half = mean_interval(values)
    return f"{mean:,.0f} [{mean - half:,.0f}, {mean + half:,.0f}] ({', '.join(f'{v:,.0f}' for v in values)})"


def first_reached(points: Sequence[dict[str, float]], target: float) -> dict[str, float] | None:
    """Return the first point of a curve whose return is at least ``target``; None if there is none."""
    return next((point for point in points if point["return"] >= target), None)
