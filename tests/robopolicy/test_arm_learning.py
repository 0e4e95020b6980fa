"""The arm can be learnt from its expert's demonstrations; shortly here, by the recipes themselves as a soak."""

from __future__ import annotations

from pathlib import Path

import pytest

from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import load_recipe
from robopolicy.training.imitation import train


def trained(recipe: str, tmp_path: Path, *overrides: str) -> Path:
    places = (f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'run'}", "data.workers=1")
    return train(load_recipe(recipe, [*places, *overrides]), progress=False).checkpoint


def successes(checkpoint: Path, task: str, episodes: int) -> int:
    found = evaluate(checkpoint, task, episodes=episodes, block=50, latency_calls=0, progress=False)
    return sum(e.success for e in found.episodes)


def test_reaching_is_learnt_in_seconds_and_a_tour_needs_a_planner(tmp_path: Path) -> None:
    short = ("data.collect=25", "training.steps=600", "training.optimizer.lr=2.0e-3")
    checkpoint = trained("arm_reach", tmp_path, *short)
    assert successes(checkpoint, "arm/reach", 25) >= 13
    assert successes(checkpoint, "arm/tour", 5) == 0  # who sees the last goal alone heads straight for it


@pytest.mark.soak
@pytest.mark.parametrize(("recipe", "task"), [("arm_reach", "arm/reach"), ("arm_push", "arm/push")])
def test_the_recipe_solves_four_fifths_of_unseen_states(recipe: str, task: str, tmp_path: Path) -> None:
    assert successes(trained(recipe, tmp_path), task, 100) >= 80
