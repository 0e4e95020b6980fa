"""Meta-World: equal to the suite's own environment to the last bit, one model for all worlds, experts that succeed."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from policies.spec import InputError, Spec
from sim import registry
from sim.env import BatchEnv
from sim.registry import Options
from sim.suites import metaworld, metaworld_shim
from sim.suites.metaworld.sawyer import SawyerTask
from sim.suites.metaworld.suite import SuiteBatch
from tests.require import require

HARD_TASKS = ("peg-insert-side", "stick-pull", "basketball", "disassemble", "pick-place", "push")
SEEDS = np.arange(2_000_000, 2_000_005)


def suite_env(task: str):
    """Return a new object of the suite's own, with its own model and nothing of ours but the shim."""
    metaworld_shim.load()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    metaworld_shim.observe_goal(env)
    return env


def check_equal_to_the_suite(worlds: BatchEnv, steps: int) -> None:
    task = worlds.task.rpartition("/")[2]
    for first in (3, 40):  # the second time on worlds with a history
        seeds = np.array([first, first + 1])
        obs = worlds.reset(seeds)
        suites = [suite_env(task) for _ in seeds]
        for env, seed in zip(suites, seeds, strict=True):
            env.seed(int(seed))
        frames = [env.reset()[0] for env in suites]
        rng = np.random.default_rng(first)
        for t in range(steps):
            for i, frame in enumerate(frames):
                np.testing.assert_array_equal(obs["observation.state"][i], frame[:4].astype(np.float32), err_msg=f"step {t}")
                expected = np.concatenate([frame[4:18], frame[36:]]).astype(np.float32)
                np.testing.assert_array_equal(obs["observation.environment_state"][i], expected, err_msg=f"step {t}")
            action = np.where(rng.random() < 0.7, worlds.expert_action(), rng.uniform(-1, 1, (2, 4))).astype(np.float32)
            result = worlds.step(action)
            for i, env in enumerate(suites):
                frames[i], reward, _, _, info = env.step(action[i])
                assert result.reward[i] == np.float32(reward) and result.info["success"][i] == bool(info["success"])
            obs = result.obs
        for env in suites:
            env.close()
    worlds.close()


@pytest.mark.parametrize("task", ["push", "peg-insert-side", "assembly", "stick-pull"])
def test_episodes_equal_the_suites_own_to_the_last_bit(task: str) -> None:
    check_equal_to_the_suite(registry.make(task, 2), 40)


@pytest.mark.soak
@pytest.mark.parametrize("task", metaworld.TASKS)
def test_every_tasks_objects_on_one_model_equal_new_ones_to_the_last_bit(task: str) -> None:
    check_equal_to_the_suite(SuiteBatch(f"metaworld/{task}", Options(num_worlds=2)), 200)


def expert_successes(task: str, seeds: np.ndarray) -> np.ndarray:
    """Return (N,) bool: success at any time within the time limit."""
    env = registry.make(task, len(seeds))
    env.reset(seeds)
    success = np.zeros(len(seeds), bool)
    for _ in range(env.max_episode_steps):
        success |= env.step(env.expert_action()).info["success"]
        if success.all():
            break
    env.close()
    return success


@pytest.mark.parametrize("task", HARD_TASKS)
def test_experts_of_the_hard_tasks_succeed(task: str) -> None:
    assert expert_successes(task, SEEDS).sum() >= 4


@pytest.mark.soak
def test_experts_of_all_tasks_succeed() -> None:
    table = {task: int(expert_successes(task, SEEDS).sum()) for task in metaworld.TASKS}
    print("\n" + "\n".join(f"{task:28s} {count}/5" for task, count in table.items()))
    assert sum(table.values()) >= 240 and min(table.values()) >= 3


def test_the_goal_is_observed_and_differs_by_seed() -> None:
    env = registry.make("reach", 4)
    obs = env.reset(np.arange(4))
    goal = obs["observation.environment_state"][:, 14:]
    assert (np.linalg.norm(goal, axis=1) > 0.3).all() and len(np.unique(goal, axis=0)) == 4
    after = env.step(env.expert_action()).obs["observation.environment_state"][:, 14:]
    np.testing.assert_array_equal(after, goal)  # and is not clipped away by the suite's cached limits
    env.close()


def test_the_spec_says_what_the_action_does() -> None:
    spec = registry.make("push").spec
    assert spec.action.names == ("hand.dx", "hand.dy", "hand.dz", "gripper") and spec.action.dim == 4
    assert spec.action.zero_when_held.tolist() == [True, True, True, False]
    assert Spec.from_dict(spec.to_dict()).fingerprint() == spec.fingerprint()
    env = registry.make("reach", 1)
    env.reset(np.array([1]))
    before = env.step(np.zeros((1, 4), np.float32)).obs["observation.state"].copy()
    for _ in range(5):
        after = env.step(np.array([[0, 0, 1, 0]], np.float32)).obs["observation.state"]
    assert 0.01 < after[0, 2] - before[0, 2] < 0.05  # five increments of 1 cm, followed with some lag
    assert abs(after[0, :2] - before[0, :2]).max() < 0.005
    env.close()


