"""Worlds that are a part of more: the episodes of the whole, whatever the parts."""

from __future__ import annotations

import numpy as np
import pytest

from sim.registry import make

WORLDS, STEPS = 6, 90


def _observed(task: str, worlds: range) -> np.ndarray:
    """Return the states (STEPS, K, S) of ``worlds`` among ``WORLDS``, over several episodes of at most 20 steps, begun by auto-reset."""
    env = make(task, num_worlds=len(worlds), max_episode_steps=20, autoreset=True)
    env.first_world = worlds.start  # type: ignore[attr-defined]
    obs = env.reset(1000 + np.arange(worlds.start, worlds.stop))
    generator = np.random.default_rng(0)
    out = []
    for _ in range(STEPS):
        out.append(np.concatenate([array.reshape(len(worlds), -1) for array in obs.values()], axis=1))
        low, high = (np.asarray(side, np.float32) for side in (env.spec.action.low, env.spec.action.high))
        action = generator.uniform(low, high, (WORLDS, low.size)).astype(np.float32)
        obs = env.step(action[worlds.start : worlds.stop]).obs
    env.close()
    return np.array(out)


@pytest.mark.parametrize("task", ["classic/cartpole", "pusht", "gymnasium/hopper"])
def test_parts_have_the_episodes_of_the_whole(task: str) -> None:
    whole = _observed(task, range(WORLDS))
    for part in (range(2), range(2, 6)):
        assert np.array_equal(_observed(task, part), whole[:, part.start : part.stop])
    assert len(np.unique(whole[40], axis=0)) == WORLDS  # later episodes differ from world to world
