"""Gymnasium-Robotics: its own environments beside ours number by number, its experts, its pictures, its mazes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from sim import registry
from sim.suites.robotics import KINDS
from sim.suites.robotics.layout import flat
from tests.require import require

#: Task -> the suite's identifier of its registered environment with the same definition.
REGISTERED = {
    "fetch-push": "FetchPush-v4",
    "fetch-reach": "FetchReach-v4",
    "hand-reach": "HandReach-v3",
    "hand-pen-rotate": "HandManipulatePenRotate-v1",
    "adroit-door": "AdroitHandDoor-v1",
    "adroit-relocate": "AdroitHandRelocate-v1",
    "kitchen-all": "FrankaKitchen-v1",
    "pointmaze-medium": "PointMaze_Medium-v3",
    "antmaze-umaze": "AntMaze_UMaze-v5",
}


@pytest.fixture(autouse=True)
def installed() -> None:
    require("robotics")


def own(identifier: str, **arguments):
    from sim.suites.robotics.shim import load

    load()
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make(identifier, disable_env_checker=True, **arguments)


@pytest.mark.parametrize("task", REGISTERED)
def test_episodes_are_those_of_the_suite(task: str) -> None:
    import mujoco

    ours, theirs = registry.make(f"robotics/{task}", 2), own(REGISTERED[task])
    assert theirs.spec is not None and ours.max_episode_steps == theirs.spec.max_episode_steps == KINDS[task].steps
    robot: Any = next((getattr(theirs.unwrapped, name) for name in ("point_env", "ant_env", "robot_env") if hasattr(theirs.unwrapped, name)), theirs.unwrapped)
    assert 1.0 / robot.dt == pytest.approx(ours.spec.action.rate_hz), "the control rate is not that of the physics"
    mujoco.mj_resetData(robot.model, robot.data)  # some of the suite's resets leave the warm start as it was  # type: ignore[attr-defined]
    ours.reset(np.array([5, 11]))
    for action in np.random.default_rng(0).uniform(-1, 1, (3, ours.spec.action.dim)).astype(np.float32):
        ours.step(np.stack([action, -action]))
    obs, (observed, _) = ours.reset(np.array([8, 11])), theirs.reset(seed=11)
    for action in np.random.default_rng(1).uniform(-1, 1, (12, ours.spec.action.dim)).astype(np.float32):
        for name, part in ours._layout.items():  # type: ignore[attr-defined]
            np.testing.assert_array_equal(obs[name][1], flat(observed)[list(part.places)].astype(np.float32), err_msg=name)
        result = ours.step(np.stack([-action, action]))
        observed, reward, terminated, truncated, info = theirs.step(action.astype(theirs.action_space.dtype))
        obs = result.obs
        assert result.reward[1] == np.float32(reward) and not terminated and not truncated
        assert result.info["success"][1] == bool(info.get("is_success", info.get("success", False)))
    ours.close(), theirs.close()


@pytest.mark.parametrize("task", ["fetch-push", "fetch-pick-and-place", "hand-block", "pointmaze-large", "antmaze-open", "kitchen"])
def test_a_goal_says_which_numbers_shall_equal_it(task: str) -> None:
    """Every name in the goal is the name of one observed number, of what the suite calls the achieved goal."""
    env = registry.make(f"robotics/{task}")
    env.reset(np.array([3]))
    fields = {name: field for name, field in env.spec.observation.fields.items() if name != "observation.goal"}
    goal = env.spec.observation.fields["observation.goal"]
    place = {label: (name, i) for name, field in fields.items() for i, label in enumerate(field.names)}
    assert goal.kind == "goal" and set(goal.names) <= set(place)
    result = env.step(env.spec.action.clip(np.full((1, env.spec.action.dim), 0.5, np.float32)))
    reached = [result.obs[place[label][0]][0, place[label][1]] for label in goal.names]
    suite = env._latest[0]  # type: ignore[attr-defined]
    achieved = suite[len(suite) - 2 * goal.size : len(suite) - goal.size]
    np.testing.assert_allclose(reached, achieved, atol=2e-3)  # the kitchen observes its objects with noise
    env.close()


@pytest.mark.parametrize("task", [task for task, kind in KINDS.items() if kind.expert])
def test_its_experts_succeed(task: str) -> None:
    """20 of 20 on seeds that were not used to make them, or what goals allow; doing nothing does not."""
    count, wanted = 20, {"hand-reach": 14}.get(task, 20)
    env, idle = (registry.make(f"robotics/{task}", count) for _ in range(2))
    env.reset(np.arange(7000, 7000 + count)), idle.reset(np.arange(7000, 7000 + count))
    done, by_chance = np.zeros((2, count), bool)
    for _ in range(env.max_episode_steps):
        done |= env.step(env.expert_action()).info["success"]
        env.retire(done)
        if done.all():
            break
    for _ in range(10):
        by_chance |= idle.step(np.zeros((count, env.spec.action.dim), np.float32)).info["success"]
    assert done.sum() >= wanted, f"{done.sum()} of {count}"
    assert by_chance.sum() <= count // 4
    env.close(), idle.close()


def test_the_kitchen_ends_when_all_of_its_tasks_are_done() -> None:
    """The joints are put where the goal wants them, one task after the other: the score counts, the last one ends the episode."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    env = registry.make("robotics/kitchen")
    env.reset(np.array([0]))
    still = np.zeros((1, 9), np.float32)
    tasks = ("slide cabinet", "microwave", "light switch", "kettle")
    for k, task in enumerate(tasks):
        _, data = env.mujoco_row(0)  # type: ignore[attr-defined]
        data.qpos[OBS_ELEMENT_INDICES[task]] = OBS_ELEMENT_GOALS[task]
        result = env.step(still)
        assert result.info["score"][0] == pytest.approx((k + 1) / 4) and result.reward[0] == 1.0
        assert result.terminated[0] == result.info["success"][0] == (k == 3)
    env.close()


