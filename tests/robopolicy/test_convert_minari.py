"""Minari data sets, made by Minari's own API."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from policies.spec import InputError
from robopolicy.data.convert.conversion import convert, detect
from robopolicy.data.convert.source import SourceOptions
from robopolicy.data.dataset import Dataset
from tests.robopolicy import recording

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # says that authors and permalinks are missing

LENGTHS = (6, 9, 4)
STATE = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTION = spaces.Box(np.array([-1, -2]), np.array([1, 2]), dtype=np.float32)
DICT = spaces.Dict({"observation": STATE, "desired_goal": spaces.Box(-1, 1, (2,), np.float64), "camera": spaces.Box(0, 255, (32, 32, 3), np.uint8)})
TWENTY = SourceOptions(fps=20)


def episode(index: int, length: int, goal: bool = False) -> EpisodeBuffer:
    random = np.random.default_rng(index)
    state = random.normal(size=(length + 1, 3))
    observations = state
    if goal:
        images = np.stack([recording.image(1, t) for t in range(length + 1)])
        observations = {"observation": state, "desired_goal": random.uniform(-1, 1, (length + 1, 2)), "camera": images}
    ended = [t == length - 1 for t in range(length)]
    return EpisodeBuffer(
        id=index,
        seed=70 + index,
        observations=observations if goal else list(observations),
        actions=list(random.uniform(-1, 1, (length, 2)).astype(np.float32)),
        rewards=list(random.normal(size=length)),
        terminations=[e and index != 1 for e in ended],
        truncations=[e and index == 1 for e in ended],
        infos={"success": [False] * length + [index != 1]},
    )


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make a data set in a folder of this test's own; returns its path."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def make(name: str = "toy/reach-v0", goal: bool = False, action_space: gymnasium.Space = ACTION, episodes=None) -> Path:
        episodes = episodes or [episode(i, n, goal) for i, n in enumerate(LENGTHS)]
        observation_space = DICT if goal else STATE
        minari.create_dataset_from_buffers(name, episodes, observation_space=observation_space, action_space=action_space, jpeg_encoding=False)
        return tmp_path / "minari" / name

    return make


@pytest.mark.parametrize("by_name", [False, True])
def test_every_frame_comes_over(tmp_path, installed, by_name):
    path = installed()
    assert detect(path) == "minari"
    convert("toy/reach-v0" if by_name else path, tmp_path / "out", "minari", options=TWENTY, progress=False)
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.episode_starts.tolist() == [0, 6, 15, 19] and dataset.fps == 20 and dataset.tasks == ["toy/reach-v0"]
    assert dataset.seeds.tolist() == [70, 71, 72] and dataset.success.tolist() == [1, 0, 1]
    for index, length in enumerate(LENGTHS):
        truth, found = episode(index, length), dataset.episode(index)
        assert np.array_equal(found["observation.state"], np.array(truth.observations[:-1], np.float32))
        assert np.array_equal(found["action"], np.array(truth.actions))
        assert np.array_equal(found["next.reward"].ravel(), np.array(truth.rewards, np.float32))
        assert np.array_equal(found["next.terminated"].ravel(), truth.terminations)
        assert found["next.done"].ravel().tolist() == [False] * (length - 1) + [True]
    assert np.array_equal(dataset.spec.action.low, [-1, -2]) and np.array_equal(dataset.spec.action.high, [1, 2])


def test_dictionaries_images_and_goals(tmp_path, installed):
    convert(installed(goal=True), tmp_path / "out", options=TWENTY, progress=False)
    dataset = Dataset.open(tmp_path / "out")
    fields = dataset.spec.observation.fields
    assert set(fields) == {"observation.state", "observation.desired_goal", "observation.images.camera"}
    assert fields["observation.desired_goal"].kind == "goal"
    for index, length in enumerate(LENGTHS):
        truth, found = episode(index, length, goal=True).observations, dataset.episode(index)
        assert np.array_equal(found["observation.state"], truth["observation"][:-1].astype(np.float32))
        assert np.array_equal(found["observation.desired_goal"], truth["desired_goal"][:-1].astype(np.float32))
        error = np.abs(found["observation.images.camera"].astype(int) - truth["camera"][:-1])
        assert error[:, 2:14, 2:14].max() <= 6 and error[:, 18:30, 18:30].max() <= 6  # lossy, away from edges


def test_keys_are_chosen(tmp_path, installed):
    convert(installed(goal=True), tmp_path / "out", options=SourceOptions(fps=20, keys=["desired_goal"], task="reach it"), progress=False)
    dataset = Dataset.open(tmp_path / "out")
    assert list(dataset.spec.observation.fields) == ["observation.desired_goal"] and dataset.tasks == ["reach it"]


def refused(tmp_path: Path, path: Path | str, options: SourceOptions = TWENTY) -> str:
    with pytest.raises(InputError) as error:
        convert(path, tmp_path / "out", "minari", options=options, progress=False)
    assert "\n" not in str(error.value) and {p.name for p in tmp_path.iterdir()} <= {"minari", "empty"}
    return str(error.value)


def test_refusals_are_named(tmp_path, installed):
    path = installed()
    assert "does not say its rate; give --fps" in refused(tmp_path, path, SourceOptions())
    assert "no observation 'state'" in refused(tmp_path, path, SourceOptions(fps=20, keys=["state"]))
    assert "neither a folder with data/main_data.hdf5 nor an installed name" in refused(tmp_path, "toy/no-such-v0")
    (tmp_path / "empty").mkdir()
    assert "no Minari data set" in refused(tmp_path, tmp_path / "empty")


def test_a_truncated_file_is_named(tmp_path, installed):
    path = installed()
    file = path / "data/main_data.hdf5"
    body = file.read_bytes()
    file.write_bytes(body[: len(body) // 2])
    assert str(path) in refused(tmp_path, path)


def test_discrete_actions_are_refused(tmp_path, installed):
    buffers = [EpisodeBuffer(0, 0, None, [np.zeros(3)] * 3, [0, 1], [0.0, 0.0], [False, True], [False, False])]
    path = installed("toy/discrete-v0", action_space=spaces.Discrete(2), episodes=buffers)
    assert "the action space holds a Discrete, expected Box" in refused(tmp_path, path)
