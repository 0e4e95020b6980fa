"""Co-scaling of a recipe's settings with the number of worlds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.recipe import load_recipe, recipe_from_dict
from robopolicy.training.log import read_log
from robopolicy.training.on_policy_config import OnPolicyTraining
from robopolicy.training.scaling import minibatch_size, scaled, updates_per_step
from robopolicy.training.trial import train

COUNTS = st.integers(1, 1 << 20)


def _training(worlds: int, reference: int | None, minibatches: int = 4) -> OnPolicyTraining:
    return OnPolicyTraining(worlds=worlds, reference_worlds=reference, minibatches=minibatches, rollout=24, lr=1e-3)


def test_nothing_is_scaled_that_was_not_asked_for() -> None:
    for training in (_training(64, None), _training(64, 64)):
        assert scaled(training) is training


def test_more_worlds_are_more_minibatches_of_the_same_size() -> None:
    """64 -> 4096 worlds: 64 times the samples of a rollout, 256 minibatches of 384 samples instead of 4."""
    before, after = _training(64, 64), scaled(_training(4096, 64))
    assert (after.minibatches, after.lr, after.reference_worlds) == (256, 1e-3, 4096)
    assert minibatch_size(after) == minibatch_size(before) == 384
    assert updates_per_step(after) == updates_per_step(before) == 5 * 4 / (64 * 24)
    changed = {"worlds", "minibatches", "reference_worlds"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)


def test_fewer_worlds_than_fill_a_minibatch_learn_slower() -> None:
    """64 -> 4 worlds: 4 / 16 minibatches are one of a quarter of the size, so half the learning rate."""
    after = scaled(_training(4, 64))
    assert (after.minibatches, after.lr) == (1, pytest.approx(5e-4))
    assert after.lr_range == pytest.approx((5e-6, 5e-3))
    assert minibatch_size(after) == 96


def test_a_part_of_a_minibatch_is_made_up_by_the_rate() -> None:
    """64 -> 100 worlds: 6.25 minibatches are 6 that are 1.0417 times as large."""
    after = scaled(_training(100, 64))
    assert after.minibatches == 6
    assert after.lr == pytest.approx(1e-3 * math.sqrt(6.25 / 6))
    assert minibatch_size(after) == pytest.approx(384 * 6.25 / 6)


@given(worlds=COUNTS, reference=COUNTS, minibatches=st.integers(1, 64))
def test_scaling_is_done_once(worlds: int, reference: int, minibatches: int) -> None:
    after = scaled(_training(worlds, reference, minibatches))
    assert scaled(after) == after
    assert OnPolicyTraining(**after.model_dump()) == after  # it is a valid section of a recipe
    # the noise of Adam's steps, lr^2 / batch, is what it was
    assert after.lr**2 / minibatch_size(after) == pytest.approx(1e-6 / (reference * 24 / minibatches))


@given(worlds=st.lists(COUNTS, min_size=2, max_size=6), reference=COUNTS)
def test_more_worlds_never_have_fewer_minibatches(worlds: list[int], reference: int) -> None:
    counts = [scaled(_training(n, reference)).minibatches for n in sorted(worlds)]
    assert counts == sorted(counts)


def test_a_resolved_recipe_is_not_scaled_again() -> None:
    values = {
        "task": "classic/cartpole",
        "algo": {"type": "ppo"},
        "training": {"worlds": 256, "reference_worlds": 64},
    }
    recipe = recipe_from_dict(values, "test")
    resolved = recipe.model_copy(update={"training": scaled(recipe.training)})
    again = recipe_from_dict(resolved.to_dict(), "test")
    assert again == resolved
    assert scaled(again.training) == resolved.training
    assert again.training.minibatches == 16


def test_a_run_is_repeated_by_its_resolved_recipe(tmp_path: Path) -> None:
    """What was scaled once stands in the run's recipe, is found again on resume, and trains the same again."""
    values = {
        "task": "classic/cartpole",
        "output": str(tmp_path / "first"),
        "algo": {"type": "ppo"},
        "policy": {"type": "gaussian", "hidden": [8]},
        "training": {"worlds": 8, "reference_worlds": 2, "minibatches": 1, "rollout": 8, "epochs": 1, "steps": 256, "threads": 1, "log_every": 1},
    }
    recipe = recipe_from_dict(values, "test")
    first = train(recipe, progress=False)
    written = load_recipe(str(tmp_path / "first" / "recipe.yaml"), [f"output={tmp_path / 'second'}"])
    assert (written.training.minibatches, written.training.reference_worlds) == (4, 8)
    notes: list[str] = []
    assert train(recipe, progress=False, note=notes.append).resumed_from == first.steps
    assert any("finished" in note for note in notes)
    train(written, progress=False)
    losses = [[row["loss"] for row in read_log(tmp_path / name, "train")] for name in ("first", "second")]
    assert len(losses[0]) == 4 and losses[0] == losses[1]
