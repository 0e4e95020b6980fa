"""Episodes with plans that come late, in lock-step: the runtime's own chunk buffer over a batch of worlds.

All rows share one :class:`real.chunks.ChunkBuffer`, whose rows of a plan are those of all worlds side by side, so a plan is
asked for, awaited, spliced and played exactly as the runtime does it. A plan asked for at step k with the observation
of step k is there at step k + d; its rows before that are dropped, and the old ones play on meanwhile. The first plan of
an episode is awaited: the clock of an episode starts with its first command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Execution, Policy, State
from policies.noise import Noise, row_keys
from real.chunks import ChunkBuffer
from robopolicy.evaluation.blocks import History, Tally
from sim.env import BatchEnv, Observation


@dataclass(frozen=True)
class Outcome:
    """What B episodes came to.

    Attributes:
        success: (B,) bool.
        length: (B,) int64, control steps.
        plans: Plans asked for by the row that lasted longest.
        jump: Mean over rows of the largest difference of two actions in a row, in the action's unit, at a change of plan.
    """

    success: np.ndarray
    length: np.ndarray
    plans: int
    jump: float


def play(env: BatchEnv, policy: Policy, seeds: np.ndarray, delay: int, noise_seed: int = 0) -> Outcome:
    """Play one episode for each of ``seeds`` (B,), B the worlds of ``env``, with plans that take ``delay`` control steps.

    Plans are asked for when ``delay`` actions are left (``ChunkBuffer.lead``), one at a time. Noise is keyed by
    (noise seed, episode seed, number of the plan): every policy gets the same.

    Args:
        env: Auto-reset off.
        policy: Learnt; its n_action_steps must be above ``delay``.
        seeds: Of the episodes.
        delay: Control steps from the request of a plan to its arrival.
        noise_seed: Key of the policy's noise.

    Raises:
        ValueError: if a plan has too few actions for the delay.
    """
    if policy.n_action_steps <= delay:
        raise ValueError(f"plans of {policy.n_action_steps} actions that come {delay} steps late have nothing to say")
    rows, dim = env.num_worlds, env.spec.action.dim
    tally = Tally(rows, rows, dim, env.max_episode_steps)
    history = History(env.reset(seeds), policy.n_obs_steps)
    buffer = ChunkBuffer(policy.n_action_steps, rows * dim, env.spec.action.rate_hz, lead=delay)
    state, calls, due, plan = policy.initial_state(rows), 0, 0, np.zeros((0, rows * dim), np.float32)
    last, changed, jumps = np.zeros((rows, dim)), False, np.zeros(rows)
    while tally.active.any():
        if buffer.waiting and buffer.step >= due:
            changed = buffer.step > 0
            buffer.splice(plan, 0.0)
        if buffer.wants_plan():
            due = buffer.step + buffer.remaining
            keys = row_keys(noise_seed, seeds, calls)
            actions, state = _plan(policy, history.window, state, keys, buffer.execution(), np.flatnonzero(tally.active), buffer.step == 0)
            plan, calls = np.moveaxis(actions, 1, 0).reshape(policy.n_action_steps, -1), calls + 1
            buffer.asked()
            if due == buffer.step:
                changed = buffer.step > 0
                buffer.splice(plan, 0.0)
        taken = buffer.take()
        assert taken is not None, "the lead covers the delay"
        action = taken.reshape(rows, dim)
        if changed:
            found = np.abs(action - last).max(1)
            jumps[tally.active] = np.maximum(jumps, found)[tally.active]
        last, changed = action, False
        result = env.step(action)
        tally.stepped(action, result)
        env.retire(~tally.active)
        history.push(result.next_obs)
    return Outcome(tally.success.copy(), tally.length.copy(), calls, float(jumps.mean()))


def _plan(
    policy: Policy, window: Observation, state: State, keys: np.ndarray, execution: Execution, rows: np.ndarray, everyone: bool
) -> tuple[np.ndarray, State]:
    """Return actions (B, Ta, Da) and the next state; only ``rows`` (K,) are planned for, the others get zeros and keep their state."""
    import torch

    rows = np.arange(len(keys)) if everyone else rows
    chosen = torch.from_numpy(rows)
    obs: dict[str, Any] = {name: torch.tensor(window[name][rows]) for name in policy.spec.observation.fields}
    with torch.no_grad():
        plan, after = policy.act(obs, {name: value[chosen] for name, value in state.items()}, Noise(keys[rows]), execution)
    actions = np.zeros((len(keys), policy.n_action_steps, policy.spec.action.dim), np.float32)
    actions[rows] = plan.actions.numpy()
    new = {name: value.clone() for name, value in state.items()}
    for name, value in after.items():
        new[name][chosen] = value
    return actions, new