def test_rewards_are_sparse_or_dense() -> None:
    sparse, dense = (registry.make("robotics/fetch-reach", reward=reward) for reward in ("", "dense"))
    assert "dense" in dense.suite_version and "dense" not in sparse.suite_version
    first = sparse.reset(np.array([4])), dense.reset(np.array([4]))
    np.testing.assert_array_equal(first[0]["observation.state"], first[1]["observation.state"])
    a, b = sparse.step(np.zeros((1, 4), np.float32)), dense.step(np.zeros((1, 4), np.float32))
    gripper, goal = b.obs["observation.state"][0, :3], b.obs["observation.goal"][0]
    assert a.reward[0] in (-1.0, 0.0) and b.reward[0] == pytest.approx(-np.linalg.norm(gripper - goal), abs=1e-6)
    door = registry.make("robotics/adroit-door", reward="sparse")
    door.reset(np.array([0]))
    assert door.step(np.zeros((1, 28), np.float32)).reward[0] == pytest.approx(-0.1)
    sparse.close(), dense.close(), door.close()


def test_pictures_change_nothing() -> None:
    """Fetch and hand draw their goals by changing the model and the data: an episode with pictures is the one without."""
    require("egl")
    for task in ("fetch-push", "hand-block"):
        seen, plain = (registry.make(f"robotics/{task}", 2) for _ in range(2))
        seen.reset(np.array([1, 2])), plain.reset(np.array([1, 2]))
        first = pictures = seen.render()
        for action in np.random.default_rng(0).uniform(-1, 1, (6, 2, seen.spec.action.dim)).astype(np.float32):
            a, b = seen.step(action), plain.step(action)
            pictures = seen.render(np.array([1]))
            for name in a.obs:
                np.testing.assert_array_equal(a.obs[name], b.obs[name])
        assert first is not None and pictures is not None and pictures is not first and (first[1] != pictures[0]).any()
        seen.close(), plain.close()


def test_no_model_is_left_among_the_temporary_files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    registry.make("robotics/pointmaze-open").close()
    assert list(tmp_path.iterdir()) == []
