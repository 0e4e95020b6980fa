"""Generalised advantage estimation (Schulman et al. 2016, equations 11 to 16), with the true successor of every step.

delta_t = r_t + gamma V(s'_t) (1 - terminated_t) - V(s_t)
A_t     = delta_t + gamma lambda (1 - ended_t) A_{t+1},    ended = terminated or truncated

s'_t is what the action of step t led to, not what was seen next: after an episode that a time limit cut, that is the first
observation of another one. Only a task that is over has no value beyond.
"""

from __future__ import annotations

import torch


def gae(
    reward: torch.Tensor,
    value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Return advantages (T, N); added to ``value``, they are the returns that the critic learns.

    Args:
        reward: (T, N), of T steps of N worlds.
        value: (T, N), V(s_t).
        next_value: (T, N), V(s'_t) of the true successors.
        terminated: (T, N) bool.
        truncated: (T, N) bool.
        gamma: Discount.
        lam: lambda, 0 (one step) to 1 (all there are).
    """
    delta = reward + gamma * next_value * (~terminated) - value
    carried = (gamma * lam) * (~(terminated | truncated)).to(delta.dtype)
    out, last = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        last = torch.addcmul(delta[t], carried[t], last, out=out[t])
    return out
