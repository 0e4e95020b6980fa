"""Half-cheetah, hopper, walker, ant and humanoid step for step as Gymnasium's own environments: observations, rewards, ends, info.

Both begin in the same state and get the same actions. Ours are compared in float64, before they are cast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from scipy.stats import ks_2samp

from sim import registry
from sim.suites.gymnasium.walking import WalkingTask

TOLERANCE = 1e-9
NO_CONTACT: Mapping[str, Any] = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
THEIRS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gymnasium/half-cheetah": ("HalfCheetah-v5", {}),
    "gymnasium/hopper": ("Hopper-v5", {}),
    "gymnasium/walker2d": ("Walker2d-v5", {}),
    "gymnasium/ant": ("Ant-v5", NO_CONTACT),
    "gymnasium/humanoid": ("Humanoid-v5", NO_CONTACT),
    "gymnasium/ant-full": ("Ant-v5", {}),
    "gymnasium/humanoid-full": ("Humanoid-v5", {}),
}
every_robot = pytest.mark.parametrize("task", THEIRS)


def make(task: str, num_worlds: int, threads: int = 1, **options: Any) -> WalkingTask:
    env = registry.make(task, num_worlds, threads=threads, **options)
    assert isinstance(env, WalkingTask)
    return env


def begin(theirs: Any, qpos: np.ndarray, qvel: np.ndarray) -> None:
    """Put Gymnasium's environment into a state as its own reset would."""
    mujoco.mj_resetData(theirs.model, theirs.data)  # type: ignore[attr-defined]
    theirs.set_state(qpos, qvel)


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Return how likely two samples of one distribution differ more (Kolmogorov and Smirnov)."""
    found: Any = ks_2samp(a, b)
    return float(found.pvalue)


def largest_difference(task: str, num_worlds: int, watched: tuple[int, ...], steps: int, threads: int = 1) -> tuple[float, int]:
    """Return the largest difference in worlds ``watched`` over ``steps`` random steps, and how many episodes ended in them."""
    ours, (environment, options) = make(task, num_worlds, threads), THEIRS[task]
    theirs = {row: gymnasium.make(environment, disable_env_checker=True, **options).unwrapped for row in watched}
    ours.reset(np.arange(num_worlds))
    for row, env in theirs.items():
        begin(env, ours.qpos[row], ours.qvel[row])
    rng, low, high = np.random.default_rng(3), ours.spec.action.low, ours.spec.action.high
    exact = np.empty((num_worlds, ours.spec.observation.fields["observation.state"].size))
    worst, ends = 0.0, 0
    for step in range(steps):
        action = rng.uniform(low, high, (num_worlds, low.size)).astype(np.float32)
        result = ours.step(action)
        ours.fill(exact)
        np.testing.assert_array_equal(result.next_obs["observation.state"], exact.astype(np.float32))
        np.testing.assert_array_equal(result.reward, ours.reward.astype(np.float32))
        for row, env in theirs.items():
            observation, reward, terminated, _, info = env.step(action[row].astype(np.float64))
            assert observation.shape == exact[row].shape
            worst = max(worst, float(np.abs(observation - exact[row]).max()), abs(float(reward) - ours.reward[row]))
            assert terminated == result.terminated[row], (row, step)
            for name in set(info) & set(result.info):
                worst = max(worst, abs(float(info[name]) - result.info[name][row]))
        ended = result.terminated | result.truncated
        if ended.any():
            ours.reset(np.arange(num_worlds) + num_worlds * (step + 1), ended)
            for row in np.flatnonzero(ended).tolist():
                if row in theirs:
                    begin(theirs[row], ours.qpos[row], ours.qvel[row])
                    ends += 1
    ours.close()
    return worst, ends


@every_robot
def test_one_world_steps_as_theirs(task: str) -> None:
    worst, ends = largest_difference(task, 1, (0,), 1000)
    assert worst <= TOLERANCE
    assert ends >= (1 if "cheetah" in task or "ant" in task else 20)  # falls are among what was compared


@every_robot
def test_each_of_many_worlds_steps_as_theirs(task: str) -> None:
    worst, _ = largest_difference(task, 64, (0, 29, 63), 60, threads=2)
    assert worst <= TOLERANCE


@pytest.mark.soak
@every_robot
def test_each_of_many_worlds_steps_as_theirs_for_long(task: str) -> None:
    worst, _ = largest_difference(task, 64, (0, 17, 29, 63), 1000, threads=2)
    assert worst <= TOLERANCE


@every_robot
def test_everything_they_tell_is_told(task: str) -> None:
    environment, options = THEIRS[task]
    ours, theirs = make(task, 2), gymnasium.make(environment, disable_env_checker=True, **options)
    theirs.reset(seed=0)
    told = {name for name, value in theirs.step(np.zeros(ours.spec.action.dim))[4].items() if np.ndim(value) == 0}
    ours.reset(np.array([1, 2]))
    mine = set(ours.step(np.zeros((2, ours.spec.action.dim))).info)
    follows = {"distance_from_origin", "z_distance_from_origin"}  # from the positions
    without = set() if "full" in task else {"reward_contact"}
    assert told - mine <= follows | without and mine - told == {"success"}
    assert theirs.spec is not None and ours.max_episode_steps == theirs.spec.max_episode_steps
    assert theirs.observation_space.shape == ours.spec.observation.fields["observation.state"].shape
    unwrapped: Any = theirs.unwrapped
    np.testing.assert_allclose(ours.dt, unwrapped.dt, rtol=1e-12)
    np.testing.assert_allclose(1.0 / ours.spec.action.rate_hz, unwrapped.dt, rtol=1e-12)
    ours.close(), theirs.close()


@every_robot
def test_episodes_begin_as_theirs_in_distribution(task: str) -> None:
    ours, (environment, options) = make(task, 1000), THEIRS[task]
    ours.reset(np.arange(1000))
    theirs: Any = gymnasium.make(environment, disable_env_checker=True, **options).unwrapped
    begun = []
    for seed in range(300):
        theirs.reset(seed=seed)
        begun.append(np.concatenate([theirs.data.qpos - theirs.init_qpos, theirs.data.qvel]))
    mine, nq = np.concatenate([ours.qpos - theirs.init_qpos, ours.qvel], axis=1), ours.model.nq
    for columns in (slice(0, nq), slice(nq, None)):
        assert p_value(mine[:, columns].ravel(), np.stack(begun)[:, columns].ravel()) > 1e-3
    for column in range(mine.shape[1]):
        assert p_value(mine[:, column], np.stack(begun)[:, column]) > 1e-5, column
    correlation = np.corrcoef(mine.T) - np.eye(mine.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(1000)
    ours.close()


def test_success_is_having_been_fast_on_average_and_being_up_at_the_time_limit() -> None:
    env: Any = make("gymnasium/hopper", 3, max_episode_steps=2)
    for _ in range(2):  # what an episode ran is forgotten by the next
        env.reset(np.arange(3))
        for t, factors in enumerate(([0.9, 1.1, 1.1], [1.05, 0.95, 1.1])):
            env._elapsed[:] = t
            env.apply(np.zeros((3, 3), np.float32))
            env.qpos[:, 0] += np.array(factors) * env.target_speed * env.dt
            env.qpos[2, 1] = 1.25 if t == 0 else 0.5  # on the ground
            outcome = env.judge(np.zeros((3, 3), np.float32))
            assert outcome.info["success"].tolist() == [False, t == 1, False]
        assert outcome.terminated.tolist() == [False, False, True]
        np.testing.assert_allclose(outcome.reward, [1 + 1.05 * 2.8, 1 + 0.95 * 2.8, 1.1 * 2.8])
    env.close()


def test_a_runaway_number_is_a_fall_of_the_hopper() -> None:
    env: Any = make("gymnasium/hopper", 3)
    env.reset(np.arange(3))
    assert env.upright().all()
    env.qvel[1, 4], env.qvel[2, 0] = 100.5, np.nan
    assert env.upright().tolist() == [True, False, False]
    env.close()


def test_a_number_that_is_not_finite_ends_the_ant() -> None:
    env: Any = make("gymnasium/ant", 3)
    env.reset(np.arange(3))
    assert env.healthy().all()
    env.qvel[2, 3] = np.inf
    assert env.healthy().tolist() == [True, True, False]
    env.close()
