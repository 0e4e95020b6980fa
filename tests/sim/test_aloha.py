"""ALOHA's tasks: the package's own episodes without its pictures, and experts that do them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robopolicy.data.disturb import Disturbances, Recovery
from robopolicy.evaluation.seeds import REPORT
from sim import registry, render
from sim.suites import aloha
from tests.require import require

TASKS = {"aloha/transfer-cube": "transfer_cube", "aloha/insertion": "insertion"}


def package(task: str) -> Any:
    """Return the package's own environment; it draws no pictures."""
    require("egl")  # the package asks for a renderer when it is imported
    render.configure()
    from gym_aloha.env import AlohaEnv

    env = AlohaEnv(task, obs_type="pixels_agent_pos")
    inner = env._env.task
    inner.get_observation = lambda physics: {"qpos": inner.get_qpos(physics), "state": inner.get_env_state(physics), "images": {"top": np.zeros((1, 1, 3))}}
    return env


def actions(steps: int) -> np.ndarray:
    """Return smooth targets (steps, 14) around the first pose, with grippers that open and close."""
    rng, start = np.random.default_rng(5), np.tile([*aloha.START[:6], 0.5], 2)
    way = np.cumsum(rng.uniform(-0.03, 0.03, (steps, 14)), axis=0)
    return np.clip(start + way, [*[-1.7] * 6, 0] * 2, [*[1.25] * 6, 1] * 2).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_episodes_are_the_packages_own(task: str) -> None:
    """Same first state for a seed, same numbers after a second of motion, up to what the solver leaves open at its first guess."""
    worlds, own = registry.make(task), package(TASKS[task])
    for seed in (3, REPORT + 17):
        obs, (frame, _) = worlds.reset(np.array([seed])), own.reset(seed=seed)
        for action in actions(50):
            np.testing.assert_allclose(obs["observation.state"][0], frame["agent_pos"], atol=2e-5)
            objects = own._env.task.get_env_state(own._env.physics)
            np.testing.assert_allclose(obs["observation.environment_state"][0], objects, atol=2e-5)
            result = worlds.step(action[None])
            frame, reward, terminated, _, info = own.step(action.astype(np.float64))
            assert result.reward[0] == reward and result.terminated[0] == terminated and result.info["success"][0] == info["is_success"]
            obs = result.obs
    worlds.close()


def test_rewards_follow_contacts_as_in_the_package() -> None:
    """Objects put on the table, in the air, between fingers and into each other."""
    for task, name in TASKS.items():
        worlds, own = registry.make(task), package(name)
        worlds.reset(np.array([0])), own.reset(seed=0)
        engine, physics = worlds.engine, own._env.physics  # type: ignore[attr-defined]
        found, rng = set(), np.random.default_rng(1)
        data = own._env.physics.data
        for trial in range(120):
            qpos = physics.data.qpos.copy()
            for k in range((len(qpos) - 16) // 7):
                side = ("left", "right")[trial % 2 if k == 0 else (trial + 1) % 2]
                finger = data.geom(f"vx300s_{side}/10_left_gripper_finger").xpos
                middle = rng.choice(4)
                spot = (finger + rng.normal(0, 0.02, 3), [rng.uniform(-0.1, 0.1), 0.5, 0.019], [0.0, 0.6, 0.4], qpos[-7:-4] + rng.normal(0, 0.02, 3))[middle]
                qpos[16 + 7 * k : 19 + 7 * k] = spot
            with physics.reset_context():
                physics.data.qpos[:] = qpos
            worlds.qpos[0] = qpos  # type: ignore[attr-defined]
            engine.forward()
            reward = float(worlds.judge(np.zeros((1, 14), np.float32)).reward[0])  # type: ignore[attr-defined]
            assert reward == own._env.task.get_reward(physics), (task, trial)
            found.add(reward)
        assert len(found) >= 3, found
        worlds.close()


def test_first_states_follow_from_the_seed_alone() -> None:
    """Also for seeds of auto-resets, which the package's generator does not take."""
    worlds = registry.make("aloha/insertion", 3)
    seeds = np.array([5, 2**61 + 5, 2**61 + 6])
    first = worlds.reset(seeds)["observation.environment_state"].copy()
    assert len(np.unique(first[:, 0])) == 3
    again = worlds.reset(seeds[::-1].copy())["observation.environment_state"]
    np.testing.assert_array_equal(first, again[::-1])
    for k, (low, high) in enumerate(zip(aloha.Insertion.low, aloha.Insertion.high, strict=True)):
        assert (first[:, 7 * k : 7 * k + 3] >= np.array(low) - 1e-6).all() and (first[:, 7 * k : 7 * k + 3] <= np.array(high) + 1e-6).all()
    worlds.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_experts_do_it(task: str) -> None:
    """On seeds that they were not tuned on; the second half of the worlds is disturbed for a moment."""
    worlds = registry.make(task, 6)
    seeds = np.arange(REPORT, REPORT + 6)
    wrong = Disturbances(Recovery(1.0, steps=12, within=60, size=0.1), seeds, worlds.spec.action)
    wrong.call_off(np.arange(6) < 3)
    worlds.reset(seeds)
    stages: list[np.ndarray] = []
    success = np.zeros(6, bool)
    for step in range(worlds.max_episode_steps):
        action = worlds.expert_action()
        result = worlds.step(worlds.spec.action.clip(wrong.executed(step, action, action)[0]))
        stages.append(result.info["score"].copy())
        success = result.info["success"]
        if (result.terminated | result.truncated).all():
            break
    assert success[:3].all() and success[3:].any(), success
    assert {0.0, 0.5, 1.0} <= set(np.concatenate(stages).tolist()), "things are lifted first"
    worlds.close()


def test_pictures_only_where_asked_for() -> None:
    require("egl")
    plain, seeing = registry.make("aloha/insertion"), registry.make("aloha/insertion", observations="image", image_size=48)
    assert not plain.spec.observation.image_names and seeing.spec.observation.image_names == (f"observation.images.{aloha.CAMERA}",)
    assert "observation.environment_state" not in seeing.spec.observation.fields
    shown = seeing.reset(np.array([1]))[f"observation.images.{aloha.CAMERA}"][0]
    red, blue = ((shown[..., k].astype(int) - shown[..., 2 - k]) > 60 for k in (0, 2))
    assert red.any() and blue.any(), "peg and socket are in view"
    plain.close(), seeing.close()
