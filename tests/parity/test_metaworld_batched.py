"""Meta-World in array code against the suite's own environment, step for step: observation, reward and success, to the last bit.

The reduced run takes one model for both sides; the soak takes new objects of the suite's own, whole episodes, and prints the table.
"""

from __future__ import annotations

import numpy as np
import pytest

from sim import registry
from sim.registry import Options
from sim.suites import metaworld, metaworld_shim
from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.suite import SuiteBatch
from sim.suites.metaworld.vocabulary import plain

BATCHED = tuple(task for task in metaworld.TASKS if task in metaworld.batched())
SEEDS = np.array([3, 40, 2_000_001])


def rewards(worlds: SawyerTask) -> np.ndarray:
    """Return the rewards (N,) of the last step before they are rounded to float32."""
    with np.errstate(all="ignore"):
        return plain(worlds.judge(worlds._action)[0])


def actions_of(worlds: SawyerTask, rng: np.random.Generator, scripted: np.ndarray) -> np.ndarray:
    """Return the expert's actions (N, 4) where ``scripted`` (N,) is true, random ones elsewhere; the gripper closes more often than not."""
    drawn = rng.uniform([-1, -1, -1, -0.6], 1, (worlds.num_worlds, 4)).astype(np.float32)
    return np.where(scripted[:, None], worlds.expert_action(), drawn)


@pytest.mark.parametrize("task", BATCHED)
def test_a_batch_equals_the_suites_own_objects_to_the_last_bit(task: str) -> None:
    """Two scripted worlds and a random one; one of them begins anew on the way, so that worlds are out of step and have a past."""
    name = f"metaworld/{task}"
    ours = registry.make(name, 3)
    assert isinstance(ours, SawyerTask)
    theirs = SuiteBatch(name, Options(num_worlds=3), ours._shared)  # it is reset last, so the model is left as it needs it
    rng = np.random.default_rng(8)
    for env in (ours, theirs):
        env.reset(SEEDS)
    np.testing.assert_array_equal(ours.observation, theirs._observations)
    for step in range(40):
        if step == 28:
            for env in (ours, theirs):
                env.reset(SEEDS + 7, np.array([False, True, False]))
            np.testing.assert_array_equal(ours.observation, theirs._observations)
        action = actions_of(ours, rng, np.array([True, step % 5 > 0, False]))
        a, b = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(ours.observation, theirs._observations, err_msg=f"observation at step {step}")
        np.testing.assert_array_equal(a.reward, b.reward, err_msg=f"reward at step {step}")
        np.testing.assert_array_equal(a.info["success"], b.info["success"], err_msg=f"success at step {step}")
        for field in a.obs:
            np.testing.assert_array_equal(a.obs[field], b.obs[field])
    ours.close()
    theirs.close()


def suite_env(task: str):
    """Return a new object of the suite's own, with its own model and nothing of ours but the shim."""
    metaworld_shim.load()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    metaworld_shim.observe_goal(env)
    return env


@pytest.mark.soak
@pytest.mark.parametrize("task", BATCHED)
def test_whole_episodes_equal_new_environments_of_the_suite(task: str) -> None:
    """Five scripted and five random episodes in one batch, 500 steps each; prints the largest differences and the successes."""
    worlds = registry.make(f"metaworld/{task}", 10)
    assert isinstance(worlds, SawyerTask)
    seeds, scripted = np.arange(10) * 31 + 5, np.arange(10) < 5
    worlds.reset(seeds)
    suites = [suite_env(task) for _ in seeds]
    low, high = suites[0].sawyer_observation_space.low, suites[0].sawyer_observation_space.high
    for env, seed in zip(suites, seeds, strict=True):
        env.seed(int(seed))
        env.reset()
    rng, differences, ours, theirs = np.random.default_rng(1), np.zeros(2), np.zeros(10, bool), np.zeros(10, bool)
    for _ in range(metaworld.MAX_EPISODE_STEPS):
        action = actions_of(worlds, rng, scripted)
        result = worlds.step(action)
        back = [env.step(row) for env, row in zip(suites, action, strict=True)]
        seen, reward = np.array([frame for frame, *_ in back]), np.array([float(r) for _, r, *_ in back])
        differences = np.maximum(differences, [np.abs(worlds.observation - seen).max(), np.abs(rewards(worlds) - reward).max()])
        success = np.array([info["success"] > 0 for *_, info in back])
        np.testing.assert_array_equal(result.info["success"], success)
        ours, theirs = ours | result.info["success"], theirs | success
    assert (low <= worlds.observation).all() and (worlds.observation <= high).all()
    print(f"\n{task:28s} observation {differences[0]:.1e} reward {differences[1]:.1e} experts {ours[:5].sum()}/5 suite {theirs[:5].sum()}/5")
    assert (differences == 0).all() and (ours == theirs).all()
    worlds.close()
    for env in suites:
        env.close()


@pytest.mark.parametrize("threads", [2])
def test_threads_change_nothing(threads: int) -> None:
    task = BATCHED[0]
    one, more = registry.make(task, 4), registry.make(task, 4, threads=threads)
    for env in (one, more):
        env.reset(np.arange(4))
    for _ in range(15):
        action = one.expert_action()
        a, b = one.step(action), more.step(action)
        np.testing.assert_array_equal(a.reward, b.reward)
        for field in a.obs:
            np.testing.assert_array_equal(a.obs[field], b.obs[field])
    one.close()
    more.close()
