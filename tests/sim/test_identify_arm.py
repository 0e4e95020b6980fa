"""Identification of an arm whose interpolator keeps a state beside the physics: whole trajectories, planted fields and delay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim import registry
from sim.identify import Settings, identify, require_task
from sim.identify_parameters import parameters
from sim.identify_rollout import Rollout, Trajectory, whole
from sim.task import MujocoTask

PLANTED = {"mass:link7": 1.2, "damping:joint4": 4.0, "frictionloss:joint6": 1.5, "delay": 0.06}
NOISE = np.array([5e-4] * 7 + [5e-3] * 7 + [1e-3] * 3)  # rad, rad/s, m


def recorded(episodes: int, steps: int) -> list[Trajectory]:
    """Return episodes of the planted arm under targets that swing about home, with noisy readings."""
    randomize: dict[str, Any] = {"model": {k: {"set": v} for k, v in PLANTED.items() if k != "delay"}, "actions": {"delay": PLANTED["delay"]}}
    env = registry.make("arm/reach", episodes, randomize=randomize, max_episode_steps=steps + 1)
    generator = np.random.default_rng(0)
    obs = env.reset(np.arange(episodes))["observation.state"]
    home, rates, phases = obs[:, :7].copy(), *generator.uniform([[[[0.2]]], [[[0.0]]]], [[[[2.0]]], [[[6.28]]]], (2, episodes, 7, 4))
    seen, sent = [], []
    for t in range(steps):
        swing = 0.125 * np.sin(2 * np.pi * rates * t / 20 + phases).sum(axis=-1)
        seen.append(obs.astype(float))
        sent.append(env.spec.action.clip(home + swing))
        obs = env.step(sent[-1]).obs["observation.state"]
    env.close()
    readings, actions = np.array(seen) + generator.normal(size=(steps, episodes, 17)) * NOISE, np.array(sent, float)
    return [Trajectory(actions[:, e], {"observation.state": readings[:, e]}, f"episode {e}") for e in range(episodes)]


def world(count: int) -> MujocoTask:
    return require_task(registry.make("arm/reach", count))


def test_with_the_planted_values_whole_trajectories_are_predicted_to_the_noise() -> None:
    trajectories = recorded(2, 20)
    task = world(2)
    wanted = parameters([f"{k}={v}" for k, v in PLANTED.items()], task.model, 0.2, 0.05)
    rollout = Rollout(task, [one.selection for one in wanted if one.selection is not None])
    observed = rollout.probe()
    assert len(observed.names) == 14
    windows = whole(trajectories, observed, 5, task.spec.action.zero_when_held)
    first = rollout.start(windows, observed)
    still, zero = -np.concatenate([np.zeros((2, 7)), first[:, 7:14]], axis=1), np.zeros(2)  # episodes begin at rest
    for delay, good in ((0.06, True), (0.01, False)):
        values = [one.values(zero) for one in wanted if one.selection is not None]
        left = rollout.predict(windows, observed, first, still, values, zero + delay, zero) - windows.observed
        assert ((np.abs(left[..., :7]).mean() < 2 * NOISE[0]) and (np.abs(left[..., 7:]).mean() < 3 * NOISE[7])) == good
    rollout.restore()


@pytest.mark.soak
def test_mass_damping_friction_and_delay_of_the_arm_are_found_from_half_off() -> None:
    starts = [f"{key}={value * factor}" for (key, value), factor in zip(PLANTED.items(), (1.5, 0.5, 1.5, 0.5), strict=True)]
    fit = identify(world(512), recorded(3, 40), starts, Settings(window_s=0, starts=1, held_out=0, iterations=10))
    for one in fit.estimates:
        assert abs(one.value - PLANTED[one.key]) < max(0.05 * PLANTED[one.key], 3 * one.standard_error), one
        assert one.standard_error < 0.1 * one.value
    np.testing.assert_allclose(fit.noise, NOISE[:14], rtol=0.35)
