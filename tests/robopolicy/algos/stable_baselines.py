"""The same networks in stable-baselines3 and here: weights copied across, its batch and its noise put in from outside."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from robopolicy.algos.rule import Transitions
from tests.robopolicy.algos.off_policy_toys import STATE


class Box(gymnasium.Env[np.ndarray, np.ndarray]):
    """Spaces alone: no step is ever taken."""

    def __init__(self, states: int, actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (states,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)


def copy_critics(theirs: Any, ours: Any) -> None:
    """Put the weights of ``theirs`` (``ContinuousCritic``) into the members of ``ours`` (``Critics``)."""
    with torch.no_grad():
        for member, network in enumerate(theirs.q_networks):
            for layer, linear in zip(ours.layers, [m for m in network if isinstance(m, torch.nn.Linear)], strict=True):
                layer.weight[member] = linear.weight.T
                layer.bias[member, 0] = linear.bias


def copy_linears(theirs: list[torch.nn.Linear], ours: torch.nn.Sequential) -> None:
    """Put the weights of ``theirs`` into the linear layers of ``ours``."""
    with torch.no_grad():
        for layer, linear in zip([m for m in ours if isinstance(m, torch.nn.Linear)], theirs, strict=True):
            layer.weight.copy_(linear.weight)
            layer.bias.copy_(linear.bias)


def sac_layers(actor: Any) -> list[torch.nn.Linear]:
    """Return the layers of a SAC actor with its two heads as one."""
    head = torch.nn.Linear(actor.mu.in_features, 2 * actor.mu.out_features)
    with torch.no_grad():
        head.weight.copy_(torch.cat([actor.mu.weight, actor.log_std.weight]))
        head.bias.copy_(torch.cat([actor.mu.bias, actor.log_std.bias]))
    return [*(m for m in actor.latent_pi if isinstance(m, torch.nn.Linear)), head]


def feed(model: Any, batch: Transitions, gamma: float) -> None:
    """Make every draw from the model's replay be ``batch``."""
    done = (batch.discount == 0).float()[:, None]
    assert torch.equal(batch.discount, gamma * (1 - done[:, 0]))
    drawn = ReplayBufferSamples(batch.obs[STATE], batch.action, batch.next_obs[STATE], done, batch.reward[:, None])
    model.replay_buffer.sample = lambda *_, **__: drawn
