"""What every batch of worlds promises, checked on a handful of tasks of each suite (and on an adapted Gymnasium one).

What one world can show is checked on every task in ``test_every_task.py``; the full contract on all of them is a soak.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from policies.spec import Field
from sim import gym, registry
from sim.env import BatchEnv
from tests.require import require, require_task

TASKS = ("two-route", "pusht", "metaworld/push", "metaworld/peg-insert-side", "metaworld/drawer-open", "arm/reach", "arm/push", "arm/tour", "classic/cartpole")
FOREIGN = ("robotics/fetch-push", "robotics/adroit-door", "dmcontrol/reacher-easy")  # stepped by other packages' environments, no expert asked
GYM_TASK = "Pendulum-v1"
SEEDS = np.array([7, 2_000_003, 11], np.int64)
every_task = pytest.mark.parametrize("task", [*TASKS, *FOREIGN, GYM_TASK])


def needs(task: str) -> None:
    if task == "pusht":
        require("libgl")
    if task != GYM_TASK:
        require_task(task)


def make(task: str, num_worlds: int, **options) -> BatchEnv:
    needs(task)
    return gym.as_batch(task, num_worlds, **options) if task == GYM_TASK else registry.make(task, num_worlds, **options)


def random_actions(env: BatchEnv, steps: int, seed: int = 0) -> np.ndarray:
    """Return (steps, N, Da) float32; world i's column is the same whatever N."""
    low, high = env.spec.action.low, env.spec.action.high
    columns = [np.random.default_rng([seed, i]).uniform(low, high, (steps, low.size)) for i in range(env.num_worlds)]
    return np.stack(columns, axis=1).astype(np.float32)


def within(field: Field, array: np.ndarray) -> bool:
    flat = array.reshape(len(array), -1)
    low, high = (np.asarray(side, np.float32) if side is not None else None for side in (field.low, field.high))
    return (low is None or bool((flat >= low).all())) and (high is None or bool((flat <= high).all()))


def check_random_episode(task: str, steps: int) -> None:
    env = make(task, 2, autoreset=True)
    obs = env.reset(SEEDS[:2])
    for action in random_actions(env, steps):
        env.spec.observation.validate(obs, (2,))
        for name, field in env.spec.observation.fields.items():
            assert np.isfinite(obs[name]).all() and within(field, obs[name]), name
        result = env.step(action)
        assert np.isfinite(result.reward).all() and result.reward.dtype == np.float32
        assert all(values.shape == (2,) for values in result.info.values()) and result.info["success"].dtype == bool
        obs = result.obs
    env.close()


def test_random_actions_give_finite_observations_that_match_the_spec() -> None:
    check_random_episode(GYM_TASK, 300)


@every_task
def test_an_episode_depends_on_its_seed_and_actions_alone(task: str) -> None:
    many = make(task, 3)
    many.reset(SEEDS + 100)  # a history that must leave no trace
    for action in random_actions(many, 5, seed=1):
        many.step(action)
    actions = random_actions(many, 25)
    together = [many.reset(SEEDS), *[many.step(a).next_obs for a in actions]]
    alone = make(task, 1)
    for i in (2, 0):
        for t, expected in enumerate(together):
            got = alone.reset(SEEDS[i : i + 1]) if t == 0 else alone.step(actions[t - 1, i : i + 1]).next_obs
            for name, array in expected.items():
                np.testing.assert_array_equal(got[name][0], array[i], err_msg=f"{name} at step {t}")
    assert any((together[0][n][0] != together[0][n][1]).any() for n in together[0]), "two seeds begin alike"
    many.close(), alone.close()


@every_task
def test_an_auto_reset_keeps_the_true_successor(task: str) -> None:
    limit = 3  # before anything falls
    resetting, plain = make(task, 3, max_episode_steps=limit, autoreset=True), make(task, 3, max_episode_steps=limit)
    assert resetting.max_episode_steps == plain.max_episode_steps == limit
    resetting.reset(SEEDS), plain.reset(SEEDS)
    actions = random_actions(plain, limit)
    for action in actions:
        a, b = resetting.step(action), plain.step(action)
    assert a.truncated.all() and b.truncated.all() and not (a.terminated | b.terminated).any()
    for name in a.next_obs:
        np.testing.assert_array_equal(a.next_obs[name], b.next_obs[name])
    assert any((a.obs[name] != a.next_obs[name]).any() for name in a.obs)
    assert b.obs is b.next_obs
    again = resetting.step(actions[0])  # the next episode goes on from what was returned
    assert not again.truncated.any()
    resetting.reset(SEEDS)
    for action in actions:
        repeated = resetting.step(action)
    for name in a.obs:
        np.testing.assert_array_equal(repeated.obs[name], a.obs[name])
    resetting.close(), plain.close()


@every_task
def test_an_ended_world_stays_as_it_is(task: str) -> None:
    env = make(task, 2, max_episode_steps=3)
    env.reset(SEEDS[:2])
    env.step(random_actions(env, 1)[0])
    env.reset(SEEDS[:2], np.array([False, True]))  # the second world is now one step behind
    actions = random_actions(env, 4)
    env.step(actions[0])
    last = env.step(actions[1])
    assert last.truncated.tolist() == [True, False]
    padding = np.where([[True], [False]], np.float32(np.nan), actions[2])  # an ended row's action is never looked at
    after = env.step(padding)
    assert after.truncated.tolist() == [True, True] and after.reward[0] == 0
    for name, array in after.obs.items():
        np.testing.assert_array_equal(array[0], last.obs[name][0])
    for name, values in after.info.items():
        assert values[0] == last.info[name][0], name
    env.close()


