"""Worlds in which success alone is rewarded: rewards, ends and successors by hand; a classifier decides where the recipe says so."""

from __future__ import annotations

import numpy as np
import pytest

from policies.networks.encoders import ImageConfig
from policies.spec import InputError
from robopolicy.data.dataset import Dataset
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.off_policy_config import RewardConfig
from robopolicy.training.reward_classifier import labelled
from robopolicy.training.reward_model import ClassifierConfig, RewardClassifier, save_classifier
from robopolicy.training.reward_record import EpisodeRecord
from robopolicy.training.trial_worlds import JudgedWorlds, demonstrated_rewards, open_worlds
from sim.env import BatchEnv
from sim.episodes import hashed
from tests.require import require
from tests.robopolicy.point_world import CAMERA, REACHED, PointWorlds


def run(worlds: JudgedWorlds, steps: int) -> list:
    out, obs = [], worlds.reset(np.arange(worlds.num_worlds))
    for _ in range(steps):
        before = {name: array.copy() for name, array in obs.items()}
        result = worlds.step(0.4 * worlds.expert_action())
        out.append((before, result))
        obs = result.obs
    return out


def test_success_is_rewarded_once_and_ends_the_episode():
    worlds = JudgedWorlds(PointWorlds(4, steps=20))
    assert isinstance(worlds, BatchEnv) and worlds.autoreset
    ended = 0
    for before, result in run(worlds, 60):
        near = np.linalg.norm(result.next_obs["observation.state"] - result.next_obs["observation.environment_state"], axis=1) < REACHED
        assert np.array_equal(result.reward, near.astype(np.float32)) and result.reward.dtype == np.float32
        assert np.array_equal(result.terminated, near) and not (result.terminated & result.truncated).any()
        assert np.array_equal(result.info["judged"], result.info["success"])
        moved = np.abs(result.next_obs["observation.state"] - before["observation.state"]).max(1)
        assert (moved <= 0.09).all()  # the true successor, never the next episode's first
        over = result.terminated | result.truncated
        for name in result.obs:
            assert np.array_equal(result.obs[name][~over], result.next_obs[name][~over])
        ended += int(over.sum())
    assert worlds.counts["episodes"] == ended > 8 and worlds.counts["judged"] >= 8
    assert worlds.metrics() == {"judged_wrongly": 0.0, "success_missed": 0.0}


def test_seeds_of_later_episodes_hang_on_world_and_count_alone():
    worlds, plain = JudgedWorlds(PointWorlds(3, steps=20)), PointWorlds(3, steps=20)
    begun = np.zeros(3, int)
    for _, result in run(worlds, 40):
        over = result.terminated | result.truncated
        begun += over
        first = plain.reset(hashed(np.arange(3), np.arange(3), begun))
        for name in result.obs:
            assert np.array_equal(result.obs[name][over], first[name][over])
    assert begun.min() >= 2


def test_a_judge_that_errs_is_followed_and_counted():
    def never_or_early(obs):
        left = np.linalg.norm(obs["observation.state"] - obs["observation.environment_state"], axis=1)
        return np.array([False, left[1] < 3 * REACHED])

    worlds = JudgedWorlds(PointWorlds(2, steps=25), never_or_early)
    results = [result for _, result in run(worlds, 25)]
    assert not any(r.reward[0] for r in results) and any(r.info["success"][0] for r in results)
    assert results[-1].truncated[0]
    early = [r for r in results if r.info["judged"][1]]
    wrong = [r for r in early if not r.info["success"][1]]
    assert wrong and all(r.terminated[1] and r.reward[1] == 1 for r in early)
    assert worlds.counts["missed"] == 1 and worlds.counts["wrong"] == len(wrong) and worlds.counts["judged"] == len(early)


@pytest.mark.parametrize("successes, length", [([0, 0, 1, 1, 1], 3), ([0, 0, 0, 0, 0], 5), ([1, 0, 1, 0, 0], 1)])
def test_demonstrations_end_at_their_first_success(successes, length):
    rewards = np.arange(5.0)
    assert demonstrated_rewards(RewardConfig(), rewards, np.array(successes))[2] == 5
    assert np.array_equal(demonstrated_rewards(RewardConfig(), rewards, np.array(successes))[0], rewards)
    reward, terminated, found = demonstrated_rewards(RewardConfig(sparse=True), rewards, np.array(successes))
    assert found == length and reward.dtype == np.float32
    assert reward[:length].tolist() == successes[:length] == terminated[:length].tolist()
    assert not terminated[: length - 1].any()


