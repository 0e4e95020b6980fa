"""``init=CHECKPOINT``: weights and normaliser come from there, everything must fit, and a kill changes nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.spec import InputError, SpecMismatch
from robopolicy.data.collect import collect
from robopolicy.training.imitation import train
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from tests.robopolicy.small_runs import MLP, outcome, recipe


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run to begin from, trained on three episodes only: its normaliser is not that of all ten."""
    path = tmp_path_factory.mktemp("source") / "run"
    train(recipe(path, steps=300, batch_size=64, checkpoint_every=300, data={"episodes": 3}), progress=False)
    return path


def rate(value: float) -> dict:
    return {"lr": value, "warmup_steps": 0}


def test_weights_and_normaliser_come_from_the_checkpoint(source, tmp_path):
    notes: list[str] = []
    # an update so small that nothing moves: the weights are those that were loaded
    train(recipe(tmp_path / "run", steps=1, init=str(source), optimizer=rate(1e-30)), progress=False, note=notes.append)
    old, new = (checkpoint.load(find_checkpoint(run)) for run in (source, tmp_path / "run"))
    assert all(torch.equal(old.state_dict()[k], v) for k, v in new.state_dict().items())
    assert all(torch.equal(old.normalizer.tensors()[k], v) for k, v in new.normalizer.tensors().items())
    assert notes == [f"begins with the weights of {source}, and keeps its normaliser: it is not fitted to the new data"]


def test_fine_tuning_begins_better_than_nothing(source, tmp_path):
    shape = {"steps": 20, "batch_size": 64, "log_every": 1, "optimizer": rate(1e-4)}
    train(recipe(tmp_path / "tuned", init=str(find_checkpoint(source)), **shape), progress=False)
    train(recipe(tmp_path / "fresh", **shape), progress=False)
    tuned, fresh = (np.mean([row["loss"] for row in read_log(tmp_path / name, "train")]) for name in ("tuned", "fresh"))
    assert tuned < 0.8 * fresh


def test_a_killed_fine_tuning_needs_its_source_no_more(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    unbroken, broken = (recipe(tmp_path / name, steps=20, init=str(copy)) for name in ("a", "b"))
    for wanted in (unbroken, broken):
        train(wanted, progress=False)
    RunFolder(broken.output).states_newest_first()[0][1].unlink()
    shutil.rmtree(copy)
    assert train(broken, progress=False).resumed_from == 14
    assert outcome(tmp_path / "a")[0] == outcome(tmp_path / "b")[0]
    assert outcome(tmp_path / "a")[2] == outcome(tmp_path / "b")[2]


def test_another_type_is_refused(source, tmp_path):
    with pytest.raises(InputError, match=r"init .*: holds policy 'flow', the recipe trains 'regression'; use policy=flow"):
        train(recipe(tmp_path / "run", init=str(source), policy={"type": "regression"}), progress=False)


def test_another_size_is_refused(source, tmp_path):
    bigger = {**MLP, "mlp": {"width": 48, "blocks": 1}}
    with pytest.raises(InputError, match=r"init .*: '.*' has shape \(.*\), the recipe's policy has \(.*48.*\)"):
        train(recipe(tmp_path / "run", bigger, init=str(source)), progress=False)


def test_weights_that_mean_something_else_are_refused(source, tmp_path):
    for key, given, said in (("two_valued_scale", 0.1, "0.1"), ("actions", "delta", "'delta'")):
        with pytest.raises(InputError, match=rf"init .*: its {key} is (None|'absolute'), the recipe's {said}; set policy\.{key}"):
            train(recipe(tmp_path / "run", {**MLP, key: given}, init=str(source)), progress=False)


def test_data_that_does_not_fit_is_refused(source, tmp_path):
    collect("metaworld/push", tmp_path / "data", episodes=1, workers=1, progress=False, only_success=False, max_episode_steps=20)
    with pytest.raises(SpecMismatch) as caught:
        train(recipe(tmp_path / "run", task="metaworld/push", init=str(source), data={"path": str(tmp_path / "data")}), progress=False)
    assert "init" in str(caught.value) and "observation.state" in str(caught.value) and "\n" not in str(caught.value)
