"""What every task on an engine promises besides: exact states, the same numbers whatever threads, no NaN for long.

A few tasks of each suite in every run, all of them as a soak; the list is the registry's.
"""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim import gym, registry
from sim.env import BatchEnv
from tests.contracts import test_env_contract as contract

A_SUITE = 2  # tasks of each that are checked in every run


def batched() -> list[str]:
    """Return every task on an engine whose packages are here."""
    return [name for name in registry.names() if registry.entry(name).batched and registry.entry(name).installed]


def representatives() -> list[str]:
    """Return the first few of each suite."""
    suites: dict[str, list[str]] = {}
    for name in batched():
        suites.setdefault(name.partition("/")[0], []).append(name)
    return [name for names in suites.values() for name in names[:A_SUITE]]


few, every = pytest.mark.parametrize("task", representatives()), pytest.mark.parametrize("task", batched())


def make(task: str, num_worlds: int, **options) -> BatchEnv:
    return registry.make(task, num_worlds, **options)


def check_threads(task: str, steps: int = 20) -> None:
    one, two = make(task, 5, autoreset=True, max_episode_steps=8), make(task, 5, threads=2, autoreset=True, max_episode_steps=8)
    seeds = np.arange(50, 55)
    first, other = one.reset(seeds), two.reset(seeds)
    for name in first:
        np.testing.assert_array_equal(first[name], other[name])
    for action in contract.random_actions(one, steps):
        a, b = one.step(action), two.step(action)
        for name in a.obs:
            np.testing.assert_array_equal(a.obs[name], b.obs[name])
            np.testing.assert_array_equal(a.next_obs[name], b.next_obs[name])
        np.testing.assert_array_equal(a.reward, b.reward)
    one.close(), two.close()


def check_states(task: str, steps: int = 15) -> None:
    """A saved state goes on bit for bit, in the same worlds and in others."""
    env, other = make(task, 3), make(task, 2)
    engine, elsewhere = env.engine, other.engine  # type: ignore[attr-defined]
    env.reset(contract.SEEDS), other.reset(contract.SEEDS[:2] + 9)
    ctrl, there = engine.bind("ctrl"), elsewhere.bind("ctrl")
    for action in contract.random_actions(env, 5):
        env.step(action)
    kept, ticks = engine.save(), env.ticks  # type: ignore[attr-defined]
    commands = np.random.default_rng(1).normal(0, 0.1, (steps, *ctrl.shape)) + ctrl

    def go_on() -> np.ndarray:
        for command in commands:
            ctrl[:] = command
            engine.step(None, ticks)
        return engine.save()

    expected = go_on()
    assert np.isfinite(expected).all() and (expected != kept).any(axis=1).all()
    engine.load(kept)
    np.testing.assert_array_equal(go_on(), expected)
    elsewhere.load(kept[2:], np.array([1]))
    for command in commands:
        there[1] = command[2]
        elsewhere.step(None, ticks)
    if not engine._expanded:  # where worlds have model fields of their own, a state is not all of a world
        np.testing.assert_array_equal(elsewhere.save(np.array([1]))[0], expected[2])
    env.close(), other.close()


def check_finite(task: str, steps: int, num_worlds: int = 4) -> None:
    """Random steps, counted over all worlds, give finite numbers within the spec."""
    env = make(task, num_worlds, autoreset=True)
    obs = env.reset(np.arange(num_worlds))
    low, high = env.spec.action.low, env.spec.action.high
    rng = np.random.default_rng(0)
    for _ in range(-(-steps // num_worlds)):
        result = env.step(rng.uniform(low, high, (num_worlds, low.size)).astype(np.float32))
        obs = result.obs
        for name, field in env.spec.observation.fields.items():
            for arrays in (obs, result.next_obs):
                assert np.isfinite(arrays[name]).all() and contract.within(field, arrays[name]), name
        assert np.isfinite(result.reward).all()
        assert all(np.isfinite(values).all() for values in result.info.values())
    env.spec.observation.validate(obs, (num_worlds,))
    env.close()


def check_adapter(task: str) -> None:
    env = gymnasium.make(f"robopolicy/{registry.entry(task).short_name}")
    assert isinstance(env.unwrapped, gym.TaskEnv) and env.unwrapped.worlds.task == task, "two tasks have one short name"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends bounded spaces and symmetric actions
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


@few
def test_threads_change_nothing(task: str) -> None:
    check_threads(task)


@few
def test_states_come_back_bit_for_bit(task: str) -> None:
    check_states(task)


@few
def test_random_steps_give_finite_numbers(task: str) -> None:
    check_finite(task, 2000)


@few
def test_the_contract_of_every_batch_of_worlds(task: str) -> None:
    contract.test_an_episode_depends_on_its_seed_and_actions_alone(task)
    contract.test_an_auto_reset_keeps_the_true_successor(task)
    contract.test_an_ended_world_stays_as_it_is(task)
    contract.test_a_masked_reset_leaves_the_other_worlds_alone(task)
    contract.test_what_cannot_be_executed_is_refused(task)
    contract.test_actions_are_clipped_to_the_limits(task)


@pytest.mark.soak
@every
def test_the_whole_contract_on_every_task(task: str) -> None:
    check_threads(task, 60)
    check_states(task, 40)
    check_adapter(task)
    test_the_contract_of_every_batch_of_worlds(task)


@pytest.mark.soak
@every
def test_a_hundred_thousand_random_steps_give_finite_numbers(task: str) -> None:
    check_finite(task, 100_000, 32)
