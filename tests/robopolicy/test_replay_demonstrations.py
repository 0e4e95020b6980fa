"""Demonstrations in a replay: every frame a transition with its true successor, worth what the recipe says; pieces of who took over."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.noise import row_keys
from policies.normalize import Normalizer
from policies.spec import InputError
from robopolicy.data.dataset import Dataset
from robopolicy.training.off_policy import train
from robopolicy.training.off_policy_actor import Experience
from robopolicy.training.off_policy_config import OffPolicyTraining, ReplayConfig
from robopolicy.training.off_policy_learner import Learner
from robopolicy.training.replay import Replay
from robopolicy.training.replay_demonstrations import open_demonstrated
from robopolicy.training.replay_pieces import Pieces
from robopolicy.training.trial_worlds import JudgedWorlds, open_worlds
from tests.robopolicy.algos.off_policy_toys import rule as small_rule
from tests.robopolicy.off_policy_runs import outcome, recipe
from tests.robopolicy.small_runs import demonstrations

STATE = "observation.state"


def opened(path: Path | str, notes: list[str] | None = None, **changes: Any) -> Replay:
    """Return the demonstrations of a recipe for the two-route task, which ends at success."""
    wanted = recipe(
        Path("unused"), task="two-route", env={"max_episode_steps": None}, demonstrations={"path": str(path), **changes.pop("shown", {})}, **changes
    )
    env = open_worlds(wanted, 1)
    try:
        found = open_demonstrated(wanted, env.spec, False, (notes if notes is not None else []).append)
    finally:
        env.close()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset.open(demonstrations())


def test_demonstrated_actions_are_in_the_units_of_the_policy_that_learns(data):
    """A policy that came with its own normaliser acts in its own units: what was demonstrated must mean the same robot command."""
    dim = data.field("action").shape[1]
    own = Normalizer.fit({"action": {"min": np.full(dim, -0.5), "max": np.full(dim, 0.1)}}, {"action": "min_max"})
    wanted = recipe(Path("unused"), task="two-route", env={"max_episode_steps": None}, demonstrations={"path": str(data.path)})
    with contextlib.closing(open_worlds(wanted, 1)) as env:
        replay = open_demonstrated(wanted, env.spec, False, lambda text: None, own)
    assert replay is not None
    batch = replay.sample(row_keys(0, np.arange(500)))
    commands = own.unnormalize("action", batch.action).numpy()
    np.testing.assert_allclose(commands, data.field("action")[batch.index.numpy()].clip(-0.5, 0.1), atol=1e-6)


@pytest.mark.parametrize("reward", [{}, {"sparse": True}])
def test_every_frame_is_a_transition(data, reward):
    replay = opened(data.path, reward=reward)
    assert replay.size == data.num_frames and replay.worlds == 1
    batch = replay.sample(row_keys(0, np.arange(3000)))
    state, action = data.field(STATE), data.field("action")  # limits are -1 and 1: normalised units are robot units
    ends = set((data.episode_starts[1:] - 1).tolist())
    assert {i for i in batch.index.tolist() if i in ends} == ends
    for row, i in enumerate(batch.index.tolist()):
        np.testing.assert_array_equal(batch.obs[STATE][row], state[i])
        np.testing.assert_allclose(batch.action[row], action[i], atol=1e-6)
        assert float(batch.reward[row]) == float(i in ends)
        assert float(batch.discount[row]) == (0.0 if i in ends else np.float32(0.99))
        if i not in ends:
            np.testing.assert_array_equal(batch.next_obs[STATE][row], state[i + 1])


def test_the_first_episodes_alone(data):
    assert opened(data.path, shown={"episodes": 3}).size == data.episode_starts[3]
    with pytest.raises(InputError, match=r"training\.demonstrations\.episodes=11: data set .* has 10 episodes"):
        opened(data.path, shown={"episodes": 11})


def test_an_episode_that_was_stopped_is_cut_before_what_was_not_seen(tmp_path):
    """The cartpole never ends at success: its last frame has no successor, and the frame before it is no end."""
    from robopolicy.data.collect import collect

    collect("classic/cartpole", tmp_path / "data", episodes=2, workers=1, progress=False, max_episode_steps=30, only_success=False)
    dataset = Dataset.open(tmp_path / "data")
    wanted = recipe(tmp_path / "run", env={"max_episode_steps": 30}, demonstrations={"path": str(tmp_path / "data")})
    env = open_worlds(wanted, 1)
    replay = open_demonstrated(wanted, env.spec, False, lambda text: None)
    env.close()
    assert replay is not None and replay.size == dataset.num_frames - 2
    batch = replay.sample(row_keys(0, np.arange(500)))
    assert batch.discount.unique().tolist() == pytest.approx([0.99])
    lengths = np.diff(dataset.episode_starts) - 1
    starts = np.repeat(dataset.episode_starts[:-1] - np.arange(2), lengths)
    own = np.arange(replay.size) + (starts > 0)  # the frame of each transition: one was left out before the second episode
    np.testing.assert_array_equal(batch.next_obs[STATE], dataset.field(STATE)[own[batch.index.numpy()] + 1])


def test_without_rewards_success_at_the_end_is_worth_one(data, monkeypatch):
    notes: list[str] = []
    whole = Dataset.open

    def bare(path: Any, *rest: Any) -> Dataset:
        dataset = whole(path, *rest)
        dataset.arrays = {name: array for name, array in dataset.arrays.items() if not name.startswith("next.")}
        return dataset

    monkeypatch.setattr(Dataset, "open", bare)
    replay = opened(data.path, notes)
    batch = replay.sample(row_keys(0, np.arange(2000)))
    ends = np.isin(batch.index.numpy(), data.episode_starts[1:] - 1)
    np.testing.assert_array_equal(batch.reward, ends.astype(np.float32))
    np.testing.assert_array_equal(batch.discount.numpy() == 0.0, ends)
    assert "hold no rewards: the last step of an episode that succeeded is worth 1" in notes[0]


def test_what_cannot_be_learnt_from_is_refused(tmp_path, data):
    with pytest.raises(InputError, match=r"demonstrations nowhere do not exist; set training\.demonstrations\.collect=20"):
        opened("nowhere")
    with pytest.raises(InputError, match=r"observation field 'observation\.state' of demonstrations .* does not fit task 'classic/cartpole'"):
        train(recipe(tmp_path / "run", demonstrations={"path": str(data.path)}), progress=False)
    noisy = tmp_path / "noisy"
    shutil.copytree(data.path, noisy)
    own = next(path for path in noisy.rglob("*.json") if '"noise": 0.0' in path.read_text())
    own.write_text(own.read_text().replace('"noise": 0.0', '"noise": 0.5'))
    with pytest.raises(InputError, match=r"were collected with noise 0\.5, which their actions lack"):
        opened(noisy)


def test_demonstrations_are_collected_when_the_recipe_says_how_many(tmp_path):
    replay = opened(tmp_path / "new", shown={"collect": 2}, reward={"sparse": True})
    assert Dataset.open(tmp_path / "new").num_episodes == 2 and replay.size == Dataset.open(tmp_path / "new").num_frames


def test_a_collection_that_was_interrupted_is_finished_first(tmp_path):
    """It was learnt from as it was: 1 demonstration where the recipe says 3, and nothing said so."""
    from robopolicy.data.collect import collect

    collect("two-route", tmp_path / "begun", episodes=1, workers=1, progress=False)
    notes: list[str] = []
    replay = opened(tmp_path / "begun", notes, shown={"collect": 3}, reward={"sparse": True})
    found = Dataset.open(tmp_path / "begun")
    assert found.num_episodes == 3 and replay.size == found.num_frames and notes[0].startswith("collecting 3 demonstrations")


# In batches --------------------------------------------------------------------------------------------------------


def test_a_share_of_every_batch_is_demonstrated(data):
    config = OffPolicyTraining.model_validate({"batch_size": 10, "random_steps": 0, "demonstrations": {"path": str(data.path), "share": 0.3}})
    shown, own = opened(data.path), Replay(data.spec, 2, ReplayConfig(capacity=1000), 0.99)
    own.add({STATE: np.full((2, 2), 9.0)}, np.zeros((2, 2)), np.zeros(2), {STATE: np.full((2, 2), 9.0)}, np.zeros(2, bool), np.zeros(2, bool))
    learner = Learner(small_rule("rlpd", data.spec), own, config, 0, shown)
    for batch in learner._batches(0, 3, 0.0):
        assert (batch.obs[STATE][:7] == 9.0).all() and not (batch.obs[STATE][7:] == 9.0).any()
        assert (batch.index[7:] == -1).all() and (batch.index[:7] >= 0).all()


def test_a_run_with_demonstrations_repeats(tmp_path, data):
    changes: dict[str, Any] = {"task": "two-route", "steps": 40, "algo": {"type": "rlpd"}, "update_ratio": 2, "reward": {"sparse": True}}
    changes["demonstrations"] = {"path": str(data.path)}
    for name in "ab":
        train(recipe(tmp_path / name, **changes), progress=False)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


# Taking over -------------------------------------------------------------------------------------------------------


def test_pieces_of_who_took_over_become_demonstrations(data):
    replay, random = Replay(data.spec, 1, ReplayConfig(capacity=100, n_step=2), 0.9), np.random.default_rng(0)
    pieces, expected, obs = Pieces(replay), [], random.normal(size=(2, 2)).astype(np.float32)
    taken = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 0], [1, 0], [0, 0]], bool)
    for t, who in enumerate(taken):
        after = random.normal(size=(2, 2)).astype(np.float32)
        ended = np.array([t == 4, False])  # the second piece of world 0 ends with its episode, and another begins
        pieces.take(Experience({STATE: obs}, obs, np.array([t, 10 + t], np.float32), {STATE: after}, ended, np.zeros(2, bool), who))
        expected += [(w, t, obs[w], after[w]) for w in np.flatnonzero(who)]
        obs = after
    batch = replay.sample(row_keys(0, np.arange(400)))
    assert replay.size == len(expected) == 6
    returns = sorted({float(r) for r in batch.reward})
    # world 1: 10 + 0.9 * 11, 11. world 0: 1 + 0.9 * 2, 2; then 4, which ended; then 5 alone
    assert returns == pytest.approx([2.0, 2.8, 4.0, 5.0, 11.0, 19.9])
    for row, reward in enumerate(batch.reward.tolist()):
        assert float(batch.discount[row]) == pytest.approx(0.0 if reward == 4.0 else 0.81 if reward in (pytest.approx(19.9), pytest.approx(2.8)) else 0.9)
    last = batch.next_obs[STATE][int(np.flatnonzero(np.isclose(batch.reward.numpy(), 19.9))[0])]
    np.testing.assert_array_equal(last, expected[2][3])


def test_how_often_success_was_judged_wrongly_is_counted_over_the_whole_run():
    wanted = recipe(Path("unused"), reward={"sparse": True})
    with contextlib.closing(open_worlds(wanted, 2)) as before, contextlib.closing(open_worlds(wanted, 2)) as after:
        assert isinstance(before, JudgedWorlds) and isinstance(after, JudgedWorlds)
        before.counts.update(episodes=4, wrong=1, missed=2)
        after.recount(before.counted())
        assert after.metrics() == {"judged_wrongly": 0.25, "success_missed": 0.5}


def test_a_run_that_somebody_takes_over_goes_on_exactly(tmp_path, monkeypatch):
    from tests.robopolicy.test_off_policy_resume import break_at, cut_power

    changes: dict[str, Any] = {"steps": 120, "update_ratio": 0.2, "takeover": {"source": "expert", "share": 1.0, "after": 3, "hold": 4}}
    train(recipe(tmp_path / "unbroken", **changes), progress=False)
    wanted = recipe(tmp_path / "run", **changes)
    break_at(monkeypatch, wanted, 50, cut_power)
    assert train(wanted, progress=False).resumed_from == 80
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")  # the log's count of who took over too
    assert list((tmp_path / "run" / "state" / "replay" / "demonstrations").iterdir())
