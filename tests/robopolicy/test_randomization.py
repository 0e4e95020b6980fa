"""Randomised worlds in data sets and recipes: draws are recorded with every episode and repeat it bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.config import recipe_names
from robopolicy.data.collect import collect
from robopolicy.data.dataset import Dataset
from robopolicy.data.edit import merge
from robopolicy.evaluation.rollout import make_world
from robopolicy.randomization import read_drawn, read_section
from robopolicy.recipe import recipe_from_dict
from sim import registry
from sim.task import MujocoTask

SECTION = read_section("randomization/cartpole")
STEPS = 40


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "one"
    collect("cartpole", path, 5, workers=1, progress=False, extra_steps=STEPS, max_episode_steps=STEPS, only_success=False, randomize=SECTION)
    return path


def replayed(path: Path, dataset: Dataset, episode: int, section: dict) -> np.ndarray:
    """Return what a fresh world with other draws observes (T, 4) when the recorded ones are imposed on it."""
    env = registry.make("cartpole", 1, max_episode_steps=STEPS, randomize=section)
    assert isinstance(env, MujocoTask) and env.randomizer is not None
    drawn = read_drawn(path, episode)
    assert drawn is not None
    env.randomizer.impose(np.array([0]), {name: [value] for name, value in drawn.items()})
    seen = [env.reset(dataset.seeds[episode : episode + 1])["observation.state"][0]]
    seen += [env.step(action[None]).obs["observation.state"][0] for action in dataset.episode(episode)["action"][:-1]]
    env.close()
    return np.stack(seen)


def test_a_recorded_episode_is_repeated_bit_for_bit_from_its_draws(recorded: Path) -> None:
    dataset = Dataset.open(recorded)
    narrow = {**SECTION, "curriculum": {"level": 0.0}}  # by itself it would draw otherwise
    for episode in (0, 3):
        np.testing.assert_array_equal(replayed(recorded, dataset, episode, narrow), dataset.episode(episode)["observation.state"])
    first, second = (read_drawn(recorded, e) for e in (0, 1))
    assert first is not None and second is not None and first["model.mass:pole"] != second["model.mass:pole"]
    with pytest.raises(InputError, match="has episodes 0 to 4, not 9"):
        read_drawn(recorded, 9)


def test_evaluations_draw_from_the_whole_ranges_of_a_curriculum() -> None:
    section = read_section("randomization/curriculum")
    assert section["curriculum"]["level"] == 0.0  # at which nothing would differ
    env = make_world("cartpole", {"randomize": section}, 8)
    env.reset(np.arange(8))
    drawn = env.randomizer.drawn()  # type: ignore[attr-defined]
    assert (drawn["level"] == 1.0).all() and np.ptp(drawn["model.mass:pole"]) > 0.1 and drawn["actions.delay"].max() > 0.01
    env.close()
    plain = make_world("cartpole", {"randomize": {"curriculum": {}}}, 1)
    assert plain.randomizer is None  # type: ignore[attr-defined]
    plain.close()


def test_draws_stay_with_their_episodes_when_sets_are_merged(recorded: Path, tmp_path: Path) -> None:
    merge([recorded, recorded], tmp_path / "both")
    for episode in range(5):
        assert read_drawn(tmp_path / "both", 5 + episode) == read_drawn(recorded, episode)


def test_a_set_without_randomisation_has_no_draws(tmp_path: Path) -> None:
    collect("cartpole", tmp_path / "plain", 1, workers=1, progress=False, max_episode_steps=110)
    assert read_drawn(tmp_path / "plain", 0) is None
    with pytest.raises(InputError, match="was collected with randomize None"):
        collect("cartpole", tmp_path / "plain", 2, workers=1, progress=False, max_episode_steps=110, randomize=SECTION)
    with pytest.raises(InputError, match=r"randomize\.curriculum"):
        collect("cartpole", tmp_path / "other", 1, progress=False, randomize={"curriculum": {}})


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("randomization/")])
def test_installed_sections_fit_their_task(name: str) -> None:
    env = registry.make("cartpole", 8, randomize=read_section(name))
    env.reset(np.arange(8))
    seen = [env.step(np.zeros((8, 1), np.float32)).obs["observation.state"] for _ in range(5)]
    assert np.isfinite(seen).all()
    env.close()


def test_sections_are_found_below_env_at_the_top_or_alone(tmp_path: Path) -> None:
    section = "model: {mass:pole: {scale: [0.9, 1.1]}}"
    for text in (f"env: {{randomize: {{{section}}}}}", f"randomize: {{{section}}}", section):
        (tmp_path / "a.yaml").write_text(text)
        assert read_section(str(tmp_path / "a.yaml")) == {"model": {"mass:pole": {"scale": [0.9, 1.1]}}}
    (tmp_path / "a.yaml").write_text("env: {image_size: 96}")
    with pytest.raises(InputError, match="expected a section env: randomize:"):
        read_section(str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("randomize: {modle: {}}")
    with pytest.raises(InputError, match=r"a\.yaml: randomize: unknown key 'modle'; did you mean 'model'"):
        read_section(str(tmp_path / "a.yaml"))


def test_a_recipe_checks_its_section_before_anything_runs() -> None:
    values = {"task": "classic/cartpole", "policy": {"type": "regression"}, "env": {"randomize": {"actions": {"dely": 0.1}}}}
    with pytest.raises(InputError, match=r"key 'env\.randomize': unknown key 'actions\.dely'; did you mean 'delay'"):
        recipe_from_dict(values, "test")


def test_eval_in_randomised_worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "expert", "--task", "cartpole", "-n", "4", "--out", str(tmp_path), "-q"]
    assert main([*words, "--randomize", "randomization/cartpole"]) == 0
    (tmp_path / "bad.yaml").write_text("randomize: {model: {mass:poel: {scale: 2}}}")
    assert main([*words, "--randomize", str(tmp_path / "bad.yaml")]) == 2
    assert "no body 'poel'; did you mean 'pole'?" in capsys.readouterr().err
