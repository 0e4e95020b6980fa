"""Episode bookkeeping: hashes, flags and what the adapter passes through, on worlds whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome, hashed, hashed_normals
from sim.registry import make

SPEC = Spec(ObservationSpec({"observation.state": Field((1,))}), ActionSpec({"up": Field((1,), low=(-1,), high=(1,))}))


class Counter(EpisodicBatch):
    """World i counts up by its action from its seed; it terminates from 10."""

    def __init__(self, num_worlds: int, limit: int = 100, autoreset: bool = False) -> None:
        super().__init__("counter", "1", SPEC, num_worlds, limit, autoreset, {"score": "float32"})
        self.count = np.zeros(num_worlds)
        self.advanced: list[list[int]] = []

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.count[rows] = seeds

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self.advanced.append(rows.tolist())
        self.count[rows] += action[:, 0]
        done = self.count[rows] >= 10
        return Outcome(action[:, 0], done, {"success": done, "score": self.count[rows] / 10})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows, 0] = self.count[rows]


def test_it_is_a_batch_env() -> None:
    assert isinstance(Counter(1), BatchEnv)


def test_termination_and_truncation_exclude_each_other() -> None:
    env = Counter(3, limit=2)
    env.reset(np.array([8, 0, 5]))
    env.step(np.ones((3, 1)))
    result = env.step(np.array([[1.0], [1.0], [0.5]]))  # world 0 reaches 10 at the very limit
    assert result.terminated.tolist() == [True, False, False]
    assert result.truncated.tolist() == [False, True, True]
    assert result.info["success"].tolist() == [True, False, False]
    np.testing.assert_allclose(result.info["score"], [1.0, 0.2, 0.65])
    np.testing.assert_allclose(result.reward, [1, 1, 0.5])


def test_ended_worlds_are_not_advanced() -> None:
    env = Counter(2)
    env.reset(np.array([9, 0]))
    env.step(np.ones((2, 1)))
    result = env.step(np.ones((2, 1)))
    assert env.advanced == [[0, 1], [1]]
    assert result.obs["observation.state"][:, 0].tolist() == [10, 2]
    assert result.terminated.tolist() == [True, False] and result.info["success"].tolist() == [True, False]
    assert result.reward.tolist() == [0, 1]


def test_a_world_that_never_began_is_padding() -> None:
    env = Counter(2)
    env.reset(np.array([0, 0]), np.array([True, False]))
    result = env.step(np.ones((2, 1)))
    assert env.advanced == [[0]] and result.terminated.tolist() == [False, True]


def test_auto_reset_uses_the_hash_of_seed_world_and_count() -> None:
    env = Counter(2, limit=1, autoreset=True)
    env.reset(np.array([3, 4]))
    for count in (1, 2):
        result = env.step(np.zeros((2, 1)))
        assert (result.truncated | result.terminated).all()
        expected = [hashed(3, 0, count)[0], hashed(4, 1, count)[0]]
        np.testing.assert_array_equal(env.count, np.array(expected, np.float64))
    env.reset(np.array([3, 4]))  # the count begins anew
    env.step(np.zeros((2, 1)))
    assert env.count[0] == float(hashed(3, 0, 1)[0])


def test_what_was_returned_does_not_change_later() -> None:
    env = Counter(1)
    first = env.reset(np.array([0]))
    second = env.step(np.ones((1, 1)))
    env.step(np.ones((1, 1)))
    assert first["observation.state"][0, 0] == 0 and second.obs["observation.state"][0, 0] == 1
    assert second.info["score"][0] == np.float32(0.1)


def test_impossible_sizes_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="num_worlds of task 'counter': expected at least 1, found 0"):
        Counter(0)
    with pytest.raises(InputError, match="max_episode_steps"):
        Counter(1, limit=0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_hashes_are_non_negative_and_depend_on_every_part(parts: list[int]) -> None:
    value = hashed(*parts)[0]
    assert 0 <= value < 2**63 and value == hashed(*parts)[0]
    for i in range(len(parts)):
        changed = [*parts[:i], parts[i] ^ 1, *parts[i + 1 :]]
        assert hashed(*changed)[0] != value


def test_hashes_do_not_depend_on_the_batch() -> None:
    rows = hashed(np.arange(1000), 5, np.arange(1000) % 3)
    assert len(set(rows.tolist())) == 1000
    assert rows[417] == hashed(417, 5, 0)[0]
    bits = (rows[:, None] >> np.arange(63)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(1000) + 0.02


def test_hashed_normals_are_standard_normal() -> None:
    draws = hashed_normals(np.arange(20_000), 7).ravel()
    n = draws.size
    assert abs(draws.mean()) < 4 / np.sqrt(n) and abs(draws.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs((np.abs(draws) < 1.0).mean() - 0.682689) < 4 * np.sqrt(0.2166 / n)
    assert abs(np.corrcoef(draws[::2], draws[1::2])[0, 1]) < 4 / np.sqrt(n / 2)


def test_a_world_that_was_never_begun_waits_for_its_reset_under_autoreset():
    env = make("classic/cartpole", 3, autoreset=True, max_episode_steps=3)
    first = env.reset(np.array([4, 5, 6]), np.array([True, False, True]))["observation.state"].copy()
    alone = make("classic/cartpole", 1, autoreset=True, max_episode_steps=3)
    alone.reset(np.array([4]))
    for _ in range(7):
        result = env.step(np.zeros((3, 1), np.float32))
        expected = alone.step(np.zeros((1, 1), np.float32))
        assert result.terminated[1] and result.reward[1] == 0 and not result.obs["observation.state"][1].any()
        np.testing.assert_array_equal(result.obs["observation.state"][0], expected.obs["observation.state"][0])
        np.testing.assert_array_equal(result.next_obs["observation.state"][0], expected.next_obs["observation.state"][0])
        assert result.truncated[0] == expected.truncated[0]
    env.reset(np.array([4, 5, 6]), np.array([False, True, False]))
    for _ in range(4):
        result = env.step(np.zeros((3, 1), np.float32))
    assert first[0].any() and not result.terminated.any() and result.obs["observation.state"].any(axis=1).all()


def test_a_gymnasium_environment_takes_engine_reward_and_randomisation():
    import sim.gym

    env = sim.gym.TaskEnv("classic/cartpole", reward="sparse", randomize={"model": {"mass:pole": {"set": 0.2}}})
    env.reset(seed=1)
    assert env.step(np.zeros(1, np.float32))[1] in (0.0, 1.0)
    assert env.worlds.engine.expand("body_mass")[0, env.worlds.model.body("pole").id] == 0.2
