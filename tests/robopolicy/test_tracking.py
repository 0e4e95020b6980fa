"""Tracking errors of velocity commands: by hand for who stands and who has fallen, small for who follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.gaussian import GaussianConfig, GaussianPolicy
from policies.normalize import limits_normalizer
from policies.spec import InputError
from robopolicy.evaluation.tracking import Tracking, track
from sim.registry import make

TASK, STEPS, EPISODES = "locomotion/quadruped", 300, 8


def _constant(action: float) -> GaussianPolicy:
    """Return a policy that always takes ``action`` (of [-1, 1]) for all joints."""
    spec = make(TASK).spec
    policy = GaussianPolicy(GaussianConfig(hidden=[4]), spec, limits_normalizer(spec))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        list(policy.network.parameters())[-1].fill_(action)
    return policy.eval()


def _measured(policy) -> Tracking:
    return track(policy, TASK, EPISODES, env={"max_episode_steps": STEPS})


@pytest.fixture(scope="module")
def commanded() -> np.ndarray:
    """(EPISODES, 2) mean size of the commands over the judged steps: 1.5 s after each new one, of which there is one every 4 s."""
    env = make(TASK, EPISODES, max_episode_steps=STEPS)
    env.reset(2_000_000 + np.arange(EPISODES))
    each = [env.commands.at(np.full(EPISODES, step)) for step in range(STEPS) if step % 200 >= 75]  # type: ignore[attr-defined]
    return np.stack([np.linalg.norm(np.array(each)[..., :2], axis=2).mean(0), np.abs(np.array(each)[..., 2]).mean(0)], axis=1)


def test_who_falls_misses_all_that_is_commanded(commanded: np.ndarray) -> None:
    fallen = _measured(_constant(1.0))
    assert fallen.fallen.all() and not fallen.success.any()
    np.testing.assert_allclose(np.stack([fallen.linear_still, fallen.yaw_still], 1), commanded, rtol=1e-6)
    np.testing.assert_allclose(fallen.linear, fallen.linear_still, rtol=1e-6)  # all fell before the first judged step
    np.testing.assert_allclose(fallen.yaw, fallen.yaw_still, rtol=1e-6)


def test_who_stands_misses_about_that(commanded: np.ndarray) -> None:
    still = _measured(_constant(0.0))
    assert not still.fallen.any()
    np.testing.assert_allclose(still.linear, commanded[:, 0], atol=0.03)
    np.testing.assert_allclose(still.yaw, commanded[:, 1], atol=0.05)


def test_who_follows_misses_less(commanded: np.ndarray) -> None:
    expert = _measured("expert")
    assert expert.mean("linear") < 0.5 * commanded[:, 0].mean()
    assert expert.mean("yaw") < 0.6 * commanded[:, 1].mean()
    assert expert.summary()["success"] >= 0.75
    assert 0 < expert.half_width("linear") < 0.1


def test_a_task_without_commands_is_refused() -> None:
    with pytest.raises(InputError, match="'classic/cartpole' commands no velocities"):
        track("expert", "classic/cartpole", 2)
    with pytest.raises(InputError, match="50 steps end before anything is judged"):
        track("expert", TASK, 2, env={"max_episode_steps": 50})