def recipe(reward: dict, **env):
    return recipe_from_dict({"task": "arm/reach", "algo": {"type": "sac"}, "env": env, "training": {"reward": reward}}, "test")


def classifier(folder, side: int, camera: str = "observation.images.front"):
    from sim.registry import make

    worlds = make("arm/reach", 1, "state+image", side)
    config = ClassifierConfig(image=ImageConfig(channels=[8], features=4, keypoints=4, crop=1.0), cameras=[camera])
    model = RewardClassifier(config, worlds.spec)
    worlds.close()
    return save_classifier(folder, model, {})


def test_the_recipe_says_who_rewards():
    plain = open_worlds(recipe({}), 2)
    sparse = open_worlds(recipe({"sparse": True}), 2)
    assert plain.autoreset and sparse.autoreset and not isinstance(plain, JudgedWorlds)
    assert sparse.spec.fingerprint() == plain.spec.fingerprint()
    first, second = plain.reset(np.arange(2)), sparse.reset(np.arange(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    action = sparse.expert_action()
    assert plain.step(action).reward[0] != 0 and sparse.step(action).reward[0] == 0
    plain.close()
    sparse.close()


def test_a_classifier_sees_cameras_that_the_policy_does_not(tmp_path):
    require("egl")
    folder = classifier(tmp_path / "reward", 24)
    worlds = open_worlds(recipe({"classifier": str(folder), "threshold": 0.999999}), 2)
    plain = open_worlds(recipe({}), 2)
    assert worlds.spec.fingerprint() == plain.spec.fingerprint()  # what the policy is told of
    obs = worlds.reset(np.arange(2))
    assert set(obs) == set(plain.spec.observation.fields)
    assert not worlds.step(worlds.expert_action()).terminated.any()
    assert isinstance(worlds, JudgedWorlds) and worlds.judge is not None
    worlds.judge = lambda obs: obs["observation.images.front"].mean((1, 2, 3)) > 0  # it is given what the policy is not
    assert worlds.step(worlds.expert_action()).terminated.all()
    worlds.close()
    plain.close()
    with pytest.raises(InputError, match=r"pictures of 24 px, env.image_size is 32"):
        open_worlds(recipe({"classifier": str(folder)}, observations="image", image_size=32), 1)


def test_a_classifier_of_another_camera_is_refused(tmp_path):
    require("egl")
    config = ClassifierConfig(image=ImageConfig(channels=[8], features=4, keypoints=4, crop=1.0))
    folder = save_classifier(tmp_path / "other", RewardClassifier(config, PointWorlds(1, images=True).spec), {})
    with pytest.raises(InputError, match=f"reads '{CAMERA}'"):
        open_worlds(recipe({"classifier": str(folder)}), 1)
    with pytest.raises(InputError, match="robopolicy reward"):
        open_worlds(recipe({"classifier": str(tmp_path)}), 1)


def test_what_happened_is_recorded_with_the_truth(tmp_path):
    """Every whole episode, cameras and final picture included; a false claim's last frame is no success, a true one's is."""

    def claims_early(obs):
        return np.linalg.norm(obs["observation.state"] - obs["observation.environment_state"], axis=1) < np.array([3 * REACHED, REACHED])

    points = PointWorlds(2, images=True, steps=25)
    shown = points.spec.subset(["observation.state", "observation.environment_state"])
    worlds = JudgedWorlds(points, claims_early, shown, EpisodeRecord(tmp_path / "claims", points.spec, "test/point", 2))
    results = [result for _, result in run(worlds, 40)]
    worlds.close()
    found = Dataset.open(tmp_path / "claims")
    ended = np.stack([r.terminated | r.truncated for r in results])
    assert found.num_episodes == ended.sum() == worlds.counts["episodes"] > 4
    assert found.num_frames == sum(int(np.flatnonzero(ended[:, w]).max()) + 1 + int(ended[:, w].sum()) for w in range(2))  # a frame more an episode
    frames = labelled(found)
    last = found.episode_starts[1:] - 1
    state, goal = (np.asarray(found.field(name)) for name in ("observation.state", "observation.environment_state"))
    assert np.array_equal(frames.label[last], np.linalg.norm(state[last] - goal[last], axis=1) < REACHED)
    assert frames.label[last].any() and not frames.label[last].all()
    assert set(frames.images(last)) == {CAMERA}
