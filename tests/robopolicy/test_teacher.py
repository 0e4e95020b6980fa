"""``policy.teacher=CHECKPOINT or RUN`` in training: found, checked, recorded, and the same after an interruption."""

from __future__ import annotations

import shutil

import pytest
import torch

from policies import checkpoint
from policies.spec import InputError
from robopolicy.training.imitation import train
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from tests.robopolicy.small_runs import MLP, outcome, recipe


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of the flow policy on three episodes only: its normaliser is not that of all ten."""
    path = tmp_path_factory.mktemp("teacher") / "run"
    train(recipe(path, steps=60, checkpoint_every=60, data={"episodes": 3}), progress=False)
    return path


def taught(output, teacher, name="onestep", **changes):
    return recipe(output, {"type": name, "teacher": str(teacher), **MLP}, **{"steps": 21, **changes})


@pytest.mark.parametrize("name", ["onestep", "consistency"])
def test_a_student_goes_on_bit_for_bit(teacher, tmp_path, name):
    runs = [taught(tmp_path / folder, teacher, name) for folder in ("a", "b")]
    for wanted in runs:
        train(wanted, progress=False)
    RunFolder(runs[1].output).states_newest_first()[0][1].unlink()
    assert train(runs[1], progress=False).resumed_from == 14
    assert outcome(tmp_path / "a")[0] == outcome(tmp_path / "b")[0] and outcome(tmp_path / "a")[2] == outcome(tmp_path / "b")[2]
    student, source = checkpoint.load(find_checkpoint(tmp_path / "a")), checkpoint.load(find_checkpoint(teacher))
    assert all(torch.equal(source.normalizer.tensors()[key], value) for key, value in student.normalizer.tensors().items())
    assert student.config.teacher == str(find_checkpoint(teacher))


def test_a_teacher_that_changed_is_refused(teacher, tmp_path):
    copy = shutil.copytree(teacher, tmp_path / "copy")
    wanted = taught(tmp_path / "run", copy)
    train(wanted, progress=False)
    RunFolder(wanted.output).states_newest_first()[0][1].unlink()
    path = find_checkpoint(copy)
    other = checkpoint.load(path)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    checkpoint.save(path, other, recipe={}, extra={})
    with pytest.raises(InputError, match=r"policy\.teacher .* has changed since this run began"):
        train(wanted, progress=False)


def test_mistakes_are_found_before_anything_is_written(teacher, tmp_path):
    for wanted, words in (
        (taught(tmp_path / "run", tmp_path / "nothing"), "no such checkpoint or run"),
        (recipe(tmp_path / "run", {"type": "onestep", **MLP}), "policy 'onestep' learns from another policy: set policy.teacher"),
    ):
        with pytest.raises(InputError) as error:
            train(wanted, progress=False)
        assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_windows_that_differ_are_refused(teacher, tmp_path):
    with pytest.raises(InputError, match=r"its horizon is 16, the student's 20; set policy\.horizon to the teacher's"):
        train(recipe(tmp_path / "run", {"type": "onestep", "teacher": str(teacher), "horizon": 20, **MLP}, steps=5), progress=False)
