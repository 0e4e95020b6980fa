"""OGBench: every world beside the suite's own environment bit for bit, the five goals by seed, and experts that reach them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from sim import registry
from sim.suites import ogbench
from sim.suites.ogbench.draws import GlobalDraws, stream_seed

TASKS = registry.names("ogbench")
#: One of every family, the one whose steps draw numbers among them; scenes change the model while they run.
FAMILIES = ("pointmaze-teleport", "antmaze-medium", "humanoidmaze-medium", "antsoccer-arena", "cube-single", "scene", "puzzle-3x3")
SEEDS = np.array([2_000_003, 17, 41], np.int64)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the suite's own environment; the model files it leaves go to the test's folder."""
    import ogbench as package

    assert package
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = []

    def make(name: str) -> gymnasium.Env:
        made.append(gymnasium.make(f"{name}-v0"))
        return made[-1]

    yield make
    for env in made:
        env.close()


def seed_spaces(env: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring the random actions of a reset under ``seed``; an arm makes a new space for each of them."""
    if isinstance(type(env).action_space if hasattr(type(env), "action_space") else None, property):
        space = env.action_space
        space.seed(seed)
        monkeypatch.setattr(type(env), "action_space", property(lambda self: space))
    else:
        env.action_space.seed(seed)


@pytest.mark.parametrize("name", FAMILIES)
def test_worlds_equal_the_suites_own_environment_bit_for_bit(name: str, suite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task, steps = f"ogbench/{name}", 12
    worlds = registry.make(task, 3)
    rng = np.random.default_rng(5)
    actions = rng.uniform(-1, 1, (steps, 3, worlds.spec.action.dim)).astype(np.float32)
    outside: Any = np.random.get_state()
    worlds.reset(SEEDS + 1)
    worlds.step(actions[0])  # a history
    ours = [worlds.reset(SEEDS), *(worlds.step(action) for action in actions)]
    now: Any = np.random.get_state()
    np.testing.assert_array_equal(now[1], outside[1])  # numpy's global generator is left alone
    own = suite(name)
    own.reset(seed=0, options={"task_id": 1})  # compiles the model
    for row, seed in enumerate(SEEDS.tolist()[:2]):
        with monkeypatch.context() as patch, GlobalDraws(stream_seed(seed, "global")).used():
            seed_spaces(own.unwrapped, stream_seed(seed, "space"), patch)
            seen, info = own.reset(seed=stream_seed(seed, "environment"), options={"task_id": seed % 5 + 1})
            goal = np.asarray(info["goal"], np.float32)
            np.testing.assert_array_equal(ours[0]["observation.state"][row], np.asarray(seen, np.float32))
            np.testing.assert_array_equal(ours[0]["observation.goal"][row], goal)
            for action, result in zip(actions, ours[1:], strict=True):
                seen, reward, terminated, _, info = own.step(action[row])
                np.testing.assert_array_equal(result.next_obs["observation.state"][row], np.asarray(seen, np.float32))
                np.testing.assert_array_equal(result.next_obs["observation.goal"][row], goal)
                assert result.reward[row] == np.float32(reward)
                assert result.terminated[row] == terminated == bool(info["success"]) == result.info["success"][row]
                assert result.info["goal"][row] == seed % 5 + 1
    worlds.close()


@pytest.mark.parametrize("task", TASKS)
def test_time_limits_are_the_suites(task: str) -> None:
    import ogbench as package

    assert package
    entry, name = registry.entry(task), task.removeprefix("ogbench/")
    assert entry.max_episode_steps == gymnasium.spec(f"{name}-v0").max_episode_steps
    assert entry.success.endswith("ends the episode")
    assert entry.has_expert == (not name.startswith(("ant", "humanoid")))


@pytest.mark.parametrize("name", ["pointmaze-large", "antmaze-giant", "antsoccer-medium"])
def test_the_seed_decides_the_goal_and_every_goal_is_the_suites(name: str) -> None:
    worlds = registry.make(f"ogbench/{name}", 10)
    seeds = np.arange(1_000_000, 1_000_010)
    observed = worlds.reset(seeds)
    result = worlds.step(np.zeros((10, worlds.spec.action.dim), np.float32))
    np.testing.assert_array_equal(result.info["goal"], ogbench.goal_of(seeds))
    assert sorted(result.info["goal"].tolist()) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    told = worlds._envs[0].task_infos  # type: ignore[attr-defined]
    for row, goal in enumerate(result.info["goal"].tolist()):
        assert np.abs(observed["observation.goal"][row, :2] - told[goal - 1]["goal_xy"]).max() <= 1.0  # the suite's noise
    assert (observed["observation.goal"][:5] != observed["observation.goal"][5:]).any(axis=1).all()
    worlds.close()


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handles = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        registry.make("ogbench/pointmaze-medium", 2).close()
    assert not list(tmp_path.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) <= handles + 1


def solved(task: str, seeds: np.ndarray) -> np.ndarray:
    """Return whether the expert reaches the goal of each of ``seeds``."""
    worlds = registry.make(task, len(seeds))
    worlds.reset(seeds)
    won = np.zeros(len(seeds), bool)
    for _ in range(worlds.max_episode_steps):
        result = worlds.step(worlds.expert_action())
        won |= result.info["success"]
        if (result.terminated | result.truncated).all():
            break
    worlds.close()
    return won


@pytest.mark.parametrize("name", ["pointmaze-medium", "pointmaze-large", "pointmaze-giant", "pointmaze-teleport", "cube-single", "puzzle-3x3"])
def test_the_expert_reaches_all_five_goals(name: str) -> None:
    assert solved(f"ogbench/{name}", np.arange(1_000_000, 1_000_005)).all()


@pytest.mark.soak
@pytest.mark.parametrize(("name", "least"), [("cube-double", 19), ("cube-triple", 19), ("puzzle-4x4", 19), ("scene", 19)])
def test_the_expert_reaches_most_goals_of_the_long_tasks(name: str, least: int) -> None:
    assert solved(f"ogbench/{name}", np.arange(1_000_000, 1_000_020)).sum() >= least
