"""Every registered task, in short: it constructs, steps, draws, repeats itself, keeps true successors, and Gymnasium accepts it.

One world a task for all of it; what needs several worlds side by side is checked on a few tasks of each suite
(``test_env_contract.py``, ``test_batched_worlds.py``), and on all as a soak.
"""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim import gym, registry
from sim.env import BatchEnv, StepResult
from sim.episodes import hashed
from tests.contracts import test_env_contract as contract
from tests.require import require, require_task

STEPS, LIMIT, CUT, REPEATED = 300, 100, 3, 25
SEED = np.array([2_000_003], np.int64)
every_task = pytest.mark.parametrize("task", registry.names())


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray], what: str) -> None:
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=f"{name} {what}")


def check_steps(worlds: BatchEnv, actions: np.ndarray) -> list[StepResult]:
    """Step with auto-reset; return the results of the first episode."""
    episode: list[StepResult] = []
    over = False
    obs = worlds.reset(SEED)
    for action in actions:
        worlds.spec.observation.validate(obs, (1,))
        result = worlds.step(action)
        for name, field in worlds.spec.observation.fields.items():
            for found in (obs[name], result.next_obs[name]):
                assert np.isfinite(found).all() and contract.within(field, found), name
        assert np.isfinite(result.reward).all() and result.reward.dtype == np.float32 and result.info["success"].dtype == bool
        assert all(np.isfinite(values).all() and values.shape == (1,) for values in result.info.values())
        if not over:
            episode.append(result)
        over = over or bool(result.terminated[0] | result.truncated[0])
        obs = result.obs
    assert over, "no episode ended"
    return episode


def check_repeats(worlds: BatchEnv, actions: np.ndarray, episode: list[StepResult]) -> None:
    """The same seed and actions give the same numbers, whatever the world did before."""
    worlds.reset(SEED)
    for t, (action, expected) in enumerate(zip(actions[:REPEATED], episode, strict=False)):
        result = worlds.step(action)
        equal(result.next_obs, expected.next_obs, f"at step {t}")
        assert result.reward[0] == expected.reward[0] and result.terminated[0] == expected.terminated[0]


def check_true_successor(worlds: BatchEnv, actions: np.ndarray, episode: list[StepResult]) -> None:
    """Where the time limit cuts an episode, ``next_obs`` is what a longer one goes on from, and ``obs`` the next one's first."""
    assert not episode[CUT - 1].terminated[0], "the episode ends before it could be cut"
    limit, worlds.max_episode_steps, worlds.autoreset = worlds.max_episode_steps, CUT, True
    worlds.reset(SEED)
    for action in actions[:CUT]:
        result = worlds.step(action)
    worlds.max_episode_steps, worlds.autoreset = limit, False
    assert result.truncated[0] and not result.terminated[0]
    equal(result.next_obs, episode[CUT - 1].next_obs, "of the true successor")
    equal(result.obs, worlds.reset(hashed(SEED, np.zeros(1, np.int64), 1)), "of the next episode")
    assert any((result.obs[name] != result.next_obs[name]).any() for name in result.obs)


@every_task
def test_it_keeps_the_contract(task: str) -> None:
    require_task(task)
    contract.needs(task)
    item = registry.entry(task)
    assert gymnasium.spec(f"robopolicy/{item.short_name}").kwargs["task"] == task, "two tasks have one short name"
    env = gym.TaskEnv(task, max_episode_steps=LIMIT, autoreset=True)
    worlds = env.worlds
    assert worlds.task == task and worlds.spec.action.rate_hz == worlds.spec.observation.rate_hz == item.rate_hz
    assert "definition " in worlds.suite_version and len(worlds.suite_version) < 160
    actions = contract.random_actions(worlds, STEPS)
    episode = check_steps(worlds, actions)
    worlds.autoreset = False
    check_repeats(worlds, actions, episode)
    check_true_successor(worlds, actions, episode)
    if item.has_expert:
        action = worlds.expert_action()
        assert action.shape == (1, worlds.spec.action.dim) and action.dtype == np.float32
        np.testing.assert_array_equal(action, worlds.spec.action.clip(action))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends bounded spaces and symmetric actions
        check_env(env, skip_render_check=True)
    if "camera" in item.tags and task != "pusht":
        require("egl")
    pictures = worlds.render()
    assert pictures is not None and pictures.dtype == np.uint8 and pictures.shape[0] == 1 and pictures.shape[3] == 3 and pictures.std() > 5
    env.close()


def test_every_task_says_when_it_counts_as_solved() -> None:
    for name in registry.names():
        line = registry.entry(name).success
        assert line.strip() == line and 10 < len(line) < 200 and "\n" not in line, name


@pytest.mark.soak
@pytest.mark.parametrize("task", [name for name in registry.names() if not registry.entry(name).batched])
def test_the_whole_contract_on_every_task_that_is_stepped_world_by_world(task: str) -> None:
    require_task(task)
    contract.check_random_episode(task, 3000)
    contract.test_an_episode_depends_on_its_seed_and_actions_alone(task)
    contract.test_an_auto_reset_keeps_the_true_successor(task)
    contract.test_an_ended_world_stays_as_it_is(task)
    contract.test_a_masked_reset_leaves_the_other_worlds_alone(task)
    contract.test_what_cannot_be_executed_is_refused(task)
    contract.test_actions_are_clipped_to_the_limits(task)