@every_task
def test_a_masked_reset_leaves_the_other_worlds_alone(task: str) -> None:
    env, undisturbed = make(task, 3), make(task, 3)
    env.reset(SEEDS), undisturbed.reset(SEEDS)
    actions = random_actions(env, 12)
    for action in actions[:6]:
        expected, before = undisturbed.step(action), env.step(action)
    obs = env.reset(SEEDS + 5, np.array([False, True, False]))
    for name in obs:
        np.testing.assert_array_equal(obs[name][[0, 2]], before.obs[name][[0, 2]])
    assert any((obs[name][1] != before.obs[name][1]).any() for name in obs)
    for action in actions[6:]:
        expected, got = undisturbed.step(action), env.step(action)
    for name in got.obs:
        np.testing.assert_array_equal(got.obs[name][[0, 2]], expected.obs[name][[0, 2]])
    env.close(), undisturbed.close()


@every_task
def test_what_cannot_be_executed_is_refused(task: str) -> None:
    env = make(task, 2)
    action = np.zeros((2, env.spec.action.dim), np.float32)
    with pytest.raises(RuntimeError, match="before the first reset"):
        env.step(action)
    with pytest.raises(ValueError, match="from 0, found -1"):
        env.reset(np.array([3, -1]))
    env.reset(SEEDS[:2])
    with pytest.raises(ValueError, match=r"expected shape \(2, "):
        env.step(action[:1])
    action[1] = np.nan
    with pytest.raises(ValueError, match="world 1 is not finite"):
        env.step(action)
    env.close()
    env.close()


@every_task
def test_actions_are_clipped_to_the_limits(task: str) -> None:
    env, clipped = make(task, 1), make(task, 1)
    env.reset(SEEDS[:1]), clipped.reset(SEEDS[:1])
    for action in random_actions(env, 10):
        far = action * 5
        a, b = env.step(far), clipped.step(env.spec.action.clip(far))
        for name in a.obs:
            np.testing.assert_array_equal(a.obs[name], b.obs[name])
    env.close(), clipped.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_depends_on_the_present_state_alone(task: str) -> None:
    env = make(task, 2)
    env.reset(SEEDS[:2])
    for _ in range(15):
        action = env.expert_action()
        assert action.shape == (2, env.spec.action.dim) and action.dtype == np.float32
        np.testing.assert_array_equal(action, env.expert_action())
        np.testing.assert_array_equal(action, env.spec.action.clip(action))
        env.step(action)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_people_get_a_picture(task: str) -> None:
    if task.startswith(("metaworld/", "arm/")):
        require("egl")
    env = make(task, 3)
    env.reset(SEEDS)
    for action in random_actions(env, 10):
        env.step(action)
    pictures = env.render(np.array([2, 0]))
    assert pictures is not None and pictures.dtype == np.uint8 and pictures.shape[0] == 2 and pictures.shape[3] == 3
    assert all(picture.std() > 5 for picture in pictures)
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures[1], env.render(np.array([0]))[0])  # type: ignore[index]
    env.close()


@pytest.mark.parametrize("task", ["pusht", "metaworld/push", "arm/push"])
def test_cameras_show_the_world(task: str) -> None:
    needs(task)
    if task.startswith(("metaworld/", "arm/")):
        require("egl")
    env = registry.make(task, 2, observations="state+image", image_size=48)
    (camera,) = env.spec.observation.image_names
    first = env.reset(SEEDS[:2])
    env.spec.observation.validate(first, (2,))
    assert first[camera].std() > 5 and (first[camera][0] != first[camera][1]).any()
    for action in random_actions(env, 10):
        moved = env.step(action).obs
    assert (moved[camera] != first[camera]).any()
    images = registry.make(task, 1, observations="image", image_size=48)
    assert "observation.environment_state" not in images.spec.observation.fields
    np.testing.assert_array_equal(images.reset(SEEDS[:1])[camera][0], first[camera][0])
    env.close(), images.close()


@pytest.mark.parametrize("task", ["two-route", "metaworld/push", "arm/reach"])
def test_gymnasium_gets_the_same_episodes(task: str) -> None:
    env = gymnasium.make(f"robopolicy/{registry.entry(task).short_name}")
    worlds = make(task, 1)
    obs, _ = env.reset(seed=9)
    expected = worlds.reset(np.array([9]))
    for _ in range(5):
        action = worlds.expert_action()
        obs, reward, terminated, truncated, info = env.step(action[0])
        result = worlds.step(action)
        assert reward == result.reward[0] and not terminated and not truncated and info["success"] is bool(result.info["success"][0])
        expected = result.obs
    for name in expected:
        np.testing.assert_array_equal(obs[name], expected[name][0])
    env.close(), worlds.close()


@pytest.mark.soak
@pytest.mark.parametrize("task", registry.names("mt50"))
def test_the_whole_contract_on_every_metaworld_task(task: str) -> None:
    check_random_episode(task, 300)
    test_an_episode_depends_on_its_seed_and_actions_alone(task)
    test_an_auto_reset_keeps_the_true_successor(task)
    test_a_masked_reset_leaves_the_other_worlds_alone(task)
    test_gymnasium_gets_the_same_episodes(task)
