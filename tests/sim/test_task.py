"""Tasks on an engine: numbers drawn ahead are those drawn at once, results belong to the caller, all worlds or some give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import registry
from sim.draws import Ahead, Draws, unit_numbers
from sim.episodes import hashed

CARTPOLE = "classic/cartpole"


def make(num_worlds: int, **options: Any) -> Any:
    return registry.make(CARTPOLE, num_worlds, **options)


def actions(steps: int, num_worlds: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (steps, num_worlds, 1)).astype(np.float32)


# Numbers ----------------------------------------------------------------------------------------------------------


def reference_hash(*parts: int) -> int:
    """SplitMix64's finaliser over the parts, in Python's integers."""
    mask, h = (1 << 64) - 1, 0
    for part in parts:
        h = ((h ^ (part & mask)) + 0x9E3779B97F4A7C15) & mask
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
        h ^= h >> 31
    return h >> 1


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_hashes_are_the_published_mixing(parts: list[int]) -> None:
    assert hashed(*parts)[0] == reference_hash(*parts)
    np.testing.assert_array_equal(hashed(*[np.array([p, p]) for p in parts]), [reference_hash(*parts)] * 2)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=5), st.integers(0, 2**40), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_draws_are_the_numbers_of_a_sequence_in_order(seeds: list[int], stream: int, sizes: list[int]) -> None:
    array = np.array(seeds, np.int64)
    whole = unit_numbers(array, stream, sum(sizes))
    expected = np.array([[reference_hash(seed, stream, k) * 2.0**-63 for k in range(sum(sizes))] for seed in seeds])
    np.testing.assert_array_equal(whole, expected)
    for known in (None, whole, whole[:, :2]):
        draws = Draws(array, stream, known)
        parts = [draws.uniform(shape=(size,)) for size in sizes]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        assert draws.drawn == sum(sizes)
    np.testing.assert_array_equal(unit_numbers(array.reshape(1, -1), stream, 3)[0], unit_numbers(array, stream, 3))


@pytest.mark.parametrize("numbers", [1 << 16, 200, 0])
def test_what_is_drawn_ahead_is_what_would_be_drawn_at_once(numbers: int) -> None:
    worlds, rng = 5, np.random.default_rng(2)
    ahead, roots, counts = Ahead(worlds, 3, numbers), np.arange(10, 10 + worlds), np.zeros(worlds, np.int64)
    ahead.draws(np.arange(worlds), roots).uniform(shape=(6,))
    for k in range(120):
        rows = np.flatnonzero(rng.random(worlds) < 0.4)
        if not rows.size:
            continue
        if k == 60:  # new first seeds in two worlds, as reset() gives
            roots[[1, 4]], counts[[1, 4]] = (77, 78), 0
            ahead.draws(np.array([1, 4]), roots[[1, 4]]).uniform(shape=(6,))
        counts[rows] += 1
        seeds = ahead.seeds(rows, roots, counts)
        np.testing.assert_array_equal(seeds, hashed(roots[rows], rows, counts[rows]))
        draws, plain = ahead.draws(rows, seeds), Draws(seeds, 3)
        size = 6 if k < 30 else 9  # later episodes draw more
        np.testing.assert_array_equal(draws.uniform(shape=(4,)), plain.uniform(shape=(4,)))
        np.testing.assert_array_equal(draws.normal(shape=(size - 4,)), plain.normal(shape=(size - 4,)))


# Episodes ---------------------------------------------------------------------------------------------------------


def test_auto_reset_episodes_are_those_of_their_seeds() -> None:
    env, alone = make(6, autoreset=True, max_episode_steps=3), make(1)
    roots = np.arange(20, 26)
    env.reset(roots)
    for step, action in enumerate(actions(30, 6)):
        result = env.step(action)
        if (step + 1) % 3 == 0:
            count = (step + 1) // 3
            for row in (0, 5):
                first = alone.reset(hashed(int(roots[row]), row, count))
                np.testing.assert_array_equal(result.obs["observation.state"][row], first["observation.state"][0])
    env.close(), alone.close()


def test_what_a_step_returns_is_the_callers() -> None:
    kept, spoilt = make(3, autoreset=True, max_episode_steps=4), make(3, autoreset=True, max_episode_steps=4)
    kept.reset(np.arange(3)), spoilt.reset(np.arange(3))
    results = []
    for action in actions(10, 3):
        a, b = kept.step(action), spoilt.step(action)
        for name in a.obs:
            np.testing.assert_array_equal(a.obs[name], b.obs[name])
            np.testing.assert_array_equal(a.next_obs[name], b.next_obs[name])
        for name in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        results.append((a, [a.obs["observation.state"].copy(), a.next_obs["observation.state"].copy(), a.reward.copy(), a.truncated.copy()]))
        b.obs["observation.state"][:], b.next_obs["observation.state"][:], b.reward[:] = 7, 7, 7
    for result, copies in results:
        for array, copy in zip([result.obs["observation.state"], result.next_obs["observation.state"], result.reward, result.truncated], copies, strict=True):
            np.testing.assert_array_equal(array, copy)
    kept.close(), spoilt.close()


def test_a_pole_that_is_left_alone_is_no_success() -> None:
    """An evaluation ends an episode at its first success: at the first step every pole is up."""
    env = make(200)
    env.reset(np.arange(200))
    ever = {name: np.zeros(200, bool) for name in ("first", "later")}
    for step in range(200):
        ever["later" if step else "first"] |= env.step(np.zeros((200, 1), np.float32)).info["success"]
    assert not ever["first"].any() and ever["later"].mean() < 0.02
    env.close()


def test_flags_that_were_returned_do_not_change_when_worlds_are_retired_or_reset() -> None:
    env = make(3)
    env.reset(np.arange(3))
    for _ in range(100):
        result = env.step(env.expert_action())
    succeeded = result.info["success"].copy()
    assert succeeded.all()
    env.retire(np.array([True, False, False]))
    env.reset(np.arange(3), np.array([False, True, False]))
    after = env.step(actions(1, 3)[0])
    assert not result.truncated.any() and not result.terminated.any()
    np.testing.assert_array_equal(result.info["success"], succeeded)
    assert after.truncated.tolist() == [True, False, False] and after.reward[0] == 0.0
    env.close()


def test_some_worlds_step_as_they_do_among_all() -> None:
    together, parted = make(4), make(4)
    together.reset(np.arange(4)), parted.reset(np.arange(4))
    parted.retire(np.array([False, True, False, True]))
    for action in actions(20, 4):
        a, b = together.step(action), parted.step(np.where([[True], [False], [True], [False]], action, np.nan))
        np.testing.assert_array_equal(a.obs["observation.state"][[0, 2]], b.obs["observation.state"][[0, 2]])
        np.testing.assert_array_equal(a.reward[[0, 2]], b.reward[[0, 2]])
        assert b.truncated.tolist() == [False, True, False, True]
    together.close(), parted.close()


def test_large_finite_actions_are_clipped_and_infinite_ones_refused() -> None:
    env, clipped = make(2), make(2)
    env.reset(np.arange(2)), clipped.reset(np.arange(2))
    far = np.array([[3e38], [-3e38]], np.float32)  # their squares are beyond float32
    np.testing.assert_array_equal(env.step(far).obs["observation.state"], clipped.step(np.sign(far)).obs["observation.state"])
    with pytest.raises(ValueError, match="world 1 is not finite"):
        env.step(np.array([[0.0], [np.inf]], np.float32))
    env.close(), clipped.close()


def test_an_entry_says_what_its_class_says() -> None:
    item = registry.entry("gymnasium/humanoid")
    assert item.requires == ("mujoco", "gymnasium") and item.engines == ("mujoco",) and item.batched
    assert item.max_episode_steps == 1000 and item.rate_hz == pytest.approx(1 / 0.015)
    assert registry.entry(CARTPOLE).engines == ("mujoco", "warp", "bullet")
    with pytest.raises(ValueError, match="engine 'warp' of task 'gymnasium/humanoid'"):
        registry.make("gymnasium/humanoid", engine="warp")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int) -> None:
    env = make(5, threads=threads, autoreset=True, max_episode_steps=7)
    env.reset(np.arange(5))
    rewards = np.stack([env.step(action).reward for action in actions(30, 5)])
    reference = make(5, autoreset=True, max_episode_steps=7)
    reference.reset(np.arange(5))
    np.testing.assert_array_equal(rewards, np.stack([reference.step(action).reward for action in actions(30, 5)]))
    env.close(), reference.close()