def test_the_gripper_opens_and_closes() -> None:
    env = registry.make("reach", 2)
    env.reset(np.array([1, 1]))
    for _ in range(40):
        obs = env.step(np.array([[0, 0, 0, -1], [0, 0, 0, 1]], np.float32)).obs
    opening = obs["observation.state"][:, 3]
    assert opening[0] > 0.8 > 0.6 > opening[1]
    env.close()


def test_the_control_rate_is_the_suites() -> None:
    env = suite_env("push")
    assert env.frame_skip * env.model.opt.timestep == pytest.approx(1 / metaworld.RATE_HZ)
    env.close()


def test_closing_frees_the_model_and_the_worlds() -> None:
    batch = registry.make("push", 2)
    assert isinstance(batch, SawyerTask)
    suite = SuiteBatch("metaworld/push", Options(num_worlds=2))
    gone = []
    for env in (batch, suite):
        env.reset(np.arange(2))
        gone.append(weakref.ref(env._shared))
    gone += [weakref.ref(world.env) for world in suite._worlds]
    for env in (batch, suite):
        env.close()
    gc.collect()
    assert all(ref() is None for ref in gone)
    batch.close()
    suite.close()


def test_what_is_randomized_differs_by_seed_and_depends_on_nothing_else() -> None:
    randomize = {"model": {"mass:obj": {"scale": [0.5, 2.0]}}, "actions": {"delay": [0.0, 0.1]}, "sensors": {"observation.state": {"noise": 0.01}}}
    worlds, alone, plain = (registry.make("push", n, randomize=r) for n, r in ((3, randomize), (1, randomize), (3, None)))
    seeds = np.array([4, 5, 6])
    worlds.reset(seeds + 50)
    for _ in range(5):
        worlds.step(worlds.expert_action())
    frames = [worlds.reset(seeds), alone.reset(seeds[1:2]), plain.reset(seeds)]
    for _ in range(20):
        for name in frames[0]:
            np.testing.assert_array_equal(frames[0][name][1], frames[1][name][0])
        action = plain.expert_action()
        results = [worlds.step(action), alone.step(action[1:2]), plain.step(action)]
        frames = [result.obs for result in results]
    mass = worlds.randomizer.drawn()["model.mass:obj"].ravel()  # type: ignore[attr-defined]
    assert len(set(mass)) == 3 and (mass >= 0.5).all() and (mass <= 2.0).all()
    assert all((frames[0]["observation.state"][i] != frames[2]["observation.state"][i]).any() for i in range(3))
    for env in (worlds, alone, plain):
        env.close()
    with pytest.raises(InputError, match="place bodies and sites themselves"):
        registry.make("push", 1, randomize={"model": {"body_pos:obj": {"add": [0.0, 0.1]}}})


def test_no_task_is_left_to_the_suites_own_objects() -> None:
    assert set(metaworld.batched()) == set(metaworld.TASKS)


def test_the_camera_shows_the_scene_unmirrored() -> None:
    """Seen from corner2, the world's +x end of the table is left and near; a moved hand shows where it went."""
    require("egl")
    env = registry.make("reach", 2, observations="image", image_size=64)
    env.reset(np.array([5, 5]))
    for _ in range(30):
        result = env.step(np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], np.float32))
    right, left = (image.astype(int) for image in result.obs["observation.images.corner2"])
    changed = np.abs(right - left).sum(axis=2) > 60
    red = [(image[..., 0] > 110) & (image[..., 1] < 60) & changed for image in (right, left)]
    # the camera at (1.3, -0.2, 1.1) m looks back over the table: +x is to its right
    columns = [np.argwhere(mask)[:, 1].mean() for mask in red]
    assert columns[0] > columns[1] + 3
    env.close()


def test_a_batch_draws_the_pictures_of_the_suites_objects() -> None:
    require("egl")
    options = Options(num_worlds=2, observations="image", image_size=48)
    ours, theirs = registry.make("door-open", 2, observations="image", image_size=48), SuiteBatch("metaworld/door-open", options)
    ours.reset(np.array([1, 2]))
    theirs.reset(np.array([1, 2]))
    for _ in range(5):
        action = theirs.expert_action()
        a, b = ours.step(action), theirs.step(action)
    pictures = a.obs["observation.images.corner2"]
    np.testing.assert_array_equal(pictures, b.obs["observation.images.corner2"])
    assert (pictures[0] != pictures[1]).any()  # each world has its door where its own episode put it
    ours.close()
    theirs.close()
