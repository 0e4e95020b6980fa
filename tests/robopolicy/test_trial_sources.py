"""What a run of trial learns from beside its worlds is told by what is in it, not by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from policies import checkpoint, registry
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.training.reward_model import ClassifierConfig, RewardClassifier, save_classifier
from robopolicy.training.trial_sources import require_same_sources, sources_of
from sim.registry import make
from tests.robopolicy import off_policy_runs, on_policy_runs

PICTURE = Spec(ObservationSpec({"observation.images.eye": Field((16, 16, 3), "uint8", kind="image")}), ActionSpec({"force": Field((1,), kind="effort")}))


def classifier(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = ClassifierConfig.model_validate({"hidden": [4], "image": {"channels": [8], "features": 4}})
    return save_classifier(folder, RewardClassifier(config, PICTURE), {})


def teacher(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    spec = make("classic/cartpole").spec
    policy = registry.create("gaussian", registry.config_class("gaussian").model_validate({"hidden": [4]}), spec, limits_normalizer(spec))
    return checkpoint.save(folder, policy, recipe={}, extra={})


def test_another_classifier_or_teacher_in_the_same_place_is_refused(tmp_path: Path) -> None:
    for key, save, recipe in (
        ("training.reward.classifier", classifier, off_policy_runs.recipe(tmp_path / "a", reward={"classifier": str(tmp_path / "classifier")})),
        ("algo.teacher", teacher, on_policy_runs.recipe(tmp_path / "b", algo={"type": "distill", "teacher": str(tmp_path / "teacher")})),
    ):
        folder = tmp_path / key.rpartition(".")[2]
        save(folder, 0)
        facts = {"sources": sources_of(recipe)}
        assert list(facts["sources"]) == [key]
        save(folder, 0)
        require_same_sources(facts, sources_of(recipe), tmp_path)
        save(folder, 1)
        with pytest.raises(InputError, match=f"what {key} names has changed since this run began") as refused:
            require_same_sources(facts, sources_of(recipe), tmp_path)
        assert "\n" not in str(refused.value)
        assert sources_of(recipe, facts["sources"]) == facts["sources"], "what is known is looked for again"
        require_same_sources({}, sources_of(recipe), tmp_path)  # a state of before they were kept


def test_demonstrations_that_are_still_to_be_collected_are_left_out(tmp_path: Path) -> None:
    assert sources_of(off_policy_runs.recipe(tmp_path / "run", demonstrations={"path": str(tmp_path / "later"), "collect": 2})) == {}
