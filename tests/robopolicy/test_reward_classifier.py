"""A reward classifier: labels by hand, areas by counting pairs, learning on a toy, resuming, and folders that vouch for themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.data.dataset import Dataset
from robopolicy.evaluation.statistics import wilson
from robopolicy.training import reward_model
from robopolicy.training.reward_classifier import ClassifierTraining, labelled, train_classifier
from robopolicy.training.reward_metrics import auroc, quality
from tests.require import require
from tests.robopolicy import point_world, recording
from tests.robopolicy.point_world import CAMERA, PointWorlds

SMALL = {"channels": [8, 16], "features": 16, "keypoints": 8, "crop": 1.0, "shift": 4}


def settings_of(**options) -> ClassifierTraining:
    values = {"steps": 150, "batch_size": 32, "save_every": 50, "lr": 3e-3, "model": {"image": SMALL, "hidden": [16]}}
    return ClassifierTraining.model_validate({**values, **options})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    return point_world.record(tmp_path_factory.mktemp("points") / "set", 24)


@pytest.fixture(scope="module")
def trained(recorded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "whole"
    train_classifier([recorded], folder, settings_of())
    return folder


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_area_under_the_curve_counts_pairs(rows):
    score, label = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in score[label] for b in score[~label]]
    assert auroc(score, label) == pytest.approx(np.mean(pairs)) if pairs else np.isnan(auroc(score, label))


def test_quality_by_hand():
    label = np.array([0, 0, 1, 1, 0, 0, 0, 0, 1], bool)
    episode = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    probability = np.array([0.1, 0.2, 0.4, 0.9, 0.1, 0.8, 0.7, 0.1, 0.2])
    found = quality(probability, label, episode)
    assert (found.frames, found.accuracy, found.balanced_accuracy) == (9, 5 / 9, pytest.approx((1 / 3 + 4 / 6) / 2))
    assert (found.found.count, found.found.total) == (1, 2)  # of the successful ones, the last is missed
    assert (found.false_alarms.count, found.false_alarms.total) == (2, 3)
    described = found.describe()["found"]
    assert (described["low"], described["high"]) == wilson(1, 2)


def test_a_frame_shows_success_after_the_step_that_brought_it(recorded):
    data = labelled(Dataset.open(recorded))
    state, goal = (np.asarray(data.dataset.field(f"observation.{name}")) for name in ("state", "environment_state"))
    near = np.linalg.norm(state - goal, axis=1) < point_world.REACHED
    begins = np.isin(np.arange(len(near)), data.dataset.episode_starts)
    assert np.array_equal(data.label[~begins], near[~begins]) and not data.label[begins].any()
    assert 20 < data.label.sum() < data.label.size - 20


def test_it_learns_what_success_looks_like_on_episodes_kept_aside(recorded, trained):
    about = reward_model.read_manifest(trained)["about"]
    found = about["quality"]
    data = Dataset.open(recorded)
    untrained = reward_model.RewardClassifier(settings_of().model, data.spec).eval()
    before = auroc(untrained.probability({CAMERA: np.asarray(data.field(CAMERA))}), labelled(data).label)
    assert before < 0.85 < 0.97 < found["auroc"], (before, found)
    assert found["balanced_accuracy"] > 0.88
    assert found["found"]["total"] >= 3 and found["found"]["low"] <= found["found"]["rate"] <= found["found"]["high"]
    assert about["held_out_frames"] + sum(about["frames"]) == data.num_frames
    worlds = PointWorlds(64, images=True)  # and in worlds that were never recorded
    obs = worlds.reset(np.arange(1000, 1064))
    for _ in range(4):
        obs = worlds.step(worlds.expert_action()).next_obs
    near = np.linalg.norm(worlds.point - worlds.goal, axis=1) < point_world.REACHED
    assert 10 < near.sum() < 64
    assert ((reward_model.load_classifier(trained).probability(obs) > 0.5) == near).mean() > 0.8


def test_a_run_that_was_stopped_gives_the_same_weights(recorded, trained, tmp_path):
    def stop(step: int, loss: float) -> None:
        if step == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier([recorded], tmp_path / "again", settings_of(), stop)
    torch.manual_seed(99)  # what torch has drawn before does not matter
    done = train_classifier([recorded], tmp_path / "again", settings_of())
    assert done.resumed_from == 50
    assert (tmp_path / "again/weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()
    with pytest.raises(InputError, match="other training"):
        train_classifier([recorded], tmp_path / "again", settings_of(lr=1e-4))


def test_a_folder_that_was_changed_is_refused(trained, tmp_path):
    model = reward_model.load_classifier(trained)
    obs = PointWorlds(3, images=True).reset(np.arange(3))
    assert np.array_equal(model.probability(obs), reward_model.load_classifier(trained).probability(obs))
    assert model.image_size == 32 and len(reward_model.fingerprint(trained)) == 16
    copy = shutil.copytree(trained, tmp_path / "copy")
    body = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(InputError, match=r"weights.safetensors was truncated or altered"):
        reward_model.load_classifier(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "kind": "else"}))
    with pytest.raises(InputError, match="expected kind"):
        reward_model.load_classifier(copy)
    with pytest.raises(InputError, match="robopolicy reward"):
        reward_model.load_classifier(tmp_path)


def test_what_cannot_be_learnt_from_is_said(recorded, tmp_path):
    unlabelled = recording.record(tmp_path / "unlabelled", 1, images=True)
    with pytest.raises(InputError, match="does not say which frames show success"):
        train_classifier([unlabelled], tmp_path / "out", settings_of())
    one = point_world.record(tmp_path / "one", 1)
    with pytest.raises(InputError, match="record more episodes of that kind"):
        train_classifier([one], tmp_path / "out", settings_of())
    with pytest.raises(InputError, match="is given twice"):  # what is learnt from in one of them would be judged on in the other
        train_classifier([recorded, recorded.parent / "." / ".." / recorded.parent.name / recorded.name], tmp_path / "out", settings_of(steps=1))
    with pytest.raises(InputError, match="is no camera"):
        reward_model.RewardClassifier(settings_of(model={"cameras": ["observation.state"], "image": SMALL}).model, Dataset.open(recorded).spec)
    with pytest.raises(InputError, match="no camera to read"):
        reward_model.RewardClassifier(settings_of().model, PointWorlds(1).spec)


def test_the_command_trains_and_says_how_well(recorded, tmp_path, capsys):
    out, file = tmp_path / "reward", tmp_path / "quality.json"
    assert main(["reward", str(recorded), "--out", str(out), "--steps", "3", "--batch", "8", "--json", str(file)]) == 0
    assert "area under the curve" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert written["quality"] == reward_model.read_manifest(out)["about"]["quality"] and written["training"]["steps"] == 3
    assert main(["reward", "--out", str(out)]) == 2
    assert main(["reward", "--collect", "2", "--out", str(out)]) == 2
    assert "--task" in capsys.readouterr().err
    twice = ["--noise", "0.5", "--noise", "0.50"]
    assert main(["reward", str(recorded), "--task", "arm/reach", "--collect", "2", *twice, "--out", str(out)]) == 2
    assert "--noise 0.5: given twice" in capsys.readouterr().err
    assert main(["reward", str(recorded), "--rounds", "2", "--out", str(out), "--steps", "3"]) == 2
    assert "--rounds: goes with --against" in capsys.readouterr().err
    assert main(["reward", str(recorded), "--image-size", "32", "--out", str(out), "--steps", "3"]) == 2
    assert "--image-size: goes with --collect" in capsys.readouterr().err


def test_rounds_against_a_learner_add_what_fooled_the_classifier(tmp_path, capsys):
    """A classifier that calls everything success is fooled in every episode of the first round; the second has seen that."""
    require("egl")
    recipe = {
        "task": "arm/reach",
        "env": {"max_episode_steps": 20},
        "algo": {"type": "sac", "hidden": [16]},
        "policy": {"hidden": [16], "activation": "relu"},
        "training": {
            "steps": 1,
            "worlds": 1,
            "random_steps": 30,
            "batch_size": 8,
            "update_ratio": 0.25,
            "threads": 1,
            "log_every": 20,
            "checkpoint_every": 1000,
        },
        "evaluation": {"episodes": 2, "block": 2},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    words = ["reward", "--task", "arm/reach", "--collect", "6", "--image-size", "24", "--noise", "0", "--noise", "2", "--workers", "1"]
    words += ["--against", str(tmp_path / "recipe.yaml"), "--rounds", "2", "--round-steps", "60", "--steps", "6", "--batch", "16", "--threshold", "0.02"]
    assert main([*words, "--out", str(tmp_path / "reward"), "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "round 1: " in said and "round 2: " in said
    found = json.loads((tmp_path / "found.json").read_text())["rounds"]
    assert found[0]["wrong"] > 0.5 and found[0]["successes"] == 0
    first = Dataset.open(tmp_path / "reward/rounds/1/episodes")
    assert first.num_episodes == found[0]["episodes"] > 5
    second = reward_model.read_manifest(tmp_path / "reward/rounds/2/classifier")["about"]["data"]
    assert second[str(first.path)] == first.fingerprint and len(second) == 3
    assert len(reward_model.read_manifest(tmp_path / "reward")["about"]["data"]) == 4
    assert main([*words, "--out", str(tmp_path / "reward")]) == 0  # all of it is there
    assert Dataset.open(first.path).fingerprint == first.fingerprint
